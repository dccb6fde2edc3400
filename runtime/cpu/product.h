/* product.h: a block of C = A B of row-major matrices, for one worker alone.
 *
 * For NP panels of 16 columns and KC of k, that piece of B is packed into the worker's scratch, [k][16], and
 * stays in L1 while the rows pass by (blocking after Goto and van de Geijn). A single block of rows reads
 * whole panels of an f32 B where they lie: every number is used once. */
#ifndef RUNTIME_CPU_PRODUCT_H
#define RUNTIME_CPU_PRODUCT_H

#include "runtime/cpu/linear.h"

/* out[panel][k][16] = B[k0 + k][col + 16 panel ..], missing columns 0. */
static void product_pack(const CpuProduct *p, size_t k0, size_t kc, size_t col, size_t cols, float *out) {
    size_t size = type_bytes(p->dtype);
    for (size_t at = 0; at < cols; at += 16, out += kc * 16) {
        size_t n = min_size(16, cols - at);
        for (size_t i = 0; i < kc; i++) {
            const char *from = (const char *)p->b + ((k0 + i) * p->ldb + col + at) * size;
            char edge[64] = {0};
            if (n < 16) { from = memcpy(edge, from, n * size); }
            for (size_t j = 0; j < 16; j += VW) { v_store(out + i * 16 + j, v_load_as(p->dtype, from, j)); }
        }
    }
}

static void product_rows(size_t rows, size_t panels, size_t k, TileA a, TileB b, TileC c, bool add) {
    switch (rows) {
#define CASE(mr)                                                                                             \
    case mr:                                                                                                 \
        if (panels == NP) {                                                                                  \
            tile_sum(mr, NP, ART_F32, k, a, b, c, add);                                                      \
        } else {                                                                                             \
            tile_sum(mr, 1, ART_F32, k, a, b, c, add);                                                       \
        }                                                                                                    \
        break;
        TILE_CASES(CASE)
#undef CASE
    }
}

static void product(const CpuWorker *w, const CpuProduct *p) {
    float *piece = w->local, *edge = piece + NP * KC * 16;
    for (size_t col = 0; col < p->n; col += NP * 16) {
        size_t cols = min_size(NP * 16, p->n - col), panels = (cols + 15) / 16;
        bool whole = cols % 16 == 0, in_place = whole && p->m <= MR && p->dtype == ART_F32;
        TileC all = whole ? (TileC){p->c + col, p->ldc, 16} : (TileC){edge, NP * 16, 16};
        for (size_t k0 = 0; k0 < p->k; k0 += KC) {
            size_t kc = min_size(KC, p->k - k0);
            TileB b = {piece, 16, kc * 16};
            if (in_place) {
                b = (TileB){(const float *)p->b + k0 * p->ldb + col, p->ldb, 16};
            } else {
                product_pack(p, k0, kc, col, cols, piece);
            }
            for (size_t r = 0; r < p->m; r += MR) {
                TileA a = {p->a + r * p->lda + k0, p->lda, 1};
                TileC c = {all.c + r * all.row, all.row, all.panel};
                product_rows(min_size(MR, p->m - r), panels, kc, a, b, c, k0 > 0);
            }
        }
        for (size_t r = 0; !whole && r < p->m; r++) {
            memcpy(p->c + r * p->ldc + col, edge + r * NP * 16, cols * sizeof *edge);
        }
    }
}

#endif
