/* rewrite.c: sweeps rules over a graph to a fixed point, and removes what nothing needs. */
#include "passes/rewrite.h"

ValId rw_add(Rewrite *r, Op op, const ValId *in, size_t nin, const Attr *attr, const Type *result) {
    Loc loc = graph_node(r->g, r->node)->loc;
    ValId v = graph_add(r->g, op, in, nin, attr, result, loc, r->d);
    if (!val_ok(v)) r->failed = true;
    return v;
}

ValId rw_unary(Rewrite *r, Op op, ValId x) { return val_ok(x) ? rw_add(r, op, &x, 1, NULL, NULL) : NO_VAL; }

ValId rw_binary(Rewrite *r, Op op, ValId a, ValId b) {
    ValId in[2] = {a, b};
    return val_ok(a) && val_ok(b) ? rw_add(r, op, in, 2, NULL, NULL) : NO_VAL;
}

ValId rw_typed(Rewrite *r, Op op, ValId x, const Type *t) {
    Type copy = *t;
    return val_ok(x) ? rw_add(r, op, &x, 1, NULL, &copy) : NO_VAL;
}

ValId rw_reshape(Rewrite *r, ValId x, const Type *t) {
    if (!val_ok(x) || type_dims_eq(graph_type(r->g, x), t)) return x;
    Type to = *t;
    to.dtype = graph_type(r->g, x)->dtype;
    return rw_typed(r, OP_RESHAPE, x, &to);
}

ValId rw_transpose(Rewrite *r, ValId x, const uint8_t *perm) {
    if (!val_ok(x)) return x;
    Attr a = attr_default();
    bool identity = true;
    for (uint32_t i = 0; i < graph_type(r->g, x)->rank; i++) {
        a.perm[i] = perm[i];
        identity = identity && perm[i] == i;
    }
    return identity ? x : rw_add(r, OP_TRANSPOSE, &x, 1, &a, NULL);
}

ValId rw_scalar(Rewrite *r, DType t, double v) {
    /* little-endian: the low bytes are the value */
    uint64_t bits = dtype_is_float(t) ? float_to_bits(t, v) : (uint64_t)(int64_t)v;
    return graph_const(r->g, type_scalar(t), arena_dup(r->g->arena, &bits, sizeof(bits)), NULL);
}

bool rw_once(const Rewrite *r, ValId v) { return graph_used_once(&r->uses, v); }

static ValId try_rules(Rewrite *r, const RuleSet *sets, size_t nsets) {
    for (size_t s = 0; s < nsets; s++) {
        for (size_t i = 0; i < sets[s].count; i++) {
            const Rule *rule = &sets[s].rules[i];
            if (rule->op != OP_NONE && rule->op != graph_node(r->g, r->node)->op) continue;
            ValId v = rule->fn(r, r->node);
            if (r->failed || val_ok(v) || r->edited) return v;
        }
    }
    return NO_VAL;
}

/* A name that only the old value had is worth keeping: dumps and diffs find values by it. */
static void keep_name(Graph *g, ValId old, ValId with) {
    Value *to = graph_val(g, with);
    if (to->kind == V_NODE && to->name == NULL) to->name = graph_val(g, old)->name;
}

static int64_t sweep(Rewrite *r, const RuleSet *sets, size_t nsets) {
    Graph *g = r->g;
    int64_t fired = 0;
    NodeId next = NO_NODE;
    for (NodeId id = g->first; node_ok(id) && !r->failed; id = next) {
        next = graph_node(g, id)->next;
        r->node = g->insert_before = id;
        r->edited = false;
        ValId old = graph_node(g, id)->out[0];
        ValId with = try_rules(r, sets, nsets);
        if (r->failed) break;
        if (r->edited) fired++;
        if (!val_ok(with) || val_eq(with, old)) continue;
        if (!type_eq(graph_type(g, old), graph_type(g, with))) {
            r->failed = true;
            diag_bug(r->d, graph_node(g, id)->loc, "a rule for %s changed the type of its result",
                     op_info(graph_node(g, id)->op)->name);
            break;
        }
        keep_name(g, old, with);
        graph_replace(g, old, with);
        fired++;
    }
    g->insert_before = NO_NODE;
    return fired;
}

PassResult rewrite_run(PassCtx *cx, Graph *g, const RuleSet *sets, size_t nsets, uint32_t sweeps,
                       const char *counter) {
    Rewrite r = {.cx = cx, .g = g, .d = cx->diag};
    int64_t total = 0;
    for (uint32_t i = 0; i < sweeps; i++) {
        ArenaMark mark = arena_mark(cx->scratch);
        r.uses = graph_uses(g, cx->scratch);
        int64_t fired = sweep(&r, sets, nsets);
        arena_reset(cx->scratch, mark);
        if (r.failed) return PASS_FAILED;
        if (fired == 0) break;
        total += fired;
        rewrite_sweep_dead(cx, g);
    }
    pass_count(cx, counter, total);
    return total > 0 ? PASS_CHANGED : PASS_UNCHANGED;
}

static void mark(const Graph *g, bool *used, ValId v) {
    if (val_ok(v) && v.id < g->values.count) used[v.id] = true;
}

int64_t rewrite_sweep_dead(PassCtx *cx, Graph *g) {
    ArenaMark at = arena_mark(cx->scratch);
    bool *used = arena_array_of(cx->scratch, g->values.count, bool);
    for (size_t i = 0; i < g->outputs.count; i++) mark(g, used, g->outputs.data[i].v);
    for (size_t i = 0; i < g->states.count; i++) {
        mark(g, used, g->states.data[i].in);
        mark(g, used, g->states.data[i].out);
    }
    int64_t erased = 0;
    NodeId before = NO_NODE;
    for (NodeId id = g->last; node_ok(id); id = before) {
        const Node *n = graph_node(g, id);
        before = n->prev;
        bool live = false;
        for (uint8_t i = 0; i < n->nout; i++) live = live || used[n->out[i].id];
        if (!live) {
            graph_erase(g, id);
            erased++;
            continue;
        }
        for (uint8_t i = 0; i < n->nin; i++) mark(g, used, n->in[i]);
    }
    for (size_t i = 1; i < g->values.count; i++)
        if (g->values.data[i].kind == V_CONST && !used[i]) g->values.data[i].kind = V_FREE;
    arena_reset(cx->scratch, at);
    return erased;
}
