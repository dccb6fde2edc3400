/* gptc.h: run a compiled GPT (model.bin) from C99 or C++. The whole public interface.
 *
 *   gptc_model *m;  gptc_session *s;  gptc_detail why;
 *   if (gptc_open("model.bin", NULL, &m, &why)) { fputs(why.text, stderr); return 1; }
 *   gptc_session_new(m, NULL, &s, &why);
 *   gptc_prefill(s, 0, ids, n, GPTC_LOGITS_LAST);           // sequence 0
 *   int32_t next = gptc_sample(s, 0, sampler);              // from its last logits
 *   gptc_step(s, &next, 1);                                 // one token for sequence 0
 *
 * Objects are opaque and freed by the call named beside their constructor. A model is read-only after
 * gptc_open and may be shared by threads; a session belongs to one thread at a time and owns its worker
 * threads. There is no global state; the library never prints, exits or runs code from the file.
 * All memory is reserved by gptc_open and gptc_session_new; prefill, step, rewind, fork, sampling and
 * gptc_generate allocate none (but without a cache, where memory grows with the longest sequence). A call that fails changes nothing. NULL where an object is needed is
 * GPTC_E_ARGUMENT (-1, 0 or NULL where a call returns no status). Callbacks must not use their session.
 * Options are zeroed but for what is set; struct_size = sizeof the struct lets the library grow it, as it does
 * in structs that the library fills in.
 * Text is UTF-8 bytes with lengths; token ids are int32_t. */
#ifndef GPTC_H
#define GPTC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- status ---- numbers are stable; gaps are for later ones */
typedef enum {
    GPTC_OK = 0,
    GPTC_E_ARGUMENT = -1, /* a parameter is out of range, or NULL */
    GPTC_E_MEMORY = -2,
    GPTC_E_IO = -10,      /* cannot open, read or map the file */
    GPTC_E_FORMAT = -11,  /* not a gptc file, or damaged */
    GPTC_E_VERSION = -12, /* made for another major version */
    GPTC_E_CHECKSUM = -13,
    GPTC_E_UNSUPPORTED = -20, /* the file needs what this library or machine lacks */
    GPTC_E_DEVICE = -21,      /* of the GPU or its driver; free the session: how far it got is not known */
    GPTC_E_NO_TOKENIZER = -30,
    GPTC_E_TOKEN = -31,     /* a token id outside the vocabulary */
    GPTC_E_CONTEXT = -32,   /* the sequence would outgrow the session's context */
    GPTC_E_NO_LOGITS = -33, /* none were computed for that position */
    GPTC_E_STOPPED = -40,   /* a callback asked to stop */
    GPTC_E_SHAPE = -50,     /* a tensor's dtype or shape does not fit the function */
    GPTC_E_INDEX = -51      /* an index among a function's values is outside its axis */
} gptc_status;
const char *gptc_strerror(gptc_status s); /* static text */
const char *gptc_version(void);           /* "0.1.0" */
typedef struct {
    char text[256];
} gptc_detail; /* what, where; "" when there is nothing to add */

/* ---- model ---- */
typedef struct gptc_model gptc_model;
typedef struct {
    size_t struct_size; /* sizeof(gptc_open_options); 0 is taken as this version's */
    int verify;         /* also check the weights' checksum (reads the whole file) */
    int cpu_level;      /* 0 = best of this machine, 1 = portable C, 2 = AVX2, 3 = AVX-512, 4 = with VNNI */
} gptc_open_options;
/* options and why may be NULL. */
gptc_status gptc_open(const char *path, const gptc_open_options *options, gptc_model **out, gptc_detail *why);
void gptc_close(gptc_model *m); /* after its sessions; NULL is allowed */

typedef struct {
    size_t struct_size; /* set before the call; no more than that is written, 0 is taken as this version's */
    int32_t vocab, context; /* context: longest sequence the model allows; both 0: no GPT, a function only */
    int32_t layers;         /* cached attention layers */
    int has_tokenizer, has_cache;
    uint64_t weight_bytes, state_bytes_per_token;
    int32_t stop_tokens[8], n_stop_tokens;
    int32_t bos_token;   /* -1 = none */
    uint64_t step_bytes; /* of the weights: read to compute one token */
} gptc_model_info;
void gptc_model_get_info(const gptc_model *m, gptc_model_info *out);
/* A key of the META section ("producer", "flags", …), or NULL. Lives as long as the model. */
const char *gptc_model_meta(const gptc_model *m, const char *key);

/* ---- session ---- KV cache, buffers, threads */
typedef struct gptc_session gptc_session;
typedef enum { GPTC_CPU, GPTC_CUDA } gptc_device;
/* How a GPU runs a step of one sequence: a graph of kernels, or one kernel that stays; AUTO: what is predicted to be
 * faster, of those that are there. */
