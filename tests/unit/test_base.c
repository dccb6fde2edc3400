/* test_base.c: arenas, growing arrays, checked arithmetic, text, hash, diagnostics and files. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ir/base/base.h"
#include "tests/unit/unit.h"

static void test_arena_zeroed_aligned(void) {
    Arena *a = arena_new();
    for (size_t n = 0; n < 3000; n += 37) {
        unsigned char *p = arena_alloc(a, n);
        CU_ASSERT_PTR_NOT_NULL_FATAL(p);
        CU_ASSERT_EQUAL((uintptr_t)p % 16, 0);
        bool zero = true;
        for (size_t i = 0; i < n; i++) zero = zero && p[i] == 0;
        CU_ASSERT_TRUE(zero);
        memset(p, 0xff, n);
    }
    unsigned char *big = arena_alloc(a, (size_t)5 << 20);
    CU_ASSERT_EQUAL(big[((size_t)5 << 20) - 1], 0);
    CU_ASSERT_TRUE(arena_bytes(a) >= (size_t)5 << 20);
    arena_free(a);
    arena_free(NULL);
}

static void test_arena_reset(void) {
    Arena *a = arena_new();
    ArenaMark empty = arena_mark(a);
    char *kept = arena_strdup(a, "kept");
    ArenaMark mark = arena_mark(a);
    size_t held = arena_bytes(a);
    for (int i = 0; i < 100; i++) memset(arena_alloc(a, 50000), 0x55, 50000);
    memset(arena_alloc(a, 100), 0x55, 100);
    arena_reset(a, mark);
    CU_ASSERT_EQUAL(arena_bytes(a), held);
    CU_ASSERT_STRING_EQUAL(kept, "kept");
    unsigned char *again = arena_alloc(a, 200);
    for (size_t i = 0; i < 200; i++) CU_ASSERT_EQUAL_FATAL(again[i], 0);
    arena_reset(a, empty);
    CU_ASSERT_EQUAL(arena_bytes(a), 0);
    arena_free(a);
}

static void test_arena_text(void) {
    Arena *a = arena_new();
    CU_ASSERT_STRING_EQUAL(arena_strndup(a, "abcdef", 3), "abc");
    CU_ASSERT_STRING_EQUAL(arena_printf(a, "%s-%d", "x", 42), "x-42");
    CU_ASSERT_STRING_EQUAL(arena_printf(a, "%s", ""), "");
    arena_free(a);
}

static void test_vec(void) {
    Arena *a = arena_new();
    VEC(uint32_t) v = {0};
    VEC(uint64_t) w = {0};
    for (uint32_t i = 0; i < 10000; i++) {
        VEC_PUSH(a, &v, i);
        if (i % 3 == 0) VEC_PUSH(a, &w, (uint64_t)i);
    }
    CU_ASSERT_EQUAL(v.count, 10000);
    bool ok = true;
    for (uint32_t i = 0; i < v.count; i++) ok = ok && v.data[i] == i;
    for (uint32_t i = 0; i < w.count; i++) ok = ok && w.data[i] == 3 * (uint64_t)i;
    CU_ASSERT_TRUE(ok);
    arena_free(a);
}

static void test_arithmetic(void) {
    size_t s = 0;
    int64_t i = 0;
    CU_ASSERT_TRUE(mul_size(SIZE_MAX / 2, 2, &s));
    CU_ASSERT_FALSE(mul_size(SIZE_MAX / 2 + 1, 2, &s));
    CU_ASSERT_FALSE(add_size(SIZE_MAX, 1, &s));
    CU_ASSERT_FALSE(mul_i64(INT64_MIN, -1, &i));
    CU_ASSERT_FALSE(add_i64(INT64_MAX, 1, &i));
    CU_ASSERT_TRUE(add_i64(INT64_MAX, INT64_MIN, &i) && i == -1);
}

static void test_hash(void) {
    /* From the algorithm's published test vectors. */
    CU_ASSERT_EQUAL(hash_bytes("", 0, 0), UINT64_C(0xEF46DB3751D8E999));
    CU_ASSERT_EQUAL(hash_bytes("a", 1, 0), UINT64_C(0xD24EC4F1A98C6E5B));
    CU_ASSERT_EQUAL(hash_bytes("abc", 3, 0), UINT64_C(0x44BC2CF5AD770999));
    const char *long_text = "Nobody inspects the spammish repetition";
    CU_ASSERT_EQUAL(hash_bytes(long_text, strlen(long_text), 0), UINT64_C(0xFBCEA83C8A378BF1));
    CU_ASSERT_NOT_EQUAL(hash_bytes("abc", 3, 1), hash_bytes("abc", 3, 0));
    char shifted[64] = " ";
    memcpy(shifted + 1, long_text, strlen(long_text));
    CU_ASSERT_EQUAL(hash_bytes(shifted + 1, strlen(long_text), 9),
                    hash_bytes(long_text, strlen(long_text), 9));
}

