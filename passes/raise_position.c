/* raise_position.c: masks, position rows and tables by evaluation.
 *
 *   %9 = attention(%q, %k, %v, %mask)     ->  attention(%q, %k, %v) {causal=true, window=16}
 *   %5 = add(%4, gather(@wpe, %ids))      ->  add(%4, gather(@wpe, %positions))
 *   %5 = add(%4, %rows)                   ->  add(%4, gather(@table, %positions))
 *
 * The frontier is every value without tokens, but not constant, that is read together with values that
 * have them. Each must be a function of the position (position_eval.c, position_mask.c), so that a row
 * computed once stays right as the sequence grows. Afterwards only constants and positions are left.
 * needs: ATTENTION.  gives: POSITIONS.  refuses: tables that depend on the length, other masks. */
#include <string.h>

#include "passes/raise.h"

typedef struct {
    PassCtx *cx;
    Graph *g;
    const bool *taint, *dyn;
    size_t known; /* values that taint and dyn cover */
    ValId *to;    /* replacement of a frontier value, once made */
    ValId ids;    /* positions */
    int64_t masks, tables, rows, scalars;
    VEC(ValId) mask; /* recognised masks and their forms */
    VEC(MaskForm) form;
    VEC(bool) plain; /* whether the attention was causal by itself */
} Frontier;

static bool on_frontier(const Frontier *f, ValId v) {
    return val_ok(v) && v.id < f->known && !f->taint[v.id] && f->dyn[v.id];
}

static bool positions(Frontier *f) {
    if (!val_ok(f->ids)) f->ids = position_ids(f->g, f->cx->diag);
    return val_ok(f->ids);
}

/* The node that made v, for messages. */
static const char *origin(const Frontier *f, ValId v) {
    NodeId id = graph_def(f->g, v);
    return node_ok(id) ? graph_describe(f->g, id, f->cx->scratch) : "an input";
}

/* Refuses, or leaves the value when no cache is wanted. */
static bool refuse(Frontier *f, NodeId reader, ValId v, const char *what, const char *why) {
    if (!f->cx->opt->kv_cache) {
        pass_near_miss(f->cx, f->g, reader, "positions", "%s %s", what, why);
        return true;
    }
    return diag_error(f->cx->diag, graph_node(f->g, reader)->loc,
                      "%s reads %s from %s, which %s; hint: --no-kv-cache compiles the graph without a cache",
                      graph_describe(f->g, reader, f->cx->scratch), what, origin(f, v), why);
}

/* The longest context in which v's rows are a function of the position after all; 0 when there is none. */
static int64_t shorter_context(Frontier *f, ValId v) {
    int64_t context = f->g->context, good = 0, bad = position_context(f->cx, f->g);
    for (int64_t n = bad / 2; n >= 16 && good == 0; n /= 2) {
        RowTable t;
        const char *why;
        if (position_rows(f->cx, f->g, v, n, &t, &why) && t.rows == n)
            good = n;
        else
            bad = n;
    }
    while (good > 0 && good + 1 < bad) {
        RowTable t;
        const char *why;
        int64_t n = good + (bad - good) / 2;
        if (position_rows(f->cx, f->g, v, n, &t, &why) && t.rows == n)
            good = n;
        else
            bad = n;
    }
    f->g->context = context;
    return good;
}

/* Refuses rows; where only longer sequences are the reason, says how long they may be. */
static bool refuse_rows(Frontier *f, NodeId reader, ValId v, const char *what, const char *why) {
    int64_t n = f->cx->opt->kv_cache ? shorter_context(f, v) : 0;
    if (n == 0) return refuse(f, reader, v, what, why);
    return diag_error(
        f->cx->diag, graph_node(f->g, reader)->loc,
        "%s reads %s from %s, which is another one in longer sequences; hint: --ctx %lld compiles it for "
        "shorter ones",
        graph_describe(f->g, reader, f->cx->scratch), what, origin(f, v), (long long)n);
}

