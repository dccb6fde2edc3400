/* ir.h: the graph IR. A Graph is a list of nodes in topological order; each node applies an op of
 * ops.def to values and defines values; a value is a node's output, a graph input or a constant.
 * Everything is named by typed 32-bit handles (0 = none) and lives in the graph's arena.
 *
 * Text form (.gir), print.c and parse.c; prints at every stage and parses back to the same bytes:
 *
 *   gir 1 stage=raised
 *   symbol batch
 *   symbol seq max=128
 *   symbol past
 *   input %1 "input_ids" : i64[batch, seq] role=tokens
 *   const %2 "wte" : f32[384, 64] = seed(7)       ; also splat(V), {1, 2, 3}, hex("00ff.."),
 *   const %3 : i64[] = {3}                        ;      file("model.onnx", OFFSET)
 *   %4 : f32[batch, seq, 64] = gather(%2, %1) {axis=0}              @ onnx:6 "embedding"
 *   %5, %6 : f32[batch, 2], i64[batch, 2] = topk(%4) {axis=1, count=2}
 *   %7 : f32[batch, past + seq, 2, 16] = concat(%8, %9) {axis=1}  !region 3 !slot 4096
 *   output %7 "logits" role=logits
 *   state "past.0.key" in=%8 out=%7 axis=1
 *
 * The first line may have context=N and arena=N, a symbol literal=N. A dimension that cannot be
 * expressed is `?`, a NaN with other bits than the usual nan(0xBITS), a result without a slot `_`.
 * Dimensions are polynomials: 64, seq, past + seq, 4*batch, batch*seq, -1 + seq. `;` starts a
 * comment. `@ onnx:N "name"` is the location; a missing optional operand is `_`. Value numbers are
 * dense in print order. Attributes equal to their default are not printed. */
#ifndef GPTC_IR_H
#define GPTC_IR_H

#include "ir/base/base.h"

#define MAX_RANK 8

/* ---- handles ---- */
typedef struct {
    uint32_t id;
} ValId;
typedef struct {
    uint32_t id;
} NodeId;
typedef struct {
    uint32_t id;
} SymId;
#define NO_VAL ((ValId){0})
#define NO_NODE ((NodeId){0})
static inline bool val_ok(ValId v) { return v.id != 0; }
static inline bool val_eq(ValId a, ValId b) { return a.id == b.id; }
static inline bool node_ok(NodeId n) { return n.id != 0; }

/* ---- dtypes (type.c) ---- */
typedef enum {
    DT_NONE,
#define DTYPE(e, text, bits, cls, onnx) DT_##e,
#include "ir/dtypes.def"
#undef DTYPE
    DT_COUNT
} DType;
typedef enum { DC_NONE, DC_BOOL, DC_INT, DC_UINT, DC_FLOAT } DClass;
const char *dtype_name(DType t);
DType dtype_parse(const char *name, size_t n); /* DT_NONE when unknown */
DType dtype_from_onnx(int number);             /* DT_NONE when unsupported */
DClass dtype_class(DType t);
uint32_t dtype_bits(DType t); /* of a value */
size_t dtype_size(DType t);   /* bytes of an element of a Tensor; one below 8 bits */
static inline bool dtype_is_float(DType t) { return dtype_class(t) == DC_FLOAT; }
static inline bool dtype_is_int(DType t) {
    DClass c = dtype_class(t);
    return c == DC_INT || c == DC_UINT;
}
float half_to_float(uint16_t h);
uint16_t float_to_half(float f); /* round to nearest even */
float bf16_to_float(uint16_t h);
uint16_t float_to_bf16(float f);
static inline bool dtype_is_f8(DType t) { return dtype_is_float(t) && dtype_bits(t) == 8; }
float f8_to_float(DType t, uint8_t x);
uint8_t float_to_f8(DType t,
                    float f); /* round to nearest even; too large: infinity, NaN where there is none */
