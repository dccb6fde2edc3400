/* onnx.c: unpacks an ONNX file with protobuf-c and hands out a checked, borrowed view of it.
 *
 * The one file that knows the generated code. onnx_scan has bounded nesting and taken the weights
 * out; an arena with a budget is the allocator, so nothing is freed one by one. */
#include <string.h>

#include <onnx.pb-c.h>

#include "frontend/import.h"

#define BUDGET_FIXED ((size_t)64 << 20)
#define BUDGET_PER_BYTE 64

typedef struct {
    Arena *arena;
    size_t used, limit;
} Budget;

static void *budget_alloc(void *data, size_t size) {
    Budget *b = data;
    if (size > b->limit - b->used) return NULL;
    b->used += size;
    return arena_alloc(b->arena, size);
}

static void budget_free(void *data, void *p) {
    (void)data;
    (void)p;
}

static ProtobufCMessage *unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t bytes,
                                Arena *a, Diag *d) {
    Budget *b = arena_new_of(a, Budget);
    size_t limit = 0;
    if (!mul_size(bytes, BUDGET_PER_BYTE, &limit) || !add_size(limit, BUDGET_FIXED, &limit)) limit = SIZE_MAX;
    *b = (Budget){a, 0, limit};
    ProtobufCAllocator allocator = {budget_alloc, budget_free, b};
    ProtobufCMessage *m = protobuf_c_message_unpack(type, &allocator, bytes, data);
    if (m == NULL) diag_error(d, loc_none(), "not a readable ONNX file: protobuf cannot parse it");
    return m;
}

typedef struct {
    Arena *a;
    Diag *d;
    size_t file_bytes;
} View;

static const char *text(const char *s) { return s == NULL ? "" : s; }

static const char *const *view_names(char *const *names) { return (const char *const *)names; }

static bool view_tensor(View *v, const Onnx__TensorProto *p, OTensor *t) {
    *t = (OTensor){.name = text(p->name),
                   .type = p->has_data_type ? p->data_type : 0,
                   .rank = p->n_dims,
                   .dim = p->dims,
                   .floats = p->float_data,
                   .nfloats = p->n_float_data,
                   .doubles = p->double_data,
                   .ndoubles = p->n_double_data,
                   .int32s = p->int32_data,
                   .nint32s = p->n_int32_data,
                   .int64s = p->int64_data,
                   .nint64s = p->n_int64_data,
                   .uint64s = p->uint64_data,
                   .nuint64s = p->n_uint64_data,
                   .nstrings = p->n_string_data};
    if (p->has_raw_data) {
        uint64_t where[2];
        if (p->raw_data.len != sizeof(where)) return diag_bug(v->d, loc_none(), "raw_data was not scanned");
        memcpy(where, p->raw_data.data, sizeof(where));
        if (where[0] > v->file_bytes || where[1] > v->file_bytes - where[0])
            return diag_bug(v->d, loc_none(), "raw_data lies outside the file");
        t->has_raw = true;
        t->raw_offset = where[0];
        t->raw_bytes = where[1];
    }
    t->external = p->has_data_location && p->data_location == ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
    for (size_t i = 0; i < p->n_external_data; i++) {
        const char *key = text(p->external_data[i]->key), *value = text(p->external_data[i]->value);
        if (strcmp(key, "location") == 0) t->location = value;
        if (strcmp(key, "offset") == 0) t->offset_text = value;
        if (strcmp(key, "length") == 0) t->length_text = value;
    }
    return true;
}

static bool view_graph(View *v, const Onnx__GraphProto *p, OGraph *g);

static OAttrKind attr_kind(const Onnx__AttributeProto *p) {
    if (p->has_type && p->type != ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__UNDEFINED) {
        switch (p->type) {
        case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT: return OA_FLOAT;
        case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT: return OA_INT;
        case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING: return OA_STRING;
        case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR: return p->t ? OA_TENSOR : OA_OTHER;
        case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPH: return p->g ? OA_GRAPH : OA_OTHER;
        case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOATS: return OA_FLOATS;
        case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS: return OA_INTS;
        case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRINGS: return OA_STRINGS;
        default: return OA_OTHER;
        }
    }
    /* Old files leave the type out. */
    if (p->has_f) return OA_FLOAT;
    if (p->has_i) return OA_INT;
    if (p->has_s) return OA_STRING;
    if (p->t != NULL) return OA_TENSOR;
    if (p->g != NULL) return OA_GRAPH;
    if (p->n_floats != 0) return OA_FLOATS;
    if (p->n_ints != 0) return OA_INTS;
    return p->n_strings != 0 ? OA_STRINGS : OA_OTHER;
}

static bool view_attr(View *v, const Onnx__AttributeProto *p, OAttr *a) {
    *a = (OAttr){.name = text(p->name),
                 .kind = attr_kind(p),
                 .f = p->f,
                 .i = p->i,
                 .s = "",
                 .floats = p->floats,
                 .ints = p->ints};
    if (p->ref_attr_name != NULL && p->ref_attr_name[0] != '\0') a->ref = p->ref_attr_name;
    if (a->kind == OA_FLOATS) a->n = p->n_floats;
    if (a->kind == OA_INTS) a->n = p->n_ints;
    if (a->kind == OA_STRINGS) a->n = p->n_strings;
    if (a->kind == OA_STRING && p->has_s) a->s = arena_strndup(v->a, (const char *)p->s.data, p->s.len);
    if (a->kind == OA_TENSOR) {
        OTensor *t = arena_new_of(v->a, OTensor);
        if (!view_tensor(v, p->t, t)) return false;
        a->t = t;
    }
    if (a->kind == OA_GRAPH) {
        OGraph *g = arena_new_of(v->a, OGraph);
        if (!view_graph(v, p->g, g)) return false;
        a->g = g;
    }
    return true;
}

