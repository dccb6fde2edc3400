#include "tools/page.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tools/doctor_arch.h"

static const char style[] =
    ":root{color-scheme:light dark;--page:#fff;--text:#1c2430;--soft:#5b6675;--line:#d8dde4;--band:#f3f5f8;"
    "--mul:#2f6fb5;--att:#b5542f;--norm:#3d8a4f;--elem:#7a5ea8;--move:#8b95a3}"
    "@media(prefers-color-scheme:dark){:root{--page:#14181e;--text:#e2e7ee;--soft:#98a3b2;--line:#333c48;"
    "--band:#1d232b;--mul:#6ba8ea;--att:#ee9068;--norm:#76c78a;--elem:#b79ce6;--move:#7d8896}}"
    "body{margin:0 auto;padding:1.5rem;max-width:72rem;background:var(--page);color:var(--text);"
    "font:15px/1.5 system-ui,sans-serif}"
    "h1{font-size:1.5rem;overflow-wrap:anywhere}h2{font-size:1.1rem;margin:2rem 0 .5rem}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.5rem;margin:0}dt{color:var(--soft)}"
    "dd{margin:0;overflow-wrap:anywhere}.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}"
    "th{text-align:left;color:var(--soft);font-weight:500}th,td{padding:.2rem 1rem .2rem "
    "0;vertical-align:top;"
    "border-bottom:1px solid var(--line)}.n{text-align:right;font-variant-numeric:tabular-nums}"
    ".bars{display:grid;grid-template-columns:minmax(8rem,24rem) 6rem 1fr;gap:.15rem 1rem;font-size:.9rem}"
    ".bars span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}.bars i{display:block;height:.7rem;"
    "margin-top:.35rem;min-width:1px;background:var(--mul);border-radius:2px}"
    "details{background:var(--band);border-radius:6px;margin:.5rem 0;padding:.4rem .8rem;overflow-x:auto}"
    "summary{cursor:pointer}svg{display:block;font:12.5px ui-monospace,monospace;margin-top:.4rem}"
    "text{fill:var(--text)}.s{fill:var(--soft)}path{fill:none;stroke:var(--soft);stroke-width:1.2;opacity:.6}"
    ".mul{fill:var(--mul)}.att{fill:var(--att)}.norm{fill:var(--norm)}.elem{fill:var(--elem)}.move{fill:var(-"
    "-move)}";

void page_begin(Text *t, const char *title) {
    text_add(t, "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>"
                "<meta name=viewport content=\"width=device-width\"><title>");
    html_escape(t, title);
    text_printf(t, "</title>\n<style>%s</style></head><body>\n<h1>", style);
    html_escape(t, title);
    text_add(t, "</h1>\n");
}

void page_end(Text *t) { text_add(t, "</body></html>\n"); }

/* ---- bars ---- */

#define BARS 40

static int bar_order(const void *a, const void *b) {
    double x = ((const Bar *)a)->bytes, y = ((const Bar *)b)->bytes;
    return (x < y) - (x > y);
}

static void write_bar(Text *t, const Bar *b, double most, Arena *a) {
    text_add(t, "<span title=\"");
    html_escape(t, b->label);
    text_add(t, "\">");
    html_escape(t, b->label);
    text_printf(t, "</span><span class=n>%s</span><i style=\"width:%.1f%%\"></i>\n",
                report_bytes(a, b->bytes), most > 0 ? 100 * b->bytes / most : 0);
}

void page_bars(Text *t, const char *title, Bar *bars, size_t n, Arena *a) {
    if (n == 0) return;
    qsort(bars, n, sizeof *bars, bar_order);
    text_printf(t, "<section><h2>%s</h2>\n<div class=bars>\n", title);
    for (size_t i = 0; i < n && i < BARS; i++) write_bar(t, &bars[i], bars[0].bytes, a);
    Bar rest = {arena_printf(a, "%zu more", n - BARS), 0};
    for (size_t i = BARS; i < n; i++) rest.bytes += bars[i].bytes;
    if (n > BARS) write_bar(t, &rest, bars[0].bytes > rest.bytes ? bars[0].bytes : rest.bytes, a);
    text_add(t, "</div></section>\n");
}

/* ---- the graph ---- */

#define ROW 20
#define LANES 12 /* lines beside one another, for values that are read further down */

typedef struct {
    Arch arch;
    NodeId *node; /* live nodes in order */
    size_t count;
    uint32_t *layer; /* of each: 0 before the first, last + 1 from the head on */
} Drawing;

static const char *colour(Op op) {
    switch (op) {
    case OP_LINEAR:
    case OP_MATMUL: return "mul";
    case OP_ATTENTION:
    case OP_SOFTMAX: return "att";
    case OP_NORM: return "norm";
    default: return op_info(op)->flags & F_MOVE ? "move" : "elem";
    }
}

static void node_words(Text *t, const Arch *a, const Node *n) {
    const Attr *x = &n->attr;
    if (n->op == OP_LINEAR) text_printf(t, "%" PRId64 " → ", arch_width(a, n->in[0]));
    type_print(t, a->g, graph_type(a->g, n->out[0]));
    if (n->op == OP_NORM) text_printf(t, " %s, epsilon %g", x->rms ? "RMS" : "layer", (double)x->eps);
    if (n->op == OP_ATTENTION) {
        text_printf(t, " scale %g%s", (double)x->scale, x->causal ? ", causal" : "");
        if (x->window) text_printf(t, ", window %" PRId64, x->window);
        if (x->softcap > 0) text_printf(t, ", soft cap %g", (double)x->softcap);
    }
}

