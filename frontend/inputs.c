/* inputs.c: the graph's inputs, their dimensions named by the roles that roles.c found. */
#include <string.h>

#include "frontend/roles.h"

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
static void name_dims(Import *im, const InputForm *forms) {
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
        const PastForm *form = &forms[i].past;
        if (form->batch_axis != NO_AXIS) alias_add(im, &info->dim[form->batch_axis], batch);
        const ODim *past = &info->dim[form->past_axis];
        alias_add(im, past, dim_sym(im->g, SYM_PAST));
        bool room = form->buffer && past->param == NULL && past->value > 0;
        if (!room)
            literal_set(im, SYM_PAST, past);
        else if (im->g->context == 0 || past->value < im->g->context)
            im->g->context = past->value;
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

/* Dimensions by role; a value bound in place of a mask or of segments has those that they would have. */
static bool role_dims(Import *im, size_t i, const InputForm *form, bool has_past, Dim *dims) {
    const OInfo *info = im->input_info[i];
    Dim batch = dim_sym(im->g, SYM_BATCH), seq = dim_sym(im->g, SYM_SEQ);
    Dim total = has_past ? dim_add(im->g, dim_sym(im->g, SYM_PAST), seq) : seq;
    size_t r = info->rank;
    Role role = im->roles[i];
    if (form->use == USE_CAUSAL || form->sense != MASK_NONE) role = ROLE_MASK;
    if (role == ROLE_TOKENS && r != 2)
        return diag_error(im->d, loc_none(),
                          "the token input '%s' has rank %zu; hint: export it as "
                          "[batch, sequence]",
                          info->name, r);
    bool per_token = role == ROLE_POSITIONS || role == ROLE_SEGMENTS;
    if (role == ROLE_TOKENS || (per_token && r == 2) || (role == ROLE_MASK && r == 2)) {
        bool shared = per_token && info->dim[0].param == NULL && info->dim[0].value == 1 &&
                      im->g->symbols.data[SYM_BATCH.id].literal == 0;
        dims[0] = shared ? dim_const(1) : batch;
        dims[1] = role == ROLE_MASK ? total : seq;
        return true;
    }
    if (per_token && r == 1) {
        dims[0] = seq;
        return true;
    }
    if (role == ROLE_LENGTH) {
        dims[0] =
            info->rank == 1 && info->dim[0].value == 1 && info->dim[0].param == NULL ? dim_const(1) : batch;
        return true;
    }
    if (!declared_dims(im, info, dims)) return false;
    if (role == ROLE_PAST) {
        if (form->past.batch_axis != NO_AXIS) dims[form->past.batch_axis] = batch;
        dims[form->past.past_axis] = dim_sym(im->g, SYM_PAST);
    }
    if (role == ROLE_MASK) {
        if (!dim_is_const(dims[0]) || r < 4) dims[0] = batch;
        bool keys = info->dim[r - 2].param == NULL && info->dim[r - 2].value == 1;
        dims[r - 2] = keys ? dim_const(1) : seq;
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
        tv->val = graph_const_tensor(im->g, t, x, b->name);
        tv->type = t;
        tv->set = true;
    }
    im->ninputs = kept;
    return true;
}

/* The number of tokens that an input counts, in the input's place. */
static bool length_value(Import *im, Tv *tv, Count count, bool has_past) {
    INode none = {.op = "length", .domain = "", .name = tv->name};
    Call c = {.im = im, .g = im->g, .d = im->d, .n = &none, .loc = loc_none()};
    Dim past = has_past ? dim_sym(im->g, SYM_PAST) : dim_const(0),
        total = dim_add(im->g, past, dim_sym(im->g, SYM_SEQ));
    tv->filled = true;
    tv->fill = count == COUNT_PAST    ? past
               : count == COUNT_TOTAL ? total
                                      : dim_sub(im->g, total, dim_const(1));
    tv->val = emit_broadcast(&c, emit_dim(&c, tv->type.dtype, tv->fill), tv->type.rank, tv->type.dim);
    return val_ok(tv->val);
}

bool import_inputs(Import *im) {
    if (!bind_inputs(im)) return false;
    InputForm *forms = arena_array_of(im->scratch, im->ninputs, InputForm);
    im->roles = arena_array_of(im->scratch, im->ninputs, Role);
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
    const char **reasons = arena_array_of(im->scratch, im->ninputs, const char *);
    Count *counts = arena_array_of(im->scratch, im->ninputs, Count);
    if (!roles_find(im, forms, counts, reasons)) return false;
    bool has_past = false, tokens = false;
    for (size_t i = 0; i < im->ninputs; i++) {
        has_past |= im->roles[i] == ROLE_PAST;
        tokens |= im->roles[i] == ROLE_TOKENS;
    }
    if (tokens) name_dims(im, forms);
    for (size_t i = 0; i < im->ninputs; i++) {
        const OInfo *info = im->input_info[i];
        Dim dims[MAX_RANK];
        if (tokens ? !role_dims(im, i, &forms[i], has_past, dims) : !declared_dims(im, info, dims))
            return false;
        if (forms[i].use != USE_ROLE) {
            if (!input_bind(im, i, &forms[i], has_past, dims)) return false;
            continue;
        }
        Type t = type_make(dtype_from_onnx(info->type), (uint32_t)info->rank, dims);
        Tv *tv = &im->tensors.data[im->inputs[i]];
        ValId v = graph_input(im->g, info->name, t, im->roles[i]);
        VEC_PUSH(im->arena, &im->out->reasons, reasons[i]);
        /* A mask is bound to ones, so a number among its axes is one that the exporter wrote. */
        dynamic_set(im, v, !tokens || im->roles[i] != ROLE_MASK);
        tv->filled = tokens && im->roles[i] == ROLE_MASK && !dtype_is_float(t.dtype);
        tv->fill = dim_const(1);
        tv->set = true;
        tv->type = t;
        tv->val = v;
        if (im->roles[i] == ROLE_LENGTH && !length_value(im, tv, counts[i], has_past)) return false;
    }
    return true;
}
