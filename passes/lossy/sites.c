/* sites.c: the weight matrices that lossy passes may change: finding, reading and replacing them.
 *
 *   %5 = linear(%3, %w)        ->  %5 = linear(%3, transpose(dequantize(codes, scale, zero, grid)))
 *   %6 = linear(%4, slice(%v))     the slice is replaced, so that each product has a matrix of its own
 *   %8 = routed(%3, %7, %w)    ->  %8 = routed(%3, %7, transpose(reshape(dequantize(codes, scale, zero, grid)))) */
#include "passes/lossy/lossy.h"

#include <math.h>
#include <string.h>

#define MIN_ROWS 2
#define MIN_COLS 32
#define HEAD_STEPS 16
#define PANEL 16     /* outputs: no panel of a stack belongs to two experts */
#define JOIN_DEPTH 8 /* of joins in joins */

typedef struct {
    Graph *g;
    Arena *a;
    Uses uses;
    bool *taint;
    int32_t *attention; /* by node: which attention it is, from 0, or -1 */
    uint32_t *site_of;  /* by value: 1 + index of the site */
    NodeId head;        /* the product that makes the logits */
    int32_t passed;     /* attentions before the node being looked at */
    VEC(Site) sites;
    VEC(const char *) names;
} Finder;

/* ---- which matrix ---- */

/* v without the casts and turns above it; *turned is whether they turn the matrix, or each one of a stack. */
static ValId weight_root(const Graph *g, ValId v, bool *turned) {
    const uint32_t rank = graph_type(g, v)->rank;
    for (*turned = false;;) {
        NodeId id = graph_def(g, v);
        const Node *n = node_ok(id) ? graph_node(g, id) : NULL;
        if (n == NULL || graph_type(g, n->in[0])->rank != rank) return v;
        bool cast = n->op == OP_CAST && dtype_is_float(graph_type(g, n->in[0])->dtype);
        if (n->op == OP_TRANSPOSE && (rank == 2 || n->attr.perm[0] == 0))
            *turned ^= n->attr.perm[rank - 1] != rank - 1;
        else if (!cast)
            return v;
        v = n->in[0];
    }
}

/* The weight that n reads, or none. *turned: it is [cols, rows]. */
static ValId node_weight(const Graph *g, const Node *n, bool *turned) {
    bool product = n->op == OP_LINEAR || n->op == OP_ROUTED;
    uint32_t i = n->op == OP_LINEAR ? 1 : n->op == OP_ROUTED ? 2 : 0, rank = n->op == OP_ROUTED ? 3 : 2;
    bool reads = product || (n->op == OP_GATHER && n->attr.axis == 0 && !value_is_weight(g, n->in[1]));
    if (!reads || graph_type(g, n->in[i])->rank != rank || !value_is_weight(g, n->in[i])) return NO_VAL;
    ValId root = weight_root(g, n->in[i], turned);
    if (product) *turned ^= !n->attr.trans;
    return root;
}

/* Some of it is, or nobody can say. */
static bool is_compressed(const Graph *g, ValId v, uint32_t depth) {
    for (NodeId id; node_ok(id = graph_def(g, v)); v = graph_node(g, id)->in[0]) {
        const Node *n = graph_node(g, id);
        if (n->op == OP_DEQUANTIZE || (n->op == OP_CONCAT && depth == 0)) return true;
        for (uint32_t i = 1; n->op == OP_CONCAT && i < n->nin; i++)
            if (is_compressed(g, n->in[i], depth - 1)) return true;
    }
    return false;
}

/* Bits of a number of the constant under v. */
static uint32_t stored_bits(const Graph *g, ValId v) {
    while (node_ok(graph_def(g, v))) v = graph_node(g, graph_def(g, v))->in[0];
    return (uint32_t)dtype_bits(graph_type(g, v)->dtype);
}

/* ---- where it stands ---- */

/* The product that the logits come from, through whatever follows it. */
static NodeId find_head(const Finder *f) {
    ValId v = NO_VAL;
    for (size_t i = 0; i < f->g->outputs.count; i++)
        if (f->g->outputs.data[i].role == ROLE_LOGITS) v = f->g->outputs.data[i].v;
    for (int step = 0; step < HEAD_STEPS && val_ok(v); step++) {
        NodeId id = graph_def(f->g, v);
        if (!node_ok(id)) break;
        const Node *n = graph_node(f->g, id);
        if (n->op == OP_LINEAR) return id;
        v = NO_VAL;
        for (uint32_t i = 0; i < n->nin && !val_ok(v); i++)
            if (val_ok(n->in[i]) && f->taint[n->in[i].id]) v = n->in[i];
    }
    return NO_NODE;
}

