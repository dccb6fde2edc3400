/* weights.c: constants as strided views, and the table of tensors that an artifact stores. */
#include "codegen/codegen.h"

#include <string.h>

uint32_t art_dtype(DType t) { return t == DT_F16 ? ART_F16 : t == DT_BF16 ? ART_BF16 : ART_F32; }

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

static void view_contiguous(WeightView *w, const Type *t) {
    w->dtype = t->dtype;
    w->rank = t->rank;
    int64_t run = 1;
    for (uint32_t i = t->rank; i-- > 0;) {
        w->dim[i] = t->dim[i].v;
        w->stride[i] = run;
        run *= t->dim[i].v;
    }
}

static bool view_apply(WeightView *w, const Graph *g, const Node *n) {
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

double weight_get(const WeightView *w, const int64_t *index) {
    int64_t at = w->offset;
    for (uint32_t i = 0; i < w->rank; i++) at += index[i] * w->stride[i];
    Tensor t = {.dtype = w->dtype, .rank = 1, .dim = {at + 1}, .data = (void *)(uintptr_t)w->data};
    return tensor_get_f64(&t, (size_t)at);
}

static bool same_elements(const WeightView *a, const WeightView *b) {
    if (a->data != b->data || a->dtype != b->dtype || a->rank != b->rank || a->offset != b->offset)
        return false;
    for (uint32_t i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i] || (a->dim[i] > 1 && a->stride[i] != b->stride[i])) return false;
    return true;
}

uint32_t program_tensor(Program *p, const WeightView *w, uint32_t layout, const char *name) {
    for (size_t i = 0; i < p->tensors.count; i++) {
        const ProgramTensor *t = &p->tensors.data[i];
        if (same_elements(&t->view, w) && (t->art.layout == layout || (layout == ART_PLAIN && w->rank == 2)))
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
