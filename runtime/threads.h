/* threads.h: a team of worker threads that run one function together (threads.c).
 *
 * pool_run starts fn on every worker; the caller is worker 0. Inside fn all workers walk the same list of
 * kernels and meet at pool_barrier, so a whole token costs one pool_run and one barrier a kernel. Waiting
 * spins for about 50 us and then sleeps. Nothing is allocated after pool_new.
 *
 *   static void work(void *ctx, uint32_t worker, uint32_t workers);
 *   Pool *p = pool_new(0);  pool_run(p, work, &job);  pool_free(p);
 */
#ifndef RUNTIME_THREADS_H
#define RUNTIME_THREADS_H

#include <stdint.h>

typedef struct Pool Pool;
typedef void PoolFn(void *ctx, uint32_t worker, uint32_t workers);

/* Processors this process may run on, at least 1. */
uint32_t pool_cores(void);

/* workers counts the caller; 0 = pool_cores(). NULL: no memory, or the system refused a thread.
 * Freed by pool_free, which joins the threads and allows NULL. */
Pool *pool_new(uint32_t workers);
void pool_free(Pool *p);
uint32_t pool_workers(const Pool *p);

/* Runs fn(ctx, worker, workers) on every worker and returns when all are done. What the caller wrote
 * before is seen by fn, what fn wrote is seen by the caller. Not reentrant: one caller at a time. */
void pool_run(Pool *p, PoolFn *fn, void *ctx);

/* Only inside fn: returns when every worker has called it. Also sets the ticket counter to 0. */
void pool_barrier(Pool *p);

/* Only inside fn: 0, 1, 2, ... each given to one worker, counted since the last barrier or since the
 * start of the run; shares out work of uneven cost. */
uint32_t pool_ticket(Pool *p);

#endif
