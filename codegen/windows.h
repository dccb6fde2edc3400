/* windows.h: windows of tokens to calibrate with and to measure on: cut from a text, dealt out to parts that share none,
 * or sampled from the model itself. */
#ifndef GPTC_CODEGEN_WINDOWS_H
#define GPTC_CODEGEN_WINDOWS_H

#include "passes/lossy/lossy.h"
#include "runtime/gptc.h"

/* Consecutive windows of `length` tokens; what is left over at the end is dropped. ids are copied into `a`. */
Windows windows_cut(const int32_t *ids, size_t n, int64_t length, Arena *a);

/* Deals all windows of w out, in an order that `seed` shuffles, so that every part is a fair draw of the text: part i
 * gets about share[i] of the sum of shares, at least one window where share[i] > 0 and there are as many windows as
 * parts. Copied into `a`; windows of a part keep their order in the text. */
void windows_deal(const Windows *w, const double *share, size_t parts, uint64_t seed, Arena *a, Windows *out);

/* Text that the model itself writes: each window from an empty context, at a temperature, from the bos token, or
 * where there is none from a random token. The same seed gives the same tokens, whatever the threads and however many
 * windows follow. threads: 0 = all cores. */
bool windows_sample(gptc_model *m, int64_t windows, int64_t length, float temperature, uint64_t seed,
                    int threads, Arena *a, Windows *out, Diag *d);

#endif
