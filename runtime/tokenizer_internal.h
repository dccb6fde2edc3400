/* tokenizer_internal.h: an opened tokenizer, shared by the files of the tokenizer. */
#ifndef GPTC_TOKENIZER_INTERNAL_H
#define GPTC_TOKENIZER_INTERNAL_H

#include "runtime/tokenizer.h"
#include "runtime/tokenizer_format.h"

typedef struct {
    const uint16_t *blocks;
    const uint8_t *pages;
} CharMap; /* blocks NULL: no map */

typedef struct {
    uint32_t flags, behavior, classes;
    const uint16_t *table;
    CharMap map;
} Stage;

/* Pointers into the section, all checked by tokenizer_open. */
struct Tokenizer {
    void *copy; /* of a section that was not aligned */
    uint32_t flags, tokens;
    int32_t unknown, bos, eos;
    const uint32_t *token_start;
    const uint8_t *token_flags, *pool;
    const int32_t *byte_ids;
    const TokMerge *merges;
    uint32_t merge_mask;
    const int32_t *words;
    uint32_t word_mask;
    struct {
        const TokAdded *data;
        uint32_t count;
        uint32_t first[257]; /* those that start with byte b are first[b]..first[b + 1] - 1 */
    } added[2];
    const int32_t *prefix, *suffix;
    uint32_t prefix_count, suffix_count;
    Stage stages[TOK_MAX_STAGES];
    uint32_t stage_count;
    CharMap word_chars, nfc_class;
    const uint32_t *nfc_pool;
    const TokDecomposition *apart;
    uint32_t apart_count;
    const TokComposition *together;
    uint32_t together_count;
};

static inline uint8_t charmap_get(CharMap m, uint32_t code) {
    return m.pages[(uint32_t)m.blocks[code >> 7] * 128 + (code & 127)];
}

/* One code point of well-formed UTF-8; *n is its length. */
static inline uint32_t utf8_code(const uint8_t *s, uint32_t *n) {
    if (s[0] < 0x80) return *n = 1, s[0];
    if (s[0] < 0xe0) return *n = 2, (s[0] & 0x1fu) << 6 | (s[1] & 0x3fu);
    if (s[0] < 0xf0) return *n = 3, (s[0] & 0xfu) << 12 | (s[1] & 0x3fu) << 6 | (s[2] & 0x3fu);
    *n = 4;
    return (s[0] & 7u) << 18 | (s[1] & 0x3fu) << 12 | (s[2] & 0x3fu) << 6 | (s[3] & 0x3fu);
}

/* tokenize_text.c: both return malloc'ed text, or NULL without memory. */

/* Length of the well-formed text at s, 0 if it starts ill-formed; *skip is then the length of the maximal
 * ill-formed part. */
size_t utf8_check(const uint8_t *s, size_t n, size_t *skip);
uint8_t *text_repair(const uint8_t *s, size_t n, size_t *out); /* ill-formed parts become U+FFFD */
uint8_t *text_to_nfc(const Tokenizer *t, const uint8_t *s, size_t n, size_t *out);

/* tokenize_merge.c: byte-pair merges in one piece. Its memory grows with the longest piece. */
typedef struct {
    int32_t id;
    int32_t before, after;
} Symbol; /* after = -1: last; id = -1: merged away */
typedef struct {
    uint32_t rank, at, result;
} Candidate;
typedef struct {
    Symbol *symbols;
    Candidate *heap;
    size_t symbol_cap, heap_cap, heap_count;
} MergeSpace;
/* Calls emit for each id in order; false: no memory. */
typedef void (*EmitFn)(void *user, int32_t id);
bool merge_piece(const Tokenizer *t, MergeSpace *space, const uint8_t *s, size_t n, EmitFn emit, void *user);
int32_t word_find(const Tokenizer *t, const uint8_t *s, size_t n); /* a word of the vocabulary, or -1 */

#endif
