/* cost.c: predicted time of a step (see cost.h).
 *
 * Graph: every kernel pays `launch`, then the longer of reading and computing. The difference between a graph of 100
 * kernels and the bare stream of Llama 1B's weights on an H200 was 2.2 us a kernel (msaroufim,
 * megakernels-vs-cuda-graphs, 2026), whatever the kernels did.
 *
 * Persistent: the stream runs for weights + cache, the chain of phases beside it; a phase waits for a hop, takes its
 * input out of L2, and multiplies what the ring already holds, at the rate of shared memory, by whole panels of 16
 * outputs, so some SMs have one more than others. The step takes the longer of the two. */
#include "codegen/cuda/cost.h"

#include <math.h>

/* clang-format off */
/* read, matrix: H200 a plain copy and a bf16 product of 8192^3, measured; H100 a sum of 2^30 elements and such a product,
 * pranjalssh/fast.cu; A100 gpt-fast's README, 80 % of the data sheet's matrix rate; B200 90 % and 75 % of the data sheet's.
 * launch: H100 and H200 see above; A100 a kernel of a graph, flash-vla unit-launch, and the same cold pipeline; B200 taken
 * as the H200's. hop: a release-acquire counter on an H100, flash-vla unit-atomic, others taken as that.
 * consume: 85 bytes a cycle, five wavefronts of shared memory for 512 bytes and 16-bit conversions at half rate. */
const CostTarget cost_targets[] = {
    /* name   arch  SMs  read     near    matrix  vector   consume          launch  hop     shared */
    {"A100",  80, 108, 1.70e12, 3.5e12, 250e12, 19.5e12, 85 * 1.41e9, 2.2e-6, 0.8e-6, 163 << 10},
    {"H200",  90, 132, 4.30e12, 5.5e12, 788e12, 60.0e12, 85 * 1.75e9, 2.2e-6, 0.65e-6, 227 << 10},
    {"H100",  90, 132, 3.24e12, 5.5e12, 795e12, 60.0e12, 85 * 1.75e9, 2.2e-6, 0.65e-6, 227 << 10},
    {"B200", 100, 148, 7.20e12, 8.0e12, 1690e12, 70.0e12, 85 * 1.85e9, 2.2e-6, 0.65e-6, 227 << 10},
    {0},
};
/* clang-format on */

enum { PANEL = 16, WORD = 8, STEPS_PER_LAUNCH = 16 };
static const double cold_launch = 5e-6; /* of a kernel that no graph holds */

const CostTarget *cost_target(uint32_t arch) {
    for (const CostTarget *t = cost_targets; t->name; t++)
        if (t->arch == arch) return t;
    return NULL;
}

const char *cost_bound_text(CostBound b) {
    static const char *const text[] = {
        [COST_MEMORY] = "memory", [COST_ARITHMETIC] = "arithmetic", [COST_LATENCY] = "latency"};
    return text[b];
}

static Cost cost_of(double memory, double arithmetic, double latency, double seconds) {
    CostBound b = memory >= arithmetic ? COST_MEMORY : COST_ARITHMETIC;
    return (Cost){seconds, latency > fmax(memory, arithmetic) ? COST_LATENCY : b};
}

Cost cost_launch(const CostTarget *t, double bytes, double ops, bool matrix) {
    double memory = bytes / t->read, arithmetic = ops / (matrix ? t->matrix : t->vector);
    return cost_of(memory, arithmetic, t->launch, t->launch + fmax(memory, arithmetic));
}

CostPlan cost_plan(const Program *p, uint32_t context, Arena *a) {
    ArtTensor *tensors = arena_array_of(a, p->tensors.count + 1, ArtTensor);
    for (size_t i = 0; i < p->tensors.count; i++) tensors[i] = p->tensors.data[i].art;
    return (CostPlan){.steps = p->steps.data,
                      .n_steps = (uint32_t)p->steps.count,
                      .tensors = tensors,
                      .states = p->states.data,
                      .cache_element = sizeof(float),
                      .rows = 1,
                      .context = context};
}

/* ---- a step of the plan ---- */
typedef struct {
    double weights, cache, ops;
    double n, panel_bytes; /* of a product with weights: its outputs, bytes of 16 of them */
} Work;

