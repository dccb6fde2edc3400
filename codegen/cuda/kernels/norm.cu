/* norm.cu: layer norm and RMS norm.
 *
 * A block takes a row. Sums in float, over at most 32 * 32 partial sums, so the error does not grow with the width. */

/* What stands before a product: rms: x / sqrt(mean(x^2) + eps) * gamma; else with the mean taken off, and beta. */
struct Norm {
    global<const float> gamma, beta; /* width floats, or null */
    float eps;
    bool rms;
};

/* What is taken off a row, and what it is multiplied by then. */
struct Centre {
    float mean, scale;
};
/* part: 64 floats, free again after the next barrier but one. All threads of the block take part. */
template <u32 width> DEVICE Centre norm_centre(global<const float> x, bool rms, float eps, shared<float> part) {
    float sum = 0;
    if (!rms) {
        for (u32 i = thread_index(); i < width; i += thread_count()) sum += x[i];
        sum = block_sum(sum, part);
    }
    const float mean = sum / width;
    float square = 0;
    for (u32 i = thread_index(); i < width; i += thread_count()) square += (x[i] - mean) * (x[i] - mean);
    square = block_sum(square, part + 32);
    return Centre{mean, rsqrtf(square / width + eps)};
}

/* The centres of `most` rows, of which `rows` are there, for products that norm their x: [row][mean, scale]. */
template <u32 width, u32 most>
DEVICE void norm_centres(global<const float> x, u32 rows, bool rms, float eps, shared<float> part, shared<float> centre) {
    ROLLED for (u32 r = 0; r < most && r < rows; r++) {
        const Centre c = norm_centre<width>(x + r * width, rms, eps, part + r % 2 * 64);
        if (thread_index() == 0) centre[2 * r] = c.mean, centre[2 * r + 1] = c.scale;
    }
    barrier();
}

/* out[width] = norm of x[width]. */
template <u32 width, class Out> DEVICE void norm_row(global<const float> x, const Norm &n, shared<float> part, Out out) {
    const Centre c = norm_centre<width>(x, n.rms, n.eps, part);
    for (u32 i = thread_index(); i < width; i += thread_count()) {
        float v = (x[i] - c.mean) * c.scale;
        if (n.gamma != nullptr) v *= n.gamma[i];
        if (n.beta != nullptr) v += n.beta[i];
        out(i, v);
    }
}
