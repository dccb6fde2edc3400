/* The CPU kernels that write and read the cache, of every level this machine has, against plain loops in double
 * precision, over odd shapes; and with 1, 2 and 3 workers, which must give the same bits. */
#include "ir/ir.h"
#include "tests/unit/kernels_check.h"

typedef struct {
    uint32_t heads, kv_heads, dim, vdim, window;
    float softcap;
    bool slopes, sinks, keys_as_rows, codes; /* codes: the cache in 8 bits */
} Attend;
enum { SEQUENCES = 3 };

static void store_all(const CpuKernels *k, CpuState state, const float *x, uint32_t tokens) {
    int32_t *positions = malloc(tokens * sizeof *positions), *sequences = malloc(tokens * sizeof *sequences);
    size_t width = (size_t)state.heads * state.dim;
    for (int32_t s = 0; s < SEQUENCES; s++) {
        for (uint32_t i = 0; i < tokens; i++) { positions[i] = (int32_t)i, sequences[i] = s; }
        CpuStore a = {tokens, x + (size_t)s * tokens * width, width, positions, sequences, state};
        run_on(pools[s % POOLS], k, STORE, &a);
    }
    free(positions), free(sequences);
}

/* What a cache in 8 bits gives back of `count` heads of `dim`. */
static void round_heads(float *x, size_t count, size_t dim) {
    for (size_t h = 0; h < count; h++, x += dim) {
        float most = 0;
        for (size_t i = 0; i < dim; i++) { most = fmaxf(most, fabsf(x[i])); }
        float step = half_to_float(float_to_half(most / 127));
        for (size_t i = 0; i < dim && step > 0; i++) {
            x[i] = fminf(fmaxf(rintf(x[i] * (1 / step)), -127), 127) * step;
        }
        for (size_t i = 0; i < dim && step == 0; i++) { x[i] = 0; }
    }
}

static void attend_row(const CpuAttention *a, const float *k, const float *v, uint32_t tokens, size_t row,
                       double *out) {
    size_t at = (size_t)a->positions[row], seq = (size_t)a->sequences[row];
    size_t begin = a->window && at + 1 > a->window ? at + 1 - a->window : 0;
    double *e = malloc((at + 1) * sizeof *e);
    for (size_t h = 0; h < a->heads; h++) {
        size_t kv = h / (a->heads / a->kv_heads);
        double largest = a->sinks ? (double)a->sinks[h] : -INFINITY, total = 0;
        for (size_t i = begin; i <= at; i++) {
            const float *kr = k + ((seq * tokens + i) * a->kv_heads + kv) * a->dim;
            const float *qr = a->q + row * a->q_stride + h * a->dim;
            double s = 0;
            for (size_t d = 0; d < a->dim; d++) { s += (double)qr[d] * (double)kr[d]; }
            s *= (double)a->scale;
            if (a->softcap != 0) { s = (double)a->softcap * tanh(s / (double)a->softcap); }
            if (a->slopes) { s += (double)a->slopes[h] * ((double)i - (double)at); }
            e[i] = s;
            largest = fmax(largest, s);
        }
        for (size_t i = begin; i <= at; i++) { total += e[i] = exp(e[i] - largest); }
        if (a->sinks) { total += exp((double)a->sinks[h] - largest); }
        for (size_t d = 0; d < a->vdim; d++) {
            double s = 0;
            for (size_t i = begin; i <= at; i++) {
                s += e[i] * (double)v[((seq * tokens + i) * a->kv_heads + kv) * a->vdim + d];
            }
            out[h * a->vdim + d] = s / total;
        }
    }
    free(e);
}

