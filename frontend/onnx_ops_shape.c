/* onnx_ops_shape.c: ONNX ops that make tensors from shapes and numbers. */
#include <math.h>
#include <string.h>

#include "frontend/import.h"

static bool lower_shape(Call *c) {
    if (!in_has(c, 0)) return call_error(c, "the operand is missing");
    Type x = *in_type(c, 0);
    int64_t start = attr_int(c, "start", 0), end = attr_int(c, "end", x.rank), r = x.rank;
    start = start < 0 ? start + r : start;
    end = end < 0 ? end + r : end;
    start = start < 0 ? 0 : start > r ? r : start;
    end = end < start ? start : end > r ? r : end;
    return out_dims(c, 0, DT_I64, 1, x.dim + start, (uint32_t)(end - start));
}

static bool lower_size(Call *c) {
    if (!in_has(c, 0)) return call_error(c, "the operand is missing");
    Type x = *in_type(c, 0);
    Dim n = type_count(c->g, &x);
    if (!dim_known(n)) return call_error(c, "the size cannot be expressed");
    return out_dims(c, 0, DT_I64, 0, &n, 1);
}

static bool constant_tensor(Call *c, const OTensor *t) {
    TensorData x;
    if (!tensor_load(t, &c->im->src, &x, c->loc, c->d)) return false;
    Dim dims[MAX_RANK];
    for (size_t i = 0; i < x.rank; i++) dims[i] = dim_const(x.dim[i]);
    ValId v = graph_const(c->g, type_make(x.dtype, (uint32_t)x.rank, dims), x.data, NULL);
    if (x.path != NULL && x.bytes > 256) {
        Const *k = &c->g->consts.data[graph_val(c->g, v)->cidx];
        k->form = CF_FILE;
        k->path = arena_strdup(c->im->arena, x.path);
        k->offset = x.offset;
    }
    return out_val(c, 0, v);
}

static bool lower_constant(Call *c) {
    if (c->n->nattrs != 1) return call_error(c, "needs one attribute, has %zu", c->n->nattrs);
    const OAttr *a = &c->n->attrs[0];
    Dim n = dim_const((int64_t)a->n);
    switch (a->kind) {
    case OA_TENSOR: return constant_tensor(c, a->t);
    case OA_INT: return out_val(c, 0, graph_const_i64(c->g, a->i));
    case OA_FLOAT: return out_val(c, 0, graph_const_f32(c->g, a->f));
    case OA_INTS:
        return out_val(c, 0, emit_const(c, type_make(DT_I64, 1, &n), a->ints, a->n * sizeof(int64_t)));
    case OA_FLOATS:
        return out_val(c, 0, emit_const(c, type_make(DT_F32, 1, &n), a->floats, a->n * sizeof(float)));
    default: return call_error(c, "attribute '%s' is not supported", a->name);
    }
}

static bool lower_constant_of_shape(Call *c) {
    if (!in_has(c, 0)) return call_error(c, "the operand is missing");
    uint32_t n = 0;
    const Dim *dims = in_dims(c, 0, &n);
    if (dims == NULL || n > MAX_RANK)
        return call_error(c, "the shape does not follow from the shapes of the inputs");
    for (uint32_t i = 0; i < n; i++)
        if (!dim_known(dims[i]) || (dim_is_const(dims[i]) && dims[i].v < 0))
            return call_error(c, "axis %u has no length", i);
    ValId fill = NO_VAL;
    const OAttr *a = attr_find(c, "value");
    if (a != NULL && a->kind == OA_TENSOR) {
        TensorData x;
        if (!tensor_load(a->t, &c->im->src, &x, c->loc, c->d)) return false;
        if (x.count != 1) return call_error(c, "the value has %zu elements", x.count);
        fill = emit_const(c, type_scalar(x.dtype), x.data, x.bytes);
    } else {
        fill = graph_const_f32(c->g, 0);
    }
    const Type *t = type_of(c, fill);
    int64_t v = 0;
    bool small = n == 0 || (n == 1 && dim_is_const(dims[0]) && dims[0].v <= SHAPE_MAX);
    if (small && !dtype_is_float(t->dtype) && const_get_i64(c->g, fill, 0, &v)) {
        uint32_t count = n == 0 ? 1 : (uint32_t)dims[0].v;
        Dim out[SHAPE_MAX];
        for (uint32_t i = 0; i < count; i++) out[i] = dim_const(v);
        return out_dims(c, 0, t->dtype, n, out, count);
    }
    return out_val(c, 0, emit_broadcast(c, fill, n, dims));
}

