/* nd_rules.c: what each op takes: dtypes, ranks and attributes, checked once when a file is opened, and shapes,
 * checked when the inputs' shapes are known. */
#include "runtime/nd.h"

#include "runtime/runtime.h"

#include <math.h>
#include <string.h>

typedef struct {
    const char *name;
    uint8_t least, most, results;
} OpInfo;
static const OpInfo infos[ART_FN_COUNT] = {
#define FOP(e, lo, hi, nout) {#e, lo, hi, nout},
    ART_FUNCTION_OP_LIST(FOP)
#undef FOP
};

const char *nd_name(uint32_t op) { return infos[op].name; }
uint32_t nd_least(uint32_t op) { return infos[op].least; }
uint32_t nd_most(uint32_t op) { return infos[op].most; }
uint32_t nd_results(uint32_t op) { return infos[op].results; }

/* ---- dtypes and ranks ---- each returns NULL or what is wrong */
#define NEED(condition, text)                                                                                \
    do {                                                                                                     \
        if (!(condition)) return text;                                                                       \
    } while (0)

static const char WRONG_DTYPE[] = "not for operands of this dtype",
                  WRONG_RESULT[] = "the result has another dtype",
                  WRONG_RANK[] = "the result has another rank", WRONG_AXIS[] = "the axis is outside the rank",
                  NO_INTEGERS[] = "the indices are no integers";

static bool is_numeric(uint32_t t) { return t != ART_BOOL; }

static bool unary_takes(uint32_t op, uint32_t t) {
    switch (op) {
    case ART_FN_NOT: return t == ART_BOOL;
    case ART_FN_TRIL:
    case ART_FN_TRIU: return true;
    case ART_FN_NEG:
    case ART_FN_ABS:
    case ART_FN_SIGN:
    case ART_FN_RELU:
    case ART_FN_CUMSUM: return is_numeric(t);
    default: return nd_is_float(t);
    }
}

static const char *same_types(const NdCall *c) {
    const NdTensor *x = c->in[0];
    uint32_t op = c->node->op;
    NEED(unary_takes(op, x->dtype), WRONG_DTYPE);
    NEED(c->out[0]->dtype == x->dtype, WRONG_RESULT);
    NEED(c->out[0]->rank == x->rank, WRONG_RANK);
    if (op == ART_FN_SOFTMAX || op == ART_FN_CUMSUM) NEED(c->node->axis < x->rank, WRONG_AXIS);
    if (op == ART_FN_TRIL || op == ART_FN_TRIU) NEED(x->rank >= 2, "needs two axes");
    return NULL;
}

static const char *test_types(const NdCall *c) {
    NEED(nd_is_float(c->in[0]->dtype), WRONG_DTYPE);
    NEED(c->out[0]->dtype == ART_BOOL, WRONG_RESULT);
    NEED(c->out[0]->rank == c->in[0]->rank, WRONG_RANK);
    return NULL;
}

static const char *cast_types(const NdCall *c) {
    NEED(c->out[0]->rank == c->in[0]->rank, WRONG_RANK);
    return NULL;
}

static uint32_t most_rank(const NdCall *c, uint32_t from, uint32_t to) {
    uint32_t rank = 0;
    for (uint32_t i = from; i < to; i++)
        if (c->in[i]->rank > rank) rank = c->in[i]->rank;
    return rank;
}

static const char *binary_types(const NdCall *c) {
    uint32_t op = c->node->op, a = c->in[0]->dtype, b = c->in[1]->dtype, result = a;
    bool fits = is_numeric(a);
    if (op == ART_FN_AND || op == ART_FN_OR || op == ART_FN_XOR) fits = !nd_is_float(a);
    if (op == ART_FN_MIN || op == ART_FN_MAX || op == ART_FN_EQ) fits = true;
    if (op == ART_FN_EQ || op == ART_FN_LT || op == ART_FN_LE) result = ART_BOOL;
    NEED(fits && (op == ART_FN_POW ? is_numeric(b) : a == b), WRONG_DTYPE);
    NEED(c->out[0]->dtype == result, WRONG_RESULT);
    NEED(c->out[0]->rank == most_rank(c, 0, 2), WRONG_RANK);
    return NULL;
}

