/* roles_embeds.c: decoders whose embedding stands outside of the graph.
 *
 * A graph without tokens is a plain function, and is taken as one. When it has a past that new rows are
 * appended to, one input of hidden states and an output with more features than those have, it is the larger
 * part of a GPT, and whoever compiles it should know what is missing. */
#include "frontend/roles.h"

static bool appended_to(UseWalk *w, size_t i, const OInfo *hidden) {
    const OInfo *info = w->im->input_info[i];
    OInfo rows = *hidden; /* [batch, seq], as tokens would be */
    rows.rank = 2;
    return float_type(info->type) && info->rank >= 3 && info->rank <= MAX_RANK &&
           past_find(w, w->im->inputs[i], info, &rows).past;
}

void embeds_note(UseWalk *w) {
    const Import *im = w->im;
    const OInfo *hidden = NULL;
    bool past = false, logits = false;
    for (size_t i = 0; i < im->ninputs; i++) {
        const OInfo *info = im->input_info[i];
        if (!float_type(info->type) || info->rank != 3 || appended_to(w, i, info)) continue;
        if (hidden != NULL) return;
        hidden = info;
    }
    if (hidden == NULL || hidden->dim[2].param != NULL) return;
    for (size_t i = 0; i < im->ninputs; i++) past = past || appended_to(w, i, hidden);
    for (size_t i = 0; i < im->noutputs; i++)
        logits = logits || (im->model.graph.outputs[i].rank == 3 &&
                            head_features(w, im->outputs[i]) > hidden->dim[2].value);
    if (past && logits)
        diag_warn(
            im->d, loc_none(),
            "input '%s' is the hidden states of a GPT without its embedding, so this is compiled as a "
            "plain function, without a cache of its own; hint: export the model with token ids as input",
            hidden->name);
}
