/* raise_attention_scores.c: attention from softmax(scores) times v.
 *
 *   %5 = matmul(q, k^T)            scales on q, on k or on scores; masks added or selected, several
 *   %6 = softmax(... %5 ...)   ->  of them, or multiplied; softcap; casts; reshapes that merge batch and heads;
 *   %7 = matmul(%6, v)             the guard against NaN; sinks; key heads repeated for query heads
 *
 *   %7 = reshape(transpose(attention(q', k', v', mask)))       q'[batch, seq, heads, d]
 *
 * Scores and weights that activation quantisation rounds to a few bits become attention's rounding, when nothing
 * masks or caps scores before they are rounded.
 * The match goes up from the second product. What the scores pass on the way is collected; anything
 * else ends the match and leaves the primitives. The mask operand is one expression without tokens. */
#include <math.h>
#include <string.h>

#include "passes/raise.h"

#define MAX_MASKS 8
#define NEVER (-1000.0) /* a score set to this or less has no weight beside any other */

typedef enum { MASK_ADD, MASK_ALLOWED, MASK_BLOCKED, MASK_TIMES } MaskKind;
typedef struct {
    ValId v;
    MaskKind kind;
    double scale;
    Type at;
} MaskPart;
typedef struct {
    PassCtx *cx;
    Graph *g;
    const bool *taint;
    size_t ntaint;
    ValId q, kt, v, out, sink;
    double scale, softcap;
    bool sliced, turned;  /* turned: scores^T = k q^T */
    float rounding[2][3]; /* of scores and weights: step, low, high; as attention takes it */
    uint32_t masks_after; /* masks that the rounded scores pass */
    MaskPart mask[MAX_MASKS];
    uint32_t nmasks;
    Dim batch, heads;
    Loc loc;
    bool rows, merged; /* softmax over [batch, seq, heads, total]; the products merge seq and heads */
    NodeId softmax;    /* where a match begins */
    const char *why;   /* what ended it, at `off` */
    NodeId off;
} Match;

static bool tainted(const Match *m, ValId v) { return v.id >= m->ntaint || m->taint[v.id]; }

static const Node *def_of(const Match *m, ValId v) {
    NodeId id = graph_def(m->g, v);
    return node_ok(id) ? graph_node(m->g, id) : NULL;
}

/* Ends the match at the node that makes v. Returns false. */
static bool stop(Match *m, ValId v, const char *why) {
    m->off = graph_def(m->g, v);
    m->why = why;
    return false;
}

/* A scalar constant, seen through what only moves it. */
static bool is_scalar(const Match *m, ValId v, double *c) {
    for (uint32_t i = 0; i < 8; i++) {
        if (const_scalar(m->g, v, c)) return true;
        const Node *n = def_of(m, v);
        if (n == NULL || (n->op != OP_RESHAPE && n->op != OP_BROADCAST && n->op != OP_CAST)) return false;
        if (n->op == OP_CAST && !dtype_is_float(graph_type(m->g, v)->dtype)) return false;
        v = n->in[0];
    }
    return false;
}

static bool last_two_kept(const Graph *g, const Node *n) {
    const Type *a = graph_type(g, n->in[0]), *b = graph_type(g, n->out[0]);
    if (a->rank < 2 || b->rank < 2) return false;
    for (uint32_t i = 1; i <= 2; i++)
        if (!dim_eq(a->dim[a->rank - i], b->dim[b->rank - i])) return false;
    return true;
}

/* [batch, seq * heads, x] against [batch, seq, heads, x], as one key head for all queries is written. */
static bool splits_rows(Graph *g, const Type *merged, const Type *split) {
    Dim seq = dim_sym(g, SYM_SEQ);
    return merged->rank == 3 && split->rank == 4 && dim_eq(merged->dim[0], split->dim[0]) &&
           dim_eq(split->dim[1], seq) && dim_is_const(split->dim[2]) &&
           dim_eq(merged->dim[1], dim_mul(g, seq, split->dim[2])) && dim_eq(merged->dim[2], split->dim[3]);
}

static bool is_nan_guard(const Match *m, const Node *n) {
    double c;
    const Node *test = def_of(m, n->in[0]);
    if (test == NULL) return false;
    uint32_t keep = 2;
    if (test->op == OP_NOT) {
        keep = 1;
        test = def_of(m, test->in[0]);
    }
    return test != NULL && test->op == OP_ISNAN && val_eq(test->in[0], n->in[keep]) &&
           is_scalar(m, n->in[3 - keep], &c) && c == 0;
}

