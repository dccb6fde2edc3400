/* kernels.c: how close the CPU kernels come to the machine's limits.
 *
 * The limits are measured first, on the same threads: fp32 multiply-adds in registers alone (GFLOP/s), and
 * reading memory (GB/s). Then each kernel's best time of several runs, its rate and its ratio to the limit.
 *
 *   bench-kernels [threads [level]]                                                                      */
#include "runtime/cpu/cpu.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define TARGET __attribute__((target("avx2,fma")))
#endif

typedef struct {
    Pool *pool;
    const CpuKernels *k;
    char *local, *shared;
    double gflops, gbytes;
} Bench;

typedef struct Job Job;
struct Job {
    Bench *b;
    void (*fn)(const Job *, const CpuWorker *);
    const void *args;
    uint32_t repeat;
    size_t bytes;
    volatile float sink[64];
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Memory as the weights of a session would have it: huge pages where the system grants them. */
static void *memory(size_t bytes) {
    size_t whole = (bytes + ((size_t)2 << 20) - 1) >> 21 << 21;
    void *p = aligned_alloc((size_t)2 << 20, whole);
    if (!p) {
        fprintf(stderr, "no memory\n");
        exit(1);
    }
    if (!getenv("SMALL_PAGES")) { madvise(p, whole, MADV_HUGEPAGE); }
    float *f = p;
    uint32_t s = 1;
    for (size_t i = 0; i < whole / 4; i++) {
        s = s * 1664525u + 1013904223u;
        f[i] = (float)(int32_t)s * 4.6e-10f;
    }
    return p;
}

static void on_worker(void *ctx, uint32_t index, uint32_t count) {
    Job *j = ctx;
    CpuWorker w = {index, count, j->b->pool, j->b->local + index * CPU_LOCAL_BYTES, j->b->shared};
    for (uint32_t i = 0; i < j->repeat; i++) {
        j->fn(j, &w);
        pool_barrier(j->b->pool);
    }
}

/* Seconds of one run: the best of many short batches, so that other load disturbs little. */
static double seconds(Bench *b, Job *j) {
    double best = 1e30;
    j->b = b;
    j->repeat = 1;
    double end = now() + 0.4;
    for (int batch = 0; batch < 10 || now() < end;) {
        double t = now();
        pool_run(b->pool, on_worker, j);
        t = now() - t;
        if (t < 0.001 && batch == 0) {
            j->repeat *= 2;
            continue;
        }
        batch++;
        best = t / j->repeat < best ? t / j->repeat : best;
    }
    return best;
}

/* ---- limits ---- */
enum { FMA_ROUNDS = 20000 };
#if defined(__x86_64__)
#define EACH_REGISTER(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
TARGET static void spin_fma(const Job *j, const CpuWorker *w) {
    __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f), sum = y;
#define MAKE(i) __m256 a##i = _mm256_set1_ps((float)i);
#define STEP(i) __asm__ volatile("vfmadd213ps %2, %1, %0" : "+x"(a##i) : "x"(x), "x"(y));
#define ADD(i) sum += a##i;
    EACH_REGISTER(MAKE)
    for (int n = 0; n < FMA_ROUNDS; n++) { EACH_REGISTER(STEP) }
    EACH_REGISTER(ADD)
    ((Job *)(uintptr_t)j)->sink[w->index] = _mm256_cvtss_f32(sum);
}
/* Four streams a thread and no prefetch instructions: the fastest of a dozen ways tried on Zen 3. */
TARGET static void read_all(const Job *j, const CpuWorker *w) {
    size_t quarter = j->bytes / w->count / 4 / 64 * 64;
    const char *p = (const char *)j->args + j->bytes / w->count * w->index;
    __m256 s[8];
    for (int i = 0; i < 8; i++) { s[i] = _mm256_setzero_ps(); }
    for (size_t n = 0; n < quarter; n += 64) {
#pragma GCC unroll 8
        for (size_t i = 0; i < 8; i++) {
            s[i] = _mm256_add_ps(
                s[i], _mm256_loadu_ps((const float *)(const void *)(p + i / 2 * quarter + n + i % 2 * 32)));
        }
    }
    for (int i = 1; i < 8; i++) { s[0] += s[i]; }
    ((Job *)(uintptr_t)j)->sink[w->index] = _mm256_cvtss_f32(s[0]);
}
static void limits(Bench *b, const void *big, size_t bytes) {
    Job f = {.fn = spin_fma}, r = {.fn = read_all, .args = big, .bytes = bytes};
    b->gflops = pool_workers(b->pool) * 12.0 * 16 * FMA_ROUNDS / seconds(b, &f) * 1e-9;
    b->gbytes = (double)bytes / seconds(b, &r) * 1e-9;
}
#else
static void limits(Bench *b, const void *big, size_t bytes) {
    (void)big, (void)bytes;
    b->gflops = b->gbytes = 1;
}
#endif

