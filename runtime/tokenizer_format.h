/* tokenizer_format.h: the TOKENIZER section, byte for byte. Written by frontend/tokenizer_blob.c, read by
 * runtime/tokenizer_load.c, which checks all of it before use.
 *
 * The section is one TokHeader followed by tables. All integers are little-endian, every table starts at
 * a multiple of 8 bytes from the start of the section, and is given as offset and count of elements. The
 * section is data only and holds all Unicode knowledge that it needs, so the runtime needs none.
 *
 * Encoding is: split off added tokens -> normalize (NFC or nothing) -> split off normalized added tokens ->
 * run the split stages in order -> byte-pair merges in every piece. */
#ifndef GPTC_TOKENIZER_FORMAT_H
#define GPTC_TOKENIZER_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#define TOK_MAGIC 0x4b545047u /* "GPTK" */
#define TOK_VERSION 1u
#define TOK_MAX_PROBE 256u /* longest search in a hash table that a reader accepts */
#define TOK_MAX_STAGES 16u
#define TOK_MAX_TOKENS (1u << 21)
#define TOK_NONE (-1)

typedef struct {
    uint32_t offset, count;
} TokTable;

enum {                        /* TokHeader.flags */
       TOK_IGNORE_MERGES = 1, /* a piece that is a whole word of the vocabulary is that token */
       TOK_FUSE_UNKNOWN = 2,  /* a run of bytes without token gives one unknown token */
       TOK_NFC = 4            /* text is normalized to NFC */
};
enum {                  /* token_flags */
       TOK_PRESENT = 1, /* the id names a token; others decode to nothing */
       TOK_SPECIAL = 2, /* left out when special tokens are skipped */
       TOK_ADDED = 4
};

/* A byte for each code point: pages[blocks[c >> 7] * 128 + (c & 127)]. */
#define TOK_BLOCKS (0x110000u >> 7)
typedef struct {
    TokTable blocks; /* uint16_t[TOK_BLOCKS], or empty: the map is not there */
    TokTable pages;  /* uint8_t[128 * pages] */
} TokCharMap;

/* One merge: left followed by right becomes result; lower ranks first. The table is a hash table of a
 * power of two slots, searched linearly from tok_hash_pair; a free slot has left = UINT32_MAX. */
typedef struct {
    uint32_t left, right, rank, result;
} TokMerge;

typedef struct {
    uint32_t start, bytes; /* the text to look for, in pool */
    int32_t id;
    uint32_t flags; /* TOK_LSTRIP... */
} TokAdded;
enum { TOK_LSTRIP = 1, TOK_RSTRIP = 2, TOK_SINGLE_WORD = 4 };

/* A stage cuts each piece where a deterministic automaton matches, leftmost first. From state s and the
 * class k of the next code point (k = classes at the end of the text), e = table[s * (classes + 1) + k]:
 * with TOK_MATCH a match ends before this code point; the next state is e & ~TOK_MATCH, 0 = stop. The
 * automaton starts in state 1. */
#define TOK_MATCH 0x8000u
typedef struct {
    uint32_t flags;    /* TOK_STAGE_... */
    uint32_t behavior; /* TokBehavior */
    uint32_t states, classes;
    TokTable table; /* uint16_t[states * (classes + 1)] */
    TokCharMap map; /* code point -> class */
} TokStage;
enum {
    TOK_STAGE_PREFIX_SPACE = 1, /* first put a space before a piece that starts with none */
    TOK_STAGE_SPLIT = 2,        /* there is an automaton */
    TOK_STAGE_INVERT = 4        /* what lies between matches counts as the match */
};
typedef enum {
    TOK_ISOLATED,
    TOK_REMOVED,
    TOK_MERGED_WITH_PREVIOUS,
    TOK_MERGED_WITH_NEXT,
    TOK_CONTIGUOUS
} TokBehavior;

typedef struct {
    uint32_t code, start, count;
} TokDecomposition; /* into nfc_pool; sorted by code */
typedef struct {
    uint32_t first, second, result;
} TokComposition; /* sorted by first, then second */

typedef struct {
    uint32_t magic, version, bytes, flags;
    uint32_t tokens;             /* ids are 0..tokens-1 */
    int32_t unknown, bos, eos;   /* ids, or TOK_NONE; bos and eos are those that the template adds */
    TokTable token_start;        /* uint32_t[tokens + 1]: where token i's bytes are in pool */
    TokTable token_flags;        /* uint8_t[tokens] */
    TokTable pool;               /* uint8_t[] */
    TokTable byte_ids;           /* int32_t[256]: the token of a single byte, or TOK_NONE */
    TokTable merges;             /* TokMerge[power of two] */
    TokTable words;              /* int32_t[power of two]: hash table of ids by their bytes, -1 = free */
    TokTable added[2];           /* TokAdded[], sorted by text: looked for before, after normalizing */
    TokTable prefix, suffix;     /* int32_t[]: ids that the template adds around a text */
    TokTable stages;             /* TokStage[] */
    TokCharMap word_chars;       /* 1 = \w, for tokens with TOK_SINGLE_WORD */
    TokCharMap nfc_class;        /* canonical combining class */
    TokTable nfc_pool;           /* uint32_t[]: code points */
    TokTable nfc_decompositions; /* TokDecomposition[], full canonical ones, Hangul left out */
    TokTable nfc_compositions;   /* TokComposition[], Hangul left out */
} TokHeader;

_Static_assert(sizeof(TokMerge) == 16, "file format");
_Static_assert(sizeof(TokAdded) == 16, "file format");
_Static_assert(sizeof(TokStage) == 40, "file format");
_Static_assert(sizeof(TokHeader) == 176, "file format");

static inline uint32_t tok_mix(uint32_t h) {
    h ^= h >> 15;
    h *= 0x2c1b3c6du;
    h ^= h >> 12;
    h *= 0x297a2d39u;
    return h ^ (h >> 15);
}
static inline uint32_t tok_hash_pair(uint32_t left, uint32_t right) {
    return tok_mix(left * 0x9e3779b1u + right * 0x85ebca77u + (right >> 16));
}
static inline uint32_t tok_hash_bytes(const uint8_t *data, size_t bytes) {
    uint32_t h = 0x811c9dc5u;
    for (size_t i = 0; i < bytes; i++) h = (h ^ data[i]) * 0x01000193u;
    return tok_mix(h);
}

#endif
