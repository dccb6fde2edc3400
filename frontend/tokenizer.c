/* tokenizer.c: reads tokenizer.json: model, vocabulary, merges and added tokens. The pipeline around the
 * model (normalizer, pre-tokenizer, post-processor, decoder) is read by tokenizer_pipeline.c.
 *
 * Byte-level BPE writes every byte as a printable character (GPT-2's table: printable Latin-1 bytes stand
 * for themselves, the other 68 for U+0100 and on). Tokens are turned back into bytes here, once, so that
 * the runtime works on bytes alone. */
#include "frontend/tokenizer_json.h"

#include <string.h>

typedef struct {
    const char *text;
    int32_t id;
} StringSlot;
struct StringMap {
    StringSlot *slots;
    size_t slot_count, used;
};

static StringSlot *map_slot(const StringMap *m, const char *text) {
    size_t i = (size_t)(hash_bytes(text, strlen(text), 0) % m->slot_count);
    while (m->slots[i].text != NULL && strcmp(m->slots[i].text, text) != 0) i = (i + 1) % m->slot_count;
    return &m->slots[i];
}

static void map_put(Arena *a, StringMap *m, const char *text, int32_t id) {
    if (m->slot_count == 0 || m->used * 2 >= m->slot_count) {
        StringMap old = *m;
        m->slot_count = old.slot_count == 0 ? 1024 : old.slot_count * 2;
        m->slots = arena_array_of(a, m->slot_count, StringSlot);
        for (size_t i = 0; i < old.slot_count; i++)
            if (old.slots[i].text != NULL) *map_slot(m, old.slots[i].text) = old.slots[i];
    }
    StringSlot *s = map_slot(m, text);
    if (s->text == NULL) m->used++;
    *s = (StringSlot){text, id};
}

int32_t token_id(const JsonReader *r, const char *text) {
    if (r->ids->slot_count == 0) return TOK_NONE;
    const StringSlot *s = map_slot(r->ids, text);
    return s->text == NULL ? TOK_NONE : s->id;
}

bool json_refuse(const JsonReader *r, const char *where, const char *what) {
    return diag_error(r->d, r->loc, "%s: %s", where, what);
}

bool json_bool(const JsonReader *r, const cJSON *object, const char *key, bool otherwise, bool *out) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(object, key);
    *out = cJSON_IsTrue(v);
    if (v == NULL || cJSON_IsNull(v))
        *out = otherwise;
    else if (!cJSON_IsBool(v))
        return diag_error(r->d, r->loc, "\"%s\" must be true or false", key);
    return true;
}

bool json_id(const JsonReader *r, const cJSON *v, const char *of, int32_t *out) {
    double x = cJSON_IsNumber(v) ? v->valuedouble : -1;
    if (!(x >= 0 && x < (double)TOK_MAX_TOKENS) || x != (double)(int32_t)x)
        return diag_error(r->d, r->loc, "the id of token \"%.80s\" is not a number from 0 to %u", of,
                          TOK_MAX_TOKENS - 1);
    *out = (int32_t)x;
    return true;
}

const char *json_type(const cJSON *object) {
    const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, "type"));
    return type == NULL ? "" : type;
}

/* The byte that a character of the byte-level alphabet stands for, or -1. */
static int byte_of_char(uint32_t code) {
    if ((code >= '!' && code <= '~') || (code >= 0xa1 && code <= 0xac) || (code >= 0xae && code <= 0xff))
        return (int)code;
    if (code < 0x100 || code > 0x143) return -1;
    uint32_t i = code - 0x100;
    return (int)(i <= 0x20 ? i : i <= 0x42 ? i - 0x21 + 0x7f : 0xadu);
}

