/* test_tokenizer.c: the tokenizer against what PyPI's `tokenizers` stored (tests/tokenizer, made by
 * make_fixture.py), refusals by name, damaged sections, and time on long texts. */
#include "frontend/tokenizer.h"
#include "ir/base/base.h"
#include "runtime/tokenizer.h"
#include "runtime/tokenizer_format.h"
#include "tests/unit/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOLDER GPTC_SOURCE_DIR "/tests/tokenizer/"

/* ---- helpers ---- */

typedef struct {
    Arena *arena;
    Diag diag;
    TokenizerBlob blob;
    Tokenizer *t;
} Fixture;

static bool compile_text(Fixture *f, const char *json, size_t bytes) {
    f->arena = arena_new();
    f->t = NULL;
    diag_init(&f->diag);
    if (!tokenizer_compile("tokenizer.json", (const uint8_t *)json, bytes, f->arena, &f->blob, &f->diag))
        return false;
    const char *why = NULL;
    if (tokenizer_open(f->blob.data, f->blob.bytes, &f->t, &why) == GPTC_OK) return true;
    printf("open: %s\n", why);
    return false;
}

static void fixture_free(Fixture *f) {
    tokenizer_close(f->t);
    diag_free(&f->diag);
    arena_free(f->arena);
}

static FileView load(const char *name) {
    Diag d;
    char path[512];
    FileView v = {0};
    diag_init(&d);
    snprintf(path, sizeof(path), "%s%s", FOLDER, name);
    CU_ASSERT_FATAL(file_map(path, &v, &d));
    diag_free(&d);
    return v;
}

static void print_errors(const Fixture *f) {
    for (size_t i = 0; i < f->diag.items.count; i++) printf("%s\n", f->diag.items.data[i].text);
}

typedef struct {
    const uint8_t *p, *end;
} Reader;

static size_t read_number(Reader *r) {
    size_t n = 0;
    for (int shift = 0; r->p < r->end && shift < 35; shift += 7) {
        uint8_t b = *r->p++;
        n |= (size_t)(b & 127) << shift;
        if (b < 128) break;
    }
    return n;
}

static const char *read_string(Reader *r, size_t *n) {
    *n = read_number(r);
    CU_ASSERT_FATAL(*n <= (size_t)(r->end - r->p));
    const char *s = (const char *)r->p;
    r->p += *n;
    return s;
}

/* Decoded bytes as text, the way the library shows them: ill-formed parts become U+FFFD. */
static size_t lossy(const uint8_t *s, size_t n, char *out) {
    size_t count = 0;
    for (size_t i = 0; i < n;) {
        size_t need = s[i] < 0x80   ? 1
                      : s[i] < 0xc2 ? 0
                      : s[i] < 0xe0 ? 2
                      : s[i] < 0xf0 ? 3
                      : s[i] < 0xf5 ? 4
                                    : 0;
        size_t k = 1;
        bool ok = need > 0;
        for (; ok && k < need; k++) {
            if (i + k >= n) {
                ok = false;
                break;
            }
            uint8_t c = s[i + k], low = 0x80, high = 0xbf;
            if (k == 1 && s[i] == 0xe0) low = 0xa0;
            if (k == 1 && s[i] == 0xed) high = 0x9f;
            if (k == 1 && s[i] == 0xf0) low = 0x90;
            if (k == 1 && s[i] == 0xf4) high = 0x8f;
            if (c < low || c > high) {
                ok = false;
                break;
            }
        }
        if (ok)
            memcpy(out + count, s + i, need), count += need;
        else
            memcpy(out + count, "\xef\xbf\xbd", 3), count += 3;
        i += k;
    }
    return count;
}

enum { MOST = 1 << 16 };
typedef struct {
    int32_t ids[MOST];
    char bytes[MOST], text[MOST * 3];
} Space;

