/* inspect_kernels.h: the CUDA kernels of a model, as a report. */
#ifndef GPTC_INSPECT_KERNELS_H
#define GPTC_INSPECT_KERNELS_H

#include "runtime/artifact.h"
#include "runtime/gptc.h"
#include "tools/report.h"

typedef struct {
    const ArtCuda *head;
    const ArtCudaImage *images;
    const ArtCudaFunction *functions;
    const ArtCudaLaunch *launches;
    const char *text; /* the functions' names, and why there is no persistent kernel */
} KernelTables;

/* kernel_tables.c: the tables of m's kernels, which stay m's; checked. */
gptc_status kernel_tables(const gptc_model *m, KernelTables *out, gptc_detail *why);
/* Bytes, operations and seconds are expected of one launch for one row, and predicted, not measured. */
void report_kernels(Report *r, const KernelTables *k);

#endif
