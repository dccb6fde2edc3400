/* rewrite.h: the engine behind the passes that apply local rules, private to passes/.
 *
 * A rule looks at one node and either leaves it alone or returns a value that replaces output 0 of
 * the node. The engine sweeps the graph in order until no rule fires. Rules never depend on user
 * counts to be correct, only to pay off: counts are taken once a sweep and are stale after an edit
 * (a value made in this sweep counts as used more than once). */
#ifndef GPTC_REWRITE_H
#define GPTC_REWRITE_H

#include "passes/pass.h"

typedef struct {
    PassCtx *cx;
    Graph *g;
    Diag *d;
    Uses uses;
    NodeId node; /* being looked at; new nodes go before it */
    bool failed; /* a node could not be made: the diag says why */
    bool edited; /* a rule changed an operand or attribute in place */
} Rewrite;

typedef ValId RuleFn(Rewrite *r, NodeId id);
typedef struct {
    Op op;            /* OP_NONE: every op */
    const char *name; /* "before -> after" */
    RuleFn *fn;
} Rule;
typedef struct {
    const Rule *rules;
    size_t count;
} RuleSet;

/* Applies the sets to a fixed point (at most `sweeps` sweeps; reaching the bound is no error, rules
 * only ever improve). Counts firings under `counter`. Dead nodes are erased after each sweep. */
PassResult rewrite_run(PassCtx *cx, Graph *g, const RuleSet *sets, size_t nsets, uint32_t sweeps,
                       const char *counter);
/* Erases nodes and frees constants that no output or state needs; returns how many nodes went. */
int64_t rewrite_sweep_dead(PassCtx *cx, Graph *g);

/* Making nodes; on failure NO_VAL and r->failed. */
ValId rw_add(Rewrite *r, Op op, const ValId *in, size_t nin, const Attr *attr, const Type *result);
ValId rw_unary(Rewrite *r, Op op, ValId x);
ValId rw_binary(Rewrite *r, Op op, ValId a, ValId b);
ValId rw_typed(Rewrite *r, Op op, ValId x, const Type *t);    /* reshape, broadcast, cast */
ValId rw_reshape(Rewrite *r, ValId x, const Type *t);         /* x itself when it has the type */
ValId rw_transpose(Rewrite *r, ValId x, const uint8_t *perm); /* x itself when identity */
ValId rw_scalar(Rewrite *r, DType t, double v);               /* rank 0 constant */
bool rw_once(const Rewrite *r, ValId v);                      /* used once */

/* ---- match.c ---- */
bool match_const_like(const Graph *g, ValId v); /* constant, seen through casts and movement */
/* v is constant-like and, broadcast to x's shape, differs along the last axis only, n long. */
bool match_row(const Graph *g, ValId v, Dim n);
/* Equal by structure to a small depth: the same value, or the same op on the same operands. */
bool match_same(const Graph *g, ValId a, ValId b);
bool type_dims_eq(const Type *a, const Type *b); /* shapes alone */

/* ---- simplify_grid.c ---- */
RuleFn scatter_grid;

/* ---- fold.c, simplify_*.c: the tables ---- */
extern const RuleSet fold_rules, move_rules, sink_rules, arith_rules, place_rules, turn_rules;

#endif
