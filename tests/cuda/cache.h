/* cache.h: states of random numbers for tests, and what they keep of them. After common.cu. */
#ifndef TESTS_CUDA_CACHE_H
#define TESTS_CUDA_CACHE_H

#include "codegen/cuda/kernels/cache.cu"
#include "codegen/cuda/kernels/cache_int8.cu"
#include "tests/cuda/random.h"

/* Random numbers for `heads` heads of a state, and what it keeps of them. */
template <class C, u32 dim>
static void fill(u32 heads, u32 context, std::vector<C> &state, std::vector<float> &values) {
    state.resize((size_t)heads * Cache<C, dim>::stride(context));
    values.resize((size_t)heads * context * dim);
    for (size_t i = 0; i < values.size(); i++) {
        if constexpr (sizeof(C) == 1) {
            const size_t head = i / dim / context, position = i / dim % context;
            u8 *at = (u8 *)state.data() + head * Cache<C, dim>::stride(context);
            half step;
            from_float(1.0f / 127 / (float)(1 + (head + position) % 3), step);
            memcpy(at + ((size_t)context * dim + 15) / 16 * 16 + position * 2, &step, 2);
            const int code = (int)std::nearbyint(127 * random_unit());
            at[i % ((size_t)context * dim)] = (u8)(code + 128);
            values[i] = (float)code * to_float(step);
        } else {
            from_float(random_unit(), state[i]);
            values[i] = to_float(state[i]);
        }
    }
}

/* A head's numbers as C keeps them: the graph's `rounded`, written once more. */
template <class C> static void keep(float *x, u32 dim) {
    float most = 0;
    half kept;
    if (sizeof(C) != 1) return;
    for (u32 i = 0; i < dim; i++) most = std::fmax(most, std::fabs(x[i]));
    from_float(most / 127, kept);
    const float step = to_float(kept), inverse = step > 0 ? 1 / step : 0;
    for (u32 i = 0; i < dim; i++)
        x[i] = std::fmin(std::fmax(std::rint(x[i] * inverse), -127.0f), 127.0f) * step;
}

#endif
