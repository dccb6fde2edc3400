/* raise_routed.c: products with picked experts, and what stands between a router and them.
 *
 *   matmul(%x[.., 1, K], gather(@w[E, K, N], %index[.., k]))  ->  routed(%x, %index, @w)
 *   matmul(gather(@w[E, N, K], %index), %x[.., K, 1])         ->  routed(%x, %index, @w) {trans=true}
 *   routed(%x, %index, @w) + gather(@b[E, N], %index)         ->  routed(%x, %index, @w, @b)
 *   %v, %i = topk(%x), a reader of %v                         ->  gather_elements(%x, %i)
 *   scatter_elements(splat, %i, %u) of topk's places          ->  where(any(%i == iota), ..)
 *
 * needs: CANONICAL.  leaves alone: scatters that may write a place twice. */
#include "passes/rewrite.h"

/* ---- experts ---- */

/* v as gather(w, index), w[E, A, B] a weight, perhaps with the last two axes of the result exchanged. */
static bool picked_experts(const Graph *g, ValId v, ValId *w, ValId *index, bool *turned) {
    Node *n = NULL;
    *turned = false;
    if (match_op(g, v, OP_TRANSPOSE, &n)) {
        uint32_t r = graph_type(g, v)->rank;
        for (uint32_t i = 0; i + 2 < r; i++)
            if (n->attr.perm[i] != i) return false;
        if (r < 2 || n->attr.perm[r - 1] != r - 2) return false;
        *turned = true;
        v = n->in[0];
    }
    if (!match_op(g, v, OP_GATHER, &n) || n->attr.axis != 0 || graph_type(g, n->in[0])->rank != 3)
        return false;
    *w = n->in[0];
    *index = n->in[1];
    return value_is_weight(g, *w) && dtype_is_float(graph_type(g, *w)->dtype) && !graph_constant(g, *index) &&
           graph_type(g, *index)->rank > 0;
}

/* x[rows..., k, K] that repeats one row for every slot: that row, x[rows..., K]. */
static ValId one_row(Rewrite *r, ValId x) {
    Graph *g = r->g;
    Type t = *graph_type(g, x), from;
    ValId v = x;
    uint32_t k = t.rank - 2u;
    t.dim[k] = t.dim[k + 1];
    t.rank--;
    while (graph_def_op(g, v) == OP_RESHAPE) v = graph_node(g, graph_def(g, v))->in[0];
    if (graph_def_op(g, v) != OP_BROADCAST) return x;
    from = *graph_type(g, graph_node(g, graph_def(g, v))->in[0]);
    Type wide = *graph_type(g, v), two = *graph_type(g, x);
    if (!type_dims_eq(&wide, &two) || from.rank != wide.rank || !dim_eq(from.dim[k], dim_const(1))) return x;
    for (uint32_t i = 0; i < from.rank; i++)
        if (i != k && !dim_eq(from.dim[i], wide.dim[i])) return x;
    return rw_reshape(r, graph_node(g, graph_def(g, v))->in[0], &t);
}

/* x's vector axis has length 1 in front of (left: behind) the axis that is summed over. */
static ValId routed_product(Rewrite *r, NodeId id, bool left) {
    Graph *g = r->g;
    Node n = *graph_node(g, id);
    ValId w, index, x = n.in[left ? 1 : 0];
    bool turned = false;
    Type out = *graph_type(g, n.out[0]), tx = *graph_type(g, x);
    if (!picked_experts(g, n.in[left ? 0 : 1], &w, &index, &turned)) return NO_VAL;
    Type ti = *graph_type(g, index);
    if (tx.rank != ti.rank + 2 || out.rank != tx.rank) return NO_VAL;
    if (!dim_eq(tx.dim[tx.rank - (left ? 1 : 2)], dim_const(1))) return NO_VAL;
    Dim inner = tx.dim[tx.rank - (left ? 2 : 1)];
    bool slots = ti.rank > 1 && dim_is_const(ti.dim[ti.rank - 1]);
    for (uint32_t i = 0; i < ti.rank; i++) { /* alike for all slots, or one each */
        bool same = dim_eq(tx.dim[i], ti.dim[i]);
        if (!same && !(slots && i + 1u == ti.rank && dim_eq(tx.dim[i], dim_const(1)))) return NO_VAL;
    }
    if (!slots) { /* one expert a row */
        ti.dim[ti.rank++] = dim_const(1);
        index = rw_reshape(r, index, &ti);
    }
    Type row = tx;
    bool shared = !dim_eq(tx.dim[ti.rank - 1], ti.dim[ti.rank - 1]) || !slots;
    row.rank = (uint8_t)(ti.rank + !shared);
    row.dim[row.rank - 1] = inner;
    x = rw_reshape(r, x, &row);
    if (!shared && val_ok(x)) x = one_row(r, x);
    Attr a = attr_default();
    a.trans = left != turned;
    ValId in[3] = {x, index, w};
    if (!val_ok(x) || !val_ok(index)) return NO_VAL;
    ValId y = rw_add(r, OP_ROUTED, in, 3, &a, NULL);
    pass_count(r->cx, "routed", 1);
    return val_ok(y) ? rw_reshape(r, y, &out) : y;
}

