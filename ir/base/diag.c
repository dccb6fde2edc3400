/* diag.c: errors with a location, collected in an arena of their own and never printed here.
 *
 * Texts quote names from untrusted files, so control characters become '?': an item is always one
 * line. */
#include <stdio.h>

#include "ir/base/base.h"

void diag_init(Diag *d) {
    *d = (Diag){0};
    d->arena = arena_new();
}

void diag_free(Diag *d) {
    arena_free(d->arena);
    *d = (Diag){0};
}

/* text is d's own. */
static void diag_push(Diag *d, DiagLevel level, Loc loc, const char *text) {
    /* Graphs and their names may go before the messages about them are shown. */
    if (loc.name != NULL) loc.name = arena_strdup(d->arena, loc.name);
    DiagItem item = {level, loc, text};
    VEC_PUSH(d->arena, &d->items, item);
    if (level >= DIAG_ERROR) d->errors++;
    if (level == DIAG_BUG) d->bugs++;
}

static void diag_add(Diag *d, DiagLevel level, Loc loc, const char *fmt, va_list ap) {
    Text t = text_new(d->arena);
    text_vprintf(&t, fmt, ap);
    for (size_t i = 0; i < t.count; i++) {
        unsigned char c = (unsigned char)t.data[i];
        if (c < 0x20 || c == 0x7f) t.data[i] = '?';
    }
    diag_push(d, level, loc, t.data);
}

void diag_append(Diag *d, const Diag *from) {
    for (size_t i = 0; i < from->items.count; i++) {
        const DiagItem *item = &from->items.data[i];
        diag_push(d, item->level, item->loc, arena_strdup(d->arena, item->text));
    }
}

bool diag_error(Diag *d, Loc loc, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    diag_add(d, DIAG_ERROR, loc, fmt, ap);
    va_end(ap);
    return false;
}

bool diag_bug(Diag *d, Loc loc, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    diag_add(d, DIAG_BUG, loc, fmt, ap);
    va_end(ap);
    return false;
}

void diag_warn(Diag *d, Loc loc, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    diag_add(d, DIAG_WARNING, loc, fmt, ap);
    va_end(ap);
}

void diag_note(Diag *d, Loc loc, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    diag_add(d, DIAG_NOTE, loc, fmt, ap);
    va_end(ap);
}

Loc loc_none(void) { return (Loc){LOC_NONE, 0, 0, NULL}; }

Loc loc_file(const char *path) { return (Loc){LOC_FILE, 0, 0, path}; }
