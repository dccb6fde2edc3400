/* simplify_arith.c: one spelling for scalar arithmetic, reductions, slices and picks.
 *
 *   add(c, x)            ->  add(x, c)           sub(x, c)   ->  add(x, -c)
 *   x * recip(y), 1 / y  ->  x / y, recip(y)     x / 4       ->  x * 0.25 (powers of two only)
 *   x ^ 2, x ^ 3         ->  x * x, (x * x) * x  x ^ 0.5     ->  sqrt(x)
 *   reduce_sum(x) / n    ->  reduce_mean(x)
 *   gather(x, 2)         ->  reshape(slice(x))
 *   slice(concat(a, b))  ->  a                   slice(slice(x)) -> slice(x) */
#include <math.h>
#include <string.h>

#include "passes/rewrite.h"

static bool is_float(Rewrite *r, ValId v) { return dtype_is_float(graph_type(r->g, v)->dtype); }

static void set_operand(Rewrite *r, NodeId id, uint32_t i, ValId v) {
    graph_node(r->g, id)->in[i] = v;
    r->edited = true;
}

/* op(c, x) -> op(x, c) */
static ValId const_right(Rewrite *r, NodeId id) {
    Node *n = graph_node(r->g, id);
    if ((op_info(n->op)->flags & F_COMM) == 0 || n->nin != 2) return NO_VAL;
    if (!match_const_like(r->g, n->in[0]) || match_const_like(r->g, n->in[1])) return NO_VAL;
    ValId c = n->in[0];
    set_operand(r, id, 0, n->in[1]);
    set_operand(r, id, 1, c);
    return NO_VAL;
}

/* op(x, c[1]) -> op(x, c) */
static ValId const_rank0(Rewrite *r, NodeId id) {
    Node *n = graph_node(r->g, id);
    if ((op_info(n->op)->flags & F_ELEM) == 0 || n->nin < 2) return NO_VAL;
    for (uint8_t i = 0; i < n->nin; i++) {
        const Type *t = graph_type(r->g, n->in[i]);
        const Const *c = graph_constant(r->g, n->in[i]);
        if (t->rank == 0 || c == NULL || c->bytes != dtype_size(t->dtype)) continue;
        uint32_t others = 0;
        for (uint8_t j = 0; j < n->nin; j++)
            if (j != i && graph_type(r->g, n->in[j])->rank > others)
                others = graph_type(r->g, n->in[j])->rank;
        if (others < t->rank) continue;
        ValId v = graph_const(r->g, type_scalar(t->dtype), c->data, NULL);
        set_operand(r, id, i, v);
        return NO_VAL;
    }
    return NO_VAL;
}

/* The operand's value when it is a scalar constant. */
static bool scalar_operand(Rewrite *r, NodeId id, uint32_t i, double *c) {
    ValId v = graph_node(r->g, id)->in[i];
    return graph_type(r->g, v)->rank == 0 && const_scalar(r->g, v, c);
}

/* x - c -> x + -c;  x - -y -> x + y */
static ValId sub_const(Rewrite *r, NodeId id) {
    Node n = *graph_node(r->g, id);
    Node *y = NULL;
    double c = 0;
    DType t = graph_type(r->g, n.out[0])->dtype;
    if (match_op(r->g, n.in[1], OP_NEG, &y)) return rw_binary(r, OP_ADD, n.in[0], y->in[0]);
    if (dtype_class(t) != DC_FLOAT && dtype_class(t) != DC_INT) return NO_VAL;
    if (!scalar_operand(r, id, 1, &c) || (dtype_class(t) == DC_INT && fabs(c) > 100)) return NO_VAL;
    return rw_binary(r, OP_ADD, n.in[0], rw_scalar(r, t, -c));
}

/* x + -y -> x - y */
static ValId add_neg(Rewrite *r, NodeId id) {
    Node n = *graph_node(r->g, id);
    for (uint32_t i = 0; i < 2; i++) {
        Node *y = NULL;
        if (match_op(r->g, n.in[i], OP_NEG, &y)) return rw_binary(r, OP_SUB, n.in[1 - i], y->in[0]);
    }
    return NO_VAL;
}

static bool power_of_two(double c) {
    int e = 0;
    return isfinite(c) && c != 0 && fabs(frexp(c, &e)) == 0.5 && e > -14 && e < 14;
}

static double reduced_count(const Graph *g, const Node *n) {
    const Type *x = graph_type(g, n->in[0]);
    double count = 1;
    for (uint32_t i = 0; i < x->rank; i++) {
        if ((n->attr.axes >> i & 1) == 0) continue;
        if (!dim_is_const(x->dim[i])) return 0;
        count *= (double)x->dim[i].v;
    }
    return count;
}

