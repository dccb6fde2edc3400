/* matrix.h: what quantising one matrix is made of; private to passes/lossy. Matrices are row-major; every result is
 * the same whatever the number of threads and on every machine. */
#ifndef GPTC_MATRIX_H
#define GPTC_MATRIX_H

#include "passes/lossy/lossy.h"
#include "passes/lossy/vectors.h"

#define LANES 8
typedef float V8 __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t V8i __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* ---- products.c ---- */
/* Numbers from one row of such a matrix to the next: cols, and zeros up to a multiple of TILE. */
#define TILE 16
static inline int64_t tile_up(int64_t n) { return (n + TILE - 1) / TILE * TILE; }
/* c [m][n] += a [m][k] times b [k][n]; n is a multiple of TILE; lda, ldb, ldc: from row to row. */
void product_add(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m,
                 int64_t n, int64_t k);
void scaled_add(float *y, const float *x, float by, int64_t n); /* y += by * x */
/* Sum over the rows of x of x H x^T; xx [cols][cols], NULL: the identity. */
double quadratic_sum(const float *x, const float *xx, int64_t rows, int64_t cols);

/* ---- levels.c: the values of a scalar grid, in rising order ---- */
#define MAX_LEVELS 256
typedef struct {
    uint32_t count, span;    /* span: the next power of two */
    bool linear;             /* whole numbers from value[0] to value[count - 1] */
    float value[MAX_LEVELS]; /* rising */
    float mid[MAX_LEVELS];   /* halfway between value[i] and value[i + 1]; infinite from there to span */
    uint8_t code[MAX_LEVELS];
    float largest; /* magnitude */
} Levels;
void levels_make(const Format *f, const float *grid, Levels *out);
uint32_t levels_nearest(const Levels *l, float x); /* its place in `value` */

/* How well a scale does on n numbers (a multiple of LANES): with v the level nearest to w * inverse + zero, less
 * zero: sums of weight * v * w and weight * v * v. */
typedef struct {
    float wv, vv;
} Trial;
Trial levels_try(const Levels *l, const float *w, const float *weight, size_t n, float inverse, float zero);

/* ---- round.c ---- */
/* Scales and zero points of every group of q, as stored, by trying many; weight [cols]: how much an input counts. */
void scales_search(const float *w, const float *weight, const Levels *l, QuantMatrix *q);
void codes_round(const float *w, const Levels *l, QuantMatrix *q);
float fp16_nearest(float x); /* x >= 0; finite */
static inline int64_t group_width(const QuantMatrix *q) {
    return q->format->group ? q->format->group : q->cols;
}
static inline float group_zero(const QuantMatrix *q, int64_t group) {
    return q->zero ? q->grid[q->zero[group]] : 0;
}

/* ---- grid.c ---- */
/* A matrix's own levels: int8 values in q->grid. */
void grid_learn(const float *w, const float *weight, QuantMatrix *q, Arena *scratch);

/* ---- palette.c: codes that stand for a few columns ---- */
typedef struct {
    uint32_t entries, length;
    float part[4][MAX_LEVELS]; /* of each column of a vector: the entries' values */
} Palette;
void palette_make(const QuantMatrix *q, Palette *out);
/* Own vectors and scales of a matrix, as stored; then codes of what is nearest. */
void palette_learn(const float *w, const float *weight, QuantMatrix *q, Arena *scratch);
void palette_round(const float *w, const float *weight, QuantMatrix *q);
/* How far g is from x, by a form F [length][length]: scale * g F g - 2 * (F x) g, up to what all g share. `self` is
 * g F g of all entries, `pull` F x. The entry that is nearest. */
void palette_self(const Palette *p, const float *form, float *self);
uint32_t palette_best(const Palette *p, const float *pull, const float *self, float scale);

/* ---- gptq.c ---- */
/* Codes at q's scales with error feedback, then by turns; `loss` as of quantize_matrix. */
bool gptq_codes(const float *w, const Moments *m, bool order, QuantMatrix *q, double *loss, Diag *d);

#endif
