/* eval_tensor.c: reading and writing tensor elements of any dtype, and walking index spaces. */
#include <math.h>
#include <string.h>

#include "ir/eval.h"

size_t tensor_count(const Tensor *t) {
    size_t n = 1;
    for (uint32_t i = 0; i < t->rank; i++) n *= (size_t)t->dim[i];
    return n;
}

int64_t tensor_span(const Tensor *t, uint32_t from, uint32_t to) {
    int64_t n = 1;
    for (uint32_t i = from; i < to; i++) n *= t->dim[i];
    return n;
}

void tensor_strides(const Tensor *t, int64_t *stride) {
    int64_t s = 1;
    for (uint32_t i = t->rank; i-- > 0;) {
        stride[i] = s;
        s *= t->dim[i];
    }
}

void tensor_broadcast_strides(const Tensor *x, uint32_t rank, int64_t *stride) {
    int64_t own[MAX_RANK];
    tensor_strides(x, own);
    for (uint32_t i = 0; i < rank; i++) {
        bool has = i + x->rank >= rank;
        uint32_t k = has ? i + x->rank - rank : 0;
        stride[i] = has && x->dim[k] != 1 ? own[k] : 0;
    }
}

Lines tensor_lines(const Tensor *t, int64_t axis) {
    uint32_t a = (uint32_t)axis;
    return (Lines){tensor_span(t, 0, a), t->dim[a], tensor_span(t, a + 1, t->rank)};
}

/* Elements of type T at p, `stride` apart, each converted by `expr` of v; memcpy because p may be
 * unaligned. The loop with a fixed stride is the one that vectorises. */
#define LOAD(T, expr)                                                                                        \
    do {                                                                                                     \
        const char *p = (const char *)t->data + at * (int64_t)sizeof(T);                                     \
        if (stride == 1) {                                                                                   \
            for (size_t i = 0; i < n; i++) {                                                                 \
                T v;                                                                                         \
                memcpy(&v, p + i * sizeof(T), sizeof(T));                                                    \
                out[i] = (expr);                                                                             \
            }                                                                                                \
        } else {                                                                                             \
            for (size_t i = 0; i < n; i++) {                                                                 \
                T v;                                                                                         \
                memcpy(&v, p + (int64_t)i * stride * (int64_t)sizeof(T), sizeof(T));                         \
                out[i] = (expr);                                                                             \
            }                                                                                                \
        }                                                                                                    \
    } while (0)

void tensor_load_f64(const Tensor *t, int64_t at, int64_t stride, size_t n, double *out) {
    switch (t->dtype) {
    case DT_F32: LOAD(float, v); break;
    case DT_F64: LOAD(double, v); break;
    case DT_F16: LOAD(uint16_t, half_to_float(v)); break;
    case DT_BF16: LOAD(uint16_t, bf16_to_float(v)); break;
    case DT_F8E4M3FN:
    case DT_F8E4M3FNUZ:
    case DT_F8E5M2:
    case DT_F8E5M2FNUZ: LOAD(uint8_t, f8_to_float(t->dtype, v)); break;
    case DT_BOOL: LOAD(uint8_t, v != 0 ? 1.0 : 0.0); break;
    case DT_I2:
    case DT_I4:
    case DT_I8: LOAD(int8_t, v); break;
    case DT_U2:
    case DT_U3:
    case DT_U4:
    case DT_U5:
    case DT_U6:
    case DT_U8: LOAD(uint8_t, v); break;
    case DT_I16: LOAD(int16_t, v); break;
    case DT_U16: LOAD(uint16_t, v); break;
    case DT_I32: LOAD(int32_t, v); break;
    case DT_U32: LOAD(uint32_t, v); break;
    case DT_I64: LOAD(int64_t, (double)v); break;
    case DT_U64: LOAD(uint64_t, (double)v); break;
    case DT_NONE:
    case DT_COUNT: break;
    }
}

