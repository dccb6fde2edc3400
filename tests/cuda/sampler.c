/* sampler.c: for sample.cpp, which is C++: what the runtime's sampler draws, and the options of its draws. */
#include "runtime/runtime.h"

#include <string.h>

/* Draws `draws` tokens from the logits; words: the options before the first one. */
void sampler_reference(int32_t vocab, const float *logits, const gptc_sampler_options *options, int32_t draws,
                       int32_t *tokens, uint32_t words[8]);
void sampler_reference(int32_t vocab, const float *logits, const gptc_sampler_options *options, int32_t draws,
                       int32_t *tokens, uint32_t words[8]) {
    const ArtMeta meta = {.vocab = (uint32_t)vocab};
    const gptc_model model = {.meta = &meta};
    gptc_sampler *p;
    for (int32_t i = 0; i < draws; i++) tokens[i] = -1;
    if (gptc_sampler_new(&model, options, &p)) return;
    memcpy(words, sampler_options(p), 8 * sizeof *words);
    for (int32_t i = 0; i < draws; i++) tokens[i] = gptc_sample_logits(p, logits, vocab);
    gptc_sampler_free(p);
}
