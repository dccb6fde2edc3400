/* gptc-bench: how fast a compiled model loads, reads a prompt and generates, beside the rate at which the
 * same threads read memory: decoding one sequence has to read every weight once a token, so bytes/s over
 * that rate tells how near to the limit it is. On a GPU a step ends when its tokens are here, drawn greedily. Of
 * the runtime it uses gptc.h alone. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "runtime/gptc.h"
#include "tools/cli.h"
#include "tools/memory_rate.h"

enum { MAX_REPEATS = 1000 };

typedef struct {
    const char *model, *device, *decode;
    int64_t prompt, count, threads, repeat, depth, batch, level;
    bool json;
} Options;

typedef struct {
    double median, min, max;
} Spread;
typedef struct {
    double open_seconds, session_seconds, read_rate;
    Spread prefill, decode;
    double decode_bytes; /* read per token step, weights and cache */
    uint64_t weight_bytes, state_bytes;
    long peak_kb;
} Result;

/* ---- options ---- */
static int parse_options(int argc, char **argv, Options *o) {
    const CliOption table[] = {
        {"--prompt", "-p", CLI_INT, &o->prompt, "N", "tokens of a prefill (256)"},
        {"--count", "-n", CLI_INT, &o->count, "N", "tokens of a decode (64)"},
        {"--threads", "-t", CLI_INT, &o->threads, "N", "worker threads (the machine's cores)"},
        {"--device", NULL, CLI_STRING, &o->device, "NAME",
         "cpu or cuda (or cuda:LIB, another driver library)"},
        {"--decode", NULL, CLI_STRING, &o->decode, "FORM", "on a GPU: auto, graph or persistent"},
        {"--repeat", "-r", CLI_INT, &o->repeat, "N", "measurements; median, least and most are shown (5)"},
        {"--depth", NULL, CLI_INT, &o->depth, "N", "tokens in the cache before each measurement (0)"},
        {"--batch", NULL, CLI_INT, &o->batch, "N", "sequences decoded together (1)"},
        {"--level", NULL, CLI_INT, &o->level, "N",
         "0 = the machine's best, 1 = portable, 2 = AVX2, 3 = AVX-512, 4 = with VNNI"},
        {"--json", NULL, CLI_FLAG, &o->json, NULL, "one JSON object"},
        {0}};
    Cli cli = {.tool = "gptc-bench",
               .usage = "MODEL.bin [options]",
               .about = "Measures load time, prefill and decode of random tokens, and memory.",
               .options = table,
               .positional = &o->model,
               .max = 1};
    int status = cli_parse(&cli, argc, argv);
    if (status >= 0) return status;
    if (!o->model) return cli_usage("gptc-bench", "no model", NULL);
    const int64_t zero[] = {o->prompt, o->count, o->depth, o->level, o->threads},
                  one[] = {o->repeat, o->batch};
    bool ok = o->repeat <= MAX_REPEATS;
    for (int i = 0; i < 5; i++) ok = ok && zero[i] >= 0 && zero[i] < 1 << 28;
    for (int i = 0; i < 2; i++) ok = ok && one[i] >= 1 && one[i] < 1 << 28;
    return ok ? -1 : cli_usage("gptc-bench", "value out of range", NULL);
}

/* ---- the model ---- */
static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static Spread spread_of(double *v, int64_t n) {
    if (n < 1) return (Spread){0, 0, 0};
    qsort(v, (size_t)n, sizeof *v, by_value);
    return (Spread){(v[(n - 1) / 2] + v[n / 2]) / 2, v[0], v[n - 1]};
}

static int32_t random_token(uint64_t *state, int32_t vocab) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (int32_t)((*state >> 33) % (uint64_t)vocab);
}

typedef struct {
    const Options *o;
    gptc_session *s;
    int32_t vocab, *tokens, *next;
    gptc_sampler *greedy, **samplers; /* of each sequence, the same; on a GPU */
    uint64_t random;
} Bench;

static gptc_status prefill(Bench *b, int32_t sequence, int64_t n) {
    for (int64_t i = 0; i < n; i++) b->tokens[i] = random_token(&b->random, b->vocab);
    return gptc_prefill(b->s, sequence, b->tokens, (size_t)n, GPTC_LOGITS_LAST);
}

