/* gptc-run: generates text with a compiled model. Uses runtime/gptc.h alone, as an embedding program does. */
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/gptc.h"

enum { EXIT_OK = 0, EXIT_INPUT = 1, EXIT_USAGE = 2, EXIT_MACHINE = 3 };

static const char help[] =
    "usage: gptc-run MODEL.bin [options]\n"
    "Generates text with a compiled GPT; the text goes to standard output, speeds to standard error.\n"
    "\n"
    "  -p, --prompt TEXT   continue TEXT\n"
    "  -f, --file FILE     continue the text in FILE (- = standard input)\n"
    "  -i, --interactive   read prompts line by line and keep the session; an empty line ends\n"
    "      --tokens IDS    continue these token ids (1,2,3); prints ids if there is no tokenizer\n"
    "  -n, --count N       tokens to generate (128)\n"
    "      --temp T        temperature; 0 takes the likeliest token (0)\n"
    "      --top-k K       keep the K likeliest tokens (0 = all)\n"
    "      --top-p P       keep the likeliest tokens whose probabilities reach P (1)\n"
    "      --min-p P       keep tokens at least P times as likely as the likeliest (0)\n"
    "      --seed S        of the random numbers (0)\n"
    "      --ctx N         tokens the session may hold (the model's context)\n"
    "      --threads N     worker threads (as many as the machine has cores)\n"
    "      --device NAME   cpu (cuda is not in this build)\n"
    "      --ignore-eos    go on after a stop token\n"
    "      --quiet         no speeds\n"
    "  -h, --help          this text\n"
    "      --version       version\n"
    "\n"
    "Exit status: 0 done, 1 the model or the request is at fault, 2 usage, 3 the machine lacks something.\n";

typedef struct {
    const char *model, *prompt, *file, *tokens, *device;
    bool interactive, ignore_eos, quiet;
    int32_t count, context, threads;
    gptc_sampler_options sampling;
} Options;

typedef struct {
    const Options *o;
    gptc_model *model;
    gptc_session *session;
    gptc_sampler *sampler;
    gptc_model_info info;
    size_t prefilled, decoded;
    double prefill_seconds, decode_seconds;
} Run;

static int usage(const char *what, const char *arg) {
    fprintf(stderr, "gptc-run: %s%s%s; try --help\n", what, arg ? ": " : "", arg ? arg : "");
    return EXIT_USAGE;
}

