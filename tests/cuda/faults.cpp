/* faults.cpp: planted faults, each caught by prelude_host.h and named; and what is right passes. */
#include "tests/cuda/expect.h"

#include "codegen/cuda/kernels/common.cu"
#include "codegen/cuda/kernels/norm.cu"
#include "codegen/cuda/kernels/weights.cu"
#include "codegen/cuda/kernels/code_forms.cu"
#include "codegen/cuda/kernels/linear.cu"
#include "codegen/cuda/kernels/codes.cu"
#include "codegen/cuda/kernels/rope.cu"
#include "codegen/cuda/kernels/cache.cu"
#include "codegen/cuda/kernels/attention.cu"
#include "codegen/cuda/kernels/rows.cu"

static float data[256];
KERNEL(64) reverse(global<float> y, bool with_barrier) {
    SHARED(float, s, 64);
    s[thread_index()] = (float)thread_index();
    if (with_barrier) barrier();
    y[thread_index()] = s[63 - thread_index()];
}
KERNEL(64) overwrite(global<float> y, bool with_barrier) { /* read by one, then written by another */
    SHARED(float, s, 64);
    s[thread_index()] = 1;
    barrier();
    y[thread_index()] = s[63 - thread_index()];
    if (with_barrier) barrier();
    s[thread_index()] = 2;
}
KERNEL(32) within_warp(global<float> y, bool with_barrier) {
    SHARED(float, s, 32);
    s[lane()] = (float)lane();
    if (with_barrier) warp_barrier();
    y[lane()] = s[lane() ^ 1];
}
KERNEL(64) added_up(global<float> y, bool before, bool after) { /* by all threads, without barriers between them */
    SHARED(u64, sum, 1);
    if (thread_index() == 63) sum[0] = 0;
    if (before) barrier();
    atomic_add(sum + 0, (u64)thread_index());
    if (after) barrier();
    y[thread_index()] = (float)(u64)sum[0];
}
KERNEL(96) added_by_two(global<float> y) { /* the second to add meets the reader, the first does not */
    SHARED(u64, sum, 1);
    if (thread_index() == 0) sum[0] = 0;
    barrier();
    if (warp() != 2) atomic_add(sum + 0, (u64)1);
    if (warp() != 0) barrier_some(1, 64);
    if (warp() == 2) y[lane()] = (float)(u64)sum[0];
}
KERNEL(64) global_bounds(global<float> y, u32 first) { y[first + thread_index()] = 1; }
KERNEL(64) shared_bounds(global<float> y) {
    SHARED(float, s, 32);
    s[thread_index()] = y[0];
}
KERNEL(32) misaligned(global<float> y) { y[lane()] = float_of_bits(load_quad(y + 1).word[0]); }
KERNEL(32) divergent_shuffle(global<float> y) {
    if (lane() < 16) y[lane()] = lane_xor(1.0f, 1);
}
KERNEL(32) two_shuffles(global<float> y) {
    if (lane() < 16)
        y[lane()] = lane_xor(1.0f, 1);
    else
        y[lane()] = lane_read(1.0f, 0);
}
KERNEL(64) divergent_barrier(global<float> y) {
    if (thread_index() < 32)
        barrier();
    else
        barrier();
    y[0] = 1;
}
KERNEL(64) missed_barrier(global<float> y) {
    if (thread_index() < 60) barrier();
    y[0] = 1;
}
KERNEL(32) copies(global<float> y, bool waits) {
    SHARED(float, s, 128);
    copy_async(s + lane() * 4, y + lane() * 4);
    copy_commit();
    if (waits) copy_wait<0>();
    warp_barrier();
    y[lane()] = s[(lane() + 1) % 32 * 4];
}
KERNEL(32) between_blocks(global<u32> flag, bool publishes) {
    if (block_index() == 0) {
        while (observe(flag) == 0) relax();
    } else if (publishes) {
        publish(flag, 1);
    }
}

/* halves and bf16, to nearest even: every half there and back, and what lies between */
static void conversions() {
    for (u32 i = 0; i < 65536; i++) {
        half h = {(u16)i}, back;
        from_float(to_float(h), back);
        bool nan = (i & 0x7c00) == 0x7c00 && (i & 1023);
        if (!nan && back.bits != h.bits) failures++, printf("FAIL: half %04x comes back as %04x\n", i, back.bits);
    }
    half h;
    from_float(1.0f + 1.0f / 2048, h); /* a tie: to even, down */
    if (h.bits != 0x3c00) failures++, puts("FAIL: a tie rounds up");
    from_float(1.0f + 3.0f / 2048, h); /* a tie: to even, up */
    if (h.bits != 0x3c02) failures++, puts("FAIL: a tie rounds down");
    from_float(65520.0f, h);
    if (h.bits != 0x7c00) failures++, puts("FAIL: 65520 is not infinite");
    bf16 b;
    from_float(float_of_bits(0x3f808000), b);
    if (b.bits != 0x3f80) failures++, puts("FAIL: a tie of bf16 rounds up");
}