/* ---- rows ---- */

/* gather(table, index) with index = position, seen through movement: the table, or NO_VAL. */
static ValId gathered_table(Frontier *f, ValId v) {
    Graph *g = f->g;
    for (uint32_t depth = 0; depth < 8; depth++) {
        NodeId id = graph_def(g, v);
        if (!node_ok(id)) return NO_VAL;
        Node n = *graph_node(g, id);
        if (n.op == OP_RESHAPE || n.op == OP_BROADCAST) {
            v = n.in[0];
            continue;
        }
        if (n.op != OP_GATHER || n.attr.axis != 0 || !graph_constant(g, n.in[0])) return NO_VAL;
        RowTable t;
        const char *why;
        if (graph_type(g, n.in[0])->rank != 2 || dtype_is_float(graph_type(g, n.in[1])->dtype)) return NO_VAL;
        if (!position_rows(f->cx, g, n.in[1], position_context(f->cx, g), &t, &why)) return NO_VAL;
        if (t.seq_axis < 0 || t.width != 1) return NO_VAL;
        for (int64_t q = 0; q < t.rows; q++)
            if ((int64_t)row_get(&t, q, 0) != q) return NO_VAL;
        return n.in[0];
    }
    return NO_VAL;
}

static ValId table_const(Frontier *f, const RowTable *t, DType dt) {
    Graph *g = f->g;
    Dim dims[2] = {dim_const(t->rows), dim_const(t->width)};
    size_t size = dtype_size(dt);
    uint8_t *data = arena_array(g->arena, (size_t)t->rows * (size_t)t->width, size);
    for (int64_t q = 0; q < t->rows; q++)
        for (int64_t k = 0; k < t->width; k++) {
            int64_t pre = k / t->inner, post = k % t->inner;
            size_t from = (size_t)((pre * t->rows + q) * t->inner + post);
            memcpy(data + (size_t)(q * t->width + k) * size, (const uint8_t *)t->t.data + from * size, size);
        }
    return graph_const(g, type_make(dt, 2, dims), data, NULL);
}

/* v's rows as gather(table, positions), shaped as v but for batch axes, which become 1. */
static ValId rows_value(Frontier *f, ValId v, NodeId reader, const char **why) {
    Graph *g = f->g;
    Diag *d = f->cx->diag;
    Loc loc = graph_node(g, reader)->loc;
    RowTable t;
    *why = NULL;
    if (!position_rows(f->cx, g, v, position_context(f->cx, g), &t, why)) return NO_VAL;
    Type type = *graph_type(g, v);
    for (uint32_t i = 0; i < type.rank; i++)
        if (!dim_is_const(type.dim[i]) && (int)i != t.seq_axis) type.dim[i] = dim_const(1);
    if (t.seq_axis < 0) {
        f->scalars++;
        size_t bytes = tensor_count(&t.t) * dtype_size(t.t.dtype);
        return graph_const(g, type, arena_dup(g->arena, t.t.data, bytes), NULL);
    }
    if (!positions(f)) return NO_VAL;
    ValId table = gathered_table(f, v);
    bool whole =
        val_ok(table) && dim_eq(graph_type(g, table)->dim[1], dim_const(t.width)) && t.inner == t.width;
    if (!whole) table = table_const(f, &t, type.dtype);
    f->rows += whole;
    f->tables += !whole;
    ValId in[2] = {table, f->ids};
    g->insert_before = reader;
    ValId row = graph_add(g, OP_GATHER, in, 2, NULL, NULL, loc, d);
    if (val_ok(row) && t.inner != t.width) { /* features before the seq axis */
        Dim three[3] = {dim_sym(g, SYM_SEQ), dim_const(t.width / t.inner), dim_const(t.inner)};
        uint8_t perm[3] = {1, 0, 2};
        row = move_transpose(g, move_reshape(g, row, three, 3, loc, d), perm, loc, d);
    }
    row = move_reshape(g, row, type.dim, type.rank, loc, d);
    g->insert_before = NO_NODE;
    return row;
}

