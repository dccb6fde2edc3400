/* codes.cu: products of few rows with compressed weights, on matrix units without a loss.
 *
 * A warp takes sets of eight units of codes, four at a time, one where a unit has many columns (so that the code stays short and
 * a short row has work for more warps), and turns them in shared memory (fragment_load_turned), so that a lane has two units of
 * two outputs. A mask and a subtraction make them code - zero as bf16 pairs: exact, since a code has at
 * most 8 bits; levels of a learned grid and float8 are exact too, and vectors of fp16 are a sum of two bf16. An x in fp32 is the
 * sum of two bf16, two of the eight columns of the right operand, to 2^-17 of itself; so four rows of x fill an instruction.
 * Sums and scales in float.
 *
 * Expected of a panel: k * 16 * bits / 8 bytes and the scales. On plain arithmetic 4-bit codes would take 3 instructions a
 * weight, more than an H200 has at its read rate; this takes about 1. A grid adds a read of shared memory a weight. */

DEVICE float rounded(float v, bf16 to) {
    from_float(v, to);
    return to_float(to);
}

/* A grid's levels as bf16, by code; of vectors what a bf16 leaves over in the upper half of the word. */
template <u32 vector> DEVICE u32 grid_level(global<const u8> tensor, u32 i) {
    float v;
    if constexpr (vector > 1)
        v = to_float(((global<const half>)tensor)[i]);
    else
        v = (float)(signed char)tensor[i];
    return pair_of(v, v - rounded(v, bf16()), bf16());
}
template <class W> DEVICE void grid_load(global<const u8> tensor, shared<u32> table) {
    if constexpr (W::head > 0) {
        const u32 count = W::vector > 1 ? 256 * W::vector : 1 << W::bits;
        for (u32 i = thread_index(); i < count; i += thread_count()) table[i] = grid_level<W::vector>(tensor, i);
        barrier();
    }
}

/* Two codes to their values but for the scale, as bf16 in `value`, and what that leaves over of vectors in `rest`.
 * 0x4300 | q is 128 + q for q < 128, and that 128 is in minus_zero too when a code is that small. */
template <class W> DEVICE void pair_of_codes(u32 codes, u32 column, u32 minus_zero, shared<u32> table, u32 &value, u32 &rest) {
    const u32 one = 0x3f803f80u;
    rest = 0;
    if constexpr (W::head > 0) {
        const u32 v = column % W::vector, a = table[(codes & 0xffff) * W::vector + v], b = table[(codes >> 16) * W::vector + v];
        value = (a & 0xffff) | b << 16;
        if constexpr (W::vector > 1) rest = a >> 16 | (b & 0xffff0000u);
    } else if constexpr (W::float8 != 0) { /* bits of a bf16 whose exponent has another bias */
        value = pair_fma((codes & 0x00800080u) << 8 | (codes & 0x007f007fu) << 4, 0x7b807b80u, 0, bf16());
    } else if constexpr (W::bits < 8) {
        value = pair_fma(codes | 0x43004300u, one, minus_zero, bf16());
    } else { /* 16 * high + (low - zero) */
        const u32 low = (codes & 0x000f000fu) | 0x43004300u, high = (codes >> 4 & 0x000f000fu) | 0x43004300u;
        const u32 upper = pair_fma(high, one, 0xc300c300u, bf16()), lower = pair_fma(low, one, 0xc300c300u, bf16());
        value = pair_fma(upper, 0x41804180u, pair_fma(lower, one, minus_zero, bf16()), bf16());
    }
}

/* Where set s (8 units) of a panel lies: its block, and its first unit there. */
template <class W> struct UnitSet {
    enum { in_block = (W::units + 7) / 8, piece = W::unit >= 4 ? 1 : 4 /* sets that a warp takes at a time */ };
    u32 block, unit;
    DEVICE UnitSet at(u32 s) { return UnitSet{s / in_block, s % in_block * 8}; }
};

