/* raise_moves.c: views through data movement.
 *
 * Exporters reach one layout in many ways (K^T as a transpose, or as reshape, transpose, reshape). A
 * chain of movement is followed up to its source while every axis is kept as a list of atoms, the
 * factors of the source's dimensions. Two chains that move the same way have the same view, and a view
 * is rebuilt as at most reshape, transpose, reshape, broadcast, reshape. */
#include <string.h>

#include "passes/raise.h"

#define CHAIN_MAX 48

static bool is_one(Dim d) { return dim_is_const(d) && d.v == 1; }

static bool list_insert(AtomList *l, uint32_t at, uint8_t atom) {
    if (l->n >= VIEW_ATOMS) return false;
    memmove(&l->atom[at + 1], &l->atom[at], (size_t)l->n - at);
    l->atom[at] = atom;
    l->n++;
    return true;
}

/* Follows `a` by its second half `b` wherever it stands in the list. */
static bool list_split(AtomList *l, uint8_t a, uint8_t b) {
    for (uint32_t i = 0; i < l->n; i++)
        if (l->atom[i] == a) return list_insert(l, i + 1, b);
    return true;
}

static bool atom_new(View *w, Dim d, bool made, uint8_t *out) {
    if (w->natoms >= VIEW_ATOMS) return false;
    *out = (uint8_t)w->natoms++;
    w->dim[*out] = d;
    w->made[*out] = made;
    return true;
}

static void view_start(Graph *g, ValId src, View *w) {
    memset(w, 0, sizeof(*w));
    const Type *t = graph_type(g, src);
    w->src = src;
    w->rank = t->rank;
    w->scale = 1;
    for (uint32_t i = 0; i < t->rank; i++) {
        uint8_t a;
        if (is_one(t->dim[i]) || !atom_new(w, t->dim[i], false, &a)) continue;
        w->home[a] = (uint8_t)i;
        w->axis[i].atom[w->axis[i].n++] = a;
        w->order.atom[w->order.n++] = a;
    }
}

bool view_reshape(Graph *g, View *w, const Dim *dims, uint32_t rank) {
    View next = *w;
    AtomList flat = {0};
    for (uint32_t i = 0; i < w->rank; i++) {
        for (uint32_t k = 0; k < w->axis[i].n; k++)
            if (!list_insert(&flat, flat.n, w->axis[i].atom[k])) return false;
        next.axis[i].n = 0;
    }
    if (rank > MAX_RANK) return false;
    next.rank = rank;
    uint32_t at = 0;
    for (uint32_t i = 0; i < rank; i++) {
        AtomList *axis = &next.axis[i];
        axis->n = 0;
        Dim want = dims[i];
        while (!is_one(want)) {
            if (at >= flat.n || !dim_known(want)) return false;
            uint8_t a = flat.atom[at];
            Dim rest = dim_div(g, want, next.dim[a]);
            if (dim_known(rest)) {
                want = rest;
            } else {
                Dim tail = dim_div(g, next.dim[a], want);
                uint8_t b;
                if (!dim_known(tail) || !atom_new(&next, tail, next.made[a], &b)) return false;
                next.dim[a] = want;
                next.home[b] = next.home[a];
                if (!list_split(&flat, a, b) || !list_split(&next.order, a, b)) return false;
                want = dim_const(1);
            }
            axis->atom[axis->n++] = a;
            at++;
        }
    }
    if (at != flat.n) return false;
    *w = next;
    return true;
}

void view_transpose(View *w, const uint8_t *perm) {
    AtomList old[MAX_RANK];
    memcpy(old, w->axis, sizeof(old));
    for (uint32_t i = 0; i < w->rank; i++) w->axis[i] = old[perm[i]];
}

bool view_expand(View *w, uint32_t at, Dim d) {
    uint8_t a;
    if (w->axis[at].n != 0) return false;
    if (is_one(d)) return true;
    if (!atom_new(w, d, true, &a)) return false;
    w->axis[at].atom[w->axis[at].n++] = a;
    return true;
}

void view_unexpand(View *w, uint32_t axis) {
    AtomList *l = &w->axis[axis];
    while (l->n > 0 && w->made[l->atom[l->n - 1]]) l->n--;
}

Dim view_dim(Graph *g, const View *w, uint32_t axis) {
    Dim d = dim_const(1);
    for (uint32_t i = 0; i < w->axis[axis].n; i++) d = dim_mul(g, d, w->dim[w->axis[axis].atom[i]]);
    return d;
}

