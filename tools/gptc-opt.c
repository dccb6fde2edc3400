/* gptc-opt.c: one pass at a time, on IR text or a model. Also the runner of the pass tests.
 *
 * A pass test is a .gir file:
 *
 *   ; test: passes=fold,dce [bind=batch:1,seq:4] [range=8] [ctx=64] [error="text"]
 *   gir 1 stage=imported
 *   ...
 *   ; ---- after
 *   gir 1 stage=imported
 *   ...
 *
 * --check runs the passes, compares the text with the part after the line, and evaluates the outputs
 * before and after on the same random inputs. --bless writes that part anew. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli.h"
#include "tools/opt.h"

#define TOOL "gptc-opt"
#define AFTER_LINE "; ---- after\n"

/* Outputs of both graphs by name; a present output may have become a state. */
static bool outputs_agree(Graph *before, Graph *after, const Options *o, Arena *a, Diag *d, double *worst) {
    size_t n = 0, most = before->outputs.count;
    ValId *p = arena_array_of(a, most, ValId), *q = arena_array_of(a, most, ValId);
    const char **name = arena_array_of(a, most, const char *);
    bool past = graphs_share_past(before, after);
    for (size_t i = 0; i < most; i++) {
        const Port *port = &before->outputs.data[i], *other = output_named(after, port->name);
        if (other == NULL && port->role == ROLE_PRESENT) continue;
        if (other == NULL) return diag_error(d, loc_none(), "output \"%s\" is gone", port->name);
        p[n] = port->v;
        q[n] = other->v;
        name[n++] = port->name;
    }
    Tensor *x = arena_array_of(a, n, Tensor), *y = arena_array_of(a, n, Tensor);
    if (!graph_values(before, o, past, p, n, x, a, d) || !graph_values(after, o, past, q, n, y, a, d))
        return false;
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        double e = tensor_differs(&x[i], &y[i]);
        if (e > *worst) *worst = e;
        if (e > tensor_tolerance(x[i].dtype))
            ok =
                diag_error(d, loc_none(), "output \"%s\" differs by %.3g of its largest element", name[i], e);
    }
    return ok;
}

/* ---- --eval ---- */

static bool print_outputs(Graph *g, const Options *o, Arena *a, Diag *d) {
    ValId *v = arena_array_of(a, g->outputs.count, ValId);
    Tensor *t = arena_array_of(a, g->outputs.count, Tensor);
    for (size_t i = 0; i < g->outputs.count; i++) v[i] = g->outputs.data[i].v;
    if (!graph_values(g, o, graph_has_past(g), v, g->outputs.count, t, a, d)) return false;
    for (size_t i = 0; i < g->outputs.count; i++) {
        size_t n = tensor_count(&t[i]);
        printf("%s : %s[", g->outputs.data[i].name, dtype_name(t[i].dtype));
        for (uint32_t k = 0; k < t[i].rank; k++) printf("%s%" PRId64, k > 0 ? ", " : "", t[i].dim[k]);
        printf("] =");
        for (size_t k = 0; k < n && k < 16; k++) printf(" %.6g", tensor_get_f64(&t[i], k));
        printf("%s\n", n > 16 ? " .." : "");
    }
    return true;
}

/* ---- unified diff ---- */

typedef struct {
    const char **line;
    size_t *len;
    size_t count;
} Lines;

static Lines lines_of(const char *text, Arena *a) {
    Lines l = {0};
    size_t n = 1;
    for (const char *p = text; *p != '\0'; p++) n += *p == '\n';
    l.line = arena_array_of(a, n, const char *);
    l.len = arena_array_of(a, n, size_t);
    while (*text != '\0') {
        size_t k = strcspn(text, "\n");
        l.line[l.count] = text;
        l.len[l.count++] = k;
        text += k + (text[k] == '\n');
    }
    return l;
}

static bool line_eq(const Lines *x, size_t i, const Lines *y, size_t j) {
    return x->len[i] == y->len[j] && memcmp(x->line[i], y->line[j], x->len[i]) == 0;
}

