/* doctor.c: the import doctor: what is in the file, what each input is for and why, what was recognised and
 * what nearly was, what stands in the way of a cache, and whether the model would compile. */
#include "tools/doctor.h"

#include <inttypes.h>
#include <string.h>

#include "tools/cli.h"

typedef struct {
    Report *r;
    Compile *c;
    OnnxSummary file;
    NearMisses misses;
    Graph *raised;       /* a copy from before fusion; else the graph where the passes ended */
    const char *stopped; /* the pass that failed */
    const char *last;    /* the pass that ran last */
    VEC(PassCount) counts;
} Doctor;

/* ---- file ---- */

static void say_file(Doctor *d, const char *path) {
    Report *r = d->r;
    Arena *a = r->arena;
    Text opsets = text_new(a), files = text_new(a);
    for (size_t i = 0; i < d->file.opsets.count; i++) {
        const OnnxOpset *o = &d->file.opsets.data[i];
        text_printf(&opsets, "%s%s %" PRId64, i ? ", " : "", *o->domain ? o->domain : "ai.onnx", o->version);
    }
    for (size_t i = 0; i < d->file.files.count; i++)
        text_printf(&files, "%s%s", i ? ", " : "", d->file.files.data[i]);
    report_section(r, "file", "file");
    report_text(r, "path", "%s", path);
    report_number(r, "bytes", (double)d->file.file_bytes, "%s", report_bytes(a, (double)d->file.file_bytes));
    report_text(r, "producer", "%s", *d->file.producer ? d->file.producer : "not named");
    report_text(r, "opsets", "%s", opsets.data);
    report_number(r, "nodes", d->file.nodes, "%u", d->file.nodes);
    if (d->file.functions) report_number(r, "functions", d->file.functions, "%u", d->file.functions);
    if (files.count) report_text(r, "external data", "%s", files.data);
    report_section(r, "weights", "initializers");
    for (size_t i = 0; i < d->file.weights.count; i++) {
        const OnnxWeights *w = &d->file.weights.data[i];
        report_row(r);
        report_text(r, "type", "%s", w->type);
        report_number(r, "tensors", w->tensors, "%u tensor%s", w->tensors, w->tensors == 1 ? "" : "s");
        report_number(r, "bytes", (double)w->bytes, "%s", report_bytes(a, (double)w->bytes));
        report_number(r, "external", (double)w->external, "%s",
                      w->external ? arena_printf(a, "%s external", report_bytes(a, (double)w->external))
                                  : "");
    }
}

static void say_unsupported(Doctor *d) {
    report_section(d->r, "unsupported", "operators that are not supported");
    for (size_t i = 0; i < d->file.ops.count && d->file.ops.data[i].hint; i++) {
        const OnnxOp *o = &d->file.ops.data[i];
        report_row(d->r);
        report_text(d->r, "operator", "%s", o->op);
        report_text(d->r, "domain", "%s %" PRId64, *o->domain ? o->domain : "ai.onnx", o->version);
        report_number(d->r, "nodes", o->count, "%u node%s", o->count, o->count == 1 ? "" : "s");
        report_text(d->r, "hint", "%s", o->hint);
    }
}

/* ---- ports ---- */

static const char *bound_to(const Graph *g, Role role) {
    bool past = false;
    for (size_t i = 0; i < g->inputs.count; i++) past = past || g->inputs.data[i].role == ROLE_PAST;
    switch (role) {
    case ROLE_MASK: return "bound to 1: all tokens are there";
    case ROLE_POSITIONS: return past ? "bound to past + index" : "bound to the index";
    case ROLE_SEGMENTS: return "bound to 0: one text";
    case ROLE_USE_CACHE: return "bound to true";
    case ROLE_LENGTH: return "bound to how many tokens there are";
    case ROLE_TOKENS: return "given when running";
    case ROLE_PAST: return "kept by the runtime";
    default: return "no value: a compiled GPT takes tokens alone";
    }
}

