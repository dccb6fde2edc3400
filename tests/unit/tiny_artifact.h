/* tiny_artifact.h: writes a small model.bin by hand, for the tests and the fuzzer of the runtime.
 *
 * Two decoder layers of random weights that use every kernel once and more: learned positions and rotary
 * ones, grouped heads, a window, ALiBi slopes and a sink, both norms, all three float types, a gate,
 * residuals, and a block of softmax, reduction, transpose and pointwise broadcasting. */
#ifndef TINY_ARTIFACT_H
#define TINY_ARTIFACT_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/runtime.h"

enum {
    TINY_VOCAB = 61,
    TINY_CONTEXT = 64,
    TINY_D = 32,
    TINY_HEADS = 4,
    TINY_KV = 2,
    TINY_DIM = 8,
    TINY_FF = 48,
    TINY_ROTATED = 6,
    TINY_WINDOW = 5,
    TINY_TENSORS = 40,
    TINY_STEPS = 48,
    TINY_INSNS = 32,
    TINY_WEIGHTS = 1 << 18,
};

typedef struct {
    ArtMeta meta;
    char text[256];
    ArtTensor tensors[TINY_TENSORS];
    uint32_t n_tensors;
    double *value[TINY_TENSORS]; /* row-major, unpacked, exactly what is stored */
    uint8_t *weights;
    uint64_t weight_bytes;
    ArtPlan plan;
    ArtState states[4];
    ArtStep steps[TINY_STEPS];
    ArtInsn insns[TINY_INSNS];
    uint64_t random;
} Tiny;

/* Tensor numbers, in the order in which tiny_new makes them. */
enum { W_EMBED, W_POS, W_COS, W_SIN, W_SLOPES, W_SINKS, W_VECTOR, W_FINAL_G, W_LAYER };
enum { L_G1, L_B1, L_Q, L_QB, L_K, L_V, L_O, L_G2, L_UP, L_UPB, L_GATE, L_DOWN, L_COUNT };
#define TINY_W(layer, which) ((uint32_t)(W_LAYER + (layer)*L_COUNT + (which)))

static inline double tiny_random(Tiny *t) { /* in [-1, 1), multiples of 1/128 */
    t->random = t->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(int64_t)(t->random >> 56) / 128 - 1;
}

/* Exact for the numbers used here: zero, or normal with few bits. */
static inline uint16_t tiny_f16(float f) {
    uint32_t b;
    memcpy(&b, &f, 4);
    if (!(b & 0x7fffffff)) return (uint16_t)(b >> 16);
    return (uint16_t)((b >> 16 & 0x8000) | (((b >> 23 & 0xff) - 112) << 10) | (b >> 13 & 0x3ff));
}

static inline uint16_t tiny_bf16(float f) {
    uint32_t b;
    memcpy(&b, &f, 4);
    return (uint16_t)(b >> 16);
}

static inline void tiny_put(uint8_t *data, uint32_t dtype, uint64_t at, float f) {
    uint16_t h = dtype == ART_F16 ? tiny_f16(f) : tiny_bf16(f);
    if (dtype == ART_F32)
        memcpy(data + at * 4, &f, 4);
    else
        memcpy(data + at * 2, &h, 2);
}

/* value: rows x cols numbers, or NULL for random ones in scale x [-1, 1) + base. */
static inline uint32_t tiny_tensor(Tiny *t, uint32_t dtype, uint32_t layout, uint64_t rows, uint64_t cols,
                                   double scale, double base, const double *value) {
    uint32_t index = t->n_tensors++;
    uint64_t n = rows * cols, stored = layout == ART_PANEL16 ? (rows + 15) / 16 * 16 * cols : n;
    ArtTensor *a = &t->tensors[index];
    *a = (ArtTensor){.dtype = dtype,
                     .layout = layout,
                     .rank = rows == 1 ? 1 : 2,
                     .dim = {rows, cols},
                     .offset = t->weight_bytes,
                     .bytes = stored * (dtype == ART_F32 ? 4 : 2),
                     .name_offset = UINT32_MAX};
    if (rows == 1) a->dim[0] = cols, a->dim[1] = 0;
    t->value[index] = calloc(n, sizeof(double));
    uint8_t *data = t->weights + t->weight_bytes;
    for (uint64_t i = 0; i < n; i++) {
        float f = (float)(value ? value[i] : tiny_random(t) * scale + base);
        uint64_t r = i / cols, c = i % cols;
        t->value[index][i] = (double)f;
        tiny_put(data, dtype, layout == ART_PANEL16 ? (r / 16 * cols + c) * 16 + r % 16 : i, f);
    }
    t->weight_bytes += (a->bytes + 63) / 64 * 64;
    return index;
}

