/* internal.h: what the files of ir/ share with one another and with nobody else. */
#ifndef GPTC_IR_INTERNAL_H
#define GPTC_IR_INTERNAL_H

#include "ir/ir.h"

/* dim.c: gives `to` a copy of from's polynomials under the same handles. */
void dims_copy(Graph *to, const Graph *from);
/* A symbol as the text shows it: bare when it is a word, else quoted. */
void symbol_print(Text *t, const char *name);

/* print.c: "text" with quotes, backslashes and control characters escaped. */
void string_print(Text *t, const char *s);
/* One element of a constant; parses back to the same bits. */
void element_print(Text *t, DType type, const void *element);

/* Letters, digits, underscore and dot, not starting with a digit or a dot. */
static inline bool is_word_char(char c, bool first) {
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    return letter || (!first && ((c >= '0' && c <= '9') || c == '.'));
}

#endif
