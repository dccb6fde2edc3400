/* unify.c: symbols that stand for nothing yet, and what decides them.
 *
 * Names of dimensions that only an exporter knows are equal to a length as soon as an op needs them to be.
 * min(length, number) is kept as a symbol too: where a table of that many rows meets the whole length, the
 * length is at most the number, which bounds the context. Decisions are made everywhere at once. */
#include <string.h>

#include "frontend/import.h"

/* ---- lengths cut at a number ---- */

/* min(d, most), where d may be longer: a symbol of its own. Most often d is the length of the sequence and
 * a table has `most` rows; when the result then has to equal d, d is at most `most` (unify_uncut). */
Dim shape_cut(Import *im, Dim d, int64_t most) {
    Graph *g = im->g;
    Sign s = dim_sign(g, d);
    if (most < 1 || !dim_known(d) || dim_is_const(d) || (s != SIGN_POS && s != SIGN_NONNEG))
        return DIM_UNKNOWN;
    for (size_t i = 0; i < im->lessers.count; i++)
        if (im->lessers.data[i].most == most && dim_eq(im->lessers.data[i].of, d))
            return dim_sym(g, im->lessers.data[i].sym);
    const char *name = arena_printf(im->arena, "cut_%zu", g->symbols.count);
    Lesser l = {symbol_add(g, name, strlen(name)), most, d};
    g->symbols.data[l.sym.id].max = most;
    VEC_PUSH(im->scratch, &im->lessers, l);
    return dim_sym(g, l.sym);
}

/* max(n - d, least) = n - min(d, n - least), where n is the number in x = n - d. */
Dim shape_rest(Import *im, Dim x, int64_t least) {
    Graph *g = im->g;
    int64_t n = 0;
    DimTerm t;
    for (uint32_t i = 0; dim_term(g, x, i, &t); i++)
        if (t.degree == 0) n = t.factor;
    if (n <= least || n - least > DIM_MAX / 4) return DIM_UNKNOWN;
    Dim cut = shape_cut(im, dim_sub(g, dim_const(n), x), n - least);
    return dim_known(cut) ? dim_sub(g, dim_const(n), cut) : DIM_UNKNOWN;
}

/* Sequences that fit: the largest n so that `of` is at most `most` whether n tokens come at once or last. */
static int64_t lesser_context(const Graph *g, const Lesser *l) {
    int64_t lo = 0, hi = l->most + 1;
    while (lo + 1 < hi) {
        int64_t n = lo + (hi - lo) / 2, whole = 0, last = 0;
        int64_t once[4] = {0, 1, n, 0}, step[4] = {0, 1, 1, n - 1};
        bool ok = dim_eval(g, l->of, once, COUNT_OF(once), &whole) && whole <= l->most &&
                  dim_eval(g, l->of, step, COUNT_OF(step), &last) && last <= l->most;
        if (ok)
            lo = n;
        else
            hi = n;
    }
    return lo;
}

static void symbol_settle(Import *im, SymId s, Dim by);

/* Takes a length for uncut: longer ones are outside the graph's domain from now on. */
static void lesser_settle(Import *im, size_t i) {
    Lesser l = im->lessers.data[i];
    im->lessers.data[i] = im->lessers.data[--im->lessers.count];
    int64_t n = lesser_context(im->g, &l);
    if (n > 0 && (im->g->context == 0 || n < im->g->context)) im->g->context = n;
    symbol_settle(im, l.sym, l.of);
}

/* a = b as soon as the lengths in them are uncut. */
static bool unify_uncut(Import *im, Dim a, Dim b) {
    Graph *g = im->g;
    Dim diff = dim_sub(g, a, b), whole = diff;
    if (!dim_known(diff) || im->lessers.count == 0) return false;
    for (size_t i = 0; i < im->lessers.count; i++)
        whole = dim_substitute(g, whole, im->lessers.data[i].sym, im->lessers.data[i].of);
    if (!dim_eq(whole, dim_const(0))) return false;
    for (size_t i = im->lessers.count; i-- > 0;)
        if (dim_depends(g, diff, im->lessers.data[i].sym)) lesser_settle(im, i);
    return true;
}

static bool is_lesser(const Import *im, SymId s) {
    for (size_t i = 0; i < im->lessers.count; i++)
        if (im->lessers.data[i].sym.id == s.id) return true;
    return false;
}

/* ---- unification ---- */

/* d = s + rest for a symbol that stands for nothing yet. */
static bool free_symbol(Import *im, Dim d, SymId *out, Dim *rest) {
    Graph *g = im->g;
    if (dim_is_const(d) || !dim_known(d)) return false;
    for (uint32_t s = SYM_PAST.id + 1; s < g->symbols.count; s++) {
        *out = (SymId){s};
        if (g->symbols.data[s].counted || is_lesser(im, *out)) continue;
        *rest = dim_sub(g, d, dim_sym(g, *out));
        if (dim_known(*rest) && !dim_depends(g, *rest, *out)) return true;
    }
    return false;
}

static void substitute(Graph *g, Dim *d, SymId s, Dim by) {
    if (!dim_is_const(*d) && dim_known(*d) && dim_depends(g, *d, s)) *d = dim_substitute(g, *d, s, by);
}

/* s is `by`, everywhere. */
static void symbol_settle(Import *im, SymId s, Dim by) {
    Graph *g = im->g;
    graph_substitute(g, s, by);
    for (size_t i = 1; i < im->tensors.count; i++) {
        Tv *t = &im->tensors.data[i];
        for (uint32_t k = 0; k < t->type.rank; k++) substitute(g, &t->type.dim[k], s, by);
        if (t->filled) substitute(g, &t->fill, s, by);
        if (t->dims == NULL) continue;
        Dim *dims = arena_dup(im->scratch, t->dims, t->ndims * sizeof(Dim));
        for (uint32_t k = 0; k < t->ndims; k++) substitute(g, &dims[k], s, by);
        t->dims = dims;
    }
    for (size_t i = 0; i < im->aliases.count; i++) substitute(g, &im->aliases.data[i].dim, s, by);
    for (size_t i = 0; i < im->lessers.count; i++) substitute(g, &im->lessers.data[i].of, s, by);
}

bool shape_unify(Import *im, Dim a, Dim b) {
    Graph *g = im->g;
    SymId s = {0};
    Dim rest = dim_const(0), by = b;
    if (unify_uncut(im, a, b)) return true;
    if (!free_symbol(im, a, &s, &rest)) {
        if (!free_symbol(im, b, &s, &rest)) return false;
        by = a;
    }
    by = dim_sub(g, by, rest);
    if (!dim_known(by) || dim_depends(g, by, s)) return false;
    symbol_settle(im, s, by);
    return true;
}

void shape_settle(Import *im) {
    while (im->lessers.count > 0) lesser_settle(im, im->lessers.count - 1);
}
