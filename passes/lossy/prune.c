/* prune.c: neurons, heads and whole blocks taken out of a graph.
 *
 *   %3 = gelu(linear(%1, @up[K, 1024], @b))       %3 = gelu(linear(%1, @up'[K, 960], @b'))
 *   %4 = linear(%3, @down[1024, N])           ->  %4 = linear(%3, @down'[960, N], @bias)
 *
 * What goes is chosen, and what stays made up for it, on the block's last product (removal.h); the products before it
 * lose the same rows (pick.h), a cache its heads. A skipped block leaves the mean of what it added behind.
 * leaves alone: compressed weights, routed experts, blocks whose features a norm mixes. */
#include <string.h>

#include "passes/lossy/blocks.h"
#include "passes/lossy/pick.h"
#include "passes/lossy/removal.h"
#include "passes/rewrite.h"

#define MOMENTS_AT_ONCE ((size_t)256 << 20) /* bytes */

/* ---- what is offered ---- */

typedef struct {
    Arena *a;
    VEC(LossyStep) steps;
} Offers;

#define AMOUNTS 16

/* Of n units, the amounts that leave a multiple of `multiple`: about 1/64, then 1/32 after 1/32 up to a half. */
static size_t amounts_of(int64_t n, int64_t multiple, int64_t out[AMOUNTS]) {
    static const int64_t part[AMOUNTS] = {1,  2,  4,  6,  8,  10, 12, 14,
                                          16, 18, 20, 22, 24, 26, 28, 32}; /* of 64 */
    size_t count = 0;
    for (size_t i = 0; i < COUNT_OF(part); i++) {
        int64_t keep = (n - (n * part[i] + 63) / 64) / multiple * multiple;
        int64_t amount = n - keep;
        if (keep > 0 && amount > 0 && (count == 0 || amount > out[count - 1])) out[count++] = amount;
    }
    return count;
}

static void offer_units(Offers *o, uint32_t index, const Block *b) {
    if (b->multiple == 0) return;
    int64_t amount[AMOUNTS];
    size_t n = amounts_of(b->units, b->multiple, amount);
    for (size_t i = 0; i < n; i++) {
        LossyStep s = {.kind = b->kind == BLOCK_ATTENTION ? STEP_HEADS : STEP_NEURONS,
                       .block = index,
                       .layer = b->layer,
                       .amount = amount[i],
                       .weights = (uint64_t)amount[i] * b->unit_weights,
                       .state = (uint64_t)amount[i] * b->unit_state};
        s.ops = 2 * s.weights;
        VEC_PUSH(o->a, &o->steps, s);
    }
}

static void offer_skip(Offers *o, uint32_t index, const Block *b) {
    if (!node_ok(b->join) || b->unit_weights == 0) return;
    LossyStep s = {.kind = STEP_SKIP,
                   .block = index,
                   .layer = b->layer,
                   .amount = b->units,
                   .weights = (uint64_t)b->units * b->unit_weights,
                   .state = (uint64_t)b->units * b->unit_state,
                   .loss = 1};
    s.ops = 2 * s.weights;
    VEC_PUSH(o->a, &o->steps, s);
}

/* The site that is the block's last product, or nsites: too narrow for one. */
static uint32_t site_of_block(const Block *b, const Site *sites, size_t nsites) {
    uint32_t k = 0;
    while (k < nsites && sites[k].user.id != b->out.id) k++;
    return k;
}

size_t steps_offered(Graph *g, Arena *a, LossyStep **out) {
    Block *blocks;
    Site *sites;
    size_t nblocks = blocks_find(g, a, &blocks), nsites = sites_find(g, a, &sites);
    Uses uses = graph_uses(g, a);
    Offers o = {.a = a};
    for (uint32_t i = 0; i < nblocks; i++) {
        bool shared = !graph_used_once(&uses, graph_node(g, blocks[i].out)->in[1]);
        if (shared || site_of_block(&blocks[i], sites, nsites) == nsites) continue;
        offer_units(&o, i, &blocks[i]);
        offer_skip(&o, i, &blocks[i]);
    }
    *out = o.steps.data;
    return o.steps.count;
}

/* ---- what goes and what makes up for it ---- */

typedef struct {
    Graph *g;
    const Block *blocks;
    LossyStep *steps;
    size_t nsteps;
    bool make;          /* not only the losses */
    const double *dear; /* [blocks]; as of RemovalTask; NULL: none is */
    Arena *a;
    Diag *d;
} Preparer;

