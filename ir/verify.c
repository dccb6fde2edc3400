/* verify.c: what must hold of a graph, at every stage and from each stage on.
 *
 * Always: the node list is sound, operands are defined before their use, arity and attributes fit
 * the op table, result types are what infer.c says, constants have their bytes, ports and states
 * name values that exist. By stage: raised ops only from `raised` on; from `stateful` on a state
 * grows by a concat and nothing else; from `ordered` on the nodes of a region stand together; from
 * `planned` on slots lie inside the planned memory.
 * Broken invariants are our bugs when a pass made them and the user's when a text did; both are
 * reported as errors here, and the pass manager names the pass. */
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"
#include "ir/internal.h"

typedef struct {
    Graph *g;
    Diag *d;
    Arena *scratch;
    bool *defined; /* by value id, while walking the nodes */
} Verifier;

bool type_agrees(const Type *a, const Type *b) {
    if (a->dtype != b->dtype || a->rank != b->rank) return false;
    for (uint32_t i = 0; i < a->rank; i++) {
        if (!dim_known(a->dim[i]) || !dim_known(b->dim[i])) continue;
        if (!dim_eq(a->dim[i], b->dim[i])) return false;
    }
    return true;
}

static bool exists(const Graph *g, ValId v) {
    return val_ok(v) && v.id < g->values.count && graph_val(g, v)->kind != V_FREE;
}

static const char *type_text(Verifier *v, const Type *t) {
    Text text = text_new(v->scratch);
    type_print(&text, v->g, t);
    return text.data;
}

static bool verify_type(Verifier *v, Loc loc, const char *what, const Type *t) {
    if (t->dtype == DT_NONE || (unsigned)t->dtype >= DT_COUNT)
        return diag_error(v->d, loc, "%s has no element type", what);
    if (t->rank > MAX_RANK)
        return diag_error(v->d, loc, "%s has %u dimensions; at most %d are supported", what,
                          (unsigned)t->rank, MAX_RANK);
    for (uint32_t i = 0; i < t->rank; i++)
        if (dim_is_const(t->dim[i]) && t->dim[i].v < 0)
            return diag_error(v->d, loc, "%s has a dimension below 0 in %s", what, type_text(v, t));
    return true;
}

static bool verify_const(Verifier *v, ValId id) {
    const Value *value = graph_val(v->g, id);
    const char *what = arena_printf(v->scratch, "constant \"%s\"", value->name == NULL ? "" : value->name);
    size_t bytes = 0;
    const Const *c = graph_constant(v->g, id);
    if (c == NULL) return diag_error(v->d, loc_none(), "%s has no data", what);
    if (!verify_type(v, loc_none(), what, &value->type)) return false;
    if (!type_static_bytes(&value->type, &bytes))
        return diag_error(v->d, loc_none(), "%s has the symbolic type %s", what, type_text(v, &value->type));
    if (bytes != c->bytes || (bytes > 0 && c->data == NULL))
        return diag_error(v->d, loc_none(), "%s has %zu bytes; its type %s needs %zu", what,
                          c->data == NULL ? (size_t)0 : c->bytes, type_text(v, &value->type), bytes);
    return true;
}

/* Constants and inputs are defined from the start. */
static bool verify_values(Verifier *v) {
    const Graph *g = v->g;
    for (uint32_t i = 1; i < g->values.count; i++) {
        ValId id = {i};
        const Value *value = graph_val(g, id);
        if (value->kind == V_CONST && !verify_const(v, id)) return false;
        v->defined[i] = value->kind == V_CONST;
    }
    for (size_t i = 0; i < g->inputs.count; i++) {
        const Port *port = &g->inputs.data[i];
        const char *what = arena_printf(v->scratch, "input \"%s\"", port->name == NULL ? "" : port->name);
        if (!exists(g, port->v) || graph_val(g, port->v)->kind != V_INPUT)
            return diag_error(v->d, loc_none(), "%s is no input value", what);
        if (v->defined[port->v.id]) return diag_error(v->d, loc_none(), "%s is listed twice", what);
        if (!verify_type(v, loc_none(), what, graph_type(g, port->v))) return false;
        v->defined[port->v.id] = true;
    }
    return true;
}

/* ---- nodes ---- */

