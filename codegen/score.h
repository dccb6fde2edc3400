/* score.h: what two artifacts say of the same windows, through the public interface, one window at a time. */
#ifndef GPTC_CODEGEN_SCORE_H
#define GPTC_CODEGEN_SCORE_H

#include "codegen/quality.h"
#include "runtime/gptc.h"

typedef struct {
    const int32_t *ids; /* the window that runs */
    int64_t from, length, vocab;
    float *base; /* log-probabilities of the base's scored rows, and of one row */
    float *row;
    bool is_base, against;
    QualitySums sums;
} Scorer;
/* Windows of `length` tokens, scored from position `from` on (Windows in passes/lossy/lossy.h); against: there is a
 * base, else each row is its own. Memory, in `a`: the logits of one window. */
Scorer scorer_new(int64_t vocab, int64_t length, int64_t from, bool against, Arena *a);
/* Runs the window in sequence 0 of both, from an empty context; base NULL where there is none. */
gptc_status scorer_window(Scorer *s, gptc_session *base, gptc_session *changed, const int32_t *ids);

#endif
