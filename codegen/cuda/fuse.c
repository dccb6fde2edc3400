/* fuse.c: groups of steps for one launch (see fuse.h).
 *
 * A group runs where its last step stands, its blocks all at once. So nothing may be written that another step, or
 * another block of the group, still reads: buffers of a row are used again as soon as the plan is done with them, and
 * every range is held against every other. A group that does not pass loses its norm, then all but its product. */
#include "codegen/cuda/fuse.h"

#include <string.h>

enum { REACH = 48 }; /* steps between the first and the last of a group */

typedef struct {
    const Program *p;
    FusePlan *plan;
    Fused *g; /* under way */
} Fuse;

/* ---- what steps read and write ---- */
typedef struct {
    uint64_t at, end; /* bytes of a row; empty: at == end */
} Range;

static uint32_t inputs_of(uint32_t kernel) {
    static const uint8_t n[] = {
#define ART_KERNEL(e, text, nin, doc) nin,
        ART_KERNEL_LIST(ART_KERNEL)
#undef ART_KERNEL
    };
    return n[kernel];
}

static Range range_of(const ArtArg *a) {
    return a->kind == ART_ARG_ROWS ? (Range){a->value, a->value + 4 * (uint64_t)a->width} : (Range){0, 0};
}
static bool overlap(Range a, Range b) { return a.at < b.end && b.at < a.end; }
static bool same(Range a, Range b) { return a.at == b.at && a.end == b.end && a.at < a.end; }

static const ArtStep *step(const Fuse *f, uint32_t i) { return &f->p->steps.data[i]; }
static Range output_of(const ArtStep *s) {
    return s->kernel == ART_K_STORE ? (Range){0, 0} : range_of(&s->arg[inputs_of(s->kernel)]);
}
static uint32_t reads(const ArtStep *s, Range r) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < inputs_of(s->kernel); i++) n += overlap(range_of(&s->arg[i]), r);
    return n;
}
static bool uses_state(const ArtStep *s, uint64_t state) {
    for (int i = 0; i < ART_MAX_ARGS; i++)
        if (s->arg[i].kind == ART_ARG_STATE && s->arg[i].value == state) return true;
    return false;
}

static bool head_between(const Fuse *f, uint32_t a, uint32_t b) {
    return (a < f->p->plan.head_step) != (b < f->p->plan.head_step);
}

/* Calls of next give the readers of step i's output, in order; NO_STEP after the last. A read that is not of all of it,
 * or that is not a step's (rows are compacted at the head, logits leave), is reported as step i itself. */
typedef struct {
    const Fuse *f;
    Range r;
    uint32_t i, at;
    bool over;
} Readers;
static Readers readers_of(const Fuse *f, uint32_t i) {
    return (Readers){f, output_of(step(f, i)), i, i + 1, false};
}
static uint32_t readers_next(Readers *w) {
    const Program *p = w->f->p;
    Range head = {p->plan.head_offset, p->plan.head_offset + 4 * p->plan.head_width},
          logits = {p->plan.logits_offset, p->plan.logits_offset + 4 * (uint64_t)p->meta.vocab};
    while (!w->over && w->at < p->steps.count) {
        uint32_t j = w->at++;
        const ArtStep *s = step(w->f, j);
        if (j == p->plan.head_step && overlap(head, w->r)) return w->i;
        Range written = output_of(s);
        uint32_t n = reads(s, w->r);
        w->over = overlap(written, w->r);
        if (same(written, w->r) && s->kernel == ART_K_MOVE) return w->i; /* it changes a part */
        if (n > 1) return w->i;
        for (uint32_t k = 0; n && k < inputs_of(s->kernel); k++)
            if (same(range_of(&s->arg[k]), w->r)) return j;
        if (n) return w->i;
    }
    if (w->over) return NO_STEP;
    w->over = true;
    return overlap(logits, w->r) ? w->i : NO_STEP;
}

/* The step that alone reads step i's output; NO_STEP. */
static uint32_t sole_reader(const Fuse *f, uint32_t i) {
    Readers w = readers_of(f, i);
    uint32_t first = readers_next(&w);
    return first != i && first != NO_STEP && !head_between(f, i, first) && first - i < REACH &&
                   readers_next(&w) == NO_STEP
               ? first
               : NO_STEP;
}

/* ---- one product ---- */
static bool free_step(const Fuse *f, uint32_t i) { return f->plan->group_of[i] == NO_STEP; }

static bool same_form(const Fuse *f, const ArtArg *a, const ArtArg *b) {
    const ArtTensor *x = &f->p->tensors.data[a->value].art, *y = &f->p->tensors.data[b->value].art;
    return x->dtype == y->dtype && x->layout == y->layout && x->flags == y->flags && x->group == y->group;
}

