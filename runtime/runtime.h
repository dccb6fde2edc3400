/* runtime.h: what the files of the runtime share; gptc.h is the public side.
 *
 *   load.c     maps a file, checks header, sections, META, TENSORS    plan.c   checks the PLAN
 *   session.c  reserves memory, takes tokens   launch.c   steps as launches   step.c   runs rows through launches
 *   probe.c    for the compiler's measuring: weights that may be written, runs that stop between steps (probe.h)
 *   sample.c   picks a token      generate.c   text and generation    status.c errors in words
 *   function_check.c  checks a FUNCTION    function_plan.c  shapes, memory    function.c  runs one (nd.h: its ops)
 *   history.c  sessions of a GPT without cache: token histories run through a function
 *
 * All checks are made at load; step.c trusts the model, and function.c but for shapes and indices. */
#ifndef RUNTIME_RUNTIME_H
#define RUNTIME_RUNTIME_H

#include "runtime/artifact.h"
#include "runtime/cpu/cpu.h"
#include "runtime/gptc.h"
#include "runtime/nd.h"
#include "runtime/sample.h"
#include "runtime/threads.h"
#include "runtime/tokenizer.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define RUNTIME_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#else
#define RUNTIME_PRINTF(fmt, first)
#endif

/* Bounds on what a file or a caller may ask for; they keep 32-bit products of shapes from wrapping. */
enum {
    LIMIT_VOCAB = 1 << 24,
    LIMIT_CONTEXT = ART_MAX_CONTEXT,
    LIMIT_WIDTH = 1 << 26,  /* floats of one activation row */
    LIMIT_PLACES = 1 << 24, /* that a float can name */
    LIMIT_HEADS = 1 << 16,
    LIMIT_HEAD_DIM = 1 << 10,
    LIMIT_STEPS = 1000000,
    LIMIT_INSNS = 1 << 24,
    LIMIT_PROGRAM = 1 << 12, /* instructions of one pointwise step */
    LIMIT_STATES = 1 << 16,
    LIMIT_LIVE = 1 << 10, /* buffers alive at once */
    LIMIT_SEQUENCES = 1 << 16,
    LIMIT_CHUNK = 1 << 16,
    LIMIT_THREADS = 1 << 10,
    LIMIT_FUNCTION = 1 << 22, /* nodes, values, … of a function */
};
#define LIMIT_ROW_BYTES ((uint64_t)1 << 32)

/* The tables of a FUNCTION. */
typedef struct {
    const ArtFunction *head; /* NULL: the model has a PLAN */
    const ArtTerm *terms;
    const ArtDim *dims;
    const ArtNode *nodes;
    const ArtValue *values;
    const uint32_t *operands, *inputs, *outputs, *symbols;
} Function;

struct gptc_model {
    void *map; /* the file */
    size_t map_bytes;
    void *tables; /* META, TENSORS and PLAN or FUNCTION, copied: the file may change under a map */
    const ArtMeta *meta;
    const char *text; /* meta->text_bytes bytes, the last one NUL */
    const ArtTensor *tensors;
    uint32_t n_tensors;
    const uint8_t *weights; /* in map */
    uint64_t weight_bytes;
    const ArtPlan *plan; /* NULL: the model has a FUNCTION */
    const ArtState *states;
    const ArtStep *steps;
    const ArtInsn *insns;
    Function function;
    const CpuKernels *kernels;
    Tokenizer *tokenizer; /* NULL = none */
    const void *cuda;     /* KERNELS, in map; NULL = none. Checked when a session wants it */
    uint64_t cuda_bytes;
    struct CudaModel *on_device; /* made for the first session on a GPU */
    pthread_mutex_t device_lock; /* of on_device */
};

/* status.c: sets why (may be NULL) and returns s. */
gptc_status status_fail(gptc_detail *why, gptc_status s, const char *fmt, ...) RUNTIME_PRINTF(3, 4);

/* status.c: copies options, which begin with their struct_size (0 = bytes); from may be NULL. What an older
 * caller's struct lacks stays as it is in `to`; what a newer one's has more is left out. */
void options_read(void *to, size_t bytes, const void *from);

/* status.c: the other way: fills a caller's struct as far as its struct_size says, and keeps that. */
void info_write(void *to, const void *from, size_t bytes);

/* xxhash.c: xxHash64. */
uint64_t xxhash64(const void *data, size_t bytes, uint64_t seed);

/* plan.c: META and TENSORS are checked before. GPTC_E_FORMAT names step and argument. */
gptc_status plan_check(const gptc_model *m, gptc_detail *why);
/* Inputs a kernel takes; its output is the argument after them. kernel < ART_K_COUNT. */
uint32_t plan_inputs(uint32_t kernel);
/* Elements of a checked tensor (not counting padding). */
uint64_t plan_elements(const ArtTensor *t);
/* function_check.c: sets m->function from a FUNCTION section of so many bytes and checks all of it. META and
 * TENSORS are checked before. GPTC_E_FORMAT names the value or node. */
gptc_status function_check(gptc_model *m, const void *section, uint64_t bytes, gptc_detail *why);
/* The dtype and rank of a value, no dimensions and no data. */
NdTensor function_value(const gptc_model *m, uint32_t value);
/* The symbol that a dimension is, or ART_NO_INDEX. */
uint32_t function_symbol(const Function *g, uint32_t dim);

/* Where a value lies: `bytes` into what its root is, itself or the value that it is a view of. */
typedef struct {
    uint32_t root, last; /* last: the node that reads it last; n_nodes: an output */
    uint64_t offset;
} Place;

