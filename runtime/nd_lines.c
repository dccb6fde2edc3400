/* nd_lines.c: ops on lines along an axis: softmax, norm, cumulative sums, the largest of a line. */
#include "runtime/nd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t tile_length(int64_t len, int64_t at) {
    return len - at < ND_TILE ? (size_t)(len - at) : ND_TILE;
}

/* ---- softmax ---- */
/* exp(v - max) of n elements. */
static void exponentials(const NdCall *c, NdClass k, double max, size_t n, NdTile *v) {
    if (k == ND_FLOAT) {
        static const ArtInsn insn = {.op = ART_I_EXP};
        float m = (float)max;
        for (size_t i = 0; i < n; i++) v->f[i] -= m;
        for (size_t i = n; i % 16; i++) v->f[i] = 0;
        c->kernels->tile(&insn, (n + 15) / 16 * 16, v->f, v->f, v->f, v->f);
    } else {
        for (size_t i = 0; i < n; i++) v->d[i] = exp(v->d[i] - max);
    }
}

static double element_of(NdClass k, const NdTile *v, size_t i) {
    return k == ND_FLOAT ? (double)v->f[i] : v->d[i];
}

static double largest(NdClass k, const NdTile *v, size_t n, double max) {
    float m = (float)max;
    if (k == ND_FLOAT) {
        for (size_t i = 0; i < n; i++) m = v->f[i] > m ? v->f[i] : m;
        return (double)m;
    }
    for (size_t i = 0; i < n; i++) max = v->d[i] > max ? v->d[i] : max;
    return max;
}

/* f32 and f64 keep the exponentials in the result; 16-bit floats compute them twice, to round once. */
static void softmax_lines(const NdCall *c, void *job, int64_t begin, int64_t end, uint32_t worker) {
    const NdTensor *x = c->in[0], *to = c->out[0];
    const NdLines *l = job;
    NdClass k = nd_class(x->dtype);
    bool keep = x->dtype == nd_class_dtype(k);
    (void)worker;
    for (int64_t line = begin; line < end; line++) {
        int64_t at = nd_line(l, line);
        NdTile v;
        double max = -INFINITY, sum = 0;
        for (int64_t j = 0; j < l->len; j += ND_TILE) {
            size_t n = tile_length(l->len, j);
            nd_load(k, x->dtype, x->data, at + j * l->inner, l->inner, n, &v);
            max = largest(k, &v, n, max);
        }
        for (int64_t j = 0; j < l->len; j += ND_TILE) {
            size_t n = tile_length(l->len, j);
            nd_load(k, x->dtype, x->data, at + j * l->inner, l->inner, n, &v);
            exponentials(c, k, max, n, &v);
            for (size_t i = 0; i < n; i++) sum += element_of(k, &v, i);
            if (keep) nd_store(k, to->dtype, to->data, at + j * l->inner, l->inner, n, &v);
        }
        for (int64_t j = 0; j < l->len; j += ND_TILE) {
            size_t n = tile_length(l->len, j);
            const NdTensor *from = keep ? to : x;
            nd_load(k, from->dtype, from->data, at + j * l->inner, l->inner, n, &v);
            if (!keep) exponentials(c, k, max, n, &v);
            for (size_t i = 0; i < n; i++) {
                if (k == ND_FLOAT)
                    v.f[i] *= (float)(1 / sum);
                else
                    v.d[i] /= sum;
            }
            nd_store(k, to->dtype, to->data, at + j * l->inner, l->inner, n, &v);
        }
    }
}

gptc_status nd_softmax(const NdCall *c) {
    NdLines l = nd_lines(c->in[0], c->node->axis);
    if (c->out[0]->count > 0) nd_share(c, l.outer * l.inner, l.len * 4, softmax_lines, &l);
    return GPTC_OK;
}

/* ---- norm: over the last axis, sums in double ---- */
static void norm_tile(const NdCall *c, int64_t j, size_t n, double mean, double scale, NdTile *v) {
    NdTile by;
    for (size_t i = 0; i < n; i++) v->d[i] = (v->d[i] - mean) * scale;
    for (uint32_t which = 1; which < c->n_in; which++) {
        const NdTensor *t = c->in[which];
        if (!t) continue;
        nd_load(ND_DOUBLE, t->dtype, t->data, j, 1, n, &by);
        for (size_t i = 0; i < n; i++) v->d[i] = which == 1 ? v->d[i] * by.d[i] : v->d[i] + by.d[i];
    }
}