static ValId raise_product(Rewrite *r, NodeId id) {
    ValId v = routed_product(r, id, false);
    return val_ok(v) || r->failed ? v : routed_product(r, id, true);
}

/* routed(x that repeats a row, ..) -> routed(row, ..) */
static ValId share_row(Rewrite *r, NodeId id) {
    Node *n = graph_node(r->g, id);
    if (graph_type(r->g, n->in[0])->rank == graph_type(r->g, n->in[1])->rank) return NO_VAL;
    ValId x = one_row(r, n->in[0]);
    n = graph_node(r->g, id);
    if (val_eq(x, n->in[0]) || !val_ok(x)) return NO_VAL;
    n->in[0] = x;
    r->edited = true;
    return NO_VAL;
}

static ValId unreshaped(const Graph *g, ValId v) {
    while (graph_def_op(g, v) == OP_RESHAPE) v = graph_node(g, graph_def(g, v))->in[0];
    return v;
}

/* routed(x, index, w) + gather(b, index) -> routed(x, index, w, b), both perhaps reshaped alike. */
static ValId join_bias(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id), *p = NULL, *b = NULL;
    Type to = *graph_type(g, n.out[0]);
    for (uint32_t i = 0; i < 2; i++) {
        ValId y = unreshaped(g, n.in[i]), row = unreshaped(g, n.in[1 - i]);
        if (!match_op(g, y, OP_ROUTED, &p) || !match_op(g, row, OP_GATHER, &b) || p->nin > 3) continue;
        if (!rw_once(r, y) || !rw_once(r, n.in[i]) || !val_eq(b->in[1], p->in[1]) || b->attr.axis != 0)
            continue;
        if (!type_eq(graph_type(g, n.in[i]), &to) || !type_eq(graph_type(g, n.in[1 - i]), &to)) continue;
        Dim bias[2] = {graph_type(g, b->in[0])->dim[0], graph_type(g, y)->dim[graph_type(g, y)->rank - 1]};
        Type tb = type_make(graph_type(g, b->in[0])->dtype, 2, bias);
        if (!value_is_weight(g, b->in[0]) ||
            !dim_eq(type_count(g, &tb), type_count(g, graph_type(g, b->in[0]))))
            continue;
        ValId in[4] = {p->in[0], p->in[1], p->in[2], NO_VAL}, table = b->in[0];
        Attr a = p->attr;
        in[3] = rw_reshape(r, table, &tb);
        if (!val_ok(in[3])) return NO_VAL;
        ValId v = rw_add(r, OP_ROUTED, in, 4, &a, NULL);
        return val_ok(v) ? rw_reshape(r, v, &to) : v;
    }
    return NO_VAL;
}

/* ---- the router ---- */

/* Places along the axis that differ from each other. */
static bool distinct_places(const Graph *g, ValId v, int64_t axis) {
    const Node *n = node_ok(graph_def(g, v)) ? graph_node(g, graph_def(g, v)) : NULL;
    return n != NULL && n->op == OP_TOPK && graph_val(g, v)->out == 1 && n->attr.axis == axis;
}

