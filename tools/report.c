#include "tools/report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

Report report_new(Arena *a) { return (Report){.arena = a}; }

void report_section(Report *r, const char *key, const char *title) {
    VEC_PUSH(r->arena, &r->sections, ((Section){.key = key, .title = title}));
    r->in_row = false;
}

static Section *current(const Report *r) { return &r->sections.data[r->sections.count - 1]; }

void report_row(Report *r) {
    VEC_PUSH(r->arena, &current(r)->rows, (FactRow){0});
    r->in_row = true;
}

static void add(Report *r, Fact f) {
    Section *s = current(r);
    if (r->in_row)
        VEC_PUSH(r->arena, &s->rows.data[s->rows.count - 1].cells, f);
    else
        VEC_PUSH(r->arena, &s->facts, f);
}

static const char *formatted(Report *r, const char *fmt, va_list ap) {
    Text t = text_new(r->arena);
    text_vprintf(&t, fmt, ap);
    return t.count ? t.data : "";
}

void report_text(Report *r, const char *key, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    add(r, (Fact){.key = key, .text = formatted(r, fmt, ap)});
    va_end(ap);
}

void report_number(Report *r, const char *key, double value, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    add(r, (Fact){.key = key, .text = formatted(r, fmt, ap), .number = true, .value = value});
    va_end(ap);
}

void report_flag(Report *r, const char *key, bool value) {
    add(r, (Fact){.key = key, .text = value ? "yes" : "no", .flag = true, .value = value});
}

const char *report_bytes(Arena *a, double bytes) {
    if (bytes < 1e4) return arena_printf(a, "%.0f byte%s", bytes, bytes == 1 ? "" : "s");
    if (bytes < 1e6) return arena_printf(a, "%.1f kB", bytes / 1e3);
    return bytes < 1e9 ? arena_printf(a, "%.1f MB", bytes / 1e6) : arena_printf(a, "%.2f GB", bytes / 1e9);
}

/* ---- text ---- */

/* Columns that UTF-8 text takes. */
static size_t width(const char *s) {
    size_t n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

static void padded(Text *t, const char *s, size_t to) {
    text_add(t, s);
    for (size_t n = width(s); n < to; n++) text_add(t, " ");
}

#define COLUMNS 16

static void print_rows(const Section *s, Text *t) {
    size_t wide[COLUMNS] = {0};
    for (size_t i = 0; i < s->rows.count; i++)
        for (size_t k = 0; k < s->rows.data[i].cells.count && k < COLUMNS; k++) {
            size_t n = width(s->rows.data[i].cells.data[k].text);
            if (n > wide[k] && n <= 72) wide[k] = n;
        }
    for (size_t i = 0; i < s->rows.count; i++) {
        const FactRow *row = &s->rows.data[i];
        size_t last = row->cells.count;
        while (last > 0 && !*row->cells.data[last - 1].text) last--;
        for (size_t k = 0; k < last && k < COLUMNS; k++) {
            text_add(t, "  ");
            padded(t, row->cells.data[k].text, k + 1 < last ? wide[k] : 0);
        }
        text_add(t, "\n");
    }
}

/* A long text, or one of many lines, is cut: JSON and HTML have it whole. */
static void add_line(Text *t, const char *s) {
    size_t n = strcspn(s, "\n");
    if (n > 240) n = 240;
    while (n > 0 && ((unsigned char)s[n] & 0xC0) == 0x80) n--;
    text_addn(t, s, n);
    text_add(t, s[n] ? " …\n" : "\n");
}

void report_print(const Report *r, Text *t) {
    for (size_t i = 0; i < r->sections.count; i++) {
        const Section *s = &r->sections.data[i];
        size_t wide = 0;
        if (s->facts.count + s->rows.count == 0) continue;
        text_printf(t, "%s%s\n", i ? "\n" : "", s->title);
        for (size_t k = 0; k < s->facts.count; k++)
            if (width(s->facts.data[k].key) > wide) wide = width(s->facts.data[k].key);
        for (size_t k = 0; k < s->facts.count; k++) {
            text_add(t, "  ");
            padded(t, s->facts.data[k].key, wide + 2);
            add_line(t, s->facts.data[k].text);
        }
        print_rows(s, t);
    }
}

/* ---- JSON ---- */

static void json_string(Text *t, const char *s) {
    text_add(t, "\"");
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            text_printf(t, "\\%c", c);
        else if (c < 0x20)
            text_printf(t, "\\u%04x", c);
        else
            text_addn(t, s, 1);
    }
    text_add(t, "\"");
}

