/* sample.cu: draws the next token by all blocks of the persistent kernel, as runtime/sample.c would (sample_math.h).
 *
 * Everything is one question: going down from the largest place, where do the measures, added up, reach a goal? Top-k
 * asks it of keys, each counting 1; top-p of keys by their weights; the draw of ids by the weights of what is left. It
 * is answered a byte of the place at a time (radix selection): each block adds up its part of the ids in 256 bins of shared
 * memory, then in bins that all share, a pass for each byte. Sums are of integers, so nobody's order matters.
 * Expected of a pass: vocab / blocks logits a block, from L2; atomics on at most 256 sums; one trip through L2. */

enum { SAMPLE_BINS = 256, SAMPLE_PASSES = 20 };

/* What the blocks share for a launch, zeros before: words to meet by, twice one a block; sums of each step's passes. */
DEVICE u64 sample_sums_at(u32 step, u32 pass) { return 2 * SAMPLE_BINS + (u64)(step * SAMPLE_PASSES + pass) * SAMPLE_BINS; }

struct Sampler {
    shared<u64> bins; /* SAMPLE_BINS */
    global<u64> words;
    global<const float> logits;
    u32 vocab, first, last, step, epoch, pass; /* first..last: the block's ids */
    float largest, scale;
    u32 least, least_id; /* the smallest key that is left; of those that have it, the largest id */
};
DEVICE u32 key_left(const Sampler &s, u32 id) {
    const u32 key = sample_key(s.logits[id], s.largest, s.scale);
    return key > s.least || (key == s.least && id <= s.least_id) ? key : 0;
}

/* The bins of all blocks, in the bins of each. */
DEVICE void bins_join(Sampler &s) {
    const global<u64> sums = s.words + sample_sums_at(s.step, s.pass), words = s.words + s.pass % 2 * SAMPLE_BINS;
    const u32 t = thread_index(), tag = s.epoch * 32 + s.pass + 1;
    if (s.bins[t] != 0) atomic_add(sums + t, s.bins[t]);
    consumers_meet();
    if (t == 0) {
        device_fence();
        publish_word(words + block_index(), 0, tag);
    }
    if (t < block_count()) {
        Quad q = observe_word(words + t);
        for (u32 polls = 0; q.word[1] != tag; polls++) {
            if (polls == PATIENCE) give_up();
            relax();
            q = observe_word(words + t);
        }
    }
    device_fence();
    consumers_meet();
    s.bins[t] = observe_sum(sums + t);
    s.pass++;
    consumers_meet();
}

/* ---- the bin in which a goal is reached, from the last bin down; all warps look alike ---- */
DEVICE u64 lane_read(u64 v, u32 from) { return (u64)lane_read((u32)(v >> 32), from) << 32 | lane_read((u32)v, from); }
struct Bin {
    u32 which;
    u64 before, here; /* sums of the bins above it, of itself */
};
/* Lane l has bins 255 - 8 l and the 7 below. goal(total) is at least 1; more than the total: the bin below the last one
 * that counts is bin 0. */
template <class Goal> DEVICE Bin bin_find(shared<u64> bins, u64 &wanted, Goal goal) {
    enum { each = SAMPLE_BINS / 32 };
    const u32 top = SAMPLE_BINS - 1 - lane() * each;
    u64 own = 0;
    for (u32 i = 0; i < each; i++) own += bins[top - i];
    u64 sum = own;
    for (u32 m = 1; m < 32; m *= 2) {
        const u64 below = lane_read(sum, lane() - m);
        if (lane() >= m) sum += below;
    }
    wanted = goal(lane_read(sum, 31));
    u32 holder = 0; /* lanes whose sum does not reach the goal */
    for (u32 l = 0; l < 32; l++) holder += lane_read(sum, l) < wanted;
    holder = holder < 32 ? holder : 31;
    Bin b = {SAMPLE_BINS - 1 - holder * each, lane_read(sum - own, holder), 0};
    for (u32 i = 0; i < each; i++, b.which--) {
        b.here = bins[b.which];
        if (b.before + b.here >= wanted || b.which == 0) break;
        b.before += b.here;
    }
    return b;
}

