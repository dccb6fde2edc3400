/* emit.c: adds IR nodes. emit() is the one place where nodes are made. It first lines operands up (numbers of a
 * fixed-shape export against symbols, free symbols against what they must equal), then folds what depends on constants
 * alone when the result is small. */
#include "frontend/import.h"

#define FOLD_INPUT_MAX ((size_t)1 << 24)
#define WEIGHT_MIN ((size_t)4096)

/* ---- lining operands up ---- */

/* Only values that no input's data goes into may be cut: the axes of others have their provenance. */
bool align_axis(Call *c, ValId *v, uint32_t axis, Dim want) {
    Dim have = graph_type(c->g, *v)->dim[axis];
    if (dim_eq(have, want)) return true;
    if (shape_unify(c->im, have, want)) return true;
    if (!dim_is_const(have) || dim_is_const(want)) return false;
    if (dim_literal(c->g, want) != have.v || value_dynamic(c->im, *v)) return false;
    if (dim_depends(c->g, want, SYM_BATCH)) return false;
    *v = emit_slice(c, *v, axis, dim_const(0), 1, want);
    return val_ok(*v);
}

/* Operands broadcast against one another over all axes but the last `skip`. */
static void align_broadcast(Call *c, ValId *in, size_t nin, uint32_t skip) {
    for (uint32_t from_end = skip; from_end < MAX_RANK; from_end++) {
        Dim want = dim_const(1);
        for (size_t i = 0; i < nin; i++) {
            const Type *t = graph_type(c->g, in[i]);
            if (from_end >= t->rank) continue;
            Dim d = t->dim[t->rank - 1 - from_end];
            if (dim_eq(d, dim_const(1)) || dim_eq(d, want)) continue;
            if (dim_eq(want, dim_const(1)) || (dim_is_const(want) && !dim_is_const(d))) want = d;
        }
        for (size_t i = 0; i < nin; i++) {
            const Type *t = graph_type(c->g, in[i]);
            if (from_end >= t->rank) continue;
            Dim d = t->dim[t->rank - 1 - from_end];
            if (!dim_eq(d, dim_const(1))) align_axis(c, &in[i], t->rank - 1 - from_end, want);
        }
    }
}

static void align_matmul(Call *c, ValId *in) {
    const Type *a = graph_type(c->g, in[0]), *b = graph_type(c->g, in[1]);
    if (a->rank < 2 || b->rank < 2) return;
    align_broadcast(c, in, 2, 2);
    a = graph_type(c->g, in[0]);
    b = graph_type(c->g, in[1]);
    Dim ka = a->dim[a->rank - 1], kb = b->dim[b->rank - 2];
    if (dim_eq(ka, kb)) return;
    if (dim_is_const(kb))
        align_axis(c, &in[1], b->rank - 2, ka);
    else
        align_axis(c, &in[0], a->rank - 1, kb);
}

static void align_concat(Call *c, ValId *in, size_t nin, uint32_t axis) {
    uint32_t rank = graph_type(c->g, in[0])->rank;
    for (uint32_t k = 0; k < rank; k++) {
        if (k == axis) continue;
        Dim want = graph_type(c->g, in[0])->dim[k];
        for (size_t i = 1; i < nin && dim_is_const(want); i++)
            if (graph_type(c->g, in[i])->rank == rank) want = graph_type(c->g, in[i])->dim[k];
        for (size_t i = 0; i < nin; i++) {
            const Type *t = graph_type(c->g, in[i]);
            if (t->rank != rank || align_axis(c, &in[i], k, want)) continue;
            if (dim_eq(t->dim[k], dim_const(1)) && dim_literal(c->g, want) == 1 &&
                !value_dynamic(c->im, in[i])) {
                Type wide = *t;
                wide.dim[k] = want;
                in[i] = emit_broadcast(c, in[i], rank, wide.dim);
            }
        }
    }
}

/* ---- nodes ---- */

const Type *type_of(const Call *c, ValId v) { return graph_type(c->g, v); }

