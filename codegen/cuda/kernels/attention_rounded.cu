/* attention_rounded.cu: attention where scores or weights are rounded as activation quantisation rounds them: a rounding needs
 * the whole sum of weights, so keys are read three times. */

/* clamp(round(x / step), low, high) * step; step 0: x. */
struct Rounding {
    float step, low, high;
};
DEVICE float round_to(const Rounding &r, float x) {
    if (!(r.step > 0)) return x;
    const float v = rintf(x / r.step);
    return (v < r.low ? r.low : v > r.high ? r.high : v) * r.step;
}

/* One row and head, 128 threads; k, v: the key head's cache. part: 64 floats, weights: 128. */
template <class C, u32 dim, u32 vdim, class Out>
DEVICE void attention_rounded(global<const float> q, global<const C> k, global<const C> v, u32 context, u32 first, u32 position,
                              const Scores &scores, float slope, const Rounding &score_rounding, const Rounding &weight_rounding,
                              bool has_sink, float sink, shared<float> part, shared<float> weights, Out out) {
    enum { each = (vdim + 127) / 128 };
    auto score = [&](u32 key) {
        float s = 0;
        for (u32 d = 0; d < dim; d++) s += q[d] * to_float(k[(u64)key * dim + d]);
        s = round_to(score_rounding, s * Cache<C, dim>::step(k, context, key) * scores.scale);
        if (scores.softcap > 0) s = scores.softcap * tanhf(s / scores.softcap);
        return s - slope * (float)(position - key);
    };
    float largest = has_sink ? sink : -INFINITY, total = 0, sum[each] = {};
    for (u32 key = first + thread_index(); key <= position; key += 128) largest = fmaxf(largest, score(key));
    largest = block_max(largest, part);
    for (u32 key = first + thread_index(); key <= position; key += 128) total += expf(score(key) - largest);
    total = block_sum(total, part + 32) + (has_sink ? expf(sink - largest) : 0.0f);
    for (u32 base = first; base <= position; base += 128) {
        const u32 key = base + thread_index();
        barrier();
        weights[thread_index()] =
            key <= position ? round_to(weight_rounding, expf(score(key) - largest) / total) * Cache<C, vdim>::step(v, context, key) : 0.0f;
        barrier();
        for (u32 i = 0; i < 128 && base + i <= position; i++)
            UNROLL for (u32 e = 0; e < each; e++) {
                const u32 at = e * 128 + thread_index();
                if (at < vdim) sum[e] += weights[i] * to_float(v[(u64)(base + i) * vdim + at]);
            }
    }
    UNROLL for (u32 e = 0; e < each; e++)
        if (e * 128 + thread_index() < vdim) out(e * 128 + thread_index(), sum[e]);
}
