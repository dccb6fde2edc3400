/* pass.c: the pass table and the manager that runs a pipeline over a graph.
 *
 * The manager checks that the facts a pass needs were given, runs it, verifies the graph when asked,
 * and tells the caller what happened. A pipeline named by hand starts from a graph that may hold any
 * fact, so there only facts that an earlier pass dropped are missing. */
#include <string.h>
#include <time.h>

#include "passes/pass.h"

const Pass pass_table[] = {
#define PASS(fn, name, level, of, needs, gives, drops, stage, required, why)                                 \
    {name, why, fn, level, of, needs, gives, drops, stage, required},
#include "passes/passes.def"
#undef PASS
    {NULL, NULL, NULL, 0, 0, 0, 0, 0, STAGE_IMPORTED, false},
};

const PassOrder pass_order[] = {
    {"bind", "fold", "mask and positions become foldable only once they are bound"},
    {"fold", "integers", "zero points and scales are constants"},
    {"integers", "simplify", "written out, quantisation is arithmetic like any other"},
    {"fold", "simplify", "rules look at constants, not at the arithmetic that makes them"},
    {"simplify", "cse", "equal values are found by structure, so they must have one form"},
    {"cse", "raise-norm", "the variance squares one value, not two equal ones"},
    {"tie", "raise-linear", "a tied head is a product with a transposed table, which becomes trans"},
    {"raise-hits", "bind", "other passes are not linear in the nodes of unrolled experts"},
    {"raise-slots", "raise-routed", "a product is routed when its experts are picked by row and slot"},
    {"raise-dense", "raise-routed", "which experts count is read off the scatter of their weights"},
    {"raise-routed", "lower-routed", "what is raised is lowered"},
    {"raise-routed", "kvcache", "the proof has no rule for a scatter"},
    {"raise-norm", "raise-attention", "norms on queries and keys stand between product and rotary"},
    {"raise-act", "fuse", "an activation is the epilogue of a product"},
    {"raise-linear", "raise-attention", "query, key and value projections end the search upward"},
    {"bind", "raise-attention", "a mask is recognised by its values"},
    {"raise-attention", "raise-position", "masks and tables are looked for at attention's operands"},
    {"raise-position", "kvcache", "the proof reads positions and masks as functions of place"},
    {"raise-position", "simplify-raised", "transposes between raised ops are all there is to cancel"},
    {"raise-position", "widen", "tables are computed as the graph says"},
    {"widen", "simplify-raised", "constants that are converted fold"},
    {"cse-raised", "kvcache", "layers share one mask and one pair of tables"},
    {"dce-raised", "kvcache", "dead mask arithmetic would break the proof"},
    {"dce-raised", "last-token", "dead readers of the pick would keep it"},
    {"last-token", "kvcache", "the proof wants logits of every token"},
    {"kvcache", "split-linear", "the proof labels the product's result whole"},
    {"split-linear", "prune", "heads and neurons are found by the products that make them"},
    {"prune", "quantize", "a matrix is rounded in the shape that it keeps"},
    {"quantize", "fuse", "regions are made of what will run"},
    {"split-linear", "fuse", "a region holds one product"},
    {"fuse", "order", "whole regions are ordered"},
    {"order", "memplan", "lifetimes are intervals of the final order"},
    {NULL, NULL, NULL},
};

const Pass *pass_find(const char *name) {
    for (const Pass *p = pass_table; p->name != NULL; p++)
        if (strcmp(p->name, name) == 0) return p;
    return NULL;
}

void pass_count(PassCtx *cx, const char *name, int64_t n) {
    for (size_t i = 0; i < cx->counts.count; i++) {
        if (strcmp(cx->counts.data[i].name, name) != 0) continue;
        cx->counts.data[i].count += n;
        return;
    }
    PassCount c = {name, n};
    VEC_PUSH(cx->arena, &cx->counts, c);
}

