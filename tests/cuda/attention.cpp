/* attention.cpp: the four forms of attention over head sizes, groups, windows, soft caps, slopes and sinks, short and long
 * contexts, rows of one and of several sequences, caches in float, half and 8 bits, through prelude_host.h against plain loops. */
#include "codegen/cuda/kernels/prelude_host.h"

#include "codegen/cuda/kernels/common.cu"
#include "tests/cuda/cache.h"
#include "codegen/cuda/kernels/attention.cu"
#include "codegen/cuda/kernels/attention_tile.cu"
#include "codegen/cuda/kernels/attention_matrix.cu"
#include "codegen/cuda/kernels/attention_rounded.cu"

static int failures, checks;
/* What one row is: of a sequence, at a position. */
struct Row {
    i32 sequence, position;
};
struct Case {
    const char *name;
    u32 context;
    std::vector<Row> rows;
    Scores scores;
    bool slopes, sinks;
    Rounding rounding[2];
};

static double rounded_to(const Rounding &r, double x) {
    if (!(r.step > 0)) return x;
    double v = std::nearbyint((float)x / r.step);
    return (v < r.low ? r.low : v > r.high ? r.high : v) * r.step;
}

template <class C, u32 heads, u32 group, u32 dim, u32 vdim, u32 window> struct Attention {
    enum { kv_heads = heads / group, most_sequences = 3 };
    const Case &of;
    std::vector<float> q, y, slopes, sinks, parts;
    std::vector<C> k, v;
    std::vector<float> keys_kept, values_kept;
    std::vector<i32> sequences, positions;
    std::vector<double> want;

    explicit Attention(const Case &c) : of(c) {
        u32 rows = (u32)c.rows.size();
        q.resize((size_t)rows * heads * dim);
        y.resize((size_t)rows * heads * vdim);
        parts.resize((size_t)rows * heads * 3 * (vdim + 2));
        for (u32 i = 0; i < heads; i++) slopes.push_back(0.02f * (float)(i + 1)), sinks.push_back(random_unit());
        for (float &x : q) x = random_unit();
        fill<C, dim>(most_sequences * kv_heads, c.context, k, keys_kept);
        fill<C, vdim>(most_sequences * kv_heads, c.context, v, values_kept);
        for (const Row &r : c.rows) sequences.push_back(r.sequence), positions.push_back(r.position);
        want.resize(y.size());
        for (u32 r = 0; r < rows; r++)
            for (u32 h = 0; h < heads; h++) expect(r, h);
        host::region_clear();
        add(q), add(y), add(slopes), add(sinks), add(parts), add(k), add(v), add(sequences), add(positions);
    }
    template <class T> void add(std::vector<T> &x) { host::region_add(x.data(), x.size() * sizeof(T), "a buffer"); }

    void expect(u32 r, u32 h) {
        const u32 last = (u32)positions[r], first = window && last + 1 > window ? last + 1 - window : 0;
        const size_t keys = ((size_t)sequences[r] * kv_heads + h / group) * of.context;
        std::vector<double> s;
        double largest = of.sinks ? sinks[h] : -1e30, total = 0;
        for (u32 key = first; key <= last; key++) {
            double x = 0;
            for (u32 d = 0; d < dim; d++) x += (double)q[((size_t)r * heads + h) * dim + d] * keys_kept[(keys + key) * dim + d];
            x = rounded_to(of.rounding[0], x * of.scores.scale);
            if (of.scores.softcap > 0) x = of.scores.softcap * std::tanh(x / of.scores.softcap);
            if (of.slopes) x -= slopes[h] * (double)(last - key);
            s.push_back(x);
            largest = std::fmax(largest, x);
        }
        for (double &x : s) total += x = std::exp(x - largest);
        if (of.sinks) total += std::exp(sinks[h] - largest);
        for (u32 e = 0; e < vdim; e++) {
            double sum = 0;
            for (size_t i = 0; i < s.size(); i++)
                sum += rounded_to(of.rounding[1], s[i] / total) * values_kept[(keys + first + i) * vdim + e];
            want[((size_t)r * heads + h) * vdim + e] = sum;
        }
    }

    void check(const char *form, const std::string &fault, double bound = 2e-6) {
        double worst = 0;
        for (size_t i = 0; i < y.size(); i++) {
            const double error = std::fabs(y[i] - want[i]);
            worst = error > worst || !(error == error) ? error : worst;
        }
        checks++;
        if (!fault.empty() || !(worst < bound)) {
            printf("FAIL: %s, %s, %u heads, groups of %u, %u wide: error %g %s\n", of.name, form, heads, group, dim, worst,
                   fault.c_str());
            failures++;
        }
        y.assign(y.size(), 9.0f);
    }

    template <u32 many> void spans(u32 splits) {
        global<const float> from(q.data()), slope(slopes.data()), sink(sinks.data());
        global<const C> ks(k.data()), vs(v.data());
        global<const i32> seq(sequences.data()), pos(positions.data());
        global<float> part_of(parts.data()), to(y.data());
        const u32 rows = (u32)of.rows.size(), context = of.context;
        const bool has_slopes = of.slopes, has_sinks = of.sinks;
        const Scores scores = of.scores;
        std::string fault = host::launch(heads / many * splits, rows, 128, 0, 1, [&] {
            SHARED(float, part, 4 * many * (vdim + 2));
            const u32 row = block_row(), split = block_index() % splits, first = block_index() / splits * many;
            const u32 position = (u32)pos[row];
            const Span span = key_span(position, window, split, splits);
            const u64 head = (u64)(u32)seq[row] * kv_heads + first / group;
            attention_span<C, many, dim, vdim>(from + (row * heads + first) * dim, ks + head * Cache<C, dim>::stride(context),
                                               vs + head * Cache<C, vdim>::stride(context), context, span.first, span.last, position, scores,
                                               has_slopes ? slope + first : global<const float>(nullptr), part,
                                               [&](u32 h, u32 i, float largest, float total, float sum) {
                                                   global<float> p = part_of + ((row * heads + first + h) * splits + split) * (vdim + 2);
                                                   p[i] = sum;
                                                   if (i == 0) p[vdim] = largest, p[vdim + 1] = total;
                                               });
        });
        if (fault.empty())
            fault = host::launch(heads, rows, 32, 0, 1, [&] {
                const u32 head = block_row() * heads + block_index();
                for (u32 i = thread_index(); i < vdim; i += thread_count())
                    to[head * vdim + i] = attention_join<vdim>(part_of + (u64)head * splits * (vdim + 2), splits, i, has_sinks,
                                                               has_sinks ? (float)sink[block_index()] : 0.0f);
            });
        check("spans", fault);
    }
    void tiles() {
        global<const float> from(q.data()), slope(slopes.data()), sink(sinks.data());
        global<const C> ks(k.data()), vs(v.data());
        global<const i32> seq(sequences.data()), pos(positions.data());
        global<float> to(y.data());
        const u32 rows = (u32)of.rows.size(), context = of.context;
        const bool has_slopes = of.slopes, has_sinks = of.sinks;
        const Scores scores = of.scores;
        check("tiles", host::launch(heads, (rows + 63) / 64, 256, 0, 1, [&] {
                  const u32 head = block_index();
                  attention_tile<C, heads, group, dim, vdim, window>(
                      from, ks, vs, seq, pos, rows, context, scores, has_slopes ? (float)slope[head] : 0.0f,
                      [&](u32 row, u32 i, float largest, float total, float sum) {
                          to[(row * heads + head) * vdim + i] =
                              attention_mean(largest, total, sum, has_sinks, has_sinks ? (float)sink[head] : 0.0f);
                      });
              }));
    }
    /* On matrix units, of 16 bits: values are up to 1. */
    template <u32 warps> void matrix() {
        enum { tile_keys = warps == 8 ? 64 : 32 };
        typedef AttentionTile<warps, tile_keys, dim, vdim> Tile;
        global<const float> from(q.data()), slope(slopes.data()), sink(sinks.data());
        global<const C> ks(k.data()), vs(v.data());
        global<const i32> seq(sequences.data()), pos(positions.data());
        global<float> to(y.data());
        const u32 rows = (u32)of.rows.size();
        check("matrix", host::launch(heads, (rows + Tile::rows - 1) / Tile::rows, 32 * warps, Tile::bytes, 1, [&] {
                  SHARED_AT_LAUNCH(u8, stage);
                  SHARED(float, part, 32);
                  const u32 head = block_index();
                  const MatrixHead of_head = {heads, kv_heads, head, window, of.scores.scale, of.scores.softcap, of.slopes ? (float)slope[head] : 0.0f};
                  attention_matrix<C, warps, tile_keys, dim, vdim>(
                      of_head, from, ks, vs, seq, pos, rows, of.context, of.sinks ? (float)sink[head] : -INFINITY, stage, part,
                      [&](u32 row, u32 i, float a, float b) { store_pair(to + ((row * heads + head) * vdim + i), a, b); });
              }), 1.5e-3);
    }
    void rounds() {
        global<const float> from(q.data()), slope(slopes.data()), sink(sinks.data());
        global<const C> ks(k.data()), vs(v.data());
        global<const i32> seq(sequences.data()), pos(positions.data());
        global<float> to(y.data());
        const u32 rows = (u32)of.rows.size();
        check("rounded", host::launch(heads, rows, 128, 0, 1, [&] {
                  SHARED(float, part, 64);
                  SHARED(float, weights, 128);
                  const u32 row = block_row(), head = block_index(), position = (u32)pos[row];
                  const u64 kept = (u64)(u32)seq[row] * kv_heads + head / group;
                  attention_rounded<C, dim, vdim>(from + (row * heads + head) * dim, ks + kept * Cache<C, dim>::stride(of.context),
                                                  vs + kept * Cache<C, vdim>::stride(of.context), of.context, key_span(position, window, 0, 1).first, position, of.scores,
                                                  of.slopes ? (float)slope[head] : 0.0f, of.rounding[0], of.rounding[1], of.sinks,
                                                  of.sinks ? (float)sink[head] : 0.0f, part, weights,
                                                  [&](u32 i, float sum) { to[(row * heads + head) * vdim + i] = sum; });
              }));
    }
};

