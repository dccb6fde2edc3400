/* raise_hits.c: experts that run on the list of rows which chose them, told by rows and slots.
 *
 *   one expert:  %hits = nonzero(%index == e)
 *                %y = f(gather(%x, rows of %hits), @w of e) * gather(%weights, places of %hits)
 *                %acc' = %acc + scatter(0, rows of %hits, %y)
 *   all:         %acc + reduce_sum over slots of f(%x, routed by %index) * %weights
 *
 * Each expert's chain is found from its scatter, held against the first expert's node by node, and told once
 * with the experts' constants stacked. That is exact when the chains differ in nothing but constants of one
 * type, the experts are different ones, the sums form one chain, and a scatter that overwrites cannot meet a
 * place twice (index holds different experts in a row's slots: it is topk's).
 * An expert that an exporter left out contributes nothing: its slots are multiplied by 0.
 * Linear in nodes.  leaves alone: everything else, say lists with a capacity. */
#include <string.h>

#include "passes/hits.h"
#include "passes/rewrite.h"

#define STACK_MAX 128 /* operands of one concat */

typedef struct {
    Hits hits;
    Places target;      /* of the scatter */
    uint32_t component; /* scatter_elements: 1 */
    NodeId scatter;
    ValId update, before, after; /* after = before + what the expert adds */
    size_t next;                 /* in its group, 0 = last */
    bool follows;                /* is another's next */
} Expert;

/* A constant that experts have in different versions. */
typedef struct {
    ValId key, *each; /* by expert number */
    ValId stacked;
} Param;

typedef struct {
    PassCtx *cx;
    Graph *g;
    VEC(Expert) experts; /* [0] unused */
    VEC(Param) params;   /* of the running group */
    ValId *pair;         /* by value of the first expert: the running expert's */
    uint32_t *epoch, now;
    size_t nvalues;
    const Expert *first, *other;
} Raise;

/* ---- finding experts ---- */

static bool is_zero(const Graph *g, ValId v) {
    double c = 1;
    return const_scalar(g, match_skip_moves(g, v), &c) && c == 0;
}

/* The scatter's places and what it adds up. */
static bool expert_of(Raise *r, const Uses *uses, NodeId id, Expert *e) {
    Graph *g = r->g;
    const Node *n = graph_node(g, id);
    bool elements = n->op == OP_SCATTER_ELEMENTS, adds = n->attr.reduce == 1;
    ValId list = NO_VAL;
    if ((!elements && n->op != OP_SCATTER_ND) || n->attr.reduce > 1) return false;
    *e = (Expert){.scatter = id, .update = n->in[2], .before = n->in[0], .after = n->out[0]};
    if (!hits_places(g, n->in[1], &list, &e->target) || e->target.n != 1 || !hits_of(g, list, &e->hits))
        return false;
    if (elements && !type_dims_eq(graph_type(g, n->in[1]), graph_type(g, n->in[2]))) return false;
    if (!is_zero(g, n->in[0])) return adds;
    NodeId user = uses->count[n->out[0].id] == 1 ? uses->user[uses->first[n->out[0].id]] : NO_NODE;
    if (!node_ok(user) || graph_node(g, user)->op != OP_ADD) return true;
    const Node *sum = graph_node(g, user);
    ValId other = val_eq(sum->in[0], n->out[0]) ? sum->in[1] : sum->in[0];
    if (!type_eq(graph_type(g, other), graph_type(g, sum->out[0]))) return true;
    e->before = other;
    e->after = sum->out[0];
    return true;
}

static bool same_choice(const Expert *a, const Expert *b) {
    const Hits *x = &a->hits, *y = &b->hits;
    return val_eq(x->index, y->index) && x->rank == y->rank &&
           memcmp(x->axis, y->axis, sizeof(x->axis)) == 0 &&
           memcmp(&a->target.coef[0], &b->target.coef[0], sizeof(a->target.coef[0])) == 0;
}

static void experts_link(Raise *r) {
    size_t *by_after = arena_array_of(r->cx->scratch, r->nvalues, size_t);
    for (size_t i = 1; i < r->experts.count; i++) by_after[r->experts.data[i].after.id] = i;
    for (size_t i = 1; i < r->experts.count; i++) {
        Expert *e = &r->experts.data[i], *before = NULL;
        size_t at = by_after[e->before.id];
        if (at == 0 || at == i) continue;
        before = &r->experts.data[at];
        if (before->next != 0 || !same_choice(before, e)) continue;
        before->next = i;
        e->follows = true;
    }
}

