/* lossy_search.c: what a compile's lossy passes decide.
 *
 * First a search for formats alone. What a number costs to keep is then known, so the steps that shrink the graph can be
 * priced (passes/lossy/shrink.c); what is left of the graph is searched again, and the smaller of both is the result:
 * steps that do not pay in the end are rolled back with their graph. */
#include <math.h>
#include <string.h>

#include "codegen/lab.h"
#include "tools/lossy.h"

#define LEAST_GAIN 0.995 /* of the bits: what steps must bring them down to */
#define ROUNDS 4         /* of a search, each with a tighter budget than the one before */

static void tell(void *self, const char *what, double done) {
    Lossy *l = self;
    if (l->opt.progress) l->opt.progress(l->opt.user, what, done);
}

/* ---- an attempt ---- */

/* A search that starts from the result of another one is nearly there. */
static uint32_t trials_for(const Lossy *l, bool again) { return again || l->weights > LARGE_MODEL ? 3 : 4; }

/* Finds g's sites and opens a lab for them that compares with `base`, or with g itself. */
static bool attempt_open(Lossy *l, Graph *g, Lab *base, LossyAttempt *out, Diag *d) {
    *out = (LossyAttempt){.graph = g};
    out->nsites = sites_find(g, l->c->arena, &out->sites);
    graph_weigh(g, &out->other_bits);
    out->other_bits += l->packing_bits;
    for (size_t i = 0; i < out->nsites; i++) {
        const Site *s = &out->sites[i];
        uint64_t own = s->bits * (uint64_t)(s->rows * s->cols);
        out->other_bits -=
            own < out->other_bits ? own : out->other_bits; /* slices of a constant may overlap */
    }
    if (!lab_new(g, out->sites, out->nsites, l->text.calibration.length, l->opt.threads, &out->lab, d))
        return false;
    if (base) lab_compare(out->lab, base);
    const Windows *const texts[] = {&l->text.evaluation, &l->text.guard, &l->text.confirmation};
    for (size_t i = 0; i < COUNT_OF(texts); i++)
        if (texts[i]->windows > 0 && !lab_expect(out->lab, texts[i], d)) return false;
    return true;
}

static Search search_of(const Lossy *l, const LossyAttempt *x, SiteForecast *known, double aim,
                        const SearchProgress *progress) {
    return (Search){.exact = x->graph,
                    .sites = x->sites,
                    .n = x->nsites,
                    .lab = x->lab,
                    .calibration = &l->text.calibration,
                    .probe = &l->text.probe,
                    .evaluation = &l->text.evaluation,
                    .guard = l->text.guard.windows > 0 ? &l->text.guard : NULL,
                    .budget = l->opt.budget,
                    .weights = l->weights,
                    .other_bits = x->other_bits,
                    .palettes = !budget_of_quality(l->opt.budget),
                    .trials = trials_for(l, known != NULL),
                    .forecast = known,
                    .aim = aim,
                    .progress = progress};
}

static Budget tighter(Budget b, double by) {
    b.value = b.kind == BUDGET_TOP1 ? 1 - (1 - b.value) * by : b.value * by;
    return b;
}

static const Trial *best_trial(const LossyAttempt *x) { return &x->search.trials.data[x->search.best]; }

/* Forecasts of x's sites from those of `first`, for matrices that are of the same size in both. */
static SiteForecast *forecasts_known(const LossyAttempt *first, const LossyAttempt *x, Arena *a) {
    SiteForecast *known = arena_array_of(a, x->nsites, SiteForecast);
    for (size_t i = 0; i < x->nsites; i++)
        for (size_t k = 0; k < first->nsites; k++) {
            const Site *s = &x->sites[i], *same = &first->sites[k];
            if (!strcmp(s->name, same->name) && s->rows == same->rows && s->cols == same->cols)
                known[i] = first->search.site[k];
        }
    return known;
}

static bool is_smaller(const LossyAttempt *x, const LossyAttempt *than) {
    return best_trial(x)->bits < LEAST_GAIN * best_trial(than)->bits;
}

/* When fresh text says no, the search goes on from where it was with less to spend. `known`, may be NULL: forecasts.
 * rival, may be NULL: what is not smaller than it is not confirmed. */