static bool is_residual(const Finder *f, const Node *n) {
    return n->op == OP_ADD && f->taint[n->in[0].id] && f->taint[n->in[1].id];
}

/* The attention that n leads to before any residual, or -1. */
static int32_t leads_to(const Finder *f, NodeId n) {
    bool *seen = arena_array_of(f->a, f->g->nodes.count, bool);
    VEC(NodeId) open = {0};
    VEC_PUSH(f->a, &open, n);
    while (open.count > 0) {
        const Node *from = graph_node(f->g, open.data[--open.count]);
        for (uint32_t o = 0; o < from->nout; o++) {
            uint32_t v = from->out[o].id;
            for (uint32_t i = 0; i < f->uses.count[v]; i++) {
                NodeId user = f->uses.user[f->uses.first[v] + i];
                if (!node_ok(user) || seen[user.id]) continue;
                seen[user.id] = true;
                if (f->attention[user.id] >= 0) return f->attention[user.id];
                if (!is_residual(f, graph_node(f->g, user))) VEC_PUSH(f->a, &open, user);
            }
        }
    }
    return -1;
}

static int32_t layer_of(const Finder *f, NodeId n) {
    int32_t to = leads_to(f, n);
    return to >= 0 ? to : f->passed - 1;
}

/* ---- finding ---- */

/* The constant's name, and a number behind it where another site has it. */
static const char *site_name(Finder *f, ValId v) {
    const char *name = NULL;
    for (; val_ok(v); v = graph_node(f->g, graph_def(f->g, v))->in[0]) {
        name = graph_val(f->g, v)->name ? graph_val(f->g, v)->name : name;
        if (!node_ok(graph_def(f->g, v))) break;
    }
    if (name == NULL) name = "weight";
    const char *unique = name;
    for (uint32_t i = 2;; i++) {
        bool taken = false;
        for (size_t k = 0; k < f->names.count && !taken; k++) taken = strcmp(f->names.data[k], unique) == 0;
        if (!taken) break;
        unique = arena_printf(f->a, "%s#%u", name, i);
    }
    VEC_PUSH(f->a, &f->names, unique);
    return unique;
}

static void site_seen_again(Finder *f, Site *s, NodeId id) {
    bool product = graph_node(f->g, id)->op != OP_GATHER;
    if (product == (s->kind == SITE_TABLE)) {
        s->tied = true;
        if (product) s->user = id, s->kind = SITE_LINEAR, s->layer = layer_of(f, id);
    }
    if (id.id == f->head.id) s->kind = SITE_HEAD, s->layer = -1;
}

static void site_add(Finder *f, NodeId id) {
    const Node *n = graph_node(f->g, id);
    bool turned = false;
    ValId v = node_weight(f->g, n, &turned);
    if (!val_ok(v)) return;
    if (f->site_of[v.id]) {
        site_seen_again(f, &f->sites.data[f->site_of[v.id] - 1], id);
        return;
    }
    const Type *t = graph_type(f->g, v);
    if (!type_is_static(t) || !dtype_is_float(t->dtype)) return;
    Site s = {.weight = v, .user = id, .transposed = turned};
    s.rows = t->dim[t->rank - (turned ? 1 : 2)].v;
    s.cols = t->dim[t->rank - (turned ? 2 : 1)].v;
    if (s.rows < MIN_ROWS || s.cols < MIN_COLS) return;
    if (t->rank == 3) {
        if (s.rows % PANEL) return;
        s.experts = t->dim[0].v;
        s.rows *= s.experts;
    }
    s.kind = n->op == OP_GATHER ? SITE_TABLE : id.id == f->head.id ? SITE_HEAD : SITE_LINEAR;
    s.layer = s.kind == SITE_LINEAR ? layer_of(f, id) : -1;
    s.bits = stored_bits(f->g, v);
    s.fixed = is_compressed(f->g, v, JOIN_DEPTH);
    s.name = site_name(f, v);
    VEC_PUSH(f->a, &f->sites, s);
    f->site_of[v.id] = (uint32_t)f->sites.count;
}

