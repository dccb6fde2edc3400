/* test_artifact_doc.c: docs/artifact.md gives every field of the format at its offset and with its size. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "ir/base/base.h"
#include "runtime/artifact.h"
#include "tests/unit/unit.h"

typedef struct {
    const char *type, *field;
    size_t size, offset, bytes;
} Field;
#define FIELD(type, field)                                                                                   \
    { #type, #field, sizeof(type), offsetof(type, field), sizeof(((type *)0)->field) }
static const Field fields[] = {
    FIELD(ArtHeader, magic),
    FIELD(ArtHeader, major),
    FIELD(ArtHeader, minor),
    FIELD(ArtHeader, n_sections),
    FIELD(ArtHeader, file_bytes),
    FIELD(ArtHeader, table_hash),
    FIELD(ArtHeader, reserved),
    FIELD(ArtSection, kind),
    FIELD(ArtSection, flags),
    FIELD(ArtSection, offset),
    FIELD(ArtSection, bytes),
    FIELD(ArtSection, hash),
    FIELD(ArtMeta, vocab),
    FIELD(ArtMeta, context),
    FIELD(ArtMeta, layers),
    FIELD(ArtMeta, has_cache),
    FIELD(ArtMeta, state_bytes_per_token),
    FIELD(ArtMeta, stop_tokens),
    FIELD(ArtMeta, n_stop_tokens),
    FIELD(ArtMeta, bos_token),
    FIELD(ArtMeta, n_strings),
    FIELD(ArtMeta, text_bytes),
    FIELD(ArtTensor, dtype),
    FIELD(ArtTensor, layout),
    FIELD(ArtTensor, rank),
    FIELD(ArtTensor, flags),
    FIELD(ArtTensor, dim),
    FIELD(ArtTensor, offset),
    FIELD(ArtTensor, bytes),
    FIELD(ArtTensor, name_offset),
    FIELD(ArtTensor, group),
    FIELD(ArtPlan, n_states),
    FIELD(ArtPlan, n_steps),
    FIELD(ArtPlan, n_insns),
    FIELD(ArtPlan, head_step),
    FIELD(ArtPlan, head_offset),
    FIELD(ArtPlan, head_width),
    FIELD(ArtPlan, row_bytes),
    FIELD(ArtPlan, logits_offset),
    FIELD(ArtState, heads),
    FIELD(ArtState, dim),
    FIELD(ArtState, kept),
    FIELD(ArtState, window),
    FIELD(ArtState, name_offset),
    FIELD(ArtStep, kernel),
    FIELD(ArtStep, region),
    FIELD(ArtStep, arg),
    FIELD(ArtStep, u),
    FIELD(ArtArg, kind),
    FIELD(ArtArg, width),
    FIELD(ArtArg, value),
    FIELD(ArtInsn, op),
    FIELD(ArtInsn, dst),
    FIELD(ArtInsn, a),
    FIELD(ArtInsn, b),
    FIELD(ArtInsn, c),
    FIELD(ArtInsn, pad),
    FIELD(ArtInsn, imm),
    FIELD(ArtInsn, div),
    FIELD(ArtInsn, mod),
    FIELD(ArtFunction, n_terms),
    FIELD(ArtFunction, n_dims),
    FIELD(ArtFunction, n_nodes),
    FIELD(ArtFunction, n_values),
    FIELD(ArtFunction, n_operands),
    FIELD(ArtFunction, n_inputs),
    FIELD(ArtFunction, n_outputs),
    FIELD(ArtFunction, n_symbols),
    FIELD(ArtFunction, tokens),
    FIELD(ArtFunction, logits),
    FIELD(ArtFunction, flags),
    FIELD(ArtFunction, reserved),
    FIELD(ArtTerm, factor),
    FIELD(ArtTerm, power),
    FIELD(ArtDim, first),
    FIELD(ArtDim, count),
    FIELD(ArtValue, kind),
    FIELD(ArtValue, dtype),
    FIELD(ArtValue, rank),
    FIELD(ArtValue, tensor),
    FIELD(ArtValue, dim),
    FIELD(ArtValue, name_offset),
    FIELD(ArtValue, reserved),
    FIELD(ArtNode, op),
    FIELD(ArtNode, flags),
    FIELD(ArtNode, first_operand),
    FIELD(ArtNode, n_operands),
    FIELD(ArtNode, out),
    FIELD(ArtNode, axis),
    FIELD(ArtNode, axes),
    FIELD(ArtNode, batch_dims),
    FIELD(ArtNode, reduce),
    FIELD(ArtNode, value),
    FIELD(ArtNode, eps),
    FIELD(ArtNode, alpha),
    FIELD(ArtNode, diagonal),
    FIELD(ArtNode, count),
    FIELD(ArtNode, perm),
    FIELD(ArtNode, start),
    FIELD(ArtNode, step),
};
static const char *const kernels[] = {
#define KERNEL(e, text, nin, doc) text,
    ART_KERNEL_LIST(KERNEL)
#undef KERNEL
};

static char *page(Arena *a) {
    FileView f;
    Diag d;
    diag_init(&d);
    CU_ASSERT_FATAL(file_map(GPTC_SOURCE_DIR "/docs/artifact.md", &f, &d));
    char *text = arena_strndup(a, (const char *)f.data, f.bytes);
    file_unmap(&f);
    diag_free(&d);
    return text;
}

static void test_fields(void) {
    Arena *a = arena_new();
    const char *text = page(a), *row = text, *heading = NULL;
    for (size_t i = 0; i < COUNT_OF(fields); i++) {
        const Field *f = &fields[i];
        bool first = i == 0 || strcmp(f->type, fields[i - 1].type) != 0;
        if (first) row = heading = strstr(text, arena_printf(a, "### %s (%zu bytes)\n", f->type, f->size));
        if (first && i) CU_ASSERT_EQUAL(fields[i - 1].offset + fields[i - 1].bytes, fields[i - 1].size);
        CU_ASSERT_PTR_NOT_NULL_FATAL(heading);
        /* rows in order: each is looked for after the one before */
        row = strstr(row, arena_printf(a, "\n| %zu | %zu | `%s` |", f->offset, f->bytes, f->field));
        if (!row)
            fprintf(stderr, "docs/artifact.md: no row %zu, %zu, %s.%s\n", f->offset, f->bytes, f->type,
                    f->field);
        CU_ASSERT_PTR_NOT_NULL_FATAL(row);
    }
    arena_free(a);
}

static void test_lists(void) {
    Arena *a = arena_new();
    const char *text = page(a);
    for (size_t i = 0; i < COUNT_OF(kernels); i++)
        CU_ASSERT_PTR_NOT_NULL(strstr(text, arena_printf(a, "\n| %zu | %s |", i, kernels[i])));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, arena_printf(a, "| %d | IR |", ART_IR)));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, arena_printf(a, "| `major` | %d |", ART_MAJOR)));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, arena_printf(a, "| `minor` | %d |", ART_MINOR)));
    arena_free(a);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("artifact.md", NULL, NULL);
    CU_add_test(s, "fields", test_fields);
    CU_add_test(s, "lists", test_lists);
    return unit_end();
}
