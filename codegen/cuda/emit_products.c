/* emit_products.c: a group of products (fuse.h) as one launch, for 1, 2 to 4 and 5 to 8 rows.
 *
 * A block has one panel of 16 outputs, or two when outputs of two panels meet: a gated pair, the halves of a rotary
 * head. The blocks of the group's products follow each other. Every block recomputes the norm of its rows, which costs
 * reading them from L2, and saves a launch and a wait. */
#include "codegen/cuda/emit.h"

typedef struct {
    Emit *e;
    const Fused *g;
    uint32_t rows;                      /* of the variant: 1, 4, 8 */
    uint32_t sides;                     /* panels of a block */
    uint32_t first[FUSED_PRODUCTS + 1]; /* blocks before each product */
} Products;

static const ArtStep *step(const Products *p, uint32_t i) { return &p->e->p->steps.data[i]; }
static const FusedProduct *product(const Products *p, uint32_t i) { return &p->g->product[i]; }
static const ArtTensor *matrix(const Products *p, uint32_t linear) {
    return &p->e->p->tensors.data[step(p, linear)->arg[1].value].art;
}

/* "bias" of the only product, "bias_1" of the second of several. */
static const char *name(const Products *p, const char *base, uint32_t i) {
    return p->g->n == 1 ? base : arena_printf(p->e->arena, "%s_%u", base, i);
}

/* Outputs that a launch of their own takes to the cache. */
static bool is_fresh(const Products *p, uint32_t i) {
    uint32_t store = product(p, i)->store;
    return store != NO_STEP && emit_state(p->e, store)->kept == ART_STATE_INT8;
}

/* ---- parameters ---- */
static void optional(Emit *e, const char *what, const ArtArg *a) {
    if (a->kind) kernel_read(e, what, a);
}

static void product_parameters(const Products *p, uint32_t i) {
    Emit *e = p->e;
    const FusedProduct *m = product(p, i);
    const ArtStep *s = step(p, m->linear);
    kernel_read(e, name(p, "w", i), &s->arg[1]);
    optional(e, name(p, "bias", i), &s->arg[2]);
    if (m->gate != NO_STEP) {
        kernel_read(e, name(p, "gate_w", i), &step(p, m->gate)->arg[1]);
        optional(e, name(p, "gate_bias", i), &step(p, m->gate)->arg[2]);
    } else {
        optional(e, name(p, "gate", i), &s->arg[3]);
    }
    optional(e, name(p, "residual", i), &s->arg[4]);
    if (is_fresh(p, i))
        kernel_param(e, "global<float>", name(p, "fresh", i), ART_CUDA_SCRATCH, 0);
    else if (m->store != NO_STEP)
        kernel_param(e, "global<float>", name(p, "cache", i), ART_CUDA_STATE,
                     step(p, m->store)->arg[1].value);
    else if (m->rope != NO_STEP)
        kernel_write(e, name(p, "y", i), &step(p, m->rope)->arg[3]);
    else
        kernel_write(e, name(p, "y", i), &s->arg[5]);
}

static void parameters(const Products *p) {
    Emit *e = p->e;
    const ArtStep *norm = p->g->norm == NO_STEP ? NULL : step(p, p->g->norm), *rope = NULL;
    bool store = false;
    kernel_read(e, "x", norm ? &norm->arg[0] : &step(p, product(p, 0)->linear)->arg[0]);
    for (int i = 1; norm && i < 3; i++) optional(e, i == 1 ? "gamma" : "beta", &norm->arg[i]);
    for (uint32_t i = 0; i < p->g->n; i++) {
        product_parameters(p, i);
        if (product(p, i)->rope != NO_STEP) rope = step(p, product(p, i)->rope);
        store = store || (product(p, i)->store != NO_STEP && !is_fresh(p, i));
    }
    if (rope) {
        kernel_read(e, "cosines", &rope->arg[1]);
        kernel_read(e, "sines", &rope->arg[2]);
    }
    if (rope || store) kernel_param(e, "global<const i32>", "positions", ART_CUDA_POSITIONS, 0);
    if (store) {
        kernel_param(e, "global<const i32>", "sequences", ART_CUDA_SEQUENCES, 0);
        kernel_param(e, "u32", "context", ART_CUDA_CONTEXT, 0);
    }
    if (p->rows > 1) kernel_param(e, "u32", "rows", ART_CUDA_COUNT, 0);
}

