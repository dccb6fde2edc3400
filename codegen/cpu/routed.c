/* routed.c: choosing inside a row (topk, gather_elements, gather) and products with chosen experts.
 * Indices are floats in a row buffer, as all row values are. */
#include "codegen/cpu/rules.h"

/* The row view of v as outer x len along its last feature, which type axis `axis` has to be. */
static bool last_axis(Lower *lw, ValId v, uint32_t axis, uint32_t *outer, uint32_t *len) {
    RowShape r;
    int f = rule_axis(lw, v, axis);
    if (!row_shape(lw->g, v, &r) || f < 0) return rule_refuse(lw, "chooses along the sequence");
    for (uint32_t i = (uint32_t)f + 1; i < r.rank; i++)
        if (r.dim[i] != 1) return rule_refuse(lw, "chooses along an axis that is not the last");
    if (r.width <= 0 || r.width > UINT32_MAX) return rule_refuse(lw, "has no fixed width");
    *len = (uint32_t)r.dim[f];
    *outer = (uint32_t)r.width / *len;
    return true;
}

bool match_topk(Lower *lw) { return rule_node(lw)->op == OP_TOPK; }
bool emit_topk(Lower *lw) {
    const Node *n = rule_node(lw);
    ArtTopk u = {.count = (uint32_t)n->attr.count, .smallest = n->attr.smallest};
    ArtArg x, out;
    if (graph_val(lw->g, n->out[0])->slot != NO_SLOT) return rule_refuse(lw, "its values are read");
    if (!last_axis(lw, n->in[0], (uint32_t)n->attr.axis, &u.outer, &u.len)) return false;
    if (!lower_row_arg(lw, n->in[0], &x) || !lower_row_arg(lw, n->out[1], &out)) return false;
    ArtStep *s = lower_step(lw, ART_K_TOPK, n->out[1]);
    s->arg[0] = x, s->arg[1] = out;
    s->u.topk = u;
    return true;
}

bool match_pick(Lower *lw) {
    Op op = rule_node(lw)->op;
    return op == OP_GATHER || op == OP_GATHER_ELEMENTS;
}

/* Rows of a table that the row itself names. */
static bool emit_pick_table(Lower *lw, const Node *n) {
    ArtArg table = {0}, index, out;
    if (n->attr.axis != 0 || !value_is_weight(lw->g, n->in[0]))
        return rule_refuse(lw, "rows of a value that is no constant are picked");
    if (!rule_vector(lw, n->in[0], &table) || !lower_row_arg(lw, n->in[1], &index) ||
        !lower_row_arg(lw, n->out[0], &out))
        return false;
    uint32_t len = (uint32_t)graph_type(lw->g, n->in[0])->dim[0].v;
    ArtStep *s = lower_step(lw, ART_K_PICK, n->out[0]);
    s->u.pick = (ArtPick){1, len, table.width / len, index.width};
    s->arg[0] = table, s->arg[1] = index, s->arg[2] = out;
    return true;
}

bool emit_pick(Lower *lw) {
    const Node *n = rule_node(lw);
    ArtPick u = {.inner = 1};
    ArtArg x, index, out;
    if (n->op == OP_GATHER) return emit_pick_table(lw, n);
    if (!last_axis(lw, n->in[0], (uint32_t)n->attr.axis, &u.outer, &u.len)) return false;
    if (!lower_row_arg(lw, n->in[0], &x) || !lower_row_arg(lw, n->in[1], &index) ||
        !lower_row_arg(lw, n->out[0], &out))
        return false;
    u.count = index.width / u.outer;
    ArtStep *s = lower_step(lw, ART_K_PICK, n->out[0]);
    s->arg[0] = x, s->arg[1] = index, s->arg[2] = out;
    s->u.pick = u;
    return true;
}

bool match_routed(Lower *lw) { return rule_node(lw)->op == OP_ROUTED; }
bool emit_routed(Lower *lw) {
    Graph *g = lw->g;
    const Node *n = rule_node(lw);
    ArtStep s = {.kernel = ART_K_ROUTED};
    const Type *w = graph_type(g, n->in[2]);
    if (!value_is_weight(g, n->in[2])) return rule_refuse(lw, "has experts that are no constants");
    uint32_t tensor;
    if (!program_stack(lw->p, g, n->in[2], !n->attr.trans, &tensor, lw->diag)) return false;
    s.arg[2] = (ArtArg){ART_ARG_TENSOR, 0, tensor};
    if (!lower_row_arg(lw, n->in[0], &s.arg[0]) || !lower_row_arg(lw, n->in[1], &s.arg[1])) return false;
    if (n->nin > 3 && !rule_vector(lw, n->in[3], &s.arg[3])) return false;
    s.u.routed = (ArtRouted){.experts = (uint32_t)w->dim[0].v,
                             .slots = s.arg[1].width,
                             .k = (uint32_t)w->dim[n->attr.trans ? 2 : 1].v,
                             .n = (uint32_t)w->dim[n->attr.trans ? 1 : 2].v,
                             .shared = graph_type(g, n->in[0])->rank == graph_type(g, n->in[1])->rank};
    ValId v = n->out[0];
    for (uint32_t i = 1; i < lw->nnodes; i++) {
        const Node *e = graph_node(g, lw->nodes[i]);
        if (e->op == OP_MUL) {
            ValId other = val_eq(row_source(g, e->in[0]), row_source(g, v)) ? e->in[1] : e->in[0];
            if (!lower_row_arg(lw, other, &s.arg[4])) return false;
        } else if (!row_is_view(g, lw->nodes[i])) {
            s.u.routed.act = rule_activation(e);
        }
        v = e->out[0];
    }
    if (!lower_row_arg(lw, v, &s.arg[5])) return false;
    ArtStep *step = lower_step(lw, ART_K_ROUTED, v);
    s.region = step->region;
    *step = s;
    return true;
}
