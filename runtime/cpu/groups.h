/* groups.h: compressed weights (ART_GROUP16, laid out as artifact_groups.h says). Codes lie in units: rows of 16 bytes,
 * one byte an output, of as many columns as fill them; 3, 5 and 6 bits are planes of 2 + 1, 4 + 1 and 4 + 2.
 *
 * A column of a unit becomes 16 bytes of integers by shifts, masks and, for a grid of int8, a byte shuffle; these
 * are widened to floats. What a code means is its Code: another one is a line in EACH_CODE and a case of
 * unit_column. */
#ifndef RUNTIME_CPU_GROUPS_H
#define RUNTIME_CPU_GROUPS_H

#include "runtime/cpu/tile.h"

typedef enum {
    CODE_INT,   /* code - zero fits a byte: below 8 bits, and zero points are integers */
    CODE_FLOAT, /* code - zero as floats */
    CODE_GRID,  /* one of up to 32 int8 */
    CODE_F8,    /* float8 e4m3 */
    CODE_PAIRS, /* two and four fp16 */
    CODE_QUADS
} Code;
/* clang-format off */
#define EACH_CODE(CASE)                                                                                      \
    CASE(2, INT) CASE(3, INT) CASE(4, INT) CASE(5, INT) CASE(6, INT) CASE(2, FLOAT) CASE(4, FLOAT)           \
    CASE(8, FLOAT) CASE(2, GRID) CASE(3, GRID) CASE(4, GRID) CASE(5, GRID) CASE(8, F8) CASE(8, PAIRS)        \
    CASE(8, QUADS)
/* clang-format on */
#define CODE_KEY(bits, code) ((int)(bits)*8 + (int)(code))

typedef uint8_t B16 __attribute__((vector_size(16)));
typedef uint16_t W8 __attribute__((vector_size(16)));

INLINE B16 b_load(const void *p) {
    B16 b;
    memcpy(&b, p, sizeof b);
    return b;
}
INLINE B16 b_set(uint32_t x) {
    uint8_t y = (uint8_t)x;
    return (B16){y, y, y, y, y, y, y, y, y, y, y, y, y, y, y, y};
}
/* Bits `from`.. of each byte, at bit `to`, as many as `mask` keeps. */
INLINE B16 b_bits(B16 x, int from, int to, uint32_t mask) {
    W8 moved = from >= to ? (W8)x >> (from - to) : (W8)x << (to - from);
    return (B16)moved & b_set(mask << to);
}

/* ---- the layout ---- */

INLINE Code code_of(const CpuGroups *g) {
    switch (g->grid) {
    case ART_GRID_INT8: return CODE_GRID;
    case ART_GRID_F8: return CODE_F8;
    case ART_GRID_PAIRS: return CODE_PAIRS;
    case ART_GRID_QUADS: return CODE_QUADS;
    default: return g->bits == 8 || g->zeros == ART_ZERO_FLOAT ? CODE_FLOAT : CODE_INT;
    }
}
INLINE int code_vector(Code code) { return code == CODE_PAIRS ? 2 : code == CODE_QUADS ? 4 : 1; }
/* Columns of a unit, and its bytes. */
INLINE int unit_columns(int bits, Code code) {
    return (bits == 3 || bits == 5 ? 8 : bits == 6 ? 4 : 8 / bits) * code_vector(code);
}
INLINE size_t unit_bytes(int bits, Code code) {
    return (size_t)(bits * unit_columns(bits, code) / code_vector(code) * 2);
}
INLINE bool scale_coded(const CpuGroups *g) { return g->scale == ART_U8 || g->scale == ART_U6; }
INLINE size_t scale_bytes(const CpuGroups *g) { return scale_coded(g) ? 1 : type_bytes(g->scale); }
INLINE size_t zero_bytes(const CpuGroups *g) {
    return g->zeros == ART_ZERO_FLOAT ? 4 : g->zeros == ART_ZERO_BYTE ? 1 : 0;
}
INLINE size_t block_bytes(const CpuGroups *g) {
    Code code = code_of(g);
    size_t units = g->group / (size_t)unit_columns((int)g->bits, code);
    return 16 * (scale_bytes(g) + zero_bytes(g)) + units * unit_bytes((int)g->bits, code);
}
INLINE size_t panel_head(const CpuGroups *g) { return scale_coded(g) ? 32 : 0; }
INLINE size_t panel_bytes(const CpuGroups *g, size_t k) {
    return panel_head(g) + (k + g->group - 1) / g->group * block_bytes(g);
}
INLINE size_t grid_bytes(const CpuGroups *g) {
    return g->grid == ART_GRID_INT8    ? 64
           : g->grid == ART_GRID_PAIRS ? 1024
           : g->grid == ART_GRID_QUADS ? 2048
                                       : 0;
}

