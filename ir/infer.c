/* infer.c: result types from operand types, one function per rule named in ops.def.
 *
 * Symbolic dimensions are equal when their handles are. What cannot be proven from types (that a
 * symbolic slice stays inside its operand) is left to the evaluation; what they contradict is an
 * error here, with all operand types in the message. */
#include <stdio.h>
#include <string.h>

#include "ir/ir.h"

typedef struct {
    Graph *g;
    const Node *n;
    Diag *d;
} Infer;

typedef bool InferFn(Infer *c);

static const Type *operand(const Infer *c, uint32_t i) {
    if (i >= c->n->nin || !val_ok(c->n->in[i])) return NULL;
    return graph_type(c->g, c->n->in[i]);
}

static const Type *given(const Infer *c) { return graph_type(c->g, c->n->out[0]); }

static bool set_type(Infer *c, uint32_t out, Type t) {
    graph_val(c->g, c->n->out[out])->type = t;
    return true;
}

/* Reports "OP: WHAT; operands T, T[, result T]". */
static bool fail(Infer *c, const char *what) {
    const OpInfo *info = op_info(c->n->op);
    Text t = text_new(c->d->arena);
    text_printf(&t, "%s: %s", info->name, what);
    for (uint32_t i = 0; i < c->n->nin && i < 8; i++) {
        text_add(&t, i == 0 ? "; operands " : ", ");
        const Type *ty = operand(c, i);
        if (ty == NULL)
            text_add(&t, "_");
        else
            type_print(&t, c->g, ty);
    }
    if (c->n->nin > 8) text_add(&t, ", ...");
    if (info->flags & F_TYPED) {
        text_add(&t, c->n->nin == 0 ? "; result " : ", result ");
        type_print(&t, c->g, given(c));
    }
    return diag_error(c->d, c->n->loc, "%s", t.data);
}

static bool is_numeric(DType t) { return dtype_is_int(t) || dtype_is_float(t); }

static bool axis_ok(const Infer *c, const Type *x) {
    return c->n->attr.axis >= 0 && c->n->attr.axis < x->rank;
}

static bool dims_eq(const Type *a, const Type *b) {
    if (a->rank != b->rank) return false;
    for (uint32_t i = 0; i < a->rank; i++) {
        if (!dim_eq(a->dim[i], b->dim[i])) return false;
    }
    return true;
}

static bool push_dim(Type *t, Dim d) {
    if (t->rank >= MAX_RANK) return false;
    t->dim[t->rank++] = d;
    return true;
}

/* The type that an F_TYPED op brings must itself be sound. */
static bool given_ok(Infer *c) {
    const Type *t = given(c);
    if (t->dtype <= DT_NONE || t->dtype >= DT_COUNT) return fail(c, "the result has no dtype");
    if (t->rank > MAX_RANK) return fail(c, "the result's rank is above 8");
    for (uint32_t i = 0; i < t->rank; i++) {
        Dim d = t->dim[i];
        if (!dim_known(d)) return fail(c, "a dimension of the result is not known");
        if (dim_is_const(d) && d.v < 0) return fail(c, "a dimension of the result is negative");
    }
    return true;
}

/* ---- elementwise ---- */

static bool unary_takes(Op op, DType t) {
    switch (op) {
    case OP_NOT: return t == DT_BOOL;
    case OP_TRIL:
    case OP_TRIU: return true;
    case OP_NEG:
    case OP_ABS:
    case OP_SIGN:
    case OP_RELU:
    case OP_CUMSUM: return is_numeric(t);
    default: return dtype_is_float(t);
    }
}

static bool infer_same(Infer *c) {
    const Type *x = operand(c, 0);
    Op op = c->n->op;
    if (!unary_takes(op, x->dtype)) return fail(c, "not defined for this dtype");
    if ((op == OP_TRIL || op == OP_TRIU) && x->rank < 2) return fail(c, "needs two axes or more");
    if ((op == OP_CUMSUM || op == OP_SOFTMAX) && !axis_ok(c, x))
        return fail(c, "axis is outside the operand's rank");
    return set_type(c, 0, *x);
}

static bool infer_test(Infer *c) {
    Type t = *operand(c, 0);
    if (!dtype_is_float(t.dtype)) return fail(c, "not defined for this dtype");
    t.dtype = DT_BOOL;
    return set_type(c, 0, t);
}

