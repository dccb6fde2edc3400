/* test_search.c: the search against a lab whose model is a formula, so that what it must find is known. */
#include <math.h>
#include <string.h>

#include "passes/lossy/budget.h"
#include "tests/unit/unit.h"

#define SITES 4
#define SIDE 64

static const char model[] = "gir 1 stage=raised\nsymbol batch\nsymbol seq\nsymbol past\n"
                            "input %1 \"ids\" : i64[batch, seq] role=tokens\n"
                            "const %2 : f32[64, 64] = seed(1)\n"
                            "const %3 : f32[64, 64] = seed(2)\n"
                            "const %4 : f32[64, 64] = seed(3)\n"
                            "const %5 : f32[64, 64] = seed(4)\n"
                            "%6 : f32[batch, seq, 64] = gather(%2, %1)\n"
                            "%7 : f32[batch, seq, 64] = linear(%6, %3)\n"
                            "%8 : f32[batch, seq, 64] = linear(%7, %4)\n"
                            "%9 : f32[batch, seq, 64] = linear(%8, %5)\n"
                            "output %9 \"logits\" role=logits\n";

#define GUARD_LENGTH 6
#define FAINT_LENGTH 5  /* of a text whose inputs are a tenth of any other's */
#define BROKEN_LENGTH 7 /* of one where they are no numbers */

/* KL = sum over sites of weight x squared error, times `together` when more than one site is changed. */
typedef struct {
    Lab lab;
    Arena *arena;
    Graph *g;
    Site *site;
    size_t n;
    float *base[SITES], *now[SITES]; /* now: NULL = as at first */
    double weight[SITES], together;
    double on_guard; /* times as dear on GUARD_LENGTH tokens */
    double bent; /* unless 0: several changes cost the root of KL times this, more than any forecast says */
    int measured;
} Fake;

static bool fake_set(Lab *lab, uint32_t i, const float *w, Diag *d) {
    Fake *f = lab->self;
    (void)d;
    f->now[i] = w ? arena_dup(f->arena, w, SIDE * SIDE * sizeof *w) : NULL;
    return true;
}

static bool fake_measure(Lab *lab, const Windows *t, Quality *q, Diag *d) {
    Fake *f = lab->self;
    double kl = 0;
    int changed = 0;
    (void)d;
    for (size_t i = 0; i < f->n; i++) {
        if (!f->now[i]) continue;
        changed++;
        for (int k = 0; k < SIDE * SIDE; k++)
            kl += f->weight[i] * pow((double)f->now[i][k] - (double)f->base[i][k], 2);
    }
    if (changed > 1) kl *= f->together;
    if (changed > 1 && f->bent > 0) kl = sqrt(kl * f->bent);
    if (t->length == GUARD_LENGTH) kl *= f->on_guard;
    f->measured++;
    *q = (Quality){.scored = 1000,
                   .perplexity = 10 * exp(kl),
                   .base_perplexity = 10,
                   .mean_kl = kl,
                   .mean_kl_error = kl * 0.01,
                   .same_top = 1 - sqrt(kl / 2)};
    return true;
}

static bool fake_moments(Lab *lab, const Windows *t, const uint32_t *sites, uint32_t n, Arena *a,
                         Moments *out, Diag *d) {
    (void)lab, (void)sites, (void)d;
    float square = t->length == FAINT_LENGTH ? 0.01f : t->length == BROKEN_LENGTH ? NAN : 1;
    for (uint32_t i = 0; i < n; i++) {
        out[i] = (Moments){.cols = SIDE,
                           .rows = 100,
                           .xx = arena_array_of(a, SIDE * SIDE, float),
                           .sum = arena_array_of(a, SIDE, float)};
        for (int k = 0; k < SIDE; k++) out[i].xx[k * SIDE + k] = square;
    }
    return true;
}

static bool fake_graph(Lab *lab, const Graph *g, const Windows *t, Quality *q, Diag *d) {
    (void)g;
    return fake_measure(lab, t, q, d);
}

