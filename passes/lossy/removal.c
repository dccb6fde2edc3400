/* removal.c: units of a product's input chosen and removed one after the other, the rest made up by least squares.
 *
 * With C the covariance of x and H = C^-1, the best W' without input j is W - W_j H_j / H_jj, which costs
 * |W_j|^2 / H_jj of mean squared error; H itself becomes H - H_j H_j^T / H_jj. So removing the cheapest unit again and
 * again ends at the least squares solution for what stays, W C[:,S] C[S,S]^-1. The bias takes up the means. (Optimal
 * Brain Surgeon: Hassibi and Stork 1993; structured as in ZipLM: Kurtic, Frantar and Alistarh 2023.)
 *
 * H is changed late: what was subtracted since is kept as `pending` vectors, of which a single one is needed to know
 * a column of H as it is now. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "passes/lossy/linalg.h"
#include "passes/lossy/removal.h"

#define PENDING 32

typedef struct {
    const RemovalTask *t;
    double *h;        /* [cols][cols], as it was `pending` vectors ago */
    double *diagonal; /* of H as it is now */
    double *pending;  /* [PENDING][cols]: H now is h - the sum of their squares */
    int64_t npending;
    float *w; /* [cols][rows]: W' turned */
    bool *gone;
    double *small; /* [size][size], and a vector */
    double lost;
} Remover;

static double cov(const Moments *m, int64_t i, int64_t j) {
    return (double)m->xx[i * m->cols + j] - (double)m->sum[i] * (double)m->sum[j];
}

static bool remover_new(const RemovalTask *t, Arena *a, Remover *r) {
    int64_t n = t->cols;
    *r = (Remover){.t = t,
                   .h = arena_array_of(a, (size_t)(n * n), double),
                   .diagonal = arena_array_of(a, (size_t)n, double),
                   .pending = arena_array_of(a, (size_t)(PENDING * n), double),
                   .w = arena_array_of(a, (size_t)(n * t->rows), float),
                   .gone = arena_array_of(a, (size_t)n, bool),
                   .small = arena_array_of(a, (size_t)(t->size * (t->size + 1)), double)};
    double mean = 0;
    for (int64_t i = 0; i < n; i++) mean += cov(t->moments, i, i) / (double)n;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j <= i; j++) r->h[i * n + j] = cov(t->moments, i, j);
        r->h[i * n + i] += REMOVAL_DAMPING * mean + 1e-30;
        for (int64_t k = 0; k < t->rows; k++) r->w[i * t->rows + k] = t->w[k * n + i];
    }
    if (!spd_invert(r->h, n)) return false;
    for (int64_t i = 0; i < n; i++) r->diagonal[i] = r->h[i * n + i];
    return true;
}

/* ---- what a unit costs ---- */

static double unit_entry(const Remover *r, int64_t i, int64_t j) {
    double x = r->h[i * r->t->cols + j];
    for (int64_t p = 0; p < r->npending; p++)
        x -= r->pending[p * r->t->cols + i] * r->pending[p * r->t->cols + j];
    return x;
}

/* The sum over outputs of w_u (H_uu)^-1 w_u^T: with H_uu = L L^T, of |L^-1 w_u|^2. */
static double unit_cost(const Remover *r, int64_t unit) {
    int64_t size = r->t->size, rows = r->t->rows, at = unit * size;
    const float *w = r->w + at * rows;
    double cost = 0, *l = r->small, *x = r->small + size * size;
    if (size == 1) {
        for (int64_t k = 0; k < rows; k++) cost += (double)w[k] * (double)w[k];
        return cost / r->diagonal[at];
    }
    for (int64_t i = 0; i < size; i++)
        for (int64_t j = 0; j <= i; j++) l[i * size + j] = unit_entry(r, at + i, at + j);
    if (!spd_factor(l, size)) return INFINITY;
    for (int64_t k = 0; k < rows; k++)
        for (int64_t i = 0; i < size; i++) {
            x[i] = (double)w[i * rows + k];
            for (int64_t j = 0; j < i; j++) x[i] -= l[i * size + j] * x[j];
            x[i] /= l[i * size + i];
            cost += x[i] * x[i];
        }
    return cost;
}

static int64_t cheapest(const Remover *r) {
    int64_t best = -1;
    double least = INFINITY;
    for (int64_t u = 0; u < r->t->cols / r->t->size; u++) {
        if (r->gone[u * r->t->size]) continue;
        double cost = unit_cost(r, u);
        if (best < 0 || cost < least) {
            least = cost;
            best = u;
        }
    }
    return best;
}

