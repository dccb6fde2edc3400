/* tokenize_text.c: UTF-8 repair, and Unicode's normalization form C (UAX #15) from the section's tables. */
#include "runtime/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

/* Hangul syllables are composed by arithmetic (The Unicode Standard, 3.12). */
enum {
    S_BASE = 0xac00,
    L_BASE = 0x1100,
    V_BASE = 0x1161,
    T_BASE = 0x11a7,
    L_COUNT = 19,
    V_COUNT = 21,
    T_COUNT = 28,
    S_COUNT = L_COUNT * V_COUNT * T_COUNT
};

/* One character: its length if it is well-formed, else 0 and in *skip the length of the longest start of
 * a well-formed character there (at least 1), as the Unicode Standard's table 3-7 has it. */
static size_t check_one(const uint8_t *s, size_t n, size_t *skip) {
    uint8_t low = 0x80, high = 0xbf;
    size_t need = 0;
    *skip = 1;
    if (s[0] < 0x80) return 1;
    if (s[0] >= 0xc2 && s[0] <= 0xdf)
        need = 2;
    else if (s[0] >= 0xe0 && s[0] <= 0xef)
        need = 3;
    else if (s[0] >= 0xf0 && s[0] <= 0xf4)
        need = 4;
    if (s[0] == 0xe0)
        low = 0xa0;
    else if (s[0] == 0xed)
        high = 0x9f;
    else if (s[0] == 0xf0)
        low = 0x90;
    else if (s[0] == 0xf4)
        high = 0x8f;
    for (size_t i = 1; i < need; i++) {
        if (i >= n || s[i] < low || s[i] > high) return 0;
        *skip = i + 1;
        low = 0x80;
        high = 0xbf;
    }
    return need;
}

size_t utf8_check(const uint8_t *s, size_t n, size_t *skip) {
    size_t i = 0;
    *skip = 0;
    while (i < n) {
        size_t k = s[i] < 0x80 ? 1 : check_one(s + i, n - i, skip);
        if (k == 0) return i;
        i += k;
    }
    return i;
}

uint8_t *text_repair(const uint8_t *s, size_t n, size_t *out) {
    uint8_t *text = malloc(n * 3 + 1);
    size_t count = 0;
    *out = 0;
    if (text == NULL) return NULL;
    for (size_t i = 0; i < n;) {
        size_t skip = 0, good = utf8_check(s + i, n - i, &skip);
        memcpy(text + count, s + i, good);
        count += good;
        i += good;
        if (i == n) break;
        memcpy(text + count, "\xef\xbf\xbd", 3);
        count += 3;
        i += skip;
    }
    *out = count;
    return text;
}

typedef struct {
    uint32_t *data;
    size_t count, cap;
} Codes;

static bool codes_reserve(Codes *c, size_t more) {
    if (c->cap - c->count >= more) return true;
    size_t cap = c->cap * 2 + more;
    uint32_t *data = realloc(c->data, cap * sizeof(uint32_t));
    if (data == NULL) return false;
    c->data = data;
    c->cap = cap;
    return true;
}

static bool decompose(const Tokenizer *t, Codes *c, uint32_t code) {
    if (!codes_reserve(c, 8)) return false;
    if (code >= S_BASE && code < S_BASE + S_COUNT) {
        uint32_t s = code - S_BASE, tail = s % T_COUNT;
        c->data[c->count++] = L_BASE + s / (V_COUNT * T_COUNT);
        c->data[c->count++] = V_BASE + s % (V_COUNT * T_COUNT) / T_COUNT;
        if (tail != 0) c->data[c->count++] = T_BASE + tail;
        return true;
    }
    uint32_t low = 0, high = code < 0xc0 ? 0 : t->apart_count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (t->apart[mid].code < code)
            low = mid + 1;
        else
            high = mid;
    }
    if (low < t->apart_count && t->apart[low].code == code) {
        for (uint32_t i = 0; i < t->apart[low].count; i++)
            c->data[c->count++] = t->nfc_pool[t->apart[low].start + i];
    } else {
        c->data[c->count++] = code;
    }
    return true;
}

