/* onnx_ops_contrib_attention.c: ONNX Runtime's attention ops (domain com.microsoft): Attention,
 * MultiHeadAttention, GroupQueryAttention. Each brings its operands into the form of attention.c.
 *
 * Masks say 0 for padding, which gets mask_filter_value added; bounds are lengths per sequence. States
 * are [batch, heads, past, d]; Attention stacks keys and values, [2, batch, heads, past, d]. */
#include <string.h>

#include "frontend/import.h"

static bool heads_attr(Call *c, const char *name, int64_t *out) {
    *out = attr_int(c, name, 0);
    return (*out > 0 && *out <= INT32_MAX) || call_error(c, "the attribute %s is missing", name);
}

static ValId slice_last(Call *c, ValId v, Dim start, Dim length) {
    if (!val_ok(v)) return v;
    uint32_t rank = type_of(c, v)->rank;
    if (rank > 0) return emit_slice(c, v, rank - 1, start, 1, length);
    call_error(c, "an operand is a scalar");
    return NO_VAL;
}

/* Element i of axis `axis`, which goes. */
static ValId pick(Call *c, ValId v, uint32_t axis, int64_t i) {
    v = emit_slice(c, v, axis, dim_const(i), 1, dim_const(1));
    if (!val_ok(v)) return v;
    Type t = *type_of(c, v);
    for (uint32_t k = axis; k + 1 < t.rank; k++) t.dim[k] = t.dim[k + 1];
    return emit_reshape(c, v, t.rank - 1u, t.dim);
}

/* ---- masks ---- */

/* allowed ? 0 : mask_filter_value */
static ValId filter(Call *c, ValId allowed) {
    ValId none = graph_const_f32(c->g, attr_float(c, "mask_filter_value", -10000.0f));
    return emit3(c, OP_WHERE, allowed, graph_const_f32(c->g, 0), none);
}

/* Bounds of the keys per sequence: [batch] ends; [2 * batch] ends, then starts; [3 * batch + 2] lengths, then
 * running sums that say the same. */
static ValId bounds_mask(Call *c, ValId m, Dim batch, Dim nk) {
    Dim n = type_of(c, m)->dim[0], two = dim_mul(c->g, dim_const(2), batch);
    Dim sums = dim_add(c->g, dim_mul(c->g, dim_const(3), batch), dim_const(2));
    if (!dim_eq(n, batch) && !dim_eq(n, dim_const(1)) && !dim_eq(n, two) && !dim_eq(n, sums)) {
        call_error(c, "the mask's length is no form of the batch's");
        return NO_VAL;
    }
    ValId key = emit_iota(c, DT_I64, nk);
    ValId ends =
        dim_eq(n, batch) || dim_eq(n, dim_const(1)) ? m : emit_slice(c, m, 0, dim_const(0), 1, batch);
    ValId allowed = emit2(c, OP_LT, key, attention_rows(c, ends));
    if (dim_eq(n, two) && !dim_eq(n, batch)) {
        ValId starts = attention_rows(c, emit_slice(c, m, 0, batch, 1, batch));
        allowed = emit2(c, OP_AND, allowed, emit2(c, OP_LE, starts, key));
    }
    return allowed;
}

/* Operand i as floats to add, [batch, 1, queries or 1, keys]; none when it says nothing. */
static bool padding_mask(Call *c, size_t i, const Attention *a, ValId *out) {
    *out = NO_VAL;
    if (!in_has(c, i)) return true;
    ValId m = in_val(c, i), allowed = NO_VAL;
    if (!val_ok(m)) return false;
    Type t = *type_of(c, m);
    Dim batch = type_of(c, a->q)->dim[0], nq = type_of(c, a->q)->dim[1], nk = type_of(c, a->k)->dim[1];
    if (t.rank == 1) {
        allowed = bounds_mask(c, m, batch, nk);
    } else if (t.rank == 2 && dim_eq(t.dim[1], dim_const(1)) && !dim_eq(nk, dim_const(1))) {
        return true; /* a stand-in for no mask */
    } else if (t.rank >= 2 && t.rank <= 4) {
        if (t.rank == 4) { /* the whole square up to the longest sequence */
            m = emit_slice(c, m, 2, a->offset, 1, nq);
            m = emit_slice(c, m, 3, dim_const(0), 1, nk);
        }
        while (val_ok(m) && type_of(c, m)->rank < 4) m = emit_insert_axis(c, m, 1);
        if (!val_ok(m)) return false;
        allowed = emit2(c, OP_LT, emit_scalar(c, type_of(c, m)->dtype, 0), m);
    } else {
        return call_error(c, "the mask has rank %u", t.rank);
    }
    *out = filter(c, allowed);
    return val_ok(*out);
}