/* ---- kernels ---- */
static void run_linear(const Job *j, const CpuWorker *w) { j->b->k->linear(w, j->args); }
static void run_attention(const Job *j, const CpuWorker *w) { j->b->k->attention(w, j->args); }
static void run_norm(const Job *j, const CpuWorker *w) { j->b->k->norm(w, j->args); }
static void run_nothing(const Job *j, const CpuWorker *w) { (void)j, (void)w; }

/* What the weights of a product are stored as: a float type, or a GROUP16. */
typedef struct {
    const char *name;
    uint32_t dtype, flags, group;
} Stored;
static const Stored floats[] = {{"f32", ART_F32, 0, 0}, {"f16", ART_F16, 0, 0}, {"bf16", ART_BF16, 0, 0}};
/* clang-format off */
static const Stored groups[] = {
    {"q8g32",  ART_U8, ART_F16 | 128u << 16, 32},
    {"q8",     ART_U8, ART_F16 | 128u << 16, 3072},
    {"f8",     ART_F8E4M3FN, ART_F16 | (uint32_t)ART_GRID_F8 << 24, 3072},
    {"q6g64",  ART_U6, ART_U8 | 32u << 16, 64},
    {"q5g64",  ART_U5, ART_U8 | 16u << 16, 64},
    {"n5g64",  ART_U5, ART_U8 | (uint32_t)ART_GRID_INT8 << 24, 64},
    {"q4g32z", ART_U4, ART_U8 | ART_ZERO_BYTE << 8, 32},
    {"q4g32",  ART_U4, ART_U8 | 8u << 16, 32},
    {"q4g64",  ART_U4, ART_U8 | 8u << 16, 64},
    {"q4g128", ART_U4, ART_U8 | 8u << 16, 128},
    {"n4g64",  ART_U4, ART_U8 | (uint32_t)ART_GRID_INT8 << 24, 64},
    {"n4",     ART_U4, ART_F16 | (uint32_t)ART_GRID_INT8 << 24, 3072},
    {"n3g32",  ART_U3, ART_U8 | (uint32_t)ART_GRID_INT8 << 24, 32},
    {"n3g64",  ART_U3, ART_U8 | (uint32_t)ART_GRID_INT8 << 24, 64},
    {"n3g128", ART_U3, ART_U8 | (uint32_t)ART_GRID_INT8 << 24, 128},
    {"q2g32z", ART_U2, ART_U6 | ART_ZERO_HIGH << 8, 32},
    {"n2g32",  ART_U2, ART_U8 | (uint32_t)ART_GRID_INT8 << 24, 32},
    {"n2g64",  ART_U2, ART_U8 | (uint32_t)ART_GRID_INT8 << 24, 64},
    {"p8v2",   ART_U8, ART_F16 | (uint32_t)ART_GRID_PAIRS << 24, 3072},
    {"p8v4",   ART_U8, ART_F16 | (uint32_t)ART_GRID_QUADS << 24, 3072},
};
/* clang-format on */

