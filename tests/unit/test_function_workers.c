/* test_function_workers.c: results do not depend on the number of workers: every kind of op on tensors large enough
 * to be shared out, on 1, 2 and 5 workers, bit for bit. What the results are is tested in test_function_ops.c. */
#include "tests/unit/function_check.h"

enum { OUTER = 24, LEN = 130, INNER = 37, CELLS = OUTER * LEN * INNER };
static float x[CELLS], vector[INNER];
static double wide[CELLS];
static int64_t whole[CELLS];

static const gptc_tensor cube = {GPTC_F32, 3, {OUTER, LEN, INNER}, x};
static const gptc_tensor wide_cube = {GPTC_F64, 3, {OUTER, LEN, INNER}, wide};
static const gptc_tensor whole_cube = {GPTC_I64, 3, {OUTER, LEN, INNER}, whole};
static const gptc_tensor row = {GPTC_F32, 1, {INNER}, vector};

static int setup(void) {
    Tiny random = {.random = 5};
    for (int i = 0; i < CELLS; i++) {
        x[i] = (float)tiny_random(&random);
        wide[i] = tiny_random(&random) * 3;
        whole[i] = (int64_t)(tiny_random(&random) * 1000);
    }
    for (int i = 0; i < INNER; i++) vector[i] = (float)tiny_random(&random);
    return 0;
}

static uint32_t input_of(Fn *f, const gptc_tensor *t) {
    uint32_t dim[ART_MAX_RANK];
    for (int32_t i = 0; i < t->rank; i++) dim[i] = fn_dim(f, t->dim[i]);
    return f->inputs[f->head.n_inputs++] =
               fn_value_of(f, ART_V_INPUT, (uint32_t)t->dtype, (uint32_t)t->rank, dim);
}

/* One op on one or two inputs; its result has this dtype and these lengths. */
static void same_on_all(ArtNode node, const gptc_tensor *in, uint32_t n, gptc_tensor out) {
    static const int32_t workers[] = {1, 2, 5};
    Fn *f = fn_new();
    uint32_t v[2], dim[ART_MAX_RANK];
    for (uint32_t i = 0; i < n; i++) v[i] = input_of(f, &in[i]);
    for (int32_t i = 0; i < out.rank; i++) dim[i] = fn_dim(f, out.dim[i]);
    uint32_t to = fn_value_of(f, ART_V_RESULT, (uint32_t)out.dtype, (uint32_t)out.rank, dim);
    ArtNode *k = fn_node(f, node.op, to, n, v[0], v[n - 1]);
    k->axis = node.axis;
    k->axes = node.axes;
    k->eps = node.eps;
    k->diagonal = node.diagonal;
    memcpy(k->perm, node.perm, sizeof k->perm);
    fn_output(f, to);
    uint8_t *first = NULL;
    for (int i = 0; i < 3; i++) {
        gptc_model *m;
        gptc_function *g;
        gptc_detail why = {""};
        gptc_function_options o = {.threads = workers[i]};
        CU_ASSERT_EQUAL_FATAL(fn_open(f, 0, &m, &why), GPTC_OK);
        CU_ASSERT_EQUAL_FATAL(gptc_function_new(m, &o, &g, &why), GPTC_OK);
        gptc_status st = gptc_function_run(g, in, (int32_t)n, &why);
        if (st) fprintf(stderr, "%s: %s\n", nd_name(node.op), why.text);
        CU_ASSERT_EQUAL_FATAL(st, GPTC_OK);
        const gptc_tensor *y = gptc_function_output(g, 0);
        size_t bytes = nd_size((uint32_t)y->dtype);
        for (int32_t r = 0; r < y->rank; r++) bytes *= (size_t)y->dim[r];
        if (!first) first = memcpy(malloc(bytes), y->data, bytes);
        CU_ASSERT_EQUAL(memcmp(first, y->data, bytes), 0);
        gptc_function_free(g);
        gptc_close(m);
    }
    free(first);
    fn_free(f);
}

#define N(OP, ...) ((ArtNode){.op = ART_FN_##OP, __VA_ARGS__})
#define LIKE(t) ((gptc_tensor){t, 3, {OUTER, LEN, INNER}, NULL})

