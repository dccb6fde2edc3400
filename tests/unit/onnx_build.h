/* onnx_build.h: writes small ONNX files in memory for tests, field by field of the wire format. */
#ifndef GPTC_TESTS_ONNX_BUILD_H
#define GPTC_TESTS_ONNX_BUILD_H

#include <stdlib.h>
#include <string.h>

#include "frontend/frontend.h"

typedef struct {
    uint8_t data[1 << 16];
    size_t n;
} Buf;

static inline void put_varint(Buf *b, uint64_t v) {
    for (; v >= 0x80; v >>= 7) b->data[b->n++] = (uint8_t)(v | 0x80);
    b->data[b->n++] = (uint8_t)v;
}

static inline void put_int(Buf *b, unsigned field, int64_t v) {
    put_varint(b, (uint64_t)field << 3);
    put_varint(b, (uint64_t)v);
}

static inline void put_bytes(Buf *b, unsigned field, const void *data, size_t n) {
    put_varint(b, (uint64_t)field << 3 | 2);
    put_varint(b, n);
    if (n != 0) memcpy(b->data + b->n, data, n);
    b->n += n;
}

static inline void put_text(Buf *b, unsigned field, const char *s) { put_bytes(b, field, s, strlen(s)); }

static inline void put_buf(Buf *b, unsigned field, const Buf *x) { put_bytes(b, field, x->data, x->n); }

/* A list of words, one field each. "-" stands for an empty name. */
static inline void put_words(Buf *b, unsigned field, const char *words) {
    while (*words != '\0') {
        size_t n = strcspn(words, " ");
        put_bytes(b, field, words, n == 1 && words[0] == '-' ? 0 : n);
        words += n + (words[n] == ' ');
    }
}

static inline void attr_put_int(Buf *attrs, const char *name, int64_t v) {
    Buf a = {.n = 0};
    put_text(&a, 1, name);
    put_int(&a, 3, v);
    put_int(&a, 20, 2);
    put_buf(attrs, 5, &a);
}

static inline void attr_put_ints(Buf *attrs, const char *name, const int64_t *v, size_t n) {
    Buf a = {.n = 0};
    put_text(&a, 1, name);
    for (size_t i = 0; i < n; i++) put_int(&a, 8, v[i]);
    put_int(&a, 20, 7);
    put_buf(attrs, 5, &a);
}

static inline void attr_put_graph(Buf *attrs, const char *name, const Buf *graph) {
    Buf a = {.n = 0};
    put_text(&a, 1, name);
    put_buf(&a, 6, graph);
    put_int(&a, 20, 5);
    put_buf(attrs, 5, &a);
}

/* Adds a node to a graph (field 1) or a function (field 7). attrs may be NULL. */
static inline void put_node_in(Buf *g, unsigned field, const char *domain, const char *op, const char *in,
                               const char *out, const Buf *attrs) {
    Buf n = {.n = 0};
    put_words(&n, 1, in);
    put_words(&n, 2, out);
    put_text(&n, 3, out);
    put_text(&n, 4, op);
    if (domain[0] != '\0') put_text(&n, 7, domain);
    if (attrs != NULL) {
        memcpy(n.data + n.n, attrs->data, attrs->n);
        n.n += attrs->n;
    }
    put_buf(g, field, &n);
}

static inline void put_node(Buf *g, const char *op, const char *in, const char *out, const Buf *attrs) {
    put_node_in(g, 1, "", op, in, out, attrs);
}

/* An input (field 11) or output (field 12); dims are words, numbers or names. */
static inline void put_info(Buf *g, unsigned field, const char *name, int type, const char *dims) {
    Buf shape = {.n = 0}, tensor = {.n = 0}, t = {.n = 0}, info = {.n = 0};
    while (*dims != '\0') {
        Buf d = {.n = 0};
        char word[64] = {0};
        size_t n = strcspn(dims, ",");
        memcpy(word, dims, n);
        if ((word[0] >= '0' && word[0] <= '9') || word[0] == '-')
            put_int(&d, 1, atoll(word));
        else
            put_text(&d, 2, word);
        put_buf(&shape, 1, &d);
        dims += n + (dims[n] == ',');
    }
    put_int(&tensor, 1, type);
    put_buf(&tensor, 2, &shape);
    put_buf(&t, 1, &tensor);
    put_text(&info, 1, name);
    put_buf(&info, 2, &t);
    put_buf(g, field, &info);
}

static inline void make_tensor(Buf *t, const char *name, int type, const int64_t *dims, size_t rank,
                               const void *raw, size_t bytes) {
    t->n = 0;
    for (size_t i = 0; i < rank; i++) put_int(t, 1, dims[i]);
    put_int(t, 2, type);
    put_text(t, 8, name);
    if (raw != NULL) put_bytes(t, 9, raw, bytes);
}

static inline void put_floats(Buf *g, const char *name, const int64_t *dims, size_t rank, const float *v) {
    Buf t;
    size_t n = 1;
    for (size_t i = 0; i < rank; i++) n *= (size_t)dims[i];
    make_tensor(&t, name, 1, dims, rank, v, n * sizeof(float));
    put_buf(g, 5, &t);
}

static inline void put_ints(Buf *g, const char *name, const int64_t *v, int64_t n) {
    Buf t;
    make_tensor(&t, name, 7, &n, 1, v, (size_t)n * sizeof(int64_t));
    put_buf(g, 5, &t);
}

static inline void put_scalar(Buf *g, const char *name, int64_t v) {
    Buf t;
    make_tensor(&t, name, 7, NULL, 0, &v, sizeof(v));
    put_buf(g, 5, &t);
}

/* The model around a graph; funcs holds function fields (25) or is NULL. */
static inline void make_model(Buf *m, int64_t opset, const Buf *graph, const Buf *funcs) {
    Buf o = {.n = 0};
    m->n = 0;
    put_int(m, 1, 8);
    put_int(&o, 2, opset);
    put_buf(m, 8, &o);
    put_buf(m, 7, graph);
    if (funcs != NULL) {
        memcpy(m->data + m->n, funcs->data, funcs->n);
        m->n += funcs->n;
    }
}

#endif
