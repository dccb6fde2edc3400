/* test_prune.c: blocks of real graphs, and what can be taken from them: what adds nothing goes without a trace. */
#include <stdio.h>
#include <unistd.h>

#include "passes/lossy/lossy.h"
#include "passes/lossy/pick.h"
#include "tests/unit/fake_lab.h"
#include "tests/unit/stateful.h"
#include "tests/unit/unit.h"

typedef struct {
    const char *folder;
    uint32_t attentions, feed_forwards;
    int64_t heads, kv_heads, hidden;
    bool whole; /* nothing can go: compressed weights */
} Expected;
static const Expected models[] = {
    {GPTC_MODELS "/zoo/gpt2-dynamo18", 2, 2, 4, 4, 256, false},
    {GPTC_MODELS "/zoo/gpt2-dynamo23", 2, 2, 4, 4, 256, false},
    {GPTC_MODELS "/zoo/gpt2-ts", 2, 2, 4, 4, 256, false},
    {GPTC_MODELS "/zoo/gpt2-ts-past", 2, 2, 4, 4, 256, false},
    {GPTC_MODELS "/zoo/gpt2-ts-past-fp16", 2, 2, 4, 4, 256, false},
    {GPTC_MODELS "/zoo/gpt2-ts-past-ortopt", 2, 2, 4, 4, 256, false},
    {GPTC_MODELS "/zoo/gpt2-ortfused-past", 5, 5, 4, 4, 128, false},
    {GPTC_MODELS "/zoo/llama-dynamo18", 2, 2, 4, 2, 160, false},
    {GPTC_MODELS "/zoo/llama-dynamo23", 2, 2, 4, 2, 160, false},
    {GPTC_MODELS "/zoo/llama-ts", 2, 2, 4, 2, 160, false},
    {GPTC_MODELS "/zoo/llama-ts-past", 2, 2, 4, 2, 160, false},
    {GPTC_MODELS "/zoo/llama-genai", 2, 2, 4, 2, 160, false},
    {GPTC_MODELS "/zoo/llama-genai-int4", 2, 2, 4, 2, 160, true},
    {GPTC_MODELS "/zoo/llama-dynamo18-int4", 2, 2, 4, 2, 160, true},
    {GPTC_MODELS "/zoo/qwen2-ts-past", 2, 2, 4, 2, 160, false},
    {GPTC_MODELS "/zoo/mistral-ts-past", 2, 2, 4, 2, 160, false},
    {GPTC_MODELS "/zoo/phi3-dynamo23", 2, 2, 4, 2, 160, false},
    {GPTC_MODELS "/zoo/gemma2-dynamo18", 2, 2, 4, 2, 160, false},
    {GPTC_MODELS "/zoo/bloom-ts-past", 2, 2, 4, 4, 256, false},
    {GPTC_MODELS "/zoo/gptj-dynamo18", 2, 2, 4, 4, 256, false},
    {GPTC_MODELS "/zoo/gptneox-dynamo18", 2, 2, 4, 4, 160, false},
    {GPTC_MODELS "/zoo/handwritten-ts11", 2, 2, 4, 4, 256, false},
    {GPTC_MODELS "/zoo/handwritten-ts17", 2, 2, 4, 4, 256, false},
    {GPTC_MODELS "/zoo/handwritten-static", 2, 2, 4, 4, 256, false},
    {GPTC_MODELS "/zoo/qwen3moe-ts-past", 2, 0, 4, 2, 0, false},
    {GPTC_MODELS "/shk/gpt2", 6, 6, 8, 8, 1024, false},
    {GPTC_MODELS "/shk/llama", 6, 6, 8, 2, 768, false},
};

static bool present(const char *folder) {
    char path[512];
    snprintf(path, sizeof path, "%s/model.onnx", folder);
    return access(path, R_OK) == 0;
}

