/* The CPU kernels of every level this machine has, against plain loops in double precision, over odd shapes;
 * and with 1, 2 and 3 workers, which must give the same bits. */
#include "ir/ir.h"
#include "tests/instructions.h"
#include "tests/unit/kernels_check.h"

/* ---- 16-bit types ---- */
static uint16_t to_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return (uint16_t)(u >> 16);
}
static double from_bf16(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return (double)f;
}
static double from_f16(uint16_t h) {
    int e = h >> 10 & 31, m = h & 1023;
    double v = e == 31 ? (m ? (double)NAN : (double)INFINITY) : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -v : v;
}
/* A finite half with some spread of exponents, subnormals among them. */
static uint16_t random_f16(void) {
    uint16_t e = (uint16_t)((seed >> 40) % 15), m = (uint16_t)((random_unit() + 1.0f) * 511.0f);
    return (uint16_t)((random_unit() < 0 ? 0x8000 : 0) | e << 10 | m);
}

/* ---- linear ---- */
/* A random matrix n x k in panels of `dtype`, and its values. */
static void *random_panels(size_t n, size_t k, uint32_t dtype, double *values) {
    size_t count = (n + 15) / 16 * k * 16;
    void *w = calloc(count ? count : 1, dtype == ART_F32 ? 4 : 2);
    for (size_t r = 0; r < n; r++) {
        for (size_t c = 0; c < k; c++) {
            size_t at = r / 16 * k * 16 + c * 16 + r % 16;
            float f = random_unit();
            if (dtype == ART_F32) {
                ((float *)w)[at] = f;
                values[r * k + c] = (double)f;
            } else {
                uint16_t h = dtype == ART_F16 ? random_f16() : to_bf16(f);
                ((uint16_t *)w)[at] = h;
                values[r * k + c] = dtype == ART_F16 ? from_f16(h) : from_bf16(h);
            }
        }
    }
    return w;
}

/* parts: 1 bias, 2 gate, 4 residual, 8 residual in place */
static void linear_case(uint32_t rows, uint32_t k, uint32_t n, uint32_t dtype, uint32_t act, int parts) {
    size_t xs = k + 3, os = n + 5;
    double *values = calloc((size_t)n * k + 1, sizeof *values), *want = calloc(rows * os, sizeof *want);
    void *w = random_panels(n, k, dtype, values);
    float *x = random_floats(rows * xs), *bias = random_floats(n), *gate = random_floats(rows * os);
    float *rest = random_floats(rows * os), *before = random_floats(rows * os),
          *out = random_floats(rows * os);
    const float *base = parts & 8 ? before : rest;
    for (size_t i = 0; i < rows * os; i++) { want[i] = (double)before[i]; }
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < n; c++) {
            double s = 0;
            for (size_t i = 0; i < k; i++) { s += (double)x[r * xs + i] * values[c * k + i]; }
            if (parts & 1) { s += (double)bias[c]; }
            s = act_value(act, s);
            if (parts & 2) { s *= (double)gate[r * os + c]; }
            want[r * os + c] = parts & 12 ? s + (double)base[r * os + c] : s;
        }
    }
    CpuLinear l = {.rows = rows,
                   .k = k,
                   .n = n,
                   .act = act,
                   .dtype = dtype,
                   .x = x,
                   .w = w,
                   .x_stride = xs,
                   .gate_stride = os,
                   .residual_stride = os,
                   .out_stride = os,
                   .out = out};
    if (parts & 1) { l.bias = bias; }
    if (parts & 2) { l.gate = gate; }
    if (parts & 12) { l.residual = parts & 8 ? out : rest; }
    CU_ASSERT(cpu_linear_shared(rows, k) <= SHARED);
    char what[100];
    snprintf(what, sizeof what, "linear %u x %u x %u dtype %u act %u parts %d", rows, k, n, dtype, act,
             parts);
    check(LINEAR, &l, out, rows * os, before, want, 3e-6, what);
    free(values), free(want), free(w), free(x), free(bias), free(gate), free(rest), free(before), free(out);
}

