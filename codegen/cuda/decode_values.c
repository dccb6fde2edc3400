/* decode_values.c: where values, tensors and words of the persistent kernel lie (see decode.h). */
#include "codegen/cuda/decode.h"

static bool in_loop(const DecodeSteps *s, uint32_t step) {
    return s->count && step >= s->first && step < s->first + s->count * s->period;
}

static uint32_t loop_end(const DecodeSteps *s) { return s->first + s->count * s->period; }

/* Steps that are written: all but the layers after the first one. */
static uint32_t next_written(const DecodeSteps *s, uint32_t step) {
    return s->count && step + 1 == s->first + s->period ? loop_end(s) : step + 1;
}

uint32_t decode_source(const Decode *d, uint32_t step, uint32_t arg) {
    const DecodeSteps *s = &d->steps;
    uint32_t from = s->source[step][arg];
    if (from == NO_STEP || !in_loop(s, from) || in_loop(s, step)) return from;
    from -= (s->count - 1) * s->period; /* what the last layer has left */
    return from >= s->first && d->value[from].carried ? from - s->period : from;
}

uint32_t decode_store(const Decode *d, uint32_t step, uint32_t arg) {
    const ArtStep *steps = d->e->p->steps.data;
    for (uint32_t i = step; i-- > 0;)
        if (steps[i].kernel == ART_K_STORE && steps[i].arg[1].value == steps[step].arg[arg].value) return i;
    return NO_STEP;
}

/* Values that a layer reads of the one before. */
static void find_carried(Decode *d) {
    const DecodeSteps *s = &d->steps;
    for (uint32_t i = s->first; s->count && i < s->first + s->period; i++)
        for (uint32_t k = 0; k < ART_MAX_ARGS; k++) {
            uint32_t from = s->source[i][k];
            if (from != NO_STEP && from < s->first) d->value[from + s->period].carried = true;
        }
}

bool decode_values(Decode *d) {
    const DecodeSteps *s = &d->steps;
    find_carried(d);
    for (uint32_t i = 0; i < s->n; i = next_written(s, i)) {
        d->value[i].width = d->e->p->steps.data[i].arg[s->out[i]].width;
        for (uint32_t k = 0; k < ART_MAX_ARGS; k++) {
            uint32_t raw = s->source[i][k], from = decode_source(d, i, k);
            if (from == NO_STEP) continue;
            bool after = s->count && i >= loop_end(s);
            if (after && raw < s->first && raw + s->period >= s->first && d->value[raw + s->period].carried) {
                d->unable = "a value from before the layers is read after them";
                return false;
            }
            if (after && in_loop(s, raw) && raw < loop_end(s) - s->period) {
                d->unable = "a value of an inner layer is read after all of them";
                return false;
            }
            d->value[from].uses++;
            if (d->value[from].last_use < i) d->value[from].last_use = i;
        }
        for (uint32_t k = 1; k <= 2 && d->e->p->steps.data[i].kernel == ART_K_ATTENTION; k++) {
            uint32_t store = decode_store(d, i, k),
                     from = store == NO_STEP ? NO_STEP : decode_source(d, store, 0);
            if (from != NO_STEP && d->value[from].last_use < i) d->value[from].last_use = i;
        }
    }
    for (uint32_t i = s->first; s->count && i < s->first + s->period; i++)
        if (d->value[i].carried) {
            uint32_t last = s->first + s->period - 1;
            DecodeValue *v = &d->value[i], *place = &d->value[i - s->period];
            v->uses++;
            v->last_use = last + 1; /* when it is carried over */
            if (place->last_use < last) place->last_use = last;
        }
    return true;
}

/* ---- tensors and states ---- */
const ArtTensor *decode_art(const Decode *d, uint32_t step, uint32_t arg) {
    return &d->e->p->tensors.data[d->e->p->steps.data[step].arg[arg].value].art;
}

const char *decode_place(Decode *d, uint32_t step, uint32_t arg, DecodePlaceOf of) {
    uint32_t before = (uint32_t)d->places[DECODE_BEFORE].items.count, i = 0;
    DecodePlace *items = d->places[d->region].items.data;
    uint32_t count = (uint32_t)d->places[d->region].items.count;
    while (i < count && (items[i].step != step || items[i].arg != arg || items[i].of != of)) i++;
    if (i == count) VEC_PUSH(d->e->arena, &d->places[d->region].items, ((DecodePlace){step, arg, of}));
    if (d->region == DECODE_LAYER) return arena_printf(d->e->arena, "place[layer_places + %u]", i);
    if (d->region == DECODE_AFTER)
        i += before + (uint32_t)d->places[DECODE_LAYER].items.count * d->steps.count;
    return arena_printf(d->e->arena, "place[%u]", i);
}

const char *decode_tensor(Decode *d, uint32_t step, uint32_t arg) {
    const ArtArg *a = &d->e->p->steps.data[step].arg[arg];
    if (a->kind == ART_ARG_NONE) return "nullptr";
    return arena_printf(d->e->arena, "tensor_at<%s>(weights, %s)", emit_type(d->e, a),
                        decode_place(d, step, arg, DECODE_OFFSET));
}

/* ---- words ---- */
static uint32_t words_before(const Decode *d, uint32_t region) {
    uint32_t at = 2 * (2 * DECODE_MOST_BLOCKS + 2) + d->partial_words;
    if (region > DECODE_BEFORE) at += d->words[DECODE_BEFORE];
    if (region > DECODE_LAYER) at += d->words[DECODE_LAYER] * d->steps.count;
    return at;
}

