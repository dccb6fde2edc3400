/* lift.c: see lift.h. Each op's function maps its axes; the list's axis becomes the leading ones. */
#include "passes/lift.h"

#include <string.h>

#include "passes/rewrite.h"

#define LIFT_DEPTH 96

int lift_axis(const Lift *l, const Type *t) {
    int at = -1;
    for (uint32_t i = 0; i < t->rank; i++) {
        if (!dim_eq(t->dim[i], l->dim)) continue;
        if (at >= 0) return -1;
        at = (int)i;
    }
    return at;
}

static ValId add_node(Lift *l, Op op, const ValId *in, size_t nin, const Attr *attr, const Type *t) {
    for (size_t i = 0; i < nin; i++)
        if (!val_ok(in[i])) return NO_VAL;
    return graph_add(l->g, op, in, nin, attr, t, l->loc, l->d);
}

static ValId reshape_to(Lift *l, ValId v, const Type *t) {
    if (!val_ok(v) || type_dims_eq(graph_type(l->g, v), t)) return v;
    return add_node(l, OP_RESHAPE, &v, 1, NULL, t);
}

/* Lead dims, or ones where v has them, then others. */
ValId lift_reshape(Lift *l, ValId v, const Dim *others, uint32_t n) {
    if (!val_ok(v) || l->lead.rank + n > MAX_RANK) return NO_VAL;
    Type t = *graph_type(l->g, v);
    t.rank = (uint8_t)(l->lead.rank + n);
    for (uint32_t i = 0; i < n; i++) t.dim[l->lead.rank + i] = others[i];
    return reshape_to(l, v, &t);
}

/* Where type axis a of a value whose list axis is p stands in the lifted value. */
static uint32_t moved(const Lift *l, uint32_t a, uint32_t p) { return l->lead.rank + (a < p ? a : a - 1); }

/* Lead dims as v' has them, then t without axis p. */
static bool lifted_type(const Lift *l, const Type *t, uint32_t p, const Type *lead, Type *out) {
    *out = *t;
    if (l->lead.rank + t->rank - 1u > MAX_RANK) return false;
    out->rank = (uint8_t)(l->lead.rank + t->rank - 1u);
    for (uint32_t i = 0; i < l->lead.rank; i++) out->dim[i] = lead->dim[i];
    for (uint32_t i = 0; i < t->rank; i++)
        if (i != p) out->dim[moved(l, i, p)] = t->dim[i];
    return true;
}

/* A value off the list as operand of an elementwise op whose result has rank r and the list at p. */
static ValId outer_operand(Lift *l, ValId v, uint32_t r, uint32_t p) {
    Type t = *graph_type(l->g, v);
    ValId stack = l->stacked != NULL ? l->stacked(l, v) : NO_VAL;
    uint32_t covered = t.rank + p >= r ? t.rank + p - r : MAX_RANK; /* v's axis at the list's place */
    if (covered < t.rank) {
        if (!dim_eq(t.dim[covered], dim_const(1))) return NO_VAL;
        t.rank--;
        for (uint32_t i = covered; i < t.rank; i++) t.dim[i] = t.dim[i + 1];
    }
    if (!val_ok(stack)) return reshape_to(l, v, &t);
    ValId in[2] = {stack, l->index};
    Attr a = attr_default();
    ValId picked = add_node(l, OP_GATHER, in, 2, &a, NULL); /* [rows..., k, v's dims] */
    Dim others[MAX_RANK];
    if (r - 1u > MAX_RANK) return NO_VAL;
    for (uint32_t i = 0; i + 1 < r; i++)
        others[i] = i + t.rank + 1 >= r ? t.dim[i + t.rank + 1 - r] : dim_const(1);
    return lift_reshape(l, picked, others, r - 1);
}

/* A value on the list, with as many axes beside it as a result of rank r has. */
static ValId padded_operand(Lift *l, ValId v, uint32_t r) {
    const Type *t = graph_type(l->g, v);
    ValId x = lift(l, v);
    if (!val_ok(x) || t->rank == r) return x;
    Dim others[MAX_RANK];
    uint32_t n = 0, lead = l->lead.rank;
    while (n + t->rank < r) others[n++] = dim_const(1);
    for (uint32_t i = lead; i < graph_type(l->g, x)->rank; i++) others[n++] = graph_type(l->g, x)->dim[i];
    return lift_reshape(l, x, others, n);
}

static ValId lift_elementwise(Lift *l, const Node *n, uint32_t p) {
    uint32_t r = graph_type(l->g, n->out[0])->rank;
    ValId in[3];
    if (n->nin > COUNT_OF(in)) return NO_VAL;
    for (uint32_t i = 0; i < n->nin; i++) {
        const Type *t = graph_type(l->g, n->in[i]);
        int at = lift_axis(l, t);
        if (at >= 0 && t->rank - (uint32_t)at != r - p) return NO_VAL;
        in[i] = at < 0 ? outer_operand(l, n->in[i], r, p) : padded_operand(l, n->in[i], r);
        if (!val_ok(in[i])) return NO_VAL;
    }
    if (n->op == OP_CAST) {
        Type t = *graph_type(l->g, in[0]);
        t.dtype = graph_type(l->g, n->out[0])->dtype;
        return add_node(l, OP_CAST, in, 1, NULL, &t);
    }
    return add_node(l, n->op, in, n->nin, &n->attr, NULL);
}

