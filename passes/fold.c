/* fold.c: constants are computed, identities go.
 *
 *   %3 = add(2, 3)               ->  5
 *   %4 = mul(%1, 1)              ->  %1
 *   %5 = reshape(%1) : same type ->  %1
 *
 * A node whose operands are all constants and whose result is static is evaluated by the reference.
 * leaves alone: movement and casts of large constants and dequantised ones (weights stay as stored), results of
 * more than a million elements, x * 0 of floats (x may be infinite). */
#include <string.h>

#include "passes/rewrite.h"

#define FOLD_ELEMENTS (INT64_C(1) << 20)
#define MOVE_ELEMENTS (INT64_C(1) << 12)

static bool static_count(const Type *t, int64_t *out) {
    int64_t n = 1;
    for (uint32_t i = 0; i < t->rank; i++) {
        if (!dim_is_const(t->dim[i]) || t->dim[i].v < 0) return false;
        if (!mul_i64(n, t->dim[i].v, &n)) return false;
    }
    *out = n;
    return true;
}

static bool attrs_static(const Node *n, uint32_t rank) {
    uint32_t has = op_info(n->op)->attrs;
    if ((has & A_VALUE) != 0 && !dim_is_const(n->attr.value)) return false;
    if ((has & A_STARTS) == 0) return true;
    for (uint32_t i = 0; i < rank; i++)
        if (!dim_is_const(n->attr.starts[i])) return false;
    return true;
}

static bool worth_folding(const Graph *g, const Node *n) {
    int64_t out = 0, in = 0;
    int64_t most = n->op == OP_QUANTIZE ? INT64_MAX : FOLD_ELEMENTS; /* its result is the smaller one */
    for (uint8_t i = 0; i < n->nout; i++)
        if (!static_count(graph_type(g, n->out[i]), &out) || out > most) return false;
    /* A weight stays compressed. */
    if (n->op == OP_DEQUANTIZE && graph_type(g, n->out[0])->rank > 1) return false;
    bool moves = (op_info(n->op)->flags & F_MOVE) != 0 || n->op == OP_CAST;
    if (moves && out > MOVE_ELEMENTS) return false;
    for (uint8_t i = 0; i < n->nin; i++) {
        if (!val_ok(n->in[i])) continue;
        if (graph_constant(g, n->in[i]) == NULL) return false;
        if (!static_count(graph_type(g, n->in[i]), &in) || in > most) return false;
        /* A row picked from a table is small; the table is not touched. */
        if (moves && in > MOVE_ELEMENTS && n->op != OP_GATHER && n->op != OP_SLICE) return false;
    }
    /* One value spread out is known better as that. */
    if (n->op == OP_BROADCAST && out > 64) return false;
    return attrs_static(n, graph_type(g, n->out[0])->rank);
}

/* op(constants) -> constant */
static ValId fold_constant(Rewrite *r, NodeId id) {
    Node n = *graph_node(r->g, id);
    if (n.nout > 2 || !worth_folding(r->g, &n)) return NO_VAL;
    Arena *a = r->cx->scratch;
    Tensor *in = arena_array_of(a, n.nin, Tensor);
    const Tensor **ptr = arena_array_of(a, n.nin, const Tensor *);
    Tensor out[2];
    memset(out, 0, sizeof(out));
    for (uint8_t i = 0; i < n.nin; i++) {
        if (!val_ok(n.in[i])) continue;
        in[i] = const_tensor(r->g, n.in[i], a);
        ptr[i] = &in[i];
    }
    Diag quiet;
    diag_init(&quiet);
    bool ok = eval_node(r->g, id, ptr, NULL, 0, out, a, &quiet);
    diag_free(&quiet);
    if (!ok) return NO_VAL; /* an index out of range: it is reported where it is run */
    ValId v[2] = {NO_VAL, NO_VAL};
    for (uint8_t i = 0; i < n.nout; i++)
        v[i] = graph_const_tensor(r->g, *graph_type(r->g, n.out[i]), &out[i], NULL);
    if (n.nout == 2) graph_replace(r->g, n.out[1], v[1]);
    return v[0];
}

/* ---- identities ---- */

static const Node *node_of(Rewrite *r, NodeId id) { return graph_node(r->g, id); }

/* x when it has the node's type, else x broadcast or nothing */
static ValId same_type(Rewrite *r, NodeId id, ValId x) {
    const Type *to = graph_type(r->g, node_of(r, id)->out[0]);
    const Type *from = graph_type(r->g, x);
    if (type_eq(to, from)) return x;
    return to->dtype == from->dtype ? rw_typed(r, OP_BROADCAST, x, to) : NO_VAL;
}

/* op(x, c) or, when commutative, op(c, x) -> x */
static ValId drop_neutral(Rewrite *r, NodeId id, double c) {
    ValId x = NO_VAL;
    double v = 0;
    Op op = node_of(r, id)->op;
    if (!match_scalar(r->g, node_of(r, id)->out[0], op, &x, &v) || v != c) return NO_VAL;
    return same_type(r, id, x);
}

static ValId add_zero(Rewrite *r, NodeId id) { return drop_neutral(r, id, 0); }
static ValId mul_one(Rewrite *r, NodeId id) { return drop_neutral(r, id, 1); }

/* and(x, true) -> x; and(x, false) -> false */
static ValId and_const(Rewrite *r, NodeId id) {
    ValId x = NO_VAL;
    double v = 0;
    const Node *n = node_of(r, id);
    Op op = n->op;
    if (graph_type(r->g, n->out[0])->dtype != DT_BOOL) return NO_VAL;
    if (!match_scalar(r->g, n->out[0], op, &x, &v)) return NO_VAL;
    bool absorbs = (op == OP_AND) == (v == 0);
    return same_type(r, id, absorbs ? rw_scalar(r, DT_BOOL, v) : x);
}

