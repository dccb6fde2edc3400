/* inspect_kernels.c: the CUDA kernels of a model, as their compiler described them and as the cost model prices them. */
#include "tools/inspect_kernels.h"

#include "codegen/cuda/cost.h"

/* Launches of a function in a step of one row. */
static uint32_t launches_of(const KernelTables *k, uint32_t function) {
    uint32_t n = function == k->head->draw; /* behind the others */
    for (uint32_t i = 0; i < k->head->n_launches; i++)
        n += k->launches[i].function == function && (k->launches[i].when & ART_ROWS_1);
    return n;
}

static void report_images(Report *r, const KernelTables *k) {
    for (uint32_t i = 0; i < k->head->n_images; i++) {
        const ArtCudaImage *g = &k->images[i];
        bool ptx = g->kind == ART_IMAGE_PTX;
        report_row(r);
        report_text(r, "image", "%s_%u", ptx ? "compute" : "sm", g->arch);
        report_number(r, "bytes", (double)g->bytes, "%s", report_bytes(r->arena, (double)g->bytes));
    }
}

static void report_function(Report *r, const KernelTables *k, uint32_t i, const CostTarget *t) {
    const ArtCudaFunction *f = &k->functions[i];
    Cost c = cost_launch(t, f->bytes, f->ops, false);
    report_row(r);
    report_text(r, "kernel", "%s", k->text + f->name_offset);
    report_number(r, "threads", f->threads, "%u threads", f->threads);
    report_number(r, "registers", f->registers, "%u registers", f->registers);
    report_number(r, "shared_bytes", f->shared_bytes, "%u B shared", f->shared_bytes);
    report_number(r, "spill_bytes", f->spill_bytes, "%u B spilled", f->spill_bytes);
    report_number(r, "bytes", f->bytes, "%s", report_bytes(r->arena, f->bytes));
    report_number(r, "operations", f->ops, "%.3g op", f->ops);
    report_number(r, "seconds", c.seconds, "%.1f us", c.seconds * 1e6);
    report_text(r, "bound", "%s", cost_bound_text(c.bound));
    report_number(r, "launches", launches_of(k, i), "x %u", launches_of(k, i));
}

static void report_decode(Report *r, const KernelTables *k) {
    const ArtCuda *h = k->head;
    bool persistent = h->decode != ART_NO_INDEX;
    report_row(r);
    if (persistent)
        report_text(r, "decode", "persistent kernel, predicted to be %s than the graph",
                    h->decode_first ? "faster" : "slower");
    else
        report_text(r, "decode", "graph of kernels");
    if (!persistent && h->decode_bytes)
        report_text(r, "no_persistent_kernel", "no persistent kernel for %s", k->text + h->decode_bytes);
}

void report_kernels(Report *r, const KernelTables *k) {
    const CostTarget *t = k->head->n_images ? cost_target(k->images[0].arch) : NULL;
    if (!t) t = cost_target(90);
    report_section(r, "images", "images");
    report_images(r, k);
    report_section(r, "decode", "a step of one row");
    report_decode(r, k);
    report_section(r, "kernels", "kernels");
    report_text(r, "predicted_for", "%s; registers, shared memory and spills are those of the first image",
                t->name);
    for (uint32_t i = 0; i < k->head->n_functions; i++) report_function(r, k, i, t);
}
