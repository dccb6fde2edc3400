/* nd_tile.c: elements of any dtype to tiles and back, and cursors over strided views. */
#include "runtime/nd.h"

#include <math.h>
#include <string.h>

size_t nd_size(uint32_t dtype) {
    static const uint8_t size[ART_DTYPE_COUNT] = {
        [ART_F32] = 4,       [ART_F16] = 2, [ART_BF16] = 2,     [ART_I64] = 8,        [ART_F64] = 8,
        [ART_BOOL] = 1,      [ART_I8] = 1,  [ART_U8] = 1,       [ART_I16] = 2,        [ART_U16] = 2,
        [ART_I32] = 4,       [ART_U32] = 4, [ART_U64] = 8,      [ART_U4] = 1,         [ART_U2] = 1,
        [ART_I4] = 1,        [ART_I2] = 1,  [ART_F8E4M3FN] = 1, [ART_F8E4M3FNUZ] = 1, [ART_F8E5M2] = 1,
        [ART_F8E5M2FNUZ] = 1};
    return dtype < ART_DTYPE_COUNT ? size[dtype] : 0;
}

uint32_t nd_bits(uint32_t dtype) {
    bool four = dtype == ART_U4 || dtype == ART_I4, two = dtype == ART_U2 || dtype == ART_I2;
    return four ? 4 : two ? 2 : 8 * (uint32_t)nd_size(dtype);
}

NdClass nd_class(uint32_t dtype) {
    return dtype == ART_F64 ? ND_DOUBLE : nd_is_float(dtype) ? ND_FLOAT : ND_INT;
}

/* The dtype whose elements are a tile of the class as they lie. u64 is i64 by its bits. */
uint32_t nd_class_dtype(NdClass k) { return k == ND_FLOAT ? ART_F32 : k == ND_DOUBLE ? ART_F64 : ART_I64; }

/* ---- 16-bit floats ---- */
static float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t bits_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static float from_f16(uint16_t h) {
    uint32_t special = (h & 0x7c00) == 0x7c00 ? 0x7f800000 : 0;
    float f = float_of((h & 0x7fffu) << 13) * 0x1p112f; /* moves the exponent; subnormals come out right */
    return float_of(bits_of(f) | special | (uint32_t)(h & 0x8000) << 16);
}

static float from_bf16(uint16_t h) { return float_of((uint32_t)h << 16); }

/* To nearest, ties to even. Subnormals are rounded by an addition that leaves their bits at the bottom. */
static uint16_t to_f16(float f) {
    uint32_t b = bits_of(f), sign = b >> 16 & 0x8000, out;
    b &= 0x7fffffff;
    if (b > 0x7f800000) {
        out = 0x7e00;
    } else if (b >= 0x47800000) {
        out = 0x7c00;
    } else if (b < 0x38800000) {
        out = bits_of(float_of(b) + 0.5f) - bits_of(0.5f);
    } else {
        out = (b - 0x38000000 + 0xfff + (b >> 13 & 1)) >> 13;
    }
    return (uint16_t)(out | sign);
}

static uint16_t to_bf16(float f) {
    uint32_t b = bits_of(f);
    if (f != f) return (uint16_t)(b >> 16 | 0x40);
    return (uint16_t)((b + 0x7fff + (b >> 16 & 1)) >> 16);
}

/* ---- 8-bit floats ---- */
typedef struct {
    uint32_t fraction, bias; /* fraction bits */
    uint32_t largest, over;  /* codes of the largest number, and of what is above it */
    bool fnuz;               /* no infinity, no -0: its code is NaN */
} Float8;

static Float8 float8(uint32_t dtype) {
    static const Float8 form[] = {{3, 7, 0x7e, 0x7f, false},
                                  {3, 8, 0x7f, 0x80, true},
                                  {2, 15, 0x7b, 0x7c, false},
                                  {2, 16, 0x7f, 0x80, true}};
    return form[dtype - ART_F8E4M3FN];
}

/* E5M2 is the upper half of an f16. */
static float from_f8(Float8 f, uint8_t x) {
    if (f.bias == 15) return from_f16((uint16_t)(x << 8));
    uint32_t code = x & 0x7f;
    if (f.fnuz ? x == 0x80 : code > f.largest) return NAN;
    float v = float_of(code << (23 - f.fraction)) * float_of((254 - f.bias) << 23);
    return x & 0x80 ? -v : v;
}

