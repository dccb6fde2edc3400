/* test_quantize.c: matrices into formats: what is stored is representable, the loss is what it says, error feedback
 * beats rounding; and the sites of a graph one after the other. */
#include <math.h>
#include <string.h>

#include "passes/lossy/matrix.h"
#include "tests/unit/unit.h"

typedef struct {
    Arena *a;
    Diag d;
    uint64_t seed;
} Fixture;

static void fixture_open(Fixture *f) {
    *f = (Fixture){.a = arena_new(), .seed = 5};
    diag_init(&f->d);
}

static void fixture_close(Fixture *f) {
    diag_free(&f->d);
    arena_free(f->a);
}

/* Near enough to normal, of deviation 1. */
static float random_normal(Fixture *f) {
    float sum = 0;
    for (int i = 0; i < 12; i++) {
        f->seed = f->seed * 6364136223846793005u + 1442695040888963407u;
        sum += (float)(f->seed >> 40) / (float)(1 << 24) - 0.5f;
    }
    return sum;
}

static float *random_matrix(Fixture *f, int64_t rows, int64_t cols, float deviation) {
    float *w = arena_array_of(f->a, (size_t)(rows * cols), float);
    for (int64_t i = 0; i < rows * cols; i++) w[i] = deviation * random_normal(f);
    return w;
}

/* Of inputs that follow one another: each is nearly the one before, and their sizes differ. */
static Moments random_moments(Fixture *f, int64_t cols) {
    Moments m = {cols, 500, arena_array_of(f->a, (size_t)(cols * cols), float),
                 arena_array_of(f->a, (size_t)cols, float)};
    float *x = arena_array_of(f->a, (size_t)cols, float);
    for (int64_t t = 0; t < m.rows; t++) {
        float last = 0;
        for (int64_t i = 0; i < cols; i++) {
            last = 0.9f * last + random_normal(f);
            x[i] = last * (i % 7 == 3 ? 4 : 1);
        }
        for (int64_t i = 0; i < cols; i++)
            for (int64_t j = 0; j < cols; j++) m.xx[i * cols + j] += x[i] * x[j] / (float)m.rows;
    }
    return m;
}

static double plain_loss(const float *w, const QuantMatrix *q, const Moments *m, Arena *a) {
    int64_t rows = q->rows, cols = q->cols;
    float *e = arena_array_of(a, (size_t)(rows * cols), float);
    quant_dense(q, e);
    for (int64_t i = 0; i < rows * cols; i++) e[i] = w[i] - e[i];
    double sum = 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < cols; i++)
            for (int64_t j = 0; j < cols; j++)
                if (m || i == j)
                    sum += (double)e[r * cols + i] * (double)e[r * cols + j] *
                           (m ? (double)m->xx[i * cols + j] : 1);
    return sum;
}

static bool is_fp16(float x) { return half_to_float(float_to_half(x)) == x; }

static void check_stored(const QuantMatrix *q) {
    const Format *f = q->format;
    uint32_t entries = 1u << f->bits;
    bool ok = true;
    for (int64_t i = 0; i < q->rows * q->cols / f->vector; i++) ok &= q->codes[i] < entries;
    for (int64_t i = 0; i < q->rows * q->groups; i++) {
        float unit = q->row_scale ? q->row_scale[i / q->groups] : 0;
        ok &= q->row_scale ? is_fp16(unit) && q->scale[i] == (float)q->scale_code[i] * unit
                           : is_fp16(q->scale[i]);
        if (q->scale_code) ok &= q->scale_code[i] < 1u << f->scale_bits;
        if (q->zero) ok &= q->zero[i] < entries;
    }
    for (uint32_t i = 0; f->grid == GRID_LEARNED && f->vector == 1 && i < entries; i++)
        ok &= q->grid[i] == rintf(q->grid[i]) && fabsf(q->grid[i]) <= 127;
    CU_ASSERT_TRUE(ok);
}

