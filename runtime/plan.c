/* plan.c: checks a whole PLAN once, so that running it needs no check.
 *
 * Steps are walked in order with the list of live buffers: a buffer is born when a step writes it and dies
 * when another is written over part of it. A step may read only a live buffer, whole. This bounds every
 * access and also catches a planner that let two values share a place. Shapes are limited (LIMIT_*), so
 * that 32-bit products of them cannot wrap in the kernels. */
#include "runtime/runtime.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

typedef struct {
    uint64_t offset;
    uint32_t width;
} Buffer;

typedef struct {
    const gptc_model *m;
    gptc_detail *why;
    uint32_t index; /* of the step at hand */
    const ArtStep *step;
    const ArtArg *out; /* its output */
    uint32_t n_live;
    Buffer live[LIMIT_LIVE];
    uint64_t stored[LIMIT_STATES / 64]; /* one bit a state */
} Check;

#define OK(call)                                                                                             \
    do {                                                                                                     \
        gptc_status ok_ = (call);                                                                            \
        if (ok_) return ok_;                                                                                 \
    } while (0)

static const char *const kernel_names[] = {
#define KERNEL(e, text, nin, doc) text,
    ART_KERNEL_LIST(KERNEL)
#undef KERNEL
};

uint32_t plan_inputs(uint32_t kernel) {
    static const uint8_t inputs[] = {
#define KERNEL(e, text, nin, doc) nin,
        ART_KERNEL_LIST(KERNEL)
#undef KERNEL
    };
    return inputs[kernel];
}

uint64_t plan_elements(const ArtTensor *t) {
    uint64_t n = 1;
    for (uint32_t i = 0; i < t->rank; i++) n *= t->dim[i];
    return n;
}

static gptc_status bad(const Check *c, const char *fmt, ...) RUNTIME_PRINTF(2, 3);
static gptc_status bad(const Check *c, const char *fmt, ...) {
    char text[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return status_fail(c->why, GPTC_E_FORMAT, "plan step %u (%s): %s", c->index,
                       kernel_names[c->step->kernel], text);
}

/* ---- live buffers ---- */
static bool overlap(uint64_t a, uint32_t a_width, uint64_t b, uint32_t b_width) {
    return a < b + 4 * (uint64_t)b_width && b < a + 4 * (uint64_t)a_width;
}

static bool is_live(const Check *c, uint64_t offset, uint32_t width) {
    for (uint32_t i = 0; i < c->n_live; i++)
        if (c->live[i].offset == offset && c->live[i].width == width) return true;
    return false;
}

static gptc_status write_buffer(Check *c, uint64_t offset, uint32_t width) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < c->n_live; i++)
        if (!overlap(c->live[i].offset, c->live[i].width, offset, width)) c->live[kept++] = c->live[i];
    if (kept == LIMIT_LIVE) return bad(c, "more than %d buffers alive", LIMIT_LIVE);
    c->live[kept++] = (Buffer){offset, width};
    c->n_live = kept;
    return GPTC_OK;
}

static bool in_row(const Check *c, uint64_t offset, uint64_t width) {
    uint64_t row = c->m->plan->row_bytes;
    return offset % 64 == 0 && width > 0 && width <= LIMIT_WIDTH && offset <= row &&
           4 * width <= row - offset;
}

/* ---- arguments ---- */
static const ArtTensor *tensor_of(const Check *c, uint32_t i) {
    return &c->m->tensors[c->step->arg[i].value];
}

