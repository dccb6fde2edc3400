/* roles.c: what each graph input is for, found from how the nodes use it; then the graph's inputs.
 *
 *   tokens      integers that pick rows of an initializer (the embedding)
 *   positions   integers that pick rows of another initializer, or whose sine or cosine is taken
 *   past        floats of rank 4 and up that are the first part of a Concat along an inner axis, or
 *               the past operand of an attention op
 *   mask        what remains of rank 2 to 4, also when its running sum gives the positions
 *   use_cache   a single bool
 * A walk over the uses, through ops that keep each element, decides; names only break ties. A graph
 * without tokens is a plain function, and its inputs keep what they declare. */
#include <string.h>

#include "frontend/import.h"

typedef struct {
    uint32_t node, slot;
} Use;
typedef struct {
    Import *im;
    uint32_t *first, *count; /* by tensor, into uses */
    Use *uses;
    bool *seen; /* by tensor, for one walk */
    uint32_t *todo;
    size_t ntodo;
} Walk;

static void walk_init(Walk *w, Import *im) {
    *w = (Walk){.im = im};
    size_t n = im->tensors.count, total = 0;
    w->first = arena_array_of(im->scratch, n + 1, uint32_t);
    w->count = arena_array_of(im->scratch, n, uint32_t);
    w->seen = arena_array_of(im->scratch, n, bool);
    w->todo = arena_array_of(im->scratch, n, uint32_t);
    for (size_t i = 0; i < im->nodes.count; i++)
        for (size_t j = 0; j < im->nodes.data[i].nin; j++, total++) w->count[im->nodes.data[i].in[j]]++;
    w->uses = arena_array_of(im->scratch, total, Use);
    for (size_t i = 1; i <= n; i++) w->first[i] = w->first[i - 1] + w->count[i - 1];
    memset(w->count, 0, n * sizeof(*w->count));
    for (size_t i = 0; i < im->nodes.count; i++)
        for (size_t j = 0; j < im->nodes.data[i].nin; j++) {
            uint32_t t = im->nodes.data[i].in[j];
            w->uses[w->first[t] + w->count[t]++] = (Use){(uint32_t)i, (uint32_t)j};
        }
}

static bool one_of(const char *op, const char *list) {
    size_t n = strlen(op);
    for (const char *s = list; (s = strstr(s, op)) != NULL; s += n)
        if ((s == list || s[-1] == ' ') && (s[n] == ' ' || s[n] == '\0')) return true;
    return false;
}

/* Does a node hand each element of operand 0 on? */
static bool keeps_elements(const char *op) {
    return one_of(op, "Identity Cast Reshape Squeeze Unsqueeze Flatten Expand Clip Transpose");
}

static const INode *producer(const Walk *w, uint32_t tensor) {
    /* Only asked for weights, which are few steps away: a linear search would do, but graphs are
     * long, so initializers answer first. */
    if (w->im->tensors.data[tensor].init != NULL) return NULL;
    for (size_t i = 0; i < w->im->nodes.count; i++)
        for (size_t j = 0; j < w->im->nodes.data[i].nout; j++)
            if (w->im->nodes.data[i].out[j] == tensor) return &w->im->nodes.data[i];
    return NULL;
}

/* The initializer that a tensor is made of by copying, casting or dequantising; 0 when there is none. */
static uint32_t weight_of(const Walk *w, uint32_t tensor) {
    for (int steps = 0; steps < 8 && tensor != 0; steps++) {
        if (w->im->tensors.data[tensor].init != NULL) return tensor;
        const INode *n = producer(w, tensor);
        if (n == NULL || n->nin == 0 || !one_of(n->op, "Identity Cast DequantizeLinear Transpose")) return 0;
        tensor = n->in[0];
    }
    return 0;
}

typedef struct {
    bool gathers, rotates, sums;
    int64_t rows;
    bool past, state_op; /* state_op: an attention op takes it as its past */
    uint32_t past_axis, batch_axis;
} Found;