/* As to_f16. */
static uint8_t to_f8(Float8 f, float x) {
    uint32_t b = bits_of(x), sign = b >> 24 & 0x80, cut = 23 - f.fraction, out;
    b &= 0x7fffffff;
    if (b > 0x7f800000) return (uint8_t)(f.fnuz ? 0x80 : 0x7f | sign);
    if (b < (128 - f.bias) << 23) {
        float grid = float_of((151 - f.bias - f.fraction) << 23);
        out = bits_of(float_of(b) + grid) - bits_of(grid);
    } else {
        out = (b - ((127 - f.bias) << 23) + (1u << (cut - 1)) - 1 + (b >> cut & 1)) >> cut;
    }
    if (out > f.largest) out = f.over;
    return (uint8_t)(f.fnuz && out == 0 ? 0 : out | sign);
}

/* Truncated; what does not fit becomes the nearest number that does, NaN 0. */
static int64_t saturate(double x, int64_t low, int64_t high) {
    if (x != x) return 0;
    if (x <= (double)low) return low;
    return x >= (double)high ? high : (int64_t)x;
}

/* What 2 or 4 bits hold of a number. */
static int64_t low_bits(int64_t v, int bits, bool is_signed) {
    int64_t sign = is_signed ? 1 << (bits - 1) : 0;
    return ((v & ((1 << bits) - 1)) ^ sign) - sign;
}

static uint64_t saturate_u64(double x) {
    if (!(x > 0)) return 0;
    return x >= 0x1p64 ? UINT64_MAX : (uint64_t)x;
}

/* ---- loads and stores ---- */
/* Of every stride, but the loop with stride 1 is the one that vectorises. */
#define LOAD(T, out, expr)                                                                                   \
    do {                                                                                                     \
        const T *x = (const T *)data + at;                                                                   \
        if (stride == 1) {                                                                                   \
            for (size_t i = 0; i < n; i++) {                                                                 \
                T v = x[i];                                                                                  \
                (out)[i] = (expr);                                                                           \
            }                                                                                                \
        } else {                                                                                             \
            for (size_t i = 0; i < n; i++) {                                                                 \
                T v = x[(int64_t)i * stride];                                                                \
                (out)[i] = (expr);                                                                           \
            }                                                                                                \
        }                                                                                                    \
    } while (0);                                                                                             \
    break

static void load_floats(uint32_t dtype, const void *data, int64_t at, int64_t stride, size_t n, float *out) {
    switch (dtype) {
    case ART_F32: LOAD(float, out, v);
    case ART_F16: LOAD(uint16_t, out, from_f16(v));
    case ART_BF16: LOAD(uint16_t, out, from_bf16(v));
    case ART_F8E4M3FN:
    case ART_F8E4M3FNUZ:
    case ART_F8E5M2:
    case ART_F8E5M2FNUZ: LOAD(uint8_t, out, from_f8(float8(dtype), v));
    case ART_BOOL: LOAD(uint8_t, out, v != 0);
    default: break;
    }
}

static void load_doubles(uint32_t dtype, const void *data, int64_t at, int64_t stride, size_t n,
                         double *out) {
    switch (dtype) {
    case ART_F32: LOAD(float, out, (double)v);
    case ART_F16: LOAD(uint16_t, out, (double)from_f16(v));
    case ART_BF16: LOAD(uint16_t, out, (double)from_bf16(v));
    case ART_F8E4M3FN:
    case ART_F8E4M3FNUZ:
    case ART_F8E5M2:
    case ART_F8E5M2FNUZ: LOAD(uint8_t, out, (double)from_f8(float8(dtype), v));
    case ART_I64: LOAD(int64_t, out, (double)v);
    case ART_F64: LOAD(double, out, v);
    case ART_BOOL: LOAD(uint8_t, out, v != 0);
    case ART_I2:
    case ART_I4:
    case ART_I8: LOAD(int8_t, out, v);
    case ART_U2:
    case ART_U4:
    case ART_U8: LOAD(uint8_t, out, v);
    case ART_I16: LOAD(int16_t, out, v);
    case ART_U16: LOAD(uint16_t, out, v);
    case ART_I32: LOAD(int32_t, out, v);
    case ART_U32: LOAD(uint32_t, out, v);
    case ART_U64: LOAD(uint64_t, out, (double)v);
    default: break;
    }
}

