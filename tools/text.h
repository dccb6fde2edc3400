/* text.h: token ids from a file. */
#ifndef GPTC_TOOLS_TEXT_H
#define GPTC_TOOLS_TEXT_H

#include "ir/base/base.h"
#include "runtime/gptc.h"

/* The tokens of a file, made in `a`: "*.pb" is a tensor of ids, read row after row; "*.ids" has ids as text, apart by
 * white space; everything else is text for the model's tokenizer. Every id is below the model's vocabulary. */
bool text_tokens(const gptc_model *m, const char *path, Arena *a, int32_t **ids, size_t *n, Diag *d);

#endif
