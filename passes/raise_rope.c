/* raise_rope.c: rotary embeddings, by running the primitives on feature numbers.
 *
 *   %2 = add(mul(%x, %cos), mul(concat(neg(slice(%x)), slice(%x)), %sin))       halves
 *   %2 = concat(sub(mul(%a, %cos), mul(%b, %sin)), add(mul(%b, %cos), mul(%a, %sin)))
 *   %2 = reshape(concat(reshape(...), reshape(...)))                             neighbours
 *      ->  transpose(rope(transpose(%x), table, table, positions))
 *
 * Exporters slice, negate, stack and reshape in many ways, but on the feature axes they all compute
 * out[j] = x[a] * cos[c] +- x[b] * sin[s]. So the nodes between x and a candidate are run on symbols:
 * each feature is a list of at most two terms sign * x[i] * table[t]. If what comes out is a rotation,
 * the tables are evaluated (position_eval.c), and the pairs' entries must be equal.
 * leaves alone: rotations by tables that are no function of the position; raise-position names them. */
#include <stdlib.h>
#include <string.h>

#include "passes/raise.h"

#define MAX_FEATURES 4096
#define MAX_FORMS 48
#define MAX_TABLES 8
#define MAX_MADE 8

typedef struct {
    ValId tab;
    int32_t x, ti;
    float sign;
} Term;
typedef struct {
    uint8_t n;
    Term t[2];
} Feature;
typedef struct {
    ValId v;
    uint32_t count;
    Feature *f;
} Form;

typedef struct {
    PassCtx *cx;
    Graph *g;
    const bool *taint;
    size_t ntaint;
    bool *done;  /* nodes inside a raised rotation, by node id */
    bool *named; /* inside one that was given up with a reason; NULL when nobody asks */
    size_t ndone;
    uint32_t nlead, seq_axis; /* axes before the features, and which of them is the sequence */
    ValId root, x;
    uint32_t depth, visited;
    Form form[MAX_FORMS];
    uint32_t nforms;
} Rope;

static bool tainted(const Rope *r, ValId v) { return v.id >= r->ntaint || r->taint[v.id]; }

/* Feature count of a value with the root's leading axes; 0 when it has none such. */
static uint32_t features(const Rope *r, ValId v) {
    const Type *t = graph_type(r->g, v), *root = graph_type(r->g, r->root);
    int64_t n = 1;
    if (t->rank <= r->nlead) return 0;
    for (uint32_t i = 0; i < t->rank; i++) {
        if (i < r->nlead) {
            if (!dim_eq(t->dim[i], root->dim[i])) return 0;
        } else if (!dim_is_const(t->dim[i]) || !mul_i64(n, t->dim[i].v, &n) || n > MAX_FEATURES) {
            return 0;
        }
    }
    return n > 0 ? (uint32_t)n : 0;
}

/* A table: no tokens, and one of its axes runs along the sequence. */
static bool is_table(const Rope *r, ValId v) {
    const Type *t = graph_type(r->g, v);
    if (tainted(r, v) || !dtype_is_float(t->dtype)) return false;
    for (uint32_t i = 0; i < t->rank; i++)
        if (dim_depends(r->g, t->dim[i], SYM_SEQ)) return true;
    return false;
}

/* Whether the walk passes the node; operands that lead on to x are in[0..*n). */
static bool passes(const Rope *r, const Node *n, ValId in[2], uint32_t *count) {
    *count = 1;
    in[0] = n->nin > 0 ? n->in[0] : NO_VAL;
    if (n->nin == 0 || features(r, n->out[0]) == 0) return false;
    switch (n->op) {
    case OP_ADD:
    case OP_SUB:
        *count = 2;
        in[1] = n->in[1];
        return tainted(r, in[0]) && tainted(r, in[1]) && features(r, in[0]) != 0 &&
               features(r, in[0]) == features(r, in[1]) && features(r, in[0]) == features(r, n->out[0]);
    case OP_NEG: return true;
    case OP_MUL:
        if (is_table(r, n->in[0]))
            in[0] = n->in[1];
        else if (!is_table(r, n->in[1]))
            return false;
        return tainted(r, in[0]) && features(r, in[0]) == features(r, n->out[0]);
    case OP_SLICE:
        for (uint32_t i = 0; i < r->nlead; i++)
            if (!dim_eq(n->attr.starts[i], dim_const(0)) || n->attr.steps[i] != 1) return false;
        for (uint32_t i = r->nlead; i < graph_type(r->g, n->out[0])->rank; i++)
            if (!dim_is_const(n->attr.starts[i])) return false;
        return features(r, in[0]) != 0;
    case OP_CONCAT:
        if (n->nin != 2 || (uint32_t)n->attr.axis < r->nlead) return false;
        *count = 2;
        in[1] = n->in[1];
        return tainted(r, in[0]) && tainted(r, in[1]) && features(r, in[0]) != 0 && features(r, in[1]) != 0;
    case OP_RESHAPE: return features(r, in[0]) != 0;
    default: return false;
    }
}

