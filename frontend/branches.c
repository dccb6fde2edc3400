/* branches.c: whether one branch of an If is the special case of the other.
 *
 *   past == 0 ? attention(q, k, v) : attention(q, concat(past_k, k), concat(past_v, v))
 *
 * Both branches are walked together from their results, the general one with the symbol at its special
 * value, where concats with nothing, additions of 0 and movement that moves nothing are passed over. Equal
 * operations on equal operands are equal. */
#include <string.h>

#include "frontend/import.h"

#define DEPTH_MAX 20000

/* The condition at every value of sym above its least one: 1, 0, or -1 when it varies. */
static int holds(Graph *g, Op op, Dim diff) {
    Sign s = dim_sign(g, diff);
    bool neg = s == SIGN_NEG, zero = s == SIGN_ZERO, pos = s == SIGN_POS;
    bool not_pos = neg || zero || s == SIGN_NONPOS, not_neg = pos || zero || s == SIGN_NONNEG;
    if (op == OP_EQ) return zero ? 1 : neg || pos ? 0 : -1;
    if (op == OP_LT) return neg ? 1 : not_neg ? 0 : -1;
    return not_pos ? 1 : pos ? 0 : -1;
}

static bool dim_of(const Graph *g, ValId v, Dim *out) {
    int64_t k = 0;
    while (graph_def_op(g, v) == OP_RESHAPE || graph_def_op(g, v) == OP_CAST)
        v = graph_node(g, graph_def(g, v))->in[0];
    if (graph_def_op(g, v) == OP_DIM) {
        *out = graph_node(g, graph_def(g, v))->attr.value;
        return true;
    }
    const Type *t = graph_type(g, v);
    if (!dtype_is_int(t->dtype) || !const_get_i64(g, v, 0, &k)) return false;
    *out = dim_const(k);
    return true;
}

bool branch_special(Import *im, ValId v, SymId *sym, int64_t *at, bool *special) {
    Graph *g = im->g;
    bool inverted = false;
    Op op = graph_def_op(g, v);
    for (; op == OP_NOT || op == OP_RESHAPE; op = graph_def_op(g, v)) {
        inverted ^= op == OP_NOT;
        v = graph_node(g, graph_def(g, v))->in[0];
    }
    if (op != OP_EQ && op != OP_LT && op != OP_LE) return false;
    const Node *n = graph_node(g, graph_def(g, v));
    Dim a, b;
    if (!dim_of(g, n->in[0], &a) || !dim_of(g, n->in[1], &b)) return false;
    Dim diff = dim_sub(g, a, b);
    for (uint32_t s = SYM_PAST.id; s >= SYM_SEQ.id; s--) {
        *sym = (SymId){s};
        *at = s == SYM_PAST.id ? 0 : 1;
        if (!dim_depends(g, diff, *sym)) continue;
        Dim more = dim_add(g, dim_sym(g, *sym), dim_const(1));
        int here = holds(g, op, dim_substitute(g, diff, *sym, dim_const(*at)));
        int above = holds(g, op, dim_substitute(g, diff, *sym, more));
        if (here < 0 || above < 0 || here == above) continue;
        *special = (here == 1) != inverted;
        return true;
    }
    return false;
}

typedef struct {
    Graph *g;
    SymId sym;
    Dim at;
    ValId *same; /* by the general branch's value */
    size_t n;
} Cover;

static Dim here(const Cover *c, Dim d) { return dim_substitute(c->g, d, c->sym, c->at); }

static Type type_here(const Cover *c, ValId v) {
    Type t = *graph_type(c->g, v);
    for (uint32_t i = 0; i < t.rank; i++) t.dim[i] = here(c, t.dim[i]);
    return t;
}

static bool types_same(const Cover *c, ValId a, ValId b) {
    Type x = type_here(c, a), y = type_here(c, b);
    return type_eq(&x, &y);
}