static bool verify_links(Verifier *v) {
    const Graph *g = v->g;
    size_t steps = 0;
    NodeId prev = NO_NODE;
    for (NodeId id = g->first; node_ok(id); prev = id, id = graph_node(g, id)->next) {
        if (id.id >= g->nodes.count || ++steps >= g->nodes.count)
            return diag_error(v->d, loc_none(), "the node list is broken at node %u", id.id);
        if (graph_node(g, id)->prev.id != prev.id)
            return diag_error(v->d, loc_none(), "node %u has a wrong link to the one before it", id.id);
    }
    if (g->last.id != prev.id)
        return diag_error(v->d, loc_none(), "the node list does not end at its last node");
    return true;
}

static bool verify_operands(Verifier *v, const Node *n, const char *what) {
    const OpInfo *info = op_info(n->op);
    if (n->nin < info->min_in || (info->max_in != 255 && n->nin > info->max_in))
        return diag_error(v->d, n->loc, "%s has %u operands", what, (unsigned)n->nin);
    for (uint8_t i = 0; i < n->nin; i++) {
        ValId in = n->in[i];
        if (!val_ok(in)) {
            bool optional = i >= info->min_in && info->max_in != 255;
            if (!optional || i + 1 == n->nin)
                return diag_error(v->d, n->loc, "%s: operand %u is missing", what, i + 1u);
            continue;
        }
        if (!exists(v->g, in)) return diag_error(v->d, n->loc, "%s: operand %u was erased", what, i + 1u);
        if (!v->defined[in.id])
            return diag_error(v->d, n->loc, "%s: operand %u is used before it is defined", what, i + 1u);
    }
    return true;
}

static bool verify_results(Verifier *v, NodeId id, const char *what) {
    const Node *n = graph_node(v->g, id);
    if (n->nout != op_info(n->op)->nout)
        return diag_error(v->d, n->loc, "%s has %u results", what, (unsigned)n->nout);
    for (uint8_t i = 0; i < n->nout; i++) {
        ValId out = n->out[i];
        const Value *value = exists(v->g, out) ? graph_val(v->g, out) : NULL;
        if (value == NULL || value->kind != V_NODE || value->def.id != id.id || value->out != i)
            return diag_error(v->d, n->loc, "%s: result %u does not belong to it", what, i + 1u);
        if (v->defined[out.id])
            return diag_error(v->d, n->loc, "%s: result %u is defined twice", what, i + 1u);
        if (!verify_type(v, n->loc, what, &value->type)) return false;
    }
    return true;
}

/* Infers the types again, compares, and puts the graph's own back: they may know more. */
static bool verify_types(Verifier *v, NodeId id, const char *what) {
    Type own[2], inferred[2];
    const Node *n = graph_node(v->g, id);
    uint8_t nout = n->nout;
    for (uint8_t i = 0; i < nout; i++) own[i] = *graph_type(v->g, n->out[i]);
    bool ok = infer_node(v->g, id, v->d);
    n = graph_node(v->g, id);
    for (uint8_t i = 0; i < nout; i++) {
        inferred[i] = *graph_type(v->g, n->out[i]);
        graph_val(v->g, n->out[i])->type = own[i];
    }
    if (!ok) return false;
    for (uint8_t i = 0; i < nout; i++)
        if (!type_agrees(&own[i], &inferred[i]))
            return diag_error(v->d, n->loc, "%s: result %u has type %s, should be %s", what, i + 1u,
                              type_text(v, &own[i]), type_text(v, &inferred[i]));
    return true;
}

static bool verify_node(Verifier *v, NodeId id) {
    const Node *n = graph_node(v->g, id);
    if (n->op == OP_NONE || (unsigned)n->op >= OP_COUNT)
        return diag_error(v->d, n->loc, "node %u was erased and is still in the list", id.id);
    ArenaMark mark = arena_mark(v->scratch);
    const char *what = graph_describe(v->g, id, v->scratch);
    if (!verify_operands(v, n, what) || !verify_results(v, id, what) || !verify_types(v, id, what))
        return false;
    n = graph_node(v->g, id);
    if ((op_info(n->op)->flags & F_RAISED) != 0 && v->g->stage < STAGE_RAISED)
        return diag_error(v->d, n->loc, "%s may not be in a graph of stage %s", what,
                          stage_name(v->g->stage));
    for (uint8_t i = 0; i < n->nout; i++) {
        uint64_t slot = graph_val(v->g, n->out[i])->slot;
        if (v->g->stage >= STAGE_PLANNED && slot != NO_SLOT && slot > v->g->arena_row_bytes)
            return diag_error(v->d, n->loc, "%s: slot %llu lies outside the planned memory", what,
                              (unsigned long long)slot);
        v->defined[n->out[i].id] = true;
    }
    arena_reset(v->scratch, mark);
    return true;
}

