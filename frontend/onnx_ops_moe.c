/* onnx_ops_moe.c: ONNX Runtime's mixtures of experts (com.microsoft MoE and QMoE), as topk and routed products.
 *
 * The router's operand are logits. k experts are chosen by them; their weights are softmax over all experts, or
 * with normalize_routing_weights over the chosen ones. An expert is act(x W1) W2, act(x W1) * (x W3) W2, or with
 * swiglu G * sigmoid(alpha * G) * (L + beta), where G and L come from W1 and W3 or both from W1. */
#include <string.h>

#include "frontend/import.h"

enum { IN_X, IN_ROUTER };
enum { PLAIN, QUANTISED };
/* Where matrix 1, 2 or 3 has its weights, scales, biases and zero points; 0 = it has none. */
typedef struct {
    size_t weight, scale, bias, zero;
    const char *bits;
} Operands;
static const Operands OPERANDS[2][4] = {
    {{0}, {2, 0, 3, 0, ""}, {4, 0, 5, 0, ""}, {6, 0, 7, 0, ""}},
    {{0},
     {2, 3, 4, 11, "fc1_expert_weight_bits"},
     {5, 6, 7, 12, "fc2_expert_weight_bits"},
     {8, 9, 10, 13, "fc3_expert_weight_bits"}},
};
#define ROUTER_WEIGHTS 14 /* of QMoE */

typedef struct {
    Call *c;
    ValId x, index; /* rows [T, H], i64 [T, k] */
    ValId weight;   /* f [T, k] */
} Mixture;

static ValId softmax_last(Call *c, ValId v) {
    Attr a = attr_default();
    a.axis = 1;
    return val_ok(v) ? emit(c, OP_SOFTMAX, &v, 1, &a, NULL) : v;
}

static ValId pick_last(Call *c, ValId v, ValId index) {
    ValId in[2] = {v, index};
    Attr a = attr_default();
    a.axis = 1;
    return val_ok(v) ? emit(c, OP_GATHER_ELEMENTS, in, 2, &a, NULL) : v;
}

static bool route(Mixture *m) {
    Call *c = m->c;
    ValId logits = in_val(c, IN_ROUTER), x = in_val(c, IN_X);
    Attr a = attr_default();
    if (!val_ok(logits) || !val_ok(x)) return false;
    Type t = *type_of(c, logits), tx = *type_of(c, x);
    if (t.rank != 2 || tx.rank < 2 || tx.rank > 3)
        return call_error(c, "the router's operand is not [rows, experts]");
    Dim rows[2] = {t.dim[0], tx.dim[tx.rank - 1]};
    m->x = emit_reshape(c, x, 2, rows);
    a.axis = 1;
    a.count = attr_int(c, "k", 1);
    ValId top = emit(c, OP_TOPK, &logits, 1, &a, NULL);
    if (!val_ok(top) || !val_ok(m->x)) return false;
    m->index = graph_node(c->g, graph_def(c->g, top))->out[1];
    bool chosen = attr_int(c, "normalize_routing_weights", 0) != 0;
    if (c->arg == QUANTISED && in_has(c, ROUTER_WEIGHTS)) {
        if (chosen) return call_error(c, "router_weights with normalize_routing_weights is not supported");
        m->weight = pick_last(c, in_val(c, ROUTER_WEIGHTS), m->index);
        return val_ok(m->weight);
    }
    chosen |= c->arg == QUANTISED; /* ONNX Runtime's kernel for CPUs does so whatever the attribute says */
    m->weight = chosen ? softmax_last(c, top) : pick_last(c, softmax_last(c, logits), m->index);
    return val_ok(m->weight);
}

/* Zero points of w[E, N, K] as [E * N, groups]. The groups of a row start a byte; where a row is one group, the rows
 * of an expert are packed together. */
