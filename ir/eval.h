/* eval.h: private to eval*.c, the reference interpreter.
 *
 * eval.c walks the graph and hands each op's function (eval_NAME, named in ops.def) an EvalCtx with
 * its operands and its allocated, not yet filled results. Operand data may be unaligned (constants
 * are borrowed from mapped files): it is read through the load functions or memcpy. Result data is
 * aligned. Elementwise ops and reductions work on blocks of doubles (floats) or int64 (integers and
 * bools), which for f32 gives the correctly rounded result; only products sum in fp32. */
#ifndef GPTC_IR_EVAL_H
#define GPTC_IR_EVAL_H

#include "ir/ir.h"

#define EVAL_BLOCK 512

typedef struct {
    Graph *g;
    const Node *n;
    const Tensor *const *in; /* n->nin of them; NULL where an optional operand is missing */
    Tensor *out;             /* n->nout of them */
    const int64_t *bind;
    size_t nbind;
    Arena *scratch; /* freed after the node */
    Diag *d;
} EvalCtx;

typedef bool EvalFn(EvalCtx *e);
#define OP(e, text, lo, hi, nout, attrs, flags, infer, eval, axes, doc) EvalFn eval_##eval;
#include "ir/ops.def"
#undef OP

/* Reports "OP: message" at the node; returns false. */
bool eval_error(EvalCtx *e, const char *fmt, ...) BASE_PRINTF(2, 3);
/* The value of a dimension of the node's attributes. */
bool eval_dim_value(EvalCtx *e, Dim d, int64_t *out);
static inline const Tensor *eval_operand(const EvalCtx *e, uint32_t i) {
    return i < e->n->nin ? e->in[i] : NULL;
}

/* ---- eval_tensor.c ---- */
/* n elements from element `at` on, `stride` elements apart. load_f64 takes every dtype; load_i64
 * takes integers and bools (a bool is 0 or 1; u64 keeps its bits). Stores are as tensor_store_… of ir.h. */
void tensor_load_f64(const Tensor *t, int64_t at, int64_t stride, size_t n, double *out);
void tensor_load_i64(const Tensor *t, int64_t at, int64_t stride, size_t n, int64_t *out);
void tensor_store_f64_strided(Tensor *t, int64_t at, int64_t stride, size_t n, const double *v);
void tensor_store_i64_strided(Tensor *t, int64_t at, int64_t stride, size_t n, const int64_t *v);
/* Products of dimensions [from, to). */
int64_t tensor_span(const Tensor *t, uint32_t from, uint32_t to);
/* Row-major strides in elements. */
void tensor_strides(const Tensor *t, int64_t *stride);
/* Strides that read x broadcast to `rank` dimensions; 0 on broadcast axes. */
void tensor_broadcast_strides(const Tensor *x, uint32_t rank, int64_t *stride);
/* The whole tensor as floats: the data itself when it is aligned f32, else a converted copy. */
const float *tensor_as_f32(const Tensor *t, Arena *scratch);
/* Floats of one dtype as another; `to` has as many elements. */
void tensor_convert(Tensor *to, const Tensor *from);

/* Walks an index space of up to MAX_RANK dimensions in row-major order, one row (last dimension) at
 * a time, for up to 4 operands with their own strides. Dimensions that every operand steps through
 * as one are merged first, so that rows are long. */
typedef struct {
    uint32_t rank, nops;
    int64_t dim[MAX_RANK], index[MAX_RANK];
    int64_t stride[4][MAX_RANK];
    int64_t at[4];   /* element offset of the current row */
    int64_t n;       /* row length */
    int64_t step[4]; /* stride within the row */
    bool started, empty;
} Walk;
/* Fill dim, stride[op] and at[op] (offset of element 0) first, then walk_init, then walk_next per
 * row. */
void walk_init(Walk *w, uint32_t rank, uint32_t nops);
bool walk_next(Walk *w);
/* The walk of a result and operands broadcast to it: stride[0] is the result's. */
void walk_broadcast(Walk *w, const Tensor *out, const Tensor *const *in, uint32_t nin);

/* Lines along an axis: outer * inner of them, element j of line (o, i) at o * len * inner + i + j *
 * inner. */
typedef struct {
    int64_t outer, len, inner;
} Lines;
Lines tensor_lines(const Tensor *t, int64_t axis);

/* ---- eval_matmul.c ---- */
/* c[m, n] = a[m, k] times b: [k, n], or with trans [n, k]. Leading dimensions in elements. a and c
 * are aligned; b may be unaligned and of dtype f16, bf16 or f32. Each element is summed in fp32
 * over blocks of 64, then over the blocks, in that order whatever m, n and the thread count are. */
typedef struct {
    int64_t m, n, k, lda, ldb, ldc;
    const float *a;
    const void *b;
    DType b_dtype;
    bool trans;
    float *c;
} Gemm;
#define GEMM_SCRATCH (256 * 8) /* floats, per worker */
/* Rows [m0, m1) and columns [n0, n1) of c. */
void gemm_block(const Gemm *p, int64_t m0, int64_t m1, int64_t n0, int64_t n1, float *scratch);

/* Runs fn(ctx, task, worker) for every task. Workers claim tasks in any order, so a task's result
 * must depend on the task alone. */
typedef void TaskFn(void *ctx, size_t task, size_t worker);
size_t parallel_workers(size_t tasks, double flops); /* 1 for little work, else at most the CPUs */
void parallel_run(size_t tasks, size_t workers, TaskFn *fn, void *ctx);

#endif