static bool fold_worth(const Call *c, Op op, const ValId *in, size_t nin, ValId v) {
    const Type *t = graph_type(c->g, v);
    size_t bytes = 0;
    if (op_info(op)->nout != 1 || !type_static_bytes(t, &bytes)) return false;
    if (bytes > FOLD_MAX * dtype_size(t->dtype)) return false;
    if (op == OP_DEQUANTIZE && t->rank > 1) return false; /* a compressed weight */
    if (op == OP_DIM && !dim_is_const(graph_node(c->g, graph_def(c->g, v))->attr.value)) return false;
    size_t total = 0;
    for (size_t i = 0; i < nin; i++) {
        if (!val_ok(in[i])) continue;
        const Const *k = graph_constant(c->g, in[i]);
        if (k == NULL) return false;
        /* Weights stay what they are in the file; the passes decide about them. */
        if (k->form == CF_FILE && k->bytes > WEIGHT_MIN && bytes > WEIGHT_MIN) return false;
        total += k->bytes;
    }
    if (total > FOLD_INPUT_MAX) return false;
    /* Symbols in attributes are not constant even when operands are. */
    const Attr *a = &graph_node(c->g, graph_def(c->g, v))->attr;
    if (op == OP_SLICE || op == OP_PAD)
        for (uint32_t i = 0; i < t->rank; i++)
            if (!dim_is_const(a->starts[i])) return false;
    return true;
}

static ValId fold(Call *c, const ValId *in, size_t nin, ValId v) {
    NodeId node = graph_def(c->g, v);
    Tensor *operands = arena_array_of(c->im->scratch, nin + 1, Tensor);
    const Tensor **list = arena_array_of(c->im->scratch, nin + 1, const Tensor *);
    for (size_t i = 0; i < nin; i++) {
        if (!val_ok(in[i])) continue;
        operands[i] = const_tensor(c->g, in[i], c->im->scratch);
        list[i] = &operands[i];
    }
    Tensor out = {0};
    if (!eval_node(c->g, node, list, NULL, 0, &out, c->im->scratch, c->d)) return NO_VAL;
    Type t = *graph_type(c->g, v);
    graph_erase(c->g, node);
    return graph_const_tensor(c->g, t, &out, NULL);
}

ValId emit(Call *c, Op op, const ValId *in, size_t nin, const Attr *attr, const Type *result) {
    const OpInfo *info = op_info(op);
    ValId *operands = arena_array_of(c->im->scratch, nin + 1, ValId);
    bool dynamic = false;
    for (size_t i = 0; i < nin; i++) {
        if (!val_ok(in[i]) && (i < info->min_in || info->max_in == 255)) return NO_VAL;
        operands[i] = in[i];
        dynamic |= val_ok(in[i]) && value_dynamic(c->im, in[i]);
    }
    if (nin > 1 && (c->im->fixed || c->g->symbols.count > SYM_PAST.id + 1)) {
        if (info->flags & F_ELEM)
            align_broadcast(c, operands, nin, 0);
        else if (op == OP_MATMUL)
            align_matmul(c, operands);
        else if (op == OP_CONCAT)
            align_concat(c, operands, nin, (uint32_t)attr->axis);
    }
    ValId v = graph_add(c->g, op, operands, nin, attr, result, c->loc, c->d);
    if (!val_ok(v)) return v;
    if (fold_worth(c, op, operands, nin, v)) return fold(c, operands, nin, v);
    const Node *node = graph_node(c->g, graph_def(c->g, v));
    for (uint32_t i = 0; i < node->nout; i++) dynamic_set(c->im, node->out[i], dynamic);
    return v;
}

ValId emit1(Call *c, Op op, ValId a) { return emit(c, op, &a, 1, NULL, NULL); }

ValId emit2(Call *c, Op op, ValId a, ValId b) {
    ValId in[2] = {a, b};
    return emit(c, op, in, 2, NULL, NULL);
}

ValId emit3(Call *c, Op op, ValId x, ValId a, ValId b) {
    ValId in[3] = {x, a, b};
    return emit(c, op, in, 3, NULL, NULL);
}

ValId emit_cast(Call *c, ValId v, DType t) {
    if (!val_ok(v) || type_of(c, v)->dtype == t) return v;
    Type type = *type_of(c, v);
    type.dtype = t;
    return emit(c, OP_CAST, &v, 1, NULL, &type);
}

static bool shape_is(const Type *t, uint32_t rank, const Dim *dims) {
    if (t->rank != rank) return false;
    for (uint32_t i = 0; i < rank; i++)
        if (!dim_eq(t->dim[i], dims[i])) return false;
    return true;
}

