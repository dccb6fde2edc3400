/* pick.c: products, moves, pointwise work and per-head operations on some of their features (pick.h).
 *
 * A pick is a list of feature numbers: places in a row of the value, in row-major order of its static axes. Moves map
 * it to a pick of their operand, so that a joint or interleaved product of queries, keys and values is cut however its
 * slices lie. */
#include <string.h>

#include "passes/lossy/pick.h"

#define MAX_DEPTH 64

static bool is_row_dim(const Graph *g, Dim d) {
    return !dim_is_const(d) && (dim_depends(g, d, SYM_BATCH) || dim_depends(g, d, SYM_SEQ));
}

/* The row axes in order, before all static axes but those of size 1. */
static bool rows_lead(Graph *g, const Type *t, Dim rows[2], uint32_t *nrows) {
    *nrows = 0;
    bool features = false;
    for (uint32_t i = 0; i < t->rank; i++) {
        if (is_row_dim(g, t->dim[i])) {
            if (features || *nrows == 2) return false;
            rows[(*nrows)++] = t->dim[i];
        } else if (!dim_is_const(t->dim[i])) {
            return false;
        } else {
            features = features || t->dim[i].v != 1;
        }
    }
    return *nrows < 2 || dim_depends(g, rows[0], SYM_BATCH);
}

/* Both hold the same rows in the same order, so that a reshape gets from one to the other. */
static bool rows_agree(Graph *g, const Type *a, const Type *b) {
    Dim ra[2], rb[2];
    uint32_t na, nb;
    if (!rows_lead(g, a, ra, &na) || !rows_lead(g, b, rb, &nb) || na == 0 || nb == 0) return false;
    Dim pa = na == 2 ? dim_mul(g, ra[0], ra[1]) : ra[0], pb = nb == 2 ? dim_mul(g, rb[0], rb[1]) : rb[0];
    return dim_eq(pa, pb);
}

static ValId reshaped(Picker *p, ValId v, const Type *want) {
    if (!val_ok(v) || type_eq(graph_type(p->g, v), want)) return v;
    Loc loc = graph_node(p->g, graph_def(p->g, v))->loc;
    return graph_add(p->g, OP_RESHAPE, &v, 1, NULL, want, loc, p->d);
}

/* Where the picked features of a value of type `from` lie in an operand of type `to` whose axes are axis[i] of from's
 * (-1: none), at start[i] + step[i] times the coordinate. False when a row axis is cut or turned into features. */
static bool places(const Graph *g, const Type *from, const Type *to, const int32_t *axis,
                   const int64_t *start, const int64_t *step, const int32_t *pick, int64_t n, int32_t *out) {
    int64_t stride[MAX_RANK] = {0}, base = 0, run = 1;
    for (uint32_t i = to->rank; i-- > 0;) {
        if (!dim_is_const(to->dim[i])) continue;
        if (axis[i] >= 0 && is_row_dim(g, from->dim[axis[i]]) && to->dim[i].v != 1) return false;
        if (axis[i] >= 0 && (to->dim[i].v != 1 || step[i] != 1)) stride[axis[i]] += run * step[i];
        base += run * start[i];
        run *= to->dim[i].v;
    }
    for (int64_t k = 0; k < n; k++) {
        int64_t rest = pick[k], at = base;
        for (uint32_t i = from->rank; i-- > 0;) {
            if (is_row_dim(g, from->dim[i])) continue;
            at += rest % from->dim[i].v * stride[i];
            rest /= from->dim[i].v;
        }
        if (at < 0 || at >= run) return false;
        out[k] = (int32_t)at;
    }
    return true;
}

/* ---- products ---- */

