/* sparse.c: two of every four inputs of each output, and what that costs.
 *
 * In running order of the inputs, of each four the two go whose removal costs least, w^2 / U_jj^2, and what a removed
 * weight leaves undone is carried over to the inputs behind it, by row j of U with H^-1 = U^T U (SparseGPT: Frantar and
 * Alistarh, arXiv 2301.00774). The mask is the matrix's own, so the matrix keeps its shape: it is smaller only where it
 * is stored as its values and their places, and faster only where a kernel reads those. */
#include <math.h>
#include <string.h>

#include "passes/lossy/blocks.h"
#include "passes/lossy/linalg.h"

#define DAMPING 0.01 /* of the mean moment */
#define NO_FORMAT "no kernel of this target reads values with their places"

/* factor [cols][cols] = L with H^-1 = L L^T, so U is its transpose. */
static bool inverse_factor(const Moments *m, double *factor) {
    int64_t n = m->cols;
    double mean = 0;
    for (int64_t i = 0; i < n; i++) mean += (double)m->xx[i * n + i] / (double)n;
    for (int64_t i = 0; i < n * n; i++) factor[i] = (double)m->xx[i];
    for (int64_t i = 0; i < n; i++) factor[i * n + i] += DAMPING * mean + 1e-30;
    return spd_invert(factor, n) && spd_factor(factor, n);
}

/* The two of w[0..4) that cost least. */
static void mark_two(const double *w, const double *factor, int64_t n, int64_t at, bool gone[4]) {
    for (int i = 0; i < 4; i++) {
        double pivot = factor[(at + i) * n + at + i], own = fabs(w[at + i]) / pivot;
        int less = 0;
        for (int k = 0; k < 4; k++) {
            double other = fabs(w[at + k]) / factor[(at + k) * n + at + k];
            less += other < own || (other == own && k < i);
        }
        gone[i] = less < 2;
    }
}

bool sparse_mask(float *w, int64_t rows, const Moments *m, Diag *d) {
    int64_t n = m->cols;
    Arena *scratch = arena_new();
    double *factor = arena_array_of(scratch, (size_t)(n * n), double);
    double *upper = arena_array_of(scratch, (size_t)(n * n), double);
    double *row = arena_array_of(scratch, (size_t)n, double);
    bool ok = inverse_factor(m, factor);
    for (int64_t i = 0; i < n && ok; i++)
        for (int64_t j = i; j < n; j++) upper[i * n + j] = factor[j * n + i];
    for (int64_t r = 0; r < rows && ok; r++) {
        for (int64_t i = 0; i < n; i++) row[i] = (double)w[r * n + i];
        bool gone[4] = {false};
        for (int64_t i = 0; i < n; i++) {
            if (i % 4 == 0 && i + 4 <= n) mark_two(row, factor, n, i, gone);
            if (i >= n / 4 * 4 || !gone[i % 4]) continue;
            const double *restrict u = upper + i * n;
            double error = row[i] / u[i];
            for (int64_t j = i; j < n; j++) row[j] -= error * u[j];
            row[i] = 0;
        }
        for (int64_t i = 0; i < n; i++) w[r * n + i] = (float)row[i];
    }
    arena_free(scratch);
    return ok || diag_error(d, loc_none(),
                            "the inputs measured for 2:4 are not numbers; hint: check the "
                            "calibration text");
}

/* Site i with half of its weights, measured alone. */
static bool measure_site(const ShrinkTask *t, uint32_t i, StepOutcome *out, Diag *d) {
    const Site *s = &t->sites[i];
    Arena *scratch = arena_new();
    Moments m;
    Quality q = {0};
    float *w = arena_array_of(scratch, (size_t)(s->rows * s->cols), float);
    bool ok = t->lab->moments(t->lab, t->calibration, &i, 1, scratch, &m, d) &&
              site_read(t->exact, s, w, d) && sparse_mask(w, s->rows, &m, d) &&
              t->lab->set(t->lab, i, w, d) && t->lab->measure(t->lab, t->probe, &q, d);
    ok = t->lab->set(t->lab, i, NULL, d) && ok;
    arena_free(scratch);
    out->kl = fmax(q.mean_kl, 0);
    out->measured = true;
    return ok;
}

/* The largest matrix of a layer in the middle: of those the least is lost. */
static uint32_t choose_site(const ShrinkTask *t) {
    uint32_t best = (uint32_t)t->nsites;
    int32_t layers = 0;
    for (uint32_t i = 0; i < t->nsites; i++)
        if (t->sites[i].layer >= layers) layers = t->sites[i].layer + 1;
    for (uint32_t i = 0; i < t->nsites; i++) {
        const Site *s = &t->sites[i];
        if (s->kind != SITE_LINEAR || s->fixed || s->experts || s->layer != layers / 2) continue;
        if (best == t->nsites || s->rows * s->cols > t->sites[best].rows * t->sites[best].cols) best = i;
    }
    return best;
}

bool sparse_choose(const ShrinkTask *t, Arena *a, ShrinkResult *r, Diag *d) {
    uint32_t site = choose_site(t);
    if (site == t->nsites) return true;
    const Site *s = &t->sites[site];
    int64_t zeros = s->rows * (s->cols / 4 * 2);
    StepOutcome x = {.step = {.kind = STEP_SPARSE,
                              .block = site,
                              .layer = s->layer,
                              .amount = zeros,
                              .weights = (uint64_t)zeros}};
    if (!measure_site(t, site, &x, d)) return false;
    /* of four codes two go, and two places of two bits come */
    x.worth = shrink_worth(t, r->predicted_kl) * fmax(1 - 2 / t->bits, 0) * (double)zeros;
    x.reason =
        x.kl < x.worth
            ? "cannot pay on this target: " NO_FORMAT
            : arena_printf(a, "costs %.2g of KL; fewer bits for all save as much for %.2g, and " NO_FORMAT,
                           x.kl, x.worth);
    VEC_PUSH(a, &r->outcomes, x);
    return true;
}
