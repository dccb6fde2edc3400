/* test_dim.c: dimension polynomials, half-precision conversions and tensor types. */
#include <math.h>
#include <string.h>

#include "ir/ir.h"
#include "tests/unit/unit.h"

static Arena *arena;
static Graph *g;
static Dim batch, seq, past;

static int setup(void) {
    arena = arena_new();
    g = graph_new(arena);
    batch = dim_sym(g, SYM_BATCH);
    seq = dim_sym(g, SYM_SEQ);
    past = dim_sym(g, SYM_PAST);
    return 0;
}

static int teardown(void) {
    arena_free(arena);
    return 0;
}

static Dim num(int64_t v) { return dim_const(v); }

static const char *text(Dim d) {
    Text t = text_new(arena);
    dim_print(&t, g, d);
    return t.data;
}

static void test_constants(void) {
    CU_ASSERT_TRUE(dim_is_const(num(0)));
    CU_ASSERT_TRUE(dim_is_const(num(-5)));
    CU_ASSERT_TRUE(dim_eq(num(INT64_MIN), num(-DIM_MAX)));
    CU_ASSERT_TRUE(dim_eq(num(INT64_MAX), num(DIM_MAX)));
    CU_ASSERT_TRUE(dim_eq(dim_add(g, num(2), num(3)), num(5)));
    CU_ASSERT_TRUE(dim_eq(dim_mul(g, num(-2), num(3)), num(-6)));
    CU_ASSERT_TRUE(dim_eq(dim_div(g, num(12), num(-4)), num(-3)));
    CU_ASSERT_FALSE(dim_known(dim_div(g, num(12), num(5))));
    CU_ASSERT_FALSE(dim_known(dim_div(g, num(12), num(0))));
    CU_ASSERT_FALSE(dim_eq(DIM_UNKNOWN, DIM_UNKNOWN));
    CU_ASSERT_FALSE(dim_is_const(DIM_UNKNOWN));
    CU_ASSERT_FALSE(dim_is_const(seq));
    CU_ASSERT_TRUE(dim_known(seq));
}

static void test_terms(void) {
    DimTerm t;
    Dim d = dim_sub(g, dim_mul(g, num(3), dim_mul(g, seq, dim_mul(g, seq, batch))), num(4));
    CU_ASSERT_TRUE_FATAL(dim_term(g, d, 0, &t)); /* constant first */
    CU_ASSERT_TRUE(t.factor == -4 && t.degree == 0);
    CU_ASSERT_TRUE_FATAL(dim_term(g, d, 1, &t));
    CU_ASSERT_TRUE(t.factor == 3 && t.degree == 3 && t.sym[0].id == SYM_BATCH.id &&
                   t.sym[2].id == SYM_SEQ.id);
    CU_ASSERT_FALSE(dim_term(g, d, 2, &t));
    CU_ASSERT_TRUE(dim_term(g, num(7), 0, &t) && t.factor == 7 && t.degree == 0);
    CU_ASSERT_FALSE(dim_term(g, num(7), 1, &t));
    CU_ASSERT_FALSE(dim_term(g, num(0), 0, &t));
    CU_ASSERT_FALSE(dim_term(g, DIM_UNKNOWN, 0, &t));
}

static void test_interning(void) {
    Dim total = dim_add(g, past, seq);
    CU_ASSERT_TRUE(dim_eq(total, dim_add(g, seq, past)));
    CU_ASSERT_TRUE(dim_eq(dim_sub(g, total, past), seq));
    CU_ASSERT_TRUE(dim_eq(dim_sub(g, total, total), num(0)));
    Dim a = dim_mul(g, dim_add(g, seq, num(1)), dim_sub(g, seq, num(1)));
    Dim b = dim_sub(g, dim_mul(g, seq, seq), num(1));
    CU_ASSERT_TRUE(dim_eq(a, b));
    CU_ASSERT_TRUE(
        dim_eq(dim_mul(g, dim_mul(g, batch, seq), past), dim_mul(g, past, dim_mul(g, seq, batch))));
    CU_ASSERT_TRUE(dim_eq(dim_mul(g, seq, num(0)), num(0)));
}