/* sum / n, sum * (1 / n) -> mean */
static ValId sum_to_mean(Rewrite *r, NodeId id) {
    Node n = *graph_node(r->g, id);
    Node *sum = NULL;
    double c = 0;
    if (!match_op(r->g, n.in[0], OP_REDUCE_SUM, &sum) || !is_float(r, n.in[0])) return NO_VAL;
    if (!scalar_operand(r, id, 1, &c) || c == 0) return NO_VAL;
    double count = reduced_count(r->g, sum), k = n.op == OP_DIV ? c : 1 / c;
    if (count == 0 || fabs(count - k) > 1e-6 * count) return NO_VAL;
    Attr a = sum->attr;
    return rw_add(r, OP_REDUCE_MEAN, &sum->in[0], 1, &a, NULL);
}

/* 1 / y -> recip(y);  x / recip(y) -> x * y;  x / 2^k -> x * 2^-k */
static ValId div_forms(Rewrite *r, NodeId id) {
    Node n = *graph_node(r->g, id);
    Node *y = NULL;
    double c = 0;
    if (!is_float(r, n.out[0])) return NO_VAL;
    if (scalar_operand(r, id, 0, &c) && c == 1) return rw_unary(r, OP_RECIP, n.in[1]);
    if (match_op(r->g, n.in[1], OP_RECIP, &y)) return rw_binary(r, OP_MUL, n.in[0], y->in[0]);
    if (!scalar_operand(r, id, 1, &c) || !power_of_two(c)) return NO_VAL;
    return rw_binary(r, OP_MUL, n.in[0], rw_scalar(r, graph_type(r->g, n.out[0])->dtype, 1 / c));
}

/* x * recip(y) -> x / y;  x * -1 -> -x */
static ValId mul_forms(Rewrite *r, NodeId id) {
    Node n = *graph_node(r->g, id);
    double c = 0;
    if (dtype_class(graph_type(r->g, n.out[0])->dtype) == DC_UINT) return NO_VAL;
    if (scalar_operand(r, id, 1, &c) && c == -1) return rw_unary(r, OP_NEG, n.in[0]);
    if (!is_float(r, n.out[0])) return NO_VAL;
    for (uint32_t i = 2; i-- > 0;) {
        Node *y = NULL;
        if (match_const_like(r->g, n.in[1 - i]) || !match_op(r->g, n.in[i], OP_RECIP, &y)) continue;
        return rw_binary(r, OP_DIV, n.in[1 - i], y->in[0]);
    }
    return NO_VAL;
}

/* (x * a) * b -> x * ab when one of them is a power of two, so that nothing is rounded twice */
static ValId mul_twice(Rewrite *r, NodeId id) {
    Node n = *graph_node(r->g, id);
    Node *inner = NULL;
    double a = 0, b = 0;
    DType t = graph_type(r->g, n.out[0])->dtype;
    if (t != DT_F32 || !match_op(r->g, n.in[0], OP_MUL, &inner) || !rw_once(r, n.in[0])) return NO_VAL;
    if (!scalar_operand(r, id, 1, &b) || graph_type(r->g, inner->in[1])->rank != 0) return NO_VAL;
    if (!const_scalar(r->g, inner->in[1], &a) || (!power_of_two(a) && !power_of_two(b))) return NO_VAL;
    return rw_binary(r, OP_MUL, inner->in[0], rw_scalar(r, t, a * b));
}

/* x ^ 2 -> x * x;  x ^ 3 -> (x * x) * x;  x ^ 0.5 -> sqrt(x);  x ^ -0.5 -> recip(sqrt(x)) */
static ValId pow_forms(Rewrite *r, NodeId id) {
    Node n = *graph_node(r->g, id);
    ValId x = NO_VAL;
    double c = 0;
    if (!match_scalar(r->g, n.out[0], OP_POW, &x, &c)) return NO_VAL;
    if (!type_eq(graph_type(r->g, x), graph_type(r->g, n.out[0]))) return NO_VAL;
    if (c == 2) return rw_binary(r, OP_MUL, x, x);
    if (c == 3) return rw_binary(r, OP_MUL, rw_binary(r, OP_MUL, x, x), x);
    if (!is_float(r, x)) return NO_VAL;
    if (c == 0.5) return rw_unary(r, OP_SQRT, x);
    if (c == -0.5) return rw_unary(r, OP_RECIP, rw_unary(r, OP_SQRT, x));
    return c == -1 ? rw_unary(r, OP_RECIP, x) : NO_VAL;
}

