/* raise_norm.c: layer norm and RMS norm from primitives.
 *
 *   %2 = reduce_mean(%1)                       %8 = norm(%1, @gamma, @beta) {eps=1e-05}
 *   %3 = sub(%1, %2)
 *   %4 = reduce_mean(mul(%3, %3))         ->
 *   %5 = div(%3, sqrt(add(%4, 1e-05)))
 *   %8 = add(mul(%5, @gamma), @beta)
 *
 * Also x * s + (beta - mean(x) * s) with s = gamma / sqrt(..), the form of TensorFlow's batch norm.
 * RMS norm: div(x, sqrt(reduce_mean(x * x) + eps)) * gamma. The mean is over the last axis and kept.
 * Gains and offsets join a norm made here or imported; a cast before a gain moves behind it (one
 * rounding less), and casts around a norm in fp32 go, because a norm computes in fp32 anyway.
 * needs: CANONICAL.  leaves alone: means over other axes, eps added after the root, a variance of
 * anything but the value that is divided. */
#include "passes/rewrite.h"

static bool mean_last(const Graph *g, ValId v, ValId *x) {
    Node *n = NULL;
    if (!match_op(g, v, OP_REDUCE_MEAN, &n)) return false;
    uint32_t rank = graph_type(g, n->in[0])->rank;
    *x = n->in[0];
    return n->attr.keep && rank > 0 && n->attr.axes == 1u << (rank - 1);
}

/* v = d * d, also when both were moved alike after the square */
static bool is_square(const Graph *g, ValId v, ValId d) {
    Node *n = NULL, *from = NULL;
    for (uint32_t i = 0; i < 4 && type_dims_eq(graph_type(g, v), graph_type(g, d)); i++) {
        Op op = graph_def_op(g, v);
        if ((op != OP_RESHAPE && op != OP_TRANSPOSE) || !match_op(g, v, op, &n) || !match_op(g, d, op, &from))
            break;
        if (!attr_eq(op, &n->attr, &from->attr, graph_type(g, v)->rank)) return false;
        v = n->in[0];
        d = from->in[0];
    }
    return match_op(g, v, OP_MUL, &n) && match_same(g, n->in[0], d) && match_same(g, n->in[1], d);
}

/* v = sqrt(mean(d * d) + eps) */
static bool root_mean_square(const Graph *g, ValId v, ValId d, double *eps) {
    Node *root = NULL;
    ValId mean = NO_VAL, sq = NO_VAL;
    if (!match_op(g, v, OP_SQRT, &root)) return false;
    if (!match_scalar(g, root->in[0], OP_ADD, &mean, eps)) {
        *eps = 0;
        mean = root->in[0];
    }
    return mean_last(g, mean, &sq) && is_square(g, sq, d);
}

/* d = x - mean(x) */
static bool centred(const Graph *g, ValId d, ValId *x) {
    Node *n = NULL;
    ValId of = NO_VAL;
    if (!match_op(g, d, OP_SUB, &n) || !mean_last(g, n->in[1], &of)) return false;
    if (!match_same(g, of, n->in[0])) return false;
    *x = n->in[0];
    return true;
}

/* Why d / root is no norm although it looks like one; NULL when it does not. */
static const char *norm_difference(const Graph *g, const Node *n) {
    Node *root = NULL, *mean = NULL;
    ValId under = NO_VAL, of = NO_VAL;
    double eps = 0;
    bool outer = match_scalar(g, n->in[1], OP_ADD, &under, &eps) && match_op(g, under, OP_SQRT, &root);
    if (!outer && !match_op(g, n->in[1], OP_SQRT, &root)) return NULL;
    under = root->in[0];
    match_scalar(g, under, OP_ADD, &under, &eps);
    if (!match_op(g, under, OP_REDUCE_MEAN, &mean)) return NULL;
    if (outer) return "epsilon is added after the root";
    if (!mean_last(g, under, &of)) return "the mean runs over other axes than the last, or drops it";
    if (graph_def_op(g, of) != OP_MUL) return "the mean is not of a square";
    return "the mean is of the square of another value than the one divided";
}

