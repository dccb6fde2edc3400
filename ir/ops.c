/* ops.c: the op table, attributes, and the names of roles and stages. */
#include <string.h>

#include "ir/ir.h"

static const OpInfo ops[OP_COUNT] = {
    [OP_NONE] = {"none", "", 0, 0, 0, 0, 0, AXES_NONE},
#define OP(e, text, lo, hi, nout, attrs, flags, infer, eval, axes, doc)                                      \
    [OP_##e] = {text, doc, lo, hi, nout, attrs, flags, AXES_##axes},
#include "ir/ops.def"
#undef OP
};

const OpInfo *op_info(Op op) { return &ops[(unsigned)op < OP_COUNT ? op : OP_NONE]; }

Op op_parse(const char *name, size_t n) {
    for (int op = OP_NONE + 1; op < OP_COUNT; op++)
        if (strlen(ops[op].name) == n && memcmp(ops[op].name, name, n) == 0) return (Op)op;
    return OP_NONE;
}

Attr attr_default(void) {
    Attr a;
    memset(&a, 0, sizeof(a));
#define SET_INT(field, def) a.field = def;
#define SET_FLOAT(field, def) a.field = (float)def;
#define SET_BOOL(field, def) a.field = def;
#define SET_AXES(field, def) a.field = def;
#define SET_DIM(field, def) a.field = dim_const(def);
#define SET_DIMS(field, def)                                                                                 \
    for (uint32_t i = 0; i < MAX_RANK; i++) a.field[i] = dim_const(def);
#define SET_INTS(field, def)                                                                                 \
    for (uint32_t i = 0; i < MAX_RANK; i++) a.field[i] = def;
#define ATTR(bit, field, kind, def) SET_##kind(field, def)
    ATTR_FIELDS(ATTR)
#undef ATTR
    return a;
}

bool attr_eq(Op op, const Attr *a, const Attr *b, uint32_t rank) {
    uint32_t has = op_info(op)->attrs;
    size_t n = rank < MAX_RANK ? rank : MAX_RANK;
    /* Floats by their bits: -0 is not 0 and NaN is itself. */
#define SAME_INT(field) (a->field == b->field)
#define SAME_BOOL(field) (a->field == b->field)
#define SAME_AXES(field) (a->field == b->field)
#define SAME_FLOAT(field) (memcmp(&a->field, &b->field, sizeof(a->field)) == 0)
#define SAME_DIM(field) (a->field.v == b->field.v)
#define SAME_DIMS(field) (memcmp(a->field, b->field, n * sizeof(a->field[0])) == 0)
#define SAME_INTS(field) (memcmp(a->field, b->field, n * sizeof(a->field[0])) == 0)
#define ATTR(bit, field, kind, def)                                                                          \
    if ((has & A_##bit) != 0 && !SAME_##kind(field)) return false;
    ATTR_FIELDS(ATTR)
#undef ATTR
    return true;
}

const char *role_name(Role r) {
    static const char *const names[ROLE_COUNT] = {
        [ROLE_NONE] = "none",           [ROLE_TOKENS] = "tokens", [ROLE_POSITIONS] = "positions",
        [ROLE_SEGMENTS] = "segments",   [ROLE_MASK] = "mask",     [ROLE_PAST] = "past",
        [ROLE_USE_CACHE] = "use_cache", [ROLE_LENGTH] = "length", [ROLE_LOGITS] = "logits",
        [ROLE_PRESENT] = "present",
    };
    return (unsigned)r < ROLE_COUNT ? names[r] : "none";
}

const char *stage_name(Stage s) {
    static const char *const names[STAGE_COUNT] = {
        [STAGE_IMPORTED] = "imported", [STAGE_RAISED] = "raised",   [STAGE_STATEFUL] = "stateful",
        [STAGE_FUSED] = "fused",       [STAGE_ORDERED] = "ordered", [STAGE_PLANNED] = "planned",
    };
    return (unsigned)s < STAGE_COUNT ? names[s] : "unknown";
}
