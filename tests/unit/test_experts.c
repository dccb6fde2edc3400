/* test_experts.c: mixtures of experts through the whole compiler, in the forms that exporters write. The compiler's
 * own gate compares what comes out with the reference on the imported graph; beyond that the plan must not grow
 * with the experts, and a token must read those it chose and no others. */
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "runtime/gptc.h"
#include "tests/unit/unit.h"
#include "tools/driver.h"

enum { WIDTH = 16, INNER = 12, VOCAB = 40 };
typedef enum { UNROLLED, LISTED, DENSE } Form;
typedef struct {
    Text t, body;
    int values, experts, slots;
} Gen;

__attribute__((format(printf, 2, 3))) static int line(Gen *g, const char *format, ...) {
    va_list args;
    va_start(args, format);
    text_printf(&g->body, "%%%d : ", ++g->values);
    text_vprintf(&g->body, format, args);
    text_add(&g->body, "\n");
    va_end(args);
    return g->values;
}

__attribute__((format(printf, 2, 3))) static int constant(Gen *g, const char *format, ...) {
    va_list args;
    va_start(args, format);
    text_printf(&g->t, "const %%%d : ", ++g->values);
    text_vprintf(&g->t, format, args);
    text_add(&g->t, "\n");
    va_end(args);
    return g->values;
}

static int number(Gen *g, int v) { return constant(g, "i64[] = {%d}", v); }

/* x[rows, WIDTH] through an expert: silu(x w1) * (x w2), times w3. */
static int expert(Gen *g, int x, const char *rows, int e) {
    int w1 = constant(g, "f32[%d, %d] = seed(%d)", WIDTH, INNER, 3 * e + 1);
    int w2 = constant(g, "f32[%d, %d] = seed(%d)", WIDTH, INNER, 3 * e + 2);
    int w3 = constant(g, "f32[%d, %d] = seed(%d)", INNER, WIDTH, 3 * e + 3);
    int a = line(g, "f32[%s, %d] = matmul(%%%d, %%%d)", rows, INNER, x, w1);
    int s = line(g, "f32[%s, %d] = sigmoid(%%%d)", rows, INNER, a);
    int h = line(g, "f32[%s, %d] = mul(%%%d, %%%d)", rows, INNER, a, s);
    int b = line(g, "f32[%s, %d] = matmul(%%%d, %%%d)", rows, INNER, x, w2);
    h = line(g, "f32[%s, %d] = mul(%%%d, %%%d)", rows, INNER, h, b);
    return line(g, "f32[%s, %d] = matmul(%%%d, %%%d)", rows, WIDTH, h, w3);
}

/* Each expert on the rows that chose it, as the older exporter of PyTorch unrolls the loop. */
static int unrolled(Gen *g, int x, int weight, int index) {
    int k = g->slots, e = g->experts, one = number(g, 1), zero = number(g, 0), count = number(g, k);
    int iota = constant(g, "i64[1, 1, %d] = {0", e);
    g->t.count -= 1; /* the line goes on */
    for (int i = 1; i < e; i++) text_printf(&g->t, ", %d", i);
    text_add(&g->t, "}\n");
    int wide = line(g, "i64[batch*seq, %d, 1] = reshape(%%%d)", k, index);
    int hot = line(g, "bool[batch*seq, %d, %d] = eq(%%%d, %%%d)", k, e, wide, iota);
    int ones = line(g, "i64[batch*seq, %d, %d] = where(%%%d, %%%d, %%%d)", k, e, hot, one, zero);
    int mask = line(g, "i64[%d, %d, batch*seq] = transpose(%%%d) {perm=[2, 1, 0]}", e, k, ones);
    int flat = line(g, "f32[%d*batch*seq] = reshape(%%%d)", k, weight);
    int none = constant(g, "f32[] = splat(0)");
    int zeros = line(g, "f32[batch*seq, %d] = broadcast(%%%d)", WIDTH, none), sum = zeros;
    for (int i = 0; i < e; i++) {
        char h[16];
        snprintf(h, sizeof h, "hits%d", i);
        int mine = line(g, "i64[%d, batch*seq] = gather(%%%d, %%%d)", k, mask, number(g, i));
        int places = line(g, "i64[2, %s] = nonzero(%%%d)", h, mine);
        int slot = line(g, "i64[1, %s] = slice(%%%d)", h, places);
        int row = line(g, "i64[1, %s] = slice(%%%d) {starts=[1, 0]}", h, places);
        slot = line(g, "i64[%s] = reshape(%%%d)", h, slot);
        row = line(g, "i64[%s] = reshape(%%%d)", h, row);
        int y = expert(g, line(g, "f32[%s, %d] = gather(%%%d, %%%d)", h, WIDTH, x, row), h, i);
        int at = line(g, "i64[%s] = mul(%%%d, %%%d)", h, row, count);
        at = line(g, "i64[%s] = add(%%%d, %%%d)", h, at, slot);
        int w = line(g, "f32[%s] = gather(%%%d, %%%d)", h, flat, at);
        w = line(g, "f32[%s, 1] = reshape(%%%d)", h, w);
        y = line(g, "f32[%s, %d] = mul(%%%d, %%%d)", h, WIDTH, y, w);
        row = line(g, "i64[%s, 1] = reshape(%%%d)", h, row);
        row = line(g, "i64[%s, %d] = broadcast(%%%d)", h, WIDTH, row);
        y = line(g, "f32[batch*seq, %d] = scatter_elements(%%%d, %%%d, %%%d) {axis=0}", WIDTH, zeros, row, y);
        sum = line(g, "f32[batch*seq, %d] = add(%%%d, %%%d)", WIDTH, sum, y);
    }
    return sum;
}