void tensor_load_i64(const Tensor *t, int64_t at, int64_t stride, size_t n, int64_t *out) {
    switch (t->dtype) {
    case DT_BOOL: LOAD(uint8_t, v != 0); break;
    case DT_I2:
    case DT_I4:
    case DT_I8: LOAD(int8_t, v); break;
    case DT_U2:
    case DT_U3:
    case DT_U4:
    case DT_U5:
    case DT_U6:
    case DT_U8: LOAD(uint8_t, v); break;
    case DT_I16: LOAD(int16_t, v); break;
    case DT_U16: LOAD(uint16_t, v); break;
    case DT_I32: LOAD(int32_t, v); break;
    case DT_U32: LOAD(uint32_t, v); break;
    case DT_I64:
    case DT_U64: LOAD(int64_t, v); break;
    default: break;
    }
}

#define STORE(T, expr)                                                                                       \
    do {                                                                                                     \
        T *p = (T *)t->data + at;                                                                            \
        for (size_t i = 0; i < n; i++) p[(int64_t)i * stride] = (T)(expr);                                   \
    } while (0)

void tensor_store_f64_strided(Tensor *t, int64_t at, int64_t stride, size_t n, const double *v) {
    switch (t->dtype) {
    case DT_F32: STORE(float, v[i]); break;
    case DT_F64: STORE(double, v[i]); break;
    case DT_F16: STORE(uint16_t, float_to_half((float)v[i])); break;
    case DT_BF16: STORE(uint16_t, float_to_bf16((float)v[i])); break;
    case DT_F8E4M3FN:
    case DT_F8E4M3FNUZ:
    case DT_F8E5M2:
    case DT_F8E5M2FNUZ: STORE(uint8_t, float_to_f8(t->dtype, (float)v[i])); break;
    default: break;
    }
}

void tensor_store_i64_strided(Tensor *t, int64_t at, int64_t stride, size_t n, const int64_t *v) {
    switch (t->dtype) {
    case DT_BOOL: STORE(uint8_t, v[i] != 0); break;
    case DT_I2: STORE(int8_t, ((v[i] & 3) ^ 2) - 2); break;
    case DT_U2: STORE(uint8_t, v[i] & 3); break;
    case DT_U3: STORE(uint8_t, v[i] & 7); break;
    case DT_I4: STORE(int8_t, ((v[i] & 15) ^ 8) - 8); break;
    case DT_U4: STORE(uint8_t, v[i] & 15); break;
    case DT_U5: STORE(uint8_t, v[i] & 31); break;
    case DT_U6: STORE(uint8_t, v[i] & 63); break;
    case DT_I8: STORE(int8_t, v[i]); break;
    case DT_U8: STORE(uint8_t, v[i]); break;
    case DT_I16: STORE(int16_t, v[i]); break;
    case DT_U16: STORE(uint16_t, v[i]); break;
    case DT_I32: STORE(int32_t, v[i]); break;
    case DT_U32: STORE(uint32_t, v[i]); break;
    case DT_I64: STORE(int64_t, v[i]); break;
    case DT_U64: STORE(uint64_t, v[i]); break;
    default: break;
    }
}

void tensor_store_f64(Tensor *t, int64_t at, size_t n, const double *v) {
    if (t->dtype == DT_F32) {
        float *p = (float *)t->data + at;
        for (size_t i = 0; i < n; i++) p[i] = (float)v[i];
        return;
    }
    tensor_store_f64_strided(t, at, 1, n, v);
}

void tensor_store_i64(Tensor *t, int64_t at, size_t n, const int64_t *v) {
    tensor_store_i64_strided(t, at, 1, n, v);
}

double tensor_get_f64(const Tensor *t, size_t i) {
    double v = 0;
    tensor_load_f64(t, (int64_t)i, 1, 1, &v);
    return v;
}

int64_t tensor_get_i64(const Tensor *t, size_t i) {
    if (dtype_is_float(t->dtype)) {
        double v = tensor_get_f64(t, i);
        if (isnan(v)) return 0;
        if (v >= 0x1p63) return INT64_MAX;
        return v < -0x1p63 ? INT64_MIN : (int64_t)v;
    }
    int64_t v = 0;
    tensor_load_i64(t, (int64_t)i, 1, 1, &v);
    return v;
}

