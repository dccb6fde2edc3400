/* nd_pointwise.c: elementwise ops.
 *
 * The result is cut into tiles of ND_TILE elements. For each tile the operands are fetched, broadcast by
 * strides and converted to the class that the op computes in; the op runs over the tile; the result is
 * converted and stored. So dtypes, shapes and ops do not multiply: floats use the CPU kernels' vector code. */
#include "runtime/nd.h"

#include <string.h>

/* The instruction of the CPU kernels that an op is in float. */
static const uint8_t instruction[ART_FN_COUNT] = {
    [ART_FN_NEG] = ART_I_NEG,         [ART_FN_ABS] = ART_I_ABS,
    [ART_FN_SIGN] = ART_I_SIGN,       [ART_FN_EXP] = ART_I_EXP,
    [ART_FN_LOG] = ART_I_LOG,         [ART_FN_SQRT] = ART_I_SQRT,
    [ART_FN_RECIP] = ART_I_RECIP,     [ART_FN_SIN] = ART_I_SIN,
    [ART_FN_COS] = ART_I_COS,         [ART_FN_TANH] = ART_I_TANH,
    [ART_FN_SIGMOID] = ART_I_SIGMOID, [ART_FN_ERF] = ART_I_ERF,
    [ART_FN_RELU] = ART_I_RELU,       [ART_FN_FLOOR] = ART_I_FLOOR,
    [ART_FN_CEIL] = ART_I_CEIL,       [ART_FN_SOFTPLUS] = ART_I_SOFTPLUS,
    [ART_FN_ROUND] = ART_I_ROUND,     [ART_FN_ISNAN] = ART_I_ISNAN,
    [ART_FN_GELU] = ART_I_GELU_ERF,   [ART_FN_ISINF] = ART_I_ISINF,
    [ART_FN_SILU] = ART_I_SILU,       [ART_FN_ADD] = ART_I_ADD,
    [ART_FN_SUB] = ART_I_SUB,         [ART_FN_MUL] = ART_I_MUL,
    [ART_FN_DIV] = ART_I_DIV,         [ART_FN_MOD] = ART_I_MOD,
    [ART_FN_POW] = ART_I_POW,         [ART_FN_MIN] = ART_I_MIN,
    [ART_FN_MAX] = ART_I_MAX,         [ART_FN_EQ] = ART_I_EQ,
    [ART_FN_LT] = ART_I_LT,           [ART_FN_LE] = ART_I_LE,
    [ART_FN_WHERE] = ART_I_WHERE};

typedef struct {
    NdClass k;
    uint32_t is_unsigned;
    ArtInsn insn;
    NdCursor in[3];
} Pointwise;

static NdCursor operand_cursor(const NdCall *c, uint32_t i) {
    int64_t stride[ART_MAX_RANK];
    nd_broadcast_strides(c->in[i], c->out[0]->rank, stride);
    return nd_cursor(c->out[0]->rank, c->out[0]->dim, stride, 0);
}

/* nd_double and nd_integer work in place: operand 0 goes into the result's tile first. */
static void tile_wide(const NdCall *c, const Pointwise *p, size_t n, const void *const x[3], NdTile *out) {
    if (x[0] != out) memcpy(out, x[0], n * sizeof(double));
    if (p->k == ND_DOUBLE)
        nd_double(c->node, n, out->d, x[1], x[2]);
    else
        nd_integer(c->node->op, p->is_unsigned, n, out->i, x[1], x[2]);
}

static void tile_floats(const NdCall *c, const Pointwise *p, size_t n, const void *const x[3], NdTile *out) {
    const float *a = x[0], *b = x[1] ? x[1] : a, *z = x[2] ? x[2] : a;
    c->kernels->tile(&p->insn, (n + 15) / 16 * 16, a, b, z, out->f);
}

