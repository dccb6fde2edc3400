/* session.c: a session: KV cache, activations, kept logits, threads, and what moves tokens through them.
 *
 * All memory is reserved here, and every step of the plan resolved to a Launch (launch.c). A sequence's length only
 * moves after its tokens were computed, so a call that fails or is stopped leaves it as it was. */
#include "runtime/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- sizes ---- */
typedef struct {
    uint64_t cache, rows, logits, scratch, local, tables, total;
} Sizes;

static bool add_to(uint64_t *sum, uint64_t a, uint64_t b) {
    uint64_t product;
    return !__builtin_mul_overflow(a, b, &product) && !__builtin_add_overflow(*sum, product, sum);
}

static bool state_by_key(const gptc_model *m, uint32_t state) {
    bool key = false;
    for (uint32_t i = 0; i < m->plan->n_steps; i++) {
        const ArtStep *s = &m->steps[i];
        if (s->kernel != ART_K_ATTENTION) continue;
        if (s->arg[2].value == state) return false;
        key |= s->arg[1].value == state;
    }
    return key;
}

static uint64_t scratch_bytes(const gptc_session *s) {
    uint64_t most = 64;
    for (uint32_t i = 0; i < s->model->plan->n_steps; i++) {
        const ArtStep *t = &s->model->steps[i];
        uint64_t need = 0;
        if (t->kernel == ART_K_LINEAR) need = cpu_linear_shared(s->chunk, t->u.linear.k);
        if (t->kernel == ART_K_ROUTED)
            need = cpu_routed_shared(s->chunk, t->u.routed.slots, t->u.routed.experts);
        if (t->kernel == ART_K_ATTENTION)
            need = cpu_attention_shared(s->chunk, t->u.attention.heads, t->u.attention.vdim, s->context);
        if (need > most) most = need;
    }
    return most;
}

/* false: more than an address space. */
static bool sizes_of(const gptc_session *s, uint32_t threads, Sizes *z) {
    const ArtPlan *p = s->model->plan;
    *z = (Sizes){.scratch = scratch_bytes(s)};
    bool ok = true;
    for (uint32_t i = 0; i < p->n_states && ok; i++)
        ok = add_to(&z->cache, s->state_bytes[i], s->n_sequences);
    ok = ok && add_to(&z->rows, p->row_bytes, s->chunk);
    ok = ok && add_to(&z->logits, s->model->meta->vocab * (uint64_t)sizeof(float), s->n_sequences);
    ok = ok && add_to(&z->local, CPU_LOCAL_BYTES, threads);
    ok = ok && add_to(&z->tables, sizeof(Launch), p->n_steps) &&
         add_to(&z->tables, sizeof(Sequence), s->n_sequences) && add_to(&z->tables, 7 * 4, s->chunk);
    const uint64_t parts[6] = {z->cache, z->rows, z->logits, z->scratch, z->local, z->tables};
    for (int i = 0; i < 6; i++) ok = ok && add_to(&z->total, parts[i], 1);
    return ok && z->total < SIZE_MAX / 2;
}

/* What the kernel reckons available, and a container's limit. */
uint64_t memory_available(void) {
    uint64_t best = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    char line[128];
    unsigned long long v;
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu kB", &v) == 1 && v * 1024 < best) best = v * 1024;
    if (f) fclose(f);
    f = fopen("/sys/fs/cgroup/memory.max", "re");
    if (f && fgets(line, sizeof line, f) && sscanf(line, "%llu", &v) == 1 && v < best) best = v;
    if (f) fclose(f);
    return best;
}

static gptc_status no_memory(const gptc_session *s, const Sizes *z, uint64_t have, gptc_detail *why) {
    uint64_t per_token = z->cache / s->context, fixed = z->total - z->cache;
    uint64_t fits = per_token && have > fixed ? (have - fixed) / per_token : 0;
    if (fits > s->context) fits = s->context;
    char hint[64] = "";
    if (fits) snprintf(hint, sizeof hint, "; a context of %llu would fit", (unsigned long long)fits);
    return status_fail(why, GPTC_E_MEMORY,
                       "the session needs %llu MB (cache of %u x %u tokens %llu, rows %llu, other %llu), "
                       "%llu MB are free%s",
                       (unsigned long long)(z->total >> 20), s->n_sequences, s->context,
                       (unsigned long long)(z->cache >> 20), (unsigned long long)(z->rows >> 20),
                       (unsigned long long)((z->total - z->cache - z->rows) >> 20),
                       (unsigned long long)(have >> 20), hint);
}