static void test_linear_shapes(void) {
    static const uint32_t ks[] = {1, 2, 3, 7, 64, 255, 513}, ns[] = {1, 15, 16, 17, 48, 101};
    for (uint32_t rows = 1; rows <= 17; rows++) {
        for (size_t i = 0; i < 7; i++) {
            for (size_t j = 0; j < 6; j++) {
                if ((rows + i + j) % 3 == 0) { linear_case(rows, ks[i], ns[j], ART_F32, ART_ACT_NONE, 0); }
            }
        }
    }
    linear_case(300, 70, 33, ART_F32, ART_ACT_NONE, 1); /* more rows than a chunk */
    linear_case(64, 300, 400, ART_F32, ART_ACT_GELU_TANH, 1);
    linear_case(0, 8, 8, ART_F32, ART_ACT_NONE, 0);
}
static void test_linear_types(void) {
    for (uint32_t dtype = ART_F16; dtype <= ART_BF16; dtype++) {
        for (uint32_t rows = 1; rows <= 13; rows++) {
            linear_case(rows, 37 + rows, 50, dtype, ART_ACT_NONE, 1);
        }
        linear_case(40, 600, 50, dtype, ART_ACT_NONE, 1);
    }
}
static void test_linear_epilogue(void) {
    for (uint32_t act = 0; act < ART_ACT_COUNT; act++) {
        for (int parts = 0; parts < 16; parts++) {
            linear_case(2, 9, 21, ART_F32, act, parts);
            if (parts % 5 == 2) { linear_case(19, 9, 37, ART_F32, act, parts); }
        }
    }
}

/* ---- compressed weights ---- */
static size_t groups_block(const CpuGroups *g) {
    size_t zero = g->zeros == ART_ZERO_FLOAT ? 4 : g->zeros == ART_ZERO_BYTE ? 1 : 0;
    return 16 * ((g->scale == ART_F32 ? 4 : 2) + zero + (size_t)g->group * g->bits / 8);
}

/* A random compressed matrix n x k, and its values. */
static void *random_groups(size_t n, size_t k, const CpuGroups *g, double *values) {
    size_t blocks = (k + g->group - 1) / g->group, bytes = groups_block(g), per = 8 / g->bits;
    uint8_t *w = calloc((n + 15) / 16 * blocks * bytes, 1);
    for (size_t r = 0; r < n; r++) {
        for (size_t b = 0; b < blocks; b++) {
            uint8_t *at = w + (r / 16 * blocks + b) * bytes;
            float scale = random_unit(), zero = g->zero;
            if (g->scale == ART_F32) {
                memcpy(at + r % 16 * 4, &scale, 4);
            } else {
                uint16_t h = g->scale == ART_F16 ? random_f16() : to_bf16(scale);
                scale = (float)(g->scale == ART_F16 ? from_f16(h) : from_bf16(h));
                memcpy(at + r % 16 * 2, &h, 2);
            }
            at += 16 * (g->scale == ART_F32 ? 4 : 2);
            if (g->zeros == ART_ZERO_BYTE) { zero = at[r % 16] = (uint8_t)(8 + 7 * random_unit()); }
            if (g->zeros == ART_ZERO_FLOAT) { zero = random_unit() * 9, memcpy(at + r % 16 * 4, &zero, 4); }
            at += g->zeros == ART_ZERO_FLOAT ? 64 : g->zeros == ART_ZERO_BYTE ? 16 : 0;
            for (size_t c = 0; c < g->group && b * g->group + c < k; c++) {
                uint32_t code = (uint32_t)((random_unit() + 1) * 1000) & ((1u << g->bits) - 1);
                at[c / per * 16 + r % 16] |= (uint8_t)(code << c % per * g->bits);
                values[r * k + b * g->group + c] = ((double)code - (double)zero) * (double)scale;
            }
        }
    }
    return w;
}

