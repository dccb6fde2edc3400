/* shapes.c: arithmetic of shape values: small integer tensors whose elements are known polynomials
 * in the graph's symbols, so that no shape arithmetic is left in the IR.
 *
 * What cannot be said exactly (an inexact division, a comparison that depends on the binding) is not
 * computed here; the op is then lowered on tensors. Signs of polynomials are decided by samples of
 * all symbols, small and large: shape polynomials have low degree and few terms. */
#include <string.h>

#include "frontend/import.h"

/* ---- signs ---- */

/* d with batch, seq, past and all others at the four numbers, or what their bounds leave of them. */
static bool dim_sample(const Graph *g, Dim d, const int64_t sample[4], int64_t *out) {
    DimTerm t;
    *out = 0;
    for (uint32_t i = 0; dim_term(g, d, i, &t); i++) {
        for (uint32_t k = 0; k < t.degree; k++) {
            const Symbol *s = &g->symbols.data[t.sym[k].id];
            int64_t v = sample[t.sym[k].id <= 3 ? t.sym[k].id - 1 : 3];
            if (s->counted) v--;
            if (s->max != 0 && v > s->max) v = s->max;
            if (!mul_i64(t.factor, v, &t.factor)) return false;
        }
        if (!add_i64(*out, t.factor, out)) return false;
    }
    return true;
}

Sign dim_sign(const Graph *g, Dim d) {
    if (!dim_known(d)) return SIGN_UNKNOWN;
    if (dim_is_const(d)) return d.v < 0 ? SIGN_NEG : d.v == 0 ? SIGN_ZERO : SIGN_POS;
    /* Rows: batch, seq, past, others. */
    static const int64_t samples[][4] = {
        {1, 1, 0, 1},    {2, 1, 0, 2},    {1, 2, 0, 3},    {1, 1, 1, 1},    {3, 5, 7, 2},
        {1, 64, 0, 64},  {1, 1, 64, 1},   {7, 1, 3, 9},    {1, 900, 1, 1},  {1, 1, 900, 1},
        {2, 97, 31, 11}, {64, 1, 1, 400}, {1, 1, 0, 4000}, {5, 4001, 0, 1}, {1, 3, 4001, 5},
    };
    bool neg = false, zero = false, pos = false;
    for (size_t i = 0; i < COUNT_OF(samples); i++) {
        int64_t v = 0;
        if (!dim_sample(g, d, samples[i], &v)) return SIGN_UNKNOWN;
        neg |= v < 0;
        zero |= v == 0;
        pos |= v > 0;
    }
    if (neg && pos) return SIGN_UNKNOWN;
    if (neg) return zero ? SIGN_NONPOS : SIGN_NEG;
    if (pos) return zero ? SIGN_NONNEG : SIGN_POS;
    return SIGN_ZERO;
}

bool dim_less_equal(const Graph *g, Dim a, Dim b) {
    Sign s = dim_sign(g, dim_sub((Graph *)(uintptr_t)g, b, a));
    return s == SIGN_ZERO || s == SIGN_POS || s == SIGN_NONNEG;
}

/* ---- elementwise ---- */

static int64_t bool_of(bool known, bool value) { return !known ? -1 : value ? 1 : 0; }

/* 1, 0 or -1 for not known. */
static int64_t dim_compare(const Graph *g, const char *op, Dim a, Dim b) {
    Sign s = dim_sign(g, dim_sub((Graph *)(uintptr_t)g, a, b));
    bool neg = s == SIGN_NEG, zero = s == SIGN_ZERO, pos = s == SIGN_POS;
    bool le = neg || zero || s == SIGN_NONPOS, ge = pos || zero || s == SIGN_NONNEG;
    if (strcmp(op, "Equal") == 0) return bool_of(neg || zero || pos, zero);
    if (strcmp(op, "Less") == 0) return bool_of(neg || ge, neg);
    if (strcmp(op, "LessOrEqual") == 0) return bool_of(pos || le, le);
    if (strcmp(op, "Greater") == 0) return bool_of(pos || le, pos);
    return bool_of(neg || ge, ge);
}

static Dim dim_extreme(const Graph *g, bool want_max, Dim a, Dim b) {
    if (dim_less_equal(g, a, b)) return want_max ? b : a;
    if (dim_less_equal(g, b, a)) return want_max ? a : b;
    return DIM_UNKNOWN;
}

