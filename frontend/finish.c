/* finish.c: the graph's outputs, after all nodes are lowered. */
#include <string.h>

#include "frontend/import.h"

#define OUTPUTS_MAX 4096

/* Values that go into another output. */
static bool *inner_values(const Graph *g, const ValId *v, size_t n, Arena *a) {
    bool *need = arena_array_of(a, g->values.count, bool), *inner = arena_array_of(a, g->values.count, bool);
    for (size_t i = 0; i < n; i++) need[v[i].id] = true;
    for (NodeId id = g->last; node_ok(id); id = graph_node(g, id)->prev) {
        const Node *x = graph_node(g, id);
        bool used = false;
        for (uint32_t o = 0; o < x->nout; o++) used = used || need[x->out[o].id];
        for (uint32_t i = 0; used && i < x->nin; i++) need[x->in[i].id] = inner[x->in[i].id] = true;
    }
    return inner;
}

/* Logits: the user's choice, else floats [batch, seq, V]: with as many features as the embedding has rows,
 * and among those the last ones that are no probabilities; else the last ones with the most features. */
static int find_logits(const Import *im, const ValId *v, const bool *present) {
    int best = -1;
    int64_t best_score = -1;
    const bool *inner = inner_values(im->g, v, im->noutputs, im->scratch);
    for (size_t i = 0; i < im->noutputs; i++) {
        const Type *t = graph_type(im->g, v[i]);
        if (im->opt->logits != NULL) {
            if (strcmp(im->model.graph.outputs[i].name, im->opt->logits) == 0) return (int)i;
            continue;
        }
        if (present[i] || !dtype_is_float(t->dtype) || t->rank == 0 || t->rank > 3) continue;
        Dim last = t->dim[t->rank - 1];
        int64_t size = dim_is_const(last) && last.v < DIM_MAX / 16 ? last.v : 0;
        Op op = graph_def_op(im->g, v[i]);
        bool vocabulary = size == im->token_rows, probability = op == OP_SOFTMAX || op == OP_LOG;
        int64_t score = size + (vocabulary ? DIM_MAX / 2 : 0) + (probability ? 0 : DIM_MAX / 4) +
                        (inner[v[i].id] ? 0 : DIM_MAX / 8);
        if (score > best_score) {
            best = (int)i;
            best_score = score;
        }
    }
    return best;
}

bool import_outputs(Import *im) {
    Graph *g = im->g;
    size_t n = im->noutputs;
    shape_settle(im);
    if (n > OUTPUTS_MAX) return diag_error(im->d, loc_none(), "more than %d outputs", OUTPUTS_MAX);
    ValId *v = arena_array_of(im->scratch, n, ValId);
    bool *present = arena_array_of(im->scratch, n, bool);
    bool tokens = false;
    for (size_t i = 0; i < im->ninputs; i++) tokens |= im->roles[i] == ROLE_TOKENS;
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < i; k++)
            if (strcmp(im->model.graph.outputs[i].name, im->model.graph.outputs[k].name) == 0)
                return diag_error(im->d, loc_none(), "graph output '%s' is declared twice",
                                  im->model.graph.outputs[i].name);
        v[i] = tensor_value(im, im->outputs[i], (Loc){LOC_NONE, 0, 0, NULL});
        if (!val_ok(v[i])) return false;
    }
    if (tokens && !import_states(im, v, n, present)) return false;
    int logits = tokens ? find_logits(im, v, present) : -1;
    if (im->opt->logits != NULL && logits < 0)
        return diag_error(im->d, loc_none(), "there is no output '%s' for the logits", im->opt->logits);
    for (size_t i = 0; i < n; i++) {
        Role r = present[i] ? ROLE_PRESENT : (int)i == logits ? ROLE_LOGITS : ROLE_NONE;
        graph_output(g, v[i], im->model.graph.outputs[i].name, r);
    }
    Symbol *seq = &g->symbols.data[SYM_SEQ.id];
    if (tokens && g->context != 0 && (seq->max == 0 || seq->max > g->context)) seq->max = g->context;
    g->stage = STAGE_IMPORTED;
    return true;
}
