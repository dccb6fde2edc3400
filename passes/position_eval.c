/* position_eval.c: values of what does not depend on tokens, by evaluation with the reference.
 *
 * Whatever computes a table of cosines or position rows, an entry must be a function of the position
 * q = past + i and the feature alone. It is evaluated at two sequences and several lengths; entries
 * that differ between them depend on something else, and a cache cannot keep what was computed with
 * them. */
#include <math.h>
#include <string.h>

#include "passes/raise.h"

#define CONTEXT_DEFAULT 4096
#define EVAL_BYTES ((size_t)2 << 30)

bool graph_has_tokens(const Graph *g) {
    for (size_t i = 0; i < g->inputs.count; i++)
        if (g->inputs.data[i].role == ROLE_TOKENS) return true;
    return false;
}

size_t position_lengths(const Graph *g, int64_t limit, Len out[8]) {
    static const Len with_past[] = {{0, 1}, {0, 7}, {5, 1}, {3, 4}, {0, 33}, {20, 13}, {31, 2}};
    static const Len without[] = {{0, 1}, {0, 2}, {0, 7}, {0, 16}, {0, 33}};
    bool past = g->states.count > 0;
    const Len *from = past ? with_past : without;
    size_t n = 0, count = past ? COUNT_OF(with_past) : COUNT_OF(without);
    for (size_t i = 0; i < count; i++)
        if (from[i].past + from[i].seq <= limit) out[n++] = from[i];
    return n;
}

bool position_value(Graph *g, ValId v, int64_t batch, Len len, Tensor *out, Arena *a, Diag *d) {
    int64_t bind[4] = {0};
    bind[SYM_BATCH.id] = batch;
    bind[SYM_SEQ.id] = len.seq;
    bind[SYM_PAST.id] = len.past;
    Tensor *none = arena_array_of(a, g->inputs.count, Tensor);
    EvalArgs args = {bind, COUNT_OF(bind), none, g->inputs.count, EVAL_BYTES};
    return eval_graph(g, &args, &v, 1, out, a, d);
}

int64_t position_context(const PassCtx *cx, const Graph *g) {
    int64_t ctx = cx->opt != NULL && cx->opt->ctx > 0 ? cx->opt->ctx : 0;
    if (g->context > 0 && (ctx == 0 || ctx > g->context)) ctx = g->context;
    return ctx > 0 ? ctx : CONTEXT_DEFAULT;
}

static void context_lower(Graph *g, int64_t bound) {
    if (bound > 0 && (g->context == 0 || bound < g->context)) g->context = bound;
}

bool *graph_dynamic(const Graph *g, Arena *a) {
    bool *dyn = arena_array_of(a, g->values.count, bool);
    FOR_NODES (g, id) {
        const Node *n = graph_node(g, id);
        bool any = n->op == OP_DIM && !dim_is_const(n->attr.value);
        for (uint32_t i = 0; i < n->nin; i++) any = any || dyn[n->in[i].id];
        for (uint32_t o = 0; o < n->nout; o++) {
            const Type *t = graph_type(g, n->out[o]);
            bool sym = any;
            for (uint32_t i = 0; i < t->rank; i++) sym = sym || !dim_is_const(t->dim[i]);
            dyn[n->out[o].id] = sym;
        }
    }
    return dyn;
}

bool tensor_same(double a, double b) {
    if (a == b || (isnan(a) && isnan(b))) return true;
    return fabs(a - b) <= 1e-6 * fmax(1, fmax(fabs(a), fabs(b)));
}

/* ---- the context that the graph's own tables allow ---- */

/* Index values that are q + shift for every position; false when they are not. */
static bool index_shift(PassCtx *cx, Graph *g, ValId idx, int64_t *shift) {
    Len lens[8];
    size_t n = position_lengths(g, g->context > 0 ? g->context : 64, lens);
    bool first = true;
    Diag d;
    diag_init(&d);
    ArenaMark mark = arena_mark(cx->scratch);
    bool ok = n > 0;
    for (size_t i = 0; i < n && ok; i++) {
        Tensor t;
        ok = position_value(g, idx, 1, lens[i], &t, cx->scratch, &d) && !dtype_is_float(t.dtype) &&
             tensor_count(&t) == (size_t)lens[i].seq;
        for (int64_t k = 0; ok && k < lens[i].seq; k++) {
            int64_t s = tensor_get_i64(&t, (size_t)k) - lens[i].past - k;
            ok = first || s == *shift;
            *shift = s;
            first = false;
        }
    }
    arena_reset(cx->scratch, mark);
    diag_free(&d);
    return ok;
}