/* A layer's keys and values say the same twice; the text shows the first two and how many there are. */
static void say_ports(Doctor *d, const Port *p, size_t n, bool input, const char *key, const char *title) {
    Report *r = d->r;
    const Graph *g = d->c->imported;
    bool gpt = false;
    Role most = input ? ROLE_PAST : ROLE_PRESENT;
    size_t states = 0, shown = 0;
    for (size_t i = 0; i < n; i++) states += p[i].role == most;
    for (size_t i = 0; i < g->inputs.count; i++) gpt = gpt || g->inputs.data[i].role == ROLE_TOKENS;
    report_section(r, key, title);
    for (size_t i = 0; i < n; i++) {
        Text type = text_new(r->arena);
        Role role = p[i].role;
        if (role == most && shown++ >= 2) continue;
        type_print(&type, g, graph_type(g, p[i].v));
        report_row(r);
        report_text(r, "name", "%s", p[i].name);
        report_text(r, "type", "%s", type.data);
        report_text(r, "role", "%s", role == ROLE_NONE ? "-" : role_name(role));
        if (input && i < d->c->onnx.reasons.count)
            report_text(r, "why", "%s", gpt ? d->c->onnx.reasons.data[i] : "no input picks rows of a table");
        if (input && gpt) report_text(r, "value", "%s", bound_to(g, role));
        if (!input && role == ROLE_PRESENT) report_text(r, "why", "extends its past; kept by the runtime");
        if (!input && role == ROLE_LOGITS) report_text(r, "why", "floats with the most features");
        if (!input && role == ROLE_NONE) report_text(r, "why", "%s", gpt ? "ignored" : "");
    }
    if (states <= 2) return;
    report_row(r);
    report_text(r, "name", "… %zu more", states - 2);
    report_text(r, "type", "%s", "");
    report_text(r, "role", "%s", role_name(most));
}

/* ---- passes ---- */

static bool before_pass(void *user, uint32_t index, const Pass *p, Graph *g) {
    Doctor *d = user;
    (void)index, (void)g;
    d->last = p->name;
    return true;
}

static bool after_pass(void *user, uint32_t index, const Pass *p, PassResult result, const PassCount *counts,
                       size_t n, double seconds, Graph *g) {
    Doctor *d = user;
    (void)index, (void)result, (void)seconds;
    for (size_t i = 0; i < n; i++)
        if (!strncmp(p->name, "raise-", 6) && counts[i].count) VEC_PUSH(d->r->arena, &d->counts, counts[i]);
    if (g->stage == STAGE_STATEFUL && p->run == pass_dce && !d->raised)
        d->raised = graph_copy(g, d->r->arena);
    return true;
}

static bool run_passes(Doctor *d) {
    PassOptions opt = {.kv_cache = true, .opt_level = 1};
    PassRun run = {
        .verify = true, .misses = &d->misses, .before = before_pass, .after = after_pass, .user = d};
    d->c->function = graph_is_function(d->c->graph, &opt);
    bool ok =
        d->c->graph->stage > STAGE_RAISED || passes_run(d->c->graph, &run, &opt, &d->c->proof, &d->c->diag);
    if (!ok) d->stopped = d->last;
    if (!d->raised) d->raised = d->c->graph;
    return ok;
}

static void say_recognised(Doctor *d) {
    static const Op ops[] = {OP_ATTENTION, OP_ROPE, OP_NORM, OP_LINEAR, OP_GELU, OP_SILU};
    static const char *const passes[] = {"masks", "position rows", "tables", "grouped"};
    const bool *live = graph_live(d->raised, d->r->arena);
    report_section(d->r, "recognised", "recognised");
    for (size_t i = 0; i < COUNT_OF(ops); i++) {
        uint32_t n = 0;
        FOR_NODES (d->raised, id) n += live[id.id] && graph_node(d->raised, id)->op == ops[i];
        if (n) report_number(d->r, op_info(ops[i])->name, n, "%u", n);
    }
    for (size_t i = 0; i < d->counts.count; i++)
        for (size_t k = 0; k < COUNT_OF(passes); k++)
            if (!strcmp(d->counts.data[i].name, passes[k]))
                report_number(d->r, passes[k], (double)d->counts.data[i].count, "%" PRId64,
                              d->counts.data[i].count);
    report_section(d->r, "near_misses", "nearly recognised, left as they are");
    for (size_t i = 0; i < d->misses.items.count; i++) {
        const NearMiss *m = &d->misses.items.data[i];
        if (m->node.id >= d->raised->nodes.count || !live[m->node.id]) continue;
        report_row(d->r);
        report_text(d->r, "node", "%s", m->what);
        report_text(d->r, "pattern", "not %s", m->pattern);
        report_text(d->r, "difference", "%s", m->why);
    }
}

