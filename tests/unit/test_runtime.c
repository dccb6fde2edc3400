/* test_runtime.c: the runtime on a model written by hand, against plain double-precision arithmetic:
 * whole, stepwise, in chunks, batched, with threads; sequences, errors, sampling, generation. Damaged
 * files are in test_artifact.c. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "ir/base/base.h"
#include "tests/unit/tiny_artifact.h"
#include "tests/unit/unit.h"

/* ---- the model in doubles ---- */
static double gelu_tanh(double x) {
    return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

static void ref_norm(const double *x, const double *g, const double *b, int rms, double *out) {
    double mean = 0, var = 0;
    for (int i = 0; i < TINY_D; i++) mean += rms ? 0 : x[i] / TINY_D;
    for (int i = 0; i < TINY_D; i++) var += (x[i] - mean) * (x[i] - mean) / TINY_D;
    for (int i = 0; i < TINY_D; i++) out[i] = (x[i] - mean) / sqrt(var + 1e-5) * g[i] + (b ? b[i] : 0);
}

static void ref_linear(const Tiny *t, uint32_t w, const double *x, const double *bias, double *out) {
    uint64_t n = t->tensors[w].dim[0], k = t->tensors[w].dim[1];
    for (uint64_t i = 0; i < n; i++) {
        out[i] = bias ? bias[i] : 0;
        for (uint64_t j = 0; j < k; j++) out[i] += t->value[w][i * k + j] * x[j];
    }
}

static void ref_rope(const Tiny *t, double *x, int heads, int position) {
    enum { HALF = TINY_ROTATED / 2 };
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < HALF; i++) {
            double *a = x + h * TINY_DIM + i, u = a[0], v = a[HALF];
            double c = t->value[W_COS][position * HALF + i], s = t->value[W_SIN][position * HALF + i];
            a[0] = u * c - v * s;
            a[HALF] = v * c + u * s;
        }
}

typedef double Cache[TINY_CONTEXT][TINY_KV * TINY_DIM];

static double ref_score(const Tiny *t, int layer, int h, const double *q, const double *k, int distance) {
    double score = 0;
    for (int i = 0; i < TINY_DIM; i++) score += q[i] * k[i];
    score *= (double)0.35f;
    return layer ? 3 * tanh(score / 3) - t->value[W_SLOPES][h] * distance : score;
}

static void ref_attention(const Tiny *t, int layer, const double *q, Cache k, Cache v, int at, double *out) {
    for (int h = 0; h < TINY_HEADS; h++) {
        int kv = h / (TINY_HEADS / TINY_KV) * TINY_DIM;
        int first = layer && at >= TINY_WINDOW ? at - TINY_WINDOW + 1 : 0;
        double total = layer ? exp(t->value[W_SINKS][h]) : 0, sum[TINY_DIM] = {0};
        for (int p = first; p <= at; p++) {
            double w = exp(ref_score(t, layer, h, q + h * TINY_DIM, k[p] + kv, at - p));
            total += w;
            for (int i = 0; i < TINY_DIM; i++) sum[i] += w * v[p][kv + i];
        }
        for (int i = 0; i < TINY_DIM; i++) out[h * TINY_DIM + i] = sum[i] / total;
    }
}

static void ref_layer(const Tiny *t, int layer, double *x, Cache k, Cache v, int at) {
#define V(which) t->value[TINY_W(layer, which)]
    double h[TINY_D], q[TINY_D], a[TINY_D], y[TINY_D], up[TINY_FF], gate[TINY_FF];
    ref_norm(x, V(L_G1), V(L_B1), 0, h);
    ref_linear(t, TINY_W(layer, L_Q), h, V(L_QB), q);
    ref_linear(t, TINY_W(layer, L_K), h, NULL, k[at]);
    ref_linear(t, TINY_W(layer, L_V), h, NULL, v[at]);
    if (!layer) {
        ref_rope(t, q, TINY_HEADS, at);
        ref_rope(t, k[at], TINY_KV, at);
    }
    ref_attention(t, layer, q, k, v, at, a);
    ref_linear(t, TINY_W(layer, L_O), a, NULL, y);
    for (int i = 0; i < TINY_D; i++) x[i] += y[i];
    ref_norm(x, V(L_G2), NULL, 1, h);
    ref_linear(t, TINY_W(layer, L_GATE), h, NULL, gate);
    ref_linear(t, TINY_W(layer, L_UP), h, V(L_UPB), up);
    for (int i = 0; i < TINY_FF; i++) up[i] = gelu_tanh(up[i]) * gate[i] / (1 + exp(-gate[i]));
    ref_linear(t, TINY_W(layer, L_DOWN), up, NULL, y);
    for (int i = 0; i < TINY_D; i++) x[i] += y[i];
#undef V
}

static void ref_mix(const Tiny *t, double *x, int at) {
    double soft[TINY_D], y[TINY_D];
    for (int j = 0; j < 8; j++) {
        double total = 0;
        for (int i = 0; i < 4; i++) total += exp(x[i * 8 + j]);
        for (int i = 0; i < 4; i++) soft[i * 8 + j] = exp(x[i * 8 + j]) / total;
    }
    for (int f = 0; f < TINY_D; f++) {
        double sum = 0;
        for (int i = 0; i < 8; i++) sum += soft[f / 8 * 8 + i];
        y[f] = x[f] + x[f % 4 * 8 + f / 4] * sum + t->value[W_VECTOR][f] * tanh(at / 8.0);
    }
    memcpy(x, y, sizeof y);
}

