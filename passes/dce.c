/* dce.c: removes what no output needs.
 *
 *   %3 = exp(%1)                 ->   (gone)
 *   output %2                         output %2
 *
 * Graph inputs and states stay, with all that states need. */
#include "passes/rewrite.h"

PassResult pass_dce(PassCtx *cx, Graph *g) {
    int64_t erased = rewrite_sweep_dead(cx, g);
    pass_count(cx, "erased", erased);
    return erased > 0 ? PASS_CHANGED : PASS_UNCHANGED;
}
