/* raise_attention_mask.c: the masks that scores pass, each as written, as one expression that an attention op
 * takes: bool or added, broadcast to [batch, heads, seq, total]. */
#include <math.h>
#include <string.h>

#include "passes/raise_scores.h"

/* A mask that broadcasts to scores of type at, as one that broadcasts to [batch, heads, seq, total]. */
static ValId mask_form(Match *m, ValId v, const Type *at) {
    Graph *g = m->g;
    Diag *d = m->cx->diag;
    Type t = *graph_type(g, v);
    if (m->rows) { /* [batch, seq, heads, total] */
        static const uint8_t perm[4] = {0, 2, 1, 3};
        Dim four[4];
        for (uint32_t i = 0; i < 4; i++) four[i] = i + t.rank < 4 ? dim_const(1) : t.dim[i + t.rank - 4];
        return move_transpose(g, move_reshape(g, v, four, 4, m->loc, d), perm, m->loc, d);
    }
    if (at->rank == 4 || t.rank <= 2) return v;
    Dim one = dim_const(1), lead[3] = {one, one, one};
    uint32_t nlead = at->rank - 2;
    for (uint32_t i = 0; i + 2 < t.rank; i++) lead[nlead - (t.rank - 2) + i] = t.dim[i];
    Dim dims[4] = {one, one, t.dim[t.rank - 2], t.dim[t.rank - 1]};
    if (nlead == 1) {
        if (!dim_eq(lead[0], one)) {
            dims[0] = m->batch;
            dims[1] = m->heads;
        }
    } else {
        dims[0] = lead[0];
        bool h = !dim_eq(lead[1], one), grp = !dim_eq(lead[2], one);
        if (h != grp && !dim_eq(at->dim[1], one) && !dim_eq(at->dim[2], one)) {
            Type wide = t;
            wide.rank = 5;
            wide.dim[0] = lead[0];
            wide.dim[1] = at->dim[1];
            wide.dim[2] = at->dim[2];
            wide.dim[3] = dims[2];
            wide.dim[4] = dims[3];
            v = graph_add(g, OP_BROADCAST, &v, 1, NULL, &wide, m->loc, d);
        }
        if (h || grp) dims[1] = m->heads;
    }
    return move_reshape(g, v, dims, 4, m->loc, d);
}

ValId match_binary(Match *m, Op op, ValId a, ValId b) {
    ValId in[2] = {a, b};
    return graph_add(m->g, op, in, 2, NULL, NULL, m->loc, m->cx->diag);
}

ValId match_f32(Match *m, ValId v) {
    Type t = *graph_type(m->g, v);
    if (t.dtype == DT_F32) return v;
    t.dtype = DT_F32;
    return graph_add(m->g, OP_CAST, &v, 1, NULL, &t, m->loc, m->cx->diag);
}

/* What w * v adds up to beside w when v is 1 where w counts and 0 where `sum`, added after, blocks it:
 * nothing, or never. Any other v gives NaN, which no form of mask agrees with. */
static ValId times_form(Match *m, ValId v, ValId sum) {
    Graph *g = m->g;
    if (!val_ok(v = match_f32(m, v))) return NO_VAL;
    ValId one = match_binary(m, OP_EQ, v, graph_const_f32(g, 1)),
          none = match_binary(m, OP_EQ, v, graph_const_f32(g, 0));
    ValId low = match_binary(m, OP_LE, sum, graph_const_f32(g, (float)NEVER));
    if (!val_ok(one) || !val_ok(none) || !val_ok(low)) return NO_VAL;
    ValId blocked = match_binary(m, OP_AND, none, low);
    if (!val_ok(blocked)) return NO_VAL;
    ValId in[3] = {blocked, graph_const_f32(g, -INFINITY), graph_const_f32(g, NAN)};
    in[2] = graph_add(g, OP_WHERE, in, 3, NULL, NULL, m->loc, m->cx->diag);
    in[0] = one;
    in[1] = graph_const_f32(g, 0);
    return val_ok(in[2]) ? graph_add(g, OP_WHERE, in, 3, NULL, NULL, m->loc, m->cx->diag) : NO_VAL;
}

/* One mask operand of all parts. False on an error; *out stays none without parts. */
bool match_mask(Match *m, ValId *out) {
    ValId allowed = NO_VAL, sum = NO_VAL;
    Graph *g = m->g;
    for (uint32_t i = 0; i < m->nmasks; i++) {
        MaskPart *p = &m->mask[i];
        ValId v = mask_form(m, p->v, &p->at);
        if (!val_ok(v)) return false;
        if (p->kind == MASK_TIMES) {
            v = times_form(m, v, sum);
            if (val_ok(v)) v = match_binary(m, OP_ADD, sum, v);
            sum = v;
        } else if (p->kind == MASK_ADD) {
            v = match_f32(m, v);
            if (val_ok(v) && p->scale != 1)
                v = match_binary(m, OP_MUL, v, graph_const_f32(g, (float)p->scale));
            if (val_ok(v) && val_ok(sum)) v = match_binary(m, OP_ADD, sum, v);
            sum = v;
        } else {
            if (p->kind == MASK_BLOCKED) v = graph_add(g, OP_NOT, &v, 1, NULL, NULL, m->loc, m->cx->diag);
            if (val_ok(v) && val_ok(allowed)) v = match_binary(m, OP_AND, allowed, v);
            allowed = v;
        }
        if (!val_ok(v)) return false;
    }
    *out = val_ok(allowed) ? allowed : sum;
    if (val_ok(allowed) && val_ok(sum)) {
        ValId in[3] = {allowed, sum, graph_const_f32(g, -INFINITY)};
        *out = graph_add(g, OP_WHERE, in, 3, NULL, NULL, m->loc, m->cx->diag);
        return val_ok(*out);
    }
    return true;
}