float f8_largest(DType t);    /* the largest finite number */
uint64_t float_to_bits(DType t, double v); /* v rounded to a float dtype, by way of fp32 below f64 */
double float_from_bits(DType t, uint64_t bits);

/* ---- dimensions (dim.c): interned polynomials over symbols, equal when their handles are ----
 * Also the domain of shape values, so a constant may be negative. */
typedef struct {
    int64_t v;
} Dim;
#define DIM_SYMBOLIC_BASE INT64_MIN                         /* v in [BASE, BASE + 2^32) is a polynomial */
#define DIM_UNKNOWN ((Dim){INT64_MIN + ((int64_t)1 << 32)}) /* not expressible */
#define DIM_MAX ((int64_t)1 << 62)
static inline bool dim_is_const(Dim d) { return d.v > INT64_MIN + ((int64_t)1 << 32); }
static inline bool dim_known(Dim d) { return d.v != DIM_UNKNOWN.v; }
static inline bool dim_eq(Dim a, Dim b) { return a.v == b.v && dim_known(a); }

/* Every graph has these three. Others follow as inputs bring them. */
#define SYM_BATCH ((SymId){1})
#define SYM_SEQ ((SymId){2})
#define SYM_PAST ((SymId){3})
typedef struct {
    const char *name;
    int64_t literal; /* the number that a fixed-shape export has in its place; 0 = none */
    int64_t max;     /* upper bound; 0 = none known */
    bool counted;    /* bound by running a node, and nothing else: may be 0 */
} Symbol;

typedef struct Graph Graph;
Dim dim_const(int64_t v); /* clamps to [-DIM_MAX, DIM_MAX] */
Dim dim_sym(Graph *g, SymId s);
Dim dim_add(Graph *g, Dim a, Dim b); /* all: DIM_UNKNOWN in or overflow -> DIM_UNKNOWN */
Dim dim_sub(Graph *g, Dim a, Dim b);
Dim dim_mul(Graph *g, Dim a, Dim b);
Dim dim_div(Graph *g, Dim a, Dim b); /* exact only; b may be a polynomial (a single term) */
bool dim_depends(const Graph *g, Dim d, SymId s);
Dim dim_substitute(Graph *g, Dim d, SymId s, Dim by);
/* Value with symbol i bound to bind[i] (bind[0] unused, nbind entries). False when unbound or overflow. */
bool dim_eval(const Graph *g, Dim d, const int64_t *bind, size_t nbind, int64_t *out);
/* Term i of a dimension, false past the last: factor * the product of the symbols (ascending, repeated for
 * powers). A number is one term without symbols, 0 has none, DIM_UNKNOWN none either. */
typedef struct {
    int64_t factor;
    uint32_t degree;
    SymId sym[7];
} DimTerm;
bool dim_term(const Graph *g, Dim d, uint32_t i, DimTerm *out);
SymId dim_symbol(const Graph *g, Dim d);    /* the symbol that d is, id 0 when it is anything else */
int64_t dim_literal(const Graph *g, Dim d); /* with every symbol at its literal; -1 if one has none */
void dim_print(Text *t, const Graph *g, Dim d);
SymId symbol_find(const Graph *g, const char *name, size_t n);
SymId symbol_add(Graph *g, const char *name, size_t n); /* existing one when the name is known */

/* ---- types (type.c) ---- */
typedef struct {
    DType dtype;
    uint8_t rank;
    Dim dim[MAX_RANK];
} Type;
Type type_make(DType t, uint32_t rank, const Dim *dims);
Type type_scalar(DType t);
bool type_eq(const Type *a, const Type *b);
bool type_is_static(const Type *t);
Dim type_count(Graph *g, const Type *t); /* elements */
/* Bytes of a constant (below 8 bits packed without gaps); false when symbolic or overflowing. */
bool type_static_bytes(const Type *t, size_t *out);
bool type_static_count(const Type *t, size_t *out);
/* numpy broadcasting of shapes; false when they do not fit. Dims equal, or one is 1. */
bool type_broadcast(const Type *a, const Type *b, Type *out);
void type_print(Text *t, const Graph *g, const Type *ty);

