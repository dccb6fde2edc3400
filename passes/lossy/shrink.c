/* shrink.c: which steps pay, by what the same bits buy when they are taken from all matrices alike.
 *
 * Each block's losses are known for all amounts, and KL grows in proportion to a block's loss (the linearity theorem of
 * HIGGS, arXiv 2411.17525, for another kind of error), so one amount is measured and the rest follows. At the price p
 * a number each block takes the amount for which kl - p * numbers is least. What is spent on steps is not left for
 * rounding, which makes numbers cheaper; the price at which both agree is found by bisection. Then all steps are applied
 * and measured together: what costs more together than alone is taken back, the price lowered. */
#include <math.h>

#include "passes/lossy/blocks.h"
#include "passes/lossy/kept.h"

#define PROBE_LOSS 0.02 /* near this loss a block's KL is measured */
#define BISECTIONS 40
#define RETRIES 4
#define HOPELESS 4 /* times what it may cost: not measured */
#define SPREAD 3   /* times dearer than errors of rounding, which are spread evenly: 2.2 to 13 measured */
#define LEAST_LEFT 0.05 /* of the budget, for rounding */
#define LEAST_GAIN 0.002

/* A block's offers of one kind. */
typedef struct {
    LossyStep *step; /* rising amounts */
    size_t n, probe; /* the one that is measured */
    double kl;       /* its */
    bool measured;   /* or too far from paying by what its error or the block's units cost */
} Offer;

typedef struct {
    const ShrinkTask *t;
    Arena *a;
    VEC(Offer) offers;
    const Block *blocks;
    double scale; /* of predicted KL: what steps cost together, over the sum of each alone */
    Diag *d;
} Shrinker;

/* ---- forecasts ---- */

static double step_kl(const Offer *o, size_t i) {
    double loss = o->step[o->probe].loss;
    return loss > 0 ? o->kl * o->step[i].loss / loss : o->kl;
}

static void group_offers(Shrinker *s, LossyStep *steps, size_t n) {
    for (size_t i = 0; i < n;) {
        Offer o = {.step = &steps[i]};
        for (; i < n && steps[i].block == o.step->block && steps[i].kind == o.step->kind; i++) {
            double now = fabs(log(fmax(steps[i].loss, 1e-12) / PROBE_LOSS));
            double best = fabs(log(fmax(o.step[o.probe].loss, 1e-12) / PROBE_LOSS));
            if (now < best) o.probe = o.n;
            o.n++;
        }
        VEC_PUSH(s->a, &s->offers, o);
    }
}

double shrink_worth(const ShrinkTask *t, double spent) {
    return log(4) * fmax(t->kl - spent, 0) * t->bits / (double)t->weights;
}

/* The steps, prepared, as a graph, and what it costs. */
static bool measure_steps(Shrinker *s, LossyStep *steps, size_t n, Arena *a, Graph **graph, Quality *q) {
    const ShrinkTask *t = s->t;
    if (!steps_prepare(t->exact, t->sites, t->nsites, t->lab, t->calibration, steps, n, a, s->d))
        return false;
    Graph *g = steps_apply(t->exact, steps, n, a, s->d);
    if (graph != NULL) *graph = g;
    return g != NULL && t->lab->measure_graph(t->lab, g, t->probe, q, s->d);
}

/* KL for a unit of error of the site that is the product `out`; 0: not known. */
static double sensitivity_of(const ShrinkTask *t, NodeId out) {
    for (size_t k = 0; t->sensitivity && k < t->nsites; k++)
        if (t->sites[k].user.id == out.id) return t->sensitivity[k];
    return 0;
}