size_t sites_find(Graph *g, Arena *a, Site **out) {
    Finder f = {.g = g, .a = a, .uses = graph_uses(g, a), .taint = graph_taint(g, a)};
    f.attention = arena_array_of(a, g->nodes.count, int32_t);
    f.site_of = arena_array_of(a, g->values.count, uint32_t);
    int32_t count = 0;
    FOR_NODES (g, id) f.attention[id.id] = graph_node(g, id)->op == OP_ATTENTION ? count++ : -1;
    f.head = find_head(&f);
    FOR_NODES (g, id) {
        site_add(&f, id);
        if (f.attention[id.id] >= 0) f.passed = f.attention[id.id] + 1;
    }
    *out = f.sites.data;
    return f.sites.count;
}

/* ---- reading and writing ---- */

ValId site_value(const Graph *g, const Site *s) {
    bool turned = false;
    return node_weight(g, graph_node(g, s->user), &turned);
}

int64_t site_outputs(const Site *s) { return s->experts ? s->rows / s->experts : s->rows; }

double site_products(const Graph *g, const Site *s) {
    double all = (double)s->rows * (double)s->cols;
    if (!s->experts) return all;
    const Type *index = graph_type(g, graph_node(g, s->user)->in[1]);
    Dim slots = index->dim[index->rank - 1];
    return all * (dim_is_const(slots) ? fmin((double)slots.v / (double)s->experts, 1) : 1);
}

bool site_read(Graph *g, const Site *s, float *to, Diag *d) {
    ValId root = site_value(g, s);
    bool turned = false;
    node_weight(g, graph_node(g, s->user), &turned);
    Arena *scratch = arena_new();
    EvalArgs args = {0};
    Tensor t;
    bool ok = eval_graph(g, &args, &root, 1, &t, scratch, d);
    const int64_t outputs = site_outputs(s);
    for (int64_t r = 0; ok && r < s->rows; r++)
        for (int64_t c = 0; c < s->cols; c++) {
            int64_t first = r / outputs * outputs * s->cols, row = r % outputs;
            size_t at = (size_t)(first + (turned ? c * outputs + row : row * s->cols + c));
            *to++ = t.dtype == DT_F32 ? ((const float *)t.data)[at] : (float)tensor_get_f64(&t, at);
        }
    arena_free(scratch);
    return ok;
}

/* Makes nodes, in order, before all others. */
typedef struct {
    Graph *g;
    Diag *d;
    Loc loc;
    const char *name;
    NodeId before;
} Maker;

static ValId maker_node(Maker *m, Op op, const ValId *in, size_t nin, const Attr *a, const Type *t) {
    for (size_t i = 0; i < 2 && i < nin; i++)
        if (!val_ok(in[i])) return NO_VAL; /* said already */
    m->g->insert_before = m->before;
    ValId v = graph_add(m->g, op, in, nin, a, t, m->loc, m->d);
    m->g->insert_before = NO_NODE;
    return v;
}

/* Codes below 8 bits are packed. */
static ValId maker_codes(Maker *m, DType t, const uint8_t *codes, int64_t rows, int64_t cols) {
    Tensor x = {.dtype = t, .rank = 2, .dim = {rows, cols}, .data = (void *)(uintptr_t)codes};
    Dim dims[2] = {dim_const(rows), dim_const(cols)};
    return graph_const_tensor(m->g, type_make(t, 2, dims), &x, m->name);
}

static ValId maker_halves(Maker *m, const float *x, uint32_t rank, const int64_t *dim) {
    Dim dims[2] = {dim_const(dim[0]), dim_const(rank > 1 ? dim[1] : 1)};
    size_t n = (size_t)(dim[0] * dims[1].v);
    uint16_t *half = arena_array_of(m->g->arena, n, uint16_t);
    for (size_t i = 0; i < n; i++) half[i] = float_to_half(x[i]);
    return graph_const(m->g, type_make(DT_F16, rank, dims), half, NULL);
}

static ValId maker_widen(Maker *m, ValId x) {
    if (graph_type(m->g, x)->dtype == DT_F32) return x;
    Type t = *graph_type(m->g, x);
    t.dtype = DT_F32;
    return maker_node(m, OP_CAST, &x, 1, NULL, &t);
}

static DType code_type(const Format *f) {
    static const DType unsigned_of[9] = {
        [2] = DT_U2, [3] = DT_U3, [4] = DT_U4, [5] = DT_U5, [6] = DT_U6, [8] = DT_U8};
    return f->grid == GRID_F8 ? DT_F8E4M3FN : unsigned_of[f->bits];
}

