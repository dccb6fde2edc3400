/* import.c: bytes to Graph, step by step: view, flatten, check support, inputs, nodes, outputs. */
#include <stdlib.h>
#include <string.h>

#include "frontend/import.h"

#define REPORT_MAX 40

/* ---- op tables ---- */

static const OpRule *const TABLES[] = {onnx_rules_math,      onnx_rules_move,
                                       onnx_rules_repeat,    onnx_rules_shape,
                                       onnx_rules_reduce,    onnx_rules_nn,
                                       onnx_rules_attention, onnx_rules_rotary,
                                       onnx_rules_contrib,   onnx_rules_contrib_attention,
                                       onnx_rules_moe,       onnx_rules_einsum,
                                       onnx_rules_index,     onnx_rules_quant,
                                       onnx_rules_quant_ms,  onnx_rules_control,
                                       onnx_rules_loop,      onnx_rules_sequence};

const OpRule *op_rule_find(const char *domain, const char *op, int64_t version) {
    for (size_t t = 0; t < COUNT_OF(TABLES); t++)
        for (const OpRule *r = TABLES[t]; r->op != NULL; r++)
            if (strcmp(r->op, op) == 0 && strcmp(r->domain, domain) == 0 && version >= r->since &&
                (r->until == 0 || version <= r->until))
                return r;
    return NULL;
}

static bool op_known(const char *domain, const char *op) {
    for (size_t t = 0; t < COUNT_OF(TABLES); t++)
        for (const OpRule *r = TABLES[t]; r->op != NULL; r++)
            if (strcmp(r->op, op) == 0 && strcmp(r->domain, domain) == 0) return true;
    return false;
}

const OpRule *op_rule_at(size_t i) {
    for (size_t t = 0; t < COUNT_OF(TABLES); t++)
        for (const OpRule *r = TABLES[t]; r->op != NULL; r++)
            if (i-- == 0) return r;
    return NULL;
}

const OpHint op_hints[] = {
    {"", "Unique", "the result's size depends on data"},
    {"", "Compress", "the result's size depends on data"},
    {"", "RandomNormalLike", "export for inference"},
    {"", "RandomUniformLike", "export for inference"},
    {"", "Conv", "convolutions are not supported"},
    {"", "LSTM", "recurrent layers are not supported"},
    {"", "GRU", "recurrent layers are not supported"},
    {"com.microsoft", "PagedAttention",
     "export with a contiguous cache, for example with "
     "GroupQueryAttention or the plain exporter"},
    {"com.microsoft", "SparseAttention", "blocks of keys are left out; export with GroupQueryAttention"},
    {"com.microsoft", "LinearAttention",
     "its state is no cache of keys and values; recurrent models are not supported"},
    {"com.microsoft", "CausalConvWithState",
     "its state is no cache of keys and values; recurrent models are not supported"},
    {"com.microsoft", "GatedDeltaNet",
     "its state is no cache of keys and values; recurrent models are not supported"},
    {"", "LinearAttention", "its state is no cache of keys and values; recurrent models are not supported"},
    {"", "CausalConvWithState",
     "its state is no cache of keys and values; recurrent models are not supported"},
    {"com.microsoft", "DecoderMaskedSelfAttention",
     "works on one token and a shared buffer; optimise the graph without decoder masked attention"},
    {"com.microsoft", "DecoderMaskedMultiHeadAttention",
     "works on one token and a shared buffer; optimise the graph without decoder masked attention"},
    {"com.microsoft", "PackedAttention", "sequences are packed without padding; export with padding"},
    {"com.microsoft", "PackedMultiHeadAttention",
     "sequences are packed without padding; export with padding"},
    {"com.microsoft", "GatedRelativePositionBias", "biases that depend on the queries are not supported"},
    {"com.microsoft", "GreedySearch", "holds the search as well; export the decoder alone"},
    {"com.microsoft", "BeamSearch", "holds the search as well; export the decoder alone"},
    {"com.microsoft", "Sampling", "holds the search as well; export the decoder alone"},
    {0},
};

const char *op_hint(const char *domain, const char *op) {
    for (const OpHint *h = op_hints; h->op != NULL; h++)
        if (strcmp(h->op, op) == 0 && strcmp(h->domain, domain) == 0) return h->hint;
    if (strcmp(domain, "com.microsoft") == 0)
        return "an ONNX Runtime operator; export without ONNX Runtime's optimizer or builder";
    if (op_known(domain, op)) return "this opset version of the operator is not supported";
    if (domain[0] == '\0') return "not supported; see the list of operators in the documentation";
    return "an operator of another domain; export with standard operators";
}

