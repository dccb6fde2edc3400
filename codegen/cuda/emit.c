/* emit.c: steps of a Program to CUDA kernels and launches.
 *
 * Each kind of step has one writer, which says parameters, body and grid; kernel_finish gives the text a name
 * and makes it a function, or finds the function that has the same text already. */
#include "codegen/cuda/decode.h"

#include <stdio.h>
#include <string.h>

static const char *float_type(uint32_t dtype) {
    return dtype == ART_F16 ? "half" : dtype == ART_BF16 ? "bf16" : "float";
}

const char *emit_type(const Emit *e, const ArtArg *a) {
    const ArtTensor *t = &e->p->tensors.data[a->value].art;
    return t->layout == ART_GROUP16 ? "u8" : float_type(t->dtype);
}

const char *emit_form(const Emit *e, const ArtArg *a) {
    static const char *const zeros[] = {[ART_ZERO_SAME] = "ZERO_SAME",
                                        [ART_ZERO_BYTE] = "ZERO_BYTE",
                                        [ART_ZERO_FLOAT] = "ZERO_FLOAT",
                                        [ART_ZERO_HIGH] = "ZERO_HIGH"};
    static const char *const grids[] = {[ART_GRID_LINEAR] = "GRID_LINEAR",
                                        [ART_GRID_INT8] = "GRID_INT8",
                                        [ART_GRID_PAIRS] = "GRID_PAIRS",
                                        [ART_GRID_QUADS] = "GRID_QUADS",
                                        [ART_GRID_F8] = "GRID_F8"};
    const ArtTensor *t = &e->p->tensors.data[a->value].art;
    if (t->layout != ART_GROUP16)
        return arena_printf(e->arena, "%s<%s>", t->layout == ART_PANEL16 ? "Panels" : "Plain",
                            float_type(t->dtype));
    ArtGroups g = art_groups(t->dtype, t->flags, t->group);
    const char *scale = g.scale == ART_U8 ? "Coded<8>" : g.scale == ART_U6 ? "Coded<6>" : float_type(g.scale);
    return arena_printf(e->arena, "Codes<%u, %u, %s, %s, %u, %s>", g.bits, t->group, scale, zeros[g.zeros],
                        g.zero, grids[g.grid]);
}

/* A float as CUDA reads it back to the bit. */
const char *emit_literal(const Emit *e, float f) {
    char text[32];
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (!(f - f == 0)) return arena_printf(e->arena, "float_of_bits(0x%08xu)", bits); /* NaN or infinite */
    snprintf(text, sizeof text, "%.9g", (double)f);
    return arena_printf(e->arena, "%s%sf", text, strpbrk(text, ".e") ? "" : ".0");
}

/* ---- parameters ---- */
void kernel_begin(Emit *e) {
    e->params = text_new(e->arena);
    e->body = text_new(e->arena);
    e->launch = (ArtCudaLaunch){.step = e->step, .when = e->when, .grid = ART_GRID_ROWS, .blocks = 1};
    e->shared_bytes = 0;
    e->resident = 0;
}

void kernel_param(Emit *e, const char *type, const char *name, uint32_t kind, uint64_t value) {
    if (e->launch.n_args) text_add(&e->params, ", ");
    text_printf(&e->params, "%s %s", type, name);
    e->launch.arg[e->launch.n_args++] = (ArtCudaArg){kind, 0, value};
}

void kernel_read(Emit *e, const char *name, const ArtArg *a) {
    switch (a->kind) {
    case ART_ARG_ROWS: kernel_param(e, "global<const float>", name, ART_CUDA_ROWS, a->value); break;
    case ART_ARG_TENSOR:
        kernel_param(e, arena_printf(e->arena, "global<const %s>", emit_type(e, a)), name, ART_CUDA_TENSOR,
                     a->value);
        break;
    case ART_ARG_TOKENS: kernel_param(e, "global<const i32>", name, ART_CUDA_TOKENS, 0); break;
    case ART_ARG_POSITIONS: kernel_param(e, "global<const i32>", name, ART_CUDA_POSITIONS, 0); break;
    default: kernel_param(e, "global<const float>", name, ART_CUDA_NULL, 0); break;
    }
}

