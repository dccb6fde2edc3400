/* emit.h: what the writers of kernels share. A writer takes one step: kernel_begin, parameters and body, then
 * kernel_finish, for each launch of the step. */
#ifndef GPTC_CUDA_EMIT_H
#define GPTC_CUDA_EMIT_H

#include "codegen/cuda/cuda.h"
#include "codegen/cuda/fuse.h"

/* Rows that lie in the scratch memory, rounded to 16 bits for matrix units; type NULL: none. */
typedef struct {
    uint64_t value; /* the buffer that they are rounded of */
    uint32_t width;
    const char *type;
} Rounded;

typedef struct {
    Graph *g;
    const Program *p;
    CudaProgram *out;
    Arena *arena;
    Diag *diag;
    uint32_t step;
    const ArtStep *s;
    uint32_t when; /* of the step's launches: ART_ROWS_ANY, or ART_ROWS_MANY of a step that is in a group */
    bool halves;   /* activations of products may be rounded to 16 bits */
    Rounded rounded;
    /* the kernel being written */
    Text params, body;
    ArtCudaLaunch launch;
    uint32_t shared_bytes; /* asked for at the launch */
    uint32_t resident;     /* blocks that a multiprocessor is to hold, which bounds registers; 0: unsaid */
} Emit;

/* ---- emit.c ---- */
/* Adds kernel texts to the source; what no kernel of the program can call is left out. */
void emit_texts(Emit *e, const CudaText *t);
/* The prelude's name for an element of a tensor argument. */
const char *emit_type(const Emit *e, const ArtArg *a);
/* The form of kernels/weights.cu that a tensor is stored in: "Panels<half>". */
const char *emit_form(const Emit *e, const ArtArg *a);
/* A float as CUDA reads it back to the bit. */
const char *emit_literal(const Emit *e, float f);
/* Threads of a block that has `work` elements to do. */
uint32_t emit_threads(uint64_t work);
/* Heads that a block takes of the group that shares a key head: the largest divisor up to 4. */
uint32_t emit_attention_heads(uint32_t group);

/* ---- emit_cache.c ---- */
/* The prelude's name for a number of a state; the state that a store writes; whether one is in 8 bits. */
const char *emit_kept(const ArtState *s);
const ArtState *emit_state(const Emit *e, uint32_t store);
bool emit_has_int8(const Program *p);
/* Floats of a row of the scratch memory that lie there before what a product of the group leaves for its state in 8 bits;
 * product g->n: all. */
uint32_t emit_fresh(const Emit *e, const Fused *g, uint32_t product);
/* The launch that takes them to the cache. */
void write_fresh(Emit *e, const Fused *g);

/* How many rows of a sequence attend: in float, on matrix units where activations may be rounded to 16 bits and shapes are
 * such that these can, or (any rows) with rounded scores. */
typedef enum { ATTENTION_TILES, ATTENTION_MATRIX, ATTENTION_ROUNDED } AttentionForm;
AttentionForm emit_attention_form(const Emit *e, const ArtAttention *u);

/* v = act(v), a line; the kernel's name's part for it. */
void emit_activation(Text *t, uint32_t act, const char *v, const char *indent);
const char *emit_activation_name(uint32_t act);

/* Of a product, name(row, n, sum): its epilogue as a function of the body; and all its parameters but x. */
void emit_epilogue(Emit *e, const char *name);
void emit_operands(Emit *e);

void kernel_begin(Emit *e);
/* Adds a parameter and its argument (ART_CUDA_...). */
void kernel_param(Emit *e, const char *type, const char *name, uint32_t kind, uint64_t value);
void kernel_read(Emit *e, const char *name, const ArtArg *a); /* an operand of the step; null when left out */
void kernel_write(Emit *e, const char *name, const ArtArg *a); /* rows */
/* Names the kernel and adds its launch; a kernel of the same text is used again. what: for the comment; bytes,
 * ops: expected of one row. */
void kernel_finish(Emit *e, const char *name, uint32_t threads, const char *what, double bytes, double ops);

/* ---- emit_pointwise.c: the instructions of a pointwise step ---- */
/* The text of a LOAD's value. */
typedef const char *(*PointwiseLoad)(void *user, const Emit *e, const ArtInsn *n);
/* Which element of its argument a LOAD reads for element i of `width`. */
const char *pointwise_index(const Emit *e, const ArtInsn *n, uint32_t width);
/* `const float v0 = …;` for each; gives the number of the one to be stored. */
uint32_t pointwise_insns(const Emit *e, Text *t, const char *indent, PointwiseLoad load, void *user);

/* ---- the writers, one for each kind of step; false with the diag set ---- */
void write_products(Emit *e, const Fused *g); /* emit_products.c */
bool write_linear(Emit *e);                   /* emit_linear.c */
/* emit_gemm.c: on matrix units; false when nothing was written, as there is no such kernel. The other goes after
 * each step. */
bool write_gemm(Emit *e);
void rounded_forget(Emit *e);
bool write_attention(Emit *e); /* emit_attention.c */
bool write_pointwise(Emit *e); /* emit_pointwise.c */
bool write_gather(Emit *e);    /* emit_rows.c, and those below */
bool write_norm(Emit *e);
bool write_rope(Emit *e);
bool write_store(Emit *e);  /* emit_cache.c */
bool write_reduce(Emit *e); /* softmax too */
bool write_move(Emit *e);
bool write_topk(Emit *e); /* emit_experts.c */
bool write_pick(Emit *e);
bool write_routed(Emit *e);

#endif
