/* nd.h: the nodes of a function run on tensors of any rank and dtype.
 *
 *   nd_tile.c       elements of any dtype to tiles of floats, doubles or int64 and back; cursors
 *   nd_pointwise.c  elementwise ops, by tiles       nd_math.c     what they compute in double and int64
 *   nd_move.c       strided copies                  nd_index.c    gather and scatter
 *   nd_reduce.c     reductions                      nd_lines.c    softmax, norm, cumsum, argmax, topk
 *   nd_product.c    matmul and linear               nd_rules.c    the table of ops, views
 *   nd_types.c      dtypes and ranks that ops take  nd_shapes.c   the shapes
 *   nd_share.c      shares work among the workers
 *
 * Tensors are row-major without gaps. f32 and the 16-bit floats are computed as float, f64 as double, integers
 * and bools as int64 (u64 by its bits); the result is rounded once to its dtype. What an op means is in
 * ir/ops.def. */
#ifndef RUNTIME_ND_H
#define RUNTIME_ND_H

#include "runtime/artifact.h"
#include "runtime/cpu/cpu.h"
#include "runtime/gptc.h"
#include "runtime/threads.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ND_TILE 256 /* elements that pass through an op together */

typedef struct {
    uint32_t dtype, rank;
    int64_t dim[ART_MAX_RANK];
    int64_t count; /* elements */
    uint8_t *data; /* aligned to its elements; NULL only without elements */
    bool panels;   /* PANEL16: the weight of a linear */
} NdTensor;

/* A node at hand: operands (NULL = left out), results, attributes with their dimensions evaluated. */
typedef struct {
    const ArtNode *node;
    const NdTensor *const *in;
    uint32_t n_in;
    NdTensor *out[2];
    int64_t start[ART_MAX_RANK], value;
    const CpuKernels *kernels;
    Pool *pool;
    uint8_t *local;   /* CPU_LOCAL_BYTES of each worker */
    uint8_t *scratch; /* nd_scratch bytes, 64-byte aligned */
    gptc_detail *why;
} NdCall;

/* ---- nd_rules.c ---- */
const char *nd_name(uint32_t op);
uint32_t nd_least(uint32_t op), nd_most(uint32_t op), nd_results(uint32_t op);
/* Whether dtypes, ranks and attributes are what the op takes (why; GPTC_E_FORMAT). */
gptc_status nd_check_types(const NdCall *c);
/* Whether the shapes fit, once nd_check_types has passed (GPTC_E_SHAPE). */
gptc_status nd_check_shapes(const NdCall *c);
/* The node is only another view of operand 0: *offset elements on, the result lies in it as it is. */
bool nd_is_view(const NdCall *c, int64_t *offset);
/* Bytes of scratch that running it needs. */
size_t nd_scratch(const NdCall *c);

/* Runs a checked node. Fails only by the values of indices (GPTC_E_INDEX). */
gptc_status nd_run(const NdCall *c);
typedef gptc_status NdOp(const NdCall *c);
NdOp nd_pointwise, nd_cast, nd_iota, nd_dim, nd_copy_all, nd_transpose, nd_broadcast, nd_slice, nd_concat,
    nd_pad, nd_tril, nd_gather, nd_gather_nd, nd_gather_elements, nd_scatter_nd, nd_scatter_elements,
    nd_reduce, nd_arg, nd_cumsum, nd_softmax, nd_topk, nd_norm, nd_matmul, nd_linear;
size_t nd_matmul_scratch(const NdCall *c), nd_linear_scratch(const NdCall *c);
size_t nd_topk_scratch(const NdCall *c);

/* Shares items 0..n among the workers; work that costs less than a wake-up runs at once on the caller. `each`:
 * the cost of one item, in elements passed through an op. */
typedef void NdWork(const NdCall *c, void *job, int64_t begin, int64_t end, uint32_t worker);
void nd_share(const NdCall *c, int64_t n, int64_t each, NdWork *work, void *job);

