/* test_random_models.c: random small GPTs through the whole compiler.
 *
 * Each seed makes a text of a model: random norms, attention (as an op, or from primitives in several
 * spellings), rotary embeddings, gates, residual patterns, heads and movement. It is compiled, and the
 * compiler's own gate compares what comes out with the reference on the imported graph. Weights are
 * scaled so that scores, activations and caps leave their linear range. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "codegen/cuda/cuda.h"
#include "passes/lossy/lossy.h"
#include "tests/unit/unit.h"
#include "tools/driver.h"

#define MODELS 120
#define ROUNDED_MODELS 24

typedef struct {
    Text t;
    uint64_t state;
    int values, constants;
    int width, heads, kv, dim, vocab;
    int table; /* of the tokens */
} Gen;

/* f32[batch, seq, n], or [batch, seq, heads, n]. */
typedef struct {
    char s[48], one[48];
    int last, n;
} Shape;

static uint32_t roll(Gen *g, uint32_t n) {
    g->state = g->state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator */
    return (uint32_t)(g->state >> 33) % n;
}

static bool chance(Gen *g, uint32_t percent) { return roll(g, 100) < percent; }

static Shape shape_of(int heads, int n) {
    Shape s = {.last = heads ? 3 : 2, .n = n};
    char lead[32];
    snprintf(lead, sizeof lead, heads ? "f32[batch, seq, %d, " : "f32[batch, seq, ", heads);
    snprintf(s.s, sizeof s.s, "%s%d]", lead, n);
    snprintf(s.one, sizeof s.one, "%s1]", lead);
    return s;
}

/* One node; "TYPE = OP(...)". Returns its value. */
__attribute__((format(printf, 2, 3))) static int node(Gen *g, const char *format, ...) {
    char line[400];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    text_printf(&g->t, "%%%d : %s\n", ++g->values, line);
    return g->values;
}

static int scalar(Gen *g, double v) {
    text_printf(&g->t, "const %%%d : f32[] = {%.9g}\n", ++g->values, v);
    return g->values;
}

static int constant(Gen *g, const char *type) {
    text_printf(&g->t, "const %%%d : %s = seed(%d)\n", ++g->values, type, ++g->constants);
    return g->values;
}

static int unary(Gen *g, const char *op, int a, const char *type) {
    return node(g, "%s = %s(%%%d)", type, op, a);
}

static int binary(Gen *g, const char *op, int a, int b, const char *type) {
    return node(g, "%s = %s(%%%d, %%%d)", type, op, a, b);
}

/* The operands of a commutative op in either order. */
static int either(Gen *g, const char *op, int a, int b, const char *type) {
    return chance(g, 50) ? binary(g, op, a, b, type) : binary(g, op, b, a, type);
}

static int scaled(Gen *g, int v, double by, const char *type) {
    int c = scalar(g, by);
    return either(g, "mul", v, c, type);
}

/* A [in, out] weight; sometimes stored the other way. */
static int weight(Gen *g, int in, int out) {
    char type[40];
    bool turned = chance(g, 30);
    snprintf(type, sizeof type, "f32[%d, %d]", turned ? out : in, turned ? in : out);
    int w = scaled(g, constant(g, type), 4, type);
    return turned ? node(g, "f32[%d, %d] = transpose(%%%d) {perm=[1, 0]}", in, out, w) : w;
}

static int vector(Gen *g, int n, double around) {
    char type[24];
    snprintf(type, sizeof type, "f32[%d]", n);
    int v = scaled(g, constant(g, type), 5, type), c = scalar(g, around);
    return around == 0 ? v : binary(g, "add", v, c, type);
}

static int product(Gen *g, int x, int in, int out) {
    Shape s = shape_of(0, out);
    int w = weight(g, in, out), y = binary(g, "matmul", x, w, s.s);
    if (chance(g, 50)) return y;
    int b = vector(g, out, 0);
    return either(g, "add", y, b, s.s);
}

/* ---- norms, activations, elementwise odds and ends ---- */

static int mean(Gen *g, int x, const Shape *s) {
    return node(g, "%s = reduce_mean(%%%d) {axes=[%d], keep=true}", s->one, x, s->last);
}

