/* integers.c: integers that activations are quantised to become floats that hold the same numbers.
 *
 *   %2 = quantize(%1, s, z)               ->  %5 = min(max(round(%1 / s) + z, low), high)
 *   %3 = matmul(%2 - z, cast(@w))         ->  %6 = matmul(%5 - z, dequantize(@w, 1))
 *   %4 = cast<f32>(%3)                        (%6 for %4)
 *
 * Integers up to 2^24 are exact in fp32, and so are sums, differences and products that stay below; ranges
 * are followed from the quantisation's own bounds. A product of matrices sums exact products in fp32, which
 * is the reordering of any other. Afterwards kernels see floats and compressed constant weights alone.
 * Quantize and dequantize of anything but weights are written out in any case.
 * leaves alone: integers without a bound, such as tokens and positions. */
#include <math.h>

#include "passes/rewrite.h"

#define EXACT 0x1p24
#define DEPTH 24
#define SMALL 4096

typedef struct {
    double low, high;
    bool whole; /* integers only */
} Range;

/* ---- ranges ---- */

static Range range_of_dtype(DType t) {
    Range r = {-INFINITY, INFINITY, dtype_is_int(t)};
    uint32_t bits = dtype_bits(t);
    if (!r.whole) return r;
    bool sign = dtype_class(t) == DC_INT;
    r.low = sign ? -ldexp(1, (int)bits - 1) : 0;
    r.high = ldexp(1, sign ? (int)bits - 1 : (int)bits) - 1;
    return r;
}

static Range range_of_constant(const Graph *g, ValId v) {
    Range r = range_of_dtype(graph_type(g, v)->dtype), all = {INFINITY, -INFINITY, true};
    size_t count = 0;
    double x = 0;
    if (!type_static_count(graph_type(g, v), &count) || count == 0 || count > (1 << 20)) return r;
    for (size_t i = 0; i < count && const_get_f64(g, v, i, &x); i++) {
        all.low = fmin(all.low, x);
        all.high = fmax(all.high, x);
        all.whole = all.whole && x == rint(x);
    }
    return all;
}

static Range hull(const double *x, size_t n, bool whole) {
    Range r = {INFINITY, -INFINITY, whole};
    for (size_t i = 0; i < n; i++) {
        if (isnan(x[i])) return (Range){-INFINITY, INFINITY, whole};
        r.low = fmin(r.low, x[i]);
        r.high = fmax(r.high, x[i]);
    }
    return r;
}

static Range range_of(const Graph *g, ValId v, uint32_t depth);

static Range range_pair(const Graph *g, const Node *n, uint32_t depth) {
    Range a = range_of(g, n->in[0], depth), b = range_of(g, n->in[1], depth);
    bool whole = a.whole && b.whole;
    switch (n->op) {
    case OP_ADD: return (Range){a.low + b.low, a.high + b.high, whole};
    case OP_SUB: return (Range){a.low - b.high, a.high - b.low, whole};
    case OP_MIN: return (Range){fmin(a.low, b.low), fmin(a.high, b.high), whole};
    case OP_MAX: return (Range){fmax(a.low, b.low), fmax(a.high, b.high), whole};
    default: break;
    }
    Range r = hull((double[]){a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high}, 4, whole);
    if (n->op == OP_MUL) return r;
    const Type *t = graph_type(g, n->in[0]); /* a product of matrices */
    Dim k = t->rank > 0 ? t->dim[t->rank - 1] : dim_const(1);
    double terms = dim_is_const(k) ? (double)k.v : INFINITY;
    return hull((double[]){r.low * terms, r.high * terms}, 2, whole);
}

static Range range_node(const Graph *g, const Node *n, Range own, uint32_t depth) {
    Range r = own;
    switch (n->op) {
    case OP_ADD:
    case OP_SUB:
    case OP_MIN:
    case OP_MAX:
    case OP_MUL:
    case OP_MATMUL: return range_pair(g, n, depth);
    case OP_NEG: r = range_of(g, n->in[0], depth); return (Range){-r.high, -r.low, r.whole};
    case OP_RELU: r = range_of(g, n->in[0], depth); return (Range){fmax(r.low, 0), fmax(r.high, 0), r.whole};
    case OP_ROUND:
    case OP_FLOOR:
    case OP_CEIL: r = range_of(g, n->in[0], depth); return (Range){floor(r.low), ceil(r.high), true};
    case OP_WHERE: {
        Range a = range_of(g, n->in[1], depth), b = range_of(g, n->in[2], depth);
        return (Range){fmin(a.low, b.low), fmax(a.high, b.high), a.whole && b.whole};
    }
    case OP_CAST:
        r = range_of(g, n->in[0], depth);
        if (own.whole) r = (Range){trunc(r.low), trunc(r.high), true};
        return r;
    case OP_RESHAPE:
    case OP_TRANSPOSE:
    case OP_BROADCAST:
    case OP_SLICE:
    case OP_GATHER: return range_of(g, n->in[0], depth);
    default: return own;
    }
}