static Dim product(Graph *g, const Dim *d, uint32_t n) {
    Dim p = dim_const(1);
    for (uint32_t i = 0; i < n; i++) p = dim_mul(g, p, d[i]);
    return p;
}

static ValId lift_moved(Lift *l, const Node *n, uint32_t p) {
    Graph *g = l->g;
    const Type *from = graph_type(g, n->in[0]), *to = graph_type(g, n->out[0]);
    int at = lift_axis(l, from);
    Type t;
    if (at < 0 && n->op == OP_BROADCAST) {
        ValId x = outer_operand(l, n->in[0], to->rank, p);
        if (!val_ok(x) || !lifted_type(l, to, p, &l->lead, &t)) return NO_VAL;
        return add_node(l, OP_BROADCAST, &x, 1, NULL, &t);
    }
    ValId x = at < 0 ? NO_VAL : lift(l, n->in[0]);
    if (!val_ok(x)) return NO_VAL;
    uint32_t q = (uint32_t)at;
    if (!lifted_type(l, to, p, graph_type(g, x), &t)) return NO_VAL;
    Attr a = n->attr;
    switch (n->op) {
    case OP_RESHAPE:
        if (!dim_eq(product(g, from->dim, q), product(g, to->dim, p))) return NO_VAL;
        return reshape_to(l, x, &t);
    case OP_BROADCAST:
        if (to->rank != from->rank || p != q) return NO_VAL;
        return add_node(l, OP_BROADCAST, &x, 1, NULL, &t);
    case OP_TRANSPOSE:
        for (uint32_t i = 0; i < MAX_RANK && i < t.rank; i++) {
            uint32_t old = i < l->lead.rank ? 0 : i - l->lead.rank; /* the result's axis, the list left out */
            old += old >= p;
            a.perm[i] = (uint8_t)(i < l->lead.rank ? i : moved(l, n->attr.perm[old], q));
        }
        return add_node(l, OP_TRANSPOSE, &x, 1, &a, NULL);
    default: /* slice */
        if (!dim_eq(n->attr.starts[q], dim_const(0)) || n->attr.steps[q] != 1) return NO_VAL;
        for (uint32_t i = 0; i < l->lead.rank; i++) a.starts[i] = dim_const(0), a.steps[i] = 1;
        for (uint32_t i = 0; i < to->rank; i++) {
            if (i == p) continue;
            a.starts[moved(l, i, p)] = n->attr.starts[i];
            a.steps[moved(l, i, p)] = n->attr.steps[i];
        }
        return add_node(l, OP_SLICE, &x, 1, &a, &t);
    }
}

/* Ops along axes that are not the list. */
static ValId lift_along(Lift *l, const Node *n) {
    int at = lift_axis(l, graph_type(l->g, n->in[0]));
    Attr a = n->attr;
    uint32_t rank = graph_type(l->g, n->in[0])->rank;
    if (at < 0) return NO_VAL;
    uint32_t q = (uint32_t)at;
    if (op_info(n->op)->axes == AXES_REDUCE) {
        a.axes = 0;
        for (uint32_t i = 0; i < rank; i++) {
            if (!(n->attr.axes >> i & 1u)) continue;
            if (i == q) return NO_VAL;
            a.axes |= 1u << moved(l, i, q);
        }
    } else if (op_info(n->op)->axes == AXES_AXIS) {
        if (n->attr.axis == at) return NO_VAL;
        a.axis = moved(l, (uint32_t)n->attr.axis, q);
    } else if (q + 1 == rank) {
        return NO_VAL; /* over the last axis, with operands that know nothing of the list */
    }
    ValId in[4] = {lift(l, n->in[0])};
    if (n->nin > COUNT_OF(in)) return NO_VAL;
    for (uint32_t i = 1; i < n->nin; i++) {
        if (lift_axis(l, graph_type(l->g, n->in[i])) >= 0) return NO_VAL;
        if (l->stacked != NULL && val_ok(l->stacked(l, n->in[i]))) return NO_VAL;
        in[i] = n->in[i];
    }
    return add_node(l, n->op, in, n->nin, &a, NULL);
}

