/* test_eval.c: the reference interpreter.
 *
 * tests/ir/eval/ holds small cases for every op with results computed by numpy; here are the walk
 * over them, products and attention on sizes that reach every block edge, and whole-graph
 * behaviour. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ir/ir.h"
#include "tests/unit/unit.h"

static Arena *arena;
static Diag diag;

static int setup(void) {
    arena = arena_new();
    diag_init(&diag);
    return 0;
}

static int teardown(void) {
    diag_free(&diag);
    arena_free(arena);
    return 0;
}

static void print_errors(void) {
    for (size_t i = 0; i < diag.items.count; i++) {
        Text t = text_new(arena);
        diag_format(&t, &diag.items.data[i]);
        printf("\n    %s", t.data);
    }
}

static void forget_errors(void) {
    diag_free(&diag);
    diag_init(&diag);
}

static Graph *parse(const char *text) {
    Graph *g = graph_parse(text, strlen(text), "test", NULL, arena, &diag);
    if (g == NULL) print_errors();
    CU_ASSERT_PTR_NOT_NULL_FATAL(g);
    return g;
}

static bool evaluate(Graph *g, const EvalArgs *args, Tensor *out) {
    ValId *want = arena_array_of(arena, g->outputs.count, ValId);
    for (size_t i = 0; i < g->outputs.count; i++) want[i] = g->outputs.data[i].v;
    return eval_graph(g, args, want, g->outputs.count, out, arena, &diag);
}

static Tensor *run_args(Graph *g, const EvalArgs *args) {
    Tensor *out = arena_array_of(arena, g->outputs.count, Tensor);
    bool ok = evaluate(g, args, out);
    if (!ok) print_errors();
    CU_ASSERT_TRUE_FATAL(ok);
    return out;
}

static Tensor *run(Graph *g) { return run_args(g, &(EvalArgs){0}); }

static double tolerance(DType t) {
    switch (t) {
    case DT_F64: return 1e-13;
    case DT_F16: return 1.0 / 1024;
    case DT_BF16: return 1.0 / 128;
    default: return 1e-6;
    }
}

static bool element_close(const Tensor *a, const Tensor *b, size_t i, double tol) {
    if (!dtype_is_float(a->dtype)) return tensor_get_i64(a, i) == tensor_get_i64(b, i);
    double x = tensor_get_f64(a, i), y = tensor_get_f64(b, i);
    if (isnan(x) || isnan(y)) return isnan(x) && isnan(y);
    if (isinf(x) || isinf(y)) return x == y;
    return fabs(x - y) <= tol * fmax(fabs(y), 0.25);
}

static bool tensor_close(const char *name, const Tensor *a, const Tensor *b, double tol) {
    bool same = a->dtype == b->dtype && a->rank == b->rank &&
                memcmp(a->dim, b->dim, a->rank * sizeof(a->dim[0])) == 0;
    if (!same) {
        printf("\n    %s: another dtype or shape", name);
        return false;
    }
    for (size_t i = 0; i < tensor_count(a); i++) {
        if (element_close(a, b, i, tol)) continue;
        printf("\n    %s: element %zu is %.9g, not %.9g", name, i, tensor_get_f64(a, i),
               tensor_get_f64(b, i));
        return false;
    }
    return true;
}

/* ---- cases in files ---- */

static void run_cases(const char *name) {
    const char *path = arena_printf(arena, GPTC_SOURCE_DIR "/tests/ir/eval/%s.gir", name);
    FileView file;
    CU_ASSERT_TRUE_FATAL(file_map(path, &file, &diag));
    Graph *g = graph_parse((const char *)file.data, file.bytes, path, NULL, arena, &diag);
    if (g == NULL) print_errors();
    CU_ASSERT_PTR_NOT_NULL_FATAL(g);
    Tensor *out = run(g);
    CU_ASSERT_TRUE(g->outputs.count >= 12);
    for (size_t i = 0; i + 1 < g->outputs.count; i += 2) {
        double tol = tolerance(out[i].dtype);
        CU_ASSERT_TRUE(tensor_close(g->outputs.data[i].name, &out[i], &out[i + 1], tol));
    }
    file_unmap(&file);
}

