/* test_import_zoo.c: exported models, imported and run by the reference, against stored logits. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "frontend/frontend.h"
#include "tests/unit/unit.h"

#define MODELS GPTC_MODELS "/"

typedef struct {
    double tolerance;
    const char *name;
} Model;
/* Largest error over the standard deviation of the logits; see docs on numerics for the looser ones. */
static const Model ZOO[] = {
    {1e-4, "zoo/gpt2-dynamo18"},
    {1e-4, "zoo/gpt2-dynamo23"},
    {1e-4, "zoo/gpt2-ts"},
    {1e-4, "zoo/gpt2-ts-past"},
    {1e-4, "zoo/llama-dynamo18"},
    {1e-4, "zoo/llama-dynamo23"},
    {1e-4, "zoo/llama-ts"},
    {1e-4, "zoo/llama-ts-past"},
    {1e-4, "zoo/qwen2-ts-past"},
    {1e-4, "zoo/mistral-ts-past"},
    {1e-4, "zoo/bloom-ts-past"},
    {1e-4, "zoo/handwritten-ts11"},
    {1e-4, "zoo/handwritten-ts17"},
    {1e-4, "zoo/handwritten-static"},
    {1e-4, "zoo/gptj-dynamo18"},
    {1e-4, "zoo/gptneox-dynamo18"},
    {1e-4, "zoo/gemma2-dynamo18"},
    {1e-4, "zoo/phi3-dynamo23"},
    {1e-4, "zoo/gpt2-ortfused-past"},
    {1e-4, "zoo/gpt2-ts-past-ortopt"},
    {1e-4, "zoo/llama-genai"},
    {1e-2, "zoo/gpt2-ts-past-fp16"},
    {0.25, "zoo/gpt2-ts-past-int8dyn"},
    {0.25, "zoo/gpt2-dynamo18-qdq"},
    {1e-4, "shk/gpt2"},
    {1e-4, "shk/llama"},
};

static Arena *arena;
static Diag diag;

static void show_diag(const char *name) {
    for (size_t i = 0; i < diag.items.count; i++) {
        Text t = text_new(arena);
        diag_format(&t, &diag.items.data[i]);
        printf("\n    %s: %s", name, t.data);
    }
}

/* The values of a GPT's contract: no padding, positions from `past` on, an empty past. */
static bool fill_input(Graph *g, const Port *p, const Tensor *tokens, const int64_t *bind, Tensor *out) {
    const Type *t = graph_type(g, p->v);
    size_t n = 1;
    *out = (Tensor){.dtype = t->dtype, .rank = t->rank};
    for (uint32_t i = 0; i < t->rank; i++) {
        if (!dim_eval(g, t->dim[i], bind, g->symbols.count, &out->dim[i])) return false;
        n *= (size_t)out->dim[i];
    }
    size_t size = dtype_size(t->dtype);
    uint8_t *data = arena_alloc(arena, n * size);
    for (size_t i = 0; i < n && p->role != ROLE_PAST; i++) {
        int64_t v = 1;
        if (p->role == ROLE_TOKENS) v = tensor_get_i64(tokens, i);
        if (p->role == ROLE_POSITIONS) v = (int64_t)i % bind[SYM_SEQ.id];
        float f = (float)v;
        if (t->dtype == DT_F32)
            memcpy(data + i * size, &f, size);
        else
            memcpy(data + i * size, &v, size);
    }
    out->data = data;
    return true;
}

static double worst_error(const Tensor *a, const Tensor *b) {
    double max = 0, sum = 0, square = 0;
    size_t n = tensor_count(a);
    if (n != tensor_count(b)) return INFINITY;
    for (size_t i = 0; i < n; i++) {
        double x = tensor_get_f64(a, i), e = fabs(x - tensor_get_f64(b, i));
        if (!(e <= max)) max = e;
        sum += x;
        square += x * x;
    }
    double mean = sum / (double)n;
    return max / sqrt(square / (double)n - mean * mean);
}

static ValId logits_of(const Graph *g) {
    for (size_t i = 0; i < g->outputs.count; i++)
        if (g->outputs.data[i].role == ROLE_LOGITS) return g->outputs.data[i].v;
    return NO_VAL;
}

static double compare(Graph *g, const char *tokens_path, const char *logits_path) {
    Tensor tokens, expected, got, inputs[64];
    int64_t bind[64] = {0};
    if (!onnx_tensor_read(tokens_path, arena, &tokens, &diag) ||
        !onnx_tensor_read(logits_path, arena, &expected, &diag))
        return INFINITY;
    bind[SYM_BATCH.id] = tokens.dim[0];
    bind[SYM_SEQ.id] = tokens.dim[1];
    if (g->inputs.count > COUNT_OF(inputs) || g->symbols.count > COUNT_OF(bind)) return INFINITY;
    for (size_t i = 0; i < g->inputs.count; i++)
        if (!fill_input(g, &g->inputs.data[i], &tokens, bind, &inputs[i])) return INFINITY;
    EvalArgs args = {bind, g->symbols.count, inputs, g->inputs.count, 0};
    ValId logits = logits_of(g);
    if (!val_ok(logits) || !eval_graph(g, &args, &logits, 1, &got, arena, &diag)) return INFINITY;
    return worst_error(&expected, &got);
}

