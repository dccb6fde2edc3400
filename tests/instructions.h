/* instructions.h: what the instructions of elementwise programs and the activations of products are, in double: the reference
 * of the kernels' tests, for the CPU's (C) and CUDA's (C++). */
#ifndef TESTS_INSTRUCTIONS_H
#define TESTS_INSTRUCTIONS_H

#include "runtime/artifact.h"

#include <math.h>

static inline double act_value(uint32_t act, double x) {
    switch (act) {
    case ART_ACT_RELU: return x <= 0 ? 0 : x;
    case ART_ACT_GELU_ERF: return 0.5 * x * (1 + erf(x / sqrt(2)));
    case ART_ACT_GELU_TANH: return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
    case ART_ACT_SILU: return x / (1 + exp(-x));
    case ART_ACT_TANH: return tanh(x);
    case ART_ACT_SIGMOID: return 1 / (1 + exp(-x));
    default: return x;
    }
}

/* alpha: the instruction's `imm`. */
static inline double insn_value(uint32_t op, double alpha, double a, double b, double c) {
    switch (op) {
    case ART_I_CONST: return alpha;
    case ART_I_NEG: return -a;
    case ART_I_ABS: return fabs(a);
    case ART_I_SIGN: return a != a ? a : (a > 0) - (a < 0);
    case ART_I_EXP: return exp(a);
    case ART_I_LOG: return log(a);
    case ART_I_SQRT: return sqrt(a);
    case ART_I_RECIP: return 1 / a;
    case ART_I_SIN: return sin(a);
    case ART_I_COS: return cos(a);
    case ART_I_TANH: return act_value(ART_ACT_TANH, a);
    case ART_I_SIGMOID: return act_value(ART_ACT_SIGMOID, a);
    case ART_I_ERF: return erf(a);
    case ART_I_RELU: return act_value(ART_ACT_RELU, a);
    case ART_I_SOFTPLUS: return a > 0 ? a + log1p(exp(-a)) : log1p(exp(a));
    case ART_I_FLOOR: return floor(a);
    case ART_I_CEIL: return ceil(a);
    case ART_I_ROUND: return rint(a);
    case ART_I_GELU_ERF: return act_value(ART_ACT_GELU_ERF, a);
    case ART_I_GELU_TANH: return act_value(ART_ACT_GELU_TANH, a);
    case ART_I_SILU: return a < 0 && a == 2 * a ? 0 : a / (1 + exp(-alpha * a)); /* of -infinity 0 */
    case ART_I_ISNAN: return a != a;
    case ART_I_ISINF: return a != 0 && a == 2 * a;
    case ART_I_NOT: return a == 0;
    case ART_I_ADD: return a + b;
    case ART_I_SUB: return a - b;
    case ART_I_MUL: return a * b;
    case ART_I_DIV: return a / b;
    case ART_I_MOD: return fmod(a, b);
    case ART_I_POW: return pow(a, b);
    case ART_I_MIN: return a != a || b != b ? (double)NAN : fmin(a, b);
    case ART_I_MAX: return a != a || b != b ? (double)NAN : fmax(a, b);
    case ART_I_AND: return a != 0 && b != 0;
    case ART_I_OR: return a != 0 || b != 0;
    case ART_I_XOR: return (a != 0) != (b != 0);
    case ART_I_EQ: return a == b;
    case ART_I_LT: return a < b;
    case ART_I_LE: return a <= b;
    default: return a != 0 ? b : c; /* WHERE */
    }
}

#endif