static inline ArtArg tiny_rows(Tiny *t, uint32_t width) { /* a new buffer */
    ArtArg a = {ART_ARG_ROWS, width, t->plan.row_bytes};
    t->plan.row_bytes += ((uint64_t)width * 4 + 63) / 64 * 64;
    return a;
}

static inline ArtArg tiny_arg(uint32_t kind, uint64_t value) { return (ArtArg){kind, 0, value}; }

/* A step of a kernel; out at its place. */
static inline ArtStep *tiny_step(Tiny *t, uint32_t kernel, ArtArg x, ArtArg out) {
    ArtStep *s = &t->steps[t->plan.n_steps++];
    s->kernel = kernel;
    s->arg[0] = x;
    s->arg[plan_inputs(kernel)] = out;
    return s;
}

static inline ArtArg tiny_linear(Tiny *t, ArtArg x, uint32_t w, int bias, ArtArg residual, ArtArg gate,
                                 uint32_t act) {
    uint32_t n = (uint32_t)t->tensors[w].dim[0];
    ArtArg out = tiny_rows(t, n);
    ArtStep *s = tiny_step(t, ART_K_LINEAR, x, out);
    s->arg[1] = tiny_arg(ART_ARG_TENSOR, w);
    if (bias >= 0) s->arg[2] = tiny_arg(ART_ARG_TENSOR, (uint64_t)bias);
    s->arg[3] = gate;
    s->arg[4] = residual;
    s->u.linear = (ArtLinear){x.width, n, act};
    return out;
}

static inline ArtArg tiny_norm(Tiny *t, ArtArg x, uint32_t gamma, int beta, uint32_t rms) {
    ArtArg out = tiny_rows(t, x.width);
    ArtStep *s = tiny_step(t, ART_K_NORM, x, out);
    s->arg[1] = tiny_arg(ART_ARG_TENSOR, gamma);
    if (beta >= 0) s->arg[2] = tiny_arg(ART_ARG_TENSOR, (uint64_t)beta);
    s->u.norm = (ArtNorm){1, x.width, rms, 1e-5f};
    return out;
}

static inline void tiny_rope(Tiny *t, ArtArg x, uint32_t heads) { /* in place */
    ArtStep *s = tiny_step(t, ART_K_ROPE, x, x);
    s->arg[1] = tiny_arg(ART_ARG_TENSOR, W_COS);
    s->arg[2] = tiny_arg(ART_ARG_TENSOR, W_SIN);
    s->u.rope = (ArtRope){heads, TINY_DIM, TINY_ROTATED, 0};
}

static inline void tiny_store(Tiny *t, ArtArg x, uint32_t state) {
    ArtStep *s = tiny_step(t, ART_K_STORE, x, tiny_arg(ART_ARG_NONE, 0));
    s->arg[1] = tiny_arg(ART_ARG_STATE, state);
    s->u.store = (ArtStore){TINY_KV, TINY_DIM};
}

static inline ArtArg tiny_layer(Tiny *t, ArtArg x, uint32_t layer) {
    const ArtArg none = {0};
    ArtArg h = tiny_norm(t, x, TINY_W(layer, L_G1), (int)TINY_W(layer, L_B1), 0);
    ArtArg q = tiny_linear(t, h, TINY_W(layer, L_Q), (int)TINY_W(layer, L_QB), none, none, ART_ACT_NONE);
    ArtArg k = tiny_linear(t, h, TINY_W(layer, L_K), -1, none, none, ART_ACT_NONE);
    ArtArg v = tiny_linear(t, h, TINY_W(layer, L_V), -1, none, none, ART_ACT_NONE);
    if (layer == 0) {
        tiny_rope(t, q, TINY_HEADS);
        tiny_rope(t, k, TINY_KV);
    }
    tiny_store(t, k, 2 * layer);
    tiny_store(t, v, 2 * layer + 1);
    ArtArg a = tiny_rows(t, TINY_HEADS * TINY_DIM);
    ArtStep *s = tiny_step(t, ART_K_ATTENTION, q, a);
    s->arg[1] = tiny_arg(ART_ARG_STATE, 2 * layer);
    s->arg[2] = tiny_arg(ART_ARG_STATE, 2 * layer + 1);
    s->u.attention = (ArtAttention){TINY_HEADS, TINY_KV, TINY_DIM, TINY_DIM, 0.35f, 0, 0};
    if (layer == 1) {
        s->arg[3] = tiny_arg(ART_ARG_TENSOR, W_SLOPES);
        s->arg[4] = tiny_arg(ART_ARG_TENSOR, W_SINKS);
        s->u.attention.window = TINY_WINDOW;
        s->u.attention.softcap = 3;
    }
    x = tiny_linear(t, a, TINY_W(layer, L_O), -1, x, none, ART_ACT_NONE);
    h = tiny_norm(t, x, TINY_W(layer, L_G2), -1, 1);
    ArtArg gate = tiny_linear(t, h, TINY_W(layer, L_GATE), -1, none, none, ART_ACT_SILU);
    ArtArg up =
        tiny_linear(t, h, TINY_W(layer, L_UP), (int)TINY_W(layer, L_UPB), none, gate, ART_ACT_GELU_TANH);
    return tiny_linear(t, up, TINY_W(layer, L_DOWN), -1, x, none, ART_ACT_NONE);
}

