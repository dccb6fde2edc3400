/* pick.h: places of the largest floats of a row, and what stands at given places. */
#ifndef RUNTIME_CPU_PICK_H
#define RUNTIME_CPU_PICK_H

#include "runtime/cpu/vec.h"

#include <string.h>

/* A NaN counts as larger than everything. */
INLINE bool topk_before(float a, float b, bool smallest) {
    if (a != a || b != b) { return smallest ? a == a && b != b : a != a && b == b; }
    return smallest ? a < b : a > b;
}

/* Insertion into the sorted places found so far: count is small. */
static void topk_line(const CpuTopk *a, const float *x, float *out) {
    size_t found = 0;
    for (size_t i = 0; i < a->len; i++) {
        size_t at = found;
        while (at > 0 && topk_before(x[i], x[(size_t)out[at - 1]], a->smallest)) { at--; }
        if (at == a->count) { continue; }
        if (found < a->count) { found++; }
        memmove(out + at + 1, out + at, (found - 1 - at) * sizeof *out);
        out[at] = (float)i;
    }
}

static void topk(const CpuWorker *w, const CpuTopk *a) {
    size_t begin, end;
    share(w, (size_t)a->rows * a->outer, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        size_t r = i / a->outer, o = i % a->outer;
        topk_line(a, a->x + r * a->x_stride + o * a->len, a->out + r * a->out_stride + o * a->count);
    }
}

/* The place that a float names, or len. */
INLINE size_t place_of(float index, size_t len) {
    return index >= 0 && index < (float)len ? (size_t)index : len;
}

static void pick(const CpuWorker *w, const CpuPick *a) {
    size_t begin, end;
    share(w, (size_t)a->rows * a->outer, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        size_t r = i / a->outer, o = i % a->outer;
        const float *x = a->x + r * a->x_stride + o * a->x_step;
        const float *index = a->index + r * a->index_stride + o * a->count;
        float *out = a->out + r * a->out_stride + o * a->count * a->inner;
        for (size_t c = 0; c < a->count; c++, out += a->inner) {
            size_t at = place_of(index[c], a->len);
            if (at == a->len) {
                memset(out, 0, a->inner * sizeof *out);
            } else {
                memcpy(out, x + at * a->inner, a->inner * sizeof *out);
            }
        }
    }
}

#endif
