/* doctor_arch.h: what doctor_arch.c finds and doctor_words.c says. */
#ifndef GPTC_DOCTOR_ARCH_H
#define GPTC_DOCTOR_ARCH_H

#include "tools/doctor.h"

typedef enum { PART_NONE, EMBEDDING, POSITIONS, ATTENTION, FEED, NORMS, HEAD, OTHER, PART_COUNT } Part;
typedef struct {
    NodeId attention, start; /* start: the layer's first node */
    ValId stream;            /* what the layer reads and is added to */
    const Node *rope, *pre, *inner, *sum;
    bool bias_in, bias_out, qk_norm, low_rank, gated_out, parallel, post;
    const Node *act, *routed; /* of the feed-forward part; routed: one product of its experts */
    bool act_gated, act_squared;
} Layer;
typedef struct {
    Graph *g;
    Arena *a;
    Report *r;
    Uses uses;
    const bool *taint;
    uint32_t *order; /* by node id; 0 = dead */
    uint8_t *part;   /* of linear nodes, by node id */
    VEC(Layer) layers;
    NodeId head;
    const Node *final_norm;
    double logits_cap;
    ValId embedding, rows; /* tables; rows: of learned or computed positions */
} Arch;

/* Fills in what is left of a, which has g, r and the arena. */
void arch_read(Arch *a);
/* The largest constant that v is made from without tokens; NO_VAL without one. */
ValId arch_constant(const Arch *a, ValId v);
bool arch_tainted(const Arch *a, ValId v);
int64_t arch_width(const Arch *a, ValId v); /* the last dimension; 0 when it is no number */
static inline bool arch_has(const Node *n, uint32_t i) { return i < n->nin && val_ok(n->in[i]); }

#endif
