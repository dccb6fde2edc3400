/* test_function.c: graphs that run as they are, from the text to the public API. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "runtime/gptc.h"
#include "tests/unit/unit.h"
#include "tools/driver.h"

#define HEAD "gir 1 stage=imported\nsymbol batch\nsymbol seq\nsymbol past\n"

typedef struct {
    char text[64], model[64];
    bool kv_cache;
    bool (*plant)(Compile *c);
    char error[512]; /* the first one */
    CompileResult result;
} Case;

/* Compiles a text to c->model; false when it is refused. */
static bool compiles(Case *k, const char *text) {
    Compile c;
    CompilePasses p = {.pass = {.kv_cache = k->kv_cache, .opt_level = 1}};
    CompileWrite w = {.eos = -1, .seed = 1};
    snprintf(k->text, sizeof k->text, "/tmp/gptc-function-%d.gir", (int)getpid());
    snprintf(k->model, sizeof k->model, "/tmp/gptc-function-%d.bin", (int)getpid());
    compile_init(&c);
    bool ok = file_write_text(k->text, text, strlen(text), &c.diag) && compile_open(&c, k->text, NULL) &&
              (!k->plant || k->plant(&c)) && compile_passes(&c, &p) &&
              compile_write(&c, k->text, k->model, compile_context(&c, 0), &w, &k->result);
    k->error[0] = 0;
    for (size_t i = 0; i < c.diag.items.count && !ok && !k->error[0]; i++)
        snprintf(k->error, sizeof k->error, "%s", c.diag.items.data[i].text);
    CU_ASSERT_EQUAL(access(k->model, F_OK) == 0, ok);
    compile_free(&c);
    unlink(k->text);
    return ok;
}

static void expect_refused(Case *k, const char *text, const char *why) {
    CU_ASSERT_FALSE(compiles(k, text));
    CU_ASSERT_PTR_NOT_NULL(strstr(k->error, why));
    if (!strstr(k->error, why)) printf("\n    said: %s", k->error);
    unlink(k->model);
}

static gptc_model *open_model(const Case *k) {
    gptc_model *m = NULL;
    gptc_detail why = {""};
    CU_ASSERT_EQUAL(gptc_open(k->model, NULL, &m, &why), GPTC_OK);
    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    unlink(k->model);
    return m;
}

static const char ports[] = HEAD "symbol rows\n"
                                 "input %1 \"x\" : f32[rows, 2]\n"
                                 "input %2 \"unread\" : i64[3]\n"
                                 "const %3 : f32[2, 2] = {1, 2, 3, 4}\n"
                                 "%4 : f32[rows, 2] = matmul(%1, %3)\n"
                                 "%5 : f32[2] = reduce_sum(%1) {axes=[0]}\n"
                                 "output %4 \"y\"\n"
                                 "output %4 \"again\"\n"
                                 "output %1 \"same\"\n"
                                 "output %3 \"weight\"\n"
                                 "output %5 \"sum\"\n";

/* Every port has its name, also where several are one value; shapes are the caller's. */
static void test_ports(void) {
    Case k = {.kv_cache = true};
    CU_ASSERT_TRUE_FATAL(compiles(&k, ports));
    CU_ASSERT_EQUAL(k.result.kind, COMPILED_FUNCTION);
    gptc_model *m = open_model(&k);
    static const char *const names[] = {"y", "again", "same", "weight", "sum"};
    gptc_port port;
    CU_ASSERT_EQUAL(gptc_inputs(m), 2);
    CU_ASSERT_EQUAL_FATAL(gptc_outputs(m), 5);
    CU_ASSERT_EQUAL(gptc_input(m, 0, &port), GPTC_OK);
    CU_ASSERT_TRUE(port.rank == 2 && port.dim[0] == -1 && port.dim[1] == 2);
    CU_ASSERT_STRING_EQUAL(port.symbol[0], "rows");
    for (int32_t i = 0; i < 5; i++) {
        gptc_output(m, i, &port);
        CU_ASSERT_STRING_EQUAL(port.name, names[i]);
    }
    gptc_function *f = NULL;
    const float x[6] = {1, 0, 0, 1, 1, 1};
    const int64_t unread[3] = {0};
    const gptc_tensor in[2] = {{GPTC_F32, 2, {3, 2}, x}, {GPTC_I64, 1, {3}, unread}};
    gptc_detail why = {""};
    CU_ASSERT_EQUAL_FATAL(gptc_function_new(m, NULL, &f, &why), GPTC_OK);
    CU_ASSERT_EQUAL_FATAL(gptc_function_run(f, in, 2, &why), GPTC_OK);
    static const float want[5][6] = {
        {1, 2, 3, 4, 4, 6}, {1, 2, 3, 4, 4, 6}, {1, 0, 0, 1, 1, 1}, {1, 2, 3, 4}, {2, 2}};
    static const size_t count[5] = {6, 6, 6, 4, 2};
    for (int32_t i = 0; i < 5; i++)
        CU_ASSERT_EQUAL(memcmp(gptc_function_output(f, i)->data, want[i], count[i] * sizeof(float)), 0);
    gptc_function_free(f);
    gptc_close(m);
}

