/* cost.c: what products of one row take. bench/kernels.c on one core of a Zen 3 (AVX2), 768 x 3072, in its cache; another
 * machine has other figures and, with the same instructions, much the same ratios. Palettes take rows in fp32
 * alone. */
#include "codegen/cpu/cost.h"

#include <string.h>

/* clang-format off */
static const CpuCost costs[] = {
    {"q8g32", 68, 61}, {"q8", 58, 29}, {"f8", 81, 83}, {"q6g64", 102, 67},
    {"q5g64", 92, 64}, {"n5g64", 116, 85}, {"q4g32z", 78, 86}, {"q4g32", 78, 71},
    {"q4g64", 73, 53}, {"q4g128", 70, 42}, {"n4g64", 75, 52}, {"n4", 70, 32},
    {"n3g32", 97, 64}, {"n3g64", 92, 55}, {"n3g128", 89, 49}, {"q2g32z", 78, 55},
    {"n2g32", 80, 69}, {"n2g64", 75, 53},
    {"p8v2", 408, 408}, {"p8v4", 404, 404},
};
/* clang-format on */

const CpuCost *cpu_cost(const Format *f) {
    for (size_t i = 0; f && i < COUNT_OF(costs); i++)
        if (!strcmp(costs[i].format, f->name)) return &costs[i];
    return NULL;
}
