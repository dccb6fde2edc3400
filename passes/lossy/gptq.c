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
#define SWEEPS 6
#define LONGEST 4    /* vector */
#define DAMPING 0.01 /* of the mean moment, added to the diagonal */

/* How a unit's error counts: rounding, with what later columns can mend taken off; sweeping, with all else fixed. */
typedef struct {
    float *form; /* [units][unit][unit] */
    float *self; /* [units][entries] of vectors: palette_self */
} Forms;

typedef struct {
    const float *w;
    Levels levels;   /* formats of scalars */
    Palette palette; /* formats of vectors */
    QuantMatrix *q;
    int64_t unit;    /* columns that a code stands for */
    int64_t n, ld;   /* columns; from row to row of what follows, whose columns are in order of rounding */
    int64_t *order;  /* column of each place */
    int64_t *group;  /* of each place */
    float *feedback; /* [n][ld]: R_kj / R_jj for k < j, else 0 */
    float *moment;   /* [n][ld]: H, damped */
    Forms rounding, sweeping;
    float damping;  /* what H's diagonal has too much */
    float *scratch; /* [workers][SCRATCH rows][ld] */
    double *loss;   /* [tasks] */
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
    int64_t unit;
} Rank;

static int by_moment(const void *a, const void *b) {
    const Rank *x = a, *y = b;
    if (x->moment != y->moment) return x->moment < y->moment ? 1 : -1;
    return (x->unit > y->unit) - (x->unit < y->unit);
}