static void test_elementwise(void) { run_cases("elementwise"); }
static void test_move(void) { run_cases("move"); }
static void test_reduce(void) { run_cases("reduce"); }
static void test_product(void) { run_cases("product"); }
static void test_transformer(void) { run_cases("transformer"); }
static void test_routed(void) { run_cases("routed"); }
static void test_quantize(void) { run_cases("quantize"); }

/* ---- products ---- */

static float *random_floats(size_t n, uint64_t seed) {
    float *v = arena_array_of(arena, n, float);
    const_fill_seed(DT_F32, seed, v, n);
    return v;
}

static ValId add_const(Graph *g, DType t, int64_t rows, int64_t cols, const void *data) {
    Type type = type_make(t, 2, (Dim[]){dim_const(rows), dim_const(cols)});
    return graph_const(g, type, data, NULL);
}

static Tensor eval_product(int64_t m, int64_t n, int64_t k, const float *a, const void *b, DType bt,
                           bool trans) {
    Graph *g = graph_new(arena);
    g->stage = STAGE_RAISED;
    Attr attr = attr_default();
    attr.trans = trans;
    ValId in[2] = {add_const(g, DT_F32, m, k, a), add_const(g, bt, trans ? n : k, trans ? k : n, b)};
    ValId y = graph_add(g, OP_LINEAR, in, 2, &attr, NULL, loc_none(), &diag);
    graph_output(g, y, "y", ROLE_NONE);
    return *run(g);
}

static void check_product(int64_t m, int64_t n, int64_t k) {
    const float *a = random_floats((size_t)(m * k), 1), *b = random_floats((size_t)(k * n), 2);
    float *bt = arena_array_of(arena, (size_t)(k * n), float);
    for (int64_t i = 0; i < k; i++) {
        for (int64_t j = 0; j < n; j++) bt[j * k + i] = b[i * n + j];
    }
    Tensor plain = eval_product(m, n, k, a, b, DT_F32, false);
    Tensor trans = eval_product(m, n, k, a, bt, DT_F32, true);
    const float *c = plain.data;
    CU_ASSERT_EQUAL(memcmp(c, trans.data, (size_t)(m * n) * sizeof(float)), 0);
    double worst = 0;
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t x = 0; x < k; x++) sum += (double)a[i * k + x] * (double)b[x * n + j];
            worst = fmax(worst, fabs(sum - (double)c[i * n + j]));
        }
    }
    CU_ASSERT_TRUE(worst < 2e-7 * sqrt((double)k));
    /* A row alone gives the same bits. */
    Tensor row = eval_product(1, n, k, a + (m - 1) * k, b, DT_F32, false);
    CU_ASSERT_EQUAL(memcmp(c + (m - 1) * n, row.data, (size_t)n * sizeof(float)), 0);
}

static void test_product_sizes(void) {
    check_product(1, 64, 64);
    check_product(3, 130, 65);
    check_product(7, 64, 300);
    check_product(8, 72, 257);
    check_product(261, 67, 515);
    check_product(33, 200, 1000);
}

static void test_product_unaligned(void) {
    enum { N = 64, K = 96 };
    const float *a = random_floats(3 * K, 1), *b = random_floats(N * K, 2);
    char *shifted = arena_alloc(arena, N * K * sizeof(float) + 1);
    memcpy(shifted + 1, b, N * K * sizeof(float));
    for (int trans = 0; trans < 2; trans++) {
        Tensor x = eval_product(3, N, K, a, b, DT_F32, trans), y;
        y = eval_product(3, N, K, a, shifted + 1, DT_F32, trans);
        CU_ASSERT_EQUAL(memcmp(x.data, y.data, 3 * N * sizeof(float)), 0);
        CU_ASSERT_EQUAL((uintptr_t)y.data % 16, 0);
    }
}

