/* plan.c: what was decided, as text, and what it was decided for.
 *
 *   gptc-plan 1
 *   model 00ff00ff00ff00ff
 *   budget kl=0.01
 *   calibration 128 x 256 00ff00ff00ff00ff
 *   step neurons block=5 amount=64          (step_print)
 *   cache q8                                (cache_round)
 *   activations q8                          (site_round)
 *   site 1024 x 256 q6g64 "wte"             (keep = stays as it is)
 *
 * The text comes from outside: lines and numbers are checked before they are used, and the whole is checked against
 * the model before anything is done with it. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "passes/lossy/budget.h"

#define MOST_SITES 100000
#define MOST_STEPS 10000
#define MOST_STEP_TEXT 200

uint64_t graph_fingerprint(Graph *g) {
    HashState h;
    hash_init(&h, 1);
    for (uint32_t v = 1; v < g->values.count; v++) {
        if (g->values.data[v].kind != V_CONST) continue;
        uint64_t at[2] = {v, const_hash(g, (ValId){v})};
        hash_update(&h, at, sizeof at);
    }
    FOR_NODES (g, id) {
        const Node *n = graph_node(g, id);
        const char *op = op_info(n->op)->name;
        hash_update(&h, op, strlen(op) + 1);
        for (uint32_t i = 0; i < n->nin; i++) hash_update(&h, &n->in[i].id, sizeof n->in[i].id);
    }
    return hash_final(&h);
}

PlanText windows_fingerprint(const Windows *w) {
    size_t count = (size_t)(w->windows * w->length);
    return (PlanText){w->windows, w->length, count ? hash_bytes(w->id, count * sizeof *w->id, 1) : 0};
}

/* ---- print ---- */

/* Names are for people: what would need an escape becomes '?'. */
static void print_name(Text *t, const char *name) {
    text_add(t, "\"");
    for (; *name; name++) {
        unsigned char c = (unsigned char)*name;
        text_addn(t, c < 0x20 || c == '"' || c == '\\' || c == 0x7f ? "?" : name, 1);
    }
    text_add(t, "\"");
}

void plan_print(Text *t, const LossyPlan *p) {
    text_printf(t, "gptc-plan 1\nmodel %016" PRIx64 "\nbudget ", p->model);
    budget_print(t, p->budget);
    text_printf(t, "\ncalibration %" PRId64 " x %" PRId64 " %016" PRIx64 "\n", p->calibration.windows,
                p->calibration.length, p->calibration.hash);
    for (size_t i = 0; i < p->steps.count; i++) text_printf(t, "step %s\n", p->steps.data[i]);
    if (p->cache) text_add(t, "cache q8\n");
    if (p->activations) text_add(t, "activations q8\n");
    for (size_t i = 0; i < p->sites.count; i++) {
        const PlanSite *s = &p->sites.data[i];
        text_printf(t, "site %" PRId64 " x %" PRId64 " %s ", s->rows, s->cols,
                    s->format ? s->format->name : "keep");
        print_name(t, s->name);
        text_add(t, "\n");
    }
}

/* ---- parse ---- */

typedef struct {
    const char *at, *end; /* of the line */
    uint32_t line;
    const char *path;
    Arena *arena;
    Diag *diag;
} Reader;

static bool fail(const Reader *r, const char *what) {
    return diag_error(r->diag, (Loc){.kind = LOC_TEXT, .line = r->line, .column = 1, .name = r->path},
                      "%s; hint: gptc --plan-out writes plans", what);
}

/* The next word of the line, up to 63 characters, in the arena; "" at the end, or NULL when too long. */
static const char *word(Reader *r) {
    while (r->at < r->end && *r->at == ' ') r->at++;
    const char *start = r->at;
    while (r->at < r->end && *r->at != ' ') r->at++;
    return r->at - start > 63 ? NULL : arena_strndup(r->arena, start, (size_t)(r->at - start));
}

static bool number(Reader *r, int64_t least, int64_t *out) {
    const char *w = word(r);
    if (!w || !*w || strspn(w, "0123456789") != strlen(w) || strlen(w) > 15) return false;
    *out = strtoll(w, NULL, 10);
    return *out >= least;
}

static bool hash(Reader *r, uint64_t *out) {
    const char *w = word(r);
    if (!w || strlen(w) != 16 || strspn(w, "0123456789abcdef") != 16) return false;
    *out = strtoull(w, NULL, 16);
    return true;
}

static bool is_word(Reader *r, const char *expected) {
    const char *w = word(r);
    return w && !strcmp(w, expected);
}

static bool quoted(Reader *r, const char **out) {
    while (r->at < r->end && *r->at == ' ') r->at++;
    if (r->end - r->at < 2 || *r->at != '"' || r->end[-1] != '"') return false;
    size_t n = (size_t)(r->end - r->at) - 2;
    if (memchr(r->at + 1, '"', n) || memchr(r->at + 1, 0, n)) return false;
    *out = arena_strndup(r->arena, r->at + 1, n);
    r->at = r->end;
    return true;
}

