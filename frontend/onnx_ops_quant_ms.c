/* onnx_ops_quant_ms.c: ONNX Runtime's operators (domain com.microsoft) on quantised values. Weights keep
 * their bytes: a packed uint8 tensor is looked at as the 2, 4 or 8 bits that it holds. */
#include "frontend/import.h"

#include <string.h>

ValId view_constant(Call *c, ValId v, const char *what, DType dtype, uint32_t rank, const int64_t *dim) {
    if (!val_ok(v)) return v;
    while (graph_def_op(c->g, v) == OP_RESHAPE) v = graph_node(c->g, graph_def(c->g, v))->in[0];
    const Const *k = graph_constant(c->g, v);
    Type t = {.dtype = dtype, .rank = (uint8_t)rank};
    for (uint32_t i = 0; i < rank; i++) t.dim[i] = dim_const(dim[i]);
    size_t bytes = 0;
    if (k == NULL) {
        call_error(c, "%s are computed; only constant ones are supported", what);
        return NO_VAL;
    }
    if (!type_static_bytes(&t, &bytes) || bytes != k->bytes) {
        call_error(c, "%s hold %zu bytes where K, N, bits and block_size ask for %zu", what, k->bytes, bytes);
        return NO_VAL;
    }
    Const copy = *k;
    copy.hash = 0;
    ValId w = graph_const(c->g, t, k->data, graph_val(c->g, v)->name);
    c->g->consts.data[graph_val(c->g, w)->cidx] = copy;
    return w;
}

DType quant_unsigned(int64_t bits) {
    return bits == 2 ? DT_U2 : bits == 4 ? DT_U4 : bits == 8 ? DT_U8 : DT_NONE;
}

ValId quant_block_zeros(Call *c, ValId v, int64_t bits, int64_t rows, int64_t blocks) {
    if (!val_ok(v)) return v;
    int64_t dim[2] = {rows, blocks}, per_byte = 8 / bits;
    DType t = type_of(c, v)->dtype;
    if (t != DT_U8) return view_constant(c, v, "zero points", t, 2, dim);
    dim[1] = (blocks + per_byte - 1) / per_byte * per_byte;
    v = view_constant(c, v, "zero points", quant_unsigned(bits), 2, dim);
    return val_ok(v) ? emit_slice(c, v, 1, dim_const(0), 1, dim_const(blocks)) : v;
}

/* An order of columns is refused unless it is the plain one. */
static bool plain_groups(Call *c, size_t i, int64_t block) {
    if (!in_has(c, i)) return true;
    ValId v = in_val(c, i);
    int64_t group = 0;
    if (!val_ok(v)) return false;
    for (size_t k = 0; const_get_i64(c->g, v, k, &group); k++)
        if (group != (int64_t)k / block) return call_error(c, "g_idx reorders the columns; not supported");
    return graph_constant(c->g, v) != NULL || call_error(c, "g_idx is computed; not supported");
}

typedef struct {
    int64_t k, n, bits, block, blocks;
} NBits;

static bool nbits_attrs(Call *c, NBits *a) {
    *a = (NBits){attr_int(c, "K", 0), attr_int(c, "N", 0), attr_int(c, "bits", 4),
                 attr_int(c, "block_size", 0), 0};
    if (quant_unsigned(a->bits) == DT_NONE)
        return call_error(c, "%lld bits are not supported", (long long)a->bits);
    if (a->k < 1 || a->n < 1 || a->k > INT32_MAX || a->n > INT32_MAX || a->block < 16 || a->block > 1 << 20 ||
        (a->block & (a->block - 1)) != 0)
        return call_error(c, "K, N or block_size is out of range");
    if (attr_int(c, "weight_prepacked", 0) != 0)
        return call_error(c, "weight_prepacked is a layout of one device; export without prepacking");
    a->blocks = (a->k + a->block - 1) / a->block;
    return true;
}

