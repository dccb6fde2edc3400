/* nd_shapes.c: the shapes that ops take, checked when those of the inputs are known. */
#include "runtime/nd_rules.h"

#include <string.h>

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
const char *nd_pointwise_shapes(const NdCall *c) {
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

const char *nd_same_shapes(const NdCall *c) {
    NEED(dims_equal(c->in[0], c->out[0]), WRONG_SHAPE);
    return NULL;
}

const char *nd_no_shapes(const NdCall *c) {
    (void)c;
    return NULL;
}

static bool slice_fits(int64_t length, int64_t start, int64_t step, int64_t n) {
    int64_t last;
    if (__builtin_mul_overflow(n - 1, step, &last) || __builtin_add_overflow(last, start, &last))
        return false;
    return start >= 0 && start < length && last >= 0 && last < length;
}

const char *nd_move_shapes(const NdCall *c) {
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

const char *nd_concat_shapes(const NdCall *c) {
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

const char *nd_gather_shapes(const NdCall *c) {
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

const char *nd_scatter_shapes(const NdCall *c) {
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

const char *nd_reduce_shapes(const NdCall *c) {
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

const char *nd_topk_shapes(const NdCall *c) {
    const NdTensor *x = c->in[0], *to = c->out[0];
    for (uint32_t i = 0; i < x->rank; i++) {
        NEED(i == c->node->axis || to->dim[i] == x->dim[i], WRONG_SHAPE);
        NEED(i != c->node->axis || to->dim[i] == c->node->count, WRONG_SHAPE);
    }
    NEED(c->node->count <= x->dim[c->node->axis], "asks for more than the axis has");
    NEED(dims_equal(to, c->out[1]), WRONG_SHAPE);
    return NULL;
}

const char *nd_matmul_shapes(const NdCall *c) {
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

const char *nd_linear_shapes(const NdCall *c) {
    const NdTensor *x = c->in[0], *w = c->in[1], *to = c->out[0];
    uint32_t last = x->rank - 1;
    NEED(x->dim[last] == w->dim[1], "inner dimensions differ");
    NEED(row_shape(c, 2, w->dim[0]), "the bias has another length");
    NEED(to->dim[last] == w->dim[0] && !memcmp(x->dim, to->dim, last * sizeof *x->dim), WRONG_SHAPE);
    NEED(x->count / w->dim[1] <= INT32_MAX && w->dim[0] <= INT32_MAX && w->dim[1] <= INT32_MAX,
         "too many rows");
    return NULL;
}

const char *nd_norm_shapes(const NdCall *c) {
    int64_t n = c->in[0]->dim[c->in[0]->rank - 1];
    NEED(row_shape(c, 1, n) && row_shape(c, 2, n), "gamma or beta has another length");
    return nd_same_shapes(c);
}
