/* weights.cpp: every form of stored weights in the products of few rows, of many, and of the persistent kernel's ring, through
 * prelude_host.h, against plain loops; odd sizes, one row to eight. */
#include "codegen/cuda/kernels/prelude_host.h"

#include "codegen/cuda/kernels/common.cu"
#include "codegen/cuda/kernels/weights.cu"
#include "codegen/cuda/kernels/code_forms.cu"
#include "codegen/cuda/kernels/norm.cu"
#include "codegen/cuda/kernels/linear.cu"
#include "codegen/cuda/kernels/codes.cu"
#include "codegen/cuda/kernels/words.cu"
#include "codegen/cuda/kernels/ring.cu"
#include "codegen/cuda/kernels/ring_codes.cu"

#include "tests/cuda/random.h"

#include "tests/cuda/codes.h"

static int failures, checks;

template <class T> static Matrix random_panels(u32 k, u32 n) {
    Matrix m;
    m.bytes.assign((u64)(n + 15) / 16 * k * 16 * sizeof(T), 0);
    m.value.assign((size_t)n * k, 0);
    for (u32 r = 0; r < n; r++)
        for (u32 c = 0; c < k; c++) {
            T v;
            from_float(random_unit(), v);
            memcpy(&m.bytes[(((u64)(r / 16) * k + c) * 16 + r % 16) * sizeof(T)], &v, sizeof v);
            m.value[(size_t)r * k + c] = to_float(v);
        }
    return m;
}

/* ---- kernels, as the emitter writes them ---- */
template <class W, u32 k, u32 n, u32 most>
static void few(global<const typename W::Element> w, global<const float> x, global<float> y, u32 rows) {
    SHARED(float, part, 8 * most * 16);
    auto begin = [&] { grid_wait(); };
    auto in = [&](u32 row, u32 at) { return row < rows ? x[row * k + at] : 0.0f; };
    const u32 panel = block_index();
    panel_sums<k, most>(W(), w, panel, warp(), 8, part, begin, in);
    barrier();
    for (u32 i = thread_index(); i < most * 16; i += 256)
        if (i / 16 < rows && panel * 16 + i % 16 < n) y[i / 16 * n + panel * 16 + i % 16] = panel_sum<most>(part, 8, i);
}
template <class W, u32 k, u32 n>
static void many(global<const typename W::Element> w, global<const float> x, global<float> y, u32 rows) {
    SHARED(float, xs, 64 * 16);
    SHARED(float, ws, 64 * 16);
    linear_many<W, k, n>(w, rows, xs, ws, [&](u32 row, u32 at) { return x[row * k + at]; },
                         [&](u32 row, u32 o, float v) { y[row * n + o] = v; });
}


/* How the ring takes a form, and the words of its grid. */
template <class W> struct Streamed {
    enum { grid = W::head != 0 ? (u32)GridTable<W::vector>::words : 0 };
    template <u32 k> static bool bring(Ring &r, global<const u8> w, u32 panel) { return bring_codes<W, k>(r, w, panel); }
    template <u32 k> static float sum(Ring &r, shared<float> x, shared<float> part, shared<u32> table) {
        return ring_sum_codes<W, k>(r, x, part, table);
    }
    static void load(global<const u8> w, global<const u32> place, shared<u32> table) {
        if constexpr (W::head != 0) grids_load<W::vector>(w, place, 1, table);
    }
};
template <class T> struct Streamed<Panels<T>> {
    enum { grid = 0 };
    template <u32 k> static bool bring(Ring &r, global<const u8> w, u32 panel) { return bring_panel<T, k>(r, w, panel); }
    template <u32 k> static float sum(Ring &r, shared<float> x, shared<float> part, shared<u32>) { return ring_sum<T, k>(r, x, part); }
    static void load(global<const u8>, global<const u32>, shared<u32>) {}
};
template <class W, u32 k, u32 n> struct Stream {
    enum {
        blocks = 2,
        stages = 3,
        x_at = 256, /* floats; sums of panels before them */
        grid_at = x_at + (k + 3) / 4 * 4,
        barriers_at = (grid_at + Streamed<W>::grid) * 4,
        ring_at = (barriers_at + (2 * MOST_STAGES + 1) * 8 + 127) / 128 * 128,
        bytes = ring_at + stages * STAGE_BYTES
    };
    static void run(global<const u8> w, global<const float> x, global<const u32> place, global<float> y) {
        SHARED_AT_LAUNCH(u8, memory);
        const shared<float> local = (shared<float>)memory;
        const shared<u32> table = (shared<u32>)(local + grid_at);
        Ring ring = ring_begin((shared<u64>)(memory + barriers_at), memory + ring_at, stages);
        for (u32 i = thread_index(); i < k; i += thread_count()) local[x_at + i] = x[i];
        Streamed<W>::load(w, place, table);
        barrier();
        for (u32 p = block_index(), parts = 0; p * 16 < n; p += block_count()) {
            if (warp() == RING_WARPS) {
                if (lane() == 0 && !Streamed<W>::template bring<k>(ring, w, p)) return;
                continue;
            }
            const float v = Streamed<W>::template sum<k>(ring, local + x_at, local + (parts ^= 128), table);
            if (thread_index() < 16 && p * 16 + thread_index() < n) y[p * 16 + thread_index()] = v;
        }
    }
};

