/* share.c: one matrix in place of two.
 *
 *   %3 = linear(%1, @a[K, N])          %3 = linear(%1, @m[K, N])
 *   %9 = linear(%7, @b[K, N])     ->   %9 = linear(%7, @m[K, N])
 *
 * Equal matrices, and each other's transposes, are one constant before lossy passes begin (passes/tie.c); here are pairs
 * of neighbouring layers that are only near. With A and B the second moments of their inputs, the matrix that loses least
 * for both products is M = (Wa A + Wb B) (A + B)^-1. Pairs that are near each other are measured, the nearest one in any
 * case; each is kept when its numbers cost less than they are worth, as a step is (shrink.c). */
#include <math.h>

#include "passes/lossy/linalg.h"
#include "passes/lossy/lossy.h"

#define DAMPING 1e-4
#define NEAR 0.5 /* distance up to which a pair is measured */

typedef struct {
    const ShrinkTask *t;
    Arena *a;
    ShareResult *out;
    Diag *d;
} Sharer;

/* ---- pairs ---- */

/* Which of its layer's matrices a site is. */
static uint32_t place_in_layer(const Site *sites, size_t i) {
    uint32_t place = 0;
    for (size_t k = 0; k < i; k++) place += sites[k].kind == SITE_LINEAR && sites[k].layer == sites[i].layer;
    return place;
}

static size_t partner_of(const Site *sites, size_t n, size_t i) {
    uint32_t place = place_in_layer(sites, i);
    for (size_t k = i + 1; k < n; k++) {
        const Site *a = &sites[i], *b = &sites[k];
        if (b->kind == SITE_LINEAR && !b->fixed && b->layer == a->layer + 1 && b->rows == a->rows &&
            b->cols == a->cols && b->transposed == a->transposed && place_in_layer(sites, k) == place)
            return k;
    }
    return n;
}

static void find_pairs(Sharer *s) {
    const ShrinkTask *t = s->t;
    s->out->tie = arena_array_of(s->a, t->nsites, TieOutcome);
    for (size_t i = 0; i < t->nsites; i++) {
        const Site *site = &t->sites[i];
        if (site->kind != SITE_LINEAR || site->fixed || site->layer < 0) continue;
        size_t other = partner_of(t->sites, t->nsites, i);
        if (other == t->nsites) continue;
        s->out->tie[s->out->n++] = (TieOutcome){
            .site = (uint32_t)i, .other = (uint32_t)other, .weights = (uint64_t)(site->rows * site->cols)};
    }
}

/* Heads that are also tables, and matrices that several products read. */
static uint64_t shared_numbers(const ShrinkTask *t) {
    Arena *a = arena_new();
    Uses uses = graph_uses(t->exact, a);
    uint64_t total = 0;
    for (size_t i = 0; i < t->nsites; i++) {
        const Site *s = &t->sites[i];
        uint32_t readers = s->tied ? 2 : uses.count[site_value(t->exact, s).id];
        total += (uint64_t)(s->rows * s->cols) * (readers > 1 ? readers - 1 : 0);
    }
    arena_free(a);
    return total;
}

/* ---- the matrix between ---- */

/* The sum over rows of (w - m) C (w - m)^T; m NULL: zero. */
static double product_error(const float *w, const float *m, const Moments *c, int64_t rows, int64_t cols,
                            Arena *scratch) {
    double sum = 0, *diff = arena_array_of(scratch, (size_t)cols, double);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < cols; i++)
            diff[i] = (double)w[r * cols + i] - (m ? (double)m[r * cols + i] : 0);
        for (int64_t i = 0; i < cols; i++) {
            double x = 0;
            for (int64_t j = 0; j < cols; j++) x += (double)c->xx[i * cols + j] * diff[j];
            sum += x * diff[i];
        }
    }
    return sum;
}

static bool between(const float *wa, const Moments *a, const float *wb, const Moments *b, int64_t rows,
                    int64_t cols, float *m, double *loss, Arena *scratch) {
    double *both = arena_array_of(scratch, (size_t)(cols * cols), double), trace = 0;
    double *x = arena_array_of(scratch, (size_t)(rows * cols), double);
    for (int64_t i = 0; i < cols * cols; i++) both[i] = (double)a->xx[i] + (double)b->xx[i];
    for (int64_t i = 0; i < cols; i++) trace += both[i * cols + i] / (double)cols;
    for (int64_t i = 0; i < cols; i++) both[i * cols + i] += DAMPING * trace + 1e-30;
    if (!spd_factor(both, cols)) return false;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < cols; k++) {
            double p = (double)wa[r * cols + k], q = (double)wb[r * cols + k];
            for (int64_t j = 0; j < cols; j++)
                x[r * cols + j] += p * (double)a->xx[k * cols + j] + q * (double)b->xx[k * cols + j];
        }
    spd_solve(both, cols, x, rows);
    for (int64_t i = 0; i < rows * cols; i++) m[i] = (float)x[i];
    double error =
        product_error(wa, m, a, rows, cols, scratch) + product_error(wb, m, b, rows, cols, scratch);
    double all =
        product_error(wa, NULL, a, rows, cols, scratch) + product_error(wb, NULL, b, rows, cols, scratch);
    *loss = all > 0 ? error / all : 0;
    return true;
}

