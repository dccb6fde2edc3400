/* ring.cu: what the persistent kernel is built of: a stream of tiles through shared memory that never waits for
 * activations, and values that blocks hand each other.
 *
 * A block is RING_WARPS warps that compute and one lane that brings. That lane walks the same list of tiles as the
 * others, weights and old keys and values, and copies each to the next stage of a ring as soon as the stage is free
 * (cp.async.bulk, mbarriers). What it brings depends on no activation, so while the others wait for a value the ring
 * fills: stages * 16 KB of every SM are the time that a wait may take and cost nothing.
 *
 * Values between phases are words (words.cu). */

enum { STAGE_BYTES = 16384, MOST_STAGES = 14 };

struct Ring {
    shared<u8> bytes;
    shared<u64> full, empty, over; /* barriers: of each stage, and: no more steps */
    u32 stages, at, parity;
};

/* barriers: 2 * MOST_STAGES + 1 words; a barrier() of the block must follow. */
DEVICE Ring ring_begin(shared<u64> barriers, shared<u8> bytes, u32 stages) {
    Ring r = {bytes, barriers, barriers + MOST_STAGES, barriers + 2 * MOST_STAGES, stages, 0, 0};
    if (thread_index() == 0) {
        for (u32 i = 0; i < stages; i++) {
            mbarrier_init(r.full + i, 1);
            mbarrier_init(r.empty + i, RING_WARPS);
        }
        mbarrier_init(r.over, 1);
        mbarrier_publish();
    }
    return r;
}
DEVICE void ring_next(Ring &r) {
    if (++r.at < r.stages) return;
    r.at = 0;
    r.parity ^= 1;
}

/* ---- the lane that brings; false: nobody wants more ---- */
DEVICE bool ring_wait(Ring &r) {
    while (!mbarrier_test(r.empty + r.at, r.parity ^ 1)) {
        if (mbarrier_test(r.over, 0)) return false;
        relax();
    }
    return true;
}
DEVICE bool ring_bring(Ring &r, global<const u8> from, u32 bytes) {
    if (!ring_wait(r)) return false;
    mbarrier_arrive_expect(r.full + r.at, bytes);
    bulk_copy(r.bytes + r.at * STAGE_BYTES, from, bytes, r.full + r.at);
    ring_next(r);
    return true;
}
/* Two pieces as one tile, the second one `at` bytes into it. */
DEVICE bool ring_bring_two(Ring &r, global<const u8> from, u32 bytes, global<const u8> second, u32 second_bytes, u32 at) {
    if (!ring_wait(r)) return false;
    mbarrier_arrive_expect(r.full + r.at, bytes + second_bytes);
    bulk_copy(r.bytes + r.at * STAGE_BYTES, from, bytes, r.full + r.at);
    bulk_copy(r.bytes + (r.at * STAGE_BYTES + at), second, second_bytes, r.full + r.at);
    ring_next(r);
    return true;
}
/* A block must not end while copies are on their way to it. */
DEVICE void ring_drain(Ring &r) {
    for (u32 i = 0; i < r.stages; i++) mbarrier_wait(r.full + i, i < r.at ? r.parity : r.parity ^ 1);
}

/* ---- the warps that compute ---- */
/* The next tile, there; ring_give returns its stage. */
DEVICE shared<u8> ring_take(Ring &r) {
    mbarrier_wait(r.full + r.at, r.parity);
    return r.bytes + r.at * STAGE_BYTES;
}
DEVICE void ring_give(Ring &r, u32 stage) {
    warp_barrier();
    if (lane() == 0) mbarrier_arrive(r.empty + stage);
}

/* What a function gives back that is called, with a ring of its own: where that stands, too. */
template <class T> struct Stepped {
    T value;
    u32 at, parity;
};
template <class T> DEVICE Stepped<T> ring_step(const Ring &r, T value) { return Stepped<T>{value, r.at, r.parity}; }
template <class T> DEVICE T ring_after(Ring &r, const Stepped<T> &s) {
    r.at = s.at;
    r.parity = s.parity;
    return s.value;
}

