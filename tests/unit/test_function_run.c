/* test_function_run.c: functions as a whole: ports, symbols, memory, views, errors, sessions of a GPT without cache,
 * and damaged files: each is refused with a detail, or runs. The ops are in test_function_ops.c. */
#include "tests/unit/function_check.h"

typedef struct {
    gptc_model *m;
    gptc_function *g;
} Opened;

static Opened opened(Fn *f) {
    Opened o;
    gptc_detail why = {""};
    gptc_status st = fn_open(f, 0, &o.m, &why);
    if (st) fprintf(stderr, "%s\n", why.text);
    CU_ASSERT_EQUAL_FATAL(st, GPTC_OK);
    CU_ASSERT_EQUAL_FATAL(gptc_function_new(o.m, &(gptc_function_options){.threads = 2}, &o.g, &why),
                          GPTC_OK);
    fn_free(f);
    return o;
}

static void closed(Opened o) {
    gptc_function_free(o.g);
    gptc_close(o.m);
}

static gptc_tensor floats(int64_t rows, int64_t cols, const float *data) {
    return (gptc_tensor){GPTC_F32, 2, {rows, cols}, data};
}

static void test_ports(void) {
    gptc_port p;
    Opened o = opened(fn_sample());
    CU_ASSERT_EQUAL(gptc_inputs(o.m), 2);
    CU_ASSERT_EQUAL(gptc_outputs(o.m), 8);
    CU_ASSERT_EQUAL(gptc_input(o.m, 0, &p), GPTC_OK);
    CU_ASSERT_STRING_EQUAL(p.name, "x");
    CU_ASSERT_TRUE(p.dtype == GPTC_F32 && p.rank == 2 && p.dim[0] == -1 && p.dim[1] == 4);
    CU_ASSERT_STRING_EQUAL(p.symbol[0], "n");
    CU_ASSERT_PTR_NULL(p.symbol[1]);
    CU_ASSERT_EQUAL(gptc_output(o.m, 0, &p), GPTC_OK);
    CU_ASSERT_TRUE(p.dim[0] == -1 && p.symbol[0] == NULL && p.dim[1] == 2); /* 2 n */
    CU_ASSERT_EQUAL(gptc_input(o.m, 2, &p), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_output(o.m, -1, &p), GPTC_E_ARGUMENT);
    gptc_model_info info = {0};
    gptc_model_get_info(o.m, &info);
    CU_ASSERT_TRUE(info.vocab == 0 && info.context == 0 && !info.has_cache);
    gptc_session *s;
    gptc_detail why;
    CU_ASSERT_EQUAL(gptc_session_new(o.m, NULL, &s, &why), GPTC_E_UNSUPPORTED);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "gptc_function_run"));
    closed(o);
}

static void test_sample(void) {
    float x[12];
    const int64_t i[3] = {2, 0, -1};
    gptc_detail why;
    for (int k = 0; k < 12; k++) x[k] = (float)(k * 5 % 7);
    Opened o = opened(fn_sample());
    for (int64_t n = 3; n >= 0; n--) {
        const gptc_tensor in[2] = {floats(n, 4, x), {GPTC_I64, 1, {n}, i}};
        gptc_status st = gptc_function_run(o.g, in, 2, &why);
        CU_ASSERT_EQUAL(st, n == 3 ? GPTC_OK : n ? GPTC_E_INDEX : GPTC_OK); /* row 2 of fewer */
        if (st) CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "GATHER"));
        CU_ASSERT_EQUAL(gptc_function_output(o.g, 0) != NULL, !st);
        if (n != 3) continue;
        const float *scaled = gptc_function_output(o.g, 0)->data;
        for (int k = 0; k < 12; k++) CU_ASSERT_EQUAL(scaled[k], x[k] * (float)(k % 4 + 1));
        const int32_t *padded = gptc_function_output(o.g, 5)->data;
        CU_ASSERT_EQUAL(padded[0], 1 << 23 | 127 << 23); /* the fill: the bits of 1.0f */
    }
    closed(o);
}