static const char *where_types(const NdCall *c) {
    NEED(c->in[0]->dtype == ART_BOOL && c->in[1]->dtype == c->in[2]->dtype, WRONG_DTYPE);
    NEED(c->out[0]->dtype == c->in[1]->dtype, WRONG_RESULT);
    NEED(c->out[0]->rank == most_rank(c, 0, 3), WRONG_RANK);
    return NULL;
}

static const char *source_types(const NdCall *c) {
    const NdTensor *to = c->out[0];
    if (c->node->op == ART_FN_DIM) {
        NEED(to->rank == 0 && nd_is_integer(to->dtype), "the result is no integer scalar");
        return NULL;
    }
    NEED(is_numeric(to->dtype), WRONG_RESULT);
    NEED(c->node->axis < to->rank, WRONG_AXIS);
    return NULL;
}

static const char *move_types(const NdCall *c) {
    const ArtNode *n = c->node;
    const NdTensor *x = c->in[0], *to = c->out[0];
    uint32_t seen = 0;
    NEED(to->dtype == x->dtype, WRONG_RESULT);
    switch (n->op) {
    case ART_FN_TRANSPOSE:
        NEED(to->rank == x->rank, WRONG_RANK);
        for (uint32_t i = 0; i < x->rank; i++) {
            NEED(n->perm[i] < x->rank && !(seen >> n->perm[i] & 1), "perm is no permutation");
            seen |= UINT32_C(1) << n->perm[i];
        }
        break;
    case ART_FN_BROADCAST: NEED(to->rank >= x->rank, WRONG_RANK); break;
    case ART_FN_SLICE:
        NEED(to->rank == x->rank, WRONG_RANK);
        for (uint32_t i = 0; i < x->rank; i++) NEED(n->step[i] != 0, "a step is 0");
        break;
    case ART_FN_PAD:
        NEED(to->rank == x->rank, WRONG_RANK);
        NEED(c->in[1]->dtype == x->dtype && c->in[1]->rank == 0, "the fill is no scalar of the dtype");
        break;
    default: break;
    }
    return NULL;
}

static const char *concat_types(const NdCall *c) {
    const NdTensor *to = c->out[0];
    NEED(c->node->axis < to->rank, WRONG_AXIS);
    for (uint32_t i = 0; i < c->n_in; i++) {
        NEED(c->in[i] && c->in[i]->dtype == to->dtype, WRONG_DTYPE);
        NEED(c->in[i]->rank == to->rank, WRONG_RANK);
    }
    return NULL;
}

static const char *gather_types(const NdCall *c) {
    const ArtNode *n = c->node;
    const NdTensor *x = c->in[0], *idx = c->in[1];
    NEED(nd_is_integer(idx->dtype), NO_INTEGERS);
    NEED(c->out[0]->dtype == x->dtype, WRONG_RESULT);
    if (n->op == ART_FN_GATHER_ND) {
        NEED(n->batch_dims < x->rank && n->batch_dims < idx->rank, "batch_dims is outside the ranks");
        return NULL;
    }
    NEED(n->axis < x->rank, WRONG_AXIS);
    if (n->op == ART_FN_GATHER_ELEMENTS) {
        NEED(x->rank == idx->rank, "the indices have another rank");
        NEED(c->out[0]->rank == idx->rank, WRONG_RANK);
    } else {
        NEED(c->out[0]->rank == x->rank - 1 + idx->rank, WRONG_RANK);
    }
    return NULL;
}

static const char *scatter_types(const NdCall *c) {
    const ArtNode *n = c->node;
    const NdTensor *x = c->in[0], *idx = c->in[1], *upd = c->in[2];
    NEED(nd_is_integer(idx->dtype), NO_INTEGERS);
    NEED(upd->dtype == x->dtype, "the updates have another dtype");
    NEED(c->out[0]->dtype == x->dtype, WRONG_RESULT);
    NEED(c->out[0]->rank == x->rank, WRONG_RANK);
    NEED(n->reduce <= 4 && (n->reduce == 0 || is_numeric(x->dtype)), "no such reduction");
    if (n->op == ART_FN_SCATTER_ND) {
        NEED(idx->rank > 0, "the indices have no axis");
        return NULL;
    }
    NEED(n->axis < x->rank, WRONG_AXIS);
    NEED(idx->rank == x->rank && upd->rank == x->rank, "indices or updates have another rank");
    return NULL;
}