typedef enum { GPTC_DECODE_AUTO, GPTC_DECODE_GRAPH, GPTC_DECODE_PERSISTENT } gptc_decode_form;
typedef struct {
    size_t struct_size;
    int32_t threads;         /* 0 = as many as the machine has cores; at most 1024 */
    int32_t context;         /* tokens a sequence may hold; 0 = the model's, which is the most */
    int32_t sequences;       /* kept at once; 0 = 1; at most 65536 */
    int32_t chunk;           /* most rows computed at once; 0 = 256; at most 65536 */
    gptc_device device;      /* CUDA: the first GPU, with the kernels of the file (code that runs on it) */
    const char *cuda_driver; /* library to open in place of libcuda.so.1; NULL = that */
    gptc_decode_form decode; /* on a GPU */
} gptc_session_options;
gptc_status gptc_session_new(gptc_model *m, const gptc_session_options *options, gptc_session **out,
                             gptc_detail *why);
void gptc_session_free(gptc_session *s); /* NULL is allowed */

typedef enum { GPTC_LOGITS_NONE, GPTC_LOGITS_LAST, GPTC_LOGITS_ALL } gptc_logits_mode;
/* Called with the logits of consecutive positions: rows x vocab floats, first = position of row 0 in its
 * sequence. Return nonzero to stop. */
typedef int (*gptc_logits_fn)(void *user, int32_t sequence, int32_t first, int32_t rows, const float *logits);

/* Appends n tokens to a sequence, in chunks; n = 0 does nothing. On failure, also when fn stops, the sequence
 * is as it was before the call. NONE forgets the logits kept, LAST keeps those of the last token
 * (gptc_logits), ALL needs gptc_prefill_all, which keeps them too. */
gptc_status gptc_prefill(gptc_session *s, int32_t sequence, const int32_t *tokens, size_t n,
                         gptc_logits_mode mode);
gptc_status gptc_prefill_all(gptc_session *s, int32_t sequence, const int32_t *tokens, size_t n,
                             gptc_logits_fn fn, void *user);
/* One token for each of n sequences 0..n-1, computed together; logits are kept for each. All or none. */
gptc_status gptc_step(gptc_session *s, const int32_t *tokens, int32_t n);
/* The same for chosen sequences, each at most once. */
gptc_status gptc_step_sequences(gptc_session *s, const int32_t *sequences, const int32_t *tokens, int32_t n);

/* vocab floats of the last computed position of a sequence, valid until the next call on the session;
 * NULL when there are none. Those of a step on a GPU are brought over when they are first asked for; NULL too when that
 * fails. */
const float *gptc_logits(const gptc_session *s, int32_t sequence);
int32_t gptc_length(const gptc_session *s, int32_t sequence); /* tokens held; -1 = no such sequence */
/* Forgets the tokens from length on, and the logits if there were any such token. */
gptc_status gptc_rewind(gptc_session *s, int32_t sequence, int32_t length);
/* Makes `to` a copy of `from`: tokens held and logits. from == to does nothing. */
gptc_status gptc_fork(gptc_session *s, int32_t from, int32_t to);
uint64_t gptc_rows_computed(const gptc_session *s); /* token rows run since the session was made */
uint64_t gptc_state_bytes(const gptc_session *s);   /* KV cache reserved */

/* ---- sampling ---- */
typedef struct gptc_sampler gptc_sampler;
typedef struct {
    size_t struct_size;
    float temperature;  /* 0 = greedy: the largest logit, the lowest id of equals */
    int32_t top_k;      /* 0 = off */
    float top_p, min_p; /* 0 = off (top_p 1 too); each in 0..1 */
    uint64_t seed;      /* same seed, model and prompt: same tokens */
} gptc_sampler_options;
/* In this order: temperature, top_k, top_p, min_p, each on what the one before left. A sampler holds its
 * random state, so it belongs to one thread at a time. options may be NULL: greedy. */
gptc_status gptc_sampler_new(const gptc_model *m, const gptc_sampler_options *options, gptc_sampler **out);
void gptc_sampler_free(gptc_sampler *p);
/* Picks from the sequence's logits; negative = a gptc_status (GPTC_E_NO_LOGITS also when all are NaN, which counts
 * as a draw). */
int32_t gptc_sample(gptc_session *s, int32_t sequence, gptc_sampler *p);
/* The same from vocab floats of the caller's, at most the model's vocabulary. */
int32_t gptc_sample_logits(gptc_sampler *p, const float *logits, int32_t vocab);
/* gptc_step_sequences (sequences NULL: 0..n-1), then next[i] = gptc_sample of the i-th by samplers[i], which may be one for
 * several and then draws in that order. On a GPU, those of up to 64 sequences are drawn there, and only tokens come back. next may
 * be tokens. A status but GPTC_OK: nothing was stepped or drawn (but after GPTC_E_DEVICE). */
gptc_status gptc_step_sample(gptc_session *s, const int32_t *sequences, const int32_t *tokens, int32_t n,
                             gptc_sampler *const *samplers, int32_t *next);