struct gptc_function {
    const gptc_model *model;
    Pool *pool;
    uint8_t *local;           /* CPU_LOCAL_BYTES of each worker */
    NdTensor *values;         /* n_values */
    const NdTensor **operand; /* n_operands: of nodes; NULL = left out */
    Place *places;            /* n_values; of results and roots, the offset is in block */
    uint64_t *scratch;        /* n_nodes: offset in block */
    uint64_t *copies;    /* n_outputs: offset in block of an output that lies in an input; else NOWHERE */
    int64_t *dims;       /* n_dims: their values */
    gptc_tensor *shapes; /* n_inputs: what all of this was planned for */
    bool planned, ready; /* ready: the outputs hold the last run */
    uint8_t *block;      /* results and scratch; 64-byte aligned */
    uint64_t block_bytes, need;
    gptc_tensor *outputs;
    void *owned[10]; /* what free() takes; [0] is the block's */
};
#define NOWHERE UINT64_MAX

/* function_plan.c: shapes, places and f->need for inputs of these shapes; then the block of so many bytes. */
gptc_status function_plan(gptc_function *f, const gptc_tensor *inputs, gptc_detail *why);
gptc_status function_reserve(gptc_function *f, gptc_detail *why);
/* The node as nd.h takes it. */
NdCall function_call(const gptc_function *f, uint32_t node, gptc_detail *why);

/* A step with its pointers resolved; rows are set before each run. */
typedef struct {
    uint32_t kernel;
    bool alone; /* of one row, not worth sharing among workers */
    union {
        CpuGather gather;
        CpuNorm norm;
        CpuLinear linear;
        CpuRope rope;
        CpuStore store;
        CpuAttention attention;
        CpuPointwise pointwise;
        CpuReduce reduce;
        CpuMove move;
        CpuTopk topk;
        CpuPick pick;
        CpuRouted routed;
    } u;
} Launch;

/* The rows of one run: token, position and sequence of each. */
typedef struct {
    int32_t *tokens, *positions, *sequences;
} RowInfo;

typedef struct {
    int32_t length;
    bool has_logits;
} Sequence;

struct gptc_session {
    gptc_model *model;
    Pool *pool;
    uint32_t context, n_sequences, chunk;
    Sequence *sequences;
    Launch *launches; /* model->plan->n_steps */
    CpuState *states;
    size_t *state_bytes;       /* of one sequence */
    uint8_t *cache;            /* all states; 64-byte aligned, as the next */
    uint8_t *rows;             /* activations: row_bytes x chunk */
    float *logits;             /* n_sequences x vocab */
    uint8_t *local, *shared;   /* scratch of the kernels */
    RowInfo body, head;        /* head: the rows whose logits are wanted */
    uint32_t *wanted;          /* their index in body, rising */
    uint32_t n_rows, n_wanted; /* of the run that step_rows set up */
    void *blocks[8];           /* what free() takes */
    uint32_t n_blocks;
    uint64_t cache_bytes, rows_computed;
    gptc_function *function;  /* of a GPT without cache; then states, launches and rows are not there */
    int32_t *history;         /* n_sequences x context tokens */
    int64_t *wide;            /* one sequence's tokens as i64 */
    float *rounded;           /* logits on their way: chunk or n_sequences x vocab */
    struct CudaSession *cuda; /* on a GPU; then states, launches and rows are not here */
};

/* Whether a token ends the text. */
static inline bool model_stops(const gptc_model *m, int32_t id) {
    for (uint32_t i = 0; i < m->meta->n_stop_tokens; i++)
        if (m->meta->stop_tokens[i] == id) return true;
    return false;
}

/* session.c: as gptc_step_sequences; with asked, of each row, next is what is drawn after it, -1: nothing can be. That is
 * for up to session_most_drawn rows, 0 where the CPU draws. */
gptc_status session_step(gptc_session *s, const int32_t *sequences, const int32_t *tokens, int32_t n,
                         const SampleOptions *asked, int32_t *next);
int32_t session_most_drawn(const gptc_session *s);
/* Tokens that a call may append without coming back (CUDA_AHEAD on a GPU, else 1), and such a call: token and what follows
 * it, at most `most`; see cuda_ahead. */
uint32_t session_most_ahead(const gptc_session *s);
gptc_status session_ahead(gptc_session *s, int32_t sequence, int32_t token, uint32_t most,
                          const SampleOptions *sampling, int (*fn)(void *user, int32_t next), void *user,
                          uint32_t *done);

/* session.c: memory this process could still take. */
uint64_t memory_available(void);

/* history.c: what session.c does for a session whose model is a function; arguments are checked. */
static inline int32_t *history_of(const gptc_session *s, int32_t sequence) {
    return s->history + (size_t)sequence * s->context;
}
gptc_status history_init(gptc_session *s, uint32_t threads, gptc_detail *why);
gptc_status history_prefill(gptc_session *s, int32_t sequence, const int32_t *tokens, size_t n,
                            gptc_logits_mode mode, gptc_logits_fn fn, void *user);
gptc_status history_step(gptc_session *s, const int32_t *sequences, const int32_t *tokens, int32_t n);

/* step.c: runs n rows of s->body; the logits of rows s->wanted[0..n_wanted) are at step_logits after. Only a GPU
 * fails. */
gptc_status step_run(gptc_session *s, uint32_t n, uint32_t n_wanted);
/* The same on the CPU in parts: sets the rows up, then runs the steps first .. end - 1. */
void step_rows(gptc_session *s, uint32_t n, uint32_t n_wanted);
void step_range(gptc_session *s, uint32_t first, uint32_t end);
bool step_alone(const Launch *l);
/* launch.c: step `index` as the session runs it; its memory is reserved. */
void launch_resolve(const gptc_session *s, uint32_t index, Launch *l);
const float *step_logits(const gptc_session *s);

#endif
