/* search.c: the smallest model within a budget.
 *
 * The forecast says what each format costs at each site, the allocation picks the smallest sum of bits for an aim in
 * KL, the whole is quantised and measured, and the aim moves: forecasts are good at comparing sites and worse at the
 * sum, since later sites mend errors of earlier ones and errors are not always small. The measured share of the budget
 * (its upper bound) rises with the aim, so what held and what broke bracket it. Everything measured is a trial; the
 * smallest one that held is the result, and a trial that broke the budget is rolled back by never having touched the
 * exact graph. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "passes/lossy/budget.h"

#define ERRORS 2.0      /* standard errors that a budget counts in */
#define NEAR_ENOUGH 0.9 /* of the budget, used */
#define WANTED 0.96     /* of it: where the next trial is aimed at */
#define FIRST_AIM 0.6   /* of the budget: the sum of forecasts is below what errors cost together */
#define GROWTH 1.2      /* KL grows with this power of the forecast, about */
#define MORE_TRIALS 3   /* when none has held yet: a smaller file late is better than none */

typedef struct {
    const Search *s;
    Arena *arena;
    SearchResult *r;
    double aim, held, broke;        /* in predicted KL: the next, the most that held, the least that broke */
    double held_share, broke_share; /* of the budget */
    double last_aim, last_share;    /* of the trial before; 0: there was none */
    uint32_t breaks;
    Diag *diag;
} Hunt;

static void tell(const Search *s, const char *what, double done) {
    if (s->progress) s->progress->at(s->progress->self, what, done);
}

/* ---- one trial ---- */

typedef struct {
    const Search *s;
    double from, span;
} Within;

static bool quantised_site(void *self, size_t done, size_t of, const Site *site, const Format *f, double loss,
                           double energy) {
    const Within *w = self;
    (void)site, (void)f, (void)loss, (void)energy;
    tell(w->s, "quantise", w->from + w->span * (double)done / (double)of);
    return true;
}

static bool restore_lab(const Search *s, Diag *d) {
    for (uint32_t i = 0; i < s->n; i++)
        if (!s->lab->set(s->lab, i, NULL, d)) return false;
    return true;
}

bool search_apply(const Search *s, const Format *const *chosen, Arena *graph_arena, Graph **graph,
                  Quality *measured, Quality *guarded, Diag *d) {
    Within within = {s, 0, 1};
    LossyProgress progress = {&within, quantised_site};
    Graph *g = *graph = graph_copy(s->exact, graph_arena);
    bool ok = lossy_quantize(g, s->sites, s->n, chosen, s->lab, s->calibration, &progress, d);
    if (ok) tell(s, "measure", 0);
    ok = ok && s->lab->measure(s->lab, s->evaluation, measured, d); /* the sites hold what g does */
    *guarded = (Quality){0};
    if (s->guard) ok = ok && s->lab->measure(s->lab, s->guard, guarded, d);
    return restore_lab(s, d) && ok;
}

static double bits_of(const Search *s, const SearchResult *r, const uint32_t *pick) {
    double bits = (double)s->other_bits;
    for (size_t i = 0; i < s->n; i++) bits += r->site[i].option[pick[i]].bits;
    return bits;
}

static bool same_picks(const uint32_t *a, const uint32_t *b, size_t n) {
    return !memcmp(a, b, n * sizeof *a);
}

static const Trial *tried(const Hunt *h, const uint32_t *pick) {
    for (size_t i = 0; i < h->r->trials.count; i++)
        if (same_picks(h->r->trials.data[i].pick, pick, h->s->n)) return &h->r->trials.data[i];
    return NULL;
}

