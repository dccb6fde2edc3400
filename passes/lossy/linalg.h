/* linalg.h: symmetric positive definite systems, in double; private to passes/lossy. Row-major, deterministic. */
#ifndef GPTC_LINALG_H
#define GPTC_LINALG_H

#include <stdbool.h>
#include <stdint.h>

/* a [n][n], n > 0, = L L^T: L takes the lower part (the upper is left as it was, and not read). False: a is not positive
 * definite, or not finite. */
bool spd_factor(double *a, int64_t n);
/* Each of the m rows of x [m][n] becomes A^-1 x, with A's factor. */
void spd_solve(const double *factor, int64_t n, double *x, int64_t m);
/* a [n][n], lower part given, becomes its inverse, both parts. False as spd_factor. */
bool spd_invert(double *a, int64_t n);

#endif
