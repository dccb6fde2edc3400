/* decode_forms.c: the forms in which the persistent kernel reads matrices.
 *
 * Layers that differ in the forms of their weights alone are one loop. A product of compressed weights, or of weights whose
 * form differs between layers, calls a function of its k, which has each form once however many products there are, so
 * that the code stays small; which form it is stands in the table of places, and so does where the matrix's grid is. */
#include "codegen/cuda/decode.h"

#include <string.h>

enum { STAGE_BYTES = 16384 /* of ring.cu */, MOST_GRID_WORDS = 16384 };

/* Words of a grid's table (GridTable of ring_codes.cu). */
static const uint32_t table_words[DECODE_GRIDS] = {32, 512, 1024};

static const ArtStep *step_of(const Decode *d, uint32_t step) { return &d->e->p->steps.data[step]; }
static const char *form_of(const Decode *d, uint32_t step) {
    return emit_form(d->e, &step_of(d, step)->arg[1]);
}
static bool is_codes(const Decode *d, uint32_t step) { return decode_art(d, step, 1)->layout == ART_GROUP16; }

static ArtGroups groups_of(const Decode *d, uint32_t step) {
    const ArtTensor *w = decode_art(d, step, 1);
    return w->layout == ART_GROUP16 ? art_groups(w->dtype, w->flags, w->group) : (ArtGroups){0};
}

/* The step's counterpart in the layer, itself where it is in none. */
static uint32_t in_layer(const Decode *d, uint32_t step, uint32_t layer) {
    const DecodeSteps *s = &d->steps;
    bool inside = s->count && step >= s->first && step < s->first + s->count * s->period;
    return inside ? s->first + (step - s->first) % s->period + layer * s->period : step;
}

static bool forms_differ(const Decode *d, uint32_t step) {
    for (uint32_t l = 1; l < d->steps.count; l++)
        if (strcmp(form_of(d, in_layer(d, step, 0)), form_of(d, in_layer(d, step, l))) != 0) return true;
    return false;
}

/* A product that calls a function. */
static bool is_called(const Decode *d, uint32_t step) {
    return step_of(d, step)->kernel == ART_K_LINEAR && (is_codes(d, step) || forms_differ(d, step));
}

static DecodeForms *forms_of_k(Decode *d, uint32_t k) {
    for (size_t i = 0; i < d->forms.count; i++)
        if (d->forms.data[i].k == k) return &d->forms.data[i];
    VEC_PUSH(d->e->arena, &d->forms, (DecodeForms){.k = k});
    return &d->forms.data[d->forms.count - 1];
}

/* Which of the forms of its k the step's matrix has; the number of all: none yet. */
static uint32_t form_number(const Decode *d, const DecodeForms *f, uint32_t step) {
    uint32_t i = 0;
    while (i < f->steps.count && strcmp(form_of(d, f->steps.data[i]), form_of(d, step)) != 0) i++;
    return i;
}

static uint32_t grid_kind(const Decode *d, uint32_t step) {
    switch (groups_of(d, step).grid) {
    case ART_GRID_INT8: return 0;
    case ART_GRID_PAIRS: return 1;
    case ART_GRID_QUADS: return 2;
    default: return DECODE_GRIDS;
    }
}

static void add_grid(Decode *d, uint32_t step) {
    uint32_t kind = grid_kind(d, step), tensor = (uint32_t)step_of(d, step)->arg[1].value;
    if (kind == DECODE_GRIDS) return;
    for (size_t i = 0; i < d->grids[kind].tensors.count; i++)
        if (d->grids[kind].tensors.data[i] == tensor) return;
    VEC_PUSH(d->e->arena, &d->grids[kind].tensors, tensor);
}

bool decode_forms(Decode *d) {
    for (uint32_t i = 0; i < d->steps.n; i++) {
        ArtGroups g;
        if (!is_called(d, i)) continue;
        DecodeForms *f = forms_of_k(d, step_of(d, i)->u.linear.k);
        if (form_number(d, f, i) == f->steps.count) VEC_PUSH(d->e->arena, &f->steps, i);
        add_grid(d, i);
        f->grids = f->grids || grid_kind(d, i) != DECODE_GRIDS;
        g = groups_of(d, i);
        if (g.panel_head && g.panel_head + g.block > STAGE_BYTES)
            d->unable = "weights in blocks larger than a tile whose scales are codes";
    }
    if (decode_grid_words(d) > MOST_GRID_WORDS)
        d->unable = "more learned grids than a block's memory has room for";
    return !d->unable;
}

uint32_t decode_grid_words(const Decode *d) {
    uint32_t words = 0;
    for (uint32_t i = 0; i < DECODE_GRIDS; i++) words += table_words[i] * (uint32_t)d->grids[i].tensors.count;
    return words;
}

/* ---- numbers in the table of places ---- */
static uint32_t grid_at(const Decode *d, uint32_t step) {
    uint32_t kind = grid_kind(d, step), at = 0, i = 0;
    if (kind == DECODE_GRIDS) return 0;
    for (uint32_t k = 0; k < kind; k++) at += table_words[k] * (uint32_t)d->grids[k].tensors.count;
    while (d->grids[kind].tensors.data[i] != step_of(d, step)->arg[1].value) i++;
    return at + i * table_words[kind];
}

