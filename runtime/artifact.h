/* artifact.h: model.bin, the one format that compiler and runtime share. Little-endian, fixed-width,
 * offsets and not pointers. The loader checks every number before use; docs/artifact.md is the prose.
 *
 *   ArtHeader | ArtSection[n] | sections, each 64-byte aligned (WEIGHTS: 4096)
 *
 * Unknown sections are skipped, unknown major versions refused. */
/* Laid out by hand: the tables are the format. */
/* clang-format off */
#ifndef GPTC_ARTIFACT_H
#define GPTC_ARTIFACT_H

#include <stdint.h>

#define ART_MAGIC "gptcbin\n"           /* 8 bytes, no NUL */
#define ART_MAJOR 1
#define ART_MINOR 0

typedef struct {
    char magic[8];
    uint16_t major, minor;
    uint32_t n_sections;                /* <= 64 */
    uint64_t file_bytes;
    uint64_t table_hash;                /* xxHash64 of the ArtSection array, seed 0 */
    uint8_t reserved[32];
} ArtHeader;                            /* 64 bytes */

enum { ART_META = 1, ART_TENSORS, ART_WEIGHTS, ART_PLAN, ART_TOKENIZER, ART_PROVENANCE, ART_KERNELS, ART_REPORT,
       ART_IR /* the planned graph as .gir text */, ART_FUNCTION /* instead of PLAN */ };
typedef struct {
    uint32_t kind, flags;
    uint64_t offset, bytes;
    uint64_t hash;                      /* xxHash64 of the bytes, seed = kind */
} ArtSection;                           /* 32 bytes */

#define ART_MAX_CONTEXT (1 << 24)       /* tokens */

/* META: ArtMeta, then n_strings pairs of NUL-terminated strings (key, value) in text_bytes bytes. */
typedef struct {
    uint32_t vocab, context, layers, has_cache;
    uint64_t state_bytes_per_token;
    int32_t stop_tokens[8];
    uint32_t n_stop_tokens;
    int32_t bos_token;                  /* -1 = none */
    uint32_t n_strings, text_bytes;
} ArtMeta;                              /* 72 bytes */

/* TENSORS: ArtTensor[bytes / sizeof]. Data lies in WEIGHTS at offset (64-byte aligned). */
enum { ART_F32 = 1, ART_F16, ART_BF16, ART_I64, ART_F64, ART_BOOL, ART_I8, ART_U8, ART_I16, ART_U16, ART_I32, ART_U32,
       ART_U64, ART_U4, ART_U2 /* packed as codes of GROUP16, else an element a byte, as the next two */, ART_I4, ART_I2,
       ART_F8E4M3FN, ART_F8E4M3FNUZ, ART_F8E5M2, ART_F8E5M2FNUZ /* as ONNX defines them */,
       ART_U3, ART_U5, ART_U6 /* codes of GROUP16 alone */, ART_DTYPE_COUNT };
enum {
    ART_PLAIN = 1,                      /* row-major dim[0] x dim[1] x … */
    ART_PANEL16,                        /* a matrix of rows x cols in panels of 16 rows: [rows/16][cols][16],
                                           rows padded with zeros. dim[0] = rows (outputs), dim[1] = cols.
                                           Of rank 3: dim[0] such matrices, one after the other */
    ART_GROUP16,                        /* a matrix of compressed weights, value = (grid[code] - zero) * scale: the grid where
                                           one is stored, then panels of 16 rows. A panel: 16 fp16 scales of its rows
                                           where scales are codes, then ceil(cols/group) blocks. A block: 16 scales, 16
                                           zero points where they are stored, then its columns' codes in units of rows
                                           of 16 bytes, one byte a row of the matrix. dtype is the codes' (U2 to U8,
                                           F8E4M3FN); what pads rows has scale 0, what pads columns code 0. See
                                           artifact_groups.h and docs/artifact.md */
};
enum { ART_ZERO_SAME /* one for all, in flags */, ART_ZERO_BYTE, ART_ZERO_FLOAT, ART_ZERO_HIGH /* 2 bits above a U6 scale */,
       ART_ZERO_COUNT };
enum { ART_GRID_LINEAR /* the code itself */, ART_GRID_INT8 /* 2^bits int8, padded to 64 bytes */,
       ART_GRID_PAIRS /* 256 x 2 fp16 */, ART_GRID_QUADS = 4 /* 256 x 4 fp16 */, ART_GRID_F8 = 8 /* codes are F8E4M3FN, no NaN */ };
