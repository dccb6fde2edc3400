/* parse.c: from text to a graph (grammar in ir.h), one statement a line.
 *
 * Values may have any numbers; each is defined once and before its use. Result types are inferred
 * and must agree with those in the text. The first error ends the parse. The text is untrusted:
 * what it makes the parser allocate is bounded by its own length and by parse_const.c. */
#include <string.h>

#include "ir/ir.h"
#include "ir/internal.h"

#define SYMBOLS_MAX 4096
#define NUMBER_SLACK 65536 /* value numbers may exceed the length of the text by this */

typedef struct {
    Lex x;
    Graph *g;
    ConstSource from;
    size_t bytes;        /* of the text */
    VEC(ValId) numbered; /* by the number in the text */
} Parser;

/* ---- values ---- */

static bool parse_number(Parser *p, uint32_t *number) {
    uint64_t n = 0;
    if (!lex_expect(&p->x, '%') || !lex_u64(&p->x, UINT32_MAX, &n)) return false;
    if (n > p->bytes + NUMBER_SLACK)
        return lex_error(&p->x, p->x.at,
                         "value number %llu is out of proportion to the text; "
                         "hint: number values densely",
                         (unsigned long long)n);
    *number = (uint32_t)n;
    return true;
}

static bool parse_value(Parser *p, ValId *v) {
    const char *at = lex_here(&p->x);
    uint32_t n = 0;
    if (!parse_number(p, &n)) return false;
    *v = n < p->numbered.count ? p->numbered.data[n] : NO_VAL;
    return val_ok(*v) || lex_error(&p->x, at, "%%%u is not defined above", n);
}

static bool parse_definition(Parser *p, uint32_t *number) {
    const char *at = lex_here(&p->x);
    if (!parse_number(p, number)) return false;
    bool known = *number < p->numbered.count && val_ok(p->numbered.data[*number]);
    return !known || lex_error(&p->x, at, "%%%u is defined twice", *number);
}

static void define(Parser *p, uint32_t number, ValId v) {
    while (p->numbered.count <= number) VEC_PUSH(p->g->arena, &p->numbered, NO_VAL);
    p->numbered.data[number] = v;
}

static bool parse_name(Parser *p, const char **name) {
    *name = NULL;
    return !lex_peek(&p->x, '"') || lex_string(&p->x, name);
}

/* "key=" with a known key */
static bool parse_key(Parser *p, const char *key) {
    const char *at = lex_here(&p->x), *word = NULL;
    size_t n = 0;
    if (!lex_word(&p->x, &word, &n)) return false;
    if (!lex_is(word, n, key)) return lex_error(&p->x, at, "expected %s= here", key);
    return lex_expect(&p->x, '=');
}

static bool at_line_end(Parser *p) {
    lex_here(&p->x);
    return p->x.failed || p->x.at >= p->x.end || *p->x.at == '\n';
}

/* ---- header, symbols, ports, states ---- */

static bool parse_stage(Parser *p) {
    const char *at = lex_here(&p->x), *word = NULL;
    size_t n = 0;
    if (!lex_word(&p->x, &word, &n)) return false;
    for (int s = 0; s < STAGE_COUNT; s++) {
        if (!lex_is(word, n, stage_name((Stage)s))) continue;
        p->g->stage = (Stage)s;
        return true;
    }
    return lex_error(&p->x, at,
                     "unknown stage; hint: imported, raised, stateful, fused, ordered "
                     "and planned exist");
}

