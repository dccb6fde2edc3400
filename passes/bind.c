/* bind.c: a compiled GPT takes token ids only; every other input gets its contracted value.
 *
 *   input %2 "attention_mask"  ->  broadcast(1)            all tokens are there
 *   input %3 "position_ids"    ->  past + iota             counted from the start of the sequence
 *   input %4 "token_type_ids"  ->  broadcast(0)            one text
 *   input %5 "use_cache"       ->  true
 *   output %9 "hidden_states"  ->  none                    it gives logits
 *
 * `past` only when the graph has past state. With --no-kv-cache there is none: past state is empty, past is 0
 * everywhere, and what only a cache needs is no output. leaves alone: tokens, past state, inputs without a role. */
#include "passes/rewrite.h"

static bool graph_has_past(const Graph *g) {
    for (size_t i = 0; i < g->inputs.count; i++)
        if (g->inputs.data[i].role == ROLE_PAST) return true;
    return g->states.count > 0;
}

static ValId const_number(Graph *g, DType t, uint8_t v) {
    uint64_t bits = dtype_is_float(t) ? float_to_bits(t, v) : v;
    return graph_const(g, type_scalar(t), arena_dup(g->arena, &bits, sizeof(bits)), NULL);
}

static ValId filled(Graph *g, const Type *t, uint8_t v, Diag *d) {
    ValId one = const_number(g, t->dtype, v);
    return t->rank == 0 ? one : graph_add(g, OP_BROADCAST, &one, 1, NULL, t, loc_none(), d);
}

static uint32_t seq_axis(Graph *g, const Type *t) {
    for (uint32_t i = t->rank; i-- > 0;)
        if (dim_depends(g, t->dim[i], SYM_SEQ)) return i;
    return (uint32_t)t->rank - 1;
}

/* [1, .., seq, .., 1] counting from past, broadcast to t. */
static ValId positions(Graph *g, const Type *t, bool past, Diag *d) {
    if (t->rank == 0 || !dtype_is_int(t->dtype)) {
        diag_error(d, loc_none(), "the positions input is not a tensor of integers");
        return NO_VAL;
    }
    uint32_t axis = seq_axis(g, t);
    Type line = *t;
    for (uint32_t i = 0; i < axis; i++) line.dim[i] = dim_const(1);
    for (uint32_t i = axis + 1; i < t->rank; i++) line.dim[i] = dim_const(1);
    /* Leading axes of 1 say nothing. */
    for (uint32_t i = axis; i < t->rank; i++) line.dim[i - axis] = line.dim[i];
    line.rank = (uint8_t)(t->rank - axis);
    Attr a = attr_default();
    a.axis = 0;
    ValId v = graph_add(g, OP_IOTA, NULL, 0, &a, &line, loc_none(), d);
    if (val_ok(v) && past) {
        Type scalar = type_scalar(t->dtype);
        a.value = dim_sym(g, SYM_PAST);
        ValId in[2] = {v, graph_add(g, OP_DIM, NULL, 0, &a, &scalar, loc_none(), d)};
        v = val_ok(in[1]) ? graph_add(g, OP_ADD, in, 2, NULL, NULL, loc_none(), d) : NO_VAL;
    }
    if (!val_ok(v) || type_eq(&line, t)) return v;
    return graph_add(g, OP_BROADCAST, &v, 1, NULL, t, loc_none(), d);
}

static bool bind_port(Graph *g, const Port *p, bool past, Diag *d) {
    Type t = *graph_type(g, p->v);
    ValId v = p->role == ROLE_POSITIONS ? positions(g, &t, past, d)
                                        : filled(g, &t, p->role != ROLE_PAST && p->role != ROLE_SEGMENTS, d);
    if (!val_ok(v)) return false;
    graph_replace(g, p->v, v);
    graph_val(g, p->v)->kind = V_FREE;
    return true;
}

/* The graph as it is before the first token was kept. */
static void past_drop(Graph *g) {
    size_t kept = 0;
    graph_substitute(g, SYM_PAST, dim_const(0));
    for (size_t i = 0; i < g->outputs.count; i++)
        if (g->outputs.data[i].role != ROLE_PRESENT) g->outputs.data[kept++] = g->outputs.data[i];
    g->outputs.count = kept;
    g->states.count = 0;
}

/* Hidden states and the like: a compiled GPT gives logits. */
static int64_t outputs_drop(PassCtx *cx, Graph *g) {
    Text names = text_new(cx->scratch);
    size_t kept = 0, count = g->outputs.count;
    for (size_t i = 0; i < count; i++) {
        Port p = g->outputs.data[i];
        if (p.role != ROLE_NONE) {
            g->outputs.data[kept++] = p;
        } else if (i - kept < 4) {
            text_printf(&names, "%s%s", i == kept ? "" : ", ", p.name == NULL ? "?" : p.name);
        }
    }
    g->outputs.count = kept;
    if (kept < count)
        diag_note(cx->diag, loc_none(), "the compiled model gives logits alone; left out: %s%s", names.data,
                  count - kept > 4 ? ", ..." : "");
    return (int64_t)(count - kept);
}

PassResult pass_bind(PassCtx *cx, Graph *g) {
    bool cache = cx->opt->kv_cache, past = cache && graph_has_past(g);
    if (!cache) past_drop(g);
    int64_t dropped = graph_is_function(g, cx->opt) ? 0 : outputs_drop(cx, g);
    size_t kept = 0, count = g->inputs.count;
    g->insert_before = g->first;
    for (size_t i = 0; i < count; i++) {
        Port p = g->inputs.data[i];
        bool binds = p.role == ROLE_MASK || p.role == ROLE_POSITIONS || p.role == ROLE_USE_CACHE ||
                     p.role == ROLE_SEGMENTS || p.role == ROLE_LENGTH || (p.role == ROLE_PAST && !cache);
        if (!binds) {
            g->inputs.data[kept++] = p;
        } else if (!bind_port(g, &p, past, cx->diag)) {
            g->insert_before = NO_NODE;
            return PASS_FAILED;
        }
    }
    g->insert_before = NO_NODE;
    g->inputs.count = kept;
    pass_count(cx, "inputs bound", (int64_t)(count - kept));
    return kept < count || dropped > 0 ? PASS_CHANGED : PASS_UNCHANGED;
}