/* Over the last axis of x. */
static int norm(Gen *g, int x, Shape s) {
    uint32_t kind = roll(g, 5);
    if (kind == 0) {
        int gamma = vector(g, s.n, 1), beta = vector(g, s.n, 0);
        return node(g, "%s = norm(%%%d, %%%d, %%%d) {eps=1e-05}", s.s, x, gamma, beta);
    }
    if (kind == 1) {
        int gamma = vector(g, s.n, 1);
        return node(g, "%s = norm(%%%d, %%%d) {rms=true, eps=1e-06}", s.s, x, gamma);
    }
    int d = kind > 2 ? binary(g, "sub", x, mean(g, x, &s), s.s) : x;
    int two = scalar(g, 2), eps = scalar(g, 1e-5);
    int square = kind == 4 ? binary(g, "pow", d, two, s.s) : binary(g, "mul", d, d, s.s);
    int sum = binary(g, "add", mean(g, square, &s), eps, s.one);
    int root = unary(g, "sqrt", sum, s.one);
    int y = chance(g, 50) ? binary(g, "div", d, root, s.s)
                          : binary(g, "mul", d, unary(g, "recip", root, s.one), s.s);
    if (chance(g, 80)) {
        int gamma = vector(g, s.n, 1);
        y = either(g, "mul", y, gamma, s.s);
    }
    if (chance(g, 60)) return y;
    int beta = vector(g, s.n, 0);
    return either(g, "add", y, beta, s.s);
}

/* What a block reads is bounded one way or the other: else scores grow until rounding decides. */
static int bounded(Gen *g, int x, Shape s) {
    return chance(g, 80) ? norm(g, x, s) : unary(g, "tanh", x, s.s);
}

static int gelu_tanh(Gen *g, int x, const char *t) {
    int half = scalar(g, 0.5), one = scalar(g, 1), cubic = scalar(g, 0.044715), three = scalar(g, 3);
    int cube =
        chance(g, 50) ? binary(g, "pow", x, three, t) : binary(g, "mul", binary(g, "mul", x, x, t), x, t);
    int sum = either(g, "add", x, either(g, "mul", cube, cubic, t), t);
    int th = unary(g, "tanh", scaled(g, sum, 0.79788456080286541, t), t);
    int gate = either(g, "add", th, one, t);
    return chance(g, 50) ? binary(g, "mul", either(g, "mul", x, half, t), gate, t)
                         : either(g, "mul", x, either(g, "mul", gate, half, t), t);
}

static int gelu_erf(Gen *g, int x, const char *t) {
    int root = scalar(g, 1.4142135623730951), one = scalar(g, 1), half = scalar(g, 0.5);
    int gate = either(g, "add", unary(g, "erf", binary(g, "div", x, root, t), t), one, t);
    return either(g, "mul", either(g, "mul", x, gate, t), half, t);
}

static int activation(Gen *g, int x, const char *t) {
    static const char *const plain[] = {"gelu", "silu", "relu", "tanh", "sigmoid", "softplus", "erf", "abs"};
    x = scaled(g, x, chance(g, 50) ? 2 : -1.5, t);
    switch (roll(g, 8)) {
    case 0: return gelu_tanh(g, x, t);
    case 1: return gelu_erf(g, x, t);
    case 2: return either(g, "mul", x, unary(g, "sigmoid", x, t), t);
    case 3: return either(g, "mul", x, unary(g, "sigmoid", scaled(g, x, 1.702, t), t), t);
    case 4: {
        int r = unary(g, "relu", x, t);
        return binary(g, "mul", r, r, t);
    }
    default: return unary(g, plain[roll(g, COUNT_OF(plain))], x, t);
    }
}

