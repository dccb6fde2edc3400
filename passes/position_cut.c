/* position_cut.c: one row of a value, without computing the others.
 *
 * A mask of a long context is a square that nobody can hold (17 GB of indices at 32k). A slice of its
 * query axis is pushed upward through what computes it instead, until it reaches index vectors and
 * constants. Where an op does not let it through, the whole operand is computed and sliced if it is no
 * square itself. */
#include <string.h>

#include "passes/raise.h"

#define CUT_DEPTH 400

typedef struct {
    ValId v;
    uint32_t axis;
    int64_t q;
    ValId out;
} CutMemo;
typedef struct {
    Graph *g;
    const int64_t *bind;
    size_t nbind;
    Arena *scratch;
    Diag *d;
    VEC(CutMemo) memo;
    uint32_t depth;
} Cut;

static ValId cut(Cut *c, ValId v, uint32_t axis, int64_t q);

static bool is_one(Dim d) { return dim_is_const(d) && d.v == 1; }

static ValId whole_sliced(Cut *c, ValId v, uint32_t axis, int64_t q) {
    Graph *g = c->g;
    Type t = *graph_type(g, v);
    uint32_t symbolic = 0;
    for (uint32_t i = 0; i < t.rank; i++)
        symbolic += dim_depends(g, t.dim[i], SYM_SEQ) || dim_depends(g, t.dim[i], SYM_PAST);
    if (symbolic > 1) return NO_VAL;
    Attr a = attr_default();
    for (uint32_t i = 0; i < t.rank; i++) {
        a.starts[i] = dim_const(i == axis ? q : 0);
        a.steps[i] = 1;
    }
    t.dim[axis] = dim_const(1);
    return graph_add(g, OP_SLICE, &v, 1, &a, &t, loc_none(), c->d);
}

/* An operand of an elementwise op whose result is cut at axis of rank. */
static ValId cut_operand(Cut *c, ValId x, uint32_t rank, uint32_t axis, int64_t q) {
    const Type *t = graph_type(c->g, x);
    if (axis < rank - t->rank) return x;
    uint32_t at = axis - (rank - t->rank);
    return is_one(t->dim[at]) ? x : cut(c, x, at, q);
}

static ValId rebuild(Cut *c, const Node *n, const ValId *in, uint32_t axis) {
    Type t = *graph_type(c->g, n->out[0]);
    if (axis < t.rank) t.dim[axis] = dim_const(1);
    for (uint32_t i = 0; i < n->nin; i++)
        if (!val_ok(in[i])) return NO_VAL;
    return graph_add(c->g, n->op, in, n->nin, &n->attr, &t, n->loc, c->d);
}

static ValId cut_elementwise(Cut *c, const Node *n, uint32_t axis, int64_t q) {
    ValId in[4] = {NO_VAL};
    uint32_t rank = graph_type(c->g, n->out[0])->rank;
    for (uint32_t i = 0; i < n->nin && i < COUNT_OF(in); i++) in[i] = cut_operand(c, n->in[i], rank, axis, q);
    return rebuild(c, n, in, axis);
}

/* The operand's axis that a reshape keeps whole, or -1. */
static int reshape_axis(Graph *g, const Type *from, const Type *to, uint32_t axis) {
    Dim before = dim_const(1), run = dim_const(1);
    for (uint32_t i = 0; i < axis; i++) before = dim_mul(g, before, to->dim[i]);
    for (uint32_t i = 0; i < from->rank; i++) {
        if (dim_eq(run, before) && dim_eq(from->dim[i], to->dim[axis])) return (int)i;
        run = dim_mul(g, run, from->dim[i]);
    }
    return -1;
}

static ValId cut_reshape(Cut *c, const Node *n, uint32_t axis, int64_t q) {
    int at = reshape_axis(c->g, graph_type(c->g, n->in[0]), graph_type(c->g, n->out[0]), axis);
    if (at < 0) return whole_sliced(c, n->out[0], axis, q);
    ValId in = cut(c, n->in[0], (uint32_t)at, q);
    return rebuild(c, n, &in, axis);
}

static ValId cut_slice(Cut *c, const Node *n, uint32_t axis, int64_t q) {
    int64_t start, row;
    Node copy = *n;
    if (!dim_eval(c->g, n->attr.starts[axis], c->bind, c->nbind, &start)) return NO_VAL;
    if (!mul_i64(q, n->attr.steps[axis], &row) || !add_i64(row, start, &row) || row < 0) return NO_VAL;
    ValId in = is_one(graph_type(c->g, n->in[0])->dim[axis]) ? n->in[0] : cut(c, n->in[0], axis, row);
    copy.attr.starts[axis] = dim_const(0);
    copy.attr.steps[axis] = 1;
    return rebuild(c, &copy, &in, axis);
}

