/* onnx_ops_attention.c: the standard Attention and RotaryEmbedding.
 *
 * ONNX has heads before tokens, [batch, heads, seq, d], or packed, [batch, seq, heads * d]; the IR's
 * attention is token-major, [batch, seq, heads, d]. Causal masks stand at the end of the keys when
 * there is a past operand and at their beginning when there is none (ONNX 1.23). */
#include <math.h>
#include <string.h>

#include "frontend/import.h"

static const uint8_t SWAP_HEADS[4] = {0, 2, 1, 3};

typedef struct {
    ValId q, k, v;               /* token-major */
    ValId mask;                  /* as IR attention takes it, or none */
    Dim offset;                  /* keys before the first query: the past's length */
    bool packed, causal, square; /* square: as many new keys as queries */
    int64_t left, right;         /* window, -1 = unbounded */
    float scale, softcap;
} Att;

/* Operand i as [batch, tokens, heads, d]. */
static ValId token_major(Call *c, size_t i, const char *heads_attr, bool *packed) {
    ValId v = in_val(c, i);
    if (!val_ok(v)) return v;
    Type t = *type_of(c, v);
    *packed = t.rank == 3;
    if (t.rank == 4) return emit_transpose(c, v, SWAP_HEADS);
    int64_t heads = attr_int(c, heads_attr, 0);
    if (t.rank != 3 || heads <= 0) {
        call_error(c, "operand %zu needs rank 4, or rank 3 and %s", i, heads_attr);
        return NO_VAL;
    }
    Dim dims[4] = {t.dim[0], t.dim[1], dim_const(heads), dim_div(c->g, t.dim[2], dim_const(heads))};
    if (!dim_known(dims[3])) {
        call_error(c, "operand %zu does not divide into %lld heads", i, (long long)heads);
        return NO_VAL;
    }
    return emit_reshape(c, v, 4, dims);
}

/* Appends to past operand `i` and gives output `o`, both [batch, heads, tokens, d]. */
static bool with_past(Call *c, ValId *kv, size_t i, size_t o) {
    if (!in_has(c, i) && !out_used(c, o)) return true;
    ValId present = emit_transpose(c, *kv, SWAP_HEADS);
    if (in_has(c, i)) {
        ValId both[2] = {in_val(c, i), present};
        if (!val_ok(both[0])) return false;
        present = emit_concat(c, both, 2, 2);
        *kv = emit_transpose(c, present, SWAP_HEADS);
    }
    return val_ok(*kv) && out_val(c, o, present);
}

static ValId allowed_and(Call *c, ValId a, ValId b) { return val_ok(a) ? emit2(c, OP_AND, a, b) : b; }

/* Which keys (last axis) each query (axis before) may see, for causal and windows that do not stand
 * at the end of the keys, and for keys that are only padding. */
static bool explicit_mask(Call *c, Att *a, ValId *allowed) {
    Dim nq = type_of(c, a->q)->dim[1], nk = type_of(c, a->k)->dim[1];
    ValId key = emit_iota(c, DT_I64, nk), query = emit_insert_axis(c, emit_iota(c, DT_I64, nq), 1);
    if (!dim_eq(a->offset, dim_const(0))) query = emit2(c, OP_ADD, query, emit_dim(c, DT_I64, a->offset));
    ValId nonpad = NO_VAL;
    if (in_has(c, 6)) {
        Dim dims[4] = {DIM_UNKNOWN, dim_const(1), dim_const(1), dim_const(1)};
        nonpad = emit_cast(c, in_val(c, 6), DT_I64);
        if (!val_ok(nonpad)) return false;
        dims[0] = type_of(c, nonpad)->dim[0];
        nonpad = emit_reshape(c, nonpad, 4, dims);
        *allowed = emit2(c, OP_LT, key, nonpad);
        query = emit2(c, OP_ADD, query, emit2(c, OP_SUB, nonpad, emit_dim(c, DT_I64, nq)));
    }
    if (a->causal) *allowed = allowed_and(c, *allowed, emit2(c, OP_LE, key, query));
    if (a->left >= 0) {
        ValId low = emit2(c, OP_SUB, query, graph_const_i64(c->g, a->left));
        *allowed = allowed_and(c, *allowed, emit2(c, OP_LE, low, key));
    }
    if (a->right >= 0) {
        ValId high = emit2(c, OP_ADD, query, graph_const_i64(c->g, a->right));
        *allowed = allowed_and(c, *allowed, emit2(c, OP_LE, key, high));
    }
    a->causal = false;
    a->left = a->right = -1;
    return val_ok(*allowed);
}

