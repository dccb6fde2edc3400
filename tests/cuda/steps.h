/* steps.h: the steps that steps.c emits and steps.cpp runs, in C and C++: elementwise programs of every instruction, and
 * products with chosen matrices. */
#ifndef TESTS_CUDA_STEPS_H
#define TESTS_CUDA_STEPS_H

#include "runtime/artifact.h"

#include <string.h>

enum { LEAST_WIDTH_CASES = 3, POINT_CASES = ART_I_COUNT * LEAST_WIDTH_CASES, POINT_INSNS = 5 };
#define STEP_ALPHA 1.7f

/* Of operand k of a case: where it lies, floats (of a row), and how element i finds its number: i / div % mod. */
typedef struct {
    uint32_t kind, width, div;
} StepInput;
typedef struct {
    uint32_t op, width;
    StepInput in[3];
} PointCase;

static inline bool point_is_case(uint32_t i) {
    uint32_t op = i / LEAST_WIDTH_CASES;
    return op != ART_I_LOAD && op != ART_I_STORE;
}
static inline PointCase point_case(uint32_t i) {
    const uint32_t widths[LEAST_WIDTH_CASES] = {1, 33, 300}, w = widths[i % LEAST_WIDTH_CASES];
    const StepInput inputs[3][3] = {
        {{ART_ARG_ROWS, w, 1}, {ART_ARG_ROWS, w, 1}, {ART_ARG_ROWS, w, 1}},
        {{ART_ARG_ROWS, w, 1}, {ART_ARG_ROWS, (w + 2) / 3, 3}, {ART_ARG_TENSOR, 7, 1}},
        {{ART_ARG_POSITIONS, 1, 1}, {ART_ARG_TENSOR, w, 1}, {ART_ARG_ROWS, 5, 2}}};
    PointCase c = {i / LEAST_WIDTH_CASES, w, {{0, 0, 0}, {0, 0, 0}, {0, 0, 0}}};
    memcpy(c.in, inputs[(i + c.op) % 3], sizeof c.in);
    return c;
}

/* The registers of the operands are used again for the result. */
static inline void point_insns(const PointCase *c, ArtInsn insns[POINT_INSNS]) {
    memset(insns, 0, POINT_INSNS * sizeof *insns);
    for (uint8_t k = 0; k < 3; k++) {
        insns[k].op = ART_I_LOAD, insns[k].dst = k, insns[k].a = k;
        insns[k].div = c->in[k].div, insns[k].mod = c->in[k].width;
    }
    insns[3].op = (uint8_t)c->op, insns[3].dst = 1, insns[3].a = 0, insns[3].b = 1, insns[3].c = 2;
    insns[3].imm = STEP_ALPHA;
    insns[4].op = ART_I_STORE, insns[4].a = 1;
}

typedef struct {
    uint32_t k, n, experts, slots, dtype, act;
    bool shared, bias, gate;
    uint32_t group, flags; /* of codes; 0: floats */
} RoutedCase;
static const RoutedCase routed_cases[] = {
    {1, 1, 2, 1, ART_F32, ART_ACT_NONE, true, false, false},
    {33, 17, 3, 2, ART_F16, ART_ACT_SILU, false, true, true},
    {100, 40, 5, 3, ART_BF16, ART_ACT_GELU_TANH, true, true, false},
    {64, 16, 4, 4, ART_F32, ART_ACT_RELU, false, false, true},
    {300, 33, 2, 2, ART_F16, ART_ACT_SIGMOID, true, false, false},
    {17, 5, 3, 1, ART_F32, ART_ACT_GELU_ERF, false, true, false},
    {520, 48, 8, 2, ART_BF16, ART_ACT_TANH, true, true, true},
    {100, 48, 5, 2, ART_U4, ART_ACT_NONE, true, false, false, 32, ART_F16 | 8u << 16},
    {130, 16, 4, 3, ART_U5, ART_ACT_SILU, false, true, true, 64, ART_U8 | (uint32_t)ART_GRID_INT8 << 24},
    {257, 32, 3, 2, ART_U3, ART_ACT_NONE, true, true, false, 128, ART_U8 | 4u << 16},
    {100, 64, 2, 1, ART_U8, ART_ACT_RELU, false, false, true, 64, ART_F16 | (uint32_t)ART_GRID_QUADS << 24},
    {160, 16, 6, 2, ART_U2, ART_ACT_NONE, true, true, false, 32, ART_U6 | (uint32_t)ART_ZERO_HIGH << 8},
};
enum { ROUTED_CASES = sizeof routed_cases / sizeof *routed_cases };

#endif
