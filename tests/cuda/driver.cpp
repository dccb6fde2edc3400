/* driver.cpp: a CUDA driver without a GPU, to be opened in libcuda.so.1's place (--device cuda:LIB).
 *
 * With GPTC_EMITTED, the text that gptc --emit=cuda wrote, and GPTC_TABLE, a line HOST_KERNEL(name) for each of
 * its kernels, launches run the kernels on the CPU, checked by prelude_host.h. Without, it is a null driver: it
 * takes the calls, checks their order and every pointer, and runs nothing.
 *
 * What is wrong is printed and returned as an error (719, launch failed). With the variable GPTC_TRACE, a file,
 * every launch is written there: kernel, grid, and where in which allocation its arguments point; and of downloads the
 * bytes. */
#include "codegen/cuda/kernels/prelude_host.h"

#include <tuple>
#include <utility>

#ifdef GPTC_EMITTED
#include GPTC_EMITTED
#endif

extern "C" {
#include "runtime/cuda/driver.h"
}

namespace {

enum { OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, LAUNCH_FAILED = 719 };

template <class T> struct Argument {
    static_assert(sizeof(T) == sizeof(u32), "a launch copies so much of what is no pointer");
    static const bool pointer = false;
    static T get(void *slot) { return *(T *)slot; }
};
template <class T> struct Argument<global<T>> {
    static const bool pointer = true;
    static global<T> get(void *slot) { return global<T>(*(T **)slot); }
};

struct Kernel {
    std::string name;
    std::vector<bool> pointers;
    std::function<void(void **)> run;
    size_t most_shared = 48 << 10; /* at the launch */
};

template <class... A, size_t... i> Kernel wrap(const char *name, void (*f)(A...), std::index_sequence<i...>) {
    return Kernel{name, {Argument<A>::pointer...}, [f](void **slots) {
                      (void)slots;
                      f(Argument<A>::get(slots[i])...);
                  }};
}
template <class... A> Kernel wrap(const char *name, void (*f)(A...)) {
    return wrap(name, f, std::make_index_sequence<sizeof...(A)>());
}

std::vector<Kernel> &kernels() {
    static std::vector<Kernel> all = {
#ifdef GPTC_TABLE
#define HOST_KERNEL(name) wrap(#name, name),
#include GPTC_TABLE
#endif
    };
    return all;
}

struct Launch {
    size_t kernel;
    CuLaunch config;
    std::vector<uint64_t> slots;
    bool together; /* all blocks at once */
};
struct Stream {
    bool capturing = false;
    std::vector<Launch> captured;
};
struct Graph {
    std::vector<Launch> launches;
};

size_t total = (size_t)8 << 30, used;
std::map<CuPointer, size_t> allocations;
std::map<void *, size_t> host_memory; /* that kernels see too */
bool initialised, current;

/* Of the chip: blocks of a cooperative launch. */
u32 sms() {
    const char *n = getenv("GPTC_SMS");
    return n ? (u32)atoi(n) : 3;
}

int fail(const char *call, const char *what) {
    fprintf(stderr, "driver: %s: %s\n", call, what);
    return INVALID;
}

bool inside(CuPointer p, size_t bytes) {
    auto it = allocations.upper_bound(p);
    if (it == allocations.begin()) return false;
    --it;
    return p - it->first <= it->second && bytes <= it->second - (p - it->first);
}

FILE *trace_open() {
    const char *path = getenv("GPTC_TRACE");
    return path ? fopen(path, "a") : nullptr;
}
void trace(const Launch &l) {
    FILE *f = trace_open();
    if (!f) return;
    const Kernel &k = kernels()[l.kernel];
    fprintf(f, "%s <<<%u x %u, %u>>>", k.name.c_str(), l.config.grid[0], l.config.grid[1], l.config.block[0]);
    for (size_t i = 0; i < l.slots.size(); i++) {
        auto it = allocations.upper_bound(l.slots[i]);
        if (!k.pointers[i])
            fprintf(f, " %u", (unsigned)l.slots[i]);
        else if (!l.slots[i] || it == allocations.begin())
            fprintf(f, " null");
        else
            fprintf(f, " +%llu", (unsigned long long)(l.slots[i] - (--it)->first));
    }
    fputc('\n', f);
    fclose(f);
}

int run(const Launch &l) {
    const Kernel &k = kernels()[l.kernel];
    trace(l);
    if (!l.config.grid[0] || !l.config.grid[1] || l.config.grid[1] > 65535 || l.config.block[0] > 1024)
        return fail(k.name.c_str(), "a grid that is not possible");
    if (l.config.shared_bytes > k.most_shared) return fail(k.name.c_str(), "more shared memory than was asked for");
    for (size_t i = 0; i < l.slots.size(); i++)
        if (k.pointers[i] && l.slots[i] && !inside(l.slots[i], 1) && !host_memory.count((void *)l.slots[i]))
            return fail(k.name.c_str(), "an argument points nowhere");
    if (!k.run) return OK;
    std::vector<void *> slots;
    for (const uint64_t &s : l.slots) slots.push_back((void *)&s);
    if (l.together && l.config.grid[0] * l.config.grid[1] > sms()) return fail(k.name.c_str(), "more blocks than can run at once");
    std::string fault = host::launch(l.config.grid[0], l.config.grid[1], l.config.block[0], l.config.shared_bytes,
                                     l.together ? l.config.grid[0] * l.config.grid[1] : 1,
                                     [&] { k.run(slots.data()); });
    if (fault.empty()) return OK;
    fprintf(stderr, "driver: %s: %s\n", k.name.c_str(), fault.c_str());
    return LAUNCH_FAILED;
}

} // namespace

