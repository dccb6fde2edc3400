/* cost.h: what a product of one row with a compressed matrix takes, with the row in fp32 and in 8 bits. */
#ifndef GPTC_CODEGEN_CPU_COST_H
#define GPTC_CODEGEN_CPU_COST_H

#include "passes/lossy/lossy.h"

typedef struct {
    const char *format;
    double plain, rounded; /* ps a weight on one core */
} CpuCost;
const CpuCost *cpu_cost(const Format *f); /* NULL: not measured, or f is NULL */

#endif