/* [0, T) of the last axis: drops the column of the sinks. */
static bool drops_last_column(const Match *m, const Node *n) {
    const Type *a = graph_type(m->g, n->in[0]), *b = graph_type(m->g, n->out[0]);
    for (uint32_t i = 0; i < a->rank; i++) {
        if (!dim_eq(n->attr.starts[i], dim_const(0)) || n->attr.steps[i] != 1) return false;
        Dim want = i + 1 == a->rank ? dim_sub(m->g, a->dim[i], dim_const(1)) : a->dim[i];
        if (!dim_eq(b->dim[i], want)) return false;
    }
    return true;
}

/* mul(min(max(round(div(x, s)) ..))), s): x rounded to a few bits, as activation quantisation writes it. Returns x,
 * or NO_VAL. The zero point must cancel; bounds are moved to where it has. */
static ValId unrounded(const Match *m, ValId v, float r[3]) {
    double up = 0, c = 0, zero = 0, low = -INFINITY, high = INFINITY;
    bool rounds = false;
    for (uint32_t depth = 0; depth < 16; depth++) {
        const Node *n = def_of(m, v);
        if (n == NULL) return NO_VAL;
        bool scalar = n->nin == 2 && is_scalar(m, n->in[1], &c);
        switch (n->op) {
        case OP_MUL:
        case OP_DIV:
            if (!scalar || c <= 0) return NO_VAL;
            if (n->op == OP_MUL && up == 0) {
                up = c;
                break;
            }
            if (!rounds || zero != 0 || (n->op == OP_MUL ? c * up != 1 : c != up)) return NO_VAL;
            r[0] = (float)up;
            r[1] = (float)low;
            r[2] = (float)high;
            return n->in[0];
        case OP_ROUND: rounds = true; break;
        case OP_ADD:
        case OP_SUB:
            if (!scalar) return NO_VAL;
            zero += n->op == OP_ADD ? c : -c;
            break;
        case OP_MIN:
        case OP_MAX:
        case OP_RELU:
            if (n->op == OP_RELU) c = 0;
            if ((n->op != OP_RELU && !scalar) || rounds) return NO_VAL;
            if (n->op == OP_MIN)
                high = fmin(high, c + zero);
            else
                low = fmax(low, c + zero);
            break;
        case OP_CAST: break;
        default: return NO_VAL;
        }
        if (up == 0) return NO_VAL;
        v = n->in[0];
    }
    return NO_VAL;
}

/* exp(x) / sum(exp(x)) over the last axis: x, or NO_VAL. */
static ValId softmax_by_hand(const Match *m, const Node *n) {
    const Node *e = def_of(m, n->in[0]), *sum = def_of(m, n->in[1]);
    if (e == NULL || e->op != OP_EXP || sum == NULL || sum->op != OP_REDUCE_SUM) return NO_VAL;
    uint32_t last = graph_type(m->g, n->in[0])->rank - 1u;
    bool over = val_eq(sum->in[0], n->in[0]) && sum->attr.keep && sum->attr.axes == 1u << last;
    return over ? e->in[0] : NO_VAL;
}

/* p ends the way up to a softmax that is near: says so. Returns no value. */
static ValId between(Match *m, ValId p) {
    const Node *n = def_of(m, p);
    for (uint32_t i = 0; i < 4 && n != NULL && (op_info(n->op)->flags & (F_ELEM | F_MOVE)) && n->nin > 0;
         i++) {
        m->softmax = graph_def(m->g, n->in[0]);
        n = def_of(m, n->in[0]);
        if (n != NULL && n->op == OP_SOFTMAX) {
            stop(m, p, "it stands between the softmax and the product with values");
            break;
        }
    }
    return NO_VAL;
}

