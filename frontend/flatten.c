/* flatten.c: the ONNX graph as one sorted list of nodes over numbered tensors.
 *
 * Names are resolved scope by scope; local functions are replaced by their bodies; the bodies of If
 * and Loop become lists of their own. Order comes from a depth-first walk from the outputs, so nodes
 * nobody needs are left out and files with any order are taken. */
#include <string.h>

#include "frontend/import.h"

#define FUNCTION_DEPTH_MAX 32
#define BODY_DEPTH_MAX 16

typedef struct {
    const char *name;
    uint64_t hash;
    uint32_t id;
    bool formal;
} Entry; /* formal: a
    function's output, bound to the call's and not yet defined */
typedef struct Scope Scope;
struct Scope {
    const Scope *parent; /* enclosing graph; NULL for the main graph and functions */
    Entry *slots;
    size_t cap, count; /* cap is a power of two */
};
typedef struct {
    const OOpset *opsets;
    size_t nopsets;
    const OAttr *attrs; /* of the call, for ref_attr_name */
    size_t nattrs;
    unsigned functions, bodies; /* depth */
    bool main;
    uint32_t index; /* ONNX node of the outermost call */
} Where;
typedef struct {
    INode *data;
    size_t count, cap;
} Nodes;

static Entry *scope_slot(const Scope *s, const char *name, uint64_t hash) {
    size_t i = (size_t)hash & (s->cap - 1);
    while (s->slots[i].name != NULL && (s->slots[i].hash != hash || strcmp(s->slots[i].name, name) != 0))
        i = (i + 1) & (s->cap - 1);
    return &s->slots[i];
}

static Entry *scope_entry(const Scope *s, const char *name) {
    if (s->count == 0) return NULL;
    Entry *e = scope_slot(s, name, hash_bytes(name, strlen(name), 0));
    return e->name == NULL ? NULL : e;
}

static uint32_t scope_local(const Scope *s, const char *name) {
    const Entry *e = scope_entry(s, name);
    return e == NULL ? 0 : e->id;
}

static uint32_t scope_find(const Scope *s, const char *name) {
    for (; s != NULL; s = s->parent) {
        uint32_t id = scope_local(s, name);
        if (id != 0) return id;
    }
    return 0;
}

static void scope_add(Import *im, Scope *s, const char *name, uint32_t id) {
    if (2 * (s->count + 1) > s->cap) {
        Scope old = *s;
        s->cap = old.cap == 0 ? 64 : old.cap * 2;
        s->slots = arena_array_of(im->scratch, s->cap, Entry);
        for (size_t i = 0; i < old.cap; i++)
            if (old.slots[i].name != NULL)
                *scope_slot(s, old.slots[i].name, old.slots[i].hash) = old.slots[i];
    }
    uint64_t hash = hash_bytes(name, strlen(name), 0);
    Entry *e = scope_slot(s, name, hash);
    if (e->name == NULL) s->count++;
    *e = (Entry){name, hash, id, false};
}

static uint32_t tensor_new(Import *im, const char *name) {
    Tv t = {.name = arena_strdup(im->arena, name)};
    VEC_PUSH(im->scratch, &im->tensors, t);
    return (uint32_t)(im->tensors.count - 1);
}

static Loc node_loc(const Import *im, const char *name, uint32_t index) {
    return (Loc){LOC_NODE, index, 0, arena_strdup(im->arena, name)};
}

/* A function may leave a domain to the model's own list. */
static int64_t opset_of(const Import *im, const Where *w, const char *domain) {
    for (size_t i = 0; i < w->nopsets; i++)
        if (strcmp(w->opsets[i].domain, domain) == 0) return w->opsets[i].version;
    for (size_t i = 0; i < im->model.nopsets; i++)
        if (strcmp(im->model.opsets[i].domain, domain) == 0) return im->model.opsets[i].version;
    return 0;
}

static const OFunc *function_find(const Import *im, const ONode *n) {
    for (size_t i = 0; i < im->model.nfuncs; i++)
        if (strcmp(im->model.funcs[i].name, n->op) == 0 && strcmp(im->model.funcs[i].domain, n->domain) == 0)
            return &im->model.funcs[i];
    return NULL;
}