/* The padding's mask and an additive bias [batch or 1, heads or 1, queries, keys] are one mask. */
static bool join_masks(Call *c, Attention *a, size_t padding, size_t bias) {
    if (!padding_mask(c, padding, a, &a->mask)) return false;
    if (!in_has(c, bias)) return true;
    ValId b = emit_cast(c, in_val(c, bias), DT_F32);
    a->mask = val_ok(a->mask) ? emit2(c, OP_ADD, a->mask, b) : b;
    return val_ok(a->mask);
}

/* ---- Attention ---- */

/* Adds the new keys and values to the stacked past; the present is stacked again. */
static bool stacked_past(Call *c, Attention *a, size_t past, size_t present) {
    ValId before[2] = {NO_VAL, NO_VAL}, now[2];
    Dim fresh = type_of(c, a->k)->dim[1];
    if (in_has(c, past)) {
        ValId v = in_val(c, past);
        if (!val_ok(v)) return false;
        const Type *t = type_of(c, v);
        if (t->rank != 5 || !dim_eq(t->dim[0], dim_const(2)))
            return call_error(c, "the past is not [2, batch, heads, past, d]");
        before[0] = pick(c, v, 0, 0);
        before[1] = pick(c, v, 0, 1);
    }
    if (!in_has(c, past) && !out_used(c, present)) return true;
    now[0] = emit_insert_axis(c, attention_append(c, before[0], &a->k), 0);
    now[1] = emit_insert_axis(c, attention_append(c, before[1], &a->v), 0);
    if (!val_ok(now[0]) || !val_ok(now[1])) return false;
    a->offset = dim_sub(c->g, type_of(c, a->k)->dim[1], fresh);
    return out_val(c, present, emit_concat(c, now, 2, 0));
}

/* q, k, v = input x weights + bias (operand 2); the columns are theirs in this order. */
static bool joint_projection(Call *c, Attention *a, ValId input, ValId weights) {
    int64_t heads = 0;
    size_t n = 0;
    ValId x = val_ok(input) && val_ok(weights) ? emit2(c, OP_MATMUL, input, weights) : NO_VAL;
    if (in_has(c, 2)) x = emit2(c, OP_ADD, x, in_val(c, 2));
    if (!heads_attr(c, "num_heads", &heads) || !val_ok(x)) return false;
    const int64_t *sizes = attr_ints(c, "qkv_hidden_sizes", &n);
    if (type_of(c, x)->rank != 3 || (sizes != NULL && n != 3))
        return call_error(c, "the operands do not fit");
    Dim width = type_of(c, x)->dim[2], at = dim_const(0), third = dim_div(c->g, width, dim_const(3));
    ValId *part[3] = {&a->q, &a->k, &a->v};
    for (size_t i = 0; i < 3; i++) {
        Dim size = sizes == NULL ? third : dim_const(sizes[i]);
        if (!dim_known(size) || !dim_less_equal(c->g, dim_add(c->g, at, size), width) ||
            !dim_less_equal(c->g, dim_const(1), size))
            return call_error(c, "the weights do not divide into queries, keys and values");
        *part[i] = heads_split(c, slice_last(c, x, at, size), heads);
        at = dim_add(c->g, at, size);
    }
    return val_ok(a->q) && val_ok(a->k) && val_ok(a->v);
}

