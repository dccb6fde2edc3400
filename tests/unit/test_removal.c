/* test_removal.c: what is left of a product when inputs go, against least squares solved directly. */
#include <math.h>
#include <string.h>

#include "passes/lossy/linalg.h"
#include "passes/lossy/removal.h"
#include "tests/unit/unit.h"

enum { ROWS = 5, COLS = 24, SAMPLES = 200 };

typedef struct {
    float w[ROWS * COLS], bias[ROWS], xx[COLS * COLS], sum[COLS];
    double cov[COLS * COLS]; /* damped */
    Moments moments;
} Problem;

static double noise(double *state) { return (*state = 3.99 * *state * (1 - *state)) - 0.5; }

/* Inputs that hang together: every third is nearly the sum of the two before it. */
static void problem_make(Problem *p) {
    double state = 0.37;
    memset(p, 0, sizeof *p);
    for (int s = 0; s < SAMPLES; s++) {
        double x[COLS];
        for (int i = 0; i < COLS; i++)
            x[i] = i % 3 == 2 ? x[i - 1] + x[i - 2] + 0.1 * noise(&state) : noise(&state) + 0.3;
        for (int i = 0; i < COLS; i++) {
            p->sum[i] += (float)(x[i] / SAMPLES);
            for (int j = 0; j < COLS; j++) p->xx[i * COLS + j] += (float)(x[i] * x[j] / SAMPLES);
        }
    }
    for (int i = 0; i < ROWS * COLS; i++) p->w[i] = (float)noise(&state);
    for (int i = 0; i < ROWS; i++) p->bias[i] = (float)noise(&state);
    for (int i = 0; i < COLS * COLS; i++)
        p->cov[i] = (double)p->xx[i] - (double)p->sum[i / COLS] * (double)p->sum[i % COLS];
    double mean = 0;
    for (int i = 0; i < COLS; i++) mean += p->cov[i * COLS + i] / COLS;
    for (int i = 0; i < COLS; i++) p->cov[i * COLS + i] += REMOVAL_DAMPING * mean;
    p->moments = (Moments){.cols = COLS, .rows = SAMPLES, .xx = p->xx, .sum = p->sum};
}

/* Row k of W C[:,S] C[S,S]^-1. */
static void solve_row(const Problem *p, const Removal *r, int64_t k, double *x) {
    double a[COLS * COLS];
    for (int64_t i = 0; i < r->count; i++) {
        x[i] = 0;
        for (int64_t j = 0; j < COLS; j++) x[i] += (double)p->w[k * COLS + j] * p->cov[j * COLS + r->keep[i]];
        for (int64_t j = 0; j < r->count; j++) a[i * r->count + j] = p->cov[r->keep[i] * COLS + r->keep[j]];
    }
    CU_ASSERT_TRUE(spd_factor(a, r->count));
    spd_solve(a, r->count, x, 1);
}

/* Mean squared error of row k, and its variance before. */
static double row_error(const Problem *p, const Removal *r, int64_t k, double *variance) {
    double d[COLS], error = 0;
    *variance = 0;
    for (int64_t j = 0; j < COLS; j++) d[j] = (double)p->w[k * COLS + j];
    for (int64_t i = 0; i < r->count; i++) d[r->keep[i]] -= (double)r->w[k * r->count + i];
    for (int64_t i = 0; i < COLS; i++)
        for (int64_t j = 0; j < COLS; j++) {
            error += d[i] * d[j] * p->cov[i * COLS + j];
            *variance += (double)p->w[k * COLS + i] * (double)p->w[k * COLS + j] * p->cov[i * COLS + j];
        }
    return error;
}