static bool parse_header(Parser *p) {
    Lex *x = &p->x;
    const char *word = NULL;
    size_t n = 0;
    uint64_t version = 0;
    if (!lex_next_line(x)) return lex_error(x, x->at, "the text is empty; expected \"gir 1\"");
    const char *at = x->at;
    if (!lex_word(x, &word, &n) || !lex_is(word, n, "gir"))
        return lex_error(x, at, "expected the text to start with \"gir 1\"");
    at = lex_here(x);
    if (!lex_u64(x, UINT32_MAX, &version)) return false;
    if (version != 1) return lex_error(x, at, "this program reads version 1 of the text");
    while (!at_line_end(p)) {
        at = x->at;
        int64_t context = 0;
        bool ok = lex_word(x, &word, &n) && lex_expect(x, '=');
        if (!ok) return false;
        if (lex_is(word, n, "stage"))
            ok = parse_stage(p);
        else if (lex_is(word, n, "context"))
            ok = lex_i64(x, 0, DIM_MAX, &context);
        else if (lex_is(word, n, "arena"))
            ok = lex_u64(x, UINT64_MAX, &p->g->arena_row_bytes);
        else
            return lex_error(x, at, "expected stage=, context= or arena= here");
        if (!ok) return false;
        if (lex_is(word, n, "context")) p->g->context = context;
    }
    return lex_end_line(x);
}

static bool parse_symbol(Parser *p) {
    Lex *x = &p->x;
    const char *at = lex_here(x), *name = NULL;
    size_t n = 0;
    if (!lex_name(x, &name, &n)) return false;
    if (p->g->symbols.count > SYMBOLS_MAX) return lex_error(x, at, "too many symbols");
    SymId s = symbol_add(p->g, name, n);
    while (!at_line_end(p)) {
        at = x->at;
        int64_t number = 0;
        if (!lex_word(x, &name, &n) || !lex_expect(x, '=') || !lex_i64(x, 1, DIM_MAX, &number)) return false;
        Symbol *symbol = &p->g->symbols.data[s.id];
        if (lex_is(name, n, "max"))
            symbol->max = number;
        else if (lex_is(name, n, "literal"))
            symbol->literal = number;
        else
            return lex_error(x, at, "expected literal= or max= here");
    }
    return true;
}

static bool parse_role(Parser *p, Role *role) {
    *role = ROLE_NONE;
    if (at_line_end(p) || lex_peek(&p->x, '!')) return !p->x.failed;
    if (!parse_key(p, "role")) return false;
    const char *at = lex_here(&p->x), *word = NULL;
    size_t n = 0;
    if (!lex_word(&p->x, &word, &n)) return false;
    for (int r = 0; r < ROLE_COUNT; r++) {
        if (!lex_is(word, n, role_name((Role)r))) continue;
        *role = (Role)r;
        return true;
    }
    return lex_error(&p->x, at,
                     "unknown role; hint: tokens, positions, mask, past, use_cache, "
                     "logits and present exist");
}

static bool parse_slots(Parser *p, uint64_t *slots, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (i > 0 && !lex_expect(&p->x, ',')) return false;
        slots[i] = NO_SLOT;
        if (!lex_take(&p->x, '_') && !lex_u64(&p->x, NO_SLOT - 1, &slots[i])) return false;
    }
    return true;
}

static bool parse_input(Parser *p) {
    uint32_t number = 0;
    const char *name = NULL, *word = NULL;
    size_t n = 0;
    Type t;
    Role role;
    uint64_t slot = NO_SLOT;
    if (!parse_definition(p, &number) || !parse_name(p, &name) || !lex_expect(&p->x, ':') ||
        !lex_type(&p->x, p->g, &t) || !parse_role(p, &role))
        return false;
    if (lex_take(&p->x, '!')) {
        const char *at = p->x.at;
        if (!lex_word(&p->x, &word, &n)) return false;
        if (!lex_is(word, n, "slot")) return lex_error(&p->x, at, "expected !slot here");
        if (!parse_slots(p, &slot, 1)) return false;
    }
    ValId v = graph_input(p->g, name, t, role);
    graph_val(p->g, v)->slot = slot;
    define(p, number, v);
    return true;
}

static bool parse_output(Parser *p) {
    ValId v;
    const char *name = NULL;
    Role role;
    if (!parse_value(p, &v) || !parse_name(p, &name) || !parse_role(p, &role)) return false;
    graph_output(p->g, v, name, role);
    return true;
}

