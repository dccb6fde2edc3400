/* micro.cu: what the machine can do, in the units the cost model counts in. One JSON object on stdout.
 *
 *   nvcc -O3 -std=c++17 -arch=sm_90a bench/gpu/micro.cu -o micro && ./micro
 *
 * read_*: GB/s of reading 4 GB once (random data; sums are kept, so nothing is optimised away).
 * burst: a dependent read of a few MB by a kernel of its own, with the L2 cache flushed before: us and GB/s.
 * stall: the same bulk ring, its consumers idle for 2.5 us every 64 tiles: GB/s; the ring should hide it.
 * hop: us for a value to go from one block to another and back, halved: by epoch beside the data, by counter.
 * launch: us of each of 200 empty kernels in a graph, in order and with programmatic dependent launch.
 * grid_sync: us of cooperative_groups' barrier over all SMs. */
#include <cooperative_groups.h>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cuda_runtime.h>
#include <algorithm>
#include <vector>

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        cudaError_t e_ = (call);                                                                                       \
        if (e_ != cudaSuccess) fprintf(stderr, "micro: %s: %s\n", #call, cudaGetErrorString(e_)), exit(3);             \
    } while (0)

static int sms;
static cudaStream_t stream;

__global__ void fill(uint4 *p, size_t n) {
    uint32_t s = blockIdx.x * blockDim.x + threadIdx.x;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        s = s * 1664525u + 1013904223u + (uint32_t)i;
        p[i] = make_uint4(s, s ^ 0x9e3779b9u, s * 747796405u, ~s);
    }
}

/* ---- reading ---- */
template <int AT_ONCE> __global__ void read_loads(const uint4 *p, size_t n, uint32_t *out) {
    uint32_t sum = 0;
    size_t step = (size_t)gridDim.x * blockDim.x, i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    for (; i + (AT_ONCE - 1) * step < n; i += AT_ONCE * step) {
        uint4 q[AT_ONCE];
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++)
            asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                         : "=r"(q[j].x), "=r"(q[j].y), "=r"(q[j].z), "=r"(q[j].w)
                         : "l"(p + i + j * step));
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) sum ^= q[j].x ^ q[j].y ^ q[j].z ^ q[j].w;
    }
    if (sum == 0x12345678) *out = sum;
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
__device__ uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }
__device__ void mbarrier_wait(uint64_t *bar, uint32_t parity) {
    asm volatile("{\n.reg .pred p;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@!p bra AGAIN;\n}" ::"r"(
                     shared_address(bar)),
                 "r"(parity)
                 : "memory");
}

/* One block an SM: a producer thread copies tiles through a ring of STAGES, eight warps read them. */
template <int TILE, int STAGES> __global__ void read_ring(const char *p, size_t tiles, long long stall, uint32_t *out) {
    extern __shared__ __align__(128) char ring[];
    __shared__ __align__(8) uint64_t full[STAGES], empty[STAGES];
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&full[i])));
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 8;" ::"r"(shared_address(&empty[i])));
        }
        asm volatile("fence.mbarrier_init.release.cluster;");
    }
    __syncthreads();
    size_t mine = tiles > blockIdx.x ? (tiles - blockIdx.x + gridDim.x - 1) / gridDim.x : 0;
    if (threadIdx.x >= 256) {
        for (size_t i = 0; threadIdx.x == 256 && i < mine; i++) {
            int s = (int)(i % STAGES);
            if (i >= STAGES) mbarrier_wait(&empty[s], (uint32_t)(i / STAGES - 1) & 1);
            asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&full[s])), "n"(TILE)
                         : "memory");
            asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                             shared_address(ring + s * TILE)),
                         "l"(p + (blockIdx.x + i * gridDim.x) * TILE), "n"(TILE), "r"(shared_address(&full[s]))
                         : "memory");
        }
        return;
    }
    uint32_t sum = 0;
    for (size_t i = 0; i < mine; i++) {
        int s = (int)(i % STAGES);
        mbarrier_wait(&full[s], (uint32_t)(i / STAGES) & 1);
        const uint4 *q = (const uint4 *)(ring + s * TILE);
        for (int j = (int)threadIdx.x; j < TILE / 16; j += 256) sum ^= q[j].x ^ q[j].y ^ q[j].z ^ q[j].w;
        __syncwarp();
        if (threadIdx.x % 32 == 0)
            asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&empty[s])) : "memory");
        if (stall && i % 64 == 63)
            for (long long t = clock64(); clock64() - t < stall;) {}
    }
    if (sum == 0x12345678) *out = sum;
}
#endif

/* Best of several, in ms. */
template <class F> static double best_ms(int times, F run) {
    cudaEvent_t a, b;
    CHECK(cudaEventCreate(&a));
    CHECK(cudaEventCreate(&b));
    double best = 1e30;
    for (int i = 0; i < times; i++) {
        float ms;
        CHECK(cudaEventRecord(a, stream));
        run();
        CHECK(cudaEventRecord(b, stream));
        CHECK(cudaEventSynchronize(b));
        CHECK(cudaEventElapsedTime(&ms, a, b));
        best = std::min(best, (double)ms);
    }
    CHECK(cudaGetLastError());
    return best;
}

template <int TILE, int STAGES> static double ring_rate(const char *data, size_t bytes, long long stall, uint32_t *out) {
    CHECK(cudaFuncSetAttribute(read_ring<TILE, STAGES>, cudaFuncAttributeMaxDynamicSharedMemorySize, TILE * STAGES));
    double ms = best_ms(5, [&] {
        read_ring<TILE, STAGES><<<sms, 288, TILE * STAGES, stream>>>(data, bytes / TILE, stall, out);
    });
    return (double)bytes / ms / 1e6;
}

