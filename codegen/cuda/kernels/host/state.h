/* state.h: what a launch on the host consists of: grid, blocks, warps, fibers, words of shared memory. */
#ifndef HOST_STATE
#define HOST_STATE

#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>
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

constexpr size_t STACK_BYTES = 128 << 10;
constexpr u32 MAX_THREADS = 1024, WARP = 32, MAX_WARPS = MAX_THREADS / WARP, NAMED_BARRIERS = 16;
enum State { READY, AT_BARRIER, AT_NAMED, AT_MBARRIER, IN_WARP, IN_GROUP, SPINNING, DONE };

/* Of each warp, the latest epoch known; last, of the engine that makes bulk copies. */
typedef std::vector<u32> Clock;

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
    const void *awaits = nullptr; /* AT_MBARRIER: which, and the parity of the phase */
    u32 parity = 0;
    u64 proxy_fence = 0, matrix_fence = 0; /* when the thread last made one */
    void *stack = nullptr, *sp = nullptr, *fake_stack = nullptr;
    std::vector<std::vector<Copy>> copies; /* committed groups, the open one last */
#if !defined(__x86_64__)
    ucontext_t context;
#endif
};

/* Threads that take a step together: a warp, or the four warps of a group. */
struct Gathering {
    u32 arrived = 0;
    const char *what = nullptr; /* the step under way */
    Site site = {"", 0};
    void *args[4 * WARP] = {};
};

struct Warp {
    Gathering step;
    Clock clock;
    u32 meetings = 0; /* of its lanes: what one did before is known to the others after */
};

struct Word { /* of shared memory, 4 bytes: its last writer */
    u32 epoch = 0, meeting = 0;
    u64 when = 0;
    u16 writer = 0xffff;                                    /* thread; NOBODY; ENGINE */
    bool written = false, in_flight = false, added = false; /* added: by an atomic addition */
    u16 products = 0; /* of matrix units that are under way and read it */
    Site where = {"", 0};
};
constexpr u16 NOBODY = 0xffff, ENGINE = 0xfffe;
struct Lanes { /* of a warp, that read a word, or added to it, since the epoch and meeting */
    u32 epoch = 0, meeting = 0, lanes = 0;
};

struct SharedBlock {
    u8 *data = nullptr;
    size_t bytes = 0;
    std::vector<Word> words;
    std::vector<Lanes> reads; /* words x warps */
    std::vector<Lanes>
        adds; /* the same, when there was an addition: since the word was last written otherwise */
    ~SharedBlock() { free(data); }
};

struct NamedBarrier {
    u32 threads = 0;
    std::vector<u32> waiting;
};

struct Mbarrier {
    u32 expected = 0, pending = 0, phase = 0, owner = 0;
    long long bytes = 0;   /* that were announced and have not landed */
    bool visible = false;  /* to the engine that makes bulk copies */
    Clock gathered, known; /* of the phase under way; of those that are complete */
};

struct Flight { /* a bulk copy under way */
    u8 *to;
    const u8 *from;
    size_t bytes;
    const void *mbarrier;
    Site site;
};

struct SumsState { /* a thread's sums of a matrix unit: not to be touched while a product is under way */
    float *value, *next;
    u32 count, products;
    u64 touched;
};
struct Product {                   /* under way on a matrix unit */
    std::vector<const u8 *> reads; /* pieces of 16 bytes of shared memory */
    SumsState *sums[4 * WARP];
};
struct Group { /* four warps: their products on matrix units */
    Gathering step;
    std::vector<std::vector<Product>> products; /* committed groups, the open one last */
};

struct Block {
    u32 index = 0, row = 0, threads = 0, at_barrier = 0, done = 0, landed = 0;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<Group> groups;
    std::map<const void *, SharedBlock> shared; /* by declaration */
    size_t shared_at_launch = 0;
    NamedBarrier named[NAMED_BARRIERS];
    std::map<const void *, Mbarrier> mbarriers;
    std::vector<Flight> flights;
};

struct Grid {
    u32 blocks = 1, rows = 1;
    const std::function<void()> *body = nullptr;
    Fiber *running = nullptr;
    std::string fault;
    void *scheduler_sp = nullptr, *scheduler_fake = nullptr;
    const void *scheduler_stack = nullptr;
    size_t scheduler_bytes = 0;
    u64 progress = 0, now = 0;
#if !defined(__x86_64__)
    ucontext_t scheduler;
#endif
};
inline thread_local Grid *grid = nullptr;

inline Fiber &self() { return *grid->running; }
inline Block &block() { return *self().block; }
inline Warp &own_warp() { return block().warps[self().index / WARP]; }

} // namespace host

#endif