/* One 'E' record; false when encoding or decoding differs. */
static bool check_record(const Tokenizer *t, Reader *r, Space *sp) {
    size_t bytes = 0, count = 0, flags = read_number(r), total = 0, want_bytes = 0;
    const char *text = read_string(r, &bytes);
    size_t want = read_number(r);
    bool same = true;
    gptc_status st = tokenizer_encode(t, text, bytes, (flags & 2) != 0, sp->ids, MOST, &count);
    CU_ASSERT_FATAL(st == GPTC_OK && count <= MOST);
    for (size_t i = 0; i < want; i++) {
        int32_t expect = (int32_t)read_number(r);
        same = same && i < count && sp->ids[i] == expect;
        total += tokenizer_decode_token(t, expect, (flags & 4) != 0, sp->bytes + total, MOST - total);
        CU_ASSERT_FATAL(total <= MOST);
    }
    same = same && count == want;
    const char *decoded = text;
    want_bytes = bytes;
    if ((flags & 1) != 0) decoded = read_string(r, &want_bytes);
    size_t got = lossy((const uint8_t *)sp->bytes, total, sp->text);
    bool decodes = got == want_bytes && memcmp(sp->text, decoded, got) == 0;
    if (!same || !decodes) printf("\n  %s: \"%.*s\"\n", same ? "decode" : "encode", (int)bytes, text);
    return same && decodes;
}

/* Puts another pre-tokenizer in place of the first one of a tokenizer.json. */
static char *with_pre_tokenizer(FileView json, const char *pre, size_t n, size_t *bytes) {
    char *text = calloc(json.bytes + n + 1, 1);
    CU_ASSERT_FATAL(text != NULL);
    memcpy(text, json.data, json.bytes);
    char *at = strstr(text, "\"pre_tokenizer\":"), *end = strstr(text, ",\"post_processor\":");
    CU_ASSERT_FATAL(at != NULL && end != NULL && end > at);
    at += strlen("\"pre_tokenizer\":");
    size_t tail = json.bytes - (size_t)(end - text);
    memmove(at + n, end, tail);
    memcpy(at, pre, n);
    *bytes = (size_t)(at - text) + n + tail;
    return text;
}

static void check_fixture(const char *json_name, const char *bin_name, size_t least) {
    FileView json = load(json_name), bin = load(bin_name);
    Reader r = {bin.data + 4, bin.data + bin.bytes};
    Space *sp = malloc(sizeof(Space));
    Fixture f;
    size_t records = 0, wrong = 0;
    CU_ASSERT_FATAL(sp != NULL && bin.bytes > 4 && memcmp(bin.data, "TKFX", 4) == 0);
    bool ok = compile_text(&f, (const char *)json.data, json.bytes);
    print_errors(&f);
    CU_ASSERT_FATAL(ok);
    while (r.p < r.end) {
        uint8_t kind = *r.p++;
        if (kind == 'P') {
            size_t n = 0, bytes = 0;
            const char *pre = read_string(&r, &n);
            char *text = with_pre_tokenizer(json, pre, n, &bytes);
            fixture_free(&f);
            ok = compile_text(&f, text, bytes);
            print_errors(&f);
            free(text);
            CU_ASSERT_FATAL(ok);
        } else {
            CU_ASSERT_FATAL(kind == 'E');
            records++;
            wrong += check_record(f.t, &r, sp) ? 0 : 1;
        }
    }
    if (wrong > 0) printf("  %s: %zu of %zu differ\n", bin_name, wrong, records);
    CU_ASSERT(wrong == 0);
    CU_ASSERT(records >= least);
    fixture_free(&f);
    free(sp);
    file_unmap(&json);
    file_unmap(&bin);
}

static void test_shk(void) { check_fixture("shk.json", "shk.bin", 10000); }
static void test_llama3(void) { check_fixture("llama3.json", "llama3.bin", 2000); }
static void test_qwen2(void) { check_fixture("qwen2.json", "qwen2.bin", 2000); }
static void test_options(void) { check_fixture("options.json", "options.bin", 2000); }
static void test_patterns(void) { check_fixture("llama3.json", "patterns.bin", 2000); }

/* ---- single facts ---- */

static void open_fixture(Fixture *f, const char *name) {
    FileView json = load(name);
    CU_ASSERT_FATAL(compile_text(f, (const char *)json.data, json.bytes));
    file_unmap(&json);
}

