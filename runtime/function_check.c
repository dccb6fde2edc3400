/* function_check.c: checks a whole FUNCTION once, so that running it has to check shapes and indices alone.
 *
 * Counts fill the section; every number that refers to something lies inside its table. Nodes are walked in
 * order with the set of values that are known by then: inputs and tensors from the start, a result once its node
 * has run. nd_rules.c says what dtypes, ranks and attributes each op takes. */
#include "runtime/runtime.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const gptc_model *m;
    const Function *g;
    NdTensor *value; /* their dtypes and ranks */
    bool *known;
    gptc_detail *why;
} Check;

#define OK(call)                                                                                             \
    do {                                                                                                     \
        gptc_status ok_ = (call);                                                                            \
        if (ok_) return ok_;                                                                                 \
    } while (0)

/* ---- tables ---- */
static bool counts_fit(const ArtFunction *h, uint64_t bytes) {
    const uint32_t count[7] = {h->n_terms,    h->n_dims,   h->n_nodes,  h->n_values,
                               h->n_operands, h->n_inputs, h->n_outputs};
    static const uint64_t size[7] = {
        sizeof(ArtTerm), sizeof(ArtDim), sizeof(ArtNode), sizeof(ArtValue), 4, 4, 4};
    uint64_t need = sizeof *h + h->n_symbols * UINT64_C(4);
    for (int i = 0; i < 7; i++) {
        if (count[i] > LIMIT_FUNCTION) return false;
        need += count[i] * size[i];
    }
    return h->n_symbols <= ART_MAX_SYMBOLS && need == bytes;
}

static void tables_set(Function *g, const ArtFunction *h) {
    g->head = h;
    g->terms = (const ArtTerm *)(h + 1);
    g->dims = (const ArtDim *)(g->terms + h->n_terms);
    g->nodes = (const ArtNode *)(g->dims + h->n_dims);
    g->values = (const ArtValue *)(g->nodes + h->n_nodes);
    g->operands = (const uint32_t *)(g->values + h->n_values);
    g->inputs = g->operands + h->n_operands;
    g->outputs = g->inputs + h->n_inputs;
    g->symbols = g->outputs + h->n_outputs;
}

static bool text_fits(const gptc_model *m, uint32_t offset) {
    return offset == ART_NO_INDEX || offset < m->meta->text_bytes;
}

static gptc_status dims_check(const Check *c) {
    const ArtFunction *h = c->g->head;
    for (uint32_t i = 0; i < h->n_symbols; i++)
        if (!text_fits(c->m, c->g->symbols[i]))
            return status_fail(c->why, GPTC_E_FORMAT, "function symbol %u: name outside the text", i);
    for (uint32_t i = 0; i < h->n_terms; i++)
        for (uint32_t k = h->n_symbols; k < ART_MAX_SYMBOLS; k++)
            if (c->g->terms[i].power[k])
                return status_fail(c->why, GPTC_E_FORMAT, "function term %u: no such symbol", i);
    for (uint32_t i = 0; i < h->n_dims; i++) {
        ArtDim d = c->g->dims[i];
        if (d.first > h->n_terms || d.count > h->n_terms - d.first)
            return status_fail(c->why, GPTC_E_FORMAT, "function dimension %u: terms out of range", i);
    }
    return GPTC_OK;
}

/* ---- values ---- */
static bool is_panels(const gptc_model *m, const ArtValue *v) {
    return v->kind == ART_V_TENSOR && m->tensors[v->tensor].layout == ART_PANEL16;
}

NdTensor function_value(const gptc_model *m, uint32_t value) {
    const ArtValue *v = &m->function.values[value];
    NdTensor t = {.dtype = v->dtype, .rank = v->rank, .panels = is_panels(m, v)};
    if (t.panels) t.dtype = m->tensors[v->tensor].dtype;
    return t;
}

static bool tensor_fits(const gptc_model *m, const ArtValue *v, const ArtTensor *t) {
    if (is_panels(m, v)) return v->rank == 2 && t->rank == 2 && t->dtype <= ART_BF16;
    return t->layout == ART_PLAIN && t->dtype == v->dtype;
}

