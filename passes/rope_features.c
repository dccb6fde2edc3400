/* rope_features.c: what a rotary embedding does to each feature.
 *
 * The nodes between x and a candidate are run on symbols: each feature is a list of at most two terms
 * sign * x[i] * table[t]. raise_rope.c reads what comes out. */
#include <string.h>

#include "passes/raise_rope.h"

bool rope_tainted(const Rope *r, ValId v) { return v.id >= r->ntaint || r->taint[v.id]; }

/* Feature count of a value with the root's leading axes; 0 when it has none such. */
uint32_t rope_features(const Rope *r, ValId v) {
    const Type *t = graph_type(r->g, v), *root = graph_type(r->g, r->root);
    int64_t n = 1;
    if (t->rank <= r->nlead) return 0;
    for (uint32_t i = 0; i < t->rank; i++) {
        if (i < r->nlead) {
            if (!dim_eq(t->dim[i], root->dim[i])) return 0;
        } else if (!dim_is_const(t->dim[i]) || !mul_i64(n, t->dim[i].v, &n) || n > MAX_FEATURES) {
            return 0;
        }
    }
    return n > 0 ? (uint32_t)n : 0;
}

/* A table: no tokens, and one of its axes runs along the sequence. */
static bool is_table(const Rope *r, ValId v) {
    const Type *t = graph_type(r->g, v);
    if (rope_tainted(r, v) || !dtype_is_float(t->dtype)) return false;
    for (uint32_t i = 0; i < t->rank; i++)
        if (dim_depends(r->g, t->dim[i], SYM_SEQ)) return true;
    return false;
}

/* Whether the walk passes the node; operands that lead on to x are in[0..*n). */
bool rope_passes(const Rope *r, const Node *n, ValId in[2], uint32_t *count) {
    *count = 1;
    in[0] = n->nin > 0 ? n->in[0] : NO_VAL;
    if (n->nin == 0 || rope_features(r, n->out[0]) == 0) return false;
    switch (n->op) {
    case OP_ADD:
    case OP_SUB:
        *count = 2;
        in[1] = n->in[1];
        return rope_tainted(r, in[0]) && rope_tainted(r, in[1]) && rope_features(r, in[0]) != 0 &&
               rope_features(r, in[0]) == rope_features(r, in[1]) &&
               rope_features(r, in[0]) == rope_features(r, n->out[0]);
    case OP_NEG: return true;
    case OP_MUL:
        if (is_table(r, n->in[0]))
            in[0] = n->in[1];
        else if (!is_table(r, n->in[1]))
            return false;
        return rope_tainted(r, in[0]) && rope_features(r, in[0]) == rope_features(r, n->out[0]);
    case OP_SLICE:
        for (uint32_t i = 0; i < r->nlead; i++)
            if (!dim_eq(n->attr.starts[i], dim_const(0)) || n->attr.steps[i] != 1) return false;
        for (uint32_t i = r->nlead; i < graph_type(r->g, n->out[0])->rank; i++)
            if (!dim_is_const(n->attr.starts[i])) return false;
        return rope_features(r, in[0]) != 0;
    case OP_CONCAT:
        if (n->nin != 2 || (uint32_t)n->attr.axis < r->nlead) return false;
        *count = 2;
        in[1] = n->in[1];
        return rope_tainted(r, in[0]) && rope_tainted(r, in[1]) && rope_features(r, in[0]) != 0 &&
               rope_features(r, in[1]) != 0;
    case OP_RESHAPE: return rope_features(r, in[0]) != 0;
    default: return false;
    }
}

/* The one value that everything under v comes from; false when there are several. */
bool rope_source(Rope *r, ValId v) {
    NodeId id = graph_def(r->g, v);
    ValId in[2];
    uint32_t n = 0;
    if (++r->visited > 200 || r->depth > 16) return false;
    if (!node_ok(id) || !rope_passes(r, graph_node(r->g, id), in, &n)) {
        if (rope_features(r, v) == 0 || (val_ok(r->x) && !val_eq(r->x, v))) return false;
        r->x = v;
        return true;
    }
    r->depth++;
    bool ok = true;
    for (uint32_t i = 0; ok && i < n; i++) ok = rope_source(r, in[i]);
    r->depth--;
    return ok;
}

/* ---- running on symbols ---- */

static Form *form_new(Rope *r, ValId v, uint32_t count) {
    if (r->nforms == MAX_FORMS) return NULL;
    Form *f = &r->form[r->nforms++];
    f->v = v;
    f->count = count;
    f->f = arena_array_of(r->cx->scratch, count, Feature);
    return f;
}

/* Row-major index of element j of out's trailing axes, in a value of type t that broadcasts to it. */
static bool table_index(const Rope *r, const Type *out, const Type *t, uint32_t j, int32_t *at) {
    int64_t index[MAX_RANK] = {0}, sum = 0;
    for (uint32_t i = out->rank; i-- > r->nlead;) {
        index[i] = j % out->dim[i].v;
        j = (uint32_t)(j / out->dim[i].v);
    }
    for (uint32_t i = 0; i < t->rank; i++) {
        uint32_t o = out->rank - t->rank + i;
        if (t->rank > out->rank) return false;
        if (o < r->nlead) continue;
        if (!dim_is_const(t->dim[i])) return false;
        sum = sum * t->dim[i].v + (t->dim[i].v == 1 ? 0 : index[o]);
    }
    *at = (int32_t)sum;
    return true;
}