/* ---- grids ---- */

/* A tensor's grid, as the loops want it. Without vectors their floats are not set. */
typedef struct {
    B16 low, high;        /* int8: of codes below 16, and of the others */
    float vector[4][256]; /* column of a vector, code */
} Grid;

INLINE void grid_load(const CpuGroups *g, const char *tensor, Grid *to) {
    int v = code_vector(code_of(g));
    bool bytes = g->grid == ART_GRID_INT8;
    to->low = bytes ? b_load(tensor) : b_set(0), to->high = bytes ? b_load(tensor + 16) : b_set(0);
    for (int i = 0; v > 1 && i < 256 * v; i += VW) {
        float f[VW];
        v_store(f, v_load_as(ART_F16, tensor, (size_t)i));
        for (int j = 0; j < VW; j++) { to->vector[(i + j) % v][(i + j) / v] = f[j]; }
    }
}

/* The int8 of 16 codes below 16, or below 32. */
INLINE B16 grid_bytes_of(int bits, const Grid *grid, B16 code) {
#if CPU_LEVEL >= 2
    __m128i c = (__m128i)code, low = _mm_shuffle_epi8((__m128i)grid->low, c);
    if (bits < 5) { return (B16)low; }
    __m128i high = _mm_shuffle_epi8((__m128i)grid->high, c);
    return (B16)_mm_blendv_epi8(low, high, _mm_slli_epi16(c, 3)); /* by bit 4 */
#else
    uint8_t table[32];
    memcpy(table, &grid->low, 16), memcpy(table + 16, &grid->high, 16);
    (void)bits;
    B16 out = {0};
    for (int i = 0; i < 16; i++) { out[i] = table[code[i]]; }
    return out;
#endif
}

/* ---- to floats ---- */

/* Bytes as floats, NV vectors; signed ones times SIGNED_ONE, because AVX2 has them in the high byte of an integer: two
 * shuffles inside of lanes cost less than what widens across them. */
#if CPU_LEVEL == 2
#define SIGNED_ONE 0x1p24f
#else
#define SIGNED_ONE 1.0f
#endif
INLINE void v_from_bytes(bool sign, B16 b, V *out) {
#if CPU_LEVEL >= 3
    __m128i x = (__m128i)b;
    out[0] = (V)_mm512_cvtepi32_ps(sign ? _mm512_cvtepi8_epi32(x) : _mm512_cvtepu8_epi32(x));
#elif CPU_LEVEL == 2
    typedef uint32_t U8 __attribute__((vector_size(32)));
    const U8 first = {0, 1, 2, 3, 4, 5, 6, 7};
    U8 place = sign ? (first << 24) + 0x808080 : first + 0x80808000; /* a byte of 0x80 and above makes a 0 */
    __m256i x = _mm256_broadcastsi128_si256((__m128i)b);
    __m256i low = _mm256_shuffle_epi8(x, (__m256i)place);
    __m256i high = _mm256_shuffle_epi8(x, (__m256i)(sign ? place + (8u << 24) : place + 8));
    out[0] = (V)_mm256_cvtepi32_ps(low);
    out[1] = (V)_mm256_cvtepi32_ps(high);
#else
    for (int j = 0; j < NV; j++) {
        VI w = {0};
        for (int i = 0; i < VW; i++) { w[i] = sign ? (int8_t)b[j * VW + i] : b[j * VW + i]; }
        out[j] = __builtin_convertvector(w, V);
    }
#endif
}

