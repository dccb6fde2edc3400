/* test_text.c: the text form: what prints parses back to the same bytes, and errors have places. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ir/ir.h"
#include "tests/unit/unit.h"

static const char *print(const Graph *g, Arena *a) {
    Text t = text_new(a);
    graph_print(&t, g);
    return t.data;
}

static void show(const Diag *d) {
    Arena *a = arena_new();
    for (size_t i = 0; i < d->items.count; i++) {
        Text t = text_new(a);
        diag_format(&t, &d->items.data[i]);
        fprintf(stderr, "\n%s", t.data);
    }
    arena_free(a);
}

/* Parses, prints, parses, prints; both prints must be equal, and equal to `expected` if given. */
static void round_trip_in(const char *text, const char *expected, const char *dir) {
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    Graph *g = graph_parse(text, strlen(text), "t.gir", dir, a, &d);
    if (g == NULL) show(&d);
    CU_ASSERT_PTR_NOT_NULL(g);
    if (g != NULL) {
        const char *once = print(g, a);
        Graph *again = graph_parse(once, strlen(once), "t2.gir", dir, a, &d);
        if (again == NULL) show(&d);
        CU_ASSERT_PTR_NOT_NULL(again);
        if (again != NULL) CU_ASSERT_STRING_EQUAL(print(again, a), once);
        if (expected != NULL) {
            CU_ASSERT_STRING_EQUAL(once, expected);
            if (strcmp(once, expected) != 0) fprintf(stderr, "\n%s", once);
        }
        bool verified = graph_verify(g, &d);
        if (!verified) show(&d);
        CU_ASSERT_TRUE(verified);
    }
    diag_free(&d);
    arena_free(a);
}

static void round_trip(const char *text, const char *expected) { round_trip_in(text, expected, NULL); }

#define HEAD "gir 1 stage=raised\nsymbol batch\nsymbol seq\nsymbol past\n"

static void test_whole(void) {
    static const char text[] =
        "gir 1 stage=planned context=128 arena=4096\n"
        "symbol batch\n"
        "symbol seq literal=32 max=128\n"
        "symbol past\n"
        "symbol \"odd name\" max=7\n"
        "input %1 \"input_ids\" : i64[batch, seq] role=tokens\n"
        "input %2 \"past.0\" : f32[batch, past, 2, 16] role=past !slot 64\n"
        "input %3 : f32[batch, \"odd name\"]\n"
        "const %4 \"wte\" : f32[384, 32] = seed(7)\n"
        "%5 : f32[batch, seq, 32] = gather(%4, %1) !region 1 !slot 128 @ onnx:6 \"emb \\\"q\\\"\"\n"
        "%6 : f32[batch, seq, 2, 16] = reshape(%5) !region 1 @ onnx:0\n"
        "%7 : f32[batch, past + seq, 2, 16] = concat(%2, %6) {axis=1} !region 3 !slot 4096\n"
        "%8, %9 : f32[batch, seq, 2], i64[batch, seq, 2] = topk(%5) {axis=2, count=2}"
        " !slot _, 256\n"
        "%10 : f32[2, 16, batch, seq] = transpose(%6) {perm=[2, 3, 0, 1]}\n"
        "%11 : f32[batch, 1, 32] = slice(%5) {starts=[0, -1 + seq, 0]}\n"
        "%12 : i64[] = dim() {value=2*batch*seq}\n"
        "%13 : f32[batch, seq] = reduce_sum(%5) {axes=[2]}\n"
        "%14 : f32[batch, seq, 32] = norm(%5) {rms=true, eps=1e-06}\n"
        "output %14 \"logits\" role=logits\n"
        "output %7 \"present.0\" role=present\n"
        "output %10\n"
        "output %9 \"k\"\n"
        "output %11\n"
        "output %12\n"
        "output %13\n"
        "output %3\n"
        "output %8\n"
        "state \"past.0\" in=%2 out=%7 axis=1\n";
    round_trip(text, text);
}

