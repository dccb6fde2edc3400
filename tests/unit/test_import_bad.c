/* test_import_bad.c: files that the ONNX import refuses, and with which message. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/import_check.h"
#include "tests/unit/unit.h"

static void test_unsupported(void) {
    start();
    Buf g = {.n = 0};
    put_info(&g, 11, "x", 1, "N");
    put_node(&g, "NoSuchOp", "x", "t", NULL);
    put_node_in(&g, 1, "com.microsoft", "LongformerAttention", "t", "u", NULL);
    put_node(&g, "Unique", "u", "y", NULL);
    put_info(&g, 12, "y", 1, "N");
    CU_ASSERT_FALSE(import(&g, NULL));
    CU_ASSERT_EQUAL(diag.errors, 3);
    CU_ASSERT_TRUE(said("operator NoSuchOp of domain 'ai.onnx', opset 18, is not supported"));
    CU_ASSERT_TRUE(said("LongformerAttention of domain 'com.microsoft'"));
    CU_ASSERT_TRUE(said("hint: the result's size depends on data"));
    finish();
}

static void refuse_tensor(int type, const int64_t *dims, size_t rank, const void *raw, size_t bytes,
                          const char *what) {
    start();
    Buf g = {.n = 0}, t;
    make_tensor(&t, "w", type, dims, rank, raw, bytes);
    put_buf(&g, 5, &t);
    put_node(&g, "Identity", "w", "y", NULL);
    put_info(&g, 12, "y", 1, "");
    REFUSED(&g, what);
    finish();
}

static void test_bad_tensors(void) {
    const float v[4] = {0};
    const int64_t huge = (int64_t)1 << 62;
    refuse_tensor(1, (const int64_t[]){-1}, 1, v, 4, "negative length -1");
    refuse_tensor(1, (const int64_t[]){huge, huge}, 2, v, 4, "more elements than memory");
    refuse_tensor(1, (const int64_t[]){huge}, 1, v, 4, "more bytes than memory");
    refuse_tensor(1, (const int64_t[]){(int64_t)1 << 40}, 1, v, 16, "needs 4398046511104 bytes, holds 16");
    refuse_tensor(1, (const int64_t[]){3}, 1, v, 16, "needs 12 bytes, holds 16");
    refuse_tensor(1, (const int64_t[]){4}, 1, NULL, 0, "needs 4 elements, holds 0");
    refuse_tensor(8, (const int64_t[]){1}, 1, v, 4, "element type 8 is not supported");
    refuse_tensor(0, (const int64_t[]){1}, 1, v, 4, "element type 0 is not supported");
    refuse_tensor(1, (const int64_t[]){1, 1, 1, 1, 1, 1, 1, 1, 1}, 9, v, 4, "rank 9 is above");
}

static void put_entry(Buf *t, const char *key, const char *value) {
    Buf e = {.n = 0};
    put_text(&e, 1, key);
    put_text(&e, 2, value);
    put_buf(t, 13, &e);
}

static Buf external_graph(const char *location, const char *offset, const char *length) {
    Buf g = {.n = 0}, t;
    make_tensor(&t, "w", 1, (const int64_t[]){4}, 1, NULL, 0);
    put_int(&t, 14, 1);
    if (location != NULL) put_entry(&t, "location", location);
    if (offset != NULL) put_entry(&t, "offset", offset);
    if (length != NULL) put_entry(&t, "length", length);
    put_buf(&g, 5, &t);
    put_node(&g, "Identity", "w", "y", NULL);
    put_info(&g, 12, "y", 1, "4");
    return g;
}

static void refuse_external(const char *dir, const char *location, const char *offset, const char *length,
                            const char *what) {
    start();
    folder = dir;
    Buf g = external_graph(location, offset, length);
    REFUSED(&g, what);
    finish();
}

static void write_file(const char *path, size_t bytes) {
    FILE *f = fopen(path, "wb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    for (size_t i = 0; i < bytes; i++) fputc((int)(i & 0x3f), f);
    fclose(f);
}

static void test_external_data(void) {
    char dir[] = "/tmp/gptc-test-XXXXXX", inner[64], path[96], outside[64], link[96];
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
    snprintf(inner, sizeof(inner), "%s/model", dir);
    snprintf(path, sizeof(path), "%s/data.bin", inner);
    snprintf(outside, sizeof(outside), "%s/secret.bin", dir);
    snprintf(link, sizeof(link), "%s/link.bin", inner);
    CU_ASSERT_EQUAL_FATAL(mkdir(inner, 0700), 0);
    write_file(path, 24);
    write_file(outside, 24);
    CU_ASSERT_EQUAL_FATAL(symlink(outside, link), 0);

    start();
    folder = inner;
    Buf g = external_graph("data.bin", "8", "16");
    CU_ASSERT_TRUE_FATAL(import(&g, NULL));
    const Const *k = graph_constant(model.graph, model.graph->outputs.data[0].v);
    CU_ASSERT_PTR_NOT_NULL_FATAL(k);
    CU_ASSERT_EQUAL(k->bytes, 16);
    CU_ASSERT_EQUAL(((const uint8_t *)k->data)[0], 8);
    finish();

    refuse_external(inner, "../secret.bin", NULL, NULL, "not a file beside the model");
    refuse_external(inner, outside, NULL, NULL, "not a file beside the model");
    refuse_external(inner, "link.bin", NULL, NULL, "not a file beside the model");
    refuse_external(inner, "absent.bin", NULL, NULL, "not a file beside the model");
    refuse_external(inner, NULL, NULL, NULL, "without a location");
    refuse_external(inner, "data.bin", "12", NULL, "lie outside");
    refuse_external(inner, "data.bin", "18446744073709551615", NULL, "lie outside");
    refuse_external(inner, "data.bin", "-4", NULL, "not a number");
    refuse_external(inner, "data.bin", "0", "99999999999", "declares 99999999999");
    refuse_external(NULL, "data.bin", NULL, NULL, "not allowed here");
    unlink(link);
    unlink(path);
    unlink(outside);
    rmdir(inner);
    rmdir(dir);
}

static void test_bad_names(void) {
    start();
    Buf g = add_graph();
    put_node(&g, "Neg", "x", "y", NULL);
    REFUSED(&g, "output 'y' is defined twice");
    finish();
    start();
    g = add_graph();
    put_floats(&g, "c", (const int64_t[]){1}, 1, (const float[]){1});
    REFUSED(&g, "initializer 'c' is defined twice");
    finish();
    start();
    g = add_graph();
    put_info(&g, 11, "x", 1, "N");
    REFUSED(&g, "input 'x' is declared twice");
    finish();
    start();
    g = add_graph();
    put_node(&g, "Neg", "nobody", "z", NULL);
    REFUSED(&g, "input 'nobody' is not defined");
    finish();
    start();
    g = add_graph();
    put_info(&g, 12, "nothing", 1, "");
    REFUSED(&g, "output 'nothing' is not defined");
    finish();
    start();
    g = add_graph();
    put_info(&g, 12, "y", 1, "N,2");
    REFUSED(&g, "output 'y' is declared twice");
    finish();
    start();
    g = (Buf){.n = 0};
    put_info(&g, 11, "x", 1, "N");
    put_node(&g, "Add", "x b", "a", NULL);
    put_node(&g, "Neg", "a", "b", NULL);
    put_info(&g, 12, "b", 1, "N");
    REFUSED(&g, "cycle");
    finish();
}

static void test_bad_inputs(void) {
    start();
    Buf g = {.n = 0};
    put_info(&g, 11, "x", 1, "-3");
    put_node(&g, "Neg", "x", "y", NULL);
    put_info(&g, 12, "y", 1, "N");
    REFUSED(&g, "negative length -3");
    finish();
    start();
    g = (Buf){.n = 0};
    put_info(&g, 11, "x", 8, "N");
    put_node(&g, "Neg", "x", "y", NULL);
    put_info(&g, 12, "y", 1, "N");
    REFUSED(&g, "element type 8 is not supported");
    finish();
    /* Wrong element types of operands are found when the op is made. */
    start();
    g = (Buf){.n = 0};
    put_info(&g, 11, "x", 1, "N");
    put_info(&g, 11, "i", 7, "N");
    put_node(&g, "Add", "x i", "y", NULL);
    put_info(&g, 12, "y", 1, "N");
    REFUSED(&g, "different dtypes");
    finish();
    start();
    g = (Buf){.n = 0};
    put_info(&g, 11, "x", 1, "2,3");
    put_ints(&g, "to", (const int64_t[]){4, 2}, 2);
    put_node(&g, "Reshape", "x to", "y", NULL);
    put_info(&g, 12, "y", 1, "4,2");
    REFUSED(&g, "the target does not fit");
    finish();
    start();
    g = (Buf){.n = 0};
    put_info(&g, 11, "x", 1, "2,3");
    put_node(&g, "Add", "x", "y", NULL);
    put_info(&g, 12, "y", 1, "2,3");
    REFUSED(&g, "input 1 is missing");
    finish();
}

