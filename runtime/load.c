/* load.c: opens model.bin.
 *
 * The file is untrusted. Nothing in it is used before it was checked: header, section table (bounds,
 * overlaps, alignment, hashes), META, TENSORS here; the PLAN in plan.c, a FUNCTION in function_check.c. These are
 * copied first, so that a file changed under the map cannot undo a check. The weights are numbers only: they are
 * mapped and not touched, whatever they hold. KERNELS is checked and used in the map when a session on a GPU asks
 * for it (cuda/check.c): it is code that runs, so such a file has to be trusted anyway. */
#include "runtime/cuda/cuda.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the format is little-endian and so must the machine be"
#endif

enum { MAX_SECTIONS = 64, NAMED_SECTIONS = ART_FUNCTION + 1, PATH_SHOWN = 100 };
static const char *const section_names[NAMED_SECTIONS] = {"?",      "META",      "TENSORS",    "WEIGHTS",
                                                          "PLAN",   "TOKENIZER", "PROVENANCE", "KERNELS",
                                                          "REPORT", "IR",        "FUNCTION"};

typedef struct {
    ArtSection all[MAX_SECTIONS];
    uint32_t n;
    const ArtSection *named[NAMED_SECTIONS]; /* by kind; NULL = not there */
} Sections;

static gptc_status file_map(gptc_model *m, const char *path, gptc_detail *why) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block */
    if (fd < 0) return status_fail(why, GPTC_E_IO, "%s", strerror(errno));
    struct stat st;
    gptc_status s = GPTC_OK;
    if (fstat(fd, &st)) {
        s = status_fail(why, GPTC_E_IO, "%s", strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        s = status_fail(why, GPTC_E_IO, "not a regular file");
    } else if (st.st_size < (off_t)sizeof(ArtHeader)) {
        s = status_fail(why, GPTC_E_FORMAT, "only %lld bytes", (long long)st.st_size);
    } else {
        m->map_bytes = (size_t)st.st_size;
        m->map = mmap(NULL, m->map_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (m->map == MAP_FAILED) {
            m->map = NULL;
            s = status_fail(why, GPTC_E_IO, "cannot map: %s", strerror(errno));
        }
    }
    close(fd);
    return s;
}

static gptc_status header_check(const gptc_model *m, Sections *sec, gptc_detail *why) {
    ArtHeader h;
    memcpy(&h, m->map, sizeof h);
    if (memcmp(h.magic, ART_MAGIC, sizeof h.magic))
        return status_fail(why, GPTC_E_FORMAT, "the first 8 bytes are not \"gptcbin\\n\"");
    if (h.major != ART_MAJOR)
        return status_fail(why, GPTC_E_VERSION, "file format %u.%u, this library reads %u.x; compile again",
                           h.major, h.minor, ART_MAJOR);
    if (h.file_bytes != m->map_bytes)
        return status_fail(why, GPTC_E_FORMAT, "the file has %llu bytes, its header says %llu; cut off?",
                           (unsigned long long)m->map_bytes, (unsigned long long)h.file_bytes);
    if (h.n_sections > MAX_SECTIONS || h.n_sections * sizeof(ArtSection) > m->map_bytes - sizeof(ArtHeader))
        return status_fail(why, GPTC_E_FORMAT, "header: %u sections do not fit", h.n_sections);
    size_t bytes = h.n_sections * sizeof(ArtSection);
    memcpy(sec->all, (const uint8_t *)m->map + sizeof h, bytes);
    sec->n = h.n_sections;
    if (xxhash64(sec->all, bytes, 0) != h.table_hash)
        return status_fail(why, GPTC_E_CHECKSUM, "section table: its checksum does not match");
    return GPTC_OK;
}

static gptc_status sections_check(const gptc_model *m, Sections *sec, gptc_detail *why) {
    uint64_t first = sizeof(ArtHeader) + sec->n * sizeof(ArtSection);
    for (uint32_t i = 0; i < sec->n; i++) {
        const ArtSection *s = &sec->all[i];
        if (s->offset < first || s->offset > m->map_bytes || s->bytes > m->map_bytes - s->offset)
            return status_fail(why, GPTC_E_FORMAT, "section %u: lies outside the file", i);
        if (s->offset % (s->kind == ART_WEIGHTS ? 4096 : 64))
            return status_fail(why, GPTC_E_FORMAT, "section %u: not aligned", i);
        for (uint32_t k = 0; k < i; k++) {
            const ArtSection *t = &sec->all[k];
            if (s->offset < t->offset + t->bytes && t->offset < s->offset + s->bytes)
                return status_fail(why, GPTC_E_FORMAT, "sections %u and %u overlap", k, i);
        }
        if (s->kind == 0 || s->kind >= NAMED_SECTIONS) continue;
        if (sec->named[s->kind])
            return status_fail(why, GPTC_E_FORMAT, "two %s sections", section_names[s->kind]);
        sec->named[s->kind] = s;
    }
    for (uint32_t kind = ART_META; kind <= ART_WEIGHTS; kind++)
        if (!sec->named[kind]) return status_fail(why, GPTC_E_FORMAT, "no %s section", section_names[kind]);
    if (!sec->named[ART_PLAN] == !sec->named[ART_FUNCTION])
        return status_fail(why, GPTC_E_FORMAT, "not one of the sections PLAN and FUNCTION");
    return GPTC_OK;
}

static gptc_status hash_check(const ArtSection *s, const void *bytes, gptc_detail *why) {
    if (xxhash64(bytes, s->bytes, s->kind) == s->hash) return GPTC_OK;
    return status_fail(why, GPTC_E_CHECKSUM, "%s section: its checksum does not match; damaged file",
                       s->kind < NAMED_SECTIONS ? section_names[s->kind] : "unknown");
}

static const void *section_data(const gptc_model *m, const ArtSection *s) {
    return (const uint8_t *)m->map + s->offset;
}

static size_t padded(uint64_t bytes) { return ((size_t)bytes + 63) & ~(size_t)63; }

static uint32_t program_kind(const Sections *sec) { return sec->named[ART_PLAN] ? ART_PLAN : ART_FUNCTION; }

/* Copies META, TENSORS and PLAN or FUNCTION and checks the copies' hashes. */
static gptc_status tables_copy(gptc_model *m, const Sections *sec, const uint8_t *copy[], gptc_detail *why) {
    const uint32_t kinds[3] = {ART_META, ART_TENSORS, program_kind(sec)};
    size_t total = 64;
    for (int i = 0; i < 3; i++) total += padded(sec->named[kinds[i]]->bytes);
    m->tables = malloc(total);
    if (!m->tables) return status_fail(why, GPTC_E_MEMORY, "%zu bytes for the plan", total);
    uint8_t *at = m->tables;
    for (int i = 0; i < 3; i++) {
        const ArtSection *s = sec->named[kinds[i]];
        memcpy(at, section_data(m, s), s->bytes);
        gptc_status st = hash_check(s, at, why);
        if (st) return st;
        copy[i] = at;
        at += padded(s->bytes);
    }
    return GPTC_OK;
}

/* A function that is no GPT has neither vocabulary nor context. */
static gptc_status meta_check(const ArtMeta *meta, bool function, const char *text, uint64_t bytes,
                              gptc_detail *why) {
    bool no_gpt = function && !meta->vocab && !meta->context;
    if (bytes - sizeof *meta != meta->text_bytes || (meta->text_bytes && text[meta->text_bytes - 1]))
        return status_fail(why, GPTC_E_FORMAT, "META: text does not fill the section");
    if (((!meta->vocab || !meta->context) && !no_gpt) || meta->vocab > LIMIT_VOCAB ||
        meta->context > LIMIT_CONTEXT || meta->layers > LIMIT_STEPS || meta->has_cache > 1)
        return status_fail(why, GPTC_E_FORMAT, "META: vocabulary %u, context %u or layers %u out of range",
                           meta->vocab, meta->context, meta->layers);
    if (meta->n_stop_tokens > 8)
        return status_fail(why, GPTC_E_FORMAT, "META: %u stop tokens", meta->n_stop_tokens);
    for (uint32_t i = 0; i < meta->n_stop_tokens; i++)
        if (meta->stop_tokens[i] < 0 || (uint32_t)meta->stop_tokens[i] >= meta->vocab)
            return status_fail(why, GPTC_E_FORMAT, "META: stop token %d", meta->stop_tokens[i]);
    if (meta->bos_token < -1 || (meta->bos_token >= 0 && (uint32_t)meta->bos_token >= meta->vocab))
        return status_fail(why, GPTC_E_FORMAT, "META: bos token %d", meta->bos_token);
    const char *p = text, *end = text + meta->text_bytes;
    for (uint64_t i = 0; i < 2 * (uint64_t)meta->n_strings; i++) {
        if (p == end) return status_fail(why, GPTC_E_FORMAT, "META: fewer than %u strings", meta->n_strings);
        p += strlen(p) + 1; /* the text ends with a NUL */
    }
    return GPTC_OK;
}

/* Elements stored, padding included, or UINT64_MAX if that is absurd. */
static uint64_t tensor_stored(const ArtTensor *t) {
    uint64_t n = 1;
    for (uint32_t i = 0; i < t->rank; i++) {
        uint64_t d = t->dim[i];
        if (d > (uint64_t)1 << 40) return UINT64_MAX;
        if (i + 2 == t->rank && t->layout == ART_PANEL16) d = (d + 15) / 16 * 16;
        if (n && d > ((uint64_t)1 << 56) / n) return UINT64_MAX;
        n *= d;
    }
    return n;
}

static bool bytes_fit(const ArtTensor *t, bool function) {
    if (t->layout == ART_GROUP16) return t->bytes && t->bytes == art_groups_bytes(t);
    uint64_t stored = tensor_stored(t);
    bool may_be_empty = function && t->layout == ART_PLAIN;
    return stored != UINT64_MAX && (stored || may_be_empty) && t->bytes == stored * nd_size(t->dtype);
}

/* Of functions, tensors may be empty. */
static gptc_status tensor_check(const gptc_model *m, uint32_t index, bool function, gptc_detail *why) {
    const ArtTensor *t = &m->tensors[index];
    if (!nd_size(t->dtype) && t->layout != ART_GROUP16)
        return status_fail(why, GPTC_E_UNSUPPORTED, "tensor %u: element type %u is not known", index,
                           t->dtype);
    if (t->layout < ART_PLAIN || t->layout > ART_GROUP16)
        return status_fail(why, GPTC_E_UNSUPPORTED, "tensor %u: layout %u is not known", index, t->layout);
    if (t->rank > 4 || (t->layout == ART_PANEL16 && t->rank != 2 && t->rank != 3))
        return status_fail(why, GPTC_E_FORMAT, "tensor %u: rank %u", index, t->rank);
    if (!bytes_fit(t, function))
        return status_fail(why, GPTC_E_FORMAT, "tensor %u: its bytes do not fit its dims", index);
    if (t->offset % 64 || t->offset > m->weight_bytes || t->bytes > m->weight_bytes - t->offset)
        return status_fail(why, GPTC_E_FORMAT, "tensor %u: lies outside WEIGHTS", index);
    if (t->name_offset != UINT32_MAX && t->name_offset >= m->meta->text_bytes)
        return status_fail(why, GPTC_E_FORMAT, "tensor %u: name outside the text", index);
    return GPTC_OK;
}

static gptc_status plan_set(gptc_model *m, const void *section, uint64_t bytes, gptc_detail *why) {
    if (bytes < sizeof(ArtPlan)) return status_fail(why, GPTC_E_FORMAT, "PLAN: too short");
    m->plan = section;
    uint64_t need = sizeof(ArtPlan) + m->plan->n_states * (uint64_t)sizeof(ArtState) +
                    m->plan->n_steps * (uint64_t)sizeof(ArtStep) +
                    m->plan->n_insns * (uint64_t)sizeof(ArtInsn);
    if (bytes != need) return status_fail(why, GPTC_E_FORMAT, "PLAN: its counts do not fill the section");
    m->states = (const ArtState *)(m->plan + 1);
    m->steps = (const ArtStep *)(m->states + m->plan->n_states);
    m->insns = (const ArtInsn *)(m->steps + m->plan->n_steps);
    return plan_check(m, why);
}

/* Sets the pointers to the tables; every count is held against its section's size. */
static gptc_status tables_check(gptc_model *m, const Sections *sec, const uint8_t *const copy[],
                                gptc_detail *why) {
    const ArtSection *meta = sec->named[ART_META], *tensors = sec->named[ART_TENSORS];
    const ArtSection *program = sec->named[program_kind(sec)], *weights = sec->named[ART_WEIGHTS];
    bool function = program->kind == ART_FUNCTION;
    if (meta->bytes < sizeof(ArtMeta)) return status_fail(why, GPTC_E_FORMAT, "META: too short");
    m->meta = (const ArtMeta *)copy[0];
    m->text = (const char *)copy[0] + sizeof(ArtMeta);
    gptc_status st = meta_check(m->meta, function, m->text, meta->bytes, why);
    if (st) return st;
    m->weights = section_data(m, weights);
    m->weight_bytes = weights->bytes;
    if (tensors->bytes % sizeof(ArtTensor) || tensors->bytes / sizeof(ArtTensor) > UINT32_MAX)
        return status_fail(why, GPTC_E_FORMAT, "TENSORS: not a whole number of entries");
    m->tensors = (const ArtTensor *)copy[1];
    m->n_tensors = (uint32_t)(tensors->bytes / sizeof(ArtTensor));
    for (uint32_t i = 0; i < m->n_tensors; i++)
        if ((st = tensor_check(m, i, function, why))) return st;
    return function ? function_check(m, copy[2], program->bytes, why)
                    : plan_set(m, copy[2], program->bytes, why);
}

static gptc_status model_open(gptc_model *m, const char *path, int verify, gptc_detail *why) {
    Sections sec = {0};
    const uint8_t *copy[3];
    gptc_status st = file_map(m, path, why);
    if (st || (st = header_check(m, &sec, why)) || (st = sections_check(m, &sec, why)) ||
        (st = tables_copy(m, &sec, copy, why)))
        return st;
    for (uint32_t i = 0; i < sec.n; i++) {
        const ArtSection *s = &sec.all[i];
        if (s->kind == ART_META || s->kind == ART_TENSORS || s->kind == program_kind(&sec)) continue;
        if (s->kind == ART_WEIGHTS && !verify) continue;
        if ((st = hash_check(s, section_data(m, s), why))) return st;
    }
    if ((st = tables_check(m, &sec, copy, why))) return st;
    const ArtSection *code = sec.named[ART_KERNELS];
    if (code) m->cuda = section_data(m, code), m->cuda_bytes = code->bytes;
    const ArtSection *t = sec.named[ART_TOKENIZER];
    const char *text = "";
    if (t && (st = tokenizer_open(section_data(m, t), t->bytes, &m->tokenizer, &text)))
        return status_fail(why, st, "TOKENIZER: %s", text);
    return GPTC_OK;
}

gptc_status gptc_open(const char *path, const gptc_open_options *options, gptc_model **out,
                      gptc_detail *why) {
    if (why) why->text[0] = 0;
    if (!out) return status_fail(why, GPTC_E_ARGUMENT, "no place for the model (out is NULL)");
    *out = NULL;
    if (!path) return status_fail(why, GPTC_E_ARGUMENT, "no path");
    gptc_open_options o = {0};
    options_read(&o, sizeof o, options);
    const CpuKernels *kernels = cpu_select(o.cpu_level);
    if (!kernels)
        return status_fail(why, GPTC_E_UNSUPPORTED, "this machine or build has no CPU level %d", o.cpu_level);
    gptc_model *m = calloc(1, sizeof *m);
    if (!m) return status_fail(why, GPTC_E_MEMORY, "%zu bytes for the model", sizeof *m);
    m->kernels = kernels;
    pthread_mutex_init(&m->device_lock, NULL);
    gptc_detail inner = {""};
    gptc_status st = model_open(m, path, o.verify, &inner);
    if (st) {
        gptc_close(m);
        /* of a long path the end: the reason must fit */
        size_t n = strlen(path);
        return status_fail(why, st, "%s%s: %s", n > PATH_SHOWN ? "..." : "",
                           n > PATH_SHOWN ? path + n - PATH_SHOWN : path, inner.text);
    }
    *out = m;
    return GPTC_OK;
}

void gptc_close(gptc_model *m) {
    if (!m) return;
    tokenizer_close(m->tokenizer);
    free(m->tables);
    cuda_model_free(m->on_device);
    pthread_mutex_destroy(&m->device_lock);
    if (m->map) munmap(m->map, m->map_bytes);
    free(m);
}

/* Of the experts only those count that a token chooses: all of a row's slots differ at most. */
static uint64_t routed_bytes(const gptc_model *m, const ArtStep *s) {
    const ArtRouted *u = &s->u.routed;
    uint64_t chosen = u->slots < u->experts ? u->slots : u->experts, bytes = 0;
    for (uint32_t k = 2; k <= 3; k++)
        if (s->arg[k].kind == ART_ARG_TENSOR)
            bytes += m->tensors[s->arg[k].value].bytes / u->experts * chosen;
    return bytes;
}

/* Tables looked up by token or position are read a row at a time: they do not count. */
static uint64_t step_bytes(const gptc_model *m) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; m->function.head && i < m->function.head->n_values; i++)
        if (m->function.values[i].kind == ART_V_TENSOR)
            bytes += m->tensors[m->function.values[i].tensor].bytes;
    for (uint32_t i = 0; m->plan && i < m->plan->n_steps; i++) {
        const ArtStep *s = &m->steps[i];
        if (s->kernel == ART_K_GATHER || s->kernel == ART_K_ROPE || s->kernel == ART_K_PICK) continue;
        if (s->kernel == ART_K_ROUTED) {
            bytes += routed_bytes(m, s);
            continue;
        }
        for (uint32_t k = 0; k < ART_MAX_ARGS; k++)
            if (s->arg[k].kind == ART_ARG_TENSOR) bytes += m->tensors[s->arg[k].value].bytes;
    }
    return bytes;
}

