/* lossy_page.c: the page of HTML about a compression: opens from disk, needs nothing, light and dark.
 *
 * What was predicted is drawn hollow and said to be predicted; what was measured is filled. */
#include "tools/lossy.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "tools/page.h"

static const char style[] =
    "<style>.map{display:grid;gap:2px;font:12px ui-monospace,monospace;width:max-content}"
    ".map span{padding:.25rem .5rem;text-align:center;border-radius:3px;position:relative;min-width:3.4rem}"
    ".map .c{background:color-mix(in srgb,var(--heat) calc(var(--v)*1%),var(--band))}"
    ".save{--heat:var(--norm)}.risk{--heat:var(--att)}.chart text{font:12px system-ui,sans-serif}"
    ".chart circle{stroke:var(--mul);stroke-width:2;fill:none}.chart .m{fill:var(--mul)}"
    ".chart .broke{stroke:var(--att)}.chart .broke.m{fill:var(--att)}.chart "
    ".best{stroke:var(--norm);fill:var(--norm)}"
    ".chart .u{stroke:var(--move)}.chart .axis{stroke:var(--line);opacity:1}"
    ".chart .limit{stroke:var(--att);stroke-dasharray:5 4;opacity:1}"
    ".warn{border-left:4px solid var(--att);padding:.3rem .8rem;background:var(--band);margin:.4rem 0}"
    ".pair{display:grid;grid-template-columns:max-content 1fr max-content;gap:.2rem 1rem;align-items:center;"
    "max-width:44rem}.pair i{display:block;height:.9rem;background:var(--mul);border-radius:2px}"
    ".pair i.now{background:var(--norm)}.pair i.predicted{background:none;box-shadow:inset 0 0 0 2px "
    "var(--mul)}"
    ".pair i.now.predicted{box-shadow:inset 0 0 0 2px var(--norm)}</style>\n";

/* ---- before and after ---- */

static void write_pair(Text *t, const char *what, double before, double after, const char *unit,
                       bool measured) {
    double most = before > after ? before : after;
    const char *how = measured ? "measured" : "predicted";
    text_printf(
        t,
        "<span>%s before</span><i class=\"%s\" style=\"width:%.1f%%\"></i><span class=n>%.4g %s, %s</span>\n",
        what, how, most > 0 ? 100 * before / most : 0, before, unit, how);
    text_printf(
        t,
        "<span>after</span><i class=\"now %s\" style=\"width:%.1f%%\"></i><span class=n>%.4g %s, %s</span>\n",
        how, most > 0 ? 100 * after / most : 0, after, unit, how);
}

static void write_pairs(Text *t, const Lossy *l, const CompileResult *r, Arena *a) {
    text_add(t, "<section id=size><h2>size and speed</h2><div class=pair>\n");
    write_pair(t, "weights", (double)l->exact_bits / 8e6, (double)r->pack.weight_bytes / 1e6, "MB", true);
    if (l->speed[0] > 0 && l->speed[1] > 0)
        write_pair(t, "decode on this CPU", l->speed[0], l->speed[1], "tokens/s", true);
    for (size_t i = 0; i < r->kernels.speeds.count; i++) {
        const TargetSpeed *now = &r->kernels.speeds.data[i];
        write_pair(t, arena_printf(a, "decode on one %s", now->gpu), target_rate(&l->gpus.data[i]),
                   target_rate(now), "tokens/s", false);
    }
    text_add(t, "</div></section>\n");
}

/* ---- heat map: layers down, matrices of a layer across ---- */

typedef struct {
    int32_t layers; /* rows: -1 .. layers - 1 */
    uint32_t columns;
    uint32_t *column; /* of each site */
} Grid;

static Grid grid_of(const Lossy *l, Arena *a) {
    Grid g = {.column = arena_array_of(a, l->at.nsites, uint32_t)};
    for (size_t i = 0; i < l->at.nsites; i++)
        if (l->at.sites[i].layer >= g.layers) g.layers = l->at.sites[i].layer + 1;
    uint32_t *used = arena_array_of(a, (size_t)g.layers + 1, uint32_t);
    for (size_t i = 0; i < l->at.nsites; i++) {
        g.column[i] = used[l->at.sites[i].layer + 1]++;
        if (g.column[i] >= g.columns) g.columns = g.column[i] + 1;
    }
    return g;
}

typedef struct {
    double value, largest; /* heat */
    const char *text, *title;
} Cell;

