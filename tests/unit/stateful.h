/* stateful.h: runs a stateful graph in the reference, so many tokens at a time, feeding its states back. */
#ifndef TESTS_STATEFUL_H
#define TESTS_STATEFUL_H

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ir/ir.h"

static inline void report(const char *what, const Diag *d) {
    Text t = text_new(d->arena);
    for (size_t i = 0; i < d->items.count; i++) diag_format(&t, &d->items.data[i]);
    printf("\n    %s: %s", what, t.data == NULL ? "no message" : t.data);
}

typedef struct {
    Graph *g;
    const Tensor *tokens, *logits;
    Tensor state[64];
    Arena *arena;
    Diag *d;
} Run;

static inline bool run_input(Run *r, const Port *p, const int64_t *bind, Tensor *in) {
    const Type *t = graph_type(r->g, p->v);
    in->dtype = t->dtype;
    in->rank = t->rank;
    for (uint32_t i = 0; i < t->rank; i++)
        if (!dim_eval(r->g, t->dim[i], bind, 4, &in->dim[i])) return false;
    size_t n = tensor_count(in);
    in->data = arena_array(r->arena, n, dtype_size(t->dtype));
    if (p->role == ROLE_TOKENS) {
        int64_t seq = bind[SYM_SEQ.id], whole = r->tokens->dim[1];
        for (size_t i = 0; i < n; i++) {
            int64_t at = (int64_t)i / seq * whole + bind[SYM_PAST.id] + (int64_t)i % seq;
            int64_t id = tensor_get_i64(r->tokens, (size_t)at);
            memcpy((uint8_t *)in->data + i * dtype_size(t->dtype), &id, dtype_size(t->dtype));
        }
        return true;
    }
    for (size_t i = 0; i < r->g->states.count; i++)
        if (val_eq(r->g->states.data[i].in, p->v) && bind[SYM_PAST.id] > 0) *in = r->state[i];
    return true;
}

static inline double run_difference(const Run *r, const Tensor *out, int64_t past, int64_t seq) {
    int64_t batch = r->tokens->dim[0], whole = r->tokens->dim[1], vocab = r->logits->dim[2];
    double worst = 0;
    for (int64_t b = 0; b < batch; b++)
        for (int64_t i = 0; i < seq * vocab; i++) {
            double e = fabs(tensor_get_f64(out, (size_t)(b * seq * vocab + i)) -
                            tensor_get_f64(r->logits, (size_t)((b * whole + past) * vocab + i)));
            if (!(e <= worst)) worst = e;
        }
    return worst;
}

/* Largest error of the logits when `chunk` tokens come at a time, or -1. */
static inline double run_chunks(Run *r, int64_t chunk) {
    int64_t whole = r->tokens->dim[1];
    double worst = 0;
    for (int64_t past = 0; past < whole; past += chunk) {
        int64_t seq = whole - past < chunk ? whole - past : chunk;
        int64_t bind[4] = {0, r->tokens->dim[0], seq, past};
        size_t ninputs = r->g->inputs.count, nstates = r->g->states.count;
        Tensor *in = arena_array_of(r->arena, ninputs, Tensor), out[65];
        ValId want[65] = {NO_VAL};
        if (nstates > 64) return -1;
        for (size_t i = 0; i < ninputs; i++)
            if (!run_input(r, &r->g->inputs.data[i], bind, &in[i])) return -1;
        for (size_t i = 0; i < r->g->outputs.count; i++)
            if (r->g->outputs.data[i].role == ROLE_LOGITS) want[0] = r->g->outputs.data[i].v;
        for (size_t i = 0; i < nstates; i++) want[1 + i] = r->g->states.data[i].out;
        EvalArgs args = {bind, 4, in, ninputs, 0};
        if (!eval_graph(r->g, &args, want, 1 + nstates, out, r->arena, r->d)) return -1;
        memcpy(r->state, out + 1, nstates * sizeof(Tensor));
        worst = fmax(worst, run_difference(r, &out[0], past, seq));
    }
    return worst;
}

static inline double deviation(const Tensor *t) {
    double sum = 0, squares = 0;
    size_t n = tensor_count(t);
    for (size_t i = 0; i < n; i++) {
        double x = tensor_get_f64(t, i);
        sum += x;
        squares += x * x;
    }
    return sqrt(squares / (double)n - sum / (double)n * (sum / (double)n));
}

#endif
