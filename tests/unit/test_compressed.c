/* test_compressed.c: compressed weights that a file holds in another shape than the operators ask for. */
#include <unistd.h>

#include "tests/unit/import_check.h"

enum { VOCAB = 600, WIDTH = 32, PACKED = VOCAB * WIDTH / 2 };
static uint8_t table[PACKED];

static double weight(int64_t row, int64_t column) {
    return ((table[(row * WIDTH + column) / 2] >> (column % 2 * 4) & 15) - 8) * 0.5;
}

/* A table of 4 bits that the embedding reads through a Reshape and the head in two ways. */
static Buf tied_graph(const char *head) {
    Buf g = {.n = 0}, t, gather = {.n = 0}, product = {.n = 0};
    static float scales[VOCAB];
    for (size_t i = 0; i < VOCAB; i++) scales[i] = 0.5f;
    for (size_t i = 0; i < PACKED; i++) table[i] = (uint8_t)(i * 37 % 251);
    put_info(&g, 11, "ids", 7, "B,S");
    make_tensor(&t, "table", 2, (const int64_t[]){VOCAB, 1, WIDTH / 2}, 3, table, PACKED);
    put_buf(&g, 5, &t);
    put_floats(&g, "scales", (const int64_t[]){VOCAB, 1}, 2, scales);
    put_ints(&g, "shape", (const int64_t[]){VOCAB, WIDTH / 2}, 2);
    attr_put_int(&gather, "bits", 4);
    attr_put_int(&gather, "block_size", WIDTH);
    attr_put_int(&product, "K", WIDTH);
    attr_put_int(&product, "N", VOCAB);
    attr_put_int(&product, "block_size", WIDTH);
    put_node(&g, "Reshape", "table shape", "rows", NULL);
    put_node_in(&g, 1, "com.microsoft", "GatherBlockQuantized", "rows ids scales", "x", &gather);
    put_node_in(&g, 1, "com.microsoft", "MatMulNBits", head, "logits", &product);
    put_info(&g, 12, "logits", 1, "B,S,600");
    return g;
}

/* The model's import of ONNX Runtime's operators. */
static Buf domain_field(void) {
    Buf o = {.n = 0}, field = {.n = 0};
    put_text(&o, 1, "com.microsoft");
    put_int(&o, 2, 1);
    put_buf(&field, 8, &o);
    return field;
}

/* From a file: its large constants stay there, and nothing is folded that would copy them. */
static bool import_file(const Buf *graph) {
    char path[] = "/tmp/gptc-test-XXXXXX";
    Buf m, domain = domain_field();
    int file = mkstemp(path);
    CU_ASSERT_TRUE_FATAL(file >= 0);
    make_model(&m, 18, graph, &domain);
    CU_ASSERT_EQUAL(write(file, m.data, m.n), (ssize_t)m.n);
    close(file);
    imported = onnx_import(path, NULL, arena, &model, &diag);
    unlink(path);
    return imported;
}

static void tied(const char *head) {
    start();
    Buf g = tied_graph(head);
    CU_ASSERT_TRUE_FATAL(import_file(&g));
    Graph *gr = model.graph;
    CU_ASSERT_TRUE(graph_verify(gr, &diag));
    CU_ASSERT_EQUAL_FATAL(gr->inputs.count, 1);
    CU_ASSERT_EQUAL(gr->inputs.data[0].role, ROLE_TOKENS);
    CU_ASSERT_EQUAL(gr->outputs.data[0].role, ROLE_LOGITS);
    int64_t ids[2] = {3, 599}, bind[8] = {0, 1, 2, 0};
    Tensor in = {DT_I64, 2, {1, 2}, ids}, out;
    EvalArgs args = {bind, gr->symbols.count, &in, 1, 0};
    CU_ASSERT_TRUE_FATAL(eval_graph(gr, &args, &gr->outputs.data[0].v, 1, &out, arena, &diag));
    for (int64_t i = 0; i < 2; i++)
        for (int64_t n = 0; n < VOCAB; n++) {
            double sum = 0;
            for (int64_t k = 0; k < WIDTH; k++) sum += weight(ids[i], k) * weight(n, k);
            CU_ASSERT_EQUAL(tensor_get_f64(&out, (size_t)(i * VOCAB + n)), sum);
        }
    finish();
}

static void test_tied(void) {
    tied("x table scales");
    tied("x rows scales");
}

static void test_computed(void) {
    start();
    Buf g = {.n = 0}, product = {.n = 0};
    put_info(&g, 11, "x", 1, "N,32");
    put_info(&g, 11, "w", 2, "16,16");
    put_floats(&g, "scales", (const int64_t[]){16, 1}, 2, (const float[16]){0});
    put_ints(&g, "shape", (const int64_t[]){16, 1, 16}, 3);
    attr_put_int(&product, "K", 32);
    attr_put_int(&product, "N", 16);
    attr_put_int(&product, "block_size", 32);
    put_node(&g, "Reshape", "w shape", "rows", NULL);
    put_node_in(&g, 1, "com.microsoft", "MatMulNBits", "x rows scales", "y", &product);
    put_info(&g, 12, "y", 1, "N,16");
    Buf domain = domain_field();
    CU_ASSERT_FALSE(import(&g, &domain));
    CU_ASSERT_TRUE(said("weights are computed; only constant ones are supported"));
    CU_ASSERT_EQUAL(diag.errors, 1);
    finish();
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("compressed weights", NULL, NULL);
    CU_add_test(s, "reshaped, and shared by the head", test_tied);
    CU_add_test(s, "computed ones are refused", test_computed);
    return unit_end();
}
