/* target.h: --target, and the kernels of the targets that need code. */
#ifndef GPTC_TOOLS_TARGET_H
#define GPTC_TOOLS_TARGET_H

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

typedef struct {
    uint32_t functions, launches, cached;
    size_t bytes, lines;
    double seconds;
    uint32_t spills;       /* functions that spill registers */
    const char *no_decode; /* why there is no persistent kernel; NULL: there is one */
} KernelStats;
/* Emits and compiles p's kernels and gives the KERNELS section. */
bool targets_compile(const Targets *t, Graph *g, const Program *p, Arena *a, const void **data, size_t *bytes,
                     KernelStats *stats, Diag *d);

/* Lines that predict decode speed on the GPUs of the cost model, all keys of the context filled; none when the program
 * cannot run there. */
void targets_predict(Graph *g, const Program *p, int64_t ctx, Arena *a, Text *t);

#endif
