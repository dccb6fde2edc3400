/* simplify_sink.c: movement sinks below arithmetic until it meets what undoes it.
 *
 *   gelu(reshape(x))                  ->  reshape(gelu(x))
 *   mul(transpose(x), 0.5)            ->  transpose(mul(x, 0.5))
 *   linear(reshape[m,k](x[b,s,k]))    ->  reshape[m,n](linear(x))
 *   add(broadcast(a), b)              ->  add(a, b)            broadcast only if still needed
 *   matmul(reshape(a), reshape(b))    ->  reshape(matmul(a, b))   when leading axes are merged alike */
#include "passes/rewrite.h"

static bool elementwise(const Node *n) { return (op_info(n->op)->flags & F_ELEM) != 0; }

/* An elementwise node on other operands; a cast takes its dtype from the old one. */
static ValId elementwise_on(Rewrite *r, const Node *old, const ValId *in) {
    Type t = *graph_type(r->g, in[0]);
    t.dtype = graph_type(r->g, old->out[0])->dtype;
    return rw_add(r, old->op, in, old->nin, &old->attr, old->op == OP_CAST ? &t : NULL);
}

static bool is_rank0_const(const Graph *g, ValId v) {
    return graph_constant(g, v) != NULL && graph_type(g, v)->rank == 0;
}

/* op(broadcast(a), b) -> op(a, b), broadcast again when the shape needs it */
static ValId strip_broadcasts(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id);
    ValId in[3];
    Type t = {0};
    bool any = false;
    if (!elementwise(&n) || n.nin > 3) return NO_VAL;
    for (uint8_t i = 0; i < n.nin; i++) {
        Node *b = NULL;
        in[i] = n.in[i];
        if (match_op(g, in[i], OP_BROADCAST, &b)) {
            in[i] = b->in[0];
            any = true;
        }
        if (i == 0)
            t = *graph_type(g, in[0]);
        else if (!type_broadcast(&t, graph_type(g, in[i]), &t))
            return NO_VAL;
    }
    if (!any) return NO_VAL;
    Type to = *graph_type(g, n.out[0]);
    ValId v = elementwise_on(r, &n, in);
    if (!val_ok(v) || type_dims_eq(graph_type(g, v), &to)) return v;
    return rw_typed(r, OP_BROADCAST, v, &to);
}

/* Applies the movement that defines `like` to v, whose dtype may differ. */
static ValId move_like(Rewrite *r, ValId like, ValId v) {
    Node m = *graph_node(r->g, graph_def(r->g, like));
    if (!val_ok(v)) return v;
    if (m.op == OP_TRANSPOSE) return rw_transpose(r, v, m.attr.perm);
    return rw_reshape(r, v, graph_type(r->g, like));
}

static bool is_move(const Graph *g, ValId v) {
    Op op = graph_def_op(g, v);
    return op == OP_RESHAPE || op == OP_TRANSPOSE;
}

static ValId source(const Graph *g, ValId v) { return graph_node(g, graph_def(g, v))->in[0]; }

/* f(move(x)), op(move(x), c) -> move(f(x)), move(op(x, c)) */
static ValId sink_scalar(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id);
    if (!elementwise(&n) || n.nin > 3) return NO_VAL;
    ValId in[3], moved = NO_VAL;
    for (uint8_t i = 0; i < n.nin; i++) {
        in[i] = n.in[i];
        if (is_rank0_const(g, in[i])) continue;
        if (val_ok(moved) || !is_move(g, in[i])) return NO_VAL;
        moved = in[i];
        in[i] = source(g, moved);
    }
    if (!val_ok(moved)) return NO_VAL;
    /* A view of a constant is free; others must not be kept for another user and made again here. */
    if (!rw_once(r, moved) && !match_const_like(g, moved)) return NO_VAL;
    return move_like(r, moved, elementwise_on(r, &n, in));
}

/* op(move(a), move(b)) -> move(op(a, b)) when both are moved alike */
static ValId sink_pair(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id);
    if (!elementwise(&n) || n.nin != 2 || !is_move(g, n.in[0]) || !is_move(g, n.in[1])) return NO_VAL;
    Node p = *graph_node(g, graph_def(g, n.in[0])), q = *graph_node(g, graph_def(g, n.in[1]));
    const Type *a = graph_type(g, p.in[0]), *b = graph_type(g, q.in[0]);
    if (p.op != q.op || a->rank != b->rank) return NO_VAL;
    bool once = val_eq(n.in[0], n.in[1]) || (rw_once(r, n.in[0]) && rw_once(r, n.in[1]));
    if (!once) return NO_VAL;
    if (p.op == OP_TRANSPOSE) {
        for (uint32_t i = 0; i < a->rank; i++)
            if (p.attr.perm[i] != q.attr.perm[i]) return NO_VAL;
    } else if (!type_dims_eq(a, b) || !type_dims_eq(graph_type(g, n.in[0]), graph_type(g, n.in[1]))) {
        return NO_VAL;
    }
    ValId in[2] = {p.in[0], q.in[0]};
    return move_like(r, n.in[0], elementwise_on(r, &n, in));
}

