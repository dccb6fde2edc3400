/* simplify_move.c: chains of reshapes and transposes become the shortest chain that does the same.
 *
 *   reshape, reshape                             ->  reshape
 *   transpose, transpose                         ->  transpose
 *   [b,h,s,d] -> [bh,s,d] -> [bh,d,s] -> [b,h,d,s]  ->  transpose {0,1,3,2}
 *   reshape, transpose                           ->  transpose, reshape   where that is possible
 *
 * Each axis of the source is cut into factors just fine enough that every reshape of the chain moves
 * whole factors; the chain is then a permutation of factors between two groupings. Axes of length 1 are
 * no factors: a reshape puts them where they belong. */
#include <string.h>

#include "passes/rewrite.h"

#define MAX_FACTORS 24
#define MAX_CHAIN 6

typedef struct {
    Dim size;
    uint8_t src, dst;
} Factor;
typedef struct {
    Graph *g;
    Factor f[MAX_FACTORS];
    uint32_t count;
    uint8_t order[MAX_FACTORS]; /* factors as they stand now */
    uint8_t axis[MAX_FACTORS];  /* order[i] belongs to this axis now */
} Track;

static bool dim_one(Dim d) { return dim_eq(d, dim_const(1)); }

static bool track_start(Track *t, const Type *x) {
    for (uint32_t i = 0; i < x->rank; i++) {
        if (!dim_known(x->dim[i]) || dim_eq(x->dim[i], dim_const(0))) return false;
        if (dim_one(x->dim[i])) continue;
        t->f[t->count] = (Factor){x->dim[i], (uint8_t)i, 0};
        t->order[t->count] = (uint8_t)t->count;
        t->axis[t->count] = (uint8_t)i;
        t->count++;
    }
    return true;
}

/* Cuts the factor at place `at` of the order in two: `size` and the rest. */
static bool track_split(Track *t, uint32_t at, Dim size, Dim rest) {
    if (t->count == MAX_FACTORS) return false;
    uint32_t f = t->order[at];
    memmove(&t->f[f + 1], &t->f[f], (t->count - f) * sizeof(Factor));
    t->f[f].size = size;
    t->f[f + 1].size = rest;
    for (uint32_t i = 0; i < t->count; i++)
        if (t->order[i] > f) t->order[i]++;
    memmove(&t->order[at + 1], &t->order[at], t->count - at);
    t->order[at + 1] = (uint8_t)(f + 1);
    t->count++;
    return true;
}

static bool track_reshape(Track *t, const Type *to) {
    uint32_t at = 0;
    uint8_t axis[MAX_FACTORS] = {0};
    for (uint32_t i = 0; i < to->rank; i++) {
        Dim left = to->dim[i];
        if (!dim_known(left) || dim_eq(left, dim_const(0))) return false;
        while (!dim_one(left)) {
            if (at >= t->count) return false;
            Dim size = t->f[t->order[at]].size;
            Dim more = dim_div(t->g, left, size), rest = dim_div(t->g, size, left);
            if (dim_known(more))
                left = more;
            else if (!dim_known(rest) || !track_split(t, at, left, rest))
                return false;
            else
                left = dim_const(1);
            axis[at++] = (uint8_t)i;
        }
    }
    memcpy(t->axis, axis, sizeof(axis));
    return at == t->count;
}

static void track_transpose(Track *t, const uint8_t *perm, uint32_t rank) {
    uint8_t order[MAX_FACTORS], axis[MAX_FACTORS];
    uint32_t n = 0;
    for (uint32_t i = 0; i < rank; i++) {
        for (uint32_t j = 0; j < t->count; j++) {
            if (t->axis[j] != perm[i]) continue;
            order[n] = t->order[j];
            axis[n++] = (uint8_t)i;
        }
    }
    memcpy(t->order, order, n);
    memcpy(t->axis, axis, n);
}

/* ---- the shortest chain for a track ---- */

typedef struct {
    uint32_t cost;
    bool pre, perm, post; /* reshape, transpose, reshape */
    Type mid;             /* shape that is transposed */
    uint8_t order[MAX_RANK];
} Emission;

