/* onnx_ops_repeat.c: ONNX ops that repeat elements, or put others around them: Expand, Tile, Pad. */
#include <string.h>

#include "frontend/import.h"

#define PAD_MAX ((int64_t)1 << 24)

static bool lower_expand(Call *c) {
    if (!in_has(c, 0) || !in_has(c, 1)) return call_error(c, "an operand is missing");
    uint32_t n = 0, k = 0;
    const Dim *want = in_dims(c, 1, &n);
    if (want == NULL) return call_error(c, "the target shape does not follow from the shapes of the inputs");
    Type x = *in_type(c, 0);
    uint32_t rank = n > x.rank ? n : x.rank;
    if (rank > MAX_RANK) return call_error(c, "rank %u is above the limit of %d", rank, MAX_RANK);
    Dim dims[MAX_RANK], one = dim_const(1);
    for (uint32_t i = 0; i < rank; i++) {
        Dim a = i + x.rank < rank ? one : x.dim[i + x.rank - rank];
        Dim b = i + n < rank ? one : want[i + n - rank];
        dims[i] = dim_eq(b, one) ? a : b;
        if (dim_eq(a, one) || dim_eq(b, one) || dim_eq(a, b)) continue;
        if (shape_unify(c->im, a, b)) {
            dims[i] = dim_is_const(a) ? a : b;
            x = *in_type(c, 0);
        } else if (!dim_is_const(a) && dim_is_const(b) && dim_literal(c->g, a) == b.v) {
            dims[i] = a;
        } else {
            return call_error(c, "axis %u does not broadcast to the target", i);
        }
    }
    const Dim *v = in_dims(c, 0, &k);
    if (v != NULL && rank <= 1 && (rank == 0 || (dim_is_const(dims[0]) && dims[0].v <= SHAPE_MAX))) {
        uint32_t count = rank == 0 ? 1 : (uint32_t)dims[0].v;
        Dim out[SHAPE_MAX];
        for (uint32_t i = 0; i < count; i++) out[i] = v[k == 1 ? 0 : i];
        return out_dims(c, 0, x.dtype, rank, out, count);
    }
    return out_val(c, 0, emit_broadcast(c, in_val(c, 0), rank, dims));
}

/* Each axis in turn: [.., d, ..] -> [.., 1, d, ..] -> [.., r, d, ..] -> [.., r * d, ..]. */
static bool lower_tile(Call *c) {
    ValId v = in_val(c, 0);
    if (!val_ok(v)) return false;
    uint32_t n = 0, rank = type_of(c, v)->rank;
    const Dim *repeats = in_has(c, 1) ? in_dims(c, 1, &n) : NULL;
    if (repeats == NULL || n != rank) return call_error(c, "the repeats must be known, one an axis");
    for (uint32_t axis = 0; axis < rank && val_ok(v); axis++) {
        Type t = *type_of(c, v);
        if (dim_eq(repeats[axis], dim_const(1))) continue;
        if (dim_is_const(repeats[axis]) && repeats[axis].v < 0) return call_error(c, "a repeat is negative");
        Dim length = dim_mul(c->g, t.dim[axis], repeats[axis]);
        if (dim_eq(t.dim[axis], dim_const(1))) {
            t.dim[axis] = length;
            v = emit_broadcast(c, v, rank, t.dim);
            continue;
        }
        v = emit_insert_axis(c, v, axis);
        if (!val_ok(v)) return false;
        Type wide = *type_of(c, v);
        wide.dim[axis] = repeats[axis];
        v = emit_broadcast(c, v, wide.rank, wide.dim);
        t.dim[axis] = length;
        v = emit_reshape(c, v, rank, t.dim);
    }
    return out_val(c, 0, v);
}

/* ---- pad ---- */

static bool pad_axis(Call *c, ValId *v, ValId fill, uint32_t axis, int64_t before, int64_t after) {
    Type t = *type_of(c, *v);
    Dim cut = dim_const((before < 0 ? before : 0) + (after < 0 ? after : 0));
    if (cut.v < 0) {
        Dim left = dim_add(c->g, t.dim[axis], cut);
        *v = emit_slice(c, *v, axis, dim_const(before < 0 ? -before : 0), 1, left);
        if (!val_ok(*v)) return false;
        t = *type_of(c, *v);
    }
    before = before < 0 ? 0 : before;
    after = after < 0 ? 0 : after;
    if (before == 0 && after == 0) return true;
    Attr a = attr_default();
    a.starts[axis] = dim_const(before);
    t.dim[axis] = dim_add(c->g, t.dim[axis], dim_const(before + after));
    ValId in[2] = {*v, fill};
    *v = emit(c, OP_PAD, in, 2, &a, &t);
    return val_ok(*v);
}

