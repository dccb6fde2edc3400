/* states.c: what the graph keeps from step to step, whatever form it has.
 *
 *   %9 = concat(%8, %7) {axis=2}        %8: a part of a past input, moved but not computed with
 *   output "present"                    %9 and its like, moved: picked, turned, stacked
 *
 * A state grows where new rows are appended to the past; the part of the past input that arrives there
 * becomes an input of its own, so stacked and merged forms are gone afterwards. What the outputs hold is
 * proven by running the movement on numbers: a present given back as the past has to bring each part to
 * the place that it came from. An output may also hold the new rows alone, for the caller to append. */
#include <string.h>

#include "frontend/import.h"

#define CHAIN_MAX 24
#define DEPTH_MAX 64
#define LENGTHS 4 /* symbols that a length binds: none, batch, seq, past */

/* Where new rows are appended. */
typedef struct {
    NodeId cat;
    ValId past;              /* the graph's input */
    NodeId chain[CHAIN_MAX]; /* movement from it to the concat's operand, last first */
    uint32_t n;
    bool proven, appended; /* appended: by the caller */
} Growth;
typedef struct {
    Import *im;
    Graph *g;
    VEC(Growth) growth;
    uint32_t *grown, *fresh; /* by value: growth + 1 whose result or new rows it is */
    size_t nvalues;
} States;

/* Moves the elements of operand 0 and reads nothing else that varies. */
static bool is_movement(const Graph *g, const Node *n) {
    switch (n->op) {
    case OP_RESHAPE:
    case OP_TRANSPOSE:
    case OP_SLICE: return true;
    case OP_GATHER: return graph_constant(g, n->in[1]) != NULL;
    default: return false;
    }
}

static Port *past_port(const Graph *g, ValId v) {
    for (size_t i = 0; i < g->inputs.count; i++)
        if (g->inputs.data[i].role == ROLE_PAST && val_eq(g->inputs.data[i].v, v)) return &g->inputs.data[i];
    return NULL;
}

static void find_growth(States *s) {
    Graph *g = s->g;
    Dim past = dim_sym(g, SYM_PAST);
    FOR_NODES (g, id) {
        const Node *n = graph_node(g, id);
        if (n->op != OP_CONCAT || n->nin != 2 || !dim_eq(graph_type(g, n->in[0])->dim[n->attr.axis], past))
            continue;
        Growth w = {.cat = id, .past = n->in[0]};
        NodeId def = graph_def(g, w.past);
        while (node_ok(def) && w.n < CHAIN_MAX && is_movement(g, graph_node(g, def))) {
            w.chain[w.n++] = def;
            w.past = graph_node(g, def)->in[0];
            def = graph_def(g, w.past);
        }
        if (past_port(g, w.past) != NULL) VEC_PUSH(s->im->scratch, &s->growth, w);
    }
    s->nvalues = g->values.count;
    s->grown = arena_array_of(s->im->scratch, s->nvalues, uint32_t);
    s->fresh = arena_array_of(s->im->scratch, s->nvalues, uint32_t);
    for (uint32_t i = 0; i < s->growth.count; i++) {
        const Node *n = graph_node(g, s->growth.data[i].cat);
        s->grown[n->out[0].id] = i + 1;
        s->fresh[n->in[1].id] = i + 1;
    }
}

/* Whether v holds nothing but values marked in `from`; sets seen[] for those. */
static bool moved_from(const States *s, ValId v, const uint32_t *from, bool *seen, uint32_t depth) {
    if (v.id < s->nvalues && from[v.id] != 0) {
        seen[from[v.id] - 1] = true;
        return true;
    }
    NodeId id = graph_def(s->g, v);
    if (!node_ok(id) || depth == 0) return false;
    const Node *n = graph_node(s->g, id);
    if (is_movement(s->g, n)) return moved_from(s, n->in[0], from, seen, depth - 1);
    if (n->op != OP_CONCAT) return false;
    for (uint32_t i = 0; i < n->nin; i++)
        if (!moved_from(s, n->in[i], from, seen, depth - 1)) return false;
    return true;
}

