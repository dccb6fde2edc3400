/* eval.c: runs nodes of a graph with the functions of eval_*.c.
 *
 * What the wanted values need is marked backwards, then run forwards; each intermediate is counted
 * down by its needed users and freed at the last one. Constants and inputs are read where they lie.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/eval.h"

#define DEFAULT_MAX_BYTES ((size_t)8 << 30)

bool eval_error(EvalCtx *e, const char *fmt, ...) {
    Text t = text_new(e->d->arena);
    text_printf(&t, "%s: ", op_info(e->n->op)->name);
    va_list ap;
    va_start(ap, fmt);
    text_vprintf(&t, fmt, ap);
    va_end(ap);
    return diag_error(e->d, e->n->loc, "%s", t.data);
}

static const char *dim_text(const Graph *g, Dim d, Diag *diag) {
    Text t = text_new(diag->arena);
    dim_print(&t, g, d);
    return t.data;
}

bool eval_dim_value(EvalCtx *e, Dim d, int64_t *out) {
    if (dim_eval(e->g, d, e->bind, e->nbind, out)) return true;
    return eval_error(e, "dimension %s has no value; a symbol is not bound or it overflows",
                      dim_text(e->g, d, e->d));
}

/* The dtype and shape of v under the binding, without data. */
static bool tensor_shape(const Graph *g, ValId v, const int64_t *bind, size_t nbind, Loc loc, Tensor *out,
                         size_t *bytes, Diag *d) {
    const Type *t = graph_type(g, v);
    *out = (Tensor){.dtype = t->dtype, .rank = t->rank};
    *bytes = dtype_size(t->dtype);
    bool fits = true, empty = false;
    for (uint32_t i = 0; i < t->rank; i++) {
        int64_t n = 0;
        if (!dim_eval(g, t->dim[i], bind, nbind, &n))
            return diag_error(d, loc,
                              "value %%%u: dimension %s has no value; a symbol is not bound or "
                              "it overflows",
                              v.id, dim_text(g, t->dim[i], d));
        if (n < 0)
            return diag_error(d, loc, "value %%%u: dimension %s is %lld", v.id, dim_text(g, t->dim[i], d),
                              (long long)n);
        out->dim[i] = n;
        if (n == 0)
            empty = true;
        else
            fits = fits && mul_size(*bytes, (size_t)n, bytes) && *bytes <= PTRDIFF_MAX;
    }
    /* Also empty tensors have strides, which must not overflow. */
    if (!fits) return diag_error(d, loc, "value %%%u is too big to evaluate", v.id);
    if (empty) *bytes = 0;
    return true;
}

static bool run_node(Graph *g, const Node *n, const Tensor *const *in, const int64_t *bind, size_t nbind,
                     Tensor *out, Arena *scratch, Diag *d) {
    static EvalFn *const table[OP_COUNT] = {
#define OP(e, text, lo, hi, nout, attrs, flags, infer, eval, axes, doc) [OP_##e] = eval_##eval,
#include "ir/ops.def"
#undef OP
    };
    EvalCtx e = {g, n, in, out, bind, nbind, scratch, d};
    ArenaMark mark = arena_mark(scratch);
    bool ok = table[n->op](&e);
    arena_reset(scratch, mark);
    return ok;
}

bool eval_node(Graph *g, NodeId id, const Tensor *const *in, const int64_t *bind, size_t nbind, Tensor *out,
               Arena *a, Diag *d) {
    const Node *n = graph_node(g, id);
    if (n->op <= OP_NONE || n->op >= OP_COUNT)
        return diag_bug(d, n->loc, "node #%u has no op", (unsigned)id.id);
    for (uint32_t i = 0; i < n->nin; i++) {
        Tensor want = {0};
        size_t bytes = 0;
        if (!val_ok(n->in[i])) continue;
        if (!tensor_shape(g, n->in[i], bind, nbind, n->loc, &want, &bytes, d)) return false;
        bool same = in[i] != NULL && in[i]->dtype == want.dtype && in[i]->rank == want.rank &&
                    memcmp(in[i]->dim, want.dim, want.rank * sizeof(want.dim[0])) == 0;
        if (!same || (bytes != 0 && in[i]->data == NULL))
            return diag_bug(d, n->loc, "%s: operand %u is not of its value's type", op_info(n->op)->name,
                            i + 1);
    }
    for (uint32_t i = 0; i < n->nout; i++) {
        size_t bytes = 0;
        if (!tensor_shape(g, n->out[i], bind, nbind, n->loc, &out[i], &bytes, d)) return false;
        if (bytes > DEFAULT_MAX_BYTES)
            return diag_error(d, n->loc, "%s: the result is too big to evaluate", op_info(n->op)->name);
        out[i].data = arena_alloc(a, bytes);
    }
    Arena *scratch = arena_new();
    bool ok = run_node(g, n, in, bind, nbind, out, scratch, d);
    arena_free(scratch);
    return ok;
}

