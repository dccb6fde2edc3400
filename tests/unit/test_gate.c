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

/* The elements of the largest fp16 matrix, copied so that they may be written. */
static uint16_t *largest_matrix(Compile *c, size_t *count) {
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
    *count = best_bytes / 2;
    if (!best) return NULL;
    Const *k = &g->consts.data[best->cidx];
    uint16_t *copy = arena_dup(c->arena, k->data, best_bytes);
    k->data = copy;
    k->form = CF_DATA;
    k->hash = 0;
    return copy;
}

/* One element with the top bit of its exponent flipped. */
static bool plant_weight(Compile *c) {
    size_t n;
    uint16_t *w = largest_matrix(c, &n);
    if (w) w[n / 2] ^= 0x4000;
    return w != NULL;
}

/* All of them no numbers. */
static bool plant_nan(Compile *c) {
    size_t n;
    uint16_t *w = largest_matrix(c, &n);
    for (size_t i = 0; w && i < n; i++) w[i] = 0x7e00;
    return w != NULL;
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

/* ---- the second gate ---- */

/* Packs the example with a fault planted before the passes; no gate looks at it. */
static void pack_with(Plant *plant, const char *path) {
    Compile c;
    ImportOptions opt = {0};
    CompilePasses p = {.pass = {.kv_cache = true, .opt_level = 1}};
    const PackExtra extra = {.bos_token = -1};
    Program *program;
    PackStats stats;
    compile_init(&c);
    CU_ASSERT_TRUE_FATAL(compile_open(&c, EXAMPLE, &opt) && plant(&c) && compile_passes(&c, &p));
    CU_ASSERT_TRUE_FATAL(compile_lower(&c, compile_context(&c, 0), &program));
    CU_ASSERT_TRUE_FATAL(file_commit(pack_write(program, &extra, path, &stats, &c.diag), &c.diag));
    compile_free(&c);
}

typedef struct {
    double limit;
    int asked;
} Limit;
static bool within_limit(void *user, const Quality *q, Diag *d) {
    Limit *l = user;
    l->asked++;
    return q->mean_kl + 2 * q->mean_kl_error <= l->limit || diag_error(d, loc_none(), "too far");
}

/* gate_lossy of the planted artifact against the sound one. */
static bool second_gate(Plant *plant, Limit *l, Quality *q, bool *refused) {
    char exact[64], changed[64];
    int32_t ids[4 * 32];
    snprintf(exact, sizeof exact, "/tmp/gptc-gate-%d-a.bin", (int)getpid());
    snprintf(changed, sizeof changed, "/tmp/gptc-gate-%d-b.bin", (int)getpid());
    pack_with(plant_nothing, exact);
    pack_with(plant, changed);
    for (int i = 0; i < 4 * 32; i++) ids[i] = (i * 37 + 11) % 1000;
    const Windows text = {ids, 4, 32, 0};
    const GateLossy x = {exact, changed, &text, false, 1, within_limit, l};
    GateReport steps;
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    bool ok = gate_lossy(&x, a, &steps, q, &d);
    CU_ASSERT_EQUAL(ok, d.errors == 0);
    *refused = d.errors == 1 && strstr(d.items.data[0].text, "verification failed") != NULL;
    diag_free(&d);
    arena_free(a);
    unlink(exact);
    unlink(changed);
    return ok;
}

static void test_second_gate(void) {
    Quality q;
    bool refused;
    Limit none = {0, 0}, little = {1e-9, 0}, much = {1e3, 0}, never = {1e3, 0};
    CU_ASSERT_TRUE(second_gate(plant_nothing, &none, &q, &refused));
    CU_ASSERT_EQUAL(q.mean_kl, 0);
    CU_ASSERT_FALSE(second_gate(plant_epsilon, &little, &q, &refused));
    CU_ASSERT_TRUE(q.mean_kl > 1e-9);
    CU_ASSERT_TRUE(second_gate(plant_epsilon, &much, &q, &refused));
    CU_ASSERT_EQUAL(much.asked, 1);
    CU_ASSERT_FALSE(
        second_gate(plant_nan, &never, &q, &refused)); /* its runs are not even equal to each other */
    CU_ASSERT_TRUE(refused);
    CU_ASSERT_EQUAL(never.asked, 0);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("gate", NULL, NULL);
    CU_add_test(s, "a sound compile passes", test_sound);
    CU_add_test(s, "a corrupted weight is refused", test_corrupted_weight);
    CU_add_test(s, "a wrong epsilon is refused", test_wrong_epsilon);
    CU_add_test(s, "a lossy artifact is held to itself and to its budget", test_second_gate);
    return unit_end();
}