/* ---- body ---- */
static void prologue(const Products *p) {
    Emit *e = p->e;
    uint32_t k = step(p, product(p, 0)->linear)->u.linear.k;
    const char *guard = p->rows > 1 ? "row >= rows ? 0.0f : " : "";
    text_printf(&e->body, "    SHARED(float, part, %u);\n", 8 * p->rows * 16);
    if (p->g->norm == NO_STEP) {
        text_printf(&e->body,
                    "    auto begin = [&] { grid_wait(); };\n"
                    "    auto in = [&](u32 row, u32 k) { return %sx[row * %u + k]; };\n",
                    guard, k);
        return;
    }
    const ArtStep *s = step(p, p->g->norm);
    const ArtNorm *u = &s->u.norm;
    text_printf(&e->body,
                "    SHARED(float, norm_part, 128);\n    SHARED(float, centre, %u);\n"
                "    auto begin = [&] {\n        grid_wait();\n"
                "        norm_centres<%u, %u>(x, %s, %s, %s, norm_part, centre);\n    };\n",
                2 * p->rows, k, p->rows, p->rows > 1 ? "rows" : "1", u->rms ? "true" : "false",
                emit_literal(e, u->eps));
    text_printf(
        &e->body,
        "    auto in = [&](u32 row, u32 k) { return %s%sx[row * %u + k]%s * centre[2 * row + 1]%s%s; };\n",
        guard, u->rms ? "" : "(", k, u->rms ? "" : " - centre[2 * row])", s->arg[1].kind ? " * gamma[k]" : "",
        s->arg[2].kind ? " + beta[k]" : "");
}

/* The panel of each side of a block. */
static void panel_choice(const Products *p) {
    Emit *e = p->e;
    if (p->g->n == 1 && p->sides == 1) {
        text_add(&e->body, "    const u32 block = block_index();\n"
                           "    auto panel_of = [&](u32) { return block; };\n");
        return;
    }
    text_add(&e->body, "    const u32 block = block_index();\n    auto panel_of = [&](u32 side) -> u32 {\n");
    for (uint32_t i = 0; i < p->g->n; i++) {
        const FusedProduct *m = product(p, i);
        const char *b = p->first[i] ? arena_printf(e->arena, "(block - %u)", p->first[i]) : "block";
        text_add(&e->body, "        ");
        if (i + 1 < p->g->n) text_printf(&e->body, "if (block < %u) ", p->first[i + 1]);
        if (m->gate != NO_STEP || p->sides == 1)
            text_printf(&e->body, "return %s;\n", b);
        else if (m->rope != NO_STEP && fuse_apart(&step(p, m->rope)->u.rope))
            text_printf(&e->body, "return rope_panel<%u, %u>(%s, side);\n", step(p, m->rope)->u.rope.dim,
                        step(p, m->rope)->u.rope.rotated, b);
        else
            text_printf(&e->body, "return %s * 2 + side;\n", b);
    }
    text_add(&e->body, "    };\n");
}

static void sums(const Products *p) {
    Emit *e = p->e;
    const ArtArg *w = &step(p, product(p, 0)->linear)->arg[1];
    uint32_t warps = 8 / p->sides;
    text_printf(&e->body, "    const u32 side = warp() / %u;\n    const global<const %s> w_of = ", warps,
                emit_type(e, w));
    for (uint32_t i = 0; i < p->g->n; i++) {
        if (i + 1 < p->g->n) text_printf(&e->body, "block < %u ? ", p->first[i + 1]);
        if (product(p, i)->gate == NO_STEP)
            text_add(&e->body, name(p, "w", i));
        else
            text_printf(&e->body, "(side ? %s : %s)", name(p, "w", i), name(p, "gate_w", i));
        text_add(&e->body, i + 1 < p->g->n ? " : " : ";\n");
    }
    text_printf(&e->body,
                "    panel_sums<%u, %u>(%s(), w_of, panel_of(side), warp() %% %u, %u, part + "
                "side * %u, begin, in);\n    barrier();\n",
                step(p, product(p, 0)->linear)->u.linear.k, p->rows, emit_form(e, w), warps, warps,
                warps * p->rows * 16);
}

