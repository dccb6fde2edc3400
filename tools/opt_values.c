/* opt_values.c: graphs evaluated by the reference on made-up inputs, and tensors compared. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/tolerance.h"
#include "tools/opt.h"

bool graph_has_past(const Graph *g) {
    for (size_t i = 0; i < g->inputs.count; i++)
        if (g->inputs.data[i].role == ROLE_PAST) return true;
    return g->states.count > 0;
}

/* "batch:1,seq:4" */
static bool bind_get(const char *bind, const char *name, int64_t *out) {
    size_t n = strlen(name);
    for (const char *at = bind; at != NULL && *at != '\0'; at = strchr(at, ',')) {
        if (*at == ',') at++;
        if (strncmp(at, name, n) != 0 || at[n] != ':') continue;
        *out = strtoll(at + n + 1, NULL, 10);
        return true;
    }
    return false;
}

static int64_t *bindings(const Graph *g, const Options *o, bool past, Arena *a) {
    int64_t *bind = arena_array_of(a, g->symbols.count, int64_t);
    for (size_t i = 1; i < g->symbols.count; i++) {
        const Symbol *s = &g->symbols.data[i];
        bind[i] = i == SYM_BATCH.id ? 2 : i == SYM_SEQ.id ? 5 : i == SYM_PAST.id ? (past ? 3 : 0) : 4;
        if (i > SYM_PAST.id && s->literal > 0) bind[i] = s->literal;
        bind_get(o->bind, s->name, &bind[i]);
        if (s->max > 0 && bind[i] > s->max) bind[i] = s->max;
    }
    return bind;
}

static void fill_int(Tensor *t, size_t i, int64_t v) {
    memcpy((uint8_t *)t->data + i * dtype_size(t->dtype), &v, dtype_size(t->dtype));
}

static void fill_ones(Tensor *t, size_t count) {
    const float one = 1;
    uint16_t half = t->dtype == DT_F16 ? float_to_half(1) : float_to_bf16(1);
    for (size_t i = 0; i < count; i++) {
        if (t->dtype == DT_F32)
            memcpy((uint8_t *)t->data + i * sizeof(one), &one, sizeof(one));
        else if (dtype_is_float(t->dtype))
            memcpy((uint8_t *)t->data + i * sizeof(half), &half, sizeof(half));
        else
            fill_int(t, i, 1);
    }
}

/* Rows of the smallest table that the input picks from, else `most`: an index that a table has not is an error
 * of the input, not of a pass. */
static int64_t index_bound(const Graph *g, ValId input, int64_t most, Arena *a) {
    bool *from = arena_array_of(a, g->values.count, bool);
    from[input.id] = true;
    FOR_NODES (g, id) {
        const Node *n = graph_node(g, id);
        if (n->op == OP_GATHER && from[n->in[1].id]) {
            Dim rows = graph_type(g, n->in[0])->dim[n->attr.axis];
            if (dim_is_const(rows) && rows.v > 0 && rows.v < most) most = rows.v;
        }
        bool moves = n->op == OP_CAST || (n->op != OP_GATHER && (op_info(n->op)->flags & F_MOVE));
        if (moves && n->nin > 0) from[n->out[0].id] = from[n->in[0].id];
    }
    return most;
}

static bool input_fill(Graph *g, const Port *p, const int64_t *bind, const Options *o, Arena *a, Tensor *t,
                       Diag *d) {
    const Type *type = graph_type(g, p->v);
    memset(t, 0, sizeof(*t));
    t->dtype = type->dtype;
    t->rank = type->rank;
    for (uint32_t i = 0; i < type->rank; i++)
        if (!dim_eval(g, type->dim[i], bind, g->symbols.count, &t->dim[i]) || t->dim[i] < 0)
            return diag_error(d, loc_none(), "input \"%s\" has no size; use --bind", p->name);
    size_t count = tensor_count(t);
    t->data = arena_array(a, count, dtype_size(t->dtype));
    if (p->role == ROLE_MASK || p->role == ROLE_USE_CACHE) {
        fill_ones(t, count);
    } else if (p->role == ROLE_POSITIONS) {
        int64_t seq = t->rank > 0 ? t->dim[t->rank - 1] : 1;
        for (size_t i = 0; i < count; i++) fill_int(t, i, bind[SYM_PAST.id] + (int64_t)i % seq);
    } else if (p->role != ROLE_SEGMENTS) { /* those are 0 */
        uint64_t seed = hash_bytes(p->name, strlen(p->name), (uint64_t)o->seed);
        const_fill_seed(t->dtype, seed, t->data, count);
        if (!dtype_is_int(t->dtype)) return true;
        int64_t below = index_bound(g, p->v, o->range, a);
        for (size_t i = 0; i < count; i++) fill_int(t, i, tensor_get_i64(t, i) % below);
    }
    return true;
}

bool graph_values(Graph *g, const Options *o, bool past, const ValId *want, size_t n, Tensor *out, Arena *a,
                  Diag *d) {
    EvalArgs args = {0};
    int64_t *bind = bindings(g, o, past, a);
    Tensor *in = arena_array_of(a, g->inputs.count, Tensor);
    for (size_t i = 0; i < g->inputs.count; i++)
        if (!input_fill(g, &g->inputs.data[i], bind, o, a, &in[i], d)) return false;
    args.bind = bind;
    args.nbind = g->symbols.count;
    args.inputs = in;
    args.ninputs = g->inputs.count;
    return eval_graph(g, &args, want, n, out, a, d);
}

double tensor_differs(const Tensor *a, const Tensor *b) {
    double max = 0, diff = 0;
    bool floats = dtype_is_float(a->dtype) && dtype_is_float(b->dtype); /* a pass may widen them */
    if ((a->dtype != b->dtype && !floats) || a->rank != b->rank) return INFINITY;
    for (uint32_t i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i]) return INFINITY;
    size_t n = tensor_count(a);
    for (size_t i = 0; i < n; i++) {
        double x = tensor_get_f64(a, i), y = tensor_get_f64(b, i);
        if (x == y || (isnan(x) && isnan(y))) continue;
        if (!isfinite(x) || !isfinite(y)) return INFINITY;
        if (fabs(x - y) > diff) diff = fabs(x - y);
    }
    for (size_t i = 0; i < n; i++)
        if (isfinite(tensor_get_f64(a, i)) && fabs(tensor_get_f64(a, i)) > max)
            max = fabs(tensor_get_f64(a, i));
    return diff == 0 ? 0 : max == 0 ? INFINITY : diff / max;
}

const Port *output_named(const Graph *g, const char *name) {
    for (size_t i = 0; i < g->outputs.count; i++)
        if (strcmp(g->outputs.data[i].name, name) == 0) return &g->outputs.data[i];
    return NULL;
}

double tensor_tolerance(DType t) {
    return t == DT_F16 ? 2e-3 : t == DT_BF16 ? 2e-2 : dtype_is_float(t) ? TOL_PASS_VALUE : 0;
}

bool graphs_share_past(const Graph *a, const Graph *b) {
    for (size_t i = 0; i < a->inputs.count; i++) {
        const Port *p = &a->inputs.data[i];
        bool found = p->role != ROLE_PAST;
        for (size_t k = 0; k < b->inputs.count && !found; k++)
            found = strcmp(b->inputs.data[k].name, p->name) == 0 &&
                    type_eq(graph_type(a, p->v), graph_type(b, b->inputs.data[k].v));
        if (!found) return false;
    }
    return graph_has_past(a) && graph_has_past(b);
}
