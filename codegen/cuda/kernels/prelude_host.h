/* prelude_host.h: the vocabulary of prelude_cuda.h on a CPU, so that the very text that goes to NVRTC runs in
 * tests, with every access checked.
 *
 * A block's threads are fibers of one host thread. A fiber runs until it waits: at a barrier, for the lanes of
 * its warp, for a word that another block publishes. When none can go on, or what they wait for does not fit
 * together, the launch ends with a line that says who waits where.
 *
 * Global memory: a pointer knows its allocation and every access is checked against it. Shared memory: every
 * word remembers its last writer and reader, and an access that no barrier orders after a conflicting one of
 * another thread is a race (vector clocks over warps, as in FastTrack, Flanagan and Freund 2009; lanes of a
 * warp are ordered by warp barriers and shuffles). Words that nobody wrote must not be read. Asynchronous
 * copies land as late as the rules allow: when they are waited for. */
#ifndef GPTC_PRELUDE
#define GPTC_PRELUDE /* in place of prelude_cuda.h */

#include <cmath>
#include <csetjmp>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <sys/mman.h>
#include <type_traits>
#include <vector>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define HOST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define HOST_ASAN 1
#endif
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;
typedef int32_t i32;

namespace host {

/* A place in a kernel's text. */
struct Site {
    const char *file;
    int line;
    bool operator==(const Site &o) const { return line == o.line && !strcmp(file, o.file); }
};
#define HOST_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define HOST_HERE (host::Site{file, line})

/* ---- fibers ---- */
constexpr size_t STACK_BYTES = 128 << 10;
constexpr u32 MAX_THREADS = 1024, WARP = 32, MAX_WARPS = MAX_THREADS / WARP;
enum State { READY, AT_BARRIER, IN_WARP, AT_COPY, SPINNING, DONE };

typedef std::vector<u32> Clock; /* of each warp, the latest epoch known */

struct Copy {
    void *to;
    const void *from;
};

struct Block;
struct Fiber {
    Block *block = nullptr;
    u32 index = 0;
    State state = DONE;
    Site site = {"", 0};
    const char *doing = "";
    void *stack = nullptr, *sp = nullptr, *fake_stack = nullptr;
    std::vector<std::vector<Copy>> copies; /* committed groups, the open one last */
#if !defined(__x86_64__)
    ucontext_t context;
#endif
};

struct Warp {
    u32 arrived = 0;
    const char *what = nullptr; /* the collective under way */
    Site site = {"", 0};
    void *args[WARP] = {};
    Clock clock;
};

struct Word { /* of shared memory, 4 bytes: its last writer */
    u32 epoch = 0;
    u16 writer = 0xffff; /* thread; NOBODY */
    bool written = false;
    Site where = {"", 0};
};
constexpr u16 NOBODY = 0xffff;
struct Reads { /* of a word by a warp: the lanes that read it in the warp's latest epoch that did */
    u32 epoch = 0, lanes = 0;
};

struct SharedBlock {
    u8 *data = nullptr;
    size_t bytes = 0;
    std::vector<Word> words;
    std::vector<Reads> reads; /* words x warps */
    ~SharedBlock() { free(data); }
};

struct Block {
    u32 index = 0, row = 0, threads = 0, at_barrier = 0, done = 0;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::map<const void *, SharedBlock> shared; /* by declaration */
    size_t shared_at_launch = 0;
};

struct Grid {
    u32 blocks = 1, rows = 1;
    const std::function<void()> *body = nullptr;
    Fiber *running = nullptr;
    std::string fault;
    void *scheduler_sp = nullptr, *scheduler_fake = nullptr;
    const void *scheduler_stack = nullptr;
    size_t scheduler_bytes = 0;
    u64 progress = 0;
#if !defined(__x86_64__)
    ucontext_t scheduler;
#endif
};
inline thread_local Grid *grid = nullptr;

inline Fiber &self() { return *grid->running; }
inline Block &block() { return *self().block; }
inline Warp &own_warp() { return block().warps[self().index / WARP]; }

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

/* ---- waiting ---- */
inline void wait(State s, Site site, const char *doing) {
    Fiber &f = self();
    f.state = s;
    f.site = site;
    f.doing = doing;
    to_scheduler(false);
}

inline void join(Clock &a, const Clock &b) {
    for (size_t i = 0; i < a.size(); i++) a[i] = a[i] > b[i] ? a[i] : b[i];
}

inline void barrier_at(Site site) {
    Block &b = block();
    for (Fiber &f : b.fibers)
        if (f.state == AT_BARRIER && !(f.site == site))
            fault(site, "divergent barrier: thread %u waits at line %d", f.index, f.site.line);
    if (++b.at_barrier < b.threads) {
        wait(AT_BARRIER, site, "a barrier");
        return;
    }
    Clock all(b.warps.size(), 0);
    for (size_t i = 0; i < b.warps.size(); i++) b.warps[i].clock[i]++; /* what follows is a new epoch */
    for (Warp &w : b.warps) join(all, w.clock);
    for (Warp &w : b.warps) w.clock = all;
    for (Fiber &f : b.fibers) f.state = READY;
    b.at_barrier = 0;
    grid->progress++;
}

/* All lanes of a warp give an argument; the last one to come runs `finish` over them. */
inline void collective(Site site, const char *what, void *arg, void (*finish)(void **args)) {
    Warp &w = own_warp();
    u32 me = self().index % WARP;
    if (w.arrived && (strcmp(w.what, what) != 0 || !(w.site == site)))
        fault(site, "divergent %s: other lanes of the warp wait in %s at line %d", what, w.what, w.site.line);
    w.what = what;
    w.site = site;
    w.args[me] = arg;
    if (++w.arrived < WARP) {
        wait(IN_WARP, site, what);
        return;
    }
    finish(w.args);
    w.arrived = 0;
    w.clock[self().index / WARP]++;
    u32 first = self().index / WARP * WARP;
    for (u32 i = 0; i < WARP; i++) block().fibers[first + i].state = READY;
    grid->progress++;
}

/* ---- shared memory ---- */
inline SharedBlock *shared_of(const void *p, size_t bytes, Site s) {
    for (auto &e : block().shared) {
        SharedBlock &m = e.second;
        if ((const u8 *)p >= m.data && (const u8 *)p < m.data + m.bytes) {
            if (bytes > (size_t)(m.data + m.bytes - (const u8 *)p))
                fault(s, "shared memory: an access of %zu bytes at %zu of %zu", bytes,
                      (size_t)((const u8 *)p - m.data), m.bytes);
            return &m;
        }
    }
    fault(s, "shared memory: an access outside of what was declared");
    return nullptr;
}

inline bool ordered(u32 thread, u32 epoch) {
    u32 me = self().index, w = thread / WARP;
    const Clock &c = own_warp().clock;
    if (w == me / WARP) return thread == me || epoch < c[w];
    return epoch < c[w];
}

inline void shared_access(const void *p, size_t bytes, bool write, Site s) {
    SharedBlock *m = shared_of(p, bytes, s);
    u32 me = self().index, own = me / WARP, epoch = own_warp().clock[own], warps = (u32)block().warps.size();
    size_t at = (size_t)((const u8 *)p - m->data), first = at / 4, last = (at + bytes - 1) / 4;
    for (size_t i = first; i <= last; i++) {
        Word &w = m->words[i];
        Reads *reads = &m->reads[i * warps];
        if (!write && !w.written) fault(s, "shared memory: byte %zu is read, nobody wrote it", 4 * i);
        bool apart = bytes < 4; /* the halves of a word may belong to two threads */
        if (!apart && w.writer != NOBODY && !ordered(w.writer, w.epoch))
            fault(s, "race: %s what thread %u wrote at line %d, with no barrier between",
                  write ? "writes over" : "reads", w.writer, w.where.line);
        if (!write) {
            if (reads[own].epoch != epoch) reads[own] = Reads{epoch, 0};
            reads[own].lanes |= 1u << me % WARP;
            continue;
        }
        for (u32 v = 0; v < warps && !apart; v++) {
            u32 others = v == own ? reads[v].lanes & ~(1u << me % WARP) : reads[v].lanes;
            if (others && reads[v].epoch >= own_warp().clock[v])
                fault(s, "race: writes over what warp %u reads, with no barrier between", v);
            reads[v] = Reads();
        }
        w = Word{epoch, (u16)me, true, s};
    }
}

/* ---- global memory: the tests' buffers, by address ---- */
struct Region {
    const u8 *data;
    size_t bytes;
    std::string name;
};
inline std::map<const u8 *, Region> &regions() {
    static std::map<const u8 *, Region> all;
    return all;
}
inline void region_add(const void *p, size_t bytes, const char *name) {
    regions()[(const u8 *)p] = Region{(const u8 *)p, bytes, name};
}
inline void region_clear() { regions().clear(); }
inline const Region *region_of(const void *p) {
    auto it = regions().upper_bound((const u8 *)p);
    if (it == regions().begin()) return nullptr;
    --it;
    return (const u8 *)p <= it->second.data + it->second.bytes ? &it->second : nullptr;
}

} // namespace host

