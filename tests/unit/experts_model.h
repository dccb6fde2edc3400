/* experts_model.h: a GPT of one layer with a mixture of experts, as text of the IR, in the forms that exporters write. */
#ifndef TESTS_EXPERTS_MODEL_H
#define TESTS_EXPERTS_MODEL_H

#include <stdarg.h>
#include <stdio.h>

#include "ir/ir.h"

enum { EXPERT_VOCAB = 40 };
typedef enum { UNROLLED, LISTED, DENSE } Form;
typedef struct {
    Text t, body;
    int values, experts, slots, width, inner;
} Gen;

__attribute__((format(printf, 2, 3))) static int line(Gen *g, const char *format, ...) {
    va_list args;
    va_start(args, format);
    text_printf(&g->body, "%%%d : ", ++g->values);
    text_vprintf(&g->body, format, args);
    text_add(&g->body, "\n");
    va_end(args);
    return g->values;
}

__attribute__((format(printf, 2, 3))) static int constant(Gen *g, const char *format, ...) {
    va_list args;
    va_start(args, format);
    text_printf(&g->t, "const %%%d : ", ++g->values);
    text_vprintf(&g->t, format, args);
    text_add(&g->t, "\n");
    va_end(args);
    return g->values;
}

static int number(Gen *g, int v) { return constant(g, "i64[] = {%d}", v); }

/* x[rows, g->width] through an expert: silu(x w1) * (x w2), times w3. */
static int expert(Gen *g, int x, const char *rows, int e) {
    int w1 = constant(g, "f32[%d, %d] = seed(%d)", g->width, g->inner, 3 * e + 1);
    int w2 = constant(g, "f32[%d, %d] = seed(%d)", g->width, g->inner, 3 * e + 2);
    int w3 = constant(g, "f32[%d, %d] = seed(%d)", g->inner, g->width, 3 * e + 3);
    int a = line(g, "f32[%s, %d] = matmul(%%%d, %%%d)", rows, g->inner, x, w1);
    int s = line(g, "f32[%s, %d] = sigmoid(%%%d)", rows, g->inner, a);
    int h = line(g, "f32[%s, %d] = mul(%%%d, %%%d)", rows, g->inner, a, s);
    int b = line(g, "f32[%s, %d] = matmul(%%%d, %%%d)", rows, g->inner, x, w2);
    h = line(g, "f32[%s, %d] = mul(%%%d, %%%d)", rows, g->inner, h, b);
    return line(g, "f32[%s, %d] = matmul(%%%d, %%%d)", rows, g->width, h, w3);
}

/* Each expert on the rows that chose it, as the older exporter of PyTorch unrolls the loop. */
static int unrolled(Gen *g, int x, int weight, int index) {
    int k = g->slots, e = g->experts, one = number(g, 1), zero = number(g, 0), count = number(g, k);
    int iota = constant(g, "i64[1, 1, %d] = {0", e);
    g->t.count -= 1; /* the line goes on */
    for (int i = 1; i < e; i++) text_printf(&g->t, ", %d", i);
    text_add(&g->t, "}\n");
    int wide = line(g, "i64[batch*seq, %d, 1] = reshape(%%%d)", k, index);
    int hot = line(g, "bool[batch*seq, %d, %d] = eq(%%%d, %%%d)", k, e, wide, iota);
    int ones = line(g, "i64[batch*seq, %d, %d] = where(%%%d, %%%d, %%%d)", k, e, hot, one, zero);
    int mask = line(g, "i64[%d, %d, batch*seq] = transpose(%%%d) {perm=[2, 1, 0]}", e, k, ones);
    int flat = line(g, "f32[%d*batch*seq] = reshape(%%%d)", k, weight);
    int none = constant(g, "f32[] = splat(0)");
    int zeros = line(g, "f32[batch*seq, %d] = broadcast(%%%d)", g->width, none), sum = zeros;
    for (int i = 0; i < e; i++) {
        char h[16];
        snprintf(h, sizeof h, "hits%d", i);
        int mine = line(g, "i64[%d, batch*seq] = gather(%%%d, %%%d)", k, mask, number(g, i));
        int places = line(g, "i64[2, %s] = nonzero(%%%d)", h, mine);
        int slot = line(g, "i64[1, %s] = slice(%%%d)", h, places);
        int row = line(g, "i64[1, %s] = slice(%%%d) {starts=[1, 0]}", h, places);
        slot = line(g, "i64[%s] = reshape(%%%d)", h, slot);
        row = line(g, "i64[%s] = reshape(%%%d)", h, row);
        int y = expert(g, line(g, "f32[%s, %d] = gather(%%%d, %%%d)", h, g->width, x, row), h, i);
        int at = line(g, "i64[%s] = mul(%%%d, %%%d)", h, row, count);
        at = line(g, "i64[%s] = add(%%%d, %%%d)", h, at, slot);
        int w = line(g, "f32[%s] = gather(%%%d, %%%d)", h, flat, at);
        w = line(g, "f32[%s, 1] = reshape(%%%d)", h, w);
        y = line(g, "f32[%s, %d] = mul(%%%d, %%%d)", h, g->width, y, w);
        row = line(g, "i64[%s, 1] = reshape(%%%d)", h, row);
        row = line(g, "i64[%s, %d] = broadcast(%%%d)", h, g->width, row);
        y = line(g, "f32[batch*seq, %d] = scatter_elements(%%%d, %%%d, %%%d) {axis=0}", g->width, zeros, row,
                 y);
        sum = line(g, "f32[batch*seq, %d] = add(%%%d, %%%d)", g->width, sum, y);
    }
    return sum;
}

