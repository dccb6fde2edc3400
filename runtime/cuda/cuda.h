/* cuda.h: a session on an NVIDIA GPU. What session.c does on the CPU with launches over its own memory is done
 * here with kernels of the file over the device's: tokens go in, and tokens or, where somebody asks for them, logits come
 * back.
 *
 * The weights and the code are one CudaModel, made for the first session of a model and shared by all. */
#ifndef RUNTIME_CUDA_CUDA_H
#define RUNTIME_CUDA_CUDA_H

#include "runtime/cuda/driver.h"
#include "runtime/runtime.h"

/* The tables of a KERNELS section. */
typedef struct {
    const ArtCuda *head;
    const ArtCudaImage *images;
    const ArtCudaFunction *functions;
    const ArtCudaLaunch *launches;
    const ArtCudaPlace *places;
    const char *text;
    const uint8_t *bytes;
} CudaKernels;
/* check.c: GPTC_E_FORMAT names what is wrong. After it every index of the tables is in range; what the machine
 * code does with its arguments nobody can check. */
gptc_status cuda_kernels_check(const gptc_model *m, CudaKernels *out, gptc_detail *why);

typedef struct CudaModel {
    CudaDriver driver;
    CudaKernels kernels;
    CuDevice device;
    CuContext context;
    CuModule module;
    CuFunction *functions;
    CuPointer weights;
    int arch;      /* 90 */
    int sms;       /* multiprocessors */
    bool together; /* all blocks of a launch can be held to run at once */
    uint32_t chip; /* ART_CHIP_90, ART_CHIP_OTHER */
    char name[96];
} CudaModel;

enum {
    CUDA_AHEAD = 16
}; /* steps of one launch of the persistent kernel, or of graphs that follow each other */
typedef struct {
    CuPointer memory, row, words, sums; /* places, what a launch is of, words and sums between blocks */
    uint32_t blocks, stages, shared_bytes, epoch;
} CudaDecode;

enum { CUDA_GRAPHS = 8 };          /* steps of 1..8 rows are kept as graphs */
enum { CUDA_DRAWN = 64 };          /* rows whose tokens can be drawn there in a step */
enum { CUDA_MOST_ROWS = 1 << 12 }; /* of a step; a grid's y is 16 bits wide */
typedef struct CudaSession {
    CudaModel *model;
    CuStream stream;
    CuPointer block; /* all of the session's memory on the device */
    CuPointer rows, scratch, info;
    CuPointer *states;
    size_t *state_bytes;               /* of one sequence */
    uint32_t spans;                    /* that keys are split into when rows are few */
    CuGraphExec graph[2][CUDA_GRAPHS]; /* without and with the draw of tokens behind it */
    CuPointer asked, words;            /* of that draw, a slot for each row (kernels/draw.cu) */
    uint32_t draws[CUDA_DRAWN];        /* of each slot so far */
    CudaDecode *decode;                /* NULL: steps of one row are graphs */
    uint32_t *mail;                    /* host memory that kernels see too: CUDA_MAIL_ */
    CuPointer mail_there;
    uint64_t bytes;
    float *logits; /* of the last step: chunk x vocab, here */
    /* Logits that are kept on the device alone: of row r of the last step, those of sequence waiting[r]. */
    int32_t *waiting; /* chunk */
    uint32_t n_waiting;
} CudaSession;
/* The wish that the persistent kernel should stop, then the tokens, CUDA_NO_MAIL before they come. */
enum { CUDA_MAIL_STOP, CUDA_MAIL_TOKENS, CUDA_MAIL_WORDS = CUDA_MAIL_TOKENS + CUDA_DRAWN };
#define CUDA_NO_MAIL 0xfffffffeu
enum { SAMPLE_BINS = 256, SAMPLE_PASSES = 20 }; /* as in kernels/sample.cu */

/* Whether a launch is one for this chip. */
static inline bool launch_here(const CudaModel *c, const ArtCudaLaunch *l) {
    return !(l->when & ART_CHIP_ANY) || (l->when & c->chip);
}

/* session.c */
gptc_status cuda_session_new(gptc_session *s, const char *driver, gptc_decode_form form, gptc_detail *why);
void cuda_session_free(gptc_session *s);
/* As step_run; the logits are at s->cuda->logits afterwards. */
gptc_status cuda_step(gptc_session *s, uint32_t n, uint32_t n_wanted);
gptc_status cuda_fork(gptc_session *s, uint32_t from, uint32_t to);
/* Starts the n rows of s->body; asked, of each row, when tokens are drawn after it (n up to CUDA_DRAWN). steps: of the
 * persistent kernel, where that runs the row. */
CuResult cuda_rows_run(gptc_session *s, uint32_t n, uint32_t n_wanted, const SampleOptions *asked,
                       uint32_t steps);
/* The same again, of one row, with the token that was drawn: what it needs is on the device. */
CuResult cuda_row_again(gptc_session *s);
static inline gptc_status cuda_status(CuResult e) {
    return !e ? GPTC_OK : e == CU_OUT_OF_MEMORY ? GPTC_E_MEMORY : GPTC_E_DEVICE;
}
/* tokens.c: what is drawn after the rows. */
uint64_t cuda_draw_bytes(
    void); /* of the session's memory: `asked`, then at cuda_draw_words_at `words`; zeros at first */
uint64_t cuda_draw_words_at(void);
CuResult cuda_draw_ask(gptc_session *s, uint32_t n, const SampleOptions *asked);
CuResult cuda_draw_launch(const gptc_session *s, uint32_t n);
/* The n rows of s->body, whose logits stay on the device; with asked (up to CUDA_DRAWN rows) next is what is drawn
 * after each, -1 where all logits are NaN. */
gptc_status cuda_step_later(gptc_session *s, uint32_t n, const SampleOptions *asked, int32_t *next);
/* Brings logits that wait on the device to s->logits, all, if those of this sequence do (-1: of any). */
gptc_status cuda_logits_bring(const gptc_session *s, int32_t sequence);
/* Row 0 of s->body and, as sampling says, what follows it: `steps` tokens in all, at most CUDA_AHEAD, or fewer when a token
 * that ends the text is next or fn asks for it. fn gets the token that follows each. done: tokens appended; the logits
 * after the last one wait on the device. */
typedef int (*gptc_ahead_fn)(void *user, int32_t next);
gptc_status cuda_ahead(gptc_session *s, uint32_t steps, const SampleOptions *sampling, gptc_ahead_fn fn,
                       void *user, uint32_t *done);
/* decode.c: what the persistent kernel needs, when it is wanted (AUTO: and there, possible and predicted to be
 * faster). */
gptc_status cuda_decode_new(gptc_session *s, gptc_decode_form form, gptc_detail *why);
void cuda_decode_free(CudaSession *c);
/* Starts row 0 of s->body and what follows it, `steps` steps in one launch; sampling NULL: the best tokens. */
CuResult cuda_decode_start(const gptc_session *s, const SampleOptions *sampling, uint32_t steps);
/* model.c: the model on the device, made when it is not there yet; it goes with the model. */
gptc_status model_on_device(gptc_model *m, const char *driver, CudaModel **out, gptc_detail *why);
void cuda_model_free(CudaModel *c);

#endif
