/* tokenizer_load.c: opens a TOKENIZER section. The section is untrusted: every offset, count, id, state
 * and class is checked here, once, so that encoding and decoding index without further checks. */
#include "runtime/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const uint8_t *data;
    size_t bytes;
    Tokenizer *t;
    const char *why;
} Loader;

static bool fail(Loader *l, const char *why) {
    l->why = why;
    return false;
}

static bool table(Loader *l, TokTable at, size_t size, const void **out) {
    *out = NULL;
    if (at.count == 0) return true;
    if (at.offset % 8 != 0 || at.offset > l->bytes || at.count > (l->bytes - at.offset) / size)
        return fail(l, "a table lies outside the tokenizer section");
    *out = l->data + at.offset;
    return true;
}

static bool ids_ok(const Tokenizer *t, const int32_t *ids, uint32_t n, bool none_allowed) {
    for (uint32_t i = 0; i < n; i++) {
        if (none_allowed && ids[i] == TOK_NONE) continue;
        if (ids[i] < 0 || (uint32_t)ids[i] >= t->tokens) return false;
    }
    return true;
}

static bool id_table(Loader *l, TokTable at, bool none_allowed, const int32_t **out) {
    const void *p = NULL;
    if (!table(l, at, sizeof(int32_t), &p)) return false;
    *out = p;
    return ids_ok(l->t, *out, at.count, none_allowed) || fail(l, "a token id is out of range");
}

/* Values of the map must be below limit. */
static bool load_map(Loader *l, const TokCharMap *m, uint32_t limit, CharMap *out) {
    const void *blocks = NULL, *pages = NULL;
    if (m->blocks.count == 0) return true;
    if (m->blocks.count != TOK_BLOCKS || m->pages.count == 0 || m->pages.count % 128 != 0 ||
        !table(l, m->blocks, sizeof(uint16_t), &blocks) || !table(l, m->pages, 1, &pages))
        return fail(l, "a character map is damaged");
    *out = (CharMap){blocks, pages};
    for (uint32_t i = 0; i < TOK_BLOCKS; i++)
        if (out->blocks[i] >= m->pages.count / 128) return fail(l, "a character map is damaged");
    for (uint32_t i = 0; i < m->pages.count; i++)
        if (out->pages[i] >= limit) return fail(l, "a character map is damaged");
    return true;
}

static bool load_tokens(Loader *l, const TokHeader *h) {
    Tokenizer *t = l->t;
    const void *start = NULL, *flags = NULL, *pool = NULL;
    if (h->tokens == 0 || h->tokens > TOK_MAX_TOKENS) return fail(l, "bad number of tokens");
    t->tokens = h->tokens;
    if (h->token_start.count != h->tokens + 1 || h->token_flags.count != h->tokens ||
        h->byte_ids.count != 256)
        return fail(l, "a token table has the wrong size");
    if (!table(l, h->token_start, sizeof(uint32_t), &start) || !table(l, h->token_flags, 1, &flags) ||
        !table(l, h->pool, 1, &pool))
        return false;
    t->token_start = start;
    t->token_flags = flags;
    t->pool = pool;
    for (uint32_t i = 0; i < h->tokens; i++)
        if (t->token_start[i] > t->token_start[i + 1]) return fail(l, "token texts are out of order");
    if (t->token_start[h->tokens] > h->pool.count) return fail(l, "a token text lies outside its pool");
    const int32_t three[] = {h->unknown, h->bos, h->eos};
    if (!ids_ok(t, three, 3, true)) return fail(l, "a token id is out of range");
    t->unknown = h->unknown;
    t->bos = h->bos;
    t->eos = h->eos;
    t->prefix_count = h->prefix.count;
    t->suffix_count = h->suffix.count;
    return id_table(l, h->byte_ids, true, &t->byte_ids) && id_table(l, h->prefix, false, &t->prefix) &&
           id_table(l, h->suffix, false, &t->suffix);
}

static bool power_of_two(uint32_t n) { return n != 0 && (n & (n - 1)) == 0; }

static bool load_hashes(Loader *l, const TokHeader *h) {
    Tokenizer *t = l->t;
    const void *merges = NULL;
    if (!power_of_two(h->merges.count) || !power_of_two(h->words.count))
        return fail(l, "a hash table has the wrong size");
    if (!table(l, h->merges, sizeof(TokMerge), &merges) || !id_table(l, h->words, true, &t->words))
        return false;
    t->merges = merges;
    t->merge_mask = h->merges.count - 1;
    t->word_mask = h->words.count - 1;
    for (uint32_t i = 0; i < h->merges.count; i++) {
        const TokMerge *m = &t->merges[i];
        if (m->left != UINT32_MAX &&
            (m->left >= h->tokens || m->right >= h->tokens || m->result >= h->tokens))
            return fail(l, "a merge names a token id out of range");
    }
    return true;
}

