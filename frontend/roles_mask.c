/* roles_mask.c: what the elements of a mask input say, from the first thing that is done with them.
 *
 *   1 - m, m == 0, m -> bool, where(m, x, ..), sums    flags: 1 where a token is or may be seen
 *   m * -10000, where(m, -inf, x)                      flags the other way round
 *   m + scores, an attention op's bias                 added: 0 where it may be seen, else -inf
 *
 * A mask over the keys alone says that all tokens are there. One over queries and keys says what a decoder
 * means by it: nobody sees later tokens. */
#include <string.h>

#include "frontend/roles.h"

#define DEPTH_MAX 16

/* The last two axes may be queries by keys: not one symbolic and one a number, as [.., seq, hidden] is. */
static bool square_tail(const OInfo *info) {
    const ODim *d = info->dim + info->rank - 2;
    return (d[0].param == NULL) == (d[1].param == NULL) || d[0].value == 1;
}

static bool scalar_of(const UseWalk *w, uint32_t tensor, double *out) {
    const OTensor *t = w->im->tensors.data[tensor].init;
    const INode *made = w->maker[tensor];
    TensorData x;
    Diag d;
    for (size_t i = 0; made != NULL && t == NULL && op_is(made, "Constant") && i < made->nattrs; i++) {
        if (made->attrs[i].kind == OA_TENSOR) t = made->attrs[i].t;
        if (made->attrs[i].kind != OA_FLOAT) continue;
        *out = (double)made->attrs[i].f;
        return true;
    }
    diag_init(&d);
    bool ok = t != NULL && tensor_load(t, &w->im->src, &x, loc_none(), &d) && x.count == 1;
    diag_free(&d);
    if (!ok) return false;
    Tensor one = {.dtype = x.dtype, .rank = 0, .data = (void *)(uintptr_t)x.data};
    *out = tensor_get_f64(&one, 0);
    return true;
}

static bool is_bias_operand(const INode *n, uint32_t slot) {
    if (n->domain[0] == '\0') return op_is(n, "Attention") && slot == 3;
    return (op_is(n, "Attention MultiHeadAttention") && slot == 5) ||
           (op_is(n, "GroupQueryAttention") && slot == 10);
}

/* MASK_NONE: keeps the elements as they are. */
static MaskSense sense_of(const UseWalk *w, const INode *n, uint32_t slot, bool real) {
    double c = 0;
    if (op_is(n, "Add") || is_bias_operand(n, slot)) return real ? MASK_ADDED : MASK_FLAGS;
    if (op_is(n, "Mul"))
        return n->nin == 2 && scalar_of(w, n->in[1 - slot], &c) && c < -100 ? MASK_BLOCKS : MASK_FLAGS;
    if (op_is(n, "Where") && slot == 0)
        return scalar_of(w, n->in[1], &c) && c < -100 ? MASK_BLOCKS : MASK_FLAGS;
    if (keeps_elements(n) && slot == 0) return MASK_NONE;
    if (op_is(n, "Slice Gather GatherND") && slot == 0) return MASK_NONE;
    return MASK_FLAGS;
}

static MaskSense follow(const UseWalk *w, uint32_t tensor, bool real, uint32_t depth) {
    MaskSense found = MASK_NONE;
    for (uint32_t i = 0; i < w->count[tensor] && found == MASK_NONE && depth > 0; i++) {
        Use u = w->uses[w->first[tensor] + i];
        if (op_is(u.node, "Shape")) continue;
        found = sense_of(w, u.node, u.slot, real);
        if (found == MASK_NONE && u.node->nout > 0) found = follow(w, u.node->out[0], real, depth - 1);
    }
    return found;
}

void mask_find(const UseWalk *w, size_t input, InputForm *form) {
    const OInfo *info = w->im->input_info[input];
    bool real = float_type(info->type);
    if (info->rank > 2 && !square_tail(info)) return;
    if (info->rank == 3 && real) return; /* hidden states are like that */
    MaskSense sense = follow(w, w->im->inputs[input], real, DEPTH_MAX);
    const ODim *queries = &info->dim[info->rank - 2];
    bool square = info->rank > 2 && (queries->param != NULL || queries->value > 1);
    form->sense = sense == MASK_NONE ? MASK_FLAGS : sense;
    form->use = square ? USE_CAUSAL : form->sense == MASK_FLAGS ? USE_ROLE : USE_ZERO;
    if (form->use == USE_ROLE) w->im->roles[input] = ROLE_MASK;
}