/* w [rows][cols], whichever way the constant lies. */
static bool product_read(Graph *g, NodeId id, Arena *a, float **w, float **bias, int64_t *rows, int64_t *cols,
                         Diag *d) {
    const Node n = *graph_node(g, id);
    const Type *t = graph_type(g, n.in[1]);
    *rows = t->dim[n.attr.trans ? 0 : 1].v;
    *cols = t->dim[n.attr.trans ? 1 : 0].v;
    *bias = NULL;
    if (n.nin > 2 && val_ok(n.in[2]) && !weight_read(g, n.in[2], a, bias, d)) return false;
    if (!weight_read(g, n.in[1], a, w, d)) return false;
    if (n.attr.trans) return true;
    float *turned = arena_array_of(a, (size_t)(*rows * *cols), float);
    for (int64_t r = 0; r < *rows; r++)
        for (int64_t c = 0; c < *cols; c++) turned[r * *cols + c] = (*w)[c * *rows + r];
    *w = turned;
    return true;
}

/* A skipped block adds its mean. */
static Removal *removal_of_all(const RemovalTask *t, Arena *a) {
    Removal *r = arena_new_of(a, Removal);
    *r = (Removal){.rows = t->rows, .bias = arena_array_of(a, (size_t)t->rows, float)};
    for (int64_t k = 0; k < t->rows; k++) {
        double b = t->bias == NULL ? 0 : (double)t->bias[k];
        for (int64_t i = 0; i < t->cols; i++) b += (double)t->w[k * t->cols + i] * (double)t->moments->sum[i];
        r->bias[k] = (float)b;
    }
    return r;
}

/* All steps of one block: one walk through its units, from the fewest to the most. */
static bool prepare_block(Preparer *p, uint32_t index, const Moments *m, Arena *scratch) {
    const Block *b = &p->blocks[index];
    float *w, *bias;
    RemovalTask t = {.moments = m, .size = b->size, .dear = p->dear ? p->dear[index] : 0};
    if (!product_read(p->g, b->out, scratch, &w, &bias, &t.rows, &t.cols, p->d)) return false;
    t.w = w;
    t.bias = bias;
    int64_t amount[64];
    LossyStep *of[64];
    size_t n = 0;
    for (size_t i = 0; i < p->nsteps; i++) {
        LossyStep *s = &p->steps[i];
        if (s->block != index || s->kind == STEP_SHARE) continue;
        if (s->kind == STEP_SKIP) {
            if (p->make) s->removal = removal_of_all(&t, p->a);
            s->loss = 1;
        } else if (n < COUNT_OF(of)) {
            size_t at = n++;
            for (; at > 0 && amount[at - 1] > s->amount; at--) {
                amount[at] = amount[at - 1];
                of[at] = of[at - 1];
            }
            amount[at] = s->amount;
            of[at] = s;
        }
    }
    Removal *made = p->make ? arena_array_of(p->a, n, Removal) : NULL;
    double loss[64], all;
    if (n > 0 && !removal_find(&t, amount, n, p->a, made, loss, &all, p->d)) return false;
    for (size_t i = 0; i < n; i++) {
        if (p->make) of[i]->removal = &made[i];
        of[i]->loss = loss[i];
        of[i]->error = loss[i] * all;
    }
    return true;
}

static bool wants_moments(const LossyStep *s, size_t n, uint32_t block) {
    for (size_t i = 0; i < n; i++)
        if (s[i].block == block && s[i].kind != STEP_SHARE) return true;
    return false;
}

static bool walk_blocks(Graph *g, const Site *sites, size_t nsites, Lab *lab, const Windows *calibration,
                        bool make, const double *dear, LossyStep *steps, size_t n, Arena *a, Diag *d) {
    Arena *scratch = arena_new();
    Block *blocks;
    size_t nblocks = blocks_find(g, scratch, &blocks);
    Preparer p = {.g = g, .blocks = blocks, .steps = steps, .nsteps = n, .make = make, .a = a, .d = d};
    uint32_t *block = arena_array_of(scratch, nblocks, uint32_t),
             *site = arena_array_of(scratch, nblocks, uint32_t);
    double *most = arena_array_of(scratch, nblocks, double);
    if (dear) p.dear = most;
    size_t count = 0;
    for (uint32_t i = 0; i < nblocks; i++) {
        block[count] = i;
        site[count] = site_of_block(&blocks[i], sites, nsites);
        if (dear && site[count] < nsites) most[i] = dear[site[count]] * (double)blocks[i].unit_weights;
        count += wants_moments(steps, n, i) && site[count] < nsites;
    }
    bool ok = true;
    for (size_t at = 0; at < count && ok;) {
        size_t bytes = 0, upto = at;
        for (; upto < count && (upto == at || bytes < MOMENTS_AT_ONCE); upto++)
            bytes += (size_t)(sites[site[upto]].cols * sites[site[upto]].cols) * sizeof(float);
        ArenaMark mark = arena_mark(scratch);
        Moments *m = arena_array_of(scratch, upto - at, Moments);
        ok = lab->moments(lab, calibration, site + at, (uint32_t)(upto - at), scratch, m, d);
        for (size_t i = at; i < upto && ok; i++) ok = prepare_block(&p, block[i], &m[i - at], scratch);
        arena_reset(scratch, mark);
        at = upto;
    }
    arena_free(scratch);
    return ok;
}

