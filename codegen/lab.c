/* lab.c: the lab on the CPU: a model compiled once, sites that are written in place, graphs that are compiled anew. */
#include "codegen/lab_cpu.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/probe.h"

/* ---- sites ---- */

/* What products and gathers read: one matrix, or one for each expert. */
static bool views_find(LabCpu *l, Graph *g, const Site *s, WeightView **out, uint32_t *n, Diag *d) {
    const Node *user = graph_node(g, s->user);
    if (s->experts) return weight_experts(g, user->in[2], !user->attr.trans, l->arena, out, n, d);
    *out = arena_new_of(l->arena, WeightView);
    *n = 1;
    if (!weight_view(g, s->weight, l->arena, *out, d)) return false;
    if (s->transposed && (*out)->rank == 2) weight_transpose(*out);
    return true;
}

static bool views_alike(const WeightView *a, const WeightView *b, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (!same_elements(&a[i], &b[i])) return false;
    return true;
}

/* What no view can express becomes a constant of the graph, so that the lowered program has the same data. */
static bool views_fix(LabCpu *l, Graph *g, LabSite *s, Diag *d) {
    Site *site = &s->site;
    bool ok = true;
    if (site->experts) {
        Arena *scratch = arena_new();
        float *w = arena_array_of(scratch, (size_t)(site->rows * site->cols), float);
        ok = site_read(g, site, w, d) && site_write_dense(g, site, w, DT_F32, d);
        arena_free(scratch);
    } else {
        ValId fixed = graph_const(g, *graph_type(g, site->weight), s->view->data, site->name);
        graph_replace(g, site->weight, fixed);
        site->weight = fixed;
    }
    return ok && views_find(l, g, site, &s->view, &s->matrices, d);
}

/* The site's matrix as it is: [rows][cols]. */
static bool site_view(LabCpu *l, Graph *g, LabSite *s, Diag *d) {
    WeightView *again;
    uint32_t n = 0;
    if (!views_find(l, g, &s->site, &s->view, &s->matrices, d) || !views_find(l, g, &s->site, &again, &n, d))
        return false;
    if (!(n == s->matrices && views_alike(s->view, again, n)) && !views_fix(l, g, s, d)) return false;
    const WeightView *v = s->view;
    if (v->rank == 2 && s->matrices * v->dim[0] == s->site.rows && v->dim[1] == s->site.cols) return true;
    return diag_bug(d, loc_none(), "site \"%s\" is no matrix of %lld x %lld", s->site.name,
                    (long long)s->site.rows, (long long)s->site.cols);
}

/* Where the program has the site's matrix; those tensors are stored in fp32. */
static void site_places(LabCpu *l, LabSite *s) {
    Program *p = l->model.program;
    for (uint32_t i = 0; i < p->tensors.count; i++) {
        ProgramTensor *t = &p->tensors.data[i];
        uint32_t n = t->experts ? (uint32_t)t->art.dim[0] : 1;
        if (t->groups || n != s->matrices || (t->experts != NULL) != (s->site.experts > 0) ||
            !views_alike(t->experts ? t->experts : &t->view, s->view, n))
            continue;
        if (t->art.dtype != ART_F32) t->art.bytes *= 2;
        t->art.dtype = ART_F32;
        VEC_PUSH(l->arena, &s->places, ((SitePlace){.tensor = i, .layout = t->art.layout}));
    }
}

static void place_pages(LabCpu *l, SitePlace *p) {
    uint8_t *from = l->weights + p->offset;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), before = (page - (uintptr_t)from % page) % page;
    p->inner_bytes = p->bytes > before ? (p->bytes - before) / page * page : 0;
    if (!p->inner_bytes) return;
    size_t after = p->bytes - before - p->inner_bytes;
    p->inner = from + before;
    p->edge = arena_alloc(l->arena, before + after);
    memcpy(p->edge, from, before);
    memcpy(p->edge + before, p->inner + p->inner_bytes, after);
}

/* Whole pages are given back to the system: they are the file's again, and cost nothing. */
static bool place_restore(const LabCpu *l, const SitePlace *p) {
    uint8_t *from = l->weights + p->offset;
    if (!p->inner_bytes || madvise(p->inner, p->inner_bytes, MADV_DONTNEED)) return false;
    size_t before = (size_t)(p->inner - from);
    memcpy(from, p->edge, before);
    memcpy(p->inner + p->inner_bytes, p->edge + before, p->bytes - before - p->inner_bytes);
    return true;
}

/* After packing. */
static void site_locate(LabCpu *l, LabSite *s) {
    const Program *p = l->model.program;
    for (size_t i = 0; i < s->places.count; i++) {
        SitePlace *at = &s->places.data[i];
        const ArtTensor *t = &p->tensors.data[at->tensor].art;
        at->bytes = t->bytes;
        at->offset = t->offset;
        place_pages(l, at);
    }
    s->first_step = (uint32_t)p->steps.count;
    for (uint32_t i = (uint32_t)p->steps.count; i-- > 0;)
        for (uint32_t k = 0; k < ART_MAX_ARGS; k++)
            for (size_t j = 0; j < s->places.count; j++)
                if (p->steps.data[i].arg[k].kind == ART_ARG_TENSOR &&
                    p->steps.data[i].arg[k].value == s->places.data[j].tensor)
                    s->first_step = i;
}

void lab_site_fill(const LabCpu *l, const LabSite *s, const float *w) {
    int64_t outputs = site_outputs(&s->site), cols = s->site.cols;
    for (size_t i = 0; i < s->places.count; i++) {
        float *to = (float *)(void *)(l->weights + s->places.data[i].offset);
        if (!w && place_restore(l, &s->places.data[i])) continue;
        for (uint32_t m = 0; m < s->matrices; m++, to += outputs * cols) {
            WeightView given = {.data = w, .offset = m * outputs * cols, .dtype = DT_F32, .rank = 2};
            given.dim[0] = outputs, given.dim[1] = given.stride[0] = cols, given.stride[1] = 1;
            pack_matrix(w ? &given : &s->view[m], s->places.data[i].layout, to);
        }
    }
}

