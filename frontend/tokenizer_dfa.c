/* tokenizer_dfa.c: a split expression's tree to a deterministic automaton.
 *
 * 1. The tree becomes a program for a backtracking matcher (Thompson 1968; Pike's form): SET, SPLIT with
 *    a preferred branch, LOOK at the next character, MATCH.
 * 2. The code points fall into classes that no set of the expression tells apart.
 * 3. Subset construction, keeping the order of preference as RE2 does: a state is the ordered list of
 *    instructions that the matcher would still try. Reading class k walks the list in order; SETs that
 *    hold k go on into the next list, LOOKs that k satisfies go on at the same place, and MATCH says that
 *    a match ends before k and drops all that comes after it. So lookahead of one character costs nothing
 *    and the result is that of backtracking, in one step per character. */
#include "frontend/tokenizer_private.h"

#include <string.h>

#define MAX_PROGRAM 20000u
#define MAX_STATES 16384u
#define MAX_CELLS (1u << 22)
#define MAX_CLASSES 255u

typedef enum { IN_SET, IN_LOOK, IN_SPLIT, IN_MATCH } InstKind;
typedef struct {
    InstKind kind;
    uint32_t set;
    bool at_end;
    uint32_t x, y; /* SPLIT: preferred, other; SET, LOOK: x follows */
} Inst;

typedef struct {
    uint32_t first, count;
} State;
typedef VEC(uint32_t) List;

typedef struct {
    Arena *arena;
    const Regex *rx;
    const char *pattern;
    Loc loc;
    Diag *d;
    VEC(Inst) program;
    uint64_t *class_sets; /* [classes]: which sets hold the class */
    uint32_t classes;
    List pool; /* the states' lists */
    VEC(State) states;
    uint32_t *slots, slot_count; /* hash table of states, 0 = free */
    VEC(uint16_t) table;
    uint32_t *seen_here, *seen_next, stamp;
    List stack;
} Dfa;

static bool refuse(Dfa *f, const char *what) {
    return diag_error(f->d, f->loc, "split expression: %s; \"%s\"", what, f->pattern);
}

static uint32_t emit(Dfa *f, Inst in) {
    VEC_PUSH(f->arena, &f->program, in);
    return (uint32_t)(f->program.count - 1);
}

static bool nullable(const Regex *rx, uint32_t n) {
    const RegexNode *node = &rx->nodes.data[n];
    switch (node->kind) {
    case RX_SET: return false;
    case RX_REPEAT: return node->min == 0 || nullable(rx, node->first);
    case RX_ALT:
        for (uint32_t c = node->first; c != 0; c = rx->nodes.data[c].next)
            if (nullable(rx, c)) return true;
        return false;
    case RX_CAT:
        for (uint32_t c = node->first; c != 0; c = rx->nodes.data[c].next)
            if (!nullable(rx, c)) return false;
        return true;
    case RX_EMPTY:
    case RX_LOOK: break;
    }
    return true;
}

/* Emits code for node n that goes on at `next`; *start is where it begins. Built from the end, so that
 * every target is known. The tree's depth is bounded by the parser. */
static bool emit_node(Dfa *f, uint32_t n, uint32_t next, uint32_t *start);

static bool emit_repeat(Dfa *f, const RegexNode *node, uint32_t next, uint32_t *start) {
    if (nullable(f->rx, node->first)) return refuse(f, "a repeated part that can be empty is not supported");
    uint32_t at = next;
    if (node->max == RX_INF) {
        uint32_t loop = emit(f, (Inst){.kind = IN_SPLIT}), body = 0;
        if (!emit_node(f, node->first, loop, &body)) return false;
        f->program.data[loop].x = node->lazy ? next : body;
        f->program.data[loop].y = node->lazy ? body : next;
        at = loop;
    } else {
        for (uint32_t i = node->min; i < node->max; i++) {
            uint32_t body = 0;
            if (!emit_node(f, node->first, at, &body)) return false;
            at = emit(f,
                      (Inst){.kind = IN_SPLIT, .x = node->lazy ? next : body, .y = node->lazy ? body : next});
        }
    }
    for (uint32_t i = 0; i < node->min; i++)
        if (!emit_node(f, node->first, at, &at)) return false;
    *start = at;
    return true;
}

