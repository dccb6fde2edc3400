/* print.c: the text form of a graph (grammar in ir.h).
 *
 * The text depends on the graph's content alone: values are numbered as they are printed, unused
 * constants are left out, and attributes at their default are too. Broken graphs print as well as
 * they can (a value that is defined nowhere is %?), because dumps are for finding out why. */
#include <math.h>
#include <string.h>

#include "ir/ir.h"
#include "ir/internal.h"

#define LIST_MAX 64 /* constants with more elements are hex, or a splat when all are equal */
#define SPLAT_MIN 9

typedef struct {
    Text *t;
    const Graph *g;
    uint32_t *number; /* by value id; 0 = not printed yet */
    uint32_t next;
} Printer;

void string_print(Text *t, const char *s) {
    text_add(t, "\"");
    for (; *s != '\0'; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            text_printf(t, "\\%c", c);
        else if (c == '\n')
            text_add(t, "\\n");
        else if (c == '\t')
            text_add(t, "\\t");
        else if (c < 0x20 || c == 0x7f)
            text_printf(t, "\\x%02x", (unsigned)c);
        else
            text_addn(t, s, 1);
    }
    text_add(t, "\"");
}

/* ---- elements ---- */

static uint64_t element_bits(const void *element, size_t size) {
    uint64_t bits = 0;
    const uint8_t *p = element;
    for (size_t i = 0; i < size; i++) bits |= (uint64_t)p[i] << (8 * i);
    return bits;
}

static void float_print(Text *t, DType type, uint64_t bits) {
    double x = float_from_bits(type, bits);
    if (isnan(x))
        text_printf(t, "nan(0x%llx)", (unsigned long long)bits);
    else if (type == DT_F64)
        text_add_float(t, x);
    else
        text_add_float32(t, (float)x);
}

void element_print(Text *t, DType type, const void *element) {
    size_t size = dtype_size(type);
    uint64_t bits = element_bits(element, size);
    switch (dtype_class(type)) {
    case DC_FLOAT: float_print(t, type, bits); break;
    case DC_INT: {
        uint64_t sign = UINT64_C(1) << (8 * size - 1);
        text_printf(t, "%lld", (long long)(int64_t)((bits ^ sign) - sign));
        break;
    }
    case DC_BOOL:
        if (bits > 1)
            text_printf(t, "%u", (unsigned)bits);
        else
            text_add(t, bits != 0 ? "true" : "false");
        break;
    case DC_UINT:
    case DC_NONE: text_printf(t, "%llu", (unsigned long long)bits); break;
    }
}

/* ---- constants ---- */

static void hex_print(Text *t, const uint8_t *data, size_t bytes) {
    static const char digits[] = "0123456789abcdef";
    char buffer[256];
    size_t n = 0;
    text_add(t, "hex(\"");
    for (size_t i = 0; i < bytes; i++) {
        buffer[n++] = digits[data[i] >> 4];
        buffer[n++] = digits[data[i] & 15];
        if (n == sizeof(buffer) || i + 1 == bytes) {
            text_addn(t, buffer, n);
            n = 0;
        }
    }
    text_add(t, "\")");
}

static bool all_equal(const uint8_t *data, size_t count, size_t size) {
    return count > 0 && memcmp(data, data + size, (count - 1) * size) == 0;
}

static void const_print(Text *t, const Type *ty, const Const *c) {
    DType type = ty->dtype;
    size_t size = dtype_size(type), count = 0;
    const uint8_t *data = c->data;
    uint8_t unpacked[LIST_MAX];
    if (data == NULL || !type_static_count(ty, &count)) count = 0;
    bool packed = count > 0 && dtype_bits(type) < 8;
    if (packed) {
        const_unpack(type, c->data, 0, count < LIST_MAX ? count : LIST_MAX, unpacked);
        data = unpacked;
    }
    if (c->form == CF_SEED) {
        text_printf(t, "seed(%llu)", (unsigned long long)c->seed);
    } else if (c->form == CF_FILE && c->path != NULL) {
        text_add(t, "file(");
        string_print(t, c->path);
        text_printf(t, ", %llu)", (unsigned long long)c->offset);
    } else if (count > 0 && (c->form == CF_SPLAT || (count >= SPLAT_MIN && (!packed || count <= LIST_MAX) &&
                                                     all_equal(data, count, size)))) {
        text_add(t, "splat(");
        element_print(t, type, data);
        text_add(t, ")");
    } else if (count <= LIST_MAX) {
        text_add(t, "{");
        for (size_t i = 0; i < count; i++) {
            if (i > 0) text_add(t, ", ");
            element_print(t, type, data + i * size);
        }
        text_add(t, "}");
    } else {
        hex_print(t, c->data, c->bytes);
    }
}

