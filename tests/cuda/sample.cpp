/* sample.cpp: tokens drawn by 1 to 4 blocks (kernels/sample.cu, as decode.cu calls it) are those that the runtime's sampler
 * draws: every filter alone and together, many equal logits, NaN and infinity, vocabularies of odd sizes. */
#include "tests/cuda/expect.h"

#include "codegen/cuda/kernels/common.cu"
#include "codegen/cuda/kernels/weights.cu"
#include "codegen/cuda/kernels/rope.cu"
#include "codegen/cuda/kernels/attention.cu"
#include "codegen/cuda/kernels/ring.cu"
#include "runtime/sample_math.h"
#include "codegen/cuda/kernels/sample.cu"
#include "codegen/cuda/kernels/decode.cu"

extern "C" {
#include "runtime/gptc.h"
void sampler_reference(int32_t vocab, const float *logits, const gptc_sampler_options *options, int32_t draws, int32_t *tokens, uint32_t words[8]);
}

enum { STEPS = 2, BLOCKS = 4, MOST = 70000, SUMS = (2 + STEPS * SAMPLE_PASSES) * SAMPLE_BINS };
static float logits[MOST];
static u64 words[2 * (2 * BLOCKS + 2)], sums[SUMS];
static u32 asked[8], mail[1], drawn[BLOCKS][STEPS];
static i32 want[STEPS];
static u64 random_state = 9;

static float random_unit() {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(random_state >> 33) / 1073741824.0 - 1.0);
}

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

int main() {
    host::region_add(logits, sizeof logits, "logits");
    host::region_add(words, sizeof words, "words");
    host::region_add(sums, sizeof sums, "sums");
    host::region_add(asked, sizeof asked, "asked");
    host::region_add(mail, sizeof mail, "mail");
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
