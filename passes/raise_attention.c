/* raise_attention.c: attention and rotary from primitives, in token-major form.
 *
 * 1. States are turned to [batch, past, heads, d] (state_form.c).
 * 2. Rotary embeddings (raise_rope.c), then attention (raise_attention_scores.c).
 * 3. Attention that the graph already had: heads that a broadcast repeats are taken back.
 * 4. Chains of movement that came out longer than needed are rebuilt; states get the form that attention
 *    reads (state_form.c).
 * needs: CANONICAL, BOUND.  leaves alone: scores that match no form; the cache proof names them. */
#include <string.h>

#include "passes/raise.h"

/* ---- attention that was there ---- */

/* Key heads that were repeated, scales on q or k. */
static bool attention_tidy(PassCtx *cx, Graph *g, NodeId id, bool *did) {
    Node n = *graph_node(g, id);
    View q, k, v;
    view_of(g, n.in[0], true, &q);
    view_of(g, n.in[1], true, &k);
    view_of(g, n.in[2], false, &v);
    View k1 = k, v1 = v;
    view_unexpand(&k1, 2);
    view_unexpand(&v1, 2);
    Dim kv = view_dim(g, &k1, 2), heads = graph_type(g, n.in[0])->dim[2];
    bool fewer = dim_eq(kv, view_dim(g, &v1, 2)) && dim_is_const(kv) && kv.v > 0 && heads.v % kv.v == 0 &&
                 !dim_eq(kv, view_dim(g, &k, 2));
    if (!fewer && q.scale * k.scale == 1) return true;
    if (fewer) {
        k = k1;
        v = v1;
    }
    g->insert_before = id;
    ValId in[7] = {NO_VAL};
    for (uint32_t i = 3; i < n.nin; i++) in[i] = n.in[i];
    in[0] = view_emit(g, &q, n.loc, cx->diag);
    in[1] = view_emit(g, &k, n.loc, cx->diag);
    in[2] = view_emit(g, &v, n.loc, cx->diag);
    n.attr.scale = (float)(n.attr.scale * q.scale * k.scale);
    ValId o = NO_VAL;
    if (val_ok(in[0]) && val_ok(in[1]) && val_ok(in[2]))
        o = graph_add(g, OP_ATTENTION, in, 7, &n.attr, NULL, n.loc, cx->diag);
    g->insert_before = NO_NODE;
    if (!val_ok(o)) return false;
    graph_replace(g, n.out[0], o);
    *did = true;
    return true;
}

PassResult pass_raise_attention(PassCtx *cx, Graph *g) {
    if (!graph_has_tokens(g)) return PASS_UNCHANGED;
    int64_t ropes = 0, raised = 0, tidied = 0;
    position_bound(cx, g);
    if (!states_turn(cx, g)) return PASS_FAILED;
    if (!raise_ropes(cx, g, &ropes)) return PASS_FAILED;
    size_t ntaint = g->values.count;
    const bool *taint = graph_taint(g, cx->scratch);
    FOR_NODES (g, id) {
        bool did = false;
        if (graph_node(g, id)->op == OP_MATMUL) {
            if (!raise_scores(cx, g, taint, ntaint, id, &did)) return PASS_FAILED;
            raised += did;
        } else if (graph_node(g, id)->op == OP_ATTENTION) {
            if (!attention_tidy(cx, g, id, &did)) return PASS_FAILED;
            tidied += did;
        }
    }
    int64_t moved = moves_shorten(cx, g);
    if (!states_fit(cx, g)) return PASS_FAILED;
    pass_count(cx, "attention", raised);
    pass_count(cx, "rotary", ropes);
    pass_count(cx, "grouped", tidied);
    return ropes + raised + tidied + moved + (int64_t)g->states.count > 0 ? PASS_CHANGED : PASS_UNCHANGED;
}
