/* onnx_ops_math.c: elementwise ONNX ops. */
#include <math.h>
#include <string.h>

#include "frontend/import.h"

static bool lower_unary(Call *c) {
    return shape_elementwise(c) || out_val(c, 0, emit1(c, (Op)c->arg, in_val(c, 0)));
}

static bool lower_same(Call *c) { return out_same(c, 0, 0); }

static bool lower_binary(Call *c) {
    return shape_elementwise(c) || out_val(c, 0, emit2(c, (Op)c->arg, in_val(c, 0), in_val(c, 1)));
}

/* a > b is b < a. */
static bool lower_swapped(Call *c) {
    if (shape_elementwise(c)) return true;
    ValId a = in_val(c, 0);
    return out_val(c, 0, emit2(c, (Op)c->arg, in_val(c, 1), a));
}

static bool lower_variadic(Call *c) {
    if (shape_elementwise(c)) return true;
    ValId v = in_val(c, 0);
    for (size_t i = 1; i < c->n->nin && val_ok(v); i++) v = emit2(c, (Op)c->arg, v, in_val(c, i));
    return out_val(c, 0, v);
}

static bool lower_mean(Call *c) {
    ValId v = in_val(c, 0);
    for (size_t i = 1; i < c->n->nin && val_ok(v); i++) v = emit2(c, OP_ADD, v, in_val(c, i));
    if (!val_ok(v)) return false;
    ValId n = emit_scalar(c, type_of(c, v)->dtype, (double)c->n->nin);
    return out_val(c, 0, emit2(c, OP_DIV, v, n));
}

/* fmod=1 has the dividend's sign, fmod=0 the divisor's; the IR's mod the latter on integers and the
 * former on floats. */
static bool lower_mod(Call *c) {
    if (shape_elementwise(c)) return true;
    ValId a = in_val(c, 0), b = in_val(c, 1);
    if (!val_ok(a) || !val_ok(b)) return false;
    DType t = type_of(c, a)->dtype;
    bool fmod = attr_int(c, "fmod", 0) != 0;
    if (dtype_is_int(t) && fmod)
        return out_val(c, 0, emit2(c, OP_SUB, a, emit2(c, OP_MUL, emit2(c, OP_DIV, a, b), b)));
    ValId r = emit2(c, OP_MOD, a, b);
    if (dtype_is_int(t) || fmod) return out_val(c, 0, r);
    ValId zero = emit_scalar(c, t, 0);
    ValId differ = emit2(c, OP_XOR, emit2(c, OP_LT, r, zero), emit2(c, OP_LT, b, zero));
    ValId whole = emit2(c, OP_EQ, r, zero);
    differ = emit2(c, OP_AND, differ, emit1(c, OP_NOT, whole));
    return out_val(c, 0, emit3(c, OP_WHERE, differ, emit2(c, OP_ADD, r, b), r));
}

static bool lower_isinf(Call *c) {
    ValId x = in_val(c, 0);
    if (!val_ok(x)) return false;
    ValId r = emit1(c, OP_ISINF, x), zero = emit_scalar(c, type_of(c, x)->dtype, 0);
    if (attr_int(c, "detect_negative", 1) == 0) r = emit2(c, OP_AND, r, emit2(c, OP_LT, zero, x));
    if (attr_int(c, "detect_positive", 1) == 0) r = emit2(c, OP_AND, r, emit2(c, OP_LT, x, zero));
    return out_val(c, 0, r);
}

static bool lower_where(Call *c) {
    if (shape_elementwise(c)) return true;
    ValId cond = in_val(c, 0), a = in_val(c, 1);
    return out_val(c, 0, emit3(c, OP_WHERE, cond, a, in_val(c, 2)));
}

/* Casts of the IR overflow to infinity or NaN, in floats of 8 bits too. */
ValId emit_saturated(Call *c, ValId v, DType t) {
    if (!val_ok(v) || type_of(c, v)->dtype == t) return v;
    DType from = type_of(c, v)->dtype;
    if (!dtype_is_float(from) || dtype_is_f8(from)) v = emit_cast(c, v, from = DT_F32);
    double most = (double)f8_largest(t);
    v = emit2(c, OP_MIN, v, emit_scalar(c, from, most));
    return emit_cast(c, emit2(c, OP_MAX, v, emit_scalar(c, from, -most)), t);
}

