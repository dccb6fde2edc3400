/* graph.c: building and editing graphs, and the facts that are computed from them on demand.
 *
 * Nodes live in an array that only grows; their order is a doubly linked list through it, so that
 * inserting and erasing keep every handle valid. */
#include <string.h>

#include "ir/ir.h"
#include "ir/internal.h"

static char *name_copy(Arena *a, const char *s) { return s == NULL ? NULL : arena_strdup(a, s); }

Graph *graph_new(Arena *a) {
    Graph *g = arena_new_of(a, Graph);
    g->arena = a;
    Value value = {0};
    Node node = {0};
    Symbol symbol = {"", 0, 0};
    VEC_PUSH(a, &g->values, value);
    VEC_PUSH(a, &g->nodes, node);
    VEC_PUSH(a, &g->symbols, symbol);
    symbol_add(g, "batch", 5);
    symbol_add(g, "seq", 3);
    symbol_add(g, "past", 4);
    return g;
}

#define COPY_VEC(to, from)                                                                                   \
    ((to)->data = arena_dup(a, (from)->data, (from)->count * sizeof(*(from)->data)),                         \
     (to)->count = (to)->cap = (from)->count)

Graph *graph_copy(const Graph *g, Arena *a) {
    Graph *c = arena_dup(a, g, sizeof(*g));
    c->arena = a;
    COPY_VEC(&c->values, &g->values);
    COPY_VEC(&c->nodes, &g->nodes);
    COPY_VEC(&c->consts, &g->consts);
    COPY_VEC(&c->symbols, &g->symbols);
    COPY_VEC(&c->inputs, &g->inputs);
    COPY_VEC(&c->outputs, &g->outputs);
    COPY_VEC(&c->states, &g->states);
    for (size_t i = 0; i < c->values.count; i++)
        c->values.data[i].name = name_copy(a, g->values.data[i].name);
    for (size_t i = 0; i < c->nodes.count; i++) {
        Node *n = &c->nodes.data[i];
        n->in = arena_dup(a, n->in, n->nin * sizeof(ValId));
        n->loc.name = name_copy(a, n->loc.name);
    }
    for (size_t i = 0; i < c->consts.count; i++)
        c->consts.data[i].path = name_copy(a, g->consts.data[i].path);
    for (size_t i = 0; i < c->symbols.count; i++)
        c->symbols.data[i].name = name_copy(a, g->symbols.data[i].name);
    for (size_t i = 0; i < c->inputs.count; i++)
        c->inputs.data[i].name = name_copy(a, g->inputs.data[i].name);
    for (size_t i = 0; i < c->outputs.count; i++)
        c->outputs.data[i].name = name_copy(a, g->outputs.data[i].name);
    for (size_t i = 0; i < c->states.count; i++)
        c->states.data[i].name = name_copy(a, g->states.data[i].name);
    dims_copy(c, g);
    return c;
}

/* ---- building ---- */

static ValId value_new(Graph *g, ValKind kind, Type t, const char *name) {
    Value v = {0};
    v.kind = kind;
    v.type = t;
    v.name = name;
    v.slot = NO_SLOT;
    VEC_PUSH(g->arena, &g->values, v);
    return (ValId){(uint32_t)(g->values.count - 1)};
}

ValId graph_input(Graph *g, const char *name, Type t, Role role) {
    const char *copy = name_copy(g->arena, name);
    ValId v = value_new(g, V_INPUT, t, copy);
    Port port = {v, copy, role};
    VEC_PUSH(g->arena, &g->inputs, port);
    return v;
}

ValId graph_const(Graph *g, Type t, const void *data, const char *name) {
    Const c = {0};
    c.data = data;
    if (!type_static_bytes(&t, &c.bytes)) c.bytes = 0; /* the verifier names it */
    ValId v = value_new(g, V_CONST, t, name_copy(g->arena, name));
    graph_val(g, v)->cidx = (uint32_t)g->consts.count;
    VEC_PUSH(g->arena, &g->consts, c);
    return v;
}

ValId graph_const_f32(Graph *g, float v) {
    return graph_const(g, type_scalar(DT_F32), arena_dup(g->arena, &v, sizeof(v)), NULL);
}