typedef struct {
    uint32_t dtype, layout;
    uint32_t rank;
    uint32_t flags;                     /* GROUP16: scales' dtype (F32, F16, BF16; U8, U6: codes, times an fp16
                                           of the row) | ART_ZERO_ << 8 | the zero point of all << 16 | ART_GRID_ << 24 */
    uint64_t dim[4];
    uint64_t offset, bytes;             /* in WEIGHTS */
    uint32_t name_offset;               /* into META's text, 0xffffffff = none */
    uint32_t group;                     /* GROUP16: columns that share a scale; whole units */
} ArtTensor;                            /* 72 bytes */

/* PLAN: ArtPlan, then states, steps, instructions.
 *
 * A program works on rows: one row is one token of one sequence, with its position and its sequence's
 * cache. Every activation is rows x width floats. Rows are independent of each other but for attention,
 * which reads the cache of the row's own sequence, positions 0..position. That is what the cache proof
 * of the compiler guarantees, so one program serves prefill (many rows of a sequence), decode (one row of
 * many sequences) and any mixture. */
typedef struct {
    uint32_t n_states, n_steps, n_insns;
    uint32_t head_step;                 /* steps from here on run only on rows whose logits are wanted: */
    uint64_t head_offset, head_width;   /* the one buffer alive there (row offset, floats), compacted first */
    uint64_t row_bytes;                 /* activations of one row; a buffer at offset o of a session with R
                                           rows lies at o * R */
    uint64_t logits_offset;             /* the logits buffer (row offset) */
} ArtPlan;                              /* 48 bytes */

enum {                                  /* how a token's numbers of a head are kept: */
    ART_STATE_F32,
    ART_STATE_INT8,                     /* x about code * step, step a fp16, the head's largest magnitude / 127 */
    ART_STATE_COUNT
};
typedef struct {                        /* one cached tensor: heads x dim numbers a token */
    uint32_t heads;
    uint16_t dim, kept;                 /* kept: ART_STATE_ */
    uint32_t window;                    /* 0 = all; else only the last `window` positions are ever read */
    uint32_t name_offset;
} ArtState;                             /* 16 bytes */

enum {
    ART_ARG_NONE,
    ART_ARG_ROWS,                       /* value = row offset (multiple of 64), width = floats a row */
    ART_ARG_TENSOR,                     /* value = index into TENSORS */
    ART_ARG_STATE,                      /* value = index into states */
    ART_ARG_TOKENS,                     /* the rows' token ids */
    ART_ARG_POSITIONS,                  /* the rows' positions */
};
typedef struct { uint32_t kind, width; uint64_t value; } ArtArg;   /* 16 bytes */

/* KERNEL(enum, text, inputs, meaning). Arguments are inputs, then one output. Optional inputs are NONE. */
#define ART_KERNEL_LIST(KERNEL) \
    KERNEL(GATHER, "gather", 2, "out[width] = table row picked by tokens or positions (table in any layout)") \
    KERNEL(NORM, "norm", 3, "x, gamma?, beta?: norm over the last of groups x width") \
    KERNEL(LINEAR, "linear", 5, "x, w (PANEL16 or GROUP16), bias?, gate?, residual?: act(x w + bias) * gate + residual") \
    KERNEL(ROPE, "rope", 3, "x, cos, sin (PLAIN tables, row = position): rotates heads x dim") \
    KERNEL(STORE, "store", 2, "x, state: writes heads x dim floats at the row's position") \
    KERNEL(ATTENTION, "attention", 5, "q, k state, v state, slopes?, sinks?: causal attention over the row's sequence") \
    KERNEL(POINTWISE, "pointwise", 6, "up to 6 inputs: a program of ArtInsn over width floats") \
    KERNEL(REDUCE, "reduce", 1, "x as outer x len x inner: reduced over len") \
    KERNEL(SOFTMAX, "softmax", 1, "x as outer x len x inner: softmax over len") \
    KERNEL(MOVE, "move", 1, "strided copy inside a row, 4 axes; the output keeps what it does not write") \
    KERNEL(TOPK, "topk", 1, "x as outer x len: the places of the count largest, as floats, the largest and first ones first") \
    KERNEL(PICK, "pick", 2, "x (rows, or a PLAIN table) as outer x len x inner, index: out[o][c] = x[o][index[o][c]]") \
    KERNEL(ROUTED, "routed", 5, "x, index, w (experts of PANEL16, or GROUP16 of all their rows), bias?, gate?: act(x w[expert] + bias[expert]) * gate for each slot")