static void test_print(void) {
    CU_ASSERT_STRING_EQUAL(text(dim_add(g, seq, past)), "past + seq");
    CU_ASSERT_STRING_EQUAL(text(dim_mul(g, num(4), batch)), "4*batch");
    CU_ASSERT_STRING_EQUAL(text(dim_mul(g, seq, batch)), "batch*seq");
    CU_ASSERT_STRING_EQUAL(text(dim_sub(g, seq, num(1))), "-1 + seq");
    CU_ASSERT_STRING_EQUAL(text(dim_sub(g, past, dim_mul(g, num(3), seq))), "past - 3*seq");
    CU_ASSERT_STRING_EQUAL(text(dim_sub(g, num(0), seq)), "-seq");
    CU_ASSERT_STRING_EQUAL(text(dim_mul(g, num(-2), seq)), "-2*seq");
    CU_ASSERT_STRING_EQUAL(text(num(-7)), "-7");
    CU_ASSERT_STRING_EQUAL(text(DIM_UNKNOWN), "?");
    Dim odd = dim_sym(g, symbol_add(g, "a b", 3));
    CU_ASSERT_STRING_EQUAL(text(dim_mul(g, odd, seq)), "\"a b\"*seq");
}

static void test_division(void) {
    Dim total = dim_add(g, past, seq);
    Dim rows = dim_mul(g, batch, total);
    Dim all = dim_mul(g, num(64), rows);
    CU_ASSERT_TRUE(dim_eq(dim_div(g, all, rows), num(64)));
    CU_ASSERT_TRUE(dim_eq(dim_div(g, all, total), dim_mul(g, num(64), batch)));
    CU_ASSERT_TRUE(dim_eq(dim_div(g, all, batch), dim_mul(g, num(64), total)));
    CU_ASSERT_TRUE(dim_eq(dim_div(g, all, num(32)), dim_mul(g, num(2), rows)));
    CU_ASSERT_TRUE(dim_eq(dim_div(g, num(0), seq), num(0)));
    CU_ASSERT_FALSE(dim_known(dim_div(g, all, num(128))));
    CU_ASSERT_FALSE(dim_known(dim_div(g, seq, past)));
    CU_ASSERT_FALSE(dim_known(dim_div(g, total, seq)));
    CU_ASSERT_FALSE(dim_known(dim_div(g, DIM_UNKNOWN, seq)));
    Dim square = dim_mul(g, total, total);
    CU_ASSERT_TRUE(dim_eq(dim_div(g, square, total), total));
}

static void test_overflow(void) {
    Dim big = dim_mul(g, num(DIM_MAX), seq);
    CU_ASSERT_TRUE(dim_known(big));
    CU_ASSERT_FALSE(dim_known(dim_add(g, big, big)));
    CU_ASSERT_FALSE(dim_known(dim_mul(g, big, num(2))));
    CU_ASSERT_FALSE(dim_known(dim_mul(g, num(DIM_MAX), num(DIM_MAX))));
    CU_ASSERT_FALSE(dim_known(dim_add(g, num(DIM_MAX), num(DIM_MAX))));
    CU_ASSERT_FALSE(dim_known(dim_add(g, DIM_UNKNOWN, num(1))));
    CU_ASSERT_TRUE(dim_eq(dim_sub(g, big, big), num(0)));
    Dim power = num(1);
    for (int i = 0; i < 20; i++) power = dim_mul(g, power, seq);
    CU_ASSERT_FALSE(dim_known(power)); /* too high a degree */
    Dim sum = num(0);
    char name[8] = "x00";
    for (int i = 0; i < 60; i++) {
        name[1] = (char)('a' + i / 10);
        name[2] = (char)('0' + i % 10);
        sum = dim_add(g, sum, dim_sym(g, symbol_add(g, name, 3)));
    }
    CU_ASSERT_FALSE(dim_known(sum)); /* too many terms */
    CU_ASSERT_FALSE(dim_known(dim_sym(g, (SymId){9999})));
}

static void test_substitute_eval(void) {
    Dim total = dim_add(g, past, seq);
    Dim d = dim_mul(g, dim_mul(g, total, total), batch);
    CU_ASSERT_TRUE(dim_depends(g, d, SYM_PAST));
    CU_ASSERT_FALSE(dim_depends(g, total, SYM_BATCH));
    CU_ASSERT_FALSE(dim_depends(g, num(3), SYM_SEQ));
    CU_ASSERT_TRUE(dim_eq(dim_substitute(g, d, SYM_PAST, num(0)), dim_mul(g, batch, dim_mul(g, seq, seq))));
    CU_ASSERT_TRUE(dim_eq(dim_substitute(g, total, SYM_SEQ, dim_sub(g, num(8), past)), num(8)));
    CU_ASSERT_TRUE(dim_eq(dim_substitute(g, total, SYM_BATCH, DIM_UNKNOWN), total));
    CU_ASSERT_FALSE(dim_known(dim_substitute(g, total, SYM_SEQ, DIM_UNKNOWN)));
    int64_t bind[] = {0, 2, 3, 4}, out = 0;
    CU_ASSERT_TRUE(dim_eval(g, d, bind, 4, &out) && out == 2 * 7 * 7);
    CU_ASSERT_FALSE(dim_eval(g, d, bind, 3, &out));
    CU_ASSERT_FALSE(dim_eval(g, DIM_UNKNOWN, bind, 4, &out));
    bind[1] = INT64_MAX;
    CU_ASSERT_FALSE(dim_eval(g, d, bind, 4, &out));
    CU_ASSERT_EQUAL(dim_literal(g, d), -1);
    CU_ASSERT_EQUAL(dim_literal(g, num(5)), 5);
    g->symbols.data[SYM_SEQ.id].literal = 32;
    CU_ASSERT_EQUAL(dim_literal(g, dim_add(g, seq, num(-1))), 31);
    CU_ASSERT_EQUAL(dim_literal(g, total), -1);
    g->symbols.data[SYM_SEQ.id].literal = 0;
}

