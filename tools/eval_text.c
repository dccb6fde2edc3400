/* eval_text.c: perplexity of a model on a text, and how far it is from another model of the same vocabulary.
 *
 * The text is cut into consecutive windows, each run from an empty context; what the logits of a position say of the
 * next token is scored. With second-half as llama.cpp's perplexity tool does it: only the positions from the middle of
 * a window on, and where the tokenizer begins texts with a bos token, every window begins with it. One window is held
 * at a time, so memory does not grow with the text. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "codegen/score.h"
#include "tools/cli.h"
#include "tools/driver.h"
#include "tools/eval.h"
#include "tools/text.h"

/* One figure, with its standard error where error >= 0. */
static void print_figure(bool json, const char *name, double value, double error) {
    if (json) {
        printf(", \"%s\": %s", name, json_number(value, 9).text);
        if (error >= 0) printf(", \"%s_error\": %s", name, json_number(error, 3).text);
    } else {
        printf("%-15s %.6g", name, value);
        if (error >= 0) printf(" +- %.3g", error);
        putchar('\n');
    }
}

static void print_scores(const Options *o, QualitySums *sums) {
    int64_t windows = (int64_t)sums->windows.count;
    Quality q = quality_of(sums);
    printf(o->json ? "{\"tokens_scored\": %" PRId64 ", \"windows\": %" PRId64
                   : "tokens_scored   %" PRId64 "\nwindows         %" PRId64 "\n",
           q.scored, windows);
    print_figure(o->json, "nll", log(q.perplexity), q.perplexity_error / q.perplexity);
    print_figure(o->json, "perplexity", q.perplexity, q.perplexity_error);
    if (o->against) {
        print_figure(o->json, "base_perplexity", q.base_perplexity, -1);
        print_figure(o->json, "log_ratio", log(q.perplexity / q.base_perplexity), q.log_ratio_error);
        print_figure(o->json, "mean_kl", q.mean_kl, q.mean_kl_error);
        print_figure(o->json, "p99_kl", q.p99_kl, -1);
        print_figure(o->json, "max_kl", q.max_kl, -1);
        print_figure(o->json, "rms_dp", q.rms_dp, q.rms_dp_error);
        print_figure(o->json, "same_top", q.same_top, q.same_top_error);
    }
    if (o->json) printf("}\n");
}

/* The token that the tokenizer puts before every text, or -1. */
static int32_t first_token(const gptc_model *m) {
    int32_t id = -1;
    size_t n = 0;
    return gptc_encode(m, "", 0, &id, 1, &n) == GPTC_OK && n > 0 ? id : -1;
}

static int score_windows(Eval *e, Eval *base, const Options *o, int32_t *ids, size_t n) {
    int64_t w = o->window > 0 ? o->window : 256, vocab = e->info.vocab;
    if (w > e->info.context) w = e->info.context;
    bool half = o->score && !strcmp(o->score, "second-half");
    int64_t windows = (int64_t)n / w, from = half ? w / 2 : 0;
    int32_t bos = half ? first_token(e->model) : -1;
    if (w - 1 <= from) {
        fprintf(stderr, TOOL ": --window %" PRId64 ": nothing to score in so short a window\n", w);
        return EXIT_USAGE;
    }
    if (windows == 0) {
        fprintf(stderr, TOOL ": the text has %zu tokens, fewer than one window of %" PRId64 "\n", n, w);
        return EXIT_INPUT;
    }
    Scorer s = scorer_new(vocab, w, from, base != NULL, e->arena);
    for (int64_t i = 0; i < windows; i++) {
        if (bos >= 0) ids[i * w] = bos;
        gptc_status st = scorer_window(&s, base ? base->session : NULL, e->session, ids + i * w);
        if (st) return cli_fail(TOOL, o->text, st, NULL);
    }
    print_scores(o, &s.sums);
    return -1;
}

int eval_text(const Options *o, const char *path) {
    Eval e = {.arena = arena_new()}, base = {.arena = e.arena};
    int32_t *ids = NULL;
    size_t n = 0;
    diag_init(&e.diag);
    int64_t context = o->window > 0 ? o->window : 256;
    int status = eval_open(&e, path, context, 1, o);
    if (status < 0 && o->against) status = eval_open(&base, o->against, context, 1, o);
    if (status < 0 && o->against && base.info.vocab != e.info.vocab) {
        fprintf(stderr, TOOL ": %s: its vocabulary has %d tokens, the other model's %d\n", o->against,
                base.info.vocab, e.info.vocab);
        status = EXIT_INPUT;
    }
    if (status < 0 && !text_tokens(e.model, o->text, e.arena, &ids, &n, &e.diag))
        status = diag_report(TOOL, &e.diag);
    if (status < 0) status = score_windows(&e, o->against ? &base : NULL, o, ids, n);
    eval_close(&base);
    eval_close(&e);
    diag_free(&e.diag);
    arena_free(e.arena);
    return status < 0 ? EXIT_DONE : status;
}
