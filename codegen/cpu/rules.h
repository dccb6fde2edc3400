/* rules.h: what the files of the CPU target share. */
#ifndef GPTC_CPU_RULES_H
#define GPTC_CPU_RULES_H

#include "codegen/codegen.h"

/* rules.c */
const Node *rule_node(const Lower *lw);            /* the region's first */
bool rule_refuse(Lower *lw, const char *why);      /* false, with the diag set at that node */
bool rule_vector(Lower *lw, ValId v, ArtArg *out); /* a constant, flat and plain fp32; none stays none */
int rule_axis(Lower *lw, ValId v, uint32_t axis);  /* its number among the row's features; -1: not one */
uint32_t rule_activation(const Node *n);           /* ART_ACT_* */

/* pointwise.c: a region of elementwise nodes as one program of ArtInsn. */
bool match_pointwise(Lower *lw);
bool emit_pointwise(Lower *lw);

/* routed.c: routing of rows to experts, and what chooses them. */
bool match_topk(Lower *lw);
bool emit_topk(Lower *lw);
bool match_pick(Lower *lw);
bool emit_pick(Lower *lw);
bool match_routed(Lower *lw);
bool emit_routed(Lower *lw);

#endif
