/* lab_moments.c: second moments of what sites multiply, summed over the rows of a text.
 *
 * Each distinct input (a buffer, as its last writer left it) is summed once, whichever products read it: x x^T by the
 * runtime's product kernel (probe_gram), the mean by plain sums; batch after batch in the text's order. What chosen
 * matrices multiply is either summed whole, or gathered by expert and summed for each. */
#include "codegen/lab_cpu.h"

#include <string.h>

#include "runtime/probe.h"

#define APART_BYTES ((size_t)1 << 30) /* of moments by expert; what needs more is known of all together */
#define BORROWED 0.1f /* rows, for each column, that an expert's moments have of the mean over all experts */

typedef struct {
    int64_t rows;
    float *xx;   /* [k][k] */
    double *sum; /* [k] */
} Sums;
typedef struct {
    uint32_t step, writer; /* a product that reads it; the step before it that wrote the buffer last */
    uint32_t k, each;      /* floats that are multiplied; so many times in a row of the buffer */
    uint32_t experts;      /* whose rows are summed apart; 0: nobody's */
    uint32_t chooser;      /* the last writer of what they are chosen by */
    Sums all, *expert;     /* all: without experts alone, at first */
} Input;
typedef struct {
    const Program *program;
    VEC(Input) inputs;
    bool *at;
    bool apart;
    int64_t length;
} Inputs;

static uint32_t last_writer(const Program *p, uint32_t step, uint64_t offset) {
    uint32_t i = step;
    while (i > 0 && !step_writes(&p->steps.data[i - 1], offset)) i--;
    return i;
}

static Sums sums_new(uint32_t k, Arena *a) {
    return (Sums){.xx = arena_array_of(a, (size_t)k * k, float), .sum = arena_array_of(a, k, double)};
}

static Input input_at(const Inputs *all, uint32_t step) {
    const ArtStep *s = &all->program->steps.data[step];
    Input in = {.step = step, .writer = last_writer(all->program, step, s->arg[0].value), .each = 1};
    if (s->kernel == ART_K_LINEAR) {
        in.k = s->u.linear.k;
        return in;
    }
    const ArtRouted *u = &s->u.routed;
    in.k = u->k;
    in.each = u->shared ? 1 : u->slots;
    if (!all->apart || (size_t)u->k * u->k * u->experts > APART_BYTES / sizeof(float)) return in;
    in.experts = u->experts;
    in.chooser = last_writer(all->program, step, s->arg[1].value);
    return in;
}

static bool same_input(const Program *p, const Input *a, const Input *b) {
    const ArtArg *x = p->steps.data[a->step].arg, *y = p->steps.data[b->step].arg;
    if (x[0].value != y[0].value || a->writer != b->writer || a->k != b->k || a->experts != b->experts)
        return false;
    return a->experts == 0 || (x[1].value == y[1].value && a->chooser == b->chooser);
}

/* The input of a product, found or added. */
static size_t input_of(Inputs *all, uint32_t step, Arena *a) {
    Input in = input_at(all, step);
    for (size_t i = 0; i < all->inputs.count; i++)
        if (same_input(all->program, &all->inputs.data[i], &in)) return i;
    in.all = sums_new(in.k, a);
    if (in.experts) in.expert = arena_array_of(a, in.experts, Sums);
    for (uint32_t e = 0; e < in.experts; e++) in.expert[e] = sums_new(in.k, a);
    VEC_PUSH(a, &all->inputs, in);
    all->at[step] = true;
    return all->inputs.count - 1;
}

static bool sums_add(LabCpu *l, Sums *s, const float *x, uint32_t rows, uint32_t k, Diag *d) {
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < k; c++) s->sum[c] += (double)x[(size_t)r * k + c];
    s->rows += rows;
    return rows == 0 || probe_gram(l->model.session, x, rows, k, s->xx) ||
           diag_error(d, loc_none(), "no memory for second moments of %u columns", k);
}