static void groups_case(uint32_t rows, uint32_t k, uint32_t n, CpuGroups g) {
    double *values = calloc((size_t)n * k, sizeof *values), *want = calloc((size_t)rows * n, sizeof *want);
    void *w = random_groups(n, k, &g, values);
    float *x = random_floats((size_t)rows * k), *out = random_floats((size_t)rows * n);
    float *before = random_floats((size_t)rows * n);
    double largest = 1;
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < n; c++) {
            for (size_t i = 0; i < k; i++) { want[r * n + c] += (double)x[r * k + i] * values[c * k + i]; }
            largest = fmax(largest, fabs(want[r * n + c]));
        }
    }
    CpuLinear l = {.rows = rows,
                   .k = k,
                   .n = n,
                   .groups = g,
                   .x = x,
                   .w = w,
                   .x_stride = k,
                   .out_stride = n,
                   .out = out};
    char what[100];
    snprintf(what, sizeof what, "linear %u x %u x %u of %u bits by %u", rows, k, n, g.bits, g.group);
    check(LINEAR, &l, out, (size_t)rows * n, before, want, 3e-6 * largest, what);
    int32_t last = (int32_t)n - 1;
    CpuGather a = {1, k, 0, ART_GROUP16, w, &last, out, k, g};
    if (k <= rows * n) {
        check(GATHER, &a, out, k, before, values + (size_t)last * k, 1e-3, "gather of groups");
    }
    free(values), free(want), free(w), free(x), free(out), free(before);
}

static void test_groups(void) {
    static const uint32_t bits[] = {8, 4, 2}, groups[] = {16, 32, 128};
    for (uint32_t i = 0; i < 27; i++) {
        CpuGroups g = {bits[i % 3], groups[i / 3 % 3], ART_F32 + i % 2 + i / 5 % 2, i / 9, i / 9 ? 0 : 7};
        for (uint32_t rows = 1; rows <= 15; rows += 1 + i % 5) { groups_case(rows, 70 + 13 * i, 37, g); }
    }
    groups_case(1, 1003, 80, (CpuGroups){4, 1004, ART_F32, ART_ZERO_BYTE, 0}); /* one group */
    groups_case(40, 1003, 80, (CpuGroups){4, 256, ART_F32, ART_ZERO_SAME, 8}); /* groups across pieces */
}

/* ---- rows ---- */
static void norm_case(uint32_t rows, uint32_t groups, uint32_t width, uint32_t rms, int parts) {
    size_t n = (size_t)rows * groups * width;
    float *x = random_floats(n), *gamma = random_floats((size_t)groups * width), *beta = random_floats(width);
    float *out = random_floats(n), *before = random_floats(n);
    double *want = calloc(n, sizeof *want);
    for (size_t g = 0; g < (size_t)rows * groups; g++) {
        double mean = 0, var = 0;
        for (size_t i = 0; i < width; i++) { x[g * width + i] += 2; }
        for (size_t i = 0; i < width; i++) { mean += (double)x[g * width + i] / width; }
        if (rms) { mean = 0; }
        for (size_t i = 0; i < width; i++) { var += pow((double)x[g * width + i] - mean, 2) / width; }
        for (size_t i = 0; i < width; i++) {
            double v = ((double)x[g * width + i] - mean) / sqrt(var + 1e-5);
            if (parts & 1) { v *= (double)gamma[g % groups * width + i]; }
            want[g * width + i] = parts & 2 ? v + (double)beta[i] : v;
        }
    }
    CpuNorm a = {.rows = rows,
                 .groups = groups,
                 .width = width,
                 .rms = rms,
                 .eps = 1e-5f,
                 .x = x,
                 .gamma_stride = width,
                 .x_stride = (size_t)groups * width,
                 .out_stride = (size_t)groups * width,
                 .out = out};
    if (parts & 1) { a.gamma = gamma; }
    if (parts & 2) { a.beta = beta; }
    char what[80];
    snprintf(what, sizeof what, "norm %u x %u x %u rms %u", rows, groups, width, rms);
    check(NORM, &a, out, n, before, want, 3e-6, what);
    a.x = out; /* in place */
    check(NORM, &a, out, n, x, want, 3e-6, what);
    free(x), free(gamma), free(beta), free(out), free(before), free(want);
}
static void test_norm(void) {
    static const uint32_t widths[] = {2, 3, 16, 31, 64, 100, 768};
    for (size_t i = 0; i < 7; i++) {
        for (uint32_t rms = 0; rms < 2; rms++) {
            norm_case(1, 1, widths[i], rms, 3);
            norm_case(5, 3, widths[i], rms, (int)i % 4);
        }
    }
}

