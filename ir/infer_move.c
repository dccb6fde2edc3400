/* infer_move.c: types of what moves elements (infer.c). */
#include "ir/infer.h"

bool infer_reshape(Infer *c) {
    if (!infer_given_ok(c)) return false;
    const Type *x = operand(c, 0), *t = given(c);
    if (x->dtype != t->dtype) return infer_fail(c, "the result's dtype is not the operand's");
    if (dims_eq(x, t)) return true;
    if (!dim_eq(type_count(c->g, x), type_count(c->g, t)))
        return infer_fail(c, "the result does not have as many elements as the operand");
    return true;
}

bool infer_transpose(Infer *c) {
    const Type *x = operand(c, 0);
    Type t = *x;
    uint32_t seen = 0;
    for (uint32_t i = 0; i < x->rank; i++) {
        uint32_t p = c->n->attr.perm[i];
        if (p >= x->rank || (seen >> p & 1u)) return infer_fail(c, "perm is not a permutation of the axes");
        seen |= 1u << p;
        t.dim[i] = x->dim[p];
    }
    return set_type(c, 0, t);
}

bool infer_broadcast(Infer *c) {
    if (!infer_given_ok(c)) return false;
    const Type *x = operand(c, 0), *t = given(c);
    if (x->dtype != t->dtype) return infer_fail(c, "the result's dtype is not the operand's");
    bool ok = x->rank <= t->rank;
    for (uint32_t i = 0; ok && i < x->rank; i++) {
        Dim from = x->dim[i], to = t->dim[t->rank - x->rank + i];
        ok = dim_eq(from, to) || dim_eq(from, dim_const(1));
    }
    if (!ok) return infer_fail(c, "the operand does not broadcast to the result");
    return true;
}

bool infer_slice(Infer *c) {
    if (!infer_given_ok(c)) return false;
    const Type *x = operand(c, 0), *t = given(c);
    if (x->dtype != t->dtype) return infer_fail(c, "the result's dtype is not the operand's");
    if (x->rank != t->rank) return infer_fail(c, "the result's rank is not the operand's");
    for (uint32_t i = 0; i < x->rank; i++) {
        Dim start = c->n->attr.starts[i];
        int64_t step = c->n->attr.steps[i], last = 0;
        if (step == 0) return infer_fail(c, "a step is 0");
        if (!dim_known(start)) return infer_fail(c, "a start is not known");
        if (!dim_is_const(t->dim[i])) continue;
        if (t->dim[i].v == 0) continue;
        if (!dim_is_const(start)) continue;
        if (start.v < 0) return infer_fail(c, "a start is negative");
        if (!mul_i64(t->dim[i].v - 1, step, &last) || !add_i64(last, start.v, &last) || last < 0)
            return infer_fail(c, "reaches outside the operand");
        if (dim_is_const(x->dim[i]) && (start.v >= x->dim[i].v || last >= x->dim[i].v))
            return infer_fail(c, "reaches outside the operand");
    }
    return true;
}

bool infer_concat(Infer *c) {
    Type t = *operand(c, 0);
    if (!axis_ok(c, &t)) return infer_fail(c, "axis is outside the operands' rank");
    uint32_t axis = (uint32_t)c->n->attr.axis;
    for (uint32_t i = 1; i < c->n->nin; i++) {
        const Type *x = operand(c, i);
        if (x == NULL) return infer_fail(c, "an operand is missing");
        if (x->dtype != t.dtype) return infer_fail(c, "operands have different dtypes");
        if (x->rank != t.rank) return infer_fail(c, "operands have different ranks");
        for (uint32_t k = 0; k < t.rank; k++) {
            if (k != axis && !dim_eq(x->dim[k], t.dim[k]))
                return infer_fail(c, "operands differ beside the axis");
        }
        t.dim[axis] = dim_add(c->g, t.dim[axis], x->dim[axis]);
    }
    if (!dim_known(t.dim[axis])) return infer_fail(c, "the length cannot be expressed");
    return set_type(c, 0, t);
}

bool infer_pad(Infer *c) {
    if (!infer_given_ok(c)) return false;
    const Type *x = operand(c, 0), *fill = operand(c, 1), *t = given(c);
    if (x->dtype != t->dtype || fill->dtype != t->dtype)
        return infer_fail(c, "operands and result have different dtypes");
    if (fill->rank != 0) return infer_fail(c, "the fill is not a scalar");
    if (x->rank != t->rank) return infer_fail(c, "the result's rank is not the operand's");
    for (uint32_t i = 0; i < x->rank; i++) {
        Dim start = c->n->attr.starts[i], end = dim_add(c->g, start, x->dim[i]);
        if (!dim_known(start)) return infer_fail(c, "a start is not known");
        if (dim_is_const(start) && start.v < 0)
            return infer_fail(c, "a start is negative; hint: slice the operand to crop it");
        if (dim_is_const(end) && dim_is_const(t->dim[i]) && end.v > t->dim[i].v)
            return infer_fail(c, "the operand does not fit into the result");
    }
    return true;
}

