/* rows.c: the row view of values (see ir.h).
 *
 * A value has a row view when the product of its symbolic dimensions is batch * seq, seq or batch, or
 * when it has none. Reshapes and transposes that keep the order of the static axes move nothing
 * inside a row, whatever they do to batch and seq. */
#include "ir/ir.h"

static bool dim_is_row(const Graph *g, Dim d) {
    return !dim_is_const(d) && (dim_depends(g, d, SYM_BATCH) || dim_depends(g, d, SYM_SEQ));
}

bool row_shape(Graph *g, ValId v, RowShape *out) {
    const Type *t = graph_type(g, v);
    Dim rows = dim_const(1);
    *out = (RowShape){.width = 1};
    for (uint32_t i = 0; i < t->rank; i++) {
        Dim d = t->dim[i];
        if (dim_is_row(g, d)) {
            rows = dim_mul(g, rows, d);
        } else if (dim_is_const(d)) {
            out->dim[out->rank++] = d.v;
            if (!mul_i64(out->width, d.v, &out->width)) return false;
        } else {
            return false;
        }
    }
    Dim batch = dim_sym(g, SYM_BATCH), seq = dim_sym(g, SYM_SEQ);
    out->per_row = !dim_eq(rows, dim_const(1));
    return !out->per_row || dim_eq(rows, dim_mul(g, batch, seq)) || dim_eq(rows, seq) || dim_eq(rows, batch);
}

/* Static elements before each symbolic axis decide where the rows lie among the features. */
static bool reshape_keeps_rows(Graph *g, const Type *from, const Type *to) {
    int64_t before_from[2] = {0, 0}, before_to[2] = {0, 0};
    uint32_t nfrom = 0, nto = 0;
    int64_t run = 1;
    for (uint32_t i = 0; i < from->rank; i++) {
        if (!dim_is_row(g, from->dim[i])) {
            if (!mul_i64(run, from->dim[i].v, &run)) return false;
        } else if (nfrom < 2) {
            before_from[nfrom++] = run;
        } else {
            return false;
        }
    }
    run = 1;
    for (uint32_t i = 0; i < to->rank; i++) {
        if (!dim_is_row(g, to->dim[i])) {
            if (!mul_i64(run, to->dim[i].v, &run)) return false;
        } else if (nto < 2) {
            before_to[nto++] = run;
        } else {
            return false;
        }
    }
    if (nfrom == nto) {
        for (uint32_t i = 0; i < nfrom; i++)
            if (before_from[i] != before_to[i]) return false;
        return true;
    }
    if (nfrom == 0 || nto == 0) return false;
    /* [batch, seq] merges into one axis, or splits: both must stand side by side */
    const int64_t *two = nfrom == 2 ? before_from : before_to;
    const int64_t *one = nfrom == 2 ? before_to : before_from;
    return two[0] == two[1] && one[0] == two[0];
}

bool row_is_view(Graph *g, NodeId id) {
    const Node *n = graph_node(g, id);
    if (n->op == OP_CAST) { /* rows hold places as floats anyhow */
        return dtype_is_float(graph_type(g, n->out[0])->dtype) && graph_type(g, n->in[0])->dtype == DT_I64 &&
               graph_def_op(g, row_source(g, n->in[0])) == OP_TOPK;
    }
    if (n->op != OP_RESHAPE && n->op != OP_TRANSPOSE) return false;
    RowShape from, to;
    if (!row_shape(g, n->in[0], &from) || !row_shape(g, n->out[0], &to)) return false;
    if (!from.per_row || !to.per_row) return false;
    const Type *tf = graph_type(g, n->in[0]), *tt = graph_type(g, n->out[0]);
    if (n->op == OP_RESHAPE) return reshape_keeps_rows(g, tf, tt);
    int64_t last = -1; /* the static axes (but for those of size 1) must stay in order */
    for (uint32_t i = 0; i < tt->rank; i++) {
        Dim d = tt->dim[i];
        if (dim_is_row(g, d) || dim_eq(d, dim_const(1))) continue;
        if (n->attr.perm[i] < last) return false;
        last = n->attr.perm[i];
    }
    return true;
}

