/* round.c: scales searched for each group, and rounding to the nearest level.
 *
 * A scale decides which level every number of a group goes to; given the levels the best scale is a least-squares
 * quotient. So scales from well below the one that covers the largest number up to it are tried, each improved once
 * (as ggml's make_qx_quants does). Then the stored scale is chosen among the neighbours of the best by what they
 * lose as stored. Zero points, where a format has them, are tried as well. */
#include "ir/eval.h"
#include "passes/lossy/matrix.h"

#include <math.h>
#include <string.h>

#define SCALES 20
#define ZEROS 3 /* to either side of the one that fits the group's range */

typedef struct {
    const Levels *levels;
    float *w, *weight; /* one group, zeros up to a multiple of LANES */
    size_t n;
    float energy; /* sum of weight * w * w */
    float low, high;
} Group;

typedef struct {
    float scale, loss;
    int32_t zero;
} Choice;

static void group_load(Group *g, const float *w, const float *weight, int64_t n) {
    g->n = (size_t)(n + LANES - 1) / LANES * LANES;
    memset(g->w, 0, g->n * sizeof *g->w);
    memset(g->weight, 0, g->n * sizeof *g->weight);
    g->energy = g->low = g->high = 0;
    for (int64_t i = 0; i < n; i++) {
        g->w[i] = w[i];
        g->weight[i] = weight[i];
        g->energy += weight[i] * w[i] * w[i];
        g->low = fminf(g->low, w[i]);
        g->high = fmaxf(g->high, w[i]);
    }
}

static float loss_at(const Group *g, float scale, float zero, Trial *t) {
    if (!(scale > 0)) return g->energy;
    *t = levels_try(g->levels, g->w, g->weight, g->n, 1 / scale, zero);
    return g->energy + scale * (scale * t->vv - 2 * t->wv);
}

/* Tries `scale` and what the least squares of its codes give. */
static void consider(const Group *g, float scale, float zero, int32_t zero_code, Choice *best) {
    Trial t = {0};
    float loss = loss_at(g, scale, zero, &t);
    if (t.wv > 0 && t.vv > 0) {
        scale = t.wv / t.vv;
        loss = g->energy - t.wv * scale;
    }
    if (loss < best->loss) *best = (Choice){scale, loss, zero_code};
}

static float smallest_scale(uint32_t bits) {
    static const float part[] = {0.3f, 0.3f, 0.3f, 0.45f, 0.55f, 0.65f, 0.8f, 0.85f, 0.9f};
    return part[bits];
}

static Choice search(const Group *g, const QuantMatrix *q) {
    float largest = fmaxf(-g->low, g->high), from = smallest_scale(q->format->bits), to = 1.1f;
    Choice best = {0, INFINITY, 0};
    if (!(largest > 0)) return (Choice){0, 0, q->zero ? 1 << (q->format->bits - 1) : 0};
    for (int i = 0; i < SCALES; i++) {
        float part = from + (to - from) * (float)i / (SCALES - 1);
        if (!q->zero) {
            consider(g, largest / g->levels->largest * part, 0, 0, &best);
            continue;
        }
        int32_t top = (int32_t)g->levels->count - 1;
        float scale = (g->high - g->low) / (float)top * part;
        int32_t fit = (int32_t)lrintf(-g->low / (g->high - g->low) * (float)top);
        for (int32_t zero = fit - ZEROS; zero <= fit + ZEROS; zero++)
            if (zero >= 0 && zero <= top) consider(g, scale, q->grid[zero], zero, &best);
    }
    return best;
}

float fp16_nearest(float x) { return half_to_float(float_to_half(fminf(x, 65504.0f))); }

/* ---- rows ---- */

typedef struct {
    const float *w, *weight;
    const Levels *levels;
    QuantMatrix *q;
    float *buffer;  /* [workers][2][width], a group each */
    Choice *choice; /* [workers][groups] */
    size_t width;
} Search;

/* The code of the scale that loses least as stored, among those near the best. */
static uint8_t scale_code(const Group *g, const Choice *c, float row_scale, float zero, uint32_t bits) {
    int32_t top = (1 << bits) - 1, near = row_scale > 0 ? (int32_t)lrintf(c->scale / row_scale) : 0, best = 0;
    if (near > top) near = top;
    float least = INFINITY;
    for (int32_t code = near - 2; code <= near + 2 && code <= top; code++) {
        if (code < 0) continue;
        Trial t = {0};
        float loss = loss_at(g, (float)code * row_scale, zero, &t);
        if (loss < least) least = loss, best = code;
    }
    return (uint8_t)best;
}

static void row_search(void *ctx, size_t row, size_t worker) {
    const Search *s = ctx;
    QuantMatrix *q = s->q;
    int64_t width = group_width(q), first = (int64_t)row * q->groups;
    const float *w = s->w + (int64_t)row * q->cols;
    Choice *choice = s->choice + (int64_t)worker * q->groups;
    float *buffer = s->buffer + worker * 2 * s->width, largest = 0;
    Group g = {.levels = s->levels, .w = buffer, .weight = buffer + s->width};
    for (int64_t i = 0; i < q->groups; i++) {
        group_load(&g, w + i * width, s->weight + i * width, i + 1 < q->groups ? width : q->cols - i * width);
        choice[i] = search(&g, q);
        largest = fmaxf(largest, choice[i].scale);
        if (q->zero) q->zero[first + i] = (uint8_t)choice[i].zero;
        if (!q->row_scale) q->scale[first + i] = fp16_nearest(choice[i].scale);
    }
    if (!q->row_scale) return;
    float unit = fp16_nearest(largest / (float)((1u << q->format->scale_bits) - 1));
    q->row_scale[row] = unit;
    for (int64_t i = 0; i < q->groups; i++) {
        group_load(&g, w + i * width, s->weight + i * width, i + 1 < q->groups ? width : q->cols - i * width);
        uint8_t code = scale_code(&g, &choice[i], unit, group_zero(q, first + i), q->format->scale_bits);
        q->scale_code[first + i] = code;
        q->scale[first + i] = (float)code * unit;
    }
}

void scales_search(const float *w, const float *weight, const Levels *l, QuantMatrix *q) {
    Arena *a = arena_new();
    size_t width = (size_t)(group_width(q) + LANES - 1) / LANES * LANES, rows = (size_t)q->rows;
    size_t workers = parallel_workers(rows, 40.0 * SCALES * (double)q->rows * (double)q->cols);
    Search s = {w, weight, l, q, NULL, NULL, width};
    s.buffer = arena_array_of(a, workers * 2 * width, float);
    s.choice = arena_array_of(a, workers * (size_t)q->groups, Choice);
    parallel_run(rows, workers, row_search, &s);
    arena_free(a);
}

void codes_round(const float *w, const Levels *l, QuantMatrix *q) {
    int64_t width = group_width(q);
    for (int64_t r = 0; r < q->rows; r++)
        for (int64_t c = 0; c < q->cols; c++) {
            int64_t g = r * q->groups + c / width, i = r * q->cols + c;
            float inverse = q->scale[g] > 0 ? 1 / q->scale[g] : 0;
            q->codes[i] = l->code[levels_nearest(l, w[i] * inverse + group_zero(q, g))];
        }
}