static void write_map(Text *t, const Lossy *l, const Grid *g, const char *class, const Cell *cells) {
    text_printf(t, "<div class=wide><div class=\"map %s\">\n", class);
    for (int32_t row = -1; row < g->layers; row++) {
        text_printf(t, "<span style=\"grid-row:%d;grid-column:1\">", row + 2);
        text_printf(t, row < 0 ? "outside</span>\n" : "layer %d</span>\n", row);
    }
    for (size_t i = 0; i < l->at.nsites; i++) {
        const Cell *c = &cells[i];
        text_printf(t, "<span class=c style=\"grid-row:%d;grid-column:%u;--v:%.0f\" title=\"",
                    l->at.sites[i].layer + 2, g->column[i] + 2,
                    c->largest > 0 ? 60 * c->value / c->largest : 0);
        html_escape(t, c->title);
        text_add(t, "\">");
        html_escape(t, c->text);
        text_add(t, "</span>\n");
    }
    text_add(t, "</div></div>\n");
}

static void write_maps(Text *t, const Lossy *l, Arena *a) {
    Grid g = grid_of(l, a);
    Cell *save = arena_array_of(a, l->at.nsites, Cell), *risk = arena_array_of(a, l->at.nsites, Cell);
    double most_save = 0, most_risk = 0;
    const Trial *best = lossy_best(l);
    for (size_t i = 0; i < l->at.nsites; i++) {
        const Site *s = &l->at.sites[i];
        const SiteOption *o = &l->at.search.site[i].option[best->pick[i]],
                         *was = &l->at.search.site[i].option[0];
        const char *format = o->format ? o->format->name : "kept";
        double saved = (was->bits - o->bits) / 8;
        save[i] = (Cell){saved, 0, format,
                         arena_printf(a, "%s, %" PRId64 " x %" PRId64 ": %s, saves %s", s->name, s->rows,
                                      s->cols, format, report_bytes(a, saved))};
        risk[i] =
            (Cell){o->kl, 0, arena_printf(a, "%.1e", o->kl),
                   arena_printf(a, "%s: KL of %.2e predicted in %s; %.2e measured in %s alone", s->name,
                                o->kl, format, l->at.search.site[i].probe_kl,
                                l->at.search.site[i].probe ? l->at.search.site[i].probe->name : "none")};
        most_save = fmax(most_save, saved), most_risk = fmax(most_risk, o->kl);
    }
    for (size_t i = 0; i < l->at.nsites; i++) save[i].largest = most_save, risk[i].largest = most_risk;
    text_add(t, "<section id=benefit><h2>benefit: formats, darker where more bytes are saved</h2>\n");
    write_map(t, l, &g, "save", save);
    text_add(t, "</section><section id=risk><h2>risk: KL in nats that each matrix adds, predicted</h2>\n");
    write_map(t, l, &g, "risk", risk);
    text_add(t, "</section>\n");
}

/* ---- frontier ---- */

#define WIDE 680
#define HIGH 320
#define EDGE 56

typedef struct {
    double x0, x1, y0, y1; /* bits a weight; log10 of KL */
} Axes;

static double at_x(const Axes *a, double bits) {
    return EDGE + (bits - a->x0) / (a->x1 - a->x0) * (WIDE - EDGE - 12);
}
static double at_y(const Axes *a, double kl) {
    return HIGH - EDGE - (log10(kl) - a->y0) / (a->y1 - a->y0) * (HIGH - EDGE - 12);
}

static void axes_take(Axes *a, double bits, double kl) {
    if (!(kl > 0)) return;
    a->x0 = fmin(a->x0, bits), a->x1 = fmax(a->x1, bits);
    a->y0 = fmin(a->y0, floor(log10(kl))), a->y1 = fmax(a->y1, ceil(log10(kl)));
}

/* Every matrix in one format that all of them take: bits and predicted KL. False when some do not. */
static bool uniform(const Lossy *l, const Format *f, double *bits, double *kl) {
    *bits = (double)l->at.other_bits, *kl = 0;
    for (size_t i = 0; i < l->at.nsites; i++) {
        const SiteForecast *s = &l->at.search.site[i];
        uint32_t k = 1;
        while (k < s->n && s->option[k].format != f) k++;
        if (k == s->n) return false;
        *bits += s->option[k].bits, *kl += s->option[k].kl;
    }
    *bits /= (double)l->weights;
    return true;
}

static void write_point(Text *t, const Axes *a, const char *class, double bits, double kl,
                        const char *title) {
    if (!(kl > 0)) return;
    text_printf(t, "<circle class=\"%s\" cx=%.1f cy=%.1f r=5><title>", class, at_x(a, bits), at_y(a, kl));
    html_escape(t, title);
    text_add(t, "</title></circle>\n");
}

