/* onnx_ops_einsum.c: Einsum of one or two operands, as transposes, reshapes and one matmul.
 *
 * Letters fall into four groups: in both operands and the result (batch), in both and not in the
 * result (summed), in one and the result (kept). Letters in one operand alone are summed first. Then
 * A is laid out [batch, kept, summed], B [batch, summed, kept], multiplied, and put in order. */
#include <string.h>

#include "frontend/import.h"

typedef struct {
    char in[2][MAX_RANK + 1], out[MAX_RANK + 1];
    size_t nin;
} Equation;

static bool has(const char *s, char ch) { return ch != '\0' && strchr(s, ch) != NULL; }

static bool term_add(Call *c, char *term, char ch) {
    size_t n = strlen(term);
    if (n >= MAX_RANK) return call_error(c, "a term has more than %d letters", MAX_RANK);
    if (has(term, ch)) return call_error(c, "a letter that is repeated in a term is not supported");
    term[n] = ch;
    return true;
}

static bool equation_parse(Call *c, const char *s, Equation *e) {
    memset(e, 0, sizeof(*e));
    char *term = e->in[0];
    bool arrow = false;
    e->nin = 1;
    for (; *s != '\0'; s++) {
        if (*s == ' ') continue;
        if (*s == ',' && !arrow) {
            if (e->nin == 2) return call_error(c, "more than two operands are not supported");
            term = e->in[e->nin++];
        } else if (s[0] == '-' && s[1] == '>' && !arrow) {
            arrow = true;
            term = e->out;
            s++;
        } else if ((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z')) {
            if (!term_add(c, term, *s)) return false;
        } else {
            return call_error(c, "the equation holds '%c'", *s);
        }
    }
    /* Without an arrow: the letters that occur once, in order. */
    for (char ch = 'A'; !arrow && ch <= 'z'; ch++)
        if (has(e->in[0], ch) != has(e->in[1], ch) && !term_add(c, e->out, ch)) return false;
    for (const char *o = e->out; *o != '\0'; o++)
        if (!has(e->in[0], *o) && !has(e->in[1], *o))
            return call_error(c, "the result has a letter that no operand has");
    return true;
}

/* Sums over letters that are neither in `other` nor in the result. */
static ValId sum_alone(Call *c, ValId v, char *term, const char *other, const char *out) {
    uint32_t axes = 0;
    char left[MAX_RANK + 1] = {0};
    size_t n = 0;
    for (size_t i = 0; term[i] != '\0'; i++) {
        if (!has(other, term[i]) && !has(out, term[i]))
            axes |= 1u << i;
        else
            left[n++] = term[i];
    }
    memcpy(term, left, sizeof(left));
    return axes == 0 ? v : emit_reduce(c, OP_REDUCE_SUM, v, axes, false);
}

/* v with its axes in the order of `to`; both name the same letters. */
static ValId reorder(Call *c, ValId v, const char *from, const char *to) {
    uint8_t perm[MAX_RANK] = {0};
    for (size_t i = 0; to[i] != '\0'; i++) perm[i] = (uint8_t)(strchr(from, to[i]) - from);
    return emit_transpose(c, v, perm);
}

static Dim letter_length(Call *c, const ValId *v, const Equation *e, char ch) {
    for (size_t k = 0; k < e->nin; k++)
        if (has(e->in[k], ch)) return type_of(c, v[k])->dim[strchr(e->in[k], ch) - e->in[k]];
    return DIM_UNKNOWN;
}

/* [batch letters, product of a, product of b] */
static ValId as_matrices(Call *c, const ValId *v, const Equation *e, size_t k, const char *batch,
                         const char *a, const char *b) {
    char order[3 * MAX_RANK + 1] = {0};
    strcat(order, batch);
    strcat(order, a);
    strcat(order, b);
    Dim dims[MAX_RANK + 2];
    uint32_t n = 0;
    for (; batch[n] != '\0'; n++) dims[n] = letter_length(c, v, e, batch[n]);
    dims[n] = dims[n + 1] = dim_const(1);
    for (; *a != '\0'; a++) dims[n] = dim_mul(c->g, dims[n], letter_length(c, v, e, *a));
    for (; *b != '\0'; b++) dims[n + 1] = dim_mul(c->g, dims[n + 1], letter_length(c, v, e, *b));
    if (n + 2 > MAX_RANK) {
        call_error(c, "needs a rank above %d", MAX_RANK);
        return NO_VAL;
    }
    return emit_reshape(c, reorder(c, v[k], e->in[k], order), n + 2, dims);
}

static ValId product(Call *c, const ValId *v, const Equation *e) {
    char batch[MAX_RANK + 1] = {0}, sum[MAX_RANK + 1] = {0}, kept[2][MAX_RANK + 1] = {{0}};
    for (size_t k = 0; k < 2; k++)
        for (const char *s = e->in[k]; *s != '\0'; s++) {
            bool both = has(e->in[1 - k], *s);
            if (both && k == 1) continue;
            char *to = !both ? kept[k] : has(e->out, *s) ? batch : sum;
            to[strlen(to)] = *s;
        }
    ValId a = as_matrices(c, v, e, 0, batch, kept[0], sum);
    ValId y = emit2(c, OP_MATMUL, a, as_matrices(c, v, e, 1, batch, sum, kept[1]));
    char order[3 * MAX_RANK + 1] = {0};
    strcat(order, batch);
    strcat(order, kept[0]);
    strcat(order, kept[1]);
    if (strlen(order) > MAX_RANK) {
        call_error(c, "the result's rank is above %d", MAX_RANK);
        return NO_VAL;
    }
    Dim dims[MAX_RANK];
    uint32_t n = 0;
    for (; order[n] != '\0'; n++) dims[n] = letter_length(c, v, e, order[n]);
    y = emit_reshape(c, y, n, dims);
    return reorder(c, y, order, e->out);
}

static bool lower_einsum(Call *c) {
    Equation e;
    ValId v[2] = {NO_VAL, NO_VAL};
    if (!equation_parse(c, attr_string(c, "equation", ""), &e)) return false;
    if (c->n->nin != e.nin) return call_error(c, "%zu operands for %zu terms", c->n->nin, e.nin);
    for (size_t k = 0; k < e.nin; k++) {
        v[k] = in_val(c, k);
        if (!val_ok(v[k])) return false;
        if (type_of(c, v[k])->rank != strlen(e.in[k]))
            return call_error(c, "term %zu has %zu letters for rank %u", k, strlen(e.in[k]),
                              type_of(c, v[k])->rank);
    }
    for (size_t k = 0; k < e.nin; k++) {
        v[k] = sum_alone(c, v[k], e.in[k], e.in[1 - k], e.out);
        if (!val_ok(v[k])) return false;
    }
    if (e.nin == 1) return out_val(c, 0, reorder(c, v[0], e.in[0], e.out));
    return out_val(c, 0, product(c, v, &e));
}

const OpRule onnx_rules_einsum[] = {
    {"", "Einsum", 12, 0, lower_einsum, 0, T_NUMBERS,
     "one or two operands; a letter repeated in a term is refused"},
    {0},
};