static void fake_new(Fake *f, double together, Diag *d) {
    *f = (Fake){.arena = arena_new(), .together = together, .weight = {0.001, 0.002, 0.02, 0.3}};
    f->lab = (Lab){f, fake_set, fake_measure, fake_moments, fake_graph};
    f->g = graph_parse(model, sizeof model - 1, "model", NULL, f->arena, d);
    CU_ASSERT_PTR_NOT_NULL_FATAL(f->g);
    f->n = sites_find(f->g, f->arena, &f->site);
    CU_ASSERT_EQUAL_FATAL(f->n, SITES);
    for (size_t i = 0; i < f->n; i++) {
        f->base[i] = arena_array_of(f->arena, SIDE * SIDE, float);
        CU_ASSERT_TRUE_FATAL(site_read(f->g, &f->site[i], f->base[i], d));
    }
}

static Search search_of(Fake *f, Budget b) {
    static int32_t id[4];
    static const Windows text = {.id = id, .windows = 1, .length = 4};
    uint64_t bits, weights = graph_weigh(f->g, &bits);
    CU_ASSERT_EQUAL(weights, SITES * SIDE * SIDE);
    CU_ASSERT_EQUAL(bits, 32 * weights);
    return (Search){.exact = f->g,
                    .sites = f->site,
                    .n = f->n,
                    .lab = &f->lab,
                    .calibration = &text,
                    .probe = &text,
                    .evaluation = &text,
                    .budget = b,
                    .weights = weights,
                    .trials = 12};
}

static int32_t some_ids[8];
static const Windows faint = {.id = some_ids, .windows = 1, .length = FAINT_LENGTH},
                     broken = {.id = some_ids, .windows = 1, .length = BROKEN_LENGTH};

/* calibration, evaluation: NULL = as any text */
static void forecast_on(Fake *f, const Windows *calibration, const Windows *evaluation, SiteForecast *out,
                        Diag *d) {
    Search s = search_of(f, (Budget){BUDGET_KL, 0.01});
    if (calibration) s.calibration = calibration;
    if (evaluation) s.evaluation = evaluation;
    CU_ASSERT_TRUE_FATAL(forecast_sites(&s, f->arena, out, d));
}

static void test_forecasts_of_other_text(void) {
    Diag d;
    Fake f;
    diag_init(&d);
    fake_new(&f, 1, &d);
    SiteForecast plain[SITES] = {0}, fitted[SITES] = {0}, none[SITES] = {0};
    forecast_on(&f, NULL, NULL, plain, &d);
    forecast_on(&f, &faint, NULL, fitted, &d);
    forecast_on(&f, NULL, &broken, none, &d);
    for (size_t i = 0; i < f.n; i++) {
        /* errors count on the text of the search, not on the one that they were made small on */
        CU_ASSERT_EQUAL_FATAL(plain[i].n, fitted[i].n);
        for (uint32_t k = 1; k < plain[i].n; k++)
            CU_ASSERT_DOUBLE_EQUAL(fitted[i].option[k].loss / plain[i].option[k].loss, 1, 0.02);
        CU_ASSERT_DOUBLE_EQUAL(fitted[i].sensitivity / plain[i].sensitivity, 1, 0.02);
        CU_ASSERT_EQUAL(none[i].n, 1); /* what nobody can forecast is not free: it stays as it is */
    }
    arena_free(f.arena);
    diag_free(&d);
}

static const Trial *best_of(const SearchResult *r) { return &r->trials.data[r->best]; }