enum {
#define ART_KERNEL(e, text, nin, doc) ART_K_##e,
    ART_KERNEL_LIST(ART_KERNEL)
#undef ART_KERNEL
    ART_K_COUNT
};
#define ART_MAX_ARGS 7

enum { ART_ACT_NONE, ART_ACT_RELU, ART_ACT_GELU_ERF, ART_ACT_GELU_TANH, ART_ACT_SILU, ART_ACT_TANH, ART_ACT_SIGMOID, ART_ACT_COUNT };
enum { ART_RED_SUM, ART_RED_MEAN, ART_RED_MAX, ART_RED_MIN, ART_RED_PROD, ART_RED_COUNT };

typedef struct { uint32_t width; } ArtGather;
typedef struct { uint32_t groups, width, rms; float eps; } ArtNorm;
typedef struct { uint32_t k, n, act, round; } ArtLinear; /* round: columns of x rounded to 8 bits together; 0 = off */
typedef struct { uint32_t heads, dim, rotated, interleaved; } ArtRope;   /* tables have rotated/2 columns */
typedef struct { uint32_t heads, dim; } ArtStore;
typedef struct {
    uint32_t heads, kv_heads, dim, vdim;
    float scale, softcap;               /* softcap 0 = off */
    uint32_t window;                    /* 0 = all; W = the last W positions, the row's own included */
    float rounding[2][3];               /* of scaled scores and of weights: step, low, high; step 0 = off */
} ArtAttention;
typedef struct { uint32_t first, count, width; } ArtPointwise;           /* ArtInsn range */
typedef struct { uint32_t op, outer, len, inner; } ArtReduce;            /* also SOFTMAX (op unused) */
typedef struct { uint32_t outer, len, count, smallest; } ArtTopk;
typedef struct { uint32_t outer, len, inner, count; } ArtPick;           /* of a table: outer repeats it */
typedef struct { uint32_t experts, slots, k, n, act, shared; } ArtRouted; /* shared: x is k floats, else slots x k */
typedef struct { uint32_t count[4], src_stride[4], dst_stride[4], src_offset, dst_offset; } ArtMove;

typedef struct {
    uint32_t kernel, region;
    ArtArg arg[ART_MAX_ARGS];           /* inputs at their places, the output last used: arg[inputs] */
    union {
        ArtGather gather; ArtNorm norm; ArtLinear linear; ArtRope rope; ArtStore store;
        ArtAttention attention; ArtPointwise pointwise; ArtReduce reduce; ArtMove move;
        ArtTopk topk; ArtPick pick; ArtRouted routed;
        uint32_t words[16];
    } u;
} ArtStep;                              /* 184 bytes */

/* A pointwise program runs over tiles of a row with 16 float registers. LOAD reads element
 * (f / div) % mod of argument a for output element f, so that rows, per-head scalars and feature vectors
 * all broadcast. STORE ends the program: register a is the output. */
#define ART_INSN_LIST(INSN) \
    INSN(LOAD, 0) INSN(CONST, 0) INSN(STORE, 1) \
    INSN(NEG, 1) INSN(ABS, 1) INSN(SIGN, 1) INSN(EXP, 1) INSN(LOG, 1) INSN(SQRT, 1) INSN(RECIP, 1) INSN(SIN, 1) \
    INSN(COS, 1) INSN(TANH, 1) INSN(SIGMOID, 1) INSN(ERF, 1) INSN(RELU, 1) INSN(SOFTPLUS, 1) INSN(FLOOR, 1) \
    INSN(CEIL, 1) INSN(ROUND, 1) INSN(GELU_ERF, 1) INSN(GELU_TANH, 1) INSN(SILU, 1) INSN(ISNAN, 1) INSN(ISINF, 1) \
    INSN(NOT, 1) INSN(ADD, 2) INSN(SUB, 2) INSN(MUL, 2) INSN(DIV, 2) INSN(MOD, 2) INSN(POW, 2) INSN(MIN, 2) INSN(MAX, 2) \
    INSN(AND, 2) INSN(OR, 2) INSN(XOR, 2) INSN(EQ, 2) INSN(LT, 2) INSN(LE, 2) INSN(WHERE, 3)
