/* hits.c: see hits.h. */
#include "passes/hits.h"

#include <string.h>

#include "passes/rewrite.h"

#define DEPTH 32

/* ---- places ---- */

/* A factor of coordinates: a constant, or a dimension as data. */
static bool factor_of(const Graph *g, ValId v, Dim *out) {
    double c = 0;
    v = match_skip_moves(g, v);
    if (const_scalar(g, v, &c)) {
        *out = dim_const((int64_t)c);
        return c == (double)out->v;
    }
    while (graph_def_op(g, v) == OP_CAST || graph_def_op(g, v) == OP_RESHAPE)
        v = graph_node(g, graph_def(g, v))->in[0];
    if (graph_def_op(g, v) != OP_DIM) return false;
    *out = graph_node(g, graph_def(g, v))->attr.value;
    return true;
}

static bool places_at(Graph *g, ValId v, ValId *list, Places *out, uint32_t depth);

static Dim product(Graph *g, const Dim *d, uint32_t n) {
    Dim p = dim_const(1);
    for (uint32_t i = 0; i < n; i++) p = dim_mul(g, p, d[i]);
    return p;
}

/* The axis of `to` that axis a of `from` becomes; whole in row-major order. */
static bool axis_after_reshape(Graph *g, const Type *from, const Type *to, uint32_t a, uint32_t *out) {
    Dim before = product(g, from->dim, a);
    for (uint32_t i = 0; i < to->rank; i++)
        if (dim_eq(to->dim[i], from->dim[a]) && dim_eq(product(g, to->dim, i), before)) {
            *out = i;
            return true;
        }
    return false;
}

static bool places_sliced(const Graph *g, const Node *n, Places *p) {
    const Type *from = graph_type(g, n->in[0]), *to = graph_type(g, n->out[0]);
    for (uint32_t i = 0; i < from->rank; i++) {
        bool whole = dim_eq(from->dim[i], to->dim[i]) && dim_eq(n->attr.starts[i], dim_const(0)) &&
                     n->attr.steps[i] == 1;
        if (whole) continue;
        if (p->n == 1 || i != p->axis || !dim_is_const(n->attr.starts[i]) || n->attr.steps[i] != 1)
            return false;
        int64_t at = n->attr.starts[i].v, len = to->dim[i].v;
        if (at < 0 || len < 1 || at + len > p->n) return false;
        memmove(p->coef, p->coef + at, (size_t)len * sizeof(p->coef[0]));
        p->n = (uint32_t)len;
    }
    return true;
}

static bool places_joined(Graph *g, const Node *n, ValId *list, Places *out) {
    uint32_t axis = (uint32_t)n->attr.axis;
    *out = (Places){.axis = axis};
    for (uint32_t i = 0; i < n->nin; i++) {
        Places one;
        const Type *t = graph_type(g, n->in[i]);
        if (!places_at(g, n->in[i], list, &one, DEPTH / 2) || one.n != 1) return false;
        if (!dim_eq(t->dim[axis], dim_const(1)) || out->n == HIT_COORDS) return false;
        memcpy(out->coef[out->n++], one.coef[0], sizeof(one.coef[0]));
    }
    return true;
}

static bool places_sum(Graph *g, const Node *n, ValId *list, Places *out, uint32_t depth) {
    Places a, b;
    if (!places_at(g, n->in[0], list, &a, depth) || !places_at(g, n->in[1], list, &b, depth)) return false;
    if (a.n != 1 || b.n != 1) return false;
    for (uint32_t i = 0; i < HIT_COORDS; i++) a.coef[0][i] = dim_add(g, a.coef[0][i], b.coef[0][i]);
    *out = a;
    return true;
}

static bool places_scaled(Graph *g, const Node *n, ValId *list, Places *out, uint32_t depth) {
    Dim f = dim_const(1);
    uint32_t side = factor_of(g, n->in[0], &f) ? 1 : 0;
    if (side == 0 && !factor_of(g, n->in[1], &f)) return false;
    if (!places_at(g, n->in[side], list, out, depth)) return false;
    for (uint32_t c = 0; c < out->n; c++)
        for (uint32_t i = 0; i < HIT_COORDS; i++) out->coef[c][i] = dim_mul(g, out->coef[c][i], f);
    return true;
}

