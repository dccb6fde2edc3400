/* nd_product.c: matmul and linear.
 *
 * A matmul is a list of matrix products of one shape, cut into blocks of rows and columns that workers draw;
 * float blocks go to the CPU kernels. 16-bit floats are widened: a and the result in scratch, b as it is
 * packed. A linear is one CPU kernel that all workers run together. */
#include "runtime/nd.h"

#include <string.h>

enum { COLUMNS = 256 }; /* of a block */

typedef struct {
    int64_t m, n, k, pieces;
    NdCursor a, b;  /* over the batch: the matrices' numbers */
    const float *x; /* float: a and the result as f32 */
    float *y;
} Matmul;

static size_t up64(size_t n) { return (n + 63) / 64 * 64; }

/* A right side that all share makes the batch more rows. */
static Matmul matmul_of(const NdCall *c) {
    const NdTensor *a = c->in[0], *b = c->in[1];
    Matmul p = {.m = a->rank > 1 ? a->dim[a->rank - 2] : 1,
                .n = b->rank > 1 ? b->dim[b->rank - 1] : 1,
                .k = a->dim[a->rank - 1]};
    NdTensor batch[2] = {*a, *b};
    for (int i = 0; i < 2; i++) batch[i].rank = batch[i].rank > 2 ? batch[i].rank - 2 : 0;
    if (nd_span(&batch[1], 0, batch[1].rank) == 1) {
        p.m *= nd_span(&batch[0], 0, batch[0].rank);
        batch[0].rank = batch[1].rank = 0;
    }
    uint32_t rank = batch[0].rank > batch[1].rank ? batch[0].rank : batch[1].rank;
    int64_t stride[ART_MAX_RANK];
    nd_broadcast_strides(&batch[0], rank, stride);
    p.a = nd_cursor(rank, c->out[0]->dim, stride, 0);
    nd_broadcast_strides(&batch[1], rank, stride);
    p.b = nd_cursor(rank, c->out[0]->dim, stride, 0);
    p.pieces = p.m * p.n > 0 ? c->out[0]->count / (p.m * p.n) : 0;
    return p;
}

/* ---- float ---- */
static void float_blocks(const NdCall *c, void *job, int64_t begin, int64_t end, uint32_t worker) {
    Matmul p = *(const Matmul *)job;
    int64_t rows = (p.m + CPU_PRODUCT_ROWS - 1) / CPU_PRODUCT_ROWS, columns = (p.n + COLUMNS - 1) / COLUMNS;
    const CpuWorker w = {.count = 1, .pool = c->pool, .local = c->local + worker * CPU_LOCAL_BYTES};
    size_t b_size = nd_size(c->in[1]->dtype);
    for (int64_t item = begin; item < end; item++) {
        int64_t piece = item / (rows * columns), col = item % columns * COLUMNS;
        int64_t row = item / columns % rows * CPU_PRODUCT_ROWS;
        nd_seek(&p.a, piece);
        nd_seek(&p.b, piece);
        CpuProduct product = {.dtype = c->in[1]->dtype,
                              .m = (size_t)(p.m - row < CPU_PRODUCT_ROWS ? p.m - row : CPU_PRODUCT_ROWS),
                              .n = (size_t)(p.n - col < COLUMNS ? p.n - col : COLUMNS),
                              .k = (size_t)p.k,
                              .lda = (size_t)p.k,
                              .ldb = (size_t)p.n,
                              .ldc = (size_t)p.n,
                              .a = p.x + p.a.at * p.m * p.k + row * p.k,
                              .b = c->in[1]->data + (size_t)(p.b.at * p.k * p.n + col) * b_size,
                              .c = p.y + (piece * p.m + row) * p.n + col};
        c->kernels->product(&w, &product);
    }
}

/* ---- double and int64, a row at a time ---- */
static void wide_rows(const NdCall *c, void *job, int64_t begin, int64_t end, uint32_t worker) {
    Matmul p = *(const Matmul *)job;
    const NdTensor *a = c->in[0], *b = c->in[1], *to = c->out[0];
    NdClass k = nd_class(a->dtype);
    (void)worker;
    for (int64_t row = begin; row < end; row++) {
        nd_seek(&p.a, row / p.m);
        nd_seek(&p.b, row / p.m);
        int64_t from = (p.a.at * p.m + row % p.m) * p.k;
        for (int64_t col = 0; col < p.n; col += ND_TILE) {
            NdTile sum, x, v;
            size_t n = p.n - col < ND_TILE ? (size_t)(p.n - col) : ND_TILE;
            memset(&sum, 0, sizeof sum);
            for (int64_t j = 0; j < p.k; j++) {
                nd_load(k, a->dtype, a->data, from + j, 1, 1, &x);
                nd_load(k, b->dtype, b->data, (p.b.at * p.k + j) * p.n + col, 1, n, &v);
                for (size_t i = 0; k == ND_DOUBLE && i < n; i++) sum.d[i] += x.d[0] * v.d[i];
                for (size_t i = 0; k == ND_INT && i < n; i++)
                    sum.i[i] = (int64_t)((uint64_t)sum.i[i] + (uint64_t)x.i[0] * (uint64_t)v.i[i]);
            }
            nd_store(k, to->dtype, to->data, row * p.n + col, 1, n, &sum);
        }
    }
}

/* ---- between 16-bit floats and f32 ---- */
typedef struct {
    const NdTensor *t;
    float *wide;
    bool back;
} Widen;

