/* products.cu: the kernels of gemm.cu on a GPU: right against a plain kernel in double on random data, and their rate.
 * nvcc -std=c++17 -O2 -gencode=arch=compute_90a,code=sm_90a -I. bench/gpu/products.cu -lcuda -o products
 * Prints a JSON line a shape; exits 1 when one is wrong. */
#include "codegen/cuda/kernels/prelude_cuda.h"
#include "codegen/cuda/kernels/prelude_cuda_async.h"
#include "codegen/cuda/kernels/prelude_cuda_matrix.h"
#include "codegen/cuda/kernels/common.cu"
#include "codegen/cuda/kernels/weights.cu"
#include "codegen/cuda/kernels/code_forms.cu"
#include "codegen/cuda/kernels/gemm.cu"
#include "codegen/cuda/kernels/gemm_codes.cu"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#define TRY(call)                                                                                                   \
    do {                                                                                                            \
        cudaError_t e = call;                                                                                       \
        if (e) fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(e)), exit(3);                                  \
    } while (0)

/* Random values in [-1, 1) from the place. */
__device__ float value_at(u64 i, u32 seed) {
    u64 x = (i + 1) * 0x9e3779b97f4a7c15ull + seed;
    x = (x ^ x >> 31) * 0xbf58476d1ce4e5b9ull;
    return (float)(u32)(x >> 40) / (1 << 23) - 1;
}
__global__ void fill_floats(float *to, u64 n) {
    for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x) to[i] = value_at(i, 7);
}
__global__ void fill_halves(half *to, u64 n) {
    for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x)
        from_float(value_at(i, 9), to[i]);
}
/* error[0]: the largest error of sampled products, relative to the sum of sizes. */
__global__ void compare(const float *x, const half *w, const float *y, u32 rows, u32 k, u32 n, float *error) {
    const u32 row = (u32)((u64)blockIdx.x * 2654435761u % rows), output = (blockIdx.x * 40503u + threadIdx.x * 977u) % n;
    double sum = 0, size = 0;
    for (u32 i = 0; i < k; i++) {
        const double v = (double)x[(u64)row * k + i] * to_float(w[((u64)(output / 16) * k + i) * 16 + output % 16]);
        sum += v, size += fabs(v);
    }
    const float off = (float)(fabs(y[(u64)row * n + output] - sum) / size);
    atomicMax((int *)error, __float_as_int(off == off ? off : INFINITY));
}

template <u32 k> __global__ void __launch_bounds__(256) round_all(const float *x, half *rounded, u32 rows) {
    SHARED(float, part, 32);
    round_row<half, k>(x, block_row(), rows, rounded, part);
}
template <u32 k, u32 n, u32 outputs, u32 stages> __global__ void __launch_bounds__(384, 1) groups(const half *w, const half *x, float *y, u32 rows) {
    SHARED_AT_LAUNCH(u8, ring);
    gemm_groups<half, Panels<half>, k, n, outputs, stages>(w, x, rows, ring, [&](u32 row, u32 o, float a, float b) { store_pair(y + (u64)row * n + o, a, b); });
}
template <u32 k, u32 n> __global__ void __launch_bounds__(256) tiles(const half *w, const half *x, float *y, u32 rows) {
    SHARED_AT_LAUNCH(u8, ring);
    gemm_warps<half, Panels<half>, k, n, 128, 128, 4, 3>(w, x, rows, ring, [&](u32 row, u32 o, float a, float b) { store_pair(y + (u64)row * n + o, a, b); });
}

template <class F> static float milliseconds(F run) {
    cudaEvent_t from, to;
    float best = 1e30f;
    TRY(cudaEventCreate(&from));
    TRY(cudaEventCreate(&to));
    for (int i = 0; i < 8; i++) {
        float ms;
        TRY(cudaEventRecord(from));
        run();
        TRY(cudaEventRecord(to));
        TRY(cudaEventSynchronize(to));
        TRY(cudaEventElapsedTime(&ms, from, to));
        if (ms < best) best = ms;
    }
    return best;
}

static bool failed;

/* y must be wholly written: it is poisoned first. 2e-3: both operands rounded to fp16, sums in float. */
template <u32 k, u32 n, class F> static void shape(const char *form, u32 rows, const float *x, const half *w, float *y, float *error, F run) {
    TRY(cudaMemset(y, 0xff, (u64)rows * n * 4));
    TRY(cudaMemset(error, 0, 4));
    const float ms = milliseconds(run);
    compare<<<256, 128>>>(x, w, y, rows, k, n, error);
    float off;
    TRY(cudaMemcpy(&off, error, 4, cudaMemcpyDeviceToHost));
    failed |= !(off <= 2e-3f);
    printf("{\"form\": \"%s\", \"rows\": %u, \"k\": %u, \"n\": %u, \"error\": %.2e, \"us\": %.1f, \"tflops\": %.1f}\n", form, rows, k, n, off,
           ms * 1e3, 2e-9 * rows * k * n / ms);
}

template <u32 k, u32 n> static void shapes(u32 sms) {
    const u32 most = 2048;
    float *x, *y, *error;
    half *w, *rounded;
    TRY(cudaMalloc(&x, (u64)most * k * 4));
    TRY(cudaMalloc(&w, (u64)k * n * 2));
    TRY(cudaMalloc(&y, (u64)most * n * 4));
    TRY(cudaMalloc(&rounded, (u64)(most + 128) * (k + 64) * 2 + most * 4)); /* with what pads tiles, and a scale a row */
    TRY(cudaMalloc(&error, 4));
    fill_floats<<<1024, 256>>>(x, (u64)most * k);
    fill_halves<<<1024, 256>>>(w, (u64)k * n);
    for (u32 rows : {128u, 512u, 2048u}) {
        round_all<k><<<dim3(1, rows), 256>>>(x, rounded, rows);
        TRY(cudaGetLastError());
        const int wide = 4 * (128 + 256) * 128 + 4 * 16, narrow = 6 * (128 + 128) * 128 + 6 * 16, plain = 3 * (128 + 128) * 128;
        TRY(cudaFuncSetAttribute(groups<k, n, 256, 4>, cudaFuncAttributeMaxDynamicSharedMemorySize, wide));
        TRY(cudaFuncSetAttribute(groups<k, n, 128, 6>, cudaFuncAttributeMaxDynamicSharedMemorySize, narrow));
        TRY(cudaFuncSetAttribute(tiles<k, n>, cudaFuncAttributeMaxDynamicSharedMemorySize, plain));
        shape<k, n>("wgmma 128x256", rows, x, w, y, error, [&] { groups<k, n, 256, 4><<<sms, 384, wide>>>(w, rounded, y, rows); });
        shape<k, n>("wgmma 128x128", rows, x, w, y, error, [&] { groups<k, n, 128, 6><<<sms, 384, narrow>>>(w, rounded, y, rows); });
        shape<k, n>("mma 128x128", rows, x, w, y, error,
                    [&] { tiles<k, n><<<dim3((n + 127) / 128, (rows + 127) / 128), 256, plain>>>(w, rounded, y, rows); });
    }
    for (void *p : {(void *)x, (void *)w, (void *)y, (void *)rounded, (void *)error}) TRY(cudaFree(p));
}

int main() {
    cudaDeviceProp d;
    TRY(cudaGetDeviceProperties(&d, 0));
    const u32 sms = (u32)d.multiProcessorCount;
    shapes<2048, 2048>(sms);
    shapes<2048, 8192>(sms);
    shapes<8192, 2048>(sms);
    shapes<4096, 14336>(sms);
    return failed;
}
