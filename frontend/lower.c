/* lower.c: what the functions of onnx_ops*.c work with: inputs as data or as shape values,
 * attributes, outputs, and adding IR nodes.
 *
 * emit() is the one place where nodes are made. It first lines operands up (numbers of a fixed-shape
 * export against symbols, free symbols against what they must equal), then folds what depends on
 * constants alone when the result is small. */
#include <stdio.h>
#include <string.h>

#include "frontend/import.h"

#define FOLD_INPUT_MAX ((size_t)1 << 24)
#define WEIGHT_MIN ((size_t)4096)

bool call_error(Call *c, const char *fmt, ...) {
    Text t = text_new(c->im->scratch);
    va_list ap;
    va_start(ap, fmt);
    text_vprintf(&t, fmt, ap);
    va_end(ap);
    return diag_error(c->d, c->loc, "%s: %s", c->n->op, t.data);
}

/* ---- tensors ---- */

void dynamic_set(Import *im, ValId v, bool dynamic) {
    if (v.id >= im->ndynamic) {
        size_t n = im->ndynamic < 256 ? 1024 : im->ndynamic * 2;
        while (n <= v.id) n *= 2;
        bool *grown = arena_array_of(im->scratch, n, bool);
        if (im->ndynamic != 0) memcpy(grown, im->dynamic, im->ndynamic);
        im->dynamic = grown;
        im->ndynamic = n;
    }
    im->dynamic[v.id] = dynamic;
}

bool value_dynamic(const Import *im, ValId v) { return v.id < im->ndynamic && im->dynamic[v.id]; }

bool tensor_loaded(Import *im, uint32_t id, Loc loc) {
    Tv *t = &im->tensors.data[id];
    if (t->set) return true;
    if (t->init == NULL) return diag_error(im->d, loc, "'%s' is used before it is defined", t->name);
    TensorData x;
    if (!tensor_load(t->init, &im->src, &x, loc, im->d)) return false;
    Dim dims[MAX_RANK];
    for (size_t i = 0; i < x.rank; i++) dims[i] = dim_const(x.dim[i]);
    Type type = type_make(x.dtype, (uint32_t)x.rank, dims);
    ValId v = graph_const(im->g, type, x.data, t->name);
    if (x.path != NULL && x.bytes > 256) {
        Const *k = &im->g->consts.data[graph_val(im->g, v)->cidx];
        k->form = CF_FILE;
        k->path = arena_strdup(im->arena, x.path);
        k->offset = x.offset;
    }
    t->val = v;
    t->type = type;
    t->set = true;
    return true;
}

static void const_bytes(DType t, int64_t v, void *out) {
    int64_t i = t == DT_BOOL ? v != 0 : v;
    memcpy(out, &i, dtype_size(t));
}

static ValId shape_value_make(Call *c, const Tv *t) {
    bool constant = true;
    for (uint32_t i = 0; i < t->ndims; i++) constant &= dim_is_const(t->dims[i]);
    if (constant) {
        size_t size = dtype_size(t->type.dtype);
        uint8_t *data = arena_alloc(c->im->arena, size * t->ndims);
        for (uint32_t i = 0; i < t->ndims; i++) const_bytes(t->type.dtype, t->dims[i].v, data + i * size);
        return graph_const(c->g, t->type, data, NULL);
    }
    ValId parts[SHAPE_MAX];
    Dim one = dim_const(1);
    for (uint32_t i = 0; i < t->ndims; i++) {
        parts[i] = emit_dim(c, t->type.dtype, t->dims[i]);
        if (t->type.rank == 1) parts[i] = emit_reshape(c, parts[i], 1, &one);
    }
    return t->type.rank == 0 ? parts[0] : emit_concat(c, parts, t->ndims, 0);
}

ValId tensor_value(Import *im, uint32_t id, Loc loc) {
    if (!tensor_loaded(im, id, loc)) return NO_VAL;
    Tv *t = &im->tensors.data[id];
    if (t->sequence) {
        diag_error(im->d, loc, "'%s' is a sequence of tensors where a tensor is needed", t->name);
        return NO_VAL;
    }
    if (!val_ok(t->val) && t->dims != NULL) {
        INode none = {.op = "Shape", .domain = "", .name = t->name};
        Call c = {im, im->g, im->d, &none, loc, 0, 0};
        ValId v = shape_value_make(&c, t);
        im->tensors.data[id].val = v;
        return v;
    }
    return t->val;
}

/* ---- inputs ---- */

bool in_has(const Call *c, size_t i) { return i < c->n->nin && c->n->in[i] != 0; }

Tv *in_tv(const Call *c, size_t i) { return &c->im->tensors.data[c->n->in[i]]; }

const Type *in_type(const Call *c, size_t i) { return &in_tv(c, i)->type; }

ValId in_val(Call *c, size_t i) {
    if (!in_has(c, i)) {
        call_error(c, "input %zu is missing", i);
        return NO_VAL;
    }
    return tensor_value(c->im, c->n->in[i], c->loc);
}

