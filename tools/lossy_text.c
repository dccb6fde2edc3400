/* lossy_text.c: the text that prices a compile, dealt out to parts that share no window. Every token of it is run many
 * times, so a large model gets fewer. */
#include <inttypes.h>

#include "codegen/windows.h"
#include "tools/lossy.h"
#include "tools/text.h"

#define WINDOW 256
#define LEAST_WINDOWS 8
#define TOKENS_AN_INPUT 2 /* of the widest product, to calibrate */
#define MOST_WINDOWS 64
#define SAMPLED_WINDOWS 32 /* at most: writing them takes longer than running them */
#define PROBE_WINDOWS 2
#define STEP_WINDOWS 4
#define GUARD_WINDOWS 16
#define GUARD_TEMPERATURE 1.35f /* KL on it is near that on text of people that the model has not seen */
#define TEXT_WORK 2e11          /* multiplications and additions for all windows, once */

static int64_t most_inputs(const Site *sites, size_t n) {
    int64_t most = 0;
    for (size_t i = 0; i < n; i++)
        if (sites[i].kind != SITE_TABLE && sites[i].cols > most) most = sites[i].cols;
    return most;
}

/* Half calibrates, a quarter each is for the search and for what it must not see; but moments of fewer tokens than
 * inputs do not say how the inputs depend on each other, and what is fitted to them does not hold elsewhere. */
LossyShares lossy_shares(const Graph *g, const Site *sites, size_t nsites, int64_t length, bool sampled) {
    int64_t most = sampled ? SAMPLED_WINDOWS : MOST_WINDOWS;
    double read =
        (double)graph_weigh(g, NULL); /* weights for a token: not of experts that it does not choose */
    for (size_t i = 0; i < nsites; i++)
        if (sites[i].experts) read -= (double)(sites[i].rows * sites[i].cols) - site_products(g, &sites[i]);
    int64_t all = (int64_t)(TEXT_WORK / (2.0 * read * (double)length));
    all = all < LEAST_WINDOWS ? LEAST_WINDOWS : all > most ? most : all;
    int64_t needed = (TOKENS_AN_INPUT * most_inputs(sites, nsites) + length - 1) / length;
    LossyShares s = {all / 2, all / 4};
    if (needed > MOST_WINDOWS / 2) needed = MOST_WINDOWS / 2;
    if (s.calibration < needed) s.calibration = needed;
    return s;
}

/* Where there are too few for all that, calibration goes without: a spread between windows has to be known elsewhere. */
LossyShares lossy_shares_of(LossyShares s, int64_t windows) {
    if (windows >= s.calibration + 2 * s.each) return s;
    int64_t each = windows / 4 < s.each ? windows / 4 : s.each;
    return (LossyShares){windows - 2 * each, each};
}

static bool deal(Lossy *l, const Windows *all, LossyShares wished, Diag *d) {
    LossyShares s = lossy_shares_of(wished, all->windows);
    double share[] = {(double)s.calibration, (double)s.each, (double)s.each};
    LossyText *t = &l->text;
    Windows part[COUNT_OF(share)], drawn[2];
    int64_t wanted = s.calibration + 2 * s.each;
    double first[] = {(double)wanted, (double)(all->windows - wanted)};
    if (all->windows < LEAST_WINDOWS)
        return diag_error(d, loc_file(l->opt.calibrate ? l->opt.calibrate : l->opt.model_path),
                          "%" PRId64 " windows of %" PRId64
                          " tokens are too few to calibrate and to measure; hint: "
                          "a text of %" PRId64 " tokens at least",
                          all->windows, all->length, LEAST_WINDOWS * all->length);
    t->there = all->windows;
    if (all->windows > wanted) {
        windows_deal(all, first, 2, (uint64_t)l->opt.seed, l->c->arena, drawn);
        all = &drawn[0];
    }
    windows_deal(all, share, COUNT_OF(share), (uint64_t)l->opt.seed, l->c->arena, part);
    t->calibration = part[0], t->evaluation = part[1], t->confirmation = part[2];
    t->probe = t->steps = t->evaluation;
    if (t->probe.windows > PROBE_WINDOWS) t->probe.windows = PROBE_WINDOWS;
    if (t->steps.windows > STEP_WINDOWS) t->steps.windows = STEP_WINDOWS;
    if (l->weights > LARGE_MODEL) t->probe.windows = 1;
    return true;
}

/* A model knows the text that it was trained on, so what changes there says too little of new text, and a calibration
 * text may be of that kind. What the model writes at a high temperature surprises it as new text does. */
static bool guard_sample(Lossy *l, gptc_model *m, int64_t most, int64_t length, Diag *d) {
    if (!budget_of_quality(l->opt.budget) || l->opt.plan_in) return true;
    int64_t n = most < GUARD_WINDOWS ? most : GUARD_WINDOWS;
    return windows_sample(m, n, length, GUARD_TEMPERATURE, (uint64_t)l->opt.seed, l->opt.threads, l->c->arena,
                          &l->text.guard, d);
}

bool lossy_text(Lossy *l, const Site *sites, size_t nsites, const char *artifact, Diag *d) {
    gptc_model *m;
    gptc_detail why = {""};
    int64_t length = compile_context(l->c, l->opt.ctx);
    if (length > WINDOW) length = WINDOW;
    LossyShares s = lossy_shares(l->exact, sites, nsites, length, !l->opt.calibrate);
    Arena *a = l->c->arena;
    Windows all;
    if (gptc_open(artifact, NULL, &m, &why) != GPTC_OK)
        return diag_bug(d, loc_file(artifact), "%s", why.text);
    bool ok;
    if (l->opt.calibrate) {
        int32_t *ids;
        size_t n;
        ok = text_tokens(m, l->opt.calibrate, a, &ids, &n, d);
        if (ok) all = windows_cut(ids, n, length, a);
        ok = ok && guard_sample(l, m, s.each, length, d);
    } else {
        ok = windows_sample(m, s.calibration + 2 * s.each, length, 1, (uint64_t)l->opt.seed, l->opt.threads,
                            a, &all, d);
    }
    gptc_close(m);
    return ok && deal(l, &all, s, d);
}
