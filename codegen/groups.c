/* groups.c: constants that the graph dequantises, stored as they are: codes with scales and zero points by groups of
 * columns (ART_GROUP16).
 *
 * The matrix is followed up through slices and transposes to dequantize and on to its constant; an entry of the scales
 * is found from an element's place by a division and a stride per axis. Forms that do not run along whole groups of
 * columns (a scale for each column) are left to weight_view, which computes floats. */
#include "codegen/codegen.h"

#include <string.h>

#define CHAIN 8
#define MIN_GROUP 8
#define EACH_UNIT 8 /* columns that are whole units of every format */
#define MAX_GROUP (1 << 24)

/* The nodes from v up to dequantize, and the constant above it, if nothing but movement is between. */
typedef struct {
    NodeId after[CHAIN], before[CHAIN], node;
    int nafter, nbefore;
    ValId codes;
} Chain;

static bool moves(const Graph *g, const Node *n, bool after) {
    if (n->op == OP_CAST)
        return after &&
               dtype_bits(graph_type(g, n->out[0])->dtype) >= dtype_bits(graph_type(g, n->in[0])->dtype);
    return n->op == OP_TRANSPOSE || n->op == OP_SLICE;
}

static bool chain_of(const Graph *g, ValId v, Chain *c) {
    memset(c, 0, sizeof *c);
    while (!graph_constant(g, v)) {
        NodeId id = graph_def(g, v);
        if (!node_ok(id)) return false;
        const Node *n = graph_node(g, id);
        bool after = !node_ok(c->node);
        int *count = after ? &c->nafter : &c->nbefore;
        if (n->op == OP_DEQUANTIZE && after)
            c->node = id;
        else if (!moves(g, n, after) || *count == CHAIN)
            return false;
        else
            (after ? c->after : c->before)[(*count)++] = id;
        v = n->in[0];
    }
    c->codes = v;
    return node_ok(c->node);
}

static void place_transpose(GroupPlace *p, const uint8_t *perm) {
    GroupPlace old = *p;
    for (int i = 0; i < 2; i++) {
        p->start[i] = old.start[perm[i]];
        p->block[i] = old.block[perm[i]];
        p->stride[i] = old.stride[perm[i]];
    }
}

static bool place_apply(GroupPlace *p, const Node *n) {
    if (n->op == OP_TRANSPOSE) place_transpose(p, n->attr.perm);
    for (int i = 0; n->op == OP_SLICE && i < 2; i++) {
        if (p->stride[i] != 0 && n->attr.steps[i] != 1) return false;
        p->start[i] += n->attr.starts[i].v;
    }
    return true;
}

static GroupPlace place_of(const WeightView *view, const Attr *a) {
    GroupPlace p = {.block = {1, 1}};
    if (view->rank == 1) p.stride[a->axis] = view->stride[0];
    if (view->rank != 2) return p;
    p.stride[0] = view->stride[0];
    p.stride[1] = view->stride[1];
    p.block[a->axis] = a->block > 0 ? a->block : 1;
    return p;
}

/* v as what stands beside the codes that n dequantises. */
static bool entries_of(Graph *g, const Node *n, ValId v, Arena *a, GroupEntries *e, Diag *d) {
    if (!weight_view(g, v, a, &e->view, d)) return false;
    e->of = v;
    e->at = place_of(&e->view, &n->attr);
    return true;
}

double group_entry(const GroupEntries *e, int64_t row, int64_t col) {
    const WeightView *v = &e->view;
    const GroupPlace *p = &e->at;
    int64_t at = v->offset + (p->start[0] + row) / p->block[0] * p->stride[0] +
                 (p->start[1] + col) / p->block[1] * p->stride[1];
    Tensor t = {.dtype = v->dtype, .rank = 1, .dim = {at + 1}, .data = (void *)(uintptr_t)v->data};
    return tensor_get_f64(&t, (size_t)at);
}

/* ---- forms that are stored as they are ---- */

static bool is_half(double x) { return (double)half_to_float(float_to_half((float)x)) == x; }