static void test_not_onnx(void) {
    static const char *const texts[] = {"", "hello, world", "\x3a\xff\xff\xff\xff\x0f", "\x08\x08"};
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        start();
        const uint8_t *data = (const uint8_t *)texts[i];
        CU_ASSERT_FALSE(onnx_import_bytes(data, strlen(texts[i]), NULL, NULL, arena, &model, &diag));
        CU_ASSERT_TRUE(diag.errors > 0);
        finish();
    }
    start();
    CU_ASSERT_FALSE(onnx_import("/nonexistent/model.onnx", NULL, arena, &model, &diag));
    CU_ASSERT_TRUE(said("cannot open"));
    finish();
}

/* If inside If inside If ...: refused by depth, in the scan or after it. */
static void test_deep_nesting(void) {
    static const int depths[] = {10, 25};
    for (size_t k = 0; k < COUNT_OF(depths); k++) {
        start();
        Buf g = branch("Neg"), *next = malloc(sizeof(*next)), *attrs = malloc(sizeof(*attrs));
        for (int i = 0; i < depths[k]; i++) {
            *next = (Buf){.n = 0};
            *attrs = (Buf){.n = 0};
            attr_put_graph(attrs, "then_branch", &g);
            put_node(next, "If", "flag", "out", attrs);
            put_info(next, 12, "out", 1, "N");
            g = *next;
        }
        put_info(&g, 11, "x", 1, "N");
        put_info(&g, 11, "flag", 9, "");
        REFUSED(&g, k == 0 ? "condition is not known" : "nested too deeply");
        free(next);
        free(attrs);
        finish();
    }
}

