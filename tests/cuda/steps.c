/* steps.c: prints the kernels of the steps of steps.h as the emitter writes them, and what launches each.
 * usage: cuda-steps-emit FILE */
#include <stdio.h>

#include "codegen/cuda/emit.h"
#include "tests/cuda/steps.h"

static const ArtArg no_arg;

static ArtStep *step_add(Program *p) {
    ValId none = NO_VAL;
    ArtStep s = {.kernel = ART_K_POINTWISE};
    VEC_PUSH(p->arena, &p->steps, s);
    VEC_PUSH(p->arena, &p->step_out, none);
    return &p->steps.data[p->steps.count - 1];
}

static ArtArg tensor_add(Program *p, uint32_t dtype, uint32_t layout) {
    ProgramTensor t = {.art = {.dtype = dtype, .layout = layout, .bytes = 1}};
    VEC_PUSH(p->arena, &p->tensors, t);
    return (ArtArg){ART_ARG_TENSOR, 0, p->tensors.count - 1};
}

static void add_point(Program *p, const PointCase *c) {
    ArtInsn insns[POINT_INSNS];
    ArtStep *s = step_add(p);
    s->u.pointwise = (ArtPointwise){(uint32_t)p->insns.count, POINT_INSNS, c->width};
    for (int k = 0; k < 3; k++)
        s->arg[k] = c->in[k].kind == ART_ARG_TENSOR ? tensor_add(p, ART_F32, ART_PLAIN)
                                                    : (ArtArg){c->in[k].kind, c->in[k].width, 0};
    s->arg[6] = (ArtArg){ART_ARG_ROWS, c->width, 0};
    point_insns(c, insns);
    for (int i = 0; i < POINT_INSNS; i++) VEC_PUSH(p->arena, &p->insns, insns[i]);
}

static void add_routed(Program *p, const RoutedCase *c) {
    ArtStep *s = step_add(p);
    s->kernel = ART_K_ROUTED;
    s->u.routed = (ArtRouted){c->experts, c->slots, c->k, c->n, c->act, c->shared};
    s->arg[0] = (ArtArg){ART_ARG_ROWS, c->shared ? c->k : c->slots * c->k, 0};
    s->arg[1] = (ArtArg){ART_ARG_ROWS, c->slots, 0};
    s->arg[2] = tensor_add(p, c->dtype, c->group ? ART_GROUP16 : ART_PANEL16);
    p->tensors.data[s->arg[2].value].art.group = c->group;
    p->tensors.data[s->arg[2].value].art.flags = c->flags;
    s->arg[3] = c->bias ? tensor_add(p, ART_F32, ART_PLAIN) : no_arg;
    s->arg[4] = c->gate ? (ArtArg){ART_ARG_ROWS, c->slots * c->n, 0} : no_arg;
    s->arg[5] = (ArtArg){ART_ARG_ROWS, c->slots * c->n, 0};
}

/* The case's arguments, by operand: what rows(k), table(k), … of steps.cpp are. */
static void print_launch(const Emit *e, uint32_t number) {
    const ArtCudaLaunch *l = &e->out->launches.data[number];
    const CudaFunction *f = &e->out->functions.data[l->function];
    bool routed = e->s->kernel == ART_K_ROUTED;
    printf("    case %u: return run(%u, %u, [&] { %s(", number, l->blocks, f->threads, f->name);
    for (uint32_t k = 0; k < (routed ? 5u : 6u); k++) {
        const ArtArg *a = &e->s->arg[k];
        if (!a->kind) continue;
        if (routed && k == 2)
            printf("weights<%s>(), ", emit_type(e, a));
        else
            printf("%s(%u), ",
                   a->kind == ART_ARG_ROWS     ? "rows"
                   : a->kind == ART_ARG_TENSOR ? "table"
                                               : "ints",
                   k);
    }
    printf("to); });\n");
}

int main(int argc, char **argv) {
    if (argc != 2 || !freopen(argv[1], "w", stdout)) return 2;
    Arena *a = arena_new();
    Diag d;
    diag_init(&d);
    CudaProgram c = {.source = text_new(a)};
    Program p = {.arena = a};
    Emit e = {.p = &p, .out = &c, .arena = a, .diag = &d, .when = ART_ROWS_ANY};
    for (uint32_t i = 0; i < POINT_CASES; i++) {
        PointCase point = point_case(i);
        if (point_is_case(i)) add_point(&p, &point);
    }
    for (uint32_t i = 0; i < ROUTED_CASES; i++) add_routed(&p, &routed_cases[i]);
    for (e.step = 0; e.step < p.steps.count; e.step++) {
        e.s = &p.steps.data[e.step];
        if (!(e.s->kernel == ART_K_ROUTED ? write_routed(&e) : write_pointwise(&e))) return 1;
    }
    printf("%s\nstatic std::string launch_case(u32 number) {\n    switch (number) {\n", c.source.data);
    for (e.step = 0; e.step < p.steps.count; e.step++) {
        e.s = &p.steps.data[e.step];
        print_launch(&e, e.step);
    }
    printf("    default: return \"no such case\";\n    }\n}\n");
    diag_free(&d);
    arena_free(a);
    return fflush(stdout) != 0;
}
