/* cache_axes.h: what the proof of the KV cache knows of a value's axes (cache_proof.c), and the rules by which ops carry it
 * on (cache_rules.c). */
#ifndef GPTC_CACHE_AXES_H
#define GPTC_CACHE_AXES_H

#include "passes/raise.h"

#define MAX_FACTORS 6

typedef enum { K_FEATURE, K_BATCH, K_SEQ, K_TOTAL } Kind;
typedef struct {
    uint8_t n;
    Kind kind[MAX_FACTORS];
    Dim dim[MAX_FACTORS];
} Axis; /* n = 0: features */
typedef enum { S_CONST, S_ROWS, S_DIRTY } Status;
typedef struct {
    Status status;
    Axis axis[MAX_RANK];
} Label;

typedef struct {
    PassCtx *cx;
    Graph *g;
    const bool *taint, *dyn;
    Label *label; /* by value id */
} Proof;

static inline bool is_one(Dim d) { return dim_is_const(d) && d.v == 1; }
Axis axis_of(Kind k, Dim d);
Axis axis_by_dim(const Proof *p, Dim d); /* batch or seq, by its size; else features */
bool axis_is(const Axis *a, Kind k);
static inline const Type *in_type(const Proof *p, const Node *n, uint32_t i) {
    return graph_type(p->g, n->in[i]);
}

static inline const Label *in_label(const Proof *p, const Node *n, uint32_t i) {
    return &p->label[n->in[i].id];
}

/* The axes of n's result, from those of its inputs; or why they cannot be carried on. */
const char *axes_follow(const Proof *p, const Node *n, Label *out);

#endif
