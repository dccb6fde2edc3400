/* rules.h: what the files of the CPU target share. */
#ifndef GPTC_CPU_RULES_H
#define GPTC_CPU_RULES_H

#include "codegen/codegen.h"

/* pointwise.c: a region of elementwise nodes as one program of ArtInsn. */
bool match_pointwise(Lower *lw);
bool emit_pointwise(Lower *lw);

#endif