static void test_many_interned(void) {
    Dim made[2000];
    for (int64_t i = 0; i < 2000; i++) made[i] = dim_add(g, dim_mul(g, num(i + 2), seq), num(i * i));
    bool same = true;
    for (int64_t i = 0; i < 2000; i++)
        same = same && dim_eq(made[i], dim_add(g, num(i * i), dim_mul(g, seq, num(i + 2))));
    CU_ASSERT_TRUE(same);
    Arena *other = arena_new();
    Graph *copy = graph_copy(g, other);
    for (int64_t i = 0; i < 2000; i++)
        same = same &&
               dim_eq(made[i], dim_add(copy, num(i * i), dim_mul(copy, dim_sym(copy, SYM_SEQ), num(i + 2))));
    CU_ASSERT_TRUE(same);
    arena_free(other);
}

static void test_symbols(void) {
    CU_ASSERT_EQUAL(symbol_find(g, "batch", 5).id, SYM_BATCH.id);
    CU_ASSERT_EQUAL(symbol_find(g, "seq_len", 3).id, SYM_SEQ.id);
    CU_ASSERT_EQUAL(symbol_find(g, "se", 2).id, 0);
    SymId s = symbol_add(g, "extra", 5);
    CU_ASSERT_EQUAL(symbol_add(g, "extra", 5).id, s.id);
}

static void test_half(void) {
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = half_to_float((uint16_t)h);
        if (float_to_half(f) != h) CU_FAIL("half does not come back");
        f = bf16_to_float((uint16_t)h);
        if (float_to_bf16(f) != h) CU_FAIL("bf16 does not come back");
    }
    CU_ASSERT_EQUAL(float_to_half(1.0f), 0x3c00);
    CU_ASSERT_EQUAL(float_to_half(65504.0f), 0x7bff);
    CU_ASSERT_EQUAL(float_to_half(65519.996f), 0x7bff);
    CU_ASSERT_EQUAL(float_to_half(65520.0f), 0x7c00);
    CU_ASSERT_EQUAL(float_to_half(-1e30f), 0xfc00);
    CU_ASSERT_EQUAL(float_to_half(0x1p-24f), 0x0001);
    CU_ASSERT_EQUAL(float_to_half(0x1p-25f), 0x0000); /* tie to even */
    CU_ASSERT_EQUAL(float_to_half(0x1.000002p-25f), 0x0001);
    CU_ASSERT_EQUAL(float_to_half(0x1.8p-24f), 0x0002); /* tie to even */
    CU_ASSERT_EQUAL(float_to_half(0x1.ff8p-15f), 0x03ff);
    CU_ASSERT_EQUAL(float_to_half(0x1.ffcp-15f), 0x0400); /* rounds up into the normals */
    CU_ASSERT_EQUAL(float_to_half(0x1.002p0f), 0x3c00);
    CU_ASSERT_EQUAL(float_to_half(0x1.006p0f), 0x3c02);
    CU_ASSERT_EQUAL(float_to_bf16(0x1.01p0f), 0x3f80);
    CU_ASSERT_EQUAL(float_to_bf16(0x1.03p0f), 0x3f82);
    CU_ASSERT_EQUAL(float_to_bf16(3.4e38f), 0x7f80);
}

