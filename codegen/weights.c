/* weights.c: constants as strided views, and the table of tensors that an artifact stores. */
#include "codegen/codegen.h"

#include <string.h>

uint32_t art_dtype(DType t) {
    return t == DT_F16 || dtype_is_f8(t) ? ART_F16 : t == DT_BF16 ? ART_BF16 : ART_F32;
}

uint32_t art_dtype_exact(DType t) {
    static const uint32_t number[DT_COUNT] = {
        [DT_BOOL] = ART_BOOL,
        [DT_I8] = ART_I8,
        [DT_U8] = ART_U8,
        [DT_I16] = ART_I16,
        [DT_U16] = ART_U16,
        [DT_I32] = ART_I32,
        [DT_U32] = ART_U32,
        [DT_I64] = ART_I64,
        [DT_U64] = ART_U64,
        [DT_F16] = ART_F16,
        [DT_BF16] = ART_BF16,
        [DT_F32] = ART_F32,
        [DT_F64] = ART_F64,
        [DT_I4] = ART_I4,
        [DT_U4] = ART_U4,
        [DT_I2] = ART_I2,
        [DT_U2] = ART_U2,
        [DT_F8E4M3FN] = ART_F8E4M3FN,
        [DT_F8E4M3FNUZ] = ART_F8E4M3FNUZ,
        [DT_F8E5M2] = ART_F8E5M2,
        [DT_F8E5M2FNUZ] = ART_F8E5M2FNUZ,
    };
    return number[t];
}

/* The chain of views from v up to its constant; -1 when it is too long or something else is in it. */
static int weight_chain(const Graph *g, ValId v, NodeId *chain, int cap) {
    int n = 0;
    while (!graph_constant(g, v)) {
        NodeId id = graph_def(g, v);
        if (!node_ok(id) || n == cap) return -1;
        Op op = graph_node(g, id)->op;
        if (op != OP_CAST && op != OP_TRANSPOSE && op != OP_SLICE) return -1;
        chain[n++] = id;
        v = graph_node(g, id)->in[0];
    }
    return n;
}

static bool cast_is_exact(DType from, DType to) {
    if (from == to) return true;
    if (!dtype_is_float(from) || !dtype_is_float(to)) return false;
    return dtype_size(to) > dtype_size(from);
}

void view_contiguous(WeightView *w, const Type *t) {
    w->dtype = t->dtype;
    w->rank = t->rank;
    int64_t run = 1;
    for (uint32_t i = t->rank; i-- > 0;) {
        w->dim[i] = t->dim[i].v;
        w->stride[i] = run;
        run *= t->dim[i].v;
    }
}

bool view_apply(WeightView *w, const Graph *g, const Node *n) {
    WeightView old = *w;
    const Type *to = graph_type(g, n->out[0]);
    switch (n->op) {
    case OP_CAST: return cast_is_exact(graph_type(g, n->in[0])->dtype, to->dtype);
    case OP_TRANSPOSE:
        for (uint32_t i = 0; i < w->rank; i++) {
            w->dim[i] = old.dim[n->attr.perm[i]];
            w->stride[i] = old.stride[n->attr.perm[i]];
        }
        return true;
    case OP_SLICE:
        for (uint32_t i = 0; i < w->rank; i++) {
            if (!dim_is_const(n->attr.starts[i]) || !dim_is_const(to->dim[i])) return false;
            w->offset += n->attr.starts[i].v * w->stride[i];
            w->stride[i] *= n->attr.steps[i];
            w->dim[i] = to->dim[i].v;
        }
        return true;
    default: return false;
    }
}

/* What no view can express is computed by the reference into the arena. */
static bool view_evaluate(Graph *g, ValId v, Arena *a, WeightView *out, Diag *d) {
    Tensor t;
    EvalArgs args = {0};
    if (!eval_graph(g, &args, &v, 1, &t, a, d)) return false;
    memset(out, 0, sizeof *out);
    out->data = t.data;
    view_contiguous(out, graph_type(g, v));
    return true;
}

