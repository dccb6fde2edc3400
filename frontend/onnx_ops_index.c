/* onnx_ops_index.c: ONNX ops that pick or place elements by index. */
#include <string.h>

#include "frontend/import.h"

/* Is v the index along an axis of length seq: iota, reshaped or broadcast, or the positions input? If
 * so, a table it indexes has a row for each position. */
static bool is_position(const Call *c, ValId v) {
    for (int steps = 0; steps < 12; steps++) {
        for (size_t i = 0; i < c->g->inputs.count; i++)
            if (val_eq(c->g->inputs.data[i].v, v)) return c->g->inputs.data[i].role == ROLE_POSITIONS;
        Op op = graph_def_op(c->g, v);
        if (op == OP_IOTA) return dim_depends(c->g, graph_type(c->g, v)->dim[0], SYM_SEQ);
        bool on = op == OP_RESHAPE || op == OP_BROADCAST || op == OP_CAST;
        const Node *n = op == OP_NONE ? NULL : graph_node(c->g, graph_def(c->g, v));
        /* iota + past */
        if (op == OP_ADD && graph_def_op(c->g, n->in[1]) == OP_DIM) on = true;
        if (!on) return false;
        v = n->in[0];
    }
    return false;
}

static bool lower_gather(Call *c) {
    if (!in_has(c, 0) || !in_has(c, 1)) return call_error(c, "an operand is missing");
    uint32_t axis = 0;
    if (!axis_norm(c, attr_int(c, "axis", 0), in_type(c, 0)->rank, &axis)) return false;
    if (axis == 0 && shape_gather(c)) return true;
    ValId in[2] = {in_val(c, 0), in_val(c, 1)};
    Attr a = attr_default();
    a.axis = axis;
    if (!val_ok(in[0]) || !val_ok(in[1])) return false;
    Dim rows = type_of(c, in[0])->dim[axis];
    if (graph_constant(c->g, in[0]) != NULL && dim_is_const(rows) && is_position(c, in[1]) &&
        (c->g->context == 0 || rows.v < c->g->context))
        c->g->context = rows.v;
    return out_val(c, 0, emit(c, OP_GATHER, in, 2, &a, NULL));
}

/* Constant tuples that walk through all of x in order, in a graph of fixed shape: x in another shape. */
static bool walks_through(const Call *c, const Type *x, ValId index, const Type *t) {
    int64_t size[MAX_RANK], count = 1, rows = 1, at = 0;
    if (!c->im->fixed || graph_constant(c->g, index) == NULL || t->rank == 0) return false;
    if (x->rank == 0 || !dim_eq(t->dim[t->rank - 1], dim_const(x->rank))) return false;
    for (uint32_t i = 0; i < x->rank; i++) {
        size[i] = dim_literal(c->g, x->dim[i]);
        if (size[i] <= 0 || !mul_i64(count, size[i], &count) || count > FOLD_MAX) return false;
    }
    for (uint32_t i = 0; i + 1 < t->rank; i++)
        if (!mul_i64(rows, t->dim[i].v, &rows)) return false;
    if (rows != count) return false;
    for (int64_t row = 0; row < rows; row++) {
        int64_t rest = row;
        for (uint32_t i = x->rank; i-- > 0; rest /= size[i]) {
            if (!const_get_i64(c->g, index, (size_t)row * x->rank + i, &at)) return false;
            if (at != rest % size[i]) return false;
        }
    }
    return true;
}

