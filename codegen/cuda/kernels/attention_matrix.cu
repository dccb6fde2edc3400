/* attention_matrix.cu: attention of many rows on matrix units (mma.sync), online softmax (FlashAttention-2, Dao 2023).
 *
 * A block takes 16 rows a warp and one head; scores never leave registers. Queries, keys, values and weights are rounded to
 * half (what is larger than half can say is as large as it can), sums are float. Rows of one step may belong to several sequences: the block takes one run of rows after the
 * other. Keys that no row of a tile may see are skipped, and a warp skips those that none of its rows may see.
 *
 * Expected of a block: 4 * rows * keys * dim operations; 2 * keys * dim * sizeof(C) bytes from L2. */

DEVICE u32 pair_within(float low, float high) {
    const float most = 65504;
    return pair_of(fminf(fmaxf(low, -most), most), fminf(fmaxf(high, -most), most), half());
}

/* Lines of `width` values (a multiple of 8) of a matrix, as half, `pitch` bytes apart: an odd number of 16 bytes, so that pieces
 * below each other lie in different banks. */
template <u32 width> struct Lines {
    enum { padded = (width + 15) / 16 * 16, pitch = padded * 2 + 16 };
    /* line i of `count` is from(i), numbers of C, times step(i); pieces behind the width are 0. */
    template <class C, class From, class Step> DEVICE void stage(shared<u8> to, u32 count, From from, Step step) {
        enum { pieces = padded / 8, at_once = sizeof(C) == 1 ? 8 : 4 };
        for (u32 i = thread_index(); i < count * pieces; i += thread_count()) {
            const u32 line = i / pieces, c = i % pieces;
            Quad q = {};
            if (c * 8 < width) {
                const global<const C> at = from(line) + c * 8;
                if constexpr (sizeof(C) == 2) {
                    q = load_quad(at);
                } else {
                    const float scale = step(line);
                    UNROLL for (u32 j = 0; j < 8; j += at_once) {
                        const Quad p = load_bytes<at_once * sizeof(C)>(at + j);
                        UNROLL for (u32 e = 0; e < at_once; e += 2)
                            q.word[(j + e) / 2] = pair_within(Pack<C>::get(p, e) * scale, Pack<C>::get(p, e + 1) * scale);
                    }
                }
            }
            store_quad(to + line * pitch + c * 16, q);
        }
    }
};

template <u32 warps, u32 keys, u32 dim, u32 vdim> struct AttentionTile {
    typedef Lines<dim> Key;
    typedef Lines<vdim> Value;
    enum { rows = 16 * warps, keys_at = rows * Key::pitch, values_at = keys_at + keys * Key::pitch, bytes = values_at + keys * Value::pitch };
};

/* What a head is and what a row may see; scale is above 0. */
struct MatrixHead {
    u32 heads, kv_heads, head, window;
    float scale, softcap, slope; /* 0: none */
};

/* y of the rows is given out by out(row, element, a, b), for element and the next. sink: -INFINITY when there is none. part: 32
 * floats. */