/* Products of the same x by matrices of the same form. */
static bool alike(const Fuse *f, uint32_t i, uint32_t j) {
    const ArtStep *a = step(f, i), *b = step(f, j);
    return b->kernel == ART_K_LINEAR && same(range_of(&a->arg[0]), range_of(&b->arg[0])) &&
           a->u.linear.k == b->u.linear.k && same_form(f, &a->arg[1], &b->arg[1]);
}

static bool plain_table(const Fuse *f, const ArtArg *a) {
    return a->kind == ART_ARG_TENSOR && f->p->tensors.data[a->value].art.dtype == ART_F32;
}

/* A block has one panel of 16 outputs, or two, half of what is rotated apart; both elements of a pair must be there. */
static bool rope_fits(const Fuse *f, const FusedProduct *m, uint32_t i) {
    const ArtStep *s = step(f, i);
    const ArtRope *u = &s->u.rope;
    bool shape = u->interleaved
                     ? u->dim % 2 == 0
                     : (u->dim % 32 == 0 && u->rotated % 32 == 0) || (u->dim % 16 == 0 && u->rotated == 16);
    if (!shape || u->heads * u->dim != step(f, m->linear)->u.linear.n || !plain_table(f, &s->arg[1]) ||
        !plain_table(f, &s->arg[2]))
        return false;
    for (uint32_t k = 0; k < f->g->n; k++) { /* one pair of tables a launch */
        uint32_t other = f->g->product[k].rope;
        if (other != NO_STEP && (step(f, other)->arg[1].value != s->arg[1].value ||
                                 step(f, other)->arg[2].value != s->arg[2].value))
            return false;
    }
    return true;
}

static FusedProduct product_at(const Fuse *f, uint32_t i) {
    FusedProduct m = {i, NO_STEP, NO_STEP, NO_STEP};
    uint32_t r = sole_reader(f, i);
    if (r != NO_STEP && alike(f, i, r) && free_step(f, r) &&
        same(range_of(&step(f, r)->arg[3]), output_of(step(f, i))) &&
        step(f, i)->u.linear.n == step(f, r)->u.linear.n && !step(f, i)->arg[3].kind &&
        !step(f, i)->arg[4].kind) {
        m.gate = i;
        m.linear = r;
        r = sole_reader(f, r);
    }
    if (r != NO_STEP && step(f, r)->kernel == ART_K_ROPE && rope_fits(f, &m, r)) {
        m.rope = r;
        r = sole_reader(f, r);
    }
    if (r != NO_STEP && step(f, r)->kernel == ART_K_STORE &&
        step(f, r)->u.store.heads * step(f, r)->u.store.dim == step(f, m.linear)->u.linear.n)
        m.store = r;
    return m;
}

/* ---- a group ---- */
static bool in_product(const FusedProduct *m, uint32_t i) {
    return m->linear == i || m->gate == i || m->rope == i || m->store == i;
}
static bool in_group(const Fused *g, uint32_t i) {
    bool in = g->norm == i;
    for (uint32_t k = 0; k < g->n; k++) in = in || in_product(&g->product[k], i);
    return in;
}

static void group_close(Fused *g, uint32_t *first) {
    *first = g->norm;
    g->last = 0;
    for (uint32_t k = 0; k < g->n; k++) {
        const FusedProduct *m = &g->product[k];
        const uint32_t steps[] = {m->linear, m->gate, m->rope, m->store};
        for (int i = 0; i < 4; i++) {
            if (steps[i] == NO_STEP) continue;
            if (steps[i] > g->last) g->last = steps[i];
            if (steps[i] < *first) *first = steps[i];
        }
    }
}

/* What a product of the group reads from buffers and leaves there. */
typedef struct {
    Range x, gate, residual, written;
    uint64_t state; /* written; UINT64_MAX */
} Traffic;
static Traffic traffic_of(const Fuse *f, const Fused *g, uint32_t k) {
    const FusedProduct *m = &g->product[k];
    const ArtStep *s = step(f, m->linear);
    Traffic t = {.state = m->store == NO_STEP ? UINT64_MAX : step(f, m->store)->arg[1].value};
    t.x = range_of(&step(f, g->norm == NO_STEP ? m->linear : g->norm)->arg[0]);
    if (m->gate == NO_STEP) t.gate = range_of(&s->arg[3]);
    t.residual = range_of(&s->arg[4]);
    if (m->store == NO_STEP) t.written = output_of(step(f, m->rope == NO_STEP ? m->linear : m->rope));
    return t;
}