struct Found {
    u32 place;
    u64 wanted, before, here; /* wanted - before of the `here` at this place are needed */
};
/* Each candidate has of(id, key), a place of `bytes` bytes and a measure. */
struct Measured {
    u32 place;
    u64 measure;
};
template <class Of, class Goal> DEVICE Found place_find(Sampler &s, u32 bytes, Of of, Goal goal) {
    Found f = {};
    const u32 top = 8 * (bytes - 1);
    ROLLED for (u32 pass = 0; pass < bytes; pass++) {
        const u32 shift = top - 8 * pass;
        s.bins[thread_index()] = 0;
        consumers_meet();
        for (u32 id = s.first + thread_index(); id < s.last; id += RING_THREADS) {
            const u32 key = key_left(s, id);
            if (key == 0) continue;
            const Measured m = of(id, key);
            if (m.measure != 0 && (pass == 0 || m.place >> (shift + 8) == f.place)) atomic_add(s.bins + (m.place >> shift & 255), m.measure);
        }
        consumers_meet();
        bins_join(s);
        u64 wanted = 0;
        const u64 left = f.wanted - f.before;
        const Bin b = bin_find(s.bins, wanted, [&](u64 total) { return pass == 0 ? goal(total) : left; });
        consumers_meet();
        if (pass == 0) f.wanted = wanted;
        f.place = f.place << 8 | b.which;
        f.before += b.before;
        f.here = b.here;
    }
    return f;
}

/* Leaves the candidates, from the largest key down, until their measures reach the goal; of equals the lowest ids. */
template <class Measure, class Goal> DEVICE void candidates_cut(Sampler &s, u32 id_bytes, Measure measure, Goal goal) {
    const Found f = place_find(s, 4, [&](u32, u32 key) { return Measured{key, measure(key)}; }, goal);
    if (f.before + f.here < f.wanted || f.place == 0) return; /* all of them are wanted */
    const u64 each = measure(f.place), count = (f.wanted - f.before + each - 1) / each;
    const u32 ids = (1u << 8 * id_bytes) - 1;
    u32 last = ids;
    if (count * each < f.here)
        last = ids - place_find(s, id_bytes, [&](u32 id, u32 key) { return Measured{ids - id, key == f.place}; }, [&](u64) { return count; }).place;
    s.least_id = f.place == s.least && s.least_id < last ? s.least_id : last;
    s.least = f.place;
}

/* The token that the options' draw, `step` later, falls on; largest is among the logits, none of which is infinite. words:
 * of the launch; bins: of the block; all blocks wrote their logits before they met. */
DEVICE u32 sample_token(const SampleOptions &o, global<const float> logits, u32 vocab, float largest, shared<u64> bins, global<u64> words, u32 step,
                        u32 epoch) {
    const u32 each = (vocab + block_count() - 1) / block_count(), first = block_index() * each, id_bytes = vocab > 65536 ? 3 : 2;
    Sampler s = {bins, words, logits, vocab, first < vocab ? first : vocab, first + each < vocab ? first + each : vocab, step, epoch, 0, largest,
                 float_of_bits(o.scale), 1, 0xffffffffu};
    if (o.top_k != 0) candidates_cut(s, id_bytes, [](u32) { return (u64)1; }, [&](u64) { return (u64)o.top_k; });
    if (o.top_p != 0)
        candidates_cut(s, id_bytes, [](u32 key) { return sample_weight(key); }, [&](u64 total) {
            const u64 wanted = sample_part(total, o.top_p);
            return wanted > 1 ? wanted : 1;
        });
    if (o.least > s.least) s.least = o.least, s.least_id = 0xffffffffu;
    const u32 ids = (1u << 8 * id_bytes) - 1;
    return ids - place_find(s, id_bytes, [&](u32 id, u32 key) { return Measured{ids - id, sample_weight(key)}; },
                            [&](u64 total) { return sample_share(total, sample_random(&o, step)) + 1; }).place;
}
