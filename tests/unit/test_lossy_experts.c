/* test_lossy_experts.c: stacks of experts as sites of the lossy passes: found, read, written, set in a lab, quantised with
 * moments of each expert's own inputs. */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "codegen/lab.h"
#include "tests/unit/experts_model.h"
#include "tests/unit/unit.h"
#include "tools/driver.h"

enum { EXPERTS = 6, SLOTS = 2, WIDTH = 32, INNER = 48, LENGTH = 40, WINDOWS = 12 };

typedef struct {
    Compile c;
    Site *sites;
    size_t nsites;
    Lab *lab;
    int32_t ids[WINDOWS * LENGTH];
    Windows text;
} Fixture;

static void fixture_open(Fixture *f, Form form, int inner) {
    char path[64];
    CompilePasses p = {.pass = {.kv_cache = true, .opt_level = 1}, .stop_after = "dce-split"};
    memset(f, 0, sizeof *f);
    compile_init(&f->c);
    snprintf(path, sizeof path, "/tmp/gptc-lossy-experts-%d.gir", (int)getpid());
    FILE *file = fopen(path, "w");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    fputs(experts_model(form, EXPERTS, SLOTS, WIDTH, inner, f->c.arena), file);
    CU_ASSERT_EQUAL_FATAL(fclose(file), 0);
    CU_ASSERT_TRUE_FATAL(compile_open(&f->c, path, &(ImportOptions){0}));
    unlink(path);
    CU_ASSERT_TRUE_FATAL(compile_passes(&f->c, &p));
    f->nsites = sites_find(f->c.graph, f->c.arena, &f->sites);
    uint64_t seed = 5;
    for (int i = 0; i < WINDOWS * LENGTH; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        f->ids[i] = (int32_t)((seed >> 33) % EXPERT_VOCAB);
    }
    f->text = (Windows){f->ids, WINDOWS, LENGTH, 0};
}

static void lab_open(Fixture *f) {
    CU_ASSERT_TRUE_FATAL(lab_new(f->c.graph, f->sites, f->nsites, LENGTH, 2, &f->lab, &f->c.diag));
}

static void fixture_close(Fixture *f) {
    lab_free(f->lab);
    compile_free(&f->c);
}

static float *matrix_of(Fixture *f, Graph *g, const Site *s) {
    float *w = arena_array_of(f->c.arena, (size_t)(s->rows * s->cols), float);
    CU_ASSERT_TRUE_FATAL(site_read(g, s, w, &f->c.diag));
    return w;
}

/* Element (expert, output, input) of what a routed product reads, by the reference. */
static double element(const Tensor *t, bool trans, int64_t e, int64_t n, int64_t k) {
    return tensor_get_f64(
        t, (size_t)(trans ? (e * t->dim[1] + n) * t->dim[2] + k : (e * t->dim[1] + k) * t->dim[2] + n));
}

/* The site's rows are what its product reads. */
static void reads_as(Fixture *f, Graph *g, const Site *s, const float *w) {
    const Node *user = graph_node(g, s->user);
    EvalArgs args = {0};
    Tensor t;
    CU_ASSERT_TRUE_FATAL(eval_graph(g, &args, &user->in[2], 1, &t, f->c.arena, &f->c.diag));
    int64_t outputs = site_outputs(s), wrong = 0;
    for (int64_t i = 0; i < s->rows * s->cols; i++) {
        int64_t row = i / s->cols;
        wrong += element(&t, user->attr.trans, row / outputs, row % outputs, i % s->cols) != (double)w[i];
    }
    CU_ASSERT_EQUAL(wrong, 0);
}

