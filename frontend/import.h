/* import.h: what the files of the frontend share.
 *
 * bytes --onnx_scan--> bytes without weights --onnx.c--> OModel (a checked view) --import.c--> INodes
 * (functions inlined, names resolved to tensor numbers, sorted) --roles.c--> typed inputs
 * --onnx_ops*.c--> IR. Everything but the graph lives in a scratch arena that goes with the import. */
#ifndef GPTC_FRONTEND_IMPORT_H
#define GPTC_FRONTEND_IMPORT_H

#include "frontend/frontend.h"

/* ---- onnx_scan.c: the wire format, before protobuf-c sees it ---- */
/* Checks nesting and lengths of a ModelProto (or, with tensor, a TensorProto) and copies it without
 * what the import does not read. Each raw_data becomes 16 bytes: its offset and size in `data`, so
 * weights stay in the mapped file. */
bool onnx_scan(const uint8_t *data, size_t bytes, bool tensor, Arena *a, uint8_t **out, size_t *nout,
               Diag *d);

/* ---- onnx.c: the view; only borrowed pointers, checked counts ---- */
typedef struct OGraph OGraph;
typedef struct {
    const char *name; /* "" when absent */
    int type;         /* ONNX element type number */
    size_t rank;
    const int64_t *dim;
    bool has_raw;
    uint64_t raw_offset, raw_bytes; /* into the scanned bytes, checked */
    const float *floats;
    const double *doubles;
    const int32_t *int32s;
    const int64_t *int64s;
    const uint64_t *uint64s;
    size_t nfloats, ndoubles, nint32s, nint64s, nuint64s, nstrings;
    bool external;
    const char *location, *offset_text, *length_text; /* NULL when absent */
} OTensor;
typedef enum {
    OA_OTHER,
    OA_FLOAT,
    OA_INT,
    OA_STRING,
    OA_TENSOR,
    OA_GRAPH,
    OA_FLOATS,
    OA_INTS,
    OA_STRINGS
} OAttrKind;
typedef struct {
    const char *name, *ref; /* ref: the function attribute it stands for, or NULL */
    OAttrKind kind;
    float f;
    int64_t i;
    const char *s;
    const OTensor *t;
    const OGraph *g;
    const float *floats;
    const int64_t *ints;
    size_t n; /* of floats, ints, strings */
} OAttr;
typedef struct {
    const char *name, *op, *domain;
    const char *const *in, *const *out;
    size_t nin, nout;
    const OAttr *attrs;
    size_t nattrs;
} ONode;
typedef struct {
    int64_t value;
    const char *param;
} ODim; /* param NULL: value, -1 = not given */
typedef struct {
    const char *name;
    bool tensor, has_shape; /* tensor false: a sequence, map or optional */
    int type;
    size_t rank;
    const ODim *dim;
} OInfo;
struct OGraph {
    const ONode *nodes;
    const OTensor *inits;
    const OInfo *inputs, *outputs;
    size_t nnodes, ninits, ninputs, noutputs, nsparse;
};
typedef struct {
    const char *domain;
    int64_t version;
} OOpset;
typedef struct {
    const char *name, *domain;
    const char *const *in, *const *out;
    size_t nin, nout;
    const ONode *nodes;
    size_t nnodes;
    const OOpset *opsets;
    size_t nopsets;
} OFunc;
typedef struct {
    const char *producer;
    const OOpset *opsets;
    size_t nopsets;
    OGraph graph;
    const OFunc *funcs;
    size_t nfuncs;
} OModel;
bool onnx_view(const uint8_t *data, size_t bytes, Arena *a, OModel *out, Diag *d);
bool onnx_view_tensor(const uint8_t *data, size_t bytes, Arena *a, OTensor *out, Diag *d);

