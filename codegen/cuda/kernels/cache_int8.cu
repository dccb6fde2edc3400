/* cache_int8.cu: the cache in 8 bits (`rounded` of ir/ops.def): a position of a head has a step, its largest magnitude / 127 as
 * half, and a byte a number, (byte - 128) * step. A head is its bytes [context][dim], then its steps, both from a multiple of 16
 * bytes on.
 * Expected of a position: dim + 2 bytes. */

struct Int8 {
    u8 byte;
};
template <> struct Pack<Int8> {
    enum { count = 16 };
    /* byte - 128: the bits of 2^23 + byte are known */
    DEVICE float get(const Quad &q, u32 i) { return float_of_bits(0x4b000000u | (q.word[i / 4] >> i % 4 * 8 & 0xff)) - 8388736.0f; }
};
DEVICE float to_float(Int8 c) { return (float)c.byte - 128.0f; }

/* The larger magnitude; NaN is the largest. */
DEVICE float magnitude_larger(float a, float b) { return b > a || b != b ? b : a; }

template <u32 dim> struct Cache<Int8, dim> {
    DEVICE u64 bytes(u32 context) { return ((u64)context * dim + 15) / 16 * 16; }
    DEVICE u64 stride(u32 context) { return bytes(context) + ((u64)context * 2 + 15) / 16 * 16; }
    DEVICE u64 place(u32 h, u32 context, u32 position) { return h * stride(context) + (u64)position * dim; }
    DEVICE global<const half> steps(global<const Int8> head, u32 context) { return (global<const half>)(head + bytes(context)); }
    DEVICE float step(global<const Int8> head, u32 context, u32 position) { return to_float(steps(head, context)[position]); }
    DEVICE float tile_step(shared<Int8> steps, u32 i) { return to_float(((shared<half>)steps)[i]); }
    template <class P> DEVICE float step_of(P x) {
        float most = 0;
        half step;
        for (u32 i = lane(); i < dim; i += 32) most = magnitude_larger(most, fabsf(x[i]));
        UNROLL for (u32 m = 16; m; m /= 2) most = magnitude_larger(most, lane_xor(most, m));
        from_float(most / 127, step);
        return to_float(step);
    }
    DEVICE float kept(float v, float step) {
        const float code = rintf(v * (step > 0 ? 1 / step : 0.0f));
        return code > -127 ? code < 127 ? code : 127.0f : -127.0f;
    }
    template <class P> DEVICE void store(P x, global<Int8> head, u32 context, u32 position) {
        const float step = step_of(x);
        if (lane() == 0) from_float(step, ((global<half>)(head + bytes(context)))[position]);
        for (u32 i = lane(); i < dim; i += 32) head[(u64)position * dim + i] = Int8{(u8)(kept(x[i], step) + 128)};
    }
};
