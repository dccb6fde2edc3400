/* lab_cpu.h: what lab.c, lab_run.c and lab_moments.c share. */
#ifndef GPTC_CODEGEN_LAB_CPU_H
#define GPTC_CODEGEN_LAB_CPU_H

#include "codegen/lab.h"
#include "codegen/lab_text.h"
#include "codegen/quality.h"

/* A tensor of the program that holds a site's matrix. */
typedef struct {
    uint32_t tensor, layout;
    uint64_t offset, bytes; /* in WEIGHTS */
    uint8_t *inner;         /* its whole pages, if it has any, */
    size_t inner_bytes;
    uint8_t *edge; /* and what was at first in the pages around them, which others share */
} SitePlace;
typedef struct {
    Site site;
    WeightView *view; /* as at first: [rows][cols], or each expert's matrix */
    uint32_t matrices;
    VEC(SitePlace) places;
    uint32_t first_step; /* that reads it */
    uint32_t version;    /* 0: as at first */
} LabSite;

typedef struct LabCpu {
    Lab lab;
    struct LabCpu *base; /* whose unchanged model quality is against; NULL: this one */
    Arena *arena;
    LabModel model;
    LabSite *sites;
    size_t nsites;
    uint8_t *weights;
    uint32_t versions;
    LabTexts texts;
} LabCpu;

/* Called before `step` of the plan runs, with windows first .. first + n - 1 of the text as rows. */
typedef struct {
    bool (*fn)(void *user, LabCpu *l, uint32_t step, int64_t first, uint32_t n, Diag *d);
    void *user;
    const bool *at; /* [steps + 1]: where it is called; the last one is after all steps */
} LabVisit;
/* Runs the text up to step `end`, from the last place whose rows are known that is not after the first visit. */
bool lab_run(LabCpu *l, LabText *x, const Windows *t, uint32_t end, const LabVisit *v, Diag *d);

/* What scores rows that have run: into the base's log-probabilities, or against them. */
typedef struct {
    const Windows *windows;
    RowScore *score; /* of the rows of a batch; NULL: they are the base */
    QualitySums *sums;
    const LabText *text; /* from here on filled in */
    float *logits, *base;
    int64_t first;
    uint32_t count, vocab;
} LabScoring;
/* Of the windows first .. first + n - 1, whose rows m has just computed. */
void lab_score_batch(LabScoring *c, const LabTexts *all, LabModel *m, int64_t first, uint32_t n);
/* Runs the lab's own model on c->windows and scores it. */
bool lab_score(LabCpu *l, LabText *x, LabScoring *c, Diag *d);
/* The text of these windows; lab_text: with the base's log-probabilities. */
bool lab_text_rows(LabCpu *l, const Windows *t, LabText **out, Diag *d);
bool lab_text(LabCpu *l, const Windows *t, LabText **out, Diag *d);

/* lab.c: w [rows][cols] into all places of s; NULL: as at first */
void lab_site_fill(const LabCpu *l, const LabSite *s, const float *w);

/* lab_moments.c */
bool lab_moments(Lab *lab, const Windows *t, const uint32_t *sites, uint32_t n, Arena *a, Moments *out,
                 Diag *d);
bool lab_moments_apart(Lab *lab, const Windows *t, const uint32_t *sites, uint32_t n, Arena *a, Moments *out,
                       Diag *d);

#endif