/* Float8 e4m3 as floats over 256: their bits are those of an fp16 with another bias. */
INLINE void v_from_f8(B16 b, V *out) {
#if CPU_LEVEL >= 3
    __m256i h = _mm256_slli_epi16(_mm256_cvtepu8_epi16((__m128i)b), 8);
    h = _mm256_and_si256(_mm256_srai_epi16(h, 1), _mm256_set1_epi16((short)0xbf80));
    out[0] = v_from_f16((VH)h);
#elif CPU_LEVEL == 2
    __m128i zero = _mm_setzero_si128(), keep = _mm_set1_epi16((short)0xbf80);
    __m128i low = _mm_unpacklo_epi8(zero, (__m128i)b), high = _mm_unpackhi_epi8(zero, (__m128i)b);
    out[0] = v_from_f16((VH)_mm_and_si128(_mm_srai_epi16(low, 1), keep));
    out[1] = v_from_f16((VH)_mm_and_si128(_mm_srai_epi16(high, 1), keep));
#else
    for (int j = 0; j < NV; j++) {
        VH h = {0};
        for (int i = 0; i < VW; i++) { h[i] = b[j * VW + i]; }
        out[j] = v_from_f16((h << 7 & 0x3f80) | (h << 8 & 0x8000));
    }
#endif
}

INLINE void v_from_table(const float *table, B16 code, V *out) {
#if CPU_LEVEL >= 3
    out[0] = (V)_mm512_i32gather_ps(_mm512_cvtepu8_epi32((__m128i)code), table, 4);
#elif CPU_LEVEL == 2
    __m128i x = (__m128i)code;
    out[0] = (V)_mm256_i32gather_ps(table, _mm256_cvtepu8_epi32(x), 4);
    out[1] = (V)_mm256_i32gather_ps(table, _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(x, x)), 4);
#else
    for (int j = 0; j < NV; j++) {
        V v = {0};
        for (int i = 0; i < VW; i++) { v[i] = table[code[j * VW + i]]; }
        out[j] = v;
    }
#endif
}

/* What stands before a block's codes. */
typedef struct {
    V scale[NV], zero[NV]; /* zero: of CODE_FLOAT */
    B16 bytes;             /* zero points of CODE_INT */
    const uint8_t *codes;
} GroupHead;

INLINE void head_scale(const CpuGroups *g, Code code, const char *panel, const char *block, V *scale) {
    if (scale_coded(g)) {
        v_from_bytes(false, b_load(block) & b_set(g->scale == ART_U6 ? 63 : 255), scale);
        UNROLL for (int j = 0; j < NV; j++) { scale[j] *= v_load_as(ART_F16, panel, (size_t)(j * VW)); }
    } else {
        UNROLL for (int j = 0; j < NV; j++) { scale[j] = v_load_as(g->scale, block, (size_t)(j * VW)); }
    }
    float one = code == CODE_F8 ? 1 / 256.0f : code == CODE_INT || code == CODE_GRID ? SIGNED_ONE : 1;
    UNROLL for (int j = 0; j < NV; j++) { scale[j] *= v_set(1 / one); }
}