static double per_second(int64_t n, double since) {
    double seconds = cli_seconds() - since;
    return seconds > 0 ? (double)n / seconds : 0;
}

/* Tokens/s of one prefill and one decode, each on top of `depth` tokens. */
static gptc_status measure(Bench *b, double *prefill_rate, double *decode_rate) {
    const Options *o = b->o;
    gptc_status st = GPTC_OK;
    for (int32_t q = 0; q < o->batch && !st; q++) {
        st = gptc_rewind(b->s, q, 0);
        if (!st && o->depth) st = prefill(b, q, o->depth);
    }
    double t = cli_seconds();
    if (!st && o->prompt) st = prefill(b, 0, o->prompt);
    *prefill_rate = per_second(o->prompt, t);
    if (!st) st = gptc_rewind(b->s, 0, (int32_t)o->depth);
    if (!st && !o->depth)
        for (int32_t q = 0; q < o->batch && !st; q++) st = prefill(b, q, 1);
    t = cli_seconds();
    for (int64_t i = 0; i < o->count && !st; i++) {
        for (int32_t q = 0; q < o->batch; q++) b->tokens[q] = random_token(&b->random, b->vocab);
        int32_t n = (int32_t)o->batch;
        st = b->greedy ? gptc_step_sample(b->s, NULL, b->tokens, n, b->samplers, b->next)
                       : gptc_step(b->s, b->tokens, n);
    }
    *decode_rate = per_second(o->count * o->batch, t);
    return st;
}

static gptc_status run(const Options *o, Result *r, gptc_detail *why) {
    static double prefills[MAX_REPEATS], decodes[MAX_REPEATS];
    gptc_model *m;
    Bench b = {.o = o, .random = 1};
    gptc_model_info info = {.struct_size = sizeof info};
    gptc_open_options oo = {.cpu_level = (int)o->level};
    double t = cli_seconds();
    gptc_status st = gptc_open(o->model, &oo, &m, why);
    if (st) return st;
    r->open_seconds = cli_seconds() - t;
    gptc_model_get_info(m, &info);
    b.vocab = info.vocab;
    int64_t most = o->prompt > o->count ? o->prompt : o->count;
    gptc_session_options so = {.threads = (int32_t)o->threads,
                               .context = (int32_t)(o->depth + most + 1),
                               .sequences = (int32_t)o->batch};
    if (cli_device("gptc-bench", o->device, &so) >= 0 || cli_decode("gptc-bench", o->decode, &so) >= 0)
        return GPTC_E_ARGUMENT;
    t = cli_seconds();
    st = gptc_session_new(m, &so, &b.s, why);
    r->session_seconds = cli_seconds() - t;
    size_t room = (size_t)(most > o->depth ? most : o->depth) + (size_t)o->batch + 1;
    b.tokens = malloc(room * sizeof *b.tokens);
    b.next = malloc((size_t)o->batch * sizeof *b.next);
    b.samplers = malloc((size_t)o->batch * sizeof *b.samplers);
    if (!st && !(b.tokens && b.next && b.samplers)) st = GPTC_E_MEMORY;
    if (!st && so.device == GPTC_CUDA) st = gptc_sampler_new(m, NULL, &b.greedy);
    for (int64_t q = 0; q < o->batch && !st; q++) b.samplers[q] = b.greedy;
    for (int64_t i = -1; i < o->repeat && !st; i++) /* the first one warms the caches */
        st = measure(&b, &prefills[i < 0 ? 0 : i], &decodes[i < 0 ? 0 : i]);
    if (!st) {
        r->prefill = spread_of(prefills, o->repeat);
        r->decode = spread_of(decodes, o->repeat);
        r->weight_bytes = info.weight_bytes;
        r->state_bytes = gptc_state_bytes(b.s);
        double held = ((double)o->depth + (double)o->count / 2) * (double)o->batch;
        r->decode_bytes = (double)info.step_bytes + held * (double)info.state_bytes_per_token;
    }
    free(b.tokens);
    free(b.next);
    free(b.samplers);
    gptc_sampler_free(b.greedy);
    gptc_session_free(b.s);
    gptc_close(m);
    return st;
}