static bool places_list(Graph *g, ValId v, ValId *list, Places *out) {
    if (val_ok(*list) && !val_eq(*list, v)) return false;
    *list = v;
    int64_t rank = graph_type(g, v)->dim[0].v;
    if (rank < 1 || rank > HIT_COORDS) return false;
    *out = (Places){.n = (uint32_t)rank};
    for (uint32_t c = 0; c < HIT_COORDS; c++)
        for (uint32_t i = 0; i < HIT_COORDS; i++) out->coef[c][i] = dim_const(c == i);
    return true;
}

/* where(x < 0, x + length, x): coordinates are never negative. */
static bool is_wrap(const Graph *g, const Node *n) {
    Node *lt = NULL, *add = NULL;
    double zero = 1;
    return n->op == OP_WHERE && match_op(g, n->in[0], OP_LT, &lt) && match_op(g, n->in[1], OP_ADD, &add) &&
           val_eq(lt->in[0], n->in[2]) && const_scalar(g, match_skip_moves(g, lt->in[1]), &zero) &&
           zero == 0 && (val_eq(add->in[0], n->in[2]) || val_eq(add->in[1], n->in[2]));
}

static bool places_at(Graph *g, ValId v, ValId *list, Places *out, uint32_t depth) {
    NodeId id = graph_def(g, v);
    if (!node_ok(id) || depth == 0 || !dtype_is_int(graph_type(g, v)->dtype)) return false;
    const Node *n = graph_node(g, id);
    const Type *to = graph_type(g, v);
    switch (n->op) {
    case OP_NONZERO: return places_list(g, v, list, out);
    case OP_CONCAT: return places_joined(g, n, list, out);
    case OP_ADD: return places_sum(g, n, list, out, depth - 1);
    case OP_MUL: return places_scaled(g, n, list, out, depth - 1);
    case OP_WHERE: return is_wrap(g, n) && places_at(g, n->in[2], list, out, depth - 1);
    case OP_CAST:
    case OP_SLICE:
    case OP_BROADCAST:
    case OP_TRANSPOSE:
    case OP_RESHAPE:
    case OP_GATHER: break;
    default: return false;
    }
    if (!places_at(g, n->in[0], list, out, depth - 1)) return false;
    const Type *from = graph_type(g, n->in[0]);
    uint32_t axis = out->axis;
    switch (n->op) {
    case OP_SLICE: return places_sliced(g, n, out);
    case OP_BROADCAST: return out->n == 1 || type_dims_eq(from, to);
    case OP_RESHAPE: return out->n == 1 || axis_after_reshape(g, from, to, axis, &out->axis);
    case OP_TRANSPOSE:
        for (uint32_t i = 0; i < to->rank; i++)
            if (n->attr.perm[i] == axis) out->axis = i;
        return true;
    case OP_GATHER: { /* one of the components */
        int64_t at = -1;
        if (out->n == 1 || n->attr.axis != (int64_t)axis || graph_type(g, n->in[1])->rank > 1) return false;
        if (!dim_eq(type_count(g, graph_type(g, n->in[1])), dim_const(1))) return false;
        if (!const_get_i64(g, n->in[1], 0, &at) || at < 0 || at >= out->n) return false;
        memmove(out->coef, out->coef + at, sizeof(out->coef[0]));
        out->n = 1;
        return true;
    }
    default: return true;
    }
}

bool hits_places(Graph *g, ValId v, ValId *list, Places *out) { return places_at(g, v, list, out, DEPTH); }

uint32_t hits_order(Graph *g, const Hits *h, const Places *p, uint32_t c, Dim length, uint32_t *out) {
    Dim stride = dim_const(1);
    uint32_t used = 0, n = 0;
    for (uint32_t i = 0; i < h->rank; i++) used += !dim_eq(p->coef[c][i], dim_const(0));
    for (; n < used; n++) { /* from the innermost */
        uint32_t i = 0;
        bool taken = false;
        for (i = 0; i < h->rank; i++) {
            taken = false;
            for (uint32_t k = 0; k < n; k++) taken |= out[used - 1 - k] == i;
            if (!taken && dim_eq(p->coef[c][i], stride)) break;
        }
        if (i == h->rank) return 0;
        out[used - 1 - n] = i;
        stride = dim_mul(g, stride, graph_type(g, h->index)->dim[h->axis[i]]);
    }
    return dim_eq(stride, length) ? used : 0;
}