INLINE GroupHead group_head(Code code, const CpuGroups *g, const char *panel, const char *block) {
    GroupHead h;
    const char *zeros = block + 16 * scale_bytes(g);
    head_scale(g, code, panel, block, h.scale);
    h.bytes = b_set((uint32_t)g->zero);
    if (g->zeros == ART_ZERO_BYTE) { h.bytes = b_load(zeros); }
    if (g->zeros == ART_ZERO_HIGH) { h.bytes = b_bits(b_load(block), 6, 0, 3); }
    if (code == CODE_FLOAT) { v_from_bytes(false, h.bytes, h.zero); }
    UNROLL for (int j = 0; j < NV; j++) {
        if (code == CODE_FLOAT && g->zeros == ART_ZERO_FLOAT) {
            h.zero[j] = v_load_as(ART_F32, zeros, (size_t)(j * VW));
        }
    }
    h.codes = (const uint8_t *)zeros + 16 * zero_bytes(g);
    return h;
}

/* 16 codes of column c of a unit; of a vector's columns all the same. */
INLINE B16 unit_codes(int bits, const uint8_t *unit, int c) {
    if (bits == 3) {
        return b_bits(b_load(unit + c / 4 * 16), c % 4 * 2, 0, 3) | b_bits(b_load(unit + 32), c, 2, 1);
    }
    if (bits == 5) {
        return b_bits(b_load(unit + c / 2 * 16), c % 2 * 4, 0, 15) | b_bits(b_load(unit + 64), c, 4, 1);
    }
    if (bits == 6) {
        return b_bits(b_load(unit + c / 2 * 16), c % 2 * 4, 0, 15) | b_bits(b_load(unit + 32), 2 * c, 4, 3);
    }
    return bits == 8 ? b_load(unit) : b_bits(b_load(unit), c * bits, 0, (1u << bits) - 1);
}

/* Column c of a unit as floats, but for the scale. */
INLINE void unit_column(int bits, Code code, const GroupHead *h, const Grid *grid, const uint8_t *unit, int c,
                        V *out) {
    B16 b = unit_codes(bits, unit, c);
    switch (code) {
    case CODE_INT: v_from_bytes(true, b - h->bytes, out); break;
    case CODE_FLOAT:
        v_from_bytes(false, b, out);
        UNROLL for (int j = 0; j < NV; j++) { out[j] -= h->zero[j]; }
        break;
    case CODE_GRID: v_from_bytes(true, grid_bytes_of(bits, grid, b), out); break;
    case CODE_F8: v_from_f8(b, out); break;
    case CODE_PAIRS:
    case CODE_QUADS: v_from_table(grid->vector[c], b, out); break;
    }
}

/* ---- products ---- */

/* sums[16] += one row's k floats times a block. */
INLINE void group_dot(int bits, Code code, const CpuGroups *g, const Grid *grid, const char *panel,
                      const char *block, const float *x, size_t k, float *sums) {
    const int unit = unit_columns(bits, code), step = unit > 4 ? unit : 4;
    const size_t bytes = unit_bytes(bits, code);
    GroupHead h = group_head(code, g, panel, block);
    V acc[4 * NV];
    UNROLL for (int i = 0; i < 4 * NV; i++) { acc[i] = v_zero(); }
    size_t i = 0;
    for (; i + (size_t)step <= k; i += (size_t)step, h.codes += (size_t)(step / unit) * bytes) {
        UNROLL for (int s = 0; s < step; s++) {
            V w[NV], xs = v_set(x[i + (size_t)s]);
            unit_column(bits, code, &h, grid, h.codes + (size_t)(s / unit) * bytes, s % unit, w);
            UNROLL for (int j = 0; j < NV; j++) {
                acc[s % 4 * NV + j] = v_fma(xs, w[j], acc[s % 4 * NV + j]);
            }
        }
    }
    for (; i < k; i += (size_t)unit, h.codes += bytes) {
        UNROLL for (int s = 0; s < unit; s++) {
            V w[NV], xs = v_set(i + (size_t)s < k ? x[i + (size_t)s] : 0);
            unit_column(bits, code, &h, grid, h.codes, s, w);
            UNROLL for (int j = 0; j < NV; j++) { acc[j] = v_fma(xs, w[j], acc[j]); }
        }
    }
    UNROLL for (int j = 0; j < NV; j++) {
        V all = (acc[j] + acc[NV + j]) + (acc[2 * NV + j] + acc[3 * NV + j]);
        v_store(sums + j * VW, v_fma(all, h.scale[j], v_load(sums + j * VW)));
    }
}

