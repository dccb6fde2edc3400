/* attention.c: what every attention op of ONNX comes down to: masks, products, IR attention.
 *
 * IR attention is token-major, [batch, tokens, heads, d], and its causal rule stands at the end of the
 * keys. What it says by itself (causal, a window of the last keys) stays an attribute; anything else, a
 * causal rule at the beginning, windows to the right, keys that are only padding, becomes a mask. */
#include <math.h>

#include "frontend/import.h"

const uint8_t SWAP_HEADS[4] = {0, 2, 1, 3};

ValId heads_split(Call *c, ValId v, int64_t heads) {
    if (!val_ok(v)) return v;
    Type t = *type_of(c, v);
    Dim d = t.rank == 3 && heads > 0 ? dim_div(c->g, t.dim[2], dim_const(heads)) : DIM_UNKNOWN;
    if (!dim_known(d)) {
        call_error(c, "an operand does not divide into %lld heads", (long long)heads);
        return NO_VAL;
    }
    Dim dims[4] = {t.dim[0], t.dim[1], dim_const(heads), d};
    return emit_reshape(c, v, 4, dims);
}

ValId heads_join(Call *c, ValId v) {
    if (!val_ok(v)) return v;
    Type t = *type_of(c, v);
    Dim dims[3] = {t.dim[0], t.dim[1], dim_mul(c->g, t.dim[2], t.dim[3])};
    return emit_reshape(c, v, 3, dims);
}

ValId attention_append(Call *c, ValId past, ValId *kv) {
    ValId present = emit_transpose(c, *kv, SWAP_HEADS);
    if (!val_ok(past) || !val_ok(present)) return present;
    ValId both[2] = {past, present};
    present = emit_concat(c, both, 2, 2);
    *kv = emit_transpose(c, present, SWAP_HEADS);
    return present;
}

bool attention_scale(Call *c, Attention *a, float given) {
    Dim d = type_of(c, a->q)->dim[3];
    if (!dim_is_const(d)) return call_error(c, "the head size is not constant");
    a->scale = given != 0 ? given : 1.0f / sqrtf((float)d.v);
    return true;
}

/* ---- masks ---- */

static Dim queries(const Call *c, const Attention *a) { return type_of(c, a->q)->dim[1]; }
static Dim keys(const Call *c, const Attention *a) { return type_of(c, a->k)->dim[1]; }

static ValId allowed_and(Call *c, ValId a, ValId b) { return val_ok(a) ? emit2(c, OP_AND, a, b) : b; }

ValId attention_rows(Call *c, ValId per_sequence) {
    ValId v = emit_cast(c, per_sequence, DT_I64);
    if (!val_ok(v)) return v;
    Dim dims[4] = {type_count(c->g, type_of(c, v)), dim_const(1), dim_const(1), dim_const(1)};
    return emit_reshape(c, v, 4, dims);
}

/* Which keys (last axis) each query (axis before) may see. */
static bool explicit_mask(Call *c, Attention *a, ValId *allowed) {
    ValId key = emit_iota(c, DT_I64, keys(c, a));
    ValId query = emit_insert_axis(c, emit_iota(c, DT_I64, queries(c, a)), 1);
    if (val_ok(a->starts))
        query = emit2(c, OP_ADD, query, a->starts);
    else if (!dim_eq(a->offset, dim_const(0)))
        query = emit2(c, OP_ADD, query, emit_dim(c, DT_I64, a->offset));
    if (val_ok(a->lengths)) *allowed = emit2(c, OP_LT, key, a->lengths);
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
static ValId mask_padded(Call *c, const Attention *a, ValId m) {
    if (type_of(c, m)->dtype != DT_BOOL) m = emit_cast(c, m, DT_F32);
    if (!val_ok(m)) return m;
    Type t = *type_of(c, m);
    Dim nk = keys(c, a);
    if (t.rank == 0 || dim_eq(t.dim[t.rank - 1], nk) || dim_eq(t.dim[t.rank - 1], dim_const(1))) return m;
    if (!dim_less_equal(c->g, t.dim[t.rank - 1], nk)) return m;
    ValId in[2] = {m, t.dtype == DT_BOOL ? emit_scalar(c, DT_BOOL, 0) : graph_const_f32(c->g, -INFINITY)};
    Attr at = attr_default();
    t.dim[t.rank - 1] = nk;
    return emit(c, OP_PAD, in, 2, &at, &t);
}

static bool mask_line_up(Call *c, Attention *a) {
    a->mask = mask_padded(c, a, a->mask);
    if (!val_ok(a->mask)) return false;
    Dim want[2] = {keys(c, a), queries(c, a)};
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t rank = type_of(c, a->mask)->rank;
        if (i < rank && !dim_eq(type_of(c, a->mask)->dim[rank - 1 - i], dim_const(1)))
            align_axis(c, &a->mask, rank - 1 - i, want[i]);
    }
    return true;
}