const float *tensor_as_f32(const Tensor *t, Arena *scratch) {
    size_t n = tensor_count(t);
    if (t->dtype == DT_F32 && (uintptr_t)t->data % sizeof(float) == 0) return t->data;
    float *copy = arena_array_of(scratch, n, float);
    if (t->dtype == DT_F32) {
        if (n != 0) memcpy(copy, t->data, n * sizeof(float));
        return copy;
    }
    double block[EVAL_BLOCK];
    for (size_t i = 0; i < n; i += EVAL_BLOCK) {
        size_t m = n - i < EVAL_BLOCK ? n - i : EVAL_BLOCK;
        tensor_load_f64(t, (int64_t)i, 1, m, block);
        for (size_t j = 0; j < m; j++) copy[i + j] = (float)block[j];
    }
    return copy;
}

void tensor_convert(Tensor *to, const Tensor *from) {
    double v[EVAL_BLOCK];
    size_t count = tensor_count(from);
    for (size_t i = 0; i < count; i += EVAL_BLOCK) {
        size_t n = count - i < EVAL_BLOCK ? count - i : EVAL_BLOCK;
        tensor_load_f64(from, (int64_t)i, 1, n, v);
        tensor_store_f64(to, (int64_t)i, n, v);
    }
}

/* Dimension i can be merged into i + 1 when every operand steps over the inner one whole. */
static bool walk_mergeable(const Walk *w, uint32_t i) {
    for (uint32_t k = 0; k < w->nops; k++) {
        if (w->stride[k][i] != w->stride[k][i + 1] * w->dim[i + 1]) return false;
    }
    return true;
}

static void walk_drop(Walk *w, uint32_t i) {
    for (uint32_t j = i; j + 1 < w->rank; j++) {
        w->dim[j] = w->dim[j + 1];
        for (uint32_t k = 0; k < w->nops; k++) w->stride[k][j] = w->stride[k][j + 1];
    }
    w->rank--;
}

void walk_init(Walk *w, uint32_t rank, uint32_t nops) {
    w->rank = rank;
    w->nops = nops;
    w->empty = false;
    w->started = false;
    for (uint32_t i = 0; i < rank; i++) w->empty = w->empty || w->dim[i] == 0;
    if (w->empty) return;
    for (uint32_t i = w->rank; i-- > 0;) {
        if (w->dim[i] == 1) walk_drop(w, i);
    }
    for (uint32_t i = w->rank; i-- > 1;) {
        if (!walk_mergeable(w, i - 1)) continue;
        w->dim[i] *= w->dim[i - 1];
        walk_drop(w, i - 1);
    }
    if (w->rank == 0) {
        w->rank = 1;
        w->dim[0] = 1;
        for (uint32_t k = 0; k < nops; k++) w->stride[k][0] = 1;
    }
    memset(w->index, 0, sizeof(w->index));
    w->n = w->dim[w->rank - 1];
    for (uint32_t k = 0; k < nops; k++) w->step[k] = w->stride[k][w->rank - 1];
}

bool walk_next(Walk *w) {
    if (w->empty) return false;
    if (!w->started) {
        w->started = true;
        return true;
    }
    for (uint32_t i = w->rank - 1; i-- > 0;) {
        w->index[i]++;
        for (uint32_t k = 0; k < w->nops; k++) w->at[k] += w->stride[k][i];
        if (w->index[i] < w->dim[i]) return true;
        for (uint32_t k = 0; k < w->nops; k++) w->at[k] -= w->stride[k][i] * w->dim[i];
        w->index[i] = 0;
    }
    return false;
}

void walk_broadcast(Walk *w, const Tensor *out, const Tensor *const *in, uint32_t nin) {
    memset(w, 0, sizeof(*w));
    memcpy(w->dim, out->dim, out->rank * sizeof(out->dim[0]));
    tensor_strides(out, w->stride[0]);
    for (uint32_t k = 0; k < nin; k++) tensor_broadcast_strides(in[k], out->rank, w->stride[k + 1]);
    walk_init(w, out->rank, nin + 1);
}
