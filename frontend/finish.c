/* finish.c: the graph's outputs and states, after all nodes are lowered.
 *
 * A state is a past input and the output that is that input with new rows appended. */
#include <string.h>

#include "frontend/import.h"

#define OUTPUTS_MAX 4096

/* out = concat(in, x): the past input that an output extends. */
static bool extends_past(const Graph *g, ValId out, ValId *in, uint8_t *axis) {
    if (graph_def_op(g, out) != OP_CONCAT) return false;
    const Node *n = graph_node(g, graph_def(g, out));
    for (size_t i = 0; i < g->inputs.count; i++)
        if (g->inputs.data[i].role == ROLE_PAST && val_eq(g->inputs.data[i].v, n->in[0]) && n->nin == 2) {
            *in = n->in[0];
            *axis = (uint8_t)n->attr.axis;
            return true;
        }
    return false;
}

static const char *input_name(const Graph *g, ValId v) {
    for (size_t i = 0; i < g->inputs.count; i++)
        if (val_eq(g->inputs.data[i].v, v)) return g->inputs.data[i].name;
    return NULL;
}

static bool add_state(Import *im, ValId in, ValId out, uint8_t axis) {
    Graph *g = im->g;
    for (size_t i = 0; i < g->states.count; i++)
        if (val_eq(g->states.data[i].in, in)) return true;
    State s = {input_name(g, in), in, out, axis};
    VEC_PUSH(g->arena, &g->states, s);
    return true;
}

/* Outputs; one that holds several states is one for each. */
typedef struct {
    ValId v;
    const char *name;
    bool present;
} Output;
typedef VEC(Output) Outputs;

static bool list_outputs(Import *im, bool tokens, Outputs *out) {
    const OGraph *from = &im->model.graph;
    ValId *part = arena_array_of(im->scratch, OUTPUTS_MAX, ValId);
    for (size_t i = 0; i < im->noutputs; i++) {
        const char *name = from->outputs[i].name;
        for (size_t k = 0; k < i; k++)
            if (strcmp(name, from->outputs[k].name) == 0)
                return diag_error(im->d, loc_none(), "graph output '%s' is declared twice", name);
        ValId v = tensor_value(im, im->outputs[i], loc_none());
        if (!val_ok(v)) return false;
        size_t n = tokens ? stacked_parts(im, v, part, OUTPUTS_MAX) : 1;
        bool present = tokens;
        for (size_t k = 0; k < n && present && n > 1; k++) {
            ValId in;
            uint8_t axis;
            present = extends_past(im->g, part[k], &in, &axis);
        }
        if (!present || n == 1) part[0] = v, n = 1;
        for (size_t k = 0; k < n; k++) {
            Output o = {part[k], n == 1 ? name : arena_printf(im->arena, "%s.%zu", name, k), false};
            VEC_PUSH(im->scratch, out, o);
        }
    }
    return true;
}

/* Logits: the user's choice, else the float output [batch, seq, V] with the largest V. */
static int find_logits(const Import *im, const Outputs *outputs) {
    int best = -1;
    int64_t best_v = -1;
    for (size_t i = 0; i < outputs->count; i++) {
        const Output *o = &outputs->data[i];
        const Type *t = graph_type(im->g, o->v);
        if (im->opt->logits != NULL) {
            if (strcmp(o->name, im->opt->logits) == 0) return (int)i;
            continue;
        }
        if (o->present || !dtype_is_float(t->dtype) || t->rank == 0 || t->rank > 3) continue;
        Dim last = t->dim[t->rank - 1];
        int64_t size = dim_is_const(last) ? last.v : 0;
        if (size > best_v) {
            best = (int)i;
            best_v = size;
        }
    }
    return best;
}

/* Every past input has an output that extends it. */
static bool pasts_extended(const Import *im) {
    const Graph *g = im->g;
    for (size_t i = 0; i < g->inputs.count; i++) {
        if (g->inputs.data[i].role != ROLE_PAST) continue;
        bool found = false;
        for (size_t s = 0; s < g->states.count; s++)
            found |= val_eq(g->states.data[s].in, g->inputs.data[i].v);
        if (!found)
            return diag_error(im->d, loc_none(),
                              "no output extends the past input '%s' by a plain "
                              "concat; hint: export with present outputs",
                              g->inputs.data[i].name);
    }
    return true;
}

bool import_outputs(Import *im) {
    Graph *g = im->g;
    Outputs outputs = {0};
    shape_settle(im);
    if (im->noutputs > OUTPUTS_MAX) return diag_error(im->d, loc_none(), "more than %d outputs", OUTPUTS_MAX);
    bool tokens = false;
    for (size_t i = 0; i < im->ninputs; i++) tokens |= im->roles[i] == ROLE_TOKENS;
    if (!list_outputs(im, tokens, &outputs)) return false;
    for (size_t i = 0; i < outputs.count && tokens; i++) {
        Output *o = &outputs.data[i];
        ValId in = NO_VAL;
        uint8_t axis = 0;
        o->present = extends_past(g, o->v, &in, &axis);
        if (o->present) add_state(im, in, o->v, axis);
    }
    int logits = tokens ? find_logits(im, &outputs) : -1;
    if (im->opt->logits != NULL && logits < 0)
        return diag_error(im->d, loc_none(), "there is no output '%s' for the logits", im->opt->logits);
    for (size_t i = 0; i < outputs.count; i++) {
        const Output *o = &outputs.data[i];
        Role r = o->present ? ROLE_PRESENT : (int)i == logits ? ROLE_LOGITS : ROLE_NONE;
        graph_output(g, o->v, o->name, r);
    }
    if (!pasts_extended(im)) return false;
    Symbol *seq = &g->symbols.data[SYM_SEQ.id];
    if (tokens && g->context != 0 && (seq->max == 0 || seq->max > g->context)) seq->max = g->context;
    g->stage = STAGE_IMPORTED;
    return true;
}
