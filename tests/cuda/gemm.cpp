/* gemm.cpp: products of many rows on matrix units, over odd shapes, against plain sums in double. */
#include "tests/cuda/expect.h"

#include "codegen/cuda/kernels/common.cu"
#include "codegen/cuda/kernels/weights.cu"
#include "codegen/cuda/kernels/code_forms.cu"
#include "codegen/cuda/kernels/gemm.cu"
#include "codegen/cuda/kernels/gemm_codes.cu"

static u32 state = 1;
static float random_value() {
    state = state * 1664525 + 1013904223;
    return (float)(state >> 8) / (1 << 23) - 1;
}

template <class T> static float to_precision(float v) {
    T t;
    from_float(v, t);
    return to_float(t);
}

/* What a form holds, and the bytes that hold it. */
template <class T, u32 k, u32 n> static void fill(Panels<T>, std::vector<u8> &bytes, std::vector<float> &w) {
    enum { panels = (n + 15) / 16 };
    bytes.assign(sizeof(T) * panels * k * 16, 0);
    for (u32 i = 0; i < n; i++)
        for (u32 j = 0; j < k; j++) {
            T t;
            from_float(random_value(), t);
            ((T *)bytes.data())[((u64)(i / 16) * k + j) * 16 + i % 16] = t;
            w[i * k + j] = to_float(t);
        }
}
template <class T, u32 k, u32 n, u32 bits, u32 group, class Scale, u32 zeros, u32 same, u32 grid>
static void fill(Codes<bits, group, Scale, zeros, same, grid>, std::vector<u8> &bytes, std::vector<float> &w) {
    typedef Codes<bits, group, Scale, zeros, same, grid> W;
    enum { panels = (n + 15) / 16, blocks = (k + group - 1) / group };
    bytes.assign((size_t)panels * blocks * W::block_bytes, 0);
    host::region_add(bytes.data(), bytes.size(), "filled");
    for (u8 &b : bytes) b = (u8)(random_value() * 127 + 128);
    for (u32 p = 0; p < panels * blocks; p++) {
        u8 *b = bytes.data() + (size_t)p * W::block_bytes;
        for (u32 o = 0; o < 16; o++) {
            Scale s;
            from_float((p / blocks * 16 + o < n ? 0.01f : 0.0f) * (2 + random_value()), s);
            memcpy(b + o * sizeof s, &s, sizeof s);
            float zero = 3.5f;
            if (zeros == ZERO_FLOAT) memcpy(b + W::zeros_at + o * 4, &zero, 4);
        }
    }
    for (u32 i = 0; i < n; i++)
        for (u32 j = 0; j < k; j++)
            w[i * k + j] = to_precision<T>(W::get(global<const u8>(bytes.data()), k, i, j));
    host::regions().erase(bytes.data());
}

/* kernel(w, x, rows, rounded, y) through every row count. */
template <class T, class W, u32 k, u32 n, class Run> static void check(const char *name, Run run) {
    std::vector<u8> bytes;
    std::vector<float> w(n * k);
    fill<T, k, n>(W(), bytes, w);
    for (u32 rows : {1u, 9u, 64u, 130u}) {
        std::vector<float> x(rows * k), y(rows * n, NAN);
        std::vector<u8> rounded((rows + 127) / 128 * 128 * ((k + 63) / 64 * 64 * 2 + 4));
        for (u32 i = 0; i < rows * k; i++) x[i] = random_value() * (i / k % 3 == 0 ? 1e6f : 1);
        host::region_clear();
        host::region_add(bytes.data(), bytes.size(), "weights");
        host::region_add(x.data(), x.size() * 4, "x");
        host::region_add(y.data(), y.size() * 4, "y");
        host::region_add(rounded.data(), rounded.size(), "rounded");
        global<T> to = global<T>((T *)rounded.data());
        std::string got = host::launch(1, rows, 128, 0, 1, [&] {
            SHARED(float, part, 32);
            round_row<T, k>(global<const float>(x.data()), block_row(), rows, to, part);
        });
        if (got.empty()) got = run(global<const typename W::Element>((typename W::Element *)bytes.data()), to, rows, global<float>(y.data()));
        if (!got.empty()) {
            failures++, printf("FAIL: %s, %u rows: %s\n", name, rows, got.c_str());
            return;
        }
        double worst = 0;
        for (u32 r = 0; r < rows; r++)
            for (u32 o = 0; o < n; o++) {
                double sum = 0, size = 0;
                for (u32 j = 0; j < k; j++) sum += (double)x[r * k + j] * w[o * k + j], size += fabs((double)x[r * k + j] * w[o * k + j]);
                double error = fabs(y[r * n + o] - sum) / (size + 1e-30);
                worst = error <= worst ? worst : error; /* NaN is worst */
            }
        double most = std::is_same<T, half>::value ? 1.0 / 2048 : 1.0 / 256;
        if (!(worst <= most)) failures++, printf("FAIL: %s, %u rows: off by %g of the sum of sizes\n", name, rows, worst);
    }
}