static bool lower_cast_to(Call *c, DType t) {
    const Tv *x = in_tv(c, 0);
    if (dtype_is_f8(t) && attr_int(c, "saturate", 1) != 0)
        return out_val(c, 0, emit_saturated(c, in_val(c, 0), t));
    bool ints =
        dtype_is_int(t) && dtype_bits(t) >= 8 && (dtype_is_int(x->type.dtype) || x->type.dtype == DT_BOOL);
    if (x->dims != NULL && (ints || t == x->type.dtype)) {
        bool narrow = dtype_size(t) < 4;
        for (uint32_t i = 0; i < x->ndims; i++) narrow &= !dim_is_const(x->dims[i]);
        if (!narrow || x->ndims == 0) {
            bool fits = true;
            for (uint32_t i = 0; i < x->ndims; i++)
                fits &= !dim_is_const(x->dims[i]) || dtype_size(t) == 8 ||
                        (x->dims[i].v >= 0 && x->dims[i].v <= INT8_MAX) ||
                        (dtype_size(t) == 4 && x->dims[i].v <= INT32_MAX &&
                         (x->dims[i].v >= INT32_MIN && dtype_class(t) == DC_INT));
            if (fits) return out_dims(c, 0, t, x->type.rank, x->dims, x->ndims);
        }
    }
    return out_val(c, 0, emit_cast(c, in_val(c, 0), t));
}

static bool lower_cast(Call *c) {
    if (!in_has(c, 0)) return call_error(c, "the operand is missing");
    int64_t to = attr_int(c, "to", 0);
    DType t = to > 0 && to < 64 ? dtype_from_onnx((int)to) : DT_NONE;
    if (t == DT_NONE) return call_error(c, "element type %lld is not supported", (long long)to);
    return lower_cast_to(c, t);
}

static bool lower_cast_like(Call *c) {
    if (!in_has(c, 0) || !in_has(c, 1)) return call_error(c, "an operand is missing");
    return lower_cast_to(c, in_type(c, 1)->dtype);
}

/* Attributes min and max before opset 11, inputs from then on. */
static bool lower_clip(Call *c) {
    ValId v = in_val(c, 0);
    if (!val_ok(v)) return false;
    DType t = type_of(c, v)->dtype;
    if (c->version < 11) {
        if (attr_find(c, "min") != NULL)
            v = emit2(c, OP_MAX, v, emit_scalar(c, t, (double)attr_float(c, "min", 0)));
        if (attr_find(c, "max") != NULL)
            v = emit2(c, OP_MIN, v, emit_scalar(c, t, (double)attr_float(c, "max", 0)));
        return out_val(c, 0, v);
    }
    if (in_has(c, 1)) v = emit2(c, OP_MAX, v, in_val(c, 1));
    if (in_has(c, 2)) v = emit2(c, OP_MIN, v, in_val(c, 2));
    return val_eq(v, in_val(c, 0)) ? out_same(c, 0, 0) : out_val(c, 0, v);
}

/* ---- activations, put together from primitives ---- */

typedef struct {
    Call *c;
    ValId x;
    DType t;
} Act;

static bool act_begin(Call *c, Act *a) {
    *a = (Act){c, in_val(c, 0), DT_F32};
    if (!val_ok(a->x)) return false;
    a->t = type_of(c, a->x)->dtype;
    if (!dtype_is_float(a->t)) return call_error(c, "the operand is not floating point");
    return true;
}

static ValId num(const Act *a, double v) { return emit_scalar(a->c, a->t, v); }

/* x > 0 ? yes : no */
static ValId positive(const Act *a, ValId yes, ValId no) {
    return emit3(a->c, OP_WHERE, emit2(a->c, OP_LT, num(a, 0), a->x), yes, no);
}

/* k * (e^x' - 1) */
static ValId exp_minus_one(const Act *a, ValId x, double k) {
    ValId e = emit2(a->c, OP_SUB, emit1(a->c, OP_EXP, x), num(a, 1));
    return emit2(a->c, OP_MUL, e, num(a, k));
}

enum { ELU, SELU, LEAKY_RELU, HARD_SIGMOID, HARD_SWISH, CELU, SOFTSIGN, MISH, THRESHOLDED_RELU, SHRINK };

static ValId hard_sigmoid(const Act *a, double alpha, double beta) {
    ValId v = emit2(a->c, OP_ADD, emit2(a->c, OP_MUL, a->x, num(a, alpha)), num(a, beta));
    return emit2(a->c, OP_MAX, emit2(a->c, OP_MIN, v, num(a, 1)), num(a, 0));
}

