/* gptc-inspect.c: look inside a compiled model, an ONNX file or a .gir text. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/artifact.h"
#include "runtime/gptc.h"
#include "tools/cli.h"
#include "tools/doctor.h"

typedef struct {
    bool ir, plan, tensors, dot, json;
    const char *weights;
    ImportOptions import;
} Options;

/* A view of an artifact that gptc_open has accepted, so that every bound holds. */
typedef struct {
    FileView file;
    const ArtSection *sections;
    uint32_t nsections;
    const ArtMeta *meta;
    const char *text; /* META's strings */
    const ArtPlan *plan;
    const ArtState *states;
    const ArtStep *steps;
    const ArtInsn *insns;
    const ArtTensor *tensors;
    size_t ntensors;
} View;

static const char *section_name(uint32_t kind) {
    static const char *const names[] = {"?",         "meta",       "tensors", "weights", "plan",
                                        "tokenizer", "provenance", "kernels", "report",  "ir"};
    return kind < COUNT_OF(names) ? names[kind] : "?";
}

static const uint8_t *section(const View *v, uint32_t kind, size_t *bytes) {
    for (uint32_t i = 0; i < v->nsections; i++)
        if (v->sections[i].kind == kind) {
            *bytes = (size_t)v->sections[i].bytes;
            return v->file.data + v->sections[i].offset;
        }
    *bytes = 0;
    return NULL;
}

static bool view_open(View *v, const char *path, Diag *d) {
    size_t n;
    if (!file_map(path, &v->file, d)) return false;
    const ArtHeader *h = (const ArtHeader *)(const void *)v->file.data;
    v->sections = (const ArtSection *)(const void *)(h + 1);
    v->nsections = h->n_sections;
    v->meta = (const ArtMeta *)(const void *)section(v, ART_META, &n);
    v->text = (const char *)(v->meta + 1);
    v->plan = (const ArtPlan *)(const void *)section(v, ART_PLAN, &n);
    v->states = (const ArtState *)(const void *)(v->plan + 1);
    v->steps = (const ArtStep *)(const void *)(v->states + v->plan->n_states);
    v->insns = (const ArtInsn *)(const void *)(v->steps + v->plan->n_steps);
    v->tensors = (const ArtTensor *)(const void *)section(v, ART_TENSORS, &n);
    v->ntensors = n / sizeof(ArtTensor);
    return true;
}

static const char *text_at(const View *v, uint32_t offset) {
    return offset < v->meta->text_bytes ? v->text + offset : "";
}

static const char *dtype_text(uint32_t t) {
    return t == ART_F16 ? "f16" : t == ART_BF16 ? "bf16" : t == ART_I64 ? "i64" : "f32";
}

static void print_summary(const View *v, const char *path) {
    const ArtMeta *m = v->meta;
    printf("%s: %.1f MB, format %u.%u\n", path, (double)v->file.bytes / 1e6, ART_MAJOR, ART_MINOR);
    printf("vocabulary %u, context %u, %u attention layers, %s, %" PRIu64 " bytes of state a token\n",
           m->vocab, m->context, m->layers, m->has_cache ? "cached" : "no cache", m->state_bytes_per_token);
    const char *s = v->text;
    for (uint32_t i = 0; i < m->n_strings; i++) {
        const char *value = s + strlen(s) + 1;
        printf("  %-14s %.100s%s\n", s, value, strlen(value) > 100 ? "…" : "");
        s = value + strlen(value) + 1;
    }
    size_t n;
    const uint8_t *prov = section(v, ART_PROVENANCE, &n);
    if (prov) printf("provenance:\n%.*s", (int)n, (const char *)prov);
    printf("sections:\n");
    for (uint32_t i = 0; i < v->nsections; i++)
        printf("  %-11s at %10" PRIu64 "  %12" PRIu64 " bytes  xxh64 %016" PRIx64 "\n",
               section_name(v->sections[i].kind), v->sections[i].offset, v->sections[i].bytes,
               v->sections[i].hash);
    uint32_t per[ART_K_COUNT] = {0};
    for (uint32_t i = 0; i < v->plan->n_steps; i++) per[v->steps[i].kernel]++;
    static const char *const names[] = {
#define ART_KERNEL(e, text, nin, doc) text,
        ART_KERNEL_LIST(ART_KERNEL)
#undef ART_KERNEL
    };
    printf("plan: %u steps, %" PRIu64 " bytes a row;", v->plan->n_steps, v->plan->row_bytes);
    for (uint32_t i = 0; i < ART_K_COUNT; i++)
        if (per[i]) printf(" %u %s", per[i], names[i]);
    printf("; from step %u on only rows whose logits are wanted\n", v->plan->head_step);
}