uint32_t decode_number(Decode *d, uint32_t step, DecodePlaceOf of) {
    return of == DECODE_GRID ? grid_at(d, step)
                             : form_number(d, forms_of_k(d, step_of(d, step)->u.linear.k), step);
}

/* The number as text: itself where all layers have the same. */
static const char *number(Decode *d, uint32_t step, DecodePlaceOf of) {
    uint32_t own = decode_number(d, step, of);
    for (uint32_t l = 0; l < d->steps.count; l++)
        if (decode_number(d, in_layer(d, step, l), of) != own) return decode_place(d, step, 1, of);
    return arena_printf(d->e->arena, "%u", own);
}

/* ---- what a product calls ---- */
static const char *form_argument(Decode *d, const DecodeForms *f, uint32_t step) {
    return f->steps.count == 1 ? "" : arena_printf(d->e->arena, ", %s", number(d, step, DECODE_FORM));
}

const char *decode_bring_call(Decode *d, uint32_t step) {
    Arena *a = d->e->arena;
    uint32_t k = step_of(d, step)->u.linear.k;
    const char *from = arena_printf(a, "bytes_at(weights, %s), p", decode_place(d, step, 1, DECODE_OFFSET));
    if (!is_called(d, step))
        return arena_printf(a, "bring_panel<%s, %u>(ring, %s)", emit_type(d->e, &step_of(d, step)->arg[1]), k,
                            from);
    return arena_printf(a, "ring_after(ring, bring_%u(ring, %s%s))", k, from,
                        form_argument(d, forms_of_k(d, k), step));
}

const char *decode_sum_call(Decode *d, uint32_t step, uint32_t x) {
    Arena *a = d->e->arena;
    uint32_t k = step_of(d, step)->u.linear.k;
    const char *in = arena_printf(a, "local + %u, local + (parts ^= 128)", x);
    if (!is_called(d, step))
        return arena_printf(a, "ring_sum<%s, %u>(ring, %s)", emit_type(d->e, &step_of(d, step)->arg[1]), k,
                            in);
    DecodeForms *f = forms_of_k(d, k);
    const char *grid = f->grids ? arena_printf(a, ", grids + %s", number(d, step, DECODE_GRID)) : "";
    return arena_printf(a, "ring_after(ring, sum_%u(ring, %s%s%s))", k, in, grid, form_argument(d, f, step));
}

/* ---- the functions ---- */
static void write_cases(const Decode *d, const DecodeForms *f, Text *t, bool bring) {
    bool several = f->steps.count > 1;
    if (several) text_add(t, "    switch (form) {\n");
    for (uint32_t i = 0; i < f->steps.count; i++) {
        uint32_t step = f->steps.data[i];
        bool codes = is_codes(d, step);
        const char *type = codes ? form_of(d, step) : emit_type(d->e, &step_of(d, step)->arg[1]);
        const char *label = !several                 ? ""
                            : i + 1 < f->steps.count ? arena_printf(d->e->arena, "case %u: ", i)
                                                     : "default: ";
        const char *grid = grid_kind(d, step) == DECODE_GRIDS ? "" : ", grid";
        text_printf(t, "    %s", label);
        if (bring)
            text_printf(t, "more = bring_%s<%s, %u>(ring, w, panel);", codes ? "codes" : "panel", type, f->k);
        else
            text_printf(t, "sum = ring_sum%s<%s, %u>(ring, x, part%s);", codes ? "_codes" : "", type, f->k,
                        grid);
        text_add(t, several && i + 1 < f->steps.count ? " break;\n" : "\n");
    }
    if (several) text_add(t, "    }\n");
}

void decode_forms_text(const Decode *d, Text *t) {
    for (size_t i = 0; i < d->forms.count; i++) {
        const DecodeForms *f = &d->forms.data[i];
        const char *form = f->steps.count > 1 ? ", u32 form" : "";
        text_printf(
            t,
            "/* A panel of a matrix with rows of %u, in each of the forms that layers store theirs in. */\n"
            "DEVICE_CALLED Stepped<bool> bring_%u(Ring ring, global<const u8> w, u32 panel%s) {\n    bool "
            "more;\n",
            f->k, f->k, form);
        write_cases(d, f, t, true);
        text_printf(
            t,
            "    return ring_step(ring, more);\n}\n"
            "DEVICE_CALLED Stepped<float> sum_%u(Ring ring, shared<float> x, shared<float> part%s%s) {\n"
            "    float sum;\n",
            f->k, f->grids ? ", shared<u32> grid" : "", form);
        write_cases(d, f, t, false);
        text_add(t, "    return ring_step(ring, sum);\n}\n");
    }
}

void decode_grids_text(const Decode *d, Text *t, uint32_t places) {
    static const uint32_t vector[DECODE_GRIDS] = {1, 2, 4};
    uint32_t at = 0;
    for (uint32_t i = 0; i < DECODE_GRIDS; i++) {
        uint32_t count = (uint32_t)d->grids[i].tensors.count;
        if (count)
            text_printf(t, "    grids_load<%u>(weights, places + %u, %u, grids + %u);\n", vector[i], places,
                        count, at);
        places += count;
        at += count * table_words[i];
    }
}