static ValId lift_concat(Lift *l, const Node *n, uint32_t p) {
    ValId in[16];
    Attr a = n->attr;
    if (n->nin > COUNT_OF(in) || n->attr.axis == (int64_t)p) return NO_VAL;
    a.axis = moved(l, (uint32_t)n->attr.axis, p);
    for (uint32_t i = 0; i < n->nin; i++) {
        in[i] = lift_axis(l, graph_type(l->g, n->in[i])) < 0 ? NO_VAL : lift(l, n->in[i]);
        if (!val_ok(in[i])) return NO_VAL;
        Type t = *graph_type(l->g, in[i]); /* all of one shape beside the axis */
        for (uint32_t k = 0; k < l->lead.rank; k++) t.dim[k] = l->lead.dim[k];
        if (!type_dims_eq(&t, graph_type(l->g, in[i])))
            in[i] = add_node(l, OP_BROADCAST, &in[i], 1, NULL, &t);
    }
    return add_node(l, OP_CONCAT, in, n->nin, &a, NULL);
}

/* x[.., list, K] times w[K, N], which is the expert's own or the same for all. */
static ValId lift_matmul(Lift *l, const Node *n, uint32_t p) {
    Graph *g = l->g;
    const Type *x = graph_type(g, n->in[0]), *w = graph_type(g, n->in[1]);
    int at = lift_axis(l, x), other = lift_axis(l, w);
    if (at < 0 && other < 0) return NO_VAL;
    if (at >= 0 && at + 2 == x->rank && other < 0 && w->rank == 2) {
        ValId stack = l->stacked != NULL ? l->stacked(l, n->in[1]) : NO_VAL;
        ValId in[3] = {lift(l, n->in[0]), val_ok(stack) ? l->index : n->in[1], stack};
        if (!val_ok(in[0])) return NO_VAL;
        if (!val_ok(stack)) return add_node(l, OP_MATMUL, in, 2, NULL, NULL);
        for (uint32_t i = 0; i + 2u < x->rank; i++)
            if (!dim_eq(x->dim[i], dim_const(1))) return NO_VAL;
        Type t = *graph_type(g, in[0]); /* [rows..., K] when all slots of a row are alike */
        uint32_t k = l->lead.rank - 1u;
        bool shared = dim_eq(t.dim[k], dim_const(1)) && !dim_eq(l->lead.dim[k], dim_const(1));
        t.rank = (uint8_t)(k + (shared ? 1 : 2));
        t.dim[t.rank - 1] = x->dim[x->rank - 1];
        for (uint32_t i = 0; i < k; i++)
            if (!dim_eq(t.dim[i], l->lead.dim[i])) return NO_VAL;
        in[0] = reshape_to(l, in[0], &t);
        ValId y = add_node(l, OP_ROUTED, in, 3, NULL, NULL);
        Dim others[MAX_RANK];
        for (uint32_t i = 0; i + 2u < x->rank; i++) others[i] = dim_const(1);
        others[x->rank - 2] = w->dim[1];
        return lift_reshape(l, y, others, x->rank - 1u);
    }
    /* the list among the batch axes */
    uint32_t r = graph_type(g, n->out[0])->rank;
    ValId in[2];
    for (uint32_t i = 0; i < 2; i++) {
        const Type *t = i == 0 ? x : w;
        int a = i == 0 ? at : other;
        if (a >= 0 && (t->rank != r || (uint32_t)a != p || a + 2 >= t->rank)) return NO_VAL;
        if (a < 0 && l->stacked != NULL && val_ok(l->stacked(l, n->in[i]))) return NO_VAL;
        in[i] = a < 0 ? outer_operand(l, n->in[i], r, p) : lift(l, n->in[i]);
    }
    return add_node(l, OP_MATMUL, in, 2, NULL, NULL);
}

static ValId lift_node(Lift *l, const Node *n, uint32_t p) {
    bool failed = false;
    ValId v = l->source(l, n, &failed);
    if (val_ok(v) || failed) return v;
    const OpInfo *info = op_info(n->op);
    if (info->flags & F_ELEM) return lift_elementwise(l, n, p);
    switch (n->op) {
    case OP_RESHAPE:
    case OP_BROADCAST:
    case OP_TRANSPOSE:
    case OP_SLICE: return lift_moved(l, n, p);
    case OP_CONCAT: return lift_concat(l, n, p);
    case OP_MATMUL: return lift_matmul(l, n, p);
    case OP_TOPK: return NO_VAL; /* two results */
    default: break;
    }
    bool along = info->axes == AXES_REDUCE || info->axes == AXES_AXIS || info->axes == AXES_LAST;
    return along ? lift_along(l, n) : NO_VAL;
}

ValId lift(Lift *l, ValId v) {
    if (v.id < l->nmap && val_ok(l->map[v.id])) return l->map[v.id];
    int at = lift_axis(l, graph_type(l->g, v));
    NodeId id = graph_def(l->g, v);
    if (at < 0 || !node_ok(id) || l->depth == LIFT_DEPTH) return NO_VAL;
    Node n = *graph_node(l->g, id); /* adding nodes moves them */
    l->depth++;
    ValId to = lift_node(l, &n, (uint32_t)at);
    l->depth--;
    if (v.id < l->nmap) l->map[v.id] = to;
    return to;
}