/* A value of the same shape, made of x and y by a few elementwise nodes and movement. */
static int stir(Gen *g, int x, int y, int n) {
    Shape s = shape_of(0, n);
    int v = x, pool[8] = {x, y}, count = 2;
    for (uint32_t i = 0, k = 1 + roll(g, 6); i < k; i++) {
        int a = pool[roll(g, (uint32_t)count)], b = pool[roll(g, (uint32_t)count)];
        int half = n / 2;
        switch (roll(g, 9)) {
        case 0: v = binary(g, "add", a, b, s.s); break;
        case 1: v = binary(g, "sub", a, scaled(g, b, 0.5, s.s), s.s); break;
        case 2: v = either(g, "mul", a, vector(g, n, 1), s.s); break;
        case 3:
            v = node(g, "%s = where(%%%d, %%%d, %%%d)", s.s,
                     node(g, "bool[batch, seq, %d] = lt(%%%d, %%%d)", n, a, b), a, b);
            break;
        case 4: v = binary(g, chance(g, 50) ? "max" : "min", a, b, s.s); break;
        case 5: v = binary(g, "mul", a, unary(g, "sigmoid", mean(g, b, &s), s.one), s.s); break;
        case 6: { /* halves change places */
            int one = node(g, "f32[batch, seq, %d] = slice(%%%d) {starts=[0, 0, %d]}", half, a, half);
            int two = node(g, "f32[batch, seq, %d] = slice(%%%d)", half, b);
            v = node(g, "%s = concat(%%%d, %%%d) {axis=2}", s.s, one, two);
            break;
        }
        case 7: { /* a shuffle: [2, n/2] to [n/2, 2] */
            int m = node(g, "f32[batch, seq, 2, %d] = reshape(%%%d)", half, a);
            m = node(g, "f32[batch, seq, %d, 2] = transpose(%%%d) {perm=[0, 1, 3, 2]}", half, m);
            v = node(g, "%s = reshape(%%%d)", s.s, m);
            break;
        }
        default: { /* softmax over n/2 of [n/2, 2] */
            int m = node(g, "f32[batch, seq, %d, 2] = reshape(%%%d)", half, a);
            m = node(g, "f32[batch, seq, %d, 2] = softmax(%%%d) {axis=%u}", half, m, 2 + roll(g, 2));
            v = node(g, "%s = reshape(%%%d)", s.s, m);
        }
        }
        if (count < 8) pool[count++] = v;
    }
    return v;
}

/* ---- attention ---- */

static int positions(Gen *g) { return node(g, "i64[seq] = iota()"); }

/* Rotary embedding of [batch, seq, heads, d] in halves, or in neighbours, from sines of positions. */
static int rotary(Gen *g, int x, int heads, bool neighbours, int r) {
    int d = g->dim, half = r / 2;
    char t[64], h[64], tab[64], rt[64];
    snprintf(t, sizeof t, "f32[batch, seq, %d, %d]", heads, d);
    snprintf(rt, sizeof rt, "f32[batch, seq, %d, %d]", heads, r);
    snprintf(h, sizeof h, "f32[batch, seq, %d, %d]", heads, half);
    snprintf(tab, sizeof tab, "f32[seq, 1, %d]", half);
    int p = node(g, "f32[seq] = cast(%%%d)", positions(g));
    p = node(g, "f32[seq, 1, 1] = reshape(%%%d)", p);
    text_printf(&g->t, "const %%%d : f32[%d] = {", ++g->values, half);
    for (int i = 0; i < half; i++) text_printf(&g->t, "%s%g", i ? ", " : "", 1.0 / (1 + 3 * i));
    text_add(&g->t, "}\n");
    int angle = binary(g, "mul", p, g->values, tab);
    int c = unary(g, "cos", angle, tab), s = unary(g, "sin", angle, tab), a, b, y;
    if (neighbours) {
        char five[64];
        snprintf(five, sizeof five, "f32[batch, seq, %d, %d, 1]", heads, half);
        a = node(g, "%s = slice(%%%d) {steps=[1, 1, 1, 2]}", h, x);
        b = node(g, "%s = slice(%%%d) {starts=[0, 0, 0, 1], steps=[1, 1, 1, 2]}", h, x);
        int u = binary(g, "sub", binary(g, "mul", a, c, h), binary(g, "mul", b, s, h), h);
        int w = binary(g, "add", binary(g, "mul", b, c, h), binary(g, "mul", a, s, h), h);
        u = unary(g, "reshape", u, five);
        w = unary(g, "reshape", w, five);
        y = node(g, "f32[batch, seq, %d, %d, 2] = concat(%%%d, %%%d) {axis=4}", heads, half, u, w);
        y = unary(g, "reshape", y, rt);
    } else {
        a = unary(g, "slice", x, h);
        b = node(g, "%s = slice(%%%d) {starts=[0, 0, 0, %d]}", h, x, half);
        int u = binary(g, "sub", binary(g, "mul", a, c, h), binary(g, "mul", b, s, h), h);
        int w = binary(g, "add", binary(g, "mul", a, s, h), binary(g, "mul", b, c, h), h);
        y = node(g, "%s = concat(%%%d, %%%d) {axis=3}", rt, u, w);
    }
    if (r == d) return y;
    int rest = node(g, "f32[batch, seq, %d, %d] = slice(%%%d) {starts=[0, 0, 0, %d]}", heads, d - r, x, r);
    return node(g, "%s = concat(%%%d, %%%d) {axis=3}", t, y, rest);
}

