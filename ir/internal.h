/* internal.h: what the files of ir/ share with one another and with nobody else. */
#ifndef GPTC_IR_INTERNAL_H
#define GPTC_IR_INTERNAL_H

#include "ir/ir.h"

/* dim.c: gives `to` a copy of from's polynomials under the same handles. */
void dims_copy(Graph *to, const Graph *from);
/* A symbol as the text shows it: bare when it is a word, else quoted. */
void symbol_print(Text *t, const char *name);

/* verify.c: same dtype and dims; an unknown dim on either side agrees with anything. */
bool type_agrees(const Type *a, const Type *b);

/* print.c: "text" with quotes, backslashes and control characters escaped. */
void string_print(Text *t, const char *s);
/* One element of a constant; parses back to the same bits. */
void element_print(Text *t, DType type, const void *element);

/* lex.c: reading the text form. The first error is kept, with its line and column; after it every
 * function returns false. Spaces and comments before a token are skipped, newlines are not. */
typedef struct {
    const char *at, *end, *line_start;
    uint32_t line;
    const char *path;
    Arena *arena;
    Diag *diag;
    bool failed;
} Lex;
Lex lex_new(const char *text, size_t bytes, const char *path, Arena *a, Diag *d);
Loc lex_loc(const Lex *x, const char *at);
bool lex_error(Lex *x, const char *at, const char *fmt, ...) BASE_PRINTF(3, 4); /* false */
const char *lex_here(Lex *x); /* where the next token starts */
bool lex_next_line(Lex *x);   /* to the next line with a token; false at the end */
bool lex_end_line(Lex *x);    /* nothing but a comment may follow */
bool lex_peek(Lex *x, char c);
bool lex_take(Lex *x, char c); /* consumes c if it is next */
bool lex_expect(Lex *x, char c);
bool lex_word(Lex *x, const char **word, size_t *n);
bool lex_is(const char *word, size_t n, const char *expected);
bool lex_u64(Lex *x, uint64_t max, uint64_t *out);
bool lex_i64(Lex *x, int64_t min, int64_t max, int64_t *out);
bool lex_string(Lex *x, const char **out);           /* into the arena */
bool lex_name(Lex *x, const char **name, size_t *n); /* a word, or a string */
bool lex_hex(Lex *x, uint8_t *out, size_t bytes);    /* "00ff", exactly `bytes` bytes */
bool lex_element(Lex *x, DType type, uint8_t *out);
bool lex_dim(Lex *x, Graph *g, Dim *out);
bool lex_type(Lex *x, Graph *g, Type *out);

/* parse_attr.c */
typedef struct {
    Attr attr;
    const char *at;              /* where they stand */
    uint32_t given;              /* A_* bits of those in the text */
    uint32_t length[ATTR_COUNT]; /* of per-axis attributes */
} AttrText;
bool attr_parse(Lex *x, Graph *g, Op op, AttrText *out);          /* none there: the defaults */
bool attr_check(Lex *x, const AttrText *n, uint32_t result_rank); /* per-axis ones have an entry an axis */

/* parse_const.c: where a text's constants come from, and how much it has taken so far. */
typedef struct {
    const char *dir;               /* folder of file() constants; NULL refuses them */
    size_t filled, copied, mapped; /* bytes */
    VEC(FileView) files;           /* mapped while parsing */
} ConstSource;
/* Reads "= ..." of a constant of c->bytes bytes and sets the rest of c; data is in the arena. */
bool const_parse(Lex *x, ConstSource *from, const Type *t, Const *c);
void const_source_close(ConstSource *from);

/* Letters, digits, underscore and dot, not starting with a digit or a dot. */
static inline bool is_word_char(char c, bool first) {
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    return letter || (!first && ((c >= '0' && c <= '9') || c == '.'));
}

#endif