static void pointwise_tiles(const NdCall *c, void *job, int64_t begin, int64_t end, uint32_t worker) {
    Pointwise p = *(const Pointwise *)job;
    (void)worker;
    const NdTensor *to = c->out[0];
    NdTile in[3] = {{{0}}}, out = {{0}};
    for (uint32_t i = 0; i < c->n_in; i++) nd_seek(&p.in[i], begin * ND_TILE);
    for (int64_t at = begin * ND_TILE; at < end * ND_TILE && at < to->count; at += ND_TILE) {
        size_t n = to->count - at < ND_TILE ? (size_t)(to->count - at) : ND_TILE;
        const void *x[3] = {NULL, NULL, NULL};
        for (uint32_t i = 0; i < c->n_in; i++) {
            x[i] = nd_fetch(&p.in[i], p.k, c->in[i], n, &in[i]);
            /* the float kernels read whole vectors */
            if (p.k == ND_FLOAT && n % 16 && x[i] != &in[i]) x[i] = memcpy(&in[i], x[i], n * sizeof(float));
        }
        if (p.k == ND_FLOAT)
            tile_floats(c, &p, n, x, &out);
        else
            tile_wide(c, &p, n, x, &out);
        nd_store(p.k, to->dtype, to->data, at, 1, n, &out);
    }
}

static NdClass compute_class(const NdCall *c) {
    if (c->node->op == ART_FN_WHERE) return nd_class(c->in[1]->dtype);
    NdClass k = nd_class(c->in[0]->dtype);
    if (c->node->op != ART_FN_POW || k == nd_class(c->in[1]->dtype)) return k;
    return ND_DOUBLE; /* a power of mixed dtypes */
}

gptc_status nd_pointwise(const NdCall *c) {
    const ArtNode *node = c->node;
    Pointwise p = {.k = compute_class(c)};
    p.insn = (ArtInsn){.op = instruction[node->op], .imm = node->alpha};
    if (node->op == ART_FN_GELU && node->flags & ART_FN_TANH_FORM) p.insn.op = ART_I_GELU_TANH;
    for (uint32_t i = 0; i < c->n_in; i++) {
        p.is_unsigned |= (uint32_t)nd_is_unsigned(c->in[i]->dtype) << i;
        p.in[i] = operand_cursor(c, i);
    }
    nd_share(c, (c->out[0]->count + ND_TILE - 1) / ND_TILE, ND_TILE, pointwise_tiles, &p);
    return GPTC_OK;
}

/* ---- conversion ---- */
static void cast_tiles(const NdCall *c, void *job, int64_t begin, int64_t end, uint32_t worker) {
    NdClass k = *(const NdClass *)job;
    const NdTensor *x = c->in[0], *to = c->out[0];
    (void)worker;
    for (int64_t at = begin * ND_TILE; at < end * ND_TILE && at < to->count; at += ND_TILE) {
        NdTile t;
        size_t n = to->count - at < ND_TILE ? (size_t)(to->count - at) : ND_TILE;
        nd_load(k, x->dtype, x->data, at, 1, n, &t);
        nd_store(k, to->dtype, to->data, at, 1, n, &t);
    }
}

/* Between integers by int64, between floats up to f32 by float; all else by double. */
gptc_status nd_cast(const NdCall *c) {
    NdClass from = nd_class(c->in[0]->dtype), to = nd_class(c->out[0]->dtype);
    NdClass k = from == to ? from : ND_DOUBLE;
    nd_share(c, (c->out[0]->count + ND_TILE - 1) / ND_TILE, ND_TILE, cast_tiles, &k);
    return GPTC_OK;
}

/* ---- sources ---- */
gptc_status nd_iota(const NdCall *c) {
    const NdTensor *to = c->out[0];
    NdLines l = nd_lines(to, c->node->axis);
    for (int64_t at = 0; at < to->count;) {
        NdTile t;
        size_t n = 0;
        for (; n < ND_TILE && at + (int64_t)n < to->count; n++) t.i[n] = (at + (int64_t)n) / l.inner % l.len;
        for (size_t i = 0; nd_is_float(to->dtype) && i < n; i++) t.d[i] = (double)t.i[i];
        nd_store(nd_is_float(to->dtype) ? ND_DOUBLE : ND_INT, to->dtype, to->data, at, 1, n, &t);
        at += (int64_t)n;
    }
    return GPTC_OK;
}

gptc_status nd_dim(const NdCall *c) {
    NdTile t = {.i = {c->value}};
    nd_store(ND_INT, c->out[0]->dtype, c->out[0]->data, 0, 1, 1, &t);
    return GPTC_OK;
}
