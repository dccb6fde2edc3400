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

#include "passes/lossy/blocks.h"
#include "passes/lossy/linalg.h"
#include "passes/lossy/removal.h"

#define DAMPING 1e-4
#define NEAR 0.5 /* distance up to which a pair is measured */

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
        if (b->kind == SITE_LINEAR && !b->fixed && !b->experts && b->layer == a->layer + 1 &&
            b->rows == a->rows && b->cols == a->cols && place_in_layer(sites, k) == place)
            return k;
    }
    return n;
}

static size_t find_pairs(const Site *sites, size_t nsites, Arena *a, LossyStep **out) {
    size_t n = 0;
    *out = arena_array_of(a, nsites, LossyStep);
    for (size_t i = 0; i < nsites; i++) {
        const Site *site = &sites[i];
        if (site->kind != SITE_LINEAR || site->fixed || site->experts || site->layer < 0) continue;
        size_t other = partner_of(sites, nsites, i);
        if (other == nsites) continue;
        (*out)[n++] = (LossyStep){.kind = STEP_SHARE,
                                  .block = (uint32_t)i,
                                  .layer = site->layer,
                                  .amount = (int64_t)other,
                                  .weights = (uint64_t)(site->rows * site->cols)};
    }
    return n;
}

size_t share_offered(Graph *g, Arena *a, LossyStep **out) {
    Site *sites;
    size_t n = sites_find(g, a, &sites);
    return find_pairs(sites, n, a, out);
}

static bool pair_read(Graph *g, const Site *sites, const LossyStep *s, float *w[2], Arena *a, Diag *d) {
    const int64_t of[2] = {s->block, s->amount};
    for (int k = 0; k < 2; k++) {
        w[k] = arena_array_of(a, (size_t)s->weights, float);
        if (!site_read(g, &sites[of[k]], w[k], d)) return false;
    }
    return true;
}

/* The squared difference, relative to the squares of both: 0 = equal, 1 = unrelated. */
static bool pair_distance(const ShrinkTask *t, const LossyStep *s, double *out, Diag *d) {
    Arena *scratch = arena_new();
    float *w[2];
    double apart = 0, all = 0;
    bool ok = pair_read(t->exact, t->sites, s, w, scratch, d);
    for (uint64_t i = 0; i < s->weights && ok; i++) {
        double a = (double)w[0][i], b = (double)w[1][i];
        apart += (a - b) * (a - b);
        all += a * a + b * b;
    }
    *out = all > 0 ? apart / all : 0;
    arena_free(scratch);
    return ok;
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

bool share_prepare(Graph *g, const Site *sites, Lab *lab, const Windows *calibration, LossyStep *s, Arena *a,
                   Diag *d) {
    const uint32_t of[2] = {s->block, (uint32_t)s->amount};
    int64_t rows = sites[s->block].rows, cols = sites[s->block].cols;
    Arena *scratch = arena_new();
    Removal *r = arena_new_of(a, Removal);
    *r = (Removal){.rows = rows, .count = cols, .w = arena_array_of(a, (size_t)s->weights, float)};
    Moments m[2];
    float *w[2];
    bool ok = lab->moments(lab, calibration, of, 2, scratch, m, d) && pair_read(g, sites, s, w, scratch, d) &&
              (between(w[0], &m[0], w[1], &m[1], rows, cols, r->w, &s->loss, scratch) ||
               diag_error(d, loc_none(),
                          "the inputs measured for sharing are not numbers; hint: check the "
                          "calibration text"));
    arena_free(scratch);
    s->removal = r;
    return ok;
}

bool share_apply(Graph *g, const Site *sites, const LossyStep *s, Diag *d) {
    const Site *a = &sites[s->block], *b = &sites[s->amount];
    if (!site_write_dense(g, b, s->removal->w, DT_F32, d) ||
        !site_write_dense(g, a, s->removal->w, DT_F32, d))
        return false;
    graph_replace(g, site_value(g, b), site_value(g, a));
    return true;
}

/* ---- trying ---- */

static bool measure_pair(const ShrinkTask *t, StepOutcome *x, Arena *a, Diag *d) {
    Lab *lab = t->lab;
    Quality q = {0};
    uint32_t one = x->step.block, two = (uint32_t)x->step.amount;
    if (!share_prepare(t->exact, t->sites, lab, t->calibration, &x->step, a, d)) return false;
    const float *m = x->step.removal->w;
    bool ok = lab->set(lab, one, m, d) && lab->set(lab, two, m, d) && lab->measure(lab, t->probe, &q, d);
    x->kl = fmax(q.mean_kl, 0);
    x->measured = true;
    return lab->set(lab, one, NULL, d) && lab->set(lab, two, NULL, d) && ok;
}

static void judge(StepOutcome *x, double distance, bool free, Arena *a) {
    bool pays = x->measured && x->kl < x->worth;
    x->kept = pays && free;
    if (!x->measured)
        x->reason = arena_printf(a, "no nearer to each other than %.0f %% of unrelated ones", 100 * distance);
    else if (!pays)
        x->reason =
            arena_printf(a, "costs %.2g of KL; fewer bits for all save as much for %.2g", x->kl, x->worth);
    else if (free)
        x->reason = arena_printf(a, "%.2g of KL for numbers whose bits cost %.2g elsewhere", x->kl, x->worth);
    else
        x->reason = "other steps are taken, or one of the two is shared already";
}

/* All pairs that pay, as a graph. */
static bool take_pairs(const ShrinkTask *t, Arena *a, ShrinkResult *r, Diag *d) {
    r->kept = arena_array_of(a, r->outcomes.count, LossyStep);
    uint64_t numbers = 0;
    for (size_t i = 0; i < r->outcomes.count; i++) {
        const StepOutcome *x = &r->outcomes.data[i];
        if (!x->kept) continue;
        r->kept[r->nkept++] = x->step;
        r->predicted_kl += x->kl;
        numbers += x->step.weights;
    }
    if (r->nkept == 0) return true;
    r->predicted_gain = (double)numbers / (double)t->weights;
    r->graph = steps_apply(t->exact, r->kept, r->nkept, a, d);
    return r->graph && t->lab->measure_graph(t->lab, r->graph, t->probe, &r->measured, d);
}

bool share_choose(const ShrinkTask *t, Arena *a, ShrinkResult *r, Diag *d) {
    LossyStep *pair;
    size_t n = find_pairs(t->sites, t->nsites, a, &pair), nearest = 0;
    double *distance = arena_array_of(a, n, double);
    bool *taken = arena_array_of(a, t->nsites, bool), none = r->nkept == 0;
    for (size_t i = 0; i < n; i++) {
        if (!pair_distance(t, &pair[i], &distance[i], d)) return false;
        if (distance[i] < distance[nearest]) nearest = i;
    }
    for (size_t i = 0; i < n; i++) {
        StepOutcome x = {.step = pair[i],
                         .worth = shrink_worth(t, r->predicted_kl) * (double)pair[i].weights};
        if ((i == nearest || distance[i] < NEAR) && !measure_pair(t, &x, a, d)) return false;
        judge(&x, distance[i], none && !taken[x.step.block] && !taken[x.step.amount], a);
        if (x.kept) taken[x.step.block] = taken[x.step.amount] = true;
        VEC_PUSH(a, &r->outcomes, x);
    }
    return !none || take_pairs(t, a, r, d);
}