/* The largest constant of the graph, off by a little in one place. */
static bool plant_constant(Compile *c) {
    Value *best = NULL;
    size_t bytes = 0, most = 0;
    for (size_t i = 1; i < c->graph->values.count; i++) {
        Value *v = &c->graph->values.data[i];
        if (v->kind != V_CONST || !type_static_bytes(&v->type, &bytes) || bytes <= most) continue;
        best = v;
        most = bytes;
    }
    if (!best) return false;
    Const *k = &c->graph->consts.data[best->cidx];
    float *copy = arena_dup(c->arena, k->data, most);
    copy[1] *= 1.01f;
    k->data = copy;
    k->form = CF_DATA;
    k->hash = 0;
    return true;
}

static void test_gate(void) {
    static const char text[] = HEAD "input %1 \"x\" : f32[seq, 2]\n"
                                    "const %2 : f32[2, 3] = {1, 2, 3, 4, 5, 6}\n"
                                    "%3 : f32[seq, 3] = matmul(%1, %2)\n"
                                    "output %3 \"y\"\n";
    Case k = {.kv_cache = true};
    CU_ASSERT_TRUE(compiles(&k, text));
    CU_ASSERT_EQUAL(k.result.gate.tokens, 3); /* rounds */
    unlink(k.model);
    k.plant = plant_constant;
    expect_refused(&k, text, "verification failed: output \"y\" differs");
}

static void test_limits(void) {
    Case k = {.kv_cache = true};
    expect_refused(
        &k,
        HEAD "symbol a\nsymbol b\nsymbol c\nsymbol d\nsymbol e\nsymbol f\nsymbol g\nsymbol h\nsymbol i\n"
             "input %1 \"x\" : f32[a, b, c, d, e]\ninput %2 \"y\" : f32[f, g, h, i]\n"
             "%3 : f32[a, b, c, d, e] = exp(%1)\n%4 : f32[f, g, h, i] = exp(%2)\n"
             "output %3 \"p\"\noutput %4 \"q\"\n",
        "more than 8 free dimensions");
}

static const char gpt[] = HEAD "input %1 \"ids\" : i64[batch, seq] role=tokens\n"
                               "const %2 : f32[16, 8] = seed(1)\nconst %3 : f32[8, 16] = seed(2)\n"
                               "%4 : f32[batch, seq, 8] = gather(%2, %1)\n"
                               "%5 : f32[batch, 1, 8] = slice(%4) {starts=[0, -1 + seq, 0]}\n"
                               "%6 : f32[batch, 1, 16] = matmul(%5, %3)\n"
                               "output %6 \"logits\" role=logits\n";

/* A GPT without cache has sessions; one that picked the last token gives all tokens' logits. */
static void test_gpt(void) {
    Case k = {.kv_cache = false};
    CU_ASSERT_TRUE_FATAL(compiles(&k, gpt));
    CU_ASSERT_EQUAL(k.result.kind, COMPILED_GPT);
    gptc_model *m = open_model(&k);
    gptc_model_info info = {.struct_size = sizeof info};
    gptc_model_get_info(m, &info);
    CU_ASSERT_EQUAL(info.vocab, 16);
    CU_ASSERT_EQUAL(info.has_cache, 0);
    gptc_port port;
    CU_ASSERT_EQUAL(gptc_output(m, 0, &port), GPTC_OK);
    CU_ASSERT_TRUE(port.rank == 3 && port.dim[1] == -1 && port.dim[2] == 16);
    gptc_session *s = NULL;
    const int32_t ids[3] = {3, 1, 15};
    CU_ASSERT_EQUAL_FATAL(gptc_session_new(m, NULL, &s, NULL), GPTC_OK);
    CU_ASSERT_EQUAL(gptc_prefill(s, 0, ids, 3, GPTC_LOGITS_LAST), GPTC_OK);
    CU_ASSERT_PTR_NOT_NULL(gptc_logits(s, 0));
    gptc_session_free(s);
    gptc_close(m);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("functions", NULL, NULL);
    CU_add_test(s, "ports", test_ports);
    CU_add_test(s, "a wrong constant is refused", test_gate);
    CU_add_test(s, "limits", test_limits);
    CU_add_test(s, "a GPT without cache", test_gpt);
    return unit_end();
}
