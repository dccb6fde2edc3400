/* linear_int8.h: x w of one row, rounded to 8 bits, and compressed weights. */
#ifndef RUNTIME_CPU_LINEAR_INT8_H
#define RUNTIME_CPU_LINEAR_INT8_H

#include "runtime/cpu/epilogue.h"
#include "runtime/cpu/groups_int8.h"

#define DRAW_PANELS 4 /* streams from memory, when rows are few */

/* One row in 8 bits, which every worker rounds for itself. */
static void linear_int8(const CpuWorker *w, const CpuLinear *l) {
    size_t panels = (l->n + 15u) / 16, k = l->k, bytes = panel_bytes(&l->groups, k);
    RowInt8 row = {(int8_t *)w->local, (float *)w->local + CPU_LOCAL_BYTES / 8};
    float sum[16 * DRAW_PANELS];
    Grid grid;
    grid_load(&l->groups, l->w, &grid);
    row_to_int8(l->x, k, l->round, &row);
    for (size_t p; (p = pool_ticket(w->pool) * (size_t)DRAW_PANELS) < panels;) {
        size_t n = min_size(DRAW_PANELS, panels - p);
        const char *from = (const char *)l->w + grid_bytes(&l->groups) + p * bytes;
        group_row_int8(&l->groups, &grid, from, n, k, &row, sum);
        epilogue_block(l, 0, 1, p, n, (TileC){sum, 16, 16});
    }
}

static bool int8_fits(const CpuLinear *l) {
    size_t k = l->k, group = min_size(l->groups.group, k);
    return l->round && l->rows == 1 && l->groups.bits && l->round == group && codes_are_int8(&l->groups) &&
           k + INT8_SPAN <= CPU_LOCAL_BYTES / 2 && k / group < CPU_LOCAL_BYTES / 8;
}

#endif