bool steps_forecast(Graph *g, const Site *sites, size_t nsites, Lab *lab, const Windows *calibration,
                    const double *dear, LossyStep *steps, size_t n, Diag *d) {
    return walk_blocks(g, sites, nsites, lab, calibration, false, dear, steps, n, NULL, d);
}

bool steps_prepare(Graph *g, const Site *sites, size_t nsites, Lab *lab, const Windows *calibration,
                   LossyStep *steps, size_t n, Arena *a, Diag *d) {
    for (size_t i = 0; i < n; i++)
        if (steps[i].kind == STEP_SHARE && !share_prepare(g, sites, lab, calibration, &steps[i], a, d))
            return false;
    return walk_blocks(g, sites, nsites, lab, calibration, true, NULL, steps, n, a, d);
}

/* ---- applying ---- */

typedef struct {
    Graph *g;
    Block *blocks;
    Picker pick;
    Diag *d;
} Applier;

static ValId product_weight(Graph *g, const Node *n, const Removal *r, Arena *scratch, Diag *d) {
    int64_t dim[2] = {r->rows, r->count};
    if (n->attr.trans) return weight_make(g, r->w, 2, dim, n->in[1], d);
    float *turned = arena_array_of(scratch, (size_t)(r->rows * r->count), float);
    for (int64_t k = 0; k < r->rows; k++)
        for (int64_t i = 0; i < r->count; i++) turned[i * r->rows + k] = r->w[k * r->count + i];
    dim[0] = r->count;
    dim[1] = r->rows;
    return weight_make(g, turned, 2, dim, n->in[1], d);
}

static bool all_zero(const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (x[i] != 0) return false;
    return true;
}

/* Units go: the last product reads what is left of its input. */
static bool apply_removal(Applier *ap, const Block *b, const Removal *r) {
    Graph *g = ap->g;
    Node n = *graph_node(g, b->out);
    Type want = *graph_type(g, n.in[0]);
    want.dim[want.rank - 1] = dim_const(r->count);
    g->insert_before = b->out;
    ValId old_bias = n.nin > 2 ? n.in[2] : NO_VAL;
    ValId in[3] = {pick_features(&ap->pick, n.in[0], r->keep, r->count, &want),
                   product_weight(g, &n, r, ap->pick.scratch, ap->d), NO_VAL};
    if (val_ok(old_bias) || !all_zero(r->bias, r->rows))
        in[2] = weight_make(g, r->bias, 1, &r->rows, old_bias, ap->d);
    bool ok = val_ok(in[0]) && val_ok(in[1]);
    ValId out = ok ? graph_add(g, OP_LINEAR, in, 3, &n.attr, NULL, n.loc, ap->d) : NO_VAL;
    g->insert_before = NO_NODE;
    if (!val_ok(out)) return false;
    graph_replace(g, n.out[0], out);
    return true;
}

/* The states that an attention alone reads end with it. */
static void drop_states(Graph *g, const Uses *uses, NodeId attention) {
    const Node n = *graph_node(g, attention);
    for (size_t i = g->states.count; i-- > 0;) {
        State s = g->states.data[i];
        bool read = val_eq(s.out, n.in[1]) || val_eq(s.out, n.in[2]);
        uint32_t readers = val_eq(n.in[1], n.in[2]) ? 3 : 2; /* the state itself is one */
        if (!read || uses->count[s.out.id] != readers) continue;
        for (size_t k = g->inputs.count; k-- > 0;)
            if (val_eq(g->inputs.data[k].v, s.in)) {
                memmove(&g->inputs.data[k], &g->inputs.data[k + 1],
                        (g->inputs.count - k - 1) * sizeof *g->inputs.data);
                g->inputs.count--;
            }
        memmove(&g->states.data[i], &g->states.data[i + 1],
                (g->states.count - i - 1) * sizeof *g->states.data);
        g->states.count--;
    }
}

static void sweep(Applier *ap) {
    PassCtx cx = {.scratch = ap->pick.scratch, .arena = ap->g->arena, .diag = ap->d};
    rewrite_sweep_dead(&cx, ap->g);
}

