/* order.c: makes regions contiguous, in an order that keeps few values alive.
 *
 * Nodes outside regions (views, positions, constants' own nodes) go right before their first user.
 * Regions are emitted depth first from the outputs in their old order: a value is made as late as
 * its first use allows.
 * needs: REGIONS.  gives: ORDER. */
#include "passes/pass.h"

typedef struct {
    Graph *g;
    Arena *a;
    uint8_t *mark; /* node id -> 0 new, 1 open, 2 placed */
    VEC(NodeId) order;
    NodeId **members; /* region -> its nodes in old order */
    uint32_t *nmembers;
    PassCtx *cx;
} Order;

/* Depth-first with an explicit stack: a unit is a region or a single node outside regions. */
typedef struct {
    NodeId node;
    uint32_t region, step;
} Frame;

static uint32_t unit_size(const Order *o, const Frame *f) { return f->region ? o->nmembers[f->region] : 1; }
static NodeId unit_node(const Order *o, const Frame *f, uint32_t i) {
    return f->region ? o->members[f->region][i] : f->node;
}

static NodeId next_operand(Order *o, Frame *f) {
    uint32_t at = 0;
    for (uint32_t m = 0; m < unit_size(o, f); m++) {
        const Node *n = graph_node(o->g, unit_node(o, f, m));
        for (uint32_t i = 0; i < n->nin; i++, at++) {
            if (at < f->step) continue;
            f->step = at + 1;
            NodeId d = val_ok(n->in[i]) ? graph_def(o->g, n->in[i]) : NO_NODE;
            if (!node_ok(d)) continue;
            uint32_t r = graph_node(o->g, d)->region;
            if (r && r == f->region) continue;
            return d;
        }
    }
    return NO_NODE;
}

static void mark_unit(Order *o, const Frame *f, uint8_t m) {
    for (uint32_t i = 0; i < unit_size(o, f); i++) o->mark[unit_node(o, f, i).id] = m;
}

static bool place(Order *o, NodeId root) {
    VEC(Frame) stack = {0};
    if (o->mark[root.id]) return true;
    Frame first = {root, graph_node(o->g, root)->region, 0};
    mark_unit(o, &first, 1);
    VEC_PUSH(o->a, &stack, first);
    while (stack.count) {
        Frame *f = &stack.data[stack.count - 1];
        NodeId d = next_operand(o, f);
        if (node_ok(d)) {
            if (o->mark[d.id] == 2) continue;
            if (o->mark[d.id] == 1)
                return diag_bug(o->cx->diag, graph_node(o->g, d)->loc, "regions form a cycle");
            Frame child = {d, graph_node(o->g, d)->region, 0};
            mark_unit(o, &child, 1);
            VEC_PUSH(o->a, &stack, child);
            continue;
        }
        for (uint32_t i = 0; i < unit_size(o, f); i++) VEC_PUSH(o->a, &o->order, unit_node(o, f, i));
        mark_unit(o, f, 2);
        stack.count--;
    }
    return true;
}

static void relink(Graph *g, const NodeId *order, size_t n) {
    g->first = n ? order[0] : NO_NODE;
    g->last = n ? order[n - 1] : NO_NODE;
    for (size_t i = 0; i < n; i++) {
        Node *x = graph_node(g, order[i]);
        x->prev = i ? order[i - 1] : NO_NODE;
        x->next = i + 1 < n ? order[i + 1] : NO_NODE;
    }
}

PassResult pass_schedule(PassCtx *cx, Graph *g) {
    Order o = {.g = g, .a = cx->scratch, .cx = cx};
    uint32_t nregions = 0;
    FOR_NODES (g, id)
        if (graph_node(g, id)->region > nregions) nregions = graph_node(g, id)->region;
    o.mark = arena_array_of(cx->scratch, g->nodes.count, uint8_t);
    o.nmembers = arena_array_of(cx->scratch, nregions + 1, uint32_t);
    o.members = arena_array_of(cx->scratch, nregions + 1, NodeId *);
    FOR_NODES (g, id) o.nmembers[graph_node(g, id)->region]++;
    for (uint32_t r = 1; r <= nregions; r++) {
        o.members[r] = arena_array_of(cx->scratch, o.nmembers[r], NodeId);
        o.nmembers[r] = 0;
    }
    FOR_NODES (g, id) {
        uint32_t r = graph_node(g, id)->region;
        if (r) o.members[r][o.nmembers[r]++] = id;
    }
    /* states first: the cache is written before anything later reads it */
    FOR_NODES (g, id)
        if (graph_node(g, id)->op == OP_ATTENTION && !place(&o, id)) return PASS_FAILED;
    FOR_NODES (g, id)
        if (!place(&o, id)) return PASS_FAILED;
    relink(g, o.order.data, o.order.count);
    uint32_t *fresh = arena_array_of(cx->scratch, nregions + 1, uint32_t), next = 0;
    FOR_NODES (g, id) { /* regions are numbered in running order */
        Node *n = graph_node(g, id);
        if (!n->region) continue;
        if (!fresh[n->region]) fresh[n->region] = ++next;
        n->region = fresh[n->region];
    }
    return PASS_CHANGED;
}
