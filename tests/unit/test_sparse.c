/* test_sparse.c: two of four weights go, and error feedback loses less than leaving the rest as it was. */
#include <math.h>

#include "passes/lossy/lossy.h"
#include "tests/unit/unit.h"

enum { ROWS = 6, COLS = 26 }; /* the last two are no whole four */

static double error_of(const float *w, const float *v, const float *xx) {
    double sum = 0;
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < COLS; i++)
            for (int j = 0; j < COLS; j++)
                sum += (double)(w[r * COLS + i] - v[r * COLS + i]) * (double)xx[i * COLS + j] *
                       (double)(w[r * COLS + j] - v[r * COLS + j]);
    return sum;
}

static void test_mask(void) {
    static float w[ROWS * COLS], masked[ROWS * COLS], plain[ROWS * COLS], xx[COLS * COLS], sum[COLS];
    for (int i = 0; i < ROWS * COLS; i++) masked[i] = w[i] = (float)sin(i * i * 0.37 + i);
    for (int i = 0; i < COLS; i++)
        for (int j = 0; j < COLS; j++)
            xx[i * COLS + j] = (float)(pow(0.8, fabs((double)(i - j))) + (i == j) * 0.05);
    Moments m = {.cols = COLS, .rows = 100, .xx = xx, .sum = sum};
    Diag d;
    diag_init(&d);
    CU_ASSERT_TRUE(sparse_mask(masked, ROWS, &m, &d));
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i + 4 <= COLS; i += 4) {
            int zeros = 0;
            for (int k = 0; k < 4; k++) {
                zeros += masked[r * COLS + i + k] == 0;
                plain[r * COLS + i + k] = masked[r * COLS + i + k] == 0 ? 0 : w[r * COLS + i + k];
            }
            CU_ASSERT_EQUAL(zeros, 2);
        }
    for (int r = 0; r < ROWS; r++)
        for (int i = COLS / 4 * 4; i < COLS; i++) {
            CU_ASSERT_NOT_EQUAL(masked[r * COLS + i], 0);
            plain[r * COLS + i] = w[r * COLS + i];
        }
    CU_ASSERT_TRUE(error_of(masked, w, xx) < 0.8 * error_of(plain, w, xx));
    xx[3] = NAN;
    xx[3 * COLS] = NAN;
    CU_ASSERT_FALSE(sparse_mask(masked, ROWS, &m, &d));
    diag_free(&d);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("sparse", NULL, NULL);
    CU_add_test(s, "two of four, the rest made up for", test_mask);
    return unit_end();
}
