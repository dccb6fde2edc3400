/* raise_attention_match.c: what stands between the two products of an attention.
 *
 * The match goes up from the second product. Scales, masks, soft caps, sinks, guards and casts that the scores
 * pass on the way are collected; anything else ends it and is named. */
#include <math.h>
#include <string.h>

#include "passes/raise_scores.h"

static bool tainted(const Match *m, ValId v) { return v.id >= m->ntaint || m->taint[v.id]; }

const Node *match_def(const Match *m, ValId v) {
    NodeId id = graph_def(m->g, v);
    return node_ok(id) ? graph_node(m->g, id) : NULL;
}

/* Ends the match at the node that makes v. Returns false. */
bool match_stop(Match *m, ValId v, const char *why) {
    m->off = graph_def(m->g, v);
    m->why = why;
    return false;
}

/* A scalar constant, seen through what only moves it. */
static bool is_scalar(const Match *m, ValId v, double *c) {
    for (uint32_t i = 0; i < 8; i++) {
        if (const_scalar(m->g, v, c)) return true;
        const Node *n = match_def(m, v);
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
    const Node *test = match_def(m, n->in[0]);
    if (test == NULL) return false;
    uint32_t keep = 2;
    if (test->op == OP_NOT) {
        keep = 1;
        test = match_def(m, test->in[0]);
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
        const Node *n = match_def(m, v);
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
    const Node *e = match_def(m, n->in[0]), *sum = match_def(m, n->in[1]);
    if (e == NULL || e->op != OP_EXP || sum == NULL || sum->op != OP_REDUCE_SUM) return NO_VAL;
    uint32_t last = graph_type(m->g, n->in[0])->rank - 1u;
    bool over = val_eq(sum->in[0], n->in[0]) && sum->attr.keep && sum->attr.axes == 1u << last;
    return over ? e->in[0] : NO_VAL;
}

/* p ends the way up to a softmax that is near: says so. Returns no value. */
static ValId between(Match *m, ValId p) {
    const Node *n = match_def(m, p);
    for (uint32_t i = 0; i < 4 && n != NULL && (op_info(n->op)->flags & (F_ELEM | F_MOVE)) && n->nin > 0;
         i++) {
        m->softmax = graph_def(m->g, n->in[0]);
        n = match_def(m, n->in[0]);
        if (n != NULL && n->op == OP_SOFTMAX) {
            match_stop(m, p, "it stands between the softmax and the product with values");
            break;
        }
    }
    return NO_VAL;
}

/* From the left operand of the second product up to the softmax; its operand, or NO_VAL. */
ValId match_weights(Match *m, ValId p) {
    for (uint32_t depth = 0; depth < 16; depth++) {
        const Node *n = match_def(m, p);
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
            match_stop(m, p, "the softmax runs over another axis than the last");
            return NO_VAL;
        default: return between(m, p);
        }
    }
    return NO_VAL;
}

static bool mask_push(Match *m, ValId v, MaskKind kind, double scale, ValId result) {
    if (m->rows && graph_type(m->g, result)->rank != 4)
        return match_stop(m, result, "the mask there has merged rows");
    if (tainted(m, v)) return match_stop(m, result, "the mask there depends on tokens");
    if (m->turned) return match_stop(m, result, "the scores are masked with keys and queries swapped");
    if (m->nmasks == MAX_MASKS) return match_stop(m, result, "there are too many masks");
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
    return match_stop(m, n->out[0],
                      "it selects scores, but the other choice is not low enough to block them");
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
                return match_stop(m, n->out[0],
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
            return match_stop(m, n->out[0], "scores are clamped from below");
        *s = a;
        return true;
    }
    if (n->op == OP_SUB) { /* softmax(x - max(x)) = softmax(x) */
        const Node *r = match_def(m, b);
        bool plain = !m->turned && m->softcap == 0 && !val_ok(m->sink); /* the row's sum runs over x alone */
        if (plain && r != NULL && r->op == OP_REDUCE_MAX && val_eq(r->in[0], a) && r->attr.keep &&
            r->attr.axes == 1u << (graph_type(m->g, a)->rank - 1)) {
            *s = a;
            return true;
        }
        if (tainted(m, b))
            return match_stop(m, n->out[0], "what it subtracts from the scores depends on tokens");
        if (m->softcap != 0) return match_stop(m, n->out[0], "it is subtracted before the soft cap");
        if (!tainted(m, a) || !mask_push(m, b, MASK_ADD, -m->scale, n->out[0])) return false;
        *s = a;
        return true;
    }
    if (!tainted(m, a)) {
        a = n->in[1];
        b = n->in[0];
    }
    if (!tainted(m, a) || tainted(m, b))
        return match_stop(m, n->out[0], "what it adds to the scores depends on tokens");
    if (m->softcap != 0) return match_stop(m, n->out[0], "it is added before the soft cap");
    if (!mask_push(m, b, MASK_ADD, m->scale, n->out[0])) return false;
    *s = a;
    return true;
}

/* From the softmax's operand up to the product of q and k^T. */
bool match_scores(Match *m, ValId s) {
    for (uint32_t depth = 0; depth < 40; depth++) {
        const Node *n = match_def(m, s);
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
            if (m->softcap != 0) return match_stop(m, s, "it selects scores before the soft cap");
            if (!climb_where(m, n, &s)) return false;
            break;
        case OP_TANH: /* c * tanh(x * t) = c * tanh((x * t * c) / c) */
            if (m->softcap != 0 || m->scale <= 0)
                return match_stop(m, s, "it is a second soft cap, or a negative one");
            m->softcap = m->scale;
            s = n->in[0];
            break;
        case OP_RESHAPE:
            if (m->merged && splits_rows(m->g, graph_type(m->g, n->in[0]), graph_type(m->g, s)))
                m->merged = false;
            else if (!last_two_kept(m->g, n) || m->rows)
                return match_stop(m, s, "it reshapes the scores of queries by keys");
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
                if (n->attr.perm[i] != want)
                    return match_stop(m, s, "it moves other axes than queries and keys");
            }
            m->turned = !m->turned;
            if (m->sliced != val_ok(m->sink)) return false;
            s = n->in[0];
            break;
        }
        case OP_CONCAT: {
            const Type *t = graph_type(m->g, s);
            if (!m->sliced || val_ok(m->sink) || n->nin != 2 || n->attr.axis + 1 != t->rank)
                return match_stop(m, s,
                                  "it joins scores with other values, and no slice takes them off again");
            const Type *col = graph_type(m->g, n->in[1]);
            if (!dim_eq(col->dim[col->rank - 1], dim_const(1)) || tainted(m, n->in[1])) return false;
            if (m->nmasks > 0 || m->scale != 1 || m->softcap != 0)
                return match_stop(m, s, "sinks join the scores before they are masked or scaled");
            m->sink = n->in[1];
            s = n->in[0];
            break;
        }
        case OP_MATMUL:
            m->q = n->in[m->turned];
            m->kt = n->in[!m->turned];
            if (m->rounding[0][0] > 0 && (m->masks_after != m->nmasks || m->softcap != 0))
                return match_stop(m, s, "scores are masked or capped before they are rounded");
            if (m->merged || (m->rows && (m->turned || m->sliced || graph_type(m->g, s)->rank != 3)))
                return match_stop(m, s, "queries' rows are merged in another way than the weights'");
            return m->sliced == val_ok(m->sink) ||
                   match_stop(m, s, "a column of scores is dropped that no sink added");
        default: return match_stop(m, s, "it stands between the product of queries and keys and the softmax");
        }
    }
    return match_stop(m, s, "the scores pass too many nodes");
}
