/* test_experts.c: mixtures of experts through the whole compiler, in the forms that exporters write. The compiler's
 * own gate compares what comes out with the reference on the imported graph; beyond that the plan must not grow
 * with the experts, and a token must read those it chose and no others. */
#include <stdio.h>
#include <unistd.h>

#include "runtime/gptc.h"
#include "tests/unit/experts_model.h"
#include "tests/unit/unit.h"
#include "tools/driver.h"

enum { WIDTH = 16, INNER = 12 };

static const char *model(Form form, int experts, int slots, Arena *a) {
    return experts_model(form, experts, slots, WIDTH, INNER, a);
}

typedef struct {
    uint32_t steps, routed;
    uint64_t step_bytes;
} Plan;

static bool compiles(const char *text, int level, Plan *plan) {
    char in[64], out[64];
    snprintf(in, sizeof in, "/tmp/gptc-experts-%d.gir", (int)getpid());
    snprintf(out, sizeof out, "/tmp/gptc-experts-%d.bin", (int)getpid());
    FILE *f = fopen(in, "w");
    if (f == NULL || fputs(text, f) < 0 || fclose(f) != 0) return false;
    Compile c;
    CompilePasses p = {.pass = {.kv_cache = true, .opt_level = level, .ctx = 96}};
    CompileWrite w = {.eos = -1, .seed = 1};
    CompileResult r;
    gptc_model *m = NULL;
    gptc_model_info info = {.struct_size = sizeof info};
    compile_init(&c);
    bool ok = compile_open(&c, in, &(ImportOptions){0}) && compile_passes(&c, &p) &&
              compile_write(&c, in, out, compile_context(&c, 96), &w, &r) && !gptc_open(out, NULL, &m, NULL);
    for (size_t i = 0; !ok && i < c.diag.items.count; i++) printf("\n    %s", c.diag.items.data[i].text);
    if (ok) {
        gptc_model_get_info(m, &info);
        *plan = (Plan){r.steps, graph_count_op(c.graph, OP_ROUTED), info.step_bytes};
    }
    gptc_close(m);
    compile_free(&c);
    unlink(out);
    unlink(in);
    return ok;
}

/* Few experts and many make one plan, whose tokens read as many bytes but for the router's. */
static void form_case(Form form, uint32_t routed) {
    Arena *a = arena_new();
    Plan few = {0}, many = {0}, plain = {0};
    CU_ASSERT_TRUE(compiles(model(form, 16, 4, a), 1, &few));
    CU_ASSERT_TRUE(compiles(model(form, 128, 4, a), 1, &many));
    CU_ASSERT_TRUE(compiles(model(form, 5, 2, a), 0, &plain));
    CU_ASSERT_EQUAL(few.routed, routed);
    CU_ASSERT_EQUAL(many.routed, routed);
    CU_ASSERT_EQUAL(plain.routed, routed);
    CU_ASSERT_EQUAL(many.steps, few.steps);
    CU_ASSERT_EQUAL(many.step_bytes - few.step_bytes, (128 - 16) * WIDTH * sizeof(float));
    arena_free(a);
}

static void test_unrolled(void) { form_case(UNROLLED, 3); }
static void test_listed(void) { form_case(LISTED, 2); }
static void test_dense(void) { form_case(DENSE, 2); }

/* More experts than one join takes, and than a byte counts. */
static void test_many(void) {
    Arena *a = arena_new();
    Plan p = {0};
    CU_ASSERT_TRUE(compiles(model(UNROLLED, 300, 8, a), 1, &p));
    CU_ASSERT_EQUAL(p.routed, 3);
    arena_free(a);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("experts", NULL, NULL);
    CU_add_test(s, "unrolled over hits", test_unrolled);
    CU_add_test(s, "on a list of slots", test_listed);
    CU_add_test(s, "all of them", test_dense);
    CU_add_test(s, "three hundred", test_many);
    return unit_end();
}
