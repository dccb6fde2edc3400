/* emit_experts.c: mixtures of experts: the places of the largest, what stands at places, and products with the chosen
 * matrices. */
#include "codegen/cuda/emit.h"

bool write_topk(Emit *e) {
    const ArtStep *s = e->s;
    const ArtTopk *u = &s->u.topk;
    kernel_begin(e);
    kernel_read(e, "x", &s->arg[0]);
    kernel_write(e, "y", &s->arg[1]);
    text_printf(
        &e->body,
        "    const u32 row = block_row();\n    grid_wait();\n    topk_row<%u, %u, %u, %s>(x + row * %u, y "
        "+ row * %u);\n",
        u->outer, u->len, u->count, u->smallest ? "true" : "false", u->outer * u->len, u->outer * u->count);
    kernel_finish(e, arena_printf(e->arena, "topk_%ux%u_%u", u->outer, u->len, u->count),
                  emit_threads((uint64_t)u->outer * u->len), "Places of the largest",
                  4.0 * u->outer * (u->len + u->count), (double)u->outer * u->len * u->len);
    return true;
}

bool write_pick(Emit *e) {
    const ArtStep *s = e->s;
    const ArtPick *u = &s->u.pick;
    bool table = s->arg[0].kind == ART_ARG_TENSOR;
    uint32_t step = u->len * u->inner, out = u->outer * u->count * u->inner;
    kernel_begin(e);
    kernel_read(e, "x", &s->arg[0]);
    kernel_read(e, "index", &s->arg[1]);
    kernel_write(e, "y", &s->arg[2]);
    text_printf(
        &e->body,
        "    const u32 row = block_row();\n    grid_wait();\n    pick_row<%u, %u, %u, %u, %u>(x%s, index + "
        "row * %u, y + row * %u);\n",
        u->outer, u->len, u->inner, u->count, table ? 0 : step,
        table ? "" : arena_printf(e->arena, " + row * %u", u->outer * step), u->outer * u->count, out);
    kernel_finish(e, arena_printf(e->arena, "pick_%ux%ux%u_%u", u->outer, u->len, u->inner, u->count),
                  emit_threads(out), "What stands at given places", 8.0 * out, 0);
    return true;
}

/* A block takes one panel of the matrix that a slot of a row chose: nothing can be read before that is known. */
bool write_routed(Emit *e) {
    const ArtStep *s = e->s;
    const ArtRouted *u = &s->u.routed;
    const ArtTensor *w = &e->p->tensors.data[s->arg[2].value].art;
    uint32_t panels = (u->n + 15) / 16;
    kernel_begin(e);
    e->launch.blocks = u->slots * panels;
    kernel_read(e, "x", &s->arg[0]);
    kernel_read(e, "index", &s->arg[1]);
    kernel_read(e, "w", &s->arg[2]);
    if (s->arg[3].kind) kernel_read(e, "bias", &s->arg[3]);
    if (s->arg[4].kind) kernel_read(e, "gate", &s->arg[4]);
    kernel_write(e, "y", &s->arg[5]);
    text_printf(&e->body,
                "    SHARED(float, part, 128);\n"
                "    const u32 panel = block_index() %% %u, slot = block_row() * %u + block_index() / %u;\n"
                "    grid_wait();\n    const u32 expert = place_of(index[slot], %u);\n",
                panels, u->slots, panels, u->experts);
    text_printf(
        &e->body,
        "    auto in = [&](u32, u32 k) { return x[(u64)%s * %u + k]; };\n"
        "    if (expert < %u) panel_sums<%u, 1>(%s(), w, expert * %u + panel, warp(), 8, part, [&] {}, in);\n"
        "    barrier();\n    for (u32 i = thread_index(); i < 16; i += 256) {\n"
        "        const u32 n = panel * 16 + i;\n        if (n >= %u) continue;\n"
        "        float v = 0;\n        if (expert < %u) {\n            v = panel_sum<1>(part, 8, i);\n",
        u->shared ? "block_row()" : "slot", u->k, u->experts, u->k, emit_form(e, &s->arg[2]), panels, u->n,
        u->experts);
    if (s->arg[3].kind) text_printf(&e->body, "            v += bias[expert * %u + n];\n", u->n);
    emit_activation(&e->body, u->act, "v", "            ");
    if (s->arg[4].kind) text_printf(&e->body, "            v *= gate[(u64)slot * %u + n];\n", u->n);
    text_printf(&e->body, "        }\n        y[(u64)slot * %u + n] = v;\n    }\n", u->n);
    kernel_finish(
        e,
        arena_printf(e->arena, "routed_%ux%u%s_of_%u", u->k, u->n, emit_activation_name(u->act), u->experts),
        256,
        arena_printf(e->arena, "Products %u -> %u by %u of %u matrices", u->k, u->n, u->slots, u->experts),
        (double)w->bytes / u->experts * u->slots, 2.0 * u->k * u->n * u->slots);
    return true;
}