/* Each expert's inputs, one below the other. */
static bool experts_add(LabCpu *l, const ArtStep *s, Input *in, const float *x, uint32_t rows, Diag *d) {
    const float *index = probe_buffer(l->model.session, s->arg[1].value);
    uint32_t slots = s->u.routed.slots;
    Arena *a = arena_new();
    float *own = arena_array_of(a, (size_t)rows * slots * in->k, float);
    bool ok = true;
    for (uint32_t e = 0; ok && e < in->experts; e++) {
        uint32_t n = 0;
        for (size_t i = 0; i < (size_t)rows * slots; i++) {
            if (index[i] != (float)e) continue;
            memcpy(own + (size_t)n++ * in->k, x + (in->each == 1 ? i / slots : i) * in->k, in->k * sizeof *x);
        }
        ok = sums_add(l, &in->expert[e], own, n, in->k, d);
    }
    arena_free(a);
    return ok;
}

static bool input_add(LabCpu *l, const Inputs *all, Input *in, uint32_t rows, Diag *d) {
    const ArtStep *s = &all->program->steps.data[in->step];
    const float *x = probe_buffer(l->model.session, s->arg[0].value);
    return in->experts ? experts_add(l, s, in, x, rows, d)
                       : sums_add(l, &in->all, x, rows * in->each, in->k, d);
}

static bool moments_visit(void *user, LabCpu *l, uint32_t step, int64_t first, uint32_t n, Diag *d) {
    Inputs *all = user;
    (void)first;
    for (size_t i = 0; i < all->inputs.count; i++)
        if (all->inputs.data[i].step == step &&
            !input_add(l, all, &all->inputs.data[i], (uint32_t)(n * all->length), d))
            return false;
    return true;
}

/* ---- results ---- */

/* The sums become means; both halves of xx agree to the bit. */
static Moments moments_of(const Sums *s, uint32_t k, Arena *a) {
    Moments m = {.cols = k, .rows = s->rows, .xx = s->xx, .sum = arena_array_of(a, k, float)};
    float scale = s->rows ? 1 / (float)s->rows : 0;
    for (size_t i = 0; i < k; i++) {
        m.sum[i] = s->rows ? (float)(s->sum[i] / (double)s->rows) : 0;
        for (size_t j = i; j < k; j++) m.xx[i * k + j] = m.xx[j * k + i] = m.xx[i * k + j] * scale;
    }
    return m;
}

/* What an expert multiplies that the text chose rarely is not known: some of the mean over all stands in for it. */
static Moments moments_of_expert(const Sums *s, const Moments *all) {
    Moments m = {.cols = all->cols, .rows = s->rows, .xx = s->xx};
    size_t k = (size_t)m.cols;
    float borrowed = BORROWED * (float)k, scale = 1 / ((float)s->rows + borrowed);
    for (size_t i = 0; i < k; i++)
        for (size_t j = i; j < k; j++)
            m.xx[i * k + j] = m.xx[j * k + i] = (m.xx[i * k + j] + borrowed * all->xx[i * k + j]) * scale;
    return m;
}

static Moments moments_apart(Input *in, Arena *a) {
    size_t k = in->k;
    for (uint32_t e = 0; e < in->experts; e++) {
        in->all.rows += in->expert[e].rows;
        for (size_t i = 0; i < k; i++) in->all.sum[i] += in->expert[e].sum[i];
        for (size_t i = 0; i < k * k; i++) in->all.xx[i] += in->expert[e].xx[i];
    }
    Moments m = moments_of(&in->all, in->k, a), *own = arena_array_of(a, in->experts, Moments);
    for (uint32_t e = 0; e < in->experts; e++) own[e] = moments_of_expert(&in->expert[e], &m);
    m.expert = own;
    m.experts = in->experts;
    return m;
}