/* ---- presents, run on numbers ---- */

typedef struct {
    Graph *g;       /* a copy in which inputs stand for what has grown */
    size_t first;   /* the first of those inputs, in the order of the growths */
    ValId *input;   /* by growth */
    VEC(ValId) got; /* a present, moved as the past is */
    VEC(uint32_t) growth, output;
} Probe;

static Probe probe_new(States *s) {
    Probe p = {.g = graph_copy(s->g, s->im->scratch), .first = s->g->inputs.count};
    p.input = arena_array_of(s->im->scratch, s->growth.count, ValId);
    for (size_t i = 0; i < s->growth.count; i++) {
        ValId out = graph_node(s->g, s->growth.data[i].cat)->out[0];
        p.input[i] = graph_input(p.g, NULL, *graph_type(s->g, out), ROLE_NONE);
        graph_replace(p.g, out, p.input[i]);
    }
    return p;
}

/* A growth's movement applied to v, a present: longer by the new rows than what it was written for. */
static ValId replay(States *s, Graph *c, const Growth *w, ValId v, Diag *d) {
    Dim total = dim_add(c, dim_sym(c, SYM_PAST), dim_sym(c, SYM_SEQ));
    for (uint32_t k = w->n; k-- > 0 && val_ok(v);) {
        Node n = *graph_node(s->g, w->chain[k]);
        Type t = *graph_type(s->g, n.out[0]);
        ValId in[2] = {v, n.nin > 1 ? n.in[1] : NO_VAL};
        for (uint32_t i = 0; i < t.rank; i++) t.dim[i] = dim_substitute(c, t.dim[i], SYM_PAST, total);
        bool typed = (op_info(n.op)->flags & F_TYPED) != 0;
        v = graph_add(c, n.op, in, n.nin, &n.attr, typed ? &t : NULL, n.loc, d);
    }
    return v;
}

/* What has grown, each element another number. */
static bool probe_numbers(const States *s, const Probe *p, const int64_t *bind, Tensor *in) {
    size_t number = 1;
    for (size_t i = p->first; i < p->g->inputs.count; i++) {
        const Type *t = graph_type(p->g, p->g->inputs.data[i].v);
        in[i].dtype = t->dtype;
        in[i].rank = t->rank;
        for (uint32_t k = 0; k < t->rank; k++)
            if (!dim_eval(p->g, t->dim[k], bind, LENGTHS, &in[i].dim[k])) return false;
        size_t size = dtype_size(t->dtype), n = tensor_count(&in[i]);
        uint8_t *data = arena_array(s->im->scratch, n, size);
        for (size_t k = 0; k < n; k++, number++) memcpy(data + k * size, &number, size);
        in[i].data = data;
    }
    return true;
}

static bool tensor_equal(const Tensor *a, const Tensor *b) {
    return a->rank == b->rank && memcmp(a->dim, b->dim, a->rank * sizeof(a->dim[0])) == 0 &&
           memcmp(a->data, b->data, tensor_count(a) * dtype_size(a->dtype)) == 0;
}

/* Clears ok[i] where present i does not bring its growth back at this length. */
static void probe_run(States *s, const Probe *p, const int64_t *bind, bool *ok) {
    Arena *a = s->im->scratch;
    Tensor *in = arena_array_of(a, p->g->inputs.count, Tensor);
    Tensor *out = arena_array_of(a, p->got.count, Tensor);
    EvalArgs args = {bind, LENGTHS, in, p->g->inputs.count, 0};
    Diag d;
    diag_init(&d);
    bool ran =
        probe_numbers(s, p, bind, in) && eval_graph(p->g, &args, p->got.data, p->got.count, out, a, &d);
    diag_free(&d);
    for (size_t i = 0; i < p->got.count; i++)
        ok[i] = ok[i] && ran && tensor_equal(&out[i], &in[p->first + p->growth.data[i]]);
}