static void report(Import *im, const INode *n, size_t *count) {
    if (++*count > REPORT_MAX) return;
    Loc loc = {LOC_NODE, n->index, 0, arena_strdup(im->arena, n->name)};
    diag_error(im->d, loc, "operator %s of domain '%s', opset %lld, is not supported; hint: %s", n->op,
               n->domain[0] == '\0' ? "ai.onnx" : n->domain, (long long)n->version,
               op_hint(n->domain, n->op));
}

/* Bodies of If are checked when one of them is taken. */
static bool check_support(Import *im) {
    size_t count = 0;
    for (size_t i = 0; i < im->nodes.count; i++) {
        const INode *n = &im->nodes.data[i];
        if (op_rule_find(n->domain, n->op, n->version) == NULL) report(im, n, &count);
    }
    if (count > REPORT_MAX) diag_error(im->d, loc_none(), "%zu more unsupported nodes", count - REPORT_MAX);
    return count == 0;
}

static bool run_node(Import *im, const INode *n) {
    Loc loc = {LOC_NODE, n->index, 0, arena_strdup(im->arena, n->name)};
    const OpRule *r = op_rule_find(n->domain, n->op, n->version);
    if (r == NULL) {
        size_t count = 0;
        report(im, n, &count);
        return false;
    }
    for (size_t i = 0; i < n->nin; i++) {
        if (n->in[i] != 0 && !tensor_loaded(im, n->in[i], loc)) return false;
        if (n->in[i] != 0 && im->tensors.data[n->in[i]].sequence && !r->sequences)
            return diag_error(im->d, loc, "%s: input %zu is a sequence of tensors, not a tensor", n->op, i);
    }
    Call c = {im, im->g, im->d, n, loc, n->version, r->arg};
    uint32_t before = im->d->errors;
    if (!r->fn(&c)) {
        if (im->d->errors != before) return false;
        return diag_bug(im->d, loc, "%s failed without saying why", n->op);
    }
    for (size_t i = 0; i < n->nout; i++)
        if (n->out[i] != 0 && !im->tensors.data[n->out[i]].set)
            return diag_error(im->d, loc, "%s: output %zu ('%s') is not supported", n->op, i,
                              im->tensors.data[n->out[i]].name);
    fill_note(&c);
    return true;
}

bool import_run_nodes(Import *im, const INode *nodes, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!run_node(im, &nodes[i])) return false;
    return true;
}

/* ---- names of dimensions ---- */

static const char *skip_spaces(const char *s) {
    while (*s == ' ') s++;
    return s;
}

