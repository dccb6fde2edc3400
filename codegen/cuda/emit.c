/* emit.c: steps of a Program to CUDA kernels and launches.
 *
 * Each kind of step has one writer, which says parameters, body and grid; kernel_finish gives the text a name
 * and makes it a function, or finds the function that has the same text already. */
#include "codegen/cuda/cuda.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    Graph *g;
    const Program *p;
    CudaProgram *out;
    Arena *arena;
    Diag *diag;
    uint32_t step;
    const ArtStep *s;
    /* the kernel being written */
    Text params, body;
    ArtCudaLaunch launch;
} Emit;

static const char *tensor_type(const Emit *e, const ArtArg *a) {
    switch (e->p->tensors.data[a->value].art.dtype) {
    case ART_F16: return "half";
    case ART_BF16: return "bf16";
    default: return "float";
    }
}

/* A float as CUDA reads it back to the bit. */
static const char *literal(const Emit *e, float f) {
    char text[32];
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (!(f - f == 0)) return arena_printf(e->arena, "float_of_bits(0x%08xu)", bits); /* NaN or infinite */
    snprintf(text, sizeof text, "%.9g", (double)f);
    return arena_printf(e->arena, "%s%sf", text, strpbrk(text, ".e") ? "" : ".0");
}

/* ---- parameters ---- */
static void kernel_begin(Emit *e) {
    e->params = text_new(e->arena);
    e->body = text_new(e->arena);
    e->launch = (ArtCudaLaunch){.step = e->step, .when = ART_ROWS_ANY, .grid = ART_GRID_ROWS, .blocks = 1};
}

static void param(Emit *e, const char *type, const char *name, uint32_t kind, uint64_t value) {
    if (e->launch.n_args) text_add(&e->params, ", ");
    text_printf(&e->params, "%s %s", type, name);
    e->launch.arg[e->launch.n_args++] = (ArtCudaArg){kind, 0, value};
}

static void param_read(Emit *e, const char *name, const ArtArg *a) {
    switch (a->kind) {
    case ART_ARG_ROWS: param(e, "global<const float>", name, ART_CUDA_ROWS, a->value); break;
    case ART_ARG_TENSOR:
        param(e, arena_printf(e->arena, "global<const %s>", tensor_type(e, a)), name, ART_CUDA_TENSOR,
              a->value);
        break;
    case ART_ARG_TOKENS: param(e, "global<const i32>", name, ART_CUDA_TOKENS, 0); break;
    case ART_ARG_POSITIONS: param(e, "global<const i32>", name, ART_CUDA_POSITIONS, 0); break;
    default: param(e, "global<const float>", name, ART_CUDA_NULL, 0); break;
    }
}