/* All slots of all rows in one list, experts picked by it. */
static int listed(Gen *g, int x, int weight, int index) {
    int k = g->slots, e = g->experts;
    char n[32];
    snprintf(n, sizeof n, "%d*batch*seq", k);
    int list = line(g, "i64[%s] = reshape(%%%d)", n, index);
    int w1 = constant(g, "f32[%d, %d, %d] = seed(1)", e, 2 * INNER, WIDTH);
    int w2 = constant(g, "f32[%d, %d, %d] = seed(2)", e, WIDTH, INNER);
    int bias = constant(g, "f32[%d, %d] = seed(3)", e, 2 * INNER);
    x = line(g, "f32[batch*seq, 1, %d] = reshape(%%%d)", WIDTH, x);
    x = line(g, "f32[batch*seq, %d, %d] = broadcast(%%%d)", k, WIDTH, x);
    x = line(g, "f32[%s, %d, 1] = reshape(%%%d)", n, WIDTH, x);
    int p = line(g, "f32[%s, %d, %d] = gather(%%%d, %%%d)", n, 2 * INNER, WIDTH, w1, list);
    int y = line(g, "f32[%s, %d, 1] = matmul(%%%d, %%%d)", n, 2 * INNER, p, x);
    y = line(g, "f32[%s, %d] = reshape(%%%d)", n, 2 * INNER, y);
    int b = line(g, "f32[%s, %d] = gather(%%%d, %%%d)", n, 2 * INNER, bias, list);
    y = line(g, "f32[%s, %d] = add(%%%d, %%%d)", n, 2 * INNER, y, b);
    int up = line(g, "f32[%s, %d] = slice(%%%d) {starts=[0, %d]}", n, INNER, y, INNER);
    y = line(g, "f32[%s, %d] = relu(%%%d)", n, INNER, line(g, "f32[%s, %d] = slice(%%%d)", n, INNER, y));
    y = line(g, "f32[%s, %d] = mul(%%%d, %%%d)", n, INNER, y, up);
    y = line(g, "f32[%s, %d, 1] = reshape(%%%d)", n, INNER, y);
    p = line(g, "f32[%s, %d, %d] = gather(%%%d, %%%d)", n, WIDTH, INNER, w2, list);
    y = line(g, "f32[%s, %d, 1] = matmul(%%%d, %%%d)", n, WIDTH, p, y);
    y = line(g, "f32[batch*seq, %d, %d] = reshape(%%%d)", k, WIDTH, y);
    weight = line(g, "f32[batch*seq, %d, 1] = reshape(%%%d)", k, weight);
    y = line(g, "f32[batch*seq, %d, %d] = mul(%%%d, %%%d)", k, WIDTH, y, weight);
    return line(g, "f32[batch*seq, %d] = reduce_sum(%%%d) {axes=[1]}", WIDTH, y);
}

