/* raise_attention.c: attention and rotary from primitives, in token-major form.
 *
 * 1. States that are [batch, heads, past, d] become [batch, past, heads, d]:
 *      %4 = concat(%past, %3) {axis=2}  ->  %4 = transpose(concat(%past', transpose(%3)) {axis=1})
 * 2. Rotary embeddings (raise_rope.c), then attention (raise_attention_scores.c).
 * 3. Attention that the graph already had: heads that a broadcast repeats are taken back.
 * 4. Chains of movement that came out longer than needed are rebuilt.
 * needs: CANONICAL, BOUND.  leaves alone: scores that match no form; the cache proof names them. */
#include <string.h>

#include "passes/raise.h"

/* ---- states ---- */

/* The view [batch, length, heads, d] of a state's type, and back. Stacked forms are left alone. */
static bool state_perm(const Graph *g, const State *s, uint8_t perm[4], uint8_t back[4]) {
    const Type *t = graph_type(g, s->in);
    if (t->rank != 4 || s->axis == 0 || s->axis > 3) return false;
    uint32_t n = 0;
    perm[n++] = 0;
    perm[n++] = s->axis;
    for (uint8_t i = 1; i < 4; i++)
        if (i != s->axis) perm[n++] = i;
    for (uint8_t i = 0; i < 4; i++) back[perm[i]] = i;
    return true;
}

static bool state_turn(PassCtx *cx, Graph *g, size_t index) {
    State *s = &g->states.data[index];
    uint8_t perm[4], back[4];
    NodeId cat = graph_def(g, s->out);
    if (s->axis == 1 || !state_perm(g, s, perm, back)) return true;
    if (!node_ok(cat) || graph_node(g, cat)->op != OP_CONCAT) return true;
    Node c = *graph_node(g, cat);
    if (c.nin != 2 || !val_eq(c.in[0], s->in) || c.attr.axis != s->axis) return true;
    ValId in = s->in, out = s->out;
    Type old = *graph_type(g, in), t = old;
    for (uint32_t i = 0; i < 4; i++) t.dim[i] = old.dim[perm[i]];
    graph_val(g, in)->type = t;

    g->insert_before = cat;
    ValId fresh = move_transpose(g, c.in[1], perm, c.loc, cx->diag);
    Attr a = attr_default();
    a.axis = 1;
    ValId pair[2] = {in, fresh};
    ValId now = val_ok(fresh) ? graph_add(g, OP_CONCAT, pair, 2, &a, NULL, c.loc, cx->diag) : NO_VAL;
    ValId turned = val_ok(now) ? move_transpose(g, now, back, c.loc, cx->diag) : NO_VAL;
    g->insert_before = g->first;
    ValId before = val_ok(turned) ? move_transpose(g, in, back, c.loc, cx->diag) : NO_VAL;
    g->insert_before = NO_NODE;
    if (!val_ok(before)) return false;

    NodeId keep[2] = {graph_def(g, now), graph_def(g, before)};
    graph_replace(g, in, before);
    graph_node(g, keep[0])->in[0] = in;
    graph_node(g, keep[1])->in[0] = in;
    graph_replace(g, out, turned);
    s = &g->states.data[index];
    s->in = in;
    s->out = now;
    s->axis = 1;
    return true;
}

/* The compiled program keeps its states to itself: presents are no outputs. */
static void presents_drop(Graph *g) {
    size_t n = 0;
    for (size_t i = 0; i < g->outputs.count; i++)
        if (g->outputs.data[i].role != ROLE_PRESENT) g->outputs.data[n++] = g->outputs.data[i];
    g->outputs.count = n;
}

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
    ValId in[6] = {NO_VAL};
    for (uint32_t i = 3; i < n.nin; i++) in[i] = n.in[i];
    in[0] = view_emit(g, &q, n.loc, cx->diag);
    in[1] = view_emit(g, &k, n.loc, cx->diag);
    in[2] = view_emit(g, &v, n.loc, cx->diag);
    n.attr.scale = (float)(n.attr.scale * q.scale * k.scale);
    ValId o = NO_VAL;
    if (val_ok(in[0]) && val_ok(in[1]) && val_ok(in[2]))
        o = graph_add(g, OP_ATTENTION, in, 6, &n.attr, NULL, n.loc, cx->diag);
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
    for (size_t i = 0; i < g->states.count; i++)
        if (!state_turn(cx, g, i)) return PASS_FAILED;
    if (g->states.count > 0) presents_drop(g);
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
    pass_count(cx, "attention", raised);
    pass_count(cx, "rotary", ropes);
    pass_count(cx, "grouped", tidied);
    return ropes + raised + tidied + moved + (int64_t)g->states.count > 0 ? PASS_CHANGED : PASS_UNCHANGED;
}