static bool add_graph_values(Import *im, const OGraph *g, Scope *s, bool inputs) {
    for (size_t i = 0; i < g->ninits; i++) {
        const OTensor *t = &g->inits[i];
        if (t->name[0] == '\0') continue;
        if (scope_local(s, t->name) != 0)
            return diag_error(im->d, loc_none(), "initializer '%s' is defined twice", t->name);
        uint32_t id = tensor_new(im, t->name);
        im->tensors.data[id].init = t;
        scope_add(im, s, t->name, id);
    }
    if (g->nsparse != 0)
        return diag_error(im->d, loc_none(),
                          "sparse initializers are not supported; hint: store "
                          "them as dense tensors");
    for (size_t i = 0; inputs && i < g->ninputs; i++) {
        const OInfo *info = &g->inputs[i];
        uint32_t id = scope_local(s, info->name);
        if (id != 0 && im->tensors.data[id].init != NULL) continue; /* a default value */
        if (id != 0 || info->name[0] == '\0')
            return diag_error(im->d, loc_none(), "graph input '%s' is %s", info->name,
                              id != 0 ? "declared twice" : "without a name");
        id = tensor_new(im, info->name);
        scope_add(im, s, info->name, id);
        im->inputs[im->ninputs] = id;
        im->input_info[im->ninputs++] = info;
    }
    return true;
}

static bool flatten_nodes(Import *im, const ONode *nodes, size_t n, Scope *s, const Where *w, Nodes *out);

static const OAttr *resolve_attrs(Import *im, const ONode *n, const Where *w, size_t *count) {
    *count = n->nattrs;
    bool refs = false;
    for (size_t i = 0; i < n->nattrs; i++) refs |= n->attrs[i].ref != NULL;
    if (!refs) return n->attrs;
    OAttr *attrs = arena_array_of(im->scratch, n->nattrs, OAttr);
    *count = 0;
    for (size_t i = 0; i < n->nattrs; i++) {
        OAttr a = n->attrs[i];
        bool found = a.ref == NULL;
        for (size_t j = 0; j < w->nattrs && !found; j++)
            if (strcmp(w->attrs[j].name, n->attrs[i].ref) == 0) {
                a = w->attrs[j];
                a.name = n->attrs[i].name;
                found = true;
            }
        if (found) attrs[(*count)++] = a; /* else the op's default holds */
    }
    return attrs;
}

static bool inline_function(Import *im, const OFunc *f, const ONode *n, const INode *call, const Where *w,
                            Nodes *out) {
    Loc loc = node_loc(im, n->name, call->index);
    if (w->functions >= FUNCTION_DEPTH_MAX)
        return diag_error(im->d, loc,
                          "function '%s' calls itself, or calls are nested more than %d "
                          "deep",
                          f->name, FUNCTION_DEPTH_MAX);
    if (n->nin > f->nin || n->nout > f->nout)
        return diag_error(im->d, loc,
                          "function '%s' takes %zu inputs and gives %zu outputs; the node "
                          "has %zu and %zu",
                          f->name, f->nin, f->nout, n->nin, n->nout);
    Scope s = {0};
    for (size_t i = 0; i < call->nin; i++)
        if (call->in[i] != 0) scope_add(im, &s, f->in[i], call->in[i]);
    for (size_t i = 0; i < f->nout; i++) {
        uint32_t from = scope_local(&s, f->out[i]);
        uint32_t to = i < call->nout ? call->out[i] : 0;
        if (from != 0) {
            /* An input handed straight through. */
            if (to == 0) continue;
            INode same = {.name = n->name,
                          .op = "Identity",
                          .domain = "",
                          .version = 13,
                          .index = call->index,
                          .nin = 1,
                          .nout = 1};
            same.in = arena_dup(im->scratch, &from, sizeof(from));
            same.out = arena_dup(im->scratch, &to, sizeof(to));
            VEC_PUSH(im->scratch, out, same);
            continue;
        }
        if (to == 0) continue;
        scope_add(im, &s, f->out[i], to);
        scope_entry(&s, f->out[i])->formal = true;
    }
    Where inner = {f->opsets,        f->nopsets, call->attrs, call->nattrs,
                   w->functions + 1, w->bodies,  false,       call->index};
    return flatten_nodes(im, f->nodes, f->nnodes, &s, &inner, out);
}