/* Outputs that are what has grown, moved: present[] and Growth.proven. */
static void prove_presents(States *s, const ValId *v, size_t n, bool *present) {
    Probe p = probe_new(s);
    Arena *a = s->im->scratch;
    Diag d;
    diag_init(&d);
    for (size_t i = 0; i < n; i++) {
        bool *seen = arena_array_of(a, s->growth.count, bool);
        if (!moved_from(s, v[i], s->grown, seen, DEPTH_MAX)) continue;
        for (uint32_t k = 0; k < s->growth.count; k++) {
            const Growth *w = &s->growth.data[k];
            if (!seen[k] || graph_type(s->g, v[i])->rank != graph_type(s->g, w->past)->rank) continue;
            uint32_t itself = s->grown[v[i].id];
            ValId got = replay(s, p.g, w, itself != 0 ? p.input[itself - 1] : v[i], &d);
            if (!val_ok(got)) continue;
            VEC_PUSH(a, &p.got, got);
            VEC_PUSH(a, &p.growth, k);
            VEC_PUSH(a, &p.output, (uint32_t)i);
        }
    }
    diag_free(&d);
    static const int64_t lengths[][LENGTHS] = {{0, 2, 3, 4}, {0, 1, 2, 5}};
    bool *ok = arena_array_of(a, p.got.count, bool);
    memset(ok, 1, p.got.count);
    for (size_t i = 0; i < COUNT_OF(lengths) && p.got.count > 0; i++) probe_run(s, &p, lengths[i], ok);
    for (size_t i = 0; i < p.got.count; i++) {
        if (!ok[i]) continue;
        s->growth.data[p.growth.data[i]].proven = true;
        present[p.output.data[i]] = true;
    }
}

/* Outputs that are new rows, moved, where no output holds the past as well: the caller appends them. */
static void find_appended(States *s, const ValId *v, size_t n, bool *present) {
    for (size_t i = 0; i < n; i++) {
        bool *seen = arena_array_of(s->im->scratch, s->growth.count, bool), all = true;
        if (present[i] || !moved_from(s, v[i], s->fresh, seen, DEPTH_MAX)) continue;
        for (uint32_t k = 0; k < s->growth.count; k++) {
            Growth *w = &s->growth.data[k];
            if (!seen[k]) continue;
            all = all && !w->proven;
            w->appended = !w->proven;
        }
        present[i] = all;
    }
}

/* ---- the graph's states ---- */

/* The part of a past input that arrives at the concat becomes an input. */
static const char *part_split(States *s, const Growth *w, uint32_t number) {
    Graph *g = s->g;
    const char *name = past_port(g, w->past)->name;
    if (w->n == 0) return name;
    ValId part = graph_node(g, w->cat)->in[0];
    name = arena_printf(s->im->arena, "%s.%u", name, number);
    for (size_t i = 0; i < g->inputs.count; i++) /* a name is taken once */
        if (g->inputs.data[i].name != NULL && strcmp(g->inputs.data[i].name, name) == 0)
            name = arena_printf(s->im->arena, "%s.part", name);
    ValId in = graph_input(g, name, *graph_type(g, part), ROLE_PAST);
    const char *reason =
        arena_printf(s->im->arena, "a part of the past input '%s'", past_port(g, w->past)->name);
    VEC_PUSH(s->im->arena, &s->im->out->reasons, reason);
    dynamic_set(s->im, in, true);
    graph_node(g, w->cat)->in[0] = in;
    return name;
}

