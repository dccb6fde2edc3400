/* roles.h: shared by the files that find out what inputs are for, and by nothing else. */
#ifndef GPTC_ROLES_H
#define GPTC_ROLES_H

#include "frontend/import.h"

/* ---- roles_uses.c: who reads what, bodies of If included ---- */
typedef struct {
    const INode *node;
    uint32_t slot;
} Use;
typedef struct {
    Import *im;
    VEC(const INode *) nodes;
    uint32_t *first, *count; /* by tensor, into uses */
    Use *uses;
    const INode **maker; /* by tensor; NULL for inputs and initializers */
    bool *seen;          /* by tensor, for one walk */
    uint32_t *todo;
    size_t ntodo;
} UseWalk;
void uses_init(UseWalk *w, Import *im);
void uses_start(UseWalk *w, uint32_t tensor);
void uses_push(UseWalk *w, uint32_t tensor);
bool uses_next(UseWalk *w, uint32_t *tensor);
bool op_is(const INode *n, const char *list); /* one of the names in the list */
bool keeps_elements(const INode *n);          /* hands each element of operand 0 on */
int64_t node_attr(const INode *n, const char *name, int64_t def);
/* The initializer that a tensor is made of by copying, casting or dequantising; 0 when there is none. */
uint32_t weight_of(const UseWalk *w, uint32_t tensor);
/* Integers of an initializer or Constant node; false when they are not known. *rank is the tensor's. */
bool known_ints(const UseWalk *w, uint32_t tensor, const int64_t **v, size_t *n, size_t *rank);

/* ---- roles_past.c: which inputs are the past, and how it lies in them ---- */
#define NO_AXIS MAX_RANK
typedef struct {
    bool past, operand;             /* operand: an attention op takes it */
    bool buffer;                    /* its length is what it has room for, not what is in it */
    uint32_t past_axis, batch_axis; /* batch_axis may be NO_AXIS: merged with another one */
} PastForm;
/* What an integer input of rank 0 or 1 counts, by the operand that it is; NO_COUNT when it is none. */
typedef enum { NO_COUNT, COUNT_PAST, COUNT_LAST, COUNT_TOTAL } Count;
Count count_find(UseWalk *w, uint32_t input);
PastForm past_find(UseWalk *w, uint32_t input, const OInfo *info, const OInfo *tokens);

/* ---- roles.c ---- */
/* Finds im->roles; forms[] of those that are the past; reasons[], for people. */
bool roles_find(Import *im, PastForm *forms, Count *counts, const char **reasons);

static inline bool integer_type(int type) { return type == 6 || type == 7; }
static inline bool float_type(int type) { return type == 1 || type == 10 || type == 11 || type == 16; }

#endif
