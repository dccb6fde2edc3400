/* opt_diff.c: the first value that differs between two stages of one model.
 *
 * Passes rename, split and join nodes, so values are found by what they hold: a value of one graph agrees when
 * the other computes the same numbers somewhere (in another order, if its shape is another). A rewrite leaves
 * some values without their like, but what is computed from them agrees again; after a fault nothing does. So the
 * place is the first node whose result, and all that follows from it, the other graph has not. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/opt.h"

typedef struct {
    ValId v;
    NodeId node;
    Tensor t;
    double *sorted, max, sum;
    size_t count;
    bool agrees, lost; /* lost: neither it nor anything computed from it agrees */
} Held;
typedef struct {
    Graph *g;
    VEC(Held) held; /* floats that depend on tokens or past and lead to an output, in order */
} Side;

static int double_order(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    if (isnan(x) || isnan(y)) return isnan(x) - isnan(y);
    return (x > y) - (x < y);
}

static void held_measure(Held *h, Arena *a) {
    h->count = tensor_count(&h->t);
    h->sorted = arena_array_of(a, h->count, double);
    for (size_t i = 0; i < h->count; i++) {
        double x = tensor_get_f64(&h->t, i);
        h->sorted[i] = x;
        if (isfinite(x)) {
            h->sum += x;
            if (fabs(x) > h->max) h->max = fabs(x);
        }
    }
    qsort(h->sorted, h->count, sizeof(double), double_order);
}

static bool side_evaluate(Side *s, const Options *o, bool past, Arena *a, Diag *d) {
    const bool *taint = graph_taint(s->g, a), *live = graph_live(s->g, a);
    FOR_NODES (s->g, id) {
        const Node *n = graph_node(s->g, id);
        for (uint32_t i = 0; i < n->nout; i++)
            if (live[id.id] && taint[n->out[i].id] && dtype_is_float(graph_type(s->g, n->out[i])->dtype))
                VEC_PUSH(a, &s->held, ((Held){.v = n->out[i], .node = id}));
    }
    size_t n = s->held.count;
    ValId *want = arena_array_of(a, n, ValId);
    Tensor *t = arena_array_of(a, n, Tensor);
    for (size_t i = 0; i < n; i++) want[i] = s->held.data[i].v;
    if (!graph_values(s->g, o, past, want, n, t, a, d)) return false;
    for (size_t i = 0; i < n; i++) {
        s->held.data[i].t = t[i];
        held_measure(&s->held.data[i], a);
    }
    return true;
}

static bool same_shape(const Tensor *a, const Tensor *b) {
    bool same = a->rank == b->rank;
    for (uint32_t i = 0; same && i < a->rank; i++) same = a->dim[i] == b->dim[i];
    return same;
}

static double pair_tolerance(const Held *a, const Held *b) {
    return fmax(tensor_tolerance(a->t.dtype), tensor_tolerance(b->t.dtype));
}

/* Largest difference relative to the largest element, in order or of the sorted elements. */
static double held_differs(const Held *a, const Held *b, bool sorted) {
    double diff = 0, max = fmax(a->max, b->max);
    for (size_t i = 0; i < a->count; i++) {
        double x = sorted ? a->sorted[i] : tensor_get_f64(&a->t, i);
        double y = sorted ? b->sorted[i] : tensor_get_f64(&b->t, i);
        if (x == y || (isnan(x) && isnan(y))) continue;
        if (!isfinite(x) || !isfinite(y)) return INFINITY;
        if (fabs(x - y) > diff) diff = fabs(x - y);
    }
    return diff == 0 ? 0 : max == 0 ? INFINITY : diff / max;
}

static bool held_agree(const Held *a, const Held *b) {
    if (a->count != b->count) return false;
    double tol = pair_tolerance(a, b), max = fmax(a->max, b->max);
    if (fabs(a->max - b->max) > tol * max || fabs(a->sum - b->sum) > tol * max * (double)a->count)
        return false;
    return held_differs(a, b, !same_shape(&a->t, &b->t)) <= tol;
}

