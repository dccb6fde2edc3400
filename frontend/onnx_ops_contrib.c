/* onnx_ops_contrib.c: ONNX Runtime's own operators (domain com.microsoft), but for attention: fusions of
 * standard ones, taken apart again, so that one set of passes serves both. */
#include <string.h>

#include "frontend/import.h"

/* x + operand i, where it is given. */
static ValId plus(Call *c, ValId x, size_t i) { return in_has(c, i) ? emit2(c, OP_ADD, x, in_val(c, i)) : x; }

/* ---- normalisations ---- */

enum { SKIP_LAYER, SKIP_SIMPLIFIED };

/* norm(input + skip + bias); output 3 is the sum. */
static bool lower_skip_norm(Call *c) {
    bool rms = c->arg == SKIP_SIMPLIFIED;
    ValId sum = plus(c, in_val(c, 0), 1);
    sum = plus(c, sum, rms ? 3 : 4);
    NormArgs n = {.x = sum,
                  .axis = -1,
                  .rms = rms,
                  .scale = 2,
                  .bias = rms ? 0 : 3,
                  .eps = attr_float(c, "epsilon", 1e-12f),
                  .mean_out = 1,
                  .deviation_out = 2};
    return norm_lower(c, &n) && out_val(c, 3, sum);
}

static ValId embedding(Call *c, size_t table, ValId ids) {
    ValId in[2] = {in_val(c, table), ids};
    Attr a = attr_default();
    return emit(c, OP_GATHER, in, 2, &a, NULL);
}

/* The count of ones in each row of the mask; zeros when there is none. */
static bool embed_mask_index(Call *c, ValId ids) {
    if (!out_used(c, 1) || !val_ok(ids)) return val_ok(ids);
    ValId v = NO_VAL;
    if (in_has(c, 7))
        v = emit_reduce(c, OP_REDUCE_SUM, emit_cast(c, in_val(c, 7), DT_I32), 1u << 1, false);
    else
        v = emit_broadcast(c, emit_scalar(c, DT_I32, 0), 1, type_of(c, ids)->dim);
    return out_val(c, 1, v);
}

static bool lower_embed_norm(Call *c) {
    ValId ids = in_val(c, 0), positions = NO_VAL;
    if (!val_ok(ids)) return false;
    if (type_of(c, ids)->rank != 2) return call_error(c, "the tokens are not [batch, sequence]");
    positions = in_has(c, 8) ? in_val(c, 8) : emit_iota(c, DT_I64, type_of(c, ids)->dim[1]);
    ValId sum = emit2(c, OP_ADD, embedding(c, 2, ids), embedding(c, 3, positions));
    if (in_has(c, 1) && in_has(c, 4)) sum = emit2(c, OP_ADD, sum, embedding(c, 4, in_val(c, 1)));
    NormArgs n = {.x = sum, .axis = -1, .scale = 5, .bias = 6, .eps = attr_float(c, "epsilon", 1e-12f)};
    return norm_lower(c, &n) && embed_mask_index(c, ids) && out_val(c, 2, sum);
}

/* ---- activations ---- */

static ValId gelu(Call *c, ValId x, bool tanh) {
    Attr a = attr_default();
    a.tanh = tanh;
    return emit(c, OP_GELU, &x, 1, &a, NULL);
}

enum { ERF_GELU, TANH_GELU };

static bool lower_bias_gelu(Call *c) {
    return out_val(c, 0, gelu(c, plus(c, in_val(c, 0), 1), c->arg == TANH_GELU));
}

static bool lower_quick_gelu(Call *c) {
    Attr a = attr_default();
    a.alpha = attr_float(c, "alpha", 1.702f);
    ValId x = in_val(c, 0);
    return out_val(c, 0, emit(c, OP_SILU, &x, 1, &a, NULL));
}

static bool lower_bias_add(Call *c) { return out_val(c, 0, plus(c, plus(c, in_val(c, 0), 1), 2)); }

/* softmax(data + bias) over the axes from `axis` on, taken as one. The bias has as many axes as the data,
 * or ones before the softmax's that repeat it. */
static bool lower_bias_softmax(Call *c) {
    ValId x = in_val(c, 0), bias = in_val(c, 1);
    if (!val_ok(x) || !val_ok(bias)) return false;
    Type t = *type_of(c, x);
    uint32_t axis = 0;
    if (!axis_norm(c, attr_int(c, "axis", 1), t.rank, &axis)) return false;
    if (type_of(c, bias)->rank != t.rank) return call_error(c, "the bias has another rank than the data");
    x = emit2(c, OP_ADD, x, bias);
    Dim dims[MAX_RANK], tail = dim_const(1);
    for (uint32_t i = 0; i < t.rank; i++) {
        dims[i] = t.dim[i];
        if (i >= axis) tail = dim_mul(c->g, tail, t.dim[i]);
    }
    dims[axis] = tail;
    Attr a = attr_default();
    a.axis = axis;
    x = emit_reshape(c, x, axis + 1, dims);
    return out_val(c, 0, emit_reshape(c, emit(c, OP_SOFTMAX, &x, 1, &a, NULL), t.rank, t.dim));
}

/* ---- products ---- */

/* The matrix operand, as the attributes turn it: first [d0, batches.., d] to [batches.., d0, d], then the
 * last two axes. A vector is not turned. */
