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
/* The initializer that a tensor is made of by copying, casting, reshaping or dequantising; 0 when there is none. */
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

/* ---- roles_mask.c ---- */
typedef enum {
    USE_ROLE,         /* as im->roles says */
    USE_ZERO,         /* all zeros: what is added to scores */
    USE_CAUSAL,       /* which keys a query may see */
    USE_PAST_LENGTH,  /* a number: tokens before the new ones */
    USE_TOTAL_LENGTH, /* those and the new ones */
    USE_ALL_LENGTH    /* the new ones: how many logits are wanted */
} InputUse;
typedef enum { MASK_NONE, MASK_FLAGS, MASK_BLOCKS, MASK_ADDED } MaskSense;
typedef struct {
    PastForm past;
    InputUse use; /* what is bound when importing; the input is none of the graph then */
    MaskSense sense;
} InputForm;
/* Sets the role, or the use and sense, of a mask. */
void mask_find(const UseWalk *w, size_t input, InputForm *form);

/* ---- roles_embeds.c ---- */
/* In a graph without tokens: a warning when it is a GPT that takes hidden states in their place. */
void embeds_note(UseWalk *w);

/* ---- roles.c ---- */
/* Features of the product that makes a value, seen through what keeps its last axis; 0 when there is none. */
int64_t head_features(const UseWalk *w, uint32_t tensor);
/* Finds im->roles and what else is to be known of each input; reasons[], for people. */
bool roles_find(Import *im, InputForm *forms, Count *counts, const char **reasons);

/* ---- input_values.c ---- */
/* Makes input i what its use says, with these dimensions. */
bool input_bind(Import *im, size_t i, const InputForm *form, bool has_past, const Dim *dims);

#define ONNX_BOOL 9
static inline bool integer_type(int type) { return type == 6 || type == 7; }
static inline bool float_type(int type) { return type == 1 || type == 10 || type == 11 || type == 16; }

#endif