/* What v lies in. An integer that may have wrapped around has its dtype's range. */
static Range range_of(const Graph *g, ValId v, uint32_t depth) {
    Range own = range_of_dtype(graph_type(g, v)->dtype);
    if (graph_constant(g, v)) return range_of_constant(g, v);
    NodeId id = graph_def(g, v);
    if (!node_ok(id) || depth == 0) return own;
    Range r = range_node(g, graph_node(g, id), own, depth - 1);
    if (own.whole && !(r.low >= own.low && r.high <= own.high)) return own;
    return r;
}

static bool fits(Range r, double most) { return r.low >= -most && r.high <= most; }

/* ---- the floats that hold an integer value's numbers; NO_VAL when they may not ---- */

static ValId to_f32(Rewrite *r, ValId v) {
    if (!val_ok(v) || graph_type(r->g, v)->dtype == DT_F32) return v;
    Type t = *graph_type(r->g, v);
    t.dtype = DT_F32;
    return rw_typed(r, OP_CAST, v, &t);
}

static ValId dequantized(Rewrite *r, ValId w, ValId zero, uint32_t axis) {
    ValId one = rw_scalar(r, DT_F32, 1), in[3] = {w, one, zero};
    Attr a = attr_default();
    if (val_ok(zero) && graph_type(r->g, zero)->rank == 1) { /* a zero per axis asks for such scales */
        Type t = *graph_type(r->g, zero);
        t.dtype = DT_F32;
        in[1] = rw_typed(r, OP_BROADCAST, one, &t);
        a.axis = axis;
    }
    return val_ok(in[1]) ? rw_add(r, OP_DEQUANTIZE, in, 3, &a, NULL) : NO_VAL;
}

static ValId floats_of_constant(Rewrite *r, ValId v) {
    size_t count = 0;
    const Type *t = graph_type(r->g, v);
    bool narrow = dtype_bits(t->dtype) <= 8 && dtype_is_int(t->dtype);
    if (narrow && type_static_count(t, &count) && count > SMALL) return dequantized(r, v, NO_VAL, 0);
    return fits(range_of_constant(r->g, v), EXACT) ? to_f32(r, v) : NO_VAL;
}

/* cast(@w) - zero -> dequantize(@w, 1, zero) */
static ValId weight_less_zero(Rewrite *r, const Node *n) {
    Graph *g = r->g;
    Node *cast = NULL;
    ValId zero = n->in[1];
    if (n->op != OP_SUB || !match_op(g, n->in[0], OP_CAST, &cast) || !graph_constant(g, cast->in[0]))
        return NO_VAL;
    ValId w = cast->in[0];
    const Type *tw = graph_type(g, w), *tz = graph_type(g, zero);
    Range z = range_of(g, zero, DEPTH), own = range_of_dtype(tw->dtype);
    uint32_t axis = tw->rank - 1u;
    bool column = tz->rank == 1 && tw->rank == 2 && dim_eq(tz->dim[0], tw->dim[axis]);
    if (!value_is_weight(g, zero) || !own.whole || dtype_bits(tw->dtype) > 8) return NO_VAL;
    if ((tz->rank != 0 && !column) || z.low < own.low || z.high > own.high) return NO_VAL;
    Type t = *tz;
    t.dtype = tw->dtype;
    return dequantized(r, w, rw_typed(r, OP_CAST, zero, &t), axis);
}

static ValId floats_of(Rewrite *r, ValId v, uint32_t depth);

static ValId floats_of_elementwise(Rewrite *r, Node n, ValId v, uint32_t depth) {
    ValId w = weight_less_zero(r, &n);
    if (val_ok(w)) return w;
    Range own = range_of_dtype(graph_type(r->g, v)->dtype), all = range_node(r->g, &n, own, DEPTH);
    double most = n.op == OP_MATMUL ? 0x1p31 : EXACT;
    if (all.low < own.low || all.high > own.high) return NO_VAL; /* may wrap around */
    if (!fits(all, most - 1)) return NO_VAL;
    ValId in[3] = {n.in[0], n.nin > 1 ? n.in[1] : NO_VAL, n.nin > 2 ? n.in[2] : NO_VAL};
    for (uint32_t i = n.op == OP_WHERE ? 1 : 0; i < n.nin; i++) {
        in[i] = floats_of(r, in[i], depth);
        if (!val_ok(in[i])) return NO_VAL;
    }
    return rw_add(r, n.op, in, n.nin, &n.attr, NULL);
}

