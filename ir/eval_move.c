/* eval_move.c: ops that move elements and compute nothing, byte for byte. */
#include <string.h>

#include "ir/eval.h"

static void copy_strided(char *dst, const char *src, size_t size, int64_t stride, int64_t n) {
    if (stride == 1) {
        memcpy(dst, src, (size_t)n * size);
        return;
    }
    int64_t step = stride * (int64_t)size;
    switch (size) {
    case 1:
        for (int64_t i = 0; i < n; i++) memcpy(dst + i, src + i * step, 1);
        break;
    case 2:
        for (int64_t i = 0; i < n; i++) memcpy(dst + i * 2, src + i * step, 2);
        break;
    case 4:
        for (int64_t i = 0; i < n; i++) memcpy(dst + i * 4, src + i * step, 4);
        break;
    default:
        for (int64_t i = 0; i < n; i++) memcpy(dst + i * 8, src + i * step, 8);
        break;
    }
}

/* out[i, j, …] = x[offset + i * stride[0] + j * stride[1] + …], offset and strides in elements. */
static void copy_view(Tensor *out, const Tensor *x, int64_t offset, const int64_t *stride) {
    Walk w = {0};
    memcpy(w.dim, out->dim, out->rank * sizeof(out->dim[0]));
    tensor_strides(out, w.stride[0]);
    memcpy(w.stride[1], stride, out->rank * sizeof(stride[0]));
    w.at[1] = offset;
    walk_init(&w, out->rank, 2);
    size_t size = dtype_size(out->dtype);
    while (walk_next(&w)) {
        copy_strided((char *)out->data + w.at[0] * (int64_t)size,
                     (const char *)x->data + w.at[1] * (int64_t)size, size, w.step[1], w.n);
    }
}

/* Writes x into out with x's element 0 at `offset`; both row-major, same rank. */
static void place_view(Tensor *out, const Tensor *x, int64_t offset) {
    Walk w = {0};
    memcpy(w.dim, x->dim, x->rank * sizeof(x->dim[0]));
    tensor_strides(out, w.stride[0]);
    tensor_strides(x, w.stride[1]);
    w.at[0] = offset;
    walk_init(&w, x->rank, 2);
    size_t size = dtype_size(out->dtype);
    while (walk_next(&w)) {
        char *to = (char *)out->data + w.at[0] * (int64_t)size;
        const char *from = (const char *)x->data + w.at[1] * (int64_t)size;
        int64_t to_step = w.step[0] * (int64_t)size;
        if (w.step[0] == 1)
            memcpy(to, from, (size_t)w.n * size);
        else
            for (int64_t i = 0; i < w.n; i++) memcpy(to + i * to_step, from + i * (int64_t)size, size);
    }
}

static void copy_all(Tensor *out, const Tensor *x) {
    size_t bytes = tensor_count(out) * dtype_size(out->dtype);
    if (bytes != 0) memcpy(out->data, x->data, bytes);
}

bool eval_reshape(EvalCtx *e) {
    if (tensor_count(e->in[0]) != tensor_count(&e->out[0]))
        return eval_error(e, "%zu elements do not fill %zu", tensor_count(e->in[0]),
                          tensor_count(&e->out[0]));
    copy_all(&e->out[0], e->in[0]);
    return true;
}

bool eval_transpose(EvalCtx *e) {
    int64_t own[MAX_RANK], stride[MAX_RANK];
    tensor_strides(e->in[0], own);
    for (uint32_t i = 0; i < e->in[0]->rank; i++) stride[i] = own[e->n->attr.perm[i]];
    copy_view(&e->out[0], e->in[0], 0, stride);
    return true;
}

bool eval_broadcast(EvalCtx *e) {
    int64_t stride[MAX_RANK];
    tensor_broadcast_strides(e->in[0], e->out[0].rank, stride);
    copy_view(&e->out[0], e->in[0], 0, stride);
    return true;
}

bool eval_slice(EvalCtx *e) {
    const Tensor *x = e->in[0];
    Tensor *out = &e->out[0];
    int64_t stride[MAX_RANK], offset = 0;
    tensor_strides(x, stride);
    if (tensor_count(out) == 0) return true;
    for (uint32_t i = 0; i < x->rank; i++) {
        int64_t start = 0, step = e->n->attr.steps[i], last = 0;
        if (!eval_dim_value(e, e->n->attr.starts[i], &start)) return false;
        bool ok = mul_i64(out->dim[i] - 1, step, &last) && add_i64(last, start, &last);
        if (!ok || start < 0 || start >= x->dim[i] || last < 0 || last >= x->dim[i])
            return eval_error(e, "%lld elements from %lld on by %lld are outside axis %u of length %lld",
                              (long long)out->dim[i], (long long)start, (long long)step, i,
                              (long long)x->dim[i]);
        offset += start * stride[i];
        /* The step of a single element is never taken, and may be anything. */
        stride[i] = out->dim[i] == 1 ? 0 : stride[i] * step;
    }
    copy_view(out, x, offset, stride);
    return true;
}

