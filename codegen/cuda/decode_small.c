/* decode_small.c: steps that every block computes for itself, and attention, for the persistent kernel. */
#include "codegen/cuda/decode.h"

static const ArtStep *step_of(const Decode *d, uint32_t step) { return &d->e->p->steps.data[step]; }

static bool unable(Decode *d, const char *why) {
    d->unable = why;
    return false;
}

static bool float_table(Decode *d, uint32_t step, uint32_t arg) {
    const ArtTensor *t = decode_art(d, step, arg);
    return t->layout != ART_GROUP16 && (t->dtype == ART_F32 || t->dtype == ART_F16 || t->dtype == ART_BF16);
}

static bool write_table_row(Decode *d, uint32_t step) {
    const ArtStep *s = step_of(d, step);
    bool tokens = s->arg[1].kind == ART_ARG_TOKENS;
    if (!tokens && s->arg[1].kind != ART_ARG_POSITIONS) return unable(d, "a table read by computed indices");
    text_printf(&d->body, "        gather_local<%s, %u>(local + %u, %s, %s);\n", emit_form(d->e, &s->arg[0]),
                s->u.gather.width, decode_new_local(d, step), decode_tensor(d, step, 0),
                tokens ? "token" : "position");
    return true;
}

static bool write_local_norm(Decode *d, uint32_t step) {
    const ArtStep *s = step_of(d, step);
    const ArtNorm *u = &s->u.norm;
    uint32_t x = decode_local(d, decode_source(d, step, 0)), y = decode_new_local(d, step);
    const char *gamma = decode_tensor(d, step, 1), *beta = decode_tensor(d, step, 2),
               *rms = u->rms ? "true" : "false";
    if (u->groups == 1) {
        text_printf(&d->body, "        norm_local<%u, %s>(local + %u, local + %u, %s, %s, %s, local + %u);\n",
                    u->width, rms, y, x, gamma, beta, emit_literal(d->e, u->eps), DECODE_NORM);
        return true;
    }
    const char *each[2];
    for (uint32_t i = 0; i < 2; i++)
        each[i] = s->arg[1 + i].kind == ART_ARG_TENSOR &&
                          decode_art(d, step, 1 + i)->dim[0] == (uint64_t)u->groups * u->width
                      ? "true"
                      : "false";
    text_printf(&d->body, "        norm_heads<%u, %u, %s, %s, %s>(local + %u, local + %u, %s, %s, %s);\n",
                u->groups, u->width, rms, each[0], each[1], y, x, gamma, beta, emit_literal(d->e, u->eps));
    return true;
}

static bool write_local_rope(Decode *d, uint32_t step) {
    const ArtRope *u = &step_of(d, step)->u.rope;
    uint32_t x = decode_local(d, decode_source(d, step, 0)), y = decode_new_local(d, step);
    const char *cosines = decode_tensor(d, step, 1), *sines = decode_tensor(d, step, 2);
    text_printf(&d->body, "        rope_local<%u, %u, %u, %s>(local + %u, local + %u, %s, %s, position);\n",
                u->heads, u->dim, u->rotated, u->interleaved ? "true" : "false", y, x, cosines, sines);
    return true;
}

static const ArtState *state_of(const Decode *d, uint32_t step, uint32_t arg) {
    return &d->e->p->states.data[step_of(d, step)->arg[arg].value];
}

static const char *state_text(Decode *d, uint32_t step, uint32_t arg) {
    const ArtState *s = state_of(d, step, arg);
    return arena_printf(d->e->arena, "state_at<%s, %u, %u>(cache, %s, sequence, context)", emit_kept(s),
                        s->heads, s->dim, decode_place(d, step, arg, DECODE_OFFSET));
}

static bool write_local_store(Decode *d, uint32_t step) {
    const ArtStore *u = &step_of(d, step)->u.store;
    uint32_t x = decode_local(d, decode_source(d, step, 0));
    text_printf(&d->body, "        store_local<%s, %u, %u>(local + %u, %s, position, context);\n",
                emit_kept(state_of(d, step, 1)), u->heads, u->dim, x, state_text(d, step, 1));
    return true;
}

static const char *load_local(void *user, const Emit *e, const ArtInsn *n) {
    Decode *d = user;
    const ArtArg *a = &e->s->arg[n->a];
    uint32_t width = e->s->u.pointwise.width;
    if (a->kind == ART_ARG_TOKENS) return "(float)token";
    if (a->kind == ART_ARG_POSITIONS) return "(float)position";
    if (a->kind == ART_ARG_TENSOR)
        return arena_printf(e->arena, "in%u[%s]", n->a, pointwise_index(e, n, width));
    return arena_printf(e->arena, "local[%u + (%s)]", d->value[decode_source(d, e->step, n->a)].local,
                        pointwise_index(e, n, width));
}

