/* prelude_cuda_async.h: copies that go on while a kernel does, and the barriers that count them. */
#ifndef GPTC_PRELUDE_ASYNC
#define GPTC_PRELUDE_ASYNC

DEVICE u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }

/* ---- 16 bytes a thread, which waits for its own; others need a barrier after that ---- */
template <class T, class S> DEVICE void copy_async(T *to, const S *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from));
}
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;"); }
/* Waits until at most `left` of the thread's latest groups are under way. */
template <int left> DEVICE void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

/* ---- from sm_90 on: barriers in shared memory (mbarrier) and bulk copies that complete on them ----
 * A barrier is a word of 8 bytes, made by one thread: init, publish, then barrier(). Its phases 0, 1, … end when all
 * arrivals came and all bytes that were announced have landed. wait(b, parity) waits for the end of the phase of that
 * parity, the one before or the one under way: a fresh barrier lets wait(b, 1) pass. */
#if __CUDA_ARCH__ >= 900
enum { has_bulk_copies = 1 };
DEVICE void mbarrier_init(u64 *b, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals)
                 : "memory");
}
/* To the engine that makes bulk copies. */
DEVICE void mbarrier_publish() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void mbarrier_arrive(u64 *b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
/* Arrives, and announces bytes that bulk copies will bring in this phase. */
DEVICE void mbarrier_arrive_expect(u64 *b, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes)
                 : "memory");
}
DEVICE bool mbarrier_test(u64 *b, u32 parity) {
    u32 done;
    asm volatile("{\n.reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(shared_address(b)), "r"(parity)
                 : "memory");
    return done;
}
DEVICE void mbarrier_wait(u64 *b, u32 parity) {
    while (!mbarrier_test(b, parity)) {}
}
/* bytes (a multiple of 16, both places too) to shared memory; one thread asks for all. They count at `done`. */
template <class T, class S> DEVICE void bulk_copy(T *to, const S *from, u32 bytes, u64 *done) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
            shared_address(to)),
        "l"(from), "r"(bytes), "r"(shared_address(done))
        : "memory");
}
/* What this thread wrote to shared memory becomes known to bulk copies and matrix units. */
DEVICE void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#else /* a chip without them: kernels with these words are there and never launched */
enum { has_bulk_copies = 0 };
DEVICE void mbarrier_init(u64 *, u32) {}
DEVICE void mbarrier_publish() {}
DEVICE void mbarrier_arrive(u64 *) {}
DEVICE void mbarrier_arrive_expect(u64 *, u32) {}
DEVICE bool mbarrier_test(u64 *, u32) { return true; }
DEVICE void mbarrier_wait(u64 *, u32) {}
template <class T, class S> DEVICE void bulk_copy(T *, const S *, u32, u64 *) {}
DEVICE void proxy_fence() {}
#endif
#endif