/* Zeroed and 64-byte aligned; NULL when there is none. Pages that are never written cost nothing. */
static void *reserve(gptc_session *s, uint64_t bytes) {
    void *block = calloc(1, (size_t)bytes + 64);
    if (!block) return NULL;
    s->blocks[s->n_blocks++] = block;
    return (void *)(((uintptr_t)block + 63) & ~(uintptr_t)63);
}

/* ---- making ---- */
static void rows_info(gptc_session *s, int32_t *ints) {
    size_t r = s->chunk;
    s->body = (RowInfo){ints, ints + r, ints + 2 * r};
    s->head = (RowInfo){ints + 3 * r, ints + 4 * r, ints + 5 * r};
    s->wanted = (uint32_t *)(ints + 6 * r);
}

static gptc_status session_reserve(gptc_session *s, uint32_t threads, gptc_detail *why) {
    const ArtPlan *p = s->model->plan;
    s->states = calloc(p->n_states + 1, sizeof *s->states);
    s->state_bytes = calloc(p->n_states + 1, sizeof *s->state_bytes);
    if (!s->states || !s->state_bytes) return status_fail(why, GPTC_E_MEMORY, "no memory for the states");
    for (uint32_t i = 0; i < p->n_states; i++) {
        CpuState *t = &s->states[i];
        *t = (CpuState){.heads = s->model->states[i].heads,
                        .dim = s->model->states[i].dim,
                        .capacity = s->context,
                        .by_key = state_by_key(s->model, i),
                        .kept = s->model->states[i].kept};
        s->state_bytes[i] = cpu_state_bytes(t);
    }
    Sizes z;
    if (!sizes_of(s, threads, &z)) return status_fail(why, GPTC_E_MEMORY, "more than an address space");
    uint64_t have = memory_available();
    if (z.total > have) return no_memory(s, &z, have, why);
    s->cache_bytes = z.cache;
    s->cache = reserve(s, z.cache);
    s->rows = reserve(s, z.rows);
    s->logits = reserve(s, z.logits);
    s->shared = reserve(s, z.scratch);
    s->local = reserve(s, z.local);
    s->launches = reserve(s, p->n_steps * (uint64_t)sizeof(Launch));
    s->sequences = reserve(s, s->n_sequences * (uint64_t)sizeof(Sequence));
    int32_t *ints = reserve(s, s->chunk * (uint64_t)7 * sizeof(int32_t));
    if (s->n_blocks < 8) return no_memory(s, &z, have, why);
    rows_info(s, ints);
    uint8_t *at = s->cache;
    for (uint32_t i = 0; i < p->n_states; i++) {
        s->states[i].data = at;
        at += s->state_bytes[i] * s->n_sequences;
    }
    return GPTC_OK;
}

/* What stays here when the work is done on a GPU. */
static gptc_status session_reserve_cuda(gptc_session *s, const gptc_session_options *o, gptc_detail *why) {
    if (s->chunk > CUDA_MOST_ROWS) s->chunk = CUDA_MOST_ROWS;
    s->logits = reserve(s, s->model->meta->vocab * (uint64_t)sizeof(float) * s->n_sequences);
    s->sequences = reserve(s, s->n_sequences * (uint64_t)sizeof(Sequence));
    int32_t *ints = reserve(s, s->chunk * (uint64_t)7 * sizeof(int32_t));
    if (s->n_blocks < 3) return status_fail(why, GPTC_E_MEMORY, "no memory for the session's logits");
    rows_info(s, ints);
    return cuda_session_new(s, o->cuda_driver, o->decode, why);
}