template <class T, class W, u32 k, u32 n, u32 high, u32 outputs, u32 across, u32 stages> static void warps(const char *name) {
    typedef typename W::Element Element;
    check<T, W, k, n>(name, [](global<const Element> w, global<const T> x, u32 rows, global<float> y) {
        return host::launch((n + outputs - 1) / outputs, (rows + high - 1) / high, 256, WarpTiles<high, outputs, stages>::bytes, 1, [&] {
            SHARED_AT_LAUNCH(u8, ring);
            gemm_warps<T, W, k, n, high, outputs, across, stages>(w, x, rows, ring, [&](u32 row, u32 o, float a, float b) {
                y[row * n + o] = a;
                if (o + 1 < n) y[row * n + o + 1] = b;
            });
        });
    });
}

template <class T, class W, u32 k, u32 n, u32 outputs, u32 stages> static void groups(const char *name) {
    typedef typename W::Element Element;
    check<T, W, k, n>(name, [](global<const Element> w, global<const T> x, u32 rows, global<float> y) {
        return host::launch(2, 1, 384, GroupTiles<outputs, stages>::bytes, 1, [&] {
            SHARED_AT_LAUNCH(u8, ring);
            gemm_groups<T, W, k, n, outputs, stages>(w, x, rows, ring, [&](u32 row, u32 o, float a, float b) {
                y[row * n + o] = a;
                if (o + 1 < n) y[row * n + o + 1] = b;
            });
        });
    });
}

int main() {
    typedef Codes<4, 32, half, ZERO_SAME, 8, GRID_LINEAR> Four;
    typedef Codes<8, 64, float, ZERO_BYTE, 0, GRID_LINEAR> Eight;
    typedef Codes<2, 16, half, ZERO_FLOAT, 0, GRID_LINEAR> Two;
    typedef Codes<5, 32, half, ZERO_SAME, 16, GRID_LINEAR> Five;
    warps<half, Panels<half>, 192, 200, 128, 128, 4, 3>("warps 128 x 128");
    warps<half, Panels<half>, 100, 72, 64, 32, 2, 6>("warps 64 x 32, odd k");
    warps<bf16, Panels<bf16>, 256, 49, 64, 64, 4, 4>("warps 64 x 64, bf16, odd n");
    warps<half, Four, 128, 80, 64, 32, 2, 6>("warps, 4 bits");
    warps<half, Eight, 160, 80, 128, 128, 4, 3>("warps, 8 bits");
    warps<half, Two, 72, 33, 64, 64, 4, 4>("warps, 2 bits");
    warps<half, Five, 96, 40, 64, 32, 2, 6>("warps, 5 bits");
    groups<half, Panels<half>, 448, 520, 256, 4>("groups 256");
    groups<bf16, Panels<bf16>, 100, 150, 128, 6>("groups 128, bf16");
    groups<half, Four, 448, 140, 128, 6>("groups, 4 bits");
    return failures != 0;
}