static bool token_put(JsonReader *r, const char *text, int32_t id, uint8_t flags) {
    TokenizerSpec *spec = r->spec;
    size_t n = strlen(text), i = 0, count = 0;
    uint8_t *data = arena_alloc(r->arena, n + 1);
    bool mapped = true;
    while (i < n && mapped) {
        uint32_t code = 0;
        int byte = utf8_next(text, n, &i, &code) ? byte_of_char(code) : -1;
        if (byte < 0)
            mapped = false;
        else
            data[count++] = (uint8_t)byte;
    }
    if (!mapped) {
        memcpy(data, text, n);
        count = n;
    }
    while (spec->tokens.count <= (size_t)id) VEC_PUSH(r->arena, &spec->tokens, (TokenSpec){0});
    TokenSpec *t = &spec->tokens.data[id];
    if (t->text != NULL)
        return diag_error(r->d, r->loc, "tokens \"%.80s\" and \"%.80s\" have the same id %d", t->text, text,
                          (int)id);
    bool in_model = (flags & TOK_ADDED) == 0;
    *t = (TokenSpec){text, data, (uint32_t)count, (uint8_t)(flags | TOK_PRESENT),
                     mapped && in_model && count > 0};
    if (t->word && count == 1) spec->byte_ids[data[0]] = id;
    map_put(r->arena, r->ids, text, id);
    return true;
}

static bool read_vocabulary(JsonReader *r, const cJSON *model) {
    const cJSON *vocab = cJSON_GetObjectItemCaseSensitive(model, "vocab"), *v = NULL;
    if (!cJSON_IsObject(vocab)) return json_refuse(r, "model", "there is no \"vocab\" object");
    cJSON_ArrayForEach (v, vocab) {
        int32_t id = 0;
        if (token_id(r, v->string) != TOK_NONE)
            return diag_error(r->d, r->loc, "token \"%.80s\" is twice in the vocabulary", v->string);
        if (!json_id(r, v, v->string, &id) || !token_put(r, v->string, id, 0)) return false;
        r->model_tokens++;
    }
    return r->model_tokens > 0 || json_refuse(r, "model", "the vocabulary is empty");
}

/* "a b" or ["a", "b"]; texts live in the arena. */
static bool merge_texts(const JsonReader *r, const cJSON *item, const char **left, const char **right) {
    if (cJSON_IsArray(item) && cJSON_GetArraySize(item) == 2) {
        *left = cJSON_GetStringValue(item->child);
        *right = cJSON_GetStringValue(item->child->next);
        return *left != NULL && *right != NULL;
    }
    const char *s = cJSON_GetStringValue(item);
    const char *space = s == NULL ? NULL : strchr(s, ' ');
    if (space == NULL || strchr(space + 1, ' ') != NULL) return false;
    *left = arena_strndup(r->arena, s, (size_t)(space - s));
    *right = space + 1;
    return true;
}

/* Keeps the last of equal pairs, at its rank. */
static void merges_unique(Arena *a, MergeList *merges) {
    size_t slots = 8, kept = 0;
    while (slots < merges->count * 2) slots *= 2;
    uint32_t *table = arena_array_of(a, slots, uint32_t);
    for (size_t i = 0; i < merges->count; i++) {
        TokMerge m = merges->data[i];
        size_t s = tok_hash_pair(m.left, m.right) & (slots - 1);
        for (; table[s] != 0; s = (s + 1) & (slots - 1)) {
            const TokMerge *other = &merges->data[table[s] - 1];
            if (other->left == m.left && other->right == m.right) break;
        }
        if (table[s] == 0) table[s] = (uint32_t)++kept;
        merges->data[table[s] - 1] = m;
    }
    merges->count = kept;
}

static bool read_merges(JsonReader *r, const cJSON *model) {
    const cJSON *merges = cJSON_GetObjectItemCaseSensitive(model, "merges"), *item = NULL;
    if (!cJSON_IsArray(merges)) return json_refuse(r, "model", "there is no \"merges\" array");
    uint32_t rank = 0;
    cJSON_ArrayForEach (item, merges) {
        const char *left = NULL, *right = NULL, *line = cJSON_GetStringValue(item);
        if (line != NULL && strncmp(line, "#version", 8) == 0) continue;
        if (!merge_texts(r, item, &left, &right))
            return diag_error(r->d, r->loc, "merge %u is neither \"a b\" nor [\"a\", \"b\"]", rank);
        const char *both = arena_printf(r->arena, "%s%s", left, right);
        int32_t a = token_id(r, left), b = token_id(r, right), result = token_id(r, both);
        if (a < 0 || b < 0 || result < 0)
            return diag_error(r->d, r->loc, "merge %u: token \"%.80s\" is not in the vocabulary", rank,
                              a < 0   ? left
                              : b < 0 ? right
                                      : both);
        TokMerge m = {(uint32_t)a, (uint32_t)b, rank, (uint32_t)result};
        VEC_PUSH(r->arena, &r->spec->merges, m);
        rank++;
    }
    merges_unique(r->arena, &r->spec->merges);
    return true;
}

