/* emit_attention.c: attention over the cache. When rows are few, or of many sequences: spans of keys, then their join;
 * when many rows of a sequence come at once: tiles of rows; when scores or weights are rounded: a row and head a block. */
#include "codegen/cuda/emit.h"

uint32_t emit_attention_heads(uint32_t group) {
    uint32_t h = 4;
    while (group % h) h--;
    return h;
}

AttentionForm emit_attention_form(const Emit *e, const ArtAttention *u) {
    enum { WIDEST = 256 };
    bool fits = u->dim % 8 == 0 && u->vdim % 8 == 0 && u->dim <= WIDEST && u->vdim <= WIDEST;
    if (u->rounding[0][0] > 0 || u->rounding[1][0] > 0) return ATTENTION_ROUNDED;
    return e->halves && fits && u->scale > 0 ? ATTENTION_MATRIX : ATTENTION_TILES;
}

/* Of keys and values. */
static const char *kept(const Emit *e) { return emit_kept(&e->p->states.data[e->s->arg[1].value]); }

static void read_rows(Emit *e) {
    const ArtStep *s = e->s;
    kernel_read(e, "q", &s->arg[0]);
    const char *type = arena_printf(e->arena, "global<const %s>", kept(e));
    kernel_param(e, type, "k", ART_CUDA_STATE, s->arg[1].value);
    kernel_param(e, type, "v", ART_CUDA_STATE, s->arg[2].value);
    if (s->arg[3].kind) kernel_read(e, "slopes", &s->arg[3]);
    kernel_param(e, "global<const i32>", "sequences", ART_CUDA_SEQUENCES, 0);
    kernel_param(e, "global<const i32>", "positions", ART_CUDA_POSITIONS, 0);
    kernel_param(e, "u32", "context", ART_CUDA_CONTEXT, 0);
}

static const char *scores_text(const Emit *e) {
    const ArtAttention *u = &e->s->u.attention;
    return arena_printf(e->arena, "Scores{%s, %s}", emit_literal(e, u->scale), emit_literal(e, u->softcap));
}

static void write_spans(Emit *e) {
    const ArtStep *s = e->s;
    const ArtAttention *u = &s->u.attention;
    uint32_t group = u->heads / u->kv_heads, heads = emit_attention_heads(group), parts = group / heads;
    kernel_begin(e);
    e->launch.grid = ART_GRID_SPLITS;
    e->launch.blocks = u->kv_heads * parts;
    read_rows(e);
    kernel_param(e, "global<float>", "parts", ART_CUDA_SCRATCH, 0);
    kernel_param(e, "u32", "splits", ART_CUDA_SPANS, 0);
    text_printf(
        &e->body,
        "    SHARED(float, part, 4 * %u * %u);\n"
        "    const u32 row = block_row(), split = block_index() %% splits, first_head = block_index() / "
        "splits * %u;\n"
        "    grid_wait();\n"
        "    const u32 position = (u32)positions[row];\n"
        "    const Span span = key_span(position, %u, split, splits);\n"
        "    const u64 head = (u64)(u32)sequences[row] * %u + first_head / %u;\n"
        "    attention_span<%s, %u, %u, %u>(q + (row * %u + first_head) * %u,\n"
        "        k + head * Cache<%s, %u>::stride(context), v + head * Cache<%s, %u>::stride(context), "
        "context,\n"
        "        span.first, span.last, position, %s, %s, part,\n"
        "        [&](u32 h, u32 i, float largest, float total, float sum) {\n"
        "            global<float> to = parts + ((row * %u + first_head + h) * splits + split) * %u;\n"
        "            to[i] = sum;\n"
        "            if (i == 0) to[%u] = largest, to[%u] = total;\n"
        "        });\n",
        heads, u->vdim + 2, heads, u->window, u->kv_heads, group, kept(e), heads, u->dim, u->vdim, u->heads,
        u->dim, kept(e), u->dim, kept(e), u->vdim, scores_text(e),
        s->arg[3].kind ? "slopes + first_head" : "nullptr", u->heads, u->vdim + 2, u->vdim, u->vdim + 1);
    kernel_finish(e, arena_printf(e->arena, "attention_%ux%u_spans", u->heads, u->dim), 128,
                  arena_printf(e->arena, "Attention of %u heads on %u, %u wide, a span of the keys a block",
                               u->heads, u->kv_heads, u->dim),
                  0, 0);
    uint64_t scratch = (uint64_t)u->heads * (u->vdim + 2) * 4;
    if (scratch > e->out->scratch_row_bytes) e->out->scratch_row_bytes = scratch;
}

