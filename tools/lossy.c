/* lossy.c: the lossy passes of a compile.
 *
 *   exact graph ──▶ packed, gate 1 ──▶ text ──▶ lab ──▶ search or plan ──▶ changed graph ──▶ confirmed on fresh text
 *
 * The exact program is verified first, so that whatever differs later is what the lossy passes did. The search sees the
 * calibration and the evaluation text; the confirmation is text that it did not see. */
#include "tools/lossy.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "codegen/lab.h"
#include "tools/cli.h"

#define ERRORS 2.0
#define SPEED_STEPS 24
#define ROUNDS 4 /* of searches, each with a tighter budget than the one before */

void lossy_init(Lossy *l, Compile *c, const LossyOptions *o, const CompileWrite *w) {
    *l = (Lossy){.opt = *o, .c = c, .write = w, .asked = o->budget.kind != BUDGET_NONE};
    if (!l->asked) l->opt.budget = (Budget){BUDGET_KL, 0.01};
}

void lossy_free(Lossy *l) {
    arena_free(l->search.graph_arena);
    if (l->exact_file) file_abandon(l->exact_file);
}

static void tell(void *self, const char *what, double done) {
    Lossy *l = self;
    if (l->opt.progress) l->opt.progress(l->opt.user, what, done);
}

/* ---- the exact program ---- */

/* Plans and lowers a copy of g. */
static bool program_of(Lossy *l, const Graph *g, Program **out) {
    Compile *c = l->c;
    Graph *kept = c->graph;
    c->graph = graph_copy(g, c->arena);
    PassRun run = {.passes = "fuse,order,memplan"};
    PassOptions opt = {.kv_cache = true, .ctx = l->opt.ctx, .opt_level = 1};
    bool ok = passes_run(c->graph, &run, &opt, NULL, &c->diag) &&
              compile_lower(c, compile_context(c, l->opt.ctx), out);
    c->graph = kept;
    return ok;
}

/* The exact program as a file, held to gate 1. */
static bool pack_exact(Lossy *l, Diag *d) {
    Program *p;
    CompileResult r = {0};
    if (!program_of(l, l->exact, &p)) return false;
    CompileWrite w = *l->write;
    w.targets = NULL, w.lossy = NULL, w.embed_ir = false;
    const char *beside = arena_printf(l->c->arena, "%s.exact", l->opt.out);
    FileWriter *file = compile_pack(l->c, p, l->opt.model_path, beside, &w, &r);
    if (!file) return false;
    if (!file_flush(file)) return file_commit(file, d);
    l->exact_file = file;
    l->exact_bits = r.pack.weight_bytes * 8;
    l->vocab = p->meta.vocab;
    return gate_exact(l->c->imported, file_temporary(file), l->write->seed, l->c->arena, &l->gate, d);
}

/* ---- searching ---- */

static uint32_t trials_for(const Lossy *l) { return l->weights > LARGE_MODEL ? 3 : 7; }

static Search search_of(Lossy *l, Lab *lab, const SearchProgress *progress) {
    return (Search){.exact = l->exact,
                    .sites = l->sites,
                    .n = l->nsites,
                    .lab = lab,
                    .calibration = &l->text.calibration,
                    .probe = &l->text.probe,
                    .evaluation = &l->text.evaluation,
                    .budget = l->opt.budget,
                    .weights = l->weights,
                    .other_bits = l->other_bits,
                    .trials = trials_for(l),
                    .progress = progress};
}

static LossyPlan plan_of(const Lossy *l, Arena *a) {
    LossyPlan p = {.model = graph_fingerprint(l->exact),
                   .budget = l->opt.budget,
                   .calibration = windows_fingerprint(&l->text.calibration)};
    const Trial *best = &l->search.trials.data[l->search.best];
    for (size_t i = 0; i < l->nsites; i++) {
        const Site *s = &l->sites[i];
        const Format *f = l->search.site[i].option[best->pick[i]].format;
        VEC_PUSH(a, &p.sites, ((PlanSite){s->name, s->rows, s->cols, f}));
    }
    return p;
}

