/* pack.c: writes a Program as an artifact (runtime/artifact.h), streaming: weights go from the mapped
 * model through one block of rows at a time, so that memory does not grow with the model. */
#include "codegen/codegen.h"

#include <string.h>

#define PANEL 16
#define BLOCK_PANELS 16 /* panels gathered at once: 256 outputs, 1 KB of every row of a [K, N] matrix */

typedef struct {
    FileWriter *w;
    HashState hash;
    ArtSection sections[16];
    uint32_t nsections;
} Packer;

static void put(Packer *k, const void *data, size_t bytes) {
    if (!bytes) return;
    file_write(k->w, data, bytes);
    hash_update(&k->hash, data, bytes);
}

static void put_pad(Packer *k, uint64_t start, size_t alignment) {
    static const uint8_t zero[4096];
    uint64_t at = (file_offset(k->w) - start) % alignment;
    if (at) put(k, zero, alignment - at);
}

static void begin(Packer *k, uint32_t kind, size_t alignment) {
    file_pad(k->w, alignment);
    k->sections[k->nsections] = (ArtSection){.kind = kind, .offset = file_offset(k->w)};
    hash_init(&k->hash, kind);
}

static void end(Packer *k) {
    ArtSection *s = &k->sections[k->nsections++];
    s->bytes = file_offset(k->w) - s->offset;
    s->hash = hash_final(&k->hash);
}

/* ---- tensors ---- */

/* Weights of a mapped file may lie unaligned, so elements are copied out. */
static uint16_t load_16(const WeightView *w, int64_t at) {
    uint16_t x;
    memcpy(&x, (const uint8_t *)w->data + at * 2, sizeof x);
    return x;
}

/* Of a tensor that is stored in 16 bits, which holds floats of 8 bits exactly. */
static uint16_t load_narrow(const WeightView *w, int64_t at) {
    if (!dtype_is_f8(w->dtype)) return load_16(w, at);
    return float_to_half(f8_to_float(w->dtype, ((const uint8_t *)w->data)[at]));
}

static float load_f32(const WeightView *w, int64_t at) {
    float x;
    memcpy(&x, (const uint8_t *)w->data + at * 4, sizeof x);
    return x;
}

static float view_f32(const WeightView *w, int64_t at) {
    switch (w->dtype) {
    case DT_F32: return load_f32(w, at);
    case DT_F16: return half_to_float(load_16(w, at));
    case DT_BF16: return bf16_to_float(load_16(w, at));
    default: {
        Tensor t = {.dtype = w->dtype, .rank = 1, .dim = {at + 1}, .data = (void *)(uintptr_t)w->data};
        return (float)tensor_get_f64(&t, (size_t)at);
    }
    }
}

/* Rows r0 .. r0 + n of a matrix into panels: dst[(r / 16)][col][r % 16]. size = 2 or 4 bytes. */
static void fill_panels(const ProgramTensor *t, int64_t r0, int64_t n, uint8_t *dst) {
    const WeightView *w = &t->view;
    int64_t cols = w->dim[1], rs = w->stride[0], cs = w->stride[1];
    bool wide = t->art.dtype == ART_F32;
    memset(dst, 0, (size_t)((n + PANEL - 1) / PANEL * PANEL * cols) * (wide ? 4 : 2));
    /* walk the source along its contiguous axis */
    bool by_row = cs <= rs;
    int64_t outer = by_row ? n : cols, inner = by_row ? cols : n;
    for (int64_t i = 0; i < outer; i++) {
        for (int64_t j = 0; j < inner; j++) {
            int64_t r = by_row ? i : j, c = by_row ? j : i;
            int64_t from = w->offset + (r0 + r) * rs + c * cs;
            int64_t to = (r / PANEL * cols + c) * PANEL + r % PANEL;
            if (!wide)
                ((uint16_t *)dst)[to] = load_narrow(w, from);
            else if (w->dtype == DT_F32)
                ((float *)dst)[to] = load_f32(w, from);
            else
                ((float *)dst)[to] = view_f32(w, from);
        }
    }
}

void pack_matrix(const WeightView *w, uint32_t layout, float *to) {
    if (layout == ART_PANEL16) {
        const ProgramTensor t = {.art = {.dtype = ART_F32}, .view = *w};
        fill_panels(&t, 0, w->dim[0], (uint8_t *)to);
        return;
    }
    for (int64_t r = 0; r < w->dim[0]; r++)
        for (int64_t c = 0; c < w->dim[1]; c++)
            *to++ = view_f32(w, w->offset + r * w->stride[0] + c * w->stride[1]);
}

