/* gptc-eval.c: how right is a compiled model? Against stored logits, or by perplexity on text. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/frontend.h"
#include "runtime/gptc.h"
#include "tools/cli.h"
#include "tools/driver.h"
#include "tools/eval.h"

/* ---- sums over log-probabilities ---- */

typedef struct {
    double max, log_sum;
} Norm;
static Norm log_norm(const float *x, int64_t n) {
    double max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) max = (double)x[i] > max ? (double)x[i] : max;
    for (int64_t i = 0; i < n; i++) sum += exp((double)x[i] - max);
    return (Norm){max, log(sum)};
}
static double log_prob(const float *x, Norm n, int64_t i) { return (double)x[i] - n.max - n.log_sum; }

/* KL(p || q) of two rows of logits. */
static double row_kl(const float *p, const float *q, int64_t n) {
    Norm np = log_norm(p, n), nq = log_norm(q, n);
    double kl = 0;
    for (int64_t i = 0; i < n; i++) {
        double lp = log_prob(p, np, i);
        kl += exp(lp) * (lp - log_prob(q, nq, i));
    }
    return kl;
}

static int64_t argmax(const float *x, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* ---- logits of a batch of token rows ---- */

typedef struct {
    float *out;
    int64_t vocab;
} Sink;
static int keep_rows(void *user, int32_t sequence, int32_t first, int32_t rows, const float *logits) {
    Sink *s = user;
    (void)sequence;
    memcpy(s->out + (int64_t)first * s->vocab, logits, (size_t)(rows * s->vocab) * sizeof(float));
    return 0;
}

static gptc_status run_stepwise(Eval *e, const int32_t *ids, int64_t batch, int64_t seq, float *out) {
    gptc_status st = GPTC_OK;
    int32_t *step = arena_array_of(e->arena, (size_t)batch, int32_t);
    for (int64_t i = 0; i < seq && !st; i++) {
        for (int64_t b = 0; b < batch; b++) step[b] = ids[b * seq + i];
        st = gptc_step(e->session, step, (int32_t)batch);
        for (int64_t b = 0; b < batch && !st; b++) {
            const float *l = gptc_logits(e->session, (int32_t)b);
            if (!l) return GPTC_E_NO_LOGITS;
            memcpy(out + (b * seq + i) * e->info.vocab, l, (size_t)e->info.vocab * sizeof(float));
        }
    }
    return st;
}

static gptc_status run_chunks(Eval *e, const int32_t *ids, int64_t batch, int64_t seq, int64_t chunk,
                              float *out) {
    gptc_status st = GPTC_OK;
    if (chunk <= 0) chunk = seq;
    for (int64_t b = 0; b < batch && !st; b++) {
        Sink sink = {out + b * seq * e->info.vocab, e->info.vocab};
        for (int64_t i = 0; i < seq && !st; i += chunk)
            st = gptc_prefill_all(e->session, (int32_t)b, ids + b * seq + i,
                                  (size_t)(seq - i < chunk ? seq - i : chunk), keep_rows, &sink);
    }
    return st;
}

int eval_open(Eval *e, const char *path, int64_t context, int64_t sequences, const Options *o) {
    gptc_detail why = {""};
    gptc_status st = gptc_open(path, NULL, &e->model, &why);
    if (st) return cli_fail(TOOL, NULL, st, why.text);
    e->info.struct_size = sizeof e->info;
    gptc_model_get_info(e->model, &e->info);
    if (context > e->info.context) context = e->info.context;
    gptc_session_options so = {.struct_size = sizeof so,
                               .context = (int32_t)context,
                               .sequences = (int32_t)sequences,
                               .threads = (int32_t)o->threads};
    int status = cli_device(TOOL, o->device, &so);
    if (status < 0) status = cli_decode(TOOL, o->decode, &so);
    if (status >= 0) return status;
    st = gptc_session_new(e->model, &so, &e->session, &why);
    return st ? cli_fail(TOOL, path, st, why.text) : -1;
}

void eval_close(Eval *e) {
    gptc_session_free(e->session);
    gptc_close(e->model);
}

static int read_tokens(Eval *e, const char *path, int64_t *batch, int64_t *seq, int32_t **ids) {
    Tensor t;
    if (!onnx_tensor_read(path, e->arena, &t, &e->diag)) return diag_report(TOOL, &e->diag);
    if (!dtype_is_int(t.dtype) || t.rank < 1 || t.rank > 2 || tensor_count(&t) == 0) {
        fprintf(stderr, TOOL ": %s: expected integers of shape [seq] or [batch, seq]\n", path);
        return EXIT_INPUT;
    }
    *batch = t.rank == 2 ? t.dim[0] : 1;
    *seq = t.dim[t.rank - 1];
    *ids = arena_array_of(e->arena, tensor_count(&t), int32_t);
    for (size_t i = 0; i < tensor_count(&t); i++) {
        int64_t v = tensor_get_i64(&t, i);
        (*ids)[i] = v < 0 || v > INT32_MAX ? -1 : (int32_t)v;
    }
    return -1;
}

static void print_comparison(const Eval *e, const Options *o, const float *got, const Tensor *want,
                             int64_t rows) {
    int64_t vocab = e->info.vocab, n = rows * vocab, same = 0;
    double max = 0, sum2 = 0, s1 = 0, s2 = 0, kl = 0;
    const float *ref = want->data;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)ref[i]);
        if (!(d <= max)) max = isnan(d) ? INFINITY : d;
        sum2 += d * d;
        s1 += (double)ref[i];
        s2 += (double)ref[i] * (double)ref[i];
    }
    for (int64_t r = 0; r < rows; r++) {
        kl += row_kl(ref + r * vocab, got + r * vocab, vocab);
        same += argmax(ref + r * vocab, vocab) == argmax(got + r * vocab, vocab);
    }
    double mean = s1 / (double)n, std = sqrt(fmax(s2 / (double)n - mean * mean, 0));
    const struct {
        const char *name;
        double value;
    } numbers[] = {{"max_abs_err", max},
                   {"rms_err", sqrt(sum2 / (double)n)},
                   {"ref_std", std},
                   {"mean_kl", kl / (double)rows},
                   {"top1", (double)same / (double)rows}};
    for (size_t i = 0; i < COUNT_OF(numbers); i++)
        if (o->json)
            printf("%s\"%s\": %s", i ? ", " : "{", numbers[i].name, json_number(numbers[i].value, 6).text);
        else
            printf("%-14s %.6g\n", numbers[i].name, numbers[i].value);
    printf(o->json ? ", \"kv_cache\": %s, \"tokens\": %" PRId64 ", \"rows_computed\": %" PRIu64
                     ", \"state_bytes\": %" PRIu64 "}\n"
                   : "kv_cache       %s\ntokens         %" PRId64 "\nrows_computed  %" PRIu64
                     "\nstate_bytes    %" PRIu64 "\n",
           e->info.has_cache ? "true" : "false", rows, gptc_rows_computed(e->session),
           gptc_state_bytes(e->session));
}

