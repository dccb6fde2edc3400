/* lossy_cache.c: whether the KV cache keeps 8 bits.
 *
 * Tried on what the search for formats found, and measured as it would be shipped. It pays when it costs less than as
 * many bits of weights would: the cache of a whole context counts as memory like the weights. When it pays and the
 * budget has no room for both, the search goes on with less to spend. */
#include <math.h>

#include "tools/lossy.h"

static const char *not_tried(const Lossy *l) {
    if (l->opt.cache == CACHE_F32) return "--cache f32";
    if (l->opt.cache == CACHE_INT8) return NULL;
    if (l->write->targets && l->write->targets->n_cuda) return "CUDA kernels read a cache in fp32";
    if (!budget_of_quality(l->opt.budget)) return "a budget of size is for weights; --cache q8 asks for it";
    return NULL;
}

/* KL that as many bits of weights would cost (lossy.h, shrink_worth). */
static double worth(const Lossy *l, double kl, const LossyCache *c) {
    double saved = (double)(c->bits[0] - c->bits[1]) * (double)l->context;
    return log(4) * fmax(kl, 0) * saved / (double)l->weights;
}

bool lossy_cache_apply(Lossy *l, LossyAttempt *x, Diag *d) {
    Graph *g = graph_copy(x->search.graph, x->search.graph_arena);
    x->cache.bits[0] = cache_bits(g, false), x->cache.bits[1] = cache_bits(g, true);
    x->cache.kept = true;
    return cache_round(g, d) && (x->search.graph = g) != NULL &&
           x->lab->measure_graph(x->lab, g, &l->text.evaluation, &x->measured, d);
}

bool lossy_cache(Lossy *l, LossyAttempt *x, bool room, Diag *d) {
    LossyCache *c = &x->cache;
    Graph *g = x->search.graph;
    Quality before = x->measured;
    *c = (LossyCache){.bits = {cache_bits(g, false), cache_bits(g, true)}, .why = not_tried(l)};
    if (c->why || c->bits[0] == 0) return true;
    if (!lossy_cache_apply(l, x, d)) return false;
    double share = budget_share(l->opt.budget, &x->measured, LOSSY_ERRORS);
    c->kl = x->measured.mean_kl - before.mean_kl;
    c->worth = worth(l, before.mean_kl, c);
    c->tried = true;
    c->kept = l->opt.cache == CACHE_INT8 || (c->kl < c->worth && (share <= 1 || room));
    c->why = l->opt.cache == CACHE_INT8 ? "--cache q8"
             : c->kept                  ? "as many bits of weights cost more"
             : c->kl < c->worth         ? "breaks the budget"
                                        : "fewer bits of weights cost less";
    if (c->kept) return true;
    x->search.graph = g, x->measured = before;
    return true;
}