static void push(Walk *w, uint32_t t) {
    if (t == 0 || w->seen[t]) return;
    w->seen[t] = true;
    w->todo[w->ntodo++] = t;
}

static void visit_index_use(Walk *w, const INode *n, uint32_t slot, Found *f) {
    bool embed = strcmp(n->op, "EmbedLayerNormalization") == 0;
    if (((strcmp(n->op, "Gather") == 0 || strcmp(n->op, "GatherBlockQuantized") == 0) && slot == 1) ||
        (embed && (slot == 0 || slot == 8))) {
        uint32_t table = embed ? weight_of(w, n->in[slot == 0 ? 2 : 3]) : weight_of(w, n->in[0]);
        if (table == 0) return;
        const OTensor *t = w->im->tensors.data[table].init;
        if (t->rank < 2) return;
        f->gathers = true;
        if (t->dim[0] > f->rows) f->rows = t->dim[0];
    }
    if (strcmp(n->op, "Sin") == 0 || strcmp(n->op, "Cos") == 0) f->rotates = true;
    if (strcmp(n->op, "RotaryEmbedding") == 0 && slot != 0) f->rotates = true;
    if (strcmp(n->op, "CumSum") == 0 && slot == 0) f->sums = true;
}

static Found walk_index(Walk *w, uint32_t input) {
    Found f = {0};
    memset(w->seen, 0, w->im->tensors.count);
    w->ntodo = 0;
    push(w, input);
    while (w->ntodo > 0) {
        uint32_t t = w->todo[--w->ntodo];
        for (uint32_t i = 0; i < w->count[t]; i++) {
            Use u = w->uses[w->first[t] + i];
            const INode *n = &w->im->nodes.data[u.node];
            visit_index_use(w, n, u.slot, &f);
            bool on =
                (keeps_elements(n->op) && u.slot == 0) || one_of(n->op, "MatMul Mul Concat Einsum Add Sub");
            if (on && n->nout > 0) push(w, n->out[0]);
        }
    }
    return f;
}

static int64_t node_attr(const INode *n, const char *name, int64_t def) {
    for (size_t i = 0; i < n->nattrs; i++)
        if (strcmp(n->attrs[i].name, name) == 0 && n->attrs[i].kind == OA_INT) return n->attrs[i].i;
    return def;
}

/* Axis `axis` of a transposed tensor was this axis before. */
static bool transposed_axis(const INode *n, uint32_t rank, uint32_t *axis) {
    for (size_t i = 0; i < n->nattrs; i++) {
        const OAttr *a = &n->attrs[i];
        if (strcmp(a->name, "perm") != 0 || a->kind != OA_INTS) continue;
        for (size_t k = 0; k < a->n && k < rank; k++)
            if (a->ints[k] == (int64_t)*axis) {
                *axis = (uint32_t)k;
                return true;
            }
        return false;
    }
    *axis = rank - 1 - *axis;
    return true;
}

static bool is_past_operand(const INode *n, uint32_t slot) {
    static const struct {
        const char *domain, *op;
        uint32_t first, last;
    } operands[] = {
        {"", "Attention", 4, 5},
        {"", "TensorScatter", 0, 0},
        {"com.microsoft", "Attention", 4, 4},
        {"com.microsoft", "MultiHeadAttention", 6, 7},
        {"com.microsoft", "GroupQueryAttention", 3, 4},
    };
    for (size_t i = 0; i < COUNT_OF(operands); i++)
        if (strcmp(n->op, operands[i].op) == 0 && strcmp(n->domain, operands[i].domain) == 0)
            return slot >= operands[i].first && slot <= operands[i].last;
    return false;
}

