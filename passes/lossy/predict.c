/* predict.c: what a format would cost at a site, before anything is changed.
 *
 * The linearity theorem (Malinovskii et al., HIGGS, arXiv 2411.17525): for small errors the loss of the whole model is
 * the sum over its matrices of a factor, the matrix's own, times the error of its product. So one measured run a site
 * gives its factor, and a format needs only its error there, which is found on some of the rows. What error feedback fits to
 * the calibration text it fits to that text's accidents too, so errors are those on the text of the search. */
#include <math.h>
#include <string.h>

#include "passes/lossy/budget.h"

#define SAMPLED_ROWS 48
#define FEEDBACK_COLS 512                /* up to so many inputs error feedback is tried in every format */
#define MOMENT_BYTES ((size_t)256 << 20) /* held at once */

static const char probe_format[] = "q4g64";

/* ---- one site ---- */

static const Format *probe_for(const Site *site, Arena *a) {
    QuantMatrix q;
    const Format *f = format_find(probe_format);
    if (f && quant_new(f, site->rows, site->cols, a, &q)) return f;
    for (f = format_table; f->name; f++)
        if (quant_new(f, site->rows, site->cols, a, &q)) return f;
    return NULL;
}

/* Rows spread evenly over the matrix. */
static int64_t sample_rows(const float *w, const Site *site, float *to) {
    int64_t rows = site->rows < SAMPLED_ROWS ? site->rows : SAMPLED_ROWS;
    for (int64_t r = 0; r < rows; r++)
        memcpy(to + r * site->cols, w + r * site->rows / rows * site->cols, (size_t)site->cols * sizeof *w);
    return rows;
}

/* Moments of a site's inputs: what is fitted to, and what the error counts by. Both NULL: a table that is only looked up. */
typedef struct {
    const Moments *fit, *judge;
} Inputs;

/* The loss of some rows in f; negative when they do not go into it, or when nobody can say. */
static double sample_loss(const float *some, int64_t rows, const Site *site, Inputs in, bool gptq,
                          const Format *f, Arena *scratch) {
    QuantMatrix q;
    QuantOptions o = {.moments = in.fit, .gptq = gptq && in.fit, .order = gptq && in.fit};
    double loss = -1;
    Diag why; /* a format that a matrix does not go into is no choice for it */
    diag_init(&why);
    ArenaMark mark = arena_mark(scratch);
    if (quant_new(f, rows, site->cols, scratch, &q) &&
        quantize_matrix(some, f, &o, rows, site->cols, scratch, &q, NULL, &why))
        loss = quant_loss(some, &q, in.judge);
    if (!isfinite(loss)) loss = -1; /* inputs overflow on the text of the search */
    arena_reset(scratch, mark);
    diag_free(&why);
    return loss;
}

/* What error feedback makes of a rounding's loss, found in one format where it is dear. Above 1 where the text is short. */
static double feedback_gain(const float *some, int64_t rows, const Site *site, Inputs in, Arena *scratch) {
    const Format *f = format_find(probe_format);
    double rounded = f ? sample_loss(some, rows, site, in, false, f, scratch) : 0;
    double fed = rounded > 0 ? sample_loss(some, rows, site, in, true, f, scratch) : -1;
    return fed > 0 ? fed / rounded : 1;
}

/* Fills in the options: losses in all formats that fit, from a sample of the rows. */
static void forecast_losses(const Site *site, const float *w, Inputs in, bool palettes, Arena *scratch,
                            SiteForecast *out) {
    float *some = arena_array_of(scratch, (size_t)(site->cols * SAMPLED_ROWS), float);
    int64_t rows = sample_rows(w, site, some);
    bool cheap = site->cols <= FEEDBACK_COLS;
    double scale = (double)site->rows / (double)rows;
    out->option[out->n++] = (SiteOption){.bits = site->bits * (double)site->rows * (double)site->cols};
    out->energy = matrix_energy(w, in.judge, site->rows, site->cols);
    if (site->fixed) return;
    if (in.fit && !cheap) scale *= feedback_gain(some, rows, site, in, scratch);
    for (const Format *f = format_table; f->name; f++) {
        if (f->vector > 1 && !palettes) continue;
        double loss = sample_loss(some, rows, site, in, cheap, f, scratch);
        if (loss < 0) continue;
        double bits = (double)format_stored_bits(f, site->rows, site->cols);
        out->option[out->n++] = (SiteOption){.format = f, .bits = bits, .loss = loss * scale};
    }
}