/* ---- removing ---- */

static void settle(Remover *r) {
    int64_t n = r->t->cols;
    for (int64_t i = 0; i < n; i++) {
        double *restrict row = r->h + i * n;
        for (int64_t p = 0; p < r->npending && !r->gone[i]; p++) {
            const double *restrict v = r->pending + p * n;
            double x = v[i];
            for (int64_t j = 0; j < n; j++) row[j] -= x * v[j];
        }
    }
    r->npending = 0;
}

static void remove_input(Remover *r, int64_t j) {
    int64_t n = r->t->cols, rows = r->t->rows;
    if (r->npending == PENDING) settle(r);
    double *restrict v = r->pending + r->npending * n, pivot = r->diagonal[j];
    memcpy(v, r->h + j * n, (size_t)n * sizeof *v);
    for (int64_t p = 0; p < r->npending; p++) {
        const double *restrict old = r->pending + p * n;
        for (int64_t i = 0; i < n; i++) v[i] -= old[j] * old[i];
    }
    const float *restrict wj = r->w + j * rows;
    double cost = 0;
    for (int64_t k = 0; k < rows; k++) cost += (double)wj[k] * (double)wj[k];
    r->lost += cost / pivot;
    r->gone[j] = true;
    for (int64_t i = 0; i < n; i++) {
        float share = (float)(v[i] / pivot), *restrict wi = r->w + i * rows;
        for (int64_t k = 0; k < rows && !r->gone[i]; k++) wi[k] -= share * wj[k];
        v[i] = r->gone[i] && i != j ? 0 : v[i] / sqrt(pivot);
        r->diagonal[i] -= v[i] * v[i];
    }
    r->npending++;
}

/* ---- what stays ---- */

static double variance(const RemovalTask *t) {
    double sum = matrix_energy(t->w, t->moments, t->rows, t->cols);
    for (int64_t k = 0; k < t->rows; k++) {
        double mean = 0;
        for (int64_t i = 0; i < t->cols; i++)
            mean += (double)t->w[k * t->cols + i] * (double)t->moments->sum[i];
        sum -= mean * mean;
    }
    return fmax(sum, 0);
}

static void take(const Remover *r, Arena *a, Removal *out) {
    const RemovalTask *t = r->t;
    *out = (Removal){.rows = t->rows};
    for (int64_t i = 0; i < t->cols; i++) out->count += !r->gone[i];
    out->keep = arena_array_of(a, (size_t)out->count, int32_t);
    out->w = arena_array_of(a, (size_t)(t->rows * out->count), float);
    out->bias = arena_array_of(a, (size_t)t->rows, float);
    int64_t at = 0;
    for (int64_t i = 0; i < t->cols; i++) {
        if (r->gone[i]) continue;
        for (int64_t k = 0; k < t->rows; k++) out->w[k * out->count + at] = r->w[i * t->rows + k];
        out->keep[at++] = (int32_t)i;
    }
    for (int64_t k = 0; k < t->rows; k++) {
        double b = t->bias == NULL ? 0 : (double)t->bias[k];
        for (int64_t i = 0; i < t->cols; i++) {
            double left = r->gone[i] ? 0 : (double)r->w[i * t->rows + k];
            b += ((double)t->w[k * t->cols + i] - left) * (double)t->moments->sum[i];
        }
        out->bias[k] = (float)b;
    }
}

bool removal_find(const RemovalTask *t, const int64_t *amounts, size_t n, Arena *a, Removal *out,
                  double *loss, double *all, Diag *d) {
    Arena *scratch = arena_new();
    Remover r;
    bool ok = t->moments->rows > 0 && remover_new(t, scratch, &r);
    *all = ok ? variance(t) : 0;
    int64_t gone = 0;
    for (size_t i = 0; i < n && ok; i++) {
        if (t->dear > 0 && r.lost > t->dear * (double)gone) {
            loss[i] = INFINITY;
            continue;
        }
        for (; gone < amounts[i]; gone++) {
            int64_t unit = cheapest(&r);
            for (int64_t j = 0; j < t->size; j++) remove_input(&r, unit * t->size + j);
        }
        if (out != NULL) take(&r, a, &out[i]);
        loss[i] = *all > 0 ? r.lost / *all : 0;
    }
    arena_free(scratch);
    return ok || diag_error(d, loc_none(),
                            "the inputs measured for pruning are not numbers; hint: check the "
                            "calibration text");
}