static void form_case(Form form, size_t stacks) {
    Fixture f;
    fixture_open(&f, form, INNER);
    Graph *g = f.c.graph;
    size_t found = 0;
    for (size_t i = 0; i < f.nsites; i++) {
        const Site *s = &f.sites[i];
        if (!s->experts) continue;
        found++;
        CU_ASSERT_EQUAL(s->experts, EXPERTS);
        CU_ASSERT_EQUAL(s->rows % (16 * EXPERTS), 0);
        CU_ASSERT_EQUAL(s->kind, SITE_LINEAR);
        CU_ASSERT_EQUAL(s->layer, 0);
        CU_ASSERT_FALSE(s->fixed);
        CU_ASSERT_EQUAL(s->bits, 32);
        CU_ASSERT_DOUBLE_EQUAL(site_products(g, s), (double)(s->rows * s->cols) * SLOTS / EXPERTS, 1e-6);
        float *w = matrix_of(&f, g, s);
        reads_as(&f, g, s, w);
        QuantMatrix q;
        CU_ASSERT_TRUE_FATAL(quantize_matrix(w, format_find(found % 2 ? "n4g64" : "q6g64"),
                                             &(QuantOptions){0}, s->rows, s->cols, f.c.arena, &q, NULL,
                                             &f.c.diag));
        for (int again = 0; again < 2; again++) {
            CU_ASSERT_TRUE(site_write_dense(g, s, w, again ? DT_F16 : DT_F32, &f.c.diag));
            CU_ASSERT_TRUE(site_write(g, s, &q, &f.c.diag));
            quant_dense(&q, w);
            CU_ASSERT_EQUAL(memcmp(w, matrix_of(&f, g, s), (size_t)(s->rows * s->cols) * sizeof *w), 0);
            reads_as(&f, g, s, w);
        }
        GroupView view; /* what is written is stored as it is */
        const Node *user = graph_node(g, s->user);
        CU_ASSERT_TRUE(group_stack(g, user->in[2], !user->attr.trans, f.c.arena, &view, &f.c.diag));
        CU_ASSERT_EQUAL(view.codes.dim[0], s->rows);
    }
    CU_ASSERT_EQUAL(found, stacks);
    CU_ASSERT_TRUE(graph_verify(g, &f.c.diag));
    Site *again; /* and is no site of its own any more */
    size_t n = sites_find(g, f.c.arena, &again), fixed = 0;
    for (size_t i = 0; i < n; i++) fixed += again[i].experts && again[i].fixed;
    CU_ASSERT_EQUAL(fixed, stacks);
    fixture_close(&f);
}

static void test_forms(void) {
    form_case(UNROLLED, 3);
    form_case(LISTED, 2);
    form_case(DENSE, 2);
}

/* Experts whose outputs end inside a panel are left alone. */
static void test_odd(void) {
    Fixture f;
    fixture_open(&f, UNROLLED, 40);
    size_t found = 0;
    for (size_t i = 0; i < f.nsites; i++) found += f.sites[i].experts > 0 && f.sites[i].cols == 40;
    CU_ASSERT_EQUAL(found, 1);
    for (size_t i = 0; i < f.nsites; i++) CU_ASSERT_TRUE(!f.sites[i].experts || f.sites[i].cols == 40);
    fixture_close(&f);
}

/* What ONNX Runtime has compressed is stored as it came. */
static void test_imported(void) {
    static const struct {
        const char *name;
        int64_t group;
    } file[] = {{"qmoe_blocks", 16}, {"qmoe_blocks_zeros", 16}, {"qmoe_rows", 32}};
    for (size_t i = 0; i < COUNT_OF(file); i++) {
        Compile c;
        size_t routed = 0;
        compile_init(&c);
        const char *path =
            arena_printf(c.arena, "%s/tests/corpus/nodes/%s/model.onnx", GPTC_SOURCE_DIR, file[i].name);
        CU_ASSERT_TRUE_FATAL(compile_open(&c, path, &(ImportOptions){0}));
        FOR_NODES (c.imported, id) {
            const Node *n = graph_node(c.imported, id);
            GroupView v;
            if (n->op != OP_ROUTED) continue;
            const Type *w = graph_type(c.imported, n->in[2]);
            routed++;
            CU_ASSERT_TRUE_FATAL(group_stack(c.imported, n->in[2], false, c.arena, &v, &c.diag));
            CU_ASSERT_EQUAL(v.codes.dim[0], w->dim[0].v * w->dim[1].v);
            CU_ASSERT_EQUAL(v.codes.dim[1], w->dim[2].v);
            CU_ASSERT_EQUAL(v.group, file[i].group);
            CU_ASSERT_FALSE(group_stack(c.imported, n->in[2], true, c.arena, &v, &c.diag));
        }
        CU_ASSERT_EQUAL(routed, 2);
        compile_free(&c);
    }
}

