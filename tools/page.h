/* page.h: a page of HTML that needs nothing else: style, a report, the graph layer by layer, bytes as bars. */
#ifndef GPTC_PAGE_H
#define GPTC_PAGE_H

#include "tools/report.h"

#include "ir/ir.h"

typedef struct {
    const char *label;
    double bytes;
} Bar;

void page_begin(Text *t, const char *title);
void page_end(Text *t);
/* The largest come first; what does not fit is summed up. Orders `bars`. */
void page_bars(Text *t, const char *title, Bar *bars, size_t n, Arena *a);
/* A raised graph: a row a node with the lines between them, layers that are alike once. */
void page_graph(Text *t, Graph *g, Arena *a);

#endif
