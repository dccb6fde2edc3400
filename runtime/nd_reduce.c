/* nd_reduce.c: reductions over any axes. Floats accumulate in double, integers wrap around in int64.
 *
 * The kept axes and the reduced axes are walked apart. Where the innermost axis is kept, up to ND_TILE
 * neighbouring results accumulate together, so that memory is read along rows either way. */
#include "runtime/nd.h"

#include <math.h>

enum { LANES = 8 }; /* partial results of a row, so that additions do not wait for each other */

typedef struct {
    uint32_t op;
    bool is_float, is_unsigned, columns; /* columns: the innermost axis is kept */
    NdCursor kept, reduced;
    int64_t count, width; /* elements of one result; columns: results side by side */
} Reduce;

static double first_double(uint32_t op) {
    return op == ART_FN_REDUCE_PROD  ? 1
           : op == ART_FN_REDUCE_MAX ? -INFINITY
           : op == ART_FN_REDUCE_MIN ? INFINITY
                                     : 0;
}

/* What no element at all gives: the dtype's own limits for the largest and the smallest. */
static int64_t first_integer(uint32_t op, uint32_t dtype) {
    int bits = dtype == ART_BOOL ? 1 : (int)nd_bits(dtype);
    bool is_signed = dtype != ART_BOOL && !nd_is_unsigned(dtype);
    int64_t high = (int64_t)(UINT64_MAX >> (64 - bits + is_signed));
    switch (op) {
    case ART_FN_REDUCE_PROD: return 1;
    case ART_FN_REDUCE_MAX: return is_signed ? -high - 1 : 0;
    case ART_FN_REDUCE_MIN: return high;
    default: return 0;
    }
}

/* acc[i % lanes] takes in v[i]. */
static void fold_doubles(uint32_t op, double *acc, const double *v, size_t n, size_t lanes) {
#define EACH(expr)                                                                                           \
    for (size_t i = 0; i < n; i += lanes)                                                                    \
        for (size_t j = 0; j < lanes && i + j < n; j++) {                                                    \
            double a = acc[j], x = v[i + j];                                                                 \
            acc[j] = (expr);                                                                                 \
        }                                                                                                    \
    break
    switch (op) {
    case ART_FN_REDUCE_PROD: EACH(a * x);
    case ART_FN_REDUCE_MAX: EACH(a > x || a != a ? a : x);
    case ART_FN_REDUCE_MIN: EACH(a < x || a != a ? a : x);
    default: EACH(a + x);
    }
#undef EACH
}

static void fold_integers(const Reduce *r, int64_t *acc, const int64_t *v, size_t n, size_t lanes) {
    for (size_t i = 0; i < n; i++) {
        int64_t *a = &acc[i % lanes], x = v[i];
        bool rises = r->is_unsigned ? (uint64_t)*a < (uint64_t)x : *a < x;
        switch (r->op) {
        case ART_FN_REDUCE_PROD: *a = (int64_t)((uint64_t)*a * (uint64_t)x); break;
        case ART_FN_REDUCE_MAX: *a = rises ? x : *a; break;
        case ART_FN_REDUCE_MIN: *a = rises ? *a : x; break;
        default: *a = (int64_t)((uint64_t)*a + (uint64_t)x); break;
        }
    }
}

static void fold(const Reduce *r, NdTile *acc, const NdTile *v, size_t n, size_t lanes) {
    if (r->is_float)
        fold_doubles(r->op, acc->d, v->d, n, lanes);
    else
        fold_integers(r, acc->i, v->i, n, lanes);
}

static void start(const Reduce *r, uint32_t dtype, NdTile *acc, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (r->is_float)
            acc->d[i] = first_double(r->op);
        else
            acc->i[i] = first_integer(r->op, dtype);
    }
}

static void finish(const Reduce *r, NdTile *acc, size_t n) {
    if (r->op != ART_FN_REDUCE_MEAN) return;
    for (size_t i = 0; i < n; i++) {
        if (r->is_float)
            acc->d[i] /= (double)r->count;
        else if (r->is_unsigned)
            acc->i[i] = r->count ? (int64_t)((uint64_t)acc->i[i] / (uint64_t)r->count) : 0;
        else
            acc->i[i] = r->count ? acc->i[i] / r->count : 0;
    }
}