static bool emit_node(Dfa *f, uint32_t n, uint32_t next, uint32_t *start) {
    const RegexNode *node = &f->rx->nodes.data[n];
    if (f->program.count > MAX_PROGRAM) return refuse(f, "too large once its repeats are written out");
    List children = {0};
    for (uint32_t c = node->first; c != 0 && node->kind != RX_REPEAT; c = f->rx->nodes.data[c].next)
        VEC_PUSH(f->arena, &children, c);
    *start = next;
    switch (node->kind) {
    case RX_EMPTY: break;
    case RX_SET: *start = emit(f, (Inst){.kind = IN_SET, .set = node->set, .x = next}); break;
    case RX_LOOK:
        *start = emit(f, (Inst){.kind = IN_LOOK, .set = node->set, .at_end = node->at_end, .x = next});
        break;
    case RX_CAT:
        for (size_t i = children.count; i-- > 0;)
            if (!emit_node(f, children.data[i], *start, start)) return false;
        break;
    case RX_ALT:
        for (size_t i = children.count; i-- > 0;) {
            uint32_t branch = 0;
            if (!emit_node(f, children.data[i], next, &branch)) return false;
            bool last = i + 1 == children.count;
            *start = last ? branch : emit(f, (Inst){.kind = IN_SPLIT, .x = branch, .y = *start});
        }
        break;
    case RX_REPEAT: return emit_repeat(f, node, next, start);
    }
    return true;
}

static bool find_classes(Dfa *f, uint8_t *map) {
    ArenaMark mark = arena_mark(f->arena);
    uint64_t *sets = arena_array_of(f->arena, (size_t)CODE_MAX + 1, uint64_t);
    for (size_t s = 0; s < f->rx->sets.count; s++)
        for (size_t r = 0; r < f->rx->sets.data[s].count; r++) {
            CodeRange range = f->rx->sets.data[s].data[r];
            for (uint32_t c = range.first; c <= range.last; c++) sets[c] |= (uint64_t)1 << s;
        }
    uint32_t k = 0;
    bool ok = true;
    for (uint32_t c = 0; c <= CODE_MAX && ok; c++) {
        if (f->classes == 0 || f->class_sets[k] != sets[c]) {
            for (k = 0; k < f->classes && f->class_sets[k] != sets[c]; k++) continue;
            if (k == f->classes && k == MAX_CLASSES)
                ok = false;
            else if (k == f->classes)
                f->class_sets[f->classes++] = sets[c];
        }
        map[c] = (uint8_t)k;
    }
    arena_reset(f->arena, mark);
    return ok || refuse(f, "more than 255 classes of characters");
}

/* Adds to `list` what pc leads to without reading, preferred branches first. */
static void close_over(Dfa *f, uint32_t pc, List *list, uint32_t *seen) {
    size_t base = f->stack.count;
    VEC_PUSH(f->arena, &f->stack, pc);
    while (f->stack.count > base) {
        uint32_t at = f->stack.data[--f->stack.count];
        if (seen[at] == f->stamp) continue;
        seen[at] = f->stamp;
        const Inst *in = &f->program.data[at];
        if (in->kind == IN_SPLIT) {
            VEC_PUSH(f->arena, &f->stack, in->y);
            VEC_PUSH(f->arena, &f->stack, in->x);
        } else {
            VEC_PUSH(f->arena, list, at);
        }
    }
}

static bool state_of(Dfa *f, const List *list, uint32_t *out) {
    if (list->count == 0) {
        *out = 0;
        return true;
    }
    size_t bytes = list->count * sizeof(uint32_t);
    uint32_t slot = tok_hash_bytes((const uint8_t *)list->data, bytes) % f->slot_count;
    for (; f->slots[slot] != 0; slot = (slot + 1) % f->slot_count) {
        const State *s = &f->states.data[f->slots[slot]];
        *out = f->slots[slot];
        if (s->count == list->count && memcmp(f->pool.data + s->first, list->data, bytes) == 0) return true;
    }
    if (f->states.count == MAX_STATES || f->states.count * (f->classes + 1) > MAX_CELLS)
        return refuse(f, "its automaton would have too many states");
    *out = f->slots[slot] = (uint32_t)f->states.count;
    VEC_PUSH(f->arena, &f->states, ((State){(uint32_t)f->pool.count, (uint32_t)list->count}));
    for (size_t i = 0; i < list->count; i++) VEC_PUSH(f->arena, &f->pool, list->data[i]);
    return true;
}