bool weight_view(Graph *g, ValId v, Arena *a, WeightView *out, Diag *d) {
    NodeId chain[8];
    const Type *t = graph_type(g, v);
    if (!type_is_static(t) || t->rank > 4)
        return diag_error(d, loc_none(), "a table of rank %u cannot be stored", t->rank);
    int n = weight_chain(g, v, chain, 8);
    ValId base = n > 0 ? graph_node(g, chain[n - 1])->in[0] : v;
    const Type *bt = graph_type(g, base);
    bool direct = n >= 0 && bt->rank <= 4 && (dtype_is_float(bt->dtype));
    memset(out, 0, sizeof *out);
    if (direct) {
        out->data = graph_constant(g, base)->data;
        view_contiguous(out, bt);
        for (int i = n; i-- > 0 && direct;) direct = view_apply(out, g, graph_node(g, chain[i]));
    }
    return direct || view_evaluate(g, v, a, out, d);
}

void weight_transpose(WeightView *w) {
    int64_t dim = w->dim[0], stride = w->stride[0];
    w->dim[0] = w->dim[1], w->stride[0] = w->stride[1];
    w->dim[1] = dim, w->stride[1] = stride;
}

double weight_get(const WeightView *w, const int64_t *index) {
    int64_t at = w->offset;
    for (uint32_t i = 0; i < w->rank; i++) at += index[i] * w->stride[i];
    Tensor t = {.dtype = w->dtype, .rank = 1, .dim = {at + 1}, .data = (void *)(uintptr_t)w->data};
    return tensor_get_f64(&t, (size_t)at);
}

bool same_elements(const WeightView *a, const WeightView *b) {
    if (a->data != b->data || a->dtype != b->dtype || a->rank != b->rank || a->offset != b->offset)
        return false;
    for (uint32_t i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i] || (a->dim[i] > 1 && a->stride[i] != b->stride[i])) return false;
    return true;
}

/* ---- experts ---- */

typedef struct {
    Graph *g;
    Arena *a;
    Diag *d;
    VEC(WeightView) views;
} Experts;

static void view_turn(WeightView *w) {
    int64_t dim = w->dim[0], stride = w->stride[0];
    w->dim[0] = w->dim[1], w->stride[0] = w->stride[1];
    w->dim[1] = dim, w->stride[1] = stride;
}

/* v[n, A, B]: appends n matrices. Joins and what stands above them are looked through; the rest is one view, perhaps
 * of the matrices one below the other. */
static bool experts_collect(Experts *x, ValId v, uint32_t depth) {
    Graph *g = x->g;
    const Node *n = node_ok(graph_def(g, v)) ? graph_node(g, graph_def(g, v)) : NULL;
    size_t first = x->views.count;
    if (depth > 0 && n != NULL && n->op == OP_CONCAT && n->attr.axis == 0) {
        for (uint32_t i = 0; i < n->nin; i++)
            if (!experts_collect(x, n->in[i], depth - 1)) return false;
        return true;
    }
    if (depth > 0 && n != NULL && n->op == OP_TRANSPOSE && n->attr.perm[0] == 0) {
        if (!experts_collect(x, n->in[0], depth - 1)) return false;
        for (size_t i = first; n->attr.perm[1] == 2 && i < x->views.count; i++) view_turn(&x->views.data[i]);
        return true;
    }
    if (depth > 0 && n != NULL && n->op == OP_CAST &&
        cast_is_exact(graph_type(g, n->in[0])->dtype, graph_type(g, v)->dtype))
        return experts_collect(x, n->in[0], depth - 1);
    const Type *t = graph_type(g, v);
    bool stacked = n != NULL && n->op == OP_RESHAPE && graph_type(g, n->in[0])->rank == 2 &&
                   dim_eq(graph_type(g, n->in[0])->dim[1], t->dim[2]) && type_is_static(t);
    WeightView w;
    if (!weight_view(g, stacked ? n->in[0] : v, x->a, &w, x->d)) return false;
    for (int64_t i = 0; i < t->dim[0].v; i++) {
        WeightView m = w;
        m.rank = 2;
        m.offset += i * w.stride[0] * (stacked ? t->dim[1].v : 1);
        for (int k = 0; k < 2; k++) {
            m.dim[k] = t->dim[k + 1].v;
            m.stride[k] = w.stride[stacked ? k : k + 1];
        }
        VEC_PUSH(x->a, &x->views, m);
    }
    return true;
}