static void test_lookup(void) {
    Fixture f;
    open_fixture(&f, "llama3.json");
    int32_t bos = tokenizer_find(f.t, "<|begin_of_text|>", 17), ids[8];
    size_t count = 0;
    CU_ASSERT(bos >= 0 && bos == tokenizer_bos(f.t) && tokenizer_eos(f.t) == -1);
    CU_ASSERT(tokenizer_is_special(f.t, bos) && bos < tokenizer_vocab(f.t));
    CU_ASSERT(tokenizer_find(f.t, "<|nothing|>", 11) == -1);
    int32_t the = tokenizer_find(f.t, " the", 4);
    CU_ASSERT(tokenizer_encode(f.t, " the", 4, true, ids, 1, &count) == GPTC_OK);
    CU_ASSERT(count == 2 && ids[0] == bos);
    CU_ASSERT(tokenizer_encode(f.t, " the", 4, false, ids, 8, &count) == GPTC_OK);
    CU_ASSERT(count == 1 && ids[0] == the);
    CU_ASSERT(tokenizer_encode(f.t, NULL, 0, false, NULL, 0, &count) == GPTC_OK && count == 0);
    char out[8];
    CU_ASSERT(tokenizer_decode_token(f.t, the, false, out, 2) == 4 && memcmp(out, " t", 2) == 0);
    CU_ASSERT(tokenizer_decode_token(f.t, bos, true, out, 8) == 0);
    CU_ASSERT(tokenizer_decode_token(f.t, -1, false, out, 8) == 0);
    CU_ASSERT(tokenizer_decode_token(f.t, INT32_MAX, false, out, 8) == 0);
    fixture_free(&f);
}

/* Ill-formed text reads as with U+FFFD for each maximal part (The Unicode Standard, 3.9, table 3-8). */
static void test_ill_formed(void) {
    static const char *const pairs[][2] = {{"a\xf1\x80\x80\xe1\x80\xc2"
                                            "b\x80"
                                            "c\x80\xbf"
                                            "d",
                                            "a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
                                            "b\xef\xbf\xbd"
                                            "c\xef\xbf\xbd\xef\xbf\xbd"
                                            "d"},
                                           {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
                                           {"\xc0\xaf"
                                            "x\xf4\x90",
                                            "\xef\xbf\xbd\xef\xbf\xbdx\xef\xbf\xbd\xef\xbf\xbd"},
                                           {"the \xe2\x82", "the \xef\xbf\xbd"}};
    Fixture f;
    open_fixture(&f, "shk.json");
    for (size_t i = 0; i < COUNT_OF(pairs); i++) {
        int32_t a[64], b[64];
        size_t na = 0, nb = 0;
        tokenizer_encode(f.t, pairs[i][0], strlen(pairs[i][0]), false, a, 64, &na);
        tokenizer_encode(f.t, pairs[i][1], strlen(pairs[i][1]), false, b, 64, &nb);
        CU_ASSERT(na == nb && na <= 64 && memcmp(a, b, na * sizeof(a[0])) == 0);
    }
    fixture_free(&f);
}

/* A megabyte in one piece, of every kind that could take quadratic time: the test would not end. */
static void test_long(void) {
    static const char *const files[] = {"shk.json", "llama3.json", "qwen2.json", "options.json"};
    static const char *const units[] = {
        "a", " ",  "ab",           "\n", "1",   "\xcc\x81", "\xcc\x81\xcc\xa3",
        "!", "<|", "\xe4\xb8\x80", "aA", " \n", "the"};
    enum { BYTES = 1 << 20 };
    char *text = malloc(BYTES);
    CU_ASSERT_FATAL(text != NULL);
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        Fixture f;
        open_fixture(&f, files[i]);
        for (size_t u = 0; u < COUNT_OF(units); u++) {
            size_t n = strlen(units[u]), count = 0;
            for (size_t k = 0; k < BYTES; k++) text[k] = units[u][k % n];
            CU_ASSERT(tokenizer_encode(f.t, text, BYTES, false, NULL, 0, &count) == GPTC_OK && count > 0);
        }
        fixture_free(&f);
    }
    free(text);
}

static void test_deterministic(void) {
    Fixture a, b;
    open_fixture(&a, "qwen2.json");
    open_fixture(&b, "qwen2.json");
    CU_ASSERT(a.blob.bytes == b.blob.bytes && memcmp(a.blob.data, b.blob.data, a.blob.bytes) == 0);
    fixture_free(&a);
    fixture_free(&b);
}

/* ---- refusals ---- */

#define MODEL(x) "\"model\":{" x "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"
#define BYTE_LEVEL "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"
#define SPLIT(rx)                                                                                            \
    "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{"         \
    "\"Regex\":\"" rx                                                                                        \
    "\"},\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\",\"use_regex\":false}]}," MODEL( \
        "") "}"

