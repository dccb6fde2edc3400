/* onnx_ops_move.c: ONNX ops that move elements: reshapes, slices and joins. */
#include "frontend/import.h"

static bool lower_reshape(Call *c) {
    if (!in_has(c, 0) || !in_has(c, 1)) return call_error(c, "an operand is missing");
    uint32_t n = 0, k = 0;
    const Dim *want = in_dims(c, 1, &n);
    if (want == NULL || in_type(c, 1)->rank > 1)
        return call_error(c, "the target shape does not follow from the shapes of the inputs; hint: "
                             "its length must not depend on data");
    Type x = *in_type(c, 0);
    Dim dims[MAX_RANK];
    if (!shape_reshape_target(c, &x, want, n, attr_int(c, "allowzero", 0) != 0, dims)) return false;
    const Dim *v = in_dims(c, 0, &k);
    if (v != NULL && n <= 1) return out_dims(c, 0, x.dtype, n, v, k);
    return out_val(c, 0, emit_reshape(c, in_val(c, 0), n, dims));
}

/* Squeeze and Unsqueeze take axes as an attribute before opset 13, then as an input. */
static bool axes_of(Call *c, const int64_t **axes, size_t *n) {
    *axes = c->version < 13 ? attr_ints(c, "axes", n) : NULL;
    if (c->version < 13) return true;
    *n = 0;
    return !in_has(c, 1) || in_ints(c, 1, "the axes", axes, n);
}

static bool lower_squeeze(Call *c) {
    if (!in_has(c, 0)) return call_error(c, "the operand is missing");
    const int64_t *axes = NULL;
    size_t n = 0;
    if (!axes_of(c, &axes, &n)) return false;
    Type x = *in_type(c, 0);
    uint32_t drop = 0, k = 0, rank = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t a = 0;
        if (!axis_norm(c, axes[i], x.rank, &a)) return false;
        if (!dim_eq(x.dim[a], dim_const(1)) && !shape_unify(c->im, x.dim[a], dim_const(1)) &&
            dim_literal(c->g, x.dim[a]) != 1)
            return call_error(c, "axis %u is not of length 1", a);
        drop |= 1u << a;
    }
    for (uint32_t i = 0; i < x.rank && axes == NULL; i++)
        if (dim_eq(x.dim[i], dim_const(1))) drop |= 1u << i;
    const Dim *v = in_dims(c, 0, &k);
    if (v != NULL) return out_dims(c, 0, x.dtype, drop != 0 ? 0 : x.rank, v, k);
    Dim dims[MAX_RANK];
    for (uint32_t i = 0; i < x.rank; i++)
        if ((drop >> i & 1) == 0) dims[rank++] = x.dim[i];
    return out_val(c, 0, emit_reshape(c, in_val(c, 0), rank, dims));
}

static bool lower_unsqueeze(Call *c) {
    if (!in_has(c, 0)) return call_error(c, "the operand is missing");
    const int64_t *axes = NULL;
    size_t n = 0;
    if (!axes_of(c, &axes, &n)) return false;
    Type x = *in_type(c, 0);
    uint32_t k = 0, at = 0, rank = x.rank + (uint32_t)(n > MAX_RANK ? MAX_RANK : n), fresh = 0;
    if (axes == NULL || rank > MAX_RANK || n > MAX_RANK)
        return call_error(c, "needs axes, and a rank of at most %d", MAX_RANK);
    for (size_t i = 0; i < n; i++) {
        uint32_t a = 0;
        if (!axis_norm(c, axes[i], rank, &a)) return false;
        if (fresh >> a & 1) return call_error(c, "axis %u is given twice", a);
        fresh |= 1u << a;
    }
    const Dim *v = in_dims(c, 0, &k);
    if (v != NULL && rank <= 1) return out_dims(c, 0, x.dtype, rank, v, k);
    Dim dims[MAX_RANK];
    for (uint32_t i = 0; i < rank; i++) dims[i] = fresh >> i & 1 ? dim_const(1) : x.dim[at++];
    return out_val(c, 0, emit_reshape(c, in_val(c, 0), rank, dims));
}

