/* tiny_function.h: writes a small model.bin with a FUNCTION by hand, for the tests and the fuzzer of functions.
 *
 *   Fn *f = fn_new();
 *   uint32_t x = fn_input(f, ART_F32, 2, fn_symbol(f, "n"), fn_dim(f, 3));
 *   uint32_t y = fn_value(f, ART_F32, 2, …);
 *   fn_node(f, ART_FN_NEG, y, 1, x);        fn_output(f, y);
 *   uint8_t *image = fn_image(f, &bytes);   fn_free(f); */
#ifndef TINY_FUNCTION_H
#define TINY_FUNCTION_H

#include <stdarg.h>

#include "tests/unit/tiny_artifact.h"

enum { FN_MAX = 256, FN_WEIGHTS = 1 << 16 };

typedef struct {
    ArtMeta meta;
    char text[1024];
    ArtTensor tensors[FN_MAX];
    uint32_t n_tensors;
    uint8_t weights[FN_WEIGHTS];
    uint64_t weight_bytes;
    ArtFunction head;
    ArtTerm terms[FN_MAX];
    ArtDim dims[FN_MAX];
    ArtNode nodes[FN_MAX];
    ArtValue values[FN_MAX];
    uint32_t operands[FN_MAX], inputs[FN_MAX], outputs[FN_MAX], symbols[ART_MAX_SYMBOLS];
} Fn;

static inline Fn *fn_new(void) {
    Fn *f = calloc(1, sizeof *f);
    f->meta.bos_token = -1;
    f->head.tokens = f->head.logits = ART_NO_INDEX;
    f->weight_bytes = 64; /* not empty */
    return f;
}

static inline void fn_free(Fn *f) { free(f); }

static inline uint32_t fn_text(Fn *f, const char *text) {
    uint32_t at = f->meta.text_bytes, n = (uint32_t)strlen(text) + 1;
    memcpy(f->text + at, text, n);
    f->meta.text_bytes += n;
    return at;
}

static inline uint32_t fn_sum(Fn *f, uint32_t n, const ArtTerm *terms) {
    f->dims[f->head.n_dims] = (ArtDim){f->head.n_terms, n};
    for (uint32_t i = 0; i < n; i++) f->terms[f->head.n_terms++] = terms[i];
    return f->head.n_dims++;
}

static inline uint32_t fn_dim(Fn *f, int64_t v) { return fn_sum(f, 1, &(ArtTerm){.factor = v}); }

/* A dimension that is a new symbol; fn_power refers to it by number. */
static inline uint32_t fn_symbol(Fn *f, const char *name) {
    ArtTerm t = {.factor = 1};
    t.power[f->head.n_symbols] = 1;
    f->symbols[f->head.n_symbols++] = fn_text(f, name);
    return fn_sum(f, 1, &t);
}

static inline uint32_t fn_value_of(Fn *f, uint32_t kind, uint32_t dtype, uint32_t rank, const uint32_t *dim) {
    ArtValue *v = &f->values[f->head.n_values];
    *v = (ArtValue){.kind = kind, .dtype = dtype, .rank = rank, .name_offset = ART_NO_INDEX};
    for (uint32_t i = 0; i < rank; i++) v->dim[i] = dim[i];
    return f->head.n_values++;
}

#define FN_DIMS(rank)                                                                                        \
    uint32_t dim[ART_MAX_RANK] = {0};                                                                        \
    va_list ap;                                                                                              \
    va_start(ap, rank);                                                                                      \
    for (uint32_t i_ = 0; i_ < rank; i_++) dim[i_] = va_arg(ap, uint32_t);                                   \
    va_end(ap)

/* A result; its dimensions (indices into dims) follow. */
static inline uint32_t fn_value(Fn *f, uint32_t dtype, uint32_t rank, ...) {
    FN_DIMS(rank);
    return fn_value_of(f, ART_V_RESULT, dtype, rank, dim);
}

static inline uint32_t fn_input(Fn *f, uint32_t dtype, uint32_t rank, ...) {
    FN_DIMS(rank);
    uint32_t v = fn_value_of(f, ART_V_INPUT, dtype, rank, dim);
    f->values[v].name_offset = fn_text(f, "x");
    return f->inputs[f->head.n_inputs++] = v;
}