static bool parse_state(Parser *p) {
    State s = {0};
    int64_t axis = 0;
    if (!parse_name(p, &s.name) || !parse_key(p, "in") || !parse_value(p, &s.in) || !parse_key(p, "out") ||
        !parse_value(p, &s.out) || !parse_key(p, "axis") || !lex_i64(&p->x, 0, MAX_RANK - 1, &axis))
        return false;
    s.axis = (uint8_t)axis;
    VEC_PUSH(p->g->arena, &p->g->states, s);
    return true;
}

/* ---- constants ---- */

static bool parse_const(Parser *p) {
    Lex *x = &p->x;
    uint32_t number = 0;
    const char *name = NULL;
    Type t;
    if (!parse_definition(p, &number) || !parse_name(p, &name) || !lex_expect(x, ':')) return false;
    const char *at = lex_here(x);
    if (!lex_type(x, p->g, &t) || !lex_expect(x, '=')) return false;
    Const c = {0};
    if (!type_is_static(&t)) return lex_error(x, at, "a constant has no symbolic dimensions");
    if (!type_static_bytes(&t, &c.bytes)) return lex_error(x, at, "this constant is too large");
    if (!const_parse(x, &p->from, &t, &c)) return false;
    ValId v = graph_const(p->g, t, c.data, name);
    p->g->consts.data[graph_val(p->g, v)->cidx] = c;
    define(p, number, v);
    return true;
}

/* ---- nodes ---- */

typedef struct {
    Loc loc;
    Op op;
    uint32_t nout, number[2];
    Type type[2];
    size_t nin;
    ValId in[255];
    AttrText attr;
    uint32_t region;
    uint64_t slot[2];
    bool located;
    uint32_t onnx;
    const char *onnx_name;
} NodeText;

static bool parse_operands(Parser *p, NodeText *n) {
    Lex *x = &p->x;
    if (!lex_expect(x, '(')) return false;
    if (lex_take(x, ')')) return true;
    do {
        if (n->nin == COUNT_OF(n->in)) return lex_error(x, x->at, "too many operands");
        ValId v = NO_VAL;
        if (!lex_take(x, '_') && !parse_value(p, &v)) return false;
        n->in[n->nin++] = v;
    } while (lex_take(x, ','));
    return lex_expect(x, ')');
}

/* !region N, !slot N, @ onnx:N "name", in any order */
static bool parse_marks(Parser *p, NodeText *n) {
    Lex *x = &p->x;
    const char *word = NULL;
    size_t count = 0;
    uint64_t number = 0;
    while (!at_line_end(p)) {
        if (lex_take(x, '@')) {
            const char *at = lex_here(x);
            if (!lex_word(x, &word, &count)) return false;
            if (!lex_is(word, count, "onnx")) return lex_error(x, at, "expected onnx:N here");
            if (!lex_expect(x, ':') || !lex_u64(x, UINT32_MAX, &number)) return false;
            n->located = true;
            n->onnx = (uint32_t)number;
            if (!parse_name(p, &n->onnx_name)) return false;
            continue;
        }
        if (!lex_expect(x, '!')) return false;
        const char *at = x->at;
        if (!lex_word(x, &word, &count)) return false;
        if (lex_is(word, count, "region")) {
            if (!lex_u64(x, UINT32_MAX, &number)) return false;
            n->region = (uint32_t)number;
        } else if (lex_is(word, count, "slot")) {
            if (!parse_slots(p, n->slot, n->nout)) return false;
        } else {
            return lex_error(x, at, "expected !region or !slot here");
        }
    }
    return !x->failed;
}

