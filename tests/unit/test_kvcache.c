/* test_kvcache.c: raising, the cache proof and the cache, on real exports and on small texts.
 *
 * The real ones: import, all passes up to the cache, then the stateful graph is evaluated whole, token
 * by token and in chunks of 5, feeding its states back, against logits that ONNX Runtime computed. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "frontend/frontend.h"
#include "passes/raise.h"
#include "tests/unit/stateful.h"
#include "tests/unit/unit.h"

#define ZOO GPTC_MODELS "/zoo/"

static const char *const zoo[] = {
    "gpt2-dynamo18",    "gpt2-dynamo23",      "gpt2-ts",       "gpt2-ts-past",
    "llama-dynamo18",   "llama-dynamo23",     "llama-ts",      "llama-ts-past",
    "qwen2-ts-past",    "mistral-ts-past",    "bloom-ts-past", "gptj-dynamo18",
    "gptneox-dynamo18", "gemma2-dynamo18",    "phi3-dynamo23", "handwritten-ts11",
    "handwritten-ts17", "handwritten-static",
};

static void check_files(Run *r, const char *dir, const char *tokens, const char *logits) {
    Tensor t, l;
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", dir, tokens);
    bool ok = access(path, R_OK) == 0 && onnx_tensor_read(path, r->arena, &t, r->d);
    snprintf(path, sizeof(path), "%s/%s", dir, logits);
    ok = ok && onnx_tensor_read(path, r->arena, &l, r->d);
    if (!ok || (r->g->context > 0 && t.dim[1] > r->g->context)) return;
    r->tokens = &t;
    r->logits = &l;
    double tol = 1e-3 * deviation(&l);
    const int64_t chunk[] = {t.dim[1], 1, 5};
    for (size_t i = 0; i < COUNT_OF(chunk); i++) {
        double e = run_chunks(r, chunk[i]);
        if (e < 0)
            report(dir, r->d);
        else if (e > tol)
            printf("\n    %s, %lld at a time: error %g, allowed %g", dir, (long long)chunk[i], e, tol);
        CU_ASSERT_TRUE(e >= 0 && e <= tol);
    }
}

static void check_model(const char *name) {
    char dir[400], path[512];
    snprintf(dir, sizeof(dir), "%s%s", ZOO, name);
    snprintf(path, sizeof(path), "%s/model.onnx", dir);
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    OnnxModel m;
    bool ok = onnx_import(path, NULL, a, &m, &d);
    CU_ASSERT_TRUE(ok);
    if (ok) {
        PassOptions opt = {.kv_cache = true, .opt_level = 1};
        PassRun run = {.stop_after = "dce-state", .verify = true};
        CacheProof proof = {false, NULL};
        ok = passes_run(m.graph, &run, &opt, &proof, &d);
        CU_ASSERT_TRUE(ok);
        CU_ASSERT_TRUE(proof.proven);
        CU_ASSERT_TRUE(m.graph->states.count > 0);
        Run r = {.g = m.graph, .arena = a, .d = &d};
        if (ok) check_files(&r, dir, "tokens.pb", "logits.pb");
        if (ok) check_files(&r, dir, "tokens_batch.pb", "logits_batch.pb");
        onnx_close(&m);
    }
    if (!ok) report(name, &d);
    diag_free(&d);
    arena_free(a);
}

static void test_zoo(void) {
    for (size_t i = 0; i < COUNT_OF(zoo); i++) {
        char path[512];
        snprintf(path, sizeof(path), "%s%s/model.onnx", ZOO, zoo[i]);
        if (access(path, R_OK) == 0)
            check_model(zoo[i]);
        else
            printf("\n    skipped: %s is not here", path);
    }
}

/* ---- views ---- */

static Graph *parse(const char *text, Arena *a, Diag *d) {
    Graph *g = graph_parse(text, strlen(text), "test", NULL, a, d);
    if (g == NULL) report("text", d);
    return g;
}

