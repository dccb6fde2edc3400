/* session.c: steps of a session on the device (see cuda.h).
 *
 * All memory is one allocation, made when the session is. A step uploads token, position and sequence of its
 * rows and runs the launches. Steps of up to eight rows, all of them wanted, are captured as a graph once and
 * replayed: what differs from step to step is data. Kernels begin before the one before has ended (programmatic
 * dependent launch) and wait for it themselves. A prefill brings back the logits that are wanted; what comes back of
 * a step is in tokens.c. */
#include "runtime/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

#define TRY(call, name)                                                                                      \
    do {                                                                                                     \
        gptc_status try_ = cuda_check(d, call, name, why);                                                   \
        if (try_) return try_;                                                                               \
    } while (0)

enum { FEW = 8, SPAN_KEYS = 256, MOST_SPANS = 64, ALIGN = 256 };

/* ---- memory ---- */
typedef struct {
    uint64_t cache, rows, scratch, info, draw, total;
} Need;

static uint64_t aligned(uint64_t bytes) { return (bytes + ALIGN - 1) / ALIGN * ALIGN; }

/* Of one sequence: codegen/cuda/kernels/cache.cu and cache_int8.cu. */
static size_t state_bytes(const ArtState *s, uint32_t context) {
    size_t numbers = (size_t)context * s->dim, steps = (size_t)context * sizeof(uint16_t);
    if (s->kept != ART_STATE_INT8) return s->heads * numbers * sizeof(float);
    return s->heads * ((numbers + 15) / 16 * 16 + (steps + 15) / 16 * 16);
}

static bool need_add(uint64_t *sum, uint64_t a, uint64_t b) {
    uint64_t p;
    return !__builtin_mul_overflow(a, b, &p) && p < UINT64_MAX / 4 &&
           !__builtin_add_overflow(*sum, aligned(p), sum);
}

static bool need_of(const gptc_session *s, Need *n) {
    const CudaSession *c = s->cuda;
    const ArtPlan *p = s->model->plan;
    uint64_t rows = ((uint64_t)s->chunk + 127) / 128 * 128; /* whole tiles */
    uint64_t spread = (uint64_t)FEW * c->spans > rows ? (uint64_t)FEW * c->spans : rows;
    *n = (Need){0};
    bool ok = true;
    for (uint32_t i = 0; i < p->n_states && ok; i++)
        ok = need_add(&n->cache, c->state_bytes[i], s->n_sequences);
    ok = ok && need_add(&n->rows, p->row_bytes, s->chunk) &&
         need_add(&n->scratch, c->model->kernels.head->scratch_row_bytes, spread) &&
         need_add(&n->info, 6 * 4, s->chunk) && need_add(&n->draw, cuda_draw_bytes(), 1);
    n->total = n->cache + n->rows + n->scratch + n->info + n->draw;
    return ok && n->cache < UINT64_MAX / 4;
}

static gptc_status memory_reserve(gptc_session *s, gptc_detail *why) {
    CudaSession *c = s->cuda;
    const CudaDriver *d = &c->model->driver;
    const ArtPlan *p = s->model->plan;
    size_t have = 0, all = 0;
    Need n;
    if (!need_of(s, &n)) return status_fail(why, GPTC_E_MEMORY, "more than an address space");
    TRY(d->memory_info(&have, &all), "cuMemGetInfo");
    if (n.total > have) {
        uint64_t token = n.cache / s->context, rest = n.total - n.cache;
        return status_fail(why, GPTC_E_MEMORY,
                           "the session needs %llu MB on the GPU (cache of %u x %u tokens %llu, rows %llu), "
                           "%llu MB are free; a "
                           "context of %llu would fit",
                           (unsigned long long)(n.total >> 20), s->n_sequences, s->context,
                           (unsigned long long)(n.cache >> 20),
                           (unsigned long long)((n.rows + n.scratch) >> 20), (unsigned long long)(have >> 20),
                           (unsigned long long)(token && have > rest ? (have - rest) / token : 0));
    }
    TRY(d->memory_new(&c->block, n.total + ALIGN), "cuMemAlloc");
    c->bytes = n.total;
    c->rows = c->block;
    c->scratch = c->rows + n.rows;
    c->info = c->scratch + n.scratch;
    c->asked = c->info + n.info;
    c->words = c->asked + cuda_draw_words_at();
    CuPointer at = c->asked + n.draw;
    for (uint32_t i = 0; i < p->n_states; i++) {
        c->states[i] = at;
        at += aligned(c->state_bytes[i] * s->n_sequences);
    }
    s->cache_bytes = n.cache;
    TRY(d->memory_set(c->block, 0, n.total, c->stream), "cuMemsetD8Async");
    TRY(d->stream_wait(c->stream), "cuStreamSynchronize");
    return GPTC_OK;
}