/* The mask as bool[seq, seq]; window 0 = plain causal. */
static int mask(Gen *g, int window) {
    int k = positions(g), q = node(g, "i64[seq, 1] = reshape(%%%d)", positions(g));
    int m = node(g, "bool[seq, seq] = le(%%%d, %%%d)", k, q);
    if (window == 0) return m;
    text_printf(&g->t, "const %%%d : i64[] = {%d}\n", ++g->values, window);
    int edge = node(g, "i64[seq, 1] = sub(%%%d, %%%d)", q, g->values);
    int near = node(g, "bool[seq, seq] = lt(%%%d, %%%d)", edge, k);
    return node(g, "bool[seq, seq] = and(%%%d, %%%d)", m, near);
}

static int head_major(Gen *g, int x, int heads, bool repeat) {
    int d = g->dim;
    int y = node(g, "f32[batch, %d, seq, %d] = transpose(%%%d) {perm=[0, 2, 1, 3]}", heads, d, x);
    if (!repeat || heads == g->heads) return y;
    int n = g->heads / heads;
    y = node(g, "f32[batch, %d, 1, seq, %d] = reshape(%%%d)", heads, d, y);
    y = node(g, "f32[batch, %d, %d, seq, %d] = broadcast(%%%d)", heads, n, d, y);
    return node(g, "f32[batch, %d, seq, %d] = reshape(%%%d)", g->heads, d, y);
}

/* ALiBi: slope times how far back, f32[heads, seq, seq]. */
static int distances(Gen *g) {
    char t[48];
    snprintf(t, sizeof t, "f32[%d, seq, seq]", g->heads);
    int k = positions(g), q = node(g, "i64[seq, 1] = reshape(%%%d)", positions(g));
    int far = node(g, "f32[seq, seq] = cast(%%%d)", node(g, "i64[seq, seq] = sub(%%%d, %%%d)", k, q));
    text_printf(&g->t, "const %%%d : f32[%d, 1, 1] = {", ++g->values, g->heads);
    for (int i = 0; i < g->heads; i++) text_printf(&g->t, "%s%g", i ? ", " : "", 0.5 / (1 << i));
    text_add(&g->t, "}\n");
    return either(g, "mul", far, g->values, t);
}

static int attention_primitive(Gen *g, int q, int k, int v, double scale, int window, double cap) {
    char s[48], o[48];
    snprintf(s, sizeof s, "f32[batch, %d, seq, seq]", g->heads);
    snprintf(o, sizeof o, "f32[batch, %d, seq, %d]", g->heads, g->dim);
    q = head_major(g, q, g->heads, false);
    k = head_major(g, k, g->kv, true);
    v = head_major(g, v, g->kv, true);
    bool early = chance(g, 50);
    if (early) q = scaled(g, q, scale, o);
    int kt = node(g, "f32[batch, %d, %d, seq] = transpose(%%%d) {perm=[0, 1, 3, 2]}", g->heads, g->dim, k);
    int x = binary(g, "matmul", q, kt, s);
    if (!early) x = chance(g, 50) ? scaled(g, x, scale, s) : binary(g, "div", x, scalar(g, 1 / scale), s);
    if (cap > 0) x = scaled(g, unary(g, "tanh", binary(g, "div", x, scalar(g, cap), s), s), cap, s);
    if (cap == 0 && chance(g, 20)) x = either(g, "add", x, distances(g), s);
    int m = mask(g, window), zero = scalar(g, 0), never = scalar(g, chance(g, 50) ? -1e9 : -3.4028235e38);
    if (chance(g, 50)) {
        x = node(g, "%s = where(%%%d, %%%d, %%%d)", s, m, x, never);
    } else {
        int add = node(g, "f32[seq, seq] = where(%%%d, %%%d, %%%d)", m, zero, never);
        x = either(g, "add", x, add, s);
    }
    x = node(g, "%s = softmax(%%%d) {axis=3}", s, x);
    x = binary(g, "matmul", x, v, o);
    return node(g, "f32[batch, seq, %d, %d] = transpose(%%%d) {perm=[0, 2, 1, 3]}", g->heads, g->dim, x);
}

