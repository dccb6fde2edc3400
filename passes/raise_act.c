/* raise_act.c: GELU and SiLU from primitives.
 *
 *   0.5 * x * (1 + tanh(0.79788456 * (x + 0.044715 * x^3)))  ->  gelu(x) {tanh=true}
 *   x * 0.5 * (1 + erf(x / 1.41421356))                      ->  gelu(x)
 *   x * sigmoid(1.702 * x)                                   ->  silu(x) {alpha=1.702}
 *
 * Orderings do not matter: the node is taken apart as a product of a number and factors, the gate's
 * argument as a polynomial in x, and coefficients are compared. They must be right to 1e-6 in fp32 (a wrong
 * one is visible in the logits); in fp16 to what fp16 can hold.
 * needs: CANONICAL.  leaves alone: softplus, mish, gates whose argument is another value. */
#include <math.h>

#include "ir/tolerance.h"
#include "passes/rewrite.h"

#define MAX_FACTOR 4
#define DEGREE 3

typedef struct {
    double scale;
    ValId factor[MAX_FACTOR];
    uint32_t count;
    ValId whole;
} Product;
typedef struct {
    double c[DEGREE + 1];
} Poly;

/* v as scale * factors: products, division by numbers, negation. p->whole is not taken apart. */
static bool product_of(const Graph *g, ValId v, Product *p, uint32_t depth) {
    Node *n = NULL;
    double c = 0;
    if (val_ok(p->whole) && val_eq(v, p->whole)) depth = 0;
    if (const_scalar(g, match_skip_moves(g, v), &c)) {
        p->scale *= c;
        return true;
    }
    if (depth > 0 && match_op(g, v, OP_MUL, &n)) {
        ValId a = n->in[0], b = n->in[1];
        return product_of(g, a, p, depth - 1) && product_of(g, b, p, depth - 1);
    }
    if (depth > 0 && match_op(g, v, OP_DIV, &n) && const_scalar(g, match_skip_moves(g, n->in[1]), &c)) {
        p->scale /= c;
        return product_of(g, n->in[0], p, depth - 1);
    }
    if (depth > 0 && match_op(g, v, OP_NEG, &n)) {
        p->scale = -p->scale;
        return product_of(g, n->in[0], p, depth - 1);
    }
    if (p->count == MAX_FACTOR) return false;
    p->factor[p->count++] = v;
    return true;
}

static bool poly_mul(const Poly *a, const Poly *b, Poly *out) {
    Poly r = {{0}};
    for (uint32_t i = 0; i <= DEGREE; i++) {
        for (uint32_t j = 0; j <= DEGREE; j++) {
            double c = a->c[i] * b->c[j];
            if (c == 0) continue;
            if (i + j > DEGREE) return false;
            r.c[i + j] += c;
        }
    }
    *out = r;
    return true;
}

/* v as a polynomial in x. */
static bool poly_of(const Graph *g, ValId v, ValId x, uint32_t depth, Poly *out) {
    Poly a = {{0}}, b = {{0}};
    double c = 0;
    *out = a;
    if (match_same(g, v, x)) {
        out->c[1] = 1;
        return true;
    }
    if (const_scalar(g, match_skip_moves(g, v), &c)) {
        out->c[0] = c;
        return true;
    }
    NodeId id = graph_def(g, v);
    if (depth == 0 || !node_ok(id)) return false;
    const Node *n = graph_node(g, id);
    bool binary = n->op == OP_ADD || n->op == OP_SUB || n->op == OP_MUL || n->op == OP_DIV;
    if (!binary && n->op != OP_NEG && n->op != OP_POW) return false;
    if (!poly_of(g, n->in[0], x, depth - 1, &a)) return false;
    if (n->op == OP_NEG)
        b.c[0] = -1;
    else if (!poly_of(g, n->in[1], x, depth - 1, &b))
        return false;
    switch (n->op) {
    case OP_ADD:
    case OP_SUB:
        for (uint32_t i = 0; i <= DEGREE; i++) out->c[i] = a.c[i] + (n->op == OP_SUB ? -b.c[i] : b.c[i]);
        return true;
    case OP_DIV:
        for (uint32_t i = 1; i <= DEGREE; i++)
            if (b.c[i] != 0) return false;
        if (b.c[0] == 0) return false;
        b.c[0] = 1 / b.c[0];
        return poly_mul(&a, &b, out);
    case OP_POW:
        out->c[0] = 1;
        for (uint32_t i = 1; i <= DEGREE; i++)
            if (b.c[i] != 0) return false;
        if (b.c[0] < 1 || b.c[0] > DEGREE || b.c[0] != floor(b.c[0])) return false;
        for (int i = 0; i < (int)b.c[0]; i++)
            if (!poly_mul(out, &a, out)) return false;
        return true;
    default: return poly_mul(&a, &b, out);
    }
}

