/* onnx_ops_control.c: If. The branch that the graph takes is lowered in place.
 *
 * Which one that is follows from what is known when compiling; from a flag between running with and without
 * past state, which is always with; or from lengths, where one branch is the other's special case, as an
 * empty past is. Small values that differ by length (masks) are selected from instead. Tables that do, as
 * those of rotary embeddings made for longer sequences, bound the context: shorter ones take one branch. */
#include <string.h>

#include "frontend/import.h"

static const IBody *branch(const Call *c, bool yes) {
    size_t k = 0;
    for (size_t i = 0; i < c->n->nattrs; i++) {
        if (c->n->attrs[i].kind != OA_GRAPH) continue;
        if (strcmp(c->n->attrs[i].name, yes ? "then_branch" : "else_branch") == 0) return &c->n->bodies[k];
        k++;
    }
    return NULL;
}

static const Port *input_port(const Graph *g, ValId v) {
    for (size_t i = 0; i < g->inputs.count; i++)
        if (val_eq(g->inputs.data[i].v, v)) return &g->inputs.data[i];
    return NULL;
}

static bool reads_past(const Import *im, const IBody *b) {
    for (size_t i = 0; b != NULL && i < b->nnodes; i++) {
        const INode *n = &b->nodes[i];
        for (size_t k = 0; k < n->nin; k++) {
            const Port *p = n->in[k] == 0 ? NULL : input_port(im->g, im->tensors.data[n->in[k]].val);
            if (p != NULL && p->role == ROLE_PAST) return true;
        }
        for (size_t k = 0; k < n->nbodies; k++)
            if (reads_past(im, &n->bodies[k])) return true;
    }
    return false;
}

/* The condition is a bool input, perhaps inverted. */
static bool is_flag(const Call *c, ValId v, ValId *flag, bool *inverted) {
    for (*inverted = false;;
         *inverted ^= graph_def_op(c->g, v) == OP_NOT, v = graph_node(c->g, graph_def(c->g, v))->in[0]) {
        const Port *p = input_port(c->g, v);
        Op op = graph_def_op(c->g, v);
        *flag = v;
        if (p != NULL) return p->role == ROLE_USE_CACHE;
        if (op != OP_NOT && op != OP_RESHAPE && op != OP_CAST) return false;
    }
}

/* A flag has the value under which the graph reads its past, or else says "with cache" by being true. */
static bool flag_value(Call *c, ValId flag, bool inverted) {
    for (size_t i = 0; i < c->im->flags.count; i++)
        if (val_eq(c->im->flags.data[i].v, flag)) return c->im->flags.data[i].value != inverted;
    bool yes = reads_past(c->im, branch(c, true)), no = reads_past(c->im, branch(c, false));
    bool taken = yes != no ? yes : !inverted;
    if (yes != no) {
        Flag f = {flag, taken != inverted};
        VEC_PUSH(c->im->scratch, &c->im->flags, f);
    }
    return taken;
}

/* What is known of the condition: false when nothing is. */
static bool condition(Call *c, ValId v, bool *out) {
    uint32_t n = 0;
    const Dim *d = in_dims(c, 0, &n);
    ValId flag;
    bool inverted = false;
    double x = 0;
    if (d != NULL && n == 1 && dim_is_const(d[0]))
        *out = d[0].v != 0;
    else if (const_scalar(c->g, v, &x))
        *out = x != 0;
    else if (is_flag(c, v, &flag, &inverted))
        *out = flag_value(c, flag, inverted);
    else
        return false;
    return true;
}

static bool run_branch(Call *c, bool yes) {
    const IBody *b = branch(c, yes);
    if (b == NULL || b->nout < c->n->nout)
        return call_error(c, "a branch is missing or gives too few outputs");
    if (!import_run_nodes(c->im, b->nodes, b->nnodes)) return false;
    for (size_t i = 0; i < c->n->nout; i++)
        if (out_used(c, i) && !tensor_loaded(c->im, b->out[i], c->loc)) return false;
    return true;
}

/* ---- conditions on lengths ---- */

/* Output o of the two branches as one value: the general branch's, or one selected by the condition. */
static bool join(Call *c, size_t o, ValId v, bool covered, bool general) {
    const IBody *b[2] = {branch(c, true), branch(c, false)};
    ValId x[3] = {v, tensor_value(c->im, b[0]->out[o], c->loc), tensor_value(c->im, b[1]->out[o], c->loc)};
    if (!val_ok(x[1]) || !val_ok(x[2])) return false;
    if (covered || val_eq(x[1], x[2])) {
        out_tensor(c, o, b[!general]->out[o]);
        return true;
    }
    Type yes = *type_of(c, x[1]), no = *type_of(c, x[2]);
    bool dynamic = value_dynamic(c->im, x[1]) || value_dynamic(c->im, x[2]);
    if (!type_eq(&yes, &no) || dynamic)
        return call_error(
            c, "which branch is taken depends on the length, and neither is the other's special case; "
               "hint: export one branch only");
    if (type_of(c, v)->rank != 0) x[0] = emit_reshape(c, v, 0, NULL);
    return out_val(c, o, emit(c, OP_WHERE, x, 3, NULL, NULL));
}