static void test_constants(void) {
    round_trip(HEAD "const %1 \"list\" : f32[5] = {1, -0, 1e-45, inf, nan(0x7fc00000)}\n"
                    "const %2 : f16[4] = {0.1, 65504, 6e-8, nan(0xfe01)}\n"
                    "const %3 : bf16[2] = {0.1, -inf}\n"
                    "const %4 : f64[2] = {0.1, 4.9406564584124654e-324}\n"
                    "const %5 : bool[3] = {true, false, 7}\n"
                    "const %6 : u64[2] = {18446744073709551615, 0}\n"
                    "const %7 : i64[2] = {-9223372036854775808, 9223372036854775807}\n"
                    "const %8 : i8[2] = {-128, 127}\n"
                    "const %9 : f32[2, 100] = splat(-1.5)\n"
                    "const %10 : i32[] = {3}\n"
                    "const %11 : f32[0, 4] = {}\n"
                    "const %12 : u8[66] = hex(\""
                    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
                    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff0102\")\n"
                    "const %13 : f16[10] = splat(nan)\n"
                    "const %14 : i64[9] = {5, 5, 5, 5, 5, 5, 5, 5, 5}\n"
                    "const %15 : i16[4] = seed(18446744073709551615)\n"
                    "output %1\noutput %2\noutput %3\noutput %4\noutput %5\noutput %6\noutput %7\n"
                    "output %8\noutput %9\noutput %10\noutput %11\noutput %12\noutput %13\noutput %14\n"
                    "output %15\n",
               NULL);
    round_trip(HEAD "const %1 : i64[9] = {5, 5, 5, 5, 5, 5, 5, 5, 5}\noutput %1\n",
               HEAD "const %1 : i64[9] = splat(5)\noutput %1\n");
    round_trip(HEAD "const %1 : f32[1] = {nan}\noutput %1\n",
               HEAD "const %1 : f32[1] = {nan(0x7fc00000)}\noutput %1\n");
    round_trip(HEAD "const %1 : i4[3] = {-8, 7, -1}\nconst %2 : u2[5] = {0, 1, 2, 3, 1}\n"
                    "const %3 : u4[200] = splat(9)\nconst %4 : i2[7] = seed(4)\n"
                    "output %1\noutput %2\noutput %3\noutput %4\n",
               NULL);
    round_trip(HEAD "const %1 : f32[0] = seed(3)\nconst %2 : f32[0] = splat(3)\n"
                    "output %1\noutput %2\n",
               NULL);
}

/* Data of a graph made in memory survives bit by bit. */
static void test_constant_bits(void) {
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    Graph *g = graph_new(a);
    for (int t = DT_NONE + 1; t < DT_COUNT; t++) {
        for (int64_t n = 1; n <= 4000; n = n < 60 ? n + 23 : n * 7) {
            Dim dims[1] = {dim_const(n)};
            uint8_t *data = arena_alloc(a, (size_t)n * dtype_size((DType)t));
            const_fill_seed(DT_I64, (uint64_t)(n + t), data, (size_t)n * dtype_size((DType)t) / 8);
            uint64_t state = (uint64_t)n * 77;
            for (size_t i = 0; i < (size_t)n * dtype_size((DType)t); i++) {
                state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
                data[i] = (uint8_t)(state >> 56);
            }
            size_t bits = (size_t)n * dtype_bits((DType)t); /* of the last byte, the rest says nothing */
            if (bits % 8 != 0) data[bits / 8] &= (uint8_t)((1u << bits % 8) - 1);
            graph_output(g, graph_const(g, type_make((DType)t, 1, dims), data, NULL), NULL, ROLE_NONE);
        }
    }
    const char *text = print(g, a);
    Graph *back = graph_parse(text, strlen(text), NULL, NULL, a, &d);
    if (back == NULL) show(&d);
    CU_ASSERT_PTR_NOT_NULL_FATAL(back);
    CU_ASSERT_STRING_EQUAL(print(back, a), text);
    CU_ASSERT_EQUAL_FATAL(back->outputs.count, g->outputs.count);
    for (size_t i = 0; i < g->outputs.count; i++) {
        const Const *x = graph_constant(g, g->outputs.data[i].v);
        const Const *y = graph_constant(back, back->outputs.data[i].v);
        CU_ASSERT_TRUE(x->bytes == y->bytes && memcmp(x->data, y->data, x->bytes) == 0);
    }
    diag_free(&d);
    arena_free(a);
}

