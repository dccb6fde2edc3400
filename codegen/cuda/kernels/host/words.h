/* words.h: the words of prelude_cuda.h. */
#ifndef HOST_WORDS
#define HOST_WORDS

#include "codegen/cuda/kernels/host/memory.h"

#include <cmath>

#define KERNEL(...) static void
#define DEVICE static inline
#define DEVICE_CALLED static
#define UNROLL
#define ROLLED
#define SHARED(T, name, count)                                                                               \
    static const char name##_key = 0;                                                                        \
    const shared<T> name = host::declare<T>(&name##_key, count, host::Site{__FILE__, __LINE__})
#define SHARED_AT_LAUNCH(T, name)                                                                            \
    const shared<T> name =                                                                                   \
        (shared<T>)host::declare<u8>("", host::block().shared_at_launch, host::Site{__FILE__, __LINE__})

DEVICE u32 thread_index() { return host::self().index; }
DEVICE u32 thread_count() { return host::block().threads; }
DEVICE u32 block_index() { return host::block().index; }
DEVICE u32 block_row() { return host::block().row; }
DEVICE u32 block_count() { return host::grid->blocks; }
DEVICE u32 lane() { return host::self().index % host::WARP; }
DEVICE u32 warp() { return host::self().index / host::WARP; }

DEVICE void barrier(HOST_SITE) { host::barrier_at(HOST_HERE); }
DEVICE void warp_barrier(HOST_SITE) {
    host::collective(HOST_HERE, "warp_barrier", nullptr, [](void **) {});
}
DEVICE void barrier_some(u32 id, u32 threads, HOST_SITE) { host::barrier_of(id, threads, HOST_HERE); }
DEVICE void grid_wait() {}
DEVICE void grid_release() {}

namespace host {
template <class T> struct Shuffle {
    T value, result;
    u32 mask, from;
};
template <class T> T shuffle(T v, u32 mask, u32 from, const char *what, Site s) {
    Shuffle<T> a = {v, v, mask, from};
    collective(s, what, &a, [](void **args) {
        for (u32 i = 0; i < WARP; i++) {
            Shuffle<T> *to = (Shuffle<T> *)args[i];
            u32 from = to->from == WARP ? i ^ to->mask : to->from % WARP;
            to->result = ((Shuffle<T> *)args[from])->value;
        }
    });
    return a.result;
}
} // namespace host
DEVICE float lane_xor(float v, u32 mask, HOST_SITE) {
    return host::shuffle(v, mask, host::WARP, "lane_xor", HOST_HERE);
}
DEVICE u32 lane_xor(u32 v, u32 mask, HOST_SITE) {
    return host::shuffle(v, mask, host::WARP, "lane_xor", HOST_HERE);
}
DEVICE float lane_read(float v, u32 from, HOST_SITE) {
    return host::shuffle(v, 0, from % host::WARP, "lane_read", HOST_HERE);
}
DEVICE u32 lane_read(u32 v, u32 from, HOST_SITE) {
    return host::shuffle(v, 0, from % host::WARP, "lane_read", HOST_HERE);
}

/* ---- half precision ---- */
struct half {
    u16 bits;
};
struct bf16 {
    u16 bits;
};
DEVICE float float_of_bits(u32 bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
DEVICE u32 bits_of_float(float f) {
    u32 bits;
    memcpy(&bits, &f, 4);
    return bits;
}
DEVICE float to_float(float v) { return v; }
DEVICE float to_float(half h) {
    u32 sign = (u32)(h.bits & 0x8000) << 16, exponent = h.bits >> 10 & 31, mantissa = h.bits & 1023;
    if (exponent == 31) return float_of_bits(sign | 0x7f800000 | mantissa << 13);
    float v = exponent ? std::ldexp((float)(mantissa | 1024), (int)exponent - 25)
                       : std::ldexp((float)mantissa, -24);
    return sign ? -v : v;
}
DEVICE float to_float(bf16 h) { return float_of_bits((u32)h.bits << 16); }
DEVICE void from_float(float f, float &out) { out = f; }
DEVICE void from_float(float f, half &out) { /* to nearest, ties to even */
    u32 bits = bits_of_float(f), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000)
        out.bits = (u16)0x7fff;
    else if (rest >= 0x477ff000)
        out.bits = (u16)(sign | 0x7c00);
    else if (rest < 0x38800000)
        out.bits = (u16)(sign | (u32)std::nearbyint(std::ldexp(float_of_bits(rest), 24)));
    else
        out.bits = (u16)(sign | (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13);
}
DEVICE void from_float(float f, bf16 &out) {
    u32 bits = bits_of_float(f);
    out.bits =
        (bits & 0x7fffffff) > 0x7f800000 ? (u16)0x7fff : (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* ---- 16 bytes ---- */
struct alignas(16) Quad {
    u32 word[4];
};
template <class T> Quad load_quad(global<T> p, HOST_SITE) {
    Quad q;
    memcpy(&q, p.check(16, file, line), 16);
    return q;
}
template <class T> void store_quad(global<T> p, Quad q, HOST_SITE) {
    memcpy(p.check(16, file, line), &q, 16);
}
template <u32 bytes, class T> Quad load_bytes(global<T> p, HOST_SITE) {
    Quad q = {};
    memcpy(&q, p.check(bytes, file, line), bytes);
    return q;
}
struct alignas(8) Pair {
    float low, high;
};
DEVICE Pair load_pair(global<const float> p, HOST_SITE) {
    Pair v;
    memcpy(&v, p.check(8, file, line), 8);
    return v;
}
DEVICE void store_pair(global<float> p, float low, float high, HOST_SITE) {
    Pair v = {low, high};
    memcpy(p.check(8, file, line), &v, 8);
}
template <class T> Quad load_quad(shared<T> p, HOST_SITE) {
    Quad q;
    if ((uintptr_t)p.p % 16) host::fault(HOST_HERE, "shared memory: a misaligned access");
    host::shared_access(p.p, 16, false, HOST_HERE);
    memcpy(&q, p.p, 16);
    return q;
}
template <u32 bytes, class T> Quad load_bytes(shared<T> p, HOST_SITE) {
    Quad q = {};
    if ((uintptr_t)p.p % bytes) host::fault(HOST_HERE, "shared memory: a misaligned access");
    host::shared_access(p.p, bytes, false, HOST_HERE);
    memcpy(&q, p.p, bytes);
    return q;
}
template <class T> void store_quad(shared<T> p, Quad q, HOST_SITE) {
    if ((uintptr_t)p.p % 16) host::fault(HOST_HERE, "shared memory: a misaligned access");
    host::shared_access(p.p, 16, true, HOST_HERE);
    memcpy((void *)p.p, &q, 16);
}
template <class T> Quad load_weights(global<T> p, HOST_SITE) { return load_quad(p, file, line); }

/* ---- words that several blocks share ---- */
DEVICE float atomic_add(global<float> p, float v, HOST_SITE) {
    float old = *p.check(4, file, line);
    *p.p = old + v;
    return old;
}
DEVICE u32 atomic_add(global<u32> p, u32 v, HOST_SITE) {
    u32 old = *p.check(4, file, line);
    *p.p = old + v;
    return old;
}
DEVICE u64 atomic_add(global<u64> p, u64 v, HOST_SITE) {
    u64 old = *p.check(8, file, line);
    *p.p = old + v;
    return old;
}
DEVICE u64 atomic_add(shared<u64> p, u64 v, HOST_SITE) {
    host::shared_add(p.p, 8, HOST_HERE);
    u64 old = *p.p;
    *p.p = old + v;
    return old;
}
DEVICE u64 atomic_max(global<u64> p, u64 v, HOST_SITE) {
    u64 old = *p.check(8, file, line);
    if (v > old) *p.p = v;
    return old;
}
DEVICE void publish(global<u32> p, u32 v, HOST_SITE) {
    *p.check(4, file, line) = v;
    host::grid->progress++;
}
DEVICE u32 observe(global<const u32> p, HOST_SITE) { return *p.check(4, file, line); }
DEVICE u64 observe_sum(global<const u64> p, HOST_SITE) { return *p.check(8, file, line); }
DEVICE void publish_word(global<u64> p, u32 value, u32 epoch, HOST_SITE) {
    u64 &w = *p.check(8, file, line);
    if (w >> 32 == epoch) host::fault(HOST_HERE, "a word is published twice in epoch %u", epoch);
    w = (u64)epoch << 32 | value;
    host::grid->progress++;
}
DEVICE Quad observe_word(global<const u64> p, HOST_SITE) {
    u64 w = *p.check(8, file, line);
    return Quad{{(u32)w, (u32)(w >> 32), 0, 0}};
}
DEVICE Quad observe_words(global<const u64> p, HOST_SITE) {
    const u64 *w = p.check(16, file, line);
    return Quad{{(u32)w[0], (u32)(w[0] >> 32), (u32)w[1], (u32)(w[1] >> 32)}};
}
DEVICE void device_fence() {}
DEVICE void publish_host(global<u32> p, u32 v, HOST_SITE) { *p.check(4, file, line) = v; }
DEVICE u32 observe_host(global<const u32> p, HOST_SITE) { return *p.check(4, file, line); }
DEVICE void give_up(HOST_SITE) { host::fault(HOST_HERE, "what is waited for never comes"); }
DEVICE void relax(HOST_SITE) { host::wait(host::SPINNING, HOST_HERE, "a word of another block"); }

/* ---- arithmetic that CUDA has built in ---- */
DEVICE float rsqrtf(float x) { return 1 / std::sqrt(x); }

#endif
