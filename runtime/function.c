/* function.c: functions: their ports, and running one. */
#include "runtime/runtime.h"

#include <stdlib.h>
#include <string.h>

/* The public numbers are those of the file. */
ART_ASSERT((int)GPTC_F32 == (int)ART_F32 && (int)GPTC_BF16 == (int)ART_BF16 &&
               (int)GPTC_F64 == (int)ART_F64 && (int)GPTC_BOOL == (int)ART_BOOL &&
               (int)GPTC_U64 == (int)ART_U64 && (int)GPTC_I2 == (int)ART_I2 &&
               (int)GPTC_F8E5M2FNUZ == (int)ART_F8E5M2FNUZ,
           "dtypes");
ART_ASSERT(GPTC_MAX_RANK == ART_MAX_RANK, "ranks");

/* ---- ports ---- */
int32_t gptc_inputs(const gptc_model *m) {
    return m && m->function.head ? (int32_t)m->function.head->n_inputs : 0;
}

int32_t gptc_outputs(const gptc_model *m) {
    return m && m->function.head ? (int32_t)m->function.head->n_outputs : 0;
}

/* A dimension without symbols, or -1. */
static int64_t constant_dim(const Function *g, uint32_t dim) {
    int64_t sum = 0;
    for (uint32_t i = 0; i < g->dims[dim].count; i++) {
        const ArtTerm *t = &g->terms[g->dims[dim].first + i];
        for (uint32_t k = 0; k < ART_MAX_SYMBOLS; k++)
            if (t->power[k]) return -1;
        if (__builtin_add_overflow(sum, t->factor, &sum)) return -1;
    }
    return sum < 0 ? -1 : sum;
}

static const char *text_at(const gptc_model *m, uint32_t offset) {
    return offset == ART_NO_INDEX ? NULL : m->text + offset;
}

static gptc_status port_of(const gptc_model *m, uint32_t value, gptc_port *out) {
    const ArtValue *v = &m->function.values[value];
    const char *name = text_at(m, v->name_offset);
    *out = (gptc_port){.name = name ? name : "", .dtype = (gptc_dtype)v->dtype, .rank = (int32_t)v->rank};
    for (uint32_t i = 0; i < v->rank; i++) {
        uint32_t s = function_symbol(&m->function, v->dim[i]);
        out->dim[i] = constant_dim(&m->function, v->dim[i]);
        if (s != ART_NO_INDEX) out->symbol[i] = text_at(m, m->function.symbols[s]);
    }
    return GPTC_OK;
}

gptc_status gptc_input(const gptc_model *m, int32_t i, gptc_port *out) {
    if (!out || i < 0 || i >= gptc_inputs(m)) return GPTC_E_ARGUMENT;
    return port_of(m, m->function.inputs[i], out);
}

gptc_status gptc_output(const gptc_model *m, int32_t i, gptc_port *out) {
    if (!out || i < 0 || i >= gptc_outputs(m)) return GPTC_E_ARGUMENT;
    return port_of(m, m->function.outputs[i], out);
}

/* ---- making ---- */
static void *own(gptc_function *f, uint32_t slot, uint64_t n, size_t size) {
    return f->owned[slot] = calloc(n + 1, size); /* not empty */
}

static gptc_status function_init(gptc_function *f, uint32_t threads, gptc_detail *why) {
    const Function *g = &f->model->function;
    const ArtFunction *h = g->head;
    f->values = own(f, 1, h->n_values, sizeof *f->values);
    f->operand = own(f, 2, h->n_operands, sizeof *f->operand);
    f->places = own(f, 3, h->n_values, sizeof *f->places);
    f->scratch = own(f, 4, h->n_nodes, sizeof *f->scratch);
    f->copies = own(f, 5, h->n_outputs, sizeof *f->copies);
    f->dims = own(f, 6, h->n_dims, sizeof *f->dims);
    f->shapes = own(f, 7, h->n_inputs, sizeof *f->shapes);
    f->outputs = own(f, 8, h->n_outputs, sizeof *f->outputs);
    uint8_t *local = own(f, 9, threads * (uint64_t)CPU_LOCAL_BYTES + 64, 1);
    for (int i = 1; i < 10; i++)
        if (!f->owned[i])
            return status_fail(why, GPTC_E_MEMORY, "no memory for a function of %u nodes", h->n_nodes);
    f->local = (uint8_t *)(((uintptr_t)local + 63) & ~(uintptr_t)63);
    for (uint32_t i = 0; i < h->n_values; i++) f->values[i] = function_value(f->model, i);
    for (uint32_t i = 0; i < h->n_operands; i++)
        f->operand[i] = g->operands[i] < h->n_values ? &f->values[g->operands[i]] : NULL;
    f->pool = pool_new(threads);
    return f->pool ? GPTC_OK : status_fail(why, GPTC_E_MEMORY, "cannot start %u threads", threads);
}

gptc_status gptc_function_new(gptc_model *m, const gptc_function_options *options, gptc_function **out,
                              gptc_detail *why) {
    if (why) why->text[0] = 0;
    if (!out) return status_fail(why, GPTC_E_ARGUMENT, "no place for the function (out is NULL)");
    *out = NULL;
    if (!m) return status_fail(why, GPTC_E_ARGUMENT, "no model");
    if (!m->function.head)
        return status_fail(why, GPTC_E_UNSUPPORTED,
                           "the model has a KV cache; hint: run it by gptc_session_new");
    gptc_function_options o = {0};
    options_read(&o, sizeof o, options);
    if (o.threads < 0 || o.threads > LIMIT_THREADS)
        return status_fail(why, GPTC_E_ARGUMENT, "threads %d, of 0..%d", o.threads, LIMIT_THREADS);
    gptc_function *f = calloc(1, sizeof *f);
    if (!f) return status_fail(why, GPTC_E_MEMORY, "%zu bytes for the function", sizeof *f);
    f->model = m;
    gptc_status st = function_init(f, o.threads ? (uint32_t)o.threads : pool_cores(), why);
    if (st) {
        gptc_function_free(f);
        return st;
    }
    *out = f;
    return GPTC_OK;
}

