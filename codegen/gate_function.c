/* gate_function.c: the gate of functions that are no GPT. The reference runs the imported graph and the runtime the
 * artifact on random inputs, several times: with free dimensions of different lengths, floats of either sign
 * and positive ones. Integers are small, and where the graph takes them for indices of something smaller, 0. */
#include "codegen/gate.h"
#include "ir/tolerance.h"
#include "runtime/gptc.h"

#include <math.h>
#include <string.h>

#define ROUNDS 3
#define INT_RANGE 4

typedef struct {
    Graph *g; /* as imported */
    gptc_function *f;
    const gptc_model *m;
    Arena *arena;
    Diag *diag;
    bool narrow;
    GateReport *report;
} Gate;

typedef struct {
    int round;
    int64_t int_range;
    uint64_t seed;
} Draw;

static const Port *port_named(const Port *ports, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++)
        if (!strcmp(ports[i].name, name)) return &ports[i];
    return NULL;
}

/* Lengths that differ between rounds and, as far as there are enough small ones, between symbols. */
static int64_t *draw_bindings(const Graph *g, int round, Arena *a) {
    static const int64_t lengths[ROUNDS][4] = {{2, 3, 4, 5}, {5, 2, 3, 4}, {1, 1, 1, 1}};
    int64_t *bind = arena_array_of(a, g->symbols.count, int64_t);
    for (uint32_t i = 1; i < g->symbols.count; i++) {
        int64_t n = lengths[round][i % 4], most = g->symbols.data[i].max;
        bind[i] = most > 0 && n > most ? most : n;
    }
    bind[SYM_PAST.id] = 0;
    return bind;
}

static void fill_random(Tensor *t, Draw *draw) {
    size_t count = tensor_count(t);
    for (size_t i = 0; i < count; i++) {
        draw->seed = draw->seed * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator */
        double unit = (double)(draw->seed >> 40) / (double)(1 << 24);
        int64_t whole = (int64_t)(draw->seed >> 33) % draw->int_range;
        double real = draw->round == 1 ? 0.05 + unit : 2 * unit - 1;
        if (dtype_is_float(t->dtype))
            tensor_store_f64(t, (int64_t)i, 1, &real);
        else
            tensor_store_i64(t, (int64_t)i, 1, &whole);
    }
}

static Tensor draw_input(const Gate *gt, const Port *p, const int64_t *bind, Draw *draw) {
    static const int32_t none[1];
    bool given = p->role == ROLE_NONE || p->role == ROLE_TOKENS;
    Port plain = *p;
    if (given) plain.role = ROLE_NONE;
    Tensor t = gate_input(gt->g, &plain, bind, none, gt->arena);
    if (given) fill_random(&t, draw);
    return t;
}

/* Whether the graph computes in 16-bit floats; weights stored so do not count. */
static bool computes_narrow(const Graph *g) {
    FOR_NODES (g, id) {
        ValId v = graph_node(g, id)->out[0];
        DType t = graph_type(g, v)->dtype;
        if ((t == DT_F16 || t == DT_BF16) && !value_is_weight(g, v)) return true;
    }
    return false;
}

/* ---- both sides ---- */

static bool run_reference(Gate *gt, const int64_t *bind, const Tensor *in, Tensor *out, Diag *d) {
    Graph *g = gt->g;
    size_t n = (size_t)gptc_outputs(gt->m);
    ValId *want = arena_array_of(gt->arena, n, ValId);
    for (size_t i = 0; i < n; i++) {
        gptc_port port;
        gptc_output(gt->m, (int32_t)i, &port);
        const Port *p = port_named(g->outputs.data, g->outputs.count, port.name);
        if (!p)
            return diag_bug(d, loc_none(), "output \"%s\" of the artifact is none of the graph", port.name);
        want[i] = p->v;
    }
    EvalArgs args = {.bind = bind, .nbind = g->symbols.count, .inputs = in, .ninputs = g->inputs.count};
    return eval_graph(g, &args, want, n, out, gt->arena, d);
}

static gptc_status run_artifact(Gate *gt, const Tensor *in, gptc_detail *why) {
    const Graph *g = gt->g;
    int32_t n = gptc_inputs(gt->m);
    gptc_tensor *t = arena_array_of(gt->arena, (size_t)n, gptc_tensor);
    for (int32_t i = 0; i < n; i++) {
        gptc_port port;
        gptc_input(gt->m, i, &port);
        const Port *p = port_named(g->inputs.data, g->inputs.count, port.name);
        if (!p) return GPTC_E_ARGUMENT;
        const Tensor *x = &in[p - g->inputs.data];
        t[i] =
            (gptc_tensor){.dtype = (gptc_dtype)art_dtype_exact(x->dtype), .rank = x->rank, .data = x->data};
        memcpy(t[i].dim, x->dim, sizeof x->dim);
    }
    return gptc_function_run(gt->f, t, n, why);
}

/* ---- comparing ---- */