/* ---- nd_tile.c ---- */
static inline bool nd_is_float8(uint32_t t) { return t >= ART_F8E4M3FN && t <= ART_F8E5M2FNUZ; }
static inline bool nd_is_float(uint32_t t) {
    return (t >= ART_F32 && t <= ART_BF16) || t == ART_F64 || nd_is_float8(t);
}
static inline bool nd_is_unsigned(uint32_t t) {
    return t == ART_U8 || t == ART_U16 || t == ART_U32 || t == ART_U64 || t == ART_U4 || t == ART_U2;
}
static inline bool nd_is_integer(uint32_t t) { return !nd_is_float(t) && t != ART_BOOL; }
size_t nd_size(uint32_t dtype);   /* bytes of an element; 0: no such dtype */
uint32_t nd_bits(uint32_t dtype); /* of its value */

typedef enum { ND_FLOAT, ND_DOUBLE, ND_INT } NdClass; /* what a dtype is computed as */
NdClass nd_class(uint32_t dtype);
uint32_t nd_class_dtype(NdClass k);

/* A tile in the form of its class. */
typedef union {
    float f[ND_TILE];
    double d[ND_TILE];
    int64_t i[ND_TILE];
} NdTile;
/* n <= ND_TILE elements from element `at` on, `stride` apart; tile: an NdTile, or numbers of the class. ND_FLOAT takes floats but f64, and bool; ND_DOUBLE
 * every dtype; ND_INT integers and bool. Storing: floats truncate to integers and saturate, NaN gives 0;
 * integers keep their low bits; to bool is x != 0. */
void nd_load(NdClass k, uint32_t dtype, const void *data, int64_t at, int64_t stride, size_t n, void *tile);
void nd_store(NdClass k, uint32_t dtype, void *data, int64_t at, int64_t stride, size_t n, const void *tile);
int64_t nd_integer_at(const NdTensor *t, int64_t at);

/* Row-major strides, in elements. */
void nd_strides(const NdTensor *t, int64_t *stride);
/* Those that read t broadcast to `rank` axes: 0 on axes of length 1 and on missing ones. */
void nd_broadcast_strides(const NdTensor *t, uint32_t rank, int64_t *stride);
static inline int64_t nd_span(const NdTensor *t, uint32_t from, uint32_t to) {
    int64_t n = 1;
    for (uint32_t i = from; i < to; i++) n *= t->dim[i];
    return n;
}

/* Walks a strided view in row-major order by runs of equal stride. */
typedef struct {
    uint32_t rank; /* at least 1 */
    int64_t dim[ART_MAX_RANK], stride[ART_MAX_RANK], index[ART_MAX_RANK];
    int64_t at; /* offset of the element it stands at */
} NdCursor;
NdCursor nd_cursor(uint32_t rank, const int64_t *dim, const int64_t *stride, int64_t offset);
void nd_seek(NdCursor *c, int64_t element);
/* The elements of the run it stands in, from here on. */
static inline int64_t nd_run_length(const NdCursor *c) { return c->dim[c->rank - 1] - c->index[c->rank - 1]; }
static inline int64_t nd_run_stride(const NdCursor *c) { return c->stride[c->rank - 1]; }
void nd_advance(NdCursor *c, int64_t n); /* n <= nd_run_length */
/* The next n <= ND_TILE elements: where they lie when they are of that form already, else a copy in t. */
const void *nd_fetch(NdCursor *c, NdClass k, const NdTensor *x, size_t n, NdTile *t);

/* dst[index] = src[index] over `dim`, strides and offsets in elements of `size` bytes. */
typedef struct {
    uint32_t rank;
    int64_t dim[ART_MAX_RANK], to[ART_MAX_RANK], from[ART_MAX_RANK];
    size_t size;
    uint8_t *dst;
    const uint8_t *src;
} NdMove;
void nd_move(const NdCall *c, const NdMove *m);

/* Lines along an axis: element j of line (o, i) at (o * len + j) * inner + i. */
typedef struct {
    int64_t outer, len, inner;
} NdLines;
static inline NdLines nd_lines(const NdTensor *t, uint32_t axis) {
    return (NdLines){nd_span(t, 0, axis), t->dim[axis], nd_span(t, axis + 1, t->rank)};
}
static inline int64_t nd_line(const NdLines *l, int64_t line) {
    return line / l->inner * l->len * l->inner + line % l->inner;
}

/* ---- nd_math.c ---- the result in a; an op without operand b or c takes NULL. is_unsigned: a bit for each
 * operand */
void nd_double(const ArtNode *node, size_t n, double *a, const double *b, const double *c);
void nd_integer(uint32_t op, uint32_t is_unsigned, size_t n, int64_t *a, const int64_t *b, const int64_t *c);

#endif
