/* groups_int8.h: one row rounded to 8 bits times compressed weights, in integers.
 *
 * Eight columns of a panel are decoded at a time, as bytes with sign, and turned so that four columns of an output lie
 * side by side; a byte product wants one side without sign: either the weights' signs go to the row (maddubs), or, with
 * VNNI, the weights are made positive by a base and the row's sum times that is taken off again. The sums of a block
 * are exact, so that all levels find the same. */
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
static inline void round_row(const float *x, size_t k, size_t group, float *to, size_t stride) {
    for (size_t at = 0; at < k; at += group) {
        size_t n = min_size(group, k - at);
        Rounding r = rounding_of(x + at, n);
        for (size_t i = at; i < at + n; i++) { to[i * stride] = rintf(x[i] * r.inverse) * r.step; }
    }
}

static inline void row_to_int8(const float *x, size_t k, size_t group, const RowInt8 *to) {
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
#if CPU_LEVEL == 2
#define SPANS 1 /* a vector holds 32 bytes of so many spans */
#define MM(op) _mm256_##op
typedef __m256i YI;
#else
#define SPANS 2
#define MM(op) _mm512_##op
typedef __m512i YI;
#endif
#define UNSIGNED_WEIGHTS (CPU_LEVEL == 4)
typedef uint8_t Y __attribute__((vector_size(32 * SPANS)));
typedef uint16_t YW __attribute__((vector_size(32 * SPANS)));

/* Codes of SPANS spans, the second `next` bytes after the first. */
typedef struct {
    const uint8_t *at;
    size_t next;
} Spans;

INLINE __m256i span_load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
/* 16 bytes, and the same moved down so many bits. */
INLINE __m256i span_moved(const uint8_t *p, int down) {
    W8 h = (W8)b_load(p);
    return _mm256_set_m128i((__m128i)(h >> down), (__m128i)h);
}

#if SPANS == 1
INLINE Y y_join(__m256i span, __m256i next) { return (void)next, (Y)span; }
INLINE Y y_all(B16 b) { return (Y)_mm256_broadcastsi128_si256((__m128i)b); }
INLINE Y y_select(Y bit7, Y a, Y b) { return (Y)_mm256_blendv_epi8((__m256i)b, (__m256i)a, (__m256i)bit7); }
INLINE __m256i y_fold(YI v) { return v; }
/* One span of a row, or two, again and again. */
INLINE YI row_bytes(const int8_t *x, bool two) {
    int64_t span;
    memcpy(&span, x, sizeof span);
    return (void)two, _mm256_set1_epi64x(span);
}
#else
INLINE Y y_join(__m256i span, __m256i next) {
    return (Y)_mm512_inserti64x4(_mm512_castsi256_si512(span), next, 1);
}
INLINE Y y_all(B16 b) { return (Y)_mm512_broadcast_i32x4((__m128i)b); }
INLINE Y y_select(Y bit7, Y a, Y b) {
    return (Y)_mm512_mask_blend_epi8(_mm512_movepi8_mask((__m512i)bit7), (__m512i)b, (__m512i)a);
}
INLINE __m256i y_fold(YI v) {
    return _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
}
INLINE YI row_bytes(const int8_t *x, bool two) {
    __m128i span = two ? _mm_loadu_si128((const __m128i *)x) : _mm_loadl_epi64((const __m128i *)x);
    return _mm512_broadcast_i32x4(span);
}
#endif
/* The sums of lanes of 16 bytes, of a and of b. */
INLINE __m256i lanes_sum(__m256i a, __m256i b) {
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}

INLINE Y y_load(Spans s, int at) { return y_join(span_load(s.at + at), span_load(s.at + s.next + at)); }
INLINE Y y_moved(Spans s, int at, int down) {
    return y_join(span_moved(s.at + at, down), span_moved(s.at + s.next + at, down));
}
INLINE Y y_bits(Y x, int from, int to, uint32_t mask) {
    YW moved = from >= to ? (YW)x >> (from - to) : (YW)x << (to - from);
    return (Y)moved & (Y)MM(set1_epi8)((char)(mask << to));
}

/* Eight columns as four vectors of codes: y[i] holds column first[i] for 16 outputs, then another. `order` of
 * span_order says which. */
INLINE void span_codes(int bits, Spans s, Y *y) {
    if (bits == 8) {
        for (int i = 0; i < 4; i++) { y[i] = y_load(s, 32 * i); }
    } else if (bits <= 3) {
        Y low = y_load(s, 0);
        UNROLL for (int i = 0; i < 4; i++) { y[i] = y_bits(low, 2 * i, 0, 3); }
        if (bits == 3) {
            Y high = y_moved(s, 32, 4);
            UNROLL for (int i = 0; i < 4; i++) { y[i] |= y_bits(high, i, 2, 1); }
        }
    } else {
        Y first = y_load(s, 0), second = y_load(s, bits == 6 ? 48 : 32);
        y[0] = y_bits(first, 0, 0, 15), y[1] = y_bits(first, 4, 0, 15);
        y[2] = y_bits(second, 0, 0, 15), y[3] = y_bits(second, 4, 0, 15);
        if (bits == 5) {
            Y high = y_moved(s, 64, 2);
            UNROLL for (int i = 0; i < 4; i++) { y[i] |= y_bits(high, i / 2 * 4 + i % 2, 4, 1); }
        }
        if (bits == 6) {
            for (int u = 0; u < 2; u++) {
                Y high = y_moved(s, u * 48 + 32, 4);
                y[2 * u] |= y_bits(high, 0, 4, 3), y[2 * u + 1] |= y_bits(high, 2, 4, 3);
            }
        }
    }
}

/* Where the row's bytes go, so that they stand beside the columns of span_codes. */
INLINE YI span_order(int bits) {
    int low = bits == 8 ? 0x06040200 : bits <= 3 ? 0x03020100 : 0x05040100;
    int high = bits == 8 ? 0x07050301 : bits <= 3 ? 0x07060504 : 0x07060302;
    __m256i order = _mm256_set_epi32(high, high, high, high, low, low, low, low);
    return (YI)y_join(order, _mm256_add_epi8(order, _mm256_set1_epi8(INT8_SPAN)));
}

/* The weights of codes c, or with UNSIGNED_WEIGHTS what is their base more: `zero`, of a grid 128. */
INLINE Y y_weights(int bits, Code code, Y zero, const Grid *grid, Y c) {
    if (code != CODE_GRID) { return UNSIGNED_WEIGHTS ? c : c - zero; }
    B16 base = b_set(UNSIGNED_WEIGHTS ? 128 : 0);
    Y low = (Y)MM(shuffle_epi8)((YI)y_all(grid->low ^ base), (YI)c);
    if (bits < 5) { return low; }
    Y high = (Y)MM(shuffle_epi8)((YI)y_all(grid->high ^ base), (YI)c);
    return y_select((Y)((YW)c << 3), high, low);
}

/* sum += four columns of four outputs in each lane times the row's. */
INLINE YI quad_dot(YI sum, YI w, YI x) {
#if UNSIGNED_WEIGHTS
    return _mm512_dpbusd_epi32(sum, w, x);
#else
#if CPU_LEVEL == 2
    YI turned = _mm256_sign_epi8(x, w);
#else
    YI turned = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
#endif
    YI pairs = MM(maddubs_epi16)(MM(abs_epi8)(w), turned);
    return MM(add_epi32)(sum, MM(madd_epi16)(pairs, MM(set1_epi16)(1)));
#endif
}

/* sums[16] = n columns, whole spans, of integers. */
INLINE void int8_dot(int bits, Code code, B16 zero, const Grid *grid, const uint8_t *codes, const int8_t *x,
                     size_t n, VI *sums) {
    const size_t bytes = (size_t)bits * 16;
    Y zeros = y_all(zero);
    YI acc[4], order = span_order(bits);
    UNROLL for (int i = 0; i < 4; i++) { acc[i] = (YI){0}; }
#if UNSIGNED_WEIGHTS
    YI row_sum = {0};
#endif
    for (size_t at = 0; at < n; at += SPANS * INT8_SPAN, codes += SPANS * bytes) {
        Y y[4];
        bool two = SPANS == 2 && at + INT8_SPAN < n; /* else the first counts twice, once times 0 */
        YI row = MM(shuffle_epi8)(row_bytes(x + at, two), order);
        span_codes(bits, (Spans){codes, two ? bytes : 0}, y);
        UNROLL for (int i = 0; i < 4; i++) { y[i] = y_weights(bits, code, zeros, grid, y[i]); }
        YI a = MM(unpacklo_epi8)((YI)y[0], (YI)y[1]), b = MM(unpacklo_epi8)((YI)y[2], (YI)y[3]);
        YI c = MM(unpackhi_epi8)((YI)y[0], (YI)y[1]), d = MM(unpackhi_epi8)((YI)y[2], (YI)y[3]);
        acc[0] = quad_dot(acc[0], MM(unpacklo_epi16)(a, b), row);
        acc[1] = quad_dot(acc[1], MM(unpackhi_epi16)(a, b), row);
        acc[2] = quad_dot(acc[2], MM(unpacklo_epi16)(c, d), row);
        acc[3] = quad_dot(acc[3], MM(unpackhi_epi16)(c, d), row);
#if UNSIGNED_WEIGHTS
        row_sum = quad_dot(row_sum, _mm512_set1_epi8(1), row);
#endif
    }
    __m256i first = lanes_sum(y_fold(acc[0]), y_fold(acc[1])),
            second = lanes_sum(y_fold(acc[2]), y_fold(acc[3]));
#if SPANS == 1
    sums[0] = (VI)first, sums[1] = (VI)second;
#else
    sums[0] = (VI)y_join(first, second);
#endif
#if UNSIGNED_WEIGHTS
    __m512i base = _mm512_cvtepu8_epi32((__m128i)(code == CODE_GRID ? b_set(128) : zero));
    __m256i of_row = lanes_sum(y_fold(row_sum), y_fold(row_sum));
    sums[0] -= (VI)_mm512_mullo_epi32(base, _mm512_broadcastd_epi32(_mm256_castsi256_si128(of_row)));
#endif
}
#else
INLINE void int8_dot(int bits, Code code, B16 zero, const Grid *grid, const uint8_t *codes, const int8_t *x,
                     size_t n, VI *sums) {
    const int unit = unit_columns(bits, code);
    int32_t sum[16] = {0};
    for (size_t at = 0; at < n; at += (size_t)unit, codes += unit_bytes(bits, code)) {
        for (int c = 0; c < unit; c++) {
            B16 b = unit_codes(bits, codes, c);
            b = code == CODE_GRID ? grid_bytes_of(bits, grid, b) : b - zero;
            for (int i = 0; i < 16; i++) { sum[i] += (int8_t)b[i] * x[at + (size_t)c]; }
        }
    }
    memcpy(sums, sum, sizeof sum);
}
#endif

/* sums[16] += a row's k columns of a block. */
INLINE void group_dot_int8(int bits, Code code, const CpuGroups *g, const Grid *grid, const char *panel,
                           const char *block, const int8_t *x, float step, size_t k, float *sums) {
    GroupHead h = group_head(code, g, panel, block);
    if (code == CODE_FLOAT) { h.bytes = b_set(128); }
    head_scale(g, CODE_FLOAT, panel, block, h.scale);
    VI whole[NV];
    int8_dot(bits, code, h.bytes, grid, h.codes, x, (k + INT8_SPAN - 1) / INT8_SPAN * INT8_SPAN, whole);
    UNROLL for (int j = 0; j < NV; j++) {
        V scaled = __builtin_convertvector(whole[j], V) * v_set(step);
        v_store(sums + j * VW, v_fma(scaled, h.scale[j], v_load(sums + j * VW)));
    }
}

/* One row in 8 bits times n panels side by side. */
static inline void group_row_int8(const CpuGroups *g, const Grid *grid, const char *w, size_t n, size_t k,
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