static gptc_status session_init(gptc_session *s, const gptc_session_options *o, gptc_detail *why) {
    const ArtMeta *meta = s->model->meta;
    if (o->context < 0 || (uint32_t)o->context > meta->context)
        return status_fail(why, GPTC_E_ARGUMENT, "context %d, the model allows 1..%u", o->context,
                           meta->context);
    if (o->sequences < 0 || o->sequences > LIMIT_SEQUENCES || o->chunk < 0 || o->chunk > LIMIT_CHUNK ||
        o->threads < 0 || o->threads > LIMIT_THREADS)
        return status_fail(why, GPTC_E_ARGUMENT,
                           "threads %d (0..%d), sequences %d (0..%d) or chunk %d (0..%d) "
                           "out of range",
                           o->threads, LIMIT_THREADS, o->sequences, LIMIT_SEQUENCES, o->chunk, LIMIT_CHUNK);
    s->context = o->context ? (uint32_t)o->context : meta->context;
    s->n_sequences = o->sequences ? (uint32_t)o->sequences : 1;
    s->chunk = o->chunk ? (uint32_t)o->chunk : 256;
    uint64_t most = (uint64_t)s->context * s->n_sequences; /* rows there can ever be at once */
    if (s->chunk > most) s->chunk = (uint32_t)most;
    uint32_t threads = o->threads ? (uint32_t)o->threads : pool_cores();
    if (o->device != GPTC_CPU && o->device != GPTC_CUDA)
        return status_fail(why, GPTC_E_ARGUMENT, "device %d is not known", (int)o->device);
    if (o->decode < GPTC_DECODE_AUTO || o->decode > GPTC_DECODE_PERSISTENT)
        return status_fail(why, GPTC_E_ARGUMENT, "decode %d is not known", (int)o->decode);
    if (s->model->function.head && o->device != GPTC_CPU)
        return status_fail(why, GPTC_E_UNSUPPORTED, "a model without cache runs on the CPU alone");
    if (s->model->function.head) return history_init(s, threads, why);
    gptc_status st =
        o->device == GPTC_CUDA ? session_reserve_cuda(s, o, why) : session_reserve(s, threads, why);
    if (st || s->cuda) return st;
    s->pool = pool_new(threads);
    if (!s->pool) return status_fail(why, GPTC_E_MEMORY, "cannot start %u threads", threads);
    for (uint32_t i = 0; i < s->model->plan->n_steps; i++) {
        launch_resolve(s, i, &s->launches[i]);
        s->launches[i].alone = step_alone(&s->launches[i]);
    }
    return GPTC_OK;
}

gptc_status gptc_session_new(gptc_model *m, const gptc_session_options *options, gptc_session **out,
                             gptc_detail *why) {
    if (why) why->text[0] = 0;
    if (!out) return status_fail(why, GPTC_E_ARGUMENT, "no place for the session (out is NULL)");
    *out = NULL;
    if (!m) return status_fail(why, GPTC_E_ARGUMENT, "no model");
    if (!m->meta->vocab)
        return status_fail(why, GPTC_E_UNSUPPORTED, "the model is no GPT; hint: run it by gptc_function_run");
    gptc_session_options o = {0};
    options_read(&o, sizeof o, options);
    gptc_session *s = calloc(1, sizeof *s);
    if (!s) return status_fail(why, GPTC_E_MEMORY, "%zu bytes for the session", sizeof *s);
    s->model = m;
    gptc_status st = session_init(s, &o, why);
    if (st) {
        gptc_session_free(s);
        return st;
    }
    *out = s;
    return GPTC_OK;
}

void gptc_session_free(gptc_session *s) {
    if (!s) return;
    pool_free(s->pool);
    gptc_function_free(s->function);
    cuda_session_free(s);
    for (uint32_t i = 0; i < s->n_blocks; i++) free(s->blocks[i]);
    free(s->states);
    free(s->state_bytes);
    free(s);
}

/* ---- sequences ---- */
static Sequence *sequence_of(const gptc_session *s, int32_t sequence) {
    bool there = s && sequence >= 0 && (uint32_t)sequence < s->n_sequences;
    return there ? &s->sequences[sequence] : NULL;
}

const float *gptc_logits(const gptc_session *s, int32_t sequence) {
    const Sequence *q = sequence_of(s, sequence);
    if (q && q->has_logits && s->cuda && cuda_logits_bring(s, sequence)) return NULL;
    return q && q->has_logits ? s->logits + (size_t)sequence * s->model->meta->vocab : NULL;
}

int32_t gptc_length(const gptc_session *s, int32_t sequence) {
    const Sequence *q = sequence_of(s, sequence);
    return q ? q->length : -1;
}

gptc_status gptc_rewind(gptc_session *s, int32_t sequence, int32_t length) {
    Sequence *q = sequence_of(s, sequence);
    if (!q || length < 0 || length > q->length) return GPTC_E_ARGUMENT;
    if (length < q->length) *q = (Sequence){.length = length};
    return GPTC_OK;
}

