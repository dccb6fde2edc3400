/* inspect_function.c: ports and nodes of a compiled function. */
#include <inttypes.h>

#include "tools/inspect_artifact.h"

/* What follows ArtFunction; the loader has checked that it is there. */
typedef struct {
    const ArtView *view;
    const ArtFunction *head;
    const ArtTerm *terms;
    const ArtDim *dims;
    const ArtNode *nodes;
    const ArtValue *values;
    const uint32_t *operands, *inputs, *outputs, *symbols;
} FunctionView;

static FunctionView function_view(const ArtView *v) {
    FunctionView f = {.view = v, .head = v->function};
    f.terms = (const ArtTerm *)(const void *)(f.head + 1);
    f.dims = (const ArtDim *)(const void *)(f.terms + f.head->n_terms);
    f.nodes = (const ArtNode *)(const void *)(f.dims + f.head->n_dims);
    f.values = (const ArtValue *)(const void *)(f.nodes + f.head->n_nodes);
    f.operands = (const uint32_t *)(const void *)(f.values + f.head->n_values);
    f.inputs = f.operands + f.head->n_operands;
    f.outputs = f.inputs + f.head->n_inputs;
    f.symbols = f.outputs + f.head->n_outputs;
    return f;
}

/* As dim_print writes it: -1 + past + 2*seq. */
static void add_dim(Text *t, const FunctionView *f, uint32_t dim) {
    const ArtDim *d = &f->dims[dim];
    if (d->count == 0) text_add(t, "0");
    for (uint32_t i = 0; i < d->count; i++) {
        const ArtTerm *term = &f->terms[d->first + i];
        bool bare = true;
        int64_t factor = term->factor;
        if (i) text_add(t, factor < 0 ? " - " : " + ");
        if (i && factor < 0) factor = -factor;
        for (uint32_t s = 0; s < f->head->n_symbols; s++)
            for (uint8_t p = 0; p < term->power[s]; p++) {
                if (!bare)
                    text_add(t, "*");
                else if (factor != 1)
                    text_printf(t, "%" PRId64 "*", factor);
                text_add(t, art_text(f->view, f->symbols[s]));
                bare = false;
            }
        if (bare) text_printf(t, "%" PRId64, factor);
    }
}

static void add_type(Text *t, const FunctionView *f, const ArtValue *v) {
    text_printf(t, "%s[", art_dtype_text(v->dtype));
    for (uint32_t i = 0; i < v->rank; i++) {
        if (i) text_add(t, ", ");
        add_dim(t, f, v->dim[i]);
    }
    text_add(t, "]");
}

static void report_ports(Report *r, const FunctionView *f, const char *what, const uint32_t *number,
                         uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        const ArtValue *v = &f->values[number[i]];
        Text type = text_new(r->arena);
        add_type(&type, f, v);
        report_row(r);
        report_text(r, "port", "%s", what);
        report_text(r, "value", "%%%u", number[i]);
        report_text(r, "type", "%s", type.data);
        report_text(r, "name", "%s", art_text(f->view, v->name_offset));
    }
}

static void add_operands(Text *t, const FunctionView *f, const ArtNode *n) {
    for (uint32_t k = 0; k < n->n_operands; k++) {
        uint32_t x = f->operands[n->first_operand + k];
        if (k) text_add(t, " ");
        if (x == ART_NO_INDEX)
            text_add(t, "_");
        else if (f->values[x].kind == ART_V_TENSOR)
            text_printf(t, "t%u", f->values[x].tensor);
        else
            text_printf(t, "%%%u", x);
    }
}

static void add_results(Text *t, const FunctionView *f, const ArtNode *n) {
    for (uint32_t i = 0; i < 2 && n->out[i] != ART_NO_INDEX; i++) {
        text_printf(t, "%s%%%u : ", i ? ", " : "-> ", n->out[i]);
        add_type(t, f, &f->values[n->out[i]]);
    }
}

/* What tells two nodes of an op apart, the rest being in the types. */
static void add_attributes(Text *t, const FunctionView *f, const ArtNode *n) {
    uint32_t rank = f->values[n->out[0]].rank;
    switch (n->op) {
    case ART_FN_DIM: add_dim(t, f, n->value); break;
    case ART_FN_TRANSPOSE:
        for (uint32_t i = 0; i < rank; i++) text_printf(t, "%s%u", i ? ", " : "perm ", n->perm[i]);
        break;
    case ART_FN_SLICE:
    case ART_FN_PAD:
        for (uint32_t i = 0; i < rank; i++) {
            text_add(t, i ? ", " : "from ");
            add_dim(t, f, n->start[i]);
            if (n->op == ART_FN_SLICE && n->step[i] != 1) text_printf(t, " step %d", n->step[i]);
        }
        break;
    case ART_FN_REDUCE_SUM:
    case ART_FN_REDUCE_MEAN:
    case ART_FN_REDUCE_MAX:
    case ART_FN_REDUCE_MIN:
    case ART_FN_REDUCE_PROD: text_printf(t, "axes 0x%x", n->axes); break;
    case ART_FN_NORM:
        text_printf(t, "%s, eps %g", n->flags & ART_FN_RMS ? "rms" : "layer", (double)n->eps);
        break;
    case ART_FN_CONCAT:
    case ART_FN_GATHER:
    case ART_FN_GATHER_ELEMENTS:
    case ART_FN_SCATTER_ELEMENTS:
    case ART_FN_ARGMAX:
    case ART_FN_ARGMIN:
    case ART_FN_CUMSUM:
    case ART_FN_SOFTMAX:
    case ART_FN_TOPK:
    case ART_FN_IOTA: text_printf(t, "axis %u", n->axis); break;
    default: break;
    }
}

void art_report_function(Report *r, const ArtView *v) {
    static const char *const ops[] = {
#define FOP(e, lo, hi, nout) #e,
        ART_FUNCTION_OP_LIST(FOP)
#undef FOP
    };
    FunctionView f = function_view(v);
    report_section(r, "ports", "ports");
    report_ports(r, &f, "input", f.inputs, f.head->n_inputs);
    report_ports(r, &f, "output", f.outputs, f.head->n_outputs);
    report_section(r, "nodes", "nodes");
    for (uint32_t i = 0; i < f.head->n_nodes; i++) {
        const ArtNode *n = &f.nodes[i];
        Text op = text_new(r->arena), operands = text_new(r->arena), results = text_new(r->arena),
             attributes = text_new(r->arena);
        for (const char *c = ops[n->op]; *c; c++)
            text_printf(&op, "%c", *c >= 'A' && *c <= 'Z' ? *c + 32 : *c);
        add_operands(&operands, &f, n);
        add_results(&results, &f, n);
        add_attributes(&attributes, &f, n);
        report_row(r);
        report_number(r, "node", i, "%u", i);
        report_text(r, "op", "%s", op.data);
        report_text(r, "operands", "%s", operands.count ? operands.data : "");
        report_text(r, "attributes", "%s", attributes.count ? attributes.data : "");
        report_text(r, "results", "%s", results.data);
    }
}
