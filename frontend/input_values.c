/* input_values.c: what inputs are bound to that a GPT's contract leaves only one value for. The others keep
 * their role in the graph, and the pass bind replaces them. */
#include <math.h>
#include <string.h>

#include "frontend/roles.h"

static Tv *tensor_give(Import *im, size_t i) {
    Tv *t = &im->tensors.data[im->inputs[i]];
    t->set = true;
    return t;
}

static void give_length(Import *im, size_t i, Dim d) {
    const OInfo *info = im->input_info[i];
    Dim one = dim_const(1);
    Tv *t = tensor_give(im, i);
    t->type = type_make(dtype_from_onnx(info->type), (uint32_t)info->rank, &one);
    t->dims = arena_dup(im->scratch, &d, sizeof(d));
    t->ndims = 1;
}

/* [seq, total]: is the key no later than the query? */
static ValId causal(Call *c, Dim past, Dim total) {
    ValId key = emit_iota(c, DT_I64, total);
    ValId query = emit2(c, OP_ADD, emit_iota(c, DT_I64, dim_sym(c->g, SYM_SEQ)), emit_dim(c, DT_I64, past));
    return emit2(c, OP_LE, key, emit_insert_axis(c, query, 1));
}

static ValId mask_value(Call *c, const InputForm *form, Type t, Dim past) {
    ValId seen = causal(c, past, t.dim[t.rank - 1]);
    if (form->sense == MASK_BLOCKS) seen = emit1(c, OP_NOT, seen);
    ValId v = form->sense == MASK_ADDED ? emit3(c, OP_WHERE, seen, emit_scalar(c, t.dtype, 0),
                                                emit_scalar(c, t.dtype, (double)-INFINITY))
                                        : emit_cast(c, seen, t.dtype);
    return emit_broadcast(c, v, t.rank, t.dim);
}

bool input_bind(Import *im, size_t i, const InputForm *form, bool has_past, const Dim *dims) {
    const OInfo *info = im->input_info[i];
    Dim seq = dim_sym(im->g, SYM_SEQ), past = has_past ? dim_sym(im->g, SYM_PAST) : dim_const(0);
    INode none = {.op = "input", .domain = "", .name = info->name};
    Call c = {im, im->g, im->d, &none, loc_none(), 0, 0};
    Type t = type_make(dtype_from_onnx(info->type), (uint32_t)info->rank, dims);
    ValId v = NO_VAL;
    const char *to = "";
    switch (form->use) {
    case USE_ZERO:
        to = "0";
        v = emit_broadcast(&c, emit_scalar(&c, t.dtype, 0), t.rank, t.dim);
        break;
    case USE_CAUSAL:
        to = "no key later than the query";
        v = mask_value(&c, form, t, past);
        break;
    case USE_PAST_LENGTH:
        to = "the number of earlier tokens";
        give_length(im, i, past);
        break;
    case USE_TOTAL_LENGTH:
        to = "the number of all tokens";
        give_length(im, i, dim_add(im->g, past, seq));
        break;
    default:
        to = "all logits";
        give_length(im, i, seq);
        break;
    }
    if (val_ok(v)) {
        Tv *tv = tensor_give(im, i);
        tv->val = v;
        tv->type = t;
    } else if (form->use == USE_ZERO || form->use == USE_CAUSAL) {
        return false;
    }
    diag_note(im->d, loc_none(), "input '%s' is bound: %s", info->name, to);
    return true;
}