/* A mask may be shorter than the keys; what it leaves out is masked. */
static ValId mask_operand(Call *c, const Att *a) {
    ValId m = in_val(c, 3);
    if (!val_ok(m)) return m;
    if (type_of(c, m)->dtype != DT_BOOL) m = emit_cast(c, m, DT_F32);
    if (!val_ok(m)) return m;
    Type t = *type_of(c, m);
    Dim nk = type_of(c, a->k)->dim[1];
    if (t.rank == 0 || dim_eq(t.dim[t.rank - 1], nk) || dim_eq(t.dim[t.rank - 1], dim_const(1))) return m;
    if (!dim_less_equal(c->g, t.dim[t.rank - 1], nk)) return m;
    ValId in[2] = {m, t.dtype == DT_BOOL ? emit_scalar(c, DT_BOOL, 0) : graph_const_f32(c->g, -INFINITY)};
    Attr at = attr_default();
    t.dim[t.rank - 1] = nk;
    return emit(c, OP_PAD, in, 2, &at, &t);
}

static bool attention_mask(Call *c, Att *a) {
    if (in_has(c, 3)) {
        a->mask = mask_operand(c, a);
        if (!val_ok(a->mask)) return false;
        Dim want[2] = {type_of(c, a->k)->dim[1], type_of(c, a->q)->dim[1]};
        for (uint32_t i = 0; i < 2; i++) {
            uint32_t rank = type_of(c, a->mask)->rank;
            if (i < rank && !dim_eq(type_of(c, a->mask)->dim[rank - 1 - i], dim_const(1)))
                align_axis(c, &a->mask, rank - 1 - i, want[i]);
        }
    }
    bool plain = !in_has(c, 6) && a->right < 0 && (a->left < 0 || (a->causal && a->square)) &&
                 (!a->causal || a->square);
    if (plain) return true;
    ValId allowed = NO_VAL;
    if (!explicit_mask(c, a, &allowed)) return false;
    if (!val_ok(a->mask))
        a->mask = allowed;
    else if (type_of(c, a->mask)->dtype == DT_BOOL)
        a->mask = emit2(c, OP_AND, a->mask, allowed);
    else
        a->mask = emit3(c, OP_WHERE, allowed, a->mask, graph_const_f32(c->g, -INFINITY));
    return val_ok(a->mask);
}

