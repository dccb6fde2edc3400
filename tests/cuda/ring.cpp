/* ring.cpp: the ring and the words of the persistent kernel: several blocks stream tiles and hand each other sums, over
 * two epochs; what is right passes, each planted fault is named. */
#include "tests/cuda/expect.h"

#include "codegen/cuda/kernels/common.cu"
#include "codegen/cuda/kernels/weights.cu"
#include "codegen/cuda/kernels/code_forms.cu"
#include "codegen/cuda/kernels/codes.cu"
#include "codegen/cuda/kernels/words.cu"
#include "codegen/cuda/kernels/ring.cu"
#include "codegen/cuda/kernels/ring_codes.cu"

enum Fault { NONE, OVERRUN, EARLY, KEPT, LOST, TWICE, STALE, NOT_DRAINED, MISSED };
enum { BLOCKS = 3, TILES = 9, FLOATS = RING_THREADS, FEW = 3, EPOCHS = 2 };
static float source[FLOATS * TILES], result[BLOCKS];
static u64 words[BLOCKS + 1];

DEVICE void bring(Ring r, global<const float> from, Fault fault) {
    for (u32 i = 0; i < EPOCHS * TILES; i++) {
        const global<const u8> tile = (global<const u8>)(from + i % TILES * FLOATS);
        if (fault == OVERRUN) { /* does not wait for a stage to be given back */
            mbarrier_arrive_expect(r.full + r.at, FLOATS * 4);
            bulk_copy(r.bytes + r.at * STAGE_BYTES, tile, FLOATS * 4, r.full + r.at);
            ring_next(r);
        } else if (!ring_bring(r, tile, FLOATS * 4)) {
            return fault == NOT_DRAINED ? void() : ring_drain(r);
        }
    }
}

KERNEL(288) hand_round(global<const float> from, global<u64> at, global<float> y, u32 epoch, Fault fault) {
    SHARED_AT_LAUNCH(u8, memory);
    const shared<float> local = (shared<float>)memory, part = local + 64;
    Ring ring = ring_begin((shared<u64>)(memory + 1024), memory + 2048, FEW);
    barrier();
    if (warp() == RING_WARPS) {
        if (lane() == 0) bring(ring, from, fault);
        return;
    }
    float total = 0;
    for (u32 step = 0; step < EPOCHS; step++, epoch++) {
        float sum = 0;
        for (u32 i = 0; i < TILES; i++) {
            const u32 stage = ring.at;
            const shared<float> tile = (shared<float>)(fault == EARLY ? ring.bytes + ring.at * STAGE_BYTES : ring_take(ring));
            sum += tile[thread_index()];
            ring_next(ring);
            if (fault != KEPT) ring_give(ring, stage);
        }
        sum = warp_sum(sum);
        if (lane() == 0) part[warp()] = sum;
        if (fault != MISSED) consumers_meet();
        if (thread_index() == 0 && !(fault == LOST && block_index() == 1)) {
            float all = 0;
            for (u32 i = 0; i < RING_WARPS; i++) all += part[i];
            publish_word(at + block_index(), bits_of_float(all), fault == TWICE ? 1 : epoch);
        }
        if (fault == STALE) { /* takes what is there, of whatever epoch */
            if (thread_index() < BLOCKS) local[thread_index()] = float_of_bits(observe_word(at + thread_index()).word[0]);
            consumers_meet();
        } else {
            words_gather(local, at, BLOCKS, epoch);
        }
        if (thread_index() == 0)
            for (u32 i = 0; i < BLOCKS; i++) total += local[i];
        consumers_meet();
        if (fault == NOT_DRAINED) break; /* the text ends early */
    }
    if (thread_index() == 0) y[block_index()] = total, mbarrier_arrive(ring.over);
}

static void try_one(Fault fault, const char *name, const char *says) {
    for (u64 &w : words) w = 0;
    expect(name, says, BLOCKS, 288,
           [&] { hand_round(global<const float>(source), global<u64>(words), global<float>(result), 1, fault); }, BLOCKS,
           2048 + FEW * STAGE_BYTES);
}

int main() {
    float want = 0;
    host::region_add(source, sizeof source, "source");
    host::region_add(result, sizeof result, "result");
    host::region_add(words, sizeof words, "words");
    for (int i = 0; i < FLOATS * TILES; i++) want += source[i] = (float)(i % 13);
    want *= BLOCKS * EPOCHS;
    try_one(NONE, "sums handed round", "");
    for (float v : result)
        if (v != want) failures++, printf("FAIL: a sum of %g, not %g\n", (double)v, (double)want);
    try_one(OVERRUN, "a ring that overruns", "is still on its way");
    try_one(EARLY, "a tile taken before it is there", "ring.cpp");
    try_one(KEPT, "a stage that is not given back", "waits at");
    try_one(LOST, "a word that is not published", "waits at a word of another block for ever");
    try_one(TWICE, "a word published twice", "published twice in epoch 1");
    try_one(NOT_DRAINED, "copies that nobody waits for", "ends, the bulk copy of line");
    try_one(MISSED, "warps that do not meet", "nobody wrote it");
    try_one(STALE, "words of another epoch", "");
    if (result[0] == want) failures++, printf("FAIL: words of another epoch make no difference\n");
    return failures != 0;
}