static bool lower_attention(Call *c) {
    Attention a = {
        .left = -1, .right = -1, .causal = attr_int(c, "unidirectional", 0) != 0, .offset = dim_const(0)};
    if (attr_int(c, "do_rotary", 0) != 0)
        return call_error(c,
                          "rotates by tables that are not in the graph; hint: export with RotaryEmbedding");
    if (in_has(c, 6))
        return call_error(
            c, "the past is a shared buffer with its length apart; hint: optimise the graph without "
               "past_present_share_buffer");
    if (!joint_projection(c, &a, in_val(c, 0), in_val(c, 1)) || !stacked_past(c, &a, 4, 1)) return false;
    if (!attention_scale(c, &a, attr_float(c, "scale", 0)) || !join_masks(c, &a, 3, 5)) return false;
    return out_val(c, 0, heads_join(c, attention_emit(c, &a)));
}

/* ---- QAttention: the same with integers in, and floats out ---- */

/* Operand i as floats: its scale and zero point are one number, or a number for each column. */
static ValId from_codes(Call *c, size_t i, size_t scale, size_t zero) {
    ValId in[3] = {in_val(c, i), in_val(c, scale), in_has(c, zero) ? in_val(c, zero) : NO_VAL};
    Attr a = attr_default();
    for (size_t k = 1; k < 3; k++) {
        if (!val_ok(in[k])) continue;
        const Type *t = type_of(c, in[k]);
        if (t->rank == 1 && dim_eq(t->dim[0], dim_const(1))) in[k] = emit_reshape(c, in[k], 0, NULL);
    }
    if (!val_ok(in[0]) || !val_ok(in[1]) || type_of(c, in[0])->rank == 0) return NO_VAL;
    if (type_of(c, in[1])->rank == 1) a.axis = type_of(c, in[0])->rank - 1;
    return emit(c, OP_DEQUANTIZE, in, 3, &a, NULL);
}

/* input, weight, bias, their scales, mask_index?, their zero points?, past? */
static bool lower_quantised_attention(Call *c) {
    Attention a = {
        .left = -1, .right = -1, .causal = attr_int(c, "unidirectional", 0) != 0, .offset = dim_const(0)};
    if (attr_int(c, "do_rotary", 0) != 0) return call_error(c, "rotates by tables that are not in the graph");
    if (!joint_projection(c, &a, from_codes(c, 0, 3, 6), from_codes(c, 1, 4, 7)) ||
        !stacked_past(c, &a, 8, 1))
        return false;
    if (!attention_scale(c, &a, attr_float(c, "scale", 0)) || !padding_mask(c, 5, &a, &a.mask)) return false;
    return out_val(c, 0, heads_join(c, attention_emit(c, &a)));
}

/* ---- MultiHeadAttention ---- */

/* Columns [index * width, ..) of the joint bias, added to v. */
static ValId with_bias(Call *c, ValId v, Dim start) {
    if (!in_has(c, 3) || !val_ok(v)) return v;
    Dim size = type_of(c, v)->dim[2];
    return emit2(c, OP_ADD, v, slice_last(c, in_val(c, 3), start, size));
}

/* Key or value operand: [batch, tokens, heads * d], or already [batch, heads, tokens, d]. */
static ValId key_operand(Call *c, size_t i, int64_t heads, Dim bias_start) {
    ValId v = in_val(c, i);
    if (!val_ok(v)) return v;
    if (type_of(c, v)->rank == 4) return emit_transpose(c, v, SWAP_HEADS);
    return heads_split(c, with_bias(c, v, bias_start), heads);
}

/* Packed operands: query [batch, tokens, heads, 3, d] or key [batch, tokens, heads, 2, d]. */
static ValId unpack(Call *c, ValId packed, int64_t i, int64_t heads, Dim bias_start) {
    ValId v = pick(c, packed, 3, i);
    return heads_split(c, with_bias(c, heads_join(c, v), bias_start), heads);
}