/* ---- attributes ---- */

static void attr_float(Text *t, float v) {
    element_print(t, DT_F32, &v); /* the compiler's hosts are little-endian, as the text is */
}

static void attr_axes(Text *t, uint32_t axes) {
    const char *comma = "";
    text_add(t, "[");
    for (uint32_t i = 0; i < 32; i++) {
        if ((axes >> i & 1) == 0) continue;
        text_printf(t, "%s%u", comma, i);
        comma = ", ";
    }
    text_add(t, "]");
}

static void attr_dims(Text *t, const Graph *g, const Dim *dims, uint32_t n) {
    text_add(t, "[");
    for (uint32_t i = 0; i < n; i++) {
        if (i > 0) text_add(t, ", ");
        dim_print(t, g, dims[i]);
    }
    text_add(t, "]");
}

#define PRINT_INT(f) text_printf(t, "%lld", (long long)a->f)
#define PRINT_BOOL(f) text_add(t, a->f ? "true" : "false")
#define PRINT_FLOAT(f) attr_float(t, a->f)
#define PRINT_AXES(f) attr_axes(t, a->f)
#define PRINT_DIM(f) dim_print(t, g, a->f)
#define PRINT_DIMS(f) attr_dims(t, g, a->f, rank)
#define PRINT_INTS(f)                                                                                        \
    for (uint32_t i = 0; i < rank; i++) text_printf(t, "%s%lld", i == 0 ? "[" : ", ", (long long)a->f[i]);   \
    text_add(t, "]")

#define DIFFERS_INT(f) (a->f != d.f)
#define DIFFERS_BOOL(f) (a->f != d.f)
#define DIFFERS_AXES(f) (a->f != d.f)
#define DIFFERS_FLOAT(f) (memcmp(&a->f, &d.f, sizeof(d.f)) != 0)
#define DIFFERS_DIM(f) (a->f.v != d.f.v)
#define DIFFERS_DIMS(f) (memcmp(a->f, d.f, rank * sizeof(d.f[0])) != 0)
#define DIFFERS_INTS(f) (memcmp(a->f, d.f, rank * sizeof(d.f[0])) != 0)

