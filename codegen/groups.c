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

/* Where the entries of operand i of dequantize stand for an element. */
static bool place_of(Graph *g, const Node *n, uint32_t i, Arena *a, WeightView *view, GroupPlace *p,
                     Diag *d) {
    if (!weight_view(g, n->in[i], a, view, d)) return false;
    *p = (GroupPlace){.block = {1, 1}};
    if (view->rank == 1) p->stride[n->attr.axis] = view->stride[0];
    if (view->rank != 2) return true;
    p->stride[0] = view->stride[0];
    p->stride[1] = view->stride[1];
    p->block[n->attr.axis] = n->attr.block;
    return true;
}

static int64_t place_at(const WeightView *view, const GroupPlace *p, int64_t row, int64_t col) {
    return view->offset + (p->start[0] + row) / p->block[0] * p->stride[0] +
           (p->start[1] + col) / p->block[1] * p->stride[1];
}

static double entry(const WeightView *view, const GroupPlace *p, int64_t row, int64_t col) {
    int64_t at = place_at(view, p, row, col);
    Tensor t = {.dtype = view->dtype, .rank = 1, .dim = {at + 1}, .data = (void *)(uintptr_t)view->data};
    return tensor_get_f64(&t, (size_t)at);
}

/* The columns that share entries: all of them (0), a block, or -1 when blocks do not begin where groups do. */
static int64_t columns_of(const GroupPlace *p) {
    if (p->stride[1] == 0) return 0;
    return p->block[1] >= MIN_GROUP && p->start[1] % p->block[1] == 0 ? p->block[1] : -1;
}

static bool set_group(GroupView *v) {
    int64_t scale = columns_of(&v->scale_at), zero = v->has_zero ? columns_of(&v->zero_at) : 0;
    int64_t per = 8 / (int64_t)dtype_bits(v->codes.dtype), all = (v->codes.dim[1] + per - 1) / per * per;
    if (scale < 0 || zero < 0 || (scale > 0 && zero > 0 && scale != zero)) return false;
    v->group = scale > 0 ? scale : zero > 0 ? zero : all;
    return v->group <= MAX_GROUP && v->group % per == 0;
}

bool group_view(Graph *g, ValId w, bool transposed, Arena *a, GroupView *out, Diag *d) {
    Chain c;
    memset(out, 0, sizeof *out);
    if (!chain_of(g, w, &c)) return false;
    const Node *n = graph_node(g, c.node);
    const Type *t = graph_type(g, c.codes);
    uint32_t bits = dtype_bits(t->dtype);
    if (t->rank != 2 || bits > 8 || 8 % bits != 0 || !dtype_is_int(t->dtype) || !type_is_static(t) ||
        n->nin > 3)
        return false;
    out->has_zero = n->nin > 2 && val_ok(n->in[2]);
    out->scale_of = n->in[1];
    out->zero_of = out->has_zero ? n->in[2] : NO_VAL;
    out->shift = dtype_class(t->dtype) == DC_INT ? 1 << (dtype_bits(t->dtype) - 1) : 0;
    out->name = graph_val(g, c.codes)->name;
    out->codes.data = graph_constant(g, c.codes)->data;
    view_contiguous(&out->codes, t);
    for (int i = c.nbefore; i-- > 0;)
        if (!view_apply(&out->codes, g, graph_node(g, c.before[i]))) return false;
    if (!place_of(g, n, 1, a, &out->scale, &out->scale_at, d)) return false;
    if (out->has_zero && !place_of(g, n, 2, a, &out->zero, &out->zero_at, d)) return false;
    for (int i = c.nafter; i-- > 0;) {
        const Node *m = graph_node(g, c.after[i]);
        if (!view_apply(&out->codes, g, m) || !place_apply(&out->scale_at, m) ||
            !place_apply(&out->zero_at, m))
            return false;
    }
    if (transposed) {
        weight_transpose(&out->codes);
        place_transpose(&out->scale_at, (const uint8_t[]){1, 0});
        place_transpose(&out->zero_at, (const uint8_t[]){1, 0});
    }
    return out->codes.dim[0] > 0 && out->codes.dim[1] > 0 && set_group(out);
}

/* ---- the stored form ---- */

static bool zero_is_same(const GroupView *v) {
    return !v->has_zero ||
           (v->zero_at.stride[0] == 0 && v->zero_at.stride[1] == 0 && !dtype_is_float(v->zero.dtype));
}

static uint32_t zero_kind(const GroupView *v) {
    return zero_is_same(v) ? ART_ZERO_SAME : dtype_is_float(v->zero.dtype) ? ART_ZERO_FLOAT : ART_ZERO_BYTE;
}