template <class C, u32 heads, u32 group, u32 dim, u32 vdim, u32 window, u32 many> static void all(const Case &c) {
    Attention<C, heads, group, dim, vdim, window> a(c);
    if (c.rounding[0].step > 0 || c.rounding[1].step > 0) return a.rounds();
    a.template spans<many>(1);
    a.template spans<many>(3);
    a.tiles();
    a.rounds();
    if (heads <= 2 && c.context <= 160) a.template matrix<dim <= 128 && vdim <= 128 ? 8 : 4>(); /* slow under sanitizers */
}

int main() {
    const Rounding off = {0, 0, 0};
    std::vector<Row> prompt, later, ragged;
    for (i32 i = 0; i < 70; i++) prompt.push_back({1, i});
    for (i32 i = 0; i < 20; i++) later.push_back({0, 130 + i});
    for (i32 i = 0; i < 30; i++) ragged.push_back({i % 7 == 0 ? 2 : i / 20, 3 + i});
    const Case one = {"a first row", 8, {{0, 0}}, {0.25f, 0}, false, false, {off, off}};
    const Case plain = {"a prompt", 80, prompt, {0.125f, 0}, false, false, {off, off}};
    const Case capped = {"later rows, soft cap and sinks", 160, later, {0.2f, 5.0f}, false, true, {off, off}};
    const Case sloped = {"rows of three sequences, slopes", 64, ragged, {0.1f, 0}, true, false, {off, off}};
    const Case odd = {"a prompt, a context of 71", 71, prompt, {0.125f, 0}, false, false, {off, off}};
    const Case far = {"a long context", 700, {{2, 699}, {0, 513}}, {0.1f, 0}, false, false, {off, off}};
    const Case grid = {"rounded scores and weights", 64, ragged, {0.1f, 0}, false, false, {{0.03f, -128, 127}, {1.0f / 255, 0, 255}}};
    for (const Case *c : {&one, &plain, &capped, &sloped, &far}) {
        all<float, 2, 1, 16, 16, 0, 1>(*c);
        all<float, 4, 4, 64, 64, 0, 4>(*c);
    }
    all<half, 4, 2, 64, 64, 0, 2>(plain);
    all<half, 2, 2, 128, 128, 0, 2>(sloped);
    all<float, 2, 1, 80, 80, 0, 1>(capped);
    all<float, 1, 1, 96, 64, 0, 1>(plain);
    all<float, 1, 1, 256, 256, 0, 1>(sloped);
    all<float, 2, 1, 24, 40, 0, 1>(capped);
    all<float, 2, 1, 64, 64, 20, 1>(plain);
    all<half, 2, 2, 64, 64, 33, 2>(capped);
    all<float, 2, 1, 16, 16, 100, 1>(far);
    all<float, 2, 1, 16, 16, 0, 1>(grid);
    all<Int8, 4, 2, 64, 64, 0, 2>(odd);
    all<Int8, 2, 2, 128, 128, 0, 2>(sloped);
    all<Int8, 2, 1, 80, 80, 0, 1>(capped);
    all<Int8, 1, 1, 96, 64, 0, 1>(odd);
    all<Int8, 1, 1, 256, 256, 0, 1>(sloped);
    all<Int8, 2, 1, 24, 40, 33, 1>(capped);
    all<Int8, 2, 1, 16, 16, 100, 1>(far);
    all<Int8, 2, 1, 16, 16, 0, 1>(grid);
    printf("%d runs, %d wrong\n", checks, failures);
    return failures != 0;
}