static bool pair_read(Sharer *s, const TieOutcome *x, float *w[2], Arena *scratch) {
    const uint32_t of[2] = {x->site, x->other};
    for (int k = 0; k < 2; k++) {
        const Site *site = &s->t->sites[of[k]];
        w[k] = arena_array_of(scratch, (size_t)(site->rows * site->cols), float);
        if (!site_read(s->t->exact, site, w[k], s->d)) return false;
    }
    return true;
}

static bool pair_distance(Sharer *s, TieOutcome *x) {
    Arena *scratch = arena_new();
    float *w[2];
    double apart = 0, all = 0;
    bool ok = pair_read(s, x, w, scratch);
    for (uint64_t i = 0; i < x->weights && ok; i++) {
        double a = (double)w[0][i], b = (double)w[1][i];
        apart += (a - b) * (a - b);
        all += a * a + b * b;
    }
    x->distance = all > 0 ? apart / all : 0;
    arena_free(scratch);
    return ok;
}

/* The pair's matrix, in `to`. */
static bool pair_matrix(Sharer *s, TieOutcome *x, float *to, Arena *scratch) {
    const ShrinkTask *t = s->t;
    const uint32_t of[2] = {x->site, x->other};
    int64_t rows = t->sites[x->site].rows, cols = t->sites[x->site].cols;
    Moments m[2];
    float *w[2];
    if (!t->lab->moments(t->lab, t->calibration, of, 2, scratch, m, s->d)) return false;
    if (!pair_read(s, x, w, scratch)) return false;
    return between(w[0], &m[0], w[1], &m[1], rows, cols, to, &x->loss, scratch) ||
           diag_error(s->d, loc_none(),
                      "the inputs measured for sharing are not numbers; hint: check the "
                      "calibration text");
}

/* ---- trying ---- */

static bool measure_pair(Sharer *s, TieOutcome *x, const float *m) {
    Lab *lab = s->t->lab;
    Quality q = {0};
    bool ok = lab->set(lab, x->site, m, s->d) && lab->set(lab, x->other, m, s->d) &&
              lab->measure(lab, s->t->probe, &q, s->d);
    x->kl = fmax(q.mean_kl, 0);
    x->measured = true;
    return lab->set(lab, x->site, NULL, s->d) && lab->set(lab, x->other, NULL, s->d) && ok;
}

static bool try_pair(Sharer *s, TieOutcome *x) {
    Arena *scratch = arena_new();
    const Site *site = &s->t->sites[x->site];
    float *m = arena_array_of(scratch, (size_t)(site->rows * site->cols), float);
    bool ok = pair_matrix(s, x, m, scratch) && measure_pair(s, x, m);
    arena_free(scratch);
    return ok;
}

static void judge(Sharer *s, TieOutcome *x) {
    x->worth = shrink_worth(s->t, 0) * (double)x->weights;
    x->kept = x->measured && x->kl < x->worth;
    if (x->kept)
        x->reason =
            arena_printf(s->a, "%.2g of KL for numbers whose bits cost %.2g elsewhere", x->kl, x->worth);
    else if (x->measured)
        x->reason =
            arena_printf(s->a, "costs %.2g of KL; fewer bits for all save as much for %.2g", x->kl, x->worth);
    else
        x->reason =
            arena_printf(s->a, "no nearer to each other than %.0f %% of unrelated ones", 100 * x->distance);
}

/* Each pair that pays alone, unless one of its matrices is taken. */
static bool apply_pairs(Sharer *s) {
    ShareResult *out = s->out;
    Graph *g = graph_copy(s->t->exact, s->a);
    bool *taken = arena_array_of(s->a, s->t->nsites, bool), any = false;
    for (size_t i = 0; i < out->n; i++) {
        TieOutcome *x = &out->tie[i];
        if (x->kept && (taken[x->site] || taken[x->other])) {
            x->kept = false;
            x->reason = "one of the two is shared already";
        }
        if (!x->kept) continue;
        const Site *a = &s->t->sites[x->site], *b = &s->t->sites[x->other];
        taken[x->site] = taken[x->other] = any = true;
        Arena *scratch = arena_new();
        float *m = arena_array_of(scratch, (size_t)(a->rows * a->cols), float);
        bool ok = pair_matrix(s, x, m, scratch) && site_write_dense(g, b, m, DT_F32, s->d) &&
                  site_write_dense(g, a, m, DT_F32, s->d);
        arena_free(scratch);
        if (!ok) return false;
        graph_replace(g, site_value(g, b), site_value(g, a));
    }
    if (!any) return true;
    if (!graph_verify(g, s->d) || !s->t->lab->measure_graph(s->t->lab, g, s->t->probe, &out->measured, s->d))
        return false;
    out->graph = g;
    return true;
}

bool share_choose(const ShrinkTask *t, Arena *a, ShareResult *out, Diag *d) {
    *out = (ShareResult){.exact = shared_numbers(t)};
    Sharer s = {t, a, out, d};
    find_pairs(&s);
    size_t nearest = 0;
    for (size_t i = 0; i < out->n; i++) {
        if (!pair_distance(&s, &out->tie[i])) return false;
        if (out->tie[i].distance < out->tie[nearest].distance) nearest = i;
    }
    for (size_t i = 0; i < out->n; i++) {
        if ((i == nearest || out->tie[i].distance < NEAR) && !try_pair(&s, &out->tie[i])) return false;
        judge(&s, &out->tie[i]);
    }
    return apply_pairs(&s);
}
