/* attention.cu: causal attention over the cache, online softmax (Milakov and Gimelshein 2018), keys split over
 * blocks as in Flash-Decoding (Dao et al. 2023).
 *
 * The cache: cache.cu. A block takes one row, one key head, up to `heads` of the query heads that share it, and one span of the keys. Its warps
 * take four keys at a time, eight lanes each; lane a of eight holds elements a, a + 8, … of the head, or, when the
 * head is made of such pieces (of 16 bytes; where numbers are bytes of 8 or 4 too), pieces a, a + 8, … Each eight lanes keep a maximum, a sum and dim / 8
 * weighted values of their own; they are joined at the end.
 *
 * Expected of a span: 2 * span * dim * sizeof(C) bytes and its steps, 4 * heads * span * dim operations. */

/* What the keys are worth to a query. */
struct Scores {
    float scale, softcap; /* softcap 0: none */
};

/* The keys that one of `splits` blocks looks at: of 0..position, or of the last `window` of them (0: all). */
struct Span {
    u32 first, last;
};
DEVICE Span key_span(u32 position, u32 window, u32 split, u32 splits) {
    const u32 begin = window && position + 1 > window ? position + 1 - window : 0;
    const u32 each = (position + 1 - begin + splits - 1) / splits, first = begin + split * each;
    Span s = {first < position + 1 ? first : position + 1, first + each < position + 1 ? first + each : position + 1};
    return s;
}

/* Elements of a head that one of eight lanes holds, and where the e-th of them lies. */
template <class C, u32 dim> struct HeadLane {
    enum {
        bytes = sizeof(C) == 1 && dim % 128 != 0 ? dim % 64 == 0 ? 8 : 4 : 16,
        wide = dim * sizeof(C) % (8 * bytes) == 0 ? bytes / sizeof(C) : 1,
        count = (dim + 7) / 8
    };
    DEVICE u32 at(u32 e) { return (e / wide * 8 + lane() % 8) * wide + e % wide; }
    template <class P> DEVICE void load(float (&to)[count], P from) {
        if constexpr (wide > 1) {
            UNROLL for (u32 e = 0; e < count; e += wide) {
                Quad q = load_bytes<bytes>(from + at(e));
                UNROLL for (u32 i = 0; i < wide; i++) to[e + i] = Pack<C>::get(q, i);
            }
        } else {
            UNROLL for (u32 e = 0; e < count; e++) to[e] = at(e) < dim ? to_float(from[at(e)]) : 0.0f;
        }
    }
};

/* Of one query head: what a group of eight lanes has seen. */
template <u32 count> struct Seen {
    float largest, total, value[count];
};

/* Takes b into a. */
template <u32 count> DEVICE void seen_join(Seen<count> &a, float largest, float total, const float (&value)[count]) {
    float top = fmaxf(a.largest, largest);
    if (top == -INFINITY) return;
    float keep = expf(a.largest - top), take = expf(largest - top);
    a.largest = top;
    a.total = a.total * keep + total * take;
    UNROLL for (u32 e = 0; e < count; e++) a.value[e] = a.value[e] * keep + value[e] * take;
}

/* Eight lanes take a key: their elements of it and of its value, and both steps; inside: there is one. distance: positions
 * between. */
template <u32 heads, u32 dims, u32 vdims>
DEVICE void key_take(const float (&query)[heads][dims], Seen<vdims> (&seen)[heads], const float (&key)[dims], const float (&value)[vdims],
                     float key_step, float value_step, bool inside, u32 distance, const Scores &scores, global<const float> slopes) {
    UNROLL for (u32 h = 0; h < heads; h++) {
        float s = 0;
        UNROLL for (u32 e = 0; e < dims; e++) s += query[h][e] * key[e];
        UNROLL for (u32 m = 4; m; m /= 2) s += lane_xor(s, m);
        s *= key_step;
        if (scores.softcap > 0) s = scores.softcap * tanhf(s / scores.softcap);
        if (slopes != nullptr) s -= slopes[h] * (float)distance;
        if (!inside) s = -INFINITY;
        float top = fmaxf(seen[h].largest, s);
        float keep = top == -INFINITY ? 1.0f : expf(seen[h].largest - top);
        float take = top == -INFINITY ? 0.0f : expf(s - top);
        seen[h].largest = top;
        seen[h].total = seen[h].total * keep + take;
        take *= value_step;
        UNROLL for (u32 e = 0; e < vdims; e++) seen[h].value[e] = seen[h].value[e] * keep + value[e] * take;
    }
}
/* The four groups of lanes of a warp to one; mine: vdim + 2 floats of this warp and head. */
template <class C, u32 vdim> DEVICE void lanes_join(Seen<HeadLane<C, vdim>::count> &seen, shared<float> mine) {
    typedef HeadLane<C, vdim> Value;
    UNROLL for (u32 m = 8; m < 32; m *= 2) {
        float largest = lane_xor(seen.largest, m), total = lane_xor(seen.total, m), value[Value::count];
        UNROLL for (u32 e = 0; e < Value::count; e++) value[e] = lane_xor(seen.value[e], m);
        seen_join(seen, largest, total, value);
    }
    if (lane() >= 8) return;
    UNROLL for (u32 e = 0; e < Value::count; e++)
        if (Value::at(e) < vdim) mine[Value::at(e)] = seen.value[e];
    if (lane() == 0) mine[vdim] = seen.largest, mine[vdim + 1] = seen.total;
}
/* Element e of head h of what the warps have left in part. */
template <u32 heads, u32 vdim>
DEVICE void warps_join(shared<float> part, u32 warps, u32 h, u32 e, float &largest, float &total, float &sum) {
    largest = -INFINITY, total = 0, sum = 0;
    for (u32 w = 0; w < warps; w++) largest = fmaxf(largest, part[(w * heads + h) * (vdim + 2) + vdim]);
    for (u32 w = 0; w < warps; w++) {
        shared<float> of = part + (w * heads + h) * (vdim + 2);
        float take = largest == -INFINITY ? 0.0f : expf(of[vdim] - largest);
        total += of[vdim + 1] * take;
        sum += of[e] * take;
    }
}

