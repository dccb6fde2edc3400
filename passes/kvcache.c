/* kvcache.c: the KV cache: proof first, then insertion.
 *
 *   %5 = attention(%q, %k, %v)        %3 = concat(%past.k, %k) {axis=1}
 *                                 ->  %4 = concat(%past.v, %v) {axis=1}
 *                                     %5 = attention(%q, %3, %4)
 *
 * A graph that came without states gets a pair for every attention, keys and values as they are before
 * they are repeated for all heads; equal ones are shared. Positions become past + index. A graph that
 * came with states passes the same proof (cache_proof.c) and keeps them.
 * needs: POSITIONS, ATTENTION.  gives: STATE.  leaves alone: graphs that take no tokens. */
#include <string.h>

#include "passes/raise.h"

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
    int64_t ranges = 0;
    if (!token_scales(cx, g, &ranges)) return PASS_FAILED;
    if (!cache_prove(cx, g, &cx->proof.reason)) return PASS_FAILED;
    cx->proof.proven = true;
    cx->proof.reason = NULL;
    int64_t made = 0;
    if (g->states.count == 0 && !cache_insert(cx, g, &made)) return PASS_FAILED;
    pass_count(cx, "ranges per token", ranges);
    pass_count(cx, "states", made > 0 ? made : (int64_t)g->states.count);
    return made > 0 || ranges > 0 ? PASS_CHANGED : PASS_UNCHANGED;
}
