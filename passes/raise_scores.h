/* raise_scores.h: shared by the files that match attention from its primitives, and by nothing else. */
#ifndef GPTC_RAISE_SCORES_H
#define GPTC_RAISE_SCORES_H

#include "passes/raise.h"

#define MAX_MASKS 8
#define NEVER (-1000.0) /* a score set to this or less has no weight beside any other */

typedef enum { MASK_ADD, MASK_ALLOWED, MASK_BLOCKED, MASK_TIMES } MaskKind;
typedef struct {
    ValId v;
    MaskKind kind;
    double scale;
    Type at;
} MaskPart;
typedef struct {
    PassCtx *cx;
    Graph *g;
    const bool *taint;
    size_t ntaint;
    ValId q, kt, v, out, sink;
    double scale, softcap;
    bool sliced, turned;  /* turned: scores^T = k q^T */
    float rounding[2][3]; /* of scores and weights: step, low, high; as attention takes it */
    uint32_t masks_after; /* masks that the rounded scores pass */
    MaskPart mask[MAX_MASKS];
    uint32_t nmasks;
    Dim batch, heads;
    Loc loc;
    bool rows, merged; /* softmax over [batch, seq, heads, total]; the products merge seq and heads */
    NodeId softmax;    /* where a match begins */
    const char *why;   /* what ended it, at `off` */
    NodeId off;
} Match;

/* ---- raise_attention_match.c: the way up from the second product; what is passed is collected ---- */
/* From the left operand of the second product up to the softmax; its operand, or NO_VAL. */
ValId match_weights(Match *m, ValId p);
/* From the softmax's operand up to the product of q and k^T. */
bool match_scores(Match *m, ValId s);
/* Ends the match at the node that makes v. Returns false. */
bool match_stop(Match *m, ValId v, const char *why);
const Node *match_def(const Match *m, ValId v); /* NULL for inputs and constants */

/* ---- raise_attention_mask.c ---- */
/* One mask operand of all parts. False on an error; *out stays none without parts. */
bool match_mask(Match *m, ValId *out);
ValId match_binary(Match *m, Op op, ValId a, ValId b);
ValId match_f32(Match *m, ValId v);

#endif