template <class C, u32 warps, u32 keys, u32 dim, u32 vdim, class Out>
DEVICE void attention_matrix(const MatrixHead &f, global<const float> q, global<const C> k, global<const C> v, global<const i32> sequences,
                       global<const i32> positions, u32 rows, u32 context, float sink, shared<u8> stage, shared<float> part, Out out) {
    typedef AttentionTile<warps, keys, dim, vdim> Tile;
    typedef typename Tile::Key Key;
    typedef typename Tile::Value Value;
    enum { steps = Key::padded / 16, wide = Value::padded / 8, ahead = keys / 8 };
    const float log2e = 1.44269504f, factor = f.softcap > 0 || f.slope != 0 ? log2e : f.scale * log2e;
    const u32 first = ((rows + Tile::rows - 1) / Tile::rows - 1 - block_row()) * Tile::rows; /* long rows first */
    const u32 count = rows - first < Tile::rows ? rows - first : (u32)Tile::rows;
    const u32 mine[2] = {warp() * 16 + lane() / 4, warp() * 16 + lane() / 4 + 8};
    const shared<u8> qs = stage, ks = stage + Tile::keys_at, vs = stage + Tile::values_at;
    grid_wait();
    Key::template stage<float>(
        qs, Tile::rows, [&](u32 i) { return q + ((u64)(first + (i < count ? i : 0)) * f.heads + f.head) * dim; }, [](u32) { return 1.0f; });
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {}, sum[wide][4] = {};
    u32 position[2];
    UNROLL for (u32 h = 0; h < 2; h++) position[h] = (u32)positions[first + (mine[h] < count ? mine[h] : 0)];
    for (u32 begin = 0, end; begin < count; begin = end) {
        /* rows begin..end are of one sequence; the keys that they may see, and those that all of them may */
        const u32 sequence = (u32)sequences[first + begin], me = thread_index();
        const bool here = me >= begin && me < count;
        const bool other = here && (u32)sequences[first + me] != sequence;
        end = count - (u32)block_max(other ? (float)(count - me) : 0.0f, part);
        barrier();
        const bool in_run = here && me < end;
        const float place = in_run ? (float)positions[first + me] : 0.0f;
        const u32 high = (u32)block_max(place, part);
        barrier();
        const u32 low = high - (u32)block_max(in_run ? (float)high - place : 0.0f, part);
        const u32 from = f.window && low + 1 > f.window ? low + 1 - f.window : 0;
        const u64 head = (u64)sequence * f.kv_heads + f.head / (f.heads / f.kv_heads);
        const global<const C> of_keys = k + head * Cache<C, dim>::stride(context), of_values = v + head * Cache<C, vdim>::stride(context);
        u32 own_high = 0; /* of the warp's rows */
        bool own[2];
        UNROLL for (u32 h = 0; h < 2; h++) {
            own[h] = mine[h] >= begin && mine[h] < end;
            if (own[h] && position[h] + 1 > own_high) own_high = position[h] + 1;
        }
        UNROLL for (u32 m = 4; m < 32; m *= 2) {
            const u32 theirs = lane_xor(own_high, m);
            own_high = own_high > theirs ? own_high : theirs;
        }
        for (u32 k0 = from / keys * keys; k0 <= high; k0 += keys) {
            auto line = [&](u32 i) { return k0 + i < high ? k0 + i : high; };
            barrier();
            Key::template stage<C>(
                ks, keys, [&](u32 i) { return of_keys + (u64)line(i) * dim; }, [&](u32 i) { return Cache<C, dim>::step(of_keys, context, line(i)); });
            Value::template stage<C>(
                vs, keys, [&](u32 i) { return of_values + (u64)line(i) * vdim; }, [&](u32 i) { return Cache<C, vdim>::step(of_values, context, line(i)); });
            barrier();
            if (k0 >= own_high) continue; /* the same for the whole warp */
            float score[ahead][4] = {};
            UNROLL for (u32 s = 0; s < steps; s++) {
                u32 a[4];
                fragment_load(a, qs + (warp() * 16 + lane() % 16) * Key::pitch + s * 32 + lane() / 16 * 16);
                UNROLL for (u32 j = 0; j < ahead; j += 2) {
                    u32 b[4];
                    fragment_load(b, ks + (j * 8 + lane() / 16 * 8 + lane() % 8) * Key::pitch + s * 32 + lane() / 8 % 2 * 16);
                    const u32 left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
                    fragment_multiply(score[j], a, left, half());
                    fragment_multiply(score[j + 1], a, right, half());
                }
            }
            const bool all = begin == 0 && end == Tile::rows && k0 + keys <= low + 1 && (!f.window || k0 + f.window > high);
            if (f.softcap > 0 || f.slope != 0 || !all)
                UNROLL for (u32 j = 0; j < ahead; j++)
                    UNROLL for (u32 i = 0; i < 4; i++) {
                        const u32 key = k0 + j * 8 + lane() % 4 * 2 + i % 2, at = position[i / 2];
                        float s = score[j][i];
                        if (f.softcap > 0 || f.slope != 0) s *= f.scale;
                        if (f.softcap > 0) s = f.softcap * tanhf(s / f.softcap);
                        if (f.slope != 0) s -= f.slope * ((float)at - (float)key);
                        const bool seen = own[i / 2] && key <= at && (!f.window || key + f.window > at);
                        score[j][i] = seen ? s : -INFINITY;
                    }
            UNROLL for (u32 h = 0; h < 2; h++) {
                float top = -INFINITY, added = 0;
                UNROLL for (u32 j = 0; j < ahead; j++) top = fmaxf(top, fmaxf(score[j][2 * h], score[j][2 * h + 1]));
                top = fmaxf(top, lane_xor(top, 1));
                top = fmaxf(largest[h], fmaxf(top, lane_xor(top, 2)) * factor);
                const float base = top == -INFINITY ? 0.0f : top, keep = exp2f(largest[h] - base);
                UNROLL for (u32 j = 0; j < ahead; j++)
                    UNROLL for (u32 i = 2 * h; i < 2 * h + 2; i++) {
                        score[j][i] = exp2f(score[j][i] * factor - base);
                        added += score[j][i];
                    }
                largest[h] = top;
                total[h] = total[h] * keep + added;
                UNROLL for (u32 j = 0; j < wide; j++) sum[j][2 * h] *= keep, sum[j][2 * h + 1] *= keep;
            }
            UNROLL for (u32 s = 0; s < keys / 16; s++) {
                u32 a[4];
                UNROLL for (u32 i = 0; i < 4; i++)
                    a[i] = pair_of(score[2 * s + i / 2][i % 2 * 2], score[2 * s + i / 2][i % 2 * 2 + 1], half());
                UNROLL for (u32 j = 0; j < wide; j += 2) {
                    u32 b[4];
                    fragment_load_turned(b, vs + (s * 16 + lane() % 16) * Value::pitch + (j + lane() / 16) * 16);
                    const u32 left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
                    fragment_multiply(sum[j], a, left, half());
                    fragment_multiply(sum[j + 1], a, right, half());
                }
            }
        }
    }
    UNROLL for (u32 h = 0; h < 2; h++) {
        float all = total[h] + lane_xor(total[h], 1);
        all += lane_xor(all, 2);
        const float top = fmaxf(largest[h], sink * log2e), keep = top == -INFINITY ? 0.0f : exp2f(largest[h] - top);
        const float weight = all * keep + (sink == -INFINITY ? 0.0f : exp2f(sink * log2e - top));
        if (mine[h] >= count) continue;
        UNROLL for (u32 j = 0; j < wide; j++) {
            const u32 e = j * 8 + lane() % 4 * 2;
            const float scale = weight > 0 ? keep / weight : 0.0f;
            if (e < vdim) out(first + mine[h], e, sum[j][2 * h] * scale, sum[j][2 * h + 1] * scale);
        }
    }
}