void kernel_write(Emit *e, const char *name, const ArtArg *a) {
    kernel_param(e, "global<float>", name, ART_CUDA_ROWS, a->value);
}

/* ---- functions ---- */
static uint32_t function_find(const CudaProgram *c, const char *body, uint32_t threads) {
    for (size_t i = 0; i < c->functions.count; i++)
        if (c->functions.data[i].threads == threads && !strcmp(c->functions.data[i].body, body))
            return (uint32_t)i;
    return UINT32_MAX;
}

static bool name_taken(const CudaProgram *c, const char *name) {
    for (size_t i = 0; i < c->functions.count; i++)
        if (!strcmp(c->functions.data[i].name, name)) return true;
    return false;
}

/* The node that a step computes last, for the comment. */
static const char *step_place(const Emit *e) {
    NodeId n = graph_def(e->g, e->p->step_out.data[e->step]);
    return node_ok(n) ? graph_describe(e->g, n, e->arena) : "a value";
}

void kernel_finish(Emit *e, const char *name, uint32_t threads, const char *what, double bytes, double ops) {
    CudaProgram *c = e->out;
    const char *body =
        arena_printf(e->arena, "(%s) {\n    grid_release();\n%s}\n", e->params.data, e->body.data);
    uint32_t f = function_find(c, body, threads);
    if (f == UINT32_MAX) {
        const char *unique = name;
        for (int i = 2; name_taken(c, unique); i++) unique = arena_printf(e->arena, "%s_%d", name, i);
        f = (uint32_t)c->functions.count;
        CudaFunction new = {unique, threads, e->shared_bytes, body, bytes, ops};
        VEC_PUSH(e->arena, &c->functions, new);
        text_printf(
            &c->source,
            "\n/* %s. First for %s.\n * Expected: %.4g KB, %.4g kilo-operations a row. */\nKERNEL(%u%s) %s%s",
            what, step_place(e), bytes / 1024, ops / 1e3, threads,
            e->resident ? arena_printf(e->arena, ", %u", e->resident) : "", unique, body);
    }
    e->launch.function = f;
    VEC_PUSH(e->arena, &c->launches, e->launch);
}

uint32_t emit_threads(uint64_t work) { return work >= 1024 ? 256 : work >= 128 ? 128 : 32; }

static bool emit_step(Emit *e) {
    if (e->s->kernel == ART_K_LINEAR && e->s->u.linear.round)
        return diag_error(e->diag, loc_none(),
                          "step %u rounds activations, which no CUDA kernel does; hint: --target cpu",
                          e->step);
    switch (e->s->kernel) {
    case ART_K_GATHER: return write_gather(e);
    case ART_K_NORM: return write_norm(e);
    case ART_K_LINEAR: return write_linear(e);
    case ART_K_ROPE: return write_rope(e);
    case ART_K_STORE: return write_store(e);
    case ART_K_ATTENTION: return write_attention(e);
    case ART_K_POINTWISE: return write_pointwise(e);
    case ART_K_REDUCE:
    case ART_K_SOFTMAX: return write_reduce(e);
    case ART_K_MOVE: return write_move(e);
    case ART_K_TOPK: return write_topk(e);
    case ART_K_PICK: return write_pick(e);
    case ART_K_ROUTED: return write_routed(e);
    default:
        return diag_error(e->diag, loc_none(), "step %u has no CUDA kernel; hint: --target cpu", e->step);
    }
}

static bool weights_known(const Emit *e) {
    for (int i = 0; i < ART_MAX_ARGS; i++) {
        const ArtArg *a = &e->s->arg[i];
        if (a->kind != ART_ARG_TENSOR) continue;
        const ArtTensor *t = &e->p->tensors.data[a->value].art;
        bool plain = t->dtype == ART_F32 || t->dtype == ART_F16 || t->dtype == ART_BF16;
        if (t->layout != ART_GROUP16 && !plain)
            return diag_error(
                e->diag, loc_none(),
                "step %u reads weights of a form for which there is no CUDA kernel; hint: --target cpu",
                e->step);
    }
    return true;
}

