/* formats_check.h: matrices in every format, with codes, scales and grids that are random. */
#ifndef TESTS_FORMATS_CHECK_H
#define TESTS_FORMATS_CHECK_H

#include "passes/lossy/lossy.h"

static inline uint32_t formats_roll(uint64_t *state, uint32_t n) {
    *state = *state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator */
    return (uint32_t)(*state >> 33) % n;
}

static inline float formats_half(float x) { return half_to_float(float_to_half(x)); }

/* Values of about 0.1, whatever the format. */
static inline void formats_fill(QuantMatrix *q, uint64_t *state) {
    const Format *f = q->format;
    uint32_t entries = 1u << f->bits;
    size_t codes = (size_t)(q->rows * (q->cols / f->vector)), scales = (size_t)(q->rows * q->groups);
    float most = f->vector > 1             ? 1
                 : f->grid == GRID_LEARNED ? 127
                 : f->grid == GRID_F8      ? 448
                                           : (float)entries;
    for (size_t i = 0; i < codes; i++) {
        q->codes[i] = (uint8_t)formats_roll(state, entries);
        if (f->grid == GRID_F8 && (q->codes[i] & 0x7f) == 0x7f) q->codes[i] ^= 1; /* no NaN */
    }
    for (uint32_t i = 0; f->grid == GRID_LEARNED && i < entries * f->vector; i++)
        q->grid[i] = f->vector > 1 ? formats_half((float)formats_roll(state, 2001) / 1000 - 1)
                                   : (float)formats_roll(state, 256) - 128;
    for (int64_t r = 0; r < q->rows && q->row_scale; r++)
        q->row_scale[r] = formats_half((1 + (float)formats_roll(state, 100) / 100) * 0.1f / most / 64);
    for (size_t i = 0; i < scales; i++) {
        if (q->zero) q->zero[i] = (uint8_t)formats_roll(state, entries);
        if (q->scale_code) {
            q->scale_code[i] = (uint8_t)formats_roll(state, 1u << f->scale_bits);
            q->scale[i] = (float)q->scale_code[i] * q->row_scale[i / (size_t)q->groups];
        } else {
            q->scale[i] = formats_half((1 + (float)formats_roll(state, 100) / 100) * 0.1f / most);
        }
    }
}

#endif
