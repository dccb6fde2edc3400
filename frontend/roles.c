/* roles.c: what each graph input is for, found from how the nodes use it; then the graph's inputs.
 *
 *   tokens      integers that pick rows of an initializer (the embedding)
 *   positions   integers that pick rows of another initializer, or whose sine or cosine is taken
 *   segments    integers that pick rows of a table of a few, too short for positions
 *   past        floats of rank 4 and up that are the first part of a Concat along an inner axis, or
 *               the past operand of an attention op
 *   mask        what remains of rank 2 to 4, also when its running sum gives the positions
 *   use_cache   a single bool
 *   length      integers of rank 0 or 1 that an op takes for the number of tokens
 * A walk over the uses, through ops that keep each element, decides; names only break ties. A graph
 * without tokens is a plain function, and its inputs keep what they declare. */
#include <string.h>

#include "frontend/roles.h"

#define SEGMENT_ROWS 8

typedef struct {
    bool gathers, rotates, sums, segments;
    bool places; /* an operand that is positions by its op's definition */
    int64_t rows;
} Found;

static void visit_index_use(UseWalk *w, const INode *n, uint32_t slot, Found *f) {
    bool embed = strcmp(n->op, "EmbedLayerNormalization") == 0;
    if (((strcmp(n->op, "Gather") == 0 || strcmp(n->op, "GatherBlockQuantized") == 0) && slot == 1) ||
        (embed && (slot == 0 || slot == 8))) {
        uint32_t table = embed ? weight_of(w, n->in[slot == 0 ? 2 : 3]) : weight_of(w, n->in[0]);
        if (table == 0) return;
        const OTensor *t = w->im->tensors.data[table].init;
        if (t->rank < 2) return;
        f->gathers = true;
        f->places |= embed && slot == 8;
        if (t->dim[0] > f->rows) f->rows = t->dim[0];
    }
    if (embed && slot == 1) f->segments = true;
    if (strcmp(n->op, "Sin") == 0 || strcmp(n->op, "Cos") == 0) f->rotates = true;
    if (strcmp(n->op, "RotaryEmbedding") == 0 && slot != 0) f->rotates = true;
    if (strcmp(n->op, "CumSum") == 0 && slot == 0) f->sums = true;
}

static Found walk_index(UseWalk *w, uint32_t input) {
    Found f = {0};
    uint32_t t = 0;
    uses_start(w, input);
    while (uses_next(w, &t)) {
        for (uint32_t i = 0; i < w->count[t]; i++) {
            Use u = w->uses[w->first[t] + i];
            const INode *n = u.node;
            visit_index_use(w, n, u.slot, &f);
            bool on = (keeps_elements(n) && u.slot == 0) || op_is(n, "MatMul Mul Concat Einsum Add Sub");
            if (on && n->nout > 0) uses_push(w, n->out[0]);
        }
    }
    return f;
}

static bool is_named(const char *option, const char *name) {
    return option != NULL && strcmp(option, name) == 0;
}

static bool option_ok(const Import *im, const char *option, const char *what) {
    if (option == NULL) return true;
    for (size_t i = 0; i < im->ninputs; i++)
        if (strcmp(im->input_info[i]->name, option) == 0) return true;
    return diag_error(im->d, loc_none(), "there is no input '%s' for the %s", option, what);
}

/* How many tokens there are, as the declared logits say: the widest float output of rank 3; 0 when none does. */
static int64_t declared_vocabulary(const Import *im) {
    int64_t most = 0;
    for (size_t i = 0; i < im->noutputs; i++) {
        const OInfo *info = &im->model.graph.outputs[i];
        if (is_named(im->opt->logits, info->name) && info->rank > 0) return info->dim[info->rank - 1].value;
        if (info->rank == 3 && float_type(info->type) && info->dim[2].value > most) most = info->dim[2].value;
    }
    return most;
}

/* The input that picks rows of a table with a row for each logit, else of the largest table; among equals
 * the one not called a position or a segment, then the first. */
static void find_tokens(Import *im, const Found *found) {
    int best = -1;
    int64_t best_score = -1, vocabulary = declared_vocabulary(im);
    for (size_t i = 0; i < im->ninputs; i++) {
        const OInfo *info = im->input_info[i];
        if (im->opt->input_ids != NULL) {
            if (is_named(im->opt->input_ids, info->name)) best = (int)i;
            continue;
        }
        if (!found[i].gathers || found[i].sums || found[i].places ||
            is_named(im->opt->positions, info->name) || is_named(im->opt->mask, info->name))
            continue;
        bool other = strstr(info->name, "pos") != NULL || strstr(info->name, "type") != NULL;
        int64_t rows = found[i].rows < DIM_MAX / 4 ? found[i].rows : DIM_MAX / 4;
        int64_t score = 2 * rows + !other + (vocabulary > 0 && rows == vocabulary ? DIM_MAX / 2 : 0);
        if (score > best_score) {
            best = (int)i;
            best_score = score;
        }
    }
    if (best >= 0) im->roles[best] = ROLE_TOKENS;
}