bool weight_experts(Graph *g, ValId w, bool transposed, Arena *a, WeightView **out, uint32_t *n, Diag *d) {
    Experts x = {.g = g, .a = a, .d = d};
    if (!experts_collect(&x, w, 8)) return false;
    for (size_t i = 0; i < x.views.count; i++) {
        if (transposed) view_turn(&x.views.data[i]);
        if (x.views.data[i].dtype != x.views.data[0].dtype)
            return diag_error(d, loc_none(), "experts have weights of different types");
    }
    *out = x.views.data;
    *n = (uint32_t)x.views.count;
    return true;
}

uint32_t program_experts(Program *p, const WeightView *experts, uint32_t n, const char *name) {
    for (size_t i = 0; i < p->tensors.count; i++) {
        const ProgramTensor *t = &p->tensors.data[i];
        bool same = t->experts != NULL && t->art.dim[0] == n;
        for (uint32_t e = 0; same && e < n; e++) same = same_elements(&t->experts[e], &experts[e]);
        if (same) return (uint32_t)i;
    }
    ProgramTensor t = {.view = experts[0], .experts = experts, .name = name};
    uint64_t rows = (uint64_t)experts[0].dim[0], cols = (uint64_t)experts[0].dim[1];
    t.art = (ArtTensor){.dtype = art_dtype(experts[0].dtype),
                        .layout = ART_PANEL16,
                        .rank = 3,
                        .dim = {n, rows, cols, 1},
                        .name_offset = UINT32_MAX};
    t.art.bytes = n * ((rows + 15) / 16 * 16) * cols * (t.art.dtype == ART_F32 ? 4 : 2);
    VEC_PUSH(p->arena, &p->tensors, t);
    return (uint32_t)(p->tensors.count - 1);
}

/* ---- the table ---- */

uint32_t program_tensor(Program *p, const WeightView *w, uint32_t layout, const char *name) {
    for (size_t i = 0; i < p->tensors.count; i++) {
        const ProgramTensor *t = &p->tensors.data[i];
        if (t->experts == NULL && t->groups == NULL && same_elements(&t->view, w) &&
            (t->art.layout == layout || (layout == ART_PLAIN && w->rank == 2)))
            return (uint32_t)i;
    }
    ProgramTensor t = {.view = *w, .name = name};
    uint64_t count = 1;
    t.art.dtype = art_dtype(w->dtype);
    t.art.layout = layout;
    t.art.rank = w->rank;
    for (uint32_t i = 0; i < 4; i++) {
        t.art.dim[i] = i < w->rank ? (uint64_t)w->dim[i] : 1;
        count *= layout == ART_PANEL16 && i == 0 ? (t.art.dim[0] + 15) / 16 * 16 : t.art.dim[i];
    }
    t.art.bytes = count * (t.art.dtype == ART_F32 ? 4 : 2);
    t.art.name_offset = UINT32_MAX;
    VEC_PUSH(p->arena, &p->tensors, t);
    return (uint32_t)(p->tensors.count - 1);
}

uint32_t program_constant(Program *p, const void *data, const Type *t, const char *name) {
    size_t elements = 0;
    type_static_count(t, &elements);
    if (dtype_bits(t->dtype) < 8) {
        uint8_t *unpacked = arena_alloc(p->arena, elements);
        const_unpack(t->dtype, data, 0, elements, unpacked);
        data = unpacked;
    }
    WeightView w = {.data = data};
    Type flat = *t;
    if (t->rank > 4) {
        Dim count = dim_const((int64_t)elements);
        flat = type_make(t->dtype, 1, &count);
    }
    view_contiguous(&w, &flat);
    for (size_t i = 0; i < p->tensors.count; i++) {
        const ProgramTensor *other = &p->tensors.data[i];
        if (other->art.layout == ART_PLAIN && same_elements(&other->view, &w)) return (uint32_t)i;
    }
    ProgramTensor tensor = {.view = w, .name = name};
    tensor.art = (ArtTensor){.dtype = art_dtype_exact(t->dtype), .layout = ART_PLAIN, .rank = w.rank};
    tensor.art.bytes = elements * dtype_size(t->dtype);
    tensor.art.name_offset = UINT32_MAX;
    for (uint32_t i = 0; i < 4; i++) tensor.art.dim[i] = i < w.rank ? (uint64_t)w.dim[i] : 1;
    VEC_PUSH(p->arena, &p->tensors, tensor);
    return (uint32_t)(p->tensors.count - 1);
}