/* ---- onnx_tensor.c: elements of a TensorProto ---- */
typedef struct {
    const uint8_t *data; /* the scanned bytes */
    size_t bytes;
    const char *name; /* file name for file("...") constants; NULL: they print as data */
    const char *dir;  /* of external data; NULL refuses it */
    Arena *arena;     /* of the graph */
    OnnxModel *model; /* collects mapped external files; may be NULL */
} TensorSource;
typedef struct {
    DType dtype;
    size_t rank;
    int64_t dim[MAX_RANK];
    size_t count, bytes;
    const void *data; /* borrowed from a mapped file, or in the arena */
    const char *path; /* not NULL: data is path at offset */
    uint64_t offset;
} TensorData;
bool tensor_load(const OTensor *t, const TensorSource *src, TensorData *out, Loc loc, Diag *d);

/* ---- import.c: tensors and nodes of the flattened graph ---- */
/* What is known of an ONNX tensor. A shape value has dims: its elements as polynomials (rank 0 or 1,
 * at most SHAPE_MAX of them); val is then made only when the tensor is used as data. */
#define SHAPE_MAX 256
#define FOLD_MAX 65536
#define NODES_MAX ((uint64_t)2000000) /* after functions and loops are written out */
typedef struct {
    const char *name;
    bool set;
    ValId val;
    Type type;
    const Dim *dims;
    uint32_t ndims;
    bool filled; /* every element is `fill` under a GPT's contract (fills.c) */
    Dim fill;
    const OTensor *init; /* an initializer; loaded when first used */
    bool sequence;       /* a list of tensors, by number; it has no value */
    const uint32_t *items;
    uint32_t nitems;
} Tv;
typedef struct INode INode;
typedef struct {
    INode *nodes;
    size_t nnodes;
    uint32_t *in, *out; /* in: of Loop and Scan */
    size_t nin, nout;
} IBody;
struct INode {
    const char *name, *op, *domain;
    int64_t version;    /* opset version of its domain */
    uint32_t index;     /* of the ONNX node it comes from */
    uint32_t *in, *out; /* tensor numbers; 0 = left out */
    size_t nin, nout;
    const OAttr *attrs;
    size_t nattrs;
    IBody *bodies; /* of graph attributes, in attribute order */
    size_t nbodies;
};
typedef struct {
    const char *param;
    Dim dim;
} Alias;
typedef struct {
    SymId sym;
    int64_t most;
    Dim of;
} Lesser; /* sym = min(of, most) */
typedef struct {
    ValId v;
    bool value;
} Flag;
typedef struct {
    Arena *arena, *scratch;
    Graph *g;
    Diag *d;
    const ImportOptions *opt;
    OModel model;
    OnnxModel *out;
    TensorSource src;
    VEC(Tv) tensors; /* [0] unused */
    VEC(INode) nodes;
    VEC(Alias) aliases;         /* dim_param -> dimension */
    VEC(Lesser) lessers;        /* lengths cut at a number, until it is known that they are not */
    uint32_t *inputs, *outputs; /* tensor numbers of graph inputs (without initializers) and outputs */
    const OInfo **input_info;
    size_t ninputs, noutputs;
    Role *roles;        /* of inputs */
    int64_t token_rows; /* of the embedding; 0 = no tokens */
    bool *dynamic;      /* by value id: computed from an input's data; grows */
    size_t ndynamic;
    uint64_t inlined; /* nodes made so far, bounded */
    bool fixed;       /* tokens have literal dims */
    VEC(Flag) flags;  /* bool inputs whose value a branch has decided */
} Import;

/* flatten.c */
bool import_flatten(Import *im);
/* roles.c: finds the role of each input and makes the graph's inputs. */
bool import_inputs(Import *im);
/* states.c: the graph's states; v: the n outputs, of which present[] are set that only hold states. */
bool import_states(Import *im, const ValId *v, size_t n, bool *present);
/* finish.c: outputs, context. */
bool import_outputs(Import *im);
/* import.c */
void import_locate(Diag *d, size_t from, const char *path); /* errors without a node are about the file */
bool import_run_nodes(Import *im, const INode *nodes, size_t n);
bool dim_param_parse(Import *im, const char *text, Dim *out);
/* unify.c */
Dim shape_cut(Import *im, Dim d, int64_t most);   /* min(d, most) */
Dim shape_rest(Import *im, Dim x, int64_t least); /* max(x, least), x = a number less a length */
/* Takes the lesser lengths that nothing decided for uncut, which bounds the context. */
void shape_settle(Import *im);

