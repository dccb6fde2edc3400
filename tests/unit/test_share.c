/* test_share.c: two matrices become one when that costs less than it saves; equal ones without a trace. */
#include <string.h>

#include "passes/lossy/blocks.h"
#include "tests/unit/fake_lab.h"

#define MODEL GPTC_SOURCE_DIR "/examples/shakespeare"

/* A lab that says the same of every change. */
typedef struct {
    FakeLab fake; /* first: fake_moments looks at it */
    double kl;
    int set, measured;
} FixedLab;

static bool fixed_set(Lab *lab, uint32_t site, const float *w, Diag *d) {
    (void)site, (void)d;
    ((FixedLab *)lab->self)->set += w != NULL ? 1 : -1;
    return true;
}
static bool fixed_measure(Lab *lab, const Windows *t, Quality *out, Diag *d) {
    (void)t, (void)d;
    FixedLab *f = lab->self;
    f->measured++;
    *out = (Quality){.mean_kl = f->kl};
    return true;
}
static bool fixed_measure_graph(Lab *lab, const Graph *g, const Windows *t, Quality *out, Diag *d) {
    (void)g;
    return fixed_measure(lab, t, out, d);
}

/* The site a layer after `i` of the same shape, made equal to it but for `noise`. */
static void plant(Opened *o, const Site *sites, size_t nsites, size_t i, float noise) {
    const Site *a = &sites[i], *b = NULL;
    for (size_t k = i + 1; k < nsites && b == NULL; k++)
        if (sites[k].layer == a->layer + 1 && sites[k].rows == a->rows && sites[k].cols == a->cols)
            b = &sites[k];
    CU_ASSERT_PTR_NOT_NULL_FATAL(b);
    float *w = arena_array_of(o->arena, (size_t)(a->rows * a->cols), float);
    CU_ASSERT_TRUE_FATAL(site_read(o->g, a, w, &o->diag));
    for (int64_t k = 0; k < a->rows * a->cols; k++) w[k] += noise * (float)cos((double)(k * k % 1009));
    CU_ASSERT_TRUE_FATAL(site_write_dense(o->g, b, w, DT_F32, &o->diag));
}

static void share(Opened *o, const Site *sites, size_t n, double kl, ShrinkResult *r, int *measured) {
    FixedLab f = {.fake = {sites}, .kl = kl};
    Lab lab = {.self = &f,
               .set = fixed_set,
               .measure = fixed_measure,
               .moments = fake_moments,
               .measure_graph = fixed_measure_graph};
    Windows none = {0};
    ShrinkTask t = {.exact = o->g,
                    .sites = sites,
                    .nsites = n,
                    .lab = &lab,
                    .calibration = &none,
                    .probe = &none,
                    .kl = 0.01,
                    .bits = 4.5,
                    .weights = graph_weigh(o->g, NULL)};
    *r = (ShrinkResult){0};
    CU_ASSERT_TRUE_FATAL(share_choose(&t, o->arena, r, &o->diag));
    CU_ASSERT_EQUAL(f.set, 0); /* what was set is as at first again */
    *measured = f.measured;
}

static void logits_of(Opened *o, Graph *g, Tensor *out) {
    int64_t ids[6] = {3, 1, 4, 1, 5, 9}, bind[4] = {0, 1, 6, 0};
    Tensor tokens = {.dtype = DT_I64, .rank = 2, .dim = {1, 6}, .data = ids};
    Run r = {.g = g, .tokens = &tokens, .arena = o->arena, .d = &o->diag};
    Tensor *in = arena_array_of(o->arena, g->inputs.count, Tensor);
    for (size_t i = 0; i < g->inputs.count; i++)
        CU_ASSERT_TRUE_FATAL(run_input(&r, &g->inputs.data[i], bind, &in[i]));
    EvalArgs args = {bind, 4, in, g->inputs.count, 0};
    CU_ASSERT_TRUE_FATAL(eval_graph(g, &args, &g->outputs.data[0].v, 1, out, o->arena, &o->diag));
}

/* A whole constant: the first layer's last product. */
static size_t last_product(const Site *sites, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (sites[i].kind == SITE_LINEAR && sites[i].layer == 0 && sites[i].cols == 1024) return i;
    return n;
}

static void test_equal(void) {
    Opened o = open_model(MODEL);
    Site *sites;
    size_t n = sites_find(o.g, o.arena, &sites), i = last_product(sites, n);
    plant(&o, sites, n, i, 0);
    uint64_t before = graph_weigh(o.g, NULL), moved = (uint64_t)(sites[i].rows * sites[i].cols);
    ShrinkResult r;
    int measured;
    Tensor a, b;
    share(&o, sites, n, 1e-6, &r, &measured);
    CU_ASSERT_PTR_NOT_NULL_FATAL(r.graph);
    CU_ASSERT_EQUAL(measured, 2); /* the pair, and the whole */
    CU_ASSERT_EQUAL(graph_weigh(r.graph, NULL), before - moved);
    CU_ASSERT_EQUAL_FATAL(r.nkept, 1);
    Text text = text_new(o.arena);
    LossyStep again;
    step_print(&text, &r.kept[0]);
    CU_ASSERT_TRUE(step_parse(o.g, text.data, text.count, o.arena, &again, &o.diag));
    CU_ASSERT_EQUAL(again.amount, r.kept[0].amount);
    logits_of(&o, o.g, &a);
    logits_of(&o, r.graph, &b);
    double worst = 0;
    for (size_t k = 0; k < tensor_count(&a); k++)
        worst = fmax(worst, fabs(tensor_get_f64(&a, k) - tensor_get_f64(&b, k)));
    CU_ASSERT_TRUE(worst < 1e-3 * deviation(&a)); /* damped least squares of equal ones */
    close_model(&o);
}

static void test_near(void) {
    Opened o = open_model(MODEL);
    Site *sites;
    size_t n = sites_find(o.g, o.arena, &sites);
    plant(&o, sites, n, last_product(sites, n), 0.001F);
    ShrinkResult kept, back;
    int measured;
    share(&o, sites, n, 1e-4, &kept, &measured);
    CU_ASSERT_PTR_NOT_NULL(kept.graph);
    share(&o, sites, n, 1e-2, &back, &measured); /* dearer than fewer bits */
    CU_ASSERT_PTR_NULL(back.graph);
    size_t tried = 0;
    for (size_t i = 0; i < back.outcomes.count; i++) {
        const StepOutcome *x = &back.outcomes.data[i];
        tried += x->measured;
        CU_ASSERT_PTR_NOT_NULL(x->reason);
        CU_ASSERT_FALSE(x->kept);
        if (x->measured) CU_ASSERT_TRUE(x->step.loss < 0.1 && x->kl > x->worth);
    }
    CU_ASSERT_EQUAL(tried, 1);
    close_model(&o);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("share", NULL, NULL);
    CU_add_test(s, "equal matrices become one without a trace", test_equal);
    CU_add_test(s, "near ones when that pays, and not when it does not", test_near);
    return unit_end();
}
