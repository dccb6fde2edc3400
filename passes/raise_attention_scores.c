/* raise_attention_scores.c: attention from softmax(scores) times v.
 *
 *   %5 = matmul(q, k^T)            scales on q, on k or on scores; masks added or selected, several
 *   %6 = softmax(... %5 ...)   ->  of them, or multiplied; softcap; casts; reshapes that merge batch and heads;
 *   %7 = matmul(%6, v)             the guard against NaN; sinks; key heads repeated for query heads
 *
 *   %7 = reshape(transpose(attention(q', k', v', mask)))       q'[batch, seq, heads, d]
 *
 * Scores and weights that activation quantisation rounds to a few bits become attention's rounding, when nothing
 * masks or caps scores before they are rounded.
 * What stands between the products is collected by raise_attention_match.c, masks are put together by
 * raise_attention_mask.c. */
#include <math.h>
#include <string.h>

#include "passes/raise_scores.h"

/* ---- operands ---- */

/* [batch, heads] of a tensor's axes before the last two. */
static bool lead_dims(Graph *g, const Type *t, Dim *batch, Dim *heads) {
    if (t->rank < 3 || t->rank > 5) return false;
    *batch = t->dim[0];
    *heads = dim_const(1);
    if (t->rank == 3) {
        Dim b = dim_sym(g, SYM_BATCH), h = dim_div(g, t->dim[0], b);
        if (dim_known(h)) {
            *batch = b;
            *heads = h;
        } else if (dim_is_const(t->dim[0])) {
            *batch = dim_const(1);
            *heads = t->dim[0];
        }
    }
    for (uint32_t i = 1; i + 2 < t->rank; i++) *heads = dim_mul(g, *heads, t->dim[i]);
    return dim_is_const(*heads) && heads->v > 0;
}

/* A product's operand as [batch, heads, rows, columns], leading axes broadcast to lead's. */
static bool operand_view(Match *m, ValId v, bool swap, const Type *lead, View *w) {
    Graph *g = m->g;
    uint32_t rank = graph_type(g, v)->rank;
    view_of(g, v, true, w);
    if (rank < 2 || rank > lead->rank) return false;
    if (rank < lead->rank) {
        Dim dims[MAX_RANK];
        for (uint32_t i = 0; i < lead->rank; i++)
            dims[i] = i + rank < lead->rank ? dim_const(1) : graph_type(g, v)->dim[i + rank - lead->rank];
        if (!view_reshape(g, w, dims, lead->rank)) return false;
    }
    for (uint32_t i = 0; i + 2 < lead->rank; i++)
        if (w->axis[i].n == 0 && !view_expand(w, i, lead->dim[i])) return false;
    if (swap) {
        uint8_t perm[MAX_RANK];
        for (uint32_t i = 0; i < lead->rank; i++) perm[i] = (uint8_t)i;
        perm[lead->rank - 2] = (uint8_t)(lead->rank - 1);
        perm[lead->rank - 1] = (uint8_t)(lead->rank - 2);
        view_transpose(w, perm);
    }
    Dim dims[4] = {m->batch, m->heads, view_dim(g, w, lead->rank - 2), view_dim(g, w, lead->rank - 1)};
    return view_reshape(g, w, dims, 4);
}

/* The same where products merge positions and heads: one key head serves all queries. */
static bool rows_views(Match *m, View *q, View *k, View *v) {
    Graph *g = m->g;
    static const uint8_t heads_first[4] = {0, 2, 1, 3}, turned[3] = {0, 2, 1};
    const Type *t = graph_type(g, m->q);
    Dim seq = dim_sym(g, SYM_SEQ);
    m->batch = t->dim[0];
    m->heads = dim_div(g, t->dim[1], seq);
    if (graph_type(g, m->kt)->rank != 3 || graph_type(g, m->v)->rank != 3 || !dim_is_const(m->heads))
        return false;
    Dim split[4] = {m->batch, seq, m->heads, t->dim[2]};
    view_of(g, m->q, true, q);
    if (!view_reshape(g, q, split, 4)) return false;
    view_transpose(q, heads_first);
    view_of(g, m->kt, true, k);
    view_transpose(k, turned);
    view_of(g, m->v, false, v);
    View *const keys[2] = {k, v};
    for (uint32_t i = 0; i < 2; i++) {
        Dim one[4] = {m->batch, dim_const(1), view_dim(g, keys[i], 1), view_dim(g, keys[i], 2)};
        if (!dim_eq(view_dim(g, keys[i], 0), m->batch) || !view_reshape(g, keys[i], one, 4) ||
            !view_expand(keys[i], 1, m->heads))
            return false;
    }
    return true;
}