#define API extern "C" __attribute__((visibility("default"))) CuResult

API cuInit(unsigned) {
    initialised = true;
    return OK;
}
API cuDriverGetVersion(int *v) {
    *v = 13000;
    return OK;
}
API cuGetErrorString(CuResult r, const char **text) {
    *text = r == OUT_OF_MEMORY ? "out of memory" : r == LAUNCH_FAILED ? "launch failed" : r ? "invalid value" : "no error";
    return OK;
}
API cuDeviceGetCount(int *n) {
    *n = initialised;
    return OK;
}
API cuDeviceGet(CuDevice *d, int i) {
    *d = 0;
    return i ? INVALID : OK;
}
API cuDeviceGetName(char *name, int n, CuDevice) {
    snprintf(name, (size_t)n, "a CPU in a GPU's place");
    return OK;
}
API cuDeviceGetAttribute(int *v, int which, CuDevice) {
    const char *arch = getenv("GPTC_ARCH"); /* 90 */
    int chip = arch ? atoi(arch) : 90;
    switch (which) {
    case CU_MAJOR: *v = chip / 10; break;
    case CU_MINOR: *v = chip % 10; break;
    case CU_SMS: *v = (int)sms(); break;
    case CU_COOPERATIVE: *v = 1; break;
    case CU_SHARED_BYTES: *v = 227 << 10; break;
    default: *v = 0;
    }
    return OK;
}
API cuDevicePrimaryCtxRetain(CuContext *c, CuDevice) {
    *c = (CuContext)&current;
    return OK;
}
API cuDevicePrimaryCtxRelease_v2(CuDevice) {
    if (!allocations.empty()) return fail("cuDevicePrimaryCtxRelease", "memory was not given back");
    return OK;
}
API cuCtxSetCurrent(CuContext c) {
    current = c != nullptr;
    return OK;
}
API cuMemGetInfo_v2(size_t *have, size_t *all) {
    const char *mb = getenv("GPTC_MEMORY_MB");
    *all = mb ? (size_t)atoll(mb) << 20 : total;
    *have = *all > used ? *all - used : 0;
    return OK;
}
API cuMemAlloc_v2(CuPointer *p, size_t bytes) {
    void *m = nullptr;
    if (!current) return fail("cuMemAlloc", "no context is current");
    if (posix_memalign(&m, 256, bytes)) return OUT_OF_MEMORY;
    memset(m, 0xa5, bytes); /* memory of a GPU is not zeroed */
    *p = (CuPointer)m;
    used += bytes;
    allocations[*p] = bytes;
    host::region_add(m, bytes, "device memory");
    return OK;
}
API cuMemFree_v2(CuPointer p) {
    if (!allocations.count(p)) return fail("cuMemFree", "not an allocation");
    used -= allocations[p];
    host::regions().erase((const u8 *)p);
    allocations.erase(p);
    free((void *)p);
    return OK;
}
API cuMemsetD8Async(CuPointer p, unsigned char v, size_t n, CuStream) {
    if (!inside(p, n)) return fail("cuMemsetD8Async", "outside of the allocation");
    memset((void *)p, v, n);
    return OK;
}
API cuMemcpyHtoDAsync_v2(CuPointer to, const void *from, size_t n, CuStream) {
    if (!inside(to, n)) return fail("cuMemcpyHtoDAsync", "outside of the allocation");
    memcpy((void *)to, from, n);
    return OK;
}
API cuMemcpyDtoHAsync_v2(void *to, CuPointer from, size_t n, CuStream) {
    if (!inside(from, n)) return fail("cuMemcpyDtoHAsync", "outside of the allocation");
    if (FILE *f = trace_open()) {
        fprintf(f, "download %zu\n", n);
        fclose(f);
    }
    memcpy(to, (const void *)from, n);
    return OK;
}
API cuMemcpyDtoDAsync_v2(CuPointer to, CuPointer from, size_t n, CuStream s) {
    if (!inside(from, n) || !inside(to, n)) return fail("cuMemcpyDtoDAsync", "outside of the allocation");
    if (to < from + n && from < to + n) return fail("cuMemcpyDtoDAsync", "source and destination overlap");
    if (s && ((Stream *)s)->capturing) return fail("cuMemcpyDtoDAsync", "copies are not captured here");
    memcpy((void *)to, (const void *)from, n);
    return OK;
}
API cuStreamCreate(CuStream *s, unsigned) {
    *s = (CuStream) new Stream();
    return OK;
}
API cuStreamSynchronize(CuStream s) {
    if (s && ((Stream *)s)->capturing) return fail("cuStreamSynchronize", "the stream is being captured");
    return OK;
}
API cuStreamDestroy_v2(CuStream s) {
    delete (Stream *)s;
    return OK;
}
API cuStreamQuery(CuStream) { return OK; }
API cuMemHostAlloc(void **p, size_t bytes, unsigned) {
    if (posix_memalign(p, 256, bytes)) return OUT_OF_MEMORY;
    host_memory[*p] = bytes;
    host::region_add(*p, bytes, "host memory");
    return OK;
}
API cuMemFreeHost(void *p) {
    if (!host_memory.count(p)) return fail("cuMemFreeHost", "not an allocation");
    host::regions().erase((const u8 *)p);
    host_memory.erase(p);
    free(p);
    return OK;
}
API cuMemHostGetDevicePointer_v2(CuPointer *there, void *p, unsigned) {
    if (!host_memory.count(p)) return fail("cuMemHostGetDevicePointer", "not an allocation");
    *there = (CuPointer)p;
    return OK;
}
API cuModuleLoadData(CuModule *m, const void *image) {
    *m = (CuModule)image;
    return memcmp(image, "\177ELF", 4) ? fail("cuModuleLoadData", "not an image") : OK;
}
API cuModuleUnload(CuModule) { return OK; }
#ifndef GPTC_TABLE
/* The parameters of a kernel, from the text that tests/cuda/nvrtc.c gives for code. */
static bool read_parameters(const char *image, const char *name, std::vector<Kernel> &all) {
    std::string text(image), start = std::string(") ") + name + "(";
    size_t at = text.find(start);
    if (at == std::string::npos) return false;
    Kernel k = {name, {}, nullptr};
    at += start.size();
    for (size_t end = text.find(") {", at); at < end; at = text.find(", ", at) == std::string::npos ? end : text.find(", ", at) + 2)
        if (at < end) k.pointers.push_back(!text.compare(at, 7, "global<"));
    all.push_back(k);
    return true;
}
#endif
API cuModuleGetFunction(CuFunction *f, CuModule m, const char *name) {
    (void)m;
    std::vector<Kernel> &all = kernels();
    for (size_t i = 0; i < all.size(); i++)
        if (all[i].name == name) {
            *f = (CuFunction)(i + 1);
            return OK;
        }
#ifdef GPTC_TABLE
    return NOT_FOUND;
#else
    return read_parameters((const char *)m, name, all) ? (*f = (CuFunction)all.size(), OK) : (int)NOT_FOUND;
#endif
}
API cuFuncSetAttribute(CuFunction f, int which, int value) {
    if (which != CU_MOST_SHARED || value > 227 << 10) return fail("cuFuncSetAttribute", "more than 227 KB of shared memory");
    kernels()[(size_t)f - 1].most_shared = (size_t)value;
    return OK;
}
API cuLaunchKernelEx(const CuLaunch *c, CuFunction f, void **slots, void **) {
    Launch l = {(size_t)f - 1, *c, {}, false};
    for (u32 i = 0; i < c->n_attributes; i++) l.together |= c->attributes[i].id == CU_ATTRIBUTE_COOPERATIVE;
    if (!current) return fail("cuLaunchKernelEx", "no context is current");
    const std::vector<bool> &pointers = kernels()[l.kernel].pointers;
    for (size_t i = 0; i < pointers.size(); i++) {
        l.slots.push_back(0);
        memcpy(&l.slots.back(), slots[i], pointers[i] ? sizeof(CuPointer) : sizeof(u32));
    }
    Stream *s = (Stream *)c->stream;
    if (!s || !s->capturing) return run(l);
    s->captured.push_back(l);
    return OK;
}
API cuStreamBeginCapture_v2(CuStream s, int) {
    ((Stream *)s)->capturing = true;
    ((Stream *)s)->captured.clear();
    return OK;
}
API cuStreamEndCapture(CuStream s, CuGraph *g) {
    ((Stream *)s)->capturing = false;
    *g = (CuGraph) new Graph{((Stream *)s)->captured};
    return OK;
}
API cuGraphInstantiateWithFlags(CuGraphExec *e, CuGraph g, unsigned long long) {
    *e = (CuGraphExec) new Graph(*(Graph *)g);
    return OK;
}
API cuGraphLaunch(CuGraphExec e, CuStream) {
    for (const Launch &l : ((Graph *)e)->launches) {
        int r = run(l);
        if (r) return r;
    }
    return OK;
}
API cuGraphExecDestroy(CuGraphExec e) {
    delete (Graph *)e;
    return OK;
}
API cuGraphDestroy(CuGraph g) {
    delete (Graph *)g;
    return OK;
}
