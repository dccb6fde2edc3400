/* position_mask.c: what a mask is, by evaluation.
 *
 * Entries count up to a constant per row, since softmax ignores it; an entry is blocked when
 * exp(entry - best) has no weight in fp32, whatever sentinel was used. The form (causal, window,
 * slopes) is read off a small square and the last row of the context, then every entry of small
 * squares and of rows near 0, powers of two, the window's edge and the end must agree with it. */
#include <math.h>
#include <string.h>

#include "passes/raise.h"

#define BLOCKED (-80.0) /* exp(-80) = 2e-35 of a weight; fp32 ends at exp(-87.3) */
#define SQUARE_MAX 1024
#define PROMPT_MAX 256
#define MAX_ROWS 96

typedef struct {
    PassCtx *cx;
    Graph *g, *copy; /* rows are cut in the copy */
    ValId mask;
    bool causal;   /* the attention itself is causal */
    int64_t heads; /* that differ: 1 when all share a mask */
    const char *why;
} MaskEval;

static double entry(const Tensor *t, int64_t b, int64_t h, int64_t i, int64_t k) {
    int64_t index[4] = {b, h, i, k};
    size_t at = 0;
    for (uint32_t r = 0; r < t->rank; r++) {
        int64_t x = t->dim[r] == 1 ? 0 : index[4 - t->rank + r];
        at = at * (size_t)t->dim[r] + (size_t)x;
    }
    if (t->dtype == DT_BOOL) return tensor_get_i64(t, at) != 0 ? 0 : -INFINITY;
    return tensor_get_f64(t, at);
}

/* One row of one head: best entry, or -inf when nothing is allowed. */
static double row_best(const MaskEval *m, const Tensor *t, int64_t b, int64_t h, int64_t i, int64_t q,
                       int64_t total) {
    double best = -INFINITY;
    for (int64_t k = 0; k < total; k++)
        if (!m->causal || k <= q) best = fmax(best, entry(t, b, h, i, k));
    return best;
}

static bool row_agrees(MaskEval *m, const MaskForm *f, const Tensor *t, int64_t b, int64_t h, int64_t i,
                       int64_t q, int64_t total) {
    double best = row_best(m, t, b, h, i, q, total), slope = f->sloped ? (double)f->slopes[h] : 0;
    double pbest = slope >= 0
                       ? (f->causal ? 0 : slope * (double)(total - 1 - q))
                       : slope * (double)((f->window ? (q >= f->window ? q - f->window + 1 : 0) : 0) - q);
    if (!(best > -1e30) || isinf(best)) {
        m->why = arena_printf(m->cx->scratch, "lets row %lld see nothing", (long long)q);
        return false;
    }
    for (int64_t k = 0; k < total; k++) {
        double raw = m->causal && k > q ? -INFINITY : entry(t, b, h, i, k);
        bool allowed = (!f->causal || k <= q) && (f->window == 0 || k > q - f->window);
        double e = raw - best, p = allowed ? slope * (double)(k - q) - pbest : -INFINITY;
        if (e < BLOCKED + 1 && p < BLOCKED + 1) continue;
        bool both = e >= BLOCKED && p >= BLOCKED; /* a sentinel has no say in the tolerance */
        if (both && fabs(e - p) <= 1e-4 + 4e-7 * (fabs(raw) + fabs(best))) continue;
        m->why =
            arena_printf(m->cx->scratch, "is neither causal, a window nor ALiBi (query %lld, key %lld%s)",
                         (long long)q, (long long)k, allowed ? "" : ": a later or far key is visible");
        return false;
    }
    return true;
}

static bool square_value(MaskEval *m, int64_t batch, Len len, Tensor *t) {
    Diag d;
    diag_init(&d);
    bool ok = position_value(m->g, m->mask, batch, len, t, m->cx->scratch, &d);
    if (!ok)
        m->why = arena_printf(m->cx->scratch, "cannot be computed: %s",
                              d.items.count > 0 ? d.items.data[0].text : "unknown");
    diag_free(&d);
    return ok;
}

/* Row q of n that are computed together, cut out. */
static bool row_cut(MaskEval *m, int64_t q, int64_t n, Tensor *t) {
    const Type *type = graph_type(m->g, m->mask);
    int64_t bind[4] = {0, 1, n, 0};
    Diag d;
    diag_init(&d);
    ValId row = m->mask;
    if (type->rank >= 2)
        row = position_cut(m->copy, m->mask, type->rank - 2u, q, bind, COUNT_OF(bind), m->cx->scratch, &d);
    bool ok = val_ok(row) && position_value(m->copy, row, 1, (Len){0, n}, t, m->cx->scratch, &d);
    diag_free(&d);
    return ok;
}

