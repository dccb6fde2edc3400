/* hits.h: what is known of a list of hits: the places where a router chose one expert. Private to passes/.
 *
 * nonzero(index[rows..., k] == e) lists the places of e in the choice. Values along the list are places, or
 * things picked by them; hits.c says which place, raise_hits.c tells the rest by rows and slots. */
#ifndef GPTC_HITS_H
#define GPTC_HITS_H

#include "passes/lift.h"

#define HIT_COORDS 4

/* An integer value along a list: component c is the sum over i of coef[c][i] * coordinate i. With several
 * components they stand along `axis`. */
typedef struct {
    uint32_t n, axis;
    Dim coef[HIT_COORDS][HIT_COORDS];
} Places;

/* The list of one expert: nonzero of index == expert. */
typedef struct {
    ValId list;  /* nonzero's result */
    SymId hits;  /* its length */
    ValId index; /* i64[rows..., k], places of topk along k */
    int64_t expert, experts;
    uint32_t rank;             /* coordinates: one for each axis of the index */
    uint32_t axis[HIT_COORDS]; /* of the index, for each coordinate */
} Hits;

/* v as places of one list, whose nonzero goes to *list (which may be set already: then no other will do). */
bool hits_places(Graph *g, ValId v, ValId *list, Places *out);
/* What the list of a nonzero is. */
bool hits_of(const Graph *g, ValId list, Hits *out);
/* The coordinates that component c of p runs through in row-major order (out[0] outermost), all of them from 0
 * to `length`; returns how many, 0 when it is no such thing. */
uint32_t hits_order(Graph *g, const Hits *h, const Places *p, uint32_t c, Dim length, uint32_t *out);

#endif