/* Every argument lies in its table, inputs are written before, and none overlaps the output in part. */
static gptc_status args_check(Check *c) {
    const ArtPlan *p = c->m->plan;
    uint32_t n = plan_inputs(c->step->kernel);
    for (uint32_t i = 0; i < ART_MAX_ARGS; i++) {
        const ArtArg *a = &c->step->arg[i];
        bool output = i == n;
        switch (a->kind) {
        case ART_ARG_NONE: break;
        case ART_ARG_ROWS:
            if (!in_row(c, a->value, a->width)) return bad(c, "argument %u lies outside the row", i);
            if (!output && !is_live(c, a->value, a->width))
                return bad(c, "argument %u reads a buffer that nothing wrote", i);
            break;
        case ART_ARG_TENSOR:
            if (a->value >= c->m->n_tensors) return bad(c, "argument %u: no such tensor", i);
            break;
        case ART_ARG_STATE:
            if (a->value >= p->n_states) return bad(c, "argument %u: no such state", i);
            break;
        case ART_ARG_TOKENS:
        case ART_ARG_POSITIONS: break;
        default: return bad(c, "argument %u: kind %u is not known", i, a->kind);
        }
        if (i > n && a->kind != ART_ARG_NONE) return bad(c, "argument %u is one too many", i);
    }
    c->out = &c->step->arg[n];
    if (c->step->kernel == ART_K_STORE) {
        if (c->out->kind != ART_ARG_NONE) return bad(c, "has an output");
        return GPTC_OK;
    }
    if (c->out->kind != ART_ARG_ROWS) return bad(c, "no output");
    for (uint32_t i = 0; i < n; i++) {
        const ArtArg *a = &c->step->arg[i];
        bool same = a->value == c->out->value && a->width == c->out->width;
        if (a->kind == ART_ARG_ROWS && !same && overlap(a->value, a->width, c->out->value, c->out->width))
            return bad(c, "argument %u overlaps the output", i);
    }
    return GPTC_OK;
}

static bool is_output(const Check *c, uint32_t i) {
    const ArtArg *a = &c->step->arg[i];
    return a->kind == ART_ARG_ROWS && a->value == c->out->value;
}

static gptc_status rows_arg(const Check *c, uint32_t i, uint64_t width) {
    const ArtArg *a = &c->step->arg[i];
    if (a->kind != ART_ARG_ROWS) return bad(c, "argument %u is not a buffer", i);
    if (a->width != width) return bad(c, "argument %u is %u floats wide", i, a->width);
    return GPTC_OK;
}

static gptc_status none_or(const Check *c, uint32_t i,
                           gptc_status (*check)(const Check *, uint32_t, uint64_t), uint64_t n) {
    return c->step->arg[i].kind == ART_ARG_NONE ? GPTC_OK : check(c, i, n);
}

static gptc_status vector_arg(const Check *c, uint32_t i, uint64_t n) {
    if (c->step->arg[i].kind != ART_ARG_TENSOR) return bad(c, "argument %u is not a tensor", i);
    const ArtTensor *t = tensor_of(c, i);
    if (t->dtype != ART_F32 || t->layout != ART_PLAIN || plan_elements(t) != n)
        return bad(c, "argument %u is not a plain f32 tensor of %llu", i, (unsigned long long)n);
    return GPTC_OK;
}

static gptc_status rows_or_vector(const Check *c, uint32_t i, uint64_t n) {
    return c->step->arg[i].kind == ART_ARG_TENSOR ? vector_arg(c, i, n) : rows_arg(c, i, n);
}

/* A matrix of floats; dim[0] rows and dim[1] columns. */
static gptc_status matrix_arg(const Check *c, uint32_t i) {
    if (c->step->arg[i].kind != ART_ARG_TENSOR) return bad(c, "argument %u is not a tensor", i);
    const ArtTensor *t = tensor_of(c, i);
    if (t->rank != 2 || t->layout == ART_GROUP16 || t->dtype > ART_BF16)
        return bad(c, "argument %u is not a matrix of floats", i);
    return GPTC_OK;
}

/* A matrix of floats or of compressed weights. */
static gptc_status weights_arg(const Check *c, uint32_t i) {
    bool grouped = c->step->arg[i].kind == ART_ARG_TENSOR && tensor_of(c, i)->layout == ART_GROUP16;
    return grouped ? GPTC_OK : matrix_arg(c, i);
}

