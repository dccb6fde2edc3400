/* fiber.h: a block's threads as fibers of one host thread, and the switch between them. */
#ifndef HOST_FIBER
#define HOST_FIBER

#include "codegen/cuda/kernels/host/state.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#if defined(__SANITIZE_ADDRESS__)
#define HOST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HOST_ASAN 1
#endif
#endif
#ifdef HOST_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace host {

#if defined(__x86_64__)
/* Saves the callee's registers and stack pointer at *save, goes on where `load` was saved. */
extern "C" void host_switch(void **save, void *load);
__asm__(".text\n.weak host_switch\n.type host_switch, @function\nhost_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n  ret\n"
        ".size host_switch, . - host_switch\n");
#endif

inline void to_scheduler(bool last) {
    Fiber &f = self();
    (void)last;
#ifdef HOST_ASAN
    __sanitizer_start_switch_fiber(last ? nullptr : &f.fake_stack, grid->scheduler_stack,
                                   grid->scheduler_bytes);
#endif
#if defined(__x86_64__)
    host_switch(&f.sp, grid->scheduler_sp);
#else
    swapcontext(&f.context, &grid->scheduler);
#endif
#ifdef HOST_ASAN
    __sanitizer_finish_switch_fiber(f.fake_stack, &grid->scheduler_stack, &grid->scheduler_bytes);
#endif
}

inline void to_fiber(Fiber &f) {
    grid->running = &f;
#ifdef HOST_ASAN
    __sanitizer_start_switch_fiber(&grid->scheduler_fake, f.stack, STACK_BYTES);
#endif
#if defined(__x86_64__)
    host_switch(&grid->scheduler_sp, f.sp);
#else
    swapcontext(&grid->scheduler, &f.context);
#endif
#ifdef HOST_ASAN
    __sanitizer_finish_switch_fiber(grid->scheduler_fake, nullptr, nullptr);
#endif
    grid->running = nullptr;
}

/* Ends the launch; what is said first counts. Does not return, but the compiler must not know: before such a
 * call AddressSanitizer clears what it takes for the whole stack. */
inline volatile bool forever = true;
__attribute__((format(printf, 2, 3))) inline void fault(Site s, const char *fmt, ...) {
    char text[400], at[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    const char *slash = strrchr(s.file, '/');
    snprintf(at, sizeof at, "%s:%d: block %u, thread %u: ", slash ? slash + 1 : s.file, s.line, block().index,
             self().index);
    if (grid->fault.empty()) grid->fault = std::string(at) + text;
    while (forever) to_scheduler(false);
}

inline void fiber_main() {
#ifdef HOST_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &grid->scheduler_stack, &grid->scheduler_bytes);
#endif
    (*grid->body)();
    Fiber &f = self();
    f.state = DONE;
    f.block->done++;
    grid->progress++;
    to_scheduler(true);
    abort();
}

inline void fiber_prepare(Fiber &f) {
    f.state = READY;
    f.copies.assign(1, {});
#ifdef HOST_ASAN
    __asan_unpoison_memory_region(f.stack, STACK_BYTES); /* a fault leaves frames behind */
#endif
#if defined(__x86_64__)
    /* six registers, the return address, and the alignment a call leaves */
    void **top = (void **)((u8 *)f.stack + STACK_BYTES) - 8;
    memset(top, 0, 8 * sizeof *top);
    top[6] = (void *)fiber_main;
    f.sp = top;
#else
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack;
    f.context.uc_stack.ss_size = STACK_BYTES;
    f.context.uc_link = nullptr;
    makecontext(&f.context, fiber_main, 0);
#endif
}

} // namespace host

#endif
