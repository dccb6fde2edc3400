/* gemm.cu: products of many rows on matrix units, sums in float.
 *
 * x is rounded to 16 bits first (round_row), once for all products that read it, and laid out as the matrix units want
 * it: tiles of 128 rows x 64 of k, rounded[row / 128][k / 64][row % 128][64], pieces of 16 bytes swizzled. A tile is
 * 16 KB that follow each other: one bulk copy. For half each row is scaled by a power of two, so that its largest lies below
 * 2^15: nothing overflows, and the product is scaled back.
 *
 * Weights come from the file's order as they are: 16 bytes of a panel are 8 outputs of one k, which is a piece of an atom
 * "by n" (prelude_cuda_matrix.h), so each goes to its place by a copy of 16 bytes; codes are decoded on the way.
 *
 * Expected of a tile: 2 * rows * outputs * k operations; (rows + outputs) * k * 2 bytes from L2. */

enum { DEPTH = 64 }; /* k at a time */

/* Where 16 bytes of x lie: row, values 8 c.. of k; in values of T. */
template <u32 k> DEVICE u64 rounded_at(u32 row, u32 c) {
    enum { steps = (k + DEPTH - 1) / DEPTH };
    return ((u64)(row / 128) * steps + c / 8) * (128 * DEPTH) + swizzled(row % 128 * 128 + c % 8 * 16) / 2;
}
/* Behind the tiles: what to multiply a row of the product by. */
template <class T, u32 k> DEVICE global<float> rounded_scales(global<T> rounded, u32 rows) {
    return (global<float>)(rounded + rounded_at<k>((rows + 127) / 128 * 128, 0));
}

DEVICE constexpr bool is_half(half) { return true; }
DEVICE constexpr bool is_half(bf16) { return false; }

/* A power of two that brings v below 2^15, and above 2^14 unless v is tiny. */
DEVICE float scale_for(float v) {
    const u32 exponent = bits_of_float(v) >> 23 & 255;
    return exponent == 255 || exponent < 28 ? 1.0f : float_of_bits((268 - exponent) << 23);
}

/* One row of x; a block. part: a float a warp. */
template <class T, u32 k> DEVICE void round_row(global<const float> x, u32 row, u32 rows, global<T> rounded, shared<float> part) {
    enum { pieces = (k + DEPTH - 1) / DEPTH * 8 };
    global<const float> from = x + (u64)row * k;
    float scale = 1;
    if constexpr (is_half(T())) {
        float largest = 0;
        for (u32 i = thread_index(); i < k; i += thread_count()) largest = fmaxf(largest, fabsf(from[i]));
        scale = scale_for(block_max(largest, part));
    }
    for (u32 c = thread_index(); c < pieces; c += thread_count()) {
        float v[8];
        Quad q;
        UNROLL for (u32 i = 0; i < 8; i++) v[i] = c * 8 + i < k ? from[c * 8 + i] * scale : 0.0f;
        UNROLL for (u32 i = 0; i < 4; i++) q.word[i] = pair_of(v[2 * i], v[2 * i + 1], T());
        store_quad(rounded + rounded_at<k>(row, c), q);
    }
    if (thread_index() == 0) rounded_scales<T, k>(rounded, rows)[row] = 1 / scale;
}

/* ---- weights into shared memory ----
 * Piece j of outputs, k `at` of the step: lines of `width` outputs (64, or all when fewer), further outputs DEPTH lines on. */
template <u32 outputs> DEVICE u32 weight_at(u32 at, u32 j) {
    enum { line = outputs < 64 ? outputs / 8 : 8, turn = 8 / line }; /* pieces a line; lines in 128 bytes */
    return (j / line * DEPTH + at) * line * 16 + ((j % line ^ at / turn % line) * 16);
}

/* Panels are copied as they are: each thread begins its copies and waits for them later. Of 8 threads, 4 lines at a
 * distance of two: their pieces lie in different banks. */
template <u32 k, u32 n, u32 outputs, u32 threads, class T>
DEVICE void weights_begin(Panels<T>, global<const T> w, u32 tile, u32 k0, u32 thread, shared<u8> to, T) {
    enum { panels = (n + 15) / 16, in_panel = 2 * DEPTH };
    UNROLL for (u32 i = 0; i < outputs * DEPTH / 8 / threads; i++) {
        const u32 piece = i * threads + thread, p = piece % in_panel, panel = tile * (outputs / 16) + piece / in_panel;
        const u32 at = p / 16 * 8 + p / 8 % 2 + p / 2 % 4 * 2;
        const shared<u8> place = to + weight_at<outputs>(at, piece / in_panel * 2 + p % 2);
        if (panel < panels && k0 + at < k)
            copy_async(place, w + ((u64)panel * k + k0 + at) * 16 + p % 2 * 8);
        else
            store_quad(place, Quad{});
    }
}

