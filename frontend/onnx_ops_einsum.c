/* onnx_ops_einsum.c: Einsum as transposes, reshapes and matmuls.
 *
 * The axes of an ellipsis become digits, counted from the last; a letter repeated in a term becomes its diagonal; an
 * axis of length 1 is spread to the letter's length. Operands are multiplied two by two, from the left; a letter
 * that neither the result nor a later operand has is summed as soon as that may be.
 * Of two operands the letters fall into four groups: in both and the result (batch), in both and not in the
 * result (summed), in one and the result (kept). Letters in one operand alone are summed first. Then
 * A is laid out [batch, kept, summed], B [batch, summed, kept], multiplied, and put in order. */
#include <string.h>

#include "frontend/import.h"

#define MOST_TERMS 16

typedef struct {
    char in[2][MAX_RANK + 1], out[MAX_RANK + 1];
    size_t nin;
} Equation; /* of one or two operands */

typedef struct {
    char in[MOST_TERMS][MAX_RANK + 1], out[MAX_RANK + 1];
    size_t nin;
} Terms;

static bool has(const char *s, char ch) { return ch != '\0' && strchr(s, ch) != NULL; }

static bool term_add(Call *c, char *term, char ch) {
    size_t n = strlen(term);
    if (n >= MAX_RANK) return call_error(c, "a term has more than %d letters", MAX_RANK);
    term[n] = ch;
    return true;
}

/* ---- the equation ---- */