static void test_refusals(void) {
    static const struct {
        const char *json, *error;
    } cases[] = {
        {"", "not JSON"},
        {"[", "not JSON"},
        {"[]", "no JSON object"},
        {"{}", "model"},
        {"{\"a\":\"\\u0000\"}", "NUL"},
        {"{\"a\":\"\xff\"}", "UTF-8"},
        {"{\"model\":{\"type\":\"Unigram\"}}", "Unigram"},
        {"{\"model\":{\"type\":\"WordPiece\"}}", "WordPiece"},
        {"{\"model\":{\"type\":\"BPE\"}}", "vocab"},
        {"{\"model\":{\"vocab\":{\"a\":0}}}", "merges"},
        {"{\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "same id"},
        {"{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", "id of token"},
        {"{\"model\":{\"vocab\":{\"a\":1e99},\"merges\":[]}}", "id of token"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}", "\"aa\" is not in the vocabulary"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"aa\"]}}", "merge 0"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[[\"a\",1]]}}", "merge 0"},
        {"{" MODEL("\"end_of_word_suffix\":\"</w>\",") "}", "end_of_word_suffix"},
        {"{" MODEL("\"continuing_subword_prefix\":\"##\",") "}", "continuing_subword_prefix"},
        {"{" MODEL("\"dropout\":0.1,") "}", "dropout"},
        {"{" MODEL("\"byte_fallback\":true,") "}", "byte_fallback"},
        {"{" MODEL("\"unk_token\":\"<x>\",") "}", "unk_token"},
        {"{" MODEL("") "}", "ByteLevel"},
        {"{\"pre_tokenizer\":{\"type\":\"Metaspace\"}," MODEL("") "}", "Metaspace"},
        {"{\"normalizer\":{\"type\":\"NFKC\"}," BYTE_LEVEL "," MODEL("") "}", "NFKC"},
        {"{\"decoder\":{\"type\":\"WordPiece\"}," BYTE_LEVEL "," MODEL("") "}", "decoder \"WordPiece\""},
        {"{\"post_processor\":{\"type\":\"BertProcessing\"}," BYTE_LEVEL "," MODEL("") "}", "BertProcessing"},
        {"{\"added_tokens\":[{\"id\":3}]," BYTE_LEVEL "," MODEL("") "}", "content"},
        {"{\"added_tokens\":7," BYTE_LEVEL "," MODEL("") "}", "added_tokens"},
        {SPLIT("\\\\w+"), "\\w"},
        {SPLIT("\\\\bx"), "\\b"},
        {SPLIT("(?<=a)b"), "lookbehind"},
        {SPLIT("(?>a)b"), "atomic"},
        {SPLIT("(?<n>a)b"), "named group"},
        {SPLIT("(a)\\\\1"), "back reference"},
        {SPLIT("^a"), "anchor ^"},
        {SPLIT("a(?!bc)"), "lookahead of more"},
        {SPLIT("[a&&b]"), "&&"},
        {SPLIT("[[:alpha:]]"), "POSIX"},
        {SPLIT("\\\\p{Greek}"), "\\p{Greek}"},
        {SPLIT("(?:ab)++"), "possessive"},
        {SPLIT("a*"), "empty text"},
        {SPLIT("(?:a*)*b"), "repeated part"},
        {SPLIT("a{5000}"), "over 1000"},
        {SPLIT("(a"), "unfinished group"},
        {SPLIT("a)"), ") without ("},
        {SPLIT("[a"), "unfinished set"},
        {SPLIT("*a"), "quantifier"},
        {SPLIT("(?i:\xc3\xa9)"), "(?i)"},
        {SPLIT("(?i:ss)"), "\"ss\""},
        {SPLIT("(?:(?:(?:a{1,900}){1,900}){1,900}){1,900}b"), "too large"},
        {SPLIT("(?:a|b)*a(?:a|b){20}c"), "too many states"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        Fixture f;
        bool ok = compile_text(&f, cases[i].json, strlen(cases[i].json)), named = false;
        for (size_t k = 0; k < f.diag.items.count; k++)
            named = named || strstr(f.diag.items.data[k].text, cases[i].error) != NULL;
        if (ok || !named || f.diag.errors == 0) {
            printf("\n  case %zu wants \"%s\"\n", i, cases[i].error);
            print_errors(&f);
        }
        CU_ASSERT(!ok && named && f.diag.errors > 0);
        fixture_free(&f);
    }
}

static void test_smallest(void) {
    static const char json[] = "{" BYTE_LEVEL "," MODEL("") "}";
    Fixture f;
    int32_t ids[8];
    size_t count = 0;
    CU_ASSERT_FATAL(compile_text(&f, json, sizeof(json) - 1));
    CU_ASSERT(tokenizer_encode(f.t, "aabc", 4, true, ids, 8, &count) == GPTC_OK);
    CU_ASSERT(count == 2 && ids[0] == 0 && ids[1] == 2);
    fixture_free(&f);
}

/* ---- damaged sections ---- */

static uint32_t random_next(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void use_section(const uint8_t *data, size_t bytes, size_t *opened) {
    static const char text[] =
        " the <|begin_of_text|>it's 123\n\n caf\xc3\xa9 e\xcc\x81 \xe4\xb8\x80\xf0\x9f\x98\x80 "
        "<mask> and  a b aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\xe2\x82";
    Tokenizer *t = NULL;
    const char *why = NULL;
    gptc_status st = tokenizer_open(data, bytes, &t, &why);
    CU_ASSERT((st == GPTC_OK) == (t != NULL));
    CU_ASSERT(st == GPTC_OK || (why != NULL && why[0] != '\0'));
    if (t == NULL) return;
    ++*opened;
    int32_t ids[256];
    char out[64];
    size_t count = 0;
    CU_ASSERT(tokenizer_encode(t, text, sizeof(text) - 1, true, ids, 256, &count) == GPTC_OK);
    for (size_t i = 0; i < count && i < 256; i++) tokenizer_decode_token(t, ids[i], false, out, sizeof(out));
    tokenizer_find(t, " the", 4);
    tokenizer_close(t);
}

static void test_damage(void) {
    static const char *const files[] = {"llama3.json", "options.json", "qwen2.json"};
    size_t opened = 0, tried = 0;
    uint32_t seed = 7;
    for (size_t k = 0; k < COUNT_OF(files); k++) {
        Fixture f;
        open_fixture(&f, files[k]);
        size_t n = f.blob.bytes;
        uint8_t *data = malloc(n + 8);
        CU_ASSERT_FATAL(data != NULL);
        /* Cut at every 8 bytes of the header, then here and there; the copy has no byte to spare. */
        for (size_t cut = 0; cut < n; cut += cut < 256 ? 8 : 1 + random_next(&seed) % 4096, tried++) {
            uint8_t *part = malloc(cut + 1);
            CU_ASSERT_FATAL(part != NULL);
            memcpy(part, f.blob.data, cut);
            use_section(part, cut, &opened);
            free(part);
        }
        /* Every byte of the header, and bytes all over. */
        for (size_t i = 0; i < sizeof(TokHeader) * 4 + 1500; i++, tried++) {
            size_t at = i < sizeof(TokHeader) * 4 ? i / 4 : random_next(&seed) % n;
            static const uint8_t flips[] = {0xff, 0x01, 0x80, 0x7f};
            memcpy(data, f.blob.data, n);
            data[at] ^= flips[i % 4];
            use_section(data, n, &opened);
        }
        /* Not aligned. */
        memcpy(data + 1, f.blob.data, n);
        use_section(data + 1, n, &opened);
        free(data);
        fixture_free(&f);
    }
    CU_ASSERT(opened > 100 && tried > opened);
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("tokenizer", NULL, NULL);
    CU_add_test(s, "smallest", test_smallest);
    CU_add_test(s, "shk", test_shk);
    CU_add_test(s, "llama3", test_llama3);
    CU_add_test(s, "qwen2", test_qwen2);
    CU_add_test(s, "options", test_options);
    CU_add_test(s, "patterns", test_patterns);
    CU_add_test(s, "lookup", test_lookup);
    CU_add_test(s, "ill-formed text", test_ill_formed);
    CU_add_test(s, "long texts", test_long);
    CU_add_test(s, "deterministic", test_deterministic);
    CU_add_test(s, "refusals", test_refusals);
    CU_add_test(s, "damage", test_damage);
    return unit_end();
}