/* Rows [from, from + n) of [batch, rows, ...]. */
static Tensor rows_of(const Tensor *t, int64_t from, int64_t n) {
    Tensor out = *t;
    size_t row = dtype_size(t->dtype);
    for (uint32_t i = 2; i < t->rank; i++) row *= (size_t)t->dim[i];
    out.dim[1] = n;
    out.data = arena_alloc(arena, (size_t)(t->dim[0] * n) * row);
    for (int64_t b = 0; b < t->dim[0]; b++)
        memcpy((uint8_t *)out.data + (size_t)(b * n) * row,
               (const uint8_t *)t->data + (size_t)(b * t->dim[1] + from) * row, (size_t)n * row);
    return out;
}

/* One step of `n` tokens behind `past`; states are handed over in past_states and replaced. */
static bool run_step(Graph *g, const Tensor *tokens, int64_t past, Tensor *past_states, Tensor *logits) {
    Tensor inputs[64], out[65];
    ValId want[65];
    int64_t bind[64] = {0, tokens->dim[0], tokens->dim[1], past};
    for (size_t i = 0; i < g->inputs.count; i++) {
        const Port *p = &g->inputs.data[i];
        if (!fill_input(g, p, tokens, bind, &inputs[i])) return false;
        for (size_t s = 0; s < g->states.count; s++)
            if (val_eq(g->states.data[s].in, p->v) && past != 0) inputs[i] = past_states[s];
        for (size_t k = 0; p->role == ROLE_POSITIONS && k < tensor_count(&inputs[i]); k++) {
            if (inputs[i].dtype == DT_I32)
                ((int32_t *)inputs[i].data)[k] += (int32_t)past;
            else
                ((int64_t *)inputs[i].data)[k] += past;
        }
    }
    for (size_t s = 0; s < g->states.count; s++) want[s] = g->states.data[s].out;
    want[g->states.count] = logits_of(g);
    EvalArgs args = {bind, g->symbols.count, inputs, g->inputs.count, 0};
    if (!eval_graph(g, &args, want, g->states.count + 1, out, arena, &diag)) return false;
    memcpy(past_states, out, g->states.count * sizeof(*out));
    *logits = out[g->states.count];
    return true;
}

/* The tokens in two steps, through the states, give the logits of the whole. */
static void check_steps(const Model *m) {
    char path[512];
    arena = arena_new();
    diag_init(&diag);
    OnnxModel model;
    Tensor tokens, expected, states[64], got;
    snprintf(path, sizeof(path), MODELS "%s/model.onnx", m->name);
    bool ok = onnx_import(path, NULL, arena, &model, &diag);
    snprintf(path, sizeof(path), MODELS "%s/tokens_batch.pb", m->name);
    bool read = ok && access(path, R_OK) == 0 && onnx_tensor_read(path, arena, &tokens, &diag);
    snprintf(path, sizeof(path), MODELS "%s/logits_batch.pb", m->name);
    read = read && onnx_tensor_read(path, arena, &expected, &diag);
    if (read && model.graph->states.count != 0 && model.graph->states.count <= COUNT_OF(states)) {
        int64_t past = 0, total = tokens.dim[1], step[3] = {total / 3, 1, total - total / 3 - 1};
        for (size_t i = 0; i < COUNT_OF(step); i++) {
            Tensor now = rows_of(&tokens, past, step[i]), want = rows_of(&expected, past, step[i]);
            ok = ok && run_step(model.graph, &now, past, states, &got);
            CU_ASSERT_TRUE(ok && worst_error(&want, &got) <= m->tolerance);
            past += step[i];
        }
    }
    CU_ASSERT_TRUE(ok);
    show_diag(m->name);
    if (ok) onnx_close(&model);
    diag_free(&diag);
    arena_free(arena);
}

static void check_model(const Model *m, const char *suffix) {
    char path[512], tokens[512], logits[512];
    snprintf(path, sizeof(path), MODELS "%s/model.onnx", m->name);
    snprintf(tokens, sizeof(tokens), MODELS "%s/tokens%s.pb", m->name, suffix);
    snprintf(logits, sizeof(logits), MODELS "%s/logits%s.pb", m->name, suffix);
    if (access(tokens, R_OK) != 0) return;
    arena = arena_new();
    diag_init(&diag);
    OnnxModel model;
    bool ok = onnx_import(path, NULL, arena, &model, &diag);
    CU_ASSERT_TRUE(ok);
    if (ok) {
        CU_ASSERT_TRUE(graph_verify(model.graph, &diag));
        double error = compare(model.graph, tokens, logits);
        CU_ASSERT_TRUE(error <= m->tolerance);
        if (!(error <= m->tolerance)) printf("\n    %s: error %g", m->name, error);
        onnx_close(&model);
    }
    show_diag(m->name);
    diag_free(&diag);
    arena_free(arena);
}

static void test_zoo(void) {
    for (size_t i = 0; i < COUNT_OF(ZOO); i++) check_model(&ZOO[i], "");
}

static void test_zoo_batch(void) {
    for (size_t i = 0; i < COUNT_OF(ZOO); i++) check_model(&ZOO[i], "_batch");
}

/* Dynamic quantisation takes its scale from all tokens at hand, so steps differ there. */
static void test_steps(void) {
    for (size_t i = 0; i < COUNT_OF(ZOO); i++)
        if (ZOO[i].tolerance < 0.1) check_steps(&ZOO[i]);
}

int main(void) {
    if (access(MODELS "zoo", R_OK) != 0) {
        printf("skipped: there are no models beside the sources (" MODELS ")\n");
        return 77;
    }
    if (unit_begin()) return 1;
    CU_pSuite zoo = CU_add_suite("zoo", NULL, NULL);
    CU_add_test(zoo, "logits of one sequence", test_zoo);
    CU_add_test(zoo, "logits of a batch", test_zoo_batch);
    CU_add_test(zoo, "steps through the states", test_steps);
    return unit_end();
}
