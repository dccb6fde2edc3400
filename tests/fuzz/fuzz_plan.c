/* fuzz_plan.c: libFuzzer on --plan-in. Any bytes are read as a plan or refused with a reason; what is read prints and
 * reads back the same. Its steps are looked for in a model of two layers, and those that this model offers are taken:
 * what is left of it must verify. The lab is one whose inputs are independent. Seeds: tests/corpus/plan. */
#include <stdlib.h>
#include <string.h>

#include "passes/lossy/budget.h"
#include "passes/pass.h"

enum { MOST_STEPS = 12 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- a model: attention of 4 heads and 64 neurons, twice ---- */

static int add_layer(Text *t, int v) {
    static const char linear[] =
        "const %%%d : f32[32, %d] = seed(%d)\n%%%d : f32[batch, seq, %d] = linear(%%%d, %%%d)\n";
    int x = v, q[3];
    for (int i = 0; i < 3; i++, v += 3) {
        text_printf(t, linear, v + 1, 32, v, v + 2, 32, x, v + 1);
        text_printf(t, "%%%d : f32[batch, seq, 4, 8] = reshape(%%%d)\n", v + 3, v + 2);
        q[i] = v + 3;
    }
    text_printf(t, "%%%d : f32[batch, seq, 4, 8] = attention(%%%d, %%%d, %%%d) {scale=0.35, causal=true}\n",
                v + 1, q[0], q[1], q[2]);
    text_printf(t, "%%%d : f32[batch, seq, 32] = reshape(%%%d)\n", v + 2, v + 1);
    text_printf(t, linear, v + 3, 32, v, v + 4, 32, v + 2, v + 3);
    text_printf(t, "%%%d : f32[batch, seq, 32] = add(%%%d, %%%d)\n", v + 5, x, v + 4);
    x = v + 5, v = x;
    text_printf(t, linear, v + 1, 64, v, v + 2, 64, x, v + 1);
    text_printf(t, "%%%d : f32[batch, seq, 64] = gelu(%%%d)\nconst %%%d : f32[64, 32] = seed(%d)\n", v + 3,
                v + 2, v + 4, v);
    text_printf(t, "%%%d : f32[batch, seq, 32] = linear(%%%d, %%%d)\n", v + 5, v + 3, v + 4);
    text_printf(t, "%%%d : f32[batch, seq, 32] = add(%%%d, %%%d)\n", v + 6, x, v + 5);
    return v + 6;
}

static Graph *model(Arena *a, Diag *d) {
    Text t = text_new(a);
    text_add(&t,
             "gir 1 stage=raised\nsymbol batch\nsymbol seq\ninput %1 \"ids\" : i64[batch, seq] role=tokens\n"
             "const %2 : f32[48, 32] = seed(1)\n%3 : f32[batch, seq, 32] = gather(%2, %1)\n");
    int v = add_layer(&t, add_layer(&t, 3));
    text_printf(&t, "const %%%d : f32[32, 48] = seed(2)\n%%%d : f32[batch, seq, 48] = linear(%%%d, %%%d)\n",
                v + 1, v + 2, v, v + 1);
    text_printf(&t, "output %%%d \"logits\" role=logits\n", v + 2);
    Graph *g = graph_parse(t.data, t.count, "model", NULL, a, d);
    PassRun run = {.passes = "kvcache"};
    PassOptions opt = {.kv_cache = true, .opt_level = 1};
    CacheProof proof;
    return g && passes_run(g, &run, &opt, &proof, d) ? g : NULL;
}

static bool moments(Lab *lab, const Windows *w, const uint32_t *sites, uint32_t n, Arena *a, Moments *out,
                    Diag *d) {
    (void)w, (void)d;
    for (uint32_t k = 0; k < n; k++) {
        int64_t cols = ((const Site *)lab->self)[sites[k]].cols;
        out[k] = (Moments){.cols = cols,
                           .rows = 1,
                           .xx = arena_array_of(a, (size_t)(cols * cols), float),
                           .sum = arena_array_of(a, (size_t)cols, float)};
        for (int64_t i = 0; i < cols; i++) out[k].xx[i * cols + i] = 1;
    }
    return true;
}

static void take_steps(const LossyPlan *p, Graph *g, Arena *a, Diag *d) {
    Site *sites;
    LossyStep steps[MOST_STEPS];
    size_t nsites = sites_find(g, a, &sites), n = p->steps.count;
    Lab lab = {.self = sites, .moments = moments};
    Windows none = {0};
    if (n > MOST_STEPS) return;
    for (size_t i = 0; i < n; i++)
        if (!step_parse(g, p->steps.data[i], strlen(p->steps.data[i]), a, &steps[i], d)) return;
    if (!steps_differ(steps, n, d)) return;
    if (!steps_prepare(g, sites, nsites, &lab, &none, steps, n, a, d)) abort(); /* these are good inputs */
    Graph *small = steps_apply(g, steps, n, a, d);
    if (!small || graph_weigh(small, NULL) > graph_weigh(g, NULL) + 32 * n) abort(); /* new biases */
    size_t left = sites_find(small, a, &sites);
    plan_fits_sites(p, sites, left, "fuzz", d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Arena *a = arena_new();
    Diag d;
    LossyPlan p, again;
    diag_init(&d);
    Graph *g = model(a, &d);
    if (!g) abort();
    if (plan_parse((const char *)data, size, "fuzz", a, &p, &d)) {
        Text once = text_new(a), twice = text_new(a);
        plan_print(&once, &p);
        if (!plan_parse(once.data, once.count, "print", a, &again, &d)) abort();
        plan_print(&twice, &again);
        if (strcmp(once.data, twice.data) != 0) abort();
        take_steps(&p, g, a, &d);
    } else if (d.errors != 1) {
        abort(); /* a refusal gives one reason */
    }
    if (d.bugs > 0) abort();
    diag_free(&d);
    arena_free(a);
    return 0;
}
