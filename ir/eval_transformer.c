/* eval_transformer.c: norm, rope, attention. */
#include <math.h>
#include <string.h>

#include "ir/eval.h"

bool eval_norm(EvalCtx *e) {
    const Tensor *x = e->in[0], *gamma = eval_operand(e, 1), *beta = eval_operand(e, 2);
    size_t n = (size_t)x->dim[x->rank - 1];
    int64_t rows = tensor_span(x, 0, x->rank - 1);
    double *v = arena_array_of(e->scratch, n, double);
    double *g = arena_array_of(e->scratch, n, double);
    double *b = arena_array_of(e->scratch, n, double);
    if (gamma != NULL) tensor_load_f64(gamma, 0, 1, n, g);
    if (beta != NULL) tensor_load_f64(beta, 0, 1, n, b);
    for (int64_t r = 0; r < rows && n != 0; r++) {
        double mean = 0, squares = 0;
        tensor_load_f64(x, r * (int64_t)n, 1, n, v);
        if (!e->n->attr.rms) {
            for (size_t i = 0; i < n; i++) mean += v[i];
            mean /= (double)n;
        }
        for (size_t i = 0; i < n; i++) {
            v[i] -= mean;
            squares += v[i] * v[i];
        }
        double inverse = 1 / sqrt(squares / (double)n + (double)e->n->attr.eps);
        for (size_t i = 0; i < n; i++) {
            v[i] *= inverse;
            if (gamma != NULL) v[i] *= g[i];
            if (beta != NULL) v[i] += b[i];
        }
        tensor_store_f64(&e->out[0], r * (int64_t)n, n, v);
    }
    return true;
}

bool eval_rope(EvalCtx *e) {
    const Tensor *x = e->in[0], *pos = e->in[3];
    int64_t batch = x->dim[0], seq = x->dim[1], heads = x->dim[2], d = x->dim[3];
    int64_t rows = e->in[1]->dim[0], half = e->in[1]->dim[1];
    double *v = arena_array_of(e->scratch, (size_t)d, double);
    double *cs = arena_array_of(e->scratch, (size_t)half, double);
    double *sn = arena_array_of(e->scratch, (size_t)half, double);
    int64_t near = e->n->attr.interleaved ? 2 : 1, far = e->n->attr.interleaved ? 1 : half;
    for (int64_t r = 0; r < batch * seq; r++) {
        int64_t p = 0;
        tensor_load_i64(pos, r % seq, 1, 1, &p);
        if (p < 0 || p >= rows)
            return eval_error(e, "position %lld is outside a table of %lld rows", (long long)p,
                              (long long)rows);
        tensor_load_f64(e->in[1], p * half, 1, (size_t)half, cs);
        tensor_load_f64(e->in[2], p * half, 1, (size_t)half, sn);
        for (int64_t h = 0; h < heads; h++) {
            int64_t at = (r * heads + h) * d;
            tensor_load_f64(x, at, 1, (size_t)d, v);
            for (int64_t i = 0; i < half; i++) {
                double x1 = v[i * near], x2 = v[i * near + far];
                v[i * near] = x1 * cs[i] - x2 * sn[i];
                v[i * near + far] = x2 * cs[i] + x1 * sn[i];
            }
            tensor_store_f64(&e->out[0], at, (size_t)d, v);
        }
    }
    return true;
}

/* ---- attention ----
 * One task per batch and head. Queries go in blocks of rows: scores of a block against all keys it
 * can see, softmax in double, then weights times values. */

#define QUERIES 64

typedef struct {
    float *scores, *gemm;
    double *row, *mask;
} AttentionScratch;

typedef struct {
    const Node *n;
    int64_t seq, heads, d, total, kv_heads, dv;
    const float *q;
    const Tensor *k, *v, *mask;
    int64_t mask_stride[4];
    const double *slopes, *sinks;
    double rounding[6]; /* of scores and of weights: step, low, high */
    float *out;
    AttentionScratch *scratch; /* per worker */
} Attention;

