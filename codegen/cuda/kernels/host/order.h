/* order.h: what makes one access come before another: barriers of a block, steps that a warp or four warps take
 * together. Each warp counts epochs; who waits for a barrier learns the epochs of those who came to it. */
#ifndef HOST_ORDER
#define HOST_ORDER

#include "codegen/cuda/kernels/host/fiber.h"

namespace host {

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

/* These warps know of each other's past; what follows is a new epoch. */
inline void warps_meet(Block &b, const std::vector<u32> &warps) {
    Clock all(b.warps.size() + 1, 0);
    for (u32 w : warps) b.warps[w].clock[w]++, b.warps[w].meetings++;
    for (u32 w : warps) join(all, b.warps[w].clock);
    for (u32 w : warps) b.warps[w].clock = all;
    grid->progress++;
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
    std::vector<u32> warps;
    for (u32 w = 0; w < b.warps.size(); w++) warps.push_back(w);
    warps_meet(b, warps);
    for (Fiber &f : b.fibers) f.state = READY;
    b.at_barrier = 0;
}

/* A barrier of some of the block's warps, who may come to it at different places. */
inline void barrier_of(u32 id, u32 threads, Site site) {
    Block &b = block();
    if (id < 1 || id >= NAMED_BARRIERS || threads % WARP || !threads || threads > b.threads)
        fault(site, "a barrier %u of %u threads is not possible", id, threads);
    NamedBarrier &n = b.named[id];
    if (!n.waiting.empty() && n.threads != threads)
        fault(site, "barrier %u is for %u threads here, for %u where thread %u waits", id, threads, n.threads,
              n.waiting[0]);
    n.threads = threads;
    n.waiting.push_back(self().index);
    if (n.waiting.size() < threads) {
        wait(AT_NAMED, site, "a barrier of some warps");
        return;
    }
    std::vector<u32> warps;
    for (u32 t : n.waiting) {
        b.fibers[t].state = READY;
        if (warps.empty() || warps.back() != t / WARP) warps.push_back(t / WARP);
    }
    n.waiting.clear();
    warps_meet(b, warps);
}

/* All threads of a warp, or of a group of warps, give an argument; the last one to come runs `finish` over them. True
 * for the last one. */
inline bool together(Gathering &g, u32 first, u32 count, State s, Site site, const char *what, void *arg,
                     void (*finish)(void **args)) {
    if (g.arrived && (strcmp(g.what, what) != 0 || !(g.site == site)))
        fault(site, "divergent %s: others of its %s wait in %s at line %d", what,
              count == WARP ? "warp" : "four warps", g.what, g.site.line);
    g.what = what;
    g.site = site;
    g.args[self().index - first] = arg;
    if (++g.arrived < count) {
        wait(s, site, what);
        return false;
    }
    finish(g.args);
    g.arrived = 0;
    for (u32 i = 0; i < count; i++) block().fibers[first + i].state = READY;
    grid->progress++;
    return true;
}

inline void collective(Site site, const char *what, void *arg, void (*finish)(void **args)) {
    Warp &w = own_warp();
    u32 own = self().index / WARP;
    if (together(w.step, own * WARP, WARP, IN_WARP, site, what, arg, finish)) w.clock[own]++, w.meetings++;
}

} // namespace host

#endif
