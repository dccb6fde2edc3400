/* test_function_ops.c: every op of functions on every class of dtypes, against numbers written here or computed
 * by plain loops in double. */
#include "tests/unit/function_check.h"

#define N(OP, ...) ((ArtNode){.op = ART_FN_##OP, __VA_ARGS__})
#define V(...)                                                                                               \
    { __VA_ARGS__ }
static const uint32_t floats[] = {ART_F32, ART_F64, ART_F16, ART_BF16};
static const uint32_t integers[] = {ART_I8, ART_U8, ART_I16, ART_U16, ART_I32, ART_U32, ART_I64, ART_U64};
#define FOR_EACH(t, list)                                                                                    \
    for (size_t t##_i = 0; t##_i < sizeof(list) / sizeof *(list); t##_i++)                                   \
        for (uint32_t t = (list)[t##_i]; t; t = 0)

static bool is_signed(uint32_t t) { return t == ART_I8 || t == ART_I16 || t == ART_I32 || t == ART_I64; }

/* ---- elementwise ---- */
static double m_neg(double x) { return -x; }
static double m_sign(double x) { return (x > 0) - (x < 0); }
static double m_recip(double x) { return 1 / x; }
static double m_sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double m_relu(double x) { return x > 0 ? x : 0; }
static double m_softplus(double x) { return log1p(exp(x)); }
static double m_gelu(double x) { return 0.5 * x * (1 + erf(x / sqrt(2))); }
static double m_silu(double x) { return x / (1 + exp(-1.5 * x)); }

static void test_unary(void) {
    static const struct {
        uint32_t op;
        double (*f)(double);
        bool positive; /* only where the argument is */
    } list[] = {{ART_FN_NEG, m_neg, 0},         {ART_FN_ABS, fabs, 0},
                {ART_FN_SIGN, m_sign, 0},       {ART_FN_EXP, exp, 0},
                {ART_FN_LOG, log, 1},           {ART_FN_SQRT, sqrt, 1},
                {ART_FN_RECIP, m_recip, 1},     {ART_FN_SIN, sin, 0},
                {ART_FN_COS, cos, 0},           {ART_FN_TANH, tanh, 0},
                {ART_FN_SIGMOID, m_sigmoid, 0}, {ART_FN_ERF, erf, 0},
                {ART_FN_RELU, m_relu, 0},       {ART_FN_SOFTPLUS, m_softplus, 0},
                {ART_FN_FLOOR, floor, 0},       {ART_FN_CEIL, ceil, 0},
                {ART_FN_ROUND, nearbyint, 0},   {ART_FN_GELU, m_gelu, 0},
                {ART_FN_SILU, m_silu, 0}};
    FOR_EACH(t, floats) for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        T x = {t, 2, {3, 101}, {0}}, want = x;
        for (int k = 0; k < 303; k++) {
            x.v[k] = (k - (list[i].positive ? -1 : 151)) / 32.0;
            if (t == ART_BF16) x.v[k] = trunc(x.v[k]) + (trunc(x.v[k]) == 0 ? 0.5 : 0);
            want.v[k] = list[i].f(x.v[k]);
        }
        expect((ArtNode){.op = list[i].op, .alpha = list[i].op == ART_FN_SILU ? 1.5f : 1}, &x, 1, want);
    }
}

static void test_special(void) {
    FOR_EACH(t, floats) {
        T x = {t, 1, {4}, V(NAN, INFINITY, -INFINITY, 1)};
        if (t == ART_F16 || t == ART_BF16) continue; /* the tests write no such numbers in 16 bits */
        EXPECT(N(ISNAN, 0), ((T){ART_BOOL, 1, {4}, V(1, 0, 0, 0)}), x);
        EXPECT(N(ISINF, 0), ((T){ART_BOOL, 1, {4}, V(0, 1, 1, 0)}), x);
        EXPECT(N(EXP, 0), ((T){t, 1, {4}, V(NAN, INFINITY, 0, exp(1))}), x);
        EXPECT(N(SIGN, 0), ((T){t, 1, {4}, V(NAN, 1, -1, 1)}), x);
        EXPECT(N(RELU, 0), ((T){t, 1, {4}, V(NAN, INFINITY, 0, 1)}), x);
        EXPECT(N(SILU, .alpha = 1), ((T){t, 1, {4}, V(NAN, INFINITY, 0, 1 / (1 + exp(-1)))}), x);
        T y = {t, 1, {4}, V(1, 1, 1, NAN)};
        EXPECT(N(MIN, 0), ((T){t, 1, {4}, V(NAN, 1, -INFINITY, NAN)}), x, y);
        EXPECT(N(MAX, 0), ((T){t, 1, {4}, V(NAN, INFINITY, 1, NAN)}), x, y);
        EXPECT(N(EQ, 0), ((T){ART_BOOL, 1, {4}, V(0, 1, 1, 1)}), x,
               ((T){t, 1, {4}, V(NAN, INFINITY, -INFINITY, 1)}));
        EXPECT(N(LT, 0), ((T){ART_BOOL, 1, {4}, V(0, 0, 1, 0)}), x, y);
        EXPECT(N(LE, 0), ((T){ART_BOOL, 1, {4}, V(0, 0, 1, 1)}), x, ((T){t, 0, {0}, V(1)}));
        EXPECT(N(GELU, .flags = ART_FN_TANH_FORM),
               ((T){t, 1, {2}, V(0.5 * (1 + tanh(0.7978845608028654 * 1.044715)), 0)}),
               ((T){t, 1, {2}, V(1, 0)}));
    }
}

static double apply(uint32_t op, double a, double b) {
    switch (op) {
    case ART_FN_ADD: return a + b;
    case ART_FN_SUB: return a - b;
    case ART_FN_MUL: return a * b;
    case ART_FN_DIV: return a / b;
    case ART_FN_MOD: return fmod(a, b);
    case ART_FN_POW: return pow(fabs(a), b);
    case ART_FN_MIN: return a < b ? a : b;
    case ART_FN_MAX: return a > b ? a : b;
    case ART_FN_EQ: return a == b;
    case ART_FN_LT: return a < b;
    default: return a <= b;
    }
}

/* [2, 1, 37, 3] with [5, 1, 3], [1] and alike: every kind of broadcasting, rows longer and shorter than a tile. */
static void test_broadcasting(void) {
    static const uint32_t ops[] = {ART_FN_ADD, ART_FN_SUB, ART_FN_MUL, ART_FN_DIV, ART_FN_MOD, ART_FN_POW,
                                   ART_FN_MIN, ART_FN_MAX, ART_FN_EQ,  ART_FN_LT,  ART_FN_LE};
    static const T shapes[][2] = {{{0, 4, {2, 1, 9, 3}, {0}}, {0, 3, {5, 1, 3}, {0}}},
                                  {{0, 2, {3, 300}, {0}}, {0, 1, {300}, {0}}},
                                  {{0, 2, {3, 300}, {0}}, {0, 2, {3, 1}, {0}}},
                                  {{0, 0, {0}, {0}}, {0, 2, {2, 17}, {0}}},
                                  {{0, 2, {0, 4}, {0}}, {0, 1, {4}, {0}}}};
    FOR_EACH(t, floats) FOR_EACH(op, ops) for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        T x[2] = {shapes[s][0], shapes[s][1]}, want = {t, 0, {0}, {0}};
        want.dtype = op >= ART_FN_EQ ? ART_BOOL : t;
        want.rank = x[0].rank > x[1].rank ? x[0].rank : x[1].rank;
        for (int i = 0; i < 2; i++) {
            x[i].dtype = t;
            for (size_t k = 0; k < t_count(&x[i]); k++) {
                x[i].v[k] = (double)((int)(k * 7 + (size_t)i * 3) % 9) - (i || op == ART_FN_POW ? 0 : 4);
                if (i && x[i].v[k] == 0) x[i].v[k] = 2;
                if (op == ART_FN_POW) x[i].v[k] = i ? 2 : x[i].v[k] / 2;
            }
        }
        for (uint32_t k = 0; k < want.rank; k++) {
            int64_t d[2] = {1, 1};
            for (int i = 0; i < 2; i++)
                if (k + x[i].rank >= want.rank) d[i] = x[i].dim[k + x[i].rank - want.rank];
            want.dim[k] = d[0] == 1 ? d[1] : d[0];
        }
        for (size_t k = 0; k < t_count(&want); k++) {
            double v[2];
            for (int i = 0; i < 2; i++) {
                size_t rest = k, at = 0, step = 1;
                for (uint32_t a = 0; a < want.rank; a++) { /* from the last axis on */
                    size_t index = rest % (size_t)want.dim[want.rank - 1 - a];
                    rest /= (size_t)want.dim[want.rank - 1 - a];
                    if (a >= x[i].rank) continue;
                    size_t length = (size_t)x[i].dim[x[i].rank - 1 - a];
                    at += (length == 1 ? 0 : index) * step;
                    step *= length;
                }
                v[i] = x[i].v[at];
            }
            want.v[k] = apply(op, v[0], v[1]);
        }
        expect((ArtNode){.op = op}, x, 2, want);
    }
}

static void test_integers(void) {
    FOR_EACH(t, integers) {
        T a = {t, 1, {5}, V(7, 100, 6, 0, 5)}, b = {t, 1, {5}, V(2, 3, 0, 4, 5)};
        EXPECT(N(ADD, 0), ((T){t, 1, {5}, V(9, 103, 6, 4, 10)}), a, b);
        EXPECT(N(DIV, 0), ((T){t, 1, {5}, V(3, 33, 0, 0, 1)}), a, b);
        EXPECT(N(MOD, 0), ((T){t, 1, {5}, V(1, 1, 0, 0, 0)}), a, b);
        EXPECT(N(MIN, 0), ((T){t, 1, {5}, V(2, 3, 0, 0, 5)}), a, b);
        EXPECT(N(MAX, 0), ((T){t, 1, {5}, V(7, 100, 6, 4, 5)}), a, b);
        EXPECT(N(AND, 0), ((T){t, 1, {5}, V(2, 0, 0, 0, 5)}), a, b);
        EXPECT(N(OR, 0), ((T){t, 1, {5}, V(7, 103, 6, 4, 5)}), a, b);
        EXPECT(N(XOR, 0), ((T){t, 1, {5}, V(5, 103, 6, 4, 0)}), a, b);
        EXPECT(N(EQ, 0), ((T){ART_BOOL, 1, {5}, V(0, 0, 0, 0, 1)}), a, b);
        EXPECT(N(LT, 0), ((T){ART_BOOL, 1, {5}, V(0, 0, 0, 1, 0)}), a, b);
        EXPECT(N(LE, 0), ((T){ART_BOOL, 1, {5}, V(0, 0, 0, 1, 1)}), a, b);
        EXPECT(N(POW, 0), ((T){t, 1, {4}, V(9, 32, 1, 0)}), ((T){t, 1, {4}, V(3, 2, 9, 0)}),
               ((T){t, 1, {4}, V(2, 5, 0, 3)}));
        EXPECT(N(SIGN, 0), ((T){t, 1, {3}, V(1, 0, 1)}), ((T){t, 1, {3}, V(9, 0, 1)}));
        if (!is_signed(t)) continue;
        T c = {t, 1, {4}, V(-7, 7, -7, -8)}, d = {t, 1, {4}, V(2, -2, -2, -1)};
        EXPECT(N(DIV, 0), ((T){t, 1, {4}, V(-3, -3, 3, 8)}), c, d);
        EXPECT(N(MOD, 0), ((T){t, 1, {4}, V(1, -1, -1, 0)}), c, d);
        EXPECT(N(NEG, 0), ((T){t, 1, {4}, V(7, -7, 7, 8)}), c);
        EXPECT(N(ABS, 0), ((T){t, 1, {4}, V(7, 7, 7, 8)}), c);
        EXPECT(N(RELU, 0), ((T){t, 1, {4}, V(0, 7, 0, 0)}), c);
        EXPECT(N(POW, 0), ((T){t, 1, {4}, V(0, 1, -1, 0)}), ((T){t, 1, {4}, V(2, 1, -1, 0)}),
               ((T){t, 1, {4}, V(-1, -3, -3, -2)}));
    }
    /* wrapping, and numbers that need the sign bit */
    EXPECT(N(ADD, 0), ((T){ART_I8, 1, {2}, V(-128, 0)}), ((T){ART_I8, 1, {2}, V(127, -128)}),
           ((T){ART_I8, 1, {2}, V(1, -128)}));
    EXPECT(N(MUL, 0), ((T){ART_U16, 1, {1}, V(1)}), ((T){ART_U16, 1, {1}, V(65535)}),
           ((T){ART_U16, 1, {1}, V(65535)}));
    EXPECT(N(ABS, 0), ((T){ART_I64, 1, {1}, V(-0x1p63)}), ((T){ART_I64, 1, {1}, V(-0x1p63)}));
    EXPECT(N(DIV, 0), ((T){ART_I64, 1, {1}, V(-0x1p63)}), ((T){ART_I64, 1, {1}, V(-0x1p63)}),
           ((T){ART_I64, 1, {1}, V(-1)}));
    T big = {ART_U64, 1, {2}, V(0x1p63, 5)}, small = {ART_U64, 1, {2}, V(3, 0x1p63)};
    EXPECT(N(MAX, 0), ((T){ART_U64, 1, {2}, V(0x1p63, 0x1p63)}), big, small);
    EXPECT(N(LT, 0), ((T){ART_BOOL, 1, {2}, V(0, 1)}), big, small);
    EXPECT(N(DIV, 0), ((T){ART_U64, 1, {2}, V(3074457345618258602.0, 0)}), big, small);
}

static void test_bools(void) {
    T a = {ART_BOOL, 1, {4}, V(0, 0, 1, 1)}, b = {ART_BOOL, 1, {4}, V(0, 1, 0, 1)};
    EXPECT(N(NOT, 0), ((T){ART_BOOL, 1, {4}, V(1, 1, 0, 0)}), a);
    EXPECT(N(AND, 0), ((T){ART_BOOL, 1, {4}, V(0, 0, 0, 1)}), a, b);
    EXPECT(N(OR, 0), ((T){ART_BOOL, 1, {4}, V(0, 1, 1, 1)}), a, b);
    EXPECT(N(XOR, 0), ((T){ART_BOOL, 1, {4}, V(0, 1, 1, 0)}), a, b);
    EXPECT(N(EQ, 0), ((T){ART_BOOL, 1, {4}, V(1, 0, 0, 1)}), a, b);
    EXPECT(N(MAX, 0), ((T){ART_BOOL, 1, {4}, V(0, 1, 1, 1)}), a, b);
    FOR_EACH(t, floats)
    EXPECT(N(WHERE, 0), ((T){t, 2, {2, 2}, V(5, 2, 5, 4)}), ((T){ART_BOOL, 1, {2}, V(0, 1)}),
           ((T){t, 2, {2, 2}, V(1, 2, 3, 4)}), ((T){t, 0, {0}, V(5)}));
    FOR_EACH(t, integers)
    EXPECT(N(WHERE, 0), ((T){t, 2, {2, 2}, V(5, 5, 3, 4)}), ((T){ART_BOOL, 2, {2, 1}, V(0, 1)}),
           ((T){t, 2, {2, 2}, V(1, 2, 3, 4)}), ((T){t, 0, {0}, V(5)}));
    EXPECT(N(WHERE, 0), ((T){ART_BOOL, 1, {2}, V(1, 0)}), ((T){ART_BOOL, 1, {2}, V(0, 1)}),
           ((T){ART_BOOL, 1, {1}, V(0)}), ((T){ART_BOOL, 1, {1}, V(1)}));
    EXPECT(N(POW, 0), ((T){ART_F32, 1, {2}, V(8, 0.25)}), ((T){ART_F32, 1, {2}, V(2, 2)}),
           ((T){ART_I64, 1, {2}, V(3, -2)}));
    EXPECT(N(POW, 0), ((T){ART_I32, 1, {2}, V(2, 1)}), ((T){ART_I32, 1, {2}, V(4, 2)}),
           ((T){ART_F32, 1, {2}, V(0.5, 0.5)}));
}

static void test_cast(void) {
    T x = {ART_F32, 1, {8}, V(-1.5, 1.5, 300, -300, NAN, INFINITY, -INFINITY, 0)};
    EXPECT(N(CAST, 0), ((T){ART_I8, 1, {8}, V(-1, 1, 127, -128, 0, 127, -128, 0)}), x);
    EXPECT(N(CAST, 0), ((T){ART_U8, 1, {8}, V(0, 1, 255, 0, 0, 255, 0, 0)}), x);
    EXPECT(N(CAST, 0), ((T){ART_I64, 1, {8}, V(-1, 1, 300, -300, 0, 0x1p63 - 1, -0x1p63, 0)}), x);
    EXPECT(N(CAST, 0), ((T){ART_U64, 1, {8}, V(0, 1, 300, 0, 0, 0x1p64 - 1, 0, 0)}), x);
    EXPECT(N(CAST, 0), ((T){ART_BOOL, 1, {8}, V(1, 1, 1, 1, 1, 1, 1, 0)}), x);
    EXPECT(N(CAST, 0), ((T){ART_I8, 1, {3}, V(44, -1, 0)}), ((T){ART_I32, 1, {3}, V(300, 255, 65536)}));
    EXPECT(N(CAST, 0), ((T){ART_BOOL, 1, {3}, V(1, 0, 1)}), ((T){ART_I64, 1, {3}, V(256, 0, -1)}));
    EXPECT(N(CAST, 0), ((T){ART_F64, 1, {2}, V(0x1p63, 3)}), ((T){ART_U64, 1, {2}, V(0x1p63, 3)}));
    EXPECT(N(CAST, 0), ((T){ART_F32, 1, {2}, V(1, 0)}), ((T){ART_BOOL, 1, {2}, V(1, 0)}));
    /* rounding to 16 bits: ties to even, subnormals, overflow; exact, so compared as wider floats */
    static const double from[] = {1 + 0x1p-11, 1 + 0x1.8p-10, 0x1p-25,      0x1.8p-24,
                                  65519,       65520,         -0x1.ffcp-15, 1e-9};
    static const double to[] = {1, 1 + 0x1p-9, 0, 0x1p-23, 65504, INFINITY, -0x1p-14, 0};
    T half = {ART_F16, 1, {8}, {0}}, y = {ART_F32, 1, {8}, {0}};
    memcpy(y.v, from, sizeof from);
    memcpy(half.v, to, sizeof to);
    EXPECT(N(CAST, 0), half, y);
    y.dtype = ART_F64;
    EXPECT(N(CAST, 0), half, y);
    EXPECT(N(CAST, 0), ((T){ART_BF16, 1, {4}, V(1, 1 + 0x1p-6, -2, INFINITY)}),
           ((T){ART_F32, 1, {4}, V(1 + 0x1p-8, 1 + 0x1.8p-7, -2, 0x1.ffffp127)}));
    FOR_EACH(t, floats)
    EXPECT(N(CAST, 0), ((T){ART_F64, 1, {3}, V(-2, 0.5, 3)}), ((T){t, 1, {3}, V(-2, 0.5, 3)}));
    FOR_EACH(t, integers) EXPECT(N(CAST, 0), ((T){ART_F32, 1, {2}, V(2, 100)}), ((T){t, 1, {2}, V(2, 100)}));
}

/* ---- movement: of every element size ---- */
static const uint32_t sizes[] = {ART_U8, ART_F16, ART_F32, ART_I64};

static void test_move(void) {
    FOR_EACH(t, sizes) {
        T x = {t, 3, {2, 3, 2}, V(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)};
        EXPECT(N(RESHAPE, 0), ((T){t, 2, {4, 3}, V(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)}), x);
        EXPECT(N(TRANSPOSE, .perm = {1, 2, 0}),
               ((T){t, 3, {3, 2, 2}, V(1, 7, 2, 8, 3, 9, 4, 10, 5, 11, 6, 12)}), x);
        EXPECT(N(TRANSPOSE, .perm = {2, 0, 1}),
               ((T){t, 3, {2, 2, 3}, V(1, 3, 5, 7, 9, 11, 2, 4, 6, 8, 10, 12)}), x);
        EXPECT(N(TRANSPOSE, .perm = {1, 0}), ((T){t, 2, {3, 1}, V(1, 2, 3)}),
               ((T){t, 2, {1, 3}, V(1, 2, 3)}));
        EXPECT(N(BROADCAST, 0), ((T){t, 3, {2, 2, 3}, V(1, 1, 1, 2, 2, 2, 1, 1, 1, 2, 2, 2)}),
               ((T){t, 2, {2, 1}, V(1, 2)}));
        EXPECT(N(CONCAT, .axis = 1), ((T){t, 2, {2, 4}, V(1, 2, 3, 9, 4, 5, 6, 8)}),
               ((T){t, 2, {2, 3}, V(1, 2, 3, 4, 5, 6)}), ((T){t, 2, {2, 0}, V(0)}),
               ((T){t, 2, {2, 1}, V(9, 8)}));
        EXPECT(N(TRIL, .diagonal = 0), ((T){t, 2, {3, 3}, V(1, 0, 0, 4, 5, 0, 7, 8, 9)}),
               ((T){t, 2, {3, 3}, V(1, 2, 3, 4, 5, 6, 7, 8, 9)}));
        EXPECT(N(TRIU, .diagonal = 1), ((T){t, 3, {2, 2, 2}, V(0, 2, 0, 0, 0, 6, 0, 0)}),
               ((T){t, 3, {2, 2, 2}, V(1, 2, 3, 4, 5, 6, 7, 8)}));
        EXPECT(N(TRIL, .diagonal = -1), ((T){t, 2, {2, 3}, V(0, 0, 0, 4, 0, 0)}),
               ((T){t, 2, {2, 3}, V(1, 2, 3, 4, 5, 6)}));
        EXPECT(N(TRIL, .diagonal = 1 << 30), ((T){t, 2, {1, 2}, V(1, 2)}), ((T){t, 2, {1, 2}, V(1, 2)}));
    }
}

/* starts are dimensions: dims 0.. hold 0, 1, 2, … here */
static void with_starts(ArtNode node, T want, const T *in, uint32_t n, gptc_status status) {
    gptc_detail why = {""};
    Fn *f = fn_single(&node, in, n, &want, 1);
    uint32_t first = f->head.n_dims;
    for (int64_t i = 0; i < 8; i++) fn_dim(f, i);
    fn_dim(f, -1); /* start 8 is -1 */
    for (int i = 0; i < ART_MAX_RANK; i++) f->nodes[0].start[i] += first;
    CU_ASSERT_EQUAL(fn_compare(f, nd_name(node.op), in, n, &want, 1, &why), status);
    fn_free(f);
}

static void test_slice(void) {
    FOR_EACH(t, sizes) {
        T x = {t, 2, {3, 4}, V(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)};
        with_starts(N(SLICE, .start = {1, 0}), (T){t, 2, {2, 4}, V(5, 6, 7, 8, 9, 10, 11, 12)}, &x, 1,
                    GPTC_OK);
        with_starts(N(SLICE, .start = {2, 1}), (T){t, 2, {1, 2}, V(10, 11)}, &x, 1, GPTC_OK);
        with_starts(N(SLICE, .start = {0, 1}, .step = {2, 2}), (T){t, 2, {2, 2}, V(2, 4, 10, 12)}, &x, 1,
                    GPTC_OK);
        with_starts(N(SLICE, .start = {2, 3}, .step = {-1, -3}), (T){t, 2, {3, 2}, V(12, 9, 8, 5, 4, 1)}, &x,
                    1, GPTC_OK);
        with_starts(N(SLICE, .start = {1, 2}, .step = {7, -9}), (T){t, 2, {1, 1}, V(7)}, &x, 1, GPTC_OK);
        with_starts(N(SLICE, .start = {0, 7}), (T){t, 2, {3, 0}, V(0)}, &x, 1, GPTC_OK);
        with_starts(N(SLICE, .start = {2, 0}), (T){t, 2, {2, 4}, V(0)}, &x, 1, GPTC_E_SHAPE);
        with_starts(N(SLICE, .start = {8, 0}), (T){t, 2, {2, 4}, V(0)}, &x, 1, GPTC_E_SHAPE);
        T pad[2] = {{t, 2, {2, 2}, V(1, 2, 3, 4)}, {t, 0, {0}, V(9)}};
        with_starts(N(PAD, .start = {0, 1}), (T){t, 2, {3, 4}, V(9, 1, 2, 9, 9, 3, 4, 9, 9, 9, 9, 9)}, pad, 2,
                    GPTC_OK);
        with_starts(N(PAD, .start = {2, 0}), (T){t, 2, {3, 4}, V(0)}, pad, 2, GPTC_E_SHAPE);
        with_starts(N(PAD, .start = {8, 0}), (T){t, 2, {3, 4}, V(0)}, pad, 2, GPTC_E_SHAPE);
    }
}

static void test_gather(void) {
    static const uint32_t kinds[] = {ART_I64, ART_I32, ART_I8};
    FOR_EACH(t, sizes) FOR_EACH(k, kinds) {
        T x = {t, 2, {3, 2}, V(1, 2, 3, 4, 5, 6)};
        EXPECT(N(GATHER, .axis = 0), ((T){t, 3, {1, 2, 2}, V(5, 6, 1, 2)}), x, ((T){k, 2, {1, 2}, V(-1, 0)}));
        EXPECT(N(GATHER, .axis = 1), ((T){t, 1, {3}, V(2, 4, 6)}), x, ((T){k, 0, {0}, V(1)}));
        EXPECT_ERROR(N(GATHER, .axis = 0), GPTC_E_INDEX, ((T){t, 2, {1, 2}, V(0)}), x,
                     ((T){k, 1, {1}, V(3)}));
        EXPECT_ERROR(N(GATHER, .axis = 0), GPTC_E_INDEX, ((T){t, 2, {1, 2}, V(0)}), x,
                     ((T){k, 1, {1}, V(-4)}));
        EXPECT(N(GATHER_ND, 0), ((T){t, 1, {2}, V(4, 5)}), x, ((T){k, 2, {2, 2}, V(1, 1, 2, -2)}));
        EXPECT(N(GATHER_ND, 0), ((T){t, 2, {2, 2}, V(5, 6, 1, 2)}), x, ((T){k, 2, {2, 1}, V(2, 0)}));
        EXPECT(N(GATHER_ND, .batch_dims = 1), ((T){t, 1, {3}, V(2, 3, 6)}), x,
               ((T){k, 2, {3, 1}, V(1, 0, 1)}));
        EXPECT_ERROR(N(GATHER_ND, 0), GPTC_E_INDEX, ((T){t, 1, {1}, V(0)}), x, ((T){k, 2, {1, 2}, V(0, 2)}));
        EXPECT(N(GATHER_ELEMENTS, .axis = 1), ((T){t, 2, {2, 3}, V(2, 1, 1, 3, 3, 4)}), x,
               ((T){k, 2, {2, 3}, V(1, 0, 0, 0, -2, 1)}));
        EXPECT_ERROR(N(GATHER_ELEMENTS, .axis = 0), GPTC_E_INDEX, ((T){t, 2, {1, 1}, V(0)}), x,
                     ((T){k, 2, {1, 1}, V(3)}));
        EXPECT_ERROR(N(GATHER_ELEMENTS, .axis = 1), GPTC_E_SHAPE, ((T){t, 2, {4, 1}, V(0)}), x,
                     ((T){k, 2, {4, 1}, V(0)}));
    }
    T u = {ART_U64, 1, {1}, V(0x1p64 - 2048)};
    EXPECT_ERROR(N(GATHER, 0), GPTC_E_INDEX, ((T){ART_U8, 1, {1}, V(0)}), ((T){ART_U8, 1, {2}, V(1, 2)}), u);
}

static void test_scatter(void) {
    FOR_EACH(t, sizes) {
        T x = {t, 2, {3, 2}, V(1, 2, 3, 4, 5, 6)};
        EXPECT(N(SCATTER_ND, 0), ((T){t, 2, {3, 2}, V(1, 2, 3, 9, 8, 6)}), x,
               ((T){ART_I64, 2, {2, 2}, V(1, 1, -1, 0)}), ((T){t, 1, {2}, V(9, 8)}));
        EXPECT(N(SCATTER_ND, .reduce = 1), ((T){t, 2, {3, 2}, V(1, 2, 6, 10, 5, 6)}), x,
               ((T){ART_I64, 2, {2, 1}, V(1, 1)}), ((T){t, 2, {2, 2}, V(1, 2, 2, 4)}));
        EXPECT(N(SCATTER_ELEMENTS, .axis = 0, .reduce = 2), ((T){t, 2, {3, 2}, V(1, 6, 3, 4, 10, 6)}), x,
               ((T){ART_I64, 2, {1, 2}, V(2, 0)}), ((T){t, 2, {1, 2}, V(2, 3)}));
        EXPECT(N(SCATTER_ELEMENTS, .axis = 1, .reduce = 3), ((T){t, 2, {3, 2}, V(7, 2, 3, 4, 5, 6)}), x,
               ((T){ART_I64, 2, {2, 1}, V(0, 1)}), ((T){t, 2, {2, 1}, V(7, 1)}));
        EXPECT(N(SCATTER_ELEMENTS, .axis = 1, .reduce = 4), ((T){t, 2, {3, 2}, V(1, 2, 3, 1, 5, 6)}), x,
               ((T){ART_I64, 2, {2, 1}, V(0, 1)}), ((T){t, 2, {2, 1}, V(7, 1)}));
        EXPECT_ERROR(N(SCATTER_ND, 0), GPTC_E_INDEX, x, x, ((T){ART_I64, 2, {1, 2}, V(3, 0)}),
                     ((T){t, 1, {1}, V(9)}));
        EXPECT_ERROR(N(SCATTER_ELEMENTS, .axis = 1), GPTC_E_INDEX, x, x, ((T){ART_I64, 2, {1, 1}, V(2)}),
                     ((T){t, 2, {1, 1}, V(9)}));
    }
}

/* ---- along axes ---- */
static double start_of(uint32_t op) {
    return op == ART_FN_REDUCE_PROD  ? 1
           : op == ART_FN_REDUCE_MAX ? -INFINITY
           : op == ART_FN_REDUCE_MIN ? INFINITY
                                     : 0;
}

/* All sets of axes of [3, 2, 5, 4]. */
static void test_reduce(void) {
    static const uint32_t ops[] = {ART_FN_REDUCE_SUM, ART_FN_REDUCE_MEAN, ART_FN_REDUCE_MAX,
                                   ART_FN_REDUCE_MIN, ART_FN_REDUCE_PROD};
    static const uint32_t types[] = {ART_F32, ART_F64, ART_F16, ART_BF16, ART_I32, ART_I64, ART_I8};
    FOR_EACH(t, types) FOR_EACH(op, ops) for (uint32_t axes = 0; axes < 16; axes++) {
        T x = {t, 4, {3, 2, 5, 4}, {0}}, want = {t, 4, {0}, {0}};
        bool keep = axes & 1, whole = t >= ART_I64 && t != ART_F64, product = op == ART_FN_REDUCE_PROD;
        double count = 1;
        for (int i = 0; i < 120; i++) x.v[i] = product ? (i % 11 ? 1 : i % 3 ? -1 : 2) : i * 7 % 13 - 5;
        want.rank = 0;
        for (uint32_t i = 0; i < 4; i++) {
            if (axes >> i & 1) count *= (double)x.dim[i];
            if (keep || !(axes >> i & 1)) want.dim[want.rank++] = axes >> i & 1 ? 1 : x.dim[i];
        }
        for (size_t i = 0; i < t_count(&want); i++) want.v[i] = start_of(op);
        for (size_t i = 0; i < 120; i++) {
            size_t rest = i, at = 0, step = 1;
            for (uint32_t a = 4; a-- > 0; rest /= (size_t)x.dim[a]) {
                if (axes >> a & 1) continue;
                at += rest % (size_t)x.dim[a] * step;
                step *= (size_t)x.dim[a];
            }
            double v = x.v[i], *o = &want.v[at];
            *o = product                   ? *o * v
                 : op == ART_FN_REDUCE_MAX ? fmax(*o, v)
                 : op == ART_FN_REDUCE_MIN ? fmin(*o, v)
                                           : *o + v;
        }
        for (size_t i = 0; op == ART_FN_REDUCE_MEAN && i < t_count(&want); i++) {
            want.v[i] /= count;
            if (whole) want.v[i] = trunc(want.v[i]);
        }
        if (product && t == ART_I8) continue; /* may wrap */
        expect((ArtNode){.op = op, .axes = axes, .flags = keep ? ART_FN_KEEP : 0}, &x, 1, want);
    }
}

static void test_reduce_edges(void) {
    T none = {ART_I8, 2, {2, 0}, {0}};
    EXPECT(N(REDUCE_MAX, .axes = 2), ((T){ART_I8, 1, {2}, V(-128, -128)}), none);
    EXPECT(N(REDUCE_MIN, .axes = 2), ((T){ART_I8, 1, {2}, V(127, 127)}), none);
    EXPECT(N(REDUCE_MEAN, .axes = 2), ((T){ART_I8, 1, {2}, V(0, 0)}), none);
    EXPECT(N(REDUCE_SUM, .axes = 1), ((T){ART_I8, 1, {0}, V(0)}), none);
    EXPECT(N(REDUCE_MIN, .axes = 1), ((T){ART_U64, 0, {0}, V(3)}), ((T){ART_U64, 1, {2}, V(3, 0x1p63)}));
    EXPECT(N(REDUCE_MAX, .axes = 1), ((T){ART_BOOL, 0, {0}, V(1)}), ((T){ART_BOOL, 1, {2}, V(0, 1)}));
    EXPECT(N(REDUCE_MAX, .axes = 1), ((T){ART_F32, 0, {0}, V(NAN)}), ((T){ART_F32, 1, {3}, V(1, NAN, 3)}));
    T row = {ART_F32, 2, {2, 500}, {0}};
    for (int i = 0; i < 1000; i++) row.v[i] = i % 7;
    T sum = {ART_F32, 1, {2}, {0}}, columns = {ART_F32, 1, {500}, {0}};
    for (int i = 0; i < 1000; i++) sum.v[i / 500] += row.v[i], columns.v[i % 500] += row.v[i];
    EXPECT(N(REDUCE_SUM, .axes = 2), sum, row);
    EXPECT(N(REDUCE_SUM, .axes = 1), columns, row);
}

static void test_lines(void) {
    FOR_EACH(t, floats) {
        T x = {t, 3, {2, 3, 2}, V(1, 2, 3, 4, 5, 6, -1, 0, 1, 0, -1, 0)}, want = x;
        EXPECT(N(CUMSUM, .axis = 1), ((T){t, 3, {2, 3, 2}, V(1, 2, 4, 6, 9, 12, -1, 0, 0, 0, -1, 0)}), x);
        EXPECT(N(CUMSUM, .axis = 2, .flags = ART_FN_EXCLUSIVE),
               ((T){t, 3, {2, 3, 2}, V(0, 1, 0, 3, 0, 5, 0, -1, 0, 1, 0, -1)}), x);
        EXPECT(N(CUMSUM, .axis = 1, .flags = ART_FN_REVERSE),
               ((T){t, 3, {2, 3, 2}, V(9, 12, 8, 10, 5, 6, -1, 0, 0, 0, -1, 0)}), x);
        EXPECT(N(CUMSUM, .axis = 1, .flags = ART_FN_REVERSE | ART_FN_EXCLUSIVE),
               ((T){t, 3, {2, 3, 2}, V(8, 10, 5, 6, 0, 0, 0, 0, -1, 0, 0, 0)}), x);
        for (int axis = 0; axis < 3; axis++) {
            static const size_t step[] = {6, 2, 1};
            for (size_t i = 0; i < 12; i++) {
                double total = 0;
                size_t n = (size_t)x.dim[axis], at = i - i / step[axis] % n * step[axis];
                for (size_t k = 0; k < n; k++) total += exp(x.v[at + k * step[axis]] - x.v[i]);
                want.v[i] = 1 / total;
            }
            expect(N(SOFTMAX, .axis = (uint32_t)axis), &x, 1, want);
        }
        T y = {t, 2, {1, 4}, V(2, 4, 6, 8)}, g = {t, 1, {4}, V(1, 2, 1, 0.5)}, b = {t, 1, {4}, V(0, 0, 1, 1)};
        double s = 1 / sqrt(5 + 0.25), r = 1 / sqrt(30 + 0.25);
        EXPECT(N(NORM, .eps = 0.25f), ((T){t, 2, {1, 4}, V(-3 * s, -2 * s, 1 * s + 1, 1.5 * s + 1)}), y, g,
               b);
        EXPECT(N(NORM, .eps = 0.25f, .flags = ART_FN_RMS), ((T){t, 2, {1, 4}, V(2 * r, 8 * r, 6 * r, 4 * r)}),
               y, g);
        EXPECT(N(NORM, .eps = 0.25f), ((T){t, 2, {1, 4}, V(-3 * s, -s, s, 3 * s)}), y);
    }
    EXPECT(N(CUMSUM, 0), ((T){ART_U8, 1, {3}, V(200, 144, 145)}), ((T){ART_U8, 1, {3}, V(200, 200, 1)}));
    T masked = {ART_F32, 1, {3}, V(-INFINITY, 0, -INFINITY)};
    EXPECT(N(SOFTMAX, 0), ((T){ART_F32, 1, {3}, V(0, 1, 0)}), masked);
    EXPECT(N(SOFTMAX, 0), ((T){ART_F32, 1, {2}, V(NAN, NAN)}),
           ((T){ART_F32, 1, {2}, V(-INFINITY, -INFINITY)}));
    T wide = {ART_F32, 1, {700}, {0}}, even = wide;
    for (int i = 0; i < 700; i++) wide.v[i] = 80, even.v[i] = 1.0 / 700;
    EXPECT(N(SOFTMAX, 0), even, wide);
}

static void test_order(void) {
    static const uint32_t types[] = {ART_F32, ART_F64, ART_F16, ART_I8, ART_I64, ART_U16};
    FOR_EACH(t, types) {
        T x = {t, 2, {2, 4}, V(3, 7, 7, 1, 5, 5, 2, 2)};
        EXPECT(N(ARGMAX, .axis = 1), ((T){ART_I64, 1, {2}, V(1, 0)}), x);
        EXPECT(N(ARGMAX, .axis = 1, .flags = ART_FN_LAST | ART_FN_KEEP), ((T){ART_I64, 2, {2, 1}, V(2, 1)}),
               x);
        EXPECT(N(ARGMIN, .axis = 0), ((T){ART_I64, 1, {4}, V(0, 1, 1, 0)}), x);
        EXPECT(N(ARGMIN, .axis = 1, .flags = ART_FN_LAST), ((T){ART_I64, 1, {2}, V(3, 3)}), x);
    }
    T odd = {ART_F32, 1, {4}, V(1, NAN, INFINITY, NAN)};
    EXPECT(N(ARGMAX, 0), ((T){ART_I64, 0, {0}, V(1)}), odd);
    EXPECT(N(ARGMIN, 0), ((T){ART_I64, 0, {0}, V(0)}), odd);
    EXPECT(N(ARGMAX, 0), ((T){ART_I64, 0, {0}, V(0)}), ((T){ART_F32, 1, {2}, V(-0.0, 0.0)}));
    EXPECT(N(ARGMAX, 0), ((T){ART_I64, 0, {0}, V(1)}), ((T){ART_U64, 1, {2}, V(1, 0x1p63)}));
    EXPECT_ERROR(N(ARGMAX, 0), GPTC_E_SHAPE, ((T){ART_I64, 0, {0}, V(0)}), ((T){ART_F32, 1, {0}, V(0)}));
}

static void test_topk(void) {
    gptc_detail why;
    static const uint32_t types[] = {ART_F32, ART_F64, ART_BF16, ART_I8, ART_I64, ART_U32};
    FOR_EACH(t, types) for (int smallest = 0; smallest < 2; smallest++) {
        ArtNode node = {.op = ART_FN_TOPK, .axis = 0, .count = 3, .flags = smallest ? ART_FN_SMALLEST : 0};
        T x = {t, 2, {5, 2}, V(4, 9, 1, 9, 8, 2, 8, 3, 0, 9)};
        T most[2] = {{t, 2, {3, 2}, V(8, 9, 8, 9, 4, 9)}, {ART_I64, 2, {3, 2}, V(2, 0, 3, 1, 0, 4)}};
        T least[2] = {{t, 2, {3, 2}, V(0, 2, 1, 3, 4, 9)}, {ART_I64, 2, {3, 2}, V(4, 2, 1, 3, 0, 0)}};
        CU_ASSERT_EQUAL(run_op(&node, &x, 1, smallest ? least : most, 2, &why), GPTC_OK);
    }
    /* every count of a long line, against sorting */
    T x = {ART_F32, 1, {600}, {0}};
    for (int i = 0; i < 600; i++) x.v[i] = i * 173 % 331;
    static const int64_t counts[] = {0, 1, 17, 599, 600};
    for (size_t k = 0; k < 5; k++) {
        T want[2] = {{ART_F32, 1, {counts[k]}, {0}}, {ART_I64, 1, {counts[k]}, {0}}};
        bool taken[600] = {false};
        for (int64_t i = 0; i < counts[k]; i++) {
            int best = -1;
            for (int j = 0; j < 600; j++)
                if (!taken[j] && (best < 0 || x.v[j] > x.v[best])) best = j;
            taken[best] = true;
            want[0].v[i] = x.v[best];
            want[1].v[i] = best;
        }
        ArtNode node = {.op = ART_FN_TOPK, .count = counts[k]};
        CU_ASSERT_EQUAL(run_op(&node, &x, 1, want, 2, &why), GPTC_OK);
    }
    T nan = {ART_F32, 1, {3}, V(1, NAN, 2)},
      first[2] = {{ART_F32, 1, {2}, V(NAN, 2)}, {ART_I64, 1, {2}, V(1, 2)}};
    CU_ASSERT_EQUAL(run_op(&N(TOPK, .count = 2), &nan, 1, first, 2, &why), GPTC_OK);
    T more[2] = {{ART_F32, 1, {4}, {0}}, {ART_I64, 1, {4}, {0}}};
    CU_ASSERT_EQUAL(run_op(&N(TOPK, .count = 4), &nan, 1, more, 2, &why), GPTC_E_SHAPE);
}

/* ---- products ---- */
static void test_matmul(void) {
    static const uint32_t types[] = {ART_F32, ART_F64, ART_F16, ART_BF16, ART_I32, ART_U8};
    static const T shapes[][3] = {
        {{0, 2, {3, 5}, {0}}, {0, 2, {5, 4}, {0}}, {0, 2, {3, 4}, {0}}},
        {{0, 2, {19, 7}, {0}}, {0, 2, {7, 33}, {0}}, {0, 2, {19, 33}, {0}}},
        {{0, 1, {6}, {0}}, {0, 2, {6, 18}, {0}}, {0, 1, {18}, {0}}},
        {{0, 3, {2, 3, 6}, {0}}, {0, 1, {6}, {0}}, {0, 2, {2, 3}, {0}}},
        {{0, 1, {9}, {0}}, {0, 1, {9}, {0}}, {0, 0, {0}, {0}}},
        {{0, 4, {2, 1, 2, 3}, {0}}, {0, 3, {3, 3, 2}, {0}}, {0, 4, {2, 3, 2, 2}, {0}}},
        {{0, 3, {2, 2, 3}, {0}}, {0, 2, {3, 16}, {0}}, {0, 3, {2, 2, 16}, {0}}},
        {{0, 2, {2, 0}, {0}}, {0, 2, {0, 3}, {0}}, {0, 2, {2, 3}, {0}}},
        {{0, 2, {1, 500}, {0}}, {0, 2, {500, 2}, {0}}, {0, 2, {1, 2}, {0}}}};
    FOR_EACH(t, types) for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        T x[2] = {shapes[s][0], shapes[s][1]}, want = shapes[s][2];
        x[0].dtype = x[1].dtype = want.dtype = t;
        for (size_t i = 0; i < t_count(&x[0]); i++) x[0].v[i] = (double)(i * 5 % 3);
        for (size_t i = 0; i < t_count(&x[1]); i++) x[1].v[i] = (double)(i * 3 % 4 / 2);
        size_t k = (size_t)x[0].dim[x[0].rank - 1], m = x[0].rank > 1 ? (size_t)x[0].dim[x[0].rank - 2] : 1;
        size_t n = x[1].rank > 1 ? (size_t)x[1].dim[x[1].rank - 1] : 1;
        for (size_t i = 0; i < t_count(&want); i++) {
            size_t batch = i / (m * n), row = i / n % m, col = i % n, a = batch, b = batch;
            if (s == 5) a = batch / 3, b = batch % 3;
            if (s == 3 || s == 6) b = 0;
            want.v[i] = 0;
            for (size_t j = 0; j < k; j++)
                want.v[i] += x[0].v[(a * m + row) * k + j] * x[1].v[(b * k + j) * n + col];
        }
        if (t == ART_U8 && s == 8) continue; /* wraps */
        expect(N(MATMUL, 0), x, 2, want);
    }
}

