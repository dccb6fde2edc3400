/* test_quantize_graph.c: the sites of the example's model quantised one after the other, with a real lab. */
#include <math.h>
#include <string.h>

#include "codegen/lab.h"
#include "tests/unit/unit.h"
#include "tools/driver.h"

#define EXAMPLE GPTC_SOURCE_DIR "/examples/shakespeare/model.onnx"
#define LENGTH 64
#define WINDOWS 8

typedef struct {
    Compile c;
    Site *sites;
    size_t nsites;
    Lab *lab;
    int32_t ids[2 * WINDOWS * LENGTH];
    Windows calibration, other;
    const Format **chosen;
} Fixture;

static void fixture_open(Fixture *f) {
    ImportOptions opt = {0};
    CompilePasses p = {.pass = {.kv_cache = true, .opt_level = 1}, .stop_after = "dce-split"};
    memset(f, 0, sizeof *f);
    compile_init(&f->c);
    CU_ASSERT_TRUE_FATAL(compile_open(&f->c, EXAMPLE, &opt));
    CU_ASSERT_TRUE_FATAL(compile_passes(&f->c, &p));
    f->nsites = sites_find(f->c.graph, f->c.arena, &f->sites);
    CU_ASSERT_TRUE_FATAL(lab_new(f->c.graph, f->sites, f->nsites, LENGTH, 2, &f->lab, &f->c.diag));
    uint64_t seed = 11;
    for (int i = 0; i < 2 * WINDOWS * LENGTH; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        f->ids[i] = (int32_t)((seed >> 33) % 1024);
    }
    f->calibration = (Windows){f->ids, WINDOWS, LENGTH, 0};
    f->other = (Windows){f->ids + WINDOWS * LENGTH, WINDOWS, LENGTH, 0};
    f->chosen = arena_array(f->c.arena, f->nsites, sizeof *f->chosen);
    for (size_t i = 0; i < f->nsites; i++)
        f->chosen[i] = f->sites[i].kind == SITE_LINEAR ? format_find("n3g32") : NULL;
}

static void fixture_close(Fixture *f) {
    lab_free(f->lab);
    compile_free(&f->c);
}

static Quality measure(Fixture *f) {
    Quality q = {0};
    CU_ASSERT_TRUE_FATAL(f->lab->measure(f->lab, &f->other, &q, &f->c.diag));
    return q;
}

typedef struct {
    size_t calls, stop;
    double loss, energy;
    bool rising;
    size_t last;
} Watch;

static bool watch(void *self, size_t done, size_t of, const Site *s, const Format *f, double loss,
                  double energy) {
    Watch *w = self;
    w->rising = w->calls == 0 || (w->rising && done > w->last);
    w->last = done;
    w->calls++;
    w->loss += loss;
    w->energy += energy;
    CU_ASSERT_TRUE(done <= of && s->rows > 0 && f != NULL);
    return w->calls != w->stop;
}

/* Moments make it better; the lab computes what the graph computes; what is not chosen stays. */
static void test_quantize(void) {
    Fixture f;
    fixture_open(&f);
    Watch seen = {0};
    LossyProgress progress = {&seen, watch};
    Graph *g = graph_copy(f.c.graph, f.c.arena), *blind = graph_copy(f.c.graph, f.c.arena);
    CU_ASSERT_TRUE_FATAL(lossy_quantize(blind, f.sites, f.nsites, f.chosen, NULL, NULL, NULL, &f.c.diag));
    CU_ASSERT_TRUE_FATAL(
        lossy_quantize(g, f.sites, f.nsites, f.chosen, f.lab, &f.calibration, &progress, &f.c.diag));
    size_t linear = 0;
    for (size_t i = 0; i < f.nsites; i++) linear += f.chosen[i] != NULL;
    CU_ASSERT_EQUAL(seen.calls, linear);
    CU_ASSERT_TRUE(seen.rising);
    CU_ASSERT_TRUE(seen.loss > 0 && seen.loss < 0.05 * seen.energy);
    CU_ASSERT_TRUE(graph_verify(g, &f.c.diag));
    Quality with = measure(&f), graph, without;
    CU_ASSERT_TRUE_FATAL(f.lab->measure_graph(f.lab, g, &f.other, &graph, &f.c.diag));
    CU_ASSERT_TRUE_FATAL(f.lab->measure_graph(f.lab, blind, &f.other, &without, &f.c.diag));
    CU_ASSERT_DOUBLE_EQUAL(graph.mean_kl, with.mean_kl, 1e-3 * with.mean_kl);
    CU_ASSERT_TRUE(with.mean_kl > 0 && with.mean_kl < 0.8 * without.mean_kl);
    for (size_t i = 0; i < f.nsites; i++) {
        size_t n = (size_t)(f.sites[i].rows * f.sites[i].cols);
        float *a = arena_array_of(f.c.arena, n, float), *b = arena_array_of(f.c.arena, n, float);
        CU_ASSERT_TRUE(site_read(f.c.graph, &f.sites[i], a, &f.c.diag));
        CU_ASSERT_TRUE(site_read(g, &f.sites[i], b, &f.c.diag));
        CU_ASSERT_EQUAL(memcmp(a, b, n * sizeof *a) == 0, f.chosen[i] == NULL);
    }
    fixture_close(&f);
}

static void test_stop(void) {
    Fixture f;
    fixture_open(&f);
    Watch seen = {.stop = 2};
    LossyProgress progress = {&seen, watch};
    Graph *g = graph_copy(f.c.graph, f.c.arena);
    CU_ASSERT_FALSE(lossy_quantize(g, f.sites, f.nsites, f.chosen, NULL, NULL, &progress, &f.c.diag));
    CU_ASSERT_EQUAL(seen.calls, 2);
    CU_ASSERT_EQUAL(f.c.diag.errors, 1);
    fixture_close(&f);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("quantize a graph", NULL, NULL);
    CU_add_test(s, "sites one after the other", test_quantize);
    CU_add_test(s, "stopped", test_stop);
    return unit_end();
}