static bool lower_flatten(Call *c) {
    ValId v = in_val(c, 0);
    if (!val_ok(v)) return false;
    const Type *t = type_of(c, v);
    int64_t axis = attr_int(c, "axis", 1);
    if (axis < 0) axis += t->rank;
    if (axis < 0 || axis > t->rank) return call_error(c, "axis is outside rank %u", t->rank);
    Dim dims[2] = {dim_const(1), dim_const(1)};
    for (uint32_t i = 0; i < t->rank; i++) {
        Dim *d = &dims[i < (uint32_t)axis ? 0 : 1];
        *d = dim_mul(c->g, *d, t->dim[i]);
    }
    return out_val(c, 0, emit_reshape(c, v, 2, dims));
}

static bool lower_transpose(Call *c) {
    ValId v = in_val(c, 0);
    if (!val_ok(v)) return false;
    uint32_t rank = type_of(c, v)->rank, seen = 0;
    uint8_t perm[MAX_RANK];
    size_t n = 0;
    const int64_t *p = attr_ints(c, "perm", &n);
    if (p != NULL && n != rank) return call_error(c, "perm has %zu entries for rank %u", n, rank);
    for (uint32_t i = 0; i < rank; i++) {
        int64_t from = p == NULL ? rank - 1 - i : p[i];
        if (from < 0 || from >= rank || (seen >> from & 1)) return call_error(c, "perm is no permutation");
        seen |= 1u << from;
        perm[i] = (uint8_t)from;
    }
    return out_val(c, 0, emit_transpose(c, v, perm));
}

static bool lower_concat(Call *c) {
    for (size_t i = 0; i < c->n->nin; i++)
        if (!in_has(c, i)) return call_error(c, "operand %zu is missing", i);
    if (shape_concat(c)) return true;
    ValId *in = arena_array_of(c->im->scratch, c->n->nin + 1, ValId);
    size_t n = 0;
    for (size_t i = 0; i < c->n->nin; i++) {
        in[n] = in_val(c, i);
        if (!val_ok(in[n])) return false;
        /* Empty vectors, as exporters put in for an absent cache, add nothing. */
        const Type *t = type_of(c, in[n]);
        if (t->rank == 1 && dim_eq(t->dim[0], dim_const(0)) && c->n->nin > 1) continue;
        n++;
    }
    uint32_t axis = 0;
    if (n == 0) return c->n->nin == 0 ? call_error(c, "has no operands") : out_same(c, 0, 0);
    if (!axis_norm(c, attr_int(c, "axis", 0), type_of(c, in[0])->rank, &axis)) return false;
    return out_val(c, 0, emit_concat(c, in, n, axis));
}

/* ---- slice ---- */

typedef struct {
    Dim start, length;
    int64_t step;
} Range;

/* min(x, d), where a bound that depends on a symbol is taken to lie within d: the graph's author
 * slices a table by a length that it was made for. */
static bool clamp_to(Call *c, Dim x, Dim d, Dim *out) {
    if (dim_less_equal(c->g, d, x)) {
        *out = d;
        return true;
    }
    if (dim_less_equal(c->g, x, d) || !dim_is_const(x) || dim_literal(c->g, d) >= x.v) {
        *out = x;
        return true;
    }
    return call_error(c, "a bound of %lld on an axis of symbolic length may or may not cut it",
                      (long long)x.v);
}

/* A number counts from the end when it is negative; a symbolic bound when it is always negative. */
static Dim from_end(Call *c, Dim x, Dim d) {
    Sign s = dim_sign(c->g, x);
    return s == SIGN_NEG ? dim_add(c->g, x, d) : x;
}

static Dim at_least_zero(Call *c, Dim x) {
    Sign s = dim_sign(c->g, x);
    return s == SIGN_NEG || s == SIGN_NONPOS ? dim_const(0) : x;
}