/* All slots of all rows in one list, experts picked by it. */
static int listed(Gen *g, int x, int weight, int index) {
    int k = g->slots, e = g->experts;
    char n[32];
    snprintf(n, sizeof n, "%d*batch*seq", k);
    int list = line(g, "i64[%s] = reshape(%%%d)", n, index);
    int w1 = constant(g, "f32[%d, %d, %d] = seed(1)", e, 2 * g->inner, g->width);
    int w2 = constant(g, "f32[%d, %d, %d] = seed(2)", e, g->width, g->inner);
    int bias = constant(g, "f32[%d, %d] = seed(3)", e, 2 * g->inner);
    x = line(g, "f32[batch*seq, 1, %d] = reshape(%%%d)", g->width, x);
    x = line(g, "f32[batch*seq, %d, %d] = broadcast(%%%d)", k, g->width, x);
    x = line(g, "f32[%s, %d, 1] = reshape(%%%d)", n, g->width, x);
    int p = line(g, "f32[%s, %d, %d] = gather(%%%d, %%%d)", n, 2 * g->inner, g->width, w1, list);
    int y = line(g, "f32[%s, %d, 1] = matmul(%%%d, %%%d)", n, 2 * g->inner, p, x);
    y = line(g, "f32[%s, %d] = reshape(%%%d)", n, 2 * g->inner, y);
    int b = line(g, "f32[%s, %d] = gather(%%%d, %%%d)", n, 2 * g->inner, bias, list);
    y = line(g, "f32[%s, %d] = add(%%%d, %%%d)", n, 2 * g->inner, y, b);
    int up = line(g, "f32[%s, %d] = slice(%%%d) {starts=[0, %d]}", n, g->inner, y, g->inner);
    y = line(g, "f32[%s, %d] = relu(%%%d)", n, g->inner,
             line(g, "f32[%s, %d] = slice(%%%d)", n, g->inner, y));
    y = line(g, "f32[%s, %d] = mul(%%%d, %%%d)", n, g->inner, y, up);
    y = line(g, "f32[%s, %d, 1] = reshape(%%%d)", n, g->inner, y);
    p = line(g, "f32[%s, %d, %d] = gather(%%%d, %%%d)", n, g->width, g->inner, w2, list);
    y = line(g, "f32[%s, %d, 1] = matmul(%%%d, %%%d)", n, g->width, p, y);
    y = line(g, "f32[batch*seq, %d, %d] = reshape(%%%d)", k, g->width, y);
    weight = line(g, "f32[batch*seq, %d, 1] = reshape(%%%d)", k, weight);
    y = line(g, "f32[batch*seq, %d, %d] = mul(%%%d, %%%d)", k, g->width, y, weight);
    return line(g, "f32[batch*seq, %d] = reduce_sum(%%%d) {axes=[1]}", g->width, y);
}

