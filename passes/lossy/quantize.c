/* quantize.c: one matrix into a format, and the sites of a graph one after the other (lossy.h). */
#include "passes/lossy/matrix.h"

#include <math.h>

/* ---- one matrix ---- */

static bool all_finite(const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return false;
    return true;
}

/* How much each input counts when scales are searched. */
static float *input_weights(const Moments *m, int64_t cols, Arena *a) {
    float *weight = arena_array_of(a, (size_t)cols, float);
    double mean = 0;
    for (int64_t i = 0; i < cols; i++) {
        weight[i] = m ? m->xx[i * cols + i] : 1;
        mean += (double)weight[i] / (double)cols;
    }
    /* An input that is always zero here may not be so elsewhere. */
    for (int64_t i = 0; i < cols; i++) weight[i] = mean > 0 ? weight[i] + (float)(mean * 1e-3) : 1;
    return weight;
}

double quant_loss(const float *w, const QuantMatrix *q, const Moments *m) {
    Arena *a = arena_new();
    size_t n = (size_t)(q->rows * q->cols);
    float *error = arena_array_of(a, n, float);
    quant_dense(q, error);
    for (size_t i = 0; i < n; i++) error[i] = w[i] - error[i];
    double loss = quadratic_sum(error, m ? m->xx : NULL, q->rows, q->cols);
    arena_free(a);
    return loss;
}

/* Grid and scales. */
static void fit_format(const float *w, const float *weight, QuantMatrix *q, Arena *scratch) {
    if (q->format->vector > 1) {
        palette_learn(w, weight, q, scratch);
        return;
    }
    Levels l;
    if (q->format->grid == GRID_LEARNED) grid_learn(w, weight, q, scratch);
    levels_make(q->format, q->grid, &l);
    scales_search(w, weight, &l, q);
}

static void round_codes(const float *w, const float *weight, QuantMatrix *q) {
    Levels l;
    if (q->format->vector > 1) {
        palette_round(w, weight, q);
        return;
    }
    levels_make(q->format, q->grid, &l);
    codes_round(w, &l, q);
}

double matrix_energy(const float *w, const Moments *m, int64_t rows, int64_t cols) {
    return quadratic_sum(w, m ? m->xx : NULL, rows, cols);
}

bool quantize_matrix(const float *w, const Format *f, const QuantOptions *o, int64_t rows, int64_t cols,
                     Arena *a, QuantMatrix *out, double *loss, Diag *d) {
    const Moments *m = o->moments;
    if (!quant_new(f, rows, cols, a, out))
        return diag_error(d, loc_none(),
                          "a matrix of %lld x %lld cannot be stored as %s; hint: choose another format",
                          (long long)rows, (long long)cols, f->name);
    if (f->vector > 4 || (f->zero && f->grid != GRID_LINEAR))
        return diag_error(d, loc_none(), "matrices cannot be quantised to %s; hint: choose another format",
                          f->name);
    if (m && m->cols != cols)
        return diag_bug(d, loc_none(), "moments of %lld inputs for a matrix of %lld", (long long)m->cols,
                        (long long)cols);
    if (!all_finite(w, rows * cols))
        return diag_error(d, loc_none(),
                          "a weight is infinite or not a number; hint: leave this matrix as it is");
    if (m && !all_finite(m->xx, cols * cols))
        return diag_error(
            d, loc_none(),
            "the inputs of a matrix are not finite on the calibration text; hint: use other text");
    Arena *scratch = arena_new();
    const float *weight = input_weights(m, cols, scratch);
    fit_format(w, weight, out, scratch);
    double lost = 0;
    bool ok = true;
    if (m && o->gptq) {
        ok = gptq_codes(w, m, o->order, out, &lost, d);
    } else {
        round_codes(w, weight, out);
        if (loss) lost = quant_loss(w, out, m);
    }
    if (loss) *loss = lost;
    arena_free(scratch);
    return ok;
}

/* ---- a graph ---- */

/* What a product multiplies with its matrix; none for tables. */
static ValId site_input(const Graph *g, const Site *s) {
    return s->kind == SITE_TABLE ? NO_VAL : graph_node(g, s->user)->in[0];
}

typedef struct {
    Graph *g;
    const Site *sites;
    size_t n;
    const Format *const *chosen;
    Lab *lab;
    const Windows *calibration;
    const LossyProgress *progress;
    Diag *d;
} Run;

static bool run_site(const Run *r, size_t i, const Moments *m, Arena *a) {
    const Site *s = &r->sites[i];
    QuantOptions o = {.moments = m, .gptq = true, .order = true};
    float *w = arena_array_of(a, (size_t)(s->rows * s->cols), float);
    QuantMatrix q;
    double loss;
    if (!site_read(r->g, s, w, r->d) ||
        !quantize_matrix(w, r->chosen[i], &o, s->rows, s->cols, a, &q, &loss, r->d))
        return diag_error(r->d, loc_none(), "\"%s\" was not quantised; hint: see the error before", s->name);
    double energy = r->progress ? matrix_energy(w, m, s->rows, s->cols) : 0;
    quant_dense(&q, w);
    if (!site_write(r->g, s, &q, r->d) || (r->lab && !r->lab->set(r->lab, (uint32_t)i, w, r->d)))
        return false;
    if (r->progress && !r->progress->site(r->progress->self, i + 1, r->n, s, r->chosen[i], loss, energy))
        return diag_error(r->d, loc_none(), "quantising was stopped after \"%s\"; hint: start again",
                          s->name);
    return true;
}

/* Sites from .. to - 1 multiply the same. */
static bool run_alike(const Run *r, size_t from, size_t to, Arena *a) {
    Moments *m = arena_array_of(a, to - from, Moments);
    uint32_t *index = arena_array_of(a, to - from, uint32_t), asked = 0;
    bool table = r->sites[from].kind == SITE_TABLE;
    for (size_t i = from; i < to; i++)
        if (r->chosen[i]) index[asked++] = (uint32_t)i;
    bool measured = r->lab && !table && asked > 0;
    if (measured && !r->lab->moments(r->lab, r->calibration, index, asked, a, m, r->d)) return false;
    for (uint32_t k = 0; k < asked; k++) {
        ArenaMark mark = arena_mark(a);
        if (!run_site(r, index[k], measured ? &m[k] : NULL, a)) return false;
        arena_reset(a, mark);
    }
    return true;
}

bool lossy_quantize(Graph *g, const Site *sites, size_t n, const Format *const *chosen, Lab *lab,
                    const Windows *calibration, const LossyProgress *progress, Diag *d) {
    Run r = {g, sites, n, chosen, lab, calibration, progress, d};
    Arena *a = arena_new();
    bool ok = true;
    for (size_t from = 0, to; ok && from < n; from = to) {
        ValId input = site_input(g, &sites[from]);
        for (to = from + 1; to < n && val_ok(input) && val_eq(input, site_input(g, &sites[to]));) to++;
        ArenaMark mark = arena_mark(a);
        ok = run_alike(&r, from, to, a);
        arena_reset(a, mark);
    }
    arena_free(a);
    return ok;
}
