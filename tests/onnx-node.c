/* onnx-node.c: runs ONNX's node tests through the compiler and the runtime.
 *
 *   onnx-node [--reference] [--min PERCENT] DIR...
 *
 * A DIR has model.onnx and test_data_set_N/{input,output}_K.pb, or is a folder of such folders. A model is compiled to
 * an artifact, which is run through the public API and compared as ONNX's own runner does: the same dtype and
 * shape, floats within 1e-3 relative and 1e-7 absolute (bf16: 2^-6), NaN equal to NaN, all else exact. Inputs that
 * decide a shape must be constants, so where a model does not compile as it is, some of its inputs are given to the
 * importer, as few as possible. --reference runs the imported graph with the interpreter instead.
 * Prints a line for every test that does not pass, and "N passed, N failed, N skipped". Exit status 1 when fewer
 * than PERCENT (100) of all tests pass. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frontend/import.h"
#include "runtime/gptc.h"
#include "tools/driver.h"

#define MOST_PORTS 32
#define MOST_BOUND_ELEMENTS 4096

typedef enum { PASSED, FAILED, SKIPPED } Outcome;

typedef struct {
    bool reference;
    char artifact[64]; /* where models are compiled to */
    uint32_t count[3];
} Runner;

/* One data set of one test. */
typedef struct {
    const Runner *runner;
    const char *dir, *set;
    Arena *arena;
    const char *reason; /* why it does not pass */
    size_t nin, nout;
    const char *in_name[MOST_PORTS], *out_name[MOST_PORTS];
    Tensor in[MOST_PORTS], out[MOST_PORTS];
} Test;

static const char *diag_reason(Arena *a, const Diag *d) {
    for (size_t i = 0; i < d->items.count; i++)
        if (d->items.data[i].level >= DIAG_ERROR) {
            Text t = text_new(a);
            diag_format(&t, &d->items.data[i]);
            return t.data;
        }
    return "no reason given";
}

static bool is_file(const char *path) { return access(path, R_OK) == 0; }

/* ---- reading a test ---- */

static bool is_init(const OGraph *g, const char *name) {
    for (size_t i = 0; i < g->ninits; i++)
        if (!strcmp(g->inits[i].name, name)) return true;
    return false;
}

/* Names of the ports; SKIPPED where one is no tensor. */
static Outcome read_ports(Test *t, const OGraph *g) {
    for (size_t i = 0; i < g->ninputs + g->noutputs; i++) {
        bool input = i < g->ninputs;
        const OInfo *p = input ? &g->inputs[i] : &g->outputs[i - g->ninputs];
        if (input && is_init(g, p->name)) continue;
        t->reason = arena_printf(t->arena, "'%s' is a sequence, a map or optional", p->name);
        if (input && !p->tensor) return SKIPPED; /* an output may be declared by its name alone */
        t->reason = arena_printf(t->arena, "'%s' holds strings", p->name);
        if (p->type == 8) return SKIPPED;
        t->reason = "too many ports";
        if (t->nin == MOST_PORTS || t->nout == MOST_PORTS) return FAILED;
        if (input)
            t->in_name[t->nin++] = arena_strdup(t->arena, p->name);
        else
            t->out_name[t->nout++] = arena_strdup(t->arena, p->name);
    }
    return PASSED;
}

static bool read_tensors(Test *t, const char *kind, size_t n, Tensor *out, Diag *d) {
    for (size_t i = 0; i < n; i++) {
        const char *path = arena_printf(t->arena, "%s/%s/%s_%zu.pb", t->dir, t->set, kind, i);
        if (!onnx_tensor_read(path, t->arena, &out[i], d)) return false;
    }
    return true;
}

static Outcome read_test(Test *t, Diag *d) {
    FileView f;
    OModel m;
    if (!file_map(arena_printf(t->arena, "%s/model.onnx", t->dir), &f, d)) return FAILED;
    Outcome o = onnx_view(f.data, f.bytes, t->arena, &m, d) ? read_ports(t, &m.graph) : FAILED;
    file_unmap(&f);
    if (o != PASSED) return o;
    t->reason = NULL;
    size_t stored = 1; /* what is not defined whole has no file */
    while (stored < t->nout && is_file(arena_printf(t->arena, "%s/%s/output_%zu.pb", t->dir, t->set, stored)))
        stored++;
    t->nout = t->nout < stored ? t->nout : stored;
    return read_tensors(t, "input", t->nin, t->in, d) && read_tensors(t, "output", t->nout, t->out, d)
               ? PASSED
               : FAILED;
}

/* ---- comparing ---- */

static bool close_enough(DType t, double want, double got) {
    if (want == got || (isnan(want) && isnan(got))) return true;
    return dtype_is_float(t) && fabs(want - got) <= 1e-7 + (t == DT_BF16 ? 0x1p-6 : 1e-3) * fabs(want);
}

