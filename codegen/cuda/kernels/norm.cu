/* norm.cu: layer norm and RMS norm.
 *
 * A block takes a row. Sums in float, over at most 32 * 32 partial sums, so the error does not grow with the width. */

/* What stands before a product: rms: x / sqrt(mean(x^2) + eps) * gamma; else with the mean taken off, and beta. */
struct Norm {
    global<const float> gamma, beta; /* width floats, or null */
    float eps;
    bool rms;
};

/* out[width] = norm of x[width]; part: a float a warp, twice. All threads of the block take part. */
template <u32 width, class Out> DEVICE void norm_row(global<const float> x, const Norm &n, shared<float> part, Out out) {
    float sum = 0;
    if (!n.rms) {
        for (u32 i = thread_index(); i < width; i += thread_count()) sum += x[i];
        sum = block_sum(sum, part);
    }
    float mean = sum / width, square = 0;
    for (u32 i = thread_index(); i < width; i += thread_count()) square += (x[i] - mean) * (x[i] - mean);
    square = block_sum(square, part + 32);
    float scale = rsqrtf(square / width + n.eps);
    for (u32 i = thread_index(); i < width; i += thread_count()) {
        float v = (x[i] - mean) * scale;
        if (n.gamma != nullptr) v *= n.gamma[i];
        if (n.beta != nullptr) v += n.beta[i];
        out(i, v);
    }
}
