/* quality.h: how far a changed model is from its base, from their logits on the same tokens.
 *
 * The metrics are those of llama.cpp's perplexity tool. Errors are one standard error, from the spread between windows:
 * tokens of one window are not independent, windows nearly are. */
#ifndef GPTC_CODEGEN_QUALITY_H
#define GPTC_CODEGEN_QUALITY_H

#include "passes/lossy/lossy.h"

/* Log-probabilities of n logits; to may be logits. In fp32 from sums in double: the same logits give the same bits. */
void log_softmax(const float *logits, int64_t n, float *to);

typedef struct {
    double nll, base_nll; /* of the token that came next */
    double kl, dp, same;  /* same: 1 or 0 */
} RowScore;
/* Rows of log-probabilities; next: the token that came. */
RowScore row_score(const float *base, const float *changed, int64_t n, int32_t next);

enum { SUM_NLL, SUM_BASE_NLL, SUM_LOG_RATIO, SUM_KL, SUM_DP2, SUM_SAME, SUM_COUNT };
typedef struct {
    double rows, sum[SUM_COUNT]; /* over a window */
} WindowSums;
typedef struct {
    Arena *arena;
    VEC(WindowSums) windows;
    VEC(double) kl; /* of every row */
} QualitySums;
void quality_window(QualitySums *q); /* rows from here on are of a new window */
void quality_add(QualitySums *q, const RowScore *r);
Quality quality_of(QualitySums *q); /* sorts q->kl */

#endif