static void test_normal_form(void) {
    round_trip("; a comment first\n\n  gir 1   ; imported is the first stage\r\n"
               "symbol extra ; another\n"
               "const %90 : f32[] = {2}\n"
               "const %91 : f32[] = {3} ; not used\n"
               "input %7 \"x\" : f32[ seq+past , 2*extra-1 ]\n"
               "%3:f32[past+seq, -1+extra+extra]=mul(%7,%90){} @ onnx:3 !region 2\n"
               "%4 : f32[?, ?] = neg(%3)   ; unknown dims agree with anything\n"
               "output %3\noutput %4",
               "gir 1 stage=imported\nsymbol batch\nsymbol seq\nsymbol past\nsymbol extra\n"
               "input %1 \"x\" : f32[past + seq, -1 + 2*extra]\n"
               "const %2 : f32[] = {2}\n"
               "%3 : f32[past + seq, -1 + 2*extra] = mul(%1, %2) !region 2 @ onnx:3\n"
               "%4 : f32[?, ?] = neg(%3)\n"
               "output %3\noutput %4\n");
    round_trip(HEAD "input %1 \"tab\\tand\\x01\\\\\" : f32[]\noutput %1 \"\xc3\xa9\\n\"\n", NULL);
    round_trip(HEAD "input %1 \"q\" : f32[batch, seq, 2, 4]\ninput %2 : f32[2]\n"
                    "%3 : f32[batch, seq, 2, 4] = attention(%1, %1, %1, _, %2) {scale=0.5}\n"
                    "output %3\n",
               NULL);
}

static void test_defaults_hidden(void) {
    round_trip(HEAD "input %1 : f32[4, 4]\n"
                    "%2 : f32[4, 4] = softmax(%1) {axis=0}\n"
                    "%3 : f32[4, 4] = transpose(%2) {perm=[1, 0]}\n"
                    "%4 : f32[2, 2] = slice(%3) {starts=[0, 0], steps=[1, 2]}\n"
                    "output %4\n",
               HEAD "input %1 : f32[4, 4]\n"
                    "%2 : f32[4, 4] = softmax(%1)\n"
                    "%3 : f32[4, 4] = transpose(%2) {perm=[1, 0]}\n"
                    "%4 : f32[2, 2] = slice(%3) {steps=[1, 2]}\n"
                    "output %4\n");
}

static void test_files(void) {
    char dir[] = "/tmp/gptc-test-XXXXXX";
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    const char *path = arena_printf(a, "%s/w.bin", dir);
    float w[6] = {0, 1, 2, 3, 4, 5};
    CU_ASSERT_TRUE(file_write_text(path, (const char *)w, sizeof(w), &d));
    static const char good[] = HEAD "const %1 : f32[2, 2] = file(\"w.bin\", 8)\noutput %1\n";
    round_trip_in(good, good, dir);
    Graph *g = graph_parse(good, strlen(good), NULL, dir, a, &d);
    double x = 0;
    CU_ASSERT_PTR_NOT_NULL_FATAL(g);
    CU_ASSERT_TRUE(const_get_f64(g, g->outputs.data[0].v, 3, &x) && x == 5.0);
    static const char *const bad[] = {
        "const %1 : f32[2, 2] = file(\"w.bin\", 9)\n",
        "const %1 : f32[2, 2] = file(\"../w.bin\", 0)\n",
        "const %1 : f32[2, 2] = file(\"none.bin\", 0)\n",
        "const %1 : f32[2, 2] = file(\"w.bin\", 18446744073709551615)\n",
    };
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        const char *text = arena_printf(a, "gir 1\n%s", bad[i]);
        CU_ASSERT_PTR_NULL(graph_parse(text, strlen(text), NULL, dir, a, &d));
    }
    CU_ASSERT_PTR_NULL(graph_parse(good, strlen(good), NULL, NULL, a, &d));
    CU_ASSERT_EQUAL(d.errors, COUNT_OF(bad) + 1);
    unlink(path);
    rmdir(dir);
    diag_free(&d);
    arena_free(a);
}

