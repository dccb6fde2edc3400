/* state_form.c: states in the form that attention reads them in, [batch, past, heads, d].
 *
 * 1. The common form is turned before anything is matched:
 *      %4 = concat(%past, %3) {axis=2}  ->  %4 = transpose(concat(%past', transpose(%3)) {axis=1})
 * 2. What is computed between states and attention, position by position, goes before the append, so that
 *    joint, merged, differently turned and compressed (latent) states become one for each operand:
 *      %4 = concat(%past, %3)           ->  %4 = concat(%past', f(%3)) {axis=1}
 *      attention(%q, f(%4), ...)            attention(%q, %4, ...)
 * leaves alone: states that something else reads as well; the cache proof names it. */
#include <string.h>

#include "passes/raise.h"
#include "passes/rewrite.h"

#define DEPTH_MAX 64

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

/* ---- the new rows alone ---- */

/* What a value made of states is for the new rows alone, and which of its axes is the sequence. */
typedef struct {
    ValId v; /* none: not found yet */
    uint32_t axis;
} Rows;
typedef struct {
    PassCtx *cx;
    Graph *g;
    const bool *taint;
    size_t known; /* values that taint covers */
    Rows *rows;   /* by value */
    size_t first; /* a state among the sources, for the name */
    Diag diag;    /* of attempts, which may fail */
} Fit;

static bool rows_of(Fit *f, ValId v, uint32_t depth, Rows *out);

static bool is_tainted(const Fit *f, ValId v) { return v.id < f->known && f->taint[v.id]; }

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

/* Where the sequence axis of operand 0 is after a node, or false when the node cuts or mixes it. */
static bool axis_through(Graph *g, const Node *n, uint32_t *axis) {
    const Type *from = graph_type(g, n->in[0]), *to = graph_type(g, n->out[0]);
    uint32_t at = *axis;
    switch (n->op) {
    case OP_RESHAPE: return axis_stays(g, from, at, to, axis);
    case OP_BROADCAST: *axis = at + to->rank - from->rank; return true;
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
    case OP_LINEAR:
    case OP_NORM: return at + 1 < from->rank;
    case OP_MATMUL:
        *axis = at + to->rank - from->rank;
        return at + 1 < from->rank && graph_type(g, n->in[1])->rank == 2;
    default: return false;
    }
}

/* An operand without tokens, cut to the new rows where it has one for each position. */
static ValId rows_table(Fit *f, ValId v, uint32_t axis, uint32_t rank) {
    Graph *g = f->g;
    Type t = *graph_type(g, v);
    if (axis + t.rank < rank) return v;
    uint32_t at = axis + t.rank - rank;
    if (dim_eq(t.dim[at], dim_const(1))) return v;
    Attr a = attr_default();
    for (uint32_t i = 0; i < t.rank; i++) {
        a.starts[i] = i == at ? dim_sym(g, SYM_PAST) : dim_const(0);
        a.steps[i] = 1;
    }
    t.dim[at] = dim_sym(g, SYM_SEQ);
    return graph_add(g, OP_SLICE, &v, 1, &a, &t, loc_none(), &f->diag);
}

/* Operands from states bring in[] and the one axis they agree on, counted in the result; the others stay. */
static bool rows_operands(Fit *f, const Node *n, uint32_t depth, ValId *in, uint32_t *axis) {
    Graph *g = f->g;
    bool elem = (op_info(n->op)->flags & F_ELEM) != 0, found = false;
    uint32_t rank = graph_type(g, n->out[0])->rank;
    for (uint32_t i = 0; i < n->nin; i++) {
        Rows r;
        if (!val_ok(n->in[i]) || !is_tainted(f, n->in[i])) continue;
        if (!elem && n->op != OP_CONCAT && i > 0) return false;
        if (!rows_of(f, n->in[i], depth - 1, &r)) return false;
        if (elem)
            r.axis += rank - graph_type(g, n->in[i])->rank;
        else if (n->op == OP_CONCAT ? r.axis == (uint32_t)n->attr.axis : !axis_through(g, n, &r.axis))
            return false;
        if (found && r.axis != *axis) return false;
        found = true;
        *axis = r.axis;
        in[i] = r.v;
    }
    for (uint32_t i = 0; found && i < n->nin; i++) {
        if (!val_ok(n->in[i]) || is_tainted(f, n->in[i])) continue;
        if (!elem && n->op != OP_CONCAT && graph_constant(g, n->in[i]) == NULL &&
            !value_is_weight(g, n->in[i]))
            return false;
        in[i] = elem || n->op == OP_CONCAT ? rows_table(f, n->in[i], *axis, rank) : n->in[i];
        if (!val_ok(in[i])) return false;
    }
    return found;
}

