/* dim.c: dimensions as interned polynomials over symbols, with 64-bit integer coefficients.
 *
 * A polynomial is a sorted list of terms, a term is a coefficient and a sorted list of symbols
 * (seq*seq lists seq twice). Terms are in graded lexicographic order, the leading term last, which
 * is what exact division needs. Each graph keeps every polynomial once, so that equal ones have
 * equal handles.
 * Numbers are no polynomials: they are in the handle itself. Whatever grows past the limits below
 * becomes DIM_UNKNOWN. */
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"
#include "ir/internal.h"

#define MAX_DEGREE 7
#define MAX_TERMS 32

typedef struct {
    int64_t coef;
    uint32_t degree;
    uint32_t sym[MAX_DEGREE]; /* ascending, zero beyond degree */
} Term;

typedef struct {
    uint32_t count;
    Term *terms;
} Poly;
typedef struct {
    uint32_t count;
    Term terms[MAX_TERMS];
} Work;

typedef struct {
    VEC(Poly) polys;
    uint32_t *slots; /* open addressing: index + 1, 0 = free */
    size_t nslots;
} DimTable;

static DimTable *dim_table(Graph *g) {
    if (g->dims == NULL) g->dims = arena_new_of(g->arena, DimTable);
    return g->dims;
}

static const Poly *dim_poly(const Graph *g, Dim d) {
    if (dim_is_const(d) || !dim_known(d) || g->dims == NULL) return NULL;
    const DimTable *t = g->dims;
    uint64_t index = (uint64_t)d.v - (uint64_t)DIM_SYMBOLIC_BASE;
    return index < t->polys.count ? &t->polys.data[index] : NULL;
}

static uint64_t poly_hash(const Term *terms, uint32_t count) {
    return hash_bytes(terms, count * sizeof(Term), count);
}

static void table_insert(DimTable *t, uint32_t index) {
    const Poly *p = &t->polys.data[index];
    size_t i = (size_t)poly_hash(p->terms, p->count) & (t->nslots - 1);
    while (t->slots[i] != 0) i = (i + 1) & (t->nslots - 1);
    t->slots[i] = index + 1;
}

static void table_grow(Graph *g, DimTable *t) {
    if (t->nslots == 0) t->nslots = 32;
    while (t->nslots <= (t->polys.count + 1) * 2) t->nslots *= 2;
    t->slots = arena_array_of(g->arena, t->nslots, uint32_t);
    for (size_t i = 0; i < t->polys.count; i++) table_insert(t, (uint32_t)i);
}

static Dim dim_intern(Graph *g, const Work *w) {
    if (w->count == 0) return dim_const(0);
    if (w->count == 1 && w->terms[0].degree == 0) return dim_const(w->terms[0].coef);
    DimTable *t = dim_table(g);
    if ((t->polys.count + 1) * 2 > t->nslots) table_grow(g, t);
    size_t bytes = w->count * sizeof(Term);
    size_t i = (size_t)poly_hash(w->terms, w->count) & (t->nslots - 1);
    for (; t->slots[i] != 0; i = (i + 1) & (t->nslots - 1)) {
        const Poly *p = &t->polys.data[t->slots[i] - 1];
        if (p->count == w->count && memcmp(p->terms, w->terms, bytes) == 0)
            return (Dim){DIM_SYMBOLIC_BASE + (int64_t)(t->slots[i] - 1)};
    }
    if (t->polys.count >= UINT32_MAX - 1) return DIM_UNKNOWN;
    Poly p = {w->count, arena_dup(g->arena, w->terms, bytes)};
    VEC_PUSH(g->arena, &t->polys, p);
    t->slots[i] = (uint32_t)t->polys.count;
    return (Dim){DIM_SYMBOLIC_BASE + (int64_t)(t->polys.count - 1)};
}

void dims_copy(Graph *to, const Graph *from) {
    to->dims = NULL;
    if (from->dims == NULL) return;
    const DimTable *old = from->dims;
    DimTable *t = dim_table(to);
    for (size_t i = 0; i < old->polys.count; i++) {
        const Poly *p = &old->polys.data[i];
        Poly copy = {p->count, arena_dup(to->arena, p->terms, p->count * sizeof(Term))};
        VEC_PUSH(to->arena, &t->polys, copy);
    }
    table_grow(to, t);
}

/* ---- terms and polynomials ---- */