/* Tables run along the sequence; sequences and heads share them. */
static bool table_fits(const Rope *r, const Type *out, const Type *t) {
    if (t->rank > out->rank) return false;
    for (uint32_t i = 0; i < t->rank; i++) {
        uint32_t o = out->rank - t->rank + i;
        Dim d = t->dim[i];
        if (o >= r->nlead || dim_eq(d, dim_const(1))) continue;
        Dim want = dim_sym(r->g, o == r->seq_axis ? SYM_SEQ : SYM_BATCH);
        if (!dim_eq(d, want)) return false;
    }
    return true;
}

static bool run_mul(Rope *r, const Node *n, ValId x, Form *out) {
    ValId tab = val_eq(n->in[0], x) ? n->in[1] : n->in[0];
    const Form *a = rope_form(r, x);
    if (a == NULL || a->count != out->count) return false;
    if (!table_fits(r, graph_type(r->g, n->out[0]), graph_type(r->g, tab))) return false;
    for (uint32_t j = 0; j < out->count; j++) {
        out->f[j] = a->f[j];
        for (uint32_t k = 0; k < a->f[j].n; k++) {
            Term *t = &out->f[j].t[k];
            if (val_ok(t->tab)) return false;
            t->tab = tab;
            if (!table_index(r, graph_type(r->g, n->out[0]), graph_type(r->g, tab), j, &t->ti)) return false;
        }
    }
    return true;
}

static bool run_slice(Rope *r, const Node *n, Form *out) {
    const Form *a = rope_form(r, n->in[0]);
    const Type *from = graph_type(r->g, n->in[0]), *to = graph_type(r->g, n->out[0]);
    if (a == NULL) return false;
    for (uint32_t j = 0; j < out->count; j++) {
        uint32_t rest = j;
        int64_t at = 0, stride = 1;
        for (uint32_t i = to->rank; i-- > r->nlead;) {
            int64_t k = rest % to->dim[i].v;
            rest = (uint32_t)(rest / to->dim[i].v);
            k = n->attr.starts[i].v + k * n->attr.steps[i];
            if (k < 0 || k >= from->dim[i].v) return false;
            at += k * stride;
            stride *= from->dim[i].v;
        }
        if (at >= a->count) return false;
        out->f[j] = a->f[at];
    }
    return true;
}

static bool run_concat(Rope *r, const Node *n, Form *out) {
    const Type *to = graph_type(r->g, n->out[0]);
    uint32_t axis = (uint32_t)n->attr.axis, inner = 1, at = 0;
    for (uint32_t i = axis + 1; i < to->rank; i++) inner *= (uint32_t)to->dim[i].v;
    uint32_t len = (uint32_t)to->dim[axis].v * inner;
    for (uint32_t k = 0; k < n->nin; k++) {
        const Form *a = rope_form(r, n->in[k]);
        if (a == NULL) return false;
        uint32_t part = (uint32_t)graph_type(r->g, n->in[k])->dim[axis].v * inner;
        for (uint32_t j = 0; j < a->count; j++) {
            uint32_t o = j / part * len + at + j % part;
            if (o >= out->count) return false;
            out->f[o] = a->f[j];
        }
        at += part;
    }
    return true;
}

static bool run_sum(Rope *r, const Node *n, Form *out) {
    const Form *a = rope_form(r, n->in[0]), *b = rope_form(r, n->in[1]);
    if (a == NULL || b == NULL || a->count != out->count || b->count != out->count) return false;
    for (uint32_t j = 0; j < out->count; j++) {
        Feature *f = &out->f[j];
        if (a->f[j].n != 1 || b->f[j].n != 1) return false;
        f->n = 2;
        f->t[0] = a->f[j].t[0];
        f->t[1] = b->f[j].t[0];
        if (n->op == OP_SUB) f->t[1].sign = -f->t[1].sign;
    }
    return true;
}

static bool run_copy(Rope *r, const Node *n, Form *out) {
    const Form *a = rope_form(r, n->in[0]);
    if (a == NULL || a->count != out->count) return false;
    memcpy(out->f, a->f, a->count * sizeof(Feature));
    for (uint32_t j = 0; n->op == OP_NEG && j < out->count; j++)
        for (uint32_t k = 0; k < out->f[j].n; k++) out->f[j].t[k].sign = -out->f[j].t[k].sign;
    return true;
}

Form *rope_form(Rope *r, ValId v) {
    for (uint32_t i = 0; i < r->nforms; i++)
        if (val_eq(r->form[i].v, v)) return &r->form[i];
    uint32_t count = rope_features(r, v), nin;
    ValId in[2];
    if (count == 0) return NULL;
    Form out = {v, count, arena_array_of(r->cx->scratch, count, Feature)};
    if (val_eq(v, r->x)) {
        for (uint32_t j = 0; j < count; j++) {
            out.f[j].n = 1;
            out.f[j].t[0] = (Term){NO_VAL, (int32_t)j, 0, 1};
        }
    } else {
        NodeId id = graph_def(r->g, v);
        if (!node_ok(id)) return NULL;
        const Node *n = graph_node(r->g, id);
        if (!rope_passes(r, n, in, &nin)) return NULL;
        bool ok = false;
        switch (n->op) {
        case OP_ADD:
        case OP_SUB: ok = run_sum(r, n, &out); break;
        case OP_MUL: ok = run_mul(r, n, in[0], &out); break;
        case OP_SLICE: ok = run_slice(r, n, &out); break;
        case OP_CONCAT: ok = run_concat(r, n, &out); break;
        default: ok = run_copy(r, n, &out); break;
        }
        if (!ok) return NULL;
    }
    Form *f = form_new(r, v, 0);
    if (f == NULL) return NULL;
    *f = out;
    return f;
}
