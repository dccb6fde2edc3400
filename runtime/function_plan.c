/* function_plan.c: what a function needs to know of its inputs' shapes.
 *
 * The shapes bind the symbols, these give every dimension, and the shapes of each node are checked. Then memory:
 * a node that is only another view of its operand gets none; the others' results are laid into one block, first
 * fit, each from its node to the last that reads it or a view of it. */
#include "runtime/runtime.h"

#include <stdlib.h>
#include <string.h>

#define LARGEST ((int64_t)1 << 56) /* bytes of a tensor, its empty axes taken as 1; and of all results */

/* ---- dimensions ---- */
/* factor * product of symbol ^ power, without the symbol `but`. */
static bool term_value(const ArtTerm *t, const int64_t *symbol, uint32_t but, int64_t *out) {
    *out = t->factor;
    for (uint32_t i = 0; i < ART_MAX_SYMBOLS; i++)
        for (uint32_t k = 0; i != but && k < t->power[i]; k++)
            if (__builtin_mul_overflow(*out, symbol[i], out)) return false;
    return true;
}

static bool dim_value(const Function *g, uint32_t dim, const int64_t *symbol, int64_t *out) {
    *out = 0;
    for (uint32_t i = 0; i < g->dims[dim].count; i++) {
        int64_t v;
        if (!term_value(&g->terms[g->dims[dim].first + i], symbol, ART_NO_INDEX, &v) ||
            __builtin_add_overflow(*out, v, out))
            return false;
    }
    return true;
}

/* The symbol that `dim` would settle: the only one in it that is not bound, once and linear. */
static uint32_t open_symbol(const Function *g, uint32_t dim, uint32_t bound, uint32_t *term) {
    uint32_t found = ART_NO_INDEX;
    for (uint32_t i = 0; i < g->dims[dim].count; i++) {
        const ArtTerm *t = &g->terms[g->dims[dim].first + i];
        for (uint32_t s = 0; s < g->head->n_symbols; s++) {
            if (t->power[s] == 0 || bound >> s & 1) continue;
            if (found != ART_NO_INDEX || t->power[s] > 1) return ART_NO_INDEX;
            found = s;
            *term = g->dims[dim].first + i;
        }
    }
    return found;
}

/* Solves dim = length for its one open symbol; false when it does not settle it. */
static bool settle(const Function *g, uint32_t dim, int64_t length, int64_t *symbol, uint32_t *bound) {
    uint32_t term = 0, s = open_symbol(g, dim, *bound, &term);
    int64_t factor, rest;
    if (s == ART_NO_INDEX) return false;
    symbol[s] = 0;
    if (!dim_value(g, dim, symbol, &rest) || __builtin_sub_overflow(length, rest, &rest)) return false;
    if (!term_value(&g->terms[term], symbol, s, &factor) || factor == 0 || factor == -1) return false;
    if (rest % factor) return false;
    symbol[s] = rest / factor;
    *bound |= UINT32_C(1) << s;
    return true;
}

/* A symbol that nothing settles is 0; what does not fit then shows when dimensions are compared. */
static void symbols_bind(const Function *g, const gptc_tensor *inputs, int64_t *symbol) {
    uint32_t bound = 0;
    for (bool more = true; more;) {
        more = false;
        for (uint32_t i = 0; i < g->head->n_inputs; i++) {
            const ArtValue *v = &g->values[g->inputs[i]];
            for (uint32_t k = 0; k < v->rank; k++)
                more = settle(g, v->dim[k], inputs[i].dim[k], symbol, &bound) || more;
        }
    }
}

static const char *name_of(const gptc_model *m, uint32_t offset) {
    return offset == ART_NO_INDEX ? "" : m->text + offset;
}

static gptc_status dims_evaluate(gptc_function *f, const gptc_tensor *inputs, gptc_detail *why) {
    const Function *g = &f->model->function;
    int64_t symbol[ART_MAX_SYMBOLS] = {0};
    symbols_bind(g, inputs, symbol);
    for (uint32_t s = 0; s < g->head->n_symbols; s++)
        if (symbol[s] < 0)
            return status_fail(why, GPTC_E_SHAPE, "%s is %lld", name_of(f->model, g->symbols[s]),
                               (long long)symbol[s]);
    for (uint32_t i = 0; i < g->head->n_dims; i++)
        if (!dim_value(g, i, symbol, &f->dims[i]))
            return status_fail(why, GPTC_E_SHAPE, "a dimension of the function overflows");
    return GPTC_OK;
}

/* ---- shapes ---- */
static gptc_status value_shape(gptc_function *f, uint32_t i, gptc_detail *why) {
    const ArtValue *v = &f->model->function.values[i];
    NdTensor *t = &f->values[i];
    int64_t bytes = (int64_t)nd_size(t->dtype);
    t->count = 1;
    for (uint32_t k = 0; k < t->rank; k++) {
        t->dim[k] = f->dims[v->dim[k]];
        if (t->dim[k] < 0)
            return status_fail(why, GPTC_E_SHAPE, "a dimension of value %u is %lld", i, (long long)t->dim[k]);
        if (__builtin_mul_overflow(bytes, t->dim[k] ? t->dim[k] : 1, &bytes) || bytes > LARGEST)
            return status_fail(why, GPTC_E_MEMORY, "value %u is larger than any memory", i);
        t->count *= t->dim[k];
    }
    return GPTC_OK;
}

