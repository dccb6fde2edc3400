/* onnx_ops_quant.c: quantised ONNX ops, put together from primitives, quantize and dequantize in their plain
 * meaning. */
#include "frontend/import.h"

ValId scale_operand(Call *c, size_t i) {
    if (!in_has(c, i)) return NO_VAL;
    ValId v = in_val(c, i);
    if (!val_ok(v)) return v;
    const Type *t = type_of(c, v);
    return t->rank == 1 && dim_eq(t->dim[0], dim_const(1)) ? emit_reshape(c, v, 0, NULL) : v;
}

static bool quant_axis(Call *c, const Type *x, uint32_t *axis) {
    *axis = 0;
    if (x->rank == 0) return true;
    int64_t def = x->rank > 1 ? 1 : 0;
    return axis_norm(c, attr_int(c, "axis", def), x->rank, axis);
}

/* x, scale, zero? with the axis and block of the ONNX op. */
static bool quant_operands(Call *c, ValId in[3], Attr *a) {
    uint32_t axis = 0;
    for (size_t i = 0; i < 3; i++) in[i] = i == 0 ? in_val(c, 0) : scale_operand(c, i);
    if (!val_ok(in[0]) || !val_ok(in[1]) || (in_has(c, 2) && !val_ok(in[2]))) return false;
    if (!quant_axis(c, type_of(c, in[0]), &axis)) return false;
    *a = attr_default();
    if (type_of(c, in[1])->rank == 0) return true;
    a->axis = axis;
    a->block = attr_int(c, "block_size", 0);
    return true;
}

/* (x - zero) * scale */
static bool lower_dequantize(Call *c) {
    ValId in[3];
    Attr a;
    if (!quant_operands(c, in, &a)) return false;
    int64_t to = attr_int(c, "output_dtype", 0);
    ValId v = emit(c, OP_DEQUANTIZE, in, 3, &a, NULL);
    if (to > 0 && to < 64 && dtype_is_float(dtype_from_onnx((int)to)))
        v = emit_cast(c, v, dtype_from_onnx((int)to));
    return out_val(c, 0, v);
}

static bool int_range(Call *c, DType t, double *low, double *high) {
    switch (t) {
    case DT_I8: *low = -128, *high = 127; return true;
    case DT_U8: *low = 0, *high = 255; return true;
    case DT_I16: *low = -32768, *high = 32767; return true;
    case DT_U16: *low = 0, *high = 65535; return true;
    default: return call_error(c, "element type %s is not supported", dtype_name(t));
    }
}

/* saturate(round(v) + zero), v in f32 */
static ValId quantise(Call *c, ValId v, ValId zero, DType t) {
    double low = 0, high = 0;
    if (!int_range(c, t, &low, &high)) return NO_VAL;
    v = emit1(c, OP_ROUND, v);
    if (val_ok(zero)) v = emit2(c, OP_ADD, v, emit_cast(c, zero, DT_F32));
    v = emit2(c, OP_MAX, emit2(c, OP_MIN, v, emit_scalar(c, DT_F32, high)), emit_scalar(c, DT_F32, low));
    return emit_cast(c, v, t);
}

/* A scale as fp32 that broadcasts with x. */
static ValId scale_beside(Call *c, ValId scale, const Type *x, const Attr *a) {
    Dim dims[MAX_RANK];
    scale = emit_cast(c, scale, DT_F32);
    if (!val_ok(scale) || type_of(c, scale)->rank == 0) return scale;
    Type t = *type_of(c, scale);
    if (a->block == 0) {
        for (uint32_t i = 0; i < x->rank; i++) dims[i] = i == (uint32_t)a->axis ? t.dim[0] : dim_const(1);
        return emit_reshape(c, scale, x->rank, dims);
    }
    call_error(c, "a scale for each block is not supported for floats of 8 bits");
    return NO_VAL;
}

/* x / scale, in a float of 8 bits; these have no zero point. */
static bool quantise_to_f8(Call *c, const ValId *in, const Attr *a, DType to) {
    Type x = *type_of(c, in[0]);
    ValId v = emit2(c, OP_DIV, emit_cast(c, in[0], DT_F32), scale_beside(c, in[1], &x, a));
    bool saturate = attr_int(c, "saturate", 1) != 0;
    return out_val(c, 0, saturate ? emit_saturated(c, v, to) : emit_cast(c, v, to));
}

static bool lower_quantize(Call *c) {
    ValId in[3];
    Attr a;
    if (!quant_operands(c, in, &a)) return false;
    int64_t out = attr_int(c, "output_dtype", 0);
    DType to = out == 0 ? DT_U8 : out > 0 && out < 64 ? dtype_from_onnx((int)out) : DT_NONE;
    if (val_ok(in[2])) to = type_of(c, in[2])->dtype;
    if (dtype_is_f8(to)) return quantise_to_f8(c, in, &a, to);
    if (!dtype_is_int(to)) return call_error(c, "to element type %s is not supported", dtype_name(to));
    Type t = *type_of(c, in[0]);
    t.dtype = to;
    return out_val(c, 0, emit(c, OP_QUANTIZE, in, 3, &a, &t));
}