ValId graph_const_i64(Graph *g, int64_t v) {
    return graph_const(g, type_scalar(DT_I64), arena_dup(g->arena, &v, sizeof(v)), NULL);
}

void graph_output(Graph *g, ValId v, const char *name, Role role) {
    Port port = {v, name_copy(g->arena, name), role};
    VEC_PUSH(g->arena, &g->outputs, port);
}

static void node_link(Graph *g, NodeId id, NodeId before) {
    Node *n = graph_node(g, id);
    n->next = before;
    n->prev = node_ok(before) ? graph_node(g, before)->prev : g->last;
    if (node_ok(n->prev))
        graph_node(g, n->prev)->next = id;
    else
        g->first = id;
    if (node_ok(before))
        graph_node(g, before)->prev = id;
    else
        g->last = id;
}

static void node_unlink(Graph *g, NodeId id) {
    Node *n = graph_node(g, id);
    if (node_ok(n->prev))
        graph_node(g, n->prev)->next = n->next;
    else
        g->first = n->next;
    if (node_ok(n->next))
        graph_node(g, n->next)->prev = n->prev;
    else
        g->last = n->prev;
    n->prev = n->next = NO_NODE;
}

static bool operands_fit(const Graph *g, Op op, const ValId *in, size_t nin, Loc loc, Diag *d) {
    const OpInfo *info = op_info(op);
    if (nin < info->min_in || nin > info->max_in) {
        const char *more = info->max_in == 255 ? " or more" : "";
        if (info->min_in == info->max_in || *more != '\0')
            return diag_error(d, loc, "%s takes %u%s operands, not %zu", info->name, (unsigned)info->min_in,
                              more, nin);
        return diag_error(d, loc, "%s takes %u to %u operands, not %zu", info->name, (unsigned)info->min_in,
                          (unsigned)info->max_in, nin);
    }
    for (size_t i = 0; i < nin; i++) {
        if (!val_ok(in[i])) {
            if (i < info->min_in || info->max_in == 255)
                return diag_error(d, loc, "operand %zu of %s is missing", i + 1, info->name);
        } else if (in[i].id >= g->values.count || graph_val(g, in[i])->kind == V_FREE) {
            return diag_bug(d, loc, "operand %zu of %s does not exist", i + 1, info->name);
        }
    }
    return true;
}

ValId graph_add(Graph *g, Op op, const ValId *in, size_t nin, const Attr *attr, const Type *result, Loc loc,
                Diag *d) {
    const OpInfo *info = op_info(op);
    if (info == op_info(OP_NONE)) {
        diag_bug(d, loc, "there is no op number %d", (int)op);
        return NO_VAL;
    }
    while (nin > info->min_in && !val_ok(in[nin - 1])) nin--;
    if (!operands_fit(g, op, in, nin, loc, d)) return NO_VAL;
    if ((info->flags & F_TYPED) != 0 && result == NULL) {
        diag_bug(d, loc, "%s needs its result type", info->name);
        return NO_VAL;
    }
    size_t values_before = g->values.count;
    NodeId id = {(uint32_t)g->nodes.count};
    Node n = {0};
    n.op = op;
    n.nin = (uint8_t)nin;
    n.nout = info->nout;
    n.in = arena_dup(g->arena, in, nin * sizeof(ValId));
    n.attr = attr != NULL ? *attr : attr_default();
    n.loc = loc;
    for (uint8_t i = 0; i < n.nout; i++) {
        Type t = {0};
        if ((info->flags & F_TYPED) != 0 && i == 0) t = *result;
        n.out[i] = value_new(g, V_NODE, t, NULL);
        graph_val(g, n.out[i])->def = id;
        graph_val(g, n.out[i])->out = i;
    }
    VEC_PUSH(g->arena, &g->nodes, n);
    node_link(g, id, g->insert_before);
    if (infer_node(g, id, d)) return n.out[0];
    node_unlink(g, id);
    g->nodes.count--;
    g->values.count = values_before;
    return NO_VAL;
}

/* ---- editing ---- */