/* The one value that everything under v comes from; false when there are several. */
static bool find_source(Rope *r, ValId v) {
    NodeId id = graph_def(r->g, v);
    ValId in[2];
    uint32_t n = 0;
    if (++r->visited > 200 || r->depth > 16) return false;
    if (!node_ok(id) || !passes(r, graph_node(r->g, id), in, &n)) {
        if (features(r, v) == 0 || (val_ok(r->x) && !val_eq(r->x, v))) return false;
        r->x = v;
        return true;
    }
    r->depth++;
    bool ok = true;
    for (uint32_t i = 0; ok && i < n; i++) ok = find_source(r, in[i]);
    r->depth--;
    return ok;
}

/* ---- running on symbols ---- */

static Form *form_of(Rope *r, ValId v);

static Form *form_new(Rope *r, ValId v, uint32_t count) {
    if (r->nforms == MAX_FORMS) return NULL;
    Form *f = &r->form[r->nforms++];
    f->v = v;
    f->count = count;
    f->f = arena_array_of(r->cx->scratch, count, Feature);
    return f;
}

/* Row-major index of element j of out's trailing axes, in a value of type t that broadcasts to it. */
static bool table_index(const Rope *r, const Type *out, const Type *t, uint32_t j, int32_t *at) {
    int64_t index[MAX_RANK] = {0}, sum = 0;
    for (uint32_t i = out->rank; i-- > r->nlead;) {
        index[i] = j % out->dim[i].v;
        j = (uint32_t)(j / out->dim[i].v);
    }
    for (uint32_t i = 0; i < t->rank; i++) {
        uint32_t o = out->rank - t->rank + i;
        if (t->rank > out->rank) return false;
        if (o < r->nlead) continue;
        if (!dim_is_const(t->dim[i])) return false;
        sum = sum * t->dim[i].v + (t->dim[i].v == 1 ? 0 : index[o]);
    }
    *at = (int32_t)sum;
    return true;
}

/* Tables run along the sequence; sequences and heads share them. */
static bool table_fits(const Rope *r, const Type *out, const Type *t) {
    if (t->rank > out->rank) return false;
    for (uint32_t i = 0; i < t->rank; i++) {
        uint32_t o = out->rank - t->rank + i;
        Dim d = t->dim[i];
        if (o >= r->nlead || dim_eq(d, dim_const(1))) continue;
        Dim want = dim_sym(r->g, o == r->seq_axis ? SYM_SEQ : SYM_BATCH);
        if (!dim_eq(d, want)) return false;
    }
    return true;
}

static bool run_mul(Rope *r, const Node *n, ValId x, Form *out) {
    ValId tab = val_eq(n->in[0], x) ? n->in[1] : n->in[0];
    const Form *a = form_of(r, x);
    if (a == NULL || a->count != out->count) return false;
    if (!table_fits(r, graph_type(r->g, n->out[0]), graph_type(r->g, tab))) return false;
    for (uint32_t j = 0; j < out->count; j++) {
        out->f[j] = a->f[j];
        for (uint32_t k = 0; k < a->f[j].n; k++) {
            Term *t = &out->f[j].t[k];
            if (val_ok(t->tab)) return false;
            t->tab = tab;
            if (!table_index(r, graph_type(r->g, n->out[0]), graph_type(r->g, tab), j, &t->ti)) return false;
        }
    }
    return true;
}

