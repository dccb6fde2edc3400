/* groups_int8.h: one row rounded to 8 bits times compressed weights, in integers.
 *
 * Eight columns of a panel are decoded at a time, as bytes with sign, and turned so that four columns of an output lie
 * side by side; a byte product wants one side without sign, so the weights' signs go to the row (maddubs). The
 * sums of a block are exact. */
#ifndef RUNTIME_CPU_GROUPS_INT8_H
#define RUNTIME_CPU_GROUPS_INT8_H

#include "runtime/cpu/groups.h"

#include <math.h>

/* clang-format off */
#define EACH_INT8(CASE)                                                                                      \
    CASE(2, INT) CASE(3, INT) CASE(4, INT) CASE(5, INT) CASE(6, INT) CASE(8, FLOAT) CASE(2, GRID)            \
    CASE(3, GRID) CASE(4, GRID) CASE(5, GRID)
/* clang-format on */
#define INT8_SPAN 8          /* columns */
#define INT8_GROUP (1 << 16) /* columns whose products an int32 surely holds */

/* A row in 8 bits: x is about code * step[column / group]. codes: with zeros up to a whole span. */
typedef struct {
    int8_t *codes;
    float *step;
} RowInt8;

/* The largest magnitude of n floats. */
INLINE float largest_of(const float *x, size_t n) {
    V most = v_zero();
    size_t i = 0;
    for (; i + VW <= n; i += VW) { most = v_max(most, v_abs(v_load(x + i))); }
    float m = v_largest(most);
    for (; i < n; i++) { m = fabsf(x[i]) > m ? fabsf(x[i]) : m; }
    return m;
}

/* What rounds n floats to 8 bits: x about rint(x * inverse) * step. */
typedef struct {
    float step, inverse;
} Rounding;
INLINE Rounding rounding_of(const float *x, size_t n) {
    float m = largest_of(x, n);
    return (Rounding){m / 127, m > 0 ? 127 / m : 0};
}

/* Rounds a row of k floats by groups: to[i * stride]. */
static void round_row(const float *x, size_t k, size_t group, float *to, size_t stride) {
    for (size_t at = 0; at < k; at += group) {
        size_t n = min_size(group, k - at);
        Rounding r = rounding_of(x + at, n);
        for (size_t i = at; i < at + n; i++) { to[i * stride] = rintf(x[i] * r.inverse) * r.step; }
    }
}

static void row_to_int8(const float *x, size_t k, size_t group, const RowInt8 *to) {
    for (size_t at = 0; at < k; at += group) {
        size_t n = min_size(group, k - at);
        Rounding r = rounding_of(x + at, n);
        to->step[at / group] = r.step;
        for (size_t i = at; i < at + n; i++) { to->codes[i] = (int8_t)rintf(x[i] * r.inverse); }
    }
    for (size_t i = k; i % INT8_SPAN; i++) { to->codes[i] = 0; }
}

/* Whether values but for their scale are bytes with sign, and groups whole spans. */
INLINE bool codes_are_int8(const CpuGroups *g) {
    Code code = code_of(g);
    bool middle = g->bits == 8 && g->zeros == ART_ZERO_SAME && g->zero == 128;
    return g->group % INT8_SPAN == 0 && g->group <= INT8_GROUP &&
           (code == CODE_INT || code == CODE_GRID || (code == CODE_FLOAT && middle));
}

#if CPU_LEVEL >= 2
typedef uint8_t B32 __attribute__((vector_size(32)));
typedef uint16_t W16 __attribute__((vector_size(32)));

INLINE B32 y_load(const uint8_t *p) {
    B32 b;
    memcpy(&b, p, sizeof b);
    return b;
}
INLINE B32 y_both(B16 low, B16 high) { return (B32)_mm256_set_m128i((__m128i)high, (__m128i)low); }
INLINE B32 y_bits(B32 x, int from, int to, uint32_t mask) {
    W16 moved = from >= to ? (W16)x >> (from - to) : (W16)x << (to - from);
    return (B32)moved & (B32)_mm256_set1_epi8((char)(mask << to));
}