static void sides_match(Side *a, Side *b) {
    for (size_t i = 0; i < b->held.count; i++)
        for (size_t k = 0; k < a->held.count; k++) {
            Held *x = &a->held.data[k], *y = &b->held.data[i];
            if ((x->agrees && y->agrees) || !held_agree(x, y)) continue;
            x->agrees = y->agrees = true;
        }
}

static void side_lose(Side *s, Arena *a) {
    bool *found = arena_array_of(a, s->g->values.count, bool); /* something that follows agrees */
    size_t at = s->held.count;
    for (NodeId id = s->g->last; node_ok(id); id = graph_node(s->g, id)->prev) {
        const Node *n = graph_node(s->g, id);
        bool any = false;
        for (uint32_t o = 0; o < n->nout; o++) any = any || found[n->out[o].id];
        for (; at > 0 && s->held.data[at - 1].node.id == id.id; at--) {
            Held *h = &s->held.data[at - 1];
            any = any || h->agrees;
            h->lost = !any;
        }
        for (uint32_t i = 0; any && i < n->nin; i++) found[n->in[i].id] = true;
    }
}

static const Held *first_lost(const Side *s) {
    for (size_t i = 0; i < s->held.count; i++)
        if (s->held.data[i].lost) return &s->held.data[i];
    return NULL;
}

static bool same_place(const Loc *x, const Loc *y) {
    return x->kind == LOC_NODE && y->kind == LOC_NODE && x->line == y->line;
}

/* What stands in a for the value that b lost: of the same place, else of the same shape; both come first. */
static const Held *counterpart(const Side *a, const Side *b, const Held *y) {
    const Held *shaped = NULL;
    for (size_t i = 0; i < a->held.count; i++) {
        const Held *x = &a->held.data[i];
        if (!x->lost || x->count != y->count) continue;
        if (same_place(&graph_node(a->g, x->node)->loc, &graph_node(b->g, y->node)->loc)) return x;
        if (!shaped && same_shape(&x->t, &y->t)) shaped = x;
    }
    return shaped;
}

static bool outputs_differ(const Side *a, const Side *b) {
    for (size_t i = 0; i < b->g->outputs.count; i++) {
        const Port *p = &b->g->outputs.data[i], *q = output_named(a->g, p->name);
        const Held *x = NULL, *y = NULL;
        for (size_t k = 0; q && k < a->held.count; k++)
            if (val_eq(a->held.data[k].v, q->v)) x = &a->held.data[k];
        for (size_t k = 0; k < b->held.count; k++)
            if (val_eq(b->held.data[k].v, p->v)) y = &b->held.data[k];
        if (x && y && !held_agree(x, y)) return true;
    }
    return false;
}

bool diff_graphs(Graph *a, Graph *b, const Options *o, Arena *arena, Diag *d) {
    Side x = {.g = a}, y = {.g = b};
    bool past = graphs_share_past(a, b);
    if (!side_evaluate(&x, o, past, arena, d) || !side_evaluate(&y, o, past, arena, d)) return false;
    sides_match(&x, &y);
    if (!outputs_differ(&x, &y)) {
        size_t n = 0;
        for (size_t i = 0; i < y.held.count; i++) n += y.held.data[i].agrees;
        printf("outputs agree; %zu of %zu values of the second are values of the first\n", n, y.held.count);
        return true;
    }
    side_lose(&x, arena);
    side_lose(&y, arena);
    const Held *lost = first_lost(&y), *was = lost ? counterpart(&x, &y, lost) : NULL;
    if (!lost)
        return diag_error(d, loc_none(), "outputs differ, but every value of the second is one of the first");
    const char *what = graph_describe(b, lost->node, arena);
    if (!was)
        return diag_error(d, loc_none(),
                          "first difference: the second file's %s; the first has nothing of its "
                          "place or shape that is not in the second",
                          what);
    return diag_error(d, loc_none(),
                      "first difference: the second file's %s, by %.3g of its largest element; in "
                      "the first it is %s",
                      what, held_differs(was, lost, !same_shape(&was->t, &lost->t)),
                      graph_describe(a, was->node, arena));
}
