/* summary.c: what an ONNX file holds, also one that cannot be imported: operators by how often they are
 * there and whether they are supported, weights by element type. Nothing is loaded but the graph. */
#include <stdlib.h>
#include <string.h>

#include "frontend/import.h"

typedef struct {
    Arena *a;
    const OModel *model;
    OnnxSummary *out;
} Count;

static const char *element_type(int type, uint32_t *bits) {
    DType t = type > 0 && type < 64 ? dtype_from_onnx(type) : DT_NONE;
    bool four = type == 23;
    *bits = t != DT_NONE ? dtype_bits(t) : four ? 4 : 0;
    return t != DT_NONE ? dtype_name(t) : type == 8 ? "string" : four ? "f4e2m1" : "?";
}

static void count_weight(Count *c, const OTensor *t) {
    uint32_t bits = 0;
    const char *type = element_type(t->type, &bits);
    int64_t n = 1;
    size_t i = 0;
    for (size_t k = 0; k < t->rank; k++)
        if (t->dim[k] < 0 || !mul_i64(n, t->dim[k], &n)) n = 0;
    while (i < c->out->weights.count && strcmp(c->out->weights.data[i].type, type) != 0) i++;
    if (i == c->out->weights.count) VEC_PUSH(c->a, &c->out->weights, (OnnxWeights){.type = type});
    OnnxWeights *w = &c->out->weights.data[i];
    uint64_t bytes = n > INT64_MAX / 64 ? 0 : ((uint64_t)n * bits + 7) / 8;
    w->tensors++;
    w->elements += (uint64_t)n;
    w->bytes += bytes;
    if (t->external) w->external += bytes;
    if (!t->external || t->location == NULL) return;
    for (i = 0; i < c->out->files.count; i++)
        if (strcmp(c->out->files.data[i], t->location) == 0) return;
    VEC_PUSH(c->a, &c->out->files, arena_strdup(c->a, t->location));
}

static int64_t opset_of(const OOpset *opsets, size_t n, const char *domain) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(opsets[i].domain, domain) == 0) return opsets[i].version;
    return 1;
}

static bool is_function(const OModel *m, const ONode *n) {
    for (size_t i = 0; i < m->nfuncs; i++)
        if (strcmp(m->funcs[i].name, n->op) == 0 && strcmp(m->funcs[i].domain, n->domain) == 0) return true;
    return false;
}

static void count_nodes(Count *c, const ONode *nodes, size_t n, const OOpset *opsets, size_t nopsets) {
    for (size_t i = 0; i < n; i++) {
        const ONode *node = &nodes[i];
        size_t k = 0;
        OnnxOp *ops = c->out->ops.data;
        while (k < c->out->ops.count &&
               (strcmp(ops[k].op, node->op) != 0 || strcmp(ops[k].domain, node->domain) != 0))
            k++;
        if (k == c->out->ops.count) {
            OnnxOp op = {.op = arena_strdup(c->a, node->op), .domain = arena_strdup(c->a, node->domain)};
            op.version = opset_of(opsets, nopsets, node->domain);
            op.function = is_function(c->model, node);
            if (!op.function && op_rule_find(node->domain, node->op, op.version) == NULL)
                op.hint = op_hint(node->domain, node->op);
            VEC_PUSH(c->a, &c->out->ops, op);
        }
        c->out->ops.data[k].count++;
        c->out->nodes++;
        for (size_t a = 0; a < node->nattrs; a++)
            if (node->attrs[a].kind == OA_GRAPH)
                count_nodes(c, node->attrs[a].g->nodes, node->attrs[a].g->nnodes, opsets, nopsets);
    }
}

static int op_order(const void *a, const void *b) {
    const OnnxOp *x = a, *y = b;
    if (!x->hint != !y->hint) return x->hint ? -1 : 1;
    return x->count != y->count ? (x->count < y->count ? 1 : -1) : strcmp(x->op, y->op);
}

bool onnx_summary(const char *path, Arena *a, OnnxSummary *out, Diag *d) {
    *out = (OnnxSummary){0};
    FileView f;
    OModel m;
    Arena *scratch = arena_new();
    size_t before = d->items.count;
    bool ok = file_map(path, &f, d);
    if (ok) {
        ok = onnx_view(f.data, f.bytes, scratch, &m, d);
        out->file_bytes = f.bytes;
        file_unmap(&f);
    }
    if (!ok) import_locate(d, before, path);
    if (ok) {
        Count c = {a, &m, out};
        out->producer = m.producer ? arena_strdup(a, m.producer) : "";
        out->functions = (uint32_t)m.nfuncs;
        for (size_t i = 0; i < m.nopsets; i++)
            VEC_PUSH(a, &out->opsets,
                     ((OnnxOpset){arena_strdup(a, m.opsets[i].domain), m.opsets[i].version}));
        for (size_t i = 0; i < m.graph.ninits; i++) count_weight(&c, &m.graph.inits[i]);
        count_nodes(&c, m.graph.nodes, m.graph.nnodes, m.opsets, m.nopsets);
        for (size_t i = 0; i < m.nfuncs; i++)
            count_nodes(&c, m.funcs[i].nodes, m.funcs[i].nnodes, m.funcs[i].opsets, m.funcs[i].nopsets);
        if (out->ops.count > 1) qsort(out->ops.data, out->ops.count, sizeof(OnnxOp), op_order);
    }
    arena_free(scratch);
    return ok;
}