/* What a layer computes, as text: layers with the same are drawn once. */
static const char *signature(const Drawing *d, size_t from, size_t to, Arena *a) {
    Text t = text_new(a);
    for (size_t i = from; i < to; i++) {
        const Node *n = graph_node(d->arch.g, d->node[i]);
        text_printf(&t, "%s ", op_info(n->op)->name);
        node_words(&t, &d->arch, n);
        text_add(&t, "\n");
    }
    return t.data;
}

/* The row in from..to that makes v, or to. */
static size_t row_of(const Drawing *d, ValId v, size_t from, size_t to) {
    NodeId id = val_ok(v) ? graph_def(d->arch.g, v) : NO_NODE;
    while (from < to && (!node_ok(id) || d->node[from].id != id.id)) from++;
    return from;
}

static void write_lines(Text *t, const Drawing *d, size_t from, size_t to) {
    size_t busy[LANES] = {0}; /* the row up to which a lane is taken, from 1 */
    if (to - from > 1000) return;
    for (size_t i = from; i < to; i++) {
        size_t last = i; /* the last reader below the next row */
        for (size_t k = i + 1; k < to; k++) {
            const Node *n = graph_node(d->arch.g, d->node[k]);
            for (uint32_t m = 0; m < n->nin; m++)
                if (row_of(d, n->in[m], i, i + 1) == i) last = k;
        }
        if (last == i) continue;
        size_t lane = 0, x = LANES * 8 + 6, y = (i - from) * ROW + ROW / 2;
        while (last > i + 1 && lane + 1 < LANES && busy[lane] > i) lane++;
        if (last > i + 1) busy[lane] = last;
        for (size_t k = i + 1; k <= last; k++) {
            const Node *n = graph_node(d->arch.g, d->node[k]);
            bool reads = false;
            for (uint32_t m = 0; m < n->nin; m++) reads = reads || row_of(d, n->in[m], i, i + 1) == i;
            size_t to_y = (k - from) * ROW + ROW / 2;
            if (reads && k == i + 1) text_printf(t, "<path d=\"M%zu %zuV%zu\"/>", x, y, to_y);
            if (reads && k > i + 1)
                text_printf(t, "<path d=\"M%zu %zuH%zuV%zuH%zu\"/>", x, y, x - (lane + 1) * 8, to_y, x);
        }
    }
}

static void write_layer(Text *t, const Drawing *d, size_t from, size_t to, const char *title, bool open) {
    text_printf(t, "<details%s><summary>%s, %zu nodes</summary>\n<svg width=740 height=%zu>\n",
                open ? " open" : "", title, to - from, (to - from) * ROW + 4);
    write_lines(t, d, from, to);
    for (size_t i = from; i < to; i++) {
        const Node *n = graph_node(d->arch.g, d->node[i]);
        size_t y = (i - from) * ROW + ROW / 2, x = LANES * 8 + 6;
        Text words = text_new(d->arch.a);
        node_words(&words, &d->arch, n);
        text_printf(t, "<g><title>");
        html_escape(t, graph_describe(d->arch.g, d->node[i], d->arch.a));
        text_printf(t, "</title><circle class=%s cx=%zu cy=%zu r=5 /><text x=%zu y=%zu>%s <tspan class=s>",
                    colour(n->op), x, y, x + 14, y + 4, op_info(n->op)->name);
        html_escape(t, words.data);
        text_add(t, "</tspan></text></g>\n");
    }
    text_add(t, "</svg></details>\n");
}

static void drawing_read(Drawing *d, Graph *g, Arena *a) {
    Arch *arch = &d->arch;
    *arch = (Arch){.g = g, .a = a};
    arch_read(arch);
    d->node = arena_array_of(a, g->nodes.count, NodeId);
    d->layer = arena_array_of(a, g->nodes.count, uint32_t);
    FOR_NODES (g, id) {
        if (!arch->order[id.id]) continue;
        uint32_t layer = 0;
        while (layer < arch->layers.count &&
               arch->order[id.id] >= arch->order[arch->layers.data[layer].start.id])
            layer++;
        bool tail = layer == arch->layers.count && arch->final_norm &&
                    arch->order[id.id] >= arch->order[graph_def(g, arch->final_norm->out[0]).id];
        d->layer[d->count] = layer + tail;
        d->node[d->count++] = id;
    }
}

void page_graph(Text *t, Graph *g, Arena *a) {
    Drawing d = {.count = 0};
    drawing_read(&d, g, a);
    const char *before = "";
    uint32_t layers = (uint32_t)d.arch.layers.count, like = 0;
    text_add(t, "<section id=graph><h2>graph</h2>\n");
    for (size_t i = 0, next; i < d.count; i = next) {
        for (next = i; next < d.count && d.layer[next] == d.layer[i];) next++;
        const char *now = signature(&d, i, next, a), *title;
        uint32_t layer = d.layer[i];
        if (layers == 0) {
            title = "all";
        } else if (layer == 0) {
            title = "before the layers";
        } else if (layer > layers) {
            title = "head";
        } else if (strcmp(now, before) == 0) {
            text_printf(t, "<details><summary>layer %u, like layer %u</summary></details>\n", layer - 1,
                        like);
            continue;
        } else {
            title = arena_printf(a, "layer %u", layer - 1);
            before = now;
            like = layer - 1;
        }
        write_layer(t, &d, i, next, title, next - i < 400);
    }
    text_add(t, "</section>\n");
}