static void test_errors(void) {
    static const struct {
        const char *text, *place, *what;
    } cases[] = {
        {"", ":1:1:", "empty"},
        {"hello", ":1:1:", "gir 1"},
        {"gir 2", ":1:5:", "version"},
        {"gir 1 stage=done", ":1:13:", "unknown stage"},
        {"gir 1\nnonsense %1", ":2:1:", "expected symbol"},
        {"gir 1\n\ninput %1 : f33[2]", ":3:12:", "element type"},
        {"gir 1\ninput %1 : f32[lol]", ":2:16:", "unknown symbol \"lol\""},
        {"gir 1\ninput %1 : f32[-1]", ":2:16:", "below 0"},
        {"gir 1\ninput %1 : f32[9999999999999999999]", ":2:16:", "from 0 to"},
        {"gir 1\ninput %1 : f32[1,1,1,1,1,1,1,1,1]", ":2:32:", "more than 8"},
        {"gir 1\ninput %1 : f32[2", ":2:17:", "expected ']'"},
        {"gir 1\ninput %1 : f32[2]\ninput %1 : f32[2]", ":3:7:", "defined twice"},
        {"gir 1\ninput %4000000000 : f32[2]", ":2:", "out of proportion"},
        {"gir 1\ninput %1 : f32[2] role=king", ":2:24:", "unknown role"},
        {"gir 1\ninput %1 \"x : f32[2]\n", ":2:10:", "closing quote"},
        {"gir 1\ninput %1 \"\\q\" : f32[2]\n", ":2:12:", "escape"},
        {"gir 1\noutput %1", ":2:8:", "%1 is not defined"},
        {"gir 1\ninput %1 : f32[2]\n%2 : f32[2] = frob(%1)", ":3:15:", "unknown op"},
        {"gir 1\ninput %1 : f32[2]\n%2 : f32[3] = neg(%1)", ":3:", "%2 should have type f32[2]"},
        {"gir 1\ninput %1 : f32[2]\n  %2 : f32[2] = add(%1)", ":3:3:", "takes 2 operands"},
        {"gir 1\ninput %1 : f32[2]\n%2 : f32[2] = neg(%1) {axis=1}", ":3:24:", "no attribute"},
        {"gir 1\ninput %1 : f32[2]\n%2 : f32[2] = softmax(%1) {axis=0, axis=0}", ":3:36:", "given twice"},
        {"gir 1\ninput %1 : f32[2]\n%2 : f32[2] = neg(%1) junk", ":3:23:", "expected '!'"},
        {"gir 1\ninput %1 : f32[2]\n%2 : f32[2] = transpose(%1) {perm=[0, 1]}", ":3:", ""},
        {"gir 1\ninput %1 : f32[2]\n%2, %3 : f32[2], f32[2] = neg(%1)", ":3:27:", "1 results"},
        {"gir 1\ninput %1 : f32[2]\n%2 : f32[2] = slice(%1) {starts=[0, 0]}", ":3:", ""},
        {"gir 1\nconst %1 : f32[2] = {1}", ":2:21:", "found 1"},
        {"gir 1\nconst %1 : f32[1] = {1, 2}", ":2:21:", "more than 1"},
        {"gir 1\nconst %1 : i8[1] = {128}", ":2:21:", "from -128 to 127"},
        {"gir 1\nconst %1 : u8[1] = {256}", ":2:21:", "too large"},
        {"gir 1\nconst %1 : f16[1] = {70000}", ":2:22:", "too large for f16"},
        {"gir 1\nconst %1 : f32[1] = {1e99}", ":2:22:", "too large for f32"},
        {"gir 1\nconst %1 : f32[1] = {1e}", ":2:22:", "number"},
        {"gir 1\nconst %1 : f32[1] = {nan(0x1)}", ":2:", "no NaN"},
        {"gir 1\nconst %1 : f32[1] = hex(\"00\")", ":2:", "4 bytes"},
        {"gir 1\nconst %1 : f32[seq] = seed(1)", ":2:12:", "symbolic"},
        {"gir 1\nconst %1 : f32[100000, 100000] = seed(1)", ":2:34:", "in all"},
        {"gir 1\nconst %1 : f32[4611686018427387904, 4] = seed(1)", ":2:12:", "too large"},
        {"gir 1\nconst %1 : f32[100000, 100000] = {1}", ":2:", "elements"},
        {"gir 1\nconst %1 : f32[1] = file(\"x\", 0)", ":2:21:", "not allowed"},
        {"gir 1\nsymbol a max=0", ":2:14:", "from 1"},
        {"gir 1\nstate \"s\" in=%1 out=%1 axis=0", ":2:14:", "not defined"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        Arena *a = arena_new();
        Diag d;
        diag_init(&d);
        Graph *g = graph_parse(cases[i].text, strlen(cases[i].text), "t.gir", NULL, a, &d);
        CU_ASSERT_PTR_NULL(g);
        CU_ASSERT_EQUAL(d.errors, 1);
        Text t = text_new(a);
        if (d.items.count > 0) diag_format(&t, &d.items.data[0]);
        bool ok =
            g == NULL && strstr(t.data, cases[i].what) != NULL && strstr(t.data, cases[i].place) != NULL;
        CU_ASSERT_TRUE(ok);
        if (!ok)
            fprintf(stderr, "\n%s\n  wanted %s %s\n  got    %s\n", cases[i].text, cases[i].place,
                    cases[i].what, t.data);
        diag_free(&d);
        arena_free(a);
    }
}

/* Every prefix, and every single changed byte, of a text with a bit of everything: the parser ends
 * without a crash, and what it accepts prints and parses again. */
static void try_bytes(const char *text, size_t n) {
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    char *exact = malloc(n == 0 ? 1 : n); /* so that a sanitizer sees reads past the end */
    CU_ASSERT_PTR_NOT_NULL_FATAL(exact);
    memcpy(exact, text, n);
    Graph *g = graph_parse(exact, n, NULL, NULL, a, &d);
    free(exact);
    CU_ASSERT_TRUE((g == NULL) == (d.errors > 0));
    if (g != NULL) {
        const char *once = print(g, a);
        Graph *again = graph_parse(once, strlen(once), NULL, NULL, a, &d);
        if (again == NULL) {
            show(&d);
            fprintf(stderr, "\n%s\n", once);
        }
        CU_ASSERT_PTR_NOT_NULL(again);
        if (again != NULL) CU_ASSERT_STRING_EQUAL(print(again, a), once);
        (void)graph_verify(g, &d);
    }
    diag_free(&d);
    arena_free(a);
}

static void test_damaged(void) {
    static const char text[] =
        "gir 1 stage=stateful arena=9\nsymbol seq max=8\nsymbol \"o o\"\n"
        "input %1 \"a\\x41\" : i64[batch, seq] role=tokens !slot 3\n"
        "input %2 : f32[batch, past, 2*\"o o\"] role=past\n"
        "const %3 : f32[3, 2] = {1, -2.5e-3, inf, nan(0x7fc00001), 0, 3}\n"
        "const %4 : u8[2] = hex(\"00ff\")\nconst %5 : i16[3] = splat(-4)\n"
        "%6 : f32[batch, seq, 2] = gather(%3, %1) !region 2 !slot 64 @ onnx:3 \"g\"\n"
        "%7, %8 : f32[batch, seq, 1], i64[batch, seq, 1] = topk(%6) {axis=2, count=1}\n"
        "%9 : f32[2, batch, -1 + seq] = transpose(%6) {perm=[2, 0, 1]}\n"
        "output %7 \"y\" role=logits\nstate \"s\" in=%2 out=%6 axis=1\n";
    static const char bytes[] = "0919%\"\\{}()[]=,:;*-+?_@! \n\tzq\x00\xff";
    size_t n = sizeof(text) - 1;
    for (size_t i = 0; i <= n; i++) try_bytes(text, i);
    char copy[sizeof(text)];
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < sizeof(bytes) - 1; k++) {
            memcpy(copy, text, sizeof(text));
            copy[i] = bytes[k];
            try_bytes(copy, n);
        }
        memcpy(copy, text, sizeof(text));
        memmove(copy + i, copy + i + 1, n - i);
        try_bytes(copy, n - 1);
    }
}

