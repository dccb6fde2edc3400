/* tokenizer_pipeline.c: reads what tokenizer.json has around its model: normalizer, pre-tokenizer,
 * decoder and post-processor. Steps that the runtime has no counterpart for are refused by name. */
#include "frontend/tokenizer_json.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define MAX_NESTING 8u

/* What GPT-2 splits by; ByteLevel's "use_regex" stands for it. */
static const char gpt2_split[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static bool is_absent(const cJSON *v) { return v == NULL || cJSON_IsNull(v); }

static bool refuse_step(const JsonReader *r, const char *step, const cJSON *v, const char *taken) {
    return diag_error(r->d, r->loc, "%s \"%.40s\" is not supported; supported: %s", step, json_type(v),
                      taken);
}

const char *text_nfc(Arena *a, const char *text) {
    utf8proc_uint8_t *nfc = utf8proc_NFC((const utf8proc_uint8_t *)text);
    const char *out = nfc == NULL ? text : arena_strdup(a, (const char *)nfc);
    free(nfc);
    return out;
}

static bool normalizer_step(JsonReader *r, const cJSON *v, uint32_t depth) {
    const cJSON *item = NULL;
    if (strcmp(json_type(v), "NFC") == 0) {
        r->spec->flags |= TOK_NFC;
        return true;
    }
    if (strcmp(json_type(v), "Sequence") != 0 || depth == MAX_NESTING)
        return refuse_step(r, "normalizer", v, "NFC");
    cJSON_ArrayForEach (item, cJSON_GetObjectItemCaseSensitive(v, "normalizers"))
        if (!normalizer_step(r, item, depth + 1)) return false;
    return true;
}

bool read_normalizer(JsonReader *r, const cJSON *v) { return is_absent(v) || normalizer_step(r, v, 0); }

typedef struct {
    bool byte_level;
} Splitting;

static bool add_stage(JsonReader *r, SplitStage stage, const char *pattern, bool literal) {
    if (r->spec->stages.count == TOK_MAX_STAGES)
        return json_refuse(r, "pre_tokenizer", "more than 16 steps are not supported");
    if (pattern != NULL) {
        Regex rx;
        bool ok = literal ? regex_literal(r->arena, pattern, r->loc, &rx, r->d)
                          : regex_parse(r->arena, pattern, r->loc, &rx, r->d);
        if (!ok || !regex_compile(r->arena, &rx, pattern, r->loc, &stage, r->d)) return false;
        stage.flags |= TOK_STAGE_SPLIT;
    }
    VEC_PUSH(r->arena, &r->spec->stages, stage);
    return true;
}

static bool read_split(JsonReader *r, const cJSON *v) {
    static const char *const behaviors[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext",
                                            "Contiguous"};
    const cJSON *pattern = cJSON_GetObjectItemCaseSensitive(v, "pattern");
    const char *regex = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(pattern, "Regex"));
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(pattern, "String"));
    const char *behavior = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(v, "behavior"));
    SplitStage stage = {0};
    bool invert = false;
    if ((regex == NULL && text == NULL) || behavior == NULL)
        return json_refuse(r, "pre_tokenizer Split", "has no \"pattern\" or no \"behavior\"");
    if (!json_bool(r, v, "invert", false, &invert)) return false;
    size_t b = 0;
    while (b < COUNT_OF(behaviors) && strcmp(behaviors[b], behavior) != 0) b++;
    if (b == COUNT_OF(behaviors))
        return diag_error(r->d, r->loc, "pre_tokenizer Split: behavior \"%.40s\" is not known", behavior);
    stage.behavior = (TokBehavior)b;
    if (invert) stage.flags |= TOK_STAGE_INVERT;
    return add_stage(r, stage, regex != NULL ? regex : text, regex == NULL);
}

static bool read_byte_level(JsonReader *r, const cJSON *v, Splitting *s) {
    bool prefix = false, regex = false;
    if (!json_bool(r, v, "add_prefix_space", true, &prefix) || !json_bool(r, v, "use_regex", true, &regex))
        return false;
    s->byte_level = true;
    SplitStage stage = {.behavior = TOK_ISOLATED, .flags = prefix ? TOK_STAGE_PREFIX_SPACE : 0u};
    return (!prefix && !regex) || add_stage(r, stage, regex ? gpt2_split : NULL, false);
}

