/* products.c: products of small tiles of rows with big matrices (matrix.h). A tile of four rows and sixteen columns
 * stays in registers, and what it is multiplied with is copied together first (Goto and van de Geijn, Anatomy of
 * High-Performance Matrix Multiplication, 2008): rows that are a power of two apart share few places in a cache. */
#include "ir/eval.h"
#include "passes/lossy/matrix.h"

#include <stdlib.h>
#include <string.h>

#define DOWN 4
#define DEPTH 256

/* Four rows and TILE columns; b [k][TILE]. */
VECTORS static void tile_add(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t k) {
    V8 sum[DOWN][2];
    for (int i = 0; i < DOWN; i++)
        for (int j = 0; j < 2; j++) sum[i][j] = *(const V8 *)(c + i * ldc + j * LANES);
    for (int64_t p = 0; p < k; p++) {
        V8 left = *(const V8 *)(b + p * TILE), right = *(const V8 *)(b + p * TILE + LANES);
        for (int i = 0; i < DOWN; i++) {
            float x = a[i * lda + p];
            sum[i][0] += x * left;
            sum[i][1] += x * right;
        }
    }
    for (int i = 0; i < DOWN; i++)
        for (int j = 0; j < 2; j++) *(V8 *)(c + i * ldc + j * LANES) = sum[i][j];
}

VECTORS static void row_add(float *c, const float *a, const float *b, int64_t k) {
    V8 left = *(const V8 *)c, right = *(const V8 *)(c + LANES);
    for (int64_t p = 0; p < k; p++) {
        left += a[p] * *(const V8 *)(b + p * TILE);
        right += a[p] * *(const V8 *)(b + p * TILE + LANES);
    }
    *(V8 *)c = left;
    *(V8 *)(c + LANES) = right;
}

void product_add(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m,
                 int64_t n, int64_t k) {
    float panel[DEPTH * TILE];
    for (int64_t j = 0; j < n; j += TILE)
        for (int64_t from = 0, i; from < k; from += DEPTH) {
            int64_t depth = k - from < DEPTH ? k - from : DEPTH;
            for (int64_t p = 0; p < depth; p++)
                memcpy(panel + p * TILE, b + (from + p) * ldb + j, TILE * sizeof *panel);
            for (i = 0; i + DOWN <= m; i += DOWN)
                tile_add(c + i * ldc + j, ldc, a + i * lda + from, lda, panel, depth);
            for (; i < m; i++) row_add(c + i * ldc + j, a + i * lda + from, panel, depth);
        }
}

VECTORS void scaled_add(float *y, const float *x, float by, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += by * x[i];
}

/* ---- sums of x H x^T ---- */

#define ROWS 32

typedef struct {
    const float *x, *xx;
    int64_t rows, cols, ld;
    float *product; /* [workers][ROWS][ld] */
    double *sum;    /* [tasks] */
} Quadratic;

static void quadratic_task(void *ctx, size_t task, size_t worker) {
    const Quadratic *q = ctx;
    int64_t from = (int64_t)task * ROWS, rows = q->rows - from < ROWS ? q->rows - from : ROWS;
    const float *x = q->x + from * q->cols, *y = x;
    int64_t ldy = q->cols;
    if (q->xx) {
        float *p = q->product + (int64_t)worker * ROWS * q->ld;
        memset(p, 0, (size_t)(ROWS * q->ld) * sizeof *p);
        product_add(p, q->ld, x, q->cols, q->xx, q->ld, rows, q->ld, q->cols);
        y = p;
        ldy = q->ld;
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < q->cols; c++)
            q->sum[task] += (double)x[r * q->cols + c] * (double)y[r * ldy + c];
}

/* xx with rows of tile_up(cols). */
static const float *padded(const float *xx, int64_t cols, Arena *a) {
    int64_t ld = tile_up(cols);
    if (xx == NULL || ld == cols) return xx;
    float *to = arena_array_of(a, (size_t)(cols * ld), float);
    for (int64_t r = 0; r < cols; r++) memcpy(to + r * ld, xx + r * cols, (size_t)cols * sizeof *to);
    return to;
}

double quadratic_sum(const float *x, const float *xx, int64_t rows, int64_t cols) {
    Arena *a = arena_new();
    Quadratic q = {x, padded(xx, cols, a), rows, cols, tile_up(cols), NULL, NULL};
    size_t tasks = (size_t)((rows + ROWS - 1) / ROWS);
    size_t workers = parallel_workers(tasks, 2.0 * (double)rows * (double)cols * (double)(xx ? cols : 1));
    q.product = arena_array_of(a, workers * ROWS * (size_t)q.ld, float);
    q.sum = arena_array_of(a, tasks, double);
    parallel_run(tasks, workers, quadratic_task, &q);
    double sum = 0;
    for (size_t i = 0; i < tasks; i++) sum += q.sum[i];
    arena_free(a);
    return sum;
}