gptc_status gptc_fork(gptc_session *s, int32_t from, int32_t to) {
    Sequence *a = sequence_of(s, from), *b = sequence_of(s, to);
    if (!a || !b) return GPTC_E_ARGUMENT;
    if (a == b) return GPTC_OK;
    if (s->cuda && a->length) {
        gptc_status st = cuda_logits_bring(s, -1);
        if (!st) st = cuda_fork(s, (uint32_t)from, (uint32_t)to);
        if (st) return st;
    }
    for (uint32_t i = 0; s->states && i < s->model->plan->n_states && a->length; i++) {
        size_t n = s->state_bytes[i];
        uint8_t *data = s->states[i].data;
        memcpy(data + (size_t)to * n, data + (size_t)from * n, n);
    }
    if (s->function) memcpy(history_of(s, to), history_of(s, from), (size_t)a->length * sizeof *s->history);
    size_t vocab = s->model->meta->vocab;
    if (a->has_logits)
        memcpy(s->logits + (size_t)to * vocab, s->logits + (size_t)from * vocab, vocab * sizeof(float));
    *b = *a;
    return GPTC_OK;
}

uint64_t gptc_rows_computed(const gptc_session *s) { return s ? s->rows_computed : 0; }

uint64_t gptc_state_bytes(const gptc_session *s) { return s ? s->cache_bytes : 0; }

/* ---- tokens in ---- */
static gptc_status tokens_check(const gptc_session *s, const int32_t *tokens, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= s->model->meta->vocab) return GPTC_E_TOKEN;
    return GPTC_OK;
}

static void row_set(gptc_session *s, uint32_t row, int32_t token, int32_t position, int32_t sequence) {
    s->body.tokens[row] = token;
    s->body.positions[row] = position;
    s->body.sequences[row] = sequence;
}

static void logits_keep(gptc_session *s, int32_t sequence, const float *logits) {
    size_t vocab = s->model->meta->vocab;
    memcpy(s->logits + (size_t)sequence * vocab, logits, vocab * sizeof(float));
}

static gptc_status prefill(gptc_session *s, int32_t sequence, const int32_t *tokens, size_t n,
                           gptc_logits_mode mode, gptc_logits_fn fn, void *user) {
    Sequence *q = sequence_of(s, sequence);
    if (!q || (n && !tokens)) return GPTC_E_ARGUMENT;
    if (n > s->context - (size_t)q->length) return GPTC_E_CONTEXT;
    gptc_status st = tokens_check(s, tokens, n);
    if (st || !n) return st;
    if (s->function) return history_prefill(s, sequence, tokens, n, mode, fn, user);
    for (size_t done = 0; done < n;) {
        uint32_t rows = n - done < s->chunk ? (uint32_t)(n - done) : s->chunk;
        int32_t first = q->length + (int32_t)done;
        bool last = done + rows == n;
        uint32_t want = mode == GPTC_LOGITS_ALL ? rows : mode == GPTC_LOGITS_LAST && last;
        for (uint32_t i = 0; i < rows; i++) row_set(s, i, tokens[done + i], first + (int32_t)i, sequence);
        for (uint32_t i = 0; i < want; i++) s->wanted[i] = rows - want + i;
        st = step_run(s, rows, want);
        if (st) return st;
        if (fn && fn(user, sequence, first, (int32_t)want, step_logits(s))) return GPTC_E_STOPPED;
        if (last && want)
            logits_keep(s, sequence, step_logits(s) + (size_t)(want - 1) * s->model->meta->vocab);
        done += rows;
    }
    *q = (Sequence){.length = q->length + (int32_t)n, .has_logits = mode != GPTC_LOGITS_NONE};
    return GPTC_OK;
}

gptc_status gptc_prefill(gptc_session *s, int32_t sequence, const int32_t *tokens, size_t n,
                         gptc_logits_mode mode) {
    if (mode != GPTC_LOGITS_NONE && mode != GPTC_LOGITS_LAST) return GPTC_E_ARGUMENT;
    return prefill(s, sequence, tokens, n, mode, NULL, NULL);
}

