/* fuse.c: groups nodes into regions, each of which one kernel runs.
 *
 * A region is grown from an anchor. The primitives stay in the graph, so that printing, verifying and
 * evaluating work unchanged afterwards.
 *   linear     (and routed, without the sum) its product, then along the single-use chain an activation, a product with a row value
 *              (the gate of a gated unit) and a sum with a row value (the residual)
 *   pointwise  a root and the elementwise nodes above it that nothing else uses
 *   store      the cache's concat, and what rounds for it
 *   others     gather, norm, rope, attention, reductions, moves stand alone
 * Views (row_is_view), constants' own nodes and positions take no kernel and stay in region 0.
 * At -O0 every node is a region of its own.
 * needs: STATE.  gives: REGIONS. */
#include "passes/pass.h"

#define POINTWISE_INPUTS 6
#define POINTWISE_NODES 24

typedef struct {
    PassCtx *cx;
    Graph *g;
    Uses uses;
    bool *taint;
    uint32_t next;
} Fuse;

/* The only user of v, or none. */
static NodeId single_user(Fuse *f, ValId v) {
    if (v.id >= f->uses.nvals || f->uses.count[v.id] != 1) return NO_NODE;
    return f->uses.user[f->uses.first[v.id]];
}

/* The same, looking through views that are themselves used once; *views counts them. */
static NodeId single_user_past_views(Fuse *f, ValId v, NodeId *views, uint32_t cap, uint32_t *nviews) {
    *nviews = 0;
    for (;;) {
        NodeId u = single_user(f, v);
        if (!node_ok(u) || !row_is_view(f->g, u)) return u;
        if (*nviews == cap) return NO_NODE;
        views[(*nviews)++] = u;
        v = graph_node(f->g, u)->out[0];
    }
}

static bool is_row_operand(Fuse *f, ValId v, int64_t width) {
    RowShape s;
    return row_shape(f->g, v, &s) && s.per_row && s.width == width;
}

static bool is_activation(const Node *n) {
    return n->op == OP_GELU || (n->op == OP_SILU && n->attr.alpha == 1.0f) || n->op == OP_RELU ||
           n->op == OP_TANH || n->op == OP_SIGMOID;
}

static void grow_linear(Fuse *f, NodeId anchor) {
    Graph *g = f->g;
    uint32_t region = ++f->next;
    graph_node(g, anchor)->region = region;
    ValId v = graph_node(g, anchor)->out[0];
    RowShape shape;
    if (f->cx->opt->opt_level == 0 || !row_shape(g, v, &shape)) return;
    enum { ACT, GATE, RESIDUAL, END } next = ACT;
    NodeId u, views[8];
    uint32_t nviews;
    for (; next < END && node_ok(u = single_user_past_views(f, v, views, COUNT_OF(views), &nviews));
         v = graph_node(g, u)->out[0]) {
        Node *n = graph_node(g, u);
        if (n->region) return;
        if (next == ACT && is_activation(n)) {
            next = GATE;
        } else if (n->op == OP_MUL || n->op == OP_ADD) {
            ValId other = val_eq(row_source(g, n->in[0]), row_source(g, v)) ? n->in[1] : n->in[0];
            if (!is_row_operand(f, other, shape.width) || val_eq(n->in[0], n->in[1])) return;
            if (!is_row_operand(f, n->out[0], shape.width)) return;
            if (n->op == OP_MUL && next <= GATE)
                next = graph_node(g, anchor)->op == OP_ROUTED ? END : RESIDUAL;
            else if (n->op == OP_ADD && graph_node(g, anchor)->op == OP_LINEAR)
                next = END;
            else
                return;
        } else {
            return;
        }
        n->region = region; /* the views between belong to the region too */
        for (uint32_t i = 0; i < nviews; i++) graph_node(g, views[i])->region = region;
    }
}

static bool is_pointwise(const Node *n) { return (op_info(n->op)->flags & F_ELEM) && n->op != OP_CAST; }

