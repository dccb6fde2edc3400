/* decode.cu: the phases of the persistent kernel between its products (ring.cu). What is small every block computes
 * for itself, from values in its shared memory: norms, rotary positions, elementwise steps, the embedding. Attention
 * is split over key heads and spans of keys; who computes spans of a head joins a part of its elements each. */

/* ---- places ---- */
template <class T> DEVICE global<const T> tensor_at(global<const u8> base, u32 place) { return (global<const T>)bytes_at(base, place); }
/* A sequence's part of a state. */
template <class C, u32 heads, u32 dim> DEVICE global<C> state_at(global<u8> base, u32 place, u32 sequence, u32 context) {
    return (global<C>)(base + (u64)place * 64) + (u64)sequence * heads * Cache<C, dim>::stride(context);
}

/* ---- on values that the block holds; all warps that compute take part, and meet at the end ---- */
DEVICE float consumers_sum(float v, shared<float> part) {
    v = warp_sum(v);
    if (lane() == 0) part[warp()] = v;
    consumers_meet();
    float sum = 0;
    UNROLL for (u32 i = 0; i < RING_WARPS; i++) sum += part[i];
    return sum;
}
/* y = norm of x; part: 2 floats a warp. gamma, beta may be null. */
template <u32 width, bool rms> DEVICE void norm_local(shared<float> y, shared<float> x, global<const float> gamma, global<const float> beta, float eps, shared<float> part) {
    float sum = 0, square = 0;
    if (!rms) {
        for (u32 i = thread_index(); i < width; i += RING_THREADS) sum += x[i];
        sum = consumers_sum(sum, part);
    }
    const float mean = sum / width;
    for (u32 i = thread_index(); i < width; i += RING_THREADS) square += (x[i] - mean) * (x[i] - mean);
    const float scale = rsqrtf(consumers_sum(square, part + RING_WARPS) / width + eps);
    for (u32 i = thread_index(); i < width; i += RING_THREADS) {
        float v = (x[i] - mean) * scale;
        if (gamma != nullptr) v *= gamma[i];
        if (beta != nullptr) v += beta[i];
        y[i] = v;
    }
    consumers_meet();
}
/* The same of `groups` heads, a warp each; each: gamma and beta go on from head to head. */
template <u32 groups, u32 width, bool rms, bool each_gamma, bool each_beta>
DEVICE void norm_heads(shared<float> y, shared<float> x, global<const float> gamma, global<const float> beta, float eps) {
    for (u32 g = warp(); g < groups; g += RING_WARPS) {
        const shared<float> from = x + g * width, to = y + g * width;
        float sum = 0, square = 0;
        if (!rms) {
            for (u32 i = lane(); i < width; i += 32) sum += from[i];
            sum = warp_sum(sum);
        }
        const float mean = sum / width;
        for (u32 i = lane(); i < width; i += 32) square += (from[i] - mean) * (from[i] - mean);
        const float scale = rsqrtf(warp_sum(square) / width + eps);
        for (u32 i = lane(); i < width; i += 32) {
            float v = (from[i] - mean) * scale;
            if (gamma != nullptr) v *= gamma[(each_gamma ? g * width : 0) + i];
            if (beta != nullptr) v += beta[(each_beta ? g * width : 0) + i];
            to[i] = v;
        }
    }
    consumers_meet();
}
/* y = x with its heads turned, as rope_row. */
template <u32 heads, u32 dim, u32 rotated, bool interleaved>
DEVICE void rope_local(shared<float> y, shared<float> x, global<const float> cosines, global<const float> sines, u32 position) {
    enum { pairs = rotated / 2, rest = dim - rotated };
    for (u32 i = thread_index(); i < heads * pairs; i += RING_THREADS) {
        const u32 head = i / pairs * dim, pair = i % pairs;
        const u32 first = head + (interleaved ? 2 * pair : pair), second = head + (interleaved ? 2 * pair + 1 : pair + pairs);
        const float c = cosines[(u64)position * pairs + pair], s = sines[(u64)position * pairs + pair];
        const float a = x[first], b = x[second];
        y[first] = a * c - b * s;
        y[second] = b * c + a * s;
    }
    if constexpr (rest > 0)
        for (u32 i = thread_index(); i < heads * rest; i += RING_THREADS) {
            const u32 at = i / rest * dim + rotated + i % rest;
            y[at] = x[at];
        }
    consumers_meet();
}
template <u32 width> DEVICE void copy_local(shared<float> y, shared<float> x) {
    for (u32 i = thread_index(); i < width; i += RING_THREADS) y[i] = x[i];
    consumers_meet();
}
/* A strided copy over four axes. */
struct Strides {
    u32 of[4];
};
template <u32 a, u32 b, u32 c, u32 d> DEVICE void move_local(shared<float> y, const Strides &to, shared<float> x, const Strides &from) {
    for (u32 i = thread_index(); i < a * b * c * d; i += RING_THREADS) {
        const u32 at[4] = {i / (b * c * d), i / (c * d) % b, i / d % c, i % d};
        u32 source = 0, target = 0;
        UNROLL for (u32 k = 0; k < 4; k++) source += at[k] * from.of[k], target += at[k] * to.of[k];
        y[target] = x[source];
    }
    consumers_meet();
}
/* Row `id` of a table, of form W (weights.cu). */
template <class W, u32 width> DEVICE void gather_local(shared<float> y, global<const typename W::Element> table, u32 id) {
    for (u32 i = thread_index(); i < width; i += RING_THREADS) y[i] = W::get(table, width, id, i);
    consumers_meet();
}
/* New keys or values to the cache of the sequence; a warp takes a head, and they go round the blocks. Nobody reads
 * them there before the blocks exchanged tokens, once more. */
