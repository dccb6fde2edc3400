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

#endif
