/* sample.cpp: tokens drawn by 1 to 4 blocks (kernels/sample.cu, as decode.cu calls it, and draw.cu) are those that the
 * runtime's sampler draws: every filter alone and together, many equal logits, NaN and infinity, vocabularies of odd sizes;
 * rows of a batch, each in its own way, in launches of 1 to 8 of them that follow each other. */
#include "tests/cuda/expect.h"
#include "tests/cuda/random.h"

#include "codegen/cuda/kernels/common.cu"
#include "codegen/cuda/kernels/weights.cu"
#include "codegen/cuda/kernels/rope.cu"
#include "codegen/cuda/kernels/cache.cu"
#include "codegen/cuda/kernels/attention.cu"
#include "codegen/cuda/kernels/words.cu"
#include "runtime/sample_math.h"
#include "codegen/cuda/kernels/sample.cu"
#include "codegen/cuda/kernels/draw.cu"
#include "codegen/cuda/kernels/ring.cu"
#include "codegen/cuda/kernels/decode.cu"

extern "C" {
#include "runtime/gptc.h"
void sampler_reference(int32_t vocab, const float *logits, const gptc_sampler_options *options, int32_t draws, int32_t *tokens, uint32_t words[8]);
}

enum { STEPS = 2, BLOCKS = 4, MOST = 70000, SUMS = SAMPLE_MEET + STEPS * SAMPLE_SUMS };
static float logits[MOST];
static u64 words[2 * (2 * BLOCKS + 2)], sums[SUMS];
static u32 asked[8], mail[1], drawn[BLOCKS][STEPS];
static i32 want[STEPS];

template <u32 vocab>
KERNEL(256, 1) draw_some(global<const float> from, global<u64> at, global<u64> added, global<u32> letters, global<const u32> wish, u32 stop) {
    SHARED(float, part, 2 * SAMPLE_BINS + 4);
    SHARED(u32, stops, 1);
    if (thread_index() == 0) stops[0] = stop;
    barrier();
    for (u32 step = 0; step < STEPS; step++) {
        Best best = {0, NO_TOKEN};
        if (warp() == 0) /* as the block's share of the head leaves it */
            for (u32 i = block_index() * 32 + lane(); i < vocab; i += block_count() * 32) best_take(best, from[i], i);
        const Next next = token_next<vocab>(best, part, at, added, letters, from, wish, stops, 1, step, 5 + step);
        if (thread_index() == 0) drawn[block_index()][step] = next.token;
        if (next.go_on != (next.token != stop)) give_up();
    }
}

template <u32 vocab> static void compare(const char *name, const gptc_sampler_options &o, u32 blocks) {
    sampler_reference(vocab, logits, &o, STEPS, want, asked);
    memset(words, 0, sizeof words);
    memset(sums, 0, sizeof sums);
    memset(drawn, 0xff, sizeof drawn);
    const std::string fault = host::launch(blocks, 1, 256, 0, blocks, [&] {
        draw_some<vocab>(global<const float>(logits), global<u64>(words), global<u64>(sums), global<u32>(mail), global<const u32>(asked), vocab);
    });
    bool same = fault.empty();
    for (u32 b = 0; b < blocks; b++)
        for (u32 i = 0; i < STEPS; i++) same = same && (i32)drawn[b][i] == want[i] && want[i] >= 0;
    if (same) return;
    failures++;
    printf("FAIL: %s of %u by %u blocks: %d %d, not %d %d %s\n", name, vocab, blocks, (i32)drawn[0][0], (i32)drawn[0][1], want[0],
           want[1], fault.c_str());
}

template <u32 vocab> static void all(const char *name, u32 blocks) {
    static const struct {
        float temperature;
        i32 top_k;
        float top_p, min_p;
    } table[] = {{0, 0, 1, 0}, {1, 0, 1, 0}, {0.7f, 5, 1, 0}, {1, 0, 0.9f, 0}, {1, 1 << 30, 1, 0.05f}, {1, 40, 0.8f, 0.02f}, {1e-45f, 1, 1e-9f, 1}};
    for (const auto &t : table) {
        gptc_sampler_options o = {};
        o.temperature = t.temperature, o.top_k = t.top_k, o.top_p = t.top_p, o.min_p = t.min_p, o.seed = 0x123456789abcull + vocab;
        compare<vocab>(name, o, blocks);
    }
}

/* ---- rows of a batch ---- */
enum { ROWS = 8, CHUNK = 10, LAUNCHES = 7, DRAWS = LAUNCHES + 1 };
static u32 slots[ROWS * ASKED_WORDS], letters[1 + 2 * ROWS];
static u64 slot_words[ROWS * DRAW_WORDS];
static i32 info[6 * CHUNK], follows[ROWS][DRAWS];

