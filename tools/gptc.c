/* gptc.c: the compiler's command line. `gptc MODEL.onnx …` and `gptc compile MODEL.onnx …` are the same. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "codegen/cuda/cuda.h"
#include "tools/cli.h"
#include "tools/driver.h"
#include "tools/lossy.h"
#include "tools/memory_rate.h"
#include "tools/summary.h"

typedef struct {
    bool o0, o1, o2, o3, time_passes, verbose, no_cache, dry_run, quiet, embed_ir, source;
    const char *out, *target, *nvrtc, *cache, *tokenizer, *emit, *passes, *disable, *dump_ir, *dump_dir,
        *stop_after, *chat_template;
    const char *calibrate, *budget, *bits, *size, *kv, *rows, *plan_in, *plan_out, *report, *weights;
    int64_t ctx, eos, seed, threads;
    ImportOptions import;
} Options;

static void show_progress(void *user, uint32_t index, const char *pass, double seconds) {
    (void)seconds;
    uint32_t *total = user;
    fprintf(stderr, "\r\033[K[%2u/%u] %s", index + 1, *total, pass);
}

static uint32_t passes_total(void) {
    uint32_t n = 0;
    while (pass_table[n].name) n++;
    return n;
}

static int fail(const Compile *c) {
    int status = diag_report("gptc", &c->diag);
    return status ? status : EXIT_BUG;
}

static bool asks_lossy(const Options *o) {
    return o->calibrate || o->kv || o->rows || o->budget || o->bits || o->size || o->plan_in || o->plan_out ||
           o->report;
}

static bool is_narrow(const char *text) { return !text || !strcmp(text, "f32") || !strcmp(text, "q8"); }
static NarrowChoice narrow_choice(const char *text) {
    return !text ? NARROW_AUTO : strcmp(text, "q8") ? NARROW_F32 : NARROW_INT8;
}

/* What cannot be honoured ends the run before any work is done. */
static int check_options(const Options *o) {
    if (o->ctx < 0 || o->ctx > ART_MAX_CONTEXT || o->eos < -1)
        return cli_usage("gptc", "value out of range", o->eos < -1 ? "--eos" : "--ctx");
    if (o->threads < 0 || o->threads > 1024) return cli_usage("gptc", "value out of range", "--threads");
    if (o->emit && strcmp(o->emit, "ir") != 0 && strcmp(o->emit, "cuda") != 0) {
        fprintf(stderr, "gptc: --emit=%s: this version emits ir and cuda\n", o->emit);
        return strcmp(o->emit, "ptx") ? EXIT_USAGE : EXIT_MACHINE;
    }
    if (!is_narrow(o->kv) || !is_narrow(o->rows))
        return cli_usage("gptc", "f32 or q8", is_narrow(o->kv) ? "--activations" : "--cache");
    if ((o->kv || o->rows) && o->plan_in)
        return cli_usage("gptc", "one of them decides", "--cache or --activations, --plan-in");
    if (o->source && !(o->target && strstr(o->target, "cuda")))
        return cli_usage("gptc", "there is CUDA text in files with --target cpu,cuda alone", "--cuda-source");
    if (asks_lossy(o) && (o->o0 || o->o1 || o->o2 || o->no_cache))
        return cli_usage("gptc", "lossy passes belong to -O3 with a cache, so these do not go together",
                         o->no_cache ? "--no-kv-cache" : "-O0, -O1, -O2");
    if ((o->plan_out || o->report) && (o->emit || o->stop_after || o->dry_run))
        return cli_usage("gptc", "nothing is compiled to a model here, so these are not written",
                         "--plan-out, --report");
    if (!!o->budget + !!o->bits + !!o->size + !!o->plan_in > 1)
        return cli_usage("gptc", "one of them decides", "--budget, --bits, --size, --plan-in");
    return -1;
}

static void summary_lossy(const Lossy *l, const CompileResult *r) {
    Text t = text_new(l->c->arena);
    lossy_print(l, r, &t);
    fputs(t.data, stderr);
}

static bool write_plan(const char *path, const Lossy *l) {
    Text t = text_new(l->c->arena);
    plan_print(&t, &l->plan);
    return file_write_text(path, t.data, t.count, &l->c->diag);
}

static bool write_page(const char *path, const Lossy *l, const CompileResult *r) {
    const char *page = lossy_page(l, r, l->c->arena);
    return file_write_text(path, page, strlen(page), &l->c->diag);
}

