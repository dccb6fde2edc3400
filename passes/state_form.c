/* state_form.c: states in the form that attention reads them in, [batch, past, heads, d].
 *
 * 1. The common form is turned before anything is matched:
 *      %4 = concat(%past, %3) {axis=2}  ->  %4 = transpose(concat(%past', transpose(%3)) {axis=1})
 * 2. What movement is left between a state and attention afterwards goes before the append, so that joint,
 *    merged and differently turned states become one for each operand:
 *      %4 = concat(%past, %3)           ->  %4 = concat(%past', move(%3)) {axis=1}
 *      attention(%q, move(%4), ...)         attention(%q, %4, ...)
 *    The movement has to leave the sequence axis whole.
 * leaves alone: states that something else reads as well; the cache proof names it. */
#include <string.h>

#include "passes/raise.h"
#include "passes/rewrite.h"

#define CHAIN_MAX 16

/* The view [batch, length, heads, d] of a state's type, and back. Stacked forms are left alone. */
static bool state_perm(const Graph *g, const State *s, uint8_t perm[4], uint8_t back[4]) {
    const Type *t = graph_type(g, s->in);
    if (t->rank != 4 || s->axis == 0 || s->axis > 3) return false;
    uint32_t n = 0;
    perm[n++] = 0;
    perm[n++] = s->axis;
    for (uint8_t i = 1; i < 4; i++)
        if (i != s->axis) perm[n++] = i;
    for (uint8_t i = 0; i < 4; i++) back[perm[i]] = i;
    return true;
}

static bool state_turn(PassCtx *cx, Graph *g, size_t index) {
    State *s = &g->states.data[index];
    uint8_t perm[4], back[4];
    NodeId cat = graph_def(g, s->out);
    if (s->axis == 1 || !state_perm(g, s, perm, back)) return true;
    if (!node_ok(cat) || graph_node(g, cat)->op != OP_CONCAT) return true;
    Node c = *graph_node(g, cat);
    if (c.nin != 2 || !val_eq(c.in[0], s->in) || c.attr.axis != s->axis) return true;
    ValId in = s->in, out = s->out;
    Type old = *graph_type(g, in), t = old;
    for (uint32_t i = 0; i < 4; i++) t.dim[i] = old.dim[perm[i]];
    graph_val(g, in)->type = t;

    g->insert_before = cat;
    ValId fresh = move_transpose(g, c.in[1], perm, c.loc, cx->diag);
    Attr a = attr_default();
    a.axis = 1;
    ValId pair[2] = {in, fresh};
    ValId now = val_ok(fresh) ? graph_add(g, OP_CONCAT, pair, 2, &a, NULL, c.loc, cx->diag) : NO_VAL;
    ValId turned = val_ok(now) ? move_transpose(g, now, back, c.loc, cx->diag) : NO_VAL;
    g->insert_before = g->first;
    ValId before = val_ok(turned) ? move_transpose(g, in, back, c.loc, cx->diag) : NO_VAL;
    g->insert_before = NO_NODE;
    if (!val_ok(before)) return false;

    NodeId keep[2] = {graph_def(g, now), graph_def(g, before)};
    graph_replace(g, in, before);
    graph_node(g, keep[0])->in[0] = in;
    graph_node(g, keep[1])->in[0] = in;
    graph_replace(g, out, turned);
    s = &g->states.data[index];
    s->in = in;
    s->out = now;
    s->axis = 1;
    return true;
}

/* The compiled program keeps its states to itself: presents are no outputs. */
static void presents_drop(Graph *g) {
    size_t n = 0;
    for (size_t i = 0; i < g->outputs.count; i++)
        if (g->outputs.data[i].role != ROLE_PRESENT) g->outputs.data[n++] = g->outputs.data[i];
    g->outputs.count = n;
}

bool states_turn(PassCtx *cx, Graph *g) {
    for (size_t i = 0; i < g->states.count; i++)
        if (!state_turn(cx, g, i)) return false;
    if (g->states.count > 0) presents_drop(g);
    return true;
}

/* ---- movement before the append ---- */

typedef struct {
    size_t state;
    NodeId node[CHAIN_MAX]; /* from the attention's operand up to the state */
    uint32_t n;
} Chain;

/* The axes before `axis` hold as many elements in both; then the axis is the same one. */
static bool axis_stays(Graph *g, const Type *from, uint32_t axis, const Type *to, uint32_t *now) {
    Dim before = dim_const(1), count = dim_const(1);
    for (uint32_t i = 0; i < axis; i++) before = dim_mul(g, before, from->dim[i]);
    for (uint32_t i = 0; i < to->rank; i++) {
        if (dim_eq(count, before) && dim_eq(to->dim[i], from->dim[axis])) {
            *now = i;
            return true;
        }
        count = dim_mul(g, count, to->dim[i]);
    }
    return false;
}

/* Where the sequence axis is after a node, or false when the node cuts or mixes it. */
static bool axis_through(Graph *g, const Node *n, uint32_t *axis) {
    const Type *from = graph_type(g, n->in[0]), *to = graph_type(g, n->out[0]);
    uint32_t at = *axis;
    switch (n->op) {
    case OP_RESHAPE: return axis_stays(g, from, at, to, axis);
    case OP_SLICE:
        return dim_eq(from->dim[at], to->dim[at]) && dim_eq(n->attr.starts[at], dim_const(0)) &&
               n->attr.steps[at] == 1;
    case OP_TRANSPOSE:
        for (uint32_t i = 0; i < to->rank; i++)
            if (n->attr.perm[i] == at) *axis = i;
        return true;
    case OP_GATHER:
        if (graph_constant(g, n->in[1]) == NULL || (uint32_t)n->attr.axis == at) return false;
        if ((uint32_t)n->attr.axis < at) *axis = at + to->rank - from->rank;
        return true;
    default: return false;
    }
}

