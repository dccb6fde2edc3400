/* sample.c: picks a token from logits.
 *
 * Filters in the order people know from HF transformers: temperature, top-k, top-p, min-p, each on what
 * the one before left. Candidates come off a heap in falling order (equals: lowest id first), so only
 * those that may be picked are ever sorted. What is left is drawn in the order of ids. A NaN is no candidate.
 * Arithmetic and random numbers are those of sample_math.h, so a GPU draws the same. */
#include "runtime/runtime.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct gptc_sampler {
    SampleOptions o;
    int32_t vocab;
    uint32_t *key;
    int32_t *heap; /* candidates; those taken stand at its end, last taken first */
};

static SampleOptions options_math(const gptc_sampler_options *o) {
    const float log2e = 1.44269504f, most = 3e38f; /* times 0 it is 0 */
    SampleOptions m = {.top_k = (uint32_t)o->top_k,
                       .top_p = o->top_p < 1 ? (uint32_t)(o->top_p * 0x1p32f) : 0,
                       .seed = {(uint32_t)o->seed, (uint32_t)(o->seed >> 32)}};
    int exponent;
    float scale = o->temperature > 0 ? fminf(log2e / o->temperature, most) : 0,
          mantissa = 2 * frexpf(o->min_p, &exponent);
    memcpy(&m.scale, &scale, sizeof scale);
    if (o->top_p < 1 && !m.top_p) m.top_p = 1;
    if (o->min_p > 0 && exponent + SAMPLE_TOP > 1)
        m.least = (uint32_t)(exponent - 1 + SAMPLE_TOP) << SAMPLE_POINT |
                  (uint32_t)((mantissa - 1) * (1 << SAMPLE_POINT));
    return m;
}

gptc_status gptc_sampler_new(const gptc_model *m, const gptc_sampler_options *options, gptc_sampler **out) {
    if (!out) return GPTC_E_ARGUMENT;
    *out = NULL;
    gptc_sampler_options o = {0};
    options_read(&o, sizeof o, options);
    if (o.top_p == 0) o.top_p = 1; /* options that were only zeroed */
    bool ok = m && o.temperature >= 0 && isfinite(o.temperature) && o.top_k >= 0 && o.top_p > 0 &&
              o.top_p <= 1 && o.min_p >= 0 && o.min_p <= 1;
    if (!ok) return GPTC_E_ARGUMENT;
    gptc_sampler *p = calloc(1, sizeof *p);
    if (!p) return GPTC_E_MEMORY;
    p->o = options_math(&o);
    p->vocab = (int32_t)m->meta->vocab;
    p->key = malloc(m->meta->vocab * sizeof *p->key);
    p->heap = malloc(m->meta->vocab * sizeof *p->heap);
    if (!p->key || !p->heap) {
        gptc_sampler_free(p);
        return GPTC_E_MEMORY;
    }
    *out = p;
    return GPTC_OK;
}

void gptc_sampler_free(gptc_sampler *p) {
    if (!p) return;
    free(p->key);
    free(p->heap);
    free(p);
}

const SampleOptions *sampler_options(const gptc_sampler *p) { return &p->o; }

SampleOptions sampler_later(const gptc_sampler *p, uint32_t draws) {
    SampleOptions o = p->o;
    o.draws[0] += draws;
    o.draws[1] += o.draws[0] < draws;
    return o;
}

void sampler_drawn(gptc_sampler *p, uint32_t draws) {
    if (p->o.scale) p->o = sampler_later(p, draws);
}

static int32_t largest(const float *logits, int32_t n) {
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++)
        if (!isnan(logits[i]) && (best < 0 || logits[i] > logits[best])) best = i;
    return best;
}

static bool before(const gptc_sampler *p, int32_t a, int32_t b) {
    return p->key[a] != p->key[b] ? p->key[a] > p->key[b] : a < b;
}

static void sift_down(gptc_sampler *p, int32_t at, int32_t n) {
    int32_t *h = p->heap, id = h[at];
    for (int32_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(p, h[child + 1], h[child])) child++;
        if (!before(p, h[child], id)) break;
        h[at] = h[child];
    }
    h[at] = id;
}

/* The last one, in falling order, of those that top-k and top-p leave of n candidates in the heap; total: the sum of
 * their weights. */
static int32_t last_kept(gptc_sampler *p, int32_t n, uint64_t total) {
    bool cut =
        p->o.top_k && p->o.top_k < (uint32_t)n; /* top-p is of the mass that top-k leaves: take all those */
    int32_t most = cut ? (int32_t)p->o.top_k : n, taken = 0, kept = 0;
    uint64_t mass = 0, wanted = p->o.top_p ? sample_part(total, p->o.top_p) : total;
    for (int32_t i = n / 2; i-- > 0;) sift_down(p, i, n);
    while (taken < most && (cut || mass < wanted || !taken)) {
        int32_t id = p->heap[0], end = n - ++taken;
        mass += sample_weight(p->key[id]);
        p->heap[0] = p->heap[end];
        p->heap[end] = id;
        sift_down(p, 0, end);
    }
    if (cut) wanted = p->o.top_p ? sample_part(mass, p->o.top_p) : mass;
    for (mass = 0; kept < taken && (!kept || mass < wanted); kept++)
        mass += sample_weight(p->key[p->heap[n - 1 - kept]]);
    return p->heap[n - kept];
}

/* Draws, in proportion to their weights, from those of `vocab` ids that do not come after `last`, if that is one. */
static int32_t draw(gptc_sampler *p, int32_t vocab, int32_t last) {
    uint32_t cut = last < 0 ? 0 : p->key[last];
    uint64_t total = 0, sum = 0;
    int32_t picked = -1;
    for (int32_t i = 0; i < vocab; i++) {
        uint32_t *key = &p->key[i];
        if (*key < cut || (last >= 0 && *key == cut && i > last) || *key < p->o.least) *key = 0;
        if (*key) total += sample_weight(*key);
    }
    uint64_t target = sample_share(total, sample_random(&p->o, 0));
    for (int32_t i = 0; i < vocab && sum <= target; i++)
        if (p->key[i]) sum += sample_weight(p->key[picked = i]);
    sampler_drawn(p, 1);
    return picked;
}

int32_t gptc_sample_logits(gptc_sampler *p, const float *logits, int32_t vocab) {
    if (!p || !logits || vocab <= 0 || vocab > p->vocab) return GPTC_E_ARGUMENT;
    int32_t best = largest(logits, vocab), n = 0;
    if (best < 0) return sampler_drawn(p, 1), GPTC_E_NO_LOGITS;
    if (!p->o.scale) return best;
    if (isinf(logits[best])) return sampler_drawn(p, 1), best;
    float scale;
    memcpy(&scale, &p->o.scale, sizeof scale);
    uint64_t total = 0;
    for (int32_t i = 0; i < vocab; i++) {
        p->key[i] = sample_key(logits[i], logits[best], scale);
        if (!p->key[i]) continue;
        p->heap[n++] = i;
        total += sample_weight(p->key[i]);
    }
    bool some = (p->o.top_k && p->o.top_k < (uint32_t)n) || p->o.top_p;
    return draw(p, vocab, some ? last_kept(p, n, total) : -1);
}

int32_t gptc_sample(gptc_session *s, int32_t sequence, gptc_sampler *p) {
    if (!s || !p || gptc_length(s, sequence) < 0) return GPTC_E_ARGUMENT;
    const float *logits = gptc_logits(s, sequence);
    if (!logits) return GPTC_E_NO_LOGITS;
    return gptc_sample_logits(p, logits, (int32_t)s->model->meta->vocab);
}