template <class C, u32 heads, u32 dim> DEVICE void store_local(shared<float> x, global<C> state, u32 position, u32 context) {
    for (u32 h = warp() * block_count() + block_index(); h < heads; h += RING_WARPS * block_count())
        Cache<C, dim>::store(x + h * dim, state + Cache<C, dim>::place(h, context, 0), context, position);
}

/* ---- attention ----
 * Keys begin..fresh of the cache are older than the launch and come through the ring; those from fresh on were
 * written during it, by whichever block, and are read when blocks have exchanged tokens; the position's own key and
 * value are not read from the cache at all. The old ones are split. Expected: as in attention.cu. */
struct Keys {
    u32 begin, fresh, position, splits;
};
DEVICE Keys keys_of(u32 position, u32 old, u32 window, u32 units) {
    enum { least = 32, most = 64 };
    const u32 begin = window && position + 1 > window ? position + 1 - window : 0, fresh = old > begin ? old : begin;
    u32 splits = block_count() / units;
    if (splits > (fresh - begin + least - 1) / least) splits = (fresh - begin + least - 1) / least;
    const Keys keys = {begin, fresh, position, splits < 1 ? 1 : splits > most ? (u32)most : splits};
    return keys;
}
DEVICE Span keys_span(const Keys &k, u32 split) {
    const u32 each = (k.fresh - k.begin + k.splits - 1) / k.splits, first = k.begin + split * each;
    const Span s = {first < k.fresh ? first : k.fresh, first + each < k.fresh ? first + each : k.fresh};
    return s;
}
/* Positions of a tile. Where numbers have steps, these stand behind them, from the one before the first that lies at a multiple
 * of 16 bytes. */