/* Keys are words; JSON has underscores between them. */
static void json_key(Text *t, const char *s) {
    text_add(t, "\"");
    for (; *s; s++) text_addn(t, *s == ' ' ? "_" : s, 1);
    text_add(t, "\"");
}

static void json_facts(Text *t, const Fact *f, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (i) text_add(t, ", ");
        json_key(t, f[i].key);
        text_add(t, ": ");
        if (f[i].flag)
            text_add(t, f[i].value != 0 ? "true" : "false");
        else if (f[i].number && isfinite(f[i].value))
            text_printf(t, "%.17g", f[i].value);
        else if (f[i].number)
            text_add(t, "null");
        else
            json_string(t, f[i].text);
    }
}

static void json_rows(Text *t, const Section *s) {
    text_add(t, "[");
    for (size_t i = 0; i < s->rows.count; i++) {
        text_add(t, i ? ", {" : "{");
        json_facts(t, s->rows.data[i].cells.data, s->rows.data[i].cells.count);
        text_add(t, "}");
    }
    text_add(t, "]");
}

void report_json(const Report *r, Text *t) {
    text_add(t, "{");
    for (size_t i = 0; i < r->sections.count; i++) {
        const Section *s = &r->sections.data[i];
        if (i) text_add(t, ", ");
        json_string(t, s->key);
        text_add(t, ": ");
        if (s->facts.count == 0) {
            json_rows(t, s);
            continue;
        }
        text_add(t, "{");
        json_facts(t, s->facts.data, s->facts.count);
        if (s->rows.count) {
            text_add(t, ", \"rows\": ");
            json_rows(t, s);
        }
        text_add(t, "}");
    }
    text_add(t, "}\n");
}

/* ---- HTML ---- */

void html_escape(Text *t, const char *s) {
    for (; *s; s++) switch (*s) {
        case '<': text_add(t, "&lt;"); break;
        case '>': text_add(t, "&gt;"); break;
        case '&': text_add(t, "&amp;"); break;
        case '"': text_add(t, "&quot;"); break;
        default: text_addn(t, s, 1);
        }
}

static void html_cell(Text *t, const char *tag, const Fact *f) {
    text_printf(t, "<%s%s>", tag, f->number ? " class=n" : "");
    html_escape(t, f->text);
    text_printf(t, "</%s>", tag);
}

static void html_head(Text *t, const FactRow *row) {
    text_add(t, "<tr>");
    for (size_t k = 0; k < row->cells.count; k++) {
        text_add(t, row->cells.data[k].number ? "<th class=n>" : "<th>");
        html_escape(t, row->cells.data[k].key);
        text_add(t, "</th>");
    }
    text_add(t, "</tr>\n");
}

void report_html(const Report *r, Text *t) {
    for (size_t i = 0; i < r->sections.count; i++) {
        const Section *s = &r->sections.data[i];
        if (s->facts.count + s->rows.count == 0) continue;
        text_printf(t, "<section id=%s><h2>", s->key);
        html_escape(t, s->title);
        text_add(t, "</h2>\n");
        if (s->facts.count) text_add(t, "<dl>\n");
        for (size_t k = 0; k < s->facts.count; k++) {
            text_add(t, "<dt>");
            html_escape(t, s->facts.data[k].key);
            text_add(t, "</dt>");
            html_cell(t, "dd", &(Fact){.text = s->facts.data[k].text});
            text_add(t, "\n");
        }
        if (s->facts.count) text_add(t, "</dl>\n");
        if (s->rows.count) {
            text_add(t, "<div class=wide><table>\n");
            html_head(t, &s->rows.data[0]);
            for (size_t k = 0; k < s->rows.count; k++) {
                text_add(t, "<tr>");
                for (size_t m = 0; m < s->rows.data[k].cells.count; m++)
                    html_cell(t, "td", &s->rows.data[k].cells.data[m]);
                text_add(t, "</tr>\n");
            }
            text_add(t, "</table></div>\n");
        }
        text_add(t, "</section>\n");
    }
}
