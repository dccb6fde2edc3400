/* onnx_scan.c: reads the protobuf wire format of an ONNX file once before protobuf-c does.
 *
 * A recursive walk over the known messages checks lengths and nesting, and copies the fields that the
 * import uses. raw_data (the weights) is replaced by 16 bytes that say where it lies, so unpacking
 * costs memory for the graph alone. The walk runs twice: to count, then to write. Sub-message lengths
 * are written as padded 5-byte varints, so that none has to move.
 * Source: https://protobuf.dev/programming-guides/encoding/ */
#include <string.h>

#include "frontend/import.h"

#define DEPTH_MAX 64
#define LENGTH_BYTES 5

typedef enum { M_MODEL, M_GRAPH, M_NODE, M_ATTR, M_TENSOR, M_INFO, M_TYPE, M_FUNC, M_LEAF, M_NONE } Message;
typedef enum { KEEP, RAW, SUB, EMPTY } Action;
typedef struct {
    Message message;
    uint32_t field;
    Action action;
    Message sub;
} Rule;

/* Fields that are not listed are dropped. EMPTY keeps that a field is there, not what it holds. */
static const Rule RULES[] = {
    {M_MODEL, 1, KEEP, M_NONE},  {M_MODEL, 2, KEEP, M_NONE},   {M_MODEL, 8, SUB, M_LEAF},
    {M_MODEL, 7, SUB, M_GRAPH},  {M_MODEL, 25, SUB, M_FUNC},   {M_GRAPH, 1, SUB, M_NODE},
    {M_GRAPH, 2, KEEP, M_NONE},  {M_GRAPH, 5, SUB, M_TENSOR},  {M_GRAPH, 15, EMPTY, M_NONE},
    {M_GRAPH, 11, SUB, M_INFO},  {M_GRAPH, 12, SUB, M_INFO},   {M_NODE, 1, KEEP, M_NONE},
    {M_NODE, 2, KEEP, M_NONE},   {M_NODE, 3, KEEP, M_NONE},    {M_NODE, 4, KEEP, M_NONE},
    {M_NODE, 7, KEEP, M_NONE},   {M_NODE, 5, SUB, M_ATTR},     {M_ATTR, 1, KEEP, M_NONE},
    {M_ATTR, 21, KEEP, M_NONE},  {M_ATTR, 20, KEEP, M_NONE},   {M_ATTR, 2, KEEP, M_NONE},
    {M_ATTR, 3, KEEP, M_NONE},   {M_ATTR, 4, KEEP, M_NONE},    {M_ATTR, 5, SUB, M_TENSOR},
    {M_ATTR, 6, SUB, M_GRAPH},   {M_ATTR, 7, KEEP, M_NONE},    {M_ATTR, 8, KEEP, M_NONE},
    {M_ATTR, 9, KEEP, M_NONE},   {M_ATTR, 22, EMPTY, M_NONE},  {M_TENSOR, 1, KEEP, M_NONE},
    {M_TENSOR, 2, KEEP, M_NONE}, {M_TENSOR, 4, KEEP, M_NONE},  {M_TENSOR, 5, KEEP, M_NONE},
    {M_TENSOR, 6, KEEP, M_NONE}, {M_TENSOR, 7, KEEP, M_NONE},  {M_TENSOR, 8, KEEP, M_NONE},
    {M_TENSOR, 9, RAW, M_NONE},  {M_TENSOR, 10, KEEP, M_NONE}, {M_TENSOR, 11, KEEP, M_NONE},
    {M_TENSOR, 13, SUB, M_LEAF}, {M_TENSOR, 14, KEEP, M_NONE}, {M_INFO, 1, KEEP, M_NONE},
    {M_INFO, 2, SUB, M_TYPE},    {M_TYPE, 1, SUB, M_LEAF},     {M_TYPE, 4, EMPTY, M_NONE},
    {M_TYPE, 5, EMPTY, M_NONE},  {M_TYPE, 8, EMPTY, M_NONE},   {M_TYPE, 9, EMPTY, M_NONE},
    {M_FUNC, 1, KEEP, M_NONE},   {M_FUNC, 4, KEEP, M_NONE},    {M_FUNC, 5, KEEP, M_NONE},
    {M_FUNC, 6, KEEP, M_NONE},   {M_FUNC, 7, SUB, M_NODE},     {M_FUNC, 9, SUB, M_LEAF},
    {M_FUNC, 10, KEEP, M_NONE},
};

typedef struct {
    const uint8_t *data;
    uint8_t *out; /* NULL while counting */
    size_t n;
    Diag *d;
} Scan;

