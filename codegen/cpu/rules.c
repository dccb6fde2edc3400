/* rules.c: which CPU kernel runs a region, and with which arguments (runtime/artifact.h). */
#include "codegen/cpu/rules.h"

const Node *rule_node(const Lower *lw) { return graph_node(lw->g, lw->nodes[0]); }

bool rule_refuse(Lower *lw, const char *why) {
    return diag_error(lw->diag, rule_node(lw)->loc, "%s: %s", graph_describe(lw->g, lw->nodes[0], lw->arena),
                      why);
}

static bool tensor_arg(Lower *lw, ValId v, uint32_t layout, ArtArg *out) {
    WeightView w;
    if (!val_ok(v)) return true;
    if (!value_is_weight(lw->g, v)) return rule_refuse(lw, "an operand has to be a constant");
    if (!weight_view(lw->g, v, lw->arena, &w, lw->diag)) return false;
    if (w.rank == 0) w.rank = 1, w.dim[0] = 1, w.stride[0] = 1;
    *out = (ArtArg){ART_ARG_TENSOR, 0, program_tensor(lw->p, &w, layout, graph_val(lw->g, v)->name)};
    return true;
}

/* A vector is stored flat, so that axes of size 1 around it do not matter. */
bool rule_vector(Lower *lw, ValId v, ArtArg *out) {
    WeightView w;
    if (!val_ok(v)) return true;
    if (!value_is_weight(lw->g, v)) return rule_refuse(lw, "an operand has to be a constant");
    if (!weight_view(lw->g, v, lw->arena, &w, lw->diag)) return false;
    WeightView flat = {.data = w.data, .dtype = w.dtype, .rank = 1, .offset = w.offset};
    flat.dim[0] = 1, flat.stride[0] = 1;
    for (uint32_t i = 0; i < w.rank; i++) {
        if (w.dim[i] == 1) continue;
        if (flat.dim[0] != 1 && flat.stride[0] != w.dim[i] * w.stride[i])
            return rule_refuse(lw, "an operand is no plain vector");
        flat.dim[0] *= w.dim[i];
        flat.stride[0] = w.stride[i];
    }
    if (flat.dtype != DT_F32 || flat.stride[0] != 1) { /* small: stored as plain fp32 */
        float *data = arena_array_of(lw->arena, (size_t)flat.dim[0], float);
        for (int64_t i = 0; i < flat.dim[0]; i++) data[i] = (float)weight_get(&flat, &i);
        flat = (WeightView){.data = data, .dtype = DT_F32, .rank = 1, .dim = {flat.dim[0]}, .stride = {1}};
    }
    *out = (ArtArg){ART_ARG_TENSOR, (uint32_t)flat.dim[0],
                    program_tensor(lw->p, &flat, ART_PLAIN, graph_val(lw->g, v)->name)};
    return true;
}

static bool index_arg(Lower *lw, ValId v, ArtArg *out) {
    if (row_is_positions(lw->g, v))
        out->kind = ART_ARG_POSITIONS;
    else if (row_is_tokens(lw->g, v))
        out->kind = ART_ARG_TOKENS;
    else
        return rule_refuse(lw, "rows are picked by neither token ids nor positions");
    return true;
}

/* ---- linear ---- */
static bool match_linear(Lower *lw) { return rule_node(lw)->op == OP_LINEAR; }

uint32_t rule_activation(const Node *n) {
    switch (n->op) {
    case OP_GELU: return n->attr.tanh ? ART_ACT_GELU_TANH : ART_ACT_GELU_ERF;
    case OP_SILU: return ART_ACT_SILU;
    case OP_RELU: return ART_ACT_RELU;
    case OP_TANH: return ART_ACT_TANH;
    case OP_SIGMOID: return ART_ACT_SIGMOID;
    default: return ART_ACT_NONE;
    }
}

