/* kernels_vnni.c: the product of one row in 8 bits, compiled for AVX-512 with VNNI; all else is AVX-512's. */
#if defined(__x86_64__)
#define CPU_LEVEL 4
#include "runtime/cpu/linear_int8.h"
#include "runtime/cpu/tables.h"

void cpu_linear_vnni(const CpuWorker *w, const CpuLinear *l) {
    if (int8_fits(l)) {
        linear_int8(w, l);
    } else {
        cpu_kernels_avx512.linear(w, l);
    }
}
#else
typedef int cpu_no_such_level;
#endif
