/* emit_linear.c: products with constant weights. A step becomes one launch for each range of rows. */
#include "codegen/cuda/emit.h"

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

/* The products of a block, by in and out as they stand above. */
static void linear_call(Emit *e, uint32_t rows) {
    const ArtLinear *u = &e->s->u.linear;
    const ArtArg *w = &e->s->arg[1];
    bool codes = e->p->tensors.data[w->value].art.layout == ART_GROUP16;
    if (!rows) {
        text_printf(&e->body, "    linear_many<%s, %u, %u>(w, rows, xs, ws, in, out);\n", emit_form(e, w),
                    u->k, u->n);
        return;
    }
    if (codes) text_printf(&e->body, "    SHARED(u32, stage, 8 * 4 * 192);\n");
    text_printf(&e->body, "    linear_%s<%s, %u, %u, %u>(w, %spart, in, ", codes ? "codes" : "few",
                codes ? emit_form(e, w) : emit_type(e, w), u->k, u->n, rows, codes ? "stage, " : "");
    text_add(&e->body, rows == 1 ? "out);\n"
                                 : "[&](u32 row, u32 n, float v) {\n        if (row < rows) out(row, n, v);\n"
                                   "    });\n");
}

static void linear_variant(Emit *e, uint32_t rows, uint32_t when) {
    const ArtStep *s = e->s;
    const ArtLinear *u = &s->u.linear;
    kernel_begin(e);
    e->launch.when = when;
    e->launch.grid = rows ? ART_GRID_ONCE : ART_GRID_TILES;
    e->launch.blocks = rows ? (u->n + 15) / 16 : (u->n + 63) / 64;
    kernel_read(e, "x", &s->arg[0]);
    kernel_read(e, "w", &s->arg[1]);
    if (s->arg[2].kind) kernel_read(e, "bias", &s->arg[2]);
    if (s->arg[3].kind) kernel_read(e, "gate", &s->arg[3]);
    if (s->arg[4].kind) kernel_read(e, "residual", &s->arg[4]);
    kernel_write(e, "y", &s->arg[5]);
    if (rows != 1) kernel_param(e, "u32", "rows", ART_CUDA_COUNT, 0);
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
    linear_call(e, rows);
    const char *count = rows ? arena_printf(e->arena, "rows%u", rows) : "many";
    kernel_finish(e, arena_printf(e->arena, "linear_%ux%u%s_%s", u->k, u->n, activation_names[u->act], count),
                  256,
                  arena_printf(e->arena, "Product %u -> %u, %s%s%s%s", u->k, u->n, emit_form(e, &s->arg[1]),
                               s->arg[2].kind ? ", bias" : "", s->arg[3].kind ? ", gate" : "",
                               s->arg[4].kind ? ", residual" : ""),
                  (double)e->p->tensors.data[s->arg[1].value].art.bytes, 2.0 * u->k * u->n);
}

bool write_linear(Emit *e) {
    linear_variant(e, 1, ART_ROWS_1);
    linear_variant(e, 4, ART_ROWS_4);
    linear_variant(e, 8, ART_ROWS_8);
    linear_variant(e, 0, ART_ROWS_MANY);
    return true;
}
