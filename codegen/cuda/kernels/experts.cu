/* experts.cu: what a mixture of experts needs besides products: the places of the largest, and what stands at places. A
 * block takes a row; places are floats, as the plan has them. */

/* Whether a stands before b; a NaN counts as larger than everything. */
template <bool smallest> DEVICE bool stands_before(float a, float b) {
    if (a != a || b != b) return smallest ? a == a && b != b : a != a && b == b;
    return smallest ? a < b : a > b;
}

/* y[outer][count] = places of the count first of x[outer][len], equal ones by place. A thread finds an element's rank. */
template <u32 outer, u32 len, u32 count, bool smallest> DEVICE void topk_row(global<const float> x, global<float> y) {
    for (u32 i = thread_index(); i < outer * len; i += thread_count()) {
        const u32 first = i / len * len;
        const float mine = x[i];
        u32 rank = 0;
        for (u32 j = first; j < first + len; j++)
            rank += stands_before<smallest>(x[j], mine) || (j < i && !stands_before<smallest>(mine, x[j]));
        if (rank < count) y[i / len * count + rank] = (float)(i % len);
    }
}

/* The place that a float names, or len. */
DEVICE u32 place_of(float index, u32 len) { return index >= 0 && index < (float)len ? (u32)index : len; }

/* y[outer][count][inner] = x[outer][index[outer][count]][inner], 0 where an index names no place; step: of x from one outer
 * to the next. */
template <u32 outer, u32 len, u32 inner, u32 count, u32 step>
DEVICE void pick_row(global<const float> x, global<const float> index, global<float> y) {
    for (u32 i = thread_index(); i < outer * count * inner; i += thread_count()) {
        const u32 o = i / inner / count, at = place_of(index[i / inner], len);
        y[i] = at < len ? x[o * step + at * inner + i % inner] : 0.0f;
    }
}
