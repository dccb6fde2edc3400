/* nd_rules.c: the table of ops: what each takes, and what runs it; which of them are only views. */
#include "runtime/nd_rules.h"

#include "runtime/runtime.h"

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

/* ---- the table ---- */
typedef struct {
    NdRule *types, *shapes;
    NdOp *run;
} Op;

/* clang-format off */
#define UNARY {nd_same_types, nd_same_shapes, nd_pointwise}
#define BINARY {nd_binary_types, nd_pointwise_shapes, nd_pointwise}
#define REDUCE {nd_reduce_types, nd_reduce_shapes, nd_reduce}
static const Op ops[ART_FN_COUNT] = {
    [ART_FN_NEG] = UNARY, [ART_FN_ABS] = UNARY, [ART_FN_SIGN] = UNARY, [ART_FN_EXP] = UNARY, [ART_FN_LOG] = UNARY,
    [ART_FN_SQRT] = UNARY, [ART_FN_RECIP] = UNARY, [ART_FN_SIN] = UNARY, [ART_FN_COS] = UNARY,
    [ART_FN_TANH] = UNARY, [ART_FN_SIGMOID] = UNARY, [ART_FN_ERF] = UNARY, [ART_FN_RELU] = UNARY,
    [ART_FN_SOFTPLUS] = UNARY, [ART_FN_FLOOR] = UNARY, [ART_FN_CEIL] = UNARY, [ART_FN_ROUND] = UNARY,
    [ART_FN_NOT] = UNARY, [ART_FN_GELU] = UNARY, [ART_FN_SILU] = UNARY,
    [ART_FN_ISNAN] = {nd_test_types, nd_same_shapes, nd_pointwise},
    [ART_FN_ISINF] = {nd_test_types, nd_same_shapes, nd_pointwise},
    [ART_FN_CAST] = {nd_cast_types, nd_same_shapes, nd_cast},
    [ART_FN_ADD] = BINARY, [ART_FN_SUB] = BINARY, [ART_FN_MUL] = BINARY, [ART_FN_DIV] = BINARY,
    [ART_FN_MOD] = BINARY, [ART_FN_POW] = BINARY, [ART_FN_MIN] = BINARY, [ART_FN_MAX] = BINARY,
    [ART_FN_AND] = BINARY, [ART_FN_OR] = BINARY, [ART_FN_XOR] = BINARY, [ART_FN_EQ] = BINARY,
    [ART_FN_LT] = BINARY, [ART_FN_LE] = BINARY,
    [ART_FN_WHERE] = {nd_where_types, nd_pointwise_shapes, nd_pointwise},
    [ART_FN_IOTA] = {nd_source_types, nd_no_shapes, nd_iota},
    [ART_FN_DIM] = {nd_source_types, nd_no_shapes, nd_dim},
    [ART_FN_RESHAPE] = {nd_move_types, nd_move_shapes, nd_copy_all},
    [ART_FN_TRANSPOSE] = {nd_move_types, nd_move_shapes, nd_transpose},
    [ART_FN_BROADCAST] = {nd_move_types, nd_move_shapes, nd_broadcast},
    [ART_FN_SLICE] = {nd_move_types, nd_move_shapes, nd_slice},
    [ART_FN_CONCAT] = {nd_concat_types, nd_concat_shapes, nd_concat},
    [ART_FN_PAD] = {nd_move_types, nd_move_shapes, nd_pad},
    [ART_FN_GATHER] = {nd_gather_types, nd_gather_shapes, nd_gather},
    [ART_FN_GATHER_ND] = {nd_gather_types, nd_gather_shapes, nd_gather_nd},
    [ART_FN_GATHER_ELEMENTS] = {nd_gather_types, nd_gather_shapes, nd_gather_elements},
    [ART_FN_SCATTER_ND] = {nd_scatter_types, nd_scatter_shapes, nd_scatter_nd},
    [ART_FN_SCATTER_ELEMENTS] = {nd_scatter_types, nd_scatter_shapes, nd_scatter_elements},
    [ART_FN_TRIL] = {nd_same_types, nd_same_shapes, nd_tril},
    [ART_FN_TRIU] = {nd_same_types, nd_same_shapes, nd_tril},
    [ART_FN_REDUCE_SUM] = REDUCE, [ART_FN_REDUCE_MEAN] = REDUCE, [ART_FN_REDUCE_MAX] = REDUCE,
    [ART_FN_REDUCE_MIN] = REDUCE, [ART_FN_REDUCE_PROD] = REDUCE,
    [ART_FN_ARGMAX] = {nd_reduce_types, nd_reduce_shapes, nd_arg},
    [ART_FN_ARGMIN] = {nd_reduce_types, nd_reduce_shapes, nd_arg},
    [ART_FN_CUMSUM] = {nd_same_types, nd_same_shapes, nd_cumsum},
    [ART_FN_SOFTMAX] = {nd_same_types, nd_same_shapes, nd_softmax},
    [ART_FN_TOPK] = {nd_topk_types, nd_topk_shapes, nd_topk},
    [ART_FN_MATMUL] = {nd_matmul_types, nd_matmul_shapes, nd_matmul},
    [ART_FN_LINEAR] = {nd_linear_types, nd_linear_shapes, nd_linear},
    [ART_FN_NORM] = {nd_norm_types, nd_norm_shapes, nd_norm},
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
