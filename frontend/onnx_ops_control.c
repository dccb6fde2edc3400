/* onnx_ops_control.c: If, where the condition is known when compiling; the branch taken is lowered in
 * place. */
#include <string.h>

#include "frontend/import.h"

/* A bool input that chooses between running with and without a cache: with. */
static bool is_use_cache(const Call *c, ValId v) {
    for (size_t i = 0; i < c->g->inputs.count; i++)
        if (val_eq(c->g->inputs.data[i].v, v)) return c->g->inputs.data[i].role == ROLE_USE_CACHE;
    return false;
}

static bool condition(Call *c, bool *out) {
    uint32_t n = 0;
    if (!in_has(c, 0)) return call_error(c, "the condition is missing");
    const Dim *d = in_dims(c, 0, &n);
    if (d != NULL && n == 1 && dim_is_const(d[0])) {
        *out = d[0].v != 0;
        return true;
    }
    ValId v = in_val(c, 0);
    if (!val_ok(v)) return false;
    if (is_use_cache(c, v)) {
        *out = true;
        return true;
    }
    double x = 0;
    if (!const_scalar(c->g, v, &x))
        return call_error(c, "the condition is not known when compiling; hint: export one branch only");
    *out = x != 0;
    return true;
}

static bool lower_if(Call *c) {
    bool yes = false;
    if (!condition(c, &yes)) return false;
    const IBody *body = NULL;
    size_t k = 0;
    for (size_t i = 0; i < c->n->nattrs; i++) {
        if (c->n->attrs[i].kind != OA_GRAPH) continue;
        if (strcmp(c->n->attrs[i].name, yes ? "then_branch" : "else_branch") == 0) body = &c->n->bodies[k];
        k++;
    }
    if (body == NULL) return call_error(c, "the branch taken is missing");
    if (body->nout < c->n->nout) return call_error(c, "the branch gives too few outputs");
    if (!import_run_nodes(c->im, body->nodes, body->nnodes)) return false;
    for (size_t i = 0; i < c->n->nout; i++) {
        if (!out_used(c, i)) continue;
        if (!tensor_loaded(c->im, body->out[i], c->loc)) return false;
        Tv *t = &c->im->tensors.data[c->n->out[i]];
        const char *name = t->name;
        *t = c->im->tensors.data[body->out[i]];
        t->name = name;
    }
    return true;
}

const OpRule onnx_rules_control[] = {
    {"", "If", 1, 0, lower_if, 0, T_BOOLS,
     "the condition must be known when compiling, or be the use-cache input"},
    {0},
};
