/* lab_model.h: a graph compiled for this process alone, and run window by window. */
#ifndef GPTC_CODEGEN_LAB_MODEL_H
#define GPTC_CODEGEN_LAB_MODEL_H

#include "codegen/codegen.h"
#include "passes/lossy/lossy.h"
#include "runtime/gptc.h"

typedef struct {
    Arena *arena; /* owned */
    Program *program;
    gptc_model *model;
    gptc_session *session; /* made by lab_model_windows */
    int64_t length;        /* of the windows it takes */
    uint32_t batch;        /* windows that it takes at once */
    int threads;
} LabModel;

/* Plans and lowers a copy of g (STAGE_STATEFUL). Until lab_model_open the program's tensors may be altered. */
bool lab_model_lower(const Graph *g, int64_t ctx, int threads, LabModel *out, Diag *d);
/* Writes the program to a file that no name leads to any more, and opens it. */
bool lab_model_open(LabModel *m, Diag *d);
void lab_model_free(LabModel *m); /* a zeroed one is allowed */
/* A session for windows of this length. */
bool lab_model_windows(LabModel *m, const Windows *t, Diag *d);
/* Windows first .. first + n - 1 of t become the rows (n <= batch). */
bool lab_model_begin(LabModel *m, const Windows *t, int64_t first, uint32_t n, Diag *d);
static inline uint32_t lab_model_take(const LabModel *m, const Windows *t, int64_t first) {
    return t->windows - first < m->batch ? (uint32_t)(t->windows - first) : m->batch;
}

#endif
