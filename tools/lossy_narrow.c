/* lossy_narrow.c: what takes 8 bits beside the weights: the KV cache, and the rows that products read.
 *
 * Each is tried on what the search for formats found, and measured as it would be shipped. The cache of a whole context
 * counts as memory like the weights: it pays when it costs less KL than as many bits of them. Rows in 8 bits are faster to
 * multiply (codegen/cpu/cost.h): they pay when they cost less than making the weights smaller by as large a part. When it
 * pays and the budget has no room for all, the search goes on with less to spend. */
#include <math.h>

#include "codegen/cpu/cost.h"
#include "tools/lossy.h"

static const char *const options[NARROW_COUNT] = {
    [NARROW_CACHE] = "--cache", [NARROW_ROWS] = "--activations"};

/* ---- rows ---- */

static const Format *format_at(const Lossy *l, const LossyAttempt *x, size_t i) {
    const Trial *best = x->search.trials.count ? &x->search.trials.data[x->search.best] : NULL;
    return best ? x->search.site[i].option[best->pick[i]].format : l->plan.sites.data[i].format;
}

/* Products of one row, with rows in fp32 over in 8 bits where that is faster; 1: nowhere. */
static double rows_gain(const Lossy *l, const LossyAttempt *x) {
    double plain = 0, rounded = 0;
    for (size_t i = 0; i < x->nsites; i++) {
        const CpuCost *c = cpu_cost(format_at(l, x, i));
        double n = site_products(x->graph, &x->sites[i]);
        if (x->sites[i].kind == SITE_TABLE || !c) continue;
        plain += n * c->plain;
        rounded +=
            n * (x->sites[i].experts ? c->plain : fmin(c->plain, c->rounded)); /* experts: fp32 alone */
    }
    return rounded > 0 ? plain / rounded : 1;
}

static void rows_round(const Lossy *l, const LossyAttempt *x, Graph *g) {
    for (size_t i = 0; i < x->nsites; i++) {
        const Site *s = &x->sites[i];
        const Format *f = format_at(l, x, i);
        const CpuCost *c = cpu_cost(f);
        if (c && c->rounded < c->plain) site_round(g, s, f->group ? f->group : s->cols);
    }
}

/* ---- either ---- */

static const char *not_tried(const Lossy *l, const LossyAttempt *x, NarrowKind kind) {
    NarrowChoice asked = l->opt.narrow[kind];
    if (asked == NARROW_F32) return arena_printf(l->c->arena, "%s f32", options[kind]);
    if (kind == NARROW_CACHE && x->narrow[kind].before <= 0) return "the model keeps none";
    if (kind == NARROW_ROWS && x->narrow[kind].after <= 1) return "no product of these formats gains by it";
    if (asked == NARROW_INT8) return NULL;
    if (kind == NARROW_ROWS && l->write->targets && l->write->targets->n_cuda)
        return "CUDA kernels read rows in fp32";
    if (!budget_of_quality(l->opt.budget))
        return arena_printf(l->c->arena, "a budget of size is for weights; %s q8 asks for it", options[kind]);
    return NULL;
}

static void figures(const Lossy *l, LossyAttempt *x, NarrowKind kind) {
    Graph *g = x->search.graph;
    LossyNarrow *n = &x->narrow[kind];
    n->before = kind == NARROW_CACHE ? (double)cache_bits(g, false) / 8 : 1;
    n->after = kind == NARROW_CACHE ? (double)cache_bits(g, true) / 8 : rows_gain(l, x);
}

static bool apply(Lossy *l, LossyAttempt *x, NarrowKind kind, Diag *d) {
    Graph *g = graph_copy(x->search.graph, x->search.graph_arena);
    x->narrow[kind].kept = true;
    if (kind == NARROW_ROWS) rows_round(l, x, g);
    if (kind == NARROW_CACHE && !cache_round(g, d)) return false;
    x->search.graph = g;
    return x->lab->measure_graph(x->lab, g, &l->text.evaluation, &x->measured, d) &&
           (l->text.guard.windows == 0 || x->lab->measure_graph(x->lab, g, &l->text.guard, &x->guarded, d));
}

double lossy_share(const Lossy *l, const LossyAttempt *x) {
    double share = budget_share(l->opt.budget, &x->measured, LOSSY_ERRORS);
    if (l->text.guard.windows == 0) return share;
    return fmax(share, budget_share(l->opt.budget, &x->guarded, LOSSY_ERRORS));
}

/* KL that as many bits of weights would cost (lossy.h, shrink_worth), of a model that costs kl. */
static double worth(const Lossy *l, const LossyAttempt *x, NarrowKind kind, double kl) {
    const LossyNarrow *n = &x->narrow[kind];
    double bits = x->search.trials.data[x->search.best].bits;
    double saved =
        kind == NARROW_CACHE ? 8 * (n->before - n->after) * (double)l->context : bits * (1 - 1 / n->after);
    return log(4) * fmax(kl, 0) * saved / (double)l->weights;
}

bool lossy_narrow(Lossy *l, LossyAttempt *x, NarrowKind kind, bool room, Diag *d) {
    LossyNarrow *n = &x->narrow[kind];
    Graph *g = x->search.graph;
    Quality before = x->measured, guarded = x->guarded;
    *n = (LossyNarrow){0};
    figures(l, x, kind);
    if (l->opt.plan_in) {
        n->why = "the plan says so";
        return !(kind == NARROW_CACHE ? l->plan.cache : l->plan.activations) || apply(l, x, kind, d);
    }
    n->why = not_tried(l, x, kind);
    if (n->why) return true;
    if (!apply(l, x, kind, d)) return false;
    bool asked = l->opt.narrow[kind] == NARROW_INT8;
    double share = lossy_share(l, x);
    n->kl = x->measured.mean_kl - before.mean_kl;
    n->worth = worth(l, x, kind, before.mean_kl);
    n->tried = true;
    n->kept = asked || (n->kl < n->worth && (share <= 1 || room));
    n->why = asked              ? arena_printf(l->c->arena, "%s q8", options[kind])
             : n->kept          ? "as much off the weights costs more"
             : n->kl < n->worth ? "breaks the budget"
                                : "as much off the weights costs less";
    if (n->kept) return true;
    x->search.graph = g, x->measured = before, x->guarded = guarded;
    return true;
}