static double tolerance(DType t) {
    if (t == DT_F16) return 1e-3;
    return t == DT_BF16 ? 8e-3 : TOL_CONSTANT;
}

static bool near(double x, double want, double rel) { return fabs(x - want) <= rel * fabs(want); }

static bool poly_is(const Poly *p, double linear, double cubic, double rel) {
    return p->c[0] == 0 && p->c[2] == 0 && near(p->c[1], linear, rel) && near(p->c[3], cubic, rel);
}

/* v = s * (1 + gate(u)), gate tanh or erf: also written s + s * gate(u). */
static bool match_gate(const Graph *g, ValId v, double *s, Op *gate, ValId *u) {
    Product p = {1, {NO_VAL}, 0, NO_VAL};
    ValId inner = NO_VAL;
    Node *n = NULL;
    double c = 0;
    if (!match_scalar(g, v, OP_ADD, &inner, &c) || c == 0) return false;
    if (!product_of(g, inner, &p, 3) || p.count != 1) return false;
    *gate = graph_def_op(g, p.factor[0]);
    if ((*gate != OP_TANH && *gate != OP_ERF) || !near(p.scale, c, TOL_CONSTANT)) return false;
    if (!match_op(g, p.factor[0], *gate, &n)) return false;
    *s = c;
    *u = n->in[0];
    return true;
}

#define SQRT_2_OVER_PI 0.79788456080286535588
#define SQRT_HALF 0.70710678118654752440
#define CUBIC 0.044715

/* scale * x * s * (1 + gate(u)) -> gelu(x) */
static bool is_gelu(const Graph *g, const Product *p, ValId x, ValId gate_value, bool *tanh_form) {
    double s = 0, rel = tolerance(graph_type(g, x)->dtype);
    Op gate = OP_NONE;
    ValId u = NO_VAL;
    Poly poly;
    if (!match_gate(g, gate_value, &s, &gate, &u) || !near(s * p->scale, 0.5, TOL_CONSTANT)) return false;
    if (!poly_of(g, u, x, 8, &poly)) return false;
    *tanh_form = gate == OP_TANH;
    if (!*tanh_form) return poly_is(&poly, SQRT_HALF, 0, rel);
    return poly_is(&poly, SQRT_2_OVER_PI, SQRT_2_OVER_PI * CUBIC, 2 * rel);
}

/* v = sigmoid(u), or 1 / (1 + exp(-u)); sign is the u's in front of the argument. */
static bool match_sigmoid(const Graph *g, ValId v, ValId *u, double *sign) {
    Node *n = NULL;
    ValId e = NO_VAL;
    double c = 0;
    *sign = 1;
    if (match_op(g, v, OP_SIGMOID, &n)) {
        *u = n->in[0];
        return true;
    }
    if (!match_op(g, v, OP_RECIP, &n) || !match_scalar(g, n->in[0], OP_ADD, &e, &c) || c != 1) return false;
    if (!match_op(g, e, OP_EXP, &n)) return false;
    *u = n->in[0];
    *sign = -1;
    return true;
}

/* A gate other than 1 is raised at its own value: alpha is whatever the graph says. */
static bool is_silu(const Graph *g, const Product *p, ValId x, ValId sig, double *alpha) {
    ValId u = NO_VAL;
    double sign = 1;
    Poly poly;
    if (!near(p->scale, 1, 1e-9) || !match_sigmoid(g, sig, &u, &sign)) return false;
    if (!poly_of(g, u, x, 4, &poly) || poly.c[0] != 0 || poly.c[2] != 0 || poly.c[3] != 0) return false;
    *alpha = poly.c[1] * sign;
    return *alpha > 0 && *alpha < 100;
}

static ValId raise_factors(Rewrite *r, ValId v, const Product *p) {
    Graph *g = r->g;
    Attr a = attr_default();
    double alpha = 1;
    for (uint32_t i = 0; i < 2; i++) {
        ValId x = p->factor[i], gate = p->factor[1 - i];
        if (!type_eq(graph_type(g, x), graph_type(g, v))) continue;
        if (is_gelu(g, p, x, gate, &a.tanh)) {
            pass_count(r->cx, a.tanh ? "gelu (tanh)" : "gelu (erf)", 1);
            return rw_add(r, OP_GELU, &x, 1, &a, NULL);
        }
        if (!is_silu(g, p, x, gate, &alpha)) continue;
        a.alpha = (float)alpha;
        pass_count(r->cx, "silu", 1);
        return rw_add(r, OP_SILU, &x, 1, &a, NULL);
    }
    return NO_VAL;
}