static ValId pick_linear(Picker *p, NodeId id, const int32_t *pick, int64_t n, const Type *want) {
    Graph *g = p->g;
    Node node = *graph_node(g, id);
    ValId bias = node.nin > 2 ? node.in[2] : NO_VAL;
    const Type *tw = graph_type(g, node.in[1]);
    bool plain = weight_is_plain(g, node.in[1]) && (!val_ok(bias) || weight_is_plain(g, bias));
    if (tw->rank != 2 || !type_is_static(tw) || !rows_agree(g, graph_type(g, node.out[0]), want) ||
        (!plain && !p->dry))
        return NO_VAL;
    p->compressed = p->compressed || !plain;
    int64_t k = tw->dim[node.attr.trans ? 1 : 0].v, all = tw->dim[node.attr.trans ? 0 : 1].v;
    p->weights += (uint64_t)n * (uint64_t)(k + (val_ok(bias) ? 1 : 0));
    if (p->dry) return node.out[0];
    float *w, *b = NULL;
    if (!weight_read(g, node.in[1], p->scratch, &w, p->d) ||
        (val_ok(bias) && !weight_read(g, bias, p->scratch, &b, p->d)))
        return NO_VAL;
    float *cut = arena_array_of(p->scratch, (size_t)(k * n), float), *bcut = NULL;
    for (int64_t i = 0; i < n && node.attr.trans; i++)
        memcpy(cut + i * k, w + pick[i] * k, (size_t)k * sizeof *cut);
    for (int64_t r = 0; r < k && !node.attr.trans; r++)
        for (int64_t i = 0; i < n; i++) cut[r * n + i] = w[r * all + pick[i]];
    if (b != NULL) {
        bcut = arena_array_of(p->scratch, (size_t)n, float);
        for (int64_t i = 0; i < n; i++) bcut[i] = b[pick[i]];
    }
    int64_t dim[2] = {node.attr.trans ? n : k, node.attr.trans ? k : n};
    ValId in[3] = {node.in[0], weight_make(g, cut, 2, dim, node.in[1], p->d), NO_VAL};
    if (b != NULL) in[2] = weight_make(g, bcut, 1, &n, bias, p->d);
    if (!val_ok(in[1]) || (b != NULL && !val_ok(in[2]))) return NO_VAL;
    ValId out = graph_add(g, OP_LINEAR, in, 3, &node.attr, NULL, node.loc, p->d);
    return reshaped(p, out, want);
}

/* ---- moves ---- */

static ValId pick_move(Picker *p, NodeId id, const int32_t *pick, int64_t n, const Type *want) {
    Graph *g = p->g;
    Node node = *graph_node(g, id);
    const Type from = *graph_type(g, node.out[0]), to = *graph_type(g, node.in[0]);
    if (node.op == OP_RESHAPE)
        return row_is_view(g, id) ? pick_features(p, node.in[0], pick, n, want) : NO_VAL;
    int32_t axis[MAX_RANK];
    int64_t start[MAX_RANK] = {0}, step[MAX_RANK];
    for (uint32_t i = 0; i < to.rank; i++) {
        axis[i] = (int32_t)i;
        step[i] = 1;
        if (node.op != OP_SLICE) continue;
        if (!dim_is_const(node.attr.starts[i])) return NO_VAL;
        bool whole = node.attr.starts[i].v == 0 && node.attr.steps[i] == 1 && dim_eq(from.dim[i], to.dim[i]);
        if (!dim_is_const(to.dim[i]) && !whole) return NO_VAL;
        start[i] = node.attr.starts[i].v;
        step[i] = node.attr.steps[i];
    }
    for (uint32_t i = 0; i < to.rank && node.op == OP_TRANSPOSE; i++) axis[node.attr.perm[i]] = (int32_t)i;
    int32_t *moved = arena_array_of(p->scratch, (size_t)n, int32_t);
    if (!places(g, &from, &to, axis, start, step, pick, n, moved)) return NO_VAL;
    return pick_features(p, node.in[0], moved, n, want);
}

/* ---- pointwise work ---- */

/* The static axes at the end of `want` alone. */
static uint32_t feature_dims(const Graph *g, const Type *want, int64_t dim[MAX_RANK]) {
    uint32_t rank = 0;
    for (uint32_t i = 0; i < want->rank; i++)
        if (!is_row_dim(g, want->dim[i])) dim[rank++] = want->dim[i].v;
    return rank;
}

static ValId pick_operand(Picker *p, ValId v, const Type *result, const int32_t *pick, int64_t n,
                          const Type *want) {
    Graph *g = p->g;
    const Type to = *graph_type(g, v);
    size_t count;
    if (to.rank > result->rank) return NO_VAL;
    if (type_static_count(&to, &count) && count == 1 && to.rank <= want->rank) return v;
    int32_t axis[MAX_RANK], *moved = arena_array_of(p->scratch, (size_t)n, int32_t);
    int64_t start[MAX_RANK] = {0}, step[MAX_RANK];
    for (uint32_t i = 0; i < to.rank; i++) {
        axis[i] = (int32_t)(result->rank - to.rank + i);
        step[i] = 1;
    }
    RowShape rows;
    if (!places(g, result, &to, axis, start, step, pick, n, moved) || !row_shape(g, v, &rows)) return NO_VAL;
    if (rows.per_row && rows.width == 1) { /* one number for all features of a row */
        if (!rows_agree(g, &to, want)) return NO_VAL;
        Type one = *want;
        for (uint32_t i = 0; i < one.rank; i++)
            if (!is_row_dim(g, one.dim[i])) one.dim[i] = dim_const(1);
        return p->dry ? v : reshaped(p, v, &one);
    }
    if (rows.per_row) return pick_features(p, v, moved, n, want);
    if (!weight_is_plain(g, v)) return NO_VAL;
    p->weights += (uint64_t)n;
    if (p->dry) return v;
    float *all, *cut = arena_array_of(p->scratch, (size_t)n, float);
    if (!weight_read(g, v, p->scratch, &all, p->d)) return NO_VAL;
    for (int64_t i = 0; i < n; i++) cut[i] = all[moved[i]];
    int64_t dim[MAX_RANK];
    uint32_t rank = feature_dims(g, want, dim);
    return weight_make(g, cut, rank, dim, v, p->d);
}

