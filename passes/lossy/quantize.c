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

/* Rows that have moments of their own: an expert's, or all. */
typedef struct {
    int64_t first, rows;
    const Moments *moments;
    double share; /* of the products that are made */
} Part;

static int64_t part_count(const Moments *m) { return m && m->expert ? m->experts : 1; }

static Part part_at(const Moments *m, int64_t rows, int64_t i) {
    if (!m || !m->expert) return (Part){0, rows, m, 1};
    const Moments *own = &m->expert[i];
    return (Part){rows / m->experts * i, rows / m->experts, own,
                  m->rows ? (double)own->rows / (double)m->rows : 0};
}

static QuantMatrix part_of(const QuantMatrix *q, const Part *p) {
    QuantMatrix part = *q;
    part.rows = p->rows;
    part.codes += p->first * (q->cols / q->format->vector);
    part.scale += p->first * q->groups;
    if (q->scale_code) part.scale_code += p->first * q->groups;
    if (q->row_scale) part.row_scale += p->first;
    if (q->zero) part.zero += p->first * q->groups;
    return part;
}

double matrix_energy(const float *w, const Moments *m, int64_t rows, int64_t cols) {
    double energy = 0;
    for (int64_t i = 0; i < part_count(m); i++) {
        Part p = part_at(m, rows, i);
        energy += p.share * quadratic_sum(w + p.first * cols, m ? p.moments->xx : NULL, p.rows, cols);
    }
    return energy;
}

double quant_loss(const float *w, const QuantMatrix *q, const Moments *m) {
    Arena *a = arena_new();
    size_t n = (size_t)(q->rows * q->cols);
    float *error = arena_array_of(a, n, float);
    quant_dense(q, error);
    for (size_t i = 0; i < n; i++) error[i] = w[i] - error[i];
    double loss = matrix_energy(error, m, q->rows, q->cols);
    arena_free(a);
    return loss;
}

/* What all rows share: a grid; of palettes scales too. */
static void fit_grid(const float *w, const float *weight, QuantMatrix *q, Arena *scratch) {
    if (q->format->vector > 1) {
        palette_learn(w, weight, q, scratch);
    } else if (q->format->grid == GRID_LEARNED) {
        grid_learn(w, weight, q, scratch);
    }
}

static void round_codes(const float *w, const float *weight, const Levels *l, QuantMatrix *q) {
    if (q->format->vector > 1) {
        palette_round(w, weight, q);
    } else {
        codes_round(w, l, q);
    }
}

static bool quantize_part(const float *w, const QuantOptions *o, const Part *p, QuantMatrix *all,
                          double *loss, Diag *d) {
    Arena *scratch = arena_new();
    QuantMatrix q = part_of(all, p);
    const float *weight = input_weights(p->moments, q.cols, scratch);
    Levels l;
    bool ok = true;
    w += p->first * q.cols;
    if (q.format->vector == 1) {
        levels_make(q.format, q.grid, &l);
        scales_search(w, weight, &l, &q);
    }
    if (p->moments && o->gptq) {
        double lost = 0;
        ok = gptq_codes(w, p->moments, o->order, &q, &lost, d);
        *loss += p->share * lost;
    } else {
        round_codes(w, weight, &l, &q);
    }
    arena_free(scratch);
    return ok;
}

static bool moments_fit(const Moments *m, int64_t rows, int64_t cols, Diag *d) {
    if (!m) return true;
    if (m->cols != cols || (m->expert && rows % m->experts))
        return diag_bug(d, loc_none(), "moments of %lld inputs for a matrix of %lld", (long long)m->cols,
                        (long long)cols);
    bool finite = all_finite(m->xx, cols * cols);
    for (int64_t i = 0; m->expert && i < m->experts; i++)
        finite = finite && all_finite(m->expert[i].xx, cols * cols);
    return finite || diag_error(d, loc_none(),
                                "the inputs of a matrix are not finite on the calibration text; hint: use "
                                "other text");
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
    if (!all_finite(w, rows * cols))
        return diag_error(d, loc_none(),
                          "a weight is infinite or not a number; hint: leave this matrix as it is");
    if (!moments_fit(m, rows, cols, d)) return false;
    Arena *scratch = arena_new();
    fit_grid(w, input_weights(m, cols, scratch), out, scratch);
    arena_free(scratch);
    double lost = 0;
    for (int64_t i = 0; i < part_count(m); i++) {
        Part p = part_at(m, rows, i);
        if (!quantize_part(w, o, &p, out, &lost, d)) return false;
    }
    if (loss) *loss = m && o->gptq ? lost : quant_loss(w, out, m);
    return true;
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

static bool moments_of(const Run *r, const uint32_t *index, uint32_t n, Arena *a, Moments *out) {
    bool apart = false;
    for (uint32_t k = 0; k < n; k++) apart |= r->lab->moments_apart && r->sites[index[k]].experts;
    return apart ? r->lab->moments_apart(r->lab, r->calibration, index, n, a, out, r->d)
                 : r->lab->moments(r->lab, r->calibration, index, n, a, out, r->d);
}

/* Sites from .. to - 1 multiply the same. */
static bool run_alike(const Run *r, size_t from, size_t to, Arena *a) {
    Moments *m = arena_array_of(a, to - from, Moments);
    uint32_t *index = arena_array_of(a, to - from, uint32_t), asked = 0;
    bool table = r->sites[from].kind == SITE_TABLE;
    for (size_t i = from; i < to; i++)
        if (r->chosen[i]) index[asked++] = (uint32_t)i;
    bool measured = r->lab && !table && asked > 0;
    if (measured && !moments_of(r, index, asked, a, m)) return false;
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