/* d / sqrt(mean(d^2) + eps) -> norm(x) */
static ValId raise_core(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id);
    Attr a = attr_default();
    double eps = 0;
    ValId x = n.in[0];
    if (!dtype_is_float(graph_type(g, n.out[0])->dtype)) return NO_VAL;
    if (!root_mean_square(g, n.in[1], n.in[0], &eps)) {
        const char *why = norm_difference(g, &n);
        if (why != NULL) pass_near_miss(r->cx, g, graph_def(g, n.in[1]), "norm", "%s", why);
        return NO_VAL;
    }
    a.rms = !centred(g, n.in[0], &x);
    if (!type_eq(graph_type(g, x), graph_type(g, n.out[0]))) return NO_VAL;
    a.eps = (float)eps;
    pass_count(r->cx, a.rms ? "rms norms" : "layer norms", 1);
    return rw_add(r, OP_NORM, &x, 1, &a, NULL);
}

/* v = other * s */
static bool times(const Graph *g, ValId v, ValId s, ValId *other) {
    Node *n = NULL;
    if (!match_op(g, v, OP_MUL, &n)) return false;
    for (uint32_t i = 0; i < 2; i++) {
        if (!match_same(g, n->in[i], s)) continue;
        *other = n->in[1 - i];
        return true;
    }
    return false;
}

/* s = gamma / sqrt(mean(d^2) + eps) with d = x - mean(x) */
static bool gain_over_root(const Graph *g, ValId s, ValId x, ValId *gamma, double *eps) {
    Node *n = NULL, *recip = NULL, *mean = NULL, *square = NULL;
    ValId of = NO_VAL, sum = NO_VAL;
    if (!match_op(g, s, OP_MUL, &n)) return false;
    for (uint32_t i = 0; i < 2; i++) {
        if (!match_op(g, n->in[i], OP_RECIP, &recip)) continue;
        *gamma = n->in[1 - i];
        if (!match_op(g, recip->in[0], OP_SQRT, &mean)) return false;
        if (!match_scalar(g, mean->in[0], OP_ADD, &sum, eps)) return false;
        return mean_last(g, sum, &of) && match_op(g, of, OP_MUL, &square) &&
               root_mean_square(g, recip->in[0], square->in[0], eps) && centred(g, square->in[0], &of) &&
               match_same(g, of, x);
    }
    return false;
}

/* x * s + (beta - mean(x) * s) with s = gamma / root -> norm(x) * gamma + beta */
static ValId raise_factored(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id), *product = NULL, *rest = NULL;
    Attr a = attr_default();
    for (uint32_t i = 0; i < 2; i++) {
        if (!match_op(g, n.in[i], OP_MUL, &product) || !match_op(g, n.in[1 - i], OP_SUB, &rest)) continue;
        for (uint32_t k = 0; k < 2; k++) {
            ValId x = product->in[k], s = product->in[1 - k], gamma = NO_VAL, mean = NO_VAL, of = NO_VAL;
            double eps = 0;
            if (!type_eq(graph_type(g, x), graph_type(g, n.out[0]))) continue;
            if (!times(g, rest->in[1], s, &mean) || !mean_last(g, mean, &of) || !match_same(g, of, x))
                continue;
            if (!gain_over_root(g, s, x, &gamma, &eps)) continue;
            a.eps = (float)eps;
            pass_count(r->cx, "layer norms", 1);
            ValId beta = rest->in[0], v = rw_add(r, OP_NORM, &x, 1, &a, NULL);
            return rw_binary(r, OP_ADD, rw_binary(r, OP_MUL, v, gamma), beta);
        }
    }
    return NO_VAL;
}

/* The row as a vector [n] of the wanted dtype. */
static ValId row_vector(Rewrite *r, ValId row, DType t) {
    const Type *from = graph_type(r->g, row);
    Type to = type_make(from->dtype, 1, &from->dim[from->rank - 1]);
    row = rw_reshape(r, row, &to);
    to.dtype = t;
    return val_ok(row) && graph_type(r->g, row)->dtype != t ? rw_typed(r, OP_CAST, row, &to) : row;
}

static Dim last_dim(const Graph *g, ValId v) {
    const Type *t = graph_type(g, v);
    return t->rank > 0 ? t->dim[t->rank - 1] : DIM_UNKNOWN;
}

static bool free_operand(const Node *n, uint32_t i) { return n->nin <= i || !val_ok(n->in[i]); }

