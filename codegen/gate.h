/* gate.h: what gate.c, gate_function.c and gate_lossy.c share. */
#ifndef GPTC_CODEGEN_GATE_H
#define GPTC_CODEGEN_GATE_H

#include "codegen/codegen.h"
#include "runtime/gptc.h"

#define GATE_BATCH 2
#define GATE_TOKENS 40 /* a sequence, when the budget allows */

/* An input of its dimensions under `bind` and with the contract's value: the tokens given, positions from 0 on,
 * segment 0, ones for a mask, nothing past. A length that `bind` does not decide is 0. */
Tensor gate_input(const Graph *g, const Port *p, const int64_t *bind, const int32_t *tokens, Arena *a);

/* An artifact's logits against others for the same tokens, row by row, however the artifact was run. */
typedef struct {
    const float *ref; /* [GATE_BATCH][tokens][vocab] */
    int64_t tokens, vocab;
    double max, sum2, divergence; /* divergence: of the rows' distributions, summed */
    int64_t count;
    const char *mode, *worst;
    int64_t row0; /* of `ref`, of the running sequence */
} GateCompare;
typedef struct {
    double max, rms, kl; /* of the logits' deviation; kl in nats, mean */
    const char *kind;
} GateTolerance;

int32_t *gate_tokens(int64_t tokens, int64_t vocab, uint64_t seed,
                     Arena *a); /* [GATE_BATCH][tokens], random */
/* Runs the artifact whole and, when it has a cache, in chunks, the last row alone, and stepwise, two sequences at
 * once. */
gptc_status gate_run(const char *path, const int32_t *ids, bool cached, GateCompare *c, gptc_detail *why);
/* What was compared is within the tolerance; rows: of c->ref. */
bool gate_holds(const GateCompare *c, const GateTolerance *t, int64_t rows, GateReport *out);
double gate_divergence(const GateCompare *c);

#endif
