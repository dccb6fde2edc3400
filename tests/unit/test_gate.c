/* test_gate.c: a compile that went wrong after import is refused, and nothing is written. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/driver.h"
#include "tests/unit/unit.h"

#define EXAMPLE GPTC_SOURCE_DIR "/examples/shakespeare/model.onnx"

typedef bool Plant(Compile *c);

/* Compiles the example with a fault planted after import; true when a file was written. */
static bool compiles_with(Plant *plant, bool *refused_by_gate) {
    char out[64];
    Compile c;
    ImportOptions opt = {0};
    CompilePasses p = {.pass = {.kv_cache = true, .opt_level = 1}};
    CompileWrite w = {.eos = -1, .seed = 1};
    CompileResult r;
    snprintf(out, sizeof out, "/tmp/gptc-gate-%d.bin", (int)getpid());
    compile_init(&c);
    bool ok = compile_open(&c, EXAMPLE, &opt);
    CU_ASSERT_TRUE_FATAL(ok);
    CU_ASSERT_TRUE_FATAL(plant(&c));
    CU_ASSERT_TRUE_FATAL(compile_passes(&c, &p));
    bool written = compile_write(&c, EXAMPLE, out, compile_context(&c, 0), &w, &r);
    *refused_by_gate = false;
    for (size_t i = 0; i < c.diag.items.count; i++)
        *refused_by_gate |= strstr(c.diag.items.data[i].text, "verification failed") != NULL;
    CU_ASSERT_EQUAL(access(out, F_OK) == 0, written);
    unlink(out);
    compile_free(&c);
    return written;
}

static bool plant_nothing(Compile *c) { return c != NULL; }

/* One element of the largest fp16 matrix, with the top bit of its exponent flipped. */
static bool plant_weight(Compile *c) {
    Graph *g = c->graph;
    Value *best = NULL;
    size_t best_bytes = 0, bytes;
    for (size_t i = 1; i < g->values.count; i++) {
        Value *v = &g->values.data[i];
        if (v->kind != V_CONST || v->type.dtype != DT_F16 || !type_static_bytes(&v->type, &bytes)) continue;
        if (bytes > best_bytes) {
            best = v;
            best_bytes = bytes;
        }
    }
    if (!best) return false;
    Const *k = &g->consts.data[best->cidx];
    uint16_t *copy = arena_dup(c->arena, k->data, best_bytes);
    copy[best_bytes / 4] ^= 0x4000;
    k->data = copy;
    k->form = CF_DATA;
    k->hash = 0;
    return true;
}

static bool plant_epsilon(Compile *c) {
    FOR_NODES (c->graph, id) {
        Node *n = graph_node(c->graph, id);
        if (n->op != OP_NORM) continue;
        n->attr.eps *= 1000;
        return true;
    }
    return false;
}

static void test_sound(void) {
    bool gate;
    CU_ASSERT_TRUE(compiles_with(plant_nothing, &gate));
    CU_ASSERT_FALSE(gate);
}
static void test_corrupted_weight(void) {
    bool gate;
    CU_ASSERT_FALSE(compiles_with(plant_weight, &gate));
    CU_ASSERT_TRUE(gate);
}
static void test_wrong_epsilon(void) {
    bool gate;
    CU_ASSERT_FALSE(compiles_with(plant_epsilon, &gate));
    CU_ASSERT_TRUE(gate);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("gate", NULL, NULL);
    CU_add_test(s, "a sound compile passes", test_sound);
    CU_add_test(s, "a corrupted weight is refused", test_corrupted_weight);
    CU_add_test(s, "a wrong epsilon is refused", test_wrong_epsilon);
    return unit_end();
}