/* n rows; row i is a (sequence, position). The cache holds `tokens` of each sequence. */
static void attention_rows(Attend t, uint32_t tokens, uint32_t rows, const int32_t *sequences,
                           const int32_t *positions) {
    size_t qw = (size_t)t.heads * t.dim, ow = (size_t)t.heads * t.vdim;
    float *k = random_floats((size_t)SEQUENCES * tokens * t.kv_heads * t.dim);
    float *v = random_floats((size_t)SEQUENCES * tokens * t.kv_heads * t.vdim);
    float *q = random_floats(rows * qw), *slopes = random_floats(t.heads), *sinks = random_floats(t.heads);
    for (size_t i = 0; i < rows * qw; i++) { q[i] *= 3; }
    for (size_t i = 0; i < t.heads; i++) { slopes[i] = 0.05f * fabsf(slopes[i]), sinks[i] *= 4; }
    float *out = random_floats(rows * ow), *before = random_floats(rows * ow);
    double *want = calloc(rows * ow, sizeof *want);
    uint32_t capacity = tokens + 5;
    uint32_t kept = t.codes ? ART_STATE_INT8 : ART_STATE_F32;
    CpuState ks = {NULL, t.kv_heads, t.dim, capacity, !t.keys_as_rows, kept},
             vs = {NULL, t.kv_heads, t.vdim, capacity, 0, kept};
    size_t kb = cpu_state_bytes(&ks) * SEQUENCES, vb = cpu_state_bytes(&vs) * SEQUENCES;
    ks.data = malloc(kb), vs.data = malloc(vb);
    memset(ks.data, 0xff, kb); /* NaN: what is past a sequence must not show */
    memset(vs.data, 0xff, vb);
    CpuAttention a = {.rows = rows,
                      .heads = t.heads,
                      .kv_heads = t.kv_heads,
                      .dim = t.dim,
                      .vdim = t.vdim,
                      .window = t.window,
                      .scale = 1 / sqrtf((float)t.dim),
                      .softcap = t.softcap,
                      .q = q,
                      .slopes = t.slopes ? slopes : NULL,
                      .sinks = t.sinks ? sinks : NULL,
                      .q_stride = qw,
                      .out_stride = ow,
                      .positions = positions,
                      .sequences = sequences,
                      .k = ks,
                      .v = vs,
                      .out = out};
    for (size_t i = 0; i < 2 * t.dim && i < (size_t)tokens * t.kv_heads * t.dim; i++) {
        k[i] *= i < t.dim ? 0 : 1e-8f; /* a head of zeros, one of numbers whose step is no normal half */
    }
    CU_ASSERT(cpu_attention_shared(rows, t.heads, t.vdim, capacity) <= SHARED);
    for (int level = 1; level <= LEVELS; level++) {
        if (!cpu_select(level)) { continue; }
        store_all(cpu_select(level), ks, k, tokens);
        store_all(cpu_select(level), vs, v, tokens);
        break; /* all levels lay the cache out alike */
    }
    if (t.codes) {
        round_heads(k, (size_t)SEQUENCES * tokens * t.kv_heads, t.dim);
        round_heads(v, (size_t)SEQUENCES * tokens * t.kv_heads, t.vdim);
    }
    for (size_t r = 0; r < rows; r++) { attend_row(&a, k, v, tokens, r, want + r * ow); }
    char what[160];
    snprintf(what, sizeof what, "attention %u rows, %u/%u heads, dim %u/%u, window %u, softcap %g, tokens %u",
             rows, t.heads, t.kv_heads, t.dim, t.vdim, t.window, (double)t.softcap, tokens);
    check(ATTENTION, &a, out, rows * ow, before, want, 2e-6, what);
    free(k), free(v), free(q), free(slopes), free(sinks), free(out), free(before), free(want);
    free(ks.data), free(vs.data);
}

/* A prefill of sequence 1, its last row alone, and a mixture of sequences. */
static void attention_case(Attend t, uint32_t tokens) {
    enum { MOST = 200 };
    int32_t sequences[MOST], positions[MOST];
    uint32_t rows = tokens < MOST ? tokens : MOST;
    for (uint32_t i = 0; i < rows; i++) { sequences[i] = 1, positions[i] = (int32_t)(tokens - rows + i); }
    if (tokens <= 400) { attention_rows(t, tokens, rows, sequences, positions); }
    attention_rows(t, tokens, 1, sequences + rows - 1, positions + rows - 1);
    int32_t mixed[7] = {2, 0, 0, 0, 1, 2, 2};
    int32_t at[7] = {0, 0, 1, 2, (int32_t)tokens - 1, (int32_t)tokens / 2, (int32_t)tokens / 2 + 1};
    attention_rows(t, tokens, 7, mixed, at);
}