static void put_panels(Packer *k, const ProgramTensor *t) {
    Arena *a = arena_new();
    int64_t rows = t->view.dim[0], step = PANEL * BLOCK_PANELS;
    size_t row_bytes = (size_t)t->view.dim[1] * (t->art.dtype == ART_F32 ? 4 : 2);
    uint8_t *block = arena_array(a, (size_t)step, row_bytes);
    for (int64_t r = 0; r < rows; r += step) {
        int64_t n = rows - r < step ? rows - r : step;
        fill_panels(t, r, n, block);
        put(k, block, (size_t)((n + PANEL - 1) / PANEL * PANEL) * row_bytes);
    }
    arena_free(a);
}

static void put_experts(Packer *k, const ProgramTensor *t) {
    for (uint64_t i = 0; i < t->art.dim[0]; i++) {
        ProgramTensor one = *t;
        one.view = t->experts[i];
        put_panels(k, &one);
    }
}

/* The elements lie in memory as they are stored. */
static bool stored_as_is(const ProgramTensor *t) {
    int64_t run = 1;
    for (uint32_t i = t->view.rank; i-- > 0;) {
        if (t->view.dim[i] > 1 && t->view.stride[i] != run) return false;
        run *= t->view.dim[i];
    }
    return art_dtype_exact(t->view.dtype) == t->art.dtype;
}

static void put_plain(Packer *k, const ProgramTensor *t) {
    const WeightView *w = &t->view;
    if (stored_as_is(t)) {
        put(k, (const uint8_t *)w->data + (size_t)w->offset * dtype_size(w->dtype), t->art.bytes);
        return;
    }
    bool wide = t->art.dtype == ART_F32;
    uint8_t buffer[4096];
    size_t used = 0, size = wide ? 4 : 2;
    int64_t at[4] = {0}, count = 1;
    for (uint32_t i = 0; i < w->rank; i++) count *= w->dim[i];
    for (int64_t n = 0; n < count; n++) {
        int64_t from = w->offset;
        for (uint32_t i = 0; i < w->rank; i++) from += at[i] * w->stride[i];
        float f = wide ? view_f32(w, from) : 0;
        uint16_t h = wide ? 0 : load_narrow(w, from);
        memcpy(buffer + used, wide ? (const void *)&f : (const void *)&h, size);
        used += size;
        if (used == sizeof buffer) {
            put(k, buffer, used);
            used = 0;
        }
        for (uint32_t i = w->rank; i-- > 0;) {
            if (++at[i] < w->dim[i]) break;
            at[i] = 0;
        }
    }
    put(k, buffer, used);
}

static void put_groups(Packer *k, const ProgramTensor *t) {
    Arena *a = arena_new();
    ArtGroups l = art_groups(t->art.dtype, t->art.flags, t->art.group);
    uint8_t *head = arena_alloc(a, l.head + l.panel_head), *block = arena_alloc(a, (size_t)l.block);
    group_head(t, head);
    put(k, head, l.head);
    for (int64_t r = 0; r < (int64_t)t->art.dim[0]; r += PANEL) {
        group_panel_head(t, r, head);
        put(k, head, l.panel_head);
        for (int64_t c = 0; c < (int64_t)t->art.dim[1]; c += t->art.group) {
            group_block(t, r, c, block);
            put(k, block, (size_t)l.block);
        }
    }
    arena_free(a);
}

static void put_weights(Packer *k, Program *p) {
    begin(k, ART_WEIGHTS, 4096);
    uint64_t start = k->sections[k->nsections].offset;
    for (size_t i = 0; i < p->tensors.count; i++) {
        ProgramTensor *t = &p->tensors.data[i];
        put_pad(k, start, 64);
        t->art.offset = file_offset(k->w) - start;
        if (t->groups != NULL)
            put_groups(k, t);
        else if (t->experts != NULL)
            put_experts(k, t);
        else if (t->art.layout == ART_PANEL16)
            put_panels(k, t);
        else
            put_plain(k, t);
    }
    end(k);
}

/* ---- the rest ---- */

static uint32_t add_string(Text *t, const char *s) {
    uint32_t at = (uint32_t)t->count;
    text_addn(t, s, strlen(s) + 1);
    return at;
}

static void name_function(Function *f, Text *strings, Arena *a) {
    for (size_t i = 0; i < f->names.count; i++)
        if (f->names.data[i]) f->values.data[i].name_offset = add_string(strings, f->names.data[i]);
    for (size_t i = 0; i < f->symbols.count; i++)
        VEC_PUSH(a, &f->symbol_text, add_string(strings, f->symbols.data[i]));
}

