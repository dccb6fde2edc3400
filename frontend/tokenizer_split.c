/* tokenizer_split.c: reads a split expression into a tree.
 *
 * The expressions are Oniguruma's (Ruby syntax), of which this takes what splitting uses: alternatives,
 * groups ( ) (?: ) (?i: ) (?i), sets [..] with nested sets, the classes \s \S \d \D \p{..} \P{..} . and
 * character escapes, the quantifiers ? * + {n} {n,} {n,m}, lazy and, on one character, possessive, and
 * lookahead of one character: (?=X) (?!X) $. The rest is refused with its name. Recursive descent. */
#include "frontend/tokenizer_private.h"

#include <string.h>

#define MAX_DEPTH 64u
#define MAX_NODES 20000u
#define MAX_REPEAT 1000u

typedef struct {
    const char *text;
    size_t n, i;
    Loc loc;
    Diag *d;
    Regex *rx;
    bool fold;        /* inside (?i) */
    char last_letter; /* the letter just read under (?i), else 0 */
    uint32_t depth;
} Parser;

static bool parse_alternatives(Parser *p, uint32_t *out);

static bool refuse(Parser *p, const char *what) {
    return diag_error(p->d, p->loc, "split expression: %s is not supported; at character %zu of \"%s\"", what,
                      p->i + 1, p->text);
}

static uint32_t node_new(Parser *p, RegexNode node) {
    VEC_PUSH(p->rx->arena, &p->rx->nodes, node);
    return (uint32_t)(p->rx->nodes.count - 1);
}

static RegexNode *node_at(Parser *p, uint32_t n) { return &p->rx->nodes.data[n]; }

static bool set_index(Parser *p, const CodeSet *s, uint32_t *out) {
    for (uint32_t i = 0; i < p->rx->sets.count; i++) {
        *out = i;
        if (codeset_equal(&p->rx->sets.data[i], s)) return true;
    }
    if (p->rx->sets.count == REGEX_MAX_SETS) return refuse(p, "an expression with more than 64 sets");
    *out = (uint32_t)p->rx->sets.count;
    VEC_PUSH(p->rx->arena, &p->rx->sets, *s);
    return true;
}

static bool node_set(Parser *p, const CodeSet *s, uint32_t *out) {
    uint32_t set = 0;
    if (!set_index(p, s, &set)) return false;
    *out = node_new(p, (RegexNode){.kind = RX_SET, .set = set});
    return true;
}

static bool node_look(Parser *p, const CodeSet *s, bool at_end, uint32_t *out) {
    uint32_t set = 0;
    if (!set_index(p, s, &set)) return false;
    *out = node_new(p, (RegexNode){.kind = RX_LOOK, .set = set, .at_end = at_end});
    return true;
}

static int peek(const Parser *p) { return p->i < p->n ? (unsigned char)p->text[p->i] : -1; }

static bool take(Parser *p, const char *s) {
    size_t n = strlen(s);
    if (p->n - p->i < n || memcmp(p->text + p->i, s, n) != 0) return false;
    p->i += n;
    return true;
}

