/* token_scales.c: dynamic quantisation with one scale per token.
 *
 *   %3 : f32[] = reduce_max(%2) {axes=[0, 1]}   ->  %3 : f32[batch*seq, 1] = reduce_max(%2) {axes=[1], keep=true}
 *
 * DynamicQuantizeLinear takes its range from all tokens of a call, later ones too, so what it computes
 * for a token changes with the length of the call and no cache can be right. One range per token is
 * as fine or finer. This is the one declared approximation of the exact passes, and is reported. Ranges are
 * widened only when all that reads them, up to the quantised values, is elementwise.
 * leaves alone: reductions that mean something else; the proof names them. */
#include <string.h>

#include "passes/raise.h"

static bool is_row_dim(const Graph *g, Dim d) {
    return dim_depends(g, d, SYM_SEQ) || dim_depends(g, d, SYM_BATCH);
}

/* A range over all elements of values that have tokens; sets the axes that stay inside a token. */
static bool is_range(const Graph *g, const Node *n, uint32_t *axes, Type *t) {
    if (n->op != OP_REDUCE_MAX && n->op != OP_REDUCE_MIN) return false;
    const Type *x = graph_type(g, n->in[0]), *out = graph_type(g, n->out[0]);
    bool seq = false;
    *axes = 0;
    *t = *x;
    for (uint32_t i = 0; i < out->rank; i++)
        if (!dim_eq(out->dim[i], dim_const(1))) return false;
    for (uint32_t i = 0; i < x->rank; i++) {
        if (!(n->attr.axes >> i & 1u)) return false;
        seq = seq || dim_depends(g, x->dim[i], SYM_SEQ);
        if (is_row_dim(g, x->dim[i])) continue;
        *axes |= 1u << i;
        t->dim[i] = dim_const(1);
    }
    return seq && *axes != 0;
}

/* What follows with the range's new type: true when it ends in values whose shape stays. rounds: a
 * rounding is among the readers, so this is a quantisation. */
static bool follow(const Graph *g, NodeId from, const Type *first, Type *wide, bool *rounds) {
    const Node *start = graph_node(g, from);
    wide[start->out[0].id] = *first;
    for (NodeId id = start->next; node_ok(id); id = graph_node(g, id)->next) {
        const Node *n = graph_node(g, id);
        bool reads = false;
        for (uint32_t i = 0; i < n->nin; i++) reads = reads || wide[n->in[i].id].dtype != DT_NONE;
        if (!reads) continue;
        if (!(op_info(n->op)->flags & F_ELEM) || n->nout != 1) return false;
        Type t = type_scalar(DT_F32);
        for (uint32_t i = 0; i < n->nin; i++) {
            const Type *x = wide[n->in[i].id].dtype != DT_NONE ? &wide[n->in[i].id] : graph_type(g, n->in[i]);
            Type sum;
            if (!type_broadcast(&t, x, &sum)) return false;
            t = sum;
        }
        const Type *now = graph_type(g, n->out[0]);
        t.dtype = now->dtype;
        *rounds = *rounds || n->op == OP_ROUND || n->op == OP_DIV;
        if (!type_eq(&t, now)) wide[n->out[0].id] = t;
    }
    for (size_t i = 0; i < g->outputs.count; i++)
        if (wide[g->outputs.data[i].v.id].dtype != DT_NONE) return false;
    for (size_t i = 0; i < g->states.count; i++)
        if (wide[g->states.data[i].out.id].dtype != DT_NONE) return false;
    return true;
}

bool token_scales(PassCtx *cx, Graph *g, int64_t *count) {
    const bool *taint = graph_taint(g, cx->scratch);
    Type *wide = arena_array_of(cx->scratch, g->values.count, Type);
    FOR_NODES (g, id) {
        uint32_t axes;
        Type t;
        bool rounds = false;
        const Node *n = graph_node(g, id);
        if (n->nin == 0 || !taint[n->in[0].id] || !is_range(g, n, &axes, &t)) continue;
        memset(wide, 0, g->values.count * sizeof(Type));
        if (!follow(g, id, &t, wide, &rounds) || !rounds) continue;
        graph_node(g, id)->attr.axes = axes;
        graph_node(g, id)->attr.keep = true;
        for (uint32_t v = 1; v < g->values.count; v++)
            if (wide[v].dtype != DT_NONE) graph_val(g, (ValId){v})->type = wide[v];
        if (++*count == 1)
            diag_note(
                cx->diag, n->loc,
                "dynamic quantisation looks at all tokens of a call; one scale per token is used instead");
    }
    return true;
}
