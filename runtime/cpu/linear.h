/* linear.h: x w with its epilogue, for few rows and for many.
 *
 * Few rows (at most MR): bound by memory. Workers draw four panels at a time, four streams from memory,
 * multiplied with the rows on the way.
 *
 * Many rows: bound by arithmetic (blocking after Goto and van de Geijn). All workers pack a chunk of x as
 * blocks of at most MR rows, [k][rows], into shared scratch. Then they draw groups of panels; for a group
 * and KC of k, a piece of a panel stays in L1 while all row blocks pass by from L2, and the sums stay in
 * local scratch until the epilogue writes out once. 16-bit and compressed weights are widened a piece at a time;
 * one row multiplies compressed ones in registers. */
#ifndef RUNTIME_CPU_LINEAR_H
#define RUNTIME_CPU_LINEAR_H

#include "runtime/cpu/linear_int8.h"
#include "runtime/cpu/sizes.h"

#define KC 384
#define GROUP_PANELS 4

static void few_rows(uint32_t rows, uint32_t dtype, size_t panels, size_t k, TileA a, TileB b, TileC c) {
    switch (rows) {
#define CASE(mr)                                                                                             \
    case mr:                                                                                                 \
        if (dtype == ART_F32) {                                                                              \
            strip_rows(mr, ART_F32, panels, k, a, b, c, false);                                              \
        } else if (dtype == ART_F16) {                                                                       \
            strip_rows(mr, ART_F16, panels, k, a, b, c, false);                                              \
        } else {                                                                                             \
            strip_rows(mr, ART_BF16, panels, k, a, b, c, false);                                             \
        }                                                                                                    \
        break;
        TILE_CASES(CASE)
#undef CASE
    }
}

/* One panel after the other is one stream, and a core reads several streams nearly twice as fast: four
 * panels side by side for one row, two for up to three. More rows leave registers for one panel only. */
static void linear_few(const CpuWorker *w, const CpuLinear *l) {
    size_t panels = (l->n + 15u) / 16, panel_bytes = (size_t)l->k * 16 * type_bytes(l->dtype);
    TileA a = {l->x, l->x_stride, 1};
    float sum[MR * 16 * DRAW_PANELS];
    TileC c = {sum, 16, MR * 16};
    for (size_t p; (p = pool_ticket(w->pool) * (size_t)DRAW_PANELS) < panels;) {
        size_t n = min_size(DRAW_PANELS, panels - p);
        TileB b = {(const char *)l->w + p * panel_bytes, 16, (size_t)l->k * 16};
        few_rows(l->rows, l->dtype, n, l->k, a, b, c);
        epilogue_block(l, 0, l->rows, p, n, c);
    }
}

/* At most MR rows times a decoded piece of a panel, [k][16]. */
static void wide_rows(size_t rows, size_t k, TileA a, const float *wide, TileC c, bool add) {
    switch (rows) {
#define CASE(mr)                                                                                             \
    case mr: tile_sum(mr, 1, ART_F32, k, a, (TileB){wide, 16, 0}, c, add); break;
        TILE_CASES(CASE)
#undef CASE
    }
}

/* The same with compressed weights: one row in registers, several from a decoded piece of the panel. */
static void linear_few_groups(const CpuWorker *w, const CpuLinear *l) {
    size_t panels = (l->n + 15u) / 16, k = l->k, draw = l->rows == 1 ? DRAW_PANELS : 1;
    size_t bytes = panel_bytes(&l->groups, k);
    float sum[MR * 16 * DRAW_PANELS], *wide = w->local;
    const char *panels_at = (const char *)l->w + grid_bytes(&l->groups);
    Grid grid;
    grid_load(&l->groups, l->w, &grid);
    for (size_t p; (p = pool_ticket(w->pool) * draw) < panels;) {
        size_t n = min_size(draw, panels - p);
        const char *from = panels_at + p * bytes;
        TileC c = {sum, 16, l->rows == 1 ? 16 : MR * 16};
        if (l->rows == 1) { group_row(&l->groups, &grid, from, n, k, l->x, sum); }
        for (size_t k0 = 0; l->rows > 1 && k0 < k; k0 += KC) {
            size_t kc = min_size(KC, k - k0);
            group_decode(&l->groups, &grid, from, k0, kc, wide);
            wide_rows(l->rows, kc, (TileA){l->x + k0, l->x_stride, 1}, wide, c, k0 > 0);
        }
        epilogue_block(l, 0, l->rows, p, n, c);
    }
}