static bool run_slice(Rope *r, const Node *n, Form *out) {
    const Form *a = form_of(r, n->in[0]);
    const Type *from = graph_type(r->g, n->in[0]), *to = graph_type(r->g, n->out[0]);
    if (a == NULL) return false;
    for (uint32_t j = 0; j < out->count; j++) {
        uint32_t rest = j;
        int64_t at = 0, stride = 1;
        for (uint32_t i = to->rank; i-- > r->nlead;) {
            int64_t k = rest % to->dim[i].v;
            rest = (uint32_t)(rest / to->dim[i].v);
            k = n->attr.starts[i].v + k * n->attr.steps[i];
            if (k < 0 || k >= from->dim[i].v) return false;
            at += k * stride;
            stride *= from->dim[i].v;
        }
        if (at >= a->count) return false;
        out->f[j] = a->f[at];
    }
    return true;
}

static bool run_concat(Rope *r, const Node *n, Form *out) {
    const Type *to = graph_type(r->g, n->out[0]);
    uint32_t axis = (uint32_t)n->attr.axis, inner = 1, at = 0;
    for (uint32_t i = axis + 1; i < to->rank; i++) inner *= (uint32_t)to->dim[i].v;
    uint32_t len = (uint32_t)to->dim[axis].v * inner;
    for (uint32_t k = 0; k < n->nin; k++) {
        const Form *a = form_of(r, n->in[k]);
        if (a == NULL) return false;
        uint32_t part = (uint32_t)graph_type(r->g, n->in[k])->dim[axis].v * inner;
        for (uint32_t j = 0; j < a->count; j++) {
            uint32_t o = j / part * len + at + j % part;
            if (o >= out->count) return false;
            out->f[o] = a->f[j];
        }
        at += part;
    }
    return true;
}

static bool run_sum(Rope *r, const Node *n, Form *out) {
    const Form *a = form_of(r, n->in[0]), *b = form_of(r, n->in[1]);
    if (a == NULL || b == NULL || a->count != out->count || b->count != out->count) return false;
    for (uint32_t j = 0; j < out->count; j++) {
        Feature *f = &out->f[j];
        if (a->f[j].n != 1 || b->f[j].n != 1) return false;
        f->n = 2;
        f->t[0] = a->f[j].t[0];
        f->t[1] = b->f[j].t[0];
        if (n->op == OP_SUB) f->t[1].sign = -f->t[1].sign;
    }
    return true;
}

static bool run_copy(Rope *r, const Node *n, Form *out) {
    const Form *a = form_of(r, n->in[0]);
    if (a == NULL || a->count != out->count) return false;
    memcpy(out->f, a->f, a->count * sizeof(Feature));
    for (uint32_t j = 0; n->op == OP_NEG && j < out->count; j++)
        for (uint32_t k = 0; k < out->f[j].n; k++) out->f[j].t[k].sign = -out->f[j].t[k].sign;
    return true;
}

static Form *form_of(Rope *r, ValId v) {
    for (uint32_t i = 0; i < r->nforms; i++)
        if (val_eq(r->form[i].v, v)) return &r->form[i];
    uint32_t count = features(r, v), nin;
    ValId in[2];
    if (count == 0) return NULL;
    Form out = {v, count, arena_array_of(r->cx->scratch, count, Feature)};
    if (val_eq(v, r->x)) {
        for (uint32_t j = 0; j < count; j++) {
            out.f[j].n = 1;
            out.f[j].t[0] = (Term){NO_VAL, (int32_t)j, 0, 1};
        }
    } else {
        NodeId id = graph_def(r->g, v);
        if (!node_ok(id)) return NULL;
        const Node *n = graph_node(r->g, id);
        if (!passes(r, n, in, &nin)) return NULL;
        bool ok = false;
        switch (n->op) {
        case OP_ADD:
        case OP_SUB: ok = run_sum(r, n, &out); break;
        case OP_MUL: ok = run_mul(r, n, in[0], &out); break;
        case OP_SLICE: ok = run_slice(r, n, &out); break;
        case OP_CONCAT: ok = run_concat(r, n, &out); break;
        default: ok = run_copy(r, n, &out); break;
        }
        if (!ok) return NULL;
    }
    Form *f = form_new(r, v, 0);
    if (f == NULL) return NULL;
    *f = out;
    return f;
}

