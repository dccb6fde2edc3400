/* fuzz_gir.c: libFuzzer target for the text form. Any bytes must parse or be refused; what parses
 * must print, parse again and print the same, and the verifier must come to an end. */
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    Graph *g = graph_parse((const char *)data, size, "fuzz", NULL, a, &d);
    if ((g == NULL) != (d.errors > 0)) abort();
    if (g != NULL) {
        Text once = text_new(a), twice = text_new(a);
        graph_print(&once, g);
        Graph *again = graph_parse(once.data, once.count, "print", NULL, a, &d);
        if (again == NULL) abort();
        graph_print(&twice, again);
        if (strcmp(once.data, twice.data) != 0) abort();
        (void)graph_verify(g, &d);
    }
    if (d.bugs > 0) abort();
    diag_free(&d);
    arena_free(a);
    return 0;
}
