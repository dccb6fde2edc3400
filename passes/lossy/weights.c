/* weights.c: weights as plain numbers, and constants made of them (pick.h). */
#include <string.h>

#include "passes/lossy/lossy.h"
#include "passes/lossy/pick.h"

#define MAX_MOVES 8

/* The constant under casts and moves; none when something else lies between. */
static ValId weight_base(const Graph *g, ValId v) {
    for (uint32_t i = 0; i < MAX_MOVES && val_ok(v); i++) {
        NodeId id = graph_def(g, v);
        if (!node_ok(id)) return v;
        const Node *n = graph_node(g, id);
        if (n->op != OP_CAST && n->op != OP_TRANSPOSE && n->op != OP_SLICE && n->op != OP_RESHAPE)
            return NO_VAL;
        v = n->in[0];
    }
    return NO_VAL;
}

static bool is_plain(DType t) { return t == DT_F32 || t == DT_F16 || t == DT_BF16; }

bool weight_is_plain(const Graph *g, ValId v) {
    ValId base = weight_base(g, v);
    size_t count;
    return val_ok(base) && graph_constant(g, base) && is_plain(graph_type(g, base)->dtype) &&
           is_plain(graph_type(g, v)->dtype) && type_static_count(graph_type(g, v), &count);
}

bool weight_read(Graph *g, ValId v, Arena *a, float **out, Diag *d) {
    Tensor t;
    if (graph_constant(g, v)) {
        t = const_tensor(g, v, a);
    } else {
        EvalArgs args = {0};
        if (!eval_graph(g, &args, &v, 1, &t, a, d)) return false;
    }
    size_t n = tensor_count(&t);
    *out = arena_array_of(a, n, float);
    if (t.dtype == DT_F32)
        memcpy(*out, t.data, n * sizeof **out);
    else
        for (size_t i = 0; i < n; i++) (*out)[i] = (float)tensor_get_f64(&t, i);
    return true;
}

ValId weight_make(Graph *g, const float *data, uint32_t rank, const int64_t *dim, ValId like, Diag *d) {
    ValId base = val_ok(like) ? weight_base(g, like) : NO_VAL;
    DType as = val_ok(base) ? graph_type(g, base)->dtype : DT_F32;
    Dim dims[MAX_RANK];
    Tensor t = {.dtype = as, .rank = (uint8_t)rank};
    for (uint32_t i = 0; i < rank; i++) {
        dims[i] = dim_const(dim[i]);
        t.dim[i] = dim[i];
    }
    size_t n = tensor_count(&t);
    t.data = arena_array(g->arena, n, dtype_size(as));
    if (as == DT_F32)
        memcpy(t.data, data, n * sizeof *data);
    else
        for (size_t i = 0; i < n; i++) tensor_store_f64(&t, (int64_t)i, 1, &(double){data[i]});
    ValId v =
        graph_const(g, type_make(as, rank, dims), t.data, val_ok(base) ? graph_val(g, base)->name : NULL);
    if (!val_ok(like) || graph_type(g, like)->dtype == as) return v;
    Type cast = type_make(graph_type(g, like)->dtype, rank, dims);
    return graph_add(g, OP_CAST, &v, 1, NULL, &cast, loc_none(), d);
}

/* Scales, zero points and grids: no weights of the model. */
static bool is_side_operand(const Node *n, uint32_t i) { return n->op == OP_DEQUANTIZE && i > 0; }

uint64_t graph_weigh(const Graph *g, uint64_t *bits) {
    Arena *a = arena_new();
    bool *live = graph_live(g, a), *seen = arena_array_of(a, g->values.count, bool);
    uint64_t weights = 0, stored = 0;
    FOR_NODES (g, id) {
        const Node *n = graph_node(g, id);
        for (uint32_t i = 0; i < n->nin && live[id.id]; i++) {
            size_t count;
            ValId v = n->in[i];
            if (!graph_constant(g, v) || seen[v.id] || !type_static_count(graph_type(g, v), &count)) continue;
            seen[v.id] = true;
            if (!is_side_operand(n, i)) weights += count;
            stored += (uint64_t)count * dtype_bits(graph_type(g, v)->dtype);
        }
    }
    arena_free(a);
    if (bits) *bits = stored;
    return weights;
}