static void check_blocks(const Expected *e) {
    Opened o = open_model(e->folder);
    Block *b;
    size_t n = o.ok ? blocks_find(o.g, o.arena, &b) : 0;
    uint32_t count[2] = {0, 0};
    for (size_t i = 0; i < n; i++) {
        bool attention = b[i].kind == BLOCK_ATTENTION;
        CU_ASSERT_EQUAL(b[i].layer, (int32_t)count[b[i].kind]++);
        CU_ASSERT_TRUE(node_ok(b[i].join));
        CU_ASSERT_EQUAL(b[i].multiple, e->whole ? 0 : attention ? 1 : 16);
        CU_ASSERT_EQUAL(b[i].units, attention ? e->kv_heads : e->hidden);
        if (attention) {
            CU_ASSERT_EQUAL(b[i].heads, e->heads);
            CU_ASSERT_EQUAL(b[i].kv_heads, e->kv_heads);
        }
    }
    CU_ASSERT_EQUAL(count[BLOCK_ATTENTION], e->attentions);
    CU_ASSERT_EQUAL(count[BLOCK_FEED_FORWARD], e->feed_forwards);
    if (count[0] != e->attentions || count[1] != e->feed_forwards) printf("\n    %s", e->folder);
    close_model(&o);
}

static void test_blocks(void) {
    for (size_t i = 0; i < COUNT_OF(models); i++) {
        if (present(models[i].folder))
            check_blocks(&models[i]);
        else
            printf("\n    %s is absent", models[i].folder);
    }
}

static bool prepare(Opened *o, LossyStep *steps, size_t n) {
    Site *sites;
    size_t nsites = sites_find(o->g, o->arena, &sites);
    FakeLab fake = {sites};
    Lab lab = {.self = &fake, .moments = fake_moments};
    Windows none = {0};
    return steps_prepare(o->g, sites, nsites, &lab, &none, steps, n, o->arena, &o->diag);
}

/* ---- what adds nothing goes without a trace ---- */

/* `amount` units spread over the block (7 has no factor in common with their number). */
static bool silent(const Block *b, int64_t unit, int64_t amount) {
    return (unit * 7 + 1) % b->units < amount;
}

/* They add nothing from now on; with all of them silent the bias is too. */
static void silence(Opened *o, const Block *b, int64_t amount) {
    Graph *g = o->g;
    Node n = *graph_node(g, b->out);
    const Type *t = graph_type(g, n.in[1]);
    int64_t dim[2] = {t->dim[0].v, t->dim[1].v}, cols = dim[n.attr.trans ? 1 : 0];
    float *w, *bias;
    CU_ASSERT_TRUE_FATAL(weight_read(g, n.in[1], o->arena, &w, &o->diag));
    for (int64_t i = 0; i < dim[0] * dim[1]; i++) {
        int64_t input = n.attr.trans ? i % cols : i / dim[1];
        if (silent(b, input / b->size, amount)) w[i] = 0;
    }
    g->insert_before = b->out;
    n.in[1] = weight_make(g, w, 2, dim, n.in[1], &o->diag);
    if (amount == b->units && n.nin > 2) {
        int64_t rows = graph_type(g, n.in[2])->dim[0].v;
        CU_ASSERT_TRUE_FATAL(weight_read(g, n.in[2], o->arena, &bias, &o->diag));
        memset(bias, 0, (size_t)rows * sizeof *bias);
        n.in[2] = weight_make(g, bias, 1, &rows, n.in[2], &o->diag);
    }
    g->insert_before = NO_NODE;
}

enum { TEXTS = 2, LENGTH = 11 };

static void run_tokens(Opened *o, Graph *g, Run *r) {
    Tensor *t = arena_new_of(o->arena, Tensor);
    *t = (Tensor){.dtype = DT_I64, .rank = 2, .dim = {TEXTS, LENGTH}};
    int64_t *ids = arena_array_of(o->arena, TEXTS * LENGTH, int64_t);
    for (int64_t i = 0; i < TEXTS * LENGTH; i++) ids[i] = (i * i * 5 + 3 * i + 1) % 31;
    if (g->symbols.data[SYM_BATCH.id].literal == 1) t->dim[0] = 1;
    t->data = ids;
    *r = (Run){.g = g, .tokens = t, .arena = o->arena, .d = &o->diag};
}