static void order_columns(Feedback *f, const Moments *m, bool order, Arena *a) {
    int64_t units = f->n / f->unit;
    Rank *rank = arena_array_of(a, (size_t)units, Rank);
    for (int64_t u = 0; u < units; u++) {
        rank[u].unit = u;
        for (int64_t i = u * f->unit; i < (u + 1) * f->unit; i++) rank[u].moment += m->xx[i * f->n + i];
    }
    if (order) qsort(rank, (size_t)units, sizeof *rank, by_moment);
    f->order = arena_array_of(a, (size_t)f->n, int64_t);
    f->group = arena_array_of(a, (size_t)f->n, int64_t);
    for (int64_t i = 0; i < f->n; i++) {
        f->order[i] = rank[i / f->unit].unit * f->unit + i % f->unit;
        f->group[i] = f->order[i] / group_width(f->q);
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

/* Of one unit at column j: its square of R's part, that is B^T B, B_ik = R_(j+k)(j+i). */
static void rounding_form(const double *turned, int64_t n, int64_t j, int64_t unit, float *form) {
    for (int64_t x = 0; x < unit; x++)
        for (int64_t y = 0; y < unit; y++) {
            double sum = 0;
            for (int64_t i = x > y ? x : y; i < unit; i++) {
                const double *at = turned + n - 1 - j - i; /* R_(j+x)(j+i) */
                sum += at[(n - 1 - j - x) * n] * at[(n - 1 - j - y) * n];
            }
            form[x * unit + y] = (float)sum;
        }
}

static void take_forms(Feedback *f, const double *turned, Arena *a) {
    int64_t v = f->unit, units = f->n / v, entries = v > 1 ? f->palette.entries : 0;
    Forms *both[2] = {&f->rounding, &f->sweeping};
    for (int k = 0; k < 2; k++) {
        both[k]->form = arena_array_of(a, (size_t)(units * v * v), float);
        both[k]->self = arena_array_of(a, (size_t)(units * entries), float);
    }
    for (int64_t u = 0; u < units; u++) {
        float *sweeping = f->sweeping.form + u * v * v;
        rounding_form(turned, f->n, u * v, v, f->rounding.form + u * v * v);
        for (int64_t i = 0; i < v * v; i++) sweeping[i] = f->moment[(u * v + i / v) * f->ld + u * v + i % v];
        for (int k = 0; k < 2 && entries; k++)
            palette_self(&f->palette, both[k]->form + u * v * v, both[k]->self + u * entries);
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
    take_forms(f, turned, a);
    f->feedback = arena_array_of(a, (size_t)(n * f->ld), float);
    double *pivot = arena_array_of(a, (size_t)n, double);
    for (int64_t j = 0; j < n; j++) pivot[j] = turned[(n - 1 - j) * n + n - 1 - j];
    for (int64_t k = 0; k < n; k++) {
        const double *row = turned + (n - 1 - k) * n + n - 1; /* R_kj = L_(n-1-k)(n-1-j) */
        for (int64_t j = k + 1; j < n; j++) f->feedback[k * f->ld + j] = (float)(row[-j] / pivot[j]);
    }
    return true;
}

/* ---- rows ---- */

/* Chooses what the unit of columns from `at` on stands for: the nearest to x when pull is its form times x. */
static void choose(const Feedback *f, const Forms *forms, int64_t row, int64_t at, const float *pull,
                   float *value) {
    int64_t g = row * f->q->groups + f->group[at], u = at / f->unit;
    uint8_t *code = &f->q->codes[(row * f->n + f->order[at]) / f->unit];
    float scale = f->q->scale[g];
    if (f->unit > 1) {
        const Palette *p = &f->palette;
        *code = (uint8_t)palette_best(p, pull, forms->self + u * p->entries, scale);
        for (int64_t i = 0; i < f->unit; i++) value[i] = scale * p->part[i][*code];
        return;
    }
    float zero = group_zero(f->q, g), target = scale > 0 ? *pull / forms->form[u] / scale : 0;
    uint32_t place = levels_nearest(&f->levels, target + zero);
    *code = f->levels.code[place];
    *value = scale * (f->levels.value[place] - zero);
}

/* pull = form times x, or added to what it is. */
static void add_pull(const Feedback *f, const Forms *forms, int64_t at, const float *x, float *pull) {
    const float *form = forms->form + at / f->unit * f->unit * f->unit;
    for (int64_t i = 0; i < f->unit; i++)
        for (int64_t k = 0; k < f->unit; k++) pull[i] += form[i * f->unit + k] * x[k];
}

/* What columns j .. j + unit - 1 should be to make up for all before them, were no column rounded any more. */
static void unit_target(const Feedback *f, const float *w, const float *owes, int64_t j, float *target) {
    for (int64_t i = 0; i < f->unit; i++) {
        target[i] = w[j + i] + owes[i];
        for (int64_t k = 0; k < i; k++)
            target[i] += (w[j + k] - target[k]) * f->feedback[(j + k) * f->ld + j + i];
    }
}

static void round_block(const Feedback *f, const Tile *t, int64_t from, int64_t to, float *owed) {
    int64_t v = f->unit;
    for (int64_t r = 0; r < t->rows; r++) {
        const float *w = t->w + r * f->ld;
        float *value = t->value + r * f->ld, *error = t->error + r * f->ld, *owes = owed + r * BLOCK;
        for (int64_t j = from; j < to; j += v) {
            float target[LONGEST], pull[LONGEST] = {0};
            unit_target(f, w, owes + (j - from), j, target);
            add_pull(f, &f->rounding, j, target, pull);
            choose(f, &f->rounding, t->first + r, j, pull, value + j);
            for (int64_t i = j; i < j + v; i++) {
                error[i] = w[i] - value[i];
                scaled_add(owes + (j + v - from), f->feedback + i * f->ld + j + v, error[i], to - j - v);
            }
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
static bool sweep_unit(const Feedback *f, const Tile *t, int64_t r, int64_t j) {
    float *value = t->value + r * f->ld, *error = t->error + r * f->ld, *slope = t->slope + r * f->ld;
    float pull[LONGEST], best[LONGEST];
    bool changed = false;
    memcpy(pull, slope + j, (size_t)f->unit * sizeof *pull);
    add_pull(f, &f->sweeping, j, value + j, pull);
    choose(f, &f->sweeping, t->first + r, j, pull, best);
    for (int64_t i = 0; i < f->unit; i++) {
        float step = best[i] - value[j + i];
        if (step == 0) continue;
        value[j + i] = best[i];
        error[j + i] -= step;
        scaled_add(slope, f->moment + (j + i) * f->ld, -step, f->ld);
        changed = true;
    }
    return changed;
}

/* Column by column, all rows of the tile at each, so that H streams by once for all of them. A row in which a sweep
 * changes nothing is done. */
static void sweep_rows(const Feedback *f, const Tile *t) {
    bool open[ROWS], changed[ROWS];
    memset(open, true, sizeof open);
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        memset(changed, false, sizeof changed);
        for (int64_t j = 0; j < f->n; j += f->unit)
            for (int64_t r = 0; r < t->rows; r++)
                if (open[r] && sweep_unit(f, t, r, j)) changed[r] = true;
        memcpy(open, changed, sizeof open);
    }
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
    sweep_rows(f, &t);
    for (int64_t r = 0; r < t.rows; r++) f->loss[task] += row_loss(f, &t, r);
}

bool gptq_codes(const float *w, const Moments *m, bool order, QuantMatrix *q, double *loss, Diag *d) {
    Arena *a = arena_new();
    Feedback f = {.w = w, .q = q, .unit = q->format->vector, .n = q->cols, .ld = tile_up(q->cols)};
    if (f.unit > 1)
        palette_make(q, &f.palette);
    else
        levels_make(q->format, q->grid, &f.levels);
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