template <class C, u32 dim, u32 vdim> struct KeyTile {
    enum {
        wide = dim > vdim ? dim : vdim,
        aligned = 8, /* steps in 16 bytes */
        rows = sizeof(C) == 1 ? (STAGE_BYTES - 4 * aligned) / (wide + 2) : STAGE_BYTES / (wide * sizeof(C))
    };
};
/* Positions first..first + n of a head to a stage. */
template <class C, u32 dim, class Tile> DEVICE bool bring_head(Ring &r, global<const C> head, u32 first, u32 n, u32 context) {
    const global<const u8> from = (global<const u8>)(head + (u64)first * dim);
    if constexpr (sizeof(C) == 1) {
        const u32 begin = first / Tile::aligned * Tile::aligned, end = (first + n + Tile::aligned - 1) / Tile::aligned * Tile::aligned;
        return ring_bring_two(r, from, n * dim, (global<const u8>)(Cache<C, dim>::steps(head, context) + begin), (end - begin) * 2, Tile::rows * dim);
    } else {
        return ring_bring(r, from, n * dim * sizeof(C));
    }
}
/* parts: blocks that share a key head's queries. keys, values: of the sequence. */
template <class C, u32 kv_heads, u32 parts, u32 dim, u32 vdim>
DEVICE bool bring_keys(Ring &r, u32 &turn, const Keys &k, global<const C> keys, global<const C> values, u32 context) {
    typedef KeyTile<C, dim, vdim> Tile;
    const u32 units = kv_heads * parts * k.splits;
    for (u32 u = turn_take(turn, units); u < units; u += block_count()) {
        const Span s = keys_span(k, u % k.splits);
        const u32 kv = u / k.splits / parts;
        const global<const C> of_keys = keys + Cache<C, dim>::place(kv, context, 0), of_values = values + Cache<C, vdim>::place(kv, context, 0);
        for (u32 base = s.first; base < s.last; base += Tile::rows) {
            const u32 n = s.last - base < Tile::rows ? s.last - base : (u32)Tile::rows;
            if (!bring_head<C, dim, Tile>(r, of_keys, base, n, context) || !bring_head<C, vdim, Tile>(r, of_values, base, n, context)) return false;
        }
    }
    return true;
}

/* Four keys a warp at a time, eight lanes each, as attention_span; rows of a tile, or of the cache. key_step(i), value_step(i):
 * of row i. */
template <class C, u32 heads, u32 dim, u32 vdim, class P, class KeyStep, class ValueStep>
DEVICE void keys_take(const float (&query)[heads][HeadLane<C, dim>::count], Seen<HeadLane<C, vdim>::count> (&seen)[heads], P keys, P values,
                      KeyStep key_step, ValueStep value_step, u32 count, u32 first, u32 position, const Scores &scores, global<const float> slopes) {
    for (u32 base = warp() * 4; base < count; base += RING_WARPS * 4) {
        const u32 key = base + lane() / 8;
        const bool inside = key < count;
        const u32 from = inside ? key : 0;
        float k[HeadLane<C, dim>::count], v[HeadLane<C, vdim>::count];
        HeadLane<C, dim>::load(k, keys + (u64)from * dim);
        HeadLane<C, vdim>::load(v, values + (u64)from * vdim);
        key_take(query, seen, k, v, key_step(from), value_step(from), inside, position - (first + key), scores, slopes);
    }
}
/* The position's own key and value, rounded as the cache rounds them; warp 0 takes them. */
template <class C, u32 heads, u32 dim, u32 vdim>
DEVICE void own_key_take(const float (&query)[heads][HeadLane<C, dim>::count], Seen<HeadLane<C, vdim>::count> (&seen)[heads], shared<float> key,
                         shared<float> value, const Scores &scores, global<const float> slopes) {
    typedef HeadLane<C, dim> Key;
    typedef HeadLane<C, vdim> Value;
    if (warp() != 0) return;
    float k[Key::count], v[Value::count];
    const float key_step = Cache<C, dim>::step_of(key), value_step = Cache<C, vdim>::step_of(value);
    UNROLL for (u32 e = 0; e < Key::count; e++) k[e] = Key::at(e) < dim ? Cache<C, dim>::kept(key[Key::at(e)], key_step) : 0.0f;
    UNROLL for (u32 e = 0; e < Value::count; e++) v[e] = Value::at(e) < vdim ? Cache<C, vdim>::kept(value[Value::at(e)], value_step) : 0.0f;
    key_take(query, seen, k, v, key_step, value_step, lane() < 8, 0, scores, slopes);
}