/* ---- holding one expert against the first ---- */

static bool same_value(Raise *r, ValId a, ValId b, uint32_t depth);

static bool same_const(const Graph *g, ValId a, ValId b) {
    const Const *x = graph_constant(g, a), *y = graph_constant(g, b);
    return x != NULL && y != NULL && x->bytes == y->bytes &&
           (x->data == y->data || !memcmp(x->data, y->data, x->bytes));
}

static bool param_note(Raise *r, ValId a, ValId b) {
    Graph *g = r->g;
    if (!type_eq(graph_type(g, a), graph_type(g, b)) || !dtype_is_float(graph_type(g, a)->dtype))
        return false;
    Param *p = NULL;
    for (size_t i = 0; i < r->params.count; i++)
        if (val_eq(r->params.data[i].key, a)) p = &r->params.data[i];
    if (p == NULL) {
        size_t n = (size_t)r->first->hits.experts;
        Param fresh = {a, arena_array_of(r->cx->scratch, n, ValId), NO_VAL};
        for (size_t i = 0; i < n; i++) fresh.each[i] = a; /* until an expert says otherwise */
        VEC_PUSH(r->cx->scratch, &r->params, fresh);
        p = &r->params.data[r->params.count - 1];
    }
    p->each[r->other->hits.expert] = b;
    return true;
}

static bool same_dims(Raise *r, const Type *a, const Type *b) {
    if (a->dtype != b->dtype || a->rank != b->rank) return false;
    Dim to = dim_sym(r->g, r->first->hits.hits);
    for (uint32_t i = 0; i < a->rank; i++)
        if (!dim_eq(a->dim[i], dim_substitute(r->g, b->dim[i], r->other->hits.hits, to))) return false;
    return true;
}

static bool on_list(const Raise *r, ValId v, SymId s) {
    const Type *t = graph_type(r->g, v);
    for (uint32_t i = 0; i < t->rank; i++)
        if (dim_depends(r->g, t->dim[i], s)) return true;
    return false;
}

static bool same_nodes(Raise *r, ValId a, ValId b, uint32_t depth) {
    Graph *g = r->g;
    NodeId x = graph_def(g, a), y = graph_def(g, b);
    if (!node_ok(x) || !node_ok(y) || graph_val(g, a)->out != graph_val(g, b)->out) return false;
    const Node *n = graph_node(g, x), *m = graph_node(g, y);
    if (n->op != m->op || n->nin != m->nin || !attr_eq(n->op, &n->attr, &m->attr, MAX_RANK)) return false;
    if (!same_dims(r, graph_type(g, a), graph_type(g, b))) return false;
    if (n->op == OP_NONZERO) return val_eq(a, r->first->hits.list) && val_eq(b, r->other->hits.list);
    for (uint32_t i = 0; i < n->nin; i++) {
        if (val_ok(n->in[i]) != val_ok(m->in[i])) return false;
        if (val_ok(n->in[i]) && !same_value(r, n->in[i], m->in[i], depth - 1)) return false;
    }
    return true;
}

static bool same_value(Raise *r, ValId a, ValId b, uint32_t depth) {
    if (r->epoch[a.id] == r->now) return val_eq(r->pair[a.id], b);
    bool same = false;
    if (val_eq(a, b))
        same = !on_list(r, a, r->first->hits.hits);
    else if (depth == 0)
        return false;
    else if (value_is_weight(r->g, a) && value_is_weight(r->g, b))
        same = same_const(r->g, a, b) || param_note(r, a, b);
    else
        same = same_nodes(r, a, b, depth);
    if (same) {
        r->epoch[a.id] = r->now;
        r->pair[a.id] = b;
    }
    return same;
}

/* ---- telling the first expert's chain ---- */

/* v as [1, dims]; a constant without a node. */
static ValId part_of_stack(Lift *l, ValId v, const Type *t) {
    Graph *g = l->g;
    const Const *c = graph_constant(g, v);
    if (c == NULL) return graph_add(g, OP_RESHAPE, &v, 1, NULL, t, l->loc, l->d);
    Const same = *c;
    same.hash = 0;
    ValId part = graph_const(g, *t, same.data, graph_val(g, v)->name);
    g->consts.data[graph_val(g, part)->cidx] = same;
    return part;
}