static void load_integers(uint32_t dtype, const void *data, int64_t at, int64_t stride, size_t n,
                          int64_t *out) {
    switch (dtype) {
    case ART_I64:
    case ART_U64: LOAD(int64_t, out, v);
    case ART_BOOL: LOAD(uint8_t, out, v != 0);
    case ART_I2:
    case ART_I4:
    case ART_I8: LOAD(int8_t, out, v);
    case ART_U2:
    case ART_U4:
    case ART_U8: LOAD(uint8_t, out, v);
    case ART_I16: LOAD(int16_t, out, v);
    case ART_U16: LOAD(uint16_t, out, v);
    case ART_I32: LOAD(int32_t, out, v);
    case ART_U32: LOAD(uint32_t, out, v);
    default: break;
    }
}

void nd_load(NdClass k, uint32_t dtype, const void *data, int64_t at, int64_t stride, size_t n, void *tile) {
    switch (k) {
    case ND_FLOAT: load_floats(dtype, data, at, stride, n, tile); break;
    case ND_DOUBLE: load_doubles(dtype, data, at, stride, n, tile); break;
    case ND_INT: load_integers(dtype, data, at, stride, n, tile); break;
    }
}

#define STORE(T, in, expr)                                                                                   \
    do {                                                                                                     \
        T *x = (T *)data + at;                                                                               \
        for (size_t i = 0; i < n; i++) {                                                                     \
            __typeof__(*(in)) v = (in)[i];                                                                   \
            x[(int64_t)i * stride] = (T)(expr);                                                              \
        }                                                                                                    \
    } while (0);                                                                                             \
    break

static void store_floats(uint32_t dtype, void *data, int64_t at, int64_t stride, size_t n, const float *in) {
    switch (dtype) {
    case ART_F32: STORE(float, in, v);
    case ART_F16: STORE(uint16_t, in, to_f16(v));
    case ART_BF16: STORE(uint16_t, in, to_bf16(v));
    case ART_F8E4M3FN:
    case ART_F8E4M3FNUZ:
    case ART_F8E5M2:
    case ART_F8E5M2FNUZ: STORE(uint8_t, in, to_f8(float8(dtype), v));
    case ART_BOOL: STORE(uint8_t, in, v != 0);
    default: break;
    }
}

static void store_doubles(uint32_t dtype, void *data, int64_t at, int64_t stride, size_t n,
                          const double *in) {
    switch (dtype) {
    case ART_F32: STORE(float, in, v);
    case ART_F16: STORE(uint16_t, in, to_f16((float)v));
    case ART_BF16: STORE(uint16_t, in, to_bf16((float)v));
    case ART_F8E4M3FN:
    case ART_F8E4M3FNUZ:
    case ART_F8E5M2:
    case ART_F8E5M2FNUZ: STORE(uint8_t, in, to_f8(float8(dtype), (float)v));
    case ART_I64: STORE(int64_t, in, saturate(v, INT64_MIN, INT64_MAX));
    case ART_F64: STORE(double, in, v);
    case ART_BOOL: STORE(uint8_t, in, v != 0);
    case ART_I8: STORE(int8_t, in, saturate(v, INT8_MIN, INT8_MAX));
    case ART_U8: STORE(uint8_t, in, saturate(v, 0, UINT8_MAX));
    case ART_I16: STORE(int16_t, in, saturate(v, INT16_MIN, INT16_MAX));
    case ART_U16: STORE(uint16_t, in, saturate(v, 0, UINT16_MAX));
    case ART_I32: STORE(int32_t, in, saturate(v, INT32_MIN, INT32_MAX));
    case ART_U32: STORE(uint32_t, in, saturate(v, 0, UINT32_MAX));
    case ART_U64: STORE(uint64_t, in, saturate_u64(v));
    case ART_I4: STORE(int8_t, in, low_bits(saturate(v, INT64_MIN, INT64_MAX), 4, true));
    case ART_U4: STORE(uint8_t, in, low_bits(saturate(v, INT64_MIN, INT64_MAX), 4, false));
    case ART_I2: STORE(int8_t, in, low_bits(saturate(v, INT64_MIN, INT64_MAX), 2, true));
    case ART_U2: STORE(uint8_t, in, low_bits(saturate(v, INT64_MIN, INT64_MAX), 2, false));
    default: break;
    }
}