static const char *reduce_types(const NdCall *c) {
    const ArtNode *n = c->node;
    const NdTensor *x = c->in[0];
    bool any = n->op == ART_FN_REDUCE_MAX || n->op == ART_FN_REDUCE_MIN;
    bool arg = n->op == ART_FN_ARGMAX || n->op == ART_FN_ARGMIN;
    uint32_t gone = 0;
    NEED(any || is_numeric(x->dtype), WRONG_DTYPE);
    NEED(c->out[0]->dtype == (arg ? ART_I64 : x->dtype), WRONG_RESULT);
    if (arg)
        NEED(n->axis < x->rank, WRONG_AXIS);
    else
        NEED(n->axes >> x->rank == 0, WRONG_AXIS);
    for (uint32_t i = 0; i < x->rank; i++) gone += arg ? i == n->axis : n->axes >> i & 1;
    NEED(c->out[0]->rank == (n->flags & ART_FN_KEEP ? x->rank : x->rank - gone), WRONG_RANK);
    return NULL;
}

static const char *topk_types(const NdCall *c) {
    const NdTensor *x = c->in[0];
    NEED(is_numeric(x->dtype), WRONG_DTYPE);
    NEED(c->node->axis < x->rank, WRONG_AXIS);
    NEED(c->out[0]->dtype == x->dtype && c->out[1]->dtype == ART_I64, WRONG_RESULT);
    NEED(c->out[0]->rank == x->rank && c->out[1]->rank == x->rank, WRONG_RANK);
    return NULL;
}

static const char *matmul_types(const NdCall *c) {
    const NdTensor *a = c->in[0], *b = c->in[1];
    NEED(a->dtype == b->dtype && is_numeric(a->dtype), WRONG_DTYPE);
    NEED(a->rank > 0 && b->rank > 0, "an operand is a scalar");
    NEED(c->out[0]->dtype == a->dtype, WRONG_RESULT);
    uint32_t batch = a->rank > b->rank ? a->rank : b->rank;
    batch = batch > 2 ? batch - 2 : 0;
    NEED(c->out[0]->rank == batch + (a->rank > 1) + (b->rank > 1), WRONG_RANK);
    return NULL;
}

static bool row_types(const NdCall *c, uint32_t i) {
    return i >= c->n_in || !c->in[i] || (c->in[i]->rank == 1 && nd_is_float(c->in[i]->dtype));
}

static const char *linear_types(const NdCall *c) {
    const NdTensor *x = c->in[0], *w = c->in[1];
    NEED(nd_class(x->dtype) == ND_FLOAT &&
             (c->n_in < 3 || !c->in[2] || nd_class(c->in[2]->dtype) == ND_FLOAT),
         WRONG_DTYPE);
    NEED(w->panels, "the weight is not stored in panels");
    NEED(x->rank > 0 && row_types(c, 2), "operands have other ranks");
    NEED(c->out[0]->dtype == x->dtype, WRONG_RESULT);
    NEED(c->out[0]->rank == x->rank, WRONG_RANK);
    return NULL;
}

static const char *norm_types(const NdCall *c) {
    const NdTensor *x = c->in[0];
    NEED(nd_is_float(x->dtype), WRONG_DTYPE);
    NEED(x->rank > 0 && row_types(c, 1) && row_types(c, 2), "operands have other ranks or dtypes");
    NEED(isfinite(c->node->eps), "eps is no number");
    NEED(c->out[0]->dtype == x->dtype, WRONG_RESULT);
    NEED(c->out[0]->rank == x->rank, WRONG_RANK);
    return NULL;
}

/* ---- shapes ---- */
static const char WRONG_SHAPE[] = "the result has another shape";

static bool dims_equal(const NdTensor *a, const NdTensor *b) {
    return a->rank == b->rank && !memcmp(a->dim, b->dim, a->rank * sizeof *a->dim);
}

/* x broadcasts to the first `rank` axes of `to`, aligned at its own last axes. */
static bool broadcasts(const int64_t *dim, uint32_t n, const int64_t *to, uint32_t rank) {
    for (uint32_t i = 0; i < n && i < rank; i++)
        if (dim[n - 1 - i] != 1 && dim[n - 1 - i] != to[rank - 1 - i]) return false;
    return n <= rank;
}