/* Products decode halves on their own: every bit pattern times 1. */
static void test_product_halves(void) {
    enum { N = 65536 };
    static const float one = 1;
    uint16_t *w = arena_array_of(arena, N, uint16_t);
    for (uint32_t i = 0; i < N; i++) w[i] = (uint16_t)i;
    for (int kind = 0; kind < 4; kind++) {
        DType t = kind < 2 ? DT_F16 : DT_BF16;
        Tensor y = eval_product(1, N, 1, &one, w, t, kind % 2);
        uint32_t wrong = 0;
        for (uint32_t i = 0; i < N; i++) {
            float got = ((const float *)y.data)[i];
            float want = t == DT_F16 ? half_to_float(w[i]) : bf16_to_float(w[i]);
            if (!(got == want) && !(isnan(got) && isnan(want))) wrong++;
        }
        CU_ASSERT_EQUAL(wrong, 0);
    }
}

/* ---- attention against the ops that it is raised from ---- */

static void test_attention_primitives(void) {
    Graph *g = parse("gir 1 stage=raised\n"
                     "const %1 : f32[2, 70, 6, 24] = seed(1)\n"
                     "const %2 : f32[2, 150, 3, 24] = seed(2)\n"
                     "const %3 : f32[2, 150, 3, 72] = seed(3)\n"
                     "const %4 : f32[] = {9}\n"
                     "const %5 : f32[] = {-inf}\n"
                     "const %6 : i64[] = {80}\n"
                     "%7 : f32[2, 70, 6, 72] = attention(%1, %2, %3) {scale=9, causal=true}\n"
                     "%8 : f32[2, 6, 70, 24] = transpose(%1) {perm=[0, 2, 1, 3]}\n"
                     "%9 : f32[2, 3, 24, 150] = transpose(%2) {perm=[0, 2, 3, 1]}\n"
                     "%10 : f32[2, 3, 150, 72] = transpose(%3) {perm=[0, 2, 1, 3]}\n"
                     "%11 : f32[2, 3, 2, 70, 24] = reshape(%8)\n"
                     "%12 : f32[2, 3, 1, 24, 150] = reshape(%9)\n"
                     "%13 : f32[2, 3, 1, 150, 72] = reshape(%10)\n"
                     "%14 : f32[2, 3, 2, 70, 150] = matmul(%11, %12)\n"
                     "%15 : f32[2, 3, 2, 70, 150] = mul(%14, %4)\n"
                     "%16 : i64[70, 150] = iota() {axis=0}\n"
                     "%17 : i64[70, 150] = iota() {axis=1}\n"
                     "%18 : i64[70, 150] = add(%16, %6)\n"
                     "%19 : bool[70, 150] = le(%17, %18)\n"
                     "%20 : f32[2, 3, 2, 70, 150] = where(%19, %15, %5)\n"
                     "%21 : f32[2, 3, 2, 70, 150] = softmax(%20) {axis=4}\n"
                     "%22 : f32[2, 3, 2, 70, 72] = matmul(%21, %13)\n"
                     "%23 : f32[2, 6, 70, 72] = reshape(%22)\n"
                     "%24 : f32[2, 70, 6, 72] = transpose(%23) {perm=[0, 2, 1, 3]}\n"
                     "%25 : f32[2, 70, 6, 72] = attention(%1, %2, %3, %19) {scale=9}\n"
                     "%26 : bf16[2, 150, 3, 72] = cast(%3)\n"
                     "%27 : f32[2, 150, 3, 72] = cast(%26)\n"
                     "%28 : f32[2, 70, 6, 72] = attention(%1, %2, %26) {scale=9}\n"
                     "%29 : f32[2, 70, 6, 72] = attention(%1, %2, %27) {scale=9}\n"
                     "%30 : f64[2, 150, 3, 72] = cast(%27)\n"
                     "%31 : f32[2, 70, 6, 72] = attention(%1, %2, %30) {scale=9}\n"
                     "%32 : f32[2, 1, 6, 24] = slice(%1) {starts=[0, 69, 0, 0]}\n"
                     "%33 : f32[2, 1, 6, 72] = attention(%32, %2, %3) {scale=9, causal=true}\n"
                     "%34 : f32[2, 1, 6, 72] = slice(%7) {starts=[0, 69, 0, 0]}\n"
                     "output %7 \"whole\"\noutput %24 \"primitives\"\noutput %7 \"causal\"\noutput %25 "
                     "\"mask\"\n"
                     "output %28 \"bf16\"\noutput %29 \"f32\"\noutput %31 \"f64\"\noutput %29 \"f32 again\"\n"
                     "output %33 \"one row\"\noutput %34 \"last row\"\n");
    Tensor *out = run(g);
    CU_ASSERT_TRUE(tensor_close("attention", &out[0], &out[1], 1e-6));
    for (size_t i = 2; i < g->outputs.count; i += 2)
        CU_ASSERT_EQUAL(memcmp(out[i].data, out[i + 1].data, tensor_count(&out[i]) * 4), 0);
}

