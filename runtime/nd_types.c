/* nd_types.c: the dtypes, ranks and attributes that ops take, checked once when a file is opened. */
#include "runtime/nd_rules.h"

#include <math.h>

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

const char *nd_same_types(const NdCall *c) {
    const NdTensor *x = c->in[0];
    uint32_t op = c->node->op;
    NEED(unary_takes(op, x->dtype), WRONG_DTYPE);
    NEED(c->out[0]->dtype == x->dtype, WRONG_RESULT);
    NEED(c->out[0]->rank == x->rank, WRONG_RANK);
    if (op == ART_FN_SOFTMAX || op == ART_FN_CUMSUM) NEED(c->node->axis < x->rank, WRONG_AXIS);
    if (op == ART_FN_TRIL || op == ART_FN_TRIU) NEED(x->rank >= 2, "needs two axes");
    return NULL;
}

const char *nd_test_types(const NdCall *c) {
    NEED(nd_is_float(c->in[0]->dtype), WRONG_DTYPE);
    NEED(c->out[0]->dtype == ART_BOOL, WRONG_RESULT);
    NEED(c->out[0]->rank == c->in[0]->rank, WRONG_RANK);
    return NULL;
}

const char *nd_cast_types(const NdCall *c) {
    NEED(c->out[0]->rank == c->in[0]->rank, WRONG_RANK);
    return NULL;
}

static uint32_t most_rank(const NdCall *c, uint32_t from, uint32_t to) {
    uint32_t rank = 0;
    for (uint32_t i = from; i < to; i++)
        if (c->in[i]->rank > rank) rank = c->in[i]->rank;
    return rank;
}

const char *nd_binary_types(const NdCall *c) {
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

const char *nd_where_types(const NdCall *c) {
    NEED(c->in[0]->dtype == ART_BOOL && c->in[1]->dtype == c->in[2]->dtype, WRONG_DTYPE);
    NEED(c->out[0]->dtype == c->in[1]->dtype, WRONG_RESULT);
    NEED(c->out[0]->rank == most_rank(c, 0, 3), WRONG_RANK);
    return NULL;
}

const char *nd_source_types(const NdCall *c) {
    const NdTensor *to = c->out[0];
    if (c->node->op == ART_FN_DIM) {
        NEED(to->rank == 0 && nd_is_integer(to->dtype), "the result is no integer scalar");
        return NULL;
    }
    NEED(is_numeric(to->dtype), WRONG_RESULT);
    NEED(c->node->axis < to->rank, WRONG_AXIS);
    return NULL;
}

const char *nd_move_types(const NdCall *c) {
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

const char *nd_concat_types(const NdCall *c) {
    const NdTensor *to = c->out[0];
    NEED(c->node->axis < to->rank, WRONG_AXIS);
    for (uint32_t i = 0; i < c->n_in; i++) {
        NEED(c->in[i] && c->in[i]->dtype == to->dtype, WRONG_DTYPE);
        NEED(c->in[i]->rank == to->rank, WRONG_RANK);
    }
    return NULL;
}

const char *nd_gather_types(const NdCall *c) {
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

const char *nd_scatter_types(const NdCall *c) {
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

const char *nd_reduce_types(const NdCall *c) {
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

const char *nd_topk_types(const NdCall *c) {
    const NdTensor *x = c->in[0];
    NEED(is_numeric(x->dtype), WRONG_DTYPE);
    NEED(c->node->axis < x->rank, WRONG_AXIS);
    NEED(c->out[0]->dtype == x->dtype && c->out[1]->dtype == ART_I64, WRONG_RESULT);
    NEED(c->out[0]->rank == x->rank && c->out[1]->rank == x->rank, WRONG_RANK);
    return NULL;
}

const char *nd_matmul_types(const NdCall *c) {
    const NdTensor *a = c->in[0], *b = c->in[1];
    NEED(a->dtype == b->dtype && is_numeric(a->dtype) && !nd_is_float8(a->dtype), WRONG_DTYPE);
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

const char *nd_linear_types(const NdCall *c) {
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

const char *nd_norm_types(const NdCall *c) {
    const NdTensor *x = c->in[0];
    NEED(nd_is_float(x->dtype), WRONG_DTYPE);
    NEED(x->rank > 0 && row_types(c, 1) && row_types(c, 2), "operands have other ranks or dtypes");
    NEED(isfinite(c->node->eps), "eps is no number");
    NEED(c->out[0]->dtype == x->dtype, WRONG_RESULT);
    NEED(c->out[0]->rank == x->rank, WRONG_RANK);
    return NULL;
}