static int emit_text(Compile *c, const Text *t, const char *out) {
    if (!out || !strcmp(out, "-")) {
        fwrite(t->data, 1, t->count, stdout);
        return EXIT_DONE;
    }
    return file_write_text(out, t->data, t->count, &c->diag) ? EXIT_DONE : fail(c);
}

static int emit_ir(Compile *c, const char *out) {
    Text t = text_new(c->arena);
    graph_print(&t, c->graph);
    return emit_text(c, &t, out);
}

static int emit_cuda(Compile *c, int64_t ctx, const CudaOptions *o, const char *out) {
    Program *p;
    CudaProgram cuda;
    if (!lower(c->graph, &target_cpu, ctx, c->arena, &p, &c->diag) ||
        !cuda_emit(c->graph, p, o, c->arena, &cuda, &c->diag))
        return fail(c);
    return emit_text(c, &cuda.source, out);
}

/* lossy: of a compile that would compress; else NULL. */
static int dry_run(Compile *c, int64_t ctx, int64_t threads, const Lossy *lossy) {
    Program *p;
    Text t = text_new(c->arena);
    if (!compile_lower(c, ctx, &p)) return fail(c);
    uint64_t bytes = 0;
    for (size_t i = 0; i < p->tensors.count; i++) bytes += p->tensors.data[i].art.bytes;
    printf("size: %.1f MB of weights (predicted)\n", (double)bytes / 1e6);
    if (p->function) return EXIT_DONE;
    printf("state: %" PRIu64 " bytes a token, %.1f MB at context %" PRId64 "\n",
           p->meta.state_bytes_per_token, (double)p->meta.state_bytes_per_token * (double)ctx / 1e6, ctx);
    CpuRate cpu = {threads ? threads : cpu_cores(), 0};
    cpu.rate = memory_read_rate(cpu.threads, 3);
    targets_predict(c->graph, p, &cpu, 1, "", c->arena, &t);
    if (lossy) lossy_predict(lossy, p, &cpu, &t);
    fputs(t.data ? t.data : "", stdout);
    return EXIT_DONE;
}

/* Said before the work, not after it. */
static bool can_create(const char *path, Diag *d) {
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return true; /* a pipe, a device */
    FileWriter *w = file_create(path, d);
    file_abandon(w);
    return w != NULL;
}

/* No file is written over one that is read, or over another that is written. */
static bool outputs_check(Compile *c, const char *path, const Options *o, const char *out, bool is_model) {
    const char *const written[] = {out, o->plan_out, o->report};
    const char *const read[] = {o->calibrate, o->plan_in};
    for (size_t i = 0; i < COUNT_OF(written); i++) {
        const char *w = written[i];
        bool taken = false;
        if (!w) continue;
        if (!compile_output_check(c, path, o->tokenizer, w, i == 0 && is_model)) return false;
        for (size_t k = 0; k < COUNT_OF(read); k++) taken = taken || (read[k] && file_same(w, read[k]));
        for (size_t k = 0; k < i; k++)
            taken = taken || (written[k] && (!strcmp(w, written[k]) || file_same(w, written[k])));
        if (taken)
            return diag_error(&c->diag, loc_file(w),
                              "is read or written by this compile already; name another file");
        if (i > 0 && !can_create(w, &c->diag)) return false;
    }
    return true;
}

/* What was asked for was done, or this says why not. */
static bool lossy_honoured(const Options *o, const Lossy *l, bool writes, Diag *d) {
    if (!writes || l->done || !asks_lossy(o)) return true;
    return diag_error(d, loc_none(),
                      "nothing was compressed, so --budget, --cache, --activations, --plan-out, --report and "
                      "the like cannot be honoured: "
                      "pass quantize did not run or found no matrix; hint: leave out --passes and --disable");
}

static bool lossy_options(const Options *o, LossyOptions *to, Diag *d) {
    Arena *a = d->arena;
    const char *text = o->budget ? o->budget
                       : o->bits ? arena_printf(a, "bits=%s", o->bits)
                       : o->size ? arena_printf(a, "size=%s", o->size)
                                 : NULL;
    return !text || budget_parse(text, &to->budget, d);
}

/* How far the lossy passes are: a line that changes, or with -v a line for each thing done. */
typedef struct {
    bool lines;
    const char *what;
    double start;
} LossyShow;

