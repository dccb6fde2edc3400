/* tokenizer.h: text to token ids and back, from a compiled TOKENIZER section (tokenizer_format.h).
 *
 * A Tokenizer is read-only after tokenizer_open, so threads may share it. */
#ifndef GPTC_TOKENIZER_H
#define GPTC_TOKENIZER_H

#include "runtime/gptc.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Tokenizer Tokenizer;

/* Checks a section and opens it. The section is borrowed: it must outlive the tokenizer. On an error *why
 * (may be NULL) is static text. Errors: GPTC_E_MEMORY, GPTC_E_FORMAT, GPTC_E_VERSION. */
gptc_status tokenizer_open(const void *section, size_t bytes, Tokenizer **out, const char **why);
void tokenizer_close(Tokenizer *t); /* NULL is allowed */

/* UTF-8 text to ids. Every maximal ill-formed part of the text reads as U+FFFD. Special tokens written in
 * the text become their ids. add_special adds those of the template (bos...). Writes at most cap ids; *count
 * is the number there are, so cap 0 sizes. Takes O(n log n) time and O(n) memory, freed on return.
 * Errors: GPTC_E_MEMORY; GPTC_E_ARGUMENT for 512 MiB of text or more. */
gptc_status tokenizer_encode(const Tokenizer *t, const char *text, size_t bytes, bool add_special,
                             int32_t *ids, size_t cap, size_t *count);

/* The bytes of one token, possibly part of a character: where they lie, and their number. Ids that name no
 * token, and special ones if they are skipped, have none. A text is its tokens' bytes in a row. */
const char *tokenizer_token(const Tokenizer *t, int32_t id, bool skip_special, size_t *bytes);
/* The same copied: their number; writes at most cap. */
size_t tokenizer_decode_token(const Tokenizer *t, int32_t id, bool skip_special, char *out, size_t cap);

/* The id of the token that is written so ("<|endoftext|>", or plain bytes such as " the"), or -1. */
int32_t tokenizer_find(const Tokenizer *t, const char *text, size_t bytes);
int32_t tokenizer_vocab(const Tokenizer *t); /* ids are 0..vocab-1 */
bool tokenizer_is_special(const Tokenizer *t, int32_t id);
int32_t tokenizer_bos(const Tokenizer *t); /* put first by the template, or -1 */
int32_t tokenizer_eos(const Tokenizer *t); /* put last by the template, or -1 */

#endif
