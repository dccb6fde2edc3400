/* rows.h: kernels that go once over rows: gather, norm, rope, store, move. */
#ifndef RUNTIME_CPU_ROWS_H
#define RUNTIME_CPU_ROWS_H

#include "runtime/cpu/groups.h"
#include "runtime/cpu/state.h"
#include "runtime/cpu/vec_math.h"

#include <math.h>

INLINE float half_to_float(uint32_t dtype, uint16_t h) {
    uint16_t t[VW] = {h};
    VH v;
    memcpy(&v, t, sizeof v);
    float f[VW];
    v_store(f, dtype == ART_F16 ? v_from_f16(v) : v_from_bf16(v));
    return f[0];
}

/* The fp16 next to f >= 0, ties to even; beyond 65504 infinity, NaN stays one. */
INLINE uint16_t half_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if (!(f < 65520)) { return f >= 65520 ? 0x7c00 : 0x7e00; }
    if (f < 0x1p-14f) { return (uint16_t)rintf(f * 0x1p24f); }
    return (uint16_t)(((u + 0xfff + (u >> 13 & 1)) >> 13) - (112 << 10));
}

/* The largest magnitude of n floats; NaN when one is. */
INLINE float magnitude_of(const float *x, size_t n) {
    uint32_t most = 0; /* of what are no negative floats bits are in order */
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, x + i, sizeof u);
        u &= 0x7fffffff;
        most = u > most ? u : most;
    }
    float f;
    memcpy(&f, &most, sizeof f);
    return f;
}

static void gather(const CpuWorker *w, const CpuGather *g) {
    size_t begin, end, width = g->width, es = type_bytes(g->dtype);
    share(w, g->rows, &begin, &end);
    for (size_t r = begin; r < end; r++) {
        size_t id = (size_t)g->ids[r];
        float *out = g->out + r * g->out_stride;
        if (g->layout == ART_GROUP16) {
            group_get_row(&g->groups, g->table, width, id, out);
            continue;
        }
        if (g->layout == ART_PANEL16) {
            const char *t = (const char *)g->table + (id / 16 * width * 16 + id % 16) * es;
            for (size_t i = 0; i < width; i++, t += 16 * es) {
                if (g->dtype == ART_F32) {
                    memcpy(out + i, t, sizeof *out);
                } else {
                    uint16_t h;
                    memcpy(&h, t, sizeof h);
                    out[i] = half_to_float(g->dtype, h);
                }
            }
            continue;
        }
        const char *t = (const char *)g->table + id * width * es;
        if (g->dtype == ART_F32) {
            memcpy(out, t, width * 4);
            continue;
        }
        size_t i = 0;
        for (; i + VW <= width; i += VW) { v_store(out + i, v_load_as(g->dtype, t, i)); }
        for (; i < width; i++) {
            uint16_t h;
            memcpy(&h, t + i * 2, sizeof h);
            out[i] = half_to_float(g->dtype, h);
        }
    }
}

/* Sum of (x - mean)^power. */
INLINE float moment(const float *x, size_t n, float mean, int power) {
    V s[4] = {v_zero(), v_zero(), v_zero(), v_zero()}, m = v_set(mean);
    size_t i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW) {
        UNROLL for (size_t j = 0; j < 4; j++) {
            V d = v_load(x + i + j * VW) - m;
            s[j] = power == 1 ? s[j] + d : v_fma(d, d, s[j]);
        }
    }
    for (; i + VW <= n; i += VW) {
        V d = v_load(x + i) - m;
        s[0] = power == 1 ? s[0] + d : v_fma(d, d, s[0]);
    }
    float sum = v_sum((s[0] + s[1]) + (s[2] + s[3]));
    for (; i < n; i++) {
        float d = x[i] - mean;
        sum += power == 1 ? d : d * d;
    }
    return sum;
}

static void norm_one(const CpuNorm *a, const float *x, const float *gamma, const float *beta, float *out) {
    size_t n = a->width, i = 0;
    float mean = a->rms ? 0 : moment(x, n, 0, 1) / (float)n;
    float scale = 1.0f / sqrtf(moment(x, n, mean, 2) / (float)n + a->eps);
    V m = v_set(mean), s = v_set(scale);
    for (; i + VW <= n; i += VW) {
        V v = (v_load(x + i) - m) * s;
        if (gamma) { v *= v_load(gamma + i); }
        if (beta) { v += v_load(beta + i); }
        v_store(out + i, v);
    }
    for (; i < n; i++) {
        float v = (x[i] - mean) * scale;
        if (gamma) { v *= gamma[i]; }
        out[i] = beta ? v + beta[i] : v;
    }
}

