/* score.c: rows of logits into log-probabilities and scores as they come from a session. */
#include "codegen/score.h"

Scorer scorer_new(int64_t vocab, int64_t length, int64_t from, bool against, Arena *a) {
    return (Scorer){.from = from,
                    .length = length,
                    .vocab = vocab,
                    .against = against,
                    .base = arena_array_of(a, (size_t)(against ? (length - from) * vocab : 0), float),
                    .row = arena_array_of(a, (size_t)vocab, float),
                    .sums.arena = a};
}

static int score_rows(void *user, int32_t sequence, int32_t first, int32_t rows, const float *logits) {
    Scorer *s = user;
    (void)sequence;
    for (int64_t i = first < s->from ? s->from - first : 0; i < rows && first + i + 1 < s->length; i++) {
        float *base = s->against ? s->base + (first + i - s->from) * s->vocab : s->row;
        log_softmax(logits + i * s->vocab, s->vocab, s->is_base ? base : s->row);
        if (s->is_base) continue;
        RowScore r = row_score(base, s->row, s->vocab, s->ids[first + i + 1]);
        quality_add(&s->sums, &r);
    }
    return 0;
}

static gptc_status run_window(gptc_session *session, Scorer *s, bool is_base) {
    s->is_base = is_base;
    gptc_status st = gptc_rewind(session, 0, 0);
    return st ? st : gptc_prefill_all(session, 0, s->ids, (size_t)s->length, score_rows, s);
}

gptc_status scorer_window(Scorer *s, gptc_session *base, gptc_session *changed, const int32_t *ids) {
    s->ids = ids;
    quality_window(&s->sums);
    gptc_status st = base ? run_window(base, s, true) : GPTC_OK;
    return st ? st : run_window(changed, s, false);
}