static bool emit_linear(Lower *lw) {
    Graph *g = lw->g;
    const Node *n = rule_node(lw);
    ArtStep s = {.kernel = ART_K_LINEAR};
    uint32_t w;
    if (!program_matrix(lw->p, g, n->in[1], !n->attr.trans, ART_PANEL16, &w, lw->diag)) return false;
    s.arg[1] = (ArtArg){ART_ARG_TENSOR, 0, w};
    const ArtTensor *t = &lw->p->tensors.data[w].art;
    int64_t k = (int64_t)t->dim[1], round = n->attr.block < k ? n->attr.block : k;
    s.u.linear = (ArtLinear){(uint32_t)k, (uint32_t)t->dim[0], ART_ACT_NONE, (uint32_t)round};
    if (!lower_row_arg(lw, n->in[0], &s.arg[0])) return false;
    if (n->nin > 2 && !rule_vector(lw, n->in[2], &s.arg[2])) return false;
    ValId v = n->out[0];
    for (uint32_t i = 1; i < lw->nnodes; i++) {
        const Node *e = graph_node(g, lw->nodes[i]);
        if (e->op == OP_MUL || e->op == OP_ADD) {
            ValId other = val_eq(row_source(g, e->in[0]), row_source(g, v)) ? e->in[1] : e->in[0];
            if (!lower_row_arg(lw, other, &s.arg[e->op == OP_MUL ? 3 : 4])) return false;
        } else if (!row_is_view(g, lw->nodes[i])) {
            s.u.linear.act = rule_activation(e);
        }
        v = e->out[0];
    }
    if (!lower_row_arg(lw, v, &s.arg[5])) return false;
    ArtStep *step = lower_step(lw, ART_K_LINEAR, v);
    s.region = step->region;
    *step = s;
    return true;
}

/* ---- single-node kernels ---- */
static bool match_gather(Lower *lw) {
    const Node *n = rule_node(lw);
    return n->op == OP_GATHER && (row_is_positions(lw->g, n->in[1]) || row_is_tokens(lw->g, n->in[1]));
}
static bool emit_gather(Lower *lw) {
    const Node *n = rule_node(lw);
    ArtArg table = {0}, index = {0}, out;
    if (n->attr.axis != 0 || graph_type(lw->g, n->in[0])->rank != 2)
        return rule_refuse(lw, "only rows of a matrix can be picked");
    uint32_t t;
    if (!value_is_weight(lw->g, n->in[0])) return rule_refuse(lw, "the table has to be a constant");
    if (!program_matrix(lw->p, lw->g, n->in[0], false, ART_PLAIN, &t, lw->diag)) return false;
    table = (ArtArg){ART_ARG_TENSOR, 0, t};
    if (!index_arg(lw, n->in[1], &index)) return false;
    if (!lower_row_arg(lw, n->out[0], &out)) return false;
    ArtStep *s = lower_step(lw, ART_K_GATHER, n->out[0]);
    s->arg[0] = table, s->arg[1] = index, s->arg[2] = out;
    s->u.gather = (ArtGather){out.width};
    return true;
}

static bool match_norm(Lower *lw) { return rule_node(lw)->op == OP_NORM; }
static bool emit_norm(Lower *lw) {
    const Node *n = rule_node(lw);
    ArtArg x, gamma = {0}, beta = {0}, out;
    const Type *t = graph_type(lw->g, n->in[0]);
    if (t->rank == 0 || !dim_is_const(t->dim[t->rank - 1]))
        return rule_refuse(lw, "the normed axis has no fixed size");
    uint32_t width = (uint32_t)t->dim[t->rank - 1].v;
    if (!lower_row_arg(lw, n->in[0], &x) || !lower_row_arg(lw, n->out[0], &out)) return false;
    if (n->nin > 1 && !rule_vector(lw, n->in[1], &gamma)) return false;
    if (n->nin > 2 && !rule_vector(lw, n->in[2], &beta)) return false;
    ArtStep *s = lower_step(lw, ART_K_NORM, n->out[0]);
    s->arg[0] = x, s->arg[1] = gamma, s->arg[2] = beta, s->arg[3] = out;
    s->u.norm = (ArtNorm){x.width / width, width, n->attr.rms, n->attr.eps};
    return true;
}

static bool match_rope(Lower *lw) { return rule_node(lw)->op == OP_ROPE; }
static bool emit_rope(Lower *lw) {
    const Node *n = rule_node(lw);
    const Type *t = graph_type(lw->g, n->in[0]), *tab = graph_type(lw->g, n->in[1]);
    ArtArg x, cosines = {0}, sines = {0}, out;
    if (!row_is_positions(lw->g, n->in[3])) return rule_refuse(lw, "rotary positions are not past + index");
    if (!lower_row_arg(lw, n->in[0], &x) || !lower_row_arg(lw, n->out[0], &out)) return false;
    if (!tensor_arg(lw, n->in[1], ART_PLAIN, &cosines) || !tensor_arg(lw, n->in[2], ART_PLAIN, &sines))
        return false;
    uint32_t dim = (uint32_t)t->dim[3].v;
    ArtStep *s = lower_step(lw, ART_K_ROPE, n->out[0]);
    s->arg[0] = x, s->arg[1] = cosines, s->arg[2] = sines, s->arg[3] = out;
    s->u.rope = (ArtRope){x.width / dim, dim, (uint32_t)tab->dim[1].v * 2, n->attr.interleaved};
    return true;
}

