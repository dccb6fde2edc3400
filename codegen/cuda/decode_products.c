/* decode_products.c: products of the persistent kernel. Those that read the same input are one phase, so they cost one
 * wait; one whose gate or residual is another's result is computed with it, panel by panel, by the same block. */
#include "codegen/cuda/decode.h"

enum { MOST_MEMBERS = 16 };
typedef struct {
    uint32_t step, leader, local_uses; /* leader: index of the first one of those computed together */
} Member;
typedef struct {
    Member m[MOST_MEMBERS];
    uint32_t n;
} Group;

static const ArtStep *step_of(const Decode *d, uint32_t step) { return &d->e->p->steps.data[step]; }

static uint32_t member_of(const Group *g, uint32_t step) {
    for (uint32_t i = 0; i < g->n; i++)
        if (g->m[i].step == step) return i;
    return NO_STEP;
}

/* Whether the block can have gate or residual when the phase begins, or makes it in the same panel. */
static bool joins(const Decode *d, const Group *g, uint32_t step, uint32_t *leader) {
    *leader = g->n;
    for (uint32_t k = 3; k <= 4; k++) {
        uint32_t from = decode_source(d, step, k);
        if (from == NO_STEP) continue;
        uint32_t member = member_of(g, from);
        if (member == NO_STEP && !d->value[from].is_local && !d->value[from].is_published) return false;
        if (member == NO_STEP) continue;
        if (*leader != g->n && *leader != g->m[member].leader) return false;
        *leader = g->m[member].leader;
    }
    return *leader == g->n || step_of(d, g->m[*leader].step)->u.linear.n == step_of(d, step)->u.linear.n;
}

static void group_find(Decode *d, uint32_t first, Group *g) {
    uint32_t x = decode_source(d, first, 0);
    g->n = 0;
    for (uint32_t i = first; i < d->end && g->n < MOST_MEMBERS; i++) {
        Member m = {.step = i};
        if (d->done[i] || step_of(d, i)->kernel != ART_K_LINEAR || decode_source(d, i, 0) != x) continue;
        if (!joins(d, g, i, &m.leader)) continue;
        for (uint32_t k = 3; k <= 4; k++) {
            uint32_t from = decode_source(d, i, k), member = from == NO_STEP ? NO_STEP : member_of(g, from);
            if (member != NO_STEP) g->m[member].local_uses++;
        }
        g->m[g->n++] = m;
        d->done[i] = true;
    }
}

static const char *operand(Decode *d, const Group *g, uint32_t step, uint32_t arg) {
    uint32_t from = decode_source(d, step, arg);
    if (from == NO_STEP) return arena_printf(d->e->arena, "%s[n]", decode_tensor(d, step, arg));
    if (member_of(g, from) != NO_STEP) return arena_printf(d->e->arena, "v%u", from);
    return arena_printf(d->e->arena, "local[%u + n]", decode_local(d, from));
}

static const char *load_head(void *user, const Emit *e, const ArtInsn *n) {
    const Decode *d = user;
    const ArtArg *a = &e->s->arg[n->a];
    if (a->kind == ART_ARG_ROWS) return arena_printf(e->arena, "v%u", d->head);
    return a->kind == ART_ARG_TOKENS ? "(float)token" : "(float)position";
}

/* What is done to a logit before it is one: a pointwise step behind the last product. */
static void write_logit(Decode *d) {
    uint32_t result = d->head;
    const char *value = arena_printf(d->e->arena, "v%u", d->head);
    if (d->logits != d->head) {
        d->e->s = step_of(d, d->logits);
        d->e->step = d->logits;
        text_add(&d->body, "                const u32 i = n;\n");
        result = pointwise_insns(d->e, &d->body, "                ", load_head, d);
        value = arena_printf(d->e->arena, "v%u", result);
    }
    text_printf(&d->body, "                logits[n] = %s;\n                best_take(best, %s, n);\n", value,
                value);
}

static void write_member(Decode *d, const Group *g, const Member *m) {
    const ArtStep *s = step_of(d, m->step);
    Text *t = &d->body;
    text_printf(t, "                float v%u = sum%u;\n", m->step, m->step);
    if (s->arg[2].kind)
        text_printf(t, "                v%u += %s[n];\n", m->step, decode_tensor(d, m->step, 2));
    emit_activation(t, s->u.linear.act, arena_printf(d->e->arena, "v%u", m->step), "                ");
    if (s->arg[3].kind) text_printf(t, "                v%u *= %s;\n", m->step, operand(d, g, m->step, 3));
    if (s->arg[4].kind) text_printf(t, "                v%u += %s;\n", m->step, operand(d, g, m->step, 4));
    if (m->step == d->head)
        write_logit(d);
    else if (d->value[m->step].uses > m->local_uses)
        text_printf(t, "                publish_word(%s + n, bits_of_float(v%u), epoch);\n",
                    decode_new_words(d, m->step), m->step);
}

/* The products that are computed together, panel by panel. */
static void write_together(Decode *d, const Group *g, uint32_t leader, uint32_t x) {
    const ArtLinear *u = &step_of(d, g->m[leader].step)->u.linear;
    const char *loop =
        arena_printf(d->e->arena, "for (u32 p = turn_take(turn, %u); p < %u; p += block_count())",
                     (u->n + 15) / 16, (u->n + 15) / 16);
    const char *join = "";
    text_printf(&d->bring, "        %s\n            if (!(", loop);
    text_printf(&d->body, "        %s {\n            const u32 n = p * 16 + thread_index();\n", loop);
    for (uint32_t i = leader; i < g->n; i++) {
        const Member *m = &g->m[i];
        if (m->leader != leader) continue;
        text_printf(&d->bring, "%s%s", join, decode_bring_call(d, m->step));
        text_printf(&d->body, "            const float sum%u = %s;\n", m->step,
                    decode_sum_call(d, m->step, x));
        join = " && ";
    }
    text_add(&d->bring, ")) return ring_drain(ring);\n");
    text_printf(&d->body, "            if (thread_index() < 16 && n < %u) {\n", u->n);
    for (uint32_t i = leader; i < g->n; i++)
        if (g->m[i].leader == leader) write_member(d, g, &g->m[i]);
    text_add(&d->body, "            }\n        }\n");
}

void decode_products(Decode *d, uint32_t step) {
    Group g;
    group_find(d, step, &g);
    for (uint32_t i = 0; i < g.n; i++) {
        for (uint32_t k = 3; k <= 4; k++) { /* before the loops over panels */
            uint32_t from = decode_source(d, g.m[i].step, k);
            if (from != NO_STEP && member_of(&g, from) == NO_STEP) decode_local(d, from);
        }
    }
    uint32_t x = decode_local(d, decode_source(d, step, 0));
    for (uint32_t i = 0; i < g.n; i++)
        if (g.m[i].leader == i) write_together(d, &g, i, x);
}
