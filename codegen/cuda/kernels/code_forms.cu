/* code_forms.cu: the forms in which the file stores a compressed matrix (weights.cu has the others). Emitted text has this, and
 * what else has codes in its name, only where weights are compressed. */

/* Codes of 2 to 8 bits, value = (grid[code] - zero) * scale. After the grid, if there is one: panels of 16 rows, each with 16
 * scales of the rows where a block's are codes, and [columns / group] blocks of 16 scales, 16 zero points where they are stored,
 * and units: as many columns as fill whole rows of 16 bytes, one an output. 3, 5 and 6 bits are planes of 2 + 1, 4 + 1, 4 + 2. */
enum { ZERO_SAME, ZERO_BYTE, ZERO_FLOAT, ZERO_HIGH };
enum { GRID_LINEAR, GRID_INT8, GRID_PAIRS, GRID_QUADS = 4, GRID_F8 = 8 };
template <u32 bits> struct Coded { /* a scale that is a code of a byte's low bits */
    u8 byte;
};
/* The same bytes as numbers of T. */
template <class T> DEVICE global<const T> as(global<const u8> p) { return (global<const T>)p; }
template <class T> DEVICE shared<T> as(shared<u8> p) { return (shared<T>)p; }
template <class S> struct ScaleOf {
    enum { panel_head = 0 };
    template <class P> DEVICE float get(P, P block, u32 output) { return to_float(as<S>(block)[output]); }
};
template <u32 bits> struct ScaleOf<Coded<bits>> {
    enum { panel_head = 32 };
    template <class P> DEVICE float get(P panel, P block, u32 output) {
        return (float)(block[output] & ((1u << bits) - 1)) * to_float(as<half>(panel)[output]);
    }
};
/* Float8 e4m3: the bits of a float with another bias. */
DEVICE float float_of_f8(u32 b) { return float_of_bits((b & 0x80) << 24 | (b & 0x7f) << 20) * float_of_bits(0x7b800000u); }

template <u32 bits_, u32 group_, class Scale, u32 zeros, u32 zero, u32 grid_> struct Codes {
    typedef u8 Element;
    enum {
        bits = bits_,
        vector = grid_ == GRID_PAIRS ? 2 : grid_ == GRID_QUADS ? 4 : 1, /* columns that a code stands for */
        unit = (bits_ % 2 ? 8 : bits_ == 6 ? 4 : 8 / bits_) * vector,
        rows = bits_ * unit / 8 / vector, /* of a unit */
        group = group_,
        float8 = grid_ == GRID_F8,
        units = group_ / unit,
        float_zeros = zeros == ZERO_FLOAT,
        head = grid_ == GRID_INT8 ? 64 : vector > 1 ? 512 * vector : 0,
        panel_head = ScaleOf<Scale>::panel_head,
        zeros_at = 16 * sizeof(Scale),
        codes_at = zeros_at + 16 * (zeros == ZERO_FLOAT ? 4 : zeros == ZERO_BYTE ? 1 : 0),
        block_bytes = codes_at + 16 * rows * units
    };
    /* panel, block: in memory of the device or of the block */
    template <class P> DEVICE float scale_of(P panel, P block, u32 output) { return ScaleOf<Scale>::get(panel, block, output); }
    template <class P> DEVICE float zero_of(P block, u32 output) {
        if constexpr (zeros == ZERO_FLOAT) return as<float>(block + zeros_at)[output];
        if constexpr (zeros == ZERO_BYTE) return (float)block[zeros_at + output];
        if constexpr (zeros == ZERO_HIGH) return (float)(block[output] >> 6);
        return (float)zero;
    }
    /* Of words that hold a unit's rows, each with two units of 16 bits and two outputs in them: codes of both units. */
    DEVICE u32 codes_of(const u32 (&word)[rows], u32 column, u32 output) {
        const u32 c = column / vector, s = 8 * output;
        if constexpr (bits == 3) return (word[c / 4] >> (s + c % 4 * 2) & 0x00030003u) | (word[2] >> (s + c) & 0x00010001u) << 2;
        if constexpr (bits == 5) return (word[c / 2] >> (s + c % 2 * 4) & 0x000f000fu) | (word[4] >> (s + c) & 0x00010001u) << 4;
        if constexpr (bits == 6) return (word[c / 2] >> (s + c % 2 * 4) & 0x000f000fu) | (word[2] >> (s + 2 * c) & 0x00030003u) << 4;
        return word[0] >> (s + c * bits) & ((1u << bits) - 1) * 0x10001u;
    }
    DEVICE float get(global<const u8> w, u32 columns, u32 row, u32 column) {
        const u32 o = row % 16, blocks = (columns + group - 1) / group, c = column % unit;
        global<const u8> panel = w + head + (u64)(row / 16) * (panel_head + (u64)blocks * block_bytes);
        global<const u8> block = panel + panel_head + (u64)(column / group) * block_bytes;
        u32 word[rows];
        for (u32 i = 0; i < rows; i++) word[i] = block[codes_at + (column % group / unit * rows + i) * 16 + o];
        const u32 code = codes_of(word, c, 0) & 0xffff;
        float v;
        if constexpr (grid_ == GRID_LINEAR)
            v = (float)code - zero_of(block, o);
        else if constexpr (grid_ == GRID_F8)
            v = float_of_f8(code);
        else if constexpr (grid_ == GRID_INT8)
            v = (float)(signed char)w[code];
        else
            v = to_float(((global<const half>)w)[code * vector + c % vector]);
        return v * scale_of(panel, block, o);
    }
    template <u32 k, u32 n> DEVICE void stage(global<const u8> w, u32 tile, u32 k0, shared<float> ws) {
        for (u32 i = thread_index(); i < 1024; i += 256) {
            const u32 output = tile * 64 + i % 64, at = k0 + i / 64;
            ws[i] = output < n && at < k ? get(w, k, output, at) : 0.0f;
        }
    }
};