/* Queries, keys and values as [batch, heads, rows, columns]. */
static bool operand_views(Match *m, ValId weights, View *q, View *k, View *v) {
    Graph *g = m->g;
    Type first = *graph_type(g, m->q), second = *graph_type(g, weights);
    const Type *kt = graph_type(g, m->kt);
    match_stop(m, m->q, "queries there do not split into batch and a known number of heads");
    if (!lead_dims(g, &first, &m->batch, &m->heads) || kt->rank > first.rank) return false;
    for (uint32_t i = 0; i + 2 < first.rank; i++) /* k may not have more heads than q */
        if (dim_eq(first.dim[i], dim_const(1)) && kt->rank == first.rank && !dim_eq(kt->dim[i], dim_const(1)))
            return match_stop(m, m->kt, "keys there have more heads than queries");
    return (operand_view(m, m->q, m->turned, &first, q) && operand_view(m, m->kt, !m->turned, &first, k) &&
            operand_view(m, m->v, false, &second, v)) ||
           match_stop(m, m->kt, "queries, keys or values do not split into batch, heads, rows and columns");
}

static void token_major(View *w) {
    static const uint8_t perm[4] = {0, 2, 1, 3};
    view_transpose(w, perm);
}

/* ---- building ---- */

/* The sinks' column as f32[heads]. */
static ValId sink_form(Match *m) {
    View w;
    view_of(m->g, m->sink, false, &w);
    if (w.rank != 4) return NO_VAL;
    for (uint32_t i = 0; i < 4; i++) {
        if (i == 1) continue;
        for (uint32_t k = 0; k < w.axis[i].n; k++)
            if (!w.made[w.axis[i].atom[k]]) return NO_VAL;
        w.axis[i].n = 0;
    }
    if (!dim_eq(view_dim(m->g, &w, 1), m->heads) || !view_reshape(m->g, &w, &m->heads, 1)) return NO_VAL;
    ValId v = view_emit(m->g, &w, m->loc, m->cx->diag);
    return val_ok(v) ? match_f32(m, v) : v;
}

/* Attention computes in fp32 whatever its operands are, so conversions of an operand say nothing. */
static void view_uncast(const Match *m, View *w) {
    for (const Node *n = match_def(m, w->src); n != NULL && n->op == OP_CAST; n = match_def(m, w->src)) {
        if (!dtype_is_float(graph_type(m->g, n->in[0])->dtype)) return;
        w->src = n->in[0];
    }
}

static ValId typed_as(Match *m, ValId v, DType t) {
    Type to = *graph_type(m->g, v);
    if (to.dtype == t) return v;
    to.dtype = t;
    return graph_add(m->g, OP_CAST, &v, 1, NULL, &to, m->loc, m->cx->diag);
}

