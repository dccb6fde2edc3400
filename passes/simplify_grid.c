/* simplify_grid.c: a ScatterND whose index tuples spell out a box is putting parts side by side. TorchScript
 * writes `y[..., a:b] = x` so, with one index range an axis, spread over the box and joined into tuples.
 *
 *   scatter_nd(x, concat(spread(0, 1, ..), .., spread(a, a + 1, .., b - 1)), box)
 *      ->  concat(slice[0, a)(x), box, slice[b, n)(x))                                     along that axis */
#include "passes/rewrite.h"

#define RANGE_MAX 65536

/* v[.., 1], the indices along `axis` of a box: their first one, when they count up there and nowhere else. */
static bool counts_up(const Graph *g, ValId v, const Type *box, uint32_t axis, int64_t *start) {
    Node *n = NULL;
    Dim len = box->dim[axis], one = dim_const(1);
    if (match_op(g, v, OP_RESHAPE, &n)) v = n->in[0];
    if (match_op(g, v, OP_BROADCAST, &n) && type_dims_eq(graph_type(g, v), box)) v = n->in[0];
    const Type *t = graph_type(g, v);
    uint32_t seen = 0, ahead = box->rank - axis; /* axes from `axis` to the end */
    if (t->rank == box->rank + 1u && dim_eq(t->dim[t->rank - 1], one)) ahead++;
    for (uint32_t i = 0; i < t->rank; i++) {
        if (dim_eq(t->dim[i], one)) continue;
        if (i + ahead != t->rank || !dim_eq(t->dim[i], len)) return false;
        seen++;
    }
    if (seen == 0 && !dim_eq(len, one)) return false;
    while (match_op(g, v, OP_RESHAPE, &n)) v = n->in[0];
    *start = 0;
    if (match_op(g, v, OP_IOTA, &n)) return graph_type(g, v)->rank == 1;
    if (graph_constant(g, v) == NULL || !dim_is_const(len) || len.v > RANGE_MAX) return false;
    for (int64_t i = 0, at = 0; i < len.v; i++) {
        if (!const_get_i64(g, v, (size_t)i, &at) || at < 0) return false;
        if (i == 0) *start = at;
        if (at != *start + i) return false;
    }
    return true;
}

static ValId part_of(Rewrite *r, ValId x, uint32_t axis, int64_t start, Dim count) {
    Attr a = attr_default();
    Type t = *graph_type(r->g, x);
    a.starts[axis] = dim_const(start);
    t.dim[axis] = count;
    return rw_add(r, OP_SLICE, &x, 1, &a, &t);
}

ValId scatter_grid(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id), *tuples = NULL;
    Type x = *graph_type(g, n.in[0]), box = *graph_type(g, n.in[2]);
    if (n.attr.reduce != 0 || box.rank != x.rank || !match_op(g, n.in[1], OP_CONCAT, &tuples)) return NO_VAL;
    if (tuples->nin != x.rank || (uint32_t)tuples->attr.axis != x.rank) return NO_VAL;
    uint32_t axis = MAX_RANK;
    int64_t start = 0, at = 0;
    for (uint32_t i = 0; i < x.rank; i++) {
        if (!counts_up(g, tuples->in[i], &box, i, &at)) return NO_VAL;
        if (at == 0 && dim_eq(x.dim[i], box.dim[i])) continue;
        if (axis != MAX_RANK || !dim_is_const(x.dim[i]) || !dim_is_const(box.dim[i])) return NO_VAL;
        axis = i;
        start = at;
    }
    if (axis == MAX_RANK) return n.in[2];
    int64_t end = start + box.dim[axis].v, all = x.dim[axis].v;
    if (end > all) return NO_VAL;
    ValId part[3];
    size_t parts = 0;
    if (start > 0) part[parts++] = part_of(r, n.in[0], axis, 0, dim_const(start));
    part[parts++] = n.in[2];
    if (end < all) part[parts++] = part_of(r, n.in[0], axis, end, dim_const(all - end));
    Attr a = attr_default();
    a.axis = axis;
    return rw_add(r, OP_CONCAT, part, parts, &a, NULL);
}
