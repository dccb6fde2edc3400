/* ring_codes.cu: the products of ring.cu with compressed weights (code_forms.cu): tiles of whole blocks, on matrix units as in
 * codes.cu; scales are numbers and codes have no grid of their own.
 * Expected of a panel: its blocks' bytes of the stream. */

template <class W, u32 k> struct CodePanel {
    enum {
        blocks = (k + W::group - 1) / W::group,
        most = STAGE_BYTES / W::block_bytes,
        tiles = (blocks + most - 1) / most,
        depth = (blocks + tiles - 1) / tiles /* blocks of a tile */
    };
};
template <class W, u32 k> DEVICE bool bring_codes(Ring &r, global<const u8> w, u32 panel) {
    typedef CodePanel<W, k> P;
    for (u32 first = 0; first < P::blocks; first += P::depth)
        if (!ring_bring(r, w + ((u64)panel * P::blocks + first) * W::block_bytes,
                        (P::blocks - first < P::depth ? P::blocks - first : (u32)P::depth) * W::block_bytes))
            return false;
    return true;
}
template <class W, u32 k> DEVICE float ring_sum_codes(Ring &r, shared<float> x, shared<float> part) {
    typedef CodePanel<W, k> P;
    typedef UnitSet<W> S;
    const u32 g = lane() / 4;
    float sum[1][2] = {};
    for (u32 first = 0; first < P::blocks; first += P::depth) {
        const u32 here = P::blocks - first < P::depth ? P::blocks - first : (u32)P::depth, sets = here * S::in_block, stage = r.at;
        const shared<u8> w = ring_take(r);
        for (u32 piece = warp(); piece * 4 < sets; piece += RING_WARPS) {
            /* a lane names a unit; where there is none, the last one: it meets zeros */
            const u32 wanted = piece * 4 + lane() / 8, own = wanted < sets ? wanted : sets - 1;
            const u32 unit = S::at(own).unit + lane() % 8 < W::units ? S::at(own).unit + lane() % 8 : W::units - 1;
            u32 turned[W::rows][4];
            UNROLL for (u32 i = 0; i < W::rows; i++)
                fragment_load_turned(turned[i], (shared<u32>)(w + (S::at(own).block * W::block_bytes + W::codes_at + (unit * W::rows + i) * 16)));
            codes_piece<W, k, 1>(
                turned, piece * 4, sets, shared<u32>(), [&](u32, u32 column) { return first * W::group + column < k ? x[first * W::group + column] : 0.0f; },
                [&](u32 block, u32 output) { return W::zero_of(w + block * W::block_bytes, output); },
                [&](u32 i, u32 o) { return piece * 4 + i < sets ? W::scale_of(w + S::at(piece * 4 + i).block * W::block_bytes, 2 * g + o) : 0.0f; }, sum);
        }
        ring_next(r);
        ring_give(r, stage);
    }
    /* Lanes 0, 4, 8, … have the sums of outputs 2 g and 2 g + 1 of row 0. */
    if (lane() % 4 == 0)
        UNROLL for (u32 o = 0; o < 2; o++) part[warp() * 16 + 2 * g + o] = sum[0][o];
    return ring_share(0, 0, false, part);
}