/* ---- a lab ---- */

static Quality measure(Fixture *f, const Graph *g) {
    Quality q = {0};
    CU_ASSERT_TRUE_FATAL(g ? f->lab->measure_graph(f->lab, g, &f->text, &q, &f->c.diag)
                           : f->lab->measure(f->lab, &f->text, &q, &f->c.diag));
    return q;
}

/* What is set is computed with, what is written computes the same, and NULL brings everything back. */
static void lab_case(Form form) {
    Fixture f;
    fixture_open(&f, form, INNER);
    lab_open(&f);
    Graph *g = graph_copy(f.c.graph, f.c.arena);
    for (uint32_t i = 0; i < f.nsites; i++) {
        const Site *s = &f.sites[i];
        if (!s->experts) continue;
        float *w = matrix_of(&f, f.c.graph, s);
        QuantMatrix q;
        Quality before = measure(&f, NULL), again; /* of the sites that are set already */
        CU_ASSERT_TRUE(f.lab->set(f.lab, i, w, &f.c.diag));
        again = measure(&f, NULL);
        CU_ASSERT_EQUAL(memcmp(&again, &before, sizeof again), 0);
        CU_ASSERT_TRUE_FATAL(quantize_matrix(w, format_find("n3g32"), &(QuantOptions){0}, s->rows, s->cols,
                                             f.c.arena, &q, NULL, &f.c.diag));
        quant_dense(&q, w);
        CU_ASSERT_TRUE(f.lab->set(f.lab, i, w, &f.c.diag));
        CU_ASSERT_TRUE(site_write(g, s, &q, &f.c.diag));
        CU_ASSERT_TRUE(measure(&f, NULL).mean_kl != before.mean_kl);
        CU_ASSERT_TRUE(f.lab->set(f.lab, i, NULL, &f.c.diag));
        again = measure(&f, NULL);
        CU_ASSERT_EQUAL(memcmp(&again, &before, sizeof again), 0);
        CU_ASSERT_TRUE(f.lab->set(f.lab, i, w, &f.c.diag));
    }
    Quality set = measure(&f, NULL), written = measure(&f, g);
    CU_ASSERT_DOUBLE_EQUAL(set.mean_kl, written.mean_kl, 1e-3 * set.mean_kl);
    fixture_close(&f);
}

static void test_lab(void) {
    lab_case(UNROLLED);
    lab_case(LISTED);
    lab_case(DENSE);
}

/* ---- moments ---- */

