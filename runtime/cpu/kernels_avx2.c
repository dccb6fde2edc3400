/* kernels_avx2.c: the CPU kernels, compiled for AVX2 with FMA and F16C. */
#if defined(__x86_64__)
#define CPU_LEVEL 2
#include "runtime/cpu/kernels.h"

const CpuKernels cpu_kernels_avx2 = CPU_KERNELS("avx2", linear);
#else
typedef int cpu_no_such_level;
#endif
