/* test_groups.c: kernels on every format, from the graph by way of the stored form, over odd shapes. */
#include "tests/unit/formats_check.h"
#include "tests/unit/kernels_check.h"
#include "codegen/codegen.h"

/* A matrix of a format as a file holds it, and its values. */
typedef struct {
    uint8_t *data;
    float *values;
    CpuGroups groups;
    bool ends;
} Stored;

static uint8_t *store(const ProgramTensor *t) {
    ArtGroups l = art_groups(t->art.dtype, t->art.flags, t->art.group);
    uint8_t *data = aligned_alloc(64, (t->art.bytes + 63) / 64 * 64), *to = data + l.head;
    group_head(t, data);
    for (int64_t r = 0; r < (int64_t)t->art.dim[0]; r += 16) {
        group_panel_head(t, r, to);
        to += l.panel_head;
        for (int64_t c = 0; c < (int64_t)t->art.dim[1]; c += t->art.group, to += l.block)
            group_block(t, r, c, to);
    }
    CU_ASSERT_EQUAL((uint64_t)(to - data), t->art.bytes);
    return data;
}

/* One product, whose matrix is the only site. */
static Graph *product_graph(int64_t rows, int64_t cols, Site **s, Arena *a, Diag *d) {
    const char *text =
        arena_printf(a,
                     "gir 1 stage=stateful\nsymbol batch\nsymbol seq\nsymbol past\n"
                     "input %%1 \"x\" : f32[seq, %lld]\nconst %%2 : f32[%lld, %lld] = splat(0)\n"
                     "%%3 : f32[seq, %lld] = linear(%%1, %%2)\noutput %%3 \"y\"\n",
                     (long long)cols, (long long)cols, (long long)rows, (long long)rows);
    Graph *g = graph_parse(text, strlen(text), NULL, NULL, a, d);
    CU_ASSERT_PTR_NOT_NULL_FATAL(g);
    CU_ASSERT_EQUAL_FATAL(sites_find(g, a, s), 1);
    return g;
}

/* Codes, and levels of a grid, that are the lowest or the highest there is. */
static void fill_ends(QuantMatrix *q) {
    uint32_t last = (1u << q->format->bits) - 1;
    for (int64_t i = 0; i < q->rows * q->cols; i++) {
        q->codes[i] = (uint8_t)(formats_roll(&seed, 2) * last);
    }
    for (uint32_t i = 0; q->format->grid == GRID_LEARNED && i <= last; i++) { q->grid[i] = i ? 127 : -128; }
}

static Stored stored_new(const Format *f, int64_t rows, int64_t cols, bool ends, Arena *a) {
    Diag d;
    Site *s;
    QuantMatrix q;
    diag_init(&d);
    Graph *g = product_graph(rows, cols, &s, a, &d);
    CU_ASSERT_TRUE_FATAL(quant_new(f, rows, cols, a, &q));
    formats_fill(&q, &seed);
    if (ends) { fill_ends(&q); }
    CU_ASSERT_TRUE_FATAL(site_write(g, s, &q, &d));
    GroupView view;
    Stored out = {.values = arena_array_of(a, (size_t)(rows * cols), float), .ends = ends};
    quant_dense(&q, out.values);
    CU_ASSERT_TRUE_FATAL(group_view(g, graph_node(g, s->user)->in[1], true, a, &view, &d));
    Program p = {.arena = a};
    const ProgramTensor *t = &p.tensors.data[program_groups(&p, &view)];
    t = &p.tensors.data[0];
    CU_ASSERT_EQUAL(t->art.bytes * 8, format_stored_bits(f, rows, cols));
    ArtGroups l = art_groups(t->art.dtype, t->art.flags, t->art.group);
    out.data = store(t);
    out.groups = (CpuGroups){l.bits, t->art.group, l.scale, l.zeros, (float)l.zero, l.grid};
    diag_free(&d);
    return out;
}

/* As the kernels are said to round: by blocks, in fp32. */
static void round_row(const float *x, size_t k, size_t block, double *to) {
    for (size_t at = 0, n; at < k; at += n) {
        float most = 0;
        n = k - at < block ? k - at : block;
        for (size_t i = at; i < at + n; i++) { most = fmaxf(most, fabsf(x[i])); }
        for (size_t i = at; i < at + n; i++) {
            to[i] = (double)rintf(x[i] * (127 / most)) * (double)(most / 127);
        }
    }
}

