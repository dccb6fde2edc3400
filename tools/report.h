/* report.h: facts in sections, shown as aligned text, JSON or a page of HTML.
 *
 * A section holds facts (key and value) and then rows of cells. In JSON a section is an object; its rows are
 * an array in it under `rows`, or the whole section when there is nothing else. */
#ifndef GPTC_REPORT_H
#define GPTC_REPORT_H

#include "ir/base/base.h"

typedef struct {
    const char *key, *text; /* text: as people read it */
    bool number, flag;      /* JSON: a number; true or false */
    double value;
} Fact;
typedef struct {
    VEC(Fact) cells;
} FactRow;
typedef struct {
    const char *key, *title;
    VEC(Fact) facts;
    VEC(FactRow) rows;
} Section;
typedef struct {
    Arena *arena;
    VEC(Section) sections;
    bool in_row; /* facts go to the last row */
} Report;

Report report_new(Arena *a);
void report_section(Report *r, const char *key, const char *title);
void report_row(Report *r); /* what follows are its cells, until the next row or section */
void report_text(Report *r, const char *key, const char *fmt, ...) BASE_PRINTF(3, 4);
void report_number(Report *r, const char *key, double value, const char *fmt, ...) BASE_PRINTF(4, 5);
void report_flag(Report *r, const char *key, bool value);
const char *report_bytes(Arena *a, double bytes); /* "1.5 MB" */

/* Each ends with a line feed. Sections without content are left out of the text. */
void report_print(const Report *r, Text *t);
void report_json(const Report *r, Text *t);
void report_html(const Report *r, Text *t); /* the sections alone, no page around them */
void html_escape(Text *t, const char *s);

#endif
