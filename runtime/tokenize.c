/* tokenize.c: text to ids: added tokens are split off, what lies between is normalized and cut by the
 * split stages, and each piece goes through the merges. See tokenizer_format.h for the tables. */
#include "runtime/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const Tokenizer *t;
    int32_t *ids;
    size_t cap, count;
    MergeSpace space;
    bool no_memory;
} Encoder;

static void put_id(void *user, int32_t id) {
    Encoder *e = user;
    if (e->count < e->cap) e->ids[e->count] = id;
    e->count++;
}

/* ---- split stages ---- */

static void run_stage(Encoder *e, uint32_t stage, const uint8_t *s, size_t n);

/* End of the leftmost-first match that starts at s[i], or i. */
static size_t match_at(const Stage *stage, const uint8_t *s, size_t n, size_t i) {
    size_t end = i;
    uint32_t state = 1, width = stage->classes + 1;
    for (;;) {
        uint32_t k = 0, class = stage->classes;
        if (i < n) class = charmap_get(stage->map, utf8_code(s + i, &k));
        uint32_t cell = stage->table[state * width + class];
        if ((cell & TOK_MATCH) != 0) end = i;
        state = cell & ~TOK_MATCH;
        if (state == 0 || i >= n) return end;
        i += k;
    }
}

typedef struct {
    size_t start, end;
    bool match, held;
} Segment;

/* Takes the next segment of a piece; joins it to the one held back, or passes that on. */
static void take_segment(Encoder *e, uint32_t stage, const uint8_t *s, Segment *held, bool *match_before,
                         Segment next) {
    uint32_t behavior = e->t->stages[stage].behavior;
    bool join = false;
    if (next.start == next.end) return;
    if (behavior == TOK_REMOVED && next.match) return;
    if (behavior == TOK_MERGED_WITH_PREVIOUS) join = next.match && !*match_before;
    if (behavior == TOK_CONTIGUOUS) join = next.match == *match_before;
    if (behavior == TOK_MERGED_WITH_NEXT) join = !next.match && held->match;
    *match_before = next.match;
    if (join && held->held) {
        held->end = next.end;
        held->match = next.match;
        return;
    }
    if (held->held) run_stage(e, stage + 1, s + held->start, held->end - held->start);
    *held = next;
    held->held = true;
}

static void split_piece(Encoder *e, uint32_t stage, const uint8_t *s, size_t n) {
    const Stage *st = &e->t->stages[stage];
    bool invert = (st->flags & TOK_STAGE_INVERT) != 0, match_before = false;
    Segment held = {0};
    size_t gap = 0;
    for (size_t i = 0; i < n && !e->no_memory;) {
        size_t end = match_at(st, s, n, i);
        if (end == i) {
            uint32_t k = 0;
            utf8_code(s + i, &k);
            i += k;
            continue;
        }
        take_segment(e, stage, s, &held, &match_before, (Segment){gap, i, invert, false});
        take_segment(e, stage, s, &held, &match_before, (Segment){i, end, !invert, false});
        gap = i = end;
    }
    take_segment(e, stage, s, &held, &match_before, (Segment){gap, n, invert, false});
    if (held.held) run_stage(e, stage + 1, s + held.start, held.end - held.start);
}

/* Stages are at most TOK_MAX_STAGES deep. */
static void run_stage(Encoder *e, uint32_t stage, const uint8_t *s, size_t n) {
    if (n == 0 || e->no_memory) return;
    if (stage == e->t->stage_count) {
        if (!merge_piece(e->t, &e->space, s, n, put_id, e)) e->no_memory = true;
        return;
    }
    uint32_t flags = e->t->stages[stage].flags;
    uint8_t *own = NULL;
    if ((flags & TOK_STAGE_PREFIX_SPACE) != 0 && s[0] != ' ') {
        own = malloc(n + 1);
        if (own == NULL) {
            e->no_memory = true;
            return;
        }
        own[0] = ' ';
        memcpy(own + 1, s, n);
        s = own;
        n++;
    }
    if ((flags & TOK_STAGE_SPLIT) != 0)
        split_piece(e, stage, s, n);
    else
        run_stage(e, stage + 1, s, n);
    free(own);
}

/* ---- added tokens ---- */