template <u32 vocab> KERNEL(256) draw_rows(global<const float> from, global<u32> wish, global<u64> at, global<i32> of, global<u32> mail_at) {
    SHARED(float, part, 2 * SAMPLE_BINS + 4);
    SHARED(float, bests, 2 * RING_WARPS);
    draw_row<vocab>(from, wish, at, of, CHUNK, mail_at, part, bests);
}

static gptc_sampler_options row_options(u32 row) {
    static const gptc_sampler_options table[ROWS] = {{0, 0, 0, 1, 0, 0},      {0, 1, 0, 1, 0, 3},        {0, 0.8f, 7, 1, 0, 4}, {0, 1, 0, 0.7f, 0, 5},
                                                     {0, 1, 9, 0.9f, 0.1f, 3}, {0, 2, 1 << 20, 1, 0.2f, 0}, {0, 0, 0, 1, 0, 1},    {0, 1, 0, 1, 0, 9}};
    return table[row];
}

/* draws[row]: those that the row's slot has made; `again` times in a row, as replays of a graph. */
template <u32 vocab> static void draw_launch(u32 n, u32 blocks, u32 again, u32 *draws) {
    u64 before = 0;
    for (u32 r = 0; r < n; r++) {
        i32 unused[1];
        const gptc_sampler_options o = row_options(r);
        u32 *slot = slots + r * ASKED_WORDS;
        sampler_reference(vocab, logits, &o, 0, unused, slot);
        memcpy(&before, slot + 6, sizeof before);
        before += draws[r];
        memcpy(slot + 6, &before, sizeof before);
        slot[ASKED_EPOCH] = draws[r] + 1, slot[ASKED_PLACE] = 1 + r;
    }
    for (u32 k = 0; k < again; k++) {
        memset(info, 0, sizeof info);
        const std::string fault = host::launch(blocks, n, 256, 0, blocks * n, [&] {
            draw_rows<vocab>(global<const float>(logits), global<u32>(slots), global<u64>(slot_words), global<i32>(info), global<u32>(letters));
        });
        for (u32 r = 0; r < n; r++) {
            const i32 want = follows[r][draws[r]++], got = (i32)letters[1 + r + k], next = want < 0 ? 0 : want;
            const bool is_left = info[r] == next && info[3 * CHUNK + r] == next && info[CHUNK + r] == 1 && info[4 * CHUNK + r] == 1;
            if (fault.empty() && is_left && (want < 0 ? got == -1 : got == want)) continue;
            failures++;
            printf("FAIL: row %u of %u of %u, by %u blocks: %d, not %d; the next step takes %d at %d %s\n", r, n, vocab, blocks, got, want, info[r],
                   info[CHUNK + r], fault.c_str());
        }
    }
}
template <u32 vocab> static void batches() {
    u32 draws[ROWS] = {}, unused[8];
    memset(slot_words, 0, sizeof slot_words);
    for (u32 i = 0; i < vocab; i++) logits[7 * vocab + i] = NAN;
    for (u32 r = 0; r < ROWS; r++) {
        const gptc_sampler_options o = row_options(r);
        sampler_reference(vocab, logits + r * vocab, &o, DRAWS, follows[r], unused);
    }
    draw_launch<vocab>(8, 1, 1, draws), draw_launch<vocab>(1, 4, 1, draws), draw_launch<vocab>(8, 2, 1, draws);
    draw_launch<vocab>(3, 3, 1, draws), draw_launch<vocab>(5, 1, 2, draws), draw_launch<vocab>(8, 1, 1, draws);
    draw_launch<vocab>(1, 3, 1, draws);
}

int main() {
    host::region_add(logits, sizeof logits, "logits");
    host::region_add(words, sizeof words, "words");
    host::region_add(sums, sizeof sums, "sums");
    host::region_add(asked, sizeof asked, "asked");
    host::region_add(mail, sizeof mail, "mail");
    host::region_add(slots, sizeof slots, "slots");
    host::region_add(letters, sizeof letters, "letters");
    host::region_add(slot_words, sizeof slot_words, "slot_words");
    host::region_add(info, sizeof info, "info");
    for (float &x : logits) x = 6 * random_unit();
    batches<1>(), batches<301>();
    for (float &x : logits) x = 6 * random_unit();
    all<1>("one candidate", 1);
    all<333>("odd sizes", 3);
    all<100>("fewer than a block's threads", 4);
    gptc_sampler_options large = {};
    large.temperature = 1;
    compare<70000>("ids of three bytes", large, 4);
    for (u32 i = 0; i < 200; i++) logits[i] = (float)(i % 3);
    all<200>("many equals", 3);
    logits[3] = NAN, logits[7] = -INFINITY;
    all<9>("what is no candidate", 2);
    logits[5] = logits[4] = INFINITY;
    all<9>("infinite", 2);
    return failures != 0;
}
