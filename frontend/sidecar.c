/* sidecar.c: see sidecar.h. JSON by cJSON; sizes are capped, since the files are as untrusted as the model. */
#include "frontend/sidecar.h"

#include <cjson/cJSON.h>
#include <string.h>
#include <unistd.h>

#define SIDECAR_MAX_BYTES ((size_t)16 << 20)

static const char *beside(const char *model_path, const char *name, Arena *a) {
    const char *slash = strrchr(model_path, '/');
    if (!slash) return arena_strdup(a, name);
    return arena_printf(a, "%.*s/%s", (int)(slash - model_path), model_path, name);
}

static cJSON *read_json(const char *path, Diag *d) {
    FileView f;
    Diag quiet;
    if (access(path, R_OK) != 0) return NULL;
    diag_init(&quiet);
    cJSON *json = NULL;
    if (file_map(path, &f, &quiet)) {
        if (f.bytes <= SIDECAR_MAX_BYTES) json = cJSON_ParseWithLength((const char *)f.data, f.bytes);
        if (!json) diag_warn(d, loc_file(path), "not readable as JSON; ignored");
        file_unmap(&f);
    }
    diag_free(&quiet);
    return json;
}

static void add_stop(Sidecar *s, const cJSON *n) {
    if (!cJSON_IsNumber(n) || n->valuedouble < 0 || n->valuedouble > INT32_MAX ||
        s->nstop == COUNT_OF(s->stop))
        return;
    s->stop[s->nstop++] = (int32_t)n->valuedouble;
}

static void read_ids(Sidecar *s, const cJSON *object) {
    const cJSON *eos = cJSON_GetObjectItemCaseSensitive(object, "eos_token_id"), *e;
    const cJSON *bos = cJSON_GetObjectItemCaseSensitive(object, "bos_token_id");
    if (cJSON_IsArray(eos))
        cJSON_ArrayForEach (e, eos) add_stop(s, e);
    else
        add_stop(s, eos);
    if (cJSON_IsNumber(bos) && bos->valuedouble >= 0 && bos->valuedouble <= INT32_MAX)
        s->bos = (int32_t)bos->valuedouble;
}

void sidecar_read(const char *model_path, Arena *a, Sidecar *out, Diag *d) {
    static const char *const files[] = {"generation_config.json", "genai_config.json", "config.json"};
    *out = (Sidecar){.bos = -1};
    for (size_t i = 0; i < COUNT_OF(files) && !out->nstop; i++) {
        cJSON *json = read_json(beside(model_path, files[i], a), d);
        if (!json) continue;
        read_ids(out, json);
        const cJSON *model = cJSON_GetObjectItemCaseSensitive(json, "model"); /* genai_config.json */
        if (cJSON_IsObject(model) && !out->nstop) read_ids(out, model);
        cJSON_Delete(json);
    }
    cJSON *json = read_json(beside(model_path, "tokenizer_config.json", a), d);
    const cJSON *chat = json ? cJSON_GetObjectItemCaseSensitive(json, "chat_template") : NULL;
    if (cJSON_IsString(chat)) out->chat_template = arena_strdup(a, chat->valuestring);
    cJSON_Delete(json);
    const char *tok = beside(model_path, "tokenizer.json", a);
    if (access(tok, R_OK) == 0) out->tokenizer = tok;
}