/* Sizes past every block of the kernels, on 1 and 3 workers, at every level; equal bits for equal levels. */
static void test_matmul_large(void) {
    enum { M = 251, NN = 275, K = 401 };
    static float a[M * K], b[K * NN], first[M * NN];
    for (int i = 0; i < M * K; i++) a[i] = (float)(i * 37 % 101 - 50) / 64;
    for (int i = 0; i < K * NN; i++) b[i] = (float)(i * 53 % 97 - 48) / 64;
    Fn *f = fn_new();
    uint32_t m = fn_dim(f, M), n = fn_dim(f, NN), k = fn_dim(f, K);
    uint32_t x = fn_input(f, ART_F32, 2, m, k), y = fn_input(f, ART_F32, 2, k, n),
             z = fn_value(f, ART_F32, 2, m, n);
    fn_node(f, ART_FN_MATMUL, z, 2, x, y);
    fn_output(f, z);
    for (int run = 0; run < 8; run++) {
        gptc_model *model;
        gptc_function *g;
        gptc_detail why;
        if (fn_open(f, 1 + run / 2, &model, &why)) continue; /* not on this machine */
        gptc_function_options o = {.threads = run % 2 ? 3 : 1};
        CU_ASSERT_EQUAL_FATAL(gptc_function_new(model, &o, &g, &why), GPTC_OK);
        const gptc_tensor in[2] = {{GPTC_F32, 2, {M, K}, a}, {GPTC_F32, 2, {K, NN}, b}};
        CU_ASSERT_EQUAL_FATAL(gptc_function_run(g, in, 2, &why), GPTC_OK);
        const float *c = gptc_function_output(g, 0)->data;
        double worst = 0;
        for (int i = 0; i < M * NN; i++) {
            double want = 0;
            for (int j = 0; j < K; j++) want += (double)a[i / NN * K + j] * (double)b[j * NN + i % NN];
            worst = fmax(worst, fabs(want - (double)c[i]));
        }
        CU_ASSERT_TRUE(worst < 1e-4);
        if (run % 2 == 0) memcpy(first, c, sizeof first);
        if (run % 2 == 1) CU_ASSERT_EQUAL(memcmp(first, c, sizeof first), 0);
        gptc_function_free(g);
        gptc_close(model);
    }
    fn_free(f);
}

