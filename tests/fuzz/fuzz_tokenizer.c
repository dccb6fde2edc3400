/* fuzz_tokenizer.c: libFuzzer on both untrusted inputs of the tokenizer.
 *
 * Input that starts with the section's magic is opened as a TOKENIZER section; the text after its length
 * (or a fixed one) is encoded with it. Anything else is compiled as tokenizer.json, and what compiles must
 * open. Seeds: tests/tokenizer/(all).json and sections compiled from them. */
#include "frontend/tokenizer.h"
#include "runtime/tokenizer.h"
#include "runtime/tokenizer_format.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const Tokenizer *t, const char *text, size_t bytes) {
    int32_t ids[512];
    char out[128];
    size_t count = 0;
    if (tokenizer_encode(t, text, bytes, true, ids, 512, &count) != GPTC_OK) return;
    for (size_t i = 0; i < count && i < 512; i++) {
        if (ids[i] < 0 || ids[i] >= tokenizer_vocab(t)) abort();
        tokenizer_decode_token(t, ids[i], (i & 1) != 0, out, sizeof(out));
    }
    tokenizer_find(t, text, bytes < 16 ? bytes : 16);
}

static void use_section(const uint8_t *data, size_t size) {
    static const char text[] = " the it's 12345 <|im_start|>\n\n  caf\xc3\xa9 e\xcc\x81\xcc\xa3 \xe4\xb8\x80"
                               "\xed\x95\x9c\xf0\x9f\x98\x80 and  a b\t<mask> \xff\xe2\x82 \xd9\xa1";
    Tokenizer *t = NULL;
    TokHeader h;
    if (tokenizer_open(data, size, &t, NULL) != GPTC_OK) return;
    memcpy(&h, data, sizeof(h));
    use(t, text, sizeof(text) - 1);
    size_t rest = size - h.bytes;
    use(t, (const char *)data + h.bytes, rest < 4096 ? rest : 4096);
    tokenizer_close(t);
}

static void compile(const uint8_t *data, size_t size) {
    Arena *a = arena_new();
    Diag d;
    TokenizerBlob blob;
    Tokenizer *t = NULL;
    diag_init(&d);
    if (tokenizer_compile("fuzz.json", data, size, a, &blob, &d)) {
        if (tokenizer_open(blob.data, blob.bytes, &t, NULL) != GPTC_OK) abort();
        use(t, (const char *)data, size < 4096 ? size : 4096);
        tokenizer_close(t);
    } else if (d.errors == 0 || d.bugs > 0) {
        abort();
    }
    diag_free(&d);
    arena_free(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint32_t magic = 0;
    if (size >= sizeof(magic)) memcpy(&magic, data, sizeof(magic));
    if (magic == TOK_MAGIC)
        use_section(data, size);
    else
        compile(data, size);
    return 0;
}
