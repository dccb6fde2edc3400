/* codegen.h: Graph[planned] to artifact. */
#ifndef GPTC_CODEGEN_H
#define GPTC_CODEGEN_H

#include "ir/ir.h"
#include "passes/lossy/lossy.h"
#include "runtime/artifact.h"

/* A matrix or vector of a constant, read through casts, transposes and slices: element (i, j, …) is at
 * data[offset + i * stride[0] + j * stride[1] + …], counted in elements of `dtype`. */
typedef struct {
    const void *data;
    DType dtype;
    uint32_t rank;
    int64_t dim[4], stride[4], offset;
} WeightView;

/* A matrix that the graph dequantises: its codes, and for each of what is stored beside them the entry of element
 * (row, column): at offset + sum of (start + index) / block * stride of its own view. */
typedef struct {
    int64_t start[2], block[2], stride[2];
} GroupPlace;
typedef struct {
    ValId of; /* NO_VAL: there is none */
    WeightView view;
    GroupPlace at;
} GroupEntries;
typedef struct {
    WeightView codes;                    /* a code stands for `vector` columns */
    GroupEntries scale, row_scale, zero; /* row_scale: scales are codes, times these */
    ValId grid_of;
    WeightView grid;
    uint32_t scale_type;        /* as stored: ART_… */
    uint32_t grid_kind, vector; /* ART_GRID_ */
    int shift;                  /* added to codes and zero points, so that codes count from 0 */
    int64_t group;              /* columns that share an entry */
    const char *name;           /* of the constant with the codes */
} GroupView;

typedef struct {
    ArtTensor art;             /* offset is set by the packer */
    WeightView view;           /* PANEL16: dim[0] = outputs, dim[1] = inputs */
    const GroupView *groups;   /* of a GROUP16; NULL otherwise */
    const WeightView *experts; /* of a PANEL16 of rank 3: one such matrix each; NULL otherwise */
    const char *name;          /* may be NULL */
} ProgramTensor;

/* A function (ArtFunction) and what it points to. */
typedef struct {
    ArtFunction head;
    VEC(ArtTerm) terms;
    VEC(ArtDim) dims;
    VEC(ArtNode) nodes;
    VEC(ArtValue) values;
    VEC(uint32_t) operands, inputs, outputs;
    VEC(const char *) symbols, names; /* names: of values that are ports, else NULL */
    VEC(uint32_t) symbol_text;        /* where the packer put the symbols' names */
} Function;

/* What the packer writes: the plan with its tensors. Lives in the arena given to lower(). */
typedef struct {
    Arena *arena;
    VEC(ProgramTensor) tensors;
    VEC(ArtState) states;
    VEC(const char *) state_names;
    VEC(ArtStep) steps;
    VEC(ArtInsn) insns;
    VEC(ValId) step_out; /* the value each step makes */
    ArtPlan plan;
    ArtMeta meta;       /* vocab, context, layers, state bytes */
    Function *function; /* instead of steps; NULL = a program of rows */
} Program;

/* weights.c */
bool weight_view(Graph *g, ValId v, Arena *a, WeightView *out, Diag *d);
bool same_elements(const WeightView *a, const WeightView *b);
void view_contiguous(WeightView *w, const Type *t);
bool view_apply(WeightView *w, const Graph *g, const Node *n); /* false: no view of w is n's result */
double weight_get(const WeightView *w, const int64_t *index);
/* Index of the tensor in p, added when it is new. Equal data in an equal layout is stored once; a PLAIN
 * matrix is found in a PANEL16 of the same elements. */
uint32_t program_tensor(Program *p, const WeightView *w, uint32_t layout, const char *name);
/* groups.c: compressed weights. group_view: false when w is none, or of a form that is not stored so. */
bool group_view(Graph *g, ValId w, bool transposed, Arena *a, GroupView *out, Diag *d);
/* The matrices of w[E, A, B], each [B, A] with transposed, one below the other: rows = outputs, N % 16 = 0 of each. */
bool group_stack(Graph *g, ValId w, bool transposed, Arena *a, GroupView *out, Diag *d);
uint32_t program_groups(Program *p, const GroupView *v);
double group_entry(const GroupEntries *e, int64_t row, int64_t col);
double group_zero(const GroupView *v, int64_t row, int64_t col);
/* groups_store.c: the parts of a GROUP16, of the sizes that art_groups gives. */
void group_head(const ProgramTensor *t, uint8_t *to);
void group_panel_head(const ProgramTensor *t, int64_t row0, uint8_t *to);
void group_block(const ProgramTensor *t, int64_t row0, int64_t col0, uint8_t *to);
/* Matrix w (rows = outputs) as a GROUP16 where it is one, else in `layout`. */
bool program_matrix(Program *p, Graph *g, ValId w, bool transposed, uint32_t layout, uint32_t *out, Diag *d);
/* The matrices that routed weights w[E, A, B] hold, which may be a concat of E constants; transposed: [B, A]
 * each. All of one dtype. */