bool eval_concat(EvalCtx *e) {
    Tensor *out = &e->out[0];
    uint32_t axis = (uint32_t)e->n->attr.axis;
    int64_t offset = 0, row = tensor_span(out, axis + 1, out->rank);
    for (uint32_t i = 0; i < e->n->nin; i++) {
        place_view(out, e->in[i], offset);
        offset += e->in[i]->dim[axis] * row;
    }
    return true;
}

bool eval_pad(EvalCtx *e) {
    const Tensor *x = e->in[0];
    Tensor *out = &e->out[0];
    int64_t stride[MAX_RANK], zero[MAX_RANK] = {0}, offset = 0;
    tensor_strides(out, stride);
    for (uint32_t i = 0; i < x->rank; i++) {
        int64_t start = 0, end = 0;
        if (!eval_dim_value(e, e->n->attr.starts[i], &start)) return false;
        if (start < 0 || !add_i64(start, x->dim[i], &end) || end > out->dim[i])
            return eval_error(e, "axis %u: length %lld at %lld does not fit into %lld", i,
                              (long long)x->dim[i], (long long)start, (long long)out->dim[i]);
        offset += start * stride[i];
    }
    copy_view(out, e->in[1], 0, zero);
    place_view(out, x, offset);
    return true;
}

/* ---- by index ---- */

/* Index i of idx, counted from the end when negative. */
static bool read_index(EvalCtx *e, const Tensor *idx, int64_t i, int64_t length, int64_t *out) {
    int64_t v = 0;
    tensor_load_i64(idx, i, 1, 1, &v);
    bool huge = idx->dtype == DT_U64 && v < 0;
    if (huge || v < -length || v >= length)
        return eval_error(e, "index %lld is outside an axis of length %lld", (long long)v, (long long)length);
    *out = v < 0 ? v + length : v;
    return true;
}

bool eval_gather(EvalCtx *e) {
    const Tensor *x = e->in[0], *idx = e->in[1];
    Lines l = tensor_lines(x, e->n->attr.axis);
    int64_t count = (int64_t)tensor_count(idx);
    size_t row = (size_t)l.inner * dtype_size(x->dtype);
    char *to = e->out[0].data;
    if (tensor_count(&e->out[0]) == 0) return true;
    for (int64_t o = 0; o < l.outer; o++) {
        for (int64_t i = 0; i < count; i++, to += row) {
            int64_t k = 0;
            if (!read_index(e, idx, i, l.len, &k)) return false;
            memcpy(to, (const char *)x->data + (size_t)(o * l.len + k) * row, row);
        }
    }
    return true;
}

/* Offset in x (elements) that the tuple at idx[at…] names, for axes from `first` on. */
static bool tuple_offset(EvalCtx *e, const Tensor *x, const Tensor *idx, int64_t at, uint32_t first,
                         int64_t *out) {
    uint32_t len = (uint32_t)idx->dim[idx->rank - 1];
    int64_t stride[MAX_RANK];
    tensor_strides(x, stride);
    *out = 0;
    for (uint32_t j = 0; j < len; j++) {
        int64_t k = 0;
        if (!read_index(e, idx, at + j, x->dim[first + j], &k)) return false;
        *out += k * stride[first + j];
    }
    return true;
}

bool eval_gather_nd(EvalCtx *e) {
    const Tensor *x = e->in[0], *idx = e->in[1];
    uint32_t b = (uint32_t)e->n->attr.batch_dims, len = (uint32_t)idx->dim[idx->rank - 1];
    int64_t batches = tensor_span(x, 0, b), per_batch = tensor_span(x, b, x->rank);
    int64_t tuples = tensor_span(idx, b, idx->rank - 1);
    size_t size = dtype_size(x->dtype), bytes = (size_t)tensor_span(x, b + len, x->rank) * size;
    char *to = e->out[0].data;
    if (tensor_count(&e->out[0]) == 0) return true;
    for (int64_t i = 0; i < batches; i++) {
        for (int64_t t = 0; t < tuples; t++, to += bytes) {
            int64_t at = 0;
            if (!tuple_offset(e, x, idx, (i * tuples + t) * len, b, &at)) return false;
            memcpy(to, (const char *)x->data + (size_t)(i * per_batch + at) * size, bytes);
        }
    }
    return true;
}

static bool beside_axis_fits(EvalCtx *e, const Tensor *x, const Tensor *idx) {
    for (uint32_t i = 0; i < x->rank; i++) {
        if ((int64_t)i != e->n->attr.axis && idx->dim[i] > x->dim[i])
            return eval_error(e, "indices are longer than the operand on axis %u", i);
    }
    return true;
}

/* Offsets in x that the elements of idx name, in order; the coordinates beside the axis are idx's
 * own. */
