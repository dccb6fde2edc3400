/* weights.cu: the forms in which the file stores a matrix (docs/artifact.md): plain, panels of 16 rows; codes are in code_forms.cu.
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