ValId emit_reshape(Call *c, ValId v, uint32_t rank, const Dim *dims) {
    if (!val_ok(v) || shape_is(type_of(c, v), rank, dims)) return v;
    Type type = type_make(type_of(c, v)->dtype, rank, dims);
    return emit(c, OP_RESHAPE, &v, 1, NULL, &type);
}

ValId emit_broadcast(Call *c, ValId v, uint32_t rank, const Dim *dims) {
    if (!val_ok(v) || shape_is(type_of(c, v), rank, dims)) return v;
    Type type = type_make(type_of(c, v)->dtype, rank, dims);
    return emit(c, OP_BROADCAST, &v, 1, NULL, &type);
}

ValId emit_transpose(Call *c, ValId v, const uint8_t *perm) {
    if (!val_ok(v)) return v;
    Attr a = attr_default();
    uint32_t rank = type_of(c, v)->rank;
    bool same = true;
    for (uint32_t i = 0; i < rank; i++) {
        a.perm[i] = perm[i];
        same &= perm[i] == i;
    }
    return same ? v : emit(c, OP_TRANSPOSE, &v, 1, &a, NULL);
}

ValId emit_slice(Call *c, ValId v, uint32_t axis, Dim start, int64_t step, Dim length) {
    if (!val_ok(v)) return v;
    Type type = *type_of(c, v);
    if (dim_eq(start, dim_const(0)) && step == 1 && dim_eq(length, type.dim[axis])) return v;
    Attr a = attr_default();
    for (uint32_t i = 0; i < MAX_RANK; i++) {
        a.starts[i] = dim_const(0);
        a.steps[i] = 1;
    }
    a.starts[axis] = start;
    a.steps[axis] = step;
    type.dim[axis] = length;
    return emit(c, OP_SLICE, &v, 1, &a, &type);
}

ValId emit_reduce(Call *c, Op op, ValId v, uint32_t axes, bool keep) {
    Attr a = attr_default();
    a.axes = axes;
    a.keep = keep;
    return emit(c, op, &v, 1, &a, NULL);
}

ValId emit_concat(Call *c, const ValId *in, size_t nin, uint32_t axis) {
    if (nin == 1) return in[0];
    Attr a = attr_default();
    a.axis = axis;
    return emit(c, OP_CONCAT, in, nin, &a, NULL);
}

ValId emit_insert_axis(Call *c, ValId v, uint32_t axis) {
    if (!val_ok(v)) return v;
    const Type *t = type_of(c, v);
    Dim dims[MAX_RANK + 1];
    for (uint32_t i = 0; i <= t->rank; i++)
        dims[i] = i < axis ? t->dim[i] : i == axis ? dim_const(1) : t->dim[i - 1];
    if (t->rank == MAX_RANK) {
        call_error(c, "the rank grows above %d", MAX_RANK);
        return NO_VAL;
    }
    return emit_reshape(c, v, t->rank + 1, dims);
}

ValId emit_const(Call *c, Type t, const void *data, size_t bytes) {
    return graph_const(c->g, t, arena_dup(c->im->arena, data, bytes), NULL);
}

ValId emit_scalar(Call *c, DType t, double v) {
    if (dtype_is_float(t)) {
        if (t == DT_F32) return graph_const_f32(c->g, (float)v);
        uint64_t bits = float_to_bits(t, v);
        return emit_const(c, type_scalar(t), &bits, dtype_size(t));
    }
    uint8_t bytes[8];
    int64_t whole = v >= 9.2e18 ? INT64_MAX : v <= -9.2e18 ? INT64_MIN : v == v ? (int64_t)v : 0;
    whole_bytes(t, whole, bytes);
    return emit_const(c, type_scalar(t), bytes, dtype_size(t));
}

ValId emit_iota(Call *c, DType t, Dim n) {
    Type type = type_make(t, 1, &n);
    return emit(c, OP_IOTA, NULL, 0, NULL, &type);
}

ValId emit_dim(Call *c, DType t, Dim v) {
    Type type = type_scalar(t);
    Attr a = attr_default();
    a.value = v;
    return emit(c, OP_DIM, NULL, 0, &a, &type);
}
