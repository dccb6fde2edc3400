/* levels.c: rounding to the nearest of a grid's values (matrix.h). */
#include "passes/lossy/matrix.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WHOLE 12582912.0f /* 1.5 * 2^23: adding it rounds to a whole number, ties to even */

/* Lane by lane: a where the mask is set, else b. */
#define PICK(mask, a, b) ((V8)(((V8i)(a) & (mask)) | ((V8i)(b) & ~(mask))))

typedef struct {
    float value;
    uint8_t code;
} Level;

static int by_value(const void *a, const void *b) {
    const Level *x = a, *y = b;
    return x->value != y->value ? (x->value > y->value) - (x->value < y->value)
                                : (x->code > y->code) - (x->code < y->code);
}

void levels_make(const Format *f, const float *grid, Levels *out) {
    Level sorted[MAX_LEVELS];
    uint32_t n = 0;
    for (uint32_t i = 0; i < 1u << f->bits; i++)
        if (isfinite(grid[i])) sorted[n++] = (Level){grid[i], (uint8_t)i};
    qsort(sorted, n, sizeof *sorted, by_value);
    *out = (Levels){.linear = f->grid == GRID_LINEAR};
    for (uint32_t i = 0; i < n; i++) {
        if (out->count && out->value[out->count - 1] == sorted[i].value) continue;
        out->value[out->count] = sorted[i].value;
        out->code[out->count++] = sorted[i].code;
        out->largest = fmaxf(out->largest, fabsf(sorted[i].value));
    }
    for (out->span = 1; out->span < out->count;) out->span *= 2;
    for (uint32_t i = 0; i + 1 < out->span; i++)
        out->mid[i] = i + 1 < out->count ? (out->value[i] + out->value[i + 1]) / 2 : INFINITY;
}

uint32_t levels_nearest(const Levels *l, float x) {
    if (l->linear) {
        float v = fminf(fmaxf(x, l->value[0]), l->value[l->count - 1]);
        return (uint32_t)((v + WHOLE) - WHOLE - l->value[0]);
    }
    uint32_t low = 0;
    for (uint32_t half = l->span / 2; half; half /= 2) /* no branch: which way it goes nobody can guess */
        low += x > l->mid[low + half - 1] ? half : 0;
    return low;
}

static float sum(const V8 *v) {
    const V8 x = *v;
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

VECTORS static Trial try_linear(const Levels *l, const float *w, const float *weight, size_t n, float inverse,
                                float zero) {
    V8 wv = {0}, vv = {0}, low = (V8){0} + l->value[0], high = (V8){0} + l->value[l->count - 1];
    for (size_t i = 0; i < n; i += LANES) {
        V8 x = *(const V8 *)(w + i), h = *(const V8 *)(weight + i), v = x * inverse + zero;
        v = PICK(v > low, v, low);
        v = PICK(v < high, v, high);
        v = (v + WHOLE) - WHOLE - zero;
        wv += h * v * x;
        vv += h * v * v;
    }
    return (Trial){sum(&wv), sum(&vv)};
}

VECTORS static Trial try_chosen(const Levels *l, const float *w, const float *weight, size_t n,
                                float inverse) {
    V8 wv = {0}, vv = {0};
    for (size_t i = 0; i < n; i += LANES) {
        V8 x = *(const V8 *)(w + i), h = *(const V8 *)(weight + i), y = x * inverse;
        V8 v = (V8){0} + l->value[0];
        for (uint32_t k = 0; k + 1 < l->count; k++) {
            V8 level = (V8){0} + l->value[k + 1];
            v = PICK(y > l->mid[k], level, v);
        }
        wv += h * v * x;
        vv += h * v * v;
    }
    return (Trial){sum(&wv), sum(&vv)};
}

static Trial try_many(const Levels *l, const float *w, const float *weight, size_t n, float inverse) {
    Trial t = {0};
    for (size_t i = 0; i < n; i++) {
        float v = l->value[levels_nearest(l, w[i] * inverse)];
        t.wv += weight[i] * v * w[i];
        t.vv += weight[i] * v * v;
    }
    return t;
}

Trial levels_try(const Levels *l, const float *w, const float *weight, size_t n, float inverse, float zero) {
    if (l->linear) return try_linear(l, w, weight, n, inverse, zero);
    return l->count <= 32 ? try_chosen(l, w, weight, n, inverse) : try_many(l, w, weight, n, inverse);
}
