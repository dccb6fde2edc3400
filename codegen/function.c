/* function.c: a graph to a function of the artifact: every node as it is, in running order.
 *
 * What no output needs is left out, and so is what only makes a product's weight, which is stored as the
 * product's kernel reads it. Dimensions are stored once each, symbols as far as any is read. Every port gets a
 * value of its own, so that it has its own name. */
#include "codegen/codegen.h"

#include <string.h>

typedef struct {
    Graph *g;
    Program *p;
    Function *f;
    Arena *arena;
    Diag *diag;
    bool *needed;     /* by value id */
    uint32_t *number; /* by value id: of the value in f, plus one */
    uint32_t *symbol; /* by symbol id: in f, plus one */
    VEC(Dim) dims;    /* in the order of f->dims */
} Lowering;

/* ---- dimensions ---- */

static bool lower_term(Lowering *lw, const DimTerm *t, ArtTerm *out) {
    Function *f = lw->f;
    memset(out, 0, sizeof *out);
    out->factor = t->factor;
    for (uint32_t i = 0; i < t->degree; i++) {
        uint32_t *number = &lw->symbol[t->sym[i].id];
        if (*number == 0) {
            if (f->symbols.count == ART_MAX_SYMBOLS)
                return diag_error(lw->diag, loc_none(),
                                  "the shapes use more than %d free dimensions; hint: fix some at export",
                                  ART_MAX_SYMBOLS);
            VEC_PUSH(lw->arena, &f->symbols, lw->g->symbols.data[t->sym[i].id].name);
            *number = (uint32_t)f->symbols.count;
        }
        out->power[*number - 1]++;
    }
    return true;
}

static bool lower_dim(Lowering *lw, Dim d, Loc loc, uint32_t *out) {
    Function *f = lw->f;
    if (!dim_known(d))
        return diag_error(lw->diag, loc, "the size of a result depends on data, which no function can hold");
    for (size_t i = 0; i < lw->dims.count; i++)
        if (dim_eq(lw->dims.data[i], d)) {
            *out = (uint32_t)i;
            return true;
        }
    DimTerm t;
    ArtDim dim = {(uint32_t)f->terms.count, 0};
    for (uint32_t i = 0; dim_term(lw->g, d, i, &t); i++, dim.count++) {
        ArtTerm term;
        if (!lower_term(lw, &t, &term)) return false;
        VEC_PUSH(lw->arena, &f->terms, term);
    }
    *out = (uint32_t)f->dims.count;
    VEC_PUSH(lw->arena, &f->dims, dim);
    VEC_PUSH(lw->arena, &lw->dims, d);
    return true;
}

/* ---- values ---- */

static bool add_value(Lowering *lw, uint32_t kind, const Type *t, uint32_t tensor, Loc loc, uint32_t *out) {
    ArtValue v = {.kind = kind, .dtype = art_dtype_exact(t->dtype), .rank = t->rank, .tensor = tensor};
    v.name_offset = ART_NO_INDEX;
    if (v.dtype == 0)
        return diag_error(lw->diag, loc, "values of dtype %s cannot be stored in a function",
                          dtype_name(t->dtype));
    for (uint32_t i = 0; i < t->rank; i++)
        if (!lower_dim(lw, t->dim[i], loc, &v.dim[i])) return false;
    *out = (uint32_t)lw->f->values.count;
    VEC_PUSH(lw->arena, &lw->f->values, v);
    VEC_PUSH(lw->arena, &lw->f->names, NULL);
    return true;
}

static bool graph_value(Lowering *lw, ValId v, uint32_t kind, Loc loc) {
    const Value *value = graph_val(lw->g, v);
    uint32_t tensor = 0, number;
    if (kind == ART_V_TENSOR) {
        const Const *c = graph_constant(lw->g, v);
        tensor = program_constant(lw->p, c->data, &value->type, value->name);
    }
    if (!add_value(lw, kind, &value->type, tensor, loc, &number)) return false;
    lw->number[v.id] = number + 1;
    return true;
}