static void test_text_floats(void) {
    Arena *a = arena_new();
    static const struct {
        double v;
        const char *text;
    } doubles[] = {
        {0.1, "0.1"},       {1.0, "1"},         {1e-5, "1e-05"}, {1.0 / 3, "0.3333333333333333"},
        {-0.0, "-0"},       {5e-324, "5e-324"}, {1e22, "1e+22"}, {30, "30"},
        {-4e6, "-4000000"},
    };
    for (size_t i = 0; i < COUNT_OF(doubles); i++) {
        Text t = text_new(a);
        text_add_float(&t, doubles[i].v);
        CU_ASSERT_STRING_EQUAL(t.data, doubles[i].text);
    }
    static const struct {
        float v;
        const char *text;
    } floats[] = {
        {0.1f, "0.1"},     {1e-5f, "1e-05"}, {3.4028235e38f, "3.4028235e+38"},
        {1e-45f, "1e-45"}, {10.0f, "10"},    {16777216.0f, "16777216"},
        {0.5f, "0.5"},
    };
    for (size_t i = 0; i < COUNT_OF(floats); i++) {
        Text t = text_new(a);
        text_add_float32(&t, floats[i].v);
        CU_ASSERT_EQUAL(strtof(t.data, NULL), floats[i].v);
        if (i != 5) CU_ASSERT_STRING_EQUAL(t.data, floats[i].text);
    }
    Text t = text_new(a);
    text_add_float(&t, (double)INFINITY);
    text_add(&t, " ");
    text_add_float32(&t, -INFINITY);
    text_add(&t, " ");
    text_add_float(&t, (double)NAN);
    CU_ASSERT_STRING_EQUAL(t.data, "inf -inf nan");
    arena_free(a);
}

static void test_text_grows(void) {
    Arena *a = arena_new();
    Text t = text_new(a);
    CU_ASSERT_STRING_EQUAL(t.data, "");
    for (int i = 0; i < 5000; i++) {
        text_printf(&t, "%d,", i);
        if (i % 100 == 0) arena_alloc(a, 64);
    }
    CU_ASSERT_EQUAL(t.count, strlen(t.data));
    CU_ASSERT_STRING_EQUAL(t.data + t.count - 10, "4998,4999,");
    CU_ASSERT_EQUAL(strncmp(t.data, "0,1,2,3,", 8), 0);
    arena_free(a);
}

static void check_item(const Diag *d, size_t i, const char *expected) {
    Arena *a = arena_new();
    Text t = text_new(a);
    CU_ASSERT_TRUE_FATAL(i < d->items.count);
    diag_format(&t, &d->items.data[i]);
    CU_ASSERT_STRING_EQUAL(t.data, expected);
    arena_free(a);
}

static void test_diag(void) {
    Diag d;
    diag_init(&d);
    char name[16] = "layer/1";
    CU_ASSERT_FALSE(diag_error(&d, loc_none(), "bad %s", "thing"));
    CU_ASSERT_FALSE(diag_error(&d, (Loc){LOC_TEXT, 3, 14, "a.gir"}, "no\nnewlines\x7f"));
    CU_ASSERT_FALSE(diag_bug(&d, (Loc){LOC_NODE, 12, 0, name}, "oops"));
    memset(name, 'x', sizeof(name) - 1); /* the diag keeps its own copy */
    diag_warn(&d, loc_file("m.onnx"), "careful");
    diag_note(&d, loc_none(), "by the way");
    CU_ASSERT_EQUAL(d.errors, 3);
    CU_ASSERT_EQUAL(d.bugs, 1);
    check_item(&d, 0, "error: bad thing");
    check_item(&d, 1, "error: a.gir:3:14: no?newlines?");
    check_item(&d, 2, "internal error: node #12 layer/1: oops");
    check_item(&d, 3, "warning: m.onnx: careful");
    check_item(&d, 4, "note: by the way");
    diag_free(&d);
}

/* ---- files, in a folder of their own ---- */

static char folder[64];

static int folder_make(void) {
    snprintf(folder, sizeof(folder), "/tmp/gptc-test-XXXXXX");
    return mkdtemp(folder) == NULL;
}

static int folder_remove(void) {
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    return system(command);
}

static const char *in_folder(Arena *a, const char *name) { return arena_printf(a, "%s/%s", folder, name); }

static void test_file_round_trip(void) {
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    const char *path = in_folder(a, "out.bin");
    FileWriter *w = file_create(path, &d);
    CU_ASSERT_PTR_NOT_NULL_FATAL(w);
    CU_ASSERT_TRUE(access(path, F_OK) != 0); /* not there before it is whole */
    uint8_t *big = arena_alloc(a, 200000);
    for (size_t i = 0; i < 200000; i++) big[i] = (uint8_t)(i * 7);
    file_write(w, "head", 4);
    CU_ASSERT_TRUE(file_pad(w, 256));
    CU_ASSERT_EQUAL(file_offset(w), 256);
    file_write(w, big, 200000);
    file_write(w, "tail", 4);
    CU_ASSERT_TRUE(file_write_at(w, 1, "EA", 2));
    CU_ASSERT_EQUAL(file_offset(w), 200260);
    CU_ASSERT_TRUE(file_commit(w, &d));
    FileView f;
    CU_ASSERT_TRUE_FATAL(file_map(path, &f, &d));
    CU_ASSERT_EQUAL_FATAL(f.bytes, 200260);
    CU_ASSERT_EQUAL(memcmp(f.data, "hEAd\0\0", 6), 0);
    CU_ASSERT_EQUAL(memcmp(f.data + 256, big, 200000), 0);
    CU_ASSERT_EQUAL(memcmp(f.data + 200256, "tail", 4), 0);
    file_unmap(&f);
    CU_ASSERT_TRUE(file_write_text(path, "", 0, &d));
    CU_ASSERT_TRUE(file_map(path, &f, &d));
    CU_ASSERT_EQUAL(f.bytes, 0);
    CU_ASSERT_PTR_NOT_NULL(f.data);
    file_unmap(&f);
    CU_ASSERT_EQUAL(d.errors, 0);
    diag_free(&d);
    arena_free(a);
}