static ValId cut_concat(Cut *c, const Node *n, uint32_t axis, int64_t q) {
    if ((uint32_t)n->attr.axis == axis) {
        for (uint32_t i = 0; i < n->nin; i++) {
            int64_t len;
            if (!dim_eval(c->g, graph_type(c->g, n->in[i])->dim[axis], c->bind, c->nbind, &len))
                return NO_VAL;
            if (q < len) return cut(c, n->in[i], axis, q);
            q -= len;
        }
        return NO_VAL;
    }
    ValId *in = arena_array_of(c->scratch, n->nin, ValId);
    for (uint32_t i = 0; i < n->nin; i++) in[i] = cut(c, n->in[i], axis, q);
    return rebuild(c, n, in, axis);
}

static ValId cut_gather(Cut *c, const Node *n, uint32_t axis, int64_t q) {
    ValId in[2] = {n->in[0], n->in[1]};
    uint32_t a = (uint32_t)n->attr.axis, r = graph_type(c->g, n->in[1])->rank;
    if (n->op == OP_GATHER_ND) {
        if (n->attr.batch_dims != 0 || axis + 1 >= r) return whole_sliced(c, n->out[0], axis, q);
        in[1] = cut(c, in[1], axis, q);
    } else if (axis >= a && axis < a + r) {
        in[1] = cut(c, in[1], axis - a, q);
    } else {
        in[0] = cut(c, in[0], axis < a ? axis : axis - r + 1, q);
    }
    return rebuild(c, n, in, axis);
}

/* tril and triu of one row: a comparison of column numbers with the row's. */
static ValId cut_triangle(Cut *c, const Node *n, uint32_t axis, int64_t q) {
    Graph *g = c->g;
    Type t = *graph_type(g, n->out[0]);
    if (axis + 1 == t.rank) return whole_sliced(c, n->out[0], axis, q);
    ValId x = cut(c, n->in[0], axis, q);
    if (!val_ok(x)) return NO_VAL;
    if (axis + 2 != t.rank) return rebuild(c, n, &x, axis);
    Type col = type_make(DT_I64, 1, &t.dim[t.rank - 1]);
    ValId k = graph_add(g, OP_IOTA, NULL, 0, NULL, &col, n->loc, c->d);
    ValId edge = graph_const_i64(g, q + n->attr.diagonal);
    ValId pair[2] = {n->op == OP_TRIL ? k : edge, n->op == OP_TRIL ? edge : k};
    Type zt = type_scalar(t.dtype);
    ValId zero = graph_const_i64(g, 0);
    zero = graph_add(g, OP_CAST, &zero, 1, NULL, &zt, n->loc, c->d);
    ValId keep = val_ok(k) ? graph_add(g, OP_LE, pair, 2, NULL, NULL, n->loc, c->d) : NO_VAL;
    ValId in[3] = {keep, x, zero};
    return val_ok(keep) && val_ok(zero) ? graph_add(g, OP_WHERE, in, 3, NULL, NULL, n->loc, c->d) : NO_VAL;
}

static ValId cut_iota(Cut *c, const Node *n, uint32_t axis, int64_t q) {
    if ((uint32_t)n->attr.axis != axis) return rebuild(c, n, NULL, axis);
    ValId zero = rebuild(c, n, NULL, axis), at = graph_const_i64(c->g, q);
    Type t = type_scalar(graph_type(c->g, n->out[0])->dtype);
    if (t.dtype != DT_I64) at = graph_add(c->g, OP_CAST, &at, 1, NULL, &t, n->loc, c->d);
    ValId in[2] = {zero, at};
    return val_ok(zero) && val_ok(at) ? graph_add(c->g, OP_ADD, in, 2, NULL, NULL, n->loc, c->d) : NO_VAL;
}

static ValId cut_reduce(Cut *c, const Node *n, uint32_t axis, int64_t q) {
    const Type *x = graph_type(c->g, n->in[0]);
    uint32_t at = 0, seen = 0;
    for (at = 0; at < x->rank; at++) {
        bool gone = (n->attr.axes >> at & 1u) && !n->attr.keep;
        if (gone) continue;
        if (seen++ == axis) break;
    }
    if (at == x->rank || (n->attr.axes >> at & 1u)) return whole_sliced(c, n->out[0], axis, q);
    ValId in = cut(c, n->in[0], at, q);
    return rebuild(c, n, &in, axis);
}