static bool element_offsets(EvalCtx *e, const Tensor *x, const Tensor *idx, int64_t *offset) {
    int64_t stride[MAX_RANK], at[MAX_RANK] = {0};
    uint32_t axis = (uint32_t)e->n->attr.axis;
    int64_t count = (int64_t)tensor_count(idx);
    tensor_strides(x, stride);
    if (!beside_axis_fits(e, x, idx)) return false;
    for (int64_t i = 0; i < count; i++) {
        int64_t k = 0;
        if (!read_index(e, idx, i, x->dim[axis], &k)) return false;
        offset[i] = k * stride[axis];
        for (uint32_t j = 0; j < x->rank; j++) {
            if (j != axis) offset[i] += at[j] * stride[j];
        }
        for (uint32_t j = idx->rank; j-- > 0;) {
            if (++at[j] < idx->dim[j]) break;
            at[j] = 0;
        }
    }
    return true;
}

bool eval_gather_elements(EvalCtx *e) {
    const Tensor *x = e->in[0];
    size_t count = tensor_count(e->in[1]), size = dtype_size(x->dtype);
    int64_t *offset = arena_array_of(e->scratch, count, int64_t);
    if (!element_offsets(e, x, e->in[1], offset)) return false;
    for (size_t i = 0; i < count; i++) {
        memcpy((char *)e->out[0].data + i * size, (const char *)x->data + (size_t)offset[i] * size, size);
    }
    return true;
}

static double reduce_f64(int64_t how, double old, double v) {
    switch (how) {
    case 1: return old + v;
    case 2: return old * v;
    case 3: return old > v || old != old ? old : v;
    case 4: return old < v || old != old ? old : v;
    default: return v;
    }
}

static int64_t reduce_i64(int64_t how, bool uns, int64_t old, int64_t v) {
    bool less = uns ? (uint64_t)old < (uint64_t)v : old < v;
    switch (how) {
    case 1: return (int64_t)((uint64_t)old + (uint64_t)v);
    case 2: return (int64_t)((uint64_t)old * (uint64_t)v);
    case 3: return less ? v : old;
    case 4: return less ? old : v;
    default: return v;
    }
}

/* Writes `n` elements of updates from `from` on at `to` of the result. */
static void scatter_run(EvalCtx *e, int64_t to, int64_t from, int64_t n) {
    Tensor *out = &e->out[0];
    const Tensor *upd = e->in[2];
    int64_t how = e->n->attr.reduce;
    size_t size = dtype_size(out->dtype);
    if (how == 0) {
        memcpy((char *)out->data + (size_t)to * size, (const char *)upd->data + (size_t)from * size,
               (size_t)n * size);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        if (dtype_is_float(out->dtype)) {
            double old = 0, v = 0;
            tensor_load_f64(out, to + i, 1, 1, &old);
            tensor_load_f64(upd, from + i, 1, 1, &v);
            v = reduce_f64(how, old, v);
            tensor_store_f64(out, to + i, 1, &v);
        } else {
            int64_t old = 0, v = 0;
            tensor_load_i64(out, to + i, 1, 1, &old);
            tensor_load_i64(upd, from + i, 1, 1, &v);
            v = reduce_i64(how, dtype_class(out->dtype) == DC_UINT, old, v);
            tensor_store_i64(out, to + i, 1, &v);
        }
    }
}

bool eval_scatter_nd(EvalCtx *e) {
    const Tensor *x = e->in[0], *idx = e->in[1];
    uint32_t len = (uint32_t)idx->dim[idx->rank - 1];
    int64_t tuples = tensor_span(idx, 0, idx->rank - 1), n = tensor_span(x, len, x->rank);
    copy_all(&e->out[0], x);
    if (n == 0) return true;
    for (int64_t t = 0; t < tuples; t++) {
        int64_t at = 0;
        if (!tuple_offset(e, x, idx, t * len, 0, &at)) return false;
        scatter_run(e, at, t * n, n);
    }
    return true;
}

bool eval_scatter_elements(EvalCtx *e) {
    size_t count = tensor_count(e->in[1]);
    int64_t *offset = arena_array_of(e->scratch, count, int64_t);
    copy_all(&e->out[0], e->in[0]);
    if (!element_offsets(e, e->in[0], e->in[1], offset)) return false;
    for (size_t i = 0; i < count; i++) scatter_run(e, offset[i], (int64_t)i, 1);
    return true;
}

/* tril keeps columns <= row + diagonal, triu columns >= row + diagonal. */
bool eval_tril(EvalCtx *e) {
    Tensor *out = &e->out[0];
    int64_t rows = out->dim[out->rank - 2], cols = out->dim[out->rank - 1];
    int64_t matrices = tensor_span(out, 0, out->rank - 2), k = e->n->attr.diagonal;
    size_t size = dtype_size(out->dtype);
    copy_all(out, e->in[0]);
    if (tensor_count(out) == 0) return true;
    /* Beyond these bounds nothing changes, and row + k cannot overflow. */
    k = k > cols ? cols : k < -rows ? -rows : k;
    for (int64_t r = 0; r < matrices * rows; r++) {
        int64_t edge = r % rows + k;
        bool lower = e->n->op == OP_TRIL;
        int64_t from = lower ? edge + 1 : 0, to = lower ? cols : edge;
        from = from < 0 ? 0 : from;
        to = to > cols ? cols : to;
        if (from < to)
            memset((char *)out->data + (size_t)(r * cols + from) * size, 0, (size_t)(to - from) * size);
    }
    return true;
}
