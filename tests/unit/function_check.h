/* function_check.h: runs one op of a function on small tensors and compares with what it should give.
 *
 * Numbers are doubles in the tests and become elements of each tensor's dtype here. */
#ifndef FUNCTION_CHECK_H
#define FUNCTION_CHECK_H

#define _GNU_SOURCE
#include <stdio.h>
#include <unistd.h>

#include "tests/unit/tiny_function.h"
#include "tests/unit/unit.h"

enum { T_MAX = 1024 };
typedef struct {
    uint32_t dtype, rank;
    int64_t dim[ART_MAX_RANK];
    double v[T_MAX];
} T;

static inline size_t t_count(const T *t) {
    size_t n = 1;
    for (uint32_t i = 0; i < t->rank; i++) n *= (size_t)t->dim[i];
    return n;
}

static inline void put_element(uint32_t dtype, void *data, size_t i, double v) {
    switch (dtype) {
    case ART_F32:
    case ART_F16:
    case ART_BF16: tiny_put(data, dtype, i, (float)v); break;
    case ART_F64: ((double *)data)[i] = v; break;
    case ART_BOOL:
    case ART_U8: ((uint8_t *)data)[i] = (uint8_t)v; break;
    case ART_I8: ((int8_t *)data)[i] = (int8_t)v; break;
    case ART_I16: ((int16_t *)data)[i] = (int16_t)v; break;
    case ART_U16: ((uint16_t *)data)[i] = (uint16_t)v; break;
    case ART_I32: ((int32_t *)data)[i] = (int32_t)v; break;
    case ART_U32: ((uint32_t *)data)[i] = (uint32_t)v; break;
    case ART_I64: ((int64_t *)data)[i] = (int64_t)v; break;
    default: ((uint64_t *)data)[i] = (uint64_t)v; break;
    }
}

static inline double f16_value(uint16_t h) {
    int e = h >> 10 & 31, m = h & 1023;
    double v = e == 31 ? (m ? NAN : INFINITY) : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h >> 15 ? -v : v;
}

static inline double get_element(uint32_t dtype, const void *data, size_t i) {
    uint32_t wide;
    float f;
    switch (dtype) {
    case ART_F32: return (double)((const float *)data)[i];
    case ART_F16: return f16_value(((const uint16_t *)data)[i]);
    case ART_BF16:
        wide = (uint32_t)((const uint16_t *)data)[i] << 16;
        memcpy(&f, &wide, 4);
        return (double)f;
    case ART_F64: return ((const double *)data)[i];
    case ART_BOOL:
    case ART_U8: return ((const uint8_t *)data)[i];
    case ART_I8: return ((const int8_t *)data)[i];
    case ART_I16: return ((const int16_t *)data)[i];
    case ART_U16: return ((const uint16_t *)data)[i];
    case ART_I32: return ((const int32_t *)data)[i];
    case ART_U32: return ((const uint32_t *)data)[i];
    case ART_I64: return (double)((const int64_t *)data)[i];
    default: return (double)((const uint64_t *)data)[i];
    }
}

/* What a result may be off by, relative to max(1, |want|). */
static inline double tolerance(uint32_t dtype) {
    switch (dtype) {
    case ART_F32: return 1e-6;
    case ART_F16: return 1e-3;
    case ART_BF16: return 8e-3;
    case ART_F64: return 1e-14;
    default: return 0;
    }
}

static inline bool near(uint32_t dtype, double got, double want) {
    if (isnan(want)) return isnan(got);
    if (isinf(want)) return got == want;
    return fabs(got - want) <= tolerance(dtype) * fmax(1, fabs(want));
}

/* ---- files ---- */
static inline gptc_status fn_open(const Fn *f, int level, gptc_model **m, gptc_detail *why) {
    char path[] = "/tmp/gptc-test-function-XXXXXX";
    size_t bytes;
    uint8_t *image = fn_image(f, &bytes);
    int file = mkstemp(path);
    gptc_open_options o = {.cpu_level = level, .verify = 1};
    gptc_status st = GPTC_E_IO;
    if (file >= 0 && write(file, image, bytes) == (ssize_t)bytes) st = gptc_open(path, &o, m, why);
    close(file);
    unlink(path);
    free(image);
    return st;
}

static inline gptc_tensor tensor_of(const T *t, void *data) {
    gptc_tensor g = {.dtype = (gptc_dtype)t->dtype, .rank = (int32_t)t->rank, .data = data};
    memcpy(g.dim, t->dim, sizeof g.dim);
    for (size_t i = 0; i < t_count(t); i++) put_element(t->dtype, data, i, t->v[i]);
    return g;
}