static void test_linear(void) {
    static const uint32_t types[] = {ART_F32, ART_F16, ART_BF16};
    enum { ROWS = 21, K = 6, NN = 19 };
    FOR_EACH(xt, types) FOR_EACH(wt, types) for (int bias = 0; bias < 2; bias++) {
        T x = {xt, 3, {3, 7, K}, {0}}, b = {xt, 1, {NN}, {0}}, want = {xt, 3, {3, 7, NN}, {0}}, in[2];
        uint64_t w[NN * K];
        double wv[NN * K];
        for (int i = 0; i < ROWS * K; i++) x.v[i] = i % 5 - 2;
        for (int i = 0; i < NN; i++) b.v[i] = bias ? i % 3 : 0;
        for (size_t i = 0; i < NN * K; i++)
            tiny_put((uint8_t *)w, wt, i, (float)(wv[i] = (double)(i % 7) / 4 - 0.5));
        for (int i = 0; i < ROWS * NN; i++) {
            want.v[i] = b.v[i % NN];
            for (int k = 0; k < K; k++) want.v[i] += x.v[i / NN * K + k] * wv[i % NN * K + k];
        }
        Fn *f = fn_new();
        uint32_t v = fn_fixed(f, ART_V_INPUT, &x), vb = bias ? fn_fixed(f, ART_V_INPUT, &b) : ART_NO_INDEX;
        uint32_t vw = fn_tensor(f, wt, 2, (const int64_t[]){NN, K}, w, true);
        uint32_t y = fn_fixed(f, ART_V_RESULT, &want);
        fn_node(f, ART_FN_LINEAR, y, 3, v, vw, vb);
        fn_output(f, y);
        gptc_detail why;
        in[0] = x;
        in[1] = b;
        CU_ASSERT_EQUAL(fn_compare(f, "LINEAR", in, bias ? 2 : 1, &want, 1, &why), GPTC_OK);
        fn_free(f);
    }
}

