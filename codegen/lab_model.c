/* lab_model.c: from a stateful graph to a running session, by way of a file without a name. */
#include "codegen/lab_model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "passes/pass.h"
#include "runtime/probe.h"

#define BATCH_ROWS 512 /* at least so many rows at once, when the windows are short */

static bool plan_graph(Graph *g, Diag *d) {
    const PassOptions opt = {.kv_cache = true, .opt_level = 1};
    const PassRun run = {.passes = "fuse,order,memplan"};
    CacheProof proof;
    return passes_run(g, &run, &opt, &proof, d);
}

bool lab_model_lower(const Graph *g, int64_t ctx, int threads, LabModel *out, Diag *d) {
    *out = (LabModel){.arena = arena_new(), .threads = threads};
    if (g->stage != STAGE_STATEFUL)
        return diag_error(
            d, loc_none(),
            "a model without a cache (stage %s) cannot be measured, so nothing lossy is done to it",
            stage_name(g->stage));
    Graph *copy = graph_copy(g, out->arena);
    return plan_graph(copy, d) && lower(copy, &target_cpu, ctx, out->arena, &out->program, d);
}

static bool open_packed(LabModel *m, const char *path, Diag *d) {
    gptc_detail why = {""};
    PackStats stats;
    const PackExtra extra = {.bos_token = -1};
    FileWriter *w = pack_write(m->program, &extra, path, &stats, d);
    if (!w) return false;
    if (!file_flush(w)) return file_commit(w, d); /* says what went wrong */
    gptc_status st = gptc_open(file_temporary(w), NULL, &m->model, &why);
    file_abandon(w);
    return !st || diag_bug(d, loc_none(), "the model to measure does not open: %s (%s)", gptc_strerror(st),
                           why.text);
}

bool lab_model_open(LabModel *m, Diag *d) {
    const char *base = getenv("TMPDIR");
    char *folder = arena_printf(m->arena, "%s/gptc-lab-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(folder))
        return diag_error(d, loc_file(folder),
                          "cannot make a folder for temporary files: %s; hint: set TMPDIR", strerror(errno));
    bool ok = open_packed(m, arena_printf(m->arena, "%s/model.bin", folder), d);
    rmdir(folder);
    return ok;
}

void lab_model_free(LabModel *m) {
    gptc_session_free(m->session);
    gptc_close(m->model);
    arena_free(m->arena);
    *m = (LabModel){0};
}

static bool windows_check(const LabModel *m, const Windows *t, Diag *d) {
    if (t->windows < 1 || t->length < 2 || t->from < 0 || t->from > t->length - 2)
        return diag_error(d, loc_none(),
                          "%lld windows of %lld tokens, scored from %lld: nothing to measure on",
                          (long long)t->windows, (long long)t->length, (long long)t->from);
    if (t->length > m->program->meta.context)
        return diag_error(d, loc_none(),
                          "windows of %lld tokens, but the model takes %u; hint: shorter windows",
                          (long long)t->length, m->program->meta.context);
    return true;
}

bool lab_model_windows(LabModel *m, const Windows *t, Diag *d) {
    if (!windows_check(m, t, d)) return false;
    if (m->session && m->length == t->length) return true;
    gptc_session_free(m->session);
    m->session = NULL;
    m->length = t->length;
    m->batch = (uint32_t)((BATCH_ROWS + t->length - 1) / t->length);
    gptc_detail why = {""};
    const gptc_session_options o = {.struct_size = sizeof o,
                                    .threads = m->threads,
                                    .context = (int32_t)t->length,
                                    .sequences = (int32_t)m->batch,
                                    .chunk = (int32_t)(m->batch * t->length)};
    gptc_status st = gptc_session_new(m->model, &o, &m->session, &why);
    return !st || diag_error(d, loc_none(), "cannot run windows of %lld tokens: %s (%s)",
                             (long long)t->length, gptc_strerror(st), why.text);
}

bool lab_model_begin(LabModel *m, const Windows *t, int64_t first, uint32_t n, Diag *d) {
    gptc_status st = probe_begin(m->session, t->id + first * t->length, n, (uint32_t)t->length);
    return !st || diag_error(d, loc_none(), "windows %lld to %lld of the text do not run: %s",
                             (long long)first, (long long)first + n - 1, gptc_strerror(st));
}