/* bool [.., c, len, ..]: index c of the axis names the place. NO_VAL when types do not allow it. */
static ValId place_hits(Rewrite *r, const Node *n, Type *wide) {
    Graph *g = r->g;
    uint32_t axis = (uint32_t)n->attr.axis;
    Type t = *graph_type(g, n->out[0]), ti = *graph_type(g, n->in[1]), line = ti;
    *wide = ti;
    wide->rank++, line.rank++;
    for (uint32_t i = 0; i < wide->rank; i++) {
        wide->dim[i] = i <= axis ? ti.dim[i] : i == axis + 1 ? dim_const(1) : ti.dim[i - 1];
        line.dim[i] = i == axis + 1 ? t.dim[axis] : dim_const(1);
    }
    int64_t len = t.dim[axis].v;
    float *iota = arena_array_of(g->arena, (size_t)len, float);
    for (int64_t i = 0; i < len; i++) iota[i] = (float)i;
    line.dtype = DT_F32;
    ValId at = rw_reshape(r, n->in[1], wide);
    wide->dtype = DT_F32;
    return rw_binary(r, OP_EQ, rw_typed(r, OP_CAST, at, wide), graph_const(g, line, iota, NULL));
}

/* Sum over the axis of the hits' u, in front of the axis of places. */
static ValId hits_sum(Rewrite *r, ValId hit, ValId u, DType t, uint32_t axis) {
    ValId each[3] = {hit, u, rw_scalar(r, t, 0)};
    Attr sum = attr_default();
    sum.axes = 1u << axis;
    if (!val_ok(hit) || !val_ok(u)) return NO_VAL;
    ValId placed = rw_add(r, OP_WHERE, each, 3, NULL, NULL);
    return val_ok(placed) ? rw_add(r, OP_REDUCE_SUM, &placed, 1, &sum, NULL) : placed;
}

/* The result is the base but at places that an index of the row names. A place named twice needs one value
 * for all. */
static ValId raise_scatter(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id);
    double base = 0, splat = 0;
    uint32_t axis = (uint32_t)n.attr.axis;
    Type t = *graph_type(g, n.out[0]), ti = *graph_type(g, n.in[1]), wide;
    if (n.attr.reduce != 0 || t.rank == MAX_RANK || !dtype_is_float(t.dtype) || ti.dtype != DT_I64)
        return NO_VAL;
    if (!dim_is_const(t.dim[axis]) || t.dim[axis].v > 1 << 24 || !dim_is_const(ti.dim[axis])) return NO_VAL;
    for (uint32_t i = 0; i < t.rank; i++)
        if (i != axis && !dim_eq(t.dim[i], ti.dim[i])) return NO_VAL;
    bool plain = const_scalar(g, match_skip_moves(g, n.in[0]), &base);
    bool one = const_scalar(g, match_skip_moves(g, n.in[2]), &splat);
    if (!one && !distinct_places(g, n.in[1], n.attr.axis)) return NO_VAL;
    ValId hit = place_hits(r, &n, &wide);
    wide.dtype = t.dtype;
    ValId got =
        one ? rw_scalar(r, t.dtype, splat) : hits_sum(r, hit, rw_reshape(r, n.in[2], &wide), t.dtype, axis);
    if (!val_ok(got) || (!one && plain && base == 0)) return got;
    ValId any = hits_sum(r, hit, rw_scalar(r, t.dtype, 1), t.dtype, axis);
    ValId in[3] = {rw_binary(r, OP_LT, rw_scalar(r, t.dtype, 0), any), got,
                   plain ? rw_scalar(r, t.dtype, base) : n.in[0]};
    return val_ok(in[0]) ? rw_add(r, OP_WHERE, in, 3, NULL, NULL) : NO_VAL;
}