/* The rows that a product reads and what they are chosen by. */
static void operands(Fixture *f, const Site *s, Tensor *out) {
    Graph *g = f->c.graph;
    int64_t bind[MAX_RANK + 8] = {0};
    bind[SYM_BATCH.id] = WINDOWS;
    bind[SYM_SEQ.id] = LENGTH;
    Tensor *in = arena_array_of(f->c.arena, g->inputs.count, Tensor);
    for (size_t k = 0; k < g->inputs.count; k++) {
        const Port *p = &g->inputs.data[k];
        const Type *t = graph_type(g, p->v);
        in[k] = (Tensor){.dtype = t->dtype, .rank = t->rank};
        for (uint32_t r = 0; r < t->rank; r++) dim_eval(g, t->dim[r], bind, g->symbols.count, &in[k].dim[r]);
        in[k].data = arena_array(f->c.arena, tensor_count(&in[k]) + 1, dtype_size(t->dtype));
        for (size_t e = 0; p->role == ROLE_TOKENS && e < tensor_count(&in[k]); e++) {
            int64_t id = f->ids[e];
            tensor_store_i64(&in[k], (int64_t)e, 1, &id);
        }
    }
    EvalArgs args = {.bind = bind, .nbind = g->symbols.count, .inputs = in, .ninputs = g->inputs.count};
    CU_ASSERT_TRUE_FATAL(eval_graph(g, &args, graph_node(g, s->user)->in, 2, out, f->c.arena, &f->c.diag));
}

/* Sums of x x^T over the slots that chose expert e, or over all with e < 0; so many slots. */
static int64_t direct(const Tensor *x, const Tensor *index, int64_t e, int64_t k, double *xx) {
    int64_t slots = (int64_t)tensor_count(index), each = (int64_t)tensor_count(x) / k < slots ? SLOTS : 1,
            n = 0;
    memset(xx, 0, (size_t)(k * k) * sizeof *xx);
    for (int64_t s = 0; s < slots; s++) {
        if (e >= 0 && tensor_get_f64(index, (size_t)s) != (double)e) continue;
        n++;
        for (int64_t i = 0; i < k * k; i++)
            xx[i] += tensor_get_f64(x, (size_t)(s / each * k + i / k)) *
                     tensor_get_f64(x, (size_t)(s / each * k + i % k));
    }
    return n;
}

static double farthest(const float *got, const double *sum, double rows, int64_t k) {
    double off = 0, size = 0;
    for (int64_t i = 0; i < k * k; i++) {
        off = fmax(off, fabs(sum[i] / rows - (double)got[i]));
        size = fmax(size, fabs(sum[i] / rows));
    }
    return off / size;
}

/* Of each expert alone, with a tenth of a row for each column from all of them; the last product's inputs differ from
 * slot to slot. */
static void test_moments(void) {
    Fixture f;
    fixture_open(&f, UNROLLED, INNER);
    lab_open(&f);
    for (uint32_t i = 0; i < f.nsites; i++) {
        const Site *s = &f.sites[i];
        if (!s->experts) continue;
        Moments m, pooled;
        Tensor in[2];
        int64_t k = s->cols, rows = 0;
        double *xx = arena_array_of(f.c.arena, (size_t)(k * k), double),
               *all = arena_array_of(f.c.arena, (size_t)(k * k), double);
        CU_ASSERT_TRUE_FATAL(f.lab->moments_apart(f.lab, &f.text, &i, 1, f.c.arena, &m, &f.c.diag));
        CU_ASSERT_TRUE_FATAL(f.lab->moments(f.lab, &f.text, &i, 1, f.c.arena, &pooled, &f.c.diag));
        operands(&f, s, in);
        int64_t slots = direct(&in[0], &in[1], -1, k, all);
        CU_ASSERT_TRUE(farthest(m.xx, all, (double)slots, k) < 1e-5);
        CU_ASSERT_TRUE(farthest(pooled.xx, all, (double)slots, k) < 1e-5);
        CU_ASSERT_PTR_NULL(pooled.expert);
        CU_ASSERT_EQUAL_FATAL(m.experts, EXPERTS);
        CU_ASSERT_EQUAL(m.rows, WINDOWS * LENGTH * SLOTS);
        for (int64_t e = 0; e < EXPERTS; e++) {
            int64_t n = direct(&in[0], &in[1], e, k, xx);
            double borrowed = 0.1 * (double)k;
            for (int64_t j = 0; j < k * k; j++) xx[j] += borrowed * all[j] / (double)slots;
            CU_ASSERT_EQUAL(m.expert[e].rows, n);
            CU_ASSERT_TRUE(farthest(m.expert[e].xx, xx, (double)n + borrowed, k) < 1e-5);
            rows += n;
        }
        CU_ASSERT_EQUAL(rows, m.rows);
    }
    fixture_close(&f);
}

