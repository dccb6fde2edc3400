/* nvrtc.c: CUDA text to machine code (see nvrtc.h).
 *
 * NVRTC comes with a toolkit or as PyPI's nvidia-cuda-nvrtc; versions 12 and 13 have the calls used here. A
 * compile of one architecture is one call of some seconds, so architectures run in threads of their own. What
 * was compiled is kept in the cache under a hash of all that goes in: text, architecture, options, NVRTC's
 * version. */
#include "codegen/cuda/nvrtc.h"

#include <dlfcn.h>
#include <errno.h>
#include <glob.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

typedef struct NvrtcProgram NvrtcProgram;
typedef struct {
    void *library;
    int version; /* 13000 */
    int (*create)(NvrtcProgram **, const char *, const char *, int, const char *const *, const char *const *);
    int (*destroy)(NvrtcProgram **);
    int (*compile)(NvrtcProgram *, int, const char *const *);
    int (*log_size)(NvrtcProgram *, size_t *);
    int (*log)(NvrtcProgram *, char *);
    int (*cubin_size)(NvrtcProgram *, size_t *);
    int (*cubin)(NvrtcProgram *, char *);
    int (*ptx_size)(NvrtcProgram *, size_t *);
    int (*ptx)(NvrtcProgram *, char *);
    const char *(*error)(int);
} Nvrtc;

/* ---- finding the library ---- */
static void *open_matching(const char *pattern) {
    glob_t found;
    void *h = NULL;
    if (glob(pattern, 0, NULL, &found) == 0)
        for (size_t i = found.gl_pathc; i-- > 0 && !h;) h = dlopen(found.gl_pathv[i], RTLD_NOW | RTLD_LOCAL);
    globfree(&found);
    return h;
}

static void *library_open(const char *asked, Arena *a) {
    if (asked) return dlopen(asked, RTLD_NOW | RTLD_LOCAL);
    static const char *const names[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"};
    void *h = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !h; i++)
        h = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!h) h = open_matching("/usr/local/cuda*/lib64/libnvrtc.so.1[23]");
    const char *home = getenv("HOME"), *venv = getenv("VIRTUAL_ENV");
    const char *roots[] = {venv, home ? arena_printf(a, "%s/.local", home) : NULL, "/usr/local"};
    for (size_t i = 0; i < 3 && !h; i++)
        if (roots[i])
            h = open_matching(
                arena_printf(a, "%s/lib/python3*/*-packages/nvidia/c*/lib/libnvrtc.so.1[23]", roots[i]));
    return h;
}

/* A function pointer from dlsym, which gives an object pointer (POSIX says how). */
static bool symbol(void *library, const char *name, void *to) {
    void *p = dlsym(library, name);
    memcpy(to, &p, sizeof p);
    return p != NULL;
}

static bool nvrtc_open(Nvrtc *n, const NvrtcOptions *o, Arena *a, Diag *d) {
    int (*version)(int *, int *) = NULL, major = 0, minor = 0;
    memset(n, 0, sizeof *n);
    n->library = library_open(o->library, a);
    if (!n->library)
        return diag_error(
            d, loc_none(),
            "NVRTC, which compiles the CUDA kernels, was not found%s%s; hint: install the CUDA "
            "toolkit 12 or 13, or pip install nvidia-cuda-nvrtc and name its libnvrtc with --nvrtc",
            o->library ? ": " : "", o->library ? dlerror() : "");
    void *l = n->library;
    bool ok = symbol(l, "nvrtcVersion", &version) && symbol(l, "nvrtcCreateProgram", &n->create) &&
              symbol(l, "nvrtcDestroyProgram", &n->destroy) &&
              symbol(l, "nvrtcCompileProgram", &n->compile) &&
              symbol(l, "nvrtcGetProgramLogSize", &n->log_size) && symbol(l, "nvrtcGetProgramLog", &n->log) &&
              symbol(l, "nvrtcGetCUBINSize", &n->cubin_size) && symbol(l, "nvrtcGetCUBIN", &n->cubin) &&
              symbol(l, "nvrtcGetPTXSize", &n->ptx_size) && symbol(l, "nvrtcGetPTX", &n->ptx) &&
              symbol(l, "nvrtcGetErrorString", &n->error);
    if (ok && version(&major, &minor) == 0) n->version = major * 1000 + minor;
    if (n->version >= 12000) return true;
    dlclose(l);
    return diag_error(d, loc_none(), "NVRTC %d.%d is too old; hint: 12 or 13", major, minor);
}

/* ---- architectures ---- */
bool cuda_arch_parse(const char *s, size_t n, CudaArch *out) {
    *out = (CudaArch){0};
    size_t at = 0;
    if (n > 3 && !memcmp(s, "sm_", 3))
        at = 3;
    else if (n > 8 && !memcmp(s, "compute_", 8))
        at = 8, out->ptx = true;
    else
        return false;
    while (at < n && s[at] >= '0' && s[at] <= '9' && out->arch < 1000)
        out->arch = out->arch * 10 + (uint32_t)(s[at++] - '0');
    if (at < n && s[at] == 'a') out->specific = true, at++;
    return at == n && out->arch >= 80;
}

