/* allocate.c: one format for each site, by dynamic programming over what may be spent.
 *
 * A multiple-choice knapsack. What is spent is counted in parts of the limit, rounded up, so the limit holds; with
 * 32,768 parts and hundreds of sites the rounding costs less than a hundredth of it. Exact otherwise: no convexity is
 * assumed, so a format may be good for one site alone. */
#include <math.h>
#include <string.h>

#include "passes/lossy/budget.h"

#define PARTS 32768

static uint32_t least(const Choices *s) {
    uint32_t best = 0;
    for (uint32_t k = 1; k < s->n; k++)
        if (s->choice[k].spends < s->choice[best].spends) best = k;
    return best;
}

/* to[p] = the least cost of one more site within p parts, and which choice that was. */
static void add_site(const Choices *s, double part, const double *from, double *to, uint8_t *chosen) {
    for (uint32_t p = 0; p <= PARTS; p++) to[p] = INFINITY;
    for (uint32_t k = 0; k < s->n && k < UINT8_MAX; k++) {
        double parts = ceil(s->choice[k].spends / part);
        if (!(parts <= PARTS)) continue;
        uint32_t need = (uint32_t)parts;
        for (uint32_t p = need; p <= PARTS; p++) {
            double cost = from[p - need] + s->choice[k].costs;
            if (cost < to[p]) to[p] = cost, chosen[p] = (uint8_t)k;
        }
    }
}

bool allocate(const Choices *sites, size_t n, double limit, uint32_t *pick, Arena *scratch) {
    double spent = 0, part = limit / PARTS;
    for (size_t i = 0; i < n; i++) {
        pick[i] = least(&sites[i]);
        spent += sites[i].choice[pick[i]].spends;
    }
    if (!(spent <= limit)) return false;
    if (!(part > 0)) return true;
    ArenaMark mark = arena_mark(scratch);
    double *row[2] = {arena_array_of(scratch, PARTS + 1, double), arena_array_of(scratch, PARTS + 1, double)};
    uint8_t *chosen = arena_array(scratch, n, PARTS + 1);
    for (size_t i = 0; i < n; i++)
        add_site(&sites[i], part, row[i % 2], row[(i + 1) % 2], chosen + i * (PARTS + 1));
    if (isfinite(row[n % 2][PARTS])) /* else only rounding is in the way: the least it is */
        for (size_t i = n, p = PARTS; i-- > 0;) {
            pick[i] = chosen[i * (PARTS + 1) + p];
            p -= (size_t)ceil(sites[i].choice[pick[i]].spends / part);
        }
    arena_reset(scratch, mark);
    return true;
}