/* v, the element n of the row, turned with the other element of its pair. */
static void rope(const Products *p, uint32_t i, const char *in) {
    Emit *e = p->e;
    const ArtRope *u = &step(p, product(p, i)->rope)->u.rope;
    bool bias = step(p, product(p, i)->linear)->arg[2].kind;
    uint32_t half = u->rotated / 2, warps = 8 / p->sides, all = warps * p->rows * 16;
    text_printf(&e->body,
                "%sconst u32 place = n %% %u;\n%sif (place < %u) {\n"
                "%s    const bool first = %s;\n%s    const u64 pair = (u64)(u32)positions[row] * %u + %s;\n",
                in, u->dim, in, u->rotated, in,
                u->interleaved ? "place % 2 == 0" : arena_printf(e->arena, "place < %u", half), in, half,
                u->interleaved ? "place / 2" : arena_printf(e->arena, "place %% %u", half));
    const char *other =
        fuse_apart(u) ? arena_printf(e->arena, "part + (first ? %u : 0), %u, at", all, warps)
                      : arena_printf(e->arena, "part + own, %u, at ^ %u", warps, u->interleaved ? 1 : 8);
    text_printf(&e->body, "%s    float u = panel_sum<%u>(%s);\n", in, p->rows, other);
    if (bias)
        text_printf(&e->body, "%s    u += %s[first ? n + %u : n - %u];\n", in, name(p, "bias", i),
                    u->interleaved ? 1 : half, u->interleaved ? 1 : half);
    text_printf(&e->body, "%s    v = v * cosines[pair] + (first ? -u : u) * sines[pair];\n%s}\n", in, in);
}

static void add_operand(const Products *p, const ArtArg *a, const char *what, char op, uint32_t n,
                        const char *in) {
    if (!a->kind) return;
    const char *row = a->kind == ART_ARG_TENSOR ? "" : arena_printf(p->e->arena, "row * %u + ", n);
    text_printf(&p->e->body, "%sv %c= %s[%sn];\n", in, op, what, row);
}

static void product_epilogue(const Products *p, uint32_t i, const char *in) {
    Emit *e = p->e;
    const FusedProduct *m = product(p, i);
    const ArtStep *s = step(p, m->linear);
    uint32_t n = s->u.linear.n, warps = 8 / p->sides;
    if (n % 16) text_printf(&e->body, "%sif (n >= %u) continue;\n", in, n);
    if (s->arg[2].kind) text_printf(&e->body, "%sv += %s[n];\n", in, name(p, "bias", i));
    emit_activation(&e->body, s->u.linear.act, "v", in);
    if (m->gate != NO_STEP) { /* side 0 has the gate's sums */
        const ArtStep *gate = step(p, m->gate);
        text_printf(&e->body, "%sif (own == 0) continue;\n%sfloat g = panel_sum<%u>(part, %u, at);\n", in, in,
                    p->rows, warps);
        if (gate->arg[2].kind) text_printf(&e->body, "%sg += %s[n];\n", in, name(p, "gate_bias", i));
        emit_activation(&e->body, gate->u.linear.act, "g", in);
        text_printf(&e->body, "%sv *= g;\n", in);
    } else {
        add_operand(p, &s->arg[3], name(p, "gate", i), '*', n, in);
    }
    add_operand(p, &s->arg[4], name(p, "residual", i), '+', n, in);
    if (m->rope != NO_STEP) rope(p, i, in);
    if (is_fresh(p, i))
        text_printf(&e->body, "%s%s[row * %u + %u + n] = v;\n", in, name(p, "fresh", i),
                    emit_fresh(e, p->g, p->g->n), emit_fresh(e, p->g, i));
    else if (m->store != NO_STEP)
        text_printf(&e->body,
                    "%sstore_one<%u, %u>(v, n, %s, (u32)sequences[row], (u32)positions[row], context);\n", in,
                    step(p, m->store)->u.store.heads, step(p, m->store)->u.store.dim, name(p, "cache", i));
    else
        text_printf(&e->body, "%s%s[row * %u + n] = v;\n", in, name(p, "y", i), n);
}

