/* weights.cu: the forms in which the file stores a matrix (docs/artifact.md): plain, panels of 16 rows, codes.
 *
 * A form says which Element it is stored in, reads one element (get), and puts a tile of 64 outputs x 16 columns
 * into shared memory as floats (stage; for linear_many, 256 threads, ws[column][output]). */

/* Row-major. */
template <class T> struct Plain {
    typedef T Element;
    DEVICE float get(global<const T> w, u32 columns, u32 row, u32 column) { return to_float(w[(u64)row * columns + column]); }
};

/* [rows / 16][columns][16]: 16 bytes are some outputs of one column. */
template <class T> struct Panels {
    typedef T Element;
    DEVICE float get(global<const T> w, u32 columns, u32 row, u32 column) {
        return to_float(w[((u64)(row / 16) * columns + column) * 16 + row % 16]);
    }
    template <u32 k, u32 n> DEVICE void stage(global<const T> w, u32 tile, u32 k0, shared<float> ws) {
        enum { wide = Pack<T>::count, panels = (n + 15) / 16 };
        for (u32 i = thread_index(); i < 1024 / wide; i += 256) {
            const u32 p = i / (256 / wide), at = k0 + i * wide / 16 % 16, o = i * wide % 16;
            Quad q = {};
            if (tile * 4 + p < panels && at < k) q = load_quad(w + ((u64)(tile * 4 + p) * k + at) * 16 + o);
            UNROLL for (u32 j = 0; j < wide; j++) ws[(at - k0) * 64 + p * 16 + o + j] = Pack<T>::get(q, j);
        }
    }
};

/* Codes of 8, 4 or 2 bits, value = (code - zero) * scale: panels of 16 rows, each [columns / group] blocks of 16 scales,
 * 16 zero points where they are stored, and rows of 16 bytes, one an output, each byte `per` columns. */
enum { ZERO_SAME, ZERO_BYTE, ZERO_FLOAT };
template <u32 bits_, u32 group_, class Scale_, u32 zeros_, u32 zero_> struct Codes {
    typedef u8 Element;
    typedef Scale_ Scale;
    enum {
        bits = bits_,
        group = group_,
        float_zeros = zeros_ == ZERO_FLOAT,
        per = 8 / bits_,
        rows = group_ / per, /* of codes in a block */
        zeros_at = 16 * sizeof(Scale_),
        codes_at = zeros_at + 16 * (zeros_ == ZERO_FLOAT ? 4 : zeros_ == ZERO_BYTE ? 1 : 0),
        block_bytes = codes_at + 16 * rows,
        mask = (1 << bits_) - 1
    };
    /* of the block that begins at b */
    DEVICE float scale_of(global<const u8> b, u32 output) { return to_float(((global<const Scale_>)b)[output]); }
    DEVICE float zero_of(global<const u8> b, u32 output) {
        if constexpr (zeros_ == ZERO_FLOAT) return ((global<const float>)(b + zeros_at))[output];
        if constexpr (zeros_ == ZERO_BYTE) return (float)b[zeros_at + output];
        return (float)zero_;
    }
    DEVICE float get(global<const u8> w, u32 columns, u32 row, u32 column) {
        const u32 o = row % 16, c = column % group_;
        global<const u8> b = w + ((u64)(row / 16) * ((columns + group_ - 1) / group_) + column / group_) * block_bytes;
        const u32 code = (u32)b[codes_at + c / per * 16 + o] >> c % per * bits_ & mask;
        return ((float)code - zero_of(b, o)) * scale_of(b, o);
    }
    template <u32 k, u32 n> DEVICE void stage(global<const u8> w, u32 tile, u32 k0, shared<float> ws) {
        for (u32 i = thread_index(); i < 1024; i += 256) {
            const u32 output = tile * 64 + i % 64, at = k0 + i / 64;
            ws[i] = output < n && at < k ? get(w, k, output, at) : 0.0f;
        }
    }
};