/* Range of constant numbers: count = ceil((limit - start) / delta). */
static bool range_constant(Call *c, DType t) {
    double v[3] = {0, 0, 1};
    for (size_t i = 0; i < 2u + in_has(c, 2); i++)
        if (!const_get_f64(c->g, in_val(c, i), 0, &v[i]))
            return call_error(c, "start, limit and delta do not follow from the shapes of the inputs");
    if (v[2] == 0) return call_error(c, "delta is 0");
    double count = ceil((v[1] - v[0]) / v[2]);
    if (!(count <= 1 << 26)) return call_error(c, "too many elements");
    int64_t n = count > 0 ? (int64_t)count : 0;
    ValId x = emit_iota(c, t, dim_const(n));
    if (v[2] != 1) x = emit2(c, OP_MUL, x, emit_scalar(c, t, v[2]));
    if (v[0] != 0) x = emit2(c, OP_ADD, x, emit_scalar(c, t, v[0]));
    return out_val(c, 0, x);
}

/* ---- Range ---- */

/* The one number that v holds, or its first or last one along the sequence, as a length; positions are past +
 * index, as a compiled GPT has them. */
typedef struct {
    Call *c;
    int64_t at; /* 0 or -1, once an element has been picked */
    bool picked;
} Element;

static bool element_length(Element *e, ValId v, Dim *out, uint32_t depth);

/* gather(x, i) or a slice of length 1: which element, where the axis is the sequence. */
static bool element_pick(Element *e, const Node *n) {
    Graph *g = e->c->g;
    const Type *t = graph_type(g, n->in[0]);
    int64_t at = 0;
    uint32_t axis = 0;
    if (n->op == OP_GATHER) {
        axis = (uint32_t)n->attr.axis;
        if (!const_get_i64(g, n->in[1], 0, &at)) return false;
        if (!dim_eq(type_count(g, graph_type(g, n->in[1])), dim_const(1))) return false;
    } else {
        while (axis < t->rank && dim_eq(t->dim[axis], graph_type(g, n->out[0])->dim[axis])) axis++;
        if (axis == t->rank) return true;
        for (uint32_t i = axis + 1; i < t->rank; i++)
            if (!dim_eq(t->dim[i], graph_type(g, n->out[0])->dim[i])) return false;
        Dim back = dim_sub(g, t->dim[axis], n->attr.starts[axis]);
        if (!dim_eq(graph_type(g, n->out[0])->dim[axis], dim_const(1))) return false;
        at = dim_eq(back, dim_const(1)) ? -1 : dim_eq(n->attr.starts[axis], dim_const(0)) ? 0 : 1;
    }
    if (!dim_depends(g, t->dim[axis], SYM_SEQ)) return true; /* sequences are alike */
    if (e->picked || (at != 0 && at != -1)) return false;
    e->picked = true;
    e->at = at;
    return true;
}

static bool element_source(const Element *e, ValId v, Dim *out) {
    Graph *g = e->c->g;
    Dim seq = dim_sym(g, SYM_SEQ);
    for (size_t i = 0; i < g->inputs.count; i++) {
        if (!val_eq(g->inputs.data[i].v, v)) continue;
        *out = dim_add(g, dim_sym(g, SYM_PAST), e->at == 0 ? dim_const(0) : dim_sub(g, seq, dim_const(1)));
        return e->picked && g->inputs.data[i].role == ROLE_POSITIONS;
    }
    return false;
}

