/* nd_share.c: shares the items of a node among the workers. */
#include "runtime/nd.h"

#define WORTH_A_WAKE_UP 16384.0 /* elements passed through an op */

typedef struct {
    const NdCall *c;
    int64_t n;
    NdWork *work;
    void *job;
} Shared;

static void run_share(void *ctx, uint32_t worker, uint32_t workers) {
    const Shared *s = ctx;
    int64_t each = s->n / workers, more = s->n % workers, w = worker;
    int64_t begin = each * w + (w < more ? w : more), end = begin + each + (w < more);
    if (begin < end) s->work(s->c, s->job, begin, end, worker);
}

void nd_share(const NdCall *c, int64_t n, int64_t each, NdWork *work, void *job) {
    Shared s = {c, n, work, job};
    if (n <= 0) return;
    if (n == 1 || (double)n * (double)each < WORTH_A_WAKE_UP)
        work(c, job, 0, n, 0);
    else
        pool_run(c->pool, run_share, &s);
}