uint32_t cuda_launches(const CudaProgram *c) {
    uint32_t n = 1;
    for (size_t i = 0; i < c->launches.count; i++) n += (c->launches.data[i].when & ART_ROWS_1) != 0;
    return n;
}

static bool has_routed(const Program *p) {
    for (size_t i = 0; i < p->steps.count; i++)
        if (p->steps.data[i].kernel == ART_K_ROUTED) return true;
    return false;
}

static bool has_attention(const Emit *e, AttentionForm form) {
    for (size_t i = 0; i < e->p->steps.count; i++) {
        const ArtStep *s = &e->p->steps.data[i];
        if (s->kernel == ART_K_ATTENTION && emit_attention_form(e, &s->u.attention) == form) return true;
    }
    return false;
}

static bool has_codes(const Program *p) {
    for (size_t i = 0; i < p->tensors.count; i++)
        if (p->tensors.data[i].art.layout == ART_GROUP16) return true;
    return false;
}

void emit_texts(Emit *e, const CudaText *t) {
    for (; t->name; t++) {
        bool used = (!strstr(t->name, "code_") && !strstr(t->name, "codes")) || has_codes(e->p);
        if (!strncmp(t->name, "gemm", 4)) used = used && e->halves;
        if (!strcmp(t->name, "experts.cu")) used = has_routed(e->p);
        if (!strcmp(t->name, "cache_int8.cu")) used = emit_has_int8(e->p);
        if (!strcmp(t->name, "attention_tile.cu")) used = has_attention(e, ATTENTION_TILES);
        if (!strcmp(t->name, "attention_matrix.cu")) used = has_attention(e, ATTENTION_MATRIX);
        if (!strcmp(t->name, "attention_rounded.cu")) used = has_attention(e, ATTENTION_ROUNDED);
        if (used) text_add(&e->out->source, t->text);
    }
}

/* The last kernel of a graph of steps (kernels/draw.cu), which the runtime launches by itself. */
static void write_draw(Emit *e) {
    CudaProgram *c = e->out;
    uint32_t vocab = e->p->meta.vocab;
    CudaFunction f = {.name = "draw", .threads = 256, .body = "", .bytes = 4.0 * vocab, .ops = vocab};
    c->draw = (uint32_t)c->functions.count;
    VEC_PUSH(e->arena, &c->functions, f);
    text_printf(
        &c->source,
        "\n/* The tokens that follow the rows of a step, by blocks that share a row. Expected: %.4g KB a "
        "row. */\n"
        "KERNEL(256) draw(global<const float> logits, global<u32> asked, global<u64> words, global<i32> "
        "info, u32 chunk, global<u32> mail) {\n"
        "    SHARED(float, part, 2 * SAMPLE_BINS + 4);\n    SHARED(float, bests, 2 * RING_WARPS);\n"
        "    grid_wait();\n"
        "    draw_row<%u>(logits, asked, words, info, chunk, mail, part, bests);\n}\n",
        f.bytes / 1024, vocab);
}

bool cuda_emit(Graph *g, const Program *p, const CudaOptions *o, Arena *a, CudaProgram *out, Diag *d) {
    Emit e = {.g = g, .p = p, .out = out, .arena = a, .diag = d, .halves = o->halves};
    FusePlan fused;
    memset(out, 0, sizeof *out);
    fuse_plan(p, a, &fused);
    out->source = text_new(a);
    emit_texts(&e, cuda_texts);
    for (size_t i = 0; i < p->steps.count; i++) {
        e.step = (uint32_t)i;
        e.s = &p->steps.data[i];
        uint32_t group = fused.group_of[i];
        e.when = group == NO_STEP ? ART_ROWS_ANY : ART_ROWS_MANY;
        if (!weights_known(&e) || !emit_step(&e)) return false;
        if (group != NO_STEP && fused.groups.data[group].last == i)
            write_products(&e, &fused.groups.data[group]);
        rounded_forget(&e);
    }
    write_draw(&e);
    write_decode(&e);
    return true;
}