/* ---- ops ---- */
typedef enum {
    OP_NONE,
#define OP(e, text, lo, hi, nout, attrs, flags, infer, eval, axes, doc) OP_##e,
#include "ir/ops.def"
#undef OP
    OP_COUNT
} Op;

enum { F_ELEM = 1, F_COMM = 2, F_TYPED = 4, F_MOVE = 8, F_RAISED = 16 };
typedef enum {
    AXES_NONE, /* no rule: refuses a sequence axis */
    AXES_SOURCE,
    AXES_POINTWISE,
    AXES_RESHAPE,
    AXES_TRANSPOSE,
    AXES_BROADCAST,
    AXES_SLICE,
    AXES_CONCAT,
    AXES_GATHER,
    AXES_REDUCE,
    AXES_AXIS,
    AXES_LAST,
    AXES_ROUTED,
    AXES_ELEMENTS,
    AXES_MATMUL,
    AXES_ROPE,
    AXES_ATTENTION
} AxesRule;

/* Attributes: one struct, the op table says which fields an op has.
 * ATTR(bit, field, kind, default)   kinds: INT, FLOAT, BOOL, DIMS (per axis), INTS (per axis),
 * AXES (bit mask of axes), DIM, ENUM_REDUCE */
#define ATTR_FIELDS(ATTR)                                                                                    \
    ATTR(AXIS, axis, INT, 0)                                                                                 \
    ATTR(AXES, axes, AXES, 0)                                                                                \
    ATTR(BLOCK, block, INT, 0)                                                                               \
    ATTR(KEEP, keep, BOOL, 0)                                                                                \
    ATTR(PERM, perm, INTS, 0)                                                                                \
    ATTR(STARTS, starts, DIMS, 0)                                                                            \
    ATTR(STEPS, steps, INTS, 1)                                                                              \
    ATTR(VALUE, value, DIM, 0)                                                                               \
    ATTR(BATCH_DIMS, batch_dims, INT, 0)                                                                     \
    ATTR(REDUCE, reduce, INT, 0)                                                                             \
    ATTR(DIAGONAL, diagonal, INT, 0)                                                                         \
    ATTR(LAST, last, BOOL, 0)                                                                                \
    ATTR(EXCLUSIVE, exclusive, BOOL, 0)                                                                      \
    ATTR(REVERSE, reverse, BOOL, 0)                                                                          \
    ATTR(COUNT, count, INT, 0)                                                                               \
    ATTR(SMALLEST, smallest, BOOL, 0)                                                                        \
    ATTR(TRANS, trans, BOOL, 0)                                                                              \
    ATTR(RMS, rms, BOOL, 0)                                                                                  \
    ATTR(EPS, eps, FLOAT, 0)                                                                                 \
    ATTR(TANH, tanh, BOOL, 0)                                                                                \
    ATTR(ALPHA, alpha, FLOAT, 1)                                                                             \
    ATTR(INTERLEAVED, interleaved, BOOL, 0)                                                                  \
    ATTR(SCALE, scale, FLOAT, 1)                                                                             \
    ATTR(CAUSAL, causal, BOOL, 0)                                                                            \
    ATTR(WINDOW, window, INT, 0)                                                                             \
    ATTR(SOFTCAP, softcap, FLOAT, 0)