static void norm(const CpuWorker *w, const CpuNorm *a) {
    size_t begin, end;
    share(w, (size_t)a->rows * a->groups, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        size_t r = i / a->groups, g = i % a->groups;
        norm_one(a, a->x + r * a->x_stride + g * a->width, a->gamma ? a->gamma + g * a->gamma_stride : NULL,
                 a->beta ? a->beta + g * a->beta_stride : NULL, a->out + r * a->out_stride + g * a->width);
    }
}

static void rope_one(const CpuRope *a, const float *x, const float *cos, const float *sin, float *out) {
    size_t half = a->rotated / 2, i = 0;
    size_t d0 = a->interleaved ? 1 : half, step = a->interleaved ? 2 : 1;
    if (!a->interleaved) {
        for (; i + VW <= half; i += VW) {
            V c = v_load(cos + i), s = v_load(sin + i), p = v_load(x + i), q = v_load(x + half + i);
            v_store(out + i, p * c - q * s);
            v_store(out + half + i, q * c + p * s);
        }
    }
    for (; i < half; i++) {
        float p = x[i * step], q = x[i * step + d0];
        out[i * step] = p * cos[i] - q * sin[i];
        out[i * step + d0] = q * cos[i] + p * sin[i];
    }
    if (out != x) { memcpy(out + a->rotated, x + a->rotated, (a->dim - a->rotated) * sizeof *x); }
}

static void rope(const CpuWorker *w, const CpuRope *a) {
    size_t begin, end, half = a->rotated / 2;
    share(w, (size_t)a->rows * a->heads, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        size_t r = i / a->heads, h = i % a->heads, at = (size_t)a->positions[r] * half;
        rope_one(a, a->x + r * a->x_stride + h * a->dim, a->cos + at, a->sin + at,
                 a->out + r * a->out_stride + h * a->dim);
    }
}

/* One row of a head, as its place takes it: floats, or codes and their step. */
static void store_head(const CpuState *s, StateHead to, size_t at, const float *x) {
    size_t dim = s->dim, first = state_first(s, at), stride = s->by_key ? 16 : 1;
    if (s->kept == ART_STATE_F32) {
        float *f = (float *)to.numbers + first;
        for (size_t d = 0; d < dim; d++) { f[d * stride] = x[d]; }
        return;
    }
    uint16_t h = half_of(magnitude_of(x, dim) / 127);
    float step = half_to_float(ART_F16, h), inverse = step > 0 ? 1 / step : 0;
    int8_t *codes = (int8_t *)to.numbers + first;
    to.steps[at] = h;
    for (size_t d = 0; d < dim; d++) {
        float c = rintf(x[d] * inverse);
        codes[d * stride] = (int8_t)(c > -127 ? c < 127 ? c : 127 : -127);
    }
}

static void store(const CpuWorker *w, const CpuStore *a) {
    size_t begin, end, dim = a->state.dim;
    share(w, (size_t)a->rows * a->state.heads, &begin, &end);
    for (size_t i = begin; i < end; i++) { /* by heads first: workers share few cache lines */
        size_t h = i / a->rows, r = i % a->rows;
        store_head(&a->state, state_head(&a->state, a->sequences[r], h), (size_t)a->positions[r],
                   a->x + r * a->x_stride + h * dim);
    }
}

static void move(const CpuWorker *w, const CpuMove *a) {
    const ArtMove *m = &a->move;
    size_t begin, end;
    share(w, (size_t)a->rows * m->count[0], &begin, &end);
    for (size_t n = begin; n < end; n++) {
        size_t r = n / m->count[0], i = n % m->count[0];
        const float *x = a->x + r * a->x_stride + m->src_offset + i * m->src_stride[0];
        float *out = a->out + r * a->out_stride + m->dst_offset + i * m->dst_stride[0];
        for (size_t j = 0; j < m->count[1]; j++) {
            for (size_t k = 0; k < m->count[2]; k++) {
                const float *from = x + j * m->src_stride[1] + k * m->src_stride[2];
                float *to = out + j * m->dst_stride[1] + k * m->dst_stride[2];
                size_t s = m->src_stride[3], d = m->dst_stride[3];
                if (s == 1 && d == 1) {
                    memcpy(to, from, m->count[3] * sizeof *to);
                    continue;
                }
                for (size_t l = 0; l < m->count[3]; l++) { to[l * d] = from[l * s]; }
            }
        }
    }
}

#endif