static bool read_model(JsonReader *r, const cJSON *model) {
    static const char *const marks[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    TokenizerSpec *spec = r->spec;
    if (!cJSON_IsObject(model)) return json_refuse(r, "model", "is missing");
    const char *type = json_type(model);
    if (type[0] != '\0' && strcmp(type, "BPE") != 0)
        return diag_error(r->d, r->loc, "model type \"%.40s\" is not supported; only byte-level BPE is",
                          type);
    for (size_t i = 0; i < COUNT_OF(marks); i++) {
        const char *s = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(model, marks[i]));
        if (s != NULL && s[0] != '\0') return json_refuse(r, marks[i], "is not supported");
    }
    const cJSON *dropout = cJSON_GetObjectItemCaseSensitive(model, "dropout");
    if (cJSON_IsNumber(dropout) && dropout->valuedouble > 0)
        return json_refuse(r, "dropout", "is not supported");
    bool ignore = false, fuse = false, fallback = false;
    if (!json_bool(r, model, "ignore_merges", false, &ignore) ||
        !json_bool(r, model, "fuse_unk", false, &fuse) ||
        !json_bool(r, model, "byte_fallback", false, &fallback) || !read_vocabulary(r, model) ||
        !read_merges(r, model))
        return false;
    spec->flags |= (ignore ? TOK_IGNORE_MERGES : 0u) | (fuse ? TOK_FUSE_UNKNOWN : 0u);
    bool all_bytes = true;
    for (int b = 0; b < 256; b++) all_bytes = all_bytes && spec->byte_ids[b] >= 0;
    if (fallback && !all_bytes)
        return json_refuse(r, "byte_fallback", "is not supported with bytes missing from the vocabulary");
    const char *unknown = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(model, "unk_token"));
    if (unknown == NULL || all_bytes) return true; /* with all bytes nothing is unknown */
    spec->unknown = token_id(r, unknown);
    return spec->unknown >= 0 ||
           diag_error(r->d, r->loc, "unk_token \"%.80s\" is not in the vocabulary", unknown);
}

/* The library ignores the declared id: a token of the model keeps its id, a new one gets the next. */
static bool added_id(JsonReader *r, const char *text, int32_t declared, uint8_t flags, int32_t *out) {
    int32_t id = token_id(r, text);
    if (id >= 0) {
        r->spec->tokens.data[id].flags |= flags;
    } else {
        id = r->last_added >= r->model_tokens ? r->last_added + 1 : r->model_tokens;
        if (!token_put(r, text, id, flags)) return false;
    }
    if (id != declared)
        diag_warn(r->d, r->loc, "added token \"%.80s\" is declared as id %d, but has id %d", text,
                  (int)declared, (int)id);
    if (id > r->last_added) r->last_added = id;
    *out = id;
    return true;
}

static bool read_added_token(JsonReader *r, const cJSON *item) {
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "content"));
    bool special = false, normalized = false, lstrip = false, rstrip = false, single = false;
    int32_t declared = 0, id = 0;
    if (text == NULL) return json_refuse(r, "added_tokens", "a token has no \"content\"");
    if (text[0] == '\0') return true;
    if (!json_id(r, cJSON_GetObjectItemCaseSensitive(item, "id"), text, &declared) ||
        !json_bool(r, item, "special", false, &special) ||
        !json_bool(r, item, "normalized", !special, &normalized) ||
        !json_bool(r, item, "lstrip", false, &lstrip) || !json_bool(r, item, "rstrip", false, &rstrip) ||
        !json_bool(r, item, "single_word", false, &single))
        return false;
    if (!added_id(r, text, declared, (uint8_t)(TOK_ADDED | (special ? TOK_SPECIAL : 0)), &id)) return false;
    AddedSpec t = {text, (uint32_t)strlen(text), id,
                   (lstrip ? TOK_LSTRIP : 0u) | (rstrip ? TOK_RSTRIP : 0u) | (single ? TOK_SINGLE_WORD : 0u)};
    if (normalized && (r->spec->flags & TOK_NFC) != 0) {
        t.text = text_nfc(r->arena, text);
        t.bytes = (uint32_t)strlen(t.text);
    }
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < r->spec->added[k].count; i++)
            if (strcmp(r->spec->added[k].data[i].text, t.text) == 0)
                return diag_error(r->d, r->loc, "added token \"%.80s\" is there twice", text);
    VEC_PUSH(r->arena, &r->spec->added[normalized], t);
    return true;
}

