/* test_sequences.c: sequences of tensors in ONNX files: what is made of known ones, and which are refused. */
#include "tests/unit/import_check.h"

/* x [N, 5] = 1 .. 10 at N = 2; what the graph's first output is then. */
static Tensor run(const Buf *g) {
    static float x[10] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    Tensor in = {DT_F32, 2, {2, 5}, x}, out = {0};
    int64_t bind[8] = {0, 0, 0, 0, 2};
    CU_ASSERT_TRUE_FATAL(import(g, NULL));
    EvalArgs args = {bind, model.graph->symbols.count, &in, 1, 0};
    CU_ASSERT_TRUE_FATAL(
        eval_graph(model.graph, &args, &model.graph->outputs.data[0].v, 1, &out, arena, &diag));
    return out;
}

#define GIVES(t, rank_, last, ...)                                                                           \
    do {                                                                                                     \
        const double want_[] = {__VA_ARGS__};                                                                \
        CU_ASSERT_EQUAL((t).rank, rank_);                                                                    \
        CU_ASSERT_EQUAL_FATAL((t).dim[(t).rank - 1], last);                                                  \
        for (size_t i_ = 0; i_ < sizeof(want_) / sizeof(*want_); i_++)                                       \
            CU_ASSERT_EQUAL(tensor_get_f64(&(t), i_), want_[i_]);                                            \
    } while (0)

static Buf graph_of_x(void) {
    Buf g = {.n = 0};
    put_info(&g, 11, "x", 1, "N,5");
    put_info(&g, 12, "y", 1, "");
    put_scalar(&g, "zero", 0);
    put_scalar(&g, "one", 1);
    put_scalar(&g, "two", 2);
    put_scalar(&g, "last", -1);
    return g;
}

static Buf axis_attr(const char *name, int64_t axis, const char *more, int64_t v) {
    Buf a = {.n = 0};
    attr_put_int(&a, name, axis);
    if (more != NULL) attr_put_int(&a, more, v);
    return a;
}

/* One length for all parts: the last is shorter. */
static void test_split_even(void) {
    start();
    Buf g = graph_of_x(), axis = axis_attr("axis", 1, "keepdims", 0);
    put_node(&g, "SplitToSequence", "x two", "s", &axis);
    put_node(&g, "SequenceAt", "s last", "a", NULL);
    put_node(&g, "SequenceAt", "s one", "b", NULL);
    put_node(&g, "Concat", "a b", "y", &axis);
    Tensor t = run(&g);
    GIVES(t, 2, 3, 5, 3, 4, 10, 8, 9);
    finish();
}

static void test_split_list(void) {
    start();
    Buf g = graph_of_x(), axis = axis_attr("axis", -1, NULL, 0);
    put_ints(&g, "lengths", (const int64_t[]){1, 4}, 2);
    put_node(&g, "SplitToSequence", "x lengths", "s", &axis);
    put_node(&g, "SequenceAt", "s one", "y", NULL);
    Tensor t = run(&g);
    GIVES(t, 2, 4, 2, 3, 4, 5, 7, 8, 9, 10);
    finish();
}

/* Parts of length 1 lose the axis, and get one again. */
static void test_split_ones(void) {
    start();
    Buf g = graph_of_x(), axis = axis_attr("axis", 1, "keepdims", 0),
        back = axis_attr("axis", -1, "new_axis", 1);
    put_node(&g, "SplitToSequence", "x", "s", &axis);
    put_node(&g, "SequenceErase", "s one", "t", NULL);
    put_node(&g, "ConcatFromSequence", "t", "y", &back);
    Tensor t = run(&g);
    GIVES(t, 2, 4, 1, 3, 4, 5, 6, 8, 9, 10);
    finish();
}

static void test_construct(void) {
    start();
    Buf g = graph_of_x(), axis = axis_attr("axis", 1, NULL, 0), to = axis_attr("to", 1, NULL, 0);
    put_node(&g, "Neg", "x", "n", NULL);
    put_node(&g, "SequenceConstruct", "x n", "s", NULL);
    put_node(&g, "SequenceInsert", "s n last", "t", NULL); /* x n n */
    put_node(&g, "SequenceInsert", "t x", "u", NULL);      /* x n n x */
    put_node(&g, "SequenceErase", "u zero", "v", NULL);    /* n n x */
    put_node(&g, "SequenceErase", "v -", "w", NULL);       /* n n */
    put_node(&g, "ConcatFromSequence", "w", "c", &axis);
    put_node(&g, "SequenceLength", "u", "length", NULL);
    put_node(&g, "Cast", "length", "factor", &to);
    put_node(&g, "Mul", "c factor", "y", NULL);
    Tensor t = run(&g);
    GIVES(t, 2, 10, -4, -8, -12, -16, -20, -4, -8, -12, -16, -20, -24);
    finish();
}

