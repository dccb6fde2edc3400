/* bound.c: the context of a GPT without cache is what its own tables of positions and masks allow.
 *
 *   %3 : f32[seq, 64] = gather(@table[128, 64], iota)   ->   context=128
 *
 * Where there is a cache, raise-attention and raise-position do the same to the graph that they make.
 * needs: BOUND.  leaves alone: every node; graphs that take no tokens. */
#include "passes/raise.h"

PassResult pass_bound(PassCtx *cx, Graph *g) {
    int64_t before = g->context;
    if (graph_has_tokens(g)) position_bound(cx, g);
    return g->context == before ? PASS_UNCHANGED : PASS_CHANGED;
}