static void rope_case(uint32_t heads, uint32_t dim, uint32_t rotated, uint32_t interleaved) {
    enum { ROWS = 5, TABLE = 12 };
    size_t width = (size_t)heads * dim, n = ROWS * width, half = rotated / 2;
    float *x = random_floats(n), *cos = random_floats(TABLE * half), *sin = random_floats(TABLE * half);
    float *out = random_floats(n), *before = random_floats(n);
    double *want = calloc(n, sizeof *want);
    int32_t positions[ROWS] = {3, 4, 0, 11, 7};
    for (size_t g = 0; g < ROWS * (size_t)heads; g++) {
        const float *p = x + g * dim;
        double *o = want + g * dim;
        for (size_t i = 0; i < dim; i++) { o[i] = (double)p[i]; }
        for (size_t i = 0; i < half; i++) {
            size_t at = (size_t)positions[g / heads] * half + i;
            size_t a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + half;
            o[a] = (double)p[a] * (double)cos[at] - (double)p[b] * (double)sin[at];
            o[b] = (double)p[b] * (double)cos[at] + (double)p[a] * (double)sin[at];
        }
    }
    CpuRope a = {ROWS, heads, dim, rotated, interleaved, cos, sin, x, positions, width, width, out};
    check(ROPE, &a, out, n, before, want, 1e-6, "rope");
    a.x = out;
    check(ROPE, &a, out, n, x, want, 1e-6, "rope in place");
    free(x), free(cos), free(sin), free(out), free(before), free(want);
}
static void test_rope(void) {
    for (uint32_t interleaved = 0; interleaved < 2; interleaved++) {
        rope_case(3, 64, 64, interleaved);
        rope_case(2, 80, 32, interleaved);
        rope_case(1, 24, 24, interleaved);
        rope_case(4, 6, 2, interleaved);
    }
}

static void gather_case(uint32_t dtype, uint32_t layout, uint32_t width) {
    enum { ROWS = 4, TABLE = 37 };
    double *values = calloc(TABLE * (size_t)width, sizeof *values),
           *want = calloc(ROWS * (size_t)width, sizeof *want);
    char *panels = random_panels(TABLE, width, dtype, values);
    size_t es = dtype == ART_F32 ? 4 : 2;
    char *plain = malloc(TABLE * width * es);
    for (size_t r = 0; r < TABLE; r++) {
        for (size_t c = 0; c < width; c++) {
            memcpy(plain + (r * width + c) * es, panels + (r / 16 * width * 16 + c * 16 + r % 16) * es, es);
        }
    }
    float *out = random_floats(ROWS * (size_t)width), *before = random_floats(ROWS * (size_t)width);
    int32_t ids[ROWS] = {36, 0, 17, 17};
    for (size_t i = 0; i < ROWS * (size_t)width; i++) {
        want[i] = values[(size_t)ids[i / width] * width + i % width];
    }
    CpuGather a = {ROWS, width, dtype, layout, layout == ART_PLAIN ? plain : panels, ids, out, width};
    check(GATHER, &a, out, ROWS * (size_t)width, before, want, 0, "gather");
    free(values), free(want), free(panels), free(plain), free(out), free(before);
}
static void test_gather(void) {
    for (uint32_t dtype = ART_F32; dtype <= ART_BF16; dtype++) {
        for (uint32_t layout = ART_PLAIN; layout <= ART_PANEL16; layout++) {
            gather_case(dtype, layout, 1);
            gather_case(dtype, layout, 19);
            gather_case(dtype, layout, 64);
        }
    }
}