/* Eight columns as four vectors of codes: y[i] holds column first[i] for 16 outputs, then another. `order` of
 * span_order says which. */
INLINE void span_codes(int bits, const uint8_t *p, B32 *y) {
    if (bits == 8) {
        for (int i = 0; i < 4; i++) { y[i] = y_load(p + 32 * i); }
    } else if (bits <= 3) {
        B32 low = y_load(p);
        UNROLL for (int i = 0; i < 4; i++) { y[i] = y_bits(low, 2 * i, 0, 3); }
        if (bits == 3) {
            B16 h = b_load(p + 32);
            B32 high = y_both(h, (B16)((W8)h >> 4));
            UNROLL for (int i = 0; i < 4; i++) { y[i] |= y_bits(high, i, 2, 1); }
        }
    } else {
        const uint8_t *second = p + (bits == 6 ? 48 : 32);
        y[0] = y_bits(y_load(p), 0, 0, 15), y[1] = y_bits(y_load(p), 4, 0, 15);
        y[2] = y_bits(y_load(second), 0, 0, 15), y[3] = y_bits(y_load(second), 4, 0, 15);
        if (bits == 5) {
            B16 h = b_load(p + 64);
            B32 high = y_both(h, (B16)((W8)h >> 2));
            UNROLL for (int i = 0; i < 4; i++) { y[i] |= y_bits(high, i / 2 * 4 + i % 2, 4, 1); }
        }
        if (bits == 6) {
            for (int u = 0; u < 2; u++) {
                B16 h = b_load(p + u * 48 + 32);
                B32 high = y_both(h, (B16)((W8)h >> 4));
                y[2 * u] |= y_bits(high, 0, 4, 3), y[2 * u + 1] |= y_bits(high, 2, 4, 3);
            }
        }
    }
}

/* Where the row's bytes go, so that they stand beside the columns of span_codes. */
INLINE __m256i span_order(int bits) {
    if (bits == 8) {
        return _mm256_set_epi32(0x07050301, 0x07050301, 0x07050301, 0x07050301, 0x06040200, 0x06040200,
                                0x06040200, 0x06040200);
    }
    if (bits <= 3) {
        return _mm256_set_epi32(0x07060504, 0x07060504, 0x07060504, 0x07060504, 0x03020100, 0x03020100,
                                0x03020100, 0x03020100);
    }
    return _mm256_set_epi32(0x07060302, 0x07060302, 0x07060302, 0x07060302, 0x05040100, 0x05040100,
                            0x05040100, 0x05040100);
}

INLINE B32 y_int8(int bits, Code code, B32 zero, const Grid *grid, B32 c) {
    if (code != CODE_GRID) { return c - zero; }
    __m256i low = _mm256_shuffle_epi8((__m256i)y_both(grid->low, grid->low), (__m256i)c);
    if (bits < 5) { return (B32)low; }
    __m256i high = _mm256_shuffle_epi8((__m256i)y_both(grid->high, grid->high), (__m256i)c);
    return (B32)_mm256_blendv_epi8(low, high, _mm256_slli_epi16((__m256i)c, 3));
}

