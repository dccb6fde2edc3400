/* const.c: reading constants of any dtype, hashing them, and filling them from a seed. */
#include <string.h>

#include "ir/ir.h"

const Const *graph_constant(const Graph *g, ValId v) {
    if (!val_ok(v) || v.id >= g->values.count) return NULL;
    const Value *value = graph_val(g, v);
    if (value->kind != V_CONST || value->cidx >= g->consts.count) return NULL;
    return &g->consts.data[value->cidx];
}

uint64_t const_hash(Graph *g, ValId v) {
    if (graph_constant(g, v) == NULL) return 0;
    Const *c = &g->consts.data[graph_val(g, v)->cidx];
    if (c->hash != 0) return c->hash;
    const Type *t = graph_type(g, v);
    int64_t head[2 + MAX_RANK] = {(int64_t)t->dtype, t->rank};
    for (uint32_t i = 0; i < t->rank; i++) head[2 + i] = t->dim[i].v;
    uint64_t seed = hash_bytes(head, (2u + t->rank) * sizeof(head[0]), 0);
    c->hash = hash_bytes(c->data, c->bytes, seed);
    if (c->hash == 0) c->hash = 1;
    return c->hash;
}

/* ---- below 8 bits ---- */

static bool is_packed(DType t) { return dtype_bits(t) > 0 && dtype_bits(t) < 8; }

/* Element i of packed ones, of at most 8 bits. */
static uint32_t packed_get(const uint8_t *p, uint32_t bits, size_t i) {
    size_t byte = i / 8 * bits + i % 8 * bits / 8, shift = i % 8 * bits % 8;
    uint32_t x = p[byte];
    if (shift + bits > 8) x |= (uint32_t)p[byte + 1] << 8;
    return x >> shift & ((1u << bits) - 1);
}

void const_unpack(DType t, const void *packed, size_t first, size_t count, uint8_t *out) {
    uint32_t bits = dtype_bits(t), sign = dtype_class(t) == DC_INT ? 1u << (bits - 1) : 0;
    for (size_t i = 0; i < count; i++)
        out[i] = (uint8_t)((packed_get(packed, bits, first + i) ^ sign) - sign);
}

void const_pack(DType t, const uint8_t *elements, size_t count, void *packed) {
    uint32_t bits = dtype_bits(t), mask = (1u << bits) - 1;
    uint8_t *p = packed;
    memset(p, 0, count / 8 * bits + (count % 8 * bits + 7) / 8);
    for (size_t i = 0; i < count; i++) {
        size_t byte = i / 8 * bits + i % 8 * bits / 8, shift = i % 8 * bits % 8;
        uint32_t x = (elements[i] & mask) << shift;
        p[byte] |= (uint8_t)x;
        if (shift + bits > 8) p[byte + 1] |= (uint8_t)(x >> 8);
    }
}

Tensor const_tensor(const Graph *g, ValId v, Arena *a) {
    const Type *type = graph_type(g, v);
    const Const *c = graph_constant(g, v);
    Tensor t = {.dtype = type->dtype, .rank = type->rank};
    for (uint32_t i = 0; i < type->rank; i++) t.dim[i] = type->dim[i].v;
    t.data = (void *)(uintptr_t)c->data; /* operands are only read */
    if (!is_packed(t.dtype)) return t;
    size_t count = tensor_count(&t);
    t.data = arena_alloc(a, count);
    const_unpack(t.dtype, c->data, 0, count, t.data);
    return t;
}

ValId graph_const_tensor(Graph *g, Type type, const Tensor *x, const char *name) {
    size_t count = tensor_count(x), bytes = count * dtype_size(x->dtype);
    if (!is_packed(x->dtype)) return graph_const(g, type, arena_dup(g->arena, x->data, bytes), name);
    uint8_t *packed = arena_alloc(g->arena, (count * dtype_bits(x->dtype) + 7) / 8);
    const_pack(x->dtype, x->data, count, packed);
    return graph_const(g, type, packed, name);
}

/* ---- elements ---- */

/* Element i in `room` or where it lies, or NULL. Data may be unaligned: read it with memcpy. */
static const uint8_t *const_at(const Graph *g, ValId v, size_t i, uint8_t *room) {
    const Const *c = graph_constant(g, v);
    if (c == NULL || c->data == NULL) return NULL;
    DType t = graph_type(g, v)->dtype;
    size_t size = dtype_size(t), count = 0;
    if (is_packed(t)) {
        if (!type_static_count(graph_type(g, v), &count) || i >= count) return NULL;
        const_unpack(t, c->data, i, 1, room);
        return room;
    }
    if (size == 0 || i >= c->bytes / size) return NULL;
    return (const uint8_t *)c->data + i * size;
}

