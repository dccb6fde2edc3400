/* decode_steps.c: the plan's steps as values, and the longest run of layers that are alike.
 *
 * Two steps are alike when they run the same kernel with the same parameters, their tensors and states have the same
 * form, matrices of products excepted (decode_forms.c), and their operands were written equally many steps before. A run
 * of layers is a stretch of steps each of which is like the one a period later. */
#include "codegen/cuda/decode.h"

#include <string.h>

static const uint8_t inputs_of[] = {
#define ART_KERNEL(e, text, nin, doc) nin,
    ART_KERNEL_LIST(ART_KERNEL)
#undef ART_KERNEL
};

static bool operand_alike(const Program *p, const ArtArg *a, const ArtArg *b) {
    if (a->kind != b->kind || a->width != b->width) return false;
    if (a->kind == ART_ARG_STATE) return !memcmp(&p->states.data[a->value], &p->states.data[b->value], 12);
    if (a->kind != ART_ARG_TENSOR) return true;
    const ArtTensor *x = &p->tensors.data[a->value].art, *y = &p->tensors.data[b->value].art;
    return x->dtype == y->dtype && x->layout == y->layout && x->rank == y->rank && x->flags == y->flags &&
           x->group == y->group && !memcmp(x->dim, y->dim, sizeof x->dim);
}

static bool pointwise_alike(const Program *p, const ArtPointwise *a, const ArtPointwise *b) {
    return a->width == b->width && a->count == b->count &&
           !memcmp(&p->insns.data[a->first], &p->insns.data[b->first], a->count * sizeof(ArtInsn));
}

static bool steps_alike(const Program *p, const DecodeSteps *s, uint32_t i, uint32_t j) {
    const ArtStep *a = &p->steps.data[i], *b = &p->steps.data[j];
    if (a->kernel != b->kernel) return false;
    if (a->kernel == ART_K_POINTWISE ? !pointwise_alike(p, &a->u.pointwise, &b->u.pointwise)
                                     : memcmp(&a->u, &b->u, sizeof a->u) != 0)
        return false;
    for (uint32_t k = 0; k < ART_MAX_ARGS; k++) {
        bool matrix = a->kernel == ART_K_LINEAR && k == 1; /* of the same k and n */
        if (!matrix && !operand_alike(p, &a->arg[k], &b->arg[k])) return false;
        bool row = s->source[i][k] != NO_STEP;
        if (row != (s->source[j][k] != NO_STEP) || (row && i - s->source[i][k] != j - s->source[j][k]))
            return false;
    }
    return true;
}

/* A layer's operands come from itself or the one before, so that one set of places serves all. */
static bool loop_closed(const DecodeSteps *s, uint32_t first, uint32_t period) {
    for (uint32_t i = first; i < first + period; i++)
        for (uint32_t k = 0; k < ART_MAX_ARGS; k++) {
            uint32_t from = s->source[i][k];
            if (from != NO_STEP && from < first && from + period < first) return false;
        }
    return true;
}

static void loop_find(const Program *p, DecodeSteps *s) {
    uint32_t best = 0;
    for (uint32_t period = 3; period <= s->n / 2; period++)
        for (uint32_t first = 1; first + 2 * period <= s->n;) {
            uint32_t run = 0;
            while (first + run + period < s->n && steps_alike(p, s, first + run, first + run + period)) run++;
            uint32_t count = run / period + 1;
            if (count > 1 && count * period > best && first >= 1 && loop_closed(s, first, period)) {
                best = count * period;
                s->first = first, s->period = period, s->count = count;
            }
            first += run + 1;
        }
}

/* The last step that wrote the buffer. */
static uint32_t writer_of(const Program *p, const DecodeSteps *s, uint32_t reader, const ArtArg *a) {
    for (uint32_t i = reader; i-- > 0;) {
        const ArtArg *out = &p->steps.data[i].arg[s->out[i]];
        if (out->kind == ART_ARG_ROWS && out->value == a->value) return out->width == a->width ? i : NO_STEP;
    }
    return NO_STEP;
}

bool decode_steps(const Program *p, Arena *a, DecodeSteps *out) {
    uint32_t n = (uint32_t)p->steps.count;
    *out = (DecodeSteps){.n = n};
    out->source = arena_alloc(a, n * sizeof *out->source);
    out->out = arena_array_of(a, n, uint32_t);
    for (uint32_t i = 0; i < n; i++) {
        out->out[i] = inputs_of[p->steps.data[i].kernel];
        for (uint32_t k = 0; k < ART_MAX_ARGS; k++) {
            const ArtArg *arg = &p->steps.data[i].arg[k];
            out->source[i][k] = NO_STEP;
            if (arg->kind != ART_ARG_ROWS || k == out->out[i]) continue;
            out->source[i][k] = writer_of(p, out, i, arg);
            if (out->source[i][k] == NO_STEP) return false;
        }
    }
    loop_find(p, out);
    return true;
}