static bool view_nodes(View *v, Onnx__NodeProto *const *p, size_t n, const ONode **out) {
    ONode *nodes = arena_array_of(v->a, n, ONode);
    for (size_t i = 0; i < n; i++) {
        OAttr *attrs = arena_array_of(v->a, p[i]->n_attribute, OAttr);
        for (size_t j = 0; j < p[i]->n_attribute; j++)
            if (!view_attr(v, p[i]->attribute[j], &attrs[j])) return false;
        const char *domain = text(p[i]->domain);
        if (strcmp(domain, "ai.onnx") == 0) domain = "";
        nodes[i] = (ONode){
            text(p[i]->name), text(p[i]->op_type), domain, view_names(p[i]->input), view_names(p[i]->output),
            p[i]->n_input,    p[i]->n_output,      attrs,  p[i]->n_attribute};
    }
    *out = nodes;
    return true;
}

static const OInfo *view_infos(View *v, Onnx__ValueInfoProto *const *p, size_t n) {
    OInfo *infos = arena_array_of(v->a, n, OInfo);
    for (size_t i = 0; i < n; i++) {
        infos[i].name = text(p[i]->name);
        const Onnx__TypeProto *t = p[i]->type;
        if (t == NULL || t->value_case != ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE || t->tensor_type == NULL)
            continue;
        infos[i].tensor = true;
        infos[i].type = t->tensor_type->elem_type;
        const Onnx__TensorShapeProto *shape = t->tensor_type->shape;
        if (shape == NULL) continue;
        ODim *dim = arena_array_of(v->a, shape->n_dim, ODim);
        for (size_t j = 0; j < shape->n_dim; j++) {
            const Onnx__TensorShapeProto__Dimension *x = shape->dim[j];
            dim[j] = (ODim){-1, NULL};
            if (x->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE)
                dim[j].value = x->dim_value;
            else if (x->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM &&
                     text(x->dim_param)[0] != '\0')
                dim[j].param = x->dim_param;
        }
        infos[i].has_shape = true;
        infos[i].rank = shape->n_dim;
        infos[i].dim = dim;
    }
    return infos;
}

static bool view_graph(View *v, const Onnx__GraphProto *p, OGraph *g) {
    *g = (OGraph){.nnodes = p->n_node,
                  .ninits = p->n_initializer,
                  .ninputs = p->n_input,
                  .noutputs = p->n_output,
                  .nsparse = p->n_sparse_initializer};
    OTensor *inits = arena_array_of(v->a, p->n_initializer, OTensor);
    for (size_t i = 0; i < p->n_initializer; i++)
        if (!view_tensor(v, p->initializer[i], &inits[i])) return false;
    g->inits = inits;
    g->inputs = view_infos(v, p->input, p->n_input);
    g->outputs = view_infos(v, p->output, p->n_output);
    return view_nodes(v, p->node, p->n_node, &g->nodes);
}

static const OOpset *view_opsets(View *v, Onnx__OperatorSetIdProto *const *p, size_t n) {
    OOpset *out = arena_array_of(v->a, n, OOpset);
    for (size_t i = 0; i < n; i++) {
        const char *domain = text(p[i]->domain);
        if (strcmp(domain, "ai.onnx") == 0) domain = "";
        out[i] = (OOpset){domain, p[i]->has_version ? p[i]->version : 1};
    }
    return out;
}

bool onnx_view(const uint8_t *data, size_t bytes, Arena *a, OModel *out, Diag *d) {
    uint8_t *slim = NULL;
    size_t nslim = 0;
    if (!onnx_scan(data, bytes, false, a, &slim, &nslim, d)) return false;
    const Onnx__ModelProto *p =
        (const Onnx__ModelProto *)unpack(&onnx__model_proto__descriptor, slim, nslim, a, d);
    if (p == NULL) return false;
    if (p->graph == NULL) return diag_error(d, loc_none(), "not an ONNX model: it holds no graph");
    View v = {a, d, bytes};
    *out = (OModel){.producer = p->producer_name, .nopsets = p->n_opset_import, .nfuncs = p->n_functions};
    out->opsets = view_opsets(&v, p->opset_import, p->n_opset_import);
    OFunc *funcs = arena_array_of(a, p->n_functions, OFunc);
    for (size_t i = 0; i < p->n_functions; i++) {
        const Onnx__FunctionProto *f = p->functions[i];
        const char *domain = text(f->domain);
        if (strcmp(domain, "ai.onnx") == 0) domain = "";
        funcs[i] = (OFunc){text(f->name),
                           domain,
                           view_names(f->input),
                           view_names(f->output),
                           f->n_input,
                           f->n_output,
                           NULL,
                           f->n_node,
                           view_opsets(&v, f->opset_import, f->n_opset_import),
                           f->n_opset_import};
        if (!view_nodes(&v, f->node, f->n_node, &funcs[i].nodes)) return false;
    }
    out->funcs = funcs;
    return view_graph(&v, p->graph, &out->graph);
}

bool onnx_view_tensor(const uint8_t *data, size_t bytes, Arena *a, OTensor *out, Diag *d) {
    uint8_t *slim = NULL;
    size_t nslim = 0;
    if (!onnx_scan(data, bytes, true, a, &slim, &nslim, d)) return false;
    const Onnx__TensorProto *p =
        (const Onnx__TensorProto *)unpack(&onnx__tensor_proto__descriptor, slim, nslim, a, d);
    if (p == NULL) return false;
    View v = {a, d, bytes};
    return view_tensor(&v, p, out);
}
