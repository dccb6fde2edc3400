/* attention_tile.cu: attention when many rows of a sequence come at once (prefill): a block takes 64 rows of one query head
 * and their keys 64 at a time, with an online softmax as in FlashAttention (Dao et al. 2022); keys that no row of the block
 * may see are never read. Plain arithmetic in float, 4 x 4 scores a thread of 256.
 * Expected of a block: (context / 64) * 64 * (dim + vdim) elements of the cache, 2 * 64 * context * (dim + vdim) operations. */

/* Rows of several sequences may share a block: each sequence has its turn, with the others' rows masked. positions,
 * sequences: of the rows. Gives out(row, element, largest, total, sum). */
template <class C, u32 heads, u32 group, u32 dim, u32 vdim, u32 window, class Out>
DEVICE void attention_tile(global<const float> q, global<const C> k, global<const C> v, global<const i32> sequences,
                           global<const i32> positions, u32 rows, u32 context, const Scores &scores, float slope, Out out) {
    enum { depth = 16, columns = (vdim + 15) / 16, wide = columns * 16, nobody = 0xffffffff };
    SHARED(float, qs, depth * 64);
    SHARED(float, ks, depth * 64);
    SHARED(float, weights, 64 * 65);
    SHARED(float, vs, depth * wide);
    SHARED(u32, sequence, 64);
    SHARED(u32, place, 64);
    const u32 first_row = block_row() * 64, head = block_index(), tx = thread_index() % 16, ty = thread_index() / 16;
    grid_wait();
    if (thread_index() < 64) {
        const u32 row = first_row + thread_index();
        sequence[thread_index()] = row < rows ? (u32)sequences[row] : (u32)nobody;
        place[thread_index()] = row < rows ? (u32)positions[row] : 0;
    }
    float largest[4], total[4], sum[4][columns];
    UNROLL for (u32 i = 0; i < 4; i++) {
        largest[i] = -INFINITY, total[i] = 0;
        UNROLL for (u32 c = 0; c < columns; c++) sum[i][c] = 0;
    }
    barrier();
    for (u32 a = 0; a < 64; a++) {
        const u32 own = sequence[a];
        bool seen = own == (u32)nobody;
        for (u32 b = 0; b < a && !seen; b++) seen = sequence[b] == own;
        if (seen) continue;
        u32 begin = context, end = 0;
        for (u32 b = a; b < 64; b++)
            if (sequence[b] == own) {
                const u32 last = place[b] + 1, from = window && last > window ? last - window : 0;
                begin = from < begin ? from : begin, end = last > end ? last : end;
            }
        const u64 kept = (u64)own * (heads / group) + head / group;
        const global<const C> keys = k + kept * Cache<C, dim>::stride(context), values = v + kept * Cache<C, vdim>::stride(context);
        for (u32 base = begin; base < end; base += 64) {
            float s[4][4] = {};
            for (u32 d0 = 0; d0 < dim; d0 += depth) {
                barrier();
                for (u32 i = thread_index(); i < depth * 64; i += 256) {
                    const u32 d = d0 + i % depth, at = i % depth * 64 + i / depth, row = first_row + i / depth, key = base + i / depth;
                    qs[at] = d < dim && row < rows ? q[((u64)row * heads + head) * dim + d] * scores.scale : 0.0f;
                    ks[at] = d < dim && key < end ? to_float(keys[(u64)key * dim + d]) * Cache<C, dim>::step(keys, context, key) : 0.0f;
                }
                barrier();
                UNROLL for (u32 d = 0; d < depth; d++) {
                    float x[4], y[4];
                    UNROLL for (u32 i = 0; i < 4; i++) x[i] = qs[d * 64 + ty * 4 + i];
                    UNROLL for (u32 i = 0; i < 4; i++) y[i] = ks[d * 64 + tx * 4 + i];
                    UNROLL for (u32 i = 0; i < 4; i++)
                        UNROLL for (u32 j = 0; j < 4; j++) s[i][j] += x[i] * y[j];
                }
            }
            UNROLL for (u32 i = 0; i < 4; i++) {
                const u32 r = ty * 4 + i, last = place[r];
                const bool mine = sequence[r] == own;
                float top = largest[i], all = 0;
                UNROLL for (u32 j = 0; j < 4; j++) {
                    const u32 key = base + tx * 4 + j;
                    const bool allowed = mine && key <= last && (!window || key + window > last);
                    float score = s[i][j];
                    if (scores.softcap > 0) score = scores.softcap * tanhf(score / scores.softcap);
                    score -= slope * (float)(i32)(last - key);
                    s[i][j] = allowed ? score : -INFINITY;
                    top = fmaxf(top, s[i][j]);
                }
                UNROLL for (u32 m = 8; m; m /= 2) top = fmaxf(top, lane_xor(top, m));
                const float keep = top == -INFINITY ? 1.0f : expf(largest[i] - top);
                UNROLL for (u32 j = 0; j < 4; j++) {
                    const float weight = top == -INFINITY ? 0.0f : expf(s[i][j] - top);
                    weights[r * 65 + tx * 4 + j] = weight;
                    all += weight;
                }
                UNROLL for (u32 m = 8; m; m /= 2) all += lane_xor(all, m);
                largest[i] = top;
                total[i] = total[i] * keep + all;
                UNROLL for (u32 c = 0; c < columns; c++) sum[i][c] *= keep;
            }
            for (u32 k0 = 0; k0 < 64; k0 += depth) {
                barrier();
                for (u32 i = thread_index(); i < depth * wide; i += 256) {
                    const u32 key = base + k0 + i / wide, e = i % wide;
                    vs[i] = e < vdim && key < end ? to_float(values[(u64)key * vdim + e]) * Cache<C, vdim>::step(values, context, key) : 0.0f;
                }
                barrier();
                ROLLED for (u32 i = 0; i < depth; i++) {
                    float w[4];
                    UNROLL for (u32 r = 0; r < 4; r++) w[r] = weights[(ty * 4 + r) * 65 + k0 + i];
                    UNROLL for (u32 c = 0; c < columns; c++) {
                        const float value = vs[i * wide + c * 16 + tx];
                        UNROLL for (u32 r = 0; r < 4; r++) sum[r][c] += w[r] * value;
                    }
                }
            }
        }
    }
    UNROLL for (u32 i = 0; i < 4; i++)
        UNROLL for (u32 c = 0; c < columns; c++) {
            const u32 row = first_row + ty * 4 + i, e = c * 16 + tx;
            if (row < rows && e < vdim) out(row, e, largest[i], total[i], sum[i][c]);
        }
}