/* Longest common subsequence, by table. */
static void print_diff(const char *want, const char *got, Arena *a) {
    Lines x = lines_of(want, a), y = lines_of(got, a);
    size_t w = y.count + 1;
    if (x.count > 4000 || y.count > 4000) return;
    uint16_t *best = arena_array_of(a, (x.count + 1) * w, uint16_t);
    for (size_t i = x.count; i-- > 0;)
        for (size_t j = y.count; j-- > 0;) {
            uint16_t down = best[(i + 1) * w + j], right = best[i * w + j + 1];
            best[i * w + j] = line_eq(&x, i, &y, j) ? (uint16_t)(best[(i + 1) * w + j + 1] + 1)
                              : down > right        ? down
                                                    : right;
        }
    fprintf(stderr, "--- expected\n+++ got\n");
    for (size_t i = 0, j = 0; i < x.count || j < y.count;) {
        if (i < x.count && j < y.count && line_eq(&x, i, &y, j)) {
            fprintf(stderr, " %.*s\n", (int)x.len[i], x.line[i]);
            i++, j++;
        } else if (i < x.count && (j == y.count || best[(i + 1) * w + j] >= best[i * w + j + 1])) {
            fprintf(stderr, "-%.*s\n", (int)x.len[i], x.line[i]);
            i++;
        } else {
            fprintf(stderr, "+%.*s\n", (int)y.len[j], y.line[j]);
            j++;
        }
    }
}

/* ---- running ---- */

static bool run_passes(Compile *c, const Options *o) {
    PassOptions pass = {!o->no_kv_cache, o->ctx, (int)o->level};
    CompilePasses p = {.pass = pass,
                       .passes = o->pipeline ? NULL : o->passes,
                       .disable = o->disable,
                       .dump = o->dump,
                       .dump_dir = o->dump_dir,
                       .time = o->time};
    if (o->passes == NULL && !o->pipeline) return true;
    if (o->dump != NULL || o->dump_dir != NULL || o->time) return compile_passes(c, &p);
    PassRun run = {.passes = p.passes, .disable = o->disable, .verify = true};
    return passes_run(c->graph, &run, &pass, &c->proof, &c->diag);
}

/* The value of key=VALUE or key="VALUE" in the header line, or NULL. */
static const char *header_get(const char *line, const char *key, Arena *a) {
    size_t n = strlen(key), end = strcspn(line, "\n");
    for (const char *at = line; at < line + end; at++) {
        if ((at != line && at[-1] != ' ') || strncmp(at, key, n) != 0 || at[n] != '=') continue;
        at += n + 1;
        bool quoted = *at == '"';
        return arena_strndup(a, at + quoted, strcspn(at + quoted, quoted ? "\"\n" : " \n"));
    }
    return NULL;
}

static void header_number(const char *line, const char *key, Arena *a, int64_t *out) {
    const char *v = header_get(line, key, a);
    if (v != NULL) *out = strtoll(v, NULL, 10);
}

static bool header_read(const char *text, Options *o, Arena *a) {
    const char *line = strncmp(text, "; test:", 7) == 0 ? text : NULL;
    if (line == NULL) return false;
    o->passes = header_get(line, "passes", a);
    o->bind = header_get(line, "bind", a);
    o->error = header_get(line, "error", a);
    o->no_kv_cache = header_get(line, "cache", a) != NULL; /* cache=no */
    header_number(line, "range", a, &o->range);
    header_number(line, "ctx", a, &o->ctx);
    return true;
}

static bool error_said(const Diag *d, const char *text) {
    for (size_t i = 0; i < d->items.count; i++)
        if (d->items.data[i].level >= DIAG_ERROR && strstr(d->items.data[i].text, text) != NULL) return true;
    return false;
}

static int test_bless(const char *path, const char *text, const char *after, const Text *got, Compile *c) {
    Text t = text_new(c->arena);
    size_t head = after != NULL ? (size_t)(after - text) : strlen(text);
    text_addn(&t, text, head);
    text_add(&t, AFTER_LINE);
    text_addn(&t, got->data, got->count);
    if (!file_write_text(path, t.data, t.count, &c->diag)) return diag_report(TOOL, &c->diag);
    return EXIT_DONE;
}