static void linear_line(Bench *b, const void *weights, uint32_t rows, uint32_t k, uint32_t n, const Stored *s,
                        uint32_t act, bool round) {
    float *x = memory((size_t)rows * k * 4), *out = memory((size_t)rows * n * 4);
    uint32_t group = s->group < k ? s->group : k; /* all of a shorter row */
    ArtGroups g = group ? art_groups(s->dtype, s->flags, group) : (ArtGroups){0};
    ArtTensor t = {.dtype = s->dtype, .rank = 2, .flags = s->flags, .dim = {n, k}, .group = group};
    CpuLinear l = {.rows = rows,
                   .k = k,
                   .n = n,
                   .dtype = s->dtype,
                   .groups = {g.bits, group, g.scale, g.zeros, (float)g.zero, g.grid},
                   .act = act,
                   .round = round ? group : 0,
                   .x = x,
                   .w = weights,
                   .x_stride = k,
                   .out_stride = n,
                   .out = out};
    Job j = {.fn = run_linear, .args = &l};
    double all = (double)k * n, time = seconds(b, &j), flops = 2.0 * rows * all;
    double bytes = s->group ? (double)art_groups_bytes(&t) : all * (s->dtype == ART_F32 ? 4 : 2);
    printf("linear %4u x %5u x %5u %-6s%-5s %9.3f ms %7.1f GFLOP/s %5.1f %%  %6.2f GB/s %5.1f %%\n", rows, k,
           n, s->name,
           act     ? " gelu"
           : round ? " int8"
                   : "",
           time * 1e3, flops / time * 1e-9, flops / time * 1e-7 / b->gflops, bytes / time * 1e-9,
           bytes / time * 1e-7 / b->gbytes);
    free(x), free(out);
}

static void attention_line(Bench *b, uint32_t rows, uint32_t heads, uint32_t kv, uint32_t dim,
                           uint32_t tokens, uint32_t kept) {
    CpuState k = {NULL, kv, dim, tokens, 1, kept}, v = {NULL, kv, dim, tokens, 0, kept};
    k.data = memory(cpu_state_bytes(&k)), v.data = memory(cpu_state_bytes(&v));
    float *q = memory((size_t)rows * heads * dim * 4), *out = memory((size_t)rows * heads * dim * 4);
    int32_t *at = calloc(rows, sizeof *at), *seq = calloc(rows, sizeof *seq);
    double pairs = 0;
    for (uint32_t i = 0; i < rows; i++) {
        at[i] = (int32_t)(tokens - rows + i);
        pairs += at[i] + 1;
    }
    CpuAttention a = {.rows = rows,
                      .heads = heads,
                      .kv_heads = kv,
                      .dim = dim,
                      .vdim = dim,
                      .scale = 0.1f,
                      .q = q,
                      .q_stride = heads * dim,
                      .out_stride = heads * dim,
                      .positions = at,
                      .sequences = seq,
                      .k = k,
                      .v = v,
                      .out = out};
    Job j = {.fn = run_attention, .args = &a};
    double t = seconds(b, &j), flops = pairs * 4 * heads * dim,
           bytes = (double)(cpu_state_bytes(&k) + cpu_state_bytes(&v));
    printf("attention %4u rows %2u/%2u heads x %3u, %5u keys, %s %9.3f ms %7.1f GFLOP/s %5.1f %%  %6.2f GB/s "
           "%5.1f %%\n",
           rows, heads, kv, dim, tokens, kept == ART_STATE_F32 ? "fp32" : "int8", t * 1e3, flops / t * 1e-9,
           flops / t * 1e-7 / b->gflops, bytes / t * 1e-9, bytes / t * 1e-7 / b->gbytes);
    free(k.data), free(v.data), free(q), free(out), free(at), free(seq);
}

static void norm_line(Bench *b, uint32_t rows, uint32_t width) {
    float *x = memory((size_t)rows * width * 4), *out = memory((size_t)rows * width * 4);
    CpuNorm a = {.rows = rows,
                 .groups = 1,
                 .width = width,
                 .eps = 1e-5f,
                 .x = x,
                 .gamma = x,
                 .beta = x,
                 .x_stride = width,
                 .out_stride = width,
                 .out = out};
    Job j = {.fn = run_norm, .args = &a};
    double t = seconds(b, &j);
    printf("norm %4u x %5u %33.4f ms %43.2f GB/s\n", rows, width, t * 1e3, rows * width * 8.0 / t * 1e-9);
    free(x), free(out);
}

