/* draw.cu: the last kernel of a step: draws the token that follows each of some rows (sample.cu), and leaves what the next
 * replay of the step's graph begins with, so that steps follow each other with no upload between.
 *
 * A row has block_count() blocks, which run together, and a slot of memory for each row:
 *   asked  ASKED_WORDS: SampleOptions, number of the slot's draws (from 1 on), where in mail the token goes
 *   words  DRAW_WORDS of 8 bytes, zeros before the first draw
 * Expected of a row: its logits read once, twice to seventeen times more when a token is drawn, from L2; two trips through L2
 * for the largest, two for each pass of the draw. */

enum { ASKED_EPOCH = 8, ASKED_PLACE = 9, ASKED_WORDS = 10 };
enum { DRAW_EXCHANGE = 2 * (2 * SAMPLE_BINS + 2), DRAW_WORDS = DRAW_EXCHANGE + SAMPLE_MEET + 2 * SAMPLE_SUMS };

/* info: `chunk` tokens, positions and sequences, and the same again of the rows of the head. part: 2 * SAMPLE_BINS + 4 floats;
 * bests: 2 a warp. */
template <u32 vocab>
DEVICE void draw_row(global<const float> logits, global<u32> asked, global<u64> words, global<i32> info, u32 chunk, global<u32> mail, shared<float> part,
                     shared<float> bests) {
    const u32 row = block_row(), all = block_count() * RING_THREADS, own = block_index() * RING_THREADS + thread_index();
    const global<u32> slot = asked + row * ASKED_WORDS;
    const SampleOptions o = sample_options(slot);
    const u32 epoch = slot[ASKED_EPOCH];
    const global<u64> at = words + row * DRAW_WORDS, meet = at + DRAW_EXCHANGE, sums = meet + SAMPLE_MEET;
    for (u32 i = own; i < SAMPLE_SUMS; i += all) sums[(epoch + 1) % 2 * SAMPLE_SUMS + i] = 0; /* of the next draw */
    Best best = {0, NO_TOKEN};
    for (u32 id = own; id < vocab; id += all) best_take(best, logits[(u64)row * vocab + id], id);
    best_of_warp(best);
    if (lane() == 0) {
        bests[2 * warp()] = best.value;
        bests[2 * warp() + 1] = float_of_bits(best.token);
    }
    consumers_meet();
    best = Best{0, NO_TOKEN};
    if (lane() < RING_WARPS) best = Best{bests[2 * lane()], bits_of_float(bests[2 * lane() + 1])};
    const Next next = tokens_exchange(best, part, at, nullptr, epoch);
    const u32 token = token_choose(next, o, 0, logits + (u64)row * vocab, vocab, part, meet, sums + epoch % 2 * SAMPLE_SUMS, epoch);
    if (own != 0) return;
    publish_host(mail + slot[ASKED_PLACE], token);
    const u32 draws = o.draws[0] + 1;
    slot[6] = draws;
    slot[7] = o.draws[1] + (draws == 0);
    slot[ASKED_EPOCH] = epoch + 1;
    slot[ASKED_PLACE] = slot[ASKED_PLACE] + 1;
    for (u32 rows = 0; rows < 6 * chunk; rows += 3 * chunk) { /* of all, of the head */
        info[rows + row] = token != NO_TOKEN ? (i32)token : 0;
        info[rows + chunk + row] = info[rows + chunk + row] + 1;
    }
}