/* ---- the choice ---- */

/* A value seen from the mask: where the mask's axes stand in it, and which place of which axis was picked. */
typedef struct {
    ValId v;
    int axis[MAX_RANK]; /* -1: of length 1 and gone */
    uint32_t rank;
    int picked; /* axis, -1 = none yet */
    int64_t at;
} Sight;

static void sight_pick(Sight *s, int axis, int64_t at, bool removed) {
    for (uint32_t i = 0; i < s->rank; i++) {
        if (removed)
            s->axis[i] += s->axis[i] >= axis;
        else if (s->axis[i] == axis)
            s->axis[i] = -1;
    }
    s->picked = axis;
    s->at = at;
}

static bool sight_slice(Sight *s, const Graph *g, const Node *n) {
    const Type *from = graph_type(g, n->in[0]), *to = graph_type(g, n->out[0]);
    int axis = -1;
    for (uint32_t i = 0; i < from->rank; i++) {
        if (dim_eq(from->dim[i], to->dim[i]) && n->attr.steps[i] == 1) continue;
        if (axis >= 0 || s->picked >= 0 || !dim_eq(to->dim[i], dim_const(1))) return false;
        if (!dim_is_const(n->attr.starts[i])) return false;
        axis = (int)i;
    }
    if (axis >= 0) sight_pick(s, axis, n->attr.starts[axis].v, false);
    return true;
}

static bool sight_gather(Sight *s, const Graph *g, const Node *n) {
    int64_t at = -1;
    if (s->picked >= 0 || graph_type(g, n->in[1])->rank > 1 || !const_get_i64(g, n->in[1], 0, &at))
        return false;
    bool scalar = graph_type(g, n->in[1])->rank == 0;
    if (at < 0 || (!scalar && !dim_eq(graph_type(g, n->in[1])->dim[0], dim_const(1)))) return false;
    sight_pick(s, (int)n->attr.axis, at, scalar);
    return true;
}

/* Axes of length 1 come and go; the others keep their order. */
static bool sight_reshape(Sight *s, const Graph *g, const Node *n) {
    const Type *from = graph_type(g, n->in[0]), *to = graph_type(g, n->out[0]);
    int was[MAX_RANK];
    uint32_t k = 0;
    for (uint32_t i = 0; i < to->rank; i++) {
        was[i] = -1;
        if (dim_eq(to->dim[i], dim_const(1))) continue;
        while (k < from->rank && dim_eq(from->dim[k], dim_const(1))) k++;
        if (k == from->rank || !dim_eq(from->dim[k], to->dim[i])) return false;
        was[i] = (int)k++;
    }
    while (k < from->rank && dim_eq(from->dim[k], dim_const(1))) k++;
    if (k != from->rank) return false;
    for (uint32_t i = 0; i < s->rank; i++)
        if (s->axis[i] >= 0) s->axis[i] = was[s->axis[i]];
    if (s->picked >= 0) s->picked = was[s->picked];
    return true;
}

static bool is_scalar(const Graph *g, ValId v, double *c) {
    return const_scalar(g, match_skip_moves(g, v), c);
}

