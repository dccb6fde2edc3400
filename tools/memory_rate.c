#define _GNU_SOURCE /* sched_getaffinity */
#include "tools/memory_rate.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli.h"

#define READ_BYTES ((size_t)256 << 20) /* a thread's, well past the caches; less when there are many: */
#define READ_TOTAL ((size_t)1 << 30)
#define READ_LEAST ((size_t)16 << 20)

int64_t cpu_cores(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
}

/* Readers begin together: those that start before the last one is there wait. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t opened;
    bool open;
} Gate;
typedef struct {
    const uint64_t *data;
    size_t bytes;
    Gate *gate;
    pthread_t thread;
    uint64_t sum; /* so that the sums are made */
} Reader;

static uint64_t read_all(const uint64_t *data, size_t bytes) {
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < bytes / 8; i += 8)
        for (int k = 0; k < 8; k++) sum[k] += data[i + (size_t)k];
    return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

static void *reader(void *arg) {
    Reader *r = arg;
    pthread_mutex_lock(&r->gate->lock);
    while (!r->gate->open) pthread_cond_wait(&r->gate->opened, &r->gate->lock);
    pthread_mutex_unlock(&r->gate->lock);
    r->sum = read_all(r->data, r->bytes);
    return NULL;
}

/* Bytes/s of one round; threads that cannot be started do not read. */
static double round_rate(Reader *r, int64_t n, Gate *gate) {
    int64_t made = 0;
    gate->open = false;
    while (made < n && !pthread_create(&r[made].thread, NULL, reader, &r[made])) made++;
    double start = cli_seconds();
    pthread_mutex_lock(&gate->lock);
    gate->open = true;
    pthread_cond_broadcast(&gate->opened);
    pthread_mutex_unlock(&gate->lock);
    for (int64_t i = 0; i < made; i++) pthread_join(r[i].thread, NULL);
    return made ? (double)r[0].bytes * (double)made / (cli_seconds() - start) : 0;
}

double memory_read_rate(int64_t threads, int rounds) {
    double best = 0;
    size_t n = threads < 1 ? 1 : (size_t)threads;
    size_t bytes = READ_BYTES * n <= READ_TOTAL ? READ_BYTES : READ_TOTAL / n / 64 * 64;
    if (bytes < READ_LEAST) bytes = READ_LEAST;
    Gate gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};
    Reader *r = calloc(n, sizeof *r);
    uint64_t *data = malloc(bytes * n);
    if (r && data) memset(data, 1, bytes * n);
    for (size_t i = 0; r && data && i < n; i++)
        r[i] = (Reader){.data = data + bytes / 8 * i, .bytes = bytes, .gate = &gate};
    for (int round = 0; r && data && round < rounds; round++) {
        double rate = round_rate(r, (int64_t)n, &gate);
        if (rate > best) best = rate;
    }
    free(data);
    free(r);
    return best;
}
