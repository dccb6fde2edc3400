/* kernel_tables.c: where a model's kernels are described (inspect_kernels.h), as the runtime checks it. */
#include "tools/inspect_kernels.h"

#include "runtime/cuda/cuda.h"

gptc_status kernel_tables(const gptc_model *m, KernelTables *out, gptc_detail *why) {
    CudaKernels k;
    gptc_status st = cuda_kernels_check(m, &k, why);
    if (!st) *out = (KernelTables){k.head, k.images, k.functions, k.launches, k.text};
    return st;
}