static bool add_states(States *s) {
    Graph *g = s->g;
    bool appended = false;
    for (uint32_t i = 0; i < s->growth.count; i++) {
        const Growth *w = &s->growth.data[i];
        const Node *cat = graph_node(g, w->cat);
        if (!w->proven && !w->appended)
            return diag_error(
                s->im->d, cat->loc,
                "new rows are appended to the past input '%s' here, and no output gives them back "
                "in its form; hint: export with present outputs",
                past_port(g, w->past)->name);
        appended = appended || w->appended;
        uint32_t number = 0;
        for (uint32_t k = 0; k < i; k++) number += val_eq(s->growth.data[k].past, w->past);
        const char *name = part_split(s, w, number);
        cat = graph_node(g, w->cat);
        State state = {name, cat->in[0], cat->out[0], (uint8_t)cat->attr.axis};
        VEC_PUSH(g->arena, &g->states, state);
    }
    if (appended)
        diag_note(s->im->d, loc_none(),
                  "outputs hold the new rows of keys and values alone; taken to be appended");
    return true;
}

enum { FOR_RESULTS = 1, FOR_PRESENTS = 2 };

static void mark_needed(const Graph *g, uint8_t *need) {
    for (NodeId id = g->last; node_ok(id); id = graph_node(g, id)->prev) {
        const Node *x = graph_node(g, id);
        uint8_t used = 0;
        for (uint32_t o = 0; o < x->nout; o++) used |= need[x->out[o].id];
        for (uint32_t i = 0; used != 0 && i < x->nin; i++) need[x->in[i].id] |= used;
    }
}

static void erase_unneeded(Graph *g, const uint8_t *need) {
    NodeId prev;
    for (NodeId id = g->last; node_ok(id); id = prev) {
        const Node *x = graph_node(g, id);
        uint8_t used = 0;
        prev = x->prev;
        for (uint32_t o = 0; o < x->nout; o++) used |= need[x->out[o].id];
        if (used == 0) graph_erase(g, id);
    }
}

/* Takes the past inputs out that were split; all others have to be states themselves. */
static bool drop_split(States *s, const ValId *v, size_t n, const bool *present) {
    Graph *g = s->g;
    uint8_t *need = arena_array_of(s->im->scratch, g->values.count, uint8_t);
    for (size_t i = 0; i < n; i++) need[v[i].id] |= present[i] ? FOR_PRESENTS : FOR_RESULTS;
    for (size_t i = 0; i < g->states.count; i++) need[g->states.data[i].out.id] |= FOR_RESULTS;
    mark_needed(g, need);
    size_t kept = 0;
    for (size_t i = 0; i < g->inputs.count; i++) {
        Port p = g->inputs.data[i];
        bool split = false, state = p.role != ROLE_PAST;
        for (size_t k = 0; k < s->growth.count; k++)
            split = split || (s->growth.data[k].n > 0 && val_eq(s->growth.data[k].past, p.v));
        for (size_t k = 0; k < g->states.count; k++) state = state || val_eq(g->states.data[k].in, p.v);
        if (!state && (!split || need[p.v.id] != 0))
            return diag_error(
                s->im->d, loc_none(),
                split ? "the past input '%s' is read by more than what appends to it; hint: export "
                        "keys and values that only grow"
                      : "nothing appends to the past input '%s'; hint: export a cache that grows "
                        "along one axis",
                p.name);
        if (!state) continue;
        s->im->out->reasons.data[kept] = s->im->out->reasons.data[i];
        g->inputs.data[kept++] = p;
    }
    if (kept < g->inputs.count) erase_unneeded(g, need);
    g->inputs.count = s->im->out->reasons.count = kept;
    return true;
}

bool import_states(Import *im, const ValId *v, size_t n, bool *present) {
    States s = {.im = im, .g = im->g};
    find_growth(&s);
    bool plain = true;
    for (uint32_t k = 0; k < s.growth.count; k++) {
        Growth *w = &s.growth.data[k];
        for (size_t i = 0; i < n && w->n == 0; i++)
            if (val_eq(v[i], graph_node(im->g, w->cat)->out[0])) w->proven = present[i] = true;
        plain = plain && w->proven;
    }
    if (!plain) {
        prove_presents(&s, v, n, present);
        find_appended(&s, v, n, present);
    }
    return add_states(&s) && drop_split(&s, v, n, present);
}