/* q, k, v as [batch, seq, heads, d], from one product or three. */
static void project(Gen *g, int h, int out[3]) {
    int n[3] = {g->heads, g->kv, g->kv}, at = 0, all = 0;
    bool joint = chance(g, 50);
    if (joint && g->kv == g->heads && chance(g, 40)) { /* heads outermost */
        all = product(g, h, g->width, 3 * g->heads * g->dim);
        all = node(g, "f32[batch, seq, %d, %d] = reshape(%%%d)", g->heads, 3 * g->dim, all);
        for (int i = 0; i < 3; i++)
            out[i] = node(g, "f32[batch, seq, %d, %d] = slice(%%%d) {starts=[0, 0, 0, %d]}", g->heads, g->dim,
                          all, i * g->dim);
        return;
    }
    if (joint) all = product(g, h, g->width, (g->heads + 2 * g->kv) * g->dim);
    for (int i = 0; i < 3; i++) {
        int w = n[i] * g->dim;
        int x = joint ? node(g, "f32[batch, seq, %d] = slice(%%%d) {starts=[0, 0, %d]}", w, all, at)
                      : product(g, h, g->width, w);
        out[i] = node(g, "f32[batch, seq, %d, %d] = reshape(%%%d)", n[i], g->dim, x);
        at += w;
    }
}

static int attention(Gen *g, int h, bool turn, bool neighbours, int r) {
    int x[3], window = chance(g, 30) ? 2 + (int)roll(g, 9) : 0;
    double scale = 1.0 / (1 + roll(g, 4)), cap = chance(g, 20) ? 1.5 : 0;
    project(g, h, x);
    if (chance(g, 30)) {
        x[0] = norm(g, x[0], shape_of(g->heads, g->dim));
        x[1] = norm(g, x[1], shape_of(g->kv, g->dim));
    }
    for (int i = 0; turn && i < 2; i++) x[i] = rotary(g, x[i], i ? g->kv : g->heads, neighbours, r);
    int o;
    char extra[64] = "";
    if (window) snprintf(extra, sizeof extra, ", window=%d", window);
    if (cap > 0) snprintf(extra + strlen(extra), sizeof extra - strlen(extra), ", softcap=%g", cap);
    if (chance(g, 40))
        o = node(g, "f32[batch, seq, %d, %d] = attention(%%%d, %%%d, %%%d) {scale=%.9g, causal=true%s}",
                 g->heads, g->dim, x[0], x[1], x[2], scale, extra);
    else
        o = attention_primitive(g, x[0], x[1], x[2], scale, window, cap);
    int w = g->heads * g->dim;
    Shape s = shape_of(0, w);
    o = node(g, "%s = reshape(%%%d)", s.s, o);
    if (chance(g, 20)) o = either(g, "mul", o, unary(g, "sigmoid", product(g, h, g->width, w), s.s), s.s);
    return w == g->width && chance(g, 20) ? o : product(g, o, w, g->width);
}

static int feed_forward(Gen *g, int h) {
    int n = 16 * (1 + (int)roll(g, 3)) + (chance(g, 20) ? 6 : 0);
    Shape s = shape_of(0, n);
    int up = activation(g, product(g, h, g->width, n), s.s);
    if (chance(g, 50)) up = either(g, "mul", up, product(g, h, g->width, n), s.s);
    return product(g, up, n, g->width);
}

/* x and what a block makes of it. */
static int residual(Gen *g, int x, int y) {
    Shape s = shape_of(0, g->width);
    switch (roll(g, 7)) {
    case 0: return norm(g, either(g, "add", x, y, s.s), s);
    case 1: return either(g, "add", x, norm(g, y, s), s.s);
    case 2: return either(g, "add", x, scaled(g, y, 0.7, s.s), s.s);
    case 3: return either(g, "add", scaled(g, x, 0.7, s.s), y, s.s);
    case 4: return either(g, "add", x, either(g, "mul", y, vector(g, g->width, 1), s.s), s.s);
    default: return either(g, "add", x, y, s.s);
    }
}

/* ---- models ---- */

