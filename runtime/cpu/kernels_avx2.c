/* kernels_avx2.c: the CPU kernels, compiled for AVX2 with FMA and F16C. */
#if defined(__x86_64__)
#define CPU_LEVEL 2
#define CPU_TABLE cpu_kernels_avx2
#define CPU_NAME "avx2"
#include "runtime/cpu/kernels.h"
#else
typedef int cpu_no_such_level;
#endif
