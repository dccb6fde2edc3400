/* emit_rows.c: what changes or moves single rows: embedding, norm, rotary, reduction, copy. */
#include "codegen/cuda/emit.h"

bool write_gather(Emit *e) {
    const ArtStep *s = e->s;
    const ArtTensor *t = &e->p->tensors.data[s->arg[0].value].art;
    uint32_t width = s->u.gather.width, threads = emit_threads(width);
    bool tokens = s->arg[1].kind == ART_ARG_TOKENS;
    kernel_begin(e);
    kernel_read(e, "table", &s->arg[0]);
    kernel_read(e, "ids", &s->arg[1]);
    kernel_write(e, "y", &s->arg[2]);
    text_printf(&e->body,
                "    const u32 row = block_row();\n    grid_wait();\n    gather_row<%s, %u>(table, "
                "(u32)ids[row], y + row * %u);\n",
                emit_form(e, &s->arg[0]), width, width);
    kernel_finish(
        e, arena_printf(e->arena, "gather_%s_%u", tokens ? "token" : "position", width), threads,
        arena_printf(e->arena, "One row of %u from a table of %llu", width, (unsigned long long)t->dim[0]),
        width * 8.0, width);
    return true;
}

bool write_norm(Emit *e) {
    const ArtStep *s = e->s;
    const ArtNorm *u = &s->u.norm;
    uint32_t threads = emit_threads(u->width), all = u->groups * u->width;
    bool each[2] = {false, false}; /* a vector of its own for every group */
    for (int i = 0; i < 2; i++)
        each[i] = s->arg[1 + i].kind == ART_ARG_TENSOR && u->groups > 1 &&
                  e->p->tensors.data[s->arg[1 + i].value].art.dim[0] == all;
    kernel_begin(e);
    e->launch.blocks = u->groups;
    kernel_read(e, "x", &s->arg[0]);
    kernel_read(e, "gamma", &s->arg[1]);
    kernel_read(e, "beta", &s->arg[2]);
    kernel_write(e, "y", &s->arg[3]);
    text_printf(&e->body,
                "    SHARED(float, part, 64);\n    const u32 at = block_row() * %u + block_index() * %u;\n   "
                " grid_wait();\n",
                all, u->width);
    text_printf(&e->body, "    const Norm norm = {gamma%s, beta%s, %s, %s};\n",
                each[0] ? arena_printf(e->arena, " + block_index() * %u", u->width) : "",
                each[1] ? arena_printf(e->arena, " + block_index() * %u", u->width) : "",
                emit_literal(e, u->eps), u->rms ? "true" : "false");
    text_printf(&e->body, "    norm_row<%u>(x + at, norm, part, [&](u32 i, float v) { y[at + i] = v; });\n",
                u->width);
    kernel_finish(e, arena_printf(e->arena, "%s_norm_%u", u->rms ? "rms" : "layer", u->width), threads,
                  arena_printf(e->arena, "%s norm of %u x %u", u->rms ? "RMS" : "Layer", u->groups, u->width),
                  all * 8.0, all * 6.0);
    return true;
}

bool write_rope(Emit *e) {
    const ArtStep *s = e->s;
    const ArtRope *u = &s->u.rope;
    uint32_t width = u->heads * u->dim;
    kernel_begin(e);
    kernel_read(e, "x", &s->arg[0]);
    kernel_read(e, "cosines", &s->arg[1]);
    kernel_read(e, "sines", &s->arg[2]);
    kernel_param(e, "global<const i32>", "positions", ART_CUDA_POSITIONS, 0);
    kernel_write(e, "y", &s->arg[3]);
    text_printf(&e->body, "    const u32 row = block_row();\n    grid_wait();\n    const u32 position = "
                          "(u32)positions[row];\n");
    text_printf(&e->body,
                "    rope_row<%u, %u, %u, %s>(x + row * %u, cosines, sines, position, y + row * %u);\n",
                u->heads, u->dim, u->rotated, u->interleaved ? "true" : "false", width, width);
    kernel_finish(e, arena_printf(e->arena, "rope_%ux%u", u->heads, u->dim), emit_threads(width / 2),
                  arena_printf(e->arena, "Rotates %u of %u in %u heads", u->rotated, u->dim, u->heads),
                  width * 12.0, width * 3.0);
    return true;
}

bool write_reduce(Emit *e) {
    static const char *const ops[] = {"REDUCE_SUM", "REDUCE_MEAN", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"};
    const ArtStep *s = e->s;
    const ArtReduce *u = &s->u.reduce;
    bool soft = s->kernel == ART_K_SOFTMAX;
    uint32_t from = u->outer * u->len * u->inner, to = soft ? from : u->outer * u->inner;
    kernel_begin(e);
    kernel_read(e, "x", &s->arg[0]);
    kernel_write(e, "y", &s->arg[1]);
    text_printf(&e->body,
                "    const u32 row = block_row();\n    grid_wait();\n    %s%s%s%u, %u, %u>(x + row * %u, y + "
                "row * %u);\n",
                soft ? "softmax_row<" : "reduce_row<", soft ? "" : ops[u->op], soft ? "" : ", ", u->outer,
                u->len, u->inner, from, to);
    kernel_finish(
        e, arena_printf(e->arena, "%s_%ux%ux%u", soft ? "softmax" : "reduce", u->outer, u->len, u->inner),
        emit_threads((uint64_t)u->outer * u->inner), soft ? "Softmax inside a row" : "Reduction inside a row",
        (from + to) * 4.0, from);
    return true;
}

bool write_move(Emit *e) {
    const ArtStep *s = e->s;
    const ArtMove *u = &s->u.move;
    uint32_t count = u->count[0] * u->count[1] * u->count[2] * u->count[3];
    kernel_begin(e);
    kernel_read(e, "x", &s->arg[0]);
    kernel_write(e, "y", &s->arg[1]);
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
    kernel_finish(e, arena_printf(e->arena, "move_%u", count), emit_threads(count),
                  "Strided copy inside a row", count * 8.0, 0);
    return true;
}
