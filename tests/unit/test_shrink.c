/* test_shrink.c: steps are kept when they cost less than the same bits cost elsewhere, and rolled back when not. */
#include <string.h>

#include "tests/unit/fake_lab.h"

#define MODEL GPTC_SOURCE_DIR "/tests/corpus/models/falcon-new-dynamo22"

/* A lab in which numbers that are missing cost so much each; several steps together cost `together` times their sum. */
typedef struct {
    FakeLab fake; /* first: fake_moments looks at it */
    uint64_t weights;
    double each, together;
    int64_t most; /* numbers that a single step takes at most; more are several steps */
    int measured;
    int *asked; /* [sites]: times that moments were computed */
} PricedLab;

static bool priced_measure(Lab *lab, const Graph *g, const Windows *t, Quality *out, Diag *d) {
    PricedLab *p = lab->self;
    Arena *a = arena_new();
    double gone = (double)p->weights - (double)graph_weigh(g, NULL);
    (void)t;
    (void)d;
    p->measured++;
    *out = (Quality){.mean_kl = p->each * gone * (gone > (double)p->most ? p->together : 1)};
    arena_free(a);
    return true;
}

static bool priced_moments(Lab *lab, const Windows *t, const uint32_t *sites, uint32_t n, Arena *a,
                           Moments *out, Diag *d) {
    PricedLab *p = lab->self;
    for (uint32_t k = 0; k < n; k++) p->asked[sites[k]]++;
    return fake_moments(lab, t, sites, n, a, out, d);
}

/* Sites set alone are much too dear. */
static bool priced_set(Lab *lab, uint32_t site, const float *w, Diag *d) {
    (void)lab, (void)site, (void)w, (void)d;
    return true;
}
static bool priced_sites(Lab *lab, const Windows *t, Quality *out, Diag *d) {
    (void)lab, (void)t, (void)d;
    *out = (Quality){.mean_kl = 1};
    return true;
}

/* How many numbers go at a price each; -1 when nothing does. sensitivity: of all sites; 0 = not known. */
static int64_t shrink_known(double each, double together, double sensitivity, ShrinkResult *r, Opened *o) {
    Site *sites;
    size_t nsites = sites_find(o->g, o->arena, &sites);
    PricedLab p = {{sites}, graph_weigh(o->g, NULL), each, together, 2048, 0};
    Lab lab = {.self = &p,
               .set = priced_set,
               .measure = priced_sites,
               .moments = priced_moments,
               .measure_graph = priced_measure};
    Windows none = {0};
    ShrinkTask t = {.exact = o->g,
                    .sites = sites,
                    .nsites = nsites,
                    .lab = &lab,
                    .calibration = &none,
                    .probe = &none,
                    .kl = 0.01,
                    .bits = 4.5,
                    .weights = p.weights};
    double *known = arena_array_of(o->arena, nsites, double);
    for (size_t i = 0; i < nsites; i++) known[i] = sensitivity;
    if (sensitivity > 0) t.sensitivity = known;
    p.asked = arena_array_of(o->arena, nsites, int);
    CU_ASSERT_TRUE_FATAL(shrink_choose(&t, o->arena, r, &o->diag));
    for (size_t i = 0; i < nsites; i++) CU_ASSERT_TRUE(p.asked[i] <= 1); /* what is known is kept */
    CU_ASSERT_EQUAL(p.measured > 0, sensitivity < 1);
    CU_ASSERT_EQUAL(r->graph == NULL, r->nkept == 0);
    size_t kept = 0;
    for (size_t i = 0; i < r->outcomes.count; i++) {
        const StepOutcome *x = &r->outcomes.data[i];
        kept += x->kept;
        CU_ASSERT_PTR_NOT_NULL(x->reason);
        if (x->kept) CU_ASSERT_TRUE(x->kl < x->worth);
    }
    CU_ASSERT_EQUAL(kept, r->nkept);
    return r->graph ? (int64_t)(p.weights - graph_weigh(r->graph, NULL)) : -1;
}

static int64_t shrink_at(double each, double together, ShrinkResult *r, Opened *o) {
    return shrink_known(each, together, 0, r, o);
}

/* What the forecasts say is far too dear is rolled back without being measured. */
static void test_hopeless(void) {
    Opened o = open_model(MODEL);
    ShrinkResult r;
    CU_ASSERT_EQUAL(shrink_known(0, 1, 1e9, &r, &o), -1);
    for (size_t i = 0; i < r.outcomes.count; i++) {
        const StepOutcome *x = &r.outcomes.data[i];
        if (x->step.kind != STEP_NEURONS && x->step.kind != STEP_HEADS) continue;
        CU_ASSERT_FALSE(x->measured);
        CU_ASSERT_PTR_NOT_NULL(strstr(x->reason, "predicted"));
    }
    CU_ASSERT_TRUE(shrink_known(0, 1, 1e-12, &r, &o) > 0); /* what it does not rule out is measured */
    close_model(&o);
}

static void test_price(void) {
    Opened o = open_model(MODEL);
    ShrinkResult r;
    double worth = log(4) * 0.01 * 4.5 / (double)graph_weigh(o.g, NULL);
    CU_ASSERT_EQUAL(shrink_at(3 * worth, 1, &r, &o), -1); /* too dear: all rolled back */
    CU_ASSERT_TRUE(r.outcomes.count > 0);
    for (size_t i = 0; i < r.outcomes.count; i++) CU_ASSERT_FALSE(r.outcomes.data[i].kept);
    int64_t cheap = shrink_at(0.05 * worth, 1, &r, &o);
    CU_ASSERT_TRUE(cheap > 0);
    CU_ASSERT_TRUE(r.predicted_gain > 0);
    close_model(&o);
}

/* What was cheap alone and is dear together is taken back, and the reason says so. */
static void test_together(void) {
    Opened o = open_model(MODEL);
    ShrinkResult alone, together;
    double worth = log(4) * 0.01 * 4.5 / (double)graph_weigh(o.g, NULL);
    int64_t cheap = shrink_at(0.05 * worth, 1, &alone, &o);
    int64_t dear = shrink_at(0.05 * worth, 1e4, &together, &o);
    CU_ASSERT_TRUE(cheap > 2048);
    CU_ASSERT_TRUE(dear < cheap);
    close_model(&o);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("shrink", NULL, NULL);
    CU_add_test(s, "what pays is kept, what does not is rolled back", test_price);
    CU_add_test(s, "what is far too dear is not measured", test_hopeless);
    CU_add_test(s, "steps that are dear together are taken back", test_together);
    return unit_end();
}
