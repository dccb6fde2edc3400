/* type.c: the dtype table, conversions of narrow floats, and tensor types. Floats of 8 bits: OCP 8-bit Floating
 * Point Specification 1.0 (E4M3, E5M2), and the FNUZ forms as ONNX defines them. */
#include <math.h>
#include <string.h>

#include "ir/ir.h"

/* ---- dtypes ---- */

typedef struct {
    const char *name;
    uint8_t bits;
    DClass cls;
    int onnx;
} DTypeInfo;

static const DTypeInfo dtypes[DT_COUNT] = {
    [DT_NONE] = {"none", 0, DC_NONE, 0},
#define DTYPE(e, text, bits, cls, onnx) [DT_##e] = {text, bits, DC_##cls, onnx},
#include "ir/dtypes.def"
#undef DTYPE
};

static const DTypeInfo *dtype_info(DType t) { return &dtypes[(unsigned)t < DT_COUNT ? t : DT_NONE]; }

const char *dtype_name(DType t) { return dtype_info(t)->name; }

DType dtype_parse(const char *name, size_t n) {
    for (int t = DT_NONE + 1; t < DT_COUNT; t++)
        if (strlen(dtypes[t].name) == n && memcmp(dtypes[t].name, name, n) == 0) return (DType)t;
    return DT_NONE;
}

DType dtype_from_onnx(int number) {
    for (int t = DT_NONE + 1; number > 0 && t < DT_COUNT; t++)
        if (dtypes[t].onnx == number) return (DType)t;
    return DT_NONE;
}

DClass dtype_class(DType t) { return dtype_info(t)->cls; }

uint32_t dtype_bits(DType t) { return dtype_info(t)->bits; }

size_t dtype_size(DType t) { return (dtype_info(t)->bits + 7u) / 8u; }

static float float_of_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static uint32_t bits_of_float(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

float half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (uint32_t)h >> 10 & 0x1fu, fraction = h & 0x3ffu;
    if (exponent == 0x1f) return float_of_bits(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0) return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float magnitude = (float)fraction * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
}

uint16_t float_to_half(float f) {
    uint32_t bits = bits_of_float(f);
    uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        uint32_t payload = magnitude >> 13 & 0x3ffu;
        if (payload == 0) payload = 0x200u;
        return (uint16_t)(sign | 0x7c00u | payload);
    }
    if (magnitude >= 0x47800000u) return (uint16_t)(sign | 0x7c00u); /* 65536 and above */
    uint32_t exponent = magnitude >> 23, kept, dropped_bits;
    if (exponent >= 113) { /* normal half */
        kept = magnitude - (112u << 23);
        dropped_bits = 13;
    } else {
        if (exponent < 102) return (uint16_t)sign; /* below half of the smallest subnormal */
        kept = (magnitude & 0x7fffffu) | 0x800000u;
        dropped_bits = 126 - exponent;
    }
    uint32_t result = kept >> dropped_bits;
    uint32_t dropped = kept & ((1u << dropped_bits) - 1), middle = 1u << (dropped_bits - 1);
    /* A carry out of the fraction moves into the exponent, and at the end to infinity. */
    if (dropped > middle || (dropped == middle && (result & 1) != 0)) result++;
    return (uint16_t)(sign | result);
}

float bf16_to_float(uint16_t h) { return float_of_bits((uint32_t)h << 16); }