/* Every axis of the result is that of an operand, and all operands broadcast to it. */
static const char *pointwise_shapes(const NdCall *c) {
    const NdTensor *to = c->out[0];
    for (uint32_t i = 0; i < c->n_in; i++)
        NEED(broadcasts(c->in[i]->dim, c->in[i]->rank, to->dim, to->rank), "shapes do not broadcast");
    for (uint32_t k = 0; k < to->rank; k++) {
        bool found = to->dim[k] == 1;
        for (uint32_t i = 0; i < c->n_in; i++) {
            uint32_t missing = to->rank - c->in[i]->rank;
            found = found || (k >= missing && c->in[i]->dim[k - missing] == to->dim[k]);
        }
        NEED(found, WRONG_SHAPE);
    }
    return NULL;
}

static const char *same_shapes(const NdCall *c) {
    NEED(dims_equal(c->in[0], c->out[0]), WRONG_SHAPE);
    return NULL;
}

static const char *no_shapes(const NdCall *c) {
    (void)c;
    return NULL;
}

static bool slice_fits(int64_t length, int64_t start, int64_t step, int64_t n) {
    int64_t last;
    if (__builtin_mul_overflow(n - 1, step, &last) || __builtin_add_overflow(last, start, &last))
        return false;
    return start >= 0 && start < length && last >= 0 && last < length;
}

static const char *move_shapes(const NdCall *c) {
    const NdTensor *x = c->in[0], *to = c->out[0];
    for (uint32_t i = 0; i < x->rank; i++) {
        int64_t end;
        switch (c->node->op) {
        case ART_FN_TRANSPOSE: NEED(to->dim[i] == x->dim[c->node->perm[i]], WRONG_SHAPE); break;
        case ART_FN_SLICE:
            NEED(to->count == 0 || slice_fits(x->dim[i], c->start[i], c->node->step[i], to->dim[i]),
                 "reaches outside the operand");
            break;
        case ART_FN_PAD:
            NEED(c->start[i] >= 0 && !__builtin_add_overflow(c->start[i], x->dim[i], &end) &&
                     end <= to->dim[i],
                 "the operand does not fit into the result");
            break;
        default: break;
        }
    }
    if (c->node->op == ART_FN_RESHAPE)
        NEED(to->count == x->count, "the result has another number of elements");
    if (c->node->op == ART_FN_BROADCAST)
        NEED(broadcasts(x->dim, x->rank, to->dim, to->rank), "the operand does not broadcast to the result");
    return NULL;
}

static const char *concat_shapes(const NdCall *c) {
    const NdTensor *to = c->out[0];
    int64_t sum = 0;
    for (uint32_t i = 0; i < c->n_in; i++) {
        for (uint32_t k = 0; k < to->rank; k++)
            NEED(k == c->node->axis || c->in[i]->dim[k] == to->dim[k], "operands differ beside the axis");
        NEED(!__builtin_add_overflow(sum, c->in[i]->dim[c->node->axis], &sum), WRONG_SHAPE);
    }
    NEED(sum == to->dim[c->node->axis], WRONG_SHAPE);
    return NULL;
}

/* `to` is a[0, na) followed by b[from, rank of b). */
static bool joined(const NdTensor *to, const NdTensor *a, uint32_t na, const NdTensor *b, uint32_t from) {
    if (to->rank != na + b->rank - from) return false;
    for (uint32_t i = 0; i < to->rank; i++)
        if (to->dim[i] != (i < na ? a->dim[i] : b->dim[from + i - na])) return false;
    return true;
}

static bool beside_fits(const NdCall *c) {
    const NdTensor *x = c->in[0], *idx = c->in[1];
    for (uint32_t i = 0; i < x->rank; i++)
        if (i != c->node->axis && idx->dim[i] > x->dim[i]) return false;
    return true;
}

