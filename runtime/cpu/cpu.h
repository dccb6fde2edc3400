/* cpu.h: the CPU kernels, one table of functions per instruction set.
 *
 * Every kernel is called by all workers of a pool with equal arguments and does its worker's share; its
 * result is complete after the next pool_barrier, which the caller makes:
 *
 *   kernels->norm(&worker, &norm_args);      pool_barrier(worker.pool);
 *   kernels->linear(&worker, &linear_args);  pool_barrier(worker.pool);
 *
 * A kernel may make barriers of its own, and none may follow another without a barrier between, even if
 * they touch different buffers (they share scratch and the ticket counter). But gather, norm, rope, store,
 * move, pointwise, reduce, softmax, topk and pick use neither pool nor shared scratch: one worker may run several in a
 * row alone, with index 0 and count 1. Results do not depend on the number of workers. rows may be 0:
 * nothing is done.
 *
 * Activations are rows of floats; a stride is the number of floats from one row to the next (0 repeats one
 * row). Pointers need the alignment of float only; 64 bytes is fastest. Arguments are trusted: the loader
 * has checked shapes, ids and positions. Nothing is allocated and nothing fails. */
#ifndef RUNTIME_CPU_H
#define RUNTIME_CPU_H

#include "runtime/artifact.h"
#include "runtime/threads.h"

#include <stddef.h>
#include <stdint.h>

/* What a kernel knows of the worker that runs it. The caller makes one per worker. */
typedef struct {
    uint32_t index, count;
    Pool *pool;
    void *local;  /* CPU_LOCAL_BYTES of the worker's own, 64-byte aligned */
    void *shared; /* one for all workers, 64-byte aligned: the largest of cpu_linear_shared
                                   and cpu_attention_shared over the program's steps */
} CpuWorker;
#define CPU_LOCAL_BYTES ((size_t)512 << 10)
#define CPU_ROUNDED_KEYS 65536 /* positions that attention with rounding takes */
#define CPU_MAX_HEAD 1024      /* largest dim and vdim that attention takes */

/* How compressed weights are stored (ART_GROUP16); bits 0: they are plain floats. */
typedef struct {
    uint32_t bits, group, scale /* dtype, or ART_U8, ART_U6: codes */, zeros /* ART_ZERO_ */;
    float zero;    /* of all, with ART_ZERO_SAME */
    uint32_t grid; /* ART_GRID_ */
} CpuGroups;

/* out[rows][width] = table[ids[row]]. table: ART_F32/F16/BF16, ART_PLAIN [n][width] or
 * ART_PANEL16 [n/16][width][16], or ART_GROUP16. */
typedef struct {
    uint32_t rows, width, dtype, layout;
    const void *table;
    const int32_t *ids; /* one a row, each < n */
    float *out;
    size_t out_stride;
    CpuGroups groups; /* of an ART_GROUP16 */
} CpuGather;

/* Each of groups x width floats of a row: (x - mean) / sqrt(var + eps) * gamma + beta, or with rms
 * x / sqrt(mean(x^2) + eps) * gamma + beta. out may be x. */
typedef struct {
    uint32_t rows, groups, width, rms;
    float eps;
    const float *x, *gamma, *beta;    /* gamma, beta: width floats or NULL */
    size_t gamma_stride, beta_stride; /* floats from one group's to the next's; 0 = the same for all */
    size_t x_stride, out_stride;
    float *out;
} CpuNorm;

/* out[rows][n] = act(x[rows][k] w + bias) * gate + residual. w: ART_F32/F16/BF16 in PANEL16,
 * [ceil(n/16)][k][16], or GROUP16. out may be gate or residual (same stride), never x. */
typedef struct {
    uint32_t rows, k, n, act, dtype;
    uint32_t
        round; /* x is rounded first, so many columns together to 255 steps of their largest / 127; 0 = off */
    CpuGroups groups;
    const float *x;
    const void *w;
    const float *bias, *gate, *residual; /* each may be NULL; bias: n floats */
    size_t x_stride, gate_stride, residual_stride, out_stride;
    float *out;
} CpuLinear;

/* Rotates the first `rotated` floats of each of heads x dim, copies the rest. cos, sin: row = position,
 * rotated/2 columns. Pairs are (i, i + rotated/2), or interleaved (2i, 2i + 1). out may be x. */
typedef struct {
    uint32_t rows, heads, dim, rotated, interleaved;
    const float *cos, *sin, *x;
    const int32_t *positions; /* one a row */
    size_t x_stride, out_stride;
    float *out;
} CpuRope;

/* The cache of one state. A sequence's part is cpu_state_bytes long, 64-byte aligned and first zeroed;
 * part s starts at data + s * cpu_state_bytes. Inner order is the kernels' affair, so copy and keep it
 * whole; positions past a sequence's length are never read as data.
 * by_key: states that some attention reads as keys are kept transposed in tiles of 16 positions. A state
 * that some attention reads as values must have by_key = 0 (also when it is read as keys elsewhere). */
typedef struct {
    void *data;
    uint32_t heads, dim;
    uint32_t capacity; /* positions of one sequence */
    uint32_t by_key;
    uint32_t kept; /* ART_STATE_ */
} CpuState;
size_t cpu_state_bytes(const CpuState *s);

/* Writes each row's heads x dim floats at its position of its sequence. */
typedef struct {
    uint32_t rows;
    const float *x;
    size_t x_stride;
    const int32_t *positions, *sequences;
    CpuState state;
} CpuStore;