enum {
#define ATTR(bit, field, kind, def) ATTRIDX_##bit,
    ATTR_FIELDS(ATTR)
#undef ATTR
        ATTR_COUNT
};
enum {
#define ATTR(bit, field, kind, def) A_##bit = 1 << ATTRIDX_##bit,
    ATTR_FIELDS(ATTR)
#undef ATTR
};
typedef struct Attr {
    int64_t axis, block, batch_dims, reduce, diagonal, count,
        window;    /* axis >= 0 always; reduce: 0 set 1 add 2 mul 3 max 4 min */
    uint32_t axes; /* bit i = axis i */
    bool keep, last, exclusive, reverse, smallest, trans, rms, tanh, interleaved, causal;
    float eps, alpha, scale, softcap;
    uint8_t perm[MAX_RANK];
    Dim starts[MAX_RANK];
    int64_t steps[MAX_RANK];
    Dim value;
} Attr;
Attr attr_default(void);
bool attr_eq(Op op, const Attr *a, const Attr *b, uint32_t rank);

typedef struct {
    const char *name, *doc;
    uint8_t min_in, max_in, nout;
    uint32_t attrs, flags;
    AxesRule axes;
} OpInfo;
const OpInfo *op_info(Op op);
Op op_parse(const char *name, size_t n); /* OP_NONE when unknown */

/* ---- values, nodes, graph ---- */
typedef enum { V_FREE, V_INPUT, V_CONST, V_NODE } ValKind;
typedef enum { CF_DATA, CF_SEED, CF_SPLAT, CF_FILE } ConstForm;
typedef struct {
    const void *data; /* row-major, little-endian, packed; borrowed from a mapped file or the arena */
    size_t bytes;
    uint64_t hash;    /* of dtype, dims and bytes; 0 = not computed yet (const_hash) */
    ConstForm form;   /* how the text shows it */
    uint64_t seed;    /* CF_SEED */
    const char *path; /* CF_FILE: as written in the text; relative to the text or model */
    uint64_t offset;
} Const;
#define NO_SLOT UINT64_MAX
typedef struct {
    Type type;
    ValKind kind;
    uint8_t out;      /* V_NODE: which output */
    NodeId def;       /* V_NODE */
    uint32_t cidx;    /* V_CONST: index into graph consts */
    const char *name; /* may be NULL */
    uint64_t slot;    /* memory plan: bytes from the arena start for one row; NO_SLOT before */
} Value;
typedef struct {
    Op op; /* OP_NONE: erased */
    uint8_t nin, nout;
    uint32_t region; /* 0 = none; nodes of one region are run by one kernel */
    ValId *in;
    ValId out[2];
    Attr attr;
    Loc loc;
    NodeId prev, next;
} Node;

typedef enum {
    ROLE_NONE,
    ROLE_TOKENS,
    ROLE_POSITIONS,
    ROLE_SEGMENTS, /* which text a token belongs to: 0, there is one */
    ROLE_MASK,
    ROLE_PAST,
    ROLE_USE_CACHE,
    ROLE_LENGTH, /* how many tokens there are; the import puts the number in its place */
    ROLE_LOGITS,
    ROLE_PRESENT,
    ROLE_COUNT
} Role;
const char *role_name(Role r);
typedef struct {
    ValId v;
    const char *name;
    Role role;
} Port;
typedef struct {
    const char *name;
    ValId in, out;
    uint8_t axis;
} State; /* out = concat(in, new) along axis */

typedef enum {
    STAGE_IMPORTED,
    STAGE_RAISED,
    STAGE_STATEFUL,
    STAGE_FUSED,
    STAGE_ORDERED,
    STAGE_PLANNED,
    STAGE_COUNT
} Stage;
const char *stage_name(Stage s);

struct Graph {
    Arena *arena;      /* not owned */
    VEC(Value) values; /* [0] unused */
    VEC(Node) nodes;   /* [0] unused; order is the prev/next list */
    VEC(Const) consts;
    VEC(Symbol) symbols; /* [0] unused, then batch, seq, past */
    VEC(Port) inputs, outputs;
    VEC(State) states;
    NodeId first, last;
    NodeId insert_before; /* where graph_add puts nodes; none = at the end */
    Stage stage;
    int64_t context;          /* longest sequence that the graph's own tables allow; 0 = no bound */
    uint64_t arena_row_bytes; /* memory plan: bytes of activations for one row */
    void *dims;               /* dim.c's table */
};

