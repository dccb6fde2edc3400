/* blocks.h: what the passes that change a graph's structure share beyond lossy.h; private to passes/lossy. */
#ifndef GPTC_BLOCKS_H
#define GPTC_BLOCKS_H

#include "passes/lossy/lossy.h"

/* Fills in where the block joins the residual stream as g is now. */
void block_join(Graph *g, const Uses *uses, Block *b);

/* ---- share.c: steps of STEP_SHARE ---- */
size_t share_offered(Graph *g, Arena *a, LossyStep **out);
/* The matrix for both sites: the step's removal, in `a`, and its loss. */
bool share_prepare(Graph *g, const Site *sites, Lab *lab, const Windows *calibration, LossyStep *s, Arena *a,
                   Diag *d);
bool share_apply(Graph *g, const Site *sites, const LossyStep *s, Diag *d);
/* Adds what came of it to r; keeps pairs where r keeps nothing. */
bool share_choose(const ShrinkTask *t, Arena *a, ShrinkResult *r, Diag *d);

/* ---- sparse.c ---- */
bool sparse_choose(const ShrinkTask *t, Arena *a, ShrinkResult *r, Diag *d);

#endif