static inline ArtInsn tiny_load(uint8_t dst, uint8_t input, uint32_t div, uint32_t mod) {
    return (ArtInsn){.op = ART_I_LOAD, .dst = dst, .a = input, .div = div, .mod = mod};
}

/* y = x + transpose(x as 4 x 8) * sum(softmax(x)) + vector * tanh(position / 8), in place of x. */
static inline void tiny_mix(Tiny *t, ArtArg x) {
    ArtArg soft = tiny_rows(t, TINY_D), sums = tiny_rows(t, 4), turned = tiny_rows(t, TINY_D);
    tiny_step(t, ART_K_SOFTMAX, x, soft)->u.reduce = (ArtReduce){0, 1, 4, 8};
    tiny_step(t, ART_K_REDUCE, soft, sums)->u.reduce = (ArtReduce){ART_RED_SUM, 4, 8, 1};
    tiny_step(t, ART_K_MOVE, x, turned)->u.move = (ArtMove){{1, 1, 8, 4}, {0, 0, 1, 8}, {0, 0, 4, 1}, 0, 0};
    ArtStep *s = tiny_step(t, ART_K_POINTWISE, x, x);
    s->arg[1] = turned;
    s->arg[2] = sums;
    s->arg[3] = tiny_arg(ART_ARG_TENSOR, W_VECTOR);
    s->arg[4] = tiny_arg(ART_ARG_POSITIONS, 0);
    const ArtInsn program[] = {tiny_load(0, 0, 1, TINY_D),
                               tiny_load(1, 1, 1, TINY_D),
                               tiny_load(2, 2, 8, 4),
                               {.op = ART_I_MUL, .dst = 1, .a = 1, .b = 2},
                               {.op = ART_I_ADD, .dst = 0, .a = 0, .b = 1},
                               tiny_load(3, 3, 1, TINY_D),
                               tiny_load(4, 4, 1, 1),
                               {.op = ART_I_CONST, .dst = 5, .imm = 0.125f},
                               {.op = ART_I_MUL, .dst = 4, .a = 4, .b = 5},
                               {.op = ART_I_TANH, .dst = 4, .a = 4},
                               {.op = ART_I_MUL, .dst = 3, .a = 3, .b = 4},
                               {.op = ART_I_ADD, .dst = 0, .a = 0, .b = 3},
                               {.op = ART_I_STORE, .a = 0}};
    uint32_t n = sizeof program / sizeof *program;
    memcpy(t->insns + t->plan.n_insns, program, sizeof program);
    s->u.pointwise = (ArtPointwise){t->plan.n_insns, n, TINY_D};
    t->plan.n_insns += n;
}