static ValId zero_points(Call *c, size_t i, int64_t bits, int64_t experts, const int64_t *groups) {
    bool whole = attr_int(c, "block_size", 0) <= 0;
    Dim shape[2] = {dim_const(groups[0]), dim_const(groups[1])};
    if (!in_has(c, i)) {
        uint64_t half = UINT64_C(1) << (bits - 1);
        return emit_const(c, type_scalar(quant_unsigned(bits)), &half, 1);
    }
    ValId zero = quant_block_zeros(c, in_val(c, i), bits, whole ? experts : groups[0],
                                   whole ? groups[0] / experts : groups[1]);
    return emit_reshape(c, zero, 2, shape);
}

/* w[E, N, K] of packed bits, with a scale for each row, or for each block of K of a row: experts one below the other. */
static ValId dequantised(Call *c, const Operands *o) {
    if (!in_has(c, o->scale)) {
        call_error(c, "input %zu, the scales, is missing", o->scale);
        return NO_VAL;
    }
    ValId w = in_val(c, o->weight), scale = in_val(c, o->scale);
    if (!val_ok(w) || !val_ok(scale)) return NO_VAL;
    int64_t bits = attr_int(c, o->bits, attr_int(c, "expert_weight_bits", 4));
    int64_t block = attr_int(c, "block_size", 0);
    const Type t = *type_of(c, w);
    DType code = quant_unsigned(bits);
    if (code == DT_NONE || t.rank != 3 || !type_is_static(&t) || t.dtype != DT_U8 || t.dim[0].v < 1 ||
        t.dim[0].v > INT16_MAX || t.dim[1].v > INT32_MAX || t.dim[2].v > INT32_MAX) {
        call_error(c, "the weights are not packed bytes of 2, 4 or 8 bits");
        return NO_VAL;
    }
    int64_t experts = t.dim[0].v, dim[2] = {experts * t.dim[1].v, t.dim[2].v * (8 / bits)};
    if (block <= 0) block = dim[1];
    int64_t groups[2] = {dim[0], block > 0 ? (dim[1] + block - 1) / block : 0};
    ValId in[3] = {view_constant(c, w, "weights", code, 2, dim),
                   view_constant(c, scale, "scales", type_of(c, scale)->dtype, 2, groups),
                   zero_points(c, o->zero, bits, experts, groups)};
    if (!val_ok(in[0]) || !val_ok(in[1]) || !val_ok(in[2])) return NO_VAL;
    Attr a = attr_default();
    a.axis = 1;
    a.block = block;
    ValId rows = emit(c, OP_DEQUANTIZE, in, 3, &a, NULL);
    Dim stack[3] = {t.dim[0], t.dim[1], dim_const(dim[1])};
    return val_ok(rows) ? emit_reshape(c, rows, 3, stack) : rows;
}

static const Operands *operands(const Call *c, uint32_t matrix) { return &OPERANDS[c->arg][matrix]; }

/* x times the chosen experts' matrices w[E, N, K], plus their biases. */
static ValId product(Mixture *m, ValId x, uint32_t matrix) {
    Call *c = m->c;
    const Operands *o = operands(c, matrix);
    Attr a = attr_default();
    a.trans = true;
    if (!val_ok(x) || !in_has(c, o->weight)) {
        if (val_ok(x)) call_error(c, "input %zu, a matrix, is missing", o->weight);
        return NO_VAL;
    }
    ValId w = c->arg == QUANTISED ? dequantised(c, o) : in_val(c, o->weight);
    ValId in[4] = {x, m->index, w, in_has(c, o->bias) ? in_val(c, o->bias) : NO_VAL};
    return val_ok(w) ? emit(c, OP_ROUTED, in, 4, &a, NULL) : NO_VAL;
}

static ValId activation(Call *c, const char *name, ValId v) {
    Attr a = attr_default();
    if (!val_ok(v) || strcmp(name, "identity") == 0) return v;
    if (strcmp(name, "relu") == 0) return emit1(c, OP_RELU, v);
    if (strcmp(name, "silu") == 0) return emit1(c, OP_SILU, v);
    a.tanh = true;
    if (strcmp(name, "gelu") == 0) return emit(c, OP_GELU, &v, 1, &a, NULL);
    call_error(c, "the activation '%s' is not supported", name);
    return NO_VAL;
}