static gptc_status shape_check(const Check *c, uint64_t a, uint64_t b, uint64_t each, uint64_t total) {
    if (!a || !b || a > each || b > total || a * b > total) return bad(c, "shape out of range");
    return GPTC_OK;
}

/* ---- kernels ---- */
static gptc_status gather_check(const Check *c) {
    const ArtMeta *meta = c->m->meta;
    uint32_t width = c->step->u.gather.width;
    OK(weights_arg(c, 0));
    const ArtTensor *t = tensor_of(c, 0);
    uint32_t by = c->step->arg[1].kind;
    if (by != ART_ARG_TOKENS && by != ART_ARG_POSITIONS)
        return bad(c, "argument 1 is neither tokens nor positions");
    if (t->dim[0] < (by == ART_ARG_TOKENS ? meta->vocab : meta->context) || t->dim[1] != width)
        return bad(c, "the table does not fit");
    return rows_arg(c, 2, width);
}

static gptc_status norm_check(const Check *c) {
    const ArtNorm *u = &c->step->u.norm;
    OK(shape_check(c, u->groups, u->width, LIMIT_WIDTH, LIMIT_WIDTH));
    uint64_t all = (uint64_t)u->groups * u->width;
    if (u->rms > 1 || !isfinite(u->eps) || u->eps < 0) return bad(c, "rms or eps out of range");
    OK(rows_arg(c, 0, all));
    for (uint32_t i = 1; i <= 2; i++) {
        if (c->step->arg[i].kind == ART_ARG_NONE) continue;
        if (vector_arg(c, i, u->width) && vector_arg(c, i, all)) return GPTC_E_FORMAT;
    }
    return rows_arg(c, 3, all);
}

static gptc_status linear_check(const Check *c) {
    const ArtLinear *u = &c->step->u.linear;
    OK(weights_arg(c, 1));
    const ArtTensor *w = tensor_of(c, 1);
    if (w->layout == ART_PLAIN || w->dim[0] != u->n || w->dim[1] != u->k)
        return bad(c, "the weight is not PANEL16 or GROUP16 of n x k");
    if (u->act >= ART_ACT_COUNT) return bad(c, "activation %u is not known", u->act);
    if (u->round > u->k) return bad(c, "rounds %u columns of %u together", u->round, u->k);
    OK(rows_arg(c, 0, u->k));
    OK(none_or(c, 2, vector_arg, u->n));
    OK(none_or(c, 3, rows_or_vector, u->n));
    OK(none_or(c, 4, rows_or_vector, u->n));
    if (is_output(c, 0)) return bad(c, "the output is the input");
    return rows_arg(c, 5, u->n);
}

static gptc_status rope_check(const Check *c) {
    const ArtRope *u = &c->step->u.rope;
    OK(shape_check(c, u->heads, u->dim, LIMIT_HEADS, LIMIT_WIDTH));
    if (!u->rotated || u->rotated % 2 || u->rotated > u->dim || u->interleaved > 1)
        return bad(c, "rotates %u of %u", u->rotated, u->dim);
    OK(rows_arg(c, 0, (uint64_t)u->heads * u->dim));
    for (uint32_t i = 1; i <= 2; i++) {
        OK(matrix_arg(c, i));
        const ArtTensor *t = tensor_of(c, i);
        if (t->dtype != ART_F32 || t->layout != ART_PLAIN || t->dim[0] < c->m->meta->context ||
            t->dim[1] != u->rotated / 2)
            return bad(c, "argument %u is not a table of context x rotated/2", i);
    }
    return rows_arg(c, 3, (uint64_t)u->heads * u->dim);
}