/* Machine code for 9.0 runs on no other chip, so it may as well use all of it (wgmma). */
static const char *arch_option(const CudaArch *c, Arena *a) {
    bool all = c->specific || (c->arch == 90 && !c->ptx);
    return arena_printf(a, "--gpu-architecture=%s_%u%s", c->ptx ? "compute" : "sm", c->arch, all ? "a" : "");
}

/* ---- one compile ---- */
static const char option_standard[] = "--std=c++17", option_verbose[] = "--ptxas-options=-v";

typedef struct {
    const Nvrtc *nvrtc;
    const CudaProgram *program;
    CudaArch arch;
    Arena *arena; /* its own: arenas are not shared by threads */
    int status;
    char *data, *log;
    size_t bytes;
    double seconds;
} Job;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *job_run(void *user) {
    Job *j = user;
    const Nvrtc *n = j->nvrtc;
    NvrtcProgram *p = NULL;
    const char *options[] = {arch_option(&j->arch, j->arena), option_standard, option_verbose};
    double start = now();
    size_t log = 0;
    j->status = n->create(&p, j->program->source.data, "model.cu", 0, NULL, NULL);
    if (j->status) return NULL;
    j->status = n->compile(p, j->arch.ptx ? 2 : 3, options);
    if (n->log_size(p, &log) == 0) {
        j->log = arena_array_of(j->arena, log + 1, char);
        n->log(p, j->log);
    }
    if (!j->status) j->status = (j->arch.ptx ? n->ptx_size : n->cubin_size)(p, &j->bytes);
    if (!j->status) {
        j->data = arena_array_of(j->arena, j->bytes + 1, char);
        j->status = (j->arch.ptx ? n->ptx : n->cubin)(p, j->data);
    }
    n->destroy(&p);
    j->seconds = now() - start;
    return NULL;
}

/* "model.cu(618): error: …" with the kernel that line 618 belongs to and what it runs. */
static bool text_error(const CudaProgram *c, const char *log, Arena *a, Diag *d) {
    const char *error = strstr(log, ": error");
    const char *line = error;
    while (line && line > log && line[-1] != '\n') line--;
    unsigned number = 0;
    if (!line || sscanf(line, "model.cu(%u)", &number) != 1)
        return diag_bug(d, loc_none(), "NVRTC refuses the emitted CUDA: %.300s", log);
    const char *at = c->source.data, *kernel = NULL;
    for (unsigned i = 1; at && i <= number; i++) {
        if (!strncmp(at, "KERNEL(", 7) || !strncmp(at, "/* ", 3)) kernel = at;
        at = strchr(at, '\n');
        at = at ? at + 1 : NULL;
    }
    size_t n = kernel ? strcspn(kernel, "\n") : 0, m = strcspn(line, "\n");
    return diag_bug(d, loc_none(), "NVRTC refuses the emitted CUDA: %s; in: %s",
                    arena_strndup(a, line, m < 200 ? m : 200),
                    n ? arena_strndup(a, kernel, n < 160 ? n : 160) : "the prelude");
}

/* ---- cache: HASH.bin = data bytes (8), data, log ---- */
static const char *cache_path(const CudaProgram *c, const CudaArch *arch, const Nvrtc *n, const char *folder,
                              Arena *a) {
    uint64_t key = hash_bytes(c->source.data, c->source.count, (uint64_t)n->version);
    const char *option = arena_printf(a, "%s %s %s", arch_option(arch, a), option_standard, option_verbose);
    return arena_printf(a, "%s/%016llx.bin", folder,
                        (unsigned long long)hash_bytes(option, strlen(option), key));
}

static const char *cache_folder(const NvrtcOptions *o, Arena *a) {
    if (o->cache) return *o->cache ? o->cache : NULL;
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (!base || !*base) base = home ? arena_printf(a, "%s/.cache", home) : NULL;
    if (!base) return NULL;
    mkdir(base, 0777);
    return arena_printf(a, "%s/gptc", base);
}

static bool cache_read(const char *path, Arena *a, CudaImage *out) {
    Diag quiet;
    FileView f;
    uint64_t bytes;
    diag_init(&quiet);
    bool ok = file_map(path, &f, &quiet);
    diag_free(&quiet);
    if (!ok) return false;
    ok = f.bytes >= 8;
    if (ok) memcpy(&bytes, f.data, 8);
    ok = ok && bytes > 0 && bytes <= f.bytes - 8;
    if (ok) {
        char *copy = arena_array_of(a, f.bytes - 8 + 1, char);
        memcpy(copy, f.data + 8, f.bytes - 8);
        copy[f.bytes - 8] = 0;
        *out = (CudaImage){
            .arch = out->arch, .data = copy, .bytes = (size_t)bytes, .cached = true, .log = copy + bytes};
    }
    file_unmap(&f);
    return ok;
}