/* Every prefix, and many files with a few bytes changed: any answer but a crash will do. */
static void test_damage(void) {
    Buf g = cached_graph(), m, damaged;
    make_model(&m, 18, &g, NULL);
    for (size_t n = 0; n < m.n; n++) {
        start();
        imported = onnx_import_bytes(m.data, n, NULL, NULL, arena, &model, &diag);
        CU_ASSERT_TRUE(imported || diag.errors > 0);
        finish();
    }
    uint64_t state = 1;
    for (int round = 0; round < 4000; round++) {
        memcpy(&damaged, &m, sizeof(m));
        for (int k = 0; k < 1 + round % 4; k++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            damaged.data[(state >> 33) % m.n] = (uint8_t)(state >> 20);
        }
        start();
        imported = onnx_import_bytes(damaged.data, m.n, NULL, NULL, arena, &model, &diag);
        CU_ASSERT_TRUE(imported || diag.errors > 0);
        CU_ASSERT_EQUAL(diag.bugs, 0);
        if (diag.bugs != 0) printf("\n    round %d: %s\n", round, diag.items.data[0].text);
        finish();
    }
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite bad = CU_add_suite("refused", NULL, NULL);
    CU_add_test(bad, "unsupported ops, all at once", test_unsupported);
    CU_add_test(bad, "tensors", test_bad_tensors);
    CU_add_test(bad, "external data", test_external_data);
    CU_add_test(bad, "names and cycles", test_bad_names);
    CU_add_test(bad, "inputs and types", test_bad_inputs);
    CU_add_test(bad, "not ONNX at all", test_not_onnx);
    CU_add_test(bad, "deep nesting", test_deep_nesting);
    CU_add_test(bad, "truncated and damaged files", test_damage);
    return unit_end();
}