/* ---- lower.c: what an op's function works with ---- */
typedef struct {
    Import *im;
    Graph *g;
    Diag *d;
    const INode *n;
    Loc loc;
    int64_t version;
    int arg;
} Call;
typedef bool (*LowerFn)(Call *c);

/* inputs */
bool in_has(const Call *c, size_t i);
Tv *in_tv(const Call *c, size_t i); /* i must be there */
const Type *in_type(const Call *c, size_t i);
ValId in_val(Call *c, size_t i);                    /* as data; NO_VAL with the diag set */
const Dim *in_dims(Call *c, size_t i, uint32_t *n); /* as a shape value, or NULL */
/* A list of integers: a shape value whose elements are all constants. False with the diag set. */
bool in_ints(Call *c, size_t i, const char *what, const int64_t **out, size_t *n);
bool in_int(Call *c, size_t i, const char *what, int64_t *out);
/* outputs */
bool out_used(const Call *c, size_t o);
bool out_val(Call *c, size_t o, ValId v); /* false when v is none */
bool out_dims(Call *c, size_t o, DType t, uint32_t rank, const Dim *dims, uint32_t n);
bool out_same(Call *c, size_t o, size_t i);          /* output o is input i */
bool out_tensor(Call *c, size_t o, uint32_t tensor); /* output o is that tensor */
/* attributes */
const OAttr *attr_find(const Call *c, const char *name);
int64_t attr_int(const Call *c, const char *name, int64_t def);
float attr_float(const Call *c, const char *name, float def);
const char *attr_string(const Call *c, const char *name, const char *def);
const int64_t *attr_ints(const Call *c, const char *name, size_t *n); /* NULL when absent */
bool axis_norm(Call *c, int64_t axis, size_t rank, uint32_t *out);    /* negative ones from the end */
bool call_error(Call *c, const char *fmt, ...) BASE_PRINTF(2, 3);     /* returns false */

void whole_bytes(DType t, int64_t v, void *out); /* v as a bool or an integer of type t */

/* nodes (emit.c); all take NO_VAL operands to mean that the diag is set, and return NO_VAL then */
ValId emit(Call *c, Op op, const ValId *in, size_t nin, const Attr *attr, const Type *result);
ValId emit1(Call *c, Op op, ValId a);
ValId emit2(Call *c, Op op, ValId a, ValId b);
ValId emit3(Call *c, Op op, ValId x, ValId a, ValId b);
ValId emit_cast(Call *c, ValId v, DType t);
ValId emit_saturated(Call *c, ValId v,
                     DType t); /* cast to a float of 8 bits; what is too large becomes its largest */
ValId emit_reshape(Call *c, ValId v, uint32_t rank, const Dim *dims);
ValId emit_broadcast(Call *c, ValId v, uint32_t rank, const Dim *dims);
ValId emit_transpose(Call *c, ValId v, const uint8_t *perm);
ValId emit_slice(Call *c, ValId v, uint32_t axis, Dim start, int64_t step, Dim length);
ValId emit_reduce(Call *c, Op op, ValId v, uint32_t axes, bool keep);
ValId emit_concat(Call *c, const ValId *in, size_t nin, uint32_t axis);
ValId emit_insert_axis(Call *c, ValId v, uint32_t axis); /* of length 1 */
ValId emit_scalar(Call *c, DType t, double v);
ValId emit_const(Call *c, Type t, const void *data, size_t bytes); /* data is copied */
ValId emit_iota(Call *c, DType t, Dim n);
ValId emit_dim(Call *c, DType t, Dim v); /* a scalar */
/* onnx_ops_quant.c: scale or zero point i as quantize and dequantize take it: a vector of one is a scalar. */
ValId scale_operand(Call *c, size_t i);
/* Axis `axis` of *v is a number that stands for `want`, or a free symbol that must equal it: gives the
 * same value with that axis typed so. False when it is neither (no diag). */