/* at(set, unit, row): where a row of a unit lies, in shared memory. turned[row]: that row of the piece's units, turned. */
template <class W, class At> DEVICE void piece_load(u32 (&turned)[W::rows][UnitSet<W>::piece], At at) {
    if constexpr (UnitSet<W>::piece == 4) {
        UNROLL for (u32 r = 0; r < W::rows; r++) fragment_load_turned(turned[r], at(lane() / 8, lane() % 8, r));
    } else {
        UNROLL for (u32 r = 0; r < W::rows; r += 4) {
            const u32 row = r + lane() / 8;
            u32 four[4];
            fragment_load_turned(four, at(0, lane() % 8, row < W::rows ? row : (u32)W::rows - 1));
            UNROLL for (u32 i = 0; i < 4 && r + i < W::rows; i++) turned[r + i][0] = four[i];
        }
    }
}
/* A piece, from set `first` on, of `sets`. in(row, column): x; zero_of(block, output); scale_of(i, o): of the i-th set of the
 * piece, output 2 g + o. */
template <class W, u32 k, u32 rows, class In, class Zero, class Scale>
DEVICE void codes_piece(const u32 (&turned)[W::rows][UnitSet<W>::piece], u32 first, u32 sets, shared<u32> table, In in, Zero zero_of, Scale scale_of,
                        float (&sum)[(rows + 3) / 4][2]) {
    typedef UnitSet<W> S;
    enum {
        columns = W::unit,
        row_sets = (rows + 3) / 4,
        span = S::piece == 1 ? 1 : S::in_block % 4 == 0 ? 4 : S::in_block % 2 == 0 ? 2 : 1 /* sets of a piece that surely share a block */
    };
    const u32 g = lane() / 4, t = lane() % 4;
    UNROLL for (u32 set = 0; set < S::piece; set += span) {
        const bool inside = first + set < sets;
        const S place = S::at(inside ? first + set : 0);
        u32 zero[2];
        UNROLL for (u32 o = 0; o < 2; o++) {
            const float z = (W::float_zeros != 0 ? 0.0f : zero_of(place.block, 2 * g + o)) + (W::bits < 8 ? 128 : 0);
            zero[o] = pair_of(-z, -z, bf16());
        }
        float c[row_sets][4] = {}, total[row_sets] = {};
        UNROLL for (u32 pair = 0; pair < span * columns; pair += 2) {
            u32 a[4] = {}, rest[4] = {};
            UNROLL for (u32 of = 0; of < 2; of++) {
                const u32 p = pair + of, column = p % columns;
                if (p >= span * columns) continue;
                u32 word[W::rows];
                UNROLL for (u32 r = 0; r < W::rows; r++) word[r] = turned[r][set + p / columns];
                UNROLL for (u32 o = 0; o < 2; o++)
                    pair_of_codes<W>(W::codes_of(word, column, o), column, zero[o], table, a[of * 2 + o], rest[of * 2 + o]);
            }
            UNROLL for (u32 s = 0; s < row_sets; s++) {
                const u32 row = s * 4 + g / 2;
                u32 b[2] = {};
                UNROLL for (u32 of = 0; of < 2; of++) {
                    const u32 p = pair + of, unit = place.unit + p / columns * 8 + 2 * t;
                    float x[2] = {};
                    if (p >= span * columns) continue;
                    UNROLL for (u32 j = 0; j < 2; j++) {
                        const u32 at = place.block * W::group + (unit + j) * columns + p % columns;
                        if (inside && row < rows && unit + j < W::units && at < k) x[j] = in(row, at);
                        if (W::float_zeros != 0) total[s] += x[j];
                        if (g % 2) x[j] -= rounded(x[j], bf16());
                    }
                    b[of] = pair_of(x[0], x[1], bf16());
                }
                fragment_multiply(c[s], a, b, bf16());
                if constexpr (W::vector > 1) fragment_multiply(c[s], rest, b, bf16());
            }
        }
        UNROLL for (u32 s = 0; s < row_sets; s++) {
            float offset = 0; /* of row 4 s + t: the sum of its x */
            if constexpr (W::float_zeros != 0) {
                float all = total[s] + lane_xor(total[s], 1);
                all += lane_xor(all, 2);
                offset = lane_read(all, t * 8);
            }
            UNROLL for (u32 o = 0; o < 2; o++) {
                float v = c[s][2 * o] + c[s][2 * o + 1];
                if constexpr (W::float_zeros != 0) v -= zero_of(place.block, 2 * g + o) * offset;
                sum[s][o] += v * scale_of(set, o);
            }
        }
    }
}

