/* memory.h: shared memory, global memory and the checked pointers to them. */
#ifndef HOST_MEMORY
#define HOST_MEMORY

#include "codegen/cuda/kernels/host/order.h"

#include <algorithm>
#include <type_traits>

namespace host {

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

inline bool ordered(const Word &w) {
    u32 me = self().index, of = w.writer / WARP;
    const Warp &own = own_warp();
    if (w.writer == NOBODY || w.writer == me) return true;
    if (w.writer == ENGINE) return w.epoch <= own.clock.back();
    if (of == me / WARP) return w.meeting < own.meetings;
    return w.epoch < own.clock[of];
}

/* A warp whose lanes read the word, or added to it, and of whom this thread does not know that they are done; or none. */
constexpr u32 NO_WARP = ~0u;
inline u32 lanes_behind(const Lanes *of) {
    u32 me = self().index, own = me / WARP;
    const Warp &mine = own_warp();
    for (u32 v = 0; v < block().warps.size(); v++) {
        bool late = v == own ? of[v].meeting >= mine.meetings : of[v].epoch >= mine.clock[v];
        if ((v == own ? of[v].lanes & ~(1u << me % WARP) : of[v].lanes) && late) return v;
    }
    return NO_WARP;
}
inline void lanes_mark(Lanes &l) {
    u32 me = self().index;
    const Warp &mine = own_warp();
    l = Lanes{mine.clock[me / WARP], mine.meetings,
              (l.meeting == mine.meetings ? l.lanes : 0) | 1u << me % WARP};
}

/* Marks a write of the whole or a part of a word; who reads or writes it elsewhere must be ordered before. */
inline void word_write(SharedBlock *m, size_t i, bool part, Site s) {
    u32 me = self().index, own = me / WARP, warps = (u32)block().warps.size();
    Word &w = m->words[i];
    Lanes *reads = &m->reads[i * warps];
    const Warp &mine = own_warp();
    if (w.products) fault(s, "race: writes over what a matrix unit reads; its product is not waited for");
    if (!part) {
        u32 behind = lanes_behind(reads);
        if (behind != NO_WARP)
            fault(s, "race: writes over what warp %u reads, with no barrier between", behind);
        std::fill(reads, reads + warps, Lanes());
    }
    w.epoch = mine.clock[own], w.meeting = mine.meetings, w.when = ++grid->now;
    w.writer = (u16)me, w.written = true, w.added = false, w.where = s;
}

inline void word_read(SharedBlock *m, size_t i, Site s) {
    if (!m->words[i].written) fault(s, "shared memory: byte %zu is read, nobody wrote it", 4 * i);
    lanes_mark(m->reads[i * block().warps.size() + self().index / WARP]);
}

/* Who touches a sum otherwise than by adding knows of all who added. */
inline void sums_settled(SharedBlock *m, size_t i, bool write, Site s) {
    Lanes *adds = &m->adds[i * block().warps.size()];
    u32 behind = lanes_behind(adds);
    if (behind != NO_WARP)
        fault(s, "race: %s what warp %u adds to, with no barrier between", write ? "writes over" : "reads",
              behind);
    if (write) std::fill(adds, adds + block().warps.size(), Lanes());
}

inline void shared_access(const void *p, size_t bytes, bool write, Site s) {
    SharedBlock *m = shared_of(p, bytes, s);
    size_t at = (size_t)((const u8 *)p - m->data), first = at / 4, last = (at + bytes - 1) / 4;
    bool part = bytes < 4; /* the halves of a word may belong to two threads */
    for (size_t i = first; i <= last; i++) {
        const Word &w = m->words[i];
        if (w.in_flight)
            fault(s, "shared memory: byte %zu is %s, the copy of line %d is still on its way", 4 * i,
                  write ? "written" : "read", w.where.line);
        if (!part && !ordered(w)) {
            if (w.writer == ENGINE)
                fault(s, "race: %s what a bulk copy of line %d brought; its mbarrier was not waited for",
                      write ? "writes over" : "reads", w.where.line);
            fault(s, "race: %s what thread %u wrote at line %d, with no barrier between",
                  write ? "writes over" : "reads", w.writer, w.where.line);
        }
        if (w.added) sums_settled(m, i, write, s);
        if (write)
            word_write(m, i, part, s);
        else
            word_read(m, i, s);
    }
}

/* Additions of several threads need no barrier between them, but one before and after. */
inline void shared_add(void *p, size_t bytes, Site s) {
    SharedBlock *m = shared_of(p, bytes, s);
    size_t first = (size_t)((const u8 *)p - m->data) / 4;
    m->adds.resize(m->reads.size());
    for (size_t i = first; i < first + bytes / 4; i++) {
        Word &w = m->words[i];
        if (!w.written) fault(s, "shared memory: byte %zu is added to, nobody wrote it", 4 * i);
        if (!w.added && !ordered(w))
            fault(s, "race: adds to what thread %u wrote at line %d, with no barrier between", w.writer,
                  w.where.line);
        word_write(m, i, false, s);
        w.added = true;
        lanes_mark(m->adds[i * block().warps.size() + self().index / WARP]);
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
        if (posix_memalign((void **)&m.data, 1024, m.bytes ? m.bytes : 1)) fault(s, "no memory");
        memset(m.data, 0xff, m.bytes);
        m.words.assign((m.bytes + 3) / 4, Word());
        m.reads.assign(m.words.size() * block().warps.size(), Lanes());
    }
    return shared<T>{(T *)m.data};
}
} // namespace host

#endif
