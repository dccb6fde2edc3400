/* onnx_ops_reduce.c: ONNX reductions, sums along an axis, softmax and top-k. */
#include <string.h>

#include "frontend/import.h"

typedef struct {
    ValId x;
    DType t;
    uint32_t axes;
    bool keep, none;
} Reduce;

/* Axes are an attribute up to opset 12 (ReduceSum) or 17 (the others), then an input. */
static bool reduce_begin(Call *c, Reduce *r) {
    r->x = in_val(c, 0);
    if (!val_ok(r->x)) return false;
    const Type *t = type_of(c, r->x);
    r->t = t->dtype;
    r->axes = 0;
    r->keep = attr_int(c, "keepdims", 1) != 0;
    size_t n = 0;
    const int64_t *axes = attr_ints(c, "axes", &n);
    if (in_has(c, 1) && !in_ints(c, 1, "the axes", &axes, &n)) return false;
    for (size_t i = 0; i < n; i++) {
        uint32_t a = 0;
        if (!axis_norm(c, axes[i], t->rank, &a)) return false;
        r->axes |= 1u << a;
    }
    r->none = n == 0 && attr_int(c, "noop_with_empty_axes", 0) != 0;
    if (n == 0 && !r->none) r->axes = (1u << t->rank) - 1;
    return true;
}

static ValId reduce(Call *c, const Reduce *r, Op op, ValId v) {
    if (!val_ok(v) || r->axes == 0) return v;
    bool flag = type_of(c, v)->dtype == DT_BOOL; /* max and min of bools are or and and */
    if (!flag) return emit_reduce(c, op, v, r->axes, r->keep);
    return emit_cast(c, emit_reduce(c, op, emit_cast(c, v, DT_U8), r->axes, r->keep), DT_BOOL);
}

static bool lower_reduce(Call *c) {
    if (in_has(c, 0)) {
        Op op = (Op)c->arg;
        bool plain = !in_has(c, 1) && attr_find(c, "axes") == NULL;
        uint32_t n = 0;
        const Dim *axis = in_has(c, 1) ? in_dims(c, 1, &n) : NULL;
        size_t k = 0;
        const int64_t *at = attr_ints(c, "axes", &k);
        bool whole = plain || (axis != NULL && n == 1) || (at != NULL && k == 1);
        if (whole && attr_int(c, "noop_with_empty_axes", 0) == 0 &&
            shape_reduce(c, op, attr_int(c, "keepdims", 1) != 0))
            return true;
    }
    Reduce r;
    return reduce_begin(c, &r) && out_val(c, 0, reduce(c, &r, (Op)c->arg, r.x));
}

enum { L1, L2, SUM_SQUARE, LOG_SUM, LOG_SUM_EXP };

static bool lower_reduce_with(Call *c) {
    Reduce r;
    if (!reduce_begin(c, &r)) return false;
    ValId x = r.x, v = NO_VAL;
    switch (c->arg) {
    case L1: v = reduce(c, &r, OP_REDUCE_SUM, emit1(c, OP_ABS, x)); break;
    case SUM_SQUARE: v = reduce(c, &r, OP_REDUCE_SUM, emit2(c, OP_MUL, x, x)); break;
    case L2: {
        v = reduce(c, &r, OP_REDUCE_SUM, emit2(c, OP_MUL, x, x));
        if (dtype_is_float(r.t))
            v = emit1(c, OP_SQRT, v);
        else
            v = emit_cast(c, emit1(c, OP_SQRT, emit_cast(c, v, DT_F64)), r.t);
        break;
    }
    case LOG_SUM: v = emit1(c, OP_LOG, reduce(c, &r, OP_REDUCE_SUM, x)); break;
    case LOG_SUM_EXP: {
        /* The maximum is taken out, so that large numbers do not overflow; an infinite one is not. */
        Reduce kept = r;
        kept.keep = true;
        ValId max = reduce(c, &kept, OP_REDUCE_MAX, x), zero = emit_scalar(c, r.t, 0);
        if (!val_ok(max)) return false;
        max = emit3(c, OP_WHERE, emit1(c, OP_ISINF, max), zero, max);
        ValId sum = reduce(c, &kept, OP_REDUCE_SUM, emit1(c, OP_EXP, emit2(c, OP_SUB, x, max)));
        v = emit2(c, OP_ADD, emit1(c, OP_LOG, sum), max);
        /* Drops the axes that were kept for broadcasting. */
        if (!r.keep && val_ok(v) && r.axes != 0) {
            Dim dims[MAX_RANK];
            uint32_t rank = 0;
            for (uint32_t i = 0; i < type_of(c, v)->rank; i++)
                if ((r.axes >> i & 1) == 0) dims[rank++] = type_of(c, v)->dim[i];
            v = emit_reshape(c, v, rank, dims);
        }
        break;
    }
    default: break;
    }
    return out_val(c, 0, v);
}