void graph_replace(Graph *g, ValId old, ValId with) {
    FOR_NODES (g, id) {
        Node *n = graph_node(g, id);
        for (uint8_t i = 0; i < n->nin; i++)
            if (val_eq(n->in[i], old)) n->in[i] = with;
    }
    for (size_t i = 0; i < g->outputs.count; i++)
        if (val_eq(g->outputs.data[i].v, old)) g->outputs.data[i].v = with;
    for (size_t i = 0; i < g->states.count; i++) {
        State *s = &g->states.data[i];
        if (val_eq(s->in, old)) s->in = with;
        if (val_eq(s->out, old)) s->out = with;
    }
}

static void dims_substitute(Graph *g, Dim *dims, uint32_t n, SymId s, Dim by) {
    for (uint32_t i = 0; i < n; i++)
        if (dim_depends(g, dims[i], s)) dims[i] = dim_substitute(g, dims[i], s, by);
}

void graph_substitute(Graph *g, SymId s, Dim by) {
    for (size_t i = 1; i < g->values.count; i++)
        dims_substitute(g, g->values.data[i].type.dim, g->values.data[i].type.rank, s, by);
    for (size_t i = 1; i < g->nodes.count; i++) {
        Attr *a = &g->nodes.data[i].attr;
        dims_substitute(g, &a->value, 1, s, by);
        dims_substitute(g, a->starts, MAX_RANK, s, by);
    }
}

void graph_erase(Graph *g, NodeId id) {
    if (!node_ok(id) || graph_node(g, id)->op == OP_NONE) return;
    /* New nodes then go where the erased one was. */
    if (g->insert_before.id == id.id) g->insert_before = graph_node(g, id)->next;
    node_unlink(g, id);
    Node *n = graph_node(g, id);
    for (uint8_t i = 0; i < n->nout; i++) graph_val(g, n->out[i])->kind = V_FREE;
    n->op = OP_NONE;
    n->nin = n->nout = 0;
}

static void value_moved(const uint32_t *to, ValId *v) { *v = (ValId){to[v->id]}; }

static uint32_t *values_compact(Graph *g, Arena *scratch) {
    uint32_t *to = arena_array_of(scratch, g->values.count, uint32_t), n = 1;
    for (uint32_t i = 1; i < g->values.count; i++) {
        if (g->values.data[i].kind == V_FREE) continue;
        g->values.data[n] = g->values.data[i];
        to[i] = n++;
    }
    g->values.count = n;
    for (size_t i = 0; i < g->inputs.count; i++) value_moved(to, &g->inputs.data[i].v);
    for (size_t i = 0; i < g->outputs.count; i++) value_moved(to, &g->outputs.data[i].v);
    for (size_t i = 0; i < g->states.count; i++) {
        value_moved(to, &g->states.data[i].in);
        value_moved(to, &g->states.data[i].out);
    }
    return to;
}

void graph_compact(Graph *g, Arena *scratch) {
    const uint32_t *to = values_compact(g, scratch);
    uint32_t n = 1, count = 0;
    FOR_NODES (g, id) count++;
    Node *kept = arena_array_of(scratch, count + 1u, Node);
    FOR_NODES (g, id) { /* in running order */
        kept[n] = *graph_node(g, id);
        n++;
    }
    for (uint32_t i = 1; i < n; i++) {
        Node *x = &g->nodes.data[i];
        *x = kept[i];
        x->prev = (NodeId){i - 1};
        x->next = (NodeId){i + 1 < n ? i + 1 : 0};
        for (uint32_t k = 0; k < x->nin; k++) value_moved(to, &x->in[k]);
        for (uint32_t k = 0; k < x->nout; k++) {
            value_moved(to, &x->out[k]);
            graph_val(g, x->out[k])->def = (NodeId){i};
        }
    }
    g->nodes.count = n;
    g->first = (NodeId){n > 1};
    g->last = (NodeId){n - 1};
    g->insert_before = NO_NODE;
}

/* ---- looking ---- */

NodeId graph_def(const Graph *g, ValId v) {
    if (!val_ok(v) || v.id >= g->values.count) return NO_NODE;
    const Value *value = graph_val(g, v);
    return value->kind == V_NODE ? value->def : NO_NODE;
}