static bool run_whole(Opened *o, Graph *g, Tensor *logits) {
    Run r;
    run_tokens(o, g, &r);
    int64_t bind[4] = {0, r.tokens->dim[0], LENGTH, 0};
    Tensor *in = arena_array_of(o->arena, g->inputs.count, Tensor);
    ValId want = NO_VAL;
    for (size_t i = 0; i < g->inputs.count; i++)
        if (!run_input(&r, &g->inputs.data[i], bind, &in[i])) return false;
    for (size_t i = 0; i < g->outputs.count; i++)
        if (g->outputs.data[i].role == ROLE_LOGITS) want = g->outputs.data[i].v;
    EvalArgs args = {bind, 4, in, g->inputs.count, 0};
    return eval_graph(g, &args, &want, 1, logits, o->arena, &o->diag);
}

/* The same logits, whole and in pieces. */
static void check_equal(Opened *o, const Tensor *logits, Graph *small) {
    const int64_t chunk[] = {LENGTH, 1, 4};
    Run r;
    run_tokens(o, small, &r);
    r.logits = logits;
    for (size_t i = 0; i < COUNT_OF(chunk); i++) {
        double e = run_chunks(&r, chunk[i]);
        if (!(e >= 0 && e <= 1e-5 * deviation(logits))) printf("\n    error %g of %g", e, deviation(logits));
        CU_ASSERT_TRUE(e >= 0 && e <= 1e-5 * deviation(logits));
    }
}

/* The step that takes the fewest units from the block, or the one that skips it. */
static const LossyStep *find_step(const LossyStep *offered, size_t n, uint32_t block, bool skip) {
    for (size_t i = 0; i < n; i++)
        if (offered[i].block == block && (offered[i].kind == STEP_SKIP) == skip) return &offered[i];
    return NULL;
}

/* From every `stride`-th block units that are silent go, or all of it. */
static void check_silent(const char *folder, bool skip, uint32_t stride) {
    Opened o = open_model(folder);
    if (!o.ok) return;
    Block *b;
    LossyStep *offered, chosen[64];
    size_t n = blocks_find(o.g, o.arena, &b), noffered, count = 0, heads = 0;
    uint64_t gone = 0, before = graph_weigh(o.g, NULL);
    noffered = steps_offered(o.g, o.arena, &offered);
    for (uint32_t i = 0; i < n && count < COUNT_OF(chosen); i += stride) {
        const LossyStep *s = find_step(offered, noffered, i, skip);
        if (s == NULL) continue;
        silence(&o, &b[i], s->amount);
        heads += s->kind == STEP_SKIP && b[i].kind == BLOCK_ATTENTION;
        gone += s->weights;
        chosen[count++] = *s;
    }
    CU_ASSERT_TRUE(count > 0);
    Tensor logits;
    bool ok = run_whole(&o, o.g, &logits) && prepare(&o, chosen, count);
    Graph *small = ok ? steps_apply(o.g, chosen, count, o.arena, &o.diag) : NULL;
    if (small == NULL) report(folder, &o.diag);
    CU_ASSERT_PTR_NOT_NULL(small);
    if (small != NULL) {
        for (size_t i = 0; i < count && !skip; i++) CU_ASSERT_TRUE(chosen[i].loss < 1e-6);
        uint64_t after = graph_weigh(small, NULL), width = gone / 64; /* new biases */
        CU_ASSERT_TRUE(after <= before - gone + width);
        CU_ASSERT_EQUAL(small->states.count, o.g->states.count - 2 * heads);
        CU_ASSERT_EQUAL(o.g->inputs.count - small->inputs.count, 2 * heads);
        check_equal(&o, &logits, small);
    }
    close_model(&o);
}