static bool lower_gather_nd(Call *c) {
    ValId in[2] = {in_val(c, 0), in_val(c, 1)};
    Attr a = attr_default();
    a.batch_dims = attr_int(c, "batch_dims", 0);
    if (!val_ok(in[0]) || !val_ok(in[1])) return false;
    const Type *t = type_of(c, in[1]);
    if (a.batch_dims == 0 && walks_through(c, type_of(c, in[0]), in[1], t)) {
        Dim dims[MAX_RANK];
        uint32_t rank = t->rank - 1u;
        if (!shape_reshape_target(c, type_of(c, in[0]), t->dim, rank, true, dims)) return false;
        return out_val(c, 0, emit_reshape(c, in[0], rank, dims));
    }
    if (a.batch_dims == 0 && t->rank > 0 && type_of(c, in[0])->rank > 0 &&
        dim_eq(t->dim[t->rank - 1], dim_const(1))) { /* tuples of one: rows of the first axis */
        Dim dims[MAX_RANK];
        memcpy(dims, t->dim, sizeof(dims));
        in[1] = emit_reshape(c, in[1], t->rank - 1u, dims);
        a.axis = 0;
        return out_val(c, 0, emit(c, OP_GATHER, in, 2, &a, NULL));
    }
    return out_val(c, 0, emit(c, OP_GATHER_ND, in, 2, &a, NULL));
}

static bool lower_gather_elements(Call *c) {
    ValId in[2] = {in_val(c, 0), in_val(c, 1)};
    Attr a = attr_default();
    uint32_t axis = 0;
    if (!val_ok(in[0]) || !axis_norm(c, attr_int(c, "axis", 0), type_of(c, in[0])->rank, &axis)) return false;
    a.axis = axis;
    return out_val(c, 0, emit(c, OP_GATHER_ELEMENTS, in, 2, &a, NULL));
}

static bool reduction(Call *c, int64_t *out) {
    static const char *const names[] = {"none", "add", "mul", "max", "min"};
    const char *s = attr_string(c, "reduction", "none");
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (strcmp(names[i], s) == 0) {
            *out = (int64_t)i;
            return true;
        }
    return call_error(c, "reduction '%s' is not supported", s);
}

static bool lower_scatter_nd(Call *c) {
    ValId in[3] = {in_val(c, 0), in_val(c, 1), in_val(c, 2)};
    Attr a = attr_default();
    return reduction(c, &a.reduce) && out_val(c, 0, emit(c, OP_SCATTER_ND, in, 3, &a, NULL));
}

static bool lower_scatter_elements(Call *c) {
    ValId in[3] = {in_val(c, 0), in_val(c, 1), in_val(c, 2)};
    Attr a = attr_default();
    uint32_t axis = 0;
    if (!val_ok(in[0]) || !axis_norm(c, attr_int(c, "axis", 0), type_of(c, in[0])->rank, &axis)) return false;
    a.axis = axis;
    return reduction(c, &a.reduce) && out_val(c, 0, emit(c, OP_SCATTER_ELEMENTS, in, 3, &a, NULL));
}

static bool lower_trilu(Call *c) {
    ValId v = in_val(c, 0);
    Attr a = attr_default();
    if (in_has(c, 1) && !in_int(c, 1, "k", &a.diagonal)) return false;
    Op op = attr_int(c, "upper", 1) != 0 ? OP_TRIU : OP_TRIL;
    return out_val(c, 0, emit(c, op, &v, 1, &a, NULL));
}

/* indices == iota(depth) along a new axis ? on : off; negative indices count from the end. */
static bool lower_one_hot(Call *c) {
    ValId index = in_val(c, 0), values = in_val(c, 2);
    if (!val_ok(index) || !val_ok(values)) return false;
    uint32_t n = 0, axis = 0, rank = type_of(c, index)->rank;
    const Dim *depth = in_dims(c, 1, &n);
    Dim fixed;
    if (depth == NULL && in_has(c, 1)) {
        double v = 0;
        ValId x = in_val(c, 1);
        if (!val_ok(x)) return false;
        if (!const_scalar(c->g, x, &v) || !(v >= 0 && v < 1e9)) return call_error(c, "depth must be known");
        fixed = dim_const((int64_t)v);
        depth = &fixed;
    }
    if (depth == NULL || !axis_norm(c, attr_int(c, "axis", -1), rank + 1, &axis))
        return depth == NULL ? call_error(c, "depth must be known") : false;
    index = emit_cast(c, index, DT_I64);
    ValId negative = emit2(c, OP_LT, index, graph_const_i64(c->g, 0));
    ValId wrapped = emit2(c, OP_ADD, index, emit_dim(c, DT_I64, *depth));
    index = emit_insert_axis(c, emit3(c, OP_WHERE, negative, wrapped, index), axis);
    Dim dims[MAX_RANK];
    for (uint32_t i = 0; i <= rank && i < MAX_RANK; i++) dims[i] = dim_const(1);
    if (!val_ok(index)) return false;
    dims[axis] = *depth;
    ValId column = emit_reshape(c, emit_iota(c, DT_I64, *depth), rank + 1, dims);
    ValId off = emit_reshape(c, emit_slice(c, values, 0, dim_const(0), 1, dim_const(1)), 0, NULL);
    ValId on = emit_reshape(c, emit_slice(c, values, 0, dim_const(1), 1, dim_const(1)), 0, NULL);
    return out_val(c, 0, emit3(c, OP_WHERE, emit2(c, OP_EQ, index, column), on, off));
}