/* cast, reshape, broadcast, slice, transpose to the operand's own type */
static ValId same_shape(Rewrite *r, NodeId id) {
    const Node *n = node_of(r, id);
    const Type *x = graph_type(r->g, n->in[0]), *t = graph_type(r->g, n->out[0]);
    if (!type_eq(x, t)) return NO_VAL;
    if (n->op == OP_TRANSPOSE)
        for (uint32_t i = 0; i < t->rank; i++)
            if (n->attr.perm[i] != i) return NO_VAL;
    if (n->op == OP_SLICE)
        for (uint32_t i = 0; i < t->rank; i++)
            if (n->attr.steps[i] != 1 || !dim_eq(n->attr.starts[i], dim_const(0))) return NO_VAL;
    return n->in[0];
}

/* concat(x) -> x; operands of length 0 go */
static ValId concat_empty(Rewrite *r, NodeId id) {
    Node n = *node_of(r, id);
    ValId *kept = arena_array_of(r->cx->scratch, n.nin, ValId);
    size_t count = 0;
    for (uint8_t i = 0; i < n.nin; i++)
        if (!dim_eq(graph_type(r->g, n.in[i])->dim[n.attr.axis], dim_const(0))) kept[count++] = n.in[i];
    if (count == 1) return kept[0];
    if (count == 0 || count == n.nin) return NO_VAL;
    return rw_add(r, OP_CONCAT, kept, count, &n.attr, NULL);
}

/* where(true, a, b) -> a; where(c, x, x) -> x; where(not c, a, b) -> where(c, b, a) */
static ValId where_const(Rewrite *r, NodeId id) {
    Node n = *node_of(r, id);
    double c = 0;
    Node *inner = NULL;
    if (const_scalar(r->g, match_skip_moves(r->g, n.in[0]), &c))
        return same_type(r, id, n.in[c != 0 ? 1 : 2]);
    if (val_eq(n.in[1], n.in[2])) return same_type(r, id, n.in[1]);
    if (!match_op(r->g, n.in[0], OP_NOT, &inner)) return NO_VAL;
    ValId in[3] = {inner->in[0], n.in[2], n.in[1]};
    return rw_add(r, OP_WHERE, in, 3, NULL, NULL);
}

/* f(f(x)) -> x for ops that undo themselves exactly */
static ValId undo_twice(Rewrite *r, NodeId id) {
    Node *inner = NULL;
    Op op = node_of(r, id)->op;
    if (!match_op(r->g, node_of(r, id)->in[0], op, &inner)) return NO_VAL;
    return inner->in[0];
}

/* Every value of `from` is a value of `to`. */
static bool cast_is_exact(DType from, DType to) {
    static const int digits[DT_COUNT] = {[DT_F16] = 11, [DT_BF16] = 8, [DT_F32] = 24, [DT_F64] = 53};
    DClass a = dtype_class(from), b = dtype_class(to);
    int bits = (int)dtype_bits(from);
    if (from == to || a == DC_BOOL) return true;
    if (b == DC_BOOL) return false;
    if (a == DC_FLOAT && b == DC_FLOAT) return dtype_bits(to) > dtype_bits(from);
    if (a == DC_FLOAT) return false;
    if (b == DC_FLOAT) return bits <= digits[to] && to != DT_F16;
    if (a == b) return dtype_bits(to) >= dtype_bits(from);
    return a == DC_UINT && dtype_bits(to) > dtype_bits(from);
}

/* cast(cast(x)) -> cast(x) when the inner cast loses nothing */
static ValId cast_chain(Rewrite *r, NodeId id) {
    Node *inner = NULL;
    if (!match_op(r->g, node_of(r, id)->in[0], OP_CAST, &inner)) return NO_VAL;
    const Type *x = graph_type(r->g, inner->in[0]), *to = graph_type(r->g, node_of(r, id)->out[0]);
    if (!cast_is_exact(x->dtype, graph_type(r->g, inner->out[0])->dtype)) return NO_VAL;
    return type_eq(x, to) ? inner->in[0] : rw_typed(r, OP_CAST, inner->in[0], to);
}

static const Rule rules[] = {
    {OP_NONE, "op(constants) -> constant", fold_constant},
    {OP_ADD, "x + 0 -> x", add_zero},
    {OP_SUB, "x - 0 -> x", add_zero},
    {OP_MUL, "x * 1 -> x", mul_one},
    {OP_DIV, "x / 1 -> x", mul_one},
    {OP_POW, "x ^ 1 -> x", mul_one},
    {OP_AND, "x and true -> x, x and false -> false", and_const},
    {OP_OR, "x or false -> x, x or true -> true", and_const},
    {OP_CAST, "cast to the same dtype -> x", same_shape},
    {OP_RESHAPE, "reshape to the same shape -> x", same_shape},
    {OP_BROADCAST, "broadcast to the same shape -> x", same_shape},
    {OP_SLICE, "slice of everything -> x", same_shape},
    {OP_TRANSPOSE, "transpose by the identity -> x", same_shape},
    {OP_CONCAT, "concat of one, empty operands -> x", concat_empty},
    {OP_WHERE, "where(true, a, b) -> a, where(not c, a, b) -> where(c, b, a)", where_const},
    {OP_NOT, "not(not(x)) -> x", undo_twice},
    {OP_NEG, "-(-x) -> x", undo_twice},
    {OP_CAST, "cast(cast(x)) -> cast(x)", cast_chain},
};
const RuleSet fold_rules = {rules, COUNT_OF(rules)};

PassResult pass_fold(PassCtx *cx, Graph *g) { return rewrite_run(cx, g, &fold_rules, 1, 64, "folded"); }
