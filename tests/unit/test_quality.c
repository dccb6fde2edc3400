/* test_quality.c: divergences, quantiles and errors against cases worked out by hand. */
#include <math.h>
#include <string.h>

#include "codegen/quality.h"
#include "tests/unit/unit.h"

static void near(double got, double want, double tol) { CU_ASSERT_DOUBLE_EQUAL(got, want, tol); }

static void test_log_softmax(void) {
    const float x[3] = {0, logf(2), logf(5)};
    float to[3];
    log_softmax(x, 3, to);
    near((double)to[0], log(1.0 / 8), 1e-6);
    near((double)to[1], log(2.0 / 8), 1e-6);
    near((double)to[2], log(5.0 / 8), 1e-6);
    const float large[2] = {1e4F, 1e4F}; /* no overflow */
    log_softmax(large, 2, to);
    near((double)to[0], log(0.5), 1e-3);
}

/* p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4): KL = 1/2 ln 2 - 1/4 ln 2 */
static void test_row(void) {
    const float p[3] = {logf(0.5F), logf(0.25F), logf(0.25F)}, q[3] = {logf(0.25F), logf(0.5F), logf(0.25F)};
    RowScore r = row_score(p, q, 3, 1);
    near(r.kl, 0.25 * log(2), 1e-7);
    near(r.nll, log(2), 1e-7);
    near(r.base_nll, log(4), 1e-7);
    near(r.dp, 0.25, 1e-7);
    CU_ASSERT_EQUAL(r.same, 0);
    r = row_score(p, p, 3, 0);
    CU_ASSERT_EQUAL(r.kl, 0);
    CU_ASSERT_EQUAL(r.dp, 0);
    CU_ASSERT_EQUAL(r.same, 1);
}

/* A token that the base thinks impossible adds nothing; logits that are no numbers are infinitely far. */
static void test_row_extremes(void) {
    const float p[2] = {0, -INFINITY}, q[2] = {logf(0.5F), logf(0.5F)}, bad[2] = {NAN, NAN};
    near(row_score(p, q, 2, 0).kl, log(2), 1e-7);
    near(row_score(p, p, 2, 0).kl, 0, 0);
    CU_ASSERT_TRUE(isinf(row_score(q, p, 2, 0).kl));
    CU_ASSERT_TRUE(isinf(row_score(q, bad, 2, 0).kl));
}

/* Windows of two rows with KL (1, 3), (0, 0), (2, 6): mean 2; window sums less 2 * 2: 0, -4, 4;
 * error sqrt(3/2 * 32) / 6. */
static void test_errors(void) {
    static const double kl[6] = {1, 3, 0, 0, 2, 6};
    QualitySums q = {.arena = arena_new()};
    for (int i = 0; i < 6; i++) {
        if (i % 2 == 0) quality_window(&q);
        quality_add(
            &q,
            &(RowScore){.nll = 1 + kl[i], .base_nll = 1, .kl = kl[i], .dp = kl[i] / 10, .same = kl[i] < 2});
    }
    Quality r = quality_of(&q);
    CU_ASSERT_EQUAL(r.scored, 6);
    near(r.mean_kl, 2, 1e-12);
    near(r.mean_kl_error, sqrt(1.5 * 32) / 6, 1e-12);
    near(r.max_kl, 6, 0);
    near(r.p99_kl, 3 + 0.95 * 3, 1e-12); /* 4.95 of 5: between the last two */
    near(r.base_perplexity, exp(1), 1e-12);
    near(r.perplexity, exp(3), 1e-11);
    near(r.perplexity_error, exp(3) * r.mean_kl_error, 1e-11);
    near(r.log_ratio_error, r.mean_kl_error, 1e-12); /* here the ratio's log is the KL */
    near(r.rms_dp, sqrt(50.0 / 6) / 10, 1e-12);
    near(r.same_top, 0.5, 0);
    near(r.same_top_error, sqrt(1.5 * 2) / 6, 1e-12); /* sums 1, 2, 0 less 1 each */
    arena_free(q.arena);
}

/* Windows of 1 and 3 rows: the mean is over rows, and a window weighs what it holds. */
static void test_uneven_windows(void) {
    static const double kl[4] = {5, 1, 1, 1};
    QualitySums q = {.arena = arena_new()};
    for (int i = 0; i < 4; i++) {
        if (i < 2) quality_window(&q);
        quality_add(&q, &(RowScore){.kl = kl[i]});
    }
    Quality r = quality_of(&q);
    near(r.mean_kl, 2, 1e-12);
    near(r.mean_kl_error, sqrt(2 * (9 + 9)) / 4, 1e-12);
    arena_free(q.arena);
}

static void test_one_window(void) {
    QualitySums q = {.arena = arena_new()};
    quality_window(&q);
    quality_add(&q, &(RowScore){.kl = 1});
    Quality r = quality_of(&q);
    near(r.mean_kl, 1, 0);
    CU_ASSERT_TRUE(isinf(r.mean_kl_error));
    arena_free(q.arena);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("quality", NULL, NULL);
    CU_add_test(s, "log-probabilities", test_log_softmax);
    CU_add_test(s, "divergence of a row", test_row);
    CU_add_test(s, "impossible tokens and NaN", test_row_extremes);
    CU_add_test(s, "means, quantiles and errors", test_errors);
    CU_add_test(s, "windows of different lengths", test_uneven_windows);
    CU_add_test(s, "one window has no error bar", test_one_window);
    return unit_end();
}
