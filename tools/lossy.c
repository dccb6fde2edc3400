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

#define SPEED_STEPS 24
#define SPEED_RUNS 5
#define SIZE_SLACK 1.001 /* of a size: what the search counts is not rounded to what the file aligns */

void lossy_init(Lossy *l, Compile *c, const LossyOptions *o, const CompileWrite *w) {
    *l = (Lossy){.opt = *o, .c = c, .write = w};
    if (o->budget.kind == BUDGET_NONE) l->opt.budget = (Budget){BUDGET_KL, 0.01};
}

void lossy_free(Lossy *l) {
    arena_free(l->at.search.graph_arena);
    if (l->exact_file) file_abandon(l->exact_file);
}

/* ---- the exact program ---- */

/* Plans and lowers a copy of g; what it would do on the GPUs that kernels are asked for. */
static bool program_of(Lossy *l, const Graph *g, Program **out, TargetSpeeds *gpus) {
    Compile *c = l->c;
    Graph *kept = c->graph;
    const Targets *t = l->write->targets;
    c->graph = graph_copy(g, c->arena);
    PassRun run = {.passes = "fuse,order,memplan"};
    PassOptions opt = {.kv_cache = true, .ctx = l->opt.ctx, .opt_level = 1};
    bool ok = passes_run(c->graph, &run, &opt, NULL, &c->diag) &&
              compile_lower(c, compile_context(c, l->opt.ctx), out) &&
              (!t || !t->n_cuda || targets_speed(t, c->graph, *out, c->arena, gpus, &c->diag));
    c->graph = kept;
    return ok;
}

/* The exact program as a file, held to gate 1. */
static bool pack_exact(Lossy *l, Diag *d) {
    Program *p;
    CompileResult r = {0};
    if (!program_of(l, l->exact, &p, &l->gpus)) return false;
    CompileWrite w = *l->write;
    w.targets = NULL, w.lossy = NULL, w.embed_ir = false;
    const char *beside = arena_printf(l->c->arena, "%s.exact", l->opt.out);
    FileWriter *file = compile_pack(l->c, p, l->opt.model_path, beside, &w, &r);
    if (!file) return false;
    if (!file_flush(file)) return file_commit(file, d);
    file_unname(file);
    l->exact_file = file;
    uint64_t counted;
    graph_weigh(l->exact, &counted);
    l->exact_bits = r.pack.weight_bytes * 8;
    l->packing_bits = l->exact_bits > counted ? l->exact_bits - counted : 0;
    l->vocab = p->meta.vocab;
    l->context = p->meta.context;
    return gate_exact(l->c->imported, file_temporary(file), l->write->seed, l->c->arena, &l->gate, d);
}

/* ---- the pass ---- */

static bool run_quantize(Lossy *l, Graph *g, int64_t *changed, Diag *d) {
    Site *sites;
    l->exact = graph_copy(g, l->c->arena);
    size_t n = sites_find(l->exact, l->c->arena, &sites);
    if (n == 0) return true;
    l->weights = graph_weigh(l->exact, NULL);
    if (!pack_exact(l, d) || !lossy_text(l, sites, n, file_temporary(l->exact_file), d) ||
        !lossy_compress(l, d))
        return false;
    for (size_t i = 0; i < l->plan.sites.count; i++) *changed += l->plan.sites.data[i].format != NULL;
    *g = *l->at.search.graph;
    g->arena = l->c->arena;
    l->report = lossy_record(l, l->c->arena);
    l->done = true;
    return true;
}

/* What steps pay depends on what bits cost, so one search decides for both passes. */
static bool run_pass(void *self, const char *pass, Graph *g, int64_t *changed, Diag *d) {
    Lossy *l = self;
    if (!strcmp(pass, "quantize")) return run_quantize(l, g, changed, d);
    l->may_shrink = true;
    return true;
}

LossyHook lossy_hook(Lossy *l) { return (LossyHook){l, run_pass}; }

/* ---- the gate ---- */

static bool within_budget(void *user, const Quality *q, Diag *d) {
    const Lossy *l = user;
    Text t = text_new(l->c->arena);
    budget_print(&t, l->plan.budget);
    return budget_share(l->plan.budget, q, LOSSY_ERRORS) <= 1 ||
           diag_error(d, loc_none(),
                      "--budget %s is broken: mean KL %.3g +- %.2g, perplexity %.4g for %.4g, same most "
                      "likely token "
                      "%.2f %%; nothing is written",
                      t.data, q->mean_kl, q->mean_kl_error, q->perplexity, q->base_perplexity,
                      100 * q->same_top);
}

