/* raise_dense.c: experts that all run, where the sum over them is zero but for the chosen ones.
 *
 *   %s = scatter_elements(0, %index, %w)                                   places of topk, [rows, E]
 *   %y : f32[E, rows, N] = matmul(f(matmul(%x, @w1[E, K, F])), @w2[E, F, N])
 *   %z = reduce_sum(%y * transpose(%s)) over E    ->    reduce_sum over k of routed(f(routed(%x, %index, @w1)), ..) * %w
 *
 * Found from the sum upwards: what is summed has to be exactly zero for every expert that a row did not choose
 * (a factor that is such a scatter, through whatever keeps zero zero). Then each value above is told for the
 * chosen experts alone, its axis of E becoming one of k; each axis is followed by position, never by size.
 * needs: CANONICAL.  leaves alone: sums that other experts may add to. */
#include <math.h>

#include "passes/raise.h"
#include "passes/rewrite.h"

#define DEPTH 64

typedef struct {
    Rewrite *r;
    Graph *g;
    ValId index; /* i64[rows.., k], k last */
    Dim experts, slots;
    ValId *map;  /* by value: told for the chosen experts */
    uint8_t *at; /* the axis it was told along */
    size_t nmap;
} Dense;

/* ---- what is zero ---- */

static ValId zero_outside(const Graph *g, ValId v, uint32_t at, uint32_t depth);

/* Axis `at` of a result of rank r in an operand of an elementwise op; -1 when the operand repeats along it. */
static int operand_axis(const Type *t, uint32_t r, uint32_t at, Dim experts) {
    if (at + t->rank < r) return -1;
    uint32_t q = at + t->rank - r;
    return dim_eq(t->dim[q], experts) ? (int)q : -1;
}

static int reshaped_axis(Graph *g, const Type *from, const Type *to, uint32_t at) {
    Dim before = dim_const(1), run = dim_const(1);
    for (uint32_t i = 0; i < at; i++) before = dim_mul(g, before, to->dim[i]);
    for (uint32_t i = 0; i < from->rank; i++) {
        if (dim_eq(run, before) && dim_eq(from->dim[i], to->dim[at])) return (int)i;
        run = dim_mul(g, run, from->dim[i]);
    }
    return -1;
}

/* Where the axis stands in operand 0; -1 when it cannot be said. */
static int moved_axis(Graph *g, const Node *n, uint32_t at) {
    const Type *from = graph_type(g, n->in[0]), *to = graph_type(g, n->out[0]);
    switch (n->op) {
    case OP_RESHAPE: return reshaped_axis(g, from, to, at);
    case OP_TRANSPOSE: return n->attr.perm[at];
    case OP_BROADCAST: return operand_axis(from, to->rank, at, to->dim[at]);
    case OP_SLICE: return dim_eq(from->dim[at], to->dim[at]) && n->attr.steps[at] == 1 ? (int)at : -1;
    default: return (int)at;
    }
}

static bool keeps_zero(Op op) {
    return op == OP_SILU || op == OP_GELU || op == OP_RELU || op == OP_TANH || op == OP_NEG || op == OP_ABS ||
           op == OP_CAST || op == OP_SIGN || op == OP_SQRT;
}

/* The places outside of which a scatter into a splat leaves `base`. */
static ValId scattered(const Graph *g, const Node *n, uint32_t at, double base) {
    double c = 0;
    if (n->op != OP_SCATTER_ELEMENTS || n->attr.reduce != 0 || n->attr.axis != (int64_t)at) return NO_VAL;
    if (!const_scalar(g, match_skip_moves(g, n->in[0]), &c) || c != base) return NO_VAL;
    NodeId id = graph_def(g, n->in[1]);
    bool topk = node_ok(id) && graph_node(g, id)->op == OP_TOPK && graph_val(g, n->in[1])->out == 1;
    const Type *ti = graph_type(g, n->in[1]), *to = graph_type(g, n->out[0]);
    if (!topk || graph_node(g, id)->attr.axis != (int64_t)at || at + 1u != to->rank) return NO_VAL;
    for (uint32_t i = 0; i < at; i++)
        if (!dim_eq(ti->dim[i], to->dim[i])) return NO_VAL;
    return n->in[1];
}

