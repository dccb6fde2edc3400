/* budget.c: budgets as text, and how much of a budget a measurement uses. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "passes/lossy/budget.h"

static const struct {
    const char *name;
    BudgetKind kind;
    double most; /* what is no longer a budget */
} kinds[] = {
    {"kl", BUDGET_KL, 100},    {"ppl", BUDGET_PPL, 0.99},   {"top1", BUDGET_TOP1, 1},
    {"bits", BUDGET_BITS, 64}, {"size", BUDGET_SIZE, 1e18},
};

/* Of a size; the rest of a number, "" and "%" included. 0 = unknown. */
static double unit_of(BudgetKind kind, const char *unit) {
    static const struct {
        const char *name;
        double bytes;
    } sizes[] = {{"", 1},     {"B", 1},        {"k", 1e3},     {"kB", 1e3}, {"K", 1e3},
                 {"KB", 1e3}, {"KiB", 1024.0}, {"M", 1e6},     {"MB", 1e6}, {"MiB", 0x1p20},
                 {"G", 1e9},  {"GB", 1e9},     {"GiB", 0x1p30}};
    if (kind == BUDGET_PPL || kind == BUDGET_TOP1) return !*unit ? 1 : !strcmp(unit, "%") ? 0.01 : 0;
    if (kind != BUDGET_SIZE) return !*unit;
    for (size_t i = 0; i < COUNT_OF(sizes); i++)
        if (!strcmp(unit, sizes[i].name)) return sizes[i].bytes;
    return 0;
}

bool budget_parse(const char *text, Budget *out, Diag *d) {
    const char *number = strchr(text, '=');
    for (size_t i = 0; number && i < COUNT_OF(kinds); i++) {
        size_t n = (size_t)(number - text);
        if (strlen(kinds[i].name) != n || strncmp(text, kinds[i].name, n) != 0) continue;
        char *end;
        double v = strtod(number + 1, &end), unit = unit_of(kinds[i].kind, end);
        *out = (Budget){kinds[i].kind, v * unit};
        if (end != number + 1 && isfinite(v) && v > 0 && unit > 0 && out->value <= kinds[i].most) return true;
        return diag_error(d, loc_none(), "budget %s: the number or its unit makes no sense; hint: %s", text,
                          kinds[i].kind == BUDGET_SIZE ? "size=50MB" : "kl=0.01, ppl=1%, top1=99%, bits=4.5");
    }
    return diag_error(d, loc_none(),
                      "budget %s: takes kl=NATS, ppl=PERCENT%%, top1=PERCENT%%, bits=B or size=BYTES", text);
}

void budget_print(Text *t, Budget b) {
    for (size_t i = 0; i < COUNT_OF(kinds); i++)
        if (kinds[i].kind == b.kind) text_printf(t, "%s=", kinds[i].name);
    text_add_float(t, b.value);
}

bool budget_of_quality(Budget b) {
    return b.kind == BUDGET_KL || b.kind == BUDGET_PPL || b.kind == BUDGET_TOP1;
}

static double share_of(Budget b, const Quality *q, double errors) {
    switch (b.kind) {
    case BUDGET_KL: return (q->mean_kl + errors * q->mean_kl_error) / b.value;
    case BUDGET_PPL: {
        double log_ratio = log(q->perplexity) - log(q->base_perplexity) + errors * q->log_ratio_error;
        return log_ratio <= 0 ? 0 : expm1(log_ratio) / b.value;
    }
    case BUDGET_TOP1: {
        double lost = 1 - q->same_top + errors * q->same_top_error, allowed = 1 - b.value;
        return lost <= 0 ? 0 : allowed > 0 ? lost / allowed : INFINITY;
    }
    default: return 0;
    }
}

/* What is no number is no quality. */
double budget_share(Budget b, const Quality *q, double errors) {
    double share = share_of(b, q, errors);
    return isnan(share) ? INFINITY : share;
}