/* max(x, 0) -> relu(x) */
static ValId max_zero(Rewrite *r, NodeId id) {
    Node n = *graph_node(r->g, id);
    double c = 0;
    if (!is_float(r, n.out[0]) || !scalar_operand(r, id, 1, &c) || c != 0) return NO_VAL;
    return rw_unary(r, OP_RELU, n.in[0]);
}

/* eq(x, true) -> x;  eq(x, false) -> not(x), x bool */
static ValId eq_bool(Rewrite *r, NodeId id) {
    Node n = *graph_node(r->g, id);
    double c = 0;
    if (graph_type(r->g, n.in[0])->dtype != DT_BOOL || !scalar_operand(r, id, 1, &c)) return NO_VAL;
    return c != 0 ? n.in[0] : rw_unary(r, OP_NOT, n.in[0]);
}

/* reshape(reduce without keep) -> reduce with keep */
static ValId reduce_keep(Rewrite *r, NodeId id) {
    Node *n = NULL;
    ValId v = graph_node(r->g, id)->in[0];
    Type to = *graph_type(r->g, graph_node(r->g, id)->out[0]);
    if (graph_def_op(r->g, v) < OP_REDUCE_SUM || graph_def_op(r->g, v) > OP_REDUCE_PROD) return NO_VAL;
    if (!match_op(r->g, v, graph_def_op(r->g, v), &n) || n->attr.keep) return NO_VAL;
    Type kept = *graph_type(r->g, n->in[0]);
    for (uint32_t i = 0; i < kept.rank; i++)
        if ((n->attr.axes >> i & 1) != 0) kept.dim[i] = dim_const(1);
    if (!type_dims_eq(&kept, &to)) return NO_VAL;
    Attr a = n->attr;
    a.keep = true;
    return rw_add(r, n->op, &n->in[0], 1, &a, NULL);
}

/* ---- slices and picks ---- */

static ValId slice_axis(Rewrite *r, ValId x, int64_t axis, Dim start, Dim len) {
    Attr a = attr_default();
    Type t = *graph_type(r->g, x);
    a.starts[axis] = start;
    t.dim[axis] = len;
    return rw_add(r, OP_SLICE, &x, 1, &a, &t);
}

/* gather(x, one constant index) -> slice(x) without or with the axis */
static ValId gather_one(Rewrite *r, NodeId id) {
    Node n = *graph_node(r->g, id);
    Type to = *graph_type(r->g, n.out[0]), x = *graph_type(r->g, n.in[0]);
    const Type *it = graph_type(r->g, n.in[1]);
    int64_t i = 0;
    if (graph_constant(r->g, n.in[1]) == NULL || !const_get_i64(r->g, n.in[1], 0, &i)) return NO_VAL;
    for (uint32_t k = 0; k < it->rank; k++)
        if (!dim_eq(it->dim[k], dim_const(1))) return NO_VAL;
    Dim len = x.dim[n.attr.axis], start = dim_const(i);
    if (i < 0) start = dim_add(r->g, len, start);
    if (!dim_known(start) || (dim_is_const(start) && start.v < 0)) return NO_VAL;
    if (dim_is_const(len) && dim_is_const(start) && start.v >= len.v) return NO_VAL;
    return rw_reshape(r, slice_axis(r, n.in[0], n.attr.axis, start, dim_const(1)), &to);
}

/* The one axis on which a slice with step 1 is not whole; false when there is none or several. */
static bool slice_one_axis(const Graph *g, const Node *n, uint32_t *axis) {
    const Type *x = graph_type(g, n->in[0]), *t = graph_type(g, n->out[0]);
    uint32_t found = 0;
    for (uint32_t i = 0; i < t->rank; i++) {
        if (n->attr.steps[i] != 1) return false;
        if (dim_eq(n->attr.starts[i], dim_const(0)) && dim_eq(x->dim[i], t->dim[i])) continue;
        *axis = i;
        found++;
    }
    return found == 1;
}

/* slice(concat(a, b)) -> a, or the slice of the operand that it lies in */
static ValId slice_concat(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id), *c = NULL;
    uint32_t axis = 0;
    if (!match_op(g, n.in[0], OP_CONCAT, &c) || !slice_one_axis(g, &n, &axis)) return NO_VAL;
    if (c->attr.axis != (int64_t)axis) return NO_VAL;
    Dim at = dim_const(0), start = n.attr.starts[axis], len = graph_type(g, n.out[0])->dim[axis];
    for (uint8_t i = 0; i < c->nin; i++) {
        ValId x = c->in[i];
        Dim size = graph_type(g, x)->dim[axis], end = dim_add(g, at, size);
        if (dim_eq(at, start) && dim_eq(size, len)) return x;
        Dim from = dim_sub(g, start, at), rest = dim_sub(g, end, dim_add(g, start, len));
        bool inside = dim_is_const(from) && from.v >= 0 && dim_is_const(rest) && rest.v >= 0;
        if (inside) return slice_axis(r, x, (int64_t)axis, from, len);
        at = end;
    }
    return NO_VAL;
}