/* ---- what the features say ---- */

typedef struct {
    int32_t base, width, rotated;
    bool interleaved;
    const Feature *f;
    float sine; /* -1 when the rotation turns the other way */
} Turn;

static int32_t partner(int32_t j, int32_t r, bool interleaved) {
    if (interleaved) return j ^ 1;
    return j < r / 2 ? j + r / 2 : j - r / 2;
}

static bool is_first(int32_t j, int32_t r, bool interleaved) {
    return interleaved ? (j & 1) == 0 : j < r / 2;
}

/* Puts each rotated feature's cosine term first and checks pairs and signs. */
static bool turn_check(Feature *f, Turn *t, bool interleaved) {
    t->interleaved = interleaved;
    for (int32_t j = 0; j < t->rotated; j++) {
        Term *a = &f[j].t[0], *b = &f[j].t[1];
        if (f[j].n != 2 || !val_ok(a->tab) || !val_ok(b->tab)) return false;
        if (a->x - t->base != j) {
            Term swap = *a;
            *a = *b;
            *b = swap;
        }
        if (a->x - t->base != j || b->x - t->base != partner(j, t->rotated, interleaved)) return false;
        float sine = is_first(j, t->rotated, interleaved) ? -b->sign : b->sign;
        if (a->sign != 1 || (j > 0 && sine != t->sine)) return false;
        t->sine = sine;
    }
    return true;
}

static bool turn_read(Form *root, Turn *t) {
    memset(t, 0, sizeof(*t));
    t->width = (int32_t)root->count;
    t->base = INT32_MAX;
    for (uint32_t j = 0; j < root->count; j++) {
        const Feature *f = &root->f[j];
        if (f->n == 2 && t->rotated == (int32_t)j) t->rotated++;
        for (uint32_t k = 0; k < f->n; k++)
            if (f->t[k].x < t->base) t->base = f->t[k].x;
    }
    if (t->rotated < 2 || t->rotated % 2 != 0) return false;
    for (int32_t j = t->rotated; j < t->width; j++) {
        const Term *a = &root->f[j].t[0];
        if (root->f[j].n != 1 || val_ok(a->tab) || a->x - t->base != j || a->sign != 1) return false;
    }
    t->f = root->f;
    return turn_check(root->f, t, false) || turn_check(root->f, t, true);
}

/* ---- tables ---- */

typedef struct {
    ValId v;
    RowTable rows;
} Known;

static void mark_inside(Rope *r, ValId v, bool *mark) {
    NodeId id = graph_def(r->g, v);
    ValId in[2];
    uint32_t n = 0;
    if (!node_ok(id) || val_eq(v, r->x) || id.id >= r->ndone || mark[id.id]) return;
    if (!passes(r, graph_node(r->g, id), in, &n)) return;
    mark[id.id] = true;
    for (uint32_t i = 0; i < n; i++) mark_inside(r, in[i], mark);
}

/* Names the outermost candidate alone. */
static bool miss(Rope *r, const char *why) {
    NodeId root = graph_def(r->g, r->root);
    if (r->named == NULL || r->named[root.id]) return false;
    pass_near_miss(r->cx, r->g, root, "rope", "%s", why);
    mark_inside(r, r->root, r->named);
    return false;
}

static const RowTable *table_rows(Rope *r, ValId v, Known *known, size_t *n) {
    const char *why;
    for (size_t i = 0; i < *n; i++)
        if (val_eq(known[i].v, v)) return &known[i].rows;
    if (*n == MAX_TABLES) return NULL;
    Known *k = &known[*n];
    if (!position_rows(r->cx, r->g, v, position_context(r->cx, r->g), &k->rows, &why)) {
        if (r->named != NULL) miss(r, arena_printf(r->cx->scratch, "its table %s", why));
        return NULL;
    }
    k->v = v;
    ++*n;
    return &k->rows;
}

