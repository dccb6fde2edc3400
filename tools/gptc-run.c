/* gptc-run: generates text with a compiled model. Of the runtime it uses gptc.h alone, as an embedding
 * program does. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/gptc.h"
#include "tools/cli.h"

typedef struct {
    const char *model, *prompt, *file, *tokens, *device, *decode;
    bool interactive, ignore_eos, quiet;
    int64_t count, context, threads, top_k, seed;
    double temperature, top_p, min_p;
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

static int fail(gptc_status s, const char *detail) { return cli_fail("gptc-run", NULL, s, detail); }

/* ---- options ---- */
static const char *wrong_value(const Options *o) {
    if (o->count < 0 || o->count > INT32_MAX) return "-n";
    if (o->context < 0 || o->context > INT32_MAX) return "--ctx";
    if (o->threads < 0 || o->threads > INT32_MAX) return "--threads";
    if (!(o->temperature >= 0 && o->temperature <= 1e6)) return "--temp";
    if (o->top_k < 0 || o->top_k > INT32_MAX) return "--top-k";
    if (!((float)o->top_p > 0 && o->top_p <= 1)) return "--top-p";
    if (!(o->min_p >= 0 && o->min_p <= 1)) return "--min-p";
    return NULL;
}

/* -1 = go on; else the exit status. */
static int parse_options(int argc, char **argv, Options *o) {
    const CliOption table[] = {
        {"--prompt", "-p", CLI_STRING, &o->prompt, "TEXT", "continue TEXT"},
        {"--file", "-f", CLI_STRING, &o->file, "FILE", "continue the text in FILE (- = standard input)"},
        {"--interactive", "-i", CLI_FLAG, &o->interactive, NULL,
         "prompts line by line, as they are; the session is kept; an empty line ends"},
        {"--tokens", NULL, CLI_STRING, &o->tokens, "IDS", "continue these token ids (1,2,3)"},
        {"--count", "-n", CLI_INT, &o->count, "N", "tokens to generate (128)"},
        {"--temp", NULL, CLI_FLOAT, &o->temperature, "T", "temperature; 0 takes the likeliest token (0)"},
        {"--top-k", NULL, CLI_INT, &o->top_k, "K", "keep the K likeliest tokens (0 = all)"},
        {"--top-p", NULL, CLI_FLOAT, &o->top_p, "P", "keep the likeliest whose probabilities reach P (1)"},
        {"--min-p", NULL, CLI_FLOAT, &o->min_p, "P", "keep those at least P times the likeliest (0)"},
        {"--seed", NULL, CLI_INT, &o->seed, "S", "of the random numbers (0)"},
        {"--ctx", NULL, CLI_INT, &o->context, "N", "tokens the session may hold (the model's context)"},
        {"--threads", "-t", CLI_INT, &o->threads, "N", "worker threads (the machine's cores)"},
        {"--device", NULL, CLI_STRING, &o->device, "NAME",
         "cpu or cuda (or cuda:LIB, another driver library)"},
        {"--decode", NULL, CLI_STRING, &o->decode, "FORM", "on a GPU: auto, graph or persistent"},
        {"--ignore-eos", NULL, CLI_FLAG, &o->ignore_eos, NULL, "go on after a stop token"},
        {"--quiet", "-q", CLI_FLAG, &o->quiet, NULL, "no speeds"},
        {0}};
    Cli cli = {.tool = "gptc-run",
               .usage = "MODEL.bin [-p TEXT | -f FILE | --tokens IDS] [-i] [options]",
               .about =
                   "Generates text with a compiled GPT: text on standard output, speeds on standard error.",
               .options = table,
               .positional = &o->model,
               .max = 1};
    int status = cli_parse(&cli, argc, argv);
    if (status >= 0) return status;
    if (!o->model) return cli_usage("gptc-run", "no model", NULL);
    if (wrong_value(o)) return cli_usage("gptc-run", "value out of range", wrong_value(o));
    int sources = (o->prompt != NULL) + (o->file != NULL) + (o->tokens != NULL);
    if (sources > 1) return cli_usage("gptc-run", "one of --prompt, --file and --tokens only", NULL);
    if (!sources && !o->interactive)
        return cli_usage("gptc-run", "nothing to continue: --prompt, --file, --tokens or -i", NULL);
    return -1;
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
    char piece[256], *all = NULL;
    if (!r->info.has_tokenizer) {
        printf("%d ", id);
    } else {
        size_t n = gptc_token_text(r->model, id, piece, sizeof piece);
        if (n > sizeof piece && (all = malloc(n))) gptc_token_text(r->model, id, all, n);
        fwrite(all ? all : piece, 1, all || n < sizeof piece ? n : sizeof piece, stdout);
        free(all);
    }
    fflush(stdout);
}

