/* sample.h: what the rest of the runtime knows of a sampler: the options of its next draw, for who draws in its place. */
#ifndef RUNTIME_SAMPLE_H
#define RUNTIME_SAMPLE_H

#include "runtime/gptc.h"

typedef uint32_t u32;
typedef uint64_t u64;
#define DEVICE static inline
#include "runtime/sample_math.h"
#undef DEVICE

const SampleOptions *sampler_options(const gptc_sampler *p);
SampleOptions sampler_later(const gptc_sampler *p, uint32_t draws); /* of the one after so many more */
/* So many draws were made elsewhere. */
void sampler_drawn(gptc_sampler *p, uint32_t draws);

#endif