static bool infer_typed_like(Infer *c) {
    if (!given_ok(c)) return false;
    if (!dims_eq(operand(c, 0), given(c))) return fail(c, "the result's shape is not the operand's");
    return true;
}

static bool broadcast_pair(Infer *c, Type *out) {
    if (!type_broadcast(operand(c, 0), operand(c, 1), out)) return fail(c, "shapes do not broadcast");
    return true;
}

static bool infer_binary(Infer *c) {
    const Type *a = operand(c, 0), *b = operand(c, 1);
    Type t = {0};
    if (a->dtype != b->dtype) return fail(c, "operands have different dtypes");
    bool ok = is_numeric(a->dtype);
    if (c->n->op == OP_AND || c->n->op == OP_OR || c->n->op == OP_XOR)
        ok = a->dtype == DT_BOOL || dtype_is_int(a->dtype);
    else if (c->n->op == OP_MIN || c->n->op == OP_MAX)
        ok = true;
    if (!ok) return fail(c, "not defined for this dtype");
    if (!broadcast_pair(c, &t)) return false;
    t.dtype = a->dtype;
    return set_type(c, 0, t);
}

static bool infer_binary_left(Infer *c) {
    const Type *a = operand(c, 0), *b = operand(c, 1);
    Type t = {0};
    if (!is_numeric(a->dtype) || !is_numeric(b->dtype)) return fail(c, "not defined for this dtype");
    if (!broadcast_pair(c, &t)) return false;
    t.dtype = a->dtype;
    return set_type(c, 0, t);
}

static bool infer_compare(Infer *c) {
    const Type *a = operand(c, 0), *b = operand(c, 1);
    Type t = {0};
    if (a->dtype != b->dtype) return fail(c, "operands have different dtypes");
    if (c->n->op != OP_EQ && !is_numeric(a->dtype)) return fail(c, "not defined for this dtype");
    if (!broadcast_pair(c, &t)) return false;
    t.dtype = DT_BOOL;
    return set_type(c, 0, t);
}

static bool infer_where(Infer *c) {
    const Type *cond = operand(c, 0), *a = operand(c, 1), *b = operand(c, 2);
    Type ab = {0}, t = {0};
    if (cond->dtype != DT_BOOL) return fail(c, "the condition is not bool");
    if (a->dtype != b->dtype) return fail(c, "operands have different dtypes");
    if (!type_broadcast(a, b, &ab) || !type_broadcast(cond, &ab, &t))
        return fail(c, "shapes do not broadcast");
    t.dtype = a->dtype;
    return set_type(c, 0, t);
}

/* ---- sources ---- */

static bool infer_typed(Infer *c) {
    if (!given_ok(c)) return false;
    const Type *t = given(c);
    if (c->n->op == OP_DIM) {
        if (t->rank != 0 || !dtype_is_int(t->dtype)) return fail(c, "the result is not an integer scalar");
        if (!dim_known(c->n->attr.value)) return fail(c, "the dimension is not known");
        return true;
    }
    if (!is_numeric(t->dtype)) return fail(c, "not defined for this dtype");
    if (!axis_ok(c, t)) return fail(c, "axis is outside the result's rank");
    return true;
}

/* ---- movement ---- */

static bool infer_reshape(Infer *c) {
    if (!given_ok(c)) return false;
    const Type *x = operand(c, 0), *t = given(c);
    if (x->dtype != t->dtype) return fail(c, "the result's dtype is not the operand's");
    if (dims_eq(x, t)) return true;
    if (!dim_eq(type_count(c->g, x), type_count(c->g, t)))
        return fail(c, "the result does not have as many elements as the operand");
    return true;
}

static bool infer_transpose(Infer *c) {
    const Type *x = operand(c, 0);
    Type t = *x;
    uint32_t seen = 0;
    for (uint32_t i = 0; i < x->rank; i++) {
        uint32_t p = c->n->attr.perm[i];
        if (p >= x->rank || (seen >> p & 1u)) return fail(c, "perm is not a permutation of the axes");
        seen |= 1u << p;
        t.dim[i] = x->dim[p];
    }
    return set_type(c, 0, t);
}

