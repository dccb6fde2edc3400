/* lower.c: regions of the planned graph to the steps of a Program, in running order.
 *
 * A region becomes one step (a concat several) by the first rule of the target that matches. After the
 * last step that reads the cache or the rows' ids, the place is found where a single buffer is alive: from
 * there on only rows whose logits are wanted need to run. */
#include "codegen/codegen.h"

#include <string.h>

bool lower_row_arg(Lower *lw, ValId v, ArtArg *out) {
    Graph *g = lw->g;
    ValId src = row_source(g, v);
    RowShape s;
    uint64_t slot = graph_val(g, src)->slot;
    if (!row_shape(g, src, &s) || !s.per_row || slot == NO_SLOT || s.width > UINT32_MAX)
        return diag_error(lw->diag, graph_node(g, lw->nodes[0])->loc,
                          "%s reads a value that is no planned row buffer",
                          graph_describe(g, lw->nodes[0], lw->arena));
    *out = (ArtArg){ART_ARG_ROWS, (uint32_t)s.width, slot};
    return true;
}

ArtStep *lower_step(Lower *lw, uint32_t kernel, ValId out) {
    ArtStep s;
    memset(&s, 0, sizeof s);
    s.kernel = kernel;
    s.region = lw->region;
    VEC_PUSH(lw->arena, &lw->p->steps, s);
    VEC_PUSH(lw->arena, &lw->p->step_out, row_source(lw->g, out));
    return &lw->p->steps.data[lw->p->steps.count - 1];
}

static bool lower_region(Lower *lw, const Target *t) {
    for (const KernelRule *r = t->rules; r->name; r++)
        if (r->match(lw)) return r->emit(lw);
    NodeId n = lw->nodes[0];
    return diag_error(lw->diag, graph_node(lw->g, n)->loc,
                      "target %s has no kernel for %s; hint: report the graph, or look at it with --dump-ir",
                      t->name, graph_describe(lw->g, n, lw->arena));
}

/* Every row that comes to the state is rounded by heads, so codes keep all of it. */
static bool state_is_rounded(const Graph *g, const State *s, int64_t dim) {
    const Node *cat = graph_node(g, graph_def(g, s->out));
    return cat->nin == 2 && graph_def_op(g, cat->in[1]) == OP_ROUNDED &&
           graph_node(g, graph_def(g, cat->in[1]))->attr.block == dim;
}

static bool lower_states(Lower *lw) {
    Graph *g = lw->g;
    Program *p = lw->p;
    for (size_t i = 0; i < g->states.count; i++) {
        const State *s = &g->states.data[i];
        Type t = *graph_type(g, s->out);
        t.dim[s->axis] = dim_sym(g, SYM_SEQ); /* one position of the state is one row */
        int64_t width = 1, last = 1;
        for (uint32_t k = 0; k < t.rank; k++)
            if (dim_is_const(t.dim[k])) {
                width *= t.dim[k].v;
                last = t.dim[k].v;
            }
        if (width <= 0 || width > INT32_MAX || last <= 0)
            return diag_error(lw->diag, loc_none(), "state \"%s\" has no fixed width", s->name);
        if (last > UINT16_MAX)
            return diag_error(lw->diag, loc_none(), "state \"%s\" has %lld numbers a head; %d are the most",
                              s->name, (long long)last, UINT16_MAX);
        bool codes = state_is_rounded(g, s, last);
        ArtState as = {.heads = (uint32_t)(width / last),
                       .dim = (uint16_t)last,
                       .kept = codes ? ART_STATE_INT8 : ART_STATE_F32,
                       .window = UINT32_MAX, /* no reader yet */
                       .name_offset = UINT32_MAX};
        VEC_PUSH(p->arena, &p->states, as);
        VEC_PUSH(p->arena, &p->state_names, s->name);
        p->meta.state_bytes_per_token += codes ? as.heads * (as.dim + sizeof(uint16_t)) : (uint64_t)width * 4;
    }
    p->plan.n_states = (uint32_t)p->states.count;
    return true;
}

/* Products first: a table that is also a product's weight is then stored once, in the product's order. */
static bool lower_weights_first(Lower *lw) {
    Graph *g = lw->g;
    FOR_NODES (g, id) {
        const Node *n = graph_node(g, id);
        uint32_t at;
        if (n->op != OP_LINEAR || !n->region) continue;
        if (!program_matrix(lw->p, g, n->in[1], !n->attr.trans, ART_PANEL16, &at, lw->diag)) return false;
    }
    return true;
}

static bool step_reads_rows_ids(const ArtStep *s) {
    if (s->kernel == ART_K_STORE || s->kernel == ART_K_ATTENTION || s->kernel == ART_K_ROPE) return true;
    for (uint32_t i = 0; i < ART_MAX_ARGS; i++)
        if (s->arg[i].kind == ART_ARG_TOKENS || s->arg[i].kind == ART_ARG_POSITIONS) return true;
    return false;
}

static const uint32_t kernel_inputs[ART_K_COUNT] = {
#define ART_KERNEL(e, text, nin, doc) nin,
    ART_KERNEL_LIST(ART_KERNEL)
#undef ART_KERNEL
};

bool step_writes(const ArtStep *s, uint64_t value) {
    const ArtArg *o = &s->arg[kernel_inputs[s->kernel]];
    return o->kind == ART_ARG_ROWS && o->value == value;
}

