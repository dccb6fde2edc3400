/* tokenizer_private.h: what the files of the tokenizer compiler share. */
#ifndef GPTC_TOKENIZER_PRIVATE_H
#define GPTC_TOKENIZER_PRIVATE_H

#include "frontend/tokenizer.h"
#include "runtime/tokenizer_format.h"

#define CODE_MAX 0x10ffffu

/* tokenizer_unicode.c: sets of code points as sorted, disjoint, non-touching ranges. */
typedef struct {
    uint32_t first, last;
} CodeRange;
typedef VEC(CodeRange) CodeSet;

void codeset_add(Arena *a, CodeSet *s, uint32_t first, uint32_t last);
void codeset_union(Arena *a, CodeSet *s, const CodeSet *other);
void codeset_invert(Arena *a, CodeSet *s);
bool codeset_has(const CodeSet *s, uint32_t code);
bool codeset_equal(const CodeSet *x, const CodeSet *y);
/* Adds a Unicode property: a general category ("L", "Lu", "Nd"...) or "Han". False: not known here. */
bool codeset_add_property(Arena *a, CodeSet *s, const char *name, size_t n);
void codeset_add_space(Arena *a, CodeSet *s); /* White_Space */
void codeset_add_word(Arena *a, CodeSet *s);  /* \w of UTS 18: letters, marks, digits... */
/* Adds the other case of ASCII letters, as simple case folding has it (s also gives U+017F). False when
 * the set holds part of the cased characters outside ASCII. */
bool codeset_fold(Arena *a, CodeSet *s);

/* Reads one code point at s[*i] and moves past it; false when s is not well-formed there. */
bool utf8_next(const char *s, size_t n, size_t *i, uint32_t *code);
size_t utf8_put(uint32_t code, char out[4]); /* bytes written */

/* tokenizer_split.c: a split expression to a tree. Numbers index arrays of Regex. */
typedef enum { RX_EMPTY, RX_SET, RX_CAT, RX_ALT, RX_REPEAT, RX_LOOK } RegexKind;
#define RX_INF UINT32_MAX
typedef struct {
    RegexKind kind;
    uint32_t set;         /* RX_SET, RX_LOOK: the next code point is in it (it is not consumed) */
    bool at_end;          /* RX_LOOK: also satisfied at the end of the text */
    bool lazy;            /* RX_REPEAT */
    uint32_t min, max;    /* RX_REPEAT */
    uint32_t first, next; /* first child; next child of the parent; 0 = none */
} RegexNode;
typedef struct {
    Arena *arena;
    VEC(RegexNode) nodes; /* 0 is unused */
    VEC(CodeSet) sets;    /* at most REGEX_MAX_SETS, all different */
    uint32_t root;
} Regex;
#define REGEX_MAX_SETS 64u

bool regex_parse(Arena *a, const char *pattern, Loc loc, Regex *out, Diag *d);
/* The expression that matches a text literally. */
bool regex_literal(Arena *a, const char *text, Loc loc, Regex *out, Diag *d);

/* tokenizer_dfa.c: the tree to an automaton (TokStage). */
typedef struct {
    uint8_t *value; /* [CODE_MAX + 1]; NULL: no map */
} CharMap;
typedef struct {
    uint32_t flags; /* TOK_STAGE_... */
    TokBehavior behavior;
    uint32_t states, classes;
    const uint16_t *table;
    CharMap map;
} SplitStage;
bool regex_compile(Arena *a, const Regex *rx, const char *pattern, Loc loc, SplitStage *out, Diag *d);

/* What tokenizer.c gathers and tokenizer_blob.c writes. */
typedef struct {
    const char *text;    /* as written in the JSON; NULL: no such id */
    const uint8_t *data; /* what it decodes to */
    uint32_t bytes;
    uint8_t flags; /* TOK_PRESENT... */
    bool word;     /* in the model's vocabulary, and all its characters stand for bytes */
} TokenSpec;
typedef struct {
    const char *text;
    uint32_t bytes;
    int32_t id;
    uint32_t flags;
} AddedSpec;
typedef VEC(int32_t) IdList;
typedef VEC(TokMerge) MergeList;
typedef struct {
    uint32_t flags; /* TokHeader.flags */
    int32_t unknown;
    VEC(TokenSpec) tokens; /* by id */
    int32_t byte_ids[256];
    MergeList merges; /* by rank; no pair twice */
    VEC(AddedSpec) added[2];
    IdList prefix, suffix;
    VEC(SplitStage) stages;
} TokenizerSpec;
bool tokenizer_write(Arena *a, const TokenizerSpec *spec, Loc loc, TokenizerBlob *out, Diag *d);

#endif