/* ---- whole graphs ---- */

typedef struct {
    Tensor t;
    size_t bytes;   /* owned; 0 when borrowed or empty */
    uint32_t users; /* needed nodes that are still to read it, and 1 when wanted */
    bool owned;
} Slot;

typedef struct {
    Graph *g;
    const EvalArgs *args;
    int64_t *bind; /* a copy for all symbols: nonzero binds the length of its result */
    size_t nbind;
    Slot *slot;   /* by value id */
    bool *needed; /* by node id */
    size_t held, max;
    Arena *scratch;
    Diag *d;
} Run;

static void mark_needed(Run *r, const ValId *want, size_t nwant) {
    const Graph *g = r->g;
    for (size_t i = 0; i < nwant; i++) r->slot[want[i].id].users++;
    for (NodeId id = g->last; node_ok(id); id = graph_node(g, id)->prev) {
        const Node *n = graph_node(g, id);
        for (uint32_t i = 0; i < n->nout; i++) {
            if (r->slot[n->out[i].id].users != 0) r->needed[id.id] = true;
        }
        if (!r->needed[id.id]) continue;
        for (uint32_t i = 0; i < n->nin; i++) {
            if (val_ok(n->in[i])) r->slot[n->in[i].id].users++;
        }
    }
}

static bool unpack_const(Run *r, ValId v, Slot *s, size_t bytes) {
    if (bytes > r->max || r->held > r->max - bytes)
        return diag_error(r->d, loc_none(),
                          "constant %%%u: evaluating it needs %zu bytes and the limit is %zu", v.id,
                          r->held + bytes, r->max);
    s->t.data = malloc(bytes == 0 ? 1 : bytes);
    if (s->t.data == NULL)
        return diag_error(r->d, loc_none(), "constant %%%u: no memory for %zu bytes", v.id, bytes);
    s->owned = true;
    s->bytes = bytes;
    r->held += bytes;
    const_unpack(s->t.dtype, graph_constant(r->g, v)->data, 0, bytes, s->t.data);
    return true;
}

static bool bind_const(Run *r, ValId v) {
    const Const *c = graph_constant(r->g, v);
    Slot *s = &r->slot[v.id];
    size_t bytes = 0;
    if (!tensor_shape(r->g, v, r->bind, r->nbind, loc_none(), &s->t, &bytes, r->d)) return false;
    size_t stored = 0;
    if (!type_static_bytes(graph_type(r->g, v), &stored)) stored = bytes;
    if (c->bytes != stored || (bytes != 0 && c->data == NULL))
        return diag_error(r->d, loc_none(), "constant %%%u holds %zu bytes where its type has %zu", v.id,
                          c->bytes, stored);
    if (dtype_bits(s->t.dtype) < 8) return unpack_const(r, v, s, bytes);
    /* Operands are only read. */
    s->t.data = (void *)(uintptr_t)c->data;
    return true;
}

static bool bind_input(Run *r, size_t i) {
    const Port *p = &r->g->inputs.data[i];
    const char *name = p->name != NULL ? p->name : "";
    Slot *s = &r->slot[p->v.id];
    size_t bytes = 0;
    if (s->users == 0) return true;
    if (i >= r->args->ninputs) return diag_error(r->d, loc_none(), "input \"%s\" is not given", name);
    if (!tensor_shape(r->g, p->v, r->bind, r->nbind, loc_none(), &s->t, &bytes, r->d)) return false;
    const Tensor *given = &r->args->inputs[i];
    if (given->dtype != s->t.dtype || given->rank != s->t.rank ||
        memcmp(given->dim, s->t.dim, given->rank * sizeof(given->dim[0])) != 0) {
        Text t = text_new(r->d->arena);
        type_print(&t, r->g, graph_type(r->g, p->v));
        return diag_error(r->d, loc_none(), "input \"%s\" does not have the type %s under the binding", name,
                          t.data);
    }
    if (bytes != 0 && given->data == NULL)
        return diag_error(r->d, loc_none(), "input \"%s\" is needed and has no data", name);
    s->t.data = given->data;
    return true;
}

static bool bind_sources(Run *r) {
    for (uint32_t i = 1; i < r->g->values.count; i++) {
        ValId v = {i};
        if (r->slot[i].users == 0) continue;
        if (graph_constant(r->g, v) != NULL && !bind_const(r, v)) return false;
    }
    for (size_t i = 0; i < r->g->inputs.count; i++) {
        if (!bind_input(r, i)) return false;
    }
    return true;
}

static void slot_free(Run *r, Slot *s) {
    if (!s->owned) return;
    free(s->t.data);
    s->owned = false;
    s->t.data = NULL;
    r->held -= s->bytes;
}

