/* cache_rules.c: what each kind of op does to the axes of its inputs (cache_axes.h). The op table says which (AXES_*). */
#include "passes/cache_axes.h"

#include <string.h>

Axis axis_of(Kind k, Dim d) {
    Axis a;
    memset(&a, 0, sizeof(a));
    a.n = 1;
    a.kind[0] = k;
    a.dim[0] = d;
    return a;
}

bool axis_is(const Axis *a, Kind k) { return a->n == 1 && a->kind[0] == k; }

static bool axis_eq(const Axis *a, const Axis *b) {
    if (a->n != b->n) return false;
    for (uint32_t i = 0; i < a->n; i++)
        if (a->kind[i] != b->kind[i] || !dim_eq(a->dim[i], b->dim[i])) return false;
    return true;
}

Axis axis_by_dim(const Proof *p, Dim d) {
    Axis none;
    memset(&none, 0, sizeof(none));
    if (dim_eq(d, dim_sym(p->g, SYM_BATCH))) return axis_of(K_BATCH, d);
    if (dim_eq(d, dim_sym(p->g, SYM_SEQ))) return axis_of(K_SEQ, d);
    return none;
}

/* ---- rules: each sets the axes of the result, or returns why it cannot ---- */

static const char *merge_axis(Axis *out, bool *set, const Axis *a, Dim d) {
    if (is_one(d)) return NULL;
    if (!*set) {
        *out = *a;
        *set = true;
        return NULL;
    }
    return axis_eq(out, a) ? NULL : "brings different positions together";
}

static const char *rule_pointwise(const Proof *p, const Node *n, Label *out, uint32_t skip_last) {
    uint32_t rank = graph_type(p->g, n->out[0])->rank;
    for (uint32_t i = 0; i + skip_last < rank; i++) {
        bool set = false;
        for (uint32_t k = 0; k < n->nin; k++) {
            const Type *t = in_type(p, n, k);
            if (i + t->rank < rank) continue;
            uint32_t at = i + t->rank - rank;
            const char *why = merge_axis(&out->axis[i], &set, &in_label(p, n, k)->axis[at], t->dim[at]);
            if (why != NULL) return why;
        }
    }
    return NULL;
}

typedef struct {
    Kind kind;
    Dim dim;
} Factor;

static const char *rule_reshape(const Proof *p, const Node *n, Label *out) {
    const Type *from = in_type(p, n, 0), *to = graph_type(p->g, n->out[0]);
    const Label *x = in_label(p, n, 0);
    Factor f[MAX_RANK * MAX_FACTORS];
    uint32_t nf = 0, at = 0;
    for (uint32_t i = 0; i < from->rank; i++) {
        for (uint32_t k = 0; k < x->axis[i].n; k++) f[nf++] = (Factor){x->axis[i].kind[k], x->axis[i].dim[k]};
        if (x->axis[i].n == 0 && !is_one(from->dim[i])) f[nf++] = (Factor){K_FEATURE, from->dim[i]};
    }
    for (uint32_t i = 0; i < to->rank; i++) {
        Axis *a = &out->axis[i];
        Dim want = to->dim[i];
        bool labelled = false;
        while (!is_one(want)) {
            if (at == nf || a->n == MAX_FACTORS) return "reshapes across the sequence axis";
            Factor *cur = &f[at];
            Dim rest = dim_div(p->g, want, cur->dim), taken = cur->dim;
            if (dim_known(rest)) {
                want = rest;
                at++;
            } else {
                Dim tail = dim_div(p->g, cur->dim, want);
                if (cur->kind != K_FEATURE || !dim_known(tail)) return "reshapes across the sequence axis";
                taken = want;
                cur->dim = tail;
                want = dim_const(1);
            }
            Kind kind = f[dim_known(rest) ? at - 1 : at].kind;
            a->kind[a->n] = kind;
            a->dim[a->n++] = taken;
            labelled = labelled || kind != K_FEATURE;
        }
        if (!labelled) memset(a, 0, sizeof(*a));
    }
    return at == nf ? NULL : "reshapes across the sequence axis";
}

static const char *rule_broadcast(const Proof *p, const Node *n, Label *out) {
    const Type *from = in_type(p, n, 0), *to = graph_type(p->g, n->out[0]);
    for (uint32_t i = 0; i < to->rank; i++) {
        bool has = i + from->rank >= to->rank;
        uint32_t at = has ? i + from->rank - to->rank : 0;
        if (has && (!is_one(from->dim[at]) || is_one(to->dim[i]))) {
            out->axis[i] = in_label(p, n, 0)->axis[at];
            continue;
        }
        out->axis[i] = axis_by_dim(p, to->dim[i]);
        if (out->axis[i].n == 0 && !dim_is_const(to->dim[i])) return "repeats along a symbolic axis";
    }
    return NULL;
}

