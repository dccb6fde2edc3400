/* words.cu: values that blocks which run together hand each other.
 *
 * A value is a word of 8 bytes, the number and the epoch (step) that it belongs to, written and read as one: who needs
 * it polls the value itself, so a hop is one trip through L2, with no flag, no fence and no reset (the form of NCCL's LL
 * protocol). Every place is written once an epoch. RING_WARPS warps of a block compute; there may be one more. */

enum { RING_WARPS = 8, RING_THREADS = RING_WARPS * 32, PATIENCE = 1 << 22 };

DEVICE void consumers_meet() { barrier_some(1, RING_THREADS); }
DEVICE bool words_there(const Quad &q, u32 epoch, bool both) { return q.word[1] == epoch && (!both || q.word[3] == epoch); }
/* Two words, the second one only if `both`; q: what was seen of them. */
DEVICE void words_wait(Quad &q, global<const u64> from, u32 epoch, bool both) {
    for (u32 polls = 0; !words_there(q, epoch, both); polls++) {
        if (polls == PATIENCE) give_up();
        relax();
        q = observe_words(from);
    }
}
/* to[count] = values of `epoch`, for all warps that compute. */
DEVICE void words_gather(shared<float> to, global<const u64> from, u32 count, u32 epoch) {
    enum { at_once = 4 };
    for (u32 first = thread_index() * 2; first < count; first += RING_THREADS * 2 * at_once) {
        Quad q[at_once];
        UNROLL for (u32 i = 0; i < at_once; i++)
            if (first + i * RING_THREADS * 2 < count) q[i] = observe_words(from + (first + i * RING_THREADS * 2));
        UNROLL for (u32 i = 0; i < at_once; i++) {
            const u32 at = first + i * RING_THREADS * 2;
            if (at >= count) continue;
            words_wait(q[i], from + at, epoch, at + 1 < count);
            to[at] = float_of_bits(q[i].word[0]);
            if (at + 1 < count) to[at + 1] = float_of_bits(q[i].word[2]);
        }
    }
    consumers_meet();
}
