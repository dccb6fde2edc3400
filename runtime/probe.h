/* probe.h: what measuring needs of the runtime beyond gptc.h: weights that may be written, runs that stop between
 * steps, and the workers for sums of its own. For the compiler alone: not installed, not stable. Only for models that
 * the compiler has just written and for sessions on the CPU; a model without a PLAN is refused. */
#ifndef RUNTIME_PROBE_H
#define RUNTIME_PROBE_H

#include "runtime/gptc.h"

#include <stdbool.h>

/* The bytes of WEIGHTS, writable from now on and private: the file keeps what it has. NULL: the system refused. No
 * session may run meanwhile. */
uint8_t *probe_weights(gptc_model *m);

/* `windows` windows of `length` tokens become the rows that probe_run computes, each from an empty context in a
 * sequence of its own. All sequences of the session are empty afterwards. GPTC_E_ARGUMENT: more sequences or
 * rows than the session has; GPTC_E_TOKEN; GPTC_E_UNSUPPORTED: a GPU, or no PLAN. */
gptc_status probe_begin(gptc_session *s, const int32_t *tokens, uint32_t windows, uint32_t length);
/* Runs the steps first .. end - 1 of the plan on those rows; logits come for all of them. */
void probe_run(gptc_session *s, uint32_t first, uint32_t end);
/* The buffer at a row offset of the plan: its width floats for each row, one row after the other. */
float *probe_buffer(const gptc_session *s, uint64_t row_offset);

/* fn(ctx, worker, workers) on every worker of the session; returns when all are done. */
typedef void ProbeWork(void *ctx, uint32_t worker, uint32_t workers);
void probe_share(gptc_session *s, ProbeWork *fn, void *ctx);

/* xx[k][k] += x^T x of x[rows][k]; the same bits whatever the number of workers. Only xx[i][j] of j >= i is meant; below
 * the diagonal parts are left as they are. False: no memory. */
bool probe_gram(gptc_session *s, const float *x, uint32_t rows, uint32_t k, float *xx);

#endif