static bool compare(Test *t, size_t k, const Tensor *got) {
    const Tensor *want = &t->out[k];
    const char *name = t->out_name[k];
    if (got->dtype != want->dtype || got->rank != want->rank ||
        memcmp(got->dim, want->dim, want->rank * sizeof *want->dim) != 0) {
        t->reason = arena_printf(
            t->arena, "'%s' has another dtype or shape than expected (%s rank %u, not %s rank %u)", name,
            dtype_name(got->dtype), got->rank, dtype_name(want->dtype), want->rank);
        return false;
    }
    size_t n = tensor_count(want);
    if (!dtype_is_float(want->dtype) &&
        (n == 0 || !memcmp(want->data, got->data, n * dtype_size(want->dtype))))
        return true;
    for (size_t i = 0; i < n; i++) {
        double w = tensor_get_f64(want, i), g = tensor_get_f64(got, i);
        if (close_enough(want->dtype, w, g)) continue;
        t->reason = arena_printf(t->arena, "'%s'[%zu] is %.9g, not %.9g", name, i, g, w);
        return false;
    }
    return true;
}

/* ---- running ---- */

static DType dtype_of(gptc_dtype t) {
    for (int i = 1; i < DT_COUNT; i++)
        if (art_dtype_exact((DType)i) == (uint32_t)t) return (DType)i;
    return DT_NONE;
}

static size_t input_named(const Test *t, const char *name) {
    size_t i = 0;
    while (i < t->nin && strcmp(t->in_name[i], name) != 0) i++;
    return i;
}

static gptc_status run_function(Test *t, gptc_function *f, const gptc_model *m, gptc_detail *why) {
    gptc_tensor in[MOST_PORTS];
    int32_t n = gptc_inputs(m);
    for (int32_t i = 0; i < n; i++) {
        gptc_port port;
        gptc_input(m, i, &port);
        size_t k = input_named(t, port.name);
        if (k == t->nin) return GPTC_E_ARGUMENT;
        in[i] = (gptc_tensor){(gptc_dtype)art_dtype_exact(t->in[k].dtype), t->in[k].rank, {0}, t->in[k].data};
        memcpy(in[i].dim, t->in[k].dim, sizeof t->in[k].dim);
    }
    return gptc_function_run(f, in, n, why);
}

static Outcome run_artifact(Test *t) {
    gptc_model *m = NULL;
    gptc_function *f = NULL;
    gptc_detail why = {""};
    gptc_function_options options = {sizeof options, 1};
    gptc_status st = gptc_open(t->runner->artifact, NULL, &m, &why);
    if (!st) st = gptc_function_new(m, &options, &f, &why);
    if (!st) st = run_function(t, f, m, &why);
    Outcome o = st ? FAILED : PASSED;
    if (st) t->reason = arena_printf(t->arena, "run: %s (%s)", gptc_strerror(st), why.text);
    for (size_t k = 0; k < t->nout && o == PASSED; k++) {
        const gptc_tensor *y = gptc_function_output(f, (int32_t)k);
        Tensor got = {dtype_of(y->dtype), (uint8_t)y->rank, {0}, (void *)(uintptr_t)y->data};
        memcpy(got.dim, y->dim, sizeof y->dim);
        if (!compare(t, k, &got)) o = FAILED;
    }
    gptc_function_free(f);
    gptc_close(m);
    return o;
}

/* Lengths of the inputs' free dimensions. */
static void bind_symbols(const Test *t, Graph *g, Tensor *in, int64_t *bind) {
    for (size_t i = 0; i < g->inputs.count; i++) {
        const Type *type = graph_type(g, g->inputs.data[i].v);
        size_t k = input_named(t, g->inputs.data[i].name);
        if (k == t->nin) continue;
        in[i] = t->in[k];
        for (uint32_t j = 0; j < type->rank && j < in[i].rank; j++)
            for (uint32_t s = 1; s < g->symbols.count; s++)
                if (dim_eq(type->dim[j], dim_sym(g, (SymId){s}))) bind[s] = in[i].dim[j];
    }
}

static Outcome run_reference(Test *t, Compile *c) {
    Graph *g = c->imported;
    Tensor in[MOST_PORTS] = {{0}}, out[MOST_PORTS];
    ValId want[MOST_PORTS];
    int64_t *bind = arena_array_of(t->arena, g->symbols.count, int64_t);
    bind_symbols(t, g, in, bind);
    for (size_t k = 0; k < t->nout; k++) want[k] = g->outputs.data[k].v;
    EvalArgs args = {.bind = bind, .nbind = g->symbols.count, .inputs = in, .ninputs = g->inputs.count};
    bool ok = eval_graph(g, &args, want, t->nout, out, t->arena, &c->diag);
    if (!ok) t->reason = arena_printf(t->arena, "reference: %s", diag_reason(t->arena, &c->diag));
    for (size_t k = 0; k < t->nout && ok; k++) ok = compare(t, k, &out[k]);
    return ok ? PASSED : FAILED;
}

/* ---- compiling ---- */

