/* test_infer.c: result types, and what contradicts them.
 *
 * The text form states every node's type and the parser compares it with the inferred one, so a
 * text that parses is a test of the types in it. */
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

static const char *const header = "gir 1 stage=raised\n"
                                  "symbol batch\nsymbol seq\nsymbol past\n"
                                  "input %1 \"ids\" : i64[batch, seq]\n"
                                  "input %2 \"x\" : f32[batch, seq, 12]\n"
                                  "input %3 \"q\" : f32[batch, seq, 4, 8]\n"
                                  "input %4 \"k\" : f32[batch, past, 2, 8]\n"
                                  "input %5 \"k1\" : f32[batch, seq, 2, 8]\n"
                                  "input %6 \"m\" : bool[batch, 1, seq, past + seq]\n"
                                  "const %7 : f32[12, 5] = splat(1)\n"
                                  "const %8 : f32[5] = splat(1)\n"
                                  "const %9 : f32[12] = splat(1)\n"
                                  "const %10 : f32[9, 3] = splat(1)\n"
                                  "const %11 : i64[] = {1}\n"
                                  "const %12 : f32[] = {1}\n"
                                  "const %13 : f16[12] = splat(1)\n"
                                  "const %14 : bool[3, 2] = splat(true)\n"
                                  "const %15 : i32[3, 2] = splat(1)\n"
                                  "const %16 : f32[4] = splat(1)\n"
                                  "const %17 : f32[2, 1, 2, 1, 2, 1, 2] = splat(1)\n"
                                  "input %18 \"m2\" : f32[batch, 4, past, 1]\n"
                                  "%20 : f32[batch, past + seq, 2, 8] = concat(%4, %5) {axis=1}\n";

static bool parses(const char *lines) {
    const char *text = arena_printf(arena, "%s%s\n", header, lines);
    return graph_parse(text, strlen(text), "test", NULL, arena, &diag) != NULL;
}

static const char *last_error(void) {
    return diag.items.count == 0 ? "no error" : diag.items.data[diag.items.count - 1].text;
}

static void expect_types(const char *lines) {
    bool ok = parses(lines);
    if (!ok) printf("\n    %s: %s", lines, last_error());
    CU_ASSERT_TRUE(ok);
}

static void expect_error(const char *line, const char *error) {
    bool found = !parses(arena_printf(arena, "%%30 : %s", line)) && strstr(last_error(), error) != NULL;
    if (!found) printf("\n    %s: \"%s\", expected \"%s\"", line, last_error(), error);
    CU_ASSERT_TRUE(found);
    diag_free(&diag);
    diag_init(&diag);
}

static void test_types(void) {
    static const char *const lines[] = {
        "%30 : f32[batch, seq, 12] = add(%2, %12)",
        "%30 : f32[batch, seq, 12] = mul(%9, %2)",
        "%30 : bool[batch, seq, 12] = lt(%2, %9)",
        "%30 : bool[batch, seq, 12] = isnan(%2)",
        "%30 : f16[batch, seq, 12] = cast(%2)",
        "%30 : f32[batch, seq, 12] = pow(%2, %11)",
        "%30 : i64[] = dim() {value=past + seq}",
        "%30 : i64[seq, past] = iota() {axis=1}",
        "%30 : f32[batch*seq, 12] = reshape(%2)",
        "%30 : f32[seq, batch, 3, 4] = reshape(%2)",
        "%30 : f32[12, batch, seq] = transpose(%2) {perm=[2, 0, 1]}",
        "%30 : f32[batch, 4, 12] = broadcast(%9)",
        "%30 : f32[batch, 1, 12] = slice(%2) {starts=[0, -1 + seq, 0]}",
        "%30 : f32[batch, 2*seq, 12] = concat(%2, %2) {axis=1}",
        "%30 : f32[batch, past + seq, 12] = pad(%2, %12) {starts=[0, past, 0]}",
        "%30 : f32[batch, seq, 5] = gather(%7, %1)",
        "%30 : f32[12, batch, seq] = gather(%7, %1) {axis=1}",
        "%30 : f32[12] = gather(%7, %11) {axis=1}",
        "%30 : f32[3] = gather_nd(%7, %15)",
        "%30 : f32[3, 2] = gather_elements(%7, %15)",
        "%30 : f32[batch, 12] = reduce_mean(%2) {axes=[1]}",
        "%30 : f32[batch, 1, 1] = reduce_sum(%2) {axes=[1, 2], keep=true}",
        "%30 : bool[2] = reduce_max(%14) {axes=[0]}",
        "%30 : i64[batch, seq] = argmax(%2) {axis=2}",
        "%30, %31 : f32[batch, seq, 3], i64[batch, seq, 3] = topk(%2) {axis=2, count=3}",
        "%30 : f32[batch, seq, 5] = matmul(%2, %7)",
        "%30 : f32[batch, seq] = matmul(%2, %9)",
        "%30 : f32[5] = matmul(%9, %7)",
        "%30 : f32[] = matmul(%9, %9)",
        "%30 : f32[batch, seq, 5] = linear(%2, %7, %8)",
        "%30 : f32[batch, seq, 12] = norm(%2, %9, %13)",
        "%30 : f32[batch, seq, 12] = norm(%2, _, %9) {rms=true}",
        "%30 : i64[seq] = iota()\n%31 : f32[batch, seq, 4, 8] = rope(%3, %10, %10, %30)",
        "%30 : f32[batch, seq, 4, 8] = attention(%3, %20, %20, %6, %16, %16) {causal=true}",
        "%30 : f32[batch, seq, 4, 8] = attention(%3, %4, %4, _, _, %16)",
    };
    for (size_t i = 0; i < COUNT_OF(lines); i++) expect_types(lines[i]);
}