static bool view_broadcast(Graph *g, View *w, const Type *to) {
    uint32_t pad = to->rank - w->rank;
    View next = *w;
    for (uint32_t i = 0; i < to->rank; i++) {
        if (i < pad)
            next.axis[i].n = 0;
        else
            next.axis[i] = w->axis[i - pad];
    }
    next.rank = to->rank;
    for (uint32_t i = 0; i < to->rank; i++)
        if (next.axis[i].n == 0 && !view_expand(&next, i, to->dim[i])) return false;
    (void)g;
    *w = next;
    return true;
}

/* x op scalar constant, the result typed as x: multiplies *scale. */
static bool passes_scalar(const Graph *g, const Node *n, ValId *x, double *scale) {
    double c;
    if (n->op != OP_MUL && n->op != OP_DIV) return false;
    if (!dtype_is_float(graph_type(g, n->out[0])->dtype)) return false;
    for (uint32_t i = 0; i < 2; i++) {
        if (n->op == OP_DIV && i == 1) break;
        if (!const_scalar(g, n->in[1 - i], &c) || (n->op == OP_DIV && c == 0)) continue;
        if (!type_eq(graph_type(g, n->in[i]), graph_type(g, n->out[0]))) continue;
        *x = n->in[i];
        *scale = n->op == OP_MUL ? c : 1 / c;
        return true;
    }
    return false;
}

static bool view_apply(Graph *g, View *w, NodeId id) {
    const Node *n = graph_node(g, id);
    Type t = *graph_type(g, n->out[0]);
    ValId x;
    double c;
    switch (n->op) {
    case OP_RESHAPE: return view_reshape(g, w, t.dim, t.rank);
    case OP_TRANSPOSE: view_transpose(w, n->attr.perm); return true;
    case OP_BROADCAST: return view_broadcast(g, w, &t);
    default:
        if (!passes_scalar(g, n, &x, &c)) return false;
        w->scale *= c;
        return true;
    }
}

void view_of(Graph *g, ValId v, bool scalars, View *out) {
    NodeId chain[CHAIN_MAX];
    uint32_t n = 0;
    for (;;) {
        NodeId id = graph_def(g, v);
        if (!node_ok(id) || n == CHAIN_MAX) break;
        const Node *d = graph_node(g, id);
        double c;
        ValId x;
        if (d->op == OP_RESHAPE || d->op == OP_TRANSPOSE || d->op == OP_BROADCAST)
            x = d->in[0];
        else if (!scalars || !passes_scalar(g, d, &x, &c))
            break;
        chain[n++] = id;
        v = x;
    }
    view_start(g, v, out);
    while (n > 0) {
        NodeId id = chain[--n];
        if (view_apply(g, out, id))
            out->steps++;
        else
            view_start(g, graph_node(g, id)->out[0], out);
    }
}

/* ---- building ---- */

ValId move_reshape(Graph *g, ValId v, const Dim *dims, uint32_t rank, Loc loc, Diag *d) {
    if (!val_ok(v)) return NO_VAL;
    Type t = type_make(graph_type(g, v)->dtype, rank, dims);
    if (type_eq(&t, graph_type(g, v))) return v;
    return graph_add(g, OP_RESHAPE, &v, 1, NULL, &t, loc, d);
}

ValId move_transpose(Graph *g, ValId v, const uint8_t *perm, Loc loc, Diag *d) {
    if (!val_ok(v)) return NO_VAL;
    uint32_t rank = graph_type(g, v)->rank;
    Attr a = attr_default();
    bool same = true;
    for (uint32_t i = 0; i < rank; i++) {
        a.perm[i] = perm[i];
        same = same && perm[i] == i;
    }
    return same ? v : graph_add(g, OP_TRANSPOSE, &v, 1, &a, NULL, loc, d);
}

/* Atoms of one axis that stay neighbours move together: groups in the view's order, and where each one stands in
 * the source. */
typedef struct {
    uint32_t n, nsource;
    Dim dim[VIEW_ATOMS];
    bool made[VIEW_ATOMS];
    uint32_t source[VIEW_ATOMS]; /* rank among the source's groups */
    Dim target[MAX_RANK];
} Plan;

static uint32_t order_of(const View *w, uint8_t atom) {
    for (uint32_t i = 0; i < w->order.n; i++)
        if (w->order.atom[i] == atom) return i;
    return VIEW_ATOMS;
}