static void show_lossy(void *user, const char *what, double done) {
    LossyShow *show = user;
    if (!show->lines) {
        fprintf(stderr, "\r\033[K[lossy] %s %.0f %%", what, 100 * done);
    } else if (!show->what || strcmp(show->what, what) != 0) {
        fprintf(stderr, "  %-18s %8.1f s\n", what, cli_seconds() - show->start);
        show->what = what;
    }
}

/* One compile: what the options ask for, and the stages set up for it. */
typedef struct {
    const Options *o;
    const char *path, *out; /* out: NULL where nothing is written */
    double start;
    int level;
    bool bar, writes;
    uint32_t total; /* passes */
    Compile c;
    CompilePasses passes;
    Targets targets;
    CompileWrite write;
    LossyShow show;
    Lossy lossy;
    LossyHook hook;
} Job;

static void show_cuda(void *user, const char *arch, uint32_t done, uint32_t of) {
    const Job *j = user;
    if (!j->bar && arch)
        fprintf(stderr, "  %-18s %8.1f s\n", arch, cli_seconds() - j->start);
    else if (j->bar && done < of)
        fprintf(stderr, "\r\033[K[cuda] %u of %u architectures compiled", done, of);
    else if (j->bar)
        fputs("\r\033[K", stderr);
}

static void job_passes(Job *j) {
    const Options *o = j->o;
    j->passes = (CompilePasses){.pass = {.kv_cache = !o->no_cache, .ctx = o->ctx, .opt_level = j->level},
                                .passes = o->passes,
                                .disable = o->disable,
                                .stop_after = o->stop_after,
                                .dump = o->dump_ir,
                                .dump_dir = o->dump_dir,
                                .time = o->time_passes,
                                .verbose = o->verbose,
                                .progress = j->bar ? show_progress : NULL,
                                .user = &j->total};
    if (j->level == 3 && !o->dry_run) j->passes.pass.lossy = &j->hook;
}

static bool job_lossy(Job *j) {
    const Options *o = j->o;
    j->show = (LossyShow){.lines = !j->bar, .start = j->start};
    LossyOptions lo = {
        .calibrate = o->calibrate,
        .plan_in = o->plan_in,
        .narrow = {[NARROW_CACHE] = narrow_choice(o->kv), [NARROW_ROWS] = narrow_choice(o->rows)},
        .model_path = j->path,
        .out = j->out ? j->out : "model.bin",
        .ctx = o->ctx,
        .seed = o->seed,
        .threads = (int)o->threads,
        .progress = j->bar || o->verbose ? show_lossy : NULL,
        .user = &j->show};
    bool understood = lossy_options(o, &lo, &j->c.diag);
    lossy_init(&j->lossy, &j->c, &lo, &j->write);
    j->hook = lossy_hook(&j->lossy);
    return understood;
}

/* False, with the diag set, when the options do not make sense together. Ended by job_free in any case. */
static bool job_init(Job *j, const Options *o, const char *path) {
    *j = (Job){.o = o, .path = path, .start = cli_seconds(), .total = passes_total()};
    compile_init(&j->c);
    j->c.weights = o->weights;
    j->level = o->o0 ? 0 : o->o3 || asks_lossy(o) ? 3 : o->o2 ? 2 : 1;
    j->bar = !o->quiet && !o->verbose && !o->time_passes && isatty(STDERR_FILENO);
    j->writes = !o->emit && !o->stop_after && !o->dry_run;
    j->out = o->out || !j->writes ? o->out : "model.bin";
    j->targets =
        (Targets){.nvrtc = {o->nvrtc, o->cache}, .options = {.halves = j->level >= 2}, .source = o->source};
    if (j->bar || o->verbose) j->targets.nvrtc.progress = show_cuda, j->targets.nvrtc.user = j;
    j->write = (CompileWrite){.tokenizer = o->tokenizer,
                              .eos = o->eos,
                              .chat_template = o->chat_template,
                              .embed_ir = o->embed_ir,
                              .seed = (uint64_t)o->seed,
                              .targets = &j->targets};
    job_passes(j);
    return job_lossy(j) && targets_parse(o->target, &j->targets, &j->c.diag);
}

static void job_free(Job *j) {
    lossy_free(&j->lossy);
    compile_free(&j->c);
}