/* A compressed constant that no product reads as its weight: as the floats that it stands for. */
static bool is_compressed(const Graph *g, ValId v) {
    return graph_def_op(g, v) == OP_DEQUANTIZE && value_is_weight(g, v) &&
           graph_type(g, v)->dtype == DT_F32 && graph_type(g, v)->rank <= 4;
}

static bool compressed_value(Lowering *lw, ValId v, Loc loc) {
    WeightView w;
    uint32_t number;
    if (!weight_view(lw->g, v, lw->arena, &w, lw->diag)) return false;
    uint32_t tensor = program_tensor(lw->p, &w, ART_PLAIN, graph_val(lw->g, v)->name);
    if (!add_value(lw, ART_V_TENSOR, graph_type(lw->g, v), tensor, loc, &number)) return false;
    lw->number[v.id] = number + 1;
    return true;
}

/* The number of an operand; constants are added where they are first read. */
static bool operand_number(Lowering *lw, ValId v, Loc loc, uint32_t *out) {
    *out = ART_NO_INDEX;
    if (!val_ok(v)) return true;
    if (lw->number[v.id] == 0 && graph_constant(lw->g, v) != NULL && !graph_value(lw, v, ART_V_TENSOR, loc))
        return false;
    if (lw->number[v.id] == 0 && is_compressed(lw->g, v) && !compressed_value(lw, v, loc)) return false;
    if (lw->number[v.id] == 0) return diag_bug(lw->diag, loc, "a value is read before it is made");
    *out = lw->number[v.id] - 1;
    return true;
}

/* A product's weight as [outputs, inputs], in panels. */
static bool weight_number(Lowering *lw, const Node *n, uint32_t *out) {
    WeightView w;
    if (!weight_view(lw->g, n->in[1], lw->arena, &w, lw->diag)) return false;
    if (!n->attr.trans) weight_transpose(&w);
    Dim dims[2] = {dim_const(w.dim[0]), dim_const(w.dim[1])};
    Type t = type_make(graph_type(lw->g, n->in[1])->dtype, 2, dims);
    uint32_t tensor = program_tensor(lw->p, &w, ART_PANEL16, graph_val(lw->g, n->in[1])->name);
    return add_value(lw, ART_V_TENSOR, &t, tensor, n->loc, out);
}

/* ---- nodes ---- */

static const uint32_t function_op[OP_COUNT] = {/* plus one */
#define FOP(e, lo, hi, nout) [OP_##e] = ART_FN_##e + 1,
                                               ART_FUNCTION_OP_LIST(FOP)
#undef FOP
};

static uint32_t node_flags(const Attr *a) {
    return (a->keep ? ART_FN_KEEP : 0u) | (a->last ? ART_FN_LAST : 0u) |
           (a->exclusive ? ART_FN_EXCLUSIVE : 0u) | (a->reverse ? ART_FN_REVERSE : 0u) |
           (a->smallest ? ART_FN_SMALLEST : 0u) | (a->rms ? ART_FN_RMS : 0u) |
           (a->tanh ? ART_FN_TANH_FORM : 0u);
}

static int32_t clamp_32(int64_t v) {
    return (int32_t)(v < -INT32_MAX ? -INT32_MAX : v > INT32_MAX ? INT32_MAX : v);
}

static bool node_attributes(Lowering *lw, const Node *n, ArtNode *out) {
    const Attr *a = &n->attr;
    uint32_t has = op_info(n->op)->attrs, rank = graph_type(lw->g, n->out[0])->rank;
    out->flags = node_flags(a);
    if (has & A_AXIS) out->axis = (uint32_t)a->axis;
    if (has & A_AXES) out->axes = a->axes;
    if (has & A_BATCH_DIMS) out->batch_dims = (uint32_t)a->batch_dims;
    if (has & A_REDUCE) out->reduce = (uint32_t)a->reduce;
    if (has & A_EPS) out->eps = a->eps;
    if (has & A_ALPHA) out->alpha = a->alpha;
    if (has & A_DIAGONAL) out->diagonal = clamp_32(a->diagonal);
    if (has & A_COUNT) out->count = a->count;
    if (has & A_PERM) memcpy(out->perm, a->perm, rank);
    if ((has & A_VALUE) && !lower_dim(lw, a->value, n->loc, &out->value)) return false;
    for (uint32_t i = 0; i < rank; i++) {
        if ((has & A_STARTS) && !lower_dim(lw, a->starts[i], n->loc, &out->start[i])) return false;
        if (has & A_STEPS) out->step[i] = clamp_32(a->steps[i]); /* so long a step is never taken */
    }
    return true;
}