static ValId floats_of_move(Rewrite *r, Node n, ValId v, uint32_t depth) {
    Type t = *graph_type(r->g, v);
    t.dtype = DT_F32;
    ValId *in = arena_array_of(r->cx->scratch, n.nin, ValId);
    for (uint32_t i = 0; i < n.nin; i++) {
        in[i] = n.op == OP_GATHER && i == 1 ? n.in[i] : floats_of(r, n.in[i], depth);
        if (!val_ok(in[i])) return NO_VAL;
    }
    bool typed = (op_info(n.op)->flags & F_TYPED) != 0;
    return rw_add(r, n.op, in, n.nin, &n.attr, typed ? &t : NULL);
}

static ValId floats_of_cast(Rewrite *r, Node n, ValId v, uint32_t depth) {
    DType to = graph_type(r->g, v)->dtype;
    Range x = range_of(r->g, n.in[0], DEPTH), own = range_of_dtype(to);
    if (!x.whole || x.low < own.low || x.high > own.high || !fits(x, EXACT)) return NO_VAL;
    if (dtype_is_float(graph_type(r->g, n.in[0])->dtype)) return to_f32(r, n.in[0]);
    return floats_of(r, n.in[0], depth);
}

static ValId floats_of(Rewrite *r, ValId v, uint32_t depth) {
    DType t = graph_type(r->g, v)->dtype;
    if (!dtype_is_int(t)) return NO_VAL;
    if (graph_constant(r->g, v)) return floats_of_constant(r, v);
    NodeId id = graph_def(r->g, v);
    if (!node_ok(id) || depth-- == 0) return NO_VAL;
    Node n = *graph_node(r->g, id);
    switch (n.op) {
    case OP_CAST: return floats_of_cast(r, n, v, depth);
    case OP_ADD:
    case OP_SUB:
    case OP_MUL:
    case OP_MIN:
    case OP_MAX:
    case OP_NEG:
    case OP_RELU:
    case OP_WHERE:
    case OP_MATMUL: return floats_of_elementwise(r, n, v, depth);
    case OP_RESHAPE:
    case OP_TRANSPOSE:
    case OP_BROADCAST:
    case OP_SLICE:
    case OP_CONCAT:
    case OP_GATHER: return floats_of_move(r, n, v, depth);
    default: return NO_VAL;
    }
}

/* ---- rules ---- */

/* A scale or zero point, as fp32 that broadcasts with x. */
static ValId beside(Rewrite *r, ValId v, const Type *x, const Attr *a) {
    v = to_f32(r, v);
    if (!val_ok(v)) return v;
    Type t = *graph_type(r->g, v), wide = t;
    if (t.rank == 0) return v;
    if (a->block == 0) {
        wide = type_make(DT_F32, x->rank, x->dim);
        for (uint32_t i = 0; i < x->rank; i++)
            if (i != (uint32_t)a->axis) wide.dim[i] = dim_const(1);
        return rw_reshape(r, v, &wide);
    }
    if (t.rank == MAX_RANK) return NO_VAL;
    wide.rank++;
    for (uint32_t i = t.rank; i > (uint32_t)a->axis; i--)
        wide.dim[i] = i - 1 == (uint32_t)a->axis ? dim_const(1) : t.dim[i - 1];
    v = rw_reshape(r, v, &wide);
    wide.dim[a->axis + 1] = dim_const(a->block);
    if (val_ok(v)) v = rw_typed(r, OP_BROADCAST, v, &wide);
    t.dim[a->axis] = dim_mul(r->g, t.dim[a->axis], dim_const(a->block));
    v = rw_reshape(r, v, &t);
    if (!val_ok(v) || type_dims_eq(&t, x)) return v;
    Attr whole = attr_default();
    t.dim[a->axis] = x->dim[a->axis];
    return rw_add(r, OP_SLICE, &v, 1, &whole, &t);
}

/* quantize(transpose(@w)) -> transpose(quantize(@w)), which folds */
static ValId quantize_weight(Rewrite *r, Node n) {
    Node *t = NULL;
    if (!match_op(r->g, n.in[0], OP_TRANSPOSE, &t) || graph_type(r->g, n.in[1])->rank != 0) return NO_VAL;
    Attr perm = t->attr;
    Type type = *graph_type(r->g, t->in[0]);
    type.dtype = graph_type(r->g, n.out[0])->dtype;
    ValId in[3] = {t->in[0], n.in[1], n.nin > 2 ? n.in[2] : NO_VAL};
    ValId q = rw_add(r, OP_QUANTIZE, in, n.nin, &n.attr, &type);
    return val_ok(q) ? rw_transpose(r, q, perm.perm) : NO_VAL;
}

