/* test_windows.c: windows that are cut, dealt and sampled; token ids from files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "codegen/windows.h"
#include "tests/unit/unit.h"
#include "tools/driver.h"
#include "tools/lossy.h"
#include "tools/text.h"

#define EXAMPLE GPTC_SOURCE_DIR "/examples/shakespeare/model.onnx"

static void test_cut(void) {
    Arena *a = arena_new();
    int32_t ids[11];
    for (int i = 0; i < 11; i++) ids[i] = i;
    Windows w = windows_cut(ids, 11, 3, a);
    CU_ASSERT_EQUAL(w.windows, 3);
    CU_ASSERT_EQUAL(w.length, 3);
    CU_ASSERT_EQUAL(w.id[8], 8);
    CU_ASSERT_EQUAL(windows_cut(ids, 2, 3, a).windows, 0);
    arena_free(a);
}

/* Every window goes to exactly one part; parts have their shares; another seed deals another hand. */
static void test_deal(void) {
    Arena *a = arena_new();
    int32_t ids[200];
    for (int i = 0; i < 200; i++) ids[i] = i / 2;
    Windows all = windows_cut(ids, 200, 2, a), part[3], other[3];
    all.from = 1;
    const double share[3] = {2, 1, 1};
    windows_deal(&all, share, 3, 1, a, part);
    windows_deal(&all, share, 3, 2, a, other);
    bool seen[100] = {false};
    CU_ASSERT_EQUAL(part[0].windows, 50);
    CU_ASSERT_EQUAL(part[1].windows, 25);
    CU_ASSERT_EQUAL(part[2].windows, 25);
    for (int p = 0; p < 3; p++) {
        CU_ASSERT_EQUAL(part[p].from, 1);
        for (int64_t i = 0; i < part[p].windows; i++) {
            int32_t id = part[p].id[2 * i];
            CU_ASSERT_FALSE(seen[id]);
            CU_ASSERT_EQUAL(part[p].id[2 * i + 1], id);
            seen[id] = true;
        }
    }
    CU_ASSERT_NOT_EQUAL(memcmp(part[1].id, other[1].id, 50 * sizeof(int32_t)), 0);
    all.windows = 3; /* each part has one, whatever its share */
    const double uneven[3] = {98, 1, 1};
    windows_deal(&all, uneven, 3, 1, a, part);
    for (int p = 0; p < 3; p++) CU_ASSERT_EQUAL(part[p].windows, 1);
    all.windows = 7;
    const double none[3] = {1, 0, 1};
    windows_deal(&all, none, 3, 1, a, part);
    CU_ASSERT_EQUAL(part[1].windows, 0);
    CU_ASSERT_EQUAL(part[0].windows + part[2].windows, 7);
    arena_free(a);
}

/* A short text is halved and quartered, however much calibration wishes for: the error of a single window is not known. */
static void test_short_text(void) {
    const LossyShares wished = {24, 2};
    const struct {
        int64_t windows, calibration, each;
    } of[] = {{8, 4, 2}, {13, 9, 2}, {27, 23, 2}, {28, 24, 2}, {500, 24, 2}};
    for (size_t i = 0; i < COUNT_OF(of); i++) {
        LossyShares s = lossy_shares_of(wished, of[i].windows);
        CU_ASSERT_EQUAL(s.calibration, of[i].calibration);
        CU_ASSERT_EQUAL(s.each, of[i].each);
    }
    LossyShares even = lossy_shares_of((LossyShares){32, 16}, 10);
    CU_ASSERT_EQUAL(even.calibration, 6);
    CU_ASSERT_EQUAL(even.each, 2);
}