static bool element_length(Element *e, ValId v, Dim *out, uint32_t depth) {
    Graph *g = e->c->g;
    double number = 0;
    if (const_scalar(g, v, &number)) {
        *out = dim_const((int64_t)number);
        return number > -1e9 && number < 1e9 && (double)out->v == number;
    }
    NodeId id = graph_def(g, v);
    if (!node_ok(id)) return element_source(e, v, out);
    const Node *n = graph_node(g, id);
    Dim other;
    if (depth == 0) return false;
    switch (n->op) {
    case OP_DIM: *out = n->attr.value; return true;
    case OP_IOTA:
        *out = e->at == 0 ? dim_const(0) : dim_sub(g, graph_type(g, v)->dim[n->attr.axis], dim_const(1));
        return e->picked;
    case OP_ADD: {
        Element copy = *e;
        if (!element_length(e, n->in[0], out, depth - 1) ||
            !element_length(&copy, n->in[1], &other, depth - 1))
            return false;
        *out = dim_add(g, *out, other);
        return dim_known(*out);
    }
    case OP_GATHER:
    case OP_SLICE:
        if (!element_pick(e, n)) return false;
        return element_length(e, n->in[0], out, depth - 1);
    case OP_CAST:
    case OP_RESHAPE:
    case OP_BROADCAST: return element_length(e, n->in[0], out, depth - 1);
    default: return false;
    }
}

static bool range_length(Call *c, size_t i, Dim *out) {
    uint32_t n = 0;
    const Dim *d = in_dims(c, i, &n);
    if (d != NULL && n == 1) {
        *out = d[0];
        return true;
    }
    Element e = {.c = c};
    ValId x = in_val(c, i);
    return val_ok(x) && element_length(&e, x, out, 16);
}

static bool lower_range(Call *c) {
    Dim v[3] = {dim_const(0), dim_const(0), dim_const(1)};
    for (size_t i = 0; i < 2u + in_has(c, 2); i++) {
        if (!in_has(c, i)) return call_error(c, "an operand is missing");
        if (range_length(c, i, &v[i])) continue;
        ValId x = in_val(c, i);
        if (!val_ok(x)) return false;
        if (graph_constant(c->g, x) == NULL)
            return call_error(c, "start, limit and delta do not follow from the shapes of the "
                                 "inputs; hint: the length must not depend on data");
        return range_constant(c, in_type(c, 0)->dtype);
    }
    DType t = in_type(c, 0)->dtype;
    Dim start = v[0], limit = v[1], delta = v[2];
    if (dim_is_const(start) && dim_is_const(limit) && dim_is_const(delta)) return range_constant(c, t);
    Dim count = dim_div(c->g, dim_sub(c->g, limit, start), delta);
    if (!dim_known(count)) return call_error(c, "the length cannot be expressed");
    ValId x = emit_iota(c, t, count);
    if (!dim_eq(delta, dim_const(1))) x = emit2(c, OP_MUL, x, emit_cast(c, emit_dim(c, DT_I64, delta), t));
    if (!dim_eq(start, dim_const(0))) x = emit2(c, OP_ADD, x, emit_cast(c, emit_dim(c, DT_I64, start), t));
    return out_val(c, 0, x);
}

static bool lower_eye_like(Call *c) {
    ValId x = in_val(c, 0);
    if (!val_ok(x)) return false;
    Type t = *type_of(c, x);
    if (t.rank != 2) return call_error(c, "the operand is no matrix");
    DType to = attr_find(c, "dtype") != NULL ? dtype_from_onnx((int)attr_int(c, "dtype", 1)) : t.dtype;
    if (to == DT_NONE) return call_error(c, "the element type is not supported");
    ValId row = emit_iota(c, DT_I64, t.dim[0]), col = emit_iota(c, DT_I64, t.dim[1]);
    row = emit_insert_axis(c, row, 1);
    row = emit2(c, OP_ADD, row, graph_const_i64(c->g, attr_int(c, "k", 0)));
    return out_val(c, 0, emit_cast(c, emit2(c, OP_EQ, row, col), to));
}

const OpRule onnx_rules_shape[] = {
    {"", "Shape", 1, 0, lower_shape, 0},
    {"", "Size", 1, 0, lower_size, 0},
    {"", "Constant", 1, 0, lower_constant, 0, T_ANY, "sparse values and strings are refused"},
    {"", "ConstantOfShape", 9, 0, lower_constant_of_shape, 0, T_ANY,
     "the shape must follow from the shapes of the inputs"},
    {"", "Range", 11, 0, lower_range, 0, T_NUMBERS, "the length must follow from the shapes of the inputs"},
    {"com.microsoft", "Range", 1, 0, lower_range, 0, T_NUMBERS, "as Range"},
    {"", "EyeLike", 9, 0, lower_eye_like, 0, T_ANY, "of matrices"},
    {0},
};
