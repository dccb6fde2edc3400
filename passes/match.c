/* match.c: small questions that patterns ask of a graph. Nothing here edits. */
#include <math.h>

#include "passes/rewrite.h"

bool match_op(const Graph *g, ValId v, Op op, Node **n) {
    NodeId id = graph_def(g, v);
    if (!node_ok(id) || graph_node(g, id)->op != op) return false;
    if (n != NULL) *n = graph_node(g, id);
    return true;
}

bool match_commutative(const Graph *g, ValId v, Op op, Op left, ValId *a, ValId *b) {
    Node *n = NULL;
    if (!match_op(g, v, op, &n) || n->nin != 2) return false;
    for (uint32_t i = 0; i < 2; i++) {
        if (graph_def_op(g, n->in[i]) != left) continue;
        *a = n->in[i];
        *b = n->in[1 - i];
        return true;
    }
    return false;
}

bool match_scalar(const Graph *g, ValId v, Op op, ValId *x, double *c) {
    Node *n = NULL;
    if (!match_op(g, v, op, &n) || n->nin != 2) return false;
    if (const_scalar(g, match_skip_moves(g, n->in[1]), c)) {
        *x = n->in[0];
        return true;
    }
    if ((op_info(op)->flags & F_COMM) == 0) return false;
    if (!const_scalar(g, match_skip_moves(g, n->in[0]), c)) return false;
    *x = n->in[1];
    return true;
}

bool match_is_scalar(const Graph *g, ValId v, double c, double rel_tol) {
    double x = 0;
    if (!const_scalar(g, match_skip_moves(g, v), &x)) return false;
    return fabs(x - c) <= rel_tol * fabs(c);
}

/* To integers and bools a cast may change what a constant says. */
static bool cast_keeps(const Graph *g, const Node *n) {
    return n->op == OP_CAST && dtype_is_float(graph_type(g, n->out[0])->dtype);
}

ValId match_skip_moves(const Graph *g, ValId v) {
    for (uint32_t depth = 0; depth < 16; depth++) {
        NodeId id = graph_def(g, v);
        if (!node_ok(id)) return v;
        const Node *n = graph_node(g, id);
        if (n->op != OP_BROADCAST && n->op != OP_RESHAPE && !cast_keeps(g, n)) return v;
        v = n->in[0];
    }
    return v;
}

bool match_const_like(const Graph *g, ValId v) {
    for (uint32_t depth = 0; depth < 16; depth++) {
        if (graph_constant(g, v) != NULL) return true;
        Op op = graph_def_op(g, v);
        if (op != OP_CAST && op != OP_TRANSPOSE && op != OP_RESHAPE && op != OP_SLICE) return false;
        v = graph_node(g, graph_def(g, v))->in[0];
    }
    return false;
}

bool match_row(const Graph *g, ValId v, Dim n) {
    const Type *t = graph_type(g, v);
    if (t->rank == 0 || !dim_eq(t->dim[t->rank - 1], n)) return false;
    for (uint32_t i = 0; i + 1 < t->rank; i++)
        if (!dim_eq(t->dim[i], dim_const(1))) return false;
    return match_const_like(g, v);
}

static bool same_at(const Graph *g, ValId a, ValId b, uint32_t depth) {
    if (val_eq(a, b)) return true;
    NodeId na = graph_def(g, a), nb = graph_def(g, b);
    double x = 0, y = 0;
    if (!node_ok(na) && !node_ok(nb))
        return type_eq(graph_type(g, a), graph_type(g, b)) && const_scalar(g, a, &x) &&
               const_scalar(g, b, &y) && x == y;
    if (depth == 0 || !node_ok(na) || !node_ok(nb)) return false;
    const Node *p = graph_node(g, na), *q = graph_node(g, nb);
    const Type *t = graph_type(g, a);
    if (p->op != q->op || p->nin != q->nin || p->nin == 0 || p->nin > 3) return false;
    if (graph_val(g, a)->out != graph_val(g, b)->out || !type_eq(t, graph_type(g, b))) return false;
    if (!attr_eq(p->op, &p->attr, &q->attr, MAX_RANK)) return false;
    for (uint8_t i = 0; i < p->nin; i++) {
        if (val_ok(p->in[i]) != val_ok(q->in[i])) return false;
        if (val_ok(p->in[i]) && !same_at(g, p->in[i], q->in[i], depth - 1)) return false;
    }
    return true;
}

bool match_same(const Graph *g, ValId a, ValId b) { return same_at(g, a, b, 3); }

bool type_dims_eq(const Type *a, const Type *b) {
    if (a->rank != b->rank) return false;
    for (uint32_t i = 0; i < a->rank; i++)
        if (!dim_eq(a->dim[i], b->dim[i])) return false;
    return true;
}
