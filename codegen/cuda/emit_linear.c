/* emit_linear.c: products with constant weights when rows are many (emit_products.c has those of few rows). */
#include "codegen/cuda/emit.h"

void emit_activation(Text *t, uint32_t act, const char *v, const char *indent) {
    static const char *const function[] = {
        [ART_ACT_RELU] = "relu", [ART_ACT_GELU_ERF] = "gelu_erf", [ART_ACT_GELU_TANH] = "gelu_tanh",
        [ART_ACT_SILU] = "silu", [ART_ACT_TANH] = "tanhf",        [ART_ACT_SIGMOID] = "sigmoid"};
    if (act != ART_ACT_NONE)
        text_printf(t, "%s%s = %s(%s%s);\n", indent, v, function[act], v,
                    act == ART_ACT_SILU ? ", 1.0f" : "");
}

const char *emit_activation_name(uint32_t act) {
    static const char *const names[] = {[ART_ACT_NONE] = "",           [ART_ACT_RELU] = "_relu",
                                        [ART_ACT_GELU_ERF] = "_gelu",  [ART_ACT_GELU_TANH] = "_gelu_tanh",
                                        [ART_ACT_SILU] = "_silu",      [ART_ACT_TANH] = "_tanh",
                                        [ART_ACT_SIGMOID] = "_sigmoid"};
    return names[act];
}

void emit_epilogue(Emit *e, const char *name) {
    const ArtStep *s = e->s;
    const ArtLinear *u = &s->u.linear;
    text_printf(&e->body, "    auto %s = [&](u32 row, u32 n, float v) {\n", name);
    if (s->arg[2].kind) text_printf(&e->body, "        v += bias[n];\n");
    emit_activation(&e->body, u->act, "v", "        ");
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

void emit_operands(Emit *e) {
    const ArtStep *s = e->s;
    kernel_read(e, "w", &s->arg[1]);
    if (s->arg[2].kind) kernel_read(e, "bias", &s->arg[2]);
    if (s->arg[3].kind) kernel_read(e, "gate", &s->arg[3]);
    if (s->arg[4].kind) kernel_read(e, "residual", &s->arg[4]);
    kernel_write(e, "y", &s->arg[5]);
    kernel_param(e, "u32", "rows", ART_CUDA_COUNT, 0);
}

bool write_linear(Emit *e) {
    const ArtStep *s = e->s;
    const ArtLinear *u = &s->u.linear;
    if (e->when == ART_ROWS_MANY && write_gemm(e)) return true;
    kernel_begin(e);
    e->launch.grid = ART_GRID_TILES;
    e->launch.blocks = (u->n + 63) / 64;
    kernel_read(e, "x", &s->arg[0]);
    emit_operands(e);
    text_printf(&e->body,
                "    SHARED(float, xs, 64 * 16);\n    SHARED(float, ws, 64 * 16);\n"
                "    auto in = [&](u32 row, u32 k) { return x[row * %u + k]; };\n",
                u->k);
    emit_epilogue(e, "out");
    text_printf(&e->body, "    linear_many<%s, %u, %u>(w, rows, xs, ws, in, out);\n",
                emit_form(e, &s->arg[1]), u->k, u->n);
    kernel_finish(e, arena_printf(e->arena, "linear_%ux%u%s_many", u->k, u->n, emit_activation_name(u->act)),
                  256,
                  arena_printf(e->arena, "Product %u -> %u, %s%s%s%s", u->k, u->n, emit_form(e, &s->arg[1]),
                               s->arg[2].kind ? ", bias" : "", s->arg[3].kind ? ", gate" : "",
                               s->arg[4].kind ? ", residual" : ""),
                  (double)e->p->tensors.data[s->arg[1].value].art.bytes, 2.0 * u->k * u->n);
    return true;
}
