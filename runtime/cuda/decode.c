/* decode.c: the persistent kernel: several steps of one row in one launch (codegen/cuda/kernels/ring.cu).
 *
 * All its blocks must run at once, so the launch is cooperative and has a block for every SM. Words between blocks
 * carry the number of the step they belong to, counted over the session's life and never reset; they begin as zeros.
 * What it draws it puts into the session's mail (tokens.c). */
#include "runtime/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

#define TRY(call, name)                                                                                      \
    do {                                                                                                     \
        gptc_status try_ = cuda_check(d, call, name, why);                                                   \
        if (try_) return try_;                                                                               \
    } while (0)

enum { STAGE_BYTES = 16384, MOST_STAGES = 14, LEAST_STAGES = 3, MOST_BLOCKS = 256, STOPS = 8, UNIT = 64 };
/* Words to meet by, twice; sums of each pass of each step. */
#define SUMS_BYTES ((size_t)(2 + CUDA_AHEAD * SAMPLE_PASSES) * SAMPLE_BINS * sizeof(uint64_t))

typedef struct {
    int32_t token, position, sequence;
    SampleOptions sampling;
} Row;

static const char *why_not(const CudaModel *m, int shared, uint32_t *stages) {
    const ArtCuda *h = m->kernels.head;
    if (m->arch < 90) return "it needs bulk copies, of sm_90 and above";
    if (!m->together || m->sms < 1 || m->sms > MOST_BLOCKS)
        return "the device cannot run its blocks together";
    uint32_t room = (uint32_t)shared > h->decode_bytes ? (uint32_t)shared - h->decode_bytes : 0;
    *stages = room / STAGE_BYTES < MOST_STAGES ? room / STAGE_BYTES : MOST_STAGES;
    return *stages < LEAST_STAGES ? "the device has too little shared memory" : NULL;
}

static gptc_status none_in_file(const CudaKernels *k, gptc_detail *why) {
    uint32_t at = k->head->decode_bytes;
    return status_fail(why, GPTC_E_UNSUPPORTED, "the file has no persistent kernel%s%s; hint: --decode graph",
                       at ? ": there is none for " : "", at ? k->text + at : "");
}

/* Offsets of tensors and caches in units of 64 bytes, then the tokens that end a text. */
static bool places_fill(const gptc_session *s, uint32_t *table) {
    const CudaSession *c = s->cuda;
    const CudaKernels *k = &c->model->kernels;
    const ArtMeta *meta = s->model->meta;
    for (uint32_t i = 0; i < k->head->n_places; i++) {
        const ArtCudaPlace *p = &k->places[i];
        if (p->kind == ART_CUDA_NUMBER) {
            table[i] = p->value;
            continue;
        }
        uint64_t at =
            p->kind == ART_CUDA_STATE ? c->states[p->value] - c->block : s->model->tensors[p->value].offset;
        if (at % UNIT || at / UNIT > UINT32_MAX) return false;
        table[i] = (uint32_t)(at / UNIT);
    }
    for (uint32_t i = 0; i < STOPS; i++)
        table[k->head->n_places + i] = i < meta->n_stop_tokens ? (uint32_t)meta->stop_tokens[i] : UINT32_MAX;
    return true;
}

static gptc_status decode_reserve(const gptc_session *s, CudaDecode *e, gptc_detail *why) {
    const CudaSession *c = s->cuda;
    const CudaDriver *d = &c->model->driver;
    const ArtCuda *h = c->model->kernels.head;
    size_t table_bytes = (h->n_places + STOPS) * sizeof(uint32_t),
           at = (table_bytes + sizeof(Row) + 255) / 256 * 256,
           words_end = at + (h->decode_words * 8 + 8 + 255) / 256 * 256, bytes = words_end + SUMS_BYTES;
    uint32_t *table = malloc(table_bytes);
    gptc_status st = table ? GPTC_OK : status_fail(why, GPTC_E_MEMORY, "no memory for the session's tables");
    if (!st && !places_fill(s, table))
        st = status_fail(why, GPTC_E_FORMAT, "KERNELS: a place that the persistent kernel cannot name");
    if (!st) st = cuda_check(d, d->memory_new(&e->memory, bytes), "cuMemAlloc", why);
    if (!st) st = cuda_check(d, d->memory_set(e->memory, 0, bytes, c->stream), "cuMemsetD8Async", why);
    if (!st)
        st = cuda_check(d, d->upload(e->memory, table, table_bytes, c->stream), "cuMemcpyHtoDAsync", why);
    if (!st) st = cuda_check(d, d->stream_wait(c->stream), "cuStreamSynchronize", why);
    free(table);
    if (st) return st;
    e->row = e->memory + table_bytes;
    e->words = e->memory + at;
    e->sums = e->memory + words_end;
    return GPTC_OK;
}