static bool parse_results(Parser *p, NodeText *n) {
    Lex *x = &p->x;
    do {
        if (n->nout == COUNT_OF(n->number)) return lex_error(x, x->at, "too many results");
        if (!parse_definition(p, &n->number[n->nout])) return false;
        n->slot[n->nout++] = NO_SLOT;
    } while (lex_take(x, ','));
    if (n->nout == 2 && n->number[0] == n->number[1])
        return lex_error(x, x->at, "%%%u is defined twice", n->number[0]);
    if (!lex_expect(x, ':')) return false;
    for (uint32_t i = 0; i < n->nout; i++) {
        if (i > 0 && !lex_expect(x, ',')) return false;
        if (!lex_type(x, p->g, &n->type[i])) return false;
    }
    return lex_expect(x, '=');
}

static bool node_check(Parser *p, NodeText *n, const Node *node) {
    for (uint32_t i = 0; i < n->nout; i++) {
        const Type *inferred = graph_type(p->g, node->out[i]);
        if (type_agrees(inferred, &n->type[i])) continue;
        Text t = text_new(p->x.arena);
        type_print(&t, p->g, inferred);
        return lex_error(&p->x, n->attr.at, "%%%u should have type %s", n->number[i], t.data);
    }
    return attr_check(&p->x, &n->attr, n->type[0].rank);
}

static bool parse_node(Parser *p) {
    Lex *x = &p->x;
    NodeText n;
    memset(&n, 0, sizeof(n));
    n.loc = lex_loc(x, lex_here(x));
    if (!parse_results(p, &n)) return false;
    const char *at = lex_here(x), *word = NULL;
    size_t count = 0;
    if (!lex_word(x, &word, &count)) return false;
    n.op = op_parse(word, count);
    if (n.op == OP_NONE) return lex_error(x, at, "unknown op");
    if (op_info(n.op)->nout != n.nout)
        return lex_error(x, at, "%s has %u results", op_info(n.op)->name, (unsigned)op_info(n.op)->nout);
    if (!parse_operands(p, &n) || !attr_parse(x, p->g, n.op, &n.attr) || !parse_marks(p, &n)) return false;
    if (!val_ok(graph_add(p->g, n.op, n.in, n.nin, &n.attr.attr, &n.type[0], n.loc, x->diag))) {
        x->failed = true;
        return false;
    }
    Node *node = graph_node(p->g, p->g->last);
    if (!node_check(p, &n, node)) return false;
    node->region = n.region;
    if (n.located) node->loc = (Loc){LOC_NODE, n.onnx, 0, n.onnx_name};
    for (uint32_t i = 0; i < n.nout; i++) {
        Value *value = graph_val(p->g, node->out[i]);
        value->type = n.type[i];
        value->slot = n.slot[i];
        define(p, n.number[i], node->out[i]);
    }
    return true;
}

static bool parse_statement(Parser *p) {
    Lex *x = &p->x;
    if (lex_peek(x, '%')) return parse_node(p);
    const char *at = lex_here(x), *word = NULL;
    size_t n = 0;
    if (!lex_word(x, &word, &n)) return false;
    if (lex_is(word, n, "symbol")) return parse_symbol(p);
    if (lex_is(word, n, "input")) return parse_input(p);
    if (lex_is(word, n, "const")) return parse_const(p);
    if (lex_is(word, n, "output")) return parse_output(p);
    if (lex_is(word, n, "state")) return parse_state(p);
    return lex_error(x, at, "expected symbol, input, const, output, state or a value here");
}

Graph *graph_parse(const char *text, size_t bytes, const char *path, const char *dir, Arena *a, Diag *d) {
    Parser p;
    memset(&p, 0, sizeof(p));
    p.x = lex_new(text, bytes, path == NULL ? NULL : arena_strdup(a, path), a, d);
    p.g = graph_new(a);
    p.from.dir = dir;
    p.bytes = bytes;
    bool ok = parse_header(&p);
    while (ok && lex_next_line(&p.x)) ok = parse_statement(&p) && lex_end_line(&p.x);
    const_source_close(&p.from);
    return ok && !p.x.failed ? p.g : NULL;
}
