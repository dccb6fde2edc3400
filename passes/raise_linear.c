/* raise_linear.c: products with constant weights.
 *
 *   %2 = matmul(%1, @w[K, N])            ->  %3 = linear(%1, @w, @b)
 *   %3 = add(%2, @b)
 *   %5 = matmul(%1, transpose(@w[N, K])) ->  %5 = linear(%1, @w) {trans=true}
 *
 * A weight is constant through casts, transposes and slices; casts stay as the operand, so that it can be
 * stored narrow. The bias joins when the product has no other use.
 * needs: CANONICAL.  leaves alone: products of two activations, weights with a batch axis, f64. */
#include "passes/rewrite.h"

/* Why a product without activations on its right is no linear; NULL for products of two activations. */
static const char *linear_difference(const Graph *g, ValId w) {
    if (match_const_like(g, w))
        return value_is_weight(g, w) ? "the weight has batch axes"
                                     : "the weight is moved in a way that cannot be stored";
    NodeId id = graph_def(g, w);
    const Node *n = node_ok(id) ? graph_node(g, id) : NULL;
    if (n == NULL || n->nin == 0) return NULL;
    for (uint32_t i = 0; i < n->nin; i++)
        if (!match_const_like(g, n->in[i])) return NULL;
    return "the weight is computed from constants";
}

static ValId raise_matmul(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id), *t = NULL;
    ValId in[2] = {n.in[0], n.in[1]};
    Attr a = attr_default();
    DType dtype = graph_type(g, n.out[0])->dtype;
    if (!dtype_is_float(dtype) || dtype == DT_F64 || value_is_weight(g, in[0])) return NO_VAL;
    if (graph_type(g, in[1])->rank != 2 || !value_is_weight(g, in[1])) {
        const char *why = linear_difference(g, in[1]);
        if (why != NULL) pass_near_miss(r->cx, g, id, "linear", "%s", why);
        return NO_VAL;
    }
    if (match_op(g, in[1], OP_TRANSPOSE, &t)) {
        in[1] = t->in[0];
        a.trans = t->attr.perm[0] == 1;
    }
    pass_count(r->cx, "linear", 1);
    return rw_add(r, OP_LINEAR, in, 2, &a, NULL);
}

/* linear(x, transpose(w)) -> linear(x, w) with trans the other way */
static ValId weight_transpose(Rewrite *r, NodeId id) {
    Node *n = graph_node(r->g, id), *t = NULL;
    if (!match_op(r->g, n->in[1], OP_TRANSPOSE, &t) || t->attr.perm[0] != 1) return NO_VAL;
    n->in[1] = t->in[0];
    n->attr.trans = !n->attr.trans;
    r->edited = true;
    return NO_VAL;
}

/* linear(x, w) + b -> linear(x, w, b) */
static ValId join_bias(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id);
    for (uint32_t i = 0; i < 2; i++) {
        Node *lin = NULL;
        ValId row = n.in[1 - i];
        if (!match_op(g, n.in[i], OP_LINEAR, &lin) || !rw_once(r, n.in[i])) continue;
        if (lin->nin > 2 && val_ok(lin->in[2])) continue;
        Type to = *graph_type(g, n.out[0]);
        if (!type_eq(&to, graph_type(g, n.in[i])) || !match_row(g, row, to.dim[to.rank - 1])) continue;
        ValId in[3] = {lin->in[0], lin->in[1], NO_VAL};
        Attr a = lin->attr;
        Type vec = type_make(to.dtype, 1, &to.dim[to.rank - 1]);
        in[2] = rw_reshape(r, row, &vec);
        if (!val_ok(in[2])) return NO_VAL;
        pass_count(r->cx, "bias", 1);
        return rw_add(r, OP_LINEAR, in, 3, &a, NULL);
    }
    return NO_VAL;
}

PassResult pass_raise_linear(PassCtx *cx, Graph *g) {
    static const Rule rules[] = {
        {OP_MATMUL, "matmul(x, w) -> linear(x, w)", raise_matmul},
        {OP_LINEAR, "linear(x, transpose(w)) -> linear(x, w) {trans}", weight_transpose},
        {OP_ADD, "linear(x, w) + b -> linear(x, w, b)", join_bias},
    };
    const RuleSet set = {rules, COUNT_OF(rules)};
    return rewrite_run(cx, g, &set, 1, 8, "products");
}