/* n results side by side, from offset `at` of x on: what each reduces lies at the same places beside. */
static void reduce_columns(const NdTensor *x, const Reduce *r, int64_t at, size_t n, NdTile *acc) {
    NdClass k = r->is_float ? ND_DOUBLE : ND_INT;
    NdCursor c = r->reduced;
    NdTile v;
    start(r, x->dtype, acc, n);
    for (int64_t i = 0; i < r->count; i++) {
        nd_load(k, x->dtype, x->data, at + c.at, 1, n, &v);
        fold(r, acc, &v, n, n);
        nd_advance(&c, 1);
    }
}

static void reduce_row(const NdTensor *x, const Reduce *r, int64_t at, NdTile *acc) {
    NdClass k = r->is_float ? ND_DOUBLE : ND_INT;
    NdCursor c = r->reduced;
    NdTile v;
    start(r, x->dtype, acc, LANES);
    for (int64_t i = 0; i < r->count;) {
        int64_t n = nd_run_length(&c) < ND_TILE ? nd_run_length(&c) : ND_TILE;
        nd_load(k, x->dtype, x->data, at + c.at, nd_run_stride(&c), (size_t)n, &v);
        fold(r, acc, &v, (size_t)n, LANES);
        nd_advance(&c, n);
        i += n;
    }
    v = *acc;
    start(r, x->dtype, acc, 1);
    fold(r, acc, &v, LANES, 1);
}

/* Items: blocks of up to `width` results. */
static void reduce_items(const NdCall *c, void *job, int64_t begin, int64_t end, uint32_t worker) {
    const Reduce *r = job;
    const NdTensor *x = c->in[0], *to = c->out[0];
    NdCursor kept = r->kept;
    (void)worker;
    int64_t inner = r->columns ? kept.dim[kept.rank - 1] : 1, blocks = (inner + r->width - 1) / r->width;
    for (int64_t item = begin; item < end; item++) {
        NdTile acc;
        int64_t first = item / blocks * inner + item % blocks * r->width;
        int64_t left = inner - item % blocks * r->width, n = left < r->width ? left : r->width;
        nd_seek(&kept, first);
        if (r->columns)
            reduce_columns(x, r, kept.at, (size_t)n, &acc);
        else
            reduce_row(x, r, kept.at, &acc);
        finish(r, &acc, (size_t)n);
        nd_store(r->is_float ? ND_DOUBLE : ND_INT, to->dtype, to->data, first, 1, (size_t)n, &acc);
    }
}

gptc_status nd_reduce(const NdCall *c) {
    const NdTensor *x = c->in[0];
    int64_t stride[ART_MAX_RANK], dim[2][ART_MAX_RANK], step[2][ART_MAX_RANK];
    uint32_t n[2] = {0, 0};
    if (c->out[0]->count == 0) return GPTC_OK;
    Reduce r = {.op = c->node->op, .is_float = nd_is_float(x->dtype), .count = 1, .width = 1};
    r.is_unsigned = x->dtype == ART_BOOL || nd_is_unsigned(x->dtype);
    nd_strides(x, stride);
    for (uint32_t i = 0; i < x->rank; i++) {
        uint32_t which = c->node->axes >> i & 1;
        dim[which][n[which]] = x->dim[i];
        step[which][n[which]++] = stride[i];
        if (which) r.count *= x->dim[i];
        if (x->dim[i] != 1) r.columns = !which;
    }
    r.kept = nd_cursor(n[0], dim[0], step[0], 0);
    r.reduced = nd_cursor(n[1], dim[1], step[1], 0);
    int64_t inner = r.columns ? r.kept.dim[r.kept.rank - 1] : 1;
    if (r.columns) r.width = inner < ND_TILE ? inner : ND_TILE;
    int64_t items = c->out[0]->count / inner * ((inner + r.width - 1) / r.width);
    nd_share(c, items, r.count * r.width, reduce_items, &r);
    return GPTC_OK;
}
