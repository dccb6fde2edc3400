/* pointwise.h: the interpreter of ArtInsn programs. A tile of at most TILE floats of a row goes through the
 * whole program, its registers in L1. A LOAD that needs no index arithmetic only points at the input. */
#ifndef RUNTIME_CPU_POINTWISE_H
#define RUNTIME_CPU_POINTWISE_H

#include "runtime/cpu/vec_math.h"

#include <math.h>

#define TILE 256

/* out[i] = x[(first + i) / div % mod] */
static void load_indexed(const float *x, const ArtInsn *n, size_t first, size_t count, float *out) {
    size_t at = first / n->div % n->mod, rest = first % n->div;
    for (size_t i = 0; i < count;) {
        if (n->div == 1) {
            size_t run = min_size(n->mod - at, count - i);
            memcpy(out + i, x + at, run * sizeof *x);
            i += run;
        } else {
            size_t run = min_size(n->div - rest, count - i);
            for (size_t j = 0; j < run; j++) { out[i + j] = x[at]; }
            i += run;
            if (rest + run < n->div) { break; }
            rest = 0;
        }
        at = n->div == 1 ? 0 : at + 1 == n->mod ? 0 : at + 1;
    }
}

INLINE V from_mask(VI m) { return (V)((VI)v_set(1.0f) & m); }
INLINE V nan_min(V a, V b) { return v_select((a < b) | (a != a), a, b); }
INLINE V nan_max(V a, V b) { return v_select((a > b) | (a != a), a, b); }
INLINE V silu_of(V x, float alpha) { /* 0, not NaN, where x and alpha x are infinite */
    V y = x * v_sigmoid(v_set(alpha) * x);
    return alpha > 0 ? v_select(x == v_set(-INFINITY), v_zero(), y) : y;
}
INLINE float softplus_of(float x) { return (x > 0 ? x : x == x ? 0 : x) + log1pf(expf(-fabsf(x))); }

#define EACH_V(expr)                                                                                         \
    for (size_t i = 0; i < count; i += VW) {                                                                 \
        V x = v_load(a + i), y = v_load(b + i), z = v_load(c + i);                                           \
        (void)x, (void)y, (void)z;                                                                           \
        v_store(d + i, (expr));                                                                              \
    }                                                                                                        \
    break
#define EACH(expr)                                                                                           \
    for (size_t i = 0; i < count; i++) {                                                                     \
        float x = a[i], y = b[i];                                                                            \
        (void)y;                                                                                             \
        d[i] = (expr);                                                                                       \
    }                                                                                                        \
    break

/* count: a multiple of VW. */
static void pointwise_math(uint32_t op, size_t count, const float *a, const float *b, float *d) {
    switch (op) {
    case ART_I_LOG: EACH(logf(x));
    case ART_I_SIN: EACH(sinf(x));
    case ART_I_COS: EACH(cosf(x));
    case ART_I_SOFTPLUS: EACH(softplus_of(x));
    case ART_I_FLOOR: EACH(floorf(x));
    case ART_I_CEIL: EACH(ceilf(x));
    case ART_I_ROUND: EACH(rintf(x));
    case ART_I_SQRT: EACH(sqrtf(x));
    case ART_I_MOD: EACH(fmodf(x, y));
    case ART_I_POW: EACH(powf(x, y));
    default: break;
    }
}

static void pointwise_insn(const ArtInsn *n, size_t count, const float *a, const float *b, const float *c,
                           float *d) {
    switch (n->op) {
    case ART_I_CONST: EACH_V(v_set(n->imm));
    case ART_I_NEG: EACH_V(-x);
    case ART_I_ABS: EACH_V(v_abs(x));
    case ART_I_SIGN: EACH_V(v_select(x != x, x, from_mask(x > v_zero()) - from_mask(x < v_zero())));
    case ART_I_EXP: EACH_V(v_exp(x));
    case ART_I_RECIP: EACH_V(v_set(1.0f) / x);
    case ART_I_TANH: EACH_V(v_tanh(x));
    case ART_I_SIGMOID: EACH_V(v_sigmoid(x));
    case ART_I_ERF: EACH_V(v_erf(x));
    case ART_I_RELU: EACH_V(v_relu(x));
    case ART_I_GELU_ERF: EACH_V(v_gelu_erf(x));
    case ART_I_GELU_TANH: EACH_V(v_gelu_tanh(x));
    case ART_I_SILU: EACH_V(silu_of(x, n->imm));
    case ART_I_ISNAN: EACH_V(from_mask(x != x));
    case ART_I_ISINF: EACH_V(from_mask(v_abs(x) == v_set(INFINITY)));
    case ART_I_NOT: EACH_V(from_mask(x == v_zero()));
    case ART_I_ADD: EACH_V(x + y);
    case ART_I_SUB: EACH_V(x - y);
    case ART_I_MUL: EACH_V(x * y);
    case ART_I_DIV: EACH_V(x / y);
    case ART_I_MIN: EACH_V(nan_min(x, y));
    case ART_I_MAX: EACH_V(nan_max(x, y));
    case ART_I_AND: EACH_V(from_mask((x != v_zero()) & (y != v_zero())));
    case ART_I_OR: EACH_V(from_mask((x != v_zero()) | (y != v_zero())));
    case ART_I_XOR: EACH_V(from_mask((x != v_zero()) ^ (y != v_zero())));
    case ART_I_EQ: EACH_V(from_mask(x == y));
    case ART_I_LT: EACH_V(from_mask(x < y));
    case ART_I_LE: EACH_V(from_mask(x <= y));
    case ART_I_WHERE: EACH_V(v_select(x != v_zero(), y, z));
    default: pointwise_math(n->op, count, a, b, d);
    }
}

/* Points r[dst] at the input's floats, or makes a copy of them. */
static const float *pointwise_load(const CpuInput *in, const ArtInsn *n, size_t row, size_t first,
                                   size_t count, float *copy) {
    if (!in->data) {
        for (size_t i = 0; i < TILE; i++) { copy[i] = (float)in->ints[row]; }
        return copy;
    }
    const float *x = in->data + row * in->stride;
    if (n->div == 1 && first + count <= n->mod && count % VW == 0) { return x + first; }
    load_indexed(x, n, first, count, copy);
    return copy;
}

static void pointwise_tile(const CpuPointwise *p, size_t row, size_t first, size_t count, float *registers) {
    const float *r[ART_REGISTERS];
    for (size_t i = 0; i < ART_REGISTERS; i++) { r[i] = registers + i * TILE; }
    size_t whole = (count + VW - 1) / VW * VW;
    for (uint32_t i = 0; i < p->count; i++) {
        const ArtInsn *n = &p->insns[i];
        float *d = registers + (size_t)n->dst * TILE;
        if (n->op == ART_I_LOAD) {
            r[n->dst] = pointwise_load(&p->in[n->a], n, row, first, count, d);
        } else if (n->op == ART_I_STORE) {
            memmove(p->out + row * p->out_stride + first, r[n->a], count * sizeof *d);
        } else {
            pointwise_insn(n, whole, r[n->a], r[n->b], r[n->c], d);
            r[n->dst] = d;
        }
    }
}

static void pointwise(const CpuWorker *w, const CpuPointwise *p) {
    size_t begin, end, tiles = ((size_t)p->width + TILE - 1) / TILE;
    float *registers = w->local;
    memset(registers, 0, sizeof *registers * TILE * ART_REGISTERS);
    share(w, p->rows * tiles, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        size_t first = i % tiles * TILE;
        pointwise_tile(p, i / tiles, first, min_size(TILE, p->width - first), registers);
    }
}

#endif
