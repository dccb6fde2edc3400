/* linalg.c: Cholesky factors, solutions and inverses (linalg.h), in blocks: all but a narrow diagonal is
 * products of tiles, whose inner loops run along rows (Golub and Van Loan, Matrix Computations, 4.2). */
#include "passes/lossy/linalg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/eval.h"
#include "passes/lossy/vectors.h"

#define BLOCK 48
#define SPAN 256 /* columns of a tile: four rows of it stay in the nearest cache */
#define DEPTH 64 /* and so many rows of the other in the next */
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* A tile: c [m][n] -= a [m][k] times b [k][n] with all of b's tile in cache; rows are lda, ldb, ldc apart. */
VECTORS static void tile_subtract(double *c, int64_t ldc, const double *a, int64_t lda, const double *b,
                                  int64_t ldb, int64_t m, int64_t n, int64_t k) {
    int64_t i = 0;
    for (; i + 4 <= m; i += 4) {
        double *restrict c0 = c + i * ldc, *restrict c1 = c0 + ldc, *restrict c2 = c1 + ldc,
                         *restrict c3 = c2 + ldc;
        const double *a0 = a + i * lda, *a1 = a0 + lda, *a2 = a1 + lda, *a3 = a2 + lda;
        for (int64_t p = 0; p < k; p++) {
            const double *restrict row = b + p * ldb;
            double x0 = a0[p], x1 = a1[p], x2 = a2[p], x3 = a3[p];
            for (int64_t q = 0; q < n; q++) {
                c0[q] -= x0 * row[q];
                c1[q] -= x1 * row[q];
                c2[q] -= x2 * row[q];
                c3[q] -= x3 * row[q];
            }
        }
    }
    for (; i < m; i++)
        for (int64_t p = 0; p < k; p++) {
            double x = a[i * lda + p];
            for (int64_t q = 0; q < n; q++) c[i * ldc + q] -= x * b[p * ldb + q];
        }
}

static void multiply_subtract(double *c, int64_t ldc, const double *a, int64_t lda, const double *b,
                              int64_t ldb, int64_t m, int64_t n, int64_t k) {
    for (int64_t j = 0; j < n; j += SPAN)
        for (int64_t p = 0; p < k; p += DEPTH)
            tile_subtract(c + j, ldc, a + p, lda, b + p * ldb + j, ldb, m, least(SPAN, n - j),
                          least(DEPTH, k - p));
}

/* ---- the factor: a block of columns, the rows below it, and what they take from the rest ---- */

typedef struct {
    double *a, *turned; /* [n][n]; [w][rest], the rows below in these columns, transposed */
    int64_t n, at, w, rest;
} Panel;

/* x [w], of a row: what makes x times the factor's rows at .. at + w the row's numbers. */
static void solve_row(const Panel *p, double *x, int64_t w) {
    for (int64_t j = 0; j < w; j++) {
        const double *row = p->a + (p->at + j) * p->n + p->at;
        for (int64_t k = 0; k < j; k++) x[j] -= x[k] * row[k];
        x[j] /= row[j];
    }
}

static bool factor_diagonal(const Panel *p) {
    for (int64_t j = 0; j < p->w; j++) {
        double *row = p->a + (p->at + j) * p->n + p->at, pivot = row[j];
        solve_row(p, row, j);
        for (int64_t k = 0; k < j; k++) pivot -= row[k] * row[k];
        if (!(pivot > 0) || !isfinite(pivot)) return false;
        row[j] = sqrt(pivot);
    }
    return true;
}

static void solve_below(void *ctx, size_t task, size_t worker) {
    (void)worker;
    const Panel *p = ctx;
    int64_t from = (int64_t)task * BLOCK, to = least(from + BLOCK, p->rest);
    for (int64_t i = from; i < to; i++) {
        double *row = p->a + (p->at + p->w + i) * p->n + p->at;
        solve_row(p, row, p->w);
        for (int64_t k = 0; k < p->w; k++) p->turned[k * p->rest + i] = row[k];
    }
}