static bool flatten_bodies(Import *im, INode *x, const Scope *s, const Where *w, Loc loc) {
    size_t n = 0;
    for (size_t i = 0; i < x->nattrs; i++) n += x->attrs[i].kind == OA_GRAPH;
    if (n == 0) return true;
    if (w->bodies >= BODY_DEPTH_MAX) return diag_error(im->d, loc, "bodies are nested too deeply");
    x->bodies = arena_array_of(im->scratch, n, IBody);
    for (size_t i = 0; i < x->nattrs; i++) {
        if (x->attrs[i].kind != OA_GRAPH) continue;
        const OGraph *g = x->attrs[i].g;
        IBody *body = &x->bodies[x->nbodies++];
        Scope inner = {.parent = s};
        Where in_body = *w;
        in_body.bodies++;
        in_body.main = false;
        in_body.index = x->index;
        Nodes nodes = {0};
        if (!add_graph_values(im, g, &inner, false)) return false;
        body->nin = g->ninputs;
        body->in = arena_array_of(im->scratch, g->ninputs, uint32_t);
        for (size_t j = 0; j < g->ninputs; j++) {
            if (scope_local(&inner, g->inputs[j].name) == 0)
                scope_add(im, &inner, g->inputs[j].name, tensor_new(im, g->inputs[j].name));
            body->in[j] = scope_local(&inner, g->inputs[j].name);
        }
        if (!flatten_nodes(im, g->nodes, g->nnodes, &inner, &in_body, &nodes)) return false;
        body->nodes = nodes.data;
        body->nnodes = nodes.count;
        body->nout = g->noutputs;
        body->out = arena_array_of(im->scratch, g->noutputs, uint32_t);
        for (size_t j = 0; j < g->noutputs; j++) {
            body->out[j] = scope_find(&inner, g->outputs[j].name);
            if (body->out[j] == 0)
                return diag_error(im->d, loc, "body output '%s' is not defined", g->outputs[j].name);
        }
    }
    return true;
}

static bool flatten_node(Import *im, const ONode *n, uint32_t index, Scope *s, const Where *w, Nodes *out) {
    Loc loc = node_loc(im, n->name, index);
    if (++im->inlined > NODES_MAX) return diag_error(im->d, loc, "more than two million nodes");
    INode x = {.name = n->name,
               .op = n->op,
               .domain = n->domain,
               .index = index,
               .nin = n->nin,
               .nout = n->nout,
               .version = opset_of(im, w, n->domain)};
    x.attrs = resolve_attrs(im, n, w, &x.nattrs);
    x.in = arena_array_of(im->scratch, n->nin, uint32_t);
    x.out = arena_array_of(im->scratch, n->nout, uint32_t);
    for (size_t i = 0; i < n->nin; i++) {
        if (n->in[i][0] == '\0') continue;
        x.in[i] = scope_find(s, n->in[i]);
        /* A formal input of a function that the call leaves out. */
        if (x.in[i] == 0 && w->functions == 0)
            return diag_error(im->d, loc, "%s: input '%s' is not defined", n->op, n->in[i]);
    }
    for (size_t i = 0; i < n->nout; i++)
        if (n->out[i][0] != '\0') x.out[i] = scope_local(s, n->out[i]);
    const OFunc *f = function_find(im, n);
    if (f != NULL) return inline_function(im, f, n, &x, w, out);
    if (!flatten_bodies(im, &x, s, w, loc)) return false;
    VEC_PUSH(im->scratch, out, x);
    return true;
}

static bool flatten_nodes(Import *im, const ONode *nodes, size_t n, Scope *s, const Where *w, Nodes *out) {
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < nodes[i].nout; j++) {
            const char *name = nodes[i].out[j];
            if (name[0] == '\0') continue;
            Entry *e = scope_entry(s, name);
            if (e == NULL) {
                scope_add(im, s, name, tensor_new(im, name));
            } else if (e->formal) {
                e->formal = false;
            } else {
                return diag_error(im->d, node_loc(im, nodes[i].name, (uint32_t)i),
                                  "%s: output '%s' is defined twice", nodes[i].op, name);
            }
        }
    for (size_t i = 0; i < n; i++)
        if (!flatten_node(im, &nodes[i], w->main ? (uint32_t)i : w->index, s, w, out)) return false;
    return true;
}

/* ---- order ---- */

typedef struct {
    Import *im;
    const Nodes *all;
    uint32_t *def;  /* tensor -> node + 1 */
    uint8_t *state; /* 0 new, 1 open, 2 done */
    struct {
        uint32_t node;
        size_t next;
        uint32_t *deps;
        size_t ndeps;
    } * stack;
    size_t depth;
} Sort;