static void write_axes(Text *t, const Axes *a) {
    for (double y = a->y0; y <= a->y1; y++)
        text_printf(t,
                    "<path class=axis d=\"M%d %.1fH%d\"/><text x=%d y=%.1f text-anchor=end>1e%.0f</text>\n",
                    EDGE, at_y(a, pow(10, y)), WIDE - 12, EDGE - 6, at_y(a, pow(10, y)) + 4, y);
    double step = a->x1 - a->x0 > 16 ? 4 : a->x1 - a->x0 > 5 ? 1 : 0.5;
    for (double x = ceil(a->x0 / step) * step; x <= a->x1; x += step)
        text_printf(t, "<text x=%.1f y=%d text-anchor=middle>%g</text>\n", at_x(a, x), HIGH - EDGE + 18, x);
    text_printf(t,
                "<text x=%d y=%d text-anchor=middle class=s>bits a weight, of all weights</text>"
                "<text x=%d y=24 class=s>mean KL, nats a token</text>\n",
                WIDE / 2, HIGH - EDGE + 38, EDGE + 6);
}

static void write_points(Text *t, const Lossy *l, const Axes *x, Arena *a) {
    double bits, kl, weights = (double)l->weights;
    for (const Format *f = format_table; f->name; f++)
        if (uniform(l, f, &bits, &kl))
            write_point(t, x, "u", bits, kl,
                        arena_printf(a, "all %s: %.2f bits, KL %.2e (predicted)", f->name, bits, kl));
    for (size_t i = 0; i < l->at.search.trials.count; i++) {
        const Trial *tr = &l->at.search.trials.data[i];
        const char *class = i == l->at.search.best ? "m best" : tr->share > 1 ? "m broke" : "m";
        write_point(t, x, class, tr->bits / weights, tr->measured.mean_kl,
                    arena_printf(a, "trial %zu: %.3f bits, KL %.3e measured, %.0f %% of the budget%s", i + 1,
                                 tr->bits / weights, tr->measured.mean_kl, 100 * tr->share,
                                 i == l->at.search.best ? ", kept" : ""));
    }
}

static void write_frontier(Text *t, const Lossy *l, Arena *a) {
    Axes x = {INFINITY, -INFINITY, INFINITY, -INFINITY};
    double bits, kl;
    for (const Format *f = format_table; f->name; f++)
        if (uniform(l, f, &bits, &kl)) axes_take(&x, bits, kl);
    for (size_t i = 0; i < l->at.search.trials.count; i++)
        axes_take(&x, l->at.search.trials.data[i].bits / (double)l->weights,
                  l->at.search.trials.data[i].measured.mean_kl);
    if (!(x.x1 > x.x0) || !(x.y1 > x.y0)) return;
    x.x0 = floor(x.x0 * 2) / 2, x.x1 = ceil(x.x1 * 2) / 2;
    text_printf(t,
                "<section id=frontier><h2>size against risk</h2><div class=wide><svg class=chart width=%d "
                "height=%d>\n",
                WIDE, HIGH);
    write_axes(t, &x);
    if (l->plan.budget.kind == BUDGET_KL && log10(l->plan.budget.value) >= x.y0 &&
        log10(l->plan.budget.value) <= x.y1)
        text_printf(t, "<path class=limit d=\"M%d %.1fH%d\"/>\n", EDGE, at_y(&x, l->plan.budget.value),
                    WIDE - 12);
    write_points(t, l, &x, a);
    text_add(t, "</svg></div><p class=s>Filled: measured; green: this build; red: broke the budget and was "
                "rolled back. "
                "Hollow, grey: every matrix in one format, predicted. Dashed: the budget.</p></section>\n");
}

/* ---- the page ---- */

const char *lossy_page(const Lossy *l, const CompileResult *r, Arena *a) {
    Text t = text_new(a);
    Report report = report_new(a);
    lossy_report(l, r, &report);
    page_begin(&t, arena_printf(a, "%s, compressed", l->opt.model_path));
    text_add(&t, style);
    for (size_t i = 0; i < l->warnings.count; i++) {
        text_add(&t, "<p class=warn>");
        html_escape(&t, l->warnings.data[i]);
        text_add(&t, "</p>\n");
    }
    write_pairs(&t, l, r, a);
    if (l->at.search.trials.count) {
        write_frontier(&t, l, a);
        write_maps(&t, l, a);
    }
    report_html(&report, &t);
    page_end(&t);
    return t.data;
}