static void print_arg(const View *v, const ArtArg *a) {
    switch (a->kind) {
    case ART_ARG_ROWS: printf(" row+%" PRIu64 "[%u]", a->value, a->width); break;
    case ART_ARG_TENSOR: printf(" t%" PRIu64, a->value); break;
    case ART_ARG_STATE:
        printf(" state%" PRIu64 "(%s)", a->value, text_at(v, v->states[a->value].name_offset));
        break;
    case ART_ARG_TOKENS: printf(" tokens"); break;
    case ART_ARG_POSITIONS: printf(" positions"); break;
    default: printf(" _"); break;
    }
}

static void print_params(const View *v, const ArtStep *s) {
    static const char *const acts[] = {"none", "relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid"};
    static const char *const insns[] = {
#define ART_INSN(e, n) #e,
        ART_INSN_LIST(ART_INSN)
#undef ART_INSN
    };
    switch (s->kernel) {
    case ART_K_LINEAR:
        printf("  {k=%u n=%u act=%s}", s->u.linear.k, s->u.linear.n, acts[s->u.linear.act]);
        break;
    case ART_K_NORM:
        printf("  {%u x %u %s eps=%g}", s->u.norm.groups, s->u.norm.width, s->u.norm.rms ? "rms" : "layer",
               (double)s->u.norm.eps);
        break;
    case ART_K_ROPE:
        printf("  {%u x %u, first %u, %s}", s->u.rope.heads, s->u.rope.dim, s->u.rope.rotated,
               s->u.rope.interleaved ? "interleaved" : "halves");
        break;
    case ART_K_ATTENTION:
        printf("  {heads=%u/%u dim=%u/%u scale=%g window=%u softcap=%g}", s->u.attention.heads,
               s->u.attention.kv_heads, s->u.attention.dim, s->u.attention.vdim, (double)s->u.attention.scale,
               s->u.attention.window, (double)s->u.attention.softcap);
        break;
    case ART_K_POINTWISE:
        printf("  {");
        for (uint32_t i = 0; i < s->u.pointwise.count; i++)
            printf("%s%s", i ? " " : "", insns[v->insns[s->u.pointwise.first + i].op]);
        printf("}");
        break;
    default: break;
    }
}

static void print_plan(const View *v) {
    static const struct {
        const char *name;
        uint32_t inputs;
    } kernels[] = {
#define ART_KERNEL(e, text, nin, doc) {text, nin},
        ART_KERNEL_LIST(ART_KERNEL)
#undef ART_KERNEL
    };
    for (uint32_t i = 0; i < v->plan->n_steps; i++) {
        const ArtStep *s = &v->steps[i];
        if (i == v->plan->head_step) printf("---- from here on only rows whose logits are wanted\n");
        printf("%4u %-10s", i, kernels[s->kernel].name);
        for (uint32_t k = 0; k < kernels[s->kernel].inputs; k++) print_arg(v, &s->arg[k]);
        if (s->arg[kernels[s->kernel].inputs].kind) {
            printf(" ->");
            print_arg(v, &s->arg[kernels[s->kernel].inputs]);
        }
        print_params(v, s);
        putchar('\n');
    }
}

static void print_tensors(const View *v) {
    for (size_t i = 0; i < v->ntensors; i++) {
        const ArtTensor *t = &v->tensors[i];
        printf("t%-5zu %-4s %-8s [", i, dtype_text(t->dtype), t->layout == ART_PANEL16 ? "panel16" : "plain");
        for (uint32_t k = 0; k < t->rank; k++) printf("%s%" PRIu64, k ? ", " : "", t->dim[k]);
        printf("]  %" PRIu64 " bytes  %s\n", t->bytes, text_at(v, t->name_offset));
    }
}