/* cos[rows, r/2] and sin[rows, r/2]; false when the entries of a pair differ or are no rows. */
static bool tables_make(Rope *r, const Turn *t, ValId *cos, ValId *sin) {
    Known known[MAX_TABLES];
    size_t n = 0;
    int32_t half = t->rotated / 2;
    int64_t rows = INT64_MAX;
    for (int32_t j = 0; j < t->rotated; j++)
        for (uint32_t k = 0; k < 2; k++) {
            const RowTable *tab = table_rows(r, t->f[j].t[k].tab, known, &n);
            if (tab == NULL || tab->seq_axis < 0 || t->f[j].t[k].ti >= tab->width) return false;
            if (tab->rows < rows) rows = tab->rows;
        }
    float *data[2];
    Dim dims[2] = {dim_const(rows), dim_const(half)};
    for (uint32_t k = 0; k < 2; k++) {
        data[k] = arena_array_of(r->g->arena, (size_t)rows * (size_t)half, float);
        for (int32_t j = 0; j < t->rotated; j++) {
            const Term *term = &t->f[j].t[k];
            const RowTable *tab = table_rows(r, term->tab, known, &n);
            int32_t pair = t->interleaved ? j / 2 : j % half;
            bool first = is_first(j, t->rotated, t->interleaved);
            for (int64_t q = 0; q < rows; q++) {
                float x = (float)row_get(tab, q, term->ti) * (k == 1 ? t->sine : 1);
                float *to = &data[k][q * half + pair];
                if (first)
                    *to = x;
                else if (!tensor_same((double)*to, (double)x))
                    return miss(r, "the two features of a pair are turned by different angles");
            }
        }
    }
    *cos = graph_const(r->g, type_make(DT_F32, 2, dims), data[0], NULL);
    *sin = graph_const(r->g, type_make(DT_F32, 2, dims), data[1], NULL);
    return true;
}

/* ---- building ---- */

typedef struct {
    uint64_t entries;
    int32_t rotated;
    bool interleaved;
    float sine;
    ValId cos, sin;
} Made;

/* The one axis of the root that is the sequence, or -1. */
static int sequence_axis(const Rope *r) {
    const Type *root = graph_type(r->g, r->root);
    int axis = -1;
    for (uint32_t i = 0; i < r->nlead; i++)
        if (dim_eq(root->dim[i], dim_sym(r->g, SYM_SEQ))) axis = axis < 0 ? (int)i : MAX_RANK;
    if (axis < 1 || axis >= (int)r->nlead) return -1;
    return axis;
}

static bool build(Rope *r, const Turn *t, int axis, ValId cos, ValId sin, NodeId root) {
    Graph *g = r->g;
    Diag *d = r->cx->diag;
    Loc loc = graph_node(g, root)->loc;
    Type out = *graph_type(g, r->root);
    ValId ids = position_ids(g, d);
    if (!val_ok(ids)) return false;
    g->insert_before = root;
    ValId x = r->x;
    Type xt = *graph_type(g, x);
    if ((int64_t)features(r, x) != t->width || xt.rank != out.rank) {
        Type flat = out; /* the part of x that is rotated or kept */
        flat.dim[flat.rank - 1] = dim_const(features(r, x));
        x = move_reshape(g, x, flat.dim, flat.rank, loc, d);
        Attr a = attr_default();
        for (uint32_t i = 0; i < flat.rank; i++) {
            a.starts[i] = dim_const(i + 1 == flat.rank ? t->base : 0);
            a.steps[i] = 1;
        }
        if (val_ok(x) && !type_eq(graph_type(g, x), &out))
            x = graph_add(g, OP_SLICE, &x, 1, &a, &out, loc, d);
    }
    if (!val_ok(x)) return false;
    View w;
    view_of(g, x, false, &w);
    Dim four[4] = {out.dim[0], out.dim[1], dim_const(1), out.dim[out.rank - 1]};
    uint8_t perm[4] = {0, 1, 2, 3};
    if (out.rank == 3) {
        if (!view_reshape(g, &w, four, 4)) return diag_bug(d, loc, "a rotation does not split into heads");
    } else if (axis == 2) {
        perm[1] = 2;
        perm[2] = 1;
        view_transpose(&w, perm);
    }
    x = view_emit(g, &w, loc, d);
    ValId in[4] = {x, cos, sin, ids};
    Attr a = attr_default();
    a.interleaved = t->interleaved;
    ValId y = val_ok(x) ? graph_add(g, OP_ROPE, in, 4, &a, NULL, loc, d) : NO_VAL;
    if (val_ok(y)) y = move_transpose(g, y, perm, loc, d);
    y = move_reshape(g, y, out.dim, out.rank, loc, d);
    g->insert_before = NO_NODE;
    if (!val_ok(y)) return false;
    graph_replace(g, r->root, y);
    return true;
}