static ValId pick_pointwise(Picker *p, NodeId id, const int32_t *pick, int64_t n, const Type *want) {
    Node node = *graph_node(p->g, id);
    const Type result = *graph_type(p->g, node.out[0]);
    ValId in[3] = {NO_VAL, NO_VAL, NO_VAL};
    if (node.nin > COUNT_OF(in)) return NO_VAL;
    for (uint8_t i = 0; i < node.nin; i++) {
        in[i] = pick_operand(p, node.in[i], &result, pick, n, want);
        if (!val_ok(in[i])) return NO_VAL;
    }
    return p->dry ? node.out[0] : graph_add(p->g, node.op, in, node.nin, &node.attr, NULL, node.loc, p->d);
}

/* ---- heads ---- */

/* The pick is whole heads of d features, as is `want`'s last axis; fills in which. */
static bool whole_heads(const int32_t *pick, int64_t n, int64_t d, int32_t *head) {
    if (n % d != 0) return false;
    for (int64_t i = 0; i < n; i++) {
        if (i % d == 0) {
            if (pick[i] % d != 0) return false;
            head[i / d] = (int32_t)(pick[i] / d);
        } else if (pick[i] != pick[i - 1] + 1) {
            return false;
        }
    }
    return true;
}

/* norm over the last axis, rope: heads are treated alike. */
static ValId pick_per_head(Picker *p, NodeId id, const int32_t *pick, int64_t n, const Type *want) {
    Node node = *graph_node(p->g, id);
    const Type *t = graph_type(p->g, node.out[0]);
    Dim d = t->dim[t->rank - 1];
    int32_t *head = arena_array_of(p->scratch, (size_t)n, int32_t);
    if (!dim_is_const(d) || !dim_eq(want->dim[want->rank - 1], d) || !whole_heads(pick, n, d.v, head) ||
        (node.op == OP_ROPE && want->rank != 4))
        return NO_VAL;
    ValId x = pick_features(p, node.in[0], pick, n, want);
    if (!val_ok(x) || p->dry) return x;
    ValId in[4] = {x, NO_VAL, NO_VAL, NO_VAL};
    memcpy(in + 1, node.in + 1, (node.nin - 1u) * sizeof *in);
    return graph_add(p->g, node.op, in, node.nin, &node.attr, NULL, node.loc, p->d);
}

static ValId pick_heads(Picker *p, ValId v, const int32_t *head, int64_t n) {
    Type want = *graph_type(p->g, v);
    int64_t d = want.dim[3].v;
    int32_t *pick = arena_array_of(p->scratch, (size_t)(n * d), int32_t);
    for (int64_t i = 0; i < n * d; i++) pick[i] = (int32_t)(head[i / d] * d + i % d);
    want.dim[2] = dim_const(n);
    return pick_features(p, v, pick, n * d, &want);
}

/* past ++ fresh with some of its heads, in place: nothing but this attention and the state may read it. */
static bool pick_state(Picker *p, ValId v, const int32_t *head, int64_t n) {
    Graph *g = p->g;
    NodeId id = graph_def(g, v);
    const State *state = NULL;
    for (size_t i = 0; i < g->states.count; i++)
        if (val_eq(g->states.data[i].out, v)) state = &g->states.data[i];
    if (state == NULL || graph_def_op(g, v) != OP_CONCAT || v.id >= p->uses->nvals ||
        p->uses->count[v.id] != 2 || p->uses->count[state->in.id] != 2)
        return false;
    Node cat = *graph_node(g, id);
    const Type *t = graph_type(g, v);
    if (cat.nin != 2 || state->axis != 1 || !val_eq(cat.in[0], state->in) || !dim_is_const(t->dim[2]))
        return false;
    p->state += (uint64_t)(n * t->dim[3].v);
    NodeId before = g->insert_before;
    g->insert_before = id;
    ValId fresh = pick_heads(p, cat.in[1], head, n);
    g->insert_before = before;
    if (!val_ok(fresh) || p->dry) return val_ok(fresh);
    graph_node(g, id)->in[1] = fresh;
    graph_val(g, v)->type.dim[2] = dim_const(n);
    graph_val(g, state->in)->type.dim[2] = dim_const(n);
    return true;
}

