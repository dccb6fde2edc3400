/* eval_quant.c: quantize and dequantize, as ONNX's QuantizeLinear and DequantizeLinear define them: the
 * quotient is rounded to fp32 before it is rounded to an integer. */
#include <math.h>

#include "ir/eval.h"

/* Runs of elements of x that lie together, with their scales: entry `scale` on, `step` (0 or 1) apart. */
typedef struct {
    Lines l;
    uint32_t rank; /* of the scale */
    int64_t block, blocks;
    int64_t at, n, scale, step;
} Runs;

static Runs runs_of(const Tensor *x, const Tensor *scale, const Attr *a) {
    Runs r = {.rank = scale->rank, .block = a->block};
    if (x->rank == 0 || r.rank == 0) {
        r.rank = 0;
        r.l = (Lines){1, 1, (int64_t)tensor_count(x)};
    } else {
        r.l = tensor_lines(x, a->axis);
    }
    if (r.block > 0) r.blocks = (r.l.len + r.block - 1) / r.block;
    return r;
}

static bool runs_next(Runs *r) {
    int64_t len = r->l.len, inner = r->l.inner, most = EVAL_BLOCK;
    r->at += r->n;
    if (r->at >= r->l.outer * len * inner) return false;
    int64_t o = r->at / (len * inner), j = r->at / inner % len, i = r->at % inner, left = inner - i;
    r->step = 0;
    if (r->rank == 0) {
        r->scale = 0;
    } else if (r->block == 0) {
        r->scale = j;
        if (inner == 1) left = len - j, r->step = 1;
    } else {
        r->scale = (o * r->blocks + j / r->block) * inner + i;
        if (inner == 1) left = (j / r->block + 1) * r->block < len ? r->block - j % r->block : len - j;
        if (inner > 1) r->step = 1;
    }
    r->n = left < most ? left : most;
    return true;
}

static void load_zeros(const EvalCtx *e, const Runs *r, double *zero) {
    const Tensor *z = eval_operand(e, 2);
    for (int64_t i = 0; z == NULL && i < r->n; i++) zero[i] = 0;
    if (z != NULL) tensor_load_f64(z, z->rank ? r->scale : 0, z->rank ? r->step : 0, (size_t)r->n, zero);
}

/* Elements from r->at on before they are scaled: x itself, or what the grid says of its codes. */
static void load_values(const EvalCtx *e, const Runs *r, double *v) {
    const Tensor *x = e->in[0], *grid = eval_operand(e, 3);
    if (grid == NULL) {
        tensor_load_f64(x, r->at, 1, (size_t)r->n, v);
        return;
    }
    int64_t width = grid->rank == 2 ? grid->dim[1] : 1;
    for (int64_t i = 0; i < r->n; i++) {
        int64_t at = r->at + i, code = tensor_get_i64(x, (size_t)(at / width));
        v[i] = tensor_get_f64(grid, (size_t)(code * width + at % width));
    }
}

bool eval_dequantize(EvalCtx *e) {
    const Tensor *scale = e->in[1];
    double v[EVAL_BLOCK], s[EVAL_BLOCK], zero[EVAL_BLOCK];
    for (Runs r = runs_of(&e->out[0], scale, &e->n->attr); runs_next(&r);) {
        size_t n = (size_t)r.n;
        load_values(e, &r, v);
        tensor_load_f64(scale, r.scale, r.step, n, s);
        load_zeros(e, &r, zero);
        for (size_t i = 0; i < n; i++) v[i] = (v[i] - zero[i]) * s[i];
        tensor_store_f64(&e->out[0], r.at, n, v);
    }
    return true;
}

/* In fp32, as kernels do it: another product before a tie gives another number. */
bool eval_rounded(EvalCtx *e) {
    const Tensor *x = e->in[0];
    const float *from = x->data;
    float *to = e->out[0].data;
    size_t block = (size_t)e->n->attr.block, count = tensor_count(x);
    for (size_t at = 0; at < count; at += block) {
        float most = 0;
        for (size_t i = at; i < at + block; i++)
            most = fabsf(from[i]) > most || isnan(from[i]) ? fabsf(from[i]) : most;
        float step = half_to_float(float_to_half(most / 127)), inverse = step > 0 ? 1 / step : 0;
        for (size_t i = at; i < at + block; i++)
            to[i] = fminf(fmaxf(rintf(from[i] * inverse), -127), 127) * step;
    }
    return true;
}

bool eval_quantize(EvalCtx *e) {
    const Tensor *x = e->in[0], *scale = e->in[1];
    Tensor *out = &e->out[0];
    int bits = (int)dtype_bits(out->dtype);
    bool sign = dtype_class(out->dtype) == DC_INT;
    double low = sign ? -ldexp(1, bits - 1) : 0, high = ldexp(1, sign ? bits - 1 : bits) - 1;
    double v[EVAL_BLOCK], s[EVAL_BLOCK], zero[EVAL_BLOCK];
    int64_t q[EVAL_BLOCK];
    for (Runs r = runs_of(x, scale, &e->n->attr); runs_next(&r);) {
        size_t n = (size_t)r.n;
        tensor_load_f64(x, r.at, 1, n, v);
        tensor_load_f64(scale, r.scale, r.step, n, s);
        load_zeros(e, &r, zero);
        for (size_t i = 0; i < n; i++) {
            double y = rint((double)(float)(v[i] / s[i])) + zero[i];
            q[i] = isnan(y) ? 0 : (int64_t)fmin(fmax(y, low), high);
        }
        tensor_store_i64(out, r.at, n, q);
    }
    return true;
}