/* What is kept holds, is the smallest of all that was tried and held, and uses the budget. */
static void check_result(const Fake *f, const Search *s, const SearchResult *r) {
    const Trial *best = best_of(r);
    CU_ASSERT_PTR_NOT_NULL_FATAL(r->graph);
    CU_ASSERT_TRUE(best->share <= 1);
    CU_ASSERT_TRUE(budget_share(s->budget, &best->measured, 2) <= 1);
    for (size_t i = 0; i < r->trials.count; i++)
        CU_ASSERT_TRUE(r->trials.data[i].share > 1 || r->trials.data[i].bits >= best->bits);
    for (size_t i = 0; i < f->n; i++) CU_ASSERT_PTR_NULL(f->now[i]); /* the lab is as it was */
}

static void run_quality(Budget b, double together, double least_share) {
    Fake f;
    Diag d;
    diag_init(&d);
    fake_new(&f, together, &d);
    uint64_t before = graph_fingerprint(f.g);
    Search s = search_of(&f, b);
    SearchResult r;
    CU_ASSERT_TRUE_FATAL(search_formats(&s, f.arena, &r, &d));
    check_result(&f, &s, &r);
    CU_ASSERT_TRUE(best_of(&r)->share >= least_share);
    CU_ASSERT_EQUAL(graph_fingerprint(f.g), before);
    /* the site that matters most has at least the bits of the one that matters least */
    CU_ASSERT_TRUE(r.site[3].option[best_of(&r)->pick[3]].bits >=
                   r.site[0].option[best_of(&r)->pick[0]].bits);
    arena_free(r.graph_arena);
    arena_free(f.arena);
    diag_free(&d);
}

static void test_budgets_of_quality_hold(void) {
    run_quality((Budget){BUDGET_KL, 0.01}, 1, 0.5);
    run_quality((Budget){BUDGET_KL, 0.1}, 1, 0.5);
    run_quality((Budget){BUDGET_PPL, 0.02}, 1, 0.5);
    run_quality((Budget){BUDGET_TOP1, 0.9}, 1, 0.5);
}

/* The whole is ten times worse than its sites promise: the first trials break the budget and are rolled back. */
static void test_wrong_forecasts_are_mended(void) {
    Fake f;
    Diag d;
    diag_init(&d);
    fake_new(&f, 10, &d);
    Search s = search_of(&f, (Budget){BUDGET_KL, 0.01});
    SearchResult r;
    CU_ASSERT_TRUE_FATAL(search_formats(&s, f.arena, &r, &d));
    check_result(&f, &s, &r);
    CU_ASSERT_TRUE(r.trials.data[0].share > 1); /* the planted break was tried … */
    CU_ASSERT_TRUE(r.best != 0);                /* … and is not the result */
    CU_ASSERT_TRUE(best_of(&r)->share > 0.5);
    arena_free(r.graph_arena);
    arena_free(f.arena);
    diag_free(&d);
    run_quality((Budget){BUDGET_KL, 0.003}, 0.1, 0.5); /* and ten times better */
}

/* Where forecasts are far too good and the aim moves KL less than usual, a few trials still end within the budget. */
static void test_forecasts_far_off(void) {
    Fake f;
    Diag d;
    diag_init(&d);
    fake_new(&f, 1, &d);
    f.bent = 0.3;
    Search s = search_of(&f, (Budget){BUDGET_KL, 0.01});
    s.trials = 3;
    SearchResult r;
    CU_ASSERT_TRUE_FATAL(search_formats(&s, f.arena, &r, &d));
    check_result(&f, &s, &r);
    CU_ASSERT_TRUE(r.trials.data[0].share > 2);
    arena_free(r.graph_arena);
    arena_free(f.arena);
    diag_free(&d);
}