/* The products that output 3 asks for: 0 scaled, 1 capped, 2 masked, 3 after softmax. */
static bool attention_products(Call *c, const Att *a) {
    if (!out_used(c, 3)) return true;
    int64_t mode = attr_int(c, "qk_matmul_output_mode", 0);
    Att b = *a;
    DType t = type_of(c, a->q)->dtype;
    ValId q = emit_transpose(c, a->q, SWAP_HEADS), k = emit_transpose(c, a->k, SWAP_HEADS);
    if (!val_ok(q) || !val_ok(k)) return false;
    Type tq = *type_of(c, q), tk = *type_of(c, k);
    Dim group = dim_div(c->g, tq.dim[1], tk.dim[1]);
    Dim wide[5] = {tk.dim[0], tk.dim[1], group, tk.dim[2], tk.dim[3]};
    Dim full[4] = {tk.dim[0], tq.dim[1], tk.dim[2], tk.dim[3]};
    k = emit_reshape(c, emit_broadcast(c, emit_insert_axis(c, k, 2), 5, wide), 4, full);
    static const uint8_t last[4] = {0, 1, 3, 2};
    ValId s = emit2(c, OP_MATMUL, q, emit_transpose(c, k, last));
    s = emit2(c, OP_MUL, s, emit_scalar(c, t, (double)a->scale));
    if (mode >= 1 && a->softcap != 0) {
        ValId cap = emit_scalar(c, t, (double)a->softcap);
        s = emit2(c, OP_MUL, emit1(c, OP_TANH, emit2(c, OP_DIV, s, cap)), cap);
    }
    ValId none = emit_scalar(c, t, -INFINITY), bias = NO_VAL, zero = emit_scalar(c, t, 0);
    if (mode >= 2 && val_ok(b.mask)) {
        bool flag = type_of(c, b.mask)->dtype == DT_BOOL;
        bias = flag ? emit3(c, OP_WHERE, b.mask, zero, none) : emit_cast(c, b.mask, t);
    }
    if (mode >= 2 && (b.causal || b.left >= 0)) {
        ValId allowed = NO_VAL;
        if (!explicit_mask(c, &b, &allowed)) return false;
        allowed = emit3(c, OP_WHERE, allowed, zero, none);
        bias = val_ok(bias) ? emit2(c, OP_ADD, bias, allowed) : allowed;
    }
    if (val_ok(bias)) s = emit2(c, OP_ADD, s, bias);
    if (mode >= 3) {
        Attr at = attr_default();
        at.axis = 3;
        s = emit(c, OP_SOFTMAX, &s, 1, &at, NULL);
        s = emit3(c, OP_WHERE, emit1(c, OP_ISNAN, s), zero, s);
    }
    return out_val(c, 3, s);
}

static bool lower_attention(Call *c) {
    Att a = {.left = attr_int(c, "left_window_size", -1),
             .right = attr_int(c, "right_window_size", -1),
             .causal = attr_int(c, "is_causal", 0) != 0,
             .softcap = attr_float(c, "softcap", 0)};
    if (a.left >= INT32_MAX) a.left = -1;
    if (a.right >= INT32_MAX) a.right = -1;
    bool packed_kv = false;
    a.q = token_major(c, 0, "q_num_heads", &a.packed);
    a.k = token_major(c, 1, "kv_num_heads", &packed_kv);
    a.v = token_major(c, 2, "kv_num_heads", &packed_kv);
    if (!val_ok(a.q) || !val_ok(a.k) || !val_ok(a.v)) return false;
    Dim fresh = type_of(c, a.k)->dim[1];
    a.square = dim_eq(fresh, type_of(c, a.q)->dim[1]);
    if (!with_past(c, &a.k, 4, 1) || !with_past(c, &a.v, 5, 2)) return false;
    a.offset = dim_sub(c->g, type_of(c, a.k)->dim[1], fresh);
    Dim d = type_of(c, a.q)->dim[3];
    if (!dim_is_const(d)) return call_error(c, "the head size is not constant");
    a.scale = attr_float(c, "scale", 1.0f / sqrtf((float)d.v));
    if (!attention_mask(c, &a)) return false;
    ValId in[4] = {a.q, a.k, a.v, a.mask};
    Attr at = attr_default();
    at.scale = a.scale;
    at.softcap = a.softcap;
    at.causal = a.causal;
    at.window = a.causal && a.left >= 0 ? a.left + 1 : 0;
    if (!attention_products(c, &a)) return false;
    ValId y = emit(c, OP_ATTENTION, in, 4, &at, NULL);
    if (!val_ok(y)) return false;
    if (!a.packed) return out_val(c, 0, emit_transpose(c, y, SWAP_HEADS));
    Type t = *type_of(c, y);
    Dim dims[3] = {t.dim[0], t.dim[1], dim_mul(c->g, t.dim[2], t.dim[3])};
    return out_val(c, 0, emit_reshape(c, y, 3, dims));
}

/* ---- rotary embedding ---- */

