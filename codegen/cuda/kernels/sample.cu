/* sample.cu: draws the next token by blocks that run together, as runtime/sample.c would (sample_math.h): all blocks of the
 * persistent kernel, or of the last kernel of a graph those that share a row.
 *
 * Everything is one question: going down from the largest place, where do the measures, added up, reach a goal? Top-k
 * asks it of keys, each counting 1; top-p of keys by their weights; the draw of ids by the weights of what is left. It
 * is answered a byte of the place at a time (radix selection): each block adds up its part of the ids in 256 bins of shared
 * memory, then in bins that all share, a pass for each byte. Sums are of integers, so nobody's order matters.
 * Expected of a pass: vocab / blocks logits a block, from L2; atomics on at most 256 sums; one trip through L2. */

enum { SAMPLE_BINS = 256, SAMPLE_PASSES = 20 };

/* In words of 8 bytes, what blocks share: to meet by, twice one a block; the sums of a draw, zeros before it. */
enum { SAMPLE_MEET = 2 * SAMPLE_BINS, SAMPLE_SUMS = SAMPLE_PASSES * SAMPLE_BINS };

struct Sampler {
    shared<u64> bins; /* SAMPLE_BINS */
    global<u64> meet, sums;
    global<const float> logits;
    u32 first, last, epoch, pass; /* first..last: the block's ids */
    float largest, scale;
    u32 least, least_id; /* the smallest key that is left; of those that have it, the largest id */
};
DEVICE u32 key_left(const Sampler &s, u32 id) {
    const u32 key = sample_key(s.logits[id], s.largest, s.scale);
    return key > s.least || (key == s.least && id <= s.least_id) ? key : 0;
}

