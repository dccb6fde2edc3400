/* lab_moments.c: second moments of what sites multiply, summed over the rows of a text.
 *
 * Each distinct input (a buffer, as its last writer left it) is summed once, whichever products read it: x x^T by the
 * runtime's product kernel (probe_gram), the mean by plain sums; batch after batch in the text's order. */
#include "codegen/lab_cpu.h"

#include "runtime/probe.h"

typedef struct {
    uint32_t step, writer; /* a product that reads it; the step before it that wrote the buffer last */
    uint32_t k;            /* floats that are multiplied */
    int64_t rows;
    float *xx;   /* [k][k] */
    double *sum; /* [k] */
} Input;
typedef struct {
    const Program *program;
    VEC(Input) inputs;
    bool *at;
    int64_t length;
} Inputs;

static uint32_t last_writer(const Program *p, uint32_t step, uint64_t offset) {
    uint32_t i = step;
    while (i > 0 && !step_writes(&p->steps.data[i - 1], offset)) i--;
    return i;
}

/* The input of a product, found or added. */
static size_t input_of(Inputs *all, uint32_t step, Arena *a) {
    const ArtStep *s = &all->program->steps.data[step];
    uint32_t k = s->u.linear.k, writer = last_writer(all->program, step, s->arg[0].value);
    for (size_t i = 0; i < all->inputs.count; i++) {
        const Input *in = &all->inputs.data[i];
        if (all->program->steps.data[in->step].arg[0].value == s->arg[0].value && in->writer == writer)
            return i;
    }
    Input in = {.step = step, .writer = writer, .k = k};
    in.xx = arena_array_of(a, (size_t)k * k, float);
    in.sum = arena_array_of(a, k, double);
    VEC_PUSH(a, &all->inputs, in);
    all->at[step] = true;
    return all->inputs.count - 1;
}

static bool input_add(LabCpu *l, const Inputs *all, Input *in, uint32_t rows, Diag *d) {
    const float *x = probe_buffer(l->model.session, all->program->steps.data[in->step].arg[0].value);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < in->k; c++) in->sum[c] += (double)x[(size_t)r * in->k + c];
    in->rows += rows;
    return probe_gram(l->model.session, x, rows, in->k, in->xx) ||
           diag_error(d, loc_none(), "no memory for second moments of %u columns", in->k);
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
static Moments moments_of(const Input *in, Arena *a) {
    Moments m = {.cols = in->k, .rows = in->rows, .xx = in->xx, .sum = arena_array_of(a, in->k, float)};
    float scale = in->rows ? 1 / (float)in->rows : 0;
    for (size_t i = 0; i < in->k; i++) {
        m.sum[i] = in->rows ? (float)(in->sum[i] / (double)in->rows) : 0;
        for (size_t j = i; j < in->k; j++)
            m.xx[i * in->k + j] = m.xx[j * in->k + i] = m.xx[i * in->k + j] * scale;
    }
    return m;
}

/* The mean over the rows of both. */
static Moments moments_join(const Moments *x, const Moments *y, Arena *a) {
    size_t k = (size_t)x->cols;
    Moments m = {x->cols, x->rows + y->rows, arena_array_of(a, k * k, float), arena_array_of(a, k, float)};
    double rows = m.rows ? (double)m.rows : 1, p = (double)x->rows / rows, q = (double)y->rows / rows;
    for (size_t i = 0; i < k * k; i++) m.xx[i] = (float)(p * (double)x->xx[i] + q * (double)y->xx[i]);
    for (size_t i = 0; i < k; i++) m.sum[i] = (float)(p * (double)x->sum[i] + q * (double)y->sum[i]);
    return m;
}

static Moments moments_of_table(int64_t cols, Arena *a) {
    Moments m = {cols, 0, arena_array_of(a, (size_t)(cols * cols), float),
                 arena_array_of(a, (size_t)cols, float)};
    for (int64_t i = 0; i < cols; i++) m.xx[i * cols + i] = 1;
    return m;
}

/* ---- the whole ---- */

typedef VEC(size_t) Reads; /* of a site: its inputs */

static void site_reads(Inputs *all, const LabSite *s, Arena *made, Arena *scratch, Reads *out) {
    for (uint32_t step = 0; step < all->program->plan.n_steps; step++) {
        const ArtStep *t = &all->program->steps.data[step];
        for (size_t k = 0; k < s->places.count; k++)
            if (t->kernel == ART_K_LINEAR && t->arg[1].value == s->places.data[k].tensor)
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

bool lab_moments(Lab *lab, const Windows *t, const uint32_t *sites, uint32_t n, Arena *a, Moments *out,
                 Diag *d) {
    LabCpu *l = lab->self;
    Arena *scratch = arena_new();
    Inputs all = {.program = l->model.program,
                  .at = arena_array_of(scratch, l->model.program->plan.n_steps + 1u, bool)};
    Reads *reads = arena_array_of(scratch, n, Reads);
    for (uint32_t i = 0; i < n; i++) site_reads(&all, &l->sites[sites[i]], a, scratch, &reads[i]);
    bool ok = sum_inputs(l, &all, t, d);
    Moments *of = arena_array_of(scratch, all.inputs.count, Moments);
    for (size_t i = 0; ok && i < all.inputs.count; i++) of[i] = moments_of(&all.inputs.data[i], a);
    for (uint32_t i = 0; ok && i < n; i++) {
        out[i] = reads[i].count ? of[reads[i].data[0]] : moments_of_table(l->sites[sites[i]].site.cols, a);
        for (size_t k = 1; k < reads[i].count; k++) out[i] = moments_join(&out[i], &of[reads[i].data[k]], a);
    }
    arena_free(scratch);
    return ok;
}
