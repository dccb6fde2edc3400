/* grid.c: a matrix's own levels. By turns scales are searched for the levels there are, and the levels that lose
 * least at these scales are found exactly: k-means in one dimension by dynamic programming over a histogram, where
 * the best cut moves one way only (Wang and Song, Ckmeans.1d.dp, 2011; Gronlund et al., 2017). Big matrices are
 * judged by some of their rows. */
#include "passes/lossy/matrix.h"

#include <math.h>
#include <string.h>

#define BINS 2048
#define SAMPLE (1 << 18)
#define TURNS 4
#define LARGEST 127.0f

/* Sums over bins 0 .. i - 1 of weight, weight * x, weight * x * x. */
typedef struct {
    double w[BINS + 1], wx[BINS + 1], wxx[BINS + 1];
} Sums;

/* What bins from .. to - 1 lose when they share their mean. */
static double share_loss(const Sums *s, int from, int to) {
    double w = s->w[to] - s->w[from], wx = s->wx[to] - s->wx[from];
    return w > 0 ? s->wxx[to] - s->wxx[from] - wx * wx / w : 0;
}

/* loss[i], cut[i]: bins 0 .. i - 1 in one part more than before[] has. For i in lo .. hi the cut is in from .. to. */
static void divide(const Sums *s, const double *before, double *loss, int *cut, int lo, int hi, int from,
                   int to) {
    if (lo > hi) return;
    int mid = (lo + hi) / 2;
    loss[mid] = INFINITY;
    for (int at = from; at <= to && at <= mid; at++) {
        double l = before[at] + share_loss(s, at, mid);
        if (l < loss[mid]) loss[mid] = l, cut[mid] = at;
    }
    divide(s, before, loss, cut, lo, mid - 1, from, cut[mid]);
    divide(s, before, loss, cut, mid + 1, hi, cut[mid], to);
}

/* The `count` means that lose least. */
static void best_means(const Sums *s, uint32_t count, float *mean, Arena *a) {
    double *loss = arena_array_of(a, BINS + 1, double), *before = arena_array_of(a, BINS + 1, double);
    int(*cut)[BINS + 1] = arena_array(a, count, sizeof *cut);
    for (int i = 0; i <= BINS; i++) before[i] = share_loss(s, 0, i);
    for (uint32_t k = 1; k < count; k++) {
        divide(s, before, loss, cut[k], 0, BINS, 0, BINS);
        memcpy(before, loss, (BINS + 1) * sizeof *loss);
    }
    int end = BINS;
    for (uint32_t k = count; k-- > 0;) {
        int from = k ? cut[k][end] : 0;
        double w = s->w[end] - s->w[from];
        mean[k] = w > 0 ? (float)((s->wx[end] - s->wx[from]) / w) : k + 1 < count ? mean[k + 1] : 0;
        end = from;
    }
}

/* Histogram of w / scale, each number counting weight * scale^2. */
static void collect(const float *w, const float *weight, const QuantMatrix *q, Sums *s) {
    int64_t width = group_width(q);
    float largest = 0;
    for (int64_t r = 0; r < q->rows; r++)
        for (int64_t c = 0; c < q->cols; c++) {
            float scale = q->scale[r * q->groups + c / width];
            if (scale > 0) largest = fmaxf(largest, fabsf(w[r * q->cols + c] / scale));
        }
    memset(s, 0, sizeof *s);
    float step = largest > 0 ? 2 * largest / BINS : 1;
    for (int64_t r = 0; r < q->rows; r++)
        for (int64_t c = 0; c < q->cols; c++) {
            float scale = q->scale[r * q->groups + c / width];
            if (!(scale > 0)) continue;
            double x = (double)(w[r * q->cols + c] / scale),
                   n = (double)weight[c] * (double)scale * (double)scale;
            int bin = (int)((x + (double)largest) / (double)step);
            bin = bin < 0 ? 0 : bin >= BINS ? BINS - 1 : bin;
            s->w[bin + 1] += n;
            s->wx[bin + 1] += n * x;
            s->wxx[bin + 1] += n * x * x;
        }
    for (int i = 0; i < BINS; i++) {
        s->w[i + 1] += s->w[i];
        s->wx[i + 1] += s->wx[i];
        s->wxx[i + 1] += s->wxx[i];
    }
}

static void grid_set(QuantMatrix *q, const float *mean, uint32_t count) {
    float largest = 0;
    for (uint32_t i = 0; i < count; i++) largest = fmaxf(largest, fabsf(mean[i]));
    for (uint32_t i = 0; i < count; i++)
        q->grid[i] = largest > 0 ? rintf(mean[i] / largest * LARGEST) : (float)i;
}

/* Rows of w, spread evenly. */
static QuantMatrix sample(const float **w, const QuantMatrix *q, Arena *a) {
    int64_t rows = SAMPLE / q->cols < 16 ? 16 : SAMPLE / q->cols;
    if (rows > q->rows) rows = q->rows;
    QuantMatrix few;
    quant_new(q->format, rows, q->cols, a, &few);
    float *copy = arena_array_of(a, (size_t)(rows * q->cols), float);
    for (int64_t r = 0; r < rows; r++)
        memcpy(copy + r * q->cols, *w + r * q->rows / rows * q->cols, (size_t)q->cols * sizeof *copy);
    *w = copy;
    return few;
}

void grid_learn(const float *w, const float *weight, QuantMatrix *q, Arena *scratch) {
    uint32_t count = 1u << q->format->bits;
    QuantMatrix few = sample(&w, q, scratch);
    Sums *s = arena_new_of(scratch, Sums);
    float mean[MAX_LEVELS];
    Levels l;
    /* At first every group's largest number is the largest level. */
    levels_make(q->format, few.grid, &l);
    int64_t width = group_width(q);
    for (int64_t r = 0; r < few.rows; r++)
        for (int64_t c = 0; c < few.cols; c++) {
            float *scale = &few.scale[r * few.groups + c / width];
            *scale = fmaxf(*scale, fabsf(w[r * few.cols + c]));
        }
    for (int turn = 0; turn < TURNS; turn++) {
        if (turn) scales_search(w, weight, &l, &few);
        collect(w, weight, &few, s);
        best_means(s, count, mean, scratch);
        grid_set(&few, mean, count);
        levels_make(q->format, few.grid, &l);
    }
    memcpy(q->grid, few.grid, count * sizeof *q->grid);
}
