/* pointwise.c: a region of elementwise nodes to a program of ArtInsn.
 *
 * Nodes are in topological order and the last one is the region's result. Each node gets a register,
 * which is free again after its last use in the region. Operands from outside are loaded once each. */
#include "codegen/cpu/rules.h"

static uint32_t insn_of(const Node *n) {
    switch (n->op) {
/* clang-format off */
#define SAME(e) case OP_##e: return ART_I_##e;
    SAME(NEG) SAME(ABS) SAME(SIGN) SAME(EXP) SAME(LOG) SAME(SQRT) SAME(RECIP) SAME(SIN) SAME(COS) SAME(TANH)
    SAME(SIGMOID) SAME(ERF) SAME(RELU) SAME(SOFTPLUS) SAME(FLOOR) SAME(CEIL) SAME(ROUND) SAME(NOT) SAME(ISNAN)
    SAME(ISINF) SAME(ADD) SAME(SUB) SAME(MUL) SAME(DIV) SAME(MOD) SAME(POW) SAME(MIN) SAME(MAX) SAME(AND) SAME(OR)
    SAME(XOR) SAME(EQ) SAME(LT) SAME(LE) SAME(WHERE) SAME(SILU)
#undef SAME
            /* clang-format on */
            case OP_GELU : return n->attr.tanh
            ? ART_I_GELU_TANH
            : ART_I_GELU_ERF;
    default: return ART_I_COUNT;
    }
}

bool match_pointwise(Lower *lw) {
    for (uint32_t i = 0; i < lw->nnodes; i++)
        if (insn_of(graph_node(lw->g, lw->nodes[i])) == ART_I_COUNT) return false;
    return true;
}

typedef struct {
    Lower *lw;
    ArtStep step;
    uint32_t ninputs;
    struct {
        ValId v;
        uint8_t reg;
        uint32_t last;
        bool used;
    } slot[ART_REGISTERS];
    uint32_t first;
} Point;

static bool point_fail(Point *p, const char *why) {
    Lower *lw = p->lw;
    return diag_error(lw->diag, graph_node(lw->g, lw->nodes[0])->loc, "%s: %s",
                      graph_describe(lw->g, lw->nodes[0], lw->arena), why);
}

/* How operand v is read for the result's feature f: element (f / div) % mod. */
static bool broadcast_of(Point *p, ValId v, ValId result, uint32_t *div, uint32_t *mod) {
    const Type *from = graph_type(p->lw->g, v), *to = graph_type(p->lw->g, result);
    int64_t d = 1, m = 1;
    int phase = 0; /* from the last axis: 0 broadcast axes, 1 own axes, 2 broadcast axes again */
    for (uint32_t i = 0; i < to->rank; i++) {
        Dim out = to->dim[to->rank - 1 - i];
        Dim in = i < from->rank ? from->dim[from->rank - 1 - i] : dim_const(1);
        if (!dim_is_const(out) || out.v == 1) continue;
        bool own = dim_eq(in, out);
        if (!own && !dim_eq(in, dim_const(1))) return point_fail(p, "operands do not line up inside a row");
        if (own && phase == 0) phase = 1;
        if (!own && phase == 1) phase = 2;
        if (own && phase == 2) return point_fail(p, "an operand is broadcast along an inner axis");
        if (phase == 0) d *= out.v;
        if (phase == 1) m *= out.v;
    }
    *div = (uint32_t)d;
    *mod = (uint32_t)m;
    return true;
}

static int reg_alloc(Point *p, ValId v, uint32_t last) {
    for (int i = 0; i < ART_REGISTERS; i++)
        if (!p->slot[i].used) {
            p->slot[i].used = true;
            p->slot[i].v = v;
            p->slot[i].last = last;
            return i;
        }
    return -1;
}

static int reg_find(const Point *p, ValId v) {
    for (int i = 0; i < ART_REGISTERS; i++)
        if (p->slot[i].used && val_eq(p->slot[i].v, v)) return i;
    return -1;
}

static uint32_t last_use(const Point *p, ValId v) {
    uint32_t last = 0;
    for (uint32_t i = 0; i < p->lw->nnodes; i++) {
        const Node *n = graph_node(p->lw->g, p->lw->nodes[i]);
        for (uint32_t k = 0; k < n->nin; k++)
            if (val_eq(n->in[k], v)) last = i;
    }
    return last;
}

static void emit(Point *p, ArtInsn in) { VEC_PUSH(p->lw->arena, &p->lw->p->insns, in); }