static gptc_status input_check(const gptc_function *f, uint32_t i, const gptc_tensor *x, gptc_detail *why) {
    const Function *g = &f->model->function;
    const NdTensor *t = &f->values[g->inputs[i]];
    for (uint32_t k = 0; k < t->rank; k++)
        if (x->dim[k] != t->dim[k])
            return status_fail(why, GPTC_E_SHAPE,
                               "input %u \"%.60s\": axis %u has length %lld, the function takes %lld", i,
                               name_of(f->model, g->values[g->inputs[i]].name_offset), k,
                               (long long)x->dim[k], (long long)t->dim[k]);
    return GPTC_OK;
}

static gptc_status tensor_check(const gptc_function *f, uint32_t i, gptc_detail *why) {
    const ArtValue *v = &f->model->function.values[i];
    const NdTensor *t = &f->values[i];
    const ArtTensor *stored = &f->model->tensors[v->tensor];
    bool fits = t->panels ? (uint64_t)t->dim[0] == stored->dim[0] && (uint64_t)t->dim[1] == stored->dim[1]
                          : (uint64_t)t->count == plan_elements(stored);
    return fits ? GPTC_OK : status_fail(why, GPTC_E_SHAPE, "value %u does not have its tensor's shape", i);
}

static gptc_status shapes_evaluate(gptc_function *f, const gptc_tensor *inputs, gptc_detail *why) {
    const Function *g = &f->model->function;
    gptc_status st = dims_evaluate(f, inputs, why);
    for (uint32_t i = 0; !st && i < g->head->n_values; i++) {
        st = value_shape(f, i, why);
        if (!st && g->values[i].kind == ART_V_TENSOR) st = tensor_check(f, i, why);
    }
    for (uint32_t i = 0; !st && i < g->head->n_inputs; i++) st = input_check(f, i, &inputs[i], why);
    return st;
}

NdCall function_call(const gptc_function *f, uint32_t node, gptc_detail *why) {
    const ArtNode *n = &f->model->function.nodes[node];
    NdCall c = {.node = n,
                .in = f->operand + n->first_operand,
                .n_in = n->n_operands,
                .kernels = f->model->kernels,
                .pool = f->pool,
                .local = f->local,
                .why = why};
    for (uint32_t i = 0; i < nd_results(n->op); i++) c.out[i] = &f->values[n->out[i]];
    bool starts = n->op == ART_FN_SLICE || n->op == ART_FN_PAD;
    for (uint32_t i = 0; starts && i < c.out[0]->rank; i++) c.start[i] = f->dims[n->start[i]];
    if (n->op == ART_FN_DIM) c.value = f->dims[n->value];
    if (f->block) c.scratch = f->block + f->scratch[node];
    return c;
}

/* Also finds the views: their place is in their operand's root. */
static gptc_status nodes_check(gptc_function *f, gptc_detail *why) {
    const Function *g = &f->model->function;
    for (uint32_t i = 0; i < g->head->n_values; i++) f->places[i] = (Place){.root = i};
    for (uint32_t i = 0; i < g->head->n_nodes; i++) {
        const ArtNode *n = &g->nodes[i];
        gptc_detail inner = {""};
        NdCall c = function_call(f, i, &inner);
        gptc_status st = nd_check_shapes(&c);
        int64_t offset;
        if (st) return status_fail(why, st, "node %u (%s): %s", i, nd_name(n->op), inner.text);
        if (!nd_is_view(&c, &offset)) continue;
        const Place *from = &f->places[g->operands[n->first_operand]];
        f->places[n->out[0]] =
            (Place){.root = from->root,
                    .offset = from->offset + (uint64_t)offset * nd_size(f->values[n->out[0]].dtype)};
    }
    return GPTC_OK;
}

/* ---- memory ---- */
typedef struct {
    uint64_t offset, bytes;
} Live;

typedef struct {
    Live *live; /* by offset, no two overlap */
    uint32_t n;
    uint64_t need;
} Heap;

static uint64_t heap_take(Heap *h, uint64_t bytes) {
    uint64_t at = 0;
    uint32_t i = 0;
    bytes = (bytes + 63) / 64 * 64;
    if (bytes == 0) bytes = 64; /* an address of its own */
    for (; i < h->n && h->live[i].offset - at < bytes; i++) at = h->live[i].offset + h->live[i].bytes;
    memmove(h->live + i + 1, h->live + i, (h->n - i) * sizeof *h->live);
    h->live[i] = (Live){at, bytes};
    h->n++;
    if (at + bytes > h->need) h->need = at + bytes;
    return at;
}

static void heap_release(Heap *h, uint64_t offset) {
    uint32_t i = 0;
    while (i < h->n && h->live[i].offset != offset) i++;
    if (i == h->n) return;
    memmove(h->live + i, h->live + i + 1, (h->n - i - 1) * sizeof *h->live);
    h->n--;
}