/* ---- whole graphs ---- */

static const char *const symbolic = "gir 1 stage=imported\n"
                                    "symbol batch\n"
                                    "symbol seq\n"
                                    "symbol past\n"
                                    "input %1 \"ids\" : i64[batch, seq] role=tokens\n"
                                    "input %2 \"past\" : f32[batch, past, 2] role=past\n"
                                    "input %3 \"unused\" : f32[]\n"
                                    "const %4 : f32[3, 2] = {0, 1, 2, 3, 4, 5}\n"
                                    "%5 : f32[batch, seq, 2] = gather(%4, %1)\n"
                                    "%6 : f32[batch, past + seq, 2] = concat(%2, %5) {axis=1}\n"
                                    "%7 : i64[] = dim() {value=past + 2*seq}\n"
                                    "%8 : f32[batch, 2*past + 2*seq] = reshape(%6)\n"
                                    "%9 : f32[] = abs(%3)\n"
                                    "output %6 \"all\"\noutput %7 \"dim\"\noutput %8 "
                                    "\"flat\"\noutput %4 \"table\"\noutput %1 \"ids\"\n";

static const int64_t bound[] = {0, 2, 1, 1};

static EvalArgs symbolic_args(const Tensor *inputs) {
    return (EvalArgs){.bind = bound, .nbind = 4, .inputs = inputs, .ninputs = 3};
}

static Tensor ids_tensor(int64_t *ids) {
    return (Tensor){.dtype = DT_I64, .rank = 2, .dim = {2, 1}, .data = ids};
}

static Tensor past_tensor(float *v) {
    return (Tensor){.dtype = DT_F32, .rank = 3, .dim = {2, 1, 2}, .data = v};
}

static void test_symbols(void) {
    Graph *g = parse(symbolic);
    int64_t ids[] = {2, -3};
    float old[] = {7, 8, 9, 10};
    Tensor in[3] = {ids_tensor(ids), past_tensor(old)};
    EvalArgs args = symbolic_args(in);
    Tensor *out = run_args(g, &args);
    static const float want[] = {7, 8, 4, 5, 9, 10, 0, 1};
    CU_ASSERT_EQUAL(out[0].dim[1], 2);
    CU_ASSERT_EQUAL(memcmp(out[0].data, want, sizeof(want)), 0);
    CU_ASSERT_EQUAL(tensor_get_i64(&out[1], 0), 3);
    CU_ASSERT_EQUAL(memcmp(out[2].data, want, sizeof(want)), 0);
    CU_ASSERT_EQUAL(tensor_get_f64(&out[3], 5), 5);
    CU_ASSERT_PTR_NOT_EQUAL(out[4].data, ids);
    CU_ASSERT_EQUAL(tensor_get_i64(&out[4], 1), -3);
}