/* Losses count as often as an expert is chosen, and error feedback from an expert's own inputs loses less. */
static void test_quantize(void) {
    Fixture f;
    fixture_open(&f, UNROLLED, INNER);
    lab_open(&f);
    double own = 0, shared = 0;
    for (uint32_t i = 0; i < f.nsites; i++) {
        const Site *s = &f.sites[i];
        if (!s->experts) continue;
        const Format *format = format_find("n3g32");
        float *w = matrix_of(&f, f.c.graph, s);
        Moments m, pooled;
        QuantMatrix q;
        double loss;
        CU_ASSERT_TRUE_FATAL(f.lab->moments_apart(f.lab, &f.text, &i, 1, f.c.arena, &m, &f.c.diag));
        pooled = m;
        pooled.expert = NULL;
        QuantOptions o = {.moments = &m, .gptq = true, .order = true};
        CU_ASSERT_TRUE_FATAL(
            quantize_matrix(w, format, &o, s->rows, s->cols, f.c.arena, &q, &loss, &f.c.diag));
        CU_ASSERT_DOUBLE_EQUAL(quant_loss(w, &q, &m), loss, 1e-3 * loss);
        CU_ASSERT_TRUE(loss < 0.1 * matrix_energy(w, &m, s->rows, s->cols));
        own += loss;
        o.moments = &pooled;
        CU_ASSERT_TRUE_FATAL(
            quantize_matrix(w, format, &o, s->rows, s->cols, f.c.arena, &q, &loss, &f.c.diag));
        shared += quant_loss(w, &q, &m);
        m.experts = 5; /* which its rows are no multiple of */
        o.moments = &m;
        CU_ASSERT_EQUAL(quantize_matrix(w, format, &o, s->rows, s->cols, f.c.arena, &q, &loss, &f.c.diag),
                        s->rows % 5 == 0);
    }
    CU_ASSERT_TRUE(own < 0.95 * shared);
    fixture_close(&f);
}

/* All sites one after the other: what the lab has is what the graph computes. */
static void test_graph(void) {
    Fixture f;
    fixture_open(&f, DENSE, INNER);
    lab_open(&f);
    Graph *g = graph_copy(f.c.graph, f.c.arena);
    const Format **chosen = arena_array_of(f.c.arena, f.nsites, const Format *);
    for (size_t i = 0; i < f.nsites; i++) chosen[i] = format_find(i % 2 ? "n4g64" : "q5g64");
    uint64_t before, after;
    graph_weigh(g, &before);
    CU_ASSERT_TRUE_FATAL(lossy_quantize(g, f.sites, f.nsites, chosen, f.lab, &f.text, NULL, &f.c.diag));
    CU_ASSERT_TRUE(graph_verify(g, &f.c.diag));
    graph_weigh(g, &after);
    CU_ASSERT_TRUE(after * 5 < before);
    Quality set = measure(&f, NULL), written = measure(&f, g);
    CU_ASSERT_TRUE(set.mean_kl > 0);
    CU_ASSERT_DOUBLE_EQUAL(set.mean_kl, written.mean_kl, 1e-3 * set.mean_kl);
    fixture_close(&f);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("experts as sites", NULL, NULL);
    CU_add_test(s, "found, read and written", test_forms);
    CU_add_test(s, "outputs that end inside a panel", test_odd);
    CU_add_test(s, "compressed already", test_imported);
    CU_add_test(s, "set in a lab", test_lab);
    CU_add_test(s, "moments of each", test_moments);
    CU_add_test(s, "quantised by their own inputs", test_quantize);
    CU_add_test(s, "a whole graph", test_graph);
    return unit_end();
}