static bool lower_node(Lowering *lw, const Node *n) {
    Function *f = lw->f;
    ArtNode node;
    memset(&node, 0, sizeof node);
    if (is_compressed(lw->g, n->out[0])) return true;
    if (function_op[n->op] == 0)
        return diag_error(lw->diag, n->loc, "%s cannot run in a function", op_info(n->op)->name);
    if (n->op == OP_LINEAR && n->attr.block > 0)
        return diag_error(lw->diag, n->loc, "a linear that rounds its operand cannot run in a function");
    node.op = function_op[n->op] - 1;
    if (!node_attributes(lw, n, &node)) return false;
    uint32_t number[255];
    for (uint32_t i = 0; i < n->nin; i++) {
        bool weight = n->op == OP_LINEAR && i == 1;
        if (weight ? !weight_number(lw, n, &number[i]) : !operand_number(lw, n->in[i], n->loc, &number[i]))
            return false;
    }
    node.first_operand = (uint32_t)f->operands.count;
    node.n_operands = n->nin;
    for (uint32_t i = 0; i < n->nin; i++) VEC_PUSH(lw->arena, &f->operands, number[i]);
    for (uint32_t i = 0; i < 2; i++) {
        node.out[i] = ART_NO_INDEX;
        if (i >= n->nout) continue;
        if (!graph_value(lw, n->out[i], ART_V_RESULT, n->loc)) return false;
        node.out[i] = lw->number[n->out[i].id] - 1;
    }
    VEC_PUSH(lw->arena, &f->nodes, node);
    return true;
}

static void mark_needed(Lowering *lw) {
    Graph *g = lw->g;
    for (size_t i = 0; i < g->outputs.count; i++) lw->needed[g->outputs.data[i].v.id] = true;
    for (NodeId id = g->last; node_ok(id); id = graph_node(g, id)->prev) {
        const Node *n = graph_node(g, id);
        bool needed = lw->needed[n->out[0].id] || (n->nout > 1 && lw->needed[n->out[1].id]);
        for (uint32_t i = 0; i < n->nin && needed; i++)
            if (val_ok(n->in[i]) && !(n->op == OP_LINEAR && i == 1)) lw->needed[n->in[i].id] = true;
        if (needed && n->nout > 1) lw->needed[n->out[0].id] = true;
    }
}

/* ---- ports ---- */

/* v as a value that no other port is. */
static bool port_value(Lowering *lw, ValId v, const char *name, uint32_t *out) {
    Function *f = lw->f;
    if (!operand_number(lw, v, loc_none(), out)) return false;
    if (f->names.data[*out] != NULL) {
        ArtNode copy;
        memset(&copy, 0, sizeof copy);
        copy.op = ART_FN_RESHAPE;
        copy.first_operand = (uint32_t)f->operands.count;
        copy.n_operands = 1;
        VEC_PUSH(lw->arena, &f->operands, *out);
        if (!add_value(lw, ART_V_RESULT, graph_type(lw->g, v), 0, loc_none(), out)) return false;
        copy.out[0] = *out;
        copy.out[1] = ART_NO_INDEX;
        VEC_PUSH(lw->arena, &f->nodes, copy);
    }
    f->names.data[*out] = name;
    return true;
}