static int term_compare(const Term *a, const Term *b) {
    if (a->degree != b->degree) return a->degree < b->degree ? -1 : 1;
    for (uint32_t i = 0; i < a->degree; i++)
        if (a->sym[i] != b->sym[i]) return a->sym[i] > b->sym[i] ? -1 : 1;
    return 0;
}

static bool coef_fits(int64_t c) { return c >= -DIM_MAX && c <= DIM_MAX; }

static bool work_add(Work *w, const Term *term) {
    uint32_t i = w->count;
    int order = -1;
    while (i > 0 && (order = term_compare(&w->terms[i - 1], term)) > 0) i--;
    if (i > 0 && order == 0) {
        Term *same = &w->terms[i - 1];
        int64_t sum = 0;
        if (!add_i64(same->coef, term->coef, &sum) || !coef_fits(sum)) return false;
        same->coef = sum;
        if (sum != 0) return true;
        w->count--;
        memmove(same, same + 1, (w->count - (i - 1)) * sizeof(Term));
        return true;
    }
    if (term->coef == 0) return true;
    if (w->count == MAX_TERMS) return false;
    memmove(&w->terms[i + 1], &w->terms[i], (w->count - i) * sizeof(Term));
    w->terms[i] = *term;
    w->count++;
    return true;
}

static bool term_mul(const Term *a, const Term *b, Term *out) {
    Term r = {0};
    if (a->degree + b->degree > MAX_DEGREE) return false;
    if (!mul_i64(a->coef, b->coef, &r.coef) || !coef_fits(r.coef)) return false;
    uint32_t i = 0, j = 0;
    while (i < a->degree || j < b->degree) {
        bool left = j == b->degree || (i < a->degree && a->sym[i] <= b->sym[j]);
        r.sym[r.degree++] = left ? a->sym[i++] : b->sym[j++];
    }
    *out = r;
    return true;
}

/* False unless b divides a exactly. */
static bool term_div(const Term *a, const Term *b, Term *out) {
    Term r = {0};
    if (b->coef == 0 || a->coef % b->coef != 0) return false;
    r.coef = a->coef / b->coef;
    uint32_t j = 0;
    for (uint32_t i = 0; i < a->degree; i++) {
        if (j < b->degree && a->sym[i] == b->sym[j])
            j++;
        else
            r.sym[r.degree++] = a->sym[i];
    }
    *out = r;
    return j == b->degree;
}

static bool work_load(const Graph *g, Dim d, Work *w) {
    memset(w, 0, sizeof(*w));
    if (!dim_known(d)) return false;
    if (dim_is_const(d)) {
        w->count = d.v == 0 ? 0 : 1;
        w->terms[0].coef = d.v;
        return coef_fits(d.v);
    }
    const Poly *p = dim_poly(g, d);
    if (p == NULL) return false;
    w->count = p->count;
    memcpy(w->terms, p->terms, p->count * sizeof(Term));
    return true;
}

static bool work_mul(const Work *a, const Work *b, Work *out) {
    memset(out, 0, sizeof(*out));
    for (uint32_t i = 0; i < a->count; i++) {
        for (uint32_t j = 0; j < b->count; j++) {
            Term t;
            if (!term_mul(&a->terms[i], &b->terms[j], &t) || !work_add(out, &t)) return false;
        }
    }
    return true;
}

/* ---- public ---- */

Dim dim_const(int64_t v) {
    if (v > DIM_MAX) v = DIM_MAX;
    if (v < -DIM_MAX) v = -DIM_MAX;
    return (Dim){v};
}

Dim dim_sym(Graph *g, SymId s) {
    if (s.id == 0 || s.id >= g->symbols.count) return DIM_UNKNOWN;
    Work w;
    memset(&w, 0, sizeof(w));
    w.count = 1;
    w.terms[0].coef = 1;
    w.terms[0].degree = 1;
    w.terms[0].sym[0] = s.id;
    return dim_intern(g, &w);
}

static Dim dim_add_scaled(Graph *g, Dim a, Dim b, int64_t scale) {
    Work x, y;
    if (!work_load(g, a, &x) || !work_load(g, b, &y)) return DIM_UNKNOWN;
    for (uint32_t i = 0; i < y.count; i++) {
        Term t = y.terms[i];
        t.coef *= scale; /* scale is 1 or -1 and |coef| <= DIM_MAX */
        if (!work_add(&x, &t)) return DIM_UNKNOWN;
    }
    return dim_intern(g, &x);
}

