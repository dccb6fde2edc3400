/* stacked.c: past inputs that hold several states become one input a state.
 *
 *   past [2, batch, heads, past, d], present likewise     ->  past.0, past.1  [batch, heads, past, d]
 *   key = slice(past)[0], value = slice(past)[1]              key = past.0, value = past.1
 *   present = concat(concat(key, k), concat(value, v))        two outputs
 *
 * A stack is an axis of constant length that the graph takes apart by slices or gathers with constant
 * indices. Values made of it keep their parts: concat along another axis joins the parts one by one, so it
 * does not matter whether the graph appends before or after it takes the stack apart. */
#include <string.h>

#include "frontend/import.h"

#define PARTS_MAX 4096

typedef struct {
    ValId v;
    uint32_t axis, n;
    ValId *part; /* v without the axis, one for each index */
} Stack;
typedef struct {
    Call c;
    VEC(Stack) stacks;
} Stacks;

static const Stack *stack_of(const Stacks *s, ValId v) {
    for (size_t i = 0; i < s->stacks.count; i++)
        if (val_eq(s->stacks.data[i].v, v)) return &s->stacks.data[i];
    return NULL;
}

static Type without_axis(const Type *t, uint32_t axis) {
    Type r = *t;
    for (uint32_t i = axis; i + 1 < t->rank; i++) r.dim[i] = r.dim[i + 1];
    r.rank--;
    return r;
}

/* v without an axis of length 1; the value before that axis was put in, where there is one. */
static ValId drop_axis(Call *c, ValId v, uint32_t axis) {
    Graph *g = c->g;
    Type t = without_axis(graph_type(g, v), axis);
    if (graph_def_op(g, v) == OP_RESHAPE) {
        ValId in = graph_node(g, graph_def(g, v))->in[0];
        if (type_eq(graph_type(g, in), &t)) return in;
    }
    return emit_reshape(c, v, t.rank, t.dim);
}

/* The graph's values and the import's tensors. */
static void replace(Import *im, ValId old, ValId with) {
    graph_replace(im->g, old, with);
    for (size_t i = 1; i < im->tensors.count; i++)
        if (val_eq(im->tensors.data[i].val, old)) im->tensors.data[i].val = with;
}

static void stack_add(Stacks *s, ValId v, uint32_t axis, const ValId *part, uint32_t n) {
    Arena *a = s->c.im->scratch;
    Stack st = {v, axis, n, arena_dup(a, part, n * sizeof(*part))};
    VEC_PUSH(a, &s->stacks, st);
}

/* v is its parts, one on the other. */
static bool pile(Stacks *s, ValId v, uint32_t axis, const ValId *part, uint32_t n) {
    ValId *thick = arena_array_of(s->c.im->scratch, n, ValId);
    for (uint32_t i = 0; i < n; i++) thick[i] = emit_insert_axis(&s->c, part[i], axis);
    ValId whole = emit_concat(&s->c, thick, n, axis);
    if (!val_ok(whole)) return false;
    replace(s->c.im, v, whole);
    stack_add(s, whole, axis, part, n);
    return true;
}

/* ---- what may be said of a node's result ---- */

/* The one index, or the first of a run, that a slice or gather takes along the axis. */
static bool picks(const Graph *g, const Node *n, uint32_t axis, int64_t *start, int64_t *count) {
    const Type *x = graph_type(g, n->in[0]), *t = graph_type(g, n->out[0]);
    if (n->op == OP_GATHER) {
        const Type *index = graph_type(g, n->in[1]);
        if ((uint32_t)n->attr.axis != axis || index->rank > 1 || !const_get_i64(g, n->in[1], 0, start))
            return false;
        if (index->rank == 1 && !dim_eq(index->dim[0], dim_const(1))) return false;
        if (*start < 0) *start += x->dim[axis].v;
        *count = 1;
        return true;
    }
    if (n->op != OP_SLICE || !dim_is_const(n->attr.starts[axis]) || !dim_is_const(t->dim[axis])) return false;
    for (uint32_t i = 0; i < x->rank; i++)
        if (i != axis && !dim_eq(x->dim[i], t->dim[i])) return false;
    *start = n->attr.starts[axis].v;
    *count = t->dim[axis].v;
    return n->attr.steps[axis] == 1 || *count == 1;
}

