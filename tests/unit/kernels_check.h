/* kernels_check.h: runs CPU kernels with every level that this machine has and 1, 2 and 3 workers, which must give the
 * same bits, and compares them with what is wanted. */
#ifndef TESTS_KERNELS_CHECK_H
#define TESTS_KERNELS_CHECK_H

#include "runtime/cpu/cpu.h"
#include "tests/unit/unit.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LEVELS = 4, POOLS = 3 };
static const size_t SHARED = (size_t)16 << 20;

/* ---- harness ---- */
typedef void (*Kernel)(const CpuWorker *, const void *);
typedef struct {
    const CpuKernels *k;
    size_t which;
    const void *args;
    char *local, *shared;
    Pool *pool;
} Call;

enum { GATHER, NORM, LINEAR, ROPE, STORE, ATTENTION, POINTWISE, REDUCE, SOFTMAX, MOVE, ROUTED };

static void on_worker(void *ctx, uint32_t worker, uint32_t workers) {
    const Call *c = ctx;
    CpuWorker w = {worker, workers, c->pool, c->local + worker * CPU_LOCAL_BYTES, c->shared};
    switch (c->which) {
    case GATHER: c->k->gather(&w, c->args); break;
    case NORM: c->k->norm(&w, c->args); break;
    case LINEAR: c->k->linear(&w, c->args); break;
    case ROPE: c->k->rope(&w, c->args); break;
    case STORE: c->k->store(&w, c->args); break;
    case ATTENTION: c->k->attention(&w, c->args); break;
    case POINTWISE: c->k->pointwise(&w, c->args); break;
    case REDUCE: c->k->reduce(&w, c->args); break;
    case SOFTMAX: c->k->softmax(&w, c->args); break;
    case ROUTED: c->k->routed(&w, c->args); break;
    default: c->k->move(&w, c->args); break;
    }
    pool_barrier(c->pool);
}

static Pool *pools[POOLS];
static char *local, *shared;

static int harness_open(void) {
    for (uint32_t i = 0; i < POOLS; i++) {
        pools[i] = pool_new(i + 1);
        if (!pools[i]) { return 1; }
    }
    local = aligned_alloc(64, CPU_LOCAL_BYTES * POOLS);
    shared = aligned_alloc(64, SHARED);
    return !local || !shared;
}
static int harness_close(void) {
    for (uint32_t i = 0; i < POOLS; i++) { pool_free(pools[i]); }
    free(local);
    free(shared);
    return 0;
}

static void run_on(Pool *p, const CpuKernels *k, size_t which, const void *args) {
    Call c = {k, which, args, local, shared, p};
    pool_run(p, on_worker, &c);
}

static uint64_t seed = 1;
static float random_unit(void) { /* -1 .. 1 */
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(seed >> 33) / 1073741824.0 - 1.0);
}
static float *random_floats(size_t n) {
    float *p = malloc((n ? n : 1) * sizeof *p);
    for (size_t i = 0; i < n; i++) { p[i] = random_unit(); }
    return p;
}

/* Largest |a - b| over the largest |b|; 9 when something is not finite. */
static double distance(const float *a, const double *b, size_t n) {
    double worst = 0, scale = 1e-30;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (!(d < 1e30)) { return 9; }
        worst = fmax(worst, d);
        scale = fmax(scale, fabs(b[i]));
    }
    return worst / scale;
}

/* GPTC_FIRST_LEVEL=3 leaves out the levels below, which take most of an emulator's time. */
static inline int first_level(void) {
    const char *level = getenv("GPTC_FIRST_LEVEL");
    return level ? atoi(level) : 1;
}

/* Runs with every level and pool; out (n floats) is set to `before` first, and compared. */
static void check(size_t which, const void *args, float *out, size_t n, const float *before,
                  const double *want, double tolerance, const char *what) {
    float *first = malloc(n * sizeof *first);
    for (int level = first_level(); level <= LEVELS; level++) {
        const CpuKernels *k = cpu_select(level);
        if (!k) { continue; }
        for (int p = 0; p < POOLS; p++) {
            memcpy(out, before, n * sizeof *out);
            run_on(pools[p], k, which, args);
            if (p == 0) { memcpy(first, out, n * sizeof *out); }
            double d = distance(out, want, n);
            bool same = memcmp(first, out, n * sizeof *out) == 0;
            if (!(d <= tolerance) || !same) {
                printf("\n  %s: %s, %d workers: error %g%s", what, k->name, p + 1, d,
                       same ? "" : ", differs from 1");
            }
            CU_ASSERT(d <= tolerance);
            CU_ASSERT(same);
        }
    }
    free(first);
}

/* Levels with FMA must give the same bits: kernels that add in the same order everywhere. */
static inline void check_levels(size_t which, const void *args, float *out, size_t n, const float *before,
                                const char *what) {
    float *first = NULL;
    for (int level = 2; level <= LEVELS; level++) {
        const CpuKernels *k = cpu_select(level);
        if (!k) { continue; }
        memcpy(out, before, n * sizeof *out);
        run_on(pools[0], k, which, args);
        if (!first) { first = memcpy(malloc(n * sizeof *first), out, n * sizeof *first); }
        bool same = memcmp(first, out, n * sizeof *out) == 0;
        if (!same) { printf("\n  %s: %s differs from level 2", what, k->name); }
        CU_ASSERT(same);
    }
    free(first);
}

#endif