static void write_join(Emit *e) {
    const ArtStep *s = e->s;
    const ArtAttention *u = &s->u.attention;
    bool sinks = s->arg[4].kind;
    kernel_begin(e);
    e->launch.blocks = u->heads;
    kernel_param(e, "global<const float>", "parts", ART_CUDA_SCRATCH, 0);
    if (sinks) kernel_read(e, "sinks", &s->arg[4]);
    kernel_write(e, "y", &s->arg[5]);
    kernel_param(e, "u32", "splits", ART_CUDA_SPANS, 0);
    text_printf(
        &e->body,
        "    const u32 head = block_row() * %u + block_index();\n    grid_wait();\n"
        "    for (u32 i = thread_index(); i < %u; i += thread_count())\n"
        "        y[head * %u + i] = attention_join<%u>(parts + (u64)head * splits * %u, splits, i, %s);\n",
        u->heads, u->vdim, u->vdim, u->vdim, u->vdim + 2,
        sinks ? "true, sinks[block_index()]" : "false, 0.0f");
    kernel_finish(e, arena_printf(e->arena, "attention_%ux%u_join", u->heads, u->vdim), emit_threads(u->vdim),
                  arena_printf(e->arena, "Joins the spans of %u heads", u->heads),
                  u->heads * (u->vdim + 2) * 4.0, 0);
}

static void write_tiles(Emit *e) {
    const ArtStep *s = e->s;
    const ArtAttention *u = &s->u.attention;
    kernel_begin(e);
    const uint32_t width = u->dim > u->vdim ? u->dim : u->vdim;
    e->resident = width <= 32 ? 3 : width <= 128 ? 2 : 1; /* so nothing spills: docs/kernels.md */
    e->launch.grid = ART_GRID_TILES;
    e->launch.blocks = u->heads;
    read_rows(e);
    if (s->arg[4].kind) kernel_read(e, "sinks", &s->arg[4]);
    kernel_write(e, "y", &s->arg[5]);
    kernel_param(e, "u32", "rows", ART_CUDA_COUNT, 0);
    text_printf(&e->body,
                "    const u32 head = block_index();\n"
                "    attention_tile<%s, %u, %u, %u, %u, %u>(q, k, v, sequences, positions, rows, context, "
                "%s, %s,\n"
                "        [&](u32 row, u32 i, float largest, float total, float sum) {\n"
                "            y[(row * %u + head) * %u + i] = attention_mean(largest, total, sum, %s);\n"
                "        });\n",
                kept(e), u->heads, u->heads / u->kv_heads, u->dim, u->vdim, u->window, scores_text(e),
                s->arg[3].kind ? "slopes[head]" : "0.0f", u->heads, u->vdim,
                s->arg[4].kind ? "true, sinks[head]" : "false, 0.0f");
    kernel_finish(e, arena_printf(e->arena, "attention_%ux%u_tiles", u->heads, u->dim), 256,
                  arena_printf(e->arena, "Attention of %u heads on %u, %u wide, 64 rows a block", u->heads,
                               u->kv_heads, u->dim),
                  0, 0);
}