static gptc_status state_arg(const Check *c, uint32_t i, uint32_t heads, uint32_t dim) {
    if (c->step->arg[i].kind != ART_ARG_STATE) return bad(c, "argument %u is not a state", i);
    const ArtState *s = &c->m->states[c->step->arg[i].value];
    if (s->heads != heads || s->dim != dim) return bad(c, "argument %u: the state has other dims", i);
    return GPTC_OK;
}

/* Some earlier step stores the state: the rows' own keys must be there. */
static gptc_status stored_before(const Check *c, uint32_t i) {
    uint64_t state = c->step->arg[i].value;
    if (c->stored[state / 64] >> state % 64 & 1) return GPTC_OK;
    return bad(c, "argument %u: nothing stored the state before", i);
}

static gptc_status store_check(const Check *c) {
    const ArtStore *u = &c->step->u.store;
    OK(state_arg(c, 1, u->heads, u->dim));
    if (c->index >= c->m->plan->head_step) return bad(c, "a store among the steps of the head");
    return rows_arg(c, 0, (uint64_t)u->heads * u->dim);
}

static gptc_status attention_check(const Check *c) {
    const ArtAttention *u = &c->step->u.attention;
    OK(shape_check(c, u->heads, u->dim, LIMIT_HEADS, LIMIT_WIDTH));
    OK(shape_check(c, u->heads, u->vdim, LIMIT_HEADS, LIMIT_WIDTH));
    if (u->dim > LIMIT_HEAD_DIM || u->vdim > LIMIT_HEAD_DIM)
        return bad(c, "more than %d floats a head", LIMIT_HEAD_DIM);
    if (!u->kv_heads || u->heads % u->kv_heads) return bad(c, "%u heads on %u", u->heads, u->kv_heads);
    if (!isfinite(u->scale) || !isfinite(u->softcap) || u->softcap < 0)
        return bad(c, "scale or softcap out of range");
    bool rounds = false;
    for (int i = 0; i < 2; i++) {
        const float *r = u->rounding[i];
        if (!(r[0] >= 0) || !isfinite(r[0]) || !(r[1] <= r[2])) return bad(c, "rounding out of range");
        rounds |= r[0] > 0;
    }
    if (rounds && c->m->meta->context > CPU_ROUNDED_KEYS)
        return bad(c, "rounded scores of more than %d positions", CPU_ROUNDED_KEYS);
    OK(state_arg(c, 1, u->kv_heads, u->dim));
    OK(state_arg(c, 2, u->kv_heads, u->vdim));
    OK(stored_before(c, 1));
    OK(stored_before(c, 2));
    OK(none_or(c, 3, vector_arg, u->heads));
    OK(none_or(c, 4, vector_arg, u->heads));
    OK(rows_arg(c, 0, (uint64_t)u->heads * u->dim));
    return rows_arg(c, 5, (uint64_t)u->heads * u->vdim);
}

/* The number of elements input a offers to LOAD, or 0. */
static uint64_t input_width(const Check *c, uint32_t i) {
    const ArtArg *a = &c->step->arg[i];
    if (a->kind == ART_ARG_ROWS) return a->width;
    if (a->kind == ART_ARG_TOKENS || a->kind == ART_ARG_POSITIONS) return 1;
    if (a->kind != ART_ARG_TENSOR) return 0;
    const ArtTensor *t = tensor_of(c, i);
    return t->dtype == ART_F32 && t->layout == ART_PLAIN ? plan_elements(t) : 0;
}

static gptc_status load_check(const Check *c, const ArtInsn *in) {
    uint32_t width = c->step->u.pointwise.width;
    uint64_t have = in->a < 6 ? input_width(c, in->a) : 0;
    if (!in->div || !in->mod || !have) return bad(c, "a load without an input");
    uint32_t last = (width - 1) / in->div;
    if (last > in->mod - 1) last = in->mod - 1;
    if (last >= have) return bad(c, "a load past input %u", in->a);
    if (is_output(c, in->a) && (in->div != 1 || in->mod < width))
        return bad(c, "input %u is the output, but not read in place", in->a);
    return GPTC_OK;
}