/* logits: n x TINY_VOCAB. */
static void reference(const Tiny *t, const int32_t *tokens, int n, double *logits) {
    static Cache cache[4];
    for (int at = 0; at < n; at++) {
        double x[TINY_D], h[TINY_D];
        for (int i = 0; i < TINY_D; i++)
            x[i] = t->value[W_EMBED][tokens[at] * TINY_D + i] + t->value[W_POS][at * TINY_D + i];
        ref_layer(t, 0, x, cache[0], cache[1], at);
        ref_mix(t, x, at);
        ref_layer(t, 1, x, cache[2], cache[3], at);
        ref_norm(x, t->value[W_FINAL_G], NULL, 1, h);
        ref_linear(t, W_EMBED, h, NULL, logits + at * TINY_VOCAB);
    }
}

/* ---- set-up ---- */
enum { LENGTH = 40 };
static Tiny *tiny;
static gptc_model *model;
static char path[64];
static int32_t text[3][LENGTH];
static double expected[3][LENGTH * TINY_VOCAB];

static int setup(void) {
    size_t bytes;
    gptc_detail why;
    tiny = tiny_new(7);
    uint8_t *image = tiny_image(tiny, &bytes);
    strcpy(path, "/tmp/gptc-test-runtime-XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0 || write(fd, image, bytes) != (ssize_t)bytes || close(fd)) return 1;
    free(image);
    for (int i = 0; i < 3 * LENGTH; i++) text[i / LENGTH][i % LENGTH] = (i * 29 + i / 7) % TINY_VOCAB;
    for (int i = 0; i < 3; i++) reference(tiny, text[i], LENGTH, expected[i]);
    gptc_open_options o = {.verify = 1};
    if (!gptc_open(path, &o, &model, &why)) return 0;
    fprintf(stderr, "%s\n", why.text);
    return 1;
}

static int teardown(void) {
    gptc_close(model);
    unlink(path);
    tiny_free(tiny);
    return 0;
}

static gptc_session *session(int threads, int context, int sequences, int chunk) {
    gptc_session *s = NULL;
    gptc_detail why;
    gptc_session_options o = {.threads = threads, .context = context, .sequences = sequences, .chunk = chunk};
    gptc_status st = gptc_session_new(model, &o, &s, &why);
    if (st) fprintf(stderr, "%s: %s\n", gptc_strerror(st), why.text);
    CU_ASSERT_EQUAL_FATAL(st, GPTC_OK);
    return s;
}

/* Logits of text `which` at a position; the scale of the logits is about 3. */
static bool same(const float *logits, int which, int position) {
    if (!logits) return false;
    for (int i = 0; i < TINY_VOCAB; i++)
        if (!(fabs((double)logits[i] - expected[which][position * TINY_VOCAB + i]) < 2e-4)) return false;
    return true;
}

typedef struct {
    int which, next, stop_at;
    bool ok;
} All;

static int all_rows(void *user, int32_t sequence, int32_t first, int32_t rows, const float *logits) {
    All *a = user;
    a->ok = a->ok && first == a->next && sequence >= 0;
    for (int i = 0; i < rows; i++) a->ok = a->ok && same(logits + i * TINY_VOCAB, a->which, first + i);
    a->next = first + rows;
    return a->stop_at && a->next >= a->stop_at;
}

/* ---- numbers ---- */
static void test_info(void) {
    gptc_model_info info = {.struct_size = sizeof info};
    gptc_model_get_info(model, &info);
    CU_ASSERT_EQUAL(info.vocab, TINY_VOCAB);
    CU_ASSERT_EQUAL(info.context, TINY_CONTEXT);
    CU_ASSERT_EQUAL(info.layers, 2);
    CU_ASSERT_EQUAL(info.has_tokenizer, 0);
    CU_ASSERT_EQUAL(info.n_stop_tokens, 1);
    CU_ASSERT_EQUAL(info.stop_tokens[0], 3);
    CU_ASSERT_EQUAL(info.weight_bytes, tiny->weight_bytes);
    CU_ASSERT_STRING_EQUAL(gptc_model_meta(model, "producer"), "by hand");
    CU_ASSERT_STRING_EQUAL(gptc_model_meta(model, "flags"), "-O0");
    CU_ASSERT_PTR_NULL(gptc_model_meta(model, "by hand"));
    CU_ASSERT_STRING_EQUAL(gptc_strerror(GPTC_OK), "ok");
}

static void test_hash(void) {
    uint8_t data[300];
    for (int i = 0; i < 300; i++) data[i] = (uint8_t)(i * 7 + 1);
    CU_ASSERT_EQUAL(xxhash64("", 0, 0), UINT64_C(0xEF46DB3751D8E999));
    for (size_t n = 0; n < 300; n++) CU_ASSERT_EQUAL(xxhash64(data, n, n * 3), hash_bytes(data, n, n * 3));
}

static void test_whole_and_chunks(void) {
    static const int chunks[] = {0, 1, 5, 16, 39};
    for (int threads = 1; threads <= 4; threads++)
        for (int level = 0; level < 5; level++) {
            gptc_session *s = session(threads, 0, 1, chunks[level]);
            CU_ASSERT_EQUAL(gptc_prefill(s, 0, text[0], LENGTH, GPTC_LOGITS_LAST), GPTC_OK);
            CU_ASSERT_TRUE(same(gptc_logits(s, 0), 0, LENGTH - 1));
            CU_ASSERT_EQUAL(gptc_length(s, 0), LENGTH);
            CU_ASSERT_EQUAL(gptc_rows_computed(s), LENGTH);
            CU_ASSERT_EQUAL(gptc_rewind(s, 0, 0), GPTC_OK);
            All all = {.which = 1, .ok = true};
            CU_ASSERT_EQUAL(gptc_prefill_all(s, 0, text[1], LENGTH, all_rows, &all), GPTC_OK);
            CU_ASSERT_TRUE(all.ok);
            CU_ASSERT_EQUAL(all.next, LENGTH);
            CU_ASSERT_TRUE(same(gptc_logits(s, 0), 1, LENGTH - 1));
            gptc_session_free(s);
        }
}

static void test_stepwise(void) {
    gptc_session *s = session(2, LENGTH, 1, 0);
    bool ok = true;
    for (int i = 0; i < LENGTH; i++) {
        ok = ok && gptc_step(s, &text[0][i], 1) == GPTC_OK;
        ok = ok && same(gptc_logits(s, 0), 0, i);
    }
    CU_ASSERT_TRUE(ok);
    CU_ASSERT_EQUAL(gptc_rows_computed(s), LENGTH);
    gptc_session_free(s);
}

/* Three sequences of different length, then stepped together, more sequences than the chunk has rows. */
static void test_batch(void) {
    static const int lengths[3] = {17, 1, 30};
    for (int chunk = 0; chunk <= 2; chunk++) {
        gptc_session *s = session(2, 0, 3, chunk);
        for (int q = 0; q < 3; q++)
            CU_ASSERT_EQUAL(gptc_prefill(s, q, text[q], (size_t)lengths[q], GPTC_LOGITS_LAST), GPTC_OK);
        for (int q = 0; q < 3; q++) CU_ASSERT_TRUE(same(gptc_logits(s, q), q, lengths[q] - 1));
        bool ok = true;
        for (int i = 0; i < 8; i++) {
            int32_t next[3], order[3] = {2, 0, 1}, mixed[3];
            for (int q = 0; q < 3; q++) next[q] = text[q][lengths[q] + i];
            for (int k = 0; k < 3; k++) mixed[k] = next[order[k]];
            gptc_status st = i % 2 ? gptc_step(s, next, 3) : gptc_step_sequences(s, order, mixed, 3);
            ok = ok && st == GPTC_OK;
            for (int q = 0; q < 3; q++) ok = ok && same(gptc_logits(s, q), q, lengths[q] + i);
        }
        CU_ASSERT_TRUE(ok);
        gptc_session_free(s);
    }
}

/* A model is shared, a session belongs to its thread. */
static void *steps_of_one(void *which) {
    int w = *(const int *)which;
    gptc_session *s = NULL;
    gptc_session_options o = {.threads = 2, .chunk = 7};
    bool ok = gptc_session_new(model, &o, &s, NULL) == GPTC_OK;
    ok = ok && gptc_prefill(s, 0, text[w], 20, GPTC_LOGITS_LAST) == GPTC_OK && same(gptc_logits(s, 0), w, 19);
    for (int i = 20; i < LENGTH && ok; i++)
        ok = gptc_step(s, &text[w][i], 1) == GPTC_OK && same(gptc_logits(s, 0), w, i);
    gptc_session_free(s);
    return ok ? which : NULL;
}

static void test_sessions_of_threads(void) {
    static int which[3] = {0, 1, 2};
    pthread_t thread[3];
    for (int i = 0; i < 3; i++)
        CU_ASSERT_EQUAL_FATAL(pthread_create(&thread[i], NULL, steps_of_one, &which[i]), 0);
    for (int i = 0; i < 3; i++) {
        void *ok = NULL;
        pthread_join(thread[i], &ok);
        CU_ASSERT_PTR_NOT_NULL(ok);
    }
}

static void test_levels(void) {
    for (int level = 1; level <= 4; level++) {
        gptc_open_options o = {.cpu_level = level};
        gptc_model *m, *kept = model;
        gptc_status st = gptc_open(path, &o, &m, NULL);
        if (st == GPTC_E_UNSUPPORTED) continue;
        CU_ASSERT_EQUAL_FATAL(st, GPTC_OK);
        model = m;
        test_stepwise();
        test_batch();
        model = kept;
        gptc_close(m);
    }
}

/* A plan without a head: the logits of all rows are computed, those wanted are moved to the front. */
static void test_no_head(void) {
    size_t bytes;
    Tiny *t = tiny_new(7);
    t->plan.head_step = t->plan.n_steps;
    t->plan.head_offset = t->plan.logits_offset;
    t->plan.head_width = TINY_VOCAB;
    uint8_t *image = tiny_image(t, &bytes);
    tiny_free(t);
    char other[64] = "/tmp/gptc-test-runtime-XXXXXX";
    int fd = mkstemp(other);
    CU_ASSERT_FATAL(fd >= 0 && write(fd, image, bytes) == (ssize_t)bytes);
    close(fd);
    free(image);
    gptc_model *kept = model;
    CU_ASSERT_EQUAL_FATAL(gptc_open(other, NULL, &model, NULL), GPTC_OK);
    test_whole_and_chunks();
    test_batch();
    gptc_close(model);
    model = kept;
    unlink(other);
}

/* ---- sequences ---- */
static void test_rewind_and_fork(void) {
    gptc_session *s = session(1, 0, 3, 0);
    gptc_prefill(s, 0, text[0], 20, GPTC_LOGITS_LAST);
    CU_ASSERT_EQUAL(gptc_rewind(s, 0, 20), GPTC_OK);
    CU_ASSERT_PTR_NOT_NULL(gptc_logits(s, 0));
    CU_ASSERT_EQUAL(gptc_fork(s, 0, 2), GPTC_OK);
    CU_ASSERT_EQUAL(gptc_fork(s, 2, 2), GPTC_OK);
    CU_ASSERT_TRUE(same(gptc_logits(s, 2), 0, 19));
    CU_ASSERT_EQUAL(gptc_prefill(s, 0, text[1], 5, GPTC_LOGITS_LAST), GPTC_OK); /* another way */
    CU_ASSERT_EQUAL(gptc_rewind(s, 0, 12), GPTC_OK);
    CU_ASSERT_PTR_NULL(gptc_logits(s, 0));
    CU_ASSERT_EQUAL(gptc_prefill(s, 0, text[0] + 12, 20, GPTC_LOGITS_LAST), GPTC_OK);
    CU_ASSERT_TRUE(same(gptc_logits(s, 0), 0, 31));
    CU_ASSERT_EQUAL(gptc_prefill(s, 2, text[0] + 20, 9, GPTC_LOGITS_LAST), GPTC_OK);
    CU_ASSERT_TRUE(same(gptc_logits(s, 2), 0, 28));
    CU_ASSERT_EQUAL(gptc_fork(s, 1, 2), GPTC_OK); /* an empty one */
    CU_ASSERT_EQUAL(gptc_length(s, 2), 0);
    CU_ASSERT_PTR_NULL(gptc_logits(s, 2));
    CU_ASSERT_EQUAL(gptc_fork(s, 0, 3), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_rewind(s, 0, 33), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_rewind(s, 0, -1), GPTC_E_ARGUMENT);
    gptc_session_free(s);
}

static void test_modes(void) {
    gptc_session *s = session(1, 0, 1, 8);
    CU_ASSERT_PTR_NULL(gptc_logits(s, 0));
    CU_ASSERT_EQUAL(gptc_prefill(s, 0, text[0], 10, GPTC_LOGITS_NONE), GPTC_OK);
    CU_ASSERT_EQUAL(gptc_length(s, 0), 10);
    CU_ASSERT_PTR_NULL(gptc_logits(s, 0));
    CU_ASSERT_EQUAL(gptc_prefill(s, 0, text[0], 1, GPTC_LOGITS_ALL), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_prefill_all(s, 0, text[0], 1, NULL, NULL), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_step(s, &text[0][10], 1), GPTC_OK);
    CU_ASSERT_TRUE(same(gptc_logits(s, 0), 0, 10));
    CU_ASSERT_EQUAL(gptc_prefill(s, 0, NULL, 0, GPTC_LOGITS_LAST), GPTC_OK);
    CU_ASSERT_TRUE(same(gptc_logits(s, 0), 0, 10));
    All all = {.which = 0, .next = 11, .stop_at = 20, .ok = true};
    CU_ASSERT_EQUAL(gptc_prefill_all(s, 0, text[0] + 11, 29, all_rows, &all), GPTC_E_STOPPED);
    CU_ASSERT_TRUE(all.ok);
    CU_ASSERT_EQUAL(gptc_length(s, 0), 11);
    CU_ASSERT_TRUE(same(gptc_logits(s, 0), 0, 10));
    gptc_session_free(s);
}

static void test_errors_keep_the_state(void) {
    const int32_t twice[2] = {0, 0}, bad_sequence[2] = {0, 2}, tokens[2] = {1, TINY_VOCAB}, minus = -1;
    gptc_session *s = session(1, 12, 2, 4);
    CU_ASSERT_EQUAL(gptc_prefill(s, 0, text[0], 11, GPTC_LOGITS_LAST), GPTC_OK);
    CU_ASSERT_EQUAL(gptc_prefill(s, 0, text[0], 2, GPTC_LOGITS_LAST), GPTC_E_CONTEXT);
    CU_ASSERT_EQUAL(gptc_prefill(s, 0, text[0], SIZE_MAX, GPTC_LOGITS_LAST), GPTC_E_CONTEXT);
    CU_ASSERT_EQUAL(gptc_prefill(s, 2, text[0], 1, GPTC_LOGITS_LAST), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_prefill(s, 0, &tokens[1], 1, GPTC_LOGITS_LAST), GPTC_E_TOKEN);
    CU_ASSERT_EQUAL(gptc_prefill(s, 0, &minus, 1, GPTC_LOGITS_LAST), GPTC_E_TOKEN);
    CU_ASSERT_EQUAL(gptc_step(s, tokens, 2), GPTC_E_TOKEN);
    CU_ASSERT_EQUAL(gptc_step(s, tokens, 3), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_step(s, tokens, -1), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_step_sequences(s, twice, text[0], 2), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_step_sequences(s, bad_sequence, text[0], 2), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_length(s, 0), 11);
    CU_ASSERT_EQUAL(gptc_length(s, 1), 0);
    CU_ASSERT_EQUAL(gptc_length(s, 2), -1);
    CU_ASSERT_TRUE(same(gptc_logits(s, 0), 0, 10));
    CU_ASSERT_EQUAL(gptc_step(s, &text[0][11], 1), GPTC_OK);
    CU_ASSERT_EQUAL(gptc_step(s, text[0], 1), GPTC_E_CONTEXT);
    CU_ASSERT_TRUE(same(gptc_logits(s, 0), 0, 11));
    gptc_session_free(s);
}

static void test_options(void) {
    gptc_session *s;
    gptc_detail why;
    const gptc_session_options bad[] = {
        {.context = TINY_CONTEXT + 1},      {.context = -1}, {.sequences = -1},
        {.sequences = LIMIT_SEQUENCES + 1}, {.chunk = -1},   {.threads = -1}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CU_ASSERT_EQUAL(gptc_session_new(model, &bad[i], &s, &why), GPTC_E_ARGUMENT);
        CU_ASSERT_PTR_NULL(s);
        CU_ASSERT_NOT_EQUAL(why.text[0], 0);
    }
    CU_ASSERT_EQUAL(gptc_session_new(NULL, NULL, &s, &why), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_session_new(model, NULL, NULL, NULL), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_session_new(model, NULL, &s, NULL), GPTC_OK);
    CU_ASSERT_TRUE(gptc_state_bytes(s) >= (uint64_t)TINY_CONTEXT * 256);
    gptc_session_free(s);
    gptc_session_free(NULL);
    gptc_close(NULL);
    gptc_model *m;
    CU_ASSERT_EQUAL(gptc_open("/nonexistent", NULL, &m, &why), GPTC_E_IO);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "/nonexistent"));
    char far[600];
    memset(far, 'x', sizeof far);
    memcpy(far, "/nonexistent/", 13);
    strcpy(far + sizeof far - 8, "end.bin");
    CU_ASSERT_EQUAL(gptc_open(far, NULL, &m, &why), GPTC_E_IO);
    const char *end = strstr(why.text, "end.bin: ");
    CU_ASSERT_PTR_NOT_NULL_FATAL(end);
    CU_ASSERT_NOT_EQUAL(end[9], 0); /* the reason is still there */
    CU_ASSERT_EQUAL(gptc_open("/tmp", NULL, &m, &why), GPTC_E_IO);
    CU_ASSERT_EQUAL(gptc_open("/dev/null", NULL, &m, &why), GPTC_E_IO);
    gptc_open_options level = {.cpu_level = 99};
    CU_ASSERT_EQUAL(gptc_open(path, &level, &m, &why), GPTC_E_UNSUPPORTED);
}

