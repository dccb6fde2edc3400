/* onnx_ops_loop.c: Loop and Scan with a number of rounds that is known when compiling: one round after the
 * other is lowered, so that nothing of the loop is left. */
#include <string.h>

#include "frontend/import.h"

#define ROUNDS_MAX 4096
#define STATES_MAX 256

/* What the nodes of a body make is made anew in every round. */
static void body_reset(Import *im, const IBody *b) {
    for (size_t i = 0; i < b->nnodes; i++) {
        const INode *n = &b->nodes[i];
        for (size_t k = 0; k < n->nout; k++) {
            Tv *t = &im->tensors.data[n->out[k]];
            if (n->out[k] != 0) *t = (Tv){.name = t->name};
        }
        for (size_t k = 0; k < n->nbodies; k++) body_reset(im, &n->bodies[k]);
    }
}

static void tensor_set(Import *im, uint32_t id, const Tv *from) {
    const char *name = im->tensors.data[id].name;
    im->tensors.data[id] = *from;
    im->tensors.data[id].name = name;
    im->tensors.data[id].init = NULL;
}

static void tensor_set_dim(Import *im, uint32_t id, DType t, int64_t v) {
    Dim d = dim_const(v);
    Tv x = {.set = true, .type = type_scalar(t), .dims = arena_dup(im->scratch, &d, sizeof(d)), .ndims = 1};
    tensor_set(im, id, &x);
}

/* Values that go from round to round: before the first, then what the body gives. */
static bool states_load(Call *c, const uint32_t *from, size_t n, Tv *state) {
    for (size_t i = 0; i < n; i++) {
        if (from[i] == 0) return call_error(c, "a value that goes from round to round is missing");
        if (!tensor_loaded(c->im, from[i], c->loc)) return false;
        state[i] = c->im->tensors.data[from[i]];
    }
    return true;
}

typedef VEC(ValId) Rows;

/* Rounds' results beside one another along a new axis in front. */
static bool rows_join(Call *c, size_t o, const Rows *rows, uint32_t axis) {
    if (!out_used(c, o)) return true;
    if (rows->count == 0) return call_error(c, "output %zu gathers the results of no round", o);
    ValId *part = arena_array_of(c->im->scratch, rows->count, ValId);
    for (size_t i = 0; i < rows->count; i++) part[i] = emit_insert_axis(c, rows->data[i], axis);
    return out_val(c, o, emit_concat(c, part, rows->count, axis));
}

static bool rows_add(Call *c, Rows *rows, uint32_t tensor) {
    ValId v = tensor_value(c->im, tensor, c->loc);
    if (val_ok(v)) VEC_PUSH(c->im->scratch, rows, v);
    return val_ok(v);
}

static bool body_run(Call *c, const IBody *b) {
    if (!import_run_nodes(c->im, b->nodes, b->nnodes)) return false;
    for (size_t i = 0; i < b->nout; i++)
        if (!tensor_loaded(c->im, b->out[i], c->loc)) return false;
    return true;
}

static void states_give(Call *c, const Tv *state, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (out_used(c, i)) tensor_set(c->im, c->n->out[i], &state[i]);
}

/* A bool of one element that is known when compiling. */
static bool known_bool(Import *im, uint32_t tensor, bool *out) {
    const Tv *t = &im->tensors.data[tensor];
    double x = 0;
    if (t->dims != NULL && t->ndims == 1 && dim_is_const(t->dims[0]))
        x = (double)t->dims[0].v;
    else if (!val_ok(t->val) || !const_scalar(im->g, t->val, &x))
        return false;
    *out = x != 0;
    return true;
}

static bool rounds_known(Call *c, int64_t *rounds, bool *go) {
    *rounds = ROUNDS_MAX;
    *go = true;
    uint32_t n = 0;
    const Dim *d = in_has(c, 0) ? in_dims(c, 0, &n) : NULL;
    if (in_has(c, 0) && (d == NULL || n != 1 || !dim_is_const(d[0])))
        return call_error(c,
                          "the number of rounds is not known when compiling; hint: export without loops over "
                          "tokens or data");
    if (d != NULL) *rounds = d[0].v < 0 ? 0 : d[0].v;
    if (in_has(c, 1) && !known_bool(c->im, c->n->in[1], go))
        return call_error(c, "whether to start is not known when compiling");
    return true;
}

static bool lower_loop(Call *c) {
    const INode *n = c->n;
    int64_t rounds = 0;
    bool go = true;
    if (n->nbodies != 1 || n->nin < 2) return call_error(c, "the body is missing");
    const IBody *b = &n->bodies[0];
    size_t nstate = n->nin - 2;
    if (b->nin != nstate + 2 || b->nout < nstate + 1 || b->nout - 1 < n->nout || nstate > STATES_MAX)
        return call_error(c, "the body takes %zu and gives %zu values, which does not fit", b->nin, b->nout);
    size_t nrows = b->nout - 1 - nstate;
    Tv *state = arena_array_of(c->im->scratch, nstate, Tv);
    Rows *rows = arena_array_of(c->im->scratch, nrows, Rows);
    if (!rounds_known(c, &rounds, &go) || !states_load(c, n->in + 2, nstate, state)) return false;
    for (int64_t i = 0; i < rounds && go; i++) {
        if (i == ROUNDS_MAX || (c->im->inlined += b->nnodes) > NODES_MAX)
            return call_error(c, "too many rounds");
        body_reset(c->im, b);
        tensor_set_dim(c->im, b->in[0], DT_I64, i);
        tensor_set_dim(c->im, b->in[1], DT_BOOL, 1);
        for (size_t k = 0; k < nstate; k++) tensor_set(c->im, b->in[2 + k], &state[k]);
        if (!body_run(c, b) || !states_load(c, b->out + 1, nstate, state)) return false;
        for (size_t k = 0; k < nrows; k++)
            if (!rows_add(c, &rows[k], b->out[1 + nstate + k])) return false;
        if (!known_bool(c->im, b->out[0], &go))
            return call_error(c,
                              "whether to go on depends on data; hint: export with a fixed number of rounds");
        if (go && i + 1 == rounds && !in_has(c, 0)) return call_error(c, "more than %d rounds", ROUNDS_MAX);
    }
    states_give(c, state, nstate);
    for (size_t k = 0; k < nrows; k++)
        if (!rows_join(c, nstate + k, &rows[k], 0)) return false;
    return true;
}

