/* tokenizer_blob.c: lays out the TOKENIZER section (runtime/tokenizer_format.h): hash tables, two-level
 * maps of code points, and the tables that NFC needs. */
#include "frontend/tokenizer_private.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define HANGUL_FIRST 0xac00u
#define HANGUL_LAST 0xd7a3u

typedef struct {
    Arena *arena;
    VEC(uint8_t) bytes;
    bool overflow;
} Out;

static void out_bytes(Out *o, const void *data, size_t n) {
    while (o->bytes.cap - o->bytes.count < n)
        o->bytes.data = vec_grow(o->arena, o->bytes.data, o->bytes.cap, &o->bytes.cap, 1);
    if (n > 0) memcpy(o->bytes.data + o->bytes.count, data, n);
    o->bytes.count += n;
    if (o->bytes.count > UINT32_MAX / 2) o->overflow = true;
}

static TokTable out_table(Out *o, const void *data, size_t count, size_t size) {
    static const uint8_t zeros[8] = {0};
    out_bytes(o, zeros, (8 - o->bytes.count % 8) % 8);
    TokTable t = {(uint32_t)o->bytes.count, (uint32_t)count};
    out_bytes(o, data, count * size);
    return t;
}

static TokCharMap out_map(Out *o, const uint8_t *value) {
    uint16_t *blocks = arena_array_of(o->arena, TOK_BLOCKS, uint16_t);
    uint8_t *pages = arena_alloc(o->arena, (size_t)CODE_MAX + 1);
    uint32_t count = 0;
    for (uint32_t b = 0; b < TOK_BLOCKS; b++) {
        const uint8_t *block = value + (size_t)b * 128;
        uint32_t page = 0;
        /* Most blocks equal the one before or one of the first; looking from the end is quick. */
        for (page = count; page-- > 0;)
            if (memcmp(pages + (size_t)page * 128, block, 128) == 0) break;
        if (page == UINT32_MAX) {
            page = count++;
            memcpy(pages + (size_t)page * 128, block, 128);
        }
        blocks[b] = (uint16_t)page;
    }
    TokCharMap map = {out_table(o, blocks, TOK_BLOCKS, 2), {0, 0}};
    map.pages = out_table(o, pages, (size_t)count * 128, 1);
    return map;
}

/* Fills a hash table of `slots`; false when a search would be longer than readers accept. */
static bool fill_merges(const MergeList *list, TokMerge *table, uint32_t slots) {
    memset(table, 0xff, slots * sizeof(TokMerge));
    for (size_t i = 0; i < list->count; i++) {
        TokMerge m = list->data[i];
        uint32_t slot = tok_hash_pair(m.left, m.right) & (slots - 1), probe = 1;
        for (; table[slot].left != UINT32_MAX; slot = (slot + 1) & (slots - 1))
            if (++probe > TOK_MAX_PROBE) return false;
        table[slot] = m;
    }
    return true;
}

static bool fill_words(const TokenizerSpec *spec, int32_t *table, uint32_t slots) {
    memset(table, 0xff, slots * sizeof(int32_t));
    for (size_t i = 0; i < spec->tokens.count; i++) {
        const TokenSpec *t = &spec->tokens.data[i];
        if (!t->word) continue;
        uint32_t slot = tok_hash_bytes(t->data, t->bytes) & (slots - 1), probe = 1;
        for (; table[slot] >= 0; slot = (slot + 1) & (slots - 1))
            if (++probe > TOK_MAX_PROBE) return false;
        table[slot] = (int32_t)i;
    }
    return true;
}

static uint32_t slots_for(size_t count) {
    uint32_t slots = 8;
    while (slots < count + count / 2) slots *= 2;
    return slots;
}