static int embed(Gen *g) {
    char type[40];
    Shape s = shape_of(0, g->width);
    snprintf(type, sizeof type, "f32[%d, %d]", g->vocab, g->width);
    g->table = constant(g, type);
    int ids = chance(g, 30) ? node(g, "i32[batch, seq] = cast(%%1)") : 1;
    int x = node(g, "%s = gather(%%%d, %%%d)", s.s, g->table, ids);
    x = scaled(g, x, 30, s.s);
    if (chance(g, 40)) {
        snprintf(type, sizeof type, "f32[%d, %d]", 48 + (int)roll(g, 40), g->width);
        int table = scaled(g, constant(g, type), 30, type);
        int rows = node(g, "f32[seq, %d] = gather(%%%d, %%%d)", g->width, table, positions(g));
        if (chance(g, 50)) rows = node(g, "f32[1, seq, %d] = reshape(%%%d)", g->width, rows);
        x = either(g, "add", x, rows, s.s);
    }
    return chance(g, 20) ? norm(g, x, s) : x;
}

static int head(Gen *g, int x) {
    uint32_t last = roll(g, 12); /* logits of the last token alone, in two spellings */
    char t[48];
    snprintf(t, sizeof t,
             last == 0   ? "f32[batch, 1, %d]"
             : last == 1 ? "f32[batch, %d]"
                         : "f32[batch, seq, %d]",
             g->vocab);
    if (last == 0) x = node(g, "f32[batch, 1, %d] = slice(%%%d) {starts=[0, -1 + seq, 0]}", g->width, x);
    if (last == 1) {
        text_printf(&g->t, "const %%%d : i64[] = {-1}\n", ++g->values);
        x = node(g, "f32[batch, %d] = gather(%%%d, %%%d) {axis=1}", g->width, x, g->values);
    }
    int w = chance(g, 50)
                ? node(g, "f32[%d, %d] = transpose(%%%d) {perm=[1, 0]}", g->width, g->vocab, g->table)
                : weight(g, g->width, g->vocab);
    int y = binary(g, "matmul", x, w, t);
    if (chance(g, 30)) y = either(g, "add", y, vector(g, g->vocab, 0), t);
    if (chance(g, 20)) y = scaled(g, unary(g, "tanh", binary(g, "div", y, scalar(g, 2), t), t), 2, t);
    return y;
}

static const char *model(uint64_t seed, Arena *a) {
    Gen gen = {.t = text_new(a), .state = seed * 77 + 5}, *g = &gen;
    static const int widths[] = {16, 24, 32, 48}, heads[] = {1, 2, 4},
                     dims[] = {4, 8, 12, 16, 20, 36, 48, 80, 96, 112};
    for (int i = 0; i < 4; i++) roll(g, 2);
    g->width = widths[roll(g, 4)];
    g->dim = dims[roll(g, 10)];
    g->heads = heads[roll(g, 3)];
    g->kv = g->heads >> roll(g, 3);
    if (g->kv == 0) g->kv = 1;
    g->vocab = 33 + (int)roll(g, 40);
    text_add(&g->t, "gir 1 stage=imported\nsymbol batch\nsymbol seq\nsymbol past\n");
    text_printf(&g->t, "input %%%d \"ids\" : i64[batch, seq] role=tokens\n", ++g->values);
    Shape s = shape_of(0, g->width);
    int x = embed(g), first = x;
    bool turn = chance(g, 50), neighbours = chance(g, 40);
    int r = chance(g, 30) ? g->dim / 2 : g->dim;
    for (uint32_t i = 0, n = 1 + roll(g, 2); i < n; i++) {
        int h = bounded(g, x, s), att = attention(g, h, turn, neighbours, r);
        if (chance(g, 35)) { /* attention and feed-forward side by side */
            int f = feed_forward(g, chance(g, 50) ? h : norm(g, x, s));
            x = chance(g, 50) ? residual(g, residual(g, x, f), att)
                              : residual(g, x, either(g, "add", att, f, s.s));
        } else {
            x = residual(g, x, att);
            if (chance(g, 80)) x = residual(g, x, feed_forward(g, bounded(g, x, s)));
        }
        if (chance(g, 35)) x = stir(g, x, chance(g, 50) ? first : att, g->width);
    }
    x = norm(g, x, s);
    int y = head(g, x);
    text_printf(&g->t, "output %%%d \"logits\" role=logits\n", y);
    return g->t.data;
}

/* The cache in 8 bits, in what is compiled and in what it is compared with. */
static bool round_cache(void *self, const char *pass, Graph *g, int64_t *changed, Diag *d) {
    Compile *c = self;
    if (strcmp(pass, "quantize") != 0) return true;
    *changed = (int64_t)g->states.count;
    if (!cache_round(g, d)) return false;
    c->imported = graph_copy(g, c->arena);
    return true;
}

