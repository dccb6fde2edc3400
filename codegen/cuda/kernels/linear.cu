/* linear.cu: products with constant weights, y = x w, for few rows (decode) and for many (prefill).
 *
 * Weights lie in panels of 16 outputs, [outputs / 16][k][16] (ART_PANEL16), the order that the CPU reads too:
 * one file serves both. 16 bytes of it are 8 outputs (4 of float) of one k, so a lane needs one value of x for
 * 8 products, and a warp reads 512 bytes in a row.
 *
 * The caller gives `in(row, k)`, the operand with what stands before it (a norm), and `out(row, n, sum)`, with
 * bias, activation, gate and residual. Sums in float. */

/* ---- few rows: bound by reading w once ----
 * Some warps of a block share out k of one panel, and leave its sums in part, [warp][row][16]; panel_sum adds them up after a
 * barrier. A block has one panel, or two whose outputs belong together (a gated pair, the halves of a rotary head).
 * begin() is called once by every thread, when its first weights are on their way: it waits for the kernels before, and does
 * what x needs (the centres of a norm).
 *
 * Expected: k * 16 * sizeof(T) bytes and rows * k * 32 operations a panel; at_once of 16-byte loads in flight a thread. */
template <u32 k, u32 rows, class T, class Begin, class In>
DEVICE void panel_sums(Panels<T>, global<const T> w, u32 panel, u32 nth, u32 warps, shared<float> part, Begin begin, In in) {
    enum { wide = Pack<T>::count, slices = 16 / wide, at_once = rows == 1 ? 16 : 8, quads = k * slices };
    const u32 slice = lane() % slices, threads = warps * 32;
    global<const T> from = w + (u64)panel * k * 16;
    float sum[rows][wide] = {};
    bool begun = false;
    for (u32 first = nth * 32 + lane(); first < quads || !begun; first += threads * at_once) {
        Quad q[at_once];
        UNROLL for (u32 i = 0; i < at_once; i++)
            if (first + i * threads < quads) q[i] = load_weights(from + (first + i * threads) * wide);
        if (!begun) begin();
        begun = true;
        UNROLL for (u32 i = 0; i < at_once; i++) {
            const u32 at = (first + i * threads) / slices;
            if (at >= k) continue;
            UNROLL for (u32 r = 0; r < rows; r++) {
                const float x = in(r, at);
                UNROLL for (u32 j = 0; j < wide; j++) sum[r][j] += x * Pack<T>::get(q[i], j);
            }
        }
    }
    /* Lanes with the same slice hold sums of the same outputs. */
    UNROLL for (u32 r = 0; r < rows; r++)
        UNROLL for (u32 j = 0; j < wide; j++) {
            float v = sum[r][j];
            UNROLL for (u32 m = 16; m >= slices; m /= 2) v += lane_xor(v, m);
            if (lane() < slices) part[(nth * rows + r) * 16 + slice * wide + j] = v;
        }
}

/* Sum of output `at % 16` of row `at / 16` over `warps` warps. */
template <u32 rows> DEVICE float panel_sum(shared<float> part, u32 warps, u32 at) {
    float v = 0;
    for (u32 i = 0; i < warps; i++) v += part[i * rows * 16 + at];
    return v;
}

/* Two panels a block, by side 0 and 1, that hold the halves of what is rotated of a head; the rest in order. */
template <u32 dim, u32 rotated> DEVICE u32 rope_panel(u32 block, u32 side) {
    const u32 head = block / (dim / 32), j = block % (dim / 32), pairs = rotated / 32;
    return head * (dim / 16) + (j < pairs ? j + side * pairs : rotated / 16 + (j - pairs) * 2 + side);
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
