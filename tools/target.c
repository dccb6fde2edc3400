#include "tools/target.h"

#include <inttypes.h>
#include <string.h>

#include "codegen/cuda/cost.h"

static const CudaArch common[] = {
    {80, false, false}, {90, false, false}, {100, false, false}, {100, false, true}};

bool targets_parse(const char *text, Targets *out, Diag *d) {
    out->text = text;
    for (const char *at = text; at && *at;) {
        size_t n = strcspn(at, ",");
        bool ok = n == 3 && !memcmp(at, "cpu", 3);
        if (n == 4 && !memcmp(at, "cuda", 4)) {
            ok = out->n_cuda == 0;
            memcpy(out->cuda, common, sizeof common);
            out->n_cuda = sizeof common / sizeof *common;
        } else if (n > 5 && !memcmp(at, "cuda:", 5) && out->n_cuda < TARGETS_MAX) {
            ok = cuda_arch_parse(at + 5, n - 5, &out->cuda[out->n_cuda]);
            out->n_cuda += ok;
        }
        if (!ok)
            return diag_error(
                d, loc_none(),
                "--target %s: takes cpu, cuda, cuda:sm_80 and above (sm_90a too) and cuda:compute_90, "
                "with commas between, at most %d",
                text, TARGETS_MAX);
        at += n + (at[n] == ',');
    }
    return true;
}

bool targets_compile(const Targets *t, Graph *g, const Program *p, Arena *a, const void **data, size_t *bytes,
                     KernelStats *stats, Diag *d) {
    CudaProgram c;
    CudaImage image[TARGETS_MAX];
    *stats = (KernelStats){0};
    if (p->function)
        return diag_error(d, loc_none(),
                          "--target %s: a graph without a cache runs on the CPU alone; hint: leave cuda out",
                          t->text);
    if (!cuda_emit(g, p, &t->options, a, &c, d) ||
        !nvrtc_compile(&c, t->cuda, t->n_cuda, &t->nvrtc, a, image, d))
        return false;
    cuda_section(&c, image, t->n_cuda, t->source, a, data, bytes);
    stats->functions = (uint32_t)c.functions.count;
    stats->launches = (uint32_t)c.launches.count;
    stats->bytes = *bytes;
    stats->no_decode = c.decode.function == UINT32_MAX ? c.decode.unable : NULL;
    for (const char *s = c.source.data; *s; s++) stats->lines += *s == '\n';
    for (uint32_t i = 0; i < t->n_cuda; i++) {
        stats->cached += image[i].cached;
        stats->seconds += image[i].seconds;
    }
    for (size_t i = 0; i < c.functions.count; i++) {
        ArtCudaFunction f = {0};
        stats->spills += nvrtc_usage(image[0].log, c.functions.data[i].name, &f) && f.spill_bytes > 0;
    }
    return true;
}

void targets_predict(Graph *g, const Program *p, int64_t ctx, Arena *a, Text *t) {
    CudaProgram cuda;
    Diag why;
    diag_init(&why);
    bool runs = cuda_emit(g, p, &(CudaOptions){0}, a, &cuda, &why);
    diag_free(&why);
    if (!runs) return;
    if (cuda.decode.function == UINT32_MAX)
        text_printf(t, "no persistent kernel for %s\n", cuda.decode.unable);
    CostPlan plan = cost_plan(p, (uint32_t)ctx, a);
    plan.launches = cuda_launches(&cuda);
    for (const CostTarget *c = cost_targets; c->name; c++) {
        CostStep s;
        cost_step(c, &plan, &s);
        text_printf(t,
                    "decode on one %s at context %" PRId64
                    ", predicted: %.0f tokens/s as a graph of %u kernels (%s bound)",
                    c->name, ctx, 1 / s.graph.seconds, s.launches, cost_bound_text(s.graph.bound));
        if (cuda.decode.function != UINT32_MAX && c->arch >= 90)
            text_printf(t, ", %.0f as one kernel (%s bound)", 1 / s.persistent.seconds,
                        cost_bound_text(s.persistent.bound));
        text_add(t, "\n");
    }
}
