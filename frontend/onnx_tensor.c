/* onnx_tensor.c: elements of a TensorProto: raw in the model, raw in an external file, or typed
 * fields; and TensorProto files (tokens.pb, logits.pb) in and out. Weights are borrowed from the
 * mapped files; only typed fields and small unaligned tensors are copied. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/import.h"

#define ALIGN_COPY_MAX ((size_t)64 << 10)

static bool tensor_error(const OTensor *t, Loc loc, Diag *d, const char *what) {
    return diag_error(d, loc, "tensor '%s': %s", t->name, what);
}

static bool tensor_shape(const OTensor *t, TensorData *out, Loc loc, Diag *d) {
    out->dtype = dtype_from_onnx(t->type);
    if (out->dtype == DT_NONE)
        return diag_error(d, loc, "tensor '%s': element type %d is not supported", t->name, t->type);
    if (t->rank > MAX_RANK)
        return diag_error(d, loc, "tensor '%s': rank %zu is above the limit of %d", t->name, t->rank,
                          MAX_RANK);
    out->rank = t->rank;
    out->count = 1;
    for (size_t i = 0; i < t->rank; i++) {
        if (t->dim[i] < 0)
            return diag_error(d, loc, "tensor '%s': axis %zu has negative length %lld", t->name, i,
                              (long long)t->dim[i]);
        if (t->dim[i] > DIM_MAX || !mul_size(out->count, (size_t)t->dim[i], &out->count))
            return tensor_error(t, loc, d, "more elements than memory can address");
        out->dim[i] = t->dim[i];
    }
    uint32_t bits = dtype_bits(out->dtype);
    if (bits < 8)
        out->bytes = out->count / (8 / bits) + (out->count % (8 / bits) != 0);
    else if (!mul_size(out->count, dtype_size(out->dtype), &out->bytes))
        return tensor_error(t, loc, d, "more bytes than memory can address");
    return true;
}

static bool parse_number(const char *s, uint64_t *out) {
    if (s[0] < '0' || s[0] > '9') return false;
    char *end = NULL;
    errno = 0;
    unsigned long long v = strtoull(s, &end, 10);
    *out = v;
    return errno == 0 && *end == '\0';
}

static const FileView *external_file(const OTensor *t, const TensorSource *src, Loc loc, Diag *d) {
    OnnxModel *m = src->model;
    if (src->dir == NULL || m == NULL) {
        diag_error(d, loc, "tensor '%s': external data is not allowed here", t->name);
        return NULL;
    }
    if (t->location == NULL || t->location[0] == '\0') {
        diag_error(d, loc, "tensor '%s': external data without a location", t->name);
        return NULL;
    }
    const char *path = NULL;
    if (!file_inside(src->dir, t->location, src->arena, &path, d)) {
        diag_error(d, loc, "tensor '%s': external data '%s' is not a file beside the model", t->name,
                   t->location);
        return NULL;
    }
    for (size_t i = 0; i < m->external.count; i++)
        if (strcmp(m->external.data[i].path, path) == 0) return &m->external.data[i];
    FileView f;
    if (!file_map(path, &f, d)) return NULL;
    VEC_PUSH(src->arena, &m->external, f);
    return &m->external.data[m->external.count - 1];
}

static bool load_external(const OTensor *t, const TensorSource *src, TensorData *out, Loc loc, Diag *d) {
    uint64_t offset = 0, length = out->bytes;
    if ((t->offset_text != NULL && !parse_number(t->offset_text, &offset)) ||
        (t->length_text != NULL && !parse_number(t->length_text, &length)))
        return tensor_error(t, loc, d, "external offset or length is not a number");
    if (length != out->bytes)
        return diag_error(d, loc, "tensor '%s': needs %zu bytes, external data declares %llu", t->name,
                          out->bytes, (unsigned long long)length);
    const FileView *f = external_file(t, src, loc, d);
    if (f == NULL) return false;
    if (offset > f->bytes || length > f->bytes - offset)
        return diag_error(d, loc, "tensor '%s': bytes %llu to %llu lie outside '%s' (%zu bytes)", t->name,
                          (unsigned long long)offset, (unsigned long long)(offset + length), t->location,
                          f->bytes);
    out->data = f->data + offset;
    out->path = arena_strdup(src->arena, t->location);
    out->offset = offset;
    return true;
}

static bool typed_count(const OTensor *t, const TensorData *out, size_t have, Loc loc, Diag *d) {
    if (have == out->count) return true;
    return diag_error(d, loc, "tensor '%s': needs %zu elements, holds %zu", t->name, out->count, have);
}

static bool load_typed(const OTensor *t, const TensorSource *src, TensorData *out, Loc loc, Diag *d) {
    size_t n = out->count;
    const void *from = NULL;
    switch (out->dtype) {
    case DT_F32:
        if (!typed_count(t, out, t->nfloats, loc, d)) return false;
        from = t->floats;
        break;
    case DT_F64:
        if (!typed_count(t, out, t->ndoubles, loc, d)) return false;
        from = t->doubles;
        break;
    case DT_I64:
        if (!typed_count(t, out, t->nint64s, loc, d)) return false;
        from = t->int64s;
        break;
    case DT_U64:
        if (!typed_count(t, out, t->nuint64s, loc, d)) return false;
        from = t->uint64s;
        break;
    case DT_U32: {
        if (!typed_count(t, out, t->nuint64s, loc, d)) return false;
        uint32_t *p = arena_array_of(src->arena, n, uint32_t);
        for (size_t i = 0; i < n; i++) p[i] = (uint32_t)t->uint64s[i];
        out->data = p;
        return true;
    }
    default: {
        /* Below 8 bits an entry holds a packed byte. */
        size_t have = dtype_bits(out->dtype) < 8 ? out->bytes : out->count;
        if (t->nint32s != have)
            return diag_error(d, loc, "tensor '%s': needs %zu elements, holds %zu", t->name, have,
                              t->nint32s);
        n = have;
        size_t size = dtype_size(out->dtype);
        uint8_t *p = arena_alloc(src->arena, out->bytes);
        for (size_t i = 0; i < n; i++) {
            int32_t v = out->dtype == DT_BOOL ? t->int32s[i] != 0 : t->int32s[i];
            memcpy(p + i * size, &v, size);
        }
        out->data = p;
        return true;
    }
    }
    out->data = n == 0 ? "" : arena_dup(src->arena, from, out->bytes);
    return true;
}