static int hex_digit(int c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* \xHH, \x{H...} and \uHHHH; the letter is already taken. */
static bool parse_hex(Parser *p, char letter, uint32_t *code) {
    bool braces = letter == 'x' && take(p, "{");
    int most = braces ? 6 : letter == 'u' ? 4 : 2, digits = 0;
    uint32_t value = 0;
    while (digits < most && hex_digit(peek(p)) >= 0) {
        value = value * 16 + (uint32_t)hex_digit(peek(p));
        p->i++;
        digits++;
    }
    if (digits == 0 || (letter == 'u' && digits != 4) || (braces && !take(p, "}")) || value > CODE_MAX ||
        (!braces && letter == 'x' && value > 0x7f))
        return refuse(p, "this character number");
    *code = value;
    return true;
}

static bool parse_property(Parser *p, bool negated, CodeSet *s) {
    if (!take(p, "{")) return refuse(p, "\\p without {...}");
    if (take(p, "^")) negated = !negated;
    size_t start = p->i;
    while (p->i < p->n && p->text[p->i] != '}') p->i++;
    size_t end = p->i;
    if (!take(p, "}")) return refuse(p, "an unfinished \\p{...}");
    if (p->fold) return refuse(p, "a Unicode property under (?i)");
    if (!codeset_add_property(p->rx->arena, s, p->text + start, end - start)) {
        p->i = start;
        return refuse(p, arena_printf(p->rx->arena, "the property \\p{%.*s}",
                                      (int)(end - start > 40 ? 40 : end - start), p->text + start));
    }
    if (negated) codeset_invert(p->rx->arena, s);
    return true;
}

/* After a backslash: a set (is_set) or one character. */
static bool parse_escape(Parser *p, CodeSet *s, bool *is_set, uint32_t *code) {
    int c = peek(p);
    if (c < 0) return refuse(p, "a \\ at the end");
    Arena *a = p->rx->arena;
    static const char controls[] = "n\nr\rt\tf\fv\va\ae\033";
    *is_set = false;
    for (size_t i = 0; controls[i] != '\0'; i += 2) {
        if (c != controls[i]) continue;
        p->i++;
        *code = (uint32_t)controls[i + 1];
        return true;
    }
    if (c == 'x' || c == 'u') {
        p->i++;
        return parse_hex(p, (char)c, code);
    }
    if (c < 0x80 && strchr("sSdDpP", c) != NULL) {
        p->i++;
        *is_set = true;
        if (c == 'p' || c == 'P') return parse_property(p, c == 'P', s);
        if (c == 's' || c == 'S')
            codeset_add_space(a, s);
        else
            codeset_add_property(a, s, "Nd", 2);
        if (c == 'S' || c == 'D') codeset_invert(a, s);
        return true;
    }
    bool alnum = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (alnum) return refuse(p, arena_printf(a, c <= '9' ? "the back reference \\%c" : "\\%c", c));
    if (!utf8_next(p->text, p->n, &p->i, code)) return refuse(p, "ill-formed UTF-8");
    return true;
}

/* The inside of [...], after the bracket. Sets may nest. */
static bool parse_set(Parser *p, CodeSet *out) {
    Arena *a = p->rx->arena;
    if (++p->depth > MAX_DEPTH) return refuse(p, "nesting this deep");
    bool negated = take(p, "^"), literals = false;
    CodeSet s = {0};
    if (peek(p) == ']') return refuse(p, "an empty set");
    while (!take(p, "]")) {
        CodeSet part = {0};
        bool is_set = false;
        uint32_t first = 0, last = 0;
        if (peek(p) < 0) return refuse(p, "an unfinished set");
        if (p->n - p->i >= 2 && memcmp(p->text + p->i, "&&", 2) == 0) return refuse(p, "the intersection &&");
        if (p->n - p->i >= 2 && memcmp(p->text + p->i, "[:", 2) == 0)
            return refuse(p, "a POSIX class [:...:]");
        if (take(p, "[")) {
            if (!parse_set(p, &part)) return false;
            codeset_union(a, &s, &part);
            continue;
        }
        if (take(p, "\\") ? !parse_escape(p, &part, &is_set, &first)
                          : !utf8_next(p->text, p->n, &p->i, &first) && refuse(p, "ill-formed UTF-8"))
            return false;
        if (is_set) {
            codeset_union(a, &s, &part);
            continue;
        }
        last = first;
        bool range = p->n - p->i >= 2 && p->text[p->i] == '-' && p->text[p->i + 1] != ']' && take(p, "-");
        if (range && peek(p) == '[') return refuse(p, "a range that ends in a set");
        if (range && (take(p, "\\") ? !parse_escape(p, &part, &is_set, &last)
                                    : !utf8_next(p->text, p->n, &p->i, &last)))
            return refuse(p, "this range");
        if (is_set || last < first) return refuse(p, "this range");
        codeset_add(a, &part, first, last);
        codeset_union(a, &s, &part);
        literals = true;
    }
    if (p->fold && literals && !codeset_fold(a, &s)) return refuse(p, "a letter outside ASCII under (?i)");
    if (negated) codeset_invert(a, &s);
    p->depth--;
    *out = s;
    return true;
}

/* The set that a node matches, when it always matches exactly one code point. */
static bool single_set(Parser *p, uint32_t n, CodeSet *out) {
    RegexNode *node = node_at(p, n);
    if (node->kind == RX_SET) {
        codeset_union(p->rx->arena, out, &p->rx->sets.data[node->set]);
        return true;
    }
    if (node->kind == RX_CAT || node->kind == RX_ALT) {
        if (node->kind == RX_CAT && node_at(p, node->first)->next != 0) return false;
        for (uint32_t c = node->first; c != 0; c = node_at(p, c)->next)
            if (!single_set(p, c, out)) return false;
        return true;
    }
    return false;
}

static bool parse_lookahead(Parser *p, bool negated, uint32_t *out) {
    uint32_t inner = 0;
    CodeSet s = {0};
    if (!parse_alternatives(p, &inner)) return false;
    if (!single_set(p, inner, &s)) return refuse(p, "lookahead of more or less than one character");
    if (negated) codeset_invert(p->rx->arena, &s);
    return node_look(p, &s, negated, out);
}

static bool parse_group(Parser *p, uint32_t *out) {
    static const struct {
        const char *start, *name;
    } others[] = {{"?<=", "lookbehind (?<="},    {"?<!", "lookbehind (?<!"}, {"?>", "the atomic group (?>"},
                  {"?<", "the named group (?<"}, {"?#", "the comment (?#"},  {"?(", "the condition (?("},
                  {"?~", "the absence (?~"},     {"?", "this group (?"}};
    bool fold = p->fold, ok = false;
    if (++p->depth > MAX_DEPTH) return refuse(p, "nesting this deep");
    if (take(p, "?=")) {
        ok = parse_lookahead(p, false, out);
    } else if (take(p, "?!")) {
        ok = parse_lookahead(p, true, out);
    } else if (take(p, "?i)")) {
        /* To the end of the enclosing group, alternatives included. */
        p->fold = true;
        p->depth--;
        return parse_alternatives(p, out);
    } else {
        if (take(p, "?i:"))
            p->fold = true;
        else if (take(p, "?-i:"))
            p->fold = false;
        else if (!take(p, "?:") && peek(p) == '?')
            for (size_t i = 0; i < COUNT_OF(others); i++)
                if (strncmp(p->text + p->i, others[i].start, strlen(others[i].start)) == 0)
                    return refuse(p, others[i].name);
        ok = parse_alternatives(p, out);
    }
    if (!ok) return false;
    if (!take(p, ")")) return refuse(p, "an unfinished group");
    p->fold = fold;
    p->depth--;
    return true;
}

/* Under (?i), Oniguruma also matches characters that fold to two letters (the sharp s and "ss"). */
static bool parse_letter(Parser *p, uint32_t code, char before, CodeSet *s) {
    static const char pairs[][3] = {"ss", "st", "ff", "fi", "fl"};
    codeset_add(p->rx->arena, s, code, code);
    if (!p->fold) return true;
    if (code >= 0x80) return refuse(p, "a character outside ASCII under (?i)");
    char letter = (char)(code >= 'A' && code <= 'Z' ? code + 32 : code);
    for (size_t i = 0; i < COUNT_OF(pairs); i++)
        if (before == pairs[i][0] && letter == pairs[i][1])
            return refuse(p, "\"ss\", \"st\", \"ff\", \"fi\" or \"fl\" under (?i)");
    p->last_letter = letter;
    return codeset_fold(p->rx->arena, s) || refuse(p, "this character under (?i)");
}

static bool parse_atom(Parser *p, uint32_t *out) {
    CodeSet s = {0};
    bool is_set = false;
    uint32_t code = 0;
    char before = p->last_letter;
    p->last_letter = 0;
    if (take(p, "(")) return parse_group(p, out);
    if (take(p, "[")) return parse_set(p, &s) && node_set(p, &s, out);
    if (peek(p) == '^') return refuse(p, "the anchor ^");
    if (peek(p) == '*' || peek(p) == '+' || peek(p) == '?')
        return refuse(p, "a quantifier with nothing before it");
    if (take(p, "$")) {
        codeset_add(p->rx->arena, &s, '\n', '\n');
        return node_look(p, &s, true, out);
    }
    if (take(p, "\\z")) return node_look(p, &s, true, out);
    if (take(p, ".")) {
        codeset_add(p->rx->arena, &s, '\n', '\n');
        codeset_invert(p->rx->arena, &s);
        return node_set(p, &s, out);
    }
    if (take(p, "\\")) {
        if (!parse_escape(p, &s, &is_set, &code)) return false;
    } else if (!utf8_next(p->text, p->n, &p->i, &code)) {
        return refuse(p, "ill-formed UTF-8");
    }
    if (!is_set && !parse_letter(p, code, before, &s)) return false;
    return node_set(p, &s, out);
}

/* {n} {n,} {,m} {n,m}; *found is false for a brace that is none of these, which then is a character. */
static bool parse_braces(Parser *p, uint32_t *min, uint32_t *max, bool *found) {
    size_t i = p->i + 1;
    uint32_t value[2] = {0, 0};
    bool given[2] = {false, false}, comma = false;
    for (; i < p->n && p->text[i] != '}'; i++) {
        char c = p->text[i];
        if (c == ',' && !comma) {
            comma = true;
        } else if (c >= '0' && c <= '9') {
            if (value[comma] <= MAX_REPEAT) value[comma] = value[comma] * 10 + (uint32_t)(c - '0');
            given[comma] = true;
        } else {
            return true;
        }
    }
    if (i == p->n || (!given[0] && !given[1])) return true;
    if (value[0] > MAX_REPEAT || value[1] > MAX_REPEAT) return refuse(p, "a repeat over 1000");
    *min = value[0];
    *max = given[1] ? value[1] : comma ? RX_INF : value[0];
    if (*max < *min) return refuse(p, "a repeat {n,m} with n over m");
    *found = true;
    p->i = i + 1;
    return true;
}

/* X++ = X+(?!X), X*+ = X*(?!X), X?+ = X|(?!X): exact where X is one character. */
static bool make_possessive(Parser *p, uint32_t atom, uint32_t max, uint32_t repeat, uint32_t *out) {
    CodeSet s = {0};
    uint32_t look = 0;
    if (!single_set(p, atom, &s)) return refuse(p, "a possessive quantifier on more than one character");
    codeset_invert(p->rx->arena, &s);
    if (!node_look(p, &s, true, &look)) return false;
    uint32_t first = max == 1 ? atom : repeat;
    node_at(p, first)->next = look;
    *out = node_new(p, (RegexNode){.kind = max == 1 ? RX_ALT : RX_CAT, .first = first});
    return true;
}

static bool parse_repeat(Parser *p, uint32_t *out) {
    if (!parse_atom(p, out)) return false;
    for (int count = 0;; count++) {
        uint32_t min = 0, max = 0;
        bool found = true, braces = false;
        if (take(p, "*"))
            max = RX_INF;
        else if (take(p, "+"))
            min = 1, max = RX_INF;
        else if (take(p, "?"))
            max = 1;
        else if (peek(p) == '{') {
            if (!parse_braces(p, &min, &max, &found)) return false;
            braces = found;
        } else
            found = false;
        if (!found) return true;
        if (count == 2) return refuse(p, "a stack of quantifiers");
        if (node_at(p, *out)->kind == RX_LOOK) return refuse(p, "a repeated lookahead");
        p->last_letter = 0;
        bool lazy = peek(p) == '?', possessive = peek(p) == '+' && !braces;
        if (lazy && braces && min == max) return refuse(p, "the lazy repeat {n}?");
        if (lazy || possessive) p->i++;
        uint32_t atom = *out;
        *out =
            node_new(p, (RegexNode){.kind = RX_REPEAT, .min = min, .max = max, .lazy = lazy, .first = atom});
        if (possessive && !make_possessive(p, atom, max, *out, out)) return false;
        if (possessive && (peek(p) == '*' || peek(p) == '+' || peek(p) == '?' || peek(p) == '{'))
            return refuse(p, "a quantifier after a possessive one");
    }
}

static bool parse_alternatives(Parser *p, uint32_t *out) {
    uint32_t alt = node_new(p, (RegexNode){.kind = RX_ALT}), last_alt = 0;
    bool fold = p->fold;
    for (;;) {
        uint32_t cat = node_new(p, (RegexNode){.kind = RX_CAT}), last = 0;
        p->last_letter = 0;
        while (p->i < p->n && peek(p) != '|' && peek(p) != ')') {
            uint32_t item = 0;
            if (!parse_repeat(p, &item)) return false;
            if (p->rx->nodes.count > MAX_NODES) return refuse(p, "an expression this long");
            if (last == 0)
                node_at(p, cat)->first = item;
            else
                node_at(p, last)->next = item;
            last = item;
        }
        if (last == 0) node_at(p, cat)->kind = RX_EMPTY;
        if (last_alt == 0)
            node_at(p, alt)->first = cat;
        else
            node_at(p, last_alt)->next = cat;
        last_alt = cat;
        if (!take(p, "|")) break;
    }
    p->fold = fold;
    *out = alt;
    return true;
}

static void regex_begin(Arena *a, Regex *rx) {
    *rx = (Regex){.arena = a};
    VEC_PUSH(a, &rx->nodes, ((RegexNode){.kind = RX_EMPTY}));
}

bool regex_parse(Arena *a, const char *pattern, Loc loc, Regex *out, Diag *d) {
    regex_begin(a, out);
    Parser p = {.text = pattern, .n = strlen(pattern), .loc = loc, .d = d, .rx = out};
    if (!parse_alternatives(&p, &out->root)) return false;
    if (p.i < p.n) return refuse(&p, "a ) without (");
    return true;
}

bool regex_literal(Arena *a, const char *text, Loc loc, Regex *out, Diag *d) {
    regex_begin(a, out);
    Parser p = {.text = text, .n = strlen(text), .loc = loc, .d = d, .rx = out};
    uint32_t last = 0, cat = node_new(&p, (RegexNode){.kind = p.n == 0 ? RX_EMPTY : RX_CAT});
    out->root = cat;
    while (p.i < p.n) {
        uint32_t code = 0, item = 0;
        CodeSet s = {0};
        if (!utf8_next(p.text, p.n, &p.i, &code)) return refuse(&p, "ill-formed UTF-8");
        codeset_add(a, &s, code, code);
        if (!node_set(&p, &s, &item)) return false;
        if (out->nodes.count > MAX_NODES) return refuse(&p, "a text this long");
        if (last == 0)
            node_at(&p, cat)->first = item;
        else
            node_at(&p, last)->next = item;
        last = item;
    }
    return true;
}