static bool view_all(const WeightView *v, bool (*holds)(double x)) {
    for (int64_t i[2] = {0, 0}; i[0] < v->dim[0]; i[0]++)
        for (i[1] = 0; i[1] < (v->rank > 1 ? v->dim[1] : 1); i[1]++)
            if (!holds(weight_get(v, i))) return false;
    return true;
}

/* Scales that are codes of 6 or 8 bits, by groups, times an fp16 for each row: seen as both. */
static bool coded_scale(Graph *g, const Node *n, Arena *a, GroupView *out, Diag *d) {
    NodeId id = graph_def(g, n->in[1]);
    const Node *s = node_ok(id) ? graph_node(g, id) : NULL;
    if (s == NULL || s->op != OP_DEQUANTIZE || s->nin != 2 || s->attr.axis != 0 || s->attr.block != 0 ||
        n->attr.axis != 1 || n->attr.block < 1 || graph_constant(g, s->in[0]) == NULL)
        return false;
    const Type *codes = graph_type(g, s->in[0]), *rows = graph_type(g, s->in[1]);
    if (codes->rank != 2 || rows->rank != 1 || (codes->dtype != DT_U8 && codes->dtype != DT_U6)) return false;
    Tensor unpacked = const_tensor(g, s->in[0], a);
    out->scale = (GroupEntries){.of = n->in[1], .view = {.data = unpacked.data}};
    view_contiguous(&out->scale.view, codes);
    out->scale.at = place_of(&out->scale.view, &n->attr);
    Node by_row = *n;
    by_row.attr.axis = by_row.attr.block = 0;
    out->scale_type = codes->dtype == DT_U6 ? ART_U6 : ART_U8;
    return entries_of(g, &by_row, s->in[1], a, &out->row_scale, d) && view_all(&out->row_scale.view, is_half);
}

/* Floats that fp16 holds are stored so. */
static bool plain_scale(Graph *g, const Node *n, Arena *a, GroupView *out, Diag *d) {
    out->row_scale = (GroupEntries){0};
    if (!entries_of(g, n, n->in[1], a, &out->scale, d)) return false;
    WeightView *v = &out->scale.view;
    out->scale_type = art_dtype(v->dtype);
    if (v->rank == 0) v->dim[0] = 1;
    if (out->scale_type == ART_F32 && view_all(v, is_half)) out->scale_type = ART_F16;
    return true;
}

static bool is_int8(double x) { return x >= -128 && x <= 127 && x == (double)(int8_t)x; }

static bool grid_of(Graph *g, const Node *n, Arena *a, GroupView *out, Diag *d) {
    DType t = out->codes.dtype;
    out->vector = 1;
    if (t == DT_F8E4M3FN) out->grid_kind = ART_GRID_F8;
    if (n->nin < 4 || !val_ok(n->in[3])) return true;
    out->grid_of = n->in[3];
    if (val_ok(out->zero.of) || !weight_view(g, n->in[3], a, &out->grid, d)) return false;
    if (out->grid.rank == 1) {
        out->grid_kind = ART_GRID_INT8;
        return dtype_bits(t) <= 5 && view_all(&out->grid, is_int8);
    }
    out->vector = (uint32_t)out->grid.dim[1];
    out->grid_kind = out->vector == 2 ? ART_GRID_PAIRS : ART_GRID_QUADS;
    return t == DT_U8 && (out->vector == 2 || out->vector == 4) && view_all(&out->grid, is_half);
}

/* Turned matrices have the columns that vectors stand for turned back in the end, and no slices are between. */
static bool views_follow(Graph *g, const Chain *c, bool transposed, GroupView *out) {
    int turns = transposed;
    for (int i = c->nafter; i-- > 0;) {
        const Node *m = graph_node(g, c->after[i]);
        turns += m->op == OP_TRANSPOSE && m->attr.perm[0] == 1;
        if ((m->op == OP_SLICE && out->vector > 1) || !view_apply(&out->codes, g, m) ||
            !place_apply(&out->scale.at, m) || !place_apply(&out->zero.at, m) ||
            !place_apply(&out->row_scale.at, m))
            return false;
    }
    if (transposed) {
        static const uint8_t turn[] = {1, 0};
        weight_transpose(&out->codes);
        place_transpose(&out->scale.at, turn);
        place_transpose(&out->zero.at, turn);
        place_transpose(&out->row_scale.at, turn);
    }
    return out->vector == 1 || turns % 2 == 0;
}

