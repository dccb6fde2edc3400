/* raise_slots.c: experts computed on the list of all slots, told again by rows and slots.
 *
 *   %2 : i64[2*batch*seq] = reshape(%1 : i64[batch*seq, 2])
 *   %3 : f32[2*batch*seq, K, N] = gather(@experts, %2)            gather(@experts, %1)
 *   %5 : f32[2*batch*seq, 1, N] = matmul(%4, %3)             ->   matmul of [batch*seq, 2, 1, K]
 *   %6 : f32[batch*seq, 2, N] = reshape(%5)                       what follows as before
 *
 * The list is a merged axis and nothing more, so what is told again is equal however the list is used; a value
 * that cannot be told again stays.
 * needs: nothing.  leaves alone: lists of one slot a row, which are rows already. */
#include "passes/lift.h"
#include "passes/rewrite.h"

/* The list begins where an axis is merged, and where rows of a table are picked by a list of indices. */
static ValId slots_source(Lift *l, const Node *n, bool *failed) {
    Graph *g = l->g;
    const Type *to = graph_type(g, n->out[0]);
    *failed = false;
    if (n->op == OP_RESHAPE && lift_axis(l, graph_type(g, n->in[0])) < 0) {
        *failed = !dim_eq(to->dim[0], l->dim);
        return *failed ? NO_VAL : lift_reshape(l, n->in[0], to->dim + 1, to->rank - 1u);
    }
    if (n->op == OP_GATHER && lift_axis(l, graph_type(g, n->in[0])) < 0) {
        *failed = n->attr.axis != 0 || graph_type(g, n->in[1])->rank != 1;
        ValId in[2] = {n->in[0], *failed ? NO_VAL : lift(l, n->in[1])};
        if (!val_ok(in[1])) *failed = true;
        return *failed ? NO_VAL : graph_add(g, OP_GATHER, in, 2, &n->attr, NULL, l->loc, l->d);
    }
    return NO_VAL;
}

/* Experts picked by a list that merges [rows..., k]. */
static bool list_of(const Graph *g, const Node *n, Dim *list, Type *lead) {
    if (n->op != OP_GATHER || n->attr.axis != 0 || !value_is_weight(g, n->in[0])) return false;
    if (graph_type(g, n->in[0])->rank != 3 || graph_def_op(g, n->in[1]) != OP_RESHAPE) return false;
    const Type *to = graph_type(g, n->in[1]);
    *lead = *graph_type(g, graph_node(g, graph_def(g, n->in[1]))->in[0]);
    *list = to->dim[0];
    if (to->rank != 1 || lead->rank < 2 || dim_is_const(*list)) return false;
    Dim k = lead->dim[lead->rank - 1];
    return dim_is_const(k) && k.v > 1;
}

/* A reshape that ends the list: gives it lifted. */
static bool lift_end(Lift *l, NodeId id) {
    Graph *g = l->g;
    Node n = *graph_node(g, id);
    if (n.op != OP_RESHAPE || lift_axis(l, graph_type(g, n.in[0])) != 0) return true;
    if (lift_axis(l, graph_type(g, n.out[0])) >= 0) return true;
    g->insert_before = id;
    l->loc = n.loc;
    ValId x = lift(l, n.in[0]);
    if (!val_ok(x)) return l->d->errors == 0;
    Type full = *graph_type(g, x), to = *graph_type(g, n.out[0]);
    for (uint32_t i = 0; i < l->lead.rank; i++) full.dim[i] = l->lead.dim[i];
    if (!type_dims_eq(&full, graph_type(g, x)))
        x = graph_add(g, OP_BROADCAST, &x, 1, NULL, &full, n.loc, l->d);
    if (val_ok(x)) x = graph_add(g, OP_RESHAPE, &x, 1, NULL, &to, n.loc, l->d);
    if (!val_ok(x)) return false;
    graph_replace(g, n.out[0], x);
    return true;
}

PassResult pass_raise_slots(PassCtx *cx, Graph *g) {
    VEC(Lift) lists = {0};
    FOR_NODES (g, id) {
        Lift l = {.g = g, .d = cx->diag, .source = slots_source};
        if (!list_of(g, graph_node(g, id), &l.dim, &l.lead)) continue;
        bool known = false;
        for (size_t i = 0; i < lists.count; i++) known |= dim_eq(lists.data[i].dim, l.dim);
        if (!known) VEC_PUSH(cx->scratch, &lists, l);
    }
    for (size_t i = 0; i < lists.count; i++) {
        Lift *l = &lists.data[i];
        l->nmap = g->values.count;
        l->map = arena_array_of(cx->scratch, l->nmap, ValId);
        NodeId next = NO_NODE;
        for (NodeId id = g->first; node_ok(id); id = next) {
            next = graph_node(g, id)->next;
            if (!lift_end(l, id)) return PASS_FAILED;
        }
    }
    g->insert_before = NO_NODE;
    pass_count(cx, "lists of slots", (int64_t)lists.count);
    if (lists.count) rewrite_sweep_dead(cx, g);
    return lists.count ? PASS_CHANGED : PASS_UNCHANGED;
}