uint16_t float_to_bf16(float f) {
    uint32_t bits = bits_of_float(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        uint32_t high = bits >> 16;
        return (uint16_t)((high & 0x7fu) == 0 ? high | 0x40u : high);
    }
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

/* ---- floats of 8 bits ---- */

typedef struct {
    uint32_t fraction, bias; /* fraction bits */
    uint32_t largest, over;  /* codes of the largest number, and of what is above it */
    uint32_t nan;
    bool signed_zero; /* if not, the code of -0 is the NaN, and the only one */
} Float8;

static Float8 float8_form(DType t) {
    switch (t) {
    case DT_F8E4M3FN: return (Float8){3, 7, 0x7e, 0x7f, 0x7f, true};
    case DT_F8E4M3FNUZ: return (Float8){3, 8, 0x7f, 0x80, 0x80, false};
    case DT_F8E5M2: return (Float8){2, 15, 0x7b, 0x7c, 0x7f, true};
    default: return (Float8){2, 16, 0x7f, 0x80, 0x80, false};
    }
}

float f8_to_float(DType t, uint8_t x) {
    Float8 f = float8_form(t);
    uint32_t code = x & 0x7fu, exponent = code >> f.fraction, fraction = code & ((1u << f.fraction) - 1);
    bool negative = x >= 0x80;
    if (!f.signed_zero && x == 0x80) return NAN;
    if (code > f.largest) return code == f.nan || code != f.over ? NAN : negative ? -INFINITY : INFINITY;
    float magnitude = exponent == 0
                          ? (float)fraction * float_of_bits((128 - f.bias - f.fraction) << 23)
                          : float_of_bits((exponent + 127 - f.bias) << 23 | fraction << (23 - f.fraction));
    return negative ? -magnitude : magnitude;
}

uint8_t float_to_f8(DType t, float x) {
    Float8 f = float8_form(t);
    uint32_t sign = bits_of_float(x) >> 24 & 0x80u, code = f.over;
    if (isnan(x)) return (uint8_t)(f.signed_zero ? f.nan | sign : f.nan);
    int lowest = 1 - (int)f.bias, exponent = x == 0 || isinf(x) ? lowest : ilogbf(x);
    if (exponent < lowest) exponent = lowest;
    if (!isinf(x)) {
        /* In units of the last place; a carry out of the fraction moves into the exponent. */
        double units = rint(ldexp(fabs((double)x), (int)f.fraction - exponent));
        code = ((uint32_t)(exponent - lowest) << f.fraction) + (uint32_t)units;
        if (code > f.largest) code = f.over;
    }
    if (!f.signed_zero && (code == 0 || code == f.nan)) return (uint8_t)code;
    return (uint8_t)(code | sign);
}

float f8_largest(DType t) { return f8_to_float(t, (uint8_t)float8_form(t).largest); }

/* ---- floats of any dtype ---- */

uint64_t float_to_bits(DType t, double v) {
    uint64_t bits;
    memcpy(&bits, &v, sizeof(bits));
    switch (t) {
    case DT_F64: return bits;
    case DT_F32: return bits_of_float((float)v);
    case DT_F16: return float_to_half((float)v);
    case DT_BF16: return float_to_bf16((float)v);
    default: return float_to_f8(t, (float)v);
    }
}

double float_from_bits(DType t, uint64_t bits) {
    double v;
    memcpy(&v, &bits, sizeof(v));
    switch (t) {
    case DT_F64: return v;
    case DT_F32: return (double)float_of_bits((uint32_t)bits);
    case DT_F16: return (double)half_to_float((uint16_t)bits);
    case DT_BF16: return (double)bf16_to_float((uint16_t)bits);
    default: return (double)f8_to_float(t, (uint8_t)bits);
    }
}

/* ---- types ---- */

Type type_make(DType t, uint32_t rank, const Dim *dims) {
    Type out = {0};
    out.dtype = t;
    out.rank = (uint8_t)(rank < MAX_RANK ? rank : MAX_RANK);
    for (uint32_t i = 0; i < out.rank; i++) out.dim[i] = dims[i];
    return out;
}

Type type_scalar(DType t) { return type_make(t, 0, NULL); }

bool type_eq(const Type *a, const Type *b) {
    if (a->dtype != b->dtype || a->rank != b->rank) return false;
    for (uint32_t i = 0; i < a->rank; i++)
        if (!dim_eq(a->dim[i], b->dim[i])) return false;
    return true;
}

bool type_is_static(const Type *t) {
    for (uint32_t i = 0; i < t->rank; i++)
        if (!dim_is_const(t->dim[i])) return false;
    return true;
}

Dim type_count(Graph *g, const Type *t) {
    Dim count = dim_const(1);
    for (uint32_t i = 0; i < t->rank; i++) count = dim_mul(g, count, t->dim[i]);
    return count;
}

bool type_static_count(const Type *t, size_t *out) {
    size_t count = 1;
    bool zero = false;
    for (uint32_t i = 0; i < t->rank; i++) {
        Dim d = t->dim[i];
        if (!dim_is_const(d) || d.v < 0 || (uint64_t)d.v > SIZE_MAX) return false;
        if (d.v == 0) zero = true;
    }
    for (uint32_t i = 0; !zero && i < t->rank; i++)
        if (!mul_size(count, (size_t)t->dim[i].v, &count)) return false;
    *out = zero ? 0 : count;
    return true;
}

bool type_static_bytes(const Type *t, size_t *out) {
    uint32_t bits = dtype_bits(t->dtype);
    size_t count = 0;
    if (!type_static_count(t, &count)) return false;
    if (bits > 0 && bits < 8) {
        *out = count / 8 * bits + (count % 8 * bits + 7) / 8;
        return true;
    }
    return mul_size(count, dtype_size(t->dtype), out);
}

bool type_broadcast(const Type *a, const Type *b, Type *out) {
    Type r = {0};
    r.dtype = a->dtype;
    r.rank = a->rank > b->rank ? a->rank : b->rank;
    for (uint32_t i = 0; i < r.rank; i++) {
        uint32_t back = r.rank - i;
        Dim one = dim_const(1);
        Dim x = back <= a->rank ? a->dim[a->rank - back] : one;
        Dim y = back <= b->rank ? b->dim[b->rank - back] : one;
        if (dim_eq(x, one) || dim_eq(x, y))
            r.dim[i] = y;
        else if (dim_eq(y, one))
            r.dim[i] = x;
        else
            return false;
    }
    *out = r;
    return true;
}

void type_print(Text *t, const Graph *g, const Type *ty) {
    text_add(t, dtype_name(ty->dtype));
    text_add(t, "[");
    for (uint32_t i = 0; i < ty->rank; i++) {
        if (i > 0) text_add(t, ", ");
        dim_print(t, g, ty->dim[i]);
    }
    text_add(t, "]");
}
