/* fake_lab.h: models up to where lossy passes begin, and a lab whose inputs are made up. */
#ifndef TESTS_FAKE_LAB_H
#define TESTS_FAKE_LAB_H

#include <math.h>

#include "frontend/frontend.h"
#include "passes/lossy/lossy.h"
#include "passes/pass.h"
#include "tests/unit/stateful.h"
#include "tests/unit/unit.h"

typedef struct {
    Arena *arena;
    Diag diag;
    OnnxModel m;
    Graph *g;
    bool ok;
} Opened;

static inline Opened open_model(const char *folder) {
    Opened o = {.arena = arena_new()};
    diag_init(&o.diag);
    const char *path = arena_printf(o.arena, "%s/model.onnx", folder);
    PassOptions opt = {.kv_cache = true, .opt_level = 1};
    PassRun run = {.stop_after = "dce-split", .verify = true};
    CacheProof proof;
    o.ok = onnx_import(path, NULL, o.arena, &o.m, &o.diag);
    o.g = o.m.graph;
    o.ok = o.ok && passes_run(o.g, &run, &opt, &proof, &o.diag);
    if (!o.ok) report(folder, &o.diag);
    CU_ASSERT_TRUE(o.ok);
    return o;
}

static inline void close_model(Opened *o) {
    if (o->g) onnx_close(&o->m);
    diag_free(&o->diag);
    arena_free(o->arena);
}

/* The inputs of any site hang together a little and have means. */
typedef struct {
    const Site *sites;
} FakeLab;

static inline bool fake_moments(Lab *lab, const Windows *t, const uint32_t *sites, uint32_t n, Arena *a,
                                Moments *out, Diag *d) {
    (void)t;
    (void)d;
    for (uint32_t k = 0; k < n; k++) {
        int64_t cols = ((FakeLab *)lab->self)->sites[sites[k]].cols;
        out[k] = (Moments){.cols = cols, .rows = 1000};
        out[k].xx = arena_array_of(a, (size_t)(cols * cols), float);
        out[k].sum = arena_array_of(a, (size_t)cols, float);
        for (int64_t i = 0; i < cols; i++) {
            out[k].sum[i] = (float)sin((double)i);
            for (int64_t j = 0; j < cols; j++) /* ones, the means' square, and two directions more */
                out[k].xx[i * cols + j] =
                    (float)((i == j) + sin((double)i) * sin((double)j) + cos((double)i) * cos((double)j) / 4 +
                            (double)(i % 5 * (j % 5)) / 32);
        }
    }
    return true;
}

#endif
