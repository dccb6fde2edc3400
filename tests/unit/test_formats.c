/* test_formats.c: every format from its line in formats.def through the graph and the passes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "codegen/cpu/cost.h"
#include "tests/unit/formats_check.h"
#include "tests/unit/unit.h"
#include "tools/driver.h"

#define EXAMPLE GPTC_SOURCE_DIR "/examples/shakespeare/model.onnx"

enum {
#define FORMAT(name, bits, group, zero, scale, grid, vector, doc) +1
    FORMATS = 0
#include "passes/lossy/formats.def"
#undef FORMAT
};

static Arena *arena;
static Diag diag;

static void start(void) {
    arena = arena_new();
    diag_init(&diag);
}
static void finish(void) {
    for (size_t i = 0; i < diag.items.count; i++) printf("\n    %s", diag.items.data[i].text);
    CU_ASSERT_EQUAL(diag.errors + diag.bugs, 0);
    diag_free(&diag);
    arena_free(arena);
}

/* A product and a gather of one table, read both ways round. */
static const char tied_text[] = "gir 1 stage=stateful\n"
                                "symbol batch\nsymbol seq\nsymbol past\n"
                                "input %1 \"ids\" : i64[batch, seq] role=tokens\n"
                                "const %2 \"table\" : f32[37, 96] = seed(3)\n"
                                "const %3 \"inner\" : f32[96, 192] = seed(4)\n"
                                "const %4 \"small\" : f32[96, 31] = seed(5)\n"
                                "%5 : f32[batch, seq, 96] = gather(%2, %1)\n"
                                "%6 : f32[96, 96] = slice(%3)\n"
                                "%7 : f32[96, 96] = slice(%3) {starts=[0, 96]}\n"
                                "%8 : f32[batch, seq, 96] = linear(%5, %6)\n"
                                "%9 : f32[batch, seq, 96] = linear(%8, %7)\n"
                                "%10 : f32[96, 37] = transpose(%2) {perm=[1, 0]}\n"
                                "%11 : f32[batch, seq, 37] = linear(%9, %10)\n"
                                "output %11 \"logits\" role=logits\n";

static Graph *parse(const char *text) {
    Graph *g = graph_parse(text, strlen(text), NULL, NULL, arena, &diag);
    CU_ASSERT_PTR_NOT_NULL_FATAL(g);
    CU_ASSERT_TRUE(graph_verify(g, &diag));
    return g;
}

/* What takes 8 bits where that is faster: known of every format, and nothing is said of no format. */
static void test_costs(void) {
    CU_ASSERT_PTR_NULL(cpu_cost(NULL));
    for (const Format *f = format_table; f->name; f++) {
        const CpuCost *c = cpu_cost(f);
        CU_ASSERT_PTR_NOT_NULL_FATAL(c);
        CU_ASSERT_TRUE(c->plain > 0 && c->rounded > 0);
        if (f->vector > 1 || f->grid == GRID_F8)
            CU_ASSERT_TRUE(c->rounded >= c->plain); /* no kernel in integers */
    }
}

static void test_sites(void) {
    start();
    Graph *g = parse(tied_text);
    Site *s;
    CU_ASSERT_EQUAL_FATAL(sites_find(g, arena, &s), 3);
    CU_ASSERT_EQUAL(s[0].kind, SITE_HEAD);
    CU_ASSERT_TRUE(s[0].tied);
    CU_ASSERT_EQUAL(s[0].rows, 37);
    CU_ASSERT_EQUAL(s[0].cols, 96);
    CU_ASSERT_FALSE(s[0].transposed);
    CU_ASSERT_EQUAL(graph_node(g, s[0].user)->op, OP_LINEAR);
    CU_ASSERT_EQUAL(s[1].kind, SITE_LINEAR);
    CU_ASSERT_TRUE(s[1].transposed);
    CU_ASSERT_STRING_EQUAL(s[1].name, "inner");
    CU_ASSERT_STRING_EQUAL(s[2].name, "inner#2");
    CU_ASSERT_EQUAL(s[2].layer, -1);
    float *w = arena_array_of(arena, 37 * 96, float);
    CU_ASSERT_TRUE(site_read(g, &s[0], w, &diag));
    double x = 0;
    for (size_t i = 0; i < 37 * 96; i++)
        CU_ASSERT_TRUE(const_get_f64(g, s[0].weight, i, &x) && (float)x == w[i]);
    CU_ASSERT_TRUE(site_read(g, &s[2], w, &diag));
    ValId inner = graph_node(g, graph_def(g, s[2].weight))->in[0];
    CU_ASSERT_TRUE(const_get_f64(g, inner, 5 * 192 + 96 + 7, &x) && (float)x == w[7 * 96 + 5]);
    finish();
}