/* ---- reshapes of leading axes ---- */

/* v = reshape(x) that leaves the last `keep` axes alone. */
static bool leading_reshape(const Graph *g, ValId v, uint32_t keep, ValId *x) {
    Node *n = NULL;
    if (!match_op(g, v, OP_RESHAPE, &n)) return false;
    const Type *a = graph_type(g, n->in[0]), *b = graph_type(g, v);
    if (a->rank < keep || b->rank < keep) return false;
    for (uint32_t i = 1; i <= keep; i++)
        if (!dim_eq(a->dim[a->rank - i], b->dim[b->rank - i])) return false;
    *x = n->in[0];
    return true;
}

static bool last_axis_op(const Graph *g, const Node *n) {
    uint32_t rank = graph_type(g, n->in[0])->rank;
    switch (n->op) {
    case OP_NORM:
    case OP_LINEAR: return true;
    case OP_SOFTMAX: return n->attr.axis + 1 == (int64_t)rank;
    case OP_MATMUL: return graph_type(g, n->in[1])->rank == 2;
    case OP_REDUCE_SUM:
    case OP_REDUCE_MEAN:
    case OP_REDUCE_MAX: return n->attr.keep && rank > 0 && n->attr.axes == 1u << (rank - 1);
    default: return false;
    }
}

/* v = reshape(x) that merges the last axes of x into v's last and merges leading ones as well: x with only
 * its last axes merged. [b, s, h, d] -> [bs, hd] gives [b, s, hd]. */
static ValId split_merge(Rewrite *r, ValId v) {
    Graph *g = r->g;
    Node *n = NULL;
    if (!match_op(g, v, OP_RESHAPE, &n)) return NO_VAL;
    Type x = *graph_type(g, n->in[0]);
    const Type *to = graph_type(g, v);
    if (to->rank == 0) return NO_VAL;
    Dim last = to->dim[to->rank - 1], tail = dim_const(1);
    while (x.rank > to->rank && !dim_eq(tail, last)) tail = dim_mul(g, x.dim[--x.rank], tail);
    if (!dim_eq(tail, last) || x.rank < to->rank) return NO_VAL;
    x.dim[x.rank++] = last;
    return rw_reshape(r, n->in[0], &x);
}

/* v = reshape(x) that takes heads off the last axis of x and merges them with leading ones: x with its last
 * axis taken apart. [b, s, hd] -> [bsh, d] gives [b, s, h, d]. */
static ValId split_heads(Rewrite *r, ValId v) {
    Graph *g = r->g;
    Node *n = NULL;
    if (!match_op(g, v, OP_RESHAPE, &n)) return NO_VAL;
    Type x = *graph_type(g, n->in[0]);
    const Type *to = graph_type(g, v);
    if (to->rank == 0 || x.rank < to->rank || x.rank == MAX_RANK) return NO_VAL;
    Dim last = to->dim[to->rank - 1], heads = dim_div(g, x.dim[x.rank - 1], last);
    if (!dim_is_const(last) || !dim_is_const(heads)) return NO_VAL;
    x.dim[x.rank - 1] = heads;
    x.dim[x.rank++] = last;
    return rw_reshape(r, n->in[0], &x);
}

/* op(reshape(x), ...) -> reshape(op(x, ...)) for ops along the last axis */
static ValId sink_last_axis(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id);
    ValId x = NO_VAL, in[3] = {NO_VAL, NO_VAL, NO_VAL};
    if (n.nin == 0 || n.nin > 3 || !last_axis_op(g, &n)) return NO_VAL;
    if (!leading_reshape(g, n.in[0], 1, &x)) x = split_merge(r, n.in[0]);
    if (!val_ok(x)) x = split_heads(r, n.in[0]);
    if (!val_ok(x)) return NO_VAL;
    uint32_t rank = graph_type(g, x)->rank;
    if (n.op == OP_MATMUL && (rank < 2 || graph_type(g, n.in[0])->rank < 2)) return NO_VAL;
    for (uint8_t i = 0; i < n.nin; i++) in[i] = n.in[i];
    in[0] = x;
    Attr a = n.attr;
    if (n.op == OP_SOFTMAX) a.axis = (int64_t)rank - 1;
    if (a.axes != 0) a.axes = 1u << (rank - 1);
    Type to = *graph_type(g, n.out[0]);
    return rw_reshape(r, rw_add(r, n.op, in, n.nin, &a, NULL), &to);
}