static bool parse_site(Reader *r, LossyPlan *p) {
    PlanSite s = {0};
    if (p->sites.count >= MOST_SITES) return fail(r, "too many sites");
    if (!number(r, 1, &s.rows) || !is_word(r, "x") || !number(r, 1, &s.cols))
        return fail(r, "a site is: site ROWS x COLS FORMAT \"NAME\"");
    const char *format = word(r);
    if (!format) return fail(r, "no such format");
    if (strcmp(format, "keep") != 0 && !(s.format = format_find(format))) return fail(r, "no such format");
    if (!quoted(r, &s.name)) return fail(r, "the name of a site stands in quotes");
    VEC_PUSH(r->arena, &p->sites, s);
    return true;
}

/* The rest of the line; what it means is checked against the graph, later. */
static bool parse_step(Reader *r, LossyPlan *p) {
    while (r->at < r->end && *r->at == ' ') r->at++;
    size_t n = (size_t)(r->end - r->at);
    if (p->steps.count >= MOST_STEPS) return fail(r, "too many steps");
    if (n == 0 || n > MOST_STEP_TEXT || memchr(r->at, 0, n)) return fail(r, "no such step");
    const char *step = arena_strndup(r->arena, r->at, n);
    VEC_PUSH(r->arena, &p->steps, step);
    r->at = r->end;
    return true;
}

static bool parse_line(Reader *r, LossyPlan *p) {
    const char *what = word(r);
    if (!what) return fail(r, "no such line in a plan");
    bool ok;
    if (!strcmp(what, "model")) {
        ok = hash(r, &p->model) || fail(r, "a model is named by 16 hexadecimal digits");
    } else if (!strcmp(what, "budget")) {
        const char *budget = word(r);
        ok = budget ? budget_parse(budget, &p->budget, r->diag) : fail(r, "no budget");
    } else if (!strcmp(what, "calibration")) {
        PlanText *c = &p->calibration;
        ok =
            (number(r, 0, &c->windows) && is_word(r, "x") && number(r, 0, &c->length) && hash(r, &c->hash)) ||
            fail(r, "calibration is: calibration WINDOWS x LENGTH HASH");
    } else if (!strcmp(what, "step")) {
        ok = parse_step(r, p);
    } else if (!strcmp(what, "cache")) {
        ok = p->cache = is_word(r, "q8") || fail(r, "a cache other than in fp32 is: cache q8");
    } else if (!strcmp(what, "activations")) {
        ok = p->activations =
            is_word(r, "q8") || fail(r, "activations other than in fp32 are: activations q8");
    } else {
        ok = !strcmp(what, "site") ? parse_site(r, p) : fail(r, "no such line in a plan");
    }
    return ok && (is_word(r, "") || fail(r, "more on the line than belongs there"));
}

bool plan_parse(const char *text, size_t bytes, const char *path, Arena *a, LossyPlan *out, Diag *d) {
    static const char first[] = "gptc-plan 1\n";
    Reader r = {.path = path, .arena = a, .diag = d, .line = 1};
    *out = (LossyPlan){0};
    if (bytes < sizeof first - 1 || memcmp(text, first, sizeof first - 1) != 0)
        return fail(&r, "is no plan of this version");
    for (const char *at = text + sizeof first - 1, *end = text + bytes; at < end; at = r.end + 1) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        r.at = at, r.end = stop ? stop : end, r.line++;
        if (r.at < r.end && !parse_line(&r, out)) return false;
    }
    if (out->budget.kind == BUDGET_NONE) return fail(&r, "the plan names no budget");
    return true;
}

/* ---- check ---- */

bool plan_fits(const LossyPlan *p, Graph *exact, const Windows *calibration, const char *path, Diag *d) {
    Loc at = loc_file(path);
    PlanText text = windows_fingerprint(calibration);
    if (p->model != graph_fingerprint(exact))
        return diag_error(
            d, at,
            "is the plan of another model or of other passes; hint: a plan repeats a compile of the "
            "same model with the same options");
    if (text.hash != p->calibration.hash || text.windows != p->calibration.windows ||
        text.length != p->calibration.length)
        return diag_error(d, at,
                          "was made with another calibration text; hint: give --calibrate the same file");
    return true;
}

bool plan_fits_sites(const LossyPlan *p, const Site *sites, size_t n, const char *path, Diag *d) {
    Loc at = loc_file(path);
    if (p->sites.count != n) return diag_error(d, at, "has %zu sites, the model %zu", p->sites.count, n);
    for (size_t i = 0; i < n; i++)
        if (p->sites.data[i].rows != sites[i].rows || p->sites.data[i].cols != sites[i].cols)
            return diag_error(d, at,
                              "site %zu is %" PRId64 " x %" PRId64 ", in the model %" PRId64 " x %" PRId64, i,
                              p->sites.data[i].rows, p->sites.data[i].cols, sites[i].rows, sites[i].cols);
    return true;
}