/* a[past + seq], b[2 seq], c[seq^2, k] -> the symbols, by dim. */
static void test_symbols(void) {
    static const int8_t zeros[64] = {0};
    Fn *f = fn_new();
    gptc_detail why;
    uint32_t seq = fn_symbol(f, "seq"), past = fn_symbol(f, "past"), k = fn_symbol(f, "k"),
             none = fn_symbol(f, "none");
    uint32_t total =
        fn_sum(f, 2, (const ArtTerm[]){{.factor = 1, .power = {1}}, {.factor = 1, .power = {0, 1}}});
    fn_input(f, ART_I8, 1, total);
    fn_input(f, ART_I8, 1, fn_sum(f, 1, &(ArtTerm){.factor = 2, .power = {1}}));
    fn_input(f, ART_I8, 2, fn_sum(f, 1, &(ArtTerm){.factor = 1, .power = {2}}), k);
    const uint32_t dims[] = {seq, past, k, none};
    for (int i = 0; i < 4; i++) {
        uint32_t v = fn_value(f, ART_I64, 0);
        fn_node(f, ART_FN_DIM, v, 0)->value = dims[i];
        fn_output(f, v);
    }
    Opened o = opened(f);
    static const struct {
        int64_t a, b, c, k;
        gptc_status status;
    } cases[] = {{7, 4, 4, 5, GPTC_OK},       {2, 4, 4, 0, GPTC_OK},
                 {0, 0, 0, 9, GPTC_OK},       {7, 5, 4, 5, GPTC_E_SHAPE},
                 {1, 4, 4, 5, GPTC_E_SHAPE},  {7, 4, 5, 5, GPTC_E_SHAPE},
                 {7, -4, 4, 5, GPTC_E_SHAPE}, {7, INT64_MAX - 1, 4, 5, GPTC_E_SHAPE}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const gptc_tensor in[3] = {{GPTC_I8, 1, {cases[i].a}, zeros},
                                   {GPTC_I8, 1, {cases[i].b}, zeros},
                                   {GPTC_I8, 2, {cases[i].c, cases[i].k}, zeros}};
        gptc_status st = gptc_function_run(o.g, in, 3, &why);
        CU_ASSERT_EQUAL(st, cases[i].status);
        CU_ASSERT_EQUAL(why.text[0] != 0, st != GPTC_OK);
        const int64_t want[4] = {cases[i].b / 2, cases[i].a - cases[i].b / 2, cases[i].k, 0};
        for (int q = 0; !st && q < 4; q++)
            CU_ASSERT_EQUAL(*(const int64_t *)gptc_function_output(o.g, q)->data, want[q]);
    }
    closed(o);
}

/* A chain needs two buffers however long it is; memory grows with the shapes and never else. */
static void test_memory(void) {
    enum { LONG = 5000 };
    static float x[LONG];
    Fn *f = fn_new();
    gptc_detail why;
    uint32_t n = fn_symbol(f, "n"), v = fn_input(f, ART_F32, 1, n);
    for (int i = 0; i < 21; i++) {
        uint32_t next = fn_value(f, ART_F32, 1, n);
        fn_node(f, ART_FN_NEG, next, 1, v);
        v = next;
    }
    fn_output(f, v);
    Opened o = opened(f);
    for (int i = 0; i < LONG; i++) x[i] = (float)i;
    static const int64_t lengths[] = {1000, 10, 1000, LONG, 0, 7};
    uint64_t most = 0;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        int64_t length = lengths[i];
        const gptc_tensor in = {GPTC_F32, 1, {length}, x};
        CU_ASSERT_EQUAL(gptc_function_run(o.g, &in, 1, &why), GPTC_OK);
        uint64_t bytes = gptc_function_bytes(o.g), need = 2 * ((uint64_t)length * 4 + 63) / 64 * 64;
        if (need > most) most = need;
        CU_ASSERT_TRUE(bytes >= most && bytes <= most + 128);
        const float *y = gptc_function_output(o.g, 0)->data;
        for (int64_t k = 0; k < length; k++)
            if (y[k] != -x[k]) CU_FAIL("wrong");
    }
    const gptc_tensor huge = {GPTC_F32, 1, {INT64_C(1) << 53}, x};
    CU_ASSERT_EQUAL(gptc_function_run(o.g, &huge, 1, &why), GPTC_E_MEMORY);
    closed(o);
}