static ValId turned(Call *c, size_t i, const char *trans, const char *batch) {
    ValId v = in_val(c, i);
    if (!val_ok(v)) return v;
    uint32_t rank = type_of(c, v)->rank;
    uint8_t perm[MAX_RANK];
    if (rank < 2) return v;
    for (uint32_t k = 0; k < rank; k++) perm[k] = (uint8_t)k;
    if (attr_int(c, batch, 0) != 0) {
        for (uint32_t k = 0; k + 2 < rank; k++) perm[k] = (uint8_t)(k + 1);
        perm[rank - 2] = 0;
    }
    if (attr_int(c, trans, 0) != 0) {
        uint8_t last = perm[rank - 1];
        perm[rank - 1] = perm[rank - 2];
        perm[rank - 2] = last;
    }
    return emit_transpose(c, v, perm);
}

/* What an attribute of a fused product applies to its result. */
static ValId fused_activation(Call *c, ValId v) {
    const char *name = attr_string(c, "activation", "");
    if (!val_ok(v) || name[0] == '\0') return v;
    DType t = type_of(c, v)->dtype;
    double alpha = (double)attr_float(c, "activation_alpha", 0.01f);
    if (strcmp(name, "Relu") == 0) return emit1(c, OP_RELU, v);
    if (strcmp(name, "Sigmoid") == 0) return emit1(c, OP_SIGMOID, v);
    if (strcmp(name, "Tanh") == 0) return emit1(c, OP_TANH, v);
    if (strcmp(name, "LeakyRelu") == 0) {
        ValId below = emit2(c, OP_LT, v, emit_scalar(c, t, 0));
        return emit3(c, OP_WHERE, below, emit2(c, OP_MUL, v, emit_scalar(c, t, alpha)), v);
    }
    call_error(c, "the activation '%s' is not supported", name);
    return NO_VAL;
}

static ValId scaled(Call *c, ValId v, float by) {
    if (!val_ok(v) || by == 1.0f) return v;
    return emit2(c, OP_MUL, v, emit_scalar(c, type_of(c, v)->dtype, (double)by));
}

static bool lower_fused_matmul(Call *c) {
    ValId a = turned(c, 0, "transA", "transBatchA"), b = turned(c, 1, "transB", "transBatchB");
    ValId v = scaled(c, emit2(c, OP_MATMUL, a, b), attr_float(c, "alpha", 1));
    return out_val(c, 0, fused_activation(c, v));
}

static bool lower_fused_gemm(Call *c) {
    ValId a = turned(c, 0, "transA", ""), b = turned(c, 1, "transB", "");
    ValId v = scaled(c, emit2(c, OP_MATMUL, a, b), attr_float(c, "alpha", 1));
    float beta = attr_float(c, "beta", 1);
    if (in_has(c, 2) && beta != 0) v = emit2(c, OP_ADD, v, scaled(c, in_val(c, 2), beta));
    return out_val(c, 0, fused_activation(c, v));
}

static bool lower_gemm_fast_gelu(Call *c) {
    ValId v = emit2(c, OP_MATMUL, in_val(c, 0), in_val(c, 1));
    return out_val(c, 0, gelu(c, plus(c, v, 2), true));
}

/* ---- movement ---- */

static bool lower_torch_embedding(Call *c) {
    ValId ids = in_val(c, 1);
    return out_val(c, 0, embedding(c, 0, ids));
}

static bool lower_expand_dims(Call *c) {
    ValId v = in_val(c, 0);
    int64_t at = 0;
    uint32_t axis = 0;
    if (!val_ok(v) || !in_int(c, 1, "the axis", &at)) return false;
    if (!axis_norm(c, at, type_of(c, v)->rank + 1u, &axis)) return false;
    return out_val(c, 0, emit_insert_axis(c, v, axis));
}

const OpRule onnx_rules_contrib[] = {
    {"com.microsoft", "SkipLayerNormalization", 1, 0, lower_skip_norm, SKIP_LAYER, T_FLOATS},
    {"com.microsoft", "SkipSimplifiedLayerNormalization", 1, 0, lower_skip_norm, SKIP_SIMPLIFIED, T_FLOATS},
    {"com.microsoft", "EmbedLayerNormalization", 1, 0, lower_embed_norm, 0, T_INTS},
    {"com.microsoft", "Gelu", 1, 0, lower_bias_gelu, ERF_GELU, T_FLOATS},
    {"com.microsoft", "BiasGelu", 1, 0, lower_bias_gelu, ERF_GELU, T_FLOATS},
    {"com.microsoft", "FastGelu", 1, 0, lower_bias_gelu, TANH_GELU, T_FLOATS},
    {"com.microsoft", "QuickGelu", 1, 0, lower_quick_gelu, 0, T_FLOATS},
    {"com.microsoft", "BiasAdd", 1, 0, lower_bias_add, 0, T_FLOATS},
    {"com.microsoft", "BiasSoftmax", 1, 0, lower_bias_softmax, 0, T_FLOATS,
     "the bias has the rank of the data"},
    {"com.microsoft", "FusedMatMul", 1, 0, lower_fused_matmul, 0, T_FLOATS},
    {"com.microsoft", "FusedMatMulActivation", 1, 0, lower_fused_matmul, 0, T_FLOATS,
     "activations: Relu, Sigmoid, Tanh, LeakyRelu"},
    {"com.microsoft", "TransposeMatMul", 1, 0, lower_fused_matmul, 0, T_FLOATS},
    {"com.microsoft", "FusedGemm", 1, 0, lower_fused_gemm, 0, T_FLOATS,
     "activations: Relu, Sigmoid, Tanh, LeakyRelu"},
    {"com.microsoft", "GemmFastGelu", 1, 0, lower_gemm_fast_gelu, 0, T_FLOATS},
    {"com.microsoft", "TorchEmbedding", 1, 0, lower_torch_embedding, 0, T_FLOATS},
    {"com.microsoft", "ExpandDims", 1, 0, lower_expand_dims, 0, T_ANY},
    {0},
};