/* ---- output ---- */
static double share_of_limit(const Options *o, const Result *r) {
    return r->decode_bytes * r->decode.median / (double)o->batch / r->read_rate;
}

static void print_json(const Options *o, const Result *r) {
    double rate = r->decode_bytes * r->decode.median / (double)o->batch;
    printf("{\"prompt\": %lld, \"count\": %lld, \"threads\": %lld, \"repeat\": %lld, \"depth\": %lld, "
           "\"batch\": %lld, ",
           (long long)o->prompt, (long long)o->count, (long long)o->threads, (long long)o->repeat,
           (long long)o->depth, (long long)o->batch);
    printf("\"load_ms\": %.3f, \"session_ms\": %.3f, ", r->open_seconds * 1e3, r->session_seconds * 1e3);
    printf("\"prefill_tps\": {\"median\": %.2f, \"min\": %.2f, \"max\": %.2f}, ", r->prefill.median,
           r->prefill.min, r->prefill.max);
    printf("\"decode_tps\": {\"median\": %.2f, \"min\": %.2f, \"max\": %.2f}, ", r->decode.median,
           r->decode.min, r->decode.max);
    printf("\"decode_gbps\": %.3f, ", rate * 1e-9);
    if (r->read_rate > 0)
        printf("\"read_gbps\": %.3f, \"share_of_read_rate\": %.4f, ", r->read_rate * 1e-9,
               share_of_limit(o, r));
    printf("\"weight_bytes\": %llu, \"state_bytes\": %llu, \"peak_rss_bytes\": %lld}\n",
           (unsigned long long)r->weight_bytes, (unsigned long long)r->state_bytes,
           (long long)r->peak_kb * 1024);
}

static void print_text(const Options *o, const Result *r) {
    printf("load      %.1f ms, session %.1f ms\n", r->open_seconds * 1e3, r->session_seconds * 1e3);
    printf("prefill   %.1f tokens/s (%.1f to %.1f), %lld tokens at depth %lld\n", r->prefill.median,
           r->prefill.min, r->prefill.max, (long long)o->prompt, (long long)o->depth);
    printf("decode    %.2f tokens/s (%.2f to %.2f), %lld tokens of %lld sequence%s\n", r->decode.median,
           r->decode.min, r->decode.max, (long long)o->count, (long long)o->batch, o->batch == 1 ? "" : "s");
    printf("reads     %.2f GB/s", r->decode_bytes * r->decode.median / (double)o->batch * 1e-9);
    if (r->read_rate > 0)
        printf(" of %.2f GB/s that %lld thread%s read from memory (%.0f %%)", r->read_rate * 1e-9,
               (long long)o->threads, o->threads == 1 ? "" : "s", share_of_limit(o, r) * 100);
    printf("\n");
    printf("memory    weights %.1f MB, cache %.1f MB, peak %.1f MB\n", (double)r->weight_bytes * 1e-6,
           (double)r->state_bytes * 1e-6, (double)r->peak_kb * 1024e-6);
}

int main(int argc, char **argv) {
    Options o = {.device = "cpu", .prompt = 256, .count = 64, .repeat = 5, .batch = 1};
    Result r = {0};
    gptc_detail why = {""};
    int status = parse_options(argc, argv, &o);
    if (status >= 0) return status;
    if (!o.threads) o.threads = cpu_cores();
    gptc_status st = run(&o, &r, &why);
    if (st) return cli_fail("gptc-bench", NULL, st, why.text);
    struct rusage usage_now;
    getrusage(RUSAGE_SELF, &usage_now); /* before the read test takes its memory */
    r.peak_kb = usage_now.ru_maxrss;
    if (!strcmp(o.device, "cpu")) r.read_rate = memory_read_rate(o.threads, 5);
    if (o.json)
        print_json(&o, &r);
    else
        print_text(&o, &r);
    return cli_finish("gptc-bench", EXIT_DONE);
}