/* Bytes of bool that are not 0 or 1 would be undefined later. */
static void fix_bools(const TensorSource *src, TensorData *out) {
    const uint8_t *p = out->data;
    size_t i = 0;
    while (i < out->count && p[i] <= 1) i++;
    if (i == out->count) return;
    uint8_t *q = arena_dup(src->arena, p, out->bytes);
    for (; i < out->count; i++) q[i] = q[i] != 0;
    out->data = q;
    out->path = NULL;
}

bool tensor_load(const OTensor *t, const TensorSource *src, TensorData *out, Loc loc, Diag *d) {
    *out = (TensorData){0};
    if (!tensor_shape(t, out, loc, d)) return false;
    if (t->external) {
        if (!load_external(t, src, out, loc, d)) return false;
    } else if (t->has_raw) {
        if (t->raw_bytes != out->bytes)
            return diag_error(d, loc, "tensor '%s': needs %zu bytes, holds %llu", t->name, out->bytes,
                              (unsigned long long)t->raw_bytes);
        out->data = src->data + t->raw_offset;
        out->path = src->name;
        out->offset = t->raw_offset;
    } else if (!load_typed(t, src, out, loc, d)) {
        return false;
    }
    if (out->dtype == DT_BOOL) fix_bools(src, out);
    if (out->bytes <= ALIGN_COPY_MAX && (uintptr_t)out->data % dtype_size(out->dtype) != 0)
        out->data = arena_dup(src->arena, out->data, out->bytes);
    return true;
}

bool onnx_tensor_read(const char *path, Arena *a, Tensor *out, Diag *d) {
    FileView f;
    if (!file_map(path, &f, d)) return false;
    Arena *scratch = arena_new();
    OTensor t;
    TensorData x;
    TensorSource src = {f.data, f.bytes, NULL, NULL, a, NULL};
    bool ok =
        onnx_view_tensor(f.data, f.bytes, scratch, &t, d) && tensor_load(&t, &src, &x, loc_file(path), d);
    if (ok) {
        bool packed = dtype_bits(x.dtype) < 8;
        *out = (Tensor){.dtype = x.dtype, .rank = (uint8_t)x.rank};
        out->data = packed ? arena_alloc(a, x.count) : arena_dup(a, x.data, x.bytes);
        if (packed) const_unpack(x.dtype, x.data, 0, x.count, out->data);
        memcpy(out->dim, x.dim, sizeof(x.dim));
    }
    arena_free(scratch);
    file_unmap(&f);
    return ok;
}

static size_t encode_varint(uint8_t *out, uint64_t v) {
    size_t n = 0;
    for (; v >= 0x80; v >>= 7) out[n++] = (uint8_t)(v | 0x80);
    out[n++] = (uint8_t)v;
    return n;
}

static int onnx_type_number(DType t) {
    for (int i = 1; i < 32; i++)
        if (dtype_from_onnx(i) == t) return i;
    return 0;
}

/* Elements as a file holds them: below 8 bits packed, in an array of their own. */
static void *stored_elements(const Tensor *t, size_t *bytes, Arena *a) {
    size_t count = tensor_count(t);
    *bytes = count * dtype_size(t->dtype);
    if (dtype_bits(t->dtype) >= 8) return t->data;
    *bytes = (count * dtype_bits(t->dtype) + 7) / 8;
    void *packed = arena_alloc(a, *bytes);
    const_pack(t->dtype, t->data, count, packed);
    return packed;
}

bool onnx_tensor_write(const char *path, const Tensor *t, const char *name, Diag *d) {
    uint8_t head[MAX_RANK * 11 + 64];
    size_t n = 0;
    for (uint32_t i = 0; i < t->rank; i++) {
        head[n++] = 1 << 3;
        n += encode_varint(head + n, (uint64_t)t->dim[i]);
    }
    head[n++] = 2 << 3;
    n += encode_varint(head + n, (uint64_t)onnx_type_number(t->dtype));
    Arena *scratch = arena_new();
    size_t bytes = 0, name_bytes = strlen(name);
    const void *data = stored_elements(t, &bytes, scratch);
    uint8_t name_head[11] = {8 << 3 | 2}, raw_head[11] = {9 << 3 | 2};
    size_t name_n = 1 + encode_varint(name_head + 1, name_bytes);
    size_t raw_n = 1 + encode_varint(raw_head + 1, bytes);
    FileWriter *w = file_create(path, d);
    if (w != NULL) { /* Failures are sticky and reported by the commit. */
        file_write(w, head, n);
        file_write(w, name_head, name_n);
        file_write(w, name, name_bytes);
        file_write(w, raw_head, raw_n);
        file_write(w, data, bytes);
    }
    arena_free(scratch);
    return w != NULL && file_commit(w, d);
}