/* A budget holds on the guard as well, where the model is three times worse. */
static void test_budgets_hold_on_the_guard(void) {
    static int32_t id[GUARD_LENGTH];
    const Windows guard = {.id = id, .windows = 1, .length = GUARD_LENGTH};
    Fake f;
    Diag d;
    diag_init(&d);
    fake_new(&f, 1, &d);
    f.on_guard = 3;
    Search s = search_of(&f, (Budget){BUDGET_KL, 0.01});
    s.guard = &guard;
    SearchResult r;
    CU_ASSERT_TRUE_FATAL(search_formats(&s, f.arena, &r, &d));
    check_result(&f, &s, &r);
    CU_ASSERT_TRUE(best_of(&r)->guarded.mean_kl > 2 * best_of(&r)->measured.mean_kl);
    CU_ASSERT_EQUAL(best_of(&r)->share, budget_share(s.budget, &best_of(&r)->guarded, 2));
    CU_ASSERT_TRUE(best_of(&r)->share > 0.5);
    arena_free(r.graph_arena);
    arena_free(f.arena);
    diag_free(&d);
}

/* A search that cannot end below what is there already ends with its first trial. */
static void test_hopeless_searches_end_early(void) {
    Fake f;
    Diag d;
    diag_init(&d);
    fake_new(&f, 5, &d);
    Search s = search_of(&f, (Budget){BUDGET_KL, 0.01});
    s.beat = (double)s.weights;
    SearchResult r;
    CU_ASSERT_FALSE(search_formats(&s, f.arena, &r, &d)); /* a trial that broke the budget is no result */
    CU_ASSERT_EQUAL(r.trials.count, 1);
    CU_ASSERT_TRUE(r.expected > s.beat);
    CU_ASSERT_TRUE(r.trials.data[0].share > 1 && r.trials.data[0].bits < r.expected);
    arena_free(f.arena);
    diag_free(&d);
}

/* Nothing but the exact model keeps a budget of next to nothing. */
static void test_tiny_budgets_change_nothing(void) { run_quality((Budget){BUDGET_KL, 1e-15}, 1, 0); }

static void test_sizes_hold(void) {
    Fake f;
    Diag d;
    diag_init(&d);
    fake_new(&f, 1, &d);
    double before = INFINITY;
    for (double bits = 3; bits < 9; bits += 1) {
        Search s = search_of(&f, (Budget){BUDGET_BITS, bits});
        SearchResult r;
        CU_ASSERT_TRUE_FATAL(search_formats(&s, f.arena, &r, &d));
        CU_ASSERT_TRUE(best_of(&r)->bits <= bits * (double)s.weights);
        CU_ASSERT_TRUE(best_of(&r)->measured.mean_kl <= before);
        before = best_of(&r)->measured.mean_kl;
        arena_free(r.graph_arena);
    }
    Search s = search_of(&f, (Budget){BUDGET_SIZE, 100});
    SearchResult r;
    CU_ASSERT_FALSE(search_formats(&s, f.arena, &r, &d)); /* a hundred bytes */
    CU_ASSERT_EQUAL(d.errors, 1);
    arena_free(f.arena);
    diag_free(&d);
}

/* A site that makes all logits infinite when it is rounded is kept, the others are compressed. */
static void test_what_must_not_be_rounded_is_kept(void) {
    Fake f;
    Diag d;
    diag_init(&d);
    fake_new(&f, 1, &d);
    f.weight[1] = INFINITY;
    Search s = search_of(&f, (Budget){BUDGET_KL, 0.1});
    SearchResult r;
    CU_ASSERT_TRUE_FATAL(search_formats(&s, f.arena, &r, &d));
    check_result(&f, &s, &r);
    CU_ASSERT_EQUAL(best_of(&r)->pick[1], 0);
    CU_ASSERT_NOT_EQUAL(best_of(&r)->pick[0], 0);
    arena_free(r.graph_arena);
    arena_free(f.arena);
    diag_free(&d);
}

