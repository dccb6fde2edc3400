/* doctor_words.c: the architecture in words, and how many parameters each part of it has. */
#include <inttypes.h>
#include <math.h>

#include "tools/doctor_arch.h"

/* Layers for which `in` holds: "all", "0, 2, 4 of 6". */
static const char *which_layers(const Arch *a, const bool *in) {
    size_t n = 0;
    Text t = text_new(a->a);
    for (size_t i = 0; i < a->layers.count; i++) {
        if (!in[i]) continue;
        if (n < 8) text_printf(&t, "%s%zu", n ? ", " : "", i);
        if (n == 8) text_add(&t, ", …");
        n++;
    }
    if (n == a->layers.count) return "all layers";
    return arena_printf(a->a, "layer%s %s of %zu", n == 1 ? "" : "s", t.data, a->layers.count);
}

static const Node *attention_of(const Arch *a, size_t i) {
    return graph_node(a->g, a->layers.data[i].attention);
}

static void say_heads(Arch *a) {
    const Node *n = attention_of(a, 0);
    const Type *q = graph_type(a->g, n->in[0]), *k = graph_type(a->g, n->in[1]);
    int64_t heads = q->dim[2].v, kv = k->dim[2].v, v = arch_width(a, n->in[2]);
    bool same = true;
    for (size_t i = 1; i < a->layers.count; i++) {
        const Node *m = attention_of(a, i);
        same = same && dim_eq(graph_type(a->g, m->in[0])->dim[2], q->dim[2]) &&
               dim_eq(graph_type(a->g, m->in[1])->dim[2], k->dim[2]);
    }
    report_number(a->r, "layers", (double)a->layers.count, "%zu", a->layers.count);
    ValId stream = a->layers.data[0].stream;
    if (val_ok(stream))
        report_number(a->r, "hidden size", (double)arch_width(a, stream), "%" PRId64, arch_width(a, stream));
    report_number(a->r, "heads", (double)heads, "%" PRId64 "%s", heads,
                  same ? "" : ", not the same in all layers");
    report_number(a->r, "key heads", (double)kv, "%" PRId64 "%s", kv,
                  kv == heads ? ""
                  : kv == 1   ? ", one for all"
                              : ", each for several");
    report_number(a->r, "head size", (double)q->dim[3].v, "%" PRId64 "%s", q->dim[3].v,
                  v == q->dim[3].v ? "" : arena_printf(a->a, ", of values %" PRId64, v));
}

/* The base whose powers the table's angles are, with a common factor; 0 when there is none. */
static double rope_base(const Graph *g, const Node *rope, double *factor) {
    const Type *t = graph_type(g, rope->in[1]);
    int64_t half = t->dim[1].v;
    double first = 0, last = 0, c, s;
    if (t->rank != 2 || !graph_constant(g, rope->in[1]) || t->dim[0].v < 2 || half < 2) return 0;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t i = 0; i < half; i++) {
            size_t at = (size_t)(half + i); /* position 1 */
            if (!const_get_f64(g, rope->in[1], at, &c) || !const_get_f64(g, rope->in[2], at, &s)) return 0;
            double angle = log(atan2(s, c));
            if (!isfinite(angle) || fabs(hypot(s, c) - 1) > 1e-3) return 0;
            if (i == 0) first = angle;
            if (i + 1 == half && pass == 0) last = angle;
            if (pass == 1 && fabs(angle - first - (last - first) * (double)i / (double)(half - 1)) > 2e-3)
                return 0;
        }
    *factor = exp(first);
    return exp((first - last) / (double)(half - 1) * (double)half);
}