/* Modes that repeat elements of x: rows picked by a list of indices, of an axis of known length. */
static bool pad_gather(Call *c, ValId *v, uint32_t axis, int64_t before, int64_t after, const char *mode) {
    Dim d = type_of(c, *v)->dim[axis];
    bool edge = strcmp(mode, "edge") == 0, wrap = strcmp(mode, "wrap") == 0;
    if (!edge && !wrap && strcmp(mode, "reflect") != 0)
        return call_error(c, "mode '%s' is not supported", mode);
    if (!dim_is_const(d) || d.v == 0 || d.v > PAD_MAX || before > PAD_MAX || after > PAD_MAX ||
        before + d.v + after <= 0)
        return call_error(c, "mode '%s' needs an axis of known and moderate length", mode);
    int64_t n = before + d.v + after, period = wrap ? d.v : d.v > 1 ? 2 * (d.v - 1) : 1;
    int64_t *index = arena_array_of(c->im->scratch, (size_t)n, int64_t);
    for (int64_t i = 0; i < n; i++) {
        int64_t at = i - before, m = (at % period + period) % period;
        if (edge)
            index[i] = at < 0 ? 0 : at >= d.v ? d.v - 1 : at;
        else
            index[i] = wrap || m < d.v ? m : period - m;
    }
    Dim count = dim_const(n);
    Attr a = attr_default();
    a.axis = axis;
    ValId in[2] = {*v, emit_const(c, type_make(DT_I64, 1, &count), index, (size_t)n * sizeof(int64_t))};
    *v = emit(c, OP_GATHER, in, 2, &a, NULL);
    return val_ok(*v);
}

static bool lower_pad(Call *c) {
    const char *mode = attr_string(c, "mode", "constant");
    bool constant = strcmp(mode, "constant") == 0;
    ValId v = in_val(c, 0);
    if (!val_ok(v)) return false;
    const int64_t *pads = NULL, *axes = NULL;
    size_t n = 0, na = 0;
    DType dtype = type_of(c, v)->dtype;
    uint32_t rank = type_of(c, v)->rank;
    ValId fill = NO_VAL;
    if (c->version < 11 && c->n->domain[0] == '\0') {
        pads = attr_ints(c, "pads", &n);
        fill = emit_scalar(c, dtype, (double)attr_float(c, "value", 0));
    } else {
        if (!in_ints(c, 1, "the pads", &pads, &n)) return false;
        if (in_has(c, 3) && !in_ints(c, 3, "the axes", &axes, &na)) return false;
        fill = in_has(c, 2) ? emit_reshape(c, in_val(c, 2), 0, NULL) : emit_scalar(c, dtype, 0);
    }
    size_t count = axes == NULL ? rank : na;
    if (!val_ok(fill)) return false;
    if (pads == NULL || n != 2 * count) return call_error(c, "%zu pads for %zu axes", n, count);
    for (size_t i = 0; i < count; i++) {
        uint32_t axis = 0;
        if (!axis_norm(c, axes == NULL ? (int64_t)i : axes[i], rank, &axis)) return false;
        if (pads[i] > INT32_MAX || pads[i] < INT32_MIN || pads[i + count] > INT32_MAX ||
            pads[i + count] < INT32_MIN)
            return call_error(c, "a pad is too large");
        bool ok = constant ? pad_axis(c, &v, fill, axis, pads[i], pads[i + count])
                           : pad_gather(c, &v, axis, pads[i], pads[i + count], mode);
        if (!ok) return false;
    }
    return val_eq(v, in_val(c, 0)) ? out_same(c, 0, 0) : out_val(c, 0, v);
}

const OpRule onnx_rules_repeat[] = {
    {"", "Expand", 8, 0, lower_expand, 0, T_ANY, "the target must follow from the shapes of the inputs"},
    {"", "Tile", 6, 0, lower_tile, 0, T_ANY, "the repeats must be known when compiling"},
    {"", "Pad", 2, 0, lower_pad, 0, T_ANY, "modes other than constant need an axis of known length"},
    {"com.microsoft", "Pad", 1, 0, lower_pad, 0, T_ANY, "as Pad"},
    {0},
};
