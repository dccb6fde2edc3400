/* lower_routed.c: products with chosen experts as gathers and matmuls, for functions.
 *
 *   %4 = routed(%1, %2, %3)    ->    %5 = gather(%3, %2)  ; the matrix of each slot
 *                                    %4 = matmul(reshape(%1), %5)
 *
 * A program of rows has a kernel that reads the chosen experts where they lie; a function copies them, which is right
 * and slow. leaves alone: everything else. */
#include "passes/rewrite.h"

/* [.., k, 1, K] of x[.., k, K], or [.., 1, 1, K] of x[.., K], which every slot reads. */
static ValId slots(Rewrite *r, ValId x, uint32_t index_rank) {
    Type t = *graph_type(r->g, x), to = t;
    Dim last = t.dim[t.rank - 1];
    to.rank = (uint8_t)(index_rank + 2);
    for (uint32_t i = t.rank - 1u; i < to.rank; i++) to.dim[i] = dim_const(1);
    to.dim[to.rank - 1] = last;
    return rw_reshape(r, x, &to);
}

static ValId routed_lower(Rewrite *r, NodeId id) {
    Node n = *graph_node(r->g, id);
    Type out = *graph_type(r->g, n.out[0]);
    uint32_t rank = graph_type(r->g, n.in[1])->rank;
    ValId w = n.in[2], x = slots(r, n.in[0], rank);
    Attr a = attr_default();
    static const uint8_t turned[3] = {0, 2, 1};
    if (rank + 2 > MAX_RANK) return NO_VAL;
    if (n.attr.trans) w = rw_transpose(r, w, turned);
    ValId pick[2] = {w, n.in[1]};
    ValId y = rw_binary(r, OP_MATMUL, x, rw_add(r, OP_GATHER, pick, 2, &a, NULL));
    y = rw_reshape(r, y, &out);
    pass_count(r->cx, "routed", 1);
    if (n.nin < 4 || !val_ok(n.in[3])) return y;
    ValId bias[2] = {n.in[3], n.in[1]};
    return rw_binary(r, OP_ADD, y, rw_add(r, OP_GATHER, bias, 2, &a, NULL));
}

PassResult pass_lower_routed(PassCtx *cx, Graph *g) {
    static const Rule rules[] = {{OP_ROUTED, "routed -> gather and matmul", routed_lower}};
    const RuleSet set = {rules, COUNT_OF(rules)};
    return rewrite_run(cx, g, &set, 1, 1, "routed");
}