static int test_run(Compile *c, const char *path, const char *text, Options *o) {
    const char *after = strstr(text, AFTER_LINE);
    size_t head = after != NULL ? (size_t)(after - text) : strlen(text);
    c->graph = graph_parse(text, head, path, NULL, c->arena, &c->diag);
    bool ok = c->graph != NULL && graph_verify(c->graph, &c->diag);
    if (ok) {
        c->imported = graph_copy(c->graph, c->arena);
        ok = run_passes(c, o);
    }
    if (o->error != NULL) {
        if (!ok && error_said(&c->diag, o->error)) return EXIT_DONE;
        fprintf(stderr, TOOL ": %s: no error says \"%s\"\n", path, o->error);
        diag_report(TOOL, &c->diag);
        return EXIT_INPUT;
    }
    if (!ok) return diag_report(TOOL, &c->diag);
    Text got = text_new(c->arena);
    graph_print(&got, c->graph);
    double worst = 0;
    if (!outputs_agree(c->imported, c->graph, o, c->arena, &c->diag, &worst)) {
        if (!o->bless) return diag_report(TOOL, &c->diag);
        diag_report(TOOL, &c->diag);
    }
    if (o->bless) return test_bless(path, text, after, &got, c);
    const char *want = after != NULL ? after + strlen(AFTER_LINE) : "";
    if (strcmp(want, got.data) == 0) return EXIT_DONE;
    fprintf(stderr, TOOL ": %s: the passes give another text; --bless accepts it\n", path);
    print_diff(want, got.data, c->arena);
    return EXIT_INPUT;
}

static int file_run(Compile *c, const char *path, Options *o) {
    double worst = 0;
    if (!compile_open(c, path, NULL) || !run_passes(c, o)) return diag_report(TOOL, &c->diag);
    if (o->check) {
        if (!outputs_agree(c->imported, c->graph, o, c->arena, &c->diag, &worst))
            return diag_report(TOOL, &c->diag);
        printf("outputs agree within %.2g\n", worst);
        return EXIT_DONE;
    }
    if (o->eval)
        return print_outputs(c->graph, o, c->arena, &c->diag) ? EXIT_DONE : diag_report(TOOL, &c->diag);
    Text t = text_new(c->arena);
    graph_print(&t, c->graph);
    if (o->out == NULL || strcmp(o->out, "-") == 0) return fwrite(t.data, 1, t.count, stdout), EXIT_DONE;
    return file_write_text(o->out, t.data, t.count, &c->diag) ? EXIT_DONE : diag_report(TOOL, &c->diag);
}

static int diff_run(const char *a, const char *b, const Options *o) {
    Compile x, y;
    compile_init(&x);
    compile_init(&y);
    x.weights = y.weights = o->weights;
    int st = EXIT_DONE;
    if (!compile_open(&x, a, NULL))
        st = diag_report(TOOL, &x.diag);
    else if (!compile_open(&y, b, NULL))
        st = diag_report(TOOL, &y.diag);
    else if (!diff_graphs(x.graph, y.graph, o, x.arena, &x.diag))
        st = diag_report(TOOL, &x.diag);
    compile_free(&x);
    compile_free(&y);
    return st;
}

static void list_passes(void) {
    for (const Pass *p = pass_table; p->name != NULL; p++)
        printf("%-16s -O%d  %-8s  %s\n", p->name, p->min_level, stage_name(p->stage), p->doc);
}

/* A .gir file that begins with a test header, else NULL. */
static char *test_text(const char *path, Arena *a) {
    FileView f;
    Diag quiet;
    char *text = NULL;
    diag_init(&quiet);
    if (file_map(path, &f, &quiet)) {
        if (f.bytes > 7 && memcmp(f.data, "; test:", 7) == 0)
            text = arena_strndup(a, (const char *)f.data, f.bytes);
        file_unmap(&f);
    }
    diag_free(&quiet);
    return text;
}

