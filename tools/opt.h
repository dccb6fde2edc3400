/* opt.h: what the files of gptc-opt share: its options, and values of graphs on made-up inputs. */
#ifndef GPTC_OPT_H
#define GPTC_OPT_H

#include "tools/driver.h"

typedef struct {
    const char *passes, *disable, *dump, *dump_dir, *out, *bind, *weights;
    bool check, bless, verify, list, diff, eval, pipeline, time;
    int64_t level, ctx, seed, range;
    bool no_kv_cache;
    const char *error; /* of a test: the diag must say this */
} Options;

/* opt_values.c */
bool graph_has_past(const Graph *g);
/* Both start from the same past: every past input of `a` is one of b's, laid out alike. When a pass lays
 * state out anew, graphs are compared from the start of a sequence. */
bool graphs_share_past(const Graph *a, const Graph *b);
/* Values of the graph on inputs that are the same for every graph that has an input of that name. past:
 * whether the graphs compared start from some. */
bool graph_values(Graph *g, const Options *o, bool past, const ValId *want, size_t n, Tensor *out, Arena *a,
                  Diag *d);
/* Largest difference relative to the largest element; INFINITY when shapes or dtypes differ. */
double tensor_differs(const Tensor *a, const Tensor *b);
double tensor_tolerance(DType t); /* what a pass may change */
const Port *output_named(const Graph *g, const char *name);

/* opt_diff.c: evaluates both, names the first value that differs. False with the diag set when one does. */
bool diff_graphs(Graph *a, Graph *b, const Options *o, Arena *arena, Diag *d);

#endif