/* Places are what the kernel makes; their values are read from there. */
static bool topk_values(PassCtx *cx, Graph *g, int64_t *count) {
    Uses uses = graph_uses(g, cx->scratch);
    for (NodeId id = g->first, next; node_ok(id); id = next) {
        Node n = *graph_node(g, id);
        next = n.next;
        if (n.op != OP_TOPK || n.out[0].id >= uses.nvals || uses.count[n.out[0].id] == 0) continue;
        g->insert_before = next;
        Attr a = attr_default();
        a.axis = n.attr.axis;
        ValId in[2] = {n.in[0], n.out[1]};
        ValId v = graph_add(g, OP_GATHER_ELEMENTS, in, 2, &a, NULL, n.loc, cx->diag);
        if (!val_ok(v)) return false;
        graph_replace(g, n.out[0], v);
        ++*count;
    }
    g->insert_before = NO_NODE;
    return true;
}

/* argmax is topk of one, whose kernel there is. */
static bool argmax_places(PassCtx *cx, Graph *g, int64_t *count) {
    bool *taint = graph_taint(g, cx->scratch);
    for (NodeId id = g->first, next; node_ok(id); id = next) {
        Node n = *graph_node(g, id);
        next = n.next;
        if ((n.op != OP_ARGMAX && n.op != OP_ARGMIN) || n.attr.last || !taint[n.in[0].id]) continue;
        g->insert_before = id;
        Attr a = attr_default();
        a.axis = n.attr.axis;
        a.count = 1;
        a.smallest = n.op == OP_ARGMIN;
        Type t = *graph_type(g, n.out[0]);
        ValId v = graph_add(g, OP_TOPK, &n.in[0], 1, &a, NULL, n.loc, cx->diag);
        if (val_ok(v)) v = graph_node(g, graph_def(g, v))->out[1];
        if (val_ok(v) && !n.attr.keep) v = graph_add(g, OP_RESHAPE, &v, 1, NULL, &t, n.loc, cx->diag);
        if (!val_ok(v)) return false;
        graph_replace(g, n.out[0], v);
        ++*count;
    }
    g->insert_before = NO_NODE;
    return true;
}

/* Truth values as the numbers they stand for, in rows: bool(x) -> x != 0, float(b) -> b ? 1 : 0. */
static bool truth_casts(PassCtx *cx, Graph *g, int64_t *count) {
    bool *taint = graph_taint(g, cx->scratch);
    for (NodeId id = g->first, next; node_ok(id); id = next) {
        Node n = *graph_node(g, id);
        next = n.next;
        if (n.op != OP_CAST || !taint[n.in[0].id]) continue;
        DType from = graph_type(g, n.in[0])->dtype, to = graph_type(g, n.out[0])->dtype;
        Rewrite r = {.cx = cx, .g = g, .d = cx->diag, .node = id};
        g->insert_before = id;
        ValId v = NO_VAL;
        if (to == DT_BOOL && dtype_is_float(from)) {
            v = rw_unary(&r, OP_NOT, rw_binary(&r, OP_EQ, n.in[0], rw_scalar(&r, from, 0)));
        } else if (from == DT_BOOL && dtype_is_float(to)) {
            ValId in[3] = {n.in[0], rw_scalar(&r, to, 1), rw_scalar(&r, to, 0)};
            v = rw_add(&r, OP_WHERE, in, 3, NULL, NULL);
        }
        if (r.failed) return false;
        if (!val_ok(v)) continue;
        graph_replace(g, n.out[0], v);
        ++*count;
    }
    g->insert_before = NO_NODE;
    return true;
}

static const Rule rules[] = {
    {OP_MATMUL, "matmul(x, gather(w, index)) -> routed(x, index, w)", raise_product},
    {OP_ADD, "routed(x, index, w) + gather(b, index) -> routed(x, index, w, b)", join_bias},
    {OP_ROUTED, "routed(broadcast(x), ..) -> routed(x, ..)", share_row},
    {OP_SCATTER_ELEMENTS, "scatter_elements(splat, places, u) -> where(places == iota, u, splat)",
     raise_scatter},
};

PassResult pass_raise_routed(PassCtx *cx, Graph *g) {
    static const RuleSet set = {rules, COUNT_OF(rules)};
    int64_t values = 0;
    if (!argmax_places(cx, g, &values) || !topk_values(cx, g, &values) || !truth_casts(cx, g, &values))
        return PASS_FAILED;
    PassResult res = rewrite_run(cx, g, &set, 1, 4, "routing rules");
    return res == PASS_UNCHANGED && values > 0 ? PASS_CHANGED : res;
}
