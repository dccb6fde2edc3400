/* sidecar.h: what the files beside a model say about generating text with it. */
#ifndef GPTC_SIDECAR_H
#define GPTC_SIDECAR_H

#include "ir/base/base.h"

typedef struct {
    int32_t stop[8];
    uint32_t nstop;
    int32_t bos;               /* -1 = none */
    const char *chat_template; /* NULL = none */
    const char *tokenizer;     /* path of tokenizer.json, NULL = none */
} Sidecar;

/* Reads generation_config.json, genai_config.json, config.json (the first that names stop tokens) and
 * tokenizer_config.json in the folder of model_path. Missing files are no error; damaged ones warn. */
void sidecar_read(const char *model_path, Arena *a, Sidecar *out, Diag *d);

#endif
