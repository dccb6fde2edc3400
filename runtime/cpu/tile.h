/* tile.h: the inner product of everything: C[mr][16 panels] = A[mr][k] B[k][16 panels], in registers.
 *
 * tile_sum keeps mr x np x NV accumulators (and ku sets of them when there are few, so that the adds do not
 * wait for each other) over the whole of k; mr, np, ku and the element type are constants at each use.
 * strip walks it over any number of panels. */
#ifndef RUNTIME_CPU_TILE_H
#define RUNTIME_CPU_TILE_H

#include "runtime/cpu/vec.h"

#define TILE_VECTORS (MR * NP * NV)

/* A matrix A: element (r, k) at a[r * row + k * step]. B: 16 columns of k at b[k * step] of its type,
 * the next 16 columns `panel` elements on. C: row r of panel p at c[r * row + p * panel]. */
typedef struct {
    const float *a;
    size_t row, step;
} TileA;
typedef struct {
    const void *b;
    size_t step, panel;
} TileB;
typedef struct {
    float *c;
    size_t row, panel;
} TileC;

INLINE int tile_sets(int vectors) {
    return vectors * 4 <= TILE_VECTORS ? 4 : vectors * 2 <= TILE_VECTORS ? 2 : 1;
}
/* Panels taken together by mr rows. */
INLINE int tile_panels(int mr) {
    return mr * NV * 4 <= TILE_VECTORS ? 4 : mr * NV * 2 <= TILE_VECTORS ? 2 : 1;
}

INLINE void tile_step(int mr, int np, uint32_t dtype, TileA a, TileB b, size_t k, V *acc) {
    V w[4 * NV];
    UNROLL for (int p = 0; p < np; p++) {
        UNROLL for (int j = 0; j < NV; j++) {
            w[p * NV + j] = v_load_as(dtype, b.b, k * b.step + (size_t)p * b.panel + (size_t)(j * VW));
        }
    }
    UNROLL for (int r = 0; r < mr; r++) {
        V x = v_set(a.a[(size_t)r * a.row + k * a.step]);
        UNROLL for (int j = 0; j < np * NV; j++) {
            acc[r * np * NV + j] = v_fma(x, w[j], acc[r * np * NV + j]);
        }
    }
}

/* add: C += instead of C =. */
INLINE void tile_sum(int mr, int np, uint32_t dtype, size_t k, TileA a, TileB b, TileC c, bool add) {
    const int vectors = mr * np * NV, ku = tile_sets(vectors);
    V acc[4 * TILE_VECTORS];
    UNROLL for (int i = 0; i < ku * vectors; i++) { acc[i] = v_zero(); }
    size_t i = 0;
    for (; i + (size_t)ku <= k; i += (size_t)ku) {
        UNROLL for (int u = 0; u < ku; u++) {
            tile_step(mr, np, dtype, a, b, i + (size_t)u, acc + u * vectors);
        }
    }
    for (; i < k; i++) { tile_step(mr, np, dtype, a, b, i, acc); }
    UNROLL for (int half = ku / 2; half > 0; half /= 2) {
        UNROLL for (int j = 0; j < half * vectors; j++) { acc[j] += acc[half * vectors + j]; }
    }
    UNROLL for (int r = 0; r < mr; r++) {
        UNROLL for (int j = 0; j < np * NV; j++) {
            float *to = c.c + (size_t)r * c.row + (size_t)(j / NV) * c.panel + (size_t)(j % NV * VW);
            V v = acc[r * np * NV + j];
            v_store(to, add ? v + v_load(to) : v);
        }
    }
}

INLINE void strip_rows(int mr, uint32_t dtype, size_t panels, size_t k, TileA a, TileB b, TileC c, bool add) {
    const int np = tile_panels(mr);
    size_t p = 0;
    for (; p + (size_t)np <= panels; p += (size_t)np) {
        tile_sum(mr, np, dtype, k, a, b, c, add);
        b.b = (const char *)b.b + (size_t)np * b.panel * type_bytes(dtype);
        c.c += (size_t)np * c.panel;
    }
    for (; np > 1 && p < panels; p++) {
        tile_sum(mr, 1, dtype, k, a, b, c, add);
        b.b = (const char *)b.b + b.panel * type_bytes(dtype);
        c.c += c.panel;
    }
}

#if MR > 6
#define TILE_CASES_12(CASE) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#else
#define TILE_CASES_12(CASE)
#endif
#if MR > 2
#define TILE_CASES(CASE) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) TILE_CASES_12(CASE)
#else
#define TILE_CASES(CASE) CASE(1) CASE(2)
#endif

#endif
