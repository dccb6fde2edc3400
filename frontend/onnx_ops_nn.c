/* onnx_ops_nn.c: products and normalisations. */
#include <string.h>

#include "frontend/import.h"

static bool lower_matmul(Call *c) {
    ValId a = in_val(c, 0);
    return out_val(c, 0, emit2(c, OP_MATMUL, a, in_val(c, 1)));
}

static ValId scaled(Call *c, ValId v, float by) {
    if (!val_ok(v) || by == 1.0f) return v;
    return emit2(c, OP_MUL, v, emit_scalar(c, type_of(c, v)->dtype, (double)by));
}

/* alpha * A' B' + beta * C; weights stay as they are, under a transpose. */
static bool lower_gemm(Call *c) {
    static const uint8_t swap[2] = {1, 0};
    ValId a = in_val(c, 0), b = in_val(c, 1);
    if (!val_ok(a) || !val_ok(b)) return false;
    if (type_of(c, a)->rank != 2 || type_of(c, b)->rank != 2)
        return call_error(c, "the operands are no matrices");
    if (attr_int(c, "transA", 0) != 0) a = emit_transpose(c, a, swap);
    if (attr_int(c, "transB", 0) != 0) b = emit_transpose(c, b, swap);
    ValId v = scaled(c, emit2(c, OP_MATMUL, a, b), attr_float(c, "alpha", 1));
    float beta = attr_float(c, "beta", 1);
    if (in_has(c, 2) && beta != 0) v = emit2(c, OP_ADD, v, scaled(c, in_val(c, 2), beta));
    return out_val(c, 0, v);
}

/* ---- normalisation over the last axes ---- */

typedef struct {
    ValId x;
    Type t;
    uint32_t axis;
    Dim size;
} Norm;

static bool norm_begin(Call *c, Norm *n, int64_t def) {
    n->x = in_val(c, 0);
    if (!val_ok(n->x)) return false;
    n->t = *type_of(c, n->x);
    if (!axis_norm(c, attr_int(c, "axis", def), n->t.rank, &n->axis)) return false;
    n->size = dim_const(1);
    for (uint32_t i = n->axis; i < n->t.rank; i++) n->size = dim_mul(c->g, n->size, n->t.dim[i]);
    if (!dim_is_const(n->size)) return call_error(c, "the normalised axes have symbolic lengths");
    return true;
}

/* Scale or bias as [size]: broadcast over the normalised axes, then flattened. */
static ValId norm_weight(Call *c, const Norm *n, size_t i) {
    ValId w = in_val(c, i);
    if (!val_ok(w)) return w;
    w = emit_cast(c, w, n->t.dtype);
    if (!val_ok(w)) return w;
    w = emit_broadcast(c, w, n->t.rank - n->axis, n->t.dim + n->axis);
    return emit_reshape(c, w, 1, &n->size);
}

/* Does operand i differ along axes that are not normalised, as one weight a head does? */
static bool norm_is_wide(Call *c, const Norm *n, size_t i) {
    return in_has(c, i) && in_type(c, i)->rank > n->t.rank - n->axis;
}

static bool norm_make(Call *c, const Norm *n, bool rms, float eps) {
    bool bias = in_has(c, 2) && !rms, wide = norm_is_wide(c, n, 1) || (bias && norm_is_wide(c, n, 2));
    Dim dims[MAX_RANK];
    memcpy(dims, n->t.dim, sizeof(dims));
    dims[n->axis] = n->size;
    ValId in[3] = {emit_reshape(c, n->x, n->axis + 1, dims), NO_VAL, NO_VAL};
    if (in_has(c, 1) && !wide && !val_ok(in[1] = norm_weight(c, n, 1))) return false;
    if (bias && !wide && !val_ok(in[2] = norm_weight(c, n, 2))) return false;
    Attr a = attr_default();
    a.rms = rms;
    a.eps = eps;
    ValId y = emit_reshape(c, emit(c, OP_NORM, in, 3, &a, NULL), n->t.rank, n->t.dim);
    if (wide && in_has(c, 1)) y = emit2(c, OP_MUL, y, emit_cast(c, in_val(c, 1), n->t.dtype));
    if (wide && bias) y = emit2(c, OP_ADD, y, emit_cast(c, in_val(c, 2), n->t.dtype));
    return out_val(c, 0, y);
}

static uint32_t norm_axes(const Norm *n) { return ((1u << n->t.rank) - 1) & ~((1u << n->axis) - 1); }

/* 1 / sqrt(mean(x^2) + eps), in fp32. */
static ValId inverse_deviation(Call *c, ValId x, uint32_t axes, float eps) {
    ValId var = emit_reduce(c, OP_REDUCE_MEAN, emit2(c, OP_MUL, x, x), axes, true);
    var = emit2(c, OP_ADD, var, emit_scalar(c, DT_F32, (double)eps));
    return emit1(c, OP_RECIP, emit1(c, OP_SQRT, var));
}