static bool read_added(JsonReader *r, const cJSON *root) {
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "added_tokens"), *item = NULL;
    if (list != NULL && !cJSON_IsNull(list) && !cJSON_IsArray(list))
        return json_refuse(r, "added_tokens", "is not an array");
    cJSON_ArrayForEach (item, list)
        if (!read_added_token(r, item)) return false;
    return true;
}

static bool read_root(JsonReader *r, const cJSON *root, TokenizerBlob *out) {
    static const char *const lengths[] = {"truncation", "padding"};
    if (!cJSON_IsObject(root)) return json_refuse(r, "tokenizer", "the file holds no JSON object");
    for (size_t i = 0; i < COUNT_OF(lengths); i++)
        if (cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(root, lengths[i])))
            diag_warn(r->d, r->loc, "\"%s\" is left out: texts are encoded whole", lengths[i]);
    return read_model(r, cJSON_GetObjectItemCaseSensitive(root, "model")) &&
           read_normalizer(r, cJSON_GetObjectItemCaseSensitive(root, "normalizer")) && read_added(r, root) &&
           read_pre_tokenizer(r, cJSON_GetObjectItemCaseSensitive(root, "pre_tokenizer")) &&
           read_decoder(r, cJSON_GetObjectItemCaseSensitive(root, "decoder")) &&
           read_post_processor(r, cJSON_GetObjectItemCaseSensitive(root, "post_processor")) &&
           tokenizer_write(r->arena, r->spec, r->loc, out, r->d);
}

static Loc loc_at(const char *path, const uint8_t *json, size_t at) {
    Loc loc = {.kind = LOC_TEXT, .line = 1, .column = 1, .name = path};
    for (size_t i = 0; i < at; i++) {
        loc.column++;
        if (json[i] == '\n') loc.line++, loc.column = 1;
    }
    return loc;
}

/* What cJSON would not notice or would cut short. */
static bool check_text(const char *path, const uint8_t *json, size_t bytes, Diag *d) {
    const char *s = (const char *)json;
    for (size_t i = 0; i < bytes;) {
        uint32_t code = 0;
        size_t at = i;
        if (!utf8_next(s, bytes, &i, &code))
            return diag_error(d, loc_at(path, json, at), "the file is not well-formed UTF-8");
        bool escape = code == '\\' && i < bytes;
        if (code == 0 || (escape && bytes - i >= 5 && memcmp(s + i, "u0000", 5) == 0))
            return diag_error(d, loc_at(path, json, at), "NUL characters are not supported");
        if (escape && s[i] == '\\') i++;
    }
    return true;
}

bool tokenizer_compile(const char *path, const uint8_t *json, size_t bytes, Arena *a, TokenizerBlob *out,
                       Diag *d) {
    if (bytes > INT32_MAX) return diag_error(d, loc_file(path), "the file is over 2 GiB");
    if (!check_text(path, json, bytes, d)) return false;
    const char *end = NULL;
    cJSON *root = bytes == 0 ? NULL : cJSON_ParseWithLengthOpts((const char *)json, bytes, &end, 0);
    if (root == NULL) {
        size_t at = end == NULL ? 0 : (size_t)(end - (const char *)json);
        return diag_error(d, loc_at(path, json, at < bytes ? at : bytes), "not JSON from here on");
    }
    TokenizerSpec spec = {.unknown = TOK_NONE};
    for (int b = 0; b < 256; b++) spec.byte_ids[b] = TOK_NONE;
    StringMap ids = {0};
    JsonReader r = {
        .arena = a, .loc = loc_file(path), .d = d, .spec = &spec, .ids = &ids, .last_added = TOK_NONE};
    bool ok = read_root(&r, root, out);
    cJSON_Delete(root);
    return ok;
}