static uint32_t region_inputs(Fuse *f, uint32_t region, NodeId extra) {
    Graph *g = f->g;
    VEC(ValId) seen = {0};
    FOR_NODES (g, id) {
        const Node *n = graph_node(g, id);
        if (n->region != region && id.id != extra.id) continue;
        for (uint32_t i = 0; i < n->nin; i++) {
            NodeId d = graph_def(g, row_source(g, n->in[i]));
            double c;
            if (node_ok(d) && (graph_node(g, d)->region == region || d.id == extra.id)) continue;
            if (const_scalar(g, n->in[i], &c)) continue;
            bool known = false;
            for (size_t k = 0; k < seen.count; k++) known |= val_eq(seen.data[k], n->in[i]);
            if (!known) VEC_PUSH(f->cx->scratch, &seen, n->in[i]);
        }
    }
    return (uint32_t)seen.count;
}

static void grow_pointwise(Fuse *f, NodeId root) {
    Graph *g = f->g;
    uint32_t region = ++f->next, count = 1;
    Node *r = graph_node(g, root);
    r->region = region;
    if (f->cx->opt->opt_level == 0) return;
    for (bool grew = true; grew && count < POINTWISE_NODES;) {
        grew = false;
        FOR_NODES (g, id) {
            Node *n = graph_node(g, id);
            if (n->region != region) continue;
            for (uint32_t i = 0; i < n->nin && !grew; i++) {
                NodeId d = graph_def(g, n->in[i]);
                if (!node_ok(d)) continue;
                Node *p = graph_node(g, d);
                if (p->region || !is_pointwise(p) || !f->taint[p->out[0].id]) continue;
                if (!graph_used_once(&f->uses, p->out[0])) continue;
                if (!type_eq(graph_type(g, p->out[0]), graph_type(g, r->out[0])) &&
                    graph_type(g, p->out[0])->rank != graph_type(g, r->out[0])->rank)
                    continue;
                RowShape a, b;
                if (!row_shape(g, p->out[0], &a) || !row_shape(g, r->out[0], &b) || a.width != b.width)
                    continue;
                if (region_inputs(f, region, d) > POINTWISE_INPUTS) continue;
                p->region = region;
                count++;
                grew = true;
            }
            if (grew) break;
        }
    }
}

static bool stands_alone(const Graph *g, const Node *n) {
    (void)g;
    switch (n->op) {
    case OP_GATHER:
    case OP_NORM:
    case OP_ROPE:
    case OP_ATTENTION:
    case OP_CONCAT:
    case OP_SLICE:
    case OP_TRANSPOSE:
    case OP_RESHAPE:
    case OP_BROADCAST:
    case OP_SOFTMAX:
    case OP_REDUCE_SUM:
    case OP_REDUCE_MEAN:
    case OP_REDUCE_MAX:
    case OP_REDUCE_MIN:
    case OP_REDUCE_PROD: return true;
    default: return false;
    }
}

/* Row tables picked by position are untainted but run per row as well. */
static bool needs_kernel(Fuse *f, const Node *n) {
    if (f->taint[n->out[0].id]) return true;
    return n->op == OP_GATHER && row_is_positions(f->g, n->in[1]);
}

PassResult pass_fuse(PassCtx *cx, Graph *g) {
    Fuse f = {.cx = cx, .g = g, .uses = graph_uses(g, cx->scratch), .taint = graph_taint(g, cx->scratch)};
    FOR_NODES (g, id) graph_node(g, id)->region = 0;
    FOR_NODES (g, id)
        if (graph_node(g, id)->op == OP_LINEAR || graph_node(g, id)->op == OP_ROUTED) grow_linear(&f, id);
    uint32_t linear = f.next;
    for (NodeId id = g->last; id.id; id = graph_node(g, id)->prev) {
        Node *n = graph_node(g, id);
        if (n->region || row_is_view(g, id) || !needs_kernel(&f, n)) continue;
        if (row_is_tokens(g, n->out[0])) continue;
        if (n->op == OP_ROUNDED && graph_node(g, single_user(&f, n->out[0]))->op == OP_CONCAT)
            n->region = graph_node(g, single_user(&f, n->out[0]))->region;
        else if (stands_alone(g, n))
            n->region = ++f.next;
        else if (is_pointwise(n))
            grow_pointwise(&f, id);
        else
            n->region = ++f.next;
    }
    pass_count(cx, "linear regions", linear);
    pass_count(cx, "regions", f.next);
    return PASS_CHANGED;
}
