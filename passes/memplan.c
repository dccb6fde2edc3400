/* memplan.c: gives every row value that crosses a region boundary a place in the activation arena.
 *
 * Lifetimes are intervals of region numbers. Largest value first, each takes the lowest offset at which
 * no value alive at the same time lies (greedy by size: Pisarchyk and Lee, "Efficient Memory Management
 * for Deep Neural Net Inference", 2020). Offsets are bytes for one row, multiples of 64.
 * needs: ORDER.  gives: SLOTS. */
#include "passes/pass.h"

#include <stdlib.h>

static int by_size(const void *a, const void *b) {
    const Interval *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return x->v.id < y->v.id ? -1 : x->v.id > y->v.id;
}

uint64_t memplan_place(Interval *iv, size_t n, Arena *a) {
    uint64_t total = 0;
    Interval **placed = arena_array_of(a, n, Interval *);
    size_t nplaced = 0;
    if (n > 0) qsort(iv, n, sizeof *iv, by_size);
    for (size_t i = 0; i < n; i++) {
        uint64_t at = 0;
        for (size_t k = 0; k < nplaced; k++) { /* placed is sorted by slot */
            const Interval *p = placed[k];
            if (p->to < iv[i].from || p->from > iv[i].to) continue;
            if (p->slot >= at + iv[i].bytes) break;
            if (p->slot + p->bytes > at) at = p->slot + p->bytes;
        }
        iv[i].slot = at;
        size_t k = nplaced++;
        for (; k > 0 && placed[k - 1]->slot > at; k--) placed[k] = placed[k - 1];
        placed[k] = &iv[i];
        if (at + iv[i].bytes > total) total = at + iv[i].bytes;
    }
    return total;
}

PassResult pass_memplan(PassCtx *cx, Graph *g) {
    Uses uses = graph_uses(g, cx->scratch);
    VEC(Interval) iv = {0};
    uint32_t *last = arena_array_of(cx->scratch, g->values.count, uint32_t), end = 0;
    FOR_NODES (g, id) {
        const Node *n = graph_node(g, id);
        if (n->region > end) end = n->region;
        for (uint32_t i = 0; i < n->nin; i++) {
            if (!val_ok(n->in[i])) continue;
            ValId src = row_source(g, n->in[i]);
            if (n->region > last[src.id]) last[src.id] = n->region;
        }
    }
    for (size_t i = 0; i < g->outputs.count; i++) last[row_source(g, g->outputs.data[i].v).id] = end + 1;
    for (size_t i = 0; i < g->states.count; i++) /* states live in the cache, not here */
        last[row_source(g, g->states.data[i].out).id] = 0;
    FOR_NODES (g, id) {
        const Node *n = graph_node(g, id);
        ValId v = n->out[n->op == OP_TOPK]; /* the kernel makes the indices */
        RowShape s;
        if (!n->region || row_is_view(g, id) || !last[v.id] || !row_shape(g, v, &s) || !s.per_row) continue;
        bool inner = true; /* read inside its own region only */
        for (uint32_t i = 0; i < uses.count[v.id]; i++) {
            NodeId u = uses.user[uses.first[v.id] + i];
            inner &= node_ok(u) && graph_node(g, u)->region == n->region;
        }
        if (inner && last[v.id] == n->region) continue;
        uint64_t bytes = ((uint64_t)s.width * 4 + 63) / 64 * 64;
        VEC_PUSH(cx->scratch, &iv, ((Interval){v, n->region, last[v.id], bytes, 0}));
    }
    g->arena_row_bytes = memplan_place(iv.data, iv.count, cx->scratch);
    uint64_t sum = 0;
    for (size_t i = 0; i < iv.count; i++) {
        graph_val(g, iv.data[i].v)->slot = iv.data[i].slot;
        sum += iv.data[i].bytes;
    }
    pass_count(cx, "bytes a row", (int64_t)g->arena_row_bytes);
    pass_count(cx, "bytes a row without reuse", (int64_t)sum);
    return PASS_CHANGED;
}