/* Follows a past input to the Concat that extends it. */
static Found walk_past(Walk *w, uint32_t input, uint32_t rank) {
    Found f = {0};
    uint32_t t = input;
    uint32_t at[MAX_RANK]; /* at[i]: where axis i of the input now is */
    for (uint32_t i = 0; i < rank; i++) at[i] = i;
    for (int steps = 0; steps < 16; steps++) {
        uint32_t next = 0;
        for (uint32_t i = 0; i < w->count[t]; i++) {
            Use u = w->uses[w->first[t] + i];
            const INode *n = &w->im->nodes.data[u.node];
            if (strcmp(n->op, "Concat") == 0 && u.slot == 0 && n->nin == 2) {
                int64_t axis = node_attr(n, "axis", 0);
                if (axis < 0) axis += rank;
                for (uint32_t k = 0; k < rank; k++)
                    if (at[k] == (uint32_t)axis) f.past_axis = k;
                f.past = axis >= 0 && axis < rank && f.past_axis > 0;
                return f;
            }
            if (is_past_operand(n, u.slot)) {
                for (uint32_t k = 0; k < rank; k++)
                    if (at[k] == rank - 2) f.past_axis = k;
                f.past = f.state_op = true;
                return f;
            }
            bool alone = strcmp(n->op, "Concat") == 0 && n->nin == 1;
            if ((alone || one_of(n->op, "Identity Cast Transpose")) && n->nout == 1) {
                next = n->out[0];
                if (strcmp(n->op, "Transpose") == 0)
                    for (uint32_t k = 0; k < rank; k++)
                        if (!transposed_axis(n, rank, &at[k])) return f;
            }
        }
        if (next == 0) return f;
        t = next;
    }
    return f;
}

/* Is a float input of rank 5 and more, or a piece of it, what something is appended to? */
static bool walk_stacked(Walk *w, uint32_t input) {
    memset(w->seen, 0, w->im->tensors.count);
    w->ntodo = 0;
    push(w, input);
    while (w->ntodo > 0) {
        uint32_t t = w->todo[--w->ntodo];
        for (uint32_t i = 0; i < w->count[t]; i++) {
            Use u = w->uses[w->first[t] + i];
            const INode *n = &w->im->nodes.data[u.node];
            if (u.slot == 0 && n->nin == 2 && strcmp(n->op, "Concat") == 0) return true;
            if (is_past_operand(n, u.slot)) return true;
            if (u.slot != 0 || !(keeps_elements(n->op) || one_of(n->op, "Gather Slice Split"))) continue;
            for (size_t o = 0; o < n->nout; o++) push(w, n->out[o]);
        }
    }
    return false;
}

static bool same_dim(const ODim *a, const ODim *b) {
    if (a->param != NULL || b->param != NULL)
        return a->param != NULL && b->param != NULL && strcmp(a->param, b->param) == 0;
    return a->value == b->value && a->value > 0;
}

/* The axes of a stacked state [.., batch, heads, past, d]: as the names of their lengths tell, else by place. */
static void stacked_axes(const OInfo *info, const OInfo *tokens, Found *f) {
    f->batch_axis = (uint32_t)info->rank - 4;
    f->past_axis = (uint32_t)info->rank - 2;
    for (uint32_t k = (uint32_t)info->rank - 1; k-- > 0 && tokens->rank == 2;)
        if (info->dim[k].param != NULL && same_dim(&info->dim[k], &tokens->dim[0])) f->batch_axis = k;
    if (info->dim[f->past_axis].param != NULL && f->past_axis != f->batch_axis) return;
    for (uint32_t k = 0; k < info->rank; k++)
        if (info->dim[k].param != NULL && k != f->batch_axis) f->past_axis = k;
}

static bool is_named(const char *option, const char *name) {
    return option != NULL && strcmp(option, name) == 0;
}

static bool integer_type(int type) { return type == 6 || type == 7; }

static bool float_type(int type) { return type == 1 || type == 10 || type == 11 || type == 16; }

static bool option_ok(const Import *im, const char *option, const char *what) {
    if (option == NULL) return true;
    for (size_t i = 0; i < im->ninputs; i++)
        if (strcmp(im->input_info[i]->name, option) == 0) return true;
    return diag_error(im->d, loc_none(), "there is no input '%s' for the %s", option, what);
}

