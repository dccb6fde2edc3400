/* rows.cpp: what changes or moves single rows, through prelude_host.h against plain loops in double, over odd shapes: norms,
 * rotary positions, embedding, cache writes, reductions, softmax, the experts' choice. */
#include "tests/cuda/expect.h"
#include "tests/cuda/random.h"

#include "codegen/cuda/kernels/common.cu"
#include "codegen/cuda/kernels/weights.cu"
#include "codegen/cuda/kernels/norm.cu"
#include "codegen/cuda/kernels/rope.cu"
#include "codegen/cuda/kernels/cache.cu"
#include "codegen/cuda/kernels/cache_int8.cu"
#include "codegen/cuda/kernels/rows.cu"
#include "codegen/cuda/kernels/experts.cu"

#include <algorithm>

enum { MOST = 4096 };
static float x[MOST], y[MOST], first[MOST], second[MOST];
static double want[MOST];
static global<const float> from, one, two;
static global<float> to;

static void begin() {
    host::region_clear();
    host::region_add(x, sizeof x, "x");
    host::region_add(y, sizeof y, "y");
    host::region_add(first, sizeof first, "first");
    host::region_add(second, sizeof second, "second");
    from = global<const float>(x), one = global<const float>(first), two = global<const float>(second), to = global<float>(y);
    for (float &v : x) v = 3 * random_unit() + 0.5f;
    for (float &v : first) v = random_unit();
    for (float &v : second) v = random_unit();
    for (u32 i = 0; i < MOST; i++) y[i] = 99, want[i] = 99; /* what lies beside the row stays */
}
static void check(const char *name, u32 size, u32 threads, const std::function<void()> &kernel, double bound = 3e-6) {
    double worst = 0;
    const std::string fault = host::launch(1, 1, threads, 0, 1, kernel);
    for (u32 i = 0; i < MOST; i++) {
        const double error = std::fabs(y[i] - want[i]);
        worst = error > worst || error != error ? error : worst;
    }
    if (fault.empty() && worst <= bound) return;
    failures++;
    printf("FAIL: %s of %u by %u threads: off by %g %s\n", name, size, threads, worst, fault.c_str());
}

template <u32 width> static void norms(u32 threads) {
    for (u32 form = 0; form < 4; form++) {
        const bool rms = form & 1, weighted = form & 2;
        begin();
        double mean = 0, square = 0;
        for (u32 i = 0; i < width && !rms; i++) mean += (double)x[i] / width;
        for (u32 i = 0; i < width; i++) square += (x[i] - mean) * (x[i] - mean) / width;
        for (u32 i = 0; i < width; i++) {
            want[i] = (x[i] - mean) / std::sqrt(square + 1e-5);
            if (weighted) want[i] = want[i] * first[i] + (rms ? 0 : second[i]);
        }
        check(rms ? "an RMS norm" : "a layer norm", width, threads, [&] {
            SHARED(float, part, 64);
            const global<const float> none(nullptr);
            norm_row<width>(from, Norm{weighted ? one : none, weighted && !rms ? two : none, 1e-5f, rms}, part, [&](u32 i, float v) { to[i] = v; });
        });
    }
}

template <u32 heads, u32 dim, u32 rotated, bool interleaved> static void rope(u32 threads) {
    const u32 position = 5, pairs = rotated / 2;
    begin();
    for (u32 h = 0; h < heads; h++)
        for (u32 i = 0; i < dim; i++) {
            const u32 pair = interleaved ? i / 2 : i % pairs, other = interleaved ? i ^ 1 : i < pairs ? i + pairs : i - pairs;
            const bool low = interleaved ? i % 2 == 0 : i < pairs;
            const double c = first[position * pairs + pair], s = second[position * pairs + pair], a = x[h * dim + i];
            want[h * dim + i] = i >= rotated ? a : a * c + (low ? -s : s) * x[h * dim + other];
        }
    check(interleaved ? "rotary neighbours" : "rotary halves", dim, threads,
          [&] { rope_row<heads, dim, rotated, interleaved>(from, one, two, position, to); });
}