static void test_broken_prints(void) {
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    Graph *g = graph_new(a);
    ValId x = graph_input(g, "x", type_scalar(DT_F32), ROLE_NONE);
    ValId y = graph_add(g, OP_NEG, &x, 1, NULL, NULL, loc_none(), &d);
    graph_node(g, graph_def(g, y))->in[0] = (ValId){77};
    graph_output(g, (ValId){1000}, NULL, ROLE_NONE);
    graph_val(g, y)->type.dim[0] = DIM_UNKNOWN;
    CU_ASSERT_PTR_NOT_NULL(strstr(print(g, a), "neg(%?)"));
    CU_ASSERT_PTR_NOT_NULL(strstr(print(g, a), "output %?"));
    diag_free(&d);
    arena_free(a);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("text", NULL, NULL);
    CU_add_test(s, "a bit of everything", test_whole);
    CU_add_test(s, "constants", test_constants);
    CU_add_test(s, "constants keep their bits", test_constant_bits);
    CU_add_test(s, "normal form", test_normal_form);
    CU_add_test(s, "defaults are not printed", test_defaults_hidden);
    CU_add_test(s, "constants from files", test_files);
    CU_add_test(s, "errors have places", test_errors);
    CU_add_test(s, "damaged texts", test_damaged);
    CU_add_test(s, "broken graphs print", test_broken_prints);
    return unit_end();
}
