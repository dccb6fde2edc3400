/* fuse.h: which steps of a plan one launch runs when rows are few: the products of one x with the norm before them,
 * gated pairs, and rotary and cache write behind them. */
#ifndef GPTC_CUDA_FUSE_H
#define GPTC_CUDA_FUSE_H

#include "codegen/codegen.h"

#define NO_STEP UINT32_MAX
enum { FUSED_PRODUCTS = 6 };

/* A product and what follows it, by step. gate: a product of the same x, whose result gates this one's. */
typedef struct {
    uint32_t linear, gate, rope, store;
} FusedProduct;

typedef struct {
    uint32_t norm; /* recomputed by every block; NO_STEP */
    uint32_t last; /* the launch stands at this step's place */
    uint32_t n;
    FusedProduct product[FUSED_PRODUCTS];
} Fused;

typedef struct {
    VEC(Fused) groups;
    uint32_t *group_of; /* of each step: index of its group, NO_STEP */
} FusePlan;

/* Whether both elements of a rotated pair lie in different panels of 16. */
static inline bool fuse_apart(const ArtRope *u) { return !u->interleaved && u->rotated > 16; }
/* Panels that a block of the group has: 2 when a product is gated or has pairs apart, else 1. */
uint32_t fuse_sides(const Program *p, const Fused *g);
/* Every linear step is in one group. Arrays live in the arena. */
void fuse_plan(const Program *p, Arena *a, FusePlan *out);

#endif