/* f32, [rows] or [rows, groups] */
static ValId maker_scale(Maker *m, const QuantMatrix *q) {
    int64_t dim[2] = {q->rows, q->groups};
    if (q->scale_code == NULL) {
        return maker_widen(m, maker_halves(m, q->scale, q->format->group ? 2 : 1, dim));
    }
    Attr rows = attr_default();
    ValId in[2] = {
        maker_codes(m, q->format->scale_bits == 6 ? DT_U6 : DT_U8, q->scale_code, q->rows, q->groups),
        maker_widen(m, maker_halves(m, q->row_scale, 1, dim))};
    return maker_node(m, OP_DEQUANTIZE, in, 2, &rows, NULL);
}

static ValId maker_zero(Maker *m, const QuantMatrix *q) {
    DType t = code_type(q->format);
    if (q->zero) return maker_codes(m, t, q->zero, q->rows, q->groups);
    if (q->format->grid != GRID_LINEAR) return NO_VAL;
    uint8_t middle = (uint8_t)(1u << (q->format->bits - 1));
    Tensor x = {.dtype = t, .rank = 0, .data = &middle};
    return graph_const_tensor(m->g, type_scalar(t), &x, NULL);
}

static ValId maker_grid(Maker *m, const QuantMatrix *q) {
    int64_t dim[2] = {(int64_t)1 << q->format->bits, q->format->vector};
    if (q->format->grid != GRID_LEARNED) return NO_VAL;
    return maker_halves(m, q->grid, q->format->vector > 1 ? 2 : 1, dim);
}

static ValId maker_matrix(Maker *m, const QuantMatrix *q) {
    ValId codes = maker_codes(m, code_type(q->format), q->codes, q->rows, q->cols / q->format->vector);
    ValId in[4] = {codes, maker_scale(m, q), maker_zero(m, q), maker_grid(m, q)};
    Attr a = attr_default();
    if (q->format->group) a.axis = 1, a.block = q->format->group;
    return maker_node(m, OP_DEQUANTIZE, in, 4, &a, NULL);
}

/* w [rows, cols] instead of the site's matrix. */
static bool site_replace(Graph *g, const Site *s, Maker *m, ValId w) {
    bool turned = false;
    ValId root = node_weight(g, graph_node(g, s->user), &turned);
    Attr a = attr_default();
    a.perm[0] = 1, a.perm[1] = 0;
    if (s->experts) {
        Dim dims[3] = {dim_const(s->experts), dim_const(site_outputs(s)), dim_const(s->cols)};
        Type stack = type_make(DT_F32, 3, dims);
        w = maker_node(m, OP_RESHAPE, &w, 1, NULL, &stack);
        a.perm[0] = 0, a.perm[1] = 2, a.perm[2] = 1;
    }
    if (turned) w = maker_node(m, OP_TRANSPOSE, &w, 1, &a, NULL);
    if (!val_ok(w)) return false;
    graph_replace(g, root, w);
    return true;
}

static Maker maker_new(Graph *g, const Site *s, Diag *d) {
    return (Maker){.g = g, .d = d, .loc = graph_node(g, s->user)->loc, .name = s->name, .before = g->first};
}

static bool site_fits(const Site *s, int64_t rows, int64_t cols, Diag *d) {
    if (rows == s->rows && cols == s->cols) return true;
    return diag_bug(d, loc_none(), "%s is %lld x %lld and not %lld x %lld", s->name, (long long)s->rows,
                    (long long)s->cols, (long long)rows, (long long)cols);
}

bool site_write(Graph *g, const Site *s, const QuantMatrix *q, Diag *d) {
    Maker m = maker_new(g, s, d);
    return site_fits(s, q->rows, q->cols, d) && site_replace(g, s, &m, maker_matrix(&m, q));
}

bool site_write_dense(Graph *g, const Site *s, const float *w, DType as, Diag *d) {
    Maker m = maker_new(g, s, d);
    Dim dims[2] = {dim_const(s->rows), dim_const(s->cols)};
    int64_t dim[2] = {s->rows, s->cols};
    size_t bytes = (size_t)(s->rows * s->cols) * sizeof(float);
    ValId v = as == DT_F16
                  ? maker_halves(&m, w, 2, dim)
                  : graph_const(g, type_make(DT_F32, 2, dims), arena_dup(g->arena, w, bytes), s->name);
    if (as == DT_F16) graph_val(g, v)->name = s->name;
    return site_replace(g, s, &m, maker_widen(&m, v));
}

void site_round(Graph *g, const Site *s, int64_t block) {
    bool turned = false;
    ValId root = site_value(g, s);
    FOR_NODES (g, id) {
        Node *n = graph_node(g, id);
        if (n->op == OP_LINEAR && val_eq(node_weight(g, n, &turned), root)) n->attr.block = block;
    }
}