static int eval_tokens(const Options *o, const char *path) {
    Eval e = {.arena = arena_new()};
    int64_t batch = 0, seq = 0;
    int32_t *ids = NULL;
    diag_init(&e.diag);
    int status = read_tokens(&e, o->tokens, &batch, &seq, &ids);
    if (status < 0) status = eval_open(&e, path, seq, batch, o);
    if (status < 0) {
        float *got = arena_array_of(e.arena, (size_t)(batch * seq * e.info.vocab), float);
        gptc_status st = o->stepwise ? run_stepwise(&e, ids, batch, seq, got)
                                     : run_chunks(&e, ids, batch, seq, o->chunk, got);
        status = st ? cli_fail(TOOL, path, st, NULL) : -1;
        Tensor t = {.dtype = DT_F32, .rank = 3, .dim = {batch, seq, e.info.vocab}, .data = got}, want;
        if (status < 0 && o->dump && !onnx_tensor_write(o->dump, &t, "logits", &e.diag))
            status = diag_report(TOOL, &e.diag);
        if (status < 0 && o->expect) {
            if (!onnx_tensor_read(o->expect, e.arena, &want, &e.diag))
                status = diag_report(TOOL, &e.diag);
            else if (want.dtype != DT_F32 || tensor_count(&want) != tensor_count(&t)) {
                fprintf(stderr, TOOL ": %s: expected float logits [%" PRId64 ", %" PRId64 ", %d]\n",
                        o->expect, batch, seq, e.info.vocab);
                status = EXIT_INPUT;
            } else {
                print_comparison(&e, o, got, &want, batch * seq);
            }
        }
    }
    eval_close(&e);
    diag_free(&e.diag);
    arena_free(e.arena);
    return status < 0 ? EXIT_DONE : status;
}