/* Callers built against a struct that was shorter or is longer than the library's. */
static void test_struct_size(void) {
    gptc_session *s = NULL;
    gptc_session_options old = {
        .struct_size = offsetof(gptc_session_options, sequences), .threads = 1, .sequences = -5, .chunk = -5};
    CU_ASSERT_EQUAL(gptc_session_new(model, &old, &s, NULL), GPTC_OK);
    CU_ASSERT_EQUAL(gptc_length(s, 1), -1);
    gptc_session_free(s);
    struct {
        gptc_session_options known;
        int32_t later[4];
    } newer = {{.struct_size = sizeof newer, .threads = 1, .sequences = 2}, {-1, -1, -1, -1}};
    CU_ASSERT_EQUAL(gptc_session_new(model, &newer.known, &s, NULL), GPTC_OK);
    CU_ASSERT_EQUAL(gptc_length(s, 1), 0);
    gptc_session_free(s);
    gptc_sampler *p = NULL;
    gptc_sampler_options first = {
        .struct_size = offsetof(gptc_sampler_options, top_k), .top_k = -1, .top_p = 9};
    CU_ASSERT_EQUAL(gptc_sampler_new(model, &first, &p), GPTC_OK);
    gptc_sampler_free(p);
    gptc_model_info some = {.struct_size = offsetof(gptc_model_info, context), .context = -5, .layers = -5};
    gptc_model_get_info(model, &some);
    CU_ASSERT_EQUAL(some.vocab, TINY_VOCAB);
    CU_ASSERT_EQUAL(some.context, -5);
    CU_ASSERT_EQUAL(some.layers, -5);
    CU_ASSERT_EQUAL(some.struct_size, offsetof(gptc_model_info, context));
    struct {
        gptc_model_info known;
        int32_t later[4];
    } wider = {{.struct_size = sizeof wider}, {-1, -1, -1, -1}};
    gptc_model_get_info(model, &wider.known);
    CU_ASSERT_EQUAL(wider.known.layers, 2);
    CU_ASSERT_EQUAL(wider.later[0], -1);
}

