/* matrix.cpp: products of four warps on matrix units: what is right passes, each planted fault is named. */
#include "tests/cuda/expect.h"

enum Fault { NONE, NO_PROXY_FENCE, NO_BARRIER, NO_FENCE, NO_WAIT, EARLY_WRITE, LEFT_OVER, ONE_MISSING, CROOKED };

enum { N = 128, K = 64 };
static half left[64 * K], right[K * N];
static float result[64 * N];

static float value_of(u32 i) { return (float)((i * 2654435761u >> 20) % 64) / 8 - 4; }

/* result = left right; both are put into atoms by ordinary stores. */
KERNEL(128) product(global<const half> a, global<const half> b, global<float> c, Fault fault) {
    SHARED_AT_LAUNCH(u8, stage);
    const shared<u8> by_k = stage, by_n = stage + 64 * K * 2 + (fault == CROOKED ? 512 : 0);
    for (u32 i = thread_index(); i < 64 * K / 8; i += 128)
        store_quad(by_k + swizzled(i / 8 * 128 + i % 8 * 16), load_quad(a + i * 8));
    for (u32 i = thread_index(); i < K * N / 8; i += 128) {
        const u32 k = i / (N / 8), j = i % (N / 8);
        store_quad(by_n + swizzled(j / 8 * (K * 128) + k * 128 + j % 8 * 16), load_quad(b + i * 8));
    }
    if (fault != NO_PROXY_FENCE) proxy_fence();
    if (fault != NO_BARRIER) barrier();
    Sums<N / 2> sum;
    if (fault == ONE_MISSING && thread_index() == 127) return;
    UNROLL for (u32 i = 0; i < N / 2; i++) sum[i] = 1;
    if (fault != NO_FENCE) matrix_fence();
    UNROLL for (u32 step = 0; step < K / 16; step++)
        matrix_multiply(sum, tile_by_k(by_k, step), tile_by_n(by_n, K * 128, step), true, half());
    matrix_commit();
    if (fault == EARLY_WRITE) store_quad(by_k + thread_index() * 16, Quad{});
    if (fault == LEFT_OVER) return;
    if (fault != NO_WAIT) matrix_wait<0>();
    UNROLL for (u32 i = 0; i < N / 2; i++)
        c[(warp() * 16 + lane() / 4 + i % 4 / 2 * 8) * N + i / 4 * 8 + lane() % 4 * 2 + i % 2] = sum[i];
}

int main() {
    static const struct {
        Fault fault;
        const char *says;
    } cases[] = {
        {NONE, ""},
        {NO_PROXY_FENCE, "which no proxy_fence made known"},
        {NO_BARRIER, "with no barrier between"},
        {NO_FENCE, "matrix_fence is missing"},
        {NO_WAIT, "sums of a matrix unit are touched"},
        {EARLY_WRITE, "writes over what a matrix unit reads"},
        {LEFT_OVER, "a product of its matrix units is not waited for"},
        {ONE_MISSING, "waits at matrix_multiply for ever"},
        {CROOKED, "a tile begins at 512"},
    };
    host::region_add(left, sizeof left, "left");
    host::region_add(right, sizeof right, "right");
    host::region_add(result, sizeof result, "result");
    for (u32 i = 0; i < 64 * K; i++) from_float(value_of(i), left[i]);
    for (u32 i = 0; i < K * N; i++) from_float(value_of(i + 99), right[i]);
    for (const auto &c : cases) {
        char name[40];
        snprintf(name, sizeof name, "product with fault %d", (int)c.fault);
        expect(name, c.says, 1, 128,
               [&] { product(global<const half>(left), global<const half>(right), global<float>(result), c.fault); }, 1,
               64 * K * 2 + K * N * 2 + 1024);
        for (u32 r = 0; r < 64 && c.fault == NONE; r++)
            for (u32 n = 0; n < N; n++) {
                float want = 1;
                for (u32 k = 0; k < K; k++) want += to_float(left[r * K + k]) * to_float(right[k * N + n]);
                if (result[r * N + n] != want)
                    failures++, printf("FAIL: product %u, %u is %g, not %g\n", r, n, (double)result[r * N + n], (double)want);
            }
    }
    return failures != 0;
}