/* op(reshape(x), row) -> reshape(op(x, row)): the row differs along the kept last axis only */
static ValId sink_row(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id);
    if (!elementwise(&n) || n.nin != 2) return NO_VAL;
    for (uint32_t i = 0; i < 2; i++) {
        ValId x = NO_VAL, in[2];
        Type row = *graph_type(g, n.in[1 - i]);
        if (!leading_reshape(g, n.in[i], 1, &x) || row.rank == 0) continue;
        if (!rw_once(r, n.in[i])) continue;
        Dim last = row.dim[row.rank - 1];
        bool is_row = match_row(g, n.in[1 - i], last);
        if (!is_row || !type_dims_eq(graph_type(g, n.in[i]), graph_type(g, n.out[0]))) continue;
        row.rank = 1;
        row.dim[0] = last;
        in[i] = x;
        in[1 - i] = rw_reshape(r, n.in[1 - i], &row);
        if (!val_ok(in[1 - i])) return NO_VAL;
        return move_like(r, n.in[i], elementwise_on(r, &n, in));
    }
    return NO_VAL;
}

/* Every axis of `to` is the product of consecutive axes of `from`; ends[i] is where axis i's end. */
static bool merges(Graph *g, const Type *from, const Type *to, uint32_t *ends) {
    uint32_t at = 0;
    for (uint32_t i = 0; i < to->rank; i++) {
        Dim d = dim_const(1);
        do {
            if (at >= from->rank) return false;
            d = dim_mul(g, d, from->dim[at++]);
        } while (!dim_eq(d, to->dim[i]));
        ends[i] = at;
    }
    return at == from->rank;
}

/* y's shape with every merged axis taken apart as x's is. */
static bool unmerge(const Type *x, const Type *to, const uint32_t *ends, const Type *y, Type *out) {
    if (y->rank > to->rank) return false;
    uint32_t skip = (uint32_t)to->rank - y->rank;
    *out = *y;
    out->rank = 0;
    for (uint32_t i = skip; i < to->rank; i++) {
        bool one = dim_eq(y->dim[i - skip], dim_const(1));
        if (!one && !dim_eq(y->dim[i - skip], to->dim[i])) return false;
        for (uint32_t j = i == 0 ? 0 : ends[i - 1]; j < ends[i]; j++)
            out->dim[out->rank++] = one ? dim_const(1) : x->dim[j];
    }
    return true;
}

/* op(reshape(x), y) -> reshape(op(x, reshape(y))) when the reshape only merges axes */
static ValId sink_merge(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id);
    if (!elementwise(&n) || n.nin != 2) return NO_VAL;
    for (uint32_t i = 0; i < 2; i++) {
        Node *m = NULL;
        uint32_t ends[MAX_RANK];
        ValId in[2];
        Type apart;
        if (!match_op(g, n.in[i], OP_RESHAPE, &m) || !rw_once(r, n.in[i])) continue;
        Type from = *graph_type(g, m->in[0]), to = *graph_type(g, n.in[i]);
        if (from.rank <= to.rank || !type_dims_eq(&to, graph_type(g, n.out[0]))) continue;
        if (!merges(g, &from, &to, ends)) continue;
        if (!unmerge(&from, &to, ends, graph_type(g, n.in[1 - i]), &apart)) continue;
        in[i] = m->in[0];
        in[1 - i] = rw_reshape(r, n.in[1 - i], &apart);
        if (!val_ok(in[1 - i])) return NO_VAL;
        return rw_reshape(r, elementwise_on(r, &n, in), &to);
    }
    return NO_VAL;
}

/* matmul(reshape(a), reshape(b)) -> reshape(matmul(a, b)) when both merge the same leading axes */
static ValId sink_matmul(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id);
    ValId a = NO_VAL, b = NO_VAL;
    if (!leading_reshape(g, n.in[0], 2, &a) || !leading_reshape(g, n.in[1], 2, &b)) return NO_VAL;
    const Type *x = graph_type(g, a), *y = graph_type(g, b);
    const Type *p = graph_type(g, n.in[0]), *q = graph_type(g, n.in[1]);
    if (x->rank != y->rank || p->rank != q->rank || x->rank <= p->rank || p->rank < 3) return NO_VAL;
    for (uint32_t i = 0; i + 2 < x->rank; i++)
        if (!dim_eq(x->dim[i], y->dim[i])) return NO_VAL;
    for (uint32_t i = 0; i + 2 < p->rank; i++)
        if (!dim_eq(p->dim[i], q->dim[i])) return NO_VAL;
    Type to = *graph_type(g, n.out[0]);
    return rw_reshape(r, rw_binary(r, OP_MATMUL, a, b), &to);
}

static const Rule rules[] = {
    {OP_NONE, "op(broadcast(a), b) -> op(a, b)", strip_broadcasts},
    {OP_NONE, "op(move(x), c) -> move(op(x, c))", sink_scalar},
    {OP_NONE, "op(move(a), move(b)) -> move(op(a, b))", sink_pair},
    {OP_NONE, "op(reshape(x), row) -> reshape(op(x, row))", sink_row},
    {OP_NONE, "op(reshape(x), y) -> reshape(op(x, reshape(y)))", sink_merge},
    {OP_NONE, "norm, linear, softmax.. (reshape(x)) -> reshape(norm(x))", sink_last_axis},
    {OP_MATMUL, "matmul(reshape(a), reshape(b)) -> reshape(matmul(a, b))", sink_matmul},
};
const RuleSet sink_rules = {rules, COUNT_OF(rules)};