/* A running sum along the cut axis of what a broadcast repeats along it: a multiple. Masks of some
 * exporters count rows this way. */
static ValId cut_cumsum(Cut *c, const Node *n, uint32_t axis, int64_t q) {
    Graph *g = c->g;
    if ((uint32_t)n->attr.axis != axis) {
        ValId in = cut(c, n->in[0], axis, q);
        return rebuild(c, n, &in, axis);
    }
    NodeId id = graph_def(g, n->in[0]);
    if (!node_ok(id) || graph_node(g, id)->op != OP_BROADCAST || n->attr.reverse)
        return whole_sliced(c, n->out[0], axis, q);
    const Type *from = graph_type(g, graph_node(g, id)->in[0]), *t = graph_type(g, n->out[0]);
    uint32_t pad = t->rank - from->rank;
    if (axis >= pad && !is_one(from->dim[axis - pad])) return whole_sliced(c, n->out[0], axis, q);
    ValId in[2] = {cut(c, n->in[0], axis, 0), graph_const_i64(g, n->attr.exclusive ? q : q + 1)};
    Type s = type_scalar(t->dtype);
    if (s.dtype != DT_I64) in[1] = graph_add(g, OP_CAST, &in[1], 1, NULL, &s, n->loc, c->d);
    if (!val_ok(in[0]) || !val_ok(in[1])) return NO_VAL;
    return graph_add(g, OP_MUL, in, 2, NULL, NULL, n->loc, c->d);
}

static ValId cut_node(Cut *c, const Node *n, ValId v, uint32_t axis, int64_t q) {
    const Type *t = graph_type(c->g, v);
    if (op_info(n->op)->flags & F_ELEM) return cut_elementwise(c, n, axis, q);
    switch (n->op) {
    case OP_IOTA: return cut_iota(c, n, axis, q);
    case OP_RESHAPE: return cut_reshape(c, n, axis, q);
    case OP_TRANSPOSE: {
        ValId in = cut(c, n->in[0], n->attr.perm[axis], q);
        return rebuild(c, n, &in, axis);
    }
    case OP_BROADCAST: {
        ValId in = cut_operand(c, n->in[0], t->rank, axis, q);
        return rebuild(c, n, &in, axis);
    }
    case OP_SLICE: return cut_slice(c, n, axis, q);
    case OP_CONCAT: return cut_concat(c, n, axis, q);
    case OP_GATHER:
    case OP_GATHER_ND: return cut_gather(c, n, axis, q);
    case OP_TRIL:
    case OP_TRIU: return cut_triangle(c, n, axis, q);
    case OP_REDUCE_SUM:
    case OP_REDUCE_MEAN:
    case OP_REDUCE_MAX:
    case OP_REDUCE_MIN:
    case OP_REDUCE_PROD: return cut_reduce(c, n, axis, q);
    case OP_CUMSUM: return cut_cumsum(c, n, axis, q);
    default: return whole_sliced(c, v, axis, q);
    }
}

static ValId cut(Cut *c, ValId v, uint32_t axis, int64_t q) {
    if (!val_ok(v)) return NO_VAL;
    for (size_t i = 0; i < c->memo.count; i++) {
        const CutMemo *m = &c->memo.data[i];
        if (val_eq(m->v, v) && m->axis == axis && m->q == q) return m->out;
    }
    NodeId id = graph_def(c->g, v);
    ValId out;
    if (c->depth >= CUT_DEPTH) return NO_VAL;
    c->depth++;
    if (!node_ok(id)) {
        out = whole_sliced(c, v, axis, q);
    } else {
        Node n = *graph_node(c->g, id);
        out = cut_node(c, &n, v, axis, q);
    }
    c->depth--;
    CutMemo m = {v, axis, q, out};
    VEC_PUSH(c->scratch, &c->memo, m);
    return out;
}

ValId position_cut(Graph *g, ValId v, uint32_t axis, int64_t q, const int64_t *bind, size_t nbind,
                   Arena *scratch, Diag *d) {
    Cut c;
    memset(&c, 0, sizeof(c));
    c.g = g;
    c.bind = bind;
    c.nbind = nbind;
    c.scratch = scratch;
    c.d = d;
    g->insert_before = NO_NODE;
    if (is_one(graph_type(g, v)->dim[axis])) return v;
    return cut(&c, v, axis, q);
}
