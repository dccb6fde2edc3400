/* roles_past.c: which inputs are the past, and how it lies in them.
 *
 * The past is what new rows are appended to: its axis of the Concat, followed back through what picks,
 * turns and squeezes, is the axis that grows. Where a Reshape hides it, the one length in the declaration
 * that has a name of its own tells. */
#include <string.h>

#include "frontend/roles.h"

#define DEPTH_MAX 16
#define UNKNOWN_RANK (MAX_RANK + 1)

/* A tensor made of the input: where its axes were there. */
typedef struct {
    uint32_t rank; /* UNKNOWN_RANK after a Reshape */
    uint8_t at[MAX_RANK];
} Axes;
typedef struct {
    UseWalk *w;
    const OInfo *info, *tokens;
    bool stack[MAX_RANK]; /* axes that are picked from */
    PastForm form;
} Follow;

/* Operands of attention ops that hold what comes before the new rows, [batch, heads, past, d]. */
static bool is_past_operand(const INode *n, uint32_t slot) {
    static const struct {
        const char *domain, *op;
        uint32_t first, last;
    } operands[] = {
        {"", "Attention", 4, 5},
        {"", "TensorScatter", 0, 0},
        {"com.microsoft", "Attention", 4, 4},
        {"com.microsoft", "QAttention", 8, 8},
        {"com.microsoft", "MultiHeadAttention", 6, 7},
        {"com.microsoft", "GroupQueryAttention", 3, 4},
    };
    for (size_t i = 0; i < COUNT_OF(operands); i++)
        if (strcmp(n->op, operands[i].op) == 0 && strcmp(n->domain, operands[i].domain) == 0)
            return slot >= operands[i].first && slot <= operands[i].last;
    return false;
}

/* Operands that hold a fixed room for the rows, of which the first are in use. */
static bool is_buffer_operand(const INode *n) {
    return (op_is(n, "TensorScatter") && n->domain[0] == '\0') ||
           (op_is(n, "GroupQueryAttention") && strcmp(n->domain, "com.microsoft") == 0);
}

static Count count_operand(const INode *n, uint32_t slot) {
    static const struct {
        const char *domain, *op;
        uint32_t slot;
        Count count;
    } operands[] = {
        {"", "TensorScatter", 2, COUNT_PAST},
        {"", "Attention", 6, COUNT_TOTAL},
        {"com.microsoft", "GroupQueryAttention", 5, COUNT_LAST},
        {"com.microsoft", "GroupQueryAttention", 6, COUNT_TOTAL},
    };
    for (size_t i = 0; i < COUNT_OF(operands); i++)
        if (strcmp(n->op, operands[i].op) == 0 && strcmp(n->domain, operands[i].domain) == 0 &&
            slot == operands[i].slot)
            return operands[i].count;
    return NO_COUNT;
}

Count count_find(UseWalk *w, uint32_t input) {
    uint32_t t = 0;
    uses_start(w, input);
    while (uses_next(w, &t))
        for (uint32_t i = 0; i < w->count[t]; i++) {
            Use u = w->uses[w->first[t] + i];
            Count c = count_operand(u.node, u.slot);
            if (c != NO_COUNT) return c;
            if (keeps_elements(u.node) && u.slot == 0 && u.node->nout > 0) uses_push(w, u.node->out[0]);
        }
    return NO_COUNT;
}

static bool same_dim(const ODim *a, const ODim *b) {
    if (a->param != NULL || b->param != NULL)
        return a->param != NULL && b->param != NULL && strcmp(a->param, b->param) == 0;
    return a->value == b->value && a->value > 0;
}

static bool is_batch(const Follow *f, uint32_t axis) {
    return f->tokens->rank == 2 && same_dim(&f->info->dim[axis], &f->tokens->dim[0]);
}

static uint32_t axis_from(int64_t axis, uint32_t rank) {
    if (axis < 0) axis += rank;
    return axis >= 0 && axis < (int64_t)rank ? (uint32_t)axis : NO_AXIS;
}

static void axis_drop(Axes *x, uint32_t axis) {
    for (uint32_t i = axis; i + 1 < x->rank; i++) x->at[i] = x->at[i + 1];
    x->rank--;
}

static void picked(Follow *f, const Axes *x, uint32_t axis) {
    if (axis < x->rank && x->at[axis] < MAX_RANK) f->stack[x->at[axis]] = true;
}

/* Axes named by an attribute or by operand `slot`. */
static bool node_axes(const Follow *f, const INode *n, uint32_t slot, const int64_t **axes, size_t *count) {
    for (size_t i = 0; i < n->nattrs; i++)
        if (strcmp(n->attrs[i].name, "axes") == 0 && n->attrs[i].kind == OA_INTS) {
            *axes = n->attrs[i].ints;
            *count = n->attrs[i].n;
            return true;
        }
    size_t rank = 0;
    return n->nin > slot && n->in[slot] != 0 && known_ints(f->w, n->in[slot], axes, count, &rank);
}

static void through_transpose(const INode *n, Axes *x) {
    Axes old = *x;
    for (uint32_t k = 0; k < x->rank; k++) x->at[k] = old.at[x->rank - 1 - k];
    for (size_t i = 0; i < n->nattrs; i++) {
        const OAttr *a = &n->attrs[i];
        if (strcmp(a->name, "perm") != 0 || a->kind != OA_INTS || a->n != x->rank) continue;
        for (uint32_t k = 0; k < x->rank; k++)
            x->at[k] = a->ints[k] >= 0 && a->ints[k] < (int64_t)x->rank ? old.at[a->ints[k]] : NO_AXIS;
    }
}