/* Sites are as large as their constants: the rest of the graph has no bits. */
static void test_sites_have_the_bits_of_their_constants(void) {
    static const char text[] = "gir 1 stage=raised\nsymbol batch\nsymbol seq\nsymbol past\n"
                               "input %1 \"ids\" : i64[batch, seq] role=tokens\n"
                               "const %2 : f32[64, 64] = seed(1)\n"
                               "const %3 : f16[64, 64] = seed(2)\n"
                               "const %4 : u8[64, 64] = seed(3)\n"
                               "const %5 : f32[] = {0.1}\n"
                               "%6 : f32[batch, seq, 64] = gather(%2, %1)\n"
                               "%7 : f32[64, 64] = cast(%3)\n"
                               "%8 : f32[batch, seq, 64] = linear(%6, %7)\n"
                               "%9 : f32[64, 64] = dequantize(%4, %5)\n"
                               "%10 : f32[batch, seq, 64] = linear(%8, %9)\n"
                               "output %10 \"logits\" role=logits\n";
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    Graph *g = graph_parse(text, sizeof text - 1, "model", NULL, a, &d);
    CU_ASSERT_PTR_NOT_NULL_FATAL(g);
    Site *site;
    CU_ASSERT_EQUAL_FATAL(sites_find(g, a, &site), 3);
    uint64_t bits, weights = graph_weigh(g, &bits);
    for (int i = 0; i < 3; i++) {
        uint64_t own = (uint64_t)(site[i].rows * site[i].cols);
        weights -= own, bits -= own * site[i].bits;
    }
    CU_ASSERT_EQUAL(weights, 0);
    CU_ASSERT_EQUAL(site[0].bits, 32);
    CU_ASSERT_EQUAL(site[1].bits, 16);
    CU_ASSERT_EQUAL(site[2].bits, 8);
    CU_ASSERT_TRUE(site[2].fixed);
    CU_ASSERT_EQUAL(bits, 32); /* the scale */
    arena_free(a);
    diag_free(&d);
}

/* The same search twice, and its plan once more: the same graph, constant for constant. */
static void test_a_plan_repeats_the_search(void) {
    uint64_t first = 0;
    for (int round = 0; round < 2; round++) {
        Fake f;
        Diag d;
        diag_init(&d);
        fake_new(&f, 1, &d);
        Search s = search_of(&f, (Budget){BUDGET_KL, 0.02});
        SearchResult r;
        CU_ASSERT_TRUE_FATAL(search_formats(&s, f.arena, &r, &d));
        uint64_t print = graph_fingerprint(r.graph);
        if (round) CU_ASSERT_EQUAL(print, first);
        first = print;
        const Format *chosen[SITES];
        for (size_t i = 0; i < f.n; i++) chosen[i] = r.site[i].option[best_of(&r)->pick[i]].format;
        Arena *a = arena_new();
        Graph *again;
        Quality q;
        CU_ASSERT_TRUE_FATAL(search_apply(&s, chosen, a, &again, &q, &(Quality){0}, &d));
        CU_ASSERT_EQUAL(graph_fingerprint(again), first);
        CU_ASSERT_EQUAL(q.mean_kl, best_of(&r)->measured.mean_kl);
        arena_free(a);
        arena_free(r.graph_arena);
        arena_free(f.arena);
        diag_free(&d);
    }
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("search", NULL, NULL);
    CU_add_test(s, "budgets of quality hold", test_budgets_of_quality_hold);
    CU_add_test(s, "wrong forecasts are mended", test_wrong_forecasts_are_mended);
    CU_add_test(s, "forecasts far off", test_forecasts_far_off);
    CU_add_test(s, "forecasts of other text", test_forecasts_of_other_text);
    CU_add_test(s, "budgets hold on the guard", test_budgets_hold_on_the_guard);
    CU_add_test(s, "hopeless searches end early", test_hopeless_searches_end_early);
    CU_add_test(s, "tiny budgets change nothing", test_tiny_budgets_change_nothing);
    CU_add_test(s, "sizes hold", test_sizes_hold);
    CU_add_test(s, "what must not be rounded is kept", test_what_must_not_be_rounded_is_kept);
    CU_add_test(s, "sites have the bits of their constants", test_sites_have_the_bits_of_their_constants);
    CU_add_test(s, "a plan repeats the search", test_a_plan_repeats_the_search);
    return unit_end();
}