/* quantize(x, s, z) -> cast(min(max(round(x / s) + z, low), high)) */
static ValId write_quantize(Rewrite *r, NodeId id) {
    Node n = *graph_node(r->g, id);
    if (value_is_weight(r->g, n.in[0]) && value_is_weight(r->g, n.in[1])) return quantize_weight(r, n);
    Type x = *graph_type(r->g, n.in[0]), to = *graph_type(r->g, n.out[0]);
    Range all = range_of_dtype(to.dtype);
    ValId v = rw_binary(r, OP_DIV, to_f32(r, n.in[0]), beside(r, n.in[1], &x, &n.attr));
    v = rw_unary(r, OP_ROUND, v);
    if (n.nin > 2) v = rw_binary(r, OP_ADD, v, beside(r, n.in[2], &x, &n.attr));
    v = rw_binary(r, OP_MAX, v, rw_scalar(r, DT_F32, all.low));
    v = rw_binary(r, OP_MIN, v, rw_scalar(r, DT_F32, all.high));
    return rw_typed(r, OP_CAST, v, &to);
}

/* dequantize(gather(@w, i), s, z) -> gather(dequantize(@w, s, z), i) */
static ValId dequantize_gather(Rewrite *r, Node n) {
    Node *pick = NULL;
    if (!match_op(r->g, n.in[0], OP_GATHER, &pick) || !value_is_weight(r->g, pick->in[0])) return NO_VAL;
    if (graph_type(r->g, n.in[1])->rank != 0) return NO_VAL;
    Attr a = pick->attr;
    ValId in[3] = {pick->in[0], n.in[1], n.nin > 2 ? n.in[2] : NO_VAL}, row[2] = {NO_VAL, pick->in[1]};
    row[0] = rw_add(r, OP_DEQUANTIZE, in, n.nin, &n.attr, NULL);
    return val_ok(row[0]) ? rw_add(r, OP_GATHER, row, 2, &a, NULL) : NO_VAL;
}

/* dequantize(x, s, z) -> (x - z) * s, unless it is a weight */
static ValId write_dequantize(Rewrite *r, NodeId id) {
    Node n = *graph_node(r->g, id);
    if (value_is_weight(r->g, n.out[0]) || n.nin > 3) return NO_VAL;
    ValId v = dequantize_gather(r, n);
    if (val_ok(v)) return v;
    Type x = *graph_type(r->g, n.in[0]), to = *graph_type(r->g, n.out[0]);
    v = floats_of(r, n.in[0], DEPTH);
    if (!val_ok(v)) v = to_f32(r, n.in[0]);
    if (n.nin > 2) v = rw_binary(r, OP_SUB, v, beside(r, n.in[2], &x, &n.attr));
    v = rw_binary(r, OP_MUL, v, beside(r, n.in[1], &x, &n.attr));
    return to.dtype == DT_F32 || !val_ok(v) ? v : rw_typed(r, OP_CAST, v, &to);
}

/* cast<float>(integers) -> the floats that hold them */
static ValId cast_back(Rewrite *r, NodeId id) {
    Node n = *graph_node(r->g, id);
    Type to = *graph_type(r->g, n.out[0]);
    if (!dtype_is_float(to.dtype) || !dtype_is_int(graph_type(r->g, n.in[0])->dtype)) return NO_VAL;
    if (graph_constant(r->g, n.in[0])) return NO_VAL; /* fold's business */
    ValId v = floats_of(r, n.in[0], DEPTH);
    return to.dtype == DT_F32 || !val_ok(v) ? v : rw_typed(r, OP_CAST, v, &to);
}

PassResult pass_integers(PassCtx *cx, Graph *g) {
    static const Rule rules[] = {
        {OP_QUANTIZE, "quantize(x) -> cast(clamp(round(x / s) + z))", write_quantize},
        {OP_DEQUANTIZE, "dequantize(x) -> (x - z) * s", write_dequantize},
        {OP_CAST, "cast<float>(integers) -> floats", cast_back},
    };
    const RuleSet sets[] = {{rules, COUNT_OF(rules)}, fold_rules};
    return rewrite_run(cx, g, sets, COUNT_OF(sets), 16, "integers as floats");
}