static uint32_t compose(const Tokenizer *t, uint32_t a, uint32_t b) {
    if (a >= L_BASE && a < L_BASE + L_COUNT && b >= V_BASE && b < V_BASE + V_COUNT)
        return S_BASE + ((a - L_BASE) * V_COUNT + (b - V_BASE)) * T_COUNT;
    if (a >= S_BASE && a < S_BASE + S_COUNT && (a - S_BASE) % T_COUNT == 0 && b > T_BASE &&
        b < T_BASE + T_COUNT)
        return a + (b - T_BASE);
    uint32_t low = 0, high = t->together_count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        const TokComposition *p = &t->together[mid];
        if (p->first < a || (p->first == a && p->second < b))
            low = mid + 1;
        else
            high = mid;
    }
    if (low == t->together_count) return 0;
    const TokComposition *p = &t->together[low];
    return p->first == a && p->second == b ? p->result : 0;
}

/* Sorts a run of combining marks by class, equal ones in place: by counting, for runs may be long. */
static void sort_run(const Tokenizer *t, uint32_t *run, size_t n, uint32_t *space) {
    size_t at[257] = {0};
    for (size_t i = 0; i < n; i++) at[charmap_get(t->nfc_class, run[i]) + 1]++;
    for (int k = 0; k < 256; k++) at[k + 1] += at[k];
    memcpy(space, run, n * sizeof(uint32_t));
    for (size_t i = 0; i < n; i++) run[at[charmap_get(t->nfc_class, space[i])]++] = space[i];
}

static bool order_marks(const Tokenizer *t, Codes *c) {
    uint32_t *space = malloc((c->count + 1) * sizeof(uint32_t));
    if (space == NULL) return false;
    for (size_t i = 0; i < c->count;) {
        size_t end = i;
        while (end < c->count && charmap_get(t->nfc_class, c->data[end]) != 0) end++;
        if (end - i > 1) sort_run(t, c->data + i, end - i, space);
        i = end + 1;
    }
    free(space);
    return true;
}

static void compose_all(const Tokenizer *t, Codes *c) {
    size_t kept = 0, starter = SIZE_MAX;
    uint32_t class_before = 0;
    for (size_t i = 0; i < c->count; i++) {
        uint32_t code = c->data[i], class = charmap_get(t->nfc_class, code);
        bool next_to = starter != SIZE_MAX && kept == starter + 1;
        bool open = starter != SIZE_MAX && (next_to || (class_before < class && class_before != 0));
        uint32_t both = open ? compose(t, c->data[starter], code) : 0;
        if (both != 0) {
            c->data[starter] = both;
            continue;
        }
        if (class == 0) starter = kept;
        class_before = class;
        c->data[kept++] = code;
    }
    c->count = kept;
}

static size_t put_code(uint8_t *out, uint32_t c) {
    if (c < 0x80) return out[0] = (uint8_t)c, 1;
    if (c < 0x800) {
        out[0] = (uint8_t)(0xc0 | c >> 6);
        out[1] = (uint8_t)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (uint8_t)(0xe0 | c >> 12);
        out[1] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
        out[2] = (uint8_t)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (uint8_t)(0xf0 | c >> 18);
    out[1] = (uint8_t)(0x80 | (c >> 12 & 0x3f));
    out[2] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
    out[3] = (uint8_t)(0x80 | (c & 0x3f));
    return 4;
}

uint8_t *text_to_nfc(const Tokenizer *t, const uint8_t *s, size_t n, size_t *out) {
    Codes c = {0};
    uint8_t *text = NULL;
    bool ok = codes_reserve(&c, n + 8);
    for (size_t i = 0; i < n && ok;) {
        uint32_t k = 0, code = utf8_code(s + i, &k);
        ok = decompose(t, &c, code);
        i += k;
    }
    ok = ok && order_marks(t, &c);
    if (ok) compose_all(t, &c);
    if (ok) text = malloc(c.count * 4 + 1);
    size_t bytes = 0;
    for (size_t i = 0; i < c.count && text != NULL; i++) bytes += put_code(text + bytes, c.data[i]);
    free(c.data);
    *out = bytes;
    return text;
}
