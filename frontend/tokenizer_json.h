/* tokenizer_json.h: shared by the two readers of tokenizer.json, and by nothing else. */
#ifndef GPTC_TOKENIZER_JSON_H
#define GPTC_TOKENIZER_JSON_H

#include "frontend/tokenizer_private.h"

#include <cjson/cJSON.h>

typedef struct StringMap StringMap;
typedef struct {
    Arena *arena;
    Loc loc;
    Diag *d;
    TokenizerSpec *spec;
    StringMap *ids;       /* token text -> id */
    int32_t model_tokens; /* how many the model's vocabulary has */
    int32_t last_added;   /* highest id of an added token, or TOK_NONE */
} JsonReader;

/* tokenizer.c */
int32_t token_id(const JsonReader *r, const char *text);                    /* or TOK_NONE */
bool json_refuse(const JsonReader *r, const char *where, const char *what); /* false */
bool json_bool(const JsonReader *r, const cJSON *object, const char *key, bool otherwise, bool *out);
bool json_id(const JsonReader *r, const cJSON *v, const char *of, int32_t *out);
const char *json_type(const cJSON *object); /* "" when it has none */

/* tokenizer_pipeline.c: v may be NULL or JSON null. Each fills its part of the spec. */
bool read_normalizer(JsonReader *r, const cJSON *v);
bool read_pre_tokenizer(JsonReader *r, const cJSON *v);
bool read_decoder(JsonReader *r, const cJSON *v);
bool read_post_processor(JsonReader *r, const cJSON *v);
const char *text_nfc(Arena *a, const char *text);

#endif
