/* widen.c: kernels compute in fp32, so what is no constant becomes fp32.
 *
 *   %2 : f16[batch, seq, 8] = mul(%1, %c)             %2 : f32[batch, seq, 8] = mul(%1, cast(%c))
 *   %3 : f32[batch, seq, 8] = cast(%2)            ->
 *   %4 : f16[batch, seq, 8] = add(%3', %1)            %4 : f32[batch, seq, 8] = add(%2, %1)
 *
 * Conversions between floats go. The result differs by the rounding that the graph did after every op,
 * which is why TOL_LOGITS_F16 is what it is. Constants keep their type where an op takes another beside
 * fp32 (weights of products, norms and tables).
 * After raise-position, so that tables have been computed as the graph says. */
#include "passes/raise.h"

static bool is_narrow(const Graph *g, ValId v) {
    DType t = val_ok(v) ? graph_type(g, v)->dtype : DT_NONE;
    return dtype_is_float(t) && t != DT_F32;
}

/* Ops that take another float beside fp32 from the second operand on. */
static bool mixes(Op op) { return op == OP_LINEAR || op == OP_NORM || op == OP_ROPE || op == OP_ATTENTION; }

/* Operands that nothing widened: constants. */
static bool widen_operands(Graph *g, NodeId id, int64_t *count, Diag *d) {
    Node n = *graph_node(g, id);
    for (uint8_t i = 0; i < (mixes(n.op) ? 1 : n.nin); i++) {
        if (!is_narrow(g, n.in[i])) continue;
        Type t = *graph_type(g, n.in[i]);
        t.dtype = DT_F32;
        g->insert_before = id;
        ValId v = graph_add(g, OP_CAST, &n.in[i], 1, NULL, &t, n.loc, d);
        g->insert_before = NO_NODE;
        if (!val_ok(v)) return false;
        graph_node(g, id)->in[i] = v;
        ++*count;
    }
    return true;
}

static bool widen_node(Graph *g, NodeId id, const bool *wide, int64_t *count, Diag *d) {
    Node n = *graph_node(g, id);
    int64_t before = *count;
    for (uint8_t i = 0; i < n.nout; i++) {
        if (!is_narrow(g, n.out[i])) continue;
        graph_val(g, n.out[i])->type.dtype = DT_F32;
        ++*count;
    }
    if (n.op != OP_CAST) {
        if (!widen_operands(g, id, count, d)) return false;
        return *count == before || infer_node(g, id, d);
    }
    bool floats =
        dtype_is_float(graph_type(g, n.in[0])->dtype) && dtype_is_float(graph_type(g, n.out[0])->dtype);
    if (!floats || !wide[n.in[0].id]) return true;
    graph_replace(g, n.out[0], n.in[0]);
    graph_erase(g, id);
    ++*count;
    return true;
}

/* What 8 bits hold is too coarse to be left out. */
static bool rounds_to_f8(const Graph *g, const Node *n, const bool *wide) {
    return n->op == OP_CAST && dtype_is_f8(graph_type(g, n->out[0])->dtype) && wide[n->in[0].id];
}

PassResult pass_widen(PassCtx *cx, Graph *g) {
    if (!graph_has_tokens(g)) return PASS_UNCHANGED;
    const bool *taint = graph_taint(g, cx->scratch);
    bool *wide = graph_dynamic(g, cx->scratch);
    size_t known = g->values.count;
    int64_t count = 0;
    for (size_t i = 0; i < known; i++) wide[i] = wide[i] || taint[i];
    for (size_t i = 0; i < g->inputs.count; i++) {
        ValId v = g->inputs.data[i].v;
        if (!is_narrow(g, v)) continue;
        graph_val(g, v)->type.dtype = DT_F32;
        count++;
    }
    NodeId next = NO_NODE;
    for (NodeId id = g->first; node_ok(id); id = next) {
        const Node *n = graph_node(g, id);
        next = n->next;
        if (n->nout == 0 || n->out[0].id >= known || !wide[n->out[0].id]) continue;
        if (rounds_to_f8(g, n, wide)) {
            diag_error(cx->diag, n->loc,
                       "activations are rounded to 8 bits, which kernels on rows of tokens do not do; hint: "
                       "--no-kv-cache runs the graph as it is");
            return PASS_FAILED;
        }
        if (!widen_node(g, id, wide, &count, cx->diag)) return PASS_FAILED;
    }
    pass_count(cx, "widened", count);
    return count > 0 ? PASS_CHANGED : PASS_UNCHANGED;
}
