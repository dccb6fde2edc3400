/* prelude_cuda.h: what kernels are written in, as CUDA C++ for NVRTC. prelude_host.h is the same vocabulary on
 * a CPU, so kernels name nothing of CUDA themselves. No header is included: NVRTC may come without any. */
#ifndef GPTC_PRELUDE
#define GPTC_PRELUDE
#pragma nv_diag_suppress 177 /* not every kernel uses every part */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;

#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
#define DEVICE static __device__ __forceinline__
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
    extern __shared__ __align__(128) u8 name##_bytes[];                                                      \
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
DEVICE u64 atomic_max(u64 *p, u64 v) { return atomicMax(p, v); }
DEVICE void publish(u32 *p, u32 v) {
    asm volatile("st.release.gpu.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
DEVICE u32 observe(const u32 *p) {
    u32 v;
    asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
DEVICE void relax() { __nanosleep(20); } /* in a loop that waits for another block */

/* ---- asynchronous copies of 16 bytes to shared memory, each thread waits for its own ---- */
template <class T, class S> DEVICE void copy_async(T *to, const S *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((u32)__cvta_generic_to_shared(to)),
                 "l"(from));
}
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;"); }
/* Waits until at most `left` of the thread's latest groups are under way. */
template <int left> DEVICE void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

/* ---- matrix fragments, one warp: c[16][8] += a[16][16] b[16][8], sums in float ----
 * Lane l holds, with g = l / 4 and t = l % 4: a[0] = rows g, columns 2t..; a[1] = row g + 8; a[2], a[3] the
 * same at columns 2t + 8; b[0] = rows 2t.. of column g, b[1] the same at rows 2t + 8; c[0..1] = row g,
 * columns 2t.., c[2..3] = row g + 8. Two values a word, the lower one first. */
DEVICE void fragment_multiply(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2], half) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DEVICE void fragment_multiply(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2], bf16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* Pairs of bf16 in a word: made of floats, and a * b + c. */
DEVICE u32 pair_of(float low, float high, bf16) {
    u32 w;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(high), "f"(low));
    return w;
}
DEVICE u32 pair_fma(u32 a, u32 b, u32 c, bf16) {
    u32 w;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(w) : "r"(a), "r"(b), "r"(c));
    return w;
}
/* Four 8 x 8 tiles of 16-bit values; lane l names row l % 8 of tile l / 8 (8 values, 16 bytes). */
template <class T> DEVICE void fragment_load(u32 (&out)[4], const T *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"((u32)__cvta_generic_to_shared(row)));
}
/* The same with rows and columns of each tile exchanged: lane l gets column l / 4 of rows 2 (l % 4) and the next. */
template <class T> DEVICE void fragment_load_turned(u32 (&out)[4], const T *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"((u32)__cvta_generic_to_shared(row)));
}
#endif