/* A tensor of the weights: PLAIN of rank 1 whatever the value's, or PANEL16 of the value's rank 2 and lengths. */
static inline uint32_t fn_tensor(Fn *f, uint32_t dtype, uint32_t rank, const int64_t *length,
                                 const void *data, bool panels) {
    static const uint8_t size[ART_DTYPE_COUNT] = {0, 4, 2, 2, 8, 8, 1, 1, 1, 2, 2, 4, 4, 8};
    uint32_t dim[ART_MAX_RANK];
    uint64_t n = 1, each = size[dtype];
    for (uint32_t i = 0; i < rank; i++) {
        dim[i] = fn_dim(f, length[i]);
        n *= (uint64_t)length[i];
    }
    uint32_t v = fn_value_of(f, ART_V_TENSOR, dtype, rank, dim);
    ArtTensor *t = &f->tensors[f->values[v].tensor = f->n_tensors++];
    *t = (ArtTensor){dtype, ART_PLAIN, 1, 0, {n}, f->weight_bytes, n * each, UINT32_MAX, 0};
    uint8_t *to = f->weights + t->offset;
    if (panels) {
        uint64_t rows = (uint64_t)length[0], cols = (uint64_t)length[1];
        t->layout = ART_PANEL16;
        t->rank = 2;
        t->dim[0] = rows;
        t->dim[1] = cols;
        t->bytes = (rows + 15) / 16 * 16 * cols * each;
        for (uint64_t i = 0; i < n; i++) {
            uint64_t r = i / cols, at = (r / 16 * cols + i % cols) * 16 + r % 16;
            memcpy(to + at * each, (const uint8_t *)data + i * each, each);
        }
    } else if (n) {
        memcpy(to, data, t->bytes);
    }
    f->weight_bytes += (t->bytes + 63) / 64 * 64;
    return v;
}

/* A node with `n` operands; its attributes are set on what is returned. */
static inline ArtNode *fn_node(Fn *f, uint32_t op, uint32_t out, uint32_t n, ...) {
    ArtNode *k = &f->nodes[f->head.n_nodes++];
    va_list ap;
    *k = (ArtNode){.op = op,
                   .first_operand = f->head.n_operands,
                   .n_operands = n,
                   .out = {out, ART_NO_INDEX},
                   .alpha = 1};
    va_start(ap, n);
    for (uint32_t i = 0; i < n; i++) f->operands[f->head.n_operands++] = va_arg(ap, uint32_t);
    va_end(ap);
    for (int i = 0; i < ART_MAX_RANK; i++) k->step[i] = 1;
    return k;
}

static inline void fn_output(Fn *f, uint32_t v) { f->outputs[f->head.n_outputs++] = v; }

static inline size_t fn_lay_out(const Fn *f, uint8_t *image) {
    const ArtFunction *h = &f->head;
    size_t at = sizeof(ArtHeader) + 4 * sizeof(ArtSection);
    tiny_section(image, &at, 0, ART_META, 64);
    tiny_bytes(image, &at, 0, &f->meta, sizeof f->meta);
    tiny_bytes(image, &at, 0, f->text, f->meta.text_bytes);
    tiny_section(image, &at, 1, ART_TENSORS, 64);
    tiny_bytes(image, &at, 1, f->tensors, f->n_tensors * sizeof *f->tensors);
    tiny_section(image, &at, 2, ART_FUNCTION, 64);
    tiny_bytes(image, &at, 2, h, sizeof *h);
    tiny_bytes(image, &at, 2, f->terms, h->n_terms * sizeof *f->terms);
    tiny_bytes(image, &at, 2, f->dims, h->n_dims * sizeof *f->dims);
    tiny_bytes(image, &at, 2, f->nodes, h->n_nodes * sizeof *f->nodes);
    tiny_bytes(image, &at, 2, f->values, h->n_values * sizeof *f->values);
    tiny_bytes(image, &at, 2, f->operands, h->n_operands * sizeof *f->operands);
    tiny_bytes(image, &at, 2, f->inputs, h->n_inputs * sizeof *f->inputs);
    tiny_bytes(image, &at, 2, f->outputs, h->n_outputs * sizeof *f->outputs);
    tiny_bytes(image, &at, 2, f->symbols, h->n_symbols * sizeof *f->symbols);
    tiny_section(image, &at, 3, ART_WEIGHTS, 4096);
    tiny_bytes(image, &at, 3, f->weights, f->weight_bytes);
    return at;
}

