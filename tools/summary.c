/* summary.c: what a compile says of itself when it is done. */
#include "tools/summary.h"

#include <inttypes.h>
#include <stdio.h>

void summary_graph(const Compile *c, bool no_cache, int64_t ctx) {
    const Graph *g = c->graph;
    if (c->function) {
        fprintf(stderr, "  graph     %u nodes of %u ONNX nodes: %u norm, %u linear\n", graph_count_nodes(g),
                c->onnx.nnodes, graph_count_op(g, OP_NORM), graph_count_op(g, OP_LINEAR));
        fprintf(stderr, "  function  %zu inputs, %zu outputs; no cache: %s\n", g->inputs.count,
                g->outputs.count,
                no_cache ? "--no-kv-cache" : "no GPT, the graph has no tokens or no logits");
        return;
    }
    fprintf(stderr, "  graph     %u nodes of %u ONNX nodes: %u attention, %u norm, %u linear, %u rope\n",
            graph_count_nodes(g), c->onnx.nnodes, graph_count_op(g, OP_ATTENTION), graph_count_op(g, OP_NORM),
            graph_count_op(g, OP_LINEAR), graph_count_op(g, OP_ROPE));
    fprintf(stderr, "  cache     %s%s%s; context %" PRId64 "\n", c->proof.proven ? "proven" : "none",
            c->proof.reason ? ": " : "", c->proof.reason ? c->proof.reason : "", ctx);
}

static void summary_verified(const CompileResult *r) {
    double error = r->gate.max_err / r->gate.ref_std;
    if (r->kind == COMPILED_FUNCTION)
        fprintf(stderr,
                "  verified  on random inputs, %" PRId64
                " times: largest error %.1e of the largest element\n",
                r->gate.tokens, error);
    else
        fprintf(stderr,
                "  verified  %" PRId64 " tokens whole%s: largest error %.1e of the logits' deviation\n",
                r->gate.tokens, r->kind == COMPILED_ROWS ? ", stepwise and in chunks" : "", error);
}

void summary_written(const CompileResult *r, const char *out, double seconds) {
    if (r->kind == COMPILED_ROWS)
        fprintf(stderr, "  plan      %u steps, %" PRIu64 " bytes of activations a row, %u states\n", r->steps,
                r->plan.row_bytes, r->states);
    else
        fprintf(stderr, "  plan      %u nodes%s\n", r->steps,
                r->kind == COMPILED_GPT ? "; every call runs the whole sequence" : "");
    if (r->gate.tokens) summary_verified(r); /* lossy ones have a gate of their own */
    if (r->kernels.functions)
        fprintf(stderr,
                "  cuda      %u kernels, %u launches, %zu lines, %.1f MB of code, %u spilling; NVRTC %.1f s, "
                "%u from the cache\n",
                r->kernels.functions, r->kernels.launches, r->kernels.lines, (double)r->kernels.bytes / 1e6,
                r->kernels.spills, r->kernels.seconds, r->kernels.cached);
    if (r->kernels.no_decode)
        fprintf(stderr, "  decode    a graph of kernels; no persistent kernel for %s\n",
                r->kernels.no_decode);
    fprintf(stderr, "  wrote     %s: %.1f MB, tokenizer %s, in %.1f s\n", out,
            (double)r->pack.file_bytes / 1e6, r->has_tokenizer ? "inside" : "none", seconds);
}
