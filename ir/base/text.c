/* text.c: growing NUL-terminated text in an arena, shortest decimal floats, and the one-line form
 * of a diagnostic. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/base/base.h"

Text text_new(Arena *a) {
    Text t = {a, NULL, 0, 0};
    t.data = vec_grow(a, NULL, 0, &t.cap, 1);
    return t;
}

static void text_reserve(Text *t, size_t more) {
    size_t need = 0;
    if (!add_size(t->count, more, &need) || !add_size(need, 1, &need)) need = SIZE_MAX;
    while (t->cap < need) {
        /* vec_grow copies `count` items: the terminator too. */
        size_t cap = t->cap;
        t->data = vec_grow(t->arena, t->data, cap, &t->cap, 1);
    }
}

void text_addn(Text *t, const char *s, size_t n) {
    text_reserve(t, n);
    if (n != 0) memcpy(t->data + t->count, s, n);
    t->count += n;
    t->data[t->count] = '\0';
}

void text_add(Text *t, const char *s) { text_addn(t, s, strlen(s)); }

void text_vprintf(Text *t, const char *fmt, va_list ap) {
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    if (n > 0) {
        text_reserve(t, (size_t)n);
        vsnprintf(t->data + t->count, (size_t)n + 1, fmt, again);
        t->count += (size_t)n;
    }
    va_end(again);
}

void text_printf(Text *t, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    text_vprintf(t, fmt, ap);
    va_end(ap);
}

/* What %g would write too long, or not as people do: 30 as 3e+01. */
static bool text_add_special(Text *t, double v) {
    if (fabs(v) < 1e7 && trunc(v) == v)
        text_printf(t, "%.0f", v);
    else if (isnan(v))
        text_add(t, signbit(v) ? "-nan" : "nan");
    else if (isinf(v))
        text_add(t, v < 0 ? "-inf" : "inf");
    else
        return false;
    return true;
}

void text_add_float(Text *t, double v) {
    if (text_add_special(t, v)) return;
    char buffer[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(buffer, sizeof(buffer), "%.*g", digits, v);
        if (strtod(buffer, NULL) == v) break;
    }
    text_add(t, buffer);
}

void text_add_float32(Text *t, float v) {
    if (text_add_special(t, (double)v)) return;
    char buffer[40];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(buffer, sizeof(buffer), "%.*g", digits, (double)v);
        if (strtof(buffer, NULL) == v) break;
    }
    text_add(t, buffer);
}

static void text_add_clean(Text *t, const char *s) {
    for (; *s != '\0'; s++) {
        unsigned char c = (unsigned char)*s;
        char one = (c < 0x20 || c == 0x7f) ? '?' : *s;
        text_addn(t, &one, 1);
    }
}

void diag_format(Text *t, const DiagItem *item) {
    static const char *const levels[] = {"note", "warning", "error", "internal error"};
    text_printf(t, "%s: ", levels[item->level]);
    const Loc *loc = &item->loc;
    const char *name = loc->name == NULL ? "" : loc->name;
    switch (loc->kind) {
    case LOC_NONE: break;
    case LOC_FILE:
        text_add_clean(t, name);
        text_add(t, ": ");
        break;
    case LOC_TEXT:
        text_add_clean(t, loc->name == NULL ? "text" : name);
        text_printf(t, ":%u:%u: ", loc->line, loc->column);
        break;
    case LOC_NODE:
        text_printf(t, "node #%u", loc->line);
        if (*name != '\0') text_add(t, " ");
        text_add_clean(t, name);
        text_add(t, ": ");
        break;
    }
    text_add(t, item->text);
}