/* From the file to the graph after its passes. */
static bool job_graph(Job *j) {
    bool ok = compile_open(&j->c, j->path, &j->o->import) &&
              outputs_check(&j->c, j->path, j->o, j->out, j->writes) && compile_passes(&j->c, &j->passes) &&
              lossy_honoured(j->o, &j->lossy, j->writes, &j->c.diag);
    if (j->bar) fprintf(stderr, "\r\033[K");
    return ok;
}

static int job_print(Job *j, int64_t ctx) {
    const Options *o = j->o;
    if (o->emit && !strcmp(o->emit, "cuda")) return emit_cuda(&j->c, ctx, &j->targets.options, o->out);
    if (o->emit || o->stop_after) return emit_ir(&j->c, o->out);
    return dry_run(&j->c, ctx, o->threads, j->level == 3 ? &j->lossy : NULL);
}

/* The model, and beside it the plan and the page: they get their names after it, when it is verified. */
static bool job_write(Job *j, int64_t ctx) {
    const Options *o = j->o;
    const LossyGate gate = lossy_gate(&j->lossy);
    CompileResult r;
    j->write.flags = arena_printf(j->c.arena, "-O%d --ctx %" PRId64 "%s%s%s", j->level, ctx,
                                  o->no_cache ? " --no-kv-cache" : "", o->disable ? " --disable=" : "",
                                  o->disable ? o->disable : "");
    if (j->lossy.done) j->write.lossy = &gate;
    if (!o->quiet) {
        fprintf(stderr, "%s\n", j->path);
        summary_graph(&j->c, o->no_cache, ctx);
    }
    if (!compile_write(&j->c, j->path, j->out, ctx, &j->write, &r)) return false;
    if (!o->quiet) summary_written(&r, j->out, cli_seconds() - j->start);
    if (!o->quiet && j->lossy.done) summary_lossy(&j->lossy, &r);
    return !j->lossy.done || ((!o->plan_out || write_plan(o->plan_out, &j->lossy)) &&
                              (!o->report || write_page(o->report, &j->lossy, &r)));
}

static int compile(const Options *o, const char *path) {
    Job j;
    int status = EXIT_DONE;
    if (!job_init(&j, o, path) || !job_graph(&j)) {
        status = fail(&j.c);
    } else {
        int64_t ctx = compile_context(&j.c, o->ctx);
        if (!j.writes)
            status = job_print(&j, ctx);
        else
            status = job_write(&j, ctx) ? diag_report("gptc", &j.c.diag) : fail(&j.c);
    }
    job_free(&j);
    return status;
}