int main(int argc, char **argv) {
    Options o = {.device = "cpu"};
    const char *path = NULL;
    const CliOption options[] = {
        {"--tokens", NULL, CLI_STRING, &o.tokens, "T.pb", "token ids, a tensor file [batch, seq]"},
        {"--expect", NULL, CLI_STRING, &o.expect, "L.pb",
         "stored logits [batch, seq, vocab] to compare with"},
        {"--stepwise", NULL, CLI_FLAG, &o.stepwise, NULL, "one token at a time, all sequences together"},
        {"--chunk", NULL, CLI_INT, &o.chunk, "N", "in chunks of N tokens"},
        {"--dump-logits", NULL, CLI_STRING, &o.dump, "OUT.pb", "write what was computed"},
        {"--text", NULL, CLI_STRING, &o.text, "FILE", "perplexity on a text"},
        {"--against", NULL, CLI_STRING, &o.against, "MODEL.bin", "with --text: divergence from this model"},
        {"--window", NULL, CLI_INT, &o.window, "N", "tokens a window (default 256)"},
        {"--score", NULL, CLI_STRING, &o.score, "HOW", "all (default) or second-half of each window"},
        {"--threads", NULL, CLI_INT, &o.threads, "N", "default: all cores"},
        {"--device", NULL, CLI_STRING, &o.device, "NAME",
         "cpu or cuda (or cuda:LIB, another driver library)"},
        {"--decode", NULL, CLI_STRING, &o.decode, "FORM", "on a GPU: auto, graph or persistent"},
        {"--json", NULL, CLI_FLAG, &o.json, NULL, "one JSON object"},
        {NULL, NULL, CLI_FLAG, NULL, NULL, NULL},
    };
    Cli cli = {.tool = TOOL,
               .usage = "MODEL.bin --tokens T.pb [--expect L.pb] | --text FILE [options]",
               .about = "Measures a compiled model: against stored logits, or by perplexity on a text.",
               .options = options,
               .positional = &path,
               .max = 1};
    int status = cli_parse(&cli, argc, argv);
    if (status >= 0) return status;
    bool score_ok = !o.score || !strcmp(o.score, "all") || !strcmp(o.score, "second-half");
    const char *wrong =
        !path || !o.tokens == !o.text ? "needs a model and one of --tokens and --text"
        : !score_ok                   ? "--score takes all or second-half"
        : o.text && (o.expect || o.dump || o.stepwise || o.chunk)
            ? "--expect, --dump-logits, --stepwise and --chunk go with --tokens"
        : o.tokens && (o.against || o.window || o.score) ? "--against, --window and --score go with --text"
        : o.stepwise && o.chunk                          ? "--stepwise or --chunk, not both"
        : o.chunk < 0 || o.window < 0 || o.threads < 0 || o.threads > INT32_MAX ? "value out of range"
                                                                                : NULL;
    if (wrong) return cli_usage(TOOL, wrong, NULL);
    if (o.dump && (file_same(o.dump, path) || file_same(o.dump, o.tokens) ||
                   (o.expect && file_same(o.dump, o.expect)))) {
        fprintf(stderr, TOOL ": %s: is also read, so it is not written; name another file\n", o.dump);
        return EXIT_USAGE;
    }
    return cli_finish(TOOL, o.text ? eval_text(&o, path) : eval_tokens(&o, path));
}
