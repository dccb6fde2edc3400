#include "tools/driver.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "frontend/sidecar.h"
#include "frontend/tokenizer.h"
#include "tools/cli.h"

void compile_init(Compile *c) {
    memset(c, 0, sizeof *c);
    c->arena = arena_new();
    diag_init(&c->diag);
}

void compile_free(Compile *c) {
    if (c->onnx.graph) onnx_close(&c->onnx);
    if (c->text.data) file_unmap(&c->text);
    diag_free(&c->diag);
    arena_free(c->arena);
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

static const char *folder_of(const char *path, Arena *a) {
    const char *slash = strrchr(path, '/');
    return slash ? arena_strndup(a, path, (size_t)(slash - path) + 1) : ".";
}

bool compile_open(Compile *c, const char *path, const ImportOptions *opt) {
    if (ends_with(path, ".gir")) {
        if (!file_map(path, &c->text, &c->diag)) return false;
        const char *dir = c->weights ? c->weights : folder_of(path, c->arena);
        c->graph = graph_parse((const char *)c->text.data, c->text.bytes, path, dir, c->arena, &c->diag);
        if (!c->graph) return false;
    } else {
        if (!onnx_import(path, opt, c->arena, &c->onnx, &c->diag)) return false;
        c->graph = c->onnx.graph;
    }
    if (!graph_verify(c->graph, &c->diag)) return false;
    c->imported = graph_copy(c->graph, c->arena);
    return true;
}

typedef struct {
    Compile *c;
    const CompilePasses *o;
} Dump;

static bool dump_graph(Compile *c, const CompilePasses *o, uint32_t index, const char *name) {
    Arena *a = arena_new();
    Text t = text_new(a);
    bool ok = true;
    graph_print(&t, c->graph);
    if (o->dump_dir) {
        const char *path = arena_printf(a, "%s/%02u-%s.gir", o->dump_dir, index, name);
        ok = file_write_text(path, t.data, t.count, &c->diag);
    } else {
        printf("; ---- %s\n%s", name, t.data);
    }
    arena_free(a);
    return ok;
}

static bool wants_dump(const CompilePasses *o, const char *when, const char *pass) {
    if (!o->dump) return o->dump_dir != NULL;
    if (!*o->dump || !strcmp(o->dump, "all")) return true;
    size_t n = strlen(when);
    return !strncmp(o->dump, when, n) && !strcmp(o->dump + n, pass);
}

static bool after_pass(void *user, uint32_t index, const Pass *p, PassResult r, const PassCount *counts,
                       size_t ncounts, double seconds, Graph *g) {
    Dump *d = user;
    (void)r, (void)g;
    if (d->o->progress) d->o->progress(d->o->user, index, p->name, seconds);
    if (d->o->time) fprintf(stderr, "  %-18s %8.3f s", p->name, seconds);
    if (d->o->verbose || d->o->time) {
        if (!d->o->time) fprintf(stderr, "  %-18s", p->name);
        for (size_t i = 0; i < ncounts; i++)
            if (counts[i].count) fprintf(stderr, "  %lld %s", (long long)counts[i].count, counts[i].name);
        fputc('\n', stderr);
    }
    return !wants_dump(d->o, "after:", p->name) || dump_graph(d->c, d->o, index + 1, p->name);
}

static bool before_pass(void *user, uint32_t index, const Pass *p, Graph *g) {
    Dump *d = user;
    (void)g;
    if (!d->o->dump || strncmp(d->o->dump, "before:", 7) != 0 || strcmp(d->o->dump + 7, p->name) != 0)
        return true;
    return dump_graph(d->c, d->o, index, arena_printf(d->c->arena, "before-%s", p->name));
}

/* "", "all", "after:PASS" or "before:PASS". */
static bool dump_known(const char *when) {
    const char *colon = strchr(when, ':');
    if (!*when || !strcmp(when, "all")) return true;
    return (!strncmp(when, "after:", 6) || !strncmp(when, "before:", 7)) && pass_find(colon + 1);
}

bool compile_passes(Compile *c, const CompilePasses *o) {
    Dump dump = {c, o};
    if (o->dump && !dump_known(o->dump))
        return diag_error(&c->diag, loc_none(),
                          "--dump-ir=%s: takes all, after:PASS or before:PASS; gptc-opt "
                          "--list-passes names the passes",
                          o->dump);
    if (o->dump_dir && mkdir(o->dump_dir, 0777) != 0 && errno != EEXIST)
        return diag_error(&c->diag, loc_file(o->dump_dir), "cannot make the folder: %s", strerror(errno));
    c->function = graph_is_function(c->graph, &o->pass);
    bool all = o->dump_dir && (!o->dump || !*o->dump || !strcmp(o->dump, "all"));
    if (all && !dump_graph(c, o, 0, "imported")) return false;
    PassRun run = {.passes = o->passes,
                   .disable = o->disable,
                   .stop_after = o->stop_after,
                   .verify = true,
                   .time = true,
                   .before = before_pass,
                   .after = after_pass,
                   .user = &dump};
    return passes_run(c->graph, &run, &o->pass, &c->proof, &c->diag);
}

int64_t compile_context(const Compile *c, int64_t asked) {
    int64_t bound = c->graph->context, most = bound > 0 && bound < ART_MAX_CONTEXT ? bound : ART_MAX_CONTEXT;
    if (asked > 0) return most < asked ? most : asked;
    return bound > 0 ? most : 4096;
}

bool compile_output_check(Compile *c, const char *model_path, const char *tokenizer, const char *out,
                          bool is_model) {
    struct stat st;
    bool read = file_same(out, model_path) || (tokenizer && file_same(out, tokenizer));
    for (size_t i = 0; i < c->onnx.external.count && !read; i++)
        read = file_same(out, c->onnx.external.data[i].path);
    if (read)
        return diag_error(&c->diag, loc_file(out),
                          "is read by this compile, so it is not written; name another "
                          "file with -o");
    if (is_model && !strcmp(out, "-"))
        return diag_error(&c->diag, loc_none(), "-o -: a model is read back to verify it; name a file");
    if (!is_model || stat(out, &st) != 0 || S_ISREG(st.st_mode)) return true;
    return diag_error(&c->diag, loc_file(out), "%s; name a file with -o",
                      S_ISDIR(st.st_mode) ? "is a directory"
                                          : "is no regular file, and a model is read back to "
                                            "verify it");
}

static bool read_tokenizer(Compile *c, const char *path, TokenizerBlob *blob) {
    FileView f;
    if (!file_map(path, &f, &c->diag)) return false;
    bool ok = tokenizer_compile(path, f.data, f.bytes, c->arena, blob, &c->diag);
    file_unmap(&f);
    return ok;
}

static const char *provenance(Compile *c, const CompileWrite *o) {
    return arena_printf(c->arena, "gptc=%s\ninput_xxh64=%016llx\nproducer=%s\nopset=%lld\nflags=%s\n",
                        gptc_version(), (unsigned long long)c->onnx.file_hash,
                        c->onnx.producer ? c->onnx.producer : "", (long long)c->onnx.opset,
                        o->flags ? o->flags : "");
}

/* Stop and bos tokens: of the command line, else of the files beside the model, as far as they are tokens. */
static bool fill_tokens(Compile *c, const Sidecar *side, int64_t eos, int64_t vocab, PackExtra *x) {
    if (eos >= vocab)
        return diag_error(&c->diag, loc_none(),
                          "--eos %lld: the vocabulary has %lld tokens, so ids end at %lld", (long long)eos,
                          (long long)vocab, (long long)vocab - 1);
    for (uint32_t i = 0; i < side->nstop && eos < 0; i++)
        if (side->stop[i] >= 0 && side->stop[i] < vocab)
            x->stop_tokens[x->n_stop_tokens++] = side->stop[i];
        else
            diag_warn(&c->diag, loc_none(),
                      "the files beside the model name the stop token %d, the vocabulary has "
                      "%lld; left out",
                      side->stop[i], (long long)vocab);
    if (eos >= 0) x->stop_tokens[x->n_stop_tokens++] = (int32_t)eos;
    x->bos_token = side->bos >= 0 && side->bos < vocab ? side->bos : -1;
    return true;
}

static bool fill_extra(Compile *c, const char *model_path, const CompileWrite *o, int64_t vocab, PackExtra *x,
                       TokenizerBlob *blob, MetaPair *meta) {
    Sidecar side;
    sidecar_read(model_path, c->arena, &side, &c->diag);
    bool gpt = vocab > 0; /* nothing else has tokens */
    if ((gpt || o->eos >= 0) && !fill_tokens(c, &side, o->eos, vocab, x)) return false;
    const char *tok = o->tokenizer ? o->tokenizer : side.tokenizer;
    if (tok) {
        if (!read_tokenizer(c, tok, blob)) return false;
        x->tokenizer = blob->data;
        x->tokenizer_bytes = blob->bytes;
    }
    const char *chat = o->chat_template ? o->chat_template : side.chat_template;
    meta[0] = (MetaPair){"gptc", gptc_version()};
    meta[1] = (MetaPair){"producer", c->onnx.producer ? c->onnx.producer : ""};
    x->nmeta = 2;
    if (chat) meta[x->nmeta++] = (MetaPair){"chat_template", chat};
    x->meta = meta;
    x->provenance = provenance(c, o);
    return true;
}

bool compile_lower(Compile *c, int64_t ctx, Program **out) {
    if (c->function && c->graph->stage < STAGE_STATEFUL)
        return lower_function(c->graph, ctx, c->arena, out, &c->diag);
    if (c->graph->stage != STAGE_PLANNED)
        return diag_error(&c->diag, loc_none(),
                          "the graph is not planned (stage %s), so nothing can be written; "
                          "hint: compile at -O1 or above without --stop-after",
                          stage_name(c->graph->stage));
    return lower(c->graph, &target_cpu, ctx, c->arena, out, &c->diag);
}

FileWriter *compile_pack(Compile *c, Program *p, const char *model_path, const char *out,
                         const CompileWrite *o, CompileResult *r) {
    PackExtra x = {.bos_token = -1, .report = o->lossy ? o->lossy->report : NULL};
    TokenizerBlob blob;
    MetaPair meta[4];
    if (!fill_extra(c, model_path, o, (int64_t)p->meta.vocab, &x, &blob, meta)) return NULL;
    if (o->targets && o->targets->n_cuda &&
        !targets_compile(o->targets, c->graph, p, c->arena, &x.kernels, &x.kernels_bytes, &r->kernels,
                         &c->diag))
        return NULL;
    Text ir = text_new(c->arena);
    if (o->embed_ir) {
        graph_print(&ir, c->graph);
        x.ir = ir.data;
    }
    r->has_tokenizer = x.tokenizer_bytes > 0;
    return pack_write(p, &x, out, &r->pack, &c->diag);
}

static bool gate(Compile *c, const char *artifact, const CompileWrite *o, CompileResult *r) {
    if (o->lossy) return o->lossy->holds(o->lossy->self, artifact, r, &c->diag);
    return r->kind != COMPILED_FUNCTION
               ? gate_exact(c->imported, artifact, o->seed, c->arena, &r->gate, &c->diag)
               : gate_function(c->imported, artifact, o->seed, c->arena, &r->gate, &c->diag);
}

bool compile_write(Compile *c, const char *model_path, const char *out, int64_t ctx, const CompileWrite *o,
                   CompileResult *r) {
    Program *p;
    memset(r, 0, sizeof *r);
    if (!compile_lower(c, ctx, &p)) return false;
    FileWriter *w = compile_pack(c, p, model_path, out, o, r);
    if (!w) return false;
    r->context = ctx;
    r->steps = p->function ? p->function->head.n_nodes : p->plan.n_steps;
    r->states = p->plan.n_states;
    r->plan = p->plan;
    if (!file_flush(w)) return file_commit(w, &c->diag); /* says what went wrong */
    r->kind = !p->function ? COMPILED_ROWS : p->meta.vocab > 0 ? COMPILED_GPT : COMPILED_FUNCTION;
    if (!gate(c, file_temporary(w), o, r)) {
        file_abandon(w);
        return false;
    }
    return file_commit(w, &c->diag);
}

uint32_t graph_count_op(const Graph *g, Op op) {
    uint32_t n = 0;
    FOR_NODES (g, id) n += graph_node(g, id)->op == op;
    return n;
}

uint32_t graph_count_nodes(const Graph *g) {
    uint32_t n = 0;
    FOR_NODES (g, id) n++;
    return n;
}

int diag_report(const char *tool, const Diag *d) {
    Arena *a = arena_new();
    for (size_t i = 0; i < d->items.count; i++) {
        Text t = text_new(a);
        diag_format(&t, &d->items.data[i]);
        fprintf(stderr, "%s: %s\n", tool, t.data);
    }
    arena_free(a);
    return d->bugs ? EXIT_BUG : d->errors ? EXIT_INPUT : EXIT_DONE;
}
