/* gate.h: what gate.c and gate_function.c share. */
#ifndef GPTC_CODEGEN_GATE_H
#define GPTC_CODEGEN_GATE_H

#include "codegen/codegen.h"

/* An input of its dimensions under `bind` and with the contract's value: the tokens given, positions from 0 on,
 * segment 0, ones for a mask, nothing past. A length that `bind` does not decide is 0. */
Tensor gate_input(const Graph *g, const Port *p, const int64_t *bind, const int32_t *tokens, Arena *a);

#endif