static int fail(gptc_status s, const char *detail) {
    fprintf(stderr, "gptc-run: %s%s%s\n", gptc_strerror(s), detail && *detail ? ": " : "", detail ? detail : "");
    return s == GPTC_E_MEMORY || s == GPTC_E_UNSUPPORTED ? EXIT_MACHINE : EXIT_INPUT;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- options ---- */
static bool parse_int(const char *s, long long min, long long max, long long *out) {
    char *end;
    errno = 0;
    *out = strtoll(s, &end, 10);
    return !errno && end != s && !*end && *out >= min && *out <= max;
}

static bool parse_i32(const char *s, int32_t min, int32_t *out) {
    long long v;
    if (!parse_int(s, min, INT32_MAX, &v)) return false;
    *out = (int32_t)v;
    return true;
}

static bool parse_float(const char *s, float min, float max, float *out) {
    char *end;
    *out = strtof(s, &end);
    return end != s && !*end && *out >= min && *out <= max;
}

/* -1 = no such option; 0 = bad value; 1 = taken. */
static int parse_valued(Options *o, const char *name, const char *v) {
    long long seed;
    if (!strcmp(name, "-p") || !strcmp(name, "--prompt")) return o->prompt = v, 1;
    if (!strcmp(name, "-f") || !strcmp(name, "--file")) return o->file = v, 1;
    if (!strcmp(name, "--tokens")) return o->tokens = v, 1;
    if (!strcmp(name, "--device")) return o->device = v, 1;
    if (!strcmp(name, "-n") || !strcmp(name, "--count")) return parse_i32(v, 0, &o->count);
    if (!strcmp(name, "--ctx")) return parse_i32(v, 1, &o->context);
    if (!strcmp(name, "--threads") || !strcmp(name, "-t")) return parse_i32(v, 1, &o->threads);
    if (!strcmp(name, "--temp")) return parse_float(v, 0, 1e6f, &o->sampling.temperature);
    if (!strcmp(name, "--top-k")) return parse_i32(v, 0, &o->sampling.top_k);
    if (!strcmp(name, "--top-p")) return parse_float(v, 1e-6f, 1, &o->sampling.top_p);
    if (!strcmp(name, "--min-p")) return parse_float(v, 0, 1, &o->sampling.min_p);
    if (!strcmp(name, "--seed")) {
        if (!parse_int(v, LLONG_MIN, LLONG_MAX, &seed)) return 0;
        o->sampling.seed = (uint64_t)seed;
        return 1;
    }
    return -1;
}

/* -1 = go on; else the exit status. Takes "--name value" and "--name=value". */
static int parse_options(int argc, char **argv, Options *o) {
    for (int i = 1; i < argc; i++) {
        char name[32], *arg = argv[i], *equals = strchr(arg, '=');
        if (!strcmp(arg, "-h") || !strcmp(arg, "--help")) return fputs(help, stdout), EXIT_OK;
        if (!strcmp(arg, "--version")) return printf("gptc-run %s\n", gptc_version()), EXIT_OK;
        if (!strcmp(arg, "-i") || !strcmp(arg, "--interactive")) { o->interactive = true; continue; }
        if (!strcmp(arg, "--ignore-eos")) { o->ignore_eos = true; continue; }
        if (!strcmp(arg, "--quiet")) { o->quiet = true; continue; }
        if (arg[0] != '-' || !arg[1]) {
            if (o->model) return usage("one model only", arg);
            o->model = arg;
            continue;
        }
        bool joined = !strncmp(arg, "--", 2) && equals;
        snprintf(name, sizeof name, "%.*s", joined ? (int)(equals - arg) : 31, arg);
        const char *value = joined ? equals + 1 : i + 1 < argc ? argv[i + 1] : "";
        int taken = parse_valued(o, name, value);
        if (taken < 0) return usage("no such option", arg);
        if (!joined && i + 1 >= argc) return usage("a value is missing after", arg);
        if (!taken) return usage("not a value for this option", arg);
        i += !joined;
    }
    if (!o->model) return usage("no model", NULL);
    int sources = (o->prompt != NULL) + (o->file != NULL) + (o->tokens != NULL);
    if (sources > 1) return usage("one of --prompt, --file and --tokens only", NULL);
    if (!sources && !o->interactive) return usage("nothing to continue: --prompt, --file, --tokens or -i", NULL);
    if (!strcmp(o->device, "cuda")) {
        fputs("gptc-run: this build has no CUDA backend; --device cpu works\n", stderr);
        return EXIT_MACHINE;
    }
    return strcmp(o->device, "cpu") ? usage("no such device", o->device) : -1;
}

/* ---- input ---- */
/* The whole of a file in memory of its own, or NULL with errno set. */
static char *read_file(const char *path, size_t *bytes) {
    FILE *f = strcmp(path, "-") ? fopen(path, "rb") : stdin;
    char *text = NULL;
    size_t cap = 0;
    *bytes = 0;
    while (f) {
        if (*bytes == cap) {
            char *more = realloc(text, cap = cap ? 2 * cap : 65536);
            if (!more) break;
            text = more;
        }
        size_t got = fread(text + *bytes, 1, cap - *bytes, f);
        *bytes += got;
        if (got) continue;
        bool ok = !ferror(f);
        if (f != stdin) fclose(f);
        if (ok) return text;
        f = NULL;
    }
    free(text);
    return NULL;
}

/* Ids of "1,2,3" or "1 2 3" in memory of its own; NULL = not a list of ids. */
static int32_t *parse_ids(const char *s, size_t *count) {
    int32_t *ids = malloc((strlen(s) / 2 + 1) * sizeof *ids);
    *count = 0;
    while (ids && *s) {
        char *end;
        long v = strtol(s, &end, 10);
        if (end == s || v < 0 || v > INT32_MAX || (*end && *end != ',' && *end != ' ')) {
            free(ids);
            return NULL;
        }
        ids[(*count)++] = (int32_t)v;
        s = end + (*end != 0);
    }
    return ids;
}

/* Ids of a text in memory of its own, or NULL with *st set. */
static int32_t *encode(const gptc_model *m, const char *text, size_t bytes, size_t *count, gptc_status *st) {
    *st = gptc_encode(m, text, bytes, NULL, 0, count);
    if (*st) return NULL;
    int32_t *ids = malloc((*count + 1) * sizeof *ids);
    *st = ids ? gptc_encode(m, text, bytes, ids, *count, count) : GPTC_E_MEMORY;
    if (!*st) return ids;
    free(ids);
    return NULL;
}

/* ---- running ---- */
static void print_token(const Run *r, int32_t id) {
    char piece[1024];
    if (!r->info.has_tokenizer) {
        printf("%d ", id);
    } else {
        size_t n = gptc_token_text(r->model, id, piece, sizeof piece);
        fwrite(piece, 1, n < sizeof piece ? n : sizeof piece, stdout);
    }
    fflush(stdout);
}

static bool is_stop(const Run *r, int32_t id) {
    for (int32_t i = 0; i < r->info.n_stop_tokens && !r->o->ignore_eos; i++)
        if (r->info.stop_tokens[i] == id) return true;
    return false;
}

/* Takes the tokens in and generates; what fits the context. */
static gptc_status answer(Run *r, const int32_t *ids, size_t n) {
    const int32_t sequence = 0;
    double start = now();
    gptc_status st = gptc_prefill(r->session, sequence, ids, n, GPTC_LOGITS_LAST);
    r->prefill_seconds += now() - start;
    if (st) return st;
    r->prefilled += n;
    for (int32_t i = 0; i < r->o->count; i++) {
        int32_t id = gptc_sample(r->session, sequence, r->sampler);
        if (id < 0) return (gptc_status)id;
        if (is_stop(r, id)) break;
        print_token(r, id);
        start = now();
        st = gptc_step_sequences(r->session, &sequence, &id, 1);
        if (st == GPTC_E_CONTEXT) {
            fputs("\ngptc-run: the context is full\n", stderr);
            return GPTC_OK;
        }
        if (st) return st;
        r->decode_seconds += now() - start;
        r->decoded++;
    }
    return GPTC_OK;
}

static void print_speed(const Run *r) {
    if (r->o->quiet) return;
    fprintf(stderr, "\nprefill %zu tokens", r->prefilled);
    if (r->prefill_seconds > 0) fprintf(stderr, ", %.1f tokens/s", (double)r->prefilled / r->prefill_seconds);
    fprintf(stderr, "; decode %zu tokens", r->decoded);
    if (r->decode_seconds > 0) fprintf(stderr, ", %.1f tokens/s", (double)r->decoded / r->decode_seconds);
    fputc('\n', stderr);
}

/* The one request of the command line. */
static int run_once(Run *r) {
    const Options *o = r->o;
    gptc_status st = GPTC_OK;
    char *text = NULL;
    size_t bytes = 0, n = 0;
    int32_t *ids;
    if (o->tokens) {
        ids = parse_ids(o->tokens, &n);
        if (!ids) return usage("not a list of token ids", o->tokens);
    } else {
        if (o->file && !(text = read_file(o->file, &bytes))) {
            fprintf(stderr, "gptc-run: %s: %s\n", o->file, strerror(errno));
            return EXIT_INPUT;
        }
        const char *prompt = o->file ? text : o->prompt;
        ids = encode(r->model, prompt, o->file ? bytes : strlen(prompt), &n, &st);
        if (ids) fwrite(prompt, 1, o->file ? bytes : strlen(prompt), stdout);
    }
    if (o->tokens)
        for (size_t i = 0; i < n; i++) print_token(r, ids[i]);
    if (!st && !n) st = GPTC_E_ARGUMENT;
    if (!st) st = answer(r, ids, n);
    int status = st ? fail(st, n ? "" : "the prompt has no tokens") : EXIT_OK;
    if (!st) putchar('\n'), fflush(stdout), print_speed(r);
    free(ids);
    free(text);
    return status;
}

/* Line by line; the session remembers what was said. */
static int run_interactive(Run *r) {
    char *line = NULL;
    size_t cap = 0;
    ssize_t bytes;
    gptc_status st = GPTC_OK;
    while (!st) {
        fputs("> ", stderr);
        if ((bytes = getline(&line, &cap, stdin)) <= 0 || line[0] == '\n') break;
        if (line[bytes - 1] == '\n') bytes--;
        size_t n;
        int32_t *ids = r->info.has_tokenizer ? encode(r->model, line, (size_t)bytes, &n, &st)
                                             : parse_ids((line[bytes] = 0, line), &n);
        if (!ids) {
            fputs("gptc-run: not a list of token ids; the model has no tokenizer\n", stderr);
            continue;
        }
        if (n) st = answer(r, ids, n);
        free(ids);
        if (st == GPTC_E_TOKEN) {
            fail(st, "");
            st = GPTC_OK;
        }
        putchar('\n');
        fflush(stdout);
    }
    free(line);
    print_speed(r);
    return st ? fail(st, "") : EXIT_OK;
}

int main(int argc, char **argv) {
    Options o = {.device = "cpu", .count = 128, .sampling = {.top_p = 1}};
    Run r = {.o = &o};
    gptc_detail why;
    int status = parse_options(argc, argv, &o);
    if (status >= 0) return status;
    gptc_status st = gptc_open(o.model, NULL, &r.model, &why);
    if (st) return fail(st, why.text);
    gptc_model_get_info(r.model, &r.info);
    gptc_session_options so = {.threads = o.threads, .context = o.context};
    st = gptc_session_new(r.model, &so, &r.session, &why);
    if (!st && (st = gptc_sampler_new(r.model, &o.sampling, &r.sampler))) why.text[0] = 0;
    if (st) status = fail(st, why.text);
    else if (o.prompt || o.file || o.tokens) status = run_once(&r);
    if (!st && status <= 0 && o.interactive) status = run_interactive(&r);
    gptc_sampler_free(r.sampler);
    gptc_session_free(r.session);
    gptc_close(r.model);
    if (ferror(stdout) || fflush(stdout)) status = EXIT_INPUT;
    return status;
}