/* All experts on all rows, times weights that are zero for most. */
static int dense(Gen *g, int x, int weight, int index) {
    int e = g->experts, none = constant(g, "f32[] = splat(0)");
    int w1 = constant(g, "f32[%d, %d, %d] = seed(1)", e, g->width, g->inner);
    int w2 = constant(g, "f32[%d, %d, %d] = seed(2)", e, g->inner, g->width);
    int bias = constant(g, "f32[%d, 1, %d] = seed(3)", e, g->width);
    int zeros = line(g, "f32[batch*seq, %d] = broadcast(%%%d)", e, none);
    int scores =
        line(g, "f32[batch*seq, %d] = scatter_elements(%%%d, %%%d, %%%d) {axis=1}", e, zeros, index, weight);
    scores = line(g, "f32[%d, batch*seq] = transpose(%%%d) {perm=[1, 0]}", e, scores);
    scores = line(g, "f32[%d, batch*seq, 1] = reshape(%%%d)", e, scores);
    x = line(g, "f32[1, batch*seq, %d] = reshape(%%%d)", g->width, x);
    x = line(g, "f32[%d, batch*seq, %d] = broadcast(%%%d)", e, g->width, x);
    int y = line(g, "f32[%d, batch*seq, %d] = matmul(%%%d, %%%d)", e, g->inner, x, w1);
    y = line(g, "f32[%d, batch*seq, %d] = tanh(%%%d)", e, g->inner, y);
    y = line(g, "f32[%d, batch*seq, %d] = matmul(%%%d, %%%d)", e, g->width, y, w2);
    y = line(g, "f32[%d, batch*seq, %d] = add(%%%d, %%%d)", e, g->width, y, bias);
    y = line(g, "f32[%d, batch*seq, %d] = mul(%%%d, %%%d)", e, g->width, y, scores);
    return line(g, "f32[batch*seq, %d] = reduce_sum(%%%d) {axes=[0]}", g->width, y);
}

/* Attention over one head, then the mixture; both added to what they read. */
static const char *experts_model(Form form, int experts, int slots, int width, int inner, Arena *a) {
    Gen gen = {text_new(a), text_new(a), 0, experts, slots, width, inner}, *g = &gen;
    text_add(&g->t, "gir 1 stage=imported\nsymbol batch\nsymbol seq\nsymbol past\n");
    for (int i = 0; form == UNROLLED && i < experts; i++) text_printf(&g->t, "symbol hits%d\n", i);
    text_printf(&g->t, "input %%%d \"ids\" : i64[batch, seq] role=tokens\n", ++g->values);
    int table = constant(g, "f32[%d, %d] = seed(901)", EXPERT_VOCAB, g->width);
    int gain = constant(g, "f32[] = splat(20)");
    int x = line(g, "f32[batch, seq, %d] = gather(%%%d, %%1)", g->width, table);
    x = line(g, "f32[batch, seq, %d] = mul(%%%d, %%%d)", g->width, x, gain);
    int q = line(g, "f32[batch, seq, 1, %d] = reshape(%%%d)", g->width, x);
    q = line(g, "f32[batch, seq, 1, %d] = attention(%%%d, %%%d, %%%d) {scale=0.25, causal=true}", g->width, q,
             q, q);
    q = line(g, "f32[batch, seq, %d] = reshape(%%%d)", g->width, q);
    x = line(g, "f32[batch, seq, %d] = add(%%%d, %%%d)", g->width, x, q);
    int rows = line(g, "f32[batch*seq, %d] = reshape(%%%d)", g->width, x);
    int router = constant(g, "f32[%d, %d] = seed(900)", g->width, experts);
    int probs = line(g, "f32[batch*seq, %d] = matmul(%%%d, %%%d)", experts, rows, router);
    probs = line(g, "f32[batch*seq, %d] = softmax(%%%d) {axis=1}", experts, probs);
    int weight = ++g->values, index = ++g->values;
    text_printf(&g->body,
                "%%%d, %%%d : f32[batch*seq, %d], i64[batch*seq, %d] = topk(%%%d) {axis=1, count=%d}\n",
                weight, index, slots, slots, probs, slots);
    int total = line(g, "f32[batch*seq, 1] = reduce_sum(%%%d) {axes=[1], keep=true}", weight);
    weight = line(g, "f32[batch*seq, %d] = div(%%%d, %%%d)", slots, weight, total);
    int y = form == UNROLLED ? unrolled(g, rows, weight, index)
            : form == LISTED ? listed(g, rows, weight, index)
                             : dense(g, rows, weight, index);
    y = line(g, "f32[batch, seq, %d] = reshape(%%%d)", g->width, y);
    x = line(g, "f32[batch, seq, %d] = add(%%%d, %%%d)", g->width, x, y);
    int head = constant(g, "f32[%d, %d] = seed(902)", g->width, EXPERT_VOCAB);
    x = line(g, "f32[batch, seq, %d] = matmul(%%%d, %%%d)", EXPERT_VOCAB, x, head);
    text_addn(&g->t, g->body.data, g->body.count);
    text_printf(&g->t, "output %%%d \"logits\" role=logits\n", x);
    return g->t.data;
}

#endif
