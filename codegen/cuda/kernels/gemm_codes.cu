/* gemm_codes.cu: compressed weights into the shared memory of gemm.cu, decoded on the way. */

/* Codes: a thread has 8 outputs of some columns, one after the other. Of plain codes in whole bytes their scales stay in
 * registers within a block; other forms are read value by value. */
template <u32 k, u32 n, u32 outputs, u32 threads, u32 bits, u32 group, class Scale, u32 zeros, u32 same, u32 grid, class T>
DEVICE void weights_begin(Codes<bits, group, Scale, zeros, same, grid>, global<const u8> w, u32 tile, u32 k0, u32 thread,
                          shared<u8> to, T) {
    typedef Codes<bits, group, Scale, zeros, same, grid> W;
    enum {
        panels = (n + 15) / 16,
        blocks = (k + group - 1) / group,
        share = outputs * DEPTH / 8 / threads,
        plain = W::rows == 1 && grid == GRID_LINEAR
    };
    const u32 j = thread % (outputs / 8), first = thread / (outputs / 8) * share, panel = tile * (outputs / 16) + j / 2;
    float scale[8], zero[8];
    ROLLED for (u32 at = first; at < first + share; at++) {
        const u32 column = k0 + at, place = column % group;
        float v[8] = {};
        if (panel < panels && column < k) {
            global<const u8> head = w + W::head + (u64)panel * (W::panel_head + (u64)blocks * W::block_bytes);
            global<const u8> block = head + W::panel_head + (u64)(column / group) * W::block_bytes;
            if constexpr (plain) {
                if (at == first || place == 0)
                    UNROLL for (u32 o = 0; o < 8; o++)
                        scale[o] = W::scale_of(head, block, j % 2 * 8 + o), zero[o] = W::zero_of(block, j % 2 * 8 + o);
                global<const u32> codes = (global<const u32>)(block + W::codes_at + place / W::unit * 16 + j % 2 * 8);
                const u32 word[2] = {codes[0], codes[1]};
                UNROLL for (u32 o = 0; o < 8; o++) {
                    const u32 code = word[o / 4] >> (o % 4 * 8 + place % W::unit * bits) & ((1u << bits) - 1);
                    v[o] = ((float)code - zero[o]) * scale[o];
                }
            } else {
                UNROLL for (u32 o = 0; o < 8; o++) v[o] = W::get(w, k, panel * 16 + j % 2 * 8 + o, column);
            }
        }
        Quad q;
        UNROLL for (u32 i = 0; i < 4; i++) q.word[i] = pair_of(v[2 * i], v[2 * i + 1], T());
        store_quad(to + weight_at<outputs>(at, j), q);
    }
}
template <u32 bits, u32 group, class Scale, u32 zeros, u32 same, u32 grid>
DEVICE constexpr u32 weights_late(Codes<bits, group, Scale, zeros, same, grid>) { return 0; }