static bool pre_tokenizer_step(JsonReader *r, const cJSON *v, Splitting *s, uint32_t depth) {
    const char *type = json_type(v);
    const cJSON *item = NULL;
    if (strcmp(type, "Sequence") == 0 && depth < MAX_NESTING) {
        cJSON_ArrayForEach (item, cJSON_GetObjectItemCaseSensitive(v, "pretokenizers"))
            if (!pre_tokenizer_step(r, item, s, depth + 1)) return false;
        return true;
    }
    if (s->byte_level)
        return diag_error(r->d, r->loc, "pre_tokenizer \"%.40s\" after ByteLevel is not supported", type);
    if (strcmp(type, "ByteLevel") == 0) return read_byte_level(r, v, s);
    if (strcmp(type, "Split") == 0) return read_split(r, v);
    if (strcmp(type, "Digits") == 0) {
        bool single = false;
        if (!json_bool(r, v, "individual_digits", false, &single)) return false;
        return add_stage(r, (SplitStage){.behavior = single ? TOK_ISOLATED : TOK_CONTIGUOUS}, "\\p{N}",
                         false);
    }
    return refuse_step(r, "pre_tokenizer", v, "ByteLevel, Split, Digits, Sequence");
}

bool read_pre_tokenizer(JsonReader *r, const cJSON *v) {
    Splitting s = {false};
    if (!is_absent(v) && !pre_tokenizer_step(r, v, &s, 0)) return false;
    return s.byte_level ||
           json_refuse(r, "pre_tokenizer", "has no ByteLevel step; only byte-level BPE is supported");
}

static bool decoder_step(JsonReader *r, const cJSON *v, uint32_t depth) {
    const cJSON *item = NULL;
    if (strcmp(json_type(v), "ByteLevel") == 0 || strcmp(json_type(v), "Fuse") == 0) return true;
    if (strcmp(json_type(v), "Sequence") != 0 || depth == MAX_NESTING)
        return refuse_step(r, "decoder", v, "ByteLevel");
    cJSON_ArrayForEach (item, cJSON_GetObjectItemCaseSensitive(v, "decoders"))
        if (!decoder_step(r, item, depth + 1)) return false;
    return true;
}

bool read_decoder(JsonReader *r, const cJSON *v) {
    if (is_absent(v)) diag_warn(r->d, r->loc, "there is no decoder; tokens are decoded as ByteLevel does");
    return is_absent(v) || decoder_step(r, v, 0);
}

static bool template_ids(JsonReader *r, const cJSON *v, const char *name, IdList *out) {
    const cJSON *all = cJSON_GetObjectItemCaseSensitive(v, "special_tokens");
    const cJSON *token = name == NULL ? NULL : cJSON_GetObjectItemCaseSensitive(all, name);
    const cJSON *ids = cJSON_GetObjectItemCaseSensitive(token, "ids"), *item = NULL;
    if (!cJSON_IsArray(ids))
        return diag_error(r->d, r->loc, "post_processor: its token \"%.80s\" is not defined",
                          name == NULL ? "" : name);
    cJSON_ArrayForEach (item, ids) {
        int32_t id = 0;
        if (!json_id(r, item, name, &id)) return false;
        if ((size_t)id >= r->spec->tokens.count)
            return diag_error(r->d, r->loc, "post_processor: token \"%.80s\" has the unknown id %d", name,
                              (int)id);
        VEC_PUSH(r->arena, out, id);
    }
    return true;
}

/* "single" is a list of special tokens around one Sequence A. A later template goes around an earlier. */
static bool read_template(JsonReader *r, const cJSON *v) {
    const cJSON *single = cJSON_GetObjectItemCaseSensitive(v, "single"), *item = NULL;
    IdList before = {0}, after = {0};
    int sequences = 0;
    cJSON_ArrayForEach (item, single) {
        const cJSON *special = cJSON_GetObjectItemCaseSensitive(item, "SpecialToken");
        if (special == NULL) {
            if (!cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(item, "Sequence")))
                return json_refuse(r, "post_processor", "this template is not supported");
            sequences++;
            continue;
        }
        const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(special, "id"));
        if (!template_ids(r, v, name, sequences == 0 ? &before : &after)) return false;
    }
    if (sequences != 1) return json_refuse(r, "post_processor", "a template must hold the text exactly once");
    for (size_t i = 0; i < r->spec->prefix.count; i++) VEC_PUSH(r->arena, &before, r->spec->prefix.data[i]);
    r->spec->prefix = before;
    for (size_t i = 0; i < after.count; i++) VEC_PUSH(r->arena, &r->spec->suffix, after.data[i]);
    return true;
}

static bool post_processor_step(JsonReader *r, const cJSON *v, uint32_t depth) {
    const cJSON *item = NULL;
    if (strcmp(json_type(v), "ByteLevel") == 0) return true;
    if (strcmp(json_type(v), "TemplateProcessing") == 0) return read_template(r, v);
    if (strcmp(json_type(v), "Sequence") != 0 || depth == MAX_NESTING)
        return refuse_step(r, "post_processor", v, "ByteLevel, TemplateProcessing, Sequence");
    cJSON_ArrayForEach (item, cJSON_GetObjectItemCaseSensitive(v, "processors"))
        if (!post_processor_step(r, item, depth + 1)) return false;
    return true;
}

bool read_post_processor(JsonReader *r, const cJSON *v) {
    return is_absent(v) || post_processor_step(r, v, 0);
}