/* Over all axes behind the second. */
static bool lower_global_pool(Call *c) {
    ValId v = in_val(c, 0);
    if (!val_ok(v)) return false;
    uint32_t rank = type_of(c, v)->rank;
    if (rank < 3) return call_error(c, "the operand has rank %u, not 3 or more", rank);
    return out_val(c, 0, emit_reduce(c, (Op)c->arg, v, ((1u << rank) - 1) & ~3u, true));
}

static bool lower_arg(Call *c) {
    ValId v = in_val(c, 0);
    Attr a = attr_default();
    uint32_t axis = 0;
    if (!val_ok(v) || !axis_norm(c, attr_int(c, "axis", 0), type_of(c, v)->rank, &axis)) return false;
    a.axis = axis;
    a.keep = attr_int(c, "keepdims", 1) != 0;
    a.last = attr_int(c, "select_last_index", 0) != 0;
    return out_val(c, 0, emit(c, (Op)c->arg, &v, 1, &a, NULL));
}

static bool lower_cumsum(Call *c) {
    ValId v = in_val(c, 0);
    Attr a = attr_default();
    int64_t given = 0;
    uint32_t axis = 0;
    if (!val_ok(v) || !in_int(c, 1, "the axis", &given) || !axis_norm(c, given, type_of(c, v)->rank, &axis))
        return false;
    a.axis = axis;
    a.exclusive = attr_int(c, "exclusive", 0) != 0;
    a.reverse = attr_int(c, "reverse", 0) != 0;
    return out_val(c, 0, emit(c, OP_CUMSUM, &v, 1, &a, NULL));
}

/* Before opset 13 all axes from `axis` on are taken as one. */
static bool softmax_old(Call *c, ValId v, ValId *out) {
    Type t = *type_of(c, v);
    int64_t axis = attr_int(c, "axis", 1);
    if (axis < 0) axis += t.rank;
    if (axis < 0 || axis > t.rank) return call_error(c, "axis is outside rank %u", t.rank);
    Dim dims[MAX_RANK], tail = dim_const(1);
    for (uint32_t i = 0; i < t.rank; i++) {
        dims[i] = t.dim[i];
        if (i >= (uint32_t)axis) tail = dim_mul(c->g, tail, t.dim[i]);
    }
    if ((uint32_t)axis == t.rank && axis > 0) axis--, tail = t.dim[axis];
    dims[axis] = tail;
    Attr a = attr_default();
    a.axis = axis;
    ValId flat = emit_reshape(c, v, (uint32_t)axis + 1, dims);
    *out = emit_reshape(c, emit(c, OP_SOFTMAX, &flat, 1, &a, NULL), t.rank, t.dim);
    return val_ok(*out);
}

static bool lower_softmax(Call *c) {
    ValId v = in_val(c, 0), r = NO_VAL;
    if (!val_ok(v)) return false;
    if (c->version < 13) {
        if (!softmax_old(c, v, &r)) return false;
    } else {
        Attr a = attr_default();
        uint32_t axis = 0;
        if (!axis_norm(c, attr_int(c, "axis", -1), type_of(c, v)->rank, &axis)) return false;
        a.axis = axis;
        r = emit(c, OP_SOFTMAX, &v, 1, &a, NULL);
    }
    return out_val(c, 0, r);
}