bool align_axis(Call *c, ValId *v, uint32_t axis, Dim want);
const Type *type_of(const Call *c, ValId v);
bool value_dynamic(const Import *im, ValId v);
void dynamic_set(Import *im, ValId v, bool dynamic);
ValId tensor_value(Import *im, uint32_t id, Loc loc); /* materialises */
bool tensor_loaded(Import *im, uint32_t id, Loc loc); /* an initializer becomes a constant */

/* ---- attention.c: what every attention op comes down to ---- */
typedef struct {
    ValId q, k, v; /* token-major: [batch, tokens, heads, d]; k and v with the past in them */
    ValId mask;    /* bools (true = allowed) or floats (added), broadcast to [batch, heads, queries, keys] */
    ValId lengths; /* i64 [batch, 1, 1, 1]: keys that are there, the others are padding; or none */
    ValId starts;  /* i64 [batch, 1, 1, 1]: position of the first query; none: `offset` */
    ValId sinks;   /* f32 [heads] or none */
    Dim offset;    /* keys before the first query: the past's length */
    bool causal;
    int64_t left, right; /* keys seen before and after a query's own, -1 = unbounded */
    float scale, softcap;
} Attention;
typedef enum { PRODUCTS_SCALED, PRODUCTS_CAPPED, PRODUCTS_MASKED, PRODUCTS_SOFTMAX } ProductsAt;
extern const uint8_t SWAP_HEADS[4];
/* [batch, tokens, heads * d] as [batch, tokens, heads, d], and back. */
ValId heads_split(Call *c, ValId v, int64_t heads);
ValId heads_join(Call *c, ValId v);
/* Appends token-major *kv to past [batch, heads, past, d] (or none); gives the present, laid out as past. */
ValId attention_append(Call *c, ValId past, ValId *kv);
bool attention_scale(Call *c, Attention *a, float given); /* 0 = 1 / sqrt(head size) */
ValId attention_rows(Call *c, ValId per_sequence);        /* integers [batch] as i64 [batch, 1, 1, 1] */
/* The scores on their way, [batch, heads, queries, keys]. */
ValId attention_products(Call *c, const Attention *a, ProductsAt at);
ValId attention_emit(Call *c, Attention *a); /* [batch, queries, heads, d] */

/* ---- onnx_ops_nn.c ---- */
typedef struct {
    ValId x;
    int64_t axis; /* normalised are the axes from here on */
    bool rms;
    size_t scale, bias; /* operands of the node; 0 = none */
    float eps;
    size_t mean_out, deviation_out; /* outputs of the node that give them; 0 = none */
} NormArgs;
bool norm_lower(Call *c, const NormArgs *args); /* into output 0 */

/* ---- onnx_ops_rotary.c ---- */
typedef struct {
    ValId cosine, sine; /* [batch or 1, seq, r / 2] */
    bool interleaved, token_major;
} Rotary;
ValId rotary_rows(Call *c, ValId table, ValId positions); /* [1 or batch, seq, r / 2] */
ValId rotary_emit(Call *c, ValId x, const Rotary *r);     /* x of rank 4 */