static bool same_type(const Tensor *x, const gptc_tensor *y) {
    if (!y || (uint32_t)y->dtype != art_dtype_exact(x->dtype) || y->rank != x->rank) return false;
    for (uint32_t i = 0; i < x->rank; i++)
        if (x->dim[i] != y->dim[i]) return false;
    return true;
}

/* Largest difference over the largest element; numbers that are no floats agree or do not. */
static double difference(const Tensor *x, const gptc_tensor *y) {
    Tensor got = *x;
    double most = 0, worst = 0;
    size_t n = tensor_count(x);
    got.data = (void *)(uintptr_t)y->data; /* read only */
    if (!dtype_is_float(x->dtype))
        return n && memcmp(x->data, y->data, n * dtype_size(x->dtype)) ? INFINITY : 0;
    for (size_t i = 0; i < n; i++) {
        double a = tensor_get_f64(x, i), b = tensor_get_f64(&got, i);
        if (isfinite(a)) most = fmax(most, fabs(a));
        if (a == b || (isnan(a) && isnan(b))) continue;
        double e = fabs(a - b);
        worst = isfinite(e) ? fmax(worst, e) : INFINITY;
    }
    return worst > 0 ? worst / fmax(most, 1e-30) : 0;
}

static bool compare(Gate *gt, const Tensor *ref, int32_t i) {
    const gptc_tensor *y = gptc_function_output(gt->f, i);
    gptc_port port;
    gptc_output(gt->m, i, &port);
    if (!same_type(ref, y))
        return diag_bug(gt->diag, loc_none(), "output \"%s\" has another type than the reference's",
                        port.name);
    double e = difference(ref, y);
    bool half = gt->narrow || ref->dtype == DT_F16 || ref->dtype == DT_BF16;
    double tolerance = half ? TOL_VALUE_F16 : TOL_VALUE_F32;
    if (e > gt->report->max_err) {
        gt->report->max_err = e;
        gt->report->worst = arena_strdup(gt->arena, port.name);
    }
    if (e <= tolerance) return true;
    return diag_error(
        gt->diag, loc_none(),
        "verification failed: output \"%s\" differs by %.3g of its largest element (allowed %.0e); no "
        "file was written; hint: gptc-opt --diff of two dumps finds the first value that differs",
        port.name, e, tolerance);
}

/* ---- rounds ---- */

/* Draws inputs that the reference can take; false when there are none, with the reason in d. */
static bool draw_round(Gate *gt, int round, uint64_t seed, Tensor *in, Tensor *out, Diag *d) {
    const Graph *g = gt->g;
    int64_t *bind = draw_bindings(g, round, gt->arena);
    for (int64_t range = INT_RANGE; range > 0; range /= 4) {
        Draw draw = {round, range, seed};
        diag_free(d);
        diag_init(d);
        for (size_t i = 0; i < g->inputs.count; i++) in[i] = draw_input(gt, &g->inputs.data[i], bind, &draw);
        if (run_reference(gt, bind, in, out, d)) return true;
    }
    return false;
}

static bool run_rounds(Gate *gt, uint64_t seed) {
    size_t n = (size_t)gptc_outputs(gt->m);
    Tensor *in = arena_array_of(gt->arena, gt->g->inputs.count, Tensor);
    Tensor *out = arena_array_of(gt->arena, n, Tensor);
    Diag quiet;
    diag_init(&quiet);
    int done = 0;
    bool ok = true;
    for (int round = 0; round < ROUNDS && ok; round++) {
        gptc_detail why = {""};
        if (!draw_round(gt, round, seed + (uint64_t)round, in, out, &quiet)) continue;
        done++;
        gptc_status st = run_artifact(gt, in, &why);
        if (st)
            ok = diag_bug(gt->diag, loc_none(), "the compiled function does not run: %s (%s)",
                          gptc_strerror(st), why.text);
        for (size_t i = 0; i < n && ok; i++) ok = compare(gt, &out[i], (int32_t)i);
    }
    if (ok && done == 0)
        ok = diag_error(gt->diag, loc_none(),
                        "nothing was verified: no inputs were found that the graph takes: %s",
                        quiet.items.count ? quiet.items.data[quiet.items.count - 1].text : "");
    diag_free(&quiet);
    gt->report->tokens = done;
    return ok;
}

bool gate_function(Graph *imported, const char *artifact, uint64_t seed, Arena *a, GateReport *out, Diag *d) {
    gptc_model *m = NULL;
    gptc_detail why = {""};
    Gate gt = {.g = imported, .arena = a, .diag = d, .report = out};
    *out = (GateReport){.ref_std = 1, .worst = "nowhere"};
    gptc_status st = gptc_open(artifact, NULL, &m, &why);
    if (!st) st = gptc_function_new(m, NULL, &gt.f, &why);
    gt.m = m;
    gt.narrow = computes_narrow(imported);
    bool ok =
        st ? diag_bug(d, loc_none(), "the written file does not open: %s (%s)", gptc_strerror(st), why.text)
           : run_rounds(&gt, seed);
    gptc_function_free(gt.f);
    gptc_close(m);
    return ok;
}
