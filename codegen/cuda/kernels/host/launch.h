/* launch.h: runs a kernel over a grid. A fiber runs until it waits; when none can go on, a bulk copy lands, any one of
 * those under way; when there is none either, the launch ends with a line that says who waits where. */
#ifndef HOST_LAUNCH
#define HOST_LAUNCH

#include "codegen/cuda/kernels/host/group.h"

#include <memory>
#include <sys/mman.h>

namespace host {
inline void why_stuck(const std::vector<std::unique_ptr<Block>> &resident) {
    for (auto &b : resident) {
        if (!b) continue;
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
    b.groups.resize(threads / (4 * WARP));
    for (Group &g : b.groups) g.products.assign(1, {});
    for (Warp &w : b.warps) w.clock.assign(b.warps.size() + 1, 0);
    for (size_t i = 0; i < b.warps.size(); i++) b.warps[i].clock[i] = 1;
    for (u32 i = 0; i < threads; i++) {
        Fiber &f = b.fibers[i];
        f.block = &b, f.index = i, f.stack = stack_at(first_stack + i);
        fiber_prepare(f);
    }
}

/* Lets each fiber of a block run until it waits. */
inline void block_run(Block &b, bool *ran, bool *spinning) {
    for (Fiber &f : b.fibers) {
        if (f.state == SPINNING) f.state = READY, *spinning = true;
        if (f.state != READY) continue;
        *ran = true;
        to_fiber(f);
        if (!grid->fault.empty()) return;
    }
}

inline void block_end(const Block &b) {
    char text[200] = "a block ends, a product of its matrix units is not waited for";
    for (const Group &g : b.groups)
        if (g.products.size() > 1 || !g.products[0].empty()) grid->fault = text;
    if (b.flights.empty()) return;
    snprintf(text, sizeof text, "block %u ends, the bulk copy of line %d is still on its way", b.index,
             b.flights[0].site.line);
    grid->fault = text;
}

/* Nothing went on: lets one copy land. */
inline bool copy_land_any(const std::vector<std::unique_ptr<Block>> &here) {
    for (auto &b : here)
        if (b && !b->flights.empty()) {
            copy_land(*b, (size_t)(++grid->now * 0x9e3779b97f4a7c15u >> 33) % b->flights.size());
            return true;
        }
    return false;
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
    for (bool any = true; any && g.fault.empty();) {
        bool ran = false, spinning = false;
        u64 before = g.progress;
        any = false;
        for (size_t k = 0; k < here.size() && g.fault.empty(); k++) {
            if (!here[k] && next < total) {
                here[k].reset(new Block());
                block_start(*here[k], (u32)(next % blocks), (u32)(next / blocks), threads, shared_bytes,
                            k * threads);
                next++;
            }
            if (!here[k]) continue;
            any = true;
            block_run(*here[k], &ran, &spinning);
            if (here[k]->done == threads && g.fault.empty()) {
                block_end(*here[k]);
                here[k].reset();
            }
        }
        if (!any || !g.fault.empty()) continue;
        bool on = g.progress != before || copy_land_any(here);
        idle = spinning && !on ? idle + 1 : 0;
        if (on) continue;
        if (!ran || idle > 100000) {
            why_stuck(here);
            if (g.fault.empty()) g.fault = "all threads wait for a word that nobody publishes";
        }
    }
    grid = nullptr;
    return g.fault;
}
} // namespace host

#endif
