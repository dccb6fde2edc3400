/* nd_index.c: gather and scatter. Every index is checked before it is used; negative ones count from the end.
 * Scatters run in the order of their updates, so that the last write of an element wins. */
#include "runtime/nd.h"

#include "runtime/runtime.h"

#include <string.h>

/* Index i of idx on an axis of `length`; -1: outside, and why says so. */
static int64_t index_at(const NdCall *c, const NdTensor *idx, int64_t i, int64_t length) {
    int64_t v = nd_integer_at(idx, i);
    bool huge = idx->dtype == ART_U64 && v < 0;
    if (!huge && v >= -length && v < length) return v < 0 ? v + length : v;
    status_fail(c->why, GPTC_E_INDEX, "index %lld is outside an axis of length %lld", (long long)v,
                (long long)length);
    return -1;
}

gptc_status nd_gather(const NdCall *c) {
    const NdTensor *x = c->in[0], *idx = c->in[1];
    NdLines l = nd_lines(x, c->node->axis);
    size_t row = (size_t)l.inner * nd_size(x->dtype);
    uint8_t *to = c->out[0]->data;
    if (c->out[0]->count == 0) return GPTC_OK;
    for (int64_t i = 0; i < idx->count; i++) {
        int64_t k = index_at(c, idx, i, l.len);
        if (k < 0) return GPTC_E_INDEX;
        for (int64_t o = 0; o < l.outer; o++)
            memcpy(to + (size_t)(o * idx->count + i) * row, x->data + (size_t)(o * l.len + k) * row, row);
    }
    return GPTC_OK;
}

/* The element of x that the tuple at idx[at ...] names on axes `first`...; -1: outside. */
static int64_t tuple_at(const NdCall *c, const NdTensor *x, const NdTensor *idx, int64_t at, uint32_t first) {
    int64_t stride[ART_MAX_RANK], to = 0, len = idx->dim[idx->rank - 1];
    nd_strides(x, stride);
    for (int64_t j = 0; j < len; j++) {
        int64_t k = index_at(c, idx, at + j, x->dim[first + j]);
        if (k < 0) return -1;
        to += k * stride[first + j];
    }
    return to;
}

gptc_status nd_gather_nd(const NdCall *c) {
    const NdTensor *x = c->in[0], *idx = c->in[1];
    uint32_t b = c->node->batch_dims, len = (uint32_t)idx->dim[idx->rank - 1];
    int64_t tuples = nd_span(idx, b, idx->rank - 1), batch = nd_span(x, b, x->rank);
    size_t size = nd_size(x->dtype), row = (size_t)nd_span(x, b + len, x->rank) * size;
    if (c->out[0]->count == 0) return GPTC_OK;
    for (int64_t i = 0; i < nd_span(x, 0, b) * tuples; i++) {
        int64_t at = tuple_at(c, x, idx, i * len, b);
        if (at < 0) return GPTC_E_INDEX;
        memcpy(c->out[0]->data + (size_t)i * row, x->data + (size_t)(i / tuples * batch + at) * size, row);
    }
    return GPTC_OK;
}

/* Walks the elements of an index tensor of operand 1 and where they point in operand 0: along the axis by their
 * value, beside it by their own place. */
typedef struct {
    NdCursor beside; /* the offset from all axes but that one */
    int64_t length, stride;
} Pointers;

static Pointers pointers(const NdCall *c) {
    const NdTensor *x = c->in[0], *idx = c->in[1];
    int64_t stride[ART_MAX_RANK];
    uint32_t axis = c->node->axis;
    nd_strides(x, stride);
    Pointers p = {.length = x->dim[axis], .stride = stride[axis]};
    stride[axis] = 0;
    p.beside = nd_cursor(idx->rank, idx->dim, stride, 0);
    return p;
}

static int64_t next_pointer(const NdCall *c, Pointers *p, int64_t i) {
    int64_t k = index_at(c, c->in[1], i, p->length), to = p->beside.at;
    nd_advance(&p->beside, 1);
    return k < 0 ? -1 : to + k * p->stride;
}

gptc_status nd_gather_elements(const NdCall *c) {
    const NdTensor *x = c->in[0];
    size_t size = nd_size(x->dtype);
    Pointers p = pointers(c);
    for (int64_t i = 0; i < c->out[0]->count; i++) {
        int64_t at = next_pointer(c, &p, i);
        if (at < 0) return GPTC_E_INDEX;
        memcpy(c->out[0]->data + (size_t)i * size, x->data + (size_t)at * size, size);
    }
    return GPTC_OK;
}

enum { SET, ADD, MUL, MAX, MIN };

static double combine(uint32_t how, double old, double v) {
    switch (how) {
    case ADD: return old + v;
    case MUL: return old * v;
    case MAX: return old > v || old != old ? old : v;
    case MIN: return old < v || old != old ? old : v;
    default: return v;
    }
}

static int64_t combine_integers(uint32_t how, bool u, int64_t old, int64_t v) {
    bool rises = u ? (uint64_t)old < (uint64_t)v : old < v;
    switch (how) {
    case ADD: return (int64_t)((uint64_t)old + (uint64_t)v);
    case MUL: return (int64_t)((uint64_t)old * (uint64_t)v);
    case MAX: return rises ? v : old;
    case MIN: return rises ? old : v;
    default: return v;
    }
}

/* Updates [from, from + n) go to elements [to, to + n) of the result. */
static void scatter_run(const NdCall *c, int64_t to, int64_t from, int64_t n) {
    const NdTensor *out = c->out[0], *upd = c->in[2];
    size_t size = nd_size(out->dtype);
    uint32_t how = c->node->reduce;
    if (how == SET) {
        memcpy(out->data + (size_t)to * size, upd->data + (size_t)from * size, (size_t)n * size);
        return;
    }
    NdClass k = nd_is_float(out->dtype) ? ND_DOUBLE : ND_INT;
    bool u = nd_is_unsigned(out->dtype);
    NdTile old, v;
    for (int64_t i = 0; i < n; i += ND_TILE) {
        size_t m = n - i < ND_TILE ? (size_t)(n - i) : ND_TILE;
        nd_load(k, out->dtype, out->data, to + i, 1, m, &old);
        nd_load(k, out->dtype, upd->data, from + i, 1, m, &v);
        for (size_t j = 0; k == ND_DOUBLE && j < m; j++) old.d[j] = combine(how, old.d[j], v.d[j]);
        for (size_t j = 0; k == ND_INT && j < m; j++) old.i[j] = combine_integers(how, u, old.i[j], v.i[j]);
        nd_store(k, out->dtype, out->data, to + i, 1, m, &old);
    }
}

gptc_status nd_scatter_nd(const NdCall *c) {
    const NdTensor *x = c->in[0], *idx = c->in[1];
    uint32_t len = (uint32_t)idx->dim[idx->rank - 1];
    int64_t n = nd_span(x, len, x->rank);
    nd_copy_all(c);
    for (int64_t t = 0; n > 0 && t < nd_span(idx, 0, idx->rank - 1); t++) {
        int64_t at = tuple_at(c, x, idx, t * len, 0);
        if (at < 0) return GPTC_E_INDEX;
        scatter_run(c, at, t * n, n);
    }
    return GPTC_OK;
}

gptc_status nd_scatter_elements(const NdCall *c) {
    Pointers p = pointers(c);
    nd_copy_all(c);
    for (int64_t i = 0; i < c->in[1]->count; i++) {
        int64_t at = next_pointer(c, &p, i);
        if (at < 0) return GPTC_E_INDEX;
        scatter_run(c, at, i, 1);
    }
    return GPTC_OK;
}