/* Outputs that are the input, views of it, views of a result, a tensor. */
static void test_views(void) {
    Fn *f = fn_new();
    gptc_detail why;
    const float w[2] = {8, 9};
    float x[6] = {1, 2, 3, 4, 5, 6};
    uint32_t n = fn_symbol(f, "n"), c3 = fn_dim(f, 3), c1 = fn_dim(f, 1), zero = fn_dim(f, 0);
    uint32_t v = fn_input(f, ART_F32, 2, n, c3);
    uint32_t flat = fn_value(f, ART_F32, 1, fn_sum(f, 1, &(ArtTerm){.factor = 3, .power = {1}}));
    uint32_t row = fn_value(f, ART_F32, 2, c1, c3), neg = fn_value(f, ART_F32, 2, c1, c3),
             one = fn_value(f, ART_F32, 2, c1, c1);
    fn_node(f, ART_FN_RESHAPE, flat, 1, v);
    ArtNode *k = fn_node(f, ART_FN_SLICE, row, 1, v);
    k->start[0] = c1;
    k->start[1] = zero;
    fn_node(f, ART_FN_NEG, neg, 1, row);
    k = fn_node(f, ART_FN_SLICE, one, 1, neg);
    k->start[0] = zero;
    k->start[1] = c1;
    const uint32_t outputs[] = {
        v, flat, row, neg, one, v, fn_tensor(f, ART_F32, 1, (const int64_t[]){2}, w, false)};
    for (int i = 0; i < 7; i++) fn_output(f, outputs[i]);
    Opened o = opened(f);
    const gptc_tensor in = floats(2, 3, x);
    CU_ASSERT_EQUAL(gptc_function_run(o.g, &in, 1, &why), GPTC_OK);
    memset(x, 0, sizeof x); /* the outputs are the function's own */
    static const float want[7][6] = {
        {1, 2, 3, 4, 5, 6}, {1, 2, 3, 4, 5, 6}, {4, 5, 6}, {-4, -5, -6}, {-5}, {1, 2, 3, 4, 5, 6}, {8, 9}};
    static const size_t count[7] = {6, 6, 3, 3, 1, 6, 2};
    for (int i = 0; i < 7; i++)
        CU_ASSERT_EQUAL(memcmp(gptc_function_output(o.g, i)->data, want[i], count[i] * sizeof(float)), 0);
    closed(o);
}

/* Random graphs of sums, views and reversals, against the same in plain arrays: a value that another was laid
 * over too early would show. */
