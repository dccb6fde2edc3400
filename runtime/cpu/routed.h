/* routed.h: products with the matrices that each row's slots choose: a mixture of experts.
 *
 * One worker sorts the slots by expert, by counting. Workers then draw pairs of a chosen expert and a group of
 * panels, and all rows of that expert pass by while the group is in the cache: a matrix that nobody chose is
 * never touched, and a chosen one comes from memory once, however many rows of a prompt choose it. Of compressed
 * matrices a piece of a group is decoded for many rows at once; one row multiplies codes in registers. */
#ifndef RUNTIME_CPU_ROUTED_H
#define RUNTIME_CPU_ROUTED_H

#include "runtime/cpu/linear.h"
#include "runtime/cpu/pick.h"

/* Shared: first[experts + 1], then the slots (row * slots + slot) in the order of their experts. */
typedef struct {
    uint32_t *first, *slot;
} Routing;

static Routing routing_at(const CpuWorker *w, const CpuRouted *a) {
    uint32_t *first = w->shared;
    return (Routing){first, first + a->experts + 1};
}

INLINE size_t routed_expert(const CpuRouted *a, size_t slot) {
    return place_of(a->index[slot / a->slots * a->index_stride + slot % a->slots], a->experts);
}

static void routing_sort(const CpuRouted *a, Routing g) {
    size_t total = (size_t)a->rows * a->slots;
    memset(g.first, 0, (a->experts + 1) * sizeof *g.first);
    for (size_t i = 0; i < total; i++) {
        size_t e = routed_expert(a, i);
        if (e < a->experts) {
            g.first[e + 1]++;
        } else {
            memset(a->out + i / a->slots * a->out_stride + i % a->slots * a->n, 0, a->n * sizeof *a->out);
        }
    }
    for (size_t e = 0; e < a->experts; e++) { g.first[e + 1] += g.first[e]; }
    for (size_t i = 0; i < total; i++) { /* first[e] moves to the end of e, which is the start of e + 1 */
        size_t e = routed_expert(a, i);
        if (e < a->experts) { g.slot[g.first[e]++] = (uint32_t)i; }
    }
    memmove(g.first + 1, g.first, a->experts * sizeof *g.first);
    g.first[0] = 0;
}

INLINE const float *routed_x(const CpuRouted *a, size_t slot) {
    return a->x + slot / a->slots * a->x_stride + slot % a->slots * a->x_step;
}

/* The slot as the one row of a product, whose epilogue then serves. */
static CpuLinear routed_row(const CpuRouted *a, size_t expert, size_t slot) {
    size_t r = slot / a->slots, s = slot % a->slots;
    CpuLinear l = {.rows = 1, .k = a->k, .n = a->n, .act = a->act, .dtype = a->dtype};
    if (a->bias) { l.bias = a->bias + expert * a->n; }
    if (a->gate) { l.gate = a->gate + r * a->gate_stride + s * a->n; }
    l.out = a->out + r * a->out_stride + s * a->n;
    return l;
}

/* At most MR slots of one expert with DRAW_PANELS panels at most; a piece of k at a time, so that the rows
 * stand together in local scratch. */
static void routed_block(const CpuWorker *w, const CpuRouted *a, size_t expert, const uint32_t *slot,
                         size_t rows, size_t panel, size_t panels) {
    size_t per_panel = (size_t)a->k * 16 * type_bytes(a->dtype), all = (a->n + 15u) / 16;
    const char *weights = (const char *)a->w + (expert * all + panel) * per_panel;
    float sum[MR * 16 * DRAW_PANELS], part[MR * 16 * DRAW_PANELS], *packed = w->local;
    TileC c = {sum, 16, MR * 16};
    for (size_t k0 = 0; k0 < a->k; k0 += KC) {
        size_t kc = rows == 1 ? a->k : min_size(KC, a->k - k0);
        TileB b = {weights + k0 * 16 * type_bytes(a->dtype), 16, (size_t)a->k * 16};
        TileA x = {routed_x(a, slot[0]), a->k, 1};
        for (size_t r = 0; rows > 1 && r < rows; r++) {
            memcpy(packed + r * KC, routed_x(a, slot[r]) + k0, kc * sizeof *packed);
            x = (TileA){packed, KC, 1};
        }
        few_rows((uint32_t)rows, a->dtype, panels, kc, x, b, k0 ? (TileC){part, 16, MR * 16} : c);
        for (size_t p = 0; k0 && p < panels; p++) {
            for (size_t i = p * MR * 16; i < p * MR * 16 + rows * 16; i++) { sum[i] += part[i]; }
        }
        if (rows == 1) { break; }
    }
    for (size_t r = 0; r < rows; r++) {
        CpuLinear l = routed_row(a, expert, slot[r]);
        epilogue_block(&l, 0, 1, panel, panels, (TileC){sum + r * 16, 16, MR * 16});
    }
}