/* Rows and keys that a block has at a time; sums of wide heads take the registers of four warps more. */
static void write_matrix(Emit *e) {
    const ArtStep *s = e->s;
    const ArtAttention *u = &s->u.attention;
    bool wide = u->dim > 128 || u->vdim > 128;
    uint32_t warps = wide ? 4 : 8, keys = wide ? 32 : 64;
    uint32_t key_line = (u->dim + 15) / 16 * 32 + 16, value_line = (u->vdim + 15) / 16 * 32 + 16;
    kernel_begin(e);
    e->launch.grid = wide ? ART_GRID_TILES : ART_GRID_TILES_128;
    e->launch.blocks = u->heads;
    e->shared_bytes = 16 * warps * key_line + keys * (key_line + value_line);
    read_rows(e);
    if (s->arg[4].kind) kernel_read(e, "sinks", &s->arg[4]);
    kernel_write(e, "y", &s->arg[5]);
    kernel_param(e, "u32", "rows", ART_CUDA_COUNT, 0);
    text_printf(
        &e->body,
        "    SHARED_AT_LAUNCH(u8, stage);\n    SHARED(float, part, 32);\n"
        "    const u32 head = block_index();\n"
        "    const MatrixHead of = {%u, %u, head, %u, %s, %s, %s};\n"
        "    attention_matrix<%s, %u, %u, %u, %u>(of, q, k, v, sequences, positions, rows, context, "
        "%s, stage, part,\n"
        "        [&](u32 row, u32 i, float a, float b) { store_pair(y + ((row * %u + head) * %u + i), a, "
        "b); });\n",
        u->heads, u->kv_heads, u->window, emit_literal(e, u->scale), emit_literal(e, u->softcap),
        s->arg[3].kind ? "slopes[head]" : "0.0f", kept(e), warps, keys, u->dim, u->vdim,
        s->arg[4].kind ? "sinks[head]" : "-INFINITY", u->heads, u->vdim);
    kernel_finish(e, arena_printf(e->arena, "attention_%ux%u_matrix", u->heads, u->dim), 32 * warps,
                  arena_printf(e->arena,
                               "Attention of %u heads on %u, %u wide, on matrix units, %u rows a block",
                               u->heads, u->kv_heads, u->dim, 16 * warps),
                  0, 0);
}

static const char *rounding_text(const Emit *e, const float r[3]) {
    return arena_printf(e->arena, "Rounding{%s, %s, %s}", emit_literal(e, r[0]), emit_literal(e, r[1]),
                        emit_literal(e, r[2]));
}

static void write_rounded(Emit *e) {
    const ArtStep *s = e->s;
    const ArtAttention *u = &s->u.attention;
    kernel_begin(e);
    e->launch.blocks = u->heads;
    read_rows(e);
    if (s->arg[4].kind) kernel_read(e, "sinks", &s->arg[4]);
    kernel_write(e, "y", &s->arg[5]);
    text_printf(&e->body,
                "    SHARED(float, part, 64);\n    SHARED(float, weights, 128);\n"
                "    const u32 row = block_row(), head = block_index();\n    grid_wait();\n"
                "    const u32 position = (u32)positions[row];\n"
                "    const u64 of = (u64)(u32)sequences[row] * %u + head / %u;\n",
                u->kv_heads, u->heads / u->kv_heads);
    text_printf(&e->body,
                "    attention_rounded<%s, %u, %u>(q + (row * %u + head) * %u,\n        k + of * Cache<%s, "
                "%u>::stride(context), v + of * Cache<%s, %u>::stride(context), context,\n        "
                "key_span(position, %u, 0, 1).first, position, %s, %s,\n        %s, %s, %s, part, "
                "weights,\n        [&](u32 i, float sum) { y[(row * %u + head) * %u + i] = sum; });\n",
                kept(e), u->dim, u->vdim, u->heads, u->dim, kept(e), u->dim, kept(e), u->vdim, u->window,
                scores_text(e), s->arg[3].kind ? "slopes[head]" : "0.0f", rounding_text(e, u->rounding[0]),
                rounding_text(e, u->rounding[1]), s->arg[4].kind ? "true, sinks[head]" : "false, 0.0f",
                u->heads, u->vdim);
    kernel_finish(
        e, arena_printf(e->arena, "attention_%ux%u_rounded", u->heads, u->dim), 128,
        arena_printf(e->arena, "Attention of %u heads whose scores or weights are rounded", u->heads), 0, 0);
}

bool write_attention(Emit *e) {
    const ArtState *states = e->p->states.data;
    if (states[e->s->arg[1].value].kept != states[e->s->arg[2].value].kept)
        return diag_error(
            e->diag, loc_none(),
            "step %u attends to keys and values of which one is in 8 bits and one in fp32, which "
            "no CUDA kernel does; hint: --target cpu",
            e->step);
    AttentionForm form = emit_attention_form(e, &e->s->u.attention);
    if (form == ATTENTION_ROUNDED) {
        write_rounded(e);
        return true;
    }
    e->when = ART_ROWS_ANY | ART_RUNS_SHORT;
    write_spans(e);
    write_join(e);
    e->when = ART_ROWS_MANY | ART_RUNS_LONG;
    if (form == ATTENTION_MATRIX)
        write_matrix(e);
    else
        write_tiles(e);
    return true;
}
