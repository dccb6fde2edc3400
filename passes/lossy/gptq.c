/* gptq.c: codes with error feedback (matrix.h).
 *
 * The loss is tr(D H D^T), D what quantising changes and H the second moments of the inputs. With H = R R^T, R upper
 * triangular, it is the sum over columns j of |D_j R_jj + sum_{k < j} D_k R_kj|^2: when the columns are rounded one
 * after the other, each takes up what the earlier ones made wrong (GPTQ: Frantar et al. 2022, arXiv 2210.17323; in
 * this form LDLQ: Chee et al. 2023, arXiv 2307.13304). Columns that count most go first, as they cannot be mended
 * later. Blocks of columns take the feedback of all earlier ones in one product. Scales are those of the whole
 * matrix, found before (static groups).
 *
 * Then a few sweeps by coordinates: with everything else fixed, each code in turn is the best one. What is left is a
 * local optimum, which feedback alone does not reach. Rows are independent given R and H. */
#include "ir/eval.h"
#include "passes/lossy/linalg.h"
#include "passes/lossy/matrix.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 32
#define BLOCK 64
#define SWEEPS 3
#define DAMPING 0.01 /* of the mean moment, added to the diagonal */

typedef struct {
    const float *w;
    const Levels *levels;
    QuantMatrix *q;
    int64_t n, ld;   /* columns; from row to row of what follows, whose columns are in order of rounding */
    int64_t *order;  /* column of each place */
    int64_t *group;  /* of each place */
    float *feedback; /* [n][ld]: R_kj / R_jj for k < j, else 0 */
    float *moment;   /* [n][ld]: H, damped */
    float damping;   /* what H's diagonal has too much */
    float *scratch;  /* [workers][SCRATCH rows][ld] */
    double *loss;    /* [tasks] */
} Feedback;

/* Of a worker, each [ROWS][ld]. */
typedef struct {
    float *w, *value, *error, *slope;
    int64_t rows, first;
} Tile;
#define TILE_ARRAYS 4

/* ---- what all rows share ---- */

typedef struct {
    float moment;
    int64_t column;
} Rank;

static int by_moment(const void *a, const void *b) {
    const Rank *x = a, *y = b;
    if (x->moment != y->moment) return x->moment < y->moment ? 1 : -1;
    return (x->column > y->column) - (x->column < y->column);
}

static void order_columns(Feedback *f, const Moments *m, bool order, Arena *a) {
    Rank *rank = arena_array_of(a, (size_t)f->n, Rank);
    for (int64_t i = 0; i < f->n; i++) rank[i] = (Rank){m->xx[i * f->n + i], i};
    if (order) qsort(rank, (size_t)f->n, sizeof *rank, by_moment);
    f->order = arena_array_of(a, (size_t)f->n, int64_t);
    f->group = arena_array_of(a, (size_t)f->n, int64_t);
    for (int64_t i = 0; i < f->n; i++) {
        f->order[i] = rank[i].column;
        f->group[i] = rank[i].column / group_width(f->q);
    }
}

static void take_moments(Feedback *f, const Moments *m, Arena *a) {
    double mean = 0;
    for (int64_t i = 0; i < f->n; i++) mean += (double)m->xx[i * f->n + i] / (double)f->n;
    f->damping = (float)(DAMPING * mean);
    if (!(f->damping > 0)) f->damping = 1; /* inputs that are always zero */
    f->moment = arena_array_of(a, (size_t)(f->n * f->ld), float);
    for (int64_t i = 0; i < f->n; i++) {
        const float *row = m->xx + f->order[i] * f->n;
        for (int64_t j = 0; j < f->n; j++) f->moment[i * f->ld + j] = row[f->order[j]];
        f->moment[i * f->ld + i] += f->damping;
    }
}

/* The upper factor, by way of the lower one of H with rows and columns turned round. */
static bool take_factor(Feedback *f, Arena *a, Diag *d) {
    int64_t n = f->n;
    double *turned = arena_array_of(a, (size_t)(n * n), double);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++)
            turned[i * n + j] = (double)f->moment[(n - 1 - i) * f->ld + n - 1 - j];
    if (!spd_factor(turned, n))
        return diag_error(d, loc_none(),
                          "the second moments of a matrix's inputs are not finite; hint: the "
                          "model overflows on the calibration text");
    f->feedback = arena_array_of(a, (size_t)(n * f->ld), float);
    for (int64_t k = 0; k < n; k++)
        for (int64_t j = k + 1; j < n; j++) {
            const double *row = turned + (n - 1 - k) * n + n - 1; /* R_kj = L_(n-1-k)(n-1-j) */
            f->feedback[k * f->ld + j] = (float)(row[-j] / turned[(n - 1 - j) * n + n - 1 - j]);
        }
    return true;
}

/* ---- rows ---- */

typedef struct {
    uint32_t place;
    float value;
} Rounded;

