/* parse_attr.c: a node's attributes in the text, "{axis=1, perm=[0, 2, 1]}", by the table of ops.def. */
#include <string.h>

#include "ir/ir.h"
#include "ir/internal.h"

static bool attr_int(Lex *x, int64_t *out) { return lex_i64(x, INT64_MIN, INT64_MAX, out); }

static bool attr_bool(Lex *x, bool *out) {
    uint8_t element = 0;
    const char *at = lex_here(x);
    if (!lex_element(x, DT_BOOL, &element)) return false;
    *out = element != 0;
    return element <= 1 || lex_error(x, at, "expected true or false");
}

static bool attr_float(Lex *x, float *out) {
    uint8_t element[4];
    if (!lex_element(x, DT_F32, element)) return false;
    memcpy(out, element, sizeof(element));
    return true;
}

static bool attr_axes(Lex *x, uint32_t *out) {
    *out = 0;
    if (!lex_expect(x, '[')) return false;
    if (lex_take(x, ']')) return true;
    do {
        uint64_t axis = 0;
        if (!lex_u64(x, MAX_RANK - 1, &axis)) return false;
        *out |= UINT32_C(1) << axis;
    } while (lex_take(x, ','));
    return lex_expect(x, ']');
}

static bool attr_dims(Lex *x, Graph *g, Dim *out, uint32_t *n) {
    *n = 0;
    if (!lex_expect(x, '[')) return false;
    if (lex_take(x, ']')) return true;
    do {
        if (*n == MAX_RANK) return lex_error(x, x->at, "more than %d axes", MAX_RANK);
        if (!lex_dim(x, g, &out[(*n)++])) return false;
    } while (lex_take(x, ','));
    return lex_expect(x, ']');
}

/* Fields of 1 byte (perm) or 8 bytes (steps). */
static bool attr_ints(Lex *x, void *field, size_t size, uint32_t *n) {
    *n = 0;
    if (!lex_expect(x, '[')) return false;
    if (lex_take(x, ']')) return true;
    do {
        int64_t number = 0;
        int64_t least = size == 1 ? 0 : INT64_MIN, most = size == 1 ? UINT8_MAX : INT64_MAX;
        if (*n == MAX_RANK) return lex_error(x, x->at, "more than %d axes", MAX_RANK);
        if (!lex_i64(x, least, most, &number)) return false;
        if (size == 1)
            ((uint8_t *)field)[*n] = (uint8_t)number;
        else
            ((int64_t *)field)[*n] = number;
        ++*n;
    } while (lex_take(x, ','));
    return lex_expect(x, ']');
}

#define PARSE_INT(f) attr_int(x, &a->f)
#define PARSE_BOOL(f) attr_bool(x, &a->f)
#define PARSE_FLOAT(f) attr_float(x, &a->f)
#define PARSE_AXES(f) attr_axes(x, &a->f)
#define PARSE_DIM(f) lex_dim(x, g, &a->f)
#define PARSE_DIMS(f) attr_dims(x, g, a->f, length)
#define PARSE_INTS(f) attr_ints(x, a->f, sizeof(a->f[0]), length)

static bool attr_one(Lex *x, Graph *g, Op op, AttrText *out) {
    Attr *a = &out->attr;
    uint32_t has = op_info(op)->attrs;
    const char *at = lex_here(x), *word = NULL;
    size_t count = 0;
    if (!lex_word(x, &word, &count) || !lex_expect(x, '=')) return false;
#define ATTR(bit, field, kind, def)                                                                          \
    if (lex_is(word, count, #field) && (has & A_##bit) != 0) {                                               \
        uint32_t *length = &out->length[ATTRIDX_##bit];                                                      \
        if ((out->given & A_##bit) != 0) return lex_error(x, at, #field " is given twice");                  \
        out->given |= A_##bit;                                                                               \
        *length = UINT32_MAX;                                                                                \
        return PARSE_##kind(field);                                                                          \
    }
    ATTR_FIELDS(ATTR)
#undef ATTR
    return lex_error(x, at, "%s has no attribute of this name", op_info(op)->name);
}

bool attr_parse(Lex *x, Graph *g, Op op, AttrText *out) {
    *out = (AttrText){.attr = attr_default(), .at = lex_here(x)};
    if (!lex_take(x, '{')) return true;
    if (lex_take(x, '}')) return true;
    do {
        if (!attr_one(x, g, op, out)) return false;
    } while (lex_take(x, ','));
    return lex_expect(x, '}');
}

bool attr_check(Lex *x, const AttrText *n, uint32_t rank) {
#define LENGTH_INT(i) true
#define LENGTH_BOOL(i) true
#define LENGTH_FLOAT(i) true
#define LENGTH_AXES(i) true
#define LENGTH_DIM(i) true
#define LENGTH_DIMS(i) (n->length[i] == rank)
#define LENGTH_INTS(i) (n->length[i] == rank)
#define ATTR(bit, field, kind, def)                                                                          \
    if ((n->given & A_##bit) != 0 && !LENGTH_##kind(ATTRIDX_##bit))                                          \
        return lex_error(x, n->at, #field " needs one entry for each of %u axes", rank);
    ATTR_FIELDS(ATTR)
#undef ATTR
    return true;
}
