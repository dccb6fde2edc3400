/* cache_proof.c: that a row computed once stays right as the sequence grows.
 *
 * Every axis of every value that comes from tokens carries labels: batch, seq, total (past + seq), or
 * features; a merged axis lists its factors in order. Labels follow where a value comes from, never its
 * size. The op table says what an op does to them (AXES_*): pointwise ops keep positions apart,
 * movement may carry the axes around but not cut or mix them, sums and products run over features
 * only. Attention alone reads other positions, and it must be causal. Each value from tokens has
 * exactly one sequence axis, so by induction over the nodes row i depends on tokens 0..i alone.
 * What has no tokens in it must be a constant or a function of past + index. */
#include <string.h>

#include "passes/raise.h"

#define MAX_FACTORS 6

typedef enum { K_FEATURE, K_BATCH, K_SEQ, K_TOTAL } Kind;
typedef struct {
    uint8_t n;
    Kind kind[MAX_FACTORS];
    Dim dim[MAX_FACTORS];
} Axis; /* n = 0: features */
typedef enum { S_CONST, S_ROWS, S_DIRTY } Status;
typedef struct {
    Status status;
    Axis axis[MAX_RANK];
} Label;

typedef struct {
    PassCtx *cx;
    Graph *g;
    const bool *taint, *dyn;
    Label *label; /* by value id */
} Proof;

static bool is_one(Dim d) { return dim_is_const(d) && d.v == 1; }

static Axis axis_of(Kind k, Dim d) {
    Axis a;
    memset(&a, 0, sizeof(a));
    a.n = 1;
    a.kind[0] = k;
    a.dim[0] = d;
    return a;
}

static bool axis_is(const Axis *a, Kind k) { return a->n == 1 && a->kind[0] == k; }

static bool axis_eq(const Axis *a, const Axis *b) {
    if (a->n != b->n) return false;
    for (uint32_t i = 0; i < a->n; i++)
        if (a->kind[i] != b->kind[i] || !dim_eq(a->dim[i], b->dim[i])) return false;
    return true;
}

static Axis axis_by_dim(Proof *p, Dim d) {
    Axis none;
    memset(&none, 0, sizeof(none));
    if (dim_eq(d, dim_sym(p->g, SYM_BATCH))) return axis_of(K_BATCH, d);
    if (dim_eq(d, dim_sym(p->g, SYM_SEQ))) return axis_of(K_SEQ, d);
    return none;
}

static const Type *in_type(const Proof *p, const Node *n, uint32_t i) { return graph_type(p->g, n->in[i]); }

static const Label *in_label(const Proof *p, const Node *n, uint32_t i) { return &p->label[n->in[i].id]; }

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