static int state_index(Lower *lw, ValId v) {
    for (size_t i = 0; i < lw->g->states.count; i++)
        if (val_eq(lw->g->states.data[i].out, v)) return (int)i;
    return -1;
}

/* The append itself; before it in the region may stand what rounds the new rows. */
static const Node *store_node(const Lower *lw) { return graph_node(lw->g, lw->nodes[lw->nnodes - 1]); }
static bool match_store(Lower *lw) {
    const Node *n = store_node(lw);
    int state = n->op == OP_CONCAT ? state_index(lw, n->out[0]) : -1;
    return state >= 0 && (lw->nnodes == 1 || lw->p->states.data[state].kept == ART_STATE_INT8);
}
static bool emit_store(Lower *lw) {
    const Node *n = store_node(lw);
    int state = state_index(lw, n->out[0]);
    const ArtState *as = &lw->p->states.data[state];
    ArtArg x;
    if (n->nin != 2 || !lower_row_arg(lw, lw->nnodes == 1 ? n->in[1] : rule_node(lw)->in[0], &x))
        return rule_refuse(lw, "a state has to grow by one value");
    ArtStep *s = lower_step(lw, ART_K_STORE, n->out[0]);
    s->arg[0] = x;
    s->arg[1] = (ArtArg){ART_ARG_STATE, 0, (uint64_t)state};
    s->u.store = (ArtStore){as->heads, as->dim};
    return true;
}

static bool match_attention(Lower *lw) { return rule_node(lw)->op == OP_ATTENTION; }
static bool emit_attention(Lower *lw) {
    Graph *g = lw->g;
    const Node *n = rule_node(lw);
    const Type *tq = graph_type(g, n->in[0]), *tk = graph_type(g, n->in[1]), *tv = graph_type(g, n->in[2]);
    int k = state_index(lw, n->in[1]), v = state_index(lw, n->in[2]);
    ArtArg q, slopes = {0}, sinks = {0}, out;
    if (k < 0 || v < 0) return rule_refuse(lw, "keys and values do not come from the cache");
    if (!n->attr.causal) return rule_refuse(lw, "is not causal");
    if (n->nin > 3 && val_ok(n->in[3])) return rule_refuse(lw, "still has a mask operand");
    if (!lower_row_arg(lw, n->in[0], &q) || !lower_row_arg(lw, n->out[0], &out)) return false;
    if (n->nin > 4 && !rule_vector(lw, n->in[4], &slopes)) return false;
    if (n->nin > 5 && !rule_vector(lw, n->in[5], &sinks)) return false;
    ArtStep *s = lower_step(lw, ART_K_ATTENTION, n->out[0]);
    s->arg[0] = q;
    s->arg[1] = (ArtArg){ART_ARG_STATE, 0, (uint64_t)k};
    s->arg[2] = (ArtArg){ART_ARG_STATE, 0, (uint64_t)v};
    s->arg[3] = slopes, s->arg[4] = sinks, s->arg[5] = out;
    s->u.attention = (ArtAttention){(uint32_t)tq->dim[2].v,  (uint32_t)tk->dim[2].v, (uint32_t)tq->dim[3].v,
                                    (uint32_t)tv->dim[3].v,  n->attr.scale,          n->attr.softcap,
                                    (uint32_t)n->attr.window};
    for (uint32_t i = 0; n->nin > 6 && val_ok(n->in[6]) && i < 6; i++) {
        double r = 0;
        if (!const_get_f64(g, n->in[6], i, &r)) return rule_refuse(lw, "the rounding has to be a constant");
        s->u.attention.rounding[i / 3][i % 3] = (float)r;
    }
    for (int i = 0; i < 2; i++) { /* the widest of all readers; 0 sees all */
        uint32_t *w = &lw->p->states.data[i ? v : k].window, mine = (uint32_t)n->attr.window;
        if (*w == UINT32_MAX || mine == 0 || (*w != 0 && mine > *w)) *w = mine;
    }
    return true;
}

