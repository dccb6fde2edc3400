/* rope.cu: rotary positions from tables (Su et al. 2021): the first `rotated` elements of each head, in halves
 * (i, i + rotated / 2) or, interleaved, in neighbours (2i, 2i + 1). Tables: [position][rotated / 2]. */

/* y = x with its heads turned; y may be x. A thread takes a pair, so nothing is read after it was written. */
template <u32 heads, u32 dim, u32 rotated, bool interleaved>
DEVICE void rope_row(global<const float> x, global<const float> cosines, global<const float> sines, u32 position, global<float> y) {
    enum { pairs = rotated / 2, rest = dim - rotated };
    for (u32 i = thread_index(); i < heads * pairs; i += thread_count()) {
        const u32 head = i / pairs * dim, pair = i % pairs;
        const u32 first = head + (interleaved ? 2 * pair : pair), second = head + (interleaved ? 2 * pair + 1 : pair + pairs);
        const float c = cosines[(u64)position * pairs + pair], s = sines[(u64)position * pairs + pair];
        const float a = x[first], b = x[second];
        y[first] = a * c - b * s;
        y[second] = b * c + a * s;
    }
    if constexpr (rest > 0)
        for (u32 i = thread_index(); i < heads * rest; i += thread_count()) {
            const u32 at = i / rest * dim + rotated + i % rest;
            y[at] = x[at];
        }
}