/* One step from a truth value or its number towards the comparison; or, after it, from the index towards top-k. */
static bool sight_step(Sight *s, const Graph *g, bool is_truth) {
    const Node *n = node_ok(graph_def(g, s->v)) ? graph_node(g, graph_def(g, s->v)) : NULL;
    double a = 0, b = 1;
    if (n == NULL) return false;
    ValId up = n->in[0];
    switch (n->op) {
    case OP_CAST: break;
    case OP_SLICE:
        if (!sight_slice(s, g, n)) return false;
        break;
    case OP_GATHER:
        if (!sight_gather(s, g, n)) return false;
        break;
    case OP_RESHAPE:
        if (!sight_reshape(s, g, n)) return false;
        break;
    case OP_TRANSPOSE:
        for (uint32_t i = 0; i < s->rank; i++)
            if (s->axis[i] >= 0) s->axis[i] = n->attr.perm[s->axis[i]];
        if (s->picked >= 0) s->picked = n->attr.perm[s->picked];
        break;
    case OP_WHERE: /* a wrap, or c ? 1 : 0 */
        if (is_wrap(g, n)) {
            up = n->in[2];
        } else if (!is_truth || !is_scalar(g, n->in[1], &a) || !is_scalar(g, n->in[2], &b) || a <= 0 ||
                   b != 0 || !type_dims_eq(graph_type(g, up), graph_type(g, s->v))) {
            return false;
        }
        break;
    case OP_LT: /* 0 < number */
        if (!is_truth || !is_scalar(g, n->in[0], &a) || a != 0) return false;
        up = n->in[1];
        break;
    default: return false;
    }
    s->v = up;
    return true;
}

/* index == number, or index == numbers along the picked axis. */
static bool sight_compare(Sight *s, const Graph *g, int64_t *expert) {
    const Node *n = graph_node(g, graph_def(g, s->v));
    uint32_t rank = graph_type(g, s->v)->rank;
    double c = 0;
    for (uint32_t side = 0; side < 2; side++) {
        ValId number = n->in[side], index = n->in[1 - side];
        const Type *tn = graph_type(g, number), *ti = graph_type(g, index);
        if (s->picked >= 0) {
            uint32_t along = (uint32_t)s->picked + tn->rank - rank;
            if (graph_constant(g, number) == NULL || tn->rank + (uint32_t)s->picked < rank) continue;
            if (!dim_eq(tn->dim[along], graph_type(g, s->v)->dim[s->picked])) continue;
            if (!dim_eq(type_count((Graph *)(uintptr_t)g, tn), tn->dim[along])) continue;
            if (!const_get_i64(g, number, (size_t)s->at, expert)) continue;
        } else if (is_scalar(g, number, &c)) {
            *expert = (int64_t)c;
        } else {
            continue;
        }
        for (uint32_t i = 0; i < s->rank; i++) {
            if (s->axis[i] < 0) continue;
            s->axis[i] -= (int)(rank - ti->rank);
            if (s->axis[i] < 0) return false;
        }
        s->picked = -1;
        s->v = index;
        return true;
    }
    return false;
}

bool hits_of(const Graph *g, ValId list, Hits *out) {
    const Node *nz = graph_node(g, graph_def(g, list));
    Sight s = {.v = nz->in[0], .rank = graph_type(g, nz->in[0])->rank, .picked = -1};
    for (uint32_t i = 0; i < s.rank; i++) s.axis[i] = (int)i;
    uint32_t steps = 0;
    while (graph_def_op(g, s.v) != OP_EQ)
        if (++steps > DEPTH || !sight_step(&s, g, true)) return false;
    *out = (Hits){.list = list, .rank = s.rank};
    if (s.rank > HIT_COORDS || !sight_compare(&s, g, &out->expert)) return false;
    while (graph_def_op(g, s.v) != OP_TOPK)
        if (++steps > DEPTH || !sight_step(&s, g, false)) return false;
    const Node *topk = graph_node(g, graph_def(g, s.v));
    const Type *ti = graph_type(g, s.v), *from = graph_type(g, topk->in[0]);
    if (graph_val(g, s.v)->out != 1 || ti->rank != s.rank || topk->attr.axis + 1 != ti->rank) return false;
    if (!dim_is_const(from->dim[topk->attr.axis])) return false;
    uint32_t seen = 0;
    for (uint32_t i = 0; i < s.rank; i++) {
        if (s.axis[i] < 0 || (seen >> s.axis[i] & 1u)) return false;
        seen |= 1u << s.axis[i];
        out->axis[i] = (uint32_t)s.axis[i];
    }
    out->index = s.v;
    out->experts = from->dim[topk->attr.axis].v;
    out->hits = dim_symbol(g, graph_type(g, list)->dim[1]);
    return out->expert >= 0 && out->expert < out->experts;
}
