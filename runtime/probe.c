/* probe.c: weights that may be written, runs that stop between steps, sums of x x^T by the product kernel. */
#include "runtime/probe.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/runtime.h"

uint8_t *probe_weights(gptc_model *m) {
    /* mapped MAP_PRIVATE, so a page that is written becomes this process's own */
    if (mprotect(m->map, m->map_bytes, PROT_READ | PROT_WRITE)) return NULL;
    return (uint8_t *)m->map + (m->weights - (const uint8_t *)m->map);
}

gptc_status probe_begin(gptc_session *s, const int32_t *tokens, uint32_t windows, uint32_t length) {
    if (s->cuda || s->function) return GPTC_E_UNSUPPORTED;
    if (windows > s->n_sequences || length > s->context || (uint64_t)windows * length > s->chunk)
        return GPTC_E_ARGUMENT;
    uint32_t rows = windows * length;
    for (uint32_t i = 0; i < rows; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= s->model->meta->vocab) return GPTC_E_TOKEN;
    memset(s->sequences, 0, s->n_sequences * sizeof *s->sequences);
    for (uint32_t i = 0; i < rows; i++) {
        s->body.tokens[i] = tokens[i];
        s->body.positions[i] = (int32_t)(i % length);
        s->body.sequences[i] = (int32_t)(i / length);
        s->wanted[i] = i;
    }
    step_rows(s, rows, rows);
    return GPTC_OK;
}

void probe_run(gptc_session *s, uint32_t first, uint32_t end) { step_range(s, first, end); }

float *probe_buffer(const gptc_session *s, uint64_t row_offset) {
    return (float *)(void *)(s->rows + row_offset * s->chunk);
}

void probe_share(gptc_session *s, ProbeWork *fn, void *ctx) { pool_run(s->pool, fn, ctx); }

/* ---- sums of x x^T: the product kernel with x^T as rows and x as weights, added to what there is ---- */

#define GRAM_ROWS 256 /* at a time, and only columns from them on: the other half is the same */

typedef struct {
    const gptc_session *s;
    CpuLinear linear;
    const float *x;
    float *turned, *panels; /* [k][rows] and [k/16][rows][16] */
    void *shared;
} Gram;

static void gram_pack(const Gram *g, uint32_t worker, uint32_t workers) {
    uint32_t rows = g->linear.k, k = g->linear.n;
    for (uint32_t p = worker; p < (k + 15) / 16; p += workers) {
        uint32_t width = k - 16 * p < 16 ? k - 16 * p : 16;
        for (uint32_t r = 0; r < rows; r++) {
            const float *from = g->x + (size_t)r * k + 16 * p;
            float *to = g->panels + ((size_t)p * rows + r) * 16;
            for (uint32_t i = 0; i < width; i++) {
                to[i] = from[i];
                g->turned[(size_t)(16 * p + i) * rows + r] = from[i];
            }
        }
    }
}

static void gram_work(void *ctx, uint32_t worker, uint32_t workers) {
    const Gram *g = ctx;
    const CpuWorker w = {.index = worker,
                         .count = workers,
                         .pool = g->s->pool,
                         .local = g->s->local + worker * CPU_LOCAL_BYTES,
                         .shared = g->shared};
    uint32_t k = g->linear.n;
    gram_pack(g, worker, workers);
    for (uint32_t from = 0; from < k; from += GRAM_ROWS) {
        CpuLinear part = g->linear;
        part.rows = k - from < GRAM_ROWS ? k - from : GRAM_ROWS;
        part.n = k - from;
        part.x = g->turned + (size_t)from * part.k;
        part.w = g->panels + (size_t)from * part.k;
        part.out = g->linear.out + (size_t)from * k + from;
        part.residual = part.out;
        pool_barrier(g->s->pool);
        g->s->model->kernels->linear(&w, &part);
    }
}

bool probe_gram(gptc_session *s, const float *x, uint32_t rows, uint32_t k, float *xx) {
    size_t turned = ((size_t)k * rows + 15) / 16 * 16, panels = ((size_t)k + 15) / 16 * 16 * rows;
    size_t shared = (cpu_linear_shared(k, rows) + 63) / 64 * 64;
    float *block = aligned_alloc(64, (turned + panels) * sizeof(float) + shared);
    if (!block) return false;
    Gram g = {.s = s, .x = x, .turned = block, .panels = block + turned, .shared = block + turned + panels};
    memset(block, 0, (turned + panels) * sizeof(float));
    g.linear = (CpuLinear){.k = rows,
                           .n = k,
                           .act = ART_ACT_NONE,
                           .dtype = ART_F32,
                           .x_stride = rows,
                           .residual_stride = k,
                           .out_stride = k,
                           .out = xx};
    pool_run(s->pool, gram_work, &g);
    free(block);
    return true;
}