static bool word_char(char ch) {
    return (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') || ch == '_' ||
           ch == '.';
}

static Dim dim_named(Import *im, const char *name, size_t n) {
    for (size_t i = 0; i < im->aliases.count; i++) {
        const Alias *a = &im->aliases.data[i];
        if (strlen(a->param) == n && memcmp(a->param, name, n) == 0) return a->dim;
    }
    /* batch, seq and past have a meaning of their own, that a name alone does not give. */
    SymId s = symbol_find(im->g, name, n);
    char *text = arena_strndup(im->arena, name, n);
    if (s.id != 0 && s.id <= SYM_PAST.id && im->roles != NULL) text = arena_printf(im->arena, "%s_dim", text);
    Dim d = dim_sym(im->g, symbol_add(im->g, text, strlen(text)));
    Alias a = {arena_strndup(im->scratch, name, n), d};
    VEC_PUSH(im->scratch, &im->aliases, a);
    return d;
}

/* factor { "*" factor }, a factor being a number or a word. */
static bool parse_term(Import *im, const char **s, Dim *out) {
    *out = dim_const(1);
    for (;;) {
        const char *at = skip_spaces(*s);
        size_t n = 0;
        while (word_char(at[n])) n++;
        if (n == 0) return false;
        Dim f;
        if (at[0] >= '0' && at[0] <= '9') {
            char *end = NULL;
            long long v = strtoll(at, &end, 10);
            if (end != at + n) return false;
            f = dim_const(v);
        } else {
            f = dim_named(im, at, n);
        }
        *out = dim_mul(im->g, *out, f);
        *s = skip_spaces(at + n);
        if (**s != '*') return true;
        (*s)++;
    }
}

static bool sum_shaped(const char *s) {
    for (; *s != '\0'; s++)
        if (!word_char(*s) && strchr(" +-*", *s) == NULL) return false;
    return true;
}

bool dim_param_parse(Import *im, const char *text, Dim *out) {
    size_t whole = strlen(text);
    for (size_t i = 0; i < im->aliases.count; i++)
        if (strcmp(im->aliases.data[i].param, text) == 0) {
            *out = im->aliases.data[i].dim;
            return true;
        }
    if (sum_shaped(text)) {
        const char *s = skip_spaces(text);
        Dim sum = dim_const(0), term;
        bool minus = *s == '-';
        if (minus) s++;
        while (parse_term(im, &s, &term)) {
            sum = minus ? dim_sub(im->g, sum, term) : dim_add(im->g, sum, term);
            if (*s == '\0') {
                *out = sum;
                return dim_known(sum);
            }
            if (*s != '+' && *s != '-') break;
            minus = *s++ == '-';
        }
    }
    char *name = arena_strndup(im->arena, text, whole);
    for (size_t i = 0; i < whole; i++)
        if (!word_char(name[i])) name[i] = '_';
    *out = dim_named(im, name, whole);
    return true;
}

/* ---- the whole ---- */

static bool import_model(Import *im) {
    if (!onnx_view(im->src.data, im->src.bytes, im->scratch, &im->model, im->d)) return false;
    OnnxModel *m = im->out;
    m->producer = im->model.producer == NULL ? NULL : arena_strdup(im->arena, im->model.producer);
    for (size_t i = 0; i < im->model.nopsets; i++)
        if (im->model.opsets[i].domain[0] == '\0') m->opset = im->model.opsets[i].version;
    if (!import_flatten(im)) return false;
    m->nnodes = (uint32_t)im->nodes.count;
    bool supported = check_support(im);
    return supported && import_inputs(im) && import_run_nodes(im, im->nodes.data, im->nodes.count) &&
           import_outputs(im);
}

static bool import_source(const TensorSource *src, const ImportOptions *opt, OnnxModel *out, Diag *d) {
    static const ImportOptions none = {0};
    Import im = {.arena = src->arena,
                 .scratch = arena_new(),
                 .d = d,
                 .out = out,
                 .src = *src,
                 .opt = opt == NULL ? &none : opt};
    im.g = graph_new(src->arena);
    out->graph = im.g;
    out->file_hash = hash_bytes(src->data, src->bytes, 0);
    bool ok = import_model(&im);
    arena_free(im.scratch);
    if (!ok) onnx_close(out);
    return ok;
}

bool onnx_import_bytes(const uint8_t *data, size_t bytes, const char *dir, const ImportOptions *opt, Arena *a,
                       OnnxModel *out, Diag *d) {
    *out = (OnnxModel){0};
    TensorSource src = {data, bytes, NULL, dir, a, out};
    return import_source(&src, opt, out, d);
}

void import_locate(Diag *d, size_t from, const char *path) {
    for (size_t i = from; i < d->items.count; i++)
        if (d->items.data[i].loc.kind == LOC_NONE)
            d->items.data[i].loc = loc_file(arena_strdup(d->arena, path));
}

bool onnx_import(const char *path, const ImportOptions *opt, Arena *a, OnnxModel *out, Diag *d) {
    *out = (OnnxModel){0};
    FileView f;
    char *own = arena_strdup(a, path);
    if (!file_map(own, &f, d)) return false;
    out->model = f;
    const char *slash = strrchr(own, '/');
    const char *name = slash == NULL ? own : slash + 1;
    const char *dir = slash == NULL ? "." : slash == own ? "/" : arena_strndup(a, own, (size_t)(slash - own));
    TensorSource src = {f.data, f.bytes, name, dir, a, out};
    size_t before = d->items.count;
    if (import_source(&src, opt, out, d)) return true;
    import_locate(d, before, path);
    return false;
}

void onnx_close(OnnxModel *m) {
    for (size_t i = 0; i < m->external.count; i++) file_unmap(&m->external.data[i]);
    file_unmap(&m->model);
    *m = (OnnxModel){0};
}
