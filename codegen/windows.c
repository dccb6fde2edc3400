/* windows.c: cutting, dealing (Fisher-Yates), and sampling of token windows. */
#include "codegen/windows.h"

#include <string.h>

#define SAMPLED_AT_ONCE 32 /* sequences: wide enough that weights are read once for many tokens */

/* SplitMix64 (Vigna) */
static uint64_t random_next(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

Windows windows_cut(const int32_t *ids, size_t n, int64_t length, Arena *a) {
    Windows w = {.windows = (int64_t)n / length, .length = length};
    w.id = arena_dup(a, ids, (size_t)(w.windows * length) * sizeof *ids);
    return w;
}

/* How many windows each part gets: what is left after rounding down goes to the largest remainders. */
static void deal_counts(int64_t windows, const double *share, size_t parts, int64_t *count) {
    double sum = 0;
    int64_t given = 0;
    for (size_t i = 0; i < parts; i++) sum += share[i];
    for (size_t i = 0; i < parts; i++) {
        count[i] = (int64_t)((double)windows * share[i] / sum);
        if (count[i] == 0 && share[i] > 0 && windows >= (int64_t)parts) count[i] = 1;
        given += count[i];
    }
    for (; given != windows; given += given < windows ? 1 : -1) {
        size_t best = 0;
        double most = -1e300;
        for (size_t i = 0; i < parts; i++) {
            double lack = (double)windows * share[i] / sum - (double)count[i];
            if (given > windows) lack = count[i] > 1 ? -lack : -1e299;
            if (lack > most) most = lack, best = i;
        }
        count[best] += given < windows ? 1 : -1;
    }
}

void windows_deal(const Windows *w, const double *share, size_t parts, uint64_t seed, Arena *a,
                  Windows *out) {
    int64_t n = w->windows, *count = arena_array_of(a, parts, int64_t);
    size_t *part = arena_array_of(a, (size_t)n, size_t), at = 0;
    deal_counts(n, share, parts, count);
    for (size_t i = 0; i < parts; i++) {
        for (int64_t k = 0; k < count[i]; k++) part[at++] = i;
        out[i] = (Windows){.length = w->length, .from = w->from};
        out[i].id = arena_array_of(a, (size_t)(count[i] * w->length), int32_t);
    }
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t k = (int64_t)(random_next(&seed) % (uint64_t)(i + 1));
        size_t kept = part[i];
        part[i] = part[k];
        part[k] = kept;
    }
    for (int64_t i = 0; i < n; i++) {
        Windows *to = &out[part[i]];
        memcpy(to->id + to->windows++ * w->length, w->id + i * w->length, (size_t)w->length * sizeof *w->id);
    }
}

/* ---- sampling ---- */

typedef struct {
    gptc_session *session;
    gptc_sampler *sampler[SAMPLED_AT_ONCE];
    int32_t token[SAMPLED_AT_ONCE];
    int32_t n;
    float temperature;
} Writers;

static void writers_free(Writers *w) {
    for (int i = 0; i < SAMPLED_AT_ONCE; i++) gptc_sampler_free(w->sampler[i]);
    gptc_session_free(w->session);
}

/* Windows first .. first + n - 1: their samplers and first tokens follow from the seed and their number. */
static gptc_status writers_begin(Writers *w, gptc_model *m, const gptc_model_info *info, uint64_t seed,
                                 int64_t first, int32_t n) {
    gptc_status st = GPTC_OK;
    w->n = n;
    for (int32_t i = 0; i < n && !st; i++) {
        uint64_t state = seed ^ ((uint64_t)(first + i) * 0xd1342543de82ef95u);
        gptc_sampler_options o = {
            .struct_size = sizeof o, .temperature = w->temperature, .seed = random_next(&state)};
        w->token[i] =
            info->bos_token >= 0 ? info->bos_token : (int32_t)(random_next(&state) % (uint64_t)info->vocab);
        gptc_sampler_free(w->sampler[i]);
        w->sampler[i] = NULL;
        st = gptc_rewind(w->session, i, 0);
        if (!st) st = gptc_sampler_new(m, &o, &w->sampler[i]);
    }
    return st;
}

/* to[n][length] */
static gptc_status writers_write(Writers *w, int64_t length, int32_t *to) {
    for (int64_t k = 0; k < length; k++) {
        for (int32_t i = 0; i < w->n; i++) to[i * length + k] = w->token[i];
        if (k + 1 == length) break;
        gptc_status st = gptc_step(w->session, w->token, w->n);
        if (st) return st;
        for (int32_t i = 0; i < w->n; i++) {
            w->token[i] = gptc_sample(w->session, i, w->sampler[i]);
            if (w->token[i] < 0) return (gptc_status)w->token[i];
        }
    }
    return GPTC_OK;
}

bool windows_sample(gptc_model *m, int64_t windows, int64_t length, float temperature, uint64_t seed,
                    int threads, Arena *a, Windows *out, Diag *d) {
    Writers w = {.temperature = temperature};
    gptc_detail why = {""};
    gptc_model_info info = {.struct_size = sizeof info};
    gptc_model_get_info(m, &info);
    int32_t most = windows < SAMPLED_AT_ONCE ? (int32_t)windows : SAMPLED_AT_ONCE;
    gptc_session_options o = {.struct_size = sizeof o,
                              .threads = threads,
                              .context = (int32_t)length,
                              .sequences = most,
                              .chunk = most};
    *out = (Windows){.windows = windows, .length = length};
    out->id = arena_array_of(a, (size_t)(windows * length), int32_t);
    gptc_status st = length > info.context ? GPTC_E_CONTEXT : gptc_session_new(m, &o, &w.session, &why);
    for (int64_t first = 0; first < windows && !st; first += most) {
        int32_t n = windows - first < most ? (int32_t)(windows - first) : most;
        st = writers_begin(&w, m, &info, seed, first, n);
        if (!st) st = writers_write(&w, length, out->id + first * length);
    }
    writers_free(&w);
    return !st ||
           diag_error(
               d, loc_none(),
               "cannot sample %lld windows of %lld tokens from the model: %s %s; hint: --calibrate FILE",
               (long long)windows, (long long)length, gptc_strerror(st), why.text);
}