static ValId part(Call *c, ValId x, int64_t start, int64_t step, Dim length) {
    return emit_slice(c, x, type_of(c, x)->rank - 1, dim_const(start), step, length);
}

/* cos or sin as [batch, seq, r / 2] (rows picked by position when given), with an axis for heads. */
static ValId rotary_table(Call *c, size_t i, uint32_t head_axis) {
    ValId t = in_val(c, i);
    if (in_has(c, 3) && val_ok(t)) {
        ValId in[2] = {t, in_val(c, 3)};
        Attr a = attr_default();
        if (val_ok(in[1]))
            t = emit(c, OP_GATHER, in, 2, &a, NULL);
        else
            return NO_VAL;
    }
    if (val_ok(t) && type_of(c, t)->rank != 3) {
        call_error(c, "the cosines and sines have rank %u", type_of(c, t)->rank);
        return NO_VAL;
    }
    return emit_insert_axis(c, t, head_axis);
}

static bool lower_rotary(Call *c) {
    ValId x = in_val(c, 0);
    if (!val_ok(x)) return false;
    Type whole = *type_of(c, x);
    bool packed = whole.rank == 3, interleaved = attr_int(c, "interleaved", 0) != 0;
    int64_t heads = attr_int(c, "num_heads", 0), r = attr_int(c, "rotary_embedding_dim", 0);
    if (packed) {
        Dim d = heads > 0 ? dim_div(c->g, whole.dim[2], dim_const(heads)) : DIM_UNKNOWN;
        Dim dims[4] = {whole.dim[0], whole.dim[1], dim_const(heads), d};
        if (!dim_known(d)) return call_error(c, "num_heads does not divide the operand");
        x = emit_reshape(c, x, 4, dims);
    }
    if (!val_ok(x)) return false;
    Type t = *type_of(c, x);
    if (t.rank != 4 || !dim_is_const(t.dim[3])) return call_error(c, "the head size is not constant");
    int64_t d = t.dim[3].v;
    if (r == 0) r = d;
    if (r < 0 || r > d || r % 2 != 0)
        return call_error(c, "%lld of %lld cannot be rotated", (long long)r, (long long)d);
    Dim half = dim_const(r / 2);
    ValId cosine = rotary_table(c, 1, packed ? 2 : 1), sine = rotary_table(c, 2, packed ? 2 : 1);
    if (!val_ok(cosine) || !val_ok(sine)) return false;
    ValId x1 = part(c, x, 0, interleaved ? 2 : 1, half);
    ValId x2 = part(c, x, interleaved ? 1 : r / 2, interleaved ? 2 : 1, half);
    ValId y[3] = {emit2(c, OP_SUB, emit2(c, OP_MUL, x1, cosine), emit2(c, OP_MUL, x2, sine)),
                  emit2(c, OP_ADD, emit2(c, OP_MUL, x2, cosine), emit2(c, OP_MUL, x1, sine)), NO_VAL};
    size_t n = 2;
    if (interleaved) {
        Dim pair[5] = {t.dim[0], t.dim[1], t.dim[2], half, dim_const(1)};
        Dim flat[4] = {t.dim[0], t.dim[1], t.dim[2], dim_const(r)};
        ValId both[2] = {emit_reshape(c, y[0], 5, pair), emit_reshape(c, y[1], 5, pair)};
        y[0] = emit_reshape(c, emit_concat(c, both, 2, 4), 4, flat);
        n = 1;
    }
    if (r < d) y[n++] = part(c, x, r, 1, dim_const(d - r));
    ValId out = emit_concat(c, y, n, 3);
    return out_val(c, 0, emit_reshape(c, out, whole.rank, whole.dim));
}

const OpRule onnx_rules_attention[] = {
    {"", "Attention", 23, 0, lower_attention, 0, T_FLOATS, "head counts and sizes must be constant"},
    {"", "RotaryEmbedding", 23, 0, lower_rotary, 0, T_FLOATS, "the head size must be constant"},
    {0},
};
