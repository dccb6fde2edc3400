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
/* The share of the budget that q uses, `errors` standard errors for the worse counted in; within it: <= 1. Infinite
 * when q holds what is no number. Budgets of bits and size are not about quality: 0. */
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
    VEC(const char *) steps; /* as step_print has them; applied first */
    bool cache, activations; /* in 8 bits (cache_round, site_round) */
    VEC(PlanSite) sites;     /* in the order of sites_find on what the steps leave */
} LossyPlan;
uint64_t graph_fingerprint(Graph *g); /* of ops, operands and constants */
PlanText windows_fingerprint(const Windows *w);
void plan_print(Text *t, const LossyPlan *p);
/* Text from outside. Names and the plan live in `a`; path is for messages. */
bool plan_parse(const char *text, size_t bytes, const char *path, Arena *a, LossyPlan *out, Diag *d);
/* The plan was made for this graph with this text; its sites are these. */
bool plan_fits(const LossyPlan *p, Graph *exact, const Windows *calibration, const char *path, Diag *d);
bool plan_fits_sites(const LossyPlan *p, const Site *sites, size_t n, const char *path, Diag *d);

/* ---- predicting (predict.c) ---- */
typedef struct {
    const Format *format;  /* NULL: stays as it is */
    double bits, loss, kl; /* stored; of the product (quantize_matrix), estimated; predicted, nats a token */
} SiteOption;
typedef struct {
    SiteOption *option; /* [0] = stays as it is */
    uint32_t n;
    double energy;      /* what a loss is relative to */
    double sensitivity; /* KL for a unit of loss, measured with this site alone rounded to `probe` */
    const Format *probe;
    double probe_kl;
} SiteForecast;

/* Told what is being done, and how much of all is done, 0..1. */
typedef struct {
    void *self;
    void (*at)(void *self, const char *what, double done);
} SearchProgress;

typedef struct {
    Graph *exact; /* STAGE_STATEFUL; left alone */
    const Site *sites;
    size_t n;
    Lab *lab;                   /* of this graph and these sites */
    const Windows *calibration; /* for moments */
    const Windows *probe;       /* for sensitivities: few */
    const Windows *evaluation;  /* for the budget; none of it in `calibration` */
    const Windows *guard;       /* more text that the budget must hold on; NULL: none */
    Budget budget;
    uint64_t weights;       /* that the model has uncompressed */
    uint64_t other_bits;    /* of what is no site */
    bool palettes;          /* formats whose codes stand for several columns: small, and slow to decode */
    uint32_t trials;        /* most times that the whole is quantised and measured; >= 1 */
    SiteForecast *forecast; /* [n], of an earlier search; made where n is 0. NULL: all are made */
    double aim;             /* predicted KL of the first trial; 0: most of the budget */
    double beat;            /* bits: a search that is expected to need more ends early; 0: any will do */
    const SearchProgress *progress; /* may be NULL */
} Search;
/* What each site costs in each format: out[n], made in `a` where its n is 0. The lab is as it was afterwards. */
bool forecast_sites(const Search *s, Arena *a, SiteForecast *out, Diag *d);

/* ---- the search (search.c) ---- */
typedef struct {
    double bits;         /* stored, of the whole model */
    double predicted_kl; /* as forecast */
    Quality measured;    /* on `evaluation` */
    Quality guarded;     /* on `guard`; zeros without one */
    double share;        /* budget_share with two standard errors, the larger of both; of a size 0 */
    uint32_t *pick;      /* [n], of each site's options */
} Trial;
typedef struct {
    SiteForecast *site; /* [n] */
    VEC(Trial) trials;  /* in the order of the search */
    size_t best;        /* of trials */
    double expected;    /* bits at which the last trial would have used the budget, predicted */
    Graph *graph;       /* the best, quantised; in its own arena */
    Arena *graph_arena; /* owned by the caller from then on; NULL when the search fails */
    bool
        out_of_reach; /* it failed, because nothing that was tried keeps the budget: no error of anything else */
} SearchResult;
/* The smallest model within the budget, or the best of that size. False with the diag set; what is closest is named
 * when nothing holds. `a` holds the result but for the graph. */
bool search_formats(const Search *s, Arena *a, SearchResult *out, Diag *d);
/* One trial with given picks, for plans: the graph and its measurements, `guarded` of zeros without a guard. */
bool search_apply(const Search *s, const Format *const *chosen, Arena *graph_arena, Graph **graph,
                  Quality *measured, Quality *guarded, Diag *d);

#endif