int main(int argc, char **argv) {
    uint32_t threads = argc > 1 ? (uint32_t)atoi(argv[1]) : 0;
    Bench b = {.pool = pool_new(threads), .k = cpu_select(argc > 2 ? atoi(argv[2]) : 0)};
    if (!b.pool || !b.k) {
        fprintf(stderr, "this machine lacks that level, or so many threads\n");
        return 3;
    }
    b.local = aligned_alloc(64, CPU_LOCAL_BYTES * pool_workers(b.pool));
    b.shared = memory((size_t)32 << 20);
    size_t bytes = (size_t)768 * 50272 * 4;
    void *w = memory(bytes + 65536);
    limits(&b, w, bytes);
    Job none = {.fn = run_nothing};
    printf("%s, %u threads: %.1f GFLOP/s in registers, reads %.2f GB/s, a barrier %.2f us\n", b.k->name,
           pool_workers(b.pool), b.gflops, b.gbytes, seconds(&b, &none) * 1e6);
    for (uint32_t rows = 1; rows <= 5; rows += rows == 2 ? 2 : 1) {
        linear_line(&b, w, rows, 768, 50257, &floats[0], 0, false);
    }
    linear_line(&b, w, 1, 3072, 12288, &floats[0], 0, false);
    linear_line(&b, w, 1, 768, 50257, &floats[1], 0, false);
    linear_line(&b, w, 1, 768, 50257, &floats[2], 0, false);
    linear_line(&b, w, 1, 768, 768, &floats[0], 0, false);
    linear_line(&b, w, 1, 768, 3072, &floats[0], ART_ACT_GELU_TANH, false);
    for (uint32_t rows = 8; rows <= 512; rows *= 2) {
        linear_line(&b, w, rows, 768, 768, &floats[0], 0, false);
    }
    linear_line(&b, w, 64, 768, 3072, &floats[0], 0, false);
    linear_line(&b, w, 256, 768, 3072, &floats[0], 0, false);
    linear_line(&b, w, 256, 768, 3072, &floats[0], ART_ACT_GELU_TANH, false);
    linear_line(&b, w, 256, 3072, 768, &floats[0], 0, false);
    linear_line(&b, w, 256, 1024, 1024, &floats[0], 0, false);
    linear_line(&b, w, 256, 2048, 8192, &floats[0], 0, false);
    linear_line(&b, w, 256, 768, 3072, &floats[1], 0, false);
    linear_line(&b, w, 256, 768, 3072, &floats[2], 0, false);
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        linear_line(&b, w, 1, 3072, 12288, &groups[i], 0, false);
        linear_line(&b, w, 1, 3072, 12288, &groups[i], 0, true);
        linear_line(&b, w, 1, 768, 3072, &groups[i], 0, false);
        linear_line(&b, w, 1, 768, 3072, &groups[i], 0, true);
        linear_line(&b, w, 128, 3072, 768, &groups[i], 0, false);
    }
    for (uint32_t kept = ART_STATE_F32; kept < ART_STATE_COUNT; kept++) {
        attention_line(&b, 1, 12, 12, 64, 1024, kept);
        attention_line(&b, 1, 32, 8, 128, 4096, kept);
        attention_line(&b, 1, 8, 1, 128, 16384, kept);
        attention_line(&b, 256, 12, 12, 64, 256, kept);
        attention_line(&b, 256, 12, 12, 64, 1024, kept);
        attention_line(&b, 256, 32, 8, 128, 1024, kept);
    }
    norm_line(&b, 1, 768);
    norm_line(&b, 256, 768);
    pool_free(b.pool);
    free(b.local), free(b.shared), free(w);
    return 0;
}