/* Merges factors that stay neighbours into axes of `mid`; cut says where a new axis must begin. */
static bool emit_groups(Track *t, Emission *e, const bool *cut) {
    uint8_t group[MAX_FACTORS] = {0};
    uint32_t place[MAX_FACTORS] = {0}, n = 0;
    for (uint32_t i = 0; i < t->count; i++) place[t->order[i]] = i;
    for (uint32_t f = 0; f < t->count; f++) {
        bool joined = f > 0 && !cut[f] && place[f] == place[f - 1] + 1;
        if (!joined) {
            if (n == MAX_RANK) return false;
            e->mid.dim[n++] = t->f[f].size;
        } else {
            e->mid.dim[n - 1] = dim_mul(t->g, e->mid.dim[n - 1], t->f[f].size);
        }
        group[f] = (uint8_t)(n - 1);
    }
    e->mid.rank = (uint8_t)n;
    uint32_t k = 0;
    for (uint32_t i = 0; i < t->count; i++) {
        uint8_t at = group[t->order[i]];
        if (k == 0 || e->order[k - 1] != at) {
            if (k == n) return false;
            e->order[k++] = at;
        }
    }
    return k == n;
}

static void type_permute(const Type *x, const uint8_t *perm, Type *out) {
    *out = *x;
    for (uint32_t i = 0; i < x->rank; i++) out->dim[i] = x->dim[perm[i]];
}

/* Drops axes of length 1 first, then transposes. */
static bool emit_squeezed(const Type *x, const uint32_t *moved, uint32_t n, const Type *to, Emission *e) {
    uint8_t place[MAX_RANK] = {0};
    Type out;
    e->mid = *x;
    e->mid.rank = 0;
    for (uint32_t i = 0; i < x->rank; i++) {
        if (dim_one(x->dim[i])) continue;
        place[i] = e->mid.rank;
        e->mid.dim[e->mid.rank++] = x->dim[i];
    }
    for (uint32_t i = 0; i < n; i++) e->order[i] = place[moved[i]];
    type_permute(&e->mid, e->order, &out);
    e->pre = true;
    e->post = !type_dims_eq(&out, to);
    return true;
}

/* Transposes the source as it is: its axes of length 1 go where the result has some. */
static bool emit_direct(const Track *t, const Type *x, const Type *to, Emission *e) {
    uint32_t moved[MAX_RANK], n = 0, units[MAX_RANK], nunits = 0, wanted = 0;
    for (uint32_t i = 0; i < t->count; i++) {
        uint32_t src = t->f[t->order[i]].src;
        if (n > 0 && moved[n - 1] == src) {
            if (t->order[i] != t->order[i - 1] + 1) return false;
            continue;
        }
        for (uint32_t j = 0; j < n; j++)
            if (moved[j] == src) return false;
        moved[n++] = src;
    }
    for (uint32_t i = 0; i < x->rank; i++)
        if (dim_one(x->dim[i])) units[nunits++] = i;
    for (uint32_t i = 0; i < to->rank; i++) wanted += dim_one(to->dim[i]) ? 1u : 0u;
    e->perm = true;
    if (nunits > wanted) return emit_squeezed(x, moved, n, to, e);
    uint32_t m = 0, u = 0, k = 0;
    for (uint32_t i = 0; i < to->rank && k < x->rank; i++) {
        if (dim_one(to->dim[i]) && u < nunits)
            e->order[k++] = (uint8_t)units[u++];
        else if (!dim_one(to->dim[i]) && m < n)
            e->order[k++] = (uint8_t)moved[m++];
    }
    while (m < n) e->order[k++] = (uint8_t)moved[m++];
    while (u < nunits) e->order[k++] = (uint8_t)units[u++];
    Type out;
    type_permute(x, e->order, &out);
    e->mid = *x;
    e->post = !type_dims_eq(&out, to);
    return true;
}