static bool infer_broadcast(Infer *c) {
    if (!given_ok(c)) return false;
    const Type *x = operand(c, 0), *t = given(c);
    if (x->dtype != t->dtype) return fail(c, "the result's dtype is not the operand's");
    bool ok = x->rank <= t->rank;
    for (uint32_t i = 0; ok && i < x->rank; i++) {
        Dim from = x->dim[i], to = t->dim[t->rank - x->rank + i];
        ok = dim_eq(from, to) || dim_eq(from, dim_const(1));
    }
    if (!ok) return fail(c, "the operand does not broadcast to the result");
    return true;
}

static bool infer_slice(Infer *c) {
    if (!given_ok(c)) return false;
    const Type *x = operand(c, 0), *t = given(c);
    if (x->dtype != t->dtype) return fail(c, "the result's dtype is not the operand's");
    if (x->rank != t->rank) return fail(c, "the result's rank is not the operand's");
    for (uint32_t i = 0; i < x->rank; i++) {
        Dim start = c->n->attr.starts[i];
        int64_t step = c->n->attr.steps[i], last = 0;
        if (step == 0) return fail(c, "a step is 0");
        if (!dim_known(start)) return fail(c, "a start is not known");
        if (!dim_is_const(t->dim[i])) continue;
        if (t->dim[i].v == 0) continue;
        if (!dim_is_const(start)) continue;
        if (start.v < 0) return fail(c, "a start is negative");
        if (!mul_i64(t->dim[i].v - 1, step, &last) || !add_i64(last, start.v, &last) || last < 0)
            return fail(c, "reaches outside the operand");
        if (dim_is_const(x->dim[i]) && (start.v >= x->dim[i].v || last >= x->dim[i].v))
            return fail(c, "reaches outside the operand");
    }
    return true;
}

static bool infer_concat(Infer *c) {
    Type t = *operand(c, 0);
    if (!axis_ok(c, &t)) return fail(c, "axis is outside the operands' rank");
    uint32_t axis = (uint32_t)c->n->attr.axis;
    for (uint32_t i = 1; i < c->n->nin; i++) {
        const Type *x = operand(c, i);
        if (x == NULL) return fail(c, "an operand is missing");
        if (x->dtype != t.dtype) return fail(c, "operands have different dtypes");
        if (x->rank != t.rank) return fail(c, "operands have different ranks");
        for (uint32_t k = 0; k < t.rank; k++) {
            if (k != axis && !dim_eq(x->dim[k], t.dim[k])) return fail(c, "operands differ beside the axis");
        }
        t.dim[axis] = dim_add(c->g, t.dim[axis], x->dim[axis]);
    }
    if (!dim_known(t.dim[axis])) return fail(c, "the length cannot be expressed");
    return set_type(c, 0, t);
}

static bool infer_pad(Infer *c) {
    if (!given_ok(c)) return false;
    const Type *x = operand(c, 0), *fill = operand(c, 1), *t = given(c);
    if (x->dtype != t->dtype || fill->dtype != t->dtype)
        return fail(c, "operands and result have different dtypes");
    if (fill->rank != 0) return fail(c, "the fill is not a scalar");
    if (x->rank != t->rank) return fail(c, "the result's rank is not the operand's");
    for (uint32_t i = 0; i < x->rank; i++) {
        Dim start = c->n->attr.starts[i], end = dim_add(c->g, start, x->dim[i]);
        if (!dim_known(start)) return fail(c, "a start is not known");
        if (dim_is_const(start) && start.v < 0)
            return fail(c, "a start is negative; hint: slice the operand to crop it");
        if (dim_is_const(end) && dim_is_const(t->dim[i]) && end.v > t->dim[i].v)
            return fail(c, "the operand does not fit into the result");
    }
    return true;
}

static bool infer_gather(Infer *c) {
    const Type *x = operand(c, 0), *idx = operand(c, 1);
    Type t = {.dtype = x->dtype};
    if (!dtype_is_int(idx->dtype)) return fail(c, "indices are not integers");
    if (!axis_ok(c, x)) return fail(c, "axis is outside the operand's rank");
    bool ok = true;
    for (uint32_t i = 0; i < x->rank; i++) {
        if (i != (uint32_t)c->n->attr.axis) {
            ok = ok && push_dim(&t, x->dim[i]);
            continue;
        }
        for (uint32_t k = 0; k < idx->rank; k++) ok = ok && push_dim(&t, idx->dim[k]);
    }
    if (!ok) return fail(c, "the result's rank is above 8");
    return set_type(c, 0, t);
}