void pass_near_miss(PassCtx *cx, const Graph *g, NodeId node, const char *pattern, const char *fmt, ...) {
    NearMisses *m = cx->misses;
    if (m == NULL || !node_ok(node)) return;
    Text t = text_new(m->arena);
    va_list ap;
    va_start(ap, fmt);
    text_vprintf(&t, fmt, ap);
    va_end(ap);
    NearMiss miss = {cx->pass, pattern, node, graph_describe(g, node, m->arena), t.data};
    for (size_t i = 0; i < m->items.count; i++) {
        NearMiss *old = &m->items.data[i];
        if (old->node.id != node.id || strcmp(old->pattern, pattern) != 0) continue;
        *old = miss;
        return;
    }
    VEC_PUSH(m->arena, &m->items, miss);
}

static const char *fact_name(uint32_t fact) {
    switch (fact) {
    case FACT_BOUND: return "bound inputs";
    case FACT_CANONICAL: return "canonical form";
    case FACT_ATTENTION: return "raised attention";
    case FACT_POSITIONS: return "recognised positions";
    case FACT_STATE: return "state";
    case FACT_REGIONS: return "regions";
    case FACT_ORDER: return "an order";
    default: return "memory slots";
    }
}

static const char *fact_giver(uint32_t fact) {
    for (const Pass *p = pass_table; p->name != NULL; p++)
        if ((p->gives & fact) != 0) return p->name;
    return "no pass";
}

/* ---- the list of passes to run ---- */

/* Steps through a comma-separated list; false at its end. */
static bool list_next(const char **at, const char **name, size_t *n) {
    while (**at == ',' || **at == ' ') ++*at;
    if (**at == '\0') return false;
    *name = *at;
    *n = strcspn(*at, ", ");
    *at += *n;
    return true;
}

static const Pass *find_n(const char *name, size_t n) {
    for (const Pass *p = pass_table; p->name != NULL; p++)
        if (strlen(p->name) == n && memcmp(p->name, name, n) == 0) return p;
    return NULL;
}

static bool list_has(const char *list, const char *wanted) {
    const char *name = NULL;
    size_t n = 0;
    while (list != NULL && list_next(&list, &name, &n))
        if (strlen(wanted) == n && memcmp(name, wanted, n) == 0) return true;
    return false;
}

static bool unknown_pass(Diag *d, const char *name, size_t n) {
    return diag_error(d, loc_none(), "there is no pass \"%.*s\"; gptc-opt --list-passes names them", (int)n,
                      name);
}

typedef struct {
    const Pass **pass;
    size_t count;
} Plan;

static bool plan_check(const PassRun *run, Diag *d) {
    const char *at = run->disable, *name = NULL;
    size_t n = 0;
    while (at != NULL && list_next(&at, &name, &n)) {
        const Pass *p = find_n(name, n);
        if (p == NULL) return unknown_pass(d, name, n);
        if (p->required) return diag_error(d, loc_none(), "pass %s cannot be disabled: %s", p->name, p->doc);
    }
    if (run->stop_after != NULL && pass_find(run->stop_after) == NULL)
        return unknown_pass(d, run->stop_after, strlen(run->stop_after));
    return true;
}

static bool has_role(const Port *ports, size_t n, Role role) {
    for (size_t i = 0; i < n; i++)
        if (ports[i].role == role) return true;
    return false;
}

bool graph_is_function(const Graph *g, const PassOptions *opt) {
    return !opt->kv_cache || !has_role(g->inputs.data, g->inputs.count, ROLE_TOKENS) ||
           !has_role(g->outputs.data, g->outputs.count, ROLE_LOGITS);
}

