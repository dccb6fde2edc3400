/* gate.c: the first gate of a verified compile. The reference interpreter runs the imported graph and the
 * runtime runs the artifact on the same random tokens; the logits must agree within TOL_LOGITS_F32 (_F16 where
 * the graph itself rounds to 16 bits, _QUANT where it quantises activations). The reference's work is budgeted, so
 * a large model is compared on fewer tokens. */
#include "codegen/gate.h"
#include "ir/tolerance.h"
#include "runtime/gptc.h"

#include <math.h>
#include <string.h>

#define GATE_MIN_TOKENS 6
#define GATE_PREFIXES 12 /* tokens when every prefix is run by itself */
#define GATE_FLOPS 12e9  /* of the reference: some seconds */
#define GATE_CHUNK 5

/* KL divergence of softmax(b) from softmax(a), in nats. */
static double row_divergence(const float *a, const float *b, int64_t n) {
    double top_a = -INFINITY, top_b = -INFINITY, sum_a = 0, sum_b = 0, cross = 0;
    for (int64_t i = 0; i < n; i++) {
        top_a = fmax(top_a, (double)a[i]);
        top_b = fmax(top_b, (double)b[i]);
    }
    for (int64_t i = 0; i < n; i++) {
        double p = exp((double)a[i] - top_a);
        sum_a += p;
        sum_b += exp((double)b[i] - top_b);
        cross += p * (((double)a[i] - top_a) - ((double)b[i] - top_b));
    }
    return cross / sum_a - log(sum_a) + log(sum_b);
}

static int compare_rows(void *user, int32_t sequence, int32_t first, int32_t rows, const float *logits) {
    GateCompare *c = user;
    (void)sequence;
    const float *ref = c->ref + (c->row0 + first) * c->vocab;
    for (int64_t i = 0; i < (int64_t)rows * c->vocab; i++) {
        double e = fabs((double)logits[i] - (double)ref[i]);
        if (!(e <= c->max)) { /* also takes NaN */
            c->max = isnan(e) ? INFINITY : e;
            c->worst = c->mode;
        }
        c->sum2 += e * e;
    }
    for (int32_t i = 0; i < rows; i++)
        c->divergence += row_divergence(ref + i * c->vocab, logits + i * c->vocab, c->vocab);
    c->count += (int64_t)rows * c->vocab;
    return 0;
}

static double deviation(const float *x, int64_t n) {
    double sum = 0, sum2 = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)x[i];
        sum2 += (double)x[i] * (double)x[i];
    }
    double mean = sum / (double)n;
    return sqrt(fmax(sum2 / (double)n - mean * mean, 0));
}

static double constant_elements(const Graph *g) {
    double n = 0;
    for (size_t i = 1; i < g->values.count; i++) {
        const Value *v = &g->values.data[i];
        size_t count;
        if (v->kind == V_CONST && type_static_count(&v->type, &count)) n += (double)count;
    }
    return n;
}

static bool is_rounding(const Node *n, DType result) {
    return n->op == OP_QUANTIZE || n->op == OP_ROUNDED || (n->op == OP_LINEAR && n->attr.block > 0) ||
           (n->op == OP_ROUND && dtype_is_float(result));
}

/* Of what is computed from tokens: whether any is rounded to integers, and to 16 bits. Weights do not count. */
static bool activations_rounded(const Graph *g, Arena *a, bool *narrow) {
    const bool *taint = graph_taint(g, a);
    bool rounds = false;
    *narrow = false;
    FOR_NODES (g, id) {
        const Node *n = graph_node(g, id);
        DType t = graph_type(g, n->out[0])->dtype;
        if (!taint[n->out[0].id]) continue;
        *narrow = *narrow || t == DT_F16 || t == DT_BF16;
        rounds = rounds || is_rounding(n, t);
    }
    return rounds;
}

bool gate_rounds(const Graph *g, Arena *a) {
    bool narrow;
    return activations_rounded(g, a, &narrow);
}