static bool multi_head_operands(Call *c, Attention *a, int64_t heads) {
    ValId q = in_val(c, 0);
    if (!val_ok(q)) return false;
    Type t = *type_of(c, q);
    Dim zero = dim_const(0);
    if (t.rank == 5) {
        Dim hidden = dim_mul(c->g, t.dim[2], t.dim[4]), twice = dim_mul(c->g, dim_const(2), hidden);
        a->q = unpack(c, q, 0, heads, zero);
        a->k = unpack(c, q, 1, heads, hidden);
        a->v = unpack(c, q, 2, heads, twice);
        return val_ok(a->q) && val_ok(a->k) && val_ok(a->v);
    }
    a->q = t.rank == 3 ? heads_split(c, with_bias(c, q, zero), heads) : NO_VAL;
    if (t.rank != 3) return call_error(c, "the queries have rank %u", t.rank);
    Dim hidden = t.dim[2], twice = dim_mul(c->g, dim_const(2), hidden);
    if (!in_has(c, 1)) return call_error(c, "the keys are missing");
    if (in_type(c, 1)->rank == 5) {
        a->k = unpack(c, in_val(c, 1), 0, heads, hidden);
        a->v = unpack(c, in_val(c, 1), 1, heads, twice);
    } else {
        a->k = key_operand(c, 1, heads, hidden);
        a->v = key_operand(c, 2, heads, twice);
    }
    return val_ok(a->q) && val_ok(a->k) && val_ok(a->v);
}

/* Appends to past operand i and gives output o. */
static bool with_past(Call *c, size_t i, size_t o, ValId *kv) {
    ValId past = in_has(c, i) ? in_val(c, i) : NO_VAL;
    if (in_has(c, i) && !val_ok(past)) return false;
    if (!in_has(c, i) && !out_used(c, o)) return true;
    return out_val(c, o, attention_append(c, past, kv));
}

static bool lower_multi_head(Call *c) {
    Attention a = {.left = -1, .right = -1, .causal = attr_int(c, "unidirectional", 0) != 0};
    int64_t heads = 0;
    if (in_has(c, 8) || in_has(c, 9))
        return call_error(
            c, "the past is a shared buffer with its length apart; hint: optimise the graph without "
               "buffer sharing");
    if (!heads_attr(c, "num_heads", &heads) || !multi_head_operands(c, &a, heads)) return false;
    Dim fresh = type_of(c, a.k)->dim[1];
    if (!with_past(c, 6, 1, &a.k) || !with_past(c, 7, 2, &a.v)) return false;
    a.offset = dim_sub(c->g, type_of(c, a.k)->dim[1], fresh);
    if (!attention_scale(c, &a, attr_float(c, "scale", 0)) || !join_masks(c, &a, 4, 5)) return false;
    if (out_used(c, 3) && !out_val(c, 3, attention_products(c, &a, PRODUCTS_MASKED))) return false;
    return out_val(c, 0, heads_join(c, attention_emit(c, &a)));
}

/* ---- GroupQueryAttention ---- */

enum {
    KEY = 1,
    VALUE,
    PAST_KEY,
    PAST_VALUE,
    SEQLENS,
    TOTAL,
    COSINE,
    SINE,
    POSITIONS,
    BIAS,
    SINK,
    K_SCALE,
    V_SCALE,
    Q_NORM,
    K_NORM
};

static bool grouped_supported(Call *c) {
    const char *k = attr_string(c, "k_quant_type", "NONE"), *v = attr_string(c, "v_quant_type", "NONE");
    if (in_has(c, K_SCALE) || in_has(c, V_SCALE) || strcmp(k, "NONE") != 0 || strcmp(v, "NONE") != 0)
        return call_error(
            c, "a quantised cache in the graph is not supported; hint: export with a cache of floats");
    return true;
}

/* Keys and values absent: the queries' last axis holds all three. */
static bool grouped_operands(Call *c, Attention *a) {
    int64_t heads = 0, kv = 0;
    ValId q = in_val(c, 0), k = NO_VAL, v = NO_VAL;
    if (!heads_attr(c, "num_heads", &heads) || !heads_attr(c, "kv_num_heads", &kv) || !val_ok(q))
        return false;
    if (type_of(c, q)->rank != 3) return call_error(c, "the queries have rank %u", type_of(c, q)->rank);
    if (in_has(c, KEY)) {
        k = in_val(c, KEY);
        v = in_val(c, VALUE);
    } else {
        Dim d = dim_div(c->g, type_of(c, q)->dim[2], dim_const(heads + 2 * kv));
        Dim wide = dim_mul(c->g, d, dim_const(heads)), narrow = dim_mul(c->g, d, dim_const(kv));
        if (!dim_known(d)) return call_error(c, "the operand does not divide into queries, keys and values");
        k = slice_last(c, q, wide, narrow);
        v = slice_last(c, q, dim_add(c->g, wide, narrow), narrow);
        q = slice_last(c, q, dim_const(0), wide);
    }
    a->q = heads_split(c, q, heads);
    a->k = heads_split(c, k, kv);
    a->v = heads_split(c, v, kv);
    return val_ok(a->q) && val_ok(a->k) && val_ok(a->v);
}

