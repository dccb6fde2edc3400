/* cuda.h: a session on an NVIDIA GPU. What session.c does on the CPU with launches over its own memory is done
 * here with kernels of the file over the device's: the tokens go in, logits come back.
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
    uint32_t chip; /* ART_CHIP_90, ART_CHIP_OTHER */
    char name[96];
} CudaModel;

enum { CUDA_AHEAD = 16 }; /* steps of one launch of the persistent kernel */
typedef struct {
    CuPointer memory, row, words, sums; /* places, what a launch is of, words and sums between blocks */
    uint32_t *mail;                     /* host memory that the kernel sees too */
    CuPointer mail_there;
    uint32_t blocks, stages, shared_bytes, epoch;
} CudaDecode;

enum { CUDA_GRAPHS = 8 };          /* steps of 1..8 rows are kept as graphs */
enum { CUDA_MOST_ROWS = 1 << 12 }; /* of a step; a grid's y is 16 bits wide */
typedef struct CudaSession {
    CudaModel *model;
    CuStream stream;
    CuPointer block; /* all of the session's memory on the device */
    CuPointer rows, scratch, info;
    CuPointer *states;
    size_t *state_bytes; /* of one sequence */
    uint32_t spans;      /* that keys are split into when rows are few */
    CuGraphExec graph[CUDA_GRAPHS];
    CudaDecode *decode; /* NULL: steps of one row are graphs */
    uint64_t bytes;
    float *logits; /* of the last step: chunk x vocab, here */
} CudaSession;

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
/* decode.c: what the persistent kernel needs, when it is wanted (AUTO: and there, possible and predicted to be
 * faster). */
gptc_status cuda_decode_new(gptc_session *s, gptc_decode_form form, gptc_detail *why);
void cuda_decode_free(CudaSession *c);
/* Row 0 of s->body. */
CuResult cuda_decode_step(const gptc_session *s);
/* Appends token and, as sampling says, what follows it, `steps` tokens in all, at most CUDA_AHEAD, or fewer when a token that
 * ends the text is next or fn asks for it. fn gets the token that follows each. done: tokens appended; s->cuda->logits
 * are those after the last one. */
typedef int (*gptc_ahead_fn)(void *user, int32_t next);
gptc_status cuda_decode_ahead(gptc_session *s, int32_t sequence, int32_t token, uint32_t steps,
                              const SampleOptions *sampling, gptc_ahead_fn fn, void *user, uint32_t *done);
/* model.c: the model on the device, made when it is not there yet; it goes with the model. */
gptc_status model_on_device(gptc_model *m, const char *driver, CudaModel **out, gptc_detail *why);
void cuda_model_free(CudaModel *c);

#endif
