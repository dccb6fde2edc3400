/* inspect_artifact.c: sections, plan and tensors of a compiled model. */
#include "tools/inspect_artifact.h"

#include <inttypes.h>
#include <string.h>

static const struct {
    const char *name;
    uint32_t inputs;
} kernels[] = {
#define ART_KERNEL(e, text, nin, doc) {text, nin},
    ART_KERNEL_LIST(ART_KERNEL)
#undef ART_KERNEL
};

static const char *section_name(uint32_t kind) {
    static const char *const names[] = {"?",          "meta",    "tensors", "weights", "plan",    "tokenizer",
                                        "provenance", "kernels", "report",  "ir",      "function"};
    return kind < COUNT_OF(names) ? names[kind] : "?";
}

const uint8_t *art_section(const ArtView *v, uint32_t kind, size_t *bytes) {
    for (uint32_t i = 0; i < v->nsections; i++)
        if (v->sections[i].kind == kind) {
            *bytes = (size_t)v->sections[i].bytes;
            return v->file.data + v->sections[i].offset;
        }
    *bytes = 0;
    return NULL;
}

bool art_view_open(ArtView *v, const char *path, Diag *d) {
    size_t n;
    if (!file_map(path, &v->file, d)) return false;
    const ArtHeader *h = (const ArtHeader *)(const void *)v->file.data;
    v->sections = (const ArtSection *)(const void *)(h + 1);
    v->nsections = h->n_sections;
    v->meta = (const ArtMeta *)(const void *)art_section(v, ART_META, &n);
    v->text = (const char *)(v->meta + 1);
    v->plan = (const ArtPlan *)(const void *)art_section(v, ART_PLAN, &n);
    if (v->plan) {
        v->states = (const ArtState *)(const void *)(v->plan + 1);
        v->steps = (const ArtStep *)(const void *)(v->states + v->plan->n_states);
        v->insns = (const ArtInsn *)(const void *)(v->steps + v->plan->n_steps);
    }
    v->function = (const ArtFunction *)(const void *)art_section(v, ART_FUNCTION, &n);
    v->tensors = (const ArtTensor *)(const void *)art_section(v, ART_TENSORS, &n);
    v->ntensors = n / sizeof(ArtTensor);
    return true;
}

const char *art_text(const ArtView *v, uint32_t offset) {
    return offset < v->meta->text_bytes ? v->text + offset : "";
}