static inline void tiny_weights(Tiny *t) {
    double table[2][TINY_CONTEXT * TINY_ROTATED / 2];
    for (int i = 0; i < TINY_CONTEXT * TINY_ROTATED / 2; i++) {
        double angle = i / (TINY_ROTATED / 2) * pow(0.3, i % (TINY_ROTATED / 2));
        table[0][i] = cos(angle);
        table[1][i] = sin(angle);
    }
    tiny_tensor(t, ART_F16, ART_PANEL16, TINY_VOCAB, TINY_D, 1, 0, NULL);
    tiny_tensor(t, ART_BF16, ART_PLAIN, TINY_CONTEXT, TINY_D, 0.5, 0, NULL);
    for (int i = 0; i < 2; i++)
        tiny_tensor(t, ART_F32, ART_PLAIN, TINY_CONTEXT, TINY_ROTATED / 2, 0, 0, table[i]);
    tiny_tensor(t, ART_F32, ART_PLAIN, 1, TINY_HEADS, 0.25, 0.25, NULL);
    tiny_tensor(t, ART_F32, ART_PLAIN, 1, TINY_HEADS, 1, 0, NULL);
    tiny_tensor(t, ART_F32, ART_PLAIN, 1, TINY_D, 1, 0, NULL);
    tiny_tensor(t, ART_F32, ART_PLAIN, 1, TINY_D, 0.5, 1, NULL);
    for (int layer = 0; layer < 2; layer++) {
        uint32_t type = layer ? ART_BF16 : ART_F32, kv = TINY_KV * TINY_DIM;
        tiny_tensor(t, ART_F32, ART_PLAIN, 1, TINY_D, 0.5, 1, NULL);
        tiny_tensor(t, ART_F32, ART_PLAIN, 1, TINY_D, 0.5, 0, NULL);
        tiny_tensor(t, type, ART_PANEL16, TINY_D, TINY_D, 0.25, 0, NULL);
        tiny_tensor(t, ART_F32, ART_PLAIN, 1, TINY_D, 0.25, 0, NULL);
        tiny_tensor(t, ART_F16, ART_PANEL16, kv, TINY_D, 0.25, 0, NULL);
        tiny_tensor(t, type, ART_PANEL16, kv, TINY_D, 0.25, 0, NULL);
        tiny_tensor(t, type, ART_PANEL16, TINY_D, TINY_D, 0.25, 0, NULL);
        tiny_tensor(t, ART_F32, ART_PLAIN, 1, TINY_D, 0.5, 1, NULL);
        tiny_tensor(t, type, ART_PANEL16, TINY_FF, TINY_D, 0.25, 0, NULL);
        tiny_tensor(t, ART_F32, ART_PLAIN, 1, TINY_FF, 0.25, 0, NULL);
        tiny_tensor(t, type, ART_PANEL16, TINY_FF, TINY_D, 0.25, 0, NULL);
        tiny_tensor(t, type, ART_PANEL16, TINY_D, TINY_FF, 0.25, 0, NULL);
    }
}

static inline Tiny *tiny_new(uint64_t seed) {
    static const char text[] = "producer\0by hand\0flags\0-O0\0k0";
    Tiny *t = calloc(1, sizeof *t);
    t->random = seed;
    t->weights = calloc(1, TINY_WEIGHTS);
    tiny_weights(t);
    memcpy(t->text, text, sizeof text);
    t->meta = (ArtMeta){.vocab = TINY_VOCAB,
                        .context = TINY_CONTEXT,
                        .layers = 2,
                        .has_cache = 1,
                        .state_bytes_per_token = 4 * TINY_KV * TINY_DIM * 4,
                        .stop_tokens = {3},
                        .n_stop_tokens = 1,
                        .bos_token = -1,
                        .n_strings = 2,
                        .text_bytes = sizeof text};
    t->plan.n_states = 4;
    for (int i = 0; i < 4; i++) t->states[i] = (ArtState){TINY_KV, TINY_DIM, ART_STATE_F32, 0, UINT32_MAX};
    t->states[0].name_offset = sizeof text - 3;
    ArtArg x = tiny_rows(t, TINY_D), p = tiny_rows(t, TINY_D);
    for (int i = 0; i < 2; i++) {
        ArtStep *s = tiny_step(t, ART_K_GATHER, tiny_arg(ART_ARG_TENSOR, i ? W_POS : W_EMBED), i ? p : x);
        s->arg[1] = tiny_arg(i ? ART_ARG_POSITIONS : ART_ARG_TOKENS, 0);
        s->u.gather = (ArtGather){TINY_D};
    }
    const ArtInsn add[] = {tiny_load(0, 0, 1, TINY_D),
                           tiny_load(1, 1, 1, TINY_D),
                           {.op = ART_I_ADD, .dst = 2, .a = 0, .b = 1},
                           {.op = ART_I_STORE, .a = 2}};
    memcpy(t->insns, add, sizeof add);
    t->plan.n_insns = 4;
    ArtStep *s = tiny_step(t, ART_K_POINTWISE, x, x);
    s->arg[1] = p;
    s->u.pointwise = (ArtPointwise){0, 4, TINY_D};
    x = tiny_layer(t, x, 0);
    tiny_mix(t, x);
    x = tiny_layer(t, x, 1);
    t->plan.head_step = t->plan.n_steps;
    t->plan.head_offset = x.value;
    t->plan.head_width = TINY_D;
    ArtArg none = {0}, h = tiny_norm(t, x, W_FINAL_G, -1, 1);
    t->plan.logits_offset = tiny_linear(t, h, W_EMBED, -1, none, none, ART_ACT_NONE).value;
    return t;
}