static ValId activation(Call *c, const Act *a) {
    ValId zero = num(a, 0);
    switch (c->arg) {
    case ELU: return positive(a, a->x, exp_minus_one(a, a->x, (double)attr_float(c, "alpha", 1)));
    case SELU: {
        double alpha = (double)attr_float(c, "alpha", 1.67326319217681884765625f);
        double gamma = (double)attr_float(c, "gamma", 1.05070102214813232421875f);
        return emit2(c, OP_MUL, positive(a, a->x, exp_minus_one(a, a->x, alpha)), num(a, gamma));
    }
    case LEAKY_RELU: {
        ValId low = emit2(c, OP_MUL, a->x, num(a, (double)attr_float(c, "alpha", 0.01f)));
        return emit3(c, OP_WHERE, emit2(c, OP_LT, a->x, zero), low, a->x);
    }
    case HARD_SIGMOID:
        return hard_sigmoid(a, (double)attr_float(c, "alpha", 0.2f), (double)attr_float(c, "beta", 0.5f));
    case HARD_SWISH: return emit2(c, OP_MUL, a->x, hard_sigmoid(a, 1.0 / 6, 0.5));
    case CELU: {
        double alpha = (double)attr_float(c, "alpha", 1);
        ValId low = exp_minus_one(a, emit2(c, OP_DIV, a->x, num(a, alpha)), alpha);
        return emit2(c, OP_ADD, emit2(c, OP_MAX, a->x, zero), emit2(c, OP_MIN, low, zero));
    }
    case SOFTSIGN: return emit2(c, OP_DIV, a->x, emit2(c, OP_ADD, emit1(c, OP_ABS, a->x), num(a, 1)));
    case MISH: return emit2(c, OP_MUL, a->x, emit1(c, OP_TANH, emit1(c, OP_SOFTPLUS, a->x)));
    case THRESHOLDED_RELU: {
        ValId above = emit2(c, OP_LT, num(a, (double)attr_float(c, "alpha", 1)), a->x);
        return emit3(c, OP_WHERE, above, a->x, zero);
    }
    case SHRINK: {
        double lambd = (double)attr_float(c, "lambd", 0.5f), bias = (double)attr_float(c, "bias", 0);
        ValId low = emit2(c, OP_ADD, a->x, num(a, bias)), high = emit2(c, OP_SUB, a->x, num(a, bias));
        ValId r = emit3(c, OP_WHERE, emit2(c, OP_LT, num(a, lambd), a->x), high, zero);
        return emit3(c, OP_WHERE, emit2(c, OP_LT, a->x, num(a, -lambd)), low, r);
    }
    default: return NO_VAL;
    }
}

static bool lower_activation(Call *c) {
    Act a;
    return act_begin(c, &a) && out_val(c, 0, activation(c, &a));
}

static bool lower_prelu(Call *c) {
    Act a;
    if (!act_begin(c, &a)) return false;
    ValId low = emit2(c, OP_MUL, a.x, in_val(c, 1));
    return out_val(c, 0, emit3(c, OP_WHERE, emit2(c, OP_LT, a.x, num(&a, 0)), low, a.x));
}

static bool lower_gelu(Call *c) {
    Attr at = attr_default();
    at.tanh = strcmp(attr_string(c, "approximate", "none"), "tanh") == 0;
    ValId x = in_val(c, 0);
    return out_val(c, 0, emit(c, OP_GELU, &x, 1, &at, NULL));
}

static bool lower_swish(Call *c) {
    Attr at = attr_default();
    at.alpha = attr_float(c, "alpha", 1);
    ValId x = in_val(c, 0);
    return out_val(c, 0, emit(c, OP_SILU, &x, 1, &at, NULL));
}

/* SwiGLU-28: swish(a) * b. */
static bool lower_swiglu(Call *c) {
    Attr at = attr_default();
    at.alpha = attr_float(c, "alpha", 1);
    ValId x = in_val(c, 0);
    return out_val(c, 0, emit2(c, OP_MUL, emit(c, OP_SILU, &x, 1, &at, NULL), in_val(c, 1)));
}