static ValId stack_of(Lift *l, ValId v) {
    Raise *r = l->user;
    Graph *g = r->g;
    Param *p = NULL;
    for (size_t i = 0; i < r->params.count; i++)
        if (val_eq(r->params.data[i].key, v)) p = &r->params.data[i];
    if (p == NULL || val_ok(p->stacked)) return p == NULL ? NO_VAL : p->stacked;
    size_t n = (size_t)r->first->hits.experts, joined = 0;
    Type t = *graph_type(g, v);
    if (t.rank == MAX_RANK) return NO_VAL;
    memmove(t.dim + 1, t.dim, t.rank * sizeof(Dim));
    t.dim[0] = dim_const(1);
    t.rank++;
    ValId *parts = arena_array_of(r->cx->scratch, n + 1, ValId),
          *joins = arena_array_of(r->cx->scratch, n, ValId);
    Attr a = attr_default();
    for (size_t i = 0; i < n; i++) {
        parts[i] = part_of_stack(l, p->each[i], &t);
        if (!val_ok(parts[i])) return NO_VAL;
    }
    for (size_t i = 0; i < n; i += STACK_MAX) {
        size_t count = n - i < STACK_MAX ? n - i : STACK_MAX;
        joins[joined++] = graph_add(g, OP_CONCAT, parts + i, count, &a, NULL, l->loc, l->d);
        if (!val_ok(joins[joined - 1])) return NO_VAL;
    }
    p->stacked = joined == 1 ? joins[0] : graph_add(g, OP_CONCAT, joins, joined, &a, NULL, l->loc, l->d);
    return p->stacked;
}

/* x's axes a .. a + p.n - 1 (n of them), each run through by a component of the places: the axes the components
 * run through in front, in the order of the index's axes, then x's others. */
static ValId picked(Lift *l, ValId x, uint32_t a, const Places *p, const Dim *others, uint32_t nothers) {
    Raise *r = l->user;
    Graph *g = r->g;
    const Hits *h = &r->first->hits;
    Type t = *graph_type(g, x), split = t, lead;
    uint32_t at = a, home[HIT_COORDS], nsplit = 0, order[HIT_COORDS];
    bool used[HIT_COORDS] = {false};
    if (a + p->n > t.rank) return NO_VAL;
    for (uint32_t c = 0; c < p->n; c++) {
        uint32_t n = hits_order(g, h, p, c, t.dim[a + c], order);
        if (n == 0) return NO_VAL;
        for (uint32_t i = 0; i < n; i++, at++, nsplit++) {
            if (used[order[i]] || at >= MAX_RANK || nsplit == HIT_COORDS) return NO_VAL;
            used[order[i]] = true;
            home[nsplit] = h->axis[order[i]];
            split.dim[at] = graph_type(g, h->index)->dim[home[nsplit]];
        }
    }
    for (uint32_t i = a + p->n; i < t.rank; i++, at++) {
        if (at >= MAX_RANK) return NO_VAL;
        split.dim[at] = t.dim[i];
    }
    split.rank = (uint8_t)at;
    uint8_t perm[MAX_RANK];
    uint32_t np = 0;
    lead = l->lead;
    for (uint32_t i = 0; i < lead.rank; i++) {
        lead.dim[i] = dim_const(1);
        for (uint32_t k = 0; k < nsplit; k++)
            if (home[k] == i) {
                perm[np++] = (uint8_t)(a + k);
                lead.dim[i] = l->lead.dim[i];
            }
    }
    for (uint32_t i = 0; i < split.rank; i++)
        if (i < a || i >= a + nsplit) perm[np++] = (uint8_t)i;
    lead.dtype = t.dtype;
    for (uint32_t i = 0; i < nothers; i++) lead.dim[lead.rank++] = others[i];
    Rewrite w = {.cx = r->cx, .g = g, .d = l->d, .node = r->first->scatter};
    return rw_reshape(&w, rw_transpose(&w, rw_reshape(&w, x, &split), perm), &lead);
}

