/* cuda.h: a Program as CUDA source and the launches that run it.
 *
 * The source is prelude_cuda.h, the parts of kernels/ it uses, and one short kernel a shape: a kernel is named
 * after what it runs and its shape, equal ones are written once, and the layers of a model differ in the
 * arguments of their launches. It names no path, date or address: the same program gives the same bytes. */
#ifndef GPTC_CUDA_H
#define GPTC_CUDA_H

#include "codegen/codegen.h"

typedef struct {
    const char *name;
    uint32_t threads, shared_bytes; /* asked for at the launch */
    const char *body;               /* parameters and text, without the name: equal bodies are one function */
    double bytes, ops; /* of one block row: what a launch at one row is expected to read and compute */
} CudaFunction;
/* The persistent kernel of a step of one row (decode.h). */
typedef struct {
    uint32_t function;    /* UINT32_MAX: there is none, and `unable` says why */
    uint32_t fixed_bytes; /* of a block's shared memory, before the ring */
    uint64_t words;       /* of 8 bytes, between blocks */
    VEC(ArtCudaPlace) places;
    bool first; /* predicted to be faster than a graph */
    const char *unable;
} CudaDecode;
typedef struct {
    Text source;
    VEC(CudaFunction) functions;
    VEC(ArtCudaLaunch) launches;
    uint64_t scratch_row_bytes; /* of a row, times the spans that keys are split into */
    uint32_t draw;              /* the function that draws the next tokens, last in a graph */
    CudaDecode decode;
} CudaProgram;

typedef struct {
    bool halves; /* products of many rows may round activations to 16 bits, for matrix units */
} CudaOptions;

/* emit.c. g names nodes in comments. False with the diag set when a step has no CUDA kernel. */
bool cuda_emit(Graph *g, const Program *p, const CudaOptions *o, Arena *a, CudaProgram *out, Diag *d);

/* Launches of a step of one row, with that which draws its token. */
uint32_t cuda_launches(const CudaProgram *c);

/* kernels.c, made at build time from kernels/. */
typedef struct {
    const char *name, *text;
} CudaText;
/* In the order in which they stand; end with name NULL. The second ones only with a persistent kernel. */
extern const CudaText cuda_texts[], cuda_decode_texts[];

#endif