static void attrs_print(Text *t, const Graph *g, Op op, const Attr *a, uint32_t rank) {
    uint32_t has = op_info(op)->attrs;
    Attr d = attr_default();
    const char *before = " {";
#define ATTR(bit, field, kind, def)                                                                          \
    if ((has & A_##bit) != 0 && DIFFERS_##kind(field)) {                                                     \
        text_printf(t, "%s" #field "=", before);                                                             \
        PRINT_##kind(field);                                                                                 \
        before = ", ";                                                                                       \
    }
    ATTR_FIELDS(ATTR)
#undef ATTR
    if (before[0] == ',') text_add(t, "}");
}

/* ---- statements ---- */

static void value_print(Printer *p, ValId v) {
    uint32_t n = v.id < p->g->values.count ? p->number[v.id] : 0;
    if (!val_ok(v))
        text_add(p->t, "_");
    else if (n == 0)
        text_add(p->t, "%?");
    else
        text_printf(p->t, "%%%u", n);
}

static void value_define(Printer *p, ValId v) {
    if (v.id < p->g->values.count) p->number[v.id] = p->next++;
    value_print(p, v);
}

static void name_print(Text *t, const char *name) {
    if (name == NULL) return;
    text_add(t, " ");
    string_print(t, name);
}

static void value_type_print(Printer *p, ValId v) {
    if (v.id < p->g->values.count)
        type_print(p->t, p->g, graph_type(p->g, v));
    else
        text_add(p->t, "none[]");
}

static uint64_t value_slot(const Graph *g, ValId v) {
    return v.id < g->values.count ? graph_val(g, v)->slot : NO_SLOT;
}

static void slots_print(Printer *p, const ValId *v, uint32_t n) {
    bool any = false;
    for (uint32_t i = 0; i < n; i++) any = any || value_slot(p->g, v[i]) != NO_SLOT;
    if (!any) return;
    text_add(p->t, " !slot ");
    for (uint32_t i = 0; i < n; i++) {
        uint64_t slot = value_slot(p->g, v[i]);
        if (i > 0) text_add(p->t, ", ");
        if (slot == NO_SLOT)
            text_add(p->t, "_");
        else
            text_printf(p->t, "%llu", (unsigned long long)slot);
    }
}

static void node_print(Printer *p, const Node *n) {
    Text *t = p->t;
    for (uint32_t i = 0; i < n->nout; i++) {
        if (i > 0) text_add(t, ", ");
        value_define(p, n->out[i]);
    }
    text_add(t, " : ");
    for (uint32_t i = 0; i < n->nout; i++) {
        if (i > 0) text_add(t, ", ");
        value_type_print(p, n->out[i]);
    }
    text_printf(t, " = %s(", op_info(n->op)->name);
    for (uint32_t i = 0; i < n->nin; i++) {
        if (i > 0) text_add(t, ", ");
        value_print(p, n->in[i]);
    }
    text_add(t, ")");
    bool typed = n->nout > 0 && n->out[0].id < p->g->values.count;
    attrs_print(t, p->g, n->op, &n->attr, typed ? graph_type(p->g, n->out[0])->rank : 0);
    if (n->region != 0) text_printf(t, " !region %u", n->region);
    slots_print(p, n->out, n->nout);
    if (n->loc.kind == LOC_NODE) {
        text_printf(t, " @ onnx:%u", n->loc.line);
        name_print(t, n->loc.name);
    }
    text_add(t, "\n");
}

static void header_print(Text *t, const Graph *g) {
    text_printf(t, "gir 1 stage=%s", stage_name(g->stage));
    if (g->context != 0) text_printf(t, " context=%lld", (long long)g->context);
    if (g->arena_row_bytes != 0) text_printf(t, " arena=%llu", (unsigned long long)g->arena_row_bytes);
    text_add(t, "\n");
    for (size_t i = 1; i < g->symbols.count; i++) {
        const Symbol *s = &g->symbols.data[i];
        text_add(t, "symbol ");
        symbol_print(t, s->name);
        if (s->literal != 0) text_printf(t, " literal=%lld", (long long)s->literal);
        if (s->max != 0) text_printf(t, " max=%lld", (long long)s->max);
        text_add(t, "\n");
    }
}

static void role_print(Text *t, Role role) {
    if (role != ROLE_NONE) text_printf(t, " role=%s", role_name(role));
}

static void consts_print(Printer *p, const bool *used) {
    const Graph *g = p->g;
    for (uint32_t i = 1; i < g->values.count; i++) {
        const Const *c = graph_constant(g, (ValId){i});
        if (c == NULL || !used[i]) continue;
        const Value *v = &g->values.data[i];
        text_add(p->t, "const ");
        value_define(p, (ValId){i});
        name_print(p->t, v->name);
        text_add(p->t, " : ");
        type_print(p->t, g, &v->type);
        text_add(p->t, " = ");
        const_print(p->t, &v->type, c);
        text_add(p->t, "\n");
    }
}

static bool *values_used(const Graph *g, Arena *a) {
    bool *used = arena_array_of(a, g->values.count, bool);
    Uses u = graph_uses(g, a);
    for (uint32_t i = 0; i < u.nvals; i++) used[i] = u.count[i] > 0;
    return used;
}

void graph_print(Text *t, const Graph *g) {
    Arena *scratch = arena_new();
    Printer p = {t, g, arena_array_of(scratch, g->values.count, uint32_t), 1};
    header_print(t, g);
    for (size_t i = 0; i < g->inputs.count; i++) {
        const Port *port = &g->inputs.data[i];
        text_add(t, "input ");
        value_define(&p, port->v);
        name_print(t, port->name);
        text_add(t, " : ");
        value_type_print(&p, port->v);
        role_print(t, port->role);
        slots_print(&p, &port->v, 1);
        text_add(t, "\n");
    }
    consts_print(&p, values_used(g, scratch));
    FOR_NODES (g, id) node_print(&p, graph_node(g, id));
    for (size_t i = 0; i < g->outputs.count; i++) {
        const Port *port = &g->outputs.data[i];
        text_add(t, "output ");
        value_print(&p, port->v);
        name_print(t, port->name);
        role_print(t, port->role);
        text_add(t, "\n");
    }
    for (size_t i = 0; i < g->states.count; i++) {
        const State *s = &g->states.data[i];
        text_add(t, "state");
        name_print(t, s->name);
        text_add(t, " in=");
        value_print(&p, s->in);
        text_add(t, " out=");
        value_print(&p, s->out);
        text_printf(t, " axis=%u\n", (unsigned)s->axis);
    }
    arena_free(scratch);
}
