/* threads.c: the worker pool.
 *
 * One central barrier serves everything: a run is a barrier that lets the workers in, the function, and a
 * barrier that ends it. The last to arrive opens the next phase; the others watch the phase number, first
 * spinning, then asleep on a condition variable. The last one only takes the lock if somebody sleeps:
 * the sleeper counts itself before it looks at the phase again, the waker moves the phase before it looks
 * at the count, both sequentially consistent, so one of them sees the other. */
#define _GNU_SOURCE /* sched_getaffinity */
#include "runtime/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define LINE 64
#define SPIN_NS 50000
#define MAX_WORKERS 1024

typedef struct {
    Pool *pool;
    uint32_t index;
    pthread_t thread;
} Worker;

struct Pool {
    _Alignas(LINE) atomic_uint phase;
    _Alignas(LINE) atomic_uint arrived;
    _Alignas(LINE) atomic_uint ticket;
    _Alignas(LINE) atomic_uint sleepers;
    _Alignas(LINE) pthread_mutex_t lock;
    pthread_cond_t opened;
    PoolFn *fn; /* NULL: the threads end */
    void *ctx;
    uint32_t workers;
    bool spin; /* no more workers than processors */
    Worker *worker;
};

uint32_t pool_cores(void) {
#ifdef CPU_COUNT
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) {
        return (uint32_t)CPU_COUNT(&set);
    }
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (uint32_t)n : 1;
}

uint32_t pool_workers(const Pool *p) { return p->workers; }

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void wait_phase(Pool *p, unsigned old) {
    if (p->spin) {
        int64_t end = 0;
        for (unsigned round = 0;; round++) {
            for (int i = 0; i < 32; i++) {
                if (atomic_load_explicit(&p->phase, memory_order_acquire) != old) { return; }
                relax();
            }
            int64_t now = now_ns();
            if (round == 0) { end = now + SPIN_NS; }
            if (now >= end) { break; }
        }
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->phase) == old) { pthread_cond_wait(&p->opened, &p->lock); }
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->lock);
}

void pool_barrier(Pool *p) {
    if (p->workers == 1) {
        atomic_store_explicit(&p->ticket, 0, memory_order_relaxed);
        return;
    }
    unsigned phase = atomic_load_explicit(&p->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&p->arrived, 1, memory_order_acq_rel) + 1 < p->workers) {
        wait_phase(p, phase);
        return;
    }
    atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
    atomic_store_explicit(&p->ticket, 0, memory_order_relaxed);
    atomic_store(&p->phase, phase + 1);
    if (atomic_load(&p->sleepers) != 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->opened);
        pthread_mutex_unlock(&p->lock);
    }
}

uint32_t pool_ticket(Pool *p) { return atomic_fetch_add_explicit(&p->ticket, 1, memory_order_relaxed); }

static void *worker_main(void *arg) {
    const Worker *w = arg;
    Pool *p = w->pool;
    pthread_mutex_lock(&p->lock); /* until pool_new knows how many there are */
    pthread_mutex_unlock(&p->lock);
    for (;;) {
        pool_barrier(p);
        if (!p->fn) { return NULL; }
        p->fn(p->ctx, w->index, p->workers);
        pool_barrier(p);
    }
}

void pool_run(Pool *p, PoolFn *fn, void *ctx) {
    p->fn = fn;
    p->ctx = ctx;
    pool_barrier(p);
    fn(ctx, 0, p->workers);
    pool_barrier(p);
}

void pool_free(Pool *p) {
    if (!p) { return; }
    p->fn = NULL;
    pool_barrier(p);
    for (uint32_t i = 1; i < p->workers; i++) { pthread_join(p->worker[i].thread, NULL); }
    pthread_cond_destroy(&p->opened);
    pthread_mutex_destroy(&p->lock);
    free(p->worker);
    free(p);
}

/* Starts workers 1.. and returns how many workers there are then. */
static uint32_t start(Pool *p, uint32_t workers) {
    uint32_t i = 1;
    for (; i < workers; i++) {
        p->worker[i] = (Worker){.pool = p, .index = i};
        if (pthread_create(&p->worker[i].thread, NULL, worker_main, &p->worker[i]) != 0) { break; }
    }
    return i;
}

Pool *pool_new(uint32_t workers) {
    uint32_t cores = pool_cores();
    if (workers == 0) { workers = cores; }
    if (workers > MAX_WORKERS) { return NULL; }
    Pool *p = aligned_alloc(LINE, sizeof *p);
    if (!p) { return NULL; }
    *p = (Pool){.spin = workers <= cores};
    p->worker = calloc(workers, sizeof *p->worker);
    if (!p->worker || pthread_mutex_init(&p->lock, NULL) != 0) {
        free(p->worker);
        free(p);
        return NULL;
    }
    if (pthread_cond_init(&p->opened, NULL) != 0) {
        pthread_mutex_destroy(&p->lock);
        free(p->worker);
        free(p);
        return NULL;
    }
    pthread_mutex_lock(&p->lock);
    p->workers = start(p, workers);
    pthread_mutex_unlock(&p->lock);
    if (p->workers < workers) {
        pool_free(p);
        return NULL;
    }
    return p;
}
