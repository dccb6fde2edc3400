/* tolerance.h: every tolerance, in one place. docs/numerics.md says where they come from.
 * Errors of logits are divided by the standard deviation of the reference logits. */
#ifndef GPTC_TOLERANCE_H
#define GPTC_TOLERANCE_H

#define TOL_LOGITS_F32 1e-3 /* exact passes, fp32: reordered sums give about 2e-6 */
#define TOL_LOGITS_F16 1e-2 /* graphs that compute in fp16 or bf16, which round after every op */
/* Graphs that quantise activations: one rounding that falls the other way moves single logits by a tenth of
 * their deviation. All three hold. */
#define TOL_LOGITS_QUANT 0.25 /* the largest error */
#define TOL_LOGITS_QUANT_RMS 4e-2
#define TOL_LOGITS_QUANT_KL 3e-4 /* mean divergence, nats */
#define TOL_VALUE_F32 1e-4       /* a function's outputs, relative to the largest element: reordered sums */
#define TOL_VALUE_F16 1e-2       /* the same where the graph computes in fp16 or bf16 */
#define TOL_PASS_VALUE 1e-5      /* a pass test's outputs before and after, relative to the largest */
#define TOL_MASK_BLOCKED 87.0    /* exp(-87) is the smallest normal float: such a key weighs nothing */
#define TOL_TABLE 2e-6           /* an entry of a table at other lengths, relative to the largest */
#define TOL_CONSTANT 1e-6        /* a known constant of a pattern (0.044715…), relative */

#endif