static double zero_get(const GroupView *v, int64_t row, int64_t col) {
    return v->shift + (v->has_zero ? entry(&v->zero, &v->zero_at, row, col) : 0);
}

size_t group_block_bytes(const ArtTensor *t) {
    uint32_t scale = t->flags & 0xff, zeros = t->flags >> 8 & 0xff,
             bits = t->dtype == ART_U8   ? 8
                    : t->dtype == ART_U4 ? 4
                                         : 2;
    size_t zero = zeros == ART_ZERO_FLOAT ? 4 : zeros == ART_ZERO_BYTE ? 1 : 0;
    return 16 * ((scale == ART_F32 ? 4 : 2) + zero + (size_t)t->group * bits / 8);
}

uint32_t program_groups(Program *p, const GroupView *v) {
    for (size_t i = 0; i < p->tensors.count; i++) {
        const GroupView *other = p->tensors.data[i].groups;
        if (other == NULL || !same_elements(&other->codes, &v->codes)) continue;
        if (val_eq(other->scale_of, v->scale_of) && val_eq(other->zero_of, v->zero_of)) return (uint32_t)i;
    }
    uint32_t bits = dtype_bits(v->codes.dtype), zeros = zero_kind(v);
    uint32_t same = zeros == ART_ZERO_SAME ? (uint32_t)zero_get(v, 0, 0) : 0;
    ProgramTensor t = {.view = v->codes, .groups = arena_dup(p->arena, v, sizeof *v), .name = v->name};
    t.art = (ArtTensor){.dtype = bits == 8   ? ART_U8
                                 : bits == 4 ? ART_U4
                                             : ART_U2,
                        .layout = ART_GROUP16,
                        .rank = 2,
                        .flags = art_dtype(v->scale.dtype) | zeros << 8 | same << 16,
                        .dim = {(uint64_t)v->codes.dim[0], (uint64_t)v->codes.dim[1], 1, 1},
                        .name_offset = UINT32_MAX,
                        .group = (uint32_t)v->group};
    t.art.bytes = (t.art.dim[0] + 15) / 16 * ((t.art.dim[1] + t.art.group - 1) / t.art.group) *
                  group_block_bytes(&t.art);
    VEC_PUSH(p->arena, &p->tensors, t);
    return (uint32_t)(p->tensors.count - 1);
}

static uint32_t code_at(const GroupView *v, int64_t row, int64_t col) {
    uint32_t bits = dtype_bits(v->codes.dtype), mask = (1u << bits) - 1;
    uint64_t at = (uint64_t)(v->codes.offset + row * v->codes.stride[0] + col * v->codes.stride[1]) * bits;
    uint32_t code = (uint32_t)((const uint8_t *)v->codes.data)[at / 8] >> at % 8 & mask;
    return (code + (uint32_t)v->shift) & mask; /* signed ones from 0 on */
}

static uint8_t *put_float(uint8_t *to, uint32_t dtype, double x) {
    float f = (float)x;
    uint16_t h = dtype == ART_F16 ? float_to_half(f) : float_to_bf16(f);
    if (dtype == ART_F32)
        memcpy(to, &f, sizeof f);
    else
        memcpy(to, &h, sizeof h);
    return to + (dtype == ART_F32 ? 4 : 2);
}

void group_block(const ProgramTensor *t, int64_t row0, int64_t col0, uint8_t *to) {
    const GroupView *v = t->groups;
    int64_t rows = v->codes.dim[0] - row0, cols = v->codes.dim[1] - col0, group = v->group;
    uint32_t bits = dtype_bits(v->codes.dtype), scale = t->art.flags & 0xff, zeros = t->art.flags >> 8 & 0xff;
    if (rows > 16) rows = 16;
    if (cols > group) cols = group;
    memset(to, 0, group_block_bytes(&t->art));
    for (int64_t r = 0; r < 16; r++)
        to = put_float(to, scale, r < rows ? entry(&v->scale, &v->scale_at, row0 + r, col0) : 0);
    for (int64_t r = 0; zeros != ART_ZERO_SAME && r < 16; r++) {
        double zero = r < rows ? zero_get(v, row0 + r, col0) : 0;
        if (zeros == ART_ZERO_FLOAT)
            to = put_float(to, ART_F32, zero);
        else
            *to++ = (uint8_t)zero;
    }
    int64_t per = 8 / (int64_t)bits;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            to[c / per * 16 + r] |= (uint8_t)(code_at(v, row0 + r, col0 + c) << c % per * bits);
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
