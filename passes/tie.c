/* tie.c: large constants that are equal, or each other's transpose, are stored once.
 *
 *   const %1 : f32[384, 64]             const %1 : f32[384, 64]
 *   const %2 : f32[64, 384] = %1^T  ->  %2 = transpose(%1) {perm=[1, 0]}
 *
 * Equal ones are found by content hash and confirmed byte by byte; transposes are looked for among
 * matrices with the same diagonal. A table that is gathered from stays as it is stored.
 * leaves alone: matrices below 4096 elements when they would need a transpose. */
#include <string.h>

#include "passes/rewrite.h"

#define TRANSPOSE_ELEMENTS 4096
#define DIAGONAL 64

typedef struct {
    ValId v;
    uint64_t key;
    bool gathered;
} Item;
typedef struct {
    Item *item;
    size_t count;
    uint32_t *slot;
    size_t mask;
} Index;

static Index index_new(Arena *a, size_t most) {
    Index x = {0};
    size_t size = 16;
    while (size < 2 * most + 2) size *= 2;
    x.item = arena_array_of(a, most + 1, Item);
    x.slot = arena_array_of(a, size, uint32_t);
    x.mask = size - 1;
    return x;
}

static bool equal_const(const Graph *g, ValId a, ValId b) {
    const Const *p = graph_constant(g, a), *q = graph_constant(g, b);
    if (!type_eq(graph_type(g, a), graph_type(g, b)) || p->bytes != q->bytes) return false;
    return p->data == q->data || memcmp(p->data, q->data, p->bytes) == 0;
}

/* b[j][i] == a[i][j] for all; both are matrices. */
static bool transposed_const(const Graph *g, ValId a, ValId b) {
    const Type *s = graph_type(g, a), *t = graph_type(g, b);
    if (s->dtype != t->dtype || !dim_eq(s->dim[0], t->dim[1]) || !dim_eq(s->dim[1], t->dim[0])) return false;
    size_t rows = (size_t)s->dim[0].v, cols = (size_t)s->dim[1].v, size = dtype_size(s->dtype);
    const uint8_t *p = graph_constant(g, a)->data, *q = graph_constant(g, b)->data;
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            if (memcmp(p + (i * cols + j) * size, q + (j * rows + i) * size, size) != 0) return false;
    return true;
}

/* Hash of the first elements of the diagonal, which a transpose keeps. */
static uint64_t diagonal_key(const Graph *g, ValId v) {
    const Type *t = graph_type(g, v);
    const Const *c = graph_constant(g, v);
    size_t rows = (size_t)t->dim[0].v, cols = (size_t)t->dim[1].v, size = dtype_size(t->dtype);
    size_t n = rows < cols ? rows : cols;
    uint8_t bytes[DIAGONAL * 8] = {0};
    if (n > DIAGONAL) n = DIAGONAL;
    for (size_t i = 0; i < n; i++)
        memcpy(bytes + i * size, (const uint8_t *)c->data + i * (cols + 1) * size, size);
    return hash_bytes(bytes, sizeof(bytes), rows + cols);
}

typedef bool SameFn(const Graph *g, ValId a, ValId b);

/* The earlier item that `same` says belongs with v; else v is added. */
static Item *index_find(Index *x, const Graph *g, Item it, SameFn *same) {
    size_t s = (size_t)it.key & x->mask;
    for (; x->slot[s] != 0; s = (s + 1) & x->mask) {
        Item *other = &x->item[x->slot[s] - 1];
        if (other->key == it.key && same(g, other->v, it.v)) return other;
    }
    x->item[x->count] = it;
    x->slot[s] = (uint32_t)++x->count;
    return NULL;
}

static int64_t tie_equal(PassCtx *cx, Graph *g) {
    Index x = index_new(cx->scratch, g->values.count);
    int64_t tied = 0;
    for (uint32_t i = 1; i < g->values.count; i++) {
        ValId v = {i};
        const Const *c = graph_constant(g, v);
        if (c == NULL || c->data == NULL || c->bytes == 0) continue;
        Item *first = index_find(&x, g, (Item){v, const_hash(g, v), false}, equal_const);
        if (first == NULL) continue;
        graph_replace(g, v, first->v);
        graph_val(g, v)->kind = V_FREE;
        tied++;
    }
    return tied;
}

static bool large_matrix(const Graph *g, ValId v) {
    const Type *t = graph_type(g, v);
    const Const *c = graph_constant(g, v);
    if (c == NULL || c->data == NULL || t->rank != 2 || dtype_bits(t->dtype) < 8) return false;
    return c->bytes / dtype_size(t->dtype) >= TRANSPOSE_ELEMENTS;
}

/* `v` becomes transpose(keep). */
static bool tie_to(PassCtx *cx, Graph *g, ValId keep, ValId v) {
    Attr a = attr_default();
    a.perm[0] = 1;
    a.perm[1] = 0;
    g->insert_before = g->first;
    ValId t = graph_add(g, OP_TRANSPOSE, &keep, 1, &a, NULL, loc_none(), cx->diag);
    g->insert_before = NO_NODE;
    if (!val_ok(t)) return false;
    graph_val(g, t)->name = graph_val(g, v)->name;
    graph_replace(g, v, t);
    graph_val(g, v)->kind = V_FREE;
    return true;
}

static bool tie_transposed(PassCtx *cx, Graph *g, int64_t *tied) {
    uint32_t count = (uint32_t)g->values.count;
    bool *gathered = arena_array_of(cx->scratch, count, bool);
    FOR_NODES (g, id) {
        const Node *n = graph_node(g, id);
        if (n->op == OP_GATHER) gathered[n->in[0].id] = true;
    }
    Index x = index_new(cx->scratch, count);
    for (uint32_t i = 1; i < count; i++) {
        Item it = {{i}, 0, gathered[i]};
        if (!large_matrix(g, it.v)) continue;
        it.key = diagonal_key(g, it.v);
        Item *first = index_find(&x, g, it, transposed_const);
        if (first == NULL) continue;
        bool swap = it.gathered && !first->gathered;
        ValId keep = swap ? it.v : first->v, other = swap ? first->v : it.v;
        if (!tie_to(cx, g, keep, other)) return false;
        *first = swap ? it : *first;
        ++*tied;
    }
    return true;
}

PassResult pass_tie(PassCtx *cx, Graph *g) {
    int64_t equal = tie_equal(cx, g), transposed = 0;
    if (!tie_transposed(cx, g, &transposed)) return PASS_FAILED;
    pass_count(cx, "equal constants", equal);
    pass_count(cx, "transposed constants", transposed);
    return equal + transposed > 0 ? PASS_CHANGED : PASS_UNCHANGED;
}
