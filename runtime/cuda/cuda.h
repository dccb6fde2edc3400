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
    int arch; /* 90 */
    char name[96];
} CudaModel;

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
    uint64_t bytes;
    float *logits; /* of the last step: chunk x vocab, here */
} CudaSession;

/* session.c */
gptc_status cuda_session_new(gptc_session *s, const char *driver, gptc_detail *why);
void cuda_session_free(gptc_session *s);
/* As step_run; the logits are at s->cuda->logits afterwards. */
gptc_status cuda_step(gptc_session *s, uint32_t n, uint32_t n_wanted);
gptc_status cuda_fork(gptc_session *s, uint32_t from, uint32_t to);
/* model.c: the model on the device, made when it is not there yet; it goes with the model. */
gptc_status model_on_device(gptc_model *m, const char *driver, CudaModel **out, gptc_detail *why);
void cuda_model_free(CudaModel *c);

#endif