/* Rows picked by places: the list begins. */
static ValId hits_source(Lift *l, const Node *n, bool *failed) {
    Raise *r = l->user;
    Graph *g = r->g;
    Places p;
    ValId list = r->first->hits.list;
    if (n->op != OP_GATHER && n->op != OP_GATHER_ND) return NO_VAL;
    if (lift_axis(l, graph_type(g, n->in[0])) >= 0) return NO_VAL;
    const Type *to = graph_type(g, n->out[0]), *ti = graph_type(g, n->in[1]);
    int at = lift_axis(l, to);
    *failed = !hits_places(g, n->in[1], &list, &p) || to->rank > MAX_RANK ||
              l->lead.rank + to->rank > MAX_RANK + 1u;
    if (n->op == OP_GATHER) *failed |= p.n != 1;
    if (n->op == OP_GATHER_ND)
        *failed |= n->attr.batch_dims != 0 || (p.n > 1 && p.axis + 1 != ti->rank) ||
                   !dim_eq(ti->dim[ti->rank - 1], dim_const(p.n));
    if (*failed) return NO_VAL;
    Dim others[MAX_RANK];
    uint32_t m = 0;
    for (uint32_t i = 0; i < to->rank; i++)
        if ((int)i != at) others[m++] = to->dim[i];
    uint32_t axis = n->op == OP_GATHER ? (uint32_t)n->attr.axis : 0;
    ValId v = picked(l, n->in[0], axis, &p, others, m);
    *failed = !val_ok(v);
    return v;
}

/* 1 for experts that the graph has. */
static ValId present(Raise *r, Lift *l, ValId y, const bool *has) {
    Graph *g = r->g;
    int64_t n = r->first->hits.experts;
    Dim dim = dim_const(n), ones[MAX_RANK];
    float *data = arena_array_of(g->arena, (size_t)n, float);
    for (int64_t i = 0; i < n; i++) data[i] = has[i] ? 1.0f : 0.0f;
    ValId in[2] = {graph_const(g, type_make(DT_F32, 1, &dim), data, NULL), l->index};
    Attr a = attr_default();
    ValId p = graph_add(g, OP_GATHER, in, 2, &a, NULL, l->loc, l->d);
    uint32_t others = graph_type(g, y)->rank - (uint32_t)l->lead.rank;
    for (uint32_t i = 0; i < others; i++) ones[i] = dim_const(1);
    in[0] = y, in[1] = lift_reshape(l, p, ones, others);
    if (!val_ok(in[1]) || graph_type(g, y)->dtype != DT_F32) return NO_VAL;
    return graph_add(g, OP_MUL, in, 2, NULL, NULL, l->loc, l->d);
}

/* The lifted update summed over the slots, in the form of what the scatter adds to; NO_VAL when that is not what
 * the scatter does. */
static ValId summed(Raise *r, Lift *l, ValId y) {
    Graph *g = r->g;
    const Hits *h = &r->first->hits;
    const Node *n = graph_node(g, r->first->scatter);
    Type to = *graph_type(g, n->out[0]), full = *graph_type(g, y), upd = *graph_type(g, n->in[2]);
    uint32_t axis = n->op == OP_SCATTER_ELEMENTS ? (uint32_t)n->attr.axis : 0, order[HIT_COORDS];
    int list = lift_axis(l, &upd);
    uint32_t used = hits_order(g, h, &r->first->target, 0, to.dim[axis], order), lead = l->lead.rank;
    if (used == 0 || used + 1 != lead || list != (int)axis || upd.rank != to.rank) return NO_VAL;
    for (uint32_t i = 0; i < to.rank; i++)
        if (i != axis && !dim_eq(upd.dim[i], to.dim[i])) return NO_VAL;
    for (uint32_t i = 0; i < used; i++) /* rows in their order; the slots are what is summed */
        if (h->axis[order[i]] != i) return NO_VAL;
    for (uint32_t i = 0; i < lead; i++) full.dim[i] = l->lead.dim[i];
    Rewrite w = {.cx = r->cx, .g = g, .d = l->d, .node = r->first->scatter};
    if (!type_dims_eq(&full, graph_type(g, y))) y = rw_typed(&w, OP_BROADCAST, y, &full);
    if (!val_ok(y)) return NO_VAL;
    Attr a = attr_default();
    a.axes = 1u << (lead - 1);
    y = graph_add(g, OP_REDUCE_SUM, &y, 1, &a, NULL, l->loc, l->d); /* [rows..., others] */
    if (!val_ok(y)) return NO_VAL;
    uint8_t perm[MAX_RANK]; /* others before the axis go in front */
    uint32_t np = 0;
    for (uint32_t i = 0; i < axis; i++) perm[np++] = (uint8_t)(used + i);
    for (uint32_t i = 0; i < used; i++) perm[np++] = (uint8_t)i;
    for (uint32_t i = used + axis; i < graph_type(g, y)->rank; i++) perm[np++] = (uint8_t)i;
    return rw_reshape(&w, rw_transpose(&w, y, perm), &to);
}

