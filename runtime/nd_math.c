/* nd_math.c: elementwise ops in double and in int64. Floats go through the CPU kernels' tiles instead. */
#include "runtime/nd.h"

#include <math.h>

static double sign_of(double x) { return x > 0 ? 1 : x < 0 ? -1 : x == x ? 0 : x; }
static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double softplus(double x) { return (x > 0 ? x : 0) + log1p(exp(-fabs(x))); }
static double gelu_erf(double x) { return x / 2 * (1 + erf(x * 0.70710678118654752)); }
static double gelu_tanh(double x) {
    return x / 2 * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
}
static double silu(double x, double alpha) {
    return x == -INFINITY && alpha > 0 ? 0 : x * sigmoid(alpha * x);
}
static double smaller(double a, double b) { return a < b || a != a ? a : b; } /* NaN wins */
static double larger(double a, double b) { return a > b || a != a ? a : b; }

#define EACH(expr)                                                                                           \
    for (size_t i = 0; i < n; i++) {                                                                         \
        double x = a[i];                                                                                     \
        a[i] = (expr);                                                                                       \
    }                                                                                                        \
    break

void nd_double(const ArtNode *node, size_t n, double *a, const double *b, const double *c) {
    double alpha = (double)node->alpha;
    switch (node->op) {
    case ART_FN_NEG: EACH(-x);
    case ART_FN_ABS: EACH(fabs(x));
    case ART_FN_SIGN: EACH(sign_of(x));
    case ART_FN_EXP: EACH(exp(x));
    case ART_FN_LOG: EACH(log(x));
    case ART_FN_SQRT: EACH(sqrt(x));
    case ART_FN_RECIP: EACH(1 / x);
    case ART_FN_SIN: EACH(sin(x));
    case ART_FN_COS: EACH(cos(x));
    case ART_FN_TANH: EACH(tanh(x));
    case ART_FN_SIGMOID: EACH(sigmoid(x));
    case ART_FN_ERF: EACH(erf(x));
    case ART_FN_RELU: EACH(x < 0 ? 0 : x);
    case ART_FN_SOFTPLUS: EACH(softplus(x));
    case ART_FN_FLOOR: EACH(floor(x));
    case ART_FN_CEIL: EACH(ceil(x));
    case ART_FN_ROUND: EACH(rint(x));
    case ART_FN_ISNAN: EACH(x != x);
    case ART_FN_ISINF: EACH(fabs(x) == INFINITY);
    case ART_FN_GELU: EACH(node->flags & ART_FN_TANH_FORM ? gelu_tanh(x) : gelu_erf(x));
    case ART_FN_SILU: EACH(silu(x, alpha));
    case ART_FN_ADD: EACH(x + b[i]);
    case ART_FN_SUB: EACH(x - b[i]);
    case ART_FN_MUL: EACH(x * b[i]);
    case ART_FN_DIV: EACH(x / b[i]);
    case ART_FN_MOD: EACH(fmod(x, b[i]));
    case ART_FN_POW: EACH(pow(x, b[i]));
    case ART_FN_MIN: EACH(smaller(x, b[i]));
    case ART_FN_MAX: EACH(larger(x, b[i]));
    case ART_FN_EQ: EACH(x == b[i]);
    case ART_FN_LT: EACH(x < b[i]);
    case ART_FN_LE: EACH(x <= b[i]);
    case ART_FN_WHERE: EACH(x != 0 ? b[i] : c[i]);
    default: break;
    }
}

/* ---- integers wrap around ---- */
static int64_t negated(int64_t x) { return (int64_t)(0 - (uint64_t)x); }

static int64_t quotient(uint32_t u, int64_t a, int64_t b) { /* truncated; x / 0 = 0 */
    if (b == 0) return 0;
    if (u) return (int64_t)((uint64_t)a / (uint64_t)b);
    return b == -1 ? negated(a) : a / b;
}

static int64_t remainder_of(uint32_t u, int64_t a, int64_t b) { /* with the divisor's sign */
    if (b == 0 || (b == -1 && !u)) return 0;
    if (u) return (int64_t)((uint64_t)a % (uint64_t)b);
    int64_t r = a % b;
    return r != 0 && (r ^ b) < 0 ? r + b : r;
}

/* A negative exponent truncates 1 / a^-b; of 0 it gives 0. */
static int64_t power(uint32_t u, int64_t a, int64_t b) {
    if (b < 0 && !(u & 2)) return a == 1 ? 1 : a == -1 && !(u & 1) ? (b & 1 ? -1 : 1) : 0;
    uint64_t r = 1, base = (uint64_t)a;
    for (uint64_t e = (uint64_t)b; e != 0; e >>= 1, base *= base)
        if (e & 1) r *= base;
    return (int64_t)r;
}

static bool less(uint32_t u, int64_t a, int64_t b) { return u ? (uint64_t)a < (uint64_t)b : a < b; }

#undef EACH
#define EACH(expr)                                                                                           \
    for (size_t i = 0; i < n; i++) {                                                                         \
        int64_t x = a[i];                                                                                    \
        a[i] = (expr);                                                                                       \
    }                                                                                                        \
    break
#define WRAP(x, op, y) (int64_t)((uint64_t)(x)op(uint64_t)(y))

void nd_integer(uint32_t op, uint32_t u, size_t n, int64_t *a, const int64_t *b, const int64_t *c) {
    switch (op) {
    case ART_FN_NEG: EACH(negated(x));
    case ART_FN_ABS: EACH(x < 0 && !u ? negated(x) : x);
    case ART_FN_SIGN: EACH(x < 0 && !u ? -1 : x != 0);
    case ART_FN_RELU: EACH(x < 0 && !u ? 0 : x);
    case ART_FN_NOT: EACH(!x);
    case ART_FN_ADD: EACH(WRAP(x, +, b[i]));
    case ART_FN_SUB: EACH(WRAP(x, -, b[i]));
    case ART_FN_MUL: EACH(WRAP(x, *, b[i]));
    case ART_FN_DIV: EACH(quotient(u, x, b[i]));
    case ART_FN_MOD: EACH(remainder_of(u, x, b[i]));
    case ART_FN_POW: EACH(power(u, x, b[i]));
    case ART_FN_MIN: EACH(less(u, b[i], x) ? b[i] : x);
    case ART_FN_MAX: EACH(less(u, x, b[i]) ? b[i] : x);
    case ART_FN_AND: EACH(x & b[i]);
    case ART_FN_OR: EACH(x | b[i]);
    case ART_FN_XOR: EACH(x ^ b[i]);
    case ART_FN_EQ: EACH(x == b[i]);
    case ART_FN_LT: EACH(less(u, x, b[i]));
    case ART_FN_LE: EACH(!less(u, b[i], x));
    case ART_FN_WHERE: EACH(x ? b[i] : c[i]);
    default: break;
    }
}
