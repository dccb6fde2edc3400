/* section.c: the KERNELS section of an artifact (runtime/artifact.h). */
#include "codegen/cuda/nvrtc.h"

#include <string.h>

static void put(Text *t, const void *data, size_t bytes) { text_addn(t, data, bytes); }

static uint64_t put_aligned(Text *t, const void *data, size_t bytes) {
    static const char zero[16];
    put(t, zero, (16 - t->count % 16) % 16);
    uint64_t at = t->count;
    put(t, data, bytes);
    return at;
}

void cuda_section(const CudaProgram *c, const CudaImage *images, uint32_t n, bool source, Arena *a,
                  const void **data, size_t *bytes) {
    Text t = text_new(a), names = text_new(a);
    ArtCuda head = {.interface = ART_CUDA_INTERFACE,
                    .draw = c->draw,
                    .n_images = n,
                    .n_functions = (uint32_t)c->functions.count,
                    .n_launches = (uint32_t)c->launches.count,
                    .scratch_row_bytes = c->scratch_row_bytes,
                    .decode = c->decode.function,
                    .n_places = (uint32_t)c->decode.places.count,
                    .decode_bytes = c->decode.fixed_bytes,
                    .decode_first = c->decode.first,
                    .decode_words = c->decode.words};
    ArtCudaImage *table = arena_array_of(a, n, ArtCudaImage);
    ArtCudaFunction *functions = arena_array_of(a, c->functions.count, ArtCudaFunction);
    for (size_t i = 0; i < c->functions.count; i++) {
        const CudaFunction *f = &c->functions.data[i];
        functions[i] = (ArtCudaFunction){.name_offset = (uint32_t)names.count,
                                         .threads = f->threads,
                                         .launch_bytes = f->shared_bytes,
                                         .bytes = f->bytes,
                                         .ops = f->ops};
        if (n) nvrtc_usage(images[0].log, f->name, &functions[i]);
        text_addn(&names, f->name, strlen(f->name) + 1);
    }
    if (c->decode.function == ART_NO_INDEX && c->decode.unable) {
        head.decode_bytes = (uint32_t)names.count;
        text_addn(&names, c->decode.unable, strlen(c->decode.unable) + 1);
    }
    head.text_bytes = (uint32_t)names.count;
    put(&t, &head, sizeof head);
    put(&t, table, n * sizeof *table);
    put(&t, functions, c->functions.count * sizeof *functions);
    put(&t, c->launches.data, c->launches.count * sizeof *c->launches.data);
    put(&t, c->decode.places.data, c->decode.places.count * sizeof *c->decode.places.data);
    put(&t, names.data, names.count);
    for (uint32_t i = 0; i < n; i++)
        table[i] = (ArtCudaImage){images[i].arch.arch, images[i].arch.ptx ? ART_IMAGE_PTX : ART_IMAGE_CUBIN,
                                  put_aligned(&t, images[i].data, images[i].bytes + images[i].arch.ptx),
                                  images[i].bytes};
    if (source) {
        head.source_offset = put_aligned(&t, c->source.data, c->source.count);
        head.source_bytes = c->source.count;
    }
    memcpy(t.data, &head, sizeof head);
    memcpy(t.data + sizeof head, table, n * sizeof *table);
    *data = t.data;
    *bytes = t.count;
}