/* Which entry of which table each feature is multiplied by. */
static uint64_t turn_entries(const Turn *turn) {
    uint64_t h = 0;
    for (int32_t j = 0; j < turn->rotated; j++)
        for (uint32_t k = 0; k < 2; k++) {
            const uint32_t entry[2] = {turn->f[j].t[k].tab.id, (uint32_t)turn->f[j].t[k].ti};
            h = hash_bytes(entry, sizeof(entry), h);
        }
    return h;
}

/* The tables of an equal rotation, or new ones; NULL when they are no function of the position. */
static const Made *made_get(Rope *r, const Turn *turn, Made *made) {
    uint64_t entries = turn_entries(turn);
    uint32_t at = 0;
    for (; at < MAX_MADE && val_ok(made[at].cos); at++) {
        const Made *m = &made[at];
        if (m->entries == entries && m->rotated == turn->rotated && m->interleaved == turn->interleaved &&
            m->sine == turn->sine)
            return m;
    }
    if (at == MAX_MADE) at = 0;
    Made m = {entries, turn->rotated, turn->interleaved, turn->sine, NO_VAL, NO_VAL};
    if (!tables_make(r, turn, &m.cos, &m.sin)) return NULL;
    made[at] = m;
    return &made[at];
}

static bool rope_try(Rope *r, NodeId id, Made *made, int64_t *count) {
    const Node *n = graph_node(r->g, id);
    const Type *t = graph_type(r->g, n->out[0]);
    if (n->op != OP_ADD && n->op != OP_CONCAT && n->op != OP_RESHAPE) return true;
    if (t->rank < 3 || t->rank > 4 || !dtype_is_float(t->dtype) || !tainted(r, n->out[0])) return true;
    r->root = n->out[0];
    r->x = NO_VAL;
    r->nlead = t->rank - 1u;
    r->depth = r->visited = r->nforms = 0;
    int axis = sequence_axis(r);
    if (axis < 0) return true;
    r->seq_axis = (uint32_t)axis;
    ArenaMark mark = arena_mark(r->cx->scratch);
    Turn turn;
    Form *root = NULL;
    bool fits = find_source(r, r->root) && !val_eq(r->x, r->root);
    if (fits) root = form_of(r, r->root);
    bool turns = root != NULL && turn_read(root, &turn);
    if (root != NULL && !turns && turn.rotated >= 2) miss(r, "its pairs are neither halves nor neighbours");
    if (turns) {
        const Made *m = made_get(r, &turn, made);
        if (m != NULL) {
            mark_inside(r, r->root, r->done);
            if (!build(r, &turn, axis, m->cos, m->sin, id)) return false;
            (*count)++;
        }
    }
    arena_reset(r->cx->scratch, mark);
    return true;
}

bool raise_ropes(PassCtx *cx, Graph *g, int64_t *count) {
    Rope *r = arena_new_of(cx->scratch, Rope);
    r->cx = cx;
    r->g = g;
    r->ntaint = g->values.count;
    r->taint = graph_taint(g, cx->scratch);
    r->ndone = g->nodes.count;
    r->done = arena_array_of(cx->scratch, r->ndone, bool);
    if (cx->misses != NULL) r->named = arena_array_of(cx->scratch, r->ndone, bool);
    Made made[MAX_MADE];
    memset(made, 0, sizeof(made));
    /* From the end: the largest candidate comes first. */
    for (NodeId id = g->last; node_ok(id); id = graph_node(g, id)->prev) {
        if (id.id >= r->ndone || r->done[id.id]) continue;
        if (!rope_try(r, id, made, count)) return false;
    }
    return true;
}