static void plan_make(Graph *g, const View *w, Plan *p) {
    memset(p, 0, sizeof(*p));
    uint32_t first[VIEW_ATOMS] = {0}, last = VIEW_ATOMS;
    uint8_t prev = 0;
    for (uint32_t i = 0; i < w->rank; i++) {
        p->target[i] = view_dim(g, w, i);
        for (uint32_t k = 0; k < w->axis[i].n; k++) {
            uint8_t a = w->axis[i].atom[k];
            uint32_t at = w->made[a] ? VIEW_ATOMS : order_of(w, a);
            bool joins = p->n > 0 && !w->made[a] && !p->made[p->n - 1] && last + 1 == at &&
                         (k > 0 || w->home[prev] == w->home[a]);
            prev = a;
            if (joins) {
                p->dim[p->n - 1] = dim_mul(g, p->dim[p->n - 1], w->dim[a]);
            } else {
                first[p->n] = at;
                p->made[p->n] = w->made[a];
                p->dim[p->n++] = w->dim[a];
            }
            last = at;
        }
    }
    for (uint32_t i = 0; i < p->n; i++) {
        if (p->made[i]) continue;
        p->nsource++;
        for (uint32_t k = 0; k < p->n; k++) p->source[i] += !p->made[k] && first[k] < first[i];
    }
}

uint32_t view_cost(Graph *g, const View *w) {
    Plan p;
    plan_make(g, w, &p);
    bool moved = false, made = false;
    Type t = *graph_type(g, w->src);
    Dim cur[MAX_RANK + VIEW_ATOMS];
    uint32_t rank = t.rank, cost = 0, at = 0;
    memcpy(cur, t.dim, sizeof(t.dim));
    for (uint32_t i = 0; i < p.n; i++) {
        made = made || p.made[i];
        if (!p.made[i]) moved = moved || p.source[i] != at++;
    }
    if (moved) {
        Dim src[VIEW_ATOMS];
        for (uint32_t i = 0; i < p.n; i++)
            if (!p.made[i]) src[p.source[i]] = p.dim[i];
        bool same = rank == p.nsource;
        for (uint32_t i = 0; same && i < rank; i++) same = dim_eq(cur[i], src[i]);
        cost += same ? 1 : 2;
        rank = 0;
        for (uint32_t i = 0; i < p.n; i++)
            if (!p.made[i]) cur[rank++] = p.dim[i];
    }
    if (made) {
        cost += 2;
        rank = p.n;
        memcpy(cur, p.dim, p.n * sizeof(Dim));
    }
    bool same = rank == w->rank;
    for (uint32_t i = 0; same && i < rank; i++) same = dim_eq(cur[i], p.target[i]);
    return cost + (same ? 0 : 1);
}

ValId view_emit(Graph *g, const View *w, Loc loc, Diag *d) {
    Plan p;
    plan_make(g, w, &p);
    ValId v = w->src;
    bool made = false, moved = false;
    Dim src[VIEW_ATOMS], ones[VIEW_ATOMS];
    uint8_t perm[VIEW_ATOMS];
    uint32_t at = 0;
    for (uint32_t i = 0; i < p.n; i++) {
        ones[i] = p.made[i] ? dim_const(1) : p.dim[i];
        made = made || p.made[i];
        if (p.made[i]) continue;
        moved = moved || p.source[i] != at;
        src[p.source[i]] = p.dim[i];
        perm[at++] = (uint8_t)p.source[i];
    }
    if (p.n > MAX_RANK && (moved || made)) {
        diag_bug(d, loc, "a view needs %u axes", p.n);
        return NO_VAL;
    }
    if (moved) {
        v = move_reshape(g, v, src, p.nsource, loc, d);
        v = move_transpose(g, v, perm, loc, d);
    }
    if (made && val_ok(v)) {
        v = move_reshape(g, v, ones, p.n, loc, d);
        Type t = type_make(graph_type(g, w->src)->dtype, p.n, p.dim);
        if (val_ok(v)) v = graph_add(g, OP_BROADCAST, &v, 1, NULL, &t, loc, d);
    }
    return move_reshape(g, v, p.target, w->rank, loc, d);
}

int64_t moves_shorten(PassCtx *cx, Graph *g) {
    int64_t n = 0;
    FOR_NODES (g, id) {
        Node node = *graph_node(g, id);
        if (node.op != OP_RESHAPE && node.op != OP_TRANSPOSE) continue;
        View w;
        view_of(g, node.out[0], false, &w);
        if (w.steps < 2 || view_cost(g, &w) >= w.steps) continue;
        g->insert_before = id;
        ValId v = view_emit(g, &w, node.loc, cx->diag);
        g->insert_before = NO_NODE;
        if (!val_ok(v) || val_eq(v, node.out[0])) continue;
        graph_replace(g, node.out[0], v);
        n++;
    }
    return n;
}