/* As in linear.cu. */
template <u32 k, u32 rows, u32 bits, u32 group, class Scale, u32 zeros, u32 same, u32 grid, class Begin, class In>
DEVICE void panel_sums(Codes<bits, group, Scale, zeros, same, grid>, global<const u8> tensor, u32 panel, u32 nth, u32 warps,
                       shared<float> part, Begin begin, In in) {
    typedef Codes<bits, group, Scale, zeros, same, grid> W;
    typedef UnitSet<W> S;
    enum {
        blocks = (k + group - 1) / group,
        sets = blocks * S::in_block,
        pieces = (sets + 3) / 4,
        at_once = W::rows == 1 ? 4 : W::rows == 3 ? 2 : 1,
        scales_at = 128 * W::rows, /* in stage: a piece's codes, then scales of set t for outputs 2 g, 2 g + 1 */
        piece_words = scales_at + 64,
        row_sets = (rows + 3) / 4
    };
    SHARED(u32, stage, 8 * at_once * piece_words);
    SHARED(u32, table, W::head == 0 ? 1 : W::vector == 1 ? 1 << bits : 256 * W::vector);
    const u32 g = lane() / 4, t = lane() % 4;
    shared<u32> mine = stage + warp() * at_once * piece_words;
    global<const u8> from = tensor + W::head + (u64)panel * (W::panel_head + (u64)blocks * W::block_bytes);
    global<const u8> first_block = from + W::panel_head;
    float sum[row_sets][2] = {};
    bool begun = false;
    grid_load<W>(tensor, table);
    for (u32 first = nth; first < pieces || !begun; first += warps * at_once) {
        Quad q[at_once][W::rows];
        float scale[at_once][2];
        UNROLL for (u32 i = 0; i < at_once; i++) {
            const u32 piece = first + i * warps, own = piece * 4 + lane() / 8, other = piece * 4 + t;
            const u32 unit = S::at(own).unit + lane() % 8;
            scale[i][0] = scale[i][1] = 0;
            UNROLL for (u32 r = 0; r < W::rows; r++) {
                q[i][r] = Quad{};
                if (own < sets && unit < W::units)
                    q[i][r] = load_weights(first_block + S::at(own).block * W::block_bytes + W::codes_at + (unit * W::rows + r) * 16);
            }
            if (other < sets)
                UNROLL for (u32 o = 0; o < 2; o++)
                    scale[i][o] = W::scale_of(from, first_block + S::at(other).block * W::block_bytes, 2 * g + o);
        }
        if (!begun) begin();
        begun = true;
        UNROLL for (u32 i = 0; i < at_once; i++) {
            UNROLL for (u32 r = 0; r < W::rows; r++) store_quad(mine + i * piece_words + r * 128 + lane() * 4, q[i][r]);
            UNROLL for (u32 o = 0; o < 2; o++)
                mine[i * piece_words + scales_at + (t * 8 + g) * 2 + o] = bits_of_float(scale[i][o]);
        }
        warp_barrier();
        ROLLED for (u32 i = 0; i < at_once && first + i * warps < pieces; i++) {
            const u32 base = (first + i * warps) * 4;
            const shared<u32> here = mine + i * piece_words;
            ROLLED for (u32 s = 0; s < 4 && base + s < sets; s += S::piece) {
                u32 turned[W::rows][S::piece];
                piece_load<W>(turned, [&](u32 set, u32 unit, u32 row) { return here + (row * 128 + (s + set) * 32 + unit * 4); });
                codes_piece<W, k, rows>(
                    turned, base + s, sets, table, in,
                    [&](u32 block, u32 output) { return W::zero_of(first_block + block * W::block_bytes, output); },
                    [&](u32 set, u32 o) { return float_of_bits(here[scales_at + ((s + set) * 8 + g) * 2 + o]); }, sum);
            }
        }
        warp_barrier();
    }
    UNROLL for (u32 s = 0; s < row_sets; s++)
        UNROLL for (u32 o = 0; o < 2; o++)
            if (s * 4 + t < rows) part[(nth * rows + s * 4 + t) * 16 + 2 * g + o] = sum[s][o];
}