/* Puts `now` where reader reads operand i; broadcasts it where the result would not come out the same. */
static bool operand_set(Frontier *f, NodeId reader, uint32_t i, ValId now) {
    Graph *g = f->g;
    Type was = *graph_type(g, graph_node(g, reader)->in[i]);
    Type result = *graph_type(g, graph_node(g, reader)->out[0]);
    bool elem = (op_info(graph_node(g, reader)->op)->flags & F_ELEM) != 0;
    graph_node(g, reader)->in[i] = now;
    if (elem) {
        Diag d;
        diag_init(&d);
        bool same =
            infer_node(g, reader, &d) && type_eq(graph_type(g, graph_node(g, reader)->out[0]), &result);
        diag_free(&d);
        if (same) return true;
        graph_val(g, graph_node(g, reader)->out[0])->type = result;
    }
    if (type_eq(&was, graph_type(g, now))) return true;
    g->insert_before = reader;
    ValId wide = graph_add(g, OP_BROADCAST, &now, 1, NULL, &was, graph_node(g, reader)->loc, f->cx->diag);
    g->insert_before = NO_NODE;
    if (!val_ok(wide)) return false;
    graph_node(g, reader)->in[i] = wide;
    return true;
}

static bool raise_rows(Frontier *f, NodeId reader, uint32_t i) {
    ValId v = graph_node(f->g, reader)->in[i], now = f->to[v.id];
    if (!val_ok(now)) {
        const char *why;
        now = rows_value(f, v, reader, &why);
        if (!val_ok(now)) return why != NULL ? refuse_rows(f, reader, v, "a value", why) : false;
        f->to[v.id] = now;
    }
    return operand_set(f, reader, i, now);
}

/* ---- transformer ops ---- */

static bool raise_mask(Frontier *f, NodeId id) {
    Graph *g = f->g;
    ValId mask = graph_node(g, id)->in[3];
    bool plain = graph_node(g, id)->attr.causal;
    size_t at = 0;
    while (at < f->mask.count && !(val_eq(f->mask.data[at], mask) && f->plain.data[at] == plain)) at++;
    if (at == f->mask.count) {
        MaskForm form;
        const char *why;
        if (!mask_recognise(f->cx, g, id, mask, &form, &why)) return refuse(f, id, mask, "a mask", why);
        VEC_PUSH(f->cx->scratch, &f->mask, mask);
        VEC_PUSH(f->cx->scratch, &f->form, form);
        VEC_PUSH(f->cx->scratch, &f->plain, plain);
    }
    const MaskForm *form = &f->form.data[at];
    Node *n = graph_node(g, id);
    if (form->window > 0 && (n->attr.window == 0 || form->window < n->attr.window))
        n->attr.window = form->window;
    n->attr.causal = form->causal;
    n->in[3] = NO_VAL;
    f->masks++;
    if (!form->sloped) {
        while (n->nin > 3 && !val_ok(n->in[n->nin - 1])) n->nin--;
        return true;
    }
    if (n->nin > 4 && val_ok(n->in[4])) return refuse(f, id, mask, "slopes beside ALiBi", "adds up twice");
    Dim heads = dim_const(form->heads);
    ValId in[6] = {NO_VAL};
    for (uint32_t i = 0; i < n->nin; i++) in[i] = n->in[i];
    in[4] = graph_const(g, type_make(DT_F32, 1, &heads),
                        arena_dup(g->arena, form->slopes, (size_t)form->heads * sizeof(float)), NULL);
    n = graph_node(g, id);
    n->nin = n->nin > 5 ? n->nin : 5;
    n->in = arena_dup(g->arena, in, n->nin * sizeof(ValId));
    return true;
}

