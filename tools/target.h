/* target.h: --target, and the kernels of the targets that need code. */
#ifndef GPTC_TOOLS_TARGET_H
#define GPTC_TOOLS_TARGET_H

#include "codegen/cuda/cost.h"
#include "codegen/cuda/nvrtc.h"

enum { TARGETS_MAX = 16 };
typedef struct {
    CudaArch cuda[TARGETS_MAX];
    uint32_t n_cuda;
    NvrtcOptions nvrtc;
    CudaOptions options;
    bool source;      /* keep the CUDA text in the file */
    const char *text; /* as asked for */
} Targets;
/* "cpu,cuda:sm_90,cuda:compute_90"; "cuda" alone means all that are common today. The CPU is always there. */
bool targets_parse(const char *text, Targets *out, Diag *d);

/* How fast one sequence decodes on a GPU, all keys of the context filled: predicted (codegen/cuda/cost.h). */
typedef struct {
    const char *gpu;
    uint32_t arch, launches; /* of the graph */
    Cost graph, persistent;  /* persistent.seconds 0: there is no such kernel */
} TargetSpeed;
typedef VEC(TargetSpeed) TargetSpeeds;
double target_rate(const TargetSpeed *s); /* tokens/s of the faster form */

typedef struct {
    uint32_t functions, launches, cached;
    size_t bytes, lines;
    double seconds;
    uint32_t spills;       /* functions that spill registers */
    const char *no_decode; /* why there is no persistent kernel; NULL: there is one */
    TargetSpeeds speeds;   /* on the GPUs that there is code for */
} KernelStats;
/* Emits and compiles p's kernels and gives the KERNELS section. */
bool targets_compile(const Targets *t, Graph *g, const Program *p, Arena *a, const void **data, size_t *bytes,
                     KernelStats *stats, Diag *d);

/* What a program would do on the GPUs that t has code for; false with the diag set when a step has no kernel. */
bool targets_speed(const Targets *t, Graph *g, const Program *p, Arena *a, TargetSpeeds *out, Diag *d);

/* How fast this machine's CPU reads, measured (memory_rate.h); rate 0: unknown. */
typedef struct {
    int64_t threads;
    double rate;
} CpuRate;
/* Lines that predict decode speed, all keys of the context filled: on this machine's CPU and all GPUs of the cost model,
 * without those when the program cannot run there; `what` before each. part: of their bytes that weights are to take. */
void targets_predict(Graph *g, const Program *p, const CpuRate *cpu, double part, const char *what, Arena *a,
                     Text *t);

#endif