static const char *gather_shapes(const NdCall *c) {
    const NdTensor *x = c->in[0], *idx = c->in[1], *to = c->out[0];
    uint32_t b = c->node->batch_dims, axis = c->node->axis;
    if (c->node->op == ART_FN_GATHER_ELEMENTS) {
        NEED(dims_equal(idx, to), WRONG_SHAPE);
        NEED(beside_fits(c), "the indices are longer than the operand beside the axis");
        return NULL;
    }
    if (c->node->op == ART_FN_GATHER_ND) {
        int64_t len = idx->dim[idx->rank - 1];
        NEED(len >= 1 && len <= (int64_t)(x->rank - b), "index tuples of another length");
        NEED(!memcmp(x->dim, idx->dim, b * sizeof *x->dim), "batch axes differ");
        NEED(joined(to, idx, idx->rank - 1, x, b + (uint32_t)len), WRONG_SHAPE);
        return NULL;
    }
    for (uint32_t i = 0; i < to->rank; i++) {
        int64_t want = i < axis               ? x->dim[i]
                       : i < axis + idx->rank ? idx->dim[i - axis]
                                              : x->dim[i - idx->rank + 1];
        NEED(to->dim[i] == want, WRONG_SHAPE);
    }
    return NULL;
}

static const char *scatter_shapes(const NdCall *c) {
    const NdTensor *x = c->in[0], *idx = c->in[1], *upd = c->in[2];
    NEED(dims_equal(x, c->out[0]), WRONG_SHAPE);
    if (c->node->op == ART_FN_SCATTER_ELEMENTS) {
        NEED(dims_equal(idx, upd), "the updates do not have the indices' shape");
        NEED(beside_fits(c), "the indices are longer than the operand beside the axis");
        return NULL;
    }
    int64_t len = idx->dim[idx->rank - 1];
    NEED(len >= 1 && len <= (int64_t)x->rank, "index tuples of another length");
    NEED(joined(upd, idx, idx->rank - 1, x, (uint32_t)len),
         "the updates do not have the shape of what is picked");
    return NULL;
}

static const char *reduce_shapes(const NdCall *c) {
    const NdTensor *x = c->in[0], *to = c->out[0];
    bool arg = c->node->op == ART_FN_ARGMAX || c->node->op == ART_FN_ARGMIN;
    uint32_t axes = arg ? UINT32_C(1) << c->node->axis : c->node->axes, at = 0;
    for (uint32_t i = 0; i < x->rank; i++) {
        bool gone = axes >> i & 1;
        if (gone && !(c->node->flags & ART_FN_KEEP)) continue;
        NEED(to->dim[at++] == (gone ? 1 : x->dim[i]), WRONG_SHAPE);
    }
    NEED(!arg || x->dim[c->node->axis] > 0 || to->count == 0, "the axis is empty");
    return NULL;
}

static const char *topk_shapes(const NdCall *c) {
    const NdTensor *x = c->in[0], *to = c->out[0];
    for (uint32_t i = 0; i < x->rank; i++) {
        NEED(i == c->node->axis || to->dim[i] == x->dim[i], WRONG_SHAPE);
        NEED(i != c->node->axis || to->dim[i] == c->node->count, WRONG_SHAPE);
    }
    NEED(c->node->count <= x->dim[c->node->axis], "asks for more than the axis has");
    NEED(dims_equal(to, c->out[1]), WRONG_SHAPE);
    return NULL;
}

static const char *matmul_shapes(const NdCall *c) {
    const NdTensor *a = c->in[0], *b = c->in[1], *to = c->out[0];
    NEED(a->dim[a->rank - 1] == b->dim[b->rank == 1 ? 0 : b->rank - 2], "inner dimensions differ");
    uint32_t na = a->rank > 2 ? a->rank - 2 : 0, nb = b->rank > 2 ? b->rank - 2 : 0, n = na > nb ? na : nb,
             at = n;
    NEED(broadcasts(a->dim, na, to->dim, n) && broadcasts(b->dim, nb, to->dim, n),
         "batches do not broadcast");
    for (uint32_t k = 0; k < n; k++) {
        int64_t da = k + na >= n ? a->dim[k + na - n] : 1, db = k + nb >= n ? b->dim[k + nb - n] : 1;
        NEED(to->dim[k] == (da == 1 ? db : da), WRONG_SHAPE);
    }
    if (a->rank > 1) NEED(to->dim[at++] == a->dim[a->rank - 2], WRONG_SHAPE);
    if (b->rank > 1) NEED(to->dim[at] == b->dim[b->rank - 1], WRONG_SHAPE);
    return NULL;
}