/* What the graph computes in decides how far its logits may be off. */
static GateTolerance tolerance_of(const Graph *g, Arena *a) {
    bool narrow;
    if (activations_rounded(g, a, &narrow))
        return (GateTolerance){TOL_LOGITS_QUANT, TOL_LOGITS_QUANT_RMS, TOL_LOGITS_QUANT_KL,
                               "quantised activations"};
    double most = narrow ? TOL_LOGITS_F16 : TOL_LOGITS_F32;
    return (GateTolerance){most, most, INFINITY, narrow ? "16-bit floats" : "fp32"};
}

Tensor gate_input(const Graph *g, const Port *p, const int64_t *bind, const int32_t *tokens, Arena *a) {
    const Type *t = graph_type(g, p->v);
    Tensor x = {.dtype = t->dtype, .rank = t->rank};
    size_t count = 1;
    for (uint32_t i = 0; i < t->rank; i++) {
        if (!dim_eval(g, t->dim[i], bind, g->symbols.count, &x.dim[i])) x.dim[i] = 0;
        if (x.dim[i] < 0) x.dim[i] = 0;
        count *= (size_t)x.dim[i];
    }
    x.data = arena_array(a, count + 1, dtype_size(t->dtype));
    for (size_t i = 0; i < count; i++) {
        int64_t v = p->role == ROLE_TOKENS      ? tokens[i]
                    : p->role == ROLE_POSITIONS ? (int64_t)i % x.dim[x.rank - 1]
                    : p->role == ROLE_SEGMENTS  ? 0
                                                : 1;
        double f = (double)v;
        if (dtype_is_float(x.dtype))
            tensor_store_f64(&x, (int64_t)i, 1, &f);
        else
            tensor_store_i64(&x, (int64_t)i, 1, &v);
    }
    return x;
}

static ValId logits_of(const Graph *g) {
    ValId v = NO_VAL;
    for (size_t i = 0; i < g->outputs.count; i++)
        if (g->outputs.data[i].role == ROLE_LOGITS) v = g->outputs.data[i].v;
    return v;
}

/* The graph computes logits of the last token alone. */
static bool last_only(const Graph *g) {
    ValId v = logits_of(g);
    for (uint32_t i = 0; val_ok(v) && i < graph_type(g, v)->rank; i++)
        if (!dim_known(graph_type(g, v)->dim[i]) || dim_depends(g, graph_type(g, v)->dim[i], SYM_SEQ))
            return false;
    return val_ok(v);
}

/* Logits of the imported graph, as fp32, for `batch` sequences from an empty past. */
static bool reference_run(Graph *g, const int32_t *ids, int64_t batch, int64_t tokens, Arena *a, Tensor *out,
                          Diag *d) {
    int64_t *bind = arena_array_of(a, g->symbols.count, int64_t);
    bind[SYM_BATCH.id] = batch;
    bind[SYM_SEQ.id] = tokens;
    Tensor *in = arena_array_of(a, g->inputs.count, Tensor);
    for (size_t i = 0; i < g->inputs.count; i++) in[i] = gate_input(g, &g->inputs.data[i], bind, ids, a);
    ValId want = logits_of(g);
    EvalArgs args = {.bind = bind, .nbind = g->symbols.count, .inputs = in, .ninputs = g->inputs.count};
    if (!eval_graph(g, &args, &want, 1, out, a, d)) return false;
    if (out->dtype == DT_F32) return true;
    float *f = arena_array_of(a, tensor_count(out), float);
    for (size_t i = 0; i < tensor_count(out); i++) f[i] = (float)tensor_get_f64(out, i);
    out->data = f;
    out->dtype = DT_F32;
    return true;
}

/* [batch][tokens][vocab], flat; a graph that computes the last token's logits is run on every prefix. Without a cache
 * sequences run by themselves, as the runtime runs them: what a graph takes from all sequences at hand, the range
 * of a dynamic quantisation, may then be another. */