static void test_lifetimes(void) {
    enum { VALUES = 70, CELLS = 12 };
    for (uint64_t seed = 1; seed <= 40; seed++) {
        static int64_t value[VALUES][CELLS];
        Tiny random = {.random = seed};
        Fn *f = fn_new();
        gptc_detail why;
        uint32_t id[VALUES], c12 = fn_dim(f, CELLS), zero = fn_dim(f, 0), last = fn_dim(f, CELLS - 1);
        id[0] = fn_input(f, ART_I64, 1, c12);
        for (int i = 0; i < CELLS; i++) value[0][i] = i * i - 7;
        for (int i = 1; i < VALUES; i++) {
            int a = (int)(fabs(tiny_random(&random)) * i) % i, b = (int)(fabs(tiny_random(&random)) * i) % i;
            int how = (int)(fabs(tiny_random(&random)) * 4);
            id[i] = fn_value(f, ART_I64, 1, c12);
            if (how < 2) {
                fn_node(f, how ? ART_FN_SUB : ART_FN_ADD, id[i], 2, id[a], id[b]);
            } else if (how == 2) {
                fn_node(f, ART_FN_RESHAPE, id[i], 1, id[a]);
            } else {
                ArtNode *k = fn_node(f, ART_FN_SLICE, id[i], 1, id[a]);
                k->start[0] = a % 2 ? last : zero;
                k->step[0] = a % 2 ? -1 : 1;
            }
            for (int c = 0; c < CELLS; c++) {
                int64_t va = value[a][c], vb = value[b][c];
                int64_t sum = (int64_t)((uint64_t)va + (uint64_t)vb),
                        gap = (int64_t)((uint64_t)va - (uint64_t)vb);
                value[i][c] = how == 0            ? sum
                              : how == 1          ? gap
                              : how == 3 && a % 2 ? value[a][CELLS - 1 - c]
                                                  : va;
            }
        }
        int from = (int)(seed % 3) * 20;
        for (int i = from; i < VALUES; i += 9) fn_output(f, id[i]);
        Opened o = opened(f);
        const gptc_tensor in = {GPTC_I64, 1, {CELLS}, value[0]};
        CU_ASSERT_EQUAL(gptc_function_run(o.g, &in, 1, &why), GPTC_OK);
        for (int i = from; i < VALUES; i += 9)
            CU_ASSERT_EQUAL(
                memcmp(gptc_function_output(o.g, (i - from) / 9)->data, value[i], sizeof value[i]), 0);
        closed(o);
    }
}

static void test_arguments(void) {
    _Alignas(8) static const char bytes[64] = {0};
    gptc_detail why;
    Opened o = opened(fn_sample());
    const gptc_tensor x = floats(2, 4, (const float *)(const void *)bytes), i = {GPTC_I64, 1, {2}, bytes};
    for (int which = 0; which < 9; which++) {
        gptc_tensor in[2] = {x, i};
        gptc_status want = GPTC_E_SHAPE;
        int32_t n = 2;
        switch (which) {
        case 0: in[0].dtype = GPTC_F64; break;
        case 1: in[0].rank = 1; break;
        case 2: in[0].dim[1] = 3; break;
        case 3: in[1].dim[0] = 3; break;
        case 4: in[1].dim[0] = -2; break;
        case 5: in[1].data = NULL, want = GPTC_E_ARGUMENT; break;
        case 6: in[1].data = bytes + 4, want = GPTC_E_ARGUMENT; break;
        case 7: n = 1, want = GPTC_E_ARGUMENT; break;
        default: want = GPTC_OK; break;
        }
        CU_ASSERT_EQUAL(gptc_function_run(o.g, in, n, &why), want);
        CU_ASSERT_EQUAL(why.text[0] != 0, want != GPTC_OK);
        CU_ASSERT_EQUAL(gptc_function_output(o.g, 0) != NULL, want == GPTC_OK);
    }
    gptc_function *g;
    CU_ASSERT_EQUAL(gptc_function_run(NULL, &x, 1, &why), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_function_run(o.g, NULL, 2, NULL), GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_function_new(o.m, &(gptc_function_options){.threads = -1}, &g, &why),
                    GPTC_E_ARGUMENT);
    CU_ASSERT_EQUAL(gptc_function_new(NULL, NULL, &g, &why), GPTC_E_ARGUMENT);
    CU_ASSERT_PTR_NULL(gptc_function_output(o.g, 8));
    CU_ASSERT_PTR_NULL(gptc_function_output(NULL, 0));
    CU_ASSERT_EQUAL(gptc_inputs(NULL), 0);
    CU_ASSERT_EQUAL(gptc_function_bytes(NULL), 0);
    closed(o);
}

/* ---- sessions ---- */
/* The logits after each of n tokens. */
static void gpt_logits(const int32_t *tokens, int n, double out[][FN_VOCAB]) {
    double sum[FN_WIDTH] = {0};
    for (int t = 0; t < n; t++)
        for (int v = 0; v < FN_VOCAB; v++) {
            out[t][v] = 0;
            for (int d = 0; d < FN_WIDTH; d++) {
                int e = tokens[t] * FN_WIDTH + d;
                if (v == 0) sum[d] += (e * 37 % 41 - 20) / 32.0;
                out[t][v] += tanh(sum[d]) * ((v * FN_WIDTH + d) * 29 % 43 - 21) / 16.0;
            }
        }
}

