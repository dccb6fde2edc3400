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
    Dim fill;
    if (!in_has(c, 6)) return true;
    if (in_fill(c, 6, &fill) && dim_eq(fill, type_of(c, a->k)->dim[1])) { /* all of them */
        a->offset = dim_sub(c->g, fill, type_of(c, a->q)->dim[1]);
        return true;
    }
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

/* ---- TensorScatter: rows written into a cache, each sequence's from its own index on ---- */

/* Rows of the result that are new: index - start, round the end with circular; [batch, 1.., rows, 1..]. */
static ValId scatter_offsets(Call *c, const Type *cache, uint32_t axis, bool circular) {
    Dim dims[MAX_RANK];
    for (uint32_t i = 0; i < cache->rank; i++) dims[i] = i == axis ? cache->dim[axis] : dim_const(1);
    ValId at = emit_reshape(c, emit_iota(c, DT_I64, cache->dim[axis]), cache->rank, dims);
    if (!in_has(c, 2)) return at;
    ValId start = emit_cast(c, in_val(c, 2), DT_I64);
    if (!val_ok(start)) return start;
    dims[axis] = dim_const(1);
    dims[0] = type_of(c, start)->rank == 1 ? type_of(c, start)->dim[0] : dim_const(1);
    at = emit2(c, OP_SUB, at, emit_reshape(c, start, cache->rank, dims));
    return circular ? emit2(c, OP_MOD, at, emit_dim(c, DT_I64, cache->dim[axis])) : at;
}

static bool lower_tensor_scatter(Call *c) {
    ValId cache = in_val(c, 0), rows = in_val(c, 1);
    uint32_t axis = 0;
    Dim start;
    if (!val_ok(cache) || !val_ok(rows)) return false;
    Type t = *type_of(c, cache);
    const char *mode = attr_string(c, "mode", "linear");
    bool circular = strcmp(mode, "circular") == 0;
    if (!circular && strcmp(mode, "linear") != 0) return call_error(c, "there is no mode '%s'", mode);
    if (!axis_norm(c, attr_int(c, "axis", -2), t.rank, &axis)) return false;
    if (axis == 0 || type_of(c, rows)->rank != t.rank) return call_error(c, "the operands do not fit");
    /* A cache in use up to where the rows go: they follow. */
    if (in_fill(c, 2, &start) && dim_eq(start, t.dim[axis]) && !dim_is_const(start)) {
        ValId both[2] = {cache, rows};
        return out_val(c, 0, emit_concat(c, both, 2, axis));
    }
    ValId at = scatter_offsets(c, &t, axis, circular), zero = graph_const_i64(c->g, 0);
    ValId count = emit_dim(c, DT_I64, type_of(c, rows)->dim[axis]);
    ValId fresh = emit2(c, OP_AND, emit2(c, OP_LE, zero, at), emit2(c, OP_LT, at, count));
    ValId in[2] = {rows, emit_broadcast(c, emit3(c, OP_WHERE, fresh, at, zero), t.rank, t.dim)};
    Attr a = attr_default();
    a.axis = axis;
    return out_val(c, 0, emit3(c, OP_WHERE, fresh, emit(c, OP_GATHER_ELEMENTS, in, 2, &a, NULL), cache));
}

const OpRule onnx_rules_attention[] = {
    {"", "TensorScatter", 24, 0, lower_tensor_scatter, 0, T_ANY},
    {"", "Attention", 23, 0, lower_attention, 0, T_FLOATS, "head counts and sizes must be constant"},
    {0},
};