/* All experts on all rows, times weights that are zero for most. */
static int dense(Gen *g, int x, int weight, int index) {
    int e = g->experts, none = constant(g, "f32[] = splat(0)");
    int w1 = constant(g, "f32[%d, %d, %d] = seed(1)", e, WIDTH, INNER);
    int w2 = constant(g, "f32[%d, %d, %d] = seed(2)", e, INNER, WIDTH);
    int bias = constant(g, "f32[%d, 1, %d] = seed(3)", e, WIDTH);
    int zeros = line(g, "f32[batch*seq, %d] = broadcast(%%%d)", e, none);
    int scores =
        line(g, "f32[batch*seq, %d] = scatter_elements(%%%d, %%%d, %%%d) {axis=1}", e, zeros, index, weight);
    scores = line(g, "f32[%d, batch*seq] = transpose(%%%d) {perm=[1, 0]}", e, scores);
    scores = line(g, "f32[%d, batch*seq, 1] = reshape(%%%d)", e, scores);
    x = line(g, "f32[1, batch*seq, %d] = reshape(%%%d)", WIDTH, x);
    x = line(g, "f32[%d, batch*seq, %d] = broadcast(%%%d)", e, WIDTH, x);
    int y = line(g, "f32[%d, batch*seq, %d] = matmul(%%%d, %%%d)", e, INNER, x, w1);
    y = line(g, "f32[%d, batch*seq, %d] = tanh(%%%d)", e, INNER, y);
    y = line(g, "f32[%d, batch*seq, %d] = matmul(%%%d, %%%d)", e, WIDTH, y, w2);
    y = line(g, "f32[%d, batch*seq, %d] = add(%%%d, %%%d)", e, WIDTH, y, bias);
    y = line(g, "f32[%d, batch*seq, %d] = mul(%%%d, %%%d)", e, WIDTH, y, scores);
    return line(g, "f32[batch*seq, %d] = reduce_sum(%%%d) {axes=[0]}", WIDTH, y);
}

/* Attention over one head, then the mixture; both added to what they read. */
static const char *model(Form form, int experts, int slots, Arena *a) {
    Gen gen = {.t = text_new(a), .body = text_new(a), .experts = experts, .slots = slots}, *g = &gen;
    text_add(&g->t, "gir 1 stage=imported\nsymbol batch\nsymbol seq\nsymbol past\n");
    for (int i = 0; form == UNROLLED && i < experts; i++) text_printf(&g->t, "symbol hits%d\n", i);
    text_printf(&g->t, "input %%%d \"ids\" : i64[batch, seq] role=tokens\n", ++g->values);
    int table = constant(g, "f32[%d, %d] = seed(901)", VOCAB, WIDTH);
    int gain = constant(g, "f32[] = splat(20)");
    int x = line(g, "f32[batch, seq, %d] = gather(%%%d, %%1)", WIDTH, table);
    x = line(g, "f32[batch, seq, %d] = mul(%%%d, %%%d)", WIDTH, x, gain);
    int q = line(g, "f32[batch, seq, 1, %d] = reshape(%%%d)", WIDTH, x);
    q = line(g, "f32[batch, seq, 1, %d] = attention(%%%d, %%%d, %%%d) {scale=0.25, causal=true}", WIDTH, q, q,
             q);
    q = line(g, "f32[batch, seq, %d] = reshape(%%%d)", WIDTH, q);
    x = line(g, "f32[batch, seq, %d] = add(%%%d, %%%d)", WIDTH, x, q);
    int rows = line(g, "f32[batch*seq, %d] = reshape(%%%d)", WIDTH, x);
    int router = constant(g, "f32[%d, %d] = seed(900)", WIDTH, experts);
    int probs = line(g, "f32[batch*seq, %d] = matmul(%%%d, %%%d)", experts, rows, router);
    probs = line(g, "f32[batch*seq, %d] = softmax(%%%d) {axis=1}", experts, probs);
    int weight = ++g->values, index = ++g->values;
    text_printf(&g->body,
                "%%%d, %%%d : f32[batch*seq, %d], i64[batch*seq, %d] = topk(%%%d) {axis=1, count=%d}\n",
                weight, index, slots, slots, probs, slots);
    int total = line(g, "f32[batch*seq, 1] = reduce_sum(%%%d) {axes=[1], keep=true}", weight);
    weight = line(g, "f32[batch*seq, %d] = div(%%%d, %%%d)", slots, weight, total);
    int y = form == UNROLLED ? unrolled(g, rows, weight, index)
            : form == LISTED ? listed(g, rows, weight, index)
                             : dense(g, rows, weight, index);
    y = line(g, "f32[batch, seq, %d] = reshape(%%%d)", WIDTH, y);
    x = line(g, "f32[batch, seq, %d] = add(%%%d, %%%d)", WIDTH, x, y);
    int head = constant(g, "f32[%d, %d] = seed(902)", WIDTH, VOCAB);
    x = line(g, "f32[batch, seq, %d] = matmul(%%%d, %%%d)", VOCAB, x, head);
    text_addn(&g->t, g->body.data, g->body.count);
    text_printf(&g->t, "output %%%d \"logits\" role=logits\n", x);
    return g->t.data;
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