/* A checked pointer to global memory; it stays inside the allocation it was made from. */
template <class T> struct global {
    T *p = nullptr;
    const host::Region *region = nullptr;
    global() {}
    global(std::nullptr_t) {}
    global(T *from) : p(from), region(from ? host::region_of(from) : nullptr) {}
    template <class U, class = typename std::enable_if<std::is_convertible<U *, T *>::value>::type>
    global(const global<U> &o) : p(o.p), region(o.region) {}
    T *check(size_t bytes, HOST_SITE) const {
        if (!region) host::fault(HOST_HERE, "global memory: a null or unknown pointer is used");
        const u8 *at = (const u8 *)p;
        if (at < region->data || bytes > region->bytes || (size_t)(at - region->data) > region->bytes - bytes)
            host::fault(HOST_HERE, "global memory: %zu bytes at %lld of \"%s\", which has %zu", bytes,
                        (long long)(at - region->data), region->name.c_str(), region->bytes);
        if ((uintptr_t)at % (bytes < 16 ? bytes : 16))
            host::fault(HOST_HERE, "global memory: a misaligned access");
        return p;
    }
    T &operator*() const { return *check(sizeof(T)); }
    struct Index {
        long long i;
        host::Site s;
        template <class I> Index(I i, HOST_SITE) : i((long long)i), s(HOST_HERE) {}
    };
    T &operator[](Index i) const { return *(*this + i.i).check(sizeof(T), i.s.file, i.s.line); }
    template <class I> global operator+(I n) const {
        global r = *this;
        r.p = (T *)((uintptr_t)p + (uintptr_t)((long long)n * (long long)sizeof(T)));
        return r;
    }
    template <class I> global &operator+=(I n) { return *this = *this + n; }
    template <class U, class = typename std::enable_if<!std::is_convertible<T *, U *>::value>::type>
    explicit operator global<U>() const {
        global<U> r;
        r.p = (U *)p, r.region = region;
        return r;
    }
    explicit operator bool() const { return p != nullptr; }
    bool operator==(std::nullptr_t) const { return p == nullptr; }
    bool operator!=(std::nullptr_t) const { return p != nullptr; }
};

