/* groups.h: compressed weights (ART_GROUP16): blocks of `group` columns of 16 rows, each with its scales and zero
 * points before its codes, so that a product reads one stream. A code's row of 16 bytes holds 8 / bits columns,
 * the lower ones in the lower bits. A format is a number of bits: another one is a line in EACH_BITS. */
#ifndef RUNTIME_CPU_GROUPS_H
#define RUNTIME_CPU_GROUPS_H

#include "runtime/cpu/tile.h"

#define EACH_BITS(CASE) CASE(8) CASE(4) CASE(2)

typedef struct {
    V scale[NV], zero[NV];
    const uint8_t *codes;
} GroupHead;

INLINE size_t zero_bytes(const CpuGroups *g) {
    return g->zeros == ART_ZERO_FLOAT ? 4 : g->zeros == ART_ZERO_BYTE ? 1 : 0;
}
INLINE size_t block_bytes(const CpuGroups *g) {
    return 16 * (type_bytes(g->scale) + zero_bytes(g) + (size_t)g->group * g->bits / 8);
}
INLINE size_t panel_blocks(const CpuGroups *g, size_t k) { return (k + g->group - 1) / g->group; }

/* VW codes as integers. */
INLINE VU v_widen_bytes(const uint8_t *p) {
    typedef uint8_t VB __attribute__((vector_size(VW)));
    VB b;
    memcpy(&b, p, sizeof b);
#if CPU_LEVEL == 3
    return (VU)_mm512_cvtepu8_epi32((__m128i)b);
#elif CPU_LEVEL == 2
    return (VU)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
#else
    return __builtin_convertvector(b, VU);
#endif
}

INLINE GroupHead group_head(const CpuGroups *g, const char *block) {
    GroupHead h;
    const char *zeros = block + 16 * type_bytes(g->scale);
    UNROLL for (int j = 0; j < NV; j++) {
        h.scale[j] = v_load_as(g->scale, block, (size_t)(j * VW));
        h.zero[j] = v_set(g->zero);
        if (g->zeros == ART_ZERO_FLOAT) { h.zero[j] = v_load_as(ART_F32, zeros, (size_t)(j * VW)); }
        if (g->zeros == ART_ZERO_BYTE) {
            h.zero[j] = __builtin_convertvector((VI)v_widen_bytes((const uint8_t *)zeros + j * VW), V);
        }
    }
    h.codes = (const uint8_t *)zeros + 16 * zero_bytes(g);
    return h;
}

/* Column `sub` of a row of codes, less the zero points. */
INLINE V code_vector(int bits, const GroupHead *h, const uint8_t *row, int sub, int j) {
    VU c = v_widen_bytes(row + j * VW) >> (uint32_t)(sub * bits);
    if (sub + 1 < 8 / bits) { c &= (1u << bits) - 1; }
    return __builtin_convertvector((VI)c, V) - h->zero[j];
}

/* sums[16] += one row's k floats times a block. */
INLINE void group_dot(int bits, const CpuGroups *g, const char *block, const float *x, size_t k,
                      float *sums) {
    const int per = 8 / bits, rows = 4 / per;
    GroupHead h = group_head(g, block);
    V acc[4 * NV];
    UNROLL for (int i = 0; i < 4 * NV; i++) { acc[i] = v_zero(); }
    const uint8_t *row = h.codes;
    size_t i = 0;
    for (; i + 4 <= k; i += 4, row += (size_t)rows * 16) {
        UNROLL for (int s = 0; s < 4; s++) {
            V xs = v_set(x[i + (size_t)s]);
            UNROLL for (int j = 0; j < NV; j++) {
                acc[s * NV + j] =
                    v_fma(xs, code_vector(bits, &h, row + s / per * 16, s % per, j), acc[s * NV + j]);
            }
        }
    }
    for (; i < k; i++) {
        const uint8_t *last = h.codes + i / (size_t)per * 16;
        uint32_t shift = (uint32_t)(i % (size_t)per) * (uint32_t)bits;
        UNROLL for (int j = 0; j < NV; j++) {
            VU c = v_widen_bytes(last + j * VW) >> shift & ((1u << bits) - 1);
            acc[j] = v_fma(v_set(x[i]), __builtin_convertvector((VI)c, V) - h.zero[j], acc[j]);
        }
    }
    UNROLL for (int j = 0; j < NV; j++) {
        V all = (acc[j] + acc[NV + j]) + (acc[2 * NV + j] + acc[3 * NV + j]);
        v_store(sums + j * VW, v_fma(all, h.scale[j], v_load(sums + j * VW)));
    }
}