/* A place: an offset in units of 64 bytes. */
DEVICE global<const u8> bytes_at(global<const u8> base, u32 place) { return base + (u64)place * 64; }

/* ---- who does what: `count` equal pieces go round the blocks, the next ones begin where these ended ---- */
DEVICE u32 turn_take(u32 &turn, u32 count) {
    const u32 blocks = block_count(), first = (block_index() + blocks - turn) % blocks;
    turn = (turn + count) % blocks;
    return first;
}

/* ---- products: panels of 16 outputs, [k][16] (ART_PANEL16), in tiles of whole rows of k ----
 * Expected of a panel: k * 16 * sizeof(T) bytes of the stream, k * 32 operations. */
template <class T, u32 k> struct Panel {
    enum {
        wide = Pack<T>::count,
        slices = 16 / wide,
        row = 16 * sizeof(T),
        step = RING_THREADS / slices, /* rows that the threads take at once */
        tiles = (k * row + STAGE_BYTES - 1) / STAGE_BYTES,
        depth = ((k + tiles - 1) / tiles + step - 1) / step * step,
        whole = k % depth == 0
    };
};
template <class T, u32 k> DEVICE bool bring_panel(Ring &r, global<const u8> w, u32 panel) {
    typedef Panel<T, k> P;
    for (u32 first = 0; first < k; first += P::depth)
        if (!ring_bring(r, w + ((u64)panel * k + first) * P::row, (k - first < P::depth ? k - first : (u32)P::depth) * P::row))
            return false;
    return true;
}
/* The sums of 16 floats a warp, in thread t < 16 of the block sum t; always added in the same order. */
DEVICE float ring_share(float mine, u32 output, bool has, shared<float> part) {
    if (has) part[warp() * 16 + output] = mine;
    consumers_meet();
    float v = 0;
    if (thread_index() < 16)
        for (u32 i = 0; i < RING_WARPS; i++) v += part[i * 16 + thread_index()];
    return v;
}
/* x: k floats. part: 16 floats a warp, not those of the panel before. Thread t < 16 gets the sum of output t. */
template <class T, u32 k> DEVICE float ring_sum(Ring &r, shared<float> x, shared<float> part) {
    typedef Panel<T, k> P;
    float sum[P::wide] = {};
    for (u32 first = 0; first < k; first += P::depth) {
        const u32 quads = (k - first < P::depth ? k - first : (u32)P::depth) * P::slices, stage = r.at;
        const shared<T> w = (shared<T>)ring_take(r);
        UNROLL for (u32 i = 0; i < P::depth / P::step; i++) {
            const u32 at = thread_index() + i * RING_THREADS;
            if (!P::whole && at >= quads) continue;
            const Quad q = load_quad(w + at * P::wide);
            const float v = x[first + at / P::slices];
            UNROLL for (u32 j = 0; j < P::wide; j++) sum[j] += v * Pack<T>::get(q, j);
        }
        ring_next(r);
        ring_give(r, stage);
    }
    /* Lanes with the same slice hold sums of the same outputs: each step a lane keeps half of its sums. */
    u32 output = 0, left = P::wide;
    UNROLL for (u32 m = 16; m >= P::slices; m /= 2) {
        const bool upper = lane() & m;
        if (left == 1) {
            sum[0] += lane_xor(sum[0], m);
            continue;
        }
        left /= 2;
        UNROLL for (u32 j = 0; j < P::wide / 2; j++)
            if (j < left) {
                const float keep = upper ? sum[j + left] : sum[j], give = upper ? sum[j] : sum[j + left];
                sum[j] = keep + lane_xor(give, m);
            }
        output = output * 2 + upper;
    }
    return ring_share(sum[0], lane() % P::slices * P::wide + output, !(lane() & P::slices), part);
}