static const char *const own[] = {
    GPTC_SOURCE_DIR "/examples/shakespeare",
    GPTC_SOURCE_DIR "/tests/corpus/models/falcon-new-dynamo22",
    GPTC_SOURCE_DIR "/tests/corpus/models/mpt-dynamo23-fixed",
    GPTC_SOURCE_DIR "/tests/corpus/models/keras-tf13",
    GPTC_SOURCE_DIR "/tests/models/fused-attention",
    GPTC_SOURCE_DIR "/tests/models/fused-grouped-counts",
};

static bool takes_part(const Expected *m) {
    return !m->whole && m->attentions < 6 && present(m->folder); /* the large ones take the reference long */
}

static void test_silent(void) {
    for (size_t i = 0; i < COUNT_OF(own); i++) check_silent(own[i], false, 1);
    for (size_t i = 0; i < COUNT_OF(models); i++)
        if (takes_part(&models[i])) check_silent(models[i].folder, false, 1);
}

static void test_skipped(void) {
    for (size_t i = 0; i < COUNT_OF(own); i++) check_silent(own[i], true, 1);
    for (size_t i = 0; i < COUNT_OF(models); i++)
        if (!models[i].whole && present(models[i].folder))
            check_silent(models[i].folder, true, i % 2 ? 3 : 1);
}

/* ---- as text ---- */

static void test_text(void) {
    Opened o = open_model(own[0]);
    LossyStep *offered, back;
    size_t n = steps_offered(o.g, o.arena, &offered);
    CU_ASSERT_TRUE(n > 0);
    for (size_t i = 0; i < n; i++) {
        Text t = text_new(o.arena), again = text_new(o.arena);
        step_print(&t, &offered[i]);
        CU_ASSERT_TRUE_FATAL(step_parse(o.g, t.data, t.count, o.arena, &back, &o.diag));
        step_print(&again, &back);
        CU_ASSERT_STRING_EQUAL(again.data, t.data);
        CU_ASSERT_EQUAL(back.weights, offered[i].weights);
    }
    const char *const wrong[] = {"",
                                 "neurons",
                                 "neurons block=99 amount=16",
                                 "neurons block=1 amount=17",
                                 "heads block=1 amount=1",
                                 "skip block=0 amount=99999999999999999999",
                                 "neurons block=1 amount=-16"};
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        uint32_t errors = o.diag.errors;
        CU_ASSERT_FALSE(step_parse(o.g, wrong[i], strlen(wrong[i]), o.arena, &back, &o.diag));
        CU_ASSERT_EQUAL(o.diag.errors, errors + 1);
    }
    Diag quiet;
    diag_init(&quiet);
    CU_ASSERT_PTR_NULL(steps_apply(o.g, offered, 1, o.arena, &quiet)); /* not prepared */
    CU_ASSERT_TRUE(steps_differ(offered, 1, &quiet));
    CU_ASSERT_FALSE(steps_differ((LossyStep[]){offered[0], offered[0]}, 2, &quiet)); /* of one block */
    const LossyStep pair = {.kind = STEP_SHARE, .block = 3, .amount = 5},
                    other = {.kind = STEP_SHARE, .block = 4, .amount = 6},
                    third = {.kind = STEP_SHARE, .block = 5, .amount = 7};
    CU_ASSERT_TRUE(steps_differ((LossyStep[]){pair, other}, 2, &quiet));
    CU_ASSERT_FALSE(steps_differ((LossyStep[]){pair, third}, 2, &quiet));       /* of one site */
    CU_ASSERT_FALSE(steps_differ((LossyStep[]){offered[0], other}, 2, &quiet)); /* of two sorts */
    diag_free(&quiet);
    close_model(&o);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("prune", NULL, NULL);
    CU_add_test(s, "blocks of the zoo", test_blocks);
    CU_add_test(s, "silent units go without a trace", test_silent);
    CU_add_test(s, "silent blocks go without a trace", test_skipped);
    CU_add_test(s, "steps as text", test_text);
    return unit_end();
}
