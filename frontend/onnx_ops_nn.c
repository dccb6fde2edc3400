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
    const NormArgs *args;
    Type t;
    uint32_t axis;
    Dim size;
} Norm;

static bool norm_begin(Call *c, const NormArgs *args, Norm *n) {
    if (!val_ok(args->x)) return false;
    *n = (Norm){.args = args, .t = *type_of(c, args->x), .size = dim_const(1)};
    if (!axis_norm(c, args->axis, n->t.rank, &n->axis)) return false;
    for (uint32_t i = n->axis; i < n->t.rank; i++) n->size = dim_mul(c->g, n->size, n->t.dim[i]);
    if (!dim_is_const(n->size)) return call_error(c, "the normalised axes have symbolic lengths");
    return true;
}

/* Scale or bias as [size]: broadcast over the normalised axes, then flattened. */
static ValId norm_weight(Call *c, const Norm *n, size_t i) {
    ValId w = emit_cast(c, in_val(c, i), n->t.dtype);
    w = emit_broadcast(c, w, n->t.rank - n->axis, n->t.dim + n->axis);
    return emit_reshape(c, w, 1, &n->size);
}

/* Does operand i differ along axes that are not normalised, as one weight a head does? */
static bool norm_is_wide(Call *c, const Norm *n, size_t i) {
    return in_has(c, i) && in_type(c, i)->rank > n->t.rank - n->axis;
}

static ValId norm_make(Call *c, const Norm *n) {
    const NormArgs *p = n->args;
    bool scale = p->scale != 0 && in_has(c, p->scale), bias = p->bias != 0 && in_has(c, p->bias);
    bool wide = (scale && norm_is_wide(c, n, p->scale)) || (bias && norm_is_wide(c, n, p->bias));
    Dim dims[MAX_RANK];
    memcpy(dims, n->t.dim, sizeof(dims));
    dims[n->axis] = n->size;
    ValId in[3] = {emit_reshape(c, p->x, n->axis + 1, dims), NO_VAL, NO_VAL};
    if (scale && !wide && !val_ok(in[1] = norm_weight(c, n, p->scale))) return NO_VAL;
    if (bias && !wide && !val_ok(in[2] = norm_weight(c, n, p->bias))) return NO_VAL;
    Attr a = attr_default();
    a.rms = p->rms;
    a.eps = p->eps;
    ValId y = emit_reshape(c, emit(c, OP_NORM, in, 3, &a, NULL), n->t.rank, n->t.dim);
    if (wide && scale) y = emit2(c, OP_MUL, y, emit_cast(c, in_val(c, p->scale), n->t.dtype));
    if (wide && bias) y = emit2(c, OP_ADD, y, emit_cast(c, in_val(c, p->bias), n->t.dtype));
    return y;
}

/* 1 / sqrt(mean(x^2) + eps), in fp32. */
static ValId inverse_deviation(Call *c, ValId x, uint32_t axes, float eps) {
    ValId var = emit_reduce(c, OP_REDUCE_MEAN, emit2(c, OP_MUL, x, x), axes, true);
    var = emit2(c, OP_ADD, var, emit_scalar(c, DT_F32, (double)eps));
    return emit1(c, OP_RECIP, emit1(c, OP_SQRT, var));
}

bool norm_lower(Call *c, const NormArgs *args) {
    Norm n;
    if (!norm_begin(c, args, &n) || !out_val(c, 0, norm_make(c, &n))) return false;
    bool mean_used = args->mean_out != 0 && out_used(c, args->mean_out);
    bool deviation_used = args->deviation_out != 0 && out_used(c, args->deviation_out);
    if (!mean_used && !deviation_used) return true;
    uint32_t axes = ((1u << n.t.rank) - 1) & ~((1u << n.axis) - 1);
    ValId x = emit_cast(c, args->x, DT_F32);
    if (!args->rms) {
        ValId mean = emit_reduce(c, OP_REDUCE_MEAN, x, axes, true);
        if (mean_used && !out_val(c, args->mean_out, mean)) return false;
        x = emit2(c, OP_SUB, x, mean);
    }
    return !deviation_used || out_val(c, args->deviation_out, inverse_deviation(c, x, axes, args->eps));
}