static bool logits_are(const float *got, const double *want) {
    for (int v = 0; got && v < FN_VOCAB; v++)
        if (fabs((double)got[v] - want[v]) > 1e-5) return false;
    return got != NULL;
}

typedef struct {
    double (*want)[FN_VOCAB];
    int calls, rows, stop;
} Rows;

static int take_rows(void *user, int32_t sequence, int32_t first, int32_t rows, const float *logits) {
    Rows *r = user;
    CU_ASSERT_EQUAL(sequence, 1);
    for (int i = 0; i < rows; i++) CU_ASSERT_TRUE(logits_are(logits + i * FN_VOCAB, r->want[first + i]));
    r->rows += rows;
    return ++r->calls == r->stop;
}

static void session_of(uint32_t dtype, gptc_model **m, gptc_session **s) {
    gptc_detail why;
    Fn *f = fn_gpt(dtype);
    CU_ASSERT_EQUAL_FATAL(fn_open(f, 0, m, &why), GPTC_OK);
    fn_free(f);
    gptc_session_options o = {.threads = 1, .sequences = 3, .chunk = 4};
    CU_ASSERT_EQUAL_FATAL(gptc_session_new(*m, &o, s, &why), GPTC_OK);
}

static void test_session(void) {
    static const int32_t text[FN_CONTEXT] = {1, 5, 3, 10, 0, 7, 2, 2, 9, 4};
    static double want[FN_CONTEXT][FN_VOCAB];
    static const uint32_t dtypes[2] = {ART_I64, ART_I32};
    gpt_logits(text, FN_CONTEXT, want);
    for (int i = 0; i < 2; i++) {
        gptc_model *m;
        gptc_session *s;
        session_of(dtypes[i], &m, &s);
        CU_ASSERT_EQUAL(gptc_prefill(s, 0, text, 3, GPTC_LOGITS_NONE), GPTC_OK);
        CU_ASSERT_TRUE(gptc_rows_computed(s) == 0 && gptc_logits(s, 0) == NULL && gptc_length(s, 0) == 3);
        CU_ASSERT_EQUAL(gptc_prefill(s, 0, text + 3, 2, GPTC_LOGITS_LAST), GPTC_OK);
        CU_ASSERT_TRUE(logits_are(gptc_logits(s, 0), want[4]));
        CU_ASSERT_EQUAL(gptc_rows_computed(s), 5);
        CU_ASSERT_EQUAL(gptc_step(s, text + 5, 1), GPTC_OK);
        CU_ASSERT_TRUE(logits_are(gptc_logits(s, 0), want[5]));
        CU_ASSERT_EQUAL(gptc_rows_computed(s), 11);
        CU_ASSERT_EQUAL(gptc_fork(s, 0, 2), GPTC_OK);
        CU_ASSERT_TRUE(logits_are(gptc_logits(s, 2), want[5]));
        CU_ASSERT_EQUAL(gptc_rewind(s, 2, 2), GPTC_OK);
        const int32_t sequences[2] = {2, 0}, tokens[2] = {text[2], text[6]};
        CU_ASSERT_EQUAL(gptc_step_sequences(s, sequences, tokens, 2), GPTC_OK);
        CU_ASSERT_TRUE(logits_are(gptc_logits(s, 2), want[2]) && logits_are(gptc_logits(s, 0), want[6]));
        Rows rows = {want, 0, 0, 0};
        CU_ASSERT_EQUAL(gptc_prefill_all(s, 1, text, 6, take_rows, &rows), GPTC_OK);
        CU_ASSERT_EQUAL(gptc_prefill_all(s, 1, text + 6, 3, take_rows, &rows), GPTC_OK);
        CU_ASSERT_TRUE(rows.calls == 3 && rows.rows == 9 && logits_are(gptc_logits(s, 1), want[8]));
        rows = (Rows){want, 0, 0, 1};
        CU_ASSERT_EQUAL(gptc_prefill_all(s, 1, text + 9, 5, take_rows, &rows), GPTC_E_STOPPED);
        CU_ASSERT_TRUE(gptc_length(s, 1) == 9 && logits_are(gptc_logits(s, 1), want[8]));
        CU_ASSERT_EQUAL(gptc_prefill(s, 1, text, FN_CONTEXT, GPTC_LOGITS_LAST), GPTC_E_CONTEXT);
        CU_ASSERT_EQUAL(gptc_prefill(s, 1, (const int32_t[]){FN_VOCAB}, 1, GPTC_LOGITS_LAST), GPTC_E_TOKEN);
        CU_ASSERT_EQUAL(gptc_state_bytes(s), 0);
        gptc_session_free(s);
        gptc_close(m);
    }
}

