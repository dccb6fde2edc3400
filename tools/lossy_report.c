/* lossy_report.c: what the lossy passes did, as facts: for the terminal, the page and the artifact. What was predicted
 * is never shown as measured. */
#include "tools/lossy.h"

#include <inttypes.h>
#include <math.h>

const Trial *lossy_best(const Lossy *l) {
    return l->at.search.trials.count ? &l->at.search.trials.data[l->at.search.best] : NULL;
}

static const char *budget_text(Arena *a, Budget b) {
    Text t = text_new(a);
    budget_print(&t, b);
    return t.data;
}

static void add_quality(Report *r, const char *key, const char *title, const Quality *q, const Windows *w) {
    report_section(r, key, title);
    report_text(r, "tokens scored", "%" PRId64 " in %" PRId64 " windows of %" PRId64, q->scored, w->windows,
                w->length);
    report_number(r, "mean KL", q->mean_kl, "%.5g +- %.2g nats a token", q->mean_kl, q->mean_kl_error);
    report_number(r, "p99 KL", q->p99_kl, "%.4g, largest %.4g", q->p99_kl, q->max_kl);
    report_number(r, "perplexity", q->perplexity, "%.5g, before %.5g (%+.2f %%)", q->perplexity,
                  q->base_perplexity, 100 * (q->perplexity / q->base_perplexity - 1));
    report_number(r, "same most likely token", q->same_top, "%.2f +- %.2f %%", 100 * q->same_top,
                  100 * q->same_top_error);
    report_number(r, "RMS change of probability", q->rms_dp, "%.3f +- %.3f %%", 100 * q->rms_dp,
                  100 * q->rms_dp_error);
}

static void add_sites(const Lossy *l, Report *r) {
    const Trial *best = lossy_best(l);
    report_section(r, "matrices", "matrices: stored bits measured, KL predicted");
    for (size_t i = 0; i < l->at.nsites; i++) {
        const Site *s = &l->at.sites[i];
        const Format *f = l->plan.sites.data[i].format;
        double numbers = (double)s->rows * (double)s->cols;
        double before = s->bits * numbers;
        double bits = f ? (double)format_stored_bits(f, s->rows, s->cols) : before;
        report_row(r);
        report_text(r, "matrix", "%s", s->name);
        report_text(r, "size", "%" PRId64 " x %" PRId64, s->rows, s->cols);
        report_text(r, "format", "%s", f ? f->name : "kept");
        report_number(r, "bits a weight", bits / numbers, "%.2f bits", bits / numbers);
        report_number(r, "saved", (before - bits) / 8, "%s", report_bytes(r->arena, (before - bits) / 8));
        if (best) {
            double kl = l->at.search.site[i].option[best->pick[i]].kl;
            report_number(r, "KL, predicted", kl, "%.2e predicted", kl);
        }
    }
}

static void add_trials(const Lossy *l, Report *r) {
    report_section(r, "trials", "what was tried");
    for (size_t i = 0; i < l->at.search.trials.count; i++) {
        const Trial *x = &l->at.search.trials.data[i];
        const char *verdict = i == l->at.search.best ? "kept"
                              : x->share > 1         ? "rolled back: breaks the budget"
                                                     : "rolled back: larger than what was kept";
        report_row(r);
        report_text(r, "trial", "%zu", i + 1);
        report_number(r, "bits a weight", x->bits / (double)l->weights, "%.3f bits",
                      x->bits / (double)l->weights);
        report_number(r, "KL, predicted", x->predicted_kl, "KL %.3e predicted", x->predicted_kl);
        report_number(r, "KL, measured", x->measured.mean_kl, "%.3e +- %.1e measured", x->measured.mean_kl,
                      x->measured.mean_kl_error);
        if (budget_of_quality(l->plan.budget))
            report_number(r, "of the budget", x->share, "%.0f %% of the budget", 100 * x->share);
        report_text(r, "verdict", "%s", verdict);
    }
}

static const char *narrow_verdict(const LossyNarrow *n, Arena *a) {
    return arena_printf(a, "%s%s%s",
                        n->kept    ? "kept"
                        : n->tried ? "rolled back"
                                   : "not tried",
                        n->why ? ": " : "", n->why ? n->why : "");
}

static void add_narrow(const Lossy *l, Report *r) {
    for (NarrowKind k = 0; k < NARROW_COUNT; k++) {
        const LossyNarrow *n = &l->at.narrow[k];
        double saves = n->kept && k == NARROW_CACHE ? (n->before - n->after) * (double)l->context : 0;
        report_row(r);
        report_text(r, "technique", k == NARROW_CACHE ? "cache in 8 bits" : "activations in 8 bits");
        if (k == NARROW_CACHE)
            report_number(r, "saves", saves, "%s of a full context, not of the file",
                          report_bytes(r->arena, saves));
        else
            report_number(r, "saves", 0, "products of one row %.2f times as fast on a CPU, predicted",
                          n->after);
        report_number(r, "operations", 0, "none");
        if (n->tried)
            report_number(r, "KL", n->kl, "KL %.2e measured; as much off the weights %.2e", n->kl, n->worth);
        report_text(r, "verdict", "%s", narrow_verdict(n, r->arena));
    }
}

