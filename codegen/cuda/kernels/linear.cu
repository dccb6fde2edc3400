/* linear.cu: products with constant weights, y = x w, for few rows (decode) and for many (prefill).
 *
 * Weights lie in panels of 16 outputs, [outputs / 16][k][16] (ART_PANEL16), the order that the CPU reads too:
 * one file serves both. 16 bytes of it are 8 outputs (4 of float) of one k, so a lane needs one value of x for
 * 8 products, and a warp reads 512 bytes in a row.
 *
 * The caller gives `in(row, k)`, the operand with what stands before it (a norm), and `out(row, n, sum)`, with
 * bias, activation, gate and residual. Sums in float. */

/* The sums of a panel that each warp left in part, [warp][row][16], to one. */
template <u32 n, u32 rows, class Out> DEVICE void warps_join(shared<float> part, u32 panel, Out out) {
    barrier();
    for (u32 i = thread_index(); i < rows * 16; i += thread_count()) {
        const u32 output = panel * 16 + i % 16;
        float v = 0;
        for (u32 a = 0; a < thread_count() / 32; a++) v += part[a * rows * 16 + i];
        if (output < n) out(i / 16, output, v);
    }
}

/* ---- few rows: bound by reading w once. One block a panel; its warps share out k. ----
 * Expected: k * 16 * sizeof(T) bytes and rows * k * 32 operations a block. A thread's weights are loaded
 * before grid_wait, since no kernel writes them; at_once of 16-byte loads are in flight (64 registers). */
template <class T, u32 k, u32 n, u32 rows, class In, class Out>
DEVICE void linear_few(global<const T> w, shared<float> part, In in, Out out) {
    enum { wide = Pack<T>::count, slices = 16 / wide, at_once = 16 };
    const u32 panel = block_index(), threads = thread_count(), quads = k * slices;
    const u32 slice = thread_index() % slices;
    global<const T> from = w + (u64)panel * k * 16;
    float sum[rows][wide] = {};
    bool waited = false;
    for (u32 first = thread_index(); first < quads || !waited; first += threads * at_once) {
        Quad q[at_once];
        UNROLL for (u32 i = 0; i < at_once; i++)
            if (first + i * threads < quads) q[i] = load_weights(from + (first + i * threads) * wide);
        if (!waited) grid_wait();
        waited = true;
        UNROLL for (u32 i = 0; i < at_once; i++) {
            u32 at = (first + i * threads) / slices;
            if (at >= k) continue;
            UNROLL for (u32 r = 0; r < rows; r++) {
                float x = in(r, at);
                UNROLL for (u32 j = 0; j < wide; j++) sum[r][j] += x * Pack<T>::get(q[i], j);
            }
        }
    }
    /* Lanes with the same slice hold sums of the same outputs. */
    UNROLL for (u32 r = 0; r < rows; r++)
        UNROLL for (u32 j = 0; j < wide; j++) {
            float v = sum[r][j];
            UNROLL for (u32 m = 16; m >= slices; m /= 2) v += lane_xor(v, m);
            if (lane() < slices) part[(warp() * rows + r) * 16 + slice * wide + j] = v;
        }
    warps_join<n, rows>(part, panel, out);
}

/* ---- many rows: a tile of 64 rows x 64 outputs a block of 256 threads, 4 x 4 sums a thread ----
 * Both operands pass through shared memory, 16 of k at a time, as floats. Plain arithmetic in float. */
template <class W, u32 k, u32 n, class In, class Out>
DEVICE void linear_many(global<const typename W::Element> w, u32 rows, shared<float> xs, shared<float> ws, In in, Out out) {
    enum { tile = 64, depth = 16 };
    const u32 first_row = block_row() * tile;
    const u32 tx = thread_index() % 16, ty = thread_index() / 16;
    float sum[4][4] = {};
    grid_wait();
    for (u32 k0 = 0; k0 < k; k0 += depth) {
        for (u32 i = thread_index(); i < tile * depth; i += 256) {
            u32 row = first_row + i / depth, at = k0 + i % depth;
            xs[i % depth * tile + i / depth] = row < rows && at < k ? in(row, at) : 0.0f;
        }
        W::template stage<k, n>(w, block_index(), k0, ws);
        barrier();
        UNROLL for (u32 at = 0; at < depth; at++) {
            float x[4], y[4];
            UNROLL for (u32 i = 0; i < 4; i++) x[i] = xs[at * tile + ty * 4 + i];
            UNROLL for (u32 i = 0; i < 4; i++) y[i] = ws[at * tile + tx * 4 + i];
            UNROLL for (u32 i = 0; i < 4; i++)
                UNROLL for (u32 j = 0; j < 4; j++) sum[i][j] += x[i] * y[j];
        }
        barrier();
    }
    UNROLL for (u32 i = 0; i < 4; i++)
        UNROLL for (u32 j = 0; j < 4; j++) {
            u32 row = first_row + ty * 4 + i, output = block_index() * tile + tx * 4 + j;
            if (row < rows && output < n) out(row, output, sum[i][j]);
        }
}