/* The movement from a state to v, [batch, total, heads, d]; false when there is none. */
static bool chain_find(Graph *g, ValId v, Chain *c) {
    memset(c, 0, sizeof(*c));
    for (;;) {
        for (c->state = 0; c->state < g->states.count; c->state++)
            if (val_eq(g->states.data[c->state].out, v)) break;
        NodeId id = graph_def(g, v);
        if (c->state < g->states.count || !node_ok(id) || c->n == CHAIN_MAX) break;
        if (graph_node(g, id)->nin == 0) return false;
        c->node[c->n++] = id;
        v = graph_node(g, id)->in[0];
    }
    if (c->state == g->states.count || c->n == 0) return false;
    uint32_t axis = g->states.data[c->state].axis;
    for (uint32_t k = c->n; k-- > 0;)
        if (!axis_through(g, graph_node(g, c->node[k]), &axis)) return false;
    return axis == 1 && graph_type(g, graph_node(g, c->node[0])->out[0])->rank == 4;
}

/* The chain on the new rows alone. */
static ValId chain_replay(PassCtx *cx, Graph *g, const Chain *c, ValId rows) {
    for (uint32_t k = c->n; k-- > 0 && val_ok(rows);) {
        Node n = *graph_node(g, c->node[k]);
        Type t = *graph_type(g, n.out[0]);
        ValId in[2] = {rows, n.nin > 1 ? n.in[1] : NO_VAL};
        for (uint32_t i = 0; i < t.rank; i++) t.dim[i] = dim_substitute(g, t.dim[i], SYM_PAST, dim_const(0));
        bool typed = (op_info(n.op)->flags & F_TYPED) != 0;
        rows = graph_add(g, n.op, in, n.nin, &n.attr, typed ? &t : NULL, n.loc, cx->diag);
    }
    return rows;
}

/* A state of its own for what a chain makes. */
static ValId state_split(PassCtx *cx, Graph *g, const Chain *c, uint32_t number) {
    State old = g->states.data[c->state];
    NodeId cat = graph_def(g, old.out);
    Node n = *graph_node(g, cat);
    Type t = *graph_type(g, graph_node(g, c->node[0])->out[0]);
    t.dim[1] = dim_sym(g, SYM_PAST);
    g->insert_before = cat;
    ValId rows = chain_replay(cx, g, c, n.in[1]);
    const char *name = arena_printf(g->arena, "%s/%u", old.name, number);
    ValId pair[2] = {graph_input(g, name, t, ROLE_PAST), rows};
    Attr a = attr_default();
    a.axis = 1;
    ValId out = val_ok(rows) ? graph_add(g, OP_CONCAT, pair, 2, &a, NULL, n.loc, cx->diag) : NO_VAL;
    g->insert_before = NO_NODE;
    State s = {name, pair[0], out, 1};
    if (val_ok(out)) VEC_PUSH(g->arena, &g->states, s);
    return out;
}

/* States whose readers all got one of their own go. */
static void states_drop(PassCtx *cx, Graph *g, const bool *split, size_t count) {
    bool *need = arena_array_of(cx->scratch, g->values.count, bool);
    for (size_t i = 0; i < g->outputs.count; i++) need[g->outputs.data[i].v.id] = true;
    for (size_t i = 0; i < g->states.count; i++) need[g->states.data[i].out.id] = i >= count || !split[i];
    for (NodeId id = g->last; node_ok(id); id = graph_node(g, id)->prev) {
        const Node *n = graph_node(g, id);
        bool used = false;
        for (uint32_t o = 0; o < n->nout; o++) used = used || need[n->out[o].id];
        for (uint32_t i = 0; used && i < n->nin; i++) need[n->in[i].id] = true;
    }
    size_t states = 0, inputs = 0;
    for (size_t i = 0; i < g->states.count; i++)
        if (need[g->states.data[i].out.id]) g->states.data[states++] = g->states.data[i];
    g->states.count = states;
    rewrite_sweep_dead(cx, g);
    for (size_t i = 0; i < g->inputs.count; i++) {
        Port p = g->inputs.data[i];
        bool gone = p.role == ROLE_PAST && !need[p.v.id];
        if (gone) graph_val(g, p.v)->kind = V_FREE;
        if (!gone) g->inputs.data[inputs++] = p;
    }
    g->inputs.count = inputs;
}

bool states_fit(PassCtx *cx, Graph *g) {
    size_t count = g->states.count, made = 0;
    bool *split = arena_array_of(cx->scratch, count + 1, bool);
    ValId *now = arena_array_of(cx->scratch, g->values.count, ValId); /* by operand */
    size_t known = g->values.count;
    FOR_NODES (g, id) {
        if (graph_node(g, id)->op != OP_ATTENTION) continue;
        for (uint32_t i = 1; i <= 2; i++) {
            ValId v = graph_node(g, id)->in[i];
            Chain c;
            if (v.id >= known) continue;
            if (!val_ok(now[v.id])) {
                if (!chain_find(g, v, &c)) continue;
                now[v.id] = state_split(cx, g, &c, (uint32_t)made++);
                if (!val_ok(now[v.id])) return false;
                split[c.state] = true;
            }
            graph_node(g, id)->in[i] = now[v.id];
        }
    }
    if (made > 0) states_drop(cx, g, split, count);
    return true;
}