static bool is_result(const Function *g, uint32_t value) { return g->values[value].kind == ART_V_RESULT; }

static uint64_t bytes_of(const NdTensor *t) { return (uint64_t)t->count * nd_size(t->dtype); }

static void last_readers(gptc_function *f) {
    const Function *g = &f->model->function;
    for (uint32_t i = 0; i < g->head->n_nodes; i++) {
        const ArtNode *n = &g->nodes[i];
        for (uint32_t k = 0; k < n->n_operands; k++) {
            uint32_t v = g->operands[n->first_operand + k];
            if (v != ART_NO_INDEX) f->places[f->places[v].root].last = i;
        }
        for (uint32_t k = 0; k < nd_results(n->op); k++) f->places[f->places[n->out[k]].root].last = i;
    }
    for (uint32_t i = 0; i < g->head->n_outputs; i++)
        f->places[f->places[g->outputs[i]].root].last = g->head->n_nodes;
}

static void release_after(gptc_function *f, Heap *h, uint32_t node, uint32_t value) {
    Place *root = &f->places[f->places[value].root];
    if (root->last != node || !is_result(&f->model->function, f->places[value].root)) return;
    root->last = ART_NO_INDEX; /* once */
    heap_release(h, root->offset);
}

static void node_place(gptc_function *f, Heap *h, uint32_t i) {
    const Function *g = &f->model->function;
    const ArtNode *n = &g->nodes[i];
    NdCall c = function_call(f, i, NULL);
    size_t scratch = nd_scratch(&c);
    for (uint32_t k = 0; k < nd_results(n->op); k++)
        if (f->places[n->out[k]].root == n->out[k])
            f->places[n->out[k]].offset = heap_take(h, bytes_of(c.out[k]));
    f->scratch[i] = scratch ? heap_take(h, scratch) : 0;
    if (scratch) heap_release(h, f->scratch[i]);
    for (uint32_t k = 0; k < n->n_operands; k++) {
        uint32_t v = g->operands[n->first_operand + k];
        if (v != ART_NO_INDEX) release_after(f, h, i, v);
    }
    for (uint32_t k = 0; k < nd_results(n->op); k++) release_after(f, h, i, n->out[k]);
}

/* Outputs that lie in an input are copied, since the inputs are the caller's. */
static gptc_status memory_plan(gptc_function *f, gptc_detail *why) {
    const Function *g = &f->model->function;
    Heap h = {.live = malloc((g->head->n_values + (size_t)g->head->n_outputs + 2) * sizeof *h.live)};
    if (!h.live) return status_fail(why, GPTC_E_MEMORY, "no memory for the plan");
    last_readers(f);
    for (uint32_t i = 0; i < g->head->n_nodes && h.need <= (uint64_t)LARGEST; i++) node_place(f, &h, i);
    for (uint32_t i = 0; i < g->head->n_outputs && h.need <= (uint64_t)LARGEST; i++) {
        uint32_t v = g->outputs[i];
        bool input = g->values[f->places[v].root].kind == ART_V_INPUT;
        f->copies[i] = input ? heap_take(&h, bytes_of(&f->values[v])) : NOWHERE;
    }
    f->need = h.need;
    free(h.live);
    return h.need <= (uint64_t)LARGEST ? GPTC_OK : status_fail(why, GPTC_E_MEMORY, "more than any memory");
}

gptc_status function_plan(gptc_function *f, const gptc_tensor *inputs, gptc_detail *why) {
    uint32_t n = f->model->function.head->n_inputs;
    bool same = f->planned;
    for (uint32_t i = 0; same && i < n; i++)
        same = !memcmp(f->shapes[i].dim, inputs[i].dim, (size_t)inputs[i].rank * sizeof *inputs[i].dim);
    if (same) return GPTC_OK;
    f->planned = false;
    gptc_status st = shapes_evaluate(f, inputs, why);
    if (!st) st = nodes_check(f, why);
    if (!st) st = memory_plan(f, why);
    if (st) return st;
    memcpy(f->shapes, inputs, n * sizeof *inputs);
    f->planned = true;
    return GPTC_OK;
}

gptc_status function_reserve(gptc_function *f, gptc_detail *why) {
    if (f->block && f->need <= f->block_bytes) return GPTC_OK;
    free(f->owned[0]);
    f->owned[0] = NULL;
    f->block = NULL;
    f->block_bytes = 0;
    uint64_t have = memory_available();
    if (f->need < have) f->owned[0] = malloc((size_t)f->need + 64);
    if (!f->owned[0])
        return status_fail(why, GPTC_E_MEMORY,
                           "the function needs %llu MB for these shapes, %llu MB are free",
                           (unsigned long long)(f->need >> 20), (unsigned long long)(have >> 20));
    f->block = (uint8_t *)(((uintptr_t)f->owned[0] + 63) & ~(uintptr_t)63);
    f->block_bytes = f->need;
    return GPTC_OK;
}
