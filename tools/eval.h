/* eval.h: what the files of gptc-eval share: its options and a model that is open. */
#ifndef GPTC_EVAL_H
#define GPTC_EVAL_H

#include "ir/base/base.h"
#include "runtime/gptc.h"

#define TOOL "gptc-eval"

typedef struct {
    const char *tokens, *expect, *dump, *text, *against, *score, *device, *decode;
    bool stepwise, json;
    int64_t chunk, window, threads;
} Options;

typedef struct {
    Arena *arena;
    Diag diag;
    gptc_model *model;
    gptc_session *session;
    gptc_model_info info;
} Eval;

/* -1, or the exit status of an error that is printed. */
int eval_open(Eval *e, const char *path, int64_t context, int64_t sequences, const Options *o);
void eval_close(Eval *e);

/* eval_text.c: perplexity on o->text, and the divergence from o->against. The exit status. */
int eval_text(const Options *o, const char *path);

#endif