/* From the left operand of the second product up to the softmax; its operand, or NO_VAL. */
static ValId climb_weights(Match *m, ValId p) {
    for (uint32_t depth = 0; depth < 16; depth++) {
        const Node *n = def_of(m, p);
        if (n == NULL) return NO_VAL;
        switch (n->op) {
        case OP_RESHAPE:
            if (splits_rows(m->g, graph_type(m->g, p), graph_type(m->g, n->in[0])) && !m->rows)
                m->rows = m->merged = true;
            else if (!last_two_kept(m->g, n) || m->rows)
                return between(m, p);
            p = n->in[0];
            break;
        case OP_CAST:
            if (!dtype_is_float(graph_type(m->g, n->in[0])->dtype)) return NO_VAL;
            p = n->in[0];
            break;
        case OP_WHERE: {
            if (!is_nan_guard(m, n)) return between(m, p);
            double c;
            p = is_scalar(m, n->in[1], &c) ? n->in[2] : n->in[1];
            break;
        }
        case OP_SLICE:
            if (m->sliced || !drops_last_column(m, n)) return between(m, p);
            m->sliced = true;
            p = n->in[0];
            break;
        case OP_MUL: {
            ValId x = m->rounding[1][0] == 0 ? unrounded(m, p, m->rounding[1]) : NO_VAL;
            if (!val_ok(x)) return between(m, p);
            p = x;
            break;
        }
        case OP_DIV: m->softmax = graph_def(m->g, p); return softmax_by_hand(m, n);
        case OP_SOFTMAX:
            m->softmax = graph_def(m->g, p);
            if (n->attr.axis + 1 == graph_type(m->g, p)->rank) return n->in[0];
            stop(m, p, "the softmax runs over another axis than the last");
            return NO_VAL;
        default: return between(m, p);
        }
    }
    return NO_VAL;
}

static bool mask_push(Match *m, ValId v, MaskKind kind, double scale, ValId result) {
    if (m->rows && graph_type(m->g, result)->rank != 4)
        return stop(m, result, "the mask there has merged rows");
    if (tainted(m, v)) return stop(m, result, "the mask there depends on tokens");
    if (m->turned) return stop(m, result, "the scores are masked with keys and queries swapped");
    if (m->nmasks == MAX_MASKS) return stop(m, result, "there are too many masks");
    MaskPart part = {v, kind, scale, *graph_type(m->g, result)};
    m->mask[m->nmasks++] = part;
    return true;
}

/* where(c, scores, NEVER) or where(c, NEVER, scores); NEVER as the softmax sees it. */
static bool climb_where(Match *m, const Node *n, ValId *s) {
    double c;
    for (uint32_t i = 1; i <= 2; i++) {
        if (tainted(m, n->in[i]) || !is_scalar(m, n->in[i], &c) || !(c * m->scale <= NEVER)) continue;
        if (!tainted(m, n->in[3 - i])) return false;
        if (!mask_push(m, n->in[0], i == 2 ? MASK_ALLOWED : MASK_BLOCKED, 1, n->out[0])) return false;
        *s = n->in[3 - i];
        return true;
    }
    return stop(m, n->out[0], "it selects scores, but the other choice is not low enough to block them");
}

static bool climb_arith(Match *m, const Node *n, ValId *s) {
    ValId a = n->in[0], b = n->in[1];
    double c;
    if (n->op == OP_MUL || n->op == OP_DIV) {
        if (n->op == OP_MUL && !tainted(m, a)) {
            a = n->in[1];
            b = n->in[0];
        }
        if (!tainted(m, a)) return false;
        if (!is_scalar(m, b, &c)) { /* w * m + never * (1 - m): what was added after has to block the rest */
            bool added = false;
            for (uint32_t i = 0; i < m->nmasks; i++) added = added || m->mask[i].kind == MASK_ADD;
            if (n->op == OP_DIV || m->softcap != 0 || !added)
                return stop(m, n->out[0],
                            "scores are multiplied by what is no number, and no mask blocks the rest");
            if (!mask_push(m, b, MASK_TIMES, 1, n->out[0])) return false;
            *s = a;
            return true;
        }
        if (c == 0) return false;
        m->scale *= n->op == OP_MUL ? c : 1 / c;
        *s = a;
        return true;
    }
    if (n->op == OP_MAX) { /* clamps at the lowest float */
        if (!tainted(m, a)) {
            a = n->in[1];
            b = n->in[0];
        }
        if (!tainted(m, a) || !is_scalar(m, b, &c) || c > -1e30)
            return stop(m, n->out[0], "scores are clamped from below");
        *s = a;
        return true;
    }
    if (n->op == OP_SUB) { /* softmax(x - max(x)) = softmax(x) */
        const Node *r = def_of(m, b);
        bool plain = !m->turned && m->softcap == 0 && !val_ok(m->sink); /* the row's sum runs over x alone */
        if (plain && r != NULL && r->op == OP_REDUCE_MAX && val_eq(r->in[0], a) && r->attr.keep &&
            r->attr.axes == 1u << (graph_type(m->g, a)->rank - 1)) {
            *s = a;
            return true;
        }
        if (tainted(m, b)) return stop(m, n->out[0], "what it subtracts from the scores depends on tokens");
        if (m->softcap != 0) return stop(m, n->out[0], "it is subtracted before the soft cap");
        if (!tainted(m, a) || !mask_push(m, b, MASK_ADD, -m->scale, n->out[0])) return false;
        *s = a;
        return true;
    }
    if (!tainted(m, a)) {
        a = n->in[1];
        b = n->in[0];
    }
    if (!tainted(m, a) || tainted(m, b))
        return stop(m, n->out[0], "what it adds to the scores depends on tokens");
    if (m->softcap != 0) return stop(m, n->out[0], "it is added before the soft cap");
    if (!mask_push(m, b, MASK_ADD, m->scale, n->out[0])) return false;
    *s = a;
    return true;
}