static Budget tighter(Budget b, double by) {
    b.value = b.kind == BUDGET_TOP1 ? 1 - (1 - b.value) * by : b.value * by;
    return b;
}

/* When fresh text says no, the search goes on from where it was with less to spend. */
static bool search(Lossy *l, Search *s, Diag *d) {
    for (int round = 0; round < ROUNDS; round++) {
        if (!search_formats(s, l->c->arena, &l->search, d)) return false;
        const Trial *best = lossy_best(l);
        l->measured = best->measured;
        tell(l, "confirm", 0);
        if (!s->lab->measure_graph(s->lab, l->search.graph, &l->text.confirmation, &l->confirmed, d))
            return false;
        double share = budget_share(l->opt.budget, &l->confirmed, ERRORS);
        if (share <= 1) {
            l->plan = plan_of(l, l->c->arena);
            return true;
        }
        s->budget = tighter(s->budget, 0.98 / share);
        s->forecast = l->search.site, s->aim = best->predicted_kl * 0.98 / share;
        arena_free(l->search.graph_arena);
        l->search.graph_arena = NULL;
    }
    return diag_error(
        d, loc_none(),
        "the budget held on the text of the search and not on fresh text: mean KL %.3g there; hint: more "
        "calibration text, or a larger budget",
        l->confirmed.mean_kl);
}

/* ---- repeating a plan ---- */

static bool read_plan(Lossy *l, Diag *d) {
    FileView f;
    if (!file_map(l->opt.plan_in, &f, d)) return false;
    bool ok = plan_parse((const char *)f.data, f.bytes, l->opt.plan_in, l->c->arena, &l->plan, d);
    file_unmap(&f);
    return ok;
}

static bool repeat(Lossy *l, const Search *s, Diag *d) {
    if (!plan_fits(&l->plan, l->exact, &l->text.calibration, l->opt.plan_in, d) ||
        !plan_fits_sites(&l->plan, l->sites, l->nsites, l->opt.plan_in, d))
        return false;
    const Format **chosen = arena_array_of(l->c->arena, l->nsites, const Format *);
    for (size_t i = 0; i < l->nsites; i++) chosen[i] = l->plan.sites.data[i].format;
    SearchResult *r = &l->search;
    r->graph_arena = arena_new();
    if (!search_apply(s, chosen, r->graph_arena, &r->graph, &l->measured, d) ||
        !s->lab->measure_graph(s->lab, r->graph, &l->text.confirmation, &l->confirmed, d))
        return false;
    double share = fmax(budget_share(l->plan.budget, &l->measured, ERRORS),
                        budget_share(l->plan.budget, &l->confirmed, ERRORS));
    return share <= 1 || diag_error(d, loc_file(l->opt.plan_in), "breaks its budget here: mean KL %.3g",
                                    l->measured.mean_kl);
}

/* ---- the pass ---- */

static void weigh(Lossy *l) {
    uint64_t bits;
    graph_weigh(l->exact, &l->weights, &bits);
    for (size_t i = 0; i < l->nsites; i++) bits -= 32u * (uint64_t)(l->sites[i].rows * l->sites[i].cols);
    l->other_bits = bits;
}

static bool compress(Lossy *l, Diag *d) {
    const SearchProgress progress = {l, tell};
    Lab *lab;
    int64_t length = l->text.calibration.length;
    if (!lab_new(l->exact, l->sites, l->nsites, length, l->opt.threads, &lab, d)) return false;
    Search s = search_of(l, lab, &progress);
    bool ok = l->opt.plan_in ? repeat(l, &s, d) : search(l, &s, d);
    lab_free(lab);
    if (!ok || !l->opt.plan_out) return ok;
    Text t = text_new(l->c->arena);
    plan_print(&t, &l->plan);
    return file_write_text(l->opt.plan_out, t.data, t.count, d);
}