static const char *rule_pointwise(Proof *p, const Node *n, Label *out, uint32_t skip_last) {
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

static const char *rule_reshape(Proof *p, const Node *n, Label *out) {
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

static const char *rule_broadcast(Proof *p, const Node *n, Label *out) {
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

static const char *rule_slice(Proof *p, const Node *n, Label *out) {
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

static const char *rule_concat(Proof *p, const Node *n, Label *out) {
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

static const char *rule_gather(Proof *p, const Node *n, Label *out) {
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

static const char *rule_reduce(Proof *p, const Node *n, Label *out) {
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

static const char *rule_axis(Proof *p, const Node *n, Label *out) {
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

static const char *rule_last(Proof *p, const Node *n, Label *out) {
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
static const char *rule_routed(Proof *p, const Node *n, Label *out) {
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
static const char *rule_elements(Proof *p, const Node *n, Label *out) {
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

static const char *rule_matmul(Proof *p, const Node *n, Label *out) {
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

static const char *rule_rope(Proof *p, const Node *n, Label *out) {
    const Label *x = in_label(p, n, 0), *ids = in_label(p, n, 3);
    *out = *x;
    if (!axis_is(&x->axis[1], K_SEQ) || x->axis[3].n != 0)
        return "rotates along another axis than the sequence";
    if (in_label(p, n, 1)->status != S_CONST || in_label(p, n, 2)->status != S_CONST)
        return "has a rotary table that is no constant";
    return axis_is(&ids->axis[0], K_SEQ) ? NULL : "has positions that are not past + index";
}

static const char *rule_attention(Proof *p, const Node *n, Label *out) {
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

static const char *apply_rule(Proof *p, const Node *n, Label *out) {
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

/* ---- the walk ---- */

/* past + index; in a graph without states the index itself, which the insertion offsets. */
static bool is_positions(Proof *p, const Node *n) {
    if (p->g->states.count > 0) return n->op == OP_ADD && row_is_positions(p->g, n->out[0]);
    const Type *t = graph_type(p->g, n->out[0]);
    if (n->op == OP_ADD && row_is_positions(p->g, n->out[0])) return true;
    return n->op == OP_IOTA && t->rank == 1 && t->dtype == DT_I64 &&
           dim_eq(t->dim[0], dim_sym(p->g, SYM_SEQ));
}

static bool state_concat(Proof *p, const Node *n, Label *out) {
    for (size_t i = 0; i < p->g->states.count; i++) {
        const State *s = &p->g->states.data[i];
        if (n->op != OP_CONCAT || !val_eq(n->out[0], s->out)) continue;
        *out = *in_label(p, n, 1);
        Dim total = graph_type(p->g, s->out)->dim[s->axis];
        if (!axis_is(&out->axis[s->axis], K_SEQ)) return false;
        out->axis[s->axis] = axis_of(K_TOTAL, total);
        return true;
    }
    return false;
}

/* Exactly one sequence axis, and nothing but it. */
static const char *one_sequence(Proof *p, ValId v) {
    const Label *l = &p->label[v.id];
    uint32_t seq = 0, total = 0;
    for (uint32_t i = 0; i < graph_type(p->g, v)->rank; i++)
        for (uint32_t k = 0; k < l->axis[i].n; k++) {
            seq += l->axis[i].kind[k] == K_SEQ;
            total += l->axis[i].kind[k] == K_TOTAL;
        }
    if (seq + total == 1) return NULL;
    return seq + total == 0 ? "loses the sequence"
                            : "compares positions with each other and is no known attention";
}

static const char *visit(Proof *p, const Node *n) {
    bool token = false, dirty = false, dynamic = false;
    const char *dirt = NULL;
    for (uint32_t i = 0; i < n->nin; i++) {
        if (!val_ok(n->in[i])) continue;
        token = token || p->taint[n->in[i].id];
        dynamic = dynamic || in_label(p, n, i)->status != S_CONST;
        if (in_label(p, n, i)->status == S_DIRTY) {
            dirty = true;
            NodeId d = graph_def(p->g, n->in[i]);
            dirt = node_ok(d) ? graph_describe(p->g, d, p->cx->scratch) : "an input";
        }
    }
    Label out;
    memset(&out, 0, sizeof(out));
    const char *why = NULL;
    if (!token && is_positions(p, n)) {
        const Type *t = graph_type(p->g, n->out[0]);
        for (uint32_t i = 0; i < t->rank; i++) out.axis[i] = axis_by_dim(p, t->dim[i]);
        out.status = S_ROWS;
    } else if (!token && (dirty || (n->nin == 0 && p->dyn[n->out[0].id]))) {
        out.status = S_DIRTY;
    } else if (!token && !dynamic && !p->dyn[n->out[0].id]) {
        out.status = S_CONST;
    } else if (token && dirty) {
        return arena_printf(p->cx->scratch, "reads %s, which is no function of the position", dirt);
    } else if (!state_concat(p, n, &out)) {
        why = apply_rule(p, n, &out);
        out.status = S_ROWS;
        if (why != NULL && !token) out.status = S_DIRTY;
        if (why != NULL && token) return why;
    }
    for (uint32_t o = 0; o < n->nout; o++) p->label[n->out[o].id] = out;
    if (!token) return NULL;
    return one_sequence(p, n->out[0]);
}

static bool is_state_input(const Graph *g, ValId v) {
    for (size_t i = 0; i < g->states.count; i++)
        if (val_eq(g->states.data[i].in, v)) return true;
    return false;
}

static const char *inputs_label(Proof *p) {
    Graph *g = p->g;
    uint32_t tokens = 0;
    for (size_t i = 0; i < g->inputs.count; i++) {
        const Port *port = &g->inputs.data[i];
        const Type *t = graph_type(g, port->v);
        Label *l = &p->label[port->v.id];
        l->status = p->taint[port->v.id] ? S_ROWS : S_DIRTY;
        for (uint32_t k = 0; k < t->rank; k++) l->axis[k] = axis_by_dim(p, t->dim[k]);
        if (port->role == ROLE_PAST && !is_state_input(g, port->v))
            return arena_printf(p->cx->scratch, "past input \"%s\" belongs to no state", port->name);
        if (port->role != ROLE_TOKENS) continue;
        if (++tokens > 1) return "the graph has several token inputs";
        if (one_sequence(p, port->v) != NULL) return "the token input has no sequence axis";
        if (!dim_depends(g, t->dim[0], SYM_BATCH)) return "the token input has no batch axis in front";
    }
    return NULL;
}

/* Each state only grows; attention alone reads it. */
static const char *states_check(Proof *p, Loc *loc) {
    Graph *g = p->g;
    Uses u = graph_uses(g, p->cx->scratch);
    for (size_t i = 0; i < g->states.count; i++) {
        const State *s = &g->states.data[i];
        NodeId cat = graph_def(g, s->out);
        const Node *c = node_ok(cat) ? graph_node(g, cat) : NULL;
        if (c == NULL || c->op != OP_CONCAT || c->nin != 2 || !val_eq(c->in[0], s->in) ||
            c->attr.axis != s->axis)
            return arena_printf(p->cx->scratch, "state \"%s\" does not grow by appending", s->name);
        *loc = c->loc;
        for (uint32_t k = 0; k < u.count[s->in.id]; k++) {
            NodeId n = u.user[u.first[s->in.id] + k];
            if (node_ok(n) && n.id != cat.id)
                return arena_printf(p->cx->scratch, "%s reads the past of state \"%s\"",
                                    graph_describe(g, n, p->cx->scratch), s->name);
        }
        for (uint32_t k = 0; k < u.count[s->out.id]; k++) {
            NodeId n = u.user[u.first[s->out.id] + k];
            if (!node_ok(n)) continue;
            const Node *r = graph_node(g, n);
            bool ok = r->op == OP_ATTENTION && (val_eq(r->in[1], s->out) || val_eq(r->in[2], s->out)) &&
                      !val_eq(r->in[0], s->out);
            if (!ok)
                return arena_printf(p->cx->scratch, "%s reads state \"%s\" and is no attention",
                                    graph_describe(g, n, p->cx->scratch), s->name);
        }
    }
    *loc = loc_none();
    return NULL;
}

/* Callers get logits as rows of [batch, seq, vocab]. */
static const char *logits_check(Proof *p) {
    for (size_t i = 0; i < p->g->outputs.count; i++) {
        const Port *o = &p->g->outputs.data[i];
        const Label *l = &p->label[o->v.id];
        uint32_t batch = 0, seq = 0, features = 0;
        bool ok = p->taint[o->v.id];
        if (o->role != ROLE_LOGITS) continue;
        for (uint32_t r = 0; r < graph_type(p->g, o->v)->rank; r++) {
            features += l->axis[r].n == 0 && !is_one(graph_type(p->g, o->v)->dim[r]);
            for (uint32_t k = 0; k < l->axis[r].n; k++) {
                ok = ok && features == 0 && (l->axis[r].kind[k] != K_BATCH || seq == 0);
                batch += l->axis[r].kind[k] == K_BATCH;
                seq += l->axis[r].kind[k] == K_SEQ;
            }
        }
        if (!ok || batch != 1 || seq != 1)
            return arena_printf(p->g->arena, "the logits \"%s\" are not [batch, seq, vocab]", o->name);
    }
    return NULL;
}

bool cache_prove(PassCtx *cx, Graph *g, const char **reason) {
    Proof p = {cx, g, graph_taint(g, cx->scratch), graph_dynamic(g, cx->scratch), NULL};
    p.label = arena_array_of(cx->scratch, g->values.count, Label);
    Loc loc = loc_none();
    *reason = inputs_label(&p);
    if (*reason == NULL) *reason = states_check(&p, &loc);
    FOR_NODES (g, id) {
        if (*reason != NULL) break;
        const Node *n = graph_node(g, id);
        const char *why = visit(&p, n);
        if (why == NULL) continue;
        loc = n->loc;
        *reason = arena_printf(g->arena, "%s%s %s",
                               n->op == OP_ATTENTION && !n->attr.causal ? "encoder-like: " : "",
                               graph_describe(g, id, cx->scratch), why);
    }
    if (*reason == NULL) *reason = logits_check(&p);
    if (*reason == NULL) return true;
    return diag_error(cx->diag, loc,
                      "no KV cache can be inserted: %s; hint: --no-kv-cache compiles the graph without one",
                      *reason);
}
