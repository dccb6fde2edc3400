/* pick.h: some features of a value, computed alone; private to passes/lossy.
 *
 *   %4 = linear(%1, @w[K, N], @b)           %4' = linear(%1, @w[:, pick], @b[pick])
 *   %5 = gelu(%4)                       ->  %5' = gelu(%4')
 *
 * Goes up from a value through what treats features alike, or heads alike, down to the products that make them. A
 * cached state shrinks in place. */
#ifndef GPTC_PICK_H
#define GPTC_PICK_H

#include "ir/ir.h"

typedef struct {
    Graph *g;
    Arena *scratch;
    Diag *d;
    const Uses *uses; /* of g as it was before the first pick */
    bool dry;         /* makes nothing: only asks whether it can be done, and counts */
    bool compressed;  /* dry: it could be done but for weights that came compressed */
    uint64_t weights; /* numbers in the matrices and biases that make the picked features */
    uint64_t state;   /* numbers that are cached of them for a token */
    uint32_t depth;
} Picker;

/* Features pick[0..n) of v, in that order, as a value of type `want`: v's row axes, then static ones of n elements in
 * all. New nodes go before g->insert_before. Dry: v. NO_VAL when something in between mixes features; the diag says
 * why only where a node could not be made. */
ValId pick_features(Picker *p, ValId v, const int32_t *pick, int64_t n, const Type *want);

/* ---- constants ---- */
/* The weight v (ir.h's value_is_weight) holds plain floats; false for compressed ones. */
bool weight_is_plain(const Graph *g, ValId v);
/* v's elements as f32, row-major in v's own shape, in `a`. */
bool weight_read(Graph *g, ValId v, Arena *a, float **out, Diag *d);
/* A constant of the shape, of `like`'s dtype and stored as it is: f32, or halves, behind a cast where `like` is. Data is copied. */
ValId weight_make(Graph *g, const float *data, uint32_t rank, const int64_t *dim, ValId like, Diag *d);

#endif