#define HEAD "gir 1 stage=raised\nsymbol batch\nsymbol seq\nsymbol past\n"

static void test_moves_transpose_key(void) {
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    Graph *g = parse(HEAD "input %1 \"k\" : f32[batch, 4, seq, 16]\n"
                          "const %2 : f32[] = {0.5}\n"
                          "%3 : f32[4*batch, seq, 16] = reshape(%1)\n"
                          "%4 : f32[4*batch, 16, seq] = transpose(%3) {perm=[0, 2, 1]}\n"
                          "%5 : f32[4*batch, 16, seq] = mul(%4, %2)\n"
                          "%6 : f32[batch, 4, 16, seq] = reshape(%5)\n"
                          "output %6 \"y\"\n",
                     a, &d);
    CU_ASSERT_PTR_NOT_NULL_FATAL(g);
    View w;
    view_of(g, g->outputs.data[0].v, true, &w);
    CU_ASSERT_TRUE(val_eq(w.src, g->inputs.data[0].v));
    CU_ASSERT_DOUBLE_EQUAL(w.scale, 0.5, 0);
    CU_ASSERT_EQUAL(w.steps, 4);
    CU_ASSERT_EQUAL(view_cost(g, &w), 1); /* one transpose */
    const uint8_t back[4] = {0, 1, 3, 2};
    view_transpose(&w, back);
    CU_ASSERT_EQUAL(view_cost(g, &w), 0); /* the source itself */
    CU_ASSERT_TRUE(val_eq(view_emit(g, &w, loc_none(), &d), w.src));
    diag_free(&d);
    arena_free(a);
}

static void test_moves_grouped_heads(void) {
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    Graph *g = parse(HEAD "input %1 \"k\" : f32[batch, seq, 2, 16]\n"
                          "%2 : f32[batch, 2, seq, 16] = transpose(%1) {perm=[0, 2, 1, 3]}\n"
                          "%3 : f32[batch, 2, 1, seq, 16] = reshape(%2)\n"
                          "%4 : f32[batch, 2, 3, seq, 16] = broadcast(%3)\n"
                          "%5 : f32[batch, 6, seq, 16] = reshape(%4)\n"
                          "%6 : f32[batch, 1, 2, seq, 16] = reshape(%2)\n"
                          "%7 : f32[batch, 3, 2, seq, 16] = broadcast(%6)\n"
                          "%8 : f32[batch, 6, seq, 16] = reshape(%7)\n"
                          "output %5 \"repeated\"\noutput %8 \"tiled\"\n",
                     a, &d);
    CU_ASSERT_PTR_NOT_NULL_FATAL(g);
    View w;
    view_of(g, g->outputs.data[0].v, false, &w);
    CU_ASSERT_TRUE(val_eq(w.src, g->inputs.data[0].v));
    view_unexpand(&w, 1);
    CU_ASSERT_TRUE(dim_eq(view_dim(g, &w, 1), dim_const(2)));
    view_of(g, g->outputs.data[1].v, false, &w); /* head h uses key head h mod 2: no group */
    view_unexpand(&w, 1);
    CU_ASSERT_TRUE(dim_eq(view_dim(g, &w, 1), dim_const(6)));
    diag_free(&d);
    arena_free(a);
}

static void test_moves_refuse_mixing(void) {
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    Graph *g = parse(HEAD "input %1 \"x\" : f32[batch, seq, 6]\n"
                          "%2 : f32[seq, batch, 6] = reshape(%1)\n"
                          "%3 : f32[seq, batch, 2, 3] = reshape(%2)\n"
                          "output %3 \"y\"\n",
                     a, &d);
    CU_ASSERT_PTR_NOT_NULL_FATAL(g);
    View w;
    view_of(g, g->outputs.data[0].v, false, &w);
    CU_ASSERT_FALSE(val_eq(w.src, g->inputs.data[0].v));
    CU_ASSERT_EQUAL(w.steps, 1);
    diag_free(&d);
    arena_free(a);
}

