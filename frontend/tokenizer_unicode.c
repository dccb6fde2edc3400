/* tokenizer_unicode.c: sets of code points, and the Unicode properties that split expressions name.
 *
 * General categories come from utf8proc. Where that is older than Unicode 16, which today's tokenizers use,
 * a table adds the characters assigned since Unicode 15; it changes nothing under a newer utf8proc. */
#include "frontend/tokenizer_private.h"

#include <string.h>
#include <utf8proc.h>

static const struct {
    uint32_t first, last;
    char category[3];
} assigned_since_15[] = {
    {0x897, 0x897, "Mn"},     {0x1b4e, 0x1b4f, "Po"},   {0x1b7f, 0x1b7f, "Po"},   {0x1c89, 0x1c89, "Lu"},
    {0x1c8a, 0x1c8a, "Ll"},   {0x2427, 0x2429, "So"},   {0x2ffc, 0x2fff, "So"},   {0x31e4, 0x31e5, "So"},
    {0x31ef, 0x31ef, "So"},   {0xa7cb, 0xa7cc, "Lu"},   {0xa7cd, 0xa7cd, "Ll"},   {0xa7da, 0xa7da, "Lu"},
    {0xa7db, 0xa7db, "Ll"},   {0xa7dc, 0xa7dc, "Lu"},   {0x105c0, 0x105f3, "Lo"}, {0x10d40, 0x10d49, "Nd"},
    {0x10d4a, 0x10d4d, "Lo"}, {0x10d4e, 0x10d4e, "Lm"}, {0x10d4f, 0x10d4f, "Lo"}, {0x10d50, 0x10d65, "Lu"},
    {0x10d69, 0x10d6d, "Mn"}, {0x10d6e, 0x10d6e, "Pd"}, {0x10d6f, 0x10d6f, "Lm"}, {0x10d70, 0x10d85, "Ll"},
    {0x10d8e, 0x10d8f, "Sm"}, {0x10ec2, 0x10ec4, "Lo"}, {0x10efc, 0x10efc, "Mn"}, {0x11380, 0x11389, "Lo"},
    {0x1138b, 0x1138b, "Lo"}, {0x1138e, 0x1138e, "Lo"}, {0x11390, 0x113b5, "Lo"}, {0x113b7, 0x113b7, "Lo"},
    {0x113b8, 0x113ba, "Mc"}, {0x113bb, 0x113c0, "Mn"}, {0x113c2, 0x113c2, "Mc"}, {0x113c5, 0x113c5, "Mc"},
    {0x113c7, 0x113ca, "Mc"}, {0x113cc, 0x113cd, "Mc"}, {0x113ce, 0x113ce, "Mn"}, {0x113cf, 0x113cf, "Mc"},
    {0x113d0, 0x113d0, "Mn"}, {0x113d1, 0x113d1, "Lo"}, {0x113d2, 0x113d2, "Mn"}, {0x113d3, 0x113d3, "Lo"},
    {0x113d4, 0x113d5, "Po"}, {0x113d7, 0x113d8, "Po"}, {0x113e1, 0x113e2, "Mn"}, {0x116d0, 0x116e3, "Nd"},
    {0x11bc0, 0x11be0, "Lo"}, {0x11be1, 0x11be1, "Po"}, {0x11bf0, 0x11bf9, "Nd"}, {0x11f5a, 0x11f5a, "Mn"},
    {0x13460, 0x143fa, "Lo"}, {0x16100, 0x1611d, "Lo"}, {0x1611e, 0x16129, "Mn"}, {0x1612a, 0x1612c, "Mc"},
    {0x1612d, 0x1612f, "Mn"}, {0x16130, 0x16139, "Nd"}, {0x16d40, 0x16d42, "Lm"}, {0x16d43, 0x16d6a, "Lo"},
    {0x16d6b, 0x16d6c, "Lm"}, {0x16d6d, 0x16d6f, "Po"}, {0x16d70, 0x16d79, "Nd"}, {0x18cff, 0x18cff, "Lo"},
    {0x1cc00, 0x1ccef, "So"}, {0x1ccf0, 0x1ccf9, "Nd"}, {0x1cd00, 0x1ceb3, "So"}, {0x1e5d0, 0x1e5ed, "Lo"},
    {0x1e5ee, 0x1e5ef, "Mn"}, {0x1e5f0, 0x1e5f0, "Lo"}, {0x1e5f1, 0x1e5fa, "Nd"}, {0x1e5ff, 0x1e5ff, "Po"},
    {0x1f8b2, 0x1f8bb, "So"}, {0x1f8c0, 0x1f8c1, "So"}, {0x1fa89, 0x1fa89, "So"}, {0x1fa8f, 0x1fa8f, "So"},
    {0x1fabe, 0x1fabe, "So"}, {0x1fac6, 0x1fac6, "So"}, {0x1fadc, 0x1fadc, "So"}, {0x1fadf, 0x1fadf, "So"},
    {0x1fae9, 0x1fae9, "So"}, {0x1fbcb, 0x1fbef, "So"}, {0x2ebf0, 0x2ee5d, "Lo"},
};

