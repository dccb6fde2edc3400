/* budget.h: what a compressed model may cost, and the search for the smallest one that costs no more.
 *
 *   budget.c    budgets: as text, and how much of one a measurement uses
 *   allocate.c  the choice of one format a site
 *   plan.c      what was decided, as text that repeats it
 *   predict.c   what each site and format would cost; search.c  apply, measure, repair */
#ifndef GPTC_BUDGET_H
#define GPTC_BUDGET_H

#include "passes/lossy/lossy.h"

/* ---- budgets (budget.c) ---- */
typedef enum {
    BUDGET_NONE,
    BUDGET_KL,   /* most mean KL, nats a token */
    BUDGET_PPL,  /* most growth of perplexity: 0.01 = 1 % */
    BUDGET_TOP1, /* least share of tokens with the same most likely one, 0..1 */
    BUDGET_BITS, /* most bits a weight, of all weights that the model has uncompressed */
    BUDGET_SIZE  /* most bytes of weights */
} BudgetKind;
typedef struct {
    BudgetKind kind;
    double value;
} Budget;
/* "kl=0.01", "ppl=1%", "top1=99%", "bits=4.5", "size=50MB"; numbers as people write them. */
bool budget_parse(const char *text, Budget *out, Diag *d);
void budget_print(Text *t, Budget b); /* parses back to the same budget */
/* The share of the budget that q uses, `errors` standard errors for the worse counted in; within it: <= 1. Budgets of
 * bits and size are not about quality: 0. */
double budget_share(Budget b, const Quality *q, double errors);
bool budget_of_quality(Budget b);

/* ---- allocation (allocate.c) ---- */
typedef struct {
    double spends, costs; /* both >= 0 */
} Choice;
typedef struct {
    const Choice *choice;
    uint32_t n;
} Choices;
/* pick[i] = a choice of sites[i], so that what they spend together is at most `limit` and what they cost is least, but
 * for rounding of one part in 32,768. False when even the least spending is above the limit; pick is then that. */
bool allocate(const Choices *sites, size_t n, double limit, uint32_t *pick, Arena *scratch);

/* ---- plans (plan.c) ---- */
typedef struct {
    const char *name; /* of the site, for people */
    int64_t rows, cols;
    const Format *format; /* NULL: stays as it is */
} PlanSite;
typedef struct {
    int64_t windows, length;
    uint64_t hash; /* of the ids */
} PlanText;
typedef struct {
    uint64_t model; /* graph_fingerprint of the exact graph */
    Budget budget;
    PlanText calibration;
    VEC(PlanSite) sites; /* in the order of sites_find */
} LossyPlan;
uint64_t graph_fingerprint(Graph *g); /* of ops, operands and constants */
PlanText windows_fingerprint(const Windows *w);
void plan_print(Text *t, const LossyPlan *p);
/* Text from outside. Names and the plan live in `a`; path is for messages. */
bool plan_parse(const char *text, size_t bytes, const char *path, Arena *a, LossyPlan *out, Diag *d);
/* The plan is one of this graph with these sites, and was made with this text. */
bool plan_fits(const LossyPlan *p, Graph *g, const Site *sites, size_t n, const Windows *calibration,
               const char *path, Diag *d);

#endif