/* The whole file; the caller frees it. */
static inline uint8_t *fn_image(const Fn *f, size_t *bytes) {
    *bytes = fn_lay_out(f, NULL);
    uint8_t *image = calloc(1, *bytes);
    ArtHeader h = {.major = ART_MAJOR, .minor = ART_MINOR, .n_sections = 4, .file_bytes = *bytes};
    memcpy(h.magic, ART_MAGIC, sizeof h.magic);
    memcpy(image, &h, sizeof h);
    fn_lay_out(f, image);
    tiny_fix_hashes(image, *bytes);
    return image;
}

/* ---- samples ---- */
enum { FN_VOCAB = 11, FN_WIDTH = 6, FN_CONTEXT = 24 };

/* A GPT without cache: logits = tanh(running sum of the tokens' embeddings) w. */
static inline Fn *fn_gpt(uint32_t token_dtype) {
    Fn *f = fn_new();
    float embed[FN_VOCAB * FN_WIDTH], w[FN_VOCAB * FN_WIDTH];
    for (int i = 0; i < FN_VOCAB * FN_WIDTH; i++) {
        embed[i] = (float)(i * 37 % 41 - 20) / 32;
        w[i] = (float)(i * 29 % 43 - 21) / 16;
    }
    f->meta.vocab = FN_VOCAB;
    f->meta.context = FN_CONTEXT;
    uint32_t batch = fn_symbol(f, "batch"), seq = fn_symbol(f, "seq"), d = fn_dim(f, FN_WIDTH);
    uint32_t tokens = fn_input(f, token_dtype, 2, batch, seq);
    uint32_t table = fn_tensor(f, ART_F32, 2, (const int64_t[]){FN_VOCAB, FN_WIDTH}, embed, false);
    uint32_t panels = fn_tensor(f, ART_F32, 2, (const int64_t[]){FN_VOCAB, FN_WIDTH}, w, true);
    uint32_t x = fn_value(f, ART_F32, 3, batch, seq, d), sum = fn_value(f, ART_F32, 3, batch, seq, d);
    uint32_t h = fn_value(f, ART_F32, 3, batch, seq, d);
    uint32_t logits = fn_value(f, ART_F32, 3, batch, seq, fn_dim(f, FN_VOCAB));
    fn_node(f, ART_FN_GATHER, x, 2, table, tokens);
    fn_node(f, ART_FN_CUMSUM, sum, 1, x)->axis = 1;
    fn_node(f, ART_FN_TANH, h, 1, sum);
    fn_node(f, ART_FN_LINEAR, logits, 2, h, panels);
    f->head.tokens = f->head.logits = 0;
    fn_output(f, logits);
    return f;
}