size_t program_alive(const Program *p, size_t j, const ArtArg *logits, ArtArg *out, size_t cap) {
    size_t n = 0;
    for (size_t k = j; k <= p->steps.count; k++) {
        const ArtStep *s = k < p->steps.count ? &p->steps.data[k] : NULL;
        for (uint32_t i = 0; i < (s ? kernel_inputs[s->kernel] : 1); i++) {
            const ArtArg *arg = s ? &s->arg[i] : logits;
            if (arg->kind != ART_ARG_ROWS) continue;
            bool local = false, known = false; /* local: written again between j and k */
            for (size_t m = j; m < k && !local; m++) local = step_writes(&p->steps.data[m], arg->value);
            for (size_t m = 0; m < n; m++) known |= out[m].value == arg->value;
            if (local || known) continue;
            if (n == cap) return n + 1;
            out[n++] = *arg;
        }
    }
    return n;
}

/* Where rows are compacted. The steps of one region write one buffer together, so not between them. */
static void lower_head(Program *p, const ArtArg *logits) {
    size_t from = 0;
    for (size_t i = 0; i < p->steps.count; i++)
        if (step_reads_rows_ids(&p->steps.data[i])) from = i + 1;
    p->plan.head_step = (uint32_t)p->steps.count;
    p->plan.head_offset = logits->value;
    p->plan.head_width = logits->width;
    for (size_t j = from; j < p->steps.count; j++) {
        ArtArg alive[1];
        if (j > 0 && p->steps.data[j].region == p->steps.data[j - 1].region) continue;
        if (program_alive(p, j, logits, alive, 1) != 1) continue;
        p->plan.head_step = (uint32_t)j;
        p->plan.head_offset = alive[0].value;
        p->plan.head_width = alive[0].width;
        return;
    }
}

/* Every token id below the vocabulary and every position of the context is a row of its tables. */
static bool tables_reach(Lower *lw) {
    const Program *p = lw->p;
    for (size_t i = 0; i < p->steps.count; i++) {
        const ArtStep *s = &p->steps.data[i];
        if (s->kernel != ART_K_GATHER && s->kernel != ART_K_ROPE) continue;
        bool rope = s->kernel == ART_K_ROPE;
        uint64_t rows = p->tensors.data[s->arg[rope].value].art.dim[0]; /* cosines and sines: one shape */
        if (!rope && s->arg[1].kind == ART_ARG_TOKENS && rows < p->meta.vocab)
            return diag_error(lw->diag, loc_none(),
                              "the logits are for %u tokens, but a table of the tokens has %llu "
                              "rows; hint: give the model as many logits as embeddings",
                              p->meta.vocab, (unsigned long long)rows);
        if ((rope || s->arg[1].kind == ART_ARG_POSITIONS) && rows < p->meta.context)
            return diag_error(lw->diag, loc_none(), "a table of positions has %llu rows; hint: --ctx %llu",
                              (unsigned long long)rows, (unsigned long long)rows);
    }
    return true;
}

static bool lower_outputs(Lower *lw, int64_t ctx) {
    Graph *g = lw->g;
    for (size_t i = 0; i < g->outputs.count; i++) {
        const Port *o = &g->outputs.data[i];
        ArtArg arg;
        if (o->role != ROLE_LOGITS) continue;
        if (!lower_row_arg(lw, o->v, &arg)) return false;
        lw->p->plan.logits_offset = arg.value;
        lw->p->meta.vocab = arg.width;
        lw->p->meta.context = (uint32_t)ctx;
        lower_head(lw->p, &arg);
        return tables_reach(lw);
    }
    return diag_error(lw->diag, loc_none(), "the graph has no logits output; hint: --logits NAME");
}

bool lower(Graph *g, const Target *t, int64_t ctx, Arena *a, Program **out, Diag *d) {
    Program *p = arena_new_of(a, Program);
    Lower lw = {.g = g, .p = p, .diag = d, .arena = a};
    p->arena = a;
    if (!lower_states(&lw) || !lower_weights_first(&lw)) return false;
    uint32_t layers = 0;
    VEC(NodeId) nodes = {0};
    for (NodeId id = g->first; id.id;) {
        Node *n = graph_node(g, id);
        if (!n->region) {
            id = n->next;
            continue;
        }
        lw.region = n->region;
        nodes.count = 0;
        for (; id.id && (graph_node(g, id)->region == lw.region || !graph_node(g, id)->region);
             id = graph_node(g, id)->next)
            if (graph_node(g, id)->region) {
                VEC_PUSH(a, &nodes, id);
                layers += graph_node(g, id)->op == OP_ATTENTION;
            }
        lw.nodes = nodes.data;
        lw.nnodes = (uint32_t)nodes.count;
        if (!lower_region(&lw, t)) return false;
    }
    if (!p->steps.count) return diag_error(d, loc_none(), "the graph computes nothing from its tokens");
    for (size_t i = 0; i < p->states.count; i++)
        if (p->states.data[i].window == UINT32_MAX) p->states.data[i].window = 0;
    p->meta.layers = layers;
    p->meta.has_cache = p->states.count > 0;
    p->plan.row_bytes = g->arena_row_bytes;
    if (!lower_outputs(&lw, ctx)) return false;
    p->plan.n_steps = (uint32_t)p->steps.count;
    p->plan.n_insns = (uint32_t)p->insns.count;
    *out = p;
    return true;
}
