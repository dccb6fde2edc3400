/* onnx_ops_attention.c: the standard Attention and the scatter that writes its cache.
 *
 * ONNX has heads before tokens, [batch, heads, seq, d], or packed, [batch, seq, heads * d]. Causal masks
 * stand at the end of the keys when there is a past operand and at their beginning when there is none
 * (ONNX 1.23). */
#include <string.h>

#include "frontend/import.h"

/* Operand i as [batch, tokens, heads, d]. */
static ValId token_major(Call *c, size_t i, const char *heads_attr) {
    ValId v = in_val(c, i);
    if (!val_ok(v)) return v;
    uint32_t rank = type_of(c, v)->rank;
    int64_t heads = attr_int(c, heads_attr, 0);
    if (rank == 4) return emit_transpose(c, v, SWAP_HEADS);
    if (rank == 3 && heads > 0) return heads_split(c, v, heads);
    call_error(c, "operand %zu needs rank 4, or rank 3 and %s", i, heads_attr);
    return NO_VAL;
}

/* Appends to past operand `i` and gives output `o`, both [batch, heads, tokens, d]. */
static bool with_past(Call *c, ValId *kv, size_t i, size_t o) {
    if (!in_has(c, i) && !out_used(c, o)) return true;
    ValId past = in_has(c, i) ? in_val(c, i) : NO_VAL;
    if (in_has(c, i) && !val_ok(past)) return false;
    return out_val(c, o, attention_append(c, past, kv));
}

/* Keys that are there: the others are padding, and the last query stands at the last one that is. */
static bool nonpad_keys(Call *c, Attention *a) {
    if (!in_has(c, 6)) return true;
    a->lengths = attention_rows(c, in_val(c, 6));
    if (!val_ok(a->lengths)) return false;
    a->starts = emit2(c, OP_SUB, a->lengths, emit_dim(c, DT_I64, type_of(c, a->q)->dim[1]));
    return val_ok(a->starts);
}

static bool lower_attention(Call *c) {
    Attention a = {.left = attr_int(c, "left_window_size", -1),
                   .right = attr_int(c, "right_window_size", -1),
                   .causal = attr_int(c, "is_causal", 0) != 0,
                   .softcap = attr_float(c, "softcap", 0)};
    if (a.left >= INT32_MAX) a.left = -1;
    if (a.right >= INT32_MAX) a.right = -1;
    a.q = token_major(c, 0, "q_num_heads");
    a.k = token_major(c, 1, "kv_num_heads");
    a.v = token_major(c, 2, "kv_num_heads");
    if (!val_ok(a.q) || !val_ok(a.k) || !val_ok(a.v)) return false;
    Dim fresh = type_of(c, a.k)->dim[1];
    if (!with_past(c, &a.k, 4, 1) || !with_past(c, &a.v, 5, 2)) return false;
    a.offset = dim_sub(c->g, type_of(c, a.k)->dim[1], fresh);
    if (in_has(c, 3) && !val_ok(a.mask = in_val(c, 3))) return false;
    if (!nonpad_keys(c, &a) || !attention_scale(c, &a, attr_float(c, "scale", 0))) return false;
    int64_t mode = attr_int(c, "qk_matmul_output_mode", 0);
    if (mode < 0 || mode > 3) return call_error(c, "there is no qk_matmul_output_mode %lld", (long long)mode);
    if (out_used(c, 3) && !out_val(c, 3, attention_products(c, &a, (ProductsAt)mode))) return false;
    bool packed = in_type(c, 0)->rank == 3;
    ValId y = attention_emit(c, &a);
    return out_val(c, 0, packed ? heads_join(c, y) : emit_transpose(c, y, SWAP_HEADS));
}

const OpRule onnx_rules_attention[] = {
    {"", "Attention", 23, 0, lower_attention, 0, T_FLOATS, "head counts and sizes must be constant"},
    {0},
};