/* Script=Han of Unicode 16. */
static const CodeRange han[] = {
    {0x2e80, 0x2e99},   {0x2e9b, 0x2ef3},   {0x2f00, 0x2fd5},   {0x3005, 0x3005},   {0x3007, 0x3007},
    {0x3021, 0x3029},   {0x3038, 0x303b},   {0x3400, 0x4dbf},   {0x4e00, 0x9fff},   {0xf900, 0xfa6d},
    {0xfa70, 0xfad9},   {0x16fe2, 0x16fe3}, {0x16ff0, 0x16ff1}, {0x20000, 0x2a6df}, {0x2a700, 0x2b739},
    {0x2b740, 0x2b81d}, {0x2b820, 0x2cea1}, {0x2ceb0, 0x2ebe0}, {0x2ebf0, 0x2ee5d}, {0x2f800, 0x2fa1d},
    {0x30000, 0x3134a}, {0x31350, 0x323af},
};

void codeset_add(Arena *a, CodeSet *s, uint32_t first, uint32_t last) {
    if (s->count > 0 && first == s->data[s->count - 1].last + 1) {
        s->data[s->count - 1].last = last;
        return;
    }
    if (s->count == 0 || first > s->data[s->count - 1].last) {
        VEC_PUSH(a, s, ((CodeRange){first, last}));
        return;
    }
    CodeSet merged = {0};
    bool placed = false;
    for (size_t i = 0; i < s->count; i++) {
        CodeRange r = s->data[i];
        if (r.last + 1 < first || placed) {
            VEC_PUSH(a, &merged, r);
        } else if (last + 1 < r.first) {
            VEC_PUSH(a, &merged, ((CodeRange){first, last}));
            VEC_PUSH(a, &merged, r);
            placed = true;
        } else {
            if (r.first < first) first = r.first;
            if (r.last > last) last = r.last;
        }
    }
    if (!placed) VEC_PUSH(a, &merged, ((CodeRange){first, last}));
    *s = merged;
}

void codeset_union(Arena *a, CodeSet *s, const CodeSet *other) {
    CodeSet merged = {0};
    size_t i = 0, j = 0;
    while (i < s->count || j < other->count) {
        bool mine = j == other->count || (i < s->count && s->data[i].first <= other->data[j].first);
        CodeRange r = mine ? s->data[i++] : other->data[j++];
        if (merged.count > 0 && r.first <= merged.data[merged.count - 1].last + 1) {
            CodeRange *end = &merged.data[merged.count - 1];
            if (r.last > end->last) end->last = r.last;
        } else {
            VEC_PUSH(a, &merged, r);
        }
    }
    *s = merged;
}

void codeset_invert(Arena *a, CodeSet *s) {
    CodeSet out = {0};
    uint32_t from = 0;
    for (size_t i = 0; i < s->count; i++) {
        if (s->data[i].first > from) VEC_PUSH(a, &out, ((CodeRange){from, s->data[i].first - 1}));
        from = s->data[i].last + 1;
    }
    if (from <= CODE_MAX) VEC_PUSH(a, &out, ((CodeRange){from, CODE_MAX}));
    *s = out;
}

bool codeset_has(const CodeSet *s, uint32_t code) {
    size_t low = 0, high = s->count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (code > s->data[mid].last)
            low = mid + 1;
        else
            high = mid;
    }
    return low < s->count && code >= s->data[low].first;
}

bool codeset_equal(const CodeSet *x, const CodeSet *y) {
    return x->count == y->count &&
           (x->count == 0 || memcmp(x->data, y->data, x->count * sizeof(CodeRange)) == 0);
}

static bool category_matches(const char *category, const char *name, size_t n) {
    return category[0] == name[0] && (n == 1 || category[1] == name[1]);
}