static bool emit_grouped(Track *t, const Type *x, const Type *to, Emission *e) {
    bool cut[MAX_FACTORS] = {false};
    uint8_t dst[MAX_FACTORS] = {0};
    for (uint32_t i = 0; i < t->count; i++) dst[t->order[i]] = t->axis[i];
    for (uint32_t f = 1; f < t->count; f++) cut[f] = dst[f] != dst[f - 1] || t->f[f].src != t->f[f - 1].src;
    /* Boundaries of the source alone are not worth keeping when the result does not need them. */
    e->mid = *x;
    if (!emit_groups(t, e, cut)) return false;
    Type out;
    type_permute(&e->mid, e->order, &out);
    if (!type_dims_eq(&out, to)) {
        bool fewer[MAX_FACTORS] = {false};
        Emission other = *e;
        for (uint32_t f = 1; f < t->count; f++) fewer[f] = dst[f] != dst[f - 1];
        if (emit_groups(t, &other, fewer)) {
            type_permute(&other.mid, other.order, &out);
            if (type_dims_eq(&out, to))
                *e = other;
            else
                type_permute(&e->mid, e->order, &out);
        }
    }
    e->pre = !type_dims_eq(x, &e->mid);
    e->perm = true;
    e->post = !type_dims_eq(&out, to);
    return true;
}

static bool track_emission(Track *t, const Type *x, const Type *to, Emission *e) {
    bool moved = false;
    memset(e, 0, sizeof(*e));
    for (uint32_t i = 0; i < t->count; i++) moved = moved || t->order[i] != i;
    if (!moved) {
        e->post = !type_dims_eq(x, to);
        e->cost = e->post ? 1 : 0;
        return true;
    }
    if (!emit_direct(t, x, to, e)) {
        memset(e, 0, sizeof(*e));
        if (!emit_grouped(t, x, to, e)) return false;
    }
    e->cost = 1u + (e->pre ? 1u : 0u) + (e->post ? 1u : 0u);
    return true;
}

/* ---- chains ---- */

static bool moves(Op op) { return op == OP_RESHAPE || op == OP_TRANSPOSE; }

/* chain[0] is the last node; the track follows chain[k - 1] .. chain[0]. */
static bool chain_track(Graph *g, const NodeId *chain, uint32_t k, Track *t) {
    memset(t, 0, sizeof(*t));
    t->g = g;
    if (!track_start(t, graph_type(g, graph_node(g, chain[k - 1])->in[0]))) return false;
    for (uint32_t i = k; i-- > 0;) {
        const Node *n = graph_node(g, chain[i]);
        const Type *to = graph_type(g, n->out[0]);
        if (n->op == OP_TRANSPOSE)
            track_transpose(t, n->attr.perm, to->rank);
        else if (!track_reshape(t, to))
            return false;
    }
    return true;
}

static ValId emit(Rewrite *r, ValId x, const Emission *e, const Type *to) {
    if (e->pre) x = rw_reshape(r, x, &e->mid);
    if (e->perm) x = rw_transpose(r, x, e->order);
    return rw_reshape(r, x, to);
}

/* chain of reshapes and transposes -> the shortest one, transpose first */
static ValId shorten_chain(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    NodeId chain[MAX_CHAIN];
    uint32_t len = 0;
    for (NodeId at = id; node_ok(at) && moves(graph_node(g, at)->op) && len < MAX_CHAIN;
         at = graph_def(g, graph_node(g, at)->in[0]))
        chain[len++] = at;
    for (uint32_t k = len; k >= 2; k--) {
        Track t;
        Emission e;
        ValId x = graph_node(g, chain[k - 1])->in[0];
        Type from = *graph_type(g, x), to = *graph_type(g, graph_node(g, id)->out[0]);
        if (!chain_track(g, chain, k, &t) || !track_emission(&t, &from, &to, &e)) continue;
        bool earlier = k == 2 && e.cost == 2 && !e.pre && graph_node(g, id)->op == OP_TRANSPOSE &&
                       graph_node(g, chain[1])->op == OP_RESHAPE;
        if (e.cost < k || earlier) return emit(r, x, &e, &to);
    }
    return NO_VAL;
}

