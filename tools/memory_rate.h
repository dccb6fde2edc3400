/* memory_rate.h: how fast this machine reads memory. */
#ifndef GPTC_TOOLS_MEMORY_RATE_H
#define GPTC_TOOLS_MEMORY_RATE_H

#include <stdint.h>

int64_t cpu_cores(void); /* that this process may use */

/* Bytes/s that `threads` threads read from memory together, each its own block, far past the caches; the best of some
 * rounds, of about 20 ms each. 0 = there is no memory or no thread for it. */
double memory_read_rate(int64_t threads, int rounds);

#endif