/* slice(slice(x)) -> slice(x), steps of 1 */
static ValId slice_twice(Rewrite *r, NodeId id) {
    Node n = *graph_node(r->g, id), *inner = NULL;
    Type to = *graph_type(r->g, n.out[0]);
    if (!match_op(r->g, n.in[0], OP_SLICE, &inner)) return NO_VAL;
    Attr a = n.attr;
    ValId x = inner->in[0];
    for (uint32_t i = 0; i < to.rank; i++) {
        if (n.attr.steps[i] != 1 || inner->attr.steps[i] != 1) return NO_VAL;
        a.starts[i] = dim_add(r->g, n.attr.starts[i], inner->attr.starts[i]);
        if (!dim_known(a.starts[i])) return NO_VAL;
    }
    return rw_add(r, OP_SLICE, &x, 1, &a, &to);
}

/* concat(slice[0, i)(x), slice[i, n)(x)) -> x */
static ValId concat_slices(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id), *s = NULL;
    Dim at = dim_const(0);
    ValId x = NO_VAL;
    for (uint8_t i = 0; i < n.nin; i++) {
        uint32_t axis = 0;
        if (!match_op(g, n.in[i], OP_SLICE, &s) || !slice_one_axis(g, s, &axis)) return NO_VAL;
        if ((i > 0 && !val_eq(x, s->in[0])) || (int64_t)axis != n.attr.axis) return NO_VAL;
        if (!dim_eq(s->attr.starts[axis], at)) return NO_VAL;
        x = s->in[0];
        at = dim_add(g, at, graph_type(g, n.in[i])->dim[axis]);
    }
    return type_eq(graph_type(g, x), graph_type(g, n.out[0])) ? x : NO_VAL;
}

/* matmul(x, c[1, k, n]) -> matmul(x, c[k, n]): the constant's data serves both shapes */
static ValId matmul_leading_ones(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id);
    const Const *c = graph_constant(g, n.in[1]);
    Type t = *graph_type(g, n.in[1]), flat = t;
    if (c == NULL || t.rank < 3 || graph_type(g, n.in[0])->rank < t.rank) return NO_VAL;
    for (uint32_t i = 0; i + 2 < t.rank; i++)
        if (!dim_eq(t.dim[i], dim_const(1))) return NO_VAL;
    flat.rank = 2;
    memcpy(flat.dim, &t.dim[t.rank - 2], 2 * sizeof(Dim));
    Const same = *c;
    ValId w = graph_const(g, flat, c->data, graph_val(g, n.in[1])->name);
    g->consts.data[graph_val(g, w)->cidx] = same;
    return rw_binary(r, OP_MATMUL, n.in[0], w);
}

static const Rule rules[] = {
    {OP_NONE, "op(c, x) -> op(x, c)", const_right},
    {OP_NONE, "op(x, c[1]) -> op(x, c)", const_rank0},
    {OP_SUB, "x - c -> x + -c, x - -y -> x + y", sub_const},
    {OP_ADD, "x + -y -> x - y", add_neg},
    {OP_DIV, "sum / n -> mean", sum_to_mean},
    {OP_MUL, "sum * (1 / n) -> mean", sum_to_mean},
    {OP_DIV, "1 / y -> recip(y), x / recip(y) -> x * y, x / 2^k -> x * 2^-k", div_forms},
    {OP_MUL, "x * recip(y) -> x / y, x * -1 -> -x", mul_forms},
    {OP_MUL, "(x * a) * b -> x * ab", mul_twice},
    {OP_POW, "small powers -> products, roots", pow_forms},
    {OP_MAX, "max(x, 0) -> relu(x)", max_zero},
    {OP_EQ, "eq(x, true) -> x", eq_bool},
    {OP_RESHAPE, "reshape(reduce(x)) -> reduce(x) {keep}", reduce_keep},
    {OP_GATHER, "gather(x, i) -> reshape(slice(x))", gather_one},
    {OP_SLICE, "slice(concat(a, b)) -> a", slice_concat},
    {OP_SLICE, "slice(slice(x)) -> slice(x)", slice_twice},
    {OP_CONCAT, "concat(slices of x) -> x", concat_slices},
    {OP_MATMUL, "matmul(x, c[1, k, n]) -> matmul(x, c[k, n])", matmul_leading_ones},
};
const RuleSet arith_rules = {rules, COUNT_OF(rules)};
