/* prelude_host.h: the vocabulary of prelude_cuda*.h on a CPU, so that the very text that goes to NVRTC runs in
 * tests, with every access checked.
 *
 * A block's threads are fibers of one host thread. A fiber runs until it waits: at a barrier, for the lanes of
 * its warp, for a copy, for a word that another block publishes. When none can go on, or what they wait for does not
 * fit together, the launch ends with a line that says who waits where.
 *
 * Global memory: a pointer knows its allocation and every access is checked against it. Shared memory: every
 * word remembers its last writer and reader, and an access that no barrier orders after a conflicting one of
 * another thread is a race (vector clocks over warps, as in FastTrack, Flanagan and Freund 2009; lanes of a
 * warp are ordered by warp barriers and shuffles). Words that nobody wrote must not be read. Asynchronous
 * copies land as late as the rules allow, and what they are bringing must not be touched. */
#ifndef GPTC_PRELUDE
#define GPTC_PRELUDE /* in place of prelude_cuda.h and those that follow it */
#define GPTC_PRELUDE_ASYNC
#define GPTC_PRELUDE_MATRIX

#include "codegen/cuda/kernels/host/launch.h"

#endif
