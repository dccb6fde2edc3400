/* The kernels that choose and route (topk, pick, routed), of every level this machine has, against plain loops in
 * double precision, with 1, 2 and 3 workers, which must give the same bits; and that an expert which nobody
 * chose is not read. */
#include "runtime/cpu/cpu.h"
#include "tests/unit/unit.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { LEVELS = 4, POOLS = 3 };
typedef struct {
    const CpuKernels *k;
    const CpuTopk *topk;
    const CpuPick *pick;
    const CpuRouted *routed;
    char *local, *shared;
    Pool *pool;
} Call;

static Pool *pools[POOLS];
static char *local, *shared;
static const size_t SHARED = (size_t)1 << 20;

static int harness_open(void) {
    for (uint32_t i = 0; i < POOLS; i++)
        if (!(pools[i] = pool_new(i + 1))) return 1;
    local = aligned_alloc(64, CPU_LOCAL_BYTES * POOLS);
    shared = aligned_alloc(64, SHARED);
    return !local || !shared;
}
static int harness_close(void) {
    for (uint32_t i = 0; i < POOLS; i++) pool_free(pools[i]);
    free(local);
    free(shared);
    return 0;
}

static void on_worker(void *ctx, uint32_t worker, uint32_t workers) {
    const Call *c = ctx;
    CpuWorker w = {worker, workers, c->pool, c->local + worker * CPU_LOCAL_BYTES, c->shared};
    if (c->topk) c->k->topk(&w, c->topk);
    if (c->pick) c->k->pick(&w, c->pick);
    if (c->routed) c->k->routed(&w, c->routed);
    pool_barrier(c->pool);
}

static float random_unit(void) { /* -1 .. 1 */
    static uint64_t seed = 1;
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(seed >> 33) / 1073741824.0 - 1.0);
}
static float *random_floats(size_t n) {
    float *p = malloc((n ? n : 1) * sizeof *p);
    for (size_t i = 0; i < n; i++) p[i] = random_unit();
    return p;
}

/* Runs at every level with every pool; out (n floats) must be near want, and alike for all pools. */
static void check(Call c, float *out, size_t n, const double *want) {
    float *first = malloc(n * sizeof *first);
    for (int level = 1; level <= LEVELS; level++) {
        if (!(c.k = cpu_select(level))) continue;
        for (int p = 0; p < POOLS; p++) {
            for (size_t i = 0; i < n; i++) out[i] = NAN;
            c.pool = pools[p], c.local = local, c.shared = shared;
            pool_run(c.pool, on_worker, &c);
            if (p == 0) memcpy(first, out, n * sizeof *out);
            CU_ASSERT_EQUAL(memcmp(first, out, n * sizeof *out), 0);
            double worst = 0;
            for (size_t i = 0; i < n; i++) {
                double d = fabs((double)out[i] - want[i]);
                worst = d <= worst ? worst : d;
            }
            CU_ASSERT(worst <= 5e-5);
        }
    }
    free(first);
}

/* ---- topk ---- */
static void topk_case(const float *x, uint32_t rows, uint32_t outer, uint32_t len, uint32_t count,
                      uint32_t smallest, const double *want) {
    size_t n = (size_t)rows * outer * count;
    float *out = malloc(n * sizeof *out);
    CpuTopk a = {rows, outer, len, count, smallest, x, (size_t)outer * len, (size_t)outer * count, out};
    check((Call){.topk = &a}, out, n, want);
    free(out);
}
static void test_topk(void) {
    static const float x[12] = {1, 3, 3, 2, -1, -1, 0, -1, INFINITY, -INFINITY, 5, 5};
    topk_case(x, 3, 1, 4, 2, 0, (const double[]){1, 2, 2, 0, 0, 2});
    topk_case(x, 1, 3, 4, 3, 0, (const double[]){1, 2, 3, 2, 0, 1, 0, 2, 3});
    topk_case(x, 3, 1, 4, 2, 1, (const double[]){0, 3, 0, 1, 1, 2});
    topk_case(x, 3, 1, 4, 4, 0, (const double[]){1, 2, 3, 0, 2, 0, 1, 3, 0, 2, 3, 1});
    static const float odd[4] = {1, NAN, 2, NAN}; /* as the reference has it: larger than everything */
    topk_case(odd, 1, 1, 4, 3, 0, (const double[]){1, 3, 2});
}

