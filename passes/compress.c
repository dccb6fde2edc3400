/* compress.c: the passes that change what a model computes, where somebody brings what they need.
 *
 * Their price is measured by running the model (passes/lossy), which passes cannot do: the one who runs the pipeline
 * gives a function that can (PassOptions.lossy). Without it they leave the graph alone. */
#include "passes/pass.h"

static PassResult run_lossy(PassCtx *cx, Graph *g) {
    const LossyHook *hook = cx->opt->lossy;
    if (!hook) return PASS_UNCHANGED;
    int64_t changed = 0;
    if (!hook->run(hook->self, cx->pass, g, &changed, cx->diag)) return PASS_FAILED;
    pass_count(cx, "changed", changed);
    return changed ? PASS_CHANGED : PASS_UNCHANGED;
}

PassResult pass_prune(PassCtx *cx, Graph *g) { return run_lossy(cx, g); }
PassResult pass_quantize(PassCtx *cx, Graph *g) { return run_lossy(cx, g); }