/* By the error of the block's product, or of a whole block by its units' loss at 1, as far as KL goes on in proportion. */
static bool is_hopeless(Shrinker *s, size_t i) {
    Offer *o = &s->offers.data[i];
    const Offer *units = i > 0 ? o - 1 : NULL;
    const LossyStep *probe = &o->step[o->probe];
    o->kl = SPREAD * sensitivity_of(s->t, s->blocks[probe->block].out) * probe->error;
    if (o->kl > HOPELESS * shrink_worth(s->t, 0) * (double)probe->weights) return true;
    if (o->step->kind != STEP_SKIP || units == NULL || units->step->block != o->step->block) return false;
    double loss = units->step[units->probe].loss;
    o->kl = loss > 0 ? units->kl / loss : 0;
    return o->kl > HOPELESS * shrink_worth(s->t, 0) * (double)o->step->weights;
}

static bool probe_offers(Shrinker *s) {
    for (size_t i = 0; i < s->offers.count; i++) {
        Offer *o = &s->offers.data[i];
        if (is_hopeless(s, i)) continue;
        LossyStep one = o->step[o->probe];
        Arena *a = arena_new();
        Quality q;
        bool ok = measure_steps(s, &one, 1, a, NULL, &q);
        arena_free(a);
        if (!ok) return false;
        o->kl = fmax(q.mean_kl, 0);
        o->measured = true;
    }
    return true;
}

/* ---- choosing ---- */

/* The offers of block `of->block` are next to each other; index of the first of the next block. */
static size_t block_end(const Shrinker *s, size_t i) {
    size_t end = i;
    while (end < s->offers.count && s->offers.data[end].step->block == s->offers.data[i].step->block) end++;
    return end;
}

/* Takes at most one step of each block, in `chosen` when it is not NULL; the KL of all. */
static double take_at(const Shrinker *s, double price, LossyStep *chosen, size_t *n, uint64_t *numbers) {
    double total = 0;
    if (n != NULL) *n = 0;
    if (numbers != NULL) *numbers = 0;
    for (size_t i = 0; i < s->offers.count; i = block_end(s, i)) {
        const LossyStep *best = NULL;
        double least = 0, kl = 0;
        for (size_t k = i; k < block_end(s, i); k++)
            for (size_t j = 0; j < s->offers.data[k].n; j++) {
                const LossyStep *step = &s->offers.data[k].step[j];
                double costs = s->scale * step_kl(&s->offers.data[k], j);
                if (costs - price * (double)step->weights >= least) continue;
                least = costs - price * (double)step->weights;
                best = step;
                kl = costs;
            }
        if (best == NULL) continue;
        total += kl;
        if (numbers != NULL) *numbers += best->weights;
        if (chosen != NULL) chosen[(*n)++] = *best;
    }
    return total;
}

static double price_find(const Shrinker *s) {
    double low = 0, high = shrink_worth(s->t, 0);
    for (int i = 0; i < BISECTIONS; i++) {
        double price = (low + high) / 2;
        if (price < shrink_worth(s->t, take_at(s, price, NULL, NULL, NULL)))
            low = price;
        else
            high = price;
    }
    return low;
}

/* Share of the bits that goes, with finer rounding of what stays for the same KL in all. */
static double gain_of(const ShrinkTask *t, uint64_t numbers, double spent) {
    double left = fmax(t->kl - spent, LEAST_LEFT * t->kl);
    double finer = log(t->kl / left) / log(4);
    return 1 - (1 - (double)numbers / (double)t->weights) * (1 + finer / t->bits);
}

/* ---- what came of it ---- */

static const LossyStep *taken(const LossyStep *chosen, size_t n, const Offer *o) {
    for (size_t i = 0; i < n; i++)
        if (chosen[i].block == o->step->block && chosen[i].kind == o->step->kind) return &chosen[i];
    return NULL;
}

static const char *reason_for(const Shrinker *s, const StepOutcome *x, bool other) {
    if (x->kept)
        return arena_printf(s->a, "%.2g of KL for numbers whose bits cost %.2g elsewhere", x->kl, x->worth);
    if (x->kl < x->worth)
        return other ? "another step of this block pays more"
                     : "pays alone; with the others too little of the budget is left for rounding";
    return arena_printf(s->a, "costs %.2g of KL%s; fewer bits for all save as much for %.2g", x->kl,
                        x->measured ? "" : " (predicted)", x->worth);
}

