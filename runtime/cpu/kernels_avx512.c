/* kernels_avx512.c: the CPU kernels, compiled for AVX-512 F, BW, DQ and VL. */
#if defined(__x86_64__)
#define CPU_LEVEL 3
#include "runtime/cpu/kernels.h"

const CpuKernels cpu_kernels_avx512 = CPU_KERNELS("avx512", linear);
const CpuKernels cpu_kernels_vnni = CPU_KERNELS("avx512-vnni", cpu_linear_vnni);
#else
typedef int cpu_no_such_level;
#endif
