/* eval_matmul.c: products, blocked for caches, registers and threads.
 *
 * A worker takes a block of rows and columns of the result and goes over k in steps of 256. For
 * each step it packs the step's part of b as panels of 8 columns, converted to f32 and transposed
 * where needed, and multiplies tiles of up to 4 rows by 8 columns held in registers (the layout of
 * Goto and van de Geijn's matrix product). With few rows a plain f32 b is read in place instead.
 * Every element is summed over blocks of 64 of k whatever the tiling, so results depend on neither
 * m nor the threads. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "ir/eval.h"

#define KSTEP 256
#define KBLOCK 64
#define COLUMNS 64
#define ROWS 256
#define PANEL 8
#define FEW_ROWS 8
#define MAX_WORKERS 16

_Static_assert(GEMM_SCRATCH == KSTEP * PANEL, "a worker packs one panel at a time");

typedef float V4 __attribute__((vector_size(16)));

static inline V4 load4(const float *p) {
    V4 v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline void add4(float *p, V4 v) {
    v += load4(p);
    memcpy(p, &v, sizeof(v));
}

/* c[mr, 8] += a[mr, kn] * b[kn, 8], kn <= KBLOCK; mr is a constant where this is inlined. */
static inline void tile_rows(int mr, int64_t kn, const float *a, int64_t lda, const float *b, float *c,
                             int64_t ldc) {
    V4 lo[4] = {{0}}, hi[4] = {{0}};
    for (int64_t k = 0; k < kn; k++, b += PANEL) {
        V4 b0 = load4(b), b1 = load4(b + 4);
        for (int r = 0; r < mr; r++) {
            float x = a[r * lda + k];
            V4 xv = {x, x, x, x};
            lo[r] += xv * b0;
            hi[r] += xv * b1;
        }
    }
    for (int r = 0; r < mr; r++) {
        add4(c + r * ldc, lo[r]);
        add4(c + r * ldc + 4, hi[r]);
    }
}

/* c[COLUMNS] += a[kn] * b[kn, COLUMNS]: one row over columns read in place. Sums like tile_rows. */
static void wide_row(int64_t kn, const float *a, const char *b, size_t ldb, float *c) {
    float acc[COLUMNS] = {0};
    for (int64_t k = 0; k < kn; k++, b += ldb) {
        float row[COLUMNS];
        memcpy(row, b, sizeof(row));
        for (int j = 0; j < COLUMNS; j++) acc[j] += a[k] * row[j];
    }
    for (int j = 0; j < COLUMNS; j++) c[j] += acc[j];
}

static void tile(int64_t mr, int64_t kn, const float *a, int64_t lda, const float *b, float *c, int64_t ldc) {
    switch (mr) {
    case 1: tile_rows(1, kn, a, lda, b, c, ldc); break;
    case 2: tile_rows(2, kn, a, lda, b, c, ldc); break;
    case 3: tile_rows(3, kn, a, lda, b, c, ldc); break;
    default: tile_rows(4, kn, a, lda, b, c, ldc); break;
    }
}

/* An f16 as a float, in a form that vectorises: the exponent is rebiased by a product, which also
 * makes subnormals right. */