/* The KL that this site alone, rounded, adds to that of the graph unchanged, and the loss of that. */
static bool measure_sensitivity(const Search *s, uint32_t i, const float *w, Inputs in, Arena *scratch,
                                double unchanged, SiteForecast *out, Diag *d) {
    const Site *site = &s->sites[i];
    QuantMatrix q;
    Quality quality;
    float *dense = arena_array_of(scratch, (size_t)(site->rows * site->cols), float);
    out->probe = probe_for(site, scratch);
    if (!out->probe) return true;
    if (!quantize_matrix(w, out->probe, &(QuantOptions){.moments = in.fit}, site->rows, site->cols, scratch,
                         &q, NULL, d))
        return false;
    quant_dense(&q, dense);
    double loss = quant_loss(w, &q, in.judge);
    if (!s->lab->set(s->lab, i, dense, d)) return false;
    bool ok = s->lab->measure(s->lab, s->probe, &quality, d);
    if (!s->lab->set(s->lab, i, NULL, d) || !ok) return false;
    out->probe_kl = fmax(quality.mean_kl - unchanged, 0);
    out->sensitivity = loss > 0 ? out->probe_kl / loss : 0;
    return true;
}

static bool forecast_site(const Search *s, uint32_t i, Inputs in, double unchanged, Arena *a,
                          SiteForecast *out, Diag *d) {
    const Site *site = &s->sites[i];
    Arena *scratch = arena_new();
    uint32_t formats = 0;
    while (format_table[formats].name) formats++;
    out->option = arena_array_of(a, formats + 1, SiteOption);
    float *w = arena_array_of(scratch, (size_t)(site->rows * site->cols), float);
    if (in.fit->rows == 0) in = (Inputs){NULL, NULL};
    bool ok = site_read(s->exact, site, w, d);
    if (ok) forecast_losses(site, w, in, s->palettes, scratch, out);
    ok = ok && (out->n < 2 || measure_sensitivity(s, i, w, in, scratch, unchanged, out, d));
    for (uint32_t k = 0; k < out->n; k++) /* a site that must not be rounded at all: infinite times nothing */
        out->option[k].kl = out->option[k].loss > 0 ? out->sensitivity * out->option[k].loss : 0;
    arena_free(scratch);
    return ok;
}

/* ---- all sites, in portions whose moments fit into memory ---- */

static size_t moment_bytes(const Site *site) { return 2 * (size_t)(site->cols * site->cols) * sizeof(float); }

bool forecast_sites(const Search *s, Arena *a, SiteForecast *out, Diag *d) {
    Arena *scratch = arena_new();
    uint32_t *missing = arena_array_of(scratch, s->n, uint32_t), n = 0;
    for (uint32_t i = 0; i < s->n; i++)
        if (out[i].n == 0) missing[n++] = i;
    Quality unchanged; /* not 0 where the graph has lost parts of the one that it is compared with */
    bool ok = n == 0 || s->lab->measure(s->lab, s->probe, &unchanged, d);
    for (uint32_t i = 0, next; i < n && ok; i = next) {
        size_t held = 0, more;
        for (next = i; next < n; next++, held += more) {
            more = moment_bytes(&s->sites[missing[next]]);
            if (next > i && held + more > MOMENT_BYTES) break;
        }
        Arena *portion = arena_new();
        Moments *fit = arena_array_of(portion, next - i, Moments),
                *judge = arena_array_of(portion, next - i, Moments);
        ok = s->lab->moments(s->lab, s->calibration, missing + i, next - i, portion, fit, d) &&
             s->lab->moments(s->lab, s->evaluation, missing + i, next - i, portion, judge, d);
        for (uint32_t k = i; k < next && ok; k++) {
            if (s->progress) s->progress->at(s->progress->self, "sensitivity", (double)k / (double)n);
            ok = forecast_site(s, missing[k], (Inputs){&fit[k - i], &judge[k - i]}, unchanged.mean_kl, a,
                               &out[missing[k]], d);
        }
        arena_free(portion);
    }
    arena_free(scratch);
    return ok;
}