static bool write_local_pointwise(Decode *d, uint32_t step) {
    const ArtStep *s = step_of(d, step);
    for (uint32_t k = 0; k < 6; k++) {
        if (s->arg[k].kind == ART_ARG_ROWS) decode_local(d, decode_source(d, step, k));
        if (s->arg[k].kind == ART_ARG_TENSOR && !float_table(d, step, k))
            return unable(d, "compressed vectors");
    }
    uint32_t y = decode_new_local(d, step);
    text_add(&d->body, "        {\n");
    for (uint32_t k = 0; k < 6; k++)
        if (s->arg[k].kind == ART_ARG_TENSOR)
            text_printf(&d->body, "            const global<const float> in%u = %s;\n", k,
                        decode_tensor(d, step, k));
    text_printf(&d->body, "            for (u32 i = thread_index(); i < %u; i += RING_THREADS) {\n",
                s->u.pointwise.width);
    d->e->s = s;
    d->e->step = step;
    uint32_t result = pointwise_insns(d->e, &d->body, "                ", load_local, d);
    text_printf(
        &d->body,
        "                local[%u + i] = v%u;\n            }\n            consumers_meet();\n        }\n", y,
        result);
    return true;
}

static bool write_local_move(Decode *d, uint32_t step) {
    const ArtStep *s = step_of(d, step);
    const ArtMove *u = &s->u.move;
    uint32_t count = u->count[0] * u->count[1] * u->count[2] * u->count[3];
    if (count != s->arg[1].width) return unable(d, "a copy into a part of a row");
    uint32_t x = decode_local(d, decode_source(d, step, 0)), y = decode_new_local(d, step);
    text_printf(
        &d->body,
        "        move_local<%u, %u, %u, %u>(local + %u, {%u, %u, %u, %u}, local + %u, {%u, %u, %u, %u});\n",
        u->count[0], u->count[1], u->count[2], u->count[3], y + u->dst_offset, u->dst_stride[0],
        u->dst_stride[1], u->dst_stride[2], u->dst_stride[3], x + u->src_offset, u->src_stride[0],
        u->src_stride[1], u->src_stride[2], u->src_stride[3]);
    return true;
}

bool decode_small(Decode *d, uint32_t step) {
    switch (step_of(d, step)->kernel) {
    case ART_K_GATHER: return write_table_row(d, step);
    case ART_K_NORM: return write_local_norm(d, step);
    case ART_K_ROPE: return write_local_rope(d, step);
    case ART_K_STORE: return write_local_store(d, step);
    case ART_K_POINTWISE: return write_local_pointwise(d, step);
    case ART_K_MOVE: return write_local_move(d, step);
    default: return unable(d, "a kind of step that it does not know");
    }
}

/* ---- attention ---- */
static bool attention_fits(Decode *d, uint32_t step) {
    const ArtAttention *u = &step_of(d, step)->u.attention;
    const ArtState *k = state_of(d, step, 1), *v = state_of(d, step, 2);
    uint32_t piece = k->kept == ART_STATE_INT8 ? 16 : 4; /* numbers in 16 bytes */
    if (u->rounding[0][0] > 0 || u->rounding[1][0] > 0) return unable(d, "attention that rounds its scores");
    if (k->heads != u->kv_heads || v->heads != u->kv_heads || k->dim != u->dim || v->dim != u->vdim)
        return unable(d, "keys and values in one cache");
    if (u->dim % piece || u->vdim % piece) return unable(d, "heads that are no multiple of 16 bytes");
    return true;
}

bool decode_attention(Decode *d, uint32_t step) {
    const ArtStep *s = step_of(d, step);
    const ArtAttention *u = &s->u.attention;
    uint32_t group = u->heads / u->kv_heads, heads = emit_attention_heads(group), parts = group / heads;
    uint32_t own[2] = {decode_store(d, step, 1), decode_store(d, step, 2)};
    if (!attention_fits(d, step)) return false;
    if (own[0] == NO_STEP || own[1] == NO_STEP)
        return unable(d, "attention over a cache that no step before it writes");
    uint32_t q = decode_local(d, decode_source(d, step, 0)),
             key = decode_local(d, decode_source(d, own[0], 0)),
             value = decode_local(d, decode_source(d, own[1], 0));
    const char *keys = state_text(d, step, 1), *values = state_text(d, step, 2),
               *out = decode_new_words(d, step), *slopes = decode_tensor(d, step, 3),
               *sinks = decode_tensor(d, step, 4), *kept = emit_kept(state_of(d, step, 1));
    const char *head = arena_printf(
        d->e->arena, "        {\n            const Keys keys = keys_of(position, old, %u, %u);\n", u->window,
        u->kv_heads * parts);
    text_printf(
        &d->bring,
        "%s            if (!bring_keys<%s, %u, %u, %u, %u>(ring, turn, keys, %s, %s, context)) return "
        "ring_drain(ring);\n        }\n",
        head, kept, u->kv_heads, parts, u->dim, u->vdim, keys, values);
    const char *index = d->region == DECODE_LAYER
                            ? arena_printf(d->e->arena, "layer_attentions + %u", d->attentions)
                            : arena_printf(d->e->arena, "%u", d->attentions);
    text_printf(
        &d->body,
        "%s            const Attend a = {local + %u, local + %u, local + %u, local + %u, {%s, %s}, %s, %s,\n"
        "                              words + %u, %s, epoch, epoch * ATTENTIONS + %s};\n"
        "            attend<%s, %u, %u, %u, %u, %u>(ring, turn, keys, a, %s, %s, context);\n        }\n",
        head, q, key, value, DECODE_SCRATCH, emit_literal(d->e, u->scale), emit_literal(d->e, u->softcap),
        slopes, sinks, 2 * (2 * DECODE_MOST_BLOCKS + 2), out, index, kept, u->kv_heads, parts, heads, u->dim,
        u->vdim, keys, values);
    d->attentions++;
    return true;
}
