/* doctor_arch.c: the architecture, found by walking the raised graph.
 *
 * From each attention a walk up its operands finds rotation, norms on queries and keys, projections, the norm
 * before the block and the stream it reads; a walk down finds the output projection, norms after it and the sum.
 * What lies between two such beginnings is a layer; its other products are the feed-forward part. */
#include "tools/doctor_arch.h"

static const Node *def_of(const Arch *a, ValId v) {
    NodeId id = graph_def(a->g, v);
    return node_ok(id) ? graph_node(a->g, id) : NULL;
}

bool arch_tainted(const Arch *a, ValId v) { return val_ok(v) && a->taint[v.id]; }

static ValId root_constant(const Arch *a, ValId v, uint32_t depth) {
    if (!val_ok(v) || arch_tainted(a, v)) return NO_VAL;
    if (graph_constant(a->g, v)) return v;
    const Node *n = def_of(a, v);
    ValId best = NO_VAL;
    for (uint32_t i = 0; n != NULL && depth > 0 && i < n->nin; i++) {
        ValId c = root_constant(a, n->in[i], depth - 1);
        if (val_ok(c) &&
            (!val_ok(best) || graph_constant(a->g, c)->bytes > graph_constant(a->g, best)->bytes))
            best = c;
    }
    return best;
}

ValId arch_constant(const Arch *a, ValId v) { return root_constant(a, v, 12); }

int64_t arch_width(const Arch *a, ValId v) {
    const Type *t = graph_type(a->g, v);
    return t->rank && dim_is_const(t->dim[t->rank - 1]) ? t->dim[t->rank - 1].v : 0;
}

/* ---- walks ---- */

/* The operand that the walk up goes on with; NO_VAL where it ends. */
static ValId above(const Arch *a, const Node *n) {
    switch (n->op) {
    case OP_CONCAT: /* a state and what is appended to it */
        return n->in[arch_tainted(a, n->in[n->nin - 1]) ? n->nin - 1u : 0u];
    case OP_RESHAPE:
    case OP_TRANSPOSE:
    case OP_SLICE:
    case OP_CAST:
    case OP_BROADCAST:
    case OP_LINEAR:
    case OP_NORM:
    case OP_ROPE:
    case OP_TANH: return n->in[0];
    case OP_MUL:
    case OP_DIV:
    case OP_ADD:
    case OP_SUB:
        if (!arch_tainted(a, n->in[1]) || n->op == OP_DIV) return n->in[0]; /* x / root: a norm */
        return arch_tainted(a, n->in[0]) ? NO_VAL : n->in[1];
    default: return NO_VAL;
    }
}

/* v is a projection of another norm's result: the inner half of a low-rank projection. */
static bool is_inner(const Arch *a, ValId v) {
    bool projected = false;
    for (uint32_t depth = 0; depth < 16 && val_ok(v); depth++) {
        const Node *n = def_of(a, v);
        if (n == NULL || n->op == OP_ADD) return false;
        if (n->op == OP_NORM) return projected;
        projected = projected || n->op == OP_LINEAR;
        v = above(a, n);
    }
    return false;
}

static void starts_at(const Arch *a, Layer *l, NodeId id) {
    if (!node_ok(l->start) || a->order[id.id] < a->order[l->start.id]) l->start = id;
}

/* From an operand of attention to the stream. */
static void climb_operand(Arch *a, ValId v, Layer *l) {
    bool projected = false;
    for (uint32_t depth = 0; depth < 64; depth++) {
        const Node *n = def_of(a, v);
        ValId up = n ? above(a, n) : NO_VAL;
        if (n && !val_ok(up) && !projected && (op_info(n->op)->flags & F_ELEM))
            up = n->in[0]; /* a rotation */
        if (!val_ok(up)) break;
        NodeId id = graph_def(a->g, v);
        if (n->op == OP_ROPE) l->rope = n;
        if (n->op == OP_NORM && !projected) l->qk_norm = true;
        if (n->op == OP_LINEAR) {
            if (projected) break; /* the stream is a projection: another model's business */
            projected = true;
            a->part[id.id] = ATTENTION;
            l->bias_in = l->bias_in || arch_has(n, 2);
            starts_at(a, l, id);
        }
        if (n->op == OP_NORM && projected && is_inner(a, n->in[0])) {
            l->low_rank = true;
            projected = false;
        } else if (n->op == OP_NORM && projected) {
            l->pre = n;
            l->stream = n->in[0];
            starts_at(a, l, id);
            return;
        }
        v = up;
    }
    l->stream = v;
}

static const Node *live_user(const Arch *a, ValId v, NodeId *id) {
    for (uint32_t i = 0; i < a->uses.count[v.id]; i++) {
        *id = a->uses.user[a->uses.first[v.id] + i];
        if (node_ok(*id) && a->order[id->id]) return graph_node(a->g, *id);
    }
    return NULL;
}