static void test_generate(void) {
    gptc_model *m;
    gptc_session *s;
    gptc_sampler *p;
    int32_t text[FN_CONTEXT] = {1, 5, 3}, made;
    double want[FN_CONTEXT][FN_VOCAB];
    session_of(ART_I64, &m, &s);
    CU_ASSERT_EQUAL_FATAL(gptc_sampler_new(m, NULL, &p), GPTC_OK);
    CU_ASSERT_EQUAL(gptc_prefill(s, 0, text, 3, GPTC_LOGITS_LAST), GPTC_OK);
    CU_ASSERT_EQUAL(gptc_generate(s, 0, p, 5, NULL, NULL, &made), GPTC_OK);
    CU_ASSERT_EQUAL(made, 5);
    for (int n = 3; n < 8; n++) {
        gpt_logits(text, n, want);
        for (int v = 0; v < FN_VOCAB; v++)
            if (want[n - 1][v] > want[n - 1][text[n]]) text[n] = v;
    }
    gpt_logits(text, 8, want);
    CU_ASSERT_TRUE(logits_are(gptc_logits(s, 0), want[7]));
    CU_ASSERT_EQUAL(gptc_generate(s, 0, p, 100, NULL, NULL, &made), GPTC_E_CONTEXT);
    CU_ASSERT_EQUAL(gptc_length(s, 0), FN_CONTEXT);
    gptc_sampler_free(p);
    gptc_session_free(s);
    gptc_close(m);
}

/* ---- damaged files ---- */
/* What opens has to run, on inputs whose symbols are 3. */
static gptc_status try_image(uint8_t *image, size_t bytes, gptc_detail *why) {
    static int file = -1;
    static char path[64];
    static const int64_t data[512] = {0};
    gptc_model *m;
    gptc_function *g;
    if (file < 0) {
        strcpy(path, "/tmp/gptc-test-function-XXXXXX");
        file = mkstemp(path);
        unlink(path);
        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    }
    CU_ASSERT_TRUE_FATAL(!ftruncate(file, (off_t)bytes) && pwrite(file, image, bytes, 0) == (ssize_t)bytes);
    gptc_status st = gptc_open(path, &(gptc_open_options){.cpu_level = 1}, &m, why);
    if (st) return st;
    gptc_tensor in[8];
    size_t most = 1;
    for (int32_t i = 0; i < gptc_inputs(m) && i < 8; i++) {
        gptc_port p;
        size_t n = 1;
        gptc_input(m, i, &p);
        in[i] = (gptc_tensor){.dtype = p.dtype, .rank = p.rank, .data = data};
        for (int32_t k = 0; k < p.rank; k++) n *= (size_t)(in[i].dim[k] = p.dim[k] < 0 ? 3 : p.dim[k] % 64);
        most = n > most ? n : most;
    }
    CU_ASSERT_EQUAL(gptc_function_new(m, &(gptc_function_options){.threads = 1}, &g, why), GPTC_OK);
    gptc_detail inner = {""};
    if (most <= 512) { /* a large shape may take long, not go wrong */
        gptc_status plan = function_plan(g, in, &inner);
        if (!plan && g->need < 1 << 20) plan = gptc_function_run(g, in, gptc_inputs(m), &inner);
        CU_ASSERT_TRUE(!plan || inner.text[0]);
    }
    gptc_function_free(g);
    gptc_close(m);
    return GPTC_OK;
}