/* v says on which side of a number the whole length is: the branch of the shorter ones, and the longest. */
static bool length_condition(Call *c, ValId v, Dim total, bool *yes, int64_t *most) {
    while (graph_def_op(c->g, v) == OP_RESHAPE) v = graph_node(c->g, graph_def(c->g, v))->in[0];
    Op op = graph_def_op(c->g, v);
    if (op != OP_LT && op != OP_LE) return false;
    const Node *n = graph_node(c->g, graph_def(c->g, v));
    for (uint32_t i = 0; i < 2; i++) {
        NodeId length = graph_def(c->g, n->in[i]);
        int64_t number = 0;
        if (graph_def_op(c->g, n->in[i]) != OP_DIM || !const_get_i64(c->g, n->in[1 - i], 0, &number))
            continue;
        if (!dim_eq(graph_node(c->g, length)->attr.value, total) || number < 1 || number > DIM_MAX) continue;
        *yes = i == 0; /* length < number, length <= number; number < length, number <= length */
        *most = (op == OP_LT) == *yes ? number - 1 : number;
        return *most > 1;
    }
    return false;
}

/* Constants chosen by the length: the context ends where the other ones begin. */
static bool tables_by_length(Call *c, ValId v, bool *yes) {
    const IBody *b[2] = {branch(c, true), branch(c, false)};
    Dim total = dim_sym(c->g, SYM_SEQ);
    int64_t most = 0;
    for (size_t i = 0; i < c->g->inputs.count; i++)
        if (c->g->inputs.data[i].role == ROLE_PAST)
            total = dim_add(c->g, dim_sym(c->g, SYM_PAST), dim_sym(c->g, SYM_SEQ));
    for (size_t o = 0; o < c->n->nout; o++)
        for (size_t k = 0; k < 2 && out_used(c, o); k++) {
            ValId x = tensor_value(c->im, b[k]->out[o], c->loc);
            if (!val_ok(x) || graph_constant(c->g, x) == NULL) return false;
        }
    if (!length_condition(c, v, total, yes, &most)) return false;
    if (c->g->context == 0 || most < c->g->context) c->g->context = most;
    diag_warn(c->d, c->loc, "If: sequences of more than %lld tokens use other tables; the context ends there",
              (long long)most);
    return true;
}

static bool by_length(Call *c, ValId v) {
    SymId sym;
    int64_t at = 0;
    bool special = false;
    if (value_dynamic(c->im, v))
        return call_error(
            c, "the condition is not known when compiling, it depends on data; hint: export one branch only");
    if (!run_branch(c, true) || !run_branch(c, false)) return false;
    const IBody *b[2] = {branch(c, true), branch(c, false)};
    if (tables_by_length(c, v, &special)) {
        for (size_t o = 0; o < c->n->nout; o++) out_tensor(c, o, b[!special]->out[o]);
        return true;
    }
    bool covered = branch_special(c->im, v, &sym, &at, &special);
    for (size_t o = 0; o < c->n->nout && covered; o++) {
        if (!out_used(c, o)) continue;
        ValId general = tensor_value(c->im, b[special]->out[o], c->loc);
        ValId other = tensor_value(c->im, b[!special]->out[o], c->loc);
        if (!val_ok(general) || !val_ok(other)) return false;
        covered = branch_covers(c->im, general, other, sym, at);
    }
    for (size_t o = 0; o < c->n->nout; o++)
        if (out_used(c, o) && !join(c, o, v, covered, !special)) return false;
    return true;
}

static bool lower_if(Call *c) {
    bool yes = false;
    if (!in_has(c, 0)) return call_error(c, "the condition is missing");
    ValId v = in_val(c, 0);
    if (!val_ok(v)) return false;
    if (!condition(c, v, &yes)) return by_length(c, v);
    if (!run_branch(c, yes)) return false;
    for (size_t i = 0; i < c->n->nout; i++) out_tensor(c, i, branch(c, yes)->out[i]);
    return true;
}

const OpRule onnx_rules_control[] = {
    {"", "If", 1, 0, lower_if, 0, T_BOOLS,
     "the condition must follow from lengths, or be a flag between running with and without past",
     .sequences = true},
    {0},
};