/* The input that picks rows of the largest table; among equals the one not called a position or a
 * segment, then the first. */
static void find_tokens(Import *im, const Found *found) {
    int best = -1;
    int64_t best_score = -1;
    for (size_t i = 0; i < im->ninputs; i++) {
        const OInfo *info = im->input_info[i];
        if (im->opt->input_ids != NULL) {
            if (is_named(im->opt->input_ids, info->name)) best = (int)i;
            continue;
        }
        if (!found[i].gathers || found[i].sums || is_named(im->opt->positions, info->name) ||
            is_named(im->opt->mask, info->name))
            continue;
        bool other = strstr(info->name, "pos") != NULL || strstr(info->name, "type") != NULL;
        int64_t rows = found[i].rows < DIM_MAX / 4 ? found[i].rows : DIM_MAX / 4;
        int64_t score = 2 * rows + !other;
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

static Role role_of(const Import *im, size_t i, const Found *f, const Found *past) {
    const OInfo *info = im->input_info[i];
    if (is_named(im->opt->positions, info->name)) return ROLE_POSITIONS;
    if (is_named(im->opt->mask, info->name)) return ROLE_MASK;
    if (past->past) return ROLE_PAST;
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

static void find_roles(Import *im, Found *found, Found *pasts) {
    Walk w;
    walk_init(&w, im);
    for (size_t i = 0; i < im->ninputs; i++) {
        const OInfo *info = im->input_info[i];
        if (integer_type(info->type)) found[i] = walk_index(&w, im->inputs[i]);
        if (float_type(info->type) && info->rank == 4)
            pasts[i] = walk_past(&w, im->inputs[i], (uint32_t)info->rank);
    }
    find_tokens(im, found);
    const OInfo *tokens = NULL;
    for (size_t i = 0; i < im->ninputs; i++)
        if (im->roles[i] == ROLE_TOKENS) tokens = im->input_info[i];
    for (size_t i = 0; i < im->ninputs && tokens != NULL; i++) {
        const OInfo *info = im->input_info[i];
        if (!float_type(info->type) || info->rank < 5 || info->rank > MAX_RANK) continue;
        pasts[i].past = walk_stacked(&w, im->inputs[i]);
        stacked_axes(info, tokens, &pasts[i]);
    }
    for (size_t i = 0; i < im->ninputs && tokens != NULL; i++)
        if (im->roles[i] == ROLE_NONE) im->roles[i] = role_of(im, i, &found[i], &pasts[i]);
}

static const char *role_reason(const Import *im, size_t i, const Found *f, const Found *past) {
    const char *name = im->input_info[i]->name;
    switch (im->roles[i]) {
    case ROLE_TOKENS:
        if (is_named(im->opt->input_ids, name)) return "named by --input-ids";
        return arena_printf(im->arena, "picks rows of a table of %lld, the largest", (long long)f->rows);
    case ROLE_POSITIONS:
        if (is_named(im->opt->positions, name)) return "named by --positions";
        if (f->rotates) return "its sine or cosine is taken";
        if (f->gathers) return arena_printf(im->arena, "picks rows of a table of %lld", (long long)f->rows);
        return "integers a token that nothing else explains";
    case ROLE_MASK:
        if (is_named(im->opt->mask, name)) return "named by --mask";
        return f->sums ? "flags whose running sum counts positions" : "flags beside the tokens";
    case ROLE_PAST:
        if (past->state_op) return "the past operand of an attention operator";
        return arena_printf(im->arena, "a concat appends to it along axis %u", past->past_axis);
    case ROLE_USE_CACHE: return "a single bool";
    default: return "no token, position, mask or past by its use";
    }
}

/* ---- dims ---- */

static void alias_add(Import *im, const ODim *d, Dim to) {
    if (d->param == NULL) return;
    for (size_t i = 0; i < im->aliases.count; i++)
        if (strcmp(im->aliases.data[i].param, d->param) == 0) return;
    Alias a = {d->param, to};
    VEC_PUSH(im->scratch, &im->aliases, a);
}

static void literal_set(Import *im, SymId s, const ODim *d) {
    if (d->param != NULL || d->value <= 0) return;
    Symbol *sym = &im->g->symbols.data[s.id];
    if (sym->literal != 0) return;
    sym->literal = d->value;
    im->fixed = true;
    if (s.id == SYM_SEQ.id) {
        sym->max = d->value;
        im->g->context = d->value;
    }
}

/* tokens and past first: they name the symbols that the others use. */
static void name_dims(Import *im, const Found *pasts) {
    Dim batch = dim_sym(im->g, SYM_BATCH), seq = dim_sym(im->g, SYM_SEQ);
    for (size_t i = 0; i < im->ninputs; i++) {
        const OInfo *info = im->input_info[i];
        if (im->roles[i] != ROLE_TOKENS || info->rank != 2) continue;
        alias_add(im, &info->dim[0], batch);
        alias_add(im, &info->dim[1], seq);
        literal_set(im, SYM_BATCH, &info->dim[0]);
        literal_set(im, SYM_SEQ, &info->dim[1]);
    }
    for (size_t i = 0; i < im->ninputs; i++) {
        const OInfo *info = im->input_info[i];
        if (im->roles[i] != ROLE_PAST) continue;
        alias_add(im, &info->dim[pasts[i].batch_axis], batch);
        alias_add(im, &info->dim[pasts[i].past_axis], dim_sym(im->g, SYM_PAST));
        literal_set(im, SYM_PAST, &info->dim[pasts[i].past_axis]);
    }
}

static bool declared_dims(Import *im, const OInfo *info, Dim *out) {
    for (size_t k = 0; k < info->rank; k++) {
        const ODim *d = &info->dim[k];
        if (d->param != NULL) {
            if (!dim_param_parse(im, d->param, &out[k]))
                return diag_error(im->d, loc_none(), "input '%s': cannot read dimension '%s'", info->name,
                                  d->param);
        } else if (d->value >= 0) {
            out[k] = dim_const(d->value);
        } else if (d->value == -1) {
            const char *name = arena_printf(im->arena, "dim_%zu", im->g->symbols.count);
            out[k] = dim_sym(im->g, symbol_add(im->g, name, strlen(name)));
        } else {
            return diag_error(im->d, loc_none(), "input '%s': axis %zu has negative length %lld", info->name,
                              k, (long long)d->value);
        }
    }
    return true;
}

static bool role_dims(Import *im, size_t i, const Found *past, bool has_past, Dim *dims) {
    const OInfo *info = im->input_info[i];
    Dim batch = dim_sym(im->g, SYM_BATCH), seq = dim_sym(im->g, SYM_SEQ);
    Dim total = has_past ? dim_add(im->g, dim_sym(im->g, SYM_PAST), seq) : seq;
    size_t r = info->rank;
    Role role = im->roles[i];
    if (role == ROLE_TOKENS && r != 2)
        return diag_error(im->d, loc_none(),
                          "the token input '%s' has rank %zu; hint: export it as "
                          "[batch, sequence]",
                          info->name, r);
    if (role == ROLE_TOKENS || (role == ROLE_POSITIONS && r == 2) || (role == ROLE_MASK && r == 2)) {
        bool shared = role == ROLE_POSITIONS && info->dim[0].param == NULL && info->dim[0].value == 1 &&
                      im->g->symbols.data[SYM_BATCH.id].literal == 0;
        dims[0] = shared ? dim_const(1) : batch;
        dims[1] = role == ROLE_MASK ? total : seq;
        return true;
    }
    if (role == ROLE_POSITIONS && r == 1) {
        dims[0] = seq;
        return true;
    }
    if (!declared_dims(im, info, dims)) return false;
    if (role == ROLE_PAST) {
        dims[past->batch_axis] = batch;
        dims[past->past_axis] = dim_sym(im->g, SYM_PAST);
    }
    if (role == ROLE_MASK) {
        if (!dim_is_const(dims[0]) || r < 4) dims[0] = batch;
        dims[r - 2] = seq;
        dims[r - 1] = total;
    }
    return true;
}

/* Inputs that the user gave a value for become constants. */
static bool bind_inputs(Import *im) {
    size_t kept = 0;
    for (size_t i = 0; i < im->ninputs; i++) {
        const BoundInput *b = NULL;
        for (size_t k = 0; k < im->opt->nbound; k++)
            if (strcmp(im->opt->bound[k].name, im->input_info[i]->name) == 0) b = &im->opt->bound[k];
        if (b == NULL) {
            im->inputs[kept] = im->inputs[i];
            im->input_info[kept++] = im->input_info[i];
            continue;
        }
        const Tensor *x = &b->value;
        Dim dims[MAX_RANK];
        for (uint32_t k = 0; k < x->rank; k++) dims[k] = dim_const(x->dim[k]);
        Type t = type_make(x->dtype, x->rank, dims);
        if (x->dtype != dtype_from_onnx(im->input_info[i]->type))
            return diag_error(im->d, loc_none(), "input '%s' is bound to %s, not to its element type",
                              b->name, dtype_name(x->dtype));
        Tv *tv = &im->tensors.data[im->inputs[i]];
        tv->val = graph_const(im->g, t, arena_dup(im->arena, x->data, tensor_count(x) * dtype_size(t.dtype)),
                              b->name);
        tv->type = t;
        tv->set = true;
    }
    im->ninputs = kept;
    return true;
}

bool import_inputs(Import *im) {
    if (!bind_inputs(im)) return false;
    Found *found = arena_array_of(im->scratch, im->ninputs, Found);
    Found *pasts = arena_array_of(im->scratch, im->ninputs, Found);
    im->roles = arena_array_of(im->scratch, im->ninputs, Role);
    if (!option_ok(im, im->opt->input_ids, "tokens") || !option_ok(im, im->opt->positions, "positions") ||
        !option_ok(im, im->opt->mask, "mask"))
        return false;
    for (size_t i = 0; i < im->ninputs; i++) {
        const OInfo *info = im->input_info[i];
        if (!info->tensor || !info->has_shape || info->rank > MAX_RANK)
            return diag_error(im->d, loc_none(), "graph input '%s' %s", info->name,
                              !info->tensor     ? "is no tensor"
                              : info->has_shape ? "has too high a rank"
                                                : "has no rank; hint: run shape inference");
        if (dtype_from_onnx(info->type) == DT_NONE)
            return diag_error(im->d, loc_none(), "graph input '%s': element type %d is not supported",
                              info->name, info->type);
    }
    find_roles(im, found, pasts);
    bool has_past = false, tokens = false;
    for (size_t i = 0; i < im->ninputs; i++) {
        has_past |= im->roles[i] == ROLE_PAST;
        tokens |= im->roles[i] == ROLE_TOKENS;
    }
    if (tokens) name_dims(im, pasts);
    for (size_t i = 0; i < im->ninputs; i++) {
        const OInfo *info = im->input_info[i];
        Dim dims[MAX_RANK];
        if (tokens ? !role_dims(im, i, &pasts[i], has_past, dims) : !declared_dims(im, info, dims))
            return false;
        Type t = type_make(dtype_from_onnx(info->type), (uint32_t)info->rank, dims);
        Tv *tv = &im->tensors.data[im->inputs[i]];
        ValId v = graph_input(im->g, info->name, t, im->roles[i]);
        VEC_PUSH(im->arena, &im->out->reasons, role_reason(im, i, &found[i], &pasts[i]));
        dynamic_set(im, v, true);
        tv->filled = tokens && im->roles[i] == ROLE_MASK && !dtype_is_float(t.dtype);
        tv->fill = dim_const(1);
        tv->set = true;
        tv->type = t;
        tv->val = v;
    }
    return true;
}
