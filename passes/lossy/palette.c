/* palette.c: a matrix's own vectors: codes that stand for two or four columns (matrix.h).
 *
 * The palette is k-means of what the rows hold, each divided by its deviation; numbers count as their inputs do.
 * Vectors fill space better than a grid of scalars does, and an entry may be any place, so at 2 bits a number less is
 * lost than with levels (vector quantisation: Gersho and Gray 1992; of weights: QuIP#, arXiv 2402.04396). */
#include "passes/lossy/matrix.h"

#include <math.h>
#include <string.h>

#define SAMPLE (1 << 14) /* vectors that the palette is made of, at most */
#define TURNS 12
#define LONGEST 4

VECTORS uint32_t palette_best(const Palette *p, const float *pull, const float *self, float scale) {
    V8 least = (V8){0} + INFINITY;
    V8i best = {0}, at = {0, 1, 2, 3, 4, 5, 6, 7};
    for (uint32_t e = 0; e < p->entries; e += LANES, at += LANES) {
        V8 loss = scale * *(const V8 *)(self + e);
        for (uint32_t i = 0; i < p->length; i++) loss -= 2 * pull[i] * *(const V8 *)(p->part[i] + e);
        V8i less = loss < least;
        least = (V8)(((V8i)loss & less) | ((V8i)least & ~less));
        best = (at & less) | (best & ~less);
    }
    uint32_t lane = 0;
    for (uint32_t i = 1; i < LANES; i++)
        if (least[i] < least[lane] || (least[i] == least[lane] && best[i] < best[lane])) lane = i;
    return (uint32_t)best[lane];
}

void palette_make(const QuantMatrix *q, Palette *out) {
    *out = (Palette){.entries = 1u << q->format->bits, .length = q->format->vector};
    for (uint32_t e = 0; e < out->entries; e++)
        for (uint32_t i = 0; i < out->length; i++) out->part[i][e] = q->grid[e * out->length + i];
}

void palette_self(const Palette *p, const float *form, float *self) {
    for (uint32_t e = 0; e < p->entries; e++) {
        float sum = 0;
        for (uint32_t i = 0; i < p->length; i++)
            for (uint32_t k = 0; k < p->length; k++)
                sum += p->part[i][e] * form[i * p->length + k] * p->part[k][e];
        self[e] = sum;
    }
}

/* What is nearest to x when part i counts weight[i]. */
static uint32_t nearest(const Palette *p, const float *x, const float *weight, float scale) {
    float form[LONGEST * LONGEST] = {0}, pull[LONGEST], self[MAX_LEVELS];
    for (uint32_t i = 0; i < p->length; i++) {
        form[i * p->length + i] = weight[i];
        pull[i] = weight[i] * x[i];
    }
    palette_self(p, form, self);
    return palette_best(p, pull, self, scale);
}

void palette_round(const float *w, const float *weight, QuantMatrix *q) {
    Palette p;
    palette_make(q, &p);
    int64_t units = q->cols / p.length;
    for (int64_t r = 0; r < q->rows; r++)
        for (int64_t u = 0; u < units; u++) {
            int64_t at = u * p.length;
            float scale = q->scale[r * q->groups + at / group_width(q)];
            q->codes[r * units + u] = (uint8_t)nearest(&p, w + r * q->cols + at, weight + at, scale);
        }
}

/* ---- k-means ---- */

typedef struct {
    float x[LONGEST], weight[LONGEST], loss;
} Sample;

/* Vectors from everywhere in the matrix, as rows' scales make them. */
static size_t take_samples(const float *w, const float *weight, const QuantMatrix *q, Sample *to) {
    size_t v = q->format->vector, units = (size_t)q->cols / v, all = (size_t)q->rows * units;
    size_t n = all < SAMPLE ? all : SAMPLE;
    for (size_t s = 0; s < n; s++) {
        size_t unit = s * all / n, row = unit / units, at = unit % units * v;
        float scale = q->scale[row * (size_t)q->groups + at / (size_t)group_width(q)];
        to[s] = (Sample){0};
        for (size_t i = 0; i < v && scale > 0; i++) {
            to[s].x[i] = w[row * (size_t)q->cols + at + i] / scale;
            to[s].weight[i] = weight[at + i] * scale * scale;
        }
    }
    return n;
}

static void assign(const Palette *p, Sample *s, size_t n, uint8_t *code) {
    for (size_t k = 0; k < n; k++) {
        uint32_t e = nearest(p, s[k].x, s[k].weight, 1);
        code[k] = (uint8_t)e;
        s[k].loss = 0;
        for (uint32_t i = 0; i < p->length; i++) {
            float away = s[k].x[i] - p->part[i][e];
            s[k].loss += s[k].weight[i] * away * away;
        }
    }
}

/* Every entry becomes the mean of its vectors; one that has none, the vector that loses most. */
static void move(Palette *p, Sample *s, size_t n, const uint8_t *code) {
    double sum[LONGEST][MAX_LEVELS] = {0}, count[LONGEST][MAX_LEVELS] = {0};
    for (size_t k = 0; k < n; k++)
        for (uint32_t i = 0; i < p->length; i++) {
            sum[i][code[k]] += (double)s[k].weight[i] * (double)s[k].x[i];
            count[i][code[k]] += (double)s[k].weight[i];
        }
    for (uint32_t e = 0; e < p->entries; e++) {
        size_t worst = 0;
        bool empty = true;
        for (uint32_t i = 0; i < p->length; i++)
            if (count[i][e] > 0) p->part[i][e] = (float)(sum[i][e] / count[i][e]), empty = false;
        if (!empty) continue;
        for (size_t k = 1; k < n; k++)
            if (s[k].loss > s[worst].loss) worst = k;
        for (uint32_t i = 0; i < p->length; i++) p->part[i][e] = s[worst].x[i];
        s[worst].loss = 0;
    }
}

static void scale_rows(const float *w, QuantMatrix *q) {
    int64_t width = group_width(q);
    for (int64_t r = 0; r < q->rows; r++)
        for (int64_t g = 0; g < q->groups; g++) {
            int64_t from = g * width, to = from + width < q->cols ? from + width : q->cols;
            double sum = 0;
            for (int64_t c = from; c < to; c++)
                sum += (double)w[r * q->cols + c] * (double)w[r * q->cols + c] / (double)(to - from);
            q->scale[r * q->groups + g] = fp16_nearest((float)sqrt(sum));
        }
}

void palette_learn(const float *w, const float *weight, QuantMatrix *q, Arena *scratch) {
    Palette p;
    Sample *s = arena_array_of(scratch, SAMPLE, Sample);
    uint8_t *code = arena_array_of(scratch, SAMPLE, uint8_t);
    scale_rows(w, q);
    size_t n = take_samples(w, weight, q, s);
    palette_make(q, &p);
    for (uint32_t e = 0; e < p.entries; e++)
        for (uint32_t i = 0; i < p.length; i++) p.part[i][e] = s[(e * n + n / 2) / p.entries % n].x[i];
    for (int turn = 0; turn < TURNS; turn++) {
        assign(&p, s, n, code);
        move(&p, s, n, code);
    }
    for (uint32_t e = 0; e < p.entries; e++)
        for (uint32_t i = 0; i < p.length; i++) {
            bool negative = p.part[i][e] < 0;
            float value = fp16_nearest(fabsf(p.part[i][e]));
            q->grid[e * p.length + i] = negative ? -value : value;
        }
}
