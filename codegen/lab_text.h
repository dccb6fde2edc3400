/* lab_text.h: what a lab keeps of each text: the base's log-probabilities, and rows of activations to start from. */
#ifndef GPTC_CODEGEN_LAB_TEXT_H
#define GPTC_CODEGEN_LAB_TEXT_H

#include "codegen/lab_model.h"

/* Before `step` one buffer is alive and no later step reads a state that was stored before: a run may start here. */
typedef struct {
    uint32_t step, width; /* floats of a row */
    uint64_t offset;      /* the buffer's, in a row */
} Boundary;
/* Of all steps of a program, rising; made in `a`. */
size_t boundaries_find(const Program *p, Arena *a, Boundary **out);

/* Memory that may be large: of the system, or beyond `in_memory` bytes in a file without a name. */
typedef struct {
    void *data;
    size_t bytes;
} Store;
bool store_new(size_t bytes, bool on_disk, Store *out,
               Diag *d); /* zeroed; pages that are not written cost nothing */
void store_free(Store *s);

/* What is kept at a boundary of a text. */
typedef struct {
    Store rows;     /* [windows][length][width]; none: not kept */
    uint64_t stamp; /* what the sites before the boundary were; 0 = nothing that can be used */
    uint64_t used;  /* when last */
} Kept;
typedef struct LabText {
    uint64_t key;  /* of tokens and shape */
    Windows shape; /* id is not kept */
    bool ready;    /* the base is computed */
    bool borrowed; /* base is another lab's */
    Store base;    /* [windows][length - 1 - from][vocab] log-probabilities; none before scoring */
    Kept *at;      /* of each boundary */
    struct LabText *next;
} LabText;

typedef struct {
    Arena *arena;
    Boundary *boundaries;
    size_t nboundaries;
    uint32_t vocab;
    size_t most; /* bytes of rows in memory, and of log-probabilities there */
    size_t held; /* of rows */
    uint64_t uses;
    LabText *first;
} LabTexts;
/* What may be kept of texts in memory, of either kind, beside so many bytes of weights. */
size_t lab_texts_most(uint64_t weight_bytes);
/* The text of these tokens, made when there is none; `base` is empty at first. */
LabText *lab_text_find(LabTexts *all, const Windows *t);
bool lab_text_reserve(const LabTexts *all, LabText *x, Diag *d); /* room for x's base */
void lab_texts_free(LabTexts *all);
/* Scored rows of one window, and where the base's of window w begin. */
static inline int64_t lab_text_scored(const LabText *x) { return x->shape.length - 1 - x->shape.from; }
static inline float *lab_text_base(const LabTexts *all, const LabText *x, int64_t window) {
    return (float *)x->base.data + window * lab_text_scored(x) * all->vocab;
}

/* Room for rows of boundaries from .. end - 1, of the last ones where there is not enough: the next run starts behind
 * what this one changes. Rows that were used least lately give way; `start` (-1: none) and what has room already stay. */
void lab_text_rows_reserve(LabTexts *all, LabText *x, int64_t start, size_t from, size_t end);
/* Rows of boundary b of windows first .. first + n - 1, kept where there is room, and brought back. */
void lab_text_keep(const LabTexts *all, LabText *x, size_t b, int64_t first, uint32_t n, const LabModel *m);
void lab_text_restore(LabTexts *all, LabText *x, size_t b, int64_t first, uint32_t n, LabModel *m);

#endif