/* Keys [from, to) that the query at position pos may see. */
static void visible_keys(const Attention *a, int64_t pos, int64_t *from, int64_t *to) {
    int64_t window = a->n->attr.window;
    *from = window > 0 && pos - window + 1 > 0 ? pos - window + 1 : 0;
    *to = a->n->attr.causal && pos + 1 < a->total ? pos + 1 : a->total;
    if (*to < 0) *to = 0;
    if (*from > *to) *from = *to;
}

/* x as quantisation to some bits rounds it; r: step, low, high. */
static double rounded(double x, const double *r) {
    if (!(r[0] > 0)) return x;
    return fmin(fmax(rint((double)(float)(x / r[0])), r[1]), r[2]) * r[0];
}

/* Turns q.k of query i into weights over keys [0, n). */
static void attention_row(const Attention *a, const AttentionScratch *s, int64_t b, int64_t h, int64_t i,
                          int64_t n, float *score) {
    int64_t pos = a->total - a->seq + i, from = 0, to = 0;
    double scale = (double)a->n->attr.scale, cap = (double)a->n->attr.softcap;
    double max = a->sinks != NULL ? a->sinks[h] : -INFINITY, sum = 0;
    visible_keys(a, pos, &from, &to);
    bool boolean = a->mask != NULL && a->mask->dtype == DT_BOOL;
    if (a->mask != NULL) {
        const int64_t *st = a->mask_stride;
        tensor_load_f64(a->mask, b * st[0] + h * st[1] + i * st[2], st[3], (size_t)n, s->mask);
    }
    for (int64_t j = 0; j < n; j++) {
        double x = rounded(scale * (double)score[j], a->rounding);
        if (cap > 0) x = cap * tanh(x / cap);
        if (a->slopes != NULL) x += a->slopes[h] * (double)(j - pos);
        if (a->mask != NULL && !boolean) x += s->mask[j];
        bool seen = j >= from && j < to && !(boolean && s->mask[j] == 0);
        s->row[j] = seen ? x : -INFINITY;
        if (seen && (x > max || isnan(x))) max = x;
    }
    if (max == -INFINITY) {
        memset(score, 0, (size_t)n * sizeof(float));
        return;
    }
    for (int64_t j = 0; j < n; j++) sum += s->row[j] = exp(s->row[j] - max);
    if (a->sinks != NULL) sum += exp(a->sinks[h] - max);
    for (int64_t j = 0; j < n; j++) score[j] = (float)rounded(s->row[j] / sum, a->rounding + 3);
}

static void attention_task(void *ctx, size_t task, size_t worker) {
    const Attention *a = ctx;
    const AttentionScratch *s = &a->scratch[worker];
    int64_t b = (int64_t)task / a->heads, h = (int64_t)task % a->heads;
    int64_t kv = h / (a->heads / a->kv_heads);
    size_t k_size = dtype_size(a->k->dtype), v_size = dtype_size(a->v->dtype);
    const char *k = (const char *)a->k->data + (size_t)((b * a->total * a->kv_heads + kv) * a->d) * k_size;
    const char *v = (const char *)a->v->data + (size_t)((b * a->total * a->kv_heads + kv) * a->dv) * v_size;
    for (int64_t i0 = 0; i0 < a->seq; i0 += QUERIES) {
        int64_t m = a->seq - i0 < QUERIES ? a->seq - i0 : QUERIES, from = 0, n = 0;
        visible_keys(a, a->total - a->seq + i0 + m - 1, &from, &n);
        int64_t row = (b * a->seq + i0) * a->heads + h;
        Gemm qk = {.m = m,
                   .n = n,
                   .k = a->d,
                   .lda = a->heads * a->d,
                   .ldb = a->kv_heads * a->d,
                   .ldc = n,
                   .a = a->q + row * a->d,
                   .b = k,
                   .b_dtype = a->k->dtype,
                   .trans = true,
                   .c = s->scores};
        Gemm pv = {.m = m,
                   .n = a->dv,
                   .k = n,
                   .lda = n,
                   .ldb = a->kv_heads * a->dv,
                   .ldc = a->heads * a->dv,
                   .a = s->scores,
                   .b = v,
                   .b_dtype = a->v->dtype,
                   .c = a->out + row * a->dv};
        gemm_block(&qk, 0, m, 0, n, s->gemm);
        for (int64_t i = 0; i < m; i++) attention_row(a, s, b, h, i0 + i, n, s->scores + i * n);
        gemm_block(&pv, 0, m, 0, a->dv, s->gemm);
    }
}