static void test_elementwise_errors(void) {
    expect_error("f32[batch, seq, 12] = add(%2, %13)",
                 "add: operands have different dtypes; operands f32[batch, seq, 12], f16[12]");
    expect_error("f32[batch, seq, 12] = rounded(%2) {block=5}",
                 "rounded: the last axis is no whole number of blocks");
    expect_error("f32[batch, seq, 12] = rounded(%2)", "rounded: the last axis is no whole number of blocks");
    expect_error("f16[12] = rounded(%13) {block=12}", "rounded: only f32 is rounded, along an axis");
    expect_error("f32[batch, seq, 12] = add(%2, %8)", "add: shapes do not broadcast");
    expect_error("f32[batch, seq, 12] = add(%2)", "add takes 2 operands, not 1");
    expect_error("f32[batch, seq, 12] = add(%2, _)", "operand 2 of add is missing");
    expect_error("bool[3, 2] = add(%14, %14)", "add: not defined for this dtype");
    expect_error("f32[] = and(%12, %12)", "and: not defined for this dtype");
    expect_error("bool[3, 2] = lt(%14, %14)", "lt: not defined for this dtype");
    expect_error("i64[] = exp(%11)", "exp: not defined for this dtype");
    expect_error("f32[] = not(%12)", "not: not defined for this dtype");
    expect_error("bool[] = isinf(%11)", "isinf: not defined for this dtype");
    expect_error("f32[] = where(%12, %12, %12)", "where: the condition is not bool");
    expect_error("f32[3, 2] = where(%14, %12, %11)", "where: operands have different dtypes");
    expect_error("f32[3, 2] = where(%14, %9, %12)", "where: shapes do not broadcast");
    expect_error("bool[3, 2] = pow(%14, %11)", "pow: not defined for this dtype");
    expect_error("f16[seq, batch, 12] = cast(%2)",
                 "cast: the result's shape is not the operand's; operands f32[batch, seq, 12], result "
                 "f16[seq, batch, 12]");
    expect_error("f32[] = dim() {value=3}", "dim: the result is not an integer scalar; result f32[]");
    expect_error("f32[3] = iota() {axis=1}", "iota: axis is outside");
    expect_error("bool[3] = iota()", "iota: not defined");
}