/* reshape(reshape(x)) -> reshape(x), whatever the shapes */
static ValId reshape_twice(Rewrite *r, NodeId id) {
    Node *inner = NULL;
    if (!match_op(r->g, graph_node(r->g, id)->in[0], OP_RESHAPE, &inner)) return NO_VAL;
    Type to = *graph_type(r->g, graph_node(r->g, id)->out[0]);
    return rw_reshape(r, inner->in[0], &to);
}

/* transpose(broadcast(x)) -> broadcast(transpose(x)) */
static ValId transpose_broadcast(Rewrite *r, NodeId id) {
    Node *b = NULL;
    Node n = *graph_node(r->g, id);
    if (!match_op(r->g, n.in[0], OP_BROADCAST, &b)) return NO_VAL;
    Type to = *graph_type(r->g, n.out[0]), full = *graph_type(r->g, b->in[0]);
    uint32_t missing = (uint32_t)to.rank - full.rank;
    ValId x = b->in[0];
    for (uint32_t i = to.rank; i-- > 0;) full.dim[i] = i >= missing ? full.dim[i - missing] : dim_const(1);
    full.rank = to.rank;
    x = rw_transpose(r, rw_reshape(r, x, &full), n.attr.perm);
    return rw_typed(r, OP_BROADCAST, x, &to);
}

/* broadcast(broadcast(x)) -> broadcast(x); axes of 1 in front of x say nothing */
static ValId broadcast_source(Rewrite *r, NodeId id) {
    Node *inner = NULL;
    ValId x = graph_node(r->g, id)->in[0];
    Type to = *graph_type(r->g, graph_node(r->g, id)->out[0]);
    if (match_op(r->g, x, OP_BROADCAST, &inner)) return rw_typed(r, OP_BROADCAST, inner->in[0], &to);
    if (!match_op(r->g, x, OP_RESHAPE, &inner)) return NO_VAL;
    const Type *from = graph_type(r->g, inner->in[0]), *full = graph_type(r->g, x);
    if (from->rank >= full->rank) return NO_VAL;
    uint32_t extra = (uint32_t)full->rank - from->rank;
    for (uint32_t i = 0; i < full->rank; i++)
        if (!dim_eq(full->dim[i], i < extra ? dim_const(1) : from->dim[i - extra])) return NO_VAL;
    return rw_typed(r, OP_BROADCAST, inner->in[0], &to);
}

/* movement of one value spread out -> that value spread out */
static ValId move_splat(Rewrite *r, NodeId id) {
    Node *b = NULL;
    const Node *n = graph_node(r->g, id);
    if (!match_op(r->g, n->in[0], OP_BROADCAST, &b)) return NO_VAL;
    const Type *x = graph_type(r->g, b->in[0]);
    for (uint32_t i = 0; i < x->rank; i++)
        if (!dim_one(x->dim[i])) return NO_VAL;
    Type to = *graph_type(r->g, n->out[0]), scalar = type_scalar(x->dtype);
    return rw_typed(r, OP_BROADCAST, rw_reshape(r, b->in[0], &scalar), &to);
}

static const Rule rules[] = {
    {OP_RESHAPE, "movement of a splat -> splat", move_splat},
    {OP_TRANSPOSE, "movement of a splat -> splat", move_splat},
    {OP_SLICE, "movement of a splat -> splat", move_splat},
    {OP_GATHER, "movement of a splat -> splat", move_splat},
    {OP_GATHER_ND, "movement of a splat -> splat", move_splat},
    {OP_GATHER_ELEMENTS, "movement of a splat -> splat", move_splat},
    {OP_BROADCAST, "broadcast(broadcast(x)) -> broadcast(x)", broadcast_source},
    {OP_TRANSPOSE, "transpose(broadcast(x)) -> broadcast(transpose(x))", transpose_broadcast},
    {OP_RESHAPE, "chain of reshapes and transposes -> the shortest", shorten_chain},
    {OP_TRANSPOSE, "chain of reshapes and transposes -> the shortest", shorten_chain},
    {OP_RESHAPE, "reshape(reshape(x)) -> reshape(x)", reshape_twice},
};
const RuleSet move_rules = {rules, COUNT_OF(rules)};
