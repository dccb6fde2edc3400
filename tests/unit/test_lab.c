/* test_lab.c: the lab on the example's model: what is set is computed with, what is measured is right. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/lab.h"
#include "codegen/lab_cpu.h"
#include "tests/unit/unit.h"
#include "tools/driver.h"

#define EXAMPLE GPTC_SOURCE_DIR "/examples/shakespeare/model.onnx"
#define LENGTH 48
#define WINDOWS 5

typedef struct {
    Compile c;
    Site *sites;
    size_t nsites;
    Lab *lab;
    int32_t ids[WINDOWS * LENGTH];
    Windows text;
} Fixture;

static void fixture_open(Fixture *f, int threads) {
    ImportOptions opt = {0};
    CompilePasses p = {.pass = {.kv_cache = true, .opt_level = 1}, .stop_after = "dce-split"};
    memset(f, 0, sizeof *f);
    compile_init(&f->c);
    CU_ASSERT_TRUE_FATAL(compile_open(&f->c, EXAMPLE, &opt));
    CU_ASSERT_TRUE_FATAL(compile_passes(&f->c, &p));
    f->nsites = sites_find(f->c.graph, f->c.arena, &f->sites);
    CU_ASSERT_TRUE_FATAL(f->nsites > 4);
    CU_ASSERT_TRUE_FATAL(lab_new(f->c.graph, f->sites, f->nsites, 128, threads, &f->lab, &f->c.diag));
    uint64_t seed = 7;
    for (int i = 0; i < WINDOWS * LENGTH; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        f->ids[i] = (int32_t)((seed >> 33) % 1024);
    }
    f->text = (Windows){f->ids, WINDOWS, LENGTH, 0};
}

static void fixture_close(Fixture *f) {
    lab_free(f->lab);
    compile_free(&f->c);
}

static float *site_dense(Fixture *f, size_t i) {
    const Site *s = &f->sites[i];
    float *w = arena_array_of(f->c.arena, (size_t)(s->rows * s->cols), float);
    CU_ASSERT_TRUE_FATAL(site_read(f->c.graph, s, w, &f->c.diag));
    return w;
}

/* The site's matrix rounded to steps of its largest element / 8. */
static float *site_rounded(Fixture *f, size_t i) {
    float *w = site_dense(f, i), top = 0;
    size_t n = (size_t)(f->sites[i].rows * f->sites[i].cols);
    for (size_t k = 0; k < n; k++) top = fmaxf(top, fabsf(w[k]));
    for (size_t k = 0; k < n; k++) w[k] = roundf(w[k] * 8 / top) * top / 8;
    return w;
}

static Quality measure(Fixture *f) {
    Quality q = {0};
    CU_ASSERT_TRUE_FATAL(f->lab->measure(f->lab, &f->text, &q, &f->c.diag));
    return q;
}

static size_t site_of_kind(const Fixture *f, SiteKind kind, size_t skip) {
    for (size_t i = 0; i < f->nsites; i++)
        if (f->sites[i].kind == kind && skip-- == 0) return i;
    return f->nsites;
}

static void test_unchanged(void) {
    Fixture f;
    fixture_open(&f, 2);
    for (size_t i = 0; i < f.nsites; i += 3)
        CU_ASSERT_TRUE(f.lab->set(f.lab, (uint32_t)i, site_dense(&f, i), &f.c.diag));
    Quality q = measure(&f);
    CU_ASSERT_EQUAL(q.mean_kl, 0);
    CU_ASSERT_EQUAL(q.max_kl, 0);
    CU_ASSERT_EQUAL(q.same_top, 1);
    CU_ASSERT_EQUAL(q.perplexity, q.base_perplexity);
    CU_ASSERT_EQUAL(q.scored, WINDOWS * (LENGTH - 1));
    fixture_close(&f);
}

/* Sites one after the other, up and down the layers: the same figures as from a lab that has cached nothing, and
 * NULL brings everything back. */
