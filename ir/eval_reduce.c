/* eval_reduce.c: ops along axes. Floats accumulate in double, integers wrap around in int64. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/eval.h"

/* ---- reduce_* ---- */

static double start_f64(Op op) {
    switch (op) {
    case OP_REDUCE_PROD: return 1;
    case OP_REDUCE_MAX: return -INFINITY;
    case OP_REDUCE_MIN: return INFINITY;
    default: return 0;
    }
}

static double fold_f64(Op op, double acc, const double *v, size_t n) {
    for (size_t i = 0; i < n; i++) {
        switch (op) {
        case OP_REDUCE_PROD: acc *= v[i]; break;
        case OP_REDUCE_MAX: acc = isnan(acc) || acc > v[i] ? acc : v[i]; break;
        case OP_REDUCE_MIN: acc = isnan(acc) || acc < v[i] ? acc : v[i]; break;
        default: acc += v[i]; break;
        }
    }
    return acc;
}

/* What no element at all gives: the dtype's own limits for the largest and the smallest. */
static int64_t start_i64(Op op, DType t) {
    int bits = (int)dtype_size(t) * 8;
    bool is_signed = dtype_class(t) == DC_INT;
    int64_t high = (int64_t)(UINT64_MAX >> (is_signed ? 65 - bits : 64 - bits));
    if (t == DT_BOOL) high = 1;
    switch (op) {
    case OP_REDUCE_PROD: return 1;
    case OP_REDUCE_MAX: return is_signed ? -high - 1 : 0;
    case OP_REDUCE_MIN: return high;
    default: return 0;
    }
}

static int64_t fold_i64(Op op, bool uns, int64_t acc, const int64_t *v, size_t n) {
    for (size_t i = 0; i < n; i++) {
        bool less = uns ? (uint64_t)acc < (uint64_t)v[i] : acc < v[i];
        switch (op) {
        case OP_REDUCE_PROD: acc = (int64_t)((uint64_t)acc * (uint64_t)v[i]); break;
        case OP_REDUCE_MAX: acc = less ? v[i] : acc; break;
        case OP_REDUCE_MIN: acc = less ? acc : v[i]; break;
        default: acc = (int64_t)((uint64_t)acc + (uint64_t)v[i]); break;
        }
    }
    return acc;
}

static double mean_f64(double sum, int64_t count) { return sum / (double)count; }

static int64_t mean_i64(int64_t sum, int64_t count, bool uns) {
    if (count == 0) return 0;
    return uns ? (int64_t)((uint64_t)sum / (uint64_t)count) : sum / count;
}

/* Reduces the elements that `inner` walks from offset `at` on into element `to` of the result. */
static void reduce_one(EvalCtx *e, const Walk *inner, int64_t at, int64_t to, int64_t count) {
    const Tensor *x = e->in[0];
    Op op = e->n->op;
    bool uns = dtype_class(x->dtype) == DC_UINT || x->dtype == DT_BOOL;
    bool is_float = dtype_is_float(x->dtype);
    double f = start_f64(op);
    int64_t k = start_i64(op, x->dtype);
    Walk w = *inner;
    w.at[0] = at;
    while (walk_next(&w)) {
        for (int64_t j = 0; j < w.n; j += EVAL_BLOCK) {
            size_t n = w.n - j < EVAL_BLOCK ? (size_t)(w.n - j) : EVAL_BLOCK;
            int64_t from = w.at[0] + j * w.step[0];
            if (is_float) {
                double v[EVAL_BLOCK];
                tensor_load_f64(x, from, w.step[0], n, v);
                f = fold_f64(op, f, v, n);
            } else {
                int64_t v[EVAL_BLOCK];
                tensor_load_i64(x, from, w.step[0], n, v);
                k = fold_i64(op, uns, k, v, n);
            }
        }
    }
    if (op == OP_REDUCE_MEAN) {
        f = mean_f64(f, count);
        k = mean_i64(k, count, uns);
    }
    if (is_float)
        tensor_store_f64(&e->out[0], to, 1, &f);
    else
        tensor_store_i64(&e->out[0], to, 1, &k);
}

bool eval_reduce(EvalCtx *e) {
    const Tensor *x = e->in[0];
    int64_t stride[MAX_RANK], count = 1, to = 0;
    Walk kept = {0}, inner = {0};
    uint32_t nkept = 0, ninner = 0;
    tensor_strides(x, stride);
    for (uint32_t i = 0; i < x->rank; i++) {
        bool reduced = e->n->attr.axes >> i & 1u;
        Walk *w = reduced ? &inner : &kept;
        uint32_t *at = reduced ? &ninner : &nkept;
        w->dim[*at] = x->dim[i];
        w->stride[0][(*at)++] = stride[i];
        if (reduced) count *= x->dim[i];
    }
    walk_init(&kept, nkept, 1);
    walk_init(&inner, ninner, 1);
    while (walk_next(&kept)) {
        for (int64_t j = 0; j < kept.n; j++)
            reduce_one(e, &inner, kept.at[0] + j * kept.step[0], to++, count);
    }
    return true;
}

/* ---- lines along an axis ---- */

static int64_t line_start(const Lines *l, int64_t line) {
    return line / l->inner * l->len * l->inner + line % l->inner;
}

/* Integers in the order of the elements of line: x[i] < x[j] exactly when key[i] < key[j]. NaN
 * comes last, -0 equals 0. */