static bool lower_layer_norm(Call *c) {
    Norm n;
    float eps = attr_float(c, "epsilon", 1e-5f);
    if (!norm_begin(c, &n, -1) || !norm_make(c, &n, false, eps)) return false;
    if (!out_used(c, 1) && !out_used(c, 2)) return true;
    ValId x = emit_cast(c, n.x, DT_F32);
    ValId mean = emit_reduce(c, OP_REDUCE_MEAN, x, norm_axes(&n), true);
    if (!out_val(c, 1, mean)) return false;
    return out_val(c, 2, inverse_deviation(c, emit2(c, OP_SUB, x, mean), norm_axes(&n), eps));
}

static bool lower_rms_norm(Call *c) {
    Norm n;
    float eps = attr_float(c, "epsilon", 1e-5f);
    if (!norm_begin(c, &n, -1) || !norm_make(c, &n, true, eps)) return false;
    if (!out_used(c, 1)) return true;
    return out_val(c, 1, inverse_deviation(c, emit_cast(c, n.x, DT_F32), norm_axes(&n), eps));
}

/* x / max(norm, tiny): p is 1 or 2. */
static bool lower_lp_norm(Call *c) {
    ValId x = in_val(c, 0), v = NO_VAL;
    uint32_t axis = 0;
    if (!val_ok(x) || !axis_norm(c, attr_int(c, "axis", -1), type_of(c, x)->rank, &axis)) return false;
    if (attr_int(c, "p", 2) == 1) {
        v = emit_reduce(c, OP_REDUCE_SUM, emit1(c, OP_ABS, x), 1u << axis, true);
    } else {
        v = emit1(c, OP_SQRT, emit_reduce(c, OP_REDUCE_SUM, emit2(c, OP_MUL, x, x), 1u << axis, true));
    }
    if (!val_ok(v)) return false;
    ValId zero = emit_scalar(c, type_of(c, v)->dtype, 0), one = emit_scalar(c, type_of(c, v)->dtype, 1);
    v = emit3(c, OP_WHERE, emit2(c, OP_EQ, v, zero), one, v);
    return out_val(c, 0, emit2(c, OP_DIV, x, v));
}

/* Inference only: a dropout that drops is refused. */
static bool lower_dropout(Call *c) {
    uint32_t n = 0;
    if (in_has(c, 2)) {
        const Dim *d = in_dims(c, 2, &n);
        if (d == NULL || n != 1 || !dim_eq(d[0], dim_const(0)))
            return call_error(c, "is in training mode; hint: export for inference");
    }
    if (out_used(c, 1)) {
        ValId x = in_val(c, 0);
        if (!val_ok(x)) return false;
        Type t = *type_of(c, x);
        ValId all = emit_broadcast(c, emit_scalar(c, DT_BOOL, 1), t.rank, t.dim);
        if (!out_val(c, 1, all)) return false;
    }
    return out_same(c, 0, 0);
}

/* (x - mean) / sqrt(var + eps) * scale + bias, per channel (axis 1). */
static bool lower_batch_norm(Call *c) {
    ValId x = in_val(c, 0), w[5];
    if (!val_ok(x)) return false;
    Type t = *type_of(c, x);
    if (attr_int(c, "training_mode", 0) != 0)
        return call_error(c, "is in training mode; hint: export for inference");
    if (t.rank < 2) return call_error(c, "the operand has no channel axis");
    Dim dims[MAX_RANK];
    for (uint32_t i = 0; i < t.rank; i++) dims[i] = i == 1 ? t.dim[1] : dim_const(1);
    for (size_t i = 1; i < 5; i++) {
        w[i] = emit_reshape(c, emit_cast(c, in_val(c, i), t.dtype), t.rank, dims);
        if (!val_ok(w[i])) return false;
    }
    ValId eps = emit_scalar(c, t.dtype, (double)attr_float(c, "epsilon", 1e-5f));
    ValId dev = emit1(c, OP_SQRT, emit2(c, OP_ADD, w[4], eps));
    ValId v = emit2(c, OP_DIV, emit2(c, OP_SUB, x, w[3]), dev);
    return out_val(c, 0, emit2(c, OP_ADD, emit2(c, OP_MUL, v, w[1]), w[2]));
}

const OpRule onnx_rules_nn[] = {
    {"", "MatMul", 1, 0, lower_matmul, 0, T_NUMBERS},
    {"", "Gemm", 7, 0, lower_gemm, 0, T_NUMBERS},
    {"", "LayerNormalization", 1, 0, lower_layer_norm, 0, T_FLOATS,
     "the normalised axes need constant lengths"},
    {"", "RMSNormalization", 23, 0, lower_rms_norm, 0, T_FLOATS, "the normalised axes need constant lengths"},
    {"", "SimplifiedLayerNormalization", 1, 0, lower_rms_norm, 0, T_FLOATS,
     "ONNX Runtime's name in the default domain; as RMSNormalization"},
    {"", "LpNormalization", 1, 0, lower_lp_norm, 0, T_FLOATS},
    {"", "Dropout", 7, 0, lower_dropout, 0, T_ANY, "in inference mode: hands its input on"},
    {"", "BatchNormalization", 9, 0, lower_batch_norm, 0, T_FLOATS, "in inference mode"},
    {0},
};
