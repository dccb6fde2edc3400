/* lab_run.c: runs a text from the first layer that changed, and scores it against the base. */
#include "codegen/lab_cpu.h"

#include <string.h>

#include "runtime/probe.h"

/* ---- running ---- */

/* What the sites are that steps before `step` read; never 0. */
static uint64_t sites_stamp(const LabCpu *l, uint32_t step) {
    uint64_t h = 1;
    for (size_t i = 0; i < l->nsites; i++) {
        const uint64_t what[2] = {i, l->sites[i].version};
        if (l->sites[i].version && l->sites[i].first_step < step) h = hash_bytes(what, sizeof what, h) | 1;
    }
    return h;
}

/* Index of the boundary to start from, or -1. */
static int64_t run_start(const LabCpu *l, const LabText *x, uint32_t end, const LabVisit *v) {
    uint32_t first = 0;
    while (first < end && !v->at[first]) first++;
    int64_t start = -1;
    for (size_t b = 0; b < l->texts.nboundaries; b++)
        if (l->texts.boundaries[b].step <= first &&
            x->at[b].stamp == sites_stamp(l, l->texts.boundaries[b].step))
            start = (int64_t)b;
    return start;
}

/* One batch of windows from boundary `start` to step `end`; rows of the boundaries on the way are kept. */
static bool run_batch(LabCpu *l, LabText *x, int64_t first, uint32_t n, int64_t start, uint32_t end,
                      const LabVisit *v, Diag *d) {
    LabTexts *all = &l->texts;
    size_t b = (size_t)(start + 1);
    uint32_t step = start < 0 ? 0 : all->boundaries[start].step;
    if (start >= 0) lab_text_restore(all, x, (size_t)start, first, n, &l->model);
    for (;;) {
        bool boundary = b < all->nboundaries && all->boundaries[b].step == step;
        if (boundary) lab_text_keep(all, x, b, first, n, &l->model);
        b += boundary;
        if (v->at[step] && !v->fn(v->user, l, step, first, n, d)) return false;
        if (step == end) return true;
        uint32_t next = step + 1, border = b < all->nboundaries ? all->boundaries[b].step : end;
        while (next < end && next != border && !v->at[next]) next++;
        probe_run(l->model.session, step, next);
        step = next;
    }
}

bool lab_run(LabCpu *l, LabText *x, const Windows *t, uint32_t end, const LabVisit *v, Diag *d) {
    if (!lab_model_windows(&l->model, t, d)) return false;
    int64_t start = run_start(l, x, end, v);
    const Boundary *at = l->texts.boundaries;
    size_t from = (size_t)(start + 1), to = from;
    for (; to < l->texts.nboundaries && at[to].step <= end; to++) x->at[to].stamp = 0;
    lab_text_rows_reserve(&l->texts, x, start, from, to);
    for (int64_t first = 0; first < t->windows; first += l->model.batch) {
        uint32_t n = lab_model_take(&l->model, t, first);
        if (!lab_model_begin(&l->model, t, first, n, d) || !run_batch(l, x, first, n, start, end, v, d))
            return false;
    }
    for (size_t b = from; b < to; b++)
        if (x->at[b].rows.data) x->at[b].stamp = sites_stamp(l, at[b].step);
    return true;
}

/* ---- scoring ---- */

static void score_rows(void *ctx, uint32_t worker, uint32_t workers) {
    const LabScoring *c = ctx;
    const Windows *t = c->windows;
    int64_t scored = lab_text_scored(c->text), vocab = c->vocab;
    for (int64_t i = worker; i < c->count * scored; i += workers) {
        int64_t row = i / scored * t->length + t->from + i % scored;
        float *x = c->logits + row * vocab, *base = c->base + i * vocab;
        log_softmax(x, vocab, c->score ? x : base);
        if (c->score) c->score[i] = row_score(base, x, vocab, t->id[c->first * t->length + row + 1]);
    }
}

void lab_score_batch(LabScoring *c, const LabTexts *all, LabModel *m, int64_t first, uint32_t n) {
    int64_t scored = lab_text_scored(c->text);
    c->logits = probe_buffer(m->session, m->program->plan.logits_offset);
    c->base = lab_text_base(all, c->text, first);
    c->vocab = all->vocab;
    c->first = first;
    c->count = n;
    probe_share(m->session, score_rows, c);
    for (int64_t i = 0; c->score && i < n * scored; i++) {
        if (i % scored == 0) quality_window(c->sums);
        quality_add(c->sums, &c->score[i]);
    }
}

static bool score_visit(void *user, LabCpu *l, uint32_t step, int64_t first, uint32_t n, Diag *d) {
    (void)step, (void)d;
    lab_score_batch(user, &l->texts, &l->model, first, n);
    return true;
}

bool lab_score(LabCpu *l, LabText *x, LabScoring *c, Diag *d) {
    uint32_t end = l->model.program->plan.n_steps;
    Arena *a = arena_new();
    bool *at = arena_array_of(a, end + 1u, bool);
    at[end] = true;
    c->text = x;
    const LabVisit v = {score_visit, c, at};
    bool ok = lab_run(l, x, c->windows, end, &v, d);
    arena_free(a);
    return ok;
}

/* ---- the base ---- */

/* What the places of changed sites hold, one after the other; brought back where `back`. */
static void places_copy(const LabCpu *l, const uint32_t *version, uint8_t *kept, bool back) {
    for (size_t i = 0; i < l->nsites; i++)
        for (size_t k = 0; version[i] && k < l->sites[i].places.count; k++) {
            const SitePlace *p = &l->sites[i].places.data[k];
            memcpy(back ? l->weights + p->offset : kept, back ? kept : l->weights + p->offset, p->bytes);
            kept += p->bytes;
        }
}

/* The base is computed with every site as at first; what was set comes back. */
static bool run_base(LabCpu *l, LabText *x, const Windows *t, Diag *d) {
    Arena *a = arena_new();
    uint32_t *version = arena_array_of(a, l->nsites, uint32_t);
    size_t bytes = 0;
    for (size_t i = 0; i < l->nsites; i++) {
        version[i] = l->sites[i].version;
        for (size_t k = 0; version[i] && k < l->sites[i].places.count; k++)
            bytes += l->sites[i].places.data[k].bytes;
    }
    uint8_t *kept = arena_alloc(a, bytes);
    places_copy(l, version, kept, false);
    for (size_t i = 0; i < l->nsites; i++) {
        if (version[i]) lab_site_fill(l, &l->sites[i], NULL);
        l->sites[i].version = 0;
    }
    LabScoring c = {.windows = t};
    x->ready = lab_score(l, x, &c, d);
    places_copy(l, version, kept, true);
    for (size_t i = 0; i < l->nsites; i++) l->sites[i].version = version[i];
    arena_free(a);
    return x->ready;
}

static bool borrow_base(LabCpu *l, LabText *x, const Windows *t, Diag *d) {
    LabText *from;
    if (!lab_text(l->base, t, &from, d)) return false;
    x->base = from->base;
    return x->ready = x->borrowed = true;
}

bool lab_text_rows(LabCpu *l, const Windows *t, LabText **out, Diag *d) {
    if (!lab_model_windows(&l->model, t, d)) return false;
    *out = lab_text_find(&l->texts, t);
    return true;
}

bool lab_text(LabCpu *l, const Windows *t, LabText **out, Diag *d) {
    if (!lab_text_rows(l, t, out, d)) return false;
    if ((*out)->ready) return true;
    if (l->base) return borrow_base(l, *out, t, d);
    return lab_text_reserve(&l->texts, *out, d) && run_base(l, *out, t, d);
}