/* RMS norm of each head, before it is rotated. */
static bool grouped_norm(Call *c, size_t i, ValId *x) {
    if (!in_has(c, i)) return true;
    ValId in[2] = {*x, emit_cast(c, in_val(c, i), type_of(c, *x)->dtype)};
    Attr a = attr_default();
    a.rms = true;
    a.eps = attr_float(c, "qk_norm_epsilon", 1e-6f);
    *x = val_ok(in[1]) ? emit(c, OP_NORM, in, 2, &a, NULL) : NO_VAL;
    return val_ok(*x);
}

static bool grouped_rotary(Call *c, Attention *a) {
    if (attr_int(c, "do_rotary", 0) == 0) return true;
    if (!in_has(c, COSINE) || !in_has(c, SINE)) return call_error(c, "the cosines or sines are missing");
    Dim seq = type_of(c, a->q)->dim[1];
    ValId at = NO_VAL;
    if (in_has(c, POSITIONS)) {
        at = in_val(c, POSITIONS);
    } else {
        at = emit_iota(c, DT_I64, seq);
        if (val_ok(a->starts)) {
            Dim rows[2] = {type_of(c, a->starts)->dim[0], dim_const(1)};
            at = emit2(c, OP_ADD, at, emit_reshape(c, a->starts, 2, rows));
        } else if (!dim_eq(a->offset, dim_const(0))) {
            at = emit2(c, OP_ADD, at, emit_dim(c, DT_I64, a->offset));
        }
    }
    Rotary r = {.cosine = rotary_rows(c, in_val(c, COSINE), at),
                .sine = rotary_rows(c, in_val(c, SINE), at),
                .interleaved = attr_int(c, "rotary_interleaved", 0) != 0,
                .token_major = true};
    a->q = rotary_emit(c, a->q, &r);
    a->k = rotary_emit(c, a->k, &r);
    return val_ok(a->q) && val_ok(a->k);
}

/* Where each sequence stands. seqlens_k is the last key's index; with the whole past in use, as every
 * sequence of a GPT's contract has it, the new keys simply follow. Otherwise a prompt starts at 0 and its
 * tail may be padding, and later tokens start where a sequence's keys end. */
static bool grouped_places(Call *c, Attention *a, Dim *total) {
    Dim seq = type_of(c, a->q)->dim[1], last = DIM_UNKNOWN;
    a->offset =
        in_has(c, PAST_KEY) && in_type(c, PAST_KEY)->rank == 4 ? in_type(c, PAST_KEY)->dim[2] : dim_const(0);
    *total = dim_add(c->g, a->offset, seq);
    if (!in_has(c, SEQLENS)) return call_error(c, "the lengths of the sequences are missing");
    if (in_fill(c, SEQLENS, &last) && dim_eq(dim_add(c->g, last, dim_const(1)), *total)) return true;
    /* A cache cut to the window holds the end of the whole one, which is what a state is here. */
    if (attr_int(c, "sliding_window_cache", 0) != 0)
        return call_error(
            c, "a cache cut to the window needs the lengths of whole sequences; hint: take them from "
               "the attention mask");
    uint32_t n = 0;
    const Dim *given = in_has(c, TOTAL) ? in_dims(c, TOTAL, &n) : NULL;
    if (given == NULL || n != 1)
        return call_error(c, "the total length does not follow from the inputs' shapes");
    if (!dim_less_equal(c->g, seq, given[0]))
        return call_error(c, "the total length is less than what is new");
    ValId one = graph_const_i64(c->g, 1);
    a->lengths = emit2(c, OP_ADD, attention_rows(c, in_val(c, SEQLENS)), one);
    if (!val_ok(a->lengths)) return false;
    bool prompt = dim_eq(given[0], seq);
    a->starts = emit2(c, OP_SUB, a->lengths, prompt ? a->lengths : emit_dim(c, DT_I64, seq));
    *total = dim_less_equal(c->g, given[0], a->offset) ? a->offset : given[0];
    return val_ok(a->starts);
}

