/* lab_text.c: places where a run may start, and what is kept of texts: log-probabilities, in memory as far as they are
 * few, the rest on disk; rows, those used last. */
#include "codegen/lab_text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/probe.h"

#define KEPT_MOST ((size_t)1 << 30)
#define KEPT_LEAST ((size_t)96 << 20)
#define KEPT_SMALL ((size_t)256 << 20) /* for this and half of the weights, of a small model */

/* A search's memory is to stay below one and a half times the weights; a small model's is small anyway. */
size_t lab_texts_most(uint64_t weight_bytes) {
    uint64_t most = weight_bytes / 8,
             small = weight_bytes / 2 < KEPT_SMALL ? KEPT_SMALL - weight_bytes / 2 : 0;
    most = most > small ? most : small;
    return most < KEPT_LEAST ? KEPT_LEAST : most > KEPT_MOST ? KEPT_MOST : (size_t)most;
}

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

static size_t base_bytes(const LabTexts *all) {
    size_t sum = 0;
    for (const LabText *x = all->first; x; x = x->next) sum += x->borrowed ? 0 : x->base.bytes;
    return sum;
}

static uint64_t text_key(const Windows *t) {
    const int64_t shape[3] = {t->windows, t->length, t->from};
    return hash_bytes(t->id, (size_t)(t->windows * t->length) * sizeof *t->id,
                      hash_bytes(shape, sizeof shape, 0));
}

static LabText *text_make(LabTexts *all, const Windows *t, uint64_t key) {
    LabText *x = arena_new_of(all->arena, LabText);
    *x = (LabText){.key = key, .shape = {NULL, t->windows, t->length, t->from}, .next = all->first};
    x->at = arena_array_of(all->arena, all->nboundaries, Kept);
    return all->first = x;
}

LabText *lab_text_find(LabTexts *all, const Windows *t) {
    uint64_t key = text_key(t);
    LabText *x = all->first;
    while (x && x->key != key) x = x->next;
    return x ? x : text_make(all, t, key);
}

bool lab_text_reserve(const LabTexts *all, LabText *x, Diag *d) {
    size_t bytes;
    if (x->base.data) return true;
    if (!mul_size((size_t)(x->shape.windows * lab_text_scored(x)), all->vocab * sizeof(float), &bytes))
        return diag_error(d, loc_none(), "a text of %lld windows is too much to measure on",
                          (long long)x->shape.windows);
    return store_new(bytes, base_bytes(all) + bytes > all->most, &x->base, d);
}

/* ---- rows ---- */

static size_t rows_bytes(const LabTexts *all, const LabText *x, size_t b, int64_t windows) {
    return (size_t)(windows * x->shape.length) * all->boundaries[b].width * sizeof(float);
}

static void rows_drop(LabTexts *all, Kept *k) {
    all->held -= k->rows.bytes;
    store_free(&k->rows);
    k->stamp = 0;
}

/* Whose rows were used least lately, but for x's from .. end - 1 and those of `start`; NULL: nobody's. */
static Kept *rows_oldest(const LabTexts *all, const LabText *x, int64_t start, size_t from, size_t end) {
    Kept *oldest = NULL;
    for (LabText *y = all->first; y; y = y->next)
        for (size_t b = 0; b < all->nboundaries; b++) {
            Kept *k = &y->at[b];
            if (!k->rows.data || (y == x && ((int64_t)b == start || (b >= from && b < end)))) continue;
            if (!oldest || k->used < oldest->used) oldest = k;
        }
    return oldest;
}

void lab_text_rows_reserve(LabTexts *all, LabText *x, int64_t start, size_t from, size_t end) {
    Diag none; /* without room runs start from the first step */
    diag_init(&none);
    for (size_t b = end; b-- > from;) {
        Kept *k = &x->at[b], *oldest;
        size_t bytes = rows_bytes(all, x, b, x->shape.windows);
        k->used = ++all->uses;
        if (k->rows.data) continue;
        while (all->held + bytes > all->most && (oldest = rows_oldest(all, x, start, b, end)))
            rows_drop(all, oldest);
        if (all->held + bytes > all->most || !store_new(bytes, false, &k->rows, &none)) continue;
        all->held += bytes;
    }
    diag_free(&none);
}

static float *rows_at(const LabTexts *all, const LabText *x, size_t b, int64_t first) {
    return (float *)x->at[b].rows.data + (uint64_t)(first * x->shape.length) * all->boundaries[b].width;
}

void lab_text_keep(const LabTexts *all, LabText *x, size_t b, int64_t first, uint32_t n, const LabModel *m) {
    if (x->at[b].rows.data)
        memcpy(rows_at(all, x, b, first), probe_buffer(m->session, all->boundaries[b].offset),
               rows_bytes(all, x, b, n));
}

void lab_text_restore(LabTexts *all, LabText *x, size_t b, int64_t first, uint32_t n, LabModel *m) {
    x->at[b].used = ++all->uses;
    memcpy(probe_buffer(m->session, all->boundaries[b].offset), rows_at(all, x, b, first),
           rows_bytes(all, x, b, n));
}

void lab_texts_free(LabTexts *all) {
    for (LabText *x = all->first; x; x = x->next) {
        if (!x->borrowed) store_free(&x->base);
        for (size_t b = 0; b < all->nboundaries; b++) store_free(&x->at[b].rows);
    }
}
