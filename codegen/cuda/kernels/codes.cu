/* codes.cu: products of few rows with compressed weights, on matrix units without a loss.
 *
 * A warp takes 32 rows of codes at a time, 512 bytes, and turns
 * them in shared memory (fragment_load_turned), so that a lane has two outputs and, after a mask and a subtraction, code -
 * zero as bf16 pairs: exact, since a code has at most 8 bits. An x in fp32 is the sum of two bf16, two of the eight columns
 * of the right operand, to 2^-17 of itself; so four rows of x fill an instruction. Sums and scales in float.
 *
 * Expected of a block: k * 16 * bits / 8 bytes and their scales. On plain arithmetic 4-bit codes would take 3 instructions a
 * weight, more than an H200 has at its read rate; this takes about 1. */

/* Of a word that holds two rows of codes of two outputs, one column of each row, as bf16: code - zero. 0x4300 | q is 128 + q
 * for q < 128, and that 128 is in minus_zero too when a code is that small. */
template <u32 bits> DEVICE u32 pair_of_codes(u32 word, u32 shift, u32 minus_zero) {
    const u32 one = 0x3f803f80u, codes = word >> shift;
    if constexpr (bits < 8) {
        return pair_fma((codes & ((1u << bits) - 1) * 0x10001u) | 0x43004300u, one, minus_zero, bf16());
    } else { /* 16 * high + (low - zero) */
        const u32 low = (codes & 0x000f000fu) | 0x43004300u, high = (codes >> 4 & 0x000f000fu) | 0x43004300u;
        const u32 upper = pair_fma(high, one, 0xc300c300u, bf16()), lower = pair_fma(low, one, 0xc300c300u, bf16());
        return pair_fma(upper, 0x41804180u, pair_fma(lower, one, minus_zero, bf16()), bf16());
    }
}

/* Where tile t (8 rows of codes) of a panel lies: its block, and its first row there. */
template <class W> struct Tile {
    enum { in_block = (W::rows + 7) / 8 };
    u32 block, row;
    DEVICE Tile at(u32 t) { return Tile{t / in_block, t % in_block * 8}; }
};

DEVICE float rounded(float v, bf16 to) {
    from_float(v, to);
    return to_float(to);
}

