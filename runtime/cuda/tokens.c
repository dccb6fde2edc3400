/* tokens.c: what comes back of steps on the device: tokens alone, drawn by the last kernel of the graph
 * (codegen/cuda/kernels/draw.cu) or by the persistent one. Logits stay there until somebody asks, or until a step that
 * would overwrite them is none of their sequences'.
 *
 * That kernel leaves token, position and what is asked of the next draw where a replay of the graph finds them. So a
 * sequence goes on with no upload and no wait: one step is under way while the token before it is given out. */
#include "runtime/cuda/cuda.h"

#include <sched.h>
#include <string.h>

enum { MOST_BLOCKS = SAMPLE_BINS, IN_FLIGHT = 2 };

/* ---- memory of the draw ---- */
typedef struct { /* ASKED_ of draw.cu */
    SampleOptions options;
    uint32_t epoch, place;
} Asked;
enum {
    EXCHANGE = 2 * (2 * MOST_BLOCKS + 2), /* DRAW_WORDS of draw.cu */
    SLOT_WORDS = EXCHANGE + 2 * SAMPLE_BINS + 2 * SAMPLE_PASSES * SAMPLE_BINS
};

uint64_t cuda_draw_words_at(void) { return (CUDA_DRAWN * sizeof(Asked) + 255) / 256 * 256; }
uint64_t cuda_draw_bytes(void) {
    return cuda_draw_words_at() + (uint64_t)CUDA_DRAWN * SLOT_WORDS * sizeof(uint64_t);
}

CuResult cuda_draw_ask(gptc_session *s, uint32_t n, const SampleOptions *asked) {
    CudaSession *c = s->cuda;
    Asked rows[CUDA_DRAWN];
    for (uint32_t i = 0; i < n; i++) rows[i] = (Asked){asked[i], c->draws[i] + 1, CUDA_MAIL_TOKENS + i};
    return c->model->driver.upload(c->asked, rows, n * sizeof *rows, c->stream);
}

/* The blocks of a row run together; where the device cannot promise that, a row has one. */
CuResult cuda_draw_launch(const gptc_session *s, uint32_t n) {
    const CudaSession *c = s->cuda;
    const CudaModel *m = c->model;
    uint32_t function = m->kernels.head->draw, chunk = s->chunk,
             blocks = m->together ? (uint32_t)m->sms / n : 1;
    if (blocks < 1) blocks = 1;
    if (blocks > MOST_BLOCKS) blocks = MOST_BLOCKS;
    CuPointer logits = c->rows + s->model->plan->logits_offset * s->chunk, asked = c->asked, words = c->words,
              info = c->info, mail = c->mail_there;
    void *arguments[] = {&logits, &asked, &words, &info, &chunk, &mail};
    CuAttribute together = {.id = CU_ATTRIBUTE_COOPERATIVE, .value.cooperative = 1};
    CuLaunch config = {.grid = {blocks, n, 1},
                       .block = {m->kernels.functions[function].threads, 1, 1},
                       .stream = c->stream,
                       .attributes = &together,
                       .n_attributes = blocks > 1};
    return m->driver.launch(&config, m->functions[function], arguments, NULL);
}

/* ---- logits that wait ---- */
gptc_status cuda_logits_bring(const gptc_session *s, int32_t sequence) {
    CudaSession *c = s->cuda;
    const CudaDriver *d = &c->model->driver;
    size_t vocab = s->model->meta->vocab;
    bool wanted = false; /* those of a sequence that went back are not */
    for (uint32_t i = 0; i < c->n_waiting && !wanted; i++)
        wanted = (sequence < 0 || c->waiting[i] == sequence) && s->sequences[c->waiting[i]].has_logits;
    if (!wanted && sequence < 0) c->n_waiting = 0;
    if (!wanted) return GPTC_OK;
    CuResult e = d->context_current(c->model->context);
    if (!e)
        e = d->download(c->logits, c->rows + s->model->plan->logits_offset * s->chunk,
                        c->n_waiting * vocab * sizeof(float), c->stream);
    if (!e) e = d->stream_wait(c->stream);
    if (e) return cuda_status(e);
    for (uint32_t i = 0; i < c->n_waiting; i++)
        memcpy(s->logits + (size_t)c->waiting[i] * vocab, c->logits + i * vocab, vocab * sizeof(float));
    c->n_waiting = 0;
    return GPTC_OK;
}

static bool has_row(const gptc_session *s, uint32_t n, int32_t sequence, uint32_t likely) {
    if (likely < n && s->body.sequences[likely] == sequence) return true;
    for (uint32_t i = 0; i < n; i++)
        if (s->body.sequences[i] == sequence) return true;
    return false;
}

/* Before the n rows of s->body are run: logits of sequences that are not among them. */
static gptc_status others_bring(const gptc_session *s, uint32_t n) {
    const CudaSession *c = s->cuda;
    for (uint32_t i = 0; i < c->n_waiting; i++)
        if (!has_row(s, n, c->waiting[i], i)) return cuda_logits_bring(s, -1);
    return GPTC_OK;
}

static void rows_done(gptc_session *s, uint32_t rows, uint32_t steps) {
    memcpy(s->cuda->waiting, s->body.sequences, rows * sizeof *s->cuda->waiting);
    s->cuda->n_waiting = rows;
    s->rows_computed += (uint64_t)rows * steps;
}

/* ---- steps ---- */
gptc_status cuda_step_later(gptc_session *s, uint32_t n, const SampleOptions *asked, int32_t *next) {
    CudaSession *c = s->cuda;
    gptc_status st = others_bring(s, n);
    if (st) return st;
    CuResult e = cuda_rows_run(s, n, n, asked, 1);
    if (!e) e = c->model->driver.stream_wait(c->stream);
    if (e) return cuda_status(e);
    for (uint32_t i = 0; asked && i < n; i++) next[i] = (int32_t)c->mail[CUDA_MAIL_TOKENS + i];
    rows_done(s, n, 1);
    return GPTC_OK;
}

gptc_status cuda_ahead(gptc_session *s, uint32_t steps, const SampleOptions *sampling, gptc_ahead_fn fn,
                       void *user, uint32_t *done) {
    CudaSession *c = s->cuda;
    const CudaDriver *d = &c->model->driver;
    volatile uint32_t *mail = c->mail;
    uint32_t seen = 0, started = c->decode ? steps : 1;
    *done = 0;
    gptc_status st = others_bring(s, 1);
    if (st) return st;
    CuResult e = cuda_rows_run(s, 1, 1, sampling, started), under_way = 0;
    do { /* tokens are given on while the next ones are made */
        for (; !e && started < steps && started < seen + IN_FLIGHT && !mail[CUDA_MAIL_STOP]; started++)
            e = cuda_row_again(s);
        if (!e) under_way = d->stream_query(c->stream);
        if (e || (under_way && under_way != CU_NOT_READY)) return cuda_status(e ? e : under_way);
        for (; seen < started && mail[CUDA_MAIL_TOKENS + seen] != CUDA_NO_MAIL; seen++) {
            int32_t next = (int32_t)mail[CUDA_MAIL_TOKENS + seen];
            if (!mail[CUDA_MAIL_STOP] && (fn(user, next) || next < 0 || model_stops(s->model, next)))
                mail[CUDA_MAIL_STOP] = 1;
        }
        if (under_way == CU_NOT_READY) sched_yield();
    } while (under_way == CU_NOT_READY || (seen == started && started < steps && !mail[CUDA_MAIL_STOP]));
    *done = seen;
    rows_done(s, 1, seen);
    return GPTC_OK;
}