static ValId zero_outside(const Graph *g, ValId v, uint32_t at, uint32_t depth) {
    NodeId id = graph_def(g, v);
    if (!node_ok(id) || depth == 0) return NO_VAL;
    const Node *n = graph_node(g, id);
    const Type *to = graph_type(g, v);
    ValId index = scattered(g, n, at, 0);
    int q = 0;
    if (val_ok(index)) return index;
    switch (n->op) {
    case OP_MUL:
    case OP_DIV:
        for (uint32_t i = 0; i < (n->op == OP_MUL ? 2u : 1u); i++) {
            q = operand_axis(graph_type(g, n->in[i]), to->rank, at, to->dim[at]);
            if (q >= 0 && val_ok(index = zero_outside(g, n->in[i], (uint32_t)q, depth - 1))) return index;
        }
        return NO_VAL;
    case OP_SOFTMAX: /* over the experts, and sigmoid: of -inf */
    case OP_SIGMOID: {
        NodeId up = graph_def(g, n->in[0]);
        if (!node_ok(up) || (n->op == OP_SOFTMAX && n->attr.axis != (int64_t)at)) return NO_VAL;
        return scattered(g, graph_node(g, up), at, -(double)INFINITY);
    }
    case OP_MATMUL:
        q = operand_axis(graph_type(g, n->in[0]), to->rank, at, to->dim[at]);
        return q >= 0 && at + 2u < to->rank ? zero_outside(g, n->in[0], (uint32_t)q, depth - 1) : NO_VAL;
    case OP_RESHAPE:
    case OP_TRANSPOSE:
    case OP_BROADCAST:
    case OP_SLICE:
        q = moved_axis((Graph *)(uintptr_t)g, n, at);
        return q >= 0 ? zero_outside(g, n->in[0], (uint32_t)q, depth - 1) : NO_VAL;
    default: return keeps_zero(n->op) ? zero_outside(g, n->in[0], at, depth - 1) : NO_VAL;
    }
}

/* ---- telling values for the chosen ---- */

static ValId chosen(Dense *d, ValId v, uint32_t at, uint32_t depth);

static bool is_rows(const Dense *d, const Type *t, uint32_t skip) {
    const Type *ti = graph_type(d->g, d->index);
    uint32_t k = 0;
    for (uint32_t i = 0; i < t->rank; i++) {
        if (i == skip) continue;
        if (k + 1u >= ti->rank || !dim_eq(t->dim[i], ti->dim[k])) return false;
        k++;
    }
    return k + 1u == ti->rank;
}

/* A table [.., E, ..] of constants as operand of a result whose axes other than `at` are rows or features: rows
 * of it picked by the index, [.., k, .., rows where the result has them]. */
static ValId chosen_table(Dense *d, ValId v, uint32_t q, const Type *to, uint32_t at) {
    Graph *g = d->g;
    const Type *t = graph_type(g, v), *ti = graph_type(g, d->index);
    uint8_t perm[MAX_RANK] = {(uint8_t)q};
    uint32_t n = 1, pad = to->rank - t->rank, rows = ti->rank - 1u;
    for (uint32_t i = 0; i < t->rank; i++)
        if (i != q) perm[n++] = (uint8_t)i;
    Attr a = attr_default();
    ValId in[2] = {rw_transpose(d->r, v, perm), d->index};
    ValId picked =
        val_ok(in[0]) ? rw_add(d->r, OP_GATHER, in, 2, &a, NULL) : NO_VAL; /* [rows.., k, others] */
    if (!val_ok(picked)) return NO_VAL;
    /* the result's axes: rows where its dims are the index's rows, `at`, and others of the table */
    Type full = *graph_type(g, picked);
    uint32_t others = rows + 1, row = 0, np = 0;
    uint8_t back[MAX_RANK];
    full.rank = 0;
    for (uint32_t i = 0; i < to->rank; i++) {
        bool mine = i >= pad && i - pad != q && !dim_eq(t->dim[i - pad], dim_const(1));
        if (i == at) {
            back[np++] = (uint8_t)rows;
            full.dim[full.rank++] = d->slots;
        } else if (mine) {
            while (others < graph_type(g, picked)->rank &&
                   dim_eq(graph_type(g, picked)->dim[others], dim_const(1)))
                others++;
            back[np++] = (uint8_t)others;
            full.dim[full.rank++] = graph_type(g, picked)->dim[others++];
        } else if (row < rows && dim_eq(to->dim[i], ti->dim[row])) {
            back[np++] = (uint8_t)row;
            full.dim[full.rank++] = ti->dim[row++];
        } else {
            full.dim[full.rank++] = dim_const(1);
        }
    }
    if (row != rows) return NO_VAL;
    Type thin = *graph_type(g, picked); /* without the axes of length 1 */
    uint8_t place[MAX_RANK] = {0};
    thin.rank = 0;
    for (uint32_t i = 0; i < graph_type(g, picked)->rank; i++) {
        bool used = i <= rows || !dim_eq(graph_type(g, picked)->dim[i], dim_const(1));
        place[i] = thin.rank;
        if (used) thin.dim[thin.rank++] = graph_type(g, picked)->dim[i];
    }
    for (uint32_t i = 0; i < np; i++) back[i] = place[back[i]];
    if (np != thin.rank) return NO_VAL;
    return rw_reshape(d->r, rw_transpose(d->r, rw_reshape(d->r, picked, &thin), back), &full);
}