static Dim dim_quotient(Graph *g, Dim a, Dim b) {
    if (dim_is_const(a) && dim_is_const(b) && b.v != 0) return dim_const(a.v / b.v);
    return dim_div(g, a, b);
}

static Dim dim_remainder(Graph *g, Dim a, Dim b) {
    if (dim_is_const(a) && dim_is_const(b) && b.v != 0) {
        int64_t r = a.v % b.v;
        return dim_const(r != 0 && (r < 0) != (b.v < 0) ? r + b.v : r);
    }
    return dim_known(dim_div(g, a, b)) ? dim_const(0) : DIM_UNKNOWN;
}

static bool is_op(const Call *c, const char *op) { return strcmp(c->n->op, op) == 0; }

static Dim binary_dim(Call *c, Dim a, Dim b) {
    Graph *g = c->g;
    if (is_op(c, "Add") || is_op(c, "Sum")) return dim_add(g, a, b);
    if (is_op(c, "Sub")) return dim_sub(g, a, b);
    if (is_op(c, "Mul")) return dim_mul(g, a, b);
    if (is_op(c, "Div")) return dim_quotient(g, a, b);
    if (is_op(c, "Mod") && attr_int(c, "fmod", 0) == 0) return dim_remainder(g, a, b);
    if (is_op(c, "Min")) {
        Dim least = dim_extreme(g, false, a, b);
        if (dim_known(least) || dim_is_const(a) == dim_is_const(b)) return least;
        return dim_is_const(a) ? shape_cut(c->im, b, a.v) : shape_cut(c->im, a, b.v);
    }
    if (is_op(c, "Max")) {
        Dim most = dim_extreme(g, true, a, b);
        if (dim_known(most) || dim_is_const(a) == dim_is_const(b)) return most;
        return dim_is_const(a) ? shape_rest(c->im, b, a.v) : shape_rest(c->im, a, b.v);
    }
    if (is_op(c, "Equal") || is_op(c, "Less") || is_op(c, "LessOrEqual") || is_op(c, "Greater") ||
        is_op(c, "GreaterOrEqual")) {
        int64_t r = dim_compare(g, c->n->op, a, b);
        return r < 0 ? DIM_UNKNOWN : dim_const(r);
    }
    bool constant = dim_is_const(a) && dim_is_const(b);
    if (is_op(c, "And") && constant) return dim_const(a.v != 0 && b.v != 0);
    if (is_op(c, "Or") && constant) return dim_const(a.v != 0 || b.v != 0);
    if (is_op(c, "Xor") && constant) return dim_const((a.v != 0) != (b.v != 0));
    return DIM_UNKNOWN;
}

Dim shape_apply(Call *c, const Dim *x, size_t n) {
    if (is_op(c, "Where")) return !dim_is_const(x[0]) ? DIM_UNKNOWN : x[0].v != 0 ? x[1] : x[2];
    if (is_op(c, "Neg")) return dim_sub(c->g, dim_const(0), x[0]);
    if (is_op(c, "Abs")) {
        if (dim_less_equal(c->g, dim_const(0), x[0])) return x[0];
        return dim_is_const(x[0]) ? dim_const(-x[0].v) : DIM_UNKNOWN;
    }
    if (is_op(c, "Not")) return dim_is_const(x[0]) ? dim_const(x[0].v == 0) : DIM_UNKNOWN;
    Dim r = x[0];
    for (size_t i = 1; i < n && dim_known(r); i++) r = binary_dim(c, r, x[i]);
    return n == 1 && !is_op(c, "Min") && !is_op(c, "Max") && !is_op(c, "Sum") ? DIM_UNKNOWN : r;
}

static bool fits(DType t, Dim d) {
    if (!dim_known(d)) return false;
    if (!dim_is_const(d)) return t == DT_I64 || t == DT_I32;
    if (t == DT_BOOL) return d.v == 0 || d.v == 1;
    unsigned bits = 8 * (unsigned)dtype_size(t);
    if (bits == 64) return d.v < DIM_MAX && (dtype_class(t) == DC_INT || d.v >= 0) && d.v > -DIM_MAX;
    if (dtype_class(t) == DC_UINT) return d.v >= 0 && d.v < (int64_t)1 << bits;
    return d.v >= -((int64_t)1 << (bits - 1)) && d.v < (int64_t)1 << (bits - 1);
}