gptc_status gptc_prefill_all(gptc_session *s, int32_t sequence, const int32_t *tokens, size_t n,
                             gptc_logits_fn fn, void *user) {
    return fn ? prefill(s, sequence, tokens, n, GPTC_LOGITS_ALL, fn, user) : GPTC_E_ARGUMENT;
}

static int32_t chosen(const int32_t *sequences, int32_t i) { return sequences ? sequences[i] : i; }

/* Marks each sequence while looking for a second mention; the marks are taken away again. */
static gptc_status step_check(gptc_session *s, const int32_t *sequences, const int32_t *tokens, int32_t n) {
    if (n < 0 || (n && !tokens) || (uint32_t)n > s->n_sequences) return GPTC_E_ARGUMENT;
    gptc_status st = tokens_check(s, tokens, (size_t)n);
    int32_t marked = 0;
    for (; marked < n && !st; marked++) {
        Sequence *q = sequence_of(s, chosen(sequences, marked));
        if (!q || q->length < 0) {
            st = GPTC_E_ARGUMENT;
            break;
        }
        if ((uint32_t)q->length >= s->context) {
            st = GPTC_E_CONTEXT;
            break;
        }
        q->length = -1 - q->length;
    }
    for (int32_t i = 0; i < marked; i++) {
        Sequence *q = sequence_of(s, chosen(sequences, i));
        q->length = -1 - q->length;
    }
    return st;
}

/* One token of each of the first sequences in s->body, which are all wanted. */
static gptc_status rows_step(gptc_session *s, uint32_t rows, const SampleOptions *asked, int32_t *next) {
    gptc_status st;
    for (uint32_t i = 0; i < rows; i++) s->wanted[i] = i;
    if (s->cuda) {
        step_rows(s, rows, rows);
        st = cuda_step_later(s, rows, asked, next);
    } else {
        st = step_run(s, rows, rows);
    }
    if (st) return st;
    for (uint32_t i = 0; i < rows; i++) {
        int32_t q = s->body.sequences[i];
        if (!s->cuda) logits_keep(s, q, step_logits(s) + (size_t)i * s->model->meta->vocab);
        s->sequences[q].length++;
        s->sequences[q].has_logits = true;
    }
    return GPTC_OK;
}

gptc_status session_step(gptc_session *s, const int32_t *sequences, const int32_t *tokens, int32_t n,
                         const SampleOptions *asked, int32_t *next) {
    gptc_status st = step_check(s, sequences, tokens, n);
    if (st) return st;
    if (s->function) return history_step(s, sequences, tokens, n);
    for (int32_t done = 0; done < n;) {
        int32_t rows = (uint32_t)(n - done) < s->chunk ? n - done : (int32_t)s->chunk;
        for (int32_t i = 0; i < rows; i++) {
            int32_t q = chosen(sequences, done + i);
            row_set(s, (uint32_t)i, tokens[done + i], s->sequences[q].length, q);
        }
        st = rows_step(s, (uint32_t)rows, asked, next);
        if (st) return st;
        done += rows;
    }
    return GPTC_OK;
}

gptc_status gptc_step_sequences(gptc_session *s, const int32_t *sequences, const int32_t *tokens, int32_t n) {
    return s ? session_step(s, sequences, tokens, n, NULL, NULL) : GPTC_E_ARGUMENT;
}

gptc_status gptc_step(gptc_session *s, const int32_t *tokens, int32_t n) {
    return gptc_step_sequences(s, NULL, tokens, n);
}

int32_t session_most_drawn(const gptc_session *s) {
    return !s->cuda ? 0 : s->chunk < CUDA_DRAWN ? (int32_t)s->chunk : CUDA_DRAWN;
}

uint32_t session_most_ahead(const gptc_session *s) { return s->cuda ? CUDA_AHEAD : 1; }

gptc_status session_ahead(gptc_session *s, int32_t sequence, int32_t token, uint32_t most,
                          const SampleOptions *sampling, int (*fn)(void *user, int32_t next), void *user,
                          uint32_t *done) {
    Sequence *q = &s->sequences[sequence];
    row_set(s, 0, token, q->length, sequence);
    s->wanted[0] = 0;
    step_rows(s, 1, 1);
    gptc_status st = cuda_ahead(s, most, sampling, fn, user, done);
    if (st) return st;
    q->length += (int32_t)*done;
    q->has_logits = true;
    return GPTC_OK;
}