static const char *print(const Graph *g) {
    Text t = text_new(arena);
    graph_print(&t, g);
    return t.data;
}

static void check_reads(Graph *g, const Site *s, const float *want) {
    size_t n = (size_t)(s->rows * s->cols);
    float *got = arena_array_of(arena, n, float);
    CU_ASSERT_TRUE_FATAL(site_read(g, s, got, &diag));
    CU_ASSERT_EQUAL(memcmp(got, want, n * sizeof(float)), 0);
}

static bool passes(Graph *g, const char *names) {
    PassRun run = {.passes = names, .verify = true};
    PassOptions opt = {.kv_cache = true, .opt_level = 1};
    return passes_run(g, &run, &opt, NULL, &diag);
}

/* Written, the graph is sound, says what the format means, prints, parses, and no pass changes it. */
static void check_format(const Format *f, uint64_t seed) {
    Graph *g = parse(tied_text);
    Site *s;
    size_t n = sites_find(g, arena, &s);
    float *want[3];
    for (size_t i = 0; i < n; i++) {
        QuantMatrix q;
        CU_ASSERT_TRUE_FATAL(quant_new(f, s[i].rows, s[i].cols, arena, &q));
        formats_fill(&q, &seed);
        want[i] = arena_array_of(arena, (size_t)(q.rows * q.cols), float);
        quant_dense(&q, want[i]);
        if (i == 1)
            CU_ASSERT_TRUE_FATAL(site_write_dense(g, &s[i], want[i], DT_F16, &diag)); /* written twice */
        CU_ASSERT_TRUE_FATAL(site_write(g, &s[i], &q, &diag));
        check_reads(g, &s[i], want[i]);
    }
    CU_ASSERT_TRUE(graph_verify(g, &diag));
    CU_ASSERT_TRUE(passes(g, "dce"));
    const char *text = print(g);
    Graph *back = parse(text);
    CU_ASSERT_STRING_EQUAL(print(back), text);
    uint32_t before = graph_count_op(back, OP_DEQUANTIZE);
    CU_ASSERT_TRUE(passes(back, "fold,integers,simplify,cse,tie,dce"));
    CU_ASSERT_EQUAL(graph_count_op(back, OP_DEQUANTIZE), before);
    Site *again;
    CU_ASSERT_EQUAL_FATAL(sites_find(back, arena, &again), n);
    for (size_t i = 0; i < n; i++) {
        CU_ASSERT_TRUE(again[i].fixed);
        check_reads(back, &again[i], want[i]);
    }
}

static void test_graph(void) {
    for (const Format *f = format_table; f->name; f++) {
        start();
        check_format(f, 11 + (uint64_t)(f - format_table));
        finish();
    }
}

static void test_table(void) {
    start();
    CU_ASSERT_PTR_NULL(format_find("q4"));
    CU_ASSERT_STRING_EQUAL(format_find("n4g64")->name, "n4g64");
    QuantMatrix q;
    CU_ASSERT_FALSE(quant_new(format_find("p8v4"), 3, 34, arena, &q));
    CU_ASSERT_TRUE(quant_new(format_find("p8v4"), 3, 36, arena, &q));
    CU_ASSERT_EQUAL(format_stored_bits(format_find("q4g32"), 16, 64), 8 * (32 + 2 * (16 + 16 * 16)));
    CU_ASSERT_EQUAL(format_stored_bits(format_find("q4g32"), 17, 65), 8 * 2 * (32 + 3 * (16 + 16 * 16)));
    CU_ASSERT_EQUAL(format_stored_bits(format_find("n3g64"), 16, 64), 8 * (64 + 32 + 16 + 16 * 24));
    CU_ASSERT_EQUAL(format_stored_bits(format_find("q8"), 16, 33), 8 * (32 + 16 * 33));
    CU_ASSERT_EQUAL(format_stored_bits(format_find("p8v2"), 16, 34), 8 * (1024 + 32 + 16 * 17));
    CU_ASSERT_EQUAL(format_stored_bits(format_find("q2g32z"), 16, 32), 8 * (32 + 16 + 16 * 8));
    finish();
}