static bool attempt_search(Lossy *l, LossyAttempt *x, SiteForecast *known, double aim,
                           const LossyAttempt *rival, Diag *d) {
    const SearchProgress progress = {l, tell};
    Search s = search_of(l, x, known, aim, &progress);
    s.beat = rival ? LEAST_GAIN * rival->search.expected : 0;
    for (int round = 0; round < ROUNDS; round++) {
        if (!search_formats(&s, l->c->arena, &x->search, d)) return false;
        const Trial *best = best_trial(x);
        x->measured = best->measured, x->guarded = best->guarded;
        if (rival && !is_smaller(x, rival)) return true;
        for (NarrowKind k = 0; k < NARROW_COUNT; k++)
            if (!lossy_narrow(l, x, k, round < ROUNDS / 2, d)) return false;
        double share = lossy_share(l, x);
        tell(l, "confirm", 0);
        if (share <= 1) {
            if (!s.lab->measure_graph(s.lab, x->search.graph, &l->text.confirmation, &x->confirmed, d))
                return false;
            share = budget_share(l->opt.budget, &x->confirmed, LOSSY_ERRORS);
        }
        if (share <= 1) return true;
        s.budget = tighter(s.budget, 0.98 / share);
        s.forecast = x->search.site, s.aim = best->predicted_kl * 0.98 / share;
        arena_free(x->search.graph_arena);
        x->search.graph_arena = NULL;
    }
    x->search.out_of_reach = true;
    return diag_error(
        d, loc_none(),
        "the budget held on the text of the search and not on fresh text: mean KL %.3g there; hint: more "
        "calibration text, or a larger budget",
        x->confirmed.mean_kl);
}

static void attempt_close(LossyAttempt *x) {
    lab_free(x->lab);
    x->lab = NULL;
}

/* ---- steps ---- */

static const char *step_text(Arena *a, const LossyStep *s) {
    Text t = text_new(a);
    step_print(&t, s);
    return t.data;
}

static void note_steps(Lossy *l, const ShrinkResult *r, const char *undone) {
    Arena *a = l->c->arena;
    double number = (double)l->exact_bits / 8 / (double)l->weights; /* bytes */
    for (size_t i = 0; i < r->outcomes.count; i++) {
        const StepOutcome *o = &r->outcomes.data[i];
        bool kept = o->kept && !undone;
        LossyNote n = {.what = arena_printf(a, "layer %d: %s", o->step.layer, step_text(a, &o->step)),
                       .why = o->kept && undone ? undone : o->reason,
                       .bytes = number * (double)o->step.weights,
                       .ops = (double)o->step.ops,
                       .kl = o->kl,
                       .measured = o->measured,
                       .kept = kept};
        VEC_PUSH(a, &l->notes, n);
    }
}

static const double *sensitivities(const LossyAttempt *x, Arena *a) {
    double *s = arena_array_of(a, x->nsites, double);
    for (size_t i = 0; i < x->nsites; i++) s[i] = x->search.site[i].sensitivity;
    return s;
}

/* Steps that pay, and the search once more on what they leave; in l->at when that is smaller. */
static bool try_steps(Lossy *l, Diag *d) {
    Arena *a = l->c->arena;
    LossyAttempt *first = &l->at, second;
    double bits = best_trial(first)->bits, expected = first->search.expected;
    ShrinkTask t = {.exact = l->exact,
                    .sites = first->sites,
                    .nsites = first->nsites,
                    .lab = first->lab,
                    .calibration = &l->text.calibration,
                    .probe = &l->text.steps,
                    .kl = first->measured.mean_kl,
                    .bits = bits / (double)l->weights,
                    .weights = l->weights,
                    .sensitivity = sensitivities(first, a)};
    ShrinkResult r;
    tell(l, "steps", 0);
    if (!shrink_choose(&t, a, &r, d)) return false;
    if (!r.graph) {
        note_steps(l, &r, NULL);
        return true;
    }
    if (!attempt_open(l, r.graph, first->lab, &second, d)) return false;
    second.steps = r.kept, second.nsteps = r.nkept;
    Diag why; /* a search that finds nothing here is no error: there is the first */
    diag_init(&why);
    bool ok = attempt_search(l, &second, forecasts_known(first, &second, a),
                             fmax(best_trial(first)->predicted_kl - r.measured.mean_kl, 0), first, &why);
    bool smaller = ok && is_smaller(&second, first), error = !ok && !second.search.out_of_reach;
    if (error) diag_append(d, &why);
    diag_free(&why);
    note_steps(
        l, &r,
        smaller ? NULL
                : arena_printf(a, "with all steps %.3f bits a weight are needed, without %.3f (predicted)",
                               second.search.expected / (double)l->weights, expected / (double)l->weights));
    attempt_close(&second);
    LossyAttempt *loser = smaller ? first : &second;
    arena_free(loser->search.graph_arena);
    if (smaller) {
        attempt_close(first);
        *first = second;
    }
    return !error;
}

/* ---- plans ---- */