static void test_null(void) {
    gptc_model_info info = {.vocab = 9};
    gptc_model *m;
    gptc_sampler *p;
    size_t n;
    CU_ASSERT_EQUAL(gptc_open(NULL, NULL, &m, NULL), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_open(path, NULL, NULL, NULL), GPTC_E_ARGUMENT);
    gptc_model_get_info(NULL, &info);
    CU_ASSERT_EQUAL(info.vocab, 0);
    gptc_model_get_info(model, NULL);
    CU_ASSERT_PTR_NULL(gptc_model_meta(NULL, "producer"));
    CU_ASSERT_PTR_NULL(gptc_model_meta(model, NULL));
    CU_ASSERT_EQUAL(gptc_prefill(NULL, 0, text[0], 1, GPTC_LOGITS_LAST), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_step(NULL, text[0], 1), GPTC_E_ARGUMENT);
    CU_ASSERT_PTR_NULL(gptc_logits(NULL, 0));
    CU_ASSERT_EQUAL(gptc_length(NULL, 0), -1);
    CU_ASSERT_EQUAL(gptc_rewind(NULL, 0, 0), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_fork(NULL, 0, 0), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_rows_computed(NULL), 0);
    CU_ASSERT_EQUAL(gptc_state_bytes(NULL), 0);
    CU_ASSERT_EQUAL(gptc_sampler_new(NULL, NULL, &p), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_sampler_new(model, NULL, NULL), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_sample(NULL, 0, NULL), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_encode(NULL, "a", 1, NULL, 0, &n), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_decode(NULL, NULL, 0, NULL, 0, &n), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_token_text(NULL, 0, NULL, 0), 0);
    CU_ASSERT_EQUAL(gptc_generate(NULL, 0, NULL, 1, NULL, NULL, NULL), GPTC_E_ARGUMENT);
    CU_ASSERT_STRING_EQUAL(gptc_strerror((gptc_status)-99), "unknown status");
    gptc_session *s = session(1, 0, 1, 0);
    CU_ASSERT_EQUAL(gptc_prefill(s, 0, NULL, 1, GPTC_LOGITS_LAST), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_step(s, NULL, 1), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_step(s, NULL, 0), GPTC_OK);
    CU_ASSERT_EQUAL(gptc_length(s, 0), 0);
    gptc_session_free(s);
}