void gptc_model_get_info(const gptc_model *m, gptc_model_info *out) {
    if (!out) return;
    gptc_model_info info = {.bos_token = -1};
    if (m) {
        const ArtMeta *a = m->meta;
        info = (gptc_model_info){.vocab = (int32_t)a->vocab,
                                 .context = (int32_t)a->context,
                                 .layers = (int32_t)a->layers,
                                 .has_tokenizer = m->tokenizer != NULL,
                                 .has_cache = (int)a->has_cache,
                                 .weight_bytes = m->weight_bytes,
                                 .state_bytes_per_token = a->state_bytes_per_token,
                                 .n_stop_tokens = (int32_t)a->n_stop_tokens,
                                 .bos_token = a->bos_token,
                                 .step_bytes = step_bytes(m)};
        memcpy(info.stop_tokens, a->stop_tokens, sizeof info.stop_tokens);
    }
    info_write(out, &info, sizeof info);
}

const char *gptc_model_meta(const gptc_model *m, const char *key) {
    if (!m || !key) return NULL;
    const char *p = m->text;
    for (uint32_t i = 0; i < m->meta->n_strings; i++) {
        const char *value = p + strlen(p) + 1;
        if (!strcmp(p, key)) return value;
        p = value + strlen(value) + 1;
    }
    return NULL;
}
