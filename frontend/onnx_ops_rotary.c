/* onnx_ops_rotary.c: rotary embeddings of both domains.
 *
 * They differ in the order of operands and in what positions may be: the standard one takes cosines that
 * are already picked when it has no positions; ONNX Runtime's also takes one number to count from. */
#include <string.h>

#include "frontend/import.h"

static ValId part(Call *c, ValId x, int64_t start, int64_t step, Dim length) {
    return emit_slice(c, x, type_of(c, x)->rank - 1, dim_const(start), step, length);
}

ValId rotary_rows(Call *c, ValId table, ValId positions) {
    if (!val_ok(table) || !val_ok(positions)) return NO_VAL;
    ValId in[2] = {table, positions};
    Attr a = attr_default();
    ValId rows = emit(c, OP_GATHER, in, 2, &a, NULL);
    return val_ok(rows) && type_of(c, rows)->rank == 2 ? emit_insert_axis(c, rows, 0) : rows;
}

ValId rotary_emit(Call *c, ValId x, const Rotary *r) {
    if (!val_ok(x) || !val_ok(r->cosine) || !val_ok(r->sine)) return NO_VAL;
    Type t = *type_of(c, x), table = *type_of(c, r->cosine);
    uint32_t head_axis = r->token_major ? 2 : 1;
    Dim d = t.dim[3], half = table.dim[2]; /* of the ranks that are asked for */
    if (t.rank != 4 || table.rank != 3 || !dim_is_const(d) || !dim_is_const(half) || half.v < 1 ||
        half.v > d.v / 2) {
        call_error(c, "the cosines do not fit heads of %lld", dim_is_const(d) ? (long long)d.v : -1LL);
        return NO_VAL;
    }
    ValId cosine = emit_insert_axis(c, emit_cast(c, r->cosine, t.dtype), head_axis);
    ValId sine = emit_insert_axis(c, emit_cast(c, r->sine, t.dtype), head_axis);
    ValId x1 = part(c, x, 0, r->interleaved ? 2 : 1, half);
    ValId x2 = part(c, x, r->interleaved ? 1 : half.v, r->interleaved ? 2 : 1, half);
    ValId y[3] = {emit2(c, OP_SUB, emit2(c, OP_MUL, x1, cosine), emit2(c, OP_MUL, x2, sine)),
                  emit2(c, OP_ADD, emit2(c, OP_MUL, x2, cosine), emit2(c, OP_MUL, x1, sine)), NO_VAL};
    size_t n = 2;
    if (r->interleaved) {
        Dim pair[5] = {t.dim[0], t.dim[1], t.dim[2], half, dim_const(1)};
        Dim flat[4] = {t.dim[0], t.dim[1], t.dim[2], dim_const(2 * half.v)};
        ValId both[2] = {emit_reshape(c, y[0], 5, pair), emit_reshape(c, y[1], 5, pair)};
        y[0] = emit_reshape(c, emit_concat(c, both, 2, 4), 4, flat);
        n = 1;
    }
    if (2 * half.v < d.v) y[n++] = part(c, x, 2 * half.v, 1, dim_const(d.v - 2 * half.v));
    return emit_concat(c, y, n, 3);
}

/* The first `dim` of the head are rotated when the attribute says so; the tables must have that width. */
static bool width_ok(Call *c, ValId cosine, int64_t dim) {
    if (!val_ok(cosine)) return false;
    const Type *t = type_of(c, cosine);
    if (dim == 0 || (t->rank > 0 && dim_eq(t->dim[t->rank - 1], dim_const(dim / 2)))) return true;
    return call_error(c, "the cosines are not %lld wide", (long long)(dim / 2));
}

/* Rotates input 0, [batch, heads, seq, d] or [batch, seq, heads * d], into output 0. */
static bool rotate(Call *c, Rotary *r, int64_t heads) {
    ValId x = in_val(c, 0);
    if (!val_ok(x)) return false;
    Type whole = *type_of(c, x);
    r->token_major = whole.rank == 3;
    if (r->token_major) x = heads_split(c, x, heads);
    return out_val(c, 0, emit_reshape(c, rotary_emit(c, x, r), whole.rank, whole.dim));
}

static bool lower_rotary(Call *c) {
    Rotary r = {
        .cosine = in_val(c, 1), .sine = in_val(c, 2), .interleaved = attr_int(c, "interleaved", 0) != 0};
    if (!width_ok(c, r.cosine, attr_int(c, "rotary_embedding_dim", 0))) return false;
    if (in_has(c, 3)) {
        ValId positions = in_val(c, 3);
        r.cosine = rotary_rows(c, r.cosine, positions);
        r.sine = rotary_rows(c, r.sine, positions);
    }
    return rotate(c, &r, attr_int(c, "num_heads", 0));
}

/* One position stands for the first token's. */
static ValId contrib_positions(Call *c, Dim seq) {
    ValId p = in_val(c, 1);
    if (!val_ok(p)) return p;
    Type t = *type_of(c, p);
    if (t.rank == 2) return p;
    if (!dim_eq(type_count(c->g, &t), dim_const(1))) {
        call_error(c, "the positions are neither one number nor [batch, sequence]");
        return NO_VAL;
    }
    return emit2(c, OP_ADD, emit_iota(c, t.dtype, seq), emit_reshape(c, p, 0, NULL));
}

static bool lower_contrib_rotary(Call *c) {
    ValId x = in_val(c, 0), cosine = in_val(c, 2), sine = in_val(c, 3);
    int64_t heads = attr_int(c, "num_heads", 0), dim = attr_int(c, "rotary_embedding_dim", 0);
    if (!val_ok(x) || !val_ok(sine) || !width_ok(c, cosine, dim)) return false;
    if (attr_float(c, "scale", 1) != 1)
        return call_error(c, "a scale is not supported; hint: scale the tables");
    Type t = *type_of(c, x);
    if (t.rank != 3 && t.rank != 4) return call_error(c, "the operand has rank %u", t.rank);
    const Type *table = type_of(c, cosine);
    if (heads == 0 && t.rank == 3 && table->rank == 2 && dim_is_const(t.dim[2]) &&
        dim_is_const(table->dim[1]) && table->dim[1].v > 0)
        heads = t.dim[2].v / (2 * table->dim[1].v);
    ValId positions = contrib_positions(c, t.dim[t.rank == 3 ? 1 : 2]);
    Rotary r = {.cosine = rotary_rows(c, cosine, positions),
                .sine = rotary_rows(c, sine, positions),
                .interleaved = attr_int(c, "interleaved", 0) != 0};
    return rotate(c, &r, heads);
}

const OpRule onnx_rules_rotary[] = {
    {"", "RotaryEmbedding", 23, 0, lower_rotary, 0, T_FLOATS, "the head size must be constant"},
    {"com.microsoft", "RotaryEmbedding", 1, 0, lower_contrib_rotary, 0, T_FLOATS, "a scale is refused"},
    {0},
};