static bool rows_of(Fit *f, ValId v, uint32_t depth, Rows *out) {
    Graph *g = f->g;
    if (val_ok(f->rows[v.id].v)) {
        *out = f->rows[v.id];
        return true;
    }
    NodeId id = graph_def(g, v);
    if (!node_ok(id) || depth == 0) return false;
    Node n = *graph_node(g, id);
    for (size_t i = 0; i < g->states.count; i++) {
        if (!val_eq(g->states.data[i].out, v)) continue;
        f->first = i;
        *out = (Rows){n.in[1], g->states.data[i].axis};
        return true;
    }
    ValId *in = arena_array_of(f->cx->scratch, n.nin, ValId);
    Rows r = {NO_VAL, 0};
    if (n.nout != 1 || n.nin == 0 || !rows_operands(f, &n, depth, in, &r.axis)) return false;
    Type t = *graph_type(g, v);
    for (uint32_t i = 0; i < t.rank; i++) t.dim[i] = dim_substitute(g, t.dim[i], SYM_PAST, dim_const(0));
    bool typed = (op_info(n.op)->flags & F_TYPED) != 0;
    r.v = graph_add(g, n.op, in, n.nin, &n.attr, typed ? &t : NULL, n.loc, &f->diag);
    if (!val_ok(r.v)) return false;
    f->rows[v.id] = *out = r;
    return true;
}

/* A state of its own for operand v of an attention, [batch, total, heads, d]; none when v is no function of
 * states that keeps positions apart. */
static ValId state_split(Fit *f, ValId v, uint32_t number, Loc loc) {
    Graph *g = f->g;
    Rows r;
    Type t = *graph_type(g, v);
    if (!rows_of(f, v, DEPTH_MAX, &r) || r.axis != 1 || t.rank != 4) return NO_VAL;
    t.dim[1] = dim_sym(g, SYM_PAST);
    const char *name = arena_printf(g->arena, "%s/%u", g->states.data[f->first].name, number);
    ValId pair[2] = {graph_input(g, name, t, ROLE_PAST), r.v};
    Attr a = attr_default();
    a.axis = 1;
    ValId out = graph_add(g, OP_CONCAT, pair, 2, &a, NULL, loc, &f->diag);
    State s = {name, pair[0], out, 1};
    if (val_ok(out)) VEC_PUSH(g->arena, &g->states, s);
    return out;
}

/* States that nothing reads any more go. */
static void states_drop(PassCtx *cx, Graph *g, size_t made) {
    size_t count = g->states.count - made, states = 0, inputs = 0;
    bool *need = arena_array_of(cx->scratch, g->values.count, bool);
    for (size_t i = 0; i < g->outputs.count; i++) need[g->outputs.data[i].v.id] = true;
    for (size_t i = count; i < g->states.count; i++) need[g->states.data[i].out.id] = true;
    for (NodeId id = g->last; node_ok(id); id = graph_node(g, id)->prev) {
        const Node *n = graph_node(g, id);
        bool used = false;
        for (uint32_t o = 0; o < n->nout; o++) used = used || need[n->out[o].id];
        for (uint32_t i = 0; used && i < n->nin; i++) need[n->in[i].id] = true;
    }
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

static bool is_state(const Graph *g, ValId v) {
    for (size_t i = 0; i < g->states.count; i++)
        if (val_eq(g->states.data[i].out, v)) return true;
    return false;
}

/* The state made for an operand equal to v, or none. */
static ValId made_before(const Graph *g, const ValId *now, size_t known, ValId v) {
    for (uint32_t i = 1; i < known; i++)
        if (val_ok(now[i]) && match_same(g, (ValId){i}, v)) return now[i];
    return NO_VAL;
}

static ValId fit_operand(Fit *f, NodeId attention, ValId v, uint32_t number) {
    Graph *g = f->g;
    g->insert_before = attention;
    f->rows = arena_array_of(f->cx->scratch, g->values.count, Rows);
    ValId now = state_split(f, v, number, graph_node(g, attention)->loc);
    g->insert_before = NO_NODE;
    return now;
}

bool states_fit(PassCtx *cx, Graph *g) {
    if (g->states.count == 0) return true;
    Fit f = {.cx = cx, .g = g, .taint = graph_taint(g, cx->scratch), .known = g->values.count};
    ValId *now = arena_array_of(cx->scratch, f.known, ValId); /* by operand */
    uint32_t made = 0;
    diag_init(&f.diag);
    FOR_NODES (g, id) {
        if (graph_node(g, id)->op != OP_ATTENTION) continue;
        for (uint32_t i = 1; i <= 2; i++) {
            ValId v = graph_node(g, id)->in[i];
            if (v.id >= f.known || is_state(g, v)) continue;
            ValId state = made_before(g, now, f.known, v);
            if (!val_ok(state)) {
                state = now[v.id] = fit_operand(&f, id, v, made);
                made += val_ok(state);
            }
            if (val_ok(state)) graph_node(g, id)->in[i] = state;
        }
    }
    diag_free(&f.diag);
    if (made > 0) states_drop(cx, g, made);
    return true;
}
