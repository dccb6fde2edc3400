/* lower_attention.c: attention as products and a softmax, for functions.
 *
 *   %4 = attention(%1, %2, %3) {causal}    ->    %5 = matmul(q, transpose(k)); %6 = where(k <= q, %5, -inf)
 *                                                %7 = softmax(%6);             %4 = matmul(%7, v)
 *
 * A program of rows has a kernel for it; a function runs over tensors of any shape, and what an importer writes as
 * attention there has to be what ops.def says: grouped heads, scale, soft cap, slopes, mask, causal order and
 * window, sinks, 0 where a query sees no key. 16-bit floats are computed in fp32 in between.
 * leaves alone: attention that rounds its scores, and everything else. */
#include <math.h>

#include "passes/rewrite.h"

typedef struct {
    Rewrite *r;
    Node n;
    DType real;                    /* what is computed in */
    Dim batch, seq, heads, groups; /* groups: key-value heads */
    Dim total;
} Lowered;

static ValId as_real(Lowered *l, ValId v) {
    Type t = *graph_type(l->r->g, v);
    if (t.dtype == l->real) return v;
    t.dtype = l->real;
    return rw_typed(l->r, OP_CAST, v, &t);
}

static ValId reshaped(Lowered *l, ValId v, uint32_t rank, const Dim *dims) {
    Type t = type_make(graph_type(l->r->g, v)->dtype, rank, dims);
    return rw_reshape(l->r, v, &t);
}

static ValId operand(Lowered *l, uint32_t i) { return i < l->n.nin ? l->n.in[i] : NO_VAL; }

/* An optional [heads] operand as [heads, 1, 1]. */
static ValId per_head(Lowered *l, uint32_t i) {
    Dim dims[3] = {l->heads, dim_const(1), dim_const(1)};
    return reshaped(l, as_real(l, operand(l, i)), 3, dims);
}

/* a[batch, heads, m, x] times b[batch, groups, x, n], the heads of a group sharing b. */
static ValId grouped_product(Lowered *l, ValId a, ValId b) {
    Graph *g = l->r->g;
    if (dim_eq(l->heads, l->groups)) return rw_binary(l->r, OP_MATMUL, a, b);
    Type ta = *graph_type(g, a), tb = *graph_type(g, b);
    Dim wide[5] = {l->batch, l->groups, dim_div(g, l->heads, l->groups), ta.dim[2], ta.dim[3]};
    Dim one[5] = {l->batch, l->groups, dim_const(1), tb.dim[2], tb.dim[3]};
    Dim out[4] = {l->batch, l->heads, ta.dim[2], tb.dim[3]};
    ValId p = rw_binary(l->r, OP_MATMUL, reshaped(l, a, 5, wide), reshaped(l, b, 5, one));
    return reshaped(l, p, 4, out);
}

/* ---- places ---- */

/* i64 [seq, 1] of the queries' positions, or [1, total] of the keys'. */
static ValId places(Lowered *l, bool keys) {
    Graph *g = l->r->g;
    Dim dims[2] = {keys ? dim_const(1) : l->seq, keys ? l->total : dim_const(1)};
    Type line = type_make(DT_I64, 2, dims), scalar = type_scalar(DT_I64);
    Attr a = attr_default();
    a.axis = keys;
    ValId index = rw_add(l->r, OP_IOTA, NULL, 0, &a, &line);
    if (keys || dim_eq(l->seq, l->total)) return index;
    a.axis = 0;
    a.value = dim_sub(g, l->total, l->seq);
    return rw_binary(l->r, OP_ADD, index, rw_add(l->r, OP_DIM, NULL, 0, &a, &scalar));
}

static ValId both(Lowered *l, ValId a, ValId b) {
    return !val_ok(a) ? b : !val_ok(b) ? a : rw_binary(l->r, OP_AND, a, b);
}

/* Which keys a query may see, or none where it sees all. */
static ValId allowed(Lowered *l) {
    ValId mask = operand(l, 3), ok = NO_VAL;
    if (val_ok(mask) && graph_type(l->r->g, mask)->dtype == DT_BOOL) ok = mask;
    if (!l->n.attr.causal && l->n.attr.window == 0) return ok;
    ValId q = places(l, false), k = places(l, true);
    if (l->n.attr.causal) ok = both(l, ok, rw_binary(l->r, OP_LE, k, q));
    if (l->n.attr.window == 0) return ok;
    ValId before = rw_binary(l->r, OP_SUB, q, rw_scalar(l->r, DT_I64, (double)l->n.attr.window));
    return both(l, ok, rw_binary(l->r, OP_LT, before, k));
}