/* Prints the error that the tokens caused; returns the exit status. */
static int prompt_error(const Run *r, gptc_status st, const int32_t *ids, size_t n) {
    int32_t context = r->o->context ? (int32_t)r->o->context : r->info.context;
    char text[128] = "";
    for (size_t i = 0; st == GPTC_E_TOKEN && i < n; i++)
        if (ids[i] < 0 || ids[i] >= r->info.vocab) {
            snprintf(text, sizeof text, "id %d, the vocabulary has %d", ids[i], r->info.vocab);
            break;
        }
    if (st == GPTC_E_CONTEXT)
        snprintf(text, sizeof text, "%d tokens held and %zu more, the context is %d",
                 gptc_length(r->session, 0), n, context);
    if (st == GPTC_E_NO_TOKENIZER)
        snprintf(text, sizeof text, "give token ids with --tokens, or compile with gptc --tokenizer FILE");
    return fail(st, text);
}

static int print_next(void *user, int32_t id, const char *piece, size_t bytes) {
    const Run *r = user;
    if (r->info.has_tokenizer)
        fwrite(piece, 1, bytes, stdout);
    else
        printf("%d ", id);
    fflush(stdout);
    return 0;
}

/* A token at a time, so that stop tokens are tokens like others. After the last one nothing is drawn. */
static gptc_status go_on(Run *r, int32_t *made) {
    int32_t next = r->o->count > 0 ? gptc_sample(r->session, 0, r->sampler) : 0;
    gptc_status st = GPTC_OK;
    for (*made = 0; *made < r->o->count && !st; *made += !st) {
        int32_t id = next;
        if (id < 0) return (gptc_status)id;
        st = *made + 1 < r->o->count ? gptc_step_sample(r->session, NULL, &id, 1, &r->sampler, &next)
                                     : gptc_step(r->session, &id, 1);
        if (!st) print_token(r, id);
    }
    return st;
}

/* Takes the tokens in and generates; what fits the context. */
static gptc_status answer(Run *r, const int32_t *ids, size_t n) {
    int32_t made = 0;
    double start = cli_seconds();
    gptc_status st = gptc_prefill(r->session, 0, ids, n, GPTC_LOGITS_LAST);
    r->prefill_seconds += cli_seconds() - start;
    if (st) return st;
    r->prefilled += n;
    start = cli_seconds();
    if (r->o->ignore_eos)
        st = go_on(r, &made);
    else
        st = gptc_generate(r->session, 0, r->sampler, (int32_t)r->o->count, print_next, r, &made);
    r->decode_seconds += cli_seconds() - start;
    r->decoded += (size_t)made;
    if (st != GPTC_E_CONTEXT) return st;
    fputs("\ngptc-run: the context is full\n", stderr);
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
    const char *prompt = o->prompt;
    size_t bytes = prompt ? strlen(prompt) : 0, n = 0;
    int32_t *ids = NULL;
    if (o->tokens) {
        ids = parse_ids(o->tokens, &n);
        if (!ids) return cli_usage("gptc-run", "not a list of token ids", o->tokens);
    } else {
        if (o->file && !(prompt = text = read_file(o->file, &bytes))) {
            fprintf(stderr, "gptc-run: %s: cannot read: %s\n", o->file, strerror(errno));
            return EXIT_INPUT;
        }
        ids = encode(r->model, prompt, bytes, &n, &st);
    }
    int status = EXIT_DONE;
    if (!st && !n) {
        status = cli_usage("gptc-run", "the prompt has no tokens; give some text or ids", NULL);
    } else if (!st) {
        for (size_t i = 0; i < n && o->tokens; i++) print_token(r, ids[i]);
        if (!o->tokens) fwrite(prompt, 1, bytes, stdout);
        st = answer(r, ids, n);
        if (!st) putchar('\n'), fflush(stdout), print_speed(r);
    }
    if (st) status = prompt_error(r, st, ids, n);
    free(ids);
    free(text);
    return status;
}