bool shape_elementwise(Call *c) {
    const Dim *x[8];
    uint32_t n[8], rank = 0, count = 1;
    if (c->n->nin == 0 || c->n->nin > COUNT_OF(x)) return false;
    for (size_t i = 0; i < c->n->nin; i++) {
        x[i] = in_has(c, i) ? in_dims(c, i, &n[i]) : NULL;
        if (x[i] == NULL) return false;
        if (in_type(c, i)->rank > rank) rank = in_type(c, i)->rank;
        if (n[i] != 1) {
            if (count != 1 && count != n[i]) return false;
            count = n[i];
        }
    }
    DType t = in_type(c, c->n->nin - 1)->dtype;
    if (is_op(c, "Equal") || is_op(c, "Less") || is_op(c, "LessOrEqual") || is_op(c, "Greater") ||
        is_op(c, "GreaterOrEqual"))
        t = DT_BOOL;
    Dim out[SHAPE_MAX];
    for (uint32_t e = 0; e < count; e++) {
        Dim args[8];
        for (size_t i = 0; i < c->n->nin; i++) args[i] = x[i][n[i] == 1 ? 0 : e];
        out[e] = shape_apply(c, args, c->n->nin);
        if (!fits(t, out[e])) return false;
    }
    return out_dims(c, 0, t, rank, out, count);
}

/* ---- movement ---- */

bool shape_gather(Call *c) {
    uint32_t n = 0, k = 0;
    const Dim *x = in_dims(c, 0, &n);
    if (x == NULL || in_type(c, 0)->rank != 1) return false;
    const Dim *index = in_dims(c, 1, &k);
    if (index == NULL) return false;
    Dim out[SHAPE_MAX];
    for (uint32_t i = 0; i < k; i++) {
        if (!dim_is_const(index[i])) return false;
        int64_t at = index[i].v < 0 ? index[i].v + n : index[i].v;
        if (at < 0 || at >= n) return false;
        out[i] = x[at];
    }
    return out_dims(c, 0, in_type(c, 0)->dtype, in_type(c, 1)->rank, out, k);
}

bool shape_slice(Call *c, const int64_t *start, const int64_t *end, const int64_t *step, size_t n) {
    uint32_t count = 0;
    const Dim *x = in_dims(c, 0, &count);
    if (x == NULL || in_type(c, 0)->rank != 1 || n != 1 || step[0] == 0) return false;
    int64_t len = count, a = start[0], b = end[0], s = step[0];
    a = a < 0 ? a + len : a;
    b = b < 0 ? b + len : b;
    int64_t low = s > 0 ? 0 : -1, high = s > 0 ? len : len - 1;
    a = a < 0 ? (s > 0 ? 0 : -1) : a > high ? high : a;
    b = b < low ? low : b > high ? high : b;
    Dim out[SHAPE_MAX];
    uint32_t k = 0;
    for (int64_t i = a; s > 0 ? i < b : i > b; i += s) {
        out[k++] = x[i];
        if (s > len || s < -len) break;
    }
    return out_dims(c, 0, in_type(c, 0)->dtype, 1, out, k);
}

bool shape_concat(Call *c) {
    Dim out[SHAPE_MAX];
    uint32_t count = 0;
    for (size_t i = 0; i < c->n->nin; i++) {
        uint32_t n = 0;
        const Dim *x = in_has(c, i) ? in_dims(c, i, &n) : NULL;
        if (x == NULL || in_type(c, i)->rank != 1 || count + n > SHAPE_MAX) return false;
        memcpy(out + count, x, n * sizeof(*x));
        count += n;
    }
    if (c->n->nin == 0) return false;
    return out_dims(c, 0, in_type(c, 0)->dtype, 1, out, count);
}

bool shape_reduce(Call *c, Op op, bool keep) {
    uint32_t n = 0;
    const Dim *x = in_dims(c, 0, &n);
    if (x == NULL || n == 0 || in_type(c, 0)->rank != 1 || !dtype_is_int(in_type(c, 0)->dtype)) return false;
    Dim r = x[0];
    for (uint32_t i = 1; i < n; i++) {
        switch (op) {
        case OP_REDUCE_SUM: r = dim_add(c->g, r, x[i]); break;
        case OP_REDUCE_PROD: r = dim_mul(c->g, r, x[i]); break;
        case OP_REDUCE_MAX: r = dim_extreme(c->g, true, r, x[i]); break;
        case OP_REDUCE_MIN: r = dim_extreme(c->g, false, r, x[i]); break;
        default: return false;
        }
    }
    return fits(in_type(c, 0)->dtype, r) && out_dims(c, 0, in_type(c, 0)->dtype, keep, &r, 1);
}