/* Steps that may pass before what weights_begin began is waited for. */
template <class T> DEVICE constexpr u32 weights_late(Panels<T>) { return 2; }

/* ---- on matrix units of a warp (mma.sync): every chip ----
 * A block of 256 threads takes high x outputs of the product; its 8 warps share them out as (8 / across) x across. A ring
 * of `stages` pairs of tiles in shared memory; copies run stages - 1 steps ahead. */
template <u32 high, u32 outputs, u32 stages> struct WarpTiles {
    enum { x_bytes = high * DEPTH * 2, w_bytes = outputs * DEPTH * 2, stage_bytes = x_bytes + w_bytes, bytes = stages * stage_bytes };
};

template <class T, class W, u32 k, u32 n, u32 high, u32 outputs, u32 across, u32 stages, class Out>
DEVICE void gemm_warps(global<const typename W::Element> w, global<const T> x, u32 rows, shared<u8> ring, Out out) {
    typedef WarpTiles<high, outputs, stages> Tiles;
    enum { steps = (k + DEPTH - 1) / DEPTH, threads = 256, down = 8 / across, mine_high = high / down / 16, mine_wide = outputs / across / 8 };
    const u32 tile_row = block_row() * high, me = thread_index();
    const u32 warp_row = warp() / across * mine_high * 16, warp_column = warp() % across * mine_wide * 8;
    float sum[mine_high][mine_wide][4] = {};
    auto begin = [&](u32 step) {
        const shared<u8> to = ring + step % stages * Tiles::stage_bytes;
        if (step < steps) {
            global<const T> from = x + ((u64)(tile_row / 128) * steps + step) * (128 * DEPTH) + tile_row % 128 * DEPTH;
            UNROLL for (u32 i = 0; i < high * 8 / threads; i++) copy_async(to + (i * threads + me) * 16, from + (i * threads + me) * 8);
            weights_begin<k, n, outputs, threads>(W(), w, block_index(), step * DEPTH, me, to + Tiles::x_bytes, T());
        }
        copy_commit();
    };
    grid_wait();
    UNROLL for (u32 s = 0; s + 1 < stages; s++) begin(s);
    ROLLED for (u32 step = 0; step < steps; step++) {
        copy_wait<stages - 2>();
        barrier();
        begin(step + stages - 1);
        const shared<u8> xs = ring + step % stages * Tiles::stage_bytes, ws = xs + Tiles::x_bytes;
        UNROLL for (u32 k0 = 0; k0 < DEPTH; k0 += 16) {
            u32 a[mine_high][4], b[(mine_wide + 1) / 2][4];
            UNROLL for (u32 i = 0; i < mine_high; i++) {
                const u32 row = warp_row + i * 16 + lane() % 16;
                fragment_load(a[i], xs + swizzled(row * 128 + (k0 / 8 + lane() / 16) * 16));
            }
            UNROLL for (u32 j = 0; j < mine_wide; j += 2)
                fragment_load_turned(b[j / 2], ws + weight_at<outputs>(k0 + lane() % 16, warp_column / 8 + j + lane() / 16));
            UNROLL for (u32 i = 0; i < mine_high; i++)
                UNROLL for (u32 j = 0; j < mine_wide; j++) {
                    const u32 right[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
                    fragment_multiply(sum[i][j], a[i], right, T());
                }
        }
    }
    copy_wait<0>();
    UNROLL for (u32 i = 0; i < mine_high; i++)
        UNROLL for (u32 h = 0; h < 2; h++) {
            const u32 row = tile_row + warp_row + i * 16 + h * 8 + lane() / 4;
            if (row >= rows) continue;
            const float scale = rounded_scales<const T, k>(x, rows)[row];
            UNROLL for (u32 j = 0; j < mine_wide; j++) {
                const u32 output = block_index() * outputs + warp_column + j * 8 + lane() % 4 * 2;
                if (output < n) out(row, output, sum[i][j][2 * h] * scale, sum[i][j][2 * h + 1] * scale);
            }
        }
}

/* ---- on matrix units of four warps (wgmma): sm_90a ----
 * Three groups of four warps. The first brings tiles into a ring: x by bulk copies, weights piece by piece. The others
 * take 64 rows each of 128 x outputs. Blocks stay and take tile after tile, so that the next one's copies run while the
 * sums of the last are stored; tiles of the same weights follow each other, so weights are read from memory once. */
template <u32 outputs, u32 stages> struct GroupTiles {
    enum { x_bytes = 128 * DEPTH * 2, w_bytes = outputs * DEPTH * 2, stage_bytes = x_bytes + w_bytes, barriers_at = stages * stage_bytes, bytes = barriers_at + stages * 16 };
};

template <class T, class W, u32 k, u32 n, u32 outputs, u32 stages>
DEVICE void gemm_bring(global<const typename W::Element> w, global<const T> x, u32 high, shared<u8> ring) {
    typedef GroupTiles<outputs, stages> Tiles;
    enum { steps = (k + DEPTH - 1) / DEPTH, wide = (n + outputs - 1) / outputs, late = weights_late(W()) };
    const shared<u64> full = (shared<u64>)(ring + Tiles::barriers_at), empty = full + stages;
    u32 turn = 0; /* steps so far, over all tiles */
    for (u32 tile = block_index(); tile < high * wide; tile += block_count())
        ROLLED for (u32 step = 0; step < steps; step++, turn++) {
            const u32 slot = turn % stages;
            const shared<u8> to = ring + slot * Tiles::stage_bytes;
            mbarrier_wait(empty + slot, turn / stages % 2 ^ 1);
            if (thread_index() == 0) {
                mbarrier_arrive_expect(full + slot, Tiles::x_bytes);
                bulk_copy(to, x + ((u64)(tile % high) * steps + step) * (128 * DEPTH), Tiles::x_bytes, full + slot);
            }
            weights_begin<k, n, outputs, 128>(W(), w, tile / high, step * DEPTH, thread_index(), to + Tiles::x_bytes, T());
            copy_commit();
            copy_wait<late>();
            proxy_fence();
            if (turn + 1 > late) mbarrier_arrive(full + (turn - late) % stages);
        }
    copy_wait<0>();
    proxy_fence();
    for (u32 i = turn > late ? turn - late : 0; i < turn; i++) mbarrier_arrive(full + i % stages);
}

template <class T, u32 k, u32 n, u32 outputs, u32 stages, class Out>
DEVICE void gemm_multiply(global<const float> scales, u32 rows, u32 high, shared<u8> ring, Out out) {
    typedef GroupTiles<outputs, stages> Tiles;
    enum { steps = (k + DEPTH - 1) / DEPTH, wide = (n + outputs - 1) / outputs };
    const shared<u64> full = (shared<u64>)(ring + Tiles::barriers_at), empty = full + stages;
    const u32 group = warp() / 4 - 1;
    u32 turn = 0;
    for (u32 tile = block_index(); tile < high * wide; tile += block_count()) {
        Sums<outputs / 2> sum;
        ROLLED for (u32 step = 0; step < steps; step++, turn++) {
            const u32 slot = turn % stages;
            const shared<u8> xs = ring + slot * Tiles::stage_bytes, ws = xs + Tiles::x_bytes;
            mbarrier_wait(full + slot, turn / stages % 2);
            matrix_fence();
            UNROLL for (u32 i = 0; i < DEPTH / 16; i++)
                matrix_multiply(sum, tile_by_k(xs + group * (64 * DEPTH * 2), i), tile_by_n(ws, DEPTH * 128, i), step + i > 0, T());
            matrix_commit();
            matrix_wait<1>();
            if (step > 0 && lane() == 0) mbarrier_arrive(empty + (turn - 1) % stages);
        }
        matrix_wait<0>();
        if (lane() == 0) mbarrier_arrive(empty + (turn - 1) % stages);
        UNROLL for (u32 h = 0; h < 2; h++) {
            const u32 row = tile % high * 128 + group * 64 + warp() % 4 * 16 + h * 8 + lane() / 4;
            if (row >= rows) continue;
            const float scale = scales[row];
            UNROLL for (u32 j = 0; j < outputs / 8; j++) {
                const u32 output = tile / high * outputs + j * 8 + lane() % 4 * 2;
                if (output < n) out(row, output, sum[4 * j + 2 * h] * scale, sum[4 * j + 2 * h + 1] * scale);
            }
        }
    }
}

template <class T, class W, u32 k, u32 n, u32 outputs, u32 stages, class Out>
DEVICE void gemm_groups(global<const typename W::Element> w, global<const T> x, u32 rows, shared<u8> ring, Out out) {
    typedef GroupTiles<outputs, stages> Tiles;
    const shared<u64> full = (shared<u64>)(ring + Tiles::barriers_at), empty = full + stages;
    const u32 high = (rows + 127) / 128;
    if (thread_index() == 0) {
        for (u32 i = 0; i < stages; i++) mbarrier_init(full + i, 129), mbarrier_init(empty + i, 8);
        mbarrier_publish();
    }
    barrier();
    grid_wait();
    if (warp() < 4) {
        registers_lower<64>();
        gemm_bring<T, W, k, n, outputs, stages>(w, x, high, ring);
    } else {
        registers_raise<224>();
        gemm_multiply<T, k, n, outputs, stages>(rounded_scales<const T, k>(x, rows), rows, high, ring, out);
    }
}
