/* scramble.c: the same ONNX model under other names and in another order, from a seed.
 *
 *   scramble SEED IN.onnx OUT.onnx
 *
 * Every name is replaced alike wherever it stands: tensors, nodes, graphs, dimensions, local functions,
 * producer. Inputs, outputs, initializers and nodes are shuffled, nodes into another topological order.
 * What a compiler makes of the model must not change by it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <onnx.pb-c.h>

#include "ir/base/base.h"

typedef struct {
    const char *kind, *from;
    uint64_t number;
} Name;
typedef struct {
    Arena *arena;
    uint64_t state;
    const Onnx__ModelProto *model;
    Name *names; /* open addressing; cap is a power of two */
    size_t cap, count;
} Scramble;

static uint64_t roll(Scramble *s) {
    s->state = s->state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator */
    return s->state >> 20;
}

static size_t below(Scramble *s, size_t n) { return (size_t)(roll(s) % n); }

/* ---- names ---- */

static Name *name_slot(Name *names, size_t cap, const char *kind, const char *from) {
    size_t i = (size_t)hash_bytes(from, strlen(from), (uint64_t)kind[0]) & (cap - 1);
    while (names[i].from != NULL && (strcmp(names[i].kind, kind) != 0 || strcmp(names[i].from, from) != 0))
        i = (i + 1) & (cap - 1);
    return &names[i];
}

static void names_grow(Scramble *s) {
    size_t cap = s->cap == 0 ? 1024 : 2 * s->cap;
    Name *names = arena_array_of(s->arena, cap, Name);
    for (size_t i = 0; i < s->cap; i++)
        if (s->names[i].from != NULL)
            *name_slot(names, cap, s->names[i].kind, s->names[i].from) = s->names[i];
    s->names = names;
    s->cap = cap;
}

/* Replaces *text by its name of that kind; the empty name means "none" and stays. */
static void rename_one(Scramble *s, const char *kind, char **text) {
    if (*text == NULL || (*text)[0] == '\0') return;
    if (2 * (s->count + 1) > s->cap) names_grow(s);
    Name *n = name_slot(s->names, s->cap, kind, *text);
    if (n->from == NULL) {
        *n = (Name){kind, arena_strdup(s->arena, *text), roll(s) << 20 | s->count};
        s->count++;
    }
    char now[48];
    snprintf(now, sizeof(now), "%s%" PRIx64, kind, n->number);
    free(*text);
    *text = strdup(now);
}

static void rename_list(Scramble *s, const char *kind, char **list, size_t n) {
    for (size_t i = 0; i < n; i++) rename_one(s, kind, &list[i]);
}

/* ---- order ---- */

static void shuffle(Scramble *s, void *list, size_t n) {
    void **p = list;
    for (size_t i = n; i > 1; i--) {
        size_t k = below(s, i);
        void *swap = p[i - 1];
        p[i - 1] = p[k];
        p[k] = swap;
    }
}

/* Node i waits for the nodes that make what it, or a body in it, reads. */
typedef struct {
    Scramble *s;
    Name *maker; /* tensor -> node + 1 in this graph */
    size_t cap;
    uint32_t *waits; /* by node */
    VEC(uint32_t) * then;
} Order;

static void order_need(Order *o, const char *tensor, uint32_t reader) {
    const Name *n = name_slot(o->maker, o->cap, "m", tensor);
    if (n->from == NULL || n->number == reader + 1) return;
    o->waits[reader]++;
    VEC_PUSH(o->s->arena, &o->then[n->number - 1], reader);
}

static void order_reads(Order *o, const Onnx__NodeProto *n, uint32_t reader) {
    for (size_t i = 0; i < n->n_input; i++) order_need(o, n->input[i], reader);
    for (size_t i = 0; i < n->n_attribute; i++) {
        const Onnx__GraphProto *g = n->attribute[i]->g;
        if (g == NULL) continue;
        for (size_t k = 0; k < g->n_node; k++) order_reads(o, g->node[k], reader);
        for (size_t k = 0; k < g->n_output; k++) order_need(o, g->output[k]->name, reader);
    }
}

static void order_nodes(Scramble *s, Onnx__NodeProto **nodes, size_t n) {
    if (n == 0) return;
    Order o = {.s = s, .cap = 64};
    size_t made = 0, nready = 0;
    for (size_t i = 0; i < n; i++) made += nodes[i]->n_output;
    while (o.cap < 2 * made) o.cap *= 2;
    o.maker = arena_array_of(s->arena, o.cap, Name);
    o.waits = arena_array_of(s->arena, n, uint32_t);
    o.then = arena_array(s->arena, n, sizeof(*o.then));
    Onnx__NodeProto **old = arena_dup(s->arena, nodes, n * sizeof(*nodes));
    uint32_t *ready = arena_array_of(s->arena, n, uint32_t);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < nodes[i]->n_output; k++)
            *name_slot(o.maker, o.cap, "m", nodes[i]->output[k]) = (Name){"m", nodes[i]->output[k], i + 1};
    for (size_t i = 0; i < n; i++) order_reads(&o, nodes[i], (uint32_t)i);
    for (size_t i = 0; i < n; i++)
        if (o.waits[i] == 0) ready[nready++] = (uint32_t)i;
    for (size_t at = 0; nready > 0; at++) {
        size_t pick = below(s, nready);
        uint32_t node = ready[pick];
        ready[pick] = ready[--nready];
        nodes[at] = old[node];
        for (size_t k = 0; k < o.then[node].count; k++)
            if (--o.waits[o.then[node].data[k]] == 0) ready[nready++] = o.then[node].data[k];
    }
}