enum {
#define ART_INSN(e, n) ART_I_##e,
    ART_INSN_LIST(ART_INSN)
#undef ART_INSN
    ART_I_COUNT
};
#define ART_REGISTERS 16
typedef struct {
    uint8_t op, dst, a, b, c, pad[3];
    float imm;                          /* CONST; SILU: alpha */
    uint32_t div, mod;                  /* LOAD */
} ArtInsn;                              /* 20 bytes */

/* FUNCTION: a graph run as it is, over tensors of any shape and dtype: one that is no GPT, or whose cache could not be
 * proven. The ops are those of the compiler's ir/ops.def, with the meaning given there. Dimensions are polynomials
 * over symbols, which the shapes of the inputs bind at each run.
 *
 * ArtFunction, then terms, dims, nodes, values, and as uint32_t: operands, inputs, outputs (value numbers), the
 * symbols' names (offsets into META's text). Nodes are in running order; a value is an input, a tensor, or the result of one
 * node that comes before its readers.
 *
 * A linear's weight (operand 1) is always a PANEL16 tensor of f32, f16 or bf16 whatever the value's dtype; the value has
 * its shape, [outputs, inputs]. Tensors of rank above 4 are stored as rank 1. META of a function that is no GPT has
 * vocab, context and layers 0. A symbol that no input's shape binds is 0. */
#define ART_MAX_RANK 8
#define ART_MAX_SYMBOLS 8
#define ART_NO_INDEX 0xffffffffu
typedef struct {
    uint32_t n_terms, n_dims, n_nodes, n_values, n_operands, n_inputs, n_outputs, n_symbols;
    uint32_t tokens, logits;            /* of a GPT without cache: its input and output ports, tokens [batch, seq] and
                                           logits [batch, seq, vocab]; else ART_NO_INDEX */
    uint32_t flags, reserved;
} ArtFunction;                          /* 48 bytes */
typedef struct { int64_t factor; uint8_t power[ART_MAX_SYMBOLS]; } ArtTerm;  /* factor * product of symbol ^ power */
typedef struct { uint32_t first, count; } ArtDim;                            /* a sum of terms; no terms: 0 */
typedef struct {
    uint32_t kind, dtype, rank, tensor; /* tensor: of ART_V_TENSOR, a PLAIN one of the same dtype and element count,
                                           or, as the weight of a linear, a PANEL16 */
    uint32_t dim[ART_MAX_RANK];         /* into dims */
    uint32_t name_offset, reserved;     /* of ports: into META's text; else ART_NO_INDEX */
} ArtValue;                             /* 56 bytes */
enum { ART_V_INPUT, ART_V_TENSOR, ART_V_RESULT };
/* FUNCTION_OP(enum, least inputs, most, outputs): the ops of ops.def of that name. */
#define ART_FUNCTION_OP_LIST(FOP) \
    FOP(NEG, 1, 1, 1) FOP(ABS, 1, 1, 1) FOP(SIGN, 1, 1, 1) FOP(EXP, 1, 1, 1) FOP(LOG, 1, 1, 1) FOP(SQRT, 1, 1, 1) \
    FOP(RECIP, 1, 1, 1) FOP(SIN, 1, 1, 1) FOP(COS, 1, 1, 1) FOP(TANH, 1, 1, 1) FOP(SIGMOID, 1, 1, 1) FOP(ERF, 1, 1, 1) \
    FOP(RELU, 1, 1, 1) FOP(SOFTPLUS, 1, 1, 1) FOP(FLOOR, 1, 1, 1) FOP(CEIL, 1, 1, 1) FOP(ROUND, 1, 1, 1) \
    FOP(NOT, 1, 1, 1) FOP(ISNAN, 1, 1, 1) FOP(ISINF, 1, 1, 1) FOP(CAST, 1, 1, 1) FOP(GELU, 1, 1, 1) FOP(SILU, 1, 1, 1) \
    FOP(ADD, 2, 2, 1) FOP(SUB, 2, 2, 1) FOP(MUL, 2, 2, 1) FOP(DIV, 2, 2, 1) FOP(MOD, 2, 2, 1) FOP(POW, 2, 2, 1) \
    FOP(MIN, 2, 2, 1) FOP(MAX, 2, 2, 1) FOP(AND, 2, 2, 1) FOP(OR, 2, 2, 1) FOP(XOR, 2, 2, 1) FOP(EQ, 2, 2, 1) \
    FOP(LT, 2, 2, 1) FOP(LE, 2, 2, 1) FOP(WHERE, 3, 3, 1) FOP(IOTA, 0, 0, 1) FOP(DIM, 0, 0, 1) FOP(RESHAPE, 1, 1, 1) \
    FOP(TRANSPOSE, 1, 1, 1) FOP(BROADCAST, 1, 1, 1) FOP(SLICE, 1, 1, 1) FOP(CONCAT, 1, 255, 1) FOP(PAD, 2, 2, 1) \
    FOP(GATHER, 2, 2, 1) FOP(GATHER_ND, 2, 2, 1) FOP(GATHER_ELEMENTS, 2, 2, 1) FOP(SCATTER_ND, 3, 3, 1) \
    FOP(SCATTER_ELEMENTS, 3, 3, 1) FOP(TRIL, 1, 1, 1) FOP(TRIU, 1, 1, 1) FOP(REDUCE_SUM, 1, 1, 1) FOP(REDUCE_MEAN, 1, 1, 1) \
    FOP(REDUCE_MAX, 1, 1, 1) FOP(REDUCE_MIN, 1, 1, 1) FOP(REDUCE_PROD, 1, 1, 1) FOP(ARGMAX, 1, 1, 1) FOP(ARGMIN, 1, 1, 1) \
    FOP(CUMSUM, 1, 1, 1) FOP(SOFTMAX, 1, 1, 1) FOP(TOPK, 1, 1, 2) FOP(MATMUL, 2, 2, 1) FOP(LINEAR, 2, 3, 1) FOP(NORM, 1, 3, 1)