/* Keys or values of every sequence one after the other: past up to its start, then the new ones. */
static bool grouped_append(Call *c, const Attention *a, size_t past, size_t present, Dim total, ValId *kv) {
    if (!val_ok(a->starts)) return with_past(c, past, present, kv);
    Dim seq = type_of(c, *kv)->dim[1];
    ValId both = attention_append(c, in_has(c, past) ? in_val(c, past) : NO_VAL, kv);
    ValId at = emit_iota(c, DT_I64, total);
    if (!val_ok(both)) return false;
    at = emit_reshape(c, at, 4, (Dim[]){dim_const(1), dim_const(1), total, dim_const(1)});
    ValId start = a->starts;
    ValId fresh = emit2(c, OP_ADD, emit2(c, OP_SUB, at, start), emit_dim(c, DT_I64, a->offset));
    ValId end = emit_dim(c, DT_I64, dim_sub(c->g, dim_add(c->g, a->offset, seq), dim_const(1)));
    at = emit3(c, OP_WHERE, emit2(c, OP_LT, at, start), at, emit2(c, OP_MIN, fresh, end));
    Type t = *type_of(c, both);
    t.dim[2] = total;
    ValId in[2] = {both, emit_broadcast(c, at, 4, t.dim)};
    Attr attr = attr_default();
    attr.axis = 2;
    both = emit(c, OP_GATHER_ELEMENTS, in, 2, &attr, NULL);
    *kv = emit_transpose(c, both, SWAP_HEADS);
    return out_val(c, present, both);
}

static bool grouped_sinks(Call *c, Attention *a) {
    Dim heads = type_of(c, a->q)->dim[2];
    if (in_has(c, SINK))
        a->sinks = emit_cast(c, in_val(c, SINK), DT_F32);
    else if (attr_int(c, "smooth_softmax", 0) > 0)
        a->sinks = emit_broadcast(c, graph_const_f32(c->g, 0), 1, &heads);
    else
        return true;
    return val_ok(a->sinks);
}

static bool lower_grouped(Call *c) {
    int64_t window = attr_int(c, "local_window_size", -1), qk = attr_int(c, "qk_output", 0);
    Attention a = {.left = window > 0 ? window - 1 : -1,
                   .right = -1,
                   .causal = attr_int(c, "causal", 1) != 0,
                   .softcap = attr_float(c, "softcap", 0)};
    Dim total;
    if (!grouped_supported(c) || !grouped_operands(c, &a) || !grouped_places(c, &a, &total)) return false;
    if (!grouped_norm(c, Q_NORM, &a.q) || !grouped_norm(c, K_NORM, &a.k) || !grouped_rotary(c, &a))
        return false;
    if (!grouped_append(c, &a, PAST_KEY, 1, total, &a.k) ||
        !grouped_append(c, &a, PAST_VALUE, 2, total, &a.v))
        return false;
    if (in_has(c, BIAS) && !val_ok(a.mask = in_val(c, BIAS))) return false;
    if (!attention_scale(c, &a, attr_float(c, "scale", 0)) || !grouped_sinks(c, &a)) return false;
    ProductsAt at = qk == 1 ? PRODUCTS_MASKED : PRODUCTS_SOFTMAX;
    if (out_used(c, 3) && !out_val(c, 3, attention_products(c, &a, at))) return false;
    return out_val(c, 0, heads_join(c, attention_emit(c, &a)));
}

const OpRule onnx_rules_contrib_attention[] = {
    {"com.microsoft", "QAttention", 1, 0, lower_quantised_attention, 0, T_INTS,
     "no rotary, no shared buffer"},
    {"com.microsoft", "Attention", 1, 0, lower_attention, 0, T_FLOATS,
     "do_rotary and a shared past buffer are refused"},
    {"com.microsoft", "MultiHeadAttention", 1, 0, lower_multi_head, 0, T_FLOATS,
     "a shared past buffer is refused"},
    {"com.microsoft", "GroupQueryAttention", 1, 0, lower_grouped, 0, T_FLOATS,
     "a quantised cache is refused"},
    {0},
};