static bool apply_skip(Applier *ap, Block *b, const Removal *r) {
    Graph *g = ap->g;
    Uses now = graph_uses(g, ap->pick.scratch);
    block_join(g, &now, b); /* parallel blocks join each other first */
    if (!node_ok(b->join)) return diag_bug(ap->d, loc_none(), "a block to skip joins nothing");
    Node join = *graph_node(g, b->join), out = *graph_node(g, b->out);
    uint32_t own = val_eq(join.in[0], b->branch) ? 0 : 1;
    ValId rest = join.in[1 - own], with = rest;
    if (val_eq(b->branch, out.out[0]) && !all_zero(r->bias, r->rows)) {
        g->insert_before = b->join;
        ValId in[2] = {rest, weight_make(g, r->bias, 1, &r->rows, NO_VAL, ap->d)};
        with = graph_add(g, OP_ADD, in, 2, NULL, NULL, join.loc, ap->d);
        g->insert_before = NO_NODE;
        if (!val_ok(with)) return false;
    }
    graph_replace(g, join.out[0], with);
    if (b->kind == BLOCK_ATTENTION) drop_states(g, ap->pick.uses, b->attention);
    sweep(ap);
    return true;
}

static bool share_site(const LossyStep *s, const LossyStep *with) {
    int64_t a = s->block, b = with->block;
    return a == b || a == with->amount || s->amount == b || s->amount == with->amount;
}

bool steps_differ(const LossyStep *steps, size_t n, Diag *d) {
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < i; k++) {
            bool share = steps[i].kind == STEP_SHARE;
            if (share != (steps[k].kind == STEP_SHARE))
                return diag_error(d, loc_none(),
                                  "steps %zu and %zu: what shares matrices goes with nothing that cuts them; "
                                  "hint: steps of one sort",
                                  k, i);
            if (share ? share_site(&steps[i], &steps[k]) : steps[i].block == steps[k].block)
                return diag_error(d, loc_none(),
                                  "steps %zu and %zu are both of %s %u; hint: one step of each", k, i,
                                  share ? "a pair with site" : "block", steps[i].block);
        }
    return true;
}

Graph *steps_apply(const Graph *g, const LossyStep *steps, size_t n, Arena *a, Diag *d) {
    Arena *scratch = arena_new();
    Graph *copy = graph_copy(g, a);
    Block *blocks;
    Site *sites;
    size_t nblocks = blocks_find(copy, scratch, &blocks), nsites = sites_find(copy, scratch, &sites);
    Uses uses = graph_uses(copy, scratch);
    Applier ap = {
        .g = copy, .blocks = blocks, .pick = {.g = copy, .scratch = scratch, .d = d, .uses = &uses}, .d = d};
    bool ok = steps_differ(steps, n, d);
    for (size_t i = 0; i < n && ok; i++) {
        const LossyStep *s = &steps[i];
        bool share = s->kind == STEP_SHARE;
        if (s->removal == NULL || s->block >= (share ? nsites : nblocks) ||
            (share && (s->amount < 0 || (size_t)s->amount >= nsites)))
            ok = diag_bug(d, loc_none(), "step %zu was not prepared for this graph", i);
        else if (share)
            ok = share_apply(copy, sites, s, d);
        else if (s->kind == STEP_SKIP)
            ok = apply_skip(&ap, &blocks[s->block], s->removal);
        else
            ok = apply_removal(&ap, &blocks[s->block], s->removal);
    }
    if (ok) sweep(&ap);
    ok = ok && graph_verify(copy, d);
    arena_free(scratch);
    return ok ? copy : NULL;
}

/* ---- as text ---- */

static const char *const kind_names[STEP_COUNT] = {"neurons", "heads", "skip", "share", "sparse"};
const char *step_kind_name(StepKind k) { return kind_names[k]; }

void step_print(Text *t, const LossyStep *s) {
    text_printf(t, "%s block=%u amount=%lld", kind_names[s->kind], s->block, (long long)s->amount);
}

static bool find_text(const LossyStep *offered, size_t n, const char *text, size_t bytes, Arena *a,
                      LossyStep *out) {
    for (size_t i = 0; i < n; i++) {
        Text t = text_new(a);
        step_print(&t, &offered[i]);
        if (t.count != bytes || memcmp(t.data, text, bytes) != 0) continue;
        *out = offered[i];
        return true;
    }
    return false;
}

bool step_parse(Graph *g, const char *text, size_t bytes, Arena *a, LossyStep *out, Diag *d) {
    LossyStep *blocks, *pairs;
    size_t nblocks = steps_offered(g, a, &blocks), npairs = share_offered(g, a, &pairs);
    return find_text(blocks, nblocks, text, bytes, a, out) || find_text(pairs, npairs, text, bytes, a, out) ||
           diag_error(d, loc_none(),
                      "step \"%.*s\" is none that this model offers; hint: the plan was made for another",
                      (int)(bytes < 80 ? bytes : 80), text);
}