static bool row_shape(const NdCall *c, uint32_t i, int64_t n) {
    return i >= c->n_in || !c->in[i] || c->in[i]->dim[0] == n;
}

static const char *linear_shapes(const NdCall *c) {
    const NdTensor *x = c->in[0], *w = c->in[1], *to = c->out[0];
    uint32_t last = x->rank - 1;
    NEED(x->dim[last] == w->dim[1], "inner dimensions differ");
    NEED(row_shape(c, 2, w->dim[0]), "the bias has another length");
    NEED(to->dim[last] == w->dim[0] && !memcmp(x->dim, to->dim, last * sizeof *x->dim), WRONG_SHAPE);
    NEED(x->count / w->dim[1] <= INT32_MAX && w->dim[0] <= INT32_MAX && w->dim[1] <= INT32_MAX,
         "too many rows");
    return NULL;
}

static const char *norm_shapes(const NdCall *c) {
    int64_t n = c->in[0]->dim[c->in[0]->rank - 1];
    NEED(row_shape(c, 1, n) && row_shape(c, 2, n), "gamma or beta has another length");
    return same_shapes(c);
}

/* ---- the table ---- */
typedef const char *Rule(const NdCall *c);
typedef struct {
    Rule *types, *shapes;
    NdOp *run;
} Op;

/* clang-format off */
#define UNARY {same_types, same_shapes, nd_pointwise}
#define BINARY {binary_types, pointwise_shapes, nd_pointwise}
#define REDUCE {reduce_types, reduce_shapes, nd_reduce}
static const Op ops[ART_FN_COUNT] = {
    [ART_FN_NEG] = UNARY, [ART_FN_ABS] = UNARY, [ART_FN_SIGN] = UNARY, [ART_FN_EXP] = UNARY, [ART_FN_LOG] = UNARY,
    [ART_FN_SQRT] = UNARY, [ART_FN_RECIP] = UNARY, [ART_FN_SIN] = UNARY, [ART_FN_COS] = UNARY,
    [ART_FN_TANH] = UNARY, [ART_FN_SIGMOID] = UNARY, [ART_FN_ERF] = UNARY, [ART_FN_RELU] = UNARY,
    [ART_FN_SOFTPLUS] = UNARY, [ART_FN_FLOOR] = UNARY, [ART_FN_CEIL] = UNARY, [ART_FN_ROUND] = UNARY,
    [ART_FN_NOT] = UNARY, [ART_FN_GELU] = UNARY, [ART_FN_SILU] = UNARY,
    [ART_FN_ISNAN] = {test_types, same_shapes, nd_pointwise},
    [ART_FN_ISINF] = {test_types, same_shapes, nd_pointwise},
    [ART_FN_CAST] = {cast_types, same_shapes, nd_cast},
    [ART_FN_ADD] = BINARY, [ART_FN_SUB] = BINARY, [ART_FN_MUL] = BINARY, [ART_FN_DIV] = BINARY,
    [ART_FN_MOD] = BINARY, [ART_FN_POW] = BINARY, [ART_FN_MIN] = BINARY, [ART_FN_MAX] = BINARY,
    [ART_FN_AND] = BINARY, [ART_FN_OR] = BINARY, [ART_FN_XOR] = BINARY, [ART_FN_EQ] = BINARY,
    [ART_FN_LT] = BINARY, [ART_FN_LE] = BINARY,
    [ART_FN_WHERE] = {where_types, pointwise_shapes, nd_pointwise},
    [ART_FN_IOTA] = {source_types, no_shapes, nd_iota},
    [ART_FN_DIM] = {source_types, no_shapes, nd_dim},
    [ART_FN_RESHAPE] = {move_types, move_shapes, nd_copy_all},
    [ART_FN_TRANSPOSE] = {move_types, move_shapes, nd_transpose},
    [ART_FN_BROADCAST] = {move_types, move_shapes, nd_broadcast},
    [ART_FN_SLICE] = {move_types, move_shapes, nd_slice},
    [ART_FN_CONCAT] = {concat_types, concat_shapes, nd_concat},
    [ART_FN_PAD] = {move_types, move_shapes, nd_pad},
    [ART_FN_GATHER] = {gather_types, gather_shapes, nd_gather},
    [ART_FN_GATHER_ND] = {gather_types, gather_shapes, nd_gather_nd},
    [ART_FN_GATHER_ELEMENTS] = {gather_types, gather_shapes, nd_gather_elements},
    [ART_FN_SCATTER_ND] = {scatter_types, scatter_shapes, nd_scatter_nd},
    [ART_FN_SCATTER_ELEMENTS] = {scatter_types, scatter_shapes, nd_scatter_elements},
    [ART_FN_TRIL] = {same_types, same_shapes, nd_tril},
    [ART_FN_TRIU] = {same_types, same_shapes, nd_tril},
    [ART_FN_REDUCE_SUM] = REDUCE, [ART_FN_REDUCE_MEAN] = REDUCE, [ART_FN_REDUCE_MAX] = REDUCE,
    [ART_FN_REDUCE_MIN] = REDUCE, [ART_FN_REDUCE_PROD] = REDUCE,
    [ART_FN_ARGMAX] = {reduce_types, reduce_shapes, nd_arg},
    [ART_FN_ARGMIN] = {reduce_types, reduce_shapes, nd_arg},
    [ART_FN_CUMSUM] = {same_types, same_shapes, nd_cumsum},
    [ART_FN_SOFTMAX] = {same_types, same_shapes, nd_softmax},
    [ART_FN_TOPK] = {topk_types, topk_shapes, nd_topk},
    [ART_FN_MATMUL] = {matmul_types, matmul_shapes, nd_matmul},
    [ART_FN_LINEAR] = {linear_types, linear_shapes, nd_linear},
    [ART_FN_NORM] = {norm_types, norm_shapes, nd_norm},
};
/* clang-format on */