static void bound_gather(PassCtx *cx, Graph *g, const Node *n) {
    const Type *table = graph_type(g, n->in[0]), *idx = graph_type(g, n->in[1]);
    int64_t axis = n->attr.axis, shift = 0;
    bool along = false;
    for (uint32_t i = 0; i < idx->rank; i++) along = along || dim_depends(g, idx->dim[i], SYM_SEQ);
    if (!along || !dim_is_const(table->dim[axis])) return;
    if (index_shift(cx, g, n->in[1], &shift)) context_lower(g, table->dim[axis].v - shift);
}

static void bound_slice(Graph *g, const Node *n) {
    const Type *x = graph_type(g, n->in[0]), *t = graph_type(g, n->out[0]);
    Dim seq = dim_sym(g, SYM_SEQ), total = dim_add(g, seq, dim_sym(g, SYM_PAST));
    for (uint32_t i = 0; i < x->rank; i++) {
        if (!dim_is_const(x->dim[i]) || dim_is_const(t->dim[i]) || n->attr.steps[i] != 1) continue;
        Dim end = dim_add(g, n->attr.starts[i], t->dim[i]);
        Dim over = dim_sub(g, end, total);
        if (!dim_is_const(over)) over = dim_sub(g, end, seq);
        if (dim_is_const(over) && over.v >= 0) context_lower(g, x->dim[i].v - over.v);
    }
}

void position_bound(PassCtx *cx, Graph *g) {
    const bool *taint = graph_taint(g, cx->scratch);
    size_t n = g->values.count;
    FOR_NODES (g, id) {
        Node node = *graph_node(g, id);
        if (node.nout == 0 || node.out[0].id >= n || taint[node.out[0].id]) continue;
        if (node.op == OP_GATHER)
            bound_gather(cx, g, &node);
        else if (node.op == OP_SLICE)
            bound_slice(g, &node);
    }
}

/* ---- rows ---- */

static bool rows_shape(Graph *g, ValId v, RowTable *out, const char **why) {
    const Type *t = graph_type(g, v);
    out->seq_axis = -1;
    out->width = out->inner = 1;
    for (uint32_t i = 0; i < t->rank; i++) {
        Dim d = t->dim[i];
        if (dim_eq(d, dim_sym(g, SYM_SEQ)) && out->seq_axis < 0) {
            out->seq_axis = (int)i;
            out->inner = 1;
        } else if (dim_is_const(d)) {
            if (!mul_i64(out->width, d.v, &out->width) || !mul_i64(out->inner, d.v, &out->inner))
                return false;
        } else if (!dim_eq(d, dim_sym(g, SYM_BATCH))) {
            bool square = dim_depends(g, d, SYM_SEQ) && out->seq_axis >= 0;
            *why = square ? "compares positions with each other and is no mask of a known attention"
                          : "has an axis that is neither batch nor sequence";
            return false;
        }
    }
    return true;
}

/* Element (sequence b, row i of len, feature k) of an evaluated table; batch axes come anywhere. */
static double table_at(Graph *g, const Type *type, const Tensor *t, int64_t b, int64_t i, int64_t k) {
    size_t at = 0;
    int64_t index[MAX_RANK];
    for (uint32_t r = type->rank; r-- > 0;) {
        Dim d = type->dim[r];
        if (dim_eq(d, dim_sym(g, SYM_SEQ)))
            index[r] = i;
        else if (dim_is_const(d)) {
            index[r] = d.v > 0 ? k % d.v : 0;
            k = d.v > 0 ? k / d.v : 0;
        } else
            index[r] = b;
    }
    for (uint32_t r = 0; r < type->rank; r++) at = at * (size_t)t->dim[r] + (size_t)index[r];
    return tensor_get_f64(t, at);
}

double row_get(const RowTable *t, int64_t q, int64_t k) {
    int64_t pre = k / t->inner, post = k % t->inner;
    return tensor_get_f64(&t->t, (size_t)((pre * t->rows + q) * t->inner + post));
}