/* Compiles with the inputs of `mask` bound and runs; false when it does not compile, with the reason. */
static bool try_bound(Test *t, uint32_t mask, Outcome *o) {
    Compile c;
    CompileResult r;
    BoundInput bound[MOST_PORTS];
    ImportOptions opt = {.bound = bound};
    CompilePasses passes = {.pass = {.kv_cache = true, .opt_level = 1}};
    CompileWrite write = {.eos = -1, .seed = 1};
    for (size_t i = 0; i < t->nin; i++)
        if (mask >> i & 1) bound[opt.nbound++] = (BoundInput){t->in_name[i], t->in[i]};
    compile_init(&c);
    const char *path = arena_printf(t->arena, "%s/model.onnx", t->dir);
    bool ok = compile_open(&c, path, &opt);
    if (t->runner->reference)
        *o = ok ? run_reference(t, &c) : FAILED;
    else
        ok = ok && compile_passes(&c, &passes) && compile_write(&c, path, t->runner->artifact, 0, &write, &r);
    if (!ok) t->reason = diag_reason(t->arena, &c.diag);
    compile_free(&c);
    if (ok && !t->runner->reference) *o = run_artifact(t);
    return ok;
}

/* Which inputs to bind, the fewest first: none, one, all small integers but the first input, all but the first,
 * all. */
static size_t bound_masks(const Test *t, uint32_t *mask) {
    size_t n = 1;
    uint32_t all = 0, ints = 0;
    mask[0] = 0;
    for (size_t i = t->nin; i-- > 0;) {
        if (tensor_count(&t->in[i]) > MOST_BOUND_ELEMENTS) continue;
        mask[n++] = 1u << i;
        all |= 1u << i;
        if (!dtype_is_float(t->in[i].dtype)) ints |= 1u << i;
    }
    mask[n++] = ints & ~1u;
    mask[n++] = all & ~1u;
    mask[n++] = all;
    return n;
}

static Outcome run_set(Test *t) {
    uint32_t mask[MOST_PORTS + 4];
    const char *first = NULL;
    Diag d;
    diag_init(&d);
    Outcome o = read_test(t, &d);
    if (o == FAILED && d.items.count) t->reason = diag_reason(t->arena, &d);
    diag_free(&d);
    if (o != PASSED) return o;
    size_t n = bound_masks(t, mask);
    for (size_t i = 0; i < n; i++) {
        if (try_bound(t, mask[i], &o)) return o;
        if (!first) first = t->reason;
    }
    t->reason = first;
    return FAILED;
}

/* ---- folders ---- */

static void run_test(Runner *r, const char *dir) {
    Outcome worst = SKIPPED;
    Arena *a = arena_new();
    const char *reason = "there is no test_data_set_0";
    for (int i = 0; i < 100; i++) {
        const char *set = arena_printf(a, "test_data_set_%d", i);
        if (!is_file(arena_printf(a, "%s/%s", dir, set))) break;
        Test t = {.runner = r, .dir = dir, .set = set, .arena = a};
        worst = run_set(&t);
        reason = t.reason;
        if (worst != PASSED) break;
    }
    const char *name = strrchr(dir, '/');
    if (worst != PASSED)
        printf("%s %s: %s\n", worst == FAILED ? "FAIL" : "SKIP", name ? name + 1 : dir, reason);
    r->count[worst]++;
    arena_free(a);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void run_folder(Runner *r, const char *dir) {
    Arena *a = arena_new();
    VEC(const char *) tests = {0};
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        const char *path = arena_printf(a, "%s/%s", dir, e->d_name);
        if (e->d_name[0] != '.' && is_file(arena_printf(a, "%s/model.onnx", path))) VEC_PUSH(a, &tests, path);
    }
    if (d) closedir(d);
    if (tests.count) qsort(tests.data, tests.count, sizeof *tests.data, by_name);
    for (size_t i = 0; i < tests.count; i++) run_test(r, tests.data[i]);
    arena_free(a);
}

int main(int argc, char **argv) {
    Runner r = {0};
    double least = 100;
    char folder[] = "/tmp/onnx-node-XXXXXX";
    if (!mkdtemp(folder)) return perror(folder), 1;
    snprintf(r.artifact, sizeof r.artifact, "%s/node.bin", folder);
    for (int i = 1; i < argc; i++) {
        char model[4096];
        snprintf(model, sizeof model, "%s/model.onnx", argv[i]);
        if (!strcmp(argv[i], "--reference"))
            r.reference = true;
        else if (!strcmp(argv[i], "--min") && i + 1 < argc)
            least = strtod(argv[++i], NULL);
        else if (is_file(model))
            run_test(&r, argv[i]);
        else
            run_folder(&r, argv[i]);
    }
    unlink(r.artifact);
    rmdir(folder);
    uint32_t all = r.count[PASSED] + r.count[FAILED] + r.count[SKIPPED];
    printf("%u passed, %u failed, %u skipped\n", r.count[PASSED], r.count[FAILED], r.count[SKIPPED]);
    return all == 0 || r.count[PASSED] < least / 100 * all;
}