gptc_status nd_check_types(const NdCall *c) {
    const char *wrong = ops[c->node->op].types(c);
    return wrong ? status_fail(c->why, GPTC_E_FORMAT, "%s", wrong) : GPTC_OK;
}

gptc_status nd_check_shapes(const NdCall *c) {
    const char *wrong = ops[c->node->op].shapes(c);
    return wrong ? status_fail(c->why, GPTC_E_SHAPE, "%s", wrong) : GPTC_OK;
}

gptc_status nd_run(const NdCall *c) { return ops[c->node->op].run(c); }

size_t nd_scratch(const NdCall *c) {
    switch (c->node->op) {
    case ART_FN_TOPK: return nd_topk_scratch(c);
    case ART_FN_MATMUL: return nd_matmul_scratch(c);
    case ART_FN_LINEAR: return nd_linear_scratch(c);
    default: return 0;
    }
}

/* Axes of length 1 aside, the slice takes everything behind the first axis that it cuts. */
static bool slice_is_view(const NdCall *c, int64_t *offset) {
    const NdTensor *x = c->in[0], *to = c->out[0];
    int64_t stride[ART_MAX_RANK];
    bool whole = true; /* so far, from the last axis on, all is taken */
    nd_strides(x, stride);
    *offset = 0;
    for (uint32_t i = x->rank; i-- > 0;) {
        if (to->dim[i] > 1 && (!whole || c->node->step[i] != 1)) return false;
        if (to->dim[i] != x->dim[i]) whole = false;
        *offset += c->start[i] * stride[i];
    }
    return true;
}

bool nd_is_view(const NdCall *c, int64_t *offset) {
    const NdTensor *to = c->out[0];
    int64_t stride[ART_MAX_RANK], step[ART_MAX_RANK];
    *offset = 0;
    if (to->count == 0) return false;
    switch (c->node->op) {
    case ART_FN_RESHAPE: return true;
    case ART_FN_CAST: return c->in[0]->dtype == to->dtype;
    case ART_FN_BROADCAST: return c->in[0]->count == to->count;
    case ART_FN_SLICE: return slice_is_view(c, offset);
    case ART_FN_TRANSPOSE: {
        nd_strides(c->in[0], stride);
        for (uint32_t i = 0; i < to->rank; i++) step[i] = stride[c->node->perm[i]];
        NdCursor k = nd_cursor(to->rank, to->dim, step, 0);
        return k.rank == 1 && (k.stride[0] == 1 || k.dim[0] == 1);
    }
    default: return false;
    }
}
