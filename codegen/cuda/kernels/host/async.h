/* async.h: copies that go on while a kernel does, and the barriers that count them: the words of
 * prelude_cuda_async.h. A copy lands as late as the rules allow, and in any order that they allow. */
#ifndef HOST_ASYNC
#define HOST_ASYNC

#include "codegen/cuda/kernels/host/words.h"

namespace host {
/* What a copy is bringing must not be touched before it is there. */
inline void flight_mark(const void *p, size_t bytes, bool in_flight) {
    SharedBlock *m = shared_of(p, bytes, {"", 0});
    size_t at = (size_t)((const u8 *)p - m->data) / 4;
    for (size_t i = at; i < at + bytes / 4; i++) m->words[i].in_flight = in_flight;
}
inline void flight_begin(void *to, size_t bytes, Site s) {
    if ((uintptr_t)to % 16) fault(s, "shared memory: a misaligned access");
    shared_access(to, bytes, true, s);
    memset(to, 0xff, bytes);
    flight_mark(to, bytes, true);
}
} // namespace host

/* ---- 16 bytes a thread, who waits for its own ---- */
template <class T, class S> void copy_async(shared<T> to, global<S> from, HOST_SITE) {
    from.check(16, file, line);
    host::flight_begin((void *)to.p, 16, HOST_HERE);
    host::self().copies.back().push_back({(void *)to.p, from.p});
}
DEVICE void copy_commit() { host::self().copies.push_back({}); }
template <int left> void copy_wait(HOST_SITE) {
    auto &groups = host::self().copies;
    while (groups.size() > (size_t)left + 1) {
        for (host::Copy &c : groups.front()) {
            host::flight_mark(c.to, 16, false);
            memcpy(c.to, c.from, 16);
            host::shared_access(c.to, 16, true, HOST_HERE);
        }
        groups.erase(groups.begin());
    }
}

/* ---- barriers in shared memory ---- */
namespace host {
inline Mbarrier &mbarrier_at(shared<u64> b, Site s) {
    auto it = block().mbarriers.find(b.p);
    if (it == block().mbarriers.end()) fault(s, "an mbarrier that was not initialised");
    shared_access(b.p, 8, false, s);
    return it->second;
}

/* Ends the phase when nothing is missing, and wakes those who wait for it. */
inline void mbarrier_advance(Block &b, const void *at, Mbarrier &m) {
    if (m.pending || m.bytes) return;
    u32 parity = m.phase++ & 1;
    m.pending = m.expected;
    join(m.known, m.gathered);
    for (Fiber &f : b.fibers)
        if (f.state == AT_MBARRIER && f.awaits == at && f.parity == parity) f.state = READY;
    grid->progress++;
}

inline void mbarrier_come(shared<u64> b, u32 bytes, Site s) {
    Mbarrier &m = mbarrier_at(b, s);
    u32 own = self().index / WARP;
    if (m.bytes + bytes >= 1 << 20) fault(s, "an mbarrier counts fewer than 1048576 bytes");
    m.bytes += bytes;
    m.pending--;
    own_warp().clock[own]++; /* what follows is not known to who waits */
    join(m.gathered, own_warp().clock);
    mbarrier_advance(block(), b.p, m);
}

inline void copy_land(Block &b, size_t which) {
    Flight f = b.flights[which];
    b.flights.erase(b.flights.begin() + (long)which);
    memcpy(f.to, f.from, f.bytes);
    for (auto &e : b.shared) {
        SharedBlock &m = e.second;
        if (f.to < m.data || f.to >= m.data + m.bytes) continue;
        for (size_t i = (size_t)(f.to - m.data) / 4, end = i + f.bytes / 4; i < end; i++) {
            Word &w = m.words[i];
            w.in_flight = false, w.writer = ENGINE, w.epoch = b.landed + 1;
        }
    }
    Mbarrier &m = b.mbarriers[f.mbarrier];
    m.bytes -= (long long)f.bytes;
    m.gathered.back() = ++b.landed;
    mbarrier_advance(b, f.mbarrier, m);
}
} // namespace host

DEVICE void mbarrier_init(shared<u64> b, u32 arrivals, HOST_SITE) {
    host::shared_access(b.p, 8, true, HOST_HERE);
    if (!arrivals || arrivals >= 1 << 20) host::fault(HOST_HERE, "an mbarrier of %u arrivals", arrivals);
    if (host::block().mbarriers.count(b.p)) host::fault(HOST_HERE, "an mbarrier is initialised again");
    host::Mbarrier &m = host::block().mbarriers[b.p];
    m.expected = m.pending = arrivals;
    m.owner = host::self().index;
    m.gathered.assign(host::block().warps.size() + 1, 0);
    m.known = m.gathered;
}
DEVICE void mbarrier_publish() {
    for (auto &e : host::block().mbarriers)
        if (e.second.owner == host::self().index) e.second.visible = true;
}
DEVICE void mbarrier_arrive(shared<u64> b, HOST_SITE) { host::mbarrier_come(b, 0, HOST_HERE); }
DEVICE void mbarrier_arrive_expect(shared<u64> b, u32 bytes, HOST_SITE) {
    host::mbarrier_come(b, bytes, HOST_HERE);
}
DEVICE bool mbarrier_test(shared<u64> b, u32 parity, HOST_SITE) {
    host::Mbarrier &m = host::mbarrier_at(b, HOST_HERE);
    if ((m.phase & 1) == parity) return false;
    host::join(host::own_warp().clock, m.known);
    return true;
}
DEVICE void mbarrier_wait(shared<u64> b, u32 parity, HOST_SITE) {
    host::Mbarrier &m = host::mbarrier_at(b, HOST_HERE);
    if ((m.phase & 1) == parity) {
        host::self().awaits = b.p, host::self().parity = parity;
        host::wait(host::AT_MBARRIER, HOST_HERE, "an mbarrier");
    }
    host::join(host::own_warp().clock, m.known);
}

/* ---- many bytes at once, one thread asks for all ---- */
enum { has_bulk_copies = 1 };
template <class T, class S>
void bulk_copy(shared<T> to, global<S> from, u32 bytes, shared<u64> done, HOST_SITE) {
    const host::Mbarrier &m = host::mbarrier_at(done, HOST_HERE);
    if (!m.visible)
        host::fault(HOST_HERE, "mbarrier_publish is missing between its mbarrier_init and a bulk copy");
    if (!bytes || bytes % 16) host::fault(HOST_HERE, "a bulk copy of %u bytes: no multiple of 16", bytes);
    from.check(bytes, file, line);
    host::flight_begin((void *)to.p, bytes, HOST_HERE);
    host::block().flights.push_back({(u8 *)to.p, (const u8 *)from.p, bytes, done.p, HOST_HERE});
}
/* What this thread wrote to shared memory becomes known to bulk copies and matrix units. */
DEVICE void proxy_fence() { host::self().proxy_fence = ++host::grid->now; }

#endif