static gptc_status pointwise_check(const Check *c) {
    static const uint8_t operands[] = {
#define INSN(e, n) n,
        ART_INSN_LIST(INSN)
#undef INSN
    };
    const ArtPointwise *u = &c->step->u.pointwise;
    if (!u->count || u->count > LIMIT_PROGRAM || u->first > c->m->plan->n_insns ||
        u->count > c->m->plan->n_insns - u->first)
        return bad(c, "instructions %u + %u out of range", u->first, u->count);
    OK(rows_arg(c, 6, u->width));
    ART_ASSERT((ART_REGISTERS & (ART_REGISTERS - 1)) == 0, "registers are checked together");
    uint32_t written = 0; /* one bit a register */
    for (uint32_t i = 0; i < u->count; i++) {
        const ArtInsn *in = &c->m->insns[u->first + i];
        if (in->op >= ART_I_COUNT) return bad(c, "instruction %u: %u is not known", i, in->op);
        const uint8_t from[3] = {in->a, in->b, in->c};
        if ((in->a | in->b | in->c | in->dst) >= ART_REGISTERS) /* a power of two; unused ones too */
            return bad(c, "instruction %u: no such register", i);
        for (uint32_t k = 0; k < operands[in->op]; k++)
            if (!(written >> from[k] & 1))
                return bad(c, "instruction %u reads a register that is not set", i);
        if ((in->op == ART_I_STORE) != (i + 1 == u->count)) return bad(c, "the store is not last");
        if (in->op == ART_I_STORE) break;
        if (in->op == ART_I_LOAD) OK(load_check(c, in));
        written |= UINT32_C(1) << in->dst;
    }
    return GPTC_OK;
}

static gptc_status reduce_check(const Check *c) {
    const ArtReduce *u = &c->step->u.reduce;
    bool softmax = c->step->kernel == ART_K_SOFTMAX;
    OK(shape_check(c, u->outer, u->len, LIMIT_WIDTH, LIMIT_WIDTH));
    OK(shape_check(c, (uint64_t)u->outer * u->len, u->inner, LIMIT_WIDTH, LIMIT_WIDTH));
    if (!softmax && u->op >= ART_RED_COUNT) return bad(c, "reduction %u is not known", u->op);
    if (!softmax && is_output(c, 0)) return bad(c, "the output is the input");
    OK(rows_arg(c, 0, (uint64_t)u->outer * u->len * u->inner));
    return rows_arg(c, 1, (uint64_t)u->outer * (softmax ? u->len : 1) * u->inner);
}

static bool move_fits(const uint32_t count[4], const uint32_t stride[4], uint32_t offset, uint32_t width) {
    uint64_t last = offset;
    for (int i = 0; i < 4; i++) {
        if (!count[i] || count[i] > LIMIT_WIDTH) return false;
        if (count[i] > 1 && stride[i] > LIMIT_WIDTH) return false;
        last += (uint64_t)(count[i] - 1) * stride[i];
    }
    return last < width;
}

static gptc_status move_check(const Check *c) {
    const ArtMove *u = &c->step->u.move;
    const ArtArg *x = &c->step->arg[0];
    if (x->kind != ART_ARG_ROWS) return bad(c, "argument 0 is not a buffer");
    if (is_output(c, 0)) return bad(c, "the output is the input");
    uint64_t total = 1;
    for (int i = 0; i < 4; i++)
        if ((total *= u->count[i]) > LIMIT_WIDTH) return bad(c, "more than a row of elements");
    if (!move_fits(u->count, u->src_stride, u->src_offset, x->width))
        return bad(c, "reads outside its input");
    if (!move_fits(u->count, u->dst_stride, u->dst_offset, c->out->width))
        return bad(c, "writes outside its output");
    return GPTC_OK;
}

/* ---- choosing and routing ---- */

