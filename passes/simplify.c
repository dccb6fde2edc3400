/* simplify.c: brings a graph into the one form that the raising patterns know.
 *
 * The form, from a value's source towards its use: scalar arithmetic first, then at most one
 * transpose, then broadcast and reshape; a reshape that only merges or splits leading axes sinks below
 * everything that works on the last axis, so that merges meet the splits that undo them. Constants stand
 * on the right, subtraction of a constant is addition, division by a root is a division
 * (never a product with its reciprocal), small powers are products.
 *
 * Rules live in tables (simplify_*.c), fold's among them, and are
 * applied together to a fixed point. Results change by rounding only.
 * gives: CANONICAL. */
#include "passes/rewrite.h"

#define SIMPLIFY_SWEEPS 64

PassResult pass_simplify(PassCtx *cx, Graph *g) {
    const RuleSet sets[] = {fold_rules, arith_rules, move_rules, place_rules, turn_rules, sink_rules};
    return rewrite_run(cx, g, sets, COUNT_OF(sets), SIMPLIFY_SWEEPS, "simplified");
}