static void test_set_and_restore(void) {
    Fixture f, g;
    fixture_open(&f, 2);
    for (size_t k = 0; k < f.nsites; k++) {
        size_t i = k * 7 % f.nsites;
        float *w = site_rounded(&f, i);
        CU_ASSERT_TRUE(f.lab->set(f.lab, (uint32_t)i, w, &f.c.diag));
        Quality q = measure(&f);
        CU_ASSERT_TRUE(q.mean_kl > 0);
        if (k % 5 == 0) {
            fixture_open(&g, 1);
            CU_ASSERT_TRUE(g.lab->set(g.lab, (uint32_t)i, w, &g.c.diag));
            Quality fresh = measure(&g);
            CU_ASSERT_EQUAL(memcmp(&fresh, &q, sizeof q), 0);
            fixture_close(&g);
        }
        CU_ASSERT_TRUE(f.lab->set(f.lab, (uint32_t)i, NULL, &f.c.diag));
    }
    CU_ASSERT_EQUAL(measure(&f).max_kl, 0);
    fixture_close(&f);
}

/* With room for the rows of two places of the model, and log-probabilities on disk, every figure is the same. */
static void test_little_memory(void) {
    Fixture all, few;
    fixture_open(&all, 2);
    fixture_open(&few, 2);
    LabTexts *texts = &((LabCpu *)few.lab->self)->texts;
    const size_t place = sizeof(float) * WINDOWS * LENGTH * 256;
    texts->most = 2 * place + place / 2;
    bool dropped = false;
    for (uint32_t i = 0; i < all.nsites; i++) {
        const Site *s = &all.sites[i];
        Moments want, got;
        float *w = site_rounded(&all, i);
        if (s->kind == SITE_TABLE) continue;
        CU_ASSERT_TRUE_FATAL(all.lab->moments(all.lab, &all.text, &i, 1, all.c.arena, &want, &all.c.diag));
        CU_ASSERT_TRUE_FATAL(few.lab->moments(few.lab, &few.text, &i, 1, few.c.arena, &got, &few.c.diag));
        CU_ASSERT_EQUAL(memcmp(want.xx, got.xx, (size_t)(s->cols * s->cols) * sizeof *want.xx), 0);
        CU_ASSERT_TRUE(all.lab->set(all.lab, i, w, &all.c.diag) && few.lab->set(few.lab, i, w, &few.c.diag));
        if (i % 4 == 0) {
            const Quality a = measure(&all), b = measure(&few);
            CU_ASSERT_EQUAL(memcmp(&a, &b, sizeof a), 0);
        }
        CU_ASSERT_TRUE(texts->held > 0 && texts->held <= texts->most);
        dropped |= ((LabCpu *)all.lab->self)->texts.held > texts->most;
    }
    CU_ASSERT_TRUE(dropped);
    fixture_close(&few);
    fixture_close(&all);
}

/* An eighth of the weights; of small ones more, of large ones a gigabyte. */
static void test_memory_bounds(void) {
    const uint64_t mb = 1 << 20;
    CU_ASSERT_EQUAL(lab_texts_most(20 * mb), 246 * mb);
    CU_ASSERT_EQUAL(lab_texts_most(480 * mb), 96 * mb);
    CU_ASSERT_EQUAL(lab_texts_most(4096 * mb), 512 * mb);
    CU_ASSERT_EQUAL(lab_texts_most(100000 * mb), 1024 * mb);
}