static void flips(Fn *f) {
    static const uint8_t how[] = {0x01, 0x80, 0x42};
    gptc_detail why;
    size_t bytes, front;
    uint8_t *image = fn_image(f, &bytes), *copy = malloc(bytes);
    int accepted = 0, refused = 0;
    front = bytes - f->weight_bytes;
    for (size_t i = sizeof(ArtHeader); i < front; i++)
        for (size_t k = 0; k < sizeof how; k++) {
            memcpy(copy, image, bytes);
            copy[i] ^= how[k];
            tiny_fix_hashes(copy, bytes);
            why.text[0] = 0;
            gptc_status st = try_image(copy, bytes, &why);
            if (st && !why.text[0]) CU_FAIL("no detail");
            accepted += !st;
            refused += st != GPTC_OK;
        }
    CU_ASSERT_TRUE(accepted > 0 && refused > 0);
    free(copy);
    free(image);
    fn_free(f);
}

static void test_flips(void) {
    flips(fn_sample());
    flips(fn_gpt(ART_I64));
}

static void test_truncations(void) {
    gptc_detail why;
    size_t bytes;
    Fn *f = fn_sample();
    uint8_t *image = fn_image(f, &bytes);
    for (size_t n = 0; n < bytes; n += n < 1024 ? 1 : 61) {
        uint64_t size = n;
        uint8_t *copy = malloc(n + sizeof(ArtHeader));
        memcpy(copy, image, n);
        memcpy(copy + offsetof(ArtHeader, file_bytes), &size, 8);
        if (try_image(copy, n, &why) == GPTC_OK) CU_FAIL("a file cut off opens");
        free(copy);
    }
    free(image);
    fn_free(f);
}

static void node_late(Fn *f) { f->operands[f->nodes[0].first_operand] = f->nodes[1].out[0]; }
static void operand_outside(Fn *f) { f->operands[0] = f->head.n_values; }
static void operand_missing(Fn *f) { f->operands[1] = ART_NO_INDEX; }
static void operands_wrap(Fn *f) { f->nodes[3].first_operand = UINT32_MAX; }
static void operand_short(Fn *f) { f->nodes[0].n_operands = 1; }
static void result_twice(Fn *f) { f->nodes[2].out[0] = f->nodes[0].out[0]; }
static void result_is_input(Fn *f) { f->nodes[0].out[0] = f->inputs[0]; }
static void result_too_many(Fn *f) { f->nodes[0].out[1] = f->nodes[1].out[0]; }
static void result_outside(Fn *f) { f->nodes[0].out[0] = ART_NO_INDEX; }
static void op_unknown(Fn *f) { f->nodes[0].op = ART_FN_COUNT; }
static void flag_unknown(Fn *f) { f->nodes[0].flags = 1u << 20; }
static void dtype_unknown(Fn *f) { f->values[3].dtype = ART_DTYPE_COUNT; }
static void dtype_other(Fn *f) { f->values[f->nodes[0].out[0]].dtype = ART_F16; }
static void rank_other(Fn *f) { f->values[f->nodes[0].out[0]].rank = 1; }
static void rank_9(Fn *f) { f->values[0].rank = 9; }
static void dim_outside(Fn *f) { f->values[0].dim[0] = f->head.n_dims; }
static void terms_outside(Fn *f) { f->dims[1].count = UINT32_MAX; }
static void symbol_outside(Fn *f) { f->terms[0].power[1] = 1; }
static void symbol_name(Fn *f) { f->symbols[0] = f->meta.text_bytes; }
static void port_name(Fn *f) { f->values[f->inputs[0]].name_offset = f->meta.text_bytes; }
static void input_twice(Fn *f) { f->inputs[1] = f->inputs[0]; }
static void input_is_result(Fn *f) { f->inputs[1] = f->nodes[0].out[0]; }
static void output_unknown(Fn *f) { f->outputs[0] = fn_value(f, ART_F32, 0); }
static void tensor_outside(Fn *f) { f->values[2].kind = ART_V_TENSOR, f->values[2].tensor = f->n_tensors; }
static void axis_outside(Fn *f) { f->nodes[4].axis = 2; }
static void perm_double(Fn *f) { f->nodes[5].perm[0] = 0; }
static void step_0(Fn *f) { f->nodes[2].step[0] = 0; }
static void start_outside(Fn *f) { f->nodes[2].start[0] = f->head.n_dims; }
static void has_vocabulary(Fn *f) { f->meta.vocab = f->meta.context = 5; }
static void has_cache(Fn *f) { f->meta.has_cache = 1; }
static void tokens_of_floats(Fn *f) {
    f->head.tokens = f->head.logits = 0, f->meta.vocab = f->meta.context = 5;
}
static void panels_elsewhere(Fn *f) {
    static const float w[32] = {0};
    f->operands[1] = fn_tensor(f, ART_F32, 2, (const int64_t[]){4, 4}, w, true);
}