enum {
#define FOP(e, lo, hi, nout) ART_FN_##e,
    ART_FUNCTION_OP_LIST(FOP)
#undef FOP
    ART_FN_COUNT
};
enum { ART_FN_KEEP = 1, ART_FN_LAST = 2, ART_FN_EXCLUSIVE = 4, ART_FN_REVERSE = 8, ART_FN_SMALLEST = 16, ART_FN_RMS = 32,
       ART_FN_TANH_FORM = 64 };
typedef struct {
    uint32_t op, flags, first_operand, n_operands;  /* an operand left out: ART_NO_INDEX */
    uint32_t out[2], axis, axes;        /* values; axes: one bit each */
    uint32_t batch_dims, reduce, value; /* reduce: 0 set 1 add 2 mul 3 max 4 min; value: DIM's, into dims */
    float eps, alpha;
    int32_t diagonal;
    int64_t count;
    uint8_t perm[ART_MAX_RANK];
    uint32_t start[ART_MAX_RANK];       /* into dims */
    int32_t step[ART_MAX_RANK];
} ArtNode;                              /* 136 bytes */

/* KERNELS: the plan's steps as CUDA kernels. ArtCuda, then images, functions, launches, places, then text (the functions'
 * names, NUL-terminated) and the images' bytes, at offsets in the section. A step becomes launches in order; a
 * launch is made when the number of rows is in its range. */
#define ART_CUDA_INTERFACE 0x10002      /* raised when what the runtime hands to `decode` and `draw` changes, or these
                                           tables do; never as small as a number of images, which once stood first */
typedef struct {
    uint32_t interface, draw;           /* ART_CUDA_INTERFACE; the function that draws tokens behind a graph */
    uint32_t n_images, n_functions, n_launches, text_bytes;
    uint64_t scratch_row_bytes;         /* of a row, times the spans that keys are split into */
    uint64_t source_offset, source_bytes;   /* the CUDA text; 0 bytes when it was left out */
    uint32_t decode, n_places;          /* the persistent kernel, a function; ART_NO_INDEX: none */
    uint32_t decode_bytes, decode_first;/* its shared memory before the ring (without one: where in text it says why; 0:
                                           nowhere); whether it is predicted to be faster */
    uint64_t decode_words;              /* of 8 bytes, that its blocks hand values to each other in */
} ArtCuda;                              /* 72 bytes */
typedef struct { uint32_t kind, value; } ArtCudaPlace;  /* ART_CUDA_TENSOR, _STATE or _NUMBER; after the launches */
typedef struct {
    uint32_t arch, kind;                /* 80 = sm_80, … */
    uint64_t offset, bytes;
} ArtCudaImage;                         /* 24 bytes */
enum { ART_IMAGE_CUBIN, ART_IMAGE_PTX };
typedef struct {
    uint32_t name_offset, threads;
    uint32_t registers, shared_bytes, spill_bytes;  /* as the compiler of the first image said */
    uint32_t launch_bytes;              /* of shared memory, asked for at the launch */
    double bytes, ops;                  /* expected of a row: read and written, computed */
} ArtCudaFunction;                      /* 40 bytes */
/* When a launch is made: for 1 row, 2..4, 5..8, 9..64, more; MANY: more than 8. And on which chips: those whose image is
 * sm_90's, which has matrix units of four warps, or others; neither bit: on all. */
