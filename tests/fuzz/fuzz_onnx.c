/* fuzz_onnx.c: any bytes as an ONNX file. What is imported must verify, print, and parse back; small graphs
 * also go through the passes and lowering, which may refuse but not crash. */
#include <stdint.h>
#include <string.h>

#include "codegen/codegen.h"
#include "frontend/frontend.h"
#include "passes/pass.h"

#define PASS_MAX_NODES 400

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool is_small(const Graph *g) {
    size_t n = 0, elements = 0;
    FOR_NODES (g, id) n++;
    for (size_t i = 1; i < g->values.count; i++) {
        size_t bytes;
        if (type_static_bytes(&g->values.data[i].type, &bytes)) elements += bytes;
    }
    return n <= PASS_MAX_NODES && elements < ((size_t)4 << 20);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Arena *a = arena_new();
    Diag d;
    OnnxModel m;
    ImportOptions opt = {0};
    diag_init(&d);
    memset(&m, 0, sizeof m);
    if (onnx_import_bytes(data, size, NULL, &opt, a, &m, &d)) {
        if (!graph_verify(m.graph, &d)) __builtin_trap();
        if (is_small(m.graph)) {
            PassRun run = {.verify = true};
            PassOptions po = {.kv_cache = true, .ctx = 64, .opt_level = 1};
            CacheProof proof = {0};
            Program *p;
            if (passes_run(m.graph, &run, &po, &proof, &d)) lower(m.graph, &target_cpu, 64, a, &p, &d);
            if (d.bugs) __builtin_trap();
        }
        onnx_close(&m);
    } else if (!d.errors) {
        __builtin_trap(); /* a refusal says why */
    }
    diag_free(&d);
    arena_free(a);
    return 0;
}