/* The norm that v is, or is a cast of to another float. */
static Node *norm_through_cast(Rewrite *r, ValId v) {
    Node *n = NULL;
    if (match_op(r->g, v, OP_NORM, &n)) return n;
    if (!match_op(r->g, v, OP_CAST, &n) || !dtype_is_float(graph_type(r->g, v)->dtype)) return NULL;
    if (!rw_once(r, n->in[0])) return NULL;
    return match_op(r->g, n->in[0], OP_NORM, &n) ? n : NULL;
}

/* norm(x) * gamma -> norm(x, gamma);  norm(x, ..) + beta -> norm(x, .., beta) */
static ValId join_row(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id);
    uint32_t operand = n.op == OP_MUL ? 1 : 2;
    for (uint32_t i = 0; i < 2; i++) {
        Node *norm = norm_through_cast(r, n.in[i]);
        ValId row = n.in[1 - i];
        if (norm == NULL || !rw_once(r, n.in[i]) || !free_operand(norm, operand)) continue;
        /* beta after gamma only, and gamma not after beta */
        if (operand == 1 ? !free_operand(norm, 2) : norm->attr.rms) continue;
        if (!match_row(g, row, last_dim(g, n.in[i]))) continue;
        Type to = *graph_type(g, n.out[0]);
        if (!type_dims_eq(&to, graph_type(g, norm->in[0]))) continue;
        ValId in[3] = {norm->in[0], norm->nin > 1 ? norm->in[1] : NO_VAL, NO_VAL};
        Attr a = norm->attr;
        DType t = graph_type(g, in[0])->dtype;
        in[operand] = row_vector(r, row, t);
        if (!val_ok(in[operand])) return NO_VAL;
        ValId v = rw_add(r, OP_NORM, in, 3, &a, NULL);
        return t == to.dtype ? v : rw_typed(r, OP_CAST, v, &to);
    }
    return NO_VAL;
}

/* cast(norm(cast(x))) -> norm(x) when both casts undo each other */
static ValId drop_casts(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node *norm = NULL, *inner = NULL;
    Node n = *graph_node(g, id);
    if (!match_op(g, n.in[0], OP_NORM, &norm) || !rw_once(r, n.in[0])) return NO_VAL;
    if (!match_op(g, norm->in[0], OP_CAST, &inner)) return NO_VAL;
    DType t = graph_type(g, n.out[0])->dtype;
    if (graph_type(g, inner->in[0])->dtype != t || (t != DT_F16 && t != DT_BF16)) return NO_VAL;
    if (graph_type(g, norm->in[0])->dtype != DT_F32) return NO_VAL;
    ValId in[3] = {inner->in[0], NO_VAL, NO_VAL};
    for (uint32_t i = 1; i < norm->nin; i++) in[i] = norm->in[i];
    Attr a = norm->attr;
    return rw_add(r, OP_NORM, in, 3, &a, NULL);
}

PassResult pass_raise_norm(PassCtx *cx, Graph *g) {
    static const Rule core[] = {
        {OP_DIV, "d / sqrt(mean(d * d) + eps) -> norm(x)", raise_core},
        {OP_ADD, "x * s + (beta - mean(x) * s) -> norm(x) * gamma + beta", raise_factored},
    };
    static const Rule join[] = {
        {OP_MUL, "norm(x) * gamma -> norm(x, gamma)", join_row},
        {OP_ADD, "norm(x) + beta -> norm(x, beta)", join_row},
    };
    static const Rule casts[] = {{OP_CAST, "cast(norm(cast(x))) -> norm(x)", drop_casts}};
    const RuleSet sets[3] = {{core, COUNT_OF(core)}, {join, COUNT_OF(join)}, {casts, COUNT_OF(casts)}};
    PassResult first = rewrite_run(cx, g, &sets[0], 1, 4, "norms");
    if (first == PASS_FAILED) return first;
    PassResult second = rewrite_run(cx, g, &sets[1], 1, 8, "gains and offsets");
    if (second == PASS_FAILED) return second;
    PassResult third = rewrite_run(cx, g, &sets[2], 1, 4, "casts dropped");
    if (third == PASS_FAILED) return third;
    bool any = first == PASS_CHANGED || second == PASS_CHANGED || third == PASS_CHANGED;
    return any ? PASS_CHANGED : PASS_UNCHANGED;
}
