/* vec_math.h: exp, tanh, erf and the activations on vectors.
 *
 * exp: x = n ln 2 + r, e^r by a polynomial, 2^n in two steps so that subnormal and overflowing results
 * come out right (Cephes' reduction). The polynomials are least-maximum fits of our own. Relative error of
 * exp, tanh and erf is below 2e-7. */
#ifndef RUNTIME_CPU_VEC_MATH_H
#define RUNTIME_CPU_VEC_MATH_H

#include "runtime/cpu/vec.h"

INLINE V v_exp(V x) {
    V c = v_min(v_max(x, v_set(-104.0f)), v_set(89.0f));
    V n = v_fma(c, v_set(1.44269504f), v_set(12582912.0f)) - v_set(12582912.0f);
    V r = v_fma(n, v_set(-0.693359375f), c);
    r = v_fma(n, v_set(2.12194440e-4f), r);
    V p = v_set(0.00019915616f);
    p = v_fma(p, r, v_set(0.0013946141f));
    p = v_fma(p, r, v_set(0.0083332695f));
    p = v_fma(p, r, v_set(0.04166627f));
    p = v_fma(p, r, v_set(0.16666667f));
    p = v_fma(p, r, v_set(0.5f));
    p = v_fma(p * r, r, r) + v_set(1.0f);
    VI e = __builtin_convertvector(n, VI), half = e >> 1;
    V y = p * (V)((half + 127) << 23) * (V)((e - half + 127) << 23);
    return v_select(x != x, x, y);
}

/* A polynomial below 0.625, above it 1 - 2 / (e^2x + 1). */
INLINE V v_tanh(V x) {
    V a = v_abs(x), s = x * x;
    V p = v_set(0.002147328f);
    p = v_fma(p, s, v_set(-0.008182453f));
    p = v_fma(p, s, v_set(0.02170288f));
    p = v_fma(p, s, v_set(-0.053947188f));
    p = v_fma(p, s, v_set(0.1333321f));
    p = v_fma(p, s, v_set(-0.3333333f));
    V small = v_fma(p * s, x, x);
    V big = v_set(1.0f) - v_set(2.0f) / (v_exp(a + a) + v_set(1.0f));
    big = (V)((VI)big | ((VI)x & INT32_MIN));
    return v_select(a < v_set(0.625f), small, v_select(x != x, x, big));
}

/* A polynomial below 0.92, above it 1 - e^q(x) with q fitted to log(1 - erf); 1 from 4 on. */
INLINE V v_erf(V x) {
    V a = v_abs(x), s = x * x, t = v_min(a, v_set(4.0f));
    V p = v_set(8.345216e-05f);
    p = v_fma(p, s, v_set(-0.00081374357f));
    p = v_fma(p, s, v_set(0.0052006342f));
    p = v_fma(p, s, v_set(-0.02685927f));
    p = v_fma(p, s, v_set(0.11283694f));
    p = v_fma(p, s, v_set(-0.37612635f));
    p = v_fma(p, s, v_set(0.12837917f));
    V small = v_fma(p, x, x);
    V q = v_set(-2.116216e-05f);
    q = v_fma(q, t, v_set(0.00043522165f));
    q = v_fma(q, t, v_set(-0.004174656f));
    q = v_fma(q, t, v_set(0.025128657f));
    q = v_fma(q, t, v_set(-0.108293995f));
    q = v_fma(q, t, v_set(-0.63333464f));
    q = v_fma(q, t, v_set(-1.1295209f));
    q = v_fma(q, t, v_set(0.00017587826f));
    V big = (V)((VI)(v_set(1.0f) - v_exp(q)) | ((VI)x & INT32_MIN));
    return v_select(a < v_set(0.92f), small, v_select(x != x, x, big));
}

INLINE V v_sigmoid(V x) { return v_set(1.0f) / (v_set(1.0f) + v_exp(-x)); }
INLINE V v_gelu_erf(V x) {
    V h = v_set(0.5f) * x;
    return v_fma(h, v_erf(x * v_set(0.707106781f)), h);
}
INLINE V v_gelu_tanh(V x) {
    V u = v_fma(v_set(0.044715f) * x * x, x, x) * v_set(0.797884561f);
    V h = v_set(0.5f) * x;
    return v_fma(h, v_tanh(u), h);
}
INLINE V v_relu(V x) { return v_select(x <= v_zero(), v_zero(), x); }

INLINE V v_act(uint32_t act, V x) {
    switch (act) {
    case ART_ACT_RELU: return v_relu(x);
    case ART_ACT_GELU_ERF: return v_gelu_erf(x);
    case ART_ACT_GELU_TANH: return v_gelu_tanh(x);
    case ART_ACT_SILU: return x * v_sigmoid(x);
    case ART_ACT_TANH: return v_tanh(x);
    case ART_ACT_SIGMOID: return v_sigmoid(x);
    default: return x;
    }
}

#endif
