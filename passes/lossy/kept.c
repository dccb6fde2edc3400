/* kept.c: a lab that computes the moments of a site's inputs once. Steps are priced on one unchanged model and one text,
 * and ask for the same moments when they are forecast, measured alone and measured together. */
#include "passes/lossy/kept.h"

#define MOST_BYTES ((size_t)256 << 20) /* what is beyond is computed again */

static bool kept_set(Lab *lab, uint32_t site, const float *w, Diag *d) {
    KeptLab *k = lab->self;
    if (site < k->nsites) {
        k->nchanged = k->nchanged - k->changed[site] + (w != NULL);
        k->changed[site] = w != NULL;
    }
    return k->of->set(k->of, site, w, d);
}

static bool kept_measure(Lab *lab, const Windows *t, Quality *out, Diag *d) {
    KeptLab *k = lab->self;
    return k->of->measure(k->of, t, out, d);
}

static bool kept_measure_graph(Lab *lab, const Graph *g, const Windows *t, Quality *out, Diag *d) {
    KeptLab *k = lab->self;
    return k->of->measure_graph(k->of, g, t, out, d);
}

static bool kept_moments(Lab *lab, const Windows *t, const uint32_t *sites, uint32_t n, Arena *a,
                         Moments *out, Diag *d) {
    KeptLab *k = lab->self;
    size_t bytes = 0;
    uint32_t missing = 0, *ask = arena_array_of(k->arena, n, uint32_t);
    for (uint32_t i = 0; i < n; i++) {
        if (k->moments[sites[i]].xx) continue;
        bytes += (size_t)(k->sites[sites[i]].cols * k->sites[sites[i]].cols) * sizeof(float);
        ask[missing++] = sites[i];
    }
    if (t != k->text || k->nchanged > 0 || bytes > MOST_BYTES - k->bytes)
        return k->of->moments(k->of, t, sites, n, a, out, d);
    Moments *made = arena_array_of(k->arena, missing, Moments);
    if (missing > 0 && !k->of->moments(k->of, t, ask, missing, k->arena, made, d)) return false;
    k->bytes += bytes;
    for (uint32_t i = 0; i < missing; i++) k->moments[ask[i]] = made[i];
    for (uint32_t i = 0; i < n; i++) out[i] = k->moments[sites[i]];
    return true;
}

void kept_lab_init(KeptLab *k, Lab *of, const Windows *text, const Site *sites, size_t nsites, Arena *a) {
    *k = (KeptLab){.lab = {k, kept_set, kept_measure, kept_moments, kept_measure_graph},
                   .of = of,
                   .text = text,
                   .sites = sites,
                   .nsites = nsites,
                   .arena = a,
                   .moments = arena_array_of(a, nsites, Moments),
                   .changed = arena_array_of(a, nsites, bool)};
}