static const char *rule_slice(const Proof *p, const Node *n, Label *out) {
    const Type *from = in_type(p, n, 0), *to = graph_type(p->g, n->out[0]);
    for (uint32_t i = 0; i < to->rank; i++) {
        out->axis[i] = in_label(p, n, 0)->axis[i];
        if (out->axis[i].n == 0) continue;
        if (!dim_eq(from->dim[i], to->dim[i]) || !dim_eq(n->attr.starts[i], dim_const(0)) ||
            n->attr.steps[i] != 1)
            return "takes part of the sequence or the batch";
    }
    return NULL;
}

static const char *rule_concat(const Proof *p, const Node *n, Label *out) {
    uint32_t rank = graph_type(p->g, n->out[0])->rank;
    for (uint32_t i = 0; i < rank; i++) {
        for (uint32_t k = 0; k < n->nin; k++) {
            const Axis *a = &in_label(p, n, k)->axis[i];
            if (i == (uint32_t)n->attr.axis) {
                if (a->n != 0) return "appends along the sequence or the batch";
            } else if (k == 0) {
                out->axis[i] = *a;
            } else if (!axis_eq(&out->axis[i], a)) {
                return "brings different positions together";
            }
        }
    }
    return NULL;
}

static const char *rule_gather(const Proof *p, const Node *n, Label *out) {
    const Type *data = in_type(p, n, 0), *idx = in_type(p, n, 1);
    const Label *d = in_label(p, n, 0), *x = in_label(p, n, 1);
    uint32_t axis = (uint32_t)n->attr.axis, o = 0;
    if (d->axis[axis].n != 0) return "picks from the sequence or the batch";
    if (d->status == S_ROWS && x->status == S_ROWS) return "picks rows by positions or tokens";
    for (uint32_t i = 0; i < data->rank; i++) {
        if (i != axis)
            out->axis[o++] = d->axis[i];
        else
            for (uint32_t k = 0; k < idx->rank; k++) out->axis[o++] = x->axis[k];
    }
    return NULL;
}

static const char *rule_reduce(const Proof *p, const Node *n, Label *out) {
    uint32_t o = 0;
    for (uint32_t i = 0; i < in_type(p, n, 0)->rank; i++) {
        const Axis *a = &in_label(p, n, 0)->axis[i];
        if (!(n->attr.axes >> i & 1u))
            out->axis[o++] = *a;
        else if (a->n != 0)
            return "reduces over the sequence or the batch";
        else if (n->attr.keep)
            o++;
    }
    return NULL;
}

static const char *rule_axis(const Proof *p, const Node *n, Label *out) {
    bool drops = (n->op == OP_ARGMAX || n->op == OP_ARGMIN) && !n->attr.keep;
    uint32_t o = 0;
    for (uint32_t i = 0; i < in_type(p, n, 0)->rank; i++) {
        const Axis *a = &in_label(p, n, 0)->axis[i];
        if (i == (uint32_t)n->attr.axis) {
            if (a->n != 0)
                return n->op == OP_SOFTMAX ? "normalises over the sequence"
                                           : "runs along the sequence or the batch";
            if (drops) continue;
        }
        out->axis[o++] = *a;
    }
    return NULL;
}

static const char *rule_last(const Proof *p, const Node *n, Label *out) {
    uint32_t rank = in_type(p, n, 0)->rank;
    const Label *x = in_label(p, n, 0);
    if (x->axis[rank - 1].n != 0) return "contracts the sequence or the batch";
    for (uint32_t i = 1; i < n->nin; i++)
        if (val_ok(n->in[i]) && in_label(p, n, i)->status != S_CONST)
            return "has weights that are no constants";
    for (uint32_t i = 0; i + 1 < rank; i++) out->axis[i] = x->axis[i];
    return NULL;
}

/* The rows of operand, index and result are the same; slots and features are a row's own. */
static const char *rule_routed(const Proof *p, const Node *n, Label *out) {
    const Label *x = in_label(p, n, 0), *index = in_label(p, n, 1);
    uint32_t rank = in_type(p, n, 0)->rank, slots = in_type(p, n, 1)->rank - 1u;
    if (x->axis[rank - 1].n != 0) return "contracts the sequence or the batch";
    for (uint32_t i = 2; i < n->nin; i++)
        if (val_ok(n->in[i]) && in_label(p, n, i)->status != S_CONST)
            return "has experts that are no constants";
    for (uint32_t i = 0; i <= slots; i++) {
        if (i + 1u < rank && !axis_eq(&x->axis[i], &index->axis[i]))
            return "routes rows by the choice of others";
        out->axis[i] = index->axis[i];
    }
    return NULL;
}

