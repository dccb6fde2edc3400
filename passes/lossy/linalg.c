/* linalg.c: Cholesky factors, solutions and inverses (linalg.h), in blocks: all but a narrow diagonal is
 * products of tiles that stay in registers (Golub and Van Loan, Matrix Computations, 4.2). */
#include "passes/lossy/linalg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/eval.h"
#include "passes/lossy/vectors.h"

#define BLOCK 48
#define DOWN 4   /* a tile: rows, */
#define ACROSS 8 /* columns, */
#define DEPTH 64 /* and terms of each sum at a time */

typedef double D4 __attribute__((vector_size(32), aligned(8), may_alias));

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* c [DOWN][ACROSS] -= a [DOWN][k] times b [k][ACROSS]; rows of c and a are ldc and lda apart. */
VECTORS static void tile_subtract(double *c, int64_t ldc, const double *a, int64_t lda, const double *b,
                                  int64_t k) {
    D4 sum[DOWN][2];
    for (int i = 0; i < DOWN; i++)
        for (int j = 0; j < 2; j++) sum[i][j] = *(const D4 *)(c + i * ldc + j * 4);
    for (int64_t p = 0; p < k; p++) {
        D4 left = *(const D4 *)(b + p * ACROSS), right = *(const D4 *)(b + p * ACROSS + 4);
        for (int i = 0; i < DOWN; i++) {
            double x = a[i * lda + p];
            sum[i][0] -= x * left;
            sum[i][1] -= x * right;
        }
    }
    for (int i = 0; i < DOWN; i++)
        for (int j = 0; j < 2; j++) *(D4 *)(c + i * ldc + j * 4) = sum[i][j];
}

/* The same for m rows and n columns, fewer than a tile has. */
static void edge_subtract(double *c, int64_t ldc, const double *a, int64_t lda, const double *b, int64_t m,
                          int64_t n, int64_t k) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t p = 0; p < k; p++)
            for (int64_t q = 0; q < n; q++) c[i * ldc + q] -= a[i * lda + p] * b[p * ACROSS + q];
}

/* c [m][n] -= a [m][k] times b [k][n]. */
static void multiply_subtract(double *c, int64_t ldc, const double *a, int64_t lda, const double *b,
                              int64_t ldb, int64_t m, int64_t n, int64_t k) {
    double panel[DEPTH * ACROSS];
    for (int64_t j = 0; j < n; j += ACROSS)
        for (int64_t from = 0, i; from < k; from += DEPTH) {
            int64_t depth = least(DEPTH, k - from), across = least(ACROSS, n - j);
            for (int64_t p = 0; p < depth; p++)
                memcpy(panel + p * ACROSS, b + (from + p) * ldb + j, (size_t)across * sizeof *panel);
            for (i = 0; across == ACROSS && i + DOWN <= m; i += DOWN)
                tile_subtract(c + i * ldc + j, ldc, a + i * lda + from, lda, panel, depth);
            edge_subtract(c + i * ldc + j, ldc, a + i * lda + from, lda, panel, m - i, across, depth);
        }
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
