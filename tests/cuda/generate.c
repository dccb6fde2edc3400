/* generate.c: what a session on a GPU generates, several steps a launch or a graph each, greedily in one sequence and drawn
 * in another, is what the CPU generates: whole, stopped by the caller and gone on, up to the end of the context, in two
 * sequences by turns, and in batches. usage: cuda-generate MODEL.bin DRIVER graph|persistent */
#include "runtime/gptc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 512 };
typedef struct {
    int32_t said[MOST]; /* tokens, statuses and lengths, in order */
    int n, given, stop_at;
    float *logits;
} Log;

static void note(Log *l, int32_t what) {
    if (l->n < MOST) l->said[l->n++] = what;
}

static int token(void *user, int32_t id, const char *piece, size_t bytes) {
    Log *l = user;
    (void)piece, (void)bytes;
    note(l, id);
    return ++l->given == l->stop_at;
}

static void generate(gptc_session *s, int32_t sequence, gptc_sampler *p, int32_t n, int stop_at, Log *l) {
    int32_t made = 0;
    l->given = 0;
    l->stop_at = stop_at;
    note(l, gptc_generate(s, sequence, p, n, token, l, &made));
    note(l, made);
    note(l, gptc_length(s, sequence));
}

static const gptc_sampler_options greedy = {.struct_size = sizeof greedy},
                                  drawn = {.struct_size = sizeof drawn,
                                           .temperature = 1.5f,
                                           .top_k = 20,
                                           .top_p = 0.9f,
                                           .min_p = 0.02f,
                                           .seed = 5};

static int run(gptc_model *m, const gptc_session_options *o, Log *l) {
    static const int32_t prompt[2][4] = {{1, 5, 9, 2}, {7, 3, 3, 8}};
    gptc_detail why;
    gptc_session *s;
    gptc_sampler *p, *warm;
    if (gptc_session_new(m, o, &s, &why) || gptc_sampler_new(m, &greedy, &p) ||
        gptc_sampler_new(m, &drawn, &warm))
        return printf("FAIL: %s\n", why.text), 1;
    for (int32_t q = 0; q < 2; q++) note(l, gptc_prefill(s, q, prompt[q], 4, GPTC_LOGITS_LAST));
    generate(s, 0, p, 21, 0, l);
    generate(s, 1, warm, 40, 1, l);
    generate(s, 1, warm, 40, 5, l);
    generate(s, 1, warm, 18, 0, l);
    generate(s, 0, p, 3, 0, l);
    generate(s, 1, warm, 1, 0, l);
    note(l, gptc_rewind(s, 0, 9));
    note(l, gptc_step_sequences(s, (const int32_t[]){0}, (const int32_t[]){4}, 1));
    generate(s, 0, p, MOST, 0, l); /* to the end of the context */
    memcpy(l->logits, gptc_logits(s, 1), sizeof(float) * 8);
    gptc_sampler_free(p);
    gptc_sampler_free(warm);
    gptc_session_free(s);
    return 0;
}

/* 1 to 9 sequences at once, some of which share a sampler; those that a step leaves out keep their logits. */
enum { BATCH = 9 };
static int run_batch(gptc_model *m, const gptc_session_options *options, Log *l) {
    static const int32_t sizes[] = {9, 5, 1, 3}, order[BATCH] = {3, 0, 7, 1, 6, 2, 8, 4, 5};
    gptc_session_options o = *options;
    gptc_detail why;
    gptc_session *s;
    gptc_sampler *p[3], *of[BATCH];
    int32_t next[BATCH];
    o.sequences = BATCH;
    gptc_sampler_options other = drawn;
    other.seed = 8, other.top_k = 0;
    if (gptc_session_new(m, &o, &s, &why) || gptc_sampler_new(m, &greedy, &p[0]) ||
        gptc_sampler_new(m, &drawn, &p[1]) || gptc_sampler_new(m, &other, &p[2]))
        return printf("FAIL: %s\n", why.text), 1;
    for (int32_t q = 0; q < BATCH; q++) {
        next[q] = 2 * q + 1;
        of[q] = p[q % 3];
    }
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        note(l, gptc_step_sample(s, order, next, sizes[i], of, next));
        for (int32_t k = 0; k < sizes[i]; k++) note(l, next[k]);
    }
    note(l, gptc_fork(s, 3, 5));
    note(l, gptc_sample(s, 5, p[0]) == gptc_sample(s, 3, p[0]));
    note(l, gptc_step_sample(s, NULL, next, 2, NULL, next));
    note(l, gptc_step_sample(s, NULL, next, BATCH + 1, of, next));
    const int32_t looked_at[] = {0, 6, 4}; /* of the last step, of the 5, of the first */
    for (int i = 0; i < 3; i++)
        memcpy(l->logits + 8 * (i + 1), gptc_logits(s, looked_at[i]), sizeof(float) * 8);
    for (int i = 0; i < 3; i++) gptc_sampler_free(p[i]);
    gptc_session_free(s);
    return 0;
}

enum { LOGITS = 32 };
int main(int argc, char **argv) {
    gptc_model *m;
    gptc_detail why;
    float logits[2][LOGITS];
    Log cpu = {.logits = logits[0]}, gpu = {.logits = logits[1]};
    if (argc != 4 || gptc_open(argv[1], NULL, &m, &why)) return 2;
    gptc_session_options o = {.struct_size = sizeof o, .context = 32, .sequences = 2, .threads = 1};
    if (run(m, &o, &cpu) || run_batch(m, &o, &cpu)) return 1;
    o.device = GPTC_CUDA;
    o.cuda_driver = argv[2];
    o.decode = !strcmp(argv[3], "graph") ? GPTC_DECODE_GRAPH : GPTC_DECODE_PERSISTENT;
    if (run(m, &o, &gpu) || run_batch(m, &o, &gpu)) return 1;
    gptc_close(m);
    for (int i = 0; i < cpu.n || i < gpu.n; i++)
        if (i >= cpu.n || i >= gpu.n || cpu.said[i] != gpu.said[i])
            return printf("FAIL: entry %d of %d and %d: CPU %d, GPU %d\n", i, cpu.n, gpu.n, cpu.said[i],
                          gpu.said[i]),
                   1;
    for (int i = 0; i < LOGITS; i++)
        if (!(fabsf(logits[0][i] - logits[1][i]) < 1e-3f))
            return printf("FAIL: logit %d: CPU %g, GPU %g\n", i, (double)logits[0][i], (double)logits[1][i]),
                   1;
    printf("%d entries agree\n", cpu.n);
    return cpu.n < 90;
}
