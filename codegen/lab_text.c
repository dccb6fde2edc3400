/* lab_text.c: places where a run may start, and what is kept of texts: at most KEPT_BYTES of log-probabilities in
 * memory, the rest on disk; at most KEPT_BYTES of rows, of the texts used last. */
#include "codegen/lab_text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/probe.h"

#define KEPT_BYTES ((size_t)1 << 30)

/* ---- boundaries ---- */

static bool reads_state(const ArtStep *s, uint64_t state) {
    return s->kernel == ART_K_ATTENTION && (s->arg[1].value == state || s->arg[2].value == state);
}

/* A state that a step before j stores and one from j on reads. */
static bool state_across(const Program *p, size_t j) {
    for (size_t i = 0; i < j; i++) {
        const ArtStep *s = &p->steps.data[i];
        for (size_t k = j; s->kernel == ART_K_STORE && k < p->steps.count; k++)
            if (reads_state(&p->steps.data[k], s->arg[1].value)) return true;
    }
    return false;
}

size_t boundaries_find(const Program *p, Arena *a, Boundary **out) {
    VEC(Boundary) found = {0};
    const ArtArg logits = {ART_ARG_ROWS, p->meta.vocab, p->plan.logits_offset};
    for (size_t j = 1; j < p->steps.count; j++) {
        ArtArg alive;
        /* the steps of one region write one buffer together */
        if (p->steps.data[j].region == p->steps.data[j - 1].region || state_across(p, j)) continue;
        if (program_alive(p, j, &logits, &alive, 1) != 1) continue;
        VEC_PUSH(a, &found, ((Boundary){(uint32_t)j, alive.width, alive.value}));
    }
    *out = found.data;
    return found.count;
}

/* ---- memory ---- */

static FILE *disk_file(size_t bytes, Diag *d) {
    FILE *f = tmpfile();
    if (f && !ftruncate(fileno(f), (off_t)bytes)) return f;
    diag_error(d, loc_none(),
               "cannot keep %zu MB of log-probabilities on disk: %s; hint: measure on less text", bytes >> 20,
               strerror(errno));
    if (f) fclose(f);
    return NULL;
}

bool store_new(size_t bytes, bool on_disk, Store *out, Diag *d) {
    *out = (Store){0};
    if (!bytes) return true;
    FILE *f = on_disk ? disk_file(bytes, d) : NULL;
    if (on_disk && !f) return false;
    int flags = f ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, f ? fileno(f) : -1, 0);
    if (f) fclose(f); /* the map holds it */
    if (data == MAP_FAILED)
        return diag_error(d, loc_none(), "no memory to keep %zu MB for measuring", bytes >> 20);
    *out = (Store){data, bytes};
    return true;
}

void store_free(Store *s) {
    if (s->data) munmap(s->data, s->bytes);
    *s = (Store){0};
}

/* ---- texts ---- */

static size_t kept_bytes(const LabTexts *all, bool rows) {
    size_t sum = 0;
    for (const LabText *x = all->first; x; x = x->next) sum += rows ? x->rows.bytes : x->base.bytes;
    return sum;
}

static void rows_drop(const LabTexts *all, LabText *x) {
    store_free(&x->rows);
    memset(x->stamp, 0, all->nboundaries * sizeof *x->stamp);
}

/* Room for the rows of all boundaries, when it can be had without giving up the bound. */
static void rows_reserve(LabTexts *all, LabText *x) {
    uint64_t floats = 0, rows = (uint64_t)(x->shape.windows * x->shape.length);
    if (x->rows.data) return;
    for (size_t b = 0; b < all->nboundaries; b++) {
        x->at[b] = floats;
        floats += rows * all->boundaries[b].width;
    }
    if (floats > KEPT_BYTES / sizeof(float)) return;
    for (LabText *y = all->first; y && kept_bytes(all, true) + floats * sizeof(float) > KEPT_BYTES;
         y = y->next)
        rows_drop(all, y);
    Diag none; /* without room runs start from the first step */
    diag_init(&none);
    store_new((size_t)floats * sizeof(float), false, &x->rows, &none);
    diag_free(&none);
}

static uint64_t text_key(const Windows *t) {
    const int64_t shape[3] = {t->windows, t->length, t->from};
    return hash_bytes(t->id, (size_t)(t->windows * t->length) * sizeof *t->id,
                      hash_bytes(shape, sizeof shape, 0));
}

static LabText *text_make(LabTexts *all, const Windows *t, uint64_t key) {
    LabText *x = arena_new_of(all->arena, LabText);
    *x = (LabText){.key = key, .shape = {NULL, t->windows, t->length, t->from}, .next = all->first};
    x->at = arena_array_of(all->arena, all->nboundaries, uint64_t);
    x->stamp = arena_array_of(all->arena, all->nboundaries, uint64_t);
    return all->first = x;
}

LabText *lab_text_find(LabTexts *all, const Windows *t) {
    uint64_t key = text_key(t);
    LabText *x = all->first;
    while (x && x->key != key) x = x->next;
    if (!x) x = text_make(all, t, key);
    rows_reserve(all, x);
    return x;
}

bool lab_text_reserve(const LabTexts *all, LabText *x, Diag *d) {
    size_t bytes;
    if (x->base.data) return true;
    if (!mul_size((size_t)(x->shape.windows * lab_text_scored(x)), all->vocab * sizeof(float), &bytes))
        return diag_error(d, loc_none(), "a text of %lld windows is too much to measure on",
                          (long long)x->shape.windows);
    return store_new(bytes, kept_bytes(all, false) + bytes > KEPT_BYTES, &x->base, d);
}

void lab_texts_free(LabTexts *all) {
    for (LabText *x = all->first; x; x = x->next) {
        store_free(&x->base);
        store_free(&x->rows);
    }
}

static float *rows_at(const LabTexts *all, const LabText *x, size_t b, int64_t first) {
    return (float *)x->rows.data + x->at[b] + (uint64_t)(first * x->shape.length) * all->boundaries[b].width;
}

static size_t rows_bytes(const LabTexts *all, const LabText *x, size_t b, uint32_t n) {
    return (size_t)(n * x->shape.length) * all->boundaries[b].width * sizeof(float);
}

void lab_text_keep(const LabTexts *all, LabText *x, size_t b, int64_t first, uint32_t n, const LabModel *m) {
    memcpy(rows_at(all, x, b, first), probe_buffer(m->session, all->boundaries[b].offset),
           rows_bytes(all, x, b, n));
}

void lab_text_restore(const LabTexts *all, const LabText *x, size_t b, int64_t first, uint32_t n,
                      LabModel *m) {
    memcpy(probe_buffer(m->session, all->boundaries[b].offset), rows_at(all, x, b, first),
           rows_bytes(all, x, b, n));
}