static inline float decode_f16(uint16_t h) {
    uint32_t bits = (uint32_t)(h & 0x7fffu) << 13, special = (h & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0;
    float f;
    memcpy(&f, &bits, sizeof(f));
    f *= 0x1p112f;
    memcpy(&bits, &f, sizeof(bits));
    bits |= special | (uint32_t)(h & 0x8000u) << 16;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static inline float decode_bf16(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* n contiguous elements, which may be unaligned. */
static inline void decode(const char *p, DType t, int64_t n, float *out) {
    uint16_t h;
    switch (t) {
    case DT_F16:
        for (int64_t i = 0; i < n; i++) {
            memcpy(&h, p + i * 2, sizeof(h));
            out[i] = decode_f16(h);
        }
        break;
    case DT_BF16:
        for (int64_t i = 0; i < n; i++) {
            memcpy(&h, p + i * 2, sizeof(h));
            out[i] = decode_bf16(h);
        }
        break;
    case DT_F32: memcpy(out, p, (size_t)n * sizeof(float)); break;
    default:
        for (int64_t i = 0; i < n; i++) out[i] = f8_to_float(t, (uint8_t)p[i]);
        break;
    }
}

/* out[k][0..8) = b[k0 + k][n0 .. n0 + nn), the rest of the panel 0. */
static void pack_panel(const Gemm *p, int64_t k0, int64_t kn, int64_t n0, int64_t nn, float *out) {
    int64_t size = (int64_t)dtype_size(p->b_dtype);
    const char *b = p->b;
    if (p->trans) {
        float column[PANEL][KSTEP];
        for (int64_t j = 0; j < PANEL; j++) {
            if (j >= nn)
                memset(column[j], 0, sizeof(column[j]));
            else
                decode(b + ((n0 + j) * p->ldb + k0) * size, p->b_dtype, kn, column[j]);
        }
        for (int64_t k = 0; k < kn; k++) {
            for (int64_t j = 0; j < PANEL; j++) out[k * PANEL + j] = column[j][k];
        }
        return;
    }
    if (nn < PANEL) memset(out, 0, (size_t)(kn * PANEL) * sizeof(float));
    for (int64_t k = 0; k < kn; k++) {
        const char *from = b + ((k0 + k) * p->ldb + n0) * size;
        if (nn == PANEL)
            decode(from, p->b_dtype, PANEL, out + k * PANEL);
        else
            decode(from, p->b_dtype, nn, out + k * PANEL);
    }
}

/* Columns [n, n + nn) of one panel, all rows of the block, one step of k. */
static void panel_rows(const Gemm *p, int64_t m0, int64_t m1, int64_t n, int64_t nn, int64_t k0, int64_t kn,
                       const float *b) {
    for (int64_t m = m0; m < m1; m += 4) {
        int64_t mr = m1 - m < 4 ? m1 - m : 4;
        float edge[4 * PANEL];
        float *c = p->c + m * p->ldc + n;
        int64_t ldc = p->ldc;
        if (nn < PANEL) {
            memset(edge, 0, sizeof(edge));
            for (int64_t r = 0; r < mr; r++)
                memcpy(edge + r * PANEL, c + r * ldc, (size_t)nn * sizeof(float));
            c = edge;
            ldc = PANEL;
        }
        for (int64_t k = 0; k < kn; k += KBLOCK) {
            int64_t kb = kn - k < KBLOCK ? kn - k : KBLOCK;
            tile(mr, kb, p->a + m * p->lda + k0 + k, p->lda, b + k * PANEL, c, ldc);
        }
        if (nn == PANEL) continue;
        for (int64_t r = 0; r < mr; r++)
            memcpy(p->c + (m + r) * p->ldc + n, edge + r * PANEL, (size_t)nn * sizeof(float));
    }
}

/* All of k for columns [n, n + COLUMNS) of an f32 b that is not transposed. */
static void wide_rows(const Gemm *p, int64_t m0, int64_t m1, int64_t n) {
    size_t ldb = (size_t)p->ldb * sizeof(float);
    for (int64_t k = 0; k < p->k; k += KBLOCK) {
        int64_t kn = p->k - k < KBLOCK ? p->k - k : KBLOCK;
        const char *b = (const char *)p->b + (size_t)k * ldb + (size_t)n * sizeof(float);
        for (int64_t m = m0; m < m1; m++) wide_row(kn, p->a + m * p->lda + k, b, ldb, p->c + m * p->ldc + n);
    }
}

void gemm_block(const Gemm *p, int64_t m0, int64_t m1, int64_t n0, int64_t n1, float *scratch) {
    for (int64_t m = m0; m < m1; m++) memset(p->c + m * p->ldc + n0, 0, (size_t)(n1 - n0) * sizeof(float));
    bool in_place = p->b_dtype == DT_F32 && !p->trans && m1 - m0 < FEW_ROWS;
    for (int64_t c0 = n0; c0 < n1; c0 += COLUMNS) {
        int64_t c1 = n1 - c0 < COLUMNS ? n1 : c0 + COLUMNS;
        if (in_place && c1 - c0 == COLUMNS) {
            wide_rows(p, m0, m1, c0);
            continue;
        }
        for (int64_t k0 = 0; k0 < p->k; k0 += KSTEP) {
            int64_t kn = p->k - k0 < KSTEP ? p->k - k0 : KSTEP;
            for (int64_t n = c0; n < c1; n += PANEL) {
                int64_t nn = c1 - n < PANEL ? c1 - n : PANEL;
                pack_panel(p, k0, kn, n, nn, scratch);
                panel_rows(p, m0, m1, n, nn, k0, kn, scratch);
            }
        }
    }
}

/* ---- threads ---- */

typedef struct {
    TaskFn *fn;
    void *ctx;
    size_t tasks;
    atomic_size_t next;
} Pool;
typedef struct {
    Pool *pool;
    size_t worker;
} Worker;

static void *work(void *arg) {
    const Worker *w = arg;
    for (;;) {
        size_t task = atomic_fetch_add(&w->pool->next, 1);
        if (task >= w->pool->tasks) return NULL;
        w->pool->fn(w->pool->ctx, task, w->worker);
    }
}

size_t parallel_workers(size_t tasks, double flops) {
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    size_t n = cpus < 1 ? 1 : cpus > MAX_WORKERS ? MAX_WORKERS : (size_t)cpus;
    if (flops < 4e6) n = 1;
    return tasks < n ? (tasks == 0 ? 1 : tasks) : n;
}

void parallel_run(size_t tasks, size_t workers, TaskFn *fn, void *ctx) {
    Pool pool = {fn, ctx, tasks, 0};
    Worker w[MAX_WORKERS];
    pthread_t thread[MAX_WORKERS];
    size_t started = 1;
    for (size_t i = 0; i < workers && i < MAX_WORKERS; i++) w[i] = (Worker){&pool, i};
    /* A thread that cannot be started only leaves more for the others. */
    while (started < workers && pthread_create(&thread[started], NULL, work, &w[started]) == 0) started++;
    w[0] = (Worker){&pool, 0};
    work(&w[0]);
    for (size_t i = 1; i < started; i++) pthread_join(thread[i], NULL);
}

typedef struct {
    const Gemm *list;
    size_t row_blocks, column_blocks;
    float *scratch;
} Product;

static void product_task(void *ctx, size_t task, size_t worker) {
    const Product *p = ctx;
    const Gemm *g = &p->list[task / (p->row_blocks * p->column_blocks)];
    int64_t m0 = (int64_t)(task / p->column_blocks % p->row_blocks) * ROWS;
    int64_t n0 = (int64_t)(task % p->column_blocks) * COLUMNS;
    int64_t m1 = g->m - m0 < ROWS ? g->m : m0 + ROWS, n1 = g->n - n0 < COLUMNS ? g->n : n0 + COLUMNS;
    gemm_block(g, m0, m1, n0, n1, p->scratch + worker * GEMM_SCRATCH);
}

/* All of one shape. */
static void gemm_run(const Gemm *list, size_t count, Arena *scratch) {
    if (count == 0 || list->m == 0 || list->n == 0) return;
    Product p = {list, (size_t)(list->m + ROWS - 1) / ROWS, (size_t)(list->n + COLUMNS - 1) / COLUMNS, NULL};
    size_t tasks = count * p.row_blocks * p.column_blocks;
    double flops = 2.0 * (double)count * (double)list->m * (double)list->n * (double)list->k;
    size_t workers = parallel_workers(tasks, flops);
    p.scratch = arena_array_of(scratch, workers * GEMM_SCRATCH, float);
    parallel_run(tasks, workers, product_task, &p);
}

/* ---- matmul ---- */

/* One matrix product of a batch: element offsets of its operands and its result. */
typedef struct {
    int64_t m, n, k, a, b, c, b_step_k, b_step_n;
} Piece;

static void piece_f64(EvalCtx *e, const Piece *p) {
    double *acc = arena_array_of(e->scratch, (size_t)p->n, double);
    double *row = arena_array_of(e->scratch, (size_t)p->n, double);
    for (int64_t m = 0; m < p->m; m++) {
        memset(acc, 0, (size_t)p->n * sizeof(double));
        for (int64_t k = 0; k < p->k; k++) {
            double x = 0;
            tensor_load_f64(e->in[0], p->a + m * p->k + k, 1, 1, &x);
            tensor_load_f64(e->in[1], p->b + k * p->b_step_k, p->b_step_n, (size_t)p->n, row);
            for (int64_t n = 0; n < p->n; n++) acc[n] += x * row[n];
        }
        tensor_store_f64(&e->out[0], p->c + m * p->n, (size_t)p->n, acc);
    }
}

static void piece_i64(EvalCtx *e, const Piece *p) {
    int64_t *acc = arena_array_of(e->scratch, (size_t)p->n, int64_t);
    int64_t *row = arena_array_of(e->scratch, (size_t)p->n, int64_t);
    for (int64_t m = 0; m < p->m; m++) {
        memset(acc, 0, (size_t)p->n * sizeof(int64_t));
        for (int64_t k = 0; k < p->k; k++) {
            int64_t x = 0;
            tensor_load_i64(e->in[0], p->a + m * p->k + k, 1, 1, &x);
            tensor_load_i64(e->in[1], p->b + k * p->n, 1, (size_t)p->n, row);
            for (int64_t n = 0; n < p->n; n++)
                acc[n] = (int64_t)((uint64_t)acc[n] + (uint64_t)x * (uint64_t)row[n]);
        }
        tensor_store_i64(&e->out[0], p->c + m * p->n, (size_t)p->n, acc);
    }
}

/* Floats of up to 32 bits. */
static void pieces_f32(EvalCtx *e, const Piece *list, size_t count) {
    const Tensor *b = e->in[1];
    Tensor *out = &e->out[0];
    const float *a = tensor_as_f32(e->in[0], e->scratch);
    size_t total = tensor_count(out);
    float *c = out->dtype == DT_F32 ? out->data : arena_array_of(e->scratch, total, float);
    Gemm *gemms = arena_array_of(e->scratch, count, Gemm);
    for (size_t i = 0; i < count; i++) {
        const Piece *p = &list[i];
        gemms[i] = (Gemm){.m = p->m,
                          .n = p->n,
                          .k = p->k,
                          .lda = p->k,
                          .ldb = p->n,
                          .ldc = p->n,
                          .a = a + p->a,
                          .c = c + p->c,
                          .b_dtype = b->dtype,
                          .b = (const char *)b->data + (size_t)p->b * dtype_size(b->dtype)};
    }
    gemm_run(gemms, count, e->scratch);
    if (out->dtype == DT_F32) return;
    Tensor rounded = {.dtype = DT_F32, .rank = 1, .dim = {(int64_t)total}, .data = c};
    tensor_convert(out, &rounded);
}

bool eval_matmul(EvalCtx *e) {
    const Tensor *a = e->in[0], *b = e->in[1];
    Piece piece = {.m = a->rank > 1 ? a->dim[a->rank - 2] : 1,
                   .n = b->rank > 1 ? b->dim[b->rank - 1] : 1,
                   .k = a->dim[a->rank - 1],
                   .b_step_n = 1};
    piece.b_step_k = piece.n;
    if (tensor_count(&e->out[0]) == 0) return true;
    Tensor batch_a = *a, batch_b = *b;
    batch_a.rank = a->rank > 2 ? (uint8_t)(a->rank - 2) : 0;
    batch_b.rank = b->rank > 2 ? (uint8_t)(b->rank - 2) : 0;
    if (tensor_count(&batch_b) == 1) {
        /* One right side for all: the batches are more rows. */
        piece.m *= (int64_t)tensor_count(&batch_a);
        batch_a.rank = batch_b.rank = 0;
    }
    uint32_t rank = batch_a.rank > batch_b.rank ? batch_a.rank : batch_b.rank;
    Walk w = {0};
    for (uint32_t i = 0; i < rank; i++) w.dim[i] = e->out[0].dim[i];
    tensor_broadcast_strides(&batch_a, rank, w.stride[0]);
    tensor_broadcast_strides(&batch_b, rank, w.stride[1]);
    walk_init(&w, rank, 2);
    size_t count = tensor_count(&e->out[0]) / (size_t)(piece.m * piece.n), at = 0;
    Piece *list = arena_array_of(e->scratch, count, Piece);
    while (walk_next(&w)) {
        for (int64_t j = 0; j < w.n; j++, at++) {
            list[at] = piece;
            list[at].a = (w.at[0] + j * w.step[0]) * piece.m * piece.k;
            list[at].b = (w.at[1] + j * w.step[1]) * piece.k * piece.n;
            list[at].c = (int64_t)at * piece.m * piece.n;
        }
    }
    if (dtype_is_int(a->dtype) || a->dtype == DT_F64) {
        for (size_t i = 0; i < count; i++) {
            if (a->dtype == DT_F64)
                piece_f64(e, &list[i]);
            else
                piece_i64(e, &list[i]);
        }
        return true;
    }
    pieces_f32(e, list, count);
    return true;
}

/* ---- linear ---- */

/* Adds the bias to c and stores it as the result. */
static void linear_finish(EvalCtx *e, const Tensor *c, int64_t rows, int64_t n) {
    const Tensor *bias = eval_operand(e, 2);
    double *row = arena_array_of(e->scratch, (size_t)n, double);
    double *b = arena_array_of(e->scratch, (size_t)n, double);
    if (bias != NULL) tensor_load_f64(bias, 0, 1, (size_t)n, b);
    for (int64_t m = 0; m < rows; m++) {
        tensor_load_f64(c, m * n, 1, (size_t)n, row);
        for (int64_t i = 0; i < n; i++) row[i] += b[i];
        tensor_store_f64(&e->out[0], m * n, (size_t)n, row);
    }
}

/* rows of k floats, rounded by blocks. In fp32, as kernels do it: another product before a tie gives another number. */
static const float *rounded(const float *x, int64_t rows, int64_t k, int64_t block, Arena *a) {
    float *out = arena_array_of(a, (size_t)(rows * k), float);
    for (int64_t at = 0, n; at < rows * k; at += n) {
        n = k - at % k < block ? k - at % k : block;
        float most = 0;
        for (int64_t i = at; i < at + n; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        float step = most / 127, inverse = most > 0 ? 127 / most : 0;
        for (int64_t i = at; i < at + n; i++) out[i] = rintf(x[i] * inverse) * step;
    }
    return out;
}

bool eval_linear(EvalCtx *e) {
    const Tensor *x = e->in[0], *w = e->in[1];
    Tensor *out = &e->out[0];
    bool trans = e->n->attr.trans;
    int64_t n = w->dim[trans ? 0 : 1], k = w->dim[trans ? 1 : 0];
    size_t total = tensor_count(out);
    if (total == 0) return true;
    Tensor c = {.dtype = DT_F32, .rank = 1, .dim = {(int64_t)total}, .data = out->data};
    if (x->dtype == DT_F64 || w->dtype == DT_F64) {
        c.dtype = out->dtype;
        piece_f64(e, &(Piece){.m = (int64_t)total / n,
                              .n = n,
                              .k = k,
                              .b_step_k = trans ? 1 : n,
                              .b_step_n = trans ? k : 1});
    } else {
        if (out->dtype != DT_F32) c.data = arena_array_of(e->scratch, total, float);
        Gemm g = {.m = (int64_t)total / n,
                  .n = n,
                  .k = k,
                  .lda = k,
                  .ldb = w->dim[1],
                  .ldc = n,
                  .a = tensor_as_f32(x, e->scratch),
                  .b = w->data,
                  .b_dtype = w->dtype,
                  .trans = trans,
                  .c = c.data};
        if (e->n->attr.block > 0) g.a = rounded(g.a, g.m, k, e->n->attr.block, e->scratch);
        gemm_run(&g, 1, e->scratch);
    }
    if (eval_operand(e, 2) != NULL || c.data != out->data) linear_finish(e, &c, (int64_t)total / n, n);
    return true;
}
