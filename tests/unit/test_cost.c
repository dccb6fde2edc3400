/* test_cost.c: predicted times of plans whose true times are published, and what moves them. */
#include "codegen/cuda/cost.h"
#include "tests/unit/unit.h"

#include <math.h>
#include <string.h>

/* A Llama: per layer q, k, v, attention, o, up, gate, down; then the head. fp16. */
typedef struct {
    uint32_t layers, width, heads, kv_heads, dim, hidden, vocab;
} Shape;
static const Shape llama_1b = {16, 2048, 32, 8, 64, 8192, 128256},
                   gpt2 = {12, 768, 12, 12, 64, 3072 * 2 / 3, 50257};

enum { MOST = 400 };
static ArtStep steps[MOST];
static ArtTensor tensors[MOST];
static uint32_t count;

static void add_linear(uint32_t input, uint32_t k, uint32_t n) {
    ArtStep *s = &steps[count];
    tensors[count] =
        (ArtTensor){.dtype = ART_F16, .layout = ART_PANEL16, .bytes = (uint64_t)k * ((n + 15) / 16) * 32};
    *s = (ArtStep){.kernel = ART_K_LINEAR};
    s->arg[0] = (ArtArg){ART_ARG_ROWS, k, input};
    s->arg[1] = (ArtArg){ART_ARG_TENSOR, 0, count};
    s->u.linear = (ArtLinear){k, n, ART_ACT_NONE};
    count++;
}

static CostPlan plan_of(const Shape *m, uint32_t context) {
    uint32_t input = 0;
    memset(steps, 0, sizeof steps);
    count = 0;
    for (uint32_t l = 0; l < m->layers; l++) {
        add_linear(input, m->width, m->heads * m->dim);
        add_linear(input, m->width, m->kv_heads * m->dim);
        add_linear(input, m->width, m->kv_heads * m->dim);
        steps[count].kernel = ART_K_ATTENTION;
        steps[count].arg[0].width = m->heads * m->dim;
        steps[count++].u.attention =
            (ArtAttention){.heads = m->heads, .kv_heads = m->kv_heads, .dim = m->dim, .vdim = m->dim};
        add_linear(++input, m->heads * m->dim, m->width);
        add_linear(++input, m->width, m->hidden);
        add_linear(input, m->width, m->hidden);
        add_linear(++input, m->hidden, m->width);
        input++;
    }
    add_linear(input, m->width, m->vocab);
    return (CostPlan){.steps = steps,
                      .n_steps = count,
                      .tensors = tensors,
                      .cache_element = 2,
                      .rows = 1,
                      .context = context};
}

static void test_known_models(void) {
    const CostTarget *h200 = cost_target(90);
    CostStep c;
    CostPlan p = plan_of(&llama_1b, 1);
    p.launches = 100;
    cost_step(h200, &p, &c);
    CU_ASSERT_DOUBLE_EQUAL(c.weight_bytes, 2.47e9, 0.01e9);
    CU_ASSERT_DOUBLE_EQUAL(c.graph.seconds, 794.7e-6, 20e-6); /* measured: a graph of 100 kernels */
    CU_ASSERT(c.graph.bound == COST_MEMORY);
    CU_ASSERT(c.persistent.bound == COST_MEMORY);
    CU_ASSERT(c.persistent.seconds < 0.8 * c.graph.seconds && c.persistent.seconds >= 2.47e9 / h200->read);
    CU_ASSERT_EQUAL(c.hops, 16 * 6 + 1 + 1);
}

static void test_small_model_is_a_chain(void) {
    CostStep c;
    CostPlan p = plan_of(&gpt2, 1);
    cost_step(cost_target(90), &p, &c);
    CU_ASSERT(c.graph.bound == COST_LATENCY);
    CU_ASSERT(c.persistent.bound == COST_LATENCY);
    CU_ASSERT(c.persistent.seconds < c.graph.seconds);
}

static void test_context_and_window(void) {
    const CostTarget *t = cost_target(90);
    CostStep little, much, window;
    CostPlan p = plan_of(&llama_1b, 128);
    cost_step(t, &p, &little);
    p.context = 32768;
    cost_step(t, &p, &much);
    CU_ASSERT_DOUBLE_EQUAL(much.cache_bytes, 16.0 * 32768 * 8 * 128 * 2, 1);
    CU_ASSERT(much.persistent.seconds > little.persistent.seconds * 1.2);
    for (uint32_t i = 0; i < count; i++)
        if (steps[i].kernel == ART_K_ATTENTION) steps[i].u.attention.window = 128;
    cost_step(t, &p, &window);
    CU_ASSERT_DOUBLE_EQUAL(window.cache_bytes, little.cache_bytes, 1);
    p.states = (const ArtState[]){{.kept = ART_STATE_INT8}};
    cost_step(t, &p, &window);
    CU_ASSERT_DOUBLE_EQUAL(window.cache_bytes, 16.0 * 128 * 8 * (128 + 2 * 2), 1);
}

static void test_rows_share_weights(void) {
    CostStep one, many;
    CostPlan p = plan_of(&llama_1b, 128);
    cost_step(cost_target(80), &p, &one);
    p.rows = 64;
    cost_step(cost_target(80), &p, &many);
    CU_ASSERT_EQUAL(one.weight_bytes, many.weight_bytes);
    CU_ASSERT_DOUBLE_EQUAL(many.ops, 64 * one.ops, 1);
    CU_ASSERT(many.graph.bound == COST_ARITHMETIC);
}

static void test_launch(void) {
    const CostTarget *t = cost_target(90);
    CU_ASSERT(cost_launch(t, 1e3, 1e3, false).bound == COST_LATENCY);
    CU_ASSERT(cost_launch(t, 1e9, 1e9, false).bound == COST_MEMORY);
    CU_ASSERT(cost_launch(t, 1e6, 1e12, true).bound == COST_ARITHMETIC);
    CU_ASSERT(cost_launch(t, 1e6, 1e12, true).seconds < cost_launch(t, 1e6, 1e12, false).seconds);
    CU_ASSERT_PTR_NULL(cost_target(12));
    CU_ASSERT_STRING_EQUAL(cost_bound_text(COST_LATENCY), "latency");
    for (const CostTarget *i = cost_targets; i->name; i++)
        CU_ASSERT(i->read > 1e12 && i->matrix > i->vector && i->sms > 100);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("cost", NULL, NULL);
    CU_add_test(s, "published times", test_known_models);
    CU_add_test(s, "a small model is bound by its chain", test_small_model_is_a_chain);
    CU_add_test(s, "context and window", test_context_and_window);
    CU_add_test(s, "rows share weights", test_rows_share_weights);
    CU_add_test(s, "one kernel", test_launch);
    return unit_end();
}