Op graph_def_op(const Graph *g, ValId v) {
    NodeId n = graph_def(g, v);
    return node_ok(n) ? graph_node(g, n)->op : OP_NONE;
}

const char *graph_describe(const Graph *g, NodeId id, Arena *a) {
    const Node *n = graph_node(g, id);
    const char *op = op_info(n->op)->name;
    const char *name = n->loc.name;
    if (n->loc.kind == LOC_TEXT) return arena_printf(a, "%s on line %u", op, n->loc.line);
    if (n->loc.kind != LOC_NODE) return arena_printf(a, "%s (node %u)", op, id.id);
    if (name == NULL || *name == '\0') return arena_printf(a, "%s #%u", op, n->loc.line);
    return arena_printf(a, "%s #%u \"%s\"", op, n->loc.line, name);
}

static void uses_note(Uses *u, ValId v, NodeId n, bool store) {
    if (!val_ok(v) || v.id >= u->nvals) return;
    if (store) u->user[u->first[v.id] + u->count[v.id]] = n;
    u->count[v.id]++;
}

static void uses_walk(const Graph *g, Uses *u, bool store) {
    FOR_NODES (g, id) {
        const Node *n = graph_node(g, id);
        for (uint8_t i = 0; i < n->nin; i++) uses_note(u, n->in[i], id, store);
    }
    for (size_t i = 0; i < g->outputs.count; i++) uses_note(u, g->outputs.data[i].v, NO_NODE, store);
    for (size_t i = 0; i < g->states.count; i++) {
        uses_note(u, g->states.data[i].in, NO_NODE, store);
        uses_note(u, g->states.data[i].out, NO_NODE, store);
    }
}

Uses graph_uses(const Graph *g, Arena *a) {
    Uses u = {0};
    u.nvals = (uint32_t)g->values.count;
    u.first = arena_array_of(a, u.nvals, uint32_t);
    u.count = arena_array_of(a, u.nvals, uint32_t);
    uses_walk(g, &u, false);
    uint32_t total = 0;
    for (uint32_t i = 0; i < u.nvals; i++) {
        u.first[i] = total;
        total += u.count[i];
        u.count[i] = 0;
    }
    u.user = arena_array_of(a, total, NodeId);
    uses_walk(g, &u, true);
    return u;
}

bool graph_used_once(const Uses *u, ValId v) { return val_ok(v) && v.id < u->nvals && u->count[v.id] == 1; }

bool *graph_taint(const Graph *g, Arena *a) {
    bool *taint = arena_array_of(a, g->values.count, bool);
    for (size_t i = 0; i < g->inputs.count; i++) {
        Role role = g->inputs.data[i].role;
        if (role == ROLE_TOKENS || role == ROLE_PAST) taint[g->inputs.data[i].v.id] = true;
    }
    for (size_t i = 0; i < g->states.count; i++) taint[g->states.data[i].in.id] = true;
    FOR_NODES (g, id) {
        const Node *n = graph_node(g, id);
        bool any = false;
        for (uint8_t i = 0; i < n->nin; i++) any = any || taint[n->in[i].id];
        for (uint8_t i = 0; i < n->nout; i++) taint[n->out[i].id] = any;
    }
    return taint;
}

bool *graph_live(const Graph *g, Arena *a) {
    bool *value = arena_array_of(a, g->values.count, bool), *node = arena_array_of(a, g->nodes.count, bool);
    for (size_t i = 0; i < g->outputs.count; i++) value[g->outputs.data[i].v.id] = true;
    for (size_t i = 0; i < g->states.count; i++) value[g->states.data[i].out.id] = true;
    for (NodeId id = g->last; node_ok(id); id = graph_node(g, id)->prev) {
        const Node *n = graph_node(g, id);
        for (uint8_t o = 0; o < n->nout; o++) node[id.id] = node[id.id] || value[n->out[o].id];
        for (uint8_t i = 0; node[id.id] && i < n->nin; i++) value[n->in[i].id] = true;
    }
    return node;
}