void gptc_function_free(gptc_function *f) {
    if (!f) return;
    pool_free(f->pool);
    for (size_t i = 0; i < sizeof f->owned / sizeof *f->owned; i++) free(f->owned[i]);
    free(f);
}

/* ---- running ---- */
static gptc_status inputs_check(const gptc_function *f, const gptc_tensor *inputs, gptc_detail *why) {
    const Function *g = &f->model->function;
    for (uint32_t i = 0; i < g->head->n_inputs; i++) {
        const ArtValue *v = &g->values[g->inputs[i]];
        const gptc_tensor *x = &inputs[i];
        const char *name = text_at(f->model, v->name_offset);
        bool empty = false;
        if ((uint32_t)x->dtype != v->dtype || (uint32_t)x->rank != v->rank)
            return status_fail(why, GPTC_E_SHAPE,
                               "input %u \"%.60s\": dtype %d and rank %d, the function takes %u and %u", i,
                               name ? name : "", (int)x->dtype, x->rank, v->dtype, v->rank);
        for (uint32_t k = 0; k < v->rank; k++) {
            if (x->dim[k] < 0) return status_fail(why, GPTC_E_SHAPE, "input %u: a negative dimension", i);
            empty = empty || x->dim[k] == 0;
        }
        if (!empty && (!x->data || (uintptr_t)x->data % nd_size(v->dtype)))
            return status_fail(why, GPTC_E_ARGUMENT, "input %u \"%.60s\": no data, or not aligned", i,
                               name ? name : "");
    }
    return GPTC_OK;
}

/* Points every value at its data. Operands are only read. */
static void data_set(gptc_function *f, const gptc_tensor *inputs) {
    const Function *g = &f->model->function;
    for (uint32_t i = 0; i < g->head->n_values; i++) {
        const ArtValue *v = &g->values[i];
        if (v->kind == ART_V_RESULT && f->places[i].root == i)
            f->values[i].data = f->block + f->places[i].offset;
        if (v->kind == ART_V_TENSOR)
            f->values[i].data =
                (uint8_t *)(uintptr_t)(f->model->weights + f->model->tensors[v->tensor].offset);
    }
    for (uint32_t i = 0; i < g->head->n_inputs; i++) {
        NdTensor *t = &f->values[g->inputs[i]];
        t->data = t->count ? (uint8_t *)(uintptr_t)inputs[i].data : f->block;
    }
    for (uint32_t i = 0; i < g->head->n_values; i++) {
        const Place *p = &f->places[i];
        if (p->root != i) f->values[i].data = f->values[p->root].data + p->offset;
    }
}

static void outputs_set(gptc_function *f) {
    const Function *g = &f->model->function;
    for (uint32_t i = 0; i < g->head->n_outputs; i++) {
        const NdTensor *t = &f->values[g->outputs[i]];
        gptc_tensor *o = &f->outputs[i];
        *o = (gptc_tensor){.dtype = (gptc_dtype)t->dtype, .rank = (int32_t)t->rank, .data = t->data};
        memcpy(o->dim, t->dim, t->rank * sizeof *t->dim);
        if (f->copies[i] == NOWHERE) continue;
        memcpy(f->block + f->copies[i], t->data, (size_t)t->count * nd_size(t->dtype));
        o->data = f->block + f->copies[i];
    }
    f->ready = true;
}

gptc_status gptc_function_run(gptc_function *f, const gptc_tensor *inputs, int32_t n, gptc_detail *why) {
    if (why) why->text[0] = 0;
    if (!f || n < 0 || (n && !inputs)) return status_fail(why, GPTC_E_ARGUMENT, "no function, or no inputs");
    const Function *g = &f->model->function;
    f->ready = false;
    if ((uint32_t)n != g->head->n_inputs)
        return status_fail(why, GPTC_E_ARGUMENT, "%d inputs, the function takes %u", n, g->head->n_inputs);
    gptc_status st = inputs_check(f, inputs, why);
    if (!st) st = function_plan(f, inputs, why);
    if (!st) st = function_reserve(f, why);
    if (st) return st;
    data_set(f, inputs);
    for (uint32_t i = 0; i < g->head->n_nodes; i++) {
        gptc_detail inner = {""};
        NdCall c = function_call(f, i, &inner);
        if (f->places[c.node->out[0]].root != c.node->out[0]) continue; /* a view */
        if ((st = nd_run(&c)))
            return status_fail(why, st, "node %u (%s): %s", i, nd_name(c.node->op), inner.text);
    }
    outputs_set(f);
    return GPTC_OK;
}

const gptc_tensor *gptc_function_output(const gptc_function *f, int32_t i) {
    bool there = f && f->ready && i >= 0 && (uint32_t)i < f->model->function.head->n_outputs;
    return there ? &f->outputs[i] : NULL;
}

uint64_t gptc_function_bytes(const gptc_function *f) { return f ? f->block_bytes : 0; }