/* From attention's result to the sum with the stream. */
static void descend(Arch *a, Layer *l) {
    ValId v = graph_node(a->g, l->attention)->out[0];
    ValId normed = l->pre ? l->pre->out[0] : NO_VAL;
    for (uint32_t depth = 0; depth < 32; depth++) {
        NodeId id;
        const Node *n = live_user(a, v, &id);
        if (n == NULL || n->op == OP_ATTENTION) return;
        if (n->op == OP_LINEAR) {
            a->part[id.id] = ATTENTION;
            l->bias_out = l->bias_out || arch_has(n, 2);
        }
        if (n->op == OP_NORM) l->inner = n;
        if (n->op == OP_MUL && arch_tainted(a, n->in[0]) && arch_tainted(a, n->in[1])) l->gated_out = true;
        if (n->op == OP_ADD && arch_tainted(a, n->in[0]) && arch_tainted(a, n->in[1])) {
            ValId other = val_eq(n->in[0], v) ? n->in[1] : n->in[0];
            l->sum = n;
            l->post = val_eq(other, normed);
            if (val_eq(other, l->stream) || l->post || l->parallel) return;
            l->parallel = true; /* the feed-forward part is added first */
        }
        v = n->out[0];
    }
}

static void climb_logits(Arch *a) {
    ValId v = NO_VAL;
    for (size_t i = 0; i < a->g->outputs.count; i++)
        if (a->g->outputs.data[i].role == ROLE_LOGITS) v = a->g->outputs.data[i].v;
    double scale = 0;
    for (uint32_t depth = 0; depth < 32 && val_ok(v); depth++) {
        const Node *n = def_of(a, v);
        if (n == NULL) return;
        if (n->op == OP_NORM && node_ok(a->head)) {
            a->final_norm = n;
            return;
        }
        if (n->op == OP_LINEAR) {
            if (node_ok(a->head)) return;
            a->head = graph_def(a->g, v);
            a->part[a->head.id] = HEAD;
        }
        if (n->op == OP_MUL && !node_ok(a->head) && !const_scalar(a->g, n->in[1], &scale))
            const_scalar(a->g, n->in[0], &scale);
        if (n->op == OP_TANH && !node_ok(a->head)) a->logits_cap = scale;
        v = above(a, n);
    }
}

static bool is_act(Op op) {
    return op == OP_GELU || op == OP_SILU || op == OP_RELU || op == OP_TANH || op == OP_SIGMOID ||
           op == OP_ERF || op == OP_SOFTPLUS;
}

/* Feed-forward products and the activation between them, from the layer's first node to the next one's. */
static void read_feed(Arch *a, Layer *l, uint32_t until) {
    FOR_NODES (a->g, id) {
        const Node *n = graph_node(a->g, id);
        uint32_t at = a->order[id.id];
        if (at < a->order[l->start.id] || at >= until) continue;
        if (n->op == OP_LINEAR && a->part[id.id] == PART_NONE) a->part[id.id] = FEED;
        if (n->op == OP_ROUTED) l->routed = n;
        if (is_act(n->op) && (!l->act || n->op == OP_GELU || n->op == OP_SILU)) l->act = n;
        if (!l->act || (n->op != OP_MUL && n->op != OP_POW)) continue;
        bool left = val_eq(n->in[0], l->act->out[0]), right = val_eq(n->in[1], l->act->out[0]);
        double power = 0;
        l->act_squared |=
            (left && right) || (n->op == OP_POW && left && const_scalar(a->g, n->in[1], &power));
        l->act_gated |= left != right && arch_tainted(a, n->in[0]) && arch_tainted(a, n->in[1]);
    }
}

static void read_tables(Arch *a) {
    FOR_NODES (a->g, id) {
        const Node *n = graph_node(a->g, id);
        if (!a->order[id.id] || n->op != OP_GATHER) continue;
        ValId table = arch_constant(a, n->in[0]);
        if (!val_ok(table) || graph_type(a->g, n->in[0])->rank != 2) continue;
        if (row_is_tokens(a->g, n->in[1])) a->embedding = table;
        if (row_is_positions(a->g, n->in[1])) a->rows = table;
    }
}

void arch_read(Arch *a) {
    a->uses = graph_uses(a->g, a->a);
    a->taint = graph_taint(a->g, a->a);
    a->order = arena_array_of(a->a, a->g->nodes.count, uint32_t);
    a->part = arena_array_of(a->a, a->g->nodes.count, uint8_t);
    const bool *live = graph_live(a->g, a->a);
    uint32_t at = 0;
    FOR_NODES (a->g, id)
        if (live[id.id]) a->order[id.id] = ++at;
    climb_logits(a);
    FOR_NODES (a->g, id) {
        const Node *n = graph_node(a->g, id);
        if (n->op != OP_ATTENTION || !a->order[id.id]) continue;
        Layer l = {.attention = id};
        for (uint32_t i = 3; i-- > 0;) climb_operand(a, n->in[i], &l);
        if (!node_ok(l.start)) l.start = id;
        descend(a, &l);
        VEC_PUSH(a->a, &a->layers, l);
    }
    for (size_t i = 0; i < a->layers.count; i++) {
        uint32_t until = i + 1 < a->layers.count ? a->order[a->layers.data[i + 1].start.id]
                         : node_ok(a->head)      ? a->order[a->head.id]
                                                 : at + 1;
        read_feed(a, &a->layers.data[i], until);
    }
    read_tables(a);
}
