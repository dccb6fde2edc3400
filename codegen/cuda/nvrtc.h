/* nvrtc.h: CUDA text to machine code, through NVRTC opened at run time, so gptc builds and starts without it. */
#ifndef GPTC_NVRTC_H
#define GPTC_NVRTC_H

#include "codegen/cuda/cuda.h"

typedef struct {
    uint32_t arch; /* 90 */
    bool specific; /* sm_90a: features of that chip alone */
    bool ptx;      /* the text of a virtual machine, for chips to come */
} CudaArch;
/* "sm_90", "sm_90a", "compute_90". False when it is none of these. */
bool cuda_arch_parse(const char *s, size_t n, CudaArch *out);

typedef struct {
    const char *library; /* path of libnvrtc; NULL: looked for */
    const char *cache;   /* folder for what was compiled; NULL: the user's, "": none */
    /* Called when compiling begins, then for each architecture that is there ("sm_90a"; NULL: none yet); may be NULL. */
    void (*progress)(void *user, const char *arch, uint32_t done, uint32_t of);
    void *user;
} NvrtcOptions;

typedef struct {
    CudaArch arch;
    const void *data;
    size_t bytes;
    bool cached;
    double seconds;
    const char *log; /* what ptxas said of registers and spills */
} CudaImage;

/* Compiles c's source for each of n architectures, in parallel. False with the diag set: no NVRTC (what was
 * tried, how to get one), or an error in the text (the kernel and the node it runs). */
bool nvrtc_compile(const CudaProgram *c, const CudaArch *arch, uint32_t n, const NvrtcOptions *o, Arena *a,
                   CudaImage *out, Diag *d);

/* What ptxas said of a function in a log. False when it is not there. */
bool nvrtc_usage(const char *log, const char *function, ArtCudaFunction *out);

/* section.c: the bytes of the KERNELS section, in the arena. source: with the CUDA text. PTX is followed by a NUL,
 * which is not counted. */
void cuda_section(const CudaProgram *c, const CudaImage *images, uint32_t n, bool source, Arena *a,
                  const void **data, size_t *bytes);

#endif