static bool slice_range(Call *c, Dim start, Dim end, int64_t step, Dim d, Range *out) {
    if (step == 0) return call_error(c, "a step is 0");
    if (step < 0) {
        int64_t a = start.v, b = end.v;
        if (!dim_is_const(d) || !dim_is_const(start) || !dim_is_const(end)) {
            /* A whole axis backwards: from the end (or beyond) to before its beginning. */
            bool whole = step == -1 && dim_is_const(end) && end.v < -DIM_MAX / 4 && dim_is_const(start) &&
                         (start.v == -1 || start.v > DIM_MAX / 4);
            if (!whole) return call_error(c, "a negative step needs constant bounds");
            *out = (Range){dim_sub(c->g, d, dim_const(1)), d, -1};
            return true;
        }
        a = a < 0 ? a + d.v : a;
        b = b < 0 ? b + d.v : b;
        a = a < -1 ? -1 : a >= d.v ? d.v - 1 : a;
        b = b < -1 ? -1 : b >= d.v ? d.v - 1 : b;
        int64_t n = a > b && a >= 0 ? (a - b - 1) / -step + 1 : 0;
        *out = (Range){dim_const(n > 0 ? a : 0), dim_const(n), n > 0 ? step : 1};
        return true;
    }
    start = at_least_zero(c, from_end(c, start, d));
    end = at_least_zero(c, from_end(c, end, d));
    /* In a graph of fixed shape the numbers were made from the literal length. */
    int64_t lit = dim_is_const(d) ? 0 : dim_literal(c->g, d);
    if (lit > 0 && dim_is_const(end) && end.v == lit) end = d;
    if (!clamp_to(c, start, d, &start) || !clamp_to(c, end, d, &end)) return false;
    Dim length = dim_sub(c->g, end, start);
    Sign s = dim_sign(c->g, length);
    if (s == SIGN_NEG || s == SIGN_NONPOS) length = dim_const(0);
    if (step > 1) {
        if (dim_is_const(length))
            length = dim_const(length.v == 0 ? 0 : (length.v - 1) / step + 1);
        else
            length = dim_div(c->g, length, dim_const(step));
    }
    if (!dim_known(length)) return call_error(c, "the length cannot be expressed");
    if (dim_eq(length, dim_const(0))) start = dim_const(0);
    *out = (Range){start, length, step};
    return true;
}

/* A table cut to a symbolic length bounds that length. */
static void note_table(Call *c, Dim table, const Range *r, ValId x) {
    if (graph_constant(c->g, x) == NULL || !dim_is_const(table) || dim_is_const(r->length)) return;
    Dim end = dim_add(c->g, r->start, r->length);
    Dim seq = dim_sym(c->g, SYM_SEQ), total = dim_add(c->g, dim_sym(c->g, SYM_PAST), seq);
    if (!dim_eq(end, seq) && !dim_eq(end, total)) return;
    if (c->g->context == 0 || table.v < c->g->context) c->g->context = table.v;
}

static bool lower_slice(Call *c) {
    if (!in_has(c, 0)) return call_error(c, "the operand is missing");
    const Dim *starts = NULL, *ends = NULL;
    const int64_t *axes = NULL, *steps = NULL;
    uint32_t ns = 0, ne = 0;
    size_t na = 0, nsteps = 0;
    if (c->version < 10) {
        size_t n1 = 0, n2 = 0;
        const int64_t *s = attr_ints(c, "starts", &n1), *e = attr_ints(c, "ends", &n2);
        Dim *ds = arena_array_of(c->im->scratch, n1, Dim), *de = arena_array_of(c->im->scratch, n2, Dim);
        for (size_t i = 0; i < n1; i++) ds[i] = dim_const(s[i]);
        for (size_t i = 0; i < n2; i++) de[i] = dim_const(e[i]);
        axes = attr_ints(c, "axes", &na);
        starts = ds, ends = de;
        ns = (uint32_t)n1, ne = (uint32_t)n2;
    } else {
        if (!in_has(c, 1) || !in_has(c, 2)) return call_error(c, "starts and ends are missing");
        starts = in_dims(c, 1, &ns);
        ends = in_dims(c, 2, &ne);
        if (in_has(c, 3) && !in_ints(c, 3, "the axes", &axes, &na)) return false;
        if (in_has(c, 4) && !in_ints(c, 4, "the steps", &steps, &nsteps)) return false;
    }
    if (starts == NULL || ends == NULL)
        return call_error(c, "the bounds do not follow from the shapes of the inputs");
    if (ns != ne || ns > MAX_RANK || (axes != NULL && na != ns) || (steps != NULL && nsteps != ns))
        return call_error(c, "starts, ends, axes and steps differ in length");
    if (ns == 1 && dim_is_const(starts[0]) && dim_is_const(ends[0])) {
        int64_t s = starts[0].v, e = ends[0].v, one = 1;
        if (shape_slice(c, &s, &e, steps == NULL ? &one : steps, 1)) return true;
    }
    ValId v = in_val(c, 0);
    for (uint32_t i = 0; i < ns && val_ok(v); i++) {
        uint32_t axis = 0;
        Range r = {0};
        if (!axis_norm(c, axes == NULL ? i : axes[i], type_of(c, v)->rank, &axis)) return false;
        Dim d = type_of(c, v)->dim[axis];
        if (!slice_range(c, starts[i], ends[i], steps == NULL ? 1 : steps[i], d, &r)) return false;
        note_table(c, d, &r, v);
        v = emit_slice(c, v, axis, r.start, r.step, r.length);
    }
    return out_val(c, 0, v);
}