static const char *rope_words(const Arch *a, const Node *rope) {
    int64_t d = arch_width(a, attention_of(a, 0)->in[0]), r = 2 * arch_width(a, rope->in[1]);
    double factor = 1, base = rope_base(a->g, rope, &factor),
           unit = base > 0 ? pow(10, floor(log10(base)) - 3) : 1;
    Text t = text_new(a->a);
    if (r == d)
        text_printf(&t, "rotary, all of %" PRId64 " features", d);
    else
        text_printf(&t, "rotary, %" PRId64 " of %" PRId64 " features", r, d);
    text_printf(&t, rope->attr.interleaved ? ", neighbours" : ", halves");
    if (base == 0)
        text_add(&t, ", angles of its own table");
    else
        text_printf(&t, ", base %.0f", round(base / unit) * unit);
    if (base > 0 && fabs(factor - 1) > 1e-3) text_printf(&t, ", positions times %.4g", factor);
    return t.data;
}

static bool same_rope(const Node *x, const Node *y) {
    return x && y && val_eq(x->in[1], y->in[1]) && val_eq(x->in[2], y->in[2]) &&
           x->attr.interleaved == y->attr.interleaved;
}

static void say_positions(Arch *a) {
    Text t = text_new(a->a);
    size_t n = a->layers.count;
    bool *seen = arena_array_of(a->a, n, bool), *now = arena_array_of(a->a, n, bool);
    bool *sloped = arena_array_of(a->a, n, bool), alibi = false;
    if (val_ok(a->rows)) {
        const Const *c = graph_constant(a->g, a->rows);
        bool learned = c->form == CF_FILE || c->form == CF_SEED || graph_val(a->g, a->rows)->name;
        text_printf(&t, "%s, %" PRId64 " rows", learned ? "learned" : "a table",
                    graph_type(a->g, a->rows)->dim[0].v);
    }
    for (size_t i = 0; i < n; i++) {
        const Node *rope = a->layers.data[i].rope;
        sloped[i] = arch_has(attention_of(a, i), 4);
        alibi = alibi || sloped[i];
        if (rope == NULL || seen[i]) continue;
        for (size_t k = 0; k < n; k++) {
            now[k] = same_rope(rope, a->layers.data[k].rope);
            seen[k] = seen[k] || now[k];
        }
        text_printf(&t, "%s%s; %s", t.count ? "; " : "", rope_words(a, rope), which_layers(a, now));
    }
    if (alibi) text_printf(&t, "%sALiBi; %s", t.count ? "; " : "", which_layers(a, sloped));
    report_text(a->r, "positions", "%s", t.count ? t.data : "none");
}

static void say_masks(Arch *a) {
    Text t = text_new(a->a);
    bool *seen = arena_array_of(a->a, a->layers.count, bool),
         *now = arena_array_of(a->a, a->layers.count, bool);
    for (size_t i = 0; i < a->layers.count; i++) {
        if (seen[i]) continue;
        const Attr *x = &attention_of(a, i)->attr;
        bool masked = arch_has(attention_of(a, i), 3);
        for (size_t k = 0; k < a->layers.count; k++) {
            const Attr *y = &attention_of(a, k)->attr;
            now[k] =
                x->causal == y->causal && x->window == y->window && masked == arch_has(attention_of(a, k), 3);
            seen[k] = seen[k] || now[k];
        }
        text_printf(&t, "%s%s", t.count ? "; " : "",
                    x->causal ? "causal"
                    : masked  ? "a mask of its own"
                              : "none");
        if (x->window) text_printf(&t, ", window %" PRId64, x->window);
        text_printf(&t, ", %s", which_layers(a, now));
    }
    report_text(a->r, "masks", "%s", t.data);
}

static void say_attention(Arch *a) {
    Text t = text_new(a->a);
    const Layer *l = &a->layers.data[0];
    const Node *n = attention_of(a, 0);
    double want = 1 / sqrt((double)arch_width(a, n->in[0]));
    text_printf(&t, "scale %.6g%s", (double)n->attr.scale,
                fabs((double)n->attr.scale - want) > 1e-4 * want ? ", not 1 / sqrt(head size)" : "");
    if (n->attr.softcap > 0) text_printf(&t, "; soft cap %g", (double)n->attr.softcap);
    if (arch_has(n, 5)) text_add(&t, "; sinks");
    if (l->low_rank) text_add(&t, "; low-rank projections");
    if (l->qk_norm) text_add(&t, "; norms on queries and keys");
    if (l->gated_out) text_add(&t, "; gated result");
    text_printf(&t, "; %s",
                l->bias_in && l->bias_out ? "biases"
                : l->bias_in              ? "biases on queries, keys or values"
                : l->bias_out             ? "bias on the result"
                                          : "no biases");
    report_text(a->r, "attention", "%s", t.data);
}

