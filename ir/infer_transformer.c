/* infer_transformer.c: types of products, of quantised values and of the ops of transformers (infer.c). */
#include "ir/infer.h"

/* ---- products ---- */

bool infer_matmul(Infer *c) {
    const Type *a = operand(c, 0), *b = operand(c, 1);
    if (a->dtype != b->dtype) return infer_fail(c, "operands have different dtypes");
    if (!is_numeric(a->dtype)) return infer_fail(c, "not defined for this dtype");
    if (a->rank == 0 || b->rank == 0) return infer_fail(c, "an operand is a scalar");
    Dim ka = a->dim[a->rank - 1], kb = b->dim[b->rank == 1 ? 0 : b->rank - 2];
    if (!dim_eq(ka, kb)) return infer_fail(c, "inner dimensions differ");
    Type batch_a = *a, batch_b = *b, t = {0};
    batch_a.rank = a->rank > 2 ? (uint8_t)(a->rank - 2) : 0;
    batch_b.rank = b->rank > 2 ? (uint8_t)(b->rank - 2) : 0;
    if (!type_broadcast(&batch_a, &batch_b, &t)) return infer_fail(c, "batch dimensions do not broadcast");
    t.dtype = a->dtype;
    bool ok = true;
    if (a->rank > 1) ok = ok && push_dim(&t, a->dim[a->rank - 2]);
    if (b->rank > 1) ok = ok && push_dim(&t, b->dim[b->rank - 1]);
    if (!ok) return infer_fail(c, "the result's rank is above 8");
    return set_type(c, 0, t);
}

/* ---- transformer ops ---- */

/* An optional float operand of shape [n]. */
static bool row_ok(const Infer *c, uint32_t i, Dim n) {
    const Type *t = operand(c, i);
    return t == NULL || (dtype_is_float(t->dtype) && t->rank == 1 && dim_eq(t->dim[0], n));
}

bool infer_linear(Infer *c) {
    const Type *x = operand(c, 0), *w = operand(c, 1);
    if (!dtype_is_float(x->dtype) || !dtype_is_float(w->dtype))
        return infer_fail(c, "not defined for this dtype");
    if (x->rank == 0) return infer_fail(c, "the operand is a scalar");
    if (w->rank != 2) return infer_fail(c, "the weight does not have two axes");
    bool trans = c->n->attr.trans;
    Dim k = w->dim[trans ? 1 : 0], n = w->dim[trans ? 0 : 1];
    if (!dim_eq(x->dim[x->rank - 1], k)) return infer_fail(c, "inner dimensions differ");
    if (!row_ok(c, 2, n)) return infer_fail(c, "the bias is not floats of the output's length");
    if (c->n->attr.block < 0 || (c->n->attr.block > 0 && (x->dtype != DT_F32 || w->dtype == DT_F64)))
        return infer_fail(c, "only f32 is rounded, by blocks of at least one element");
    Type t = *x;
    t.dim[t.rank - 1] = n;
    return set_type(c, 0, t);
}

bool infer_rounded(Infer *c) {
    const Type *x = operand(c, 0);
    int64_t block = c->n->attr.block;
    if (x->dtype != DT_F32 || x->rank == 0) return infer_fail(c, "only f32 is rounded, along an axis");
    Dim last = x->dim[x->rank - 1];
    if (block < 1 || !dim_is_const(last) || last.v % block != 0)
        return infer_fail(c, "the last axis is no whole number of blocks");
    return set_type(c, 0, *x);
}

bool infer_routed(Infer *c) {
    const Type *x = operand(c, 0), *index = operand(c, 1), *w = operand(c, 2), *bias = operand(c, 3);
    if (!dtype_is_float(x->dtype) || !dtype_is_float(w->dtype))
        return infer_fail(c, "not defined for this dtype");
    if (!dtype_is_int(index->dtype) || index->rank == 0)
        return infer_fail(c, "the index is no row of integers");
    if (w->rank != 3) return infer_fail(c, "the weight does not have three axes");
    if (x->rank < index->rank || x->rank > index->rank + 1)
        return infer_fail(c, "the operand is neither a row nor a row for each slot");
    uint32_t rank = index->rank, lead = x->rank - 1u;
    for (uint32_t i = 0; i < lead; i++)
        if (!dim_eq(x->dim[i], index->dim[i])) return infer_fail(c, "operand and index have different rows");
    bool trans = c->n->attr.trans;
    Dim k = w->dim[trans ? 2 : 1], n = w->dim[trans ? 1 : 2];
    if (!dim_eq(x->dim[x->rank - 1], k)) return infer_fail(c, "inner dimensions differ");
    if (bias != NULL && (!dtype_is_float(bias->dtype) || bias->rank != 2 ||
                         !dim_eq(bias->dim[0], w->dim[0]) || !dim_eq(bias->dim[1], n)))
        return infer_fail(c, "the bias is not floats of experts x outputs");
    Type t = *index;
    t.dtype = x->dtype;
    t.rank = (uint8_t)rank;
    return push_dim(&t, n) ? set_type(c, 0, t) : infer_fail(c, "the result's rank is above 8");
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
        return infer_fail(c, "codes of a grid are unsigned and have at most 8 bits");
    if ((grid->dtype != DT_F32 && grid->dtype != DT_F16) || grid->rank < 1 || grid->rank > 2 ||
        !dim_eq(grid->dim[0], dim_const((int64_t)1 << dtype_bits(x->dtype))))
        return infer_fail(c, "the grid is not f32 or f16 with an entry for every code");
    if (grid->rank == 1) return true;
    Dim v = grid->dim[1];
    if (x->rank == 0 || !dim_is_const(v) || v.v < 1 || v.v > 16)
        return infer_fail(c, "the grid's entries have no fixed length up to 16");
    t->dim[x->rank - 1] = dim_mul(c->g, x->dim[x->rank - 1], v);
    return true;
}