/* Every half there is, widened by a gather of one column. */
static void test_all_halves(void) {
    enum { N = 1 << 16 };
    uint16_t *table = malloc(N * sizeof *table);
    int32_t *ids = malloc(N * sizeof *ids);
    float *out = malloc(N * 4 * sizeof *out);
    for (int i = 0; i < N; i++) { table[i] = (uint16_t)i, ids[i] = i / 64; }
    for (int level = 1; level <= LEVELS; level++) {
        if (!cpu_select(level)) { continue; }
        CpuGather a = {N / 64, 64, ART_F16, ART_PLAIN, table, ids, out, 64};
        for (int i = 0; i < N / 64; i++) { ids[i] = i; }
        run_on(pools[1], cpu_select(level), GATHER, &a);
        int wrong = 0;
        for (int i = 0; i < N; i++) {
            double v = from_f16((uint16_t)i);
            wrong += isnan(v) ? !isnan(out[i]) : (double)out[i] != v;
        }
        CU_ASSERT_EQUAL(wrong, 0);
    }
    free(table), free(ids), free(out);
}

static void test_move(void) {
    enum { ROWS = 3, SRC = 120, DST = 150 };
    float *x = random_floats(ROWS * SRC), *out = random_floats(ROWS * DST),
          *before = random_floats(ROWS * DST);
    double want[ROWS * DST];
    ArtMove moves[2] = {{{2, 3, 4, 5}, {60, 20, 5, 1}, {1, 2, 6, 24}, 0, 7},
                        {{1, 2, 3, 20}, {0, 60, 20, 1}, {0, 20, 40, 1}, 0, 30}};
    for (int m = 0; m < 2; m++) {
        const ArtMove *v = &moves[m];
        for (size_t i = 0; i < ROWS * DST; i++) { want[i] = (double)before[i]; }
        for (size_t i = 0; i < ROWS * (size_t)v->count[0] * v->count[1] * v->count[2] * v->count[3]; i++) {
            size_t n = i, from = v->src_offset, to = v->dst_offset;
            for (int a = 3; a >= 0; n /= v->count[a--]) {
                from += n % v->count[a] * v->src_stride[a];
                to += n % v->count[a] * v->dst_stride[a];
            }
            want[n * DST + to] = (double)x[n * SRC + from];
        }
        CpuMove a = {ROWS, *v, x, SRC, DST, out};
        check(MOVE, &a, out, ROWS * DST, before, want, 0, "move");
    }
    free(x), free(out), free(before);
}

static void reduce_case(uint32_t outer, uint32_t len, uint32_t inner) {
    enum { ROWS = 3 };
    size_t in = (size_t)outer * len * inner, lines = (size_t)outer * inner;
    float *x = random_floats(ROWS * in), *out = random_floats(ROWS * in), *before = random_floats(ROWS * in);
    double *want = calloc(ROWS * in, sizeof *want), *soft = calloc(ROWS * in, sizeof *soft);
    for (uint32_t op = 0; op < ART_RED_COUNT; op++) {
        for (size_t i = 0; i < ROWS * lines; i++) {
            size_t at = i / lines * in + i % lines / inner * len * inner + i % inner;
            double s = (double)x[at], total = 0, largest = s;
            for (size_t j = 1; j < len; j++) {
                double v = (double)x[at + j * inner];
                largest = fmax(largest, v);
                s = op == ART_RED_MAX    ? fmax(s, v)
                    : op == ART_RED_MIN  ? fmin(s, v)
                    : op == ART_RED_PROD ? s * v
                                         : s + v;
            }
            want[i] = op == ART_RED_MEAN ? s / len : s;
            for (size_t j = 0; j < len; j++) { total += exp((double)x[at + j * inner] - largest); }
            for (size_t j = 0; j < len; j++) {
                soft[at + j * inner] = exp((double)x[at + j * inner] - largest) / total;
            }
        }
        CpuReduce a = {ROWS, op, outer, len, inner, x, in, lines, out};
        check(REDUCE, &a, out, ROWS * lines, before, want, 2e-6, "reduce");
    }
    CpuReduce a = {ROWS, 0, outer, len, inner, x, in, in, out};
    check(SOFTMAX, &a, out, ROWS * in, before, soft, 1e-6, "softmax");
    a.x = out;
    check(SOFTMAX, &a, out, ROWS * in, x, soft, 1e-6, "softmax in place");
    free(x), free(out), free(before), free(want), free(soft);
}
static void test_reduce(void) {
    reduce_case(1, 1, 1);
    reduce_case(3, 7, 1);
    reduce_case(2, 100, 1);
    reduce_case(2, 9, 5);
    reduce_case(1, 300, 3);
}