/* gather_elements: places along an axis of a row's own, alike in all operands beside it. */
static const char *rule_elements(const Proof *p, const Node *n, Label *out) {
    const Type *to = graph_type(p->g, n->out[0]);
    for (uint32_t i = 0; i < to->rank; i++) {
        for (uint32_t k = 0; k < n->nin; k++) {
            const Axis *a = &in_label(p, n, k)->axis[i];
            if (i == (uint32_t)n->attr.axis) {
                if (a->n != 0) return "picks along the sequence or the batch";
                continue;
            }
            if (k == 0) out->axis[i] = *a;
            if (!axis_eq(&out->axis[i], a)) return "brings different positions together";
            if (!dim_eq(in_type(p, n, k)->dim[i], to->dim[i])) return "picks of a part of the rows";
        }
    }
    return NULL;
}

static const char *rule_matmul(const Proof *p, const Node *n, Label *out) {
    const Type *a = in_type(p, n, 0), *b = in_type(p, n, 1);
    const Label *x = in_label(p, n, 0), *y = in_label(p, n, 1);
    if (a->rank < 2 || b->rank < 2) return "multiplies vectors";
    if (x->axis[a->rank - 1].n != 0 || y->axis[b->rank - 2].n != 0)
        return "contracts the sequence or the batch";
    const char *why = rule_pointwise(p, n, out, 2);
    if (why != NULL) return why;
    uint32_t rank = graph_type(p->g, n->out[0])->rank;
    out->axis[rank - 2] = x->axis[a->rank - 2];
    out->axis[rank - 1] = y->axis[b->rank - 1];
    return NULL;
}

static const char *rule_rope(const Proof *p, const Node *n, Label *out) {
    const Label *x = in_label(p, n, 0), *ids = in_label(p, n, 3);
    *out = *x;
    if (!axis_is(&x->axis[1], K_SEQ) || x->axis[3].n != 0)
        return "rotates along another axis than the sequence";
    if (in_label(p, n, 1)->status != S_CONST || in_label(p, n, 2)->status != S_CONST)
        return "has a rotary table that is no constant";
    return axis_is(&ids->axis[0], K_SEQ) ? NULL : "has positions that are not past + index";
}

static const char *rule_attention(const Proof *p, const Node *n, Label *out) {
    Kind keys = p->g->states.count > 0 ? K_TOTAL : K_SEQ;
    const Label *q = in_label(p, n, 0);
    for (uint32_t i = 0; i < 3; i++) {
        const Label *x = in_label(p, n, i);
        if (!axis_is(&x->axis[1], i == 0 ? K_SEQ : keys))
            return i == 0 ? "has queries that are not one a token"
                          : "has keys or values that are not one a token";
        if (x->axis[2].n != 0 || x->axis[3].n != 0) return "mixes the sequence with heads or features";
        if (!axis_eq(&x->axis[0], &q->axis[0])) return "brings different sequences together";
        if (!axis_is(&x->axis[0], K_BATCH) && !is_one(in_type(p, n, i)->dim[0]))
            return "has features where the sequences of the batch belong";
    }
    if (n->nin > 3 && val_ok(n->in[3])) return "has a mask of no known form";
    if (!n->attr.causal) return "sees later tokens (no causal mask)";
    for (uint32_t i = 4; i < n->nin; i++)
        if (val_ok(n->in[i]) && in_label(p, n, i)->status != S_CONST)
            return "has slopes, sinks or roundings that are no constants";
    for (uint32_t i = 0; i < 2; i++) out->axis[i] = q->axis[i];
    return NULL;
}

const char *axes_follow(const Proof *p, const Node *n, Label *out) {
    switch (op_info(n->op)->axes) {
    case AXES_POINTWISE: return rule_pointwise(p, n, out, 0);
    case AXES_RESHAPE: return rule_reshape(p, n, out);
    case AXES_TRANSPOSE:
        for (uint32_t i = 0; i < in_type(p, n, 0)->rank; i++)
            out->axis[i] = in_label(p, n, 0)->axis[n->attr.perm[i]];
        return NULL;
    case AXES_BROADCAST: return rule_broadcast(p, n, out);
    case AXES_SLICE: return rule_slice(p, n, out);
    case AXES_CONCAT: return rule_concat(p, n, out);
    case AXES_GATHER: return rule_gather(p, n, out);
    case AXES_REDUCE: return rule_reduce(p, n, out);
    case AXES_AXIS: return rule_axis(p, n, out);
    case AXES_LAST: return rule_last(p, n, out);
    case AXES_MATMUL: return rule_matmul(p, n, out);
    case AXES_ROUTED: return rule_routed(p, n, out);
    case AXES_ELEMENTS: return rule_elements(p, n, out);
    case AXES_ROPE: return rule_rope(p, n, out);
    case AXES_ATTENTION: return rule_attention(p, n, out);
    default: return "has no rule for a sequence axis";
    }
}