/* The longest table up to rows that can be computed, by bisection. */
static int64_t rows_possible(PassCtx *cx, Graph *g, ValId v, int64_t rows) {
    int64_t lo = 0, hi = rows + 1;
    while (lo + 1 < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        Diag d;
        diag_init(&d);
        Tensor t;
        ArenaMark mark = arena_mark(cx->scratch);
        bool ok = position_value(g, v, 1, (Len){0, mid}, &t, cx->scratch, &d);
        arena_reset(cx->scratch, mark);
        diag_free(&d);
        if (ok)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

static bool rows_compare(PassCtx *cx, Graph *g, ValId v, const RowTable *table, Len len, int64_t batch,
                         const char **why) {
    Diag d;
    diag_init(&d);
    Tensor t;
    ArenaMark mark = arena_mark(cx->scratch);
    Type type = *graph_type(g, v);
    bool ok = position_value(g, v, batch, len, &t, cx->scratch, &d);
    if (!ok) *why = "cannot be computed at every length of the context";
    int64_t n = table->seq_axis < 0 ? 1 : len.seq;
    for (int64_t b = 0; ok && b < batch; b++)
        for (int64_t i = 0; ok && i < n; i++)
            for (int64_t k = 0; ok && k < table->width; k++) {
                int64_t q = table->seq_axis < 0 ? 0 : len.past + i;
                ok = tensor_same(table_at(g, &type, &t, b, i, k), row_get(table, q, k));
                if (!ok) *why = "depends on the length of the sequence";
            }
    arena_reset(cx->scratch, mark);
    diag_free(&d);
    return ok;
}

bool position_rows(PassCtx *cx, Graph *g, ValId v, int64_t rows, RowTable *out, const char **why) {
    memset(out, 0, sizeof(*out));
    if (!rows_shape(g, v, out, why)) return false;
    Diag d;
    diag_init(&d);
    out->rows = out->seq_axis < 0 ? 1 : rows;
    bool ok = position_value(g, v, 1, (Len){0, out->rows}, &out->t, cx->scratch, &d);
    if (!ok && out->seq_axis >= 0) {
        out->rows = rows_possible(cx, g, v, rows - 1);
        if (out->rows > 0) {
            ok = position_value(g, v, 1, (Len){0, out->rows}, &out->t, cx->scratch, &d);
            if (ok) context_lower(g, out->rows);
        }
    }
    if (!ok)
        *why = d.items.count > 0 ? arena_strdup(cx->scratch, d.items.data[0].text) : "cannot be computed";
    diag_free(&d);
    if (!ok) return false;
    Len lens[8];
    int64_t limit = out->seq_axis < 0 ? 64 : out->rows;
    size_t n = position_lengths(g, limit, lens);
    for (size_t i = 0; i < n; i++)
        if (!rows_compare(cx, g, v, out, lens[i], 2, why)) return false;
    int64_t most = out->seq_axis < 0 ? rows : out->rows; /* what changes past some length is no function */
    if (most > 64) {
        Len half = {0, most / 2 + 1}, whole = {0, most}, last = {most - 1, 1};
        if (!rows_compare(cx, g, v, out, half, 1, why)) return false;
        if (out->seq_axis < 0 && !rows_compare(cx, g, v, out, whole, 1, why)) return false;
        if (g->states.count > 0 && !rows_compare(cx, g, v, out, last, 1, why)) return false;
    }
    return true;
}

/* ---- positions ---- */

ValId position_ids(Graph *g, Diag *d) {
    Dim seq = dim_sym(g, SYM_SEQ);
    Type t = type_make(DT_I64, 1, &seq);
    bool past = g->states.count > 0;
    NodeId id = g->first; /* made before: index, past, sum stand at the start */
    if (node_ok(id) && graph_node(g, id)->op == OP_IOTA &&
        type_eq(graph_type(g, graph_node(g, id)->out[0]), &t)) {
        if (!past) return graph_node(g, id)->out[0];
        for (uint32_t i = 0; i < 2 && node_ok(id); i++) id = graph_node(g, id)->next;
        if (node_ok(id) && row_is_positions(g, graph_node(g, id)->out[0])) return graph_node(g, id)->out[0];
    }
    NodeId before = g->insert_before;
    g->insert_before = g->first;
    Type s = type_scalar(DT_I64);
    Attr a = attr_default();
    a.value = dim_sym(g, SYM_PAST);
    ValId in[2] = {graph_add(g, OP_IOTA, NULL, 0, NULL, &t, loc_none(), d), NO_VAL};
    ValId out = in[0];
    if (past && val_ok(out)) {
        in[1] = graph_add(g, OP_DIM, NULL, 0, &a, &s, loc_none(), d);
        out = val_ok(in[1]) ? graph_add(g, OP_ADD, in, 2, NULL, NULL, loc_none(), d) : NO_VAL;
    }
    g->insert_before = before;
    return out;
}