static bool is_zero(const Cover *c, ValId v) {
    double x = 1;
    if (graph_def_op(c->g, v) != OP_DIM) return const_scalar(c->g, v, &x) && x == 0;
    return dim_eq(here(c, graph_node(c->g, graph_def(c->g, v))->attr.value), dim_const(0));
}

/* The operand that v is where sym has its special value, or none. */
static ValId itself(const Cover *c, ValId v) {
    NodeId id = graph_def(c->g, v);
    if (!node_ok(id)) return NO_VAL;
    const Node *n = graph_node(c->g, id);
    ValId only = NO_VAL;
    switch (n->op) {
    case OP_CONCAT:
        for (uint32_t i = 0; i < n->nin; i++) {
            Type t = type_here(c, n->in[i]);
            if (dim_eq(t.dim[n->attr.axis], dim_const(0))) continue;
            if (val_ok(only)) return NO_VAL;
            only = n->in[i];
        }
        return only;
    case OP_ADD:
        for (uint32_t i = 0; i < 2; i++)
            if (is_zero(c, n->in[i]) && types_same(c, n->in[1 - i], v)) return n->in[1 - i];
        return NO_VAL;
    case OP_SLICE:
        for (uint32_t i = 0; i < graph_type(c->g, v)->rank; i++)
            if (!dim_eq(here(c, n->attr.starts[i]), dim_const(0)) || n->attr.steps[i] != 1) return NO_VAL;
        return types_same(c, n->in[0], v) ? n->in[0] : NO_VAL;
    case OP_RESHAPE:
    case OP_BROADCAST: return types_same(c, n->in[0], v) ? n->in[0] : NO_VAL;
    default: return NO_VAL;
    }
}

static ValId source(const Cover *c, ValId v) {
    for (ValId up = itself(c, v); val_ok(up); up = itself(c, v)) v = up;
    return v;
}

static bool attrs_same(const Cover *c, const Node *a, const Node *b, uint32_t rank) {
    Attr x = a->attr, y = b->attr;
    x.value = here(c, x.value);
    y.value = here(c, y.value);
    for (uint32_t i = 0; i < rank; i++) {
        x.starts[i] = here(c, x.starts[i]);
        y.starts[i] = here(c, y.starts[i]);
    }
    return attr_eq(a->op, &x, &y, rank);
}

static bool covers(Cover *c, ValId a, ValId b, uint32_t depth) {
    Graph *g = c->g;
    a = source(c, a);
    b = source(c, b);
    if (val_eq(a, b) || val_eq(c->same[a.id], b)) return true;
    if (depth == 0 || !types_same(c, a, b)) return false;
    const Const *ka = graph_constant(g, a), *kb = graph_constant(g, b);
    if (ka != NULL && kb != NULL) return ka->bytes == kb->bytes && const_hash(g, a) == const_hash(g, b);
    Dim da, db;
    if (dim_of(g, a, &da) && dim_of(g, b, &db) && graph_type(g, a)->rank == 0)
        return dim_eq(here(c, da), here(c, db));
    NodeId na = graph_def(g, a), nb = graph_def(g, b);
    if (!node_ok(na) || !node_ok(nb) || graph_val(g, a)->out != graph_val(g, b)->out) return false;
    const Node *x = graph_node(g, na), *y = graph_node(g, nb);
    if (x->op != y->op || x->nin != y->nin || !attrs_same(c, x, y, graph_type(g, a)->rank)) return false;
    for (uint32_t i = 0; i < x->nin; i++) {
        if (val_ok(x->in[i]) != val_ok(y->in[i])) return false;
        if (val_ok(x->in[i]) && !covers(c, x->in[i], y->in[i], depth - 1)) return false;
    }
    c->same[a.id] = b;
    return true;
}

bool branch_covers(Import *im, ValId general, ValId special, SymId sym, int64_t at) {
    Cover c = {.g = im->g, .sym = sym, .at = dim_const(at)};
    c.same = arena_array_of(im->scratch, im->g->values.count, ValId);
    return covers(&c, general, special, DEPTH_MAX);
}