static bool mask_make(Call *c, Attention *a) {
    if (val_ok(a->mask) && !mask_line_up(c, a)) return false;
    bool square = dim_eq(dim_sub(c->g, keys(c, a), a->offset), queries(c, a));
    bool plain = !val_ok(a->lengths) && !val_ok(a->starts) && a->right < 0 &&
                 (a->left < 0 || (a->causal && square)) && (!a->causal || square);
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

/* ---- products ---- */

/* Scaled scores [batch, heads, queries, keys]; key heads repeated for the queries' heads. */
static ValId scores(Call *c, const Attention *a) {
    static const uint8_t last[4] = {0, 1, 3, 2};
    ValId q = emit_transpose(c, a->q, SWAP_HEADS), k = emit_transpose(c, a->k, SWAP_HEADS);
    if (!val_ok(q) || !val_ok(k)) return NO_VAL;
    Type tq = *type_of(c, q), tk = *type_of(c, k);
    Dim group = dim_div(c->g, tq.dim[1], tk.dim[1]);
    Dim wide[5] = {tk.dim[0], tk.dim[1], group, tk.dim[2], tk.dim[3]};
    Dim full[4] = {tk.dim[0], tq.dim[1], tk.dim[2], tk.dim[3]};
    k = emit_reshape(c, emit_broadcast(c, emit_insert_axis(c, k, 2), 5, wide), 4, full);
    ValId s = emit2(c, OP_MATMUL, q, emit_transpose(c, k, last));
    return emit2(c, OP_MUL, s, emit_scalar(c, tq.dtype, (double)a->scale));
}

ValId attention_products(Call *c, const Attention *a, ProductsAt at) {
    Attention b = *a;
    if (!mask_make(c, &b)) return NO_VAL;
    DType t = type_of(c, a->q)->dtype;
    ValId s = scores(c, a), none = emit_scalar(c, t, -INFINITY), zero = emit_scalar(c, t, 0);
    if (at >= PRODUCTS_CAPPED && a->softcap != 0) {
        ValId cap = emit_scalar(c, t, (double)a->softcap);
        s = emit2(c, OP_MUL, emit1(c, OP_TANH, emit2(c, OP_DIV, s, cap)), cap);
    }
    if (at >= PRODUCTS_MASKED && val_ok(b.mask)) {
        bool flag = type_of(c, b.mask)->dtype == DT_BOOL;
        s = emit2(c, OP_ADD, s, flag ? emit3(c, OP_WHERE, b.mask, zero, none) : emit_cast(c, b.mask, t));
    }
    if (at >= PRODUCTS_MASKED && (b.causal || b.left >= 0)) {
        ValId allowed = NO_VAL;
        if (!explicit_mask(c, &b, &allowed)) return NO_VAL;
        s = emit2(c, OP_ADD, s, emit3(c, OP_WHERE, allowed, zero, none));
    }
    if (at < PRODUCTS_SOFTMAX || !val_ok(s)) return s;
    Attr attr = attr_default();
    attr.axis = 3;
    s = emit(c, OP_SOFTMAX, &s, 1, &attr, NULL);
    return emit3(c, OP_WHERE, emit1(c, OP_ISNAN, s), zero, s); /* a row that sees nothing is 0 */
}

ValId attention_emit(Call *c, Attention *a) {
    if (!mask_make(c, a)) return NO_VAL;
    ValId in[6] = {a->q, a->k, a->v, a->mask, NO_VAL, a->sinks};
    Attr at = attr_default();
    at.scale = a->scale;
    at.softcap = a->softcap;
    at.causal = a->causal;
    at.window = a->causal && a->left >= 0 ? a->left + 1 : 0;
    return emit(c, OP_ATTENTION, in, val_ok(a->sinks) ? 6 : 4, &at, NULL);
}