/* ---- from block to block ---- */
__global__ void hop_epoch(volatile uint64_t *a, volatile uint64_t *b, int rounds) {
    for (uint32_t i = 1; i <= (uint32_t)rounds; i++) {
        if (blockIdx.x == 0) {
            *a = (uint64_t)i << 32 | i; /* a value with its epoch in one word */
            while ((uint32_t)(*b >> 32) != i) {}
        } else {
            while ((uint32_t)(*a >> 32) != i) {}
            *b = (uint64_t)i << 32 | i;
        }
    }
}

__global__ void hop_counter(uint32_t *data, uint32_t *flag, int rounds) {
    for (uint32_t i = 1; i <= (uint32_t)rounds; i++) {
        uint32_t mine = blockIdx.x, seen;
        if (mine == 1)
            do asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
            while (seen < i);
        data[mine] += mine == 1 ? data[0] : 1;
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(flag + mine) : "memory");
        if (mine == 0)
            do asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(seen) : "l"(flag + 1) : "memory");
            while (seen < i);
    }
}

__global__ void grid_barriers(int rounds) {
    for (int i = 0; i < rounds; i++) cooperative_groups::this_grid().sync();
}

/* ---- launches ---- */
__global__ void empty(int dependent) {
#if __CUDA_ARCH__ >= 900
    if (dependent) {
        asm volatile("griddepcontrol.launch_dependents;");
        asm volatile("griddepcontrol.wait;" ::: "memory");
    }
#endif
}

static double launch_us(bool dependent) {
    const int kernels = 200;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < kernels; i++) {
        cudaLaunchAttribute attribute = {};
        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = 1;
        cudaLaunchConfig_t c = {};
        c.gridDim = dim3((unsigned)sms);
        c.blockDim = dim3(256);
        c.stream = stream;
        c.attrs = &attribute;
        c.numAttrs = dependent;
        CHECK(cudaLaunchKernelEx(&c, empty, (int)dependent));
    }
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    CHECK(cudaGraphLaunch(exec, stream));
    return best_ms(20, [&] { CHECK(cudaGraphLaunch(exec, stream)); }) * 1e3 / kernels;
}

int main() {
    cudaDeviceProp d;
    CHECK(cudaGetDeviceProperties(&d, 0));
    CHECK(cudaStreamCreate(&stream));
    sms = d.multiProcessorCount;
    const size_t bytes = (size_t)4 << 30;
    char *data;
    uint32_t *words;
    CHECK(cudaMalloc(&data, bytes));
    CHECK(cudaMalloc(&words, 4096));
    CHECK(cudaMemset(words, 0, 4096));
    fill<<<sms * 8, 256, 0, stream>>>((uint4 *)data, bytes / 16);
    int khz;
    CHECK(cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, 0));
    long long stall = (long long)(2.5e-3 * khz);
    printf("{\"device\": \"%s\", \"sms\": %d, \"l2_mb\": %.0f,\n", d.name, sms, d.l2CacheSize / 1048576.0);
    for (int per = 1; per <= 8; per *= 2) {
        double ms = best_ms(5, [&] { read_loads<8><<<sms * per, 256, 0, stream>>>((uint4 *)data, bytes / 16, words); });
        printf(" \"read_loads_%d_blocks_gbs\": %.0f,\n", per, (double)bytes / ms / 1e6);
    }
    printf(" \"read_ring_16k_x8_gbs\": %.0f, \"read_ring_16k_x12_gbs\": %.0f, \"read_ring_24k_x8_gbs\": %.0f,\n",
           ring_rate<16384, 8>(data, bytes, 0, words), ring_rate<16384, 12>(data, bytes, 0, words),
           ring_rate<24576, 8>(data, bytes, 0, words));
    printf(" \"read_ring_16k_x12_stalled_gbs\": %.0f,\n", ring_rate<16384, 12>(data, bytes, stall, words));
    for (size_t mb = 4; mb <= 64; mb *= 2) {
        /* Another part of the 4 GB each time, so that nothing of it is in the cache. */
        size_t turn = 0;
        double us = best_ms(8, [&] {
                        const char *from = data + (turn++ % 8) * ((size_t)256 << 20);
                        read_loads<8><<<sms * 2, 256, 0, stream>>>((const uint4 *)from, (mb << 20) / 16, words);
                    }) * 1e3;
        printf(" \"burst_%zu_mb_us\": %.2f,\n", mb, us);
    }
    const int rounds = 20000;
    double epoch = best_ms(1, [&] { hop_epoch<<<2, 1, 0, stream>>>((uint64_t *)words, (uint64_t *)words + 32, rounds); });
    CHECK(cudaMemsetAsync(words, 0, 4096, stream));
    double counter = best_ms(1, [&] { hop_counter<<<2, 1, 0, stream>>>(words + 512, words, rounds); });
    printf(" \"hop_epoch_us\": %.3f, \"hop_counter_us\": %.3f,\n", epoch * 1e3 / rounds / 2, counter * 1e3 / rounds / 2);
    int n = 1000;
    void *args[] = {&n};
    double sync = best_ms(3, [&] {
        CHECK(cudaLaunchCooperativeKernel((void *)grid_barriers, dim3((unsigned)sms), dim3(256), args, 0, stream));
    });
    printf(" \"grid_sync_us\": %.3f, \"launch_us\": %.3f, \"launch_dependent_us\": %.3f}\n", sync * 1e3 / n,
           launch_us(false), launch_us(true));
    return 0;
}