static void store_integers(uint32_t dtype, void *data, int64_t at, int64_t stride, size_t n,
                           const int64_t *in) {
    switch (dtype) {
    case ART_I64:
    case ART_U64: STORE(int64_t, in, v);
    case ART_BOOL: STORE(uint8_t, in, v != 0);
    case ART_I8:
    case ART_U8: STORE(uint8_t, in, v);
    case ART_I16:
    case ART_U16: STORE(uint16_t, in, v);
    case ART_I32:
    case ART_U32: STORE(uint32_t, in, v);
    case ART_I4: STORE(int8_t, in, low_bits(v, 4, true));
    case ART_U4: STORE(uint8_t, in, low_bits(v, 4, false));
    case ART_I2: STORE(int8_t, in, low_bits(v, 2, true));
    case ART_U2: STORE(uint8_t, in, low_bits(v, 2, false));
    default: break;
    }
}

void nd_store(NdClass k, uint32_t dtype, void *data, int64_t at, int64_t stride, size_t n, const void *tile) {
    switch (k) {
    case ND_FLOAT: store_floats(dtype, data, at, stride, n, tile); break;
    case ND_DOUBLE: store_doubles(dtype, data, at, stride, n, tile); break;
    case ND_INT: store_integers(dtype, data, at, stride, n, tile); break;
    }
}

int64_t nd_integer_at(const NdTensor *t, int64_t at) {
    int64_t v = 0;
    load_integers(t->dtype, t->data, at, 1, 1, &v);
    return v;
}

/* ---- strides and cursors ---- */
void nd_strides(const NdTensor *t, int64_t *stride) {
    int64_t n = 1;
    for (uint32_t i = t->rank; i-- > 0; n *= t->dim[i]) stride[i] = n;
}

void nd_broadcast_strides(const NdTensor *t, uint32_t rank, int64_t *stride) {
    int64_t own[ART_MAX_RANK];
    uint32_t missing = rank - t->rank;
    nd_strides(t, own);
    for (uint32_t i = 0; i < rank; i++)
        stride[i] = i < missing || t->dim[i - missing] == 1 ? 0 : own[i - missing];
}

/* Axes of length 1 go, neighbours that are stepped through as one are joined. */
NdCursor nd_cursor(uint32_t rank, const int64_t *dim, const int64_t *stride, int64_t offset) {
    NdCursor c = {.at = offset};
    for (uint32_t i = 0; i < rank; i++) {
        if (dim[i] == 1) continue;
        if (c.rank > 0 && c.stride[c.rank - 1] == stride[i] * dim[i]) {
            c.dim[c.rank - 1] *= dim[i];
            c.stride[c.rank - 1] = stride[i];
            continue;
        }
        c.dim[c.rank] = dim[i];
        c.stride[c.rank++] = stride[i];
    }
    if (c.rank == 0) {
        c.rank = 1;
        c.dim[0] = 1;
    }
    return c;
}

void nd_seek(NdCursor *c, int64_t element) {
    for (uint32_t i = c->rank; i-- > 0;) {
        int64_t to = i > 0 ? element % c->dim[i] : element;
        c->at += (to - c->index[i]) * c->stride[i];
        c->index[i] = to;
        element /= c->dim[i];
    }
}

void nd_advance(NdCursor *c, int64_t n) {
    uint32_t i = c->rank - 1;
    c->index[i] += n;
    c->at += n * c->stride[i];
    for (; i > 0 && c->index[i] == c->dim[i]; i--) {
        c->at += c->stride[i - 1] - c->dim[i] * c->stride[i];
        c->index[i] = 0;
        c->index[i - 1]++;
    }
}

const void *nd_fetch(NdCursor *c, NdClass k, const NdTensor *x, size_t n, NdTile *t) {
    bool same = x->dtype == nd_class_dtype(k) || (k == ND_INT && x->dtype == ART_U64);
    if (same && nd_run_stride(c) == 1 && nd_run_length(c) >= (int64_t)n) {
        const void *there = x->data + c->at * (int64_t)nd_size(x->dtype);
        nd_advance(c, (int64_t)n);
        return there;
    }
    size_t each = k == ND_FLOAT ? sizeof(float) : sizeof(double);
    for (size_t done = 0; done < n;) {
        int64_t run = nd_run_length(c);
        if (run > (int64_t)(n - done)) run = (int64_t)(n - done);
        nd_load(k, x->dtype, x->data, c->at, nd_run_stride(c), (size_t)run, (uint8_t *)t + done * each);
        nd_advance(c, run);
        done += (size_t)run;
    }
    return t;
}