static bool reference(Graph *g, const int32_t *ids, int64_t tokens, int64_t vocab, bool cached, Arena *a,
                      Tensor *out, Diag *d) {
    bool last = last_only(g);
    int64_t together = cached ? GATE_BATCH : 1, rows = last ? 1 : tokens;
    *out = (Tensor){.dtype = DT_F32, .rank = 1, .dim = {GATE_BATCH * tokens * vocab}};
    float *all = arena_array_of(a, tensor_count(out), float);
    int32_t *prefix = arena_array_of(a, (size_t)(GATE_BATCH * tokens), int32_t);
    out->data = all;
    for (int64_t first = 0; first < GATE_BATCH; first += together)
        for (int64_t n = last ? 1 : tokens; n <= tokens; n++) {
            Tensor t;
            for (int64_t b = 0; b < together; b++)
                memcpy(prefix + b * n, ids + (first + b) * tokens, (size_t)n * sizeof(int32_t));
            if (!reference_run(g, prefix, together, n, a, &t, d)) return false;
            if (tensor_count(&t) != (size_t)(together * rows * vocab))
                return diag_bug(d, loc_none(),
                                "the reference's logits have another shape than the artifact's");
            for (int64_t b = 0; b < together; b++)
                memcpy(all + ((first + b) * tokens + n - rows) * vocab,
                       (const float *)t.data + b * rows * vocab, (size_t)(rows * vocab) * sizeof(float));
        }
    return true;
}

static gptc_status compare_last(gptc_session *s, int32_t seq, int32_t first, GateCompare *c) {
    const float *logits = gptc_logits(s, seq);
    if (!logits) return GPTC_E_NO_LOGITS;
    compare_rows(c, seq, first, 1, logits);
    return GPTC_OK;
}

static gptc_status run_modes(gptc_session *s, const int32_t *ids, bool cached, GateCompare *c) {
    int32_t n = (int32_t)c->tokens;
    gptc_status st = GPTC_OK;
    c->mode = "whole";
    for (int32_t b = 0; b < GATE_BATCH && !st; b++) {
        c->row0 = b * c->tokens;
        st = gptc_prefill_all(s, b, ids + b * n, (size_t)n, compare_rows, c);
    }
    if (!cached) return st; /* all else runs the whole sequence again */
    for (int32_t b = 0; b < GATE_BATCH && !st; b++) st = gptc_rewind(s, b, 0);
    c->mode = "in chunks";
    c->row0 = 0;
    for (int32_t i = 0; i < n && !st; i += GATE_CHUNK) {
        int32_t k = n - i < GATE_CHUNK ? n - i : GATE_CHUNK;
        st = gptc_prefill_all(s, 0, ids + i, (size_t)k, compare_rows, c);
    }
    if (!st) st = gptc_rewind(s, 0, 0);
    c->mode = "last row alone"; /* the head runs on fewer rows than the body */
    c->row0 = 0;
    if (!st) st = gptc_prefill(s, 0, ids, (size_t)n, GPTC_LOGITS_LAST);
    if (!st) st = compare_last(s, 0, n - 1, c);
    if (!st) st = gptc_rewind(s, 0, 0);
    c->mode = "stepwise, two sequences at once";
    for (int32_t i = 0; i < n && !st; i++) {
        int32_t pair[GATE_BATCH] = {ids[i], ids[n + i]};
        st = gptc_step(s, pair, GATE_BATCH);
        for (int32_t b = 0; b < GATE_BATCH && !st; b++) {
            c->row0 = b * c->tokens;
            st = compare_last(s, b, i, c);
        }
    }
    return st;
}

gptc_status gate_run(const char *path, const int32_t *ids, bool cached, GateCompare *c, gptc_detail *why) {
    gptc_model *m = NULL;
    gptc_session *s = NULL;
    gptc_session_options so = {
        .struct_size = sizeof so, .sequences = GATE_BATCH, .context = (int32_t)c->tokens};
    gptc_status st = gptc_open(path, NULL, &m, why);
    if (!st) st = gptc_session_new(m, &so, &s, why);
    if (!st) st = run_modes(s, ids, cached, c);
    gptc_session_free(s);
    gptc_close(m);
    return st;
}

