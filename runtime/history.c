/* history.c: sessions of a GPT without cache.
 *
 * A sequence is the list of its tokens. Whenever logits are wanted, the function runs over all of it, as a batch
 * of one; every such run counts all its rows as computed. Tokens whose logits nobody wants cost nothing. */
#include "runtime/runtime.h"

#include <stdlib.h>
#include <string.h>

/* Blocks that session.c frees. */
static void *reserve(gptc_session *s, uint64_t n, size_t size) {
    void *block = calloc(n, size);
    if (block) s->blocks[s->n_blocks++] = block;
    return block;
}

gptc_status history_init(gptc_session *s, uint32_t threads, gptc_detail *why) {
    uint64_t tokens = (uint64_t)s->context * s->n_sequences, vocab = s->model->meta->vocab;
    uint64_t rows = s->chunk > s->n_sequences ? s->chunk : s->n_sequences;
    uint64_t need = tokens * sizeof(int32_t) + vocab * s->n_sequences * sizeof(float) +
                    (uint64_t)s->context * sizeof(int64_t) + rows * vocab * sizeof(float);
    if (need > memory_available())
        return status_fail(why, GPTC_E_MEMORY, "the session needs %llu MB", (unsigned long long)(need >> 20));
    s->history = reserve(s, tokens, sizeof *s->history);
    s->logits = reserve(s, vocab * s->n_sequences, sizeof *s->logits);
    s->sequences = reserve(s, s->n_sequences, sizeof *s->sequences);
    s->wide = reserve(s, s->context, sizeof *s->wide);
    s->rounded = reserve(s, rows * vocab, sizeof *s->rounded);
    if (s->n_blocks < 5) return status_fail(why, GPTC_E_MEMORY, "no memory for the histories");
    const gptc_function_options o = {.threads = (int32_t)threads};
    return gptc_function_new((gptc_model *)(uintptr_t)s->model, &o, &s->function, why);
}

/* Runs the first n tokens of a sequence. */
static gptc_status history_run(gptc_session *s, int32_t sequence, size_t n) {
    const Function *g = &s->model->function;
    uint32_t dtype = g->values[g->inputs[g->head->tokens]].dtype;
    const int32_t *tokens = history_of(s, sequence);
    for (size_t i = 0; i < n; i++) s->wide[i] = tokens[i];
    const gptc_tensor x = {.dtype = (gptc_dtype)dtype,
                           .rank = 2,
                           .dim = {1, (int64_t)n},
                           .data = dtype == ART_I64 ? (const void *)s->wide : tokens};
    gptc_status st = gptc_function_run(s->function, &x, 1, NULL);
    if (st) return st;
    const gptc_tensor *y = gptc_function_output(s->function, (int32_t)g->head->logits);
    if (y->dim[0] != 1 || y->dim[1] != (int64_t)n || y->dim[2] != (int64_t)s->model->meta->vocab)
        return GPTC_E_SHAPE;
    s->rows_computed += n;
    return GPTC_OK;
}

/* Logits of `rows` positions from `first` on, as f32: where they are, or in s->rounded. */
static const float *history_logits(gptc_session *s, size_t first, size_t rows) {
    const gptc_tensor *y = gptc_function_output(s->function, (int32_t)s->model->function.head->logits);
    size_t vocab = s->model->meta->vocab, count = rows * vocab, at = first * vocab;
    if (y->dtype == GPTC_F32) return (const float *)y->data + at;
    for (size_t i = 0; i < count; i += ND_TILE) {
        NdTile t;
        size_t n = count - i < ND_TILE ? count - i : ND_TILE;
        nd_load(ND_DOUBLE, (uint32_t)y->dtype, y->data, (int64_t)(at + i), 1, n, &t);
        nd_store(ND_DOUBLE, ART_F32, s->rounded, (int64_t)i, 1, n, &t);
    }
    return s->rounded;
}

gptc_status history_prefill(gptc_session *s, int32_t sequence, const int32_t *tokens, size_t n,
                            gptc_logits_mode mode, gptc_logits_fn fn, void *user) {
    Sequence *q = &s->sequences[sequence];
    size_t first = (size_t)q->length, end = first + n;
    memcpy(history_of(s, sequence) + first, tokens, n * sizeof *tokens);
    gptc_status st = mode == GPTC_LOGITS_NONE ? GPTC_OK : history_run(s, sequence, end);
    if (st) return st;
    for (size_t at = first; fn && at < end; at += s->chunk) {
        size_t rows = end - at < s->chunk ? end - at : s->chunk;
        if (fn(user, sequence, (int32_t)at, (int32_t)rows, history_logits(s, at, rows)))
            return GPTC_E_STOPPED;
    }
    size_t vocab = s->model->meta->vocab;
    if (mode != GPTC_LOGITS_NONE)
        memcpy(s->logits + (size_t)sequence * vocab, history_logits(s, end - 1, 1), vocab * sizeof(float));
    *q = (Sequence){.length = (int32_t)end, .has_logits = mode != GPTC_LOGITS_NONE};
    return GPTC_OK;
}

/* All or none: what is kept changes once every sequence is computed. Logits are collected from the last sequence
 * to the first, since rounding goes through row 0. */
gptc_status history_step(gptc_session *s, const int32_t *sequences, const int32_t *tokens, int32_t n) {
    size_t vocab = s->model->meta->vocab;
    for (int32_t i = n; i-- > 0;) {
        int32_t q = sequences ? sequences[i] : i;
        size_t length = (size_t)s->sequences[q].length;
        history_of(s, q)[length] = tokens[i];
        gptc_status st = history_run(s, q, length + 1);
        if (st) return st;
        memmove(s->rounded + (size_t)i * vocab, history_logits(s, length, 1), vocab * sizeof(float));
    }
    for (int32_t i = 0; i < n; i++) {
        int32_t q = sequences ? sequences[i] : i;
        memcpy(s->logits + (size_t)q * vocab, s->rounded + (size_t)i * vocab, vocab * sizeof(float));
        s->sequences[q] = (Sequence){.length = s->sequences[q].length + 1, .has_logits = true};
    }
    return GPTC_OK;
}
