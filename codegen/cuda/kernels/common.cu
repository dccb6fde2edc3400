/* common.cu: sums and maxima over a warp or a block, and what kernels share of arithmetic. */

DEVICE float warp_sum(float v) {
    UNROLL for (u32 m = 16; m; m /= 2) v += lane_xor(v, m);
    return v;
}

/* Sum over the block, known to every thread. `part` holds a float a warp and may be used again after the
 * next barrier. */
DEVICE float block_sum(float v, shared<float> part) {
    v = warp_sum(v);
    if (lane() == 0) part[warp()] = v;
    barrier();
    float sum = 0;
    for (u32 i = 0; i < thread_count() / 32; i++) sum += part[i];
    return sum;
}

/* The largest value of the block; part as above. */
DEVICE float block_max(float v, shared<float> part) {
    UNROLL for (u32 m = 16; m; m /= 2) v = fmaxf(v, lane_xor(v, m));
    if (lane() == 0) part[warp()] = v;
    barrier();
    for (u32 i = 0; i < thread_count() / 32; i++) v = fmaxf(v, part[i]);
    return v;
}

/* Values in 16 bytes of T, as floats. */
template <class T> struct Pack;
template <> struct Pack<float> {
    enum { count = 4 };
    DEVICE float get(const Quad &q, u32 i) { return float_of_bits(q.word[i]); }
};
template <> struct Pack<half> {
    enum { count = 8 };
    DEVICE float get(const Quad &q, u32 i) { return to_float(half{(u16)(q.word[i / 2] >> i % 2 * 16)}); }
};
template <> struct Pack<bf16> {
    enum { count = 8 };
    DEVICE float get(const Quad &q, u32 i) { return float_of_bits(i % 2 ? q.word[i / 2] & 0xffff0000u : q.word[i / 2] << 16); }
};

DEVICE float sigmoid(float x) { return 1 / (1 + expf(-x)); }
DEVICE float silu(float x, float alpha) { return x == -INFINITY && alpha > 0 ? 0.0f : x * sigmoid(alpha * x); }
DEVICE float gelu_erf(float x) { return 0.5f * x * (1 + erff(x * 0.70710678f)); }
DEVICE float gelu_tanh(float x) { return 0.5f * x * (1 + tanhf(0.79788456f * (x + 0.044715f * x * x * x))); }
DEVICE float relu(float x) { return x != x || x > 0 ? x : 0.0f; }
DEVICE float sign(float x) { return x != x ? x : (float)(x > 0) - (float)(x < 0); }
DEVICE float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }
DEVICE float truth(bool b) { return b ? 1.0f : 0.0f; }