static void say_norms(Arch *a) {
    const Layer *l = &a->layers.data[0];
    const Node *n = l->pre ? l->pre : l->inner ? l->inner : a->final_norm;
    if (n == NULL) {
        report_text(a->r, "norms", "none that was recognised");
        return;
    }
    const char *place = l->post              ? "after each sum"
                        : l->pre && l->inner ? "before and after each part"
                        : l->inner           ? "after each part, before the sum"
                                             : "before each part";
    report_text(a->r, "norms", "%s, epsilon %g, %s%s", n->attr.rms ? "RMS" : "layer", (double)n->attr.eps,
                place, a->final_norm && !l->post ? ", and before the head" : "");
}

static const char *act_words(const Arch *a, const Layer *l) {
    const Node *n = l->act;
    if (n->op == OP_GELU) return n->attr.tanh ? "GELU, tanh form" : "GELU, exact";
    if (n->op == OP_SILU && n->attr.alpha == 1) return "SiLU";
    if (n->op == OP_SILU) return arena_printf(a->a, "x * sigmoid(%.6g x)", (double)n->attr.alpha);
    if (n->op == OP_RELU) return l->act_squared ? "ReLU, squared" : "ReLU";
    return arena_printf(a->a, "elementwise, with %s", op_info(n->op)->name);
}

static void say_feed(Arch *a) {
    const Layer *l = &a->layers.data[0];
    if (l->act == NULL) return;
    int64_t width = arch_width(a, l->act->out[0]);
    if (l->routed) {
        int64_t all = graph_type(a->g, l->routed->in[2])->dim[0].v, used = arch_width(a, l->routed->in[1]);
        report_number(a->r, "experts", (double)all, "%" PRId64 ", %" PRId64 " a token", all, used);
    }
    report_text(a->r, "activation", "%s%s", act_words(a, l), l->act_gated ? ", gated" : "");
    report_number(a->r, "feed forward", (double)width, "%" PRId64 "%s", width,
                  l->parallel ? ", beside attention" : ", after attention");
}

static void say_head(Arch *a) {
    if (!node_ok(a->head)) return;
    const Node *n = graph_node(a->g, a->head);
    ValId w = arch_constant(a, n->in[1]);
    report_number(a->r, "vocabulary", (double)arch_width(a, n->out[0]), "%" PRId64, arch_width(a, n->out[0]));
    Text t = text_new(a->a);
    text_add(&t, val_ok(w) && val_eq(w, a->embedding) ? "the embedding, transposed" : "a matrix of its own");
    if (arch_has(n, 2)) text_add(&t, ", biased");
    if (a->logits_cap > 0) text_printf(&t, ", soft cap %g on logits", a->logits_cap);
    report_text(a->r, "head", "%s", t.data);
}

static void say_context(Arch *a) {
    const Graph *g = a->g;
    int64_t n = g->context, fixed = g->symbols.data[SYM_SEQ.id].literal;
    const char *why = n == 0 ? "nothing in the graph bounds it; gptc takes 4096 unless --ctx says otherwise"
                      : n == fixed ? "the length the graph was exported with"
                      : val_ok(a->rows) && graph_type(g, a->rows)->dim[0].v == n
                          ? "the rows of its position table"
                          : "a mask or table in the graph";
    report_number(a->r, "context", (double)(n ? n : 4096), "%" PRId64 ": %s", n ? n : 4096, why);
    int64_t floats = 0;
    for (size_t i = 0; i < g->states.count; i++) {
        const Type *t = graph_type(g, g->states.data[i].in);
        int64_t one = 1;
        for (uint32_t k = 0; k < t->rank; k++)
            if (dim_is_const(t->dim[k])) one *= t->dim[k].v;
        floats += one;
    }
    if (floats)
        report_number(a->r, "cache a token", (double)floats * 4, "%s",
                      report_bytes(a->a, (double)floats * 4));
}