/* Values for each head: slopes, sinks. */
static bool pick_per_head_value(Picker *p, ValId *v, const int32_t *head, int64_t n) {
    if (!val_ok(*v) || p->dry) return true;
    float *all, *cut = arena_array_of(p->scratch, (size_t)n, float);
    if (!weight_is_plain(p->g, *v) || !weight_read(p->g, *v, p->scratch, &all, p->d)) return false;
    for (int64_t i = 0; i < n; i++) cut[i] = all[head[i]];
    *v = weight_make(p->g, cut, 1, &n, *v, p->d);
    return val_ok(*v);
}

static ValId pick_attention(Picker *p, NodeId id, const int32_t *pick, int64_t n, const Type *want) {
    Graph *g = p->g;
    Node node = *graph_node(g, id);
    const Type *tq = graph_type(g, node.in[0]), *tk = graph_type(g, node.in[1]),
               *tv = graph_type(g, node.in[2]);
    int64_t dv = tv->dim[3].v, heads = tq->dim[2].v, kv_heads = tk->dim[2].v, group = heads / kv_heads;
    if (n % dv != 0) return NO_VAL;
    int64_t count = n / dv, kept = 0;
    int32_t *head = arena_array_of(p->scratch, (size_t)count, int32_t);
    int32_t *kv = arena_array_of(p->scratch, (size_t)count, int32_t);
    if (!whole_heads(pick, n, dv, head)) return NO_VAL;
    for (int64_t i = 0; i < count; i++) {
        int32_t of = (int32_t)(head[i] / group);
        if (kept == 0 || kv[kept - 1] != of) kv[kept++] = of;
    }
    if (kept == 0 || count % kept != 0) return NO_VAL;
    for (int64_t i = 0; i < count; i++)
        if (head[i] / group != kv[i / (count / kept)]) return NO_VAL; /* groups of different sizes */
    ValId in[7] = {NO_VAL};
    memcpy(in, node.in, node.nin * sizeof *in);
    if (val_ok(in[3])) { /* a mask of its own for every head */
        const Type *tm = graph_type(g, in[3]);
        if (tm->rank >= 3 && !dim_eq(tm->dim[tm->rank - 3], dim_const(1))) return NO_VAL;
    }
    in[0] = pick_heads(p, node.in[0], head, count);
    if (!val_ok(in[0])) return NO_VAL;
    bool all_kv = kept == kv_heads;
    if (!all_kv && (!pick_state(p, in[1], kv, kept) || !pick_state(p, in[2], kv, kept))) return NO_VAL;
    if (!pick_per_head_value(p, &in[4], head, count) || !pick_per_head_value(p, &in[5], head, count))
        return NO_VAL;
    if (p->dry) return node.out[0];
    ValId out = graph_add(g, OP_ATTENTION, in, node.nin, &node.attr, NULL, node.loc, p->d);
    return reshaped(p, out, want);
}

ValId pick_features(Picker *p, ValId v, const int32_t *pick, int64_t n, const Type *want) {
    NodeId id = graph_def(p->g, v);
    RowShape rows;
    if (!node_ok(id) || n <= 0 || !row_shape(p->g, v, &rows) || !rows.per_row || p->depth >= MAX_DEPTH)
        return NO_VAL;
    p->depth++;
    ValId out = NO_VAL;
    switch (graph_node(p->g, id)->op) {
    case OP_LINEAR: out = pick_linear(p, id, pick, n, want); break;
    case OP_RESHAPE:
    case OP_TRANSPOSE:
    case OP_SLICE: out = pick_move(p, id, pick, n, want); break;
    case OP_NORM:
    case OP_ROPE: out = pick_per_head(p, id, pick, n, want); break;
    case OP_ATTENTION: out = pick_attention(p, id, pick, n, want); break;
    default: {
        uint32_t flags = op_info(graph_node(p->g, id)->op)->flags;
        if ((flags & F_ELEM) && !(flags & F_TYPED)) out = pick_pointwise(p, id, pick, n, want);
    }
    }
    p->depth--;
    return out;
}
