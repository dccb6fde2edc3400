/* structure.c: attention and feed-forward blocks, found by what can be cut from them.
 *
 *   %7 = attention(%q, %k, %v)      %3 = silu(linear(%1, @gate))
 *   %8 = linear(%7, @o)             %5 = mul(%3, linear(%1, @up))
 *   %9 = add(%x, %8)                %6 = linear(%5, @down)
 *                                   %9 = add(%x, %6)
 *
 * A linear is a block's last one when its inputs come straight from an attention, or when a single one of its inputs
 * can be computed alone (pick.h): then the products before it hold rows that nothing else needs. */
#include "passes/lossy/blocks.h"
#include "passes/lossy/pick.h"

#define NEURONS_AT_ONCE 16 /* outputs come in panels of 16 */
#define LEAST_NEURONS 32

typedef struct {
    Graph *g;
    Arena *scratch;
    Uses uses;
    Diag quiet; /* why something cannot be picked is nobody's business */
} Finder;

/* The dry pick of unit 0: can it go, and what does it hold. */
static bool unit_picked(Finder *f, Block *b, bool *plain) {
    Node out = *graph_node(f->g, b->out);
    Picker p = {.g = f->g, .scratch = f->scratch, .d = &f->quiet, .uses = &f->uses, .dry = true};
    int32_t *pick = arena_array_of(f->scratch, (size_t)b->size, int32_t);
    for (int64_t i = 0; i < b->size; i++) pick[i] = (int32_t)i;
    Type want = *graph_type(f->g, out.in[0]);
    want.dim[want.rank - 1] = dim_const(b->size);
    if (!val_ok(pick_features(&p, out.in[0], pick, b->size, &want))) return false;
    int64_t rows = graph_type(f->g, out.out[0])->dim[graph_type(f->g, out.out[0])->rank - 1].v;
    b->unit_weights = p.weights + (uint64_t)(rows * b->size);
    b->unit_state = p.state;
    *plain = *plain && !p.compressed;
    return true;
}

/* Where the block joins the residual stream: through views, norms and constants to the first sum of two rows. */
void block_join(Graph *g, const Uses *uses, Block *b) {
    ValId v = graph_node(g, b->out)->out[0];
    b->join = NO_NODE;
    b->branch = NO_VAL;
    while (uses->count[v.id] == 1) {
        NodeId user = uses->user[uses->first[v.id]];
        if (!node_ok(user)) return;
        const Node *n = graph_node(g, user);
        bool scaled =
            (n->op == OP_MUL || n->op == OP_ADD) && graph_constant(g, n->in[val_eq(n->in[0], v) ? 1 : 0]);
        if (n->op == OP_ADD && !scaled) {
            const Type *sum = graph_type(g, n->out[0]), *own = graph_type(g, v);
            if (!type_eq(sum, own) || !type_eq(sum, graph_type(g, n->in[0])) ||
                !type_eq(sum, graph_type(g, n->in[1])))
                return;
            b->join = user;
            b->branch = v;
            return;
        }
        if (!scaled && n->op != OP_NORM && !row_is_view(g, user)) return;
        v = n->out[0];
    }
}

static bool block_at(Finder *f, NodeId id, Block *b) {
    Graph *g = f->g;
    const Node *n = graph_node(g, id);
    const Type *tx = graph_type(g, n->in[0]);
    *b = (Block){.out = id, .size = 1, .units = tx->dim[tx->rank - 1].v};
    ValId source = row_source(g, n->in[0]);
    bool attention = graph_def_op(g, source) == OP_ATTENTION;
    bool plain =
        weight_is_plain(g, n->in[1]) && (n->nin < 3 || !val_ok(n->in[2]) || weight_is_plain(g, n->in[2]));
    if (attention) {
        b->kind = BLOCK_ATTENTION;
        b->attention = graph_def(g, source);
        const Node *a = graph_node(g, b->attention);
        b->heads = graph_type(g, a->in[0])->dim[2].v;
        b->kv_heads = graph_type(g, a->in[1])->dim[2].v;
        b->units = b->kv_heads;
        b->size = b->heads / b->kv_heads * graph_type(g, a->in[2])->dim[3].v;
        b->multiple = unit_picked(f, b, &plain) && plain && b->units > 1 ? 1 : 0;
    } else {
        b->kind = BLOCK_FEED_FORWARD;
        if (b->units < LEAST_NEURONS || !unit_picked(f, b, &plain)) return false;
        b->multiple = plain ? NEURONS_AT_ONCE : 0;
    }
    block_join(g, &f->uses, b);
    return true;
}

/* The n-th block of a kind is layer n when there are as many of one kind as of the other. */
static void number_layers(Block *blocks, size_t n) {
    int32_t count[2] = {0, 0}, seen[2] = {0, 0};
    for (size_t i = 0; i < n; i++) count[blocks[i].kind]++;
    for (size_t i = 0; i < n; i++) {
        int32_t own = seen[blocks[i].kind]++;
        bool paired = count[0] == count[1] || blocks[i].kind == BLOCK_ATTENTION;
        blocks[i].layer = paired ? own : seen[BLOCK_ATTENTION] - 1;
    }
}

size_t blocks_find(Graph *g, Arena *a, Block **out) {
    VEC(Block) found = {0};
    Finder f = {.g = g, .scratch = arena_new()};
    f.uses = graph_uses(g, f.scratch);
    diag_init(&f.quiet);
    FOR_NODES (g, id) {
        const Node *n = graph_node(g, id);
        RowShape rows;
        Block b;
        if (n->op == OP_LINEAR && row_shape(g, n->in[0], &rows) && rows.per_row && block_at(&f, id, &b))
            VEC_PUSH(a, &found, b);
    }
    diag_free(&f.quiet);
    arena_free(f.scratch);
    number_layers(found.data, found.count);
    *out = found.data;
    return found.count;
}