static void test_attention_dims(void) {
    static const uint32_t dims[] = {1, 8, 16, 24, 64, 80, 128, 256};
    for (size_t i = 0; i < 8; i++) {
        attention_case((Attend){.heads = 3, .kv_heads = 3, .dim = dims[i], .vdim = dims[i]}, 70);
    }
    attention_case((Attend){.heads = 2, .kv_heads = 2, .dim = 24, .vdim = 40}, 33);
    attention_case((Attend){.heads = 1, .kv_heads = 1, .dim = 600, .vdim = 520}, 40);
    attention_case(
        (Attend){.heads = 1, .kv_heads = 1, .dim = CPU_MAX_HEAD, .vdim = CPU_MAX_HEAD, .keys_as_rows = true},
        66);
}
static void test_attention_heads(void) {
    attention_case((Attend){.heads = 8, .kv_heads = 2, .dim = 32, .vdim = 32}, 150);
    attention_case((Attend){.heads = 5, .kv_heads = 1, .dim = 16, .vdim = 16}, 150);
    attention_case((Attend){.heads = 71, .kv_heads = 1, .dim = 16, .vdim = 16}, 20);
    attention_case((Attend){.heads = 6, .kv_heads = 3, .dim = 20, .vdim = 20, .keys_as_rows = true}, 100);
}
static void test_attention_masks(void) {
    attention_case((Attend){.heads = 4, .kv_heads = 2, .dim = 16, .vdim = 16, .window = 1}, 90);
    attention_case((Attend){.heads = 4, .kv_heads = 2, .dim = 16, .vdim = 16, .window = 17}, 300);
    attention_case((Attend){.heads = 4, .kv_heads = 4, .dim = 16, .vdim = 16, .window = 128, .sinks = true},
                   300);
    attention_case((Attend){.heads = 4, .kv_heads = 2, .dim = 16, .vdim = 16, .softcap = 2}, 90);
    attention_case((Attend){.heads = 4, .kv_heads = 4, .dim = 16, .vdim = 16, .slopes = true}, 90);
    attention_case((Attend){.heads = 4, .kv_heads = 4, .dim = 16, .vdim = 16, .sinks = true}, 90);
}
static void test_attention_long(void) {
    attention_case((Attend){.heads = 2, .kv_heads = 1, .dim = 16, .vdim = 24}, 2500);
    attention_case((Attend){.heads = 2, .kv_heads = 1, .dim = 16, .vdim = 16, .sinks = true, .slopes = true},
                   1300);
    attention_case((Attend){.heads = 2, .kv_heads = 2, .dim = 8, .vdim = 8, .window = 1100, .softcap = 3},
                   9000);
}

static void test_attention_codes(void) {
    static const uint32_t dims[] = {1, 8, 24, 64, 80};
    for (size_t i = 0; i < 5; i++) {
        attention_case((Attend){.heads = 6, .kv_heads = 3, .dim = dims[i], .vdim = dims[i], .codes = true},
                       70);
    }
    attention_case((Attend){.heads = 2, .kv_heads = 2, .dim = 24, .vdim = 40, .codes = true}, 33);
    attention_case(
        (Attend){.heads = 6, .kv_heads = 3, .dim = 20, .vdim = 20, .keys_as_rows = true, .codes = true}, 100);
    attention_case((Attend){.heads = 4, .kv_heads = 2, .dim = 16, .vdim = 16, .window = 17, .codes = true},
                   300);
    attention_case((Attend){.heads = 4,
                            .kv_heads = 4,
                            .dim = 16,
                            .vdim = 16,
                            .sinks = true,
                            .slopes = true,
                            .softcap = 2,
                            .codes = true},
                   1300);
}

/* Whatever comes in, also what no half holds: bytes that mean the same number at every level. */
static void test_store_codes(void) {
    float x[4][4] = {{0, -0.0f, 0, 0}, {1e9f, 1, -1e9f, 0}, {NAN, 1, 2, 3}, {-1e-9f, 5e-10f, 1e-9f, 0}};
    int32_t positions[4] = {0, 1, 2, 3}, sequences[4] = {0};
    uint8_t first[1024];
    for (int level = 1; level <= LEVELS; level++) {
        if (!cpu_select(level)) { continue; }
        CpuState s = {calloc(1, sizeof first), 1, 4, 4, 1, ART_STATE_INT8};
        CU_ASSERT_FATAL(cpu_state_bytes(&s) <= sizeof first);
        CpuStore a = {4, x[0], 4, positions, sequences, s};
        run_on(pools[0], cpu_select(level), STORE, &a);
        if (level == 1) { memcpy(first, s.data, sizeof first); }
        CU_ASSERT(memcmp(first, s.data, cpu_state_bytes(&s)) == 0);
        const uint16_t *steps = (const uint16_t *)(const void *)((char *)s.data + 64);
        CU_ASSERT(steps[0] == 0 && steps[1] == 0x7c00 && isnan(half_to_float(steps[2])) && steps[3] == 0);
        free(s.data);
    }
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("attention", harness_open, harness_close);
    CU_add_test(s, "attention: dims", test_attention_dims);
    CU_add_test(s, "attention: heads", test_attention_heads);
    CU_add_test(s, "attention: masks", test_attention_masks);
    CU_add_test(s, "attention: long", test_attention_long);
    CU_add_test(s, "attention: a cache in 8 bits", test_attention_codes);
    CU_add_test(s, "store: codes", test_store_codes);
    return unit_end();
}