const Dim *in_dims(Call *c, size_t i, uint32_t *n) {
    Tv *t = in_tv(c, i);
    const Type *filled = &t->type;
    if (t->dims == NULL && t->filled &&
        (filled->rank == 0 || (filled->rank == 1 && dim_eq(filled->dim[0], dim_const(1))))) {
        t->dims = arena_dup(c->im->scratch, &t->fill, sizeof(t->fill));
        t->ndims = 1;
    }
    if (t->dims == NULL) {
        const Type *type = &t->type;
        if (!val_ok(t->val) || graph_constant(c->g, t->val) == NULL || type->rank > 1) return NULL;
        if (!dtype_is_int(type->dtype) && type->dtype != DT_BOOL) return NULL;
        int64_t count = type->rank == 0 ? 1 : type->dim[0].v;
        if (count > SHAPE_MAX) return NULL;
        Dim *dims = arena_array_of(c->im->scratch, (size_t)count, Dim);
        for (int64_t k = 0; k < count; k++) {
            int64_t v = 0;
            if (!const_get_i64(c->g, t->val, (size_t)k, &v)) return NULL;
            dims[k] = dim_const(v);
        }
        t->dims = dims;
        t->ndims = (uint32_t)count;
    }
    *n = t->ndims;
    return t->dims;
}

bool in_ints(Call *c, size_t i, const char *what, const int64_t **out, size_t *n) {
    uint32_t count = 0;
    const Dim *d = in_has(c, i) ? in_dims(c, i, &count) : NULL;
    if (d == NULL) return call_error(c, "%s must be known when compiling", what);
    int64_t *v = arena_array_of(c->im->scratch, count, int64_t);
    for (uint32_t k = 0; k < count; k++) {
        if (!dim_is_const(d[k])) return call_error(c, "%s must be constant", what);
        v[k] = d[k].v;
    }
    *out = v;
    *n = count;
    return true;
}

bool in_int(Call *c, size_t i, const char *what, int64_t *out) {
    const int64_t *v = NULL;
    size_t n = 0;
    if (!in_ints(c, i, what, &v, &n)) return false;
    if (n != 1) return call_error(c, "%s must be one number", what);
    *out = v[0];
    return true;
}

/* ---- outputs ---- */

bool out_used(const Call *c, size_t o) { return o < c->n->nout && c->n->out[o] != 0; }

bool out_val(Call *c, size_t o, ValId v) {
    if (!val_ok(v)) return false;
    if (!out_used(c, o)) return true;
    Tv *t = &c->im->tensors.data[c->n->out[o]];
    t->set = true;
    t->val = v;
    t->type = *graph_type(c->g, v);
    return true;
}

bool out_dims(Call *c, size_t o, DType type, uint32_t rank, const Dim *dims, uint32_t n) {
    if (!out_used(c, o)) return true;
    Tv *t = &c->im->tensors.data[c->n->out[o]];
    Dim count = dim_const(n);
    t->set = true;
    t->type = type_make(type, rank, &count);
    t->dims = arena_dup(c->im->scratch, dims, n * sizeof(Dim));
    t->ndims = n;
    return true;
}

bool out_tensor(Call *c, size_t o, uint32_t tensor) {
    if (!out_used(c, o)) return true;
    Tv *t = &c->im->tensors.data[c->n->out[o]];
    const char *name = t->name;
    *t = c->im->tensors.data[tensor];
    t->name = name;
    return true;
}

bool out_same(Call *c, size_t o, size_t i) {
    return in_has(c, i) ? out_tensor(c, o, c->n->in[i]) : call_error(c, "input %zu is missing", i);
}

/* ---- attributes ---- */

const OAttr *attr_find(const Call *c, const char *name) {
    for (size_t i = 0; i < c->n->nattrs; i++)
        if (strcmp(c->n->attrs[i].name, name) == 0) return &c->n->attrs[i];
    return NULL;
}

int64_t attr_int(const Call *c, const char *name, int64_t def) {
    const OAttr *a = attr_find(c, name);
    return a != NULL && a->kind == OA_INT ? a->i : def;
}

float attr_float(const Call *c, const char *name, float def) {
    const OAttr *a = attr_find(c, name);
    return a != NULL && a->kind == OA_FLOAT ? a->f : def;
}

const char *attr_string(const Call *c, const char *name, const char *def) {
    const OAttr *a = attr_find(c, name);
    return a != NULL && a->kind == OA_STRING ? a->s : def;
}

const int64_t *attr_ints(const Call *c, const char *name, size_t *n) {
    const OAttr *a = attr_find(c, name);
    *n = 0;
    if (a == NULL || a->kind != OA_INTS) return NULL;
    *n = a->n;
    static const int64_t none = 0;
    return a->n == 0 ? &none : a->ints;
}

bool axis_norm(Call *c, int64_t axis, size_t rank, uint32_t *out) {
    int64_t r = (int64_t)rank, a = axis < 0 ? axis + r : axis;
    if (a < 0 || a >= r) return call_error(c, "axis %lld is outside rank %zu", (long long)axis, rank);
    *out = (uint32_t)a;
    return true;
}

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
    const_bytes(t, whole, bytes);
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
