/* base.h: support code that knows nothing of graphs: memory, errors, text, files.
 *
 * The compiler is an offline tool: running out of memory prints one line and aborts (arena.c), so
 * allocation never fails in callers. The runtime does not use this folder. */
#ifndef GPTC_BASE_H
#define GPTC_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define BASE_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#else
#define BASE_PRINTF(fmt, first)
#endif

#define COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))

/* arena.c: bump allocation, freed in one call. Memory is 16-byte aligned and zeroed. */
typedef struct Arena Arena;
typedef struct {
    void *block;
    size_t used;
} ArenaMark;

Arena *arena_new(void);
void arena_free(Arena *a);                              /* a may be NULL */
void *arena_alloc(Arena *a, size_t bytes);              /* never NULL, also for 0 bytes */
void *arena_array(Arena *a, size_t count, size_t size); /* aborts when count * size wraps */
void *arena_dup(Arena *a, const void *data, size_t bytes);
char *arena_strdup(Arena *a, const char *s);
char *arena_strndup(Arena *a, const char *s, size_t n);
char *arena_printf(Arena *a, const char *fmt, ...) BASE_PRINTF(2, 3);
ArenaMark arena_mark(const Arena *a);
void arena_reset(Arena *a, ArenaMark mark); /* frees all that was allocated since mark */
size_t arena_bytes(const Arena *a);         /* held from the system */

#define arena_new_of(a, T) ((T *)arena_alloc((a), sizeof(T)))
#define arena_array_of(a, n, T) ((T *)arena_array((a), (n), sizeof(T)))

/* A growing array in an arena: VEC_PUSH may move data; old copies stay until the arena goes. */
#define VEC(T)                                                                                               \
    struct {                                                                                                 \
        T *data;                                                                                             \
        size_t count, cap;                                                                                   \
    }
#define VEC_PUSH(a, v, item)                                                                                 \
    ((v)->data = vec_grow((a), (v)->data, (v)->count, &(v)->cap, sizeof(*(v)->data)),                        \
     (v)->data[(v)->count++] = (item))
void *vec_grow(Arena *a, void *data, size_t count, size_t *cap, size_t size);

/* Checked arithmetic: false when the result does not fit. */
bool mul_size(size_t a, size_t b, size_t *out);
bool add_size(size_t a, size_t b, size_t *out);
bool mul_i64(int64_t a, int64_t b, int64_t *out);
bool add_i64(int64_t a, int64_t b, int64_t *out);

/* diag.c: errors with a location, collected, never printed here.
 * User errors: return diag_error(d, loc, "what; hint: remedy"). The function returns false so that
 * callers can return it. A bug of ours is diag_bug(), which tools report with exit status 70. */
typedef enum { LOC_NONE, LOC_FILE, LOC_TEXT, LOC_NODE } LocKind;
typedef struct {
    LocKind kind;
    uint32_t line, column; /* LOC_TEXT: line and column from 1;  LOC_NODE: line = ONNX node index */
    const char *name;      /* file or node name; borrowed (a diag keeps a copy); may be NULL */
} Loc;
typedef enum { DIAG_NOTE, DIAG_WARNING, DIAG_ERROR, DIAG_BUG } DiagLevel;
typedef struct {
    DiagLevel level;
    Loc loc;
    const char *text;
} DiagItem;
typedef struct Diag {
    Arena *arena; /* owned */
    VEC(DiagItem) items;
    uint32_t errors; /* count of DIAG_ERROR and DIAG_BUG items */
    uint32_t bugs;
} Diag;

void diag_init(Diag *d);
void diag_free(Diag *d);
bool diag_error(Diag *d, Loc loc, const char *fmt, ...) BASE_PRINTF(3, 4); /* returns false */
bool diag_bug(Diag *d, Loc loc, const char *fmt, ...) BASE_PRINTF(3, 4);   /* returns false */
void diag_warn(Diag *d, Loc loc, const char *fmt, ...) BASE_PRINTF(3, 4);
void diag_append(Diag *d, const Diag *from); /* all of from's items */
void diag_note(Diag *d, Loc loc, const char *fmt, ...) BASE_PRINTF(3, 4);
Loc loc_none(void);
Loc loc_file(const char *path);

/* text.c: growing text and interned strings. */
typedef struct {
    Arena *arena;
    char *data;
    size_t count, cap;
} Text; /* data is NUL-terminated */
Text text_new(Arena *a);
void text_add(Text *t, const char *s);
void text_addn(Text *t, const char *s, size_t n);
void text_printf(Text *t, const char *fmt, ...) BASE_PRINTF(2, 3);
void text_vprintf(Text *t, const char *fmt, va_list ap);
void text_add_float(Text *t, double v);  /* shortest decimal that reads back as the same double */
void text_add_float32(Text *t, float v); /* shortest decimal that reads back as the same float */
/* Formats one item as "error: FILE:LINE:COL: text" (or "node #12 NAME: text"). */
void diag_format(Text *t, const DiagItem *item);

/* hash.c: 64-bit content hash (xxHash64, Yann Collet) used for constants, caches and sections. */
uint64_t hash_bytes(const void *data, size_t bytes, uint64_t seed);
typedef struct {
    uint64_t lane[4], seed, total;
    uint8_t rest[32];
} HashState; /* the same, in pieces */
void hash_init(HashState *h, uint64_t seed);
void hash_update(HashState *h, const void *data, size_t bytes);
uint64_t hash_final(const HashState *h);

/* file.c: whole files in and out. */
typedef struct {
    const uint8_t *data;
    size_t bytes;
    bool mapped;
    const char *path;
} FileView;
bool file_map(const char *path, FileView *out, Diag *d); /* read-only; an empty file is {"",0} */
void file_unmap(FileView *f);
/* Writes to PATH.tmp-PID, syncs, then renames, so that PATH is whole or untouched. */
typedef struct FileWriter FileWriter;
FileWriter *file_create(const char *path, Diag *d);             /* NULL on error */
bool file_write(FileWriter *w, const void *data, size_t bytes); /* sticky failure, reported on close */
bool file_pad(FileWriter *w, size_t alignment);
uint64_t file_offset(const FileWriter *w);
bool file_write_at(FileWriter *w, uint64_t offset, const void *data, size_t bytes);
bool file_flush(FileWriter *w);                  /* what was written can be read back */
const char *file_temporary(const FileWriter *w); /* the file being written; until commit */
void file_unname(
    FileWriter *w); /* the temporary is gone once w or the process is; it is only abandoned from now on */
bool file_commit(FileWriter *w, Diag *d); /* frees w */
void file_abandon(FileWriter *w);         /* removes the temporary; frees w */
bool file_write_text(const char *path, const char *text, size_t bytes, Diag *d);
/* Both are the same regular file, by whatever names: writing one would destroy the other. */
bool file_same(const char *a, const char *b);
/* Resolves DIR/NAME and refuses a result outside DIR after following links. */
bool file_inside(const char *dir, const char *name, Arena *a, const char **out, Diag *d);

#endif
