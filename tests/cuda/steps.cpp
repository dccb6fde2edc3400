/* steps.cpp: kernels that the emitter writes out, through prelude_host.h against plain loops in double: every elementwise
 * instruction over rows, tables and positions of odd sizes, numbers and what is none; products with chosen matrices of
 * every element type and of codes, for one row and several, whose slots name any expert or none. */
#include "codegen/cuda/kernels/prelude_host.h"

#include "codegen/cuda/kernels/common.cu"
#include "codegen/cuda/kernels/weights.cu"
#include "codegen/cuda/kernels/code_forms.cu"
#include "codegen/cuda/kernels/linear.cu"
#include "codegen/cuda/kernels/codes.cu"
#include "codegen/cuda/kernels/cache.cu"
#include "codegen/cuda/kernels/rows.cu"
#include "codegen/cuda/kernels/experts.cu"

#include "tests/cuda/random.h"
#include "tests/cuda/steps.h"
#include "tests/instructions.h"

#include "tests/cuda/codes.h"

static int failures, checks;

enum { MOST = 1 << 13, MOST_ROWS = 3, MOST_WEIGHTS = 1 << 19 };
static float operand[6][MOST], y[MOST];
static double want[MOST];
static i32 positions[MOST_ROWS] = {0, 7, 1000};
alignas(16) static u8 matrix[MOST_WEIGHTS];
static global<float> to;
static u32 n_rows;
static double slack; /* codes multiply rows in two parts of 8 bits of mantissa each */

static global<const float> rows(u32 k) { return global<const float>(operand[k]); }
static global<const float> table(u32 k) { return global<const float>(operand[k]); }
static global<const i32> ints(u32) { return global<const i32>(positions); }
template <class T> static global<const T> weights() { return global<const T>((const T *)matrix); }
static std::string run(u32 blocks, u32 threads, const std::function<void()> &kernel) {
    return host::launch(blocks, n_rows, threads, 0, 1, kernel);
}
#include "steps_emitted.h"

static void begin() {
    host::region_clear();
    for (auto &o : operand) host::region_add(o, sizeof o, "an operand");
    host::region_add(y, sizeof y, "y");
    host::region_add(positions, sizeof positions, "positions");
    host::region_add(matrix, sizeof matrix, "weights");
    to = global<float>(y);
    for (u32 i = 0; i < MOST; i++) y[i] = 99, want[i] = 99; /* what lies behind the rows stays */
}
static bool near(double got, double as) {
    const double rounded = (float)as;
    return got == rounded || (got != got && as != as) || std::fabs(got - as) <= slack * (1 + std::fabs(as));
}
static void check(const char *name, u32 number, u32 which, u32 size) {
    const std::string fault = launch_case(number);
    u32 bad = 0;
    while (bad < MOST && near(y[bad], want[bad])) bad++;
    checks++;
    if (fault.empty() && bad == MOST) return;
    failures++;
    printf("FAIL: %s %u of %u, %u rows: ", name, which, size, n_rows);
    if (bad < MOST) printf("element %u is %g, not %g ", bad, (double)y[bad], want[bad]);
    puts(fault.c_str());
}

/* ---- elementwise ---- */
static float number() {
    static const float special[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 100.0f, -100.0f, 1e-30f, 1.0f, 2.5f, -3.5f};
    return random_bits() % 3 ? 4 * random_unit() : special[random_bits() % 11];
}
static double operand_of(const PointCase &c, u32 k, u32 row, u32 i) {
    const StepInput &in = c.in[k];
    if (in.kind == ART_ARG_POSITIONS) return positions[row];
    return operand[k][(in.kind == ART_ARG_ROWS ? row * in.width : 0) + i / in.div % in.width];
}
static void points(u32 i, u32 number_of) {
    const PointCase c = point_case(i);
    slack = 3e-6;
    for (n_rows = 1; n_rows <= MOST_ROWS; n_rows += 2) {
        begin();
        for (u32 k = 0; k < 3; k++)
            for (float &v : operand[k]) v = number();
        for (u32 row = 0; row < n_rows; row++)
            for (u32 e = 0; e < c.width; e++)
                want[row * c.width + e] = insn_value(c.op, (double)STEP_ALPHA, operand_of(c, 0, row, e), operand_of(c, 1, row, e), operand_of(c, 2, row, e));
        check("instruction", number_of, c.op, c.width);
    }
}

/* ---- chosen matrices ---- */
/* Weight (expert, n, k) as it is stored; panels are padded with zeros. */
template <class T> static void matrices(const RoutedCase &c, std::vector<double> &value) {
    const u32 panels = (c.n + 15) / 16;
    memset(matrix, 0, sizeof matrix);
    for (u32 e = 0; e < c.experts; e++)
        for (u32 o = 0; o < c.n; o++)
            for (u32 k = 0; k < c.k; k++) {
                T stored;
                from_float(random_unit(), stored);
                memcpy(matrix + (((u64)(e * panels + o / 16) * c.k + k) * 16 + o % 16) * sizeof(T), &stored, sizeof stored);
                value.push_back(to_float(stored));
            }
}
static void codes(const RoutedCase &c, std::vector<double> &value) {
    const Matrix m = random_codes(c.dtype, c.flags, c.group, c.k, c.experts * c.n);
    if (m.bytes.empty() || m.bytes.size() > sizeof matrix)
        failures++, puts("FAIL: no such form");
    else
        memcpy(matrix, m.bytes.data(), m.bytes.size());
    value = m.value;
}
static void routed(u32 which, u32 number_of) {
    const RoutedCase &c = routed_cases[which];
    std::vector<double> value;
    slack = c.group ? 6e-5 : 3e-6;
    c.group ? codes(c, value) : c.dtype == ART_F32 ? matrices<float>(c, value) : c.dtype == ART_F16 ? matrices<half>(c, value) : matrices<bf16>(c, value);
    for (n_rows = 1; n_rows <= MOST_ROWS; n_rows += 2) {
        begin();
        for (auto &o : operand)
            for (float &v : o) v = random_unit() / 4;
        for (u32 slot = 0; slot < n_rows * c.slots; slot++) {
            const u32 expert = slot * 3 % (c.experts + 1); /* experts: none */
            operand[1][slot] = expert < c.experts ? (float)expert : slot % 2 ? NAN : (float)expert;
            for (u32 o = 0; o < c.n; o++) {
                double v = 0;
                for (u32 k = 0; k < c.k && expert < c.experts; k++)
                    v += value[((size_t)expert * c.n + o) * c.k + k] * operand[0][(c.shared ? slot / c.slots : slot) * c.k + k];
                if (c.bias && expert < c.experts) v += operand[3][expert * c.n + o];
                v = act_value(c.act, v) * (c.gate ? operand[4][slot * c.n + o] : 1);
                want[slot * c.n + o] = expert < c.experts ? v : 0;
            }
        }
        check("a chosen product", number_of, c.k, c.n);
    }
}

int main() {
    u32 next = 0;
    for (u32 i = 0; i < POINT_CASES; i++)
        if (point_is_case(i)) points(i, next++);
    for (u32 i = 0; i < ROUTED_CASES; i++) routed(i, next++);
    printf("%d launches, %d wrong\n", checks, failures);
    return failures != 0;
}
