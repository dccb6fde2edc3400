/* emit_cache.c: what comes to the cache. In fp32 a product writes its outputs there by itself (emit_products.c). In 8 bits a head
 * has a step, and no block of a product has all of a head: outputs go to the scratch memory, and one launch behind the
 * group's takes all of its keys and values from there. */
#include "codegen/cuda/emit.h"

const char *emit_kept(const ArtState *s) { return s->kept == ART_STATE_INT8 ? "Int8" : "float"; }

const ArtState *emit_state(const Emit *e, uint32_t store) {
    return &e->p->states.data[e->p->steps.data[store].arg[1].value];
}

bool emit_has_int8(const Program *p) {
    for (size_t i = 0; i < p->states.count; i++)
        if (p->states.data[i].kept == ART_STATE_INT8) return true;
    return false;
}

uint32_t emit_fresh(const Emit *e, const Fused *g, uint32_t product) {
    uint32_t width = 0;
    for (uint32_t i = 0; i < product && i < g->n; i++) {
        uint32_t store = g->product[i].store;
        if (store == NO_STEP || emit_state(e, store)->kept != ART_STATE_INT8) continue;
        width += emit_state(e, store)->heads * emit_state(e, store)->dim;
    }
    return width;
}

/* Bytes that are read and written for a row. */
static double store_bytes(const ArtState *s) {
    double numbers = (double)s->heads * s->dim;
    return numbers * 4 + (s->kept == ART_STATE_INT8 ? numbers + 2.0 * s->heads : numbers * 4);
}

static void where_parameters(Emit *e) {
    kernel_param(e, "global<const i32>", "sequences", ART_CUDA_SEQUENCES, 0);
    kernel_param(e, "global<const i32>", "positions", ART_CUDA_POSITIONS, 0);
    kernel_param(e, "u32", "context", ART_CUDA_CONTEXT, 0);
}

static const char *state_type(const Emit *e, const ArtState *s) {
    return arena_printf(e->arena, "global<%s>", emit_kept(s));
}

/* A warp a head. */
static void write_heads(Emit *e, const ArtState *s) {
    e->launch.blocks = s->heads;
    text_printf(&e->body,
                "    const u32 row = block_row();\n    grid_wait();\n"
                "    store_head<Int8, %u, %u>(x + row * %u, state, block_index(), (u32)sequences[row], "
                "(u32)positions[row], context);\n",
                s->heads, s->dim, s->heads * s->dim);
    kernel_finish(
        e, arena_printf(e->arena, "store_%ux%u_int8", s->heads, s->dim), 32,
        arena_printf(e->arena, "Keys or values of %u heads of %u to the cache in 8 bits", s->heads, s->dim),
        store_bytes(s), 3.0 * s->heads * s->dim);
}

bool write_store(Emit *e) {
    const ArtState *s = emit_state(e, e->step);
    uint32_t width = s->heads * s->dim;
    kernel_begin(e);
    kernel_read(e, "x", &e->s->arg[0]);
    kernel_param(e, state_type(e, s), "state", ART_CUDA_STATE, e->s->arg[1].value);
    where_parameters(e);
    if (s->kept == ART_STATE_INT8) {
        write_heads(e, s);
        return true;
    }
    text_printf(&e->body,
                "    const u32 row = block_row();\n    grid_wait();\n"
                "    store_row<float, %u, %u>(x + row * %u, state, (u32)sequences[row], (u32)positions[row], "
                "context);\n",
                s->heads, s->dim, width);
    kernel_finish(e, arena_printf(e->arena, "store_%ux%u", s->heads, s->dim), emit_threads(width),
                  arena_printf(e->arena, "Keys or values of %u heads of %u to the cache", s->heads, s->dim),
                  store_bytes(s), 0);
    return true;
}

void write_fresh(Emit *e, const Fused *g) {
    uint32_t width = emit_fresh(e, g, g->n), heads = 0;
    double bytes = 0;
    Text body = text_new(e->arena), name = text_new(e->arena);
    if (width == 0) return;
    kernel_begin(e);
    e->launch.when = ART_ROWS_1 | ART_ROWS_4 | ART_ROWS_8;
    kernel_param(e, "global<const float>", "fresh", ART_CUDA_SCRATCH, 0);
    text_add(&name, "store");
    for (uint32_t i = 0; i < g->n; i++) {
        uint32_t store = g->product[i].store, at = emit_fresh(e, g, i);
        if (store == NO_STEP || emit_fresh(e, g, i + 1) == at) continue;
        const ArtState *s = emit_state(e, store);
        const char *state = arena_printf(e->arena, "cache_%u", i);
        kernel_param(e, state_type(e, s), state, ART_CUDA_STATE, e->p->steps.data[store].arg[1].value);
        text_printf(&body,
                    "    %sif (head < %u)\n"
                    "        store_head<Int8, %u, %u>(fresh + (row * %u + %u), %s, head - %u, sequence, "
                    "position, context);\n",
                    heads ? "else " : "", heads + s->heads, s->heads, s->dim, width, at, state, heads);
        text_printf(&name, "_%ux%u", s->heads, s->dim);
        heads += s->heads;
        bytes += store_bytes(s);
    }
    where_parameters(e);
    e->launch.blocks = heads;
    text_printf(&e->body,
                "    const u32 row = block_row(), head = block_index();\n    grid_wait();\n"
                "    const u32 sequence = (u32)sequences[row], position = (u32)positions[row];\n%s",
                body.data);
    kernel_finish(e, arena_printf(e->arena, "%s_int8", name.data), 32,
                  "New keys and values to the cache in 8 bits, a head a block", bytes, 3.0 * width);
    if ((uint64_t)width * 4 > e->out->scratch_row_bytes) e->out->scratch_row_bytes = (uint64_t)width * 4;
}