/* Whether a step between the group's, at j, and this product can change places. */
static bool commutes(const Fuse *f, const Traffic *t, uint32_t j) {
    const ArtStep *s = step(f, j);
    Range out = output_of(s);
    return !overlap(out, t->x) && !overlap(out, t->gate) && !overlap(out, t->residual) &&
           !overlap(out, t->written) && !reads(s, t->written) &&
           (t->state == UINT64_MAX || !uses_state(s, t->state));
}

uint32_t fuse_sides(const Program *p, const Fused *g) {
    for (uint32_t k = 0; k < g->n; k++) {
        const FusedProduct *m = &g->product[k];
        if (m->gate != NO_STEP || (m->rope != NO_STEP && fuse_apart(&p->steps.data[m->rope].u.rope)))
            return 2;
    }
    return 1;
}

/* Two panels a block want an even number of them. */
static bool sides_fit(const Fuse *f, const Fused *g) {
    for (uint32_t k = 0; k < g->n; k++)
        if (g->product[k].gate == NO_STEP && fuse_sides(f->p, g) == 2 &&
            step(f, g->product[k].linear)->u.linear.n % 32)
            return false;
    return true;
}

static bool group_sound(const Fuse *f, Fused *g) {
    uint32_t first;
    group_close(g, &first);
    if (head_between(f, first, g->last) || g->last - first > REACH || !sides_fit(f, g)) return false;
    for (uint32_t k = 0; k < g->n; k++) {
        Traffic t = traffic_of(f, g, k);
        for (uint32_t j = first; j < g->last; j++)
            if (!in_group(g, j) && !commutes(f, &t, j)) return false;
        for (uint32_t i = 0; i < g->n; i++) {
            Traffic o = traffic_of(f, g, i);
            bool own = i == k; /* an element's own thread reads it before it writes it */
            if (overlap(t.written, o.x) || (!own && overlap(t.written, o.written))) return false;
            if (overlap(t.written, o.gate) && !(own && same(t.written, o.gate))) return false;
            if (overlap(t.written, o.residual) && !(own && same(t.written, o.residual))) return false;
        }
    }
    return true;
}

/* The norm that makes x, when the group's products alone read it. */
static uint32_t norm_of(const Fuse *f, const Fused *g, uint32_t i) {
    Range x = range_of(&step(f, i)->arg[0]);
    uint32_t j = i;
    while (j-- > 0)
        if (overlap(output_of(step(f, j)), x)) break;
    if (j == UINT32_MAX || i - j > REACH || head_between(f, j, i)) return NO_STEP;
    const ArtStep *s = step(f, j);
    if (s->kernel != ART_K_NORM || s->u.norm.groups != 1 || !same(output_of(s), x)) return NO_STEP;
    Readers w = readers_of(f, j);
    for (uint32_t r; (r = readers_next(&w)) != NO_STEP;)
        if (r == j || !in_group(g, r) || step(f, r)->kernel != ART_K_LINEAR) return NO_STEP;
    return j;
}

static Fused group_at(Fuse *f, uint32_t i) {
    Fused g = {.norm = NO_STEP};
    f->g = &g;
    Range x = range_of(&step(f, i)->arg[0]);
    for (uint32_t j = i; j < f->p->steps.count && j - i < REACH && g.n < FUSED_PRODUCTS; j++) {
        if (head_between(f, i, j)) break;
        if (free_step(f, j) && !in_group(&g, j) && alike(f, i, j)) {
            FusedProduct m = product_at(f, j);
            g.product[g.n++] = m;
        }
        if (overlap(output_of(step(f, j)), x)) break;
    }
    g.norm = norm_of(f, &g, i);
    if (group_sound(f, &g)) return g;
    g.norm = NO_STEP;
    if (group_sound(f, &g)) return g;
    g = (Fused){.norm = NO_STEP, .last = i, .n = 1, .product = {{i, NO_STEP, NO_STEP, NO_STEP}}};
    return g;
}

void fuse_plan(const Program *p, Arena *a, FusePlan *out) {
    Fuse f = {.p = p, .plan = out};
    memset(out, 0, sizeof *out);
    out->group_of = arena_array_of(a, p->steps.count + 1, uint32_t);
    for (size_t i = 0; i < p->steps.count; i++) out->group_of[i] = NO_STEP;
    for (uint32_t i = 0; i < p->steps.count; i++) {
        if (step(&f, i)->kernel != ART_K_LINEAR || !free_step(&f, i)) continue;
        Fused g = group_at(&f, i);
        for (uint32_t j = 0; j < p->steps.count; j++)
            if (in_group(&g, j)) out->group_of[j] = (uint32_t)out->groups.count;
        VEC_PUSH(a, &out->groups, g);
    }
}