double gate_divergence(const GateCompare *c) {
    return c->divergence * (double)c->vocab / (double)(c->count ? c->count : 1);
}

bool gate_holds(const GateCompare *c, const GateTolerance *t, int64_t rows, GateReport *out) {
    double std = deviation(c->ref, rows * c->vocab);
    *out = (GateReport){c->max, sqrt(c->sum2 / (double)(c->count ? c->count : 1)), std, c->worst, rows};
    return c->max <= t->max * std && out->rms_err <= t->rms * std && gate_divergence(c) <= t->kl;
}

int32_t *gate_tokens(int64_t tokens, int64_t vocab, uint64_t seed, Arena *a) {
    int32_t *ids = arena_array_of(a, (size_t)(GATE_BATCH * tokens), int32_t);
    for (int64_t i = 0; i < GATE_BATCH * tokens; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator */
        ids[i] = (int32_t)((seed >> 33) % (uint64_t)vocab);
    }
    return ids;
}

bool gate_exact(Graph *g, const char *artifact, uint64_t seed, Arena *a, GateReport *out, Diag *d) {
    gptc_model *m;
    gptc_detail why = {""};
    gptc_model_info info = {.struct_size = sizeof info};
    gptc_status st = gptc_open(artifact, NULL, &m, &why);
    if (st)
        return diag_bug(d, loc_none(), "the written file does not open: %s (%s)", gptc_strerror(st),
                        why.text);
    gptc_model_get_info(m, &info);
    bool cached = gptc_inputs(m) == 0; /* a function has inputs and no cache */
    gptc_close(m);
    int64_t tokens = (int64_t)(GATE_FLOPS / (2 * GATE_BATCH * (constant_elements(g) + 1)));
    if (tokens > GATE_TOKENS) tokens = GATE_TOKENS;
    if (tokens < GATE_MIN_TOKENS) tokens = GATE_MIN_TOKENS;
    if (last_only(g) && tokens > GATE_PREFIXES) tokens = GATE_PREFIXES;
    if (tokens > info.context) tokens = info.context;
    int32_t *ids = gate_tokens(tokens, info.vocab, seed, a);
    Tensor ref;
    if (!reference(g, ids, tokens, info.vocab, cached, a, &ref, d)) return false;
    GateCompare c = {.ref = ref.data, .tokens = tokens, .vocab = info.vocab, .worst = "nowhere"};
    for (size_t i = 0; i < tensor_count(&ref); i++)
        if (!isfinite(c.ref[i]))
            return diag_error(d, loc_none(),
                              "the graph's own logits are not finite, so nothing can be verified; no file "
                              "was written");
    st = gate_run(artifact, ids, cached, &c, &why);
    if (st)
        return diag_bug(d, loc_none(), "the compiled model does not run: %s (%s)", gptc_strerror(st),
                        why.text);
    GateTolerance tol = tolerance_of(g, a);
    if (gate_holds(&c, &tol, GATE_BATCH * tokens, out)) return true;
    double std = out->ref_std, kl = gate_divergence(&c);
    if (c.max <= tol.max * std)
        return diag_error(
            d, loc_none(),
            "verification failed: logits differ by %.3g of their deviation on average, %.2g nats "
            "(allowed for %s: %.0e, %.0e); no file was written",
            out->rms_err / std, kl, tol.kind, tol.rms, tol.kl);
    return diag_error(
        d, loc_none(),
        "verification failed: logits differ by %.3g (%.2g of their deviation %.3g; allowed for %s: %.0e), "
        "worst %s; "
        "no file was written; hint: compile with --dump-dir D, then gptc-opt --diff D/00-imported.gir "
        "D/LAST.gir --weights MODEL_FOLDER names the first value that differs",
        c.max, c.max / std, std, tol.kind, tol.max, c.worst);
}