const char *art_dtype_text(uint32_t t) {
    static const char *const names[] = {
        "?",        "f32",        "f16",    "bf16",       "i64", "f64", "bool", "i8", "u8",
        "i16",      "u16",        "i32",    "u32",        "u64", "u4",  "u2",   "i4", "i2",
        "f8e4m3fn", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz", "u3",  "u5",  "u6"};
    return t < COUNT_OF(names) ? names[t] : "?";
}

static void report_strings(Report *r, const ArtView *v) {
    const char *s = v->text;
    for (uint32_t i = 0; i < v->meta->n_strings; i++) {
        const char *value = s + strlen(s) + 1;
        report_text(r, s, "%s", value);
        s = value + strlen(value) + 1;
    }
}

/* Lines of key=value. */
static void report_provenance(Report *r, const ArtView *v) {
    size_t n;
    const char *p = (const char *)art_section(v, ART_PROVENANCE, &n);
    report_section(r, "provenance", "provenance");
    while (p && n > 0) {
        const char *end = memchr(p, '\n', n);
        size_t line = end ? (size_t)(end - p) : n;
        const char *is = memchr(p, '=', line);
        if (is)
            report_text(r, arena_strndup(r->arena, p, (size_t)(is - p)), "%.*s", (int)(p + line - is - 1),
                        is + 1);
        p += line + (end != NULL);
        n -= line + (end != NULL);
    }
}

void art_report_summary(Report *r, const ArtView *v) {
    const ArtMeta *m = v->meta;
    report_section(r, "model", "model");
    report_text(r, "path", "%s", v->file.path);
    report_number(r, "bytes", (double)v->file.bytes, "%s", report_bytes(r->arena, (double)v->file.bytes));
    report_text(r, "format", "%u.%u", ART_MAJOR, ART_MINOR);
    report_text(r, "kind", "%s",
                !v->function ? "a GPT with a cache"
                : m->vocab   ? "a GPT without a cache"
                             : "a function");
    if (m->vocab) {
        report_number(r, "vocabulary", m->vocab, "%u", m->vocab);
        report_number(r, "context", m->context, "%u", m->context);
        report_number(r, "attention layers", m->layers, "%u", m->layers);
        report_number(r, "cache a token", (double)m->state_bytes_per_token, "%s",
                      report_bytes(r->arena, (double)m->state_bytes_per_token));
    }
    if (v->plan) {
        report_number(r, "steps", v->plan->n_steps, "%u", v->plan->n_steps);
        report_number(r, "activations a row", (double)v->plan->row_bytes, "%" PRIu64 " bytes",
                      v->plan->row_bytes);
    }
    report_strings(r, v);
    report_provenance(r, v);
    report_section(r, "sections", "sections");
    for (uint32_t i = 0; i < v->nsections; i++) {
        const ArtSection *s = &v->sections[i];
        report_row(r);
        report_text(r, "section", "%s", section_name(s->kind));
        report_number(r, "offset", (double)s->offset, "at %" PRIu64, s->offset);
        report_number(r, "bytes", (double)s->bytes, "%" PRIu64 " bytes", s->bytes);
        report_text(r, "hash", "xxh64 %016" PRIx64, s->hash);
    }
    if (!v->plan) return;
    uint32_t per[ART_K_COUNT] = {0};
    for (uint32_t i = 0; i < v->plan->n_steps; i++) per[v->steps[i].kernel]++;
    report_section(r, "kernels", "steps by kernel");
    for (uint32_t i = 0; i < ART_K_COUNT; i++)
        if (per[i]) report_number(r, kernels[i].name, per[i], "%u", per[i]);
}

/* ---- plan ---- */

static void add_arg(Text *t, const ArtView *v, const ArtArg *a) {
    switch (a->kind) {
    case ART_ARG_ROWS: text_printf(t, "row+%" PRIu64 "[%u]", a->value, a->width); break;
    case ART_ARG_TENSOR: text_printf(t, "t%" PRIu64, a->value); break;
    case ART_ARG_STATE:
        text_printf(t, "state%" PRIu64 "(%s)", a->value, art_text(v, v->states[a->value].name_offset));
        break;
    case ART_ARG_TOKENS: text_add(t, "tokens"); break;
    case ART_ARG_POSITIONS: text_add(t, "positions"); break;
    default: text_add(t, "_"); break;
    }
}

static void add_params(Text *t, const ArtView *v, const ArtStep *s) {
    static const char *const acts[] = {"none", "relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid"};
    static const char *const insns[] = {
#define ART_INSN(e, n) #e,
        ART_INSN_LIST(ART_INSN)
#undef ART_INSN
    };
    switch (s->kernel) {
    case ART_K_LINEAR:
        text_printf(t, "{k=%u n=%u act=%s", s->u.linear.k, s->u.linear.n, acts[s->u.linear.act]);
        if (s->u.linear.round) text_printf(t, " round=%u", s->u.linear.round);
        text_add(t, "}");
        break;
    case ART_K_NORM:
        text_printf(t, "{%u x %u %s eps=%g}", s->u.norm.groups, s->u.norm.width,
                    s->u.norm.rms ? "rms" : "layer", (double)s->u.norm.eps);
        break;
    case ART_K_ROPE:
        text_printf(t, "{%u x %u, first %u, %s}", s->u.rope.heads, s->u.rope.dim, s->u.rope.rotated,
                    s->u.rope.interleaved ? "interleaved" : "halves");
        break;
    case ART_K_ATTENTION:
        text_printf(t, "{heads=%u/%u dim=%u/%u scale=%g window=%u softcap=%g}", s->u.attention.heads,
                    s->u.attention.kv_heads, s->u.attention.dim, s->u.attention.vdim,
                    (double)s->u.attention.scale, s->u.attention.window, (double)s->u.attention.softcap);
        break;
    case ART_K_ROUTED:
        text_printf(t, "{%u experts, %u slots, k=%u n=%u act=%s}", s->u.routed.experts, s->u.routed.slots,
                    s->u.routed.k, s->u.routed.n, acts[s->u.routed.act]);
        break;
    case ART_K_POINTWISE:
        text_add(t, "{");
        for (uint32_t i = 0; i < s->u.pointwise.count; i++)
            text_printf(t, "%s%s", i ? " " : "", insns[v->insns[s->u.pointwise.first + i].op]);
        text_add(t, "}");
        break;
    default: break;
    }
}

static void report_steps(Report *r, const ArtView *v) {
    report_section(r, "steps", "steps");
    for (uint32_t i = 0; i < v->plan->n_steps; i++) {
        const ArtStep *s = &v->steps[i];
        Text args = text_new(r->arena), params = text_new(r->arena), out = text_new(r->arena);
        uint32_t inputs = kernels[s->kernel].inputs;
        for (uint32_t k = 0; k < inputs; k++) {
            if (k) text_add(&args, " ");
            add_arg(&args, v, &s->arg[k]);
        }
        if (s->arg[inputs].kind) {
            text_add(&out, "-> ");
            add_arg(&out, v, &s->arg[inputs]);
        }
        add_params(&params, v, s);
        if (i == v->plan->head_step) {
            report_row(r);
            report_text(r, "step", "%s", "");
            report_text(r, "kernel", "----");
            report_text(r, "inputs", "from here on only rows whose logits are wanted");
        }
        report_row(r);
        report_number(r, "step", i, "%u", i);
        report_text(r, "kernel", "%s", kernels[s->kernel].name);
        report_text(r, "inputs", "%s", args.count ? args.data : "");
        report_text(r, "result", "%s", out.count ? out.data : "");
        report_text(r, "parameters", "%s", params.count ? params.data : "");
    }
}

void art_report_plan(Report *r, const ArtView *v) {
    if (v->plan) report_steps(r, v);
    if (v->function) art_report_function(r, v);
}

void art_report_tensors(Report *r, const ArtView *v) {
    report_section(r, "tensors", "tensors");
    for (size_t i = 0; i < v->ntensors; i++) {
        const ArtTensor *t = &v->tensors[i];
        Text dims = text_new(r->arena);
        text_add(&dims, "[");
        for (uint32_t k = 0; k < t->rank; k++) text_printf(&dims, "%s%" PRIu64, k ? ", " : "", t->dim[k]);
        text_add(&dims, "]");
        report_row(r);
        report_text(r, "tensor", "t%zu", i);
        report_text(r, "dtype", "%s", art_dtype_text(t->dtype));
        report_text(r, "layout", "%s",
                    t->layout == ART_GROUP16   ? arena_printf(r->arena, "group16/%u", t->group)
                    : t->layout == ART_PANEL16 ? "panel16"
                                               : "plain");
        report_text(r, "shape", "%s", dims.data);
        double count = 1;
        for (uint32_t k = 0; k < t->rank; k++) count *= (double)t->dim[k];
        report_number(r, "bits", 8 * (double)t->bytes / (count > 0 ? count : 1), "%.2f bits",
                      8 * (double)t->bytes / (count > 0 ? count : 1));
        report_number(r, "bytes", (double)t->bytes, "%" PRIu64 " bytes", t->bytes);
        report_text(r, "name", "%s", art_text(v, t->name_offset));
    }
}

Bar *art_bars(const ArtView *v, Arena *a) {
    Bar *bars = arena_array_of(a, v->ntensors, Bar);
    for (size_t i = 0; i < v->ntensors; i++) {
        const char *name = art_text(v, v->tensors[i].name_offset);
        bars[i] = (Bar){arena_printf(a, "t%zu %s", i, name), (double)v->tensors[i].bytes};
    }
    return bars;
}