/* From the softmax's operand up to the product of q and k^T. */
static bool climb_scores(Match *m, ValId s) {
    for (uint32_t depth = 0; depth < 40; depth++) {
        const Node *n = def_of(m, s);
        if (n == NULL || !tainted(m, s)) return false;
        bool first = m->rounding[0][0] == 0 && m->softcap == 0 && m->scale > 0;
        ValId x = n->op == OP_MUL && first ? unrounded(m, s, m->rounding[0]) : NO_VAL;
        if (val_ok(x)) { /* what scales the rounded scores scales their steps */
            m->rounding[0][0] = (float)((double)m->rounding[0][0] * m->scale);
            m->masks_after = m->nmasks;
            s = x;
            continue;
        }
        switch (n->op) {
        case OP_ADD:
        case OP_SUB:
        case OP_MUL:
        case OP_DIV:
        case OP_MAX:
            if (!climb_arith(m, n, &s)) return false;
            break;
        case OP_WHERE:
            if (m->softcap != 0) return stop(m, s, "it selects scores before the soft cap");
            if (!climb_where(m, n, &s)) return false;
            break;
        case OP_TANH: /* c * tanh(x * t) = c * tanh((x * t * c) / c) */
            if (m->softcap != 0 || m->scale <= 0)
                return stop(m, s, "it is a second soft cap, or a negative one");
            m->softcap = m->scale;
            s = n->in[0];
            break;
        case OP_RESHAPE:
            if (m->merged && splits_rows(m->g, graph_type(m->g, n->in[0]), graph_type(m->g, s)))
                m->merged = false;
            else if (!last_two_kept(m->g, n) || m->rows)
                return stop(m, s, "it reshapes the scores of queries by keys");
            s = n->in[0];
            break;
        case OP_CAST:
            if (!dtype_is_float(graph_type(m->g, n->in[0])->dtype)) return false;
            s = n->in[0];
            break;
        case OP_TRANSPOSE: {
            uint32_t rank = graph_type(m->g, s)->rank;
            for (uint32_t i = 0; i < rank; i++) {
                uint32_t want = i + 2 < rank ? i : 2 * rank - 3 - i;
                if (n->attr.perm[i] != want) return stop(m, s, "it moves other axes than queries and keys");
            }
            m->turned = !m->turned;
            if (m->sliced != val_ok(m->sink)) return false;
            s = n->in[0];
            break;
        }
        case OP_CONCAT: {
            const Type *t = graph_type(m->g, s);
            if (!m->sliced || val_ok(m->sink) || n->nin != 2 || n->attr.axis + 1 != t->rank)
                return stop(m, s, "it joins scores with other values, and no slice takes them off again");
            const Type *col = graph_type(m->g, n->in[1]);
            if (!dim_eq(col->dim[col->rank - 1], dim_const(1)) || tainted(m, n->in[1])) return false;
            if (m->nmasks > 0 || m->scale != 1 || m->softcap != 0)
                return stop(m, s, "sinks join the scores before they are masked or scaled");
            m->sink = n->in[1];
            s = n->in[0];
            break;
        }
        case OP_MATMUL:
            m->q = n->in[m->turned];
            m->kt = n->in[!m->turned];
            if (m->rounding[0][0] > 0 && (m->masks_after != m->nmasks || m->softcap != 0))
                return stop(m, s, "scores are masked or capped before they are rounded");
            if (m->merged || (m->rows && (m->turned || m->sliced || graph_type(m->g, s)->rank != 3)))
                return stop(m, s, "queries' rows are merged in another way than the weights'");
            return m->sliced == val_ok(m->sink) ||
                   stop(m, s, "a column of scores is dropped that no sink added");
        default: return stop(m, s, "it stands between the product of queries and keys and the softmax");
        }
    }
    return stop(m, s, "the scores pass too many nodes");
}