/* The length of index tuples: the constant last dimension of the indices. */
static bool tuple_length(Infer *c, const Type *idx, int64_t most, uint32_t *out) {
    if (!dtype_is_int(idx->dtype)) return fail(c, "indices are not integers");
    if (idx->rank == 0) return fail(c, "indices have no axis of tuples");
    Dim last = idx->dim[idx->rank - 1];
    if (!dim_is_const(last)) return fail(c, "the length of the index tuples is not constant");
    if (last.v < 1 || last.v > most) return fail(c, "index tuples do not fit the operand's rank");
    *out = (uint32_t)last.v;
    return true;
}

static bool infer_gather_nd(Infer *c) {
    const Type *x = operand(c, 0), *idx = operand(c, 1);
    int64_t batch = c->n->attr.batch_dims;
    uint32_t len = 0;
    if (batch < 0 || batch >= x->rank || batch >= idx->rank)
        return fail(c, "batch_dims is outside the operands' ranks");
    if (!tuple_length(c, idx, x->rank - batch, &len)) return false;
    uint32_t b = (uint32_t)batch;
    for (uint32_t i = 0; i < b; i++) {
        if (!dim_eq(x->dim[i], idx->dim[i])) return fail(c, "batch dimensions differ");
    }
    Type t = {.dtype = x->dtype};
    bool ok = true;
    for (uint32_t i = 0; i + 1 < idx->rank; i++) ok = ok && push_dim(&t, idx->dim[i]);
    for (uint32_t i = b + len; i < x->rank; i++) ok = ok && push_dim(&t, x->dim[i]);
    if (!ok) return fail(c, "the result's rank is above 8");
    return set_type(c, 0, t);
}

/* Where lengths are known, indices may not reach past x beside the axis. */
static bool beside_axis_fits(const Type *x, const Type *idx, int64_t axis) {
    for (uint32_t i = 0; i < x->rank; i++) {
        if (i == (uint32_t)axis || dim_eq(x->dim[i], idx->dim[i])) continue;
        if (dim_is_const(x->dim[i]) && dim_is_const(idx->dim[i]) && idx->dim[i].v > x->dim[i].v) return false;
    }
    return true;
}

static bool infer_gather_elements(Infer *c) {
    const Type *x = operand(c, 0), *idx = operand(c, 1);
    if (!dtype_is_int(idx->dtype)) return fail(c, "indices are not integers");
    if (x->rank != idx->rank) return fail(c, "indices do not have the operand's rank");
    if (!axis_ok(c, x)) return fail(c, "axis is outside the operand's rank");
    if (!beside_axis_fits(x, idx, c->n->attr.axis))
        return fail(c, "indices are longer than the operand beside the axis");
    Type t = *idx;
    t.dtype = x->dtype;
    return set_type(c, 0, t);
}

static bool infer_scatter(Infer *c) {
    const Type *x = operand(c, 0), *idx = operand(c, 1), *upd = operand(c, 2);
    if (upd->dtype != x->dtype) return fail(c, "updates do not have the operand's dtype");
    if (c->n->attr.reduce < 0 || c->n->attr.reduce > 4) return fail(c, "reduce is not 0 to 4");
    if (c->n->attr.reduce != 0 && x->dtype == DT_BOOL) return fail(c, "bools cannot be reduced");
    if (c->n->op == OP_SCATTER_ELEMENTS) {
        if (!dtype_is_int(idx->dtype)) return fail(c, "indices are not integers");
        if (x->rank != idx->rank) return fail(c, "indices do not have the operand's rank");
        if (!axis_ok(c, x)) return fail(c, "axis is outside the operand's rank");
        if (!dims_eq(idx, upd)) return fail(c, "updates do not have the indices' shape");
        if (!beside_axis_fits(x, idx, c->n->attr.axis))
            return fail(c, "indices are longer than the operand beside the axis");
        return set_type(c, 0, *x);
    }
    uint32_t len = 0;
    if (!tuple_length(c, idx, x->rank, &len)) return false;
    Type want = {.dtype = x->dtype};
    bool ok = true;
    for (uint32_t i = 0; i + 1 < idx->rank; i++) ok = ok && push_dim(&want, idx->dim[i]);
    for (uint32_t i = len; i < x->rank; i++) ok = ok && push_dim(&want, x->dim[i]);
    if (!ok || !dims_eq(&want, upd)) return fail(c, "updates do not have the shape of what is picked");
    return set_type(c, 0, *x);
}