static void expect_error(Graph *g, const EvalArgs *args, const char *text) {
    Tensor *out = arena_array_of(arena, g->outputs.count, Tensor);
    if (evaluate(g, args, out)) printf("\n    no error; expected \"%s\"", text);
    CU_ASSERT_EQUAL_FATAL(diag.items.count, 1);
    bool found = strstr(diag.items.data[0].text, text) != NULL;
    if (!found) printf("\n    \"%s\" does not say \"%s\"", diag.items.data[0].text, text);
    CU_ASSERT_TRUE(found);
    forget_errors();
}

static void test_argument_errors(void) {
    Graph *g = parse(symbolic);
    int64_t ids[] = {2, 3};
    float old[] = {7, 8, 9, 10};
    Tensor in[3] = {ids_tensor(ids), past_tensor(old)};
    EvalArgs args = symbolic_args(in);
    expect_error(g, &args, "gather: index 3 is outside an axis of length 3");
    ids[1] = -4;
    expect_error(g, &args, "gather: index -4 is outside an axis of length 3");
    ids[1] = 0;
    args.max_bytes = 40;
    expect_error(g, &args, "the limit is 40");
    args.max_bytes = 0;
    args.ninputs = 1;
    expect_error(g, &args, "input \"past\" is not given");
    args.ninputs = 3;
    in[1].dim[1] = 2;
    expect_error(g, &args, "does not have the type f32[batch, past, 2] under the binding");
    in[1] = past_tensor(NULL);
    expect_error(g, &args, "input \"past\" is needed and has no data");
    args.nbind = 3;
    expect_error(g, &args, "dimension past has no value");
    static const int64_t huge[] = {0, 2, 1, INT64_C(1) << 61};
    args = (EvalArgs){.bind = huge, .nbind = 4, .inputs = in, .ninputs = 3};
    expect_error(g, &args, "too big to evaluate");
    static const int64_t negative[] = {0, 2, 1, -1};
    args.bind = negative;
    expect_error(g, &args, "dimension past is -1");
}