/* ---- operands ---- */

/* [batch, heads] of a tensor's axes before the last two. */
static bool lead_dims(Graph *g, const Type *t, Dim *batch, Dim *heads) {
    if (t->rank < 3 || t->rank > 5) return false;
    *batch = t->dim[0];
    *heads = dim_const(1);
    if (t->rank == 3) {
        Dim b = dim_sym(g, SYM_BATCH), h = dim_div(g, t->dim[0], b);
        if (dim_known(h)) {
            *batch = b;
            *heads = h;
        } else if (dim_is_const(t->dim[0])) {
            *batch = dim_const(1);
            *heads = t->dim[0];
        }
    }
    for (uint32_t i = 1; i + 2 < t->rank; i++) *heads = dim_mul(g, *heads, t->dim[i]);
    return dim_is_const(*heads) && heads->v > 0;
}

/* A product's operand as [batch, heads, rows, columns], leading axes broadcast to lead's. */
static bool operand_view(Match *m, ValId v, bool swap, const Type *lead, View *w) {
    Graph *g = m->g;
    uint32_t rank = graph_type(g, v)->rank;
    view_of(g, v, true, w);
    if (rank < 2 || rank > lead->rank) return false;
    if (rank < lead->rank) {
        Dim dims[MAX_RANK];
        for (uint32_t i = 0; i < lead->rank; i++)
            dims[i] = i + rank < lead->rank ? dim_const(1) : graph_type(g, v)->dim[i + rank - lead->rank];
        if (!view_reshape(g, w, dims, lead->rank)) return false;
    }
    for (uint32_t i = 0; i + 2 < lead->rank; i++)
        if (w->axis[i].n == 0 && !view_expand(w, i, lead->dim[i])) return false;
    if (swap) {
        uint8_t perm[MAX_RANK];
        for (uint32_t i = 0; i < lead->rank; i++) perm[i] = (uint8_t)i;
        perm[lead->rank - 2] = (uint8_t)(lead->rank - 1);
        perm[lead->rank - 1] = (uint8_t)(lead->rank - 2);
        view_transpose(w, perm);
    }
    Dim dims[4] = {m->batch, m->heads, view_dim(g, w, lead->rank - 2), view_dim(g, w, lead->rank - 1)};
    return view_reshape(g, w, dims, 4);
}

/* The same where products merge positions and heads: one key head serves all queries. */
static bool rows_views(Match *m, View *q, View *k, View *v) {
    Graph *g = m->g;
    static const uint8_t heads_first[4] = {0, 2, 1, 3}, turned[3] = {0, 2, 1};
    const Type *t = graph_type(g, m->q);
    Dim seq = dim_sym(g, SYM_SEQ);
    m->batch = t->dim[0];
    m->heads = dim_div(g, t->dim[1], seq);
    if (graph_type(g, m->kt)->rank != 3 || graph_type(g, m->v)->rank != 3 || !dim_is_const(m->heads))
        return false;
    Dim split[4] = {m->batch, seq, m->heads, t->dim[2]};
    view_of(g, m->q, true, q);
    if (!view_reshape(g, q, split, 4)) return false;
    view_transpose(q, heads_first);
    view_of(g, m->kt, true, k);
    view_transpose(k, turned);
    view_of(g, m->v, false, v);
    View *const keys[2] = {k, v};
    for (uint32_t i = 0; i < 2; i++) {
        Dim one[4] = {m->batch, dim_const(1), view_dim(g, keys[i], 1), view_dim(g, keys[i], 2)};
        if (!dim_eq(view_dim(g, keys[i], 0), m->batch) || !view_reshape(g, keys[i], one, 4) ||
            !view_expand(keys[i], 1, m->heads))
            return false;
    }
    return true;
}

