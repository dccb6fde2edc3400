/* blocks.h: what the passes that change a graph's structure share beyond lossy.h; private to passes/lossy. */
#ifndef GPTC_BLOCKS_H
#define GPTC_BLOCKS_H

#include "passes/lossy/lossy.h"

/* Fills in where the block joins the residual stream as g is now. */
void block_join(Graph *g, const Uses *uses, Block *b);

#endif