static void test_file_failures(void) {
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    FileView f;
    CU_ASSERT_FALSE(file_map(in_folder(a, "none"), &f, &d));
    CU_ASSERT_FALSE(file_map(folder, &f, &d));
    CU_ASSERT_PTR_NULL(file_create(in_folder(a, "no/such/out"), &d));
    CU_ASSERT_PTR_NULL(file_create(folder, &d));
    CU_ASSERT_EQUAL(d.errors, 4);
    const char *path = in_folder(a, "kept");
    CU_ASSERT_TRUE(file_write_text(path, "old", 3, &d));
    FileWriter *w = file_create(path, &d);
    CU_ASSERT_PTR_NOT_NULL_FATAL(w);
    file_write(w, "new text", 8);
    file_abandon(w);
    w = file_create(path, &d);
    CU_ASSERT_PTR_NOT_NULL_FATAL(w);
    CU_ASSERT_FALSE(file_write_at(w, 10, "x", 1)); /* past what was written */
    CU_ASSERT_FALSE(file_write(w, "y", 1));
    CU_ASSERT_FALSE(file_commit(w, &d));
    CU_ASSERT_TRUE_FATAL(file_map(path, &f, &d));
    CU_ASSERT_TRUE(f.bytes == 3 && memcmp(f.data, "old", 3) == 0);
    file_unmap(&f);
    /* A device is written in place, never replaced. */
    CU_ASSERT_TRUE(file_write_text("/dev/null", "x", 1, &d));
    struct stat st;
    CU_ASSERT_TRUE(stat("/dev/null", &st) == 0 && S_ISCHR(st.st_mode));
    diag_free(&d);
    arena_free(a);
}

static void test_file_inside(void) {
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    const char *out = NULL;
    CU_ASSERT_EQUAL(mkdir(in_folder(a, "sub"), 0777), 0);
    file_write_text(in_folder(a, "sub/w.bin"), "w", 1, &d);
    file_write_text(in_folder(a, "subway"), "s", 1, &d);
    CU_ASSERT_EQUAL(symlink("../subway", in_folder(a, "sub/link")), 0);
    CU_ASSERT_EQUAL(symlink("w.bin", in_folder(a, "sub/good")), 0);
    const char *sub = in_folder(a, "sub");
    CU_ASSERT_TRUE(file_inside(sub, "w.bin", a, &out, &d));
    CU_ASSERT_PTR_NOT_NULL(out);
    CU_ASSERT_TRUE(file_inside(sub, "../sub/w.bin", a, &out, &d));
    CU_ASSERT_TRUE(file_inside(sub, "good", a, &out, &d));
    CU_ASSERT_TRUE(file_inside("/", "dev/null", a, &out, &d));
    CU_ASSERT_EQUAL(d.errors, 0);
    static const char *const refused[] = {"../subway", "link", "/etc/passwd", "", "none", ".", ".."};
    for (size_t i = 0; i < COUNT_OF(refused); i++) {
        CU_ASSERT_FALSE(file_inside(sub, refused[i], a, &out, &d));
        CU_ASSERT_PTR_NULL(out);
    }
    CU_ASSERT_EQUAL(d.errors, COUNT_OF(refused));
    diag_free(&d);
    arena_free(a);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite base = CU_add_suite("base", NULL, NULL);
    CU_add_test(base, "arena memory is zeroed and aligned", test_arena_zeroed_aligned);
    CU_add_test(base, "arena reset", test_arena_reset);
    CU_add_test(base, "arena text", test_arena_text);
    CU_add_test(base, "growing arrays", test_vec);
    CU_add_test(base, "checked arithmetic", test_arithmetic);
    CU_add_test(base, "hash vectors", test_hash);
    CU_add_test(base, "shortest floats", test_text_floats);
    CU_add_test(base, "text grows", test_text_grows);
    CU_add_test(base, "diagnostics", test_diag);
    CU_pSuite files = CU_add_suite("files", folder_make, folder_remove);
    CU_add_test(files, "write and map", test_file_round_trip);
    CU_add_test(files, "failures leave the old file", test_file_failures);
    CU_add_test(files, "paths stay inside a folder", test_file_inside);
    return unit_end();
}