/* Names the gate when it is one of x, but of another function than GELU or SiLU. */
static void act_miss(Rewrite *r, const Product *p) {
    const Graph *g = r->g;
    for (uint32_t i = 0; i < 2; i++) {
        ValId x = p->factor[i], gate = p->factor[1 - i], u = NO_VAL;
        double s = 1;
        Op op = OP_SIGMOID;
        Poly poly;
        bool gelu = match_gate(g, gate, &s, &op, &u);
        if ((!gelu && !match_sigmoid(g, gate, &u, &s)) || !poly_of(g, u, x, 8, &poly)) continue;
        Text t = text_new(r->cx->scratch);
        text_printf(&t, "%g * x * %s%s(", p->scale * (gelu ? s : 1), gelu ? "(1 + " : "", op_info(op)->name);
        for (int k = 0; k <= DEGREE; k++)
            if (poly.c[k] != 0)
                text_printf(&t, "%s%.7g x^%d", t.data[t.count - 1] == '(' ? "" : " + ", poly.c[k], k);
        text_printf(&t, ")%s, where %s", gelu ? ")" : "",
                    op == OP_TANH  ? "GELU has 0.5 and 0.7978846 x^1 + 0.03567741 x^3"
                    : op == OP_ERF ? "GELU has 0.5 and 0.7071068 x^1"
                                   : "SiLU has 1 and a multiple of x");
        pass_near_miss(r->cx, g, graph_def(g, gate), gelu ? "gelu" : "silu", "%s", t.data);
    }
}

/* The product's operands and theirs: x may itself be a product, to be left whole. */
static uint32_t whole_candidates(const Graph *g, ValId v, ValId *out) {
    uint32_t n = 0;
    out[n++] = NO_VAL;
    const Node *top = graph_node(g, graph_def(g, v));
    for (uint8_t i = 0; i < top->nin && i < 2; i++) {
        Node *inner = NULL;
        out[n++] = top->in[i];
        if (!match_op(g, top->in[i], OP_MUL, &inner)) continue;
        out[n++] = inner->in[0];
        out[n++] = inner->in[1];
    }
    return n;
}

static ValId raise_product(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    ValId v = graph_node(g, id)->out[0], whole[7];
    if (!dtype_is_float(graph_type(g, v)->dtype)) return NO_VAL;
    uint32_t n = whole_candidates(g, v, whole);
    for (uint32_t i = 0; i < n; i++) {
        Product p = {1, {NO_VAL}, 0, whole[i]};
        if (!product_of(g, v, &p, 5) || p.count != 2) continue;
        ValId raised = raise_factors(r, v, &p);
        if (val_ok(raised) || r->failed) return raised;
        if (r->cx->misses != NULL) act_miss(r, &p);
    }
    return NO_VAL;
}

/* x / (1 + exp(-x)) -> silu(x) */
static ValId raise_quotient(Rewrite *r, NodeId id) {
    Graph *g = r->g;
    Node n = *graph_node(g, id), *e = NULL;
    ValId sum = NO_VAL, x = n.in[0];
    double c = 0;
    Poly poly;
    if (!match_scalar(g, n.in[1], OP_ADD, &sum, &c) || c != 1 || !match_op(g, sum, OP_EXP, &e))
        return raise_product(r, id);
    if (!type_eq(graph_type(g, x), graph_type(g, n.out[0]))) return NO_VAL;
    if (!poly_of(g, e->in[0], x, 4, &poly) || poly.c[0] != 0 || poly.c[2] != 0 || poly.c[3] != 0)
        return NO_VAL;
    if (!(poly.c[1] < 0) || poly.c[1] < -100) return NO_VAL;
    Attr a = attr_default();
    a.alpha = (float)-poly.c[1];
    pass_count(r->cx, "silu", 1);
    return rw_add(r, OP_SILU, &x, 1, &a, NULL);
}

PassResult pass_raise_act(PassCtx *cx, Graph *g) {
    static const Rule rules[] = {
        {OP_MUL, "x * gate(x) -> gelu(x), silu(x)", raise_product},
        {OP_DIV, "x * gate(x) / c, x / (1 + exp(-x)) -> gelu(x), silu(x)", raise_quotient},
    };
    const RuleSet set = {rules, COUNT_OF(rules)};
    return rewrite_run(cx, g, &set, 1, 4, "activations");
}