static void check_removal(const Problem *p, const Removal *r, int64_t gone, double loss) {
    double error = 0, variance = 0;
    CU_ASSERT_EQUAL(r->count, COLS - gone);
    for (int64_t k = 0; k < ROWS; k++) {
        double best[COLS], own, mean = (double)p->bias[k];
        solve_row(p, r, k, best);
        for (int64_t i = 0; i < r->count; i++) CU_ASSERT_DOUBLE_EQUAL(r->w[k * r->count + i], best[i], 1e-4);
        error += row_error(p, r, k, &own);
        variance += own;
        for (int64_t j = 0; j < COLS; j++) mean += (double)p->w[k * COLS + j] * (double)p->sum[j];
        for (int64_t i = 0; i < r->count; i++)
            mean -= (double)r->w[k * r->count + i] * (double)p->sum[r->keep[i]];
        CU_ASSERT_DOUBLE_EQUAL(r->bias[k], mean, 1e-5);
    }
    CU_ASSERT_DOUBLE_EQUAL(loss, error / variance, 0.01 * loss + 1e-6);
}

static void test_least_squares(void) {
    static Problem p;
    problem_make(&p);
    const int64_t sizes[] = {1, 2, 4}, amounts[3][3] = {{1, 7, 16}, {1, 3, 8}, {1, 2, 4}};
    for (int s = 0; s < 3; s++) {
        Arena *a = arena_new();
        Diag d;
        diag_init(&d);
        Removal r[3];
        double loss[3], all;
        RemovalTask t = {p.w, p.bias, ROWS, COLS, &p.moments, sizes[s]};
        CU_ASSERT_TRUE(removal_find(&t, amounts[s], 3, a, r, loss, &all, &d));
        for (int i = 0; i < 3; i++) check_removal(&p, &r[i], amounts[s][i] * sizes[s], loss[i]);
        CU_ASSERT_TRUE(loss[0] < loss[1] && loss[1] < loss[2]);
        t.dear = 1.01 * loss[0] * all / (double)amounts[s][0]; /* the second amount costs more a unit */
        CU_ASSERT_TRUE(removal_find(&t, amounts[s], 3, a, NULL, loss, &all, &d));
        CU_ASSERT_TRUE(isfinite(loss[0]) && isfinite(loss[1]) && isinf(loss[2]));
        diag_free(&d);
        arena_free(a);
    }
}

/* The first input to go is the one that costs least, by trying all. */
static void test_cheapest(void) {
    static Problem p;
    problem_make(&p);
    double least = INFINITY;
    int32_t best = -1;
    for (int32_t gone = 0; gone < COLS; gone++) {
        Removal r = {.rows = ROWS, .count = COLS - 1};
        int32_t keep[COLS];
        float w[ROWS * COLS];
        double error = 0, variance;
        r.keep = keep;
        r.w = w;
        for (int32_t i = 0; i < COLS - 1; i++) keep[i] = i < gone ? i : i + 1;
        for (int64_t k = 0; k < ROWS; k++) {
            double x[COLS];
            solve_row(&p, &r, k, x);
            for (int64_t i = 0; i < r.count; i++) w[k * r.count + i] = (float)x[i];
            error += row_error(&p, &r, k, &variance);
        }
        if (error < least) {
            least = error;
            best = gone;
        }
    }
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    Removal r;
    double loss, all;
    RemovalTask t = {p.w, NULL, ROWS, COLS, &p.moments, 1};
    CU_ASSERT_TRUE(removal_find(&t, (int64_t[]){1}, 1, a, &r, &loss, &all, &d));
    for (int64_t i = 0; i < r.count; i++) CU_ASSERT_NOT_EQUAL(r.keep[i], best);
    p.xx[3] = NAN;
    p.xx[3 * COLS] = NAN;
    CU_ASSERT_FALSE(removal_find(&t, (int64_t[]){1}, 1, a, &r, &loss, &all, &d));
    CU_ASSERT_EQUAL(d.errors, 1);
    diag_free(&d);
    arena_free(a);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("removal", NULL, NULL);
    CU_add_test(s, "what stays is the least squares solution", test_least_squares);
    CU_add_test(s, "the cheapest goes first; moments that are no numbers are refused", test_cheapest);
    return unit_end();
}