/* What state s does on class k; k == classes is the end of the text. */
static bool step(Dfa *f, uint32_t s, uint32_t k, List *here, List *next, uint16_t *out) {
    bool match = false;
    uint32_t to = 0;
    uint64_t sets = k < f->classes ? f->class_sets[k] : 0;
    f->stamp++;
    next->count = 0;
    /* `here` is a stack: lookahead that holds puts what follows it before the rest. */
    here->count = 0;
    State from = f->states.data[s];
    for (uint32_t i = from.count; i-- > 0;) VEC_PUSH(f->arena, here, f->pool.data[from.first + i]);
    while (here->count > 0 && !match) {
        uint32_t at = here->data[--here->count];
        if (f->seen_here[at] == f->stamp) continue;
        f->seen_here[at] = f->stamp;
        const Inst *in = &f->program.data[at];
        bool holds = (sets >> in->set & 1) != 0;
        switch (in->kind) {
        case IN_MATCH: match = true; break;
        case IN_SET:
            if (k < f->classes && holds) close_over(f, in->x, next, f->seen_next);
            break;
        case IN_LOOK:
            if (k < f->classes ? holds : in->at_end) VEC_PUSH(f->arena, here, in->x);
            break;
        case IN_SPLIT:
            VEC_PUSH(f->arena, here, in->y);
            VEC_PUSH(f->arena, here, in->x);
            break;
        }
    }
    if (!state_of(f, next, &to)) return false;
    *out = (uint16_t)(to | (match ? TOK_MATCH : 0));
    return true;
}

static bool determinize(Dfa *f, uint32_t start) {
    List here = {0}, next = {0};
    uint32_t first = 0;
    f->slot_count = MAX_STATES * 2 + 1;
    f->slots = arena_array_of(f->arena, f->slot_count, uint32_t);
    f->seen_here = arena_array_of(f->arena, f->program.count, uint32_t);
    f->seen_next = arena_array_of(f->arena, f->program.count, uint32_t);
    VEC_PUSH(f->arena, &f->states, ((State){0, 0}));
    f->stamp = 1;
    close_over(f, start, &next, f->seen_next);
    if (!state_of(f, &next, &first)) return false;
    for (uint32_t k = 0; k <= f->classes; k++) VEC_PUSH(f->arena, &f->table, 0);
    for (uint32_t s = 1; s < f->states.count; s++)
        for (uint32_t k = 0; k <= f->classes; k++) {
            uint16_t cell = 0;
            if (!step(f, s, k, &here, &next, &cell)) return false;
            if (s == 1 && (cell & TOK_MATCH) != 0)
                return refuse(f, "an expression that matches the empty text is not supported");
            VEC_PUSH(f->arena, &f->table, cell);
        }
    return true;
}

bool regex_compile(Arena *a, const Regex *rx, const char *pattern, Loc loc, SplitStage *out, Diag *d) {
    Dfa f = {.arena = a, .rx = rx, .pattern = pattern, .loc = loc, .d = d};
    uint32_t start = 0;
    uint32_t match = emit(&f, (Inst){.kind = IN_MATCH});
    if (!emit_node(&f, rx->root, match, &start)) return false;
    f.class_sets = arena_array_of(a, MAX_CLASSES, uint64_t);
    uint8_t *map = arena_alloc(a, (size_t)CODE_MAX + 1);
    if (!find_classes(&f, map) || !determinize(&f, start)) return false;
    out->states = (uint32_t)f.states.count;
    out->classes = f.classes;
    out->table = f.table.data;
    out->map.value = map;
    return true;
}