/* A loop that takes from one sequence and collects in another, which its body makes anew every round. */
static void test_loop(void) {
    start();
    Buf g = graph_of_x(), body = {.n = 0}, attrs = {.n = 0}, t, axis = axis_attr("axis", 1, NULL, 0);
    const uint8_t yes = 1;
    make_tensor(&t, "yes", 9, NULL, 0, &yes, 1);
    put_buf(&g, 5, &t);
    put_info(&body, 11, "i", 7, "");
    put_info(&body, 11, "go", 9, "");
    put_info(&body, 11, "list", 1, "");
    put_node(&body, "SequenceAt", "s i", "part", NULL);
    put_node(&body, "Add", "part part", "twice", NULL);
    put_node(&body, "SequenceInsert", "list twice zero", "longer", NULL);
    put_node(&body, "Identity", "go", "on", NULL);
    put_info(&body, 12, "on", 9, "");
    put_info(&body, 12, "longer", 1, "");
    attr_put_graph(&attrs, "body", &body);
    put_node(&g, "SplitToSequence", "x two", "s", &axis);
    put_node(&g, "SequenceEmpty", "", "none", NULL);
    put_node(&g, "Loop", "two yes none", "all", &attrs);
    put_node(&g, "Identity", "all", "same", NULL);
    put_node(&g, "ConcatFromSequence", "same", "y", &axis);
    Tensor out = run(&g);
    GIVES(out, 2, 4, 6, 8, 2, 4, 16, 18, 12, 14);
    finish();
}

/* ---- refused ---- */

static void refuse(const char *op, const char *in, const char *out, int64_t axis, const char *what) {
    start();
    Buf g = graph_of_x(), attrs = axis_attr("axis", axis, NULL, 0), even = axis_attr("axis", 1, NULL, 0);
    put_info(&g, 11, "n", 7, "");
    put_scalar(&g, "many", 3);
    put_node(&g, "SequenceEmpty", "", "none", NULL);
    put_node(&g, "SplitToSequence", "x two", "s", &even);
    put_node(&g, op, in, out, &attrs);
    if (strcmp(out, "y") != 0) put_node(&g, "SequenceAt", "t zero", "y", NULL);
    REFUSED(&g, what);
    CU_ASSERT_EQUAL(diag.errors, 1);
    finish();
}

static void test_refused(void) {
    refuse("SplitToSequence", "x", "t", 0, "how many parts there are must be known");
    refuse("SplitToSequence", "x zero", "t", 1, "how many parts there are must be known");
    refuse("SplitToSequence", "x n", "t", 1, "the length of the parts must be known");
    refuse("SequenceAt", "s n", "y", 0, "the position must be known");
    refuse("SequenceAt", "s many", "y", 0, "position 3 is outside a sequence of 3 tensors");
    refuse("SequenceAt", "none zero", "y", 0, "outside a sequence of 0 tensors");
    refuse("SequenceAt", "x zero", "y", 0, "input 0 is no sequence");
    refuse("ConcatFromSequence", "none", "y", 0, "the sequence is empty");
    refuse("SequenceErase", "none", "t", 0, "outside a sequence of 0 tensors");
    refuse("SequenceInsert", "s s", "t", 0, "sequences of sequences");
    refuse("Neg", "s", "y", 0, "Neg: input 0 is a sequence of tensors");
    refuse("Shape", "s", "y", 0, "Shape: input 0 is a sequence of tensors");
    refuse("Identity", "s", "y", 0, "is a sequence of tensors where a tensor is needed");
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite made = CU_add_suite("known when compiling", NULL, NULL);
    CU_add_test(made, "parts of one length", test_split_even);
    CU_add_test(made, "parts of listed lengths", test_split_list);
    CU_add_test(made, "parts of length 1", test_split_ones);
    CU_add_test(made, "construct, insert, erase, length", test_construct);
    CU_add_test(made, "collected by a loop", test_loop);
    CU_pSuite bad = CU_add_suite("refused", NULL, NULL);
    CU_add_test(bad, "not known, or no sequence", test_refused);
    return unit_end();
}