/* As in linear.cu. */
template <u32 k, u32 rows, u32 bits, u32 group, class Scale, u32 zeros, u32 same, class Begin, class In>
DEVICE void panel_sums(Codes<bits, group, Scale, zeros, same>, global<const u8> from, u32 nth, u32 warps, shared<float> part,
                       Begin begin, In in) {
    typedef Codes<bits, group, Scale, zeros, same> W;
    typedef Tile<W> T;
    enum {
        per = W::per,
        blocks = (k + group - 1) / group,
        tiles = blocks * T::in_block,
        pieces = (tiles + 3) / 4,
        at_once = 4,
        piece_words = 192, /* in stage: codes, then scales of tile t for outputs 2 g, 2 g + 1 */
        row_sets = (rows + 3) / 4,
        span = T::in_block % 4 == 0 ? 4 : T::in_block % 2 == 0 ? 2 : 1 /* tiles of a piece that surely share a block */
    };
    SHARED(u32, stage, 8 * at_once * piece_words);
    const u32 g = lane() / 4, t = lane() % 4;
    shared<u32> mine = stage + warp() * at_once * piece_words;
    float sum[row_sets][2] = {};
    bool begun = false;
    for (u32 first = nth; first < pieces || !begun; first += warps * at_once) {
        Quad q[at_once];
        float scale[at_once][2];
        UNROLL for (u32 i = 0; i < at_once; i++) {
            const u32 piece = first + i * warps, own = piece * 4 + lane() / 8, other = piece * 4 + t;
            q[i] = Quad{};
            scale[i][0] = scale[i][1] = 0;
            if (own < tiles && T::at(own).row + lane() % 8 < W::rows)
                q[i] = load_weights(from + T::at(own).block * W::block_bytes + W::codes_at + (T::at(own).row + lane() % 8) * 16);
            if (other < tiles)
                UNROLL for (u32 o = 0; o < 2; o++)
                    scale[i][o] = W::scale_of(from + T::at(other).block * W::block_bytes, 2 * g + o);
        }
        if (!begun) begin();
        begun = true;
        UNROLL for (u32 i = 0; i < at_once; i++) {
            store_quad(mine + i * piece_words + lane() * 4, q[i]);
            UNROLL for (u32 o = 0; o < 2; o++) mine[i * piece_words + 128 + (t * 8 + g) * 2 + o] = bits_of_float(scale[i][o]);
        }
        warp_barrier();
        ROLLED for (u32 i = 0; i < at_once && first + i * warps < pieces; i++) {
            const u32 piece = first + i * warps;
            const shared<u32> here = mine + i * piece_words;
            u32 word[4];
            fragment_load_turned(word, here + lane() * 4);
            UNROLL for (u32 tile = 0; tile < 4; tile += span) {
                const bool inside = piece * 4 + tile < tiles;
                const T place = T::at(inside ? piece * 4 + tile : 0);
                global<const u8> head = from + place.block * W::block_bytes;
                u32 zero[2];
                UNROLL for (u32 o = 0; o < 2; o++) {
                    const float z = (W::float_zeros != 0 ? 0.0f : W::zero_of(head, 2 * g + o)) + (bits < 8 ? 128 : 0);
                    zero[o] = pair_of(-z, -z, bf16());
                }
                float c[row_sets][4] = {}, total[row_sets] = {};
                UNROLL for (u32 pair = 0; pair < span * per; pair += 2) {
                    u32 a[4] = {};
                    UNROLL for (u32 half_of = 0; half_of < 2; half_of++) {
                        const u32 p = pair + half_of, in_tile = tile + p / per;
                        if (p >= span * per) continue;
                        UNROLL for (u32 o = 0; o < 2; o++)
                            a[half_of * 2 + o] = pair_of_codes<bits>(word[in_tile], 8 * o + p % per * bits, zero[o]);
                    }
                    UNROLL for (u32 set = 0; set < row_sets; set++) {
                        const u32 row = set * 4 + g / 2;
                        u32 b[2] = {};
                        UNROLL for (u32 half_of = 0; half_of < 2; half_of++) {
                            const u32 p = pair + half_of, r = place.row + p / per * 8 + 2 * t;
                            float x[2] = {};
                            if (p >= span * per) continue;
                            UNROLL for (u32 j = 0; j < 2; j++) {
                                const u32 column = place.block * group + (r + j) * per + p % per;
                                if (inside && row < rows && r + j < W::rows && column < k) x[j] = in(row, column);
                                if (W::float_zeros != 0) total[set] += x[j];
                                if (g % 2) x[j] -= rounded(x[j], bf16());
                            }
                            b[half_of] = pair_of(x[0], x[1], bf16());
                        }
                        fragment_multiply(c[set], a, b, bf16());
                    }
                }
                UNROLL for (u32 set = 0; set < row_sets; set++) {
                    float offset = 0; /* of row 4 set + t: the sum of its x */
                    if constexpr (W::float_zeros != 0) {
                        float all = total[set] + lane_xor(total[set], 1);
                        all += lane_xor(all, 2);
                        offset = lane_read(all, t * 8);
                    }
                    UNROLL for (u32 o = 0; o < 2; o++) {
                        float v = c[set][2 * o] + c[set][2 * o + 1];
                        if constexpr (W::float_zeros != 0) v -= W::zero_of(head, 2 * g + o) * offset;
                        sum[set][o] += v * float_of_bits(here[128 + (tile * 8 + g) * 2 + o]);
                    }
                }
            }
        }
        warp_barrier();
    }
    UNROLL for (u32 set = 0; set < row_sets; set++)
        UNROLL for (u32 o = 0; o < 2; o++)
            if (set * 4 + t < rows) part[(nth * rows + set * 4 + t) * 16 + 2 * g + o] = sum[set][o];
}
