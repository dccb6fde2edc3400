/* infer.c: result types from operand types, one function per rule named in ops.def.
 *
 * Symbolic dimensions are equal when their handles are. What cannot be proven from types (that a
 * symbolic slice stays inside its operand) is left to the evaluation; what they contradict is an
 * error here, with all operand types in the message. infer_move.c has what moves elements, infer_transformer.c products,
 * quantisation and what transformers are made of. */
#include "ir/infer.h"

bool infer_fail(Infer *c, const char *what) {
    const OpInfo *info = op_info(c->n->op);
    Text t = text_new(c->d->arena);
    text_printf(&t, "%s: %s", info->name, what);
    for (uint32_t i = 0; i < c->n->nin && i < 8; i++) {
        text_add(&t, i == 0 ? "; operands " : ", ");
        const Type *ty = operand(c, i);
        if (ty == NULL)
            text_add(&t, "_");
        else
            type_print(&t, c->g, ty);
    }
    if (c->n->nin > 8) text_add(&t, ", ...");
    if (info->flags & F_TYPED) {
        text_add(&t, c->n->nin == 0 ? "; result " : ", result ");
        type_print(&t, c->g, given(c));
    }
    return diag_error(c->d, c->n->loc, "%s", t.data);
}

bool infer_given_ok(Infer *c) {
    const Type *t = given(c);
    if (t->dtype <= DT_NONE || t->dtype >= DT_COUNT) return infer_fail(c, "the result has no dtype");
    if (t->rank > MAX_RANK) return infer_fail(c, "the result's rank is above 8");
    for (uint32_t i = 0; i < t->rank; i++) {
        Dim d = t->dim[i];
        if (!dim_known(d)) return infer_fail(c, "a dimension of the result is not known");
        if (dim_is_const(d) && d.v < 0) return infer_fail(c, "a dimension of the result is negative");
    }
    return true;
}

/* ---- elementwise ---- */

static bool unary_takes(Op op, DType t) {
    switch (op) {
    case OP_NOT: return t == DT_BOOL;
    case OP_TRIL:
    case OP_TRIU: return true;
    case OP_NEG:
    case OP_ABS:
    case OP_SIGN:
    case OP_RELU:
    case OP_CUMSUM: return is_numeric(t);
    default: return dtype_is_float(t);
    }
}

bool infer_same(Infer *c) {
    const Type *x = operand(c, 0);
    Op op = c->n->op;
    if (!unary_takes(op, x->dtype)) return infer_fail(c, "not defined for this dtype");
    if ((op == OP_TRIL || op == OP_TRIU) && x->rank < 2) return infer_fail(c, "needs two axes or more");
    if ((op == OP_CUMSUM || op == OP_SOFTMAX) && !axis_ok(c, x))
        return infer_fail(c, "axis is outside the operand's rank");
    return set_type(c, 0, *x);
}

bool infer_test(Infer *c) {
    Type t = *operand(c, 0);
    if (!dtype_is_float(t.dtype)) return infer_fail(c, "not defined for this dtype");
    t.dtype = DT_BOOL;
    return set_type(c, 0, t);
}

bool infer_typed_like(Infer *c) {
    if (!infer_given_ok(c)) return false;
    if (!dims_eq(operand(c, 0), given(c))) return infer_fail(c, "the result's shape is not the operand's");
    return true;
}

static bool broadcast_pair(Infer *c, Type *out) {
    if (!type_broadcast(operand(c, 0), operand(c, 1), out)) return infer_fail(c, "shapes do not broadcast");
    return true;
}

bool infer_binary(Infer *c) {
    const Type *a = operand(c, 0), *b = operand(c, 1);
    Type t = {0};
    if (a->dtype != b->dtype) return infer_fail(c, "operands have different dtypes");
    bool ok = is_numeric(a->dtype);
    if (c->n->op == OP_AND || c->n->op == OP_OR || c->n->op == OP_XOR)
        ok = a->dtype == DT_BOOL || dtype_is_int(a->dtype);
    else if (c->n->op == OP_MIN || c->n->op == OP_MAX)
        ok = true;
    if (!ok) return infer_fail(c, "not defined for this dtype");
    if (!broadcast_pair(c, &t)) return false;
    t.dtype = a->dtype;
    return set_type(c, 0, t);
}

bool infer_binary_left(Infer *c) {
    const Type *a = operand(c, 0), *b = operand(c, 1);
    Type t = {0};
    if (!is_numeric(a->dtype) || !is_numeric(b->dtype)) return infer_fail(c, "not defined for this dtype");
    if (!broadcast_pair(c, &t)) return false;
    t.dtype = a->dtype;
    return set_type(c, 0, t);
}

bool infer_compare(Infer *c) {
    const Type *a = operand(c, 0), *b = operand(c, 1);
    Type t = {0};
    if (a->dtype != b->dtype) return infer_fail(c, "operands have different dtypes");
    if (c->n->op != OP_EQ && !is_numeric(a->dtype)) return infer_fail(c, "not defined for this dtype");
    if (!broadcast_pair(c, &t)) return false;
    t.dtype = DT_BOOL;
    return set_type(c, 0, t);
}