/* ---- reductions ---- */

static bool infer_reduce(Infer *c) {
    const Type *x = operand(c, 0);
    uint32_t axes = c->n->attr.axes;
    bool any = c->n->op == OP_REDUCE_MAX || c->n->op == OP_REDUCE_MIN;
    if (!any && !is_numeric(x->dtype)) return fail(c, "not defined for this dtype");
    if (axes >> x->rank != 0) return fail(c, "an axis is outside the operand's rank");
    Type t = {.dtype = x->dtype};
    for (uint32_t i = 0; i < x->rank; i++) {
        if (!(axes >> i & 1u))
            t.dim[t.rank++] = x->dim[i];
        else if (c->n->attr.keep)
            t.dim[t.rank++] = dim_const(1);
    }
    return set_type(c, 0, t);
}

static bool infer_arg(Infer *c) {
    const Type *x = operand(c, 0);
    if (!axis_ok(c, x)) return fail(c, "axis is outside the operand's rank");
    if (!is_numeric(x->dtype)) return fail(c, "not defined for this dtype");
    Type t = {.dtype = DT_I64};
    for (uint32_t i = 0; i < x->rank; i++) {
        if (i != (uint32_t)c->n->attr.axis)
            t.dim[t.rank++] = x->dim[i];
        else if (c->n->attr.keep)
            t.dim[t.rank++] = dim_const(1);
    }
    return set_type(c, 0, t);
}

static bool infer_nonzero(Infer *c) {
    const Type *x = operand(c, 0), *t = given(c);
    if (!given_ok(c)) return false;
    if (t->dtype != DT_I64 || t->rank != 2 || !dim_eq(t->dim[0], dim_const(x->rank)))
        return fail(c, "the result is not i64[rank, n]");
    if (dim_symbol(c->g, t->dim[1]).id <= SYM_PAST.id)
        return fail(c, "the result's length is no symbol of its own");
    return true;
}

static bool infer_topk(Infer *c) {
    Type t = *operand(c, 0);
    int64_t count = c->n->attr.count;
    if (!axis_ok(c, &t)) return fail(c, "axis is outside the operand's rank");
    if (!is_numeric(t.dtype)) return fail(c, "not defined for this dtype");
    Dim *dim = &t.dim[c->n->attr.axis];
    if (count < 0 || count > DIM_MAX || (dim_is_const(*dim) && count > dim->v))
        return fail(c, "count is negative or longer than the axis");
    *dim = dim_const(count);
    set_type(c, 0, t);
    t.dtype = DT_I64;
    return set_type(c, 1, t);
}

/* ---- products ---- */

static bool infer_matmul(Infer *c) {
    const Type *a = operand(c, 0), *b = operand(c, 1);
    if (a->dtype != b->dtype) return fail(c, "operands have different dtypes");
    if (!is_numeric(a->dtype)) return fail(c, "not defined for this dtype");
    if (a->rank == 0 || b->rank == 0) return fail(c, "an operand is a scalar");
    Dim ka = a->dim[a->rank - 1], kb = b->dim[b->rank == 1 ? 0 : b->rank - 2];
    if (!dim_eq(ka, kb)) return fail(c, "inner dimensions differ");
    Type batch_a = *a, batch_b = *b, t = {0};
    batch_a.rank = a->rank > 2 ? (uint8_t)(a->rank - 2) : 0;
    batch_b.rank = b->rank > 2 ? (uint8_t)(b->rank - 2) : 0;
    if (!type_broadcast(&batch_a, &batch_b, &t)) return fail(c, "batch dimensions do not broadcast");
    t.dtype = a->dtype;
    bool ok = true;
    if (a->rank > 1) ok = ok && push_dim(&t, a->dim[a->rank - 2]);
    if (b->rank > 1) ok = ok && push_dim(&t, b->dim[b->rank - 1]);
    if (!ok) return fail(c, "the result's rank is above 8");
    return set_type(c, 0, t);
}