static inline uint32_t fn_fixed(Fn *f, uint32_t kind, const T *t) {
    uint32_t dim[ART_MAX_RANK];
    for (uint32_t i = 0; i < t->rank; i++) dim[i] = fn_dim(f, t->dim[i]);
    uint32_t v = fn_value_of(f, kind, t->dtype, t->rank, dim);
    if (kind == ART_V_INPUT) f->inputs[f->head.n_inputs++] = v;
    return v;
}

/* A function of one node: inputs in[0..n), results out[0..). The node's operands and results are set. */
static inline Fn *fn_single(const ArtNode *node, const T *in, uint32_t n, const T *out, uint32_t n_out) {
    Fn *f = fn_new();
    uint32_t v[8];
    for (uint32_t i = 0; i < n; i++) v[i] = fn_fixed(f, ART_V_INPUT, &in[i]);
    ArtNode k = *node;
    k.out[1] = ART_NO_INDEX;
    for (uint32_t i = 0; i < n_out; i++) fn_output(f, k.out[i] = fn_fixed(f, ART_V_RESULT, &out[i]));
    k.first_operand = 0;
    k.n_operands = n;
    for (uint32_t i = 0; i < n; i++) f->operands[f->head.n_operands++] = v[i];
    for (int i = 0; i < ART_MAX_RANK; i++) k.step[i] = k.step[i] ? k.step[i] : 1;
    f->nodes[f->head.n_nodes++] = k;
    return f;
}

/* Runs f on `in`; its outputs have to be `want`. Returns the status; a difference is a failure. */
static inline gptc_status fn_compare(const Fn *f, const char *what, const T *in, uint32_t n, const T *want,
                                     uint32_t n_out, gptc_detail *why) {
    static uint64_t data[8][T_MAX];
    gptc_model *m = NULL;
    gptc_function *g = NULL;
    gptc_tensor x[8];
    gptc_status st = fn_open(f, 0, &m, why);
    for (uint32_t i = 0; i < n; i++) x[i] = tensor_of(&in[i], data[i]);
    if (!st) st = gptc_function_new(m, &(gptc_function_options){.threads = 2}, &g, why);
    if (!st) st = gptc_function_run(g, x, (int32_t)n, why);
    for (uint32_t i = 0; !st && i < n_out; i++) {
        const gptc_tensor *y = gptc_function_output(g, (int32_t)i);
        bool same = (uint32_t)y->dtype == want[i].dtype && (uint32_t)y->rank == want[i].rank &&
                    !memcmp(y->dim, want[i].dim, sizeof y->dim[0] * want[i].rank);
        for (size_t k = 0; same && k < t_count(&want[i]); k++) {
            double got = get_element(want[i].dtype, y->data, k);
            if (near(want[i].dtype, got, want[i].v[k])) continue;
            fprintf(stderr, "%s: dtype %u, output %u[%zu] is %.17g, not %.17g\n", what, want[i].dtype, i, k,
                    got, want[i].v[k]);
            same = false;
        }
        CU_ASSERT_TRUE(same);
    }
    gptc_function_free(g);
    gptc_close(m);
    return st;
}

static inline gptc_status run_op(const ArtNode *node, const T *in, uint32_t n, const T *want, uint32_t n_out,
                                 gptc_detail *why) {
    Fn *f = fn_single(node, in, n, want, n_out);
    gptc_status st = fn_compare(f, nd_name(node->op), in, n, want, n_out, why);
    fn_free(f);
    return st;
}

/* The op has to run and to give `want`. */
static inline void expect(ArtNode node, const T *in, uint32_t n, T want) {
    gptc_detail why = {""};
    gptc_status st = run_op(&node, in, n, &want, 1, &why);
    if (st) fprintf(stderr, "%s: %s\n", nd_name(node.op), why.text);
    CU_ASSERT_EQUAL(st, GPTC_OK);
}
#define EXPECT(node, want, ...)                                                                              \
    expect(node, (const T[]){__VA_ARGS__}, sizeof((const T[]){__VA_ARGS__}) / sizeof(T), want)

/* The op has to fail so, and to say why. */
static inline void expect_error(ArtNode node, const T *in, uint32_t n, T want, gptc_status status) {
    gptc_detail why = {""};
    gptc_status st = run_op(&node, in, n, &want, 1, &why);
    if (st != status) fprintf(stderr, "%s: status %d, not %d: %s\n", nd_name(node.op), st, status, why.text);
    CU_ASSERT_EQUAL(st, status);
    CU_ASSERT_NOT_EQUAL(why.text[0], 0);
}
#define EXPECT_ERROR(node, status, want, ...)                                                                \
    expect_error(node, (const T[]){__VA_ARGS__}, sizeof((const T[]){__VA_ARGS__}) / sizeof(T), want, status)

#endif