static int compare_u32(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return a < b ? -1 : a > b;
}

/* Nodes of no region (moves that cost nothing) may stand among those of one. */
static bool verify_regions(Verifier *v) {
    VEC(uint32_t) runs = {0};
    uint32_t current = 0;
    FOR_NODES (v->g, id) {
        uint32_t region = graph_node(v->g, id)->region;
        if (region == 0 || region == current) continue;
        VEC_PUSH(v->scratch, &runs, region);
        current = region;
    }
    if (runs.count == 0) return true;
    qsort(runs.data, runs.count, sizeof(runs.data[0]), compare_u32);
    for (size_t i = 1; i < runs.count; i++)
        if (runs.data[i] == runs.data[i - 1])
            return diag_error(v->d, loc_none(), "the nodes of region %u do not stand together", runs.data[i]);
    return true;
}

/* ---- ports and states ---- */

static int compare_names(const void *left, const void *right) {
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

static bool verify_unique(Verifier *v, const Port *ports, size_t count, const char *what) {
    const char **names = arena_array_of(v->scratch, count, const char *);
    size_t n = 0;
    for (size_t i = 0; i < count; i++)
        if (ports[i].name != NULL) names[n++] = ports[i].name;
    if (n > 1) qsort((void *)names, n, sizeof(names[0]), compare_names);
    for (size_t i = 1; i < n; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            return diag_error(v->d, loc_none(), "two %s are called \"%s\"", what, names[i]);
    return true;
}

static bool verify_outputs(Verifier *v) {
    const Graph *g = v->g;
    for (size_t i = 0; i < g->outputs.count; i++) {
        const Port *port = &g->outputs.data[i];
        if (!exists(g, port->v) || !v->defined[port->v.id])
            return diag_error(v->d, loc_none(), "output \"%s\" is never computed",
                              port->name == NULL ? "" : port->name);
    }
    return verify_unique(v, g->inputs.data, g->inputs.count, "inputs") &&
           verify_unique(v, g->outputs.data, g->outputs.count, "outputs");
}

static bool verify_state(Verifier *v, const State *s) {
    const Graph *g = v->g;
    const char *name = s->name == NULL ? "" : s->name;
    if (!exists(g, s->in) || graph_val(g, s->in)->kind != V_INPUT)
        return diag_error(v->d, loc_none(), "state \"%s\" does not start from an input", name);
    if (!exists(g, s->out) || !v->defined[s->out.id])
        return diag_error(v->d, loc_none(), "state \"%s\" is never computed", name);
    const Type *in = graph_type(g, s->in), *out = graph_type(g, s->out);
    bool same = in->dtype == out->dtype && in->rank == out->rank && s->axis < in->rank;
    for (uint32_t i = 0; same && i < in->rank; i++) same = i == s->axis || dim_eq(in->dim[i], out->dim[i]);
    if (!same)
        return diag_error(v->d, loc_none(),
                          "state \"%s\" goes from %s to %s, which differ by more "
                          "than axis %u",
                          name, type_text(v, in), type_text(v, out), (unsigned)s->axis);
    if (g->stage < STAGE_STATEFUL) return true;
    NodeId def = graph_def(g, s->out);
    const Node *n = node_ok(def) ? graph_node(g, def) : NULL;
    if (n == NULL || n->op != OP_CONCAT || n->attr.axis != s->axis || !val_eq(n->in[0], s->in))
        return diag_error(v->d, loc_none(), "state \"%s\" is not its past with new rows after it", name);
    return true;
}

static bool verify_graph(Verifier *v) {
    const Graph *g = v->g;
    if (g->values.count == 0 || g->nodes.count == 0 || g->symbols.count < 4)
        return diag_error(v->d, loc_none(), "the graph was not made by graph_new");
    if ((unsigned)g->stage >= STAGE_COUNT) return diag_error(v->d, loc_none(), "the graph has no stage");
    v->defined = arena_array_of(v->scratch, g->values.count, bool);
    if (!verify_values(v) || !verify_links(v)) return false;
    FOR_NODES (g, id)
        if (!verify_node(v, id)) return false;
    if (g->stage >= STAGE_ORDERED && !verify_regions(v)) return false;
    if (!verify_outputs(v)) return false;
    for (size_t i = 0; i < g->states.count; i++)
        if (!verify_state(v, &g->states.data[i])) return false;
    return true;
}

bool graph_verify(Graph *g, Diag *d) {
    Verifier v = {g, d, arena_new(), NULL};
    bool ok = verify_graph(&v);
    arena_free(v.scratch);
    return ok;
}