static bool rounds(const Compile *c, bool wanted) {
    size_t n = 0;
    FOR_NODES (c->graph, id) n += graph_node(c->graph, id)->op == OP_ROUNDED;
    return n == (wanted ? c->graph->states.count : 0);
}

/* The first attention whose keys and values are two states; NULL. */
static const ArtStep *two_states(const Program *p) {
    for (size_t i = 0; i < p->steps.count; i++) {
        const ArtStep *s = &p->steps.data[i];
        if (s->kernel == ART_K_ATTENTION && s->arg[1].value != s->arg[2].value) return s;
    }
    return NULL;
}

/* CUDA kernels read it; one state in 8 bits and the other in fp32 are refused, in one line that says so. */
static bool cuda_takes(Compile *c) {
    Program *p;
    CudaProgram out;
    const CudaOptions o = {0};
    Diag d;
    diag_init(&d);
    bool ok = lower(c->graph, &target_cpu, 32, c->arena, &p, &d) &&
              cuda_emit(c->graph, p, &o, c->arena, &out, &d) &&
              strstr(out.source.data, "struct Int8") != NULL;
    const ArtStep *s = ok ? two_states(p) : NULL;
    if (s) {
        p->states.data[s->arg[2].value].kept = ART_STATE_F32;
        ok = !cuda_emit(c->graph, p, &o, c->arena, &out, &d) && d.items.count == 1 &&
             strstr(d.items.data[0].text, "one is in 8 bits and one in fp32") != NULL;
    }
    diag_free(&d);
    return ok;
}

/* level 3: with its cache in 8 bits. */
static bool compiles(const char *text, const char *base, int level) {
    char in[96], out[96];
    snprintf(in, sizeof in, "%s.gir", base);
    snprintf(out, sizeof out, "%s.bin", base);
    FILE *f = fopen(in, "w");
    if (f == NULL || fputs(text, f) < 0 || fclose(f) != 0) return false;
    Compile c;
    ImportOptions opt = {0};
    const LossyHook hook = {&c, round_cache};
    CompilePasses p = {.pass = {.kv_cache = true, .opt_level = level, .ctx = 96, .lossy = &hook}};
    CompileWrite w = {.eos = -1, .seed = 1};
    CompileResult r;
    compile_init(&c);
    bool ok = compile_open(&c, in, &opt) && compile_passes(&c, &p) && rounds(&c, level == 3) &&
              compile_write(&c, in, out, compile_context(&c, 96), &w, &r);
    ok = ok && (level < 3 || c.graph->states.count == 0 || cuda_takes(&c));
    for (size_t i = 0; !ok && i < c.diag.items.count; i++) printf("\n    %s", c.diag.items.data[i].text);
    compile_free(&c);
    unlink(out);
    unlink(in);
    return ok;
}

static uint32_t run(uint64_t first, uint64_t count, int level) {
    char base[64];
    snprintf(base, sizeof base, "/tmp/gptc-random-%d", (int)getpid());
    uint32_t failed = 0;
    for (uint64_t seed = first; seed < first + count; seed++) {
        Arena *a = arena_new();
        const char *text = model(seed, a);
        if (!compiles(text, base, level ? level : seed % 11 != 0)) {
            printf("\n    model %llu does not compile", (unsigned long long)seed);
            failed++;
        }
        arena_free(a);
    }
    return failed;
}

static void test_models(void) { CU_ASSERT_EQUAL(run(1, MODELS, 0), 0); }
static void test_rounded_caches(void) { CU_ASSERT_EQUAL(run(1, ROUNDED_MODELS, 3), 0); }

/* With a seed: prints that model. With a seed and a count: tries so many; with 3 behind it, at that level. */
int main(int argc, char **argv) {
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
    if (argc > 2) return run(seed, strtoull(argv[2], NULL, 10), argc > 3 ? atoi(argv[3]) : 0) ? 1 : 0;
    if (argc > 1) {
        Arena *a = arena_new();
        fputs(model(seed, a), stdout);
        arena_free(a);
        return 0;
    }
    if (unit_begin()) return 1;
    CU_pSuite suite = CU_add_suite("random models", NULL, NULL);
    CU_add_test(suite, "every model compiles and agrees with the reference", test_models);
    CU_add_test(suite, "with a cache in 8 bits, too", test_rounded_caches);
    return unit_end();
}