/* ---- reshape ---- */

typedef struct {
    Graph *g;
    Dim rest[MAX_RANK + 1]; /* product of the constant reading of target axes from i on */
    Dim *target;
    uint32_t end;
} Split;

/* Assigns dims to target axes [i, end) so that their product is `left`. Depth <= MAX_RANK. */
static bool split_axes(Split *s, uint32_t i, Dim left) {
    if (i == s->end) return dim_eq(left, dim_const(1));
    Dim number = s->target[i];
    if (!dim_is_const(left)) {
        for (uint32_t sym = 1; sym < s->g->symbols.count; sym++) {
            if (s->g->symbols.data[sym].literal != number.v) continue;
            Dim d = dim_sym(s->g, (SymId){sym}), quotient = dim_div(s->g, left, d);
            if (!dim_known(quotient)) continue;
            s->target[i] = d;
            if (split_axes(s, i + 1, quotient)) return true;
        }
        Dim d = dim_div(s->g, left, s->rest[i + 1]);
        if (dim_known(d) && !dim_is_const(d) && dim_literal(s->g, d) == number.v) {
            s->target[i] = d;
            if (split_axes(s, i + 1, s->rest[i + 1])) return true;
        }
    }
    s->target[i] = number;
    Dim quotient = dim_div(s->g, left, number);
    if (dim_known(quotient) && split_axes(s, i + 1, quotient)) return true;
    s->target[i] = number;
    return false;
}

/* Axes [i0, i1) of x hold as many elements as axes [j0, j1) of the target. */
static bool symbolise_group(Graph *g, const Type *x, uint32_t i0, uint32_t i1, Dim *target, uint32_t j0,
                            uint32_t j1) {
    Dim left = dim_const(1);
    for (uint32_t i = i0; i < i1; i++) left = dim_mul(g, left, x->dim[i]);
    if (!dim_known(left)) return false;
    if (dim_is_const(left)) return true;
    if (j1 == j0 + 1) {
        target[j0] = left;
        return true;
    }
    Split s = {.g = g, .target = target, .end = j1};
    s.rest[j1] = dim_const(1);
    for (uint32_t j = j1; j > j0; j--) s.rest[j - 1] = dim_mul(g, s.rest[j], target[j - 1]);
    return split_axes(&s, j0, left);
}

bool shape_symbolise(Graph *g, const Type *x, uint32_t n, Dim *target) {
    int64_t lit[MAX_RANK];
    for (uint32_t i = 0; i < x->rank; i++) {
        lit[i] = dim_literal(g, x->dim[i]);
        if (lit[i] <= 0) return false;
    }
    uint32_t i = 0, j = 0;
    while (i < x->rank || j < n) {
        uint32_t i0 = i, j0 = j;
        int64_t px = 1, pt = 1;
        if (i < x->rank) px = lit[i++];
        if (j < n) pt = target[j++].v;
        while (px != pt) {
            int64_t *p = px < pt ? &px : &pt;
            int64_t next = 0;
            if (p == &px) {
                if (i == x->rank) return false;
                next = lit[i++];
            } else {
                if (j == n) return false;
                next = target[j++].v;
            }
            if (next <= 0 || !mul_i64(*p, next, p)) return false;
        }
        /* Trailing ones belong to the last group. */
        if (j == n)
            while (i < x->rank && lit[i] == 1) i++;
        if (i == x->rank)
            while (j < n && target[j].v == 1) j++;
        if (i0 == i || j0 == j) {
            if (j0 == j && i0 < i)
                for (uint32_t k = i0; k < i; k++)
                    if (!dim_is_const(x->dim[k])) return false;
            continue;
        }
        if (!symbolise_group(g, x, i0, i, target, j0, j)) return false;
    }
    return true;
}

static bool all_const(const Dim *d, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (!dim_is_const(d[i])) return false;
    return true;
}

