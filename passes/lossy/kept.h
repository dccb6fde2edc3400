/* kept.h: a lab in front of another one that keeps moments; private to passes/lossy. */
#ifndef GPTC_KEPT_H
#define GPTC_KEPT_H

#include "passes/lossy/lossy.h"

typedef struct {
    Lab lab;
    Lab *of;
    const Windows *text; /* whose moments are kept, while no site is changed */
    const Site *sites;
    size_t nsites, bytes, nchanged;
    Arena *arena;
    Moments *moments; /* [nsites]; xx NULL: not known */
    bool *changed;    /* [nsites] */
} KeptLab;
/* No site of `of` is changed now. What is kept lives in `a`, at most 256 MB. */
void kept_lab_init(KeptLab *k, Lab *of, const Windows *text, const Site *sites, size_t nsites, Arena *a);

#endif