/* ---- rows cut out of a square ---- */

static const char *const square_text =
    HEAD "const %1 : f32[] = {0}\n"
         "const %2 : f32[] = {-10000}\n"
         "const %3 : i64[] = {3}\n"
         "%4 : i64[seq] = iota()\n"
         "%5 : i64[seq, 1] = reshape(%4)\n"
         "%6 : bool[seq, seq] = le(%4, %5)\n"
         "%7 : i64[seq, 1] = sub(%5, %3)\n"
         "%8 : bool[seq, seq] = lt(%7, %4)\n"
         "%9 : bool[seq, seq] = and(%6, %8)\n"
         "%10 : bool[1, 1, seq, seq] = reshape(%9)\n"
         "%11 : bool[batch, 1, seq, seq] = broadcast(%10)\n"
         "%12 : f32[batch, 1, seq, seq] = where(%11, %1, %2)\n"
         "%13 : f32[batch, 1, seq, seq] = tril(%12) {diagonal=1}\n"
         "%14 : f32[batch, 1, seq, seq] = transpose(%13) {perm=[0, 1, 2, 3]}\n"
         "%15 : f32[seq, batch, 1, seq] = transpose(%14) {perm=[2, 0, 1, 3]}\n"
         "%16 : f32[batch, seq, 1, seq] = transpose(%15) {perm=[1, 0, 2, 3]}\n"
         "output %16 \"y\"\n";

static void test_cut_row(void) {
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    Graph *g = parse(square_text, a, &d);
    CU_ASSERT_PTR_NOT_NULL_FATAL(g);
    ValId y = g->outputs.data[0].v;
    int64_t bind[4] = {0, 2, 9, 0};
    Tensor whole, row;
    CU_ASSERT_TRUE_FATAL(position_value(g, y, 2, (Len){0, 9}, &whole, a, &d));
    for (int64_t q = 0; q < 9; q++) {
        ValId v = position_cut(g, y, 1, q, bind, 4, a, &d);
        CU_ASSERT_TRUE_FATAL(val_ok(v));
        CU_ASSERT_TRUE_FATAL(position_value(g, v, 2, (Len){0, 9}, &row, a, &d));
        for (int64_t b = 0; b < 2; b++)
            for (int64_t k = 0; k < 9; k++)
                CU_ASSERT_EQUAL(tensor_get_f64(&row, (size_t)(b * 9 + k)),
                                tensor_get_f64(&whole, (size_t)((b * 9 + q) * 9 + k)));
    }
    diag_free(&d);
    arena_free(a);
}

/* A long context: the square would be 64 GiB. */
static void test_cut_long(void) {
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    Graph *g = parse(square_text, a, &d);
    CU_ASSERT_PTR_NOT_NULL_FATAL(g);
    int64_t n = 131072, bind[4] = {0, 1, n, 0};
    Tensor row;
    ValId v = position_cut(g, g->outputs.data[0].v, 1, n - 1, bind, 4, a, &d);
    CU_ASSERT_TRUE_FATAL(val_ok(v));
    CU_ASSERT_TRUE_FATAL(position_value(g, v, 1, (Len){0, n}, &row, a, &d));
    int64_t allowed = 0;
    for (int64_t k = 0; k < n; k++) allowed += tensor_get_f64(&row, (size_t)k) == 0;
    CU_ASSERT_EQUAL(allowed, 3);
    diag_free(&d);
    arena_free(a);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("kvcache", NULL, NULL);
    CU_add_test(s, "views of transposed keys", test_moves_transpose_key);
    CU_add_test(s, "views of grouped heads", test_moves_grouped_heads);
    CU_add_test(s, "reshapes that mix axes end a view", test_moves_refuse_mixing);
    CU_add_test(s, "rows cut out of a square", test_cut_row);
    CU_add_test(s, "rows of a long context", test_cut_long);
    CU_add_test(s, "exported models, whole, stepwise and in chunks", test_zoo);
    return unit_end();
}