/* Row q alone, of a sequence of n. With a past it is the only new token; without one it is cut out. */
static bool row_value(MaskEval *m, int64_t q, int64_t n, Tensor *t, int64_t *total) {
    *total = n;
    if (m->g->states.count == 0) return row_cut(m, q, n, t);
    *total = q + 1;
    Diag d;
    diag_init(&d);
    bool ok = position_value(m->g, m->mask, 1, (Len){q, 1}, t, m->cx->scratch, &d);
    diag_free(&d);
    return ok;
}

/* ---- the form ---- */

static bool read_square(MaskEval *m, MaskForm *f, int64_t n) {
    Tensor t;
    if (!square_value(m, 1, (Len){0, n}, &t)) return false;
    f->slopes = arena_array_of(m->cx->scratch, (size_t)f->heads, float);
    int64_t q = n - 1;
    f->causal = true;
    for (int64_t h = 0; h < m->heads; h++) {
        double best = row_best(m, &t, 0, h, 0, 0, n);
        for (int64_t k = 1; k < n; k++)
            if (!m->causal && entry(&t, 0, h, 0, k) - best >= BLOCKED) f->causal = false;
        if (n < 2) continue;
        double a = entry(&t, 0, h, q, q - 1), b = entry(&t, 0, h, q, q), top = row_best(m, &t, 0, h, q, q, n);
        if (a - top < BLOCKED || b - top < BLOCKED) continue;
        f->slopes[h] = (float)(b - a);
        if (fabs(b - a) > 1e-6) f->sloped = true;
    }
    for (int64_t h = m->heads; h < f->heads; h++) f->slopes[h] = f->slopes[0];
    return true;
}

/* The window, from the farthest key that the last row sees. */
static void read_window(MaskEval *m, MaskForm *f, const Tensor *t, int64_t i, int64_t q, int64_t total) {
    for (int64_t h = 0; h < m->heads && f->window == 0; h++) {
        double best = row_best(m, t, 0, h, i, q, total), slope = f->sloped ? (double)f->slopes[h] : 0;
        int64_t k = 0;
        while (k < q && entry(t, 0, h, i, k) - best < BLOCKED) k++;
        if (k > 0 && slope * (double)(k - 1 - q) > BLOCKED + 1) f->window = q - k + 1;
    }
}

static size_t test_rows(const MaskForm *f, int64_t ctx, int64_t *row) {
    size_t n = 0;
    int64_t w = f->window;
    const int64_t near[] = {0, 1, 2, w - 1, w, w + 1, w + 2, 2 * w, ctx / 2, ctx - 2, ctx - 1};
    for (size_t i = 0; i < COUNT_OF(near); i++) row[n++] = near[i];
    for (int64_t p = 4; p < ctx && n + 3 <= MAX_ROWS; p *= 2)
        for (int64_t s = -1; s <= 1; s++) row[n++] = p + s;
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (row[i] >= 0 && row[i] < ctx) row[kept++] = row[i];
    return kept;
}

static bool check_row(MaskEval *m, const MaskForm *f, int64_t q, int64_t ctx) {
    Tensor t;
    int64_t total;
    if (!row_value(m, q, ctx, &t, &total)) {
        m->why = arena_printf(m->cx->scratch, "cannot be computed for row %lld", (long long)q);
        return false;
    }
    for (int64_t h = 0; h < m->heads; h++)
        if (!row_agrees(m, f, &t, 0, h, 0, q, total)) return false;
    return true;
}

static bool check_square(MaskEval *m, const MaskForm *f, int64_t batch, Len len) {
    Tensor t;
    if (!square_value(m, batch, len, &t)) return false;
    for (int64_t b = 0; b < batch; b++)
        for (int64_t h = 0; h < m->heads; h++)
            for (int64_t i = 0; i < len.seq; i++)
                if (!row_agrees(m, f, &t, b, h, i, len.past + i, len.past + len.seq)) return false;
    return true;
}

