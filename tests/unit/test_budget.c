/* test_budget.c: budgets, the choice of formats and plans: what holds whatever the model. */
#include <math.h>
#include <string.h>

#include "passes/lossy/budget.h"
#include "tests/unit/unit.h"

/* ---- budgets ---- */

static bool parses(const char *text, Budget *out) {
    Diag d;
    diag_init(&d);
    bool ok = budget_parse(text, out, &d);
    CU_ASSERT_EQUAL(ok, d.errors == 0);
    diag_free(&d);
    return ok;
}

static void test_budgets_are_read(void) {
    static const struct {
        const char *text;
        Budget is;
    } good[] = {{"kl=0.01", {BUDGET_KL, 0.01}},       {"ppl=1%", {BUDGET_PPL, 0.01}},
                {"ppl=0.02", {BUDGET_PPL, 0.02}},     {"top1=99%", {BUDGET_TOP1, 0.99}},
                {"bits=4.5", {BUDGET_BITS, 4.5}},     {"size=50MB", {BUDGET_SIZE, 50e6}},
                {"size=1MiB", {BUDGET_SIZE, 0x1p20}}, {"size=3000", {BUDGET_SIZE, 3000}}};
    Arena *a = arena_new();
    for (size_t i = 0; i < COUNT_OF(good); i++) {
        Budget b, again;
        CU_ASSERT_TRUE_FATAL(parses(good[i].text, &b));
        CU_ASSERT_EQUAL(b.kind, good[i].is.kind);
        CU_ASSERT_DOUBLE_EQUAL(b.value, good[i].is.value, 1e-12 * b.value);
        Text t = text_new(a);
        budget_print(&t, b);
        CU_ASSERT_TRUE_FATAL(parses(t.data, &again));
        CU_ASSERT_TRUE(again.kind == b.kind && again.value == b.value);
    }
    arena_free(a);
}

static void test_nonsense_is_no_budget(void) {
    static const char *const bad[] = {"",       "kl",       "kl=",      "kl=-1",      "kl=0",    "kl=nan",
                                      "kl=inf", "kl=1%",    "kl=1e999", "ppl=5",      "top1=99", "top1=101%",
                                      "bits=",  "bits=100", "size=5PB", "size=50 MB", "speed=3", "kl=0.01x"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        Budget b;
        CU_ASSERT_FALSE(parses(bad[i], &b));
    }
}

