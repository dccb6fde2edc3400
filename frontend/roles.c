/* roles.c: what each graph input is for, found from how the nodes use it.
 *
 *   tokens      integers that pick rows of the embedding: the table that the head shares, or that has as many
 *               rows as there are logits, else the largest
 *   positions   integers that pick rows of another table, whose sine or cosine is taken, or that are compared
 *               in order with other positions
 *   segments    integers that pick rows of a third table, or of the embedding beside the tokens: all 0
 *   past        what new rows are appended to (roles_past.c)
 *   mask        flags, 1 where a token is; or what is added to scores, 0 there (roles_mask.c)
 *   use_cache   a single bool
 *   length      integers of rank 0 or 1 that an op takes for the number of tokens
 *   lengths     single integers, by what starts or ends there
 * A walk over the uses, through ops that keep each element, decides; names only break ties. A graph
 * without tokens is a plain function, and its inputs keep what they declare. */
#include <string.h>

#include "frontend/roles.h"

#define FEW_ROWS 8 /* a table of positions has more */

typedef struct {
    bool gathers, rotates, sums, orders, segments;
    bool places;    /* an operand that is positions by its op's definition */
    uint32_t table; /* the largest one picked from */
    int64_t rows;
    /* of single integers: reaches there unchanged, or subtracted */
    bool starts, ends, cuts, other;
} Found;

static bool picks_rows(const INode *n, uint32_t slot, uint32_t *table) {
    bool embed = op_is(n, "EmbedLayerNormalization") && (slot == 0 || slot == 8);
    if (!embed && !(op_is(n, "Gather GatherBlockQuantized") && slot == 1)) return false;
    *table = n->in[!embed ? 0 : slot == 0 ? 2 : 3];
    return true;
}

static void visit_index_use(UseWalk *w, const INode *n, uint32_t slot, Found *f) {
    uint32_t table = 0;
    if (picks_rows(n, slot, &table) && (table = weight_of(w, table)) != 0) {
        const OTensor *t = w->im->tensors.data[table].init;
        f->places |= op_is(n, "EmbedLayerNormalization") && slot == 8;
        f->gathers = f->gathers || t->rank >= 2;
        if (t->rank >= 2 && t->dim[0] > f->rows) {
            f->rows = t->dim[0];
            f->table = table;
        }
    }
    if (op_is(n, "EmbedLayerNormalization") && slot == 1) f->segments = true;
    if (op_is(n, "Sin Cos") || (op_is(n, "RotaryEmbedding") && slot != 0)) f->rotates = true;
    if (op_is(n, "CumSum") && slot == 0) f->sums = true;
    if (op_is(n, "Less LessOrEqual Greater GreaterOrEqual") && n->nin == 2 &&
        weight_of(w, n->in[1 - slot]) == 0 &&
        !(w->maker[n->in[1 - slot]] != NULL && op_is(w->maker[n->in[1 - slot]], "Constant")))
        f->orders = true;
}

static Found walk_index(UseWalk *w, uint32_t input) {
    Found f = {0};
    uint32_t t = 0;
    uses_start(w, input);
    while (uses_next(w, &t))
        for (uint32_t i = 0; i < w->count[t]; i++) {
            Use u = w->uses[w->first[t] + i];
            visit_index_use(w, u.node, u.slot, &f);
            bool on =
                (keeps_elements(u.node) && u.slot == 0) || op_is(u.node, "MatMul Mul Concat Einsum Add Sub");
            if (on && u.node->nout > 0) uses_push(w, u.node->out[0]);
        }
    return f;
}