static void put_meta(Packer *k, Program *p, const PackExtra *x, Arena *a) {
    Text strings = text_new(a);
    for (size_t i = 0; i < x->nmeta; i++) {
        add_string(&strings, x->meta[i].key);
        add_string(&strings, x->meta[i].value);
    }
    for (size_t i = 0; i < p->states.count; i++)
        p->states.data[i].name_offset =
            add_string(&strings, p->state_names.data[i] ? p->state_names.data[i] : "");
    for (size_t i = 0; i < p->tensors.count; i++) {
        ProgramTensor *t = &p->tensors.data[i];
        t->art.name_offset = t->name ? add_string(&strings, t->name) : UINT32_MAX;
    }
    if (p->function) name_function(p->function, &strings, a);
    ArtMeta m = p->meta;
    m.n_strings = (uint32_t)x->nmeta;
    m.text_bytes = (uint32_t)strings.count;
    m.bos_token = x->bos_token;
    m.n_stop_tokens = x->n_stop_tokens;
    memcpy(m.stop_tokens, x->stop_tokens, sizeof m.stop_tokens);
    begin(k, ART_META, 64);
    put(k, &m, sizeof m);
    put(k, strings.data, strings.count);
    end(k);
}

static void put_plan(Packer *k, const Program *p) {
    begin(k, ART_PLAN, 64);
    put(k, &p->plan, sizeof p->plan);
    put(k, p->states.data, p->states.count * sizeof *p->states.data);
    put(k, p->steps.data, p->steps.count * sizeof *p->steps.data);
    put(k, p->insns.data, p->insns.count * sizeof *p->insns.data);
    end(k);
}

#define PUT_ALL(k, vec) put((k), (vec).data, (vec).count * sizeof *(vec).data)
static void put_function(Packer *k, const Function *f) {
    begin(k, ART_FUNCTION, 64);
    put(k, &f->head, sizeof f->head);
    PUT_ALL(k, f->terms);
    PUT_ALL(k, f->dims);
    PUT_ALL(k, f->nodes);
    PUT_ALL(k, f->values);
    PUT_ALL(k, f->operands);
    PUT_ALL(k, f->inputs);
    PUT_ALL(k, f->outputs);
    PUT_ALL(k, f->symbol_text);
    end(k);
}

static void put_tensors(Packer *k, const Program *p) {
    begin(k, ART_TENSORS, 64);
    for (size_t i = 0; i < p->tensors.count; i++) put(k, &p->tensors.data[i].art, sizeof(ArtTensor));
    end(k);
}

static void put_bytes(Packer *k, uint32_t kind, const void *data, size_t bytes) {
    if (!data || !bytes) return;
    begin(k, kind, 64);
    put(k, data, bytes);
    end(k);
}

static void put_text(Packer *k, uint32_t kind, const char *text) {
    if (text) put_bytes(k, kind, text, strlen(text));
}

FileWriter *pack_write(Program *p, const PackExtra *x, const char *path, PackStats *stats, Diag *d) {
    Arena *a = arena_new();
    Packer k = {.w = file_create(path, d)};
    if (!k.w) {
        arena_free(a);
        return NULL;
    }
    uint32_t total = 4u + (x->tokenizer_bytes > 0) + (x->kernels_bytes > 0) + (x->provenance != NULL) +
                     (x->report != NULL) + (x->ir != NULL);
    ArtHeader h = {.major = ART_MAJOR, .minor = ART_MINOR};
    memcpy(h.magic, ART_MAGIC, sizeof h.magic);
    file_write(k.w, &h, sizeof h);
    for (uint32_t i = 0; i < total; i++) file_write(k.w, &k.sections[0], sizeof(ArtSection));
    put_meta(&k, p, x, a);
    if (p->function)
        put_function(&k, p->function);
    else
        put_plan(&k, p);
    put_bytes(&k, ART_TOKENIZER, x->tokenizer, x->tokenizer_bytes);
    put_bytes(&k, ART_KERNELS, x->kernels, x->kernels_bytes);
    put_text(&k, ART_PROVENANCE, x->provenance);
    put_text(&k, ART_REPORT, x->report);
    put_text(&k, ART_IR, x->ir);
    put_weights(&k, p);
    put_tensors(&k, p);
    h.n_sections = k.nsections;
    h.file_bytes = file_offset(k.w);
    h.table_hash = hash_bytes(k.sections, k.nsections * sizeof *k.sections, 0);
    file_write_at(k.w, 0, &h, sizeof h);
    file_write_at(k.w, sizeof h, k.sections, k.nsections * sizeof *k.sections);
    *stats = (PackStats){.file_bytes = h.file_bytes};
    for (size_t i = 0; i < p->tensors.count; i++) stats->weight_bytes += p->tensors.data[i].art.bytes;
    arena_free(a);
    return k.w;
}