/* ---- memory ---- the linker sends the allocations of this program and the library here (--wrap) */
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t each);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t alignment, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t each);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t alignment, size_t n);

static atomic_uint allocations;
void *__wrap_malloc(size_t n) {
    atomic_fetch_add(&allocations, 1);
    return __real_malloc(n);
}
void *__wrap_calloc(size_t n, size_t each) {
    atomic_fetch_add(&allocations, 1);
    return __real_calloc(n, each);
}
void *__wrap_realloc(void *p, size_t n) {
    atomic_fetch_add(&allocations, 1);
    return __real_realloc(p, n);
}
void *__wrap_aligned_alloc(size_t alignment, size_t n) {
    atomic_fetch_add(&allocations, 1);
    return __real_aligned_alloc(alignment, n);
}

static int ignore_rows(void *user, int32_t sequence, int32_t first, int32_t rows, const float *logits) {
    (void)user, (void)sequence, (void)first, (void)rows, (void)logits;
    return 0;
}

static gptc_sampler *sampler(float temperature, int top_k, float top_p, float min_p, uint64_t seed);

static void test_steps_allocate_nothing(void) {
    unsigned before = atomic_load(&allocations);
    gptc_session *s = session(3, 0, 2, 8);
    gptc_sampler *p = sampler(1, 5, 0.9f, 0.1f, 1);
    unsigned start = atomic_load(&allocations);
    CU_ASSERT_TRUE(start > before); /* they are counted at all */
    gptc_status st = gptc_prefill(s, 0, text[0], 20, GPTC_LOGITS_LAST);
    st |= gptc_prefill_all(s, 1, text[1], 20, ignore_rows, NULL);
    st |= gptc_step(s, text[2], 2);
    st |= gptc_rewind(s, 0, 10);
    st |= gptc_fork(s, 1, 0);
    st |= gptc_generate(s, 0, p, 5, NULL, NULL, NULL);
    CU_ASSERT_EQUAL(st, GPTC_OK);
    CU_ASSERT_EQUAL(atomic_load(&allocations), start);
    gptc_sampler_free(p);
    gptc_session_free(s);
}