/* q: the row's queries of `heads` heads, dim apart. k, v: the key head's cache of the row's sequence (Cache). Keys
 * first..last (last not included) are looked at; position is the row's. slopes (or null): a slope a head.
 * part: heads * (vdim + 2) floats a warp. Afterwards thread 0..vdim of the block gets its element of head h's sum through
 * out(h, element, largest, total, sum). */
template <class C, u32 heads, u32 dim, u32 vdim, class Out>
DEVICE void attention_span(global<const float> q, global<const C> k, global<const C> v, u32 context, u32 first, u32 last,
                           u32 position, const Scores &scores, global<const float> slopes, shared<float> part, Out out) {
    typedef HeadLane<C, dim> Key;
    typedef HeadLane<C, vdim> Value;
    const u32 warps = thread_count() / 32;
    float query[heads][Key::count];
    Seen<Value::count> seen[heads];
    UNROLL for (u32 h = 0; h < heads; h++) {
        UNROLL for (u32 e = 0; e < Key::count; e++)
            query[h][e] = Key::at(e) < dim ? q[h * dim + Key::at(e)] * scores.scale : 0.0f;
        seen[h].largest = -INFINITY, seen[h].total = 0;
        UNROLL for (u32 e = 0; e < Value::count; e++) seen[h].value[e] = 0;
    }
    for (u32 base = first + warp() * 4; base < last; base += warps * 4) {
        const u32 key = base + lane() / 8;
        const bool inside = key < last;
        const u32 from = inside ? key : first;
        float keys[Key::count], values[Value::count];
        Key::load(keys, k + (u64)from * dim);
        Value::load(values, v + (u64)from * vdim);
        key_take(query, seen, keys, values, Cache<C, dim>::step(k, context, from), Cache<C, vdim>::step(v, context, from), inside,
                 position - key, scores, slopes);
    }
    UNROLL for (u32 h = 0; h < heads; h++) lanes_join<C, vdim>(seen[h], part + (warp() * heads + h) * (vdim + 2));
    barrier();
    for (u32 i = thread_index(); i < heads * vdim; i += thread_count()) {
        float largest, total, sum;
        warps_join<heads, vdim>(part, warps, i / vdim, i % vdim, largest, total, sum);
        out(i / vdim, i % vdim, largest, total, sum);
    }
}

/* The weighted mean, with a sink (a score that takes part and has no value) or without; 0 when nothing was allowed. */
DEVICE float attention_mean(float largest, float total, float sum, bool has_sink, float sink) {
    float top = has_sink ? fmaxf(largest, sink) : largest;
    if (top == -INFINITY) return 0;
    float keep = expf(largest - top), all = total * keep + (has_sink ? expf(sink - top) : 0.0f);
    return all > 0 ? sum * keep / all : 0.0f;
}

/* Joins the spans of one row and head: parts [splits][vdim + 2], element e. */
template <u32 vdim> DEVICE float attention_join(global<const float> parts, u32 splits, u32 e, bool has_sink, float sink) {
    float largest = -INFINITY, total = 0, sum = 0;
    for (u32 i = 0; i < splits; i++) largest = fmaxf(largest, parts[i * (vdim + 2) + vdim]);
    for (u32 i = 0; i < splits; i++) {
        global<const float> of = parts + i * (vdim + 2);
        float take = largest == -INFINITY ? 0.0f : expf(of[vdim] - largest);
        total += of[vdim + 1] * take;
        sum += of[e] * take;
    }
    return attention_mean(largest, total, sum, has_sink, sink);
}