/* Every second of the last axis, or a half of it. */
static ValId part(Call *c, ValId v, uint32_t which, bool interleaved) {
    if (!val_ok(v)) return v;
    Dim n = type_of(c, v)->dim[2];
    if (!dim_is_const(n) || n.v % 2 != 0) {
        call_error(c, "the fused weights have an odd number of outputs");
        return NO_VAL;
    }
    Dim half = dim_const(n.v / 2);
    return interleaved ? emit_slice(c, v, 2, dim_const(which), 2, half)
                       : emit_slice(c, v, 2, dim_const((int64_t)which * half.v), 1, half);
}

static ValId clamped(Call *c, ValId v, bool below, float limit) {
    if (!val_ok(v)) return v;
    DType t = type_of(c, v)->dtype;
    v = emit2(c, OP_MIN, v, emit_scalar(c, t, (double)limit));
    return below ? emit2(c, OP_MAX, v, emit_scalar(c, t, -(double)limit)) : v;
}

static ValId swiglu(Mixture *m) {
    Call *c = m->c;
    int64_t fusion = attr_int(c, "swiglu_fusion", 0);
    ValId gate = product(m, m->x, 1), linear = NO_VAL;
    if (fusion == 0) {
        linear = product(m, m->x, 3);
    } else {
        linear = part(c, gate, 1, fusion == 1);
        gate = part(c, gate, 0, fusion == 1);
    }
    if (!val_ok(gate) || !val_ok(linear)) return NO_VAL;
    if (attr_find(c, "swiglu_limit") != NULL) {
        float limit = attr_float(c, "swiglu_limit", 0);
        gate = clamped(c, gate, false, limit);
        linear = clamped(c, linear, true, limit);
    }
    Attr a = attr_default();
    a.alpha = attr_float(c, "activation_alpha", 1.0f);
    double beta = (double)attr_float(c, "activation_beta", 0.0f);
    gate = emit(c, OP_SILU, &gate, 1, &a, NULL);
    if (beta != 0 && val_ok(linear))
        linear = emit2(c, OP_ADD, linear, emit_scalar(c, type_of(c, linear)->dtype, beta));
    return emit2(c, OP_MUL, gate, linear);
}

static ValId hidden(Mixture *m) {
    Call *c = m->c;
    const char *act = attr_string(c, "activation_type", "relu");
    if (strcmp(act, "swiglu") == 0) return swiglu(m);
    ValId h = activation(c, act, product(m, m->x, 1));
    return in_has(c, operands(c, 3)->weight) && val_ok(h) ? emit2(c, OP_MUL, h, product(m, m->x, 3)) : h;
}

static bool lower_moe(Call *c) {
    Mixture m = {.c = c};
    if (attr_int(c, "use_sparse_mixer", 0) != 0) return call_error(c, "use_sparse_mixer is not supported");
    const char *kind = attr_string(c, "quant_type", "int");
    if (strcmp(kind, "int") != 0) return call_error(c, "quant_type '%s' is not supported", kind);
    if (attr_int(c, "weights_prepacked", 0) > 0)
        return call_error(c, "weights_prepacked is a layout of one device; export without prepacking");
    if (!route(&m)) return false;
    ValId y = product(&m, hidden(&m), 2);
    if (!val_ok(y)) return false;
    y = emit_reduce(c, OP_REDUCE_SUM, emit2(c, OP_MUL, y, emit_insert_axis(c, m.weight, 2)), 1u << 1, false);
    Type t = *in_type(c, IN_X);
    return out_val(c, 0, emit_reshape(c, y, t.rank, t.dim));
}

const OpRule onnx_rules_moe[] = {
    {"com.microsoft", "MoE", 1, 0, lower_moe, PLAIN, T_FLOATS, "without sparse mixer"},
    {"com.microsoft", "QMoE", 1, 0, lower_moe, QUANTISED, T_FLOATS,
     "constant integer weights of 2, 4 or 8 bits, not prepacked; without sparse mixer"},
    {0},
};