static bool build(Match *m, View *q, View *k, View *v, bool *did) {
    Graph *g = m->g;
    Diag *d = m->cx->diag;
    View k1 = *k, v1 = *v;
    view_unexpand(&k1, 1);
    view_unexpand(&v1, 1);
    Dim kv = view_dim(g, &k1, 1);
    if (dim_eq(kv, view_dim(g, &v1, 1)) && dim_is_const(kv) && kv.v > 0 && m->heads.v % kv.v == 0) {
        *k = k1;
        *v = v1;
    }
    token_major(q);
    token_major(k);
    token_major(v);
    ValId in[7] = {NO_VAL};
    View *const views[3] = {q, k, v};
    bool alike = true;
    for (uint32_t i = 0; i < 3; i++) {
        view_uncast(m, views[i]);
        in[i] = view_emit(g, views[i], m->loc, d);
        if (!val_ok(in[i])) return false;
        alike = alike && graph_type(g, in[i])->dtype == graph_type(g, in[0])->dtype;
    }
    for (uint32_t i = 0; i < 3 && !alike; i++) {
        in[i] = typed_as(m, in[i], DT_F32);
        if (!val_ok(in[i])) return false;
    }
    if (!match_mask(m, &in[3])) return false;
    if (val_ok(m->sink)) {
        in[5] = sink_form(m);
        if (!val_ok(in[5])) {
            match_stop(m, m->sink, "the sinks are not one number a head");
            return true;
        }
    }
    if (m->rounding[0][0] > 0 || m->rounding[1][0] > 0) {
        Type t = type_make(DT_F32, 2, (Dim[]){dim_const(2), dim_const(3)});
        in[6] = graph_const(g, t, arena_dup(g->arena, m->rounding, sizeof(m->rounding)), NULL);
    }
    Attr a = attr_default();
    a.scale = (float)(m->scale * q->scale * k->scale);
    a.softcap = (float)m->softcap;
    ValId o = graph_add(g, OP_ATTENTION, in, 7, &a, NULL, m->loc, d);
    o = val_ok(o) ? typed_as(m, o, graph_type(g, m->out)->dtype) : NO_VAL;
    if (!val_ok(o)) return false;
    View w;
    view_of(g, o, false, &w);
    if (!m->rows) token_major(&w);
    const Type *t = graph_type(g, m->out);
    ValId res = NO_VAL;
    if (view_reshape(g, &w, t->dim, t->rank)) res = view_emit(g, &w, m->loc, d);
    if (val_ok(res) && v->scale != 1) {
        Type ct = type_scalar(graph_type(g, res)->dtype);
        ValId c = graph_const_f32(g, (float)v->scale);
        if (ct.dtype != DT_F32) c = graph_add(g, OP_CAST, &c, 1, NULL, &ct, m->loc, d);
        res = val_ok(c) ? match_binary(m, OP_MUL, res, c) : NO_VAL;
    }
    if (!val_ok(res)) return diag_bug(d, m->loc, "attention's result does not fit its place");
    if (!type_eq(graph_type(g, res), graph_type(g, m->out))) return true;
    graph_replace(g, m->out, res);
    *did = true;
    return true;
}

/* Leaves the primitives. Returns true, which goes on. */
static bool unmatched(Match *m) {
    if (m->cx->misses == NULL || m->why == NULL || !node_ok(m->softmax)) return true;
    const char *at = node_ok(m->off) ? graph_describe(m->g, m->off, m->cx->scratch) : "an input";
    pass_near_miss(m->cx, m->g, m->softmax, "attention", "%s: %s", at, m->why);
    return true;
}

bool raise_scores(PassCtx *cx, Graph *g, const bool *taint, size_t ntaint, NodeId id, bool *did) {
    Match m;
    memset(&m, 0, sizeof(m));
    const Node *n = graph_node(g, id);
    *did = false;
    if (n->op != OP_MATMUL) return true;
    m.cx = cx;
    m.g = g;
    m.taint = taint;
    m.ntaint = ntaint;
    m.v = n->in[1];
    m.out = n->out[0];
    m.loc = n->loc;
    m.scale = 1;
    ValId weights = n->in[0], s = match_weights(&m, weights);
    if (!val_ok(s) || !match_scores(&m, s)) return unmatched(&m);
    View q, k, v;
    bool views = m.rows ? rows_views(&m, &q, &k, &v) : operand_views(&m, weights, &q, &k, &v);
    if (!views) return unmatched(&m);
    g->insert_before = id;
    bool ok = build(&m, &q, &k, &v, did);
    if (ok && !*did) unmatched(&m);
    g->insert_before = NO_NODE;
    return ok;
}
