/* reduce.h: reductions and softmax over the middle axis of outer x len x inner. */
#ifndef RUNTIME_CPU_REDUCE_H
#define RUNTIME_CPU_REDUCE_H

#include "runtime/cpu/vec_math.h"

#include <math.h>

INLINE float reduce_two(uint32_t op, float a, float b) {
    switch (op) {
    case ART_RED_MAX: return a > b || isnan(a) ? a : b;
    case ART_RED_MIN: return a < b || isnan(a) ? a : b;
    case ART_RED_PROD: return a * b;
    default: return a + b;
    }
}

/* Eight partial results keep the rounding of long sums small. */
static float reduce_line(const CpuReduce *a, const float *x) {
    size_t step = a->inner, n = a->len;
    float part[8] = {0};
    size_t parts = min_size(n, 8);
    for (size_t i = 0; i < parts; i++) { part[i] = x[i * step]; }
    for (size_t i = parts; i < n; i++) { part[i % 8] = reduce_two(a->op, part[i % 8], x[i * step]); }
    for (size_t i = 1; i < parts; i++) { part[0] = reduce_two(a->op, part[0], part[i]); }
    return a->op == ART_RED_MEAN ? part[0] / (float)n : part[0];
}

static void reduce(const CpuWorker *w, const CpuReduce *a) {
    size_t begin, end, lines = (size_t)a->outer * a->inner;
    share(w, a->rows * lines, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        size_t r = i / lines, o = i % lines / a->inner, in = i % a->inner;
        a->out[r * a->out_stride + i % lines] =
            reduce_line(a, a->x + r * a->x_stride + o * a->len * a->inner + in);
    }
}

static void softmax_line(const float *x, float *out, size_t n) {
    float largest = x[0];
    size_t i = 0;
    if (n >= VW) {
        V m = v_load(x);
        for (; i + VW <= n; i += VW) { m = v_max(m, v_load(x + i)); }
        largest = v_largest(m);
    }
    for (; i < n; i++) { largest = x[i] > largest ? x[i] : largest; }
    V sums = v_zero(), m = v_set(largest);
    for (i = 0; i + VW <= n; i += VW) {
        V e = v_exp(v_load(x + i) - m);
        sums += e;
        v_store(out + i, e);
    }
    float sum = v_sum(sums);
    if (i < n) {
        V e = v_exp(v_load_n(x + i, n - i) - m);
        v_store_n(out + i, n - i, e);
        for (size_t j = i; j < n; j++) { sum += out[j]; }
    }
    for (i = 0; i < n; i++) { out[i] /= sum; }
}

static void softmax_strided(const float *x, float *out, size_t n, size_t step) {
    float largest = x[0], sum = 0;
    for (size_t i = 1; i < n; i++) { largest = x[i * step] > largest ? x[i * step] : largest; }
    for (size_t i = 0; i < n; i++) { sum += out[i * step] = expf(x[i * step] - largest); }
    for (size_t i = 0; i < n; i++) { out[i * step] /= sum; }
}

static void softmax(const CpuWorker *w, const CpuReduce *a) {
    size_t begin, end, lines = (size_t)a->outer * a->inner;
    if (a->len == 0) { return; }
    share(w, a->rows * lines, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        size_t r = i / lines, at = i % lines / a->inner * a->len * a->inner + i % a->inner;
        const float *x = a->x + r * a->x_stride + at;
        float *out = a->out + r * a->out_stride + at;
        if (a->inner == 1) {
            softmax_line(x, out, a->len);
        } else {
            softmax_strided(x, out, a->len, a->inner);
        }
    }
}

#endif