static void epilogue(const Products *p) {
    Emit *e = p->e;
    uint32_t warps = 8 / p->sides, all = p->rows * 16;
    bool many = p->g->n > 1;
    text_printf(&e->body,
                "    for (u32 i = thread_index(); i < %u; i += 256) {\n"
                "        const u32 at = i %% %u, own = i / %u * %u, row = at / 16, n = panel_of(i / %u) * 16 "
                "+ at %% 16;\n",
                p->sides * all, all, all, warps * all, all);
    if (p->rows > 1) text_add(&e->body, "        if (row >= rows) continue;\n");
    text_printf(&e->body, "        float v = panel_sum<%u>(part + own, %u, at);\n", p->rows, warps);
    for (uint32_t i = 0; i < p->g->n; i++) {
        if (many && i + 1 < p->g->n)
            text_printf(&e->body, "        %sif (block < %u) {\n", i ? "} else " : "", p->first[i + 1]);
        else if (many)
            text_add(&e->body, "        } else {\n");
        product_epilogue(p, i, many ? "            " : "        ");
    }
    text_add(&e->body, many ? "        }\n    }\n" : "    }\n");
}

/* ---- the whole ---- */
static const char *kernel_name(const Products *p) {
    Text t = text_new(p->e->arena);
    const ArtStep *first = step(p, product(p, 0)->linear);
    text_printf(&t, "%slinear_%u", p->g->norm == NO_STEP ? "" : "norm_", first->u.linear.k);
    for (uint32_t i = 0; i < p->g->n; i++) {
        const FusedProduct *m = product(p, i);
        const ArtLinear *u = &step(p, m->linear)->u.linear;
        text_printf(&t, "%s%u%s%s%s%s", i ? "_" : "x", u->n, emit_activation_name(u->act),
                    m->gate == NO_STEP ? ""
                                       : arena_printf(p->e->arena, "_gated%s",
                                                      emit_activation_name(step(p, m->gate)->u.linear.act)),
                    m->rope == NO_STEP ? "" : "_rope",
                    is_fresh(p, i)        ? "_fresh"
                    : m->store == NO_STEP ? ""
                                          : "_store");
    }
    text_printf(&t, "_rows%u", p->rows);
    return t.data;
}

static void variant(Emit *e, const Fused *g, uint32_t rows, uint32_t when) {
    Products p = {.e = e, .g = g, .rows = rows, .sides = fuse_sides(e->p, g)};
    double bytes = 0, ops = 0;
    for (uint32_t i = 0; i < g->n; i++) {
        const FusedProduct *m = &g->product[i];
        uint32_t panels = (step(&p, m->linear)->u.linear.n + 15) / 16;
        p.first[i + 1] = p.first[i] + (m->gate == NO_STEP ? panels / p.sides : panels);
        bytes += (double)matrix(&p, m->linear)->bytes;
        if (m->gate != NO_STEP) bytes += (double)matrix(&p, m->gate)->bytes;
        ops += 2.0 * step(&p, m->linear)->u.linear.k * step(&p, m->linear)->u.linear.n *
               (m->gate == NO_STEP ? 1 : 2);
    }
    kernel_begin(e);
    e->launch.when = when;
    e->launch.grid = ART_GRID_ONCE;
    e->launch.blocks = p.first[g->n];
    parameters(&p);
    prologue(&p);
    panel_choice(&p);
    sums(&p);
    epilogue(&p);
    kernel_finish(e, kernel_name(&p), 256,
                  arena_printf(e->arena, "%s of %u by %s",
                               g->norm == NO_STEP ? "Products" : "A norm, then products",
                               step(&p, g->product[0].linear)->u.linear.k,
                               emit_form(e, &step(&p, g->product[0].linear)->arg[1])),
                  bytes, ops);
}

void write_products(Emit *e, const Fused *g) {
    variant(e, g, 1, ART_ROWS_1);
    variant(e, g, 4, ART_ROWS_4);
    variant(e, g, 8, ART_ROWS_8);
    write_fresh(e, g);
}