/* What set computes is what the graph with that matrix computes when it is compiled. */
static void test_graph(void) {
    Fixture f;
    fixture_open(&f, 2);
    Graph *g = graph_copy(f.c.graph, f.c.arena);
    for (size_t i = 0; i < f.nsites; i++) {
        float *w = site_rounded(&f, i);
        CU_ASSERT_TRUE(f.lab->set(f.lab, (uint32_t)i, w, &f.c.diag));
        CU_ASSERT_TRUE(site_write_dense(g, &f.sites[i], w, DT_F32, &f.c.diag));
    }
    Quality a = measure(&f), b = {0};
    CU_ASSERT_TRUE(f.lab->measure_graph(f.lab, g, &f.text, &b, &f.c.diag));
    CU_ASSERT_TRUE(a.mean_kl > 0.001);
    CU_ASSERT_DOUBLE_EQUAL(a.mean_kl, b.mean_kl, 1e-5 * a.mean_kl);
    CU_ASSERT_DOUBLE_EQUAL(a.perplexity, b.perplexity, 1e-5 * a.perplexity);
    CU_ASSERT_TRUE(f.lab->measure_graph(f.lab, f.c.graph, &f.text, &b, &f.c.diag));
    CU_ASSERT_TRUE(b.max_kl < 1e-6); /* fp16 weights where the lab has them in fp32: the same numbers */
    fixture_close(&f);
}

/* A lab of a smaller graph, told to compare with the whole one's: what the whole one's lab says of that graph. */
static void test_compare(void) {
    Fixture f;
    fixture_open(&f, 2);
    LossyStep *offered, step = {.kind = STEP_COUNT};
    size_t n = steps_offered(f.c.graph, f.c.arena, &offered);
    for (size_t i = 0; i < n && step.kind == STEP_COUNT; i++)
        if (offered[i].kind == STEP_HEADS) step = offered[i];
    CU_ASSERT_EQUAL_FATAL(step.kind, STEP_HEADS);
    CU_ASSERT_TRUE_FATAL(
        steps_prepare(f.c.graph, f.sites, f.nsites, f.lab, &f.text, &step, 1, f.c.arena, &f.c.diag));
    Graph *g = steps_apply(f.c.graph, &step, 1, f.c.arena, &f.c.diag);
    CU_ASSERT_PTR_NOT_NULL_FATAL(g);
    Site *sites;
    size_t nsites = sites_find(g, f.c.arena, &sites);
    Lab *small;
    Quality whole, own;
    CU_ASSERT_TRUE_FATAL(lab_new(g, sites, nsites, 128, 2, &small, &f.c.diag));
    lab_compare(small, f.lab);
    CU_ASSERT_TRUE(small->measure(small, &f.text, &own, &f.c.diag));
    CU_ASSERT_TRUE(f.lab->measure_graph(f.lab, g, &f.text, &whole, &f.c.diag));
    CU_ASSERT_TRUE(whole.mean_kl > 1e-5);
    CU_ASSERT_DOUBLE_EQUAL(own.mean_kl, whole.mean_kl, 1e-5 * whole.mean_kl);
    CU_ASSERT_DOUBLE_EQUAL(own.base_perplexity, whole.base_perplexity, 1e-9 * whole.base_perplexity);
    lab_free(small);
    fixture_close(&f);
}

/* The second half alone; a text that was first seen while sites were changed has the same base. */
static void test_texts(void) {
    Fixture f, g;
    fixture_open(&f, 2);
    fixture_open(&g, 2);
    Quality a, b;
    Windows half = {f.ids, WINDOWS, LENGTH, LENGTH / 2};
    size_t i = site_of_kind(&f, SITE_LINEAR, 3);
    CU_ASSERT_TRUE(f.lab->measure(f.lab, &half, &a, &f.c.diag));
    CU_ASSERT_EQUAL(a.scored, WINDOWS * (LENGTH / 2 - 1));
    CU_ASSERT_TRUE(f.lab->set(f.lab, (uint32_t)i, site_rounded(&f, i), &f.c.diag));
    CU_ASSERT_TRUE(f.lab->measure(f.lab, &half, &a, &f.c.diag));
    CU_ASSERT_TRUE(g.lab->set(g.lab, (uint32_t)i, site_rounded(&f, i), &f.c.diag));
    CU_ASSERT_TRUE(g.lab->measure(g.lab, &half, &b, &g.c.diag));
    CU_ASSERT_TRUE(a.mean_kl > 0);
    CU_ASSERT_EQUAL(memcmp(&a, &b, sizeof a), 0);
    Windows one = {f.ids, 1, LENGTH, 0};
    CU_ASSERT_TRUE(f.lab->measure(f.lab, &one, &b, &f.c.diag));
    CU_ASSERT_TRUE(isinf(b.mean_kl_error));
    fixture_close(&f);
    fixture_close(&g);
}