/* Queries, keys and values as [batch, heads, rows, columns]. */
static bool operand_views(Match *m, ValId weights, View *q, View *k, View *v) {
    Graph *g = m->g;
    Type first = *graph_type(g, m->q), second = *graph_type(g, weights);
    const Type *kt = graph_type(g, m->kt);
    stop(m, m->q, "queries there do not split into batch and a known number of heads");
    if (!lead_dims(g, &first, &m->batch, &m->heads) || kt->rank > first.rank) return false;
    for (uint32_t i = 0; i + 2 < first.rank; i++) /* k may not have more heads than q */
        if (dim_eq(first.dim[i], dim_const(1)) && kt->rank == first.rank && !dim_eq(kt->dim[i], dim_const(1)))
            return stop(m, m->kt, "keys there have more heads than queries");
    return (operand_view(m, m->q, m->turned, &first, q) && operand_view(m, m->kt, !m->turned, &first, k) &&
            operand_view(m, m->v, false, &second, v)) ||
           stop(m, m->kt, "queries, keys or values do not split into batch, heads, rows and columns");
}

static void token_major(View *w) {
    static const uint8_t perm[4] = {0, 2, 1, 3};
    view_transpose(w, perm);
}

/* ---- masks ---- */

/* A mask that broadcasts to scores of type at, as one that broadcasts to [batch, heads, seq, total]. */
static ValId mask_form(Match *m, ValId v, const Type *at) {
    Graph *g = m->g;
    Diag *d = m->cx->diag;
    Type t = *graph_type(g, v);
    if (m->rows) { /* [batch, seq, heads, total] */
        static const uint8_t perm[4] = {0, 2, 1, 3};
        Dim four[4];
        for (uint32_t i = 0; i < 4; i++) four[i] = i + t.rank < 4 ? dim_const(1) : t.dim[i + t.rank - 4];
        return move_transpose(g, move_reshape(g, v, four, 4, m->loc, d), perm, m->loc, d);
    }
    if (at->rank == 4 || t.rank <= 2) return v;
    Dim one = dim_const(1), lead[3] = {one, one, one};
    uint32_t nlead = at->rank - 2;
    for (uint32_t i = 0; i + 2 < t.rank; i++) lead[nlead - (t.rank - 2) + i] = t.dim[i];
    Dim dims[4] = {one, one, t.dim[t.rank - 2], t.dim[t.rank - 1]};
    if (nlead == 1) {
        if (!dim_eq(lead[0], one)) {
            dims[0] = m->batch;
            dims[1] = m->heads;
        }
    } else {
        dims[0] = lead[0];
        bool h = !dim_eq(lead[1], one), grp = !dim_eq(lead[2], one);
        if (h != grp && !dim_eq(at->dim[1], one) && !dim_eq(at->dim[2], one)) {
            Type wide = t;
            wide.rank = 5;
            wide.dim[0] = lead[0];
            wide.dim[1] = at->dim[1];
            wide.dim[2] = at->dim[2];
            wide.dim[3] = dims[2];
            wide.dim[4] = dims[3];
            v = graph_add(g, OP_BROADCAST, &v, 1, NULL, &wide, m->loc, d);
        }
        if (h || grp) dims[1] = m->heads;
    }
    return move_reshape(g, v, dims, 4, m->loc, d);
}

static ValId add2(Match *m, Op op, ValId a, ValId b) {
    ValId in[2] = {a, b};
    return graph_add(m->g, op, in, 2, NULL, NULL, m->loc, m->cx->diag);
}

static ValId to_f32(Match *m, ValId v) {
    Type t = *graph_type(m->g, v);
    if (t.dtype == DT_F32) return v;
    t.dtype = DT_F32;
    return graph_add(m->g, OP_CAST, &v, 1, NULL, &t, m->loc, m->cx->diag);
}

/* What w * v adds up to beside w when v is 1 where w counts and 0 where `sum`, added after, blocks it:
 * nothing, or never. Any other v gives NaN, which no form of mask agrees with. */
