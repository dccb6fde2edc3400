/* check.c: the KERNELS section, every number before use. */
#include "runtime/cuda/cuda.h"

#include <string.h>

static bool table(const uint8_t *data, uint64_t bytes, uint64_t *at, uint64_t count, size_t each,
                  const void *out) {
    if (count > (bytes - *at) / each) return false;
    const uint8_t *p = data + *at;
    memcpy((void *)(uintptr_t)out, &p, sizeof p);
    *at += count * each;
    return true;
}

static gptc_status launch_check(const gptc_model *m, const CudaKernels *k, uint32_t index, gptc_detail *why) {
    const ArtCudaLaunch *l = &k->launches[index];
    const char *bad = NULL;
    if (l->step >= m->plan->n_steps || (index && l->step < l[-1].step)) bad = "no such step";
    if (l->function >= k->head->n_functions) bad = "no such function";
    const uint32_t known = ART_ROWS_ANY | ART_CHIP_ANY | ART_RUNS_LONG | ART_RUNS_SHORT;
    if (!(l->when & ART_ROWS_ANY) || l->when & ~known || l->grid >= ART_GRID_COUNT) bad = "unknown grid";
    if (!l->blocks || l->blocks > 1 << 26 || l->n_args > ART_CUDA_MAX_ARGS) bad = "out of range";
    for (uint32_t i = 0; i < l->n_args && !bad; i++) {
        const ArtCudaArg *a = &l->arg[i];
        if (a->kind >= ART_CUDA_ARG_KINDS) bad = "unknown argument";
        if (a->kind == ART_CUDA_ROWS && (a->value % 4 || a->value >= m->plan->row_bytes))
            bad = "an argument outside the row";
        if (a->kind == ART_CUDA_TENSOR && a->value >= m->n_tensors) bad = "no such tensor";
        if (a->kind == ART_CUDA_STATE && a->value >= m->plan->n_states) bad = "no such state";
    }
    return bad ? status_fail(why, GPTC_E_FORMAT, "KERNELS: launch %u: %s", index, bad) : GPTC_OK;
}

static gptc_status decode_check(const gptc_model *m, const CudaKernels *k, gptc_detail *why) {
    const ArtCuda *h = k->head;
    bool none = h->decode == ART_NO_INDEX && !h->n_places;
    if (none && h->decode_bytes < h->text_bytes) return GPTC_OK;
    bool ok = h->decode < h->n_functions && h->decode_bytes <= 1 << 20 && h->decode_bytes % 128 == 0 &&
              h->decode_words <= LIMIT_ROW_BYTES / 8 && h->decode_first <= 1;
    for (uint32_t i = 0; i < h->n_places && ok; i++) {
        const ArtCudaPlace *p = &k->places[i];
        switch (p->kind) {
        case ART_CUDA_TENSOR: ok = p->value < m->n_tensors; break;
        case ART_CUDA_STATE: ok = p->value < m->plan->n_states; break;
        case ART_CUDA_NUMBER: ok = p->value < h->decode_bytes; break;
        default: ok = false;
        }
    }
    return ok ? GPTC_OK : status_fail(why, GPTC_E_FORMAT, "KERNELS: the persistent kernel is out of range");
}

gptc_status cuda_kernels_check(const gptc_model *m, CudaKernels *k, gptc_detail *why) {
    const uint8_t *data = m->cuda;
    uint64_t bytes = m->cuda_bytes, at = sizeof(ArtCuda);
    *k = (CudaKernels){0};
    if (!data)
        return status_fail(why, GPTC_E_UNSUPPORTED,
                           "the file has no CUDA kernels; compile it with --target cpu,cuda");
    if (bytes < at) return status_fail(why, GPTC_E_FORMAT, "KERNELS: too short");
    if (!m->plan)
        return status_fail(why, GPTC_E_FORMAT, "KERNELS: they run the steps of a PLAN, and there is none");
    k->head = m->cuda;
    k->bytes = data;
    if (k->head->interface != ART_CUDA_INTERFACE)
        return status_fail(
            why, GPTC_E_VERSION,
            "the file's CUDA kernels are made for another version of this library; hint: compile it "
            "again");
    const ArtCuda *h = k->head;
    if (!table(data, bytes, &at, h->n_images, sizeof *k->images, &k->images) ||
        !table(data, bytes, &at, h->n_functions, sizeof *k->functions, &k->functions) ||
        !table(data, bytes, &at, h->n_launches, sizeof *k->launches, &k->launches) ||
        !table(data, bytes, &at, h->n_places, sizeof *k->places, &k->places) ||
        !table(data, bytes, &at, h->text_bytes, 1, &k->text) || !h->text_bytes ||
        k->text[h->text_bytes - 1] || h->scratch_row_bytes > LIMIT_ROW_BYTES)
        return status_fail(why, GPTC_E_FORMAT, "KERNELS: its tables do not fit the section");
    for (uint32_t i = 0; i < h->n_images; i++) {
        const ArtCudaImage *g = &k->images[i];
        bool cubin = g->kind == ART_IMAGE_CUBIN;
        if (g->kind > ART_IMAGE_PTX || g->offset > bytes || g->bytes >= bytes - g->offset + cubin ||
            (!cubin && data[g->offset + g->bytes]))
            return status_fail(why, GPTC_E_FORMAT, "KERNELS: image %u lies outside the section", i);
    }
    for (uint32_t i = 0; i < h->n_functions; i++)
        if (k->functions[i].name_offset >= h->text_bytes || !k->functions[i].threads ||
            k->functions[i].threads > 1024 || k->functions[i].launch_bytes > 1 << 20)
            return status_fail(why, GPTC_E_FORMAT, "KERNELS: function %u is out of range", i);
    if (h->draw >= h->n_functions)
        return status_fail(why, GPTC_E_FORMAT, "KERNELS: no function draws tokens");
    for (uint32_t i = 0; i < h->n_launches; i++) {
        gptc_status st = launch_check(m, k, i, why);
        if (st) return st;
    }
    return decode_check(m, k, why);
}