static void body_deps(const IBody *b, Arena *a, uint32_t **deps, size_t *n, size_t *cap) {
    struct {
        uint32_t *data;
        size_t count, cap;
    } v = {*deps, *n, *cap};
    for (size_t i = 0; i < b->nnodes; i++) {
        for (size_t j = 0; j < b->nodes[i].nin; j++)
            if (b->nodes[i].in[j] != 0) VEC_PUSH(a, &v, b->nodes[i].in[j]);
        for (size_t j = 0; j < b->nodes[i].nbodies; j++)
            body_deps(&b->nodes[i].bodies[j], a, &v.data, &v.count, &v.cap);
    }
    for (size_t i = 0; i < b->nout; i++) VEC_PUSH(a, &v, b->out[i]);
    *deps = v.data;
    *n = v.count;
    *cap = v.cap;
}

static void sort_push(Sort *s, uint32_t node) {
    const INode *x = &s->all->data[node];
    s->state[node] = 1;
    s->stack[s->depth].node = node;
    s->stack[s->depth].next = 0;
    s->stack[s->depth].deps = x->in;
    s->stack[s->depth].ndeps = x->nin;
    if (x->nbodies != 0) {
        uint32_t *deps = arena_dup(s->im->scratch, x->in, x->nin * sizeof(*x->in));
        size_t n = x->nin, cap = x->nin;
        for (size_t i = 0; i < x->nbodies; i++) body_deps(&x->bodies[i], s->im->scratch, &deps, &n, &cap);
        s->stack[s->depth].deps = deps;
        s->stack[s->depth].ndeps = n;
    }
    s->depth++;
}

static bool sort_from(Sort *s, uint32_t node) {
    if (s->state[node] != 0) return true;
    sort_push(s, node);
    while (s->depth > 0) {
        uint32_t top = s->stack[s->depth - 1].node;
        if (s->stack[s->depth - 1].next == s->stack[s->depth - 1].ndeps) {
            s->state[top] = 2;
            VEC_PUSH(s->im->scratch, &s->im->nodes, s->all->data[top]);
            s->depth--;
            continue;
        }
        uint32_t t = s->stack[s->depth - 1].deps[s->stack[s->depth - 1].next++];
        uint32_t def = t == 0 ? 0 : s->def[t];
        if (def == 0 || s->state[def - 1] == 2) continue;
        if (s->state[def - 1] == 1) {
            const INode *x = &s->all->data[def - 1];
            return diag_error(s->im->d, node_loc(s->im, x->name, x->index),
                              "the graph has a cycle through this %s", x->op);
        }
        sort_push(s, def - 1);
    }
    return true;
}

static bool sort_nodes(Import *im, const Nodes *all) {
    Sort s = {.im = im, .all = all};
    s.def = arena_array_of(im->scratch, im->tensors.count, uint32_t);
    s.state = arena_array_of(im->scratch, all->count, uint8_t);
    s.stack = arena_array(im->scratch, all->count + 1, sizeof(*s.stack));
    for (size_t i = 0; i < all->count; i++)
        for (size_t j = 0; j < all->data[i].nout; j++)
            if (all->data[i].out[j] != 0) s.def[all->data[i].out[j]] = (uint32_t)i + 1;
    for (size_t i = 0; i < im->noutputs; i++)
        if (s.def[im->outputs[i]] != 0 && !sort_from(&s, s.def[im->outputs[i]] - 1)) return false;
    return true;
}

bool import_flatten(Import *im) {
    const OGraph *g = &im->model.graph;
    Tv none = {0};
    VEC_PUSH(im->scratch, &im->tensors, none);
    im->inputs = arena_array_of(im->scratch, g->ninputs, uint32_t);
    im->input_info = arena_array_of(im->scratch, g->ninputs, const OInfo *);
    Scope s = {0};
    Nodes all = {0};
    Where w = {.opsets = im->model.opsets, .nopsets = im->model.nopsets, .main = true};
    if (!add_graph_values(im, g, &s, true) || !flatten_nodes(im, g->nodes, g->nnodes, &s, &w, &all))
        return false;
    im->outputs = arena_array_of(im->scratch, g->noutputs, uint32_t);
    for (size_t i = 0; i < g->noutputs; i++) {
        im->outputs[i] = scope_local(&s, g->outputs[i].name);
        if (im->outputs[i] == 0)
            return diag_error(im->d, loc_none(), "graph output '%s' is not defined", g->outputs[i].name);
    }
    im->noutputs = g->noutputs;
    return sort_nodes(im, &all);
}
