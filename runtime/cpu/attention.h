/* attention.h: causal attention over the cache, with the softmax taken online in fp32 (Milakov and
 * Gimelshein; tiled as in FlashAttention).
 *
 * Consecutive rows of one sequence, times the heads that share a key head, form a block of queries. An
 * item is a block and a key head. It walks over tiles of 64 keys: scores by the matrix tile (keys lie as
 * panels), mask, running maximum and sum, then the product with the values by the matrix tile. Few rows
 * with many keys are split: an item is then a part of the keys, its sums go to shared scratch, and after a
 * barrier the parts are joined. Where the parts end depends on the lengths alone. */
#ifndef RUNTIME_CPU_ATTENTION_H
#define RUNTIME_CPU_ATTENTION_H

#include "runtime/cpu/attention_rounded.h"
#include "runtime/cpu/rows.h"
#include "runtime/cpu/sizes.h"
#include "runtime/cpu/tile.h"

#define KEYS CPU_TILE_KEYS
#define MAX_QUERIES 48 /* a multiple of every MR */

/* Rows row..row+rows of one sequence, and the keys they see among them. */
typedef struct {
    size_t row, rows;
    size_t first, last; /* first: a multiple of 16 */
    size_t splits, split_keys;
} Block;

typedef struct {
    const CpuAttention *a;
    float *shared;            /* parts: [row][head][split][up16(vdim) sums, maximum, sum of exps, 0..] */
    size_t group, head_parts; /* heads to a key head; a group is cut where it is too large */
    size_t queries;           /* most queries of a block */
    size_t vdim;              /* in whole panels */
    bool few;                 /* rows whose keys may be split */
} Plan;

/* One item's work in local scratch. Query i is row i / heads, head i % heads of the item. */
typedef struct {
    const Plan *p;
    size_t row, rows, head, heads, queries;
    float *q, *scores, *sums, *keys;
    float *largest, *total; /* the softmax's running maximum and sum */
    StateHead k, v;
} Item;

INLINE size_t part_floats(size_t vdim) { return vdim + 16; }

static Plan plan_attention(const CpuWorker *w, const CpuAttention *a) {
    Plan p = {.a = a, .shared = w->shared, .group = a->heads / a->kv_heads, .vdim = up16(a->vdim)};
    p.queries = a->dim + p.vdim <= 1024 ? MAX_QUERIES : MAX_QUERIES / 2;
    p.head_parts = (p.group + p.queries - 1) / p.queries;
    p.few = a->rows <= CPU_SPLIT_ROWS && a->rows * a->kv_heads < 16;
    return p;
}

static Block block_at(const Plan *p, size_t row) {
    const CpuAttention *a = p->a;
    size_t most = p->few ? 1 : max_size(p->queries / p->group, 1);
    size_t low = (size_t)a->positions[row];
    Block b = {.row = row, .rows = 1, .last = low, .splits = 1};
    while (b.rows < most && row + b.rows < a->rows && a->sequences[row + b.rows] == a->sequences[row]) {
        size_t at = (size_t)a->positions[row + b.rows++];
        low = min_size(low, at);
        b.last = max_size(b.last, at);
    }
    b.first = a->window && low >= a->window ? (low - a->window + 1) / 16 * 16 : 0;
    size_t keys = b.last - b.first + 1;
    b.split_keys = keys;
    if (p->few && keys > 2 * CPU_SPLIT_KEYS) {
        size_t splits = min_size((keys + CPU_SPLIT_KEYS - 1) / CPU_SPLIT_KEYS, CPU_MAX_SPLITS);
        b.split_keys = ((keys + splits - 1) / splits + KEYS - 1) / KEYS * KEYS;
        b.splits = (keys + b.split_keys - 1) / b.split_keys;
    }
    return b;
}