/* q: heads x dim floats a row; out: heads x vdim. Head h reads keys and values of head
 * h / (heads / kv_heads), positions 0..positions[row] of its row's sequence (window W: only the last W).
 * score = q.k * scale, softcap * tanh(score / softcap) if softcap != 0, + slopes[h] * (key - position);
 * a sink adds exp(sinks[h]) to the softmax's denominator. Fastest when rows of one sequence stand together
 * with rising positions. The rows' own keys and values are stored already. out may be q if vdim = dim. */
typedef struct {
    uint32_t rows, heads, kv_heads, dim, vdim, window;
    float scale, softcap;
    const float *q, *slopes, *sinks; /* slopes, sinks: heads floats or NULL */
    const float (*rounding)[3];      /* of scaled scores and weights: step, low, high; NULL or step 0 = off */
    size_t q_stride, out_stride;
    const int32_t *positions, *sequences;
    CpuState k, v;
    float *out;
} CpuAttention;

/* Runs a program of ArtInsn (it has been checked: registers < ART_REGISTERS, inputs < 6, one STORE at the
 * end). out may be an input that is only loaded with div = 1 and mod >= width, same stride. */
typedef struct {
    const float *data;   /* floats of a row, or NULL: */
    const int32_t *ints; /* one number a row (tokens, positions), loaded as float */
    size_t stride;
} CpuInput;
typedef struct {
    uint32_t rows, width, count;
    const ArtInsn *insns;
    CpuInput in[6];
    size_t out_stride;
    float *out;
} CpuPointwise;

/* A row is outer x len x inner. reduce: out is outer x inner (out may not be x); softmax: over len, out
 * may be x. */
typedef struct {
    uint32_t rows, op, outer, len, inner;
    const float *x;
    size_t x_stride, out_stride;
    float *out;
} CpuReduce;

/* Of each of outer x len floats the places of the count largest (or smallest), the first of equals first. */
typedef struct {
    uint32_t rows, outer, len, count, smallest;
    const float *x;
    size_t x_stride, out_stride;
    float *out; /* not x */
} CpuTopk;

/* out[o][c] = x[o][index[o][c]], inner floats each; a step of 0 repeats x for every o, a stride of 0 for every
 * row. What an index of no place picks is 0. */
typedef struct {
    uint32_t rows, outer, len, inner, count;
    const float *x, *index;
    size_t x_stride, x_step, index_stride, out_stride;
    float *out; /* neither */
} CpuPick;

/* out[slot][n] = act(x w[e] + bias[e]) * gate[slot] with e = index[slot], for each row's slots: x is k floats, or
 * with x_step slots x k. w: experts x [ceil(n/16)][k][16], or GROUP16 of experts x n rows, n a multiple of 16. A slot
 * whose index is no expert gives 0. out may be gate, never x or index. */
typedef struct {
    uint32_t rows, experts, slots, k, n, act, dtype;
    CpuGroups groups;
    const float *x, *index, *bias, *gate; /* bias, gate: may be NULL */
    const void *w;
    size_t x_stride, x_step, index_stride, gate_stride, out_stride;
    float *out;
} CpuRouted;

typedef struct {
    uint32_t rows;
    ArtMove move; /* strides and offsets in floats */
    const float *x;
    size_t x_stride, out_stride;
    float *out; /* not x */
} CpuMove;

/* c[m][n] = a[m][k] b[k][n], row-major with leading dimensions; b: ART_F32/F16/BF16. m at most
 * CPU_PRODUCT_ROWS, k at least 1. One worker computes it alone, index and count unused. */
#define CPU_PRODUCT_ROWS 240
typedef struct {
    uint32_t dtype;
    size_t m, n, k, lda, ldb, ldc;
    const float *a;
    const void *b;
    float *c;
} CpuProduct;

typedef struct {
    const char *name; /* "portable", "avx2", "avx512", "avx512-vnni" */
    void (*gather)(const CpuWorker *w, const CpuGather *a);
    void (*norm)(const CpuWorker *w, const CpuNorm *a);
    void (*linear)(const CpuWorker *w, const CpuLinear *a);
    void (*rope)(const CpuWorker *w, const CpuRope *a);
    void (*store)(const CpuWorker *w, const CpuStore *a);
    void (*attention)(const CpuWorker *w, const CpuAttention *a);
    void (*pointwise)(const CpuWorker *w, const CpuPointwise *a);
    void (*reduce)(const CpuWorker *w, const CpuReduce *a);
    void (*softmax)(const CpuWorker *w, const CpuReduce *a);
    void (*move)(const CpuWorker *w, const CpuMove *a);
    void (*topk)(const CpuWorker *w, const CpuTopk *a);
    void (*pick)(const CpuWorker *w, const CpuPick *a);
    void (*routed)(const CpuWorker *w, const CpuRouted *a);
    void (*product)(const CpuWorker *w, const CpuProduct *a);
    /* d[i] = op(a[i], b[i], c[i]) of one instruction that computes, for count floats, a multiple of 16; d may
     * be an operand, and operands the op does not have must still be readable. */
    void (*tile)(const ArtInsn *n, size_t count, const float *a, const float *b, const float *c, float *d);
} CpuKernels;

/* level: 0 = the best this machine has, 1 = portable, 2 = AVX2, 3 = AVX-512, 4 = with VNNI
 * (gptc_open_options.cpu_level). NULL: the machine or the build lacks it, or there is no such level. */
const CpuKernels *cpu_select(int level);

/* Bytes of shared scratch a step may need: linear of at most rows x k; routed and
 * attention of at most rows. */
size_t cpu_linear_shared(uint32_t rows, uint32_t k);
size_t cpu_routed_shared(uint32_t rows, uint32_t slots, uint32_t experts);
size_t cpu_attention_shared(uint32_t rows, uint32_t heads, uint32_t vdim, uint32_t capacity);

#endif
