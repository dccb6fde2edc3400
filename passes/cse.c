/* cse.c: equal nodes once.
 *
 *   %3 = add(%1, %2)               %3 = add(%1, %2)
 *   %4 = add(%2, %1)          ->   %5 = mul(%3, %3)
 *   %5 = mul(%3, %4)
 *
 * Nodes are equal when op, attributes, result types and operands are; operands of commutative ops in
 * either order. Small constants are equal when their bytes are (large ones: tie). The earlier node stays.
 * leaves alone: nodes of different regions. */
#include <string.h>

#include "passes/rewrite.h"

#define SMALL_CONST 256 /* bytes */

typedef struct {
    uint64_t *hash;
    uint32_t *item;
    size_t mask;
} Table;

static Table table_new(Arena *a, size_t n) {
    Table t = {0};
    size_t size = 16;
    while (size < 2 * n + 2) size *= 2;
    t.hash = arena_array_of(a, size, uint64_t);
    t.item = arena_array_of(a, size, uint32_t);
    t.mask = size - 1;
    return t;
}

static void merge_constants(Graph *g, Arena *a, int64_t *merged) {
    Table t = table_new(a, g->values.count);
    ValId *with = arena_array_of(a, g->values.count, ValId);
    for (uint32_t i = 1; i < g->values.count; i++) {
        ValId v = {i};
        const Const *c = graph_constant(g, v);
        with[i] = v;
        if (c == NULL || c->bytes > SMALL_CONST) continue;
        uint64_t h = const_hash(g, v);
        size_t s = (size_t)h & t.mask;
        for (; t.item[s] != 0; s = (s + 1) & t.mask) {
            ValId o = {t.item[s]};
            const Const *other = graph_constant(g, o);
            if (t.hash[s] != h || !type_eq(graph_type(g, o), graph_type(g, v))) continue;
            if (other->bytes != c->bytes || memcmp(other->data, c->data, c->bytes) != 0) continue;
            with[i] = o;
            break;
        }
        if (t.item[s] == 0) {
            t.item[s] = i;
            t.hash[s] = h;
        }
    }
    FOR_NODES (g, id) {
        Node *n = graph_node(g, id);
        for (uint8_t i = 0; i < n->nin; i++) {
            if (!val_ok(n->in[i]) || val_eq(with[n->in[i].id], n->in[i])) continue;
            n->in[i] = with[n->in[i].id];
            ++*merged;
        }
    }
}

static bool commutes(const Node *n) { return (op_info(n->op)->flags & F_COMM) != 0 && n->nin == 2; }

static uint64_t node_hash(const Graph *g, const Node *n) {
    uint32_t key[6 + 3 * MAX_RANK] = {(uint32_t)n->op, n->nin, n->region};
    size_t k = 3;
    bool swap = commutes(n) && n->in[0].id > n->in[1].id;
    for (uint8_t i = 0; i < n->nin && i < 8; i++) key[k++] = n->in[swap ? 1 - i : i].id;
    const Type *t = graph_type(g, n->out[0]);
    key[k++] = (uint32_t)t->dtype << 8 | t->rank;
    for (uint32_t i = 0; i < t->rank; i++) key[k++] = (uint32_t)t->dim[i].v;
    uint64_t h = hash_bytes(key, k * sizeof(key[0]), 0);
    return h == 0 ? 1 : h;
}

static bool nodes_equal(const Graph *g, const Node *a, const Node *b) {
    if (a->op != b->op || a->nin != b->nin || a->nout != b->nout || a->region != b->region) return false;
    if (!attr_eq(a->op, &a->attr, &b->attr, MAX_RANK)) return false;
    for (uint8_t i = 0; i < a->nout; i++)
        if (!type_eq(graph_type(g, a->out[i]), graph_type(g, b->out[i]))) return false;
    bool same = true;
    for (uint8_t i = 0; i < a->nin; i++) same = same && val_eq(a->in[i], b->in[i]);
    if (same) return true;
    return commutes(a) && val_eq(a->in[0], b->in[1]) && val_eq(a->in[1], b->in[0]);
}

PassResult pass_cse(PassCtx *cx, Graph *g) {
    int64_t merged = 0;
    merge_constants(g, cx->scratch, &merged);
    Table t = table_new(cx->scratch, g->nodes.count);
    NodeId next = NO_NODE;
    for (NodeId id = g->first; node_ok(id); id = next) {
        const Node *n = graph_node(g, id);
        next = n->next;
        uint64_t h = node_hash(g, n);
        size_t s = (size_t)h & t.mask;
        for (; t.item[s] != 0; s = (s + 1) & t.mask)
            if (t.hash[s] == h && nodes_equal(g, graph_node(g, (NodeId){t.item[s]}), n)) break;
        if (t.item[s] == 0) {
            t.item[s] = id.id;
            t.hash[s] = h;
            continue;
        }
        const Node *first = graph_node(g, (NodeId){t.item[s]});
        for (uint8_t i = 0; i < n->nout; i++) {
            Value *keep = graph_val(g, first->out[i]);
            if (keep->name == NULL) keep->name = graph_val(g, n->out[i])->name;
            graph_replace(g, n->out[i], first->out[i]);
        }
        graph_erase(g, id);
        merged++;
    }
    pass_count(cx, "merged", merged);
    return merged > 0 ? PASS_CHANGED : PASS_UNCHANGED;
}
