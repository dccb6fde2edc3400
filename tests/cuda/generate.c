/* generate.c: what a session on a GPU generates, several steps a launch, greedily in one sequence and drawn in
 * another, is what the CPU generates: whole, stopped by the caller and gone on, up to the end of the context, in two sequences by turns.
 * usage: cuda-generate MODEL.bin DRIVER */
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

static int run(gptc_model *m, const gptc_session_options *o, Log *l) {
    static const int32_t prompt[2][4] = {{1, 5, 9, 2}, {7, 3, 3, 8}};
    gptc_detail why;
    gptc_session *s;
    gptc_sampler *p, *warm;
    gptc_sampler_options greedy = {.struct_size = sizeof greedy}, drawn = {.struct_size = sizeof drawn,
                                                                           .temperature = 1.5f,
                                                                           .top_k = 20,
                                                                           .top_p = 0.9f,
                                                                           .min_p = 0.02f,
                                                                           .seed = 5};
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

int main(int argc, char **argv) {
    gptc_model *m;
    gptc_detail why;
    float logits[2][8];
    Log cpu = {.logits = logits[0]}, gpu = {.logits = logits[1]};
    if (argc != 3 || gptc_open(argv[1], NULL, &m, &why)) return 2;
    gptc_session_options o = {.struct_size = sizeof o, .context = 48, .sequences = 2, .threads = 1};
    if (run(m, &o, &cpu)) return 1;
    o.device = GPTC_CUDA;
    o.cuda_driver = argv[2];
    o.decode = GPTC_DECODE_PERSISTENT;
    if (run(m, &o, &gpu)) return 1;
    gptc_close(m);
    for (int i = 0; i < cpu.n || i < gpu.n; i++)
        if (i >= cpu.n || i >= gpu.n || cpu.said[i] != gpu.said[i])
            return printf("FAIL: entry %d of %d and %d: CPU %d, GPU %d\n", i, cpu.n, gpu.n, cpu.said[i],
                          gpu.said[i]),
                   1;
    for (int i = 0; i < 8; i++)
        if (!(fabsf(logits[0][i] - logits[1][i]) < 1e-3f))
            return printf("FAIL: logit %d: CPU %g, GPU %g\n", i, (double)logits[0][i], (double)logits[1][i]),
                   1;
    printf("%d entries agree\n", cpu.n);
    return cpu.n < 60;
}