/* Row i of a scanned operand. */
static ValId scan_row(Call *c, ValId v, uint32_t axis, int64_t i) {
    v = emit_slice(c, v, axis, dim_const(i), 1, dim_const(1));
    if (!val_ok(v)) return v;
    Type t = *type_of(c, v);
    for (uint32_t k = axis; k + 1 < t.rank; k++) t.dim[k] = t.dim[k + 1];
    return emit_reshape(c, v, t.rank - 1u, t.dim);
}

static int64_t list_at(Call *c, const char *name, size_t i) {
    size_t n = 0;
    const int64_t *v = attr_ints(c, name, &n);
    return i < n ? v[i] : 0;
}

typedef struct {
    const IBody *b;
    size_t nstate, nscan, nrows;
    ValId *in; /* scanned operands and their axes */
    uint32_t *axis;
    int64_t rounds;
} ScanLoop;

static bool scan_open(Call *c, ScanLoop *s) {
    const INode *n = c->n;
    int64_t nscan = attr_int(c, "num_scan_inputs", 0);
    if (n->nbodies != 1 || nscan < 1 || nscan > (int64_t)n->nin)
        return call_error(c, "the body or its inputs are missing");
    s->b = &n->bodies[0];
    s->nscan = (size_t)nscan;
    s->nstate = n->nin - s->nscan;
    if (s->b->nin != n->nin || s->b->nout < s->nstate || s->b->nout < n->nout)
        return call_error(c, "the body takes %zu and gives %zu values, which does not fit", s->b->nin,
                          s->b->nout);
    s->nrows = s->b->nout - s->nstate;
    s->in = arena_array_of(c->im->scratch, s->nscan, ValId);
    s->axis = arena_array_of(c->im->scratch, s->nscan, uint32_t);
    for (size_t k = 0; k < s->nscan; k++) {
        s->in[k] = in_val(c, s->nstate + k);
        if (!val_ok(s->in[k])) return false;
        if (!axis_norm(c, list_at(c, "scan_input_axes", k), type_of(c, s->in[k])->rank, &s->axis[k]))
            return false;
        Dim d = type_of(c, s->in[k])->dim[s->axis[k]];
        if (!dim_is_const(d) || d.v > ROUNDS_MAX)
            return call_error(
                c,
                "the number of rounds is not known when compiling, or above %d; hint: export without "
                "loops over tokens",
                ROUNDS_MAX);
        if (k > 0 && d.v != s->rounds) return call_error(c, "the scanned operands differ in length");
        s->rounds = d.v;
    }
    return true;
}

static bool lower_scan(Call *c) {
    ScanLoop s = {0};
    if (!scan_open(c, &s)) return false;
    Import *im = c->im;
    Tv *state = arena_array_of(im->scratch, s.nstate, Tv);
    Rows *rows = arena_array_of(im->scratch, s.nrows, Rows);
    if (!states_load(c, c->n->in, s.nstate, state)) return false;
    for (int64_t i = 0; i < s.rounds; i++) {
        if ((im->inlined += s.b->nnodes) > NODES_MAX) return call_error(c, "too many rounds");
        body_reset(im, s.b);
        for (size_t k = 0; k < s.nstate; k++) tensor_set(im, s.b->in[k], &state[k]);
        for (size_t k = 0; k < s.nscan; k++) {
            bool back = list_at(c, "scan_input_directions", k) != 0;
            ValId v = scan_row(c, s.in[k], s.axis[k], back ? s.rounds - 1 - i : i);
            if (!val_ok(v)) return false;
            Tv x = {.set = true, .val = v, .type = *type_of(c, v)};
            tensor_set(im, s.b->in[s.nstate + k], &x);
        }
        if (!body_run(c, s.b) || !states_load(c, s.b->out, s.nstate, state)) return false;
        for (size_t k = 0; k < s.nrows; k++)
            if (!rows_add(c, &rows[k], s.b->out[s.nstate + k])) return false;
    }
    states_give(c, state, s.nstate);
    for (size_t k = 0; k < s.nrows; k++) {
        bool back = list_at(c, "scan_output_directions", k) != 0;
        for (size_t a = 0, z = rows[k].count; back && a + 1 < z; a++) {
            ValId swap = rows[k].data[a];
            rows[k].data[a] = rows[k].data[--z];
            rows[k].data[z] = swap;
        }
        uint32_t axis = 0;
        if (rows[k].count > 0 &&
            !axis_norm(c, list_at(c, "scan_output_axes", k), type_of(c, rows[k].data[0])->rank + 1u, &axis))
            return false;
        if (!rows_join(c, s.nstate + k, &rows[k], axis)) return false;
    }
    return true;
}

const OpRule onnx_rules_loop[] = {
    {"", "Loop", 1, 0, lower_loop, 0, T_ANY, "the number of rounds must be known when compiling",
     .sequences = true},
    {"", "Scan", 9, 0, lower_scan, 0, T_ANY, "the number of rounds must be known when compiling"},
    {0},
};
