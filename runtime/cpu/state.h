/* state.h: where the cache keeps what. For each head of a sequence: keys as [position/16][dim][16], values as
 * [position][dim up to 16s], floats or codes; behind codes their steps, an fp16 a position. */
#ifndef RUNTIME_CPU_STATE_H
#define RUNTIME_CPU_STATE_H

#include "runtime/cpu/cpu.h"

/* A head of one sequence. */
typedef struct {
    void *numbers;   /* float, or int8_t */
    uint16_t *steps; /* NULL where they are floats */
} StateHead;

static inline size_t state_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

static inline size_t state_numbers_bytes(const CpuState *s) {
    size_t rows = s->by_key ? state_up(s->capacity, 16) : s->capacity;
    size_t width = s->by_key ? s->dim : state_up(s->dim, 16);
    return state_up(rows * width * (s->kept == ART_STATE_INT8 ? 1 : sizeof(float)), 64);
}

/* Steps are read 16 at a time. */
static inline size_t state_head_bytes(const CpuState *s) {
    size_t steps = s->kept == ART_STATE_INT8 ? state_up(s->capacity, 16) * sizeof(uint16_t) : 0;
    return state_numbers_bytes(s) + state_up(steps, 64);
}

static inline StateHead state_head(const CpuState *s, int32_t sequence, size_t head) {
    char *at = (char *)s->data + ((size_t)sequence * s->heads + head) * state_head_bytes(s);
    void *steps = at + state_numbers_bytes(s);
    return (StateHead){at, s->kept == ART_STATE_INT8 ? steps : NULL};
}

/* The first number of a position; the next ones 16 (by_key) or one apart. */
static inline size_t state_first(const CpuState *s, size_t position) {
    return s->by_key ? position / 16 * s->dim * 16 + position % 16 : position * state_up(s->dim, 16);
}

#endif
