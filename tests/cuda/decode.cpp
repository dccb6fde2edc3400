/* decode.cpp: attention of the persistent kernel: old keys and values through the ring, those that the launch itself wrote from the
 * cache, the position's own from the block; heads and spans shared out to several blocks. Caches in float and 8 bits, head
 * sizes, groups, windows, against plain loops. */
#include "codegen/cuda/kernels/prelude_host.h"

#include "codegen/cuda/kernels/common.cu"
#include "codegen/cuda/kernels/weights.cu"
#include "tests/cuda/cache.h"
#include "codegen/cuda/kernels/attention.cu"
#include "codegen/cuda/kernels/words.cu"
#include "runtime/sample_math.h"
#include "codegen/cuda/kernels/sample.cu"
#include "codegen/cuda/kernels/draw.cu"
#include "codegen/cuda/kernels/ring.cu"
#include "codegen/cuda/kernels/decode.cu"

static int failures;
enum { STAGES = 3, MOST_WORDS = 1 << 16, EPOCH = 1 };
static u64 partial[MOST_WORDS], out[MOST_WORDS];

template <class C, u32 kv_heads, u32 group, u32 heads, u32 dim, u32 vdim> struct Decode {
    enum {
        all = kv_heads * group,
        parts = group / heads,
        join = heads * vdim + 64 * (1 + 2 * heads),
        spans = RING_WARPS * heads * (vdim + 2),
        key_at = all * dim,
        value_at = key_at + kv_heads * dim,
        part_at = value_at + kv_heads * vdim,
        floats = (part_at + (join > spans ? (u32)join : (u32)spans) + 3) / 4 * 4,
        barriers_at = floats * 4,
        ring_at = (barriers_at + (2 * MOST_STAGES + 1) * 8 + 127) / 128 * 128
    };
    std::vector<float> mine, keys_kept, values_kept; /* q, then the position's own key and value */
    std::vector<C> keys, values;

    float own(u32 at, u32 h, u32 width, u32 i) const {
        std::vector<float> x(mine.begin() + at + h * width, mine.begin() + at + (h + 1) * width);
        keep<C>(x.data(), width);
        return x[i];
    }
    double score(u32 h, u32 key, u32 position, u32 context) const {
        double s = 0;
        for (u32 d = 0; d < dim; d++) {
            const u32 kv = h / group;
            s += mine[h * dim + d] * (double)(key == position ? own(key_at, kv, dim, d) : keys_kept[((size_t)kv * context + key) * dim + d]);
        }
        return s * 0.125;
    }
    double want(u32 h, u32 e, u32 position, u32 context, u32 first) const {
        double total = 0, sum = 0;
        for (u32 key = first; key <= position; key++) {
            const double weight = std::exp(score(h, key, position, context));
            total += weight;
            sum += weight * (key == position ? own(value_at, h / group, vdim, e) : values_kept[((size_t)(h / group) * context + key) * vdim + e]);
        }
        return sum / total;
    }

    void run(u32 blocks, u32 context, u32 old, u32 position, u32 window) {
        mine.resize(part_at);
        for (float &x : mine) x = random_unit();
        fill<C, dim>(kv_heads, context, keys, keys_kept);
        fill<C, vdim>(kv_heads, context, values, values_kept);
        for (u64 &w : partial) w = 0;
        for (u64 &w : out) w = 0;
        host::region_clear();
        host::region_add(mine.data(), mine.size() * 4, "mine");
        host::region_add(keys.data(), keys.size() * sizeof(C), "keys");
        host::region_add(values.data(), values.size() * sizeof(C), "values");
        host::region_add(partial, sizeof partial, "partial");
        host::region_add(out, sizeof out, "out");
        const global<const float> from(mine.data());
        const global<const C> ks(keys.data()), vs(values.data());
        const global<u64> spans_to(partial), to(out);
        const std::string fault = host::launch(blocks, 1, RING_THREADS + 32, ring_at + STAGES * STAGE_BYTES, blocks, [&] {
            SHARED_AT_LAUNCH(u8, memory);
            const shared<float> local = (shared<float>)memory;
            Ring ring = ring_begin((shared<u64>)(memory + barriers_at), memory + ring_at, STAGES);
            for (u32 i = thread_index(); i < part_at; i += thread_count()) local[i] = from[i];
            barrier();
            const Keys k = keys_of(position, old, window, kv_heads * parts);
            u32 turn = 1;
            if (warp() == RING_WARPS) {
                if (lane() == 0) bring_keys<C, kv_heads, parts, dim, vdim>(ring, turn, k, ks, vs, context);
                return;
            }
            const Attend a = {local, local + key_at, local + value_at, local + part_at, {0.125f, 0}, nullptr, nullptr, spans_to, to, EPOCH, EPOCH};
            attend<C, kv_heads, parts, heads, dim, vdim>(ring, turn, k, a, ks, vs, context);
        });
        double worst = 0;
        const u32 first = window && position + 1 > window ? position + 1 - window : 0;
        for (u32 i = 0; i < all * vdim; i += 1 + i % 5) {
            const double error = std::fabs(float_of_bits((u32)out[i]) - want(i / vdim, i % vdim, position, context, first));
            worst = error > worst || error != error ? error : worst;
        }
        if (fault.empty() && worst < 3e-6) return;
        failures++;
        printf("FAIL: %u heads of %u on %u, %u bytes a number, %u blocks, position %u of %u: off by %g %s\n", (u32)all, dim, kv_heads,
               (u32)sizeof(C), blocks, position, context, worst, fault.c_str());
    }
};

int main() {
    Decode<float, 2, 2, 2, 64, 64>().run(3, 151, 140, 142, 0);
    Decode<Int8, 2, 2, 2, 64, 64>().run(3, 151, 140, 142, 0); /* fresh ones */
    Decode<Int8, 1, 2, 1, 128, 128>().run(5, 200, 199, 199, 0); /* more than a tile; spans from odd positions */
    Decode<Int8, 2, 1, 1, 16, 48>().run(2, 77, 70, 76, 37);     /* a window; the first one is no multiple of 8 */
    Decode<Int8, 1, 4, 4, 256, 64>().run(2, 131, 130, 130, 0);
    Decode<Int8, 1, 1, 1, 80, 80>().run(7, 301, 299, 300, 0);
    Decode<Int8, 3, 1, 1, 32, 32>().run(2, 9, 0, 0, 0); /* nothing is old */
    return failures != 0;
}