static void product_case(const Format *f, const Stored *w, uint32_t rows, uint32_t k, uint32_t n,
                         uint32_t round) {
    double *want = calloc((size_t)rows * n, sizeof *want), largest = 1e-3;
    float *x = random_floats((size_t)rows * k), *before = random_floats((size_t)rows * n);
    float *out = random_floats((size_t)rows * n);
    double *in = calloc(k, sizeof *in);
    for (size_t i = 0; w->ends && i < (size_t)rows * k; i++) { x[i] = x[i] < 0 ? -1 : 1; }
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < k; i++) { in[i] = (double)x[r * k + i]; }
        if (round) { round_row(x + r * k, k, round, in); }
        for (size_t c = 0; c < n; c++) {
            for (size_t i = 0; i < k; i++) { want[r * n + c] += in[i] * (double)w->values[c * k + i]; }
            largest = fmax(largest, fabs(want[r * n + c]));
        }
    }
    CpuLinear l = {.rows = rows,
                   .k = k,
                   .n = n,
                   .round = round,
                   .groups = w->groups,
                   .x = x,
                   .w = w->data,
                   .x_stride = k,
                   .out_stride = n,
                   .out = out};
    char what[100];
    snprintf(what, sizeof what, "%s: %u x %u x %u, rounded %u", f->name, rows, k, n, round);
    check(LINEAR, &l, out, (size_t)rows * n, before, want, 3e-6, what);
    if (rows == 1) { check_levels(LINEAR, &l, out, n, before, what); }
    free(want), free(x), free(before), free(out), free(in);
}

static void gather_case(const Format *f, const Stored *w, uint32_t k, uint32_t n) {
    int32_t ids[3] = {0, (int32_t)n / 2, (int32_t)n - 1};
    double *want = calloc(3 * (size_t)k, sizeof *want);
    float *out = random_floats(3 * (size_t)k), *before = random_floats(3 * (size_t)k);
    for (size_t i = 0; i < 3 * (size_t)k; i++) {
        want[i] = (double)w->values[(size_t)ids[i / k] * k + i % k];
    }
    CpuGather a = {3, k, 0, ART_GROUP16, w->data, ids, out, k, w->groups};
    check(GATHER, &a, out, 3 * (size_t)k, before, want, 1e-7, f->name);
    free(want), free(out), free(before);
}

static void shape_case(const Format *f, uint32_t k, uint32_t n, uint32_t step) {
    Arena *a = arena_new();
    Stored w = stored_new(f, n, k, false, a);
    for (uint32_t rows = 1; rows <= 40; rows += rows == 1 ? 1 : step) { product_case(f, &w, rows, k, n, 0); }
    uint32_t group = f->group && f->group < k ? f->group : k;
    for (uint32_t rows = 1; rows <= 16; rows += step) {
        product_case(f, &w, rows, k, n, group); /* in integers, where there is one row */
        product_case(f, &w, rows, k, n, 24);
    }
    gather_case(f, &w, k, n);
    free(w.data);
    arena_free(a);
}

static void test_shapes(void) {
    for (const Format *f = format_table; f->name; f++) {
        uint32_t v = f->vector; /* columns are whole vectors */
        shape_case(f, 32, 16, 5);
        shape_case(f, 33 / v * v, 2, 19);
        shape_case(f, 96 + 2 * v, 37, 7);
        shape_case(f, 517 / v * v, 21, 13);
    }
}

/* Across the pieces of columns that a panel is decoded in. */
static void test_pieces(void) {
    for (const Format *f = format_table; f->name; f++) { shape_case(f, 804, 70, 38); }
}