#define READ(T, p) read_##T(p)
#define READER(T)                                                                                            \
    static T read_##T(const uint8_t *p) {                                                                    \
        T x;                                                                                                 \
        memcpy(&x, p, sizeof(x));                                                                            \
        return x;                                                                                            \
    }
/* clang-format off */
READER(int8_t) READER(int16_t) READER(int32_t) READER(int64_t)
READER(uint8_t) READER(uint16_t) READER(uint32_t) READER(uint64_t)
#undef READER
    /* clang-format on */

    static double float_at(DType t, const uint8_t *p) {
    uint64_t bits = 0;
    memcpy(&bits, p, dtype_size(t));
    return float_from_bits(t, bits);
}

static int64_t int_at(DType t, const uint8_t *p) {
    switch (t) {
    case DT_I2:
    case DT_I4:
    case DT_I8: return READ(int8_t, p);
    case DT_I16: return READ(int16_t, p);
    case DT_U16: return READ(uint16_t, p);
    case DT_I32: return READ(int32_t, p);
    case DT_U32: return READ(uint32_t, p);
    case DT_I64: return READ(int64_t, p);
    case DT_U64: return (int64_t)READ(uint64_t, p);
    default: return READ(uint8_t, p);
    }
}

bool const_get_f64(const Graph *g, ValId v, size_t i, double *out) {
    uint8_t room[1];
    const uint8_t *p = const_at(g, v, i, room);
    if (p == NULL) return false;
    DType t = graph_type(g, v)->dtype;
    if (dtype_is_float(t))
        *out = float_at(t, p);
    else if (t == DT_U64)
        *out = (double)READ(uint64_t, p);
    else
        *out = (double)int_at(t, p);
    return true;
}

bool const_get_i64(const Graph *g, ValId v, size_t i, int64_t *out) {
    uint8_t room[1];
    const uint8_t *p = const_at(g, v, i, room);
    if (p == NULL) return false;
    DType t = graph_type(g, v)->dtype;
    if (dtype_is_float(t)) {
        double x = float_at(t, p);
        /* NaN fails both comparisons. */
        if (!(x >= -0x1p63 && x < 0x1p63)) return false;
        *out = (int64_t)x;
        return true;
    }
    if (t == DT_U64 && READ(uint64_t, p) > (uint64_t)INT64_MAX) return false;
    *out = int_at(t, p);
    return true;
}

bool const_scalar(const Graph *g, ValId v, double *out) {
    const Const *c = graph_constant(g, v);
    if (c == NULL) return false;
    size_t count = 0;
    double first = 0;
    if (!type_static_count(graph_type(g, v), &count) || count == 0 || count > 4096 ||
        !const_get_f64(g, v, 0, &first))
        return false;
    for (size_t i = 1; i < count; i++) {
        double x = 0;
        if (!const_get_f64(g, v, i, &x) || x != first) return false;
    }
    *out = first;
    return true;
}

/* SplitMix64, Sebastiano Vigna, prng.di.unimi.it/splitmix64.c (public domain). */
static uint64_t splitmix(uint64_t *state) {
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static void fill_one(DType t, uint64_t random, uint8_t *at) {
    double x = (double)(random >> 40) * 0x1p-24 * 0.2 - 0.1;
    uint64_t small = t == DT_BOOL ? random >> 63 : random >> 58;
    if (dtype_is_float(t)) {
        uint64_t bits = float_to_bits(t, x);
        memcpy(at, &bits, dtype_size(t));
        return;
    }
    if (is_packed(t)) {
        small &= (1u << dtype_bits(t)) - 1;
        if (dtype_class(t) == DC_INT) small -= (small >> (dtype_bits(t) - 1)) << dtype_bits(t);
    }
    for (size_t i = 0; i < dtype_size(t); i++) at[i] = (uint8_t)(i == 0 ? small : 0);
}

void const_fill_seed(DType t, uint64_t seed, void *data, size_t count) {
    size_t size = dtype_size(t);
    uint8_t *at = data;
    for (size_t i = 0; i < count; i++) fill_one(t, splitmix(&seed), at + i * size);
}