/* Terms as written, with '.' for an ellipsis. */
static bool terms_read(Call *c, const char *s, Terms *t, bool *arrow) {
    char *term = t->in[0];
    memset(t, 0, sizeof(*t));
    *arrow = false;
    t->nin = 1;
    for (; *s != '\0'; s++) {
        if (*s == ' ') continue;
        if (*s == ',' && !*arrow) {
            if (t->nin == MOST_TERMS)
                return call_error(c, "more than %d operands are not supported", MOST_TERMS);
            term = t->in[t->nin++];
        } else if (s[0] == '-' && s[1] == '>' && !*arrow) {
            *arrow = true;
            term = t->out;
            s++;
        } else if (strncmp(s, "...", 3) == 0 && !has(term, '.')) {
            if (!term_add(c, term, '.')) return false;
            s += 2;
        } else if ((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z')) {
            if (!term_add(c, term, *s)) return false;
        } else {
            return call_error(c, "the equation holds '%c'", *s);
        }
    }
    return true;
}

/* The ellipsis of a term becomes the last n of most digits. */
static bool ellipsis_expand(Call *c, char *term, size_t n, size_t most) {
    char old[MAX_RANK + 1];
    memcpy(old, term, sizeof(old));
    memset(term, 0, sizeof(old));
    for (const char *s = old; *s != '\0'; s++)
        for (size_t i = 0; i < (*s == '.' ? n : 1); i++)
            if (!term_add(c, term, *s == '.' ? (char)('0' + most - n + i) : *s)) return false;
    return true;
}

static size_t count_letter(const Terms *t, char ch) {
    size_t n = 0;
    for (size_t k = 0; k < t->nin; k++)
        for (const char *s = t->in[k]; *s != '\0'; s++) n += *s == ch;
    return n;
}

static bool equation_parse(Call *c, const ValId *v, size_t nv, Terms *t) {
    bool arrow;
    size_t most = 0, n[MOST_TERMS] = {0};
    if (!terms_read(c, attr_string(c, "equation", ""), t, &arrow)) return false;
    if (nv != t->nin) return call_error(c, "%zu operands for %zu terms", nv, t->nin);
    for (size_t k = 0; k < t->nin; k++) {
        size_t letters = strlen(t->in[k]), dots = has(t->in[k], '.'), rank = type_of(c, v[k])->rank;
        if (dots ? rank + 1 < letters : rank != letters)
            return call_error(c, "term %zu has %zu letters for rank %zu", k, letters - dots, rank);
        n[k] = dots * (rank + 1 - letters);
        if (n[k] > most) most = n[k];
    }
    for (size_t k = 0; k < t->nin; k++)
        if (!ellipsis_expand(c, t->in[k], n[k], most)) return false;
    if (!ellipsis_expand(c, t->out, most, most)) return false;
    /* Without an arrow: the axes of the ellipsis, and the letters that occur once, in order. */
    for (size_t i = 0; !arrow && i < most; i++)
        if (!term_add(c, t->out, (char)('0' + i))) return false;
    for (char ch = 'A'; !arrow && ch <= 'z'; ch++)
        if (count_letter(t, ch) == 1 && !term_add(c, t->out, ch)) return false;
    for (const char *o = t->out; *o != '\0'; o++) {
        if (count_letter(t, *o) == 0) return call_error(c, "the result has a letter that no operand has");
        if (has(o + 1, *o)) return call_error(c, "a letter is repeated in the result");
    }
    return true;
}

/* ---- operands ---- */

/* Entries whose axes i and j have equal indices; axis j goes. */
static ValId diagonal(Call *c, ValId v, uint32_t i, uint32_t j) {
    Type t = *type_of(c, v);
    Type index = t;
    index.dtype = DT_I64;
    index.dim[j] = dim_const(1);
    Attr a = attr_default();
    a.axis = i;
    ValId pick = emit(c, OP_IOTA, NULL, 0, &a, &index);
    ValId in[2] = {v, pick};
    a.axis = j;
    v = emit(c, OP_GATHER_ELEMENTS, in, 2, &a, NULL);
    for (uint32_t k = j; k + 1 < t.rank; k++) t.dim[k] = t.dim[k + 1];
    return emit_reshape(c, v, t.rank - 1u, t.dim);
}

static ValId diagonals(Call *c, ValId v, char *term) {
    for (uint32_t i = 0; val_ok(v) && term[i] != '\0';) {
        char *again = strchr(term + i + 1, term[i]);
        if (again == NULL) {
            i++;
            continue;
        }
        v = diagonal(c, v, i, (uint32_t)(again - term));
        memmove(again, again + 1, strlen(again));
    }
    return v;
}

/* Axes of length 1 where another operand's letter is longer. */
static ValId spread(Call *c, const Terms *t, const ValId *v, size_t k) {
    Type to = *type_of(c, v[k]);
    bool wider = false;
    for (uint32_t i = 0; i < to.rank; i++)
        for (size_t o = 0; o < t->nin && dim_eq(to.dim[i], dim_const(1)); o++) {
            const char *at = strchr(t->in[o], t->in[k][i]);
            if (at == NULL) continue;
            to.dim[i] = type_of(c, v[o])->dim[at - t->in[o]];
            wider = wider || !dim_eq(to.dim[i], dim_const(1));
        }
    return wider ? emit_broadcast(c, v[k], to.rank, to.dim) : v[k];
}

/* ---- products ---- */

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

/* What of the letters so far a later term or the result reads. */
static bool letters_kept(Call *c, const Terms *t, size_t k, Equation *e) {
    memset(e->out, 0, sizeof(e->out));
    if (k + 1 == t->nin) {
        memcpy(e->out, t->out, sizeof(e->out));
        return true;
    }
    for (size_t side = 0; side < 2; side++)
        for (const char *s = e->in[side]; *s != '\0'; s++) {
            bool read = has(t->out, *s);
            for (size_t o = k + 1; o < t->nin; o++) read = read || has(t->in[o], *s);
            if (read && !has(e->out, *s) && !term_add(c, e->out, *s)) return false;
        }
    return true;
}

static bool lower_einsum(Call *c) {
    Terms t;
    ValId v[MOST_TERMS];
    if (c->n->nin == 0 || c->n->nin > MOST_TERMS) return call_error(c, "takes 1 to %d operands", MOST_TERMS);
    for (size_t k = 0; k < c->n->nin; k++) {
        v[k] = in_val(c, k);
        if (!val_ok(v[k])) return false;
    }
    if (!equation_parse(c, v, c->n->nin, &t)) return false;
    for (size_t k = 0; k < t.nin; k++) v[k] = diagonals(c, v[k], t.in[k]);
    for (size_t k = 0; k < t.nin; k++) {
        if (!val_ok(v[k])) return false;
        v[k] = spread(c, &t, v, k);
    }
    Equation e = {.nin = 1};
    memcpy(e.in[0], t.in[0], sizeof(e.in[0]));
    if (t.nin == 1) {
        v[0] = sum_alone(c, v[0], e.in[0], "", t.out);
        return out_val(c, 0, reorder(c, v[0], e.in[0], t.out));
    }
    for (size_t k = 1; k < t.nin; k++) {
        e.nin = 2;
        memcpy(e.in[1], t.in[k], sizeof(e.in[1]));
        if (!letters_kept(c, &t, k, &e)) return false;
        ValId pair[2] = {v[0], v[k]};
        for (size_t i = 0; i < 2; i++) pair[i] = sum_alone(c, pair[i], e.in[i], e.in[1 - i], e.out);
        if (!val_ok(pair[0]) || !val_ok(pair[1])) return false;
        v[0] = product(c, pair, &e);
        if (!val_ok(v[0])) return false;
        memcpy(e.in[0], e.out, sizeof(e.in[0]));
    }
    return out_val(c, 0, v[0]);
}

const OpRule onnx_rules_einsum[] = {
    {"", "Einsum", 12, 0, lower_einsum, 0, T_NUMBERS},
    {0},
};