static ValId chosen_operand(Dense *d, ValId v, const Type *to, uint32_t at, uint32_t depth) {
    int q = operand_axis(graph_type(d->g, v), to->rank, at, d->experts);
    if (q < 0) return v;
    if (value_is_weight(d->g, v)) return chosen_table(d, v, (uint32_t)q, to, at);
    return chosen(d, v, (uint32_t)q, depth);
}

static ValId chosen_elementwise(Dense *d, const Node *n, const Type *to, uint32_t at, uint32_t depth) {
    ValId in[3];
    if (n->nin > COUNT_OF(in)) return NO_VAL;
    for (uint32_t i = 0; i < n->nin; i++)
        if (!val_ok(in[i] = chosen_operand(d, n->in[i], to, at, depth))) return NO_VAL;
    if (n->op != OP_CAST) return rw_add(d->r, n->op, in, n->nin, &n->attr, NULL);
    Type t = *graph_type(d->g, in[0]);
    t.dtype = to->dtype;
    return rw_typed(d->r, OP_CAST, in[0], &t);
}

static ValId chosen_moved(Dense *d, const Node *n, const Type *to, uint32_t at, uint32_t depth) {
    int q = moved_axis(d->g, n, at);
    Type t = *to;
    t.dim[at] = d->slots;
    if (q < 0) return n->op == OP_BROADCAST ? rw_typed(d->r, OP_BROADCAST, n->in[0], &t) : NO_VAL;
    ValId x = chosen(d, n->in[0], (uint32_t)q, depth);
    if (!val_ok(x)) return x;
    if (n->op == OP_RESHAPE) return rw_reshape(d->r, x, &t);
    return rw_add(d->r, n->op, &x, 1, &n->attr, n->op == OP_TRANSPOSE ? NULL : &t);
}

/* x[E, rows, K] (or [1, rows, K] for all) times @w[E, K, N]. */
static ValId chosen_product(Dense *d, const Node *n, const Type *to, uint32_t at, uint32_t depth) {
    Graph *g = d->g;
    ValId x = n->in[0], w = n->in[1], index = d->index;
    const Type *tx = graph_type(g, x), *tw = graph_type(g, w);
    if (at != 0 || to->rank != 3 || tw->rank != 3 || tx->rank < 2 || !value_is_weight(g, w)) return NO_VAL;
    if (!dim_eq(tw->dim[0], d->experts)) return NO_VAL;
    Type ti = *graph_type(g, index), row = *tx;
    ti.dim[1] = ti.dim[ti.rank - 1];
    ti.dim[0] = to->dim[1]; /* all rows in one axis */
    ti.rank = 2;
    index = rw_reshape(d->r, index, &ti);
    if (!val_ok(index) || !dim_eq(type_count(g, &ti), type_count(g, graph_type(g, d->index)))) return NO_VAL;
    while (graph_def_op(g, x) == OP_BROADCAST && tx->rank == 3) {
        ValId up = graph_node(g, graph_def(g, x))->in[0];
        if (graph_type(g, up)->rank != 3 || !dim_eq(graph_type(g, up)->dim[0], dim_const(1))) break;
        x = up;
        tx = graph_type(g, x);
    }
    bool shared = tx->rank == 2 || dim_eq(tx->dim[0], dim_const(1));
    ValId in[3] = {NO_VAL, index, w};
    if (shared) {
        row.rank = 2;
        row.dim[0] = to->dim[1];
        row.dim[1] = tx->dim[tx->rank - 1];
        in[0] = rw_reshape(d->r, x, &row);
    } else {
        in[0] = rw_transpose(d->r, chosen(d, x, 0, depth), (const uint8_t[]){1, 0, 2});
    }
    if (!val_ok(in[0])) return NO_VAL;
    return rw_transpose(d->r, rw_add(d->r, OP_ROUTED, in, 3, NULL, NULL), (const uint8_t[]){1, 0, 2});
}