/* The mean over the rows of both; whose moments by expert, nobody knows. */
static Moments moments_join(const Moments *x, const Moments *y, Arena *a) {
    size_t k = (size_t)x->cols;
    Moments m = {.cols = x->cols, .rows = x->rows + y->rows};
    m.xx = arena_array_of(a, k * k, float);
    m.sum = arena_array_of(a, k, float);
    double rows = m.rows ? (double)m.rows : 1, p = (double)x->rows / rows, q = (double)y->rows / rows;
    for (size_t i = 0; i < k * k; i++) m.xx[i] = (float)(p * (double)x->xx[i] + q * (double)y->xx[i]);
    for (size_t i = 0; i < k; i++) m.sum[i] = (float)(p * (double)x->sum[i] + q * (double)y->sum[i]);
    return m;
}

static Moments moments_of_table(int64_t cols, Arena *a) {
    Moments m = {.cols = cols};
    m.xx = arena_array_of(a, (size_t)(cols * cols), float);
    m.sum = arena_array_of(a, (size_t)cols, float);
    for (int64_t i = 0; i < cols; i++) m.xx[i * cols + i] = 1;
    return m;
}

/* ---- the whole ---- */

typedef VEC(size_t) Reads; /* of a site: its inputs */

static void site_reads(Inputs *all, const LabSite *s, Arena *made, Arena *scratch, Reads *out) {
    for (uint32_t step = 0; step < all->program->plan.n_steps; step++) {
        const ArtStep *t = &all->program->steps.data[step];
        for (size_t k = 0; k < s->places.count; k++)
            if ((t->kernel == ART_K_LINEAR && t->arg[1].value == s->places.data[k].tensor) ||
                (t->kernel == ART_K_ROUTED && t->arg[2].value == s->places.data[k].tensor))
                VEC_PUSH(scratch, out, input_of(all, step, made));
    }
}

static bool sum_inputs(LabCpu *l, Inputs *all, const Windows *t, Diag *d) {
    LabText *x;
    uint32_t end = all->program->plan.n_steps;
    if (!all->inputs.count) return true;
    if (!lab_text_rows(l, t, &x, d)) return false;
    while (!all->at[end]) end--;
    all->length = t->length;
    const LabVisit v = {moments_visit, all, all->at};
    return lab_run(l, x, t, end, &v, d);
}

static bool moments_sum(LabCpu *l, const Windows *t, const uint32_t *sites, uint32_t n, bool apart, Arena *a,
                        Moments *out, Diag *d) {
    Arena *scratch = arena_new();
    Inputs all = {.program = l->model.program,
                  .apart = apart,
                  .at = arena_array_of(scratch, l->model.program->plan.n_steps + 1u, bool)};
    Reads *reads = arena_array_of(scratch, n, Reads);
    for (uint32_t i = 0; i < n; i++) site_reads(&all, &l->sites[sites[i]], a, scratch, &reads[i]);
    bool ok = sum_inputs(l, &all, t, d);
    Moments *of = arena_array_of(scratch, all.inputs.count, Moments);
    for (size_t i = 0; ok && i < all.inputs.count; i++) {
        Input *in = &all.inputs.data[i];
        of[i] = in->experts ? moments_apart(in, a) : moments_of(&in->all, in->k, a);
    }
    for (uint32_t i = 0; ok && i < n; i++) {
        out[i] = reads[i].count ? of[reads[i].data[0]] : moments_of_table(l->sites[sites[i]].site.cols, a);
        for (size_t k = 1; k < reads[i].count; k++) out[i] = moments_join(&out[i], &of[reads[i].data[k]], a);
    }
    arena_free(scratch);
    return ok;
}

bool lab_moments(Lab *lab, const Windows *t, const uint32_t *sites, uint32_t n, Arena *a, Moments *out,
                 Diag *d) {
    return moments_sum(lab->self, t, sites, n, false, a, out, d);
}

bool lab_moments_apart(Lab *lab, const Windows *t, const uint32_t *sites, uint32_t n, Arena *a, Moments *out,
                       Diag *d) {
    return moments_sum(lab->self, t, sites, n, true, a, out, d);
}