/* ---- split ---- */

static bool split_lengths(Call *c, Dim d, const int64_t *given, size_t ngiven, Dim *out) {
    size_t n = c->n->nout;
    if (given != NULL) {
        Dim sum = dim_const(0);
        if (ngiven != n) return call_error(c, "%zu lengths for %zu outputs", ngiven, n);
        for (size_t i = 0; i < n; i++) {
            if (given[i] < 0) return call_error(c, "a length is negative");
            out[i] = dim_const(given[i]);
            sum = dim_add(c->g, sum, out[i]);
        }
        if (!dim_eq(sum, d)) return call_error(c, "the lengths do not add up to the axis");
        return true;
    }
    Dim each = dim_div(c->g, d, dim_const((int64_t)n));
    if (dim_is_const(d) && !dim_known(each)) each = dim_const((d.v + (int64_t)n - 1) / (int64_t)n);
    if (!dim_known(each)) return call_error(c, "the axis cannot be split evenly");
    Dim left = d;
    for (size_t i = 0; i < n; i++) {
        out[i] = dim_is_const(left) && dim_is_const(each) && left.v < each.v ? left : each;
        left = dim_sub(c->g, left, out[i]);
    }
    return true;
}

static bool lower_split(Call *c) {
    ValId v = in_val(c, 0);
    uint32_t axis = 0;
    if (!val_ok(v) || !axis_norm(c, attr_int(c, "axis", 0), type_of(c, v)->rank, &axis)) return false;
    const int64_t *given = NULL;
    size_t n = 0;
    if (c->version < 13)
        given = attr_ints(c, "split", &n);
    else if (in_has(c, 1) && !in_ints(c, 1, "the lengths", &given, &n))
        return false;
    Dim *length = arena_array_of(c->im->scratch, c->n->nout, Dim);
    if (!split_lengths(c, type_of(c, v)->dim[axis], given, n, length)) return false;
    Dim start = dim_const(0);
    for (size_t i = 0; i < c->n->nout; i++) {
        if (out_used(c, i) && !out_val(c, i, emit_slice(c, v, axis, start, 1, length[i]))) return false;
        start = dim_add(c->g, start, length[i]);
    }
    return true;
}

const OpRule onnx_rules_move[] = {
    {"", "Reshape", 5, 0, lower_reshape, 0, T_ANY, "the target must follow from the shapes of the inputs"},
    {"", "Squeeze", 1, 0, lower_squeeze, 0},
    {"", "Unsqueeze", 1, 0, lower_unsqueeze, 0},
    {"", "Flatten", 1, 0, lower_flatten, 0},
    {"", "Transpose", 1, 0, lower_transpose, 0},
    {"", "Concat", 4, 0, lower_concat, 0},
    {"", "Slice", 1, 0, lower_slice, 0, T_ANY,
     "bounds must follow from the shapes of the inputs; a negative step needs constant bounds"},
    {"", "Split", 2, 0, lower_split, 0, T_ANY, "the lengths must be known, or divide the axis evenly"},
    {0},
};
