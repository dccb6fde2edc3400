/* import_check.h: imports the small ONNX files of onnx_build.h and looks at what was said of them. Every
 * test stands between start() and finish(). */
#ifndef GPTC_TESTS_IMPORT_CHECK_H
#define GPTC_TESTS_IMPORT_CHECK_H

#include <stdio.h>

#include "tests/unit/onnx_build.h"
#include "tests/unit/unit.h"

static Arena *arena;
static Diag diag;
static OnnxModel model;
static bool imported;
static const char *folder; /* of external data */

static inline void start(void) {
    arena = arena_new();
    diag_init(&diag);
    folder = NULL;
    imported = false;
}

static inline void finish(void) {
    if (imported) onnx_close(&model);
    diag_free(&diag);
    arena_free(arena);
}

static inline bool import_options(const Buf *m, const ImportOptions *opt) {
    imported = onnx_import_bytes(m->data, m->n, folder, opt, arena, &model, &diag);
    if (imported) CU_ASSERT_TRUE(graph_verify(model.graph, &diag));
    return imported;
}

static inline bool import(const Buf *graph, const Buf *funcs) {
    Buf m;
    make_model(&m, 18, graph, funcs);
    return import_options(&m, NULL);
}

static inline bool said(const char *what) {
    for (size_t i = 0; i < diag.items.count; i++)
        if (strstr(diag.items.data[i].text, what) != NULL) return true;
    printf("\n    expected '%s', got:\n", what);
    for (size_t i = 0; i < diag.items.count; i++) printf("    %s\n", diag.items.data[i].text);
    return false;
}

/* Refused as the user's fault, with `what` in a message. */
#define REFUSED(graph, what)                                                                                 \
    do {                                                                                                     \
        CU_ASSERT_FALSE(import((graph), NULL));                                                              \
        CU_ASSERT_TRUE(said(what));                                                                          \
        CU_ASSERT_EQUAL(diag.bugs, 0);                                                                       \
    } while (0)

/* y = x + c, the smallest useful graph. */
static inline Buf add_graph(void) {
    Buf g = {.n = 0};
    const float c[2] = {10, 20};
    put_info(&g, 11, "x", 1, "N,2");
    put_floats(&g, "c", (const int64_t[]){2}, 1, c);
    put_node(&g, "Add", "x c", "y", NULL);
    put_info(&g, 12, "y", 1, "N,2");
    return g;
}

/* tokens, positions, mask and a past whose head size is a symbol. */
static inline Buf cached_graph(void) {
    Buf g = {.n = 0}, axis = {.n = 0}, perm = {.n = 0};
    static float table[64 * 8], wpe[16 * 8];
    put_info(&g, 11, "b", 7, "n,m");
    put_info(&g, 11, "a", 7, "n,m");
    put_info(&g, 11, "c", 7, "n,total");
    put_info(&g, 11, "d", 1, "n,2,old,size");
    put_floats(&g, "table", (const int64_t[]){64, 8}, 2, table);
    put_floats(&g, "wpe", (const int64_t[]){16, 8}, 2, wpe);
    put_ints(&g, "heads", (const int64_t[]){0, 0, 2, 4}, 4);
    put_node(&g, "Gather", "table a", "e", NULL);
    put_node(&g, "Gather", "wpe b", "p", NULL);
    put_node(&g, "Add", "e p", "h", NULL);
    put_node(&g, "Reshape", "h heads", "k", NULL);
    attr_put_ints(&perm, "perm", (const int64_t[]){0, 2, 1, 3}, 4);
    put_node(&g, "Transpose", "k", "kt", &perm);
    attr_put_int(&axis, "axis", -2);
    put_node(&g, "Concat", "d kt", "now", &axis);
    put_info(&g, 12, "h", 1, "n,m,8");
    put_info(&g, 12, "now", 1, "n,2,total,size");
    return g;
}

static inline Buf branch(const char *op) {
    Buf g = {.n = 0};
    put_node(&g, op, "x", op, NULL);
    put_info(&g, 12, op, 1, "N");
    return g;
}

#endif
