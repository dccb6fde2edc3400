/* pass.h: Graph -> Graph, one transformation a file. passes.def is the pipeline. */
#ifndef GPTC_PASS_H
#define GPTC_PASS_H

#include "ir/ir.h"

typedef enum { PASS_UNCHANGED, PASS_CHANGED, PASS_FAILED } PassResult;

/* Facts about a graph that passes need, give and keep. */
enum {
    FACT_BOUND = 1,     /* mask and positions are bound: the only input besides past state is tokens */
    FACT_CANONICAL = 2, /* no identities, double casts, foldable reshapes or transposes */
    FACT_ATTENTION = 4, /* attention, norms and activations are transformer ops */
    FACT_POSITIONS = 8, /* untainted tensors are constants, positions or dims */
    FACT_STATE = 16,    /* every sequence state is a Graph state; the cache proof holds */
    FACT_REGIONS = 32,
    FACT_ORDER = 64,
    FACT_SLOTS = 128,
};

/* What a graph becomes, which is known from the start: a program of rows with a cache, or a function that
 * runs as it is: a graph that is no GPT (no tokens or no logits), or one compiled with --no-kv-cache. */
enum { OF_ROWS = 1, OF_FUNCTION = 2, OF_ALL = OF_ROWS | OF_FUNCTION };

typedef struct {
    const char *name; /* of the counter: "attention", "norm", … */
    int64_t count;
} PassCount;

/* Runs the lossy pass of that name on g, whose contents may be replaced by another graph's; *changed counts places. */
typedef struct {
    void *self;
    bool (*run)(void *self, const char *pass, Graph *g, int64_t *changed, Diag *d);
} LossyHook;

typedef struct {
    bool kv_cache;          /* false: --no-kv-cache */
    int64_t ctx;            /* --ctx; 0 = the graph's bound, else 4096 */
    int opt_level;          /* 0..3 */
    const LossyHook *lossy; /* NULL: lossy passes do nothing */
} PassOptions;

bool graph_is_function(const Graph *g, const PassOptions *opt);

/* Why the cache could not be inserted, kept for the summary and the doctor. */
typedef struct {
    bool proven;
    const char *reason;
} CacheProof;

/* A place that nearly was what a raising pass looks for, and what is different there. */
typedef struct {
    const char *pass, *pattern; /* "raise-attention", "attention" */
    NodeId node;                /* would be gone if the pattern had matched; may be gone by now */
    const char *what, *why;     /* the node in words; the difference */
} NearMiss;
typedef struct {
    Arena *arena;
    VEC(NearMiss) items; /* one for each node and pattern: the last */
} NearMisses;

typedef struct PassCtx {
    Arena *scratch; /* freed after the pass */
    Arena *arena;   /* the graph's */
    const PassOptions *opt;
    Diag *diag;
    VEC(PassCount) counts; /* in `arena`; of the running pass */
    CacheProof proof;
    NearMisses *misses; /* NULL: nobody asks */
    const char *pass;   /* the running one */
} PassCtx;
void pass_count(PassCtx *cx, const char *name, int64_t n);
/* Called where a pattern is given up; costs nothing unless somebody asks. */
void pass_near_miss(PassCtx *cx, const Graph *g, NodeId node, const char *pattern, const char *fmt, ...)
    BASE_PRINTF(5, 6);

typedef struct {
    const char *name, *doc;
    PassResult (*run)(PassCtx *cx, Graph *g);
    int min_level;                /* runs at -O this and above */
    uint32_t of;                  /* graphs that it runs on: OF_… */
    uint32_t needs, gives, drops; /* facts */
    Stage stage;                  /* of the graph afterwards */
    bool required;                /* --disable refuses it */
} Pass;
#define PASS(fn, name, level, of, needs, gives, drops, stage, required, why)                                 \
    PassResult fn(PassCtx *cx, Graph *g);
#include "passes/passes.def"
#undef PASS
extern const Pass pass_table[]; /* in running order; ends with name NULL */
const Pass *pass_find(const char *name);
/* Pairs "before must run before after", with the reason; checked by a unit test. */
typedef struct {
    const char *before, *after, *why;
} PassOrder;
extern const PassOrder pass_order[];

/* pass.c: the manager. */
typedef struct {
    const char *passes;     /* comma-separated names; NULL = the level's pipeline */
    const char *disable;    /* comma-separated names */
    const char *stop_after; /* pass name or NULL */
    bool verify;            /* after every pass; a failure names the pass */
    bool time;              /* fill in seconds */
    NearMisses *misses;     /* filled in; may be NULL */
    bool (*before)(void *user, uint32_t index, const Pass *p, Graph *g); /* every pass; may be NULL */
    /* Called after every pass (index, pass, what it counted); may be NULL. */
    bool (*after)(void *user, uint32_t index, const Pass *p, PassResult r, const PassCount *counts,
                  size_t ncounts, double seconds, Graph *g);
    void *user;
} PassRun;
bool passes_run(Graph *g, const PassRun *run, const PassOptions *opt, CacheProof *proof, Diag *d);

/* match.c: helpers for patterns; all look through nothing, canonical form is the caller's business. */
bool match_op(const Graph *g, ValId v, Op op, Node **n); /* v is defined by op */
bool match_commutative(const Graph *g, ValId v, Op op, Op left, ValId *a,
                       ValId *b); /* a is defined by left */
/* v = op(x, c) with c a constant whose elements are all equal; for commutative ops either order. */
bool match_scalar(const Graph *g, ValId v, Op op, ValId *x, double *c);
bool match_is_scalar(const Graph *g, ValId v, double c, double rel_tol);
/* Strips broadcast/reshape/cast nodes that keep the elements of a scalar or row constant. */
ValId match_skip_moves(const Graph *g, ValId v);

/* memplan.c: slots for intervals of region numbers, pure. Returns the arena's size in bytes. */
typedef struct {
    ValId v;
    uint32_t from, to;
    uint64_t bytes, slot;
} Interval;
uint64_t memplan_place(Interval *iv, size_t n, Arena *scratch);

#endif