static bool lab_set(Lab *lab, uint32_t site, const float *w, Diag *d) {
    LabCpu *l = lab->self;
    if (site >= l->nsites) return diag_bug(d, loc_none(), "site %u of %zu", site, l->nsites);
    LabSite *s = &l->sites[site];
    if (!w && !s->version) return true;
    if (s->site.fixed)
        return diag_error(d, loc_none(), "\"%s\" is compressed already and stays as it is", s->site.name);
    lab_site_fill(l, s, w);
    s->version = w ? ++l->versions : 0;
    return true;
}

/* ---- measuring ---- */

static bool lab_measure(Lab *lab, const Windows *t, Quality *out, Diag *d) {
    LabCpu *l = lab->self;
    LabText *x;
    if (!lab_text(l, t, &x, d)) return false;
    Arena *a = arena_new();
    QualitySums sums = {.arena = a};
    LabScoring c = {.windows = t,
                    .sums = &sums,
                    .score = arena_array_of(a, (size_t)(l->model.batch * lab_text_scored(x)), RowScore)};
    bool ok = lab_score(l, x, &c, d);
    if (ok) *out = quality_of(&sums);
    arena_free(a);
    return ok;
}

static bool run_graph(LabCpu *l, LabModel *m, const LabText *x, const Windows *t, QualitySums *sums,
                      Diag *d) {
    if (m->program->meta.vocab != l->texts.vocab)
        return diag_bug(d, loc_none(), "a changed graph has another vocabulary");
    if (!lab_model_open(m, d) || !lab_model_windows(m, t, d)) return false;
    LabScoring c = {.text = x,
                    .windows = t,
                    .sums = sums,
                    .score = arena_array_of(sums->arena, (size_t)(m->batch * lab_text_scored(x)), RowScore)};
    for (int64_t first = 0; first < t->windows; first += m->batch) {
        uint32_t n = lab_model_take(m, t, first);
        if (!lab_model_begin(m, t, first, n, d)) return false;
        probe_run(m->session, 0, m->program->plan.n_steps);
        lab_score_batch(&c, &l->texts, m, first, n);
    }
    return true;
}

static bool lab_measure_graph(Lab *lab, const Graph *g, const Windows *t, Quality *out, Diag *d) {
    LabCpu *l = lab->self;
    LabText *x;
    LabModel m = {0};
    if (!lab_text(l, t, &x, d)) return false;
    QualitySums sums = {.arena = arena_new()};
    bool ok = lab_model_lower(g, l->model.program->meta.context, l->model.threads, &m, d) &&
              run_graph(l, &m, x, t, &sums, d);
    if (ok) *out = quality_of(&sums);
    lab_model_free(&m);
    arena_free(sums.arena);
    return ok;
}

bool lab_expect(Lab *lab, const Windows *t, Diag *d) {
    LabText *x;
    return lab_text(lab->self, t, &x, d);
}

/* ---- making ---- */

static uint64_t weight_bytes(const Program *p) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < p->tensors.count; i++) bytes += p->tensors.data[i].art.bytes;
    return bytes;
}

static bool lab_build(LabCpu *l, const Graph *exact, int64_t ctx, Diag *d) {
    Graph *g = graph_copy(exact, l->arena);
    for (size_t i = 0; i < l->nsites; i++)
        if (!l->sites[i].site.fixed && !site_view(l, g, &l->sites[i], d)) return false;
    if (!lab_model_lower(g, ctx, l->model.threads, &l->model, d)) return false;
    for (size_t i = 0; i < l->nsites; i++) site_places(l, &l->sites[i]);
    if (!lab_model_open(&l->model, d)) return false;
    l->weights = probe_weights(l->model.model);
    if (!l->weights) return diag_error(d, loc_none(), "the weights cannot be made writable: no memory");
    for (size_t i = 0; i < l->nsites; i++) {
        site_locate(l, &l->sites[i]);
        if (!l->sites[i].places.count && !l->sites[i].site.fixed)
            return diag_bug(d, loc_none(), "the compiled model has no matrix \"%s\"", l->sites[i].site.name);
    }
    l->texts = (LabTexts){.arena = l->arena, .vocab = l->model.program->meta.vocab};
    l->texts.most = lab_texts_most(weight_bytes(l->model.program));
    l->texts.nboundaries = boundaries_find(l->model.program, l->arena, &l->texts.boundaries);
    return true;
}

bool lab_new(const Graph *exact, const Site *sites, size_t n, int64_t ctx, int threads, Lab **out, Diag *d) {
    Arena *a = arena_new();
    LabCpu *l = arena_new_of(a, LabCpu);
    *l = (LabCpu){.arena = a, .nsites = n, .sites = arena_array_of(a, n, LabSite)};
    l->model.threads = threads;
    l->lab = (Lab){l, lab_set, lab_measure, lab_moments, lab_measure_graph, lab_moments_apart};
    for (size_t i = 0; i < n; i++) l->sites[i].site = sites[i];
    *out = &l->lab;
    if (lab_build(l, exact, ctx, d)) return true;
    lab_free(*out);
    *out = NULL;
    return false;
}

void lab_compare(Lab *lab, Lab *base) { ((LabCpu *)lab->self)->base = base->self; }

void lab_free(Lab *lab) {
    if (!lab) return;
    LabCpu *l = lab->self;
    lab_texts_free(&l->texts);
    lab_model_free(&l->model);
    arena_free(l->arena);
}