static void param_write(Emit *e, const char *name, const ArtArg *a) {
    param(e, "global<float>", name, ART_CUDA_ROWS, a->value);
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

static void kernel_finish(Emit *e, const char *name, uint32_t threads, const char *what, double bytes,
                          double ops) {
    CudaProgram *c = e->out;
    const char *body = arena_printf(e->arena, "(%s) {\n%s}\n", e->params.data, e->body.data);
    uint32_t f = function_find(c, body, threads);
    if (f == UINT32_MAX) {
        const char *unique = name;
        for (int i = 2; name_taken(c, unique); i++) unique = arena_printf(e->arena, "%s_%d", name, i);
        f = (uint32_t)c->functions.count;
        CudaFunction new = {unique, threads, body, bytes, ops};
        VEC_PUSH(e->arena, &c->functions, new);
        text_printf(
            &c->source,
            "\n/* %s. First for %s.\n * Expected: %.4g KB, %.4g kilo-operations a row. */\nKERNEL(%u) %s%s",
            what, step_place(e), bytes / 1024, ops / 1e3, threads, unique, body);
    }
    e->launch.function = f;
    VEC_PUSH(e->arena, &c->launches, e->launch);
}

static uint32_t threads_for(uint64_t work) { return work >= 1024 ? 256 : work >= 128 ? 128 : 32; }

/* ---- steps ---- */
static bool emit_gather(Emit *e) {
    const ArtStep *s = e->s;
    const ArtTensor *t = &e->p->tensors.data[s->arg[0].value].art;
    uint32_t width = s->u.gather.width, threads = threads_for(width);
    bool tokens = s->arg[1].kind == ART_ARG_TOKENS;
    kernel_begin(e);
    param_read(e, "table", &s->arg[0]);
    param_read(e, "ids", &s->arg[1]);
    param_write(e, "y", &s->arg[2]);
    text_printf(&e->body,
                "    const u32 row = block_row();\n    grid_wait();\n    gather_row<%s, %u, %s>(table, "
                "(u32)ids[row], y + row * %u);\n",
                tensor_type(e, &s->arg[0]), width, t->layout == ART_PANEL16 ? "true" : "false", width);
    kernel_finish(
        e, arena_printf(e->arena, "gather_%s_%u", tokens ? "token" : "position", width), threads,
        arena_printf(e->arena, "One row of %u from a table of %llu", width, (unsigned long long)t->dim[0]),
        width * 8.0, width);
    return true;
}

static bool emit_norm(Emit *e) {
    const ArtStep *s = e->s;
    const ArtNorm *u = &s->u.norm;
    uint32_t threads = threads_for(u->width), all = u->groups * u->width;
    bool each[2] = {false, false}; /* a vector of its own for every group */
    for (int i = 0; i < 2; i++)
        each[i] = s->arg[1 + i].kind == ART_ARG_TENSOR && u->groups > 1 &&
                  e->p->tensors.data[s->arg[1 + i].value].art.dim[0] == all;
    kernel_begin(e);
    e->launch.blocks = u->groups;
    param_read(e, "x", &s->arg[0]);
    param_read(e, "gamma", &s->arg[1]);
    param_read(e, "beta", &s->arg[2]);
    param_write(e, "y", &s->arg[3]);
    text_printf(&e->body,
                "    SHARED(float, part, 64);\n    const u32 at = block_row() * %u + block_index() * %u;\n   "
                " grid_wait();\n",
                all, u->width);
    text_printf(&e->body, "    const Norm norm = {gamma%s, beta%s, %s, %s};\n",
                each[0] ? arena_printf(e->arena, " + block_index() * %u", u->width) : "",
                each[1] ? arena_printf(e->arena, " + block_index() * %u", u->width) : "", literal(e, u->eps),
                u->rms ? "true" : "false");
    text_printf(&e->body, "    norm_row<%u>(x + at, norm, part, [&](u32 i, float v) { y[at + i] = v; });\n",
                u->width);
    kernel_finish(e, arena_printf(e->arena, "%s_norm_%u", u->rms ? "rms" : "layer", u->width), threads,
                  arena_printf(e->arena, "%s norm of %u x %u", u->rms ? "RMS" : "Layer", u->groups, u->width),
                  all * 8.0, all * 6.0);
    return true;
}

static const char *const activations[] = {[ART_ACT_NONE] = NULL,
                                          [ART_ACT_RELU] = "relu(v)",
                                          [ART_ACT_GELU_ERF] = "gelu_erf(v)",
                                          [ART_ACT_GELU_TANH] = "gelu_tanh(v)",
                                          [ART_ACT_SILU] = "silu(v, 1.0f)",
                                          [ART_ACT_TANH] = "tanhf(v)",
                                          [ART_ACT_SIGMOID] = "sigmoid(v)"};
static const char *const activation_names[] = {
    [ART_ACT_NONE] = "",           [ART_ACT_RELU] = "_relu",
    [ART_ACT_GELU_ERF] = "_gelu",  [ART_ACT_GELU_TANH] = "_gelu_tanh",
    [ART_ACT_SILU] = "_silu",      [ART_ACT_TANH] = "_tanh",
    [ART_ACT_SIGMOID] = "_sigmoid"};

/* out(row, n, sum) of a product. */
static void linear_epilogue(Emit *e) {
    const ArtStep *s = e->s;
    const ArtLinear *u = &s->u.linear;
    text_printf(&e->body, "    auto out = [&](u32 row, u32 n, float v) {\n");
    if (s->arg[2].kind) text_printf(&e->body, "        v += bias[n];\n");
    if (activations[u->act]) text_printf(&e->body, "        v = %s;\n", activations[u->act]);
    static const char *const extra[] = {"        v *= gate[%s];\n", "        v += residual[%s];\n"};
    for (int i = 0; i < 2; i++) {
        const ArtArg *a = &s->arg[3 + i];
        const char *at = a->kind == ART_ARG_TENSOR ? "n" : arena_printf(e->arena, "row * %u + n", u->n);
        Text t = text_new(e->arena);
        if (!a->kind) continue;
        text_printf(&t, i ? extra[1] : extra[0], at);
        text_add(&e->body, t.data);
    }
    text_printf(&e->body, "        y[row * %u + n] = v;\n    };\n", u->n);
}

static void linear_variant(Emit *e, uint32_t rows, uint32_t when) {
    const ArtStep *s = e->s;
    const ArtLinear *u = &s->u.linear;
    const char *type = tensor_type(e, &s->arg[1]);
    double bytes = (double)u->k * u->n * (strcmp(type, "float") ? 2 : 4);
    kernel_begin(e);
    e->launch.when = when;
    e->launch.grid = rows ? ART_GRID_ONCE : ART_GRID_TILES;
    e->launch.blocks = rows ? (u->n + 15) / 16 : (u->n + 63) / 64;
    param_read(e, "x", &s->arg[0]);
    param_read(e, "w", &s->arg[1]);
    if (s->arg[2].kind) param_read(e, "bias", &s->arg[2]);
    if (s->arg[3].kind) param_read(e, "gate", &s->arg[3]);
    if (s->arg[4].kind) param_read(e, "residual", &s->arg[4]);
    param_write(e, "y", &s->arg[5]);
    if (rows != 1) param(e, "u32", "rows", ART_CUDA_COUNT, 0);
    if (rows)
        text_printf(&e->body, "    SHARED(float, part, %u);\n", 8 * rows * 16);
    else
        text_printf(&e->body, "    SHARED(float, xs, 64 * 16);\n    SHARED(float, ws, 64 * 16);\n");
    text_printf(&e->body,
                rows > 1
                    ? "    auto in = [&](u32 row, u32 k) { return row < rows ? x[row * %u + k] : 0.0f; };\n"
                    : "    auto in = [&](u32 row, u32 k) { return x[row * %u + k]; };\n",
                u->k);
    linear_epilogue(e);
    if (rows == 1)
        text_printf(&e->body, "    linear_few<%s, %u, %u, 1>(w, part, in, out);\n", type, u->k, u->n);
    else if (rows)
        text_printf(&e->body,
                    "    linear_few<%s, %u, %u, %u>(w, part, in, [&](u32 row, u32 n, float v) {\n        if "
                    "(row < rows) out(row, n, v);\n    });\n",
                    type, u->k, u->n, rows);
    else
        text_printf(&e->body, "    linear_many<%s, %u, %u>(w, rows, xs, ws, in, out);\n", type, u->k, u->n);
    const char *count = rows ? arena_printf(e->arena, "rows%u", rows) : "many";
    kernel_finish(e, arena_printf(e->arena, "linear_%ux%u%s_%s", u->k, u->n, activation_names[u->act], count),
                  256,
                  arena_printf(e->arena, "Product %u -> %u, weights %s%s%s%s", u->k, u->n, type,
                               s->arg[2].kind ? ", bias" : "", s->arg[3].kind ? ", gate" : "",
                               s->arg[4].kind ? ", residual" : ""),
                  bytes, 2.0 * u->k * u->n);
}

static bool emit_linear(Emit *e) {
    linear_variant(e, 1, ART_ROWS_1);
    linear_variant(e, 4, ART_ROWS_4);
    linear_variant(e, 8, ART_ROWS_8);
    linear_variant(e, 0, ART_ROWS_MANY);
    return true;
}

static bool emit_rope(Emit *e) {
    const ArtStep *s = e->s;
    const ArtRope *u = &s->u.rope;
    uint32_t width = u->heads * u->dim;
    kernel_begin(e);
    param_read(e, "x", &s->arg[0]);
    param_read(e, "cosines", &s->arg[1]);
    param_read(e, "sines", &s->arg[2]);
    param(e, "global<const i32>", "positions", ART_CUDA_POSITIONS, 0);
    param_write(e, "y", &s->arg[3]);
    text_printf(&e->body, "    const u32 row = block_row();\n    grid_wait();\n    const u32 position = "
                          "(u32)positions[row];\n");
    text_printf(&e->body,
                "    rope_row<%u, %u, %u, %s>(x + row * %u, cosines, sines, position, y + row * %u);\n",
                u->heads, u->dim, u->rotated, u->interleaved ? "true" : "false", width, width);
    kernel_finish(e, arena_printf(e->arena, "rope_%ux%u", u->heads, u->dim), threads_for(width / 2),
                  arena_printf(e->arena, "Rotates %u of %u in %u heads", u->rotated, u->dim, u->heads),
                  width * 12.0, width * 3.0);
    return true;
}

static bool emit_store(Emit *e) {
    const ArtStep *s = e->s;
    const ArtStore *u = &s->u.store;
    uint32_t width = u->heads * u->dim;
    kernel_begin(e);
    param_read(e, "x", &s->arg[0]);
    param(e, "global<float>", "state", ART_CUDA_STATE, s->arg[1].value);
    param(e, "global<const i32>", "sequences", ART_CUDA_SEQUENCES, 0);
    param(e, "global<const i32>", "positions", ART_CUDA_POSITIONS, 0);
    param(e, "u32", "context", ART_CUDA_CONTEXT, 0);
    text_printf(&e->body,
                "    const u32 row = block_row();\n    grid_wait();\n"
                "    store_row<float, %u, %u>(x + row * %u, state, (u32)sequences[row], (u32)positions[row], "
                "context);\n",
                u->heads, u->dim, width);
    kernel_finish(e, arena_printf(e->arena, "store_%ux%u", u->heads, u->dim), threads_for(width),
                  arena_printf(e->arena, "Keys or values of %u heads of %u to the cache", u->heads, u->dim),
                  width * 8.0, 0);
    return true;
}

/* Heads that a block takes of the group that shares a key head: the largest divisor up to 4. */
static uint32_t attention_heads(uint32_t group) {
    uint32_t h = 4;
    while (group % h) h--;
    return h;
}

static bool emit_attention(Emit *e) {
    const ArtStep *s = e->s;
    const ArtAttention *u = &s->u.attention;
    uint32_t group = u->heads / u->kv_heads, heads = attention_heads(group), parts = group / heads;
    if (u->rounding[0][0] > 0 || u->rounding[1][0] > 0)
        return diag_error(e->diag, loc_none(),
                          "step %u: attention that rounds its scores has no CUDA kernel; hint: --target cpu",
                          e->step);
    bool slopes = s->arg[3].kind != ART_ARG_NONE, sinks = s->arg[4].kind != ART_ARG_NONE;
    kernel_begin(e);
    e->launch.grid = ART_GRID_SPLITS;
    e->launch.blocks = u->kv_heads * parts;
    param_read(e, "q", &s->arg[0]);
    param(e, "global<const float>", "k", ART_CUDA_STATE, s->arg[1].value);
    param(e, "global<const float>", "v", ART_CUDA_STATE, s->arg[2].value);
    param_read(e, "slopes", &s->arg[3]);
    param(e, "global<const i32>", "sequences", ART_CUDA_SEQUENCES, 0);
    param(e, "global<const i32>", "positions", ART_CUDA_POSITIONS, 0);
    param(e, "global<float>", "parts", ART_CUDA_SCRATCH, 0);
    param(e, "u32", "context", ART_CUDA_CONTEXT, 0);
    param(e, "u32", "splits", ART_CUDA_SPANS, 0);
    text_printf(
        &e->body,
        "    SHARED(float, part, 4 * %u * %u);\n"
        "    const u32 row = block_row(), split = block_index() %% splits, first_head = block_index() / "
        "splits * %u;\n"
        "    grid_wait();\n"
        "    const u32 position = (u32)positions[row];\n"
        "    const Span span = key_span(position, %u, split, splits);\n"
        "    const u64 head = (u64)(u32)sequences[row] * %u + first_head / %u;\n"
        "    attention_span<float, %u, %u, %u>(q + (row * %u + first_head) * %u, k + head * context * %u, v "
        "+ head * context * %u,\n"
        "        span.first, span.last, position, Scores{%s, %s}, slopes%s, part,\n"
        "        [&](u32 h, u32 i, float largest, float total, float sum) {\n"
        "            global<float> to = parts + ((row * %u + first_head + h) * splits + split) * %u;\n"
        "            to[i] = sum;\n"
        "            if (i == 0) to[%u] = largest, to[%u] = total;\n"
        "        });\n",
        heads, u->vdim + 2, heads, u->window, u->kv_heads, group, heads, u->dim, u->vdim, u->heads, u->dim,
        u->dim, u->vdim, literal(e, u->scale), literal(e, u->softcap), slopes ? " + first_head" : "",
        u->heads, u->vdim + 2, u->vdim, u->vdim + 1);
    kernel_finish(e, arena_printf(e->arena, "attention_%ux%u_spans", u->heads, u->dim), 128,
                  arena_printf(e->arena, "Attention of %u heads on %u, %u wide, a span of the keys a block",
                               u->heads, u->kv_heads, u->dim),
                  0, 0);
    uint64_t scratch = (uint64_t)u->heads * (u->vdim + 2) * 4;
    if (scratch > e->out->scratch_row_bytes) e->out->scratch_row_bytes = scratch;
    kernel_begin(e);
    e->launch.blocks = u->heads;
    param(e, "global<const float>", "parts", ART_CUDA_SCRATCH, 0);
    if (sinks) param_read(e, "sinks", &s->arg[4]);
    param_write(e, "y", &s->arg[5]);
    param(e, "u32", "splits", ART_CUDA_SPANS, 0);
    text_printf(
        &e->body,
        "    const u32 head = block_row() * %u + block_index();\n    grid_wait();\n"
        "    for (u32 i = thread_index(); i < %u; i += thread_count())\n"
        "        y[head * %u + i] = attention_join<%u>(parts + (u64)head * splits * %u, splits, i, %s);\n",
        u->heads, u->vdim, u->vdim, u->vdim, u->vdim + 2,
        sinks ? "true, sinks[block_index()]" : "false, 0.0f");
    kernel_finish(e, arena_printf(e->arena, "attention_%ux%u_join", u->heads, u->vdim), threads_for(u->vdim),
                  arena_printf(e->arena, "Joins the spans of %u heads", u->heads),
                  u->heads * (u->vdim + 2) * 4.0, 0);
    return true;
}

static bool emit_reduce(Emit *e) {
    static const char *const ops[] = {"REDUCE_SUM", "REDUCE_MEAN", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"};
    const ArtStep *s = e->s;
    const ArtReduce *u = &s->u.reduce;
    bool soft = s->kernel == ART_K_SOFTMAX;
    uint32_t from = u->outer * u->len * u->inner, to = soft ? from : u->outer * u->inner;
    kernel_begin(e);
    param_read(e, "x", &s->arg[0]);
    param_write(e, "y", &s->arg[1]);
    text_printf(&e->body,
                "    const u32 row = block_row();\n    grid_wait();\n    %s%s%s%u, %u, %u>(x + row * %u, y + "
                "row * %u);\n",
                soft ? "softmax_row<" : "reduce_row<", soft ? "" : ops[u->op], soft ? "" : ", ", u->outer,
                u->len, u->inner, from, to);
    kernel_finish(
        e, arena_printf(e->arena, "%s_%ux%ux%u", soft ? "softmax" : "reduce", u->outer, u->len, u->inner),
        threads_for((uint64_t)u->outer * u->inner), soft ? "Softmax inside a row" : "Reduction inside a row",
        (from + to) * 4.0, from);
    return true;
}

static bool emit_move(Emit *e) {
    const ArtStep *s = e->s;
    const ArtMove *u = &s->u.move;
    uint32_t count = u->count[0] * u->count[1] * u->count[2] * u->count[3];
    kernel_begin(e);
    param_read(e, "x", &s->arg[0]);
    param_write(e, "y", &s->arg[1]);
    text_printf(&e->body,
                "    global<const float> from = x + block_row() * %u + %u;\n    global<float> to = y + "
                "block_row() * %u + %u;\n    grid_wait();\n",
                s->arg[0].width, u->src_offset, s->arg[1].width, u->dst_offset);
    text_printf(&e->body, "    for (u32 i = thread_index(); i < %u; i += thread_count()) {\n", count);
    text_printf(&e->body, "        const u32 a = i / %u, b = i / %u %% %u, c = i / %u %% %u, d = i %% %u;\n",
                u->count[1] * u->count[2] * u->count[3], u->count[2] * u->count[3], u->count[1], u->count[3],
                u->count[2], u->count[3]);
    text_printf(
        &e->body,
        "        to[a * %u + b * %u + c * %u + d * %u] = from[a * %u + b * %u + c * %u + d * %u];\n    }\n",
        u->dst_stride[0], u->dst_stride[1], u->dst_stride[2], u->dst_stride[3], u->src_stride[0],
        u->src_stride[1], u->src_stride[2], u->src_stride[3]);
    kernel_finish(e, arena_printf(e->arena, "move_%u", count), threads_for(count),
                  "Strided copy inside a row", count * 8.0, 0);
    return true;
}

/* ---- pointwise ---- */
static const char *const insn_text[] = {
    [ART_I_NEG] = "-a",
    [ART_I_ABS] = "fabsf(a)",
    [ART_I_SIGN] = "sign(a)",
    [ART_I_EXP] = "expf(a)",
    [ART_I_LOG] = "logf(a)",
    [ART_I_SQRT] = "sqrtf(a)",
    [ART_I_RECIP] = "1.0f / a",
    [ART_I_SIN] = "sinf(a)",
    [ART_I_COS] = "cosf(a)",
    [ART_I_TANH] = "tanhf(a)",
    [ART_I_SIGMOID] = "sigmoid(a)",
    [ART_I_ERF] = "erff(a)",
    [ART_I_RELU] = "relu(a)",
    [ART_I_SOFTPLUS] = "softplus(a)",
    [ART_I_FLOOR] = "floorf(a)",
    [ART_I_CEIL] = "ceilf(a)",
    [ART_I_ROUND] = "rintf(a)",
    [ART_I_GELU_ERF] = "gelu_erf(a)",
    [ART_I_GELU_TANH] = "gelu_tanh(a)",
    [ART_I_ISNAN] = "truth(a != a)",
    [ART_I_ISINF] = "truth(fabsf(a) == INFINITY)",
    [ART_I_NOT] = "truth(a == 0.0f)",
    [ART_I_ADD] = "a + b",
    [ART_I_SUB] = "a - b",
    [ART_I_MUL] = "a * b",
    [ART_I_DIV] = "a / b",
    [ART_I_MOD] = "fmodf(a, b)",
    [ART_I_POW] = "powf(a, b)",
    [ART_I_MIN] = "reduce_two<REDUCE_MIN>(a, b)",
    [ART_I_MAX] = "reduce_two<REDUCE_MAX>(a, b)",
    [ART_I_AND] = "truth(a != 0.0f && b != 0.0f)",
    [ART_I_OR] = "truth(a != 0.0f || b != 0.0f)",
    [ART_I_XOR] = "truth((a != 0.0f) != (b != 0.0f))",
    [ART_I_EQ] = "truth(a == b)",
    [ART_I_LT] = "truth(a < b)",
    [ART_I_LE] = "truth(a <= b)",
    [ART_I_WHERE] = "a != 0.0f ? b : c",
};

/* pattern with a, b, c replaced by the registers' values; letters inside words stay. */
static void insn_write(Text *t, const char *pattern, const ArtInsn *n, const uint32_t *value) {
    const uint8_t from[3] = {n->a, n->b, n->c};
    for (const char *p = pattern; *p; p++) {
        bool word = p > pattern && ((p[-1] >= 'a' && p[-1] <= 'z') || p[-1] == '_');
        bool more = (p[1] >= 'a' && p[1] <= 'z') || p[1] == '_' || p[1] == '(';
        if (*p >= 'a' && *p <= 'c' && !word && !more)
            text_printf(t, "v%u", value[from[*p - 'a']]);
        else
            text_addn(t, p, 1);
    }
}

static void load_write(Emit *e, const ArtInsn *n, uint32_t width) {
    const ArtArg *a = &e->s->arg[n->a];
    if (a->kind == ART_ARG_TOKENS || a->kind == ART_ARG_POSITIONS) {
        text_printf(&e->body, "(float)in%u[row];\n", n->a);
        return;
    }
    text_printf(&e->body, "in%u[", n->a);
    if (a->kind == ART_ARG_ROWS) text_printf(&e->body, "row * %u + ", a->width);
    const char *at = n->div > 1 ? arena_printf(e->arena, "i / %u", n->div) : "i";
    if ((width - 1) / n->div < n->mod)
        text_printf(&e->body, "%s];\n", at);
    else
        text_printf(&e->body, "%s %% %u];\n", at, n->mod);
}

static bool emit_pointwise(Emit *e) {
    const ArtStep *s = e->s;
    const ArtPointwise *u = &s->u.pointwise;
    uint32_t value[ART_REGISTERS] = {0}, next = 0;
    kernel_begin(e);
    for (uint32_t i = 0; i < 6; i++)
        if (s->arg[i].kind) param_read(e, arena_printf(e->arena, "in%u", i), &s->arg[i]);
    param_write(e, "y", &s->arg[6]);
    text_printf(&e->body,
                "    const u32 row = block_row(), i = block_index() * thread_count() + thread_index();\n    "
                "grid_wait();\n    if (i >= %u) return;\n",
                u->width);
    for (uint32_t k = 0; k < u->count; k++) {
        const ArtInsn *n = &e->p->insns.data[u->first + k];
        if (n->op == ART_I_STORE) {
            text_printf(&e->body, "    y[row * %u + i] = v%u;\n", u->width, value[n->a]);
            break;
        }
        text_printf(&e->body, "    const float v%u = ", next);
        if (n->op == ART_I_LOAD) {
            load_write(e, n, u->width);
        } else if (n->op == ART_I_CONST) {
            text_printf(&e->body, "%s;\n", literal(e, n->imm));
        } else if (n->op == ART_I_SILU) {
            text_printf(&e->body, "silu(v%u, %s);\n", value[n->a], literal(e, n->imm));
        } else {
            insn_write(&e->body, insn_text[n->op], n, value);
            text_add(&e->body, ";\n");
        }
        value[n->dst] = next++;
    }
    uint32_t threads = threads_for(u->width);
    e->launch.blocks = (u->width + threads - 1) / threads;
    kernel_finish(e, arena_printf(e->arena, "pointwise_%u", u->width), threads,
                  arena_printf(e->arena, "Elementwise over %u", u->width), u->width * 8.0,
                  u->width * (double)u->count);
    return true;
}

static bool emit_step(Emit *e) {
    switch (e->s->kernel) {
    case ART_K_GATHER: return emit_gather(e);
    case ART_K_NORM: return emit_norm(e);
    case ART_K_LINEAR: return emit_linear(e);
    case ART_K_ROPE: return emit_rope(e);
    case ART_K_STORE: return emit_store(e);
    case ART_K_ATTENTION: return emit_attention(e);
    case ART_K_POINTWISE: return emit_pointwise(e);
    case ART_K_REDUCE:
    case ART_K_SOFTMAX: return emit_reduce(e);
    case ART_K_MOVE: return emit_move(e);
    default:
        return diag_error(e->diag, loc_none(), "step %u has no CUDA kernel; hint: --target cpu", e->step);
    }
}

/* Compressed weights have no kernels here yet. */
static bool weights_known(Emit *e) {
    for (int i = 0; i < ART_MAX_ARGS; i++) {
        const ArtArg *a = &e->s->arg[i];
        if (a->kind != ART_ARG_TENSOR) continue;
        uint32_t dtype = e->p->tensors.data[a->value].art.dtype;
        if (dtype != ART_F32 && dtype != ART_F16 && dtype != ART_BF16)
            return diag_error(
                e->diag, loc_none(),
                "step %u reads compressed weights, for which there is no CUDA kernel; hint: --target cpu",
                e->step);
    }
    return true;
}

bool cuda_emit(Graph *g, const Program *p, Arena *a, CudaProgram *out, Diag *d) {
    Emit e = {.g = g, .p = p, .out = out, .arena = a, .diag = d};
    memset(out, 0, sizeof *out);
    out->source = text_new(a);
    for (const CudaText *t = cuda_texts; t->name; t++) text_add(&out->source, t->text);
    for (size_t i = 0; i < p->steps.count; i++) {
        e.step = (uint32_t)i;
        e.s = &p->steps.data[i];
        if (!weights_known(&e) || !emit_step(&e)) return false;
    }
    return true;
}