static void line_keys(const Tensor *x, const Lines *l, int64_t line, double *tmp, int64_t *key) {
    size_t n = (size_t)l->len;
    if (!dtype_is_float(x->dtype)) {
        tensor_load_i64(x, line_start(l, line), l->inner, n, key);
        if (x->dtype == DT_U64)
            for (size_t i = 0; i < n; i++) key[i] ^= INT64_MIN;
        return;
    }
    tensor_load_f64(x, line_start(l, line), l->inner, n, tmp);
    for (size_t i = 0; i < n; i++) {
        double v = isnan(tmp[i]) ? NAN : tmp[i] + 0.0;
        int64_t bits = 0;
        memcpy(&bits, &v, sizeof(bits));
        key[i] = isnan(v) ? INT64_MAX : bits < 0 ? bits ^ INT64_MAX : bits;
    }
}

bool eval_arg(EvalCtx *e) {
    const Tensor *x = e->in[0];
    Lines l = tensor_lines(x, e->n->attr.axis);
    if (l.len == 0 && tensor_count(&e->out[0]) != 0) return eval_error(e, "the axis is empty");
    double *tmp = arena_array_of(e->scratch, (size_t)l.len, double);
    int64_t *key = arena_array_of(e->scratch, (size_t)l.len, int64_t);
    bool min = e->n->op == OP_ARGMIN, last = e->n->attr.last;
    for (int64_t line = 0; line < l.outer * l.inner; line++) {
        line_keys(x, &l, line, tmp, key);
        int64_t best = 0;
        for (int64_t i = 1; i < l.len; i++) {
            bool better = min ? key[i] < key[best] : key[i] > key[best];
            if (better || (last && key[i] == key[best])) best = i;
        }
        tensor_store_i64(&e->out[0], line, 1, &best);
    }
    return true;
}

bool eval_cumsum(EvalCtx *e) {
    const Tensor *x = e->in[0];
    Lines l = tensor_lines(x, e->n->attr.axis);
    size_t n = (size_t)l.len;
    double *f = arena_array_of(e->scratch, n, double);
    int64_t *k = arena_array_of(e->scratch, n, int64_t);
    bool is_float = dtype_is_float(x->dtype), reverse = e->n->attr.reverse;
    for (int64_t line = 0; line < l.outer * l.inner; line++) {
        int64_t at = line_start(&l, line);
        double fsum = 0;
        uint64_t ksum = 0;
        if (is_float)
            tensor_load_f64(x, at, l.inner, n, f);
        else
            tensor_load_i64(x, at, l.inner, n, k);
        for (size_t j = 0; j < n; j++) {
            size_t i = reverse ? n - 1 - j : j;
            double fbefore = fsum;
            uint64_t kbefore = ksum;
            fsum += f[i];
            ksum += (uint64_t)k[i];
            f[i] = e->n->attr.exclusive ? fbefore : fsum;
            k[i] = (int64_t)(e->n->attr.exclusive ? kbefore : ksum);
        }
        if (is_float)
            tensor_store_f64_strided(&e->out[0], at, l.inner, n, f);
        else
            tensor_store_i64_strided(&e->out[0], at, l.inner, n, k);
    }
    return true;
}

bool eval_softmax(EvalCtx *e) {
    const Tensor *x = e->in[0];
    Lines l = tensor_lines(x, e->n->attr.axis);
    size_t n = (size_t)l.len;
    double *v = arena_array_of(e->scratch, n, double);
    for (int64_t line = 0; line < l.outer * l.inner; line++) {
        int64_t at = line_start(&l, line);
        double max = -INFINITY, sum = 0;
        tensor_load_f64(x, at, l.inner, n, v);
        for (size_t i = 0; i < n; i++) max = v[i] > max ? v[i] : max;
        for (size_t i = 0; i < n; i++) sum += v[i] = exp(v[i] - max);
        for (size_t i = 0; i < n; i++) v[i] /= sum;
        tensor_store_f64_strided(&e->out[0], at, l.inner, n, v);
    }
    return true;
}

typedef struct {
    int64_t key, index;
} Ranked;

/* Larger keys first, then smaller indices. */
static int ranked_order(const void *pa, const void *pb) {
    const Ranked *a = pa, *b = pb;
    if (a->key != b->key) return a->key > b->key ? -1 : 1;
    return (a->index > b->index) - (a->index < b->index);
}

bool eval_topk(EvalCtx *e) {
    const Tensor *x = e->in[0];
    Tensor *values = &e->out[0];
    Lines l = tensor_lines(x, e->n->attr.axis), to = tensor_lines(values, e->n->attr.axis);
    size_t n = (size_t)l.len, size = dtype_size(x->dtype);
    if (to.len > l.len)
        return eval_error(e, "%lld of an axis of length %lld", (long long)to.len, (long long)l.len);
    double *tmp = arena_array_of(e->scratch, n, double);
    int64_t *key = arena_array_of(e->scratch, n, int64_t);
    Ranked *ranked = arena_array_of(e->scratch, n, Ranked);
    for (int64_t line = 0; line < l.outer * l.inner; line++) {
        line_keys(x, &l, line, tmp, key);
        for (size_t i = 0; i < n; i++)
            ranked[i] = (Ranked){e->n->attr.smallest ? ~key[i] : key[i], (int64_t)i};
        qsort(ranked, n, sizeof(*ranked), ranked_order);
        for (int64_t j = 0; j < to.len; j++) {
            int64_t dst = line_start(&to, line) + j * to.inner;
            int64_t src = line_start(&l, line) + ranked[j].index * l.inner;
            memcpy((char *)values->data + (size_t)dst * size, (const char *)x->data + (size_t)src * size,
                   size);
            tensor_store_i64(&e->out[1], dst, 1, &ranked[j].index);
        }
    }
    return true;
}
