#include "tools/target.h"

#include <inttypes.h>
#include <string.h>

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

/* ---- speed ---- */

double target_rate(const TargetSpeed *s) {
    double seconds = s->graph.seconds;
    if (s->persistent.seconds > 0 && s->persistent.seconds < seconds) seconds = s->persistent.seconds;
    return 1 / seconds;
}

static bool has_code(const Targets *t, uint32_t arch) {
    for (uint32_t i = 0; t && i < t->n_cuda; i++)
        if (t->cuda[i].arch == arch || (t->cuda[i].ptx && t->cuda[i].arch < arch)) return true;
    return !t;
}

/* t NULL: all GPUs. */
static void speeds_of(const Targets *t, const CudaProgram *c, const Program *p, double part, Arena *a,
                      TargetSpeeds *out) {
    CostPlan plan = cost_plan(p, p->meta.context, a);
    plan.launches = cuda_launches(c);
    plan.part = part;
    for (const CostTarget *gpu = cost_targets; gpu->name; gpu++) {
        CostStep s;
        if (!has_code(t, gpu->arch)) continue;
        cost_step(gpu, &plan, &s);
        TargetSpeed x = {.gpu = gpu->name, .arch = gpu->arch, .launches = s.launches, .graph = s.graph};
        if (c->decode.function != UINT32_MAX && gpu->arch >= 90) x.persistent = s.persistent;
        VEC_PUSH(a, out, x);
    }
}

bool targets_speed(const Targets *t, Graph *g, const Program *p, Arena *a, TargetSpeeds *out, Diag *d) {
    CudaProgram c;
    if (!cuda_emit(g, p, &t->options, a, &c, d)) return false;
    speeds_of(t, &c, p, 1, a, out);
    return true;
}

/* What is read does not depend on who reads. */
static void predict_cpu(const CostPlan *plan, const CpuRate *cpu, const char *what, Text *t) {
    CostStep s;
    cost_step(cost_targets, plan, &s);
    text_printf(t, "%sdecode: reads %.4g MB of weights and %.4g MB of cache a token at context %" PRIu32 "\n",
                what, s.weight_bytes / 1e6, s.cache_bytes / 1e6, plan->context);
    if (cpu->rate > 0)
        text_printf(
            t,
            "%sdecode on this CPU, predicted: at most %.4g tokens/s out of memory, from which %" PRId64
            " thread%s read %.3g GB/s just now\n",
            what, cpu->rate / (s.weight_bytes + s.cache_bytes), cpu->threads, cpu->threads == 1 ? "" : "s",
            cpu->rate * 1e-9);
}

static void predict_gpu(const TargetSpeed *s, uint32_t context, const char *what, Text *t) {
    text_printf(t,
                "%sdecode on one %s at context %" PRIu32
                ", predicted: %.0f tokens/s as a graph of %u kernels (%s bound)",
                what, s->gpu, context, 1 / s->graph.seconds, s->launches, cost_bound_text(s->graph.bound));
    if (s->persistent.seconds > 0)
        text_printf(t, ", %.0f as one kernel (%s bound)", 1 / s->persistent.seconds,
                    cost_bound_text(s->persistent.bound));
    text_add(t, "\n");
}

void targets_predict(Graph *g, const Program *p, const CpuRate *cpu, double part, const char *what, Arena *a,
                     Text *t) {
    CudaProgram cuda;
    Diag why;
    TargetSpeeds speeds = {0};
    CostPlan plan = cost_plan(p, p->meta.context, a);
    plan.part = part;
    predict_cpu(&plan, cpu, what, t);
    diag_init(&why);
    bool runs = cuda_emit(g, p, &(CudaOptions){0}, a, &cuda, &why);
    diag_free(&why);
    if (!runs) return;
    if (cuda.decode.function == UINT32_MAX)
        text_printf(t, "%sno persistent kernel for %s\n", what, cuda.decode.unable);
    speeds_of(NULL, &cuda, p, part, a, &speeds);
    for (size_t i = 0; i < speeds.count; i++) predict_gpu(&speeds.data[i], p->meta.context, what, t);
}

/* ---- kernels ---- */

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
    speeds_of(t, &c, p, 1, a, &stats->speeds);
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