/* ---- sampling ---- */
static gptc_sampler *sampler(float temperature, int top_k, float top_p, float min_p, uint64_t seed) {
    gptc_sampler *p = NULL;
    gptc_sampler_options o = {
        .temperature = temperature, .top_k = top_k, .top_p = top_p, .min_p = min_p, .seed = seed};
    CU_ASSERT_EQUAL_FATAL(gptc_sampler_new(model, &o, &p), GPTC_OK);
    return p;
}

/* How often each id comes, against probabilities (0 = never). */
static void check_distribution(gptc_sampler *p, const float *logits, int n, const double *expect) {
    enum { DRAWS = 40000 };
    int count[TINY_VOCAB] = {0};
    for (int i = 0; i < DRAWS; i++) {
        int32_t id = gptc_sample_logits(p, logits, n);
        if (id < 0 || id >= n) {
            CU_FAIL("id");
            return;
        }
        count[id]++;
    }
    for (int i = 0; i < n; i++) {
        double sigma = sqrt(expect[i] * (1 - expect[i]) / DRAWS);
        CU_ASSERT_TRUE(fabs((double)count[i] / DRAWS - expect[i]) <= 4.5 * sigma);
    }
    gptc_sampler_free(p);
}

static void test_sampler_distribution(void) {
    const float logits[6] = {logf(0.1f), NAN, logf(0.4f), -INFINITY, logf(0.3f), logf(0.2f)};
    const double all[6] = {0.1, 0, 0.4, 0, 0.3, 0.2}, two[6] = {0, 0, 4 / 7., 0, 3 / 7., 0};
    const double three[6] = {0, 0, 4 / 9., 0, 3 / 9., 2 / 9.}, one[6] = {0, 0, 1, 0, 0, 0};
    const double hot[6] = {sqrt(0.1) / 1.95603, 0, sqrt(0.4) / 1.95603, 0, sqrt(0.3) / 1.95603,
                           sqrt(0.2) / 1.95603};
    check_distribution(sampler(1, 0, 1, 0, 1), logits, 6, all);
    check_distribution(sampler(1, 0, 0, 0, 2), logits, 6, all); /* zeroed options */
    check_distribution(sampler(2, 0, 1, 0, 3), logits, 6, hot);
    check_distribution(sampler(1, 2, 1, 0, 4), logits, 6, two);
    check_distribution(sampler(1, 100, 1, 0, 5), logits, 6, all);
    check_distribution(sampler(1, 0, 0.65f, 0, 6), logits, 6, two); /* 0.4 + 0.3 reaches it */
    check_distribution(sampler(1, 0, 0.75f, 0, 7), logits, 6, three);
    check_distribution(sampler(1, 0, 0.01f, 0, 8), logits, 6, one);
    check_distribution(sampler(1, 0, 1, 0.45f, 9), logits, 6, three); /* 0.2 >= 0.45 * 0.4 */
    check_distribution(sampler(1, 0, 0.99f, 0.45f, 10), logits, 6, three);
    check_distribution(sampler(1, 3, 0.7f, 0, 11), logits, 6, two); /* of the 0.9 that top-k left */
    check_distribution(sampler(1, 1, 1, 0, 12), logits, 6, one);
}