/* ---- shapes.c: arithmetic of shape values ---- */
typedef enum { SIGN_UNKNOWN, SIGN_NEG, SIGN_ZERO, SIGN_POS, SIGN_NONNEG, SIGN_NONPOS } Sign;
Sign dim_sign(const Graph *g, Dim d);              /* over all bindings with batch, seq >= 1 */
bool dim_less_equal(const Graph *g, Dim a, Dim b); /* known to be so */
/* What the call's elementwise op makes of one element. */
Dim shape_apply(Call *c, const Dim *x, size_t n);
/* Try an op on shape values. True when output 0 was made; false (no diag) to lower it on tensors. */
bool shape_elementwise(Call *c);
bool shape_gather(Call *c);
bool shape_slice(Call *c, const int64_t *start, const int64_t *end, const int64_t *step, size_t n);
bool shape_concat(Call *c);
bool shape_reduce(Call *c, Op op, bool keep);
/* Resolves a Reshape target against the operand's type: -1, 0 (unless allowzero) and, in a graph of
 * fixed shape, the symbols that the target's numbers stand for. */
bool shape_reshape_target(Call *c, const Type *x, const Dim *want, uint32_t n, bool allowzero, Dim *out);
/* Symbols for the numbers of a target shape, by matching row-major factors with those of x. False
 * when there is no such reading. */
bool shape_symbolise(Graph *g, const Type *x, uint32_t n, Dim *target);
/* A symbol of an input that turned out to equal `by`: replaced everywhere. */
bool shape_unify(Import *im, Dim a, Dim b);

/* ---- fills.c: the mask is ones, its sum the length ---- */
void fill_note(Call *c); /* after a node: what is known of its output */
bool in_fill(Call *c, size_t i, Dim *out);

/* ---- branches.c ---- */
/* A condition on lengths that holds (or fails) for one value of one symbol alone, `special` then being
 * what it says there. False when it is no such condition. */
bool branch_special(Import *im, ValId condition, SymId *sym, int64_t *at, bool *special);
/* Whether `general` computes what `special` does where sym = at. */
bool branch_covers(Import *im, ValId general, ValId special, SymId sym, int64_t at);

/* ---- onnx_ops_quant_ms.c: packed weights ---- */
/* Constant v, perhaps reshaped, with another dtype or shape over the same bytes; NO_VAL with the diag set. */
ValId view_constant(Call *c, ValId v, const char *what, DType dtype, uint32_t rank, const int64_t *dim);
DType quant_unsigned(int64_t bits); /* DT_NONE unless 2, 4 or 8 */
/* Zero points of [rows, blocks]: floats, or packed so that every row starts a byte. */
ValId quant_block_zeros(Call *c, ValId v, int64_t bits, int64_t rows, int64_t blocks);

/* ---- the tables of onnx_ops*.c; docs/onnx-ops.md is made from them ---- */
typedef enum { T_ANY, T_NUMBERS, T_FLOATS, T_INTS, T_BOOLS } OpTypes;
typedef struct {
    const char *domain, *op;
    int64_t since, until; /* opset versions, both included; until 0 = open */
    LowerFn fn;
    int arg;          /* for fn: an Op or a variant */
    OpTypes types;    /* of the first operand that is data, for the documentation */
    const char *note; /* forms that are refused, in a phrase; may be NULL */
    bool sequences;   /* operands may be sequences */
} OpRule;
extern const OpRule onnx_rules_math[], onnx_rules_move[], onnx_rules_repeat[], onnx_rules_shape[],
    onnx_rules_reduce[], onnx_rules_nn[], onnx_rules_attention[], onnx_rules_rotary[], onnx_rules_contrib[],
    onnx_rules_contrib_attention[], onnx_rules_moe[], onnx_rules_einsum[], onnx_rules_index[],
    onnx_rules_quant[], onnx_rules_quant_ms[], onnx_rules_control[], onnx_rules_loop[], onnx_rules_sequence[];
const OpRule *op_rule_find(const char *domain, const char *op, int64_t version);
const OpRule *op_rule_at(size_t i); /* all rules of all tables; NULL after the last */
typedef struct {
    const char *domain, *op, *hint;
} OpHint;
extern const OpHint op_hints[]; /* operators that are missing, and what to do; ends with op NULL */
const char *op_hint(const char *domain, const char *op); /* of any operator, also one without a line there */

#endif