static int inspect_artifact(const Options *o, const char *path) {
    gptc_model *m;
    gptc_detail why = {""};
    gptc_status st = gptc_open(path, NULL, &m, &why);
    if (st) return cli_fail("gptc-inspect", NULL, st, why.text);
    gptc_close(m);
    View v = {0};
    Diag d;
    diag_init(&d);
    int status = EXIT_DONE;
    if (!view_open(&v, path, &d)) {
        status = diag_report("gptc-inspect", &d);
    } else if (o->ir) {
        size_t n;
        const uint8_t *ir = section(&v, ART_IR, &n);
        if (ir)
            fwrite(ir, 1, n, stdout);
        else
            fprintf(stderr, "gptc-inspect: %s was compiled without --embed-ir; compile it again with that\n",
                    path),
                status = EXIT_INPUT;
    } else if (o->plan) {
        print_plan(&v);
    } else if (o->tensors) {
        print_tensors(&v);
    } else {
        print_summary(&v, path);
    }
    if (v.file.data) file_unmap(&v.file);
    diag_free(&d);
    return status;
}

/* ---- graphs ---- */

static void print_dot(const Graph *g) {
    printf("digraph gptc {\n  node [shape=box, fontname=monospace];\n");
    FOR_NODES (g, id) {
        const Node *n = graph_node(g, id);
        printf("  n%u [label=\"%s\"];\n", id.id, op_info(n->op)->name);
        for (uint32_t i = 0; i < n->nin; i++) {
            NodeId from = val_ok(n->in[i]) ? graph_def(g, n->in[i]) : NO_NODE;
            if (node_ok(from)) printf("  n%u -> n%u;\n", from.id, id.id);
        }
    }
    printf("}\n");
}

static int print_graph(const Options *o, Compile *c, const char *path) {
    bool ok = compile_open(c, path, &o->import);
    if (ok && o->dot) print_dot(c->graph);
    if (ok && o->ir) {
        Text t = text_new(c->arena);
        graph_print(&t, c->graph);
        fputs(t.data, stdout);
    }
    return diag_report("gptc-inspect", &c->diag);
}

static int inspect_graph(const Options *o, const char *path) {
    Compile c;
    compile_init(&c);
    c.weights = o->weights;
    int status = EXIT_DONE;
    if (o->ir || o->dot) {
        status = print_graph(o, &c, path);
    } else {
        Report r = report_new(c.arena);
        Text t = text_new(c.arena);
        Graph *raised;
        status = doctor_examine(&r, &c, path, &o->import, &raised) ? EXIT_DONE : EXIT_INPUT;
        if (r.sections.count == 0)
            status = diag_report("gptc-inspect", &c.diag);
        else if (o->json)
            report_json(&r, &t);
        else
            report_print(&r, &t);
        fputs(t.data, stdout);
        if (c.diag.bugs) status = EXIT_BUG;
    }
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
        {"--weights", NULL, CLI_STRING, &o.weights, "DIR", "where a .gir finds its file(...) constants"},
        {"--dot", NULL, CLI_FLAG, &o.dot, NULL, "an imported graph for Graphviz"},
        {"--json", NULL, CLI_FLAG, &o.json, NULL, "the report on a graph as JSON"},
        {"--input-ids", NULL, CLI_STRING, &o.import.input_ids, "NAME", "as in gptc"},
        {"--positions", NULL, CLI_STRING, &o.import.positions, "NAME", "as in gptc"},
        {"--mask", NULL, CLI_STRING, &o.import.mask, "NAME", "as in gptc"},
        {"--logits", NULL, CLI_STRING, &o.import.logits, "NAME", "as in gptc"},
        {NULL, NULL, CLI_FLAG, NULL, NULL, NULL},
    };
    Cli cli = {.tool = "gptc-inspect",
               .usage = "MODEL.bin|MODEL.onnx|F.gir [--ir|--plan|--tensors|--dot]",
               .about =
                   "Shows what is inside. On an ONNX file or .gir text: inputs and their roles, what was\n"
                   "recognised, and whether the KV cache is proven.",
               .options = options,
               .positional = &path,
               .max = 1};
    int status = cli_parse(&cli, argc, argv);
    if (status >= 0) return status;
    if (!path) return cli_usage("gptc-inspect", "a file is needed", NULL);
    bool artifact = is_artifact(path);
    if (artifact ? o.dot : o.plan || o.tensors) {
        fprintf(stderr, "gptc-inspect: %s: %s\n", path,
                artifact ? "--dot shows graphs, and this is a compiled model"
                         : "--plan and --tensors show compiled models, and "
                           "this is none; compile it first");
        return EXIT_USAGE;
    }
    return cli_finish("gptc-inspect", artifact ? inspect_artifact(&o, path) : inspect_graph(&o, path));
}