/* ---- scores and weights ---- */

static ValId biased(Lowered *l, ValId s) {
    ValId mask = operand(l, 3);
    if (l->n.attr.softcap > 0) {
        ValId cap = rw_scalar(l->r, l->real, (double)l->n.attr.softcap);
        s = rw_binary(l->r, OP_MUL, rw_unary(l->r, OP_TANH, rw_binary(l->r, OP_DIV, s, cap)), cap);
    }
    if (val_ok(operand(l, 4))) {
        ValId off = rw_binary(l->r, OP_SUB, places(l, true), places(l, false));
        s = rw_binary(l->r, OP_ADD, s, rw_binary(l->r, OP_MUL, per_head(l, 4), as_real(l, off)));
    }
    if (val_ok(mask) && graph_type(l->r->g, mask)->dtype != DT_BOOL)
        s = rw_binary(l->r, OP_ADD, s, as_real(l, mask));
    return s;
}

/* A sink joins the softmax as one more key, which then drops out. */
static ValId weights_with_sinks(Lowered *l, ValId s) {
    Attr a = attr_default();
    Type t = *graph_type(l->r->g, s), column = t;
    column.dim[3] = dim_const(1);
    ValId in[2] = {s, rw_typed(l->r, OP_BROADCAST, per_head(l, 5), &column)};
    a.axis = 3;
    ValId all = rw_add(l->r, OP_CONCAT, in, 2, &a, NULL);
    all = rw_add(l->r, OP_SOFTMAX, &all, 1, &a, NULL);
    a.axis = 0;
    return rw_add(l->r, OP_SLICE, &all, 1, &a, &t);
}

static ValId weights(Lowered *l, ValId s) {
    Attr a = attr_default();
    ValId ok = allowed(l), none = rw_scalar(l->r, l->real, -INFINITY);
    if (val_ok(ok)) {
        ValId in[3] = {ok, s, none};
        s = rw_add(l->r, OP_WHERE, in, 3, NULL, NULL);
    }
    if (val_ok(operand(l, 5))) return weights_with_sinks(l, s);
    a.axis = 3;
    ValId p = rw_add(l->r, OP_SOFTMAX, &s, 1, &a, NULL);
    if (!val_ok(ok) && !val_ok(operand(l, 3))) return p;
    a = attr_default();
    a.axes = 1u << 3;
    a.keep = true;
    ValId dead = rw_binary(l->r, OP_EQ, rw_add(l->r, OP_REDUCE_MAX, &s, 1, &a, NULL), none);
    ValId in[3] = {dead, rw_scalar(l->r, l->real, 0), p};
    return rw_add(l->r, OP_WHERE, in, 3, NULL, NULL);
}

static ValId attention_lower(Rewrite *r, NodeId id) {
    static const uint8_t heads_first[4] = {0, 2, 1, 3}, keys_last[4] = {0, 2, 3, 1};
    Lowered l = {.r = r, .n = *graph_node(r->g, id)};
    if (val_ok(operand(&l, 6))) return NO_VAL; /* rounded scores: no importer writes them as attention */
    Type out = *graph_type(r->g, l.n.out[0]);
    Type q = *graph_type(r->g, l.n.in[0]), k = *graph_type(r->g, l.n.in[1]);
    l.real = q.dtype == DT_F64 ? DT_F64 : DT_F32;
    l.batch = q.dim[0], l.seq = q.dim[1], l.heads = q.dim[2];
    l.total = k.dim[1], l.groups = k.dim[2];
    ValId a = rw_transpose(r, as_real(&l, l.n.in[0]), heads_first);
    ValId b = rw_transpose(r, as_real(&l, l.n.in[1]), keys_last);
    ValId s = grouped_product(&l, a, b);
    if (l.n.attr.scale != 1) s = rw_binary(r, OP_MUL, s, rw_scalar(r, l.real, (double)l.n.attr.scale));
    ValId p = weights(&l, biased(&l, s));
    ValId v = rw_transpose(r, as_real(&l, l.n.in[2]), heads_first);
    ValId y = rw_transpose(r, grouped_product(&l, p, v), heads_first);
    pass_count(r->cx, "attention", 1);
    return graph_type(r->g, y)->dtype == out.dtype ? y : rw_typed(r, OP_CAST, y, &out);
}

PassResult pass_lower_attention(PassCtx *cx, Graph *g) {
    static const Rule rules[] = {{OP_ATTENTION, "attention -> products and softmax", attention_lower}};
    const RuleSet set = {rules, COUNT_OF(rules)};
    return rewrite_run(cx, g, &set, 1, 1, "attention");
}