/* ---- transformer ops ---- */

/* An optional float operand of shape [n]. */
static bool row_ok(const Infer *c, uint32_t i, Dim n) {
    const Type *t = operand(c, i);
    return t == NULL || (dtype_is_float(t->dtype) && t->rank == 1 && dim_eq(t->dim[0], n));
}

static bool infer_linear(Infer *c) {
    const Type *x = operand(c, 0), *w = operand(c, 1);
    if (!dtype_is_float(x->dtype) || !dtype_is_float(w->dtype)) return fail(c, "not defined for this dtype");
    if (x->rank == 0) return fail(c, "the operand is a scalar");
    if (w->rank != 2) return fail(c, "the weight does not have two axes");
    bool trans = c->n->attr.trans;
    Dim k = w->dim[trans ? 1 : 0], n = w->dim[trans ? 0 : 1];
    if (!dim_eq(x->dim[x->rank - 1], k)) return fail(c, "inner dimensions differ");
    if (!row_ok(c, 2, n)) return fail(c, "the bias is not floats of the output's length");
    if (c->n->attr.block < 0 || (c->n->attr.block > 0 && (x->dtype != DT_F32 || w->dtype == DT_F64)))
        return fail(c, "only f32 is rounded, by blocks of at least one element");
    Type t = *x;
    t.dim[t.rank - 1] = n;
    return set_type(c, 0, t);
}

static bool infer_rounded(Infer *c) {
    const Type *x = operand(c, 0);
    int64_t block = c->n->attr.block;
    if (x->dtype != DT_F32 || x->rank == 0) return fail(c, "only f32 is rounded, along an axis");
    Dim last = x->dim[x->rank - 1];
    if (block < 1 || !dim_is_const(last) || last.v % block != 0)
        return fail(c, "the last axis is no whole number of blocks");
    return set_type(c, 0, *x);
}

static bool infer_routed(Infer *c) {
    const Type *x = operand(c, 0), *index = operand(c, 1), *w = operand(c, 2), *bias = operand(c, 3);
    if (!dtype_is_float(x->dtype) || !dtype_is_float(w->dtype)) return fail(c, "not defined for this dtype");
    if (!dtype_is_int(index->dtype) || index->rank == 0) return fail(c, "the index is no row of integers");
    if (w->rank != 3) return fail(c, "the weight does not have three axes");
    if (x->rank < index->rank || x->rank > index->rank + 1)
        return fail(c, "the operand is neither a row nor a row for each slot");
    uint32_t rank = index->rank, lead = x->rank - 1u;
    for (uint32_t i = 0; i < lead; i++)
        if (!dim_eq(x->dim[i], index->dim[i])) return fail(c, "operand and index have different rows");
    bool trans = c->n->attr.trans;
    Dim k = w->dim[trans ? 2 : 1], n = w->dim[trans ? 1 : 2];
    if (!dim_eq(x->dim[x->rank - 1], k)) return fail(c, "inner dimensions differ");
    if (bias != NULL && (!dtype_is_float(bias->dtype) || bias->rank != 2 ||
                         !dim_eq(bias->dim[0], w->dim[0]) || !dim_eq(bias->dim[1], n)))
        return fail(c, "the bias is not floats of experts x outputs");
    Type t = *index;
    t.dtype = x->dtype;
    t.rank = (uint8_t)rank;
    return push_dim(&t, n) ? set_type(c, 0, t) : fail(c, "the result's rank is above 8");
}

/* Operand i: a scalar, one entry per element of x's axis, or one per block of it. */
static bool scale_ok(const Infer *c, const Type *x, uint32_t i) {
    const Type *s = operand(c, i);
    const Attr *a = &c->n->attr;
    if (s == NULL || s->rank == 0) return true;
    if (!axis_ok(c, x)) return false;
    Dim along = x->dim[a->axis];
    if (a->block == 0) return s->rank == 1 && dim_eq(s->dim[0], along);
    if (a->block < 0 || s->rank != x->rank) return false;
    for (uint32_t k = 0; k < x->rank; k++)
        if (k != (uint32_t)a->axis && !dim_eq(s->dim[k], x->dim[k])) return false;
    Dim blocks = s->dim[a->axis];
    return dim_is_const(along) && dim_eq(blocks, dim_const(along.v / a->block + (along.v % a->block != 0)));
}

