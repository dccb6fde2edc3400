/* lower.c: what the functions of onnx_ops*.c work with: inputs as data or as shape values, attributes, outputs. The nodes
 * that they add are emit.c's. */
#include <stdio.h>
#include <string.h>

#include "frontend/import.h"

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

void whole_bytes(DType t, int64_t v, void *out) {
    int64_t i = t == DT_BOOL ? v != 0 : v;
    memcpy(out, &i, dtype_size(t));
}

static ValId shape_value_make(Call *c, const Tv *t) {
    bool constant = true;
    for (uint32_t i = 0; i < t->ndims; i++) constant &= dim_is_const(t->dims[i]);
    if (constant) {
        size_t size = dtype_size(t->type.dtype);
        uint8_t *data = arena_alloc(c->im->arena, size * t->ndims);
        for (uint32_t i = 0; i < t->ndims; i++) whole_bytes(t->type.dtype, t->dims[i].v, data + i * size);
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