enum { BY_RING = 0 }; /* rows: one, streamed */
template <class W, u32 k, u32 n> static std::string by_ring(global<const typename W::Element> w, global<const float> x, global<float> y) {
    static const u32 place = 0;
    host::region_add(&place, sizeof place, "place");
    return host::launch(Stream<W, k, n>::blocks, 1, RING_THREADS + 32, Stream<W, k, n>::bytes, Stream<W, k, n>::blocks,
                        [&] { Stream<W, k, n>::run((global<const u8>)w, x, global<const u32>(&place), y); });
}
template <class W, u32 k, u32 n> static void check(const char *name, const Matrix &m, std::initializer_list<u32> all = {BY_RING, 1u, 3u, 7u, 65u}) {
    for (u32 wanted : all) {
        const u32 rows = wanted == BY_RING ? 1 : wanted;
        std::vector<u8, std::allocator<u8>> bytes = m.bytes;
        std::vector<float> x(rows * k), y(rows * n, 7.0f);
        void *aligned = nullptr;
        if (bytes.empty() || posix_memalign(&aligned, 64, bytes.size())) {
            failures++, printf("FAIL: %s: no such form\n", name);
            return;
        }
        memcpy(aligned, bytes.data(), bytes.size());
        for (float &v : x) v = random_unit() * (random_bits() % 16 ? 1.0f : 30.0f);
        host::region_clear();
        host::region_add(aligned, bytes.size(), "weights");
        host::region_add(x.data(), x.size() * 4, "x");
        host::region_add(y.data(), y.size() * 4, "y");
        global<const typename W::Element> w((const typename W::Element *)aligned);
        global<const float> from(x.data());
        global<float> to(y.data());
        const u32 panels = (n + 15) / 16;
        std::string fault = wanted == BY_RING ? by_ring<W, k, n>(w, from, to)
                            : rows == 1 ? host::launch(panels, 1, 256, 0, 1, [&] { few<W, k, n, 1>(w, from, to, rows); })
                            : rows <= 4 ? host::launch(panels, 1, 256, 0, 1, [&] { few<W, k, n, 4>(w, from, to, rows); })
                            : rows <= 8 ? host::launch(panels, 1, 256, 0, 1, [&] { few<W, k, n, 8>(w, from, to, rows); })
                                        : host::launch((n + 63) / 64, 2, 256, 0, 1, [&] { many<W, k, n>(w, from, to, rows); });
        double worst = 0;
        for (u32 r = 0; r < rows; r++)
            for (u32 o = 0; o < n; o++) {
                double want = 0, size = 1e-30;
                for (u32 c = 0; c < k; c++) {
                    want += x[r * k + c] * m.value[(size_t)o * k + c];
                    size += std::fabs(x[r * k + c] * m.value[(size_t)o * k + c]);
                }
                const double error = std::fabs(y[r * n + o] - want) / size;
                worst = error > worst || !(error == error) ? error : worst;
            }
        checks++;
        if (!fault.empty() || !(worst < 2e-5)) {
            printf("FAIL: %s, k %u, n %u, %u rows: error %g %s\n", name, k, n, wanted, worst, fault.c_str());
            failures++;
        }
        free(aligned);
    }
}