gptc_status cuda_session_new(gptc_session *s, const char *driver, gptc_decode_form form, gptc_detail *why) {
    const ArtPlan *p = s->model->plan;
    CudaSession *c = s->cuda = calloc(1, sizeof *c);
    if (!c) return status_fail(why, GPTC_E_MEMORY, "%zu bytes for the session", sizeof *c);
    gptc_status st = model_on_device(s->model, driver, &c->model, why);
    if (st) return st;
    const CudaDriver *d = &c->model->driver;
    c->states = calloc(p->n_states + 1, sizeof *c->states);
    c->state_bytes = calloc(p->n_states + 1, sizeof *c->state_bytes);
    c->logits = malloc((size_t)s->chunk * s->model->meta->vocab * sizeof(float));
    c->waiting = malloc(s->chunk * sizeof *c->waiting);
    if (!c->states || !c->state_bytes || !c->logits || !c->waiting)
        return status_fail(why, GPTC_E_MEMORY, "no memory for the session's tables");
    for (uint32_t i = 0; i < p->n_states; i++)
        c->state_bytes[i] = state_bytes(&s->model->states[i], s->context);
    c->spans = (s->context + SPAN_KEYS - 1) / SPAN_KEYS;
    if (c->spans > MOST_SPANS) c->spans = MOST_SPANS;
    TRY(d->context_current(c->model->context), "cuCtxSetCurrent");
    TRY(d->stream_new(&c->stream, 1), "cuStreamCreate");
    void *mail;
    TRY(d->host_new(&mail, CUDA_MAIL_WORDS * sizeof(uint32_t), 0), "cuMemHostAlloc");
    c->mail = mail;
    TRY(d->host_address(&c->mail_there, mail, 0), "cuMemHostGetDevicePointer");
    st = memory_reserve(s, why);
    return st ? st : cuda_decode_new(s, form, why);
}

void cuda_session_free(gptc_session *s) {
    CudaSession *c = s->cuda;
    if (!c) return;
    if (c->model) {
        const CudaDriver *d = &c->model->driver;
        d->context_current(c->model->context);
        for (int i = 0; i < 2 * CUDA_GRAPHS; i++) {
            CuGraphExec graph = c->graph[i / CUDA_GRAPHS][i % CUDA_GRAPHS];
            if (graph) d->graph_free(graph);
        }
        cuda_decode_free(c);
        if (c->mail) d->host_free(c->mail);
        if (c->block) d->memory_free(c->block);
        if (c->stream) d->stream_free(c->stream);
    }
    free(c->states);
    free(c->state_bytes);
    free(c->logits);
    free(c->waiting);
    free(c);
    s->cuda = NULL;
}

/* ---- a step ---- */
typedef struct {
    const gptc_session *s;
    const CudaSession *c;
    uint32_t rows, spans;
    bool head; /* the rows are those whose logits are wanted */
} Run;

static uint32_t rows_class(uint32_t rows) {
    return rows == 1     ? ART_ROWS_1
           : rows <= 4   ? ART_ROWS_4
           : rows <= FEW ? ART_ROWS_8
           : rows <= 64  ? ART_ROWS_64
                         : ART_ROWS_MORE;
}

/* Of the rows at hand, whether those that follow each other are mostly of one sequence. */
static uint32_t runs_class(const Run *r) {
    enum { LONG = 16 };
    const int32_t *sequence = r->head ? r->s->head.sequences : r->s->body.sequences;
    uint32_t runs = 1;
    for (uint32_t i = 1; i < r->rows; i++) runs += sequence[i] != sequence[i - 1];
    return r->rows > FEW && r->rows >= LONG * runs ? ART_RUNS_LONG : ART_RUNS_SHORT;
}