/* scale = (max(x, 0) - min(x, 0)) / 255, zero = saturate(round(-min / scale)) */
static void dynamic_quantise(Call *c, ValId x, ValId *q, ValId *scale, ValId *zero) {
    uint32_t all = (1u << type_of(c, x)->rank) - 1;
    ValId nil = graph_const_f32(c->g, 0);
    ValId high = emit2(c, OP_MAX, emit_reduce(c, OP_REDUCE_MAX, x, all, false), nil);
    ValId low = emit2(c, OP_MIN, emit_reduce(c, OP_REDUCE_MIN, x, all, false), nil);
    *scale = emit2(c, OP_DIV, emit2(c, OP_SUB, high, low), graph_const_f32(c->g, 255));
    /* All zeros: any scale will do. */
    ValId one = graph_const_f32(c->g, 1);
    ValId by = emit3(c, OP_WHERE, emit2(c, OP_EQ, *scale, nil), one, *scale);
    *zero = quantise(c, emit2(c, OP_DIV, emit1(c, OP_NEG, low), by), NO_VAL, DT_U8);
    *q = quantise(c, emit2(c, OP_DIV, x, by), *zero, DT_U8);
}

static bool lower_dynamic_quantize(Call *c) {
    ValId x = in_val(c, 0), q, scale, zero;
    if (!val_ok(x)) return false;
    dynamic_quantise(c, x, &q, &scale, &zero);
    return out_val(c, 0, q) && out_val(c, 1, scale) && out_val(c, 2, zero);
}

/* An integer operand less its zero point (a scalar, or one per row of A or column of B). */
static ValId centred(Call *c, size_t i, size_t zero_at, bool rows) {
    ValId v = emit_cast(c, in_val(c, i), DT_I32);
    if (!in_has(c, zero_at) || !val_ok(v)) return v;
    ValId zero = emit_cast(c, in_val(c, zero_at), DT_I32);
    if (!val_ok(zero)) return zero;
    if (type_of(c, zero)->rank == 1 && rows) zero = emit_insert_axis(c, zero, 1);
    return emit2(c, OP_SUB, v, zero);
}

static bool lower_matmul_integer(Call *c) {
    ValId a = centred(c, 0, 2, true), b = centred(c, 1, 3, false);
    return out_val(c, 0, emit2(c, OP_MATMUL, a, b));
}

static ValId scaled_product(Call *c, ValId a, ValId b, ValId scale_a, ValId scale_b, size_t bias) {
    ValId v = emit_cast(c, emit2(c, OP_MATMUL, a, b), DT_F32);
    v = emit2(c, OP_MUL, v, emit2(c, OP_MUL, scale_a, scale_b));
    return in_has(c, bias) ? emit2(c, OP_ADD, v, in_val(c, bias)) : v;
}

/* a, b, a_scale, b_scale, a_zero?, b_zero?, bias? */
static bool lower_integer_to_float(Call *c) {
    ValId a = centred(c, 0, 4, true), b = centred(c, 1, 5, false), scale = in_val(c, 2);
    if (val_ok(scale) && type_of(c, scale)->rank == 1) scale = emit_insert_axis(c, scale, 1);
    return out_val(c, 0, scaled_product(c, a, b, scale, in_val(c, 3), 6));
}

/* x, b, b_scale, b_zero?, bias?: x quantised dynamically */
static bool lower_dynamic_matmul(Call *c) {
    ValId x = in_val(c, 0), q, scale, zero;
    if (!val_ok(x)) return false;
    dynamic_quantise(c, x, &q, &scale, &zero);
    ValId a = emit2(c, OP_SUB, emit_cast(c, q, DT_I32), emit_cast(c, zero, DT_I32));
    return out_val(c, 0, scaled_product(c, a, centred(c, 1, 3, false), scale, in_val(c, 2), 4));
}

const OpRule onnx_rules_quant[] = {
    {"", "DequantizeLinear", 10, 0, lower_dequantize, 0, T_INTS,
     "from 2 to 32 bits and floats of 8 bits; per tensor, axis or block"},
    {"", "QuantizeLinear", 10, 0, lower_quantize, 0, T_FLOATS,
     "to 2 to 32 bits, per tensor, axis or block; to floats of 8 bits, per tensor or axis"},
    {"", "DynamicQuantizeLinear", 11, 0, lower_dynamic_quantize, 0, T_FLOATS},
    {"", "MatMulInteger", 10, 0, lower_matmul_integer, 0, T_INTS},
    {"com.microsoft", "DequantizeLinear", 1, 0, lower_dequantize, 0, T_INTS, "per tensor, axis or block"},
    {"com.microsoft", "QuantizeLinear", 1, 0, lower_quantize, 0, T_FLOATS, "per tensor, axis or block"},
    {"com.microsoft", "MatMulIntegerToFloat", 1, 0, lower_integer_to_float, 0, T_INTS},
    {"com.microsoft", "DynamicQuantizeMatMul", 1, 0, lower_dynamic_matmul, 0, T_FLOATS},
    {0},
};
