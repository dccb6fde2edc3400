/* raise_rope.h: shared by the files that match rotary embeddings, and by nothing else. */
#ifndef GPTC_RAISE_ROPE_H
#define GPTC_RAISE_ROPE_H

#include "passes/raise.h"

#define MAX_FEATURES 4096
#define MAX_FORMS 48
#define MAX_TABLES 8
#define MAX_MADE 8

typedef struct {
    ValId tab;
    int32_t x, ti;
    float sign;
} Term;
typedef struct {
    uint8_t n;
    Term t[2];
} Feature;
typedef struct {
    ValId v;
    uint32_t count;
    Feature *f;
} Form;

typedef struct {
    PassCtx *cx;
    Graph *g;
    const bool *taint;
    size_t ntaint;
    bool *done;  /* nodes inside a raised rotation, by node id */
    bool *named; /* inside one that was given up with a reason; NULL when nobody asks */
    size_t ndone;
    uint32_t nlead, seq_axis; /* axes before the features, and which of them is the sequence */
    ValId root, x;
    uint32_t depth, visited;
    Form form[MAX_FORMS];
    uint32_t nforms;
} Rope;

/* ---- rope_features.c: the primitives, run on feature numbers ---- */
bool rope_tainted(const Rope *r, ValId v);
/* Feature count of a value with the root's leading axes; 0 when it has none such. */
uint32_t rope_features(const Rope *r, ValId v);
/* Whether the walk passes the node; operands that lead on to x are in[0..*n). */
bool rope_passes(const Rope *r, const Node *n, ValId in[2], uint32_t *count);
/* Sets r->x to the one value that everything under v comes from; false when there are several. */
bool rope_source(Rope *r, ValId v);
/* What v's features are in those of x, or NULL. */
Form *rope_form(Rope *r, ValId v);

#endif