static bool launch_wanted(const Run *r, const ArtCudaLaunch *l) {
    uint32_t runs = l->when & (ART_RUNS_LONG | ART_RUNS_SHORT);
    return (l->when & rows_class(r->rows)) && launch_here(r->c->model, l) &&
           (!runs || (runs & runs_class(r)));
}

static CuPointer info_at(const Run *r, uint32_t which) {
    return r->c->info + 4 * (uint64_t)r->s->chunk * (which + (r->head ? 3 : 0));
}

static void argument(const Run *r, const ArtCudaArg *a, uint64_t *out) {
    uint32_t word = 0;
    switch (a->kind) {
    case ART_CUDA_ROWS: *out = r->c->rows + a->value * r->s->chunk; return;
    case ART_CUDA_TENSOR: *out = r->c->model->weights + r->s->model->tensors[a->value].offset; return;
    case ART_CUDA_STATE: *out = r->c->states[a->value]; return;
    case ART_CUDA_TOKENS: *out = info_at(r, 0); return;
    case ART_CUDA_POSITIONS: *out = info_at(r, 1); return;
    case ART_CUDA_SEQUENCES: *out = info_at(r, 2); return;
    case ART_CUDA_SCRATCH: *out = r->c->scratch; return;
    case ART_CUDA_COUNT: word = r->rows; break;
    case ART_CUDA_CONTEXT: word = r->s->context; break;
    case ART_CUDA_SPANS: word = r->spans; break;
    default: break;
    }
    *out = 0;
    memcpy(out, &word, sizeof word);
}

static void grid_of(const Run *r, const ArtCudaLaunch *l, uint32_t grid[3]) {
    const uint32_t tiles = (r->rows + 127) / 128, sms = (uint32_t)r->c->model->sms;
    grid[0] = l->blocks, grid[1] = r->rows, grid[2] = 1;
    switch (l->grid) {
    case ART_GRID_ONCE: grid[1] = 1; break;
    case ART_GRID_TILES: grid[1] = (r->rows + 63) / 64; break;
    case ART_GRID_TILES_128: grid[1] = tiles; break;
    case ART_GRID_SPLITS: grid[0] *= r->spans; break;
    case ART_GRID_STAY:
        grid[0] = (uint64_t)l->blocks * tiles > sms ? sms : l->blocks * tiles, grid[1] = 1;
        break;
    default: break;
    }
}

static CuResult launch(const Run *r, const ArtCudaLaunch *l) {
    const CudaModel *m = r->c->model;
    uint64_t value[ART_CUDA_MAX_ARGS];
    void *pointer[ART_CUDA_MAX_ARGS];
    CuAttribute early = {.id = CU_ATTRIBUTE_PROGRAMMATIC, .value.programmatic = 1};
    const ArtCudaFunction *f = &m->kernels.functions[l->function];
    CuLaunch config = {.block = {f->threads, 1, 1},
                       .shared_bytes = f->launch_bytes,
                       .stream = r->c->stream,
                       .attributes = &early,
                       .n_attributes = m->arch >= 90};
    grid_of(r, l, config.grid);
    for (uint32_t i = 0; i < l->n_args; i++) {
        argument(r, &l->arg[i], &value[i]);
        pointer[i] = &value[i];
    }
    return m->driver.launch(&config, m->functions[l->function], pointer, NULL);
}

/* The rows whose logits are wanted to the front of the one buffer that is alive at the head; wanted rises. */
static CuResult rows_compact(const Run *r, uint32_t wanted) {
    const ArtPlan *p = r->s->model->plan;
    uint64_t at = r->c->rows + p->head_offset * r->s->chunk, bytes = p->head_width * 4;
    CuResult e = 0;
    for (uint32_t i = 0; i < wanted && !e && bytes; i++)
        if (r->s->wanted[i] != i)
            e = r->c->model->driver.copy(at + i * bytes, at + r->s->wanted[i] * bytes, (size_t)bytes,
                                         r->c->stream);
    return e;
}