/* Products with floats or with codes, whose steps go to the scores and to the weights. */
#define TIMES(name, dtype, add)                                                                              \
    static void name(size_t queries, size_t panels, size_t depth, TileA a, TileB b, TileC c) {               \
        switch (queries) { TILE_CASES(TIMES_##add##_##dtype) }                                               \
    }
#define TIMES_CASE(mr, dtype, add)                                                                           \
    case mr:                                                                                                 \
        strip_rows(mr, dtype, panels, depth, a, b, c, add);                                                  \
        break;
#define TIMES_0_ART_F32(mr) TIMES_CASE(mr, ART_F32, false)
#define TIMES_1_ART_F32(mr) TIMES_CASE(mr, ART_F32, true)
#define TIMES_0_ART_I8(mr) TIMES_CASE(mr, ART_I8, false)
#define TIMES_1_ART_I8(mr) TIMES_CASE(mr, ART_I8, true)
TIMES(times_keys, ART_F32, 0)
TIMES(times_values, ART_F32, 1)
TIMES(times_key_codes, ART_I8, 0)
TIMES(times_value_codes, ART_I8, 1)

/* Keys kept as rows: a tile of them as panels, of floats. */
static const float *turn_keys(const Item *t, size_t key, size_t count) {
    size_t dim = t->p->a->dim;
    for (size_t i = 0; i < up16(count); i++) {
        size_t from = state_first(&t->p->a->k, key + i);
        float *to = t->keys + i / 16 * dim * 16 + i % 16;
        for (size_t d = 0; d < dim; d++) { to[d * 16] = i < count ? state_number(t->k, from + d) : 0; }
    }
    return t->keys;
}

static void scores_of(const Item *t, size_t n, size_t padded, size_t key, const float *turned, const float *q,
                      float *s) {
    size_t dim = t->p->a->dim;
    TileA a = {q, dim, 1};
    TileC c = {s, KEYS, 16};
    if (turned) {
        times_keys(n, padded / 16, dim, a, (TileB){turned, 16, dim * 16}, c);
    } else if (t->k.steps) {
        times_key_codes(n, padded / 16, dim, a,
                        (TileB){(const int8_t *)t->k.numbers + key * dim, 16, dim * 16}, c);
    } else {
        times_keys(n, padded / 16, dim, a, (TileB){(const float *)t->k.numbers + key * dim, 16, dim * 16}, c);
    }
}

static void sum_values(const Item *t, size_t n, size_t seen, size_t key, const float *s, float *sums) {
    size_t vdim = t->p->vdim;
    TileA a = {s, KEYS, 1};
    TileC c = {sums, vdim, 16};
    if (t->v.steps) {
        times_value_codes(n, vdim / 16, seen, a, (TileB){(const int8_t *)t->v.numbers + key * vdim, vdim, 16},
                          c);
    } else {
        times_values(n, vdim / 16, seen, a, (TileB){(const float *)t->v.numbers + key * vdim, vdim, 16}, c);
    }
}

/* Scores of one query against the tile: scaled, capped, biased; masked ones -inf. Returns the largest. */
static float finish_scores(const Item *t, size_t query, size_t key, size_t padded, float *s) {
    const CpuAttention *a = t->p->a;
    size_t at = (size_t)a->positions[t->row + query / t->heads], end = at + 1;
    size_t begin = a->window && end > a->window ? end - a->window : 0;
    size_t i0 = begin > key ? min_size(begin - key, padded) : 0,
           i1 = end > key ? min_size(end - key, padded) : 0;
    V scale = v_set(a->scale), largest = v_set(-INFINITY);
    for (size_t i = 0; i < padded; i += VW) { v_store(s + i, v_load(s + i) * scale); }
    for (size_t i = 0; t->k.steps && i < padded; i += VW) {
        v_store(s + i, v_load(s + i) * v_load_as(ART_F16, t->k.steps + key, i));
    }
    if (a->softcap != 0) {
        V cap = v_set(a->softcap), inverse = v_set(1 / a->softcap);
        for (size_t i = 0; i < padded; i += VW) { v_store(s + i, cap * v_tanh(v_load(s + i) * inverse)); }
    }
    if (a->slopes) {
        float slope = a->slopes[t->head + query % t->heads];
        for (size_t i = 0; i < padded; i++) { s[i] += slope * ((float)(key + i) - (float)at); }
    }
    for (size_t i = 0; i < i0; i++) { s[i] = -INFINITY; }
    for (size_t i = max_size(i0, i1); i < padded; i++) { s[i] = -INFINITY; }
    for (size_t i = 0; i < padded; i += VW) { largest = v_max(v_load(s + i), largest); }
    return v_largest(largest);
}

/* Turns scores to weights e^(s - maximum), times the values' steps; rescales what was summed when the maximum
 * grows. */
static void weigh(const Item *t, size_t query, size_t key, size_t padded, float largest, float *s) {
    float *sums = t->sums + query * t->p->vdim;
    if (largest > t->largest[query]) {
        float shrink = t->total[query] > 0 ? expf(t->largest[query] - largest) : 0;
        t->largest[query] = largest;
        t->total[query] *= shrink;
        for (size_t i = 0; i < t->p->vdim; i += VW) { v_store(sums + i, v_load(sums + i) * v_set(shrink)); }
    }
    if (t->largest[query] == -INFINITY) { /* all masked so far */
        memset(s, 0, padded * sizeof *s);
        return;
    }
    V total = v_zero(), m = v_set(t->largest[query]);
    for (size_t i = 0; i < padded; i += VW) {
        V e = v_exp(v_load(s + i) - m);
        total += e;
        v_store(s + i, t->v.steps ? e * v_load_as(ART_F16, t->v.steps + key, i) : e);
    }
    t->total[query] += v_sum(total);
}

/* How many of the tile's keys the last of n queries sees. */
static size_t keys_seen(const Item *t, size_t query, size_t n, size_t key, size_t count) {
    size_t last = 0;
    for (size_t r = query / t->heads; r <= (query + n - 1) / t->heads; r++) {
        last = max_size(last, (size_t)t->p->a->positions[t->row + r] + 1);
    }
    return last > key ? min_size(last - key, count) : 0;
}

static void attend_tile(const Item *t, size_t key, size_t count) {
    const CpuAttention *a = t->p->a;
    const float *turned = a->k.by_key ? NULL : turn_keys(t, key, count);
    for (size_t i = 0; i < t->queries; i += MR) {
        size_t n = min_size(MR, t->queries - i), seen = keys_seen(t, i, n, key, count), padded = up16(seen);
        float *s = t->scores + i * KEYS;
        if (seen == 0) { continue; }
        scores_of(t, n, padded, key, turned, t->q + i * a->dim, s);
        for (size_t j = i; j < i + n; j++) {
            float *line = t->scores + j * KEYS;
            weigh(t, j, key, padded, finish_scores(t, j, key, padded, line), line);
        }
        sum_values(t, n, seen, key, s, t->sums + i * t->p->vdim);
    }
}

static void item_begin(Item *t, float *local) {
    const CpuAttention *a = t->p->a;
    size_t most = t->p->queries;
    t->largest = local;
    t->total = t->largest + MAX_QUERIES;
    t->scores = t->total + MAX_QUERIES;
    t->sums = t->scores + most * KEYS;
    t->q = t->sums + most * t->p->vdim;
    t->keys = t->q + up16(most * a->dim);
    for (size_t i = 0; i < t->queries; i++) {
        size_t r = t->row + i / t->heads, h = t->head + i % t->heads;
        memcpy(t->q + i * a->dim, a->q + r * a->q_stride + h * a->dim, a->dim * sizeof(float));
        t->largest[i] = -INFINITY;
        t->total[i] = 0;
    }
    memset(t->sums, 0, t->queries * t->p->vdim * sizeof(float));
}

/* out = sums / total, a sink taken into the total. */
static void finish_query(const CpuAttention *a, size_t row, size_t head, const float *sums, float largest,
                         float total) {
    float *out = a->out + row * a->out_stride + head * a->vdim, keep = 1;
    if (a->sinks && a->sinks[head] > largest) {
        keep = expf(largest - a->sinks[head]);
        total = total * keep + 1;
    } else if (a->sinks) {
        total += expf(a->sinks[head] - largest);
    }
    float scale = keep / total;
    for (size_t i = 0; i < a->vdim; i++) { out[i] = sums[i] * scale; }
}

static void run_item(const CpuWorker *w, const Plan *p, const Block *b, size_t item) {
    const CpuAttention *a = p->a;
    size_t split = item % b->splits, part = item / b->splits % p->head_parts;
    size_t kv = item / b->splits / p->head_parts, h0 = p->group * part / p->head_parts;
    Item t = {.p = p, .row = b->row, .rows = b->rows, .head = kv * p->group + h0};
    t.heads = p->group * (part + 1) / p->head_parts - h0;
    t.queries = t.rows * t.heads;
    item_begin(&t, w->local);
    t.k = state_head(&a->k, a->sequences[b->row], kv);
    t.v = state_head(&a->v, a->sequences[b->row], kv);
    size_t key = b->first + split * b->split_keys, end = min_size(key + b->split_keys, b->last + 1);
    for (; key < end; key += KEYS) { attend_tile(&t, key, min_size(KEYS, end - key)); }
    for (size_t i = 0; i < t.queries; i++) {
        size_t row = t.row + i / t.heads, head = t.head + i % t.heads;
        const float *sums = t.sums + i * p->vdim;
        if (b->splits == 1) {
            finish_query(a, row, head, sums, t.largest[i], t.total[i]);
            continue;
        }
        float *to = p->shared + ((row * a->heads + head) * CPU_MAX_SPLITS + split) * part_floats(p->vdim);
        memcpy(to, sums, p->vdim * sizeof *to);
        to[p->vdim] = t.largest[i];
        to[p->vdim + 1] = t.total[i];
    }
}

static void join_parts(const CpuWorker *w, const Plan *p) {
    const CpuAttention *a = p->a;
    size_t begin, end, vdim = p->vdim, step = part_floats(vdim);
    share(w, (size_t)a->rows * a->heads, &begin, &end);
    float *sums = w->local;
    for (size_t i = begin; i < end; i++) {
        Block b = block_at(p, i / a->heads);
        const float *parts = p->shared + i * CPU_MAX_SPLITS * step;
        if (b.splits == 1) { continue; }
        float largest = -INFINITY, total = 0;
        for (size_t s = 0; s < b.splits; s++) { largest = fmaxf(largest, parts[s * step + vdim]); }
        memset(sums, 0, vdim * sizeof *sums);
        for (size_t s = 0; s < b.splits; s++) {
            const float *part = parts + s * step;
            if (part[vdim] == -INFINITY) { continue; }
            float scale = expf(part[vdim] - largest);
            total += part[vdim + 1] * scale;
            for (size_t d = 0; d < vdim; d += VW) {
                v_store(sums + d, v_fma(v_load(part + d), v_set(scale), v_load(sums + d)));
            }
        }
        finish_query(a, i / a->heads, i % a->heads, sums, largest, total);
    }
}

static void attention(const CpuWorker *w, const CpuAttention *a) {
    if (a->rounding && (a->rounding[0][0] > 0 || a->rounding[1][0] > 0)) {
        attention_rounded(w, a);
        return;
    }
    Plan p = plan_attention(w, a);
    bool split = false;
    size_t row = 0, first = 0, ticket = pool_ticket(w->pool);
    while (row < a->rows) {
        Block b = block_at(&p, row);
        size_t items = a->kv_heads * p.head_parts * b.splits;
        for (; ticket < first + items; ticket = pool_ticket(w->pool)) { run_item(w, &p, &b, ticket - first); }
        split |= b.splits > 1;
        first += items;
        row += b.rows;
    }
    if (split) {
        pool_barrier(w->pool);
        join_parts(w, &p);
    }
}

#endif
