/* parse_const.c: the contents of constants: lists, hexadecimal bytes, seeds, splats and files.
 *
 * Lists and hexadecimal bytes are as long as the text that gives them. What is made from nothing is
 * bounded by FILL_MAX, and what is read from files by their size. */
#include <string.h>

#include "ir/ir.h"
#include "ir/internal.h"

#define FILL_MAX ((size_t)512 << 20) /* bytes of all seed and splat constants of a text */
#define FILE_REPEAT 4                /* constants may read the files this many times over */

static bool parse_list(Lex *x, DType type, Const *c) {
    size_t bytes = c->bytes, size = dtype_size(type), count = bytes / size;
    const char *at = lex_here(x);
    if (!lex_expect(x, '{')) return false;
    if (count > (size_t)(x->end - x->at)) return lex_error(x, at, "expected %zu elements", count);
    uint8_t *data = arena_alloc(x->arena, bytes);
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && lex_peek(x, '}')) return lex_error(x, at, "expected %zu elements, found %zu", count, i);
        if (i > 0 && !lex_expect(x, ',')) return false;
        if (!lex_element(x, type, data + i * size)) return false;
    }
    c->data = data;
    if (lex_peek(x, ',')) return lex_error(x, at, "more than %zu elements", count);
    return lex_expect(x, '}');
}

static bool parse_hex(Lex *x, Const *c) {
    size_t bytes = c->bytes;
    const char *at = lex_here(x);
    if (bytes > (size_t)(x->end - at) / 2)
        return lex_error(x, at, "expected %zu bytes as hexadecimal digits", bytes);
    uint8_t *data = arena_alloc(x->arena, bytes);
    c->data = data;
    return lex_hex(x, data, bytes);
}

static uint8_t *fill_room(Lex *x, ConstSource *from, const char *at, size_t bytes) {
    if (bytes > FILL_MAX - from->filled) {
        lex_error(x, at, "seed and splat constants of one text may have %zu bytes in all", FILL_MAX);
        return NULL;
    }
    from->filled += bytes;
    return arena_alloc(x->arena, bytes);
}

static bool parse_seed(Lex *x, ConstSource *from, const char *at, DType type, Const *c) {
    size_t bytes = c->bytes;
    c->form = CF_SEED;
    if (!lex_u64(x, UINT64_MAX, &c->seed)) return false;
    uint8_t *data = fill_room(x, from, at, bytes);
    if (data == NULL) return false;
    const_fill_seed(type, c->seed, data, bytes / dtype_size(type));
    c->data = data;
    return true;
}

static bool parse_splat(Lex *x, ConstSource *from, const char *at, DType type, Const *c) {
    size_t bytes = c->bytes;
    uint8_t element[8];
    size_t size = dtype_size(type);
    c->form = CF_SPLAT;
    if (!lex_element(x, type, element)) return false;
    uint8_t *data = fill_room(x, from, at, bytes);
    if (data == NULL) return false;
    for (size_t i = 0; i < bytes; i += size) memcpy(data + i, element, size);
    c->data = data;
    return true;
}

/* The file's contents, mapped once per parse; NULL with the error set. */
static const FileView *parse_open(Lex *x, ConstSource *from, const char *at, const char *path) {
    if (from->dir == NULL) {
        lex_error(x, at, "constants from files are not allowed here");
        return NULL;
    }
    Diag reason;
    diag_init(&reason);
    const FileView *found = NULL;
    const char *full = NULL;
    FileView view;
    if (file_inside(from->dir, path, x->arena, &full, &reason)) {
        for (size_t i = 0; found == NULL && i < from->files.count; i++)
            if (strcmp(from->files.data[i].path, full) == 0) found = &from->files.data[i];
        if (found == NULL && file_map(full, &view, &reason)) {
            VEC_PUSH(x->arena, &from->files, view);
            found = &from->files.data[from->files.count - 1];
            if (!add_size(from->mapped, view.bytes, &from->mapped)) from->mapped = SIZE_MAX;
        }
    }
    if (found == NULL) lex_error(x, at, "%s", reason.items.data[0].text);
    diag_free(&reason);
    return found;
}

static bool parse_file(Lex *x, ConstSource *from, const char *at, Const *c) {
    size_t bytes = c->bytes;
    c->form = CF_FILE;
    if (!lex_string(x, &c->path) || !lex_expect(x, ',') || !lex_u64(x, UINT64_MAX, &c->offset)) return false;
    const FileView *file = parse_open(x, from, at, c->path);
    if (file == NULL) return false;
    if (c->offset > file->bytes || bytes > file->bytes - (size_t)c->offset)
        return lex_error(x, at, "%zu bytes at %llu are past the end of a file of %zu bytes", bytes,
                         (unsigned long long)c->offset, file->bytes);
    if (bytes > SIZE_MAX - from->copied || (from->copied + bytes) / FILE_REPEAT > from->mapped)
        return lex_error(x, at, "the constants of this text repeat its files too often");
    from->copied += bytes;
    c->data = arena_dup(x->arena, file->data + c->offset, bytes);
    return true;
}

/* A list, seed() or splat(): one element a byte or more, packed afterwards where the type is. */
static bool parse_made(Lex *x, ConstSource *from, const char *at, char form, const Type *t, Const *c) {
    size_t packed = c->bytes, count = 0;
    DType type = t->dtype;
    if (!type_static_count(t, &count)) return lex_error(x, at, "this constant is too large");
    if (dtype_bits(type) < 8) c->bytes = count;
    bool ok = form == '{'   ? parse_list(x, type, c)
              : form == 's' ? parse_seed(x, from, at, type, c)
                            : parse_splat(x, from, at, type, c);
    if (!ok || dtype_bits(type) >= 8) return ok;
    uint8_t *data = arena_alloc(x->arena, packed);
    const_pack(type, c->data, count, data);
    c->data = data;
    c->bytes = packed;
    return true;
}

bool const_parse(Lex *x, ConstSource *from, const Type *t, Const *c) {
    const char *at = lex_here(x), *word = NULL;
    size_t n = 0;
    if (lex_peek(x, '{')) return parse_made(x, from, at, '{', t, c);
    if (!lex_word(x, &word, &n) || !lex_expect(x, '(')) return false;
    bool ok;
    if (lex_is(word, n, "seed"))
        ok = parse_made(x, from, at, 's', t, c);
    else if (lex_is(word, n, "splat"))
        ok = parse_made(x, from, at, 'p', t, c);
    else if (lex_is(word, n, "hex"))
        ok = parse_hex(x, c);
    else if (lex_is(word, n, "file"))
        ok = parse_file(x, from, at, c);
    else
        return lex_error(x, at, "expected {..}, seed(), splat(), hex() or file() here");
    return ok && lex_expect(x, ')');
}

void const_source_close(ConstSource *from) {
    for (size_t i = 0; i < from->files.count; i++) file_unmap(&from->files.data[i]);
    from->files.count = 0;
}