/* Column c of a unit, scaled, to 16 floats. */
INLINE void column_store(int bits, Code code, const GroupHead *h, const Grid *grid, int c, float *to) {
    V w[NV];
    unit_column(bits, code, h, grid, h->codes, c, w);
    UNROLL for (int j = 0; j < NV; j++) { v_store(to + j * VW, w[j] * h->scale[j]); }
}

/* Columns k0 .. k0 + k of a panel as floats, [k][16]; k0 is a multiple of 8. */
INLINE void group_decode_code(int bits, Code code, const CpuGroups *g, const Grid *grid, const char *panel,
                              size_t k0, size_t k, float *to) {
    const int unit = unit_columns(bits, code);
    const size_t bytes = unit_bytes(bits, code), end = k0 + k;
    for (size_t at = k0; at < end;) {
        GroupHead h = group_head(code, g, panel, panel + panel_head(g) + at / g->group * block_bytes(g));
        size_t in = at % g->group, left = min_size(g->group - in, end - at);
        at += left;
        h.codes += in / (size_t)unit * bytes;
        for (; left >= (size_t)unit; left -= (size_t)unit, h.codes += bytes) {
            UNROLL for (int s = 0; s < unit; s++, to += 16) { column_store(bits, code, &h, grid, s, to); }
        }
        for (int s = 0; s < (int)left; s++, to += 16) { column_store(bits, code, &h, grid, s, to); }
    }
}

static inline void group_decode(const CpuGroups *g, const Grid *grid, const char *panel, size_t k0, size_t k,
                                float *to) {
    switch (CODE_KEY(g->bits, code_of(g))) {
#define CASE(b, c)                                                                                           \
    case CODE_KEY(b, CODE_##c): group_decode_code(b, CODE_##c, g, grid, panel, k0, k, to); break;
        EACH_CODE(CASE)
#undef CASE
    }
}

/* One row times n panels side by side, block by block: several streams from memory. */
static inline void group_row(const CpuGroups *g, const Grid *grid, const char *w, size_t n, size_t k,
                             const float *x, float *sums) {
    size_t block = block_bytes(g), panel = panel_bytes(g, k), at = panel_head(g);
    memset(sums, 0, n * 16 * sizeof *sums);
    for (size_t k0 = 0; k0 < k; k0 += g->group, at += block) {
        size_t kc = min_size(g->group, k - k0);
        for (size_t p = 0; p < n; p++) {
            const char *from = w + p * panel;
            switch (CODE_KEY(g->bits, code_of(g))) {
#define CASE(b, c)                                                                                           \
    case CODE_KEY(b, CODE_##c):                                                                              \
        group_dot(b, CODE_##c, g, grid, from, from + at, x + k0, kc, sums + p * 16);                         \
        break;
                EACH_CODE(CASE)
#undef CASE
            }
        }
    }
}

/* Row `row` of a matrix of `cols` columns: its panel is decoded a piece at a time, and one lane kept. */
static inline void group_get_row(const CpuGroups *g, const char *tensor, size_t cols, size_t row,
                                 float *out) {
    enum { PIECE = 64 };
    float wide[PIECE * 16];
    Grid grid;
    grid_load(g, tensor, &grid);
    const char *panel = tensor + grid_bytes(g) + row / 16 * panel_bytes(g, cols);
    for (size_t k0 = 0; k0 < cols; k0 += PIECE) {
        size_t k = min_size(PIECE, cols - k0);
        group_decode(g, &grid, panel, k0, k, wide);
        for (size_t i = 0; i < k; i++) { out[k0 + i] = wide[i * 16 + row % 16]; }
    }
}

#endif