/* ---- parameters ---- */

typedef struct {
    double count[PART_COUNT], total;
    uint64_t bytes[DT_COUNT];
    bool *seen;
} Params;

static void add_params(Arch *a, Params *p, ValId v, Part part) {
    NodeId id = graph_def(a->g, v);
    if (node_ok(id) && !arch_tainted(a, v) &&
        graph_node(a->g, id)->op == OP_CONCAT) { /* experts, one by one */
        const Node *parts = graph_node(a->g, id);
        for (uint32_t i = 0; i < parts->nin; i++) add_params(a, p, parts->in[i], part);
        return;
    }
    ValId root = arch_constant(a, v);
    int64_t n = 1;
    const Type *t = graph_type(a->g, v);
    if (!val_ok(root) || p->seen[root.id]) return;
    for (uint32_t i = 0; i < t->rank; i++)
        if (!dim_is_const(t->dim[i]) || !mul_i64(n, t->dim[i].v, &n)) return;
    if (n <= 1) return;
    p->seen[root.id] = true;
    p->count[part] += (double)n;
    p->total += (double)n;
    p->bytes[graph_type(a->g, root)->dtype] += graph_constant(a->g, root)->bytes;
}

static Part part_of(const Arch *a, NodeId id, uint32_t operand) {
    const Node *n = graph_node(a->g, id);
    switch (n->op) {
    case OP_LINEAR: return a->part[id.id] ? (Part)a->part[id.id] : OTHER;
    case OP_ROUTED: return FEED;
    case OP_NORM: return NORMS;
    case OP_ATTENTION: return operand == 5 ? ATTENTION : PART_NONE;
    case OP_ROPE: return PART_NONE;
    case OP_GATHER: return row_is_positions(a->g, n->in[1]) ? POSITIONS : EMBEDDING;
    default: return OTHER;
    }
}

static void say_parameters(Arch *a) {
    static const char *const names[] = {"",      "embedding", "positions", "attention", "feed forward",
                                        "norms", "head",      "other"};
    Params p = {.seen = arena_array_of(a->a, a->g->values.count, bool)};
    FOR_NODES (a->g, id) {
        const Node *n = graph_node(a->g, id);
        if (!a->order[id.id] || (!arch_tainted(a, n->out[0]) && n->op != OP_GATHER)) continue;
        for (uint32_t i = 0; i < n->nin; i++)
            if (arch_has(n, i) && part_of(a, id, i) != PART_NONE)
                add_params(a, &p, n->in[i], part_of(a, id, i));
    }
    Text t = text_new(a->a);
    for (int k = 1; k < DT_COUNT; k++)
        if (p.bytes[k])
            text_printf(&t, "%s%s %s", t.count ? ", " : "", dtype_name((DType)k),
                        report_bytes(a->a, (double)p.bytes[k]));
    report_section(a->r, "parameters", "parameters");
    report_number(a->r, "all", p.total, "%.0f", p.total);
    for (int k = 1; k < PART_COUNT; k++)
        if (p.count[k] > 0)
            report_number(a->r, names[k], p.count[k], "%.0f, %.1f%%", p.count[k], 100 * p.count[k] / p.total);
    if (t.count) report_text(a->r, "stored as", "%s", t.data);
}

void doctor_architecture(Report *r, Graph *g) {
    Arch a = {.g = g, .a = r->arena, .r = r};
    arch_read(&a);
    report_section(r, "architecture", "architecture");
    if (a.layers.count == 0) {
        report_text(r, "layers", "no attention was recognised");
        return;
    }
    say_heads(&a);
    say_positions(&a);
    say_masks(&a);
    say_attention(&a);
    say_norms(&a);
    say_feed(&a);
    say_head(&a);
    report_text(r, "computes in", "%s", dtype_name(graph_type(g, attention_of(&a, 0)->in[0])->dtype));
    say_context(&a);
    say_parameters(&a);
}
