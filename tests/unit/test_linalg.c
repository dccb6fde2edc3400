/* test_linalg.c: factors, solutions and inverses of symmetric positive definite systems, against plain sums. */
#include <math.h>
#include <stdlib.h>

#include "passes/lossy/linalg.h"
#include "tests/unit/unit.h"

/* Wishart-like: B B^T + n/10 I with entries from a fixed recurrence. */
static double *system_new(int64_t n) {
    double *b = malloc((size_t)(n * n) * sizeof *b), *a = calloc((size_t)(n * n), sizeof *a), x = 0.3;
    for (int64_t i = 0; i < n * n; i++) b[i] = (x = 3.9 * x * (1 - x)) - 0.5;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            for (int64_t k = 0; k < n; k++) a[i * n + j] += b[i * n + k] * b[j * n + k];
    for (int64_t i = 0; i < n; i++) a[i * n + i] += 0.1 * (double)n;
    free(b);
    return a;
}

static double *copy(const double *a, int64_t n) {
    double *c = malloc((size_t)n * sizeof *c);
    for (int64_t i = 0; i < n; i++) c[i] = a[i];
    return c;
}

static void test_sizes(void) {
    const int64_t sizes[] = {1, 2, 5, 47, 48, 49, 96, 131};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t n = sizes[s];
        double *a = system_new(n), *inverse = copy(a, n * n), *factor = copy(a, n * n), worst = 0;
        CU_ASSERT_TRUE(spd_invert(inverse, n));
        CU_ASSERT_TRUE(spd_factor(factor, n));
        double *x = malloc((size_t)(2 * n) * sizeof *x);
        for (int64_t i = 0; i < 2 * n; i++) x[i] = cos((double)i);
        spd_solve(factor, n, x, 2);
        for (int64_t i = 0; i < n; i++) {
            double rest[2] = {-cos((double)i), -cos((double)(n + i))};
            for (int64_t j = 0; j < n; j++) {
                double unit = i == j ? -1 : 0;
                for (int64_t k = 0; k < n; k++) unit += a[i * n + k] * inverse[k * n + j];
                worst = fmax(worst, fabs(unit));
                rest[0] += a[i * n + j] * x[j];
                rest[1] += a[i * n + j] * x[n + j];
                CU_ASSERT_EQUAL(inverse[i * n + j], inverse[j * n + i]);
            }
            worst = fmax(worst, fmax(fabs(rest[0]), fabs(rest[1])));
        }
        CU_ASSERT_TRUE(worst < 1e-10);
        free(a);
        free(inverse);
        free(factor);
        free(x);
    }
}

static void test_refused(void) {
    double indefinite[4] = {1, 0, 2, 1}, zero[1] = {0}, nan[1] = {NAN};
    CU_ASSERT_FALSE(spd_factor(indefinite, 2));
    CU_ASSERT_FALSE(spd_invert(zero, 1));
    CU_ASSERT_FALSE(spd_factor(nan, 1));
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("linalg", NULL, NULL);
    CU_add_test(s, "sizes around the blocks", test_sizes);
    CU_add_test(s, "what is not positive definite is refused", test_refused);
    return unit_end();
}