static void test_move_errors(void) {
    expect_error("f32[batch, 12] = reshape(%2)", "reshape: the result does not have as many elements");
    expect_error("f16[batch*seq, 12] = reshape(%2)", "reshape: the result's dtype");
    expect_error("f32[batch, seq, 12] = transpose(%2) {perm=[0, 1, 1]}", "transpose: perm is not");
    expect_error("f32[batch, seq, 12] = transpose(%2) {perm=[0, 1, 3]}", "transpose: perm is not");
    expect_error("f32[12, batch] = broadcast(%9)", "broadcast: the operand does not broadcast");
    expect_error("f32[] = broadcast(%9)", "broadcast: the operand does not broadcast");
    expect_error("f32[2] = slice(%9) {starts=[11]}", "slice: reaches outside");
    expect_error("f32[2] = slice(%9) {starts=[0], steps=[-1]}", "slice: reaches outside");
    expect_error("f32[2] = slice(%9) {starts=[0], steps=[9223372036854775807]}", "slice: reaches");
    expect_error("f32[1] = slice(%9) {starts=[-1]}", "slice: a start is negative");
    expect_error("f32[1] = slice(%9) {starts=[0], steps=[0]}", "slice: a step is 0");
    expect_error("f32[1, 1] = slice(%9) {starts=[0, 0]}", "slice: the result's rank");
    expect_error("f32[24] = concat(%9, %9) {axis=1}", "concat: axis is outside");
    expect_error("f32[24] = concat(%9, _, %9)", "operand 2 of concat is missing");
    expect_error("f32[24] = concat(%9, %13)", "concat: operands have different dtypes");
    expect_error("f32[24] = concat(%9, %7)", "concat: operands have different ranks");
    expect_error("f32[12, 10] = concat(%7, %10) {axis=1}", "concat: operands differ beside the axis");
    expect_error("f32[12] = pad(%9, %12) {starts=[-1]}", "hint: slice the operand");
    expect_error("f32[12] = pad(%9, %12) {starts=[1]}", "pad: the operand does not fit");
    expect_error("f32[12] = pad(%9, %8) {starts=[0]}", "pad: the fill is not a scalar");
    expect_error("f32[5] = gather(%7, %12)", "gather: indices are not integers");
    expect_error("f32[5] = gather(%7, %11) {axis=2}", "gather: axis is outside");
    expect_error("f32[] = gather_nd(%9, %15)", "gather_nd: index tuples do not fit");
    expect_error("f32[] = gather_nd(%7, %1)", "gather_nd: the length of the index tuples");
    expect_error("f32[] = gather_nd(%17, %15) {batch_dims=1}", "gather_nd: batch dimensions differ");
    expect_error("f32[] = gather_nd(%7, %15) {batch_dims=2}", "gather_nd: batch_dims is outside");
    expect_error("f32[3, 2] = gather_elements(%9, %15)", "do not have the operand's rank");
    expect_error("f32[12, 5] = gather_elements(%7, %10)", "gather_elements: indices are not integers");
    expect_error("i64[13] = iota()\n%31 : i64[13, 1] = reshape(%30)\n"
                 "%32 : f32[13, 1] = gather_elements(%7, %31) {axis=1}",
                 "longer than the operand");
    expect_error("f32[12, 5] = scatter_nd(%7, %15, %8)", "scatter_nd: updates do not have the shape");
    expect_error("f32[12, 5] = scatter_elements(%7, %15, %7)", "updates do not have the indices' shape");
    expect_error("f32[12, 5] = scatter_nd(%7, %15, %11)", "updates do not have the operand's dtype");
    expect_error("f32[12, 5] = scatter_nd(%7, %15, %8) {reduce=5}", "scatter_nd: reduce is not 0 to 4");
    expect_error("f32[12] = tril(%9)", "tril: needs two axes or more");
}

static void test_rank_limit(void) {
    expect_error("f32[2, 3, 2, 2, 1, 2, 1, 2] = gather(%17, %15) {axis=1}\n"
                 "%31 : f32[] = gather(%30, %15)",
                 "gather: the result's rank is above 8");
    expect_error("f32[] = gather_nd(%17, %15)\n", "%30 should have type f32[3, 2, 1, 2, 1, 2]");
}

