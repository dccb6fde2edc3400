/* removal.h: which inputs of a product can go at the least loss, and what makes up for them; private to passes/lossy. */
#ifndef GPTC_REMOVAL_H
#define GPTC_REMOVAL_H

#include "passes/lossy/lossy.h"

#define REMOVAL_DAMPING 1e-4 /* of the mean variance of an input, added to all */

/* What is left of y = W x + bias when some units of x are not computed. */
struct Removal {
    int64_t rows, count; /* outputs; inputs that stay */
    int32_t *keep;       /* [count], rising */
    float *w;            /* [rows][count] */
    float *bias;         /* [rows] */
};

typedef struct {
    const float *w, *bias; /* [rows][cols], [rows] or NULL */
    int64_t rows, cols;
    const Moments *moments; /* of x */
    int64_t size;           /* unit u is inputs u * size .. (u + 1) * size - 1 */
    double dear;            /* mean squared error a unit above which no more go; 0: none is too dear */
} RemovalTask;
/* For each of n rising amounts of units: what stays when so many are gone, and the loss, the mean squared error of y
 * relative to y's variance; infinite after an amount that is too dear. Made in `a`; out NULL: the losses alone; all: y's
 * variance, summed over outputs. False: the moments are not those of real inputs. */
bool removal_find(const RemovalTask *t, const int64_t *amounts, size_t n, Arena *a, Removal *out,
                  double *loss, double *all, Diag *d);

#endif