/* ---- pointwise ---- */
/* Each instruction over a grid with special values; the error relative to each result. */
static void insn_case(const CpuKernels *k, uint32_t op) {
    enum { N = 4001 };
    static float x[3][N], out[N];
    static const float special[] = {0, -0.0f, 1, INFINITY, -INFINITY, NAN, 1e-30f, 88.7f, -87, 100, -110};
    for (size_t i = 0; i < N; i++) {
        for (int j = 0; j < 3; j++) { x[j][i] = random_unit() * (i % 3 ? 4.0f : 30.0f); }
        if (i < 33) { x[0][i] = special[i % 11]; }
        if (i >= 22 && i < 77) { x[1][i] = special[i % 11]; }
        if (i % 7 == 0) { x[0][i] = x[1][i]; }
        if (i % 5 == 0 && op == ART_I_WHERE) { x[0][i] = 0; }
        bool positive = op == ART_I_LOG || op == ART_I_SQRT || op == ART_I_POW;
        if (positive) { x[0][i] = fabsf(x[0][i]); }
        if (op == ART_I_POW) { x[1][i] *= 0.25f; }
    }
    ArtInsn program[] = {{.op = ART_I_LOAD, .dst = 3, .a = 0, .div = 1, .mod = N},
                         {.op = ART_I_LOAD, .dst = 1, .a = 1, .div = 1, .mod = N},
                         {.op = ART_I_LOAD, .dst = 7, .a = 2, .div = 1, .mod = N},
                         {.op = (uint8_t)op, .dst = 2, .a = 3, .b = 1, .c = 7, .imm = 1.5f},
                         {.op = ART_I_STORE, .a = 2}};
    CpuPointwise p = {1, N, 5, program, {{x[0], NULL, N}, {x[1], NULL, N}, {x[2], NULL, N}}, N, out};
    run_on(pools[1], k, POINTWISE, &p);
    double worst = 0, at = 0;
    /* relative to x: where x is far below 0 a rounding of the exponent's argument is all that is left */
    bool gelu = op == ART_I_GELU_ERF || op == ART_I_GELU_TANH || op == ART_I_SILU;
    for (size_t i = 0; i < N; i++) {
        double want = insn_value(op, 1.5, (double)x[0][i], (double)x[1][i], (double)x[2][i]),
               got = (double)out[i];
        if (gelu && !isfinite(x[0][i])) { continue; }
        if (isnan(want) && isnan(got)) { continue; }
        if (fabs(want) > 3.4028235e38 && got == copysign((double)INFINITY, want)) { continue; }
        double scale = fmax(fabs(want), gelu ? fabs((double)x[0][i]) : 0) + 1e-37,
               d = fabs(got - want) / scale;
        if (!(d <= worst)) { worst = isnan(d) ? 9 : d, at = (double)x[0][i]; }
    }
    static const char *const names[] = {
#define NAME(e, n) #e,
        ART_INSN_LIST(NAME)
#undef NAME
    };
    double limit = op == ART_I_SIGMOID ? 3e-7 : 2e-7;
    if (!(worst <= limit)) { printf("\n  %s %s: error %g at %g", k->name, names[op], worst, at); }
    CU_ASSERT(worst <= limit);
}
static void test_instructions(void) {
    for (int level = 1; level <= LEVELS; level++) {
        if (!cpu_select(level)) { continue; }
        for (uint32_t op = ART_I_NEG; op < ART_I_COUNT; op++) { insn_case(cpu_select(level), op); }
    }
}