static void report(const Shrinker *s, const LossyStep *chosen, size_t n, double spent, ShrinkResult *out) {
    for (size_t i = 0; i < s->offers.count; i++) {
        const Offer *o = &s->offers.data[i];
        const LossyStep *step = taken(chosen, n, o);
        size_t at = step != NULL ? 0 : o->probe;
        while (step != NULL && o->step[at].amount != step->amount) at++;
        StepOutcome x = {.step = o->step[at], .kept = step != NULL, .kl = step_kl(o, at)};
        x.measured = o->measured && at == o->probe;
        x.worth = shrink_worth(s->t, spent) * (double)x.step.weights;
        bool other = false;
        for (size_t k = 0; k < n; k++) other = other || chosen[k].block == x.step.block;
        x.reason = reason_for(s, &x, other);
        VEC_PUSH(s->a, &out->outcomes, x);
    }
}

/* Chooses, applies and measures, until what the steps cost together is what they were chosen for. */
static bool settle(Shrinker *s, LossyStep *chosen, ShrinkResult *out) {
    for (int i = 0; i < RETRIES; i++) {
        uint64_t numbers;
        size_t n;
        out->predicted_kl = take_at(s, price_find(s), chosen, &n, &numbers);
        out->predicted_gain = gain_of(s->t, numbers, out->predicted_kl);
        if (n == 0 || out->predicted_gain < LEAST_GAIN) return true;
        if (!measure_steps(s, chosen, n, s->a, &out->graph, &out->measured)) return false;
        out->nkept = n;
        double together = fmax(out->measured.mean_kl, 0);
        if (together <= 1.1 * out->predicted_kl) return true;
        s->scale *= together / out->predicted_kl;
        out->nkept = 0;
        out->graph = NULL;
    }
    return true;
}

/* For each site: the error a number at which its block is hopeless; NULL where nothing is known. */
static const double *dear_errors(const ShrinkTask *t, Arena *a) {
    if (!t->sensitivity) return NULL;
    double *dear = arena_array_of(a, t->nsites, double);
    for (size_t i = 0; i < t->nsites; i++)
        dear[i] = t->sensitivity[i] > 0 ? HOPELESS * shrink_worth(t, 0) / (SPREAD * t->sensitivity[i]) : 0;
    return dear;
}

static bool choose_steps(const ShrinkTask *t, Arena *a, ShrinkResult *out, Diag *d) {
    Block *blocks;
    blocks_find(t->exact, a, &blocks);
    Shrinker s = {.t = t, .a = a, .blocks = blocks, .scale = 1, .d = d};
    LossyStep *steps;
    size_t n = steps_offered(t->exact, a, &steps);
    if (!steps_forecast(t->exact, t->sites, t->nsites, t->lab, t->calibration, dear_errors(t, a), steps, n,
                        d))
        return false;
    group_offers(&s, steps, n);
    if (!probe_offers(&s)) return false;
    out->kept = arena_array_of(a, s.offers.count, LossyStep);
    if (!settle(&s, out->kept, out)) return false;
    if (out->nkept == 0) out->predicted_kl = out->predicted_gain = 0;
    report(&s, out->kept, out->nkept, out->predicted_kl, out);
    return true;
}

bool shrink_choose(const ShrinkTask *t, Arena *a, ShrinkResult *out, Diag *d) {
    Arena *moments = arena_new();
    KeptLab kept;
    ShrinkTask task = *t;
    kept_lab_init(&kept, t->lab, t->calibration, t->sites, t->nsites, moments);
    task.lab = &kept.lab;
    *out = (ShrinkResult){0};
    bool ok =
        choose_steps(&task, a, out, d) && share_choose(&task, a, out, d) && sparse_choose(&task, a, out, d);
    arena_free(moments);
    return ok;
}