/* Quantises and measures; keeps the graph when it is the best so far. */
static bool try_picks(Hunt *h, uint32_t *pick, Trial *out) {
    const Search *s = h->s;
    SearchResult *r = h->r;
    const Format **chosen = arena_array_of(h->arena, s->n, const Format *);
    Trial t = {.bits = bits_of(s, r, pick), .pick = pick};
    for (size_t i = 0; i < s->n; i++) {
        chosen[i] = r->site[i].option[pick[i]].format;
        t.predicted_kl += r->site[i].option[pick[i]].kl;
    }
    Arena *a = arena_new();
    Graph *g;
    if (!search_apply(s, chosen, a, &g, &t.measured, &t.guarded, h->diag)) {
        arena_free(a);
        return false;
    }
    if (budget_of_quality(s->budget)) {
        t.share = budget_share(s->budget, &t.measured, ERRORS);
        if (s->guard) t.share = fmax(t.share, budget_share(s->budget, &t.guarded, ERRORS));
    }
    const Trial *best = r->graph ? &r->trials.data[r->best] : NULL;
    bool better = t.share <= 1 &&
                  (!best || (budget_of_quality(s->budget) ? t.bits < best->bits
                                                          : t.measured.mean_kl < best->measured.mean_kl));
    VEC_PUSH(h->arena, &r->trials, t);
    tell(s,
         arena_printf(h->arena, "trial %zu: %.3f bits, KL %.4g, %.1f %% used", r->trials.count,
                      t.bits / (double)s->weights, t.measured.mean_kl, 100 * t.share),
         0);
    if (better) {
        arena_free(r->graph_arena);
        r->best = r->trials.count - 1, r->graph = g, r->graph_arena = a;
    } else {
        arena_free(a);
    }
    *out = t;
    return true;
}

/* ---- budgets of quality: the aim moves ---- */

static bool allocate_kl(const Hunt *h, double aim, uint32_t *pick) {
    const Search *s = h->s;
    Arena *a = arena_new();
    Choices *c = arena_array_of(a, s->n, Choices);
    for (size_t i = 0; i < s->n; i++) {
        const SiteForecast *f = &h->r->site[i];
        Choice *choice = arena_array_of(a, f->n, Choice);
        for (uint32_t k = 0; k < f->n; k++) choice[k] = (Choice){f->option[k].kl, f->option[k].bits};
        c[i] = (Choices){choice, f->n};
    }
    bool ok = allocate(c, s->n, aim, pick, a);
    arena_free(a);
    return ok;
}

/* A first aim: what the budget would be, were it one of KL. Same-top falls with the root of KL. */
static double first_aim(Budget b) {
    if (b.kind == BUDGET_TOP1) return 2 * FIRST_AIM * (1 - b.value) * (1 - b.value);
    return FIRST_AIM * b.value;
}

/* The share is a power of the aim: the one through what held and what broke, when both are known. */
static void move_aim(Hunt *h, double share) {
    if (share <= 1 && h->aim > h->held) h->held = h->aim, h->held_share = share;
    if (share > 1 && h->aim < h->broke) h->broke = h->aim, h->broke_share = share;
    if (h->held > 0 && isfinite(h->broke)) {
        double part = log(WANTED / h->held_share) / log(h->broke_share / h->held_share);
        h->aim = h->held * pow(h->broke / h->held, fmin(fmax(part, 0.1), 0.9));
        return;
    }
    double usual = h->s->budget.kind == BUDGET_TOP1 ? 0.5 * GROWTH : GROWTH, power = usual;
    if (h->last_aim > 0 && h->last_aim != h->aim)
        power = fmin(fmax(log(share / h->last_share) / log(h->aim / h->last_aim), usual / 3), usual * 2);
    h->last_aim = h->aim, h->last_share = share;
    double wanted = share > 1 ? WANTED * pow(NEAR_ENOUGH, h->breaks++) : WANTED;
    h->aim *= pow(fmin(fmax(wanted / fmax(share, 1e-9), 0.1), 8.0), 1 / power);
}

/* Bits that a trial would have with just its budget used: a bit more for each number divides KL by four. */
static double expected_bits(const Search *s, const Trial *t) {
    double kl_share = s->budget.kind == BUDGET_TOP1 ? t->share * t->share : t->share;
    return t->bits + (double)s->weights * log(fmax(kl_share, 1e-9)) / log(4);
}

static bool hunt_quality(Hunt *h) {
    const Search *s = h->s;
    h->aim = s->aim > 0 ? s->aim : first_aim(s->budget), h->held = 0, h->broke = INFINITY;
    for (uint32_t i = 0; i < s->trials + (h->held > 0 ? 0 : MORE_TRIALS); i++) {
        uint32_t *pick = arena_array_of(h->arena, s->n, uint32_t);
        Trial t;
        if (!allocate_kl(h, h->aim, pick)) return true;
        const Trial *old = tried(h, pick);
        if (old)
            t = *old;
        else if (!try_picks(h, pick, &t))
            return false;
        h->r->expected = expected_bits(s, &t);
        bool near = t.share <= 1 && t.share >= NEAR_ENOUGH;
        if (near && (s->beat <= 0 || t.bits < s->beat)) break;
        if (s->beat > 0 && h->r->expected > s->beat) break;
        if (h->held > 0 && h->broke / h->held < 1.01) break;
        move_aim(h, t.share);
    }
    return true;
}