/* A checked pointer to shared memory. */
template <class T> struct shared {
    T *p = nullptr;
    struct Ref {
        T *p;
        host::Site s;
        operator T() const {
            host::shared_access(p, sizeof(T), false, s);
            return *p;
        }
        T operator=(T v) const {
            host::shared_access(p, sizeof(T), true, s);
            return *p = v;
        }
        T operator=(const Ref &o) const { return *this = (T)o; }
        T operator+=(T v) const { return *this = (T)((T) * this + v); }
        T operator*=(T v) const { return *this = (T)((T) * this * v); }
    };
    struct Index {
        long long i;
        host::Site s;
        template <class I> Index(I i, HOST_SITE) : i((long long)i), s(HOST_HERE) {}
    };
    Ref operator[](Index i) const { return Ref{(*this + i.i).p, i.s}; }
    template <class I> shared operator+(I n) const {
        return shared{(T *)((uintptr_t)p + (uintptr_t)((long long)n * (long long)sizeof(T)))};
    }
    template <class U> explicit operator shared<U>() const { return shared<U>{(U *)p}; }
};

namespace host {
template <class T> shared<T> declare(const void *key, size_t count, Site s) {
    SharedBlock &m = block().shared[key];
    if (!m.data) {
        m.bytes = (count * sizeof(T) + 3) / 4 * 4;
        if (posix_memalign((void **)&m.data, 128, m.bytes ? m.bytes : 1)) fault(s, "no memory");
        memset(m.data, 0xff, m.bytes);
        m.words.assign((m.bytes + 3) / 4, Word());
        m.reads.assign(m.words.size() * block().warps.size(), Reads());
    }
    return shared<T>{(T *)m.data};
}
} // namespace host