/* graph.c */
Graph *graph_new(Arena *a);
Graph *graph_copy(const Graph *g, Arena *a); /* deep but for constant data */
ValId graph_input(Graph *g, const char *name, Type t, Role role);
/* data is borrowed. The form is CF_DATA; set it afterwards when it should print otherwise. */
ValId graph_const(Graph *g, Type t, const void *data, const char *name);
ValId graph_const_f32(Graph *g, float v); /* scalars, data copied into the arena */
ValId graph_const_i64(Graph *g, int64_t v);
void graph_output(Graph *g, ValId v, const char *name, Role role);
/* Adds a node before g->insert_before; infers and checks types (infer.c). `result` is the type of a
 * F_TYPED op (else NULL); attr NULL = defaults. Returns output 0, or NO_VAL with the diag set.
 * Operands may be NO_VAL where optional; trailing ones are dropped. */
ValId graph_add(Graph *g, Op op, const ValId *in, size_t nin, const Attr *attr, const Type *result, Loc loc,
                Diag *d);
void graph_replace(Graph *g, ValId old, ValId with); /* in nodes, outputs and states; nothing is erased */
void graph_substitute(Graph *g, SymId s, Dim by);    /* s is `by`, in all types and attributes */
void graph_erase(Graph *g, NodeId n);                /* its outputs must be unused */
/* Gives up the places of erased nodes and values: every handle changes. Pays after thousands of erasures. */
void graph_compact(Graph *g, Arena *scratch);
static inline Value *graph_val(const Graph *g, ValId v) { return &g->values.data[v.id]; }
static inline Node *graph_node(const Graph *g, NodeId n) { return &g->nodes.data[n.id]; }
static inline const Type *graph_type(const Graph *g, ValId v) { return &g->values.data[v.id].type; }
NodeId graph_def(const Graph *g, ValId v);            /* none for inputs and constants */
Op graph_def_op(const Graph *g, ValId v);             /* OP_NONE for inputs and constants */
const Const *graph_constant(const Graph *g, ValId v); /* NULL when v is no constant */
uint64_t const_hash(Graph *g, ValId v);               /* computes on demand */
/* Elements of a type below 8 bits: one a byte (sign extended) from packed ones, and back. */
void const_unpack(DType t, const void *packed, size_t first, size_t count, uint8_t *out);
void const_pack(DType t, const uint8_t *elements, size_t count, void *packed);
/* Element i of a constant of any dtype, or false when v is no constant / out of range. */
bool const_get_f64(const Graph *g, ValId v, size_t i, double *out);
bool const_get_i64(const Graph *g, ValId v, size_t i, int64_t *out);
bool const_scalar(const Graph *g, ValId v,
                  double *out); /* every element equal (any shape, <= 4096 elements) */
const char *graph_describe(const Graph *g, NodeId n, Arena *a); /* "attention #12 \"name\"" for messages */

#define FOR_NODES(g, n) for (NodeId n = (g)->first; n.id; n = graph_node((g), n)->next)

/* Users of every value, computed on demand; stale after edits. */
typedef struct {
    uint32_t *first;
    NodeId *user;
    uint32_t *count;
    uint32_t nvals;
} Uses;
Uses graph_uses(const Graph *g, Arena *a); /* outputs and states count as users with node 0 */
bool graph_used_once(const Uses *u, ValId v);
/* Values computed from tokens or past state ("tainted"), indexed by value id. `dim` cleans. */
bool *graph_taint(const Graph *g, Arena *a);
/* Nodes that an output or a state needs, indexed by node id. */
bool *graph_live(const Graph *g, Arena *a);

/* rows.c: the row view. After the cache proof every token-dependent value is a batch x seq grid of rows
 * that are computed alike, so kernels see rows x features wherever the batch and seq axes stand. */