static CuResult launches_run(const gptc_session *s, uint32_t n, uint32_t wanted) {
    const CudaKernels *k = &s->cuda->model->kernels;
    const ArtPlan *p = s->model->plan;
    Run r = {.s = s, .c = s->cuda, .rows = n, .spans = n <= FEW ? s->cuda->spans : 1};
    CuResult e = 0;
    for (uint32_t i = 0; i <= k->head->n_launches && !e; i++) {
        const ArtCudaLaunch *l = i < k->head->n_launches ? &k->launches[i] : NULL;
        if (!r.head && (!l || l->step >= p->head_step)) {
            r.head = true;
            r.rows = wanted;
            if (wanted && wanted < n) e = rows_compact(&r, wanted);
            if (!wanted) break;
        }
        if (l && !e && launch_wanted(&r, l)) e = launch(&r, l);
    }
    return e;
}

/* Replays the graph of n rows; the first time it is made. */
static CuResult graph_run(gptc_session *s, uint32_t n, bool drawn) {
    CudaSession *c = s->cuda;
    const CudaDriver *d = &c->model->driver;
    CuGraphExec *graph = &c->graph[drawn][n - 1];
    CuGraph text = NULL;
    CuResult e = 0;
    if (!*graph) {
        e = d->capture_begin(c->stream, CU_CAPTURE_THREAD);
        if (e) return e;
        e = launches_run(s, n, n);
        if (!e && drawn) e = cuda_draw_launch(s, n);
        CuResult end = d->capture_end(c->stream, &text);
        if (!e) e = end;
        if (!e) e = d->graph_make(graph, text, 0);
        if (text) d->graph_text_free(text);
        if (e) return e;
    }
    return d->graph_launch(*graph, c->stream);
}

static CuResult drawn_run(gptc_session *s, uint32_t n) {
    CuResult e = n <= CUDA_GRAPHS ? graph_run(s, n, true) : launches_run(s, n, n);
    if (!e && n > CUDA_GRAPHS) e = cuda_draw_launch(s, n);
    for (uint32_t i = 0; i < n && !e; i++) s->cuda->draws[i]++;
    return e;
}

static void mail_empty(volatile uint32_t *mail) {
    mail[CUDA_MAIL_STOP] = 0;
    for (uint32_t i = CUDA_MAIL_TOKENS; i < CUDA_MAIL_WORDS; i++) mail[i] = CUDA_NO_MAIL;
}

CuResult cuda_rows_run(gptc_session *s, uint32_t n, uint32_t n_wanted, const SampleOptions *asked,
                       uint32_t steps) {
    CudaSession *c = s->cuda;
    const CudaDriver *d = &c->model->driver;
    bool ready = n == n_wanted && n <= CUDA_GRAPHS;
    CuResult e = d->context_current(c->model->context);
    mail_empty(c->mail);
    if (!e && n == 1 && ready && c->decode) return cuda_decode_start(s, asked, steps);
    /* tokens, positions and sequences of body and head follow each other, here and there */
    if (!e) e = d->upload(c->info, s->body.tokens, 6 * 4 * (size_t)s->chunk, c->stream);
    if (!e && asked) e = cuda_draw_ask(s, n, asked);
    if (e) return e;
    if (asked) return drawn_run(s, n);
    return ready ? graph_run(s, n, false) : launches_run(s, n, n_wanted);
}

CuResult cuda_row_again(gptc_session *s) { return drawn_run(s, 1); }

gptc_status cuda_step(gptc_session *s, uint32_t n, uint32_t n_wanted) {
    CudaSession *c = s->cuda;
    const CudaDriver *d = &c->model->driver;
    gptc_status st = cuda_logits_bring(s, -1);
    if (st) return st;
    CuResult e = cuda_rows_run(s, n, n_wanted, NULL, 1);
    if (!e && n_wanted)
        e = d->download(c->logits, c->rows + s->model->plan->logits_offset * s->chunk,
                        n_wanted * sizeof(float) * s->model->meta->vocab, c->stream);
    if (!e) e = d->stream_wait(c->stream);
    if (!e) s->rows_computed += n;
    return cuda_status(e);
}

gptc_status cuda_fork(gptc_session *s, uint32_t from, uint32_t to) {
    CudaSession *c = s->cuda;
    const CudaDriver *d = &c->model->driver;
    CuResult e = d->context_current(c->model->context);
    for (uint32_t i = 0; i < s->model->plan->n_states && !e; i++)
        e = d->copy(c->states[i] + to * c->state_bytes[i], c->states[i] + from * c->state_bytes[i],
                    c->state_bytes[i], c->stream);
    if (!e) e = d->stream_wait(c->stream);
    return e ? GPTC_E_DEVICE : GPTC_OK;
}
