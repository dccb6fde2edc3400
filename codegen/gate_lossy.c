/* gate_lossy.c: the second gate of a verified compile. What the lossy passes made is held to itself, stepwise against
 * whole, and to its budget against the exact program. */
#include <math.h>
#include <string.h>

#include "codegen/gate.h"
#include "codegen/score.h"
#include "ir/tolerance.h"

/* ---- the artifact against itself ---- */

typedef struct {
    float *to; /* [GATE_BATCH][tokens][vocab] */
    int64_t tokens, vocab;
} Rows;

static int keep_rows(void *user, int32_t sequence, int32_t first, int32_t rows, const float *logits) {
    const Rows *r = user;
    memcpy(r->to + (sequence * r->tokens + first) * r->vocab, logits,
           (size_t)(rows * r->vocab) * sizeof(float));
    return 0;
}

static gptc_status whole_run(gptc_model *m, const int32_t *ids, Rows *r, gptc_detail *why) {
    gptc_session *s = NULL;
    gptc_session_options o = {
        .struct_size = sizeof o, .sequences = GATE_BATCH, .context = (int32_t)r->tokens};
    gptc_status st = gptc_session_new(m, &o, &s, why);
    for (int32_t b = 0; b < GATE_BATCH && !st; b++)
        st = gptc_prefill_all(s, b, ids + b * r->tokens, (size_t)r->tokens, keep_rows, r);
    gptc_session_free(s);
    return st;
}

static bool steps_agree(const GateLossy *x, gptc_model *m, const gptc_model_info *info, Arena *a,
                        GateReport *out, Diag *d) {
    static const GateTolerance plain = {TOL_LOGITS_F32, TOL_LOGITS_F32, INFINITY, "fp32"};
    static const GateTolerance rounds = {TOL_LOGITS_QUANT, TOL_LOGITS_QUANT_RMS, TOL_LOGITS_QUANT_KL,
                                         "quantised activations"};
    const GateTolerance *tol = x->rounds ? &rounds : &plain;
    GateCompare c = {.tokens = info->context < GATE_TOKENS ? info->context : GATE_TOKENS,
                     .vocab = info->vocab,
                     .worst = "nowhere"};
    gptc_detail why = {""};
    int32_t *ids = gate_tokens(c.tokens, c.vocab, x->seed, a);
    Rows whole = {arena_array_of(a, (size_t)(GATE_BATCH * c.tokens * c.vocab), float), c.tokens, c.vocab};
    c.ref = whole.to;
    gptc_status st = whole_run(m, ids, &whole, &why);
    if (!st) st = gate_run(x->artifact, ids, gptc_inputs(m) == 0, &c, &why);
    if (st)
        return diag_bug(d, loc_none(), "the compressed model does not run: %s (%s)", gptc_strerror(st),
                        why.text);
    if (gate_holds(&c, tol, GATE_BATCH * c.tokens, out)) return true;
    return diag_error(
        d, loc_none(),
        "verification failed: the compressed model's logits differ by %.2g of their deviation %.3g "
        "between its whole run and %s (allowed for %s: %.0e); no file was written",
        out->max_err / out->ref_std, out->ref_std, out->worst, tol->kind, tol->max);
}

/* ---- the artifact against the exact one ---- */

static gptc_status text_score(gptc_model *exact, gptc_model *changed, const Windows *t, Scorer *s,
                              gptc_detail *why) {
    gptc_session *base = NULL, *session = NULL;
    gptc_session_options o = {.struct_size = sizeof o, .context = (int32_t)t->length};
    gptc_status st = gptc_session_new(exact, &o, &base, why);
    if (!st) st = gptc_session_new(changed, &o, &session, why);
    for (int64_t i = 0; i < t->windows && !st; i++)
        st = scorer_window(s, base, session, t->id + i * t->length);
    gptc_session_free(base);
    gptc_session_free(session);
    return st;
}

static bool text_holds(const GateLossy *x, gptc_model *m, const gptc_model_info *info, Arena *a, Quality *q,
                       Diag *d) {
    gptc_model *exact = NULL;
    gptc_detail why = {""};
    gptc_model_info other = {.struct_size = sizeof other};
    gptc_status st = gptc_open(x->exact, NULL, &exact, &why);
    if (!st) gptc_model_get_info(exact, &other);
    if (!st && other.vocab != info->vocab) st = GPTC_E_SHAPE;
    Scorer s = scorer_new(info->vocab, x->text->length, x->text->from, true, a);
    if (!st) st = text_score(exact, m, x->text, &s, &why);
    gptc_close(exact);
    if (st)
        return diag_bug(d, loc_none(), "the compressed model cannot be held to its budget: %s (%s)",
                        gptc_strerror(st), why.text);
    *q = quality_of(&s.sums);
    return x->holds(x->user, q, d);
}

bool gate_lossy(const GateLossy *x, Arena *a, GateReport *steps, Quality *q, Diag *d) {
    gptc_model *m;
    gptc_detail why = {""};
    gptc_model_info info = {.struct_size = sizeof info};
    gptc_status st = gptc_open(x->artifact, NULL, &m, &why);
    if (st)
        return diag_bug(d, loc_none(), "the written file does not open: %s (%s)", gptc_strerror(st),
                        why.text);
    gptc_model_get_info(m, &info);
    bool ok = steps_agree(x, m, &info, a, steps, d) && (!x->text || text_holds(x, m, &info, a, q, d));
    gptc_close(m);
    return ok;
}