static bool lower_layer_norm(Call *c) {
    NormArgs n = {.x = in_val(c, 0),
                  .axis = attr_int(c, "axis", -1),
                  .scale = 1,
                  .bias = 2,
                  .eps = attr_float(c, "epsilon", 1e-5f),
                  .mean_out = 1,
                  .deviation_out = 2};
    return norm_lower(c, &n);
}

static bool lower_rms_norm(Call *c) {
    NormArgs n = {.x = in_val(c, 0),
                  .axis = attr_int(c, "axis", -1),
                  .scale = 1,
                  .rms = true,
                  .eps = attr_float(c, "epsilon", 1e-5f),
                  .deviation_out = 1};
    return norm_lower(c, &n);
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
/* Training with a ratio of 0 drops nothing. */
static bool drops_nothing(Call *c) {
    uint32_t n = 0;
    double ratio = 0.5;
    if (!in_has(c, 2)) return true;
    const Dim *d = in_dims(c, 2, &n);
    if (d != NULL && n == 1 && dim_eq(d[0], dim_const(0))) return true;
    return in_has(c, 1) && const_scalar(c->g, in_val(c, 1), &ratio) && ratio == 0;
}

static bool lower_dropout(Call *c) {
    if (!drops_nothing(c)) return call_error(c, "is in training mode; hint: export for inference");
    if (out_used(c, 1)) {
        ValId x = in_val(c, 0);
        if (!val_ok(x)) return false;
        Type t = *type_of(c, x);
        ValId all = emit_broadcast(c, emit_scalar(c, DT_BOOL, 1), t.rank, t.dim);
        if (!out_val(c, 1, all)) return false;
    }
    return out_same(c, 0, 0);
}

/* running * momentum + now * (1 - momentum), as output o */
static bool running_out(Call *c, size_t o, size_t running, ValId now, double momentum) {
    if (!out_used(c, o)) return true;
    ValId old = in_val(c, running);
    if (!val_ok(old) || !val_ok(now)) return false;
    Type t = *type_of(c, old);
    now = emit_cast(c, emit_reshape(c, now, t.rank, t.dim), t.dtype);
    ValId kept = emit2(c, OP_MUL, old, emit_scalar(c, t.dtype, momentum));
    return out_val(c, o,
                   emit2(c, OP_ADD, kept, emit2(c, OP_MUL, now, emit_scalar(c, t.dtype, 1 - momentum))));
}

/* (x - mean) / sqrt(var + eps) * scale + bias, per channel (axis 1); in training mode mean and variance are
 * those of the operand. */
static bool lower_batch_norm(Call *c) {
    ValId x = in_val(c, 0), w[5];
    if (!val_ok(x)) return false;
    Type t = *type_of(c, x);
    bool training = attr_int(c, "training_mode", 0) != 0;
    if (t.rank < 2) return call_error(c, "the operand has no channel axis");
    Dim dims[MAX_RANK];
    for (uint32_t i = 0; i < t.rank; i++) dims[i] = i == 1 ? t.dim[1] : dim_const(1);
    for (size_t i = 1; i < (training ? 3 : 5); i++) {
        w[i] = emit_reshape(c, emit_cast(c, in_val(c, i), t.dtype), t.rank, dims);
        if (!val_ok(w[i])) return false;
    }
    if (training) {
        uint32_t axes = ((1u << t.rank) - 1) & ~2u;
        w[3] = emit_reduce(c, OP_REDUCE_MEAN, x, axes, true);
        ValId off = emit2(c, OP_SUB, x, w[3]);
        w[4] = emit_reduce(c, OP_REDUCE_MEAN, emit2(c, OP_MUL, off, off), axes, true);
        double momentum = (double)attr_float(c, "momentum", 0.9f);
        if (!running_out(c, 1, 3, w[3], momentum) || !running_out(c, 2, 4, w[4], momentum)) return false;
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
    {"", "BatchNormalization", 9, 0, lower_batch_norm, 0, T_FLOATS},
    {0},
};