/* ---- neighbours: one site a format further down, while there is slack ---- */

/* The choice that saves most bits for what it is predicted to add, within the slack; SIZE_MAX when none does. */
static size_t best_neighbour(const Hunt *h, const Trial *from, double slack, uint32_t *to) {
    size_t best = SIZE_MAX;
    double most = 0;
    for (size_t i = 0; i < h->s->n; i++) {
        const SiteForecast *f = &h->r->site[i];
        const SiteOption *now = &f->option[from->pick[i]];
        for (uint32_t k = 0; k < f->n; k++) {
            double saved = now->bits - f->option[k].bits, adds = f->option[k].kl - now->kl;
            if (saved <= most || adds > slack) continue;
            uint32_t *pick = arena_dup(h->arena, from->pick, h->s->n * sizeof *pick);
            pick[i] = k;
            if (tried(h, pick)) continue;
            best = i, *to = k, most = saved;
        }
    }
    return best;
}

static bool take_slack(Hunt *h) {
    const Search *s = h->s;
    for (uint32_t tries = 0; tries < s->trials / 4; tries++) {
        const Trial *best = &h->r->trials.data[h->r->best];
        if (best->share >= NEAR_ENOUGH) break;
        double slack = (1 - best->share) * best->predicted_kl;
        uint32_t to, *pick;
        size_t site = best_neighbour(h, best, slack, &to);
        if (site == SIZE_MAX) break;
        pick = arena_dup(h->arena, best->pick, s->n * sizeof *pick);
        pick[site] = to;
        Trial t;
        if (!try_picks(h, pick, &t)) return false;
    }
    return true;
}

/* ---- budgets of size ---- */

static bool hunt_size(Hunt *h) {
    const Search *s = h->s;
    double limit = s->budget.value * (s->budget.kind == BUDGET_SIZE ? 8.0 : (double)s->weights);
    Arena *a = arena_new();
    Choices *c = arena_array_of(a, s->n, Choices);
    for (size_t i = 0; i < s->n; i++) {
        const SiteForecast *f = &h->r->site[i];
        Choice *choice = arena_array_of(a, f->n, Choice);
        for (uint32_t k = 0; k < f->n; k++) choice[k] = (Choice){f->option[k].bits, f->option[k].kl};
        c[i] = (Choices){choice, f->n};
    }
    uint32_t *pick = arena_array_of(h->arena, s->n, uint32_t);
    bool fits = allocate(c, s->n, limit - (double)s->other_bits, pick, a);
    arena_free(a);
    Trial t;
    if (fits) return try_picks(h, pick, &t);
    h->r->out_of_reach = true;
    Text asked = text_new(h->arena);
    budget_print(&asked, s->budget);
    double least = bits_of(s, h->r, pick);
    return diag_error(
        h->diag, loc_none(),
        "--budget %s: the smallest formats take %.2f bits a weight, %.2f MB; hint: ask for that at least",
        asked.data, least / (double)s->weights, least / 8e6);
}

bool search_formats(const Search *s, Arena *a, SearchResult *out, Diag *d) {
    *out = (SearchResult){.site = s->forecast ? s->forecast : arena_array_of(a, s->n, SiteForecast)};
    Hunt h = {.s = s, .arena = a, .r = out, .diag = d};
    if (!forecast_sites(s, a, out->site, d)) return false;
    if (!budget_of_quality(s->budget)) return hunt_size(&h);
    if (!hunt_quality(&h) || (out->graph && !take_slack(&h))) {
        arena_free(out->graph_arena);
        out->graph_arena = NULL, out->graph = NULL;
        return false;
    }
    if (out->graph) return true;
    out->out_of_reach = true;
    Text asked = text_new(a);
    budget_print(&asked, s->budget);
    if (out->trials.count == 0)
        return diag_error(d, loc_none(), "--budget %s: no formats are predicted to keep it", asked.data);
    const Trial *last = &out->trials.data[out->trials.count - 1];
    return diag_error(d, loc_none(),
                      "--budget %s: not reached in %zu trials; the last, at %.2f bits a weight, has a mean "
                      "KL of %.2g, %.0f %% "
                      "of the budget; hint: a larger budget",
                      asked.data, out->trials.count, last->bits / (double)s->weights, last->measured.mean_kl,
                      100 * last->share);
}
