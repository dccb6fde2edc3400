/* kernels_generic.c: the CPU kernels, for any processor. */
#define CPU_LEVEL 1
#define CPU_TABLE cpu_kernels_generic
#define CPU_NAME "portable"
#include "runtime/cpu/kernels.h"