static bool out_hashes(Out *o, const TokenizerSpec *spec, TokHeader *h, Loc loc, Diag *d) {
    size_t words = 0;
    for (size_t i = 0; i < spec->tokens.count; i++) words += spec->tokens.data[i].word ? 1 : 0;
    uint32_t merge_slots = slots_for(spec->merges.count), word_slots = slots_for(words);
    TokMerge *merges = NULL;
    int32_t *ids = NULL;
    for (int tries = 0;; tries++, merge_slots *= 2) {
        merges = arena_array_of(o->arena, merge_slots, TokMerge);
        if (fill_merges(&spec->merges, merges, merge_slots)) break;
        if (tries == 3) return diag_error(d, loc, "the merges do not fit a hash table");
    }
    for (int tries = 0;; tries++, word_slots *= 2) {
        ids = arena_array_of(o->arena, word_slots, int32_t);
        if (fill_words(spec, ids, word_slots)) break;
        if (tries == 3) return diag_error(d, loc, "the vocabulary does not fit a hash table");
    }
    h->merges = out_table(o, merges, merge_slots, sizeof(TokMerge));
    h->words = out_table(o, ids, word_slots, sizeof(int32_t));
    return true;
}

static int compare_added(const void *x, const void *y) {
    const AddedSpec *a = x, *b = y;
    int c = memcmp(a->text, b->text, a->bytes < b->bytes ? a->bytes : b->bytes);
    return c != 0 ? c : (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

/* Token bytes in a row, and then the texts of added tokens, in one pool. */
static void out_texts(Out *o, const TokenizerSpec *spec, TokHeader *h) {
    Arena *a = o->arena;
    size_t n = spec->tokens.count;
    uint32_t *start = arena_array_of(a, n + 1, uint32_t);
    uint8_t *flags = arena_alloc(a, n);
    VEC(TokAdded) added[2] = {{0}, {0}};
    Text pool = text_new(a);
    for (size_t i = 0; i < n; i++) {
        const TokenSpec *t = &spec->tokens.data[i];
        start[i] = (uint32_t)pool.count;
        flags[i] = t->flags;
        text_addn(&pool, (const char *)t->data, t->bytes);
    }
    start[n] = (uint32_t)pool.count;
    for (int k = 0; k < 2; k++) {
        size_t count = spec->added[k].count;
        AddedSpec *sorted = arena_dup(a, spec->added[k].data, count * sizeof(AddedSpec));
        qsort(sorted, count, sizeof(AddedSpec), compare_added);
        for (size_t i = 0; i < count; i++) {
            TokAdded t = {(uint32_t)pool.count, sorted[i].bytes, sorted[i].id, sorted[i].flags};
            VEC_PUSH(a, &added[k], t);
            text_addn(&pool, sorted[i].text, sorted[i].bytes);
        }
        h->added[k] = out_table(o, added[k].data, count, sizeof(TokAdded));
    }
    h->token_start = out_table(o, start, n + 1, sizeof(uint32_t));
    h->token_flags = out_table(o, flags, n, 1);
    h->pool = out_table(o, pool.data, pool.count, 1);
}

static int compare_composition(const void *x, const void *y) {
    const TokComposition *a = x, *b = y;
    if (a->first != b->first) return a->first < b->first ? -1 : 1;
    return (a->second > b->second) - (a->second < b->second);
}

/* From utf8proc: full canonical decompositions, and the pairs that compose again. A character composes
 * when NFC of its own decomposition gives it back; the pair is its first step, found by composing all
 * but the last code point. */
static void out_nfc(Out *o, TokHeader *h) {
    Arena *a = o->arena;
    uint8_t *class = arena_alloc(a, (size_t)CODE_MAX + 1);
    VEC(uint32_t) pool = {0};
    VEC(TokDecomposition) apart = {0};
    VEC(TokComposition) together = {0};
    for (uint32_t c = 0; c <= CODE_MAX; c++) {
        utf8proc_int32_t code = (utf8proc_int32_t)c, parts[32];
        const utf8proc_property_t *p = utf8proc_get_property(code);
        class[c] = (uint8_t)p->combining_class;
        if ((c >= 0xd800 && c <= 0xdfff) || (c >= HANGUL_FIRST && c <= HANGUL_LAST)) continue;
        int boundary = 0;
        utf8proc_ssize_t n =
            utf8proc_decompose_char(code, parts, (utf8proc_ssize_t)COUNT_OF(parts),
                                    (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &boundary);
        if (n <= 0 || n > (utf8proc_ssize_t)COUNT_OF(parts) || (n == 1 && parts[0] == code)) continue;
        TokDecomposition t = {c, (uint32_t)pool.count, (uint32_t)n};
        VEC_PUSH(a, &apart, t);
        for (utf8proc_ssize_t i = 0; i < n; i++) VEC_PUSH(a, &pool, (uint32_t)parts[i]);
        utf8proc_int32_t last = parts[n - 1];
        utf8proc_option_t compose = (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        utf8proc_ssize_t head = n == 1 ? 0 : utf8proc_normalize_utf32(parts, n - 1, compose);
        if (head != 1) continue;
        utf8proc_int32_t first = parts[0];
        parts[1] = last;
        if (utf8proc_normalize_utf32(parts, 2, compose) != 1 || parts[0] != code) continue;
        TokComposition pair = {(uint32_t)first, (uint32_t)last, c};
        VEC_PUSH(a, &together, pair);
    }
    qsort(together.data, together.count, sizeof(TokComposition), compare_composition);
    h->nfc_class = out_map(o, class);
    h->nfc_pool = out_table(o, pool.data, pool.count, sizeof(uint32_t));
    h->nfc_decompositions = out_table(o, apart.data, apart.count, sizeof(TokDecomposition));
    h->nfc_compositions = out_table(o, together.data, together.count, sizeof(TokComposition));
}

static void out_word_chars(Out *o, TokHeader *h) {
    CodeSet word = {0};
    uint8_t *value = arena_alloc(o->arena, (size_t)CODE_MAX + 1);
    codeset_add_word(o->arena, &word);
    for (size_t i = 0; i < word.count; i++)
        memset(value + word.data[i].first, 1, word.data[i].last - word.data[i].first + 1);
    h->word_chars = out_map(o, value);
}

bool tokenizer_write(Arena *a, const TokenizerSpec *spec, Loc loc, TokenizerBlob *out, Diag *d) {
    Out o = {.arena = a};
    TokHeader h = {.magic = TOK_MAGIC,
                   .version = TOK_VERSION,
                   .flags = spec->flags,
                   .tokens = (uint32_t)spec->tokens.count,
                   .unknown = spec->unknown,
                   .bos = TOK_NONE,
                   .eos = TOK_NONE};
    bool single_word = false;
    if (spec->prefix.count > 0) h.bos = spec->prefix.data[0];
    if (spec->suffix.count > 0) h.eos = spec->suffix.data[spec->suffix.count - 1];
    out_bytes(&o, &h, sizeof(h));
    out_texts(&o, spec, &h);
    h.byte_ids = out_table(&o, spec->byte_ids, 256, sizeof(int32_t));
    if (!out_hashes(&o, spec, &h, loc, d)) return false;
    h.prefix = out_table(&o, spec->prefix.data, spec->prefix.count, sizeof(int32_t));
    h.suffix = out_table(&o, spec->suffix.data, spec->suffix.count, sizeof(int32_t));
    TokStage stages[TOK_MAX_STAGES] = {0};
    for (size_t i = 0; i < spec->stages.count; i++) {
        const SplitStage *s = &spec->stages.data[i];
        stages[i] = (TokStage){
            .flags = s->flags, .behavior = s->behavior, .states = s->states, .classes = s->classes};
        if ((s->flags & TOK_STAGE_SPLIT) == 0) continue;
        stages[i].table = out_table(&o, s->table, (size_t)s->states * (s->classes + 1), sizeof(uint16_t));
        stages[i].map = out_map(&o, s->map.value);
    }
    h.stages = out_table(&o, stages, spec->stages.count, sizeof(TokStage));
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < spec->added[k].count; i++)
            single_word = single_word || (spec->added[k].data[i].flags & TOK_SINGLE_WORD) != 0;
    if (single_word) out_word_chars(&o, &h);
    if ((spec->flags & TOK_NFC) != 0) out_nfc(&o, &h);
    if (o.overflow) return diag_error(d, loc, "the tokenizer is too large (over 2 GiB)");
    h.bytes = (uint32_t)o.bytes.count;
    memcpy(o.bytes.data, &h, sizeof(h));
    out->data = o.bytes.data;
    out->bytes = o.bytes.count;
    return true;
}