/* A trained model with its matrices in one format after the other, through the rest of the compiler and its gate. */
static void check_model(size_t first_format) {
    char out[64];
    Compile c;
    ImportOptions opt = {0};
    CompilePasses first = {.pass = {.kv_cache = true, .opt_level = 1}, .stop_after = "dce-split"},
                  rest = {.pass = first.pass, .passes = "fuse,order,memplan"};
    CompileWrite w = {.eos = -1, .seed = 1};
    CompileResult r;
    snprintf(out, sizeof out, "/tmp/gptc-formats-%d.bin", (int)getpid());
    compile_init(&c);
    CU_ASSERT_TRUE_FATAL(compile_open(&c, EXAMPLE, &opt) && compile_passes(&c, &first));
    Site *s;
    size_t n = sites_find(c.graph, c.arena, &s);
    uint64_t seed = 5, bits = 0;
    CU_ASSERT_TRUE(n > 4);
    for (size_t i = 0; i < n; i++) {
        QuantMatrix q;
        const Format *f = &format_table[(first_format + i) % FORMATS];
        CU_ASSERT_TRUE_FATAL(quant_new(f, s[i].rows, s[i].cols, c.arena, &q));
        formats_fill(&q, &seed);
        CU_ASSERT_TRUE_FATAL(site_write(c.graph, &s[i], &q, &c.diag));
        bits += format_stored_bits(f, s[i].rows, s[i].cols);
        if (first_format == 0) site_round(c.graph, &s[i], f->group ? f->group : s[i].cols);
    }
    c.imported = graph_copy(c.graph, c.arena);
    Program *p = NULL;
    CU_ASSERT_TRUE_FATAL(compile_passes(&c, &rest) && compile_lower(&c, compile_context(&c, 0), &p));
    for (size_t i = 0; i < p->tensors.count; i++)
        if (p->tensors.data[i].groups) bits -= 8 * p->tensors.data[i].art.bytes;
    CU_ASSERT_EQUAL(bits, 0); /* all are stored as their formats say */
    bool ok = compile_write(&c, EXAMPLE, out, compile_context(&c, 0), &w, &r);
    CU_ASSERT_TRUE(ok);
    for (size_t i = 0; i < c.diag.items.count; i++) printf("\n    %s", c.diag.items.data[i].text);
    unlink(out);
    compile_free(&c);
}

static void test_models(void) {
    for (size_t i = 0; i < FORMATS; i += 7) check_model(i);
}

/* infer and the verifier refuse what is none. */
static void test_refused(void) {
    static const struct {
        const char *codes, *scale, *grid, *attr, *result, *why;
    } bad[] = {
        {"u3[4, 8]", "f32[4]", "f32[16]", "", "f32[4, 8]", "an entry for every code"},
        {"u3[4, 8]", "f32[4]", "f64[8]", "", "f32[4, 8]", "an entry for every code"},
        {"i4[4, 8]", "f32[4]", "f32[16]", "", "f32[4, 8]", "unsigned"},
        {"u8[4, 8]", "f32[4]", "f32[256, 17]", "", "f32[4, 136]", "no fixed length"},
        {"u8[4, 8]", "f32[4, 1]", "f32[256, 2]", "{axis=1, block=8}", "f32[4, 16]", "does not fit"},
        {"u8[4, 8]", "f32[4]", "f32[256, 2]", "", "f32[4, 8]", ""},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        start();
        const char *text = arena_printf(arena,
                                        "gir 1 stage=imported\nsymbol batch\nsymbol seq\nsymbol past\n"
                                        "const %%1 : %s = seed(1)\nconst %%2 : %s = seed(2)\n"
                                        "const %%3 : %s = seed(3)\n"
                                        "%%4 : %s = dequantize(%%1, %%2, _, %%3) %s\noutput %%4 \"y\"\n",
                                        bad[i].codes, bad[i].scale, bad[i].grid, bad[i].result, bad[i].attr);
        Graph *g = graph_parse(text, strlen(text), NULL, NULL, arena, &diag);
        CU_ASSERT_TRUE(g == NULL || !graph_verify(g, &diag));
        CU_ASSERT_EQUAL_FATAL(diag.items.count, 1);
        CU_ASSERT_PTR_NOT_NULL(strstr(diag.items.data[0].text, bad[i].why));
        diag_free(&diag);
        arena_free(arena);
    }
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("formats", NULL, NULL);
    CU_add_test(s, "the table and stored bits", test_table);
    CU_add_test(s, "what products cost", test_costs);
    CU_add_test(s, "sites are found and read", test_sites);
    CU_add_test(s, "every format in the graph", test_graph);
    CU_add_test(s, "what is none is refused", test_refused);
    CU_add_test(s, "a model in all formats", test_models);
    return unit_end();
}