/* The result's length is a symbol of its own, which running the node binds. */
static ValId nonzero_of_data(Call *c, ValId v) {
    const char *name = arena_printf(c->im->arena, "hits_%zu", c->g->symbols.count);
    SymId s = symbol_add(c->g, name, strlen(name));
    c->g->symbols.data[s.id].counted = true;
    Dim dims[2] = {dim_const(type_of(c, v)->rank), dim_sym(c->g, s)};
    Type t = type_make(DT_I64, 2, dims);
    return emit(c, OP_NONZERO, &v, 1, NULL, &t);
}

/* Of a constant it is a constant. */
static bool lower_nonzero(Call *c) {
    ValId v = in_val(c, 0);
    if (!val_ok(v)) return false;
    const Type *t = type_of(c, v);
    if (graph_constant(c->g, v) == NULL) return out_val(c, 0, nonzero_of_data(c, v));
    int64_t count = 1, hits = 0, stride[MAX_RANK];
    for (uint32_t i = t->rank; i-- > 0;) {
        stride[i] = count;
        count *= t->dim[i].v;
    }
    if (count > FOLD_MAX || t->rank == 0) return call_error(c, "the constant is too large");
    int64_t *at = arena_array_of(c->im->scratch, (size_t)count, int64_t);
    for (int64_t i = 0; i < count; i++) {
        double x = 0;
        if (const_get_f64(c->g, v, (size_t)i, &x) && x != 0) at[hits++] = i;
    }
    int64_t *out = arena_array_of(c->im->scratch, (size_t)hits * t->rank, int64_t);
    for (uint32_t k = 0; k < t->rank; k++)
        for (int64_t i = 0; i < hits; i++) out[(int64_t)k * hits + i] = at[i] / stride[k] % t->dim[k].v;
    Dim dims[2] = {dim_const(t->rank), dim_const(hits)};
    return out_val(c, 0,
                   emit_const(c, type_make(DT_I64, 2, dims), out, (size_t)hits * t->rank * sizeof(int64_t)));
}

const OpRule onnx_rules_index[] = {
    {"", "Gather", 1, 0, lower_gather, 0},
    {"", "GatherND", 11, 0, lower_gather_nd, 0},
    {"com.microsoft", "GatherND", 1, 0, lower_gather_nd, 0},
    {"", "GatherElements", 11, 0, lower_gather_elements, 0},
    {"", "ScatterND", 11, 0, lower_scatter_nd, 0},
    {"", "ScatterElements", 11, 0, lower_scatter_elements, 0},
    {"", "Scatter", 9, 10, lower_scatter_elements, 0},
    {"", "Trilu", 14, 0, lower_trilu, 0},
    {"com.microsoft", "Trilu", 1, 0, lower_trilu, 0},
    {"", "OneHot", 9, 0, lower_one_hot, 0, T_ANY, "the depth must be known when compiling"},
    {"", "NonZero", 9, 0, lower_nonzero, 0, T_ANY, "of data: only to route rows to experts"},
    {0},
};