/* ---- launch ---- */
namespace host {
inline void why_stuck(const std::vector<std::unique_ptr<Block>> &resident) {
    for (auto &b : resident)
        for (Fiber &f : b->fibers) {
            if (f.state == DONE || f.state == READY) continue;
            const Fiber *other = nullptr;
            for (Fiber &o : b->fibers)
                if (&o != &f && (o.state == DONE || !(o.site == f.site))) other = &o;
            char text[400];
            const char *slash = strrchr(f.site.file, '/');
            int n = snprintf(text, sizeof text, "%s:%d: block %u, thread %u waits at %s for ever",
                             slash ? slash + 1 : f.site.file, f.site.line, b->index, f.index, f.doing);
            if (other && other->state == DONE)
                snprintf(text + n, sizeof text - (size_t)n, "; thread %u has returned", other->index);
            else if (other)
                snprintf(text + n, sizeof text - (size_t)n, "; thread %u waits at %s, line %d", other->index,
                         other->doing, other->site.line);
            grid->fault = text;
            return;
        }
}

/* Stacks are kept from launch to launch. */
inline void *stack_at(size_t i) {
    static std::vector<void *> stacks;
    while (stacks.size() <= i) {
        void *p = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) abort();
        stacks.push_back(p);
    }
    return stacks[i];
}

inline void block_start(Block &b, u32 index, u32 row, u32 threads, size_t shared_bytes, size_t first_stack) {
    b.index = index, b.row = row, b.threads = threads, b.shared_at_launch = shared_bytes;
    b.fibers.resize(threads);
    b.warps.resize(threads / WARP);
    for (Warp &w : b.warps) w.clock.assign(b.warps.size(), 0);
    for (size_t i = 0; i < b.warps.size(); i++) b.warps[i].clock[i] = 1;
    for (u32 i = 0; i < threads; i++) {
        Fiber &f = b.fibers[i];
        f.block = &b, f.index = i, f.stack = stack_at(first_stack + i);
        fiber_prepare(f);
    }
}

/* Runs body() as every thread of a grid of blocks x rows blocks; `resident` of them at once. What is wrong is
 * returned in a line, "" when nothing is. */
inline std::string launch(u32 blocks, u32 rows, u32 threads, size_t shared_bytes, u32 resident,
                          const std::function<void()> &body) {
    Grid g;
    g.blocks = blocks, g.rows = rows, g.body = &body;
    grid = &g;
    u64 next = 0, total = (u64)blocks * rows, idle = 0;
    std::vector<std::unique_ptr<Block>> here(resident);
    if (threads % WARP || threads > MAX_THREADS) return "a block of that many threads is not possible here";
    for (;;) {
        bool any = false, ran = false, spinning = false;
        u64 before = g.progress;
        for (size_t k = 0; k < here.size(); k++) {
            if (!here[k] && next < total) {
                here[k].reset(new Block());
                block_start(*here[k], (u32)(next % blocks), (u32)(next / blocks), threads, shared_bytes,
                            k * threads);
                next++;
            }
            if (!here[k]) continue;
            any = true;
            for (Fiber &f : here[k]->fibers) {
                if (f.state == SPINNING) f.state = READY, spinning = true;
                if (f.state != READY) continue;
                ran = true;
                to_fiber(f);
                if (!g.fault.empty()) break;
            }
            if (!g.fault.empty()) break;
            if (here[k]->done == threads) here[k].reset();
        }
        if (!any || !g.fault.empty()) break;
        idle = spinning && g.progress == before ? idle + 1 : 0;
        if (!ran || idle > 100000) {
            why_stuck(here);
            if (g.fault.empty()) g.fault = "all threads wait for a word that nobody publishes";
            break;
        }
    }
    grid = nullptr;
    return g.fault;
}
} // namespace host