bool infer_gather(Infer *c) {
    const Type *x = operand(c, 0), *idx = operand(c, 1);
    Type t = {.dtype = x->dtype};
    if (!dtype_is_int(idx->dtype)) return infer_fail(c, "indices are not integers");
    if (!axis_ok(c, x)) return infer_fail(c, "axis is outside the operand's rank");
    bool ok = true;
    for (uint32_t i = 0; i < x->rank; i++) {
        if (i != (uint32_t)c->n->attr.axis) {
            ok = ok && push_dim(&t, x->dim[i]);
            continue;
        }
        for (uint32_t k = 0; k < idx->rank; k++) ok = ok && push_dim(&t, idx->dim[k]);
    }
    if (!ok) return infer_fail(c, "the result's rank is above 8");
    return set_type(c, 0, t);
}

/* The length of index tuples: the constant last dimension of the indices. */
static bool tuple_length(Infer *c, const Type *idx, int64_t most, uint32_t *out) {
    if (!dtype_is_int(idx->dtype)) return infer_fail(c, "indices are not integers");
    if (idx->rank == 0) return infer_fail(c, "indices have no axis of tuples");
    Dim last = idx->dim[idx->rank - 1];
    if (!dim_is_const(last)) return infer_fail(c, "the length of the index tuples is not constant");
    if (last.v < 1 || last.v > most) return infer_fail(c, "index tuples do not fit the operand's rank");
    *out = (uint32_t)last.v;
    return true;
}

bool infer_gather_nd(Infer *c) {
    const Type *x = operand(c, 0), *idx = operand(c, 1);
    int64_t batch = c->n->attr.batch_dims;
    uint32_t len = 0;
    if (batch < 0 || batch >= x->rank || batch >= idx->rank)
        return infer_fail(c, "batch_dims is outside the operands' ranks");
    if (!tuple_length(c, idx, x->rank - batch, &len)) return false;
    uint32_t b = (uint32_t)batch;
    for (uint32_t i = 0; i < b; i++) {
        if (!dim_eq(x->dim[i], idx->dim[i])) return infer_fail(c, "batch dimensions differ");
    }
    Type t = {.dtype = x->dtype};
    bool ok = true;
    for (uint32_t i = 0; i + 1 < idx->rank; i++) ok = ok && push_dim(&t, idx->dim[i]);
    for (uint32_t i = b + len; i < x->rank; i++) ok = ok && push_dim(&t, x->dim[i]);
    if (!ok) return infer_fail(c, "the result's rank is above 8");
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

bool infer_gather_elements(Infer *c) {
    const Type *x = operand(c, 0), *idx = operand(c, 1);
    if (!dtype_is_int(idx->dtype)) return infer_fail(c, "indices are not integers");
    if (x->rank != idx->rank) return infer_fail(c, "indices do not have the operand's rank");
    if (!axis_ok(c, x)) return infer_fail(c, "axis is outside the operand's rank");
    if (!beside_axis_fits(x, idx, c->n->attr.axis))
        return infer_fail(c, "indices are longer than the operand beside the axis");
    Type t = *idx;
    t.dtype = x->dtype;
    return set_type(c, 0, t);
}

bool infer_scatter(Infer *c) {
    const Type *x = operand(c, 0), *idx = operand(c, 1), *upd = operand(c, 2);
    if (upd->dtype != x->dtype) return infer_fail(c, "updates do not have the operand's dtype");
    if (c->n->attr.reduce < 0 || c->n->attr.reduce > 4) return infer_fail(c, "reduce is not 0 to 4");
    if (c->n->attr.reduce != 0 && x->dtype == DT_BOOL) return infer_fail(c, "bools cannot be reduced");
    if (c->n->op == OP_SCATTER_ELEMENTS) {
        if (!dtype_is_int(idx->dtype)) return infer_fail(c, "indices are not integers");
        if (x->rank != idx->rank) return infer_fail(c, "indices do not have the operand's rank");
        if (!axis_ok(c, x)) return infer_fail(c, "axis is outside the operand's rank");
        if (!dims_eq(idx, upd)) return infer_fail(c, "updates do not have the indices' shape");
        if (!beside_axis_fits(x, idx, c->n->attr.axis))
            return infer_fail(c, "indices are longer than the operand beside the axis");
        return set_type(c, 0, *x);
    }
    uint32_t len = 0;
    if (!tuple_length(c, idx, x->rank, &len)) return false;
    Type want = {.dtype = x->dtype};
    bool ok = true;
    for (uint32_t i = 0; i + 1 < idx->rank; i++) ok = ok && push_dim(&want, idx->dim[i]);
    for (uint32_t i = len; i < x->rank; i++) ok = ok && push_dim(&want, x->dim[i]);
    if (!ok || !dims_eq(&want, upd)) return infer_fail(c, "updates do not have the shape of what is picked");
    return set_type(c, 0, *x);
}
