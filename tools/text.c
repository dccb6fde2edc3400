/* text.c: token ids from a tensor file, from numbers, or from text by way of the model's tokenizer. */
#include "tools/text.h"

#include <string.h>

#include "frontend/frontend.h"

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

static bool id_fits(int64_t id, int32_t vocab, const char *path, Diag *d) {
    if (id >= 0 && id < vocab) return true;
    return diag_error(d, loc_file(path),
                      "has the token %lld, and the model's vocabulary %d; hint: ids of this model's "
                      "tokenizer",
                      (long long)id, vocab);
}

static bool tokens_of_tensor(const char *path, int32_t vocab, Arena *a, int32_t **ids, size_t *n, Diag *d) {
    Tensor t;
    if (!onnx_tensor_read(path, a, &t, d)) return false;
    if (!dtype_is_int(t.dtype)) return diag_error(d, loc_file(path), "is no tensor of integers");
    *n = tensor_count(&t);
    *ids = arena_array_of(a, *n, int32_t);
    for (size_t i = 0; i < *n; i++) {
        int64_t id = tensor_get_i64(&t, i);
        if (!id_fits(id, vocab, path, d)) return false;
        (*ids)[i] = (int32_t)id;
    }
    return true;
}

static bool is_space(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static bool tokens_of_numbers(const FileView *f, int32_t vocab, Arena *a, int32_t **ids, size_t *n, Diag *d) {
    VEC(int32_t) found = {0};
    for (size_t i = 0; i < f->bytes;) {
        int64_t id = 0;
        if (is_space(f->data[i]) && ++i) continue;
        for (; i < f->bytes && !is_space(f->data[i]); i++) {
            if (f->data[i] < '0' || f->data[i] > '9' || id > INT32_MAX)
                return diag_error(d, loc_file(f->path),
                                  "byte %zu: token ids are whole numbers apart by white space", i);
            id = id * 10 + (f->data[i] - '0');
        }
        if (!id_fits(id, vocab, f->path, d)) return false;
        VEC_PUSH(a, &found, (int32_t)id);
    }
    *ids = found.data;
    *n = found.count;
    return true;
}

static bool tokens_of_text(const gptc_model *m, const FileView *f, int32_t vocab, Arena *a, int32_t **ids,
                           size_t *n, Diag *d) {
    const char *text = (const char *)f->data;
    gptc_status st = gptc_encode(m, text, f->bytes, NULL, 0, n);
    if (!st) {
        *ids = arena_array_of(a, *n + 1, int32_t);
        st = gptc_encode(m, text, f->bytes, *ids, *n, n);
    }
    for (size_t i = 0; i < *n && !st; i++)
        if (!id_fits((*ids)[i], vocab, f->path, d)) return false;
    if (st == GPTC_E_NO_TOKENIZER)
        return diag_error(
            d, loc_file(f->path),
            "is text, and the model has no tokenizer; hint: compile with gptc --tokenizer FILE");
    return !st || diag_error(d, loc_file(f->path), "%s", gptc_strerror(st));
}

bool text_tokens(const gptc_model *m, const char *path, Arena *a, int32_t **ids, size_t *n, Diag *d) {
    gptc_model_info info = {.struct_size = sizeof info};
    gptc_model_get_info(m, &info);
    if (ends_with(path, ".pb")) return tokens_of_tensor(path, info.vocab, a, ids, n, d);
    FileView f;
    if (!file_map(path, &f, d)) return false;
    bool ok = ends_with(path, ".ids") ? tokens_of_numbers(&f, info.vocab, a, ids, n, d)
                                      : tokens_of_text(m, &f, info.vocab, a, ids, n, d);
    file_unmap(&f);
    return ok;
}