/* Floats of rows, or the same for every row from a plain tensor. */
static gptc_status rows_or_table(const Check *c, uint32_t i, uint64_t rows, uint64_t table) {
    if (c->step->arg[i].kind == ART_ARG_TENSOR) return vector_arg(c, i, table);
    return rows_arg(c, i, rows);
}

static gptc_status apart_check(const Check *c, uint32_t inputs) {
    for (uint32_t i = 0; i < inputs; i++)
        if (is_output(c, i)) return bad(c, "the output is argument %u", i);
    return GPTC_OK;
}

static gptc_status topk_check(const Check *c) {
    const ArtTopk *u = &c->step->u.topk;
    OK(shape_check(c, u->outer, u->len, LIMIT_WIDTH, LIMIT_PLACES));
    if (!u->count || u->count > u->len || u->smallest > 1) return bad(c, "%u of %u", u->count, u->len);
    OK(apart_check(c, 1));
    OK(rows_arg(c, 0, (uint64_t)u->outer * u->len));
    return rows_arg(c, 1, (uint64_t)u->outer * u->count);
}

static gptc_status pick_check(const Check *c) {
    const ArtPick *u = &c->step->u.pick;
    OK(shape_check(c, u->outer, u->len, LIMIT_WIDTH, LIMIT_PLACES));
    OK(shape_check(c, u->outer, u->count, LIMIT_WIDTH, LIMIT_WIDTH));
    OK(shape_check(c, (uint64_t)u->outer * u->count, u->inner, LIMIT_WIDTH, LIMIT_WIDTH));
    OK(shape_check(c, (uint64_t)u->outer * u->len, u->inner, LIMIT_WIDTH, LIMIT_WIDTH));
    uint64_t one = (uint64_t)u->len * u->inner;
    OK(apart_check(c, 2));
    OK(rows_or_table(c, 0, u->outer * one, one));
    OK(rows_arg(c, 1, (uint64_t)u->outer * u->count));
    return rows_arg(c, 2, (uint64_t)u->outer * u->count * u->inner);
}

/* Compressed ones stand one below the other in one matrix. */
static bool experts_fit(const ArtTensor *w, const ArtRouted *u) {
    if (w->layout == ART_GROUP16)
        return u->n % 16 == 0 && w->dim[0] == (uint64_t)u->experts * u->n && w->dim[1] == u->k;
    return w->layout == ART_PANEL16 && w->rank == 3 && w->dtype <= ART_BF16 && w->dim[0] == u->experts &&
           w->dim[1] == u->n && w->dim[2] == u->k;
}

static gptc_status routed_check(const Check *c) {
    const ArtRouted *u = &c->step->u.routed;
    OK(shape_check(c, u->slots, u->n, LIMIT_WIDTH, LIMIT_WIDTH));
    OK(shape_check(c, u->slots, u->k, LIMIT_WIDTH, LIMIT_WIDTH));
    OK(shape_check(c, u->slots, u->experts, LIMIT_PLACES, LIMIT_WIDTH));
    if (c->step->arg[2].kind != ART_ARG_TENSOR) return bad(c, "argument 2 is not a tensor");
    if (!experts_fit(tensor_of(c, 2), u))
        return bad(c, "the weight is not PANEL16 of experts x n x k, nor GROUP16 of whole panels of experts");
    if (u->act >= ART_ACT_COUNT || u->shared > 1) return bad(c, "activation %u is not known", u->act);
    OK(rows_arg(c, 0, (uint64_t)u->k * (u->shared ? 1 : u->slots)));
    OK(rows_arg(c, 1, u->slots));
    OK(none_or(c, 3, vector_arg, (uint64_t)u->experts * u->n));
    OK(none_or(c, 4, rows_arg, (uint64_t)u->slots * u->n));
    OK(apart_check(c, 2));
    return rows_arg(c, 5, (uint64_t)u->slots * u->n);
}