/* Bytes that each technique saved; quantising is what its formats save on what the steps left. */
static void add_techniques(const Lossy *l, const CompileResult *res, Report *r) {
    double steps = 0, ops = 0, kl = 0, rest = (double)l->exact_bits / 8 - (double)res->pack.weight_bytes;
    for (size_t i = 0; i < l->notes.count; i++) {
        const LossyNote *n = &l->notes.data[i];
        if (n->kept) steps += n->bytes, ops += n->ops, kl += n->kl;
    }
    report_section(r, "techniques", "techniques");
    report_row(r);
    report_text(r, "technique", "prune and share");
    report_number(r, "saves", steps, "%s", report_bytes(r->arena, steps));
    report_number(r, "operations", ops, "%.3g operations a token fewer", ops);
    report_number(r, "KL", kl, "KL %.2e, of its steps alone", kl);
    report_text(r, "verdict", "%s",
                steps > 0        ? "kept"
                : l->notes.count ? "rolled back, see below"
                                 : "not tried");
    report_row(r);
    report_text(r, "technique", "quantise");
    report_number(r, "saves", rest - steps, "%s", report_bytes(r->arena, rest - steps));
    report_number(r, "operations", 0, "none");
    report_number(r, "KL", l->at.confirmed.mean_kl - kl, "KL %.2e, what remains of all that was measured",
                  l->at.confirmed.mean_kl - kl);
    report_text(r, "verdict", "kept");
    add_narrow(l, r);
}

static void add_steps(const Lossy *l, Report *r) {
    report_section(r, "steps", "changes of structure");
    for (size_t i = 0; i < l->notes.count; i++) {
        const LossyNote *n = &l->notes.data[i];
        report_row(r);
        report_text(r, "step", "%s", n->what);
        report_number(r, "saves", n->bytes, "%s (predicted)", report_bytes(r->arena, n->bytes));
        report_number(r, "operations", n->ops, "%.3g operations a token fewer", n->ops);
        report_number(r, "KL", n->kl, "KL %.3e %s", n->kl, n->measured ? "measured" : "predicted");
        report_text(r, "verdict", "%s%s%s", n->kept ? "kept" : "rolled back", *n->why ? ": " : "", n->why);
    }
}

void lossy_report(const Lossy *l, const CompileResult *res, Report *r) {
    double weights = (double)l->weights, bits = 8 * (double)res->pack.weight_bytes;
    report_section(r, "compression", "compression");
    report_text(r, "budget", "%s: held%s", budget_text(r->arena, l->plan.budget),
                budget_of_quality(l->plan.budget) ? ", with two standard errors" : "");
    report_number(r, "bits a weight", bits / weights, "%.3f, before %.3f; %" PRIu64 " weights",
                  bits / weights, (double)l->exact_bits / weights, l->weights);
    report_number(r, "weights", bits / 8, "%s, before %s", report_bytes(r->arena, bits / 8),
                  report_bytes(r->arena, (double)l->exact_bits / 8));
    const LossyNarrow *cache = &l->at.narrow[NARROW_CACHE];
    double token = cache->kept ? cache->after : cache->before;
    report_number(r, "cache", token, "%s a token, before %s", report_bytes(r->arena, token),
                  report_bytes(r->arena, cache->before));
    if (l->speed[0] > 0 && l->speed[1] > 0)
        report_number(r, "decode", l->speed[1], "%.1f tokens/s, before %.1f, measured on this CPU",
                      l->speed[1], l->speed[0]);
    for (size_t i = 0; i < res->kernels.speeds.count; i++) {
        const TargetSpeed *now = &res->kernels.speeds.data[i];
        report_number(r, arena_printf(r->arena, "decode on one %s", now->gpu), target_rate(now),
                      "%.0f tokens/s, before %.0f, at context %" PRId64 "; predicted", target_rate(now),
                      target_rate(&l->gpus.data[i]), res->context);
    }
    report_text(r, "text", "%s; %" PRId64 " windows there are",
                l->opt.calibrate ? l->opt.calibrate : "sampled from the model itself", l->text.there);
    add_quality(r, "fresh", "measured on text that neither calibration nor search saw", &l->at.confirmed,
                &l->text.confirmation);
    add_quality(r, "seen", "measured on the text of the search", &l->at.measured, &l->text.evaluation);
    if (l->at.guarded.scored > 0)
        add_quality(r, "guard", "measured on text that the model wrote at a high temperature", &l->at.guarded,
                    &l->text.guard);
    add_techniques(l, res, r);
    add_steps(l, r);
    add_trials(l, r);
    add_sites(l, r);
}

const char *lossy_record(const Lossy *l, Arena *a) {
    Text t = text_new(a);
    Report r = report_new(a);
    plan_print(&t, &l->plan);
    text_add(&t, "\n");
    add_quality(&r, "fresh", "measured on text that neither calibration nor search saw", &l->at.confirmed,
                &l->text.confirmation);
    add_quality(&r, "seen", "measured on the text of the search", &l->at.measured, &l->text.evaluation);
    report_print(&r, &t);
    return t.data;
}

