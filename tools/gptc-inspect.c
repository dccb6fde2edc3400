/* gptc-inspect.c: look inside a compiled model, an ONNX file or a .gir text. */
#include <stdio.h>
#include <string.h>

#include "tools/cli.h"
#include "tools/doctor.h"
#include "tools/inspect_artifact.h"
#include "tools/inspect_kernels.h"

#define TOOL "gptc-inspect"

typedef struct {
    bool ir, plan, tensors, kernels, dot, json, report;
    const char *weights, *html;
    ImportOptions import;
} Options;

static void print_report(const Options *o, const Report *r) {
    Text t = text_new(r->arena);
    if (o->json)
        report_json(r, &t);
    else
        report_print(r, &t);
    fputs(t.data ? t.data : "", stdout);
}

/* ---- compiled models ---- */

static bool write_artifact_page(const Options *o, const ArtView *v, Arena *a, Diag *d) {
    Report r = report_new(a), plan = report_new(a);
    Text t = text_new(a);
    art_report_summary(&r, v);
    art_report_plan(&plan, v);
    page_begin(&t, v->file.path);
    report_html(&r, &t);
    page_bars(&t, "tensors by bytes", art_bars(v, a), v->ntensors, a);
    report_html(&plan, &t);
    page_end(&t);
    return file_write_text(o->html, t.data, t.count, d);
}

static int show_artifact(const Options *o, const ArtView *v, Diag *d) {
    Report r = report_new(d->arena);
    size_t n;
    if (o->ir) {
        const uint8_t *ir = art_section(v, ART_IR, &n);
        if (ir) return fwrite(ir, 1, n, stdout), EXIT_DONE;
        fprintf(stderr, TOOL ": %s was compiled without --embed-ir; compile it again with that\n",
                v->file.path);
        return EXIT_INPUT;
    }
    if (o->report) {
        const uint8_t *text = art_section(v, ART_REPORT, &n);
        if (text) return fwrite(text, 1, n, stdout), EXIT_DONE;
        fprintf(stderr, TOOL ": %s is exact: no pass changed what it computes, so there is no report\n",
                v->file.path);
        return EXIT_INPUT;
    }
    if (o->html) return write_artifact_page(o, v, d->arena, d) ? EXIT_DONE : diag_report(TOOL, d);
    if (o->plan)
        art_report_plan(&r, v);
    else if (o->tensors)
        art_report_tensors(&r, v);
    else
        art_report_summary(&r, v);
    print_report(o, &r);
    return EXIT_DONE;
}

static int show_kernels(const Options *o, gptc_model *m) {
    KernelTables k;
    gptc_detail why = {""};
    gptc_status st = kernel_tables(m, &k, &why);
    if (st) return cli_fail(TOOL, NULL, st, why.text);
    Arena *a = arena_new();
    Report r = report_new(a);
    report_kernels(&r, &k);
    print_report(o, &r);
    arena_free(a);
    return EXIT_DONE;
}

static int inspect_artifact(const Options *o, const char *path) {
    gptc_model *m;
    gptc_detail why = {""};
    gptc_status st = gptc_open(path, NULL, &m, &why);
    if (st) return cli_fail(TOOL, NULL, st, why.text);
    if (o->kernels) {
        int shown = show_kernels(o, m);
        gptc_close(m);
        return shown;
    }
    gptc_close(m);
    ArtView v = {0};
    Diag d;
    diag_init(&d);
    int status = art_view_open(&v, path, &d) ? show_artifact(o, &v, &d) : diag_report(TOOL, &d);
    if (v.file.data) file_unmap(&v.file);
    diag_free(&d);
    return status;
}

/* ---- graphs ---- */

static void dot_node(Text *t, const Graph *g, NodeId id) {
    const Node *n = graph_node(g, id);
    text_printf(t, "  n%u [label=\"%s\\n", id.id, op_info(n->op)->name);
    type_print(t, g, graph_type(g, n->out[0]));
    text_add(t, "\"];\n");
    for (uint32_t i = 0; i < n->nin; i++) {
        NodeId from = val_ok(n->in[i]) ? graph_def(g, n->in[i]) : NO_NODE;
        if (node_ok(from)) text_printf(t, "  n%u -> n%u;\n", from.id, id.id);
    }
}

/* Nodes of a region follow one another once they are ordered. */
static void print_dot(const Graph *g, Arena *a) {
    Text t = text_new(a);
    uint32_t region = 0;
    text_add(&t, "digraph gptc {\n  node [shape=box, fontname=monospace];\n");
    FOR_NODES (g, id) {
        uint32_t now = graph_node(g, id)->region;
        if (now != region && region) text_add(&t, "  }\n");
        if (now != region && now)
            text_printf(&t, "  subgraph cluster_%u {\n  label=\"region %u\";\n", now, now);
        region = now;
        dot_node(&t, g, id);
    }
    if (region) text_add(&t, "  }\n");
    text_add(&t, "}\n");
    fputs(t.data, stdout);
}

static int print_graph(const Options *o, Compile *c, const char *path) {
    bool ok = compile_open(c, path, &o->import);
    if (ok && o->dot) {
        CompilePasses p = {.pass = {.kv_cache = true, .opt_level = 1}};
        if (c->graph->stage <= STAGE_RAISED) compile_passes(c, &p);
        print_dot(c->graph, c->arena);
    } else if (ok) {
        Text t = text_new(c->arena);
        graph_print(&t, c->graph);
        fputs(t.data, stdout);
    }
    return diag_report(TOOL, &c->diag);
}

