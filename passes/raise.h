/* raise.h: private to the raising passes: views through data movement, and evaluation of what does
 * not depend on tokens. */
#ifndef GPTC_RAISE_H
#define GPTC_RAISE_H

#include "passes/pass.h"

/* ---- raise_moves.c: how a chain of reshapes, transposes and broadcasts lays out a source ----
 * Every axis is a list of atoms; an atom is a factor of one of the source's dimensions or was made by
 * a broadcast. Atoms of size 1 are left out. */
#define VIEW_ATOMS 24
typedef struct {
    uint8_t n, atom[VIEW_ATOMS];
} AtomList;
typedef struct {
    ValId src;
    uint32_t natoms;
    Dim dim[VIEW_ATOMS];
    bool made[VIEW_ATOMS];    /* by a broadcast */
    uint8_t home[VIEW_ATOMS]; /* the source's axis */
    AtomList order;           /* the source's own atoms, row-major */
    uint32_t rank;
    AtomList axis[MAX_RANK]; /* the view's axes, each row-major */
    double scale;            /* product of the scalars that were passed */
    uint32_t steps;          /* nodes between src and the viewed value */
} View;
/* The view of v from as far up as movement reaches; with `scalars` products with a scalar constant are
 * passed as well and collected in scale. Never fails: v itself is a view. */
void view_of(Graph *g, ValId v, bool scalars, View *out);
/* Movement applied to a view; false when the axes do not split that way. */
bool view_reshape(Graph *g, View *w, const Dim *dims, uint32_t rank);
void view_transpose(View *w, const uint8_t *perm);
/* Gives axis `at` (of size 1) a broadcast of size d. */
bool view_expand(View *w, uint32_t at, Dim d);
/* Takes broadcast atoms off the end of an axis: heads that repeat each key head. */
void view_unexpand(View *w, uint32_t axis);
Dim view_dim(Graph *g, const View *w, uint32_t axis);
uint32_t view_cost(Graph *g, const View *w); /* nodes that view_emit will add */
/* Builds the viewed value (without the scale) from src, or NO_VAL with the diag set. */
ValId view_emit(Graph *g, const View *w, Loc loc, Diag *d);
/* Rebuilds chains of movement that have a shorter form; returns how many. */
int64_t moves_shorten(PassCtx *cx, Graph *g);
/* reshape(v) to t's dimensions, or v when it has them. */
ValId move_reshape(Graph *g, ValId v, const Dim *dims, uint32_t rank, Loc loc, Diag *d);
ValId move_transpose(Graph *g, ValId v, const uint8_t *perm, Loc loc, Diag *d);

/* ---- position_eval.c: values of what does not depend on tokens ---- */
typedef struct {
    int64_t past, seq;
} Len;
bool graph_has_tokens(const Graph *g);
/* Small lengths that tell forms apart, none longer than limit; returns how many (at most 8). */
size_t position_lengths(const Graph *g, int64_t limit, Len out[8]);
/* Evaluates v with batch sequences of len.seq tokens after len.past. */
bool position_value(Graph *g, ValId v, int64_t batch, Len len, Tensor *out, Arena *a, Diag *d);
/* The context that tables are made for: --ctx, else the graph's bound, else 4096. */
int64_t position_context(const PassCtx *cx, const Graph *g);
/* Lowers g->context to what the graph's own position tables and mask buffers allow. */
void position_bound(PassCtx *cx, Graph *g);
/* v[..., seq, ...] as rows: entry (q, k) for position q = past + i and feature k, alike in every
 * sequence of a batch and at every length. Constant values have rows = 1 and no seq axis. */
typedef struct {
    Tensor t;
    int64_t rows, width, inner;
    int seq_axis;
} RowTable;
/* False with *why set (in scratch). May lower g->context when longer rows cannot be computed. */
bool position_rows(PassCtx *cx, Graph *g, ValId v, int64_t rows, RowTable *out, const char **why);
double row_get(const RowTable *t, int64_t q, int64_t k);
/* i64[seq]: past + index, made once, at the graph's start. */
ValId position_ids(Graph *g, Diag *d);
/* Depends on a symbol: no tokens, but no constant either. Indexed by value id. */
bool *graph_dynamic(const Graph *g, Arena *a);
bool tensor_same(double a, double b);

/* ---- position_cut.c: one row of a value, without computing the others ---- */
/* A value in g (a copy is best) that is v's row q along axis, with that dimension 1, or NO_VAL. bind:
 * what symbols will be when it is evaluated. */
ValId position_cut(Graph *g, ValId v, uint32_t axis, int64_t q, const int64_t *bind, size_t nbind,
                   Arena *scratch, Diag *d);

/* ---- position_mask.c: what a mask is ---- */
typedef struct {
    bool causal;
    int64_t window; /* 0 = none */
    bool sloped;
    int64_t heads;
    float *slopes; /* [heads], scratch */
} MaskForm;
/* Recognises mask (of attention node n). False with *why set. */
bool mask_recognise(PassCtx *cx, Graph *g, NodeId n, ValId mask, MaskForm *out, const char **why);

/* ---- state_form.c ---- */
/* Before attention is matched: [batch, heads, past, d] becomes token-major, and presents are no outputs. */
bool states_turn(PassCtx *cx, Graph *g);
/* After it: every state has the form that attention reads. */
bool states_fit(PassCtx *cx, Graph *g);

/* ---- raise_rope.c, raise_attention_scores.c ---- */
bool raise_ropes(PassCtx *cx, Graph *g, int64_t *count);
/* Raises the attention that ends in the product at node n. False on an error; *did says if it matched. */
bool raise_scores(PassCtx *cx, Graph *g, const bool *taint, size_t ntaint, NodeId n, bool *did);

/* ---- token_scales.c ---- */
/* Ranges of dynamic quantisation over all tokens become one per token; counts them. */
bool token_scales(PassCtx *cx, Graph *g, int64_t *count);

/* ---- cache_proof.c ---- */
/* The cache proof. False with *reason and the diag set. */
bool cache_prove(PassCtx *cx, Graph *g, const char **reason);

#endif
