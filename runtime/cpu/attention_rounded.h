/* attention_rounded.h: attention whose scores or weights are rounded as activation quantisation rounds them. A
 * rounding needs the whole row of weights, so an item is a query and a head with all its keys. */
#ifndef RUNTIME_CPU_ATTENTION_ROUNDED_H
#define RUNTIME_CPU_ATTENTION_ROUNDED_H

#include "runtime/cpu/rows.h"

/* clamp(round(x / step), low, high) * step, for n floats. */
static void round_scores(const float r[3], float *x, size_t n) {
    if (!(r[0] > 0)) { return; }
    for (size_t i = 0; i < n; i++) {
        float v = rintf(x[i] / r[0]);
        v = v < r[1] ? r[1] : v > r[2] ? r[2] : v;
        x[i] = v * r[0];
    }
}

INLINE float state_number(StateHead h, size_t i) {
    return h.steps ? ((const int8_t *)h.numbers)[i] : ((const float *)h.numbers)[i];
}

/* What the numbers of a position have to be multiplied by. */
INLINE float state_step(StateHead h, size_t position) {
    return h.steps ? half_to_float(ART_F16, h.steps[position]) : 1;
}

static float one_score(const CpuState *k, StateHead head, const float *q, size_t key) {
    size_t first = state_first(k, key), stride = k->by_key ? 16 : 1;
    float sum = 0;
    for (size_t d = 0; d < k->dim; d++) { sum += q[d] * state_number(head, first + d * stride); }
    return sum * state_step(head, key);
}

/* Weights of keys first .. first + n; a sink only joins the sum. */
static void softmax_row(const CpuAttention *a, size_t head, float *s, size_t n) {
    float largest = a->sinks ? a->sinks[head] : -INFINITY, total = 0;
    for (size_t i = 0; i < n; i++) { largest = fmaxf(largest, s[i]); }
    for (size_t i = 0; i < n; i++) { total += s[i] = expf(s[i] - largest); }
    if (a->sinks) { total += expf(a->sinks[head] - largest); }
    for (size_t i = 0; i < n; i++) { s[i] /= total; }
}

static void attend_rounded(const CpuAttention *a, size_t row, size_t head, float *s) {
    size_t kv = head / (a->heads / a->kv_heads), at = (size_t)a->positions[row];
    size_t first = a->window && at + 1 > a->window ? at + 1 - a->window : 0, n = at + 1 - first;
    const float *q = a->q + row * a->q_stride + head * a->dim;
    StateHead k = state_head(&a->k, a->sequences[row], kv), v = state_head(&a->v, a->sequences[row], kv);
    for (size_t i = 0; i < n; i++) { s[i] = one_score(&a->k, k, q, first + i) * a->scale; }
    round_scores(a->rounding[0], s, n);
    for (size_t i = 0; i < n; i++) {
        if (a->softcap != 0) { s[i] = a->softcap * tanhf(s[i] / a->softcap); }
        if (a->slopes) { s[i] += a->slopes[head] * ((float)(first + i) - (float)at); }
    }
    softmax_row(a, head, s, n);
    round_scores(a->rounding[1], s, n);
    float sums[CPU_MAX_HEAD] = {0};
    for (size_t i = 0; i < n; i++) {
        size_t from = state_first(&a->v, first + i);
        float weight = s[i] * state_step(v, first + i);
        for (size_t d = 0; d < a->vdim; d++) { sums[d] += weight * state_number(v, from + d); }
    }
    memcpy(a->out + row * a->out_stride + head * a->vdim, sums, a->vdim * sizeof *sums);
}

static void attention_rounded(const CpuWorker *w, const CpuAttention *a) {
    size_t items = (size_t)a->rows * a->heads;
    for (size_t i; (i = pool_ticket(w->pool)) < items;) {
        attend_rounded(a, i / a->heads, i % a->heads, w->local);
    }
}

#endif
