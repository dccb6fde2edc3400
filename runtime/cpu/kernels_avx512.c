/* kernels_avx512.c: the CPU kernels, compiled for AVX-512 F, BW, DQ and VL. */
#if defined(__x86_64__)
#define CPU_LEVEL 3
#define CPU_TABLE cpu_kernels_avx512
#define CPU_NAME "avx512"
#include "runtime/cpu/kernels.h"
#else
typedef int cpu_no_such_level;
#endif