static const struct {
    const char *name;
    void (*make)(Fn *);
} mistakes[] = {
#define M(f)                                                                                                 \
    { #f, f }
    M(node_late),        M(operand_outside),  M(operand_missing), M(operands_wrap),  M(operand_short),
    M(result_twice),     M(result_is_input),  M(result_too_many), M(result_outside), M(op_unknown),
    M(flag_unknown),     M(dtype_unknown),    M(dtype_other),     M(rank_other),     M(rank_9),
    M(dim_outside),      M(terms_outside),    M(symbol_outside),  M(symbol_name),    M(port_name),
    M(input_twice),      M(input_is_result),  M(output_unknown),  M(tensor_outside), M(axis_outside),
    M(perm_double),      M(step_0),           M(start_outside),   M(has_vocabulary), M(has_cache),
    M(tokens_of_floats), M(panels_elsewhere),
#undef M
};

static void test_mistakes(void) {
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        gptc_detail why = {""};
        size_t bytes;
        Fn *f = fn_sample();
        mistakes[i].make(f);
        uint8_t *image = fn_image(f, &bytes);
        gptc_status st = try_image(image, bytes, &why);
        if (!st || !why.text[0]) fprintf(stderr, "not refused: %s\n", mistakes[i].name);
        CU_ASSERT_TRUE(st != GPTC_OK && why.text[0]);
        free(image);
        fn_free(f);
    }
}

static void write_seed(const char *path, Fn *f) {
    size_t bytes;
    uint8_t *image = fn_image(f, &bytes);
    FILE *o = fopen(path, "wb");
    if (o) fwrite(image, 1, bytes - f->weight_bytes, o);
    if (o) fclose(o);
    free(image);
    fn_free(f);
}

/* With an argument, writes the seeds of the fuzzer to that folder: what stands before the weights. */
int main(int argc, char **argv) {
    if (argc > 1) {
        char path[256];
        snprintf(path, sizeof path, "%s/function.bin", argv[1]);
        write_seed(path, fn_sample());
        snprintf(path, sizeof path, "%s/function-gpt.bin", argv[1]);
        write_seed(path, fn_gpt(ART_I64));
        return 0;
    }
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("functions", NULL, NULL);
    CU_add_test(s, "ports", test_ports);
    CU_add_test(s, "sample", test_sample);
    CU_add_test(s, "symbols", test_symbols);
    CU_add_test(s, "memory", test_memory);
    CU_add_test(s, "views", test_views);
    CU_add_test(s, "lifetimes", test_lifetimes);
    CU_add_test(s, "arguments", test_arguments);
    CU_add_test(s, "session", test_session);
    CU_add_test(s, "generate", test_generate);
    CU_add_test(s, "flips", test_flips);
    CU_add_test(s, "truncations", test_truncations);
    CU_add_test(s, "mistakes", test_mistakes);
    return unit_end();
}
