/* rows.cu: what moves or changes single rows: embedding, cache write, reductions, copies.
 * All are bound by memory and small beside the products; a block takes one row. */

/* y = row `id` of a table of `width` columns, in any form. */
template <class W, u32 width> DEVICE void gather_row(global<const typename W::Element> table, u32 id, global<float> y) {
    for (u32 i = thread_index(); i < width; i += thread_count()) y[i] = W::get(table, width, id, i);
}

/* Element i of heads x dim floats. */
template <u32 heads, u32 dim, class C>
DEVICE void store_one(float v, u32 i, global<C> state, u32 sequence, u32 position, u32 context) {
    from_float(v, state[(((u64)sequence * heads + i / dim) * context + position) * dim + i % dim]);
}
/* Writes heads x dim floats at a position of the cache [sequence][head][context][dim]. */
template <class C, u32 heads, u32 dim>
DEVICE void store_row(global<const float> x, global<C> state, u32 sequence, u32 position, u32 context) {
    for (u32 i = thread_index(); i < heads * dim; i += thread_count())
        store_one<heads, dim>(x[i], i, state, sequence, position, context);
}

/* The same, however the cache keeps numbers: a warp a head. */
template <class C, u32 heads, u32 dim>
DEVICE void store_head(global<const float> x, global<C> state, u32 head, u32 sequence, u32 position, u32 context) {
    typedef Cache<C, dim> Kept;
    Kept::store(x + head * dim, state + ((u64)sequence * heads + head) * Kept::stride(context), context, position);
}

/* The choice of what a reduction does with two numbers, and what it begins with. */
enum { REDUCE_SUM, REDUCE_MEAN, REDUCE_MAX, REDUCE_MIN, REDUCE_PROD };
template <u32 op> DEVICE float reduce_start() {
    return op == REDUCE_MAX ? -INFINITY : op == REDUCE_MIN ? INFINITY : op == REDUCE_PROD ? 1.0f : 0.0f;
}
template <u32 op> DEVICE float reduce_two(float a, float b) {
    if (op == REDUCE_MAX) return a != a || a > b ? a : b; /* NaN wins */
    if (op == REDUCE_MIN) return a != a || a < b ? a : b;
    return op == REDUCE_PROD ? a * b : a + b;
}
/* y[outer][inner] = x[outer][len][inner] reduced over len; a thread a result. */
template <u32 op, u32 outer, u32 len, u32 inner> DEVICE void reduce_row(global<const float> x, global<float> y) {
    for (u32 i = thread_index(); i < outer * inner; i += thread_count()) {
        float v = reduce_start<op>();
        for (u32 k = 0; k < len; k++) v = reduce_two<op>(v, x[(i / inner * len + k) * inner + i % inner]);
        y[i] = op == REDUCE_MEAN ? v / len : v;
    }
}
template <u32 outer, u32 len, u32 inner> DEVICE void softmax_row(global<const float> x, global<float> y) {
    for (u32 i = thread_index(); i < outer * inner; i += thread_count()) {
        const u32 at = i / inner * len * inner + i % inner;
        float top = -INFINITY, sum = 0;
        for (u32 k = 0; k < len; k++) top = fmaxf(top, x[at + k * inner]);
        for (u32 k = 0; k < len; k++) sum += expf(x[at + k * inner] - top);
        for (u32 k = 0; k < len; k++) y[at + k * inner] = expf(x[at + k * inner] - top) / sum;
    }
}