typedef struct {
    bool per_row;          /* false: the same for every row (constants) */
    uint32_t rank;         /* feature axes, in order */
    int64_t dim[MAX_RANK]; /* their sizes */
    int64_t width;         /* their product */
} RowShape;
bool row_shape(Graph *g, ValId v, RowShape *out); /* false when v has no row view */
/* The node only renames features: inside a row the elements keep their row-major order. */
bool row_is_view(Graph *g, NodeId n);
ValId row_source(Graph *g, ValId v);      /* v without the views above it */
bool row_is_positions(Graph *g, ValId v); /* past + index along seq, any row-like shape */
bool row_is_tokens(Graph *g, ValId v);    /* the token input, reshaped or cast to another integer */
/* A constant seen through casts, transposes, slices, joins and dequantize: what linear and gather take as their
 * table. */
bool value_is_weight(const Graph *g, ValId v);

/* infer.c: result types from operand types; for F_TYPED ops checks them. */
bool infer_node(Graph *g, NodeId n, Diag *d);

/* verify.c: operand order, arity, types re-inferred, legality of the stage, states, ports. */
bool graph_verify(Graph *g, Diag *d);

/* print.c, parse.c */
void graph_print(Text *t, const Graph *g);
/* Parses text into a new graph. dir: where file("…") constants are looked up; NULL refuses them. */
Graph *graph_parse(const char *text, size_t bytes, const char *path, const char *dir, Arena *a, Diag *d);
/* Fills count elements of dtype from seed: floats uniform in [-0.1, 0.1), integers in [0, 64), bools.
 * SplitMix64 (Vigna). */
void const_fill_seed(DType t, uint64_t seed, void *data, size_t count);

/* ---- eval*.c: the reference interpreter, the definition of every op ----
 * Plain loops in double and int64, rounded to the result's dtype after each op; products of f16, bf16
 * and f32 sum in fp32 over blocks of 64, then over the blocks, in the same order for every shape. */
typedef struct {
    DType dtype;
    uint8_t rank;
    int64_t dim[MAX_RANK];
    void *data;
} Tensor;
typedef struct {
    const int64_t *bind;
    size_t nbind; /* symbol values, index = SymId.id */
    const Tensor *inputs;
    size_t ninputs;   /* in the order of g->inputs; data may be NULL when not needed */
    size_t max_bytes; /* refuse to hold more than this at once; 0 = 8 GiB */
} EvalArgs;
/* Computes the wanted values (any values of the graph), in arena memory. Only what they need is run and
 * intermediates are released early. False with the diag set (unbound symbol, index out of range, too big). */
bool eval_graph(Graph *g, const EvalArgs *args, const ValId *want, size_t nwant, Tensor *out, Arena *a,
                Diag *d);
/* One node on given operands (used for folding). out[] are the node's outputs. */
bool eval_node(Graph *g, NodeId n, const Tensor *const *in, const int64_t *bind, size_t nbind, Tensor *out,
               Arena *a, Diag *d);
/* The constant v as an operand of the reference; unpacked into the arena where it has to be. */
Tensor const_tensor(const Graph *g, ValId v, Arena *a);
/* A tensor's elements as a new constant, copied into the graph's arena. */
ValId graph_const_tensor(Graph *g, Type t, const Tensor *x, const char *name);
size_t tensor_count(const Tensor *t);
double tensor_get_f64(const Tensor *t, size_t i);
int64_t tensor_get_i64(const Tensor *t, size_t i);
/* n elements from element `at` on. f64 rounds to a float dtype; i64, for integers and bools, keeps the low bits; to
 * bool stores x != 0. */
void tensor_store_f64(Tensor *t, int64_t at, size_t n, const double *v);
void tensor_store_i64(Tensor *t, int64_t at, size_t n, const int64_t *v);

#endif
