/* async.cpp: bulk copies, mbarriers and barriers of some warps: what is right passes, each planted fault is named. */
#include "tests/cuda/expect.h"

enum Fault {
    NONE,
    NO_INIT,
    NO_PUBLISH,
    TWICE,
    NO_WAIT,
    NO_EMPTY_WAIT,
    WRONG_PARITY,
    FEW_BYTES,
    ODD_BYTES,
    OVERLAP,
    OUTSIDE,
    LEFT_BEHIND,
};

enum { STAGES = 3, PIECE = 64, PIECES = 16 };
static float source[PIECE * PIECES], sum[PIECE];

/* A ring: warp 1 brings pieces, warp 0 adds them up. */
KERNEL(64) ring(global<const float> from, global<float> to, Fault fault) {
    SHARED_AT_LAUNCH(float, slots);
    SHARED(u64, full, STAGES);
    SHARED(u64, empty, STAGES);
    if (thread_index() == 0 && fault != NO_INIT) {
        for (u32 s = 0; s < STAGES; s++) mbarrier_init(full + s, 1), mbarrier_init(empty + s, 32);
        if (fault == TWICE) mbarrier_init(full, 1);
        if (fault != NO_PUBLISH) mbarrier_publish();
    }
    barrier();
    if (warp() == 1) {
        if (lane() != 0) return;
        for (u32 i = 0; i < PIECES; i++) {
            const u32 s = i % STAGES, turn = i / STAGES & 1;
            const u32 bytes = fault == ODD_BYTES ? 250 : 256;
            if (fault != NO_EMPTY_WAIT) mbarrier_wait(empty + s, turn ^ 1);
            if (fault != LEFT_BEHIND) mbarrier_arrive_expect(full + s, fault == FEW_BYTES ? 512 : 256);
            bulk_copy(slots + s * PIECE, from + (fault == OUTSIDE ? 32 : 0) + i * PIECE, bytes, full + s);
            if (fault == OVERLAP) bulk_copy(slots + s * PIECE + 32, from, 128, full + s);
            if (fault == LEFT_BEHIND) return;
        }
        return;
    }
    if (fault == LEFT_BEHIND) return;
    float total[2] = {};
    for (u32 i = 0; i < PIECES; i++) {
        const u32 s = i % STAGES, turn = i / STAGES & 1;
        if (fault != NO_WAIT) mbarrier_wait(full + s, fault == WRONG_PARITY ? turn ^ 1 : turn);
        for (u32 j = 0; j < 2; j++) total[j] += slots[s * PIECE + lane() * 2 + j];
        mbarrier_arrive(empty + s);
    }
    for (u32 j = 0; j < 2; j++) to[lane() * 2 + j] = total[j];
}

static void rings() {
    static const struct {
        Fault fault;
        const char *says;
    } cases[] = {
        {NONE, ""},
        {NO_INIT, "not initialised"},
        {NO_PUBLISH, "mbarrier_publish is missing"},
        {TWICE, "initialised again"},
        {NO_WAIT, "nobody wrote it"},
        {NO_EMPTY_WAIT, "still on its way"},
        {WRONG_PARITY, "nobody wrote it"},
        {FEW_BYTES, "waits at an mbarrier for ever"},
        {ODD_BYTES, "no multiple of 16"},
        {OVERLAP, "is written, the copy of line"},
        {OUTSIDE, "of \"source\", which has"},
        {LEFT_BEHIND, "ends, the bulk copy of line"},
    };
    for (int i = 0; i < PIECE * PIECES; i++) source[i] = (float)(i % 97);
    for (const auto &c : cases) {
        char name[40];
        snprintf(name, sizeof name, "ring with fault %d", (int)c.fault);
        expect(name, c.says, 1, 64, [&] { ring(global<const float>(source), global<float>(sum), c.fault); }, 1,
               STAGES * PIECE * 4);
        if (c.fault != NONE) continue;
        for (int j = 0; j < PIECE; j++) {
            float want = 0;
            for (int i = 0; i < PIECES; i++) want += source[i * PIECE + j];
            if (sum[j] != want) failures++, printf("FAIL: ring sum %d: %g, not %g\n", j, (double)sum[j], (double)want);
        }
    }
}

/* Two warps of three meet; the third goes its own way. */
KERNEL(96) some(global<float> y, Fault fault) {
    SHARED(float, s, 64);
    if (warp() == 2) return;
    s[thread_index()] = (float)thread_index();
    if (fault == NONE || warp() == 0) barrier_some(1, 64);
    if (fault == NO_WAIT && warp() == 1) barrier_some(1, 32);
    y[thread_index()] = s[63 - thread_index()];
}

/* What one thread writes, it must fence and hand over by an mbarrier; the others learn it there. */
KERNEL(64) handed(global<float> y, Fault fault) {
    SHARED(float, s, 32);
    SHARED(u64, done, 1);
    if (thread_index() == 0) mbarrier_init(done, 1), mbarrier_publish();
    barrier();
    if (warp() == 0) {
        s[lane()] = (float)lane();
        warp_barrier();
        if (lane() == 0) mbarrier_arrive(done);
        if (fault == TWICE) s[lane()] = 1;
    } else {
        if (fault != NO_WAIT) mbarrier_wait(done, 0);
        y[lane()] = s[31 - lane()];
    }
}

/* It has landed, but who did not look at the mbarrier does not know. */
KERNEL(32) landed(global<float> y, Fault fault) {
    SHARED(float, s, 32);
    SHARED(u64, done, 1);
    if (lane() == 0) {
        mbarrier_init(done, 1), mbarrier_publish();
        mbarrier_arrive_expect(done, 128);
        bulk_copy(s, y, 128, done);
    }
    warp_barrier();
    if (fault == NO_WAIT)
        for (u32 i = 0; i < 4; i++) relax();
    else
        while (!mbarrier_test(done, 0)) relax();
    y[32 + lane()] = s[31 - lane()];
}

int main() {
    host::region_add(source, sizeof source, "source");
    host::region_add(sum, sizeof sum, "sum");
    global<float> y = global<float>(sum);
    rings();
    expect("a barrier of two warps", "", 1, 96, [&] { some(y, NONE); });
    expect("a barrier that one warp misses", "race: reads what thread", 1, 96, [&] { some(y, FEW_BYTES); });
    expect("a barrier of two sizes", "barrier 1 is for 32 threads here", 1, 96, [&] { some(y, NO_WAIT); });
    expect("values handed over", "", 1, 64, [&] { handed(y, NONE); });
    expect("values not waited for", "nobody wrote it", 1, 64, [&] { handed(y, NO_WAIT); });
    expect("a copy that landed", "", 1, 32, [&] { landed(y, NONE); });
    expect("a copy that landed, unseen", "mbarrier was not waited for", 1, 32, [&] { landed(y, NO_WAIT); });
    expect("written after they were handed over", "race: ", 1, 64, [&] { handed(y, TWICE); });
    return failures != 0;
}