/* Rows first.. of a chunk, cut into blocks of size + 1 (the first `larger` ones) or size rows, MR at most. */
typedef struct {
    size_t first, rows, blocks, size, larger;
} Chunk;
INLINE size_t block_row(const Chunk *c, size_t block) { return block * c->size + min_size(block, c->larger); }

/* to[i * mr + r] = x[r][i] for 4 rows and columns. */
INLINE void pack_4x4(const float *x, size_t stride, size_t mr, float *to) {
    typedef float F4 __attribute__((vector_size(16)));
    F4 r[4], s[4];
    for (size_t i = 0; i < 4; i++) { memcpy(&r[i], x + i * stride, sizeof r[i]); }
    s[0] = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5);
    s[1] = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
    s[2] = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
    s[3] = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
    r[0] = __builtin_shufflevector(s[0], s[2], 0, 1, 4, 5);
    r[1] = __builtin_shufflevector(s[0], s[2], 2, 3, 6, 7);
    r[2] = __builtin_shufflevector(s[1], s[3], 0, 1, 4, 5);
    r[3] = __builtin_shufflevector(s[1], s[3], 2, 3, 6, 7);
    for (size_t i = 0; i < 4; i++) { memcpy(to + i * mr, &r[i], sizeof r[i]); }
}

static void pack_block(const CpuLinear *l, const Chunk *c, size_t block, float *packed) {
    size_t r0 = block_row(c, block), mr = block_row(c, block + 1) - r0, k = l->k, i = 0, stride = l->x_stride;
    const float *x = l->x + (c->first + r0) * stride;
    float *to = packed + r0 * k;
    for (size_t r = 0; l->round && r < mr; r++) { round_row(x + r * stride, k, l->round, to + r, mr); }
    if (l->round) { return; }
    for (; mr >= 4 && i + 4 <= k; i += 4) {
        for (size_t r = 0; r < mr; r += 4) { /* the last four rows may overlap the ones before */
            size_t at = min_size(r, mr - 4);
            pack_4x4(x + at * stride + i, stride, mr, to + i * mr + at);
        }
    }
    for (; i < k; i++) {
        for (size_t r = 0; r < mr; r++) { to[i * mr + r] = x[r * stride + i]; }
    }
}

static void many_rows(size_t rows, size_t panels, size_t k, const float *packed, TileB b, TileC c, bool add) {
    switch (rows) {
#define CASE(mr)                                                                                             \
    case mr:                                                                                                 \
        if (panels == NP) {                                                                                  \
            tile_sum(mr, NP, ART_F32, k, (TileA){packed, 1, mr}, b, c, add);                                 \
        } else {                                                                                             \
            tile_sum(mr, 1, ART_F32, k, (TileA){packed, 1, mr}, b, c, add);                                  \
        }                                                                                                    \
        break;
        TILE_CASES(CASE)
#undef CASE
    }
}

/* Widens k x 16 numbers of each of the panels. */
static const float *widen(const CpuLinear *l, size_t panels, size_t k, const uint16_t *from, float *to) {
    for (size_t p = 0; p < panels; p++) {
        const uint16_t *f = from + p * l->k * 16;
        float *t = to + p * KC * 16;
        if (l->dtype == ART_F16) {
            for (size_t i = 0; i < k * 16; i += VW) { v_store(t + i, v_load_as(ART_F16, f, i)); }
        } else {
            for (size_t i = 0; i < k * 16; i += VW) { v_store(t + i, v_load_as(ART_BF16, f, i)); }
        }
    }
    return to;
}