static gptc_status step_check(Check *c) {
    static gptc_status (*const check[ART_K_COUNT])(const Check *) = {
        [ART_K_GATHER] = gather_check,       [ART_K_NORM] = norm_check,
        [ART_K_LINEAR] = linear_check,       [ART_K_ROPE] = rope_check,
        [ART_K_STORE] = store_check,         [ART_K_ATTENTION] = attention_check,
        [ART_K_POINTWISE] = pointwise_check, [ART_K_REDUCE] = reduce_check,
        [ART_K_SOFTMAX] = reduce_check,      [ART_K_MOVE] = move_check,
        [ART_K_TOPK] = topk_check,           [ART_K_PICK] = pick_check,
        [ART_K_ROUTED] = routed_check};
    if (c->step->kernel >= ART_K_COUNT)
        return status_fail(c->why, GPTC_E_UNSUPPORTED, "plan step %u: kernel %u is not known", c->index,
                           c->step->kernel);
    OK(args_check(c));
    OK(check[c->step->kernel](c));
    if (c->step->kernel == ART_K_STORE) {
        uint64_t state = c->step->arg[1].value;
        c->stored[state / 64] |= UINT64_C(1) << state % 64;
        return GPTC_OK;
    }
    return write_buffer(c, c->out->value, c->out->width);
}

/* From here on only the head's buffer is alive: the rows of others are no longer where they were. */
static gptc_status head_check(Check *c) {
    const ArtPlan *p = c->m->plan;
    if (p->head_width > LIMIT_WIDTH ||
        (p->head_width && !is_live(c, p->head_offset, (uint32_t)p->head_width)))
        return status_fail(c->why, GPTC_E_FORMAT, "plan: the head's buffer is not alive at step %u",
                           p->head_step);
    c->n_live = 0;
    if (p->head_width) c->live[c->n_live++] = (Buffer){p->head_offset, (uint32_t)p->head_width};
    return GPTC_OK;
}

static gptc_status states_check(const gptc_model *m, gptc_detail *why) {
    for (uint32_t i = 0; i < m->plan->n_states; i++) {
        const ArtState *s = &m->states[i];
        if (!s->heads || !s->dim || s->heads > LIMIT_HEADS || s->dim > LIMIT_HEAD_DIM)
            return status_fail(why, GPTC_E_FORMAT, "plan state %u: %u heads of %u", i, s->heads, s->dim);
        if (s->kept >= ART_STATE_COUNT)
            return status_fail(why, GPTC_E_FORMAT, "plan state %u: numbers are kept in no known way (%u)", i,
                               s->kept);
        if (s->name_offset != UINT32_MAX && s->name_offset >= m->meta->text_bytes)
            return status_fail(why, GPTC_E_FORMAT, "plan state %u: name outside the text", i);
    }
    return GPTC_OK;
}

gptc_status plan_check(const gptc_model *m, gptc_detail *why) {
    const ArtPlan *p = m->plan;
    if (p->n_steps > LIMIT_STEPS || p->n_states > LIMIT_STATES || p->n_insns > LIMIT_INSNS ||
        p->row_bytes > LIMIT_ROW_BYTES || p->head_step > p->n_steps)
        return status_fail(why, GPTC_E_FORMAT, "plan: %u steps, %u states or %llu bytes a row out of range",
                           p->n_steps, p->n_states, (unsigned long long)p->row_bytes);
    OK(states_check(m, why));
    Check c = {.m = m, .why = why};
    for (uint32_t i = 0; i < p->n_steps; i++) {
        c.index = i;
        c.step = &m->steps[i];
        if (i == p->head_step) OK(head_check(&c));
        OK(step_check(&c));
    }
    if (p->head_step == p->n_steps) OK(head_check(&c));
    if (!is_live(&c, p->logits_offset, m->meta->vocab))
        return status_fail(why, GPTC_E_FORMAT, "plan: no step writes the logits");
    return GPTC_OK;
}