/* The constants that the graph reads. */
static Bar *graph_bars(const Graph *g, Arena *a, size_t *n) {
    Bar *bars = arena_array_of(a, g->values.count, Bar);
    bool *seen = arena_array_of(a, g->values.count, bool);
    FOR_NODES (g, id) {
        const Node *node = graph_node(g, id);
        for (uint32_t i = 0; i < node->nin; i++) {
            ValId v = node->in[i];
            const Const *c = val_ok(v) && !seen[v.id] ? graph_constant(g, v) : NULL;
            if (c == NULL) continue;
            Text t = text_new(a);
            type_print(&t, g, graph_type(g, v));
            if (graph_val(g, v)->name) text_printf(&t, " %s", graph_val(g, v)->name);
            seen[v.id] = true;
            bars[(*n)++] = (Bar){t.data, (double)c->bytes};
        }
    }
    return bars;
}

static bool write_graph_page(const Options *o, Compile *c, const char *path, const Report *r, Graph *raised) {
    Text t = text_new(c->arena);
    size_t n = 0;
    page_begin(&t, path);
    report_html(r, &t);
    if (raised) {
        page_graph(&t, raised, c->arena);
        Bar *bars = graph_bars(raised, c->arena, &n);
        page_bars(&t, "constants by bytes", bars, n, c->arena);
    }
    page_end(&t);
    return file_write_text(o->html, t.data, t.count, &c->diag);
}

static int examine(const Options *o, Compile *c, const char *path) {
    Report r = report_new(c->arena);
    Graph *raised;
    bool compiles = doctor_examine(&r, c, path, &o->import, &raised);
    if (r.sections.count == 0) return diag_report(TOOL, &c->diag);
    if (!o->html)
        print_report(o, &r);
    else if (!write_graph_page(o, c, path, &r, raised))
        return diag_report(TOOL, &c->diag);
    return c->diag.bugs ? EXIT_BUG : compiles ? EXIT_DONE : EXIT_INPUT;
}

static int inspect_graph(const Options *o, const char *path) {
    Compile c;
    compile_init(&c);
    c.weights = o->weights;
    int status = o->ir || o->dot ? print_graph(o, &c, path) : examine(o, &c, path);
    compile_free(&c);
    return status;
}

static bool is_artifact(const char *path) {
    char magic[8] = {0};
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(magic, 1, sizeof magic, f) : 0;
    if (f) fclose(f);
    return n == sizeof magic && !memcmp(magic, ART_MAGIC, sizeof magic);
}

int main(int argc, char **argv) {
    Options o = {0};
    const char *path = NULL;
    const CliOption options[] = {
        {"--ir", NULL, CLI_FLAG, &o.ir, NULL, "the graph as text (of a model: as planned)"},
        {"--plan", NULL, CLI_FLAG, &o.plan, NULL, "a model's steps: kernels, arguments, parameters"},
        {"--tensors", NULL, CLI_FLAG, &o.tensors, NULL, "a model's stored tensors"},
        {"--kernels", NULL, CLI_FLAG, &o.kernels, NULL,
         "a model's CUDA kernels: registers, shared memory, spills, what they read and compute, predicted "
         "time"},
        {"--report", NULL, CLI_FLAG, &o.report, NULL,
         "how a compressed model was made: its plan, what was measured"},
        {"--weights", NULL, CLI_STRING, &o.weights, "DIR", "where a .gir finds its file(...) constants"},
        {"--dot", NULL, CLI_FLAG, &o.dot, NULL, "a graph for Graphviz, fused, a box for each region"},
        {"--json", NULL, CLI_FLAG, &o.json, NULL, "what would be printed, as JSON"},
        {"--html", NULL, CLI_STRING, &o.html, "FILE", "all of it as a page that needs no other file"},
        {"--input-ids", NULL, CLI_STRING, &o.import.input_ids, "NAME", "as in gptc"},
        {"--positions", NULL, CLI_STRING, &o.import.positions, "NAME", "as in gptc"},
        {"--mask", NULL, CLI_STRING, &o.import.mask, "NAME", "as in gptc"},
        {"--logits", NULL, CLI_STRING, &o.import.logits, "NAME", "as in gptc"},
        {NULL, NULL, CLI_FLAG, NULL, NULL, NULL},
    };
    Cli cli = {.tool = TOOL,
               .usage = "MODEL.bin|MODEL.onnx|F.gir [--ir|--plan|--tensors|--kernels|--report|--dot|--html "
                        "FILE] [--json]",
               .about =
                   "Shows what is inside. On an ONNX file or .gir text: inputs and their roles, the\n"
                   "architecture, what was recognised and what nearly was, whether the KV cache is proven.\n"
                   "Status 0 when the model would compile, 1 when not.",
               .options = options,
               .positional = &path,
               .max = 1};
    int status = cli_parse(&cli, argc, argv);
    if (status >= 0) return status;
    if (!path) return cli_usage(TOOL, "a file is needed", NULL);
    if (o.html && file_same(o.html, path)) return cli_usage(TOOL, "--html would write over", path);
    bool artifact = is_artifact(path);
    if (artifact ? o.dot : o.plan || o.tensors || o.kernels || o.report) {
        fprintf(stderr, "gptc-inspect: %s: %s\n", path,
                artifact ? "--dot shows graphs, and this is a compiled model"
                         : "--plan, --tensors, --kernels and --report show compiled models, and "
                           "this is none; compile it first");
        return EXIT_USAGE;
    }
    return cli_finish(TOOL, artifact ? inspect_artifact(&o, path) : inspect_graph(&o, path));
}