/* The bins of all blocks, in the bins of each. */
DEVICE void bins_join(Sampler &s) {
    const global<u64> sums = s.sums + s.pass * SAMPLE_BINS, words = s.meet + s.pass % 2 * SAMPLE_BINS;
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

/* ---- the questions, in this order; that about an edge when equals stand there ---- */
enum { TOP_K, TOP_K_EDGE, TOP_P, TOP_P_EDGE, TOKEN };
struct Question {
    u32 what;
    u32 edge; /* of an edge: the key of the equals, and how many of them stay */
    u64 count;
};
DEVICE bool asks_keys(const Question &q) { return q.what == TOP_K || q.what == TOP_P; }
DEVICE u64 measure_of(const Question &q, u32 key) {
    if (q.what == TOP_P || q.what == TOKEN) return sample_weight(key);
    return q.what == TOP_K || key == q.edge;
}
/* Of these measures' total. */
DEVICE u64 goal_of(const Question &q, const SampleOptions &o, u32 later, u64 total) {
    if (q.what == TOP_K) return o.top_k;
    if (q.what == TOKEN) return sample_share(total, sample_random(&o, later)) + 1;
    if (q.what != TOP_P) return q.count;
    const u64 wanted = sample_part(total, o.top_p);
    return wanted > 1 ? wanted : 1;
}

struct Found {
    u32 place;
    u64 wanted, before, here; /* wanted - before of the `here` at this place are needed */
};
/* Places of `bytes` bytes: keys, or ids down from last_id. */
DEVICE Found place_find(Sampler &s, const Question &q, const SampleOptions &o, u32 later, u32 bytes, u32 last_id) {
    Found f = {};
    ROLLED for (u32 shift = 8 * bytes; shift != 0;) {
        const bool first = shift == 8 * bytes;
        shift -= 8;
        s.bins[thread_index()] = 0;
        consumers_meet();
        for (u32 id = s.first + thread_index(); id < s.last; id += RING_THREADS) {
            const u32 key = key_left(s, id), place = asks_keys(q) ? key : last_id - id;
            if (key == 0 || (!first && place >> (shift + 8) != f.place)) continue;
            const u64 measure = measure_of(q, key);
            if (measure != 0) atomic_add(s.bins + (place >> shift & 255), measure);
        }
        consumers_meet();
        bins_join(s);
        u64 wanted = 0;
        const u64 left = f.wanted - f.before;
        const Bin b = bin_find(s.bins, wanted, [&](u64 total) { return first ? goal_of(q, o, later, total) : left; });
        consumers_meet();
        if (first) f.wanted = wanted;
        f.place = f.place << 8 | b.which;
        f.before += b.before;
        f.here = b.here;
    }
    return f;
}
/* Leaves the candidates down to a key, of those that have it the ids up to last. */
DEVICE void candidates_cut(Sampler &s, u32 key, u32 last) {
    s.least_id = key == s.least && s.least_id < last ? s.least_id : last;
    s.least = key;
}

/* The token that the options' draw, `later` ones on, falls on; largest is among the logits, none of which is infinite. bins:
 * of the block; meet, sums: what blocks share; all blocks wrote their logits before they met. */
DEVICE u32 sample_token(const SampleOptions &o, u32 later, global<const float> logits, u32 vocab, float largest, shared<u64> bins, global<u64> meet,
                        global<u64> sums, u32 epoch) {
    const u32 each = (vocab + block_count() - 1) / block_count(), first = block_index() * each, id_bytes = vocab > 65536 ? 3 : 2;
    const u32 last_id = (1u << 8 * id_bytes) - 1, all = 0xffffffffu;
    Sampler s = {bins, meet, sums, logits, first < vocab ? first : vocab, first + each < vocab ? first + each : vocab, epoch, 0, largest,
                 float_of_bits(o.scale), 1, all};
    Question q = {o.top_k != 0 ? (u32)TOP_K : o.top_p != 0 ? (u32)TOP_P : (u32)TOKEN, 0, 0};
    ROLLED for (;;) {
        if (q.what == TOKEN && o.least > s.least) s.least = o.least, s.least_id = all;
        const Found f = place_find(s, q, o, later, asks_keys(q) ? 4 : id_bytes, last_id);
        if (q.what == TOKEN) return last_id - f.place;
        if (!asks_keys(q)) {
            candidates_cut(s, q.edge, last_id - f.place);
        } else if (f.before + f.here >= f.wanted && f.place != 0) { /* else all of them are wanted */
            const u64 each_of = measure_of(q, f.place), count = (f.wanted - f.before + each_of - 1) / each_of;
            if (count * each_of < f.here) {
                q = Question{q.what + 1, f.place, count};
                continue;
            }
            candidates_cut(s, f.place, last_id);
        }
        q = Question{q.what < TOP_P && o.top_p != 0 ? (u32)TOP_P : (u32)TOKEN, 0, 0};
    }
}

/* ---- the next token ---- */
/* The largest logit that a thread has seen, the first one of equals; NaN is none. */
struct Best {
    float value;
    u32 token; /* NO_TOKEN: none yet */
};
enum : u32 { NO_TOKEN = 0xffffffffu };
DEVICE void best_take(Best &b, float value, u32 token) {
    const bool better = b.token == NO_TOKEN || value > b.value || (value == b.value && token < b.token);
    if (token == NO_TOKEN || value != value || !better) return;
    b.value = value;
    b.token = token;
}
DEVICE void best_of_warp(Best &b) {
    UNROLL for (u32 m = 16; m; m /= 2) best_take(b, lane_xor(b.value, m), lane_xor(b.token, m));
}
/* Every block tells its best and learns the best of all; block 0 tells too whether to go on after this step. All of
 * a step's writes are known to all blocks afterwards. part: 2 floats a block and 2 more. words: 2 a block and 2 more,
 * of odd and of even epochs. mail: the host's wish to stop; null: it has none. */
struct Next {
    u32 token;
    float largest;
    bool go_on;
};
DEVICE Next tokens_exchange(Best best, shared<float> part, global<u64> words, global<u32> mail, u32 epoch) {
    const global<u64> mine = words + (epoch & 1) * (2 * block_count() + 2);
    if (warp() == 0) {
        best_of_warp(best);
        warp_barrier();
        if (lane() == 0) {
            device_fence();
            publish_word(mine + 2 * block_index(), bits_of_float(best.value), epoch);
            publish_word(mine + (2 * block_index() + 1), best.token, epoch);
            if (block_index() == 0) publish_word(mine + 2 * block_count(), mail != nullptr ? observe_host(mail) : 0, epoch);
        }
    }
    words_gather(part, mine, 2 * block_count() + 1, epoch);
    device_fence();
    Best all = {0, NO_TOKEN};
    for (u32 i = lane(); i < block_count(); i += 32) best_take(all, part[2 * i], bits_of_float(part[2 * i + 1]));
    best_of_warp(all);
    const Next next = {all.token, all.value, bits_of_float(part[2 * block_count()]) == 0 && all.token != NO_TOKEN};
    consumers_meet();
    return next;
}
/* What of a draw's options stands in memory. */
DEVICE SampleOptions sample_options(global<const u32> asked) {
    return SampleOptions{asked[0], asked[1], asked[2], asked[3], {asked[4], asked[5]}, {asked[6], asked[7]}};
}
/* The best token, or the one that is drawn. */
DEVICE u32 token_choose(const Next &best, const SampleOptions &o, u32 later, global<const float> logits, u32 vocab, shared<float> part, global<u64> meet,
                        global<u64> sums, u32 epoch) {
    if (o.scale == 0 || best.token == NO_TOKEN || !(fabsf(best.largest) < INFINITY)) return best.token;
    return sample_token(o, later, logits, vocab, best.largest, (shared<u64>)part, meet, sums, epoch);
}