/* Every format over odd shapes: representable, and the loss that is told is the loss there is. */
static void test_formats(void) {
    static const int64_t shape[][2] = {{1, 32}, {3, 33}, {40, 100}, {17, 517}};
    Fixture f;
    fixture_open(&f);
    for (const Format *t = format_table; t->name; t++)
        for (size_t s = 0; s < COUNT_OF(shape); s++) {
            int64_t rows = shape[s][0], cols = shape[s][1], bits = t->bits / t->vector;
            if (cols % t->vector) continue;
            ArenaMark mark = arena_mark(f.a);
            const float *w = random_matrix(&f, rows, cols, 0.02f);
            Moments m = random_moments(&f, cols);
            for (int how = 0; how < 3; how++) {
                QuantOptions o = {.moments = how ? &m : NULL, .gptq = how == 2, .order = how == 2};
                QuantMatrix q;
                double loss = -1;
                CU_ASSERT_TRUE_FATAL(quantize_matrix(w, t, &o, rows, cols, f.a, &q, &loss, &f.d));
                check_stored(&q);
                double plain = plain_loss(w, &q, o.moments, f.a);
                CU_ASSERT_DOUBLE_EQUAL(loss, plain, 2e-3 * plain);
                double energy = matrix_energy(w, o.moments, rows, cols);
                CU_ASSERT_TRUE(loss < energy * (bits == 2 ? 0.3 : bits < 8 ? 0.06 : 0.002));
            }
            arena_reset(f.a, mark);
        }
    fixture_close(&f);
}

/* With inputs that depend on one another, feedback loses far less; with order less still or the same. */
static void test_feedback(void) {
    static const char *name[] = {"q8", "q4g32z", "n4g64", "n3g32", "n2g32", "p8v2", "p8v4"};
    Fixture f;
    fixture_open(&f);
    const float *w = random_matrix(&f, 48, 256, 0.05f);
    Moments m = random_moments(&f, 256);
    for (size_t i = 0; i < COUNT_OF(name); i++) {
        double loss[3];
        for (int how = 0; how < 3; how++) {
            QuantOptions o = {.moments = &m, .gptq = how > 0, .order = how == 2};
            QuantMatrix q;
            CU_ASSERT_TRUE_FATAL(
                quantize_matrix(w, format_find(name[i]), &o, 48, 256, f.a, &q, &loss[how], &f.d));
        }
        CU_ASSERT_TRUE(loss[1] < 0.5 * loss[0]);
        CU_ASSERT_TRUE(loss[2] < 0.5 * loss[0]);
    }
    fixture_close(&f);
}

/* A matrix of a few values is stored as it is. */
static void test_levels(void) {
    static const float value[] = {-1, -0.25f, 0.125f, 1};
    Fixture f;
    fixture_open(&f);
    float *w = random_matrix(&f, 20, 128, 1);
    for (int64_t i = 0; i < 20 * 128; i++) w[i] = value[(unsigned)(int)(w[i] * 100 + 1000) % 4];
    QuantOptions o = {0};
    QuantMatrix q;
    double learned, linear;
    CU_ASSERT_TRUE_FATAL(quantize_matrix(w, format_find("n2g64"), &o, 20, 128, f.a, &q, &learned, &f.d));
    CU_ASSERT_TRUE_FATAL(quantize_matrix(w, format_find("q2g32z"), &o, 20, 128, f.a, &q, &linear, &f.d));
    double energy = matrix_energy(w, NULL, 20, 128);
    CU_ASSERT_TRUE(learned < 1e-4 * energy);
    CU_ASSERT_TRUE(linear > 0.01 * energy);
    fixture_close(&f);
}

/* Searched scales lose less than the scale that covers the largest number. */
static void test_search(void) {
    Fixture f;
    fixture_open(&f);
    const float *w = random_matrix(&f, 30, 256, 0.05f);
    QuantOptions o = {0};
    QuantMatrix q, plain;
    double loss;
    const Format *format = format_find("q4g128");
    CU_ASSERT_TRUE_FATAL(quantize_matrix(w, format, &o, 30, 256, f.a, &q, &loss, &f.d));
    CU_ASSERT_TRUE_FATAL(quant_new(format, 30, 256, f.a, &plain));
    Levels l;
    levels_make(format, plain.grid, &l);
    for (int64_t r = 0; r < 30; r++)
        for (int64_t c = 0; c < 256; c++) {
            float *scale = &plain.scale[r * 2 + c / 128];
            *scale = fmaxf(*scale, fabsf(w[r * 256 + c]) / 7);
        }
    codes_round(w, &l, &plain);
    CU_ASSERT_TRUE(loss < 0.85 * plain_loss(w, &plain, NULL, f.a));
    fixture_close(&f);
}