/* Scores [rows.., E]: those of the chosen. */
static ValId chosen_scores(Dense *d, ValId v, const Node *n, uint32_t at) {
    if (n->op == OP_SCATTER_ELEMENTS && n->attr.axis == (int64_t)at && val_eq(n->in[1], d->index) &&
        n->attr.reduce == 0) {
        Type t = *graph_type(d->g, d->index);
        t.dtype = graph_type(d->g, v)->dtype;
        return type_dims_eq(graph_type(d->g, n->in[2]), &t) ? n->in[2]
                                                            : rw_typed(d->r, OP_BROADCAST, n->in[2], &t);
    }
    ValId in[2] = {v, d->index};
    Attr a = attr_default();
    a.axis = at;
    return rw_add(d->r, OP_GATHER_ELEMENTS, in, 2, &a, NULL);
}

static ValId chosen_new(Dense *d, ValId v, uint32_t at, uint32_t depth) {
    Graph *g = d->g;
    NodeId id = graph_def(g, v);
    if (!node_ok(id) || depth == 0) return NO_VAL;
    Node n = *graph_node(g, id);
    Type to = *graph_type(g, v);
    bool unary = n.nin == 1 && (op_info(n.op)->flags & F_ELEM);
    if (at + 1u == to.rank && is_rows(d, &to, at) && !unary) return chosen_scores(d, v, &n, at);
    if (op_info(n.op)->flags & F_ELEM) return chosen_elementwise(d, &n, &to, at, depth - 1);
    switch (n.op) {
    case OP_RESHAPE:
    case OP_TRANSPOSE:
    case OP_BROADCAST:
    case OP_SLICE: return chosen_moved(d, &n, &to, at, depth - 1);
    case OP_MATMUL: return chosen_product(d, &n, &to, at, depth - 1);
    default: return NO_VAL;
    }
}

static ValId chosen(Dense *d, ValId v, uint32_t at, uint32_t depth) {
    if (v.id < d->nmap && val_ok(d->map[v.id])) return d->at[v.id] == at ? d->map[v.id] : NO_VAL;
    ValId to = chosen_new(d, v, at, depth);
    if (v.id < d->nmap && val_ok(to)) {
        d->map[v.id] = to;
        d->at[v.id] = (uint8_t)at;
    }
    return to;
}

/* ---- the sum ---- */

static bool has_product(const Graph *g, ValId v, uint32_t depth) {
    NodeId id = graph_def(g, v);
    if (!node_ok(id) || depth == 0) return false;
    const Node *n = graph_node(g, id);
    if (n->op == OP_MATMUL && graph_type(g, n->in[1])->rank == 3) return value_is_weight(g, n->in[1]);
    for (uint32_t i = 0; i < n->nin && i < 2; i++)
        if (val_ok(n->in[i]) && has_product(g, n->in[i], depth - 1)) return true;
    return false;
}

static ValId raise_sum(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id);
    const Type *t = graph_type(g, n.in[0]);
    uint32_t at = 0;
    while (at < t->rank && !(n.attr.axes >> at & 1u)) at++;
    if (n.attr.axes != 1u << at || at == t->rank || !dim_is_const(t->dim[at])) return NO_VAL;
    if (!has_product(g, n.in[0], 8)) return NO_VAL;
    ValId index = zero_outside(g, n.in[0], at, DEPTH);
    if (!val_ok(index)) return NO_VAL;
    const Type *ti = graph_type(g, index);
    Dense d = {.r = r, .g = g, .index = index, .experts = t->dim[at], .slots = ti->dim[ti->rank - 1]};
    d.nmap = g->values.count;
    d.map = arena_array_of(r->cx->scratch, d.nmap, ValId);
    d.at = arena_array_of(r->cx->scratch, d.nmap, uint8_t);
    ValId x = chosen(&d, n.in[0], at, DEPTH);
    if (!val_ok(x)) return NO_VAL;
    pass_count(r->cx, "mixtures", 1);
    return rw_add(r, OP_REDUCE_SUM, &x, 1, &n.attr, NULL);
}

static const Rule rules[] = {{OP_REDUCE_SUM, "sum of all experts -> sum of the chosen", raise_sum}};

PassResult pass_raise_dense(PassCtx *cx, Graph *g) {
    static const RuleSet set = {rules, COUNT_OF(rules)};
    return rewrite_run(cx, g, &set, 1, 2, "sums");
}