bool infer_dequantize(Infer *c) {
    const Type *x = operand(c, 0), *s = operand(c, 1), *z = operand(c, 2);
    Type t = *x;
    if (!is_numeric(x->dtype) || !dtype_is_float(s->dtype))
        return infer_fail(c, "not defined for this dtype");
    if (z != NULL && z->dtype != x->dtype && !dtype_is_float(z->dtype))
        return infer_fail(c, "the zero point has another dtype");
    if (!grid_ok(c, x, &t)) return false;
    if (!scale_ok(c, &t, 1) || !scale_ok(c, &t, 2) || (z != NULL && z->rank != 0 && z->rank != s->rank))
        return infer_fail(c, "the scale or zero point does not fit the operand");
    t.dtype = s->dtype;
    return set_type(c, 0, t);
}

bool infer_quantize(Infer *c) {
    const Type *x = operand(c, 0), *s = operand(c, 1), *z = operand(c, 2);
    if (!infer_given_ok(c)) return false;
    if (!dims_eq(x, given(c))) return infer_fail(c, "the result's shape is not the operand's");
    if (!dtype_is_float(x->dtype) || !dtype_is_float(s->dtype) || !dtype_is_int(given(c)->dtype) ||
        dtype_bits(given(c)->dtype) > 32)
        return infer_fail(c, "not defined for this dtype");
    if (z != NULL && z->dtype != given(c)->dtype) return infer_fail(c, "the zero point has another dtype");
    if (!scale_ok(c, x, 1) || !scale_ok(c, x, 2) || (z != NULL && z->rank != 0 && z->rank != s->rank))
        return infer_fail(c, "the scale or zero point does not fit the operand");
    return true;
}

bool infer_norm(Infer *c) {
    const Type *x = operand(c, 0);
    if (!dtype_is_float(x->dtype)) return infer_fail(c, "not defined for this dtype");
    if (x->rank == 0) return infer_fail(c, "the operand is a scalar");
    Dim n = x->dim[x->rank - 1];
    if (!row_ok(c, 1, n)) return infer_fail(c, "gamma is not floats of the last axis's length");
    if (!row_ok(c, 2, n)) return infer_fail(c, "beta is not floats of the last axis's length");
    return set_type(c, 0, *x);
}

bool infer_rope(Infer *c) {
    const Type *x = operand(c, 0), *cs = operand(c, 1), *sn = operand(c, 2), *pos = operand(c, 3);
    if (!dtype_is_float(x->dtype) || !dtype_is_float(cs->dtype) || !dtype_is_float(sn->dtype))
        return infer_fail(c, "not defined for this dtype");
    if (x->rank != 4) return infer_fail(c, "the operand is not [batch, seq, heads, d]");
    if (cs->rank != 2 || !dims_eq(cs, sn)) return infer_fail(c, "cosines and sines are not [rows, r/2] both");
    if (!dtype_is_int(pos->dtype) || pos->rank != 1 || !dim_eq(pos->dim[0], x->dim[1]))
        return infer_fail(c, "positions are not integers, one for each of the sequence");
    if (!dim_is_const(cs->dim[1]) || !dim_is_const(x->dim[3]) || cs->dim[1].v > x->dim[3].v / 2)
        return infer_fail(c, "more pairs are rotated than a head has");
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

bool infer_attention(Infer *c) {
    const Type *q = operand(c, 0), *k = operand(c, 1), *v = operand(c, 2);
    if (!dtype_is_float(q->dtype) || !dtype_is_float(k->dtype) || !dtype_is_float(v->dtype))
        return infer_fail(c, "not defined for this dtype");
    if (q->rank != 4 || k->rank != 4 || v->rank != 4)
        return infer_fail(c, "q, k and v are not [batch, length, heads, d]");
    if (!dim_eq(q->dim[0], k->dim[0]) || !dim_eq(q->dim[0], v->dim[0]))
        return infer_fail(c, "batch dimensions differ");
    if (!dim_eq(k->dim[1], v->dim[1])) return infer_fail(c, "k and v have different lengths");
    if (!dim_eq(k->dim[2], v->dim[2])) return infer_fail(c, "k and v have different head counts");
    if (!dim_eq(q->dim[3], k->dim[3])) return infer_fail(c, "q and k have different head sizes");
    Dim heads = q->dim[2], kv = k->dim[2];
    if (!dim_is_const(heads) || !dim_is_const(kv)) return infer_fail(c, "head counts are not constant");
    if (kv.v < 1 || heads.v % kv.v != 0) return infer_fail(c, "q's heads are no multiple of k's");
    if (!mask_ok(c, q, k))
        return infer_fail(c, "the mask is not floats or bools that broadcast to [batch, heads, seq, total]");
    if (!row_ok(c, 4, heads)) return infer_fail(c, "slopes are not floats, one for each head");
    if (!row_ok(c, 5, heads)) return infer_fail(c, "sinks are not floats, one for each head");
    if (c->n->attr.window < 0) return infer_fail(c, "the window is negative");
    const Type *r = operand(c, 6);
    if (r != NULL && (r->dtype != DT_F32 || r->rank != 2 || !dim_eq(r->dim[0], dim_const(2)) ||
                      !dim_eq(r->dim[1], dim_const(3))))
        return infer_fail(c, "the rounding is not f32[2, 3]");
    Type t = *q;
    t.dim[3] = v->dim[3];
    return set_type(c, 0, t);
}