static bool point_argument(Point *p, ValId v, uint8_t *index) {
    Lower *lw = p->lw;
    ArtArg a = {0};
    if (value_is_weight(lw->g, v)) {
        WeightView w;
        if (!weight_view(lw->g, v, lw->arena, &w, lw->diag)) return false;
        int64_t n = 1, at[4] = {0};
        for (uint32_t i = 0; i < w.rank; i++) n *= w.dim[i];
        float *data = arena_array_of(lw->arena, (size_t)n, float);
        for (int64_t i = 0; i < n; i++) {
            int64_t rest = i;
            for (uint32_t k = w.rank; k-- > 0; rest /= w.dim[k]) at[k] = rest % w.dim[k];
            data[i] = (float)weight_get(&w, at);
        }
        WeightView flat = {.data = data, .dtype = DT_F32, .rank = 1, .dim = {n}, .stride = {1}};
        if (w.dtype == DT_F32 && w.rank == 1 && w.stride[0] == 1) flat = w;
        a = (ArtArg){ART_ARG_TENSOR, (uint32_t)n,
                     program_tensor(lw->p, &flat, ART_PLAIN, graph_val(lw->g, v)->name)};
    } else if (!lower_row_arg(lw, v, &a)) {
        return false;
    }
    for (uint32_t i = 0; i < p->ninputs; i++)
        if (p->step.arg[i].kind == a.kind && p->step.arg[i].value == a.value &&
            p->step.arg[i].width == a.width) {
            *index = (uint8_t)i;
            return true;
        }
    if (p->ninputs + 1 >= ART_MAX_ARGS) return point_fail(p, "reads too many values");
    *index = (uint8_t)p->ninputs;
    p->step.arg[p->ninputs++] = a;
    return true;
}

/* The register of operand v for a node that makes `result`, loading it when it comes from outside. */
static int point_operand(Point *p, ValId v, ValId result) {
    int r = reg_find(p, v);
    double c;
    if (r >= 0) return r;
    DType t = graph_type(p->lw->g, v)->dtype;
    if (!dtype_is_float(t) && t != DT_BOOL) return point_fail(p, "integers computed from tokens"), -1;
    r = reg_alloc(p, v, last_use(p, v));
    if (r < 0) return point_fail(p, "needs more than 16 registers"), -1;
    ArtInsn in = {.dst = (uint8_t)r};
    if (const_scalar(p->lw->g, v, &c)) {
        in.op = ART_I_CONST;
        in.imm = (float)c;
    } else {
        in.op = ART_I_LOAD;
        if (!point_argument(p, v, &in.a) || !broadcast_of(p, v, result, &in.div, &in.mod)) return -1;
    }
    emit(p, in);
    return r;
}

static bool point_node(Point *p, uint32_t at) {
    const Node *n = graph_node(p->lw->g, p->lw->nodes[at]);
    int in[3] = {0};
    for (uint32_t k = 0; k < n->nin; k++)
        if ((in[k] = point_operand(p, n->in[k], n->out[0])) < 0) return false;
    for (uint32_t i = 0; i < ART_REGISTERS; i++)
        if (p->slot[i].last <= at) p->slot[i].used = false;
    int r = reg_alloc(p, n->out[0], last_use(p, n->out[0]));
    if (r < 0) return point_fail(p, "needs more than 16 registers");
    emit(p, (ArtInsn){.op = (uint8_t)insn_of(n),
                      .dst = (uint8_t)r,
                      .a = (uint8_t)in[0],
                      .b = (uint8_t)in[1],
                      .c = (uint8_t)in[2],
                      .imm = n->op == OP_SILU ? n->attr.alpha : 0});
    if (at + 1 == p->lw->nnodes) emit(p, (ArtInsn){.op = ART_I_STORE, .a = (uint8_t)r});
    return true;
}

bool emit_pointwise(Lower *lw) {
    Point p = {.lw = lw,
               .step = {.kernel = ART_K_POINTWISE, .region = lw->region},
               .first = (uint32_t)lw->p->insns.count};
    ValId result = graph_node(lw->g, lw->nodes[lw->nnodes - 1])->out[0];
    for (uint32_t i = 0; i < lw->nnodes; i++)
        if (!point_node(&p, i)) return false;
    if (!lower_row_arg(lw, result, &p.step.arg[ART_MAX_ARGS - 1])) return false;
    p.step.u.pointwise =
        (ArtPointwise){p.first, (uint32_t)lw->p->insns.count - p.first, p.step.arg[ART_MAX_ARGS - 1].width};
    *lower_step(lw, ART_K_POINTWISE, result) = p.step;
    return true;
}