static bool reshape_fill(Call *c, const Type *x, Dim *out, uint32_t n, int hole) {
    Dim total = type_count(c->g, x), known = dim_const(1);
    for (uint32_t i = 0; i < n; i++)
        if ((int)i != hole) known = dim_mul(c->g, known, out[i]);
    if (hole < 0) return true;
    if (dim_eq(total, dim_const(0)) && dim_eq(known, dim_const(0))) {
        out[hole] = dim_const(0);
        return true;
    }
    out[hole] = dim_div(c->g, total, known);
    return dim_known(out[hole]);
}

/* The same in numbers, for graphs of fixed shape: fills -1, then symbols by factors. */
static bool reshape_fixed(Call *c, const Type *x, Dim *out, uint32_t n, int hole) {
    int64_t total = dim_literal(c->g, type_count(c->g, x)), known = 1;
    if (total <= 0 || !c->im->fixed) return false;
    Dim numbers[MAX_RANK];
    for (uint32_t i = 0; i < n; i++) {
        numbers[i] = dim_const((int)i == hole ? 1 : dim_literal(c->g, out[i]));
        if (numbers[i].v <= 0 || !mul_i64(known, numbers[i].v, &known)) return false;
    }
    if (total % known != 0 || (hole < 0 && total != known)) return false;
    if (hole >= 0) numbers[hole] = dim_const(total / known);
    if (!shape_symbolise(c->g, x, n, numbers)) return false;
    memcpy(out, numbers, n * sizeof(*out));
    return true;
}

/* A length that stands for nothing yet is what the others leave. */
static bool reshape_unify(Call *c, const Type *x, Dim *out, uint32_t n) {
    Type was = *x;
    Dim total = type_count(c->g, x);
    for (uint32_t i = 0; i < n; i++) {
        Dim rest = dim_const(1);
        for (uint32_t k = 0; k < n; k++)
            if (k != i) rest = dim_mul(c->g, rest, out[k]);
        Dim want = dim_div(c->g, total, rest);
        if (!dim_known(want) || dim_eq(want, out[i]) || !shape_unify(c->im, out[i], want)) continue;
        out[i] = want;
        return type_eq(x, &was);
    }
    return false;
}

bool shape_reshape_target(Call *c, const Type *x, const Dim *want, uint32_t n, bool allowzero, Dim *out) {
    if (n > MAX_RANK) return call_error(c, "target of rank %u is above the limit of %d", n, MAX_RANK);
    int hole = -1;
    for (uint32_t i = 0; i < n; i++) {
        out[i] = want[i];
        if (dim_is_const(want[i]) && want[i].v == 0 && !allowzero) {
            if (i >= x->rank) return call_error(c, "target axis %u copies an axis that is not there", i);
            out[i] = x->dim[i];
        } else if (dim_is_const(want[i]) && want[i].v == -1) {
            if (hole >= 0) return call_error(c, "the target has two axes of length -1");
            hole = (int)i;
        } else if (!dim_known(want[i]) || (dim_is_const(want[i]) && want[i].v < 0)) {
            return call_error(c, "the target's axis %u is no length", i);
        }
    }
    /* All numbers, in a graph of fixed shape: they stand for symbols wherever the operand has them. */
    Dim symbols[MAX_RANK];
    memcpy(symbols, out, sizeof(symbols));
    if (c->im->fixed && all_const(want, n) && !type_is_static(x) && reshape_fixed(c, x, symbols, n, hole)) {
        memcpy(out, symbols, n * sizeof(*out));
        return true;
    }
    if (reshape_fill(c, x, out, n, hole)) {
        Type t = type_make(x->dtype, n, out);
        if (dim_eq(type_count(c->g, &t), type_count(c->g, x))) return true;
        if (hole >= 0) out[hole] = dim_const(-1);
    }
    if (reshape_fixed(c, x, out, n, hole)) return true;
    if (hole < 0 && reshape_unify(c, x, out, n)) return true;
    Text text = text_new(c->im->scratch);
    type_print(&text, c->g, x);
    text_add(&text, " to [");
    for (uint32_t i = 0; i < n; i++) {
        text_add(&text, i == 0 ? "" : ", ");
        dim_print(&text, c->g, want[i]);
    }
    return call_error(c, "the target does not fit: %s]%s", text.data,
                      all_const(want, n) ? "; hint: export with dynamic axes" : "");
}