/* A constant mask (a fixed-shape export, or one that lets all through) is a mask like any other. */
static bool raise_attention_operands(Frontier *f, NodeId id) {
    Node n = *graph_node(f->g, id);
    for (uint32_t i = 0; i < 3; i++)
        if (on_frontier(f, n.in[i]))
            return refuse(f, id, n.in[i], "queries, keys or values", "has no tokens in it");
    if (f->g->context == 1) graph_node(f->g, id)->attr.causal = true; /* nobody is later */
    if (n.nin > 3 && val_ok(n.in[3]) && n.in[3].id < f->known && !f->taint[n.in[3].id])
        return raise_mask(f, id);
    return true;
}

static bool raise_rope_operands(Frontier *f, NodeId id) {
    Graph *g = f->g;
    Node n = *graph_node(g, id);
    const char *why = NULL;
    for (uint32_t i = 1; i <= 2; i++) {
        if (!on_frontier(f, n.in[i])) continue;
        RowTable t;
        if (!position_rows(f->cx, g, n.in[i], position_context(f->cx, g), &t, &why))
            return refuse_rows(f, id, n.in[i], "a rotary table", why);
        graph_node(g, id)->in[i] = table_const(f, &t, graph_type(g, n.in[i])->dtype);
        f->tables++;
    }
    if (!on_frontier(f, n.in[3])) return true;
    RowTable t;
    if (!position_rows(f->cx, g, n.in[3], position_context(f->cx, g), &t, &why))
        return refuse(f, id, n.in[3], "positions", why);
    for (int64_t q = 0; t.seq_axis >= 0 && q < t.rows; q++)
        if ((int64_t)row_get(&t, q, 0) != q)
            return refuse(f, id, n.in[3], "positions", "are not past + index");
    if (!positions(f)) return false;
    graph_node(g, id)->in[3] = f->ids;
    return true;
}

static bool visit(Frontier *f, NodeId id) {
    Graph *g = f->g;
    Op op = graph_node(g, id)->op;
    if (op == OP_ATTENTION) return raise_attention_operands(f, id);
    if (op == OP_ROPE) return raise_rope_operands(f, id);
    for (uint32_t i = 0; i < graph_node(g, id)->nin; i++) {
        ValId v = graph_node(g, id)->in[i];
        if (!on_frontier(f, v)) continue;
        if (op == OP_GATHER && i == 1 && graph_type(g, v)->rank == 0) continue; /* last token: the proof's */
        if (!raise_rows(f, id, i)) return false;
    }
    return true;
}

PassResult pass_raise_position(PassCtx *cx, Graph *g) {
    if (!graph_has_tokens(g)) return PASS_UNCHANGED;
    Frontier f;
    memset(&f, 0, sizeof(f));
    position_bound(cx, g);
    f.cx = cx;
    f.g = g;
    f.taint = graph_taint(g, cx->scratch);
    f.dyn = graph_dynamic(g, cx->scratch);
    f.known = g->values.count;
    f.to = arena_array_of(cx->scratch, f.known, ValId);
    const bool *live = graph_live(g, cx->scratch);
    size_t nodes = g->nodes.count;
    FOR_NODES (g, id) {
        const Node *n = graph_node(g, id);
        bool reads = false;
        if (id.id >= nodes || !live[id.id]) continue;
        for (uint32_t i = 0; i < n->nin; i++)
            reads = reads || (n->in[i].id < f.known && f.taint[n->in[i].id]);
        if (reads && !visit(&f, id)) return PASS_FAILED;
    }
    int64_t ctx = cx->opt->ctx;
    if (ctx > 0 && g->context > 0 && ctx > g->context)
        diag_warn(cx->diag, loc_none(), "--ctx %lld is more than the graph's tables allow; using %lld",
                  (long long)ctx, (long long)g->context);
    pass_count(cx, "masks", f.masks);
    pass_count(cx, "position rows", f.rows);
    pass_count(cx, "tables", f.tables);
    pass_count(cx, "scalars", f.scalars);
    return f.masks + f.rows + f.tables + f.scalars > 0 ? PASS_CHANGED : PASS_UNCHANGED;
}