static bool load_added(Loader *l, const TokHeader *h, int k) {
    Tokenizer *t = l->t;
    const void *p = NULL;
    if (!table(l, h->added[k], sizeof(TokAdded), &p)) return false;
    const TokAdded *list = p;
    uint32_t n = h->added[k].count;
    t->added[k].data = list;
    t->added[k].count = n;
    for (uint32_t i = 0; i < n; i++) {
        const TokAdded *x = &list[i];
        size_t skip = 0;
        if (x->bytes == 0 || x->start > h->pool.count || x->bytes > h->pool.count - x->start)
            return fail(l, "an added token lies outside its pool");
        if (!ids_ok(t, &x->id, 1, false)) return fail(l, "a token id is out of range");
        /* Cutting at added tokens must leave whole characters. */
        if (utf8_check(t->pool + x->start, x->bytes, &skip) != x->bytes)
            return fail(l, "an added token is not UTF-8");
        if (i > 0) {
            uint32_t less = x[-1].bytes < x->bytes ? x[-1].bytes : x->bytes;
            int order = memcmp(t->pool + x[-1].start, t->pool + x->start, less);
            if (order > 0 || (order == 0 && x[-1].bytes >= x->bytes))
                return fail(l, "added tokens are out of order");
        }
        /* Counts per first byte; summed up below. */
        t->added[k].first[t->pool[x->start] + 1]++;
        if ((x->flags & TOK_SINGLE_WORD) != 0 && t->word_chars.blocks == NULL)
            return fail(l, "there is no map of word characters");
    }
    for (int b = 0; b < 256; b++) t->added[k].first[b + 1] += t->added[k].first[b];
    return true;
}

static bool load_stages(Loader *l, const TokHeader *h) {
    Tokenizer *t = l->t;
    const void *p = NULL;
    if (h->stages.count > TOK_MAX_STAGES || !table(l, h->stages, sizeof(TokStage), &p))
        return fail(l, "the split stages are damaged");
    const TokStage *list = p;
    t->stage_count = h->stages.count;
    for (uint32_t i = 0; i < t->stage_count; i++) {
        const TokStage *s = &list[i];
        Stage *out = &t->stages[i];
        *out = (Stage){.flags = s->flags, .behavior = s->behavior, .classes = s->classes};
        if (s->behavior > TOK_CONTIGUOUS) return fail(l, "a split behavior is unknown");
        if ((s->flags & TOK_STAGE_SPLIT) == 0) continue;
        if (s->states < 2 || s->states > TOK_MATCH || s->classes == 0 || s->classes > 255 ||
            s->map.blocks.count == 0 || s->table.count != s->states * (s->classes + 1) ||
            !table(l, s->table, sizeof(uint16_t), &p) || !load_map(l, &s->map, s->classes, &out->map))
            return fail(l, "a split automaton is damaged");
        out->table = p;
        for (uint32_t c = 0; c < s->table.count; c++)
            if ((out->table[c] & ~TOK_MATCH) >= s->states) return fail(l, "a split automaton is damaged");
        /* A match of nothing would not move on. */
        for (uint32_t c = 0; c <= s->classes; c++)
            if ((out->table[s->classes + 1 + c] & TOK_MATCH) != 0)
                return fail(l, "a split automaton is damaged");
    }
    return true;
}

static bool code_ok(uint32_t c) { return c <= 0x10ffff && (c < 0xd800 || c > 0xdfff); }

static bool load_nfc(Loader *l, const TokHeader *h) {
    Tokenizer *t = l->t;
    const void *pool = NULL, *apart = NULL, *together = NULL;
    if ((h->flags & TOK_NFC) == 0) return true;
    if (h->nfc_class.blocks.count == 0 || !load_map(l, &h->nfc_class, 256, &t->nfc_class) ||
        !table(l, h->nfc_pool, sizeof(uint32_t), &pool) ||
        !table(l, h->nfc_decompositions, sizeof(TokDecomposition), &apart) ||
        !table(l, h->nfc_compositions, sizeof(TokComposition), &together))
        return fail(l, "the normalization tables are damaged");
    t->nfc_pool = pool;
    t->apart = apart;
    t->apart_count = h->nfc_decompositions.count;
    t->together = together;
    t->together_count = h->nfc_compositions.count;
    bool ok = true;
    for (uint32_t i = 0; i < h->nfc_pool.count; i++) ok = ok && code_ok(t->nfc_pool[i]);
    for (uint32_t i = 0; i < t->apart_count; i++) {
        const TokDecomposition *d = &t->apart[i];
        ok = ok && d->count >= 1 && d->count <= 8 && d->start <= h->nfc_pool.count &&
             d->count <= h->nfc_pool.count - d->start;
    }
    for (uint32_t i = 0; i < t->together_count; i++) ok = ok && code_ok(t->together[i].result);
    return ok || fail(l, "the normalization tables are damaged");
}