/* Ops of every kind, over x[n, 4] and indices i[n]. */
static inline Fn *fn_sample(void) {
    Fn *f = fn_new();
    const float scale[4] = {1, 2, 3, 4};
    const int64_t pairs[4] = {0, 1, 1, 0}, four[] = {4}, two[] = {2, 2};
    uint32_t n = fn_symbol(f, "n"), c4 = fn_dim(f, 4), c2 = fn_dim(f, 2), c1 = fn_dim(f, 1),
             zero = fn_dim(f, 0);
    uint32_t n2 = fn_sum(f, 1, &(ArtTerm){.factor = 2, .power = {1}});
    uint32_t more = fn_sum(f, 2, (const ArtTerm[]){{.factor = 1, .power = {1}}, {.factor = 1}});
    uint32_t x = fn_input(f, ART_F32, 2, n, c4), i = fn_input(f, ART_I64, 1, n), v[40], k = 0;
    uint32_t s = fn_tensor(f, ART_F32, 1, four, scale, false),
             p = fn_tensor(f, ART_I64, 2, two, pairs, false);
    fn_node(f, ART_FN_MUL, v[k++] = fn_value(f, ART_F32, 2, n, c4), 2, x, s);
    fn_node(f, ART_FN_RESHAPE, v[k++] = fn_value(f, ART_F32, 2, n2, c2), 1, v[0]);
    ArtNode *slice = fn_node(f, ART_FN_SLICE, v[k++] = fn_value(f, ART_F32, 2, n, c2), 1, x);
    slice->start[0] = zero;
    slice->start[1] = c1;
    fn_node(f, ART_FN_CONCAT,
            v[k++] = fn_value(f, ART_F32, 2, fn_sum(f, 1, &(ArtTerm){.factor = 3, .power = {1}}), c2), 2,
            v[1], v[2]);
    fn_node(f, ART_FN_SOFTMAX, v[k++] = fn_value(f, ART_F32, 2, n, c4), 1, v[0])->axis = 1;
    fn_node(f, ART_FN_TRANSPOSE, v[k++] = fn_value(f, ART_F32, 2, c4, n), 1, v[4])->perm[0] = 1;
    fn_node(f, ART_FN_MATMUL, v[k++] = fn_value(f, ART_F32, 2, n, n), 2, v[4], v[5]);
    fn_node(f, ART_FN_TRIL, v[k++] = fn_value(f, ART_F32, 2, n, n), 1, v[6]);
    fn_node(f, ART_FN_GATHER, v[k++] = fn_value(f, ART_F32, 2, n, n), 2, v[7], i)->axis = 0;
    fn_node(f, ART_FN_GATHER_ND, v[k++] = fn_value(f, ART_F32, 2, c2, n), 2, v[5],
            fn_value(f, ART_I64, 2, c2, c1));
    f->operands[f->head.n_operands - 1] = fn_tensor(f, ART_I64, 2, (const int64_t[]){2, 1}, pairs, false);
    fn_node(f, ART_FN_SCATTER_ND, v[k++] = fn_value(f, ART_F32, 1, c4), 3, s, p, fn_value(f, ART_F32, 1, c2));
    f->operands[f->head.n_operands - 2] = fn_tensor(f, ART_I64, 2, (const int64_t[]){2, 1}, pairs, false);
    f->operands[f->head.n_operands - 1] = fn_tensor(f, ART_F32, 1, (const int64_t[]){2}, scale, false);
    ArtNode *topk = fn_node(f, ART_FN_TOPK, v[k++] = fn_value(f, ART_F32, 2, n, c2), 1, x);
    topk->axis = 1;
    topk->count = 2;
    topk->out[1] = fn_value(f, ART_I64, 2, n, c2);
    fn_node(f, ART_FN_REDUCE_SUM, v[k++] = fn_value(f, ART_F32, 1, n), 1, v[8])->axes = 2;
    fn_node(f, ART_FN_CAST, v[k++] = fn_value(f, ART_I32, 1, n), 1, v[12]);
    fn_node(f, ART_FN_CUMSUM, v[k++] = fn_value(f, ART_I32, 1, n), 1, v[13]);
    ArtNode *pad =
        fn_node(f, ART_FN_PAD, v[k++] = fn_value(f, ART_I32, 1, more), 2, v[14], fn_value(f, ART_I32, 0));
    pad->start[0] = c1;
    f->operands[f->head.n_operands - 1] = fn_tensor(f, ART_I32, 0, NULL, scale, false);
    fn_node(f, ART_FN_IOTA, v[k++] = fn_value(f, ART_I64, 1, n), 0);
    fn_node(f, ART_FN_LT, v[k++] = fn_value(f, ART_BOOL, 1, n), 2, i, v[16]);
    fn_node(f, ART_FN_WHERE, v[k++] = fn_value(f, ART_F32, 2, n, n), 3, v[17], v[6], v[8]);
    fn_node(f, ART_FN_NORM, v[k++] = fn_value(f, ART_F32, 2, n, c4), 2, v[0], s)->eps = 1e-5f;
    fn_node(f, ART_FN_ARGMAX, v[k++] = fn_value(f, ART_I64, 1, n), 1, v[19])->axis = 1;
    fn_node(f, ART_FN_DIM, v[k++] = fn_value(f, ART_I64, 0), 0)->value = more;
    fn_node(f, ART_FN_DIV, v[k++] = fn_value(f, ART_I64, 1, n), 2, v[20], v[21]);
    for (uint32_t o = 0; o < k; o++)
        if (o == 1 || o == 3 || o == 9 || o == 10 || o == 11 || o == 15 || o == 18 || o == 22)
            fn_output(f, v[o]);
    return f;
}

#endif