static void test_range_errors(void) {
    static const struct {
        const char *node, *error;
    } cases[] = {
        {"f32[seq] = slice(%1) {starts=[2]}", "slice: 3 elements from 2 on by 1 are outside axis 0"},
        {"f32[2] = slice(%1) {starts=[-4 + seq]}", "slice: 2 elements from -1 on"},
        {"f32[2] = slice(%1) {starts=[-3 + seq], steps=[9223372036854775807]}", "outside axis 0"},
        {"f32[4] = pad(%1, %2) {starts=[-1 + seq]}", "pad: axis 0: length 4 at 2 does not fit into 4"},
        {"f32[4, 4] = scatter_nd(%3, %4, %3)", "scatter_nd: index 9 is outside an axis of length 4"},
        {"f32[2, 4] = gather_nd(%3, %5)", "gather_nd: index 9 is outside"},
        {"f32[2, 1] = gather_elements(%3, %5)", "gather_elements: index 9 is outside"},
        {"f32[4, 4] = scatter_elements(%3, %6, %7)", "scatter_elements: index -5 is outside"},
        {"f32[seq, 1] = gather_elements(%3, %8) {axis=1}", "indices are longer than the operand on axis 0"},
        {"f32[1, 2, 1, 4] = rope(%9, %10, %10, %11)", "rope: position 4 is outside a table of 4 rows"},
        {"i64[] = argmax(%12)", "argmax: the axis is empty"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        Graph *g = parse(
            arena_printf(arena,
                         "gir 1 stage=raised\nsymbol seq\n"
                         "const %%1 : f32[4] = splat(1)\nconst %%2 : f32[] = {0}\nconst %%3 : f32[4, 4] = "
                         "splat(1)\n"
                         "const %%4 : i64[4, 1] = {0, 1, 9, 2}\nconst %%5 : i64[2, 1] = {0, 9}\n"
                         "const %%6 : i64[1, 1] = {-5}\nconst %%7 : f32[1, 1] = {1}\n"
                         "const %%9 : f32[1, 2, 1, 4] = splat(1)\nconst %%10 : f32[4, 2] = splat(1)\n"
                         "const %%11 : i32[2] = {0, 4}\nconst %%12 : f32[0] = {}\n"
                         "%%8 : i64[seq, 1] = iota() {axis=1}\n"
                         "%%20 : %s\noutput %%20 \"y\"\n",
                         cases[i].node));
        bool longer = strstr(cases[i].error, "longer") != NULL;
        EvalArgs args = {.bind = (int64_t[]){0, 1, longer ? 5 : 3}, .nbind = 3};
        expect_error(g, &args, cases[i].error);
    }
}

static void test_node(void) {
    Graph *g = parse("gir 1 stage=imported\nsymbol seq\n"
                     "input %1 \"x\" : f32[seq]\nconst %2 : f32[3] = {1, 2, 3}\n"
                     "%3 : f32[3] = neg(%2)\n%4 : f32[1] = slice(%1) {starts=[-1 + seq]}\n"
                     "output %3 \"y\"\noutput %4 \"z\"\n");
    float data[] = {1, 2, 3};
    Tensor x = {.dtype = DT_F32, .rank = 1, .dim = {3}, .data = data}, out;
    const Tensor *in[] = {&x};
    CU_ASSERT_TRUE(eval_node(g, g->first, in, NULL, 0, &out, arena, &diag));
    CU_ASSERT_EQUAL(tensor_get_f64(&out, 2), -3);
    int64_t bind[] = {0, 1, 3};
    CU_ASSERT_TRUE(eval_node(g, g->last, in, bind, 3, &out, arena, &diag));
    CU_ASSERT_EQUAL(tensor_get_f64(&out, 0), 3);
    CU_ASSERT_FALSE(eval_node(g, g->last, in, NULL, 0, &out, arena, &diag));
    CU_ASSERT_EQUAL(diag.bugs, 0);
    x.dim[0] = 2;
    CU_ASSERT_FALSE(eval_node(g, g->first, in, NULL, 0, &out, arena, &diag));
    CU_ASSERT_EQUAL(diag.bugs, 1);
    forget_errors();
}

/* Intermediates are freed early: a long chain fits into room for three of its values. */
static void test_release(void) {
    Graph *g = graph_new(arena);
    Type t = type_make(DT_F32, 1, (Dim[]){dim_const(1000)});
    ValId v = graph_const(g, t, random_floats(1000, 1), NULL), first = v;
    for (int i = 0; i < 50; i++)
        v = graph_add(g, OP_ADD, (ValId[]){v, first}, 2, NULL, NULL, loc_none(), &diag);
    graph_output(g, v, "y", ROLE_NONE);
    Tensor out;
    EvalArgs args = {.max_bytes = 8000};
    CU_ASSERT_TRUE(evaluate(g, &args, &out));
    args.max_bytes = 7999;
    CU_ASSERT_FALSE(evaluate(g, &args, &out));
    forget_errors();
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite suite = CU_add_suite("eval", setup, teardown);
    CU_add_test(suite, "elementwise", test_elementwise);
    CU_add_test(suite, "move", test_move);
    CU_add_test(suite, "reduce", test_reduce);
    CU_add_test(suite, "product", test_product);
    CU_add_test(suite, "transformer", test_transformer);
    CU_add_test(suite, "routed", test_routed);
    CU_add_test(suite, "quantize", test_quantize);
    CU_add_test(suite, "product sizes", test_product_sizes);
    CU_add_test(suite, "product of unaligned data", test_product_unaligned);
    CU_add_test(suite, "product of halves", test_product_halves);
    CU_add_test(suite, "attention and primitives", test_attention_primitives);
    CU_add_test(suite, "symbols", test_symbols);
    CU_add_test(suite, "argument errors", test_argument_errors);
    CU_add_test(suite, "range errors", test_range_errors);
    CU_add_test(suite, "one node", test_node);
    CU_add_test(suite, "early release", test_release);
    return unit_end();
}
