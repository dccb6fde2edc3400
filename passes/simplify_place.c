/* simplify_place.c: writing whole rows is putting parts side by side. Exporters turn `y[..., a:b] = x` into a
 * transpose that brings the axis to the front, a ScatterND of rows a..b and a transpose back.
 *
 *   scatter_nd(x, {a, a + 1, .., b - 1}, rows)  ->  concat(slice[0, a)(x), rows, slice[b, n)(x))
 *   concat(transpose(a), transpose(b))          ->  transpose(concat(a, b))    also below slices
 *   slice(broadcast(x))                         ->  broadcast(slice(x))                               */
#include <string.h>

#include "passes/rewrite.h"

/* index: i64[n, 1] of n rows that follow one another. */
static bool row_run(const Graph *g, ValId index, int64_t rows, int64_t *start, int64_t *count) {
    const Type *t = graph_type(g, index);
    if (graph_constant(g, index) == NULL || t->rank != 2 || !dim_eq(t->dim[1], dim_const(1))) return false;
    *count = t->dim[0].v;
    for (int64_t i = 0, at = 0; i < *count; i++) {
        if (!const_get_i64(g, index, (size_t)i, &at)) return false;
        if (at < 0) at += rows;
        if (i == 0) *start = at;
        if (at != *start + i || at < 0 || at >= rows) return false;
    }
    return *count > 0;
}

static ValId rows_of(Rewrite *r, ValId x, int64_t start, int64_t count) {
    Attr a = attr_default();
    Type t = *graph_type(r->g, x);
    a.starts[0] = dim_const(start);
    t.dim[0] = dim_const(count);
    return rw_add(r, OP_SLICE, &x, 1, &a, &t);
}

static ValId scatter_rows(Rewrite *r, NodeId id) {
    Node n = *graph_node(r->g, id);
    int64_t start = 0, count = 0;
    Dim rows = graph_type(r->g, n.in[0])->dim[0];
    if (n.attr.reduce != 0 || !dim_is_const(rows) || !row_run(r->g, n.in[1], rows.v, &start, &count))
        return NO_VAL;
    ValId part[3];
    size_t parts = 0;
    if (start > 0) part[parts++] = rows_of(r, n.in[0], 0, start);
    part[parts++] = n.in[2];
    if (start + count < rows.v) part[parts++] = rows_of(r, n.in[0], start + count, rows.v - start - count);
    Attr a = attr_default();
    return parts == 1 ? n.in[2] : rw_add(r, OP_CONCAT, part, parts, &a, NULL);
}

/* The permutation of a transpose, also below slices and broadcasts of as many axes; NULL: none. */
static const uint8_t *turned(const Graph *g, ValId v) {
    Node *n = NULL;
    while (match_op(g, v, OP_SLICE, &n) || match_op(g, v, OP_BROADCAST, &n)) {
        if (graph_type(g, n->in[0])->rank != graph_type(g, v)->rank) return NULL;
        v = n->in[0];
    }
    return match_op(g, v, OP_TRANSPOSE, &n) ? n->attr.perm : NULL;
}

/* What v was before it was turned. */
static ValId turn_back(Rewrite *r, ValId v, const uint8_t *perm) {
    Node n = *graph_node(r->g, graph_def(r->g, v));
    if (n.op == OP_TRANSPOSE) return n.in[0];
    Type full = *graph_type(r->g, v), to = full;
    Attr a = n.attr;
    for (uint32_t i = 0; i < full.rank; i++) {
        to.dim[perm[i]] = full.dim[i];
        a.starts[perm[i]] = n.attr.starts[i];
        a.steps[perm[i]] = n.attr.steps[i];
    }
    ValId x = turn_back(r, n.in[0], perm);
    return rw_add(r, n.op, &x, 1, &a, &to);
}

static ValId concat_turned(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id);
    const uint8_t *first = turned(g, n.in[0]);
    uint8_t perm[MAX_RANK];
    uint32_t rank = graph_type(g, n.out[0])->rank;
    if (first == NULL) return NO_VAL;
    memcpy(perm, first, sizeof(perm));
    for (uint8_t i = 1; i < n.nin; i++) {
        const uint8_t *p = turned(g, n.in[i]);
        if (p == NULL || memcmp(p, perm, rank) != 0) return NO_VAL;
    }
    ValId *in = arena_array_of(r->cx->scratch, n.nin, ValId);
    for (uint8_t i = 0; i < n.nin; i++) in[i] = turn_back(r, n.in[i], perm);
    Attr a = attr_default();
    a.axis = perm[n.attr.axis];
    return rw_transpose(r, rw_add(r, OP_CONCAT, in, n.nin, &a, NULL), perm);
}

static ValId slice_broadcast(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id), *b = NULL;
    if (!match_op(g, n.in[0], OP_BROADCAST, &b)) return NO_VAL;
    ValId x = b->in[0];
    Type to = *graph_type(g, n.out[0]), full = *graph_type(g, n.in[0]), t = *graph_type(g, x);
    Attr a = attr_default();
    bool cut = false;
    for (uint32_t i = 0, extra = (uint32_t)to.rank - t.rank; i < t.rank; i++) {
        if (!dim_eq(t.dim[i], full.dim[i + extra])) continue; /* spread out: one row serves */
        a.starts[i] = n.attr.starts[i + extra];
        a.steps[i] = n.attr.steps[i + extra];
        t.dim[i] = to.dim[i + extra];
        cut = cut || a.steps[i] != 1 || !dim_eq(t.dim[i], full.dim[i + extra]);
    }
    if (cut) x = rw_add(r, OP_SLICE, &x, 1, &a, &t);
    return rw_typed(r, OP_BROADCAST, x, &to);
}

static const Rule rules[] = {
    {OP_SCATTER_ND, "scatter_nd(x, rows) -> concat(slice(x), rows, slice(x))", scatter_rows},
    {OP_SCATTER_ND, "scatter_nd(x, tuples of a box) -> concat(slice(x), box, slice(x))", scatter_grid},
    {OP_CONCAT, "concat(transpose(a), transpose(b)) -> transpose(concat(a, b))", concat_turned},
    {OP_SLICE, "slice(broadcast(x)) -> broadcast(slice(x))", slice_broadcast},
};
const RuleSet place_rules = {rules, COUNT_OF(rules)};