static bool slot_alloc(Run *r, ValId v, Loc loc) {
    Slot *s = &r->slot[v.id];
    if (!tensor_shape(r->g, v, r->bind, r->nbind, loc, &s->t, &s->bytes, r->d)) return false;
    if (s->bytes > r->max || r->held > r->max - s->bytes)
        return diag_error(r->d, loc, "value %%%u: evaluating it needs %zu bytes and the limit is %zu", v.id,
                          r->held + s->bytes, r->max);
    s->t.data = malloc(s->bytes == 0 ? 1 : s->bytes);
    if (s->t.data == NULL)
        return diag_error(r->d, loc, "value %%%u: no memory for %zu bytes", v.id, s->bytes);
    s->owned = true;
    r->held += s->bytes;
    return true;
}

/* What is not 0 in x gives the length of nonzero's result. */
static void bind_hits(Run *r, const Node *n, const Tensor *x) {
    SymId s = dim_symbol(r->g, graph_type(r->g, n->out[0])->dim[1]);
    if (s.id >= r->nbind) r->nbind = s.id + 1u;
    r->bind[s.id] = 0;
    for (size_t i = 0; i < tensor_count(x); i++) r->bind[s.id] += tensor_get_f64(x, i) != 0;
}

static bool step(Run *r, NodeId id) {
    const Node *n = graph_node(r->g, id);
    ArenaMark mark = arena_mark(r->scratch);
    const Tensor **in = arena_array_of(r->scratch, n->nin, const Tensor *);
    Tensor out[2] = {{0}};
    for (uint32_t i = 0; i < n->nin; i++) {
        if (!val_ok(n->in[i])) continue;
        in[i] = &r->slot[n->in[i].id].t;
        if (in[i]->dtype == DT_NONE)
            return diag_bug(r->d, n->loc, "%s: operand %u is read before it is computed",
                            op_info(n->op)->name, i + 1);
    }
    if (n->op == OP_NONZERO) bind_hits(r, n, in[0]);
    for (uint32_t i = 0; i < n->nout; i++) {
        if (!slot_alloc(r, n->out[i], n->loc)) return false;
        out[i] = r->slot[n->out[i].id].t;
    }
    bool ok = run_node(r->g, n, in, r->bind, r->nbind, out, r->scratch, r->d);
    arena_reset(r->scratch, mark);
    for (uint32_t i = 0; i < n->nin; i++) {
        if (!val_ok(n->in[i])) continue;
        Slot *s = &r->slot[n->in[i].id];
        if (--s->users == 0) slot_free(r, s);
    }
    for (uint32_t i = 0; i < n->nout; i++) {
        if (r->slot[n->out[i].id].users == 0) slot_free(r, &r->slot[n->out[i].id]);
    }
    return ok;
}

static bool run_graph(Run *r, const ValId *want, size_t nwant, Tensor *out, Arena *a) {
    mark_needed(r, want, nwant);
    if (!bind_sources(r)) return false;
    FOR_NODES (r->g, id) {
        if (r->needed[id.id] && !step(r, id)) return false;
    }
    for (size_t i = 0; i < nwant; i++) {
        const Slot *s = &r->slot[want[i].id];
        if (s->t.dtype == DT_NONE)
            return diag_bug(r->d, loc_none(), "value %%%u is wanted and nothing computes it", want[i].id);
        out[i] = s->t;
        out[i].data = arena_dup(a, s->t.data, tensor_count(&s->t) * dtype_size(s->t.dtype));
    }
    return true;
}

bool eval_graph(Graph *g, const EvalArgs *args, const ValId *want, size_t nwant, Tensor *out, Arena *a,
                Diag *d) {
    for (size_t i = 0; i < nwant; i++) {
        if (!val_ok(want[i]) || want[i].id >= g->values.count)
            return diag_bug(d, loc_none(), "a wanted value does not exist");
    }
    Run r = {.g = g, .args = args, .d = d, .scratch = arena_new()};
    r.max = args->max_bytes == 0 ? DEFAULT_MAX_BYTES : args->max_bytes;
    size_t symbols = args->nbind > g->symbols.count ? args->nbind : g->symbols.count;
    r.bind = arena_array_of(r.scratch, symbols, int64_t);
    if (args->nbind > 0) memcpy(r.bind, args->bind, args->nbind * sizeof(*args->bind));
    r.nbind = args->nbind;
    r.slot = arena_array_of(r.scratch, g->values.count, Slot);
    r.needed = arena_array_of(r.scratch, g->nodes.count, bool);
    bool ok = run_graph(&r, want, nwant, out, a);
    for (size_t i = 0; i < g->values.count; i++) slot_free(&r, &r.slot[i]);
    arena_free(r.scratch);
    return ok;
}
