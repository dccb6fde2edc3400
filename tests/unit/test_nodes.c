/* test_nodes.c: small ONNX graphs with stored inputs and outputs, run by the reference.
 *
 * tests/corpus/nodes/NAME holds model.onnx and test_data_set_0 with input_I.pb and output_I.pb, as ONNX's
 * own node tests do; tests/export/nodes.py writes them, with ONNX Runtime's results. Folders given on the
 * command line are run instead. */
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frontend/frontend.h"
#include "tests/unit/unit.h"

#define NODES GPTC_SOURCE_DIR "/tests/corpus/nodes"
#define VALUES_MAX 32

typedef struct {
    Arena *arena;
    Diag diag;
    const char *dir;
    Graph *g;
    int64_t *bind;
    Tensor in[VALUES_MAX];
} Case;

static bool load(Case *c, const char *what, size_t i, Tensor *out) {
    const char *path = arena_printf(c->arena, "%s/test_data_set_0/%s_%zu.pb", c->dir, what, i);
    return access(path, R_OK) == 0 && onnx_tensor_read(path, c->arena, out, &c->diag);
}

/* Symbols take the lengths that the inputs have where a dimension is one of them alone. */
static void bind_symbols(Case *c) {
    Graph *g = c->g;
    c->bind = arena_array_of(c->arena, g->symbols.count, int64_t);
    c->bind[SYM_BATCH.id] = c->bind[SYM_SEQ.id] = 1;
    for (size_t i = 0; i < g->inputs.count; i++)
        for (uint32_t k = 0; k < graph_type(g, g->inputs.data[i].v)->rank; k++)
            for (uint32_t s = 1; s < g->symbols.count; s++)
                if (dim_eq(graph_type(g, g->inputs.data[i].v)->dim[k], dim_sym(g, (SymId){s})))
                    c->bind[s] = c->in[i].dim[k];
}

/* 1e-3 relative and absolute for narrow floats, 1e-5 otherwise. */
static bool agrees(const Tensor *a, const Tensor *b) {
    bool narrow = b->dtype == DT_F16 || b->dtype == DT_BF16;
    double tolerance = b->dtype == DT_BF16 ? 1e-2 : narrow ? 2e-3 : 2e-5;
    if (a->rank != b->rank || a->dtype != b->dtype) return false;
    for (uint32_t i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i]) return false;
    for (size_t i = 0; i < tensor_count(b); i++) {
        double x = tensor_get_f64(a, i), y = tensor_get_f64(b, i);
        if (x == y || (isnan(x) && isnan(y))) continue;
        if (!(fabs(x - y) <= tolerance * (1 + fabs(y)))) {
            printf("\n    element %zu of %zu: %g, not %g", i, tensor_count(b), x, y);
            return false;
        }
    }
    return true;
}

static bool compare_outputs(Case *c) {
    Graph *g = c->g;
    size_t compared = 0;
    for (size_t i = 0; i < g->outputs.count; i++) {
        Tensor want, got;
        if (!load(c, "output", i, &want)) continue;
        EvalArgs args = {
            .bind = c->bind, .nbind = g->symbols.count, .inputs = c->in, .ninputs = g->inputs.count};
        if (!eval_graph(g, &args, &g->outputs.data[i].v, 1, &got, c->arena, &c->diag)) return false;
        if (!agrees(&got, &want)) {
            printf("\n    output %zu differs", i);
            return false;
        }
        compared++;
    }
    return compared > 0;
}

static bool run_case(const char *dir) {
    Case c = {.arena = arena_new(), .dir = dir};
    OnnxModel model;
    diag_init(&c.diag);
    const char *path = arena_printf(c.arena, "%s/model.onnx", dir);
    bool open = onnx_import(path, NULL, c.arena, &model, &c.diag), ok = open;
    if (open) {
        c.g = model.graph;
        ok = graph_verify(c.g, &c.diag) && c.g->inputs.count <= VALUES_MAX;
        for (size_t i = 0; i < c.g->inputs.count && ok; i++) ok = load(&c, "input", i, &c.in[i]);
        if (ok) bind_symbols(&c);
        ok = ok && compare_outputs(&c);
    }
    for (size_t i = 0; i < c.diag.items.count; i++) printf("\n    %s", c.diag.items.data[i].text);
    if (!ok) printf("\n    FAIL: %s\n", dir);
    if (open) onnx_close(&model);
    diag_free(&c.diag);
    arena_free(c.arena);
    return ok;
}

static void test_nodes(void) {
    DIR *d = opendir(NODES);
    CU_ASSERT_PTR_NOT_NULL_FATAL(d);
    size_t ran = 0;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char dir[1024];
        if (e->d_name[0] == '.') continue;
        snprintf(dir, sizeof(dir), NODES "/%s", e->d_name);
        CU_ASSERT_TRUE(run_case(dir));
        ran++;
    }
    closedir(d);
    CU_ASSERT_TRUE(ran > 0);
}

int main(int argc, char **argv) {
    int failed = 0;
    for (int i = 1; i < argc; i++) failed += !run_case(argv[i]);
    if (argc > 1) {
        printf("%d of %d failed\n", failed, argc - 1);
        return failed != 0;
    }
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("nodes", NULL, NULL);
    CU_add_test(s, "the reference gives the stored outputs", test_nodes);
    return unit_end();
}
