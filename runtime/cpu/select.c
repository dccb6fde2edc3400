/* select.c: which kernels this processor can run, and the sizes of scratch and caches. */
#include "runtime/cpu/sizes.h"
#include "runtime/cpu/state.h"
#include "runtime/cpu/tables.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <stdbool.h>

enum { AVX_STATE = 0x6, AVX512_STATE = 0xe6 }; /* registers the system must save: XCR0 bits */

static uint32_t saved_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int machine_level(void) {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) { return 1; }
    uint32_t state = saved_state();
    bool fma = (c & bit_FMA) && (c & bit_F16C) && (c & bit_AVX) && (state & AVX_STATE) == AVX_STATE;
    if (!fma || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2)) { return 1; }
    uint32_t need = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if ((b & need) != need || (state & AVX512_STATE) != AVX512_STATE) { return 2; }
    return c & bit_AVX512VNNI ? 4 : 3;
}

const CpuKernels *cpu_select(int level) {
    int machine = machine_level();
    switch (level ? level : machine) {
    case 1: return &cpu_kernels_generic;
    case 2: return machine >= 2 ? &cpu_kernels_avx2 : NULL;
    case 3: return machine >= 3 ? &cpu_kernels_avx512 : NULL;
    case 4: return machine >= 4 ? &cpu_kernels_vnni : NULL;
    default: return NULL;
    }
}
#else
const CpuKernels *cpu_select(int level) { return level == 0 || level == 1 ? &cpu_kernels_generic : NULL; }
#endif

static size_t up16(size_t n) { return state_up(n, 16); }

size_t cpu_state_bytes(const CpuState *s) { return s->heads * state_head_bytes(s); }

size_t cpu_linear_shared(uint32_t rows, uint32_t k) {
    return up16((rows < CPU_CHUNK_ROWS ? rows : CPU_CHUNK_ROWS) * (size_t)k) * sizeof(float);
}

size_t cpu_routed_shared(uint32_t rows, uint32_t slots, uint32_t experts) {
    return up16((size_t)rows * slots + experts + 1) * sizeof(uint32_t);
}

size_t cpu_attention_shared(uint32_t rows, uint32_t heads, uint32_t vdim, uint32_t capacity) {
    if (capacity <= 2 * CPU_SPLIT_KEYS) { return 0; }
    size_t few = rows < CPU_SPLIT_ROWS ? rows : CPU_SPLIT_ROWS;
    return few * heads * CPU_MAX_SPLITS * (up16(vdim) + 16) * sizeof(float);
}