int main(int argc, char **argv) {
    Options o = {.eos = -1, .seed = 1};
    const char *args[2];
    const CliOption options[] = {
        {"--out", "-o", CLI_STRING, &o.out, "FILE", "where to write (default model.bin)"},
        {"-O0", NULL, CLI_FLAG, &o.o0, NULL,
         "no fusion, nothing shared: raised and cached only, so that it runs"},
        {"-O1", NULL, CLI_FLAG, &o.o1, NULL, "exact rewrites: raise, cache, fuse, plan (default)"},
        {"-O2", NULL, CLI_FLAG, &o.o2, NULL,
         "as -O1; on GPUs, products of many rows round activations to 16 bits for matrix units"},
        {"-O3", NULL, CLI_FLAG, &o.o3, NULL,
         "lossy within a budget, by itself --budget kl=0.01 on text sampled from the model"},
        {"--target", NULL, CLI_STRING, &o.target, "T[,T]",
         "cpu (always there), cuda:sm_80, cuda:sm_90a, cuda:compute_90 …; cuda: the common ones"},
        {"--nvrtc", NULL, CLI_STRING, &o.nvrtc, "LIB",
         "the libnvrtc that compiles CUDA (default: looked for)"},
        {"--nvrtc-cache", NULL, CLI_STRING, &o.cache, "DIR",
         "keeps compiled CUDA (default ~/.cache/gptc; '' = none)"},
        {"--cuda-source", NULL, CLI_FLAG, &o.source, NULL, "keep the CUDA text in the file"},
        {"--tokenizer", NULL, CLI_STRING, &o.tokenizer, "FILE",
         "tokenizer.json (default: the one beside the model)"},
        {"--ctx", NULL, CLI_INT, &o.ctx, "N", "longest sequence (default: the model's bound, else 4096)"},
        {"--eos", NULL, CLI_INT, &o.eos, "ID", "stop token (default: from the files beside the model)"},
        {"--chat-template", NULL, CLI_STRING, &o.chat_template, "TEXT", "stored with the model"},
        {"--input-ids", NULL, CLI_STRING, &o.import.input_ids, "NAME",
         "the token input, where it cannot be inferred"},
        {"--positions", NULL, CLI_STRING, &o.import.positions, "NAME", "the position input"},
        {"--mask", NULL, CLI_STRING, &o.import.mask, "NAME", "the attention mask input"},
        {"--logits", NULL, CLI_STRING, &o.import.logits, "NAME", "the logits output"},
        {"--weights", NULL, CLI_STRING, &o.weights, "DIR",
         "where a .gir finds its file(...) constants (default: beside it)"},
        {"--emit", NULL, CLI_STRING, &o.emit, "KIND", "print instead of writing a model: ir, or cuda"},
        {"--passes", NULL, CLI_STRING, &o.passes, "A,B", "run these passes instead of the level's"},
        {"--disable", NULL, CLI_STRING, &o.disable, "A,B", "leave these passes out"},
        {"--stop-after", NULL, CLI_STRING, &o.stop_after, "PASS", "stop there and print the graph"},
        {"--dump-ir", NULL, CLI_OPTIONAL, &o.dump_ir, "after:PASS",
         "print the graph after every pass, or after: or before: one"},
        {"--dump-dir", NULL, CLI_STRING, &o.dump_dir, "DIR", "write dumps as numbered .gir files"},
        {"--time-passes", NULL, CLI_FLAG, &o.time_passes, NULL, "seconds of every pass"},
        {"--no-kv-cache", NULL, CLI_FLAG, &o.no_cache, NULL,
         "compile the graph as it is, without state: slow, for one whose cache cannot be proven"},
        {"--budget", NULL, CLI_STRING, &o.budget, "B",
         "what compression may cost: kl=0.01 (mean, nats a token), ppl=1%, top1=99%"},
        {"--bits", NULL, CLI_STRING, &o.bits, "B", "bits a weight, all counted: the best model of that size"},
        {"--size", NULL, CLI_STRING, &o.size, "S", "the same in bytes of weights: 50MB"},
        {"--cache", NULL, CLI_STRING, &o.kv, "F",
         "the KV cache in f32, or in 8 bits (q8) whatever it costs within the budget (default: where it "
         "pays)"},
        {"--activations", NULL, CLI_STRING, &o.rows, "F",
         "the rows that products read, the same way; for the CPU"},
        {"--calibrate", NULL, CLI_STRING, &o.calibrate, "FILE",
         "text or token ids like those the model will see (default: sampled from the model itself)"},
        {"--threads", NULL, CLI_INT, &o.threads, "N", "that measure compression (default: all cores)"},
        {"--plan-out", NULL, CLI_STRING, &o.plan_out, "FILE", "write what was decided"},
        {"--plan-in", NULL, CLI_STRING, &o.plan_in, "FILE", "decide the same again, without a search"},
        {"--report", NULL, CLI_STRING, &o.report, "FILE", "a page of HTML with all figures"},
        {"--embed-ir", NULL, CLI_FLAG, &o.embed_ir, NULL, "keep the planned graph's text in the file"},
        {"--dry-run", NULL, CLI_FLAG, &o.dry_run, NULL, "predict sizes, write nothing"},
        {"--seed", NULL, CLI_INT, &o.seed, "N", "of the tokens used to verify"},
        {"--verbose", "-v", CLI_FLAG, &o.verbose, NULL, "what every pass did"},
        {"--quiet", "-q", CLI_FLAG, &o.quiet, NULL, "errors only"},
        {NULL, NULL, CLI_FLAG, NULL, NULL, NULL},
    };
    Cli cli = {.tool = "gptc",
               .usage = "[compile] MODEL.onnx|F.gir [-O0..-O3] [-o OUT] [options]",
               .about = "Compiles an ONNX GPT into one file that gptc-run and libgptc run.",
               .options = options,
               .positional = args,
               .max = 2};
    int status = cli_parse(&cli, argc, argv);
    if (status >= 0) return status;
    bool verb = cli.count > 0 && !strcmp(args[0], "compile");
    if (cli.count != (verb ? 2u : 1u)) return cli_usage("gptc", "one model is needed", NULL);
    status = check_options(&o);
    return status >= 0 ? status : cli_finish("gptc", compile(&o, args[verb]));
}