static gptc_status value_check(const Check *c, uint32_t i) {
    const ArtValue *v = &c->g->values[i];
    const char *wrong = NULL;
    if (v->kind > ART_V_RESULT || !nd_size(v->dtype) || v->rank > ART_MAX_RANK ||
        !text_fits(c->m, v->name_offset))
        wrong = "kind, dtype, rank or name out of range";
    for (uint32_t k = 0; !wrong && k < v->rank; k++)
        if (v->dim[k] >= c->g->head->n_dims) wrong = "no such dimension";
    if (!wrong && v->kind == ART_V_TENSOR) {
        if (v->tensor >= c->m->n_tensors)
            wrong = "no such tensor";
        else if (!tensor_fits(c->m, v, &c->m->tensors[v->tensor]))
            wrong = "its tensor has another dtype or rank";
    }
    if (wrong) return status_fail(c->why, GPTC_E_FORMAT, "function value %u: %s", i, wrong);
    c->value[i] = function_value(c->m, i);
    c->known[i] = v->kind == ART_V_TENSOR;
    return GPTC_OK;
}

static gptc_status inputs_check(const Check *c) {
    for (uint32_t i = 0; i < c->g->head->n_inputs; i++) {
        uint32_t v = c->g->inputs[i];
        if (v >= c->g->head->n_values || c->g->values[v].kind != ART_V_INPUT || c->known[v])
            return status_fail(c->why, GPTC_E_FORMAT, "function input %u: not a value of its own", i);
        c->known[v] = true;
    }
    return GPTC_OK;
}

/* Panels are for linears alone. */
static gptc_status outputs_check(const Check *c) {
    for (uint32_t i = 0; i < c->g->head->n_outputs; i++) {
        uint32_t v = c->g->outputs[i];
        if (v >= c->g->head->n_values || !c->known[v] || c->value[v].panels)
            return status_fail(c->why, GPTC_E_FORMAT, "function output %u: nothing computes it", i);
    }
    return GPTC_OK;
}

/* ---- nodes ---- */
static const char *operands_of(const Check *c, const ArtNode *n, const NdTensor **in) {
    uint32_t total = c->g->head->n_operands;
    bool optional = n->op == ART_FN_LINEAR || n->op == ART_FN_NORM;
    if (n->n_operands < nd_least(n->op) || n->n_operands > nd_most(n->op))
        return "takes another number of operands";
    if (n->first_operand > total || n->n_operands > total - n->first_operand) return "operands out of range";
    for (uint32_t i = 0; i < n->n_operands; i++) {
        uint32_t v = c->g->operands[n->first_operand + i];
        in[i] = NULL;
        if (v == ART_NO_INDEX && optional && i >= nd_least(n->op)) continue;
        if (v >= c->g->head->n_values || !c->known[v]) return "reads a value that nothing has computed";
        if (c->value[v].panels && (n->op != ART_FN_LINEAR || i != 1)) return "cannot read panels";
        in[i] = &c->value[v];
    }
    return NULL;
}

static const char *results_of(const Check *c, const ArtNode *n, NdTensor **out) {
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t v = n->out[i];
        if (i >= nd_results(n->op)) {
            if (v != ART_NO_INDEX) return "has a result too many";
            continue;
        }
        if (v >= c->g->head->n_values || c->g->values[v].kind != ART_V_RESULT || c->known[v])
            return "its result is not a value of its own";
        c->known[v] = true;
        out[i] = &c->value[v];
    }
    return NULL;
}

static const char *attributes_of(const Check *c, const ArtNode *n, uint32_t rank) {
    enum { ALL = 2 * ART_FN_TANH_FORM - 1 };
    bool starts = n->op == ART_FN_SLICE || n->op == ART_FN_PAD;
    if (n->flags & ~(uint32_t)ALL) return "flags that are not known";
    for (uint32_t i = 0; starts && i < rank; i++)
        if (n->start[i] >= c->g->head->n_dims) return "no such dimension";
    if (n->op == ART_FN_DIM && n->value >= c->g->head->n_dims) return "no such dimension";
    if (n->op == ART_FN_TOPK && n->count < 0) return "a negative count";
    if (n->op == ART_FN_SILU && !isfinite(n->alpha)) return "alpha is no number";
    return NULL;
}