/* ---- verdict ---- */

static const char *place_of(const DiagItem *item, Arena *a) {
    if (item->loc.kind == LOC_NODE)
        return arena_printf(a, "node #%u%s%s", item->loc.line, item->loc.name && *item->loc.name ? " " : "",
                            item->loc.name ? item->loc.name : "");
    if (item->loc.kind == LOC_TEXT)
        return arena_printf(a, "%s:%u", item->loc.name ? item->loc.name : "line", item->loc.line);
    return "";
}

static void say_items(Doctor *d, DiagLevel low, DiagLevel high) {
    for (size_t i = 0; i < d->c->diag.items.count; i++) {
        const DiagItem *item = &d->c->diag.items.data[i];
        if (item->level < low || item->level > high) continue;
        report_row(d->r);
        report_text(d->r, "place", "%s", place_of(item, d->r->arena));
        report_text(d->r, "text", "%s", item->text);
    }
}

static void say_verdict(Doctor *d, bool imported, const Program *p) {
    bool ok = d->c->diag.errors == 0;
    const char *where = !imported ? "import" : d->stopped ? d->stopped : "lowering to kernels";
    if (imported && d->c->function) {
        report_section(d->r, "function", "plain function");
        report_text(d->r, "why",
                    "no input picks rows of a table and gives logits for them, so the graph runs as it is");
        if (p) report_number(d->r, "nodes", p->function->head.n_nodes, "%u", p->function->head.n_nodes);
    } else if (imported) {
        report_section(d->r, "cache", "KV cache");
        report_flag(d->r, "proven", d->c->proof.proven);
        if (d->c->proof.reason) report_text(d->r, "reason", "%s", d->c->proof.reason);
        if (!d->c->proof.proven && d->stopped && !d->c->proof.reason)
            report_text(d->r, "reason", "%s ended before the proof", d->stopped);
        if (p) report_number(d->r, "states", (double)p->states.count, "%zu", p->states.count);
    }
    report_section(d->r, "notes", "notes");
    say_items(d, DIAG_NOTE, DIAG_WARNING);
    report_section(d->r, "verdict", "verdict");
    report_flag(d->r, "compiles", ok);
    if (!ok) report_text(d->r, "stops at", "%s", where);
    if (d->file.ops.count && d->file.ops.data[0].hint)
        report_text(d->r, "reason", "operators that are not supported, see above");
    else
        say_items(d, DIAG_ERROR, DIAG_BUG);
}

bool doctor_examine(Report *r, Compile *c, const char *path, const ImportOptions *opt, Graph **raised) {
    Doctor d = {.r = r, .c = c, .misses = {.arena = r->arena}};
    Program *p = NULL;
    size_t n = strlen(path);
    bool onnx = n < 4 || strcmp(path + n - 4, ".gir") != 0;
    *raised = NULL;
    if (onnx && !onnx_summary(path, r->arena, &d.file, &c->diag)) return false;
    if (onnx) say_file(&d, path);
    if (onnx) say_unsupported(&d);
    bool imported = compile_open(c, path, opt);
    if (!onnx && !imported) return false;
    if (imported) {
        say_ports(&d, c->imported->inputs.data, c->imported->inputs.count, true, "inputs", "inputs");
        say_ports(&d, c->imported->outputs.data, c->imported->outputs.count, false, "outputs", "outputs");
        if (run_passes(&d)) compile_lower(c, compile_context(c, 0), &p);
        if (!c->function) doctor_architecture(r, d.raised);
        say_recognised(&d);
        *raised = d.raised;
    }
    say_verdict(&d, imported, p);
    return c->diag.errors == 0;
}