static bool lower_inputs(Lowering *lw) {
    for (size_t i = 0; i < lw->g->inputs.count; i++) {
        const Port *p = &lw->g->inputs.data[i];
        if (!graph_value(lw, p->v, ART_V_INPUT, loc_none())) return false;
        uint32_t number = lw->number[p->v.id] - 1;
        lw->f->names.data[number] = p->name;
        VEC_PUSH(lw->arena, &lw->f->inputs, number);
    }
    return true;
}

static bool lower_outputs(Lowering *lw) {
    for (size_t i = 0; i < lw->g->outputs.count; i++) {
        const Port *p = &lw->g->outputs.data[i];
        uint32_t number;
        if (!port_value(lw, p->v, p->name, &number)) return false;
        VEC_PUSH(lw->arena, &lw->f->outputs, number);
    }
    return true;
}

/* Every token below the vocabulary is a row of the tables that tokens pick from. */
static bool tables_reach(Graph *g, int64_t vocab) {
    FOR_NODES (g, id) {
        const Node *n = graph_node(g, id);
        if (n->op != OP_GATHER || !row_is_tokens(g, n->in[1])) continue;
        Dim rows = graph_type(g, n->in[0])->dim[n->attr.axis];
        if (dim_is_const(rows) && rows.v < vocab) return false;
    }
    return true;
}

/* A GPT that sessions can run: tokens [batch, seq] alone to logits [batch, seq, vocab]. */
static void lower_gpt(Lowering *lw, int64_t ctx) {
    Graph *g = lw->g;
    ArtFunction *h = &lw->f->head;
    Dim batch = dim_sym(g, SYM_BATCH), seq = dim_sym(g, SYM_SEQ);
    h->tokens = h->logits = ART_NO_INDEX;
    if (g->inputs.count != 1 || g->inputs.data[0].role != ROLE_TOKENS) return;
    const Type *in = graph_type(g, g->inputs.data[0].v);
    if (in->rank != 2 || !dim_eq(in->dim[0], batch) || !dim_eq(in->dim[1], seq)) return;
    for (size_t i = 0; i < g->outputs.count; i++) {
        const Type *t = graph_type(g, g->outputs.data[i].v);
        if (g->outputs.data[i].role != ROLE_LOGITS || t->rank != 3 || !dtype_is_float(t->dtype)) continue;
        Dim vocab = t->dim[2];
        if (!dim_eq(t->dim[0], batch) || !dim_eq(t->dim[1], seq) || !dim_is_const(vocab)) continue;
        if (vocab.v > INT32_MAX || !tables_reach(g, vocab.v)) continue;
        h->tokens = 0;
        h->logits = (uint32_t)i;
        lw->p->meta.vocab = (uint32_t)vocab.v;
        lw->p->meta.context = (uint32_t)ctx;
    }
}

bool lower_function(Graph *g, int64_t ctx, Arena *a, Program **out, Diag *d) {
    Program *p = arena_new_of(a, Program);
    Function *f = arena_new_of(a, Function);
    size_t n = g->values.count;
    Lowering lw = {.g = g, .p = p, .f = f, .arena = a, .diag = d};
    lw.needed = arena_array_of(a, n, bool);
    lw.number = arena_array_of(a, n, uint32_t);
    lw.symbol = arena_array_of(a, g->symbols.count, uint32_t);
    p->arena = a;
    p->function = f;
    mark_needed(&lw);
    if (!lower_inputs(&lw)) return false;
    FOR_NODES (g, id)
        if (lw.needed[graph_node(g, id)->out[0].id] && !lower_node(&lw, graph_node(g, id))) return false;
    if (!lower_outputs(&lw)) return false;
    lower_gpt(&lw, ctx);
    ArtFunction *h = &f->head;
    h->n_terms = (uint32_t)f->terms.count;
    h->n_dims = (uint32_t)f->dims.count;
    h->n_nodes = (uint32_t)f->nodes.count;
    h->n_values = (uint32_t)f->values.count;
    h->n_operands = (uint32_t)f->operands.count;
    h->n_inputs = (uint32_t)f->inputs.count;
    h->n_outputs = (uint32_t)f->outputs.count;
    h->n_symbols = (uint32_t)f->symbols.count;
    *out = p;
    return true;
}