/* ---- the model ---- */

static void scramble_info(Scramble *s, Onnx__ValueInfoProto *v) {
    rename_one(s, "t", &v->name);
    const Onnx__TypeProto *t = v->type;
    if (t == NULL || t->value_case != ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE || t->tensor_type->shape == NULL)
        return;
    for (size_t i = 0; i < t->tensor_type->shape->n_dim; i++) {
        Onnx__TensorShapeProto__Dimension *d = t->tensor_type->shape->dim[i];
        if (d->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM)
            rename_one(s, "d", &d->dim_param);
    }
}

static void scramble_graph(Scramble *s, Onnx__GraphProto *g, bool body);

static bool is_function(const Scramble *s, const Onnx__NodeProto *x) {
    for (size_t i = 0; i < s->model->n_functions; i++) {
        const Onnx__FunctionProto *f = s->model->functions[i];
        const char *domain = x->domain == NULL ? "" : x->domain;
        if (strcmp(f->name, x->op_type) == 0 && strcmp(f->domain == NULL ? "" : f->domain, domain) == 0)
            return true;
    }
    return false;
}

static void scramble_nodes(Scramble *s, Onnx__NodeProto **nodes, size_t n) {
    order_nodes(s, nodes, n);
    for (size_t i = 0; i < n; i++) {
        Onnx__NodeProto *x = nodes[i];
        rename_one(s, "n", &x->name);
        rename_list(s, "t", x->input, x->n_input);
        rename_list(s, "t", x->output, x->n_output);
        if (is_function(s, x)) rename_one(s, "f", &x->op_type);
        for (size_t k = 0; k < x->n_attribute; k++)
            if (x->attribute[k]->g != NULL) scramble_graph(s, x->attribute[k]->g, true);
    }
}

/* The order of a body's inputs and outputs is its interface. */
static void scramble_graph(Scramble *s, Onnx__GraphProto *g, bool body) {
    rename_one(s, "g", &g->name);
    scramble_nodes(s, g->node, g->n_node);
    for (size_t i = 0; i < g->n_initializer; i++) rename_one(s, "t", &g->initializer[i]->name);
    for (size_t i = 0; i < g->n_value_info; i++) scramble_info(s, g->value_info[i]);
    for (size_t i = 0; i < g->n_input; i++) scramble_info(s, g->input[i]);
    for (size_t i = 0; i < g->n_output; i++) scramble_info(s, g->output[i]);
    for (size_t i = 0; i < g->n_quantization_annotation; i++)
        rename_one(s, "t", &g->quantization_annotation[i]->tensor_name);
    shuffle(s, g->initializer, g->n_initializer);
    if (body) return;
    shuffle(s, g->input, g->n_input);
    shuffle(s, g->output, g->n_output);
}

static void scramble_model(Scramble *s, Onnx__ModelProto *m) {
    s->model = m;
    rename_one(s, "p", &m->producer_name);
    rename_one(s, "v", &m->producer_version);
    scramble_graph(s, m->graph, false);
    for (size_t i = 0; i < m->n_functions; i++) {
        Onnx__FunctionProto *f = m->functions[i];
        scramble_nodes(s, f->node, f->n_node);
        rename_list(s, "t", f->input, f->n_input);
        rename_list(s, "t", f->output, f->n_output);
    }
    for (size_t i = 0; i < m->n_functions; i++) rename_one(s, "f", &m->functions[i]->name);
}

static bool scramble_file(uint64_t seed, const char *in, const char *out, Arena *a, Diag *d) {
    FileView file;
    if (!file_map(in, &file, d)) return false;
    Onnx__ModelProto *m = onnx__model_proto__unpack(NULL, file.bytes, file.data);
    file_unmap(&file);
    if (m == NULL || m->graph == NULL) return diag_error(d, loc_file(in), "not an ONNX model");
    Scramble s = {.arena = a, .state = seed};
    scramble_model(&s, m);
    size_t bytes = onnx__model_proto__get_packed_size(m);
    uint8_t *data = arena_alloc(a, bytes);
    onnx__model_proto__pack(m, data);
    onnx__model_proto__free_unpacked(m, NULL);
    return file_write_text(out, (const char *)data, bytes, d);
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: scramble SEED IN.onnx OUT.onnx\n");
        return 2;
    }
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    bool ok = scramble_file(strtoull(argv[1], NULL, 10), argv[2], argv[3], a, &d);
    for (size_t i = 0; i < d.items.count; i++) fprintf(stderr, "scramble: %s\n", d.items.data[i].text);
    diag_free(&d);
    arena_free(a);
    return ok ? 0 : 1;
}