/* An optional [heads] operand. */
static const double *head_values(EvalCtx *e, uint32_t i, int64_t heads) {
    const Tensor *t = eval_operand(e, i);
    if (t == NULL) return NULL;
    double *v = arena_array_of(e->scratch, (size_t)heads, double);
    tensor_load_f64(t, 0, 1, (size_t)heads, v);
    return v;
}

/* Products read f16, bf16 and f32 as they are. */
static const Tensor *gemm_operand(EvalCtx *e, const Tensor *t) {
    if (t->dtype != DT_F64) return t;
    Tensor *copy = arena_dup(e->scratch, t, sizeof(*t));
    const float *data = tensor_as_f32(t, e->scratch);
    copy->data = arena_dup(e->scratch, data, tensor_count(t) * sizeof(float));
    copy->dtype = DT_F32;
    return copy;
}

bool eval_attention(EvalCtx *e) {
    const Tensor *q = e->in[0], *k = e->in[1], *v = e->in[2];
    Tensor *out = &e->out[0];
    size_t total = tensor_count(out);
    Attention a = {.n = e->n,
                   .seq = q->dim[1],
                   .heads = q->dim[2],
                   .d = q->dim[3],
                   .total = k->dim[1],
                   .kv_heads = k->dim[2],
                   .dv = v->dim[3],
                   .mask = eval_operand(e, 3)};
    if (total == 0) return true;
    a.q = tensor_as_f32(q, e->scratch);
    a.k = gemm_operand(e, k);
    a.v = gemm_operand(e, v);
    if (a.mask != NULL) tensor_broadcast_strides(a.mask, 4, a.mask_stride);
    a.slopes = head_values(e, 4, a.heads);
    a.sinks = head_values(e, 5, a.heads);
    if (eval_operand(e, 6) != NULL) tensor_load_f64(eval_operand(e, 6), 0, 1, 6, a.rounding);
    a.out = out->dtype == DT_F32 ? out->data : arena_array_of(e->scratch, total, float);
    size_t tasks = (size_t)(q->dim[0] * a.heads);
    double flops = 2.0 * (double)tasks * (double)a.seq * (double)a.total * (double)(a.d + a.dv + 8);
    size_t workers = parallel_workers(tasks, flops);
    a.scratch = arena_array_of(e->scratch, workers, AttentionScratch);
    int64_t rows = a.seq < QUERIES ? a.seq : QUERIES;
    for (size_t i = 0; i < workers; i++) {
        a.scratch[i].scores = arena_array_of(e->scratch, (size_t)(rows * a.total), float);
        a.scratch[i].gemm = arena_array_of(e->scratch, GEMM_SCRATCH, float);
        a.scratch[i].row = arena_array_of(e->scratch, (size_t)a.total, double);
        a.scratch[i].mask = arena_array_of(e->scratch, (size_t)a.total, double);
    }
    parallel_run(tasks, workers, attention_task, &a);
    if (out->dtype == DT_F32) return true;
    Tensor wide = {.dtype = DT_F32, .rank = 1, .dim = {(int64_t)total}, .data = a.out};
    tensor_convert(out, &wide);
    return true;
}