/* ---- text ---- */
/* With the tokenizer's prefix (bos …) where it has one. Writes at most cap ids and sets *count to the number
 * there are; call with cap 0 to size. Ill-formed bytes read as U+FFFD. Allocates while it runs. */
gptc_status gptc_encode(const gptc_model *m, const char *text, size_t bytes, int32_t *ids, size_t cap,
                        size_t *count);
/* Bytes of one token (may be part of a character); returns their number, writes at most cap. Special tokens,
 * ids that name no token and models without tokenizer have none. */
size_t gptc_token_text(const gptc_model *m, int32_t id, char *out, size_t cap);
/* The same for n ids in a row; an id outside the vocabulary is GPTC_E_TOKEN. */
gptc_status gptc_decode(const gptc_model *m, const int32_t *ids, size_t n, char *out, size_t cap,
                        size_t *bytes);

/* Generates up to n tokens after a sequence whose logits are there (gptc_prefill with LAST), until a stop
 * token, which is neither given out nor appended. fn (may be NULL) gets each token and its bytes; nonzero
 * stops with GPTC_E_STOPPED. GPTC_E_CONTEXT: no room for one more. Tokens given out stay appended whatever
 * is returned; *generated (may be NULL) is their number. */
typedef int (*gptc_token_fn)(void *user, int32_t id, const char *bytes, size_t count);
gptc_status gptc_generate(gptc_session *s, int32_t sequence, gptc_sampler *p, int32_t n, gptc_token_fn fn,
                          void *user, int32_t *generated);

/* ---- functions ---- models whose graph runs as it is: no GPT, or one whose cache could not be proven
 *
 *   gptc_function *f;
 *   const gptc_tensor x = {GPTC_F32, 2, {1, 3}, data};
 *   gptc_function_new(m, NULL, &f, &why);
 *   if (gptc_function_run(f, &x, 1, &why)) fputs(why.text, stderr);
 *   const gptc_tensor *y = gptc_function_output(f, 0);
 *
 * A GPT of this kind also takes sessions, which run it over the whole sequence for each call. */
typedef enum {
    GPTC_F32 = 1,
    GPTC_F16, /* floats of 16 bits as their bits */
    GPTC_BF16,
    GPTC_I64,
    GPTC_F64,
    GPTC_BOOL, /* one byte, 0 or 1 */
    GPTC_I8,
    GPTC_U8,
    GPTC_I16,
    GPTC_U16,
    GPTC_I32,
    GPTC_U32,
    GPTC_U64,
    GPTC_U4, /* to GPTC_I2: one element a byte, sign-extended */
    GPTC_U2,
    GPTC_I4,
    GPTC_I2,
    GPTC_F8E4M3FN, /* floats of 8 bits as their bits */
    GPTC_F8E4M3FNUZ,
    GPTC_F8E5M2,
    GPTC_F8E5M2FNUZ
} gptc_dtype;
#define GPTC_MAX_RANK 8

typedef struct {
    const char *name; /* lives as long as the model, as the symbols */
    gptc_dtype dtype;
    int32_t rank;
    int64_t dim[GPTC_MAX_RANK]; /* -1 = depends on the inputs' shapes */
    const char
        *symbol[GPTC_MAX_RANK]; /* the name of such a dimension, the same wherever it is the same; or NULL */
} gptc_port;
int32_t gptc_inputs(const gptc_model *m); /* their number; 0 when the model is no function */
int32_t gptc_outputs(const gptc_model *m);
gptc_status gptc_input(const gptc_model *m, int32_t i, gptc_port *out);
gptc_status gptc_output(const gptc_model *m, int32_t i, gptc_port *out);

typedef struct {
    gptc_dtype dtype;
    int32_t rank;
    int64_t dim[GPTC_MAX_RANK];
    const void *data; /* row-major; may be NULL when there are no elements */
} gptc_tensor;
typedef struct gptc_function gptc_function; /* belongs to one thread at a time, as a session */
typedef struct {
    size_t struct_size;
    int32_t threads; /* 0 = as many as the machine has cores; at most 1024 */
} gptc_function_options;
gptc_status gptc_function_new(gptc_model *m, const gptc_function_options *options, gptc_function **out,
                              gptc_detail *why);
void gptc_function_free(gptc_function *f); /* NULL is allowed */
/* Takes n inputs, all there are, which are only read. Allocates when shapes are larger than any before. */
gptc_status gptc_function_run(gptc_function *f, const gptc_tensor *inputs, int32_t n, gptc_detail *why);
/* Of the last run, until the next; NULL: no such output, or that run failed. */
const gptc_tensor *gptc_function_output(const gptc_function *f, int32_t i);
uint64_t gptc_function_bytes(const gptc_function *f); /* memory held for values */

#ifdef __cplusplus
}
#endif
#endif
