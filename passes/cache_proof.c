/* cache_proof.c: that a row computed once stays right as the sequence grows.
 *
 * Every axis of every value that comes from tokens carries labels: batch, seq, total (past + seq), or
 * features; a merged axis lists its factors in order. Labels follow where a value comes from, never its
 * size. The op table says what an op does to them (AXES_*): pointwise ops keep positions apart,
 * movement may carry the axes around but not cut or mix them, sums and products run over features
 * only. Attention alone reads other positions, and it must be causal. Each value from tokens has
 * exactly one sequence axis, so by induction over the nodes row i depends on tokens 0..i alone.
 * What has no tokens in it must be a constant or a function of past + index. */
#include "passes/cache_axes.h"

#include <string.h>

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
        why = axes_follow(p, n, &out);
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