Dim dim_add(Graph *g, Dim a, Dim b) { return dim_add_scaled(g, a, b, 1); }

Dim dim_sub(Graph *g, Dim a, Dim b) { return dim_add_scaled(g, a, b, -1); }

Dim dim_mul(Graph *g, Dim a, Dim b) {
    Work x, y, product;
    if (!work_load(g, a, &x) || !work_load(g, b, &y)) return DIM_UNKNOWN;
    return work_mul(&x, &y, &product) ? dim_intern(g, &product) : DIM_UNKNOWN;
}

/* Long division: the leading term of what is left must be a multiple of b's leading term. Each step
 * removes that leading term, so it ends; a quotient of more than MAX_TERMS terms is given up. */
Dim dim_div(Graph *g, Dim a, Dim b) {
    Work rest, by, quotient;
    if (!work_load(g, a, &rest) || !work_load(g, b, &by) || by.count == 0) return DIM_UNKNOWN;
    memset(&quotient, 0, sizeof(quotient));
    while (rest.count > 0) {
        Term q;
        if (!term_div(&rest.terms[rest.count - 1], &by.terms[by.count - 1], &q)) return DIM_UNKNOWN;
        if (!work_add(&quotient, &q)) return DIM_UNKNOWN;
        for (uint32_t i = by.count; i-- > 0;) {
            Term t;
            if (!term_mul(&by.terms[i], &q, &t)) return DIM_UNKNOWN;
            t.coef = -t.coef;
            if (!work_add(&rest, &t)) return DIM_UNKNOWN;
        }
    }
    return dim_intern(g, &quotient);
}

SymId dim_symbol(const Graph *g, Dim d) {
    const Poly *p = dim_poly(g, d);
    bool one = p != NULL && p->count == 1 && p->terms[0].degree == 1 && p->terms[0].coef == 1;
    return one ? (SymId){p->terms[0].sym[0]} : (SymId){0};
}

bool dim_depends(const Graph *g, Dim d, SymId s) {
    const Poly *p = dim_poly(g, d);
    for (uint32_t i = 0; p != NULL && i < p->count; i++)
        for (uint32_t k = 0; k < p->terms[i].degree; k++)
            if (p->terms[i].sym[k] == s.id) return true;
    return false;
}

Dim dim_substitute(Graph *g, Dim d, SymId s, Dim by) {
    if (!dim_depends(g, d, s)) return d;
    Work whole, with, sum, part, product;
    if (!work_load(g, d, &whole) || !work_load(g, by, &with)) return DIM_UNKNOWN;
    memset(&sum, 0, sizeof(sum));
    for (uint32_t i = 0; i < whole.count; i++) {
        const Term *t = &whole.terms[i];
        Term kept = {0};
        uint32_t power = 0;
        kept.coef = t->coef;
        for (uint32_t k = 0; k < t->degree; k++) {
            if (t->sym[k] == s.id)
                power++;
            else
                kept.sym[kept.degree++] = t->sym[k];
        }
        memset(&part, 0, sizeof(part));
        part.count = 1;
        part.terms[0] = kept;
        for (; power > 0; power--) {
            if (!work_mul(&part, &with, &product)) return DIM_UNKNOWN;
            part = product;
        }
        for (uint32_t k = 0; k < part.count; k++)
            if (!work_add(&sum, &part.terms[k])) return DIM_UNKNOWN;
    }
    return dim_intern(g, &sum);
}

bool dim_eval(const Graph *g, Dim d, const int64_t *bind, size_t nbind, int64_t *out) {
    if (dim_is_const(d)) {
        *out = d.v;
        return true;
    }
    const Poly *p = dim_poly(g, d);
    if (p == NULL) return false;
    int64_t sum = 0;
    for (uint32_t i = 0; i < p->count; i++) {
        int64_t term = p->terms[i].coef;
        for (uint32_t k = 0; k < p->terms[i].degree; k++) {
            uint32_t s = p->terms[i].sym[k];
            if (s >= nbind || !mul_i64(term, bind[s], &term)) return false;
        }
        if (!add_i64(sum, term, &sum)) return false;
    }
    *out = sum;
    return true;
}