/* A grid's entries for the codes x; *t is x with as many elements as they stand for. */
static bool grid_ok(Infer *c, const Type *x, Type *t) {
    const Type *grid = operand(c, 3);
    if (grid == NULL) return true;
    if (dtype_class(x->dtype) != DC_UINT || dtype_bits(x->dtype) > 8)
        return fail(c, "codes of a grid are unsigned and have at most 8 bits");
    if ((grid->dtype != DT_F32 && grid->dtype != DT_F16) || grid->rank < 1 || grid->rank > 2 ||
        !dim_eq(grid->dim[0], dim_const((int64_t)1 << dtype_bits(x->dtype))))
        return fail(c, "the grid is not f32 or f16 with an entry for every code");
    if (grid->rank == 1) return true;
    Dim v = grid->dim[1];
    if (x->rank == 0 || !dim_is_const(v) || v.v < 1 || v.v > 16)
        return fail(c, "the grid's entries have no fixed length up to 16");
    t->dim[x->rank - 1] = dim_mul(c->g, x->dim[x->rank - 1], v);
    return true;
}

static bool infer_dequantize(Infer *c) {
    const Type *x = operand(c, 0), *s = operand(c, 1), *z = operand(c, 2);
    Type t = *x;
    if (!is_numeric(x->dtype) || !dtype_is_float(s->dtype)) return fail(c, "not defined for this dtype");
    if (z != NULL && z->dtype != x->dtype && !dtype_is_float(z->dtype))
        return fail(c, "the zero point has another dtype");
    if (!grid_ok(c, x, &t)) return false;
    if (!scale_ok(c, &t, 1) || !scale_ok(c, &t, 2) || (z != NULL && z->rank != 0 && z->rank != s->rank))
        return fail(c, "the scale or zero point does not fit the operand");
    t.dtype = s->dtype;
    return set_type(c, 0, t);
}

static bool infer_quantize(Infer *c) {
    const Type *x = operand(c, 0), *s = operand(c, 1), *z = operand(c, 2);
    if (!given_ok(c)) return false;
    if (!dims_eq(x, given(c))) return fail(c, "the result's shape is not the operand's");
    if (!dtype_is_float(x->dtype) || !dtype_is_float(s->dtype) || !dtype_is_int(given(c)->dtype) ||
        dtype_bits(given(c)->dtype) > 32)
        return fail(c, "not defined for this dtype");
    if (z != NULL && z->dtype != given(c)->dtype) return fail(c, "the zero point has another dtype");
    if (!scale_ok(c, x, 1) || !scale_ok(c, x, 2) || (z != NULL && z->rank != 0 && z->rank != s->rank))
        return fail(c, "the scale or zero point does not fit the operand");
    return true;
}

static bool infer_norm(Infer *c) {
    const Type *x = operand(c, 0);
    if (!dtype_is_float(x->dtype)) return fail(c, "not defined for this dtype");
    if (x->rank == 0) return fail(c, "the operand is a scalar");
    Dim n = x->dim[x->rank - 1];
    if (!row_ok(c, 1, n)) return fail(c, "gamma is not floats of the last axis's length");
    if (!row_ok(c, 2, n)) return fail(c, "beta is not floats of the last axis's length");
    return set_type(c, 0, *x);
}

static bool infer_rope(Infer *c) {
    const Type *x = operand(c, 0), *cs = operand(c, 1), *sn = operand(c, 2), *pos = operand(c, 3);
    if (!dtype_is_float(x->dtype) || !dtype_is_float(cs->dtype) || !dtype_is_float(sn->dtype))
        return fail(c, "not defined for this dtype");
    if (x->rank != 4) return fail(c, "the operand is not [batch, seq, heads, d]");
    if (cs->rank != 2 || !dims_eq(cs, sn)) return fail(c, "cosines and sines are not [rows, r/2] both");
    if (!dtype_is_int(pos->dtype) || pos->rank != 1 || !dim_eq(pos->dim[0], x->dim[1]))
        return fail(c, "positions are not integers, one for each of the sequence");
    if (!dim_is_const(cs->dim[1]) || !dim_is_const(x->dim[3]) || cs->dim[1].v > x->dim[3].v / 2)
        return fail(c, "more pairs are rotated than a head has");
    return set_type(c, 0, *x);
}