/* The longest context whose last row can be computed; 0 when even a short one cannot. */
static int64_t context_possible(MaskEval *m, int64_t ctx) {
    int64_t lo = 0, hi = ctx + 1;
    while (lo + 1 < hi) {
        int64_t mid = lo + (hi - lo) / 2, total;
        Tensor t;
        ArenaMark mark = arena_mark(m->cx->scratch);
        bool ok = m->g->states.count > 0 && row_value(m, mid - 1, mid, &t, &total);
        if (m->g->states.count == 0) {
            m->copy = graph_copy(m->g, m->cx->scratch);
            ok = row_value(m, mid - 1, mid, &t, &total);
        }
        m->copy = NULL;
        arena_reset(m->cx->scratch, mark);
        if (ok)
            lo = mid;
        else
            hi = mid;
    }
    m->copy = graph_copy(m->g, m->cx->scratch);
    return lo;
}

/* A graph with a past computes long prompts as well, maybe with another mask than single tokens. */
static bool check_prompt(MaskEval *m, const MaskForm *f, int64_t ctx) {
    const int64_t rows[] = {ctx / 2, ctx - 1};
    Tensor t;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        if (!row_cut(m, rows[i], ctx, &t)) /* no row can be cut out of it */
            return check_square(m, f, 1, (Len){0, ctx < PROMPT_MAX ? ctx : PROMPT_MAX});
        for (int64_t h = 0; h < m->heads; h++)
            if (!row_agrees(m, f, &t, 0, h, 0, rows[i], ctx)) return false;
    }
    return true;
}

static bool check_long(MaskEval *m, MaskForm *f, NodeId n) {
    Graph *g = m->g;
    int64_t ctx = position_context(m->cx, g), total, rows[MAX_ROWS];
    Tensor t;
    if (!row_value(m, ctx - 1, ctx, &t, &total)) {
        int64_t most = context_possible(m, ctx);
        if (most == 0) { /* rows cannot be cut out of it: a square has to do */
            int64_t side = ctx < SQUARE_MAX ? ctx : SQUARE_MAX;
            if (!square_value(m, 1, (Len){0, side}, &t)) return false;
            read_window(m, f, &t, side - 1, side - 1, side);
            if (side < ctx)
                diag_note(m->cx->diag, graph_node(g, n)->loc,
                          "the mask was checked up to %lld tokens, not %lld", (long long)side,
                          (long long)ctx);
            return check_square(m, f, 1, (Len){0, side});
        }
        ctx = most;
        g->context = most;
        if (!row_value(m, ctx - 1, ctx, &t, &total)) return false;
    }
    read_window(m, f, &t, 0, ctx - 1, total);
    size_t count = test_rows(f, ctx, rows);
    for (size_t i = 0; i < count; i++)
        if (!check_row(m, f, rows[i], ctx)) return false;
    if (ctx > 64 && g->states.count > 0 && !check_prompt(m, f, ctx)) return false;
    if (ctx > 64 && g->states.count == 0 && !check_row(m, f, ctx / 2, ctx / 2 + 1)) return false;
    return true;
}

bool mask_recognise(PassCtx *cx, Graph *g, NodeId n, ValId mask, MaskForm *out, const char **why) {
    MaskEval m;
    memset(&m, 0, sizeof(m));
    memset(out, 0, sizeof(*out));
    const Node *node = graph_node(g, n);
    m.cx = cx;
    m.g = g;
    m.mask = mask;
    m.causal = node->attr.causal;
    const Type *t = graph_type(g, mask);
    out->heads = graph_type(g, node->in[0])->dim[2].v;
    bool shared = t->rank < 3 || dim_eq(t->dim[t->rank - 3], dim_const(1));
    m.heads = shared ? 1 : out->heads;
    m.why = "is of no known form";
    m.copy = graph_copy(g, cx->scratch);
    int64_t ctx = position_context(cx, g), side = ctx < 33 ? ctx : 33;
    bool ok = read_square(&m, out, side);
    if (ok && !out->causal) {
        Len lens[8];
        size_t count = position_lengths(g, ctx, lens);
        for (size_t i = 0; ok && i < count; i++) ok = check_square(&m, out, 2, lens[i]);
    } else if (ok) {
        ok = check_long(&m, out, n);
        Len lens[8];
        size_t count = position_lengths(g, position_context(cx, g), lens);
        for (size_t i = 0; ok && i < count; i++) ok = check_square(&m, out, 2, lens[i]);
    }
    *why = m.why;
    return ok;
}