bool weight_experts(Graph *g, ValId w, bool transposed, Arena *a, WeightView **out, uint32_t *n, Diag *d);
uint32_t program_experts(Program *p, const WeightView *experts, uint32_t n, const char *name);
/* Either: what group_stack finds, else weight_experts. */
bool program_stack(Program *p, Graph *g, ValId w, bool transposed, uint32_t *out, Diag *d);
uint32_t art_dtype(DType t);          /* of a row program's tensor: f8 becomes f16, all but bf16 f32 */
uint32_t art_dtype_exact(DType t);    /* 0 when there is none */
void weight_transpose(WeightView *w); /* a matrix; no data moves */
/* A constant as it is, of any dtype and rank, PLAIN; one above rank 4 as its elements in a row. */
uint32_t program_constant(Program *p, const void *data, const Type *t, const char *name);

/* A target's rules, first match wins: which kernel runs a region. */
typedef struct Lower {
    Graph *g;
    Program *p;
    Diag *diag;
    Arena *arena;
    const NodeId *nodes; /* of the running region, in order */
    uint32_t nnodes, region;
} Lower;
typedef struct {
    const char *name, *why;
    bool (*match)(Lower *lw);
    bool (*emit)(Lower *lw); /* false with the diag set */
} KernelRule;
typedef struct {
    const char *name, *doc;
    const KernelRule *rules; /* ends with name NULL */
} Target;
extern const Target target_cpu; /* cpu/rules.c */

/* lower.c: regions to steps, in their order. */
bool lower(Graph *g, const Target *t, int64_t ctx, Arena *a, Program **out, Diag *d);
bool lower_row_arg(Lower *lw, ValId v, ArtArg *out);        /* a row value's buffer */
ArtStep *lower_step(Lower *lw, uint32_t kernel, ValId out); /* a new step that writes out's buffer */
bool step_writes(const ArtStep *s, uint64_t row_offset);    /* its output is the buffer there */
/* The buffers (by row offset) written before step j and read at or after it; at most cap are stored, more are cap + 1.
 * The logits are read after the last step. */
size_t program_alive(const Program *p, size_t j, const ArtArg *logits, ArtArg *out, size_t cap);

/* function.c: a graph as it is, node for node. */
bool lower_function(Graph *g, int64_t ctx, Arena *a, Program **out, Diag *d);

/* pack.c: writes the artifact to a temporary beside path. */
typedef struct {
    const char *key, *value;
} MetaPair;
typedef struct {
    const MetaPair *meta;
    size_t nmeta; /* META strings */
    const void *tokenizer;
    size_t tokenizer_bytes;
    const void *kernels; /* KERNELS, may be NULL */
    size_t kernels_bytes;
    const char *provenance, *report, *ir; /* text sections, may be NULL */
    int32_t stop_tokens[8];
    uint32_t n_stop_tokens;
    int32_t bos_token; /* -1 = none */
} PackExtra;
typedef struct {
    uint64_t file_bytes, weight_bytes, source_bytes;
} PackStats;
/* A matrix as an fp32 tensor of that layout, PLAIN or PANEL16 with its padding. */
void pack_matrix(const WeightView *w, uint32_t layout, float *to);
FileWriter *pack_write(Program *p, const PackExtra *x, const char *path, PackStats *stats, Diag *d);

/* gate.c: runs the imported graph and the artifact on the same tokens and compares, whole, stepwise, in
 * chunks of 5, alone and two sequences at once. False with the diag set when they disagree. */
typedef struct {
    double max_err, rms_err, ref_std; /* absolute, and the reference's deviation */
    const char *worst;                /* "stepwise" … */
    int64_t tokens;                   /* rows of the reference that were computed */
} GateReport;
bool gate_exact(Graph *imported, const char *artifact, uint64_t seed, Arena *a, GateReport *out, Diag *d);
/* gate_lossy.c: the second gate, of an artifact that computes something else than the graph. Its stepwise and chunked
 * runs agree with its own whole run, and on `text` it is no further from the exact artifact than `holds` allows, which
 * sets the diag when it says no. */
typedef struct {
    const char *exact, *artifact; /* files */
    const Windows *text;          /* NULL: only the first half */
    bool rounds;                  /* the artifact rounds activations, so that a last bit may become a step */
    uint64_t seed;
    bool (*holds)(void *user, const Quality *q, Diag *d);
    void *user;
} GateLossy;
bool gate_lossy(const GateLossy *x, Arena *a, GateReport *steps, Quality *q, Diag *d);
bool gate_rounds(const Graph *g, Arena *a); /* for GateLossy.rounds */
/* gate_function.c: the same for a function that is no GPT, on random inputs. max_err is relative to the largest
 * element, worst the output's name, tokens the rounds. */
bool gate_function(Graph *imported, const char *artifact, uint64_t seed, Arena *a, GateReport *out, Diag *d);

#endif