static void test_refusals(void) {
    Fixture f;
    fixture_open(&f, 1);
    Quality q;
    Windows none = {f.ids, 0, LENGTH, 0}, late = {f.ids, 1, LENGTH, LENGTH - 1}, far = {f.ids, 1, 129, 0};
    CU_ASSERT_FALSE(f.lab->measure(f.lab, &none, &q, &f.c.diag));
    CU_ASSERT_FALSE(f.lab->measure(f.lab, &late, &q, &f.c.diag));
    CU_ASSERT_FALSE(f.lab->measure(f.lab, &far, &q, &f.c.diag));
    f.ids[LENGTH + 3] = 1 << 20; /* no token */
    CU_ASSERT_FALSE(f.lab->measure(f.lab, &f.text, &q, &f.c.diag));
    f.ids[LENGTH + 3] = 5;
    CU_ASSERT_TRUE(f.lab->measure(f.lab, &f.text, &q, &f.c.diag));
    Lab *lab;
    CU_ASSERT_FALSE(lab_new(f.c.imported, NULL, 0, 64, 1, &lab, &f.c.diag)); /* not stateful */
    CU_ASSERT_PTR_NULL(lab);
    fixture_close(&f);
}

/* ---- moments ---- */

static void moments_of(Fixture *f, const uint32_t *sites, uint32_t n, Moments *out) {
    CU_ASSERT_TRUE_FATAL(f->lab->moments(f->lab, &f->text, sites, n, f->c.arena, out, &f->c.diag));
}

/* The moments of the first product after the embedding are those of rows that the reference computes. */
static void test_moments(void) {
    Fixture f, g;
    fixture_open(&f, 2);
    fixture_open(&g, 1);
    uint32_t i = (uint32_t)site_of_kind(&f, SITE_LINEAR, 0), n = 0;
    Graph *graph = f.c.graph;
    int64_t bind[MAX_RANK + 8] = {0};
    bind[SYM_BATCH.id] = WINDOWS;
    bind[SYM_SEQ.id] = LENGTH;
    Tensor *in = arena_array_of(f.c.arena, graph->inputs.count, Tensor), rows;
    for (size_t k = 0; k < graph->inputs.count; k++) {
        const Port *p = &graph->inputs.data[k];
        const Type *t = graph_type(graph, p->v);
        in[k] = (Tensor){.dtype = t->dtype, .rank = t->rank};
        for (uint32_t r = 0; r < t->rank; r++)
            dim_eval(graph, t->dim[r], bind, graph->symbols.count, &in[k].dim[r]);
        in[k].data = arena_array(f.c.arena, tensor_count(&in[k]) + 1, dtype_size(t->dtype));
        for (size_t e = 0; p->role == ROLE_TOKENS && e < tensor_count(&in[k]); e++) {
            int64_t id = f.ids[e];
            tensor_store_i64(&in[k], (int64_t)e, 1, &id);
        }
    }
    ValId x = graph_node(graph, f.sites[i].user)->in[0];
    EvalArgs args = {
        .bind = bind, .nbind = graph->symbols.count, .inputs = in, .ninputs = graph->inputs.count};
    CU_ASSERT_TRUE_FATAL(eval_graph(graph, &args, &x, 1, &rows, f.c.arena, &f.c.diag));
    Moments m, again;
    moments_of(&f, &i, 1, &m);
    moments_of(&g, &i, 1, &again);
    int64_t k = m.cols;
    CU_ASSERT_EQUAL(m.rows, WINDOWS * LENGTH);
    CU_ASSERT_EQUAL_FATAL(k, f.sites[i].cols);
    CU_ASSERT_EQUAL(memcmp(m.xx, again.xx, (size_t)(k * k) * sizeof(float)), 0); /* whatever the threads */
    double off = 0, size = 0;
    for (int64_t p = 0; p < k; p++)
        for (int64_t q = 0; q < k; q++) {
            double sum = 0;
            for (int64_t r = 0; r < m.rows; r++)
                sum +=
                    tensor_get_f64(&rows, (size_t)(r * k + p)) * tensor_get_f64(&rows, (size_t)(r * k + q));
            sum /= (double)m.rows;
            off = fmax(off, fabs(sum - (double)m.xx[p * k + q]));
            size = fmax(size, fabs(sum));
            n += m.xx[p * k + q] != m.xx[q * k + p];
        }
    CU_ASSERT_EQUAL(n, 0); /* symmetric to the bit */
    CU_ASSERT_TRUE(off < 1e-5 * size);
    for (int64_t p = 0; p < k; p++) {
        double sum = 0;
        for (int64_t r = 0; r < m.rows; r++) sum += tensor_get_f64(&rows, (size_t)(r * k + p));
        CU_ASSERT_DOUBLE_EQUAL((double)m.sum[p], sum / (double)m.rows, 1e-5);
    }
    fixture_close(&f);
    fixture_close(&g);
}

