/* lab.h: the Lab of passes/lossy/lossy.h on the CPU: the model is compiled once, with all sites in fp32; a site is
 * changed by writing its weights in place, so that a candidate costs one run and no compile. */
#ifndef GPTC_CODEGEN_LAB_H
#define GPTC_CODEGEN_LAB_H

#include "codegen/codegen.h"
#include "passes/lossy/lossy.h"

/* exact: STAGE_STATEFUL, before fuse; read only, as its constants, while the lab lives. ctx: tokens a window may
 * have at most. threads: 0 = all cores. Memory: all weights once in fp32, activations of some hundred rows, what is kept
 * of texts: twice an eighth of the weights (lab_texts_most), the rest in files without names. */
bool lab_new(const Graph *exact, const Site *sites, size_t n, int64_t ctx, int threads, Lab **out, Diag *d);
void lab_free(Lab *lab); /* NULL is allowed */
/* lab's quality is against base's unchanged model from now on, instead of its own: its graph has lost parts of base's.
 * Before anything is measured; base outlives lab. */
void lab_compare(Lab *lab, Lab *base);
/* t will be measured on: its base is computed now. Later, when sites have changed, that would take a copy of them. */
bool lab_expect(Lab *lab, const Windows *t, Diag *d);

#endif
