/* vec.h: the vector type of one instruction set, and the sizes of its register tiles.
 *
 * A kernels_*.c file sets CPU_LEVEL (1 portable, 2 AVX2 + FMA + F16C, 3 AVX-512, 4 with VNNI) and includes kernels.h;
 * all kernels are written once, on GNU C vectors V of VW floats. What the levels do differently is here. */
#ifndef RUNTIME_CPU_VEC_H
#define RUNTIME_CPU_VEC_H

#include "runtime/cpu/cpu.h"

#include <stdbool.h>
#include <string.h>

/* MR x NP panels of 16 columns fill the accumulator registers of a matrix tile. */
#if CPU_LEVEL >= 3
#include <immintrin.h>
#define VW 16
#define MR 12
#define NP 2
#elif CPU_LEVEL == 2
#include <immintrin.h>
#define VW 8
#define MR 6
#define NP 1
#else
#define VW 4
#define MR 2
#define NP 1
#endif
#define NV (16 / VW) /* vectors of a panel row */

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

typedef float V __attribute__((vector_size(4 * VW)));
typedef int32_t VI __attribute__((vector_size(4 * VW)));
typedef uint32_t VU __attribute__((vector_size(4 * VW)));
typedef uint16_t VH __attribute__((vector_size(2 * VW)));
typedef int8_t VB __attribute__((vector_size(VW)));

INLINE V v_load(const float *p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void v_store(float *p, V v) { memcpy(p, &v, sizeof v); }

/* The first n < VW of them; the others 0, or left alone. */
INLINE V v_load_n(const float *p, size_t n) {
    float t[VW] = {0};
    for (size_t i = 0; i < n; i++) { t[i] = p[i]; }
    return v_load(t);
}
INLINE void v_store_n(float *p, size_t n, V v) {
    float t[VW];
    v_store(t, v);
    for (size_t i = 0; i < n; i++) { p[i] = t[i]; }
}

#if CPU_LEVEL >= 3
INLINE V v_set(float x) { return (V)_mm512_set1_ps(x); }
INLINE V v_fma(V a, V b, V c) { return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
#elif CPU_LEVEL == 2
INLINE V v_set(float x) { return (V)_mm256_set1_ps(x); }
INLINE V v_fma(V a, V b, V c) { return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
#else
INLINE V v_set(float x) { return (V){x, x, x, x}; }
INLINE V v_fma(V a, V b, V c) { return a * b + c; }
#endif

INLINE V v_zero(void) { return (V){0}; }
INLINE V v_select(VI mask, V a, V b) { return (V)(((VI)a & mask) | ((VI)b & ~mask)); }
#if CPU_LEVEL == 2
INLINE V v_max(V a, V b) { return (V)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE V v_min(V a, V b) { return (V)_mm256_min_ps((__m256)a, (__m256)b); }
#elif CPU_LEVEL >= 3
INLINE V v_max(V a, V b) { return (V)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE V v_min(V a, V b) { return (V)_mm512_min_ps((__m512)a, (__m512)b); }
#else
INLINE V v_max(V a, V b) { return v_select(a > b, a, b); } /* b if either is NaN */
INLINE V v_min(V a, V b) { return v_select(a < b, a, b); }
#endif
INLINE V v_abs(V a) { return (V)((VI)a & 0x7fffffff); }

INLINE float v_sum(V v) {
    float t[VW];
    v_store(t, v);
    for (int n = VW / 2; n > 0; n /= 2) {
        for (int i = 0; i < n; i++) { t[i] += t[i + n]; }
    }
    return t[0];
}
INLINE float v_largest(V v) {
    float t[VW];
    v_store(t, v);
    for (int i = 1; i < VW; i++) { t[0] = t[i] > t[0] ? t[i] : t[0]; }
    return t[0];
}

INLINE V v_from_f16(VH h) {
#if CPU_LEVEL >= 3
    return (V)_mm512_cvtph_ps((__m256i)h);
#elif CPU_LEVEL == 2
    return (V)_mm256_cvtph_ps((__m128i)h);
#else
    VU u = __builtin_convertvector(h, VU);
    VU m = (u & 0x7fff) << 13;
    V f = (V)m * v_set(0x1p112f); /* moves the exponent; subnormals come out right */
    VU special = (VU)(m >= (0x7c00u << 13)) & 0x7f800000;
    return (V)((VU)f | special | (u & 0x8000) << 16);
#endif
}
INLINE V v_from_bf16(VH h) {
#if CPU_LEVEL >= 3
    VU u = (VU)_mm512_cvtepu16_epi32((__m256i)h);
#elif CPU_LEVEL == 2
    VU u = (VU)_mm256_cvtepu16_epi32((__m128i)h);
#else
    VU u = __builtin_convertvector(h, VU);
#endif
    return (V)(u << 16);
}

INLINE V v_from_int8(VB b) {
#if CPU_LEVEL >= 3
    return (V)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)b));
#elif CPU_LEVEL == 2
    return (V)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128((long long)b)));
#else
    return __builtin_convertvector(b, V);
#endif
}

/* VW numbers at element i of an array of ART_F32, ART_F16, ART_BF16 or ART_I8. */
INLINE V v_load_as(uint32_t dtype, const void *p, size_t i) {
    if (dtype == ART_F32) { return v_load((const float *)p + i); }
    if (dtype == ART_I8) {
        VB b;
        memcpy(&b, (const int8_t *)p + i, sizeof b);
        return v_from_int8(b);
    }
    VH h;
    memcpy(&h, (const uint16_t *)p + i, sizeof h);
    return dtype == ART_F16 ? v_from_f16(h) : v_from_bf16(h);
}
INLINE size_t type_bytes(uint32_t dtype) { return dtype == ART_F32 ? 4 : dtype == ART_I8 ? 1 : 2; }

/* Worker w's part of n equal items. */
INLINE void share(const CpuWorker *w, size_t n, size_t *begin, size_t *end) {
    *begin = n * w->index / w->count;
    *end = n * (w->index + 1) / w->count;
}
INLINE size_t min_size(size_t a, size_t b) { return a < b ? a : b; }
INLINE size_t max_size(size_t a, size_t b) { return a > b ? a : b; }
INLINE size_t up16(size_t n) { return (n + 15) / 16 * 16; }

#endif
