/* inspect_artifact.h: what is in a compiled model, as a report. */
#ifndef GPTC_INSPECT_ARTIFACT_H
#define GPTC_INSPECT_ARTIFACT_H

#include "runtime/artifact.h"
#include "tools/page.h"

/* A view of an artifact that gptc_open has accepted, so that every bound holds. */
typedef struct {
    FileView file;
    const ArtSection *sections;
    uint32_t nsections;
    const ArtMeta *meta;
    const char *text;    /* META's strings */
    const ArtPlan *plan; /* NULL: a function */
    const ArtState *states;
    const ArtStep *steps;
    const ArtInsn *insns;
    const ArtFunction *function; /* NULL: a program of rows */
    const ArtTensor *tensors;
    size_t ntensors;
} ArtView;

bool art_view_open(ArtView *v, const char *path, Diag *d);
const uint8_t *art_section(const ArtView *v, uint32_t kind, size_t *bytes); /* NULL when there is none */
const char *art_text(const ArtView *v, uint32_t offset); /* of META; "" when there is none */
const char *art_dtype_text(uint32_t dtype);
void art_report_summary(Report *r, const ArtView *v);
void art_report_plan(Report *r, const ArtView *v);     /* steps, or a function's nodes */
void art_report_function(Report *r, const ArtView *v); /* inspect_function.c: ports and nodes */
void art_report_tensors(Report *r, const ArtView *v);
Bar *art_bars(const ArtView *v, Arena *a); /* one a tensor */

#endif
