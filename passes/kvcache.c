/* kvcache.c: the KV cache: proof first, then insertion.
 *
 *   %5 = attention(%q, %k, %v)        %3 = concat(%past.k, %k) {axis=1}
 *                                 ->  %4 = concat(%past.v, %v) {axis=1}
 *                                     %5 = attention(%q, %3, %4)
 *
 * A graph that came without states gets a pair for every attention, keys and values as they are before
 * they are repeated for all heads; equal ones are shared. Positions become past + index. A graph that
 * came with states passes the same proof (cache_proof.c) and keeps them. A last-token pick before the
 * logits is dropped: the program chooses which logits it computes.
 * needs: POSITIONS, ATTENTION.  gives: STATE.  leaves alone: graphs that take no tokens. */
#include <string.h>

#include "passes/raise.h"

/* ---- the pick of the last token ---- */

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
    for (size_t i = 0; i < g->outputs.count; i++) logits = logits || wide[g->outputs.data[i].v.id];
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

static bool last_token_drop(PassCtx *cx, Graph *g, bool *changed) {
    const bool *taint = graph_taint(g, cx->scratch);
    size_t n = g->values.count;
    FOR_NODES (g, id) {
        const Node *node = graph_node(g, id);
        if ((node->op != OP_SLICE && node->op != OP_GATHER) || node->out[0].id >= n) continue;
        if (!taint[node->out[0].id]) continue;
        int axis = last_token_axis(g, node);
        if (axis < 0 || axis + 1 >= graph_type(g, node->in[0])->rank) continue;
        bool dropped = false;
        if (!widen(cx, g, id, (uint32_t)axis, &dropped)) return false;
        *changed = *changed || dropped;
        if (dropped) return true;
    }
    return true;
}

/* ---- insertion ---- */

static ValId state_add(PassCtx *cx, Graph *g, ValId fresh, int64_t layer, const char *what, Loc loc) {
    for (size_t i = 0; i < g->states.count; i++) {
        NodeId cat = graph_def(g, g->states.data[i].out);
        if (node_ok(cat) && val_eq(graph_node(g, cat)->in[1], fresh)) return g->states.data[i].out;
    }
    const char *name = arena_printf(g->arena, "layer.%lld.%s", (long long)layer, what);
    Type t = *graph_type(g, fresh);
    t.dim[1] = dim_sym(g, SYM_PAST);
    ValId in = graph_input(g, name, t, ROLE_PAST);
    ValId pair[2] = {in, fresh};
    Attr a = attr_default();
    a.axis = 1;
    ValId out = graph_add(g, OP_CONCAT, pair, 2, &a, NULL, loc, cx->diag);
    State s = {name, in, out, 1};
    if (val_ok(out)) VEC_PUSH(g->arena, &g->states, s);
    return out;
}

/* Index along seq becomes past + index wherever it is read. */
static bool positions_offset(PassCtx *cx, Graph *g) {
    Dim seq = dim_sym(g, SYM_SEQ);
    Type line = type_make(DT_I64, 1, &seq), scalar = type_scalar(DT_I64);
    Attr a = attr_default();
    a.value = dim_sym(g, SYM_PAST);
    size_t count = g->nodes.count;
    for (NodeId id = g->first; node_ok(id); id = graph_node(g, id)->next) {
        Node n = *graph_node(g, id);
        if (id.id >= count || n.op != OP_IOTA || !type_eq(graph_type(g, n.out[0]), &line)) continue;
        NodeId next = n.next;
        if (node_ok(next) && graph_node(g, next)->op == OP_DIM) next = graph_node(g, next)->next;
        if (node_ok(next) && graph_node(g, next)->op == OP_ADD &&
            row_is_positions(g, graph_node(g, next)->out[0]))
            continue;
        g->insert_before = n.next;
        ValId past = graph_add(g, OP_DIM, NULL, 0, &a, &scalar, n.loc, cx->diag);
        ValId pair[2] = {n.out[0], past};
        ValId sum = val_ok(past) ? graph_add(g, OP_ADD, pair, 2, NULL, NULL, n.loc, cx->diag) : NO_VAL;
        g->insert_before = NO_NODE;
        if (!val_ok(sum)) return false;
        graph_replace(g, n.out[0], sum);
        graph_node(g, graph_def(g, sum))->in[0] = n.out[0];
    }
    return true;
}

static bool cache_insert(PassCtx *cx, Graph *g, int64_t *count) {
    if (!positions_offset(cx, g)) return false;
    int64_t layer = 0;
    FOR_NODES (g, id) {
        if (graph_node(g, id)->op != OP_ATTENTION) continue;
        Loc loc = graph_node(g, id)->loc;
        g->insert_before = id;
        for (uint32_t i = 1; i <= 2; i++) {
            ValId now = state_add(cx, g, graph_node(g, id)->in[i], layer, i == 1 ? "key" : "value", loc);
            if (!val_ok(now)) return false;
            graph_node(g, id)->in[i] = now;
        }
        g->insert_before = NO_NODE;
        layer++;
    }
    *count = (int64_t)g->states.count;
    return true;
}

PassResult pass_kvcache(PassCtx *cx, Graph *g) {
    cx->proof.proven = false;
    if (!graph_has_tokens(g)) {
        cx->proof.reason = "the graph takes no tokens";
        return PASS_UNCHANGED;
    }
    if (!cx->opt->kv_cache) {
        cx->proof.reason = "--no-kv-cache";
        return PASS_UNCHANGED;
    }
    bool changed = false;
    int64_t ranges = 0;
    if (!token_scales(cx, g, &ranges)) return PASS_FAILED;
    changed = ranges > 0;
    if (!last_token_drop(cx, g, &changed)) return PASS_FAILED;
    if (!cache_prove(cx, g, &cx->proof.reason)) return PASS_FAILED;
    cx->proof.proven = true;
    cx->proof.reason = NULL;
    int64_t made = 0;
    if (g->states.count == 0 && !cache_insert(cx, g, &made)) return PASS_FAILED;
    pass_count(cx, "ranges per token", ranges);
    pass_count(cx, "states", made > 0 ? made : (int64_t)g->states.count);
    return made > 0 || changed ? PASS_CHANGED : PASS_UNCHANGED;
}
