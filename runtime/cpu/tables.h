/* tables.h: the tables that cpu_select picks from. */
#ifndef RUNTIME_CPU_TABLES_H
#define RUNTIME_CPU_TABLES_H

#include "runtime/cpu/cpu.h"

extern const CpuKernels cpu_kernels_generic, cpu_kernels_avx2, cpu_kernels_avx512, cpu_kernels_vnni;

void cpu_linear_vnni(const CpuWorker *w, const CpuLinear *l);

#endif