/* w holds `experts` matrices of n rows. One expert is everybody's, expert 1 nobody's; there are slots of none. */
static void routed_case(const Format *f, const Stored *w, uint32_t experts, uint32_t rows, uint32_t k,
                        uint32_t n) {
    enum { SLOTS = 3 };
    size_t slots = (size_t)rows * SLOTS;
    double *want = calloc(slots * n, sizeof *want);
    float *x = random_floats(slots * k), *bias = random_floats((size_t)experts * n);
    float *before = random_floats(slots * n), *out = random_floats(slots * n), *index = random_floats(slots);
    for (size_t i = 0; i < slots; i++) {
        uint32_t e = i % SLOTS == 0 ? experts - 1 : (uint32_t[]){0, 2, experts}[(i + i / SLOTS) % 3];
        index[i] = (float)e;
        for (size_t c = 0; e < experts && c < n; c++) {
            for (size_t j = 0; j < k; j++) {
                want[i * n + c] += (double)x[i * k + j] * (double)w->values[(e * n + c) * k + j];
            }
            want[i * n + c] = fmax(want[i * n + c] + (double)bias[e * n + c], 0);
        }
    }
    CpuRouted r = {.rows = rows,
                   .experts = experts,
                   .slots = SLOTS,
                   .k = k,
                   .n = n,
                   .act = ART_ACT_RELU,
                   .groups = w->groups,
                   .x = x,
                   .index = index,
                   .bias = bias,
                   .w = w->data,
                   .x_stride = (size_t)SLOTS * k,
                   .x_step = k,
                   .index_stride = SLOTS,
                   .out_stride = (size_t)SLOTS * n,
                   .out = out};
    char what[100];
    snprintf(what, sizeof what, "%s: %u x %u x %u of %u experts", f->name, rows, k, n, experts);
    check(ROUTED, &r, out, slots * n, before, want, 3e-6, what);
    free(want), free(x), free(bias), free(before), free(out), free(index);
}

/* One row, rows of several blocks, and more than share what is decoded; panels that one draw does not take. */
static void test_experts(void) {
    for (const Format *f = format_table; f->name; f++) {
        const uint32_t shape[][3] = {{3, 48, 16}, {5, 70, 32}, {4, 452, 80}};
        for (int i = 0; i < 3; i++) {
            Arena *a = arena_new();
            uint32_t experts = shape[i][0], k = shape[i][1] / f->vector * f->vector, n = shape[i][2];
            Stored w = stored_new(f, experts * n, k, false, a);
            for (uint32_t rows = 1; rows < 200; rows = rows * 5 + 2) routed_case(f, &w, experts, rows, k, n);
            free(w.data);
            arena_free(a);
        }
    }
}

/* Sums of integers at their largest: of bytes times bytes, and of a whole row. */
static void test_ends(void) {
    for (const Format *f = format_table; f->name; f++) {
        if (f->vector > 1 || f->grid == GRID_F8) { continue; }
        Arena *a = arena_new();
        Stored w = stored_new(f, 18, 520, true, a);
        product_case(f, &w, 1, 520, 18, f->group ? f->group : 520);
        free(w.data);
        arena_free(a);
    }
}

/* Kernels take a float8 NaN for a number, so that a matrix with one is not stored in codes. */
static void test_nan_code(void) {
    for (int nan = 0; nan < 2; nan++) {
        Arena *a = arena_new();
        Diag d;
        Site *s;
        QuantMatrix q;
        GroupView view;
        diag_init(&d);
        Graph *g = product_graph(33, 40, &s, a, &d);
        CU_ASSERT_TRUE_FATAL(quant_new(format_find("f8"), 33, 40, a, &q));
        formats_fill(&q, &seed);
        if (nan) q.codes[32 * 40 + 17] = 0xff;
        CU_ASSERT_TRUE_FATAL(site_write(g, s, &q, &d));
        CU_ASSERT_EQUAL(group_view(g, graph_node(g, s->user)->in[1], true, a, &view, &d), !nan);
        diag_free(&d);
        arena_free(a);
    }
}

int main(void) {
    if (unit_begin()) { return 1; }
    CU_pSuite s = CU_add_suite("groups", harness_open, harness_close);
    CU_add_test(s, "every format over odd shapes", test_shapes);
    CU_add_test(s, "every format in pieces", test_pieces);
    CU_add_test(s, "chosen matrices of every format", test_experts);
    CU_add_test(s, "codes at their ends", test_ends);
    CU_add_test(s, "a float8 that is no number", test_nan_code);
    return unit_end();
}
