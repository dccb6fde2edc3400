/* quality.c: KL divergence, perplexity, change of probabilities and agreement of the likeliest token, with errors.
 *
 * Means are ratios of sums over windows; their error is that of a ratio estimator, with windows as the units that are
 * drawn (Cochran, Sampling Techniques, 6.3): sqrt(W / (W - 1) sum (s_w - m r_w)^2) / sum r_w. */
#include "codegen/quality.h"

#include <math.h>
#include <stdlib.h>

void log_softmax(const float *logits, int64_t n, float *to) {
    float top = -INFINITY;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) top = logits[i] > top ? logits[i] : top;
    for (int64_t i = 0; i < n; i++) sum += (double)expf(logits[i] - top);
    double norm = (double)top + log(sum);
    for (int64_t i = 0; i < n; i++) to[i] = (float)((double)logits[i] - norm);
}

RowScore row_score(const float *base, const float *changed, int64_t n, int32_t next) {
    double kl = 0;
    int64_t top_base = 0, top_changed = 0;
    for (int64_t i = 0; i < n; i++) {
        double p = (double)expf(base[i]);
        if (p > 0) kl += p * ((double)base[i] - (double)changed[i]);
        if (base[i] > base[top_base]) top_base = i;
        if (changed[i] > changed[top_changed]) top_changed = i;
    }
    double lb = (double)base[next], lc = (double)changed[next];
    if (isnan(kl)) kl = INFINITY; /* the changed model's logits are no numbers */
    return (RowScore){-lc, -lb, kl, exp(lc) - exp(lb), top_base == top_changed};
}

void quality_window(QualitySums *q) { VEC_PUSH(q->arena, &q->windows, (WindowSums){0}); }

void quality_add(QualitySums *q, const RowScore *r) {
    WindowSums *w = &q->windows.data[q->windows.count - 1];
    const double add[SUM_COUNT] = {
        r->nll, r->base_nll, r->nll - r->base_nll, r->kl, r->dp * r->dp, r->same,
    };
    w->rows++;
    for (int i = 0; i < SUM_COUNT; i++) w->sum[i] += add[i];
    VEC_PUSH(q->arena, &q->kl, r->kl);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Between the two nearest of n sorted values. */
static double quantile(const double *sorted, size_t n, double p) {
    double at = p * (double)(n - 1);
    size_t below = (size_t)at, above = below + 1 < n ? below + 1 : below;
    double part = at - (double)below;
    return (1 - part) * sorted[below] + part * sorted[above];
}

typedef struct {
    double mean, error;
} Estimate;
static Estimate estimate(const QualitySums *q, int field) {
    double sum = 0, rows = 0, spread = 0, n = (double)q->windows.count;
    for (size_t i = 0; i < q->windows.count; i++) {
        sum += q->windows.data[i].sum[field];
        rows += q->windows.data[i].rows;
    }
    double mean = rows > 0 ? sum / rows : 0;
    for (size_t i = 0; i < q->windows.count; i++) {
        double off = q->windows.data[i].sum[field] - mean * q->windows.data[i].rows;
        spread += off * off;
    }
    return (Estimate){mean, n > 1 ? sqrt(spread * n / (n - 1)) / rows : INFINITY};
}

Quality quality_of(QualitySums *q) {
    if (!q->kl.count) return (Quality){0};
    Estimate nll = estimate(q, SUM_NLL), kl = estimate(q, SUM_KL), dp2 = estimate(q, SUM_DP2),
             same = estimate(q, SUM_SAME);
    double rms = sqrt(dp2.mean);
    qsort(q->kl.data, q->kl.count, sizeof *q->kl.data, by_value);
    return (Quality){
        .scored = (int64_t)q->kl.count,
        .perplexity = exp(nll.mean),
        .base_perplexity = exp(estimate(q, SUM_BASE_NLL).mean),
        .perplexity_error = exp(nll.mean) * nll.error,
        .log_ratio_error = estimate(q, SUM_LOG_RATIO).error,
        .mean_kl = kl.mean,
        .mean_kl_error = kl.error,
        .p99_kl = quantile(q->kl.data, q->kl.count, 0.99),
        .max_kl = q->kl.data[q->kl.count - 1],
        .rms_dp = rms,
        .rms_dp_error = rms > 0 ? dp2.error / (2 * rms) : dp2.error, /* of a square root, to first order */
        .same_top = same.mean,
        .same_top_error = same.error,
    };
}