/* x - max - log(sum(exp(x - max))) */
static bool lower_log_softmax(Call *c) {
    ValId v = in_val(c, 0);
    if (!val_ok(v)) return false;
    Type t = *type_of(c, v);
    uint32_t axis = 0;
    int64_t def = c->version < 13 ? 1 : -1;
    if (!axis_norm(c, attr_int(c, "axis", def), t.rank, &axis)) return false;
    uint32_t axes = 1u << axis;
    if (c->version < 13)
        for (uint32_t i = axis; i < t.rank; i++) axes |= 1u << i;
    v = emit2(c, OP_SUB, v, emit_reduce(c, OP_REDUCE_MAX, v, axes, true));
    ValId sum = emit_reduce(c, OP_REDUCE_SUM, emit1(c, OP_EXP, v), axes, true);
    return out_val(c, 0, emit2(c, OP_SUB, v, emit1(c, OP_LOG, sum)));
}

static bool lower_topk(Call *c) {
    ValId v = in_val(c, 0);
    Attr a = attr_default();
    uint32_t axis = 0;
    int64_t k = attr_int(c, "k", 0);
    if (!val_ok(v) || !axis_norm(c, attr_int(c, "axis", -1), type_of(c, v)->rank, &axis)) return false;
    if (c->version >= 10 && !in_int(c, 1, "k", &k)) return false;
    a.axis = axis;
    a.count = k;
    a.smallest = attr_int(c, "largest", 1) == 0;
    ValId best = emit(c, OP_TOPK, &v, 1, &a, NULL);
    if (!val_ok(best)) return false;
    return out_val(c, 0, best) && out_val(c, 1, graph_node(c->g, graph_def(c->g, best))->out[1]);
}

const OpRule onnx_rules_reduce[] = {
    {"", "ReduceSum", 1, 0, lower_reduce, OP_REDUCE_SUM, T_NUMBERS},
    {"", "ReduceMean", 1, 0, lower_reduce, OP_REDUCE_MEAN, T_NUMBERS},
    {"", "ReduceMax", 1, 0, lower_reduce, OP_REDUCE_MAX},
    {"", "ReduceMin", 1, 0, lower_reduce, OP_REDUCE_MIN},
    {"", "ReduceProd", 1, 0, lower_reduce, OP_REDUCE_PROD, T_NUMBERS},
    {"", "ReduceL1", 1, 0, lower_reduce_with, L1, T_NUMBERS},
    {"", "ReduceL2", 1, 0, lower_reduce_with, L2, T_NUMBERS},
    {"", "ReduceSumSquare", 1, 0, lower_reduce_with, SUM_SQUARE, T_NUMBERS},
    {"", "ReduceLogSum", 1, 0, lower_reduce_with, LOG_SUM, T_FLOATS},
    {"", "ReduceLogSumExp", 1, 0, lower_reduce_with, LOG_SUM_EXP, T_FLOATS},
    {"", "GlobalAveragePool", 1, 0, lower_global_pool, OP_REDUCE_MEAN, T_FLOATS},
    {"", "GlobalMaxPool", 1, 0, lower_global_pool, OP_REDUCE_MAX, T_FLOATS},
    {"", "ArgMax", 1, 0, lower_arg, OP_ARGMAX, T_NUMBERS},
    {"", "ArgMin", 1, 0, lower_arg, OP_ARGMIN, T_NUMBERS},
    {"", "CumSum", 11, 0, lower_cumsum, 0, T_NUMBERS, "the axis must be known when compiling"},
    {"", "Softmax", 1, 0, lower_softmax, 0, T_FLOATS, "before opset 13 over all axes from axis on"},
    {"", "LogSoftmax", 1, 0, lower_log_softmax, 0, T_FLOATS, "before opset 13 over all axes from axis on"},
    {"", "TopK", 1, 0, lower_topk, 0, T_NUMBERS, "k must be known when compiling"},
    {0},
};