static void test_reduce_errors(void) {
    expect_error("f32[] = reduce_sum(%9) {axes=[1]}", "reduce_sum: an axis is outside");
    expect_error("bool[2] = reduce_sum(%14) {axes=[0]}", "reduce_sum: not defined");
    expect_error("i64[] = argmax(%9) {axis=1}", "argmax: axis is outside");
    expect_error("i64[] = argmax(%9) {axis=-1}", "argmax: axis is outside");
    expect_error("i64[2] = argmin(%14)", "argmin: not defined");
    expect_error("f32[12] = cumsum(%9) {axis=1}", "cumsum: axis is outside");
    expect_error("f32[12] = softmax(%9) {axis=1}", "softmax: axis is outside");
    expect_error("i32[3, 2] = softmax(%15)", "softmax: not defined");
    CU_ASSERT_FALSE(parses("%30, %31 : f32[13], i64[13] = topk(%9) {count=13}"));
    CU_ASSERT_PTR_NOT_NULL(strstr(last_error(), "topk: count is negative or longer than the axis"));
}

static void test_product_errors(void) {
    expect_error("f32[batch, seq, 12] = matmul(%2, %10)",
                 "matmul: inner dimensions differ; operands f32[batch, seq, 12], f32[9, 3]");
    expect_error("f32[5] = matmul(%13, %7)", "matmul: operands have different dtypes");
    expect_error("f32[12] = matmul(%12, %9)", "matmul: an operand is a scalar");
    expect_error("bool[3, 3] = matmul(%14, %14)", "matmul: not defined");
    expect_error("f32[batch, seq, 2, 2] = matmul(%20, %20)", "matmul: inner dimensions differ");
    expect_error("f32[12] = linear(%9, %7) {trans=true}", "linear: inner dimensions differ");
    expect_error("f32[5] = linear(%9, %7, %9)", "linear: the bias is not");
    expect_error("f32[5] = linear(%9, %9)", "linear: the weight does not have two axes");
    expect_error("f32[5] = linear(%11, %7)", "linear: not defined");
    expect_error("f32[batch, seq, 12] = norm(%2, %8)", "norm: gamma is not");
    expect_error("f32[batch, seq, 12] = norm(%2, %9, %8)", "norm: beta is not");
    expect_error("f32[] = norm(%12)", "norm: the operand is a scalar");
}

static void test_attention_errors(void) {
    expect_error("f32[batch, seq, 4, 8] = attention(%3, %20, %4)", "k and v have different lengths");
    expect_error("f32[batch, seq, 4, 8] = attention(%2, %20, %20)", "attention: q, k and v are not");
    expect_error("f32[batch, seq, 4, 8] = attention(%3, %4, %4, %6)", "attention: the mask is not");
    expect_error("f32[batch, seq, 4, 8] = attention(%3, %20, %20, %18)", "attention: the mask is not");
    expect_error("f32[batch, seq, 4, 8] = attention(%3, %4, %4, _, %8)", "attention: slopes are not");
    expect_error("f32[batch, seq, 4, 8] = attention(%3, %4, %4, _, _, %8)", "attention: sinks are not");
    expect_error("f32[batch, seq, 4, 8] = attention(%3, %4, %4) {window=-1}", "the window is negative");
    expect_error("f32[batch, seq, 2, 8] = attention(%5, %3, %3)", "q's heads are no multiple of k's");
    expect_error("i64[batch, seq] = rope(%1, %10, %10, %1)", "rope: not defined");
    expect_error("f32[batch, seq, 12] = rope(%2, %10, %10, %1)", "rope: the operand is not");
    expect_error("f32[batch, seq, 4, 8] = rope(%3, %10, %7, %1)", "rope: cosines and sines");
    expect_error("f32[batch, seq, 4, 8] = rope(%3, %10, %10, %1)", "rope: positions are not");
    expect_error("i64[seq] = iota()\n%31 : f32[batch, seq, 4, 8] = rope(%3, %7, %7, %30)",
                 "rope: more pairs are rotated than a head has");
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite suite = CU_add_suite("infer", setup, teardown);
    CU_add_test(suite, "types", test_types);
    CU_add_test(suite, "elementwise errors", test_elementwise_errors);
    CU_add_test(suite, "movement errors", test_move_errors);
    CU_add_test(suite, "rank limit", test_rank_limit);
    CU_add_test(suite, "reduction errors", test_reduce_errors);
    CU_add_test(suite, "product errors", test_product_errors);
    CU_add_test(suite, "attention errors", test_attention_errors);
    return unit_end();
}