static void widen_tiles(const NdCall *c, void *job, int64_t begin, int64_t end, uint32_t worker) {
    const Widen *w = job;
    (void)c, (void)worker;
    for (int64_t at = begin * ND_TILE; at < end * ND_TILE && at < w->t->count; at += ND_TILE) {
        NdTile v;
        size_t n = w->t->count - at < ND_TILE ? (size_t)(w->t->count - at) : ND_TILE;
        nd_load(ND_FLOAT, w->back ? ART_F32 : w->t->dtype, w->back ? (void *)w->wide : w->t->data, at, 1, n,
                &v);
        nd_store(ND_FLOAT, w->back ? w->t->dtype : ART_F32, w->back ? w->t->data : (void *)w->wide, at, 1, n,
                 &v);
    }
}

/* The tensor's floats: where they are, or widened to *scratch, which moves on. */
static float *widened(const NdCall *c, const NdTensor *t, uint8_t **scratch) {
    if (t->dtype == ART_F32) return (float *)(void *)t->data;
    Widen w = {t, (float *)(void *)*scratch, false};
    *scratch += up64((size_t)t->count * sizeof(float));
    nd_share(c, (t->count + ND_TILE - 1) / ND_TILE, ND_TILE, widen_tiles, &w);
    return w.wide;
}

/* Where the result's floats go, and the way back. */
static float *result_floats(const NdTensor *t, uint8_t **scratch) {
    if (t->dtype == ART_F32) return (float *)(void *)t->data;
    float *at = (float *)(void *)*scratch;
    *scratch += up64((size_t)t->count * sizeof(float));
    return at;
}

static void narrow(const NdCall *c, const NdTensor *t, float *wide) {
    Widen w = {t, wide, true};
    if (t->dtype != ART_F32) nd_share(c, (t->count + ND_TILE - 1) / ND_TILE, ND_TILE, widen_tiles, &w);
}

static size_t wide_bytes(const NdTensor *t) {
    return t && t->dtype != ART_F32 ? up64((size_t)t->count * sizeof(float)) : 0;
}

size_t nd_matmul_scratch(const NdCall *c) {
    return nd_class(c->in[0]->dtype) == ND_FLOAT ? wide_bytes(c->in[0]) + wide_bytes(c->out[0]) : 0;
}

gptc_status nd_matmul(const NdCall *c) {
    const NdTensor *to = c->out[0];
    Matmul p = matmul_of(c);
    uint8_t *scratch = c->scratch;
    if (to->count == 0) return GPTC_OK;
    if (p.k == 0) {
        memset(to->data, 0, (size_t)to->count * nd_size(to->dtype));
        return GPTC_OK;
    }
    if (nd_class(c->in[0]->dtype) != ND_FLOAT) {
        nd_share(c, p.pieces * p.m, p.n * p.k, wide_rows, &p);
        return GPTC_OK;
    }
    p.x = widened(c, c->in[0], &scratch);
    p.y = result_floats(to, &scratch);
    int64_t rows = (p.m + CPU_PRODUCT_ROWS - 1) / CPU_PRODUCT_ROWS, columns = (p.n + COLUMNS - 1) / COLUMNS;
    int64_t m = p.m < CPU_PRODUCT_ROWS ? p.m : CPU_PRODUCT_ROWS, n = p.n < COLUMNS ? p.n : COLUMNS;
    nd_share(c, p.pieces * rows * columns, m * n * p.k / 16 + 1, float_blocks, &p);
    narrow(c, to, p.y);
    return GPTC_OK;
}

/* ---- linear ---- */
typedef struct {
    const NdCall *c;
    CpuLinear linear;
    void *shared;
} Linear;

static void run_linear(void *ctx, uint32_t worker, uint32_t workers) {
    const Linear *l = ctx;
    const CpuWorker w = {.index = worker,
                         .count = workers,
                         .pool = l->c->pool,
                         .local = l->c->local + worker * CPU_LOCAL_BYTES,
                         .shared = l->shared};
    l->c->kernels->linear(&w, &l->linear);
}

static const NdTensor *bias_of(const NdCall *c) { return c->n_in > 2 ? c->in[2] : NULL; }

size_t nd_linear_scratch(const NdCall *c) {
    int64_t k = c->in[1]->dim[1], rows = c->in[0]->count / k;
    return up64(cpu_linear_shared((uint32_t)rows, (uint32_t)k)) + wide_bytes(c->in[0]) +
           wide_bytes(bias_of(c)) + wide_bytes(c->out[0]);
}

gptc_status nd_linear(const NdCall *c) {
    const NdTensor *x = c->in[0], *w = c->in[1], *to = c->out[0];
    uint32_t n = (uint32_t)w->dim[0], k = (uint32_t)w->dim[1];
    uint32_t rows = (uint32_t)(x->count / k);
    if (to->count == 0) return GPTC_OK;
    uint8_t *scratch = c->scratch + up64(cpu_linear_shared(rows, k));
    Linear job = {
        c, {.rows = rows, .k = k, .n = n, .dtype = w->dtype, .x_stride = k, .out_stride = n}, c->scratch};
    job.linear.w = w->data;
    job.linear.x = widened(c, x, &scratch);
    if (bias_of(c)) job.linear.bias = widened(c, bias_of(c), &scratch);
    job.linear.out = result_floats(to, &scratch);
    pool_run(c->pool, run_linear, &job);
    narrow(c, to, job.linear.out);
    return GPTC_OK;
}
