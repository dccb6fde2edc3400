/* tokenizer.h: tokenizer.json (Hugging Face tokenizers) to the section that the runtime reads.
 *
 * Taken: byte-level BPE as GPT-2, Llama 3 and Qwen use it: BPE without prefix or suffix marks; normalizer
 * none or NFC; pre-tokenizers ByteLevel, Split, Digits and Sequences of them; added tokens with all their
 * options; post-processors ByteLevel and TemplateProcessing. Everything else is refused by its name. */
#ifndef GPTC_FRONTEND_TOKENIZER_H
#define GPTC_FRONTEND_TOKENIZER_H

#include "ir/base/base.h"

typedef struct {
    const uint8_t *data;
    size_t bytes;
} TokenizerBlob;

/* Compiles JSON text into *out, which lives in the arena. path names the file in errors and outlives d.
 * The result follows from the JSON alone. */
bool tokenizer_compile(const char *path, const uint8_t *json, size_t bytes, Arena *a, TokenizerBlob *out,
                       Diag *d);

#endif