#define ROUTED_ROWS 96 /* that share what was decoded; a multiple of every MR */

/* In local scratch. */
typedef struct {
    float wide[DRAW_PANELS][KC * 16], packed[ROUTED_ROWS * KC], sum[DRAW_PANELS][ROUTED_ROWS * 16];
} RoutedScratch;
_Static_assert(sizeof(RoutedScratch) <= CPU_LOCAL_BYTES && ROUTED_ROWS % MR == 0, "scratch");

/* Slots of one expert, ROUTED_ROWS at most, with compressed panels. */
static void routed_groups(const CpuWorker *w, const CpuRouted *a, const Grid *grid, size_t expert,
                          const uint32_t *slot, size_t rows, size_t panel, size_t panels) {
    RoutedScratch *s = w->local;
    size_t bytes = panel_bytes(&a->groups, a->k);
    const char *from = (const char *)a->w + grid_bytes(&a->groups) + (expert * (a->n / 16) + panel) * bytes;
    if (rows == 1) {
        CpuLinear l = routed_row(a, expert, slot[0]);
        group_row(&a->groups, grid, from, panels, a->k, routed_x(a, slot[0]), s->sum[0]);
        epilogue_block(&l, 0, 1, panel, panels, (TileC){s->sum[0], 16, 16});
        return;
    }
    for (size_t k0 = 0; k0 < a->k; k0 += KC) {
        size_t kc = min_size(KC, a->k - k0);
        for (size_t r = 0; r < rows; r++) {
            memcpy(s->packed + r * KC, routed_x(a, slot[r]) + k0, kc * sizeof *s->packed);
        }
        for (size_t p = 0; p < panels; p++) {
            group_decode(&a->groups, grid, from + p * bytes, k0, kc, s->wide[p]);
            for (size_t r = 0; r < rows; r += MR) {
                wide_rows(min_size(MR, rows - r), kc, (TileA){s->packed + r * KC, KC, 1}, s->wide[p],
                          (TileC){s->sum[p] + r * 16, 16, 0}, k0 > 0);
            }
        }
    }
    for (size_t r = 0; r < rows; r++) {
        CpuLinear l = routed_row(a, expert, slot[r]);
        epilogue_block(&l, 0, 1, panel, panels, (TileC){s->sum[0] + r * 16, 16, ROUTED_ROWS * 16});
    }
}

static void routed(const CpuWorker *w, const CpuRouted *a) {
    Routing g = routing_at(w, a);
    Grid grid;
    grid_load(&a->groups, a->w, &grid);
    size_t groups = ((a->n + 15u) / 16 + DRAW_PANELS - 1) / DRAW_PANELS, panels = (a->n + 15u) / 16;
    if (w->index == 0) { routing_sort(a, g); }
    pool_barrier(w->pool);
    size_t expert = 0, passed = 0; /* chosen experts before `expert` */
    for (size_t i; i = pool_ticket(w->pool), expert < a->experts;) {
        for (; expert < a->experts; expert++) {
            if (g.first[expert] == g.first[expert + 1]) { continue; }
            if (passed == i / groups) { break; }
            passed++;
        }
        if (expert == a->experts) { break; }
        size_t panel = i % groups * DRAW_PANELS, n = min_size(DRAW_PANELS, panels - panel);
        size_t most = a->groups.bits ? ROUTED_ROWS : MR;
        for (size_t s = g.first[expert]; s < g.first[expert + 1]; s += most) {
            size_t rows = min_size(most, g.first[expert + 1] - s);
            if (a->groups.bits) {
                routed_groups(w, a, &grid, expert, g.slot + s, rows, panel, n);
            } else {
                routed_block(w, a, expert, g.slot + s, rows, panel, n);
            }
        }
    }
}

#endif
