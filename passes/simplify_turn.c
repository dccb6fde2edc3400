/* simplify_turn.c: attention whose scores were written keys first.
 *
 *   softmax(x) over the last axis but one  ->  transpose(softmax(transpose(x))) over the last
 *
 * and the inner transpose goes up through what is done to the scores until it meets their product:
 * transpose(matmul(k, q)) is matmul(transpose(q), transpose(k)). Done at once, because other rules sink
 * transposes below elementwise work. */
#include <string.h>

#include "passes/rewrite.h"

#define MAX_TURN 12

/* v with its last two axes exchanged. */
static ValId swap_axes(Rewrite *r, ValId v) {
    uint32_t rank = graph_type(r->g, v)->rank;
    uint8_t perm[MAX_RANK];
    for (uint32_t i = 0; i < rank; i++) perm[i] = (uint8_t)i;
    perm[rank - 2] = (uint8_t)(rank - 1);
    perm[rank - 1] = (uint8_t)(rank - 2);
    return rw_transpose(r, v, perm);
}

static bool above_product(const Graph *g, ValId v, int depth) {
    const Node *n = NULL;
    if (graph_def_op(g, v) == OP_NONE || depth == 0) return false;
    n = graph_node(g, graph_def(g, v));
    if (n->op == OP_MATMUL) return graph_type(g, n->in[0])->rank >= 2 && graph_type(g, n->in[1])->rank >= 2;
    if (!(op_info(n->op)->flags & F_ELEM)) return false;
    for (uint8_t i = 0; i < n->nin; i++)
        if (above_product(g, n->in[i], depth - 1)) return true;
    return false;
}

static ValId turn(Rewrite *r, ValId v, int depth) {
    Graph *g = r->g;
    Type t = *graph_type(g, v);
    if (t.rank == 0) return v;
    if (t.rank == 1) { /* a row for every first index: a column */
        t.dim[1] = t.dim[0];
        t.dim[0] = dim_const(1);
        t.rank = 2;
        v = rw_reshape(r, v, &t);
    }
    if (!above_product(g, v, depth)) return swap_axes(r, v);
    Node n = *graph_node(g, graph_def(g, v));
    if (n.op == OP_MATMUL) return rw_binary(r, OP_MATMUL, swap_axes(r, n.in[1]), swap_axes(r, n.in[0]));
    ValId in[3];
    for (uint8_t i = 0; i < n.nin; i++) in[i] = turn(r, n.in[i], depth - 1);
    Type to = t;
    to.dim[t.rank - 2] = t.dim[t.rank - 1];
    to.dim[t.rank - 1] = t.dim[t.rank - 2];
    return rw_add(r, n.op, in, n.nin, &n.attr, n.op == OP_CAST ? &to : NULL);
}

static ValId softmax_of_columns(Rewrite *r, NodeId id) {
    Node n = *graph_node(r->g, id);
    uint32_t rank = graph_type(r->g, n.out[0])->rank;
    if (rank < 2 || n.attr.axis != (int64_t)rank - 2 || !above_product(r->g, n.in[0], MAX_TURN))
        return NO_VAL;
    Attr a = n.attr;
    ValId x = turn(r, n.in[0], MAX_TURN);
    a.axis = (int64_t)rank - 1;
    return swap_axes(r, rw_add(r, OP_SOFTMAX, &x, 1, &a, NULL));
}

static const Rule rules[] = {
    {OP_SOFTMAX, "softmax over columns of a product -> transpose(softmax over rows)", softmax_of_columns},
};
const RuleSet turn_rules = {rules, COUNT_OF(rules)};
