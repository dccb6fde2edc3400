/* launch.c: a step of the plan as a Launch, its pointers set once: with room for R rows, the buffer at row offset o lies
 * at rows + o * R. The plan was checked when the file was opened. */
#include "runtime/runtime.h"

static float *rows_at(const gptc_session *s, const ArtArg *a) {
    return a->kind == ART_ARG_ROWS ? (float *)(void *)(s->rows + a->value * s->chunk) : NULL;
}

static const void *tensor_at(const gptc_session *s, const ArtArg *a) {
    return a->kind == ART_ARG_TENSOR ? s->model->weights + s->model->tensors[a->value].offset : NULL;
}

/* A buffer, with a row's stride; or a vector that is the same for all rows; or NULL. */
static const float *either_at(const gptc_session *s, const ArtArg *a, size_t *stride) {
    *stride = a->kind == ART_ARG_ROWS ? a->width : 0;
    return a->kind == ART_ARG_TENSOR ? tensor_at(s, a) : rows_at(s, a);
}

static void resolve_norm(const gptc_session *s, const ArtStep *t, CpuNorm *o) {
    const ArtNorm *u = &t->u.norm;
    size_t width = t->arg[0].width, stride[2];
    for (int i = 0; i < 2; i++) {
        const ArtArg *a = &t->arg[1 + i];
        bool each = a->kind == ART_ARG_TENSOR && plan_elements(&s->model->tensors[a->value]) != u->width;
        stride[i] = each ? u->width : 0;
    }
    *o = (CpuNorm){.groups = u->groups,
                   .width = u->width,
                   .rms = u->rms,
                   .eps = u->eps,
                   .x = rows_at(s, &t->arg[0]),
                   .gamma = tensor_at(s, &t->arg[1]),
                   .beta = tensor_at(s, &t->arg[2]),
                   .gamma_stride = stride[0],
                   .beta_stride = stride[1],
                   .x_stride = width,
                   .out_stride = width,
                   .out = rows_at(s, &t->arg[3])};
}

static CpuGroups groups_of(const ArtTensor *t) {
    if (t->layout != ART_GROUP16) return (CpuGroups){0};
    ArtGroups g = art_groups(t->dtype, t->flags, t->group);
    return (CpuGroups){.bits = g.bits,
                       .group = t->group,
                       .scale = g.scale,
                       .zeros = g.zeros,
                       .zero = (float)g.zero,
                       .grid = g.grid};
}

static void resolve_linear(const gptc_session *s, const ArtStep *t, CpuLinear *o) {
    const ArtLinear *u = &t->u.linear;
    *o = (CpuLinear){.k = u->k,
                     .n = u->n,
                     .act = u->act,
                     .round = u->round,
                     .dtype = s->model->tensors[t->arg[1].value].dtype,
                     .groups = groups_of(&s->model->tensors[t->arg[1].value]),
                     .x = rows_at(s, &t->arg[0]),
                     .w = tensor_at(s, &t->arg[1]),
                     .bias = tensor_at(s, &t->arg[2]),
                     .x_stride = u->k,
                     .out_stride = u->n,
                     .out = rows_at(s, &t->arg[5])};
    o->gate = either_at(s, &t->arg[3], &o->gate_stride);
    o->residual = either_at(s, &t->arg[4], &o->residual_stride);
}

static void resolve_attention(const gptc_session *s, const ArtStep *t, const RowInfo *info, CpuAttention *o) {
    const ArtAttention *u = &t->u.attention;
    *o = (CpuAttention){.heads = u->heads,
                        .rounding = u->rounding,
                        .kv_heads = u->kv_heads,
                        .dim = u->dim,
                        .vdim = u->vdim,
                        .window = u->window,
                        .scale = u->scale,
                        .softcap = u->softcap,
                        .q = rows_at(s, &t->arg[0]),
                        .slopes = tensor_at(s, &t->arg[3]),
                        .sinks = tensor_at(s, &t->arg[4]),
                        .q_stride = t->arg[0].width,
                        .out_stride = t->arg[5].width,
                        .positions = info->positions,
                        .sequences = info->sequences,
                        .k = s->states[t->arg[1].value],
                        .v = s->states[t->arg[2].value],
                        .out = rows_at(s, &t->arg[5])};
}

static void resolve_pointwise(const gptc_session *s, const ArtStep *t, const RowInfo *info, CpuPointwise *o) {
    const ArtPointwise *u = &t->u.pointwise;
    *o = (CpuPointwise){.width = u->width,
                        .count = u->count,
                        .insns = s->model->insns + u->first,
                        .out_stride = u->width,
                        .out = rows_at(s, &t->arg[6])};
    for (int i = 0; i < 6; i++) {
        const ArtArg *a = &t->arg[i];
        o->in[i].data = either_at(s, a, &o->in[i].stride);
        if (a->kind == ART_ARG_TOKENS) o->in[i].ints = info->tokens;
        if (a->kind == ART_ARG_POSITIONS) o->in[i].ints = info->positions;
    }
}

static void resolve_pick(const gptc_session *s, const ArtStep *t, CpuPick *o) {
    const ArtPick *u = &t->u.pick;
    *o = (CpuPick){.outer = u->outer,
                   .len = u->len,
                   .inner = u->inner,
                   .count = u->count,
                   .index = rows_at(s, &t->arg[1]),
                   .index_stride = t->arg[1].width,
                   .out_stride = t->arg[2].width,
                   .out = rows_at(s, &t->arg[2])};
    o->x = either_at(s, &t->arg[0], &o->x_stride);
    o->x_step = o->x_stride ? (size_t)u->len * u->inner : 0;
}

