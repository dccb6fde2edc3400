/* last_token.c: the pick of the last token before the logits goes.
 *
 *   %5 = slice(%4) {starts=[0, -1 + seq, 0]}      %6 = linear(%4, @head)
 *   %6 = linear(%5, @head)                    ->
 *
 * What runs the graph chooses which logits it computes. Fires when all that follows the pick, up to the
 * logits, treats every position alike. leaves alone: graphs that take no tokens. */
#include "passes/raise.h"

/* x[:, seq - 1:] or x[:, seq - 1]: the axis, or -1. */
static int last_token_axis(Graph *g, const Node *n) {
    Dim seq = dim_sym(g, SYM_SEQ), last = dim_sub(g, seq, dim_const(1));
    if (n->op == OP_SLICE) {
        const Type *x = graph_type(g, n->in[0]), *t = graph_type(g, n->out[0]);
        int axis = -1;
        for (uint32_t i = 0; i < x->rank; i++) {
            if (dim_eq(x->dim[i], t->dim[i])) continue;
            if (!dim_eq(x->dim[i], seq) || !dim_eq(t->dim[i], dim_const(1)) ||
                !dim_eq(n->attr.starts[i], last) || axis >= 0)
                return -1;
            axis = (int)i;
        }
        return axis;
    }
    if (n->op != OP_GATHER || !dim_eq(graph_type(g, n->in[0])->dim[n->attr.axis], seq)) return -1;
    int64_t at;
    const Type *idx = graph_type(g, n->in[1]);
    if (idx->rank > 1 || (idx->rank == 1 && !dim_eq(idx->dim[0], dim_const(1)))) return -1;
    if (const_get_i64(g, n->in[1], 0, &at)) return at == -1 ? (int)n->attr.axis : -1;
    NodeId id = graph_def(g, n->in[1]);
    bool dim = node_ok(id) && graph_node(g, id)->op == OP_DIM && dim_eq(graph_node(g, id)->attr.value, last);
    return dim ? (int)n->attr.axis : -1;
}

static bool alike(const Graph *g, const Node *n, const bool *wide) {
    bool op = (op_info(n->op)->flags & F_ELEM) || n->op == OP_LINEAR || n->op == OP_NORM;
    if (n->op == OP_MATMUL) op = !wide[n->in[1].id] && graph_type(g, n->in[1])->rank == 2;
    if (!op || n->nout != 1) return false;
    for (uint32_t i = 0; i < n->nin; i++) /* what else is read must have no axis there */
        if (val_ok(n->in[i]) && !wide[n->in[i].id] &&
            (!value_is_weight(g, n->in[i]) || graph_type(g, n->in[i])->rank > 2))
            return false;
    return true;
}

/* A reshape that does nothing but drop the picked axis: [.., 1, ..] -> [..]. */
static bool drops_axis(const Graph *g, const Node *n, uint32_t axis) {
    if (n->op != OP_RESHAPE) return false;
    Type t = *graph_type(g, n->in[0]);
    if (axis + 1 >= t.rank || !dim_eq(t.dim[axis], dim_const(1))) return false;
    for (uint32_t i = axis; i + 1 < t.rank; i++) t.dim[i] = t.dim[i + 1];
    t.rank--;
    return type_eq(&t, graph_type(g, n->out[0]));
}

/* Takes the pick out when all that follows, up to the logits, treats every position alike. */
static bool widen(PassCtx *cx, Graph *g, NodeId from, uint32_t axis, bool *changed) {
    Node pick = *graph_node(g, from);
    bool *wide = arena_array_of(cx->scratch, g->values.count, bool), logits = false;
    wide[pick.out[0].id] = true;
    for (NodeId id = pick.next; node_ok(id); id = graph_node(g, id)->next) {
        const Node *n = graph_node(g, id);
        bool reads = false;
        for (uint32_t i = 0; i < n->nin; i++) reads = reads || (val_ok(n->in[i]) && wide[n->in[i].id]);
        if (!reads) continue;
        if (!alike(g, n, wide) && !drops_axis(g, n, axis)) return true;
        wide[n->out[0].id] = true;
    }
    for (size_t i = 0; i < g->outputs.count; i++) {
        const Port *o = &g->outputs.data[i];
        if (wide[o->v.id] && o->role != ROLE_LOGITS && !cx->opt->kv_cache)
            return true; /* it stays an output */
        logits = logits || wide[o->v.id];
    }
    for (size_t i = 0; i < g->states.count; i++) logits = logits && !wide[g->states.data[i].out.id];
    if (!logits) return true;
    graph_replace(g, pick.out[0], pick.in[0]);
    graph_erase(g, from);
    NodeId next = NO_NODE;
    for (NodeId id = pick.next; node_ok(id); id = next) {
        Node n = *graph_node(g, id);
        next = n.next;
        if (n.nout == 0 || !wide[n.out[0].id]) continue;
        if (n.op == OP_RESHAPE) {
            graph_replace(g, n.out[0], n.in[0]);
            graph_erase(g, id);
            continue;
        }
        if (n.op == OP_CAST) {
            Type t = *graph_type(g, n.in[0]);
            t.dtype = graph_type(g, n.out[0])->dtype;
            graph_val(g, n.out[0])->type = t;
        }
        if (!infer_node(g, id, cx->diag)) return false;
    }
    diag_note(cx->diag, pick.loc,
              "the graph computes the last token's logits only; the program can compute all");
    *changed = true;
    return true;
}

PassResult pass_last_token(PassCtx *cx, Graph *g) {
    const bool *taint = graph_taint(g, cx->scratch);
    size_t n = g->values.count;
    FOR_NODES (g, id) {
        const Node *node = graph_node(g, id);
        if ((node->op != OP_SLICE && node->op != OP_GATHER) || node->out[0].id >= n) continue;
        if (!taint[node->out[0].id]) continue;
        int axis = last_token_axis(g, node);
        if (axis < 0 || axis + 1 >= graph_type(g, node->in[0])->rank) continue;
        bool dropped = false;
        if (!widen(cx, g, id, (uint32_t)axis, &dropped)) return PASS_FAILED;
        if (dropped) return PASS_CHANGED;
    }
    return PASS_UNCHANGED;
}
