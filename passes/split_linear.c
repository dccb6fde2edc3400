/* split_linear.c: slices of one product become products of their own.
 *
 *   %3 = linear(%1, @w[K, 3N], @b)          %3 = linear(%1, slice(@w), slice(@b))
 *   %4 = slice(%3) {starts=[0,0,0]}     ->  %4 = linear(%1, slice(@w), slice(@b))
 *   %5 = slice(%3) {starts=[0,0,N]}
 *
 * Fires when every use of the product is a slice along its last axis with step 1 that is whole on all
 * other axes. The slices of the constants are views that the packer reads through.
 * needs: STATE.  leaves alone: products with any other use, slices that are not 16-aligned. */
#include "passes/pass.h"

#define SPLIT_ALIGN 16 /* outputs come in panels of 16 */

static bool slice_of_features(const Graph *g, const Node *n, const Type *from) {
    const Type *to = graph_type(g, n->out[0]);
    for (uint32_t i = 0; i < from->rank; i++) {
        bool last = i + 1 == from->rank;
        if (!last && (!dim_eq(n->attr.starts[i], dim_const(0)) || !dim_eq(from->dim[i], to->dim[i])))
            return false;
        if (n->attr.steps[i] != 1) return false;
    }
    Dim start = n->attr.starts[from->rank - 1], len = to->dim[from->rank - 1];
    return dim_is_const(start) && dim_is_const(len) && start.v % SPLIT_ALIGN == 0 &&
           len.v % SPLIT_ALIGN == 0 && len.v > 0;
}

static ValId slice_const(Graph *g, ValId v, uint32_t axis, int64_t start, int64_t len, Loc loc, Diag *d) {
    Attr a = attr_default();
    Type t = *graph_type(g, v);
    for (uint32_t i = 0; i < MAX_RANK; i++) {
        a.starts[i] = dim_const(0);
        a.steps[i] = 1;
    }
    a.starts[axis] = dim_const(start);
    t.dim[axis] = dim_const(len);
    return graph_add(g, OP_SLICE, &v, 1, &a, &t, loc, d);
}

static bool split_one(PassCtx *cx, Graph *g, NodeId lin, NodeId user) {
    Node n = *graph_node(g, lin);
    const Node *s = graph_node(g, user);
    uint32_t axis = (uint32_t)graph_type(g, n.out[0])->rank - 1;
    int64_t start = s->attr.starts[axis].v, len = graph_type(g, s->out[0])->dim[axis].v;
    ValId old = s->out[0];
    ValId in[3] = {n.in[0], n.in[1], n.nin > 2 ? n.in[2] : NO_VAL};
    g->insert_before = lin;
    in[1] = slice_const(g, in[1], n.attr.trans ? 0 : 1, start, len, n.loc, cx->diag);
    if (val_ok(in[2])) in[2] = slice_const(g, in[2], 0, start, len, n.loc, cx->diag);
    if (!val_ok(in[1]) || (n.nin > 2 && val_ok(n.in[2]) && !val_ok(in[2]))) return false;
    ValId out = graph_add(g, OP_LINEAR, in, 3, &n.attr, NULL, n.loc, cx->diag);
    g->insert_before = NO_NODE;
    if (!val_ok(out)) return false;
    graph_replace(g, old, out);
    return true;
}

PassResult pass_split_linear(PassCtx *cx, Graph *g) {
    Uses uses = graph_uses(g, cx->scratch);
    int64_t made = 0;
    FOR_NODES (g, id) {
        const Node *n = graph_node(g, id);
        if (n->op != OP_LINEAR || n->out[0].id >= uses.nvals) continue;
        uint32_t first = uses.first[n->out[0].id], count = uses.count[n->out[0].id];
        bool all = count > 1;
        for (uint32_t i = 0; i < count && all; i++) {
            NodeId u = uses.user[first + i];
            all = node_ok(u) && graph_node(g, u)->op == OP_SLICE &&
                  slice_of_features(g, graph_node(g, u), graph_type(g, n->out[0]));
        }
        if (!all) continue;
        for (uint32_t i = 0; i < count; i++, made++)
            if (!split_one(cx, g, id, uses.user[first + i])) return PASS_FAILED;
    }
    pass_count(cx, "products", made);
    return made ? PASS_CHANGED : PASS_UNCHANGED;
}