/* The upper bound counts, not the mean. */
static void test_shares_count_the_error(void) {
    Quality q = {.mean_kl = 0.009,
                 .mean_kl_error = 0.001,
                 .perplexity = 10.2,
                 .base_perplexity = 10,
                 .log_ratio_error = 0.001,
                 .same_top = 0.985,
                 .same_top_error = 0.005};
    Budget kl = {BUDGET_KL, 0.01}, ppl = {BUDGET_PPL, 0.02}, top = {BUDGET_TOP1, 0.98};
    CU_ASSERT_DOUBLE_EQUAL(budget_share(kl, &q, 0), 0.9, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(budget_share(kl, &q, 2), 1.1, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(budget_share(ppl, &q, 0), 1, 1e-9);
    CU_ASSERT_TRUE(budget_share(ppl, &q, 2) > 1.09);
    CU_ASSERT_DOUBLE_EQUAL(budget_share(top, &q, 0), 0.75, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(budget_share(top, &q, 2), 1.25, 1e-9);
    q.perplexity = 9.9; /* better than the base uses nothing */
    CU_ASSERT_EQUAL(budget_share(ppl, &q, 0), 0);
}

/* A model whose logits are no numbers keeps no budget. */
static void test_no_number_is_no_quality(void) {
    const Quality q = {.mean_kl = NAN, .perplexity = NAN, .base_perplexity = 10, .same_top = NAN};
    for (BudgetKind k = BUDGET_KL; k <= BUDGET_TOP1; k++)
        CU_ASSERT_EQUAL(budget_share((Budget){k, 0.9}, &q, 2), INFINITY);
}

/* ---- allocation ---- */

typedef struct {
    double spends, costs;
} Sum;

static Sum sum_of(const Choices *c, size_t n, const uint32_t *pick) {
    Sum s = {0, 0};
    for (size_t i = 0; i < n; i++)
        s.spends += c[i].choice[pick[i]].spends, s.costs += c[i].choice[pick[i]].costs;
    return s;
}

static double next(uint64_t *seed) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(*seed >> 40) / 0x1p24;
}

/* Against all combinations of six sites with four choices each, which need not be convex. */
static void test_allocation_is_the_best(void) {
    enum { SITES = 6, CHOICES = 4, ALL = 4096 };
    uint64_t seed = 5;
    Arena *a = arena_new();
    for (int round = 0; round < 20; round++) {
        Choice choice[SITES][CHOICES];
        Choices c[SITES];
        for (int i = 0; i < SITES; i++) {
            for (int k = 0; k < CHOICES; k++) choice[i][k] = (Choice){next(&seed), next(&seed) * 100};
            c[i] = (Choices){choice[i], CHOICES};
        }
        double limit = 0.5 + next(&seed) * 3, best = INFINITY;
        for (uint32_t all = 0; all < ALL; all++) {
            uint32_t pick[SITES];
            for (int i = 0; i < SITES; i++) pick[i] = all >> (2 * i) & 3;
            Sum s = sum_of(c, SITES, pick);
            if (s.spends <= limit * 0.999 && s.costs < best) best = s.costs;
        }
        uint32_t pick[SITES];
        bool fits = allocate(c, SITES, limit, pick, a);
        Sum got = sum_of(c, SITES, pick);
        if (isfinite(best)) {
            CU_ASSERT_TRUE(fits);
            CU_ASSERT_TRUE(got.spends <= limit);
            CU_ASSERT_TRUE(got.costs <= best);
        }
    }
    arena_free(a);
}

static void test_allocation_at_its_ends(void) {
    Choice choice[] = {{0, 9}, {1, 5}, {2, 1}};
    Choices c[2] = {{choice, 3}, {choice, 3}};
    uint32_t pick[2];
    Arena *a = arena_new();
    CU_ASSERT_TRUE(allocate(c, 2, 0, pick, a)); /* nothing to spend */
    CU_ASSERT_TRUE(pick[0] == 0 && pick[1] == 0);
    CU_ASSERT_TRUE(allocate(c, 2, 100, pick, a)); /* more than enough */
    CU_ASSERT_TRUE(pick[0] == 2 && pick[1] == 2);
    c[1] = (Choices){choice + 1, 2};
    CU_ASSERT_FALSE(allocate(c, 2, 0.5, pick, a)); /* even the least is too much: that is said, and named */
    CU_ASSERT_TRUE(pick[0] == 0 && pick[1] == 0);
    CU_ASSERT_TRUE(allocate(c, 0, 1, pick, a));
    arena_free(a);
}

/* ---- plans ---- */

static LossyPlan a_plan(Arena *a) {
    LossyPlan p = {.model = 0x123456789abcdef0, .budget = {BUDGET_KL, 0.01}, .calibration = {8, 256, 77}};
    PlanSite s[] = {{"wte \"odd\"\n", 1024, 256, format_find("q6g64")}, {"h.0", 256, 1024, NULL}};
    for (size_t i = 0; i < COUNT_OF(s); i++) VEC_PUSH(a, &p.sites, s[i]);
    VEC_PUSH(a, &p.steps, "neurons block=5 amount=64");
    p.cache = p.activations = true;
    return p;
}

static void test_plans_repeat_themselves(void) {
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    LossyPlan p = a_plan(a), again;
    Text first = text_new(a), second = text_new(a);
    plan_print(&first, &p);
    CU_ASSERT_TRUE_FATAL(plan_parse(first.data, first.count, "p", a, &again, &d));
    plan_print(&second, &again);
    CU_ASSERT_STRING_EQUAL(first.data, second.data);
    CU_ASSERT_EQUAL(again.sites.count, 2);
    CU_ASSERT_TRUE(again.cache && again.activations);
    CU_ASSERT_EQUAL_FATAL(again.steps.count, 1);
    CU_ASSERT_STRING_EQUAL(again.steps.data[0], p.steps.data[0]);
    CU_ASSERT_PTR_EQUAL(again.sites.data[0].format, format_find("q6g64"));
    CU_ASSERT_PTR_NULL(again.sites.data[1].format);
    CU_ASSERT_EQUAL(again.model, p.model);
    diag_free(&d);
    arena_free(a);
}

/* Each of these lines, in place of a good plan's end, is refused with its line. */
static void test_hostile_plans_are_refused(void) {
    static const char *const bad[] = {"site 16 x 32 q6g64",
                                      "site -1 x 32 q6g64 \"w\"",
                                      "site 99999999999999999999 x 32 keep \"w\"",
                                      "site 16 y 32 keep \"w\"",
                                      "site 16 x 32 nine \"w\"",
                                      "site 16 x 32 keep \"w\" \"v\"",
                                      "site 16 x 32 keep w",
                                      "model 12",
                                      "model 123456789abcdefg",
                                      "budget kl=-1",
                                      "budget",
                                      "calibration 8",
                                      "calibration 8 x 256 00000000000000ff more",
                                      "step",
                                      "cache",
                                      "cache q4",
                                      "activations f8",
                                      "what is this"};
    Arena *a = arena_new();
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        Diag d;
        diag_init(&d);
        LossyPlan p;
        const char *text = arena_printf(a, "gptc-plan 1\nbudget kl=0.01\n%s\n", bad[i]);
        CU_ASSERT_FALSE(plan_parse(text, strlen(text), "p", a, &p, &d));
        CU_ASSERT_EQUAL(d.errors, 1);
        diag_free(&d);
    }
    static const char *const whole[] = {"", "gptc-plan 2\nbudget kl=1\n", "gptc-plan 1\n"};
    for (size_t i = 0; i < COUNT_OF(whole); i++) {
        Diag d;
        diag_init(&d);
        LossyPlan p;
        CU_ASSERT_FALSE(plan_parse(whole[i], strlen(whole[i]), "p", a, &p, &d));
        diag_free(&d);
    }
    arena_free(a);
}

/* Every prefix and every byte of a plan, changed: never more than an error. */
static void test_broken_plans_end_in_an_error(void) {
    Arena *a = arena_new();
    LossyPlan p = a_plan(a), out;
    Text t = text_new(a);
    plan_print(&t, &p);
    for (size_t i = 0; i < t.count; i++)
        for (int how = 0; how < 3; how++) {
            Diag d;
            diag_init(&d);
            char *text = arena_dup(a, t.data, t.count);
            if (how) text[i] = how == 1 ? '\0' : (char)(text[i] ^ 0x15);
            bool ok = plan_parse(text, how ? t.count : i, "p", a, &out, &d);
            CU_ASSERT_EQUAL(ok, d.errors == 0);
            diag_free(&d);
        }
    arena_free(a);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("budgets", NULL, NULL);
    CU_add_test(s, "budgets are read", test_budgets_are_read);
    CU_add_test(s, "nonsense is no budget", test_nonsense_is_no_budget);
    CU_add_test(s, "shares count the error", test_shares_count_the_error);
    CU_add_test(s, "no number is no quality", test_no_number_is_no_quality);
    CU_add_test(s, "allocation is the best there is", test_allocation_is_the_best);
    CU_add_test(s, "allocation at its ends", test_allocation_at_its_ends);
    CU_add_test(s, "plans repeat themselves", test_plans_repeat_themselves);
    CU_add_test(s, "hostile plans are refused", test_hostile_plans_are_refused);
    CU_add_test(s, "broken plans end in an error", test_broken_plans_end_in_an_error);
    return unit_end();
}
