/* ring_codes.cu: the products of ring.cu with compressed weights (code_forms.cu), on matrix units as in codes.cu.
 *
 * A tile is what stands before a panel's blocks, and some of them; of a block that is larger than a tile, as when a whole row
 * shares a scale, what stands before its units, and a run of these, whole sets of eight. Learned grids are tables in the
 * block's memory, which are made when the kernel begins.
 * Expected of a panel: its bytes of the stream, what stands before with every tile. */

struct CodeTile {
    u32 head, from, bytes;        /* of the panel: what stands before, the rest */
    u32 first, last, sets, units; /* columns of x; sets in the tile; units of a block */
};
DEVICE u32 smaller(u32 a, u32 b) { return a < b ? a : b; }
template <class W, u32 k> struct CodePanel {
    enum {
        blocks = (k + W::group - 1) / W::group,
        bytes = W::panel_head + blocks * W::block_bytes,
        cut = W::panel_head + W::block_bytes > STAGE_BYTES,
        before = cut ? (u32)W::codes_at : (u32)W::panel_head,
        unit_bytes = 16 * W::rows,
        /* pieces: blocks of the panel; sets of a block that is cut, four of them a warp */
        pieces = cut ? (u32)UnitSet<W>::in_block : (u32)blocks,
        piece_bytes = cut ? 8 * (u32)unit_bytes : (u32)W::block_bytes,
        turn = cut ? 4 : 1,
        most = (STAGE_BYTES - before) / piece_bytes / turn * turn,
        runs = (pieces + most - 1) / most,
        depth = ((pieces + runs - 1) / runs + turn - 1) / turn * turn,
        tiles = (pieces + depth - 1) / depth, /* of the panel; of a block that is cut */
        all = cut ? blocks * tiles : tiles
    };
    static_assert(!cut || W::panel_head == 0, "a tile has room for two pieces");
    DEVICE CodeTile tile(u32 i) {
        const u32 start = i % tiles * depth, here = smaller(pieces - start, depth);
        if constexpr (cut) {
            const u32 block = i / tiles, unit = start * 8, units = smaller(here * 8, W::units - unit);
            const u32 head = block * W::block_bytes, first = block * W::group + unit * W::unit;
            return CodeTile{head, head + W::codes_at + unit * unit_bytes, units * unit_bytes, first, smaller(first + units * W::unit, k), here, units};
        }
        return CodeTile{0, W::panel_head + start * W::block_bytes, here * W::block_bytes, start * W::group, k, here * UnitSet<W>::in_block, W::units};
    }
};
template <class W, u32 k> DEVICE bool bring_codes(Ring &r, global<const u8> tensor, u32 panel) {
    typedef CodePanel<W, k> P;
    const global<const u8> w = tensor + W::head + (u64)panel * P::bytes;
    for (u32 i = 0; i < P::all; i++) {
        const CodeTile t = P::tile(i);
        const bool one = P::before == 0 || t.head + P::before == t.from;
        if (one ? !ring_bring(r, w + (t.from - P::before), P::before + t.bytes)
                : !ring_bring_two(r, w + t.head, P::before, w + t.from, t.bytes, P::before))
            return false;
    }
    return true;
}
/* As ring_sum; table: of the matrix's grid, if it has one. */
template <class W, u32 k> DEVICE float ring_sum_codes(Ring &r, shared<float> x, shared<float> part, shared<u32> table = shared<u32>()) {
    typedef CodePanel<W, k> P;
    typedef UnitSet<W> S;
    const u32 g = lane() / 4;
    float sum[1][2] = {};
    ROLLED for (u32 i = 0; i < P::all; i++) {
        const CodeTile t = P::tile(i);
        const u32 stage = r.at;
        const shared<u8> panel = ring_take(r), blocks = panel + W::panel_head;
        ROLLED for (u32 piece = warp() * S::piece; piece < t.sets; piece += RING_WARPS * S::piece) {
            u32 turned[W::rows][S::piece];
            piece_load<W>(turned, [&](u32 set, u32 of_set, u32 row) { /* where there is no such unit, the last one: it meets zeros */
                const S own = S::at(smaller(piece + set, t.sets - 1));
                const u32 unit = smaller(own.unit + of_set, t.units - 1);
                return (shared<u32>)(blocks + (own.block * W::block_bytes + W::codes_at + unit * P::unit_bytes + row * 16));
            });
            codes_piece<W, k, 1>(
                turned, piece, t.sets, table, [&](u32, u32 column) { return t.first + column < t.last ? x[t.first + column] : 0.0f; },
                [&](u32 block, u32 output) { return W::zero_of(blocks + block * W::block_bytes, output); },
                [&](u32 set, u32 o) {
                    return piece + set < t.sets ? W::scale_of(panel, blocks + S::at(piece + set).block * W::block_bytes, 2 * g + o) : 0.0f;
                },
                sum);
        }
        ring_next(r);
        ring_give(r, stage);
    }
    /* Lanes 0, 4, 8, … have the sums of outputs 2 g and 2 g + 1 of row 0. */
    if (lane() % 4 == 0)
        UNROLL for (u32 o = 0; o < 2; o++) part[warp() * 16 + 2 * g + o] = sum[0][o];
    return ring_share(0, 0, false, part);
}

/* Tables of the grids at `count` places, of int8 or of vectors, one behind the other; a barrier() of the block must follow.
 * 32 words: a code's level lies in a bank of its own. */
template <u32 vector> struct GridTable {
    enum { words = vector > 1 ? 256 * vector : 32 };
};
template <u32 vector> DEVICE void grids_load(global<const u8> weights, global<const u32> places, u32 count, shared<u32> tables) {
    enum { words = GridTable<vector>::words };
    for (u32 i = thread_index(); i < count * words; i += thread_count())
        tables[i] = grid_level<vector>(bytes_at(weights, places[i / words]), i % words);
}
