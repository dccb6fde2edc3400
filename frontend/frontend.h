/* frontend.h: bytes to Graph. An ONNX file is untrusted: everything is checked before use. */
#ifndef GPTC_FRONTEND_H
#define GPTC_FRONTEND_H

#include "ir/ir.h"

/* What the user may say about inputs and outputs; NULL = inferred from how a value is used. */
typedef struct {
    const char *name;
    Tensor value;
} BoundInput;
typedef struct {
    const char *input_ids, *positions, *mask, *logits;
    const BoundInput *bound; /* inputs that are constants in this compile (a shape, an axis); their data */
    size_t nbound;           /* is copied, and they are no inputs of the graph */
} ImportOptions;

/* One imported model. The graph borrows the mapped files, so close it after the graph's last use. */
typedef struct {
    Graph *graph;              /* stage imported; in `arena` */
    FileView model;            /* model.onnx */
    VEC(FileView) external;    /* external data files, mapped */
    const char *producer;      /* may be NULL */
    int64_t opset;             /* of the default domain */
    uint32_t nnodes;           /* ONNX nodes, after inlining */
    uint64_t file_hash;        /* of model.onnx's bytes */
    VEC(const char *) reasons; /* why each of the graph's inputs has its role, in words */
} OnnxModel;

/* import.c: reads, checks and lowers. All unsupported nodes are reported at once. False with the
 * diag set; out is then empty and needs no close. */
bool onnx_import(const char *path, const ImportOptions *opt, Arena *a, OnnxModel *out, Diag *d);
/* The same from memory (fuzzing, tests); dir is where external data is looked up, NULL refuses it. */
bool onnx_import_bytes(const uint8_t *data, size_t bytes, const char *dir, const ImportOptions *opt, Arena *a,
                       OnnxModel *out, Diag *d);
void onnx_close(OnnxModel *m);

/* summary.c: what a file holds, whether it can be imported or not. Strings live in `a`. */
typedef struct {
    const char *domain; /* "" = ai.onnx */
    int64_t version;
} OnnxOpset;
typedef struct {
    const char *domain, *op;
    int64_t version; /* opset of the domain */
    uint32_t count;
    bool function;    /* defined by the model itself */
    const char *hint; /* not NULL: not supported, and what to do */
} OnnxOp;
typedef struct {
    const char *type; /* of elements */
    uint32_t tensors;
    uint64_t elements, bytes, external; /* external: bytes outside the model file */
} OnnxWeights;
typedef struct {
    const char *producer;
    uint64_t file_bytes;
    uint32_t nodes, functions; /* nodes: with those of functions and branches */
    VEC(OnnxOpset) opsets;
    VEC(OnnxOp) ops; /* unsupported ones first, then by count */
    VEC(OnnxWeights) weights;
    VEC(const char *) files; /* of external data */
} OnnxSummary;
bool onnx_summary(const char *path, Arena *a, OnnxSummary *out, Diag *d);

/* onnx_tensor.c: a TensorProto file (tokens.pb, logits.pb) into an arena tensor, and back. */
bool onnx_tensor_read(const char *path, Arena *a, Tensor *out, Diag *d);
bool onnx_tensor_write(const char *path, const Tensor *t, const char *name, Diag *d);

#endif