static void multiply_group(const CpuLinear *l, const Chunk *ch, size_t panel, size_t panels,
                           const float *packed, float *local) {
    float *wide = local, *sums = local + NP * KC * 16;
    size_t panel_sums = ch->rows * 16;
    Grid grid;
    grid_load(&l->groups, l->w, &grid);
    for (size_t k0 = 0; k0 < l->k; k0 += KC) {
        size_t kc = min_size(KC, l->k - k0);
        for (size_t p = 0; p < panels; p += NP) {
            size_t np = min_size(NP, panels - p), at = ((panel + p) * l->k + k0) * 16;
            TileB b = {(const float *)l->w + at, 16, (size_t)l->k * 16};
            if (l->groups.bits) {
                size_t bytes = panel_bytes(&l->groups, l->k);
                const char *from = (const char *)l->w + grid_bytes(&l->groups) + (panel + p) * bytes;
                for (size_t i = 0; i < np; i++) {
                    group_decode(&l->groups, &grid, from + i * bytes, k0, kc, wide + i * KC * 16);
                }
                b = (TileB){wide, 16, KC * 16};
            } else if (l->dtype != ART_F32) {
                b = (TileB){widen(l, np, kc, (const uint16_t *)l->w + at, wide), 16, KC * 16};
            }
            for (size_t i = 0; i < ch->blocks; i++) {
                size_t r0 = block_row(ch, i), mr = block_row(ch, i + 1) - r0;
                TileC c = {sums + p * panel_sums + r0 * 16, 16, panel_sums};
                many_rows(mr, np, kc, packed + r0 * l->k + k0 * mr, b, c, k0 > 0);
            }
        }
    }
    epilogue_block(l, ch->first, ch->rows, panel, panels, (TileC){sums, 16, panel_sums});
}

static void linear_many(const CpuWorker *w, const CpuLinear *l) {
    size_t panels = (l->n + 15u) / 16, chunks = (l->rows + CPU_CHUNK_ROWS - 1) / CPU_CHUNK_ROWS;
    size_t draw = GROUP_PANELS;
    while (draw > NP && panels < draw * 4 * w->count) { draw /= 2; }
    for (size_t c = 0; c < chunks; c++) {
        Chunk ch = {.first = l->rows * c / chunks};
        ch.rows = l->rows * (c + 1) / chunks - ch.first;
        ch.blocks = (ch.rows + MR - 1) / MR;
        ch.size = ch.rows / ch.blocks;
        ch.larger = ch.rows % ch.blocks;
        if (c > 0) { pool_barrier(w->pool); }
        for (size_t i; (i = pool_ticket(w->pool)) < ch.blocks;) { pack_block(l, &ch, i, w->shared); }
        pool_barrier(w->pool);
        for (size_t p; (p = pool_ticket(w->pool) * draw) < panels;) {
            multiply_group(l, &ch, p, min_size(draw, panels - p), w->shared, w->local);
        }
    }
}

/* Few rows, rounded together into shared scratch. */
static void linear_rounded(const CpuWorker *w, const CpuLinear *l) {
    CpuLinear r = *l;
    size_t begin, end;
    share(w, l->rows, &begin, &end);
    float *to = w->shared;
    for (size_t i = begin; i < end; i++) {
        round_row(l->x + i * l->x_stride, l->k, l->round, to + i * l->k, 1);
    }
    pool_barrier(w->pool);
    r.x = to, r.x_stride = l->k, r.round = 0;
    if (l->groups.bits) {
        linear_few_groups(w, &r);
    } else {
        linear_few(w, &r);
    }
}

static void linear(const CpuWorker *w, const CpuLinear *l) {
    if (l->rows > MR) {
        linear_many(w, l);
    } else if (int8_fits(l)) {
        linear_int8(w, l);
    } else if (l->round) {
        linear_rounded(w, l);
    } else if (l->groups.bits) {
        linear_few_groups(w, l);
    } else {
        linear_few(w, l);
    }
}

#endif