static bool plan_make(const Graph *g, const PassRun *run, const PassOptions *opt, Arena *a, Plan *plan,
                      Diag *d) {
    if (!plan_check(run, d)) return false;
    size_t most = run->passes != NULL ? strlen(run->passes) / 2 + 1 : COUNT_OF(pass_table);
    plan->pass = arena_array_of(a, most, const Pass *);
    plan->count = 0;
    if (run->passes == NULL) {
        uint32_t of = graph_is_function(g, opt) ? OF_FUNCTION : OF_ROWS;
        for (const Pass *p = pass_table; p->name != NULL; p++) {
            if (p->min_level > opt->opt_level || !(p->of & of) || list_has(run->disable, p->name)) continue;
            plan->pass[plan->count++] = p;
            if (run->stop_after != NULL && strcmp(p->name, run->stop_after) == 0) return true;
        }
        if (run->stop_after == NULL) return true;
        return diag_error(d, loc_none(), "pass %s does not run at -O%d%s", run->stop_after, opt->opt_level,
                          of == OF_FUNCTION ? " on a function" : "");
    }
    const char *at = run->passes, *name = NULL;
    size_t n = 0;
    while (list_next(&at, &name, &n)) {
        const Pass *p = find_n(name, n);
        if (p == NULL) return unknown_pass(d, name, n);
        if (list_has(run->disable, p->name)) continue;
        plan->pass[plan->count++] = p;
        if (run->stop_after != NULL && strcmp(p->name, run->stop_after) == 0) break;
    }
    return true;
}

/* ---- running ---- */

static double seconds_now(void) {
    struct timespec t;
    if (clock_gettime(CLOCK_MONOTONIC, &t) != 0) return 0;
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static bool needs_met(const Pass *p, uint32_t facts, Diag *d) {
    for (uint32_t bit = 1; bit != 0 && bit <= FACT_SLOTS; bit <<= 1) {
        if ((p->needs & bit) == 0 || (facts & bit) != 0) continue;
        return diag_error(d, loc_none(),
                          "pass %s needs %s, which pass %s gives; run that before, or "
                          "disable %s too",
                          p->name, fact_name(bit), fact_giver(bit), p->name);
    }
    return true;
}

static bool run_one(PassCtx *cx, Graph *g, const PassRun *run, uint32_t index, const Pass *p) {
    if (run->before != NULL && !run->before(run->user, index, p, g)) return false;
    double start = run->time ? seconds_now() : 0;
    cx->counts.count = 0;
    cx->pass = p->name;
    ArenaMark mark = arena_mark(cx->scratch);
    uint32_t errors = cx->diag->errors;
    PassResult r = p->run(cx, g);
    arena_reset(cx->scratch, mark);
    g->insert_before = NO_NODE;
    if (r == PASS_FAILED) {
        if (cx->diag->errors == errors)
            diag_bug(cx->diag, loc_none(), "pass %s failed without saying why", p->name);
        return false;
    }
    if (g->stage < p->stage) g->stage = p->stage;
    double seconds = run->time ? seconds_now() - start : 0;
    if (run->verify && !graph_verify(g, cx->diag))
        return diag_bug(cx->diag, loc_none(), "the graph is broken after pass %s", p->name);
    if (run->after == NULL) return true;
    return run->after(run->user, index, p, r, cx->counts.data, cx->counts.count, seconds, g);
}

bool passes_run(Graph *g, const PassRun *run, const PassOptions *opt, CacheProof *proof, Diag *d) {
    Arena *scratch = arena_new();
    Plan plan = {0};
    PassCtx cx = {.scratch = scratch, .arena = g->arena, .opt = opt, .diag = d, .misses = run->misses};
    uint32_t facts = run->passes != NULL ? UINT32_MAX : 0;
    bool ok = plan_make(g, run, opt, scratch, &plan, d);
    for (size_t i = 0; ok && i < plan.count; i++) {
        const Pass *p = plan.pass[i];
        ok = needs_met(p, facts, d) && run_one(&cx, g, run, (uint32_t)i, p);
        facts = (facts & ~p->drops) | p->gives;
    }
    if (proof != NULL) *proof = cx.proof;
    arena_free(scratch);
    return ok;
}