/* ---- the vocabulary ---- */
#define KERNEL(threads) static void
#define DEVICE static inline
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
template <class T> Quad load_quad(shared<T> p, HOST_SITE) {
    Quad q;
    if ((uintptr_t)p.p % 16) host::fault(HOST_HERE, "shared memory: a misaligned access");
    host::shared_access(p.p, 16, false, HOST_HERE);
    memcpy(&q, p.p, 16);
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
DEVICE void relax(HOST_SITE) { host::wait(host::SPINNING, HOST_HERE, "a word of another block"); }

/* ---- asynchronous copies: they land when they are waited for ---- */
template <class T, class S> void copy_async(shared<T> to, global<S> from, HOST_SITE) {
    if ((uintptr_t)to.p % 16) host::fault(HOST_HERE, "shared memory: a misaligned access");
    from.check(16, file, line);
    host::shared_access(to.p, 16, true, HOST_HERE);
    memset((void *)to.p, 0xff, 16); /* not there yet */
    host::self().copies.back().push_back({(void *)to.p, from.p});
}
DEVICE void copy_commit() { host::self().copies.push_back({}); }
template <int left> void copy_wait(HOST_SITE) {
    auto &groups = host::self().copies;
    while (groups.size() > (size_t)left + 1) {
        for (host::Copy &c : groups.front()) {
            memcpy(c.to, c.from, 16);
            host::shared_access(c.to, 16, true, HOST_HERE);
        }
        groups.erase(groups.begin());
    }
}

/* ---- matrix fragments ---- */
namespace host {
template <class T> float lower(u32 w) { return to_float(T{(u16)w}); }
template <class T> float upper(u32 w) { return to_float(T{(u16)(w >> 16)}); }
template <class T> struct Product {
    float *c;
    const u32 *a, *b;
};
template <class T> void multiply(void **args) {
    float a[16][16], b[16][8];
    for (u32 l = 0; l < WARP; l++) {
        const Product<T> *p = (const Product<T> *)args[l];
        u32 g = l / 4, t = l % 4 * 2;
        for (u32 i = 0; i < 4; i++) {
            u32 row = g + i % 2 * 8, column = t + i / 2 * 8;
            a[row][column] = lower<T>(p->a[i]), a[row][column + 1] = upper<T>(p->a[i]);
        }
        for (u32 i = 0; i < 2; i++)
            b[t + 8 * i][g] = lower<T>(p->b[i]), b[t + 8 * i + 1][g] = upper<T>(p->b[i]);
    }
    for (u32 l = 0; l < WARP; l++)
        for (u32 i = 0; i < 4; i++) {
            u32 row = l / 4 + i / 2 * 8, column = l % 4 * 2 + i % 2;
            float sum = 0;
            for (u32 k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
            ((Product<T> *)args[l])->c[i] += sum;
        }
}
} // namespace host
template <class T> void fragment_multiply(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2], T, HOST_SITE) {
    host::Product<T> p = {c, a, b};
    host::collective(HOST_HERE, "fragment_multiply", &p, host::multiply<T>);
}
namespace host {
struct FragmentRows {
    const u16 *row;
    u32 *out;
};
template <class T>
void fragment_rows(u32 (&out)[4], shared<T> row, const char *what, void (*finish)(void **), Site s) {
    FragmentRows mine = {(const u16 *)row.p, out};
    if ((uintptr_t)row.p % 16) fault(s, "shared memory: a misaligned access");
    shared_access(row.p, 16, false, s);
    collective(s, what, &mine, finish);
}
} // namespace host
template <class T> void fragment_load(u32 (&out)[4], shared<T> row, HOST_SITE) {
    host::fragment_rows(
        out, row, "fragment_load",
        [](void **args) {
            host::FragmentRows **of = (host::FragmentRows **)args;
            for (u32 l = 0; l < host::WARP; l++)
                for (u32 tile = 0; tile < 4; tile++)
                    memcpy(&of[l]->out[tile], of[tile * 8 + l / 4]->row + l % 4 * 2, 4);
        },
        HOST_HERE);
}
template <class T> void fragment_load_turned(u32 (&out)[4], shared<T> row, HOST_SITE) {
    host::fragment_rows(
        out, row, "fragment_load_turned",
        [](void **args) {
            host::FragmentRows **of = (host::FragmentRows **)args;
            for (u32 l = 0; l < host::WARP; l++)
                for (u32 tile = 0; tile < 4; tile++) {
                    const u32 first = tile * 8 + l % 4 * 2, column = l / 4;
                    of[l]->out[tile] = of[first]->row[column] | (u32)of[first + 1]->row[column] << 16;
                }
        },
        HOST_HERE);
}
DEVICE u32 pair_of(float low, float high, bf16 to) {
    bf16 upper;
    from_float(low, to), from_float(high, upper);
    return to.bits | (u32)upper.bits << 16;
}
DEVICE u32 pair_fma(u32 a, u32 b, u32 c, bf16 to) {
    return pair_of(host::lower<bf16>(a) * host::lower<bf16>(b) + host::lower<bf16>(c),
                   host::upper<bf16>(a) * host::upper<bf16>(b) + host::upper<bf16>(c), to);
}

/* ---- arithmetic that CUDA has built in ---- */
DEVICE float rsqrtf(float x) { return 1 / std::sqrt(x); }

#endif