/* On and below the diagonal. */
static void subtract_below(void *ctx, size_t task, size_t worker) {
    (void)worker;
    const Panel *p = ctx;
    int64_t next = p->at + p->w, i = (int64_t)task * BLOCK, m = least(BLOCK, p->rest - i);
    double *row = p->a + (next + i) * p->n;
    multiply_subtract(row + next, p->n, row + p->at, p->n, p->turned, p->rest, m, least(i + BLOCK, p->rest),
                      p->w);
}

bool spd_factor(double *a, int64_t n) {
    Panel p = {.a = a, .turned = malloc((size_t)n * BLOCK * sizeof *a), .n = n};
    bool ok = p.turned != NULL;
    for (; p.at < n && ok; p.at += BLOCK) {
        p.w = least(BLOCK, n - p.at), p.rest = n - p.at - p.w;
        ok = factor_diagonal(&p);
        size_t tasks = (size_t)((p.rest + BLOCK - 1) / BLOCK);
        double rest = (double)p.rest, w = (double)p.w;
        if (ok) parallel_run(tasks, parallel_workers(tasks, rest * w * w), solve_below, &p);
        if (ok) parallel_run(tasks, parallel_workers(tasks, rest * rest * w), subtract_below, &p);
    }
    free(p.turned);
    return ok;
}

void spd_solve(const double *factor, int64_t n, double *x, int64_t m) {
    for (int64_t r = 0; r < m; r++) {
        double *v = x + r * n;
        for (int64_t i = 0; i < n; i++) {
            double s = v[i];
            for (int64_t k = 0; k < i; k++) s -= factor[i * n + k] * v[k];
            v[i] = s / factor[i * n + i];
        }
        for (int64_t i = n - 1; i >= 0; i--) {
            v[i] /= factor[i * n + i];
            for (int64_t k = 0; k < i; k++) v[k] -= factor[i * n + k] * v[i];
        }
    }
}

/* inverse [n][n] = L^-1, lower part; the upper part is zero. */
static void invert_factor(const double *l, int64_t n, double *inverse) {
    memset(inverse, 0, (size_t)(n * n) * sizeof *inverse);
    for (int64_t at = 0; at < n; at += BLOCK) {
        int64_t w = least(BLOCK, n - at);
        for (int64_t i = at; i < at + w; i++) inverse[i * n + i] = 1;
        multiply_subtract(inverse + at * n, n, l + at * n, n, inverse, n, w, at, at);
        for (int64_t i = at; i < at + w; i++) {
            double *row = inverse + i * n;
            multiply_subtract(row, n, l + i * n + at, n, inverse + at * n, n, 1, i, i - at);
            for (int64_t j = 0; j <= i; j++) row[j] /= l[i * n + i];
        }
    }
}

bool spd_invert(double *a, int64_t n) {
    if (!spd_factor(a, n)) return false;
    size_t bytes = (size_t)(n * n) * sizeof(double);
    double *inverse = malloc(bytes), *turned = malloc((size_t)n * BLOCK * sizeof *turned);
    if (inverse == NULL || turned == NULL) {
        free(inverse);
        free(turned);
        return false;
    }
    invert_factor(a, n, inverse);
    memset(a, 0, bytes);
    for (int64_t at = 0; at < n; at += BLOCK) { /* A^-1 = L^-T L^-1, the rows of L^-1 in blocks */
        int64_t w = least(BLOCK, n - at), reach = at + w;
        for (int64_t k = 0; k < w; k++)
            for (int64_t i = 0; i < reach; i++) turned[i * w + k] = -inverse[(at + k) * n + i];
        for (int64_t i = 0; i < reach; i += BLOCK)
            multiply_subtract(a + i * n, n, turned + i * w, w, inverse + at * n, n, least(BLOCK, reach - i),
                              least(i + BLOCK, reach), w);
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i + 1; j < n; j++) a[i * n + j] = a[j * n + i];
    free(inverse);
    free(turned);
    return true;
}
