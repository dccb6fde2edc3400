/* roles_uses.c: who reads what in the ONNX graph, before anything is lowered.
 *
 * The nodes of If's bodies count as nodes of the graph, and what a body gives is handed on by If. */
#include <string.h>

#include "frontend/roles.h"

static void nodes_list(UseWalk *w, const INode *nodes, size_t n) {
    Arena *a = w->im->scratch;
    for (size_t i = 0; i < n; i++) {
        const INode *x = &nodes[i];
        VEC_PUSH(a, &w->nodes, x);
        for (size_t b = 0; b < x->nbodies; b++) {
            const IBody *body = &x->bodies[b];
            nodes_list(w, body->nodes, body->nnodes);
            if (!op_is(x, "If")) continue;
            for (size_t o = 0; o < body->nout && o < x->nout; o++) {
                INode *same = arena_new_of(a, INode);
                *same = (INode){.op = "Identity",
                                .domain = "",
                                .in = &body->out[o],
                                .nin = 1,
                                .out = &x->out[o],
                                .nout = 1};
                VEC_PUSH(a, &w->nodes, same);
            }
        }
    }
}

void uses_init(UseWalk *w, Import *im) {
    *w = (UseWalk){.im = im};
    nodes_list(w, im->nodes.data, im->nodes.count);
    size_t n = im->tensors.count, total = 0;
    w->first = arena_array_of(im->scratch, n + 1, uint32_t);
    w->count = arena_array_of(im->scratch, n, uint32_t);
    w->maker = arena_array_of(im->scratch, n, const INode *);
    w->seen = arena_array_of(im->scratch, n, bool);
    w->todo = arena_array_of(im->scratch, n, uint32_t);
    for (size_t i = 0; i < w->nodes.count; i++) {
        const INode *x = w->nodes.data[i];
        for (size_t j = 0; j < x->nin; j++, total++) w->count[x->in[j]]++;
        for (size_t j = 0; j < x->nout; j++)
            if (x->out[j] != 0) w->maker[x->out[j]] = x;
    }
    w->uses = arena_array_of(im->scratch, total, Use);
    for (size_t i = 1; i <= n; i++) w->first[i] = w->first[i - 1] + w->count[i - 1];
    memset(w->count, 0, n * sizeof(*w->count));
    for (size_t i = 0; i < w->nodes.count; i++)
        for (size_t j = 0; j < w->nodes.data[i]->nin; j++) {
            uint32_t t = w->nodes.data[i]->in[j];
            w->uses[w->first[t] + w->count[t]++] = (Use){w->nodes.data[i], (uint32_t)j};
        }
}

void uses_push(UseWalk *w, uint32_t t) {
    if (t == 0 || w->seen[t]) return;
    w->seen[t] = true;
    w->todo[w->ntodo++] = t;
}

void uses_start(UseWalk *w, uint32_t t) {
    memset(w->seen, 0, w->im->tensors.count);
    w->ntodo = 0;
    uses_push(w, t);
}

bool uses_next(UseWalk *w, uint32_t *t) {
    if (w->ntodo == 0) return false;
    *t = w->todo[--w->ntodo];
    return true;
}

bool op_is(const INode *x, const char *list) {
    const char *op = x->op;
    size_t n = strlen(op);
    for (const char *s = list; (s = strstr(s, op)) != NULL; s += n)
        if ((s == list || s[-1] == ' ') && (s[n] == ' ' || s[n] == '\0')) return true;
    return false;
}

bool keeps_elements(const INode *n) {
    return op_is(n, "Identity Cast Reshape Squeeze Unsqueeze Flatten Expand Clip Transpose");
}

int64_t node_attr(const INode *n, const char *name, int64_t def) {
    for (size_t i = 0; i < n->nattrs; i++)
        if (strcmp(n->attrs[i].name, name) == 0 && n->attrs[i].kind == OA_INT) return n->attrs[i].i;
    return def;
}

uint32_t weight_of(const UseWalk *w, uint32_t tensor) {
    for (int steps = 0; steps < 8 && tensor != 0; steps++) {
        if (w->im->tensors.data[tensor].init != NULL) return tensor;
        const INode *n = w->maker[tensor];
        if (n == NULL || n->nin == 0 || !op_is(n, "Identity Cast DequantizeLinear Transpose Reshape"))
            return 0;
        tensor = n->in[0];
    }
    return 0;
}

bool known_ints(const UseWalk *w, uint32_t tensor, const int64_t **v, size_t *n, size_t *rank) {
    Import *im = w->im;
    const INode *through = w->maker[tensor]; /* bodies may be circular */
    for (int i = 0; i < 8 && through != NULL && op_is(through, "Identity") && through->nin > 0; i++) {
        tensor = through->in[0];
        through = w->maker[tensor];
    }
    const OTensor *t = im->tensors.data[tensor].init;
    const INode *made = w->maker[tensor];
    for (size_t i = 0; made != NULL && t == NULL && op_is(made, "Constant") && i < made->nattrs; i++) {
        const OAttr *a = &made->attrs[i];
        if (a->kind == OA_TENSOR) t = a->t;
        if (a->kind != OA_INT && a->kind != OA_INTS) continue;
        *v = a->kind == OA_INT ? &a->i : a->ints;
        *n = a->kind == OA_INT ? 1 : a->n;
        *rank = a->kind == OA_INTS;
        return true;
    }
    TensorData x;
    Diag d;
    diag_init(&d);
    bool ok = t != NULL && tensor_load(t, &im->src, &x, loc_none(), &d) && x.dtype == DT_I64 &&
              x.count <= SHAPE_MAX;
    diag_free(&d);
    if (!ok) return false;
    *v = arena_dup(im->scratch, x.data, x.bytes);
    *n = x.count;
    *rank = x.rank;
    return true;
}