static bool mask_ok(const Infer *c, const Type *q, const Type *k) {
    const Type *m = operand(c, 3);
    if (m == NULL) return true;
    if (m->rank > 4 || !(m->dtype == DT_BOOL || dtype_is_float(m->dtype))) return false;
    Dim full[4] = {q->dim[0], q->dim[2], q->dim[1], k->dim[1]};
    for (uint32_t i = 0; i < m->rank; i++) {
        Dim d = m->dim[i];
        if (!dim_eq(d, dim_const(1)) && !dim_eq(d, full[4 - m->rank + i])) return false;
    }
    return true;
}

static bool infer_attention(Infer *c) {
    const Type *q = operand(c, 0), *k = operand(c, 1), *v = operand(c, 2);
    if (!dtype_is_float(q->dtype) || !dtype_is_float(k->dtype) || !dtype_is_float(v->dtype))
        return fail(c, "not defined for this dtype");
    if (q->rank != 4 || k->rank != 4 || v->rank != 4)
        return fail(c, "q, k and v are not [batch, length, heads, d]");
    if (!dim_eq(q->dim[0], k->dim[0]) || !dim_eq(q->dim[0], v->dim[0]))
        return fail(c, "batch dimensions differ");
    if (!dim_eq(k->dim[1], v->dim[1])) return fail(c, "k and v have different lengths");
    if (!dim_eq(k->dim[2], v->dim[2])) return fail(c, "k and v have different head counts");
    if (!dim_eq(q->dim[3], k->dim[3])) return fail(c, "q and k have different head sizes");
    Dim heads = q->dim[2], kv = k->dim[2];
    if (!dim_is_const(heads) || !dim_is_const(kv)) return fail(c, "head counts are not constant");
    if (kv.v < 1 || heads.v % kv.v != 0) return fail(c, "q's heads are no multiple of k's");
    if (!mask_ok(c, q, k))
        return fail(c, "the mask is not floats or bools that broadcast to [batch, heads, seq, total]");
    if (!row_ok(c, 4, heads)) return fail(c, "slopes are not floats, one for each head");
    if (!row_ok(c, 5, heads)) return fail(c, "sinks are not floats, one for each head");
    if (c->n->attr.window < 0) return fail(c, "the window is negative");
    const Type *r = operand(c, 6);
    if (r != NULL && (r->dtype != DT_F32 || r->rank != 2 || !dim_eq(r->dim[0], dim_const(2)) ||
                      !dim_eq(r->dim[1], dim_const(3))))
        return fail(c, "the rounding is not f32[2, 3]");
    Type t = *q;
    t.dim[3] = v->dim[3];
    return set_type(c, 0, t);
}

bool infer_node(Graph *g, NodeId id, Diag *d) {
    static InferFn *const table[OP_COUNT] = {
#define OP(e, text, lo, hi, nout, attrs, flags, infer, eval, axes, doc) [OP_##e] = infer_##infer,
#include "ir/ops.def"
#undef OP
    };
    const Node *n = graph_node(g, id);
    if (n->op <= OP_NONE || n->op >= OP_COUNT)
        return diag_bug(d, n->loc, "node #%u has no op", (unsigned)id.id);
    const OpInfo *info = op_info(n->op);
    if (n->nin < info->min_in || n->nin > info->max_in)
        return diag_error(d, n->loc, "%s: %u operands; it takes %u to %u", info->name, n->nin, info->min_in,
                          info->max_in);
    if (n->nout != info->nout)
        return diag_bug(d, n->loc, "%s: %u results; it has %u", info->name, n->nout, info->nout);
    for (uint32_t i = 0; i < n->nin; i++) {
        bool none = !val_ok(n->in[i]);
        if (none ? i < info->min_in : n->in[i].id >= g->values.count)
            return diag_error(d, n->loc, "%s: operand %u is missing", info->name, i + 1);
    }
    Infer c = {g, n, d};
    return table[n->op](&c);
}
