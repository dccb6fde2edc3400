/* linalg.c: Cholesky factors, solutions and inverses (linalg.h), in blocks: all but a narrow diagonal is
 * products of tiles, whose inner loops run along rows (Golub and Van Loan, Matrix Computations, 4.2). */
#include "passes/lossy/linalg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

/* The factor of rows and columns at .. at + w, and of the rows below them in these columns. */
static bool factor_columns(double *a, int64_t n, int64_t at, int64_t w) {
    for (int64_t j = at; j < at + w; j++) {
        double *row = a + j * n, pivot = row[j];
        for (int64_t k = at; k < j; k++) pivot -= row[k] * row[k];
        if (!(pivot > 0) || !isfinite(pivot)) return false;
        row[j] = sqrt(pivot);
        for (int64_t i = j + 1; i < n; i++) {
            double *below = a + i * n, x = below[j];
            for (int64_t k = at; k < j; k++) x -= below[k] * row[k];
            below[j] = x / row[j];
        }
    }
    return true;
}

bool spd_factor(double *a, int64_t n) {
    double *turned = malloc((size_t)n * BLOCK * sizeof *turned);
    bool ok = turned != NULL;
    for (int64_t at = 0; at < n && ok; at += BLOCK) {
        int64_t w = least(BLOCK, n - at), rest = n - at - w;
        ok = factor_columns(a, n, at, w);
        const double *below = a + (at + w) * n + at;
        for (int64_t i = 0; i < rest; i++)
            for (int64_t k = 0; k < w; k++) turned[k * rest + i] = below[i * n + k];
        for (int64_t i = 0; i < rest && ok; i += BLOCK) { /* on and below the diagonal */
            int64_t m = least(BLOCK, rest - i);
            multiply_subtract(a + (at + w + i) * n + at + w, n, below + i * n, n, turned, rest, m,
                              least(i + BLOCK, rest), w);
        }
    }
    free(turned);
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