static gptc_status load(Loader *l) {
    TokHeader h;
    if (l->bytes < sizeof(h)) return fail(l, "the tokenizer section is too short"), GPTC_E_FORMAT;
    memcpy(&h, l->data, sizeof(h));
    if (h.magic != TOK_MAGIC) return fail(l, "not a tokenizer section"), GPTC_E_FORMAT;
    if (h.version != TOK_VERSION) {
        fail(l, "the tokenizer section has another version");
        return GPTC_E_VERSION;
    }
    if (h.bytes > l->bytes) return fail(l, "the tokenizer section is cut short"), GPTC_E_FORMAT;
    l->bytes = h.bytes;
    l->t->flags = h.flags;
    bool ok = load_tokens(l, &h) && load_hashes(l, &h) && load_map(l, &h.word_chars, 2, &l->t->word_chars) &&
              load_added(l, &h, 0) && load_added(l, &h, 1) && load_stages(l, &h) && load_nfc(l, &h);
    return ok ? GPTC_OK : GPTC_E_FORMAT;
}

gptc_status tokenizer_open(const void *section, size_t bytes, Tokenizer **out, const char **why) {
    Loader l = {.data = section, .bytes = bytes, .t = calloc(1, sizeof(Tokenizer)), .why = "no memory"};
    gptc_status status = GPTC_E_MEMORY;
    *out = NULL;
    if (l.t != NULL && bytes > 0 && (uintptr_t)section % 8 != 0) {
        l.t->copy = malloc(bytes);
        if (l.t->copy != NULL) memcpy(l.t->copy, section, bytes);
        l.data = l.t->copy;
    }
    if (l.t != NULL && (l.data != NULL || bytes == 0)) status = load(&l);
    if (status == GPTC_OK)
        *out = l.t;
    else
        tokenizer_close(l.t);
    if (why != NULL) *why = status == GPTC_OK ? "" : l.why;
    return status;
}

void tokenizer_close(Tokenizer *t) {
    if (t == NULL) return;
    free(t->copy);
    free(t);
}

int32_t tokenizer_vocab(const Tokenizer *t) { return (int32_t)t->tokens; }
int32_t tokenizer_bos(const Tokenizer *t) { return t->bos; }
int32_t tokenizer_eos(const Tokenizer *t) { return t->eos; }

bool tokenizer_is_special(const Tokenizer *t, int32_t id) {
    return id >= 0 && (uint32_t)id < t->tokens && (t->token_flags[id] & TOK_SPECIAL) != 0;
}

const char *tokenizer_token(const Tokenizer *t, int32_t id, bool skip_special, size_t *bytes) {
    *bytes = 0;
    if (id < 0 || (uint32_t)id >= t->tokens || (t->token_flags[id] & TOK_PRESENT) == 0) return "";
    if (skip_special && (t->token_flags[id] & TOK_SPECIAL) != 0) return "";
    *bytes = t->token_start[id + 1] - t->token_start[id];
    return (const char *)t->pool + t->token_start[id];
}

size_t tokenizer_decode_token(const Tokenizer *t, int32_t id, bool skip_special, char *out, size_t cap) {
    size_t n;
    const char *bytes = tokenizer_token(t, id, skip_special, &n);
    if (n > 0 && cap > 0) memcpy(out, bytes, n < cap ? n : cap);
    return n;
}

int32_t word_find(const Tokenizer *t, const uint8_t *s, size_t n) {
    uint32_t slot = tok_hash_bytes(s, n) & t->word_mask;
    for (uint32_t probe = 0; probe < TOK_MAX_PROBE && t->words[slot] >= 0; probe++) {
        int32_t id = t->words[slot];
        if (t->token_start[id + 1] - t->token_start[id] == n &&
            (n == 0 || memcmp(t->pool + t->token_start[id], s, n) == 0))
            return id;
        slot = (slot + 1) & t->word_mask;
    }
    return TOK_NONE;
}

int32_t tokenizer_find(const Tokenizer *t, const char *text, size_t bytes) {
    for (int k = 0; k < 2; k++)
        for (uint32_t i = 0; i < t->added[k].count; i++) {
            const TokAdded *x = &t->added[k].data[i];
            if (x->bytes == bytes && memcmp(t->pool + x->start, text, bytes) == 0) return x->id;
        }
    return word_find(t, (const uint8_t *)text, bytes);
}
