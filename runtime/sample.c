/* sample.c: picks a token from logits.
 *
 * Filters in the order people know from HF transformers: temperature, top-k, top-p, min-p, each on what
 * the one before left. Candidates come off a heap in falling order (equals: lowest id first), so only
 * those that may be picked are ever sorted. Random numbers: xoshiro256++ seeded through splitmix64
 * (Blackman and Vigna, prng.di.unimi.it, public domain). A NaN is no candidate. */
#include "runtime/runtime.h"

#include <math.h>
#include <stdlib.h>

struct gptc_sampler {
    gptc_sampler_options o;
    int32_t vocab;
    uint64_t state[4];
    float *weight; /* exp((logit - largest) / temperature), by id */
    int32_t *heap; /* candidates; those taken stand at its end, last taken first */
};

static uint64_t splitmix(uint64_t *x) {
    uint64_t z = *x += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

static uint64_t rotate(uint64_t x, unsigned bits) { return x << bits | x >> (64 - bits); }

/* In [0, 1), 53 bits. */
static double random_unit(gptc_sampler *p) {
    uint64_t *s = p->state, result = rotate(s[0] + s[3], 23) + s[0], t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return (double)(result >> 11) * 0x1p-53;
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
    p->o = o;
    p->vocab = (int32_t)m->meta->vocab;
    p->weight = malloc(m->meta->vocab * sizeof *p->weight);
    p->heap = malloc(m->meta->vocab * sizeof *p->heap);
    uint64_t seed = o.seed;
    for (int i = 0; i < 4; i++) p->state[i] = splitmix(&seed);
    if (!p->weight || !p->heap) {
        gptc_sampler_free(p);
        return GPTC_E_MEMORY;
    }
    *out = p;
    return GPTC_OK;
}

void gptc_sampler_free(gptc_sampler *p) {
    if (!p) return;
    free(p->weight);
    free(p->heap);
    free(p);
}

bool sampler_greedy(const gptc_sampler *p) { return p->o.temperature == 0; }

static int32_t largest(const float *logits, int32_t n) {
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++)
        if (!isnan(logits[i]) && (best < 0 || logits[i] > logits[best])) best = i;
    return best;
}

static bool before(const gptc_sampler *p, int32_t a, int32_t b) {
    return p->weight[a] != p->weight[b] ? p->weight[a] > p->weight[b] : a < b;
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

/* Picks in proportion to the weights of ids[n - 1], ids[n - 2], … ids[0]; mass is their sum. */
static int32_t draw(gptc_sampler *p, const int32_t *ids, int32_t n, double mass) {
    double left = random_unit(p) * mass;
    for (int32_t i = n - 1; i > 0; i--)
        if ((left -= (double)p->weight[ids[i]]) < 0) return ids[i];
    return ids[0];
}

/* n candidates in the heap, total the sum of their weights. */
static int32_t pick_filtered(gptc_sampler *p, int32_t n, double total) {
    int32_t most = p->o.top_k && p->o.top_k < n ? p->o.top_k : n, taken = 0;
    for (int32_t i = n / 2; i-- > 0;) sift_down(p, i, n);
    double mass = 0, wanted = (double)p->o.top_p * total;
    bool cut = most < n; /* top-p is of the mass that top-k leaves: take all those first */
    while (taken < most && (cut || mass < wanted || !taken)) {
        int32_t id = p->heap[0], end = n - ++taken;
        mass += (double)p->weight[id];
        p->heap[0] = p->heap[end];
        p->heap[end] = id;
        sift_down(p, 0, end);
    }
    int32_t kept = 0;
    wanted = cut ? (double)p->o.top_p * mass : wanted;
    mass = 0;
    while (kept < taken && (!kept || (mass < wanted && p->weight[p->heap[n - 1 - kept]] >= p->o.min_p)))
        mass += (double)p->weight[p->heap[n - 1 - kept++]];
    return draw(p, p->heap + n - kept, kept, mass);
}

int32_t gptc_sample_logits(gptc_sampler *p, const float *logits, int32_t vocab) {
    if (!p || !logits || vocab <= 0 || vocab > p->vocab) return GPTC_E_ARGUMENT;
    int32_t best = largest(logits, vocab), n = 0;
    if (best < 0) return GPTC_E_NO_LOGITS;
    if (p->o.temperature == 0 || isinf(logits[best])) return best;
    double total = 0;
    for (int32_t i = 0; i < vocab; i++) {
        float w = expf((logits[i] - logits[best]) / p->o.temperature);
        p->weight[i] = w;
        if (!(w > 0)) continue; /* NaN too */
        p->heap[n++] = i;
        total += (double)w;
    }
    if ((p->o.top_k && p->o.top_k < n) || p->o.top_p < 1) return pick_filtered(p, n, total);
    if (p->o.min_p > 0) {
        int32_t kept = 0;
        total = 0;
        for (int32_t i = 0; i < n; i++) {
            float w = p->weight[p->heap[i]];
            if (w < p->o.min_p) continue;
            total += (double)w;
            p->heap[kept++] = p->heap[i];
        }
        n = kept;
    }
    return draw(p, p->heap, n, total);
}

int32_t gptc_sample(gptc_session *s, int32_t sequence, gptc_sampler *p) {
    if (!s || !p || gptc_length(s, sequence) < 0) return GPTC_E_ARGUMENT;
    const float *logits = gptc_logits(s, sequence);
    if (!logits) return GPTC_E_NO_LOGITS;
    return gptc_sample_logits(p, logits, (int32_t)s->model->meta->vocab);
}