/* A cache that cannot be written is no error. */
static void cache_write(const char *path, const CudaImage *image) {
    Diag quiet;
    diag_init(&quiet);
    FileWriter *w = file_create(path, &quiet);
    uint64_t bytes = image->bytes;
    if (w) {
        file_write(w, &bytes, 8);
        file_write(w, image->data, image->bytes);
        file_write(w, image->log, strlen(image->log));
        file_commit(w, &quiet);
    }
    diag_free(&quiet);
}

/* ---- all of them ---- */
enum { MOST_ARCHS = 16 };

static void progress_tell(const NvrtcOptions *o, const char *option, uint32_t done, uint32_t of) {
    const char *arch = option ? strchr(option, '=') : NULL;
    if (o->progress) o->progress(o->user, arch ? arch + 1 : NULL, done, of);
}

static bool job_take(Job *j, const CudaProgram *c, const Nvrtc *n, Arena *a, CudaImage *out, Diag *d) {
    if (j->status && j->log && strstr(j->log, ": error")) return text_error(c, j->log, a, d);
    if (j->status)
        return diag_error(d, loc_none(), "NVRTC %d.%d, %s: %s%s%.200s; hint: another --target",
                          n->version / 1000, n->version % 1000, arch_option(&j->arch, a), n->error(j->status),
                          j->log && *j->log ? ": " : "", j->log ? j->log : "");
    char *data = arena_array_of(a, j->bytes + 1, char);
    memcpy(data, j->data, j->bytes);
    *out =
        (CudaImage){j->arch, data, j->bytes, false, j->seconds, arena_printf(a, "%s", j->log ? j->log : "")};
    return true;
}

bool nvrtc_compile(const CudaProgram *c, const CudaArch *arch, uint32_t count, const NvrtcOptions *o,
                   Arena *a, CudaImage *out, Diag *d) {
    Nvrtc n;
    Job job[MOST_ARCHS];
    pthread_t thread[MOST_ARCHS];
    const char *path[MOST_ARCHS] = {NULL}, *folder = cache_folder(o, a);
    bool begun[MOST_ARCHS] = {false}, ok = true;
    if (count > MOST_ARCHS) return diag_error(d, loc_none(), "more than %d CUDA architectures", MOST_ARCHS);
    if (!nvrtc_open(&n, o, a, d)) return false;
    if (folder && mkdir(folder, 0777) != 0 && errno != EEXIST) folder = NULL;
    for (uint32_t i = 0; i < count; i++) {
        out[i] = (CudaImage){.arch = arch[i]};
        if (folder) path[i] = cache_path(c, &arch[i], &n, folder, a);
        if (folder && cache_read(path[i], a, &out[i])) continue;
        job[i] = (Job){.nvrtc = &n, .program = c, .arch = arch[i], .arena = arena_new()};
        begun[i] = pthread_create(&thread[i], NULL, job_run, &job[i]) == 0;
        if (!begun[i]) ok = diag_error(d, loc_none(), "no thread for NVRTC");
    }
    progress_tell(o, NULL, 0, count);
    for (uint32_t i = 0; i < count; i++) {
        if (begun[i]) {
            pthread_join(thread[i], NULL);
            ok = ok && job_take(&job[i], c, &n, a, &out[i], d);
            if (ok && folder) cache_write(path[i], &out[i]);
            arena_free(job[i].arena);
        }
        progress_tell(o, arch_option(&arch[i], a), i + 1, count);
    }
    dlclose(n.library);
    return ok;
}

/* ptxas -v: "Compiling entry function 'NAME' …", then lines with "N bytes spill stores", "Used N registers", "N bytes smem". */
bool nvrtc_usage(const char *log, const char *function, ArtCudaFunction *out) {
    char entry[300];
    unsigned long spills = 0, registers = 0;
    snprintf(entry, sizeof entry, "Compiling entry function '%s'", function);
    const char *at = strstr(log, entry);
    if (!at) return false;
    const char *next = strstr(at + 1, "Compiling entry function"), *used = strstr(at, "Used "),
               *spill = strstr(at, " bytes spill stores");
    if (!used || (next && used > next)) return false;
    registers = strtoul(used + 5, NULL, 10);
    if (spill && spill < used) {
        while (spill > at && spill[-1] >= '0' && spill[-1] <= '9') spill--;
        spills = strtoul(spill, NULL, 10);
    }
    const char *end = used + strcspn(used, "\n"), *smem = strstr(used, " bytes smem");
    out->shared_bytes = 0;
    if (smem && smem < end) {
        while (smem > used && smem[-1] >= '0' && smem[-1] <= '9') smem--;
        out->shared_bytes = (uint32_t)strtoul(smem, NULL, 10);
    }
    out->registers = (uint32_t)registers;
    out->spill_bytes = (uint32_t)spills;
    return true;
}