/* The columns that share entries: all of them (0), a block, or -1 when blocks do not begin where groups do. */
static int64_t columns_of(const GroupEntries *e) {
    if (!val_ok(e->of) || e->at.stride[1] == 0) return 0;
    return e->at.block[1] >= MIN_GROUP && e->at.start[1] % e->at.block[1] == 0 ? e->at.block[1] : -1;
}

static bool zero_is_same(const GroupView *v) {
    return !val_ok(v->zero.of) ||
           (v->zero.at.stride[0] == 0 && v->zero.at.stride[1] == 0 && !dtype_is_float(v->zero.view.dtype));
}

static uint32_t zero_kind(const GroupView *v) {
    if (zero_is_same(v)) return ART_ZERO_SAME;
    if (dtype_is_float(v->zero.view.dtype)) return ART_ZERO_FLOAT;
    return v->codes.dtype == DT_U2 && v->scale_type == ART_U6 ? ART_ZERO_HIGH : ART_ZERO_BYTE;
}

double group_zero(const GroupView *v, int64_t row, int64_t col) {
    return v->shift + (val_ok(v->zero.of) ? group_entry(&v->zero, row, col) : 0);
}

static uint32_t code_type(DType t) {
    static const uint32_t of[9] = {
        [2] = ART_U2, [3] = ART_U3, [4] = ART_U4, [5] = ART_U5, [6] = ART_U6, [8] = ART_U8};
    return t == DT_F8E4M3FN ? ART_F8E4M3FN : dtype_is_int(t) && dtype_bits(t) <= 8 ? of[dtype_bits(t)] : 0;
}

static uint32_t flags_of(const GroupView *v) {
    uint32_t zeros = zero_kind(v), same = zeros == ART_ZERO_SAME ? (uint32_t)group_zero(v, 0, 0) & 0xff : 0;
    return v->scale_type | zeros << 8 | same << 16 | v->grid_kind << 24;
}

/* Columns of a group: whole units of codes. */
static bool set_group(GroupView *v) {
    int64_t scale = columns_of(&v->scale), zero = columns_of(&v->zero), row = columns_of(&v->row_scale);
    if (scale < 0 || zero < 0 || row != 0 || (scale > 0 && zero > 0 && scale != zero)) return false;
    if (v->row_scale.at.stride[1] != 0) return false;
    uint32_t type = code_type(v->codes.dtype), flags = flags_of(v);
    int64_t columns = v->codes.dim[1] * v->vector, unit = art_groups(type, flags, EACH_UNIT).unit;
    if (unit == 0) return false;
    v->group = scale > 0 ? scale : zero > 0 ? zero : (columns + unit - 1) / unit * unit;
    return v->group <= MAX_GROUP && art_groups(type, flags, (uint32_t)v->group).bits != 0;
}

/* Kernels read every float8 as a number: with a NaN among them the matrix is stored as floats. */
static bool codes_finite(const WeightView *v) {
    const uint8_t *code = v->data;
    for (int64_t r = 0; v->dtype == DT_F8E4M3FN && r < v->dim[0]; r++)
        for (int64_t c = 0; c < v->dim[1]; c++)
            if ((code[v->offset + r * v->stride[0] + c * v->stride[1]] & 0x7f) == 0x7f) return false;
    return true;
}