static bool visit_pick(Stacks *s, const Node *n, const Stack *st) {
    int64_t start = 0, count = 0;
    if (!picks(s->c.g, n, st->axis, &start, &count)) return true;
    if (start < 0 || count < 1 || start > (int64_t)st->n - count) return true;
    if (count > 1) {
        stack_add(s, n->out[0], st->axis, st->part + start, (uint32_t)count);
        return true;
    }
    Type t = *graph_type(s->c.g, n->out[0]);
    ValId part = emit_reshape(&s->c, st->part[start], t.rank, t.dim);
    if (!val_ok(part)) return false;
    replace(s->c.im, n->out[0], part);
    return true;
}

/* Operand i's parts along an axis: of a stack, or the operand itself when it is one thick. */
static uint32_t operand_parts(Stacks *s, ValId v, uint32_t axis, ValId *part, uint32_t room) {
    const Stack *st = stack_of(s, v);
    if (st != NULL && st->axis == axis && st->n <= room) {
        memcpy(part, st->part, st->n * sizeof(*part));
        return st->n;
    }
    if (!dim_eq(graph_type(s->c.g, v)->dim[axis], dim_const(1)) || room == 0) return 0;
    *part = drop_axis(&s->c, v, axis);
    return val_ok(*part);
}

/* The operands one on the other. */
static bool visit_pile(Stacks *s, const Node *n) {
    ValId *part = arena_array_of(s->c.im->scratch, PARTS_MAX, ValId);
    uint32_t count = 0;
    for (uint32_t i = 0; i < n->nin; i++) {
        uint32_t more = operand_parts(s, n->in[i], (uint32_t)n->attr.axis, part + count, PARTS_MAX - count);
        if (more == 0) return s->c.d->errors == 0;
        count += more;
    }
    stack_add(s, n->out[0], (uint32_t)n->attr.axis, part, count);
    return true;
}

/* Stacks joined along another axis are joined part by part. */
static bool visit_join(Stacks *s, const Node *n, const Stack *first) {
    uint32_t axis = (uint32_t)n->attr.axis, count = first->n;
    ValId *part = arena_array_of(s->c.im->scratch, count, ValId);
    ValId *in = arena_array_of(s->c.im->scratch, n->nin, ValId);
    for (uint32_t k = 0; k < n->nin; k++) {
        const Stack *st = stack_of(s, n->in[k]);
        if (st == NULL || st->axis != first->axis || st->n != count) return true;
    }
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t k = 0; k < n->nin; k++) in[k] = stack_of(s, n->in[k])->part[i];
        part[i] = emit_concat(&s->c, in, n->nin, axis > first->axis ? axis - 1 : axis);
        if (!val_ok(part[i])) return false;
    }
    return pile(s, n->out[0], first->axis, part, count);
}

/* A reshape that takes back what the one before did. */
static void visit_reshape(Stacks *s, const Node *n) {
    const Graph *g = s->c.g;
    if (graph_def_op(g, n->in[0]) != OP_RESHAPE) return;
    ValId before = graph_node(g, graph_def(g, n->in[0]))->in[0];
    if (type_eq(graph_type(g, before), graph_type(g, n->out[0]))) replace(s->c.im, n->out[0], before);
}

static bool visit(Stacks *s, NodeId id) {
    Node n = *graph_node(s->c.g, id);
    s->c.g->insert_before = n.next;
    if (n.nin == 0 || n.nout != 1) return true;
    if (n.op == OP_RESHAPE) visit_reshape(s, &n);
    const Stack *st = stack_of(s, n.in[0]);
    if (n.op == OP_CONCAT && graph_type(s->c.g, n.out[0])->rank > 4 &&
        (st == NULL || st->axis == (uint32_t)n.attr.axis))
        return visit_pile(s, &n);
    if (st == NULL) return true;
    Stack copy = *st;
    return n.op == OP_CONCAT ? visit_join(s, &n, &copy) : visit_pick(s, &n, &copy);
}