/* sum += four columns of four outputs in each lane times the row's. */
INLINE __m256i quad_dot(__m256i sum, __m256i w, __m256i x) {
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* sums[16] = n columns, whole spans, of integers. */
INLINE void int8_dot(int bits, Code code, B16 zero, const Grid *grid, const uint8_t *codes, const int8_t *x,
                     size_t n, int32_t *sums) {
    const size_t bytes = (size_t)bits * 16;
    B32 zeros = y_both(zero, zero);
    __m256i acc[4], order = span_order(bits);
    UNROLL for (int i = 0; i < 4; i++) { acc[i] = _mm256_setzero_si256(); }
    for (size_t at = 0; at < n; at += INT8_SPAN, codes += bytes) {
        B32 y[4];
        int64_t eight;
        memcpy(&eight, x + at, sizeof eight);
        __m256i row = _mm256_shuffle_epi8(_mm256_set1_epi64x(eight), order);
        span_codes(bits, codes, y);
        UNROLL for (int i = 0; i < 4; i++) { y[i] = y_int8(bits, code, zeros, grid, y[i]); }
        __m256i a = _mm256_unpacklo_epi8((__m256i)y[0], (__m256i)y[1]),
                b = _mm256_unpacklo_epi8((__m256i)y[2], (__m256i)y[3]);
        __m256i c = _mm256_unpackhi_epi8((__m256i)y[0], (__m256i)y[1]),
                d = _mm256_unpackhi_epi8((__m256i)y[2], (__m256i)y[3]);
        acc[0] = quad_dot(acc[0], _mm256_unpacklo_epi16(a, b), row);
        acc[1] = quad_dot(acc[1], _mm256_unpackhi_epi16(a, b), row);
        acc[2] = quad_dot(acc[2], _mm256_unpacklo_epi16(c, d), row);
        acc[3] = quad_dot(acc[3], _mm256_unpackhi_epi16(c, d), row);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        __m128i s = _mm_add_epi32(_mm256_castsi256_si128(acc[i]), _mm256_extracti128_si256(acc[i], 1));
        memcpy(sums + 4 * i, &s, sizeof s);
    }
}
#else
INLINE void int8_dot(int bits, Code code, B16 zero, const Grid *grid, const uint8_t *codes, const int8_t *x,
                     size_t n, int32_t *sums) {
    const int unit = unit_columns(bits, code);
    memset(sums, 0, 16 * sizeof *sums);
    for (size_t at = 0; at < n; at += (size_t)unit, codes += unit_bytes(bits, code)) {
        for (int c = 0; c < unit; c++) {
            B16 b = unit_codes(bits, codes, c);
            b = code == CODE_GRID ? grid_bytes_of(bits, grid, b) : b - zero;
            for (int i = 0; i < 16; i++) { sums[i] += (int8_t)b[i] * x[at + (size_t)c]; }
        }
    }
}
#endif

/* sums[16] += a row's k columns of a block. */
INLINE void group_dot_int8(int bits, Code code, const CpuGroups *g, const Grid *grid, const char *panel,
                           const char *block, const int8_t *x, float step, size_t k, float *sums) {
    GroupHead h = group_head(code, g, panel, block);
    if (code == CODE_FLOAT) { h.bytes = b_set(128); }
    head_scale(g, CODE_FLOAT, panel, block, h.scale);
    int32_t whole[16];
    int8_dot(bits, code, h.bytes, grid, h.codes, x, (k + INT8_SPAN - 1) / INT8_SPAN * INT8_SPAN, whole);
    UNROLL for (int j = 0; j < NV; j++) {
        VI w;
        memcpy(&w, whole + j * VW, sizeof w);
        V scaled = __builtin_convertvector(w, V) * v_set(step);
        v_store(sums + j * VW, v_fma(scaled, h.scale[j], v_load(sums + j * VW)));
    }
}

/* One row in 8 bits times n panels side by side. */
static void group_row_int8(const CpuGroups *g, const Grid *grid, const char *w, size_t n, size_t k,
                           const RowInt8 *x, float *sums) {
    size_t block = block_bytes(g), panel = panel_bytes(g, k), at = panel_head(g);
    memset(sums, 0, n * 16 * sizeof *sums);
    for (size_t k0 = 0; k0 < k; k0 += g->group, at += block) {
        size_t kc = min_size(g->group, k - k0);
        float step = x->step[k0 / g->group];
        for (size_t p = 0; p < n; p++) {
            const char *from = w + p * panel;
            switch (CODE_KEY(g->bits, code_of(g))) {
#define CASE(b, c)                                                                                           \
    case CODE_KEY(b, CODE_##c):                                                                              \
        group_dot_int8(b, CODE_##c, g, grid, from, from + at, x->codes + k0, step, kc, sums + p * 16);       \
        break;
                EACH_INT8(CASE)
#undef CASE
            }
        }
    }
}

#endif
