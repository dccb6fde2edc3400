/* cache.c: the cache in 8 bits. What comes to a state is rounded for each position and head, so that codes and a step
 * keep all of it (llama.cpp keeps 32 numbers to a step; KIVI, arXiv 2402.02750, has finer forms for fewer bits).
 *
 *   %5 = concat(%past, %4) {axis=1}   ->   %6 = rounded(%4) {block=64}
 *                                          %5 = concat(%past, %6) {axis=1} */
#include "passes/lossy/lossy.h"

bool cache_round(Graph *g, Diag *d) {
    for (size_t i = 0; i < g->states.count; i++) {
        const State *s = &g->states.data[i];
        NodeId cat = graph_def(g, s->out);
        ValId fresh = graph_node(g, cat)->in[1];
        const Type *t = graph_type(g, fresh);
        if (graph_node(g, cat)->nin != 2 || graph_def_op(g, fresh) == OP_ROUNDED) continue;
        Attr a = attr_default();
        a.block = t->dim[t->rank - 1].v;
        g->insert_before = cat;
        ValId rounded = graph_add(g, OP_ROUNDED, &fresh, 1, &a, NULL, graph_node(g, cat)->loc, d);
        g->insert_before = NO_NODE;
        if (!val_ok(rounded)) return false;
        graph_node(g, cat)->in[1] = rounded;
    }
    return true;
}

uint64_t cache_bits(Graph *g, bool rounded) {
    uint64_t bits = 0;
    for (size_t i = 0; i < g->states.count; i++) {
        const Type *t = graph_type(g, g->states.data[i].out);
        uint64_t numbers = 1, dim = (uint64_t)t->dim[t->rank - 1].v;
        for (uint32_t k = 0; k < t->rank; k++) numbers *= dim_is_const(t->dim[k]) ? (uint64_t)t->dim[k].v : 1;
        bits += rounded ? numbers * 8 + numbers / dim * 16 : numbers * 32;
    }
    return bits;
}