static gptc_status node_check(const Check *c, uint32_t i) {
    const ArtNode *n = &c->g->nodes[i];
    const NdTensor *in[UINT8_MAX];
    gptc_detail inner = {""};
    NdCall call = {.node = n, .in = in, .n_in = n->n_operands, .why = &inner};
    if (n->op >= ART_FN_COUNT)
        return status_fail(c->why, GPTC_E_UNSUPPORTED, "function node %u: op %u is not known", i, n->op);
    const char *wrong = operands_of(c, n, in);
    if (!wrong) wrong = results_of(c, n, call.out);
    if (!wrong) wrong = attributes_of(c, n, call.out[0]->rank);
    if (!wrong && nd_check_types(&call)) wrong = inner.text;
    if (wrong)
        return status_fail(c->why, GPTC_E_FORMAT, "function node %u (%s): %s", i, nd_name(n->op), wrong);
    return GPTC_OK;
}

/* ---- a GPT without cache ---- */
uint32_t function_symbol(const Function *g, uint32_t dim) {
    const ArtDim *d = &g->dims[dim];
    const ArtTerm *t = &g->terms[d->first];
    uint32_t found = ART_NO_INDEX;
    if (d->count != 1 || t->factor != 1) return ART_NO_INDEX;
    for (uint32_t i = 0; i < g->head->n_symbols; i++) {
        if (t->power[i] == 0) continue;
        if (t->power[i] > 1 || found != ART_NO_INDEX) return ART_NO_INDEX;
        found = i;
    }
    return found;
}

/* Its ports: tokens [batch, seq] of any length, logits of three axes. */
static gptc_status gpt_check(const Check *c) {
    const ArtFunction *h = c->g->head;
    const ArtMeta *meta = c->m->meta;
    bool gpt = h->tokens != ART_NO_INDEX;
    if (gpt != (h->logits != ART_NO_INDEX) || gpt != (meta->vocab > 0) || meta->has_cache)
        return status_fail(c->why, GPTC_E_FORMAT, "function: its ports and META do not agree");
    if (!gpt) return GPTC_OK;
    if (h->n_inputs != 1 || h->tokens != 0 || h->logits >= h->n_outputs)
        return status_fail(c->why, GPTC_E_FORMAT, "function: the ports of a GPT are not there");
    const ArtValue *tokens = &c->g->values[c->g->inputs[0]],
                   *logits = &c->g->values[c->g->outputs[h->logits]];
    bool integers = tokens->dtype == ART_I64 || tokens->dtype == ART_I32;
    if (!integers || tokens->rank != 2 || function_symbol(c->g, tokens->dim[1]) == ART_NO_INDEX)
        return status_fail(c->why, GPTC_E_FORMAT, "function: the tokens are not i64 or i32 [batch, seq]");
    if (!nd_is_float(logits->dtype) || logits->rank != 3)
        return status_fail(c->why, GPTC_E_FORMAT, "function: the logits are not floats [batch, seq, vocab]");
    return GPTC_OK;
}

static gptc_status all_check(const Check *c) {
    OK(dims_check(c));
    for (uint32_t i = 0; i < c->g->head->n_values; i++) OK(value_check(c, i));
    OK(inputs_check(c));
    for (uint32_t i = 0; i < c->g->head->n_nodes; i++) OK(node_check(c, i));
    OK(outputs_check(c));
    return gpt_check(c);
}

gptc_status function_check(gptc_model *m, const void *section, uint64_t bytes, gptc_detail *why) {
    const ArtFunction *h = section;
    if (bytes < sizeof *h || !counts_fit(h, bytes))
        return status_fail(why, GPTC_E_FORMAT, "FUNCTION: its counts do not fill the section");
    tables_set(&m->function, h);
    Check c = {m, &m->function, NULL, NULL, why};
    c.value = calloc(h->n_values + 1, sizeof *c.value);
    c.known = calloc(h->n_values + 1, sizeof *c.known);
    gptc_status st =
        c.value && c.known ? all_check(&c) : status_fail(why, GPTC_E_MEMORY, "no memory for the check");
    free(c.value);
    free(c.known);
    return st;
}