/* ---- inputs ---- */

/* The first axis of constant length that something picks from. */
static bool stack_axis(const Graph *g, ValId v, uint32_t depth, uint32_t *axis) {
    const Type *t = graph_type(g, v);
    for (*axis = 0; *axis < t->rank; ++*axis) {
        if (!dim_is_const(t->dim[*axis]) || t->dim[*axis].v < 1 || t->dim[*axis].v > PARTS_MAX) continue;
        FOR_NODES (g, id) {
            const Node *n = graph_node(g, id);
            int64_t start, count;
            bool reads = n->nin > 0 && val_eq(n->in[0], v);
            if (reads && n->op == OP_CONCAT && depth > 0 && stack_axis(g, n->out[0], depth - 1, axis))
                return true;
            if (reads && picks(g, n, *axis, &start, &count) && count < t->dim[*axis].v) return true;
        }
    }
    return false;
}

/* Port p becomes one port for each part; all of them together are what it was. */
static bool split_input(Import *im, Stacks *s, size_t p, uint32_t axis) {
    Graph *g = im->g;
    Port port = g->inputs.data[p];
    Type t = without_axis(graph_type(g, port.v), axis);
    uint32_t n = (uint32_t)graph_type(g, port.v)->dim[axis].v;
    ValId *part = arena_array_of(im->scratch, n, ValId);
    g->insert_before = g->first;
    for (uint32_t i = 0; i < n; i++) {
        part[i] = graph_input(g, arena_printf(im->arena, "%s.%u", port.name, i), t, ROLE_PAST);
        dynamic_set(im, part[i], true);
    }
    for (size_t i = p; i + 1 < g->inputs.count; i++) g->inputs.data[i] = g->inputs.data[i + 1];
    g->inputs.count--;
    graph_val(g, port.v)->kind = V_FREE;
    return pile(s, port.v, axis, part, n);
}

bool stacked_split(Import *im) {
    Graph *g = im->g;
    INode none = {.op = "past", .domain = "", .name = ""};
    for (;;) { /* a stack of stacks is split once for each of its axes */
        Stacks s = {.c = {.im = im, .g = g, .d = im->d, .n = &none, .loc = loc_none()}};
        size_t count = g->inputs.count, kept = 0;
        for (size_t i = 0; i < count; i++) {
            const Port *p = &g->inputs.data[kept];
            uint32_t axis = 0;
            if (p->role != ROLE_PAST || graph_type(g, p->v)->rank < 5 || !stack_axis(g, p->v, 2, &axis))
                kept++;
            else if (!split_input(im, &s, kept, axis))
                return false;
        }
        bool ok = true;
        for (NodeId id = g->first; node_ok(id) && ok && s.stacks.count > 0; id = graph_node(g, id)->next)
            ok = visit(&s, id);
        g->insert_before = NO_NODE;
        if (!ok || kept == count) return ok;
    }
}

size_t stacked_parts(Import *im, ValId out, ValId *part, size_t max) {
    Graph *g = im->g;
    INode none = {.op = "present", .domain = "", .name = ""};
    Call c = {.im = im, .g = g, .d = im->d, .n = &none, .loc = loc_none()};
    size_t count = 0;
    *part = out;
    if (graph_def_op(g, out) != OP_CONCAT || graph_type(g, out)->rank < 5) return 1;
    Node n = *graph_node(g, graph_def(g, out));
    for (uint32_t i = 0; i < n.nin; i++) {
        ValId v = n.in[i];
        bool thick =
            graph_def_op(g, v) == OP_RESHAPE && dim_eq(graph_type(g, v)->dim[n.attr.axis], dim_const(1));
        if (thick) v = drop_axis(&c, v, (uint32_t)n.attr.axis);
        if (!thick || !val_ok(v) || count == max) {
            *part = out;
            return 1;
        }
        count += stacked_parts(im, v, part + count, max - count);
    }
    return count;
}
