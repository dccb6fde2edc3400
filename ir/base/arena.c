/* arena.c: bump allocation in a chain of blocks, growing arrays, checked arithmetic.
 *
 * A block that cannot hold a request is left as it is and a new one goes on top of the chain, so a
 * mark (block, used) and freeing everything above it is all that reset needs. Memory is zeroed:
 * fresh blocks come from calloc, and reset clears what it hands back.
 * The compiler is an offline tool: out of memory prints one line and aborts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/base/base.h"

#define ARENA_ALIGN 16u
#define BLOCK_MIN ((size_t)16 << 10)
#define BLOCK_MAX ((size_t)1 << 20)

typedef struct Block Block;
struct Block {
    Block *prev;
    size_t used, cap;
    size_t pad;
};

#define BLOCK_HEAD ((sizeof(Block) + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN)

struct Arena {
    Block *top;
    size_t held;
    size_t next_cap;
};

static void out_of_memory(size_t bytes) {
    fprintf(stderr, "gptc: out of memory (request of %zu bytes)\n", bytes);
    abort();
}

static unsigned char *block_data(Block *b) { return (unsigned char *)b + BLOCK_HEAD; }

Arena *arena_new(void) {
    Arena *a = calloc(1, sizeof(*a));
    if (a == NULL)
        out_of_memory(sizeof(*a));
    else
        a->next_cap = BLOCK_MIN;
    return a;
}

void arena_free(Arena *a) {
    if (a == NULL) return;
    for (Block *b = a->top; b != NULL;) {
        Block *prev = b->prev;
        free(b);
        b = prev;
    }
    free(a);
}

static Block *arena_grow(Arena *a, size_t bytes) {
    size_t cap = a->next_cap;
    if (bytes > cap / 4)
        cap = bytes;
    else if (a->next_cap < BLOCK_MAX)
        a->next_cap *= 2;
    size_t total = 0;
    if (!add_size(cap, BLOCK_HEAD, &total)) out_of_memory(bytes);
    Block *b = calloc(1, total);
    if (b == NULL) {
        out_of_memory(total);
        return NULL;
    }
    b->prev = a->top;
    b->cap = cap;
    a->top = b;
    a->held += total;
    return b;
}

static size_t round_up(size_t bytes) {
    if (bytes == 0) return ARENA_ALIGN;
    if (bytes > SIZE_MAX - ARENA_ALIGN) out_of_memory(bytes);
    return (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
}

void *arena_alloc(Arena *a, size_t bytes) {
    size_t need = round_up(bytes);
    Block *b = a->top;
    if (b == NULL || b->cap - b->used < need) b = arena_grow(a, need);
    void *p = block_data(b) + b->used;
    b->used += need;
    return p;
}

void *arena_array(Arena *a, size_t count, size_t size) {
    size_t bytes = 0;
    if (!mul_size(count, size, &bytes)) out_of_memory(SIZE_MAX);
    return arena_alloc(a, bytes);
}

void *arena_dup(Arena *a, const void *data, size_t bytes) {
    void *p = arena_alloc(a, bytes);
    if (bytes != 0) memcpy(p, data, bytes);
    return p;
}

char *arena_strdup(Arena *a, const char *s) { return arena_dup(a, s, strlen(s) + 1); }

char *arena_strndup(Arena *a, const char *s, size_t n) {
    if (n == SIZE_MAX) out_of_memory(n);
    char *p = arena_alloc(a, n + 1);
    if (n != 0) memcpy(p, s, n);
    p[n] = '\0';
    return p;
}

char *arena_printf(Arena *a, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = arena_alloc(a, (n < 0 ? 0 : (size_t)n) + 1);
    if (n > 0) vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return p;
}

ArenaMark arena_mark(const Arena *a) {
    ArenaMark mark = {a->top, a->top == NULL ? 0 : a->top->used};
    return mark;
}

void arena_reset(Arena *a, ArenaMark mark) {
    while (a->top != NULL && a->top != (Block *)mark.block) {
        Block *b = a->top;
        a->top = b->prev;
        a->held -= b->cap + BLOCK_HEAD;
        free(b);
    }
    Block *b = a->top;
    if (b == NULL || mark.used >= b->used) return;
    memset(block_data(b) + mark.used, 0, b->used - mark.used);
    b->used = mark.used;
}

size_t arena_bytes(const Arena *a) { return a->held; }

void *vec_grow(Arena *a, void *data, size_t count, size_t *cap, size_t size) {
    if (count < *cap) return data;
    size_t old_bytes = 0, new_bytes = 0, new_cap = 0;
    if (!mul_size(*cap < 4 ? 4 : *cap, 2, &new_cap) || !mul_size(new_cap, size, &new_bytes) ||
        !mul_size(*cap, size, &old_bytes))
        out_of_memory(SIZE_MAX);
    /* The last thing allocated can often grow where it is. */
    Block *b = a->top;
    if (data != NULL && b != NULL) {
        size_t old_room = round_up(old_bytes), new_room = round_up(new_bytes);
        bool last = b->used >= old_room && (unsigned char *)data == block_data(b) + (b->used - old_room);
        if (last && new_room - old_room <= b->cap - b->used) {
            b->used += new_room - old_room;
            *cap = new_cap;
            return data;
        }
    }
    void *grown = arena_alloc(a, new_bytes);
    if (count != 0) memcpy(grown, data, count * size);
    *cap = new_cap;
    return grown;
}

bool mul_size(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }

bool add_size(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }

bool mul_i64(int64_t a, int64_t b, int64_t *out) { return !__builtin_mul_overflow(a, b, out); }

bool add_i64(int64_t a, int64_t b, int64_t *out) { return !__builtin_add_overflow(a, b, out); }
