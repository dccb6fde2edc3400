/* eval_elementwise.c: ops that compute each result element from the operands' elements there.
 *
 * A walk goes over the result; each row is cut into blocks, which are loaded as doubles (floats) or
 * int64 (integers, bools), computed in place and stored with one rounding to the result's dtype. */
#include <math.h>
#include <string.h>

#include "ir/eval.h"

static size_t block_length(int64_t n, int64_t from) {
    return n - from < EVAL_BLOCK ? (size_t)(n - from) : EVAL_BLOCK;
}

/* ---- one operand ---- */

static double sign_of(double x) {
    if (isnan(x)) return x;
    return x > 0 ? 1 : x < 0 ? -1 : 0;
}

static double softplus(double x) { return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x)); }

static double gelu_erf(double x) { return 0.5 * x * (1 + erf(x * 0.70710678118654752440)); }

static double gelu_tanh(double x) {
    return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

#define EACH(expr)                                                                                           \
    do {                                                                                                     \
        for (size_t i = 0; i < n; i++) {                                                                     \
            double x = v[i];                                                                                 \
            v[i] = (expr);                                                                                   \
        }                                                                                                    \
    } while (0)

static void unary_f64(const Node *node, double *v, size_t n) {
    double alpha = (double)node->attr.alpha;
    switch (node->op) {
    case OP_NEG: EACH(-x); break;
    case OP_ABS: EACH(fabs(x)); break;
    case OP_SIGN: EACH(sign_of(x)); break;
    case OP_EXP: EACH(exp(x)); break;
    case OP_LOG: EACH(log(x)); break;
    case OP_SQRT: EACH(sqrt(x)); break;
    case OP_RECIP: EACH(1 / x); break;
    case OP_SIN: EACH(sin(x)); break;
    case OP_COS: EACH(cos(x)); break;
    case OP_TANH: EACH(tanh(x)); break;
    case OP_SIGMOID: EACH(sigmoid(x)); break;
    case OP_ERF: EACH(erf(x)); break;
    case OP_RELU: EACH(x < 0 ? 0 : x); break;
    case OP_SOFTPLUS: EACH(softplus(x)); break;
    case OP_FLOOR: EACH(floor(x)); break;
    case OP_CEIL: EACH(ceil(x)); break;
    case OP_ROUND: EACH(nearbyint(x)); break;
    case OP_GELU:
        if (node->attr.tanh)
            EACH(gelu_tanh(x));
        else
            EACH(gelu_erf(x));
        break;
    case OP_SILU: EACH(x == -INFINITY && alpha > 0 ? 0 : x * sigmoid(alpha * x)); break;
    default: break;
    }
}

static int64_t wrap_neg(int64_t x) { return (int64_t)(0 - (uint64_t)x); }

static void unary_i64(Op op, bool is_unsigned, int64_t *v, size_t n) {
    for (size_t i = 0; i < n; i++) {
        int64_t x = v[i];
        bool negative = x < 0 && !is_unsigned;
        switch (op) {
        case OP_NEG: v[i] = wrap_neg(x); break;
        case OP_ABS: v[i] = negative ? wrap_neg(x) : x; break;
        case OP_SIGN: v[i] = negative ? -1 : x != 0; break;
        case OP_RELU: v[i] = negative ? 0 : x; break;
        case OP_NOT: v[i] = !x; break;
        default: break;
        }
    }
}

bool eval_unary(EvalCtx *e) {
    const Tensor *x = e->in[0];
    int64_t count = (int64_t)tensor_count(x);
    for (int64_t at = 0; at < count; at += EVAL_BLOCK) {
        size_t n = block_length(count, at);
        if (dtype_is_float(x->dtype)) {
            double v[EVAL_BLOCK];
            tensor_load_f64(x, at, 1, n, v);
            unary_f64(e->n, v, n);
            tensor_store_f64(&e->out[0], at, n, v);
        } else {
            int64_t v[EVAL_BLOCK];
            tensor_load_i64(x, at, 1, n, v);
            unary_i64(e->n->op, dtype_class(x->dtype) == DC_UINT, v, n);
            tensor_store_i64(&e->out[0], at, n, v);
        }
    }
    return true;
}

bool eval_gelu(EvalCtx *e) { return eval_unary(e); }

bool eval_silu(EvalCtx *e) { return eval_unary(e); }

bool eval_test(EvalCtx *e) {
    const Tensor *x = e->in[0];
    bool nan = e->n->op == OP_ISNAN;
    int64_t count = (int64_t)tensor_count(x);
    uint8_t *out = e->out[0].data;
    for (int64_t at = 0; at < count; at += EVAL_BLOCK) {
        double v[EVAL_BLOCK];
        size_t n = block_length(count, at);
        tensor_load_f64(x, at, 1, n, v);
        for (size_t i = 0; i < n; i++) {
            bool yes = nan ? isnan(v[i]) : isinf(v[i]);
            out[(size_t)at + i] = yes;
        }
    }
    return true;
}

/* ---- cast ---- */

/* Truncates; what does not fit becomes the nearest value that does, NaN becomes 0. Below 8 bits the low bits are
 * kept, as ONNX's own reference does. */
static int64_t float_to_int(double x, DType t) {
    if (dtype_bits(t) < 8) t = DT_I64;
    bool is_unsigned = dtype_class(t) == DC_UINT;
    int bits = (int)dtype_bits(t);
    double high = ldexp(1, is_unsigned ? bits : bits - 1), low = is_unsigned ? 0 : -high;
    if (isnan(x)) return 0;
    x = trunc(x);
    if (x <= low) return is_unsigned ? 0 : (int64_t)low;
    if (x >= high) {
        uint64_t ones = UINT64_MAX >> (64 - bits);
        return (int64_t)(is_unsigned ? ones : ones >> 1);
    }
    return is_unsigned ? (int64_t)(uint64_t)x : (int64_t)x;
}

bool eval_cast(EvalCtx *e) {
    const Tensor *x = e->in[0];
    Tensor *out = &e->out[0];
    bool from_float = dtype_is_float(x->dtype), to_float = dtype_is_float(out->dtype);
    int64_t count = (int64_t)tensor_count(x);
    for (int64_t at = 0; at < count; at += EVAL_BLOCK) {
        double f[EVAL_BLOCK];
        int64_t v[EVAL_BLOCK];
        size_t n = block_length(count, at);
        if (!from_float && !to_float) {
            tensor_load_i64(x, at, 1, n, v);
            tensor_store_i64(out, at, n, v);
            continue;
        }
        tensor_load_f64(x, at, 1, n, f);
        if (to_float) {
            tensor_store_f64(out, at, n, f);
            continue;
        }
        for (size_t i = 0; i < n; i++)
            v[i] = out->dtype == DT_BOOL ? f[i] != 0 : float_to_int(f[i], out->dtype);
        tensor_store_i64(out, at, n, v);
    }
    return true;
}

/* ---- two operands ---- */

static double min_f64(double a, double b) {
    if (isnan(a) || isnan(b)) return NAN;
    return a < b ? a : b;
}

static double max_f64(double a, double b) {
    if (isnan(a) || isnan(b)) return NAN;
    return a > b ? a : b;
}

#define PAIR_SELECT(a, pick, b, n)                                                                           \
    do {                                                                                                     \
        for (size_t i = 0; i < (n); i++) (a)[i] = (pick)[i] ? (a)[i] : (b)[i];                               \
    } while (0)

#define PAIR(expr)                                                                                           \
    do {                                                                                                     \
        for (size_t i = 0; i < n; i++) a[i] = (expr);                                                        \
    } while (0)

static void binary_f64(Op op, double *a, const double *b, size_t n) {
    switch (op) {
    case OP_ADD: PAIR(a[i] + b[i]); break;
    case OP_SUB: PAIR(a[i] - b[i]); break;
    case OP_MUL: PAIR(a[i] * b[i]); break;
    case OP_DIV: PAIR(a[i] / b[i]); break;
    case OP_MOD: PAIR(fmod(a[i], b[i])); break;
    case OP_MIN: PAIR(min_f64(a[i], b[i])); break;
    case OP_MAX: PAIR(max_f64(a[i], b[i])); break;
    case OP_EQ: PAIR(a[i] == b[i]); break;
    case OP_LT: PAIR(a[i] < b[i]); break;
    case OP_LE: PAIR(a[i] <= b[i]); break;
    default: break;
    }
}

static int64_t div_i64(int64_t a, int64_t b, bool is_unsigned) {
    if (b == 0) return 0;
    if (is_unsigned) return (int64_t)((uint64_t)a / (uint64_t)b);
    return b == -1 ? wrap_neg(a) : a / b;
}

static int64_t mod_i64(int64_t a, int64_t b, bool is_unsigned) {
    if (b == 0) return 0;
    if (is_unsigned) return (int64_t)((uint64_t)a % (uint64_t)b);
    if (b == -1) return 0;
    int64_t r = a % b;
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

static bool less_i64(int64_t a, int64_t b, bool is_unsigned) {
    return is_unsigned ? (uint64_t)a < (uint64_t)b : a < b;
}

static void binary_i64(Op op, bool uns, int64_t *a, const int64_t *b, size_t n) {
    switch (op) {
    case OP_ADD: PAIR((int64_t)((uint64_t)a[i] + (uint64_t)b[i])); break;
    case OP_SUB: PAIR((int64_t)((uint64_t)a[i] - (uint64_t)b[i])); break;
    case OP_MUL: PAIR((int64_t)((uint64_t)a[i] * (uint64_t)b[i])); break;
    case OP_DIV: PAIR(div_i64(a[i], b[i], uns)); break;
    case OP_MOD: PAIR(mod_i64(a[i], b[i], uns)); break;
    case OP_MIN: PAIR(less_i64(a[i], b[i], uns) ? a[i] : b[i]); break;
    case OP_MAX: PAIR(less_i64(a[i], b[i], uns) ? b[i] : a[i]); break;
    case OP_AND: PAIR(a[i] & b[i]); break;
    case OP_OR: PAIR(a[i] | b[i]); break;
    case OP_XOR: PAIR(a[i] ^ b[i]); break;
    case OP_EQ: PAIR(a[i] == b[i]); break;
    case OP_LT: PAIR(less_i64(a[i], b[i], uns)); break;
    case OP_LE: PAIR(!less_i64(b[i], a[i], uns)); break;
    default: break;
    }
}

static void store_bools(Tensor *t, int64_t at, size_t n, const double *v) {
    uint8_t *p = (uint8_t *)t->data + at;
    for (size_t i = 0; i < n; i++) p[i] = v[i] != 0;
}

bool eval_binary(EvalCtx *e) {
    const Tensor *a = e->in[0], *b = e->in[1];
    Tensor *out = &e->out[0];
    Op op = e->n->op;
    bool is_float = dtype_is_float(a->dtype), uns = dtype_class(a->dtype) == DC_UINT;
    Walk w;
    walk_broadcast(&w, out, e->in, 2);
    while (walk_next(&w)) {
        for (int64_t j = 0; j < w.n; j += EVAL_BLOCK) {
            size_t n = block_length(w.n, j);
            int64_t to = w.at[0] + j, pa = w.at[1] + j * w.step[1], pb = w.at[2] + j * w.step[2];
            if (is_float) {
                double va[EVAL_BLOCK], vb[EVAL_BLOCK];
                tensor_load_f64(a, pa, w.step[1], n, va);
                tensor_load_f64(b, pb, w.step[2], n, vb);
                binary_f64(op, va, vb, n);
                if (out->dtype == DT_BOOL)
                    store_bools(out, to, n, va);
                else
                    tensor_store_f64(out, to, n, va);
            } else {
                int64_t va[EVAL_BLOCK], vb[EVAL_BLOCK];
                tensor_load_i64(a, pa, w.step[1], n, va);
                tensor_load_i64(b, pb, w.step[2], n, vb);
                binary_i64(op, uns, va, vb, n);
                tensor_store_i64(out, to, n, va);
            }
        }
    }
    return true;
}

bool eval_compare(EvalCtx *e) { return eval_binary(e); }

/* Wraps around like repeated multiplication; a negative exponent truncates 1 / a^-b, and x^-n of 0
 * is 0. */
static int64_t pow_i64(int64_t a, int64_t b, bool base_unsigned, bool exp_unsigned) {
    if (b < 0 && !exp_unsigned) {
        if (a == 1) return 1;
        if (a == -1 && !base_unsigned) return b % 2 == 0 ? 1 : -1;
        return 0;
    }
    uint64_t base = (uint64_t)a, r = 1;
    for (uint64_t k = (uint64_t)b; k != 0; k >>= 1) {
        if (k & 1) r *= base;
        base *= base;
    }
    return (int64_t)r;
}

bool eval_pow(EvalCtx *e) {
    const Tensor *a = e->in[0], *b = e->in[1];
    Tensor *out = &e->out[0];
    bool ints = dtype_is_int(a->dtype) && dtype_is_int(b->dtype);
    bool a_uns = dtype_class(a->dtype) == DC_UINT, b_uns = dtype_class(b->dtype) == DC_UINT;
    Walk w;
    walk_broadcast(&w, out, e->in, 2);
    while (walk_next(&w)) {
        for (int64_t j = 0; j < w.n; j += EVAL_BLOCK) {
            size_t n = block_length(w.n, j);
            int64_t to = w.at[0] + j, pa = w.at[1] + j * w.step[1], pb = w.at[2] + j * w.step[2];
            int64_t ia[EVAL_BLOCK], ib[EVAL_BLOCK];
            if (ints) {
                tensor_load_i64(a, pa, w.step[1], n, ia);
                tensor_load_i64(b, pb, w.step[2], n, ib);
                for (size_t i = 0; i < n; i++) ia[i] = pow_i64(ia[i], ib[i], a_uns, b_uns);
                tensor_store_i64(out, to, n, ia);
                continue;
            }
            double va[EVAL_BLOCK], vb[EVAL_BLOCK];
            tensor_load_f64(a, pa, w.step[1], n, va);
            tensor_load_f64(b, pb, w.step[2], n, vb);
            for (size_t i = 0; i < n; i++) va[i] = pow(va[i], vb[i]);
            if (dtype_is_float(out->dtype)) {
                tensor_store_f64(out, to, n, va);
                continue;
            }
            for (size_t i = 0; i < n; i++) ia[i] = float_to_int(va[i], out->dtype);
            tensor_store_i64(out, to, n, ia);
        }
    }
    return true;
}

bool eval_where(EvalCtx *e) {
    const Tensor *c = e->in[0], *a = e->in[1], *b = e->in[2];
    Tensor *out = &e->out[0];
    bool is_float = dtype_is_float(a->dtype);
    Walk w;
    walk_broadcast(&w, out, e->in, 3);
    while (walk_next(&w)) {
        for (int64_t j = 0; j < w.n; j += EVAL_BLOCK) {
            size_t n = block_length(w.n, j);
            int64_t to = w.at[0] + j, pa = w.at[2] + j * w.step[2], pb = w.at[3] + j * w.step[3];
            int64_t pick[EVAL_BLOCK];
            tensor_load_i64(c, w.at[1] + j * w.step[1], w.step[1], n, pick);
            if (is_float) {
                double va[EVAL_BLOCK], vb[EVAL_BLOCK];
                tensor_load_f64(a, pa, w.step[2], n, va);
                tensor_load_f64(b, pb, w.step[3], n, vb);
                PAIR_SELECT(va, pick, vb, n);
                tensor_store_f64(out, to, n, va);
            } else {
                int64_t va[EVAL_BLOCK], vb[EVAL_BLOCK];
                tensor_load_i64(a, pa, w.step[2], n, va);
                tensor_load_i64(b, pb, w.step[3], n, vb);
                PAIR_SELECT(va, pick, vb, n);
                tensor_store_i64(out, to, n, va);
            }
        }
    }
    return true;
}

/* ---- sources ---- */

bool eval_iota(EvalCtx *e) {
    Tensor *out = &e->out[0];
    Lines l = tensor_lines(out, e->n->attr.axis);
    bool is_float = dtype_is_float(out->dtype);
    for (int64_t r = 0; r < l.outer * l.len; r++) {
        int64_t v[EVAL_BLOCK];
        double f[EVAL_BLOCK];
        size_t fill = block_length(l.inner, 0);
        for (size_t i = 0; i < fill; i++) {
            v[i] = r % l.len;
            f[i] = (double)v[i];
        }
        for (int64_t j = 0; j < l.inner; j += EVAL_BLOCK) {
            size_t n = block_length(l.inner, j);
            if (is_float)
                tensor_store_f64(out, r * l.inner + j, n, f);
            else
                tensor_store_i64(out, r * l.inner + j, n, v);
        }
    }
    return true;
}

bool eval_dim(EvalCtx *e) {
    int64_t v = 0;
    if (!eval_dim_value(e, e->n->attr.value, &v)) return false;
    tensor_store_i64(&e->out[0], 0, 1, &v);
    return true;
}