/* Length of the white space at the start of s. */
static size_t space_at_start(const uint8_t *s, size_t n) {
    size_t i = 0;
    while (i < n) {
        uint32_t k = 0, c = utf8_code(s + i, &k);
        bool space = (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
                     (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
                     c == 0x205f || c == 0x3000;
        if (!space) break;
        i += k;
    }
    return i;
}

static size_t char_before(const uint8_t *s, size_t i) {
    do i--;
    while (i > 0 && (s[i] & 0xc0) == 0x80);
    return i;
}

/* Where the white space that ends at s[end] starts, but not before `from`. */
static size_t space_before(const uint8_t *s, size_t from, size_t end) {
    while (end > from) {
        size_t i = char_before(s, end);
        if (space_at_start(s + i, end - i) == 0) break;
        end = i;
    }
    return end < from ? from : end;
}

static bool is_word(const Tokenizer *t, const uint8_t *s) {
    uint32_t k = 0;
    return charmap_get(t->word_chars, utf8_code(s, &k)) != 0;
}

/* The longest added token of list k that starts at s[i], by narrowing the sorted list byte by byte. */
static const TokAdded *added_at(const Tokenizer *t, int k, const uint8_t *s, size_t n, size_t i) {
    uint32_t low = t->added[k].first[s[i]], high = t->added[k].first[s[i] + 1];
    const TokAdded *list = t->added[k].data, *best = NULL;
    for (uint32_t depth = 1; low < high; depth++) {
        if (list[low].bytes == depth) best = &list[low++];
        if (i + depth >= n) break;
        uint8_t byte = s[i + depth];
        uint32_t a = low, b = high;
        while (a < b) {
            uint32_t mid = a + (b - a) / 2;
            if (t->pool[list[mid].start + depth] < byte)
                a = mid + 1;
            else
                b = mid;
        }
        low = a;
        b = high;
        while (a < b) {
            uint32_t mid = a + (b - a) / 2;
            if (t->pool[list[mid].start + depth] <= byte)
                a = mid + 1;
            else
                b = mid;
        }
        high = a;
    }
    return best;
}

static void encode_text(Encoder *e, int list, const uint8_t *s, size_t n);

/* What lies between tokens of the first list is normalized and searched for those of the second. */
static void encode_between(Encoder *e, int list, const uint8_t *s, size_t n) {
    uint8_t *own = NULL;
    if (n == 0 || e->no_memory) return;
    if (list == 1) {
        run_stage(e, 0, s, n);
        return;
    }
    /* Below U+0300 nothing changes; such text has no byte over 0xcb. */
    size_t i = 0;
    while ((e->t->flags & TOK_NFC) != 0 && i < n && s[i] < 0xcc) i++;
    if ((e->t->flags & TOK_NFC) != 0 && i < n) {
        own = text_to_nfc(e->t, s, n, &n);
        if (own == NULL) {
            e->no_memory = true;
            return;
        }
        s = own;
    }
    encode_text(e, 1, s, n);
    free(own);
}

static void encode_text(Encoder *e, int list, const uint8_t *s, size_t n) {
    const Tokenizer *t = e->t;
    size_t from = 0, i = 0, spaces_end = 0;
    while (i < n && t->added[list].count > 0 && !e->no_memory) {
        const TokAdded *x = added_at(t, list, s, n, i);
        if (x == NULL) {
            i++;
            continue;
        }
        size_t start = i, stop = i + x->bytes;
        i = stop;
        if ((x->flags & TOK_SINGLE_WORD) != 0 &&
            ((start > 0 && is_word(t, s + char_before(s, start))) || (stop < n && is_word(t, s + stop))))
            continue;
        if ((x->flags & TOK_LSTRIP) != 0) start = space_before(s, from, start);
        if ((x->flags & TOK_RSTRIP) != 0) {
            if (stop >= spaces_end) spaces_end = stop + space_at_start(s + stop, n - stop);
            stop = spaces_end;
        }
        if (from < start) encode_between(e, list, s + from, start - from);
        put_id(e, x->id);
        from = stop;
    }
    encode_between(e, list, s + from, from < n ? n - from : 0);
}

gptc_status tokenizer_encode(const Tokenizer *t, const char *text, size_t bytes, bool add_special,
                             int32_t *ids, size_t cap, size_t *count) {
    Encoder e = {.t = t, .ids = ids, .cap = cap};
    const uint8_t *s = (const uint8_t *)(bytes == 0 ? "" : text);
    uint8_t *own = NULL;
    size_t skip = 0;
    *count = 0;
    if (bytes > INT32_MAX / 4) return GPTC_E_ARGUMENT;
    if (bytes > 0 && utf8_check(s, bytes, &skip) < bytes) {
        own = text_repair(s, bytes, &bytes);
        if (own == NULL) return GPTC_E_MEMORY;
        s = own;
    }
    for (uint32_t i = 0; i < t->prefix_count && add_special; i++) put_id(&e, t->prefix[i]);
    encode_text(&e, 0, s, bytes);
    for (uint32_t i = 0; i < t->suffix_count && add_special; i++) put_id(&e, t->suffix[i]);
    free(own);
    free(e.space.symbols);
    free(e.space.heap);
    *count = e.count;
    return e.no_memory ? GPTC_E_MEMORY : GPTC_OK;
}