template <class C, u32 heads, u32 dim> static void store(u32 threads) {
    enum { context = 7, sequence = 1, position = 3 };
    static C state[MOST];
    begin();
    host::region_add(state, sizeof state, "state");
    for (C &c : state) from_float(99, c);
    for (u32 i = 0; i < heads * dim; i++) {
        C c;
        from_float(x[i], c);
        want[((sequence * heads + i / dim) * context + position) * dim + i % dim] = to_float(c);
    }
    const std::string fault = host::launch(1, 1, threads, 0, 1, [&] { store_row<C, heads, dim>(from, global<C>(state), sequence, position, context); });
    for (u32 i = 0; i < MOST; i++) y[i] = to_float(state[i]);
    check(fault.empty() ? "a cache write" : fault.c_str(), dim, threads, [] {}, 0);
}

/* Rounded as the cache in 8 bits is: the graph's op, written once more. Head 1 is ties, head 2 zeros, head 3 has no finite step
 * and head 4 no number; they are followed by ordinary ones. */
template <u32 heads, u32 dim> static void store_int8() {
    enum { context = 7, sequence = 1, position = 3 };
    typedef Cache<Int8, dim> Kept;
    static u8 state[MOST];
    const u64 stride = Kept::stride(context);
    begin();
    host::region_add(state, sizeof state, "state");
    for (u8 &b : state) b = 77;
    for (u32 i = 0; i < dim; i++) {
        if (heads > 1) x[dim + i] = i ? (float)i - 4.5f : 127.0f;
        if (heads > 2) x[2 * dim + i] = 0;
        if (heads > 3) x[3 * dim + i] = i ? (float)i : 1e30f;
        if (heads > 4) x[4 * dim + i] = i == 1 ? NAN : 1;
    }
    std::vector<u8> right(state, state + MOST);
    for (u32 h = 0; h < heads; h++) {
        u8 *to = &right[(sequence * heads + h) * stride];
        float most = 0;
        half kept;
        for (u32 i = 0; i < dim; i++) most = std::isnan(x[h * dim + i]) || std::fabs(x[h * dim + i]) > most ? std::fabs(x[h * dim + i]) : most;
        from_float(most / 127, kept);
        const float step = to_float(kept), inverse = step > 0 ? 1 / step : 0;
        memcpy(to + (context * dim + 15) / 16 * 16 + position * 2, &kept, 2);
        for (u32 i = 0; i < dim; i++)
            to[position * dim + i] = (u8)(128 + (int)std::fmin(std::fmax(std::rint(x[h * dim + i] * inverse), -127.0f), 127.0f));
    }
    const global<Int8> at = global<Int8>((Int8 *)state);
    const std::string fault =
        host::launch(heads, 1, 32, 0, 1, [&] { store_head<Int8, heads, dim>(from, at, block_index(), sequence, position, context); });
    for (u32 i = 0; i < MOST; i++) y[i] = state[i], want[i] = right[i];
    check(fault.empty() ? "a cache write in 8 bits" : fault.c_str(), dim, 32, [] {}, 0);
}

template <u32 op, u32 outer, u32 len, u32 inner> static void reduce(u32 threads) {
    begin();
    for (u32 i = 0; i < outer * inner; i++) {
        double v = op == REDUCE_MAX ? -1e30 : op == REDUCE_MIN ? 1e30 : op == REDUCE_PROD ? 1 : 0;
        for (u32 k = 0; k < len; k++) {
            const double e = x[(i / inner * len + k) * inner + i % inner];
            v = op == REDUCE_MAX ? std::fmax(v, e) : op == REDUCE_MIN ? std::fmin(v, e) : op == REDUCE_PROD ? v * e : v + e;
        }
        want[i] = op == REDUCE_MEAN ? v / len : v;
    }
    check("a reduction", len, threads, [&] { reduce_row<op, outer, len, inner>(from, to); }, 1e-4);
}