int main(int argc, char **argv) {
    Options o = {.level = -1, .seed = 1, .range = 64};
    const char *file[2] = {NULL, NULL};
    const CliOption options[] = {
        {"--passes", NULL, CLI_STRING, &o.passes, "A,B", "run these passes, in this order"},
        {"--level", "-O", CLI_INT, &o.level, "N", "run the pipeline of this level instead"},
        {"--disable", NULL, CLI_STRING, &o.disable, "A,B", "leave these passes out"},
        {"--out", "-o", CLI_STRING, &o.out, "FILE", "write the IR there; else to stdout"},
        {"--check", NULL, CLI_FLAG, &o.check, NULL, "run a pass test; or compare outputs before and after"},
        {"--bless", NULL, CLI_FLAG, &o.bless, NULL, "write a pass test's expected part anew"},
        {"--verify", NULL, CLI_FLAG, &o.verify, NULL, "only check the file; passes are always verified"},
        {"--diff", NULL, CLI_FLAG, &o.diff, NULL, "evaluate two files; name the first value that differs"},
        {"--eval", NULL, CLI_FLAG, &o.eval, NULL, "print the outputs on random inputs"},
        {"--bind", NULL, CLI_STRING, &o.bind, "SYM:N,..", "sizes to evaluate with"},
        {"--seed", NULL, CLI_INT, &o.seed, "N", "of the random inputs"},
        {"--range", NULL, CLI_INT, &o.range, "N", "integer inputs are below this"},
        {"--ctx", NULL, CLI_INT, &o.ctx, "N", "context length for passes that need one"},
        {"--no-kv-cache", NULL, CLI_FLAG, &o.no_kv_cache, NULL, "compile without state"},
        {"--dump-ir", NULL, CLI_OPTIONAL, &o.dump, "WHEN", "print the IR: all, before:PASS, after:PASS"},
        {"--weights", NULL, CLI_STRING, &o.weights, "DIR",
         "where file(...) constants are (default: beside the text)"},
        {"--dump-dir", NULL, CLI_STRING, &o.dump_dir, "DIR", "write one numbered file after every pass"},
        {"--time-passes", NULL, CLI_FLAG, &o.time, NULL, "seconds and counts of every pass"},
        {"--list-passes", NULL, CLI_FLAG, &o.list, NULL, "name every pass"},
        {NULL, NULL, CLI_FLAG, NULL, NULL, NULL},
    };
    Cli cli = {.tool = TOOL,
               .usage = "FILE [FILE] [options]",
               .options = options,
               .positional = file,
               .max = 2,
               .about =
                   "Runs passes on IR text (.gir) or an ONNX model, one by one, and checks what they do."};
    int st = cli_parse(&cli, argc, argv);
    if (st >= 0) return st;
    if (o.list) {
        list_passes();
        return cli_finish(TOOL, EXIT_DONE);
    }
    if (cli.count == 0) return cli_usage(TOOL, "no file to work on", NULL);
    if (o.diff != (cli.count == 2))
        return cli_usage(TOOL, "two files go with --diff, one with all else", NULL);
    if (o.range < 1 || o.ctx < 0 || o.ctx > ART_MAX_CONTEXT || o.level > 3)
        return cli_usage(TOOL, "value out of range",
                         o.range < 1   ? "--range"
                         : o.level > 3 ? "--level"
                                       : "--ctx");
    if (o.diff) return cli_finish(TOOL, diff_run(file[0], file[1], &o));
    o.pipeline = o.level >= 0;
    if (o.level < 0) o.level = 1;
    Compile c;
    compile_init(&c);
    c.weights = o.weights;
    char *text = o.check || o.bless ? test_text(file[0], c.arena) : NULL;
    if (text != NULL && header_read(text, &o, c.arena))
        st = test_run(&c, file[0], text, &o);
    else if (o.verify)
        st = compile_open(&c, file[0], NULL) ? EXIT_DONE : diag_report(TOOL, &c.diag);
    else
        st = file_run(&c, file[0], &o);
    compile_free(&c);
    return cli_finish(TOOL, st);
}
