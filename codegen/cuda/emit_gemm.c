/* emit_gemm.c: products of many rows on matrix units (kernels/gemm.cu).
 *
 * A step becomes up to four launches: x is rounded, unless the step before did so already; then one of three products by
 * rows and chip. The tile of the product is chosen by waves: a wave is a tile for every multiprocessor, and the last one is
 * seldom full. */
#include "codegen/cuda/emit.h"

typedef struct {
    const char *name;
    uint32_t when, grid, high, outputs, threads, shared_bytes;
    const char *call; /* with its tile, before the arguments that all have */
    const char *
        on; /* chips that launch it; what others have of it is empty, which spares their compiler a quarter */
} Gemm;

/* Values of x and of the decoded weights; NULL: such weights have no kernel here. */
static const char *gemm_type(const Emit *e) {
    const ArtTensor *w = &e->p->tensors.data[e->s->arg[1].value].art;
    if (w->layout == ART_GROUP16 || w->dtype == ART_F16) return "half";
    return w->dtype == ART_BF16 ? "bf16" : NULL;
}

/* Relative time of a product of `rows` rows: narrower tiles read more of x for an operation. */
static double waves_time(uint32_t n, uint32_t rows, uint32_t outputs) {
    enum { SMS = 132 };
    uint32_t tiles = (rows + 127) / 128 * ((n + outputs - 1) / outputs), waves = (tiles + SMS - 1) / SMS;
    return waves * (double)outputs * (outputs == 256 ? 1.0 : 1.12);
}

static Gemm gemm_groups(const Emit *e) {
    enum { ROWS = 2048 }; /* a chunk of a long prompt */
    uint32_t n = e->s->u.linear.n;
    bool wide = waves_time(n, ROWS, 256) <= waves_time(n, ROWS, 128);
    uint32_t outputs = wide ? 256 : 128, stages = wide ? 4 : 6;
    return (Gemm){.name = "groups",
                  .when = ART_ROWS_MORE | ART_CHIP_90,
                  .grid = ART_GRID_STAY,
                  .outputs = outputs,
                  .threads = 384,
                  .shared_bytes = stages * (128 + outputs) * 128 + stages * 16,
                  .call = arena_printf(e->arena, "%u, %u", outputs, stages),
                  .on = "has_matrix_groups"};
}

/* The tile is high x outputs, the warps lie `across` next to each other. */
static Gemm gemm_warps(const Emit *e, const char *name, uint32_t when, uint32_t high, uint32_t outputs,
                       uint32_t across, uint32_t stages) {
    return (Gemm){.name = name,
                  .when = when,
                  .grid = high == 128 ? ART_GRID_TILES_128 : ART_GRID_TILES,
                  .outputs = outputs,
                  .threads = 256,
                  .shared_bytes = stages * (high + outputs) * 128,
                  .call = arena_printf(e->arena, "%u, %u, %u, %u", high, outputs, across, stages),
                  .on = when & ART_CHIP_OTHER ? "lacks_matrix_groups" : NULL};
}

/* out(row, n, a, b): the sums of outputs n and n + 1. */
static void pair_epilogue(Emit *e) {
    const ArtStep *s = e->s;
    const ArtLinear *u = &s->u.linear;
    if (u->n % 2) {
        emit_epilogue(e, "one");
        text_printf(&e->body,
                    "    auto out = [&](u32 row, u32 n, float a, float b) {\n        one(row, n, a);\n"
                    "        if (n + 1 < %u) one(row, n + 1, b);\n    };\n",
                    u->n);
        return;
    }
    text_add(&e->body, "    auto out = [&](u32 row, u32 n, float a, float b) {\n");
    if (s->arg[2].kind)
        text_add(&e->body, "        const Pair of_bias = load_pair(bias + n);\n"
                           "        a += of_bias.low, b += of_bias.high;\n");
    emit_activation(&e->body, u->act, "a", "        ");
    emit_activation(&e->body, u->act, "b", "        ");
    static const char *const name[] = {"gate", "residual"}, *const op[] = {"*=", "+="};
    for (int i = 0; i < 2; i++) {
        const ArtArg *a = &s->arg[3 + i];
        if (!a->kind) continue;
        const char *at = a->kind == ART_ARG_TENSOR ? "n" : arena_printf(e->arena, "row * %u + n", u->n);
        text_printf(&e->body, "        const Pair of_%s = load_pair(%s + %s);\n", name[i], name[i], at);
        text_printf(&e->body, "        a %s of_%s.low, b %s of_%s.high;\n", op[i], name[i], op[i], name[i]);
    }
    text_printf(&e->body, "        store_pair(y + row * %u + n, a, b);\n    };\n", u->n);
}