bool infer_where(Infer *c) {
    const Type *cond = operand(c, 0), *a = operand(c, 1), *b = operand(c, 2);
    Type ab = {0}, t = {0};
    if (cond->dtype != DT_BOOL) return infer_fail(c, "the condition is not bool");
    if (a->dtype != b->dtype) return infer_fail(c, "operands have different dtypes");
    if (!type_broadcast(a, b, &ab) || !type_broadcast(cond, &ab, &t))
        return infer_fail(c, "shapes do not broadcast");
    t.dtype = a->dtype;
    return set_type(c, 0, t);
}

/* ---- sources ---- */

bool infer_typed(Infer *c) {
    if (!infer_given_ok(c)) return false;
    const Type *t = given(c);
    if (c->n->op == OP_DIM) {
        if (t->rank != 0 || !dtype_is_int(t->dtype))
            return infer_fail(c, "the result is not an integer scalar");
        if (!dim_known(c->n->attr.value)) return infer_fail(c, "the dimension is not known");
        return true;
    }
    if (!is_numeric(t->dtype)) return infer_fail(c, "not defined for this dtype");
    if (!axis_ok(c, t)) return infer_fail(c, "axis is outside the result's rank");
    return true;
}

/* ---- reductions ---- */

bool infer_reduce(Infer *c) {
    const Type *x = operand(c, 0);
    uint32_t axes = c->n->attr.axes;
    bool any = c->n->op == OP_REDUCE_MAX || c->n->op == OP_REDUCE_MIN;
    if (!any && !is_numeric(x->dtype)) return infer_fail(c, "not defined for this dtype");
    if (axes >> x->rank != 0) return infer_fail(c, "an axis is outside the operand's rank");
    Type t = {.dtype = x->dtype};
    for (uint32_t i = 0; i < x->rank; i++) {
        if (!(axes >> i & 1u))
            t.dim[t.rank++] = x->dim[i];
        else if (c->n->attr.keep)
            t.dim[t.rank++] = dim_const(1);
    }
    return set_type(c, 0, t);
}

bool infer_arg(Infer *c) {
    const Type *x = operand(c, 0);
    if (!axis_ok(c, x)) return infer_fail(c, "axis is outside the operand's rank");
    if (!is_numeric(x->dtype)) return infer_fail(c, "not defined for this dtype");
    Type t = {.dtype = DT_I64};
    for (uint32_t i = 0; i < x->rank; i++) {
        if (i != (uint32_t)c->n->attr.axis)
            t.dim[t.rank++] = x->dim[i];
        else if (c->n->attr.keep)
            t.dim[t.rank++] = dim_const(1);
    }
    return set_type(c, 0, t);
}

bool infer_nonzero(Infer *c) {
    const Type *x = operand(c, 0), *t = given(c);
    if (!infer_given_ok(c)) return false;
    if (t->dtype != DT_I64 || t->rank != 2 || !dim_eq(t->dim[0], dim_const(x->rank)))
        return infer_fail(c, "the result is not i64[rank, n]");
    if (dim_symbol(c->g, t->dim[1]).id <= SYM_PAST.id)
        return infer_fail(c, "the result's length is no symbol of its own");
    return true;
}

bool infer_topk(Infer *c) {
    Type t = *operand(c, 0);
    int64_t count = c->n->attr.count;
    if (!axis_ok(c, &t)) return infer_fail(c, "axis is outside the operand's rank");
    if (!is_numeric(t.dtype)) return infer_fail(c, "not defined for this dtype");
    Dim *dim = &t.dim[c->n->attr.axis];
    if (count < 0 || count > DIM_MAX || (dim_is_const(*dim) && count > dim->v))
        return infer_fail(c, "count is negative or longer than the axis");
    *dim = dim_const(count);
    set_type(c, 0, t);
    t.dtype = DT_I64;
    return set_type(c, 1, t);
}

bool infer_node(Graph *g, NodeId id, Diag *d) {
    static InferFn *const table[OP_COUNT] = {
#define OP(e, text, lo, hi, nout, attrs, flags, infer, eval, axes, doc) [OP_##e] = infer_##infer,
#include "ir/ops.def"
#undef OP
    };
    const Node *n = graph_node(g, id);
    if (n->op <= OP_NONE || n->op >= OP_COUNT)
        return diag_bug(d, n->loc, "node #%u has no op", (unsigned)id.id);
    const OpInfo *info = op_info(n->op);
    if (n->nin < info->min_in || n->nin > info->max_in)
        return diag_error(d, n->loc, "%s: %u operands; it takes %u to %u", info->name, n->nin, info->min_in,
                          info->max_in);
    if (n->nout != info->nout)
        return diag_bug(d, n->loc, "%s: %u results; it has %u", info->name, n->nout, info->nout);
    for (uint32_t i = 0; i < n->nin; i++) {
        bool none = !val_ok(n->in[i]);
        if (none ? i < info->min_in : n->in[i].id >= g->values.count)
            return diag_error(d, n->loc, "%s: operand %u is missing", info->name, i + 1);
    }
    Infer c = {g, n, d};
    return table[n->op](&c);
}