/* The nearest that column `at` of the row may stand for. */
static Rounded round_at(const Feedback *f, int64_t row, int64_t at, float target) {
    int64_t g = row * f->q->groups + f->group[at];
    float scale = f->q->scale[g], zero = group_zero(f->q, g);
    uint32_t place = levels_nearest(f->levels, scale > 0 ? target / scale + zero : zero);
    return (Rounded){place, scale * (f->levels->value[place] - zero)};
}

static void set_code(const Feedback *f, int64_t row, int64_t at, uint32_t place) {
    f->q->codes[row * f->n + f->order[at]] = f->levels->code[place];
}

static void round_block(const Feedback *f, const Tile *t, int64_t from, int64_t to, float *owed) {
    for (int64_t r = 0; r < t->rows; r++) {
        const float *w = t->w + r * f->ld;
        float *value = t->value + r * f->ld, *error = t->error + r * f->ld, *owes = owed + r * BLOCK;
        for (int64_t j = from; j < to; j++) {
            Rounded best = round_at(f, t->first + r, j, w[j] + owes[j - from]);
            set_code(f, t->first + r, j, best.place);
            value[j] = best.value;
            error[j] = w[j] - best.value;
            scaled_add(owes + (j - from), f->feedback + j * f->ld + j, error[j], to - j);
        }
    }
}

static void round_rows(const Feedback *f, const Tile *t) {
    float owed[ROWS * BLOCK];
    for (int64_t from = 0; from < f->n; from += BLOCK) {
        int64_t to = from + BLOCK < f->n ? from + BLOCK : f->n;
        memset(owed, 0, sizeof owed);
        product_add(owed, BLOCK, t->error, f->ld, f->feedback + from, f->ld, t->rows, tile_up(to - from),
                    from);
        round_block(f, t, from, to, owed);
    }
}

/* slope is D H, kept up to date: the derivative of half the loss. */
static bool sweep_row(const Feedback *f, const Tile *t, int64_t r) {
    float *value = t->value + r * f->ld, *error = t->error + r * f->ld, *slope = t->slope + r * f->ld;
    bool changed = false;
    for (int64_t j = 0; j < f->n; j++) {
        const float *moment = f->moment + j * f->ld;
        Rounded best = round_at(f, t->first + r, j, value[j] + slope[j] / moment[j]);
        float step = best.value - value[j];
        if (step == 0) continue;
        set_code(f, t->first + r, j, best.place);
        value[j] = best.value;
        error[j] -= step;
        scaled_add(slope, moment, -step, f->ld);
        changed = true;
    }
    return changed;
}

static double row_loss(const Feedback *f, const Tile *t, int64_t r) {
    const float *error = t->error + r * f->ld, *slope = t->slope + r * f->ld;
    double sum = 0;
    for (int64_t j = 0; j < f->n; j++) sum += (double)error[j] * (double)(slope[j] - f->damping * error[j]);
    return sum;
}

static void rows_task(void *ctx, size_t task, size_t worker) {
    const Feedback *f = ctx;
    int64_t size = ROWS * f->ld;
    float *s = f->scratch + (int64_t)worker * TILE_ARRAYS * size;
    Tile t = {.w = s,
              .value = s + size,
              .error = s + 2 * size,
              .slope = s + 3 * size,
              .first = (int64_t)task * ROWS};
    t.rows = f->q->rows - t.first < ROWS ? f->q->rows - t.first : ROWS;
    memset(s, 0, (size_t)(TILE_ARRAYS * size) * sizeof *s);
    for (int64_t r = 0; r < t.rows; r++)
        for (int64_t j = 0; j < f->n; j++) t.w[r * f->ld + j] = f->w[(t.first + r) * f->n + f->order[j]];
    round_rows(f, &t);
    product_add(t.slope, f->ld, t.error, f->ld, f->moment, f->ld, t.rows, f->ld, f->n);
    for (int64_t r = 0; r < t.rows; r++) {
        for (int sweep = 0; sweep < SWEEPS && sweep_row(f, &t, r); sweep++) {}
        f->loss[task] += row_loss(f, &t, r);
    }
}

bool gptq_codes(const float *w, const Moments *m, bool order, const Levels *l, QuantMatrix *q, double *loss,
                Diag *d) {
    Arena *a = arena_new();
    Feedback f = {.w = w, .levels = l, .q = q, .n = q->cols, .ld = tile_up(q->cols)};
    order_columns(&f, m, order, a);
    take_moments(&f, m, a);
    bool ok = take_factor(&f, a, d);
    if (ok) {
        size_t tasks = (size_t)((q->rows + ROWS - 1) / ROWS);
        size_t workers = parallel_workers(tasks, 4.0 * (double)q->rows * (double)f.n * (double)f.n);
        f.scratch = arena_array_of(a, workers * TILE_ARRAYS * ROWS * (size_t)f.ld, float);
        f.loss = arena_array_of(a, tasks, double);
        parallel_run(tasks, workers, rows_task, &f);
        *loss = 0;
        for (size_t i = 0; i < tasks; i++) *loss += f.loss[i];
    }
    arena_free(a);
    return ok;
}