static void plan_make(Lossy *l) {
    Arena *a = l->c->arena;
    const LossyAttempt *x = &l->at;
    LossyPlan *p = &l->plan;
    *p = (LossyPlan){.model = graph_fingerprint(l->exact),
                     .budget = l->opt.budget,
                     .calibration = windows_fingerprint(&l->text.calibration),
                     .cache = x->narrow[NARROW_CACHE].kept,
                     .activations = x->narrow[NARROW_ROWS].kept};
    for (size_t i = 0; i < x->nsteps; i++) VEC_PUSH(a, &p->steps, step_text(a, &x->steps[i]));
    for (size_t i = 0; i < x->nsites; i++) {
        const Site *s = &x->sites[i];
        const Format *f = x->search.site[i].option[best_trial(x)->pick[i]].format;
        VEC_PUSH(a, &p->sites, ((PlanSite){s->name, s->rows, s->cols, f}));
    }
}

static bool plan_read(Lossy *l, Diag *d) {
    FileView f;
    if (!file_map(l->opt.plan_in, &f, d)) return false;
    bool ok = plan_parse((const char *)f.data, f.bytes, l->opt.plan_in, l->c->arena, &l->plan, d);
    file_unmap(&f);
    return ok && plan_fits(&l->plan, l->exact, &l->text.calibration, l->opt.plan_in, d);
}

/* The plan's steps on the exact graph, and a lab for what they leave; `exact` is then its base. */
static bool repeat_steps(Lossy *l, LossyAttempt *exact, Diag *d) {
    Arena *a = l->c->arena;
    size_t n = l->plan.steps.count;
    LossyStep *steps = arena_array_of(a, n, LossyStep);
    for (size_t i = 0; i < n; i++)
        if (!step_parse(l->exact, l->plan.steps.data[i], strlen(l->plan.steps.data[i]), a, &steps[i], d) ||
            !steps_differ(steps, i + 1, d))
            return false;
    if (!steps_prepare(l->exact, exact->sites, exact->nsites, exact->lab, &l->text.calibration, steps, n, a,
                       d))
        return false;
    Graph *g = steps_apply(l->exact, steps, n, a, d);
    return g && attempt_open(l, g, exact->lab, &l->at, d);
}

static bool repeat_formats(Lossy *l, LossyAttempt *x, Diag *d) {
    const SearchProgress progress = {l, tell};
    const Search s = search_of(l, x, NULL, 0, &progress);
    if (!plan_fits_sites(&l->plan, x->sites, x->nsites, l->opt.plan_in, d)) return false;
    const Format **chosen = arena_array_of(l->c->arena, x->nsites, const Format *);
    for (size_t i = 0; i < x->nsites; i++) chosen[i] = l->plan.sites.data[i].format;
    x->search.graph_arena = arena_new();
    if (!search_apply(&s, chosen, x->search.graph_arena, &x->search.graph, &x->measured, &x->guarded, d) ||
        !lossy_narrow(l, x, NARROW_CACHE, false, d) || !lossy_narrow(l, x, NARROW_ROWS, false, d) ||
        !s.lab->measure_graph(s.lab, x->search.graph, &l->text.confirmation, &x->confirmed, d))
        return false;
    double share = fmax(budget_share(l->plan.budget, &x->measured, LOSSY_ERRORS),
                        budget_share(l->plan.budget, &x->confirmed, LOSSY_ERRORS));
    return share <= 1 ||
           diag_error(d, loc_file(l->opt.plan_in), "breaks its budget here: mean KL %.3g and %.3g",
                      x->measured.mean_kl, x->confirmed.mean_kl);
}

static bool repeat(Lossy *l, Diag *d) {
    if (!plan_read(l, d)) return false;
    if (l->plan.steps.count == 0) return repeat_formats(l, &l->at, d);
    LossyAttempt exact = l->at;
    l->at.lab = NULL;
    bool ok = repeat_steps(l, &exact, d) && repeat_formats(l, &l->at, d);
    attempt_close(&l->at);
    attempt_close(&exact);
    return ok;
}

bool lossy_compress(Lossy *l, Diag *d) {
    bool ok = attempt_open(l, l->exact, NULL, &l->at, d);
    if (ok && l->opt.plan_in) {
        ok = repeat(l, d);
    } else if (ok) {
        ok = attempt_search(l, &l->at, NULL, 0, NULL, d);
        if (ok && l->may_shrink && budget_of_quality(l->opt.budget) && l->weights <= LARGE_MODEL)
            ok = try_steps(l, d);
        if (ok) plan_make(l);
    }
    attempt_close(&l->at);
    return ok;
}