static void test_sources(void) {
    static const uint32_t types[] = {ART_F32, ART_F16, ART_F64, ART_I64, ART_I32, ART_U8};
    gptc_detail why;
    FOR_EACH(t, types) {
        T want = {t, 3, {2, 3, 2}, V(0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2)};
        CU_ASSERT_EQUAL(run_op(&N(IOTA, .axis = 1), NULL, 0, &want, 1, &why), GPTC_OK);
    }
    T five = {ART_I64, 0, {0}, V(5)};
    Fn *f = fn_single(&N(DIM, 0), NULL, 0, &five, 1);
    f->nodes[0].value = fn_dim(f, 5);
    CU_ASSERT_EQUAL(fn_compare(f, "DIM", NULL, 0, &five, 1, &why), GPTC_OK);
    fn_free(f);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("ops of functions", NULL, NULL);
    CU_add_test(s, "unary", test_unary);
    CU_add_test(s, "NaN and infinity", test_special);
    CU_add_test(s, "broadcasting", test_broadcasting);
    CU_add_test(s, "integers", test_integers);
    CU_add_test(s, "bools", test_bools);
    CU_add_test(s, "cast", test_cast);
    CU_add_test(s, "movement", test_move);
    CU_add_test(s, "slice and pad", test_slice);
    CU_add_test(s, "gather", test_gather);
    CU_add_test(s, "scatter", test_scatter);
    CU_add_test(s, "reductions", test_reduce);
    CU_add_test(s, "reductions of nothing", test_reduce_edges);
    CU_add_test(s, "lines", test_lines);
    CU_add_test(s, "order", test_order);
    CU_add_test(s, "topk", test_topk);
    CU_add_test(s, "matmul", test_matmul);
    CU_add_test(s, "large matmul", test_matmul_large);
    CU_add_test(s, "linear", test_linear);
    CU_add_test(s, "sources", test_sources);
    return unit_end();
}