static ValId times_form(Match *m, ValId v, ValId sum) {
    Graph *g = m->g;
    if (!val_ok(v = to_f32(m, v))) return NO_VAL;
    ValId one = add2(m, OP_EQ, v, graph_const_f32(g, 1)), none = add2(m, OP_EQ, v, graph_const_f32(g, 0));
    ValId low = add2(m, OP_LE, sum, graph_const_f32(g, (float)NEVER));
    if (!val_ok(one) || !val_ok(none) || !val_ok(low)) return NO_VAL;
    ValId blocked = add2(m, OP_AND, none, low);
    if (!val_ok(blocked)) return NO_VAL;
    ValId in[3] = {blocked, graph_const_f32(g, -INFINITY), graph_const_f32(g, NAN)};
    in[2] = graph_add(g, OP_WHERE, in, 3, NULL, NULL, m->loc, m->cx->diag);
    in[0] = one;
    in[1] = graph_const_f32(g, 0);
    return val_ok(in[2]) ? graph_add(g, OP_WHERE, in, 3, NULL, NULL, m->loc, m->cx->diag) : NO_VAL;
}

/* One mask operand of all parts. False on an error; *out stays none without parts. */
static bool mask_combine(Match *m, ValId *out) {
    ValId allowed = NO_VAL, sum = NO_VAL;
    Graph *g = m->g;
    for (uint32_t i = 0; i < m->nmasks; i++) {
        MaskPart *p = &m->mask[i];
        ValId v = mask_form(m, p->v, &p->at);
        if (!val_ok(v)) return false;
        if (p->kind == MASK_TIMES) {
            v = times_form(m, v, sum);
            if (val_ok(v)) v = add2(m, OP_ADD, sum, v);
            sum = v;
        } else if (p->kind == MASK_ADD) {
            v = to_f32(m, v);
            if (val_ok(v) && p->scale != 1) v = add2(m, OP_MUL, v, graph_const_f32(g, (float)p->scale));
            if (val_ok(v) && val_ok(sum)) v = add2(m, OP_ADD, sum, v);
            sum = v;
        } else {
            if (p->kind == MASK_BLOCKED) v = graph_add(g, OP_NOT, &v, 1, NULL, NULL, m->loc, m->cx->diag);
            if (val_ok(v) && val_ok(allowed)) v = add2(m, OP_AND, allowed, v);
            allowed = v;
        }
        if (!val_ok(v)) return false;
    }
    *out = val_ok(allowed) ? allowed : sum;
    if (val_ok(allowed) && val_ok(sum)) {
        ValId in[3] = {allowed, sum, graph_const_f32(g, -INFINITY)};
        *out = graph_add(g, OP_WHERE, in, 3, NULL, NULL, m->loc, m->cx->diag);
        return val_ok(*out);
    }
    return true;
}

/* The sinks' column as f32[heads]. */
static ValId sink_form(Match *m) {
    View w;
    view_of(m->g, m->sink, false, &w);
    if (w.rank != 4) return NO_VAL;
    for (uint32_t i = 0; i < 4; i++) {
        if (i == 1) continue;
        for (uint32_t k = 0; k < w.axis[i].n; k++)
            if (!w.made[w.axis[i].atom[k]]) return NO_VAL;
        w.axis[i].n = 0;
    }
    if (!dim_eq(view_dim(m->g, &w, 1), m->heads) || !view_reshape(m->g, &w, &m->heads, 1)) return NO_VAL;
    ValId v = view_emit(m->g, &w, m->loc, m->cx->diag);
    return val_ok(v) ? to_f32(m, v) : v;
}

/* Attention computes in fp32 whatever its operands are, so conversions of an operand say nothing. */
static void view_uncast(const Match *m, View *w) {
    for (const Node *n = def_of(m, w->src); n != NULL && n->op == OP_CAST; n = def_of(m, w->src)) {
        if (!dtype_is_float(graph_type(m->g, n->in[0])->dtype)) return;
        w->src = n->in[0];
    }
}

static ValId typed_as(Match *m, ValId v, DType t) {
    Type to = *graph_type(m->g, v);
    if (to.dtype == t) return v;
    to.dtype = t;
    return graph_add(m->g, OP_CAST, &v, 1, NULL, &to, m->loc, m->cx->diag);
}