template <u32 outer, u32 len, u32 inner> static void softmax(u32 threads) {
    begin();
    if (len > 1) x[0] = -INFINITY;
    for (u32 i = 0; i < outer * inner; i++) {
        double all = 0;
        auto at = [&](u32 k) { return (i / inner * len + k) * inner + i % inner; };
        for (u32 k = 0; k < len; k++) all += std::exp((double)x[at(k)]);
        for (u32 k = 0; k < len; k++) want[at(k)] = std::exp((double)x[at(k)]) / all;
    }
    check("a softmax", len, threads, [&] { softmax_row<outer, len, inner>(from, to); });
}

/* The first of equals comes first; a NaN is larger than everything. */
template <u32 outer, u32 len, u32 count, bool smallest> static void topk(u32 threads) {
    begin();
    for (u32 i = 0; i < outer * len; i++) x[i] = std::floor(x[i]);
    if (len > 2) x[2] = NAN;
    for (u32 o = 0; o < outer; o++) {
        std::vector<u32> order;
        for (u32 i = 0; i < len; i++) order.push_back(i);
        std::stable_sort(order.begin(), order.end(), [&](u32 a, u32 b) {
            const double p = std::isnan(x[o * len + a]) ? 1e30 : x[o * len + a], q = std::isnan(x[o * len + b]) ? 1e30 : x[o * len + b];
            return smallest ? p < q : p > q;
        });
        for (u32 i = 0; i < count; i++) want[o * count + i] = order[i];
    }
    check("the largest", len, threads, [&] { topk_row<outer, len, count, smallest>(from, to); }, 0);
}

template <u32 outer, u32 len, u32 inner, u32 count> static void pick(u32 threads) {
    begin();
    for (u32 i = 0; i < outer * count; i++) first[i] = (float)(i * 5 % (len + 1)); /* len names no place */
    for (u32 i = 0; i < outer * count * inner; i++) {
        const u32 at = (u32)first[i / inner];
        want[i] = at < len ? x[i / inner / count * len * inner + at * inner + i % inner] : 0;
    }
    check("what stands at places", len, threads, [&] { pick_row<outer, len, inner, count, len * inner>(from, one, to); }, 0);
}

template <u32 width> static void gather(u32 threads) {
    begin();
    for (u32 i = 0; i < width; i++) want[i] = x[3 * width + i];
    check("a row of a table", width, threads, [&] { gather_row<Plain<float>, width>(from, 3, to); }, 0);
}

int main() {
    norms<1>(32), norms<33>(32), norms<257>(64), norms<768>(256), norms<1000>(128);
    rope<3, 8, 8, false>(32), rope<2, 64, 64, true>(128), rope<5, 20, 6, false>(32), rope<1, 10, 2, true>(64), rope<7, 96, 64, false>(256);
    store<float, 3, 5>(32), store<half, 2, 64>(128), store<bf16, 1, 33>(64);
    store_int8<5, 33>(), store_int8<6, 16>(), store_int8<1, 256>(), store_int8<2, 80>();
    reduce<REDUCE_SUM, 3, 17, 5>(32), reduce<REDUCE_MEAN, 1, 1000, 1>(32), reduce<REDUCE_MAX, 40, 1, 3>(128);
    reduce<REDUCE_MIN, 2, 9, 33>(64), reduce<REDUCE_PROD, 7, 3, 1>(32);
    softmax<1, 1000, 1>(32), softmax<37, 5, 1>(64), softmax<3, 7, 11>(32), softmax<1, 1, 1>(32);
    topk<1, 60, 4, false>(64), topk<5, 3, 3, true>(32), topk<2, 128, 8, true>(256), topk<1, 1, 1, false>(32);
    pick<3, 5, 7, 2>(32), pick<1, 60, 1, 8>(32), pick<2, 4, 33, 3>(128);
    gather<1>(32), gather<77>(32), gather<300>(256);
    return failures != 0;
}
