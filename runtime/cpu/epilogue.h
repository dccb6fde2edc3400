/* epilogue.h: what follows a product before its sums are written: bias, activation, gate and residual. */
#ifndef RUNTIME_CPU_EPILOGUE_H
#define RUNTIME_CPU_EPILOGUE_H

#include "runtime/cpu/tile.h"
#include "runtime/cpu/vec_math.h"

/* One row of one panel: 16 sums to columns col.. of out. */
INLINE void epilogue(const CpuLinear *l, uint32_t act, size_t row, size_t col, const float *sum) {
    float *out = l->out + row * l->out_stride + col;
    for (size_t j = 0; j < 16 && col + j < l->n; j += VW) {
        size_t left = l->n - col - j;
        bool whole = left >= VW;
        V v = v_load(sum + j);
        const float *bias = l->bias ? l->bias + col + j : NULL;
        const float *gate = l->gate ? l->gate + row * l->gate_stride + col + j : NULL;
        const float *rest = l->residual ? l->residual + row * l->residual_stride + col + j : NULL;
        if (bias) { v += whole ? v_load(bias) : v_load_n(bias, left); }
        v = v_act(act, v);
        if (gate) { v *= whole ? v_load(gate) : v_load_n(gate, left); }
        if (rest) { v += whole ? v_load(rest) : v_load_n(rest, left); }
        if (whole) {
            v_store(out + j, v);
        } else {
            v_store_n(out + j, left, v);
        }
    }
}

/* rows x panels of sums, c.row = 16. */
static void epilogue_block(const CpuLinear *l, size_t row, size_t rows, size_t panel, size_t panels,
                           TileC c) {
    for (size_t r = 0; r < rows; r++) {
        for (size_t p = 0; p < panels; p++) {
            const float *sum = c.c + r * 16 + p * c.panel;
/* clang-format off */
#define ACT(kind) case kind: epilogue(l, kind, row + r, (panel + p) * 16, sum); break;
            switch (l->act) {
            ACT(ART_ACT_RELU) ACT(ART_ACT_GELU_ERF) ACT(ART_ACT_GELU_TANH)
            ACT(ART_ACT_SILU) ACT(ART_ACT_TANH) ACT(ART_ACT_SIGMOID)
            default: epilogue(l, ART_ACT_NONE, row + r, (panel + p) * 16, sum);
            }
#undef ACT
            /* clang-format on */
        }
    }
}

#endif