/* The budgets that are counted, not measured. */
static bool within_size(const Lossy *l, const CompileResult *r, Diag *d) {
    Budget b = l->plan.budget;
    double bytes = (double)r->pack.weight_bytes, weights = (double)l->weights;
    double most = b.kind == BUDGET_BITS ? b.value * weights / 8 : b.kind == BUDGET_SIZE ? b.value : bytes;
    Text t = text_new(l->c->arena);
    budget_print(&t, b);
    return bytes <= most * SIZE_SLACK ||
           diag_error(
               d, loc_none(),
               "--budget %s is broken: the weights take %.0f bytes, %.3f bits each; nothing is written",
               t.data, bytes, 8 * bytes / weights);
}

typedef struct {
    gptc_model *model;
    gptc_session *session;
} Decoder;

static bool decoder_open(Decoder *x, const char *artifact, int threads) {
    const gptc_session_options o = {.struct_size = sizeof o, .threads = threads, .context = 64};
    *x = (Decoder){0};
    return !gptc_open(artifact, NULL, &x->model, NULL) && !gptc_session_new(x->model, &o, &x->session, NULL);
}

static double decoder_run(Decoder *x) {
    const int32_t token = 1;
    if (gptc_rewind(x->session, 0, 0)) return 0;
    double start = cli_seconds();
    for (int i = 0; i < SPEED_STEPS; i++)
        if (gptc_step(x->session, &token, 1)) return 0;
    return SPEED_STEPS / fmax(cli_seconds() - start, 1e-9);
}

/* Tokens a second of both when decoding alone, in turns, since a machine is not always as fast; the best of some runs.
 * 0 where it cannot be measured. */
static void decode_speeds(const char *const artifact[2], int threads, double best[2]) {
    Decoder x[2];
    bool opened[2];
    for (int i = 0; i < 2; i++) opened[i] = decoder_open(&x[i], artifact[i], threads);
    for (int run = 0; run < SPEED_RUNS; run++)
        for (int i = 0; i < 2; i++)
            if (opened[i]) best[i] = fmax(best[i], decoder_run(&x[i]));
    for (int i = 0; i < 2; i++) {
        gptc_session_free(x[i].session);
        gptc_close(x[i].model);
    }
}

static void warn(Lossy *l) {
    Arena *a = l->c->arena;
    double base = l->at.confirmed.base_perplexity, seen = l->at.measured.base_perplexity;
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
}

static void warn_slower(Lossy *l, const CompileResult *r) {
    Arena *a = l->c->arena;
    if (l->speed[1] > 0 && l->speed[1] < 0.95 * l->speed[0])
        VEC_PUSH(a, &l->warnings,
                 arena_printf(a, "smaller, but slower on this CPU: %.1f tokens/s, before %.1f (measured)",
                              l->speed[1], l->speed[0]));
    for (size_t i = 0; i < r->kernels.speeds.count; i++) {
        const TargetSpeed *s = &r->kernels.speeds.data[i];
        double now = target_rate(s), before = target_rate(&l->gpus.data[i]);
        if (now < 1.02 * before)
            VEC_PUSH(a, &l->warnings,
                     arena_printf(a,
                                  "smaller, but no faster on one %s: %.0f tokens/s, before %.0f (predicted)",
                                  s->gpu, now, before));
    }
}

static bool holds(void *self, const char *artifact, const CompileResult *r, Diag *d) {
    Lossy *l = self;
    const GateLossy x = {.exact = file_temporary(l->exact_file),
                         .artifact = artifact,
                         .text = &l->text.confirmation,
                         .rounds = gate_rounds(l->c->graph, l->c->arena),
                         .seed = l->write->seed,
                         .holds = within_budget,
                         .user = l};
    if (!within_size(l, r, d)) return false;
    if (!gate_lossy(&x, l->c->arena, &l->steps_gate, &l->at.confirmed, d)) return false;
    const char *const both[2] = {x.exact, artifact};
    decode_speeds(both, l->opt.threads, l->speed);
    warn(l);
    warn_slower(l, r);
    return true;
}

LossyGate lossy_gate(Lossy *l) { return (LossyGate){l->report, l, holds}; }