/* Where a single integer goes: `changed` after arithmetic, `back` when it is subtracted there. */
static void walk_length(const UseWalk *w, uint32_t tensor, bool changed, bool back, uint32_t depth,
                        Found *f) {
    for (uint32_t i = 0; i < w->count[tensor] && depth > 0; i++) {
        Use u = w->uses[w->first[tensor] + i];
        const INode *n = u.node;
        if (n->nout == 0) continue;
        bool moves = (keeps_elements(n) && u.slot == 0) || (op_is(n, "Concat") && n->nin == 1);
        if (moves) {
            walk_length(w, n->out[0], changed, back, depth - 1, f);
        } else if ((op_is(n, "Neg") && u.slot == 0) || (op_is(n, "Sub") && u.slot == 1)) {
            walk_length(w, n->out[0], true, true, depth - 1, f);
        } else if (op_is(n, "Range") || (op_is(n, "Slice") && u.slot > 0)) {
            bool start = u.slot == (op_is(n, "Slice") ? 1 : 0);
            f->starts |= start && !changed;
            f->ends |= !start && !changed;
            f->cuts |= start && back && op_is(n, "Slice");
        } else {
            f->other = true;
        }
    }
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

static bool is_single(const OInfo *info) {
    return info->rank == 0 || (info->rank == 1 && info->dim[0].param == NULL && info->dim[0].value == 1);
}

/* ---- tokens ---- */

int64_t head_features(const UseWalk *w, uint32_t tensor) {
    for (int depth = 0; depth < 16 && tensor != 0; depth++) {
        const INode *n = w->maker[tensor];
        if (n == NULL || n->nin == 0) return 0;
        if (op_is(n, "MatMul Gemm FusedMatMul")) {
            bool turned = node_attr(n, "transB", 0) != 0;
            if (n->nin < 2) return 0;
            uint32_t t = n->in[1];
            const INode *m = w->maker[t];
            for (int i = 0;
                 i < 8 && m != NULL && m->nin > 0 && op_is(m, "Transpose Identity Cast DequantizeLinear");
                 i++, m = w->maker[t]) {
                turned ^= op_is(m, "Transpose");
                t = m->in[0];
            }
            const OTensor *init = w->im->tensors.data[t].init;
            return init == NULL || init->rank != 2 ? 0 : init->dim[turned ? 0 : 1];
        }
        if (n->nin < 2 && op_is(n, "Where")) return 0;
        if (op_is(n, "MatMulNBits")) return node_attr(n, "N", 0);
        if (!op_is(n, "Identity Cast Slice Gather Add Mul Div Tanh Clip Where Reshape Squeeze")) return 0;
        tensor = n->in[op_is(n, "Where") ? 1 : 0];
    }
    return 0;
}

/* Is the table multiplied with as well, or does it have as many rows as there are logits? */
static bool is_embedding(UseWalk *w, const Found *f) {
    const Import *im = w->im;
    uint32_t t = 0;
    uses_start(w, f->table);
    while (uses_next(w, &t))
        for (uint32_t i = 0; i < w->count[t]; i++) {
            const INode *n = w->uses[w->first[t] + i].node;
            if (op_is(n, "MatMul Gemm FusedMatMul MatMulNBits MatMulInteger")) return true;
            if (op_is(n, "Transpose Identity Cast DequantizeLinear")) uses_push(w, n->out[0]);
        }
    for (size_t i = 0; i < im->noutputs; i++)
        if (head_features(w, im->outputs[i]) == f->rows) return true;
    return false;
}

/* Among equals the one not called a position or a segment, then the first. */
static int find_tokens(UseWalk *w, const Found *found) {
    const Import *im = w->im;
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
        int64_t rows = found[i].rows < DIM_MAX / 8 ? found[i].rows : DIM_MAX / 8;
        int64_t score = 2 * rows + !other;
        if (vocabulary > 0 && rows == vocabulary) score += DIM_MAX / 4;
        if (is_embedding(w, &found[i])) score += DIM_MAX / 4;
        if (found[i].rotates || found[i].orders) score = score / 2;
        if (score > best_score) {
            best = (int)i;
            best_score = score;
        }
    }
    if (best >= 0) im->roles[best] = ROLE_TOKENS;
    return best;
}

/* ---- the others ---- */

/* Rows of a table that the tokens do not pick from: positions, if any input is. */
static bool is_segment(const Import *im, const Found *found, size_t i, int tokens) {
    const Found *f = &found[i];
    if (f->segments) return true;
    if (!f->gathers || f->rotates || f->orders || f->sums || im->input_info[i]->rank > 2) return false;
    if (f->table == found[tokens].table || f->rows <= FEW_ROWS) return true;
    for (size_t k = 0; k < im->ninputs; k++)
        if (k != i && (int)k != tokens && found[k].gathers && found[k].table != found[tokens].table &&
            found[k].rows > f->rows)
            return true;
    return false;
}