/* ---- one group ---- */

static bool group_same(Raise *r, size_t first, bool *has, size_t *last) {
    r->first = &r->experts.data[first];
    r->params.count = 0;
    for (size_t i = first; i != 0; i = r->experts.data[i].next) {
        r->other = &r->experts.data[i];
        int64_t e = r->other->hits.expert;
        if (has[e]) return false;
        has[e] = true;
        *last = i;
        r->now++;
        if (i != first && !same_value(r, r->first->update, r->other->update, 64)) return false;
    }
    for (size_t i = 0; i < r->params.count; i++)
        r->params.data[i].each[r->first->hits.expert] = r->params.data[i].key;
    return true;
}

static bool group_raise(Raise *r, size_t first, int64_t *count) {
    Graph *g = r->g;
    size_t last = first;
    bool *has = arena_array_of(r->cx->scratch, (size_t)r->experts.data[first].hits.experts, bool);
    if (!group_same(r, first, has, &last)) return true;
    ValId after = r->experts.data[last].after;
    NodeId end = graph_def(g, after);
    g->insert_before = end;
    Lift l = {.g = g, .d = r->cx->diag, .source = hits_source, .stacked = stack_of, .user = r};
    l.loc = graph_node(g, end)->loc;
    l.dim = dim_sym(g, r->first->hits.hits);
    l.index = r->first->hits.index;
    l.lead = *graph_type(g, l.index);
    l.nmap = r->nvalues;
    l.map = arena_array_of(r->cx->scratch, l.nmap, ValId);
    ValId y = lift_axis(&l, graph_type(g, r->first->update)) < 0 ? NO_VAL : lift(&l, r->first->update);
    for (int64_t i = 0; val_ok(y) && i < r->first->hits.experts; i++)
        if (!has[i]) {
            y = present(r, &l, y, has);
            break;
        }
    if (val_ok(y)) y = summed(r, &l, y);
    if (val_ok(y) && !is_zero(g, r->first->before)) {
        ValId in[2] = {r->first->before, y};
        y = graph_add(g, OP_ADD, in, 2, NULL, NULL, l.loc, l.d);
    }
    g->insert_before = NO_NODE;
    if (!val_ok(y)) return r->cx->diag->errors == 0;
    graph_replace(g, after, y);
    ++*count;
    return true;
}

PassResult pass_raise_hits(PassCtx *cx, Graph *g) {
    Raise r = {.cx = cx, .g = g};
    bool any = false;
    int64_t count = 0;
    FOR_NODES (g, id) any |= graph_node(g, id)->op == OP_NONZERO;
    if (!any) return PASS_UNCHANGED;
    rewrite_sweep_dead(cx, g);
    r.nvalues = g->values.count;
    r.pair = arena_array_of(cx->scratch, r.nvalues, ValId);
    r.epoch = arena_array_of(cx->scratch, r.nvalues, uint32_t);
    Uses uses = graph_uses(g, cx->scratch);
    Expert none = {0};
    VEC_PUSH(cx->scratch, &r.experts, none);
    FOR_NODES (g, id) {
        Expert e;
        if (expert_of(&r, &uses, id, &e)) VEC_PUSH(cx->scratch, &r.experts, e);
    }
    experts_link(&r);
    for (size_t i = 1; i < r.experts.count; i++)
        if (!r.experts.data[i].follows && !group_raise(&r, i, &count)) return PASS_FAILED;
    pass_count(cx, "mixtures", count);
    rewrite_sweep_dead(cx, g);
    graph_compact(g, cx->scratch);
    return count ? PASS_CHANGED : PASS_UNCHANGED;
}