/* c = a b for one fragment, by the layout that the prelude states */
KERNEL(32) fragment(global<float> y) {
    u32 a[4], b[2];
    float c[4] = {};
    const u32 g = lane() / 4, t = lane() % 4 * 2;
    auto pair = [](float low, float high) {
        half l, h;
        from_float(low, l);
        from_float(high, h);
        return (u32)l.bits | (u32)h.bits << 16;
    };
    auto left = [](u32 row, u32 column) { return (float)row - 0.5f * (float)column; };
    auto right = [](u32 row, u32 column) { return 0.25f * (float)row + (float)column; };
    for (u32 i = 0; i < 4; i++) a[i] = pair(left(g + i % 2 * 8, t + i / 2 * 8), left(g + i % 2 * 8, t + i / 2 * 8 + 1));
    for (u32 i = 0; i < 2; i++) b[i] = pair(right(t + 8 * i, g), right(t + 8 * i + 1, g));
    fragment_multiply(c, a, b, half());
    for (u32 i = 0; i < 4; i++) y[(g + i / 2 * 8) * 8 + t + i % 2] = c[i];
}

int main() {
    global<float> y;
    u32 flag = 0;
    host::region_add(data, sizeof data, "data");
    host::region_add(&flag, sizeof flag, "flag");
    y = global<float>(data);
    expect("a barrier", "", 1, 64, [&] { reverse(y, true); });
    expect("no barrier between write and read", "nobody wrote it", 1, 64, [&] { reverse(y, false); });
    expect("a barrier before reuse", "", 1, 64, [&] { overwrite(y, true); });
    expect("no barrier before reuse", "race: ", 1, 64, [&] { overwrite(y, false); });
    expect("a warp barrier", "", 1, 32, [&] { within_warp(y, true); });
    expect("no warp barrier", "nobody wrote it", 1, 32, [&] { within_warp(y, false); });
    expect("sums that threads add to", "", 1, 64, [&] { added_up(y, true, true); });
    if (data[5] != 2016) failures++, printf("FAIL: a sum of %g, not 2016\n", (double)data[5]);
    expect("no barrier before sums", "nobody wrote it", 1, 64, [&] { added_up(y, false, true); });
    expect("no barrier behind sums", "race: ", 1, 64, [&] { added_up(y, true, false); });
    expect("no barrier behind the first of two that add", "race: reads what warp 0 adds to", 1, 96, [&] { added_by_two(y); });
    expect("inside global memory", "", 1, 64, [&] { global_bounds(y, 192); });
    expect("outside of global memory", "global memory: 4 bytes at 1024 of \"data\"", 1, 64, [&] { global_bounds(y, 200); });
    expect("outside of shared memory", "shared memory: an access outside", 1, 64, [&] { shared_bounds(y); });
    expect("a misaligned load", "misaligned", 1, 32, [&] { misaligned(y); });
    expect("a divergent shuffle", "waits at lane_xor for ever", 1, 32, [&] { divergent_shuffle(y); });
    expect("two shuffles at once", "divergent lane_read", 1, 32, [&] { two_shuffles(y); });
    expect("two barriers at once", "divergent barrier", 1, 64, [&] { divergent_barrier(y); });
    expect("a missed barrier", "has returned", 1, 64, [&] { missed_barrier(y); });
    for (int i = 0; i < 128; i++) data[i] = (float)i;
    expect("a copy that is waited for", "", 1, 32, [&] { copies(y, true); });
    if (data[0] != 4) failures++, printf("FAIL: a copy brought %g\n", (double)data[0]);
    expect("a flag that another block sets", "", 2, 32, [&] { between_blocks(global<u32>(&flag), true); }, 2);
    flag = 0;
    expect("a flag that nobody sets", "wait", 2, 32, [&] { between_blocks(global<u32>(&flag), false); }, 2);
    for (int i = 0; i < 128; i++) data[i] = (float)i;
    expect("a copy that is not waited for", "still on its way", 1, 32, [&] { copies(y, false); });
    conversions();
    expect("a fragment", "", 1, 32, [&] { fragment(y); });
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < 8; c++) {
            float sum = 0;
            for (int k = 0; k < 16; k++) sum += ((float)r - 0.5f * (float)k) * (0.25f * (float)k + (float)c);
            if (data[r * 8 + c] != sum) failures++, printf("FAIL: fragment %d, %d is %g, not %g\n", r, c, (double)data[r * 8 + c], (double)sum);
        }
    return failures != 0;
}