/* Columns k0 .. k0 + k of a panel as floats, [k][16]; k0 is a multiple of 4. */
INLINE void group_decode_bits(int bits, const CpuGroups *g, const char *panel, size_t k0, size_t k,
                              float *to) {
    const size_t per = (size_t)(8 / bits), end = k0 + k;
    for (size_t at = k0; at < end;) {
        GroupHead h = group_head(g, panel + at / g->group * block_bytes(g));
        size_t i = at % g->group, n = min_size(g->group - i, end - at);
        for (size_t stop = i + n; i < stop; i++, to += 16) {
            uint32_t shift = (uint32_t)(i % per) * (uint32_t)bits;
            UNROLL for (int j = 0; j < NV; j++) {
                VU c = v_widen_bytes(h.codes + i / per * 16 + j * VW) >> shift & ((1u << bits) - 1);
                v_store(to + j * VW, (__builtin_convertvector((VI)c, V) - h.zero[j]) * h.scale[j]);
            }
        }
        at += n;
    }
}

static void group_decode(const CpuGroups *g, const char *panel, size_t k0, size_t k, float *to) {
    switch (g->bits) {
#define CASE(b)                                                                                              \
    case b: group_decode_bits(b, g, panel, k0, k, to); break;
        EACH_BITS(CASE)
#undef CASE
    }
}

/* One row times n panels side by side, block by block: several streams from memory. */
static void group_row(const CpuGroups *g, const char *w, size_t n, size_t k, const float *x, float *sums) {
    size_t block = block_bytes(g), panel = panel_blocks(g, k) * block;
    memset(sums, 0, n * 16 * sizeof *sums);
    for (size_t k0 = 0; k0 < k; k0 += g->group, w += block) {
        size_t kc = min_size(g->group, k - k0);
        for (size_t p = 0; p < n; p++) {
            switch (g->bits) {
#define CASE(b)                                                                                              \
    case b: group_dot(b, g, w + p * panel, x + k0, kc, sums + p * 16); break;
                EACH_BITS(CASE)
#undef CASE
            }
        }
    }
}

/* Element (row, column) of a matrix of `cols` columns. */
INLINE float group_get(const CpuGroups *g, const char *w, size_t cols, size_t row, size_t col) {
    const char *block = w + (row / 16 * panel_blocks(g, cols) + col / g->group) * block_bytes(g);
    const char *zeros = block + 16 * type_bytes(g->scale);
    size_t i = col % g->group, lane = row % 16, per = 8 / g->bits;
    float scale[16], zero = g->zero;
    for (size_t j = 0; j < 16; j += VW) { v_store(scale + j, v_load_as(g->scale, block, j)); }
    if (g->zeros == ART_ZERO_FLOAT) { memcpy(&zero, zeros + lane * 4, sizeof zero); }
    if (g->zeros == ART_ZERO_BYTE) { zero = (float)(uint8_t)zeros[lane]; }
    uint32_t byte = (uint8_t)zeros[16 * zero_bytes(g) + i / per * 16 + lane];
    return ((float)(byte >> i % per * g->bits & ((1u << g->bits) - 1)) - zero) * scale[lane];
}

#endif