static bool run_pass(void *self, const char *pass, Graph *g, int64_t *changed, Diag *d) {
    Lossy *l = self;
    if (strcmp(pass, "quantize") != 0) return true;
    l->exact = graph_copy(g, l->c->arena);
    l->nsites = sites_find(l->exact, l->c->arena, &l->sites);
    if (l->nsites == 0) return true;
    weigh(l);
    if (l->opt.plan_in && !read_plan(l, d)) return false;
    if (!pack_exact(l, d) || !lossy_text(l, file_temporary(l->exact_file), d) || !compress(l, d))
        return false;
    for (size_t i = 0; i < l->nsites; i++) *changed += l->plan.sites.data[i].format != NULL;
    *g = *l->search.graph;
    g->arena = l->c->arena;
    l->report = lossy_record(l, l->c->arena);
    l->done = true;
    return true;
}

LossyHook lossy_hook(Lossy *l) { return (LossyHook){l, run_pass}; }

/* ---- the gate ---- */

static bool within_budget(void *user, const Quality *q, Diag *d) {
    const Lossy *l = user;
    Text t = text_new(l->c->arena);
    budget_print(&t, l->plan.budget);
    return budget_share(l->plan.budget, q, ERRORS) <= 1 ||
           diag_error(d, loc_none(),
                      "--budget %s is broken: mean KL %.3g +- %.2g, perplexity %.4g for %.4g, same most "
                      "likely token "
                      "%.2f %%; nothing is written",
                      t.data, q->mean_kl, q->mean_kl_error, q->perplexity, q->base_perplexity,
                      100 * q->same_top);
}

/* Tokens a second when decoding alone, the best of some runs; 0 when it cannot be measured. */
static double decode_speed(const char *artifact, int threads) {
    gptc_model *m;
    gptc_session *s;
    const gptc_session_options o = {.struct_size = sizeof o, .threads = threads, .context = 64};
    double best = 0;
    if (gptc_open(artifact, NULL, &m, NULL)) return 0;
    if (gptc_session_new(m, &o, &s, NULL) == GPTC_OK) {
        for (int run = 0; run < 3 && !gptc_rewind(s, 0, 0); run++) {
            const int32_t token = 1;
            double start = cli_seconds();
            for (int i = 0; i < SPEED_STEPS; i++)
                if (gptc_step(s, &token, 1)) break;
            best = fmax(best, SPEED_STEPS / fmax(cli_seconds() - start, 1e-9));
        }
        gptc_session_free(s);
    }
    gptc_close(m);
    return best;
}

static void warn(Lossy *l) {
    Arena *a = l->c->arena;
    double base = l->confirmed.base_perplexity, seen = l->measured.base_perplexity;
    if (!l->opt.calibrate)
        VEC_PUSH(
            a, &l->warnings,
            "the text was sampled from the model itself: what was measured promises nothing for other text; "
            "--calibrate FILE takes yours");
    if (base > 0.25 * (double)l->vocab)
        VEC_PUSH(
            a, &l->warnings,
            arena_printf(
                a, "the model does not know this text: its perplexity is %.4g with %u tokens to choose from",
                base, l->vocab));
    if (fabs(log(base / seen)) > 0.25)
        VEC_PUSH(a, &l->warnings,
                 arena_printf(
                     a,
                     "parts of the text differ: perplexity %.4g and %.4g; a longer text is a better measure",
                     base, seen));
    if (l->speed[1] > 0 && l->speed[1] < 0.95 * l->speed[0])
        VEC_PUSH(a, &l->warnings,
                 arena_printf(a, "smaller, but slower on this CPU: %.1f tokens/s, before %.1f (measured)",
                              l->speed[1], l->speed[0]));
}

static bool holds(void *self, const char *artifact, Diag *d) {
    Lossy *l = self;
    const GateLossy x = {.exact = file_temporary(l->exact_file),
                         .artifact = artifact,
                         .text = &l->text.confirmation,
                         .seed = l->write->seed,
                         .holds = within_budget,
                         .user = l};
    if (!gate_lossy(&x, l->c->arena, &l->steps_gate, &l->confirmed, d)) return false;
    l->speed[0] = decode_speed(x.exact, l->opt.threads);
    l->speed[1] = decode_speed(artifact, l->opt.threads);
    warn(l);
    return true;
}

LossyGate lossy_gate(Lossy *l) { return (LossyGate){l->report, l, holds}; }
