/* lift.h: values along a merged axis, told again with the axes it stands for. Private to passes/.
 *
 * Some exporters compute experts on a list: of the slots that chose an expert (an axis whose length only
 * running tells), or of all slots of all rows (an axis of k * rows). The list stands for places of the
 * router's choice, index[rows..., k]. lift() gives a value v[.., list, ..] as v'[rows..., k, others...], where
 * others are v's other axes in order; v' may have 1 where it is the same along an axis. What v' holds at
 * places that are not on the list is of no account. */
#ifndef GPTC_LIFT_H
#define GPTC_LIFT_H

#include "passes/pass.h"

typedef struct Lift Lift;
struct Lift {
    Graph *g;
    Diag *d;
    Loc loc;
    Dim dim;     /* of the list; no other axis may have it */
    Type lead;   /* dims [rows..., k] */
    ValId index; /* i64 lead: which expert */
    ValId *map;  /* by value id, nmap: what has been lifted */
    size_t nmap;
    uint32_t depth;
    /* The lifted form of node n's result where the list begins, NO_VAL elsewhere; *failed when there is none. */
    ValId (*source)(Lift *l, const Node *n, bool *failed);
    /* What stands for constant v, stacked over the experts; NO_VAL when v is the same for all. May be NULL. */
    ValId (*stacked)(Lift *l, ValId v);
    void *user;
};

/* The axis of v that is the list; -1 when there is none or several. */
int lift_axis(const Lift *l, const Type *t);
/* NO_VAL, with or without the diag set, when some op on the way is not known; nodes made are then dead. */
ValId lift(Lift *l, ValId v);
/* reshape(v), lead dims in front of others. */
ValId lift_reshape(Lift *l, ValId v, const Dim *others, uint32_t n);

#endif