ValId row_source(Graph *g, ValId v) {
    for (;;) {
        NodeId d = graph_def(g, v);
        if (!node_ok(d) || !row_is_view(g, d)) return v;
        v = graph_node(g, d)->in[0];
    }
}

/* Strips what changes neither order nor value of a small integer vector. */
static ValId strip_index(const Graph *g, ValId v) {
    for (;;) {
        NodeId id = graph_def(g, v);
        if (!node_ok(id)) return v;
        const Node *n = graph_node(g, id);
        bool skip = n->op == OP_RESHAPE || n->op == OP_BROADCAST ||
                    (n->op == OP_CAST && dtype_is_int(graph_type(g, v)->dtype) &&
                     dtype_is_int(graph_type(g, n->in[0])->dtype) &&
                     dtype_size(graph_type(g, v)->dtype) >= 4); /* narrower ones wrap around */
        if (!skip) return v;
        v = n->in[0];
    }
}

static bool is_index_along_seq(Graph *g, ValId v) {
    v = strip_index(g, v);
    NodeId id = graph_def(g, v);
    if (!node_ok(id) || graph_node(g, id)->op != OP_IOTA) return false;
    const Node *n = graph_node(g, id);
    return dim_eq(graph_type(g, v)->dim[n->attr.axis], dim_sym(g, SYM_SEQ));
}

static bool is_past(Graph *g, ValId v) {
    v = strip_index(g, v);
    NodeId id = graph_def(g, v);
    return node_ok(id) && graph_node(g, id)->op == OP_DIM &&
           dim_eq(graph_node(g, id)->attr.value, dim_sym(g, SYM_PAST));
}

bool row_is_positions(Graph *g, ValId v) {
    RowShape s;
    if (!row_shape(g, v, &s) || !s.per_row || s.width != 1) return false;
    NodeId id = graph_def(g, strip_index(g, v));
    if (!node_ok(id) || graph_node(g, id)->op != OP_ADD) return false;
    const Node *n = graph_node(g, id);
    return (is_index_along_seq(g, n->in[0]) && is_past(g, n->in[1])) ||
           (is_index_along_seq(g, n->in[1]) && is_past(g, n->in[0]));
}

bool row_is_tokens(Graph *g, ValId v) {
    RowShape s;
    if (!row_shape(g, v, &s) || !s.per_row || s.width != 1) return false;
    v = strip_index(g, v);
    for (size_t i = 0; i < g->inputs.count; i++)
        if (g->inputs.data[i].role == ROLE_TOKENS && val_eq(g->inputs.data[i].v, v)) return true;
    return false;
}

static bool weight_at(const Graph *g, ValId v, uint32_t depth, uint32_t joins) {
    for (; depth > 0; depth--) {
        if (!val_ok(v) || graph_constant(g, v)) return true;
        NodeId id = graph_def(g, v);
        if (!node_ok(id)) return false;
        const Node *n = graph_node(g, id);
        if (n->op == OP_CONCAT) { /* experts that were constants of their own */
            for (uint32_t i = 0; i < n->nin; i++)
                if (joins == 0 || !weight_at(g, n->in[i], depth - 1, joins - 1)) return false;
            return true;
        }
        bool quantised = (n->op == OP_DEQUANTIZE || n->op == OP_QUANTIZE) &&
                         weight_at(g, n->in[1], depth - 1, joins) &&
                         (n->nin < 3 || weight_at(g, n->in[2], depth - 1, joins)) &&
                         (n->nin < 4 || weight_at(g, n->in[3], depth - 1, joins));
        if (n->op != OP_CAST && n->op != OP_TRANSPOSE && n->op != OP_SLICE && n->op != OP_RESHAPE &&
            !quantised)
            return false;
        v = n->in[0];
    }
    return false;
}

bool value_is_weight(const Graph *g, ValId v) { return val_ok(v) && weight_at(g, v, 8, 2); }
