/* step.c: runs the launches of a session over some rows.
 *
 * One pool_run covers the whole program: every worker walks the list of launches, each kernel does the
 * worker's share, and a barrier follows each. Of a single row, cheap kernels are not shared out: worker 0
 * runs each stretch of them alone, and one barrier follows the stretch. Before the head the rows whose
 * logits are wanted are gathered at the front of the one buffer that is alive there, so the head costs only
 * their number. */
#include "runtime/cuda/cuda.h"

#include <string.h>

typedef struct {
    gptc_session *s;
    uint32_t rows, wanted;
    uint32_t first, end; /* steps */
    bool compact;
} Job;

static void rows_set(Launch *l, uint32_t rows) {
    switch (l->kernel) {
    case ART_K_GATHER: l->u.gather.rows = rows; break;
    case ART_K_NORM: l->u.norm.rows = rows; break;
    case ART_K_LINEAR: l->u.linear.rows = rows; break;
    case ART_K_ROPE: l->u.rope.rows = rows; break;
    case ART_K_STORE: l->u.store.rows = rows; break;
    case ART_K_ATTENTION: l->u.attention.rows = rows; break;
    case ART_K_POINTWISE: l->u.pointwise.rows = rows; break;
    case ART_K_REDUCE:
    case ART_K_SOFTMAX: l->u.reduce.rows = rows; break;
    case ART_K_MOVE: l->u.move.rows = rows; break;
    case ART_K_TOPK: l->u.topk.rows = rows; break;
    case ART_K_PICK: l->u.pick.rows = rows; break;
    case ART_K_ROUTED: l->u.routed.rows = rows; break;
    default: break;
    }
}

static void launch(const CpuKernels *k, const CpuWorker *w, const Launch *l) {
    switch (l->kernel) {
    case ART_K_GATHER: k->gather(w, &l->u.gather); break;
    case ART_K_NORM: k->norm(w, &l->u.norm); break;
    case ART_K_LINEAR: k->linear(w, &l->u.linear); break;
    case ART_K_ROPE: k->rope(w, &l->u.rope); break;
    case ART_K_STORE: k->store(w, &l->u.store); break;
    case ART_K_ATTENTION: k->attention(w, &l->u.attention); break;
    case ART_K_POINTWISE: k->pointwise(w, &l->u.pointwise); break;
    case ART_K_REDUCE: k->reduce(w, &l->u.reduce); break;
    case ART_K_SOFTMAX: k->softmax(w, &l->u.reduce); break;
    case ART_K_MOVE: k->move(w, &l->u.move); break;
    case ART_K_TOPK: k->topk(w, &l->u.topk); break;
    case ART_K_PICK: k->pick(w, &l->u.pick); break;
    case ART_K_ROUTED: k->routed(w, &l->u.routed); break;
    default: break;
    }
}

/* wanted rises, so row i only moves towards the front, over rows that have moved already. */
static void rows_compact(gptc_session *s, uint32_t wanted) {
    const ArtPlan *p = s->model->plan;
    size_t width = (size_t)p->head_width;
    float *at = (float *)(void *)(s->rows + p->head_offset * s->chunk);
    for (uint32_t i = 0; i < wanted && width; i++)
        if (s->wanted[i] != i) memcpy(at + i * width, at + s->wanted[i] * width, width * sizeof(float));
}

/* Of one row, in passes over it. */
#define ALONE_FLOATS 32768

static uint64_t move_floats(const ArtMove *m) {
    return (uint64_t)m->count[0] * m->count[1] * m->count[2] * m->count[3]; /* <= LIMIT_WIDTH */
}

bool step_alone(const Launch *l) {
    switch (l->kernel) {
    case ART_K_GATHER: return l->u.gather.width <= ALONE_FLOATS;
    case ART_K_NORM: return l->u.norm.groups * l->u.norm.width <= ALONE_FLOATS;
    case ART_K_ROPE: return l->u.rope.heads * l->u.rope.dim <= ALONE_FLOATS;
    case ART_K_STORE: return l->u.store.state.heads * l->u.store.state.dim <= ALONE_FLOATS;
    case ART_K_POINTWISE: return (uint64_t)l->u.pointwise.width * l->u.pointwise.count <= ALONE_FLOATS;
    case ART_K_REDUCE:
    case ART_K_SOFTMAX: return l->u.reduce.outer * l->u.reduce.len * l->u.reduce.inner <= ALONE_FLOATS;
    case ART_K_TOPK: return (uint64_t)l->u.topk.outer * l->u.topk.len * l->u.topk.count <= ALONE_FLOATS;
    case ART_K_PICK: return l->u.pick.outer * l->u.pick.count * l->u.pick.inner <= ALONE_FLOATS;
    case ART_K_MOVE: return move_floats(&l->u.move.move) <= ALONE_FLOATS;
    default: return false;
    }
}

static void work(void *ctx, uint32_t worker, uint32_t workers) {
    const Job *job = ctx;
    gptc_session *s = job->s;
    const ArtPlan *p = s->model->plan;
    const CpuWorker w = {.index = worker,
                         .count = workers,
                         .pool = s->pool,
                         .local = s->local + worker * CPU_LOCAL_BYTES,
                         .shared = s->shared};
    CpuWorker alone = w;
    alone.count = 1;
    uint32_t end = job->end;
    for (uint32_t i = job->first; i < end; i++) {
        const Launch *l = &s->launches[i];
        if (job->compact && i == p->head_step) {
            if (worker == 0) rows_compact(s, job->wanted);
            pool_barrier(s->pool);
        }
        uint32_t rows = i < p->head_step ? job->rows : job->wanted;
        bool single = rows == 1 && l->alone;
        if (!single)
            launch(s->model->kernels, &w, l);
        else if (worker == 0)
            launch(s->model->kernels, &alone, l);
        bool on = single && i + 1 < end && i + 1 != p->head_step && s->launches[i + 1].alone;
        if (!on) pool_barrier(s->pool);
    }
    if (p->head_step == p->n_steps && job->compact && worker == 0) rows_compact(s, job->wanted);
}

void step_rows(gptc_session *s, uint32_t n, uint32_t n_wanted) {
    const ArtPlan *p = s->model->plan;
    for (uint32_t i = 0; i < n_wanted; i++) {
        uint32_t row = s->wanted[i];
        s->head.tokens[i] = s->body.tokens[row];
        s->head.positions[i] = s->body.positions[row];
        s->head.sequences[i] = s->body.sequences[row];
    }
    s->n_rows = n;
    s->n_wanted = n_wanted;
    if (s->cuda) return;
    for (uint32_t i = 0; i < p->n_steps; i++) rows_set(&s->launches[i], i < p->head_step ? n : n_wanted);
}

void step_range(gptc_session *s, uint32_t first, uint32_t end) {
    Job job = {s, s->n_rows, s->n_wanted, first, end, s->n_wanted && s->n_wanted < s->n_rows};
    pool_run(s->pool, work, &job);
}

gptc_status step_run(gptc_session *s, uint32_t n, uint32_t n_wanted) {
    const ArtPlan *p = s->model->plan;
    step_rows(s, n, n_wanted);
    if (s->cuda) return cuda_step(s, n, n_wanted);
    step_range(s, 0, n_wanted ? p->n_steps : p->head_step);
    s->rows_computed += n;
    return GPTC_OK;
}

const float *step_logits(const gptc_session *s) {
    if (s->cuda) return s->cuda->logits;
    return (const float *)(const void *)(s->rows + s->model->plan->logits_offset * s->chunk);
}
