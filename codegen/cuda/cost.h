/* cost.h: how long a step of a plan takes on a GPU, predicted; nothing here was measured by this program.
 *
 * A step reads its weights and the cache once, and computes. Two forms of it are priced: a graph of kernels, each of
 * which begins with an empty memory pipeline, and one persistent kernel whose stream of weights never stops, where only
 * the chain of dependencies can be longer than the stream. cost.c says which figures the targets' rates are from. */
#ifndef GPTC_COST_H
#define GPTC_COST_H

#include "codegen/codegen.h"

/* Rates in units a second, times in seconds. */
typedef struct {
    const char *name;
    uint32_t arch, sms;
    double read;           /* bytes of device memory: what a long stream reaches, not the data sheet */
    double near;           /* bytes of L2, all SMs together */
    double matrix, vector; /* operations: fp16 in matrix units, as a large product reaches them; fp32 */
    double consume;        /* bytes of fp16 weights out of shared memory that one SM multiplies */
    double launch;         /* what a kernel of a graph adds: drain, start, cold pipeline */
    double hop;            /* a word from one SM to another that waits for it */
    double shared;         /* bytes of shared memory of a block */
} CostTarget;
/* Ends with name NULL. */
extern const CostTarget cost_targets[];
/* The target of that architecture (90: the H200), NULL when there is none. */
const CostTarget *cost_target(uint32_t arch);

typedef enum { COST_MEMORY, COST_ARITHMETIC, COST_LATENCY } CostBound;
const char *cost_bound_text(CostBound b);
typedef struct {
    double seconds;
    CostBound bound; /* the longest of the three */
} Cost;
/* One kernel that reads and writes `bytes` and computes `ops`, in matrix units or not. */
Cost cost_launch(const CostTarget *t, double bytes, double ops, bool matrix);

/* What is run: the steps of a plan, and how. */
typedef struct {
    const ArtStep *steps;
    uint32_t n_steps;
    const ArtTensor *tensors;
    const ArtState *states;    /* NULL: none is in 8 bits */
    double cache_element;      /* bytes of a number of the cache that is not */
    double part;               /* of their bytes that weights take; 0: all */
    uint32_t rows, context;    /* rows: sequences, a token each; context: keys that each of them looks at */
    uint32_t launches;         /* kernels of the graph; 0: one a step, two for attention */
    uint32_t steps_per_launch; /* of the persistent kernel; 0: 16 */
} CostPlan;
/* A program's, of one row with so many keys; its tensors' headers in the arena. */
CostPlan cost_plan(const Program *p, uint32_t context, Arena *a);
typedef struct {
    double weight_bytes, cache_bytes, ops;
    uint32_t launches, hops; /* hops: waits of the persistent kernel for other SMs */
    Cost graph, persistent;
} CostStep;
void cost_step(const CostTarget *t, const CostPlan *p, CostStep *out);

#endif