enum { ART_ROWS_1 = 1, ART_ROWS_4 = 2, ART_ROWS_8 = 4, ART_ROWS_64 = 8, ART_ROWS_MORE = 16, ART_ROWS_MANY = 24, ART_ROWS_ANY = 31,
       ART_CHIP_90 = 32, ART_CHIP_OTHER = 64, ART_CHIP_ANY = 96 };
/* And only when rows that follow each other are mostly of one sequence (LONG), or not (SHORT; up to 8 rows always). */
enum { ART_RUNS_LONG = 128, ART_RUNS_SHORT = 256 };
enum {
    ART_GRID_ONCE,                      /* blocks x 1 */
    ART_GRID_ROWS,                      /* blocks x rows */
    ART_GRID_TILES,                     /* blocks x rows / 64, rounded up */
    ART_GRID_TILES_128,                 /* blocks x rows / 128, rounded up */
    ART_GRID_STAY,                      /* blocks times rows / 128, rounded up, but no more than run at once, one a
                                           multiprocessor */
    ART_GRID_SPLITS,                    /* blocks * spans x rows */
    ART_GRID_COUNT
};
enum {
    ART_CUDA_NULL,
    ART_CUDA_ROWS, ART_CUDA_TENSOR, ART_CUDA_STATE,             /* value: offset in a row; tensor; state */
    ART_CUDA_TOKENS, ART_CUDA_POSITIONS, ART_CUDA_SEQUENCES,    /* int32 of each row */
    ART_CUDA_SCRATCH,
    ART_CUDA_COUNT, ART_CUDA_CONTEXT, ART_CUDA_SPANS,           /* uint32: rows, positions of the cache, spans */
    ART_CUDA_ARG_KINDS,
    ART_CUDA_NUMBER = ART_CUDA_ARG_KINDS                        /* of places alone: the value itself, below decode_bytes */
};
typedef struct { uint32_t kind, reserved; uint64_t value; } ArtCudaArg;   /* 16 bytes */
#define ART_CUDA_MAX_ARGS 32
typedef struct {
    uint32_t step, function, when, grid, blocks, n_args;
    ArtCudaArg arg[ART_CUDA_MAX_ARGS];
} ArtCudaLaunch;                        /* 536 bytes */

#ifdef __cplusplus
#define ART_ASSERT(c, m) static_assert(c, m)
#else
#define ART_ASSERT(c, m) _Static_assert(c, m)
#endif
ART_ASSERT(sizeof(ArtHeader) == 64, "format");
ART_ASSERT(sizeof(ArtSection) == 32, "format");
ART_ASSERT(sizeof(ArtMeta) == 72, "format");
ART_ASSERT(sizeof(ArtTensor) == 72, "format");
ART_ASSERT(sizeof(ArtPlan) == 48, "format");
ART_ASSERT(sizeof(ArtState) == 16, "format");
ART_ASSERT(sizeof(ArtArg) == 16, "format");
ART_ASSERT(sizeof(ArtStep) == 184, "format");
ART_ASSERT(sizeof(ArtInsn) == 20, "format");
ART_ASSERT(sizeof(ArtFunction) == 48, "format");
ART_ASSERT(sizeof(ArtTerm) == 16, "format");
ART_ASSERT(sizeof(ArtValue) == 56, "format");
ART_ASSERT(sizeof(ArtCuda) == 72, "format");
ART_ASSERT(sizeof(ArtCudaPlace) == 8, "format");
ART_ASSERT(sizeof(ArtCudaImage) == 24, "format");
ART_ASSERT(sizeof(ArtCudaFunction) == 40, "format");
ART_ASSERT(sizeof(ArtCudaLaunch) == 536, "format");
ART_ASSERT(sizeof(ArtNode) == 136, "format");

#include "runtime/artifact_groups.h"

#endif
/* clang-format on */
