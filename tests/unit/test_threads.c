/* The worker pool: every worker runs, barriers order writes, tickets are given once, sleeping works. */
#include "runtime/threads.h"
#include "tests/unit/unit.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

enum { MAX = 8, ROUNDS = 200 };

typedef struct {
    Pool *pool;
    uint32_t seen[MAX];
    uint32_t value[2][MAX];
    uint32_t wrong[MAX];
    atomic_uint taken[64];
    int nap;
} Job;

static void count_run(void *ctx, uint32_t worker, uint32_t workers) {
    Job *j = ctx;
    j->seen[worker] += workers;
}

static void nap(long us) {
    struct timespec t = {0, us * 1000};
    nanosleep(&t, NULL);
}

/* Each worker writes a number; after the barrier all read all: any missed order shows (or TSan sees). */
static void exchange(void *ctx, uint32_t worker, uint32_t workers) {
    Job *j = ctx;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        j->value[i & 1][worker] = i * MAX + worker;
        if (j->nap && i % 50 == 10 && worker == i / 50 % workers) { nap(300); }
        pool_barrier(j->pool);
        for (uint32_t w = 0; w < workers; w++) { j->wrong[worker] += j->value[i & 1][w] != i * MAX + w; }
    }
}

static void draw(void *ctx, uint32_t worker, uint32_t workers) {
    (void)worker, (void)workers;
    Job *j = ctx;
    for (int round = 0; round < 10; round++) {
        for (uint32_t t; (t = pool_ticket(j->pool)) < 64;) { atomic_fetch_add(&j->taken[t], 1); }
        pool_barrier(j->pool);
    }
}

static void with_pool(uint32_t workers) {
    Job j = {.pool = pool_new(workers)};
    CU_ASSERT_PTR_NOT_NULL_FATAL(j.pool);
    CU_ASSERT_EQUAL(pool_workers(j.pool), workers);
    for (int i = 0; i < 100; i++) { pool_run(j.pool, count_run, &j); }
    for (uint32_t w = 0; w < workers; w++) { CU_ASSERT_EQUAL(j.seen[w], 100 * workers); }
    for (j.nap = 0; j.nap < 2; j.nap++) {
        pool_run(j.pool, exchange, &j);
        nap(500); /* the workers go to sleep between the runs */
    }
    for (uint32_t w = 0; w < workers; w++) { CU_ASSERT_EQUAL(j.wrong[w], 0); }
    pool_run(j.pool, draw, &j);
    for (int t = 0; t < 64; t++) { CU_ASSERT_EQUAL(atomic_load(&j.taken[t]), 10); }
    pool_free(j.pool);
}

static void test_one(void) { with_pool(1); }
static void test_two(void) { with_pool(2); }
static void test_more_than_cores(void) { with_pool(MAX); }

static void test_make_and_free(void) {
    CU_ASSERT(pool_cores() >= 1);
    pool_free(NULL);
    for (int i = 0; i < 50; i++) { pool_free(pool_new(3)); }
    Pool *p = pool_new(0);
    CU_ASSERT_PTR_NOT_NULL_FATAL(p);
    CU_ASSERT_EQUAL(pool_workers(p), pool_cores());
    pool_free(p);
    CU_ASSERT_PTR_NULL(pool_new(1u << 30));
}

int main(void) {
    if (unit_begin()) return 1;
    CU_pSuite s = CU_add_suite("threads", NULL, NULL);
    CU_add_test(s, "one worker", test_one);
    CU_add_test(s, "two workers", test_two);
    CU_add_test(s, "more workers than processors", test_more_than_cores);
    CU_add_test(s, "make and free", test_make_and_free);
    return unit_end();
}