gptc_status cuda_decode_new(gptc_session *s, gptc_decode_form form, gptc_detail *why) {
    CudaSession *c = s->cuda;
    const CudaModel *m = c->model;
    const CudaDriver *d = &m->driver;
    const ArtCuda *h = m->kernels.head;
    int shared = 0;
    uint32_t stages = 0;
    bool none = h->decode == ART_NO_INDEX;
    if (form == GPTC_DECODE_GRAPH || (form == GPTC_DECODE_AUTO && (none || !h->decode_first))) return GPTC_OK;
    if (none) return none_in_file(&m->kernels, why);
    TRY(d->device_attribute(&shared, CU_SHARED_BYTES, m->device), "cuDeviceGetAttribute");
    const char *not = why_not(m, shared, &stages);
    if (not &&form == GPTC_DECODE_AUTO) return GPTC_OK;
    if (not ) return status_fail(why, GPTC_E_UNSUPPORTED, "no persistent kernel on %s: %s", m->name, not );
    CudaDecode *e = c->decode = calloc(1, sizeof *e);
    if (!e) return status_fail(why, GPTC_E_MEMORY, "%zu bytes for the session", sizeof *e);
    e->blocks = (uint32_t)m->sms;
    e->stages = stages;
    e->shared_bytes = h->decode_bytes + stages * STAGE_BYTES;
    TRY(d->function_set(m->functions[h->decode], CU_MOST_SHARED, (int)e->shared_bytes), "cuFuncSetAttribute");
    return decode_reserve(s, e, why);
}

void cuda_decode_free(CudaSession *c) {
    CudaDecode *e = c->decode;
    if (!e) return;
    if (e->memory) c->model->driver.memory_free(e->memory);
    free(e);
    c->decode = NULL;
}

CuResult cuda_decode_start(const gptc_session *s, const SampleOptions *sampling, uint32_t steps) {
    const CudaSession *c = s->cuda;
    const CudaModel *m = c->model;
    CudaDecode *e = c->decode;
    Row row = {
        .token = s->body.tokens[0], .position = s->body.positions[0], .sequence = s->body.sequences[0]};
    CuPointer logits = c->rows + s->model->plan->logits_offset * s->chunk, weights = m->weights,
              cache = c->block, mail = c->mail_there;
    uint32_t context = s->context, epoch = e->epoch + 1;
    void *arguments[] = {&weights, &cache,  &e->memory, &e->words, &e->sums, &logits,
                         &mail,    &e->row, &context,   &epoch,    &steps,   &e->stages};
    CuAttribute together = {.id = CU_ATTRIBUTE_COOPERATIVE, .value.cooperative = 1};
    CuLaunch config = {.grid = {e->blocks, 1, 1},
                       .block = {m->kernels.functions[m->kernels.head->decode].threads, 1, 1},
                       .shared_bytes = e->shared_bytes,
                       .stream = c->stream,
                       .attributes = &together,
                       .n_attributes = 1};
    if (sampling) row.sampling = *sampling;
    e->epoch += steps;
    CuResult r = m->driver.upload(e->row, &row, sizeof row, c->stream);
    if (!r && row.sampling.scale) r = m->driver.memory_set(e->sums, 0, SUMS_BYTES, c->stream);
    return r ? r : m->driver.launch(&config, m->functions[m->kernels.head->decode], arguments, NULL);
}
