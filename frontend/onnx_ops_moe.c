/* onnx_ops_moe.c: ONNX Runtime's mixtures of experts (com.microsoft MoE), as topk and routed products.
 *
 * The router's operand are logits. k experts are chosen by them; their weights are softmax over all experts, or
 * with normalize_routing_weights over the chosen ones. An expert is act(x W1) W2, act(x W1) * (x W3) W2, or with
 * swiglu G * sigmoid(alpha * G) * (L + beta), where G and L come from W1 and W3 or both from W1. */
#include <string.h>

#include "frontend/import.h"

enum { IN_X, IN_ROUTER, IN_W1, IN_B1, IN_W2, IN_B2, IN_W3, IN_B3 };

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
    m->weight = chosen ? softmax_last(c, top) : pick_last(c, softmax_last(c, logits), m->index);
    return val_ok(m->weight);
}

/* x times the chosen experts' matrices w[E, N, K], plus their biases. */
static ValId product(Mixture *m, ValId x, size_t w, size_t bias) {
    Call *c = m->c;
    Attr a = attr_default();
    a.trans = true;
    ValId in[4] = {x, m->index, in_val(c, w), in_has(c, bias) ? in_val(c, bias) : NO_VAL};
    return val_ok(x) && val_ok(in[2]) ? emit(c, OP_ROUTED, in, 4, &a, NULL) : NO_VAL;
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
    ValId gate = product(m, m->x, IN_W1, IN_B1), linear = NO_VAL;
    if (fusion == 0) {
        linear = product(m, m->x, IN_W3, IN_B3);
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
    ValId h = activation(c, act, product(m, m->x, IN_W1, IN_B1));
    return in_has(c, IN_W3) && val_ok(h) ? emit2(c, OP_MUL, h, product(m, m->x, IN_W3, IN_B3)) : h;
}

static bool lower_moe(Call *c) {
    Mixture m = {.c = c};
    if (attr_int(c, "use_sparse_mixer", 0) != 0) return call_error(c, "use_sparse_mixer is not supported");
    if (!route(&m)) return false;
    ValId y = product(&m, hidden(&m), IN_W2, IN_B2);
    if (!val_ok(y)) return false;
    y = emit_reduce(c, OP_REDUCE_SUM, emit2(c, OP_MUL, y, emit_insert_axis(c, m.weight, 2)), 1u << 1, false);
    Type t = *in_type(c, IN_X);
    return out_val(c, 0, emit_reshape(c, y, t.rank, t.dim));
}

const OpRule onnx_rules_moe[] = {
    {"com.microsoft", "MoE", 1, 0, lower_moe, 0, T_FLOATS, "without sparse mixer"},
    {0},
};