static void resolve_routed(const gptc_session *s, const ArtStep *t, CpuRouted *o) {
    const ArtRouted *u = &t->u.routed;
    *o = (CpuRouted){.experts = u->experts,
                     .slots = u->slots,
                     .k = u->k,
                     .n = u->n,
                     .act = u->act,
                     .dtype = s->model->tensors[t->arg[2].value].dtype,
                     .groups = groups_of(&s->model->tensors[t->arg[2].value]),
                     .x = rows_at(s, &t->arg[0]),
                     .index = rows_at(s, &t->arg[1]),
                     .w = tensor_at(s, &t->arg[2]),
                     .bias = tensor_at(s, &t->arg[3]),
                     .gate = rows_at(s, &t->arg[4]),
                     .x_stride = t->arg[0].width,
                     .x_step = u->shared ? 0 : u->k,
                     .index_stride = u->slots,
                     .gate_stride = (size_t)u->slots * u->n,
                     .out_stride = (size_t)u->slots * u->n,
                     .out = rows_at(s, &t->arg[5])};
}

static void resolve_gather(const gptc_session *s, const ArtStep *t, const RowInfo *info, CpuGather *o) {
    const ArtTensor *table = &s->model->tensors[t->arg[0].value];
    *o = (CpuGather){.width = t->u.gather.width,
                     .dtype = table->dtype,
                     .layout = table->layout,
                     .groups = groups_of(table),
                     .table = tensor_at(s, &t->arg[0]),
                     .out = rows_at(s, &t->arg[2]),
                     .out_stride = t->arg[2].width,
                     .ids = t->arg[1].kind == ART_ARG_TOKENS ? info->tokens : info->positions};
}

static void resolve_rope(const gptc_session *s, const ArtStep *t, const RowInfo *info, CpuRope *o) {
    const ArtRope *u = &t->u.rope;
    *o = (CpuRope){.heads = u->heads,
                   .dim = u->dim,
                   .rotated = u->rotated,
                   .interleaved = u->interleaved,
                   .cos = tensor_at(s, &t->arg[1]),
                   .sin = tensor_at(s, &t->arg[2]),
                   .x = rows_at(s, &t->arg[0]),
                   .positions = info->positions,
                   .x_stride = t->arg[0].width,
                   .out_stride = t->arg[3].width,
                   .out = rows_at(s, &t->arg[3])};
}

static void resolve_store(const gptc_session *s, const ArtStep *t, const RowInfo *info, CpuStore *o) {
    *o = (CpuStore){.x = rows_at(s, &t->arg[0]),
                    .x_stride = t->arg[0].width,
                    .positions = info->positions,
                    .sequences = info->sequences,
                    .state = s->states[t->arg[1].value]};
}

static void resolve_reduce(const gptc_session *s, const ArtStep *t, CpuReduce *o) {
    const ArtReduce *u = &t->u.reduce;
    *o = (CpuReduce){.op = u->op,
                     .outer = u->outer,
                     .len = u->len,
                     .inner = u->inner,
                     .x = rows_at(s, &t->arg[0]),
                     .x_stride = t->arg[0].width,
                     .out_stride = t->arg[1].width,
                     .out = rows_at(s, &t->arg[1])};
}

static void resolve_topk(const gptc_session *s, const ArtStep *t, CpuTopk *o) {
    const ArtTopk *u = &t->u.topk;
    *o = (CpuTopk){.outer = u->outer,
                   .len = u->len,
                   .count = u->count,
                   .smallest = u->smallest,
                   .x = rows_at(s, &t->arg[0]),
                   .x_stride = t->arg[0].width,
                   .out_stride = t->arg[1].width,
                   .out = rows_at(s, &t->arg[1])};
}

static void resolve_move(const gptc_session *s, const ArtStep *t, CpuMove *o) {
    *o = (CpuMove){.move = t->u.move,
                   .x = rows_at(s, &t->arg[0]),
                   .x_stride = t->arg[0].width,
                   .out_stride = t->arg[1].width,
                   .out = rows_at(s, &t->arg[1])};
}

void launch_resolve(const gptc_session *s, uint32_t index, Launch *l) {
    const ArtStep *t = &s->model->steps[index];
    const RowInfo *info = index < s->model->plan->head_step ? &s->body : &s->head;
    l->kernel = t->kernel;
    switch (t->kernel) {
    case ART_K_GATHER: resolve_gather(s, t, info, &l->u.gather); break;
    case ART_K_NORM: resolve_norm(s, t, &l->u.norm); break;
    case ART_K_LINEAR: resolve_linear(s, t, &l->u.linear); break;
    case ART_K_ROPE: resolve_rope(s, t, info, &l->u.rope); break;
    case ART_K_STORE: resolve_store(s, t, info, &l->u.store); break;
    case ART_K_ATTENTION: resolve_attention(s, t, info, &l->u.attention); break;
    case ART_K_POINTWISE: resolve_pointwise(s, t, info, &l->u.pointwise); break;
    case ART_K_REDUCE:
    case ART_K_SOFTMAX: resolve_reduce(s, t, &l->u.reduce); break;
    case ART_K_TOPK: resolve_topk(s, t, &l->u.topk); break;
    case ART_K_PICK: resolve_pick(s, t, &l->u.pick); break;
    case ART_K_ROUTED: resolve_routed(s, t, &l->u.routed); break;
    case ART_K_MOVE: resolve_move(s, t, &l->u.move); break;
    default: break;
    }
}