/* The example, compiled and open. */
static gptc_model *open_example(Compile *c) {
    char out[64];
    ImportOptions opt = {0};
    CompilePasses p = {.pass = {.kv_cache = true, .opt_level = 1}};
    CompileWrite w = {.eos = -1, .seed = 1};
    CompileResult r;
    gptc_model *m = NULL;
    snprintf(out, sizeof out, "/tmp/gptc-windows-%d.bin", (int)getpid());
    compile_init(c);
    CU_ASSERT_TRUE_FATAL(compile_open(c, EXAMPLE, &opt));
    CU_ASSERT_TRUE_FATAL(compile_passes(c, &p));
    CU_ASSERT_TRUE_FATAL(compile_write(c, EXAMPLE, out, compile_context(c, 0), &w, &r));
    CU_ASSERT_EQUAL_FATAL(gptc_open(out, NULL, &m, NULL), GPTC_OK);
    unlink(out);
    return m;
}

static void test_sample(void) {
    Compile c;
    gptc_model *m = open_example(&c);
    Windows a, b, other;
    CU_ASSERT_TRUE_FATAL(windows_sample(m, 35, 24, 1, 5, 1, c.arena, &a, &c.diag));
    CU_ASSERT_TRUE_FATAL(windows_sample(m, 3, 24, 1, 5, 2, c.arena, &b, &c.diag));
    CU_ASSERT_TRUE_FATAL(windows_sample(m, 3, 24, 1, 6, 2, c.arena, &other, &c.diag));
    CU_ASSERT_EQUAL(a.windows, 35);
    CU_ASSERT_EQUAL(memcmp(a.id, b.id, 3 * 24 * sizeof(int32_t)), 0);
    CU_ASSERT_NOT_EQUAL(memcmp(b.id, other.id, 3 * 24 * sizeof(int32_t)), 0);
    CU_ASSERT_NOT_EQUAL(memcmp(a.id, a.id + 32 * 24, 24 * sizeof(int32_t)), 0);
    for (int i = 0; i < 35 * 24; i++) CU_ASSERT_TRUE(a.id[i] >= 0 && a.id[i] < 1024);
    CU_ASSERT_FALSE(windows_sample(m, 1, 1 << 20, 1, 5, 1, c.arena, &a, &c.diag));
    gptc_close(m);
    compile_free(&c);
}

/* Writes text to a file of that ending and reads it as tokens. */
static bool read_back(const gptc_model *m, Compile *c, const char *ending, const char *text, int32_t **ids,
                      size_t *n) {
    char path[64];
    snprintf(path, sizeof path, "/tmp/gptc-windows-%d%s", (int)getpid(), ending);
    CU_ASSERT_TRUE_FATAL(file_write_text(path, text, strlen(text), &c->diag));
    bool ok = text_tokens(m, path, c->arena, ids, n, &c->diag);
    unlink(path);
    return ok;
}

static void test_files(void) {
    Compile c;
    gptc_model *m = open_example(&c);
    int32_t *ids;
    size_t n;
    CU_ASSERT_TRUE(read_back(m, &c, ".ids", " 5\n17\t1023 ", &ids, &n));
    CU_ASSERT_EQUAL(n, 3);
    CU_ASSERT_EQUAL(ids[2], 1023);
    CU_ASSERT_TRUE(read_back(m, &c, ".ids", "", &ids, &n));
    CU_ASSERT_EQUAL(n, 0);
    CU_ASSERT_FALSE(read_back(m, &c, ".ids", "5 1024", &ids, &n)); /* outside the vocabulary */
    CU_ASSERT_FALSE(read_back(m, &c, ".ids", "5 -1", &ids, &n));
    CU_ASSERT_FALSE(read_back(m, &c, ".ids", "99999999999999999999", &ids, &n));
    CU_ASSERT_FALSE(read_back(m, &c, ".pb", "no tensor", &ids, &n));
    CU_ASSERT_TRUE(read_back(m, &c, ".txt", "KING:", &ids, &n));
    CU_ASSERT_EQUAL(n, 2);
    CU_ASSERT_EQUAL(ids[0], 446);
    gptc_close(m);
    compile_free(&c);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("windows", NULL, NULL);
    CU_add_test(s, "cut", test_cut);
    CU_add_test(s, "dealt", test_deal);
    CU_add_test(s, "short texts", test_short_text);
    CU_add_test(s, "sampled", test_sample);
    CU_add_test(s, "token files", test_files);
    return unit_end();
}