static void test_float8(void) {
    static const DType types[] = {DT_F8E4M3FN, DT_F8E4M3FNUZ, DT_F8E5M2, DT_F8E5M2FNUZ};
    static const float largest[] = {448, 240, 57344, 57344};
    static const uint8_t above[] = {0x7f, 0x80, 0x7c, 0x80};
    for (int k = 0; k < 4; k++) {
        DType t = types[k];
        CU_ASSERT_EQUAL(f8_largest(t), largest[k]);
        CU_ASSERT_EQUAL(float_to_f8(t, 1e6f), above[k]);
        CU_ASSERT_EQUAL(float_to_f8(t, -1e-9f), k % 2 ? 0 : 0x80);
        for (uint32_t x = 0; x < 256; x++) {
            float f = f8_to_float(t, (uint8_t)x), next = f8_to_float(t, (uint8_t)(x + 1));
            if (isnan(f) ? !isnan(f8_to_float(t, float_to_f8(t, f))) : float_to_f8(t, f) != x)
                CU_FAIL("a float of 8 bits does not come back");
            /* Halfway to the next number: to the even one. */
            if (isfinite(f) && isfinite(next) && (x & 0x7f) != 0x7f &&
                float_to_f8(t, (f + next) / 2) != (x + 1) / 2 * 2)
                CU_FAIL("a tie is not rounded to even");
            if (half_to_float(float_to_half(f)) != f && !isnan(f)) CU_FAIL("f16 does not hold it");
        }
    }
    CU_ASSERT_TRUE(isnan(f8_to_float(DT_F8E4M3FNUZ, 0x80)));
    CU_ASSERT_TRUE(isinf(f8_to_float(DT_F8E5M2, 0xfc)));
    CU_ASSERT_TRUE(isnan(f8_to_float(DT_F8E4M3FN, 0xff)));
}

static void test_dtypes(void) {
    CU_ASSERT_EQUAL(dtype_parse("bf16", 4), DT_BF16);
    CU_ASSERT_EQUAL(dtype_parse("bf16", 2), DT_NONE);
    CU_ASSERT_EQUAL(dtype_parse("none", 4), DT_NONE);
    CU_ASSERT_EQUAL(dtype_from_onnx(7), DT_I64);
    CU_ASSERT_EQUAL(dtype_from_onnx(0), DT_NONE);
    CU_ASSERT_EQUAL(dtype_size(DT_BOOL), 1);
    CU_ASSERT_EQUAL(dtype_size(DT_F64), 8);
    CU_ASSERT_TRUE(dtype_is_float(DT_BF16));
    CU_ASSERT_TRUE(dtype_is_int(DT_U8));
    CU_ASSERT_FALSE(dtype_is_int(DT_BOOL));
}

static void test_types(void) {
    Dim dims[3] = {batch, num(1), num(64)};
    Type a = type_make(DT_F32, 3, dims), b, out;
    Dim other[2] = {seq, num(64)};
    b = type_make(DT_F32, 2, other);
    CU_ASSERT_TRUE(type_broadcast(&a, &b, &out));
    Text t = text_new(arena);
    type_print(&t, g, &out);
    CU_ASSERT_STRING_EQUAL(t.data, "f32[batch, seq, 64]");
    CU_ASSERT_TRUE(dim_eq(type_count(g, &out), dim_mul(g, num(64), dim_mul(g, batch, seq))));
    b.dim[1] = num(3);
    CU_ASSERT_FALSE(type_broadcast(&a, &b, &out));
    CU_ASSERT_FALSE(type_is_static(&a));
    size_t bytes = 1;
    CU_ASSERT_FALSE(type_static_bytes(&a, &bytes));
    Type s = type_scalar(DT_I64);
    CU_ASSERT_TRUE(type_static_bytes(&s, &bytes) && bytes == 8);
    CU_ASSERT_TRUE(type_broadcast(&s, &a, &out) && out.rank == 3);
    Dim huge[3] = {num((int64_t)1 << 40), num((int64_t)1 << 40), num(0)};
    Type h = type_make(DT_F32, 2, huge);
    CU_ASSERT_FALSE(type_static_bytes(&h, &bytes));
    h = type_make(DT_F32, 3, huge);
    CU_ASSERT_TRUE(type_static_bytes(&h, &bytes) && bytes == 0);
    h.dim[0] = num(-1);
    CU_ASSERT_FALSE(type_static_bytes(&h, &bytes));
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite dims = CU_add_suite("dimensions", setup, teardown);
    CU_add_test(dims, "constants", test_constants);
    CU_add_test(dims, "equal polynomials are one", test_interning);
    CU_add_test(dims, "terms", test_terms);
    CU_add_test(dims, "print", test_print);
    CU_add_test(dims, "exact division", test_division);
    CU_add_test(dims, "overflow is unknown", test_overflow);
    CU_add_test(dims, "substitute and evaluate", test_substitute_eval);
    CU_add_test(dims, "many polynomials, copied graphs", test_many_interned);
    CU_add_test(dims, "symbols", test_symbols);
    CU_pSuite types = CU_add_suite("types", setup, teardown);
    CU_add_test(types, "half precision", test_half);
    CU_add_test(types, "floats of 8 bits", test_float8);
    CU_add_test(types, "dtype table", test_dtypes);
    CU_add_test(types, "shapes", test_types);
    return unit_end();
}
