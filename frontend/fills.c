/* fills.c: values whose elements are all equal under a GPT's contract.
 *
 * The attention mask is all ones, so its sum over n tokens is n, and what is computed from that is known
 * too, for any batch. The values stay as they are; who needs a length may ask what it comes to. */
#include <string.h>

#include "frontend/import.h"

static bool one_of(const char *op, const char *const *list) {
    for (; *list != NULL; list++)
        if (strcmp(op, *list) == 0) return true;
    return false;
}

static void set(Call *c, size_t o, Dim d) {
    Tv *t = &c->im->tensors.data[c->n->out[o]];
    if (!dim_known(d) || !(dtype_is_int(t->type.dtype) || t->type.dtype == DT_BOOL)) return;
    t->filled = true;
    t->fill = d;
}

bool in_fill(Call *c, size_t i, Dim *out) {
    if (!in_has(c, i)) return false;
    const Tv *t = in_tv(c, i);
    *out = t->fill;
    if (t->filled) return true;
    uint32_t n = 0;
    const Dim *d = in_dims(c, i, &n);
    for (uint32_t k = 1; d != NULL && k < n; k++)
        if (!dim_eq(d[k], d[0])) return false;
    if (d == NULL || n == 0) return false;
    *out = d[0];
    return true;
}

void fill_note(Call *c) {
    static const char *const moves[] = {"Cast",   "Identity",  "Reshape", "Squeeze", "Unsqueeze", "Flatten",
                                        "Expand", "Transpose", "Slice",   "Gather",  "Tile",      NULL};
    static const char *const picks[] = {"ReduceMax", "ReduceMin", "ReduceMean", NULL};
    static const char *const maps[] = {"Add", "Sub", "Mul", "Div", "Min", "Max", "Neg", "Abs", "Where", NULL};
    const char *op = c->n->op;
    Dim x[3];
    if (c->n->domain[0] != '\0' || !out_used(c, 0) || !in_has(c, 0) ||
        c->im->tensors.data[c->n->out[0]].filled)
        return;
    bool any = false; /* what is known as a shape value needs no more */
    for (size_t i = 0; i < c->n->nin; i++) any |= in_has(c, i) && in_tv(c, i)->filled;
    if (!any) return;
    if (one_of(op, maps)) {
        for (size_t i = 0; i < c->n->nin; i++)
            if (i >= COUNT_OF(x) || !in_fill(c, i, &x[i])) return;
        set(c, 0, shape_apply(c, x, c->n->nin));
    } else if (in_fill(c, 0, &x[0])) {
        const Type *from = in_type(c, 0), *to = &c->im->tensors.data[c->n->out[0]].type;
        bool truth = to->dtype == DT_BOOL && !dim_eq(x[0], dim_const(0)) && !dim_eq(x[0], dim_const(1));
        if ((one_of(op, moves) && !truth) || one_of(op, picks)) set(c, 0, x[0]);
        if (strcmp(op, "ReduceSum") == 0)
            set(c, 0, dim_mul(c->g, x[0], dim_div(c->g, type_count(c->g, from), type_count(c->g, to))));
    }
}