static const char *words_of(const Decode *d, const DecodeValue *v) {
    Arena *a = d->e->arena;
    if (v->region == DECODE_LAYER && d->region == DECODE_LAYER)
        return arena_printf(a, "words + (layer_words + %u)", v->words);
    uint32_t last = v->region == DECODE_LAYER ? d->words[DECODE_LAYER] * (d->steps.count - 1) : 0;
    return arena_printf(a, "words + %u", words_before(d, v->region) + last + v->words);
}

const char *decode_new_words(Decode *d, uint32_t value) {
    DecodeValue *v = &d->value[value];
    v->is_published = true;
    v->region = d->region;
    v->words = d->words[d->region];
    d->words[d->region] += (v->width + 1) / 2 * 2;
    return words_of(d, v);
}

/* ---- the block's memory ---- */
/* Room for so many floats: first fit, behind whatever is in the way, from the start again. */
static uint32_t room_for(const Decode *d, uint32_t count) {
    uint32_t at = DECODE_SCRATCH + d->scratch;
    for (size_t i = 0; i < d->slots.count;) {
        const DecodeSlot *s = &d->slots.data[i];
        bool meets = s->used && at < s->at + s->count && s->at < at + count;
        if (meets) at = s->at + s->count;
        i = meets ? 0 : i + 1;
    }
    return at;
}

static uint32_t padded(uint32_t width) { return (width + 3) / 4 * 4; }

static void place_at(Decode *d, DecodeValue *v, uint32_t at) {
    uint32_t count = padded(v->width);
    VEC_PUSH(d->e->arena, &d->slots, ((DecodeSlot){at, count, true, false}));
    if (at + count > d->floats) d->floats = at + count;
    v->is_local = true;
    v->local = at;
}

uint32_t decode_new_local(Decode *d, uint32_t value) {
    DecodeValue *v = &d->value[value];
    place_at(d, v, room_for(d, padded(v->width)));
    return v->local;
}

/* Read before the next wait for other blocks, that one included. */
static bool wanted_soon(const Decode *d, uint32_t value) {
    for (uint32_t i = d->now; i < d->end; i++) {
        uint32_t kernel = d->e->p->steps.data[i].kernel;
        if (d->done[i]) continue;
        for (uint32_t k = 0; k < ART_MAX_ARGS; k++)
            if (decode_source(d, i, k) == value) return true;
        if (kernel == ART_K_LINEAR || kernel == ART_K_ATTENTION) break;
    }
    return false;
}

/* What lies beside words from..to and may come with them. */
static DecodeValue *neighbour(const Decode *d, uint32_t from, uint32_t to) {
    for (uint32_t i = d->begin; i < d->end; i++) {
        DecodeValue *v = &d->value[i];
        bool beside = v->words == to || v->words + v->width == from;
        if (v->is_published && !v->is_local && v->region == d->region && beside && v->width % 4 == 0 &&
            wanted_soon(d, i))
            return v;
    }
    return NULL;
}

static void gather(Decode *d, uint32_t at, const DecodeValue *v, uint32_t count) {
    text_printf(&d->body, "        words_gather(local + %u, %s, %u, epoch);\n", at, words_of(d, v), count);
}

uint32_t decode_local(Decode *d, uint32_t value) {
    enum { MOST = 8 };
    DecodeValue *v = &d->value[value], *run[MOST] = {v}, *first = v, *more;
    uint32_t n = 1, from = v->words, to = v->words + padded(v->width);
    if (v->is_local) return v->local;
    v->is_local = true; /* no neighbour of itself */
    while (v->region == d->region && v->width % 4 == 0 && n < MOST &&
           (more = neighbour(d, from, to)) != NULL) {
        run[n++] = more;
        more->is_local = true;
        if (more->words < from) from = more->words, first = more;
        if (more->words + more->width > to) to = more->words + more->width;
    }
    uint32_t at = room_for(d, to - from);
    for (uint32_t i = 0; i < n; i++) place_at(d, run[i], at + run[i]->words - from);
    gather(d, at, first, n == 1 ? v->width : to - from);
    return v->local;
}

void decode_carry(Decode *d) {
    const DecodeSteps *s = &d->steps;
    text_add(&d->body, "        consumers_meet();\n");
    for (uint32_t i = s->first; i < s->first + s->period; i++) {
        const DecodeValue *v = &d->value[i];
        if (!v->carried) continue;
        uint32_t to = d->value[i - s->period].local;
        if (v->is_local)
            text_printf(&d->body, "        copy_local<%u>(local + %u, local + %u);\n", v->width, to,
                        v->local);
        else
            gather(d, to, v, v->width);
    }
}

void decode_retire(Decode *d, uint32_t step) {
    for (size_t i = 0; i < d->slots.count; i++)
        if (d->slots.data[i].retired) d->slots.data[i].used = false;
    for (uint32_t i = 0; i <= step; i++) {
        DecodeValue *v = &d->value[i];
        if (!v->is_local || v->last_use > step) continue;
        v->is_local = false;
        for (size_t k = 0; k < d->slots.count; k++)
            if (d->slots.data[k].used && d->slots.data[k].at == v->local) d->slots.data[k].retired = true;
    }
}