/* Rounding picks the nearest level, ties and ends included, one by one and eight at a time. */
static void test_nearest(void) {
    static const char *name[] = {"q4g32", "f8", "n3g32", "n5g64"};
    Fixture f;
    fixture_open(&f);
    for (size_t i = 0; i < COUNT_OF(name); i++) {
        const Format *format = format_find(name[i]);
        QuantMatrix q;
        Levels l;
        CU_ASSERT_TRUE_FATAL(quant_new(format, 1, 32, f.a, &q));
        levels_make(format, q.grid, &l);
        for (int k = 0; k < 200; k++) {
            float x = random_normal(&f) * l.largest, one[LANES] = {x}, weight[LANES] = {1};
            float v = l.value[levels_nearest(&l, x)];
            for (uint32_t j = 0; j < l.count; j++) CU_ASSERT_TRUE(fabsf(x - v) <= fabsf(x - l.value[j]));
            Trial t = levels_try(&l, one, weight, LANES, 1, 0);
            CU_ASSERT_EQUAL(t.wv, v * x);
            CU_ASSERT_EQUAL(t.vv, v * v);
        }
    }
    fixture_close(&f);
}

static void test_zeros(void) {
    Fixture f;
    fixture_open(&f);
    float *w = random_matrix(&f, 4, 64, 0);
    w[70] = 1; /* a group of zeros beside one that is not */
    Moments m = {64, 10, random_matrix(&f, 64, 64, 0), random_matrix(&f, 1, 64, 0)};
    for (const Format *t = format_table; t->name; t++) {
        QuantOptions o = {.moments = &m, .gptq = true, .order = true};
        QuantMatrix q;
        double loss;
        if (t->vector > 1) continue; /* whose entries are no zeros */
        CU_ASSERT_TRUE(quantize_matrix(w, t, &o, 4, 64, f.a, &q, &loss, &f.d));
        CU_ASSERT_EQUAL(loss, 0);
        float dense[4 * 64];
        quant_dense(&q, dense);
        CU_ASSERT_EQUAL(dense[0], 0);
        CU_ASSERT_DOUBLE_EQUAL(dense[70], 1, 0.01);
    }
    fixture_close(&f);
}

static void test_refusals(void) {
    Fixture f;
    fixture_open(&f);
    float *w = random_matrix(&f, 4, 64, 1);
    Moments m = random_moments(&f, 64);
    QuantOptions o = {.moments = &m, .gptq = true};
    QuantMatrix q;
    const Format *format = format_find("q4g32");
    m.xx[5] = NAN;
    CU_ASSERT_FALSE(quantize_matrix(w, format, &o, 4, 64, f.a, &q, NULL, &f.d));
    m.xx[5] = 0;
    m.xx[0] = -1000;
    CU_ASSERT_FALSE(quantize_matrix(w, format, &o, 4, 64, f.a, &q, NULL, &f.d)); /* no moments of anything */
    m.cols = 63;
    CU_ASSERT_FALSE(quantize_matrix(w, format, &o, 4, 64, f.a, &q, NULL, &f.d));
    o.moments = NULL;
    w[7] = INFINITY;
    CU_ASSERT_FALSE(quantize_matrix(w, format, &o, 4, 64, f.a, &q, NULL, &f.d));
    w[7] = 0;
    CU_ASSERT_FALSE(quantize_matrix(w, format_find("p8v4"), &o, 4, 63, f.a, &q, NULL, &f.d));
    CU_ASSERT_TRUE(quantize_matrix(w, format, &o, 4, 64, f.a, &q, NULL, &f.d));
    CU_ASSERT_EQUAL(f.d.errors, 5);
    CU_ASSERT_EQUAL(f.d.bugs, 1);
    fixture_close(&f);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("quantize", NULL, NULL);
    CU_add_test(s, "every format over odd shapes", test_formats);
    CU_add_test(s, "error feedback loses less", test_feedback);
    CU_add_test(s, "a matrix's own levels", test_levels);
    CU_add_test(s, "searched scales", test_search);
    CU_add_test(s, "nearest levels", test_nearest);
    CU_add_test(s, "zeros", test_zeros);
    CU_add_test(s, "refusals", test_refusals);
    return unit_end();
}