static void through_unsqueeze(const int64_t *axes, size_t count, Axes *x) {
    Axes old = *x;
    uint32_t rank = x->rank + (uint32_t)count, from = 0;
    if (count > MAX_RANK || rank > MAX_RANK) {
        x->rank = UNKNOWN_RANK;
        return;
    }
    x->rank = rank;
    for (uint32_t k = 0; k < rank; k++) {
        bool made = false;
        for (size_t i = 0; i < count; i++) made = made || axis_from(axes[i], rank) == k;
        x->at[k] = made || from >= old.rank ? NO_AXIS : old.at[from++];
    }
}

/* The axes of what a node makes of the tensor; false when it does more than move it. */
static bool through(Follow *f, const INode *n, Axes *x) {
    const int64_t *v = NULL;
    size_t count = 0, rank = 0;
    bool known = x->rank != UNKNOWN_RANK;
    if (op_is(n, "Identity SequenceAt") || (op_is(n, "Concat") && n->nin == 1)) return true;
    if (op_is(n, "Reshape Flatten")) {
        x->rank = UNKNOWN_RANK;
        return true;
    }
    if (!op_is(n, "Transpose Gather Split SplitToSequence Slice Squeeze Unsqueeze")) return false;
    if (!known) return true;
    uint32_t axis = axis_from(node_attr(n, "axis", 0), x->rank);
    if (op_is(n, "Transpose")) {
        through_transpose(n, x);
    } else if (op_is(n, "Gather")) {
        if (axis == NO_AXIS || n->nin < 2 || !known_ints(f->w, n->in[1], &v, &count, &rank)) return false;
        picked(f, x, axis);
        if (rank == 0) axis_drop(x, axis);
    } else if (op_is(n, "Split")) {
        picked(f, x, axis);
    } else if (op_is(n, "SplitToSequence")) {
        if (axis == NO_AXIS) return false;
        picked(f, x, axis);
        if (n->nin < 2 && node_attr(n, "keepdims", 1) == 0) axis_drop(x, axis);
    } else if (op_is(n, "Slice")) {
        if (node_axes(f, n, 3, &v, &count))
            for (size_t i = 0; i < count; i++) picked(f, x, axis_from(v[i], x->rank));
    } else if (!node_axes(f, n, 1, &v, &count)) {
        x->rank = UNKNOWN_RANK;
    } else if (op_is(n, "Unsqueeze")) {
        through_unsqueeze(v, count, x);
    } else {
        Axes old = *x;
        x->rank = 0;
        for (uint32_t k = 0; k < old.rank; k++) {
            bool gone = false;
            for (size_t i = 0; i < count; i++) gone = gone || axis_from(v[i], old.rank) == k;
            if (!gone) x->at[x->rank++] = old.at[k];
        }
    }
    return true;
}

/* The one axis whose length has a name and is not the batch's. */
static uint32_t named_axis(const Follow *f) {
    uint32_t axis = NO_AXIS, n = 0;
    for (uint32_t k = 0; k < f->info->rank; k++) {
        if (f->info->dim[k].param == NULL || is_batch(f, k) || f->stack[k]) continue;
        axis = k;
        n++;
    }
    return n == 1 ? axis : NO_AXIS;
}

/* New rows are appended along an axis of the tensor. */
static void grows(Follow *f, const Axes *x, int64_t axis) {
    uint32_t k = x->rank == UNKNOWN_RANK ? NO_AXIS : axis_from(axis, x->rank);
    uint32_t at = k == NO_AXIS ? NO_AXIS : x->at[k], named = named_axis(f);
    if (at == NO_AXIS) at = named;
    if (at == NO_AXIS || f->stack[at] || (f->info->dim[at].param == NULL && named != NO_AXIS)) return;
    f->form.past = true;
    f->form.past_axis = at;
}

static void follow(Follow *f, uint32_t tensor, const Axes *x, uint32_t depth) {
    const UseWalk *w = f->w;
    for (uint32_t i = 0; i < w->count[tensor] && !f->form.past; i++) {
        Use u = w->uses[w->first[tensor] + i];
        const INode *n = u.node;
        Axes now = *x;
        if (op_is(n, "Concat") && u.slot == 0 && n->nin == 2) {
            grows(f, x, node_attr(n, "axis", 0));
        } else if (is_past_operand(n, u.slot)) {
            grows(f, x, -2);
            f->form.operand = f->form.past;
            f->form.buffer = f->form.past && is_buffer_operand(n);
        } else if (depth > 0 && u.slot == 0 && through(f, n, &now)) {
            for (size_t o = 0; o < n->nout; o++) follow(f, n->out[o], &now, depth - 1);
        }
    }
}

PastForm past_find(UseWalk *w, uint32_t input, const OInfo *info, const OInfo *tokens) {
    Follow f = {.w = w, .info = info, .tokens = tokens};
    Axes x = {.rank = (uint32_t)info->rank};
    for (uint32_t k = 0; k < info->rank; k++) x.at[k] = (uint8_t)k;
    follow(&f, input, &x, DEPTH_MAX);
    uint32_t others = 0, first = NO_AXIS;
    f.form.batch_axis = NO_AXIS;
    for (uint32_t k = 0; k < info->rank && f.form.past; k++) {
        if (k == f.form.past_axis || f.stack[k]) continue;
        if (is_batch(&f, k) && f.form.batch_axis == NO_AXIS) f.form.batch_axis = k;
        if (first == NO_AXIS) first = k;
        others++;
    }
    /* batch, heads and features: the first one is the batch whatever it is called */
    if (f.form.batch_axis == NO_AXIS && others >= 3) f.form.batch_axis = first;
    return f.form;
}
