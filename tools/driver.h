/* driver.h: the way through the compiler, shared by the tools: open, run passes, lower, write, verify. */
#ifndef GPTC_DRIVER_H
#define GPTC_DRIVER_H

#include "codegen/codegen.h"
#include "frontend/frontend.h"
#include "passes/pass.h"
#include "tools/target.h"

typedef struct {
    Arena *arena;
    Diag diag;
    const char *weights; /* folder of file("…") constants of a .gir; NULL = the text's own */
    OnnxModel onnx;      /* empty for .gir input */
    FileView text;       /* .gir input */
    Graph *graph;        /* what passes change */
    Graph *imported;     /* as imported: the reference of the gate */
    CacheProof proof;
    bool function; /* set by compile_passes: it becomes a function */
} Compile;

void compile_init(Compile *c);
void compile_free(Compile *c);
/* path ends in .gir, or is an ONNX file. */
bool compile_open(Compile *c, const char *path, const ImportOptions *opt);

typedef struct {
    PassOptions pass;
    const char *passes, *disable, *stop_after;
    const char *dump; /* "", "all", "after:P", "before:P"; NULL = none. To dump_dir, else stdout */
    const char *dump_dir;
    bool time, verbose;
    /* Told of every pass; may be NULL. */
    void (*progress)(void *user, uint32_t index, const char *pass, double seconds);
    void *user;
} CompilePasses;
bool compile_passes(Compile *c, const CompilePasses *o);
/* The program or function of the graph after its passes. */
bool compile_lower(Compile *c, int64_t ctx, Program **out);
int64_t compile_context(const Compile *c, int64_t asked);

typedef struct {
    const char *tokenizer; /* tokenizer.json; NULL = the one beside the model, if there */
    const char *flags;     /* for the provenance: options that change the result */
    int64_t eos;           /* -1 = from the files beside the model */
    const char *chat_template;
    bool embed_ir;          /* the planned graph's text goes into the file */
    uint64_t seed;          /* of the gate's tokens */
    const Targets *targets; /* NULL: the CPU alone */
    /* Of a program that a lossy pass changed: its report, and the gate in place of the exact one. NULL: exact. */
    const struct LossyGate *lossy;
} CompileWrite;
/* A program of rows; a GPT without cache; a function that is no GPT. */
typedef enum { COMPILED_ROWS, COMPILED_GPT, COMPILED_FUNCTION } CompiledKind;
typedef struct {
    CompiledKind kind;
    PackStats pack;
    GateReport gate;
    int64_t context;
    uint32_t steps, states; /* of a function: nodes, 0 */
    bool has_tokenizer;
    ArtPlan plan;
    KernelStats kernels;
} CompileResult;
typedef struct LossyGate {
    const char *report; /* REPORT */
    void *self;
    /* The packed file holds what was promised; false with the diag set. */
    bool (*holds)(void *self, const char *artifact, const CompileResult *r, Diag *d);
} LossyGate;
/* Refuses, before any work is lost, an output that this compile reads, and for a model one that cannot be
 * read back. tokenizer may be NULL. After compile_open. */
bool compile_output_check(Compile *c, const char *model_path, const char *tokenizer, const char *out,
                          bool is_model);
/* Packs p beside `out`; the file has its name only once it is committed. NULL with the diag set. */
FileWriter *compile_pack(Compile *c, Program *p, const char *model_path, const char *out,
                         const CompileWrite *o, CompileResult *r);
/* Lowers, packs beside `out`, verifies, and only then renames to `out`. */
bool compile_write(Compile *c, const char *model_path, const char *out, int64_t ctx, const CompileWrite *o,
                   CompileResult *r);

/* What recognised passes counted, for the summary: graph nodes by op. */
uint32_t graph_count_op(const Graph *g, Op op);
uint32_t graph_count_nodes(const Graph *g);

/* Prints the diag's items to stderr; the exit status they mean (0, 1 or 70). */
int diag_report(const char *tool, const Diag *d);

#endif