static void write_product(Emit *e, const Gemm *m, const char *type) {
    const ArtStep *s = e->s;
    const ArtLinear *u = &s->u.linear;
    bool groups = m->threads == 384;
    kernel_begin(e);
    e->launch.when = m->when;
    e->launch.grid = m->grid;
    e->launch.blocks = (u->n + m->outputs - 1) / m->outputs;
    e->shared_bytes = m->shared_bytes;
    e->resident = groups ? 1 : 0;
    kernel_param(e, arena_printf(e->arena, "global<const %s>", type), "x", ART_CUDA_SCRATCH, 0);
    emit_operands(e);
    text_add(&e->body, "    SHARED_AT_LAUNCH(u8, ring);\n");
    pair_epilogue(e);
    if (m->on) text_printf(&e->body, "    if constexpr (%s)\n    ", m->on);
    text_printf(&e->body, "    gemm_%s<%s, %s, %u, %u, %s>(w, x, rows, ring, out);\n",
                groups ? "groups" : "warps", type, emit_form(e, &s->arg[1]), u->k, u->n, m->call);
    kernel_finish(
        e, arena_printf(e->arena, "gemm_%ux%u%s_%s", u->k, u->n, emit_activation_name(u->act), m->name),
        m->threads,
        arena_printf(e->arena, "Product %u -> %u on matrix units, %s", u->k, u->n, emit_form(e, &s->arg[1])),
        (double)e->p->tensors.data[s->arg[1].value].art.bytes, 2.0 * u->k * u->n);
}

static void write_rounded(Emit *e, const char *type) {
    uint32_t k = e->s->u.linear.k;
    uint64_t row_bytes = (uint64_t)(k + 63) / 64 * 128 + 4;
    const Rounded r = {e->s->arg[0].value, k, type};
    if (e->rounded.type && e->rounded.value == r.value && e->rounded.width == k && e->rounded.type == type)
        return;
    e->rounded = r;
    if (row_bytes > e->out->scratch_row_bytes) e->out->scratch_row_bytes = row_bytes;
    kernel_begin(e);
    e->launch.when = ART_ROWS_MANY;
    kernel_read(e, "x", &e->s->arg[0]);
    kernel_param(e, arena_printf(e->arena, "global<%s>", type), "rounded", ART_CUDA_SCRATCH, 0);
    kernel_param(e, "u32", "rows", ART_CUDA_COUNT, 0);
    text_printf(&e->body,
                "    SHARED(float, part, 32);\n    grid_wait();\n    round_row<%s, %u>(x, block_row(), rows, "
                "rounded, part);\n",
                type, k);
    kernel_finish(e, arena_printf(e->arena, "round_%u_%s", k, type), emit_threads(k),
                  arena_printf(e->arena, "Rows of %u as %s, in tiles", k, type), k * 6.0, k);
}

bool write_gemm(Emit *e) {
    const char *type = gemm_type(e);
    if (!e->halves || !type || e->s->arg[0].kind != ART_ARG_ROWS) return false;
    const Gemm all[] = {
        gemm_warps(e, "64", ART_ROWS_64, 64, 32, 2, 6),
        gemm_warps(e, "tiles", ART_ROWS_MORE | ART_CHIP_OTHER, 128, 128, 4, 3),
        gemm_groups(e),
    };
    write_rounded(e, type);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) write_product(e, &all[i], type);
    return true;
}

/* The rounded rows are good until something is written over x, or over them, or the rows are others (the head's). */
void rounded_forget(Emit *e) {
    const ArtStep *s = e->s;
    uint64_t at = e->rounded.value, end = at + 4 * (uint64_t)e->rounded.width;
    bool lost = s->kernel == ART_K_ATTENTION || e->step + 1 == e->p->plan.head_step;
    for (int i = s->kernel == ART_K_LINEAR ? 5 : 0; i < ART_MAX_ARGS;
         i++) { /* what others only read counts too */
        const ArtArg *a = &s->arg[i];
        lost = lost || (a->kind == ART_ARG_ROWS && a->value < end && a->value + 4 * (uint64_t)a->width > at);
    }
    if (lost) e->rounded = (Rounded){0};
}