/* One line of the dialogue; false = end it, with *status set. */
static bool run_line(Run *r, const char *line, size_t bytes, int *status) {
    size_t n = 0, skip = 0;
    gptc_status st = GPTC_OK;
    int32_t *ids = r->info.has_tokenizer ? encode(r->model, line, bytes, &n, &st) : parse_ids(line, &n);
    if (!ids && !st) {
        fputs("gptc-run: not a list of token ids, and the model has no tokenizer\n", stderr);
        return true;
    }
    /* the token that begins a text does not begin its later lines */
    if (!st && n && r->info.bos_token >= 0 && gptc_length(r->session, 0) > 0 && ids[0] == r->info.bos_token)
        skip = 1;
    if (!st && n > skip) st = answer(r, ids + skip, n - skip);
    if (!st)
        putchar('\n'), fflush(stdout);
    else
        *status = prompt_error(r, st, ids, n);
    free(ids);
    if (st == GPTC_E_TOKEN) *status = EXIT_DONE; /* a slip of the hand: the next line may be right */
    return !st || st == GPTC_E_TOKEN;
}

/* Line by line; the session remembers what was said. A chat template is a program in Jinja, which nothing here
 * runs: who wants turns writes them as the template would. */
static int run_interactive(Run *r) {
    if (gptc_model_meta(r->model, "chat_template") && !r->o->quiet)
        fputs("gptc-run: the model has a chat template, which is not applied: lines go in as they are "
              "(gptc-inspect --json shows it)\n",
              stderr);
    char *line = NULL;
    size_t cap = 0;
    int status = EXIT_DONE;
    for (bool more = true; more;) {
        fputs("> ", stderr);
        ssize_t bytes = getline(&line, &cap, stdin);
        if (bytes <= 0 || line[0] == '\n') break;
        if (line[bytes - 1] == '\n') line[--bytes] = 0;
        more = run_line(r, line, (size_t)bytes, &status);
    }
    free(line);
    print_speed(r);
    return status;
}

int main(int argc, char **argv) {
    Options o = {.device = "cpu", .count = 128, .top_p = 1};
    Run r = {.o = &o};
    gptc_detail why = {""};
    int status = parse_options(argc, argv, &o);
    if (status >= 0) return status;
    gptc_session_options so = {
        .struct_size = sizeof so, .threads = (int32_t)o.threads, .context = (int32_t)o.context};
    status = cli_device("gptc-run", o.device, &so);
    if (status < 0) status = cli_decode("gptc-run", o.decode, &so);
    if (status >= 0) return status;
    gptc_status st = gptc_open(o.model, NULL, &r.model, &why);
    if (st) return fail(st, why.text);
    r.info.struct_size = sizeof r.info;
    gptc_model_get_info(r.model, &r.info);
    gptc_sampler_options sampling = {.struct_size = sizeof sampling,
                                     .temperature = (float)o.temperature,
                                     .top_k = (int32_t)o.top_k,
                                     .top_p = (float)o.top_p,
                                     .min_p = (float)o.min_p,
                                     .seed = (uint64_t)o.seed};
    st = gptc_session_new(r.model, &so, &r.session, &why);
    if (!st && (st = gptc_sampler_new(r.model, &sampling, &r.sampler))) why.text[0] = 0;
    if (st)
        status = fail(st, why.text);
    else if (o.prompt || o.file || o.tokens)
        status = run_once(&r);
    if (!st && status <= 0 && o.interactive) status = run_interactive(&r);
    gptc_sampler_free(r.sampler);
    gptc_session_free(r.session);
    gptc_close(r.model);
    return cli_finish("gptc-run", status < 0 ? EXIT_DONE : status);
}