static void test_sampler_edges(void) {
    const float nan[3] = {NAN, NAN, NAN}, tie[4] = {1, 5, 5, NAN}, inf[3] = {0, INFINITY, INFINITY};
    const float none[3] = {-INFINITY, -INFINITY, -INFINITY};
    gptc_sampler *p = NULL, *greedy = sampler(0, 0, 1, 0, 0), *warm = sampler(1, 2, 0.9f, 0.1f, 0);
    CU_ASSERT_EQUAL(gptc_sample_logits(greedy, tie, 4), 1);
    CU_ASSERT_EQUAL(gptc_sample_logits(greedy, nan, 3), GPTC_E_NO_LOGITS);
    CU_ASSERT_EQUAL(gptc_sample_logits(warm, nan, 3), GPTC_E_NO_LOGITS);
    CU_ASSERT_EQUAL(gptc_sample_logits(warm, inf, 3), 1);
    CU_ASSERT_EQUAL(gptc_sample_logits(warm, none, 3), 0);
    CU_ASSERT_EQUAL(gptc_sample_logits(warm, tie, 0), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_sample_logits(NULL, tie, 4), GPTC_E_ARGUMENT);
    const float one[1] = {-3}, near[2] = {1, 1.0001f};
    gptc_sampler *cold = sampler(1e-45f, 0, 1, 0, 0), *only = sampler(1, 0, 1, 1, 0),
                 *first = sampler(5, 1, 1, 0, 0);
    for (int i = 0; i < 50; i++) {
        CU_ASSERT_EQUAL(gptc_sample_logits(cold, near, 2), 1);  /* the smallest float as temperature */
        CU_ASSERT_EQUAL(gptc_sample_logits(only, near, 2), 1);  /* min_p 1 */
        CU_ASSERT_EQUAL(gptc_sample_logits(first, near, 2), 1); /* top_k 1 */
        CU_ASSERT_EQUAL(gptc_sample_logits(warm, one, 1), 0);   /* a vocabulary of one */
    }
    CU_ASSERT_EQUAL(gptc_sample_logits(warm, near, TINY_VOCAB + 1), GPTC_E_ARGUMENT);
    gptc_sampler_free(cold);
    gptc_sampler_free(only);
    gptc_sampler_free(first);
    gptc_session *s = session(1, 0, 1, 0);
    CU_ASSERT_EQUAL(gptc_sample(s, 0, warm), GPTC_E_NO_LOGITS);
    CU_ASSERT_EQUAL(gptc_sample(s, 1, warm), GPTC_E_ARGUMENT);
    gptc_session_free(s);
    const gptc_sampler_options bad[] = {{.temperature = -1}, {.temperature = NAN}, {.top_k = -1},
                                        {.top_p = 1.5f},     {.top_p = NAN},       {.min_p = -1},
                                        {.min_p = 2}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CU_ASSERT_EQUAL(gptc_sampler_new(model, &bad[i], &p), GPTC_E_ARGUMENT);
    gptc_sampler_free(greedy);
    gptc_sampler_free(warm);
    gptc_sampler_free(NULL);
}

/* ---- generation ---- */
typedef struct {
    int32_t ids[64];
    int n, stop_after;
} Heard;

static int hear(void *user, int32_t id, const char *bytes, size_t count) {
    Heard *h = user;
    (void)bytes;
    if (count == 0) h->ids[h->n++] = id; /* no tokenizer: no bytes */
    return h->stop_after && h->n >= h->stop_after;
}

static Heard generate(float temperature, uint64_t seed, int n, int stop_after, gptc_status expect) {
    Heard h = {.stop_after = stop_after};
    int32_t made = -1;
    gptc_session *s = session(2, 0, 1, 0);
    gptc_sampler *p = sampler(temperature, 0, 1, 0, seed);
    CU_ASSERT_EQUAL(gptc_generate(s, 0, p, n, hear, &h, &made), GPTC_E_NO_LOGITS);
    CU_ASSERT_EQUAL(gptc_prefill(s, 0, text[0], 10, GPTC_LOGITS_LAST), GPTC_OK);
    CU_ASSERT_EQUAL(gptc_generate(s, 0, p, n, hear, &h, &made), expect);
    CU_ASSERT_EQUAL(made, h.n);
    CU_ASSERT_EQUAL(gptc_length(s, 0), 10 + made);
    for (int i = 0; i < h.n; i++) CU_ASSERT_NOT_EQUAL(h.ids[i], 3); /* the stop token */
    gptc_sampler_free(p);
    gptc_session_free(s);
    return h;
}

static void test_generate(void) {
    Heard a = generate(2, 1, 20, 0, GPTC_OK), b = generate(2, 1, 20, 0, GPTC_OK);
    CU_ASSERT_EQUAL(a.n, b.n);
    CU_ASSERT_EQUAL(memcmp(a.ids, b.ids, sizeof a.ids), 0);
    generate(2, 1, 20, 2, GPTC_E_STOPPED);
    Heard c = generate(0, 0, 5, 0, GPTC_OK);
    int32_t ids[15];
    memcpy(ids, text[0], 10 * sizeof *ids);
    for (int i = 0; i < c.n; i++) {
        double logits[15 * TINY_VOCAB], *last = logits + (9 + i) * TINY_VOCAB;
        int best = 0;
        reference(tiny, ids, 10 + i, logits);
        for (int k = 1; k < TINY_VOCAB; k++)
            if (last[k] > last[best]) best = k;
        CU_ASSERT_EQUAL(c.ids[i], best);
        ids[10 + i] = c.ids[i];
    }
    gptc_session *s = session(1, 12, 1, 0);
    gptc_sampler *p = sampler(0, 0, 1, 0, 0);
    int32_t made;
    gptc_prefill(s, 0, text[0], 10, GPTC_LOGITS_LAST);
    CU_ASSERT_EQUAL(gptc_generate(s, 0, p, 5, NULL, NULL, &made), GPTC_E_CONTEXT);
    CU_ASSERT_EQUAL(made, 2);
    CU_ASSERT_EQUAL(gptc_encode(model, "a", 1, ids, 15, &(size_t){0}), GPTC_E_NO_TOKENIZER);
    CU_ASSERT_EQUAL(gptc_token_text(model, 1, NULL, 0), 0);
    gptc_sampler_free(p);
    gptc_session_free(s);
}

/* The same tokens as a step and then a draw for each sequence, also where sequences share a sampler. */
static void test_step_sample(void) {
    const int32_t order[3] = {2, 0, 1};
    gptc_session *s[2] = {session(1, 0, 3, 0), session(1, 0, 3, 0)};
    gptc_sampler *warm[2] = {sampler(2, 0, 1, 0, 4), sampler(2, 0, 1, 0, 4)},
                 *other[2] = {sampler(1, 5, 1, 0, 4), sampler(1, 5, 1, 0, 4)};
    int32_t ids[3] = {3, 1, 4}, want[3] = {3, 1, 4};
    for (int i = 0; i < 6; i++) {
        gptc_sampler *const mine[3] = {warm[0], other[0], warm[0]}, *const theirs[3] = {warm[1], other[1],
                                                                                        warm[1]};
        CU_ASSERT_EQUAL(gptc_step_sample(s[0], i % 2 ? order : NULL, ids, 3, mine, ids), GPTC_OK);
        CU_ASSERT_EQUAL(gptc_step_sequences(s[1], i % 2 ? order : NULL, want, 3), GPTC_OK);
        for (int k = 0; k < 3; k++) want[k] = gptc_sample(s[1], i % 2 ? order[k] : k, theirs[k]);
        CU_ASSERT_EQUAL(memcmp(ids, want, sizeof ids), 0);
    }
    gptc_sampler *const some[4] = {warm[0], NULL, warm[0], warm[0]};
    CU_ASSERT_EQUAL(gptc_step_sample(NULL, NULL, ids, 1, some, ids), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_step_sample(s[0], NULL, ids, 1, NULL, ids), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_step_sample(s[0], NULL, ids, 1, some, NULL), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_step_sample(s[0], NULL, ids, 2, some, ids), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_step_sample(s[0], NULL, ids, 4, some, ids), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_step_sample(s[0], NULL, &(int32_t){TINY_VOCAB}, 1, some, ids), GPTC_E_TOKEN);
    CU_ASSERT_EQUAL(gptc_step_sample(s[0], NULL, NULL, 0, NULL, NULL), GPTC_OK);
    CU_ASSERT_EQUAL(gptc_length(s[0], 0), 6);
    for (int i = 0; i < 2; i++) {
        gptc_sampler_free(warm[i]);
        gptc_sampler_free(other[i]);
        gptc_session_free(s[i]);
    }
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("runtime", setup, teardown);
    CU_add_test(s, "info", test_info);
    CU_add_test(s, "hash", test_hash);
    CU_add_test(s, "whole and in chunks", test_whole_and_chunks);
    CU_add_test(s, "stepwise", test_stepwise);
    CU_add_test(s, "batch", test_batch);
    CU_add_test(s, "sessions of several threads", test_sessions_of_threads);
    CU_add_test(s, "levels", test_levels);
    CU_add_test(s, "no head", test_no_head);
    CU_add_test(s, "rewind and fork", test_rewind_and_fork);
    CU_add_test(s, "modes", test_modes);
    CU_add_test(s, "errors keep the state", test_errors_keep_the_state);
    CU_add_test(s, "options", test_options);
    CU_add_test(s, "struct_size", test_struct_size);
    CU_add_test(s, "NULL", test_null);
    CU_add_test(s, "steps allocate nothing", test_steps_allocate_nothing);
    CU_add_test(s, "sampler distribution", test_sampler_distribution);
    CU_add_test(s, "sampler edges", test_sampler_edges);
    CU_add_test(s, "generate", test_generate);
    CU_add_test(s, "steps that draw", test_step_sample);
    return unit_end();
}
