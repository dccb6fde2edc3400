/* nd_move.c: ops that move elements and compute nothing: all are strided copies. */
#include "runtime/nd.h"

#include <string.h>

/* A run of n elements. */
static void copy_run(size_t size, int64_t n, uint8_t *to, int64_t to_step, const uint8_t *from,
                     int64_t from_step) {
#define COPY(T)                                                                                              \
    for (int64_t i = 0; i < n; i++)                                                                          \
        ((T *)(void *)to)[i * to_step] = ((const T *)(const void *)from)[i * from_step];                     \
    break
    if (to_step == 1 && from_step == 1) {
        memcpy(to, from, (size_t)n * size);
        return;
    }
    switch (size) {
    case 1: COPY(uint8_t);
    case 2: COPY(uint16_t);
    case 4: COPY(uint32_t);
    default: COPY(uint64_t);
    }
#undef COPY
}

typedef struct {
    size_t size;
    uint8_t *dst;
    const uint8_t *src;
    NdCursor to, from; /* over the same index space, joined each for itself */
} Copy;

static void copy_range(const NdCall *c, void *job, int64_t begin, int64_t end, uint32_t worker) {
    Copy m = *(const Copy *)job;
    int64_t size = (int64_t)m.size;
    (void)c, (void)worker;
    nd_seek(&m.to, begin);
    nd_seek(&m.from, begin);
    for (int64_t at = begin; at < end;) {
        int64_t n = end - at, a = nd_run_length(&m.to), b = nd_run_length(&m.from);
        n = a < n ? a : n;
        n = b < n ? b : n;
        copy_run(m.size, n, m.dst + m.to.at * size, nd_run_stride(&m.to), m.src + m.from.at * size,
                 nd_run_stride(&m.from));
        nd_advance(&m.to, n);
        nd_advance(&m.from, n);
        at += n;
    }
}

void nd_move(const NdCall *c, const NdMove *m) {
    int64_t count = 1;
    for (uint32_t i = 0; i < m->rank; i++) count *= m->dim[i];
    if (count == 0) return;
    Copy job = {m->size, m->dst, m->src, nd_cursor(m->rank, m->dim, m->to, 0),
                nd_cursor(m->rank, m->dim, m->from, 0)};
    nd_share(c, count, 1, copy_range, &job);
}

static uint8_t *element(const NdTensor *t, int64_t at) { return t->data + at * (int64_t)nd_size(t->dtype); }

/* Fills the result from x, read by strides from element `at` on. */
static gptc_status view(const NdCall *c, const NdTensor *x, int64_t at, const int64_t *stride) {
    const NdTensor *to = c->out[0];
    NdMove m = {.rank = to->rank, .size = nd_size(to->dtype), .dst = to->data};
    if (to->count == 0) return GPTC_OK;
    m.src = element(x, at);
    memcpy(m.dim, to->dim, sizeof m.dim);
    memcpy(m.from, stride, to->rank * sizeof *stride);
    nd_strides(to, m.to);
    nd_move(c, &m);
    return GPTC_OK;
}

/* Writes x into the result from element `at` on; equal ranks. */
static void place(const NdCall *c, const NdTensor *x, int64_t at) {
    const NdTensor *to = c->out[0];
    NdMove m = {.rank = x->rank, .size = nd_size(x->dtype), .src = x->data};
    if (x->count == 0) return;
    m.dst = element(to, at);
    memcpy(m.dim, x->dim, sizeof m.dim);
    nd_strides(x, m.from);
    nd_strides(to, m.to);
    nd_move(c, &m);
}

gptc_status nd_copy_all(const NdCall *c) {
    int64_t stride[ART_MAX_RANK];
    nd_strides(c->out[0], stride);
    return view(c, c->in[0], 0, stride);
}

gptc_status nd_transpose(const NdCall *c) {
    int64_t own[ART_MAX_RANK], stride[ART_MAX_RANK];
    nd_strides(c->in[0], own);
    for (uint32_t i = 0; i < c->out[0]->rank; i++) stride[i] = own[c->node->perm[i]];
    return view(c, c->in[0], 0, stride);
}

gptc_status nd_broadcast(const NdCall *c) {
    int64_t stride[ART_MAX_RANK];
    nd_broadcast_strides(c->in[0], c->out[0]->rank, stride);
    return view(c, c->in[0], 0, stride);
}

gptc_status nd_slice(const NdCall *c) {
    const NdTensor *to = c->out[0];
    int64_t stride[ART_MAX_RANK], at = 0;
    nd_strides(c->in[0], stride);
    for (uint32_t i = 0; i < to->rank && to->count > 0; i++) {
        at += c->start[i] * stride[i];
        /* of a single element the step is never taken, and may be anything */
        stride[i] = to->dim[i] == 1 ? 0 : stride[i] * c->node->step[i];
    }
    return view(c, c->in[0], at, stride);
}

gptc_status nd_concat(const NdCall *c) {
    uint32_t axis = c->node->axis;
    int64_t at = 0, row = nd_span(c->out[0], axis + 1, c->out[0]->rank);
    for (uint32_t i = 0; i < c->n_in; i++) {
        place(c, c->in[i], at);
        at += c->in[i]->dim[axis] * row;
    }
    return GPTC_OK;
}

gptc_status nd_pad(const NdCall *c) {
    const int64_t zero[ART_MAX_RANK] = {0};
    int64_t stride[ART_MAX_RANK], at = 0;
    view(c, c->in[1], 0, zero);
    nd_strides(c->out[0], stride);
    for (uint32_t i = 0; i < c->out[0]->rank; i++) at += c->start[i] * stride[i];
    place(c, c->in[0], at);
    return GPTC_OK;
}

/* tril keeps columns up to row + diagonal, triu those from row + diagonal on. */
gptc_status nd_tril(const NdCall *c) {
    const NdTensor *to = c->out[0];
    bool lower = c->node->op == ART_FN_TRIL;
    nd_copy_all(c);
    if (to->count == 0) return GPTC_OK;
    int64_t rows = to->dim[to->rank - 2], cols = to->dim[to->rank - 1], lines = to->count / cols;
    for (int64_t r = 0; r < lines; r++) {
        int64_t edge = r % rows + c->node->diagonal;
        int64_t from = lower ? edge + 1 : 0, end = lower ? cols : edge;
        if (from < 0) from = 0;
        if (end > cols) end = cols;
        if (from < end) memset(element(to, r * cols + from), 0, (size_t)(end - from) * nd_size(to->dtype));
    }
    return GPTC_OK;
}
