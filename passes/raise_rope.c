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

#include "passes/raise_rope.h"

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
    if (!rope_passes(r, graph_node(r->g, id), in, &n)) return;
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
    if ((int64_t)rope_features(r, x) != t->width || xt.rank != out.rank) {
        Type flat = out; /* the part of x that is rotated or kept */
        flat.dim[flat.rank - 1] = dim_const(rope_features(r, x));
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
    if (t->rank < 3 || t->rank > 4 || !dtype_is_float(t->dtype) || !rope_tainted(r, n->out[0])) return true;
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
    bool fits = rope_source(r, r->root) && !val_eq(r->x, r->root);
    if (fits) root = rope_form(r, r->root);
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