/* out = x * v[f / 3 % 5] + token, in place, over widths around the tile. */
static void pointwise_case(uint32_t width) {
    enum { ROWS = 3 };
    float *x = random_floats(ROWS * width), *v = random_floats(5), *out = random_floats(ROWS * width);
    double *want = calloc(ROWS * (size_t)width, sizeof *want);
    int32_t tokens[ROWS] = {5, -2, 1000};
    for (size_t i = 0; i < ROWS * (size_t)width; i++) {
        size_t f = i % width;
        want[i] = (double)x[i] * (double)v[f / 3 % 5] + (double)v[f % 4] + tokens[i / width];
    }
    ArtInsn program[] = {{.op = ART_I_LOAD, .dst = 0, .a = 0, .div = 1, .mod = width},
                         {.op = ART_I_LOAD, .dst = 1, .a = 1, .div = 3, .mod = 5},
                         {.op = ART_I_MUL, .dst = 0, .a = 0, .b = 1},
                         {.op = ART_I_LOAD, .dst = 1, .a = 1, .div = 1, .mod = 4},
                         {.op = ART_I_ADD, .dst = 0, .a = 0, .b = 1},
                         {.op = ART_I_LOAD, .dst = 15, .a = 5, .div = 1, .mod = 1},
                         {.op = ART_I_ADD, .dst = 15, .a = 0, .b = 15},
                         {.op = ART_I_STORE, .a = 15}};
    CpuPointwise p = {ROWS, width, 8, program, {{out, NULL, width}, {v, NULL, 0}}, width, out};
    p.in[5].ints = tokens;
    check(POINTWISE, &p, out, ROWS * (size_t)width, x, want, 1e-6, "pointwise");
    free(x), free(v), free(out), free(want);
}
static void test_pointwise(void) {
    static const uint32_t widths[] = {1, 7, 16, 255, 256, 257, 1000};
    for (size_t i = 0; i < 7; i++) { pointwise_case(widths[i]); }
}

static void test_select(void) {
    printf("\n  levels:");
    for (int level = 1; cpu_select(level); level++) { printf(" %s", cpu_select(level)->name); }
    printf("\n  ");
    CU_ASSERT_PTR_NOT_NULL(cpu_select(0));
    CU_ASSERT_PTR_NOT_NULL(cpu_select(1));
    CU_ASSERT_PTR_NULL(cpu_select(-1));
    CU_ASSERT_PTR_NULL(cpu_select(LEVELS + 1));
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("kernels", harness_open, harness_close);
    CU_add_test(s, "select", test_select);
    CU_add_test(s, "linear: shapes", test_linear_shapes);
    CU_add_test(s, "linear: 16-bit weights", test_linear_types);
    CU_add_test(s, "linear: epilogue", test_linear_epilogue);
    CU_add_test(s, "linear: compressed weights", test_groups);
    CU_add_test(s, "norm", test_norm);
    CU_add_test(s, "rope", test_rope);
    CU_add_test(s, "gather", test_gather);
    CU_add_test(s, "all halves", test_all_halves);
    CU_add_test(s, "move", test_move);
    CU_add_test(s, "reduce and softmax", test_reduce);
    CU_add_test(s, "instructions", test_instructions);
    CU_add_test(s, "pointwise", test_pointwise);
    return unit_end();
}