bool codeset_add_property(Arena *a, CodeSet *s, const char *name, size_t n) {
    CodeSet found = {0};
    if (n == 3 && memcmp(name, "Han", 3) == 0) {
        for (size_t i = 0; i < COUNT_OF(han); i++) codeset_add(a, &found, han[i].first, han[i].last);
        codeset_union(a, s, &found);
        return true;
    }
    static const char *const names[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",
                                        "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po",
                                        "S",  "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp"};
    bool known = false;
    for (size_t i = 0; i < COUNT_OF(names); i++)
        known = known || (strlen(names[i]) == n && memcmp(names[i], name, n) == 0);
    if (!known) return false;
    size_t next = 0;
    for (uint32_t c = 0; c <= CODE_MAX; c++) {
        const char *category = utf8proc_category_string((utf8proc_int32_t)c);
        while (next < COUNT_OF(assigned_since_15) && c > assigned_since_15[next].last) next++;
        if (next < COUNT_OF(assigned_since_15) && c >= assigned_since_15[next].first)
            category = assigned_since_15[next].category;
        if (category_matches(category, name, n)) codeset_add(a, &found, c, c);
    }
    codeset_union(a, s, &found);
    return true;
}

void codeset_add_space(Arena *a, CodeSet *s) {
    static const CodeRange space[] = {{0x09, 0x0d},     {0x20, 0x20},     {0x85, 0x85},     {0xa0, 0xa0},
                                      {0x1680, 0x1680}, {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f},
                                      {0x205f, 0x205f}, {0x3000, 0x3000}};
    for (size_t i = 0; i < COUNT_OF(space); i++) codeset_add(a, s, space[i].first, space[i].last);
}

void codeset_add_word(Arena *a, CodeSet *s) {
    static const char *const names[] = {"L", "M", "Nd", "Nl", "Pc"};
    for (size_t i = 0; i < COUNT_OF(names); i++) codeset_add_property(a, s, names[i], strlen(names[i]));
    /* Join_Control, and the symbols that are Other_Alphabetic. */
    static const CodeRange more[] = {
        {0x200c, 0x200d}, {0x24b6, 0x24e9}, {0x1f130, 0x1f149}, {0x1f150, 0x1f169}, {0x1f170, 0x1f189}};
    for (size_t i = 0; i < COUNT_OF(more); i++) codeset_add(a, s, more[i].first, more[i].last);
}

static bool is_cased(uint32_t c) {
    utf8proc_int32_t x = (utf8proc_int32_t)c;
    return utf8proc_tolower(x) != x || utf8proc_toupper(x) != x || utf8proc_totitle(x) != x;
}

bool codeset_fold(Arena *a, CodeSet *s) {
    CodeSet folded = *s;
    for (uint32_t upper = 'A'; upper <= 'Z'; upper++) {
        uint32_t lower = upper + 32, third = upper == 'S' ? 0x17f : upper == 'K' ? 0x212a : 0;
        if (!codeset_has(s, upper) && !codeset_has(s, lower) && !(third && codeset_has(s, third))) continue;
        CodeSet both = {0};
        codeset_add(a, &both, upper, upper);
        codeset_add(a, &both, lower, lower);
        if (third) codeset_add(a, &both, third, third);
        codeset_union(a, &folded, &both);
    }
    bool some = false, all = true;
    for (uint32_t c = 0x80; c <= CODE_MAX; c++) {
        if (c == 0x17f || c == 0x212a || !is_cased(c)) continue;
        if (codeset_has(s, c))
            some = true;
        else
            all = false;
    }
    *s = folded;
    return !some || all;
}

bool utf8_next(const char *s, size_t n, size_t *i, uint32_t *code) {
    utf8proc_int32_t c = 0;
    size_t left = n - *i;
    if (left == 0) return false;
    utf8proc_ssize_t took =
        utf8proc_iterate((const utf8proc_uint8_t *)s + *i, (utf8proc_ssize_t)(left > 4 ? 4 : left), &c);
    if (took <= 0) return false;
    *i += (size_t)took;
    *code = (uint32_t)c;
    return true;
}

size_t utf8_put(uint32_t code, char out[4]) {
    utf8proc_uint8_t bytes[4];
    utf8proc_ssize_t n = utf8proc_encode_char((utf8proc_int32_t)code, bytes);
    memcpy(out, bytes, (size_t)n);
    return (size_t)n;
}