/* ---- reductions and moves inside a row ---- */

/* Feature axis number of type axis `axis` in the row view; -1 when the axis is a row axis. */
int rule_axis(Lower *lw, ValId v, uint32_t axis) {
    const Type *t = graph_type(lw->g, v);
    int at = 0;
    for (uint32_t i = 0; i < axis; i++) at += dim_is_const(t->dim[i]);
    return dim_is_const(t->dim[axis]) ? at : -1;
}

static bool match_reduce(Lower *lw) {
    Op op = rule_node(lw)->op;
    return op == OP_SOFTMAX || (op >= OP_REDUCE_SUM && op <= OP_REDUCE_PROD);
}
static bool emit_reduce(Lower *lw) {
    const Node *n = rule_node(lw);
    RowShape r;
    ArtArg x, out;
    uint32_t axes = n->op == OP_SOFTMAX ? 1u << n->attr.axis : n->attr.axes, outer = 1, len = 1, inner = 1;
    if (!lower_row_arg(lw, n->in[0], &x) || !lower_row_arg(lw, n->out[0], &out)) return false;
    row_shape(lw->g, n->in[0], &r);
    for (uint32_t i = 0; i < graph_type(lw->g, n->in[0])->rank; i++) {
        int f = rule_axis(lw, n->in[0], i);
        bool reduced = axes >> i & 1;
        if (f < 0 && reduced) return rule_refuse(lw, "reduces over the sequence");
        if (f < 0) continue;
        uint32_t size = (uint32_t)r.dim[f];
        if (reduced) {
            if (inner != 1) return rule_refuse(lw, "reduces over axes that are apart");
            len *= size;
        } else if (len == 1) {
            outer *= size;
        } else {
            inner *= size;
        }
    }
    static const uint32_t kinds[] = {ART_RED_SUM, ART_RED_MEAN, ART_RED_MAX, ART_RED_MIN, ART_RED_PROD};
    bool soft = n->op == OP_SOFTMAX;
    ArtStep *s = lower_step(lw, soft ? ART_K_SOFTMAX : ART_K_REDUCE, n->out[0]);
    s->arg[0] = x, s->arg[1] = out;
    s->u.reduce = (ArtReduce){soft ? 0 : kinds[n->op - OP_REDUCE_SUM], outer, len, inner};
    return true;
}

typedef struct {
    int64_t count[MAX_RANK], src[MAX_RANK], dst[MAX_RANK], src_at, dst_at;
    uint32_t rank;
} Move;

static void strides_of(const RowShape *r, int64_t *stride) {
    int64_t run = 1;
    for (uint32_t i = r->rank; i-- > 0;) {
        stride[i] = run;
        run *= r->dim[i];
    }
}

static bool emit_one_move(Lower *lw, const Move *m, ArtArg x, ArtArg out, ValId made) {
    ArtMove u = {{1, 1, 1, 1}, {0}, {0}, (uint32_t)m->src_at, (uint32_t)m->dst_at};
    uint32_t at = 4;
    for (uint32_t i = m->rank; i-- > 0;) { /* merge neighbours, drop axes of size 1 */
        if (m->count[i] == 1) continue;
        bool joins = at < 4 && m->src[i] == (int64_t)u.src_stride[at] * u.count[at] &&
                     m->dst[i] == (int64_t)u.dst_stride[at] * u.count[at];
        if (joins) {
            u.count[at] *= (uint32_t)m->count[i];
            continue;
        }
        if (at == 0) return rule_refuse(lw, "moves elements along more than four axes");
        if (m->src[i] < 0) return rule_refuse(lw, "moves elements backwards");
        at--;
        u.count[at] = (uint32_t)m->count[i];
        u.src_stride[at] = (uint32_t)m->src[i];
        u.dst_stride[at] = (uint32_t)m->dst[i];
    }
    ArtStep *s = lower_step(lw, ART_K_MOVE, made);
    s->arg[0] = x, s->arg[1] = out;
    s->u.move = u;
    return true;
}

static bool match_move(Lower *lw) {
    Op op = rule_node(lw)->op;
    return op == OP_SLICE || op == OP_TRANSPOSE || op == OP_BROADCAST || op == OP_CONCAT;
}