static void norm_rows(const NdCall *c, void *job, int64_t begin, int64_t end, uint32_t worker) {
    const NdTensor *x = c->in[0], *to = c->out[0];
    int64_t width = *(const int64_t *)job;
    NdTile v;
    (void)worker;
    for (int64_t row = begin; row < end; row++) {
        double mean = 0, squares = 0;
        for (int64_t j = 0; !(c->node->flags & ART_FN_RMS) && j < width; j += ND_TILE) {
            size_t n = tile_length(width, j);
            nd_load(ND_DOUBLE, x->dtype, x->data, row * width + j, 1, n, &v);
            for (size_t i = 0; i < n; i++) mean += v.d[i];
        }
        mean /= (double)width;
        for (int64_t j = 0; j < width; j += ND_TILE) {
            size_t n = tile_length(width, j);
            nd_load(ND_DOUBLE, x->dtype, x->data, row * width + j, 1, n, &v);
            for (size_t i = 0; i < n; i++) squares += (v.d[i] - mean) * (v.d[i] - mean);
        }
        double scale = 1 / sqrt(squares / (double)width + (double)c->node->eps);
        for (int64_t j = 0; j < width; j += ND_TILE) {
            size_t n = tile_length(width, j);
            nd_load(ND_DOUBLE, x->dtype, x->data, row * width + j, 1, n, &v);
            norm_tile(c, j, n, mean, scale, &v);
            nd_store(ND_DOUBLE, to->dtype, to->data, row * width + j, 1, n, &v);
        }
    }
}

gptc_status nd_norm(const NdCall *c) {
    int64_t width = c->in[0]->dim[c->in[0]->rank - 1];
    if (c->out[0]->count > 0) nd_share(c, c->out[0]->count / width, width * 4, norm_rows, &width);
    return GPTC_OK;
}

/* ---- cumulative sums ---- */
static void cumsum_lines(const NdCall *c, void *job, int64_t begin, int64_t end, uint32_t worker) {
    const NdTensor *x = c->in[0], *to = c->out[0];
    const NdLines *l = job;
    bool is_float = nd_is_float(x->dtype), exclusive = c->node->flags & ART_FN_EXCLUSIVE;
    bool reverse = c->node->flags & ART_FN_REVERSE;
    NdClass k = is_float ? ND_DOUBLE : ND_INT;
    int64_t step = reverse ? -l->inner : l->inner;
    (void)worker;
    for (int64_t line = begin; line < end; line++) {
        int64_t at = nd_line(l, line) + (reverse ? (l->len - 1) * l->inner : 0);
        double sum = 0;
        uint64_t whole = 0;
        for (int64_t j = 0; j < l->len; j += ND_TILE) {
            NdTile v;
            size_t n = tile_length(l->len, j);
            nd_load(k, x->dtype, x->data, at + j * step, step, n, &v);
            for (size_t i = 0; is_float && i < n; i++) {
                double before = sum;
                sum += v.d[i];
                v.d[i] = exclusive ? before : sum;
            }
            for (size_t i = 0; !is_float && i < n; i++) {
                uint64_t before = whole;
                whole += (uint64_t)v.i[i];
                v.i[i] = (int64_t)(exclusive ? before : whole);
            }
            nd_store(k, to->dtype, to->data, at + j * step, step, n, &v);
        }
    }
}

gptc_status nd_cumsum(const NdCall *c) {
    NdLines l = nd_lines(c->in[0], c->node->axis);
    if (c->out[0]->count > 0) nd_share(c, l.outer * l.inner, l.len, cumsum_lines, &l);
    return GPTC_OK;
}

/* ---- order ---- */
/* Elements j.. of a line as integers in their order: NaN is the largest, -0 equals 0. */
static void load_keys(const NdTensor *x, const NdLines *l, int64_t line, int64_t j, size_t n, NdTile *v) {
    int64_t at = nd_line(l, line) + j * l->inner;
    if (!nd_is_float(x->dtype)) {
        nd_load(ND_INT, x->dtype, x->data, at, l->inner, n, v);
        for (size_t i = 0; x->dtype == ART_U64 && i < n; i++) v->i[i] ^= INT64_MIN;
        return;
    }
    nd_load(ND_DOUBLE, x->dtype, x->data, at, l->inner, n, v);
    for (size_t i = 0; i < n; i++) {
        double value = v->d[i] + 0.0; /* -0 becomes 0 */
        int64_t bits;
        memcpy(&bits, &value, sizeof bits);
        v->i[i] = value != value ? INT64_MAX : bits < 0 ? bits ^ INT64_MAX : bits;
    }
}