static void print_narrow(const Lossy *l, Text *t) {
    for (NarrowKind k = 0; k < NARROW_COUNT; k++) {
        const LossyNarrow *n = &l->at.narrow[k];
        if (k == NARROW_CACHE)
            text_printf(t, "  cache     %.1f KB a token, before %.1f KB: 8 bits ",
                        (n->kept ? n->after : n->before) / 1e3, n->before / 1e3);
        else
            text_printf(t, "  rows      products of one row %.2f times as fast (predicted): 8 bits ",
                        n->after);
        text_add(t, narrow_verdict(n, t->arena));
        if (n->tried) text_printf(t, "; KL %.2e measured, as much off the weights %.2e", n->kl, n->worth);
        text_add(t, "\n");
    }
}

void lossy_print(const Lossy *l, const CompileResult *r, Text *t) {
    double weights = (double)l->weights, bits = 8 * (double)r->pack.weight_bytes;
    const Quality *q = &l->at.confirmed;
    text_printf(t, "  lossy     %.2f bits a weight, %.2f MB; before %.2f bits, %.2f MB\n", bits / weights,
                bits / 8e6, (double)l->exact_bits / weights, (double)l->exact_bits / 8e6);
    text_printf(t,
                "  verified  exact program: largest error %.1e of the logits' deviation; compressed, "
                "stepwise against whole: %.1e\n",
                l->gate.max_err / l->gate.ref_std, l->steps_gate.max_err / l->steps_gate.ref_std);
    text_printf(t,
                "  measured  on fresh text: mean KL %.4g +- %.2g, perplexity %.4g (before %.4g), same most "
                "likely token "
                "%.2f %%\n",
                q->mean_kl, q->mean_kl_error, q->perplexity, q->base_perplexity, 100 * q->same_top);
    if (l->at.guarded.scored > 0)
        text_printf(t, "            on text as surprising as new text: mean KL %.4g +- %.2g\n",
                    l->at.guarded.mean_kl, l->at.guarded.mean_kl_error);
    text_printf(t, "  budget    %s: held%s; %zu trials\n", budget_text(t->arena, l->plan.budget),
                budget_of_quality(l->plan.budget) ? ", with two standard errors" : "",
                l->at.search.trials.count);
    print_narrow(l, t);
    for (size_t i = 0; i < r->kernels.speeds.count; i++)
        text_printf(t, "  %-9s decodes %.0f tokens/s at context %" PRId64 ", before %.0f (predicted)\n",
                    r->kernels.speeds.data[i].gpu, target_rate(&r->kernels.speeds.data[i]), r->context,
                    target_rate(&l->gpus.data[i]));
    for (size_t i = 0; i < l->notes.count; i++)
        text_printf(t, "  step      %s: %s%s%s\n", l->notes.data[i].what,
                    l->notes.data[i].kept ? "kept" : "rolled back", *l->notes.data[i].why ? ": " : "",
                    l->notes.data[i].why);
    for (size_t i = 0; i < l->warnings.count; i++) text_printf(t, "  warning   %s\n", l->warnings.data[i]);
}

/* KL falls fourfold a bit; where it stands at 3.5 bits was measured on two small GPTs (docs/compression.md). */
#define KL_AT_3_5 0.0075
#define CPU_RATE 3e10         /* multiplications and additions a second on two cores */
#define SECONDS_A_WEIGHT 3e-6 /* to forecast and quantise, a trial each a tenth of it */

static double predicted_bits(Budget b, uint64_t weights) {
    switch (b.kind) {
    case BUDGET_BITS: return b.value;
    case BUDGET_SIZE: return 8 * b.value / (double)weights;
    case BUDGET_TOP1: return 3.5 - log(2 * pow(1 - b.value, 2) / KL_AT_3_5) / log(4);
    default: return 3.5 - log(b.value / KL_AT_3_5) / log(4);
    }
}

void lossy_predict(const Lossy *l, const Program *p, const CpuRate *cpu, Text *t) {
    uint64_t stored, weights = graph_weigh(l->c->graph, &stored);
    double least = 2.2, b = fmin(fmax(predicted_bits(l->opt.budget, weights), least), 32);
    Site *sites;
    size_t n = sites_find(l->c->graph, l->c->arena, &sites);
    LossyShares s = lossy_shares(l->c->graph, sites, n, 256, !l->opt.calibrate);
    double tokens = 256.0 * (double)(s.calibration + 2 * s.each), trials = 3;
    double seconds = 2 * (double)weights * tokens * (2 + trials) / CPU_RATE +
                     SECONDS_A_WEIGHT * (double)weights * (1 + trials / 10);
    text_printf(t, "compressed: %.2f bits a weight, %.2f MB of weights (predicted, roughly, for %s)\n", b,
                b * (double)weights / 8e6, budget_text(t->arena, l->opt.budget));
    targets_predict(l->c->graph, p, cpu, b * (double)weights / (double)stored, "compressed: ", l->c->arena,
                    t);
    text_printf(t, "compile: about %.0f s on two cores (predicted, roughly)\n", seconds);
}
