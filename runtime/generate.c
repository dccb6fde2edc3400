/* generate.c: text to tokens and back through the model's tokenizer, and the loop that generates. */
#include "runtime/cuda/cuda.h"

gptc_status gptc_encode(const gptc_model *m, const char *text, size_t bytes, int32_t *ids, size_t cap,
                        size_t *count) {
    if (!m || (!text && bytes) || (!ids && cap) || !count) return GPTC_E_ARGUMENT;
    *count = 0;
    if (!m->tokenizer) return GPTC_E_NO_TOKENIZER;
    return tokenizer_encode(m->tokenizer, text ? text : "", bytes, true, ids, cap, count);
}

size_t gptc_token_text(const gptc_model *m, int32_t id, char *out, size_t cap) {
    if (!m || !m->tokenizer || (!out && cap)) return 0;
    return tokenizer_decode_token(m->tokenizer, id, true, out, cap);
}

gptc_status gptc_decode(const gptc_model *m, const int32_t *ids, size_t n, char *out, size_t cap,
                        size_t *bytes) {
    if (!m || (!ids && n) || (!out && cap) || !bytes) return GPTC_E_ARGUMENT;
    *bytes = 0;
    if (!m->tokenizer) return GPTC_E_NO_TOKENIZER;
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ((uint32_t)ids[i] >= m->meta->vocab && ids[i] >= tokenizer_vocab(m->tokenizer)))
            return GPTC_E_TOKEN;
    for (size_t i = 0; i < n; i++) {
        size_t at = *bytes < cap ? *bytes : cap;
        *bytes += tokenizer_decode_token(m->tokenizer, ids[i], true, cap - at ? out + at : NULL, cap - at);
    }
    return GPTC_OK;
}

/* ---- steps that draw ---- */
static bool all_there(gptc_sampler *const *samplers, int32_t n) {
    for (int32_t i = 0; i < n; i++)
        if (!samplers[i]) return false;
    return true;
}

/* What is asked of row i: rows before it may draw from the same sampler. */
static SampleOptions row_asked(gptc_sampler *const *samplers, int32_t i) {
    uint32_t before = 0;
    for (int32_t k = 0; k < i; k++) before += samplers[k] == samplers[i];
    return sampler_later(samplers[i], before);
}

gptc_status gptc_step_sample(gptc_session *s, const int32_t *sequences, const int32_t *tokens, int32_t n,
                             gptc_sampler *const *samplers, int32_t *next) {
    SampleOptions asked[CUDA_DRAWN];
    if (!s || n < 0 || (uint32_t)n > s->n_sequences || (n && (!samplers || !next)) || !all_there(samplers, n))
        return GPTC_E_ARGUMENT;
    bool there = n <= session_most_drawn(s);
    for (int32_t i = 0; there && i < n; i++) asked[i] = row_asked(samplers, i);
    gptc_status st = session_step(s, sequences, tokens, n, there ? asked : NULL, next);
    for (int32_t i = 0; i < n && !st; i++) {
        if (!there) {
            next[i] = gptc_sample(s, sequences ? sequences[i] : i, samplers[i]);
        } else {
            sampler_drawn(samplers[i], 1);
            if (next[i] < 0) next[i] = GPTC_E_NO_LOGITS;
        }
    }
    return st;
}

/* ---- generation ---- */
/* What a run ahead on a GPU gives out. */
typedef struct {
    gptc_session *s;
    gptc_token_fn fn;
    void *user;
    const SampleOptions *sampling;
    int32_t last;         /* the token given out last */
    int32_t next;         /* what was drawn to follow it; -1: nothing yet */
    uint32_t given, most; /* in this run */
    bool stop;            /* fn said so */
} Ahead;

static bool give(Ahead *a, int32_t id) {
    const Tokenizer *t = a->s->model->tokenizer;
    size_t bytes = 0;
    const char *piece = t ? tokenizer_token(t, id, true, &bytes) : "";
    a->stop = a->fn && a->fn(a->user, id, piece, bytes);
    a->last = id;
    a->given++;
    return a->stop;
}

static int give_next(void *user, int32_t id) {
    Ahead *a = user;
    a->next = id; /* the launch ends by itself when it gives no more out */
    if (a->given == a->most || id < 0 || model_stops(a->s->model, id)) return 0;
    a->next = -1;
    return give(a, id);
}

/* Gives out id and, where the session can run ahead, what follows it, and appends all that was given out. */
static gptc_status generate_some(Ahead *a, int32_t sequence, int32_t id) {
    uint32_t before = (uint32_t)gptc_length(a->s, sequence), done = 0;
    a->given = 0;
    a->next = -1;
    if (give(a, id) || a->most < 2) return gptc_step_sequences(a->s, &sequence, &id, 1);
    gptc_status st = session_ahead(a->s, sequence, id, a->most, a->sampling, give_next, a, &done);
    if (st || done == a->given) return st;
    a->next = -1; /* fn stopped it: the launch has gone further, or not as far */
    if (done > a->given) st = gptc_rewind(a->s, sequence, (int32_t)(before + a->given) - 1);
    return st ? st : gptc_step_sequences(a->s, &sequence, &a->last, 1);
}

/* A token is appended to the sequence after fn has seen it, also when fn stops: the cache always holds
 * what was given out. A stop token is neither given out nor appended. */
gptc_status gptc_generate(gptc_session *s, int32_t sequence, gptc_sampler *p, int32_t n, gptc_token_fn fn,
                          void *user, int32_t *generated) {
    int32_t made = 0;
    gptc_status st = GPTC_OK;
    if (generated) *generated = 0;
    if (!s || !p || n < 0 || gptc_length(s, sequence) < 0) return GPTC_E_ARGUMENT;
    Ahead a = {.s = s, .fn = fn, .user = user, .sampling = sampler_options(p), .next = -1};
    while (made < n && !st) {
        int32_t id = a.next;
        if (id < 0)
            id = gptc_sample(s, sequence, p);
        else
            sampler_drawn(p, 1);
        if (id < 0) return (gptc_status)id;
        if (model_stops(s->model, id)) break;
        if ((uint32_t)gptc_length(s, sequence) >= s->context) return GPTC_E_CONTEXT;
        uint32_t room = s->context - (uint32_t)gptc_length(s, sequence), left = (uint32_t)(n - made);
        a.most = session_most_ahead(s);
        if (a.most > room) a.most = room;
        if (a.most > left) a.most = left;
        st = generate_some(&a, sequence, id);
        sampler_drawn(p, a.given - 1);
        made += (int32_t)a.given;
        if (generated) *generated = made;
        if (!st && a.stop) st = GPTC_E_STOPPED;
    }
    return st;
}