/* What stands for one attention step. q: all heads; key, value: the position's own, all key heads. part: floats,
 * heads * (vdim + 2) a warp. partial, out: words; the partial ones serve all layers, so their epoch counts layers. */
struct Attend {
    shared<float> q, key, value, part;
    Scores scores;
    global<const float> slopes, sinks;
    global<u64> partial, out;
    u32 epoch, partial_epoch;
};
/* Joins elements first..last of a unit's heads from its spans. */
template <u32 heads, u32 vdim> DEVICE void spans_join(const Attend &a, u32 unit, u32 splits, u32 first, u32 last) {
    enum { stride = heads * (vdim + 2) };
    const u32 count = last - first, each = count + 2 * heads; /* words wanted of a span: elements, then maxima and sums */
    for (u32 i = thread_index(); i < splits * each; i += RING_THREADS) {
        const u32 e = i % each, h = (e - count) / 2;
        const u32 at = e < count ? (first + e) / vdim * (vdim + 2) + (first + e) % vdim : h * (vdim + 2) + vdim + (e - count) % 2;
        const global<const u64> from = a.partial + ((u64)(unit * splits + i / each) * stride + at);
        Quad q = observe_word(from);
        for (u32 polls = 0; q.word[1] != a.partial_epoch; polls++) {
            if (polls == PATIENCE) give_up();
            relax();
            q = observe_word(from);
        }
        a.part[i] = float_of_bits(q.word[0]);
    }
    consumers_meet();
    for (u32 e = thread_index(); e < count; e += RING_THREADS) {
        const u32 h = (first + e) / vdim, at = unit * heads * vdim + first + e;
        float largest = -INFINITY, total = 0, sum = 0;
        for (u32 s = 0; s < splits; s++) largest = fmaxf(largest, a.part[s * each + count + 2 * h]);
        for (u32 s = 0; s < splits; s++) {
            const float top = a.part[s * each + count + 2 * h], take = largest == -INFINITY ? 0.0f : expf(top - largest);
            total += a.part[s * each + count + 2 * h + 1] * take;
            sum += a.part[s * each + e] * take;
        }
        const bool sink = a.sinks != nullptr;
        publish_word(a.out + at, bits_of_float(attention_mean(largest, total, sum, sink, sink ? a.sinks[unit * heads + h] : 0.0f)), a.epoch);
    }
    consumers_meet();
}
template <class C, u32 kv_heads, u32 parts, u32 heads, u32 dim, u32 vdim>
DEVICE void attend(Ring &r, u32 &turn, const Keys &k, const Attend &a, global<const C> keys, global<const C> values, u32 context) {
    typedef HeadLane<C, dim> Key;
    typedef HeadLane<C, vdim> Value;
    typedef KeyTile<C, dim, vdim> Tile;
    enum { rows = Tile::rows, stride = heads * (vdim + 2) };
    const u32 units = kv_heads * parts * k.splits, own = turn_take(turn, units);
    for (u32 u = own; u < units; u += block_count()) {
        const u32 unit = u / k.splits, split = u % k.splits, kv = unit / parts;
        const Span s = keys_span(k, split);
        const global<const float> slopes = a.slopes != nullptr ? a.slopes + unit * heads : a.slopes;
        float query[heads][Key::count];
        Seen<Value::count> seen[heads];
        UNROLL for (u32 h = 0; h < heads; h++) {
            UNROLL for (u32 e = 0; e < Key::count; e++)
                query[h][e] = Key::at(e) < dim ? a.q[(unit * heads + h) * dim + Key::at(e)] * a.scores.scale : 0.0f;
            seen[h].largest = -INFINITY, seen[h].total = 0;
            UNROLL for (u32 e = 0; e < Value::count; e++) seen[h].value[e] = 0;
        }
        for (u32 base = s.first; base < s.last; base += rows) {
            const u32 n = s.last - base < rows ? s.last - base : (u32)rows, first = r.at, shift = base % Tile::aligned;
            const shared<C> key_tile = (shared<C>)ring_take(r);
            ring_next(r);
            const u32 second = r.at;
            const shared<C> value_tile = (shared<C>)ring_take(r);
            ring_next(r);
            keys_take<C, heads, dim, vdim>(
                query, seen, key_tile, value_tile, [&](u32 i) { return Cache<C, dim>::tile_step(key_tile + rows * dim, shift + i); },
                [&](u32 i) { return Cache<C, vdim>::tile_step(value_tile + rows * vdim, shift + i); }, n, base, k.position, a.scores, slopes);
            ring_give(r, first);
            ring_give(r, second);
        }
        if (split == k.splits - 1) {
            keys_take<C, heads, dim, vdim>(
                query, seen, keys + Cache<C, dim>::place(kv, context, k.fresh), values + Cache<C, vdim>::place(kv, context, k.fresh),
                [&](u32 i) { return Cache<C, dim>::step(keys + Cache<C, dim>::place(kv, context, 0), context, k.fresh + i); },
                [&](u32 i) { return Cache<C, vdim>::step(values + Cache<C, vdim>::place(kv, context, 0), context, k.fresh + i); }, k.position - k.fresh, k.fresh, k.position, a.scores, slopes);
            own_key_take<C, heads, dim, vdim>(query, seen, a.key + kv * dim, a.value + kv * vdim, a.scores, slopes);
        }
        UNROLL for (u32 h = 0; h < heads; h++) lanes_join<C, vdim>(seen[h], a.part + (warp() * heads + h) * (vdim + 2));
        consumers_meet();
        for (u32 i = thread_index(); i < heads * vdim; i += RING_THREADS) {
            const u32 h = i / vdim, e = i % vdim;
            float largest, total, sum;
            warps_join<heads, vdim>(a.part, RING_WARPS, h, e, largest, total, sum);
            if (k.splits == 1) {
                const bool sink = a.sinks != nullptr;
                const float v = attention_mean(largest, total, sum, sink, sink ? a.sinks[unit * heads + h] : 0.0f);
                publish_word(a.out + (unit * heads * vdim + i), bits_of_float(v), a.epoch);
                continue;
            }
            const global<u64> to = a.partial + ((u64)u * stride + h * (vdim + 2));
            publish_word(to + e, bits_of_float(sum), a.partial_epoch);
            if (e != 0) continue;
            publish_word(to + vdim, bits_of_float(largest), a.partial_epoch);
            publish_word(to + (vdim + 1), bits_of_float(total), a.partial_epoch);
        }
        consumers_meet();
    }
    if (k.splits == 1) return;
    for (u32 u = own; u < units; u += block_count()) {
        const u32 split = u % k.splits, each = (heads * vdim + k.splits - 1) / k.splits, first = split * each;
        if (first < heads * vdim)
            spans_join<heads, vdim>(a, u / k.splits, k.splits, first, first + each < heads * vdim ? first + each : heads * vdim);
    }
}

/* ---- the next token ---- */
/* That after a step of the launch: the best one, or the one that is drawn. asked: SampleOptions, as words. sums: to meet by,
 * then the sums of each step. */
template <u32 vocab>
DEVICE Next token_next(const Best &best, shared<float> part, global<u64> words, global<u64> sums, global<u32> mail, global<const float> logits,
                       global<const u32> asked, shared<u32> stops, u32 n_stops, u32 step, u32 epoch) {
    Next next = tokens_exchange(best, part, words, mail, epoch);
    next.token = token_choose(next, sample_options(asked), step, logits, vocab, part, sums, sums + SAMPLE_MEET + step * SAMPLE_SUMS, epoch);
    for (u32 i = 0; i < n_stops; i++) next.go_on = next.go_on && stops[i] != next.token;
    return next;
}