/* A, B, scales, zero_points?, g_idx?, bias? -> A times dequantised B^T. accuracy_level only permits. */
static bool lower_matmul_nbits(Call *c) {
    NBits a;
    ValId x = in_val(c, 0), b = in_val(c, 1), scale = in_val(c, 2);
    if (!val_ok(x) || !val_ok(b) || !val_ok(scale) || !nbits_attrs(c, &a) || !plain_groups(c, 4, a.block))
        return false;
    int64_t whole[2] = {a.n, a.blocks * a.block}, groups[2] = {a.n, a.blocks};
    uint64_t half = UINT64_C(1) << (a.bits - 1);
    DType code = quant_unsigned(a.bits);
    ValId in[3] = {view_constant(c, b, "weights", code, 2, whole),
                   view_constant(c, scale, "scales", type_of(c, scale)->dtype, 2, groups)};
    if (!val_ok(in[0]) || !val_ok(in[1])) return false;
    in[2] = in_has(c, 3) ? quant_block_zeros(c, in_val(c, 3), a.bits, a.n, a.blocks)
                         : emit_const(c, type_scalar(code), &half, 1);
    if (!val_ok(in[2])) return false;
    Attr attr = attr_default();
    attr.axis = 1;
    attr.block = a.block;
    ValId w = emit(c, OP_DEQUANTIZE, in, 3, &attr, NULL);
    if (a.k != whole[1] && val_ok(w)) w = emit_slice(c, w, 1, dim_const(0), 1, dim_const(a.k));
    w = emit_cast(c, w, type_of(c, x)->dtype);
    if (!val_ok(w)) return false;
    ValId y = emit2(c, OP_MATMUL, x, emit_transpose(c, w, (const uint8_t[]){1, 0}));
    if (in_has(c, 5)) y = emit2(c, OP_ADD, y, in_val(c, 5));
    return out_val(c, 0, y);
}

/* data, indices, scales, zero_points?: rows of a table that is quantised in blocks along its last axis */
static bool lower_gather_block_quantized(Call *c) {
    ValId data = in_val(c, 0), index = in_val(c, 1), scale = in_val(c, 2);
    if (!val_ok(data) || !val_ok(index) || !val_ok(scale)) return false;
    const Type t = *type_of(c, data), ts = *type_of(c, scale);
    uint32_t gather = 0, axis = 0;
    int64_t block = attr_int(c, "block_size", 128), bits = attr_int(c, "bits", 4);
    if (!axis_norm(c, attr_int(c, "gather_axis", 0), t.rank, &gather) ||
        !axis_norm(c, attr_int(c, "quantize_axis", 1), t.rank, &axis))
        return false;
    if (t.rank != 2 || axis != 1 || !type_is_static(&t) || !type_is_static(&ts) || ts.rank != 2)
        return call_error(c, "only tables of two axes, quantised along the last, are supported");
    bool bytes = t.dtype == DT_U8;
    DType code = bytes ? quant_unsigned(bits) : t.dtype;
    if (code == DT_NONE || block < 16) return call_error(c, "bits or block_size is out of range");
    int64_t dim[2] = {t.dim[0].v, t.dim[1].v * (bytes ? 8 / bits : 1)};
    ValId in[3] = {bytes ? view_constant(c, data, "weights", code, 2, dim) : data, scale, NO_VAL};
    if (!val_ok(in[0])) return false;
    uint64_t half = bytes ? UINT64_C(1) << (bits - 1) : 0; /* quant_unsigned knows bits of bytes */
    if (in_has(c, 3))
        in[2] = bytes ? quant_block_zeros(c, in_val(c, 3), bits, dim[0], ts.dim[1].v) : in_val(c, 3);
    else if (bytes)
        in[2] = emit_const(c, type_scalar(code), &half, 1);
    if ((bytes || in_has(c, 3)) && !val_ok(in[2])) return false;
    Attr a = attr_default();
    a.axis = axis;
    a.block = block;
    ValId pair[2] = {emit(c, OP_DEQUANTIZE, in, 3, &a, NULL), index};
    a = attr_default();
    a.axis = gather;
    return val_ok(pair[0]) && out_val(c, 0, emit(c, OP_GATHER, pair, 2, &a, NULL));
}

/* ---- QOperator: integers in, the float op on what they stand for, integers out ---- */

/* A vector of scales goes along the axis that is `back` from the last. */
static ValId dequantised_along(Call *c, size_t i, uint32_t back) {
    ValId in[3] = {in_val(c, i), scale_operand(c, i + 1), scale_operand(c, i + 2)};
    if (!val_ok(in[0]) || !val_ok(in[1])) return NO_VAL;
    Attr a = attr_default();
    if (type_of(c, in[1])->rank == 1) a.axis = type_of(c, in[0])->rank - 1 - back;
    return emit(c, OP_DEQUANTIZE, in, 3, &a, NULL);
}
static ValId dequantised(Call *c, size_t i) { return dequantised_along(c, i, 0); }

/* Quantised with the scale and zero point that are inputs i and i + 1. */
static bool out_quantised(Call *c, size_t i, ValId v) {
    ValId in[3] = {v, scale_operand(c, i), scale_operand(c, i + 1)};
    if (!val_ok(v) || !val_ok(in[1])) return false;
    Type t = *type_of(c, v);
    t.dtype = in_has(c, i + 1) ? type_of(c, in[2])->dtype : DT_U8;
    return out_val(c, 0, emit(c, OP_QUANTIZE, in, 3, NULL, &t));
}