static void put(Scan *s, const void *data, size_t bytes) {
    if (s->out != NULL && bytes != 0) memcpy(s->out + s->n, data, bytes);
    s->n += bytes;
}

static void put_varint(Scan *s, uint64_t v) {
    uint8_t b[10];
    size_t n = 0;
    while (v >= 0x80) {
        b[n++] = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    b[n++] = (uint8_t)v;
    put(s, b, n);
}

static void set_length(Scan *s, size_t at, size_t length) {
    if (s->out == NULL) return;
    for (int i = 0; i < LENGTH_BYTES; i++) {
        uint8_t more = i + 1 < LENGTH_BYTES ? 0x80 : 0;
        s->out[at + (size_t)i] = (uint8_t)(((length >> (7 * i)) & 0x7f) | more);
    }
}

static bool bad(Scan *s, size_t at, const char *what) {
    return diag_error(s->d, loc_none(), "not a readable ONNX file: %s at byte %zu", what, at);
}

static bool get_varint(Scan *s, size_t *at, size_t end, uint64_t *out) {
    uint64_t v = 0;
    size_t start = *at;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        if (*at >= end) return bad(s, start, "a number is cut short");
        uint8_t b = s->data[(*at)++];
        if (shift < 64) v |= (uint64_t)(b & 0x7f) << shift;
        if ((b & 0x80) == 0) {
            *out = v;
            return true;
        }
    }
    return bad(s, start, "a number has more than 10 bytes");
}

static const Rule *rule_find(Message m, uint64_t field) {
    for (size_t i = 0; i < COUNT_OF(RULES); i++)
        if (RULES[i].message == m && RULES[i].field == field) return &RULES[i];
    return NULL;
}

static bool scan_message(Scan *s, Message m, size_t at, size_t end, unsigned depth);

/* A field with a length: `tag`, then bytes [at, end). */
static bool scan_field(Scan *s, const Rule *r, uint64_t tag, size_t at, size_t end, unsigned depth) {
    put_varint(s, tag);
    if (r->action == KEEP) {
        put_varint(s, end - at);
        put(s, s->data + at, end - at);
        return true;
    }
    if (r->action == RAW) {
        uint64_t where[2] = {at, end - at};
        put_varint(s, sizeof(where));
        put(s, where, sizeof(where));
        return true;
    }
    if (r->action == EMPTY) {
        put_varint(s, 0);
        return true;
    }
    size_t length_at = s->n;
    s->n += LENGTH_BYTES;
    if (r->sub == M_LEAF)
        put(s, s->data + at, end - at);
    else if (!scan_message(s, r->sub, at, end, depth + 1))
        return false;
    set_length(s, length_at, s->n - length_at - LENGTH_BYTES);
    return true;
}

static bool scan_message(Scan *s, Message m, size_t at, size_t end, unsigned depth) {
    if (depth > DEPTH_MAX) return bad(s, at, "graphs are nested too deeply");
    while (at < end) {
        size_t start = at;
        uint64_t tag = 0, length = 0;
        if (!get_varint(s, &at, end, &tag)) return false;
        const Rule *r = rule_find(m, tag >> 3);
        size_t value = at;
        switch (tag & 7) {
        case 0:
            if (!get_varint(s, &at, end, &length)) return false;
            break;
        case 1:
        case 5: {
            size_t size = (tag & 7) == 1 ? 8 : 4;
            if (end - at < size) return bad(s, start, "a number is cut short");
            at += size;
            break;
        }
        case 2:
            if (!get_varint(s, &at, end, &length)) return false;
            if (length > end - at) return bad(s, start, "a length goes past the end");
            value = at;
            at += (size_t)length;
            break;
        default: return bad(s, start, "unknown wire type");
        }
        if (r == NULL) continue;
        if ((tag & 7) == 2) {
            if (!scan_field(s, r, tag, value, at, depth)) return false;
        } else if (r->action == KEEP) {
            put(s, s->data + start, at - start);
        } else {
            return bad(s, start, "a field has the wrong wire type");
        }
    }
    return true;
}

bool onnx_scan(const uint8_t *data, size_t bytes, bool tensor, Arena *a, uint8_t **out, size_t *nout,
               Diag *d) {
    Scan s = {data, NULL, 0, d};
    Message m = tensor ? M_TENSOR : M_MODEL;
    if (!scan_message(&s, m, 0, bytes, 0)) return false;
    if (s.n > UINT32_MAX) return bad(&s, 0, "more than 4 GiB of graph");
    s.out = arena_alloc(a, s.n);
    s.n = 0;
    if (!scan_message(&s, m, 0, bytes, 0)) return false;
    *out = s.out;
    *nout = s.n;
    return true;
}