const OpRule onnx_rules_math[] = {
    {"", "Neg", 6, 0, lower_unary, OP_NEG, T_NUMBERS},
    {"", "Abs", 6, 0, lower_unary, OP_ABS, T_NUMBERS},
    {"", "Sign", 9, 0, lower_unary, OP_SIGN, T_NUMBERS},
    {"", "Exp", 6, 0, lower_unary, OP_EXP, T_FLOATS},
    {"", "Log", 6, 0, lower_unary, OP_LOG, T_FLOATS},
    {"", "Sqrt", 6, 0, lower_unary, OP_SQRT, T_FLOATS},
    {"", "Reciprocal", 6, 0, lower_unary, OP_RECIP, T_FLOATS},
    {"", "Sin", 7, 0, lower_unary, OP_SIN, T_FLOATS},
    {"", "Cos", 7, 0, lower_unary, OP_COS, T_FLOATS},
    {"", "Tanh", 6, 0, lower_unary, OP_TANH, T_FLOATS},
    {"", "Sigmoid", 6, 0, lower_unary, OP_SIGMOID, T_FLOATS},
    {"", "Erf", 9, 0, lower_unary, OP_ERF, T_FLOATS},
    {"", "Relu", 6, 0, lower_unary, OP_RELU, T_NUMBERS},
    {"", "Softplus", 1, 0, lower_unary, OP_SOFTPLUS, T_FLOATS},
    {"", "Floor", 6, 0, lower_unary, OP_FLOOR, T_FLOATS},
    {"", "Ceil", 6, 0, lower_unary, OP_CEIL, T_FLOATS},
    {"", "Round", 11, 0, lower_unary, OP_ROUND, T_FLOATS},
    {"", "Not", 1, 0, lower_unary, OP_NOT, T_BOOLS},
    {"", "IsNaN", 9, 0, lower_unary, OP_ISNAN, T_FLOATS},
    {"", "IsInf", 10, 0, lower_isinf, 0, T_FLOATS},
    {"", "Identity", 1, 0, lower_same, 0, .sequences = true},
    {"", "Add", 7, 0, lower_binary, OP_ADD, T_NUMBERS},
    {"", "Sub", 7, 0, lower_binary, OP_SUB, T_NUMBERS},
    {"", "Mul", 7, 0, lower_binary, OP_MUL, T_NUMBERS},
    {"", "Div", 7, 0, lower_binary, OP_DIV, T_NUMBERS},
    {"", "Mod", 10, 0, lower_mod, 0, T_NUMBERS},
    {"", "Pow", 7, 0, lower_binary, OP_POW, T_NUMBERS},
    {"", "And", 7, 0, lower_binary, OP_AND, T_BOOLS},
    {"", "Or", 7, 0, lower_binary, OP_OR, T_BOOLS},
    {"", "Xor", 7, 0, lower_binary, OP_XOR, T_BOOLS},
    {"", "BitwiseAnd", 18, 0, lower_binary, OP_AND, T_INTS},
    {"", "BitwiseOr", 18, 0, lower_binary, OP_OR, T_INTS},
    {"", "BitwiseXor", 18, 0, lower_binary, OP_XOR, T_INTS},
    {"", "Equal", 7, 0, lower_binary, OP_EQ},
    {"", "Less", 7, 0, lower_binary, OP_LT, T_NUMBERS},
    {"", "LessOrEqual", 12, 0, lower_binary, OP_LE, T_NUMBERS},
    {"", "Greater", 7, 0, lower_swapped, OP_LT, T_NUMBERS},
    {"", "GreaterOrEqual", 12, 0, lower_swapped, OP_LE, T_NUMBERS},
    {"", "Min", 6, 0, lower_variadic, OP_MIN, T_NUMBERS},
    {"", "Max", 6, 0, lower_variadic, OP_MAX, T_NUMBERS},
    {"", "Sum", 6, 0, lower_variadic, OP_ADD, T_NUMBERS},
    {"", "Mean", 6, 0, lower_mean, 0, T_NUMBERS},
    {"", "Where", 9, 0, lower_where, 0},
    {"", "Cast", 6, 0, lower_cast, 0},
    {"", "CastLike", 15, 0, lower_cast_like, 0},
    {"", "Clip", 6, 0, lower_clip, 0, T_NUMBERS},
    {"", "Elu", 6, 0, lower_activation, ELU, T_FLOATS},
    {"", "Selu", 6, 0, lower_activation, SELU, T_FLOATS},
    {"", "LeakyRelu", 6, 0, lower_activation, LEAKY_RELU, T_FLOATS},
    {"", "HardSigmoid", 6, 0, lower_activation, HARD_SIGMOID, T_FLOATS},
    {"", "HardSwish", 14, 0, lower_activation, HARD_SWISH, T_FLOATS},
    {"", "Celu", 12, 0, lower_activation, CELU, T_FLOATS},
    {"", "Softsign", 1, 0, lower_activation, SOFTSIGN, T_FLOATS},
    {"", "Mish", 18, 0, lower_activation, MISH, T_FLOATS},
    {"", "ThresholdedRelu", 10, 0, lower_activation, THRESHOLDED_RELU, T_FLOATS},
    {"", "Shrink", 9, 0, lower_activation, SHRINK, T_FLOATS},
    {"", "PRelu", 7, 0, lower_prelu, 0, T_FLOATS},
    {"", "Gelu", 20, 0, lower_gelu, 0, T_FLOATS},
    {"", "Swish", 24, 0, lower_swish, 0, T_FLOATS},
    {"", "SwiGLU", 28, 0, lower_swiglu, 0, T_FLOATS},
    {0},
};