static bool move_slice(Lower *lw, const Node *n, Move *m, const int64_t *from) {
    const Type *tf = graph_type(lw->g, n->in[0]), *tt = graph_type(lw->g, n->out[0]);
    for (uint32_t i = 0; i < tf->rank; i++) {
        int f = rule_axis(lw, n->in[0], i);
        if (f < 0) {
            if (!dim_eq(tf->dim[i], tt->dim[i])) return rule_refuse(lw, "cuts the sequence");
            continue;
        }
        if (!dim_is_const(n->attr.starts[i])) return rule_refuse(lw, "starts at a place that is not fixed");
        m->src_at += n->attr.starts[i].v * from[f];
        m->src[f] = from[f] * n->attr.steps[i];
    }
    return true;
}

static bool move_axes(Lower *lw, const Node *n, Move *m, const RowShape *ri, const int64_t *from) {
    uint32_t rank = graph_type(lw->g, n->out[0])->rank, pad = rank - graph_type(lw->g, n->in[0])->rank;
    for (uint32_t i = 0; i < rank; i++) {
        int to = rule_axis(lw, n->out[0], i);
        if (to < 0) continue;
        if (n->op == OP_TRANSPOSE) {
            m->src[to] = from[rule_axis(lw, n->in[0], n->attr.perm[i])];
        } else {
            int f = i >= pad ? rule_axis(lw, n->in[0], i - pad) : -1;
            m->src[to] = f >= 0 && ri->dim[f] != 1 ? from[f] : 0;
        }
    }
    return true;
}

static bool emit_concat(Lower *lw, const Node *n, ArtArg out, const RowShape *ro, const int64_t *to) {
    int axis = rule_axis(lw, n->out[0], (uint32_t)n->attr.axis);
    if (axis < 0) return rule_refuse(lw, "joins values along the sequence");
    int64_t at = 0;
    for (uint32_t k = 0; k < n->nin; k++) {
        Move m = {.rank = ro->rank, .dst_at = at * to[axis]};
        RowShape ri;
        ArtArg x;
        if (!lower_row_arg(lw, n->in[k], &x)) return false;
        row_shape(lw->g, n->in[k], &ri);
        strides_of(&ri, m.src);
        for (uint32_t i = 0; i < ro->rank; i++) m.count[i] = ri.dim[i], m.dst[i] = to[i];
        if (!emit_one_move(lw, &m, x, out, n->out[0])) return false;
        at += ri.dim[axis];
    }
    return true;
}

static bool emit_move(Lower *lw) {
    const Node *n = rule_node(lw);
    RowShape ri, ro;
    ArtArg x, out;
    int64_t from[MAX_RANK], to[MAX_RANK];
    if (!lower_row_arg(lw, n->out[0], &out)) return false;
    row_shape(lw->g, n->out[0], &ro);
    strides_of(&ro, to);
    if (n->op == OP_CONCAT) return emit_concat(lw, n, out, &ro, to);
    if (!lower_row_arg(lw, n->in[0], &x)) return false;
    row_shape(lw->g, n->in[0], &ri);
    strides_of(&ri, from);
    Move m = {.rank = ro.rank};
    for (uint32_t i = 0; i < ro.rank; i++) m.count[i] = ro.dim[i], m.dst[i] = to[i];
    bool ok = n->op == OP_SLICE ? move_slice(lw, n, &m, from) : move_axes(lw, n, &m, &ri, from);
    return ok && emit_one_move(lw, &m, x, out, n->out[0]);
}

static const KernelRule cpu_rules[] = {
    {"linear", "a product with constant weights and its epilogue", match_linear, emit_linear},
    {"routed", "products with the experts that each row chose", match_routed, emit_routed},
    {"topk", "places of the largest of a row", match_topk, emit_topk},
    {"gather", "rows of a constant table", match_gather, emit_gather},
    {"pick", "what stands at given places of a row or a table", match_pick, emit_pick},
    {"norm", "layer or RMS norm", match_norm, emit_norm},
    {"rope", "rotary positions from tables", match_rope, emit_rope},
    {"store", "a state grows by the running rows", match_store, emit_store},
    {"attention", "causal attention over the cache", match_attention, emit_attention},
    {"reduce", "reductions inside a row", match_reduce, emit_reduce},
    {"move", "slices, transposes, broadcasts and joins inside a row", match_move, emit_move},
    {"pointwise", "everything elementwise, as one small program", match_pointwise, emit_pointwise},
    {NULL, NULL, NULL, NULL},
};

const Target target_cpu = {"cpu", "portable C, AVX2 and AVX-512, chosen when the file is opened", cpu_rules};