/* Products of one input share arrays; tables multiply nothing; what changed before a product changes its input. */
static void test_moments_of_many(void) {
    Fixture f;
    fixture_open(&f, 2);
    uint32_t *all = arena_array_of(f.c.arena, f.nsites, uint32_t);
    Moments *m = arena_array_of(f.c.arena, f.nsites, Moments), late;
    for (uint32_t i = 0; i < f.nsites; i++) all[i] = i;
    moments_of(&f, all, (uint32_t)f.nsites, m);
    uint32_t shared = 0, tables = 0, last = 0;
    for (uint32_t i = 0; i < f.nsites; i++) {
        for (uint32_t k = 0; k < i; k++) shared += m[i].xx == m[k].xx;
        tables += f.sites[i].kind == SITE_TABLE && m[i].rows == 0 && m[i].xx[0] == 1 && m[i].xx[1] == 0;
        if (f.sites[i].kind == SITE_LINEAR) last = i;
    }
    CU_ASSERT_TRUE(shared > 0);
    CU_ASSERT_TRUE(tables > 0);
    moments_of(&f, &last, 1, &late);
    size_t bytes = (size_t)(late.cols * late.cols) * sizeof(float);
    CU_ASSERT_EQUAL(memcmp(late.xx, m[last].xx, bytes), 0);
    size_t first = site_of_kind(&f, SITE_LINEAR, 0);
    CU_ASSERT_TRUE(f.lab->set(f.lab, (uint32_t)first, site_rounded(&f, first), &f.c.diag));
    moments_of(&f, &last, 1, &late);
    CU_ASSERT_NOT_EQUAL(memcmp(late.xx, m[last].xx, bytes), 0);
    fixture_close(&f);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("lab", NULL, NULL);
    CU_add_test(s, "the model as it is is no distance away", test_unchanged);
    CU_add_test(s, "sites set and restored", test_set_and_restore);
    CU_add_test(s, "little memory", test_little_memory);
    CU_add_test(s, "memory's bounds", test_memory_bounds);
    CU_add_test(s, "a graph compiled anew", test_graph);
    CU_add_test(s, "a smaller graph's lab against the whole one's", test_compare);
    CU_add_test(s, "texts", test_texts);
    CU_add_test(s, "refusals", test_refusals);
    CU_add_test(s, "moments of a product", test_moments);
    CU_add_test(s, "moments of all products", test_moments_of_many);
    return unit_end();
}
