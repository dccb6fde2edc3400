/* eval_routed.c: nonzero, whose result's size depends on data, and products with the matrices that an
 * index picks. */
#include "ir/eval.h"

/* The count was taken before the result was allocated (eval.c). */
bool eval_nonzero(EvalCtx *e) {
    const Tensor *x = e->in[0];
    int64_t count = (int64_t)tensor_count(x), hits = e->out[0].dim[1], n = 0;
    int64_t *at = e->out[0].data;
    for (int64_t i = 0; i < count && n < hits; i++) {
        if (tensor_get_f64(x, (size_t)i) == 0) continue;
        int64_t rest = i;
        for (uint32_t k = x->rank; k-- > 0; rest /= x->dim[k]) at[(int64_t)k * hits + n] = rest % x->dim[k];
        n++;
    }
    return true;
}

/* row = x[k] times matrix `expert`, which is read along its contiguous axis. */
static void routed_row(EvalCtx *e, int64_t expert, int64_t k, int64_t n, const double *x, double *line,
                       double *row) {
    const Tensor *w = e->in[2];
    int64_t base = expert * k * n;
    if (e->n->attr.trans) {
        for (int64_t j = 0; j < n; j++) {
            tensor_load_f64(w, base + j * k, 1, (size_t)k, line);
            row[j] = 0;
            for (int64_t i = 0; i < k; i++) row[j] += x[i] * line[i];
        }
        return;
    }
    for (int64_t j = 0; j < n; j++) row[j] = 0;
    for (int64_t i = 0; i < k; i++) {
        tensor_load_f64(w, base + i * n, 1, (size_t)n, line);
        for (int64_t j = 0; j < n; j++) row[j] += x[i] * line[j];
    }
}

bool eval_routed(EvalCtx *e) {
    const Tensor *x = e->in[0], *index = e->in[1], *w = e->in[2], *bias = eval_operand(e, 3);
    bool trans = e->n->attr.trans, shared = x->rank == index->rank;
    int64_t experts = w->dim[0], k = w->dim[trans ? 2 : 1], n = w->dim[trans ? 1 : 2];
    int64_t slots = index->dim[index->rank - 1], total = (int64_t)tensor_count(index);
    size_t longest = (size_t)(k > n ? k : n);
    double *in = arena_array_of(e->scratch, longest, double);
    double *line = arena_array_of(e->scratch, longest, double);
    double *row = arena_array_of(e->scratch, longest, double);
    for (int64_t s = 0; s < total; s++) {
        int64_t expert = tensor_get_i64(index, (size_t)s);
        if (expert < 0 || expert >= experts)
            return eval_error(e, "expert %lld of %lld", (long long)expert, (long long)experts);
        tensor_load_f64(x, (shared ? s / slots : s) * k, 1, (size_t)k, in);
        routed_row(e, expert, k, n, in, line, row);
        if (bias != NULL) {
            tensor_load_f64(bias, expert * n, 1, (size_t)n, line);
            for (int64_t j = 0; j < n; j++) row[j] += line[j];
        }
        tensor_store_f64(&e->out[0], s * n, (size_t)n, row);
    }
    return true;
}