static bool build(Match *m, View *q, View *k, View *v, bool *did) {
    Graph *g = m->g;
    Diag *d = m->cx->diag;
    View k1 = *k, v1 = *v;
    view_unexpand(&k1, 1);
    view_unexpand(&v1, 1);
    Dim kv = view_dim(g, &k1, 1);
    if (dim_eq(kv, view_dim(g, &v1, 1)) && dim_is_const(kv) && kv.v > 0 && m->heads.v % kv.v == 0) {
        *k = k1;
        *v = v1;
    }
    token_major(q);
    token_major(k);
    token_major(v);
    ValId in[7] = {NO_VAL};
    View *const views[3] = {q, k, v};
    bool alike = true;
    for (uint32_t i = 0; i < 3; i++) {
        view_uncast(m, views[i]);
        in[i] = view_emit(g, views[i], m->loc, d);
        if (!val_ok(in[i])) return false;
        alike = alike && graph_type(g, in[i])->dtype == graph_type(g, in[0])->dtype;
    }
    for (uint32_t i = 0; i < 3 && !alike; i++) {
        in[i] = typed_as(m, in[i], DT_F32);
        if (!val_ok(in[i])) return false;
    }
    if (!mask_combine(m, &in[3])) return false;
    if (val_ok(m->sink)) {
        in[5] = sink_form(m);
        if (!val_ok(in[5])) {
            stop(m, m->sink, "the sinks are not one number a head");
            return true;
        }
    }
    if (m->rounding[0][0] > 0 || m->rounding[1][0] > 0) {
        Type t = type_make(DT_F32, 2, (Dim[]){dim_const(2), dim_const(3)});
        in[6] = graph_const(g, t, arena_dup(g->arena, m->rounding, sizeof(m->rounding)), NULL);
    }
    Attr a = attr_default();
    a.scale = (float)(m->scale * q->scale * k->scale);
    a.softcap = (float)m->softcap;
    ValId o = graph_add(g, OP_ATTENTION, in, 7, &a, NULL, m->loc, d);
    o = val_ok(o) ? typed_as(m, o, graph_type(g, m->out)->dtype) : NO_VAL;
    if (!val_ok(o)) return false;
    View w;
    view_of(g, o, false, &w);
    if (!m->rows) token_major(&w);
    const Type *t = graph_type(g, m->out);
    ValId res = NO_VAL;
    if (view_reshape(g, &w, t->dim, t->rank)) res = view_emit(g, &w, m->loc, d);
    if (val_ok(res) && v->scale != 1) {
        Type ct = type_scalar(graph_type(g, res)->dtype);
        ValId c = graph_const_f32(g, (float)v->scale);
        if (ct.dtype != DT_F32) c = graph_add(g, OP_CAST, &c, 1, NULL, &ct, m->loc, d);
        res = val_ok(c) ? add2(m, OP_MUL, res, c) : NO_VAL;
    }
    if (!val_ok(res)) return diag_bug(d, m->loc, "attention's result does not fit its place");
    if (!type_eq(graph_type(g, res), graph_type(g, m->out))) return true;
    graph_replace(g, m->out, res);
    *did = true;
    return true;
}

/* Leaves the primitives. Returns true, which goes on. */
static bool unmatched(Match *m) {
    if (m->cx->misses == NULL || m->why == NULL || !node_ok(m->softmax)) return true;
    const char *at = node_ok(m->off) ? graph_describe(m->g, m->off, m->cx->scratch) : "an input";
    pass_near_miss(m->cx, m->g, m->softmax, "attention", "%s: %s", at, m->why);
    return true;
}

bool raise_scores(PassCtx *cx, Graph *g, const bool *taint, size_t ntaint, NodeId id, bool *did) {
    Match m;
    memset(&m, 0, sizeof(m));
    const Node *n = graph_node(g, id);
    *did = false;
    if (n->op != OP_MATMUL) return true;
    m.cx = cx;
    m.g = g;
    m.taint = taint;
    m.ntaint = ntaint;
    m.v = n->in[1];
    m.out = n->out[0];
    m.loc = n->loc;
    m.scale = 1;
    ValId weights = n->in[0], s = climb_weights(&m, weights);
    if (!val_ok(s) || !climb_scores(&m, s)) return unmatched(&m);
    View q, k, v;
    bool views = m.rows ? rows_views(&m, &q, &k, &v) : operand_views(&m, weights, &q, &k, &v);
    if (!views) return unmatched(&m);
    g->insert_before = id;
    bool ok = build(&m, &q, &k, &v, did);
    if (ok && !*did) unmatched(&m);
    g->insert_before = NO_NODE;
    return ok;
}
