/* model.c: a model's code and weights on the device. */
#include "runtime/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call, name)                                                                                      \
    do {                                                                                                     \
        gptc_status try_ = cuda_check(&c->driver, call, name, why);                                          \
        if (try_) return try_;                                                                               \
    } while (0)

/* The image for this chip: its own cubin, one of the same family that is older, else PTX to translate. */
static const ArtCudaImage *image_for(const CudaKernels *k, uint32_t arch) {
    const ArtCudaImage *best = NULL;
    for (uint32_t i = 0; i < k->head->n_images; i++) {
        const ArtCudaImage *g = &k->images[i];
        bool cubin = g->kind == ART_IMAGE_CUBIN,
             fits = g->arch <= arch && (!cubin || g->arch / 10 == arch / 10);
        bool better = !best || (cubin && best->kind == ART_IMAGE_PTX) ||
                      (g->kind == best->kind && g->arch > best->arch);
        if (fits && better) best = g;
    }
    return best;
}

static gptc_status no_image(const CudaModel *c, gptc_detail *why) {
    char have[120] = "";
    for (uint32_t i = 0; i < c->kernels.head->n_images; i++) {
        size_t n = strlen(have);
        const ArtCudaImage *g = &c->kernels.images[i];
        snprintf(have + n, sizeof have - n, "%s%s_%u", n ? ", " : "",
                 g->kind == ART_IMAGE_PTX ? "compute" : "sm", g->arch);
    }
    return status_fail(why, GPTC_E_UNSUPPORTED,
                       "%s is sm_%d, the file has kernels for %s; compile it with --target cpu,cuda:sm_%d",
                       c->name, c->arch, have, c->arch);
}

/* More than 48 KB of shared memory must be asked for; what this chip never launches needs none. */
static gptc_status launches_prepare(const CudaModel *c, gptc_detail *why) {
    const CudaKernels *k = &c->kernels;
    for (uint32_t i = 0; i < k->head->n_launches; i++) {
        const ArtCudaLaunch *l = &k->launches[i];
        uint32_t bytes = k->functions[l->function].launch_bytes;
        if (bytes && launch_here(c, l))
            TRY(c->driver.function_set(c->functions[l->function], CU_MOST_SHARED, (int)bytes),
                "cuFuncSetAttribute");
    }
    return GPTC_OK;
}

static gptc_status code_load(CudaModel *c, gptc_detail *why) {
    const CudaKernels *k = &c->kernels;
    const ArtCudaImage *g = image_for(k, (uint32_t)c->arch);
    if (!g) return no_image(c, why);
    TRY(c->driver.module_load(&c->module, k->bytes + g->offset), "cuModuleLoadData");
    c->functions = calloc(k->head->n_functions + 1, sizeof *c->functions);
    if (!c->functions) return status_fail(why, GPTC_E_MEMORY, "no memory for the table of functions");
    c->chip = g->arch == 90 && g->kind == ART_IMAGE_CUBIN ? ART_CHIP_90 : ART_CHIP_OTHER;
    for (uint32_t i = 0; i < k->head->n_functions; i++)
        TRY(c->driver.module_function(&c->functions[i], c->module, k->text + k->functions[i].name_offset),
            "cuModuleGetFunction");
    return launches_prepare(c, why);
}

/* Reading the file (pages of the map) overlaps with the copies of the pieces before. */
static gptc_status weights_load(CudaModel *c, const gptc_model *m, gptc_detail *why) {
    enum { PIECE = 64 << 20 };
    size_t have = 0, all = 0;
    TRY(c->driver.memory_info(&have, &all), "cuMemGetInfo");
    if (m->weight_bytes > have)
        return status_fail(why, GPTC_E_MEMORY, "the weights need %llu MB of the %s, %llu of %llu MB are free",
                           (unsigned long long)(m->weight_bytes >> 20), c->name,
                           (unsigned long long)(have >> 20), (unsigned long long)(all >> 20));
    TRY(c->driver.memory_new(&c->weights, m->weight_bytes + 16), "cuMemAlloc");
    for (uint64_t at = 0; at < m->weight_bytes; at += PIECE) {
        size_t n = m->weight_bytes - at < PIECE ? (size_t)(m->weight_bytes - at) : PIECE;
        TRY(c->driver.upload(c->weights + at, m->weights + at, n, NULL), "cuMemcpyHtoDAsync");
    }
    TRY(c->driver.stream_wait(NULL), "cuStreamSynchronize");
    return GPTC_OK;
}

static gptc_status model_init(CudaModel *c, const gptc_model *m, const char *driver, gptc_detail *why) {
    int count = 0, major = 0, minor = 0, together = 0;
    gptc_status st = cuda_kernels_check(m, &c->kernels, why);
    if (st || (st = cuda_driver_open(&c->driver, driver, why))) return st;
    TRY(c->driver.init(0), "cuInit");
    TRY(c->driver.device_count(&count), "cuDeviceGetCount");
    if (count < 1)
        return status_fail(why, GPTC_E_UNSUPPORTED, "the driver knows no GPU; the CPU runs the same file");
    TRY(c->driver.device_get(&c->device, 0), "cuDeviceGet");
    TRY(c->driver.device_name(c->name, (int)sizeof c->name, c->device), "cuDeviceGetName");
    TRY(c->driver.device_attribute(&major, CU_MAJOR, c->device), "cuDeviceGetAttribute");
    TRY(c->driver.device_attribute(&minor, CU_MINOR, c->device), "cuDeviceGetAttribute");
    TRY(c->driver.device_attribute(&c->sms, CU_SMS, c->device), "cuDeviceGetAttribute");
    TRY(c->driver.device_attribute(&together, CU_COOPERATIVE, c->device), "cuDeviceGetAttribute");
    c->together = together != 0;
    c->arch = major * 10 + minor;
    TRY(c->driver.context_retain(&c->context, c->device), "cuDevicePrimaryCtxRetain");
    TRY(c->driver.context_current(c->context), "cuCtxSetCurrent");
    if ((st = code_load(c, why))) return st;
    return weights_load(c, m, why);
}

static gptc_status cuda_model_new(const gptc_model *m, const char *driver, CudaModel **out,
                                  gptc_detail *why) {
    CudaModel *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c) return status_fail(why, GPTC_E_MEMORY, "%zu bytes for the model", sizeof *c);
    gptc_status st = model_init(c, m, driver, why);
    if (st) {
        cuda_model_free(c);
        return st;
    }
    *out = c;
    return GPTC_OK;
}

gptc_status model_on_device(gptc_model *m, const char *driver, CudaModel **out, gptc_detail *why) {
    gptc_status st = GPTC_OK;
    pthread_mutex_lock(&m->device_lock);
    if (!m->on_device) st = cuda_model_new(m, driver, &m->on_device, why);
    *out = m->on_device;
    pthread_mutex_unlock(&m->device_lock);
    return st;
}

void cuda_model_free(CudaModel *c) {
    if (!c) return;
    if (c->context) {
        c->driver.context_current(c->context);
        if (c->weights) c->driver.memory_free(c->weights);
        if (c->module) c->driver.module_free(c->module);
        c->driver.context_release(c->device);
    }
    free(c->functions);
    cuda_driver_close(&c->driver);
    free(c);
}
