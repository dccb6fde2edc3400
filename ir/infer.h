/* infer.h: private to infer*.c, the rules of types. infer.c calls each op's rule (infer_NAME, named in ops.def) once its
 * operands are there. */
#ifndef GPTC_IR_INFER_H
#define GPTC_IR_INFER_H

#include "ir/ir.h"

typedef struct {
    Graph *g;
    const Node *n;
    Diag *d;
} Infer;

typedef bool InferFn(Infer *c);
#define OP(e, text, lo, hi, nout, attrs, flags, infer, eval, axes, doc) InferFn infer_##infer;
#include "ir/ops.def"
#undef OP

/* Reports "OP: WHAT; operands T, T[, result T]"; returns false. */
bool infer_fail(Infer *c, const char *what);
/* The type that an F_TYPED op brings must itself be sound. */
bool infer_given_ok(Infer *c);

/* NULL: none is given. */
static inline const Type *operand(const Infer *c, uint32_t i) {
    if (i >= c->n->nin || !val_ok(c->n->in[i])) return NULL;
    return graph_type(c->g, c->n->in[i]);
}

static inline const Type *given(const Infer *c) { return graph_type(c->g, c->n->out[0]); }

static inline bool set_type(Infer *c, uint32_t out, Type t) {
    graph_val(c->g, c->n->out[out])->type = t;
    return true;
}

static inline bool is_numeric(DType t) { return dtype_is_int(t) || dtype_is_float(t); }

static inline bool axis_ok(const Infer *c, const Type *x) {
    return c->n->attr.axis >= 0 && c->n->attr.axis < x->rank;
}

static inline bool dims_eq(const Type *a, const Type *b) {
    if (a->rank != b->rank) return false;
    for (uint32_t i = 0; i < a->rank; i++) {
        if (!dim_eq(a->dim[i], b->dim[i])) return false;
    }
    return true;
}

static inline bool push_dim(Type *t, Dim d) {
    if (t->rank >= MAX_RANK) return false;
    t->dim[t->rank++] = d;
    return true;
}

#endif