bool group_view(Graph *g, ValId w, bool transposed, Arena *a, GroupView *out, Diag *d) {
    Chain c;
    memset(out, 0, sizeof *out);
    if (!chain_of(g, w, &c)) return false;
    const Node *n = graph_node(g, c.node);
    const Type *t = graph_type(g, c.codes);
    if (t->rank != 2 || !code_type(t->dtype) || !type_is_static(t)) return false;
    out->shift = dtype_class(t->dtype) == DC_INT ? 1 << (dtype_bits(t->dtype) - 1) : 0;
    out->name = graph_val(g, c.codes)->name;
    out->codes.data = graph_constant(g, c.codes)->data;
    view_contiguous(&out->codes, t);
    for (int i = c.nbefore; i-- > 0;)
        if (!view_apply(&out->codes, g, graph_node(g, c.before[i]))) return false;
    if (n->nin > 2 && val_ok(n->in[2]) && !entries_of(g, n, n->in[2], a, &out->zero, d)) return false;
    if (!coded_scale(g, n, a, out, d) && !plain_scale(g, n, a, out, d)) return false;
    return grid_of(g, n, a, out, d) && views_follow(g, &c, transposed, out) && out->codes.dim[0] > 0 &&
           out->codes.dim[1] > 0 && set_group(out) && codes_finite(&out->codes);
}

/* A stack is one matrix, reshaped: [E * N, K] as [E, N, K]. */
bool group_stack(Graph *g, ValId w, bool transposed, Arena *a, GroupView *out, Diag *d) {
    for (int i = 0; i < CHAIN && node_ok(graph_def(g, w)); i++) {
        const Node *n = graph_node(g, graph_def(g, w));
        const Type *from = graph_type(g, n->in[0]), *to = graph_type(g, w);
        if (n->op == OP_RESHAPE)
            return !transposed && from->rank == 2 && to->rank == 3 && dim_eq(from->dim[1], to->dim[2]) &&
                   dim_is_const(to->dim[1]) && to->dim[1].v % 16 == 0 &&
                   group_view(g, n->in[0], false, a, out, d);
        if (!moves(g, n, true) || n->op == OP_SLICE || (n->op == OP_TRANSPOSE && n->attr.perm[0] != 0))
            return false;
        if (n->op == OP_TRANSPOSE) transposed ^= n->attr.perm[1] == 2;
        w = n->in[0];
    }
    return false;
}

/* ---- in the program ---- */

uint32_t program_groups(Program *p, const GroupView *v) {
    for (size_t i = 0; i < p->tensors.count; i++) {
        const GroupView *other = p->tensors.data[i].groups;
        if (other == NULL || !same_elements(&other->codes, &v->codes)) continue;
        if (val_eq(other->scale.of, v->scale.of) && val_eq(other->zero.of, v->zero.of) &&
            val_eq(other->grid_of, v->grid_of))
            return (uint32_t)i;
    }
    ProgramTensor t = {.view = v->codes, .groups = arena_dup(p->arena, v, sizeof *v), .name = v->name};
    t.art = (ArtTensor){.dtype = code_type(v->codes.dtype),
                        .layout = ART_GROUP16,
                        .rank = 2,
                        .flags = flags_of(v),
                        .dim = {(uint64_t)v->codes.dim[0], (uint64_t)v->codes.dim[1] * v->vector, 1, 1},
                        .name_offset = UINT32_MAX,
                        .group = (uint32_t)v->group};
    t.art.bytes = art_groups_bytes(&t.art);
    VEC_PUSH(p->arena, &p->tensors, t);
    return (uint32_t)(p->tensors.count - 1);
}

bool program_stack(Program *p, Graph *g, ValId w, bool transposed, uint32_t *out, Diag *d) {
    GroupView groups;
    WeightView *experts = NULL;
    uint32_t n = 0;
    if (group_stack(g, w, transposed, p->arena, &groups, d)) {
        *out = program_groups(p, &groups);
        return true;
    }
    if (!weight_experts(g, w, transposed, p->arena, &experts, &n, d)) return false;
    *out = program_experts(p, experts, n, graph_val(g, w)->name);
    return true;
}

bool program_matrix(Program *p, Graph *g, ValId w, bool transposed, uint32_t layout, uint32_t *out, Diag *d) {
    GroupView groups;
    WeightView view;
    if (group_view(g, w, transposed, p->arena, &groups, d)) {
        *out = program_groups(p, &groups);
        return true;
    }
    if (!weight_view(g, w, p->arena, &view, d)) return false;
    if (transposed) weight_transpose(&view);
    *out = program_tensor(p, &view, layout, graph_val(g, w)->name);
    return true;
}