#define CODES(dtype, scale_dtype, zeros, zero, grid, group, form, k, n)                                                    \
    check<form, k, n>(#form, random_codes(dtype, scale_dtype | (zeros) << 8 | (zero) << 16 | (u32)(grid) << 24, group, k, n))
#define COMMA ,
/* Wider than a tile: several of whole blocks, or blocks that are cut. */
#define WIDE(dtype, scale_dtype, zeros, zero, grid, group, form, k, n)                                                      \
    check<form, k, n>(#form, random_codes(dtype, scale_dtype | (zeros) << 8 | (zero) << 16 | (u32)(grid) << 24, group, k, n), {BY_RING})

int main() {
    check<Panels<float>, 33, 17>("float", random_panels<float>(33, 17));
    check<Panels<half>, 130, 40>("half", random_panels<half>(130, 40));
    check<Panels<bf16>, 7, 16>("bf16", random_panels<bf16>(7, 16));
    CODES(ART_U8, ART_F16, ART_ZERO_SAME, 128, ART_GRID_LINEAR, 32, Codes<8 COMMA 32 COMMA half COMMA ZERO_SAME COMMA 128 COMMA GRID_LINEAR>, 100, 33);
    CODES(ART_U8, ART_F32, ART_ZERO_BYTE, 0, ART_GRID_LINEAR, 12, Codes<8 COMMA 12 COMMA float COMMA ZERO_BYTE COMMA 0 COMMA GRID_LINEAR>, 77, 20);
    CODES(ART_U8, ART_F16, ART_ZERO_SAME, 128, ART_GRID_LINEAR, 300, Codes<8 COMMA 300 COMMA half COMMA ZERO_SAME COMMA 128 COMMA GRID_LINEAR>, 300, 16);
    CODES(ART_U4, ART_F16, ART_ZERO_SAME, 8, ART_GRID_LINEAR, 32, Codes<4 COMMA 32 COMMA half COMMA ZERO_SAME COMMA 8 COMMA GRID_LINEAR>, 160, 33);
    CODES(ART_U4, ART_BF16, ART_ZERO_BYTE, 0, ART_GRID_LINEAR, 64, Codes<4 COMMA 64 COMMA bf16 COMMA ZERO_BYTE COMMA 0 COMMA GRID_LINEAR>, 517, 16);
    CODES(ART_U4, ART_F32, ART_ZERO_FLOAT, 0, ART_GRID_LINEAR, 10, Codes<4 COMMA 10 COMMA float COMMA ZERO_FLOAT COMMA 0 COMMA GRID_LINEAR>, 33, 17);
    CODES(ART_U4, ART_U8, ART_ZERO_SAME, 8, ART_GRID_LINEAR, 128, Codes<4 COMMA 128 COMMA Coded<8> COMMA ZERO_SAME COMMA 8 COMMA GRID_LINEAR>, 384, 31);
    CODES(ART_U4, ART_U8, ART_ZERO_SAME, 0, ART_GRID_INT8, 64, Codes<4 COMMA 64 COMMA Coded<8> COMMA ZERO_SAME COMMA 0 COMMA GRID_INT8>, 200, 18);
    CODES(ART_U2, ART_F16, ART_ZERO_FLOAT, 0, ART_GRID_LINEAR, 32, Codes<2 COMMA 32 COMMA half COMMA ZERO_FLOAT COMMA 0 COMMA GRID_LINEAR>, 100, 16);
    CODES(ART_U2, ART_U6, ART_ZERO_HIGH, 0, ART_GRID_LINEAR, 32, Codes<2 COMMA 32 COMMA Coded<6> COMMA ZERO_HIGH COMMA 0 COMMA GRID_LINEAR>, 132, 33);
    CODES(ART_U2, ART_U8, ART_ZERO_SAME, 0, ART_GRID_INT8, 64, Codes<2 COMMA 64 COMMA Coded<8> COMMA ZERO_SAME COMMA 0 COMMA GRID_INT8>, 256, 16);
    CODES(ART_U3, ART_U8, ART_ZERO_SAME, 4, ART_GRID_LINEAR, 64, Codes<3 COMMA 64 COMMA Coded<8> COMMA ZERO_SAME COMMA 4 COMMA GRID_LINEAR>, 150, 33);
    CODES(ART_U3, ART_U8, ART_ZERO_SAME, 0, ART_GRID_INT8, 128, Codes<3 COMMA 128 COMMA Coded<8> COMMA ZERO_SAME COMMA 0 COMMA GRID_INT8>, 517, 16);
    CODES(ART_U5, ART_U8, ART_ZERO_SAME, 16, ART_GRID_LINEAR, 64, Codes<5 COMMA 64 COMMA Coded<8> COMMA ZERO_SAME COMMA 16 COMMA GRID_LINEAR>, 200, 17);
    CODES(ART_U5, ART_F16, ART_ZERO_SAME, 0, ART_GRID_INT8, 64, Codes<5 COMMA 64 COMMA half COMMA ZERO_SAME COMMA 0 COMMA GRID_INT8>, 64, 16);
    CODES(ART_U6, ART_U8, ART_ZERO_SAME, 32, ART_GRID_LINEAR, 64, Codes<6 COMMA 64 COMMA Coded<8> COMMA ZERO_SAME COMMA 32 COMMA GRID_LINEAR>, 130, 33);
    CODES(ART_F8E4M3FN, ART_F16, ART_ZERO_SAME, 0, ART_GRID_F8, 96, Codes<8 COMMA 96 COMMA half COMMA ZERO_SAME COMMA 0 COMMA GRID_F8>, 96, 17);
    CODES(ART_U8, ART_F16, ART_ZERO_SAME, 0, ART_GRID_PAIRS, 64, Codes<8 COMMA 64 COMMA half COMMA ZERO_SAME COMMA 0 COMMA GRID_PAIRS>, 100, 17);
    CODES(ART_U8, ART_F16, ART_ZERO_SAME, 0, ART_GRID_QUADS, 100, Codes<8 COMMA 100 COMMA half COMMA ZERO_SAME COMMA 0 COMMA GRID_QUADS>, 100, 16);
    WIDE(ART_U8, ART_F16, ART_ZERO_SAME, 128, ART_GRID_LINEAR, 32, Codes<8 COMMA 32 COMMA half COMMA ZERO_SAME COMMA 128 COMMA GRID_LINEAR>, 2100, 33);
    WIDE(ART_U8, ART_F16, ART_ZERO_SAME, 128, ART_GRID_LINEAR, 2052, Codes<8 COMMA 2052 COMMA half COMMA ZERO_SAME COMMA 128 COMMA GRID_LINEAR>, 2052, 33);
    WIDE(ART_U8, ART_F32, ART_ZERO_BYTE, 0, ART_GRID_LINEAR, 1101, Codes<8 COMMA 1101 COMMA float COMMA ZERO_BYTE COMMA 0 COMMA GRID_LINEAR>, 2500, 17);
    WIDE(ART_F8E4M3FN, ART_F16, ART_ZERO_SAME, 0, ART_GRID_F8, 1100, Codes<8 COMMA 1100 COMMA half COMMA ZERO_SAME COMMA 0 COMMA GRID_F8>, 1099, 40);
    WIDE(ART_U4, ART_F16, ART_ZERO_SAME, 0, ART_GRID_INT8, 4100, Codes<4 COMMA 4100 COMMA half COMMA ZERO_SAME COMMA 0 COMMA GRID_INT8>, 4100, 17);
    WIDE(ART_U4, ART_BF16, ART_ZERO_FLOAT, 0, ART_GRID_LINEAR, 2110, Codes<4 COMMA 2110 COMMA bf16 COMMA ZERO_FLOAT COMMA 0 COMMA GRID_LINEAR>, 3001, 16);
    WIDE(ART_U4, ART_U8, ART_ZERO_SAME, 0, ART_GRID_INT8, 64, Codes<4 COMMA 64 COMMA Coded<8> COMMA ZERO_SAME COMMA 0 COMMA GRID_INT8>, 4100, 33);
    WIDE(ART_U2, ART_U6, ART_ZERO_HIGH, 0, ART_GRID_LINEAR, 32, Codes<2 COMMA 32 COMMA Coded<6> COMMA ZERO_HIGH COMMA 0 COMMA GRID_LINEAR>, 4000, 17);
    WIDE(ART_U6, ART_U8, ART_ZERO_SAME, 32, ART_GRID_LINEAR, 64, Codes<6 COMMA 64 COMMA Coded<8> COMMA ZERO_SAME COMMA 32 COMMA GRID_LINEAR>, 1500, 16);
    WIDE(ART_U8, ART_F16, ART_ZERO_SAME, 0, ART_GRID_PAIRS, 2600, Codes<8 COMMA 2600 COMMA half COMMA ZERO_SAME COMMA 0 COMMA GRID_PAIRS>, 2600, 17);
    WIDE(ART_U8, ART_F16, ART_ZERO_SAME, 0, ART_GRID_QUADS, 4200, Codes<8 COMMA 4200 COMMA half COMMA ZERO_SAME COMMA 0 COMMA GRID_QUADS>, 4200, 16);
    printf("%d products, %d wrong\n", checks, failures);
    return failures != 0;
}
