/* prelude_cuda.h: what kernels are written in, as CUDA C++ for NVRTC; prelude_cuda_async.h and prelude_cuda_matrix.h
 * follow it. prelude_host.h is the same vocabulary on a CPU, so kernels name nothing of CUDA themselves. No header is
 * included: NVRTC may come without any. */
#ifndef GPTC_PRELUDE
#define GPTC_PRELUDE
#pragma nv_diag_suppress 177 /* not every kernel uses every part */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;

/* Threads of a block and, for one that has the SM to itself, a 1. */
#define KERNEL(...) extern "C" __global__ void __launch_bounds__(__VA_ARGS__)
#define DEVICE static __device__ __forceinline__
#define DEVICE_CALLED static __device__ __noinline__ /* stands in the code once */
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
#endif
/* Memory of the device; memory that the threads of a block share. */
template <class T> using global = T *;
template <class T> using shared = T *;
#define SHARED(T, name, count) __shared__ __align__(16) T name[count]
/* The block's shared memory whose size is given at the launch. */
#define SHARED_AT_LAUNCH(T, name)                                                                            \
    extern __shared__ __align__(1024) u8 name##_bytes[];                                                     \
    T *const name = (T *)name##_bytes

DEVICE u32 thread_index() { return threadIdx.x; }
DEVICE u32 thread_count() { return blockDim.x; }
DEVICE u32 block_index() { return blockIdx.x; }
DEVICE u32 block_row() { return blockIdx.y; }
DEVICE u32 block_count() { return gridDim.x; }
DEVICE u32 lane() { return threadIdx.x & 31; }
DEVICE u32 warp() { return threadIdx.x >> 5; }

/* ---- order ---- */
DEVICE void barrier() { __syncthreads(); }
DEVICE void warp_barrier() { __syncwarp(); }
/* A barrier of some warps of the block, `threads` in all; id 1..15. */
DEVICE void barrier_some(u32 id, u32 threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
/* Programmatic dependent launch: before wait nothing that an earlier kernel writes may be read. */
#if __CUDA_ARCH__ >= 900
DEVICE void grid_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
DEVICE void grid_release() { asm volatile("griddepcontrol.launch_dependents;"); }
#else
DEVICE void grid_wait() {}
DEVICE void grid_release() {}
#endif

/* ---- between the lanes of a warp; all 32 take part ---- */
DEVICE float lane_xor(float v, u32 mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
DEVICE u32 lane_xor(u32 v, u32 mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
DEVICE float lane_read(float v, u32 from) { return __shfl_sync(0xffffffffu, v, from); }
DEVICE u32 lane_read(u32 v, u32 from) { return __shfl_sync(0xffffffffu, v, from); }

/* ---- half precision: stored as bits, computed as float ---- */
struct half {
    u16 bits;
};
struct bf16 {
    u16 bits;
};
DEVICE float to_float(float v) { return v; }
DEVICE float to_float(half h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h.bits));
    return f;
}
DEVICE float to_float(bf16 h) { return __uint_as_float((u32)h.bits << 16); }
DEVICE void from_float(float f, float &out) { out = f; }
DEVICE void from_float(float f, half &out) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(f)); }
DEVICE void from_float(float f, bf16 &out) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(f)); }
DEVICE float float_of_bits(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 bits_of_float(float f) { return __float_as_uint(f); }

/* ---- 16 bytes at once; the address is a multiple of 16 ---- */
struct __align__(16) Quad {
    u32 word[4];
};
template <class T> DEVICE Quad load_quad(const T *p) { return *(const Quad *)p; }
template <class T> DEVICE void store_quad(T *p, Quad q) { *(Quad *)p = q; }
/* 4, 8 or 16 bytes, the first words; the address is a multiple of as many. */
template <u32 bytes, class T> DEVICE Quad load_bytes(const T *p) {
    if constexpr (bytes == 16) {
        return load_quad(p);
    } else if constexpr (bytes == 8) {
        const u64 w = *(const u64 *)p;
        return Quad{{(u32)w, (u32)(w >> 32), 0, 0}};
    } else {
        return Quad{{*(const u32 *)p, 0, 0, 0}};
    }
}
/* Two floats; the address is a multiple of 8. */
struct __align__(8) Pair {
    float low, high;
};
DEVICE Pair load_pair(const float *p) { return *(const Pair *)p; }
DEVICE void store_pair(float *p, float low, float high) { *(Pair *)p = Pair{low, high}; }
/* Weights: read once, by one block, and never written while kernels run. */
template <class T> DEVICE Quad load_weights(const T *p) {
    Quad q;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(q.word[0]), "=r"(q.word[1]), "=r"(q.word[2]), "=r"(q.word[3])
                 : "l"(p));
    return q;
}

/* ---- words that several blocks share ---- */
DEVICE float atomic_add(float *p, float v) { return atomicAdd(p, v); }
DEVICE u32 atomic_add(u32 *p, u32 v) { return atomicAdd(p, v); }
DEVICE u64 atomic_add(u64 *p, u64 v) { return atomicAdd(p, v); } /* of shared memory too */
DEVICE u64 atomic_max(u64 *p, u64 v) { return atomicMax(p, v); }
DEVICE void publish(u32 *p, u32 v) {
    asm volatile("st.release.gpu.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
DEVICE u32 observe(const u32 *p) {
    u32 v;
    asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
/* What other blocks have added up. */
DEVICE u64 observe_sum(const u64 *p) {
    u64 v;
    asm volatile("ld.relaxed.gpu.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
    return v;
}
/* A value and the epoch that it belongs to, 8 bytes that are written and read as one. An observed word is {value,
 * epoch}; two of them, at a multiple of 16 bytes, {value, epoch, value, epoch}, each whole. */
DEVICE void publish_word(u64 *p, u32 value, u32 epoch) {
    asm volatile("st.relaxed.gpu.u64 [%0], %1;" ::"l"(p), "l"((u64)epoch << 32 | value) : "memory");
}
DEVICE Quad observe_word(const u64 *p) {
    u64 w;
    asm volatile("ld.relaxed.gpu.u64 %0, [%1];" : "=l"(w) : "l"(p) : "memory");
    return Quad{{(u32)w, (u32)(w >> 32), 0, 0}};
}
DEVICE Quad observe_words(const u64 *p) {
    u64 w[2];
    asm volatile("ld.relaxed.gpu.v2.u64 {%0, %1}, [%2];" : "=l"(w[0]), "=l"(w[1]) : "l"(p) : "memory");
    return Quad{{(u32)w[0], (u32)(w[0] >> 32), (u32)w[1], (u32)(w[1] >> 32)}};
}
/* What the block wrote before, as far as its threads have met, comes before what this thread publishes; what it
 * observed, before what the block reads after its threads meet. */
DEVICE void device_fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }
/* A word of memory that the host reads and writes too. */
DEVICE void publish_host(u32 *p, u32 v) {
    asm volatile("st.relaxed.sys.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
DEVICE u32 observe_host(const u32 *p) {
    u32 v;
    asm volatile("ld.relaxed.sys.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
/* Ends the launch with an error: what was waited for never came. */
DEVICE void give_up() { asm volatile("trap;"); }
DEVICE void relax() { __nanosleep(20); } /* in a loop that waits for another block */
#endif