/* The last two axes may be queries by keys: not one symbolic and one a number, as [.., seq, hidden] is. */
static bool square_tail(const OInfo *info) {
    const ODim *d = info->dim + info->rank - 2;
    return (d[0].param == NULL) == (d[1].param == NULL) || d[0].value == 1;
}

static Role role_of(const Import *im, size_t i, const Found *f, const PastForm *past, Count count) {
    const OInfo *info = im->input_info[i];
    if (is_named(im->opt->positions, info->name)) return ROLE_POSITIONS;
    if (is_named(im->opt->mask, info->name)) return ROLE_MASK;
    if (past->past) return ROLE_PAST;
    if (info->rank <= 2 && (f->segments || (f->gathers && !f->sums && f->rows <= SEGMENT_ROWS)))
        return ROLE_SEGMENTS;
    if (count != NO_COUNT) return ROLE_LENGTH;
    if (integer_type(info->type) && (f->gathers || f->rotates) && !f->sums && info->rank <= 2)
        return ROLE_POSITIONS;
    if (info->type == 9 && (info->rank == 0 || (info->rank == 1 && info->dim[0].value == 1)))
        return ROLE_USE_CACHE;
    if (info->rank == 2 && strstr(info->name, "pos") != NULL && integer_type(info->type))
        return ROLE_POSITIONS;
    bool flags = integer_type(info->type) || info->type == 9;
    if (info->rank == 2 && (flags || float_type(info->type))) return ROLE_MASK;
    if (info->rank == 3 && flags) return ROLE_MASK;
    if (info->rank == 4 && (flags || float_type(info->type)) && square_tail(info)) return ROLE_MASK;
    return ROLE_NONE;
}

static const char *role_reason(const Import *im, size_t i, const Found *f, const PastForm *past) {
    const char *name = im->input_info[i]->name;
    switch (im->roles[i]) {
    case ROLE_TOKENS:
        if (is_named(im->opt->input_ids, name)) return "named by --input-ids";
        return arena_printf(im->arena, "picks rows of a table of %lld, %s", (long long)f->rows,
                            f->rows == declared_vocabulary(im) ? "one for each logit" : "the largest");
    case ROLE_POSITIONS:
        if (is_named(im->opt->positions, name)) return "named by --positions";
        if (f->rotates) return "its sine or cosine is taken";
        if (f->gathers) return arena_printf(im->arena, "picks rows of a table of %lld", (long long)f->rows);
        return "integers a token that nothing else explains";
    case ROLE_SEGMENTS:
        return f->segments
                   ? "the segments of an embedding"
                   : arena_printf(im->arena, "picks rows of a table of %lld alone", (long long)f->rows);
    case ROLE_MASK:
        if (is_named(im->opt->mask, name)) return "named by --mask";
        return f->sums ? "flags whose running sum counts positions" : "flags beside the tokens";
    case ROLE_PAST:
        return arena_printf(im->arena, "new rows are appended to it along axis %u", past->past_axis);
    case ROLE_USE_CACHE: return "a single bool";
    case ROLE_LENGTH: return "the operand of an attention op or a cache that counts tokens";
    default: return "no token, position, mask or past by its use";
    }
}

bool roles_find(Import *im, PastForm *forms, Count *counts, const char **reasons) {
    Found *found = arena_array_of(im->scratch, im->ninputs, Found);
    UseWalk w;
    if (!option_ok(im, im->opt->input_ids, "tokens") || !option_ok(im, im->opt->positions, "positions") ||
        !option_ok(im, im->opt->mask, "mask"))
        return false;
    uses_init(&w, im);
    for (size_t i = 0; i < im->ninputs; i++)
        if (integer_type(im->input_info[i]->type)) found[i] = walk_index(&w, im->inputs[i]);
    find_tokens(im, found);
    const OInfo *tokens = NULL;
    for (size_t i = 0; i < im->ninputs; i++)
        if (im->roles[i] == ROLE_TOKENS) tokens = im->input_info[i];
    for (size_t i = 0; i < im->ninputs && tokens != NULL; i++) {
        const OInfo *info = im->input_info[i];
        if (float_type(info->type) && info->rank >= 3 && info->rank <= MAX_RANK)
            forms[i] = past_find(&w, im->inputs[i], info, tokens);
        if (integer_type(info->type) && info->rank <= 1) counts[i] = count_find(&w, im->inputs[i]);
        if (im->roles[i] == ROLE_NONE) im->roles[i] = role_of(im, i, &found[i], &forms[i], counts[i]);
    }
    for (size_t i = 0; i < im->ninputs; i++) reasons[i] = role_reason(im, i, &found[i], &forms[i]);
    return true;
}
