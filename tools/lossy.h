/* lossy.h: the lossy passes of a compile: their text, the lab that prices them, the search, and the gate of what comes
 * out. Set up before compile_passes, whose hook does the work; asked by compile_write. */
#ifndef GPTC_TOOLS_LOSSY_H
#define GPTC_TOOLS_LOSSY_H

#include "passes/lossy/budget.h"
#include "tools/driver.h"
#include "tools/report.h"

/* What may take 8 bits beside the weights: the KV cache; the rows that products read. */
typedef enum { NARROW_CACHE, NARROW_ROWS, NARROW_COUNT } NarrowKind;
typedef enum { NARROW_AUTO, NARROW_F32, NARROW_INT8 } NarrowChoice;

typedef struct {
    Budget budget;         /* of BUDGET_NONE kl=0.01, as -O3 alone has it */
    const char *calibrate; /* text or token ids; NULL: sampled from the model itself */
    const char *plan_in;   /* NULL: searched for */
    const char *model_path, *out;
    NarrowChoice narrow[NARROW_COUNT];
    int64_t ctx, seed;
    int threads;                                                 /* 0 = all cores */
    void (*progress)(void *user, const char *what, double done); /* may be NULL */
    void *user;
} LossyOptions;

#define LARGE_MODEL 50000000 /* weights from which on a compile does with less text and fewer trials */

/* Disjoint parts of the text. */
typedef struct {
    Windows calibration, evaluation, confirmation;
    Windows probe, steps; /* of the evaluation's first: for factors, for steps */
    Windows guard;        /* written by the model, wilder than it would be; none without a text to guard */
    int64_t there;        /* windows of the whole text */
} LossyText;

/* A change of structure that was tried. */
typedef struct {
    const char *what, *why; /* why: "" when there is nothing to say */
    double bytes, ops, kl;  /* saved; of a token */
    bool measured;          /* kl is; else predicted */
    bool kept;
} LossyNote;

/* What came of it. */
typedef struct {
    bool tried, kept;
    const char *why;
    double before,
        after; /* bytes of a position of the cache; or 1, and how much faster products get, predicted */
    double kl, worth; /* measured: what it added; what as much off the weights would add */
} LossyNarrow;

/* A graph whose matrices get formats: the exact one, or what steps left of it. */
typedef struct {
    Graph *graph;
    Site *sites;
    size_t nsites;
    uint64_t other_bits; /* of what is no site */
    const LossyStep *steps;
    size_t nsteps;
    Lab *lab;            /* of this graph; measures against the exact one */
    SearchResult search; /* no trials where a plan was given */
    LossyNarrow narrow[NARROW_COUNT];
    Quality measured, confirmed, guarded; /* on evaluation, confirmation and guard */
} LossyAttempt;

typedef struct {
    LossyOptions opt;
    const CompileWrite *write; /* for the exact artifact's tokenizer */
    Compile *c;
    bool may_shrink; /* pass prune runs */
    bool done;       /* the graph was changed */
    Graph *exact;    /* before */
    uint32_t vocab;
    int64_t context;
    uint64_t weights, exact_bits; /* uncompressed: numbers, and the bits that they are stored in */
    uint64_t packing_bits;        /* of those: what the graph's constants do not take; padding, wider types */
    LossyText text;
    LossyAttempt at; /* what was chosen */
    LossyPlan plan;
    GateReport gate, steps_gate; /* of the exact program; of the written one's steps against its whole run */
    VEC(LossyNote) notes;
    VEC(const char *) warnings;
    double speed[2];    /* decoded tokens a second of the exact and the written artifact; 0 = not measured */
    TargetSpeeds gpus;  /* what the exact program would do, where kernels are asked for; predicted */
    const char *report; /* REPORT of the artifact */
    FileWriter *exact_file; /* the exact program, for the gate; never committed */
} Lossy;

/* l keeps o's strings. */
void lossy_init(Lossy *l, Compile *c, const LossyOptions *o, const CompileWrite *w);
void lossy_free(Lossy *l);
LossyHook lossy_hook(Lossy *l);
LossyGate lossy_gate(Lossy *l); /* of a compile whose hook changed the graph */

#define LOSSY_ERRORS 2.0 /* standard errors that a budget counts in */

/* lossy_search.c: fills in `at` and `plan`, by search or from the plan given. */
bool lossy_compress(Lossy *l, Diag *d);

/* lossy_narrow.c: tries 8 bits on what x's search found, measured on evaluation and guard; `room`: when it breaks the budget, the
 * search can still make room for it. A plan that was given says it all. */
bool lossy_narrow(Lossy *l, LossyAttempt *x, NarrowKind kind, bool room, Diag *d);
double lossy_share(const Lossy *l,
                   const LossyAttempt *x); /* of the budget, on evaluation and guard: the larger */

/* lossy_text.c: reads or samples tokens and deals their windows out; how many depends on what the model costs and on its
 * products. `artifact` is the exact program, the sites are its graph's. */
bool lossy_text(Lossy *l, const Site *sites, size_t nsites, const char *artifact, Diag *d);
typedef struct {
    int64_t calibration, each; /* windows; `each` for evaluation and for confirmation */
} LossyShares;
LossyShares lossy_shares(const Graph *g, const Site *sites, size_t nsites, int64_t length, bool sampled);
LossyShares lossy_shares_of(LossyShares s, int64_t windows); /* of a text that has so many, four at least */

/* lossy_report.c */
const Trial *lossy_best(const Lossy *l);                                /* NULL where a plan was given */
void lossy_print(const Lossy *l, const CompileResult *r, Text *t);      /* for a terminal */
void lossy_report(const Lossy *l, const CompileResult *r, Report *out); /* all figures */
const char *lossy_record(const Lossy *l, Arena *a); /* REPORT: the plan and what was measured; of a
                                                     * search and of its plan the same */
/* Before any work, for --dry-run: rough, and says so. p: the exact program. */
void lossy_predict(const Lossy *l, const Program *p, const CpuRate *cpu, Text *t);
/* lossy_page.c */
const char *lossy_page(const Lossy *l, const CompileResult *r, Arena *a); /* HTML */

#endif