bool dim_term(const Graph *g, Dim d, uint32_t i, DimTerm *out) {
    const Poly *p = dim_poly(g, d);
    memset(out, 0, sizeof(*out));
    if (p == NULL) {
        out->factor = d.v;
        return i == 0 && dim_is_const(d) && d.v != 0;
    }
    if (i >= p->count) return false;
    out->factor = p->terms[i].coef;
    out->degree = p->terms[i].degree;
    for (uint32_t k = 0; k < out->degree; k++) out->sym[k].id = p->terms[i].sym[k];
    return true;
}

int64_t dim_literal(const Graph *g, Dim d) {
    if (dim_is_const(d)) return d.v;
    const Poly *p = dim_poly(g, d);
    if (p == NULL) return -1;
    int64_t sum = 0;
    for (uint32_t i = 0; i < p->count; i++) {
        int64_t term = p->terms[i].coef;
        for (uint32_t k = 0; k < p->terms[i].degree; k++) {
            int64_t literal = g->symbols.data[p->terms[i].sym[k]].literal;
            if (literal == 0 || !mul_i64(term, literal, &term)) return -1;
        }
        if (!add_i64(sum, term, &sum)) return -1;
    }
    return sum;
}

/* ---- text: constant first, then by degree and name, so that symbol numbers do not show ---- */

typedef struct {
    int64_t coef;
    uint32_t degree;
    const char *name[MAX_DEGREE];
} NamedTerm;

static void named_sort(NamedTerm *t) {
    for (uint32_t i = 1; i < t->degree; i++) {
        const char *name = t->name[i];
        uint32_t k = i;
        for (; k > 0 && strcmp(t->name[k - 1], name) > 0; k--) t->name[k] = t->name[k - 1];
        t->name[k] = name;
    }
}

static int named_compare(const void *left, const void *right) {
    const NamedTerm *a = left, *b = right;
    if (a->degree != b->degree) return a->degree < b->degree ? -1 : 1;
    for (uint32_t i = 0; i < a->degree; i++) {
        int order = strcmp(a->name[i], b->name[i]);
        if (order != 0) return order;
    }
    return 0;
}

void dim_print(Text *t, const Graph *g, Dim d) {
    if (dim_is_const(d)) {
        text_printf(t, "%lld", (long long)d.v);
        return;
    }
    const Poly *p = dim_poly(g, d);
    if (p == NULL) {
        text_add(t, "?");
        return;
    }
    NamedTerm named[MAX_TERMS];
    for (uint32_t i = 0; i < p->count; i++) {
        named[i].coef = p->terms[i].coef;
        named[i].degree = p->terms[i].degree;
        for (uint32_t k = 0; k < p->terms[i].degree; k++)
            named[i].name[k] = g->symbols.data[p->terms[i].sym[k]].name;
        named_sort(&named[i]);
    }
    qsort(named, p->count, sizeof(named[0]), named_compare);
    for (uint32_t i = 0; i < p->count; i++) {
        int64_t coef = named[i].coef;
        if (i > 0) {
            text_add(t, coef < 0 ? " - " : " + ");
            if (coef < 0) coef = -coef;
        } else if (coef == -1 && named[i].degree > 0) {
            text_add(t, "-");
            coef = 1;
        }
        bool shown = coef != 1 || named[i].degree == 0;
        if (shown) text_printf(t, "%lld", (long long)coef);
        for (uint32_t k = 0; k < named[i].degree; k++) {
            if (shown || k > 0) text_add(t, "*");
            symbol_print(t, named[i].name[k]);
        }
    }
}

/* ---- symbols ---- */

static bool is_word(const char *name) {
    for (const char *c = name; *c != '\0'; c++)
        if (!is_word_char(*c, c == name)) return false;
    return *name != '\0';
}

void symbol_print(Text *t, const char *name) {
    if (is_word(name))
        text_add(t, name);
    else
        string_print(t, name);
}

SymId symbol_find(const Graph *g, const char *name, size_t n) {
    for (uint32_t i = 1; i < g->symbols.count; i++) {
        const char *known = g->symbols.data[i].name;
        if (strncmp(known, name, n) == 0 && known[n] == '\0') return (SymId){i};
    }
    return (SymId){0};
}

SymId symbol_add(Graph *g, const char *name, size_t n) {
    SymId known = symbol_find(g, name, n);
    if (known.id != 0) return known;
    Symbol s = {arena_strndup(g->arena, name, n), 0, 0};
    VEC_PUSH(g->arena, &g->symbols, s);
    return (SymId){(uint32_t)(g->symbols.count - 1)};
}