static void test_pointwise(void) {
    const gptc_tensor pair[2] = {cube, row}, ints[2] = {whole_cube, whole_cube},
                      doubles[2] = {wide_cube, wide_cube};
    same_on_all(N(EXP, 0), &cube, 1, LIKE(GPTC_F32));
    same_on_all(N(ADD, 0), pair, 2, LIKE(GPTC_F32));
    same_on_all(N(LT, 0), pair, 2, LIKE(GPTC_BOOL));
    same_on_all(N(MUL, 0), ints, 2, LIKE(GPTC_I64));
    same_on_all(N(DIV, 0), doubles, 2, LIKE(GPTC_F64));
    same_on_all(N(CAST, 0), &wide_cube, 1, LIKE(GPTC_I8));
    same_on_all(N(CAST, 0), &cube, 1, LIKE(GPTC_F16));
}

static void test_move(void) {
    const gptc_tensor two[2] = {cube, cube};
    same_on_all(N(TRANSPOSE, .perm = {2, 0, 1}), &cube, 1,
                (gptc_tensor){GPTC_F32, 3, {INNER, OUTER, LEN}, NULL});
    same_on_all(N(TRANSPOSE, .perm = {0, 2, 1}), &whole_cube, 1,
                (gptc_tensor){GPTC_I64, 3, {OUTER, INNER, LEN}, NULL});
    same_on_all(N(CONCAT, .axis = 1), two, 2, (gptc_tensor){GPTC_F32, 3, {OUTER, 2 * LEN, INNER}, NULL});
    same_on_all(N(BROADCAST, 0), &row, 1, LIKE(GPTC_F32));
    same_on_all(N(TRIL, .diagonal = 3), &cube, 1, LIKE(GPTC_F32));
}

static void test_lines(void) {
    const gptc_tensor pair[2] = {cube, row};
    for (uint32_t axis = 0; axis < 3; axis++) {
        gptc_tensor without = {GPTC_F32, 2, {axis == 0 ? LEN : OUTER, axis == 2 ? LEN : INNER}, NULL},
                    index = without;
        index.dtype = GPTC_I64;
        same_on_all(N(REDUCE_SUM, .axes = 1u << axis), &cube, 1, without);
        same_on_all(N(ARGMAX, .axis = axis), &cube, 1, index);
        same_on_all(N(SOFTMAX, .axis = axis), &cube, 1, LIKE(GPTC_F32));
        same_on_all(N(SOFTMAX, .axis = axis), &wide_cube, 1, LIKE(GPTC_F64));
        same_on_all(N(CUMSUM, .axis = axis), &whole_cube, 1, LIKE(GPTC_I64));
    }
    same_on_all(N(REDUCE_MAX, .axes = 5), &wide_cube, 1, (gptc_tensor){GPTC_F64, 1, {LEN}, NULL});
    same_on_all(N(NORM, .eps = 1e-5f), pair, 2, LIKE(GPTC_F32));
}

static void test_products(void) {
    static const uint32_t dtypes[] = {ART_F32, ART_F64, ART_I64};
    const void *data[] = {x, wide, whole};
    for (int i = 0; i < 3; i++) {
        gptc_dtype t = (gptc_dtype)dtypes[i];
        const gptc_tensor in[2] = {{t, 3, {OUTER, LEN, INNER}, data[i]},
                                   {t, 3, {OUTER, INNER, LEN}, data[i]}};
        same_on_all(N(MATMUL, 0), in, 2, (gptc_tensor){t, 3, {OUTER, LEN, LEN}, NULL});
        const gptc_tensor one[2] = {in[0], {t, 2, {INNER, 50}, data[i]}};
        same_on_all(N(MATMUL, 0), one, 2, (gptc_tensor){t, 3, {OUTER, LEN, 50}, NULL});
    }
    const gptc_tensor halves[2] = {{GPTC_F16, 2, {LEN, INNER}, whole}, {GPTC_F16, 2, {INNER, 300}, whole}};
    same_on_all(N(MATMUL, 0), halves, 2, (gptc_tensor){GPTC_F16, 2, {LEN, 300}, NULL});
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("workers of functions", setup, NULL);
    CU_add_test(s, "pointwise", test_pointwise);
    CU_add_test(s, "movement", test_move);
    CU_add_test(s, "lines", test_lines);
    CU_add_test(s, "products", test_products);
    return unit_end();
}