static InputUse length_use(const Found *f) {
    if (f->cuts && !f->starts && !f->ends) return USE_ALL_LENGTH;
    if (f->starts || (f->other && !f->ends)) return USE_PAST_LENGTH;
    return f->ends ? USE_TOTAL_LENGTH : USE_ROLE;
}

static void role_find(UseWalk *w, const Found *found, size_t i, int tokens, Count count, InputForm *form) {
    Import *im = w->im;
    const OInfo *info = im->input_info[i];
    const Found *f = &found[i];
    bool integer = integer_type(info->type), real = float_type(info->type);
    Role *role = &im->roles[i];
    if (is_named(im->opt->positions, info->name))
        *role = ROLE_POSITIONS;
    else if (is_named(im->opt->mask, info->name))
        *role = ROLE_MASK;
    else if (form->past.past)
        *role = ROLE_PAST;
    else if (integer && is_segment(im, found, i, tokens))
        *role = ROLE_SEGMENTS;
    else if (count != NO_COUNT)
        *role = ROLE_LENGTH;
    else if (integer && is_single(info) && !f->gathers && !f->rotates)
        form->use = length_use(f);
    else if (integer && (f->gathers || f->rotates || f->orders) && !f->sums && info->rank <= 2)
        *role = ROLE_POSITIONS;
    else if (info->type == ONNX_BOOL && is_single(info))
        *role = ROLE_USE_CACHE;
    else if (integer && info->rank == 2 && strstr(info->name, "pos") != NULL)
        *role = ROLE_POSITIONS;
    else if (info->rank >= 2 && info->rank <= 4 && (integer || real || info->type == ONNX_BOOL))
        mask_find(w, i, form);
}

static const char *role_reason(const Import *im, size_t i, const Found *f, const InputForm *form) {
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
        return f->orders ? "compared in order with other positions"
                         : "integers a token that nothing else explains";
    case ROLE_SEGMENTS:
        return f->segments ? "the segments of an embedding"
                           : arena_printf(im->arena, "picks rows of a table of %lld beside the tokens",
                                          (long long)f->rows);
    case ROLE_MASK:
        if (is_named(im->opt->mask, name)) return "named by --mask";
        return f->sums ? "flags whose running sum counts positions" : "flags beside the tokens";
    case ROLE_PAST:
        if (form->past.operand) return "the past operand of an attention operator";
        return arena_printf(im->arena, "new rows are appended to it along axis %u", form->past.past_axis);
    case ROLE_USE_CACHE: return "a single bool";
    case ROLE_LENGTH: return "the operand of an attention op or a cache that counts tokens";
    default: return "no token, position, mask or past by its use";
    }
}

bool roles_find(Import *im, InputForm *forms, Count *counts, const char **reasons) {
    Found *found = arena_array_of(im->scratch, im->ninputs, Found);
    UseWalk w;
    if (!option_ok(im, im->opt->input_ids, "tokens") || !option_ok(im, im->opt->positions, "positions") ||
        !option_ok(im, im->opt->mask, "mask"))
        return false;
    uses_init(&w, im);
    for (size_t i = 0; i < im->ninputs; i++) {
        if (!integer_type(im->input_info[i]->type)) continue;
        found[i] = walk_index(&w, im->inputs[i]);
        if (is_single(im->input_info[i])) walk_length(&w, im->inputs[i], false, false, 12, &found[i]);
    }
    int tokens = find_tokens(&w, found);
    if (tokens >= 0)
        im->token_rows = found[tokens].rows;
    else
        embeds_note(&w);
    for (size_t i = 0; i < im->ninputs && tokens >= 0; i++) {
        const OInfo *info = im->input_info[i];
        if (float_type(info->type) && info->rank >= 3 && info->rank <= MAX_RANK)
            forms[i].past = past_find(&w, im->inputs[i], info, im->input_info[tokens]);
        if (integer_type(info->type) && info->rank <= 1) counts[i] = count_find(&w, im->inputs[i]);
        if (im->roles[i] == ROLE_NONE) role_find(&w, found, i, tokens, counts[i], &forms[i]);
    }
    for (size_t i = 0; i < im->ninputs; i++) reasons[i] = role_reason(im, i, &found[i], &forms[i]);
    return true;
}
