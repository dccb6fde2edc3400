/* emit_pointwise.c: elementwise programs, an expression a line. */
#include "codegen/cuda/emit.h"

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

const char *pointwise_index(const Emit *e, const ArtInsn *n, uint32_t width) {
    const char *at = n->div > 1 ? arena_printf(e->arena, "i / %u", n->div) : "i";
    return (width - 1) / n->div < n->mod ? at : arena_printf(e->arena, "%s %% %u", at, n->mod);
}

uint32_t pointwise_insns(const Emit *e, Text *t, const char *indent, PointwiseLoad load, void *user) {
    const ArtPointwise *u = &e->s->u.pointwise;
    uint32_t value[ART_REGISTERS] = {0}, next = 0;
    for (uint32_t k = 0; k < u->count; k++) {
        const ArtInsn *n = &e->p->insns.data[u->first + k];
        if (n->op == ART_I_STORE) return value[n->a];
        text_printf(t, "%sconst float v%u = ", indent, next);
        if (n->op == ART_I_LOAD)
            text_add(t, load(user, e, n));
        else if (n->op == ART_I_CONST)
            text_add(t, emit_literal(e, n->imm));
        else if (n->op == ART_I_SILU)
            text_printf(t, "silu(v%u, %s)", value[n->a], emit_literal(e, n->imm));
        else
            insn_write(t, insn_text[n->op], n, value);
        text_add(t, ";\n");
        value[n->dst] = next++;
    }
    return 0;
}

static const char *load_operand(void *user, const Emit *e, const ArtInsn *n) {
    const ArtArg *a = &e->s->arg[n->a];
    (void)user;
    if (a->kind == ART_ARG_TOKENS || a->kind == ART_ARG_POSITIONS)
        return arena_printf(e->arena, "(float)in%u[row]", n->a);
    const char *row = a->kind == ART_ARG_ROWS ? arena_printf(e->arena, "row * %u + ", a->width) : "";
    return arena_printf(e->arena, "in%u[%s%s]", n->a, row, pointwise_index(e, n, e->s->u.pointwise.width));
}

bool write_pointwise(Emit *e) {
    const ArtStep *s = e->s;
    const ArtPointwise *u = &s->u.pointwise;
    kernel_begin(e);
    for (uint32_t i = 0; i < 6; i++)
        if (s->arg[i].kind) kernel_read(e, arena_printf(e->arena, "in%u", i), &s->arg[i]);
    kernel_write(e, "y", &s->arg[6]);
    text_printf(&e->body,
                "    const u32 row = block_row(), i = block_index() * thread_count() + thread_index();\n    "
                "grid_wait();\n    if (i >= %u) return;\n",
                u->width);
    uint32_t result = pointwise_insns(e, &e->body, "    ", load_operand, NULL);
    text_printf(&e->body, "    y[row * %u + i] = v%u;\n", u->width, result);
    uint32_t threads = emit_threads(u->width);
    e->launch.blocks = (u->width + threads - 1) / threads;
    kernel_finish(e, arena_printf(e->arena, "pointwise_%u", u->width), threads,
                  arena_printf(e->arena, "Elementwise over %u", u->width), u->width * 8.0,
                  u->width * (double)u->count);
    return true;
}
