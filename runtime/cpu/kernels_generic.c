/* kernels_generic.c: the CPU kernels, for any processor. */
#define CPU_LEVEL 1
#include "runtime/cpu/kernels.h"

const CpuKernels cpu_kernels_generic = CPU_KERNELS("portable", linear);