static bool lower_qlinear_matmul(Call *c) {
    return out_quantised(c, 6, emit2(c, OP_MATMUL, dequantised_along(c, 0, 1), dequantised(c, 3)));
}

static bool lower_qlinear_pair(Call *c) {
    return out_quantised(c, 6, emit2(c, (Op)c->arg, dequantised(c, 0), dequantised(c, 3)));
}

static bool lower_qlinear_one(Call *c) {
    ValId x = dequantised(c, 0);
    uint32_t axis = 0;
    if (!val_ok(x)) return false;
    if (c->arg != OP_SOFTMAX) return out_quantised(c, 3, emit1(c, (Op)c->arg, x));
    Attr a = attr_default();
    int64_t opset = attr_int(c, "opset", 13), rank = type_of(c, x)->rank;
    if (!axis_norm(c, attr_int(c, "axis", -1), (size_t)rank, &axis)) return false;
    if (opset < 13 && axis + 1 != rank) return call_error(c, "an axis before opset 13 that is not the last");
    a.axis = axis;
    return out_quantised(c, 3, emit(c, OP_SOFTMAX, &x, 1, &a, NULL));
}

/* y_scale, y_zero, then x, scale, zero of every operand */
static bool lower_qlinear_concat(Call *c) {
    ValId in[64];
    size_t n = c->n->nin > 2 ? (c->n->nin - 2) / 3 : 0;
    uint32_t axis = 0;
    if (n == 0 || n > COUNT_OF(in)) return call_error(c, "takes 1 to %zu operands", COUNT_OF(in));
    for (size_t i = 0; i < n; i++)
        if (!val_ok(in[i] = dequantised(c, 2 + 3 * i))) return false;
    if (!axis_norm(c, attr_int(c, "axis", 0), type_of(c, in[0])->rank, &axis)) return false;
    return out_quantised(c, 0, emit_concat(c, in, n, axis));
}

/* a, scale, zero, b, scale, zero, bias? in a_scale * b_scale, y_scale?, y_zero?; without y_scale in floats */
static bool lower_qgemm(Call *c) {
    static const uint8_t turn[] = {1, 0};
    ValId a = dequantised(c, 0), b = dequantised(c, 3);
    if (!val_ok(a) || !val_ok(b)) return false;
    if (type_of(c, a)->rank != 2 || type_of(c, b)->rank != 2) return call_error(c, "an operand is no matrix");
    if (attr_float(c, "alpha", 1) != 1) return call_error(c, "an alpha other than 1 is not supported");
    if (attr_int(c, "transB", 0) && type_of(c, in_val(c, 4))->rank == 1)
        return call_error(c, "a transposed weight with a scale per column is not supported");
    ValId bias = in_has(c, 6) ? emit2(c, OP_MUL, scale_operand(c, 1), scale_operand(c, 4)) : NO_VAL;
    if (attr_int(c, "transA", 0)) a = emit_transpose(c, a, turn);
    if (attr_int(c, "transB", 0)) b = emit_transpose(c, b, turn);
    ValId y = emit2(c, OP_MATMUL, a, b);
    if (val_ok(bias)) y = emit2(c, OP_ADD, y, emit2(c, OP_MUL, emit_cast(c, in_val(c, 6), DT_F32), bias));
    return in_has(c, 7) ? out_quantised(c, 7, y) : out_val(c, 0, y);
}

const OpRule onnx_rules_quant_ms[] = {
    {"com.microsoft", "MatMulNBits", 1, 0, lower_matmul_nbits, 0, T_FLOATS,
     "constant weights of 2, 4 or 8 bits; no g_idx that reorders, not prepacked"},
    {"com.microsoft", "GatherBlockQuantized", 1, 0, lower_gather_block_quantized, 0, T_INTS,
     "a constant table of two axes, quantised along the last"},
    {"", "QLinearMatMul", 10, 0, lower_qlinear_matmul, 0, T_INTS},
    {"com.microsoft", "QLinearAdd", 1, 0, lower_qlinear_pair, OP_ADD, T_INTS},
    {"com.microsoft", "QLinearMul", 1, 0, lower_qlinear_pair, OP_MUL, T_INTS},
    {"com.microsoft", "QLinearSigmoid", 1, 0, lower_qlinear_one, OP_SIGMOID, T_INTS},
    {"com.microsoft", "QLinearSoftmax", 1, 0, lower_qlinear_one, OP_SOFTMAX, T_INTS,
     "along the last axis before opset 13"},
    {"com.microsoft", "QLinearConcat", 1, 0, lower_qlinear_concat, 0, T_INTS},
    {"com.microsoft", "QGemm", 1, 0, lower_qgemm, 0, T_INTS, "alpha 1; scales per tensor or column"},
    {0},
};