/* ---- pick ---- */
static void test_pick(void) {
    static const float x[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    static const float index[6] = {2, 0, 1, 1, 7, NAN};
    float out[12];
    CpuPick rows = {.rows = 2,
                    .outer = 1,
                    .len = 3,
                    .inner = 2,
                    .count = 3,
                    .x = x,
                    .index = index,
                    .x_stride = 6,
                    .x_step = 6,
                    .index_stride = 3,
                    .out_stride = 6,
                    .out = out};
    check((Call){.pick = &rows}, out, 12, (const double[]){4, 5, 0, 1, 2, 3, 8, 9, 0, 0, 0, 0});
    CpuPick table = {.rows = 3,
                     .outer = 1,
                     .len = 12,
                     .inner = 1,
                     .count = 2,
                     .x = x,
                     .index = index,
                     .index_stride = 2,
                     .out_stride = 2,
                     .out = out};
    check((Call){.pick = &table}, out, 6, (const double[]){2, 0, 1, 1, 7, 0});
}

/* ---- routed ---- */
enum { EXPERTS = 5, HOT = 3 };
typedef struct {
    uint32_t rows, slots, k, n, act;
    bool shared_row, bias, gate;
} Shape;

static double expert_dot(const float *w, size_t panels, Shape s, size_t expert, size_t col, const float *x) {
    double sum = 0;
    for (size_t i = 0; i < s.k; i++)
        sum += (double)x[i] * (double)w[((expert * panels + col / 16) * s.k + i) * 16 + col % 16];
    return sum;
}

static void routed_case(Shape s) {
    size_t panels = (s.n + 15) / 16, each = s.shared_row ? 1 : s.slots, out_width = (size_t)s.slots * s.n;
    float *x = random_floats(s.rows * each * s.k), *w = random_floats(EXPERTS * panels * s.k * 16);
    float *bias = random_floats((size_t)EXPERTS * s.n), *gate = random_floats(s.rows * out_width);
    float *index = malloc((size_t)s.rows * s.slots * sizeof *index),
          *out = malloc(s.rows * out_width * sizeof *out);
    double *want = malloc(s.rows * out_width * sizeof *want);
    for (size_t i = 0; i < (size_t)s.rows * s.slots; i++) /* one expert is everybody's, expert 1 nobody's */
        index[i] = i % s.slots == 0 ? HOT : (float[]){0, 2, 4, 9}[(size_t)(random_unit() * 2 + 2) % 4];
    for (size_t i = 0; i < panels * s.k * 16; i++) w[panels * s.k * 16 + i] = NAN;
    for (size_t i = 0; i < s.rows * out_width; i++) {
        size_t slot = i / s.n, col = i % s.n, expert = (size_t)index[slot];
        const float *row = x + (s.shared_row ? slot / s.slots : slot) * s.k;
        want[i] = 0;
        if (expert >= EXPERTS) continue;
        double v =
            expert_dot(w, panels, s, expert, col, row) + (s.bias ? (double)bias[expert * s.n + col] : 0);
        if (s.act == ART_ACT_RELU) v = v > 0 ? v : 0;
        want[i] = v * (s.gate ? (double)gate[i] : 1);
    }
    CpuRouted a = {.rows = s.rows,
                   .experts = EXPERTS,
                   .slots = s.slots,
                   .k = s.k,
                   .n = s.n,
                   .act = s.act,
                   .dtype = ART_F32,
                   .x = x,
                   .index = index,
                   .bias = s.bias ? bias : NULL,
                   .gate = s.gate ? gate : NULL,
                   .w = w,
                   .x_stride = each * s.k,
                   .x_step = s.shared_row ? 0 : s.k,
                   .index_stride = s.slots,
                   .gate_stride = out_width,
                   .out_stride = out_width,
                   .out = out};
    check((Call){.routed = &a}, out, s.rows * out_width, want);
    free(x), free(w), free(bias), free(gate), free(index), free(out), free(want);
}

static void test_routed(void) {
    routed_case((Shape){1, 1, 7, 5, ART_ACT_NONE, true, false, false});
    routed_case((Shape){1, 4, 64, 48, ART_ACT_NONE, true, true, false});
    routed_case((Shape){2, 3, 33, 70, ART_ACT_RELU, false, true, true});
    routed_case((Shape){40, 2, 20, 130, ART_ACT_RELU, true, false, true});
    routed_case((Shape){30, 3, 800, 17, ART_ACT_NONE, false, true, false}); /* more than one piece of k */
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("routed", harness_open, harness_close);
    CU_add_test(s, "topk", test_topk);
    CU_add_test(s, "pick", test_pick);
    CU_add_test(s, "routed", test_routed);
    return unit_end();
}