static double tensor_bytes(const CostPlan *p, const ArtArg *w) {
    return (double)p->tensors[w->value].bytes * (p->part > 0 ? p->part : 1);
}

static double attention_keys(const ArtAttention *u, uint32_t context) {
    return u->window && u->window < context ? u->window : context;
}

/* Of a position of a head in the cache. */
static double head_bytes(const CostPlan *p, const ArtArg *state, uint32_t dim) {
    if (p->states && p->states[state->value].kept == ART_STATE_INT8) return dim + sizeof(uint16_t);
    return dim * p->cache_element;
}

static Work step_work(const CostPlan *p, const ArtStep *s) {
    Work w = {0};
    double rows = p->rows;
    if (s->kernel == ART_K_LINEAR) {
        const ArtLinear *u = &s->u.linear;
        w.weights = tensor_bytes(p, &s->arg[1]);
        w.ops = 2.0 * u->k * u->n * rows;
        w.n = u->n;
        w.panel_bytes = w.weights / ceil(w.n / PANEL);
    } else if (s->kernel == ART_K_ROUTED) { /* no expert is chosen twice, at worst */
        const ArtRouted *u = &s->u.routed;
        double expert = tensor_bytes(p, &s->arg[2]) / u->experts;
        double used = fmin(u->experts, u->slots * rows);
        w.weights = expert * used;
        w.ops = 2.0 * u->k * u->n * u->slots * rows;
        w.n = u->n * used;
        w.panel_bytes = expert / ceil(u->n / (double)PANEL);
    } else if (s->kernel == ART_K_ATTENTION) {
        const ArtAttention *u = &s->u.attention;
        double keys = attention_keys(u, p->context) * rows;
        w.cache =
            keys * u->kv_heads * (head_bytes(p, &s->arg[1], u->dim) + head_bytes(p, &s->arg[2], u->vdim));
        w.ops = 2.0 * keys * u->heads * (u->dim + u->vdim);
    }
    return w;
}

/* A product that shares its input with the one before waits for nothing new. */
static bool same_phase(const ArtStep *a, const ArtStep *b) {
    return a && a->kernel == b->kernel && b->kernel == ART_K_LINEAR && a->arg[0].value == b->arg[0].value;
}

void cost_step(const CostTarget *t, const CostPlan *p, CostStep *out) {
    const ArtStep *last = NULL;
    double chain = 0, phase_panels = 0, compute = 0;
    *out = (CostStep){0};
    for (uint32_t i = 0; i < p->n_steps; i++) {
        const ArtStep *s = &p->steps[i];
        Work w = step_work(p, s);
        bool product = w.n > 0, attention = s->kernel == ART_K_ATTENTION;
        out->weight_bytes += w.weights;
        out->cache_bytes += w.cache;
        out->ops += w.ops;
        out->launches += attention ? 2 : 1;
        if (!product && !attention) continue;
        if (!same_phase(last, s)) {
            uint32_t hops = attention ? 2 : 1; /* attention joins the spans of its keys */
            out->hops += hops;
            chain += hops * t->hop + (double)s->arg[0].width * WORD * p->rows * t->sms / t->near;
            phase_panels = 0;
        }
        if (product) { /* panels that the busiest SM gets more, now that these are there too */
            double before = ceil(phase_panels / t->sms);
            phase_panels += ceil(w.n / PANEL);
            chain += (ceil(phase_panels / t->sms) - before) * w.panel_bytes / t->consume;
        } else {
            chain += w.cache / t->sms / t->consume;
        }
        last = s;
    }
    compute = out->ops / t->vector;
    double stream = (out->weight_bytes + out->cache_bytes) / t->read;
    uint32_t per_launch = p->steps_per_launch ? p->steps_per_launch : STEPS_PER_LAUNCH;
    if (p->launches) out->launches = p->launches;
    double latency = out->launches * t->launch;
    out->graph = cost_of(stream, compute, latency, latency + fmax(stream, compute));
    chain += t->hop + cold_launch / per_launch; /* the tokens' exchange */
    out->hops++;
    out->persistent = cost_of(stream, compute, chain, fmax(fmax(stream, chain), compute));
}