static inline void tiny_free(Tiny *t) {
    for (uint32_t i = 0; i < t->n_tensors; i++) free(t->value[i]);
    free(t->weights);
    free(t);
}

/* Sets the checksums of an image to what its bytes give, where the table makes sense. */
static inline void tiny_fix_hashes(uint8_t *image, size_t bytes) {
    ArtHeader h;
    if (bytes < sizeof h) return;
    memcpy(&h, image, sizeof h);
    size_t table = (size_t)h.n_sections * sizeof(ArtSection);
    if (h.n_sections > 64 || table > bytes - sizeof h) return;
    for (uint32_t i = 0; i < h.n_sections; i++) {
        ArtSection s;
        memcpy(&s, image + sizeof h + i * sizeof s, sizeof s);
        if (s.offset > bytes || s.bytes > bytes - s.offset) continue;
        s.hash = xxhash64(image + s.offset, s.bytes, s.kind);
        memcpy(image + sizeof h + i * sizeof s, &s, sizeof s);
    }
    h.table_hash = xxhash64(image + sizeof h, table, 0);
    memcpy(image, &h, sizeof h);
}

static inline void tiny_section(uint8_t *image, size_t *at, int index, uint32_t kind, size_t align) {
    *at = (*at + align - 1) / align * align;
    ArtSection s = {.kind = kind, .offset = *at};
    if (image) memcpy(image + sizeof(ArtHeader) + (size_t)index * sizeof s, &s, sizeof s);
}

static inline void tiny_bytes(uint8_t *image, size_t *at, int index, const void *data, size_t bytes) {
    if (image) {
        uint8_t *s = image + sizeof(ArtHeader) + (size_t)index * sizeof(ArtSection);
        uint64_t have;
        memcpy(image + *at, data, bytes);
        memcpy(&have, s + offsetof(ArtSection, bytes), 8);
        have += bytes;
        memcpy(s + offsetof(ArtSection, bytes), &have, 8);
    }
    *at += bytes;
}

/* Lays the file out; with image NULL only its size. */
static inline size_t tiny_lay_out(const Tiny *t, uint8_t *image) {
    const ArtPlan *p = &t->plan;
    size_t at = sizeof(ArtHeader) + 5 * sizeof(ArtSection);
    tiny_section(image, &at, 0, ART_META, 64);
    tiny_bytes(image, &at, 0, &t->meta, sizeof t->meta);
    tiny_bytes(image, &at, 0, t->text, t->meta.text_bytes);
    tiny_section(image, &at, 1, ART_TENSORS, 64);
    tiny_bytes(image, &at, 1, t->tensors, t->n_tensors * sizeof *t->tensors);
    tiny_section(image, &at, 2, ART_PLAN, 64);
    tiny_bytes(image, &at, 2, p, sizeof *p);
    tiny_bytes(image, &at, 2, t->states, p->n_states * sizeof *t->states);
    tiny_bytes(image, &at, 2, t->steps, p->n_steps * sizeof *t->steps);
    tiny_bytes(image, &at, 2, t->insns, p->n_insns * sizeof *t->insns);
    tiny_section(image, &at, 3, 1000, 64); /* of a later version: to be skipped */
    tiny_bytes(image, &at, 3, "later", 5);
    tiny_section(image, &at, 4, ART_WEIGHTS, 4096);
    tiny_bytes(image, &at, 4, t->weights, t->weight_bytes);
    return at;
}

/* The whole file; the caller frees it. */
static inline uint8_t *tiny_image(const Tiny *t, size_t *bytes) {
    *bytes = tiny_lay_out(t, NULL);
    uint8_t *image = calloc(1, *bytes);
    ArtHeader h = {.major = ART_MAJOR, .minor = ART_MINOR, .n_sections = 5, .file_bytes = *bytes};
    memcpy(h.magic, ART_MAGIC, sizeof h.magic);
    memcpy(image, &h, sizeof h);
    tiny_lay_out(t, image);
    tiny_fix_hashes(image, *bytes);
    return image;
}

#endif