static void arg_lines(const NdCall *c, void *job, int64_t begin, int64_t end, uint32_t worker) {
    const NdLines *l = job;
    bool smallest = c->node->op == ART_FN_ARGMIN, last = c->node->flags & ART_FN_LAST;
    int64_t *out = (int64_t *)(void *)c->out[0]->data;
    (void)worker;
    for (int64_t line = begin; line < end; line++) {
        int64_t best = 0, key = 0;
        for (int64_t j = 0; j < l->len; j += ND_TILE) {
            NdTile v;
            size_t n = tile_length(l->len, j);
            load_keys(c->in[0], l, line, j, n, &v);
            for (size_t i = 0; i < n; i++) {
                int64_t x = smallest ? ~v.i[i] : v.i[i];
                if (j + (int64_t)i > 0 && (last ? x < key : x <= key)) continue;
                key = x;
                best = j + (int64_t)i;
            }
        }
        out[line] = best;
    }
}

gptc_status nd_arg(const NdCall *c) {
    NdLines l = nd_lines(c->in[0], c->node->axis);
    if (c->out[0]->count > 0) nd_share(c, l.outer * l.inner, l.len, arg_lines, &l);
    return GPTC_OK;
}

typedef struct {
    int64_t key, index;
} Ranked;

/* The larger key comes first, of equals the smaller index. */
static int ranked_order(const void *a, const void *b) {
    const Ranked *x = a, *y = b;
    if (x->key != y->key) return x->key > y->key ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

/* best[0] is the last in order of a heap of n; lets it sink to its place. */
static void sink(Ranked *best, size_t n) {
    for (size_t i = 0, child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && ranked_order(&best[child + 1], &best[child]) > 0) child++;
        if (ranked_order(&best[i], &best[child]) >= 0) return;
        Ranked t = best[i];
        best[i] = best[child];
        best[child] = t;
    }
}

/* The first `count` of a line: a heap with the last of them on top takes in what comes before that one. */
static void pick(const NdTensor *x, const NdLines *l, int64_t line, bool smallest, size_t count,
                 Ranked *best) {
    size_t have = 0;
    for (int64_t j = 0; j < l->len; j += ND_TILE) {
        NdTile v;
        size_t n = tile_length(l->len, j);
        load_keys(x, l, line, j, n, &v);
        for (size_t i = 0; i < n; i++) {
            Ranked r = {smallest ? ~v.i[i] : v.i[i], j + (int64_t)i};
            if (have < count) {
                best[have++] = r;
                if (have < count) continue;
                qsort(best, count, sizeof *best, ranked_order);
                for (size_t a = 0, b = count - 1; a < b; a++, b--) { /* last first: that is a heap */
                    Ranked t = best[a];
                    best[a] = best[b];
                    best[b] = t;
                }
            } else if (ranked_order(&r, &best[0]) < 0) {
                best[0] = r;
                sink(best, count);
            }
        }
    }
    qsort(best, count, sizeof *best, ranked_order);
}

size_t nd_topk_scratch(const NdCall *c) { return (size_t)c->out[0]->dim[c->node->axis] * sizeof(Ranked); }

gptc_status nd_topk(const NdCall *c) {
    const NdTensor *x = c->in[0], *to = c->out[0];
    NdLines l = nd_lines(x, c->node->axis), out = nd_lines(to, c->node->axis);
    Ranked *best = (Ranked *)(void *)c->scratch;
    size_t size = nd_size(x->dtype);
    for (int64_t line = 0; to->count > 0 && line < l.outer * l.inner; line++) {
        pick(x, &l, line, c->node->flags & ART_FN_SMALLEST, (size_t)out.len, best);
        for (int64_t j = 0; j < out.len; j++) {
            int64_t at = nd_line(&out, line) + j * out.inner;
            int64_t from = nd_line(&l, line) + best[j].index * l.inner;
            memcpy(to->data + (size_t)at * size, x->data + (size_t)from * size, size);
            ((int64_t *)(void *)c->out[1]->data)[at] = best[j].index;
        }
    }
    return GPTC_OK;
}
